//! What a reply means for more than its recipient: sites, and tenants at them, that rest for a time, and limits that are lower for
//! one. Lives on the shard that read the reply; the site's ledger tells all shards (`lease`).
//!
//! A pool remembers that its site rests, and begins and opens nothing. Mail of a tenant that rests is set aside in the queue, so
//! that it keeps no other mail waiting. Both are woken by one timer at the end, and cost nothing before.

use super::connection::Refused;
use super::{Deliverer, age};
use crate::lease::{Change, Measure, OCTETS_AT, Paced, Scope, Taken};
use crate::limits;
use crate::message::Status;
use crate::queue::{DestinationId, FlowId, JobKey, LastReply};
use crate::shaping::{Action, Rests};
use crate::shard::Turn;
use crate::shard::event::{Notice, NoticeKind};
use crate::time::Moment;
use std::sync::Arc;

impl Deliverer {
    /// A rule is for what a host said: what is to rest rests, what is to be lower is. `key`: the job it was said of, and so its
    /// tenant's.
    pub(super) fn act(
        &mut self,
        destination: DestinationId,
        (key, source): (Option<JobKey>, Option<u16>),
        refused: &Refused,
        turn: &mut Turn<'_>,
    ) {
        let Some(rule) = &refused.rule else { return };
        let LastReply { host, code, text, .. } = &*refused.reply;
        let why = || -> Arc<str> {
            format!("rule {}: {host} said {code} {}", rule.name, String::from_utf8_lossy(text)).into()
        };
        let now = turn.now.mono;
        match rule.rest() {
            Some((Rests::Tenant, time)) => {
                let flow = key.and_then(|key| self.queue.job(key)).map(|job| job.flow());
                let tenant = flow.and_then(|flow| self.queue.flow_names(flow)[0]).map(|name| Arc::from(&**name));
                // What nobody authenticated for is no tenant's.
                if let Some(tenant) = tenant {
                    let measure = Measure { what: Taken::RestOf(tenant), until: now + time, why: why() };
                    self.impose(destination, measure, turn);
                }
            }
            Some((Rests::Site, time)) => {
                let measure = Measure { what: Taken::Rest, until: now + time, why: why() };
                self.impose(destination, measure, turn);
            }
            Some((Rests::Source, time)) => match source {
                Some(number) => {
                    let site = self.source_site(destination);
                    self.rest_source(&site, number, now + time, &why(), turn);
                }
                // There is one, which the kernel chooses, or one of each family: it is the site that rests.
                None => self.impose(destination, Measure { what: Taken::Rest, until: now + time, why: why() }, turn),
            },
            None => {}
        }
        if let Action::Lower { by, for_ } = rule.action {
            let measure = Measure { what: Taken::Lower(by), until: now + for_, why: why() };
            if let Some(by) = by.of_octets() {
                let measure = Measure { what: Taken::Lower(by), ..measure.clone() };
                self.impose_on_octets(destination, by, measure, now);
            }
            self.impose(destination, measure, turn);
        }
    }

    /// A whole destination is left alone for a while.
    pub(super) fn tell_suspended(&self, destination: DestinationId, why: &str, until: Moment, turn: &mut Turn<'_>) {
        let site = self.queue.name(destination).unwrap_or_default();
        let seconds = until.since(turn.now.mono).as_secs();
        let text = format!("{site}: next attempt in {seconds} s: {why}");
        turn.report.events.push(Notice::event(turn.now.wall, self.me, NoticeKind::Suspended, text.as_bytes()));
    }

    fn impose(&mut self, destination: DestinationId, measure: Measure, turn: &mut Turn<'_>) {
        if planted!(SuspensionForgotten) && measure.what == Taken::Rest {
            return;
        }
        let Some(scope) = self.scope(destination).cloned() else { return };
        let Some(lane) = self.lanes.get_mut(&scope) else { return };
        lane.share.impose(measure);
        self.lanes.list(&scope);
        self.in_force_changed(&scope, turn);
    }

    /// What is in force for a site is other than before: its pools are told.
    pub(super) fn in_force_changed(&mut self, scope: &Scope, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        let Some(lane) = self.lanes.get_mut(scope) else { return };
        let paced = lane.share.is_paced(Paced::Message);
        let rest = lane.share.rests().filter(|rest| rest.until > now).cloned();
        let over = lane.share.over(now);
        let octets = lane.share.limits().bytes_in_flight;
        let other_octets = std::mem::replace(&mut lane.octets, octets) != octets;
        let members: Vec<DestinationId> = lane.members.iter().map(|member| member.destination).collect();
        if other_octets {
            self.octets_changed();
        }
        self.lanes.note_tenants();
        if let Some(over) = over {
            self.lanes.wake_at(over, scope);
        }
        for destination in members {
            let bounds = self.bounds(destination);
            let by_source = bounds.paced;
            let Some(pool) = self.pools.get_mut(&destination) else { continue };
            let until = rest.as_ref().map_or(Moment(0), |rest| rest.until);
            let begins = until > now && pool.rests_until <= now;
            (pool.paced, pool.rests_until) = (paced || by_source, until);
            for conn in pool.connections.clone() {
                let scope = self.connections.get(conn).and_then(|connection| connection.source_scope.as_ref());
                let limits = self.source_limits(scope);
                if let Some(connection) = self.connections.get_mut(conn) {
                    connection.bounds = bounds.within(&limits);
                }
            }
            if begins && let Some(rest) = &rest {
                self.put_back_loaded(destination);
                self.begins_none(destination);
                self.ask_sources(destination, 0, turn);
                self.has_enough(destination);
                let status = Some(Status::new(4, 7, 0));
                let reply = LastReply::new(turn.now.wall, "", 0, status, rest.why.as_bytes());
                self.queue.pause(destination, reply, until, age::steady(turn.now));
            }
        }
    }

    /// Whether nothing is sent to a destination now, since its site rests.
    pub(super) fn rests(&self, destination: DestinationId, now: Moment) -> bool {
        self.pools.get(&destination).is_some_and(|pool| pool.rests_until > now)
    }

    /// Until when nothing of a flow's tenant is sent to a destination.
    fn tenant_rests(&self, destination: DestinationId, flow: FlowId, now: Moment) -> Option<Moment> {
        if !self.lanes.tenants_rest || planted!(TenantRestIgnored) {
            return None;
        }
        let name = self.queue.flow_names(flow)[0]?;
        let lane = self.lanes.get(self.scope(destination)?)?;
        lane.share.resting_tenant(name).map(|rest| rest.until).filter(|until| *until > now)
    }

    /// Puts a job that was taken aside, with its flow, if its tenant rests; whether it does.
    pub(super) fn tenant_rests_aside(&mut self, key: JobKey, destination: DestinationId, now: Moment) -> bool {
        if !self.lanes.tenants_rest {
            return false;
        }
        let Some(flow) = self.queue.job(key).map(|job| job.flow()) else { return false };
        if self.tenant_rests(destination, flow, now).is_none() {
            return false;
        }
        self.queue.put_aside(key);
        self.remember_aside(destination, flow);
        true
    }

    /// Sets the flows aside that are next at a destination and whose tenants rest. False: there may be more of them.
    pub(super) fn next_may_go(&mut self, destination: DestinationId, now: Moment) -> bool {
        if !self.lanes.tenants_rest {
            return true;
        }
        for _ in 0..limits::SCOPE_TRIES {
            let Some((flow, _)) = self.queue.next_flow(destination) else { return true };
            let aside = self.queue.is_aside(destination, flow);
            if aside || self.tenant_rests(destination, flow, now).is_none() {
                return true;
            }
            if !self.queue.set_flow_aside(destination, flow) {
                // All it has is mail with a priority, which is looked at when there is a connection.
                return true;
            }
            self.remember_aside(destination, flow);
        }
        self.wake(destination);
        false
    }

    fn remember_aside(&mut self, destination: DestinationId, flow: FlowId) {
        let Some(scope) = self.scope(destination).cloned() else { return };
        let Some(lane) = self.lanes.get_mut(&scope) else { return };
        if !lane.aside.contains(&(destination, flow)) {
            lane.aside.push((destination, flow));
        }
    }

    /// Something of a site may be over: flows whose tenants rest no more go.
    pub(super) fn let_tenants_go(&mut self, scope: &Scope, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        let Some(lane) = self.lanes.get_mut(scope) else { return };
        let mut over = Vec::new();
        lane.aside.retain(|(destination, flow)| {
            let name = self.queue.flow_names(*flow)[0];
            let rests = name.and_then(|name| lane.share.resting_tenant(name)).is_some_and(|rest| rest.until > now);
            if !rests {
                over.push((*destination, *flow));
            }
            rests
        });
        for (destination, flow) in over {
            self.queue.let_go(destination, flow);
        }
        let Some(lane) = self.lanes.get_mut(scope) else { return };
        if let Some(over) = lane.share.over(now) {
            self.lanes.wake_at(over, scope);
        }
    }

    /// Why a job that is ready waits, if its site or its tenant there rests.
    pub(super) fn why_resting(&self, key: JobKey, now: Moment) -> Option<String> {
        let flow = self.queue.job(key)?.flow();
        let lane = self.lanes.get(self.scope(self.queue.destination_of(key)?)?)?;
        let tenant = self.queue.flow_names(flow)[0].and_then(|name| lane.share.resting_tenant(name));
        let rest = lane.share.rests().or(tenant).filter(|rest| rest.until > now)?;
        Some(format!("nothing is sent for another {} s, by {}", rest.until.since(now).as_secs(), rest.why))
    }

    /// Tells the operator what began or is over at a site whose ledger is here.
    pub(super) fn tell_change(&self, scope: &Scope, change: &Change, turn: &mut Turn<'_>) {
        if scope.starts_with(OCTETS_AT) {
            // The ledger of the site's connections and rates tells the same.
            return;
        }
        let Change { begins, measure: Measure { what, until, why } } = change;
        let seconds = until.since(turn.now.mono).as_secs();
        let (kind, text) = match (begins, what) {
            (true, Taken::Rest) => {
                (NoticeKind::RuleSuspended, format!("{scope}: nothing is sent for {seconds} s, by {why}"))
            }
            (true, Taken::RestOf(tenant)) => {
                let text = format!("{scope}: nothing of tenant {tenant} is sent for {seconds} s, by {why}");
                (NoticeKind::RuleSuspended, text)
            }
            (true, Taken::Lower(by)) => (NoticeKind::RuleLowered, format!("{scope}: {by} for {seconds} s, by {why}")),
            (false, Taken::Rest) => (NoticeKind::RuleOver, format!("{scope}: mail is sent again, after {why}")),
            (false, Taken::RestOf(tenant)) => {
                (NoticeKind::RuleOver, format!("{scope}: mail of tenant {tenant} is sent again, after {why}"))
            }
            (false, Taken::Lower(by)) => (NoticeKind::RuleOver, format!("{scope}: no longer {by}, after {why}")),
        };
        turn.report.events.push(Notice::event(turn.now.wall, self.me, kind, text.as_bytes()));
    }
}
