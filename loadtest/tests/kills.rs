//! kill -9 where it hurts: again and again during a start, during a drain, while large messages are streamed to the log.
//!
//! Longer: `LOADTEST_KILLS=200 LOADTEST_QUEUED=50000 cargo test --release -p loadtest --test kills -- --nocapture`.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use common::{Bench, Kills, Setup, env_number, wait_until};
use loadtest::send::{Source, Until};
use loadtest::traffic::SizeMix;

/// The start of a relay with a queue is killed after a moment that grows from nothing to beyond the whole start, with
/// another number of shards each time, so that every start rewrites what the one before had half rewritten.
#[test]
fn killed_while_it_starts() {
    let (kills, messages) = (env_number("LOADTEST_KILLS", 15), env_number("LOADTEST_QUEUED", 2000));
    let Some(mut bench) = Bench::start(Setup { hop_down: true, shards: 3, ..Setup::default() }) else { return };
    let sent = Source::run(bench.load(messages)).unwrap();
    assert_eq!(sent.accepted, messages, "{:?} {:?}", sent.failures, sent.last_error);
    bench.relay.kill9().unwrap();
    let queue: BTreeSet<String> = bench.queued().into_iter().collect();
    assert!(queue.is_empty() || queue.len() as u64 == messages, "{}", queue.len());
    let began = Instant::now();
    bench.relay.restart(|c| c.shards = 2).unwrap();
    let whole = began.elapsed();
    for i in 0..kills {
        bench.relay.begin_restart(|c| c.shards = 1 + (i as usize) % 3).unwrap();
        std::thread::sleep(whole * (i as u32 + 1) / kills as u32);
        bench.relay.kill9().unwrap();
        if i % 5 == 4 {
            let now: Vec<String> = bench.queued();
            assert_eq!((now.len(), now.iter().cloned().collect()), (queue.len(), queue.clone()), "after kill {i}");
        }
    }
    println!("{kills} kills within the first {} ms of a start with {messages} messages", whole.as_millis());
    bench.start_sink();
    bench.relay.restart(|c| c.shards = 2).unwrap();
    // Nothing was under way at any kill: there is no excuse for a duplicate.
    assert_eq!(bench.settle(&sent, &Kills::default()).duplicates, 0);
}

/// Load, then SIGTERM or nothing, then kill -9 a moment later; again and again.
fn killed_under(sizes: &str, drain: bool, sessions: usize, per_round: u64) {
    let rounds = env_number("LOADTEST_KILLS", 6);
    let Some(mut bench) = Bench::start(Setup { shards: 2, ..Setup::default() }) else { return };
    let mut load = bench.load(0);
    (load.until, load.sessions) = (Until::Messages(u64::MAX), sessions);
    load.traffic.sizes = SizeMix::parse(sizes).unwrap();
    let source = Source::start(load).unwrap();
    let progress = source.progress().clone();
    let mut kills = Kills::default();
    for round in 0..rounds {
        let accepted = progress.accepted.load(Relaxed);
        wait_until("mail is accepted between two kills", || progress.accepted.load(Relaxed) >= accepted + per_round);
        kills
            .note(|| {
                if drain {
                    bench.relay.begin_terminate().unwrap();
                    std::thread::sleep(Duration::from_millis(round % 8 * 4));
                }
                bench.relay.restart(|c| c.shards = 1 + (round as usize) % 3)
            })
            .unwrap();
    }
    source.stop();
    let sent = source.join();
    assert_eq!((sent.refused, sent.given_up), (0, 0), "{:?}", sent.failures);
    bench.settle(&sent, &kills);
}

#[test]
fn killed_while_it_drains() {
    killed_under("4k:100", true, 20, 200);
}

#[test]
fn killed_while_large_messages_are_streamed() {
    killed_under("300k:60,1m:30,3m:10", false, 8, 10);
}
