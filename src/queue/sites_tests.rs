//! Domains that share a site, leave it and come to another: whatever they do, no job is lost and each is where its domain is.

#![allow(clippy::unwrap_used)]
use super::tests::{at, ids, job, queue, reply, round};
use super::*;
use crate::properties::cases;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const LATER: Moment = Moment(u64::MAX / 2);

#[test]
fn domains_of_one_site_share_a_destination() {
    let mut q = queue();
    let a = q.enqueue("a.example", job(1, Wall(0)), Moment(0));
    let b = q.enqueue("b.example", job(2, Wall(0)), Moment(0));
    let (da, db) = (q.domain("a.example").unwrap(), q.domain("b.example").unwrap());
    assert_eq!((q.own_domain(a), q.own_domain(b)), (Some(da), Some(db)));
    // The first takes its destination along, with all that is held there.
    assert_eq!(q.bind(da, "mx.example", LATER), Some(a));
    assert_eq!((q.name(a), q.own_domain(a), q.bound_until(da)), (Some("mx.example"), None, LATER));
    assert_eq!(q.bind(db, "mx.example", LATER), Some(a));
    round(&mut q);
    q.enqueue("b.example", job(3, Wall(0)), Moment(0));
    // What had waited longer went to the front.
    assert_eq!(ids(&mut q, a), [2, 1, 3]);
    assert_eq!((q.find("b.example"), q.find("mx.example")), (Some(a), None));
    q.handle_timeout(at(1));
    assert_eq!((q.name(b), q.counts().destinations), (None, 1));
}

#[test]
fn a_domain_in_trouble_does_not_trouble_its_site() {
    let mut q = queue();
    let a = q.enqueue("a.example", job(1, Wall(0)), Moment(0));
    q.enqueue("b.example", job(2, Wall(0)), Moment(0));
    for name in ["a.example", "b.example"] {
        let domain = q.domain(name).unwrap();
        q.bind(domain, "mx.example", LATER);
    }
    let own = q.isolate(q.domain("b.example").unwrap()).unwrap();
    assert_ne!(own, a);
    q.unreachable(own, reply(at(1)), at(1), 0);
    assert_eq!((q.is_suspended(own), q.is_suspended(a), q.name(own)), (true, false, Some("b.example")));
    assert_eq!(ids(&mut q, a), [1]);
    // With the last one the site is gone, and its name is free.
    let da = q.domain("a.example").unwrap();
    let own = q.isolate(da).unwrap();
    assert_eq!((q.own_domain(own), q.name(own)), (Some(da), Some("a.example")));
    q.enqueue("c.example", job(3, Wall(0)), Moment(0));
    assert_ne!(q.bind(q.domain("c.example").unwrap(), "mx.example", LATER), Some(a));
}

#[test]
fn mail_follows_its_domain_from_a_suspended_site() {
    let mut q = queue();
    for (id, name) in (0..).zip(["a.example", "a.example", "b.example", "b.example"]) {
        q.enqueue(name, job(id, Wall(0)), Moment(0));
        q.bind(q.domain(name).unwrap(), "old.example", LATER);
    }
    let (da, db) = (q.domain("a.example").unwrap(), q.domain("b.example").unwrap());
    let old = q.find("a.example").unwrap();
    let held = q.take(old).unwrap();
    assert_eq!(q.domain_of(held), Some(db));
    q.unreachable(old, reply(at(1)), at(1), 0);
    let new = q.bind(db, "new.example", LATER).unwrap();
    assert_eq!((q.peek_len(old), ids(&mut q, new)), (2, vec![3]));
    // In the driver's hands, it goes where it belongs when it is given back.
    assert!(q.is_misplaced(held));
    q.put_back(held);
    q.bind(da, "new.example", LATER);
    assert_eq!(ids(&mut q, new), [0, 1, 2]);
}

#[derive(Clone, Debug)]
enum Step {
    Enqueue(usize),
    Bind(usize, usize),
    Isolate(usize),
    Take(usize),
    Finish(usize),
    Defer(usize),
    PutBack(usize),
    Suspend(usize),
    Reach(usize),
    Wait(u64),
}

const DOMAINS: [&str; 4] = ["a.example", "b.example", "c.example", "s1.example"];
const SITES: [&str; 3] = ["s1.example", "s2.example", "b.example"];

fn step() -> impl Strategy<Value = Step> {
    let domain = 0..DOMAINS.len();
    prop_oneof![
        6 => domain.clone().prop_map(Step::Enqueue),
        3 => (domain.clone(), 0..SITES.len()).prop_map(|(d, s)| Step::Bind(d, s)),
        1 => domain.clone().prop_map(Step::Isolate),
        6 => domain.clone().prop_map(Step::Take),
        4 => (0..8usize).prop_map(Step::Finish),
        2 => (0..8usize).prop_map(Step::Defer),
        2 => (0..8usize).prop_map(Step::PutBack),
        1 => domain.clone().prop_map(Step::Suspend),
        2 => domain.prop_map(Step::Reach),
        2 => (1..2000u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(cases(200))]

    /// However domains move: no job is lost or taken twice, and each is taken where its domain's mail waits.
    #[test]
    fn property_mail_is_where_its_domain_is(steps in prop::collection::vec(step(), 1..150)) {
        let mut q = queue();
        let mut clock = 1;
        let (mut next, mut alive) = (0, BTreeSet::new());
        let mut bound: BTreeMap<usize, usize> = BTreeMap::new();
        let mut held: Vec<JobKey> = Vec::new();
        for step in steps {
            let now = at(clock);
            match step {
                Step::Enqueue(d) => {
                    q.enqueue(DOMAINS[d], job(next, now.wall), now.mono);
                    alive.insert(next);
                    next += 1;
                }
                Step::Bind(d, s) => if let Some(domain) = q.domain(DOMAINS[d]) {
                    let dest = q.bind(domain, SITES[s], LATER);
                    bound.insert(d, s);
                    assert_eq!(dest.and_then(|d| q.name(d)), Some(SITES[s]));
                    for (other, site) in &bound {
                        let there = q.find(DOMAINS[*other]);
                        assert!(there.is_none() || (there == dest) == (*site == s), "one destination a site");
                    }
                },
                Step::Isolate(d) => if let Some(domain) = q.domain(DOMAINS[d]) {
                    let own = q.isolate(domain).unwrap();
                    bound.remove(&d);
                    assert_eq!((q.own_domain(own), q.name(own)), (Some(domain), Some(DOMAINS[d])));
                },
                Step::Take(d) => if let Some(dest) = q.find(DOMAINS[d])
                    && let Some(key) = q.take(dest)
                {
                    assert!(!q.is_misplaced(key) && !held.contains(&key));
                    assert_eq!(q.destination(q.domain_of(key).unwrap()), Some(dest));
                    held.push(key);
                },
                Step::Finish(at) if at < held.len() => {
                    let gone = q.finished(held.swap_remove(at));
                    assert!(alive.remove(&gone.id.0));
                }
                Step::Defer(at) if at < held.len() => {
                    let key = held.swap_remove(at);
                    if q.deferred(key, RecipientSet::One(0), reply(now), now, 7) == Deferral::Expired {
                        assert!(alive.remove(&q.finished(key).id.0));
                    }
                }
                Step::PutBack(at) if at < held.len() => q.put_back(held.swap_remove(at)),
                Step::Suspend(d) => if let Some(dest) = q.find(DOMAINS[d]) {
                    q.unreachable(dest, reply(now), now, 7);
                },
                Step::Reach(d) => if let Some(dest) = q.find(DOMAINS[d]) {
                    q.reachable(dest);
                },
                Step::Wait(seconds) => {
                    clock += seconds;
                    q.handle_timeout(at(clock));
                    bound.retain(|d, _| q.domain(DOMAINS[*d]).is_some());
                }
                _ => {}
            }
            while let Some(key) = q.poll_expired() {
                assert!(alive.remove(&q.finished(key).id.0));
            }
            let counts = q.counts();
            assert_eq!(counts.ready + counts.waiting + counts.in_flight, alive.len());
            assert_eq!(counts.in_flight, held.len());
            let by_site: usize = DOMAINS.iter().filter_map(|d| q.find(d)).collect::<BTreeSet<_>>().len();
            assert!(counts.destinations >= by_site);
        }
        // All of it comes out, and then nothing is left.
        for key in held {
            q.put_back(key);
        }
        let mut rounds = 0;
        while !alive.is_empty() {
            clock += 3600;
            q.handle_timeout(at(clock));
            while let Some(key) = q.poll_expired() {
                assert!(alive.remove(&q.finished(key).id.0));
            }
            for dest in round(&mut q) {
                while let Some(key) = q.take(dest) {
                    assert!(alive.remove(&q.finished(key).id.0));
                }
            }
            rounds += 1;
            assert!(rounds < 1000, "{alive:?} never came");
        }
        round(&mut q);
        for _ in 0..20 {
            clock += 3600;
            q.handle_timeout(at(clock));
            round(&mut q);
        }
        let counts = q.counts();
        assert_eq!((counts.destinations, counts.suspended), (0, 0), "all are forgotten");
        assert!(DOMAINS.iter().all(|d| q.domain(d).is_none()));
    }
}
