//! Whether the relay keeps to what campaigns and tenants may send, over all shards and all hosts: the rate of messages,
//! transactions at a time, octets in flight.
//!
//! Rates are judged by what the relay begins, when it begins it. What is under way at a time is judged by the next hops: from
//! when they heard of a message until they had all of it. That is later than it was begun and earlier than its answer was
//! known to the relay, so what is too much there was too much.

use super::{Oracle, is_known};
use crate::rt::sim::Begun;
use crate::shaping::{Limits, Pace};
use crate::sim::guise::Login;
use crate::sim::hop::Received;
use crate::sim::scenario::campaign_of;
use crate::sim::world::World;
use crate::time::Moment;
use std::collections::{BTreeMap, BTreeSet};

impl Oracle<'_> {
    /// To be called at the end.
    pub(super) fn check_flows(&mut self, world: &World) {
        let [campaigns, tenants, sites, at_provider] = self.scenario.flows;
        self.check_campaign_rate(world, &campaigns);
        let mut tenant_of: BTreeMap<u32, Login> = BTreeMap::new();
        for sent in world.clients().flat_map(|client| &client.sent) {
            if let Some(login) = sent.door.account {
                tenant_of.insert(sent.letter.mark, login);
            }
        }
        let mut of: BTreeMap<(&'static str, String), Vec<Span>> = BTreeMap::new();
        // Its hosts are counted together, as the last.
        let provider = self.scenario.provider.then(|| self.scenario.destinations.len() + 2);
        for (received, group, span) in spans(world) {
            if let Some(campaign) = campaign_of(&received.sender) {
                of.entry(("campaign", campaign)).or_default().push(span);
            }
            if let Some(login) = received.mark.and_then(|mark| tenant_of.get(&mark)) {
                of.entry(("tenant", format!("{login:?}"))).or_default().push(span);
                if group.is_some() && group == provider {
                    of.entry(("tenant at the provider", format!("{login:?}"))).or_default().push(span);
                }
            }
            if let Some(group) = group.filter(|group| self.scenario.local != Some(*group)) {
                of.entry(("site", group.to_string())).or_default().push(span);
            }
        }
        let is_no_site = self.scenario.smart_host || self.scenario.invents_exchangers();
        for ((what, whose), spans) in of {
            let limits = match what {
                "campaign" => campaigns,
                "tenant" => tenants,
                _ if is_no_site => Limits::default(),
                "tenant at the provider" => at_provider,
                _ => sites,
            };
            if let Some(text) = too_much(&limits, &spans) {
                return self.violate("flow", format!("{what} {whose}: {text}"));
            }
        }
    }

    fn check_campaign_rate(&mut self, world: &World, limits: &Limits) {
        let Some(rate) = limits.message_rate.filter(|_| self.scenario.window.0 >= 1000) else { return };
        let mut paces: BTreeMap<u8, Pace> = BTreeMap::new();
        for Begun { at, sender, .. } in world.sim.core.begun().iter().filter(|begun| begun.message && !begun.behind) {
            let Some(sender) = sender else { continue };
            if !paces.entry(*sender).or_default().take(rate, *at) {
                let text = format!("campaign s{}: more than {rate} at {at:?}", char::from(*sender));
                return self.violate("flow", text);
            }
        }
    }
}

/// From when until when a message was on its way, and its octets.
pub(super) type Span = (Moment, Moment, u64);

/// What next hops took in, with the group of the hop: each transaction once. Of what the relay did not hear of nothing is said: it
/// may have been over for it long before.
pub(super) fn spans(world: &World) -> impl Iterator<Item = (&Received, Option<usize>, Span)> {
    let mut known = BTreeSet::new();
    let all = world.hops().flat_map(|(ip, hop)| hop.received.iter().map(move |received| (ip, received)));
    // To several mailboxes of one transaction by LMTP: once.
    let told = all.filter(move |(ip, received)| {
        is_known(world, received)
            && received.told_at >= received.at
            && known.insert((*ip, received.link, received.mail_at))
    });
    told.map(|(ip, received)| {
        // Its dots and the end of the data are the next hop's.
        let octets = (received.data.len() as u64).saturating_sub(16);
        (received, world.sim.core.group_of(ip), (received.mail_at, received.at, octets))
    })
}

/// Whether at any moment there was more than one of these, or more octets, than may be. One message may be larger than
/// that, by itself.
pub(super) fn too_much(limits: &Limits, spans: &[Span]) -> Option<String> {
    let mut changes: Vec<(Moment, bool, u64)> = Vec::new();
    // What was begun and over in one moment was beside nothing.
    for &(from, until, octets) in spans.iter().filter(|(from, until, _)| from < until) {
        changes.extend([(from, true, octets), (until, false, octets)]);
    }
    // What ends in a moment makes room for what begins in it.
    changes.sort_unstable();
    let (mut count, mut sum) = (0, 0);
    for (at, begins, octets) in changes {
        (count, sum) = if begins { (count + 1, sum + octets) } else { (count - 1, sum - octets) };
        if limits.connections.is_some_and(|most| count > most) {
            return Some(format!("{count} transactions at {at:?}"));
        }
        if count > 1 && limits.bytes_in_flight.is_some_and(|most| sum > most) {
            return Some(format!("{sum} octets in {count} messages at {at:?}"));
        }
    }
    None
}
