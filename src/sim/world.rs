//! A relay in the simulated world: started from its spool, stopped, killed, started again with another number of shards.
//!
//! Inputs: a configuration, hosts, orders. Output: a run, and what the relay says of itself. The shards are the
//! production code with the production recovery between two lives; nothing is stubbed but what `rt` stands for.

use super::client::Client;
use super::day::Someone;
use super::hop::Hop;
use super::proxy::Proxy;
use super::saturated::Feeder;
use super::zone::Zone;
use crate::config::{self, Config, Host as HostName};
use crate::dns::{AddressFamilies, DnsSettings};
use crate::limits;
use crate::message::MessageId;
use crate::route::Routes;
use crate::rt::sim::{End, Host, HostEvent, HostSide, Rng, Sim, Step};
use crate::shard::event::{self, Event, EventSource};
use crate::shard::mailbox::{Control, Mail, Mailboxes, SourceRest};
use crate::shard::stats::{HistogramSource, Kind, ShardStats, stage_histograms};
use crate::shard::{Ending, Parts, QuotaFiles, Report, RestFiles, ShardCore, Tables};
use crate::spool::{self, Geometry};
use crate::time::{Moment, Wall};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where every world begins: 2026-11-18, in milliseconds.
pub const WALL: u64 = 1_795_000_000_000;
/// The spool's folder on the simulated disk.
pub const FOLDER: &str = "/spool";

/// A machine of the world.
pub enum Machine {
    /// It receives mail.
    Hop(Box<Hop>),
    /// It sends mail.
    Client(Box<Client>),
    /// It answers questions.
    Zone(Box<Zone>),
    /// It connects for others.
    Proxy(Box<Proxy>),
    /// It does what a test tells it.
    Other(Box<dyn Host>),
    /// It sends all it has at once.
    Feeder(Box<Feeder>),
    /// It has a part in a provider's day.
    Day(Box<Someone>),
}

impl Host for Machine {
    fn listens(&self, port: u16) -> bool {
        match self {
            Machine::Hop(hop) => hop.listens(port),
            Machine::Client(client) => client.listens(port),
            Machine::Zone(zone) => zone.listens(port),
            Machine::Proxy(proxy) => proxy.listens(port),
            Machine::Other(host) => host.listens(port),
            Machine::Feeder(feeder) => feeder.listens(port),
            Machine::Day(someone) => someone.listens(port),
        }
    }

    fn handle(&mut self, event: HostEvent<'_>, side: &mut HostSide<'_>) {
        match self {
            Machine::Hop(hop) => hop.handle(event, side),
            Machine::Client(client) => client.handle(event, side),
            Machine::Zone(zone) => zone.handle(event, side),
            Machine::Proxy(proxy) => proxy.handle(event, side),
            Machine::Other(host) => host.handle(event, side),
            Machine::Feeder(feeder) => feeder.handle(event, side),
            Machine::Day(someone) => someone.handle(event, side),
        }
    }
}

/// A message as recovery found it: its pending recipients.
pub type Found = BTreeMap<MessageId, Vec<String>>;

/// What the relay said of itself, counted.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "the names of the events")]
pub struct Said {
    pub accepted: u64,
    pub rejected: u64,
    pub delivered: u64,
    pub deferred: u64,
    pub bounced: u64,
    pub expired: u64,
    pub notices: u64,
}

/// The configuration of the tests: the sample file, the simulated folder, port 25.
pub fn config() -> Config {
    let machine = config::Machine {
        hostname: Some("relay.test".to_owned()),
        cores: 1,
        directory: PathBuf::from("/"),
        resolv_conf: "nameserver 192.0.2.53\n".to_owned(),
        interfaces: Vec::new(),
    };
    let mut config = config::parse("simulation", config::EMBEDDED, &machine).expect("the sample is right").config;
    config.spool.path = PathBuf::from(FOLDER);
    config.delivery.port = 25;
    config.delivery.smart_host = None;
    config.delivery.ipv6 = false;
    // Its world has no HTTPS.
    config.delivery.mta_sts = false;
    config
}

/// Who hears events.
pub type Listener = Box<dyn FnMut(&Event)>;

/// See the module.
pub struct World {
    /// Shards, hosts, network, disk, clock.
    pub sim: Sim<ShardCore, Machine>,
    /// The relay's configuration.
    pub config: Arc<Config>,
    /// Accounts and certificates.
    pub tables: Arc<Tables>,
    /// Its share of descriptors.
    pub max_connections: usize,
    /// Sizes of its log.
    pub geometry: Geometry,
    /// What it said.
    pub said: Said,
    /// Who hears each of its events.
    pub listener: Option<Listener>,
    /// Numbers of each shard.
    pub stats: Vec<Arc<ShardStats>>,
    /// What recovery complained of, over all lives.
    pub damage: Vec<String>,
    /// Lives begun.
    pub lives: u32,
    rng: Rng,
    /// What crosses cores. New with each life.
    pub mailboxes: Mailboxes,
    links: Vec<(EventSource, HistogramSource)>,
}

impl World {
    /// An empty world with the relay not running.
    pub fn new(seed: u64, config: Config, max_connections: usize, geometry: Geometry) -> World {
        let mut rng = Rng::new(seed);
        World {
            sim: Sim::new(rng.next(), WALL),
            config: Arc::new(config),
            tables: Arc::default(),
            max_connections,
            geometry,
            said: Said::default(),
            listener: None,
            stats: Vec::new(),
            damage: Vec::new(),
            lives: 0,
            rng,
            mailboxes: Mailboxes::new(1),
            links: Vec::new(),
        }
    }

    /// Recovers the spool and starts `shards` shards. What was found; an error if the disk failed meanwhile.
    pub fn start(&mut self, shards: u16) -> Result<Found, String> {
        let count = usize::from(shards);
        let wall = self.sim.now().wall;
        let seed = self.rng.next();
        let options = spool::Options { shards, wall, seed, geometry: self.geometry, scan_threads: 1 };
        let disk = self.sim.core.disk.clone();
        let recovery = spool::recover(&disk, Path::new(FOLDER), options).map_err(|error| error.to_string())?;
        self.damage.extend(recovery.damage.iter().map(ToString::to_string));
        self.lives += 1;
        let mut found = Found::new();
        for message in recovery.shards.iter().flat_map(spool::Recovered::messages) {
            let pending = message.pending().map(|r| String::from_utf8_lossy(r.address).into_owned()).collect();
            found.insert(message.id(), pending);
        }
        Arc::make_mut(&mut self.config).shards = count;
        self.mailboxes = Mailboxes::new(count);
        let ending = Ending::new(count);
        let quotas = Arc::new(QuotaFiles::read(&disk, Path::new(FOLDER)).map_err(|error| error.to_string())?);
        let rests = Arc::new(RestFiles::read(&disk, Path::new(FOLDER), self.sim.now()));
        let routes = Arc::new(self.routes());
        let dns = DnsSettings {
            servers: self.config.dns.servers.clone(),
            timeout: self.config.dns.timeout,
            attempts: self.config.dns.attempts,
            families: if self.config.delivery.ipv6 { AddressFamilies::default() } else { AddressFamilies::Ipv4Only },
            addresses_only: self.config.delivery.smart_host.is_some(),
            ..DnsSettings::default()
        };
        (self.stats, self.links) = (Vec::new(), Vec::new());
        let mut cores = Vec::new();
        for (me, recovered) in (0..shards).zip(recovery.shards) {
            let (events, source) = event::channel(true);
            let (histograms, taken) = stage_histograms();
            let stats = Arc::new(ShardStats::default());
            let report = Report { stats: Arc::clone(&stats), events, histograms };
            self.stats.push(stats);
            self.links.push((source, taken));
            cores.push(ShardCore::new(Parts {
                me,
                policies: Arc::default(),
                shards,
                config: Arc::clone(&self.config),
                tables: Arc::clone(&self.tables),
                quotas: Arc::clone(&quotas),
                rests: Arc::clone(&rests),
                now: self.sim.now(),
                routes: Arc::clone(&routes),
                dns: dns.clone(),
                recovered,
                mailboxes: self.mailboxes.clone(),
                report,
                ending: Arc::clone(&ending),
                max_connections: self.max_connections,
                geometry: self.geometry,
                seed: self.rng.next(),
            }));
        }
        self.sim.start(cores);
        Ok(found)
    }

    fn routes(&self) -> Routes {
        let local = self.config.local.iter();
        let local = local.flat_map(|block| block.domains.iter().map(|domain| (domain.as_str(), &block.deliver)));
        let others = match &self.config.delivery.smart_host {
            Some(smart) => {
                let HostName::Name(name) = &smart.host else { unreachable!("the world's smart host has a name") };
                Routes::SmartHost(format!("{name}:{}", smart.port).parse().expect("a name and a port"))
            }
            None => Routes::Mx,
        };
        others.with_local(local)
    }

    /// Ends the process where it stands.
    pub fn end(&mut self, end: End) {
        self.take_events();
        self.count();
        self.sim.end_process(end);
    }

    /// One thing happens, unless nothing does before `latest`.
    pub fn step(&mut self, latest: Moment) -> Step {
        let step = self.sim.step(latest);
        if self.sim.core.counts.turns.is_multiple_of(16) {
            self.take_events();
        }
        step
    }

    /// Marks what this life of the relay counted. Once, at its end.
    pub fn count(&mut self) {
        for value in self.stats.iter().flat_map(|stats| stats.values()) {
            if value.kind == Kind::Counter {
                self.sim.core.marks.add_many(format!("relay counts {}", value.name), value.value);
            }
        }
    }

    /// What the shards reported since the last time.
    pub fn take_events(&mut self) {
        let (said, listener) = (&mut self.said, &mut self.listener);
        for (events, _) in &mut self.links {
            while events.take_batch(|event| {
                match &event {
                    Event::Accepted(_) => said.accepted += 1,
                    Event::Rejected(_) => said.rejected += 1,
                    Event::Delivered(_) => said.delivered += 1,
                    Event::Deferred(_) => said.deferred += 1,
                    Event::Bounced(_) => said.bounced += 1,
                    Event::Expired(_) => said.expired += 1,
                    Event::Notice(_) => said.notices += 1,
                    Event::Sts(_) | Event::Tls(_) | Event::Rua(_) => {}
                }
                if let Some(listener) = listener {
                    listener(event);
                }
            }) {}
        }
    }

    /// Runs until `condition` holds; false if it does not within `limit` of virtual time, or the process was killed.
    pub fn run_until(&mut self, limit: Duration, mut condition: impl FnMut(&World) -> bool) -> bool {
        let end = self.sim.now().mono + limit;
        while !condition(self) {
            if self.sim.now().mono >= end || self.step(end) == Step::Killed {
                return false;
            }
        }
        true
    }

    /// The control plane speaks to every shard that runs.
    pub fn control(&mut self, control: Control) {
        for shard in 0..self.sim.shards.len() {
            if self.sim.shards[shard].is_some() {
                // A full mailbox refuses it, as it would the control plane.
                let _ = self.mailboxes.push(shard, vec![Mail::Control(control.clone())]);
                self.sim.wake(shard);
            }
        }
    }

    /// Every shard that runs is told that a source rests for a site; whether all have room for that.
    pub fn rest_source(&mut self, site: &crate::lease::Scope, source: u16, until: Moment) -> bool {
        let mut all = true;
        for shard in 0..self.sim.shards.len() {
            if self.sim.shards[shard].is_some() {
                let rest = Box::new(SourceRest { site: site.clone(), source, until, why: "a test".into() });
                all &= self.mailboxes.push(shard, vec![Mail::SourceRest(rest)]).is_ok();
                self.sim.wake(shard);
            }
        }
        all
    }

    /// Others have sent a shard all that its mailbox holds; it means nothing to it.
    pub fn stuff(&self, shard: usize) {
        let mail = || vec![Mail::Fetched { id: MessageId(0), part: u32::MAX, record: None }];
        while shard < self.sim.shards.len() && self.mailboxes.push(shard, mail()).is_ok() {}
    }

    /// Whether the mailbox of a shard is nearly full.
    pub fn is_stuffed(&self) -> bool {
        (0..self.sim.shards.len()).any(|shard| self.mailboxes.len(shard) + 8 > limits::MAILBOX_BATCHES)
    }

    /// Messages that are not settled wholly, by the shards' own numbers: of half a second ago at most.
    pub fn queued(&self) -> u64 {
        self.stats.iter().map(|stats| stats.spool_messages.get()).sum()
    }

    /// What a start would find now, on a copy of the disk.
    pub fn durable(&self) -> Found {
        let copy = self.sim.core.disk.copy();
        let wall = Wall(self.sim.now().wall.0);
        let shards = u16::try_from(self.sim.shards.len().max(1)).expect("few shards");
        let options = spool::Options { shards, wall, seed: 1, geometry: self.geometry, scan_threads: 1 };
        let recovery = spool::recover(&copy, Path::new(FOLDER), options).expect("the copy has no faults");
        let messages = recovery.shards.iter().flat_map(spool::Recovered::messages);
        let pending = messages.map(|message| {
            let pending = message.pending().map(|r| String::from_utf8_lossy(r.address).into_owned()).collect();
            (message.id(), pending)
        });
        pending.collect()
    }

    /// The next hop at `address`.
    pub fn hop(&mut self, address: IpAddr) -> Option<&mut Hop> {
        match self.sim.hosts.get_mut(&address)? {
            Machine::Hop(hop) => Some(hop),
            _ => None,
        }
    }

    /// All next hops.
    pub fn hops(&self) -> impl Iterator<Item = (IpAddr, &Hop)> {
        self.sim.hosts.iter().filter_map(|(ip, host)| match host {
            Machine::Hop(hop) => Some((*ip, &**hop)),
            _ => None,
        })
    }

    /// All clients.
    pub fn clients(&self) -> impl Iterator<Item = &Client> {
        self.sim.hosts.values().filter_map(|host| match host {
            Machine::Client(client) => Some(&**client),
            _ => None,
        })
    }
}
