//! Whether the relay keeps to what receivers take: the rates of connections and messages, at each instant and over all
//! shards.
//!
//! It counts what the relay begins when it begins it, as a receiver without a network in between would.

use super::Oracle;
use crate::rt::sim::Begun;
use crate::shaping::Pace;
use crate::sim::world::World;
use std::collections::BTreeMap;

impl Oracle<'_> {
    /// To be called at the end.
    pub(super) fn check_rates(&mut self, world: &World) {
        let [messages, connections] = self.scenario.rates;
        if self.scenario.smart_host {
            // A fixed next hop is no site.
            return;
        }
        // What a process that is over had begun its successor does not know.
        let mut lives = self.ends.iter().peekable();
        let mut paces: BTreeMap<(usize, bool), Pace> = BTreeMap::new();
        for Begun { at, group, message } in world.sim.core.begun() {
            while lives.next_if(|end| **end <= *at).is_some() {
                paces.clear();
            }
            if self.scenario.local == Some(*group) {
                continue;
            }
            let Some(rate) = (if *message { messages } else { connections }) else { continue };
            if !paces.entry((*group, *message)).or_default().take(rate, *at) {
                let what = if *message { "messages" } else { "connections" };
                let text = format!("{what} to site {group}: more than {rate} at {:.6} s", at.0 as f64 / 1e9);
                return self.violate("rate", text);
            }
        }
    }
}
