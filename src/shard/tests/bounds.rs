//! What must not grow: tables, lists, connections, replies nobody reads.

use super::*;
use crate::{limits, route};

#[test]
fn two_thousand_domains_used_once_are_forgotten() {
    let mut world = World::with(30, 1, config(), 5000);
    for n in 0..2000 {
        world.domain(&format!("d{n}.test"), &format!("10.1.{}.{}", n / 200, n % 200));
        world.submit(0, &Letter::new(n, &[&format!("x@d{n}.test")]));
        world.run(millis(1));
    }
    assert!(world.run_until(minutes(2), |w| w.received().count() == 2000));
    assert_at_rest(&mut world);
    let lists: Vec<_> = remembered(&world).into_iter().filter(|(what, _)| [IDLE, STARVED].contains(what)).collect();
    assert_eq!(lists, [], "no connection is left");
    // One more message now and then, as a shard has that lives.
    for n in 0..40 {
        world.accept(0, &Letter::new(5000 + n, &["x@d0.test"]));
        world.run(minutes(1));
    }
    world.run(minutes(20));
    assert_eq!(remembered(&world), []);
}

#[test]
fn one_domain_used_for_long_leaves_no_trail() {
    let mut world = World::new(31);
    world.domain("a.test", "10.0.0.1");
    for n in 0..3000 {
        world.submit(0, &Letter::new(n, &["x@a.test"]));
        world.run(millis(20));
    }
    assert!(world.run_until(secs(10), |w| w.received().count() == 3000));
    for (what, count) in remembered(&world) {
        assert!(count <= 100, "{what}: {count}");
    }
    assert_at_rest(&mut world);
}

#[test]
fn destinations_that_found_no_connection_are_served_when_there_is_one() {
    let mut world = World::with(32, 1, config(), 4);
    for n in 0..100 {
        world.domain(&format!("d{n}.test"), &format!("10.0.1.{n}"));
    }
    for n in 0..300 {
        world.submit(0, &Letter::new(n, &[&format!("x@d{}.test", n % 100)]));
    }
    let hops = (0..100).map(|n| IpAddr::from([10, 0, 1, n]));
    world.sim.core.cap(hops, 4);
    assert!(world.run_until(minutes(4), |w| w.received().count() == 300), "{} of 300", world.received().count());
    let most = world.sim.core.over_cap().iter().filter(|(.., bound)| *bound == 4).map(|(_, _, open, _)| open).max();
    assert_eq!(most, None, "connections at once");
    assert_at_rest(&mut world);
    let starved: Vec<_> = remembered(&world).into_iter().filter(|(what, _)| *what == STARVED).collect();
    assert_eq!(starved, []);
}

#[test]
fn destinations_that_wait_for_the_disk_do_not_take_connections_from_each_other() {
    let mut world = World::with(38, 1, config(), 3);
    for n in 0..6 {
        world.domain(&format!("d{n}.test"), &format!("10.0.1.{n}"));
        world.door(&format!("10.0.1.{n}"), Door::Refused);
        world.accept(0, &Letter::new(n, &[&format!("x@d{n}.test")]));
    }
    // After a start the spool alone has the mail.
    world.crash(1);
    world.sim.core.pace.stalled_until = world.now() + secs(60);
    let before: u64 = (0..6).map(|n| world.hop(&format!("10.0.1.{n}")).connects).sum();
    for n in 0..6 {
        world.door(&format!("10.0.1.{n}"), Door::Open);
    }
    world.run(secs(59));
    let connects = (0..6).map(|n| world.hop(&format!("10.0.1.{n}")).connects).sum::<u64>() - before;
    assert!((1..=12).contains(&connects), "{connects} connections for nothing");
    assert!(world.run_until(minutes(10), |w| w.received().count() == 6));
    assert_at_rest(&mut world);
}

#[test]
fn hosts_that_never_answer_do_not_keep_the_connections_of_others() {
    let mut world = World::with(33, 1, config(), 4);
    for n in 0..20 {
        world.domain(&format!("dead{n}.test"), &format!("10.0.2.{n}"));
        world.door(&format!("10.0.2.{n}"), Door::Silent);
        world.submit(0, &Letter::new(n, &[&format!("x@dead{n}.test")]));
    }
    world.run(secs(1));
    world.domain("a.test", "10.0.0.1");
    world.accept(0, &Letter::new(100, &["x@a.test"]));
    // Twenty dead hosts, four at a time, 30 s each.
    assert!(world.run_until(minutes(4), |w| marks(w, "x@a.test").len() == 1));
    for n in 0..20 {
        world.door(&format!("10.0.2.{n}"), Door::Open);
    }
    assert!(world.run_until(minutes(30), |w| w.received().count() == 21));
    assert_at_rest(&mut world);
}

#[test]
fn a_client_that_does_not_read_is_ended_and_costs_little() {
    let mut world = World::new(34);
    let client = world.connect_deaf(0, 1000);
    let flood = b"HELP\r\n".repeat(300_000);
    world.send(client, &flood);
    world.run(secs(10));
    let taken = flood.len() as u64 - world.unread(client);
    assert!(taken < 256 << 10, "{taken} octets were read, replies to all of them kept");
    let mut minute = 0;
    while world.client(client).closed.is_none() && minute < 30 {
        world.send(client, b"NOOP\r\n");
        world.run(minutes(1));
        minute += 1;
    }
    assert!(minute <= 15, "ended in bounded time");
    world.run(secs(1));
    assert_eq!(world.sim.core.open_sockets(0), 0);
}

#[test]
fn a_client_that_does_not_read_is_ended_even_if_it_says_nothing_more() {
    let mut world = World::new(35);
    let client = world.connect_deaf(0, 100);
    world.send(client, &b"HELP\r\n".repeat(2000));
    // Who does not read does not see the end either.
    let ended = |w: &World| w.sim.core.open_sockets(0) == 0;
    assert!(world.run_until(secs(1), |w| !ended(w)) && world.run_until(minutes(15), ended));
    let other = world.connect_deaf(0, 10);
    world.send(other, b"QUIT\r\n");
    assert!(world.run_until(secs(1), |w| !ended(w)) && world.run_until(minutes(15), ended), "QUIT, its reply unread");
}

#[test]
fn a_pipelined_flood_is_answered_to_its_end() {
    let mut world = World::new(36);
    let client = world.connect(0);
    let commands = 8192 / 6;
    world.send(client, &b"HELP\r\n".repeat(commands));
    world.run(secs(1));
    assert_eq!(world.client(client).replies.len(), 1 + commands);
    world.send(client, b"QUIT\r\n");
    assert!(world.run_until(secs(1), |w| w.client(client).closed.is_some()));
    assert!(world.client(client).replies.last().is_some_and(|r| r.starts_with("221")));
}

#[test]
fn sessions_that_come_and_go_while_the_disk_hangs_leave_no_trail() {
    let mut world = World::new(37);
    world.sim.core.pace.latency_us = (3_600_000_000, 0);
    let line = [b"x".repeat(998), b"\r\n".to_vec()].concat();
    for n in 0..210 {
        if n == 200 {
            world.run(minutes(15));
            assert_eq!(world.sim.core.open_sockets(0), 0, "all of them have timed out");
        }
        let client = world.connect(0);
        world.send(client, b"EHLO c.test\r\nMAIL FROM:<s@sender.test>\r\nRCPT TO:<x@a.test>\r\nDATA\r\n");
        world.run(millis(20));
        world.send(client, &line.repeat(300));
        world.run(millis(20));
    }
    let mut paused = None;
    for shard in world.sim.shards.iter().flatten() {
        shard.audit(&mut |what, size, _| {
            if what == "home.paused" {
                paused = Some(size);
            }
        });
    }
    assert!(paused.is_some_and(|size| (1..=84).contains(&size)), "{paused:?}");
}

/// Names of domains that shard 1 of 2 owns.
fn of_shard_1(names: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
    names.filter(|name| route::shard_of(route::hash(name.as_bytes()), 2) == 1)
}

#[test]
fn mail_for_a_shard_whose_mailbox_is_full_waits_and_is_not_lost() {
    let mut world = World::with(38, 2, config(), 1000);
    let domain = of_shard_1((0..).map(|n| format!("d{n}.test"))).next().unwrap();
    let to = format!("x@{domain}");
    world.domain(&domain, "10.0.0.1");
    let until = world.now() + minutes(1);
    world.sim.core.stall(1, until);
    while world.mailboxes.push(1, Vec::new()).is_ok() {}
    for n in 0..200 {
        world.accept(0, &Letter::new(n, &[&to]));
    }
    let mut waiting = 0;
    world.sim.shards[0].as_ref().unwrap().audit(&mut |what, size, _| {
        if what == "post.outbox" {
            waiting = size;
        }
    });
    assert_eq!((waiting, marks(&world, &to).len()), (200, 0));
    assert!(world.now() < until, "it is stalled still");
    assert!(world.run_until(minutes(2), |w| marks(w, &to).len() == 200));
    assert_at_rest(&mut world);
    assert_eq!(marks(&world, &to), (0..200).collect::<Vec<_>>());
}

#[test]
fn a_shard_takes_no_mail_while_another_cannot_keep_up() {
    let mut world = World::with(39, 2, config(), 1000);
    world.domain("a.test", "10.0.0.1");
    // Nobody has these names and nobody is told: it is cheap to be rid of them.
    let names = of_shard_1((0..).map(|n| format!("n{n}.test"))).take(limits::RECIPIENTS);
    let nowhere: Vec<String> = names.map(|name| format!("x@{name}")).collect();
    let nowhere: Vec<&str> = nowhere.iter().map(String::as_str).collect();
    let until = world.now() + minutes(10);
    world.sim.core.stall(1, until);
    while world.mailboxes.push(1, Vec::new()).is_ok() {}
    let mut letters = 0;
    let refused = loop {
        letters += 1;
        assert!(letters < 50, "nothing is refused");
        let mut letter = Letter::new(letters, &nowhere);
        letter.sender.clear();
        let client = world.submit(0, &letter);
        let answered = |w: &World| {
            let client = w.client(client);
            client.closed.is_some() || client.replies.iter().any(|reply| reply.starts_with("452"))
        };
        assert!(world.run_until(secs(10), answered));
        if !world.client(client).is_accepted() {
            break client;
        }
    };
    assert_eq!(letters as usize, limits::OUTBOX_ITEMS / limits::RECIPIENTS + 2);
    let told = world.client(refused).replies.iter().any(|reply| reply.starts_with("452 4.3.1"));
    assert!(told, "{:?}", world.client(refused).replies);
    assert!(world.now() < until, "it is stalled still");
    world.run(minutes(10));
    world.accept(0, &Letter::new(1000, &["x@a.test"]));
    assert!(world.run_until(minutes(1), |w| marks(w, "x@a.test") == [1000]));
    assert!(world.run_until(minutes(10), |w| w.queued() == 0), "{}", world.queued());
    assert_at_rest(&mut world);
}

/// Outcomes are not held up by a full mailbox: there are no more of them than recipients.
#[test]
fn outcomes_for_a_shard_that_does_not_look_wait_and_are_one_a_recipient() {
    let mut world = World::with(60, 2, config(), 1000);
    let mut names = (0..).map(|n| format!("d{n}.test"));
    let domain = names.find(|name| route::shard_of(route::hash(name.as_bytes()), 2) == 0).unwrap();
    world.domain(&domain, "10.0.0.1");
    world.hop("10.0.0.1").reply(At::Rcpt, "550 5.1.1 no such user");
    // It is on its way when its home stops looking, and its body is still in memory.
    world.latency(millis(100));
    let to: Vec<String> = (0..100).map(|n| format!("x{n}@{domain}")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let client = world.submit(1, &Letter::new(1, &to));
    assert!(
        world.run_until(minutes(1), |w| w.stats[1].accepted_messages.get() == 1),
        "{:?}",
        world.client(client).replies
    );
    world.run(millis(10));
    let until = world.now() + minutes(5);
    world.sim.core.stall(1, until);
    while world.mailboxes.push(1, Vec::new()).is_ok() {}
    let waiting = |w: &World| w.held("post.outbox");
    assert!(world.run_until(minutes(1), |w| waiting(w) == 100), "{}", waiting(&world));
    world.run(minutes(1));
    assert_eq!(waiting(&world), 100);
    assert!(world.now() < until, "it is stalled still");
    world.latency(millis(1));
    let told = |w: &World| dsns(w).iter().map(|dsn| reported(dsn).len()).sum::<usize>();
    assert!(world.run_until(minutes(10), |w| told(w) == 100), "{}", told(&world));
    assert_at_rest(&mut world);
}

/// Letters whose records take a buffer of 128 KiB each when they are read.
fn large(mark: u32, to: &[String]) -> Letter {
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    Letter { body: b"0123456789abcdef\r\n".repeat(1200), ..Letter::new(mark, &to) }
}

#[test]
fn records_read_ahead_are_bounded_and_slow_destinations_do_not_starve_others() {
    let mut world = World::with(61, 1, config(), 1000);
    let slow: Vec<String> = (0..60).map(|n| format!("x@slow{n}.test")).collect();
    for n in 0..60 {
        world.domain(&format!("slow{n}.test"), &format!("10.0.3.{n}"));
        world.door(&format!("10.0.3.{n}"), Door::Refused);
    }
    world.domain("a.test", "10.0.0.1");
    world.door("10.0.0.1", Door::Refused);
    for n in 0..30 {
        world.accept(0, &large(n, &slow));
    }
    for n in 100..130 {
        world.accept(0, &large(n, &["x@a.test".to_owned()]));
    }
    // What is recovered is in no memory.
    world.crash(1);
    world.door("10.0.0.1", Door::Open);
    for n in 0..60 {
        world.door(&format!("10.0.3.{n}"), Door::Open);
        world.hop(&format!("10.0.3.{n}")).set(At::Mail, Act::Silence);
    }
    let mut most = 0;
    let done = world.run_until(minutes(1), |w| {
        most = most.max(w.held("deliver.octets ahead"));
        marks(w, "x@a.test").len() == 30
    });
    assert!(done, "{}", marks(&world, "x@a.test").len());
    assert!(most > limits::FETCH_AHEAD_BYTES - limits::SPOOL_READ_BYTES, "{most}: the bound was met");
    for n in 0..60 {
        world.hop(&format!("10.0.3.{n}")).mend();
    }
    assert!(world.run_until(minutes(60), |w| w.received().count() == 60 * 30 + 30), "{}", world.received().count());
    assert_at_rest(&mut world);
    assert_eq!(world.held("deliver.octets ahead"), 0);
}

#[test]
fn mail_that_comes_faster_than_it_goes_keeps_little_of_its_commits() {
    let mut world = World::with(63, 1, config(), 1000);
    world.domain("a.test", "10.0.0.1");
    world.hop("10.0.0.1").set(At::Mail, Act::Silence);
    for n in 0..400 {
        world.accept(0, &Letter::new(n, &["x@a.test"]));
    }
    let (whole, held) = (limits::SPOOL_BUFFERS_SHARED * 68 * 1024, world.held("log.octets in memory"));
    assert!(held > 100 * 4096 && held < whole + 400 * 8192 + 1_000_000, "{held}");
    world.hop("10.0.0.1").mend();
    assert!(world.run_until(minutes(60), |w| w.received().count() == 400), "{}", world.received().count());
    assert_at_rest(&mut world);
}

#[test]
fn reads_of_a_shard_are_bounded_and_those_beyond_wait_their_turn() {
    let mut world = World::with(62, 1, config(), 1000);
    for n in 0..200 {
        world.domain(&format!("d{n}.test"), &format!("10.0.4.{n}"));
        world.door(&format!("10.0.4.{n}"), Door::Refused);
        world.accept(0, &large(n, &[format!("x@d{n}.test")]));
    }
    world.crash(1);
    for n in 0..200 {
        world.door(&format!("10.0.4.{n}"), Door::Open);
    }
    world.sim.core.pace.latency_us = (2_000_000, 0);
    let mut most = 0;
    let done = world.run_until(minutes(10), |w| {
        most = most.max(w.held("home.octets being read"));
        w.received().count() == 200
    });
    assert!(done, "{}", world.received().count());
    assert_eq!(most, limits::SPOOL_READING_BYTES, "the bound was met");
    world.sim.core.pace.latency_us = (100, 0);
    assert_at_rest(&mut world);
}

/// Each had its connection taken by the next while its record was being read.
#[test]
fn a_connection_whose_message_is_being_read_is_not_taken_away() {
    let mut world = World::with(63, 1, config(), 2);
    for n in 0..6 {
        world.domain(&format!("d{n}.test"), &format!("10.0.4.{n}"));
        world.door(&format!("10.0.4.{n}"), Door::Silent);
        world.accept(0, &Letter::new(n, &[&format!("x@d{n}.test")]));
    }
    world.crash(1);
    for n in 0..6 {
        world.door(&format!("10.0.4.{n}"), Door::Open);
    }
    let before: usize = (0..6).map(|n| world.connects(&format!("10.0.4.{n}")).len()).sum();
    world.sim.core.pace.latency_us = (500_000, 0);
    assert!(world.run_until(minutes(10), |w| w.received().count() == 6));
    let connects: usize = (0..6).map(|n| world.connects(&format!("10.0.4.{n}")).len()).sum();
    assert_eq!(connects - before, 6, "one each");
    world.sim.core.pace.latency_us = (100, 0);
    assert_at_rest(&mut world);
}
