//! Mail for this host's own domains: resolved at RCPT, delivered by LMTP and into Maildirs, each recipient by itself.

use super::world::Lmtp;
use super::*;
use crate::rt::maildir::look;
use std::path::Path;

const MAILBOXES: &str = "alice\nbob\ncarol\nowner-members\n";
const ALIASES: &str = "postmaster: alice\nabuse: alice\nteam: alice, bob, far@a.test\n\
    members: bob, carol, far@a.test\nalone: alice\ncarol: carol, bob\n";
const LMTP: &str = "lmtp:10.0.0.24:24";

fn by_lmtp(seed: u64) -> (World, Lmtp) {
    by_lmtp_with(seed, config())
}

fn by_lmtp_with(seed: u64, config: crate::config::Config) -> (World, Lmtp) {
    let mut world = World::with_local(seed, config, LMTP, Some(MAILBOXES), Some(ALIASES));
    let server = world.lmtp("10.0.0.24");
    world.domain("a.test", "10.0.0.1");
    (world, server)
}

/// Runs until everything has its outcome. The numbers are told now and then: those of the beginning are not believed.
fn settles(world: &mut World, limit: Duration) -> bool {
    world.run(secs(1));
    world.run_until(limit, |w| w.queued() == 0)
}

fn all(server: &Lmtp, address: &str) -> usize {
    server.mailbox(address).len()
}

/// The replies to some commands behind EHLO.
fn talk(world: &mut World, commands: &str) -> Vec<String> {
    let client = world.connect(0);
    world.run(millis(100));
    world.send(client, format!("EHLO client.test\r\n{commands}").as_bytes());
    world.run(secs(1));
    let replies = world.client(client).replies.clone();
    world.finish(client);
    replies[2..].to_vec()
}

#[test]
fn each_recipient_has_its_own_outcome() {
    for pipelined in [1, 3] {
        let (mut world, server) = by_lmtp(pipelined);
        server.at_rcpt("carol@also.test", &["550 5.1.1 never heard"]);
        server.at_message("bob@here.test", &["452 4.2.2 full"]);
        server.at_message("alice@also.test", &["552 5.2.2 over quota, for good"]);
        let to = ["alice@here.test", "bob@here.test", "carol@also.test", "alice@also.test", "x@a.test"];
        for n in 0..pipelined {
            world.accept(0, &Letter::new(n as u32, &to));
        }
        let n = pipelined as usize;
        assert!(settles(&mut world, minutes(30)));
        assert_at_rest(&mut world);
        assert_eq!((all(&server, "alice@here.test"), all(&server, "bob@here.test")), (n, n), "nobody twice");
        assert_eq!(marks(&world, "x@a.test").len(), n);
        let dsns = dsns(&world);
        let mut failed: Vec<String> = dsns.iter().flat_map(reported).collect();
        failed.sort();
        failed.dedup();
        assert_eq!(failed, ["alice@also.test", "carol@also.test"]);
        assert!(server.said().iter().any(|line| line == "LHLO relay.test"), "{:?}", server.said());
        assert!(server.mailbox("alice@here.test")[0].data.starts_with("Received: from client.test"));
    }
}

#[test]
fn who_was_answered_for_before_the_connection_was_lost_is_settled() {
    for lost in 0..3 {
        let (mut world, server) = by_lmtp(10 + lost as u64);
        server.lose_after(lost);
        world.accept(0, &Letter::new(1, &["alice@here.test", "bob@here.test", "alice@also.test"]));
        assert!(settles(&mut world, minutes(30)));
        assert_at_rest(&mut world);
        for address in ["alice@here.test", "bob@here.test", "alice@also.test"] {
            assert_eq!(all(&server, address), 1, "{address}, lost behind {lost}");
        }
        assert_eq!((server.connects(), dsns(&world).len()), (2, 0));
    }
}

#[test]
fn one_connection_serves_many_messages_and_a_server_that_is_away_is_waited_for() {
    let (mut world, server) = by_lmtp(20);
    world.sim.core.path("10.0.0.24".parse().unwrap()).silent = true;
    for n in 0..20 {
        world.accept(0, &Letter::new(n, &["alice@here.test"]));
    }
    world.run(minutes(2));
    assert_eq!(all(&server, "alice@here.test"), 0);
    world.sim.core.path("10.0.0.24".parse().unwrap()).silent = false;
    assert!(world.run_until(minutes(60), |_| all(&server, "alice@here.test") == 20));
    assert_at_rest(&mut world);
    assert!(server.connects() <= 5, "{}", server.connects());
    assert_eq!(dsns(&world).len(), 0);
}

#[test]
fn a_unix_socket_does_as_well() {
    let mut world = World::with_local(21, config(), "lmtp:/run/lmtp", Some(MAILBOXES), Some(ALIASES));
    let server = world.lmtp("10.0.0.24");
    world.accept(0, &Letter::new(1, &["alice@here.test"]));
    world.run(minutes(1));
    assert_eq!(all(&server, "alice@here.test"), 0, "nobody listens yet");
    world.sim.core.unix.insert("/run/lmtp".into(), "10.0.0.24:24".parse().unwrap());
    assert!(world.run_until(minutes(30), |_| all(&server, "alice@here.test") == 1));
    assert_at_rest(&mut world);
    assert_eq!(dsns(&world).len(), 0);
}

#[test]
fn aliases_are_expanded_at_rcpt_and_nothing_local_goes_by_the_smart_host() {
    for smart in [false, true] {
        let mut config = config();
        if smart {
            let host = crate::config::Host::Name("smart.test".to_owned());
            config.delivery.smart_host = Some(crate::config::SmartHost { host, port: 25 });
        }
        let (mut world, server) = by_lmtp_with(22, config);
        world.records.host("smart.test", &["10.0.0.1".parse().unwrap()], &[]);
        world.accept(0, &Letter::new(1, &["Team@HERE.test", "bob+lists@here.test"]));
        assert!(settles(&mut world, secs(20)));
        assert_eq!((all(&server, "alice@here.test"), all(&server, "bob@here.test")), (1, 1));
        assert_eq!(all(&server, "bob+lists@here.test"), 1);
        assert_eq!(marks(&world, "far@a.test"), [1]);
        assert_eq!(server.mailbox("bob@here.test")[0].sender, "joe@sender.test");
        // An alias that is a mailbox too: once.
        world.accept(0, &Letter::new(2, &["carol@here.test"]));
        assert!(settles(&mut world, secs(20)));
        assert_eq!((all(&server, "carol@here.test"), all(&server, "bob@here.test")), (1, 2));
        assert_at_rest(&mut world);
    }
}

#[test]
fn a_list_has_a_reverse_path_of_its_own_and_its_errors_go_there() {
    let (mut world, server) = by_lmtp(23);
    server.at_message("carol@here.test", &["550 5.2.1 gone"]);
    world.hop("10.0.0.1").reply_to("far@a.test", &["550 5.1.1 unknown"]);
    world.accept(0, &Letter::new(1, &["members@here.test", "alice@here.test"]));
    assert!(settles(&mut world, minutes(1)));
    assert_at_rest(&mut world);
    assert_eq!(server.mailbox("bob@here.test")[0].sender, "owner-members@here.test");
    assert_eq!(server.mailbox("alice@here.test")[0].sender, "joe@sender.test");
    let told = server.mailbox("owner-members@here.test");
    assert_eq!(told.len(), 2, "both errors");
    assert!(told.iter().all(|dsn| dsn.sender.is_empty()));
    assert!(told.iter().any(|dsn| dsn.data.contains("Final-Recipient: rfc822; carol@here.test")));
    assert_eq!(dsns(&world).len(), 0, "the sender hears nothing");

    // Over a restart too, where the envelope comes from the spool.
    server.at_message("bob@here.test", &["451 4.3.0 later"]);
    world.accept(0, &Letter::new(2, &["members@here.test"]));
    world.run(secs(5));
    world.crash(1);
    assert!(world.run_until(minutes(30), |_| all(&server, "bob@here.test") == 2));
    assert_eq!(server.mailbox("bob@here.test")[1].sender, "owner-members@here.test");
}

#[test]
fn anybody_may_write_to_who_is_here_and_to_nobody_else() {
    let mut config = config();
    config.relay.from_networks.clear();
    config.smtp.max_recipients = 3;
    let (mut world, _) = by_lmtp_with(24, config);
    let replies = talk(
        &mut world,
        "MAIL FROM:<joe@sender.test>\r\nRCPT TO:<nobody@here.test>\r\nRCPT TO:<x@a.test>\r\n\
         RCPT TO:<alice@HERE.test>\r\nRCPT TO:<Postmaster>\r\nRCPT TO:<team@here.test>\r\nRSET\r\n\
         MAIL FROM:<joe@sender.test>\r\nRCPT TO:<team@here.test>\r\nRCPT TO:<bob@here.test>\r\n",
    );
    let codes: Vec<&str> = replies.iter().map(|r| r.split(' ').next().unwrap()).collect();
    assert_eq!(codes, ["250", "550", "550", "250", "250", "452", "250", "250", "250", "452"], "{replies:?}");
    assert!(replies[1].starts_with("550 5.1.1") && replies[2].starts_with("550 5.7.1"), "{replies:?}");
}

#[test]
fn the_bare_postmaster_is_that_of_the_first_domain() {
    let (mut world, server) = by_lmtp(25);
    world.accept(0, &Letter::new(1, &["Postmaster"]));
    assert!(settles(&mut world, secs(20)));
    assert_eq!(all(&server, "alice@here.test"), 1);
}

#[test]
fn vrfy_and_expn_tell_what_is_here() {
    let mut config = config();
    (config.smtp.vrfy, config.smtp.expn) = (true, true);
    let (mut world, _) = by_lmtp_with(26, config);
    let replies = talk(
        &mut world,
        "VRFY alice@here.test\r\nVRFY nobody@here.test\r\nVRFY x@a.test\r\nVRFY alice\r\n\
         EXPN team@here.test\r\nEXPN bob@here.test\r\nEXPN list@a.test\r\n",
    );
    let expected = [
        "250 2.1.5 <alice@here.test>",
        "550 5.1.1",
        "252 2.0.0",
        "553 5.1.4",
        "250 2.1.5 <far@a.test>",
        "550 5.1.0 That is a user",
        "550 5.1.0 That list",
    ];
    for (reply, expected) in replies.iter().zip(expected) {
        assert!(reply.starts_with(expected), "{replies:?}");
    }
    assert_eq!(replies.len(), expected.len());
}

#[test]
fn success_is_told_where_the_mailbox_is_ours() {
    // RFC 3461 section 5.2.3, and section 5.2.7: of the members of an alias too.
    for announced in [false, true] {
        let (mut world, server) = by_lmtp(27);
        if announced {
            server.announce("DSN");
        }
        let replies = talk(
            &mut world,
            "MAIL FROM:<joe@sender.test> ENVID=abc\r\nRCPT TO:<alone@here.test> NOTIFY=SUCCESS ORCPT=rfc822;orig@x\r\n\
             DATA\r\nX-Test: 1\r\n\r\nx\r\n.\r\n",
        );
        assert!(replies.last().unwrap().starts_with("250 2.0.0"), "{replies:?}");
        assert!(settles(&mut world, minutes(1)));
        let rcpt = server.said().into_iter().find(|line| line.starts_with("RCPT")).unwrap();
        if announced {
            assert_eq!(rcpt, "RCPT TO:<alice@here.test> NOTIFY=SUCCESS ORCPT=rfc822;orig@x");
            assert_eq!(dsns(&world).len(), 0, "the server tells");
        } else {
            let dsns = dsns(&world);
            assert_eq!(dsns.len(), 1);
            assert!(dsns[0].text().contains("Action: delivered"), "{}", dsns[0].text());
            assert!(
                dsns[0].text().contains("Original-Recipient: rfc822; orig@x")
                    || dsns[0].text().contains("Original-Recipient: rfc822;orig@x")
            );
        }
    }
}

#[test]
fn who_asks_for_success_hears_that_a_list_has_it_and_nothing_of_its_members() {
    // RFC 3461 section 5.2.7; also where the process dies before it has said so.
    for (seed, crash) in [(28, false), (29, true)] {
        let (mut world, server) = by_lmtp(seed);
        world.hop("10.0.0.1").reply_to("far@a.test", &["550 5.1.1 unknown"]);
        if crash {
            // Nothing of it leaves before the crash.
            world.hop("10.0.0.1").mood.delay = secs(20);
        }
        let replies = talk(
            &mut world,
            "MAIL FROM:<joe@sender.test> ENVID=abc\r\n\
             RCPT TO:<members@here.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;orig@x\r\n\
             DATA\r\nX-Test: 1\r\n\r\nx\r\n.\r\n",
        );
        assert!(replies.last().unwrap().starts_with("250 2.0.0"), "{replies:?}");
        if crash {
            world.crash(1);
            world.hop("10.0.0.1").mood.delay = Duration::ZERO;
        }
        assert!(settles(&mut world, minutes(30)));
        assert_at_rest(&mut world);
        let told: Vec<String> = dsns(&world).iter().map(|dsn| dsn.text()).collect();
        assert!(!told.is_empty() && told.len() <= 1 + usize::from(crash), "{told:?}");
        for text in told {
            assert!(text.contains("Action: delivered") && text.contains("Final-Recipient: rfc822; members@here.test"));
            assert!(text.contains("Original-Envelope-Id: abc") && text.contains("orig@x"), "{text}");
            assert_eq!(text.matches("Final-Recipient").count(), 1, "{text}");
        }
        assert_eq!(server.mailbox("bob@here.test").len(), 1);
        assert_eq!(server.mailbox("owner-members@here.test").len(), 1, "the far member's failure");
        assert_eq!(server.mailbox("members@here.test").len(), 0);
    }
}

// --- Maildir ----------------------------------------------------------------------------------------------------------

fn by_maildir(seed: u64, root: &Path) -> World {
    let deliver = format!("maildir:{}/{{domain}}/{{mailbox}}", root.display());
    let mut world = World::with_local(seed, config(), &deliver, Some(MAILBOXES), Some(ALIASES));
    world.domain("a.test", "10.0.0.1");
    world
}

fn new(root: &Path, mailbox: &str) -> Vec<String> {
    look::files(&root.join("here.test").join(mailbox).join("new"))
}

#[test]
fn messages_of_every_size_are_in_the_maildir_as_they_were() {
    let root = tempfile::tempdir().unwrap();
    look::make(&root.path().join("here.test"));
    let mut world = by_maildir(40, root.path());
    // Some are one record, others go in chunks of 32 KiB, one of them in one that ends with it.
    for (n, lines) in [(0, 0), (1, 10), (2, 3000), (3, 4096), (4, 20_000)] {
        let mut letter = Letter::new(n, &["alice@here.test", "bob+x@here.test"]);
        letter.body = "..a dot\r\n".bytes().chain("0123456\r\n".repeat(lines).into_bytes()).collect();
        world.accept(0, &letter);
    }
    assert!(settles(&mut world, minutes(5)));
    assert_at_rest(&mut world);
    for (mailbox, address) in [("alice", "alice@here.test"), ("bob", "bob+x@here.test")] {
        let mut files = new(root.path(), mailbox);
        files.sort_by_key(String::len);
        assert_eq!(files.len(), 5);
        for (n, (file, lines)) in files.iter().zip([0, 10, 3000, 4096, 20_000]).enumerate() {
            let (head, body) = file.split_once("\n\n").unwrap();
            let trace = format!("Return-Path: <joe@sender.test>\nDelivered-To: {address}\nReceived: from client.test");
            assert!(head.starts_with(&trace), "{head}");
            assert!(head.ends_with(&format!("\nX-Test: {n}")), "{head}");
            assert_eq!(body, format!(".a dot\n{}", "0123456\n".repeat(lines)));
        }
    }
    assert_eq!(look::files(&root.path().join("here.test/alice/tmp")).len(), 0);
}

#[test]
fn a_maildir_that_cannot_be_written_is_tried_again() {
    let root = tempfile::tempdir().unwrap();
    let mut world = by_maildir(41, root.path());
    for n in 0..30 {
        world.accept(0, &Letter::new(n, &["alice@here.test", "far@a.test"]));
    }
    world.run(minutes(1));
    assert_eq!(marks(&world, "far@a.test").len(), 30);
    look::make(&root.path().join("here.test"));
    assert!(settles(&mut world, minutes(30)));
    assert_at_rest(&mut world);
    assert_eq!((new(root.path(), "alice").len(), dsns(&world).len()), (30, 0));
}

#[test]
fn a_loop_and_a_binary_message_end_at_the_maildir() {
    let root = tempfile::tempdir().unwrap();
    look::make(&root.path().join("here.test"));
    let mut world = by_maildir(42, root.path());
    for (n, lines) in [(0, 1), (1, 10_000)] {
        let replies = talk(
            &mut world,
            &format!(
                "MAIL FROM:<joe@sender.test>\r\nRCPT TO:<alice@here.test>\r\nRCPT TO:<bob@here.test>\r\nDATA\r\n\
                 Delivered-To: ALICE@here.test\r\nX-Test: {n}\r\n\r\n{}.\r\n",
                "x23456\r\n".repeat(lines)
            ),
        );
        assert!(replies.last().unwrap().starts_with("250 2.0.0"), "{replies:?}");
    }
    let replies = talk(
        &mut world,
        "MAIL FROM:<joe@sender.test> BODY=BINARYMIME\r\nRCPT TO:<bob@here.test>\r\nBDAT 4 LAST\r\na: b",
    );
    assert!(replies.last().unwrap().starts_with("250 2.0.0"), "{replies:?}");
    assert!(settles(&mut world, minutes(1)));
    assert_at_rest(&mut world);
    assert_eq!((new(root.path(), "alice").len(), new(root.path(), "bob").len()), (0, 2));
    let mut told: Vec<(String, bool)> =
        dsns(&world).iter().map(|dsn| (reported(dsn).concat(), dsn.text().contains("Status: 5.4.6"))).collect();
    told.sort();
    let alice = ("alice@here.test".to_owned(), true);
    assert_eq!(told, [alice.clone(), alice, ("bob@here.test".to_owned(), false)]);
}

#[test]
fn what_was_acknowledged_is_in_the_maildir_whenever_the_process_dies() {
    let root = tempfile::tempdir().unwrap();
    look::make(&root.path().join("here.test"));
    let mut world = by_maildir(43, root.path());
    let mut taken = 0;
    for life in 0..12 {
        for _ in 0..3 {
            let mut letter = Letter::new(taken, &["alice@here.test", "bob@here.test"]);
            letter.body = "0123456\r\n".repeat(if taken % 3 == 0 { 6000 } else { 5 }).into_bytes();
            world.accept(0, &letter);
            taken += 1;
        }
        world.run(millis(life * 7));
        world.crash(1);
    }
    assert!(settles(&mut world, minutes(30)));
    assert_at_rest(&mut world);
    for mailbox in ["alice", "bob"] {
        let files = new(root.path(), mailbox);
        for n in 0..taken {
            let mark = format!("\nX-Test: {n}\n");
            assert!(files.iter().any(|file| file.contains(&mark)), "number {n} of {mailbox}");
        }
        assert!(files.iter().all(|file| file.ends_with("0123456\n")), "whole, all of them");
    }
}
