//! The connections of one kind on one shard, by slot, with their deadlines beside them.

use crate::rt::ConnId;
use crate::time::Moment;

/// Connections of one kind. Deadlines stand in an array of their own: looking through those of 10,000 connections costs
/// some 5 µs, so timers need no queue whose entries a busy connection would have to move at every command.
#[derive(Debug)]
pub struct ConnTable<T> {
    entries: Vec<Option<(u32, T)>>,
    deadlines: Vec<Moment>,
    len: usize,
}

impl<T> Default for ConnTable<T> {
    fn default() -> Self {
        ConnTable { entries: Vec::new(), deadlines: Vec::new(), len: 0 }
    }
}

impl<T> ConnTable<T> {
    /// How many connections stand in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a connection, without a deadline.
    pub fn insert(&mut self, conn: ConnId, entry: T) {
        let slot = conn.slot as usize;
        if slot >= self.entries.len() {
            self.entries.resize_with(slot + 1, || None);
            self.deadlines.resize(slot + 1, Moment::NEVER);
        }
        self.len += usize::from(self.entries[slot].is_none());
        self.entries[slot] = Some((conn.generation, entry));
        self.deadlines[slot] = Moment::NEVER;
    }

    /// The entry of `conn`, unless it is gone.
    pub fn get(&self, conn: ConnId) -> Option<&T> {
        match self.entries.get(conn.slot as usize) {
            Some(Some((generation, entry))) if *generation == conn.generation || planted!(GenerationIgnored) => {
                Some(entry)
            }
            _ => None,
        }
    }

    /// The entry of `conn`, unless it is gone.
    pub fn get_mut(&mut self, conn: ConnId) -> Option<&mut T> {
        match self.entries.get_mut(conn.slot as usize) {
            Some(Some((generation, entry))) if *generation == conn.generation || planted!(GenerationIgnored) => {
                Some(entry)
            }
            _ => None,
        }
    }

    /// Takes the entry out.
    pub fn remove(&mut self, conn: ConnId) -> Option<T> {
        self.get(conn)?;
        self.len -= 1;
        self.deadlines[conn.slot as usize] = Moment::NEVER;
        self.entries[conn.slot as usize].take().map(|(_, entry)| entry)
    }

    /// Sets when `conn` is due; `None`: never.
    pub fn set_deadline(&mut self, conn: ConnId, deadline: Option<Moment>) {
        if self.get(conn).is_some() {
            self.deadlines[conn.slot as usize] = deadline.unwrap_or(Moment::NEVER);
        }
    }

    /// The connections whose deadline has come, into `due`.
    pub fn due(&self, now: Moment, due: &mut Vec<ConnId>) {
        due.clear();
        for (slot, _) in self.deadlines.iter().enumerate().filter(|(_, deadline)| **deadline <= now) {
            if let Some((generation, _)) = &self.entries[slot] {
                due.push(ConnId { slot: u32::try_from(slot).expect("slots are 32 bits"), generation: *generation });
            }
        }
    }

    /// All connections.
    pub fn ids(&self) -> impl Iterator<Item = ConnId> {
        self.entries.iter().enumerate().filter_map(|(slot, entry)| {
            let generation = entry.as_ref()?.0;
            Some(ConnId { slot: u32::try_from(slot).expect("slots are 32 bits"), generation })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_id_finds_nothing_and_deadlines_go_with_their_connection() {
        let mut table = ConnTable::default();
        let old = ConnId { slot: 3, generation: 1 };
        let new = ConnId { slot: 3, generation: 2 };
        table.insert(old, 'a');
        table.set_deadline(old, Some(Moment(10)));
        let mut due = Vec::new();
        table.due(Moment(9), &mut due);
        assert!(due.is_empty());
        table.due(Moment(10), &mut due);
        assert_eq!(due, [old]);
        assert_eq!(table.remove(old), Some('a'));
        table.due(Moment(10), &mut due);
        assert!(due.is_empty());
        table.insert(new, 'b');
        assert_eq!((table.get(old), table.get(new), table.len()), (None, Some(&'b'), 1));
        table.set_deadline(old, Some(Moment(1)));
        table.due(Moment(5), &mut due);
        assert!(due.is_empty(), "a stale id sets no deadline");
    }
}
