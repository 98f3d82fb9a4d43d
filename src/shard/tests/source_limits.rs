//! Limits of a source address at a site: exact over all shards and domains of it, used to the full, and in nobody else's way.

use super::*;
use crate::config::{self, Machine};
use crate::message::Envelope;
use crate::planted::{Bug, plant};
use crate::shaping::{Limits, Shaping};
use crate::shard::Tables;
use crate::sim::hop::guard::Guard;
use crate::time::Moment;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// A provider of three domains, each at a host of its own, which enforces what each source keeps to; two sources of the default
/// pool, and one of the tenant `bulk`'s.
struct Limited {
    world: World,
    guard: Rc<RefCell<Guard>>,
}

impl Limited {
    fn new(seed: u64, shards: u16, site: &str, per_source: &str) -> Limited {
        let mut text = "[[pool]]\nname = \"bulk\"\ntenants = [\"bulk\"]\n".to_owned();
        for (n, pool) in [(1, "default"), (2, "default"), (3, "bulk")] {
            text += &format!("[[source]]\naddress = \"10.1.0.{n}\"\npools = [{pool:?}]\n");
        }
        let sources = config::parse("sources", &text, &Machine::default()).unwrap().config.sources;
        let config = config::Config { sources, ..super::config() };
        let rules = format!(
            "[[provider]]\nname = \"big\"\ndomains = [\"d0.test\", \"d1.test\", \"d2.test\"]\n{site}\n\
             per_source = {{ {per_source} }}\n"
        );
        let shaping = Shaping::parse(&[("rules.toml", &rules)]).unwrap();
        let of_source = shaping.source_limits_of_all().next().unwrap().1;
        let mut world =
            World::guarded(seed, shards, config, 1000, Tables { shaping: shaping.into(), ..Tables::default() });
        let mut guard = Guard::new(None, None);
        guard.of_source = of_source;
        let guard = Rc::new(RefCell::new(guard));
        for n in 0..4 {
            let address = format!("10.0.0.{}", n + 1);
            world.domain(&format!("d{n}.test"), &address);
            if n < 3 {
                world.hop(&address).guard = Some(Rc::clone(&guard));
            }
        }
        world.latency(millis(5));
        Limited { world, guard }
    }

    fn post(&mut self, n: usize, tenant: &str, to: &str) {
        let mut envelope = Envelope::default();
        envelope.set_sender(b"x@sender.test");
        if !tenant.is_empty() {
            envelope.set_account(tenant.as_bytes());
        }
        envelope.add_recipient(to.as_bytes(), to.find('@').unwrap() + 1);
        let shards = self.world.stats.len();
        self.world.inject(
            n % shards,
            &envelope,
            format!("From: a@sender.test\r\nX: {to}\r\n\r\nHello\r\n.\r\n").as_bytes(),
        );
    }

    /// Mail of the default pool to all three domains; how long it took.
    fn send(&mut self, count: usize, within: Duration) -> Duration {
        let before = self.world.now();
        for n in 0..count {
            self.post(n, "", &format!("a{n}@d{}.test", n % 3));
        }
        let all = |w: &World| begun(w, "a").values().map(Vec::len).sum::<usize>() == count;
        assert!(self.world.run_until(within, all), "{:?} of {count}", begun(&self.world, "a"));
        self.world.now().since(before)
    }

    fn refused(&self) -> usize {
        self.guard.borrow().refused.len()
    }
}

/// When messages to recipients that begin like this began, from where.
fn begun(world: &World, whose: &str) -> BTreeMap<IpAddr, Vec<Moment>> {
    let mut all: BTreeMap<IpAddr, Vec<Moment>> = BTreeMap::new();
    for received in world.received().filter(|r| r.recipients[0].starts_with(whose)) {
        all.entry(received.from).or_default().push(received.mail_at);
    }
    all.values_mut().for_each(|times| times.sort_unstable());
    all
}

#[test]
fn a_sources_limits_hold_over_shards_and_domains_and_are_used() {
    for (seed, shards, per_source, count, seconds) in [
        (1, 1, "connections = 1", 60, 60),
        (2, 3, "connections = 1", 60, 60),
        (3, 1, "connections = 1, message_rate = \"10/s\"", 100, 12),
        (4, 3, "connections = 2, message_rate = \"10/s\"", 100, 12),
        (5, 2, "message_rate = \"20/s burst 5\"", 200, 8),
        (6, 2, "connection_rate = \"1/s\"", 40, 40),
        (7, 4, "connections = 1, connection_rate = \"2/s\", message_rate = \"5/s\"", 40, 30),
    ] {
        let mut limited = Limited::new(7200 + seed, shards, "", per_source);
        let took = limited.send(count, secs(seconds));
        println!("{per_source}, {shards} shards: {took:?}");
        assert_eq!(limited.refused(), 0, "{per_source} on {shards} shards");
        let used: Vec<IpAddr> = begun(&limited.world, "a").into_keys().collect();
        assert_eq!(used, [1, 2].map(|n| IpAddr::from([10, 1, 0, n])), "{per_source} on {shards} shards");
        limited.world.run(secs(30));
        assert_at_rest(&mut limited.world);
    }
}

/// The most messages of a source that were under way at a time, from MAIL to the end of the data.
fn most_at_once(world: &World) -> BTreeMap<IpAddr, i32> {
    let mut changes: BTreeMap<IpAddr, Vec<(Moment, i32)>> = BTreeMap::new();
    for received in world.received() {
        changes.entry(received.from).or_default().extend([(received.mail_at, 1), (received.at, -1)]);
    }
    let most = |mut changes: Vec<(Moment, i32)>| {
        // What ends in a moment makes room for what begins in it.
        changes.sort_unstable();
        let mut open = 0;
        changes.into_iter().map(|(_, change)| (open += change, open).1).max().unwrap_or(0)
    };
    changes.into_iter().map(|(from, changes)| (from, most(changes))).collect()
}

/// Each message counts as 1 KiB.
#[test]
fn octets_in_flight_from_a_source_hold_over_shards_and_domains_and_are_used() {
    for (seed, shards, site, per_source, most) in [
        (1, 1, "", "bytes_in_flight = \"1KiB\"", 1),
        (2, 3, "", "bytes_in_flight = \"2KiB\"", 2),
        (3, 2, "", "bytes_in_flight = \"3KiB\", connections = 3", 3),
        (4, 2, "bytes_in_flight = \"3KiB\"", "bytes_in_flight = \"2KiB\"", 2),
        (5, 3, "message_rate = \"20/s\"", "bytes_in_flight = \"1KiB\", message_rate = \"20/s\"", 1),
    ] {
        let mut limited = Limited::new(7800 + seed, shards, site, per_source);
        limited.send(100, secs(20));
        let came = most_at_once(&limited.world);
        assert!(came.values().all(|came| *came <= most), "{site} {per_source} on {shards} shards: {came:?}");
        assert!(came.values().any(|came| *came == most), "{site} {per_source} on {shards} shards: {came:?}");
        limited.world.run(secs(30));
        assert_at_rest(&mut limited.world);
    }
    let _planted = plant(Bug::SourceOctetsUncounted);
    let mut limited = Limited::new(7806, 2, "", "bytes_in_flight = \"1KiB\"");
    limited.send(100, secs(20));
    assert!(most_at_once(&limited.world).values().any(|came| *came > 1));
}

/// A message that is larger than all that may be in flight goes alone, and does not wait for ever behind small ones.
#[test]
fn a_large_message_gets_its_turn_from_a_source() {
    let mut limited = Limited::new(7810, 2, "", "bytes_in_flight = \"4KiB\"");
    for n in 0..200 {
        limited.post(n, "", &format!("a{n}@d{}.test", n % 3));
    }
    limited.world.run(millis(20));
    let mut envelope = Envelope::default();
    envelope.set_sender(b"x@sender.test");
    envelope.add_recipient(b"large@d1.test", 6);
    limited.world.inject(0, &envelope, format!("From: a@sender.test\r\n\r\n{}.\r\n", "x\r\n".repeat(4000)).as_bytes());
    let came = |w: &World| begun(w, "large").len() == 1 && begun(w, "a").values().map(Vec::len).sum::<usize>() == 200;
    assert!(limited.world.run_until(secs(60), came), "{:?}", begun(&limited.world, "large"));
    limited.world.run(secs(30));
    assert_at_rest(&mut limited.world);
}

#[test]
fn a_sources_rate_and_its_sites_hold_both_and_the_lower_is_used() {
    for (seed, site, per_source, rate) in [
        (1, "message_rate = \"10/s\"", "message_rate = \"8/s\", connections = 2", 10),
        (2, "message_rate = \"20/s\"", "message_rate = \"4/s\"", 8),
        (3, "connections = 1\nmessage_rate = \"5/s\"", "message_rate = \"4/s\", connections = 1", 5),
    ] {
        let mut limited = Limited::new(7300 + seed, 2, site, per_source);
        let took = limited.send(60, secs(60));
        let needed = 60.0 / f64::from(rate);
        assert_eq!(limited.refused(), 0, "{site} {per_source}");
        assert!(took.as_secs_f64() < needed * 1.25 + 2.0, "{site} {per_source}: {took:?} of {needed}");
        limited.world.run(secs(30));
        assert_at_rest(&mut limited.world);
    }
}

#[test]
fn mail_of_another_pool_and_for_another_site_does_not_wait_for_a_source() {
    let mut limited = Limited::new(7400, 2, "connections = 3", "connections = 1, message_rate = \"1/s\"");
    for n in 0..40 {
        limited.post(n, "", &format!("a{n}@d{}.test", n % 3));
    }
    limited.world.run(secs(2));
    limited.post(0, "bulk", "b@d1.test");
    limited.post(1, "", "c@d3.test");
    let came = |w: &World| begun(w, "b").len() == 1 && begun(w, "c").len() == 1;
    assert!(limited.world.run_until(secs(2), came));
    assert!(limited.world.run_until(secs(40), |w| begun(w, "a").values().map(Vec::len).sum::<usize>() == 40));
    assert_eq!(limited.refused(), 0);
    limited.world.run(secs(30));
    assert_at_rest(&mut limited.world);
}

#[test]
fn limits_of_sources_that_are_not_kept_to_are_seen() {
    for (bug, per_source) in
        [(Bug::SourceConnectionsUncounted, "connections = 1"), (Bug::SourcePermitNotAsked, "message_rate = \"5/s\"")]
    {
        let _planted = plant(bug);
        let mut limited = Limited::new(7500, 2, "", per_source);
        for n in 0..40 {
            limited.post(n, "", &format!("a{n}@d{}.test", n % 3));
        }
        limited.world.run(secs(20));
        assert!(limited.refused() > 0, "{bug:?}");
    }
}

/// Each message needs a connection of its own.
#[test]
fn a_rate_of_connections_is_kept_to() {
    for bug in [None, Some(Bug::SourceStartNotAsked)] {
        let _planted = bug.map(plant);
        let mut limited = Limited::new(7700, 2, "", "connection_rate = \"1/s\", messages_per_connection = 1");
        for n in 0..40 {
            limited.post(n, "", &format!("a{n}@d{}.test", n % 3));
        }
        let all = |w: &World| begun(w, "a").values().map(Vec::len).sum::<usize>() == 40;
        assert_eq!(limited.world.run_until(secs(10), all), bug.is_some(), "{bug:?}");
        if bug.is_none() {
            assert!(limited.world.run_until(secs(15), all), "{:?}", begun(&limited.world, "a"));
        }
    }
}

#[test]
fn no_limit_is_no_limit() {
    let limits = Limits::default();
    let mut limited = Limited::new(7600, 2, "", "recipients = 100");
    assert_eq!(limited.guard.borrow().of_source, Limits { recipients: Some(100), ..limits });
    limited.send(60, secs(10));
}

/// A connection that was to end behind its first message, since another shard waits for its source: the mail there was for it goes
/// over another one, before its host has greeted.
#[test]
fn a_connection_that_others_wait_for_does_not_wait_for_mail_that_is_gone() {
    for bug in [None, Some(Bug::UnusedStays)] {
        let _planted = bug.map(plant);
        let mut limited = Limited::new(7900, 2, "", "connections = 1");
        let world = &mut limited.world;
        world.domain("slow.test", "10.0.0.9");
        world.hop("10.0.0.9").mood.delay = secs(10);
        // The second connection finds no place there, and so waits for the other host's greeting.
        world.hop("10.0.0.1").mood.max_open = Some(1);
        world.hop("10.0.0.1").mood.delay = millis(30);
        world.records.domain("d0.test", &[(10, "mx.d0.test"), (20, "mx.slow.test")]);
        for n in 0..60 {
            limited.post(n, "", &format!("a{n}@d0.test"));
        }
        limited.world.run(secs(2));
        for domain in 1..3 {
            limited.post(domain, "", &format!("b@d{domain}.test"));
        }
        let all = |w: &World| begun(w, "").values().map(Vec::len).sum::<usize>() == 62;
        let posted = limited.world.now();
        assert!(limited.world.run_until(secs(30), all));
        // The other source goes from one domain to the next meanwhile.
        let others: Vec<_> = begun(&limited.world, "b").into_values().flatten().collect();
        assert!(others.len() == 2 && others.iter().all(|at| *at < posted + secs(1)), "{others:?}");
        limited.world.run(secs(2));
        assert_eq!(limited.world.hop("10.0.0.9").open, usize::from(bug.is_some()), "{bug:?}");
    }
}

/// The same of what a source may have at a site.
#[test]
fn an_idle_connection_leaves_its_source_to_a_domain_that_has_some_and_needs_more() {
    for bug in [None, Some(Bug::PlacesNotSpared)] {
        let _planted = bug.map(plant);
        for shards in [1, 2, 3] {
            let mut limited = Limited::new(7901, shards, "", "connections = 2");
            limited.world.hop("10.0.0.1").mood.delay = millis(100);
            limited.post(0, "", "b@d1.test");
            limited.post(0, "", "b@d2.test");
            limited.world.run(secs(1));
            for n in 0..200 {
                limited.post(n, "", &format!("a{n}@d0.test"));
            }
            limited.world.run(secs(1));
            let open = [1, 2, 3].map(|host| limited.world.hop(&format!("10.0.0.{host}")).open);
            assert_eq!(open == [4, 0, 0], bug.is_none(), "{shards} shards, {bug:?}: {open:?}");
            assert_eq!(limited.refused(), 0);
        }
    }
}
