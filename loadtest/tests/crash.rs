//! kill -9 at any moment loses nothing that was acknowledged, and the number of shards may change between starts.
//! Duplicates are allowed for what was being delivered when the relay was killed, and are shown to be just that.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering::Relaxed;

use common::{Bench, IN_FLIGHT, Kills, Setup, env_number, wait_until};
use loadtest::send::{Source, Until};

/// Kills the relay `rounds` times under load, restarts it with the next number of shards each time.
fn kill_under_load(shards: &[usize]) {
    let rounds = env_number("LOADTEST_KILLS", 20);
    let per_round = env_number("LOADTEST_PER_KILL", 1500);
    let Some(mut bench) = Bench::start(Setup { shards: shards[0], ..Setup::default() }) else { return };
    let mut load = bench.load(0);
    load.until = Until::Messages(u64::MAX);
    let source = Source::start(load).unwrap();
    let progress = source.progress().clone();
    let mut kills = Kills::default();
    for round in 0..rounds {
        let (accepted, arrived) = (progress.accepted.load(Relaxed), bench.sink().unique());
        wait_until("mail is accepted and arrives between two kills", || {
            progress.accepted.load(Relaxed) >= accepted + per_round && bench.sink().unique() > arrived + per_round / 2
        });
        let next = shards[(round as usize + 1) % shards.len()];
        kills.note(|| bench.relay.restart(|c| c.shards = next)).unwrap();
    }
    source.stop();
    let sent = source.join();
    let found = bench.settle(&sent, &kills);
    assert!(sent.uncertain > 0 || sent.broken > 0, "no kill hit anything");
    assert!(found.duplicates_from_relay <= rounds * IN_FLIGHT as u64);
}

#[test]
fn kill_9_loses_nothing() {
    kill_under_load(&[2]);
}

#[test]
fn kill_9_and_another_number_of_shards_loses_nothing() {
    kill_under_load(&[1, 2, 3]);
}
