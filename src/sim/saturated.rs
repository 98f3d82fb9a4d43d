//! Calm worlds with more mail than a receiver takes: how far a limit is used that binds, how tenants share it, and how long one
//! message of somebody else waits.
//!
//! Input: a seed. Output: a [`Verdict`]. In such a world nothing goes wrong: a site of one or several domains that allows so many
//! messages in a time, or so many connections, and enforces that; tenants with deep backlogs, of equal weights or not; a relay of
//! one to four shards, whose domains have lanes or not; and, while all that waits, single letters of a tenant that has no other.
//!
//! **Saturated** is the time from when the last letter of the backlogs was acknowledged until the first tenant has only a
//! twentieth of its own left. **A service** is one message that the site takes: where a rate binds, one comes each interval;
//! where connections do, one whenever one of them is done with the one before. The delay that others add to a lone letter is
//! counted in services: messages that the site was sent between the moment at which the letter was acknowledged and its own.

use super::hop::Hop;
use super::hop::guard::Guard;
use super::oracle::Violation;
use super::world::{Machine, World, config};
use super::zone::{Records, Zone};
use crate::accounts::{Accounts, Secret};
use crate::config::{Demand, Listener, ListenerKind, Networks};
use crate::limits;
use crate::message::MessageId;
use crate::rt::sim::rng::mix;
use crate::rt::sim::trace::Lines;
use crate::rt::sim::{Host, HostEvent, HostSide, LinkId, Rng, Step};
use crate::shaping::{Rate, Shaping};
use crate::shard::Tables;
use crate::smtp::sasl::{Password, ScramKeys};
use crate::spool::Geometry;
use crate::time::Moment;
use base64::prelude::{BASE64_STANDARD, Engine};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The part of a binding limit that is to be used.
pub const UTILISATION: f64 = 0.95;
/// Jain's index of what equal tenants get: 1 is the same for all.
pub const FAIRNESS: f64 = 0.95;
/// Lone letters of a world.
const LONE: u64 = 5;
/// Letters that a client sends in one flight.
const FLIGHT: usize = 10;
/// What the network takes of a service.
const ROUND_TRIPS: Duration = Duration::from_millis(1);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
/// A day is enough for anything here.
const PATIENCE: Duration = Duration::from_secs(86_400);

/// The limit that binds.
#[derive(Clone, Copy, Debug)]
pub enum Binds {
    /// Messages in a time.
    Rate(Rate),
    /// Connections at a time, to a receiver that takes so long for each reply.
    Connections(u32, Duration),
}

/// A world of this kind.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its seed.
    pub seed: u64,
    /// Shards of the relay.
    pub shards: u16,
    /// The limit.
    pub binds: Binds,
    /// Tenants' weights.
    pub weights: Vec<u32>,
    /// Letters of each.
    pub letters: usize,
    /// Domains of the site.
    pub domains: u64,
    /// Messages a second that give a domain lanes.
    pub lane_rate: u32,
    /// The receiver takes BDAT.
    pub chunking: bool,
}

impl Setting {
    /// The world of `seed`.
    pub fn generate(seed: u64) -> Setting {
        let rng = &mut Rng::new(mix(seed ^ 0x53_41_54));
        let rates =
            ["5/s", "20/s", "50/s burst 5", "100/s", "100/s burst 10", "300/s burst 20", "1200/m", "10/s burst 3"];
        let millis = |n| Duration::from_millis(n);
        let binds = if rng.one_in(3) {
            Binds::Connections(*rng.pick(&[1, 2, 4, 8]), *rng.pick(&[millis(5), millis(20), millis(50)]))
        } else {
            Binds::Rate(rng.pick(&rates).parse().expect("a rate"))
        };
        let weights = match rng.below(3) {
            0 => vec![100, 300],
            1 => vec![100; 2],
            _ => vec![100; 4],
        };
        Setting {
            seed,
            shards: 1 + rng.below(4) as u16,
            binds,
            letters: 2400 / weights.len(),
            weights,
            domains: *rng.pick(&[1, 1, 4, 8]),
            lane_rate: *rng.pick(&[640, 640, 20]),
            chunking: rng.one_in(2),
        }
    }
}

impl Setting {
    /// How long a message takes on a connection, where those bind: its replies come one after the other, those to MAIL, RCPT, DATA
    /// and its end, or in a flight to RSET, MAIL, RCPT and BDAT; and its octets go there and back.
    pub fn service(&self) -> Option<Duration> {
        let Binds::Connections(_, delay) = self.binds else { return None };
        Some(delay * 4 + ROUND_TRIPS)
    }

    /// Services that a lone letter may have to wait for where a rate binds: two, or where more than that come in the time of a
    /// spool read as many as those are.
    fn services(&self) -> Option<u64> {
        let Binds::Rate(rate) = self.binds else { return None };
        let meanwhile = limits::FETCH_AHEAD_TIME.as_nanos() / rate.interval().as_nanos();
        Some(u64::try_from(meanwhile).unwrap_or(u64::MAX).max(2))
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting { seed, shards, weights, letters, domains, lane_rate, chunking, .. } = self;
        let binds = match self.binds {
            Binds::Rate(rate) => rate.to_string(),
            Binds::Connections(most, delay) => format!("{most} connections, {delay:?} a reply"),
        };
        let chunking = if *chunking { "BDAT" } else { "DATA" };
        write!(
            f,
            "seed {seed}: {shards} shards, {binds}, {domains} domains, tenants {weights:?} of {letters} letters, lanes from \
             {lane_rate}/s, {chunking}"
        )
    }
}

/// How it was.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Of the limit, while it was saturated.
    pub utilisation: f64,
    /// Jain's index of what tenants got, each by its weight.
    pub fairness: f64,
    /// Services that each lone letter waited for.
    pub services: Vec<u64>,
    /// How long that was.
    pub delays: Vec<Duration>,
    /// Messages taken while it was saturated.
    pub taken: usize,
    /// What is not as it has to be.
    pub violations: Vec<Violation>,
}

/// A tenant: sends all it has at once, or a letter now and then.
pub struct Feeder {
    name: String,
    domains: u64,
    waiting: u64,
    next: u64,
    links: BTreeMap<LinkId, Session>,
    /// Its letters, by their numbers.
    acknowledged: BTreeMap<u64, Moment>,
    rng: Rng,
}

#[derive(Default)]
struct Session {
    input: Vec<u8>,
    replies: usize,
    flight: Vec<u64>,
}

/// Replies before the first letter's: the greeting, those to EHLO and AUTH.
const HELLO: usize = 3;

impl Feeder {
    fn new(name: String, domains: u64, rng: Rng) -> Feeder {
        let (links, acknowledged) = (BTreeMap::new(), BTreeMap::new());
        Feeder { name, domains, waiting: 0, next: 0, links, acknowledged, rng }
    }

    fn add(&mut self, letters: u64, side: &mut HostSide<'_>) {
        self.waiting += letters;
        if self.links.is_empty() {
            for _ in 0..letters.div_ceil(200).min(8) {
                let link = side.connect(0);
                self.links.insert(link, Session::default());
            }
        }
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            self.send(link, side);
        }
    }

    fn send(&mut self, link: LinkId, side: &mut HostSide<'_>) {
        let Some(session) = self.links.get_mut(&link) else { return };
        if session.replies < HELLO || !session.flight.is_empty() {
            return;
        }
        let name = &self.name;
        let mut out = String::new();
        for _ in 0..self.waiting.min(FLIGHT as u64) {
            // The first of the domains gets half, the next one a quarter.
            let domain = (self.rng.next() | 1 << (self.domains - 1)).trailing_zeros();
            let text = format!(
                "From: a@{name}.test\r\nDate: Wed, 18 Nov 2026 00:00:00 +0000\r\nMessage-ID: <{0}@{name}.test>\r\nX-Test: {0}\r\n\r\na letter\r\n",
                self.next
            );
            out += &format!(
                "MAIL FROM:<m{}@{name}.test>\r\nRCPT TO:<u@d{domain}.test>\r\nBDAT {} LAST\r\n{text}",
                self.next,
                text.len()
            );
            session.flight.push(self.next);
            self.next += 1;
        }
        self.waiting -= session.flight.len() as u64;
        side.write(link, out.as_bytes());
    }

    fn reply(&mut self, link: LinkId, line: &str, side: &mut HostSide<'_>) {
        let Some(session) = self.links.get_mut(&link) else { return };
        session.replies += 1;
        let name = &self.name;
        match session.replies {
            1 => side.write(link, format!("EHLO {name}.test\r\n").as_bytes()),
            2 => {
                let proof = BASE64_STANDARD.encode(format!("\0{name}\0pencil"));
                side.write(link, format!("AUTH PLAIN {proof}\r\n").as_bytes());
            }
            HELLO => self.send(link, side),
            n if (n - HELLO).is_multiple_of(3) => {
                let number = session.flight.remove(0);
                let id = line.strip_prefix("250 2.0.0 ").and_then(|rest| rest.strip_suffix(" queued"));
                let id = id.and_then(|id| id.parse::<MessageId>().ok());
                assert!(id.is_some(), "a calm relay takes every letter: {line}");
                self.acknowledged.insert(number, side.now().mono);
                self.send(link, side);
            }
            _ => {}
        }
    }
}

impl Host for Feeder {
    fn listens(&self, _: u16) -> bool {
        false
    }

    fn handle(&mut self, event: HostEvent<'_>, side: &mut HostSide<'_>) {
        match event {
            HostEvent::Received { link, bytes } => {
                let Some(session) = self.links.get_mut(&link) else { return };
                session.input.extend_from_slice(bytes);
                while let Some(session) = self.links.get_mut(&link)
                    && let Some(end) = memchr::memmem::find(&session.input, b"\r\n")
                {
                    let line = String::from_utf8_lossy(&session.input[..end]).into_owned();
                    session.input.drain(..end + 2);
                    if line.as_bytes().get(3) != Some(&b'-') {
                        self.reply(link, &line, side);
                    }
                }
            }
            HostEvent::Ended { link } | HostEvent::Failed { link } => {
                side.close(link);
                self.links.remove(&link);
            }
            _ => {}
        }
    }
}

fn tables(setting: &Setting) -> Tables {
    static SECRET: OnceLock<String> = OnceLock::new();
    let secret = SECRET.get_or_init(|| {
        let password = Password::new(b"pencil").expect("a short password");
        Secret::Scram(ScramKeys::derive(&password, &[1; 16], 4096)).encode()
    });
    let (mut text, mut rules) = (String::new(), "[default]\n".to_owned());
    match setting.binds {
        Binds::Rate(rate) => rules += &format!("message_rate = \"{rate}\"\n"),
        Binds::Connections(most, _) => rules += &format!("connections = {most}\n"),
    }
    let weights = setting.weights.iter().enumerate().map(|(n, weight)| (format!("t{n}"), *weight));
    for (name, weight) in weights.chain([("lone".to_owned(), 100)]) {
        text += &format!("[[account]]\nname = \"{name}\"\nsecret = \"{secret}\"\nfrom = [\"@{name}.test\"]\n");
        rules += &format!("[[tenant]]\nname = \"{name}\"\nweight = {weight}\n");
    }
    let accounts = Accounts::parse("accounts.toml", &text, [7; 32]).expect("a good file");
    let shaping = Arc::new(Shaping::parse(&[("shaping.toml", &rules)]).expect("a good file"));
    Tables { accounts, shaping, ..Tables::default() }
}

/// The listener of a world whose clients say who they are.
pub fn listener() -> Listener {
    Listener {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, 25)),
        kind: ListenerKind::Relay,
        tls: Demand::Off,
        auth: Demand::Offered,
        auth_without_tls: true,
        verify_sender_domain: false,
        verify_recipient_domain: false,
        proxy_networks: Networks::default(),
        xclient_networks: Networks::default(),
        xforward_networks: Networks::default(),
        greeting_delay: Duration::ZERO,
        strict_pipelining: false,
    }
}

const HOSTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];

fn client(n: usize) -> IpAddr {
    IpAddr::from([127, 9, 0, 1 + n as u8])
}

fn feed(world: &mut World, n: usize, letters: u64) {
    world.sim.with_host(client(n), |machine, side| {
        if let Machine::Feeder(feeder) = machine {
            feeder.add(letters, side);
        }
    });
}

fn feeder(world: &World, n: usize) -> &Feeder {
    match &world.sim.hosts[&client(n)] {
        Machine::Feeder(feeder) => feeder,
        _ => unreachable!("made as one"),
    }
}

fn build(setting: &Setting) -> (World, Rc<RefCell<Guard>>) {
    let mut config = config();
    config.hostname = "relay.test".to_owned();
    config.listeners = vec![listener()];
    config.relay.from_networks = vec!["192.0.2.0/32".parse().expect("a network")];
    config.dns.servers = vec![SocketAddr::new(SERVER.into(), 53)];
    config.delivery.lane_rate = setting.lane_rate;
    let mut world = World::new(setting.seed, config, 100, Geometry::default());
    world.tables = Arc::new(tables(setting));
    let (rate, connections, delay) = match setting.binds {
        Binds::Rate(rate) => (Some(rate), world.config.delivery.connections_per_destination, Duration::ZERO),
        Binds::Connections(most, delay) => (None, most, delay),
    };
    let guard = Rc::new(RefCell::new(Guard::new(rate, Some(connections as usize))));
    let records = Records::new();
    for (n, ip) in HOSTS.iter().enumerate() {
        records.host(&format!("mx{n}.test"), &[*ip], &[]);
        let mut hop = Hop::default();
        hop.guard = Some(Rc::clone(&guard));
        hop.mood.delay = delay;
        hop.extensions = if setting.chunking { vec!["CHUNKING".to_owned()] } else { Vec::new() };
        world.sim.hosts.insert((*ip).into(), Machine::Hop(Box::new(hop)));
    }
    for n in 0..setting.domains {
        records.domain(&format!("d{n}.test"), &[(10, "mx0.test"), (10, "mx1.test")]);
    }
    world.sim.hosts.insert(SERVER.into(), Machine::Zone(Box::new(Zone::new(records))));
    let names = (0..setting.weights.len()).map(|n| format!("t{n}")).chain(["lone".to_owned()]);
    for (n, name) in names.enumerate() {
        let rng = Rng::new(mix(setting.seed ^ n as u64));
        world.sim.hosts.insert(client(n), Machine::Feeder(Box::new(Feeder::new(name, setting.domains, rng))));
    }
    (world, guard)
}

/// What the site was sent: when, from whom, its number.
fn begun(world: &World, setting: &Setting) -> Vec<(Moment, usize, u64)> {
    let mut all = Vec::new();
    for received in world.hops().flat_map(|(_, hop)| &hop.received) {
        let (number, domain) = received.sender.split_once('@').expect("an address");
        let tenant = domain.strip_prefix('t').and_then(|rest| rest.strip_suffix(".test")?.parse().ok());
        let number = number.strip_prefix('m').and_then(|n| n.parse().ok()).expect("a number");
        all.push((received.mail_at, tenant.unwrap_or(setting.weights.len()), number));
    }
    all.sort_unstable();
    all
}

/// Runs the world of `setting`; with `lines` its trace is printed.
///
/// # Panics
/// If the relay does, or refuses a letter.
pub fn run(setting: &Setting, lines: Option<Lines>) -> Verdict {
    let (mut world, guard) = build(setting);
    if let Some(lines) = lines {
        world.sim.core.trace.print(lines);
    }
    world.start(setting.shards).expect("an empty disk has no faults");
    let tenants = setting.weights.len();
    let all = setting.letters as u64;
    (0..tenants).for_each(|n| feed(&mut world, n, all));
    let fed = |world: &World| (0..tenants).all(|n| feeder(world, n).acknowledged.len() == setting.letters);
    let mut violations = Vec::new();
    if !world.run_until(PATIENCE, fed) {
        violations.push(Violation { rule: "rest", text: "the backlogs were not taken".to_owned() });
    }
    let from = world.sim.now().mono;
    // The lone letters, some services apart.
    let pause = match setting.binds {
        Binds::Rate(rate) => rate.interval() * 37,
        Binds::Connections(most, delay) => delay * 4 * 37 / most,
    };
    let spread = pause.as_nanos() as u64;
    let mut rng = Rng::new(mix(setting.seed ^ 0x6c_6f_6e_65));
    for _ in 0..LONE {
        let at = world.sim.now().mono + Duration::from_nanos(spread / 2 + rng.below(spread));
        while world.step(at) != Step::Waited {}
        feed(&mut world, tenants, 1);
    }
    let total = all * tenants as u64 + LONE;
    let done = |world: &World| world.hops().map(|(_, hop)| hop.received.len() as u64).sum::<u64>() >= total;
    if !world.run_until(PATIENCE, done) {
        violations.push(Violation { rule: "rest", text: "not all letters were delivered".to_owned() });
    }
    let begun = begun(&world, setting);
    let until = end_of_saturation(&begun, setting).max(from);
    let inside: Vec<_> = begun.iter().filter(|(at, _, _)| (from..until).contains(at)).collect();
    let length = until.since(from);
    let guard = guard.borrow();
    let utilisation = match setting.binds {
        Binds::Rate(rate) => inside.len() as f64 / (length.as_secs_f64() / rate.interval().as_secs_f64()),
        Binds::Connections(most, _) => guard.mean_open(from, until) / f64::from(most),
    };
    let got: Vec<f64> = (0..tenants)
        .map(|n| inside.iter().filter(|(_, tenant, _)| *tenant == n).count() as f64 / f64::from(setting.weights[n]))
        .collect();
    let fairness = got.iter().sum::<f64>().powi(2) / (tenants as f64 * got.iter().map(|n| n * n).sum::<f64>());
    let (mut services, mut delays) = (Vec::new(), Vec::new());
    for (number, accepted) in &feeder(&world, tenants).acknowledged {
        let Some((at, ..)) = begun.iter().find(|(_, t, n)| (*t, n) == (tenants, number)) else { continue };
        if *accepted < until {
            services.push(begun.iter().filter(|(other, ..)| other > accepted && other < at).count() as u64);
            delays.push(at.since(*accepted));
        }
    }
    if let Some((at, message)) = guard.refused.first() {
        let what = if *message { "message" } else { "connection" };
        let text = format!("the receiver had to refuse a {what} at {:.6} s", at.0 as f64 / 1e9);
        violations.push(Violation { rule: "enforced", text });
    }
    let mut judge = |is_well: bool, rule: &'static str, text: String| {
        violations.extend((!is_well).then_some(Violation { rule, text }));
    };
    judge(inside.len() >= 100, "saturation", format!("saturated for {length:?} only, {} messages", inside.len()));
    judge(utilisation >= UTILISATION, "utilisation", format!("the limit was used to {:.1} %", utilisation * 100.0));
    judge(fairness >= FAIRNESS, "fairness", format!("tenants got {got:?} by their weights: an index of {fairness:.3}"));
    if let Some(allowed) = setting.services() {
        let most = services.iter().max().copied().unwrap_or(0);
        let text = format!("a lone letter waited for {most} services of {allowed}, {services:?}, {delays:?}");
        judge(most <= allowed, "lone letter", text);
    }
    if let Some(service) = setting.service() {
        let most = delays.iter().max().copied().unwrap_or_default();
        let text = format!("a lone letter waited for {most:?}, a service is {service:?}: {delays:?}, {services:?}");
        judge(most <= 2 * service + limits::FETCH_AHEAD_TIME, "lone letter", text);
    }
    Verdict { utilisation, fairness, services, delays, taken: inside.len(), violations }
}

/// When the first tenant has only a twentieth of its letters left.
fn end_of_saturation(begun: &[(Moment, usize, u64)], setting: &Setting) -> Moment {
    let mut left = vec![setting.letters; setting.weights.len() + 1];
    left[setting.weights.len()] = usize::MAX;
    for (at, tenant, _) in begun {
        left[*tenant] -= 1;
        if left[*tenant] <= setting.letters / 20 {
            return *at;
        }
    }
    Moment(0)
}
