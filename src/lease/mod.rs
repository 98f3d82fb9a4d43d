//! PURE. Shares of a limit: what a receiver allows in all, leased to the shards that have work for it.
//!
//! A *ledger* stands for one scope that is limited: a site, a source address at a site, a tenant, a tenant at a site, a
//! campaign. It lives on the shard that a hash of its name chooses, the scope's owner. Each shard with mail for it is a *lane*
//! and keeps a [`Share`]: connections and octets that it may have, permits to begin messages and connections. In: what lanes
//! want and give back, the moment. Out: mail ([`ToLedger`], [`ToLane`]). It refuses to know what a connection is, and to decide
//! which message goes.
//!
//! # Why no limit is passed
//!
//! *Connections* are counted: a unit is the ledger's or one lane's. A lane counts it from when it begins to connect until
//! the connection is closed, and gives it back behind that. So all lanes together never have more than the limit. *Octets* in
//! flight are counted likewise, in units of [`crate::limits::LEASE_OCTETS`], rounded up.
//!
//! *Rates* are permits, in batches that end [`crate::limits::LEASE_TERM`] after they were made. The ledger runs the one
//! [`Pace`](crate::shaping::Pace) of the scope, and takes each permit for used at the last moment it could be; when the lane
//! says what it used and when, that is put right. So whatever lanes do, what was used is within the rate at each instant,
//! as if one had sent it all; and a rate of one at a time is used to the full, as its lane tells at once.
//!
//! # Who gets how much
//!
//! Connections: each lane what it wants, if that is too much by the weights of the tenants that have mail there (`crowd`), as they
//! were in the last turns. Where one has more than that and another waits, they are recalled: a lane closes what idles at once and
//! the rest behind its message. What does not divide goes round, each turn to those that had least over their weights, for
//! [`crate::limits::LEASE_TURN`] where there are fewer units than lanes, else twice that. Where messages have a rate each lane gets the
//! same, and a turn lasts until one was begun: there permits go by the weights. A lane with mail of a tenant that no lane had mail
//! of is next, of every other permit at the most. Where it has no connection, and none is free, its letter goes to a lane that has some
//! (`host`): that is sooner than one that ends what it carries, and is closed and opened. Octets are as connections, but that a message needs all of its own at once: the
//! lane whose turn it is gets what its next message needs before any gets more, and the turn lasts until it has that.
//!
//! # What replies bring about
//!
//! A rule may have a site rest for a time, a tenant at it, or its limits lowered ([`Measure`]). The shard that read the reply keeps to
//! a rest at once, and tells the ledger; that gives nothing out that is against it, and tells all shards; who comes
//! later is told before it is given anything. So a rest holds everywhere as soon as word has gone from shard to shard twice,
//! and a lower limit is kept to as exactly as any. Both outlast the process (`kept`).
//!
//! The mail between two shards keeps its order, and is never lost: both end together. The same would do between machines,
//! with terms on connections as well.

mod crowd;
mod kept;
mod ledger;
mod measures;
mod pacing;
mod share;
#[cfg(test)]
mod tests;

pub use crowd::{Crowd, Spread};
pub use kept::{Keeper, Kept, Resting, Restored, Write};
pub use ledger::Ledgers;
pub use measures::{Change, InForce, Measure, Rest, Taken};
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

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counted {
    /// Connections; of a tenant or campaign, transactions.
    Connection,
    /// [`LEASE_OCTETS`](crate::limits::LEASE_OCTETS) octets of messages in flight.
    Octets,
}

const COUNTED: [Counted; 2] = [Counted::Connection, Counted::Octets];

impl Limits {
    /// The units of what is counted; `None`: as many as there may be.
    fn counted(&self, what: Counted) -> Option<u32> {
        match what {
            Counted::Connection => self.connections,
            Counted::Octets => self.bytes_in_flight.map(|octets| {
                let units = octets / crate::limits::LEASE_OCTETS;
                u32::try_from(units).unwrap_or(u32::MAX).max(1)
            }),
        }
    }
}

/// How many units a message of so many octets takes where so many are allowed in all: one that is larger than that takes them
/// all, and goes alone.
pub fn octets(size: u64, limits: &Limits) -> u32 {
    let units = u32::try_from(size.div_ceil(crate::limits::LEASE_OCTETS)).unwrap_or(u32::MAX);
    units.max(1).min(limits.counted(Counted::Octets).unwrap_or(u32::MAX))
}

const KINDS: [Paced; 2] = [Paced::Message, Paced::Start];

/// The name of a scope. Cheap to clone.
pub type Scope = Arc<str>;

/// Before a site's name, in that of the scope of its octets in flight. Its connections and rates have its own name, in which there
/// is no capital letter.
pub const OCTETS_AT: &str = "Site ";

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
    /// It is the first that this lane says: what is in force it does not know.
    pub is_new: bool,
    /// What replies have brought about.
    pub measures: Vec<Measure>,
    /// What the lane takes for the usual limits of the scope; `None`: it knows nothing of it any more.
    pub limits: Option<Limits>,
    /// Units it would have in all, of what is counted.
    pub wanted: [u32; 2],
    /// What it would begin next takes so many of them.
    pub least: [u32; 2],
    /// Units it gives back.
    pub returned: [u32; 2],
    /// Permits it could use at once, of each kind.
    pub permits_wanted: [u32; 2],
    /// Batches it is done with.
    pub used: [Option<Used>; 2],
    /// It asks when a message could begin.
    pub inquires: bool,
    /// A letter of somebody who has had nothing waits there, and no connection that will take it.
    pub stranded: bool,
    /// Who has mail there, if that has changed.
    pub crowd: Option<Crowd>,
}

impl ToLane {
    /// Whether there is something in it that is to be given back.
    pub fn is_lease(&self) -> bool {
        self.granted != [0; 2] || self.permits != [None; 2]
    }

    /// The answer of a lane that has no use for it and no share any more.
    pub fn give_back(&self, lane: u16) -> ToLedger {
        let unused = Used { count: 0, last: Moment(0) };
        ToLedger {
            scope: self.scope.clone(),
            lane,
            is_new: false,
            measures: Vec::new(),
            limits: None,
            wanted: [0; 2],
            least: [0; 2],
            returned: self.granted,
            permits_wanted: [0; 2],
            used: self.permits.map(|batch| batch.map(|_| unused)),
            inquires: false,
            stranded: false,
            crowd: Some(Crowd::default()),
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
    /// Units it gets, of what is counted.
    pub granted: [u32; 2],
    /// It is to have no more than so many.
    pub recalled_to: [Option<u32>; 2],
    /// Whether all lanes together have more than the limit, which is lower than it was, if that has changed: the lane begins
    /// nothing, and what ends goes back.
    pub overdrawn: [Option<bool>; 2],
    /// Whether a lane, this one or another, waits for connections that are not to be had, if that has changed.
    pub awaited: Option<bool>,
    /// Permits it gets, of each kind.
    pub permits: [Option<Batch>; 2],
    /// No message can begin before, by the rate and what others have.
    pub not_before: Option<Moment>,
    /// What replies have brought about is other than before.
    pub in_force: Option<Arc<InForce>>,
    /// In how many lanes its tenants have mail, if that has changed.
    pub spread: Option<Spread>,
    /// The letter that is stranded there is to go to this lane: it has connections.
    pub host: Option<u16>,
}

/// Permits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch {
    /// How many.
    pub count: u32,
    /// They are void from then on.
    pub until: Moment,
}
