//! Tenants at one destination: each gets its part, whatever the others have waiting.

#![allow(clippy::unwrap_used)]
use super::tests::{at, ids, job, queue, reply};
use super::*;
use crate::properties::cases;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn of(q: &mut Queue<u64>, tenant: &str, weight: u32, id: u64, size: u32) -> Job<u64> {
    Job { size, tenant: q.tenant(tenant, weight), ..job(id, Wall(0)) }
}

/// Who is served, in order, until nothing is left.
fn served(q: &mut Queue<u64>, dest: DestinationId, most: usize) -> Vec<String> {
    let mut order = Vec::new();
    while order.len() < most
        && let Some(key) = q.take(dest)
    {
        let tenant = q.job(key).unwrap().tenant;
        order.push(q.tenant_name(tenant).to_owned());
        q.finished(key);
    }
    order
}

#[test]
fn a_lone_message_passes_a_million() {
    let mut q = queue();
    let mut dest = None;
    for id in 0..1_000_000 {
        let one = of(&mut q, "a", 1, id, 4096);
        dest = Some(q.enqueue("x.example", one, Moment(0)));
    }
    let dest = dest.unwrap();
    assert_eq!(served(&mut q, dest, 1000), vec!["a"; 1000]);
    let lone = of(&mut q, "b", 1, 1, 4096);
    q.enqueue("x.example", lone, Moment(1));
    let order = served(&mut q, dest, 3);
    assert!(order[..2].contains(&"b".to_owned()), "{order:?}");
}

#[test]
fn a_lone_message_passes_many_tenants() {
    let mut q = queue();
    let names: Vec<String> = (0..20).map(|n| format!("t{n}")).collect();
    let mut dest = None;
    for id in 0..2000 {
        let one = of(&mut q, &names[id as usize % 20], 100, id, 4096);
        dest = Some(q.enqueue("x.example", one, Moment(0)));
    }
    let dest = dest.unwrap();
    for n in 0..30 {
        served(&mut q, dest, 20 + n % 13);
        let lone = of(&mut q, "lone", 100, 10_000 + n as u64, 4096);
        q.enqueue("x.example", lone, Moment(1));
        assert!(q.is_next_new(dest), "{n}");
        assert_eq!(served(&mut q, dest, 1), ["lone"], "{n}");
        assert!(n == 0 || !q.is_next_new(dest), "all of the others had something");
    }
}

#[test]
fn ever_new_tenants_do_not_keep_others_from_their_turns() {
    let mut q = queue();
    let mut dest = None;
    for id in 0..100 {
        let one = of(&mut q, "deep", 100, id, 4096);
        dest = Some(q.enqueue("x.example", one, Moment(0)));
    }
    let mut order = Vec::new();
    for n in 0..200 {
        let one = of(&mut q, &format!("new{n}"), 100, 1000 + n, 4096);
        q.enqueue("x.example", one, Moment(1));
        order.extend(served(&mut q, dest.unwrap(), 2));
        // So many of its own turns it has had.
        let deep = order.iter().filter(|name| *name == "deep").count();
        assert!(deep + 2 >= (n as usize).min(98), "{n}: {deep}");
    }
}

#[test]
fn a_tenant_with_mail_in_several_lanes_weighs_less_in_each() {
    let mut q = queue();
    let mut dest = None;
    for id in 0..2000 {
        let one = of(&mut q, ["here", "everywhere"][id as usize % 2], 100, id, 4096);
        dest = Some(q.enqueue("x.example", one, Moment(0)));
    }
    let dest = dest.unwrap();
    let everywhere = q.tenants_with_mail(dest, 9).0.iter().map(|(t, _)| *t).find(|t| q.tenant_name(*t) == "everywhere");
    q.set_tenant_lanes(dest, Box::new([(everywhere.unwrap(), 3)]));
    let count = |order: Vec<String>| order.iter().filter(|name| *name == "here").count();
    assert!(count(served(&mut q, dest, 400)).abs_diff(300) <= 2);
    q.set_tenant_lanes(dest, Box::default());
    assert!(count(served(&mut q, dest, 400)).abs_diff(200) <= 3);
}

#[test]
fn tenants_share_by_weight() {
    let mut q = queue();
    let mut dest = None;
    for id in 0..4000 {
        let (name, weight) = [("one", 1), ("two", 2), ("five", 5)][id as usize % 3];
        let next = of(&mut q, name, weight, id, 4096);
        dest = Some(q.enqueue("x.example", next, Moment(0)));
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in served(&mut q, dest.unwrap(), 800) {
        *counts.entry(name).or_default() += 1;
    }
    for (name, share) in [("one", 100), ("two", 200), ("five", 500)] {
        assert!(counts[name].abs_diff(share) <= 2, "{counts:?}");
    }
}

#[test]
fn large_mail_costs_more_and_mail_without_a_tenant_is_one_tenants() {
    let mut q = queue();
    let mut dest = None;
    for id in 0..300 {
        // Nobody's mail, as that from trusted networks, weighs as a tenant's without a rule.
        let large = of(&mut q, "large", limits::TENANT_WEIGHT_DEFAULT, id, 9 * (64 << 10));
        q.enqueue("x.example", large, Moment(0));
        dest = Some(q.enqueue("x.example", job(1000 + id, Wall(0)), Moment(0)));
    }
    let order = served(&mut q, dest.unwrap(), 110);
    let large = order.iter().filter(|name| *name == "large").count();
    assert!((9..=11).contains(&large), "{large} of 110");
}

#[test]
fn who_sends_one_at_a_time_gains_nothing() {
    let mut q = queue();
    let mut dest = None;
    for id in 0..2000 {
        let heavy = of(&mut q, "heavy", 9, id, 4096);
        dest = Some(q.enqueue("x.example", heavy, Moment(0)));
    }
    let dest = dest.unwrap();
    let mut light = 0;
    for turn in 0..1000 {
        if !q.tenants_ready("light", dest) {
            let next = of(&mut q, "light", 1, 5000 + turn, 4096);
            q.enqueue("x.example", next, Moment(0));
        }
        light += usize::from(served(&mut q, dest, 1) == ["light"]);
    }
    assert!((95..=105).contains(&light), "{light} of 1000, 100 by weight");
}

impl Queue<u64> {
    fn tenants_ready(&mut self, name: &str, dest: DestinationId) -> bool {
        let tenant = self.tenant(name, 1);
        let d = self.destinations.get(dest).unwrap();
        d.list(State::Fresh, FlowId { tenant, campaign: CampaignId::NONE }).len > 0
    }
}

#[test]
fn campaigns_share_what_is_their_tenants() {
    let mut q = queue();
    let mut dest = None;
    for id in 0..1000 {
        let campaign = q.campaign(["spring", "autumn", "winter"][id as usize % 3]);
        let job = Job { campaign, ..of(&mut q, "many", 1, id, 4096) };
        q.enqueue("x.example", job, Moment(0));
        let job = of(&mut q, "one", 1, 1000 + id, 4096);
        dest = Some(q.enqueue("x.example", job, Moment(0)));
    }
    let dest = dest.unwrap();
    let order = served(&mut q, dest, 200);
    assert_eq!(order.iter().filter(|name| *name == "one").count(), 100);
    // A flow that is set aside costs the others nothing, and its tenant no turn.
    let key = q.take(dest).unwrap();
    let flow = q.job(key).unwrap().flow();
    assert!(q.put_aside(key) && q.is_aside(dest, flow));
    let before = q.peek_len(dest) + q.flow_len(dest, flow);
    let rest = served(&mut q, dest, 400);
    assert_eq!((rest.len(), q.peek_len(dest) + q.flow_len(dest, flow)), (400, before - 400));
    assert!(q.let_go(dest, flow) && !q.is_aside(dest, flow));
    assert_eq!(q.peek_len(dest), before - 400);
}

#[test]
fn urgent_mail_of_a_flow_that_waits_waits_in_front_of_it() {
    let mut q = queue();
    let terms = |priority| Some(Box::new(Terms { priority, ..Terms::default() }));
    let mut dest = None;
    for (id, priority) in [(1, 0), (2, 5), (3, -5)] {
        let job = Job { terms: terms(priority), ..of(&mut q, "a", 1, id, 4096) };
        dest = Some(q.enqueue("x.example", job, Moment(0)));
    }
    let other = of(&mut q, "b", 1, 4, 4096);
    q.enqueue("x.example", other, Moment(0));
    let dest = dest.unwrap();
    // Until what is left is another's, whatever comes is put back.
    let mut met = Vec::new();
    while let Some(key) = q.take(dest) {
        let id = q.job(key).unwrap().id.0;
        met.push(id);
        if id == 4 {
            q.finished(key);
        } else {
            q.put_aside(key);
        }
    }
    met.sort_unstable();
    assert_eq!((met, q.peek_len(dest)), (vec![2, 3, 4], 0), "plain mail is not met beside urgent mail that waits");
    let key = q.take(dest);
    assert_eq!(key, None);
    let flow = FlowId { tenant: q.tenant("a", 1), campaign: CampaignId::NONE };
    q.let_go(dest, flow);
    assert_eq!(ids(&mut q, dest), [2, 1, 3]);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Come(u64, u64, i8),
    Take,
    TakeAndSetAside,
    PutBack,
    LetGo(u64, u64),
}

proptest! {
    #![proptest_config(cases(200))]

    /// Nothing is taken of a flow that is set aside, all of the others is there to be taken, and nothing is lost.
    #[test]
    fn property_what_is_set_aside_stays_until_it_is_let_go(
        steps in prop::collection::vec(prop_oneof![
            4 => (0..4u64, 0..3u64, -1..2i8).prop_map(|(t, c, p)| Step::Come(t, c, p)),
            3 => Just(Step::Take),
            2 => Just(Step::TakeAndSetAside),
            1 => Just(Step::PutBack),
            1 => (0..4u64, 0..3u64).prop_map(|(t, c)| Step::LetGo(t, c)),
        ], 1..200),
    ) {
        let mut q = queue();
        let (mut id, mut dest, mut there) = (0, None, 0_usize);
        let flow = |q: &mut Queue<u64>, t: u64, c: u64| FlowId {
            tenant: q.tenant(&format!("t{t}"), 1 + t as u32),
            campaign: if c == 0 { CampaignId::NONE } else { q.campaign(&format!("c{c}")) },
        };
        for step in steps {
            match (step, dest) {
                (Step::Come(t, c, priority), _) => {
                    id += 1;
                    let FlowId { tenant, campaign } = flow(&mut q, t, c);
                    let terms = (priority != 0).then(|| Box::new(Terms { priority, ..Terms::default() }));
                    let job = Job { tenant, campaign, terms, ..job(id, Wall(0)) };
                    dest = Some(q.enqueue("x.example", job, Moment(0)));
                    there += 1;
                }
                (Step::LetGo(t, c), Some(dest)) => {
                    let flow = flow(&mut q, t, c);
                    q.let_go(dest, flow);
                }
                (step, Some(dest)) => {
                    let available = q.peek_len(dest);
                    let Some(key) = q.take(dest) else {
                        assert_eq!(available, 0);
                        continue;
                    };
                    let job = q.job(key).unwrap();
                    let (flow, is_plain) = (job.flow(), job.terms.is_none());
                    assert!(!is_plain || !q.is_aside(dest, flow));
                    match step {
                        Step::TakeAndSetAside => assert!(q.put_aside(key) && q.is_aside(dest, flow)),
                        Step::PutBack => q.put_back(key),
                        _ => {
                            q.finished(key);
                            there -= 1;
                        }
                    }
                }
                _ => {}
            }
        }
        for (t, c) in (0..4).flat_map(|t| (0..3).map(move |c| (t, c))) {
            let flow = flow(&mut q, t, c);
            dest.map(|dest| q.let_go(dest, flow));
        }
        let left = dest.map_or(0, |dest| q.peek_len(dest));
        assert_eq!(left, there);
        assert_eq!(dest.map_or(0, |dest| served(&mut q, dest, usize::MAX).len()), there);
    }
}

proptest! {
    #![proptest_config(cases(100))]

    /// Jain's index of equal tenants with mail waiting is 0.95 or more, whatever each has, over any stretch of some length;
    /// and nothing is lost on the way through suspensions, retries and returns.
    #[test]
    fn property_equal_tenants_get_the_same(
        loads in prop::collection::vec(50..2000u64, 2..12),
        returns in prop::collection::vec(0..40u8, 0..200),
    ) {
        let mut q = queue();
        let (mut id, mut dest) = (0, None);
        for (tenant, load) in loads.iter().enumerate() {
            for _ in 0..*load {
                id += 1;
                let next = of(&mut q, &format!("t{tenant}"), 1, id, 4096);
                dest = Some(q.enqueue("x.example", next, Moment(0)));
            }
        }
        let dest = dest.unwrap();
        let mut got: BTreeMap<String, u64> = BTreeMap::new();
        let stretch = 40 * loads.len();
        let mut returns = returns.into_iter();
        for _ in 0..stretch {
            let key = q.take(dest).unwrap();
            let tenant = q.job(key).unwrap().tenant;
            match returns.next() {
                Some(0..=4) => { q.put_back(key); continue; }
                Some(5) => {
                    q.unreachable(dest, reply(at(0)), at(0), 7);
                    q.reachable(dest);
                }
                Some(6..=9) => { q.deferred(key, RecipientSet::One(0), reply(at(0)), at(0), 7); }
                _ => {}
            }
            *got.entry(q.tenant_name(tenant).to_owned()).or_default() += 1;
            if q.job(key).is_some_and(|job| job.attempts == 0) {
                q.finished(key);
            }
        }
        let sum: u64 = got.values().sum();
        let squares: u64 = got.values().map(|n| n * n).sum();
        let index = (sum * sum) as f64 / (loads.len() as u64 * squares) as f64;
        assert!(index >= 0.95, "{got:?}: {index}");
        // All the rest comes out.
        for hour in 1..200 {
            q.handle_timeout(at(hour * 3600));
            while let Some(key) = q.take(dest) {
                q.finished(key);
            }
        }
        let counts = q.counts();
        assert_eq!((counts.ready, counts.waiting, counts.in_flight), (0, 0, 0));
        assert_eq!(q.tenants.len(), 0);
    }
}

/// Sixteen jobs are taken ahead of their turn, and a letter comes in front of those; but not more often than its tenant's part is.
#[test]
fn a_letter_is_next_in_spite_of_what_is_taken_ahead() {
    for (every, least, most) in [(1, 98, 118), (10, 30, 30)] {
        let mut q = queue();
        let mut dest = None;
        for id in 0..800 {
            let one = of(&mut q, if id % 2 == 0 { "a" } else { "b" }, 100, id, 4096);
            dest = Some(q.enqueue("x.example", one, Moment(0)));
        }
        let dest = dest.unwrap();
        served(&mut q, dest, 20);
        let (mut lone, mut waits) = (0, false);
        for n in 0..300 {
            if n % every == 0 && !waits {
                let letter = of(&mut q, "lone", 100, 10_000 + n, 4096);
                q.enqueue("x.example", letter, Moment(1));
                waits = true;
            }
            assert!(every == 1 || !waits || q.brings_new(dest, 16), "{n}");
            q.brings_new(dest, 16);
            if served(&mut q, dest, 1) == ["lone"] {
                (lone, waits) = (lone + 1, false);
            }
        }
        assert!((least..=most).contains(&lone), "{lone} of 300, one each {every}");
    }
}
