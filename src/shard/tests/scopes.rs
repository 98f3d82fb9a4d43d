//! Limits of tenants, of tenants at a site, of campaigns, and of octets: exact over all shards, used to the full, and in
//! nobody else's way.

use super::*;
use crate::message::Envelope;
use crate::planted::{Bug, plant};
use crate::shaping::{Pace, Rate, Shaping};
use crate::shard::Tables;
use crate::shard::mailbox::Control;
use crate::time::Moment;
use std::sync::Arc;

fn tables(rules: &str) -> Tables {
    let shaping = Shaping::parse(&[("rules.toml", rules)]).unwrap();
    Tables { shaping: shaping.into(), ..Tables::default() }
}

/// Ten domains at ten hosts, and a provider.
fn limited(seed: u64, shards: u16, rules: &str) -> World {
    let rules = format!("[[provider]]\nname = \"big\"\ndomains = [\"d0.test\", \"d1.test\"]\n{rules}");
    let mut world = World::guarded(seed, shards, config(), 1000, tables(&rules));
    for n in 0..10 {
        world.domain(&format!("d{n}.test"), &format!("10.0.0.{}", n + 1));
    }
    world.latency(millis(5));
    world
}

/// A message of a tenant (nobody's if it is empty) and a campaign; its sender says whose.
fn post(world: &mut World, shard: usize, (tenant, campaign): (&str, &str), to: &str, size: usize) {
    let mut envelope = Envelope::default();
    let sender = format!("{tenant}+{campaign}@sender.test");
    envelope.set_sender(sender.as_bytes());
    if !tenant.is_empty() {
        envelope.set_account(tenant.as_bytes());
    }
    if !campaign.is_empty() {
        envelope.set_campaign(campaign.as_bytes());
    }
    envelope.add_recipient(to.as_bytes(), to.find('@').unwrap() + 1);
    let mut body = format!("From: a@sender.test\r\nX: {to}\r\n\r\n");
    while body.len() + 3 < size {
        body += &"x".repeat(70.min(size - body.len() - 2));
        body += "\r\n";
    }
    body += ".\r\n";
    world.inject(shard, &envelope, body.as_bytes());
}

/// When messages of a tenant and campaign began, as their receivers saw it.
fn begun(world: &World, whose: &str) -> Vec<Moment> {
    let mut all: Vec<Moment> = world.received().filter(|r| r.sender.starts_with(whose)).map(|r| r.mail_at).collect();
    all.sort_unstable();
    all
}

fn assert_within(rate: &str, begun: &[Moment]) {
    let rate: Rate = rate.parse().unwrap();
    let mut pace = Pace::default();
    for at in begun {
        assert!(pace.take(rate, *at), "{rate} at {at:?}: {begun:?}");
    }
}

#[test]
fn a_tenants_rate_holds_over_all_destinations_and_is_used_and_in_nobodys_way() {
    for (seed, shards, rate, count) in
        [(1, 1, "10/s", 100), (2, 3, "10/s", 100), (3, 4, "50/s burst 5", 500), (4, 2, "1/s", 12)]
    {
        let mut world =
            limited(5100 + seed, shards, &format!("[[tenant]]\nname = \"acme\"\nmessage_rate = \"{rate}\"\n"));
        let before = world.now();
        for n in 0..count {
            let to = format!("x{n}@d{}.test", n % 10);
            post(&mut world, n % usize::from(shards), ("acme", ""), &to, 200);
        }
        for n in 0..20 {
            post(&mut world, n % usize::from(shards), ("other", ""), &format!("y{n}@d{}.test", n % 10), 200);
            post(&mut world, n % usize::from(shards), ("", ""), &format!("z{n}@d{}.test", n % 10), 200);
        }
        let others = |w: &World| begun(w, "other").len() == 20 && begun(w, "+").len() == 20;
        assert!(world.run_until(secs(2), others), "{shards} shards: others wait for it");
        let parsed: Rate = rate.parse().unwrap();
        let needed = parsed.interval() * u32::try_from(count).unwrap();
        assert!(
            world.run_until(needed.mul_f64(1.05) + secs(1), |w| begun(w, "acme").len() == count),
            "{rate} on {shards} shards: {} of {count}, in {:?}",
            begun(&world, "acme").len(),
            world.now().since(before)
        );
        assert_within(rate, &begun(&world, "acme"));
        assert_at_rest(&mut world);
    }
}

#[test]
fn a_tenant_at_a_site_and_a_campaign_wait_for_themselves_alone() {
    let rules = "[[tenant]]\nname = \"acme\"\nat = { big = { message_rate = \"2/s\" } }\n\
                 [[campaign]]\nname = \"spring\"\nmessage_rate = \"5/s\"\n";
    let mut world = limited(5200, 2, rules);
    for n in 0..10 {
        // The provider has two domains, each at a host of its own.
        post(&mut world, n % 2, ("acme", ""), &format!("x{n}@d{}.test", n % 2), 200);
        post(&mut world, n % 2, ("acme", "autumn"), &format!("y{n}@d{}.test", 2 + n % 3), 200);
        post(&mut world, n % 2, ("other", "spring"), &format!("z{n}@d{}.test", n % 5), 200);
        post(&mut world, n % 2, ("third", "spring"), &format!("z{n}@d{}.test", n % 5), 200);
    }
    let all = |w: &World, whose: &str| begun(w, whose).len() == 10;
    assert!(world.run_until(secs(2), |w| all(w, "acme+autumn")));
    assert!(begun(&world, "acme+@").len() < 8 && begun(&world, "other+").len() < 8);
    assert!(world.run_until(secs(5), |w| all(w, "acme+@") && all(w, "other+") && all(w, "third+")));
    assert_within("2/s", &begun(&world, "acme+@"));
    let mut spring = [begun(&world, "other+"), begun(&world, "third+")].concat();
    spring.sort_unstable();
    assert_within("5/s", &spring);
    assert_at_rest(&mut world);
}

/// A receiver has had enough of a tenant, as a rule says. How much of its mail, and of another's, came within 30 s; and whether
/// all did once the rest was over.
fn after_a_word_about_acme(seed: u64) -> (usize, usize, bool) {
    let rules = "[[reply]]\nname = \"enough\"\ntext = \"enough of acme\"\naction = \"suspend\"\nwhat = \"tenant\"\nfor = \"60s\"\n";
    let mut world = limited(seed, 2, rules);
    world.hop("10.0.0.3").reply_to("first@d2.test", &["451 4.7.1 enough of acme"]);
    post(&mut world, 0, ("acme", ""), "first@d2.test", 200);
    world.run(secs(2));
    for n in 0..10 {
        post(&mut world, n % 2, ("acme", "later"), &format!("x{n}@d2.test"), 200);
        post(&mut world, n % 2, ("acme", "elsewhere"), &format!("x{n}@d3.test"), 200);
        post(&mut world, n % 2, ("other", ""), &format!("y{n}@d2.test"), 200);
    }
    world.run(secs(30));
    assert_eq!(begun(&world, "acme+elsewhere").len(), 10, "it rests at one site");
    let (acme, other) = (begun(&world, "acme+later").len(), begun(&world, "other").len());
    let all = world.run_until(secs(60), |w| begun(w, "acme+later").len() == 10);
    (acme, other, all)
}

#[test]
fn a_tenant_rests_at_a_site_for_as_long_as_a_rule_says_and_alone() {
    assert_eq!(after_a_word_about_acme(5250), (0, 10, true));
    let _planted = plant(Bug::TenantRestIgnored);
    assert_eq!(after_a_word_about_acme(5250).0, 10, "the bug is seen");
}

/// What was under way at a time, at the most: messages, and octets of several.
fn most_under_way(world: &World, whose: &str) -> (usize, usize) {
    let mut changes = Vec::new();
    for received in world.received().filter(|r| r.sender.starts_with(whose)) {
        let octets = received.data.len();
        changes.extend([(received.mail_at, 1, octets), (received.at, -1, octets)]);
    }
    changes.sort_unstable();
    let (mut most, mut count, mut sum) = ((0, 0), 0_usize, 0_usize);
    for (_, by, octets) in changes {
        (count, sum) = if by > 0 { (count + 1, sum + octets) } else { (count - 1, sum - octets) };
        most = (most.0.max(count), if count > 1 { most.1.max(sum) } else { most.1 });
    }
    most
}

/// A receiver has said that so much at a time is too much. How many messages of 1 KiB were under way there in the minute for
/// which a rule lowers it, at the most, and behind it.
fn after_a_word_about_octets(seed: u64, usual: &str) -> (usize, usize) {
    let rules = "[[reply]]\nname = \"less\"\ntext = \"too much\"\naction = \"lower\"\nto = { bytes_in_flight = \"2KiB\" }\n\
                 for = \"60s\"\n";
    let mut world = limited(seed, 3, &format!("{rules}{usual}"));
    world.hop("10.0.0.3").reply_to("first@d2.test", &["451 4.7.1 too much at a time"]);
    post(&mut world, 0, ("", "first"), "first@d2.test", 200);
    world.run(secs(2));
    let mut send = |whose: &str| {
        for n in 0..90 {
            post(&mut world, n % 3, ("", whose), &format!("x{n}@d2.test"), 200);
            post(&mut world, n % 3, ("", "elsewhere"), &format!("x{n}@d3.test"), 200);
        }
        assert!(world.run_until(secs(30), |w| begun(w, &format!("+{whose}")).len() == 90), "{whose}");
        let most = most_under_way(&world, &format!("+{whose}")).0;
        world.run(secs(60));
        most
    };
    let most = (send("now"), send("later"));
    assert!(most_under_way(&world, "+elsewhere").0 > 4, "it is one site that is lowered");
    assert!(world.run_until(secs(7200), |w| begun(w, "+first").len() == 1));
    world.run(secs(30));
    assert_at_rest(&mut world);
    most
}

#[test]
fn octets_in_flight_are_lower_over_all_shards_for_as_long_as_a_rule_says() {
    let (now, later) = after_a_word_about_octets(5260, "");
    assert!(now == 2 && later > 4, "{now} {later}");
    let (now, later) = after_a_word_about_octets(5261, "[default]\nbytes_in_flight = \"7KiB\"\n");
    assert!(now == 2 && (3..=7).contains(&later), "{now} {later}");
    let _planted = plant(Bug::LoweringForgotten);
    assert!(after_a_word_about_octets(5260, "").0 > 2, "the bug is seen");
}

#[test]
fn transactions_and_octets_of_a_tenant_are_counted_over_all_shards() {
    let rules =
        "[[tenant]]\nname = \"acme\"\nconnections = 3\n[[tenant]]\nname = \"other\"\nbytes_in_flight = \"20KiB\"\n";
    let mut world = limited(5300, 3, rules);
    for n in 0..60 {
        let to = format!("x{n}@d{}.test", n % 10);
        post(&mut world, n % 3, ("acme", ""), &to, 500);
        // One of them is larger than what is allowed: it goes, alone.
        post(&mut world, n % 3, ("other", ""), &to, if n == 20 { 30_000 } else { 6000 });
        post(&mut world, n % 3, ("third", ""), &to, 500);
    }
    assert!(world.run_until(secs(20), |w| w.received().count() == 180), "{}", world.received().count());
    assert!(most_under_way(&world, "third").0 > 3);
    let ((acme, _), (_, other)) = (most_under_way(&world, "acme"), most_under_way(&world, "other"));
    assert!((2..=3).contains(&acme), "{acme}");
    assert!((10_000..=20 << 10).contains(&other), "{other}");
    assert_at_rest(&mut world);
}

#[test]
fn octets_of_a_site_and_recipients_of_a_campaign() {
    let rules = "bytes_in_flight = \"20KiB\"\n[[campaign]]\nname = \"*\"\nrecipients = 2\n";
    let mut world = limited(5400, 2, rules);
    for n in 0..30 {
        post(&mut world, n % 2, ("", ""), &format!("x{n}@d{}.test", n % 2), 9000);
    }
    let mut envelope = Envelope::default();
    envelope.set_sender(b"five@sender.test");
    envelope.set_campaign(b"spring");
    for n in 0..5 {
        envelope.add_recipient(format!("y{n}@d5.test").as_bytes(), 3);
    }
    world.inject(0, &envelope, b"A: b\r\n\r\n.\r\n");
    assert!(world.run_until(secs(20), |w| w.received().count() == 33), "{}", world.received().count());
    let most = world.received().filter(|r| r.sender.starts_with("five")).map(|r| r.recipients.len()).max();
    assert_eq!(most, Some(2));
    let (count, octets) = most_under_way(&world, "+");
    assert!(count == 2 && octets <= 20 << 10, "{count} with {octets} octets");
    assert_at_rest(&mut world);
}

#[test]
fn the_campaign_stands_in_the_header_and_is_known_after_a_restart_and_new_rules_let_all_go() {
    let rules = "[[campaign]]\nname = \"spring\"\nmessage_rate = \"1/h\"\n";
    let mut world = limited(5500, 1, rules);
    for mark in 0..4 {
        let letter = Letter { header: "X-Campaign: spring\r\n".to_owned(), ..Letter::new(mark, &["x@d1.test"]) };
        world.accept(0, &letter);
    }
    world.accept(0, &Letter::new(9, &["x@d1.test"]));
    world.run(secs(5));
    assert_eq!(marks(&world, "x@d1.test").len(), 2, "one of the campaign, and the other");
    world.crash(2);
    world.run(secs(30));
    assert_eq!(marks(&world, "x@d1.test").len(), 2, "a start takes its rate for used up");
    let none = "[[provider]]\nname = \"big\"\ndomains = [\"d0.test\", \"d1.test\"]\n";
    world.control(Control::Tables(Arc::new(tables(none))));
    assert!(world.run_until(secs(5), |w| marks(w, "x@d1.test").len() == 5));
    assert_at_rest(&mut world);
}

#[test]
fn new_rules_of_a_site_hold_at_once_for_mail_that_waits() {
    let rules = |rate: &str| format!("[[provider]]\nname = \"big\"\ndomains = [\"d0.test\", \"d1.test\"]\n{rate}");
    for (shards, after) in [(1, ""), (3, ""), (1, "message_rate = \"5/s\"\n"), (3, "message_rate = \"5/s\"\n")] {
        let mut world = limited(5550, shards, "message_rate = \"1/30d\"\n");
        for mark in 0..10 {
            let to = format!("x@d{}.test", mark % 2);
            world.accept(mark as usize % usize::from(shards), &Letter::new(mark, &[&to]));
        }
        world.run(minutes(5));
        assert_eq!(world.received().count(), 1, "the first one of the month");
        world.control(Control::Tables(Arc::new(tables(&rules(after)))));
        let all = world.run_until(secs(10), |w| w.received().count() == 10);
        assert!(all, "{} with {shards} shards and {after:?}", world.received().count());
        assert_at_rest(&mut world);
    }
}

#[test]
fn a_thousand_throttled_messages_at_rest_cost_nothing() {
    let mut world = limited(5600, 2, "[[tenant]]\nname = \"acme\"\nmessage_rate = \"1/h\"\n");
    for n in 0..1000 {
        post(&mut world, n % 2, ("acme", ""), &format!("x{n}@d{}.test", n % 10), 200);
    }
    world.run(secs(60));
    let (before, connects) = (world.sim.core.counts.turns, world.hops().map(|(_, hop)| hop.connects).sum::<u64>());
    world.run(minutes(30));
    let turns = world.sim.core.counts.turns - before;
    // Each shard looks at its deadlines five times a second.
    assert!(turns <= 2 * 5 * 60 * 30 + 2000, "{turns} turns");
    assert!(world.hops().map(|(_, hop)| hop.connects).sum::<u64>() - connects <= 4);
    assert_eq!(begun(&world, "acme").len(), 1);
}

#[test]
fn planted_bugs_of_permits_and_of_octets_show() {
    let guard = plant(Bug::TenantPermitNotAsked);
    let mut world = limited(5700, 2, "[[tenant]]\nname = \"acme\"\nmessage_rate = \"1/s\"\n");
    (0..10).for_each(|n| post(&mut world, n % 2, ("acme", ""), &format!("x{n}@d{n}.test"), 200));
    world.run(secs(5));
    assert!(begun(&world, "acme").len() > 6);
    drop(guard);
    let _guard = plant(Bug::OctetsNotGivenBack);
    let mut world = limited(5701, 2, "[[tenant]]\nname = \"acme\"\nbytes_in_flight = \"2KiB\"\n");
    (0..10).for_each(|n| post(&mut world, n % 2, ("acme", ""), &format!("x{n}@d{n}.test"), 900));
    world.run(secs(60));
    assert!(begun(&world, "acme").len() < 10);
}
