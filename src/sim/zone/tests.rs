//! The simulated servers asked by the real resolver, on the simulated network, in every mood: each resolution ends in
//! time, with addresses that a true answer gave, or with a failure that the truth or the mood explains.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::dns::{Answer, DnsSettings, ExchangeId, Resolution, Resolver, Transmit};
use crate::limits;
use crate::rt::sim::{Sim, Step};
use crate::rt::{ConnId, Event, Io, Shard, Wait};
use crate::time::{Moment, Now};
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

    /// Asks for the domains at once, and waits for all.
    fn resolve(&mut self, domains: &[&str]) -> Vec<(String, Rc<Resolution>, Duration)> {
        self.asker().wanted.extend(domains.iter().map(|domain| (*domain).to_owned()));
        // Two questions one after the other; what is left then would be left for ever.
        self.pass(2 * limits::DNS_QUESTION_TIMEOUT + Duration::from_secs(1));
        let left = self.asker().begun.clone();
        assert!(left.is_empty(), "not resolved in time: {left:?}");
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
