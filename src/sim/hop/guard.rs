//! What a receiver counts over all of its hosts, of everybody and of each address that mail comes from, and refuses above its
//! limits: 421 at the greeting for one connection too many, 450 at MAIL for one message too many.
//!
//! Inputs: connections and messages, as they arrive. Outputs: whether they are taken; what was refused, and when. It refuses to
//! blame the relay for the network: a connection whose other end is closed stands no more, though the end has not come yet, and
//! two messages may come nearer to each other than they were sent.

use crate::rt::sim::LinkId;
use crate::shaping::{Limits, Rate};
use crate::time::Moment;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// By so much a message may come earlier behind the one before than it was begun behind it.
const NEARER: Duration = Duration::from_millis(5);

/// A [`Guard`] that the hosts of a site share.
pub type Shared = Rc<RefCell<Guard>>;

/// See the module.
#[derive(Debug, Default)]
pub struct Guard {
    /// Messages in a time.
    pub rate: Option<Rate>,
    /// Connections at a time.
    pub connections: Option<usize>,
    /// The relay knows of more than that: it has to find out.
    pub is_secret: bool,
    /// Connections and messages in a time of each address.
    pub of_source: Limits,
    /// Connections that stand, and where they come from.
    links: BTreeMap<LinkId, IpAddr>,
    /// How many stood from when on.
    pub stood: Vec<(Moment, usize)>,
    /// When the next message would come if all came evenly.
    due: Moment,
    /// The same of each address.
    source_due: BTreeMap<IpAddr, Moment>,
    /// Messages that were taken.
    pub taken: u64,
    /// When it refused, and whether a message; else a connection.
    pub refused: Vec<(Moment, bool)>,
}

impl Guard {
    /// One that counts these.
    pub fn new(rate: Option<Rate>, connections: Option<usize>) -> Guard {
        Guard { rate, connections, ..Guard::default() }
    }

    /// A connection comes; `stands` says of each whether the relay's end is open. Whether it is taken.
    pub fn connect(&mut self, (link, from): (LinkId, IpAddr), now: Moment, stands: impl Fn(LinkId) -> bool) -> bool {
        let open = self.links.keys().filter(|link| stands(**link)).count();
        let of_it = self.links.iter().filter(|(link, other)| **other == from && stands(**link)).count();
        let full = self.connections.is_some_and(|most| open >= most)
            || self.of_source.connections.is_some_and(|most| of_it >= most as usize);
        if full {
            self.refused.push((now, false));
        } else {
            self.links.insert(link, from);
            self.stood.push((now, self.links.len()));
        }
        !full
    }

    /// It is over.
    pub fn gone(&mut self, link: LinkId, now: Moment) {
        if self.links.remove(&link).is_some() {
            self.stood.push((now, self.links.len()));
        }
    }

    /// How many stood on average between two moments.
    pub fn mean_open(&self, from: Moment, until: Moment) -> f64 {
        let ends = self.stood.iter().skip(1).map(|(at, _)| *at).chain([until.max(from)]);
        let parts = self.stood.iter().zip(ends).map(|((at, open), end)| {
            let (at, end) = ((*at).clamp(from, until.max(from)), end.clamp(from, until.max(from)));
            *open as f64 * end.since(at).as_secs_f64()
        });
        parts.sum::<f64>() / until.since(from).as_secs_f64().max(1e-9)
    }

    /// A message begins; whether it is taken (GCRA). One that is not does not count.
    pub fn begin(&mut self, from: IpAddr, now: Moment) -> bool {
        let of_source = self.source_due.entry(from).or_default();
        let mut counted = [(self.rate, &mut self.due), (self.of_source.message_rate, of_source)];
        let is_free = |(rate, due): &(Option<Rate>, &mut Moment)| {
            rate.is_none_or(|rate| **due - rate.interval() * (rate.burst() - 1) <= now + NEARER)
        };
        if !counted.iter().all(is_free) {
            self.refused.push((now, true));
            return false;
        }
        for (rate, due) in &mut counted {
            if let Some(rate) = rate {
                **due = (**due).max(now) + rate.interval();
            }
        }
        self.taken += u64::from(self.rate.is_some());
        true
    }
}
