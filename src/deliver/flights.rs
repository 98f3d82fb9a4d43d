//! PURE. With which hosts flights are worth it: MAIL, RCPT and BDAT of several messages in one go (`smtp::client`).
//!
//! And how deep those of one connection are ([`Depth`]).
//!
//! Inputs: what became of messages in flights, time. Outputs: how many a flight with a host may have. Lives on each shard, for
//! the hosts that it connects to. It refuses to remember hosts with which all is well, and more than
//! [`limits::FLIGHT_HOSTS`] of the others.

use crate::limits;
use crate::smtp::client::{Outcome, RefusedAt};
use crate::time::Moment;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Flights {
    hosts: HashMap<Rc<str>, Host, foldhash::quality::FixedState>,
    /// In the order in which they came in.
    order: VecDeque<Rc<str>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Host {
    waste: u32,
    until: Option<Moment>,
}

impl Flights {
    /// How many messages a flight with `host` may have, of `most`; 1: none flies.
    pub(super) fn most(&self, most: u32, host: &str, now: Moment) -> usize {
        // Nearly always there is none.
        let host = if self.hosts.is_empty() { None } else { self.hosts.get(host) };
        if host.is_some_and(|h| h.until.is_some_and(|until| now < until)) { 1 } else { most as usize }
    }

    /// What became of a message in a flight; whether it flew in vain.
    pub(super) fn landed(&mut self, host: &Rc<str>, outcome: &Outcome<'_>, now: Moment) -> bool {
        match outcome {
            Outcome::Accepted(_) => {
                self.carried(host);
                return false;
            }
            // Lost behind 421 is not read; lost without a word may be because of the flight.
            Outcome::Refused { stage: RefusedAt::Mail | RefusedAt::Recipients, .. }
            | Outcome::Lost { after_final_dot: false } => self.wasted(host, now),
            Outcome::Refused { stage: RefusedAt::Flight, .. } | Outcome::Lost { .. } => self.failed(host, now),
            Outcome::Refused { .. } => return false,
        }
        true
    }

    /// The host takes no flights, or the connection was lost with one under way.
    fn failed(&mut self, host: &Rc<str>, now: Moment) {
        *self.host(host) = Host { waste: 0, until: Some(now + limits::FLIGHT_PAUSE) };
    }

    /// The octets of a message were sent that nobody there was to get.
    fn wasted(&mut self, host: &Rc<str>, now: Moment) {
        let entry = self.host(host);
        entry.waste += limits::FLIGHT_WASTE;
        if entry.waste > limits::FLIGHT_WASTE_MOST {
            self.failed(host, now);
        }
    }

    /// A message of a flight was taken.
    fn carried(&mut self, host: &str) {
        if !self.hosts.is_empty()
            && let Some(entry) = self.hosts.get_mut(host)
        {
            entry.waste = entry.waste.saturating_sub(1);
        }
    }

    fn host(&mut self, host: &Rc<str>) -> &mut Host {
        if !self.hosts.contains_key(host) {
            if self.hosts.len() >= limits::FLIGHT_HOSTS
                && let Some(first) = self.order.pop_front()
            {
                self.hosts.remove(&first);
            }
            self.order.push_back(Rc::clone(host));
        }
        self.hosts.entry(Rc::clone(host)).or_default()
    }

    /// Hosts remembered.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn len(&self) -> usize {
        self.hosts.len().max(self.order.len())
    }
}

/// How many transactions a connection has under way at the most: as many as make it faster. It begins with few. While messages are
/// answered about as soon as the quickest one more may fly, and when they have waited behind others at the peer one fewer: at
/// first with each message, and from the first that waited on with as many as a flight has, as its messages hear of a change late.
#[derive(Clone, Copy, Debug)]
pub(super) struct Depth {
    most: usize,
    /// None has waited yet.
    rises: bool,
    /// Messages accepted since `most` changed.
    landed: usize,
    /// What the quickest message took from its first command to its reply: the way, and the peer's work for one.
    quickest: Duration,
}

impl Depth {
    pub(super) const NEW: Depth =
        Depth { most: limits::FLIGHT_BEGINS, rises: true, landed: 0, quickest: Duration::MAX };

    pub(super) fn most(self) -> usize {
        self.most
    }

    /// A message of a flight was accepted, so long after its first command.
    pub(super) fn landed(&mut self, took: Duration) {
        self.quickest = self.quickest.min(took);
        let waited = took - self.quickest > limits::FLIGHT_WAIT;
        self.landed += 1;
        if self.rises || self.landed >= self.most {
            let most = if waited { self.most - 1 } else { self.most + 1 };
            self.most = most.clamp(limits::FLIGHT_BEGINS, limits::FLIGHT_TRANSACTIONS);
            self.landed = 0;
        }
        self.rises &= !waited;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(1);

    #[test]
    fn a_flight_that_failed_is_the_last_for_a_while() {
        let (mut flights, host): (_, Rc<str>) = (Flights::default(), "mx.example".into());
        assert_eq!(flights.most(16, &host, NOW), 16);
        flights.failed(&host, NOW);
        assert_eq!((flights.most(16, &host, NOW), flights.most(16, "other.example", NOW)), (1, 16));
        let later = NOW + limits::FLIGHT_PAUSE;
        assert_eq!(flights.most(16, &host, Moment(later.0 - 1)), 1);
        assert_eq!(flights.most(16, &host, later), 16);
    }

    #[test]
    fn waste_is_borne_in_one_of_nine_messages_and_not_in_every_other() {
        let (mut flights, host): (_, Rc<str>) = (Flights::default(), "mx.example".into());
        for _ in 0..1000 {
            flights.wasted(&host, NOW);
            (0..8).for_each(|_| flights.carried(&host));
        }
        assert_eq!(flights.most(16, &host, NOW), 16);
        let wasted = (1..).find(|_| {
            flights.wasted(&host, NOW);
            flights.carried(&host);
            flights.most(16, &host, NOW) == 1
        });
        assert_eq!(wasted, Some(10));
    }

    /// Lands as many messages as are under way at a time, whenever one lands another begins; the depth at the end.
    fn depth_after(messages: usize, way: Duration, work: Duration) -> usize {
        let (mut depth, mut free) = (Depth::NEW, Duration::ZERO);
        let (mut now, mut begun) = (Duration::ZERO, VecDeque::from([Duration::ZERO]));
        for _ in 0..messages {
            while begun.len() < depth.most() {
                begun.push_back(now);
            }
            let began = begun.pop_front().expect("one was begun at least");
            free = free.max(began + way / 2) + work;
            now = now.max(free + way / 2);
            depth.landed(now - began);
        }
        depth.most()
    }

    #[test]
    fn a_flight_is_deep_where_the_way_is_long_and_not_where_the_peer_is_slow() {
        let ms = Duration::from_millis;
        assert_eq!(depth_after(20, ms(300), ms(1)), 16, "fifteen more, each for one that landed");
        assert_eq!(depth_after(20, ms(1), ms(1)), 16, "what waits for the peer does not wait for long");
        assert!(depth_after(200, ms(1), ms(200)) <= 3, "one is served, one is there for when that is done");
        assert!((3..=8).contains(&depth_after(300, ms(100), ms(40))), "the way is as long as two or three take");
    }

    #[test]
    fn no_more_hosts_are_remembered_than_the_bound() {
        let mut flights = Flights::default();
        for n in 0..limits::FLIGHT_HOSTS + 10 {
            flights.failed(&format!("mx{n}.example").into(), NOW + Duration::from_secs(n as u64));
        }
        assert_eq!(flights.len(), limits::FLIGHT_HOSTS);
        assert_eq!((flights.most(16, "mx9.example", NOW), flights.most(16, "mx10.example", NOW)), (16, 1));
    }
}
