//! PURE. A bounded map with expiry, for one shard. Eviction is second chance (CLOCK): an entry in use survives one
//! passing of the hand, so a flood of new names does not drive out those that carry the mail.

use crate::limits;
use crate::time::Moment;
use foldhash::quality::FixedState;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Whether what was learned then and expires then is in the last part of its time: to be asked for again, if it is wanted.
pub(super) fn nearly_over(since: Moment, expires: Moment, now: Moment) -> bool {
    now + expires.since(since) / limits::DNS_PREFETCH_PART >= expires
}

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
    /// When it was learned.
    since: Moment,
    expires: Moment,
    /// It is used beyond that, until then.
    stale_until: Moment,
    /// Since it was learned, or asked for again.
    uses: u32,
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
        if slot.expires.max(slot.stale_until) <= now && !planted!(CacheNeverExpires) {
            return None;
        }
        slot.used = true;
        slot.uses = slot.uses.saturating_add(1);
        Some(&slot.value)
    }

    /// Stores or replaces; at the bound another entry goes. Amortised constant time.
    pub(super) fn insert(&mut self, key: K, value: V, expires: Moment, now: Moment) {
        if let Some(&at) = self.index.get(&key) {
            let slot = &mut self.slots[at];
            (slot.value, slot.since, slot.expires, slot.stale_until, slot.uses) = (value, now, expires, Moment(0), 0);
            return;
        }
        // A new entry starts unused: what is asked for once only is the first to go.
        let slot = Slot { key: key.clone(), value, since: now, expires, stale_until: Moment(0), uses: 0, used: false };
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

    /// Whether the entry is used often and its time is nearly over. Says so once for so many uses.
    pub(super) fn is_fading<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, now: Moment) -> bool
    where
        K: Borrow<Q>,
    {
        let Some(&at) = self.index.get(key) else { return false };
        let slot = &mut self.slots[at];
        let fades = slot.uses >= limits::DNS_PREFETCH_USES && nearly_over(slot.since, slot.expires, now);
        if fades {
            slot.uses = 0;
        }
        fades
    }

    /// The value although it has expired, unless that was longer than `most` ago.
    pub(super) fn stale<Q: Hash + Eq + ?Sized>(&self, key: &Q, most: Duration, now: Moment) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let slot = &self.slots[*self.index.get(key)?];
        (now < slot.expires + most).then_some(&slot.value)
    }

    /// Has a stale entry used on, as `value`, until then; it stays as old as it is.
    pub(super) fn keep_stale<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, value: V, until: Moment)
    where
        K: Borrow<Q>,
    {
        if let Some(&at) = self.index.get(key) {
            (self.slots[at].value, self.slots[at].stale_until) = (value, until);
        }
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
