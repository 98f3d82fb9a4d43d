//! PURE. Limits over time that are exact over all shards: in no window of a limit's length are more units taken than it
//! has. By leases, not locks, and kept across restarts.
//!
//! A [`Key`] (an account's messages, its recipients; later a client network, a destination) belongs to one shard, by a
//! stable hash. The [`Owner`] there knows each unit that counts. Every shard has a [`Purse`] with what it has been leased,
//! and takes from it without asking anybody. In: requests, mail of the other side, the moment. Out: mail ([`ToOwner`],
//! [`ToPurse`]), snapshots to be written, answers. It refuses to guess: a unit whose use is not known counts as used.
//!
//! # Why it is exact
//!
//! A lease counts whole from the moment it is made, until it is settled; then each used unit counts until the lease's last
//! use is one window ago (a lease that is never settled: its end instead of its last use). The owner makes a lease only if
//! all that counts, and the lease, are within the limit. Take any window of the limit's length, and of the leases used in
//! it the one made last, at `g`. Each other unit used within the window is of a lease made before `g`, and was used less
//! than a window before a moment after `g`, so at `g` it counted. So all of them together are within the limit.
//!
//! The price: a unit comes back when the last use of its lease is a window ago. A shard that asks seldom gets leases of one,
//! used at once, and its units come back to the nanosecond; a busy one gets more at a time, all used within a second
//! or so. A key with more than [`limits::QUOTA_MARKS`] such moments has them rounded up to
//! (window + 42 s) / [`limits::QUOTA_SLOTS`], about a second of a minute and a quarter of an hour of a day.
//!
//! Nobody is refused while a unit is free anywhere: the owner first recalls what lies unused in other purses. What it says
//! then is exact: when as many units as were asked for will be free, if nobody else takes them.
//!
//! # Clocks and crashes
//!
//! In a run only the monotonic clock counts, which all shards share; the wall clock may be set as anybody likes. Snapshots
//! say how long each unit still counts, and the wall clock of that moment; a restart takes off the time since, which is
//! none if the clock was set back. A step of more than [`limits::QUOTA_CLOCK_STEP`] while a process runs makes it write
//! another; for a smaller one each unit counts so much longer after a restart. (A clock set forward while no process runs
//! looks like time that has passed, and frees what that much time would.) What was
//! leased when a process died counts as used, to the end its lease could have had. No lease is handed out before a
//! snapshot with it is on stable storage.
//!
//! # For a driver
//!
//! 1. Start: read all files of the folder, of whichever shards; `Owner::restore(me, shards, files, now)` on each shard.
//! 2. MAIL: `purse.take(&messages_key, &limits, 1, token, mono)`; RCPT: the same with the recipients' key. `Taken`: go on.
//!    `Waiting`: hold the session's command. `Unavailable`: 451 4.3.0. At MAIL, `prefetch` the recipients' key: one write
//!    for both.
//! 3. What was taken for a command that is then refused: `purse.untake(&key, receipt)`. A session that ends while it waits:
//!    `purse.cancel(&key, token)`.
//! 4. Mail: `ToOwner` to `owner.handle`, `ToPurse` to `purse.handle`. Between two shards mail keeps its order.
//! 5. After events: `purse.poll_answer` (resume those sessions; `Over` is 452 4.7.1), `purse.poll_send`,
//!    `owner.poll_write` (write the bytes durably to the slot's file, at its start, then `owner.handle_written`),
//!    `owner.poll_send`; until none has anything.
//! 6. Some times a second: `purse.sweep`, `owner.sweep`. At the end of a drain: `purse.give_back`, and once that mail has
//!    come, `owner.save` and a last write.

mod owner;
mod purse;
mod snapshot;
mod track;

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;

pub use owner::{Counted, Owner, Write};
pub use purse::{Answer, Purse, Take};
pub use snapshot::Refused;

use crate::limits;
use crate::route;
use crate::time::Moment;
use std::sync::Arc;
use std::time::Duration;

/// What is limited: a kind (`messages`) and a name of that kind (`ann@example.com`). Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key {
    // First, so that maps seldom compare names.
    hash: u64,
    name: Arc<str>,
}

impl Key {
    /// `None` if both together are longer than [`limits::QUOTA_KEY_BYTES`]. `kind` has no space, so that no two pairs are
    /// one key.
    pub fn new(kind: &str, name: &str) -> Option<Key> {
        debug_assert!(!kind.contains(' '), "a kind without spaces");
        Self::named(format!("{kind} {name}").into())
    }

    fn named(name: Arc<str>) -> Option<Key> {
        (name.len() <= limits::QUOTA_KEY_BYTES).then(|| Key { hash: route::hash(name.as_bytes()), name })
    }

    /// Kind and name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The shard that owns it, of so many.
    pub fn owner(&self, shards: u16) -> u16 {
        route::shard_of(self.hash, shards)
    }
}

/// At most `amount` units in any window of this length (half open: what was taken exactly a window ago is out of it).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// Units.
    pub amount: u32,
    /// From a second to [`limits::QUOTA_WINDOW_MAX`].
    pub window: Duration,
}

/// All limits of a key: each holds. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits(Arc<[Limit]>);

impl Limits {
    /// `None` if there is none (do not ask then), if there are more than [`limits::QUOTA_LIMITS`], or if a window is out of
    /// its range.
    pub fn new(list: &[Limit]) -> Option<Limits> {
        let range = Duration::from_secs(1)..=limits::QUOTA_WINDOW_MAX;
        let good = (1..=limits::QUOTA_LIMITS).contains(&list.len()) && list.iter().all(|l| range.contains(&l.window));
        good.then(|| Limits(list.into()))
    }

    fn smallest(&self) -> u32 {
        self.0.iter().map(|limit| limit.amount).min().unwrap_or(0)
    }
}

/// Units that were taken, to be put back if they are not needed after all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "keep it for as long as the units may be put back"]
pub struct Receipt {
    lease: u64,
    units: u32,
    at: Moment,
}

/// Purse → owner of the key.
#[derive(Clone, Debug)]
pub enum ToOwner {
    /// Units are wanted. The purse holds no lease of the key, and asks no more until it has the answer.
    Request {
        /// Of which key.
        key: Key,
        /// As the purse knows them now.
        limits: Limits,
        /// The asking shard.
        holder: u16,
        /// So many, or none.
        need: u32,
        /// So many are welcome.
        want: u32,
    },
    /// A lease is done with.
    Settle {
        /// Of which key.
        key: Key,
        /// Which lease.
        lease: u64,
        /// Units of it that were not used.
        unused: u32,
        /// When the last of the others was.
        last_use: Moment,
    },
    /// Units of a lease that is settled were not used after all.
    Return {
        /// Of which key.
        key: Key,
        /// How many.
        units: u32,
        /// When they were taken.
        taken_at: Moment,
    },
}

impl ToOwner {
    fn key(&self) -> &Key {
        match self {
            ToOwner::Request { key, .. } | ToOwner::Settle { key, .. } | ToOwner::Return { key, .. } => key,
        }
    }
}

/// Owner → purse of a shard.
#[derive(Clone, Debug)]
pub enum ToPurse {
    /// The answer to a request: a lease.
    Granted {
        /// Of which key.
        key: Key,
        /// Its number.
        lease: u64,
        /// Its units: at least what was needed.
        units: u32,
        /// When it was made: no use of it is earlier, whatever clock reading a shard has in hand.
        from: Moment,
        /// Uses are before this.
        until: Moment,
    },
    /// The answer to a request: so many are not free.
    Denied {
        /// Of which key.
        key: Key,
        /// What was needed.
        need: u32,
        /// When they will be, if nobody takes them before; `None`: never, the limit is smaller.
        retry_at: Option<Moment>,
    },
    /// The answer to a request: nothing can be handed out, for nothing can be written, or too much is held already.
    Unavailable {
        /// Of which key.
        key: Key,
    },
    /// Another shard needs units: settle this lease now.
    Recall {
        /// Of which key.
        key: Key,
        /// Which lease.
        lease: u64,
    },
}
