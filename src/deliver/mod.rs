//! The delivering half of a shard: from a destination's queue to the reply of its mail exchanger.
//!
//! Inputs: `Handoff` and `Fetched` from home shards, events of outbound connections and DNS sockets, time. Outputs:
//! connections and bytes, questions to DNS, `Settled` and `Fetch` to home shards, events. Lives on the shard that owns
//! its destinations. It refuses to write the spool, and to decide a retry: that is `queue`'s.
//!
//! A domain's mail goes to its site: what its mail exchangers are is asked here, and the queue told (`site`). For each
//! destination a `Pool`: its connections, and the jobs whose records are in memory and may go. The one place
//! where mail meets connections is `Deliverer::pump`; everything that could change its answer calls it.

mod age;
mod attempts;
#[cfg(any(test, feature = "sim"))]
mod audit;
mod connection;
mod flights;
mod heard;
mod kept;
mod lanes;
mod login;
mod maildir;
mod outcome;
mod params;
mod places;
mod plans;
mod pools;
mod proxies;
mod pump;
mod questions;
mod replies;
mod reports;
mod rests;
mod routed;
mod scopes;
mod site;
mod sources;
mod stranded;
mod sts;
mod tls;
mod verify;

use crate::config::Config;
use crate::dns::{Attempt, DnsSettings, ExchangeId, Resolution, Resolver};
use crate::lease::Scope;
use crate::limits;
use crate::message::{MessageId, Status};
use crate::queue::{DestinationId, DomainId, FlowId, Job, JobKey, LastReply, Queue, RetryPolicy};
use crate::route::{Heat, Hosts, NextHop, Routes, SmartHost};
use crate::rt::buffer::Slice;
use crate::rt::tls::client::Connector;
use crate::rt::{ConnId, Event as RtEvent};
use crate::shard::Tables;
use crate::shard::Turn;
use crate::shard::mailbox::{Handoff, Mail};
use crate::shard::stats::ShardStats;
use crate::shard::table::ConnTable;
use crate::smtp::client::ClientTimeouts;
use crate::starttls::sts::Stored;
use crate::time::{Moment, Now};
use connection::{Connection, Want};
use flights::Flights;
use lanes::Lanes;
pub(crate) use maildir::WORK;
use maildir::Writers;
use plans::{Plans, Unasked};
use pools::Pools;
use scopes::{Bound, Scopes};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

type Map<K, V> = HashMap<K, V, foldhash::quality::FixedState>;

/// See the module.
pub struct Deliverer {
    me: u16,
    shards: u16,
    config: Arc<Config>,
    tables: Arc<Tables>,
    routes: Arc<Routes>,
    ehlo_name: Arc<str>,
    timeouts: Arc<ClientTimeouts>,
    queue: Queue<Slice>,
    resolver: Resolver,
    pools: Pools,
    /// Domains that wait for a DNS answer, by the name that was asked.
    resolving: Map<Rc<str>, Vec<DomainId>>,
    /// The same domains.
    asked: Map<DomainId, ()>,
    /// Where mail goes whose own hosts stay out of reach.
    fallback: Option<Arc<Hosts>>,
    /// Domains whose time there is over: their own hosts have a new chance.
    returning: Map<DomainId, ()>,
    /// The answer that has just come.
    answered: Option<(DomainId, Rc<Resolution>)>,
    /// Domains that wait for an answer about a name that is no route; they are `asked`, too.
    asking: Map<Rc<str>, Vec<DomainId>>,
    /// Sessions that wait for one: their shard, and their question's number there.
    verifying: Map<Rc<str>, Vec<(u16, u64)>>,
    connections: ConnTable<Box<Connection>>,
    lanes: Lanes,
    /// The limits of tenants and campaigns, and of octets.
    scopes: Scopes,
    /// Destinations that wait for a connection of another one of their site.
    change_over: Vec<(Scope, DestinationId)>,
    sources: sources::Sources,
    heat: Heat,
    questions: ConnTable<Question>,
    exchanges: Map<ExchangeId, ConnId>,
    /// Who waits for a record or a chunk from its home.
    fetches: Map<(MessageId, u32), Vec<Fetch>>,
    ahead: Ahead,
    /// Connections that fell idle, longest ago first; entries of those that are busy again are skipped.
    idle: VecDeque<ConnId>,
    /// Connections to flush at the end of a pump.
    touched: Vec<ConnId>,
    /// Destinations to pump at the end of the turn.
    wake: VecDeque<DestinationId>,
    /// Destinations that could not connect because all connections of the shard were in use.
    starved: VecDeque<DestinationId>,
    max_connections: usize,
    flights: Flights,
    /// Messages on their way into Maildirs.
    writers: Writers,
    /// What begins TLS, where it is done at all.
    connector: Option<Connector>,
    unasked: Unasked,
    broken: tls::Broken,
    sts: sts::Sts,
    /// Domains whose record about reports was asked for, by the name that DNS was asked about.
    rua_asked: Map<Rc<str>, Box<str>>,
    /// What records held, while it is looked at.
    plain: Vec<u8>,
    next_token: u64,
    order: Vec<Attempt>,
    due: Vec<ConnId>,
    draining: bool,
}

/// What begins TLS with the authorities of these tables; without them there is none.
fn connector(tables: &Tables) -> Option<Connector> {
    let made = Connector::new(tables.authorities.as_ref()?);
    made.map_err(|error| tracing::error!(%error, "no TLS with other servers")).ok()
}

/// A destination's connections.
#[derive(Default)]
struct Pool {
    /// The site's name, whose limits count here.
    scope: Option<Scope>,
    /// What its flows keep to beside, as far as that was asked.
    flows: Map<FlowId, Bound>,
    /// The number of the pool of sources that its mail goes from.
    from: u16,
    /// The place of its lane, if it has a site: that stays for as long as this pool.
    lane: usize,
    /// Messages have a rate there. Here, as the lane is seldom in the caches where nothing is asked of it.
    paced: bool,
    /// Its site rests until then.
    rests_until: Moment,
    /// It wants no connection of its lane and its sources. A pool is forgotten while its mail waits for one: a new one may.
    wants_none: bool,
    connections: Vec<ConnId>,
    /// Connections that have said QUIT: for the receiver they are connections until they are closed.
    leaving: usize,
    /// Jobs held for sending whose record is in memory, and how much of it that takes.
    loaded: VecDeque<(JobKey, usize)>,
    /// The first of those was put there again: it has just been taken.
    reloaded: bool,
    /// Jobs taken in front of those one after the other, and the last of them whose record was asked for.
    overtaken: usize,
    overtaking: Option<JobKey>,
    /// Jobs held for sending whose record was asked for.
    fetching: usize,
    /// The domain of the last of those.
    fetched_for: Option<DomainId>,
    /// A connection idled to its end while records were read: the next one is opened when one of them has come.
    awaits_record: bool,
    /// Connections of it are to end behind their first message, if one is left for them.
    awaits_first: bool,
    /// It stands in `Deliverer::wake`.
    woken: bool,
    /// It stands in `Deliverer::starved`.
    starved: bool,
    /// Of Maildirs: it waits for a writer.
    awaits_writer: bool,
    /// A host answered a transaction then.
    last_answer: Moment,
    /// Some connections stand and another was refused: no more until then.
    no_more_until: Moment,
    /// Refusals in a row, for that.
    refusals: u32,
    /// Mail of its domain has come from there, or gone there: see `Deliverer::moved`.
    predecessors: Vec<DestinationId>,
    heirs: Vec<DestinationId>,
    /// An attempt that waits for room for another one beside it.
    beside: Option<ConnId>,
    /// Addresses that an attempt has not come to, because connections have a rate.
    left: Option<Box<Left>>,
}

/// What is left of an attempt to connect.
struct Left {
    route: Rc<Resolution>,
    plans: Rc<Plans>,
    /// The next one last.
    addresses: Vec<Attempt>,
    /// How it went with the ones before.
    why: String,
    began: Moment,
}

/// Memory of the records that the pools hold ahead of their turn.
#[derive(Default)]
struct Ahead {
    /// Records asked for.
    asked: usize,
    /// Octets of those that have come.
    loaded: usize,
}

impl Ahead {
    fn octets(&self) -> usize {
        self.loaded + self.asked * limits::SPOOL_READ_BYTES
    }

    /// Whether one more may be asked for before it is needed, or kept though it is not.
    fn has_room(&self) -> bool {
        self.octets() + limits::SPOOL_READ_BYTES <= limits::FETCH_AHEAD_BYTES
    }
}

struct Question {
    exchange: ExchangeId,
    stream: bool,
    /// What TCP is to send once it is connected.
    payload: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Fetch {
    /// The record, for a job that is to be sent.
    Job(DestinationId, JobKey),
    /// A chunk, for a body that is being sent.
    Chunk(ConnId),
    /// A chunk, for a body that is being written into a Maildir by this writer.
    Writer(usize),
}

impl Deliverer {
    /// `seed` must be unpredictable: DNS ids come from it. `max_connections` is this shard's share of descriptors;
    /// `policies` are those of MTA-STS that were kept.
    pub fn new(
        me: u16,
        config: Arc<Config>,
        tables: Arc<Tables>,
        routes: Arc<Routes>,
        (dns, policies): (&DnsSettings, &[Arc<Stored>]),
        max_connections: usize,
        seed: u64,
    ) -> Self {
        let retry = &config.delivery.retry;
        let policy = RetryPolicy {
            first: retry.first,
            factor: retry.factor,
            max: retry.max,
            give_up: retry.give_up,
            jitter: retry.jitter,
        };
        let shards = u16::try_from(config.shards).expect("limits.rs bounds the shards below 1024");
        Deliverer {
            me,
            shards,
            ehlo_name: config.delivery.ehlo_name.as_str().into(),
            timeouts: Arc::default(),
            queue: Queue::new(policy, seed),
            resolver: Resolver::new(dns, seed),
            pools: Pools::default(),
            resolving: Map::default(),
            asked: Map::default(),
            fallback: fallback(&config),
            returning: Map::default(),
            answered: None,
            asking: Map::default(),
            verifying: Map::default(),
            connections: ConnTable::default(),
            lanes: Lanes::new(shards),
            scopes: Scopes::new(&tables.shaping),
            change_over: Vec::new(),
            sources: sources::Sources::new(&config.sources),
            heat: Heat::new(config.delivery.lane_rate),
            questions: ConnTable::default(),
            exchanges: Map::default(),
            fetches: Map::default(),
            ahead: Ahead::default(),
            idle: VecDeque::new(),
            touched: Vec::new(),
            wake: VecDeque::new(),
            starved: VecDeque::new(),
            max_connections,
            flights: Flights::default(),
            writers: Writers::default(),
            connector: connector(&tables),
            unasked: Unasked::new(config.delivery.tls),
            broken: tls::Broken::default(),
            sts: sts::Sts::new(policies, |domain| routes.owner(domain, me, shards, 1) == me),
            rua_asked: Map::default(),
            plain: Vec::new(),
            next_token: 0,
            order: Vec::new(),
            due: Vec::new(),
            draining: false,
            config,
            tables,
            routes,
        }
    }

    /// New accounts, certificates, local names, routes.
    pub fn set_tables(&mut self, tables: Arc<Tables>) {
        let changed = self.tables.routes != tables.routes;
        self.connector = connector(&tables);
        self.tables = tables;
        self.new_shaping();
        if changed {
            self.routes_changed();
        }
    }

    /// The most connections to a destination from here.
    fn most_connections(&self, destination: DestinationId) -> usize {
        let most = self.config.delivery.connections_per_destination;
        match self.fixed_hop(destination) {
            Some(name) => self.routes.connections_to(name, self.me, self.shards, most) as usize,
            None => most as usize,
        }
    }

    // --- mail from home shards ------------------------------------------------------------------------------------

    /// Takes a job.
    pub fn handoff(&mut self, handoff: Handoff, turn: &mut Turn<'_>) {
        let now = turn.now;
        let Handoff { id, home, age, handed, size, domain, recipients, record, terms, flow } = handoff;
        let pool = flow.as_ref().map_or(0, |flow| flow.pool);
        let FlowId { tenant, campaign } = self.flow_of(flow);
        let mut accepted = age::accepted_on_steady(age, handed, now, &self.queue.tenant_policy(tenant));
        if let Some(held) = terms.as_ref().and_then(|t| t.hold_until) {
            accepted = age::later(accepted, held, now);
        }
        let domain = self.domain_for(domain, terms.as_deref(), pool);
        let job = Job { terms, tenant, campaign, ..Job::new(id, home, recipients, accepted, size, record) };
        self.queue.enqueue(&domain, job, now.mono);
    }

    /// A message of another shard is begun: where that is as much as a core should have of one domain, all shards keep their mail
    /// for it. What only waits, since its receiver takes no more, is no work: and in one queue its turns are kept exactly.
    pub(super) fn feel_heat(&mut self, key: JobKey, turn: &mut Turn<'_>) {
        if self.queue.job(key).is_none_or(|job| job.home == self.me) {
            return;
        }
        let Some(domain) = self.queue.domain_of(key).and_then(|domain| self.queue.domain_name(domain)) else { return };
        // Homes know it by its plain name.
        let domain = sources::without_pool(domain);
        let domain = domain.strip_suffix(Plans::NOT_REQUIRED).unwrap_or(domain);
        if self.heat.count(domain, turn.now.mono) && matches!(self.routes.next_hop(domain), NextHop::Mx(_)) {
            for shard in (0..self.shards).filter(|shard| *shard != self.me) {
                turn.post.send(usize::from(shard), Mail::Lane { domain: domain.into() });
            }
        }
    }

    /// Takes a record or chunk that was asked for.
    pub fn fetched(&mut self, id: MessageId, part: u32, record: Option<Slice>, turn: &mut Turn<'_>) {
        for fetch in self.fetches.remove(&(id, part)).unwrap_or_default() {
            match fetch {
                Fetch::Job(destination, key) => {
                    self.ahead.asked -= 1;
                    let Some(pool) = self.pools.get_mut(&destination) else { continue };
                    pool.fetching -= 1;
                    pool.awaits_record = false;
                    // Without a connection it would keep its memory for nobody knows how long.
                    let connected = !pool.connections.is_empty();
                    let homeless = !connected && !self.ahead.has_room() && !self.is_maildir(destination);
                    let rests = self.rests(destination, turn.now.mono) || self.queue.is_suspended(destination);
                    if rests || (homeless && record.is_some()) {
                        self.queue.put_back(key);
                        self.wake(destination);
                        continue;
                    }
                    match (&record, self.queue.job_mut(key)) {
                        (Some(record), Some(job)) => {
                            job.body = Some(record.clone());
                            let first =
                                self.pools.make(destination).overtaking.take_if(|first| *first == key).is_some();
                            self.push_loaded(destination, (key, record.buffer_bytes()), first);
                        }
                        (None, Some(_)) => {
                            // Settled meanwhile is impossible, so it cannot be read: later, perhaps.
                            let status = Some(Status::new(4, 3, 0));
                            let text = b"the message cannot be read from the spool just now";
                            self.defer_job(key, LastReply::new(turn.now.wall, "", 0, status, text), turn);
                        }
                        (_, None) => {}
                    }
                    self.wake(destination);
                }
                Fetch::Writer(writer) => self.chunk_for_writer(writer, record.as_ref(), turn),
                Fetch::Chunk(conn) => {
                    let Some(connection) = self.connections.get_mut(conn) else { continue };
                    match &record {
                        Some(record) => {
                            let want = connection.chunk(id, part, record, turn);
                            self.wrote(conn, want, turn);
                        }
                        // The body cannot be finished, and half of one must not look like a whole: the peer drops what
                        // does not end.
                        None => self.broken(conn, "the message cannot be read from the spool just now", turn),
                    }
                }
            }
        }
    }

    // --- events ---------------------------------------------------------------------------------------------------

    /// Whether `conn` belongs to this half.
    pub fn owns(&self, conn: ConnId) -> bool {
        self.connections.get(conn).is_some() || self.questions.get(conn).is_some()
    }

    /// An event of a connection that `owns` names.
    pub fn handle(&mut self, conn: ConnId, event: RtEvent<'_>, turn: &mut Turn<'_>) {
        if self.questions.get(conn).is_some() {
            self.handle_question(conn, event, turn);
            return;
        }
        let Some(connection) = self.connections.get_mut(conn) else { return };
        match event {
            event if connection.client.is_none() && connection.way.is_some() => self.on_its_way(conn, event, turn),
            RtEvent::Connected { .. } => self.connected(conn, turn),
            RtEvent::Received { bytes, .. } if connection.secure.sealed.is_some() => {
                self.received_sealed(conn, bytes, turn);
            }
            RtEvent::Received { bytes, .. } => {
                if let Some(client) = &mut connection.client {
                    client.handle_input(bytes, turn.now.mono);
                    self.progress(conn, turn);
                }
            }
            RtEvent::Writable { .. } => {
                let want = connection.writable(turn);
                self.wrote(conn, want, turn);
            }
            RtEvent::Failed { error, .. } if connection.client.is_none() => {
                self.connect_failed(conn, &format!("cannot connect: {error}"), turn);
            }
            RtEvent::Failed { .. } | RtEvent::Ended { .. } => {
                if let Some(client) = &mut connection.client {
                    client.handle_closed();
                    self.progress(conn, turn);
                }
            }
            _ => {}
        }
    }

    /// Takes in what the client machine has to say, gives it more to do, and sends.
    fn progress(&mut self, conn: ConnId, turn: &mut Turn<'_>) {
        let Some(destination) = self.connections.get(conn).map(|c| c.destination) else { return };
        match self.client_events(conn, turn) {
            Some(end) => self.closed(conn, end, turn),
            None => {
                self.pump(destination, turn);
                self.flush(conn, turn);
            }
        }
    }

    /// Has the destination pumped before the turn ends.
    fn wake(&mut self, destination: DestinationId) {
        let pool = self.pools.make(destination);
        if !std::mem::replace(&mut pool.woken, true) {
            self.wake.push_back(destination);
        }
    }

    fn flush(&mut self, conn: ConnId, turn: &mut Turn<'_>) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let want = connection.flush(turn);
        self.after_flush(conn, want, turn);
    }

    /// What had waited was written, or a part of it: the connection may take another message now.
    fn wrote(&mut self, conn: ConnId, want: Want, turn: &mut Turn<'_>) {
        let free = self.connections.get(conn).filter(|connection| connection.can_start());
        let destination = free.map(|connection| connection.destination);
        self.after_flush(conn, want, turn);
        if let Some(destination) = destination {
            self.wake(destination);
        }
    }

    fn after_flush(&mut self, conn: ConnId, want: Want, turn: &mut Turn<'_>) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if let Want::Chunk(id, part, token) = want {
            let job = connection.transaction(token).map(|t| t.job);
            if let Some(home) = job.and_then(|key| self.queue.job(key)).map(|job| job.home) {
                self.fetch(id, part, home, Fetch::Chunk(conn), turn);
            }
        }
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if connection.is_idle() {
            if connection.idle_since.is_none() {
                connection.idle_since = Some(turn.now.mono);
                if !std::mem::replace(&mut connection.listed, true) {
                    self.idle.push_back(conn);
                }
                self.idles(conn, turn);
            }
            let Some(connection) = self.connections.get(conn) else { return };
            if self.draining || connection.is_spent() {
                self.quit(conn, turn);
            }
        }
        self.arm(conn);
    }

    fn arm(&mut self, conn: ConnId) {
        let delivery = &self.config.delivery;
        let deadline =
            self.connections.get(conn).and_then(|c| c.deadline(delivery.connect_timeout, delivery.idle_timeout));
        self.connections.set_deadline(conn, deadline);
    }

    fn quit(&mut self, conn: ConnId, turn: &mut Turn<'_>) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        // Not idle any more for the pool; the machine gives the peer its time to answer.
        connection.idle_since = None;
        let leaves = std::mem::replace(&mut connection.leaves, true);
        if let Some(client) = &mut connection.client {
            client.quit(turn.now.mono);
            let _ = connection.flush(turn);
        }
        let destination = connection.destination;
        if !leaves {
            if let Some(scope) = connection.source_scope.clone() {
                self.begins_none_from(destination, &scope);
            }
            let pool = self.pools.make(destination);
            pool.connections.retain(|c| *c != conn);
            pool.leaving += 1;
        }
        // What it will not carry another one must.
        self.wake(destination);
        self.arm(conn);
    }

    /// Connections whose time is up.
    pub fn handle_deadlines(&mut self, turn: &mut Turn<'_>) {
        let mut due = std::mem::take(&mut self.due);
        self.connections.due(turn.now.mono, &mut due);
        for &conn in &due {
            let Some(connection) = self.connections.get_mut(conn) else { continue };
            match &mut connection.client {
                None if connection.beside_at.is_some_and(|at| at <= turn.now.mono) => self.try_beside(conn, turn),
                None if connection.way.is_some() => self.way_timed_out(conn, turn),
                None => self.connect_failed(conn, "no answer to the connection attempt in time", turn),
                Some(_) if connection.idle_since.is_some() => {
                    let pool = self.pools.make(connection.destination);
                    pool.awaits_record |= pool.fetching > 0;
                    self.quit(conn, turn);
                }
                Some(client) => {
                    client.handle_timeout(turn.now.mono);
                    self.progress(conn, turn);
                }
            }
        }
        self.due = due;
    }

    // --- the turn -------------------------------------------------------------------------------------------------

    /// The end of a turn: timers, DNS, and every destination that has something new to send.
    pub fn turn(&mut self, turn: &mut Turn<'_>) {
        if self.queue.poll_timeout().is_some_and(|at| at <= turn.now.mono) {
            self.queue.handle_timeout(age::steady(turn.now));
        }
        if self.resolver.poll_timeout().is_some_and(|at| at <= turn.now.mono) {
            self.resolver.handle_timeout(turn.now.mono);
        }
        self.dns(turn);
        self.sts_turn(turn);
        while let Some(key) = self.queue.poll_expired() {
            self.expire(key, turn);
        }
        while let Some(key) = self.queue.poll_late() {
            self.late(key, turn);
        }
        while let Some(destination) = self.queue.poll_touched() {
            self.pump(destination, turn);
        }
        for _ in 0..self.starved.len() {
            if self.connections.len() >= self.max_connections && self.idle.is_empty() {
                break;
            }
            let Some(destination) = self.starved.pop_front() else { break };
            if let Some(pool) = self.pools.get_mut(&destination) {
                pool.starved = false;
                self.pump(destination, turn);
            }
        }
        for _ in 0..self.wake.len() {
            let Some(destination) = self.wake.pop_front() else { break };
            if let Some(pool) = self.pools.get_mut(&destination) {
                pool.woken = false;
                self.pump(destination, turn);
            }
        }
        // Those closed meanwhile stay in the list until it is looked through.
        if self.idle.len() > 2 * self.connections.len() + 64 {
            let connections = &self.connections;
            self.idle.retain(|conn| connections.get(*conn).is_some());
        }
        // A pump may have asked DNS.
        self.dns(turn);
        self.sources_turn(turn);
        self.lease_turn(turn);
    }

    /// Whether another turn has something to do at once.
    pub fn has_work(&self) -> bool {
        !self.wake.is_empty() || self.queue.has_work()
    }

    /// Bodies of mail that could not go at once leave memory; the spool has them.
    pub fn drop_stale_bodies(&mut self, now: Now) {
        self.queue.drop_stale_bodies(now.mono, limits::QUEUE_BODY_AGE);
    }

    /// The next moment at which something is due.
    pub fn poll_timeout(&self) -> Option<Moment> {
        let limits = [self.lanes.poll_timeout(), self.scopes.poll_timeout(), self.sources.poll_timeout()];
        let limits = limits.into_iter().flatten();
        let others = [self.queue.poll_timeout(), self.resolver.poll_timeout(), self.sts.poll_timeout()];
        others.into_iter().flatten().chain(limits).min()
    }

    /// No more transactions; what is under way is finished.
    pub fn drain(&mut self, turn: &mut Turn<'_>) {
        self.draining = true;
        for conn in self.connections.ids().collect::<Vec<_>>() {
            let Some(connection) = self.connections.get(conn) else { continue };
            if connection.client.is_none() {
                self.forget(conn, turn);
            } else if connection.is_idle() {
                self.quit(conn, turn);
            }
        }
    }

    /// The shard ends: what still stands (a peer that owes its reply to QUIT, a question to DNS) is closed.
    pub fn close_all(&mut self, turn: &mut Turn<'_>) {
        for conn in self.connections.ids().chain(self.questions.ids()) {
            turn.io.close(conn);
        }
    }

    /// Whether no transaction is under way.
    pub fn is_quiet(&self) -> bool {
        let sent = |conn| self.connections.get(conn).is_none_or(|c| c.transactions.is_empty());
        self.writers.is_empty() && self.connections.ids().all(sent)
    }

    /// The numbers of this half, for the metrics.
    pub fn report(&self, stats: &ShardStats) {
        let counts = self.queue.counts();
        stats.queue_ready.set(counts.ready as u64);
        stats.queue_waiting.set(counts.waiting as u64);
        stats.queue_in_flight.set(counts.in_flight as u64);
        stats.queue_destinations.set(counts.destinations as u64);
        stats.outbound_open.set(self.connections.len() as u64);
        let dns = self.resolver.counters();
        stats.dns_queries.follow(dns.queries);
        stats.dns_cache_hits.follow(dns.cache_hits);
        stats.dns_failures.follow(dns.unanswered);
        stats.dns_stale.follow(dns.stale);
        stats.dns_prefetched.follow(dns.prefetched);
    }
}

/// `[delivery] fallback_relay`, which the start has checked.
fn fallback(config: &Config) -> Option<Arc<Hosts>> {
    let relay = config.delivery.fallback_relay.as_ref()?;
    relay.to_string().parse::<SmartHost>().ok().map(|host| Arc::new(host.into()))
}
