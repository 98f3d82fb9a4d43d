//! A provider's day: millions of letters from several tenants to many domains through the real relay in the simulated world,
//! with the day's ups and downs, receivers that count, greylist and fail, an outage of DNS and a crash.
//!
//! Input: a [`Plan`]. Output: a [`Day`], the account of it by letter, by five minutes and by site, and what must not have
//! happened: an acknowledged letter that is nowhere, one delivered twice without a reason, to a wrong host or not whole, a
//! limit passed. The world is lean where nothing is judged: receivers keep no texts, the network remembers no octets. The
//! relay is the production code. `loadtest day` is the command in front.

pub mod book;
mod letter;
pub mod receiver;
pub mod sender;
pub mod town;

use self::book::{Book, MIDNIGHT, Pages, SLOT, State, Why, since_midnight};
use self::receiver::{Manner, Receiver};
use self::sender::Sender;
use self::town::{OWN, Outage, PROVIDERS, Plan, SITES, TENANTS, Town, Trouble, hosts_of};
use super::saturated::listener;
use super::world::{Machine, World, config};
use super::zone::{Mood, Records, Zone};
use crate::accounts::{Accounts, Secret};
use crate::rt::sim::rng::mix;
use crate::rt::sim::{End, Host, HostEvent, HostSide, Step};
use crate::shaping::Shaping;
use crate::shard::Tables;
use crate::shard::event::Event;
use crate::shard::mailbox::Control;
use crate::smtp::sasl::{Password, ScramKeys};
use crate::spool::Geometry;
use crate::time::Moment;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Where notifications go.
const HOME: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 53), Ipv4Addr::new(192, 0, 2, 54)];
/// Descriptors for connections to receivers, of a shard.
const CONNECTIONS: usize = 4000;

/// How a site fared.
#[derive(Clone, Debug, Default)]
pub struct SiteDay {
    /// Its name.
    pub name: String,
    /// Connections that it allows at a time.
    pub connections: Option<u32>,
    /// Messages that it allows, as a rate in words, and in five minutes.
    pub rate: Option<(String, f64)>,
    /// The relay has a rule for these.
    pub is_known: bool,
    /// The most connections that stood.
    pub peak: u32,
    /// Connections that came.
    pub connects: u64,
    /// Connections that stood, on average.
    pub mean_open: f64,
    /// Refused because there were too many.
    pub refused_connections: u64,
    /// Refused because there were too many.
    pub refused_messages: u64,
}

/// How a day was, at one gateway.
pub struct Day {
    /// What was asked for.
    pub plan: Plan,
    /// The account.
    pub pages: Pages,
    /// By their numbers.
    pub sites: Vec<SiteDay>,
    /// What was planned to go wrong.
    pub outages: Vec<Outage>,
    /// What the relay counted, over its lives.
    pub relay: BTreeMap<String, u64>,
    /// Letters in the spool at the end.
    pub kept: u64,
    /// Letters found when the relay started again behind the crash.
    pub found: u64,
    /// Turns of shards.
    pub turns: u64,
    /// Events handed to them.
    pub events: u64,
    /// Of the trace.
    pub hash: u64,
}

/// What is planned to happen.
enum Deed {
    Begin(Outage),
    Cease(Outage),
}

struct Run<'p> {
    plan: Plan,
    town: Rc<Town>,
    book: Book,
    world: World,
    manners: Vec<Rc<RefCell<Manner>>>,
    found: u64,
    progress: &'p mut dyn FnMut(Duration, &Pages),
}

/// Runs `plan`; `progress` is told of the time of day and the account, every five virtual minutes.
///
/// # Panics
/// If the relay does, or does not start.
pub fn run(plan: Plan, progress: &mut dyn FnMut(Duration, &Pages)) -> Day {
    let mut run = Run::new(plan, progress);
    run.begin();
    let mut deeds: Vec<(Moment, Deed)> = Vec::new();
    for outage in &run.town.outages {
        deeds.push((MIDNIGHT + outage.from, Deed::Begin(*outage)));
        deeds.push((MIDNIGHT + outage.until, Deed::Cease(*outage)));
    }
    deeds.sort_by_key(|(at, _)| *at);
    for (at, deed) in deeds {
        run.until(at);
        run.perform(&deed);
    }
    run.until(MIDNIGHT + plan.length());
    run.end()
}

fn tables(rules: &str) -> Tables {
    let password = Password::new(b"pencil").expect("a short password");
    let secret = Secret::Scram(ScramKeys::derive(&password, &[1; 16], 4096)).encode();
    let mut text = String::new();
    for tenant in &TENANTS {
        let name = tenant.name;
        text += &format!("[[account]]\nname = \"{name}\"\nsecret = \"{secret}\"\nfrom = [\"@{name}.test\"]\n");
    }
    let accounts = Accounts::parse("accounts.toml", &text, [7; 32]).expect("a good file");
    let shaping = Arc::new(Shaping::parse(&[("shaping.toml", rules)]).expect("a good file"));
    Tables { accounts, shaping, ..Tables::default() }
}

impl<'p> Run<'p> {
    fn new(plan: Plan, progress: &'p mut dyn FnMut(Duration, &Pages)) -> Self {
        let town = Rc::new(Town::new(plan));
        let book = Book::new();
        let mut config = config();
        config.hostname = "relay.test".to_owned();
        config.listeners = vec![listener()];
        config.relay.from_networks = vec!["192.0.2.0/32".parse().expect("a network")];
        config.dns.servers = SERVERS.map(|ip| SocketAddr::new(ip.into(), 53)).to_vec();
        let seed = mix(plan.seed ^ u64::from(plan.gateway) << 32);
        let mut world = World::new(seed, config, CONNECTIONS, Geometry::default());
        world.tables = Arc::new(tables(&town.rules()));
        world.sim.core.remembers = false;
        world.sim.core.window = (1 << 20, 0);
        world.sim.core.turn_us = (1, 40);
        let notes = book.clone();
        // The origin of the wall clock is a second before midnight.
        let origin = world.sim.now().wall.0;
        world.listener = Some(Box::new(move |event| {
            if let Event::Deferred(outcome) = event {
                let at = MIDNIGHT + Duration::from_millis(outcome.at.0.saturating_sub(origin));
                let why = Why::of(outcome.code, outcome.text.get(4));
                notes.write(|book| book.defer(letter::mark_in(outcome.text.get(0)), why, at));
            }
        }));
        Run { plan, town, book, world, manners: Vec::new(), found: 0, progress }
    }

    fn begin(&mut self) {
        let records = Records::new();
        records.ttl(3600);
        for (n, place) in self.town.places.iter().enumerate() {
            let manner = Manner::new(n as u16, place.allowed, place.chunking);
            self.manners.push(Rc::new(RefCell::new(manner)));
        }
        for n in 0..PROVIDERS {
            let hosts = hosts_of(n);
            for (index, ip) in hosts.iter().enumerate() {
                records.host(&format!("mx{index}.p{n}.test"), &[*ip], &[]);
                self.add_receiver((*ip).into(), n, false);
            }
            let most = self.town.places[n].allowed.connections.filter(|_| self.town.places[n].allowed.is_known);
            let most = most.unwrap_or(self.world.config.delivery.connections_per_destination);
            self.world.sim.core.cap(hosts.into_iter().map(IpAddr::from), most as usize);
        }
        let town = Rc::clone(&self.town);
        for domain in &town.domains {
            let name = &domain.name;
            match (usize::from(domain.site), domain.host) {
                (n, None) if n < PROVIDERS => {
                    let names: Vec<String> =
                        (0..hosts_of(n).len()).map(|index| format!("mx{index}.p{n}.test")).collect();
                    let names: Vec<(u16, &str)> = names.iter().map(|name| (10, name.as_str())).collect();
                    records.domain(name, &names);
                }
                (site, Some(host)) => {
                    let exchanger = format!("mx.{name}");
                    records.host(&exchanger, &[host], &[]);
                    records.domain(name, &[(10, &exchanger)]);
                    self.add_receiver(host.into(), site, false);
                    self.world.sim.core.path(host.into()).silent = site == usize::from(town::DEAD);
                }
                _ => {}
            }
        }
        records.host("mx.home.test", &[HOME], &[]);
        self.add_receiver(HOME.into(), usize::from(OWN), true);
        for (n, tenant) in TENANTS.iter().enumerate() {
            records.domain(&format!("{}.test", tenant.name), &[(10, "mx.home.test")]);
            let sender = Sender::new(n as u8, Rc::clone(&self.town), self.book.clone());
            self.add(IpAddr::from([127, 9, 0, 1 + n as u8]), Someone::Sender(sender));
        }
        for server in SERVERS {
            self.world.sim.hosts.insert(server.into(), Machine::Zone(Box::new(Zone::new(records.clone()))));
        }
        self.world.start(self.plan.shards).expect("an empty disk has no faults");
        for n in 0..TENANTS.len() {
            self.with_sender(n, |sender, side| sender.start(side));
        }
    }

    fn add(&mut self, ip: IpAddr, someone: Someone) {
        self.world.sim.hosts.insert(ip, Machine::Day(Box::new(someone)));
    }

    fn add_receiver(&mut self, ip: IpAddr, site: usize, home: bool) {
        let manner = Rc::clone(&self.manners[site]);
        let receiver = Receiver::new(manner, self.book.clone(), Rc::clone(&self.town), home);
        let spread = mix(self.plan.seed ^ u64::from(ip.to_canonical().is_ipv4()) ^ site as u64) % 1000;
        self.world.sim.core.path(ip).latency_us = (self.town.places[site].latency_us + spread, 500);
        self.add(ip, Someone::Receiver(receiver));
    }

    fn with_sender(&mut self, n: usize, act: impl FnOnce(&mut Sender, &mut HostSide<'_>)) {
        self.world.sim.with_host(IpAddr::from([127, 9, 0, 1 + n as u8]), |machine, side| {
            if let Machine::Day(someone) = machine
                && let Someone::Sender(sender) = &mut **someone
            {
                act(sender, side);
            }
        });
    }

    /// Virtual time passes; what is to be noted every five minutes is.
    fn until(&mut self, end: Moment) {
        loop {
            let now = self.world.sim.now().mono;
            let slot = Duration::from_secs((now.since(MIDNIGHT).as_secs() / SLOT.as_secs() + 1) * SLOT.as_secs());
            let slot = MIDNIGHT + slot;
            let until = slot.min(end);
            while self.world.step(until) != Step::Waited {}
            self.world.take_events();
            if until == slot {
                // The slot that ends here.
                self.book.write(|book| book.close_slot(Moment(slot.0 - 1)));
                self.watch();
                self.book.read(|book| (self.progress)(slot.since(MIDNIGHT), book));
            }
            if until == end {
                return;
            }
        }
    }

    fn watch(&mut self) {
        let book = &self.book;
        for shard in self.world.sim.shards.iter().flatten() {
            shard.audit(&mut |what, size, bound| {
                if size > bound {
                    book.write(|book| book.violate(format!("{what}: {size} of {bound}")));
                }
            });
        }
        if let Some(shard) = self.world.sim.spins() {
            book.write(|book| book.violate(format!("shard {shard} takes turn after turn and nothing comes of it")));
        }
    }

    fn perform(&mut self, deed: &Deed) {
        let (Deed::Begin(outage) | Deed::Cease(outage)) = deed;
        let begins = matches!(deed, Deed::Begin(_));
        match (outage.trouble, outage.site.map(usize::from)) {
            (Trouble::Unreachable, Some(site)) => {
                for ip in hosts_of(site) {
                    self.world.sim.core.path(ip.into()).silent = begins;
                    if begins {
                        self.world.sim.core.reset_all(ip.into());
                    }
                }
            }
            (Trouble::Closed, Some(site)) => {
                self.manners[site].borrow_mut().closed = begins;
                if begins {
                    hosts_of(site).into_iter().for_each(|ip| self.world.sim.core.reset_all(ip.into()));
                }
            }
            (Trouble::Slow, Some(site)) => {
                self.manners[site].borrow_mut().delay = if begins { Duration::from_secs(4) } else { Duration::ZERO };
            }
            (Trouble::Dns, _) => {
                for server in SERVERS {
                    if let Some(Machine::Zone(zone)) = self.world.sim.hosts.get_mut(&server.into()) {
                        zone.set_mood(if begins { Mood::ServFail } else { Mood::Well });
                    }
                }
            }
            (Trouble::Crash, _) if begins => {
                let now = self.world.sim.now().mono;
                self.book.write(|book| book.crashes.push(now));
                self.world.end(End::Killed);
            }
            (Trouble::Crash, _) => {
                let found = self.world.start(self.plan.shards).expect("the disk has no faults");
                self.found = found.len() as u64;
            }
            (Trouble::Unreachable | Trouble::Closed | Trouble::Slow, None) => {}
        }
    }

    /// The relay is drained; what it has not delivered must be in its spool.
    fn end(mut self) -> Day {
        for n in 0..TENANTS.len() {
            self.with_sender(n, |sender, _| sender.stop());
        }
        self.world.control(Control::Drain);
        let latest = self.world.sim.now().mono + self.world.config.drain_timeout + Duration::from_secs(20);
        while !self.world.sim.stopped() && self.world.step(latest) != Step::Waited {}
        if !self.world.sim.stopped() {
            self.book.write(|book| book.violate("the drain did not end".to_owned()));
        }
        if let Some((at, host, open, most)) = self.world.sim.core.over_cap().first() {
            let text = format!("{host}: {open} connections of {most}, {} ms after midnight", since_midnight(*at));
            self.book.write(|book| book.violate(text));
        }
        self.world.end(End::Killed);
        let (turns, events) = (self.world.sim.core.counts.turns, self.world.sim.core.counts.events);
        let hash = self.world.sim.core.trace.hash();
        let marks = self.world.sim.core.marks.iter();
        let relay = marks.filter_map(|(what, n)| Some((what.strip_prefix("relay counts ")?.to_owned(), n))).collect();
        let kept = self.check_spool();
        let length = self.plan.length();
        let sites = (0..SITES).map(|n| self.site_day(n, length)).collect();
        let outages = self.town.outages.clone();
        let pages = self.book.take();
        Day { plan: self.plan, pages, sites, outages, relay, kept, found: self.found, turns, events, hash }
    }

    fn site_day(&self, n: usize, length: Duration) -> SiteDay {
        let (place, manner) = (&self.town.places[n], self.manners[n].borrow());
        let in_a_slot =
            |rate: crate::shaping::Rate| f64::from(rate.count()) / rate.period().as_secs_f64() * SLOT.as_secs_f64();
        if place.allowed.is_known && manner.refused_connections + manner.refused_messages > 0 {
            let text = format!(
                "{} refused {} connections and {} messages beyond what the relay knows that it allows",
                place.name, manner.refused_connections, manner.refused_messages
            );
            self.book.write(|book| book.violate(text));
        }
        SiteDay {
            name: place.name.clone(),
            connections: place.allowed.connections,
            rate: place.allowed.rate.map(|rate| (rate.to_string(), in_a_slot(rate))),
            is_known: place.allowed.is_known,
            peak: manner.peak,
            connects: manner.connects,
            mean_open: manner.busy as f64 / length.as_nanos() as f64,
            refused_connections: manner.refused_connections,
            refused_messages: manner.refused_messages,
        }
    }

    /// What the next start finds; nothing that was acknowledged is lost.
    fn check_spool(&mut self) -> u64 {
        let found = self.world.start(self.plan.shards).expect("the disk has no faults");
        // Notifications that are under way, by the letter they are about.
        let told: BTreeSet<u32> = found.values().flatten().filter_map(|to| letter::mark_in(to.as_bytes())).collect();
        let mut kept = 0;
        self.book.write(|book| {
            let mut lost = Vec::new();
            for (mark, letter) in (0..).zip(&book.letters) {
                let here = found.contains_key(&crate::message::MessageId(letter.id));
                match letter.state {
                    State::Queued if here || told.contains(&mark) => kept += 1,
                    State::Queued => lost.push(format!("letter {mark} was acknowledged, and is nowhere: {letter:?}")),
                    _ => {}
                }
            }
            lost.into_iter().for_each(|text| book.violate(text));
        });
        self.world.sim.end_process(End::Killed);
        kept
    }
}

/// The machines of a day.
pub enum Someone {
    /// It sends.
    Sender(Sender),
    /// It receives.
    Receiver(Receiver),
}

impl Host for Someone {
    fn listens(&self, port: u16) -> bool {
        match self {
            Someone::Sender(sender) => sender.listens(port),
            Someone::Receiver(receiver) => receiver.listens(port),
        }
    }

    fn handle(&mut self, event: HostEvent<'_>, side: &mut HostSide<'_>) {
        match self {
            Someone::Sender(sender) => sender.handle(event, side),
            Someone::Receiver(receiver) => receiver.handle(event, side),
        }
    }
}
