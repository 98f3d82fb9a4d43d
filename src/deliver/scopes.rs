//! What a message needs room in beside its site's connections and rates: octets in flight at the site, and the limits of its
//! tenant, of its tenant at the site, of its campaign. Each is a scope with a ledger, as a site is; here are this shard's
//! shares, and who waits for them. Lives on its shard.
//!
//! # The protocol
//!
//! A message begins only when each of its scopes has room, and takes from all or from none. A flow without room is set aside in
//! the queue, keeps nothing else of its destination waiting, and costs nothing: it stands in the line of one scope, the first
//! that lacked, until that has room and lets it go, by its turn: each scope has one line for all destinations.
//!
//! *Rates* are permits. Flows that have a connection are let go as there are permits. Those that have none are let go ahead of
//! that, as many as the rate lets begin in [`limits::LEASE_LEAD`]: then they have one in time, and stand in front.
//!
//! *What is counted* (transactions, octets) is had first and a connection behind that. Whoever is let go has room for one message
//! kept for it, which counts as if the message had begun, until it begins or [`limits::SCOPE_KEPT`] is over. No connection is
//! opened for mail without room, and one at a time for each destination: so no connection is opened, and none taken from others, but for a
//! message that can go.
//!
//! # Why it goes on
//!
//! Within a scope its ledger has one turn for all that is counted: the first shard gets all that its next message needs, and
//! keeps the turn until it has. Over scopes there is an order, the same on all shards: a turn by the rates; then room in what is
//! counted, of the site, the tenant, the tenant at the site, the campaign; permits last. A flow that waits for something keeps the room
//! that it was let go for in what comes before and nothing behind. So of all that keep something the one that is farthest waits for
//! messages in flight alone, or for a moment; and nobody keeps anything for longer than [`limits::SCOPE_KEPT`], so mail of a scope that has
//! room never waits for long for mail of one that has none. Who was let go in vain for want of another scope's room
//! stands in front when it comes back; who did not use what it was given in time, at the end.
//!
//! What was leased and is neither kept nor waited for is given back at once (`lease`).

mod held;
#[cfg(test)]
mod tests;

use super::Deliverer;
use super::connection::Transaction;
use crate::lease::{self, Measure, Scope, ToLane};
use crate::limits;
use crate::queue::{CampaignId, DestinationId, FlowId, JobKey, TenantId};
use crate::rt::ConnId;
use crate::shaping::{Limits, Lowering};
use crate::shard::Turn;
use crate::shard::event::{Notice, NoticeKind};
use crate::shard::mailbox::{FlowNames, Mail};
use crate::time::Moment;
pub(super) use held::{Bound, Counts, Scopes};
use held::{Held, Limited, Place, SCOPES, ScopeId, Whose};
use std::cmp::Reverse;
use std::rc::Rc;

impl Deliverer {
    /// Whose a message is that is handed over, for the queue.
    pub(super) fn flow_of(&mut self, names: Option<Box<FlowNames>>) -> FlowId {
        let Some(names) = names else { return FlowId::default() };
        let shaping = &self.tables.shaping;
        let tenant = names.tenant.map_or(TenantId::NONE, |name| {
            let weight = shaping.tenant_weight(&name);
            let tenant = self.queue.tenant(&name, weight);
            if shaping.has_tenant_schedules() {
                self.queue.set_tenant_schedule(tenant, shaping.tenant_schedule(&name));
            }
            tenant
        });
        let campaign = names.campaign.filter(|name| shaping.campaign_limits(name) != Limits::default());
        FlowId { tenant, campaign: campaign.map_or(CampaignId::NONE, |name| self.queue.campaign(&name)) }
    }

    /// What a flow keeps to at a destination, but for the site's connections and rates. `None`: nothing.
    fn limited(&mut self, (destination, flow): Place, now: Moment) -> Option<Limited> {
        if !self.scopes.active {
            return None;
        }
        let names = self.queue.flow_names(flow);
        let known = self.pools.get(&destination).and_then(|pool| pool.flows.get(&flow));
        let same = |a: &Option<Rc<str>>, b: Option<&Rc<str>>| match (a, b) {
            (Some(a), Some(b)) => Rc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        if let Some(bound) = known
            && bound.epoch == self.scopes.epoch
            && bound.names.iter().zip(names).all(|(a, b)| same(a, b))
            && bound.limited.scopes.iter().flatten().all(|id| self.scopes.get(*id).is_some())
        {
            return Some(bound.limited);
        }
        let names = names.map(|name| name.map(Rc::clone));
        let limited = self.find_scopes(destination, &names, now);
        let pool = self.pools.make(destination);
        if pool.flows.len() >= limits::SCOPE_FLOWS {
            pool.flows.clear();
        }
        pool.flows.insert(flow, Bound { names, epoch: self.scopes.epoch, limited });
        Some(limited)
    }

    fn find_scopes(&mut self, destination: DestinationId, names: &[Option<Rc<str>>; 2], now: Moment) -> Limited {
        let mut limited = Limited { scopes: [None; SCOPES], recipients: u32::MAX, paced: false };
        // What stays here goes to no site.
        if self.is_maildir(destination) {
            return limited;
        }
        let site = self.site_of(destination).cloned();
        let [tenant, campaign] = names;
        let lane = self.scope(destination).and_then(|scope| self.lanes.get(scope));
        let in_force = lane.filter(|lane| lane.share.is_lowered()).and_then(|lane| lane.share.limits().bytes_in_flight);
        let all = [
            site.clone().map(Whose::Site),
            tenant.clone().map(Whose::Tenant),
            tenant.clone().zip(site).map(|(name, site)| Whose::TenantAt(name, site)),
            campaign.clone().map(Whose::Campaign),
        ];
        for (whose, place) in all.into_iter().zip(&mut limited.scopes) {
            let Some(whose) = whose else { continue };
            let limits = whose.limits(&self.tables.shaping);
            limited.recipients = limited.recipients.min(limits.recipients.unwrap_or(u32::MAX));
            limited.paced |= limits.message_rate.is_some();
            let in_force = in_force.filter(|_| matches!(whose, Whose::Site(_)));
            *place = self.scopes.find(whose, in_force, &self.tables.shaping, now);
        }
        limited
    }

    /// A reply has lowered what may be in flight at a site. Its octets have a ledger beside that of the connections and rates: that
    /// has to know it too.
    pub(super) fn impose_on_octets(&mut self, destination: DestinationId, by: Lowering, measure: Measure, now: Moment) {
        let Some(site) = self.site_of(destination).cloned() else { return };
        let usual = self.tables.shaping.limits(&site);
        let Some(lowered) = by.of(usual).bytes_in_flight else { return };
        let whose = Whose::Site(site);
        let Some(id) = self.scopes.find(whose, Some(lowered), &self.tables.shaping, now) else { return };
        let Some(held) = self.scopes.get_mut(id) else { return };
        held.share.impose(measure);
        self.scopes.list(id);
    }

    /// The limit of octets in flight at a site is another one: what its flows keep to is found anew.
    pub(super) fn octets_changed(&mut self) {
        self.scopes.epoch = self.scopes.epoch.wrapping_add(1);
    }

    /// Whether a job that was taken has room in all its scopes; else it is put back, and its flow set aside.
    pub(super) fn fits(&mut self, key: JobKey, destination: DestinationId, now: Moment) -> bool {
        if self.tenant_rests_aside(key, destination, now) {
            return false;
        }
        if !self.scopes.active {
            return true;
        }
        let Some((flow, size)) = self.queue.job(key).map(|job| (job.flow(), job.size)) else { return true };
        let place = (destination, flow);
        let Some(limited) = self.limited(place, now) else { return true };
        let Some(lacks) = self.scopes.lacks(&limited, place, size, now) else { return true };
        // One with a priority may be met while the rest waits.
        let waits = self.queue.is_aside(destination, flow);
        if self.queue.put_aside(key) && !waits {
            let could = self.usable_connections(destination).min(self.queue.flow_len(destination, flow));
            let could = u32::try_from(could).unwrap_or(u32::MAX);
            self.scopes.wait(&limited, lacks, place, (could, size), now);
        }
        false
    }

    /// Whether the next mail of a destination may have a connection opened for it: a flow that would wait for room with it
    /// is set aside before.
    pub(super) fn may_prepare(&mut self, destination: DestinationId, now: Moment) -> bool {
        if !self.pools.get(&destination).is_some_and(|pool| pool.loaded.is_empty()) {
            return true;
        }
        if !self.next_may_go(destination, now) {
            return false;
        }
        if !self.scopes.active {
            return !self.lanes.tenants_rest || self.waiting(destination) > 0;
        }
        for _ in 0..limits::SCOPE_TRIES {
            let Some((flow, size)) = self.queue.next_flow(destination) else {
                return self.pools.get(&destination).is_some_and(|pool| pool.fetching > 0);
            };
            if self.queue.is_aside(destination, flow) {
                // It is mail with a priority, which goes before its flow: looked at when there is a connection.
                return true;
            }
            let place = (destination, flow);
            let Some(limited) = self.limited(place, now) else { return true };
            // One at a time: those that come to no message would idle in vain.
            if self.scopes.counts(&limited) && self.has_fresh_connection(destination) {
                return false;
            }
            let Some(lacks) = self.scopes.prepare(&limited, place, size, now) else { return true };
            if !self.queue.set_flow_aside(destination, flow) {
                // All it has is mail with a priority, which is looked at when there is a connection.
                return true;
            }
            self.scopes.wait(&limited, lacks, place, (0, size), now);
        }
        self.wake(destination);
        false
    }

    /// Whether a message has to wait until a connection carries nothing else: it counts when it is begun, not when it is
    /// written down behind another.
    pub(super) fn awaits_silence(&mut self, conn: ConnId, key: JobKey, now: Moment) -> bool {
        if !self.scopes.active || self.connections.get(conn).is_none_or(|c| c.is_idle()) {
            return false;
        }
        let Some(place) = self.queue.destination_of(key).zip(self.queue.job(key).map(|job| job.flow())) else {
            return false;
        };
        self.limited(place, now).is_some_and(|limited| limited.paced)
    }

    /// Recipients that one transaction of a job may have, by its flow.
    pub(super) fn flow_recipients(&mut self, place: Place, now: Moment) -> u32 {
        self.limited(place, now).map_or(u32::MAX, |limited| limited.recipients)
    }

    /// Whether more records of a destination may be asked for while some are under way: those of a limited flow would come
    /// in vain.
    pub(super) fn may_fetch_ahead(&mut self, destination: DestinationId, now: Moment) -> bool {
        if !self.scopes.active {
            return true;
        }
        let Some((flow, _)) = self.queue.next_flow(destination) else { return true };
        self.limited((destination, flow), now).is_none_or(|limited| limited.scopes == [None; SCOPES])
    }

    /// Why a job that is ready waits, if its flow is set aside.
    pub(super) fn why_aside(&mut self, key: JobKey, now: Moment) -> Option<String> {
        let (flow, size) = self.queue.job(key).map(|job| (job.flow(), job.size))?;
        let place = (self.queue.destination_of(key)?, flow);
        self.queue.is_aside(place.0, flow).then_some(())?;
        let limited = self.limited(place, now)?;
        let lacks = self.scopes.lacks(&limited, place, size, now)?;
        self.scopes.get(lacks.id).map(Held::told)
    }

    /// A message begins; what to [give back](Scopes::give_back) when it is over.
    pub(super) fn count_message(&mut self, place: Place, size: u32, now: Moment) -> Option<Box<Counts>> {
        let limited = self.limited(place, now)?;
        self.scopes.begin(&limited, place, size, now)
    }

    /// What a transaction has of its scopes, and of its source, is for others from now on.
    pub(super) fn give_back(&mut self, source: Option<&Scope>, transaction: &mut Transaction) {
        self.scopes.give_back(transaction.counts.take());
        self.source_ends(source, transaction.source_octets);
    }

    /// Connections of a destination that could begin a message: those that idle, or one that will.
    fn usable_connections(&self, destination: DestinationId) -> usize {
        let Some(pool) = self.pools.get(&destination) else { return 0 };
        let is_usable = |conn: &&ConnId| self.connections.get(**conn).is_some_and(|c| c.can_start());
        let mut usable = pool.connections.iter().filter(is_usable).peekable();
        let any = usize::from(usable.peek().is_some());
        let idle = usable.filter(|conn| self.connections.get(**conn).is_some_and(|c| c.is_idle())).count();
        idle.max(any)
    }

    /// Whether one of its connections has not carried anything yet.
    fn has_fresh_connection(&self, destination: DestinationId) -> bool {
        let Some(pool) = self.pools.get(&destination) else { return false };
        let is_fresh = |conn: &ConnId| self.connections.get(*conn).is_some_and(|c| c.begun == 0 && !c.retires);
        pool.connections.iter().any(is_fresh)
    }

    /// Mail of a ledger that is no site's. False: there is no such scope here.
    pub(super) fn scope_mail(&mut self, mail: &ToLane, now: Moment) -> bool {
        let Some(id) = self.scopes.by_name.get(&mail.scope).copied() else { return false };
        if let Some(held) = self.scopes.get_mut(id) {
            held.share.handle(mail.clone(), now);
            if let Some(until) = held.share.poll_timeout() {
                self.scopes.timers.push(Reverse((until, id)));
            }
        }
        self.scopes.list(id);
        self.serve(id, now);
        true
    }

    /// Lets those go that there is room for, or soon will be.
    fn serve(&mut self, id: ScopeId, now: Moment) {
        if !self.scopes.get(id).is_some_and(Held::has_to_serve) {
            return;
        }
        let mut scopes = std::mem::take(&mut self.scopes);
        scopes.serve(id, now, |(destination, flow)| {
            // What cannot go for another reason comes again by itself.
            let rests = self.queue.is_suspended(destination) || self.rests(destination, now);
            let goes = self.queue.let_go(destination, flow) && !rests;
            goes.then(|| u32::try_from(self.usable_connections(destination)).unwrap_or(u32::MAX))
        });
        self.scopes = scopes;
    }

    /// Scopes that are due, and what they have to say.
    pub(super) fn scopes_turn(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        while let Some(Reverse((at, _))) = self.scopes.timers.peek()
            && *at <= now
        {
            let Some(Reverse((_, id))) = self.scopes.timers.pop() else { break };
            self.scopes.list(id);
        }
        for id in std::mem::take(&mut self.scopes.news) {
            self.serve(id, now);
            let Some(held) = self.scopes.get_mut(id) else { continue };
            held.listed = false;
            held.sum_up(now);
            if let Some(why) = held.is_to_be_told(now) {
                turn.report.events.push(Notice::event(turn.now.wall, self.me, NoticeKind::Throttled, why.as_bytes()));
            } else if let Some(since) = held.waited_for.filter(|since| *since == now) {
                self.scopes.timers.push(Reverse((since + limits::SCOPE_PATIENCE, id)));
            }
            let Some(held) = self.scopes.get_mut(id) else { continue };
            if let Some(mail) = held.share.poll_send(self.me, now) {
                let owner = lease::owner(&mail.scope, self.shards);
                turn.post.send(usize::from(owner), Mail::ToLedger(Box::new(mail)));
            }
            if held.share.is_idle() && !held.is_waited_for() {
                let idles_from = held.needed + limits::SCOPE_IDLE;
                if idles_from <= now {
                    self.scopes.forget(id);
                } else {
                    self.scopes.timers.push(Reverse((idles_from, id)));
                }
            }
        }
    }

    /// New rules: who waited is tried by them.
    pub(super) fn new_scopes(&mut self) {
        self.scopes.active = self.tables.shaping.limits_flows();
        self.scopes.epoch = self.scopes.epoch.wrapping_add(1);
        let all: Vec<ScopeId> = self.scopes.by_name.values().copied().collect();
        for id in all {
            let Some(held) = self.scopes.get_mut(id) else { continue };
            held.share.set_limits(held.whose.limits(&self.tables.shaping));
            held.in_line.clear();
            let lines = [std::mem::take(&mut held.entitled), std::mem::take(&mut held.waiting)];
            for (destination, flow) in lines.into_iter().flat_map(|line| line.line).map(|waiter| waiter.place) {
                self.queue.let_go(destination, flow);
            }
            self.scopes.list(id);
        }
    }
}
