//! The whole shard, both halves and the spool, against scripted peers in memory on virtual time. Each test is named after
//! what it prevents.
#![allow(clippy::unwrap_used)]

mod arrivals;
mod attempts;
mod bounces;
mod bounds;
mod delivery;
mod edge;
mod local;
mod parameters;
mod peers;
mod places;
mod proxies;
mod quota;
mod restart;
mod routes;
mod scopes;
mod source_limits;
mod sources;
mod tls;
mod ways;
mod world;

use super::mailbox::Control;
use crate::rt::sim::{DiskFault, DiskOp, EIO, ENOSPC, End};
use crate::sim::zone::Mood as DnsMood;
use std::net::IpAddr;
use std::time::Duration;
use world::{Act, At, Door, Letter, Received, World, config};

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
    let mut marks: Vec<u32> = world.got(recipient).iter().filter_map(|r| r.mark).collect();
    marks.sort_unstable();
    marks
}

/// As `marks`, of those whose taking the relay was told.
fn told(world: &World, recipient: &str) -> Vec<u32> {
    let copies = world.got(recipient).into_iter().filter(|r| r.told.is_some());
    let mut marks: Vec<u32> = copies.filter_map(|r| r.mark).collect();
    marks.sort_unstable();
    marks
}

fn dsns(world: &World) -> Vec<Received> {
    world.received().filter(|r| r.is_dsn()).cloned().collect()
}

/// The recipients that a notification is about.
fn reported(dsn: &Received) -> Vec<String> {
    let text = dsn.text();
    let finals = text.lines().filter_map(|line| line.strip_prefix("Final-Recipient: rfc822;"));
    finals.map(|address| address.trim().to_owned()).collect()
}

const IDLE: &str = "deliver.idle";
const STARVED: &str = "deliver.starved";

/// What the deliverers still remember; what they hold is within its bounds.
fn remembered(world: &World) -> Vec<(&'static str, usize)> {
    const REMEMBERS: [&str; 10] = [
        "deliver.pools",
        "deliver.resolving",
        "deliver.connections",
        "deliver.questions",
        "deliver.exchanges",
        "deliver.fetches",
        // Cleared now and then of connections that are gone.
        IDLE,
        "deliver.wake",
        STARVED,
        "queue.destinations",
    ];
    let mut all = Vec::new();
    for shard in world.sim.shards.iter().flatten() {
        shard.audit(&mut |what, count, bound| {
            assert!(count <= bound, "{what}: {count} of {bound}");
            if REMEMBERS.contains(&what) && count > if what == IDLE { 64 } else { 0 } {
                all.push((what, count));
            }
        });
    }
    all
}

/// That nothing is left of all the mail: no message, no job, no socket.
fn assert_at_rest(world: &mut World) {
    world.run(secs(20));
    assert_eq!(world.queued(), 0, "no message in the spool");
    for (shard, stats) in world.stats.iter().enumerate() {
        let jobs = stats.queue_ready.get() + stats.queue_waiting.get() + stats.queue_in_flight.get();
        assert_eq!((jobs, stats.outbound_open.get(), stats.sessions.get()), (0, 0, 0), "shard {shard}");
    }
    for shard in 0..world.sim.shards.len() {
        assert_eq!(world.sim.core.open_sockets(shard), 0, "shard {shard}");
    }
    assert_eq!(world.durable().len(), 0, "nothing would come back");
}
