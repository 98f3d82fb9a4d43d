//! Notifications to senders: exactly one for each failure, whatever the disk does; and the events of failures.

use super::*;
use crate::message::Envelope;
use crate::message::params::DeliverBy;
use crate::shard::event::{self, Event, EventSource};
use crate::time::Wall;

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

/// From now on the events of the first shard come here.
fn events(world: &mut World) -> EventSource {
    let (sink, source) = event::channel(true);
    world.sim.shards[0].as_mut().unwrap().report.events = sink;
    source
}

/// Who was told of, in the order of addresses: name, sender, recipient, site, octets.
fn failures(world: &mut World, source: &mut EventSource) -> Vec<(&'static str, String, String, String, bool)> {
    world.sim.shards[0].as_mut().unwrap().report.events.flush_now();
    let mut all = Vec::new();
    while source.take_batch(|event| {
        let (name, outcome) = match &event {
            Event::Bounced(outcome) => ("bounced", outcome),
            Event::Expired(outcome) => ("expired", outcome),
            _ => return,
        };
        let text = |n| String::from_utf8_lossy(outcome.text.get(n)).into_owned();
        all.push((name, text(0), text(1), text(2), outcome.size_bytes > 0 && outcome.attempts > 0));
    }) {}
    all.sort();
    all
}

#[test]
fn an_event_of_a_failure_names_sender_and_recipient_wherever_the_record_is() {
    // Two minutes is longer than a record stays in memory without being sent.
    for (minutes_left, crash) in [(2, false), (40, false), (40, true)] {
        let mut world = World::new(15);
        world.domain("a.test", "10.0.0.1");
        world.door("10.0.0.1", Door::Refused);
        let until = Wall(world.sim.now().wall.0 + minutes(minutes_left).as_millis() as u64);
        let mut envelope = Envelope::default();
        envelope.set_sender(b"joe@sender.test");
        for to in ["x@a.test", "y@a.test", "z@nowhere.test"] {
            envelope.add_recipient(to.as_bytes(), 2);
        }
        envelope.options.deliver_by = Some(DeliverBy { until, return_late: true, trace: false });
        let mut source = events(&mut world);
        world.inject(0, &envelope, &Letter::new(1, &[]).wire());
        world.run(secs(60));
        let mut told = failures(&mut world, &mut source);
        if crash {
            world.crash(1);
            source = events(&mut world);
        }
        // A disk that fails for a while makes no event twice.
        world.run(minutes(minutes_left) - secs(70));
        (0..2).for_each(|_| world.sim.core.disk.plan(DiskOp::Read, DiskFault::Error(EIO)));
        world.run(minutes(30));
        told.extend(failures(&mut world, &mut source));
        let one =
            |name, to: &str, site: &str| (name, "joe@sender.test".to_owned(), to.to_owned(), site.to_owned(), true);
        let expected = [
            one("bounced", "z@nowhere.test", "nowhere.test"),
            one("expired", "x@a.test", "mx.a.test"),
            one("expired", "y@a.test", "mx.a.test"),
        ];
        assert_eq!(told, expected, "{minutes_left} {crash}");
        assert_eq!(dsns(&world).iter().map(|dsn| reported(dsn).len()).sum::<usize>(), 3);
    }
}

#[test]
fn a_domain_that_is_found_not_to_exist_when_the_record_is_gone_is_told_of_with_addresses() {
    let mut world = World::new(16);
    world.zone().set_domain_mood("gone.test", DnsMood::ServFail);
    let mut source = events(&mut world);
    world.accept(0, &Letter::new(1, &["x@gone.test"]));
    world.run(minutes(20));
    world.zone().calm();
    world.run(minutes(40));
    let expected = ("bounced", "joe@sender.test".to_owned(), "x@gone.test".to_owned(), "gone.test".to_owned(), true);
    assert_eq!(failures(&mut world, &mut source), [expected]);
}
