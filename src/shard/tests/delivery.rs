//! Mail that goes its way.

use super::*;

#[test]
fn one_message_goes_through_whole_and_leaves_nothing_behind() {
    let mut world = World::new(1);
    world.domain("a.test", "10.0.0.1");
    let letter = Letter::new(7, &["x@a.test"]);
    world.accept(0, &letter);
    assert!(world.run_until(secs(5), |w| !w.got("x@a.test").is_empty()));
    let got = world.got("x@a.test");
    assert_eq!((got.len(), got[0].sender.as_str()), (1, "joe@sender.test"));
    assert!(got[0].data.starts_with(b"Received: ") && got[0].data.ends_with(&letter.wire()), "{}", got[0].text());
    assert_at_rest(&mut world);
    assert_eq!(world.connects("10.0.0.1").len(), 1);
}

#[test]
fn sockets_of_dns_questions_are_closed() {
    let mut world = World::with(2, 1, config(), 5000);
    for n in 0..1000 {
        world.domain(&format!("d{n}.test"), "10.0.0.1");
        world.submit(0, &Letter::new(n, &[&format!("x@d{n}.test")]));
    }
    assert!(world.run_until(minutes(2), |w| w.received().count() == 1000));
    assert!(world.zone().tally.udp >= 2000, "{:?}", world.zone().tally);
    assert_at_rest(&mut world);
}

/// Lines that begin with dots, stuffed, and others.
fn large(mark: u32, bytes: usize) -> Letter {
    let mut letter = Letter::new(mark, &["x@a.test"]);
    letter.body.clear();
    let mut n = 0u32;
    while letter.body.len() < bytes {
        n += 1;
        let dots = if n.is_multiple_of(7) { "..." } else { "" };
        letter.body.extend_from_slice(format!("{dots}line {n} {}\r\n", "y".repeat(n as usize % 90)).as_bytes());
    }
    letter
}

#[test]
fn a_large_body_arrives_byte_for_byte_through_narrow_sockets() {
    let mut world = World::new(3);
    world.domain("a.test", "10.0.0.1");
    world.sim.core.window = (1000, 0);
    let letter = large(1, 1 << 20);
    let client = world.submit_in(0, &letter, 500);
    assert!(world.run_until(secs(60), |w| w.client(client).is_accepted()));
    assert!(world.run_until(secs(60), |w| !w.got("x@a.test").is_empty()));
    assert!(world.got("x@a.test")[0].data.ends_with(&letter.wire()));
    assert_at_rest(&mut world);
}

#[test]
fn a_large_body_cut_off_by_the_peer_is_sent_again_whole() {
    for cut in [1, 700, 200_000, 300_000, 900_000] {
        let mut world = World::new(4);
        world.domain("a.test", "10.0.0.1");
        world.sim.core.window = (20_000, 0);
        world.hop("10.0.0.1").mood.cuts.push_back(cut);
        let letter = large(1, 1 << 20);
        world.accept(0, &letter);
        assert!(world.run_until(minutes(10), |w| !w.got("x@a.test").is_empty()), "cut at {cut}");
        assert!(world.got("x@a.test")[0].data.ends_with(&letter.wire()), "cut at {cut}");
        assert_at_rest(&mut world);
        assert_eq!(marks(&world, "x@a.test"), [1]);
    }
}

#[test]
fn a_client_that_goes_in_the_middle_of_a_large_body_leaves_nothing() {
    let mut world = World::new(5);
    world.domain("a.test", "10.0.0.1");
    let client = world.connect(0);
    world.send(client, b"EHLO c\r\nMAIL FROM:<joe@sender.test>\r\nRCPT TO:<x@a.test>\r\nDATA\r\n");
    let letter = large(1, 1 << 20);
    world.send(client, &letter.wire()[..700_000]);
    world.run(secs(1));
    world.finish(client);
    world.run(secs(5));
    assert_eq!(marks(&world, "x@a.test").len(), 0);
    assert_at_rest(&mut world);
}

#[test]
fn each_recipient_has_its_own_outcome() {
    for crash in [false, true] {
        let mut world = World::new(6);
        for (domain, hop) in [("a.test", "10.0.0.1"), ("b.test", "10.0.0.2"), ("c.test", "10.0.0.3")] {
            world.domain(domain, hop);
        }
        world.hop("10.0.0.2").reply(At::Rcpt, "550 5.1.1 no such user");
        world.hop("10.0.0.3").reply_to("z@c.test", &["451 4.2.1 busy"]);
        world.accept(0, &Letter::new(1, &["x@a.test", "y@b.test", "z@c.test"]));
        world.run(secs(10));
        assert_eq!((marks(&world, "x@a.test").len(), marks(&world, "z@c.test").len()), (1, 0));
        if crash {
            world.crash(1);
        }
        assert!(world.run_until(minutes(10), |w| !w.got("z@c.test").is_empty()));
        assert_at_rest(&mut world);
        assert_eq!((marks(&world, "x@a.test").len(), marks(&world, "z@c.test").len()), (1, 1), "crash: {crash}");
        let dsns = dsns(&world);
        assert_eq!(dsns.iter().map(reported).collect::<Vec<_>>(), [["y@b.test"]], "crash: {crash}");
        assert_eq!((dsns[0].sender.as_str(), &dsns[0].recipients[..]), ("", &["joe@sender.test".to_owned()][..]));
    }
}

#[test]
fn recipients_of_one_transaction_have_their_own_outcomes() {
    for crash in [false, true] {
        let mut world = World::new(7);
        world.domain("a.test", "10.0.0.1");
        let hop = world.hop("10.0.0.1");
        hop.reply_to("y@a.test", &["550 5.1.1 no such user"]);
        hop.reply_to("z@a.test", &["451 4.2.1 busy"]);
        world.accept(0, &Letter::new(1, &["w@a.test", "y@a.test", "z@a.test", "x@a.test"]));
        world.run(secs(10));
        assert_eq!((marks(&world, "x@a.test").len(), marks(&world, "z@a.test").len()), (1, 0));
        if crash {
            world.crash(1);
        }
        assert!(world.run_until(minutes(10), |w| !w.got("z@a.test").is_empty()));
        assert_at_rest(&mut world);
        for (to, copies) in [("w@a.test", 1), ("x@a.test", 1), ("y@a.test", 0), ("z@a.test", 1)] {
            assert_eq!(marks(&world, to).len(), copies, "{to}, crash: {crash}");
        }
        assert_eq!(dsns(&world).iter().map(reported).collect::<Vec<_>>(), [["y@a.test"]], "crash: {crash}");
    }
}
