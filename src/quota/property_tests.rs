//! Many shards, with mail and writes that take their time, clocks that are set, crashes, and another number of shards
//! after them, against a list of what was taken and when.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::limits::{QUOTA_LEASE_TIME, QUOTA_WRITE_TIMEOUT};
use crate::properties::cases;
use crate::time::{Now, Wall};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

const SHORT: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(90);

#[derive(Clone, Debug)]
enum Step {
    Take {
        shard: u8,
        key: u8,
        units: u32,
    },
    Prefetch {
        shard: u8,
        key: u8,
        units: u32,
    },
    /// The last unit that a shard took was not needed.
    Untake {
        shard: u8,
    },
    /// Mail between two shards comes, so many pieces.
    Deliver {
        from: u8,
        to: u8,
        count: u8,
    },
    /// All mail and writes, until nothing is under way.
    Settle,
    Write {
        shard: u8,
        ok: bool,
    },
    Pass {
        millis: u32,
    },
    Sweep {
        shard: u8,
    },
    SetClock {
        seconds: i32,
    },
    /// All purses are gone, mail is lost; a write under way is torn at so many thousandths. Then so many shards.
    Crash {
        shards: u8,
        torn: u16,
        down: u16,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let shard = || 0..5u8;
    prop_oneof![
        20 => (shard(), 0..3u8, prop_oneof![4 => Just(1), 1 => 2..5u32]).prop_map(|(shard, key, units)| Step::Take { shard, key, units }),
        2 => (shard(), 0..3u8, 1..6u32).prop_map(|(shard, key, units)| Step::Prefetch { shard, key, units }),
        3 => shard().prop_map(|shard| Step::Untake { shard }),
        20 => (shard(), shard(), 1..4u8).prop_map(|(from, to, count)| Step::Deliver { from, to, count }),
        12 => Just(Step::Settle),
        8 => (shard(), prop::bool::weighted(0.85)).prop_map(|(shard, ok)| Step::Write { shard, ok }),
        8 => prop_oneof![3 => 0..300u32, 3 => 300..4000u32, 1 => 4000..40_000u32].prop_map(|millis| Step::Pass { millis }),
        4 => shard().prop_map(|shard| Step::Sweep { shard }),
        1 => prop_oneof![-4000..4000i32, -20..20i32, 0..3i32].prop_map(|seconds| Step::SetClock { seconds }),
        2 => (1..5u8, 0..=1000u16, 0..20_000u16).prop_map(|(shards, torn, down)| Step::Crash { shards, torn, down }),
    ]
}

#[derive(Debug)]
enum Mail {
    Up(ToOwner),
    Down(ToPurse),
}

/// What was taken: by the true clock, which nobody has.
#[derive(Clone, Copy, Debug)]
struct Use {
    at: Duration,
    units: u32,
    key: usize,
}

struct World {
    time: Duration,
    /// Of this run: where the monotonic clock began.
    began: Duration,
    /// The wall clock less the true one.
    set: i64,
    /// It was set forward and no snapshot of each owner says so: a crash now would look like a long pause.
    unsafe_to_crash: bool,
    shards: u16,
    owners: Vec<Owner>,
    purses: Vec<Purse>,
    links: BTreeMap<(u16, u16), VecDeque<Mail>>,
    files: BTreeMap<(u16, u8), Vec<u8>>,
    under_way: BTreeMap<u16, Write>,
    keys: Vec<(Key, Limits)>,
    waiting: BTreeMap<u64, (u16, usize, u32)>,
    next: u64,
    uses: Vec<Use>,
    receipts: Vec<Vec<(Receipt, usize, usize)>>,
    answers: Vec<(u64, Answer)>,
    crashed: bool,
}

impl World {
    fn new(amounts: [u32; 3]) -> World {
        let limits = |short, long| {
            Limits::new(&[Limit { amount: short, window: SHORT }, Limit { amount: long, window: LONG }]).unwrap()
        };
        let keys = amounts.iter().enumerate().map(|(n, amount)| {
            (Key::new("messages", &format!("account{n}")).unwrap(), limits(*amount, amount.saturating_mul(3)))
        });
        let mut world = World {
            time: Duration::from_secs(1_000_000),
            began: Duration::from_secs(1_000_000),
            set: 0,
            unsafe_to_crash: false,
            shards: 0,
            owners: Vec::new(),
            purses: Vec::new(),
            links: BTreeMap::new(),
            files: BTreeMap::new(),
            under_way: BTreeMap::new(),
            keys: keys.collect(),
            waiting: BTreeMap::new(),
            next: 0,
            uses: Vec::new(),
            receipts: Vec::new(),
            answers: Vec::new(),
            crashed: false,
        };
        world.start(3);
        world
    }

    fn now(&self) -> Now {
        let mono = Moment(7) + (self.time - self.began);
        let wall = u64::try_from(self.time.as_millis()).unwrap().saturating_add_signed(self.set);
        Now { mono, wall: Wall(wall) }
    }

    fn start(&mut self, shards: u16) {
        self.began = self.time;
        self.shards = shards;
        let now = self.now();
        let files: Vec<&[u8]> = self.files.values().map(Vec::as_slice).collect();
        self.owners = (0..shards).map(|me| Owner::restore(me, shards, files.iter().copied(), now).0).collect();
        self.purses = (0..shards).map(|me| Purse::new(me, shards)).collect();
        self.receipts = vec![Vec::new(); usize::from(shards)];
    }

    fn crash(&mut self, shards: u16, torn: u16) {
        for (shard, write) in std::mem::take(&mut self.under_way) {
            let file = self.files.entry((shard, write.slot)).or_default();
            let cut = write.bytes.len() * usize::from(torn) / 1000;
            if file.len() < write.bytes.len() {
                file.resize(write.bytes.len(), 0);
            }
            file[..cut].copy_from_slice(&write.bytes[..cut]);
        }
        self.links.clear();
        self.waiting.clear();
        self.crashed = true;
        self.start(shards);
    }

    fn used(&mut self, receipt: Receipt, shard: u16, key: usize) {
        self.receipts[usize::from(shard)].push((receipt, key, self.uses.len()));
        self.uses.push(Use { at: self.time, units: receipt.units, key });
    }

    fn take(&mut self, shard: u16, key: usize, units: u32) -> u64 {
        self.next += 1;
        let now = self.now().mono;
        let (name, limits) = &self.keys[key];
        match self.purses[usize::from(shard)].take(name, limits, units, self.next, now) {
            Take::Taken(receipt) => {
                self.answers.push((self.next, Answer::Taken(receipt)));
                self.used(receipt, shard, key);
            }
            Take::Waiting => {
                self.waiting.insert(self.next, (shard, key, units));
            }
            Take::Unavailable => panic!("few wait"),
        }
        self.next
    }

    /// Collects what has come out.
    fn collect(&mut self) {
        for shard in 0..self.shards {
            let at = usize::from(shard);
            while let Some((to, message)) = self.purses[at].poll_send() {
                self.links.entry((shard, to)).or_default().push_back(Mail::Up(message));
            }
            while let Some((to, message)) = self.owners[at].poll_send() {
                self.links.entry((shard, to)).or_default().push_back(Mail::Down(message));
            }
            while let Some((token, answer)) = self.purses[at].poll_answer() {
                let (asker, key, units) = self.waiting.remove(&token).expect("one answer to each");
                assert_eq!(asker, shard);
                self.answers.push((token, answer));
                if let Answer::Taken(receipt) = answer {
                    assert_eq!(receipt.units, units);
                    self.used(receipt, shard, key);
                }
            }
            if let std::collections::btree_map::Entry::Vacant(vacant) = self.under_way.entry(shard) {
                let mono = Moment(7) + (self.time - self.began);
                let wall = u64::try_from(self.time.as_millis()).unwrap().saturating_add_signed(self.set);
                if let Some(write) = self.owners[at].poll_write(Now { mono, wall: Wall(wall) }) {
                    vacant.insert(write);
                }
            }
        }
    }

    fn deliver(&mut self, from: u16, to: u16, count: usize) -> bool {
        let now = self.now().mono;
        let mut any = false;
        for _ in 0..count {
            let Some(mail) = self.links.get_mut(&(from, to)).and_then(VecDeque::pop_front) else { break };
            any = true;
            match mail {
                Mail::Up(message) => self.owners[usize::from(to)].handle(message, now),
                Mail::Down(message) => self.purses[usize::from(to)].handle(message, now),
            }
        }
        self.collect();
        any
    }

    fn write(&mut self, shard: u16, ok: bool) -> bool {
        let Some(write) = self.under_way.remove(&shard) else { return false };
        if ok {
            self.files.insert((shard, write.slot), write.bytes);
        }
        let now = self.now().mono;
        self.owners[usize::from(shard)].handle_written(ok, now);
        self.collect();
        true
    }

    fn write_all(&mut self) -> bool {
        (0..self.shards).fold(false, |any, shard| self.write(shard, true) | any)
    }

    /// One way of all mail, then all writes. Whether there was any.
    fn half_trip(&mut self) -> bool {
        self.collect();
        let mut any = false;
        let links: Vec<((u16, u16), usize)> = self.links.iter().map(|(link, mail)| (*link, mail.len())).collect();
        for ((from, to), count) in links {
            any |= self.deliver(from, to, count);
        }
        self.write_all() | any
    }

    fn settle(&mut self) {
        let mut trips = 0;
        while self.half_trip() {
            trips += 1;
            assert!(trips < 1000, "it goes on for ever");
        }
    }

    fn sweep(&mut self) {
        let now = self.now();
        self.purses.iter_mut().for_each(|purse| purse.sweep(now.mono));
        self.owners.iter_mut().for_each(|owner| owner.sweep(now));
        self.collect();
    }

    fn run(&mut self, step: &Step) {
        let of = |shard: u8, shards: u16| u16::from(shard) % shards;
        match *step {
            Step::Take { shard, key, units } => {
                self.take(of(shard, self.shards), usize::from(key), units);
            }
            Step::Prefetch { shard, key, units } => {
                let (now, at) = (self.now().mono, usize::from(of(shard, self.shards)));
                let (name, limits) = &self.keys[usize::from(key)];
                self.purses[at].prefetch(name, limits, units, now);
            }
            Step::Untake { shard } => {
                let at = usize::from(of(shard, self.shards));
                if let Some((receipt, key, index)) = self.receipts[at].pop() {
                    self.uses[index].units = 0;
                    self.purses[at].untake(&self.keys[key].0, receipt);
                }
            }
            Step::Deliver { from, to, count } => {
                self.deliver(of(from, self.shards), of(to, self.shards), usize::from(count));
            }
            Step::Settle => self.settle(),
            Step::Write { shard, ok } => {
                self.write(of(shard, self.shards), ok);
            }
            // Not whole milliseconds, as the wall clock has them.
            Step::Pass { millis } => self.time += Duration::from_millis(millis.into()) + Duration::from_nanos(345_678),
            Step::Sweep { shard } => {
                let (now, at) = (self.now(), usize::from(of(shard, self.shards)));
                self.purses[at].sweep(now.mono);
                self.owners[at].sweep(now);
            }
            Step::SetClock { seconds } => {
                self.set += i64::from(seconds) * 1000;
                self.unsafe_to_crash |= seconds > 0;
            }
            Step::Crash { shards, torn, down } => {
                if self.unsafe_to_crash {
                    // The owners see it with their next sweep, once no write of before is under way.
                    for _ in 0..2 {
                        self.write_all();
                        self.sweep();
                    }
                    self.write_all();
                    self.unsafe_to_crash = false;
                }
                self.time += Duration::from_millis(down.into());
                self.crash(u16::from(shards), torn);
            }
        }
        self.collect();
    }

    /// In no window more than the limit: looked at for windows that begin with a use, which has every other.
    fn check(&self) -> Result<(), TestCaseError> {
        for (key, (_, limits)) in self.keys.iter().enumerate() {
            for limit in limits.0.iter() {
                for first in self.uses.iter().filter(|u| u.key == key) {
                    let within = |u: &&Use| u.key == key && u.at >= first.at && u.at < first.at + limit.window;
                    let sum: u64 = self.uses.iter().filter(within).map(|u| u64::from(u.units)).sum();
                    prop_assert!(
                        sum <= limit.amount.into(),
                        "{} of {:?} from {:?}: {:?}",
                        sum,
                        limit,
                        first.at,
                        self.uses
                    );
                }
            }
        }
        Ok(())
    }

    /// Units that can be had of a key, by the list.
    fn free(&self, key: usize) -> u64 {
        let left = |limit: &Limit| {
            let within = |u: &&Use| u.key == key && u.at + limit.window > self.time;
            u64::from(limit.amount) - self.uses.iter().filter(within).map(|u| u64::from(u.units)).sum::<u64>()
        };
        self.keys[key].1.0.iter().map(left).min().unwrap()
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn property_no_window_has_more_than_its_limit(
        amounts in [1..4u32, 3..12u32, 10..60u32],
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let mut world = World::new(amounts);
        for step in &steps {
            world.run(step);
        }
        world.check()?;

        // Whatever happened, each wish gets its answer, and after the longest time all of each limit can be had.
        for _ in 0..=(QUOTA_LEASE_TIME.as_secs() + 1) {
            world.sweep();
            world.settle();
            world.time += Duration::from_secs(1);
        }
        prop_assert!(world.waiting.is_empty(), "{:?}", world.waiting);
        world.time += LONG + QUOTA_WRITE_TIMEOUT + QUOTA_LEASE_TIME + Duration::from_secs(5);
        for (key, amount) in amounts.into_iter().enumerate() {
            for n in 0..amount {
                let token = world.take(u16::try_from(n).unwrap() % world.shards, key, 1);
                world.settle();
                let (last, answer) = *world.answers.last().unwrap();
                prop_assert!(last == token && matches!(answer, Answer::Taken(_)), "{:?}", answer);
            }
        }
        world.check()?;
    }

    /// While nothing is under way: if the list has units left, they are had within two round trips, wherever they lie; else
    /// the answer says when the list will have them. (No crash: after one, units count longer than the list knows.)
    #[test]
    fn property_what_is_free_is_had_and_the_time_to_come_back_is_exact(
        amounts in [1..4u32, 3..12u32, 10..60u32],
        steps in prop::collection::vec((prop::collection::vec(step(), 0..12), 0..5u8, 0..3usize, 1..4u32), 1..20),
    ) {
        let mut world = World::new(amounts);
        for (steps, shard, key, units) in steps {
            for step in steps.iter().filter(|step| !matches!(step, Step::Crash { .. } | Step::Pass { millis: 4000.. })) {
                world.run(step);
                // Shards look at their mail, and give back what is idle, far more often than leases end.
                if matches!(step, Step::Pass { .. }) {
                    world.sweep();
                    world.settle();
                }
            }
            world.settle();
            prop_assert!(world.waiting.is_empty());
            let free = world.free(key);
            let token = world.take(u16::from(shard) % world.shards, key, units);
            // There and back, the recall in between; and the write.
            for _ in 0..4 {
                world.half_trip();
            }
            world.collect();
            let (last, answer) = *world.answers.last().unwrap();
            prop_assert_eq!(last, token, "no answer after two round trips");
            match answer {
                Answer::Taken(_) => prop_assert!(free >= units.into()),
                Answer::Unavailable => prop_assert!(false, "nothing has failed"),
                Answer::Over { retry_at } => {
                    prop_assert!(free < units.into(), "{} are free", free);
                    let Some(retry_at) = retry_at else {
                        prop_assert!(units > amounts[key]);
                        continue;
                    };
                    let wait = retry_at.since(world.now().mono);
                    prop_assert!(wait > Duration::ZERO);
                    let time = world.time;
                    world.time = time + wait;
                    let then = world.free(key);
                    world.time = time;
                    prop_assert!(then >= units.into(), "too early: {} of {}", then, units);
                }
            }
        }
        world.check()?;
    }

    #[test]
    fn property_any_octets_are_refused_or_read_without_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        amounts in [1..4u32, 3..12u32, 10..60u32],
        steps in prop::collection::vec(step(), 1..60),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        reseal in any::<bool>(),
        now in any::<(u64, u64)>(),
    ) {
        let now = Now { mono: Moment(now.0 >> 1), wall: Wall(now.1) };
        let (_, refused) = Owner::restore(0, 1, [&bytes[..]], now);
        prop_assert_eq!(refused.len(), 1);
        let mut world = World::new(amounts);
        steps.iter().filter(|step| !matches!(step, Step::Crash { .. })).for_each(|step| world.run(step));
        world.settle();
        for file in world.files.values() {
            let whole = usize::try_from(u32::from_le_bytes(file[36..40].try_into().unwrap())).unwrap();
            prop_assert!(Owner::restore(0, 1, [&file[..]], now).1.is_empty());
            prop_assert!(Owner::restore(0, 1, [&[&file[..], &[0; 99]].concat()[..]], now).1.is_empty(), "padding");
            prop_assert!(Owner::restore(0, 1, [&file[..whole - 1]], now).1.len() == 1, "cut off");
            let mut changed = file[..whole].to_vec();
            for (at, by) in &flips {
                changed[at.index(whole)] ^= *by;
            }
            let same = changed == file[..whole];
            if reseal {
                // The checksum of whoever means harm is right: still no panic, and what is read can be used and written.
                let crc = crc32fast::hash(&changed[..whole - 4]);
                changed[whole - 4..].copy_from_slice(&crc.to_le_bytes());
                let (mut owner, _) = Owner::restore(0, 1, [&changed[..]], now);
                owner.save();
                // Nothing is written where nothing counts any more.
                if let Some(written) = owner.poll_write(now) {
                    prop_assert!(Owner::restore(0, 1, [&written.bytes[..]], now).1.is_empty());
                }
            } else if !same {
                prop_assert!(Owner::restore(0, 1, [&changed[..]], now).1.len() == 1, "changed");
            }
        }
    }
}
