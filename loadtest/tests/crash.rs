//! kill -9 at any moment loses nothing that was acknowledged, and the number of shards may change between starts.
//! Duplicates are allowed for what was being delivered when the relay was killed, and are shown to be just that.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering::Relaxed;

use common::{Bench, Setup, env_number, repeated, wait_until};
use loadtest::now_ns;
use loadtest::run::account;
use loadtest::send::{Source, Until};

/// Deliveries that may be under way, or done and not yet on disk as such, when the relay is killed.
const IN_FLIGHT: usize = 1000;

/// Kills the relay `rounds` times under load, restarts it with the next number of shards each time.
fn kill_under_load(shards: &[usize]) {
    let rounds = env_number("LOADTEST_KILLS", 20);
    let per_round = env_number("LOADTEST_PER_KILL", 1500);
    let Some(mut bench) = Bench::start(Setup { shards: shards[0], ..Setup::default() }) else { return };
    let mut load = bench.load(0);
    load.until = Until::Messages(u64::MAX);
    let source = Source::start(load).unwrap();
    let progress = source.progress().clone();
    // Per kill: just before it, and when the next relay answered.
    let mut kills = Vec::new();
    for round in 0..rounds {
        let (accepted, arrived) = (progress.accepted.load(Relaxed), bench.sink().unique());
        wait_until("mail is accepted and arrives between two kills", || {
            progress.accepted.load(Relaxed) >= accepted + per_round && bench.sink().unique() > arrived + per_round / 2
        });
        let before = now_ns();
        let next = shards[(round as usize + 1) % shards.len()];
        bench.relay.restart(|c| c.shards = next).unwrap();
        kills.push((before, now_ns()));
    }
    source.stop();
    let sent = source.join();
    let arrivals = bench.wait_all_arrived(&sent);
    // A duplicate that is on its way still comes.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let arrivals = {
        drop(arrivals);
        bench.sink().arrivals()
    };

    let found = account(&sent, &arrivals);
    println!(
        "{rounds} kills, {} accepted, {} lost, {} replies cut off, {} duplicates: {} sent again by the source, {} by the relay",
        found.sent.accepted,
        found.lost,
        sent.uncertain,
        found.duplicates,
        found.duplicates_from_source,
        found.duplicates_from_relay
    );
    assert_eq!((found.lost, found.duplicates_from_sink), (0, 0));
    assert!(sent.uncertain > 0 || sent.broken > 0, "no kill hit anything");
    // The relay's own duplicates first came among the last before a kill.
    let mut order: Vec<u64> = arrivals.iter().map(|a| a.first_ns).filter(|t| *t > 0).collect();
    order.sort_unstable();
    let rank = |t: u64| order.partition_point(|x| *x < t);
    for id in repeated(&arrivals) {
        let (delivery, arrival) = (sent.deliveries[id as usize], arrivals[id as usize]);
        if arrival.count - 1 <= delivery.uncertain {
            continue;
        }
        let r = rank(arrival.first_ns);
        let explained = kills.iter().any(|(kill, back)| r + IN_FLIGHT >= rank(*kill) && arrival.first_ns <= *back);
        assert!(explained, "u{id} came {} times, first long before a kill", arrival.count);
    }
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
