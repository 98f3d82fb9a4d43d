//! The end of a process, ordered or not, and its next start; several shards.

use super::*;

#[test]
fn a_drain_lets_transactions_end_and_loses_and_repeats_nothing() {
    let mut world = World::new(40);
    world.domain("a.test", "10.0.0.1");
    world.door("10.0.0.1", Door::Refused);
    for n in 0..60 {
        world.accept(0, &Letter::new(n, &["x@a.test"]));
    }
    world.latency(millis(20));
    world.door("10.0.0.1", Door::Open);
    assert!(world.run_until(minutes(10), |w| w.received().count() >= 5));
    world.control(Control::Drain);
    assert!(world.run_until(secs(10), |w| w.sim.stopped()), "nothing hangs: no need of the deadline");
    assert!(world.received().count() < 60, "there is something left to deliver");
    world.crash(1);
    assert!(world.run_until(minutes(10), |w| marks(w, "x@a.test").len() >= 60));
    assert_at_rest(&mut world);
    assert_eq!(marks(&world, "x@a.test"), (0..60).collect::<Vec<_>>());
}

#[test]
fn a_drain_ends_at_its_deadline_and_forgets_no_outcome() {
    for control in [Control::Drain, Control::Stop] {
        for ms in [0, 1, 5, 45, 60] {
            let mut world = World::new(41);
            world.domain("a.test", "10.0.0.1");
            world.domain("b.test", "10.0.0.2");
            world.latency(millis(1));
            world.hop("10.0.0.2").set(At::Data, Act::Silence);
            for n in 0..5 {
                world.submit(0, &Letter::new(n, &["x@a.test", "y@b.test"]));
            }
            assert!(world.run_until(secs(5), |w| marks(w, "x@a.test").len() == 5));
            // The last reply is on its way.
            world.run(millis(3 + ms));
            let before = world.now();
            world.control(control.clone());
            assert!(world.run_until(minutes(2), |w| w.sim.stopped()), "{control:?}");
            let took = world.now().since(before);
            let limit = if matches!(control, Control::Drain) { world.config.drain_timeout } else { Duration::ZERO };
            assert!(took <= limit + secs(1), "{control:?}: {took:?}");
            world.crash(1);
            world.hop("10.0.0.2").mend();
            assert!(world.run_until(minutes(15), |w| marks(w, "y@b.test").len() == 5));
            assert_at_rest(&mut world);
            assert_eq!(marks(&world, "x@a.test").len(), 5, "{control:?} {ms} ms after the last reply: repeated");
        }
    }
}

#[test]
fn a_drain_answers_clients_and_takes_the_message_that_is_under_way() {
    let mut world = World::new(42);
    world.domain("a.test", "10.0.0.1");
    let idle = world.connect(0);
    let busy = world.connect(0);
    let letter = Letter::new(1, &["x@a.test"]);
    world.send(busy, b"EHLO c\r\nMAIL FROM:<joe@sender.test>\r\nRCPT TO:<x@a.test>\r\nDATA\r\n");
    world.run(secs(1));
    world.control(Control::Drain);
    world.run(secs(1));
    assert!(world.client(idle).closed.is_some());
    assert!(world.client(idle).replies.last().is_some_and(|r| r.starts_with("421")));
    world.send(busy, &letter.wire());
    assert!(world.run_until(secs(40), |w| w.sim.stopped()));
    let replies = world.client(busy).replies.clone();
    assert!(replies.iter().any(|r| r.contains("queued")), "{replies:?}");
    world.crash(1);
    assert!(world.run_until(secs(10), |w| !w.got("x@a.test").is_empty()));
    assert_at_rest(&mut world);
    assert_eq!(marks(&world, "x@a.test"), [1]);
}

/// Forty domains on ten hops.
fn many_domains(world: &mut World) {
    for n in 0..40 {
        world.domain(&format!("d{n}.test"), &format!("10.0.0.{}", n % 10));
    }
}

fn doors(world: &mut World, door: Door) {
    for n in 0..10 {
        world.door(&format!("10.0.0.{n}"), door);
    }
}

#[test]
fn shards_deliver_each_other_s_mail_and_settle_it() {
    let mut world = World::with(43, 2, config(), 1000);
    many_domains(&mut world);
    for n in 0..80 {
        let to = [format!("x@d{}.test", n % 40), format!("x@d{}.test", (n + 7) % 40)];
        world.submit(n as usize % 2, &Letter::new(n, &[&to[0], &to[1]]));
    }
    assert!(world.run_until(minutes(1), |w| w.received().count() == 160));
    assert!(world.stats.iter().all(|s| s.delivered.get() >= 40), "both deliver");
    assert_at_rest(&mut world);
}

#[test]
fn mail_that_left_memory_is_fetched_from_its_home_shard() {
    let mut world = World::with(44, 2, config(), 1000);
    many_domains(&mut world);
    doors(&mut world, Door::Refused);
    let mut large = Letter::new(1000, &["x@d0.test", "x@d1.test", "x@d2.test", "x@d3.test"]);
    large.body = b"0123456789abcdef\r\n".repeat(50_000);
    let client = world.submit(0, &large);
    assert!(world.run_until(secs(10), |w| w.client(client).is_accepted()));
    for n in 0..80 {
        world.accept(n as usize % 2, &Letter::new(n, &[&format!("x@d{}.test", n % 40)]));
    }
    world.run(minutes(2));
    doors(&mut world, Door::Open);
    assert!(world.run_until(minutes(15), |w| w.received().count() == 84));
    for received in world.received().filter(|r| r.mark == Some(1000)) {
        assert!(received.data.ends_with(&large.wire()));
    }
    assert_at_rest(&mut world);
}

#[test]
fn a_crash_and_another_number_of_shards_lose_nothing() {
    let mut world = World::with(45, 2, config(), 1000);
    many_domains(&mut world);
    doors(&mut world, Door::Refused);
    let mut shards = 2;
    for (round, next) in [3, 1, 4, 1, 2].into_iter().enumerate() {
        for n in 0..20u32 {
            let n = round as u32 * 20 + n;
            world.accept(n as usize % shards, &Letter::new(n, &[&format!("x@d{}.test", n % 40)]));
        }
        world.crash(u16::try_from(next).unwrap());
        shards = next;
        world.run(secs(3));
    }
    doors(&mut world, Door::Open);
    assert!(world.run_until(minutes(15), |w| w.received().count() >= 100));
    assert_at_rest(&mut world);
    let mut all: Vec<u32> = world.received().filter_map(|r| r.mark).collect();
    all.sort_unstable();
    assert_eq!(all, (0..100).collect::<Vec<_>>(), "each once");
}
