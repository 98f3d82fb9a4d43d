//! Whether the relay keeps to what receivers take: the rates of connections and messages, at each instant and over all
//! shards.
//!
//! It counts what the relay begins when it begins it, as a receiver without a network in between would.

use super::Oracle;
use crate::rt::sim::Begun;
use crate::shaping::Pace;
use crate::sim::hop::guard::Guard;
use crate::sim::world::World;
use crate::time::Moment;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

/// A receiver whose limits nobody told the relay refuses a message so often at the most, on average.
const REFUSALS: u64 = 12;

impl Oracle<'_> {
    /// A receiver that enforces its limits need not, if the relay knows them: nobody is ever refused for them. If it does not, it is
    /// refused, but not on and on. Where something else was the matter with one of its hosts or the way to it, what was sent in time
    /// may come in a heap.
    pub(super) fn check_guards(&mut self, world: &World) {
        if self.scenario.smart_host || self.scenario.window.0 < 4096 || self.scenario.invents_exchangers() {
            return;
        }
        let mut guards: BTreeMap<*const RefCell<Guard>, (Vec<IpAddr>, &RefCell<Guard>)> = BTreeMap::new();
        for (ip, hop) in world.hops() {
            if let Some(guard) = &hop.guard {
                guards.entry(Rc::as_ptr(guard)).or_insert((Vec::new(), guard)).0.push(ip);
            }
        }
        let mut found = Vec::new();
        for (hosts, guard) in guards.values() {
            let guard = guard.borrow();
            let refused = guard.refused.len() as u64;
            if guard.is_secret {
                let most = REFUSALS * (guard.taken + 5);
                if refused > most && self.ends.is_empty() {
                    found.push(format!("{hosts:?} refused {refused} times, and took {} messages", guard.taken));
                }
                continue;
            }
            let delayed = |ip: &IpAddr| self.troubled.contains(ip) || self.delayed.contains(ip);
            if let (Some((at, message)), false) = (guard.refused.first(), hosts.iter().any(delayed)) {
                let what = if *message { "message" } else { "connection" };
                let limits = (guard.rate.map(|rate| rate.to_string()), guard.connections);
                let (at, of_source) = (at.0 as f64 / 1e9, guard.of_source);
                found.push(format!(
                    "{hosts:?} takes {limits:?}, of a source {of_source}, and had to refuse a {what} at {at:.6} s"
                ));
            }
        }
        found.into_iter().for_each(|text| self.violate("enforced", text));
    }

    /// To be called at the end.
    pub(super) fn check_rates(&mut self, world: &World) {
        let [messages, connections] = self.scenario.rates;
        // A fixed next hop is no site; and where a socket takes but a few octets at a time, one command is many writes.
        if self.scenario.smart_host || self.scenario.window.0 < 1000 || self.scenario.invents_exchangers() {
            return;
        }
        // Over all lives: what a process has begun counts for those behind it.
        let mut paces: BTreeMap<(usize, bool), Pace> = BTreeMap::new();
        for Begun { at, group, message, .. } in world.sim.core.begun().iter().filter(|begun| !begun.behind) {
            if self.scenario.local == Some(*group) {
                continue;
            }
            let Some(rate) = (if *message { messages } else { connections }) else { continue };
            if !paces.entry((*group, *message)).or_default().take(rate, *at) {
                let what = if *message { "messages" } else { "connections" };
                let seconds = |at: &Moment| format!("{:.6}", at.0 as f64 / 1e9);
                let same = |begun: &&Begun| (begun.group, begun.message) == (*group, *message) && begun.at <= *at;
                let last: Vec<String> = world.sim.core.begun().iter().filter(same).map(|b| seconds(&b.at)).collect();
                let last = last[last.len().saturating_sub(6)..].join(", ");
                let text = format!("{what} to site {group}: more than {rate}: the last at {last} s");
                return self.violate("rate", text);
            }
        }
    }
}
