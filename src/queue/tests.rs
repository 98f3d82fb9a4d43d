#![allow(clippy::unwrap_used)]
use super::*;
use crate::message::MessageId;
use std::collections::BTreeMap;
use std::rc::Rc;

const SECOND: u64 = 1_000_000_000;

/// Both clocks, `seconds` after the beginning.
pub(super) fn at(seconds: u64) -> Now {
    Now { mono: Moment(seconds * SECOND), wall: Wall(seconds * 1000) }
}

pub(super) fn job(id: u64, accepted: Wall) -> Job<u64> {
    Job::new(MessageId(id), 0, RecipientSet::One(0), accepted, 4096, Some(id))
}

pub(super) fn reply(now: Now) -> LastReply {
    LastReply::new(now.wall, "mx.example", 450, None, b"later")
}

pub(super) fn queue() -> Queue<u64> {
    Queue::new(RetryPolicy::default(), 1)
}

pub(super) fn ids(q: &mut Queue<u64>, dest: DestinationId) -> Vec<u64> {
    std::iter::from_fn(|| q.take(dest).map(|key| q.job(key).unwrap().id.0)).collect()
}

pub(super) fn expired(q: &mut Queue<u64>) -> Vec<u64> {
    std::iter::from_fn(|| q.poll_expired()).collect::<Vec<_>>().into_iter().map(|k| q.finished(k).id.0).collect()
}

pub(super) fn round(q: &mut Queue<u64>) -> Vec<DestinationId> {
    std::iter::from_fn(|| q.poll_touched()).collect()
}

#[test]
fn jobs_go_in_the_order_they_came() {
    let mut q = queue();
    let a = q.enqueue("a.example", job(1, Wall(0)), Moment(0));
    let b = q.enqueue("b.example", job(2, Wall(0)), Moment(0));
    assert_eq!(q.enqueue("a.example", job(3, Wall(0)), Moment(5)), a);
    assert_eq!((q.name(a), q.find("b.example"), q.find("c.example")), (Some("a.example"), Some(b), None));
    assert_eq!(round(&mut q), [a, b]);
    assert_eq!(round(&mut q), []);
    assert_eq!(q.oldest_ready_wait(a, Moment(7)), Some(Duration::from_nanos(7)));
    assert_eq!(q.peek_len(a), 2);
    assert_eq!(ids(&mut q, a), [1, 3]);
    assert_eq!((q.peek_len(a), q.in_flight(a), q.oldest_ready_wait(a, Moment(7))), (0, 2, None));
    assert_eq!(q.counts(), Counts { ready: 1, in_flight: 2, destinations: 2, ..Counts::default() });
}

#[test]
fn a_destination_is_touched_once_a_round() {
    let mut q = queue();
    let a = q.enqueue("a.example", job(1, Wall(0)), Moment(0));
    let b = q.enqueue("b.example", job(2, Wall(0)), Moment(0));
    assert!(q.has_work());
    assert_eq!(q.poll_touched(), Some(a));
    // Nothing could be done for it; it comes again, but behind the end of this round.
    q.touch(a);
    q.touch(a);
    assert_eq!((q.poll_touched(), q.poll_touched()), (Some(b), None));
    assert_eq!((q.poll_touched(), q.poll_touched()), (Some(a), None));
    assert!(!q.has_work());
    // Touched but emptied before it was polled.
    q.touch(a);
    assert_eq!(ids(&mut q, a), [1]);
    assert_eq!(q.poll_touched(), None);
}

#[test]
fn a_job_put_back_is_first_again_and_counts_no_attempt() {
    let mut q = queue();
    let a = q.enqueue("a.example", job(1, Wall(0)), Moment(0));
    q.enqueue("a.example", job(2, Wall(0)), Moment(0));
    round(&mut q);
    let key = q.take(a).unwrap();
    q.put_back(key);
    assert_eq!(q.job(key).unwrap().attempts, 0);
    assert_eq!(q.job(key).unwrap().body, Some(1));
    assert_eq!(round(&mut q), [a]);
    assert_eq!(ids(&mut q, a), [1, 2]);
}

#[test]
fn a_deferred_job_waits_and_comes_back_without_its_body() {
    let mut q = queue();
    let mut first = job(1, Wall(0));
    first.recipients = RecipientSet::from_slice(&[0, 3, 9]);
    let a = q.enqueue("a.example", first, Moment(0));
    round(&mut q);
    let key = q.take(a).unwrap();
    let rest = RecipientSet::from_slice(&[3]);
    let due = at(300).mono;
    assert_eq!(q.deferred(key, rest, reply(at(0)), at(0), 0), Deferral::Until(due));
    assert_eq!(q.counts().waiting, 1);
    assert_eq!((q.poll_timeout(), q.take(a)), (Some(due), None));
    q.handle_timeout(Now { mono: Moment(due.0 - 1), ..at(299) });
    assert_eq!(round(&mut q), []);
    q.handle_timeout(at(300));
    assert_eq!(round(&mut q), [a]);
    assert_eq!(q.take(a), Some(key));
    let back = q.job(key).unwrap();
    assert_eq!((back.attempts, back.body, back.recipients.as_slice()), (1, None, &[3][..]));
    assert_eq!(&*back.last.as_ref().unwrap().text, b"later");
    // The second delay is twice the first.
    assert_eq!(q.deferred(key, RecipientSet::One(3), reply(at(300)), at(300), 0), Deferral::Until(at(900).mono));
    assert_eq!(q.finished(key).attempts, 2);
    assert_eq!(q.job(key).map(|j| j.id), None);
    // Its timer finds nothing, and its destination has been empty for long enough.
    q.handle_timeout(at(900));
    assert_eq!(q.counts(), Counts::default());
}

#[test]
fn the_last_attempt_is_at_the_give_up_time_and_then_it_expires() {
    let mut q = queue();
    let a = q.enqueue("a.example", job(1, Wall(0)), Moment(0));
    let mut now = at(0);
    let mut attempts = 0;
    loop {
        let key = q.take(a).unwrap();
        attempts += 1;
        match q.deferred(key, RecipientSet::One(0), reply(now), now, u64::MAX / 2) {
            Deferral::Until(due) => {
                now = Now { mono: due, wall: Wall(due.0 / 1_000_000) };
                q.handle_timeout(now);
            }
            Deferral::Expired => {
                assert_eq!(q.counts().in_flight, 1);
                q.finished(key);
                break;
            }
        }
    }
    assert_eq!(now.wall, at(5 * 24 * 3600).wall);
    assert!((30..45).contains(&attempts), "{attempts}");
}

#[test]
fn fresh_mail_goes_first_but_retries_do_not_starve() {
    let mut q = queue();
    let a = q.enqueue("a.example", job(1000, Wall(0)), Moment(0));
    q.enqueue("a.example", job(1001, Wall(0)), Moment(0));
    for _ in 0..2 {
        let key = q.take(a).unwrap();
        q.deferred(key, RecipientSet::One(0), reply(at(0)), at(0), 0);
    }
    q.handle_timeout(at(300));
    for id in 0..20 {
        q.enqueue("a.example", job(id, Wall(0)), Moment(0));
    }
    let order = ids(&mut q, a);
    let place = |id| order.iter().position(|x| *x == id).unwrap();
    assert_eq!((place(1000), place(1001)), (7, 15));
    let fresh: Vec<_> = order.into_iter().filter(|id| *id < 1000).collect();
    assert_eq!(fresh, (0..20).collect::<Vec<_>>());
}

#[test]
fn an_unreachable_destination_is_suspended_as_a_whole() {
    let mut q = queue();
    let a = q.enqueue("a.example", job(1, Wall(0)), Moment(0));
    q.enqueue("a.example", job(2, Wall(0)), Moment(0));
    assert_eq!(round(&mut q), [a]);
    let until = q.unreachable(a, reply(at(1)), at(1), 0);
    assert_eq!(until, at(301).mono);
    // Other connections failed as well: one strike, one suspension.
    assert_eq!(q.unreachable(a, reply(at(2)), at(2), u64::MAX), until);
    assert!(q.is_suspended(a) && !q.is_probing(a));
    let k3 = q.enqueue("a.example", job(3, Wall(0)), at(3).mono);
    assert_eq!((k3, q.take(a), round(&mut q)), (a, None, vec![]));
    assert_eq!(q.counts(), Counts { ready: 3, destinations: 1, suspended: 1, ..Counts::default() });
    assert_eq!(q.poll_timeout(), Some(until));

    q.handle_timeout(at(301));
    assert!(q.is_probing(a));
    assert_eq!(round(&mut q), [a]);
    let key = q.take(a).unwrap();
    assert_eq!((q.job(key).unwrap().body, q.job(key).unwrap().attempts), (None, 0));
    q.put_back(key);
    // The probe failed as well: the next one comes after twice the time.
    assert_eq!(q.unreachable(a, reply(at(301)), at(301), 0), at(901).mono);
    assert_eq!(q.trouble(a), Some(&reply(at(301))));
    assert_eq!(round(&mut q), []);
    q.handle_timeout(at(901));
    assert_eq!(round(&mut q), [a]);
    q.reachable(a);
    assert!(!q.is_probing(a) && q.trouble(a).is_none());
    // So that the pool opens more than the one connection.
    assert_eq!(round(&mut q), [a]);
    assert_eq!(ids(&mut q, a), [1, 2, 3]);
    // It was reached: the back-off begins anew.
    assert_eq!(q.unreachable(a, reply(at(902)), at(902), 0), at(1202).mono);
}

#[test]
fn reaching_a_suspended_destination_opens_it_at_once() {
    let mut q = queue();
    let a = q.enqueue("a.example", job(1, Wall(0)), Moment(0));
    q.unreachable(a, reply(at(0)), at(0), 0);
    assert_eq!(round(&mut q), []);
    q.reachable(a);
    assert_eq!((round(&mut q), q.counts().suspended), (vec![a], 0));
    let second = q.unreachable(a, reply(at(10)), at(10), 0);
    // The end of the first suspension is not the end of the second.
    q.handle_timeout(at(300));
    assert!(q.is_suspended(a));
    q.handle_timeout(Now { mono: second, ..at(310) });
    assert!(q.is_probing(a));
}

#[test]
fn jobs_expire_at_a_destination_that_stays_unreachable() {
    let mut q = queue();
    let give_up = RetryPolicy::default().give_up.as_secs();
    // More than a turn looks at; every third is old.
    let count = 3 * limits::QUEUE_SWEEP_PER_TURN as u64;
    let mut a = q.enqueue("a.example", job(0, Wall(0)), Moment(0));
    for id in 1..count {
        a = q.enqueue("a.example", job(id, if id % 3 == 0 { Wall(0) } else { Wall(1000) }), Moment(0));
    }
    q.unreachable(a, reply(at(0)), at(0), 0);
    assert_eq!(q.poll_expired(), None);
    q.handle_timeout(at(give_up));
    assert_eq!(q.poll_expired(), None, "nothing expires without an attempt at its age");
    q.unreachable(a, reply(at(give_up)), at(give_up), 0);
    let mut gone = expired(&mut q);
    assert!(gone.len() < limits::QUEUE_SWEEP_PER_TURN, "one slice of work a turn");
    let mut turns = 1;
    while q.poll_timeout() == Some(at(give_up).mono) {
        q.handle_timeout(at(give_up));
        gone.extend(expired(&mut q));
        turns += 1;
    }
    assert!(turns <= 4, "{turns}");
    gone.sort_unstable();
    assert_eq!(gone, (0..count).step_by(3).collect::<Vec<_>>());
    assert_eq!(q.counts().ready as u64, count - gone.len() as u64);
    q.handle_timeout(at(give_up + 4 * 3600));
    q.unreachable(a, reply(at(0)), at(give_up + 4 * 3600), 0);
    while q.poll_timeout() == Some(at(give_up + 4 * 3600).mono) {
        q.handle_timeout(at(give_up + 4 * 3600));
    }
    assert_eq!(expired(&mut q).len() as u64, count - gone.len() as u64);
}

#[test]
fn a_sweep_survives_what_happens_meanwhile() {
    let mut q = queue();
    let old = Wall(0);
    let now = at(RetryPolicy::default().give_up.as_secs());
    let count = limits::QUEUE_SWEEP_PER_TURN as u64 + 1;
    let mut a = q.enqueue("a.example", job(0, old), Moment(0));
    for id in 1..count + 100 {
        a = q.enqueue("a.example", job(id, old), Moment(0));
    }
    let key = q.take(a).unwrap();
    q.unreachable(a, reply(now), now, 0);
    // In the middle of it: one back to the front, mail from a late connection, and the destination answers.
    q.put_back(key);
    q.enqueue("a.example", job(9999, now.wall), now.mono);
    q.reachable(a);
    q.handle_timeout(now);
    let mut gone = expired(&mut q);
    assert!(q.poll_timeout() > Some(now.mono) && gone.len() < count as usize, "it was abandoned");
    // The next search begins from the start.
    q.unreachable(a, reply(now), now, 0);
    while q.poll_timeout() == Some(now.mono) {
        q.handle_timeout(now);
    }
    gone.extend(expired(&mut q));
    gone.sort_unstable();
    assert_eq!(gone, (0..count + 100).collect::<Vec<_>>());
    q.reachable(a);
    assert_eq!(ids(&mut q, a), [9999]);
}

#[test]
fn a_key_never_names_another_job() {
    let mut q = queue();
    let a = q.enqueue("a.example", job(1, Wall(0)), Moment(0));
    let first = q.take(a).unwrap();
    q.finished(first);
    q.enqueue("a.example", job(2, Wall(0)), Moment(0));
    let second = q.take(a).unwrap();
    assert_eq!(first.index, second.index, "the place is used again");
    assert!(q.job(first).is_none() && q.job_mut(first).is_none() && q.destination_of(first).is_none());
    assert!(q.job(second).is_some());
}

#[test]
#[should_panic(expected = "the driver gives back jobs it holds")]
fn a_waiting_job_is_not_put_back() {
    let mut q = queue();
    let a = q.enqueue("a.example", job(1, Wall(0)), Moment(0));
    let key = q.take(a).unwrap();
    q.deferred(key, RecipientSet::One(0), reply(at(0)), at(0), 0);
    q.put_back(key);
}

#[test]
fn stale_bodies_are_dropped_but_not_those_in_use() {
    let mut q: Queue<Rc<u64>> = Queue::new(RetryPolicy::default(), 1);
    let body = Rc::new(7);
    let mut a = None;
    for id in 0..4 {
        let job = Job::new(MessageId(id), 0, RecipientSet::One(0), Wall(0), 1, Some(body.clone()));
        a = Some(q.enqueue("a.example", job, at(id).mono));
    }
    let used = q.take(a.unwrap()).unwrap();
    assert_eq!(q.drop_stale_bodies(at(3).mono, Duration::from_secs(2)), 1);
    assert_eq!(Rc::strong_count(&body), 4);
    assert!(q.job(used).unwrap().body.is_some());
    // Its time is over: it does not go back with its body.
    q.put_back(used);
    assert_eq!(Rc::strong_count(&body), 3);
    assert_eq!(q.drop_stale_bodies(at(60).mono, Duration::from_secs(2)), 2);
    assert_eq!(Rc::strong_count(&body), 1);
    // One read from the spool again is dropped when it is put back.
    let used = q.take(a.unwrap()).unwrap();
    q.job_mut(used).unwrap().body = Some(body.clone());
    q.put_back(used);
    assert_eq!(Rc::strong_count(&body), 1);
}

#[test]
fn suspension_drops_bodies_at_once() {
    let mut q: Queue<Rc<u64>> = Queue::new(RetryPolicy::default(), 1);
    let body = Rc::new(7);
    let new = |id| Job::new(MessageId(id), 0, RecipientSet::One(0), Wall(0), 1, Some(body.clone()));
    let a = q.enqueue("a.example", new(1), Moment(0));
    q.enqueue("a.example", new(2), Moment(0));
    let held = q.take(a).unwrap();
    q.unreachable(a, reply(at(0)), at(0), 0);
    q.enqueue("a.example", new(3), Moment(0));
    assert_eq!(Rc::strong_count(&body), 2);
    q.put_back(held);
    assert_eq!(Rc::strong_count(&body), 1);
}

#[test]
fn bodies_of_jobs_that_went_leave_no_entries() {
    let mut q = queue();
    for id in 0..10_000 {
        let a = q.enqueue("a.example", job(id, Wall(0)), Moment(id));
        let key = q.take(a).unwrap();
        q.finished(key);
    }
    assert!(q.bodies.len() < 4, "{}", q.bodies.len());
}

#[test]
fn idle_destinations_are_forgotten() {
    let mut q = queue();
    let a = q.enqueue("a.example", job(1, Wall(0)), Moment(0));
    let key = q.take(a).unwrap();
    q.finished(key);
    // Used again shortly before it would go.
    q.handle_timeout(at(599));
    assert_eq!(q.enqueue("a.example", job(2, Wall(0)), at(599).mono), a);
    let key = q.take(a).unwrap();
    q.finished(key);
    round(&mut q);
    q.handle_timeout(at(601));
    assert_eq!(q.find("a.example"), Some(a));
    q.handle_timeout(at(1198));
    assert_eq!(q.find("a.example"), Some(a));
    q.handle_timeout(at(1200));
    assert_eq!((q.find("a.example"), q.name(a)), (None, None));
    assert_eq!(q.take(a), None);
    let b = q.enqueue("b.example", job(3, Wall(0)), at(1200).mono);
    assert_ne!(a, b);
    assert_eq!((q.name(a), q.name(b)), (None, Some("b.example")));
    q.touch(a);
    q.reachable(a);
    q.unreachable(a, reply(at(0)), at(1200), 0);
    assert!(!q.is_suspended(b));
}

#[test]
fn idle_destinations_are_bounded() {
    let mut q = queue();
    for id in 0..2 * limits::QUEUE_IDLE_DESTINATIONS as u64 {
        let a = q.enqueue(&format!("d{id}.example"), job(id, Wall(0)), Moment(0));
        round(&mut q);
        let key = q.take(a).unwrap();
        q.finished(key);
        round(&mut q);
    }
    assert!(q.counts().destinations <= limits::QUEUE_IDLE_DESTINATIONS, "{}", q.counts().destinations);
    assert!(q.find("d0.example").is_none());
}

#[test]
fn a_burst_of_retries_is_served_in_slices() {
    let mut q = queue();
    let count = 2 * limits::QUEUE_TIMERS_PER_TURN as u64 + 1;
    for id in 0..count {
        let a = q.enqueue("a.example", job(id, Wall(0)), Moment(0));
        let key = q.take(a).unwrap();
        q.deferred(key, RecipientSet::One(0), reply(at(0)), at(0), 0);
    }
    let mut turns = 0;
    while q.poll_timeout().is_some_and(|due| due <= at(300).mono) {
        q.handle_timeout(at(300));
        turns += 1;
    }
    assert_eq!((turns, q.counts().ready as u64), (3, count));
    assert!(q.retries.capacity() < 8192, "{}", q.retries.capacity());
}

#[test]
fn a_waiting_job_costs_at_most_24_bytes_of_timer() {
    let mut q = queue();
    for id in 0..100_000 {
        let a = q.enqueue("a.example", job(id, Wall(0)), Moment(0));
        let key = q.take(a).unwrap();
        q.deferred(key, RecipientSet::One(0), reply(at(0)), at(0), id << 40);
    }
    assert!(q.retries.capacity() * size_of::<Reverse<(Moment, u32, u32)>>() <= 100_000 * 24);
}

/// A seeded generator: the tests print nothing and repeat exactly.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// The same queue, as slow and plain as can be.
#[derive(Default)]
struct Model {
    dests: BTreeMap<String, ModelDest>,
    waiting: BTreeMap<u64, (Moment, JobKey, String)>,
    held: BTreeMap<u64, (JobKey, String)>,
    attempts: BTreeMap<u64, u16>,
    accepted: BTreeMap<u64, Wall>,
}

#[derive(Default)]
struct ModelDest {
    fresh: VecDeque<u64>,
    retry: VecDeque<u64>,
    run: u8,
    suspended: Option<Moment>,
    probing: bool,
    /// To be announced by the next round.
    touched: bool,
}

impl ModelDest {
    fn has_ready(&self) -> bool {
        self.fresh.len() + self.retry.len() > 0
    }

    fn take(&mut self) -> Option<u64> {
        if self.suspended.is_some() {
            return None;
        }
        let retry_turn = !self.retry.is_empty() && self.run + 1 >= limits::QUEUE_RETRY_SHARE;
        if self.fresh.is_empty() || retry_turn {
            let id = self.retry.pop_front()?;
            self.run = 0;
            return Some(id);
        }
        self.run = if self.retry.is_empty() { 0 } else { self.run + 1 };
        self.fresh.pop_front()
    }
}

#[test]
fn behaves_as_a_naive_model_does() {
    for seed in 0..60 {
        simulate(seed, 3000);
    }
}

fn simulate(seed: u64, steps: u32) {
    let mut random = Random(seed);
    let policy = RetryPolicy { give_up: Duration::from_secs(6 * 3600), ..RetryPolicy::default() };
    let mut q: Queue<u64> = Queue::new(policy, seed);
    let mut m = Model::default();
    let mut now = at(0);
    let mut next_id = 0;
    let mut over = 0;
    for step in 0..steps {
        let context = format!("seed {seed}, step {step}");
        let name = format!("d{}.example", random.below(5));
        match random.below(100) {
            0..35 => {
                next_id += 1;
                // Some come from recovery, with an age.
                let age = if random.below(4) == 0 { random.below(7 * 3_600_000) } else { 0 };
                let accepted = Wall(now.wall.0.saturating_sub(age));
                q.enqueue(&name, job(next_id, accepted), now.mono);
                let d = m.dests.entry(name).or_default();
                d.fresh.push_back(next_id);
                d.touched |= d.suspended.is_none();
                m.accepted.insert(next_id, accepted);
                m.attempts.insert(next_id, 0);
            }
            35..60 => {
                let Some(dest) = q.find(&name) else { continue };
                let key = q.take(dest);
                let expected = m.dests.entry(name.clone()).or_default().take();
                assert_eq!(key.map(|k| q.job(k).unwrap().id.0), expected, "{context}");
                if let Some(key) = key {
                    assert_eq!(q.destination_of(key), Some(dest));
                    m.held.insert(expected.unwrap(), (key, name));
                }
            }
            60..85 => {
                let Some(id) = m.held.keys().nth(random.below(m.held.len().max(1) as u64) as usize).copied() else {
                    continue;
                };
                let (key, name) = m.held.remove(&id).unwrap();
                let d = m.dests.get_mut(&name).unwrap();
                match random.below(3) {
                    0 => {
                        assert_eq!(q.finished(key).id.0, id, "{context}");
                        over += 1;
                    }
                    1 => {
                        q.put_back(key);
                        d.touched |= d.suspended.is_none();
                        if m.attempts[&id] == 0 { d.fresh.push_front(id) } else { d.retry.push_front(id) }
                    }
                    _ => {
                        let r = random.next();
                        let attempts = m.attempts.get_mut(&id).unwrap();
                        *attempts += 1;
                        let left = policy.give_up.saturating_sub(now.wall.since(m.accepted[&id]));
                        let expected = if left < Duration::from_secs(1) {
                            Deferral::Expired
                        } else {
                            Deferral::Until(now.mono + policy.delay(*attempts, r).min(left))
                        };
                        assert_eq!(q.deferred(key, RecipientSet::One(0), reply(now), now, r), expected, "{context}");
                        match expected {
                            Deferral::Until(due) => drop(m.waiting.insert(id, (due, key, name))),
                            Deferral::Expired => {
                                q.finished(key);
                                over += 1;
                            }
                        }
                    }
                }
            }
            85..90 => {
                let Some(dest) = q.find(&name) else { continue };
                let d = m.dests.get_mut(&name).unwrap();
                if random.below(2) == 0 {
                    q.reachable(dest);
                    let was_open = d.suspended.is_none() && !d.probing;
                    d.touched |= !was_open && d.has_ready();
                    (d.suspended, d.probing) = (None, false);
                } else {
                    let until = q.unreachable(dest, reply(now), now, random.next());
                    if let Some(before) = d.suspended {
                        assert_eq!(until, before, "{context}");
                        continue;
                    }
                    (d.suspended, d.probing) = (Some(until), false);
                    let is_old = |id: &u64| policy.is_expired(m.accepted[id], now.wall);
                    let mut old: Vec<u64> = d.fresh.iter().chain(&d.retry).copied().filter(is_old).collect();
                    d.fresh.retain(|id| !is_old(id));
                    d.retry.retain(|id| !is_old(id));
                    let mut gone = expired(&mut q);
                    over += gone.len() as u64;
                    old.sort_unstable();
                    gone.sort_unstable();
                    assert_eq!(gone, old, "{context}");
                }
            }
            _ => {
                let step = random.below(900);
                now = Now { mono: now.mono + Duration::from_secs(step), wall: Wall(now.wall.0 + step * 1000) };
                q.handle_timeout(now);
                let is_due = |(id, (due, key, _)): (&u64, &(Moment, JobKey, String))| {
                    (*due <= now.mono).then_some((*due, *key, *id))
                };
                let mut due: Vec<_> = m.waiting.iter().filter_map(is_due).collect();
                due.sort_unstable();
                for (_, _, id) in due {
                    let (_, _, name) = m.waiting.remove(&id).unwrap();
                    let d = m.dests.get_mut(&name).unwrap();
                    d.retry.push_back(id);
                    d.touched |= d.suspended.is_none();
                }
                for d in m.dests.values_mut() {
                    if d.suspended.is_some_and(|until| until <= now.mono) {
                        (d.suspended, d.probing) = (None, true);
                        d.touched |= d.has_ready();
                    }
                }
                let mut announced: Vec<_> = round(&mut q).into_iter().map(|d| q.name(d).unwrap().to_owned()).collect();
                announced.sort_unstable();
                let mut expected = Vec::new();
                for (name, d) in &mut m.dests {
                    if std::mem::take(&mut d.touched) && d.suspended.is_none() && d.has_ready() {
                        expected.push(name.clone());
                    }
                }
                assert_eq!(announced, expected, "{context}");
            }
        }
        let counts = q.counts();
        let ready: usize = m.dests.values().map(|d| d.fresh.len() + d.retry.len()).sum();
        assert_eq!(
            (counts.ready, counts.waiting, counts.in_flight),
            (ready, m.waiting.len(), m.held.len()),
            "{context}"
        );
        assert_eq!(next_id, over + (ready + m.waiting.len() + m.held.len()) as u64, "{context}: none lost, none twice");
        for (name, d) in &mut m.dests {
            let Some(dest) = q.find(name) else {
                assert!(!d.has_ready(), "{context}: forgotten with mail");
                *d = ModelDest::default();
                continue;
            };
            assert_eq!((q.is_suspended(dest), q.is_probing(dest)), (d.suspended.is_some(), d.probing), "{context}");
        }
        let timers = m.waiting.values().map(|(due, ..)| *due).min();
        if let Some(due) = timers {
            assert!(q.poll_timeout().is_some_and(|t| t <= due), "{context}");
        }
    }
    // Whatever state it was left in, a driver that now succeeds empties it, by the announcements and timers alone.
    for (key, _) in std::mem::take(&mut m.held).into_values() {
        q.put_back(key);
    }
    for name in m.dests.keys() {
        q.find(name).into_iter().for_each(|dest| q.touch(dest));
    }
    loop {
        for dest in round(&mut q) {
            q.reachable(dest);
            while let Some(key) = q.take(dest) {
                q.finished(key);
                over += 1;
            }
        }
        if q.has_work() {
            continue;
        }
        let Some(next) = q.poll_timeout() else { break };
        now = Now { mono: next, wall: now.wall };
        q.handle_timeout(now);
    }
    assert_eq!((over, q.counts()), (next_id, Counts::default()), "seed {seed}: all out, all forgotten");
}
