//! PURE. What happens in one simulated world: a relay's settings, the world around it and a list of deeds, all from one
//! seed. A scenario is data, so that a failing one can be shortened and printed.
//!
//! Input: a seed. Output: a [`Scenario`]. It refuses to look at a run: what is done does not depend on how it goes.

mod show;

use super::client::{Leave, Letter, Style};
use super::hop::{Act, At, Mood};
use super::zone::Mood as DnsMood;
use crate::rt::sim::{DiskFault, DiskOp, EIO, ENOSPC, End, Reading, Rng};
use crate::spool::Geometry;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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
        /// And so much mail waits for it that its mailbox is nearly full.
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
        };
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
        scenario
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
        if domain == "sender.test" {
            return vec![if self.smart_host { SMART.into() } else { SENDERS.into() }];
        }
        if self.smart_host {
            return vec![SMART.into()];
        }
        let found = self.destinations.iter().find(|d| d.name == domain);
        found.map(|d| self.addresses(d)).unwrap_or_default()
    }

    /// All addresses of a destination's exchangers.
    pub fn addresses(&self, destination: &Destination) -> Vec<IpAddr> {
        let v4 = destination.exchangers.iter().map(|(_, ip)| IpAddr::from(*ip));
        let v6 = destination.exchangers.iter().filter(|_| self.ipv6).map(|(_, ip)| IpAddr::from(v6(*ip)));
        v4.chain(v6).collect()
    }

    /// All next hops, by the numbers that deeds use.
    pub fn hops(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = self.destinations.iter().flat_map(|d| self.addresses(d)).collect();
        all.push(SENDERS.into());
        all.push(SMART.into());
        all
    }
}

/// What a scenario is about, if it is not a bit of everything: defects that need several things in turn, which a mixture
/// brings together too seldom.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Focus {
    Mixture,
    /// A log that grows old: segments are freed and compacted while some of their mail waits, now and then a write fails,
    /// now and then the process ends.
    Age,
    /// Receivers refuse while writes fail: notifications are due when there is no log for them.
    Refusal,
    /// Large commits on a slow disk, cut short by losses of power.
    Torn,
    /// Mail waits on a disk that rots.
    Rot,
}

impl Focus {
    const DRAWN: [Focus; 10] = {
        use Focus::{Age, Mixture, Refusal, Rot, Torn};
        [Mixture, Mixture, Mixture, Mixture, Mixture, Age, Age, Refusal, Torn, Rot]
    };
}

/// What kinds of trouble a scenario has: few at a time, so that each is seen with and without the others.
struct Themes {
    focus: Focus,
    hops: bool,
    network: bool,
    dns: bool,
    disk: bool,
    crashes: bool,
    clients: bool,
    clock: bool,
    large: bool,
    scars: bool,
    /// Crash upon crash.
    storm: bool,
}

impl Themes {
    fn draw(rng: &mut Rng, focus: Focus, scars: bool) -> Themes {
        let storm = rng.one_in(8) && focus != Focus::Age;
        // A focus has its own trouble; the rest is seldom beside it.
        let often = if focus == Focus::Mixture { 2 } else { 4 };
        let mut one = || rng.one_in(often);
        Themes {
            focus,
            hops: one(),
            network: one(),
            dns: one(),
            disk: one(),
            crashes: one() || storm,
            clients: one(),
            clock: one(),
            large: one(),
            scars,
            storm,
        }
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
        destinations.push(Destination { name, exchangers, implicit: implicit && exists });
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

/// How a destination is from the beginning.
fn prelude(rng: &mut Rng, focus: Focus, scenario: &Scenario) -> Option<Deed> {
    let act = match focus {
        Focus::Mixture | Focus::Torn => return None,
        Focus::Age | Focus::Rot => Act::Say("450 4.2.1 come back later\r\n".to_owned()),
        Focus::Refusal => Act::Say("550 5.1.1 nobody of that name\r\n".to_owned()),
    };
    let at = if rng.one_in(4) { At::Final } else { At::Rcpt };
    let mood = Mood { acts: vec![(at, *rng.pick(&[1000, 1000, 500]), act)], ..Mood::default() };
    Some(Deed::Mood { hops: some_hops(rng, scenario), mood })
}

/// What the focus asks for next, if it does.
fn focused(rng: &mut Rng, scenario: &Scenario, themes: &Themes, mark: &mut u32) -> Option<Deed> {
    let write_fails = |rng: &mut Rng| Deed::Disk {
        op: DiskOp::Write,
        fault: DiskFault::Error(EIO),
        times: *rng.pick(&[1, 1, 1, 2]),
        after: rng.below(8) as u32,
    };
    Some(match (themes.focus, rng.below(16)) {
        (Focus::Mixture, _) | (_, 0..3) => return None,
        (Focus::Age, 3) | (Focus::Refusal, 3..7) => write_fails(rng),
        (Focus::Age, 4) | (Focus::Rot, 3) => crash(rng),
        (Focus::Torn, 3..5) => Deed::Crash(Crash {
            effects: rng.within(1..6),
            in_write: true,
            end: End::PowerLost,
            shards: scenario.shards,
            recovery_cuts: Vec::new(),
            down: millis(rng.below(2000)),
        }),
        (Focus::Rot, 4..6) => Deed::Rot,
        _ => submit(rng, scenario, themes, mark),
    })
}

fn deed(rng: &mut Rng, scenario: &Scenario, themes: &Themes, mark: &mut u32) -> Deed {
    if let Some(deed) = focused(rng, scenario, themes, mark) {
        return deed;
    }
    let hops = some_hops(rng, scenario);
    let hop = *rng.pick(&hops);
    if themes.storm && rng.one_in(6) {
        return crash(rng);
    }
    for _ in 0..8 {
        return match rng.below(17) {
            0 | 1 | 14 if themes.hops => Deed::Mood { hops, mood: mood(rng) },
            2 if themes.hops && rng.one_in(2) => Deed::Mood { hops, mood: Mood::default() },
            3 if themes.network => network(rng, hop),
            4 | 15 if themes.dns => Deed::Dns { server: rng.below(2) as usize, mood: *rng.pick(&DnsMood::ALL) },
            5 if themes.disk => disk(rng),
            6 if themes.disk && rng.one_in(2) => Deed::DiskMended,
            7 if themes.crashes => crash(rng),
            8 if themes.crashes && rng.one_in(4) => Deed::Drain { now: rng.one_in(3), shards: 1 + rng.below(4) as u16 },
            9 if themes.clock => match rng.below(3) {
                0 => Deed::WallJump { milliseconds: rng.within(1000..7_200_000) as i64 },
                1 => Deed::WallJump { milliseconds: -(rng.within(1000..7_200_000) as i64) },
                _ => {
                    let stuffed = rng.one_in(2);
                    let time = millis(rng.within(10..if stuffed { 5000 } else { 90_000 }));
                    Deed::Stall { shard: rng.below(4) as usize, time, stuffed }
                }
            },
            10 if themes.scars && rng.one_in(3) => scar(rng),
            11 if themes.clients && rng.one_in(3) => Deed::Flood {
                client: rng.below(scenario.clients as u64) as usize,
                commands: rng.within(1..20_000) as u32,
                reading: *rng.pick(&[Reading::All, Reading::Nothing]),
            },
            11..14 | 16 => submit(rng, scenario, themes, mark),
            _ => continue,
        };
    }
    submit(rng, scenario, themes, mark)
}

/// The hosts of one destination, or one of them. Never the senders' host: it stays well, or no notification could be asked for.
fn some_hops(rng: &mut Rng, scenario: &Scenario) -> Vec<usize> {
    let counts: Vec<usize> = scenario.destinations.iter().map(|d| scenario.addresses(d).len()).collect();
    let smart = counts.iter().sum::<usize>() + 1;
    let chosen = rng.below(counts.len() as u64) as usize;
    let first: usize = counts[..chosen].iter().sum();
    let all: Vec<usize> = (first..first + counts[chosen]).collect();
    if scenario.smart_host || all.is_empty() {
        vec![smart]
    } else if rng.one_in(2) {
        vec![*rng.pick(&all)]
    } else {
        all
    }
}

fn scar(rng: &mut Rng) -> Deed {
    match rng.below(4) {
        0 => Deed::Rot,
        1 => Deed::Spoil,
        2 => Deed::Disk { op: DiskOp::Write, fault: DiskFault::Lost, times: 1, after: 0 },
        _ => {
            let fault = DiskFault::Misdirected(rng.within(1..200) as u32);
            Deed::Disk { op: DiskOp::Write, fault, times: 1, after: 0 }
        }
    }
}

fn crash(rng: &mut Rng) -> Deed {
    let in_write = rng.one_in(2);
    let effects = match rng.below(3) {
        _ if in_write => rng.within(1..4),
        0 => rng.within(1..12),
        1 => rng.within(1..200),
        _ => rng.within(1..2000),
    };
    let cuts = if rng.one_in(3) { rng.below(3) } else { 0 };
    Deed::Crash(Crash {
        effects,
        in_write,
        end: if rng.one_in(2) { End::Killed } else { End::PowerLost },
        shards: 1 + rng.below(4) as u16,
        recovery_cuts: (0..cuts).map(|_| rng.below(40) as u32).collect(),
        down: millis(rng.below(5000)),
    })
}

fn disk(rng: &mut Rng) -> Deed {
    let errno = if rng.one_in(2) { EIO } else { ENOSPC };
    let times = *rng.pick(&[1, 1, 2, 5, 30]);
    let after = *rng.pick(&[0, 0, 1, 3, 10]);
    match rng.below(7) {
        0 | 1 => Deed::Disk { op: DiskOp::Write, fault: DiskFault::Error(errno), times, after },
        2 => Deed::Disk { op: DiskOp::Create, fault: DiskFault::Error(errno), times, after },
        3 => Deed::Disk { op: DiskOp::Read, fault: DiskFault::Error(EIO), times, after },
        4 => Deed::Disk { op: DiskOp::Remove, fault: DiskFault::Error(EIO), times, after },
        5 => Deed::DiskFull { room: Some(rng.below(3) * 700_000) },
        _ => Deed::DiskStall { time: millis(rng.within(10..40_000)) },
    }
}

fn network(rng: &mut Rng, hop: usize) -> Deed {
    match rng.below(6) {
        0 => Deed::Cut { hop, time: millis(rng.within(100..100_000)) },
        1 => Deed::Silence { hop, silent: rng.one_in(2) },
        2 => Deed::ResetAll { hop },
        3 => Deed::Latency { hop, least_us: rng.below(100_000), more_us: rng.below(500_000) },
        4 => Deed::DnsLoss { permille: *rng.pick(&[0, 100, 500]) },
        _ => Deed::RefuseLocal { sockets: rng.within(1..20) as u32 },
    }
}

fn mood(rng: &mut Rng) -> Mood {
    let mut mood = Mood::default();
    for _ in 0..rng.within(1..4) {
        match rng.below(24) {
            0 => mood.refuses = true,
            1 => mood.greylist = Some(secs(rng.within(1..300))),
            2 => mood.max_open = Some(rng.within(1..3) as usize),
            3 => mood.delay = millis(*rng.pick(&[1, 100, 5000, 40_000])),
            4 => mood.dribbles = true,
            5 => {
                mood.reading = *rng.pick(&[
                    Reading::Nothing,
                    Reading::Slow { octets: 1000, every: millis(10) },
                    Reading::Slow { octets: 50, every: millis(700) },
                ]);
            }
            6 => mood.cuts = (0..rng.within(1..6)).map(|_| rng.below(5000) as usize).collect::<VecDeque<_>>(),
            7 => mood.size = Some(rng.within(1..5) * 2000),
            8 => mood.eight_bit = false,
            9 => mood.pipelining = false,
            10 => mood.old = true,
            11 => mood.unknown_permille = *rng.pick(&[200, 1000]),
            _ => {
                let at =
                    *rng.pick(&[At::Greeting, At::Ehlo, At::Mail, At::Rcpt, At::Data, At::Final, At::Final, At::Quit]);
                let often = *rng.pick(&[1000, 400, 200, 100, 50]);
                // The reply to the final dot is the one that decides: it is lost in every way.
                let lost = [Act::Close, Act::Reset, Act::Vanish, Act::Silence];
                let act = if at == At::Final && rng.one_in(2) { rng.pick(&lost).clone() } else { act(rng) };
                mood.acts.push((at, often, act));
            }
        }
    }
    mood
}

fn act(rng: &mut Rng) -> Act {
    match rng.below(11) {
        0 | 1 => Act::Say("451 4.3.0 not now\r\n".to_owned()),
        2 => Act::Say("452-4.2.2 full\r\n452 4.2.2 come back\r\n".to_owned()),
        3 => Act::Say("554 5.7.1 never\r\n".to_owned()),
        4 if rng.one_in(3) => Act::Say("421 4.3.2 going down, some time\r\n".to_owned()),
        4 => Act::SayAndClose("421 4.3.2 going down\r\n".to_owned()),
        5 => Act::SayAndClose("550 5.7.1 go away\r\n".to_owned()),
        6 => Act::Close,
        7 => Act::Reset,
        8 => Act::Vanish,
        9 => Act::Silence,
        _ => Act::Garbage,
    }
}

fn submit(rng: &mut Rng, scenario: &Scenario, themes: &Themes, mark: &mut u32) -> Deed {
    // The last may not relay: one refusal is like another.
    let last = scenario.clients - 1;
    let client = if rng.one_in(12) { last } else { rng.below(last as u64) as usize };
    let letters: Vec<Letter> = (0..rng.within(1..6))
        .map(|_| {
            *mark += 1;
            letter(rng, scenario, themes, *mark)
        })
        .collect();
    let large = letters.iter().map(|letter| letter.body.len()).max().unwrap_or(0) > 20_000;
    let bad = themes.clients && rng.one_in(3);
    let leaves = [Leave::Close, Leave::Reset, Leave::Vanish, Leave::Stall];
    let style = Style {
        pipelines: rng.one_in(2),
        piece: if large { rng.within(2000..20_000) as usize } else { *rng.pick(&[1, 7, 100, 1000, 100_000]) },
        pause: *rng.pick(&[Duration::ZERO, Duration::ZERO, millis(1), millis(30)]),
        leave: if bad { *rng.pick(&leaves) } else { Leave::Quit },
        accident: (bad && rng.one_in(2)).then(|| (rng.within(1..40) as u32, *rng.pick(&leaves))),
        reading: if bad && rng.one_in(4) { Reading::Nothing } else { Reading::All },
        noise: if rng.one_in(6) { rng.below(6) as u32 } else { 0 },
        hasty: (bad && rng.one_in(2)).then(|| *rng.pick(&leaves)),
        trailing: rng.one_in(3),
    };
    Deed::Submit { client, letters, style }
}

fn letter(rng: &mut Rng, scenario: &Scenario, themes: &Themes, mark: u32) -> Letter {
    let mut recipients = Vec::new();
    let most = *rng.pick(&[1, 4, 8]);
    for _ in 0..=rng.below(most) {
        let domain = &rng.pick(&scenario.destinations).name;
        // The domain in any case: the same destination.
        let domain = if rng.one_in(10) { domain.to_ascii_uppercase() } else { domain.clone() };
        // Nobody gets two letters: a refusal is of one letter only.
        let to = format!("u{}n{mark}@{domain}", rng.below(4));
        if !recipients.iter().any(|other: &String| other.eq_ignore_ascii_case(&to)) {
            recipients.push(to);
        }
    }
    let sender = if rng.one_in(8) { String::new() } else { format!("s{}@sender.test", rng.below(3)) };
    let octets = match rng.below(12) {
        0 if themes.large => rng.within(20_000..150_000),
        0..3 => rng.within(1000..20_000),
        _ => rng.within(1..600),
    };
    Letter { mark, sender, recipients, body: body(rng, mark, octets as usize) }
}

/// Lines of all kinds: empty, of dots, long, of eight bits.
fn body(rng: &mut Rng, mark: u32, octets: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(octets + 100);
    let eight_bit = rng.one_in(10);
    while body.len() < octets {
        match rng.below(8) {
            0 => body.extend_from_slice(b"\r\n"),
            1 => body.extend_from_slice(b"..\r\n"),
            2 => body.extend_from_slice(b"...\r\n"),
            3 => {
                body.extend_from_slice(b"..");
                body.extend_from_slice(format!("{mark} {}\r\n", rng.below(1000)).as_bytes());
            }
            4 => {
                let length = rng.within(1..900) as usize;
                body.resize(body.len() + length, b'a' + (mark % 26) as u8);
                body.extend_from_slice(b".\r\n");
            }
            5 if eight_bit => body.extend_from_slice("Gr\u{fc}\u{df}e\r\n".as_bytes()),
            _ => body.extend_from_slice(format!("{mark} {} said\r\n", rng.below(1_000_000)).as_bytes()),
        }
    }
    body
}
