//! PURE. Shares of a limit: what a receiver allows in all, leased to the shards that have work for it.
//!
//! A *ledger* stands for one scope that is limited: a site. It lives on the shard that a hash of its name chooses, the
//! scope's owner. Each shard with mail for it is a *lane* and keeps a [`Share`]: connections that it may have, permits to
//! begin messages and connections. In: what lanes want and give back, the moment. Out: mail ([`ToLedger`], [`ToLane`]). It
//! refuses to know what a connection is, and to decide which message goes.
//!
//! # Why no limit is passed
//!
//! *Connections* are counted: a unit is the ledger's or one lane's. A lane counts it from when it begins to connect until
//! the connection is closed, and gives it back behind that. So all lanes together never have more than the limit.
//!
//! *Rates* are permits, in batches that end [`crate::limits::LEASE_TERM`] after they were made. The ledger runs the one
//! [`Pace`](crate::shaping::Pace) of the scope, and takes each permit for used at the last moment it could be; when the lane
//! says what it used and when, that is put right. So whatever lanes do, what was used is within the rate at each instant,
//! as if one had sent it all; and a rate of one at a time is used to the full, as its lane tells at once.
//!
//! # Who gets how much
//!
//! Connections: each lane what it wants, if that is too much the same for each. Where one has more than that and another
//! waits, they are recalled: a lane closes what idles at once and the rest behind its message. Where there are fewer units
//! than lanes, they go round, each for [`crate::limits::LEASE_TURN`], and where messages have a rate until one was begun. Permits go
//! round too.
//!
//! The mail between two shards keeps its order, and is never lost: both end together. The same would do between machines,
//! with terms on connections as well.

mod ledger;
mod share;
#[cfg(test)]
mod tests;

pub use ledger::Ledgers;
pub use share::{Closing, Share};

use crate::route;
use crate::shaping::Limits;
use crate::time::Moment;
use std::sync::Arc;

/// What has a rate of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paced {
    /// To begin a message.
    Message,
    /// To begin a connection.
    Start,
}

const KINDS: [Paced; 2] = [Paced::Message, Paced::Start];

/// The name of a scope. Cheap to clone.
pub type Scope = Arc<str>;

/// The shard that has the ledger of a scope, of so many.
pub fn owner(scope: &str, shards: u16) -> u16 {
    route::shard_of(route::hash(scope.as_bytes()), shards)
}

/// Lane → ledger: how it stands. What is given back by it is the ledger's again.
#[derive(Clone, Debug)]
pub struct ToLedger {
    /// Of which scope.
    pub scope: Scope,
    /// Who.
    pub lane: u16,
    /// What the lane takes for the limits of the scope; `None`: it knows nothing of it any more.
    pub limits: Option<Limits>,
    /// Connections it would have in all.
    pub wanted: u32,
    /// Connections it gives back.
    pub returned: u32,
    /// Permits it could use at once, of each kind.
    pub permits_wanted: [u32; 2],
    /// Batches it is done with.
    pub used: [Option<Used>; 2],
    /// It asks when a message could begin.
    pub inquires: bool,
}

impl ToLane {
    /// The answer of a lane that has no use for it and no share any more.
    pub fn give_back(&self, lane: u16) -> ToLedger {
        let unused = Used { count: 0, last: Moment(0) };
        ToLedger {
            scope: self.scope.clone(),
            lane,
            limits: None,
            wanted: 0,
            returned: self.connections,
            permits_wanted: [0; 2],
            used: self.permits.map(|batch| batch.map(|_| unused)),
            inquires: false,
        }
    }
}

/// What became of a batch of permits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Used {
    /// How many were used.
    pub count: u32,
    /// When the last of them was.
    pub last: Moment,
}

/// Ledger → lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToLane {
    /// Of which scope.
    pub scope: Scope,
    /// Connections it gets.
    pub connections: u32,
    /// It is to have no more than so many.
    pub recalled_to: Option<u32>,
    /// Permits it gets, of each kind.
    pub permits: [Option<Batch>; 2],
    /// No message can begin before, by the rate and what others have.
    pub not_before: Option<Moment>,
}

/// Permits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch {
    /// How many.
    pub count: u32,
    /// They are void from then on.
    pub until: Moment,
}
