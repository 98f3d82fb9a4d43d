//! PURE. The deeds of a scenario, drawn one after another.
//!
//! Inputs: a seed's choices, the settings drawn so far. Output: [`Deed`]s. It refuses to look back: a deed does not depend on
//! those before, so that any of them can be left out.

use super::{Crash, Deed, Scenario, millis, secs};
use crate::rt::sim::{DiskFault, DiskOp, EIO, ENOSPC, End, Reading, Rng};
use crate::sim::client::{Leave, Letter, Style};
use crate::sim::guise::Guise;
use crate::sim::hop::{Act, At, Mood};
use crate::sim::zone::Mood as DnsMood;
use std::collections::VecDeque;
use std::time::Duration;

/// What a scenario is about, if it is not a bit of everything: defects that need several things in turn, which a mixture
/// brings together too seldom.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Focus {
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
    /// Clients come by all listeners, and all at once.
    Edge,
}

impl Focus {
    pub(super) const DRAWN: [Focus; 10] = {
        use Focus::{Age, Mixture, Refusal, Rot, Torn};
        [Mixture, Mixture, Mixture, Mixture, Mixture, Age, Age, Refusal, Torn, Rot]
    };
}

/// What kinds of trouble a scenario has: few at a time, so that each is seen with and without the others.
pub(super) struct Themes {
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
    pub(super) fn draw(rng: &mut Rng, focus: Focus, scars: bool) -> Themes {
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
            clients: one() || focus == Focus::Edge,
            clock: one(),
            large: one(),
            scars,
            storm,
        }
    }
}

/// How a destination is from the beginning.
pub(super) fn prelude(rng: &mut Rng, focus: Focus, scenario: &Scenario) -> Option<Deed> {
    let act = match focus {
        Focus::Mixture | Focus::Torn | Focus::Edge => return None,
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
        (Focus::Edge, 3) => Deed::Reload { known: !rng.one_in(3) },
        (Focus::Edge, 4..6) => Deed::Dns { server: rng.below(2) as usize, mood: *rng.pick(&DnsMood::ALL) },
        _ => submit(rng, scenario, themes, mark),
    })
}

pub(super) fn deed(rng: &mut Rng, scenario: &Scenario, themes: &Themes, mark: &mut u32) -> Deed {
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
        guise: Guise::default(),
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
    Letter { mark, sender, recipients, header: String::new(), body: body(rng, mark, octets as usize) }
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
