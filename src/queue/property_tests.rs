//! The queue against a model that is a list of jobs, over any sequence of what a driver may do. (`tests.rs` has another
//! model, which predicts the order; this one bounds it, and also looks at bodies, stale names and the announcements.)
#![allow(clippy::unwrap_used)]

use super::*;
use crate::message::MessageId;
use crate::properties::cases;
use proptest::prelude::*;
use std::collections::BTreeSet;

const POLICY: RetryPolicy = RetryPolicy {
    first: Duration::from_secs(60),
    factor: 2.0,
    max: Duration::from_secs(3600),
    give_up: Duration::from_secs(6 * 3600),
    jitter: 0.2,
};

/// What a driver may do. `dest` is one of a few names; `pick` any job that the driver has a name for, where that is right.
#[derive(Clone, Debug)]
enum Op {
    Enqueue {
        dest: u8,
        age: u32,
        body: bool,
    },
    Take {
        dest: u8,
    },
    TakeAll {
        dest: u8,
    },
    /// Wherever the job is.
    Finish {
        pick: u16,
    },
    Defer {
        pick: u16,
        random: u64,
    },
    PutBack {
        pick: u16,
    },
    /// The driver read it from the spool.
    Fetch {
        pick: u16,
    },
    Unreachable {
        dest: u8,
        random: u64,
    },
    Pause {
        dest: u8,
        secs: u16,
    },
    Reachable {
        dest: u8,
    },
    Touch {
        dest: u8,
    },
    Poll,
    Round,
    Expired,
    /// Both clocks move, the wall clock by something else at times, and timers are served.
    Advance {
        millis: u32,
        skew: i32,
    },
    /// Time passes, and nobody served the timers yet.
    Dally {
        millis: u32,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let dest = || 0..4u8;
    let pick = any::<u16>;
    let age = prop_oneof![3 => Just(0u32), 1 => 0..8 * 3600u32];
    let millis = || prop_oneof![3 => 0..3000u32, 3 => 0..1_200_000u32, 1 => 0..8 * 3_600_000u32];
    let skew = prop_oneof![6 => Just(0), 1 => -7_200_000..7_200_000i32];
    prop_oneof![
        8 => (dest(), age, any::<bool>()).prop_map(|(dest, age, body)| Op::Enqueue { dest, age, body }),
        6 => dest().prop_map(|dest| Op::Take { dest }),
        1 => dest().prop_map(|dest| Op::TakeAll { dest }),
        4 => pick().prop_map(|pick| Op::Finish { pick }),
        6 => (pick(), any::<u64>()).prop_map(|(pick, random)| Op::Defer { pick, random }),
        3 => pick().prop_map(|pick| Op::PutBack { pick }),
        1 => pick().prop_map(|pick| Op::Fetch { pick }),
        2 => (dest(), any::<u64>()).prop_map(|(dest, random)| Op::Unreachable { dest, random }),
        1 => (dest(), any::<u16>()).prop_map(|(dest, secs)| Op::Pause { dest, secs }),
        2 => dest().prop_map(|dest| Op::Reachable { dest }),
        1 => dest().prop_map(|dest| Op::Touch { dest }),
        2 => Just(Op::Poll),
        2 => Just(Op::Round),
        2 => Just(Op::Expired),
        6 => (millis(), skew).prop_map(|(millis, skew)| Op::Advance { millis, skew }),
        1 => millis().prop_map(|millis| Op::Dally { millis }),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Where {
    Fresh,
    Retry,
    Waiting(Moment),
    Held,
    Expired,
}

#[derive(Debug)]
struct Known {
    id: u64,
    /// Known to the driver once it was taken.
    key: Option<JobKey>,
    dest: usize,
    place: Where,
    accepted: Wall,
    /// When it became ready last.
    ready_since: Moment,
    attempts: u16,
    body: bool,
}

#[derive(Debug, Default)]
struct Destination {
    id: Option<DestinationId>,
    suspended: Option<Moment>,
    probing: bool,
    /// Something new happened: it is to be announced.
    news: bool,
    /// Fresh jobs taken in a row while a retry was ready; and whether the last taken was a retry while fresh mail was.
    fresh_run: u32,
}

struct World {
    queue: Queue<u64>,
    now: Now,
    /// In the order in which they become ready; a job that is put back goes to the front.
    jobs: Vec<Known>,
    dests: [Destination; 4],
    over: BTreeSet<u64>,
    finished_keys: Vec<JobKey>,
    forgotten: Vec<DestinationId>,
    next_id: u64,
}

fn name(dest: usize) -> String {
    format!("d{dest}.example")
}

impl World {
    fn new() -> Self {
        World {
            queue: Queue::new(POLICY, 7),
            now: Now { mono: Moment(1_000_000_000), wall: Wall(1_700_000_000_000) },
            jobs: Vec::new(),
            dests: Default::default(),
            over: BTreeSet::new(),
            finished_keys: Vec::new(),
            forgotten: Vec::new(),
            next_id: 0,
        }
    }

    fn reply(&self) -> LastReply {
        LastReply::new(self.now.wall, "mx.example", 450, None, b"later")
    }

    fn ready(&self, dest: usize) -> impl Iterator<Item = &Known> {
        self.jobs.iter().filter(move |j| j.dest == dest && matches!(j.place, Where::Fresh | Where::Retry))
    }

    /// One of those the driver holds.
    fn held(&self, pick: u16) -> Option<usize> {
        let held: Vec<usize> = (0..self.jobs.len()).filter(|at| self.jobs[*at].place == Where::Held).collect();
        held.get(usize::from(pick) % held.len().max(1)).copied()
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Enqueue { dest, age, body } => self.enqueue(usize::from(dest), age, body),
            Op::Take { dest } => _ = self.take(usize::from(dest)),
            Op::TakeAll { dest } => while self.take(usize::from(dest)) {},
            Op::Finish { pick } => {
                let named: Vec<usize> = (0..self.jobs.len()).filter(|at| self.jobs[*at].key.is_some()).collect();
                if let Some(at) = named.get(usize::from(pick) % named.len().max(1)) {
                    self.finish(*at);
                }
            }
            Op::Defer { pick, random } => {
                if let Some(at) = self.held(pick) {
                    self.defer(at, random);
                }
            }
            Op::PutBack { pick } => {
                if let Some(at) = self.held(pick) {
                    let mut job = self.jobs.remove(at);
                    self.queue.put_back(job.key.unwrap());
                    job.place = if job.attempts == 0 { Where::Fresh } else { Where::Retry };
                    let dest = &mut self.dests[job.dest];
                    dest.news |= dest.suspended.is_none();
                    job.body = self.queue.job(job.key.unwrap()).unwrap().body.is_some() && job.body;
                    assert!(!(job.body && dest.suspended.is_some()), "a suspended destination keeps no bodies");
                    self.jobs.insert(0, job);
                }
            }
            Op::Fetch { pick } => {
                if let Some(at) = self.held(pick) {
                    let job = &mut self.jobs[at];
                    self.queue.job_mut(job.key.unwrap()).unwrap().body = Some(job.id);
                    job.body = true;
                }
            }
            Op::Unreachable { dest, random } => self.suspend(usize::from(dest), Err(random)),
            Op::Pause { dest, secs } => self.suspend(usize::from(dest), Ok(u64::from(secs))),
            Op::Reachable { dest } => {
                let dest = usize::from(dest);
                let Some(id) = self.dests[dest].id else { return };
                self.queue.reachable(id);
                let ready = self.ready(dest).next().is_some();
                let d = &mut self.dests[dest];
                d.news |= ready && (d.suspended.is_some() || d.probing);
                (d.suspended, d.probing) = (None, false);
                assert!(self.queue.trouble(id).is_none());
            }
            Op::Touch { dest } => {
                let dest = &mut self.dests[usize::from(dest)];
                if let Some(id) = dest.id {
                    self.queue.touch(id);
                    dest.news = true;
                }
            }
            Op::Poll => {
                if let Some(id) = self.queue.poll_touched() {
                    self.announced(id);
                }
            }
            Op::Round => self.round(),
            Op::Expired => {
                while let Some(key) = self.queue.poll_expired() {
                    let id = self.queue.job(key).unwrap().id.0;
                    let job = self.jobs.iter_mut().find(|j| j.id == id).unwrap();
                    assert_eq!(job.place, Where::Expired, "{job:?}");
                    job.body &= self.queue.job(key).unwrap().body.is_some();
                    (job.place, job.key) = (Where::Held, Some(key));
                }
                assert!(self.jobs.iter().all(|j| j.place != Where::Expired), "each is reported");
            }
            Op::Advance { millis, skew } => {
                self.dally(millis);
                self.now.wall = Wall(self.now.wall.0.saturating_add_signed(i64::from(skew)));
                self.serve_timers();
            }
            Op::Dally { millis } => self.dally(millis),
        }
    }

    fn dally(&mut self, millis: u32) {
        self.now.mono = self.now.mono + Duration::from_millis(u64::from(millis));
        self.now.wall = Wall(self.now.wall.0 + u64::from(millis));
    }

    fn enqueue(&mut self, dest: usize, age: u32, body: bool) {
        self.next_id += 1;
        let (id, accepted) = (self.next_id, Wall(self.now.wall.0 - u64::from(age) * 1000));
        let job = Job::new(MessageId(id), 0, RecipientSet::One(0), accepted, 4096, body.then_some(id));
        let d = &mut self.dests[dest];
        d.id = Some(self.queue.enqueue(&name(dest), job, self.now.mono));
        d.news |= d.suspended.is_none();
        let body = body && d.suspended.is_none();
        let ready_since = self.now.mono;
        self.jobs.push(Known { id, key: None, dest, place: Where::Fresh, accepted, ready_since, attempts: 0, body });
    }

    fn take(&mut self, dest: usize) -> bool {
        let Some(id) = self.dests[dest].id else { return false };
        let first = |place: Where| self.ready(dest).find(|j| j.place == place).map(|j| j.id);
        let (fresh, retry) = (first(Where::Fresh), first(Where::Retry));
        let Some(key) = self.queue.take(id) else {
            let may = self.dests[dest].suspended.is_none();
            assert!(!may || (fresh.is_none() && retry.is_none()), "what is ready is given out");
            return false;
        };
        assert!(self.dests[dest].suspended.is_none());
        assert_eq!(self.queue.destination_of(key), Some(id));
        let taken = self.queue.job(key).unwrap();
        let at = self.jobs.iter().position(|j| j.id == taken.id.0).unwrap();
        let (job, d) = (&mut self.jobs[at], &mut self.dests[dest]);
        // Never before its time, and in its turn.
        assert!(Some(job.id) == fresh || Some(job.id) == retry, "{job:?} is not the first of its kind");
        // Neither kind waits for the other for ever.
        if fresh.is_some() && retry.is_some() {
            if job.place == Where::Fresh {
                d.fresh_run += 1;
                assert!(d.fresh_run < u32::from(limits::QUEUE_RETRY_SHARE), "retries starve");
            } else {
                assert_eq!(d.fresh_run, u32::from(limits::QUEUE_RETRY_SHARE) - 1, "fresh mail goes first");
                d.fresh_run = 0;
            }
        } else {
            d.fresh_run = 0;
        }
        assert_eq!((taken.attempts, taken.accepted), (job.attempts, job.accepted));
        // A body may have gone earlier than it had to, and never comes back.
        assert!(taken.body.is_none() || (job.body && taken.body == Some(job.id)), "{job:?}");
        job.body = taken.body.is_some();
        assert!(job.key.is_none_or(|before| before == key), "a job keeps its name");
        (job.place, job.key) = (Where::Held, Some(key));
        true
    }

    fn finish(&mut self, at: usize) {
        let job = self.jobs.remove(at);
        let key = job.key.unwrap();
        assert_eq!(self.queue.finished(key).id.0, job.id);
        assert!(self.over.insert(job.id), "over once");
        self.finished_keys.push(key);
    }

    fn defer(&mut self, at: usize, random: u64) {
        let (reply, job) = (self.reply(), &mut self.jobs[at]);
        let deferral = self.queue.deferred(job.key.unwrap(), RecipientSet::One(0), reply, self.now, random);
        job.attempts += 1;
        job.body = false;
        let left = POLICY.give_up.saturating_sub(self.now.wall.since(job.accepted));
        match deferral {
            Deferral::Until(due) => {
                let delay = due.since(self.now.mono);
                assert!(delay <= POLICY.max && delay <= left, "{delay:?}");
                assert!(delay >= POLICY.first.min(left), "{delay:?}");
                job.place = Where::Waiting(due);
            }
            Deferral::Expired => assert!(left < Duration::from_secs(1), "given up early"),
        }
    }

    fn suspend(&mut self, dest: usize, how: Result<u64, u64>) {
        let Some(id) = self.dests[dest].id else { return };
        let until = match how {
            Err(random) => self.queue.unreachable(id, self.reply(), self.now, random),
            Ok(secs) => {
                let until = self.now.mono + Duration::from_secs(secs);
                self.queue.pause(id, self.reply(), until, self.now);
                until
            }
        };
        let d = &mut self.dests[dest];
        if let Some(before) = d.suspended {
            assert!(how.is_ok() || until == before, "the first of several counts");
            return;
        }
        (d.suspended, d.probing) = (Some(until), false);
        if how.is_err() {
            let delay = until.since(self.now.mono);
            assert!((POLICY.first..=POLICY.max).contains(&delay), "{delay:?}");
        }
        let ready = |j: &&mut Known| j.dest == dest && matches!(j.place, Where::Fresh | Where::Retry);
        for job in self.jobs.iter_mut().filter(ready) {
            if POLICY.is_expired(job.accepted, self.now.wall) {
                job.place = Where::Expired;
            }
        }
        assert_eq!(self.queue.trouble(id), Some(&self.reply()));
    }

    fn announced(&mut self, id: DestinationId) {
        let dest = self.dests.iter().position(|d| d.id == Some(id)).unwrap();
        assert!(self.ready(dest).next().is_some() && self.dests[dest].suspended.is_none());
        assert!(std::mem::take(&mut self.dests[dest].news), "once, until something new happens");
    }

    /// Two rounds: what was touched during the first comes in the second.
    fn round(&mut self) {
        for _ in 0..2 {
            while let Some(id) = self.queue.poll_touched() {
                self.announced(id);
            }
        }
        for dest in 0..self.dests.len() {
            let open = self.dests[dest].suspended.is_none();
            let missed = std::mem::take(&mut self.dests[dest].news) && open && self.ready(dest).next().is_some();
            assert!(!missed, "{} was not announced", name(dest));
        }
    }

    fn serve_timers(&mut self) {
        let mut turns = 0;
        loop {
            self.queue.handle_timeout(self.now);
            if self.queue.poll_timeout().is_none_or(|due| due > self.now.mono) {
                break;
            }
            turns += 1;
            assert!(turns < 10, "a timeout handled is gone");
        }
        // Retries become ready in the order in which they fell due.
        let mut due: Vec<(Moment, JobKey, u64)> = Vec::new();
        for job in &self.jobs {
            if let Where::Waiting(at) = job.place
                && at <= self.now.mono
            {
                due.push((at, job.key.unwrap(), job.id));
            }
        }
        due.sort_unstable();
        for (.., id) in due {
            let at = self.jobs.iter().position(|j| j.id == id).unwrap();
            let mut job = self.jobs.remove(at);
            (job.place, job.ready_since) = (Where::Retry, self.now.mono);
            let d = &mut self.dests[job.dest];
            d.news |= d.suspended.is_none();
            self.jobs.push(job);
        }
        for dest in 0..self.dests.len() {
            let ready = self.ready(dest).next().is_some();
            let d = &mut self.dests[dest];
            if d.suspended.is_some_and(|until| until <= self.now.mono) {
                (d.suspended, d.probing) = (None, true);
                d.news |= ready;
            }
        }
        self.queue.drop_stale_bodies(self.now.mono, limits::QUEUE_BODY_AGE);
        for job in self.jobs.iter_mut().filter(|j| matches!(j.place, Where::Fresh | Where::Retry)) {
            job.body &= self.now.mono.since(job.ready_since) < limits::QUEUE_BODY_AGE;
        }
    }

    /// What holds at any time.
    fn check(&mut self) {
        let counts = self.queue.counts();
        let count = |f: fn(&Where) -> bool| self.jobs.iter().filter(|j| f(&j.place)).count();
        assert_eq!(counts.ready, count(|p| matches!(p, Where::Fresh | Where::Retry)));
        assert_eq!(counts.waiting, count(|p| matches!(p, Where::Waiting(_))));
        assert_eq!(counts.in_flight, count(|p| *p == Where::Held));
        assert_eq!(counts.expired, count(|p| *p == Where::Expired));
        // Nothing lost, nothing twice: all that ever came is over or in one place.
        assert_eq!(self.over.len() + self.jobs.len(), self.next_id as usize);
        for job in &mut self.jobs {
            let Some(key) = job.key else { continue };
            let found = self.queue.job(key).expect("its name is good until it is over");
            assert_eq!(found.id.0, job.id);
            // Bodies go earlier than they must at times; they never come back, and none is taken from the driver.
            assert!(job.body || found.body.is_none(), "{job:?}");
            assert!(job.place != Where::Held || job.body == found.body.is_some(), "{job:?}");
        }
        assert!(self.finished_keys.iter().all(|key| self.queue.job(*key).is_none()));
        let (mut remembered, mut suspended) = (0, 0);
        for dest in 0..self.dests.len() {
            let Some(id) = self.dests[dest].id else { continue };
            if self.queue.find(&name(dest)).is_none() {
                assert!(self.jobs.iter().all(|j| j.dest != dest), "forgotten with mail");
                assert!(self.dests[dest].suspended.is_none(), "forgotten while it is to be left alone");
                self.forgotten.push(id);
                self.dests[dest] = Destination::default();
                continue;
            }
            let d = &self.dests[dest];
            remembered += 1;
            suspended += usize::from(d.suspended.is_some() || d.probing);
            assert_eq!((self.queue.is_suspended(id), self.queue.is_probing(id)), (d.suspended.is_some(), d.probing));
            assert_eq!(self.queue.peek_len(id), self.ready(dest).count());
            let held = self.jobs.iter().filter(|j| j.dest == dest && j.place == Where::Held).count();
            assert_eq!(self.queue.in_flight(id), held);
            let longest = self.ready(dest).map(|j| self.now.mono.since(j.ready_since)).max();
            let told = self.queue.oldest_ready_wait(id, self.now.mono);
            assert_eq!(told.is_some(), longest.is_some());
            assert!(told <= longest);
        }
        assert_eq!((counts.destinations, counts.suspended), (remembered, suspended));
        for id in &self.forgotten {
            assert_eq!((self.queue.name(*id), self.queue.peek_len(*id)), (None, 0));
            assert_eq!(self.queue.take(*id), None);
            self.queue.reachable(*id);
            self.queue.touch(*id);
        }
        // Nothing that is due waits for something that is due later.
        let timers = self.jobs.iter().filter_map(|j| if let Where::Waiting(due) = j.place { Some(due) } else { None });
        let due = timers.chain(self.dests.iter().filter_map(|d| d.suspended)).min();
        if let Some(due) = due {
            assert!(self.queue.poll_timeout().is_some_and(|at| at <= due), "{due:?}");
        }
        let announce =
            |d: usize| self.dests[d].news && self.dests[d].suspended.is_none() && self.ready(d).next().is_some();
        let work = counts.expired > 0 || (0..self.dests.len()).any(announce);
        assert!(self.queue.has_work() || !work, "the driver would sleep");
    }

    /// Everything goes, by announcements and timers alone.
    fn drain(mut self) {
        for at in (0..self.jobs.len()).rev() {
            if self.jobs[at].place == Where::Held {
                self.finish(at);
            }
        }
        for dest in 0..self.dests.len() {
            self.apply(Op::Touch { dest: dest as u8 });
        }
        let mut turns = 0;
        loop {
            self.apply(Op::Expired);
            while let Some(id) = self.queue.poll_touched() {
                self.announced(id);
                let dest = self.dests.iter().position(|d| d.id == Some(id)).unwrap();
                self.apply(Op::Reachable { dest: dest as u8 });
                while self.take(dest) {}
            }
            while let Some(at) = self.held(0) {
                self.finish(at);
            }
            self.check();
            if self.queue.has_work() {
                continue;
            }
            let Some(due) = self.queue.poll_timeout() else { break };
            self.now.mono = self.now.mono.max(due);
            self.serve_timers();
            turns += 1;
            assert!(turns < 10_000, "it comes to an end");
        }
        assert_eq!((self.over.len(), self.jobs.len()), (self.next_id as usize, 0));
        assert_eq!(self.queue.counts(), Counts::default(), "all out, all forgotten");
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn property_every_job_is_in_one_place_and_comes_in_its_time(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
            world.check();
        }
        world.drain();
    }
}

/// As the configuration allows them, and beyond.
fn policy() -> impl Strategy<Value = RetryPolicy> {
    let millis = || prop_oneof![1000..600_000u64, 1000..30 * 86_400_000u64];
    (millis(), millis(), millis(), 1.0..10.0f64, 0.0..1.0f64).prop_map(|(a, b, c, factor, jitter)| {
        let mut times = [a, b, c].map(Duration::from_millis);
        times.sort_unstable();
        RetryPolicy { first: times[0], max: times[1], give_up: times[2], factor, jitter }
    })
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn property_delays_grow_from_first_to_max_and_never_beyond_the_give_up_time(
        policy in policy(),
        failures in prop_oneof![1..40u16, any::<u16>()],
        random in any::<u64>(),
        age in any::<u64>(),
    ) {
        // Floating point: a nanosecond more or less.
        let slack = Duration::from_nanos(2);
        let delay = policy.delay(failures, random);
        prop_assert!(delay <= policy.max, "{:?}", delay);
        // The jitter moves the range down where its end would pass the maximum, never further.
        let planned = policy.first.as_secs_f64() * policy.factor.powi(i32::from(failures.max(1)) - 1);
        let low = planned.min(policy.max.as_secs_f64() / (1.0 + policy.jitter));
        let high = (planned * (1.0 + policy.jitter)).min(policy.max.as_secs_f64());
        prop_assert!(delay + slack >= Duration::from_secs_f64(low), "{:?} below {}", delay, low);
        prop_assert!(delay <= Duration::from_secs_f64(high) + slack, "{:?} above {}", delay, high);
        prop_assert!(policy.delay(failures.saturating_add(1), random) + slack >= delay, "it grows");
        prop_assert!(policy.delay(failures, random | 1 << 63) + slack >= policy.delay(failures, random & !(1 << 63)));

        let age = Duration::from_millis(age % (2 * u64::try_from(policy.give_up.as_millis()).unwrap()));
        let now = Now { mono: Moment(0), wall: Wall(1 << 50) };
        let accepted = Wall(now.wall.0 - u64::try_from(age.as_millis()).unwrap());
        match policy.next_attempt(failures, accepted, now, random) {
            Some(delay) => {
                prop_assert!(age + delay <= policy.give_up);
                prop_assert!(delay == policy.delay(failures, random) || age + delay == policy.give_up);
            }
            None => prop_assert!(age + Duration::from_secs(1) > policy.give_up),
        }
        if policy.is_expired(accepted, now.wall) {
            prop_assert_eq!(policy.next_attempt(failures, accepted, now, random), None);
        }
    }
}
