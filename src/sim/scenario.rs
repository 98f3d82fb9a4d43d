//! PURE. What happens in one simulated world: a relay's settings, the world around it and a list of deeds, all from one
//! seed. A scenario is data, so that a failing one can be shortened and printed.
//!
//! Input: a seed. Output: a [`Scenario`]. It refuses to look at a run: what is done does not depend on how it goes.

mod deeds;
pub mod rules;
mod show;

use super::client::{Letter, Style};
use super::guise::Guise;
use super::hop::guard::{self, Guard};
use super::hop::{Mood, StartTls, name_number};
use super::zone::Mood as DnsMood;
use crate::rt::sim::{DiskFault, DiskOp, End, Reading, Rng};
use crate::shaping::{Limits, Rate};
use crate::sim::proxy::ProxyFault;
use crate::sim::sources::Plan;
use crate::spool::Geometry;
use deeds::{Focus, Themes, deed, prelude};
use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

/// A domain that receives mail.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Its name.
    pub name: String,
    /// Its exchangers: preference, address. Empty: it does not exist.
    pub exchangers: Vec<(u16, Ipv4Addr)>,
    /// Its exchanger is itself (RFC 5321 §5.1: no MX).
    pub implicit: bool,
    /// The number of the destination whose exchangers it has, all of them: the two are one site.
    pub twin_of: Option<usize>,
}

/// How the process ends and comes back.
#[derive(Clone, Debug)]
pub struct Crash {
    /// Effects that the relay still has before it ends; with `in_write` the durable writes that it begins, the last of which
    /// is under way when it ends.
    pub effects: u64,
    /// See `effects`.
    pub in_write: bool,
    /// What is lost beside.
    pub end: End,
    /// Shards of the next life.
    pub shards: u16,
    /// Recovery is cut off after so many operations on the disk, once for each.
    pub recovery_cuts: Vec<u32>,
    /// Time until it is started again.
    pub down: Duration,
}

/// Something that is done to the relay or its world.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are named after what they are")]
pub enum Deed {
    Submit {
        client: usize,
        letters: Vec<Letter>,
        style: Style,
    },
    Flood {
        client: usize,
        commands: u32,
        reading: Reading,
    },
    Mood {
        hops: Vec<usize>,
        mood: Mood,
    },
    Dns {
        server: usize,
        mood: DnsMood,
    },
    Cut {
        hop: usize,
        time: Duration,
    },
    Silence {
        hop: usize,
        silent: bool,
    },
    ResetAll {
        hop: usize,
    },
    Latency {
        hop: usize,
        least_us: u64,
        more_us: u64,
    },
    DnsLoss {
        permille: u32,
    },
    RefuseLocal {
        sockets: u32,
    },
    /// `after`: operations of this kind that go well before.
    Disk {
        op: DiskOp,
        fault: DiskFault,
        times: u32,
        after: u32,
    },
    DiskFull {
        room: Option<u64>,
    },
    DiskStall {
        time: Duration,
    },
    DiskMended,
    Rot,
    Spoil,
    Stall {
        shard: usize,
        time: Duration,
        /// And so much mail waits for it that its mailbox is full.
        stuffed: bool,
    },
    WallJump {
        milliseconds: i64,
    },
    Crash(Crash),
    Drain {
        now: bool,
        shards: u16,
    },
    /// Accounts and certificates are read again; only if `known` there are accounts in them.
    Reload {
        known: bool,
    },
    /// From now on that is wrong with the sources' proxy.
    Proxy {
        fault: ProxyFault,
    },
    /// A source is told to rest for the site of a destination.
    Rest {
        source: u16,
        destination: usize,
        time: Duration,
    },
}

/// See the module.
#[derive(Clone)]
pub struct Scenario {
    /// Where it comes from.
    pub seed: u64,
    /// Shards at the beginning.
    pub shards: u16,
    /// Sizes of the log.
    pub geometry: Geometry,
    /// Outbound connections of a shard.
    pub max_connections: usize,
    /// Connections to a destination.
    pub connections: u32,
    /// Messages over a connection.
    pub messages_per_connection: u32,
    /// First and longest interval of retries, and the age of giving up.
    pub retry: (Duration, Duration, Duration),
    /// A connection may idle so long.
    pub idle: Duration,
    /// Everything goes to one smart host.
    pub smart_host: bool,
    /// Exchangers have an IPv6 address too.
    pub ipv6: bool,
    /// Domains and their exchangers.
    pub destinations: Vec<Destination>,
    /// Clients, of which the last may not relay.
    pub clients: usize,
    /// Microseconds that a turn takes at most.
    pub turn_us: u64,
    /// Windows: least, and more.
    pub window: (usize, usize),
    /// Latency of the disk, microseconds: least, and more.
    pub disk_us: (u64, u64),
    /// What is done, each so long after the one before.
    pub deeds: Vec<(Duration, Deed)>,
    /// The disk may lie or rot: then what it spoiled is excused.
    pub has_scars: bool,
    /// The most recipients of a submission.
    pub max_recipients: usize,
    /// The most octets of a submission.
    pub max_message: u64,
    /// The most inbound sessions of a shard.
    pub max_sessions: usize,
    /// It has certificates, accounts and the listeners of [`super::guise::listeners`].
    pub edge: bool,
    /// And these ask DNS about domains.
    pub verifies: bool,
    /// And accounts have [`super::guise::LIMITS`].
    pub limited: bool,
    /// And they hear of their clients from a proxy, those that may relay.
    pub proxied: bool,
    /// The first two destinations are one provider's, by their exchangers.
    pub provider: bool,
    /// Messages a second for a domain that give it lanes.
    pub lane_rate: u32,
    /// Rates of messages and connections to each site.
    pub rates: [Option<Rate>; 2],
    /// What each campaign may, each tenant, each site beside its rates, and each tenant at the provider.
    pub flows: [Limits; 4],
    /// Receivers count connections and messages themselves, and refuse what is too much; and in some worlds they take half as many
    /// messages as the relay was told.
    pub enforced: Option<bool>,
    /// The number of a destination that is a domain of the relay's own: its first exchanger speaks LMTP.
    pub local: Option<usize>,
    /// The number of a destination with a route, and which.
    pub route: Option<(usize, Way)>,
    /// What the relay is to make of replies.
    pub rules: Vec<rules::Rule>,
    /// The first interval of the provider's schedule, if it has one.
    pub first_of_provider: Option<Duration>,
    /// Its source addresses.
    pub sources: Option<Plan>,
}

/// What a route does with a destination's mail. None refuses any: clients here go on behind a refused recipient as if there had
/// been none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// It goes to the smart host.
    Smart,
    /// It is taken, and goes nowhere.
    Discard,
    /// It waits, until it is too old.
    Hold,
}

/// The address of client number `n`; one outside of the networks that may relay for the last.
pub fn client_address(n: usize, clients: usize) -> IpAddr {
    if n + 1 == clients { IpAddr::from([203, 0, 113, 9]) } else { IpAddr::from([127, 9, 0, 1 + n as u8]) }
}

/// The IPv6 address of the host that has `ip`.
pub fn v6(ip: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = ip.octets().map(u16::from);
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, a, b, c, d)
}

/// The campaign of mail from this address, in worlds where campaigns have limits.
pub fn campaign_of(sender: &str) -> Option<String> {
    let name = sender.strip_suffix("@sender.test")?;
    matches!(name, "s0" | "s1" | "s2").then(|| name.to_owned())
}

/// The host that senders are at.
pub const SENDERS: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
/// The smart host.
pub const SMART: Ipv4Addr = Ipv4Addr::new(10, 8, 8, 8);
/// The DNS servers.
pub const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 53), Ipv4Addr::new(192, 0, 2, 54)];

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl Scenario {
    /// The scenario of `seed`.
    pub fn generate(seed: u64) -> Scenario {
        let mut rng = Rng::new(crate::rt::sim::rng::mix(seed ^ 0x52_49_4e_47));
        let rng = &mut rng;
        let focus = *rng.pick(&Focus::DRAWN);
        // Drawn apart, so that worlds without it are what they would be.
        let edge_rng = &mut Rng::new(crate::rt::sim::rng::mix(seed ^ 0x45_44_47_45));
        let focus = if edge_rng.one_in(8) { Focus::Edge } else { focus };
        let edge = focus == Focus::Edge || edge_rng.one_in(6);
        let shards = match focus {
            Focus::Age | Focus::Torn => 1 + rng.below(2) as u16,
            _ => 1 + rng.below(4) as u16,
        };
        let geometry = geometry(rng, focus);
        let destinations = destinations(rng);
        let first = secs(rng.within(5..60));
        let mut scenario = Scenario {
            seed,
            shards,
            geometry,
            max_connections: rng.within(3..20) as usize,
            connections: rng.within(1..6) as u32,
            messages_per_connection: *rng.pick(&[1, 2, 5, 100]),
            retry: (first, first * 4, secs(rng.within(20 * 60..40 * 60))),
            idle: *rng.pick(&[millis(1), secs(5), secs(30)]),
            smart_host: rng.one_in(8) && focus == Focus::Mixture,
            ipv6: rng.one_in(3),
            destinations,
            clients: rng.within(2..5) as usize,
            turn_us: *rng.pick(&[1, 20, 20, 2000]),
            window: *rng.pick(&[(1, 100), (1000, 3000), (4096, 60_000), (4096, 60_000), (1 << 20, 0)]),
            disk_us: match focus {
                Focus::Torn => (5000, 50_000),
                _ => *rng.pick(&[(50, 100), (100, 400), (100, 400), (100, 20_000), (20_000, 200_000)]),
            },
            deeds: Vec::new(),
            has_scars: focus == Focus::Rot || rng.one_in(8),
            max_recipients: if focus == Focus::Mixture { *rng.pick(&[1000, 1000, 3]) } else { 1000 },
            max_message: if focus == Focus::Mixture { *rng.pick(&[50 << 20, 50 << 20, 10_000]) } else { 50 << 20 },
            max_sessions: *rng.pick(&[1000, 1000, 1000, 2]),
            edge,
            verifies: false,
            limited: edge && edge_rng.one_in(2),
            proxied: edge && edge_rng.one_in(4),
            provider: false,
            lane_rate: 1_000_000,
            rates: [None; 2],
            flows: [Limits::default(); 4],
            enforced: None,
            local: None,
            route: None,
            rules: Vec::new(),
            first_of_provider: None,
            sources: None,
        };
        if edge && edge_rng.one_in(2) {
            let chosen = edge_rng.below(scenario.destinations.len() as u64) as usize;
            scenario.local = Some(chosen).filter(|n| !scenario.destinations[*n].exchangers.is_empty());
        }
        // Drawn apart, for the same reason.
        let site_rng = &mut Rng::new(crate::rt::sim::rng::mix(seed ^ 0x53_49_54_45));
        if site_rng.one_in(3) {
            scenario.add_twins(site_rng);
        }
        let has_mx = |d: &Destination| !d.exchangers.is_empty() && !d.implicit;
        scenario.provider = site_rng.one_in(3)
            && !scenario.smart_host
            && scenario.destinations[..2].iter().all(has_mx)
            && !matches!(scenario.local, Some(0 | 1));
        if site_rng.one_in(3) {
            // One or two at a time are much.
            scenario.lane_rate = *site_rng.pick(&[10, 20]);
        }
        if site_rng.one_in(4) {
            let draw = |rng: &mut Rng, rates: &[&str]| Some(rng.pick(rates).parse().expect("a rate"));
            let messages = ["1/s", "30/m", "10/s burst 5", "5/s", "50/s burst 10", "100/s burst 2"];
            scenario.rates[0] = if site_rng.one_in(5) { None } else { draw(site_rng, &messages) };
            let connections = ["1/s", "20/m burst 3", "10/s", "10/s burst 4"];
            scenario.rates[1] = if site_rng.one_in(2) { None } else { draw(site_rng, &connections) };
        }
        // Drawn apart as well.
        let guard_rng = &mut Rng::new(crate::rt::sim::rng::mix(seed ^ 0x47_55_52_44));
        if guard_rng.one_in(3) || scenario.rates[0].is_some() && guard_rng.one_in(2) {
            scenario.enforced = Some(guard_rng.one_in(4));
        }
        // And again.
        let route_rng = &mut Rng::new(crate::rt::sim::rng::mix(seed ^ 0x52_4f_55_54));
        if !scenario.smart_host && route_rng.one_in(4) {
            let chosen = route_rng.below(scenario.destinations.len() as u64) as usize;
            let way = *route_rng.pick(&[Way::Smart, Way::Smart, Way::Discard, Way::Hold]);
            scenario.route = Some((chosen, way)).filter(|(n, _)| scenario.local != Some(*n));
        }
        // A smart host knows a DNS of its own.
        scenario.verifies = edge && !scenario.smart_host && edge_rng.one_in(2);
        let themes = Themes::draw(rng, focus, scenario.has_scars);
        let count = if focus == Focus::Age { rng.within(60..120) } else { rng.within(15..60) };
        if let Some(deed) = prelude(rng, focus, &scenario) {
            scenario.deeds.push((Duration::ZERO, deed));
        }
        let mut mark = 0;
        for _ in 0..count {
            let deed = deed(rng, &scenario, &themes, &mut mark);
            let pause = match rng.below(10) {
                _ if focus == Focus::Torn => millis(rng.below(60)),
                0..=6 => millis(rng.below(40)),
                7 => secs(1),
                8 => secs(rng.within(2..20)),
                _ => secs(rng.within(30..180)),
            };
            scenario.deeds.push((pause, deed));
        }
        if scenario.destinations.iter().any(|d| d.twin_of.is_some()) || scenario.lane_rate < 1000 || scenario.provider {
            // One that invents exchangers makes one site two, for the relay as for anybody.
            for (_, deed) in &mut scenario.deeds {
                if let Deed::Dns { mood: mood @ DnsMood::ManyRecords, .. } = deed {
                    *mood = DnsMood::ServFail;
                }
            }
        }
        for (_, deed) in scenario.deeds.iter_mut().filter(|_| edge) {
            if let Deed::Submit { style, letters, .. } = deed {
                style.guise = Guise::draw(edge_rng);
                if style.guise.gives_up && style.guise.chunk.is_some() && !style.pipelines {
                    // Large enough that the log has a part of what is given up.
                    let large =
                        |letter: &mut Letter| letter.body = letter.body.repeat(1 + (40 << 10) / letter.body.len());
                    letters.iter_mut().for_each(large);
                }
                letters.iter_mut().for_each(|letter| letter.header = style.guise.header(letter.mark));
            }
        }
        scenario.add_rules(&mut Rng::new(crate::rt::sim::rng::mix(seed ^ 0x52_55_4c_45)));
        scenario.add_flows(&mut Rng::new(crate::rt::sim::rng::mix(seed ^ 0x46_4c_4f_57)));
        scenario.add_sources(&mut Rng::new(crate::rt::sim::rng::mix(seed ^ 0x53_52_43_45)));
        scenario
    }

    /// Campaigns, tenants and sites with limits of their own.
    fn add_flows(&mut self, rng: &mut Rng) {
        if !rng.one_in(4) {
            return;
        }
        let mut draw = |rates: &[&str]| Limits {
            message_rate: if rng.one_in(2) { None } else { rng.pick(rates).parse().ok() },
            connections: if rng.one_in(2) { None } else { Some(rng.within(1..4) as u32) },
            bytes_in_flight: if rng.one_in(2) { None } else { Some(*rng.pick(&[1024, 4096, 20_000, 100_000])) },
            ..Limits::default()
        };
        self.flows =
            [&["1/s", "10/s burst 5", "5/s", "50/s burst 10"][..], &["10/s"], &["10/s"], &["10/s"]].map(&mut draw);
        for limits in &mut self.flows[1..] {
            limits.message_rate = None;
        }
        self.flows[2].connections = None;
        if !self.provider {
            self.flows[3] = Limits::default();
        }
        for (_, deed) in &mut self.deeds {
            let Deed::Submit { letters, .. } = deed else { continue };
            for letter in letters {
                if let Some(campaign) = campaign_of(&letter.sender) {
                    letter.header.insert_str(0, &format!("X-Campaign: {campaign}\r\n"));
                }
            }
        }
    }

    /// Domains that have the exchangers of others, and are one site with them.
    fn add_twins(&mut self, rng: &mut Rng) {
        let others = self.destinations.len();
        for n in 0..rng.within(1..4) {
            let twin_of = rng.below(others as u64) as usize;
            let Destination { exchangers, implicit, .. } = self.destinations[twin_of].clone();
            if !exchangers.is_empty() && !implicit && self.local != Some(twin_of) {
                let name = format!("t{n}.test");
                self.destinations.push(Destination { name, exchangers, implicit, twin_of: Some(twin_of) });
            }
        }
    }

    /// What receivers count together, a site each, and the limits that they enforce.
    pub fn guards(&self) -> Vec<(Vec<IpAddr>, guard::Shared)> {
        let Some(is_secret) = self.enforced.filter(|_| !self.smart_host) else { return Vec::new() };
        let sites = self.destinations.iter().enumerate().filter(|(n, d)| {
            let second = self.provider && *n == 1;
            d.twin_of.is_none() && self.local != Some(*n) && !second
        });
        let guard = |(n, d): (usize, &Destination)| {
            let mut hosts = self.addresses(d);
            if self.provider && n == 0 {
                hosts.extend(self.addresses(&self.destinations[1]));
            }
            let half =
                |rate: Rate| Rate::new(rate.count(), rate.period() * 2, rate.burst()).expect("periods are short");
            let rate = self.rates[0].map(|rate| if is_secret { half(rate) } else { rate });
            let mut guard = Guard::new(rate, Some(self.connections as usize));
            guard.is_secret = is_secret && rate.is_some();
            if let Some(plan) = self.sources.as_ref().filter(|_| !guard.is_secret) {
                guard.of_source = plan.limits;
            }
            (hosts, Rc::new(RefCell::new(guard)))
        };
        sites.map(guard).collect()
    }

    /// The scenario with only those deeds whose number is in `keep`.
    pub fn only(&self, keep: &[usize]) -> Scenario {
        let mut shorter = self.clone();
        // The pauses stay: what happens, happens when it did.
        let mut pause = Duration::ZERO;
        shorter.deeds.clear();
        for (number, (before, deed)) in self.deeds.iter().enumerate() {
            pause += *before;
            if keep.contains(&number) {
                shorter.deeds.push((std::mem::take(&mut pause), deed.clone()));
            }
        }
        shorter
    }

    /// The addresses that may get mail for `domain`.
    pub fn exchangers(&self, domain: &str) -> Vec<IpAddr> {
        if let Some(mailboxes) = self.mailboxes().filter(|_| self.is_local(domain)) {
            return vec![mailboxes];
        }
        if domain == "sender.test" {
            return vec![if self.smart_host { SMART.into() } else { SENDERS.into() }];
        }
        if self.smart_host {
            return vec![SMART.into()];
        }
        match self.way(domain) {
            Some(Way::Smart) => return vec![SMART.into()],
            Some(Way::Discard | Way::Hold) => return Vec::new(),
            None => {}
        }
        let found = self.destinations.iter().find(|d| d.name == domain);
        found.map(|d| self.addresses(d)).unwrap_or_default()
    }

    /// What the route of `domain` does, if it has one.
    pub fn way(&self, domain: &str) -> Option<Way> {
        self.route.filter(|(n, _)| self.destinations[*n].name == domain).map(|(_, way)| way)
    }

    /// Whether `domain` is one of the relay's own.
    pub fn is_local(&self, domain: &str) -> bool {
        self.local.is_some_and(|n| self.destinations[n].name == domain)
    }

    /// The host that mail for it goes to, by LMTP.
    pub fn mailboxes(&self) -> Option<IpAddr> {
        self.local.map(|n| self.destinations[n].exchangers[0].1.into())
    }

    /// All addresses of a destination's exchangers.
    pub fn addresses(&self, destination: &Destination) -> Vec<IpAddr> {
        let v4 = destination.exchangers.iter().map(|(_, ip)| IpAddr::from(*ip));
        let v6 = destination.exchangers.iter().filter(|_| self.ipv6).map(|(_, ip)| IpAddr::from(v6(*ip)));
        v4.chain(v6).collect()
    }

    /// What the host with `ip` announces beside what its mood says.
    pub fn announced_by(&self, ip: IpAddr) -> Vec<String> {
        let rng = &mut Rng::new(name_number(&format!("{} {ip}", self.seed)));
        if !self.edge {
            return if rng.one_in(2) { vec!["CHUNKING".to_owned()] } else { Vec::new() };
        }
        let all = ["DSN", "CHUNKING", "BINARYMIME", "SMTPUTF8", "MT-PRIORITY", "REQUIRETLS"];
        let mut announced: Vec<String> = all.iter().filter(|_| rng.one_in(2)).map(|&word| word.to_owned()).collect();
        match rng.below(4) {
            0 => announced.push("DELIVERBY".to_owned()),
            1 => announced.push("DELIVERBY 120".to_owned()),
            _ => {}
        }
        if rng.one_in(6) {
            announced.push("LIMITS RCPTMAX=2 MAILMAX=3".to_owned());
        }
        announced
    }

    /// What the host with `ip` does about TLS, if it has any.
    pub fn tls_of(&self, ip: IpAddr) -> Option<StartTls> {
        let rng = &mut Rng::new(name_number(&format!("tls {} {ip}", self.seed)));
        if !self.edge || rng.one_in(3) {
            return None;
        }
        Some(if rng.one_in(2) { StartTls::Works } else { *rng.pick(&StartTls::ALL) })
    }

    /// Whether that host bears no flights.
    pub fn is_grounded(&self, ip: IpAddr) -> bool {
        Rng::new(name_number(&format!("grounded {} {ip}", self.seed))).one_in(5)
    }

    /// The longest that a letter asks to be held.
    pub fn longest_hold(&self) -> Duration {
        let hold = |deed: &Deed| match deed {
            Deed::Submit { style, .. } => style.guise.asks.hold,
            _ => None,
        };
        self.deeds.iter().filter_map(|(_, deed)| hold(deed)).max().unwrap_or_default()
    }

    /// Whether DNS invents exchangers at some time: a domain comes to another site then, and back, and what was begun at the one
    /// before still counts there. No rate can be kept to over that; connections are, by waiting for those of before.
    pub fn invents_exchangers(&self) -> bool {
        let invents = |(_, deed): &(Duration, Deed)| matches!(deed, Deed::Dns { mood: DnsMood::ManyRecords, .. });
        self.deeds.iter().any(invents)
    }

    /// All next hops, by the numbers that deeds use.
    pub fn hops(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = self.destinations.iter().flat_map(|d| self.addresses(d)).collect();
        all.push(SENDERS.into());
        all.push(SMART.into());
        all
    }
}

fn destinations(rng: &mut Rng) -> Vec<Destination> {
    let mut destinations = Vec::new();
    for n in 0..rng.within(2..9) {
        let name = format!("d{n}.test");
        let exists = !rng.one_in(12);
        let implicit = rng.one_in(8);
        let count = match (exists, implicit) {
            (false, _) => 0,
            (true, true) => 1,
            _ => rng.within(1..4),
        };
        let exchangers =
            (0..count).map(|host| (10 * rng.within(1..3) as u16, Ipv4Addr::new(10, 0, n as u8, 1 + host as u8)));
        let exchangers = exchangers.collect();
        destinations.push(Destination { name, exchangers, implicit: implicit && exists, twin_of: None });
    }
    destinations
}

fn geometry(rng: &mut Rng, focus: Focus) -> Geometry {
    let chunk_bytes = *rng.pick(&[2048_u32, 8192, 32 << 10]);
    // Small segments are full soon: they are freed, used again and compacted while the scenario lasts.
    let small = chunk_bytes < 32 << 10 && rng.one_in(2);
    let (commit_bytes, commits, chunk_bytes) = match focus {
        Focus::Age => (16 << 10, 4, 2048),
        _ if small => (32 << 10, 4, chunk_bytes),
        _ => (64 << 10, *rng.pick(&[8, 16]), chunk_bytes),
    };
    Geometry {
        segment_bytes: commit_bytes * commits,
        commit_bytes,
        chunk_bytes,
        reserve_bytes: commit_bytes / 2,
        last_reserve_bytes: 4096,
    }
}
