//! Next hops that make it hard: no loop without an end, no delay without need, no mail lost.

use super::*;

fn connects(world: &World) -> usize {
    world.connects("10.0.0.1").len()
}

/// The most connection attempts within any minute.
fn busiest_minute(world: &mut World, hop: &str) -> usize {
    let times = world.connects(hop);
    let within = |from: usize| times[from..].iter().take_while(|t| t.since(times[from]) < secs(60)).count();
    (0..times.len()).map(within).max().unwrap_or(0)
}

#[test]
fn a_peer_that_ends_every_session_is_left_alone_and_gets_its_mail_later() {
    let shut = |code: &str| Act::SayAndClose(format!("{code} 4.3.2 not now\r\n"));
    let hostile = [
        (At::Greeting, Act::Close),
        (At::Greeting, shut("421")),
        (At::Greeting, shut("554")),
        (At::Ehlo, Act::Close),
        (At::Ehlo, shut("421")),
        (At::Ehlo, Act::Say("250-hop\r\n250 PIPELINING\r\n250 surplus\r\n".to_owned())),
        (At::Ehlo, Act::SayAndClose("250 hop\r\n".to_owned())),
        (At::Ehlo, Act::SayAndClose("250 hop\r\n421 4.3.2 not now\r\n".to_owned())),
        (At::Mail, Act::Close),
        (At::Mail, shut("421")),
        (At::Rcpt, shut("421")),
        (At::Data, shut("421")),
        (At::Final, shut("421")),
        (At::Greeting, Act::Silence),
        (At::Final, Act::Silence),
    ];
    let mut problems = Vec::new();
    for (at, act) in hostile {
        let mut world = World::new(20);
        world.domain("a.test", "10.0.0.1");
        world.hop("10.0.0.1").set(at, act.clone());
        for n in 0..3 {
            world.submit(0, &Letter::new(n, &["x@a.test"]));
            world.run(millis(100));
        }
        if world.run_until(secs(60), |w| connects(w) > 10) {
            problems.push(format!("{at:?} {act:?}: the eleventh connection {:?} after the first", {
                let times = world.connects("10.0.0.1");
                times[10].since(times[0])
            }));
            continue;
        }
        world.run(minutes(4));
        assert_eq!((told(&world, "x@a.test"), dsns(&world).len()), (vec![], 0), "{at:?} {act:?}");
        world.hop("10.0.0.1").mend();
        // A hop that fell silent costs its timeout, then a retry.
        let all = world.run_until(minutes(40), |w| told(w, "x@a.test").len() == 3);
        assert!(all, "{at:?} {act:?}: {:?}", told(&world, "x@a.test"));
        assert_at_rest(&mut world);
        assert_eq!(told(&world, "x@a.test"), [0, 1, 2], "{at:?} {act:?}");
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn a_peer_that_allows_few_connections_is_not_stormed() {
    let mut config = config();
    config.delivery.idle_timeout = secs(5);
    let mut world = World::with(21, 1, config, 1000);
    world.domain("a.test", "10.0.0.1");
    world.latency(millis(50));
    world.hop("10.0.0.1").mood.max_open = Some(2);
    for n in 0..200 {
        world.submit(0, &Letter::new(n, &["x@a.test"]));
    }
    world.run_until(minutes(10), |w| marks(w, "x@a.test").len() == 200 || connects(w) > 2000);
    assert_eq!(marks(&world, "x@a.test").len(), 200);
    assert!(world.hop("10.0.0.1").peak <= 2);
    let most = busiest_minute(&mut world, "10.0.0.1");
    assert!(most <= 60, "{most} connections in a minute");
    assert_at_rest(&mut world);
}

#[test]
fn a_connection_that_has_said_quit_counts_until_it_is_closed() {
    for act in [None, Some(Act::Silence), Some(Act::Say("221 2.0.0 bye\r\n".to_owned()))] {
        let mut config = config();
        config.delivery.connections_per_destination = 1;
        config.delivery.messages_per_connection = 1;
        let mut world = World::with(24, 1, config, 1000);
        world.domain("a.test", "10.0.0.1");
        world.latency(millis(200));
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        world.sim.core.cap([ip], 1);
        if let Some(act) = &act {
            world.hop("10.0.0.1").set(At::Quit, act.clone());
        }
        for n in 0..10 {
            world.submit(0, &Letter::new(n, &["x@a.test"]));
        }
        // A peer that does not answer QUIT is waited for, a little.
        let patience = (crate::limits::CLIENT_QUIT_TIMEOUT + secs(5)) * 10;
        assert!(world.run_until(patience, |w| marks(w, "x@a.test").len() == 10), "{act:?}");
        assert_eq!(world.sim.core.over_cap(), [], "{act:?}");
        assert_eq!((world.hop("10.0.0.1").connects, world.hop("10.0.0.1").peak), (10, 1), "{act:?}");
        world.run(minutes(1));
        assert_at_rest(&mut world);
    }
}

#[test]
fn an_old_connection_that_the_peer_ends_costs_no_delay() {
    for act in [Act::SayAndClose("421 4.4.2 idle too long\r\n".to_owned()), Act::Close] {
        let mut world = World::new(22);
        world.domain("a.test", "10.0.0.1");
        world.hop("10.0.0.1").set(At::MailAgain, act.clone());
        for n in 0..5 {
            world.accept(0, &Letter::new(n, &["x@a.test"]));
            let soon = world.run_until(secs(3), |w| marks(w, "x@a.test").len() == n as usize + 1);
            assert!(soon, "{act:?}: message {n} waits");
        }
        assert_at_rest(&mut world);
        assert_eq!((world.connects("10.0.0.1").len(), marks(&world, "x@a.test").len()), (5, 5));
    }
}

#[test]
fn a_host_that_comes_back_is_probed_by_one_connection_and_then_gets_all() {
    let mut world = World::new(23);
    world.domain("a.test", "10.0.0.1");
    world.door("10.0.0.1", Door::Refused);
    for n in 0..100 {
        world.accept(0, &Letter::new(n, &["x@a.test"]));
    }
    world.run(minutes(4));
    let down = connects(&world);
    assert!(down <= 2, "{down} attempts");
    world.latency(millis(100));
    world.door("10.0.0.1", Door::Open);
    assert!(world.run_until(minutes(15), |w| marks(w, "x@a.test").len() == 100));
    let times = world.connects("10.0.0.1");
    // Greeting and EHLO take five flights of 100 ms.
    assert!(times.get(down + 1).is_none_or(|second| second.since(times[down]) >= millis(400)), "one first");
    assert_at_rest(&mut world);
}

#[test]
fn a_peer_that_refuses_for_now_gets_all_of_it_later_and_once() {
    for at in [At::Mail, At::Rcpt, At::Data, At::Final] {
        for pipelining in [true, false] {
            let mut world = World::new(24);
            world.domain("a.test", "10.0.0.1");
            world.hop("10.0.0.1").mood.pipelining = pipelining;
            world.hop("10.0.0.1").reply(at, "451 4.3.0 not now");
            for n in 0..10 {
                world.accept(0, &Letter::new(n, &["x@a.test"]));
            }
            world.run(minutes(2));
            assert!(connects(&world) <= 20, "{at:?}: {} connections", connects(&world));
            assert_eq!(marks(&world, "x@a.test").len(), 0);
            world.hop("10.0.0.1").mend();
            assert!(world.run_until(minutes(15), |w| marks(w, "x@a.test").len() == 10), "{at:?}");
            assert_at_rest(&mut world);
            assert_eq!((marks(&world, "x@a.test").len(), dsns(&world).len()), (10, 0), "{at:?}");
        }
    }
}
