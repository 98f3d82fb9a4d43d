//! The simulated servers asked by the real resolver, on the simulated network, in every mood: each resolution ends in
//! time, with addresses that a true answer gave, or with a failure that the truth or the mood explains.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::dns::{Answer, DnsSettings, ExchangeId, Resolution, Resolver, Transmit};
use crate::limits;
use crate::rt::sim::{Rng, Sim, Step};
use crate::rt::{ConnId, Event, Io, Shard, Wait};
use crate::time::{Moment, Now};
use hickory_proto::op::{MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use std::collections::{BTreeSet, VecDeque};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

/// Worlds for each mood.
const SEEDS: u64 = 5;

const S1: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));
const S2: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 54));

/// A shard that only resolves, as deliver's driver of the resolver does.
struct Asker {
    resolver: Resolver,
    wanted: VecDeque<String>,
    begun: BTreeMap<String, Moment>,
    ended: Vec<(String, Rc<Resolution>, Duration)>,
    sockets: BTreeMap<ConnId, (ExchangeId, bool, Vec<u8>)>,
    exchanges: BTreeMap<ExchangeId, ConnId>,
}

impl Asker {
    fn new(servers: &[IpAddr], seed: u64) -> Self {
        let servers = servers.iter().map(|ip| SocketAddr::new(*ip, PORT)).collect();
        Asker {
            resolver: Resolver::new(&DnsSettings { servers, ..DnsSettings::default() }, seed),
            wanted: VecDeque::new(),
            begun: BTreeMap::new(),
            ended: Vec::new(),
            sockets: BTreeMap::new(),
            exchanges: BTreeMap::new(),
        }
    }

    fn drive(&mut self, now: Moment, io: &mut dyn Io) {
        loop {
            while let Some(transmit) = self.resolver.poll_transmit() {
                let (exchange, opened, stream, payload) = match transmit {
                    Transmit::Udp { exchange, server, payload } => (exchange, io.datagram(server), false, payload),
                    Transmit::Tcp { exchange, server, payload } => (exchange, io.connect(server, None), true, payload),
                    Transmit::Close { exchange } => {
                        if let Some(conn) = self.exchanges.remove(&exchange) {
                            self.sockets.remove(&conn);
                            io.close(conn);
                        }
                        continue;
                    }
                };
                let Ok(conn) = opened else {
                    self.resolver.handle_failed(exchange, now);
                    continue;
                };
                if !stream {
                    io.write(conn, &[IoSlice::new(&payload)]);
                }
                self.sockets.insert(conn, (exchange, stream, payload));
                self.exchanges.insert(exchange, conn);
            }
            let Some(event) = self.resolver.poll_event() else { break };
            let began = self.begun.remove(&*event.domain).expect("it was asked for, and ended once");
            self.ended.push((event.domain.to_string(), event.resolution, now.since(began)));
        }
    }
}

impl Shard for Asker {
    fn handle(&mut self, event: Event<'_>, now: Now, io: &mut dyn Io) {
        let now = now.mono;
        match event {
            Event::Received { conn, bytes } => match self.sockets.get(&conn) {
                Some((exchange, true, _)) => self.resolver.handle_stream(*exchange, bytes, now),
                Some((exchange, false, _)) => self.resolver.handle_datagram(*exchange, bytes, now),
                None => {}
            },
            Event::Connected { conn } | Event::Writable { conn } => {
                if let Some((_, _, payload)) = self.sockets.get_mut(&conn) {
                    let taken = io.write(conn, &[IoSlice::new(payload)]);
                    payload.drain(..taken);
                }
            }
            Event::Ended { conn } | Event::Failed { conn, .. } => {
                if let Some((exchange, ..)) = self.sockets.get(&conn) {
                    self.resolver.handle_failed(*exchange, now);
                }
            }
            _ => {}
        }
        self.drive(now, io);
    }

    fn turn(&mut self, now: Now, io: &mut dyn Io) -> Wait {
        let now = now.mono;
        self.resolver.handle_timeout(now);
        while let Some(domain) = self.wanted.pop_front() {
            match self.resolver.resolve(&domain, now) {
                Answer::Ready(resolution) => self.ended.push((domain, resolution, Duration::ZERO)),
                Answer::Pending => _ = self.begun.entry(domain).or_insert(now),
            }
        }
        self.drive(now, io);
        self.resolver.poll_timeout().map_or(Wait::Until(Moment::NEVER), Wait::Until)
    }

    fn has_mail(&self) -> bool {
        !self.wanted.is_empty()
    }
}

struct World {
    sim: Sim<Asker, Zone>,
    records: Records,
}

impl World {
    fn new(seed: u64, servers: &[IpAddr]) -> Self {
        let records = records();
        let mut sim = Sim::new(seed, 1_700_000_000_000);
        sim.core.pace.latency_us = (10, 10);
        for server in servers {
            sim.hosts.insert(*server, Zone::new(records.clone()));
        }
        sim.start(vec![Asker::new(servers, seed)]);
        World { sim, records }
    }

    fn mood(&mut self, mood: Mood) {
        self.sim.hosts.values_mut().for_each(|zone| zone.set_mood(mood));
    }

    fn asker(&mut self) -> &mut Asker {
        self.sim.shards[0].as_mut().unwrap()
    }

    fn pass(&mut self, time: Duration) {
        let end = self.sim.now().mono + time;
        while self.sim.step(end) == Step::Went {
            assert_eq!(self.sim.spins(), None);
        }
    }

    /// Asks for the domains at once, and waits for all; what ended stays with the asker.
    fn resolve_more(&mut self, domains: &[&str]) {
        self.asker().wanted.extend(domains.iter().map(|domain| (*domain).to_owned()));
        // Two questions one after the other; what is left then would be left for ever.
        self.pass(2 * limits::DNS_QUESTION_TIMEOUT + Duration::from_secs(1));
        let left = self.asker().begun.clone();
        assert!(left.is_empty(), "not resolved in time: {left:?}");
    }

    /// The same; what ended is taken.
    fn resolve(&mut self, domains: &[&str]) -> Vec<(String, Rc<Resolution>, Duration)> {
        self.resolve_more(domains);
        std::mem::take(&mut self.asker().ended)
    }

    fn one(&mut self, domain: &str) -> Rc<Resolution> {
        Rc::clone(&self.resolve(&[domain])[0].1)
    }

    fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        for tally in self.sim.hosts.values().map(|zone| zone.tally) {
            sum.udp += tally.udp;
            sum.tcp += tally.tcp;
            sum.truncated += tally.truncated;
            sum.forged += tally.forged;
            sum.garbage += tally.garbage;
            sum.unreadable += tally.unreadable;
        }
        sum
    }

    /// What must hold whatever the servers did.
    fn check(&self, domain: &str, resolution: &Resolution) {
        let legitimate = self.records.legitimate(domain);
        for host in resolution.hosts() {
            for address in &host.addresses {
                assert!(!is_evil(*address), "{domain}: a forged answer was believed: {resolution:?}");
                assert!(legitimate.contains(address), "{domain}: {address} of {legitimate:?}: {resolution:?}");
            }
        }
        if let Some(status) = resolution.status().filter(|status| status.starts_with('5')) {
            let allowed = self.records.refusals(domain);
            assert!(allowed.contains(status), "{domain}: {status} without reason ({allowed:?})");
        }
    }
}

fn v4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, last)
}

fn v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, last)
}

/// Every kind of domain. The mail of the first of each pair of letters can be delivered.
const GOOD: [&str; 7] =
    ["one.test", "two.test", "implicit.test", "alias.test", "chain.test", "shared.test", "deaf-backup.test"];
const BAD: [&str; 8] = [
    "null.test",
    "nothing.test",
    "empty.test",
    "loop.test",
    "dangling.test",
    "ghost-mx.test",
    "bad-mx.test",
    "addressless.test",
];

fn records() -> Records {
    let records = Records::new();
    records.domain("one.test", &[(10, "mx.one.test")]);
    records.host("mx.one.test", &[v4(1)], &[v6(1)]);
    records.domain("two.test", &[(10, "mx1.two.test"), (20, "mx2.two.test")]);
    records.host("mx1.two.test", &[v4(2), v4(3)], &[]);
    records.host("mx2.two.test", &[], &[v6(4)]);
    records.host("implicit.test", &[v4(5)], &[v6(5)]);
    records.alias("alias.test", "one.test");
    for link in 0..6 {
        records.alias(
            &if link == 0 { "chain.test".into() } else { format!("c{link}.test") },
            &format!("c{}.test", link + 1),
        );
    }
    records.domain("c6.test", &[(5, "c0-mx.test")]);
    records.alias("c0-mx.test", "mx.one.test");
    records.domain("shared.test", &[(10, "mx.one.test"), (10, "mx1.two.test")]);
    records.domain("deaf-backup.test", &[(10, "mx.one.test"), (90, "ghost.test")]);
    records.null_mx("null.test");
    records.host("empty.test", &[], &[]);
    records.alias("loop.test", "loop-b.test");
    records.alias("loop-b.test", "loop.test");
    records.alias("dangling.test", "no-such.test");
    records.domain("ghost-mx.test", &[(10, "ghost.test")]);
    records.domain("bad-mx.test", &[(10, "not a host.test")]);
    records.domain("addressless.test", &[(10, "empty.test")]);
    // A web server at the same name: no mail goes there.
    records.host("two.test", &[v4(99)], &[v6(99)]);
    records
}

fn hosts(resolution: &Resolution) -> Vec<String> {
    resolution.hosts().iter().map(|host| format!("{} {} {:?}", host.preference, host.name, host.addresses)).collect()
}

#[test]
fn a_well_server_tells_the_truth() {
    for seed in 0..20 {
        let mut world = World::new(seed, &[S1]);
        for (domain, resolution, _) in world.resolve(&[&GOOD[..], &BAD[..]].concat()) {
            world.check(&domain, &resolution);
            assert_eq!(!resolution.hosts().is_empty(), GOOD.contains(&&*domain), "{domain}: {resolution:?}");
        }
        assert_eq!(hosts(&world.one("one.test")), ["10 mx.one.test [2001:db8:1::1, 198.51.100.1]"]);
        assert_eq!(hosts(&world.one("implicit.test")), ["0 implicit.test [2001:db8:1::5, 198.51.100.5]"]);
        assert_eq!(hosts(&world.one("chain.test")), ["5 c0-mx.test [2001:db8:1::1, 198.51.100.1]"]);
        assert_eq!(world.records.legitimate("two.test"), BTreeSet::from([v4(2).into(), v4(3).into(), v6(4).into()]));
        let status: Vec<_> = BAD.iter().map(|domain| world.one(domain).status().unwrap()).collect();
        assert_eq!(status, ["5.1.10", "5.1.2", "5.4.4", "4.4.3", "5.1.2", "5.4.4", "5.4.4", "5.4.4"]);
        assert_eq!(world.tally().unreadable, 0);
    }
}

#[test]
fn in_every_mood_each_resolution_ends_and_none_goes_astray() {
    let all = [&GOOD[..], &BAD[..]].concat();
    for mood in Mood::ALL {
        let mut sent = 0;
        for seed in 0..SEEDS {
            for servers in [&[S1][..], &[S1, S2]] {
                let mut world = World::new(seed, servers);
                world.mood(mood);
                for round in 0..3 {
                    for (domain, resolution, took) in world.resolve(&all) {
                        world.check(&domain, &resolution);
                        assert!(took <= 2 * limits::DNS_QUESTION_TIMEOUT, "{mood:?} {seed} {domain}: {took:?}");
                        sent += usize::from(!resolution.hosts().is_empty());
                    }
                    world.pass(Duration::from_secs(400 * round));
                }
                assert_eq!(world.sim.core.open_sockets(0), 0, "{mood:?} {seed}: every socket is closed");
                let tally = world.tally();
                assert_eq!(tally.unreadable, 0);
                assert!(mood != Mood::WrongId || tally.forged > 0);
                assert!(mood != Mood::Garbage || tally.garbage > 0);
                // When the world is well again, so is mail.
                world.mood(Mood::Well);
                world.pass(limits::DNS_NEGATIVE_TTL_MAX);
                for (domain, resolution, _) in world.resolve(&GOOD) {
                    world.check(&domain, &resolution);
                    assert!(!resolution.hosts().is_empty(), "{mood:?} {seed} {domain}: {resolution:?}");
                }
            }
        }
        let mute =
            [Mood::ServFail, Mood::Refused, Mood::Silent, Mood::TruncatedNoTcp, Mood::LoopingAlias, Mood::TcpStalls];
        // A readable answer is chance there.
        let least = if [Mood::Garbage, Mood::TcpCloses].contains(&mood) { 1 } else { SEEDS as usize * 3 * GOOD.len() };
        if mute.contains(&mood) {
            assert_eq!(sent, 0, "{mood:?}");
        } else {
            assert!(sent >= least, "{mood:?}: {sent} of {least}");
        }
    }
}

/// Domains, servers and a network that change at any time: 40 minutes of it.
fn storm(seed: u64) -> (u64, usize) {
    let mut world = World::new(seed, &[S1, S2]);
    let mut rng = Rng::new(seed ^ 0x5eed);
    let all = [&GOOD[..], &BAD[..]].concat();
    let mut ended = 0;
    for step in 0..120u8 {
        let server = *rng.pick(&[S1, S2]);
        let mood = *rng.pick(&Mood::ALL);
        let zone = world.sim.hosts.get_mut(&server).unwrap();
        match rng.below(12) {
            0..4 => zone.set_mood(mood),
            4..6 => zone.set_domain_mood(all[rng.below(15) as usize], mood),
            6 | 7 => zone.calm(),
            8 => world.records.host("mx.one.test", &[v4(100 + step), v4(1)], &[]),
            9 => world.records.domain("two.test", &[(10, &format!("mx{}.two.test", rng.below(4)))]),
            10 => {
                let path = world.sim.core.path(server);
                path.latency_us = (100, *rng.pick(&[1000, 900_000, 4_000_000]));
                (path.loss_permille, path.twice_permille) = (rng.below(300) as u32, rng.below(500) as u32);
                path.silent = rng.one_in(4);
                if rng.one_in(4) {
                    world.sim.core.refuse_local(rng.below(5) as u32);
                }
            }
            _ => world.sim.core.heal_network(),
        }
        let some: Vec<&str> = all.iter().filter(|_| rng.one_in(3)).copied().collect();
        if rng.one_in(2) {
            world.asker().wanted.extend(some.iter().map(|domain| (*domain).to_owned()));
            world.pass(Duration::from_millis(rng.below(40_000)));
        } else {
            world.resolve_more(&some);
        }
        for (domain, resolution, took) in std::mem::take(&mut world.asker().ended) {
            world.check(&domain, &resolution);
            assert!(took <= 2 * limits::DNS_QUESTION_TIMEOUT, "{seed} {domain}: {took:?}");
            ended += 1;
        }
    }
    world.pass(2 * limits::DNS_QUESTION_TIMEOUT);
    assert!(world.asker().begun.is_empty());
    assert_eq!(world.sim.core.open_sockets(0), 0, "{seed}: every socket is closed");
    assert_eq!(world.tally().unreadable, 0);
    (world.sim.core.trace.hash(), ended)
}

#[test]
fn when_everything_changes_nothing_goes_astray_and_equal_seeds_make_equal_runs() {
    for seed in 0..2 * SEEDS {
        let (hash, ended) = storm(seed);
        assert!(ended > 200, "{ended}");
        if seed < 2 {
            assert_eq!(storm(seed), (hash, ended));
            assert_ne!(storm(seed + 1).0, hash);
        }
    }
}

#[test]
fn truncated_answers_come_by_tcp_and_caches_spare_questions() {
    let mut world = World::new(1, &[S1]);
    world.mood(Mood::Truncated);
    assert_eq!(hosts(&world.one("one.test")), ["10 mx.one.test [2001:db8:1::1, 198.51.100.1]"]);
    let zone = &world.sim.hosts[&S1];
    assert_eq!((zone.tally.udp, zone.tally.tcp, zone.tally.connections, zone.open()), (3, 3, 3, 0));
    let asked = |world: &World, name, kind| world.sim.hosts[&S1].asked(name, kind);
    assert_eq!(asked(&world, "One.Test.", Kind::Mx), 2, "by UDP, then TCP");
    world.mood(Mood::Well);
    world.one("one.test");
    world.one("shared.test");
    assert_eq!((asked(&world, "one.test", Kind::Mx), asked(&world, "mx.one.test", Kind::A)), (2, 2), "cached");
    world.pass(Duration::from_secs(300));
    world.one("one.test");
    assert_eq!((asked(&world, "one.test", Kind::Mx), asked(&world, "mx.one.test", Kind::A)), (3, 3), "expired");
}

#[test]
fn many_records_are_more_than_a_datagram_and_the_best_are_kept() {
    let mut world = World::new(3, &[S1]);
    world.mood(Mood::ManyRecords);
    let resolution = world.one("two.test");
    world.check("two.test", &resolution);
    let found = resolution.hosts();
    assert_eq!((found.len(), &*found[0].name), (limits::DNS_MX_HOSTS, "mx1.two.test"));
    assert!(found[2].name.starts_with("many"));
    assert_eq!(found[0].addresses.len(), 2, "repeated ones count once");
    assert_eq!(world.sim.hosts[&S1].tally.tcp, 1);
}

#[test]
fn a_mood_with_a_domain_is_one_with_all_below_it() {
    let mut zone = Zone::new(Records::new());
    zone.set_domain_mood("Two.test.", Mood::Silent);
    zone.set_domain_mood("mx1.two.test", Mood::ZeroTtl);
    let moods = ["two.test", "mx2.two.test", "mx1.two.test", "xtwo.test", "test"].map(|name| zone.mood(name));
    assert_eq!(moods, [Mood::Silent, Mood::Silent, Mood::ZeroTtl, Mood::Well, Mood::Well]);
    zone.set_mood(Mood::ServFail);
    assert_eq!(zone.mood("mx1.two.test"), Mood::ServFail);
    zone.calm();
    assert_eq!(zone.mood("two.test"), Mood::Well);
}

/// A shard that writes octets to one TCP connection, a piece a turn, and keeps what comes.
struct Writer {
    pieces: VecDeque<Vec<u8>>,
    connected: Option<ConnId>,
    received: Vec<u8>,
}

impl Shard for Writer {
    fn handle(&mut self, event: Event<'_>, _: Now, _: &mut dyn Io) {
        match event {
            Event::Connected { conn } => self.connected = Some(conn),
            Event::Received { bytes, .. } => self.received.extend_from_slice(bytes),
            _ => {}
        }
    }

    fn turn(&mut self, now: Now, io: &mut dyn Io) -> Wait {
        if now.mono == Moment(1_000_000_000) {
            io.connect(SocketAddr::new(S1, PORT), None).unwrap();
        }
        if let Some(conn) = self.connected
            && let Some(piece) = self.pieces.pop_front()
        {
            assert_eq!(io.write(conn, &[IoSlice::new(&piece)]), piece.len());
        }
        Wait::Until(now.mono + Duration::from_millis(1))
    }

    fn has_mail(&self) -> bool {
        false
    }
}

#[test]
fn one_connection_carries_many_queries_cut_anywhere() {
    let mut stream = Vec::new();
    for id in 0..20 {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        let owner = Name::from_ascii(if id % 2 == 0 { "one.test." } else { "no-such.test." }).unwrap();
        message.add_query(Query::query(owner, RecordType::MX));
        stream.extend(framed(&encode(&message)));
    }
    for (seed, size) in [1, 2, 3, 7, 30, 31, 1000].into_iter().enumerate() {
        let mut sim = Sim::new(seed as u64, 1_700_000_000_000);
        sim.hosts.insert(S1, Zone::new(records()));
        let pieces = stream.chunks(size).map(<[u8]>::to_vec).collect();
        sim.start(vec![Writer { pieces, connected: None, received: Vec::new() }]);
        while sim.step(Moment(5_000_000_000)) == Step::Went {}
        let mut rest = &sim.shards[0].as_ref().unwrap().received[..];
        for id in 0..20 {
            let (length, after) = rest.split_first_chunk::<2>().unwrap();
            let (bytes, after) = after.split_at(usize::from(u16::from_be_bytes(*length)));
            let message = Message::from_vec(bytes).unwrap();
            assert_eq!((message.metadata.id, message.answers.len()), (id, usize::from(id % 2 == 0)));
            rest = after;
        }
        assert!(rest.is_empty());
        assert_eq!((sim.hosts[&S1].tally.tcp, sim.hosts[&S1].open()), (20, 1));
    }
}
