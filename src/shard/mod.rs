//! One shard: what one core owns, and the only messages that cross cores.
//!
//! A [`ShardCore`] has two halves that know each other only by [`mailbox::Mail`], even where both are on one core:
//! `home` accepts mail and keeps the log, [`Deliverer`] delivers the mail of the destinations this shard owns.

mod home;
pub mod event;
pub mod mailbox;
mod session;
pub mod stats;
pub mod table;

use crate::control::ShardSide;
use crate::deliver::Deliverer;
use crate::limits;
use crate::rt::{Event, Io, Shard, Wait};
use crate::time::{Moment, Now};
use home::Home;
use mailbox::{Control, Mail, Post};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What every part of a shard may use while it handles an event.
pub struct Turn<'a> {
    /// Both clocks, as they were when the turn began.
    pub now: Now,
    /// Effects.
    pub io: &'a mut dyn Io,
    /// Mail to other shards, and to this one.
    pub post: &'a mut Post,
    /// Events, counters and histograms for the control plane.
    pub report: &'a mut ShardSide,
}

/// Microseconds from `earlier` to `later`.
pub(crate) fn micros(later: Moment, earlier: Moment) -> u64 {
    later.0.saturating_sub(earlier.0) / 1000
}

/// One core's work. Lives on its shard.
pub struct ShardCore {
    home: Home,
    deliverer: Deliverer,
    post: Post,
    report: ShardSide,
    backlog: Backlog,
    /// Deadlines of connections are looked at this often.
    next_sweep: Moment,
    draining: Option<Drain>,
    /// Shards of the process that still have something to do for others.
    busy_shards: Arc<AtomicUsize>,
    drain_timeout: std::time::Duration,
}

struct Drain {
    deadline: Moment,
    /// This shard has told the others that it needs nothing more of them.
    quiet: bool,
}

/// What recovery found, to be handed to its owners bit by bit.
pub type Backlog = Box<dyn Iterator<Item = crate::spool::Slip>>;
