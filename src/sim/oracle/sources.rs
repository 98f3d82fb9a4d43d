//! Whether mail comes from where it may: from the sources of its pool, and not from one that rests for its site.
//!
//! Where it came from the next hops saw; when it was begun, the network. Its pool stands in its header.

use super::{Oracle, flows};
use crate::rt::sim::Begun;
use crate::shaping::{Limits, Pace};
use crate::sim::hop::Received;
use crate::sim::sources::pool_in;
use crate::sim::world::World;
use crate::time::Moment;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// A rest crosses shards, and what was being begun is begun.
const TOLD: Duration = Duration::from_secs(1);

/// A source was to rest for a site.
#[derive(Clone, Debug)]
pub struct Rest {
    /// The source.
    pub source: IpAddr,
    /// One of the site's hosts.
    pub host: IpAddr,
    /// From when on.
    pub from: Moment,
    /// Until when.
    pub until: Moment,
}

impl Oracle<'_> {
    /// Messages and connections from one source to one site keep to the rates of sources.
    fn check_source_rates(&self, world: &World, limits: Limits, found: &mut Vec<String>) {
        if self.scenario.window.0 < 1000 || self.scenario.invents_exchangers() {
            return;
        }
        // Over all lives: what a process has begun counts for those behind it.
        let mut paces: BTreeMap<(usize, IpAddr, bool), Pace> = BTreeMap::new();
        for Begun { at, group, message, from, .. } in world.sim.core.begun() {
            let Some(from) = from.filter(|_| self.scenario.local != Some(*group)) else { continue };
            let Some(rate) = (if *message { limits.message_rate } else { limits.connection_rate }) else { continue };
            if !paces.entry((*group, from, *message)).or_default().take(rate, *at) {
                let what = if *message { "messages" } else { "connections" };
                found.push(format!("{what} from {from} to site {group}: more than {rate} at {at:?}"));
                return;
            }
        }
    }

    /// To be called at the end.
    pub(super) fn check_sources(&mut self, world: &World) {
        let Some(plan) = &self.scenario.sources else { return };
        let mut found = Vec::new();
        for (ip, hop) in world.hops() {
            // What goes to this host's own mailboxes, or to a smart host, is of no pool, or of the default one.
            if self.scenario.mailboxes() == Some(ip) {
                continue;
            }
            for Received { from, data, at, .. } in &hop.received {
                let allowed = plan.addresses(pool_in(data));
                if !allowed.contains(from) || from.is_ipv4() != ip.is_ipv4() {
                    found.push(format!("{ip} got mail from {from} at {at:?}, which is to come from {allowed:?}"));
                }
            }
        }
        if self.scenario.window.0 >= 4096 && !self.scenario.invents_exchangers() {
            for Rest { source, host, from, until } in &self.rests {
                let core = &world.sim.core;
                // A core that stands still hears late.
                let late =
                    self.stalls.iter().filter(|(begins, _)| *begins <= *from + TOLD).map(|(_, ends)| *ends).max();
                let forgotten = self.forgotten(world, *from, *until);
                let from = late.unwrap_or(Moment(0)).max(*from) + TOLD;
                let is_during = |begun: &&Begun| {
                    begun.message
                        && begun.from == Some(*source)
                        && core.group_of(*host) == Some(begun.group)
                        && (from..*until).contains(&begun.at)
                        && forgotten.is_none_or(|end| begun.at < end)
                };
                if let Some(begun) = core.begun().iter().find(is_during) {
                    found
                        .push(format!("{source} rests for {host} from {from:?} and began a message at {:?}", begun.at));
                }
            }
        }
        self.check_source_rates(world, plan.limits, &mut found);
        if !self.scenario.invents_exchangers() {
            let octets = Limits { bytes_in_flight: plan.limits.bytes_in_flight, ..Limits::default() };
            let mut of: BTreeMap<(usize, IpAddr), Vec<flows::Span>> = BTreeMap::new();
            for (received, group, span) in flows::spans(world) {
                if let Some(group) = group.filter(|group| self.scenario.local != Some(*group)) {
                    of.entry((group, received.from)).or_default().push(span);
                }
            }
            for ((group, from), spans) in of {
                found.extend(flows::too_much(&octets, &spans).map(|what| format!("{from} to site {group}: {what}")));
            }
        }
        found.into_iter().for_each(|text| self.violate("source", text));
    }
}
