//! This shard as a lane of sites: what it has of their limits, what it wants, and what it gives back; and the ledgers of
//! the sites that it owns.
//!
//! A destination of a site counts its connections, and the messages that have a rate, against its [`Share`]; what is asked
//! and given back goes to the site's ledger at the end of the turn. Fixed next hops have no lanes: their connections are
//! divided between the shards for good (`route`).

use super::{Deliverer, Map};
use crate::lease::{self, Crowd, Ledgers, Measure, Paced, Scope, Share, Spread, ToLane, ToLedger};
use crate::limits;
use crate::queue::{DestinationId, FlowId};
use crate::route;
use crate::shaping::{Limits, Rate, Shaping, Site};
use crate::shard::Turn;
use crate::shard::mailbox::Mail;
use crate::time::Moment;
use slab::Slab;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The scopes that this shard has mail for, and the ledgers of those that it owns. Lives on its shard.
pub(super) struct Lanes {
    shares: Shares,
    ledgers: Ledgers,
    /// Shares that may have something to tell.
    news: Vec<Scope>,
    /// When batches of permits end, and when connections for what has waited are to be opened, earliest first.
    timers: BinaryHeap<Reverse<(Moment, Scope)>>,
    /// A tenant rests at some site.
    pub(super) tenants_rest: bool,
}

/// The lanes, each in a place that pools remember: they ask several times for each message.
#[derive(Default)]
struct Shares {
    names: Map<Scope, usize>,
    places: Slab<Lane>,
}

impl Shares {
    fn get(&self, scope: &Scope) -> Option<&Lane> {
        self.places.get(*self.names.get(scope)?)
    }

    fn get_mut(&mut self, scope: &Scope) -> Option<&mut Lane> {
        self.places.get_mut(*self.names.get(scope)?)
    }

    fn remove(&mut self, scope: &Scope) {
        self.names.remove(scope).map(|place| self.places.remove(place));
    }
}

/// What is known of a site here.
pub(super) struct Lane {
    pub(super) share: Share,
    site: Site,
    /// Where its mail waits: a destination for each set of hosts, and of what TLS with them must be.
    pub(super) members: Vec<Member>,
    /// Who is woken first; the next one next time.
    first: usize,
    /// No connection is taken from one destination for another before.
    pub(super) changes_from: Moment,
    /// Who waits for that is woken then.
    woken_at: Moment,
    /// It stands in `Lanes::news`.
    listed: bool,
    /// The limit in force of octets in flight, which another ledger counts.
    pub(super) octets: Option<u64>,
    /// Flows that were set aside since their tenants rest.
    pub(super) aside: Vec<(DestinationId, FlowId)>,
    /// Those of its tenants that have mail in several lanes.
    spread: Spread,
}

/// A destination of a site, and what it would have beside what it has.
pub(super) struct Member {
    pub(super) destination: DestinationId,
    pub(super) connections: u32,
    permits: [u32; 2],
    /// A letter of somebody who has had nothing has no connection to go on.
    stranded: bool,
}

impl Lane {
    fn member(&mut self, destination: DestinationId) -> &mut Member {
        let at = self.members.iter().position(|member| member.destination == destination);
        let at = at.unwrap_or_else(|| {
            self.members.push(Member { destination, connections: 0, permits: [0; 2], stranded: false });
            self.members.len() - 1
        });
        &mut self.members[at]
    }

    /// Tells the share what all members want.
    fn sum_up(&mut self) {
        let more: u32 = self.members.iter().map(|member| member.connections).sum();
        self.share.wants(self.share.connections() + more);
        self.share.strands(self.members.iter().any(|member| member.stranded));
        for kind in [Paced::Message, Paced::Start] {
            self.share.could_use(kind, self.members.iter().map(|member| member.permits[kind as usize]).sum());
        }
    }
}

/// What a connection must keep to, beside its number.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// Messages before it is closed.
    pub(super) messages: u32,
    /// Recipients of a transaction.
    pub(super) recipients: u32,
    /// Messages have a rate.
    pub(super) paced: bool,
    /// Messages may have to wait for a limit while it stands.
    pub(super) throttled: bool,
}

impl Bounds {
    /// Within these limits as well.
    pub(super) fn within(self, limits: &Limits) -> Bounds {
        Bounds {
            messages: limits.messages_per_connection.map_or(self.messages, |most| most.min(self.messages)),
            recipients: limits.recipients.map_or(self.recipients, |most| most.min(self.recipients)),
            paced: self.paced,
            throttled: self.throttled,
        }
    }
}

impl Lanes {
    pub(super) fn new(shards: u16) -> Self {
        Lanes {
            shares: Shares::default(),
            ledgers: Ledgers::new(shards),
            news: Vec::new(),
            timers: BinaryHeap::new(),
            tenants_rest: false,
        }
    }

    /// What is in force at the sites whose ledgers are here.
    pub(super) fn measures(&self) -> impl Iterator<Item = (&Scope, &Measure)> {
        self.ledgers.measures()
    }

    /// Whether anything of it is new since the last call, or lasts longer.
    pub(super) fn have_taken(&mut self) -> bool {
        self.ledgers.has_taken()
    }

    /// There was a process before this one, which began at `now`.
    pub(super) fn go_on(&mut self, now: Moment) {
        self.ledgers.go_on(now);
    }

    /// It was in force before the start.
    pub(super) fn restore(&mut self, site: &Scope, measure: Measure, now: Moment) {
        self.ledgers.restore(site, measure, now);
    }

    /// Shares and ledgers.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn sizes(&self) -> [usize; 2] {
        [self.shares.places.len(), self.ledgers.len()]
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        timer.into_iter().chain(self.ledgers.poll_timeout()).min()
    }

    /// A destination is not used any more.
    pub(super) fn left(&mut self, scope: &Scope) {
        self.list(scope);
    }

    pub(super) fn get(&self, scope: &Scope) -> Option<&Lane> {
        self.shares.get(scope)
    }

    pub(super) fn get_mut(&mut self, scope: &Scope) -> Option<&mut Lane> {
        self.shares.get_mut(scope)
    }

    /// The destinations of a site are to be woken then.
    pub(super) fn wake_at(&mut self, at: Moment, scope: &Scope) {
        self.timers.push(Reverse((at, scope.clone())));
    }

    /// A lane's destinations are pumped when one of its connections may end for others again.
    pub(super) fn wake_at_change(&mut self, scope: &Scope) {
        if let Some(lane) = self.shares.get_mut(scope)
            && lane.woken_at != lane.changes_from
        {
            lane.woken_at = lane.changes_from;
            self.timers.push(Reverse((lane.changes_from, scope.clone())));
        }
    }

    /// Who asked others of a site for a place did so too early.
    pub(super) fn asks_again(&mut self, scope: &Scope) {
        if let Some(lane) = self.shares.get_mut(scope) {
            lane.changes_from = Moment(0);
        }
    }

    /// Whether any tenant rests may be other than before.
    pub(super) fn note_tenants(&mut self) {
        self.tenants_rest = self.shares.places.iter().any(|(_, lane)| lane.share.tenants_rest());
    }

    pub(super) fn list(&mut self, scope: &Scope) {
        if let Some(lane) = self.shares.get_mut(scope)
            && !std::mem::replace(&mut lane.listed, true)
        {
            self.news.push(scope.clone());
        }
    }
}

impl Deliverer {
    /// A destination is a site's: its connections count there from now on.
    pub(super) fn join(&mut self, destination: DestinationId, site: Site, from: u16) {
        let pool = self.pools.make(destination);
        pool.from = from;
        if pool.scope.as_deref() == Some(&*site.name) {
            return;
        }
        let scope: Scope = (&*site.name).into();
        pool.scope = Some(scope.clone());
        pool.flows.clear();
        self.queue.set_schedule(destination, self.tables.shaping.site_schedule(&site));
        let limits = limits_of(&self.tables.shaping, &site, self.config.delivery.connections_per_destination);
        let Shares { names, places } = &mut self.lanes.shares;
        let place = *names.entry(scope).or_insert_with_key(|scope| {
            let share = Share::new(scope.clone(), limits);
            let (members, aside) = (Vec::new(), Vec::new());
            places.insert(Lane {
                share,
                site,
                members,
                first: 0,
                changes_from: Moment(0),
                woken_at: Moment(0),
                listed: false,
                octets: limits.bytes_in_flight,
                aside,
                spread: Spread::default(),
            })
        });
        let lane = &mut places[place];
        lane.member(destination);
        (pool.lane, pool.paced) = (place, lane.share.is_paced(Paced::Message));
        pool.rests_until = lane.share.rests().map_or(Moment(0), |rest| rest.until);
        let by_source = self.site_of(destination).is_some_and(|site| self.sources_are_paced(from, site));
        if let Some(pool) = self.pools.get_mut(&destination) {
            pool.paced |= by_source;
        }
    }

    /// The site of a destination, if its limits count there.
    pub(super) fn site_of(&self, destination: DestinationId) -> Option<&Site> {
        self.lanes.shares.get(self.scope(destination)?).map(|lane| &lane.site)
    }

    pub(super) fn scope(&self, destination: DestinationId) -> Option<&Scope> {
        self.pools.get(&destination)?.scope.as_ref()
    }

    pub(super) fn lane(&mut self, destination: DestinationId) -> Option<&mut Lane> {
        let pool = self.pools.get(&destination)?;
        pool.scope.as_ref()?;
        self.lanes.shares.places.get_mut(pool.lane)
    }

    /// What connections of a destination keep to.
    pub(super) fn bounds(&mut self, destination: DestinationId) -> Bounds {
        let messages = self.config.delivery.messages_per_connection;
        let limits = self.lane(destination).map(|lane| *lane.share.limits()).unwrap_or_default();
        let from = self.pools.get(&destination).map_or(0, |pool| pool.from);
        let by_source = self.site_of(destination).is_some_and(|site| self.sources_are_paced(from, site));
        Bounds {
            messages: limits.messages_per_connection.map_or(messages, |most| most.min(messages)),
            recipients: limits.recipients.unwrap_or(u32::MAX),
            paced: limits.message_rate.is_some() || by_source,
            throttled: limits.message_rate.is_some() || by_source || self.scopes.is_active(),
        }
    }

    /// Whether a connection may be opened at a destination that would have so many in all; else it is asked for.
    pub(super) fn may_open(&mut self, destination: DestinationId, wanted: u32, now: Moment) -> bool {
        let Some(pool) = self.pools.get_mut(&destination) else { return true };
        let Some(scope) = pool.scope.clone() else { return true };
        pool.wants_none = false;
        let open = u32::try_from(pool.connections.len() + pool.leaving).unwrap_or(u32::MAX);
        let stranded = self.is_stranded(destination, now);
        let Some(lane) = self.lanes.shares.get_mut(&scope) else { return true };
        let has_room = lane.share.has_room();
        // One without a message to begin would idle in vain.
        let from = lane.share.begins_from(now);
        let is_time = from.is_some_and(|from| from <= now);
        let member = lane.member(destination);
        member.connections = if is_time { wanted.saturating_sub(open).max(1) } else { 0 };
        member.permits[Paced::Start as usize] = u32::from(is_time);
        member.stranded = is_time && stranded && !has_room;
        lane.sum_up();
        let free = is_time && has_room && lane.share.take(Paced::Start, now);
        let full = is_time && open == 0 && !has_room && lane.share.is_refused();
        self.lanes.list(&scope);
        if full {
            self.asks_others(&scope, destination, now);
        }
        if let Some(from) = from.filter(|_| !is_time) {
            self.lanes.timers.push(Reverse((from, scope)));
        }
        free
    }

    /// Whether it is time for a connection to a destination, by the rate of its site's messages.
    pub(super) fn is_due(&mut self, destination: DestinationId, now: Moment) -> bool {
        let Some(lane) = self.lane(destination) else { return true };
        lane.share.begins_from(now).is_some_and(|from| from <= now)
    }

    /// A destination waits for a source, and so wants nothing of its site; if others here have what it waits for, one of
    /// them ends a connection.
    pub(super) fn waits_for_source(&mut self, destination: DestinationId, now: Moment) {
        self.wants(destination, |member| {
            member.connections = 0;
            member.permits[Paced::Start as usize] = 0;
        });
        let Some(pool) = self.pools.get(&destination) else { return };
        let has_none = pool.connections.is_empty() && pool.leaving == 0;
        if let Some(scope) = pool.scope.clone().filter(|_| has_none) {
            self.asks_others(&scope, destination, now);
        }
    }

    /// A destination of a site has no connection, and no room for one: another one here is to end one for it, by and by.
    fn asks_others(&mut self, scope: &Scope, destination: DestinationId, now: Moment) {
        let Some(lane) = self.lanes.shares.get_mut(scope).filter(|lane| lane.members.len() > 1) else { return };
        if now >= lane.changes_from {
            lane.changes_from = now + limits::LEASE_TURN;
            self.change_over.push((scope.clone(), destination));
        } else {
            // Nothing else may come that has it asked again.
            self.lanes.wake_at_change(scope);
        }
    }

    /// Nothing waits at a destination for more connections than there are.
    pub(super) fn has_enough(&mut self, destination: DestinationId) {
        if self.pools.get_mut(&destination).is_some_and(|pool| !std::mem::replace(&mut pool.wants_none, true)) {
            if !self.config.sources.list.is_empty() {
                self.source_is_enough(destination);
            }
            self.wants(destination, |member| {
                member.connections = 0;
                member.permits[Paced::Start as usize] = 0;
                member.stranded = false;
            });
        }
    }

    /// Changes what a destination wants.
    fn wants(&mut self, destination: DestinationId, change: impl FnOnce(&mut Member)) {
        let Some(scope) = self.scope(destination).cloned() else { return };
        let Some(lane) = self.lanes.shares.get_mut(&scope) else { return };
        change(lane.member(destination));
        lane.sum_up();
        self.lanes.list(&scope);
    }

    /// Whether connections to a destination have a rate.
    pub(super) fn starts_are_paced(&mut self, destination: DestinationId) -> bool {
        self.lane(destination).is_some_and(|lane| lane.share.is_paced(Paced::Start))
    }

    /// Counts a connection; what to count back when it is closed.
    pub(super) fn count_connection(&mut self, destination: DestinationId) -> Option<Scope> {
        let scope = self.scope(destination)?.clone();
        let lane = self.lanes.shares.get_mut(&scope)?;
        lane.share.open();
        let member = lane.member(destination);
        member.connections = member.connections.saturating_sub(1);
        member.stranded = false;
        lane.sum_up();
        Some(scope)
    }

    /// A connection is closed.
    pub(super) fn count_back(&mut self, scope: Option<Scope>) {
        let Some(scope) = scope else { return };
        let Some(lane) = self.lanes.shares.get_mut(&scope) else { return };
        lane.share.closed();
        lane.sum_up();
        // Its place may be what another destination of the site waits for.
        let awaited = lane.members.len() > 1 && lane.members.iter().any(|member| member.connections > 0);
        self.lanes.list(&scope);
        if awaited {
            self.wake_members(&scope);
        }
    }

    /// Whether the messages of a destination have a rate.
    pub(super) fn is_paced(&self, destination: DestinationId) -> bool {
        self.pools.get(&destination).is_some_and(|pool| pool.paced)
    }

    /// The rate of a destination's messages, if they have one.
    pub(super) fn message_rate(&mut self, destination: DestinationId) -> Option<Rate> {
        if !self.is_paced(destination) {
            return None;
        }
        self.lane(destination)?.share.limits().message_rate
    }

    /// Whether a message may be begun, of so many that could be; else permits are asked for.
    pub(super) fn may_begin(&mut self, destination: DestinationId, could: u32, now: Moment) -> bool {
        let Some(lane) = self.lane(destination) else { return true };
        let free = lane.share.take(Paced::Message, now);
        self.wants(destination, |member| member.permits[Paced::Message as usize] = could.max(1));
        free
    }

    /// No message of a destination could use a permit.
    pub(super) fn begins_none(&mut self, destination: DestinationId) {
        self.wants(destination, |member| member.permits[Paced::Message as usize] = 0);
    }

    // --- mail -----------------------------------------------------------------------------------------------------

    /// Mail of a lane to a ledger here.
    pub fn to_ledger(&mut self, mail: ToLedger, turn: &mut Turn<'_>) {
        self.lanes.ledgers.handle(mail, turn.now.mono);
        self.answer_lanes(turn);
    }

    fn answer_lanes(&mut self, turn: &mut Turn<'_>) {
        while let Some((lane, mail)) = self.lanes.ledgers.poll_send() {
            turn.post.send(usize::from(lane), Mail::ToLane(Box::new(mail)));
        }
        while let Some((scope, change)) = self.lanes.ledgers.poll_change() {
            self.tell_change(&scope, &change, turn);
        }
    }

    /// Mail of a ledger.
    pub fn to_lane(&mut self, mut mail: ToLane, turn: &mut Turn<'_>) {
        let scope = mail.scope.clone();
        if self.scope_mail(&mail, turn.now.mono) || self.source_mail(&mail, turn) {
            return;
        }
        let Some(lane) = self.lanes.shares.get_mut(&scope) else {
            if !mail.is_lease() {
                return;
            }
            let owner = lease::owner(&scope, self.shards);
            return turn.post.send(usize::from(owner), Mail::ToLedger(Box::new(mail.give_back(self.me))));
        };
        let (renewed, host, awaited) = (mail.in_force.is_some(), mail.host, mail.awaited == Some(true));
        if let Some(spread) = mail.spread.take() {
            lane.spread = spread;
            self.spread_out(&scope);
        }
        let Some(lane) = self.lanes.shares.get_mut(&scope) else { return };
        lane.share.handle(mail, turn.now.mono);
        if let Some(until) = lane.share.poll_timeout() {
            self.lanes.timers.push(Reverse((until, scope.clone())));
        }
        if renewed {
            self.in_force_changed(&scope, turn);
        }
        self.retire(&scope, turn);
        if let Some(host) = host {
            self.send_to_host(&scope, host, turn);
        }
        self.lanes.list(&scope);
        self.wake_members(&scope);
        if awaited {
            self.spare_places(&scope, turn);
        }
    }

    /// Whose mail waits here for a site.
    fn crowd(&self, lane: &Lane) -> Crowd {
        let mut crowd = Crowd::default();
        let key = |tenant| route::hash(self.queue.tenant_name(tenant).as_bytes());
        for destination in lane.members.iter().map(|member| member.destination) {
            let (tenants, others) = self.queue.tenants_with_mail(destination, limits::LEASE_TENANTS);
            tenants.into_iter().for_each(|(tenant, weight)| crowd.add(key(tenant), weight));
            crowd.add_others(others);
            let loaded = self.pools.get(&destination).into_iter().flat_map(|pool| &pool.loaded);
            for tenant in loaded.filter_map(|(job, _)| self.queue.job(*job)).map(|job| job.tenant) {
                crowd.add(key(tenant), self.queue.tenant_weight(tenant));
            }
        }
        crowd
    }

    /// Tenants with mail in several lanes weigh less in each.
    fn spread_out(&mut self, scope: &Scope) {
        let Some(lane) = self.lanes.shares.get(scope) else { return };
        for destination in lane.members.iter().map(|member| member.destination) {
            let loaded = self.pools.get(&destination).into_iter().flat_map(|pool| &pool.loaded);
            let loaded = loaded.filter_map(|(job, _)| Some(self.queue.job(*job)?.tenant));
            let named = self.queue.tenants_with_mail(destination, limits::LEASE_TENANTS).0;
            // Also those whose mail was all taken ahead: they come again.
            let tenants = named.into_iter().map(|(tenant, _)| tenant).chain(loaded);
            let lanes = |tenant| {
                let key = route::hash(self.queue.tenant_name(tenant).as_bytes());
                lane.spread.binary_search_by_key(&key, |(key, _)| *key).ok().map(|at| lane.spread[at].1)
            };
            let mut spread: Vec<_> = tenants.filter_map(|tenant| Some((tenant, lanes(tenant)?))).collect();
            spread.sort_unstable();
            spread.dedup();
            self.queue.set_tenant_lanes(destination, spread.into());
        }
    }

    /// Has the destinations of a site pumped before the turn ends, each time another one first; those without a connection
    /// before the others: the place that one of the others has given up would be taken by itself.
    pub(super) fn wake_members(&mut self, scope: &Scope) {
        let Some(lane) = self.lanes.shares.get_mut(scope) else { return };
        lane.first = lane.first.wrapping_add(1);
        let count = lane.members.len();
        let mut members: Vec<_> = (0..count).map(|at| lane.members[(lane.first + at) % count].destination).collect();
        if count > 1 {
            members.sort_by_key(|member| self.pools.get(member).is_some_and(|pool| !pool.connections.is_empty()));
        }
        for destination in members {
            if self.queue.name(destination).is_some() {
                self.wake(destination);
            }
        }
    }

    /// Batches that are over, ledgers that have something to do, and what they and this shard's lanes have to say.
    pub(super) fn lease_turn(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        while let Some(Reverse((at, _))) = self.lanes.timers.peek()
            && *at <= now
        {
            let Some(Reverse((_, scope))) = self.lanes.timers.pop() else { break };
            self.lanes.list(&scope);
            self.let_tenants_go(&scope, turn);
            self.wake_members(&scope);
            self.spare_places(&scope, turn);
        }
        for (scope, destination) in std::mem::take(&mut self.change_over) {
            self.change_over(&scope, destination, turn);
        }
        if self.lanes.ledgers.poll_timeout().is_some_and(|at| at <= now) {
            self.lanes.ledgers.handle_timeout(now);
            self.answer_lanes(turn);
        }
        while let Some(scope) = self.lanes.news.pop() {
            let Some(lane) = self.lanes.shares.get_mut(&scope) else { continue };
            lane.listed = false;
            let before = lane.members.len();
            let (pools, queue) = (&self.pools, &self.queue);
            lane.members
                .retain(|member| pools.contains_key(&member.destination) || queue.peek_len(member.destination) > 0);
            if lane.members.len() < before {
                lane.sum_up();
            }
            if self.shards > 1 && (lane.share.lacks() || lane.share.has_crowd()) {
                let crowd = self.lanes.shares.get(&scope).map(|lane| self.crowd(lane)).unwrap_or_default();
                let Some(lane) = self.lanes.shares.get_mut(&scope) else { continue };
                if lane.share.set_crowd(crowd) {
                    self.spread_out(&scope);
                }
            }
            let Some(lane) = self.lanes.shares.get_mut(&scope) else { continue };
            if let Some(mail) = lane.share.poll_send(self.me, now) {
                let owner = lease::owner(&scope, self.shards);
                turn.post.send(usize::from(owner), Mail::ToLedger(Box::new(mail)));
            }
            if lane.members.is_empty() && lane.share.is_idle() && lane.aside.is_empty() {
                self.lanes.shares.remove(&scope);
            }
        }
        self.scopes_turn(turn);
    }

    /// New rules: they hold at once, for mail that waits too.
    pub(super) fn new_shaping(&mut self) {
        let most = self.config.delivery.connections_per_destination;
        let scopes: Vec<Scope> = self.lanes.shares.names.keys().cloned().collect();
        let has_sources = !self.config.sources.list.is_empty();
        let pools = u16::try_from(self.config.sources.pools.len()).unwrap_or(u16::MAX);
        let new_sources: Vec<bool> = (0..pools).map(|pool| self.pool_warms_up(pool)).collect();
        for scope in scopes {
            if let Some(lane) = self.lanes.shares.get_mut(&scope) {
                lane.share.set_limits(limits_of(&self.tables.shaping, &lane.site, most));
                for member in &lane.members {
                    self.queue.set_schedule(member.destination, self.tables.shaping.site_schedule(&lane.site));
                    if let Some(pool) = self.pools.get_mut(&member.destination) {
                        let counts = has_sources && self.tables.shaping.source_limits(&lane.site).count_messages();
                        let by_source = counts || new_sources.get(usize::from(pool.from)) == Some(&true);
                        pool.paced = lane.share.is_paced(Paced::Message) || by_source;
                    }
                }
            }
            self.lanes.list(&scope);
            // What waited for a moment by the old ones has no other reason to be looked at.
            self.wake_members(&scope);
        }
        let shaping = &self.tables.shaping;
        self.queue.set_tenant_schedules(|name| shaping.tenant_schedule(name));
        self.new_source_limits();
        self.new_scopes();
    }
}

/// The limits of a site, by the rules and the configuration.
fn limits_of(shaping: &Shaping, site: &Site, connections: u32) -> Limits {
    let limits = shaping.limits(site);
    Limits { connections: Some(limits.connections.unwrap_or(connections)), ..limits }
}
