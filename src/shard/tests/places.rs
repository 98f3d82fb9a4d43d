//! Places at a site that has too few of them, or enough: whose connections end for whose, and when.

use super::*;
use crate::message::Envelope;
use crate::planted::{Bug, plant};
use crate::shaping::Shaping;
use crate::shard::Tables;

/// A provider of three domains, each at a host of its own, that takes so many connections.
fn provider(seed: u64, shards: u16, connections: u32) -> World {
    let rules = format!(
        "[[provider]]\nname = \"big\"\ndomains = [\"d0.test\", \"d1.test\", \"d2.test\"]\nconnections = {connections}\n"
    );
    let shaping = Shaping::parse(&[("rules.toml", &rules)]).unwrap();
    let mut world =
        World::guarded(seed, shards, super::config(), 1000, Tables { shaping: shaping.into(), ..Tables::default() });
    for n in 0..3 {
        world.domain(&format!("d{n}.test"), &format!("10.0.0.{}", n + 1));
    }
    world.latency(millis(5));
    world
}

fn post(world: &mut World, domain: usize, count: usize) {
    for n in 0..count {
        let to = format!("a{n}@d{domain}.test");
        let mut envelope = Envelope::default();
        envelope.set_sender(b"x@sender.test");
        envelope.add_recipient(to.as_bytes(), to.find('@').unwrap() + 1);
        let shards = world.stats.len();
        world.inject(n % shards, &envelope, b"From: a@sender.test\r\n\r\nHello\r\n.\r\n");
    }
}

fn open(world: &mut World) -> [usize; 3] {
    [1, 2, 3].map(|host| world.hop(&format!("10.0.0.{host}")).open)
}

#[test]
fn where_there_is_room_an_idle_connection_stays() {
    let stay = |shards| {
        let mut world = provider(8000, shards, 20);
        for domain in 0..3 {
            post(&mut world, domain, 1);
            world.run(secs(1));
        }
        open(&mut world) == [1, 1, 1]
    };
    assert_eq!([1, 2, 3].map(stay), [true; 3]);
    let _planted = plant(Bug::AsksTooEarly);
    assert!(!stay(1));
}

/// None of a domain's mail that could use more connections waits for those of others that carry nothing, here or on other shards.
#[test]
fn an_idle_connection_ends_for_a_domain_that_has_some_and_needs_more() {
    for bug in [None, Some(Bug::PlacesNotSpared)] {
        let _planted = bug.map(plant);
        for shards in [1, 2, 3] {
            let mut world = provider(8001, shards, 4);
            world.hop("10.0.0.1").mood.delay = millis(100);
            post(&mut world, 1, 1);
            post(&mut world, 2, 1);
            world.run(secs(1));
            assert_eq!(open(&mut world), [0, 1, 1]);
            post(&mut world, 0, 200);
            world.run(secs(1));
            let idle = usize::from(bug.is_some());
            assert_eq!(open(&mut world), [4 - 2 * idle, idle, idle], "{shards} shards, {bug:?}");
        }
    }
}
