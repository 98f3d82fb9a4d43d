//! What few messages ask for, in the queue: hold, deadline, notice, rank, and a job that goes in parts.
#![allow(clippy::unwrap_used)]

use super::tests::{at, expired, ids, job, queue, reply, round};
use super::*;
use crate::message::MessageId;
use crate::properties::cases;
use proptest::prelude::*;

fn with(id: u64, terms: Terms) -> Job<u64> {
    Job { terms: Some(Box::new(terms)), ..job(id, at(0).wall) }
}

fn ranked(id: u64, priority: i8) -> Job<u64> {
    if priority == 0 { job(id, Wall(0)) } else { with(id, Terms { priority, ..Terms::default() }) }
}

fn late(q: &mut Queue<u64>) -> Vec<u64> {
    std::iter::from_fn(|| q.poll_late()).collect::<Vec<_>>().into_iter().map(|k| q.job(k).unwrap().id.0).collect()
}

#[test]
fn held_mail_is_ready_at_its_time_and_has_no_body() {
    let mut q = queue();
    let hold = |s| Terms { hold_until: Some(at(s).mono), ..Terms::default() };
    let a = q.enqueue("a", with(1, hold(100)), at(0).mono);
    q.enqueue("a", with(2, hold(0)), at(0).mono);
    assert_eq!(ids(&mut q, a), [2], "a time that has passed holds nothing");
    assert_eq!((q.counts().waiting, q.poll_timeout()), (1, Some(at(100).mono)));
    q.handle_timeout(at(99));
    assert_eq!(ids(&mut q, a), [0; 0]);
    q.handle_timeout(at(100));
    assert_eq!(round(&mut q), [a]);
    let key = q.take(a).unwrap();
    assert_eq!((q.job(key).unwrap().body, q.job(key).unwrap().attempts), (None, 0));
}

#[test]
fn mail_whose_time_is_up_is_given_up_wherever_it_is() {
    let r = Terms { by: Some(at(1000).mono), return_late: true, ..Terms::default() };
    // Ready, at a destination that is suspended, in its retry, held by the driver, held for later.
    let mut q = queue();
    let ready = q.enqueue("ready", with(1, r), at(0).mono);
    let dead = q.enqueue("dead", with(2, r), at(0).mono);
    q.unreachable(dead, reply(at(0)), at(0), 0);
    let retry = q.enqueue("retry", with(3, r), at(0).mono);
    let key = q.take(retry).unwrap();
    assert_eq!(q.deferred(key, RecipientSet::One(0), reply(at(900)), at(900), 0), Deferral::Until(at(1000).mono));
    let held = q.enqueue("held", with(4, r), at(0).mono);
    let in_hand = q.take(held).unwrap();
    let also = q.enqueue("also", with(5, r), at(0).mono);
    let put_back = q.take(also).unwrap();
    q.enqueue("later", with(6, Terms { hold_until: Some(at(5000).mono), ..r }), at(0).mono);
    q.enqueue("ready", with(7, Terms { priority: 5, ..r }), at(0).mono);
    q.handle_timeout(at(999));
    assert_eq!(expired(&mut q), [0; 0]);
    q.handle_timeout(at(1000));
    let mut given_up = expired(&mut q);
    given_up.sort_unstable();
    assert_eq!(given_up, [1, 2, 3, 6, 7]);
    assert_eq!(q.peek_len(ready), 0);
    assert!(q.job(in_hand).unwrap().terms.as_ref().unwrap().is_overdue(at(1000).mono));
    assert_eq!(q.deferred(in_hand, RecipientSet::One(0), reply(at(1001)), at(1001), 0), Deferral::Expired);
    q.finished(in_hand);
    q.put_back(put_back);
    assert_eq!(q.poll_timeout(), Some(at(1000).mono), "at once");
    q.handle_timeout(at(1001));
    assert_eq!(expired(&mut q), [5]);
    assert_eq!(q.counts().ready + q.counts().waiting + q.counts().in_flight, 0);
    // N gives up nothing.
    q.enqueue("n", with(8, Terms { return_late: false, ..r }), at(1001).mono);
    q.handle_timeout(at(2000));
    assert_eq!(expired(&mut q), [0; 0]);
}

#[test]
fn a_sender_is_to_be_told_once_and_the_job_stays() {
    let mut q = queue();
    let terms = Terms { tell_late: Some(at(50).mono), ..Terms::default() };
    let a = q.enqueue("a", with(1, terms), at(0).mono);
    q.enqueue("a", with(2, terms), at(0).mono);
    q.enqueue("a", with(3, terms), at(0).mono);
    let (one, two) = (q.take(a).unwrap(), q.take(a).unwrap());
    q.finished(two);
    q.deferred(one, RecipientSet::One(0), reply(at(1)), at(1), 0);
    q.handle_timeout(at(49));
    assert!(late(&mut q).is_empty());
    q.handle_timeout(at(50));
    assert!(q.has_work());
    assert_eq!(late(&mut q), [1, 3], "not who is gone");
    q.handle_timeout(at(10_000));
    assert!(late(&mut q).is_empty() && expired(&mut q).is_empty());
    assert_eq!((q.counts().ready, q.counts().waiting), (2, 0));
}

#[test]
fn urgent_mail_goes_first_and_none_waits_for_ever() {
    // RFC 6710 §5.1.
    let mut q = queue();
    for (id, priority) in [(1, 0), (2, -9), (3, 9), (4, 1), (5, 9), (6, -1), (7, 0)] {
        q.enqueue("a", ranked(id, priority), Moment(id));
    }
    let a = q.find("a").unwrap();
    // The eighth would be the oldest of all, and there are seven.
    assert_eq!(ids(&mut q, a), [3, 5, 4, 1, 7, 6, 2]);
    for (id, priority) in (100..140).map(|id| (id, 4)).chain([(200, 0), (201, -4)]) {
        q.enqueue("a", ranked(id, priority), Moment(1000 - id));
    }
    let order = ids(&mut q, a);
    let place = |id| order.iter().position(|i| *i == id).unwrap();
    assert_eq!((place(201), place(200)), (7, 15), "every eighth is the oldest: {order:?}");
    assert_eq!(order.len(), 42);
}

#[test]
fn a_job_in_parts_is_served_in_parts() {
    let mut q = queue();
    let all = RecipientSet::from_slice(&[1, 4, 6]);
    let terms = Terms { by: Some(at(100).mono), return_late: true, priority: 2, ..Terms::default() };
    let a = q.enqueue("a", Job { recipients: all, ..with(1, terms) }, at(0).mono);
    q.enqueue("a", job(2, Wall(0)), at(0).mono);
    let first = q.take(a).unwrap();
    q.split(first, RecipientSet::from_slice(&[1, 6]), RecipientSet::One(4));
    assert_eq!((q.job(first).unwrap().recipients.as_slice(), q.job(first).unwrap().body), (&[1, 6][..], Some(1)));
    let second = q.take(a).unwrap();
    let other = q.job(second).unwrap();
    assert_eq!((other.id, other.recipients.as_slice(), other.body), (MessageId(1), &[4][..], Some(1)));
    assert_eq!(other.terms.as_deref(), Some(&terms));
    q.finished(first);
    q.put_back(second);
    q.handle_timeout(at(100));
    assert_eq!(expired(&mut q), [1]);
    assert_eq!(ids(&mut q, a), [2]);
}

#[test]
fn timers_of_finished_jobs_do_not_pile_up() {
    let mut q = queue();
    let terms = Terms { by: Some(at(1_000_000).mono), return_late: true, ..Terms::default() };
    for id in 0..50_000 {
        let a = q.enqueue("a", with(id, terms), at(0).mono);
        let key = q.take(a).unwrap();
        q.put_back(key);
        let key = q.take(a).unwrap();
        q.finished(key);
        q.audit(&mut |what, size, bound| assert!(size <= bound, "{what}: {size} of {bound}"));
    }
}

proptest! {
    #![proptest_config(cases(200))]

    /// Whatever comes in whatever order: what is taken is of the highest rank, or the oldest of all at its turn; all of it
    /// is taken, and each of a rank in its order.
    #[test]
    fn property_ranks(steps in prop::collection::vec(prop::option::weighted(0.6, -9..=9i8), 1..200)) {
        let mut q = queue();
        let mut ready: Vec<(u64, i8)> = Vec::new();
        let mut next = 0;
        let mut run = 0;
        let drain = std::iter::repeat_n(None, steps.len());
        for step in steps.iter().copied().chain(drain) {
            match step {
                Some(priority) => {
                    next += 1;
                    q.enqueue("a", ranked(next, priority), Moment(next));
                    ready.push((next, priority));
                }
                None => {
                    let Some(a) = q.find("a") else { continue };
                    let Some(key) = q.take(a) else { prop_assert!(ready.is_empty()); continue };
                    let id = q.finished(key).id.0;
                    let oldest = ready[0].0;
                    let plain = ready.iter().all(|(_, p)| *p == 0);
                    let highest = ready.iter().map(|(_, p)| *p).max().unwrap();
                    let first = ready.iter().find(|(_, p)| *p == highest).unwrap().0;
                    prop_assert!(id == first || id == oldest, "{id} of {ready:?}");
                    run = if plain || id == oldest { 0 } else { run + 1 };
                    prop_assert!(run < u32::from(limits::QUEUE_RANK_SHARE), "the oldest waits");
                    ready.retain(|(i, _)| *i != id);
                }
            }
        }
        prop_assert!(ready.is_empty());
    }
}
