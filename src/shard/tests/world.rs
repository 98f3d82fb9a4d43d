//! Tests only: the simulated world (`sim::world` over `rt::sim`) as the directed tests of a shard use it: next hops in
//! moods that a test sets, one DNS server, and scripted clients that send what they are given, whatever they are told.
//!
//! A run is a function of the seed and of what the test does. Everything that has a bound is looked at all the time.
//! Refuses: chance of its own.

mod client;
mod lmtp;

pub use crate::sim::client::Letter;
pub use crate::sim::hop::{Act, At, Hop, Mood, Received};
pub use crate::sim::proxy::{Proxy, ProxyFault};
pub use crate::sim::world::config;
pub use lmtp::Lmtp;

use crate::config::Config;
use crate::local::{Block, LocalTable, Target, TextFile};
use crate::message::Envelope;
use crate::rt::sim::{End, HostSide, LinkId, Reading, Step};
use crate::shard::Tables;
use crate::sim::world::{self, Machine};
use crate::sim::zone::{Records, Zone};
use crate::spool::Geometry;
use crate::time::Moment;
use client::{Client, ClientHost, Clients};
use std::cell::Ref;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Small segments, so that mail fills many of them and they are compacted.
const GEOMETRY: Geometry = Geometry {
    segment_bytes: 1 << 20,
    commit_bytes: 64 << 10,
    chunk_bytes: 32 << 10,
    reserve_bytes: 64 << 10,
    last_reserve_bytes: 8192,
};
/// Clients of a network that may relay.
pub const CLIENTS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
/// Clients of a network that may not relay.
pub const STRANGERS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));
const DNS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 53));
/// More than this in a second of virtual time is a loop without an end.
const STEPS_A_SECOND: u32 = 1_000_000;

/// What becomes of a connection attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// TCP stands.
    Open,
    /// ECONNREFUSED.
    Refused,
    /// No answer at all.
    Silent,
}

impl Letter {
    /// A short one from joe@sender.test.
    pub fn new(mark: u32, recipients: &[&str]) -> Letter {
        Letter {
            mark,
            sender: "joe@sender.test".to_owned(),
            recipients: recipients.iter().map(|r| (*r).to_owned()).collect(),
            header: String::new(),
            body: format!("This is number {mark}.\r\n").into_bytes(),
        }
    }
}

impl Received {
    /// All of it, for a look.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }
}

impl Hop {
    /// From now on it does `act` there, always.
    pub fn set(&mut self, at: At, act: Act) {
        self.mood.acts.push((at, 1000, act));
    }

    /// From now on it answers there with `line`.
    pub fn reply(&mut self, at: At, line: &str) {
        self.set(at, Act::Say(format!("{line}\r\n")));
    }

    /// Replies to the next RCPTs of an address.
    pub fn reply_to(&mut self, address: &str, replies: &[&str]) {
        let replies = replies.iter().map(|reply| format!("{reply}\r\n")).collect();
        self.mood.rcpt.insert(address.to_owned(), replies);
    }

    /// Works again.
    pub fn mend(&mut self) {
        self.mood = Mood::default();
    }
}

/// See the module. The rest of it is [`world::World`].
pub struct World {
    world: world::World,
    pub records: Records,
    clients: Clients,
}

impl Deref for World {
    type Target = world::World;
    fn deref(&self) -> &world::World {
        &self.world
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut world::World {
        &mut self.world
    }
}

impl World {
    /// One shard, the default configuration.
    pub fn new(seed: u64) -> World {
        World::with(seed, 1, config(), 1000)
    }

    pub fn with(seed: u64, shards: u16, config: Config, max_connections: usize) -> World {
        World::guarded(seed, shards, config, max_connections, Tables::default())
    }

    /// One whose configuration has this `[[local]]`, with these mailboxes and aliases.
    pub fn with_local(
        seed: u64,
        mut config: Config,
        deliver: &str,
        mailboxes: Option<&str>,
        aliases: Option<&str>,
    ) -> World {
        let mut tables = Tables::default();
        World::make_local(&mut config, &mut tables, deliver, mailboxes, aliases);
        World::guarded(seed, 1, config, 1000, tables)
    }

    /// here.test and also.test are local domains.
    pub fn make_local(
        config: &mut Config,
        tables: &mut Tables,
        deliver: &str,
        mailboxes: Option<&str>,
        aliases: Option<&str>,
    ) {
        let (domains, deliver) =
            (vec!["here.test".to_owned(), "also.test".to_owned()], Target::parse(deliver).unwrap());
        let block = Block {
            domains: &domains,
            deliver: deliver.clone(),
            mailboxes: mailboxes.map(|text| TextFile { name: "mailboxes", text }),
            aliases: aliases.map(|text| TextFile { name: "aliases", text }),
            subaddress: "+",
        };
        tables.local = LocalTable::build(&[block]).unwrap().table;
        let subaddress = "+".to_owned();
        config.local = vec![crate::config::Local { domains, deliver, mailboxes: None, aliases: None, subaddress }];
    }

    /// With accounts and certificates.
    pub fn guarded(seed: u64, shards: u16, mut config: Config, max_connections: usize, tables: Tables) -> World {
        // They wait for a relay at rest.
        config.delivery.idle_timeout = config.delivery.idle_timeout.min(Duration::from_secs(5));
        let mut world = world::World::new(seed, config, max_connections, GEOMETRY);
        world.tables = Arc::new(tables);
        let (records, clients) = (Records::new(), Clients::default());
        world.sim.hosts.insert(DNS, Machine::Zone(Box::new(Zone::new(records.clone()))));
        for host in [CLIENTS, STRANGERS] {
            world.sim.hosts.insert(host, Machine::Other(Box::new(ClientHost(Rc::clone(&clients)))));
        }
        let mut world = World { world, records, clients };
        // The senders of these tests are at home here.
        world.domain("sender.test", "10.9.9.9");
        world.begin(shards);
        world
    }

    fn begin(&mut self, shards: u16) {
        self.world.start(shards).unwrap();
        assert!(self.damage.is_empty(), "{:?}", self.damage);
    }

    /// The process is killed, with what it has under way, and starts again.
    pub fn crash(&mut self, shards: u16) {
        self.crash_by(End::Killed, shards);
    }

    pub fn crash_by(&mut self, end: End, shards: u16) {
        self.world.end(end);
        self.begin(shards);
    }

    // --- time -----------------------------------------------------------------------------------------------------

    /// Runs until `condition` holds, which is looked at each millisecond in which something happens; false if it does
    /// not within `limit` of virtual time.
    pub fn run_until(&mut self, limit: Duration, mut condition: impl FnMut(&World) -> bool) -> bool {
        let end = self.now() + limit;
        let (mut steps, mut second, mut looked) = (0, self.now(), None);
        loop {
            let now = self.now();
            if looked.is_none_or(|looked| now.since(looked) >= Duration::from_millis(1)) || now >= end {
                looked = Some(now);
                if condition(self) {
                    return true;
                }
                self.check_bounds();
            }
            if now >= end {
                return false;
            }
            assert!(self.world.step(end) != Step::Killed, "nobody asked for it");
            steps += 1;
            if now.since(second) > Duration::from_secs(1) {
                (steps, second) = (0, now);
            }
            assert!(steps < STEPS_A_SECOND && self.sim.spins().is_none(), "the shards spin");
        }
    }

    /// Nothing is ever larger than it may be.
    fn check_bounds(&self) {
        for shard in self.sim.shards.iter().flatten() {
            shard.audit(&mut |what, size, bound| assert!(size <= bound, "{what}: {size}, at most {bound}"));
        }
    }

    /// Runs for so long.
    pub fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    pub fn now(&self) -> Moment {
        self.sim.now().mono
    }

    /// From now on all ways take so long, not more, not less.
    pub fn latency(&mut self, one_way: Duration) {
        let micros = u64::try_from(one_way.as_micros()).unwrap();
        for host in self.sim.hosts.keys().copied().collect::<Vec<_>>() {
            self.sim.core.path(host).latency_us = (micros, 0);
        }
    }

    // --- next hops --------------------------------------------------------------------------------------------------

    /// The hop at `address`, made if it is not there.
    pub fn hop(&mut self, address: &str) -> &mut Hop {
        let ip: IpAddr = address.parse().unwrap();
        if let Entry::Vacant(vacant) = self.sim.hosts.entry(ip) {
            vacant.insert(Machine::Hop(Box::default()));
            // None is allowed: so each attempt is noted.
            self.sim.core.cap([ip], 0);
        }
        self.world.hop(ip).unwrap()
    }

    /// The domain's mail goes to the hop at `address`.
    pub fn domain(&mut self, domain: &str, address: &str) {
        let exchanger = format!("mx.{domain}");
        match address.parse().unwrap() {
            IpAddr::V4(v4) => self.records.host(&exchanger, &[v4], &[]),
            IpAddr::V6(v6) => self.records.host(&exchanger, &[], &[v6]),
        }
        self.records.domain(domain, &[(10, &exchanger)]);
        self.hop(address);
    }

    /// The proxy at `address`, made if it is not there.
    pub fn proxy(&mut self, address: &str) -> &mut Proxy {
        let machine = self.sim.hosts.entry(address.parse().unwrap()).or_insert_with(|| Machine::Proxy(Box::default()));
        match machine {
            Machine::Proxy(proxy) => proxy,
            _ => unreachable!("no other has its address"),
        }
    }

    pub fn door(&mut self, address: &str, door: Door) {
        self.hop(address).mood.refuses = door == Door::Refused;
        self.sim.core.path(address.parse().unwrap()).silent = door == Door::Silent;
    }

    /// The DNS server.
    pub fn zone(&mut self) -> &mut Zone {
        match self.sim.hosts.get_mut(&DNS) {
            Some(Machine::Zone(zone)) => zone,
            _ => unreachable!("it is there from the beginning"),
        }
    }

    /// When connections to the hop were attempted, in vain or not.
    pub fn connects(&self, address: &str) -> Vec<Moment> {
        let ip: IpAddr = address.parse().unwrap();
        self.sim.core.over_cap().iter().filter(|(_, host, ..)| *host == ip).map(|(at, ..)| *at).collect()
    }

    /// Everything the hops took.
    pub fn received(&self) -> impl Iterator<Item = &Received> {
        self.hops().flat_map(|(_, hop)| &hop.received)
    }

    /// What a recipient got, notifications included.
    pub fn got(&self, recipient: &str) -> Vec<&Received> {
        self.received().filter(|r| r.recipients.iter().any(|to| to == recipient)).collect()
    }

    /// An LMTP server at `address`, port 24.
    pub fn lmtp(&mut self, address: &str) -> Lmtp {
        let server = Lmtp::default();
        self.sim.hosts.insert(address.parse().unwrap(), Machine::Other(Box::new(server.clone())));
        server
    }

    // --- clients ----------------------------------------------------------------------------------------------------

    pub fn client(&self, client: LinkId) -> Ref<'_, Client> {
        Ref::map(self.clients.borrow(), |clients| &clients[&client])
    }

    fn with_client<R>(&mut self, client: LinkId, act: impl FnOnce(&mut Client, LinkId, &mut HostSide<'_>) -> R) -> R {
        let clients = Rc::clone(&self.clients);
        let host = clients.borrow()[&client].host;
        let act = |_: &mut Machine, side: &mut HostSide<'_>| {
            act(clients.borrow_mut().get_mut(&client).unwrap(), client, side)
        };
        self.sim.with_host(host, act).unwrap()
    }

    /// Opens an inbound connection.
    pub fn connect(&mut self, shard: usize) -> LinkId {
        self.connect_to(0, shard, CLIENTS, 8192)
    }

    /// Opens one to a listener, from a machine of clients; what it sends goes out in pieces.
    pub fn connect_to(&mut self, listener: usize, shard: usize, host: IpAddr, piece: usize) -> LinkId {
        let link = self.sim.with_host(host, |_, side| side.connect_to_shard(listener, shard)).unwrap();
        self.clients.borrow_mut().insert(link, Client::new(host, piece));
        link
    }

    /// An inbound client that takes `window` octets of replies and reads no more.
    pub fn connect_deaf(&mut self, shard: usize, window: usize) -> LinkId {
        let usual = std::mem::replace(&mut self.sim.core.window, (window, 0));
        let client = self.connect(shard);
        self.sim.core.window = usual;
        self.with_client(client, |_, link, side| side.read(link, Reading::Nothing));
        client
    }

    /// A client reads no more.
    pub fn deafen(&mut self, client: LinkId) {
        self.with_client(client, |_, link, side| side.read(link, Reading::Nothing));
    }

    /// A client sends bytes, whatever it was told.
    pub fn send(&mut self, client: LinkId, bytes: &[u8]) {
        self.with_client(client, |client, link, side| client.send(link, bytes, side));
    }

    /// As `send`, without TLS even if it has begun.
    pub fn send_plain(&mut self, client: LinkId, bytes: &[u8]) {
        self.with_client(client, |client, link, side| client.write(link, bytes, side));
    }

    /// A client begins a handshake.
    pub fn start_tls(&mut self, client: LinkId) {
        self.with_client(client, |client, link, side| client.start_tls(link, side));
    }

    /// Sends, and waits for so many replies: the last of them. Nothing if the relay ends the connection instead, or says
    /// nothing for two minutes.
    pub fn ask(&mut self, client: LinkId, bytes: &[u8], replies: usize) -> Option<String> {
        let wanted = self.client(client).replies.len() + replies;
        self.send(client, bytes);
        let limit = Duration::from_secs(120);
        self.run_until(limit, |w| w.client(client).replies.len() >= wanted || w.client(client).closed.is_some());
        self.client(client).replies.get(wanted - 1).cloned()
    }

    /// A client resets the connection.
    pub fn reset(&mut self, client: LinkId) {
        self.with_client(client, |_, link, side| side.reset(link));
    }

    /// How much of something the shards hold now, by the name that the audit has for it.
    pub fn held(&self, name: &str) -> usize {
        let mut sum = 0;
        for shard in self.sim.shards.iter().flatten() {
            shard.audit(&mut |what, size, _| sum += if what == name { size } else { 0 });
        }
        sum
    }

    /// A client ends the connection.
    pub fn finish(&mut self, client: LinkId) {
        self.with_client(client, |_, link, side| side.close(link));
    }

    /// Octets a client has sent that its shard has not taken in.
    pub fn unread(&self, client: LinkId) -> u64 {
        self.client(client).sent() - self.sim.core.handed(client)
    }

    /// A client that submits one message and leaves.
    pub fn submit(&mut self, shard: usize, letter: &Letter) -> LinkId {
        self.submit_in(shard, letter, 8192)
    }

    /// As `submit`, with the data in pieces.
    pub fn submit_in(&mut self, shard: usize, letter: &Letter, piece: usize) -> LinkId {
        let client = self.connect(shard);
        self.with_client(client, |client, _, _| client.will_submit(letter, piece));
        client
    }

    /// Puts a letter with all that `envelope` says into the log of a shard, as if it had come over a session.
    pub fn inject(&mut self, shard: usize, envelope: &Envelope, body: &[u8]) {
        let now = self.sim.now();
        self.world.sim.shards[shard].as_mut().unwrap().home.inject(envelope, body, now);
    }

    /// Submits and waits for the acknowledgement.
    pub fn accept(&mut self, shard: usize, letter: &Letter) {
        let client = self.submit(shard, letter);
        let accepted = self.run_until(Duration::from_secs(5), |w| w.client(client).is_accepted());
        assert!(accepted, "{:?}", self.client(client).replies);
    }
}
