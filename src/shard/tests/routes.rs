//! Routes of single domains, and the fallback relay.

use super::*;
use crate::config::{Config, Host, SmartHost};
use crate::route::RouteTable;
use crate::shard::Tables;
use crate::shard::mailbox::Control;
use crate::sim::zone::Kind;
use std::net::Ipv4Addr;
use std::sync::Arc;

fn tables(text: &str) -> Tables {
    let routes = RouteTable::parse("routes.toml", text).unwrap();
    Tables { routes, ..Tables::default() }
}

fn routed(seed: u64, shards: u16, text: &str) -> World {
    let mut config = config();
    config.delivery.idle_timeout = secs(1);
    with_config(seed, shards, config, text)
}

fn with_config(seed: u64, shards: u16, config: Config, text: &str) -> World {
    let mut world = World::guarded(seed, shards, config, 1000, tables(text));
    for (name, address) in [("smart.test", [10, 0, 5, 1]), ("other.test", [10, 0, 5, 2])] {
        world.records.host(name, &[Ipv4Addr::from(address)], &[]);
        world.hop(&Ipv4Addr::from(address).to_string());
    }
    world.domain("a.test", "10.0.0.1");
    world.domain("b.test", "10.0.0.2");
    world
}

fn reload(world: &mut World, text: &str) {
    world.control(Control::Tables(Arc::new(tables(text))));
}

/// How many messages a hop has.
fn taken(world: &mut World, hop: &str) -> usize {
    world.hop(hop).received.len()
}

const TO_SMART: &str = "[[route]]\ndomains = [\"*.smart.example\", \"a.test\"]\nto = \"smart_host:smart.test:25\"\n";

#[test]
fn domains_with_a_smart_host_go_there_and_nobody_asks_for_their_exchangers() {
    let mut world = routed(60, 2, TO_SMART);
    for n in 0..10 {
        let to = [format!("x@d{n}.smart.example"), "y@a.test".to_owned(), "z@b.test".to_owned()];
        world.submit(n as usize % 2, &Letter::new(n, &[&to[0], &to[1], &to[2]]));
    }
    let all = |w: &World| w.received().map(|r| r.recipients.len()).sum::<usize>() == 30;
    assert!(world.run_until(secs(20), all), "{}", world.received().count());
    assert_at_rest(&mut world);
    let to_b = world.hop("10.0.0.2").received.len();
    assert_eq!((taken(&mut world, "10.0.0.1"), to_b), (0, 10));
    assert_eq!(taken(&mut world, "10.0.5.1"), 20);
    assert!(world.zone().asked("smart.test", Kind::A) > 0);
    assert_eq!((world.zone().asked("smart.test", Kind::Mx), world.zone().asked("a.test", Kind::Mx)), (0, 0));
}

#[test]
fn hosts_get_connections_by_their_weights_and_take_over_for_each_other() {
    let hosts = "[[route]]\ndomains = [\"a.test\"]\nhosts = [{ host = \"smart.test:25\", weight = 9 }, { host = \"10.0.5.2:25\" }]\n";
    let mut world = routed(61, 1, hosts);
    for n in 0..100 {
        world.accept(0, &Letter::new(n, &["x@a.test"]));
        world.run(secs(3));
    }
    let (heavy, light) = (taken(&mut world, "10.0.5.1"), taken(&mut world, "10.0.5.2"));
    assert!(heavy + light == 100 && heavy > 3 * light && light > 0, "{heavy} and {light}");
    world.door("10.0.5.1", Door::Refused);
    for n in 100..110 {
        world.accept(0, &Letter::new(n, &["x@a.test"]));
        world.run(secs(3));
    }
    assert_eq!(taken(&mut world, "10.0.5.2"), light + 10);
    assert_at_rest(&mut world);
}

#[test]
fn discarded_mail_is_taken_and_goes_nowhere() {
    let mut world = routed(62, 2, "[[route]]\ndomains = [\"*.void.test\"]\nto = \"discard\"\n");
    for n in 0..20 {
        world.submit(n as usize % 2, &Letter::new(n, &[&format!("x@d{n}.void.test"), "y@b.test"]));
    }
    assert!(world.run_until(secs(20), |w| w.received().count() == 20));
    assert_at_rest(&mut world);
    assert!(world.received().all(|r| r.recipients == ["y@b.test"]), "and nobody is told");
}

#[test]
fn a_refused_domain_is_refused_at_rcpt_and_returned_where_it_slipped_in() {
    let no = "[[route]]\ndomains = [\"no.test\"]\nto = \"reject\"\nreply = \"We do not write to them\"\n";
    let mut world = routed(63, 1, "");
    world.door("10.0.0.1", Door::Refused);
    // Taken before the route was there.
    world.domain("no.test", "10.0.0.9");
    world.door("10.0.0.9", Door::Refused);
    world.accept(0, &Letter::new(1, &["x@no.test"]));
    world.run(minutes(1));
    reload(&mut world, no);
    assert!(world.run_until(minutes(1), |w| dsns(w).len() == 1));
    let told = dsns(&world)[0].text();
    assert!(told.contains("5.7.1") && told.contains("We do not write to them"), "{told}");
    let client = world.connect(0);
    let envelope = b"HELO c.test\r\nMAIL FROM:<joe@sender.test>\r\nRCPT TO:<x@No.test>\r\n";
    assert_eq!(world.ask(client, envelope, 4).as_deref(), Some("550 5.7.1 We do not write to them"));
    assert!(world.ask(client, b"RCPT TO:<x@b.test>\r\n", 1).unwrap().starts_with("250 "));
}

#[test]
fn held_mail_waits_until_the_route_is_gone() {
    let mut world = routed(64, 2, "[[route]]\ndomains = [\"a.test\"]\nto = \"hold\"\n");
    for n in 0..10 {
        world.submit(n as usize % 2, &Letter::new(n, &["x@a.test", "y@b.test"]));
    }
    world.run(minutes(200));
    assert_eq!((taken(&mut world, "10.0.0.1"), taken(&mut world, "10.0.0.2")), (0, 10));
    assert!(dsns(&world).is_empty());
    reload(&mut world, "");
    assert!(world.run_until(secs(5), |w| w.received().count() == 20));
    assert_at_rest(&mut world);
    // And the other way: mail to a domain that has been bound to a site is held from the reload on.
    reload(&mut world, "[[route]]\ndomains = [\"*\"]\nto = \"hold\"\n");
    world.accept(0, &Letter::new(10, &["x@a.test"]));
    world.run(minutes(10));
    assert_eq!(world.received().count(), 20);
    reload(&mut world, TO_SMART);
    assert!(world.run_until(secs(5), |w| w.received().count() == 21));
    assert_eq!(taken(&mut world, "10.0.5.1"), 1);
    assert_at_rest(&mut world);
}

#[test]
fn mail_out_of_reach_goes_by_the_fallback_relay_and_comes_back() {
    let mut config = config();
    config.delivery.fallback_relay = Some(SmartHost { host: Host::Name("smart.test".to_owned()), port: 25 });
    config.delivery.fallback_after = minutes(30);
    let mut world = with_config(65, 2, config, "");
    world.door("10.0.0.1", Door::Refused);
    for n in 0..10 {
        world.submit(n as usize % 2, &Letter::new(n, &["x@a.test"]));
    }
    world.run(minutes(29));
    assert_eq!(world.received().count(), 0);
    assert!(world.run_until(minutes(90), |w| w.received().count() == 10), "{}", world.received().count());
    assert_eq!(taken(&mut world, "10.0.5.1"), 10);
    // There for a while, also for new mail; and then its own hosts again.
    world.door("10.0.0.1", Door::Open);
    world.accept(0, &Letter::new(20, &["x@a.test"]));
    world.run(secs(5));
    assert_eq!((taken(&mut world, "10.0.5.1"), taken(&mut world, "10.0.0.1")), (11, 0));
    world.run(minutes(31));
    world.accept(0, &Letter::new(21, &["x@a.test"]));
    world.run(secs(5));
    assert_eq!((taken(&mut world, "10.0.5.1"), taken(&mut world, "10.0.0.1")), (11, 1));
    assert_at_rest(&mut world);
}

#[test]
fn a_domain_may_go_to_an_lmtp_server_and_its_sender_hears_that_it_is_delivered() {
    let mut world = routed(66, 1, "[[route]]\ndomains = [\"a.test\"]\nto = \"lmtp:10.0.6.1:24\"\n");
    let server = world.lmtp("10.0.6.1");
    for n in 0..3 {
        world.accept(0, &Letter::new(n, &["x@a.test", "y@b.test"]));
    }
    assert!(world.run_until(secs(20), |w| server.mailbox("x@a.test").len() == 3 && w.received().count() == 3));
    assert_at_rest(&mut world);
    assert_eq!((taken(&mut world, "10.0.0.1"), taken(&mut world, "10.0.0.2")), (0, 3));
}

/// A name that is nobody's is a mistake in the file: mail waits for it to be mended, and is not returned.
#[test]
fn hosts_without_an_address_keep_mail_waiting_until_they_have_one() {
    let mut world = routed(67, 1, "[[route]]\ndomains = [\"a.test\"]\nto = \"smart_host:nowhere.test:25\"\n");
    world.accept(0, &Letter::new(1, &["x@a.test"]));
    world.run(minutes(60));
    assert_eq!((world.received().count(), world.queued()), (0, 1));
    world.records.host("nowhere.test", &[Ipv4Addr::new(10, 0, 5, 2)], &[]);
    assert!(world.run_until(minutes(120), |w| w.received().count() == 1));
    assert_eq!(taken(&mut world, "10.0.5.2"), 1);
    assert_at_rest(&mut world);
}

#[test]
fn mail_that_a_named_host_refuses_for_want_of_a_login_waits_for_the_operator() {
    for (at, reply) in [
        (At::Mail, "530 5.7.0 Authentication required"),
        (At::Mail, "535 5.7.8 Authentication credentials invalid"),
        (At::Rcpt, "530 5.7.1 Client was not authenticated"),
    ] {
        let mut world = routed(66, 1, TO_SMART);
        world.hop("10.0.5.1").mood.acts = vec![(at, 1000, Act::Say(format!("{reply}\r\n")))];
        for n in 0..5 {
            world.submit(0, &Letter::new(n, &["x@a.test"]));
        }
        world.run(minutes(20));
        assert_eq!((dsns(&world).len(), taken(&mut world, "10.0.5.1")), (0, 0), "{reply}");
        // Not once for each message.
        assert!(world.connects("10.0.5.1").len() <= 12, "{reply}: {}", world.connects("10.0.5.1").len());
        world.hop("10.0.5.1").mood.acts.clear();
        assert!(world.run_until(minutes(120), |w| w.received().count() == 5), "{reply}");
        assert_at_rest(&mut world);
    }
    // What DNS has named is believed.
    let mut world = routed(67, 1, TO_SMART);
    world.hop("10.0.0.2").mood.acts = vec![(At::Mail, 1000, Act::Say("530 5.7.0 no\r\n".to_owned()))];
    world.submit(0, &Letter::new(1, &["x@b.test"]));
    assert!(world.run_until(minutes(5), |w| dsns(w).len() == 1));
}
