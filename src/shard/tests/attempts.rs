//! Attempts to connect beside one another (RFC 8305 §5): when the next one begins, when it does not, and what becomes of the others.

use super::*;
use crate::planted::{Bug, plant};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

const V4: [&str; 3] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
const V6: &str = "2001:db8::25";

/// d.test at one host with these addresses; no more than so many connections.
fn world(seed: u64, addresses: &[&str], connections: u32) -> World {
    let mut config = config();
    config.delivery.ipv6 = true;
    config.delivery.connections_per_destination = connections;
    let mut world = World::with(seed, 1, config, 1000);
    let v4: Vec<Ipv4Addr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
    let v6: Vec<Ipv6Addr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
    world.records.host("mx.d.test", &v4, &v6);
    world.records.domain("d.test", &[(10, "mx.d.test")]);
    addresses.iter().for_each(|address| {
        world.hop(address);
    });
    world
}

/// When the addresses were tried, in their order.
fn tried<'a>(world: &World, addresses: &[&'a str]) -> Vec<(crate::time::Moment, &'a str)> {
    let mut all: Vec<_> = addresses
        .iter()
        .flat_map(|address| world.connects(address).into_iter().map(move |at| (at, *address)))
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn where_one_address_does_not_answer_the_next_one_is_tried_soon() {
    let mut beside = 0;
    for seed in 0..12 {
        let mut world = world(6400 + seed, &V4[..2], 20);
        world.door(V4[0], Door::Silent);
        world.accept(0, &Letter::new(1, &["joe@d.test"]));
        assert!(world.run_until(secs(2), |w| !marks(w, "joe@d.test").is_empty()), "seed {seed}");
        let tried = tried(&world, &V4);
        if let [(first, one), (second, other)] = tried[..] {
            let delay = second.since(first);
            assert_eq!((one, other), (V4[0], V4[1]));
            assert!(delay >= millis(250) && delay < millis(500), "{delay:?}");
            beside += 1;
        } else {
            assert_eq!(tried.len(), 1, "the one that answers came first");
        }
        // The loser is closed and counts no more.
        world.run(secs(8));
        assert_at_rest(&mut world);
    }
    assert!(beside > 2);
}

#[test]
fn the_other_family_comes_first() {
    for seed in 0..8 {
        let addresses = [V4[0], V4[1], V4[2], V6];
        let mut world = world(6420 + seed, &addresses, 20);
        addresses.iter().for_each(|address| world.door(address, Door::Silent));
        world.accept(0, &Letter::new(1, &["joe@d.test"]));
        world.run(secs(5));
        let tried = tried(&world, &addresses);
        assert_eq!(tried.len(), 4, "{tried:?}");
        let v6 = tried.iter().position(|(_, address)| *address == V6).unwrap();
        assert!(v6 < 2, "{tried:?}");
        for pair in tried.windows(2) {
            let delay = pair[1].0.since(pair[0].0);
            assert!(delay >= millis(250) && delay < millis(500), "{delay:?}");
        }
        world.door(V4[1], Door::Open);
        assert!(world.run_until(minutes(60), |w| !marks(w, "joe@d.test").is_empty()));
        world.run(secs(60));
        assert_at_rest(&mut world);
    }
}

/// How long after the first address the second was tried, with room for one connection.
fn with_room_for_one(seed: u64) -> Duration {
    let mut world = world(seed, &V4[..2], 1);
    V4[..2].iter().for_each(|address| world.door(address, Door::Silent));
    world.accept(0, &Letter::new(1, &["joe@d.test"]));
    world.run_until(secs(40), |w| tried(w, &V4).len() > 1);
    let tried = tried(&world, &V4);
    tried[1].0.since(tried[0].0)
}

#[test]
fn there_is_no_attempt_beside_another_without_room() {
    assert!(with_room_for_one(6430) >= secs(30));
    let _planted = plant(Bug::BesideUnbounded);
    assert!(with_room_for_one(6430) < secs(1));
}

#[test]
fn a_worse_exchanger_is_not_tried_because_a_better_one_is_slow() {
    let mut world = world(6440, &[], 20);
    for (n, address) in V4[..2].iter().enumerate() {
        world.records.host(&format!("mx{n}.d.test"), &[address.parse().unwrap()], &[]);
        world.hop(address);
    }
    world.records.domain("d.test", &[(10, "mx0.d.test"), (20, "mx1.d.test")]);
    // Slower than the delay.
    world.sim.core.path(V4[0].parse().unwrap()).latency_us = (600_000, 0);
    world.accept(0, &Letter::new(1, &["joe@d.test"]));
    assert!(world.run_until(secs(20), |w| !marks(w, "joe@d.test").is_empty()));
    assert_eq!(tried(&world, &V4).iter().map(|(_, address)| *address).collect::<Vec<_>>(), [V4[0]]);
}

#[test]
fn where_the_first_to_answer_is_no_good_the_others_come_after_it() {
    for seed in 0..6 {
        let mut world = world(6450 + seed, &V4[..2], 20);
        // One is slow; the other answers at once, and says 554.
        world.sim.core.path(V4[0].parse().unwrap()).latency_us = (500_000, 0);
        world.hop(V4[1]).set(At::Greeting, Act::SayAndClose("554 no\r\n".to_owned()));
        world.accept(0, &Letter::new(1, &["joe@d.test"]));
        assert!(world.run_until(secs(20), |w| !marks(w, "joe@d.test").is_empty()), "seed {seed}");
        assert_eq!(world.said.deferred, 0);
    }
}

#[test]
fn where_none_answers_the_destination_rests_once() {
    let mut world = world(6460, &V4, 20);
    V4.iter().for_each(|address| world.door(address, Door::Silent));
    world.accept(0, &Letter::new(1, &["joe@d.test"]));
    world.run(secs(35));
    assert_eq!(tried(&world, &V4).len(), 3);
    V4.iter().for_each(|address| world.door(address, Door::Refused));
    // A refusal is an answer: what is left is tried at once.
    assert!(world.run_until(minutes(20), |w| tried(w, &V4).len() == 6));
    world.door(V4[2], Door::Open);
    assert!(world.run_until(minutes(60), |w| !marks(w, "joe@d.test").is_empty()));
    world.run(secs(60));
    assert_at_rest(&mut world);
}
