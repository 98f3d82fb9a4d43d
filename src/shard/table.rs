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
    use crate::properties::cases;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Step {
        /// In a slot, which may be taken or not.
        Open(u32),
        Close(u32),
        /// For a connection of this slot, this many generations ago.
        Deadline(u32, u32, Option<u64>),
        Sweep(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let slot = || 0..12u32;
        prop_oneof![
            3 => slot().prop_map(Step::Open),
            2 => slot().prop_map(Step::Close),
            5 => (slot(), 0..3u32, prop::option::of(0..100u64)).prop_map(|(slot, ago, at)| Step::Deadline(slot, ago, at)),
            3 => (0..110u64).prop_map(Step::Sweep),
        ]
    }

    proptest! {
        #![proptest_config(cases(120))]

        #[test]
        fn property_a_sweep_finds_each_deadline_that_has_come_and_no_other(
            steps in prop::collection::vec(step(), 1..100),
        ) {
            let mut table = ConnTable::default();
            let mut generations = [0u32; 12];
            // By slot: the entry and its deadline.
            let mut model: BTreeMap<u32, (u32, Option<Moment>)> = BTreeMap::new();
            let conn = |slot: u32, generation: u32| ConnId { slot, generation };
            for step in steps {
                match step {
                    Step::Open(slot) => {
                        // A slot is given anew only when it is free.
                        if model.contains_key(&slot) {
                            continue;
                        }
                        let generation = &mut generations[slot as usize];
                        *generation += 1;
                        table.insert(conn(slot, *generation), *generation);
                        model.insert(slot, (*generation, None));
                    }
                    Step::Close(slot) => {
                        let removed = table.remove(conn(slot, generations[slot as usize]));
                        prop_assert_eq!(removed, model.remove(&slot).map(|(generation, _)| generation));
                    }
                    Step::Deadline(slot, ago, at) => {
                        let generation = generations[slot as usize].wrapping_sub(ago);
                        table.set_deadline(conn(slot, generation), at.map(Moment));
                        if let Some((_, deadline)) = model.get_mut(&slot).filter(|(now, _)| *now == generation) {
                            *deadline = at.map(Moment);
                        }
                    }
                    Step::Sweep(now) => {
                        let mut due = vec![conn(99, 99)];
                        table.due(Moment(now), &mut due);
                        let come = |(_, (_, at)): &(&u32, &(u32, Option<Moment>))| at.is_some_and(|at| at <= Moment(now));
                        let expected = model.iter().filter(come).map(|(slot, (generation, _))| conn(*slot, *generation));
                        prop_assert_eq!(due, expected.collect::<Vec<_>>());
                    }
                }
                prop_assert_eq!((table.len(), table.is_empty()), (model.len(), model.is_empty()));
                let ids: Vec<_> = model.iter().map(|(slot, (generation, _))| conn(*slot, *generation)).collect();
                prop_assert_eq!(table.ids().collect::<Vec<_>>(), ids);
                for (slot, generation) in (0..).zip(generations) {
                    for generation in generation.saturating_sub(2)..generation + 2 {
                        let entry = model.get(&slot).filter(|(now, _)| *now == generation).map(|(entry, _)| entry);
                        prop_assert_eq!(table.get(conn(slot, generation)), entry);
                        prop_assert_eq!(table.get_mut(conn(slot, generation)).map(|e| &*e), entry);
                    }
                }
            }
        }
    }

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
