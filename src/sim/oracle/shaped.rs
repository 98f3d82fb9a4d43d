//! Whether the relay keeps to what receivers take: the rates of connections and messages, at each instant and over all
//! shards.
//!
//! It counts what the relay begins when it begins it, as a receiver without a network in between would.

use super::Oracle;
use crate::rt::sim::Begun;
use crate::shaping::Pace;
use crate::sim::world::World;
use crate::time::Moment;
use std::collections::BTreeMap;

impl Oracle<'_> {
    /// To be called at the end.
    pub(super) fn check_rates(&mut self, world: &World) {
        let [messages, connections] = self.scenario.rates;
        // A fixed next hop is no site; and where a socket takes but a few octets at a time, one command is many writes.
        if self.scenario.smart_host || self.scenario.window.0 < 1000 || self.scenario.invents_exchangers() {
            return;
        }
        // What a process that is over had begun its successor does not know.
        let mut life = 0;
        let mut paces: BTreeMap<(usize, bool), Pace> = BTreeMap::new();
        for Begun { at, group, message, .. } in world.sim.core.begun() {
            let lives = self.ends.iter().filter(|end| **end < *at).count();
            if std::mem::replace(&mut life, lives) != lives {
                paces.clear();
            }
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
