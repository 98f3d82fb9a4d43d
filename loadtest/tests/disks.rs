//! Disks that fail: full (in the middle of traffic, while outcomes are to be written, at a start), killed while full,
//! read-only from one moment to the next, a device that returns errors, and a log that cannot be written. New mail is
//! refused for now, what was acknowledged is delivered, and service resumes.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use common::disk::SmallDisk;
use common::{Bench, Kills, Setup, env_number, relay_command, wait_until};
use loadtest::send::{SendReport, Source, Until};
use loadtest::traffic::SizeMix;

fn disk_mebibytes() -> u64 {
    env_number("LOADTEST_DISK_MIB", 512)
}

/// Nothing was refused but for now.
fn assert_only_transient(sent: &SendReport) {
    assert!(sent.failures.keys().all(|(_, code)| code / 100 == 4), "{:?}", sent.failures);
    assert_eq!((sent.refused, sent.given_up), (0, 0), "{:?}", sent.last_error);
}

/// Mail without end, of such a size.
fn endless(bench: &Bench, size: usize) -> Source {
    let mut load = bench.load(0);
    load.until = Until::Messages(u64::MAX);
    load.traffic.sizes = SizeMix::one(size);
    Source::start(load).unwrap()
}

#[test]
fn a_full_disk_loses_nothing_and_service_resumes() {
    if relay_command().is_none() {
        return;
    }
    let Some(disk) = SmallDisk::mount(disk_mebibytes()) else { return };
    let Some(mut bench) = Bench::start_in(&disk.at, Setup { hop_down: true, ..Setup::default() }) else { return };
    let ballast = disk.fill(8 << 20);
    let source = endless(&bench, 64 << 10);
    let progress = source.progress().clone();
    wait_until("the disk is full", || {
        assert!(bench.relay.is_running(), "{}", bench.relay.log_tail());
        progress.retried.load(Relaxed) > 50
    });
    let accepted = progress.accepted.load(Relaxed);
    drop(ballast);
    wait_until("mail is accepted again", || progress.accepted.load(Relaxed) > accepted + 200);
    source.stop();
    let sent = source.join();
    println!("a full disk: {accepted} accepted before, {} in all, refusals {:?}", sent.accepted, sent.failures);
    assert!(sent.failures.keys().any(|(_, code)| *code == 452), "{:?}", sent.failures);
    assert_only_transient(&sent);
    bench.start_sink();
    assert_eq!(bench.settle(&sent, &Kills::default()).duplicates, 0);
    drop(bench);
    drop(disk);
}

/// The disk may be the one that the operator's log is on as well: its lines are lost then, and nothing else is.
#[test]
fn a_log_that_cannot_be_written_stops_no_mail() {
    let setup = Setup { wrap: Some("2>/dev/full env".into()), ..Setup::default() };
    let Some(mut bench) = Bench::start(setup) else { return };
    let sent = Source::run(bench.load(200)).unwrap();
    assert!(bench.relay.is_running());
    assert_eq!(bench.relay.log_tail(), "", "the log was written after all");
    assert_eq!(bench.settle(&sent, &Kills::default()).duplicates, 0);
}

/// Full while outcomes are to be written, then killed, then started while full, then given room.
#[test]
fn killed_and_started_while_the_disk_is_full() {
    if relay_command().is_none() {
        return;
    }
    let Some(disk) = SmallDisk::mount(disk_mebibytes()) else { return };
    let spool = disk.at.join("spool");
    let config = Box::new(move |c: &mut loadtest::relay::RelayConfig| c.spool = spool);
    let setup = Setup { config, hop_down: true, shards: 2, ..Setup::default() };
    let Some(mut bench) = Bench::start(setup) else { return };
    let source = endless(&bench, 16 << 10);
    let progress = source.progress().clone();
    wait_until("some mail is accepted", || progress.accepted.load(Relaxed) > 500);
    let ballast = disk.fill(0);
    wait_until("the disk is full", || progress.retried.load(Relaxed) > 50);
    // Delivery goes on without room, and the outcomes have the reserve.
    bench.start_sink();
    wait_until("some of it is delivered", || bench.sink().unique() > 300);
    let mut kills = Kills::default();
    let mut started = 0;
    // Another number of shards makes the start write into a segment: it needs one.
    for shards in [2, 3, 1] {
        kills.note(|| {
            bench.relay.begin_restart(|c| c.shards = shards).unwrap();
            match bench.relay.wait_ready() {
                Ok(()) => started += 1,
                Err(e) => {
                    let why = e.to_string();
                    assert!(why.contains("room") || why.contains("No space left"), "{why}");
                }
            }
        });
    }
    println!("{started} of 3 starts without room succeeded");
    drop(ballast);
    kills.note(|| bench.relay.restart(|c| c.shards = 2)).unwrap();
    let accepted = progress.accepted.load(Relaxed);
    wait_until("mail is accepted again", || progress.accepted.load(Relaxed) > accepted + 100);
    source.stop();
    let sent = source.join();
    assert!(sent.failures.keys().any(|(_, code)| *code == 452), "{:?}", sent.failures);
    assert_only_transient(&sent);
    bench.settle(&sent, &kills);
    drop(bench);
    drop(disk);
}

/// The file system turns read-only under the relay, as after an error of its journal. (Remounting it so is refused by the
/// kernel while segments are open.) It cannot be turned back: the relay is stopped, it is mounted anew.
#[test]
fn read_only_from_one_moment_to_the_next() {
    if relay_command().is_none() {
        return;
    }
    let Some(disk) = SmallDisk::mount(disk_mebibytes()) else { return };
    // Only the spool lies on it: the log must go on.
    let spool = disk.at.join("spool");
    let config = Box::new(move |c: &mut loadtest::relay::RelayConfig| c.spool = spool);
    let Some(mut bench) = Bench::start(Setup { config, shards: 2, ..Setup::default() }) else { return };
    let source = endless(&bench, 4 << 10);
    let progress = source.progress().clone();
    wait_until("mail flows", || progress.accepted.load(Relaxed) > 500 && bench.sink().unique() > 200);
    if !disk.abort() {
        source.stop();
        source.join();
        return;
    }
    wait_until("mail is refused", || progress.retried.load(Relaxed) > 100);
    let accepted = progress.accepted.load(Relaxed);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(progress.accepted.load(Relaxed), accepted, "mail is acknowledged on a read-only disk");
    assert!(bench.relay.is_running(), "{}", bench.relay.log_tail());
    // What it has, it delivers; that it did, it cannot write down.
    let mut kills = Kills { syncs_failed: true, ..Kills::default() };
    kills
        .note(|| {
            bench.relay.kill9().unwrap();
            assert!(disk.unmount() && disk.mount_again());
            bench.relay.restart(|_| {})
        })
        .unwrap();
    wait_until("mail is accepted again", || progress.accepted.load(Relaxed) > accepted + 200);
    source.stop();
    let sent = source.join();
    println!("read-only: {accepted} accepted before, {} in all, refusals {:?}", sent.accepted, sent.failures);
    assert_only_transient(&sent);
    bench.settle(&sent, &kills);
    drop(bench);
    drop(disk);
}

/// The device returns errors to writes and syncs for a while: a thin disk whose store is full. The failed segment is left
/// alone for good; when the device works again, so does the relay, by itself.
#[test]
fn the_device_returns_errors() {
    if relay_command().is_none() {
        return;
    }
    let Some(disk) = SmallDisk::mount_thin(192) else { return };
    let spool = disk.at.join("spool");
    let config = Box::new(move |c: &mut loadtest::relay::RelayConfig| c.spool = spool);
    let Some(mut bench) = Bench::start(Setup { config, ..Setup::default() }) else { return };
    let source = endless(&bench, 4 << 10);
    let progress = source.progress().clone();
    wait_until("mail flows", || progress.accepted.load(Relaxed) > 500 && bench.sink().unique() > 200);
    let ballast = disk.starve();
    wait_until("mail is refused", || progress.retried.load(Relaxed) > 100);
    assert!(bench.relay.is_running(), "{}", bench.relay.log_tail());
    let log = std::fs::read_to_string(bench.relay.log_path()).unwrap();
    let said: Vec<&str> = log.lines().filter(|l| l.contains("WARN") || l.contains("ERROR")).collect();
    println!("the relay said: {:?}", &said[..said.len().min(3)]);
    drop(ballast);
    let accepted = progress.accepted.load(Relaxed);
    wait_until("mail is accepted again", || progress.accepted.load(Relaxed) > accepted + 300);
    // Once more, and killed in the middle of it.
    let ballast = disk.starve();
    let refused = progress.retried.load(Relaxed);
    wait_until("mail is refused again", || progress.retried.load(Relaxed) > refused + 100);
    let mut kills = Kills { syncs_failed: true, ..Kills::default() };
    kills
        .note(|| {
            bench.relay.kill9().unwrap();
            drop(ballast);
            bench.relay.restart(|_| {})
        })
        .unwrap();
    let accepted = progress.accepted.load(Relaxed);
    wait_until("mail is accepted after the restart", || progress.accepted.load(Relaxed) > accepted + 200);
    source.stop();
    let sent = source.join();
    println!("errors of the device: {} in all, refusals {:?}", sent.accepted, sent.failures);
    assert_only_transient(&sent);
    bench.settle(&sent, &kills);
    drop(bench);
    drop(disk);
}
