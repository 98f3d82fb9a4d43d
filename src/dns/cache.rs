//! PURE. A bounded map with expiry, for one shard. Eviction is second chance (CLOCK): an entry in use survives one
//! passing of the hand, so a flood of new names does not drive out those that carry the mail.

use crate::time::Moment;
use foldhash::quality::FixedState;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// A map of at most `bound` entries. The hash is seeded; nothing depends on the map's order.
pub(super) struct Cache<K, V> {
    index: HashMap<K, usize, FixedState>,
    slots: Vec<Slot<K, V>>,
    bound: usize,
    hand: usize,
}

struct Slot<K, V> {
    key: K,
    value: V,
    expires: Moment,
    used: bool,
}

impl<K: Hash + Eq + Clone, V: Clone> Cache<K, V> {
    pub(super) fn new(bound: usize, seed: u64) -> Self {
        Cache {
            index: HashMap::with_hasher(FixedState::with_seed(seed)),
            slots: Vec::new(),
            bound: bound.max(1),
            hand: 0,
        }
    }

    /// The value, unless it is missing or expired.
    pub(super) fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, now: Moment) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let slot = &mut self.slots[*self.index.get(key)?];
        if slot.expires <= now && !planted!(CacheNeverExpires) {
            return None;
        }
        slot.used = true;
        Some(&slot.value)
    }

    /// Stores or replaces; at the bound another entry goes. Amortised constant time.
    pub(super) fn insert(&mut self, key: K, value: V, expires: Moment, now: Moment) {
        if let Some(&at) = self.index.get(&key) {
            let slot = &mut self.slots[at];
            (slot.value, slot.expires) = (value, expires);
            return;
        }
        // A new entry starts unused: what is asked for once only is the first to go.
        let slot = Slot { key: key.clone(), value, expires, used: false };
        if self.slots.len() < self.bound {
            self.index.insert(key, self.slots.len());
            self.slots.push(slot);
            return;
        }
        // Ends within two rounds: the first one clears every `used`.
        let victim = loop {
            let at = self.hand;
            self.hand = (at + 1) % self.slots.len();
            let slot = &mut self.slots[at];
            if slot.expires <= now || !slot.used {
                break at;
            }
            slot.used = false;
        };
        self.index.remove(&self.slots[victim].key);
        self.index.insert(key, victim);
        self.slots[victim] = slot;
    }

    #[cfg(any(test, feature = "sim"))]
    pub(super) fn bound(&self) -> usize {
        self.bound
    }

    /// Entries held, the expired ones not yet replaced too.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_keeps_what_is_used() {
        let mut cache: Cache<u32, u32> = Cache::new(4, 1);
        let (now, later) = (Moment(0), Moment(100));
        for key in 0..4 {
            cache.insert(key, key * 10, later, now);
        }
        for key in 4..1000 {
            assert_eq!(cache.get(&2, now), Some(&20), "used between any two insertions");
            cache.insert(key, 0, later, now);
            assert_eq!(cache.len(), 4);
            assert_eq!(cache.index.len(), 4);
        }
        assert_eq!(cache.get(&0, now), None);
    }

    #[test]
    fn expires_and_is_replaced() {
        let mut cache: Cache<u32, u32> = Cache::new(2, 1);
        cache.insert(1, 1, Moment(10), Moment(0));
        assert_eq!(cache.get(&1, Moment(9)), Some(&1));
        assert_eq!(cache.get(&1, Moment(10)), None);
        cache.insert(1, 2, Moment(20), Moment(10));
        assert_eq!(cache.get(&1, Moment(10)), Some(&2));
        assert_eq!((cache.len(), cache.index.len()), (1, 1));
    }

    #[test]
    fn an_expired_entry_goes_before_a_live_one() {
        let mut cache: Cache<u32, u32> = Cache::new(2, 1);
        cache.insert(1, 1, Moment(100), Moment(0));
        cache.insert(2, 2, Moment(10), Moment(0));
        let _ = (cache.get(&1, Moment(1)).is_some(), cache.get(&2, Moment(1)).is_some());
        cache.insert(3, 3, Moment(100), Moment(20));
        assert_eq!(cache.get(&1, Moment(20)), Some(&1));
        assert_eq!(cache.get(&2, Moment(20)), None);
    }
}
