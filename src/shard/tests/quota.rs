//! Sending limits of accounts, through sessions: exact over all shards, whatever crashes, and told with when to come back.

use super::edge::{self, SUBMISSIONS, edge_config, send};
use super::*;
use crate::accounts::Accounts;
use crate::rt::sim::LinkId;
use crate::rt::tls::Acceptor;
use crate::shard::Tables;
use crate::smtp::sasl::{Password, ScramKeys};
use crate::time::Moment;
use world::STRANGERS;

/// joe, as in [`edge`], but limited.
fn limited(limits: &str) -> Tables {
    let keys = ScramKeys::derive(&Password::new(b"pencil").unwrap(), &[1; 16], 4096);
    let secret = crate::accounts::Secret::Scram(keys).encode();
    let text = format!("[[account]]\nname = \"joe\"\nsecret = \"{secret}\"\nfrom = [\"joe@sender.test\"]\n{limits}\n");
    let accounts = Accounts::parse("accounts.toml", &text, [7; 32]).unwrap();
    Tables { accounts, tls: Some(Acceptor::simulated()), ..Tables::default() }
}

/// joe, on this shard.
fn joe(world: &mut World, shard: usize) -> Option<LinkId> {
    let client = world.connect_to(SUBMISSIONS, shard, STRANGERS, 8192);
    world.start_tls(client);
    if !edge::greeted(world, client) {
        return None;
    }
    world.ask(client, b"EHLO client.test\r\n", 1);
    world.ask(client, &edge::plain("joe", "pencil"), 1).filter(|reply| reply.starts_with("235")).map(|_| client)
}

#[test]
fn a_limit_is_exact_over_shards_and_over_crashes() {
    const PER_MINUTE: usize = 5;
    for seed in 0..4 {
        let tables = limited(&format!("messages_per_minute = {PER_MINUTE}"));
        let mut world = World::guarded(3000 + seed, 3, edge_config(), 1000, tables);
        world.domain("a.test", "10.0.0.1");
        let mut taken: Vec<Moment> = Vec::new();
        let mut told = 0;
        for n in 0..60u32 {
            if let Some(client) = joe(&mut world, n as usize % 3) {
                let letter = Letter::new(n, &["x@a.test"]);
                let before = world.now();
                match send(&mut world, client, &letter) {
                    // The unit was taken between the two.
                    Some(reply) if reply.starts_with("250") => taken.push(before),
                    Some(reply) if reply.starts_with("452 4.7.1") => {
                        assert!(reply.contains("as many messages as it may for now, come back in "), "{reply}");
                        told += 1;
                    }
                    other => panic!("{other:?}"),
                }
                world.ask(client, b"QUIT\r\n", 1);
            }
            world.run(secs(3));
            if n % 13 == 12 {
                // A crash, and another number of shards.
                world.crash(3);
            }
        }
        let most =
            taken.iter().map(|from| taken.iter().filter(|at| **at >= *from && at.since(*from) < secs(59)).count());
        assert!(most.max().unwrap() <= PER_MINUTE, "{taken:?}");
        assert!(told > 10 && taken.len() >= 2 * PER_MINUTE, "{} taken, {told} told to come back", taken.len());
    }
}

#[test]
fn recipients_count_for_themselves_and_the_rest_of_the_message_goes() {
    let mut world = World::guarded(3100, 2, edge_config(), 1000, limited("recipients_per_day = 3"));
    world.domain("a.test", "10.0.0.1");
    let client = joe(&mut world, 1).unwrap();
    world.ask(client, b"MAIL FROM:<joe@sender.test>\r\n", 1);
    let replies: Vec<_> = (0..5)
        .map(|n| world.ask(client, format!("RCPT TO:<r{n}@a.test>\r\n").as_bytes(), 1).unwrap()[..3].to_owned())
        .collect();
    assert_eq!(replies, ["250", "250", "250", "452", "452"]);
    assert!(world.ask(client, b"DATA\r\n", 1).unwrap().starts_with("354"));
    assert!(world.ask(client, &edge::mail(&Letter::new(1, &[])), 1).unwrap().starts_with("250"));
    // A day later they are free again, to the second.
    world.ask(client, b"QUIT\r\n", 1);
    world.run(Duration::from_secs(86_400 - 600));
    let client = joe(&mut world, 0).unwrap();
    let refused = send(&mut world, client, &Letter::new(2, &["x@a.test"])).unwrap();
    assert!(refused.starts_with("452 4.7.1"), "{refused}");
    world.ask(client, b"QUIT\r\n", 1);
    world.run(Duration::from_secs(700));
    let client = joe(&mut world, 0).unwrap();
    assert!(send(&mut world, client, &Letter::new(3, &["x@a.test"])).unwrap().starts_with("250"));
}

#[test]
fn a_session_that_goes_while_it_waits_leaves_nothing() {
    let mut world = World::guarded(3200, 2, edge_config(), 1000, limited("messages_per_minute = 5"));
    for n in 0..20 {
        let client = joe(&mut world, n % 2).unwrap();
        world.send(client, b"MAIL FROM:<joe@sender.test>\r\n");
        world.run(Duration::from_micros(300 * n as u64));
        world.reset(client);
    }
    world.run(secs(5));
    assert_eq!(world.held("home.gate.leases"), 0);
    assert_eq!(world.held("home.sessions"), 0);
}

#[test]
fn an_alias_counts_as_the_one_that_was_named_and_is_expanded_also_where_the_lease_comes_late() {
    for shard in 0..2 {
        let (mut config, mut tables) = (edge_config(), limited("recipients_per_day = 2"));
        let aliases = Some("team: alice, bob\n");
        World::make_local(&mut config, &mut tables, "lmtp:10.0.0.24:24", Some("alice\nbob\n"), aliases);
        let mut world = World::guarded(3300, 2, config, 1000, tables);
        let server = world.lmtp("10.0.0.24");
        let client = joe(&mut world, shard).unwrap();
        world.ask(client, b"MAIL FROM:<joe@sender.test>\r\n", 1);
        let mut rcpt = |to: &str| world.ask(client, format!("RCPT TO:<{to}>\r\n").as_bytes(), 1).unwrap();
        assert!(rcpt("team@here.test").starts_with("250"), "by shard {shard}");
        assert!(rcpt("nobody@here.test").starts_with("550 5.1.1"), "who is not there does not count");
        assert!(rcpt("alice@also.test").starts_with("250"));
        assert!(rcpt("team@here.test").starts_with("452 4.7.1"));
        assert!(rcpt("bob@here.test").starts_with("452 4.7.1"));
        world.ask(client, b"DATA\r\n", 1);
        assert!(world.ask(client, &edge::mail(&Letter::new(1, &[])), 1).unwrap().starts_with("250"));
        let count = |to: &str| server.mailbox(to).len();
        let got = || (count("alice@here.test"), count("bob@here.test"), count("alice@also.test"));
        assert!(world.run_until(secs(20), |_| got() == (1, 1, 1)), "{:?}", got());
        assert_eq!(count("team@here.test"), 0, "not as it was named");
    }
}
