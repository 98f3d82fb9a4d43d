//! PURE. Guessed passwords: who has failed lately, and how long the next answer to AUTH waits for it.
//!
//! Inputs: failures and questions about a key (an account's name or a client's network, hashed), time. Outputs: waits. One
//! lives on every shard, for the keys that hash to it, so that guesses spread over shards count together. It refuses to know
//! whether an account exists, to lock anybody out (the rightful owner waits some seconds, no more), and to remember more than
//! [`limits::GUARD_KEYS`].

use crate::limits;
use crate::time::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What crosses shards about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardMail {
    /// A session is about to have a password checked: how long does it wait?
    Ask {
        /// Of the account, or of the network.
        key: u64,
        /// Who asks.
        asker: u16,
        /// By which the asker knows its question.
        token: u64,
    },
    /// The answer to `Ask`.
    Wait {
        /// Of which question.
        token: u64,
        /// How long.
        wait: Duration,
    },
    /// A guess has failed.
    Failed {
        /// Of the account, or of the network.
        key: u64,
    },
}

/// See the module. Lives on its shard.
#[derive(Debug, Default)]
pub(super) struct Guard {
    keys: BTreeMap<u64, Failures>,
    /// By the time of the last failure.
    order: BTreeSet<(Moment, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Moment,
}

impl Guard {
    /// A guess for this key has failed.
    pub(super) fn failed(&mut self, key: u64, now: Moment) {
        let before = self.keys.get(&key).copied();
        if let Some(before) = before {
            self.order.remove(&(before.last, key));
        } else if self.keys.len() >= limits::GUARD_KEYS
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.keys.remove(&oldest);
        }
        let forgotten = before.is_none_or(|b| now.since(b.last) >= limits::GUARD_MEMORY);
        let count = if forgotten { 1 } else { before.map_or(1, |b| b.count.saturating_add(1)) };
        self.keys.insert(key, Failures { count, last: now });
        self.order.insert((now, key));
    }

    /// How long the answer to the next guess waits: nothing for the first failures, then twice as long for each, up to
    /// [`limits::GUARD_WAIT_MAX`].
    pub(super) fn wait(&self, key: u64, now: Moment) -> Duration {
        let Some(failures) = self.keys.get(&key) else { return Duration::ZERO };
        let counted = failures.count.saturating_sub(limits::GUARD_FREE_FAILURES);
        if counted == 0 || now.since(failures.last) >= limits::GUARD_MEMORY {
            return Duration::ZERO;
        }
        limits::GUARD_WAIT_FIRST.saturating_mul(1 << (counted - 1).min(16)).min(limits::GUARD_WAIT_MAX)
    }

    /// Keys remembered.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_forgotten() {
        let (mut guard, start) = (Guard::default(), Moment(1));
        for _ in 0..limits::GUARD_FREE_FAILURES {
            guard.failed(7, start);
            assert_eq!(guard.wait(7, start), Duration::ZERO);
        }
        let mut last = Duration::ZERO;
        for _ in 0..40 {
            guard.failed(7, start);
            let wait = guard.wait(7, start);
            assert!(wait > last || wait == limits::GUARD_WAIT_MAX);
            last = wait;
        }
        assert_eq!(last, limits::GUARD_WAIT_MAX);
        assert_eq!(guard.wait(8, start), Duration::ZERO, "others do not wait");
        assert_eq!(guard.wait(7, start + limits::GUARD_MEMORY), Duration::ZERO);
        guard.failed(7, start + limits::GUARD_MEMORY);
        assert_eq!(guard.wait(7, start + limits::GUARD_MEMORY), Duration::ZERO, "it begins again");
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes() {
        let mut guard = Guard::default();
        for key in 0..limits::GUARD_KEYS as u64 + 10 {
            (0..=limits::GUARD_FREE_FAILURES).for_each(|_| guard.failed(key, Moment(key)));
        }
        assert_eq!((guard.len(), guard.order.len()), (limits::GUARD_KEYS, limits::GUARD_KEYS));
        let now = Moment(limits::GUARD_KEYS as u64 + 10);
        assert_eq!(guard.wait(0, now), Duration::ZERO);
        assert!(guard.wait(now.0 - 1, now) > Duration::ZERO);
    }
}
