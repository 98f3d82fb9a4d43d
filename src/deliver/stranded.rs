//! A letter of somebody who has had nothing, at a lane of a site that has no connection for it while all that the site
//! allows are other lanes': it goes to one of those. To have a connection come here would be to wait for all that it carries, and to
//! close and open one for a letter. Lives on the shard where the letter waits.
//!
//! The lane says that a letter is stranded, the site's ledger which lane has connections (`lease`); there it is handed over as
//! by its home, and goes before what has not begun. Only what was never tried and has no terms of its own goes.

use super::sources::without_pool;
use super::{Deliverer, Plans, age};
use crate::lease::Scope;
use crate::queue::DestinationId;
use crate::rt::ConnId;
use crate::shard::Turn;
use crate::shard::mailbox::{FlowNames, Handoff, Mail};
use crate::time::Moment;

impl Deliverer {
    /// Whether the next letter of a destination could go from another shard, and does not from here before long.
    pub(super) fn is_stranded(&mut self, destination: DestinationId, now: Moment) -> bool {
        self.shards > 1
            && !self.draining
            && !self.has_place_for_new(destination)
            && self.brings_new(destination)
            && self.queue.next_of_new(destination).is_some_and(|job| job.terms.is_none())
            && self.may_fetch_ahead(destination, now)
    }

    fn brings_new(&mut self, destination: DestinationId) -> bool {
        let ahead = self.pools.get(&destination).map_or(0, |pool| pool.loaded.len() + pool.fetching);
        self.queue.brings_new(destination, ahead)
    }

    /// Whether a connection of a destination takes a letter of somebody who has had nothing, now or soon.
    pub(super) fn has_place_for_new(&self, destination: DestinationId) -> bool {
        let takes = |conn: &ConnId| self.connections.get(*conn).is_some_and(|c| !c.is_spent() || c.takes_last());
        self.pools.get(&destination).is_some_and(|pool| pool.connections.iter().any(takes))
    }

    /// Whether such a letter waits, and all connections there are have had their last message.
    pub(super) fn lacks_place_for_new(&mut self, destination: DestinationId, waiting: usize) -> bool {
        waiting > 0 && !self.has_place_for_new(destination) && self.brings_new(destination)
    }

    /// A lane of the site has connections: a stranded letter goes there.
    pub(super) fn send_to_host(&mut self, scope: &Scope, host: u16, turn: &mut Turn<'_>) {
        let members = self.lanes.get(scope).map(|lane| lane.members.iter().map(|member| member.destination).collect());
        let members: Vec<DestinationId> = members.unwrap_or_default();
        for destination in members {
            if host == self.me || !self.is_stranded(destination, turn.now.mono) {
                continue;
            }
            let Some(key) = self.queue.take(destination) else { continue };
            let is_plain = self.queue.job(key).is_some_and(|job| job.attempts == 0 && job.terms.is_none());
            if !is_plain || !self.stays(key, destination, turn) {
                self.queue.put_back(key);
                continue;
            }
            if !self.fits(key, destination, turn.now.mono) {
                continue;
            }
            let Some(name) = self.queue.domain_of(key).and_then(|domain| self.queue.domain_name(domain)) else {
                continue;
            };
            let (_, pool) = self.pool_in(name);
            let plain = without_pool(name);
            let domain = plain.strip_suffix(Plans::NOT_REQUIRED).unwrap_or(plain).into();
            let flow = self.queue.job(key).map(|job| job.flow()).unwrap_or_default();
            let [tenant, campaign] = self.queue.flow_names(flow).map(|name| name.map(|name| Box::from(&**name)));
            let flow = (tenant.is_some() || campaign.is_some() || pool > 0)
                .then(|| Box::new(FlowNames { tenant, campaign, pool }));
            let job = self.queue.finished(key);
            let handoff = Handoff {
                id: job.id,
                home: job.home,
                age: age::steady(turn.now).wall.since(job.accepted),
                handed: turn.now.mono,
                size: job.size,
                domain,
                recipients: job.recipients,
                record: job.body,
                terms: None,
                flow,
            };
            return turn.post.send(usize::from(host), Mail::Handoff(handoff));
        }
    }
}
