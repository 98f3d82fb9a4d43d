//! What sources keep to at sites (`per_source` of the rules): connections and rates, with a ledger for all shards as a site's own
//! have, and octets in flight, with another one. Lives on its shard.
//!
//! A source's share is asked for before the site's: who waits for a source wants nothing of the site, so no two shards
//! wait for what the other holds.

use super::warm::Warming;
use crate::deliver::places::NEEDED;
use crate::deliver::{Deliverer, Map};
use crate::lease::{self, Counted, Paced, Scope, Share, ToLane};
use crate::limits;
use crate::queue::{DestinationId, JobKey};
use crate::rt::ConnId;
use crate::shaping::{Limits, Shaping, Site};
use crate::shard::Turn;
use crate::shard::mailbox::Mail;
use crate::time::Moment;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;

/// The shares, by the names of their scopes. Lives on its shard.
#[derive(Default)]
pub(in crate::deliver) struct Shares {
    all: Map<Scope, Held>,
    /// Those that may have something to tell.
    news: Vec<Scope>,
    /// When batches of permits end, and when something can begin.
    timers: BinaryHeap<Reverse<(Moment, Scope)>>,
}

/// A source at a site.
pub(super) struct Held {
    /// Of its connections and rates.
    share: Share,
    /// Of its octets in flight.
    octets: Share,
    pub(super) site: Site,
    pub(super) source: u16,
    pub(super) warming: Warming,
    wants: Vec<Want>,
    /// When it is to be looked at since something could begin.
    begins: Option<Moment>,
    listed: bool,
}

/// What a destination would have of it beside what it has.
struct Want {
    destination: DestinationId,
    connections: u32,
    permits: [u32; 2],
    /// Messages that it could begin at once if there were room, and the units of octets of the next.
    messages: u32,
    octets: u32,
}

impl Held {
    fn want(&mut self, destination: DestinationId) -> &mut Want {
        let at = self.wants.iter().position(|want| want.destination == destination).unwrap_or_else(|| {
            self.wants.push(Want { destination, connections: 0, permits: [0; 2], messages: 0, octets: 0 });
            self.wants.len() - 1
        });
        &mut self.wants[at]
    }

    /// Whether another connection may be opened, by their number.
    fn bears_one(&self) -> bool {
        self.share.bears(Counted::Connection, 1) || planted!(SourceConnectionsUncounted)
    }

    fn sum_up(&mut self) {
        let more: u32 = self.wants.iter().map(|want| want.connections).sum();
        // What is not limited is not asked for.
        let limited = self.share.limits().connections.is_some();
        self.share.wants(if limited { self.share.connections() + more } else { 0 });
        for kind in [Paced::Message, Paced::Start] {
            self.share.could_use(kind, self.wants.iter().map(|want| want.permits[kind as usize]).sum());
        }
        let waiting = || self.wants.iter().filter(|want| want.messages > 0);
        let all: u64 = waiting().map(|want| u64::from(want.messages) * u64::from(want.octets)).sum();
        // The largest: there would never be room for it behind ever new small ones.
        let next = waiting().map(|want| want.octets).max().unwrap_or(0);
        self.octets.could_have(Counted::Octets, u32::try_from(all).unwrap_or(u32::MAX), next);
    }

    fn counts_octets(&self) -> bool {
        self.octets.limits().bytes_in_flight.is_some()
    }

    /// Units that a message of so many octets takes.
    fn units(&self, size: u32) -> u32 {
        if self.counts_octets() { lease::octets(size.into(), self.octets.limits()) } else { 0 }
    }

    /// Whether a message of so many octets may be begun, by those in flight.
    fn bears(&self, size: u32) -> bool {
        self.octets.bears(Counted::Octets, self.units(size)) || planted!(SourceOctetsUncounted)
    }
}

impl Shares {
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    fn list(&mut self, scope: &Scope) {
        if let Some(held) = self.all.get_mut(scope)
            && !std::mem::replace(&mut held.listed, true)
        {
            self.news.push(scope.clone());
        }
    }

    pub(super) fn get_mut(&mut self, scope: &Scope) -> Option<&mut Held> {
        self.all.get_mut(scope)
    }

    /// Whether connections of a source are awaited, here or by others.
    pub(in crate::deliver) fn are_awaited(&self, scope: &Scope) -> bool {
        self.all.get(scope).is_some_and(|held| held.share.is_awaited())
    }

    /// One is to be looked at then.
    pub(super) fn look_at(&mut self, at: Moment, scope: &Scope) {
        self.timers.push(Reverse((at, scope.clone())));
    }

    /// How many there are.
    #[cfg(any(test, feature = "sim"))]
    pub(in crate::deliver) fn len(&self) -> usize {
        self.all.len()
    }
}

/// The limits of a source at a site: of connections and rates, and of octets in flight.
fn limits_of(shaping: &Shaping, site: &Site) -> [Limits; 2] {
    let limits = shaping.source_limits(site);
    let octets = Limits { bytes_in_flight: limits.bytes_in_flight, ..Limits::default() };
    [Limits { bytes_in_flight: None, ..limits }, octets]
}

/// The scope of a source at a site. A site's own name has no capital letter.
fn name(source: IpAddr, site: &str) -> Scope {
    format!("Source {source} at {site}").into()
}

/// Before the name of a source's scope, in that of its octets in flight.
const OCTETS_OF: &str = "Octets of ";

impl Deliverer {
    /// The share of a source at a destination's site. `None`: the destination is of no site.
    fn source_share(&mut self, destination: DestinationId, source: u16) -> Option<Scope> {
        let site = self.site_of(destination)?;
        let scope = name(self.source_address(Some(source))?, &site.name);
        if !self.sources.shares.all.contains_key(&scope) {
            let (site, [limits, octets]) = (site.clone(), limits_of(&self.tables.shaping, site));
            let share = Share::new(scope.clone(), limits);
            let octets = Share::new(format!("{OCTETS_OF}{scope}").into(), octets);
            let (wants, warming) = (Vec::new(), Warming::default());
            let held = Held { share, octets, site, source, warming, wants, begins: None, listed: false };
            self.sources.shares.all.insert(scope.clone(), held);
            // It is forgotten again if nothing comes of it.
            self.sources.shares.list(&scope);
        }
        Some(scope)
    }

    /// Whether a connection of a destination may be begun from a source, by the source's limits there; else that is asked for.
    pub(super) fn source_has_room(&mut self, destination: DestinationId, source: u16, turn: &mut Turn<'_>) -> bool {
        let now = turn.now.mono;
        let amount = self.warmup_of(source, turn.now.wall);
        let Some(scope) = self.source_share(destination, source) else { return true };
        let shares = &mut self.sources.shares;
        let Some(held) = shares.all.get_mut(&scope) else { return true };
        held.warming.set(amount);
        let warm = held.warming.allows();
        let from = held.share.begins_from(now).filter(|_| warm);
        let is_time = from.is_some_and(|from| from <= now);
        let bears = held.bears_one();
        let free = is_time && bears && (held.share.has_permit(Paced::Start, now) || planted!(SourceStartNotAsked));
        let want = held.want(destination);
        // A permit is void in a moment: without room it would be asked for again and again.
        (want.connections, want.permits[Paced::Start as usize]) = (u32::from(is_time), u32::from(is_time && bears));
        held.sum_up();
        if let Some(from) = from.filter(|_| !is_time)
            && held.begins.replace(from) != Some(from)
        {
            shares.timers.push(Reverse((from, scope.clone())));
        }
        shares.list(&scope);
        if !warm {
            self.ask_warmup(&scope, 1, turn);
        }
        free
    }

    /// A destination wants no further connection of a source.
    pub(in crate::deliver) fn source_is_enough(&mut self, destination: DestinationId) {
        self.wants_no_source(destination, |_, _| true);
    }

    /// A destination wants no further connection of these sources, by number and address.
    pub(super) fn wants_no_source(&mut self, destination: DestinationId, which: impl Fn(u16, IpAddr) -> bool) {
        let (Some(site), Some(pool)) = (self.site_of(destination), self.pools.get(&destination)) else { return };
        let Some(pool) = self.config.sources.pools.get(usize::from(pool.from)) else { return };
        let of = pool.sources.iter().map(|number| (*number, self.config.sources.list[usize::from(*number)].address));
        let scopes: Vec<Scope> = of
            .filter(|(number, address)| which(*number, *address))
            .map(|(_, address)| name(address, &site.name))
            .collect();
        for scope in scopes {
            let Some(held) = self.sources.shares.all.get_mut(&scope) else { continue };
            let Some(want) = held.wants.iter_mut().find(|want| want.destination == destination) else { continue };
            if (want.connections, want.permits[Paced::Start as usize]) == (0, 0) {
                continue;
            }
            (want.connections, want.permits[Paced::Start as usize]) = (0, 0);
            held.sum_up();
            self.sources.shares.list(&scope);
        }
    }

    /// Whether a connection of a destination from a source waits for a permit there: another one would wait beside it.
    pub(super) fn awaits_permit_of(&self, destination: DestinationId, source: u16, now: Moment) -> bool {
        let Some(pool) = self.pools.get(&destination).filter(|pool| pool.paced) else { return false };
        let awaits = |conn: &ConnId| {
            let connection = self.connections.get(*conn).filter(|c| c.source == Some(source));
            connection.is_some_and(|c| c.can_start() && c.is_idle()) && !self.source_may_begin(*conn, now)
        };
        pool.connections.iter().any(awaits)
    }

    /// A destination has no connection, and other destinations here have all that its sources may have at the site: one of
    /// them ends one, which has carried something or does so yet.
    pub(in crate::deliver) fn change_source_over(
        &mut self,
        site: &Scope,
        destination: DestinationId,
        turn: &mut Turn<'_>,
    ) {
        let wanted = |held: &Held| held.wants.iter().any(|w| w.destination == destination && w.connections > 0);
        let is_full = |held: &Held| !held.bears_one() && held.share.connections() > 0 && held.share.is_refused();
        let of_site = |held: &Held| *held.site.name == **site;
        let full = self.sources.shares.all.iter().filter(|(_, held)| of_site(held) && wanted(held) && is_full(held));
        let full: Vec<Scope> = full.map(|(scope, _)| scope.clone()).collect();
        if full.is_empty() {
            // The ledgers have not answered yet.
            return self.lanes.asks_again(site);
        }
        let mut best: Option<(u8, ConnId)> = None;
        let mut one_ends = false;
        for conn in self.connections.ids() {
            let Some(connection) = self.connections.get(conn) else { continue };
            if !connection.source_scope.as_ref().is_some_and(|scope| full.contains(scope)) {
                continue;
            }
            if connection.ends_soon() {
                return;
            }
            if connection.retires {
                one_ends = true;
                continue;
            }
            // One that has carried nothing ends behind its first message: nobody would come to one otherwise.
            let rank = self.rank_to_end(conn).unwrap_or(NEEDED);
            if best.is_none_or(|(least, _)| rank < least) {
                best = Some((rank, conn));
            }
        }
        let Some((rank, conn)) = best else { return };
        if rank < NEEDED || !one_ends {
            self.end_for_others(conn, turn);
        }
        // Its host may be long in greeting, while another connection has nothing to do in a moment.
        if rank == NEEDED {
            self.lanes.wake_at(turn.now.mono + limits::LEASE_TURN, site);
        }
    }

    /// A connection of a destination is begun from a source; what to count back when it is closed.
    pub(in crate::deliver) fn count_source(
        &mut self,
        destination: DestinationId,
        source: u16,
        now: Moment,
    ) -> Option<Scope> {
        let scope = self.source_share(destination, source)?;
        if let Some(held) = self.sources.shares.all.get_mut(&scope) {
            held.share.take(Paced::Start, now);
            held.share.open();
        }
        self.source_is_enough(destination);
        Some(scope)
    }

    /// A connection of a destination from a source is closed.
    pub(in crate::deliver) fn count_source_back(&mut self, destination: DestinationId, scope: Option<Scope>) {
        let Some(scope) = scope else { return };
        self.begins_none_from(destination, &scope);
        let Some(held) = self.sources.shares.all.get_mut(&scope) else { return };
        held.share.closed();
        held.sum_up();
        let site = held.wants.iter().any(|want| want.connections > 0).then(|| Scope::from(&*held.site.name));
        self.sources.shares.list(&scope);
        if let Some(site) = site {
            self.wake_members(&site);
        }
    }

    /// What a connection from a source keeps to beside what the site says.
    pub(in crate::deliver) fn source_limits(&self, scope: Option<&Scope>) -> Limits {
        scope.and_then(|scope| self.sources.shares.all.get(scope)).map(|held| *held.share.limits()).unwrap_or_default()
    }

    /// Whether messages of a destination are counted when they are begun, by its sources.
    pub(in crate::deliver) fn sources_are_paced(&self, pool: u16, site: &Site) -> bool {
        let counts = || self.tables.shaping.source_limits(site).count_messages();
        !self.config.sources.list.is_empty() && (counts() || self.pool_warms_up(pool))
    }

    /// Whether a message may be begun over a connection, by the limits of its source.
    pub(in crate::deliver) fn source_may_begin(&self, conn: ConnId, now: Moment) -> bool {
        let Some(connection) = self.connections.get(conn) else { return true };
        let held = connection.source_scope.as_ref().and_then(|scope| self.sources.shares.all.get(scope));
        let has_permit = |held: &Held| held.share.has_permit(Paced::Message, now) || planted!(SourcePermitNotAsked);
        let has_room = |held: &Held| !held.counts_octets() || held.bears(self.next_size(connection.destination));
        held.is_none_or(|held| has_permit(held) && held.warming.allows() && has_room(held))
    }

    /// Octets of the message that goes next to a destination, as far as that is known.
    fn next_size(&self, destination: DestinationId) -> u32 {
        let loaded = self.pools.get(&destination).and_then(|pool| pool.loaded.front());
        let loaded = loaded.and_then(|(key, _)| self.queue.job(*key)).map(|job| job.size);
        loaded.or_else(|| self.queue.next_flow(destination).map(|(_, size)| size)).unwrap_or(1)
    }

    /// Whether this message may be begun over a connection, by the octets that its source may have in flight: it may be another one
    /// than was next.
    pub(in crate::deliver) fn source_bears(&self, conn: ConnId, key: JobKey) -> bool {
        let scope = self.connections.get(conn).and_then(|connection| connection.source_scope.as_ref());
        let held = scope.and_then(|scope| self.sources.shares.all.get(scope));
        held.zip(self.queue.job(key)).is_none_or(|(held, job)| held.bears(job.size))
    }

    /// A message of so many octets is begun over a connection; what is to be [counted back](Self::source_ends).
    pub(in crate::deliver) fn source_begins(&mut self, conn: ConnId, size: u32, now: Moment) -> u32 {
        let Some(scope) = self.connections.get(conn).and_then(|connection| connection.source_scope.clone()) else {
            return 0;
        };
        let Some(held) = self.sources.shares.all.get_mut(&scope) else { return 0 };
        let units = held.units(size);
        if units > 0 || held.share.is_paced(Paced::Message) || held.warming.is_new() {
            held.warming.begin();
            held.share.take(Paced::Message, now);
            held.octets.begin(Counted::Octets, units);
            self.sources.shares.list(&scope);
        }
        units
    }

    /// A message that was begun from a source, with so many units of octets, was answered, or will not be.
    pub(in crate::deliver) fn source_ends(&mut self, scope: Option<&Scope>, units: u32) {
        let Some(scope) = scope.filter(|_| units > 0) else { return };
        let Some(held) = self.sources.shares.all.get_mut(scope) else { return };
        held.octets.end(Counted::Octets, units);
        held.sum_up();
        let site = held.wants.iter().any(|want| want.messages > 0).then(|| Scope::from(&*held.site.name));
        self.sources.shares.list(scope);
        if let Some(site) = site {
            self.wake_members(&site);
        }
    }

    /// No message of a destination is begun from a source: not over a connection that was there.
    pub(in crate::deliver) fn begins_none_from(&mut self, destination: DestinationId, scope: &Scope) {
        let Some(held) = self.sources.shares.all.get_mut(scope) else { return };
        let Some(want) = held.wants.iter_mut().find(|want| want.destination == destination) else { return };
        if std::mem::take(&mut want.permits[Paced::Message as usize]) + std::mem::take(&mut want.messages) > 0 {
            held.sum_up();
            self.sources.shares.list(scope);
        }
    }

    /// Asks for permits of their sources for the connections of a destination that could begin a message each, while mail
    /// waits for them. A permit that is there is kept while the site's is awaited. Returns how many connections lack one.
    pub(in crate::deliver) fn ask_sources(
        &mut self,
        destination: DestinationId,
        waiting: usize,
        turn: &mut Turn<'_>,
    ) -> usize {
        let now = turn.now.mono;
        let Some(pool) = self.pools.get(&destination) else { return 0 };
        let mut could: Map<Scope, u32> = Map::default();
        let mut blocked = 0;
        for conn in &pool.connections {
            let Some(connection) = self.connections.get(*conn) else { continue };
            let Some(scope) = connection.source_scope.as_ref() else { continue };
            let idles = connection.can_start() && connection.is_idle();
            blocked += usize::from(idles && !self.source_may_begin(*conn, now));
            *could.entry(scope.clone()).or_default() += u32::from(idles);
        }
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        let size = self.next_size(destination);
        for (scope, could) in could {
            let could = could.min(waiting);
            let source = self.sources.shares.all.get(&scope).map_or(0, |held| held.source);
            let amount = self.warmup_of(source, turn.now.wall);
            let Some(held) = self.sources.shares.all.get_mut(&scope) else { continue };
            held.warming.set(amount);
            if could > 0 && !held.warming.allows() {
                self.ask_warmup(&scope, could, turn);
            }
            let Some(held) = self.sources.shares.all.get_mut(&scope) else { continue };
            let (paced, octets) = (held.share.is_paced(Paced::Message), held.units(size));
            if !paced && octets == 0 {
                continue;
            }
            let want = held.want(destination);
            want.permits[Paced::Message as usize] = if paced { could } else { 0 };
            (want.messages, want.octets) = (if octets > 0 { could } else { 0 }, octets);
            held.sum_up();
            self.sources.shares.list(&scope);
        }
        blocked
    }

    /// Mail of the ledger of a source at a site. False: there is no such share here.
    pub(in crate::deliver) fn source_mail(&mut self, mail: &ToLane, turn: &mut Turn<'_>) -> bool {
        if let Some(scope) = mail.scope.strip_prefix(OCTETS_OF) {
            let Some(held) = self.sources.shares.all.get_mut(scope) else { return false };
            held.octets.handle(mail.clone(), turn.now.mono);
            let site = Scope::from(&*held.site.name);
            self.sources.shares.list(&scope.into());
            self.wake_members(&site);
            return true;
        }
        let Some(held) = self.sources.shares.all.get_mut(&mail.scope) else { return false };
        held.share.handle(mail.clone(), turn.now.mono);
        let site: Scope = (&*held.site.name).into();
        let over = held.share.closing().map_or(0, |closing| closing.connections as usize);
        if let Some(until) = held.share.poll_timeout() {
            self.sources.shares.timers.push(Reverse((until, mail.scope.clone())));
        }
        if over > 0 {
            self.end_connections_of(&mail.scope, over, turn);
        }
        self.sources.shares.list(&mail.scope);
        self.wake_members(&site);
        if mail.awaited == Some(true) {
            self.spare_places(&site, turn);
        }
        true
    }

    /// So many connections of a source end: other shards wait for their places.
    fn end_connections_of(&mut self, scope: &Scope, over: usize, turn: &mut Turn<'_>) {
        let of_it = |conn: &ConnId| self.connections.get(*conn).is_some_and(|c| c.source_scope.as_ref() == Some(scope));
        let mut all: Vec<ConnId> = self.connections.ids().filter(of_it).collect();
        let ends = |conn: &ConnId| self.connections.get(*conn).is_some_and(|c| c.retires || c.leaves);
        let ending = all.iter().filter(|conn| ends(conn)).count();
        all.retain(|conn| !ends(conn));
        // Those that carry nothing first.
        all.sort_by_key(|conn| self.connections.get(*conn).is_some_and(|c| c.ready && !c.is_idle()));
        for conn in all.into_iter().take(over.saturating_sub(ending)) {
            self.end_for_others(conn, turn);
        }
    }

    /// Batches that are over, and what the shares have to say.
    pub(super) fn source_shares_turn(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        while let Some(Reverse((at, _))) = self.sources.shares.timers.peek()
            && *at <= now
        {
            let Some(Reverse((_, scope))) = self.sources.shares.timers.pop() else { break };
            let Some(held) = self.sources.shares.all.get_mut(&scope) else { continue };
            held.begins = held.begins.filter(|at| *at > now);
            let site: Scope = (&*held.site.name).into();
            self.sources.shares.list(&scope);
            self.warmup_turn(&scope, turn);
            self.wake_members(&site);
        }
        for scope in std::mem::take(&mut self.sources.shares.news) {
            let (pools, queue) = (&self.pools, &self.queue);
            let Some(held) = self.sources.shares.all.get_mut(&scope) else { continue };
            held.listed = false;
            let before = held.wants.len();
            // As long as the destination is there: an answer that has come is not to be asked for again.
            held.wants.retain(|want| pools.contains_key(&want.destination) || queue.peek_len(want.destination) > 0);
            if held.wants.len() < before {
                held.sum_up();
            }
            for share in [&mut held.share, &mut held.octets] {
                if let Some(mail) = share.poll_send(self.me, now) {
                    let owner = lease::owner(&mail.scope, self.shards);
                    turn.post.send(usize::from(owner), Mail::ToLedger(Box::new(mail)));
                }
            }
            if held.wants.is_empty() && held.share.is_idle() && held.octets.is_idle() && held.warming.is_idle() {
                self.sources.shares.all.remove(&scope);
            }
        }
    }

    /// A destination of a site is not used any more.
    pub(in crate::deliver) fn sources_left(&mut self, site: &Scope, pool: u16) {
        let config = std::sync::Arc::clone(&self.config);
        let Some(pool) = config.sources.pools.get(usize::from(pool)) else { return };
        for source in &pool.sources {
            let address = config.sources.list[usize::from(*source)].address;
            self.sources.shares.list(&name(address, site));
        }
    }

    /// New rules.
    pub(in crate::deliver) fn new_source_limits(&mut self) {
        let scopes: Vec<Scope> = self.sources.shares.all.keys().cloned().collect();
        for scope in scopes {
            if let Some(held) = self.sources.shares.all.get_mut(&scope) {
                let [limits, octets] = limits_of(&self.tables.shaping, &held.site);
                held.share.set_limits(limits);
                held.octets.set_limits(octets);
            }
            self.sources.shares.list(&scope);
        }
    }
}
