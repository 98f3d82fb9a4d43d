//! The whole shard, both halves and the spool, against scripted peers in memory on virtual time. Each test is named after
//! what it prevents.
#![allow(clippy::unwrap_used)]

mod bounces;
mod bounds;
mod delivery;
mod fake;
mod peers;
mod random;
mod restart;

use super::mailbox::Control;
use fake::{Act, At, Door, Letter, Op, Received, World, config};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// The marks of what a recipient got, notifications left out.
fn marks(world: &World, recipient: &str) -> Vec<u32> {
    let mut marks: Vec<u32> = world.machine.got(recipient).iter().filter_map(|r| r.mark()).collect();
    marks.sort_unstable();
    marks
}

/// As `marks`, of those whose taking the relay was told.
fn told(world: &World, recipient: &str) -> Vec<u32> {
    let copies = world.machine.got(recipient).into_iter().filter(|r| r.told);
    let mut marks: Vec<u32> = copies.filter_map(Received::mark).collect();
    marks.sort_unstable();
    marks
}

fn dsns(world: &World) -> Vec<Received> {
    world.machine.received().filter(|r| r.is_dsn()).cloned().collect()
}

/// The recipients that a notification is about.
fn reported(dsn: &Received) -> Vec<String> {
    let text = dsn.text();
    let finals = text.lines().filter_map(|line| line.strip_prefix("Final-Recipient: rfc822;"));
    finals.map(|address| address.trim().to_owned()).collect()
}

/// What the deliverers still remember.
fn remembered(world: &World) -> Vec<(&'static str, usize)> {
    let all = world.shards.iter().flatten().flat_map(|shard| shard.deliverer.bookkeeping());
    // The list of idle connections is cleared now and then of those that are gone.
    all.filter(|(what, count)| *count > if *what == "idle" { 64 } else { 0 }).collect()
}

/// That nothing is left of all the mail: no message, no job, no socket.
fn assert_at_rest(world: &mut World) {
    world.run(secs(20));
    assert_eq!(world.queued(), 0, "no message in the spool");
    for (shard, stats) in world.stats.iter().enumerate() {
        let jobs = stats.queue_ready.get() + stats.queue_waiting.get() + stats.queue_in_flight.get();
        assert_eq!((jobs, stats.outbound_open.get(), stats.sessions.get()), (0, 0, 0), "shard {shard}");
    }
    for shard in 0..world.shards.len() {
        assert_eq!(world.machine.open_sockets(shard), 0, "shard {shard}");
    }
    assert_eq!(world.durable(), 0, "nothing would come back");
}
