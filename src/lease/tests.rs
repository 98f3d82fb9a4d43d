//! Lanes and their ledger with slow mail between them: no limit is passed at any instant, nothing is left unused that
//! somebody waits for, and all get the same.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::properties::cases;
use crate::shaping::{Pace, Rate};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::time::Duration;

const MILLI: u64 = 1_000_000;

/// A lane: its share, what it would do, and what its mail is.
struct Lane {
    share: Share,
    /// Messages that wait.
    work: u64,
    /// Most connections it would have.
    most: u32,
    /// When each of its connections is free again, and the units of octets that it has in flight; `None`: it idles.
    busy: Vec<Option<(Moment, u32)>>,
    inbox: VecDeque<(Moment, ToLane)>,
    sent: u64,
}

/// A scope with its ledger and lanes.
struct Bench {
    now: Moment,
    ledgers: Ledgers,
    inbox: VecDeque<(Moment, ToLedger)>,
    lanes: Vec<Lane>,
    limits: Limits,
    /// How long mail takes.
    latency: u64,
    /// How long a message takes on a connection.
    service: u64,
    paces: [Pace; 2],
    most_open: u32,
    /// Octets of the messages, in turn.
    sizes: Vec<u64>,
}

impl Bench {
    fn new(lanes: usize, limits: Limits) -> Bench {
        let lane = |_| Lane {
            share: Share::new("mx.example".into(), limits),
            work: 0,
            most: 8,
            busy: Vec::new(),
            inbox: VecDeque::new(),
            sent: 0,
        };
        Bench {
            now: Moment(1_000_000_000),
            ledgers: Ledgers::new(lanes as u16),
            inbox: VecDeque::new(),
            lanes: (0..lanes).map(lane).collect(),
            limits,
            latency: MILLI / 10,
            service: 20 * MILLI,
            paces: [Pace::default(); 2],
            most_open: 0,
            sizes: vec![5000],
        }
    }

    /// What the receiver sees: within its rates, or it would say so.
    fn seen(paces: &mut [Pace; 2], limits: &Limits, kind: Paced, now: Moment) {
        let rate = [limits.message_rate, limits.connection_rate][kind as usize];
        if let Some(rate) = rate {
            assert!(paces[kind as usize].take(rate, now), "{kind:?} at {now:?}: over {rate}");
        }
    }

    /// A lane does what it can.
    fn pump(&mut self, at: usize) {
        let (now, service) = (self.now, self.service);
        self.look_at_octets();
        let lane = &mut self.lanes[at];
        for place in (0..lane.busy.len()).rev() {
            if let Some((_, units)) = lane.busy[place].filter(|(until, _)| *until <= now) {
                lane.share.end(Counted::Octets, units);
                lane.busy[place] = None;
            }
            let over = lane.share.closing().is_some();
            if lane.busy[place].is_none() && (over || lane.work == 0) {
                lane.busy.remove(place);
                lane.share.closed();
            }
        }
        lane.share.wants(u32::try_from(lane.work).unwrap_or(u32::MAX).min(lane.most).max(lane.share.connections()));
        if lane.work == 0 {
            lane.share.wants(lane.share.connections());
        }
        if u64::from(lane.share.connections()) >= lane.work {
            lane.share.could_use(Paced::Start, 0);
        }
        while u64::from(lane.share.connections()) < lane.work && lane.share.has_room() {
            if !lane.share.take(Paced::Start, now) {
                lane.share.could_use(Paced::Start, 1);
                break;
            }
            Self::seen(&mut self.paces, &self.limits, Paced::Start, now);
            lane.share.open();
            lane.busy.push(None);
        }
        loop {
            let free = lane.busy.iter().filter(|busy| busy.is_none()).count();
            let could = u32::try_from(lane.work.min(free as u64)).unwrap();
            lane.share.could_have(Counted::Octets, 0, 0);
            if could == 0 {
                lane.share.could_use(Paced::Message, 0);
                break;
            }
            let units = octets(self.sizes[lane.sent as usize % self.sizes.len()], &self.limits);
            if !lane.share.bears(Counted::Octets, units) {
                lane.share.could_have(Counted::Octets, units.saturating_mul(could), units);
                break;
            }
            if !lane.share.take(Paced::Message, now) {
                lane.share.could_use(Paced::Message, could);
                break;
            }
            Self::seen(&mut self.paces, &self.limits, Paced::Message, now);
            lane.share.begin(Counted::Octets, units);
            *lane.busy.iter_mut().find(|busy| busy.is_none()).unwrap() = Some((Moment(now.0 + service), units));
            lane.work -= 1;
            lane.sent += 1;
        }
        while let Some(mail) = self.lanes[at].share.poll_send(at as u16, now) {
            self.inbox.push_back((Moment(now.0 + self.latency), mail));
        }
        let open: u32 = self.lanes.iter().map(|lane| lane.share.connections()).sum();
        self.most_open = self.most_open.max(open);
        assert!(open <= self.limits.connections.unwrap_or(u32::MAX), "{open} connections");
        self.look_at_octets();
    }

    /// No more are in flight than may be.
    fn look_at_octets(&self) {
        let Some(limit) = self.limits.bytes_in_flight else { return };
        let units: u64 =
            self.lanes.iter().flat_map(|lane| &lane.busy).flatten().map(|(_, units)| u64::from(*units)).sum();
        assert!(units * crate::limits::LEASE_OCTETS <= limit, "{units} units of {limit} octets");
    }

    /// Whatever is next happens; false: nothing does before `end`.
    fn step(&mut self, end: Moment) -> bool {
        let due = |inbox: Option<Moment>| inbox.into_iter();
        let next = due(self.inbox.front().map(|(at, _)| *at))
            .chain(self.ledgers.poll_timeout())
            .chain(self.lanes.iter().flat_map(|lane| {
                lane.inbox
                    .front()
                    .map(|(at, _)| *at)
                    .into_iter()
                    .chain(lane.share.poll_timeout())
                    .chain(lane.busy.iter().flatten().map(|(until, _)| *until))
            }))
            .min();
        let Some(next) = next.filter(|next| *next <= end) else {
            self.now = end;
            return false;
        };
        self.now = self.now.max(next);
        self.ledgers.handle_timeout(self.now);
        while self.inbox.front().is_some_and(|(at, _)| *at <= self.now) {
            let (_, mail) = self.inbox.pop_front().unwrap();
            self.ledgers.handle(mail, self.now);
        }
        for at in 0..self.lanes.len() {
            while self.lanes[at].inbox.front().is_some_and(|(due, _)| *due <= self.now) {
                let (_, mail) = self.lanes[at].inbox.pop_front().unwrap();
                self.lanes[at].share.handle(mail, self.now);
            }
            self.pump(at);
        }
        while let Some((lane, mail)) = self.ledgers.poll_send() {
            self.lanes[usize::from(lane)].inbox.push_back((Moment(self.now.0 + self.latency), mail));
        }
        true
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for at in 0..self.lanes.len() {
            self.pump(at);
        }
        while self.step(end) {}
    }

    fn sent(&self) -> Vec<u64> {
        self.lanes.iter().map(|lane| lane.sent).collect()
    }
}

fn limits(connections: u32, rate: Option<&str>, starts: Option<&str>) -> Limits {
    Limits {
        connections: Some(connections),
        message_rate: rate.map(|rate| rate.parse().unwrap()),
        connection_rate: starts.map(|rate| rate.parse().unwrap()),
        ..Limits::default()
    }
}

#[test]
fn a_rate_is_used_to_the_full_and_by_all_alike() {
    for (rate, seconds, lanes) in
        [("100/h", 7200, 3), ("10/s", 100, 2), ("1000/s burst 100", 20, 4), ("50/s", 50, 4), ("200/s burst 20", 30, 1)]
    {
        let mut bench = Bench::new(lanes, limits(100, Some(rate), None));
        bench.service = 2 * MILLI;
        bench.lanes.iter_mut().for_each(|lane| (lane.work, lane.most) = (1_000_000, 50));
        bench.run(Duration::from_secs(seconds));
        let (rate, sent) = (rate.parse::<Rate>().unwrap(), bench.sent());
        let allowed = seconds as f64 / rate.interval().as_secs_f64();
        let total = sent.iter().sum::<u64>() as f64;
        assert!(total >= 0.95 * allowed, "{rate}: {sent:?} of {allowed}");
        let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
        assert!(most - least <= most / 10 + 2, "{rate}: {sent:?}");
    }
}

#[test]
fn octets_in_flight_are_used_to_the_full_and_large_messages_have_their_turn() {
    let mut bench = Bench::new(3, Limits { bytes_in_flight: Some(100 << 10), ..limits(100, None, None) });
    bench.sizes = vec![10 << 10];
    bench.lanes.iter_mut().for_each(|lane| (lane.work, lane.most) = (1_000_000, 30));
    bench.run(Duration::from_secs(10));
    let sent = bench.sent();
    let total: u64 = sent.iter().sum();
    assert!(total >= 4750 && sent.iter().all(|sent| *sent >= 1200), "{sent:?} of 5000");
    // One that is larger than the limit goes, alone (see `look_at_octets`), and one that needs nearly all of it.
    for large in [1 << 20, 95 << 10] {
        let mut bench = Bench::new(2, Limits { bytes_in_flight: Some(100 << 10), ..limits(100, None, None) });
        bench.lanes.iter_mut().for_each(|lane| (lane.work, lane.most) = (1_000_000, 30));
        bench.sizes = vec![10 << 10, large];
        bench.run(Duration::from_secs(10));
        let sent = bench.sent();
        assert!(sent.iter().all(|sent| *sent >= 100), "{large}: {sent:?} of 500 or so");
    }
}

#[test]
fn connections_go_to_where_the_work_is() {
    let mut bench = Bench::new(2, limits(8, None, None));
    bench.lanes[0].work = 1_000_000;
    bench.run(Duration::from_secs(1));
    assert_eq!((bench.lanes[0].share.connections(), bench.lanes[1].share.connections()), (8, 0));
    bench.lanes[1].work = 1_000_000;
    bench.run(Duration::from_millis(100));
    assert_eq!((bench.lanes[0].share.connections(), bench.lanes[1].share.connections()), (4, 4), "within 100 ms");
    bench.lanes[0].work = 0;
    bench.run(Duration::from_millis(100));
    assert_eq!((bench.lanes[0].share.connections(), bench.lanes[1].share.connections()), (0, 8));
    // Nothing is remembered of what is over.
    bench.lanes[1].work = 0;
    bench.run(Duration::from_secs(1));
    assert!(bench.ledgers.is_empty() && bench.lanes.iter().all(|lane| lane.share.is_idle()));
}

#[test]
fn one_connection_goes_round() {
    let mut bench = Bench::new(3, limits(1, None, None));
    bench.lanes.iter_mut().for_each(|lane| lane.work = 1_000_000);
    bench.run(Duration::from_secs(10));
    let sent = bench.sent();
    let total: u64 = sent.iter().sum();
    assert!(total >= 450 && sent.iter().all(|sent| *sent * 4 >= total), "{sent:?} of 500");
    // One that has but one message does not wait for the others.
    let mut bench = Bench::new(2, limits(1, None, None));
    bench.lanes[0].work = 1_000_000;
    bench.run(Duration::from_secs(10));
    bench.lanes[1].work = 1;
    bench.run(Duration::from_millis(150));
    assert_eq!(bench.lanes[1].sent, 1);
}

#[test]
fn a_lane_that_stands_still_costs_the_others_a_term_of_its_permits() {
    let mut bench = Bench::new(2, limits(100, Some("20/s"), None));
    bench.lanes.iter_mut().for_each(|lane| lane.work = 1_000_000);
    bench.run(Duration::from_secs(1));
    // It asked, and is gone: what it was granted runs out.
    let before = bench.sent();
    bench.lanes[1].work = 0;
    bench.lanes[1].most = 0;
    bench.run(Duration::from_secs(10));
    let more = bench.sent()[0] - before[0];
    assert!(more >= 190, "{more} of 200");
}

#[derive(Clone, Debug)]
enum Step {
    Work(usize, u64),
    Stop(usize),
    Run(u64),
    Latency(u64),
    Service(u64),
    /// Mail to this lane comes so much later.
    Still(usize, u64),
}

proptest! {
    #![proptest_config(cases(150))]

    /// Whatever lanes want and however slow mail is, the receiver sees no more than it allows (asserted at each instant), and
    /// all that wants to be sent is, in the end.
    #[test]
    fn property_no_limit_is_passed(
        lanes in 1..5usize,
        connections in 1..12u32,
        rate in prop::option::of((1..200u32, 1..20u32)),
        starts in prop::option::of((1..50u32, 1..5u32)),
        octets in prop::option::of((1..100u64, prop::collection::vec(1..150_000u64, 1..6))),
        steps in prop::collection::vec(prop_oneof![
            4 => (0..5usize, 1..100u64).prop_map(|(lane, work)| Step::Work(lane, work)),
            1 => (0..5usize).prop_map(Step::Stop),
            4 => (1..2000u64).prop_map(Step::Run),
            1 => (0..200u64).prop_map(Step::Latency),
            1 => (1..500u64).prop_map(Step::Service),
            1 => (0..5usize, 1..500u64).prop_map(|(lane, time)| Step::Still(lane, time)),
        ], 1..40),
    ) {
        let second = Duration::from_secs(1);
        let limits = Limits {
            connections: Some(connections),
            message_rate: rate.and_then(|(count, burst)| Rate::new(count, second, burst)),
            connection_rate: starts.and_then(|(count, burst)| Rate::new(count, second, burst)),
            bytes_in_flight: octets.as_ref().map(|(units, _)| units << 10),
            ..Limits::default()
        };
        let mut bench = Bench::new(lanes, limits);
        bench.sizes = octets.map_or(vec![5000], |(_, sizes)| sizes);
        for step in steps {
            match step {
                Step::Work(lane, work) => bench.lanes[lane % lanes].work += work,
                Step::Stop(lane) => bench.lanes[lane % lanes].work = 0,
                Step::Run(millis) => bench.run(Duration::from_millis(millis)),
                // Mail keeps its order: what is under way comes first.
                Step::Latency(millis) => bench.latency = bench.latency.max(millis * MILLI),
                Step::Service(millis) => bench.service = millis * MILLI,
                Step::Still(lane, millis) => {
                    let still = Moment(bench.now.0 + millis * MILLI);
                    bench.lanes[lane % lanes].inbox.iter_mut().for_each(|(at, _)| *at = still.max(*at));
                }
            }
        }
        bench.latency = bench.latency.min(MILLI);
        let left: u64 = bench.lanes.iter().map(|lane| lane.work).sum();
        // A message, its connection and their mail for each, one after the other, is slower than any of this.
        bench.run(Duration::from_secs(20 + left * 3));
        let left: Vec<u64> = bench.lanes.iter().map(|lane| lane.work).collect();
        assert!(left.iter().all(|work| *work == 0), "left: {left:?}");
        bench.run(Duration::from_secs(120));
        assert!(bench.ledgers.is_empty(), "{:?}", bench.ledgers);
        assert!(bench.lanes.iter().all(|lane| lane.share.is_idle()));
    }
}

/// Carries all mail between lanes and the ledger, at once.
fn settle(ledgers: &mut Ledgers, shares: &mut [Share], now: Moment) {
    ledgers.handle_timeout(now);
    loop {
        let mut moved = false;
        for (lane, share) in (0..).zip(shares.iter_mut()) {
            while let Some(mail) = share.poll_send(lane, now) {
                ledgers.handle(mail, now);
                moved = true;
            }
        }
        while let Some((lane, mail)) = ledgers.poll_send() {
            shares[usize::from(lane)].handle(mail, now);
            moved = true;
        }
        if !moved {
            return;
        }
    }
}

fn connections(most: u32) -> Limits {
    Limits { connections: Some(most), ..Limits::default() }
}

fn measure(what: Taken, until: Moment) -> Measure {
    Measure { what, until, why: "a reply".into() }
}

#[test]
fn a_rest_holds_for_all_lanes_and_for_those_that_come_later() {
    let share = || Share::new("mx.example".into(), connections(6));
    let (mut ledgers, mut shares) = (Ledgers::new(3), [share(), share(), share()]);
    let now = Moment(1_000_000_000);
    for share in &mut shares[..2] {
        share.wants(2);
    }
    settle(&mut ledgers, &mut shares, now);
    for share in &mut shares[..2] {
        share.open();
    }
    let until = now + Duration::from_secs(10);
    shares[0].impose(measure(Taken::Rest, until));
    shares[0].impose(measure(Taken::RestOf("acme".into()), until + Duration::from_secs(10)));
    assert!(shares[0].rests().is_some(), "it holds at once for who read the reply");
    settle(&mut ledgers, &mut shares, now);
    assert_eq!(shares[1].rests().map(|rest| rest.until), Some(until));
    assert!(shares[1].resting_tenant("acme").is_some() && shares[1].resting_tenant("other").is_none());
    assert!(shares.iter().all(|share| !share.has_room()) && shares[1].closing().is_some());
    assert!(ledgers.poll_change().is_some_and(|(_, change)| change.begins));
    // One that is forgotten and comes again has to ask, and is told.
    shares[2] = share();
    shares[2].wants(1);
    settle(&mut ledgers, &mut shares, now + Duration::from_secs(1));
    assert!(shares[2].rests().is_some() && !shares[2].has_room());
    for share in &mut shares[..2] {
        share.closed();
        share.wants(1);
    }
    assert_eq!(ledgers.poll_timeout(), Some(until), "nothing is looked at before");
    settle(&mut ledgers, &mut shares, until);
    assert!(shares.iter().all(|share| share.rests().is_none_or(|rest| rest.until <= until) && share.has_room()));
    assert!(shares[1].resting_tenant("acme").is_some());
    settle(&mut ledgers, &mut shares, until + Duration::from_secs(10));
    assert!(!shares[1].tenants_rest());
    let over = std::iter::from_fn(|| ledgers.poll_change()).filter(|(_, change)| !change.begins).count();
    assert_eq!(over, 2);
}

#[test]
fn lower_limits_hold_for_all_lanes_until_they_are_over_whatever_the_rules_say_meanwhile() {
    let share = || Share::new("mx.example".into(), connections(6));
    let (mut ledgers, mut shares) = (Ledgers::new(2), [share(), share()]);
    let now = Moment(1_000_000_000);
    shares.iter_mut().for_each(|share| share.wants(3));
    settle(&mut ledgers, &mut shares, now);
    let paced = Limits { message_rate: "1/s".parse().ok(), ..connections(2) };
    let until = now + Duration::from_secs(10);
    shares[0].impose(measure(Taken::Lower(crate::shaping::Lowering::To(paced)), until));
    settle(&mut ledgers, &mut shares, now);
    assert!(shares.iter().all(|share| *share.limits() == paced && share.is_paced(Paced::Message)));
    assert_eq!(shares.iter().filter(|share| share.has_room()).count(), 2, "of six they have two");
    for share in &mut shares {
        share.set_limits(connections(8));
    }
    settle(&mut ledgers, &mut shares, now);
    assert!(shares.iter().all(|share| *share.limits() == paced));
    settle(&mut ledgers, &mut shares, until);
    assert!(shares.iter().all(|share| *share.limits() == connections(8) && !share.is_paced(Paced::Message)));
}

#[test]
fn a_place_that_comes_free_is_not_used_again_while_all_lanes_have_more_than_a_lower_limit() {
    let share = || Share::new("mx.example".into(), connections(6));
    let (mut ledgers, mut shares) = (Ledgers::new(2), [share(), share()]);
    let now = Moment(1_000_000_000);
    let wants = [1, 2];
    for (share, wants) in shares.iter_mut().zip(wants) {
        share.wants(wants);
    }
    settle(&mut ledgers, &mut shares, now);
    for (share, wants) in shares.iter_mut().zip(wants) {
        (0..wants).for_each(|_| share.open());
    }
    let lower = measure(Taken::Lower(crate::shaping::Lowering::To(connections(1))), now + Duration::from_secs(60));
    shares[0].impose(lower);
    settle(&mut ledgers, &mut shares, now);
    // Each would go on with what it ends, whoever's turn it is.
    for (at, open) in [(0, 2), (1, 1), (1, 0)] {
        assert!(shares.iter().all(|share| !share.has_room()), "{open} and one more stand");
        shares[at].closed();
        shares[at].wants(1);
        settle(&mut ledgers, &mut shares, now);
    }
    assert_eq!(shares.iter().filter(|share| share.has_room()).count(), 1, "of one limit, one");
}

#[test]
fn a_start_takes_rates_for_used_up() {
    let rate: Rate = "10/s burst 5".parse().unwrap();
    let limits = Limits { message_rate: Some(rate), ..Limits::default() };
    let start = Moment(1_000_000_000);
    let (mut ledgers, mut shares) = (Ledgers::new(1), [Share::new("mx.example".into(), limits)]);
    ledgers.go_on(start);
    shares[0].could_use(Paced::Message, 5);
    settle(&mut ledgers, &mut shares, start);
    assert!(!shares[0].has_permit(Paced::Message, start), "all of it may have been used a moment ago");
    let next = start + rate.interval();
    assert_eq!(ledgers.poll_timeout(), Some(next));
    settle(&mut ledgers, &mut shares, next);
    assert_eq!(shares[0].permits_left(Paced::Message, next), 1);
    // Of what comes into force later as well, and only so far.
    let mut late = [Share::new("other.example".into(), limits)];
    late[0].could_use(Paced::Message, 5);
    settle(&mut ledgers, &mut late, start + rate.interval() * 5);
    assert_eq!(late[0].permits_left(Paced::Message, start + rate.interval() * 5), 5, "as if nothing had been before");
}

#[test]
fn a_stranded_letter_goes_to_where_connections_are_and_none_is_recalled_for_it() {
    let share = || Share::new("mx.example".into(), connections(2));
    let (mut ledgers, mut shares) = (Ledgers::new(3), [share(), share(), share()]);
    let mut now = Moment(1_000_000_000);
    shares[0].wants(40);
    settle(&mut ledgers, &mut shares, now);
    (0..2).for_each(|_| shares[0].open());
    let strand = |ledgers: &mut Ledgers, share: &mut Share, lane: u16, now: Moment| {
        share.wants(1);
        share.strands(true);
        while let Some(mail) = share.poll_send(lane, now) {
            ledgers.handle(mail, now);
        }
        ledgers.handle_timeout(now);
        std::iter::from_fn(|| ledgers.poll_send()).collect::<Vec<_>>()
    };
    let told = strand(&mut ledgers, &mut shares[1], 1, now);
    assert!(told.len() == 1 && told[0].0 == 1 && told[0].1.host == Some(0), "{told:?}");
    told.into_iter().for_each(|(lane, mail)| shares[usize::from(lane)].handle(mail, now));
    shares[1].strands(false);
    shares[1].wants(0);
    settle(&mut ledgers, &mut shares, now);
    assert_eq!(shares[0].closing(), None);
    // Another one soon after it waits a little, as all that has no connection.
    let told = strand(&mut ledgers, &mut shares[2], 2, now);
    assert!(told.iter().all(|(_, mail)| mail.host.is_none()), "{told:?}");
    told.into_iter().for_each(|(lane, mail)| shares[usize::from(lane)].handle(mail, now));
    assert_eq!(ledgers.poll_timeout(), Some(now + crate::limits::LEASE_HOST_PAUSE));
    now = now + crate::limits::LEASE_HOST_PAUSE;
    ledgers.handle_timeout(now);
    let told: Vec<_> = std::iter::from_fn(|| ledgers.poll_send()).collect();
    assert!(told.iter().any(|(lane, mail)| *lane == 2 && mail.host == Some(0)), "{told:?}");
    told.into_iter().for_each(|(lane, mail)| shares[usize::from(lane)].handle(mail, now));
    // What waits there beside it is told again, and gets its part.
    shares[2].strands(false);
    settle(&mut ledgers, &mut shares, now);
    assert!(shares[0].closing().is_some_and(|closing| closing.connections == 1));
}
