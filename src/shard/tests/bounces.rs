//! Notifications to senders: exactly one for each failure, whatever the disk does.

use super::*;

/// A world in which `y@a.test` does not exist.
fn refusing() -> World {
    let mut world = World::new(10);
    world.domain("a.test", "10.0.0.1");
    world.hop("10.0.0.1").reply(At::Rcpt, "550 5.1.1 no such user");
    world
}

#[test]
fn a_notification_whose_commit_fails_is_written_again() {
    for errno in [EIO, ENOSPC] {
        for failures in [1, 3] {
            let mut world = refusing();
            world.accept(0, &Letter::new(1, &["y@a.test"]));
            // Nothing else is written from here on.
            for _ in 0..failures {
                world.sim.core.disk.plan(DiskOp::Write, DiskFault::Error(errno));
            }
            assert!(world.run_until(minutes(10), |w| !dsns(w).is_empty()), "the sender is told: errno {errno}");
            world.run(minutes(10));
            assert_eq!(world.sim.core.disk.injected(), failures);
            assert_eq!(dsns(&world).len(), 1, "and once");
            assert_at_rest(&mut world);
        }
    }
}

#[test]
fn a_notification_that_finds_no_room_is_written_when_there_is() {
    let mut world = refusing();
    world.accept(0, &Letter::new(1, &["y@a.test"]));
    world.sim.core.disk.set_room(Some(0));
    (0..1000).for_each(|_| world.sim.core.disk.plan(DiskOp::Write, DiskFault::Error(ENOSPC)));
    world.run(minutes(3));
    assert_eq!(dsns(&world).len(), 0);
    assert!((1..1000).contains(&world.sim.core.disk.injected()), "it was tried, and did not storm the disk");
    world.sim.core.disk.mend();
    assert!(world.run_until(minutes(10), |w| !dsns(w).is_empty()));
    world.run(minutes(10));
    assert_eq!(dsns(&world).len(), 1);
    assert_at_rest(&mut world);
}

#[test]
fn a_notification_whose_message_cannot_be_read_just_now_is_written_later() {
    let mut world = refusing();
    world.accept(0, &Letter::new(1, &["y@a.test"]));
    (0..2).for_each(|_| world.sim.core.disk.plan(DiskOp::Read, DiskFault::Error(EIO)));
    assert!(world.run_until(minutes(30), |w| !dsns(w).is_empty()), "the sender is told");
    world.run(minutes(10));
    assert_eq!((world.sim.core.disk.injected(), dsns(&world).len()), (2, 1));
    assert_at_rest(&mut world);
}

#[test]
fn a_crash_does_not_keep_a_failure_from_its_sender() {
    for end in [End::Killed, End::PowerLost] {
        for ms in [1, 2, 3, 5, 8, 13, 60, 500] {
            let mut world = refusing();
            world.accept(0, &Letter::new(1, &["y@a.test"]));
            world.run(millis(ms));
            world.crash_by(end, 1);
            assert!(world.run_until(minutes(10), |w| !dsns(w).is_empty()), "{end:?} after {ms} ms");
            assert_at_rest(&mut world);
            // At worst the crash comes behind the notification's delivery and before the commit of either outcome: the
            // first goes out again, and the failure begets another.
            assert!(dsns(&world).len() <= 3, "{end:?} after {ms} ms");
        }
    }
}

#[test]
fn mail_that_the_next_hop_cannot_take_bounces_at_once_and_the_connection_goes_on() {
    for (size, eight_bit) in [(true, false), (false, true)] {
        let mut world = World::new(11);
        world.domain("a.test", "10.0.0.1");
        world.hop("10.0.0.1").mood.size = size.then_some(2000);
        world.hop("10.0.0.1").mood.eight_bit = !eight_bit;
        let refused = |n| {
            let mut letter = Letter::new(n, &["x@a.test"]);
            letter.body =
                if size { "0123456789\r\n".repeat(500).into_bytes() } else { "gr\u{fc}n\r\n".as_bytes().to_vec() };
            letter
        };
        // Nothing comes behind it that would wake the connection.
        world.accept(0, &refused(0));
        assert!(world.run_until(secs(3), |w| dsns(w).len() == 1), "the first message of a connection");
        world.accept(0, &Letter::new(1, &["x@a.test"]));
        world.run(secs(1));
        world.accept(0, &refused(2));
        assert!(world.run_until(secs(3), |w| dsns(w).len() == 2), "on an idle connection");
        world.accept(0, &Letter::new(3, &["x@a.test"]));
        for n in [4, 6] {
            world.accept(0, &refused(n));
            world.accept(0, &Letter::new(n + 1, &["x@a.test"]));
        }
        assert!(world.run_until(secs(10), |w| dsns(w).len() == 4), "{} notifications", dsns(&world).len());
        assert!(world.run_until(secs(10), |w| marks(w, "x@a.test").len() == 4), "{:?}", marks(&world, "x@a.test"));
        assert_eq!(world.connects("10.0.0.1").len(), 1);
        assert_at_rest(&mut world);
        assert_eq!((marks(&world, "x@a.test"), dsns(&world).len()), (vec![1, 3, 5, 7], 4));
    }
}

#[test]
fn mail_that_grows_too_old_is_given_up_and_its_sender_told_once() {
    let mut config = config();
    config.delivery.retry.max = minutes(10);
    config.delivery.retry.give_up = minutes(60);
    let mut world = World::with(12, 1, config, 1000);
    world.domain("a.test", "10.0.0.1");
    world.domain("b.test", "10.0.0.2");
    world.door("10.0.0.1", Door::Refused);
    world.hop("10.0.0.2").reply(At::Mail, "451 4.3.0 later");
    for n in 0..5 {
        let mut letter = Letter::new(n, &["x@a.test", "y@b.test"]);
        if n == 4 {
            letter.sender.clear();
        }
        world.accept(0, &letter);
    }
    world.run(minutes(50));
    assert_eq!(dsns(&world).len(), 0);
    world.run(minutes(30));
    let mut told: Vec<String> = dsns(&world).iter().flat_map(reported).collect();
    told.sort();
    let each = |to: &str| vec![to.to_owned(); 4];
    assert_eq!(told, [each("x@a.test"), each("y@b.test")].concat(), "the null sender is told nothing");
    assert_at_rest(&mut world);
}

#[test]
fn a_domain_that_does_not_exist_bounces_and_one_that_nobody_knows_of_waits() {
    let mut world = World::new(13);
    world.zone().set_domain_mood("broken.test", DnsMood::ServFail);
    world.zone().set_domain_mood("mute.test", DnsMood::Silent);
    world.accept(0, &Letter::new(1, &["x@nowhere.test", "y@broken.test", "z@mute.test"]));
    assert!(world.run_until(secs(10), |w| dsns(w).len() == 1));
    assert_eq!(reported(&dsns(&world)[0]), ["x@nowhere.test"]);
    world.run(minutes(2));
    assert!(world.zone().tally.udp < 100, "{}", world.zone().tally.udp);
    world.zone().calm();
    world.domain("broken.test", "10.0.0.1");
    world.domain("mute.test", "10.0.0.1");
    world.run(minutes(30));
    assert_eq!((marks(&world, "y@broken.test").len(), marks(&world, "z@mute.test").len()), (1, 1));
    assert_at_rest(&mut world);
    assert_eq!(dsns(&world).len(), 1);
}
