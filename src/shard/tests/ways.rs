//! The ways mail can take beside the usual one: a smart host, IPv6, addresses of our own, DNS over TCP.

use super::*;
use crate::config::{Host, SmartHost};
use crate::limits;
use crate::sim::zone::Kind;
use std::net::{Ipv4Addr, Ipv6Addr};

const V6: &str = "2001:db8::1";

/// A world whose mail goes to smart.test: 10.0.5.1 and 10.0.5.2.
fn with_smart_host(seed: u64, shards: u16) -> World {
    with_connections_to_smart_host(seed, shards, limits::CONNECTIONS_PER_DESTINATION_DEFAULT)
}

fn with_connections_to_smart_host(seed: u64, shards: u16, connections: u32) -> World {
    let mut config = config();
    config.delivery.connections_per_destination = connections;
    config.delivery.smart_host = Some(SmartHost { host: Host::Name("smart.test".to_owned()), port: 25 });
    let mut world = World::with(seed, shards, config, 1000);
    world.records.host("smart.test", &[Ipv4Addr::new(10, 0, 5, 1), Ipv4Addr::new(10, 0, 5, 2)], &[]);
    world.hop("10.0.5.1");
    world.hop("10.0.5.2");
    world
}

#[test]
fn a_smart_host_gets_all_mail_and_nobody_asks_for_its_domains() {
    let mut world = with_smart_host(50, 2);
    for n in 0..20 {
        let to = [format!("x@d{n}.test"), format!("y@e{n}.test")];
        world.submit(n as usize % 2, &Letter::new(n, &[&to[0], &to[1]]));
    }
    assert!(world.run_until(secs(10), |w| w.received().map(|r| r.recipients.len()).sum::<usize>() == 40));
    assert!(world.received().all(|r| r.sender == "joe@sender.test" && !r.is_dsn()));
    assert!(world.hops().all(|(ip, hop)| hop.received.is_empty() || ip.to_string().starts_with("10.0.5.")));
    assert_at_rest(&mut world);
    assert!(world.zone().asked("smart.test", Kind::A) > 0);
    assert_eq!((world.zone().asked("smart.test", Kind::Mx), world.zone().asked("d1.test", Kind::Mx)), (0, 0));
}

/// Each shard had one at least: five shards made five connections where three were allowed.
#[test]
fn all_shards_together_keep_the_limit_of_connections_to_a_smart_host() {
    for (shards, limit) in [(1, 3), (2, 3), (4, 3), (5, 3), (4, 1), (3, 8)] {
        let mut world = with_connections_to_smart_host(53, shards, limit);
        world.latency(millis(50));
        let hosts = ["10.0.5.1", "10.0.5.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        // None is allowed: so each moment is noted, with the connections to both.
        world.sim.core.cap(hosts, 0);
        for n in 0..100 {
            let shard = n as usize % usize::from(shards);
            world.submit(shard, &Letter::new(n, &[&format!("x@d{n}.test")]));
        }
        assert!(world.run_until(minutes(5), |w| w.received().count() == 100), "{}", world.received().count());
        let at_once = world.sim.core.over_cap().iter().filter(|(_, host, ..)| hosts.contains(host));
        let most = at_once.map(|(_, _, open, _)| *open).max();
        assert_eq!(most, Some(limit as usize), "of {limit} by {shards} shards");
        assert_at_rest(&mut world);
    }
}

#[test]
fn a_smart_host_out_of_reach_keeps_mail_waiting_and_its_other_address_takes_it() {
    let mut world = with_smart_host(51, 1);
    world.door("10.0.5.1", Door::Refused);
    world.accept(0, &Letter::new(1, &["x@a.test"]));
    assert!(world.run_until(secs(5), |w| marks(w, "x@a.test").len() == 1), "the other address");
    world.run(minutes(10));
    world.door("10.0.5.2", Door::Refused);
    world.accept(0, &Letter::new(2, &["x@b.test"]));
    world.run(minutes(5));
    assert_eq!((marks(&world, "x@b.test").len(), dsns(&world).len()), (0, 0));
    world.door("10.0.5.1", Door::Open);
    assert!(world.run_until(minutes(15), |w| marks(w, "x@b.test").len() == 1));
    assert_at_rest(&mut world);
}

#[test]
fn a_refusal_of_the_smart_host_goes_back_through_the_smart_host() {
    let mut world = with_smart_host(52, 1);
    for hop in ["10.0.5.1", "10.0.5.2"] {
        world.hop(hop).reply_to("x@a.test", &["550 5.1.1 no such user"]);
    }
    world.accept(0, &Letter::new(1, &["x@a.test", "y@b.test"]));
    assert!(world.run_until(minutes(1), |w| dsns(w).len() == 1));
    assert_at_rest(&mut world);
    let dsns = dsns(&world);
    assert_eq!(dsns.iter().map(reported).collect::<Vec<_>>(), [["x@a.test"]]);
    assert_eq!(dsns[0].recipients, ["joe@sender.test"]);
    assert_eq!(marks(&world, "y@b.test"), [1]);
    assert!(world.hop("10.9.9.9").received.is_empty());
}

/// IPv6 is on; a.test has an exchanger with both kinds of address.
fn with_both_families(seed: u64, sources: &[&str]) -> World {
    let mut config = config();
    config.delivery.ipv6 = true;
    config.delivery.idle_timeout = secs(1);
    config.delivery.source_addresses = sources.iter().map(|source| source.parse().unwrap()).collect();
    let mut world = World::with(seed, 1, config, 1000);
    world.domain("a.test", "10.0.0.1");
    world.domain("six.test", V6);
    world.records.host("mx.a.test", &["10.0.0.1".parse().unwrap()], &[V6.parse::<Ipv6Addr>().unwrap()]);
    world
}

#[test]
fn mail_goes_by_ipv6_and_by_ipv4_if_that_way_is_closed() {
    let mut world = with_both_families(53, &[]);
    world.accept(0, &Letter::new(1, &["x@six.test"]));
    assert!(world.run_until(secs(5), |w| marks(w, "x@six.test").len() == 1));
    assert_eq!(world.hop(V6).received.len(), 1);
    for (mark, closed, open) in [(2, V6, "10.0.0.1"), (3, "10.0.0.1", V6)] {
        // Whoever has both is reached while one of them answers.
        for door in [Door::Refused, Door::Silent] {
            world.run(minutes(10));
            world.door(closed, door);
            let before = world.hop(open).received.len();
            world.accept(0, &Letter::new(mark, &["x@a.test"]));
            let soon = if door == Door::Silent { limits::CONNECT_TIMEOUT_DEFAULT + secs(5) } else { secs(5) };
            let open: IpAddr = open.parse().unwrap();
            let went = |w: &World| w.hops().any(|(ip, hop)| ip == open && hop.received.len() > before);
            assert!(world.run_until(soon, went), "{closed} {door:?}");
            world.door(closed, Door::Open);
        }
    }
    world.run(minutes(2));
    assert_at_rest(&mut world);
    assert_eq!(dsns(&world).len(), 0);
}

#[test]
fn connections_come_from_the_source_address_of_their_family() {
    let mut world = with_both_families(54, &["192.0.2.7", "2001:db8::7"]);
    world.domain("four.test", "10.0.0.2");
    world.accept(0, &Letter::new(1, &["x@four.test", "y@six.test"]));
    assert!(world.run_until(secs(5), |w| w.received().count() == 2));
    for (hop, source) in [("10.0.0.2", "192.0.2.7"), (V6, "2001:db8::7")] {
        assert_eq!(world.hop(hop).received[0].from, source.parse::<IpAddr>().unwrap());
    }
    assert_at_rest(&mut world);
}

#[test]
fn a_source_address_that_is_not_ours_puts_mail_off_and_does_not_storm() {
    let mut world = with_both_families(55, &["192.0.2.7"]);
    world.domain("b.test", "10.0.0.2");
    // DNS knows; no connection is left.
    world.accept(0, &Letter::new(1, &["x@a.test", "y@b.test"]));
    assert!(world.run_until(secs(5), |w| w.received().count() == 2));
    world.run(secs(10));
    // One address fails for want of something of ours: the other is tried at once.
    world.sim.core.refuse_local(1);
    world.accept(0, &Letter::new(2, &["x@a.test"]));
    assert!(world.run_until(secs(1), |w| marks(w, "x@a.test").len() == 2));
    world.run(secs(10));
    // All fail: later, and nobody is blamed for it.
    world.sim.core.refuse_local(u32::MAX);
    let (connects, turns) = (world.connects("10.0.0.2").len(), world.sim.core.counts.turns);
    world.accept(0, &Letter::new(3, &["y@b.test"]));
    world.run(limits::LOCAL_PAUSE * 5);
    assert_eq!((marks(&world, "y@b.test"), dsns(&world).len()), (vec![1], 0));
    assert!(world.sim.core.counts.turns - turns < 2000, "{}", world.sim.core.counts.turns - turns);
    world.sim.core.refuse_local(0);
    assert!(world.run_until(limits::LOCAL_PAUSE + secs(1), |w| marks(w, "y@b.test").len() == 2));
    assert_eq!(world.connects("10.0.0.2").len(), connects + 1);
    world.run(secs(10));
    assert_at_rest(&mut world);
}

#[test]
fn answers_that_do_not_fit_a_datagram_are_asked_for_over_tcp() {
    let mut world = World::new(56);
    world.domain("a.test", "10.0.0.1");
    world.zone().set_domain_mood("a.test", DnsMood::Truncated);
    world.accept(0, &Letter::new(1, &["x@a.test"]));
    assert!(world.run_until(secs(5), |w| marks(w, "x@a.test") == [1]));
    assert_at_rest(&mut world);
    let (tally, open) = (world.zone().tally, world.zone().open());
    assert!(tally.tcp >= 2 && tally.connections >= 1 && tally.truncated >= 2, "{tally:?}");
    assert_eq!(open, 0);
}

#[test]
fn a_server_whose_tcp_fails_puts_mail_off_and_leaves_no_sockets() {
    for mood in [DnsMood::TruncatedNoTcp, DnsMood::TcpCloses, DnsMood::TcpStalls] {
        let mut world = World::new(57);
        world.domain("a.test", "10.0.0.1");
        world.zone().set_domain_mood("a.test", mood);
        for n in 0..10 {
            world.submit(0, &Letter::new(n, &["x@a.test"]));
        }
        world.run(minutes(3));
        assert!(world.zone().tally.connections > 0 && dsns(&world).is_empty(), "{mood:?}");
        assert!(world.zone().tally.connections < 100, "{mood:?}: {:?}", world.zone().tally);
        world.zone().calm();
        assert!(world.run_until(minutes(15), |w| marks(w, "x@a.test").len() == 10), "{mood:?}");
        assert_at_rest(&mut world);
    }
}
