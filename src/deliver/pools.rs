//! The pools of a shard, by destination. A pool is looked up some twenty times for each message: a place in a list costs a
//! tenth of what a hash table does.

use super::{Map, Pool};
use crate::queue::DestinationId;

/// Pools, each at the place of its destination. Lives on its shard.
#[derive(Default)]
pub(super) struct Pools {
    places: Vec<Option<Box<(DestinationId, Pool)>>>,
    /// Those whose place one of a forgotten destination still has.
    others: Map<DestinationId, Pool>,
    /// Places taken.
    taken: usize,
}

impl Pools {
    #[inline]
    pub(super) fn get(&self, id: &DestinationId) -> Option<&Pool> {
        match self.places.get(id.place()) {
            Some(Some(found)) if found.0 == *id => Some(&found.1),
            _ if self.others.is_empty() => None,
            _ => self.others.get(id),
        }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: &DestinationId) -> Option<&mut Pool> {
        match self.places.get_mut(id.place()) {
            Some(Some(found)) if found.0 == *id => Some(&mut found.1),
            _ if self.others.is_empty() => None,
            _ => self.others.get_mut(id),
        }
    }

    /// The pool of a destination: a new one if it has none.
    pub(super) fn make(&mut self, id: DestinationId) -> &mut Pool {
        if self.places.len() <= id.place() {
            self.places.resize_with(id.place() + 1, || None);
        }
        let is_elsewhere = !self.others.is_empty() && self.others.contains_key(&id);
        let place = &mut self.places[id.place()];
        if is_elsewhere || place.as_ref().is_some_and(|found| found.0 != id) {
            return self.others.entry(id).or_default();
        }
        let taken = &mut self.taken;
        &mut place
            .get_or_insert_with(|| {
                *taken += 1;
                Box::new((id, Pool::default()))
            })
            .1
    }

    pub(super) fn remove(&mut self, id: &DestinationId) -> Option<Pool> {
        let place = self.places.get_mut(id.place())?;
        match place.take_if(|found| found.0 == *id) {
            Some(found) => {
                self.taken -= 1;
                Some(found.1)
            }
            None => self.others.remove(id),
        }
    }

    pub(super) fn contains_key(&self, id: &DestinationId) -> bool {
        self.get(id).is_some()
    }
}

#[cfg(any(test, feature = "sim"))]
impl Pools {
    pub(super) fn len(&self) -> usize {
        self.taken + self.others.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&DestinationId, &Pool)> {
        let placed = self.places.iter().flatten().map(|found| (&found.0, &found.1));
        placed.chain(&self.others)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Pool> {
        self.iter().map(|(_, pool)| pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageId;
    use crate::queue::{Job, Queue, RecipientSet, RetryPolicy};
    use crate::time::{Moment, Wall};

    /// Many destinations, one of them forgotten before its pool is: its place belongs to another one then.
    #[test]
    fn a_place_taken_twice_is_two_pools() {
        let mut queue: Queue<()> = Queue::new(RetryPolicy::default(), 1);
        let job = |id| Job::new(MessageId(id), 0, RecipientSet::One(0), Wall(0), 1, None);
        let (mut pools, mut seen) = (Pools::default(), Vec::<DestinationId>::new());
        for id in 0..crate::limits::QUEUE_IDLE_DESTINATIONS as u64 + 10 {
            let destination = queue.enqueue(&format!("d{id}.example"), job(id), Moment(id));
            pools.make(destination).leaving = id as usize + 1;
            seen.push(destination);
            let key = queue.take(destination).expect("it is ready");
            queue.finished(key);
            while queue.poll_touched().is_some() {}
        }
        let places: std::collections::BTreeSet<_> = seen.iter().map(|id| id.place()).collect();
        assert!(places.len() < seen.len(), "no place came twice");
        assert_eq!(pools.len(), seen.len());
        assert_eq!(pools.iter().count(), seen.len());
        for (at, id) in seen.iter().enumerate() {
            assert_eq!(pools.get(id).map(|pool| pool.leaving), Some(at + 1));
            assert_eq!(pools.make(*id).leaving, at + 1);
            assert_eq!(pools.get_mut(id).map(|pool| pool.leaving), Some(at + 1));
        }
        for (at, id) in seen.iter().enumerate() {
            assert_eq!(pools.remove(id).map(|pool| pool.leaving), Some(at + 1));
            assert!(!pools.contains_key(id) && pools.remove(id).is_none());
        }
        assert_eq!(pools.len(), 0);
    }
}
