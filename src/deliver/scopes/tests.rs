//! Flows of several shards that share scopes, with slow mail between them: what is in flight and what is begun is within every
//! limit at each instant, all that waits is begun in the end, and connections are opened for mail that then goes.

#![allow(clippy::unwrap_used)]
use super::held::{Counts, Limited, SCOPES, Scopes, Whose};
use super::*;
use crate::lease::{Ledgers, ToLedger};
use crate::properties::cases;
use crate::shaping::{Pace, Shaping, Site};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1000 * MILLI;

/// A connection.
enum Line {
    Opens(Moment),
    /// Others leave it until then: it has not carried anything.
    Idles(Moment),
    Carries(Moment, u32, Option<Box<Counts>>),
}

/// A tenant's mail of a campaign, at a destination.
struct Mail {
    shard: usize,
    scopes: [Option<usize>; SCOPES],
    limited: Limited,
    place: Place,
    /// Octets of what waits.
    waits: VecDeque<u32>,
    aside: bool,
    lines: Vec<Line>,
    /// A host takes so long to greet.
    greets: u64,
    /// Connections opened.
    opened: u64,
}

#[derive(Default)]
struct Model {
    now: Moment,
    shards: Vec<Scopes>,
    ledgers: Vec<Ledgers>,
    to_ledgers: VecDeque<(Moment, ToLedger)>,
    to_lanes: VecDeque<(Moment, u16, ToLane)>,
    mail: Vec<Mail>,
    whose: Vec<Limits>,
    paces: BTreeMap<usize, Pace>,
    latency: u64,
    service: u64,
    /// One connection at a time for all of a shard.
    narrow: bool,
}

fn all_of(names: usize) -> Vec<(usize, String)> {
    (0..SCOPES).flat_map(|kind| (0..names).map(move |n| (kind, format!("n{n}")))).collect()
}

fn whose(kind: usize, name: &str) -> Whose {
    let site = Site { name: name.into(), provider: None };
    match kind {
        0 => Whose::Site(site),
        1 => Whose::Tenant(name.into()),
        2 => Whose::TenantAt(name.into(), Site { name: "big".into(), provider: Some(0) }),
        _ => Whose::Campaign(name.into()),
    }
}

impl Model {
    fn new(shards: usize, shaping: &Shaping, flows: &[(usize, [Option<usize>; SCOPES])]) -> Model {
        let mut model = Model {
            now: Moment(SECOND),
            shards: (0..shards).map(|_| Scopes::new(shaping)).collect(),
            ledgers: (0..shards).map(|_| Ledgers::new(shards as u16)).collect(),
            whose: all_of(NAMES).iter().map(|(kind, name)| whose(*kind, name).limits(shaping)).collect(),
            latency: MILLI / 10,
            service: 20 * MILLI,
            ..Model::default()
        };
        for (at, (shard, names)) in flows.iter().enumerate() {
            let scopes = std::array::from_fn(|kind| names[kind].map(|name| kind * NAMES + name));
            model.mail.push(Mail {
                shard: shard % shards,
                scopes,
                limited: Limited { scopes: [None; SCOPES], recipients: u32::MAX, paced: false },
                place: (DestinationId::sample(at as u32), FlowId::default()),
                waits: VecDeque::new(),
                aside: false,
                lines: Vec::new(),
                greets: 5 * MILLI,
                opened: 0,
            });
        }
        model
    }

    /// As `Deliverer::limited`.
    fn find(&mut self, at: usize, shaping: &Shaping) {
        let mail = &mut self.mail[at];
        for (id, scope) in mail.limited.scopes.iter_mut().zip(mail.scopes) {
            let Some(scope) = scope else { continue };
            let (kind, name) = &all_of(NAMES)[scope];
            *id = self.shards[mail.shard].find(whose(*kind, name), None, shaping, self.now);
        }
    }

    /// What is in flight is within all limits.
    fn look(&self) {
        for (scope, limits) in self.whose.iter().enumerate() {
            let mut under_way = (0, 0);
            for mail in self.mail.iter().filter(|mail| mail.scopes.contains(&Some(scope))) {
                for line in &mail.lines {
                    if let Line::Carries(_, size, _) = line {
                        under_way = (under_way.0 + 1, under_way.1 + u64::from(*size));
                    }
                }
            }
            let (count, octets) = under_way;
            assert!(count <= limits.connections.unwrap_or(u32::MAX), "{count} of {limits}");
            assert!(count <= 1 || octets <= limits.bytes_in_flight.unwrap_or(u64::MAX), "{octets} of {limits}");
        }
    }

    /// As `Deliverer::pump`.
    fn pump(&mut self, at: usize, shaping: &Shaping) {
        self.find(at, shaping);
        let now = self.now;
        let elsewhere = self.narrow
            && self.mail.iter().enumerate().any(|(other, mail)| {
                let busy = |line: &Line| !matches!(line, Line::Idles(until) if *until <= now);
                other != at && mail.shard == self.mail[at].shard && mail.lines.iter().any(busy)
            });
        let mail = &mut self.mail[at];
        let (scopes, limited) = (&mut self.shards[mail.shard], mail.limited);
        for line in &mut mail.lines {
            match line {
                Line::Opens(until) if *until <= now => *line = Line::Idles(now + limits::PACED_IDLE),
                Line::Carries(until, _, counts) if *until <= now => {
                    scopes.give_back(counts.take());
                    *line = Line::Idles(now);
                }
                _ => {}
            }
        }
        while let Some(&size) = mail.waits.front().filter(|_| !mail.aside) {
            if let Some(line) = mail.lines.iter_mut().find(|line| matches!(line, Line::Idles(_))) {
                if let Some(lacks) = scopes.lacks(&limited, mail.place, size, now) {
                    mail.aside = true;
                    scopes.wait(&limited, lacks, mail.place, (1, size), now);
                    break;
                }
                *line =
                    Line::Carries(Moment(now.0 + self.service), size, scopes.begin(&limited, mail.place, size, now));
                mail.waits.pop_front();
                for scope in mail.scopes.into_iter().flatten() {
                    if let Some(rate) = self.whose[scope].message_rate {
                        assert!(self.paces.entry(scope).or_default().take(rate, now), "over {rate} at {now:?}");
                    }
                }
                continue;
            }
            let opens = mail.lines.iter().any(|line| matches!(line, Line::Opens(_)));
            if opens || mail.lines.len() >= 2 {
                break;
            }
            if let Some(lacks) = scopes.prepare(&limited, mail.place, size, now) {
                mail.aside = true;
                scopes.wait(&limited, lacks, mail.place, (0, size), now);
                break;
            }
            if elsewhere {
                break;
            }
            mail.lines.push(Line::Opens(Moment(now.0 + mail.greets)));
            mail.opened += 1;
            if self.narrow {
                let shard = mail.shard;
                // The others' are closed for it.
                for (_, mail) in self.mail.iter_mut().enumerate().filter(|(n, m)| *n != at && m.shard == shard) {
                    mail.lines.retain(|line| !matches!(line, Line::Idles(_)));
                }
                break;
            }
        }
        self.look();
    }

    fn turn(&mut self, shard: usize, shaping: &Shaping) {
        let now = self.now;
        for at in 0..self.mail.len() {
            if self.mail[at].shard == shard {
                self.pump(at, shaping);
            }
        }
        let scopes = &mut self.shards[shard];
        while let Some(Reverse((_, id))) = scopes.timers.peek().filter(|Reverse((at, _))| *at <= now).copied() {
            scopes.timers.pop();
            scopes.list(id);
        }
        for id in std::mem::take(&mut scopes.news) {
            let mail = &mut self.mail;
            scopes.serve(id, now, |place| {
                let mail = mail.iter_mut().find(|mail| mail.place == place).unwrap();
                mail.aside = false;
                let idles = mail.lines.iter().filter(|line| matches!(line, Line::Idles(_))).count();
                (!mail.waits.is_empty()).then_some(idles as u32)
            });
            let Some(held) = scopes.get_mut(id) else { continue };
            held.listed = false;
            held.sum_up(now);
            if let Some(mail) = held.share.poll_send(shard as u16, now) {
                self.to_ledgers.push_back((Moment(now.0 + self.latency), mail));
            }
        }
    }

    /// Whatever is next happens; false: nothing does before `end`.
    fn step(&mut self, end: Moment, shaping: &Shaping) -> bool {
        let lines = self.mail.iter().flat_map(|mail| &mail.lines).filter_map(|line| match line {
            Line::Opens(until) | Line::Carries(until, ..) => Some(*until),
            Line::Idles(until) => Some(*until).filter(|until| *until > self.now),
        });
        let next = lines
            .chain(self.to_ledgers.front().map(|(at, _)| *at))
            .chain(self.to_lanes.front().map(|(at, ..)| *at))
            .chain(self.ledgers.iter().filter_map(Ledgers::poll_timeout))
            .chain(self.shards.iter().filter_map(Scopes::poll_timeout))
            .min();
        let Some(next) = next.filter(|next| *next <= end) else {
            self.now = end;
            return false;
        };
        self.now = self.now.max(next);
        let (now, shards) = (self.now, self.shards.len() as u16);
        while let Some((_, mail)) = self.to_ledgers.pop_front_if(|(at, _)| *at <= now) {
            let owner = crate::lease::owner(&mail.scope, shards);
            self.ledgers[usize::from(owner)].handle(mail, now);
        }
        for ledgers in &mut self.ledgers {
            ledgers.handle_timeout(now);
            while let Some((lane, mail)) = ledgers.poll_send() {
                self.to_lanes.push_back((Moment(now.0 + self.latency), lane, mail));
            }
        }
        while let Some((_, lane, mail)) = self.to_lanes.pop_front_if(|(at, ..)| *at <= now) {
            let scopes = &mut self.shards[usize::from(lane)];
            let id = scopes.by_name[&mail.scope];
            let held = scopes.get_mut(id).unwrap();
            held.share.handle(mail, now);
            let until = held.share.poll_timeout();
            scopes.timers.extend(until.map(|until| Reverse((until, id))));
            scopes.list(id);
        }
        // Again at once what was let go.
        for _ in 0..2 {
            (0..self.shards.len()).for_each(|shard| self.turn(shard, shaping));
        }
        true
    }

    fn run(&mut self, time: u64, shaping: &Shaping) {
        let end = Moment(self.now.0 + time);
        (0..self.shards.len()).for_each(|shard| self.turn(shard, shaping));
        while self.left() > 0 && self.step(end, shaping) {}
        self.now = end;
    }

    fn left(&self) -> usize {
        self.mail.iter().map(|mail| mail.waits.len()).sum()
    }
}

/// Tenants, and so on.
const NAMES: usize = 2;

fn rules(limits: &[(u32, u32, u32); SCOPES]) -> String {
    let rates = ["", "message_rate = \"5/s\"", "message_rate = \"50/s burst 10\"", "message_rate = \"10/s burst 5\""];
    let keys = |(count, octets, rate): (u32, u32, u32)| {
        let count = if count == 0 { String::new() } else { format!("connections = {count}") };
        let octets = if octets == 0 { String::new() } else { format!("bytes_in_flight = {}", octets * 1024) };
        [count, octets, rates[rate as usize % 4].to_owned()]
    };
    let [site, tenant, at, campaign] = limits.map(keys);
    let at: Vec<String> = at.into_iter().filter(|key| !key.is_empty()).collect();
    format!(
        "[default]\n{}\n[[provider]]\nname = \"big\"\ndomains = [\"d0.test\"]\n[[tenant]]\nname = \"*\"\n{}\nat = {{ big = {{ {} }} }}\n\
         [[campaign]]\nname = \"*\"\n{}\n",
        site[1],
        tenant.join("\n"),
        at.join(", "),
        campaign.join("\n")
    )
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn property_all_goes_and_no_limit_is_passed(
        shards in 1..5_usize,
        limits in prop::array::uniform4((0..4_u32, prop_oneof![Just(0), 1..30_u32], 0..8_u32)),
        flows in prop::collection::vec((0..5_usize, prop::array::uniform4(prop::option::of(0..NAMES))), 1..12),
        narrow in any::<bool>(),
        steps in prop::collection::vec((0..12_usize, prop::collection::vec(1..40_000_u32, 1..6), 0..300_u64), 1..20),
        // Mail between shards takes so long at the most that four rates can be asked one behind the other within a permit's term.
        times in (0..12_u64, 1..400_u64, 1..400_u64),
    ) {
        let mut limits = limits;
        // Half of them without a rate.
        limits.iter_mut().for_each(|limits| limits.2 = limits.2.saturating_sub(4));
        let text = rules(&limits);
        let shaping = Shaping::parse(&[("rules.toml", &text)]).unwrap();
        let mut model = Model::new(shards, &shaping, &flows);
        let (latency, service, greets) = times;
        (model.latency, model.service, model.narrow) = (latency * MILLI + MILLI / 20, service * MILLI, narrow);
        let mut all = 0;
        for (at, sizes, pause) in steps {
            let at = at % model.mail.len();
            model.mail[at].greets = greets * MILLI;
            all += sizes.len() as u64;
            model.mail[at].waits.extend(sizes);
            model.run(pause * MILLI, &shaping);
        }
        // One behind the other, each with a connection of its own and the mail about each of its limits.
        let each = service + greets + 20 * latency + 1000;
        model.run((30_000 + all * each) * MILLI, &shaping);
        prop_assert_eq!(model.left(), 0, "{} of {}", model.left(), all);
        let opened: u64 = model.mail.iter().map(|mail| mail.opened).sum();
        prop_assert!(opened <= 2 * all + 20, "{} connections for {} messages", opened, all);
        model.run(20 * SECOND, &shaping);
    }
}
