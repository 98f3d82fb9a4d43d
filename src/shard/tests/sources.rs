//! Source addresses: which mail goes from which, and what becomes of mail whose source a site does not want.

use super::*;
use crate::config::{self, Machine};
use crate::message::Envelope;
use crate::planted::{Bug, plant};
use crate::shard::Tables;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Two domains at hosts of their own; sources 1 and 2 of the default pool, 3 and 4 of the tenant `bulk`'s.
fn sourced(seed: u64, shards: u16) -> World {
    sourced_with(seed, shards, |_| {})
}

fn sourced_with(seed: u64, shards: u16, change: impl FnOnce(&mut config::Config)) -> World {
    let mut text = "[[pool]]\nname = \"bulk\"\ntenants = [\"bulk\"]\n".to_owned();
    for n in 1..=4 {
        let pool = if n < 3 { "default" } else { "bulk" };
        text += &format!("[[source]]\naddress = \"10.1.0.{n}\"\npools = [{pool:?}]\nweight = {}\n", n * 100);
        text += &format!("ehlo_name = \"out{n}.test\"\n");
    }
    let sources = config::parse("sources", &text, &Machine::default()).unwrap().config.sources;
    let mut config = config::Config { sources, ..super::config() };
    change(&mut config);
    let mut world = World::guarded(seed, shards, config, 1000, Tables::default());
    for n in 0..2 {
        world.domain(&format!("d{n}.test"), &format!("10.0.0.{}", n + 1));
    }
    world
}

fn post(world: &mut World, shard: usize, tenant: &str, to: &str) {
    let mut envelope = Envelope::default();
    envelope.set_sender(b"x@sender.test");
    if !tenant.is_empty() {
        envelope.set_account(tenant.as_bytes());
    }
    envelope.add_recipient(to.as_bytes(), to.find('@').unwrap() + 1);
    world.inject(shard, &envelope, format!("From: a@sender.test\r\nX: {to}\r\n\r\nHello\r\n.\r\n").as_bytes());
}

/// How many messages to recipients that begin like this came from where.
fn from(world: &World, whose: &str) -> BTreeMap<IpAddr, usize> {
    let mut from = BTreeMap::new();
    for received in world.received().filter(|r| r.recipients[0].starts_with(whose)) {
        *from.entry(received.from).or_default() += 1;
    }
    from
}

fn ip(n: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, n])
}

fn posted(world: &mut World, count: usize) {
    for n in 0..count {
        post(world, 0, "", &format!("a{n}@d{}.test", n % 2));
        post(world, 0, "bulk", &format!("b{n}@d{}.test", n % 2));
        // Most need connections of their own.
        world.run(millis(300));
    }
}

#[test]
fn each_pools_mail_goes_from_its_sources_by_their_weights() {
    for (seed, shards) in [(1, 1), (2, 3)] {
        let mut world = sourced(6100 + seed, shards);
        for n in 0..60 {
            world.run(secs(6));
            post(&mut world, n % usize::from(shards), "", &format!("a{n}@d{}.test", n % 2));
            post(&mut world, n % usize::from(shards), "bulk", &format!("b{n}@d{}.test", n % 2));
        }
        assert!(world.run_until(secs(30), |w| from(w, "a").values().sum::<usize>() == 60));
        assert!(world.run_until(secs(30), |w| from(w, "b").values().sum::<usize>() == 60));
        let (a, b) = (from(&world, "a"), from(&world, "b"));
        assert_eq!(a.keys().collect::<Vec<_>>(), [&ip(1), &ip(2)]);
        assert_eq!(b.keys().collect::<Vec<_>>(), [&ip(3), &ip(4)]);
        assert!(a[&ip(2)] > a[&ip(1)], "twice the weight: {a:?}");
        assert_at_rest(&mut world);
    }
}

#[test]
fn a_source_that_rests_sends_nothing_to_the_site_and_its_mail_goes_from_another() {
    let mut world = sourced(6103, 2);
    let site = crate::shaping::Shaping::default().site("d0.test", &mut ["mx.d0.test"].into_iter()).name.to_string();
    let until = world.now() + secs(100);
    assert!(world.rest_source(&site.as_str().into(), 1, until));
    world.run(millis(10));
    for n in 0..20 {
        post(&mut world, n % 2, "", &format!("a{n}@d0.test"));
        post(&mut world, n % 2, "", &format!("c{n}@d1.test"));
        world.run(secs(6));
        if n == 14 {
            assert_eq!(from(&world, "a").into_keys().collect::<Vec<_>>(), [ip(1)], "the other one rests");
            assert_eq!(from(&world, "c").into_keys().collect::<Vec<_>>(), [ip(1), ip(2)], "not for another site");
        }
    }
    assert!(world.run_until(secs(30), |w| from(w, "a").values().sum::<usize>() == 20));
    // Both rest: the mail waits until the first of them is back, and no longer.
    let first = world.now() + secs(60);
    assert!(world.rest_source(&site.as_str().into(), 0, first));
    let second = first + secs(440);
    assert!(world.rest_source(&site.as_str().into(), 1, second));
    world.run(millis(10));
    post(&mut world, 0, "", "late@d0.test");
    assert!(!world.run_until(secs(59), |w| !from(w, "late").is_empty()));
    assert!(world.run_until(secs(3), |w| from(w, "late").contains_key(&ip(1))));
    world.run(secs(600));
    assert_at_rest(&mut world);
}

#[test]
fn what_rests_does_so_over_crashes_and_other_numbers_of_shards() {
    for bug in [None, Some(Bug::RestsLostAtStart)] {
        let _planted = bug.map(plant);
        let mut world = sourced(6110, 3);
        let site = crate::shaping::Shaping::default().site("d0.test", &mut ["mx.d0.test"].into_iter()).name.to_string();
        let first = world.now() + secs(600);
        for source in [0, 1] {
            assert!(world.rest_source(&site.as_str().into(), source, first));
        }
        // It is on stable storage a second later.
        world.run(secs(2));
        for shards in [1, 4, 2] {
            world.crash_by(crate::rt::sim::End::PowerLost, shards);
            world.run(secs(2));
        }
        post(&mut world, 0, "", "a@d0.test");
        post(&mut world, 0, "", "c@d1.test");
        assert!(world.run_until(secs(30), |w| from(w, "c").len() == 1), "another site's mail goes");
        let early = world.run_until(first.since(world.now()) - secs(1), |w| !from(w, "a").is_empty());
        assert_eq!(early, bug.is_some(), "{bug:?}");
        if bug.is_none() {
            assert!(world.run_until(secs(5), |w| !from(w, "a").is_empty()), "and no longer than that");
            world.run(secs(600));
            assert_at_rest(&mut world);
        }
    }
}

#[test]
fn a_pool_that_is_ignored_and_a_rest_that_is_forgotten_are_seen() {
    let planted = plant(Bug::PoolIgnored);
    let mut world = sourced(6104, 1);
    posted(&mut world, 10);
    world.run(secs(30));
    assert!(from(&world, "a").keys().any(|from| *from > ip(2)));
    drop(planted);
    let _planted = plant(Bug::RestForgotten);
    let mut world = sourced(6105, 1);
    let site = crate::shaping::Shaping::default().site("d0.test", &mut ["mx.d0.test"].into_iter()).name.to_string();
    let until = world.now() + secs(1000);
    assert!(world.rest_source(&site.as_str().into(), 1, until));
    posted(&mut world, 10);
    world.run(secs(30));
    assert!(from(&world, "a").contains_key(&ip(2)));
}

/// A source of the default pool that is new today, and one that is not.
fn warming(seed: u64, shards: u16, others: bool) -> World {
    let day = jiff::Timestamp::from_millisecond(i64::try_from(crate::sim::world::WALL).unwrap()).unwrap();
    let day = day.strftime("%Y-%m-%d").to_string();
    let warmup = format!("warmup = {{ started = \"{day}\", schedule = [3] }}\n");
    let mut text = format!("[[source]]\naddress = \"10.1.0.1\"\n{warmup}");
    if others {
        text += "[[source]]\naddress = \"10.1.0.2\"\n";
    }
    let sources = config::parse("sources", &text, &Machine::default()).unwrap().config.sources;
    let mut world =
        World::guarded(seed, shards, config::Config { sources, ..super::config() }, 1000, Tables::default());
    world.domain("d0.test", "10.0.0.1");
    world
}

#[test]
fn a_warm_up_is_exact_over_shards_and_restarts_and_the_rest_goes_from_elsewhere() {
    for (seed, shards) in [(6106, 1), (6107, 3)] {
        let mut world = warming(seed, shards, true);
        for n in 0..20 {
            post(&mut world, n % usize::from(shards), "", &format!("a{n}@d0.test"));
            world.run(secs(6));
        }
        assert!(world.run_until(secs(60), |w| from(w, "a").values().sum::<usize>() == 20), "{:?}", from(&world, "a"));
        assert_eq!(from(&world, "a").get(&ip(1)), Some(&3), "{shards} shards");
        world.crash(shards);
        for n in 0..10 {
            post(&mut world, n % usize::from(shards), "", &format!("b{n}@d0.test"));
            world.run(secs(6));
        }
        assert!(world.run_until(secs(60), |w| from(w, "b").values().sum::<usize>() == 10));
        assert_eq!(from(&world, "b").get(&ip(1)), None, "a restart is no new day");
    }
}

#[test]
fn mail_that_no_source_may_send_today_goes_tomorrow() {
    let mut world = warming(6108, 2, false);
    for n in 0..5 {
        post(&mut world, n % 2, "", &format!("a{n}@d0.test"));
    }
    world.run(secs(600));
    assert_eq!(from(&world, "a").values().sum::<usize>(), 3);
    assert!(world.run_until(minutes(13 * 60), |w| from(w, "a").values().sum::<usize>() == 5));
}

#[test]
fn a_warm_up_that_is_not_counted_is_seen() {
    let _planted = plant(Bug::WarmupUncounted);
    let mut world = warming(6109, 1, true);
    for n in 0..30 {
        post(&mut world, 0, "", &format!("a{n}@d0.test"));
        world.run(secs(6));
    }
    assert!(from(&world, "a")[&ip(1)] > 3);
}

/// Mail of two pools for one domain, which gets another exchanger while mail of one of them is under way to the first: at a
/// host that takes one connection, what waits for the other pool waits for that one's end.
#[test]
fn mail_of_all_pools_learns_at_once_that_its_domain_has_other_hosts() {
    for bug in [None, Some(Bug::SiblingsNotTold)] {
        let _planted = bug.map(plant);
        let mut world = sourced_with(6120, 1, |config| config.delivery.connections_per_destination = 1);
        world.hop("10.0.0.1").mood.delay = secs(100);
        post(&mut world, 0, "bulk", "b@d0.test");
        world.run(secs(10));
        // One that nobody is sent to while the first can be reached.
        world.domain("other.test", "10.0.0.3");
        world.records.domain("d0.test", &[(10, "mx.d0.test"), (20, "mx.other.test")]);
        // By now what DNS said is over, and the message is on its way.
        world.run(secs(300));
        post(&mut world, 0, "", "a@d0.test");
        assert!(world.run_until(secs(1200), |w| w.received().count() == 2));
        assert_eq!(world.hop("10.0.0.1").received.len(), 2);
        assert_eq!(world.hop("10.0.0.1").peak, if bug.is_some() { 2 } else { 1 });
        world.run(secs(300));
        assert_at_rest(&mut world);
    }
}
