//! Places at a site that has too few of them, or enough: whose connections end for whose, and when.

use super::*;
use crate::message::Envelope;
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
    for shards in [1, 2, 3] {
        let mut world = provider(8000, shards, 20);
        for domain in 0..3 {
            post(&mut world, domain, 1);
            world.run(secs(1));
        }
        assert_eq!(open(&mut world), [1, 1, 1], "{shards} shards");
    }
}

/// Of a domain whose mail could use more connections none waits for those of others that carry nothing.
#[test]
fn an_idle_connection_ends_for_a_domain_that_has_some_and_needs_more() {
    for shards in [1, 2, 3] {
        let mut world = provider(8001, shards, 4);
        for host in 1..4 {
            world.hop(&format!("10.0.0.{host}")).mood.delay = millis(100);
        }
        post(&mut world, 1, 2);
        post(&mut world, 2, 1);
        world.run(secs(2));
        eprintln!("{shards} {:?}", open(&mut world));
        post(&mut world, 0, 200);
        for _ in 0..20 {
            world.run(millis(200));
            eprintln!("{shards} {:?}", open(&mut world));
        }
        assert_eq!(open(&mut world), [4, 0, 0], "{shards} shards");
    }
}
