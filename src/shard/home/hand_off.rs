//! From a message that is ours to the owners of its destinations: who gets which of its recipients, in which parts.
//!
//! Inputs: what is known of the message. Outputs: `Handoff`. Lives on the home shard. It refuses to put recipients of different
//! reverse-paths into one part: a transaction has one.

use super::Home;
use crate::config::sources::Whose;
use crate::limits;
use crate::message::params::Params;
use crate::message::{MessageId, Status};
use crate::queue::{LastReply, RecipientSet};
use crate::rt::buffer::Slice;
use crate::shard::Turn;
use crate::shard::mailbox::{self, FlowNames, Handoff, Mail};
use crate::spool::RecipientView;
use crate::time::Wall;
use std::collections::BTreeMap;
use std::time::Duration;

/// What an owner must know of a message beside its recipients.
pub(in crate::shard) struct Message<'a> {
    pub(in crate::shard) id: MessageId,
    pub(in crate::shard) accepted: Wall,
    /// Since it was accepted, or released if it was held.
    pub(in crate::shard) age: Duration,
    /// Octets.
    pub(in crate::shard) size: u32,
    pub(in crate::shard) record: Option<&'a Slice>,
    pub(in crate::shard) params: Params<'a>,
    /// Its reverse-path.
    pub(in crate::shard) sender: &'a [u8],
}

impl Home {
    /// The number of the pool of sources that a message goes from.
    fn pool_of(&self, facts: &Message<'_>) -> u16 {
        let sources = &self.config.sources;
        if !sources.are_chosen() {
            return 0;
        }
        let (named, campaign, tenant) = (facts.params.pool(), facts.params.campaign(), facts.params.account());
        sources.pool_of(Whose { named, campaign, tenant, sender: facts.sender })
    }

    /// Gives the recipients of a message that have no outcome yet to the owners of their destinations. Lists among them are where
    /// they should be: their sender hears of it.
    pub(in crate::shard) fn hand_off<'r, R: Iterator<Item = RecipientView<'r>>>(
        &mut self,
        facts: &Message<'_>,
        recipients: impl Fn() -> R,
        turn: &mut Turn<'_>,
    ) {
        let reached: Vec<u16> = facts.params.reached().collect();
        let is_reached = |r: &RecipientView<'_>| reached.binary_search(&r.index).is_ok();
        if !reached.is_empty() {
            let arrived: Vec<u16> = recipients().filter(is_reached).map(|r| r.index).collect();
            let reply = LastReply::new(turn.now.wall, "", 250, Some(Status::new(2, 1, 5)), b"the list has it");
            self.notifier.lists_reached(facts.id, &arrived, &reply);
        }
        let recipients = || recipients().filter(|r| !is_reached(r));
        let (me, shards, routes) = (self.me, self.shards, &self.routes);
        let connections = self.config.delivery.connections_per_destination;
        let terms = mailbox::terms(facts.params, facts.accepted, turn.now);
        let account = facts.params.account();
        let name = |octets: &[u8]| (!octets.is_empty()).then(|| Box::<str>::from(String::from_utf8_lossy(octets)));
        let pool = self.pool_of(facts);
        let flow = FlowNames { tenant: name(account), campaign: name(facts.params.campaign()), pool };
        let flow = (flow.tenant.is_some() || flow.campaign.is_some() || pool > 0).then(|| Box::new(flow));
        // After a restart some recipients may have their outcome already: `split` counts from 0 over those given.
        let gaps = recipients().enumerate().any(|(at, r)| at != usize::from(r.index));
        let indices: Vec<u16> = if gaps { recipients().map(|r| r.index).collect() } else { Vec::new() };
        let lists: BTreeMap<u16, &[u8]> = facts.params.reverse_paths().collect();
        routes.split(&mut self.splitter, recipients().map(|r| r.domain), |destination, group| {
            let is_lane = self.lanes.keeps(destination, turn.now.mono);
            let owner = if is_lane { me } else { routes.owner(destination, me, shards, connections) };
            let mut hand = |group: &[u16]| {
                for part in group.chunks(limits::TRANSACTION_RECIPIENTS) {
                    let handoff = Handoff {
                        id: facts.id,
                        home: me,
                        age: facts.age,
                        handed: turn.now.mono,
                        size: facts.size,
                        domain: destination.into(),
                        recipients: RecipientSet::from_slice(part),
                        record: facts.record.cloned(),
                        terms: terms.clone(),
                        flow: flow.clone(),
                    };
                    turn.post.send(usize::from(owner), Mail::Handoff(handoff));
                }
            };
            if !gaps && lists.is_empty() {
                return hand(group);
            }
            let group = group.iter().map(|i| if gaps { indices[usize::from(*i)] } else { *i });
            // A transaction has one reverse-path.
            let mut by_path: BTreeMap<Option<&[u8]>, Vec<u16>> = BTreeMap::new();
            group.for_each(|index| by_path.entry(lists.get(&index).copied()).or_default().push(index));
            by_path.values().for_each(|group| hand(group));
        });
    }
}
