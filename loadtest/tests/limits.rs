//! Memory stays bounded: with a long queue, with many idle connections, with a large message. And a full disk is
//! survived.
//!
//! The long versions: `LOADTEST_QUEUED=200000 cargo test --release -p loadtest --test limits`.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;

use common::{Bench, Client, Setup, env_number, have, wait_until};
use loadtest::send::{Source, Until};
use loadtest::traffic::SizeMix;

#[test]
fn a_long_queue_is_held_in_bounded_memory() {
    let messages = env_number("LOADTEST_QUEUED", 5_000);
    let Some(mut bench) = Bench::start(Setup { hop_down: true, shards: 2, ..Setup::default() }) else { return };
    let sent = Source::run(bench.load(messages)).unwrap();
    assert_eq!(sent.accepted, messages, "{:?} {:?}", sent.failures, sent.last_error);
    let resident = bench.relay.resident_peak();
    let mut times: Vec<u64> = sent.deliveries.iter().map(|d| d.accepted_ns).collect();
    times.sort_unstable();
    let tenth = times.len() / 10;
    let first = (times[tenth] - times[0]) as f64;
    let last = (times[times.len() - 1] - times[times.len() - 1 - tenth]) as f64;
    println!(
        "{messages} queued: {} MB resident at most; the last tenth at {:.2} × the rate of the first",
        resident / 1_000_000,
        first / last
    );
    assert!(resident <= 300_000_000, "{resident}");
    if messages >= 100_000 {
        // Asked for by name on a machine that does nothing else: here the rate is the point.
        assert!(first / last >= 0.9, "{}", first / last);
    }
    bench.start_sink();
    bench.wait_all_arrived(&sent);
    assert_eq!(bench.sink().stats().duplicates, 0);
}

#[test]
fn an_idle_connection_is_cheap() {
    let count = env_number("LOADTEST_IDLE", 5_000);
    let Some((_, hard)) = raise_descriptors() else { return };
    if hard < count + 200 {
        eprintln!("skipped: at most {hard} file descriptors here");
        return;
    }
    let Some(bench) = Bench::start(Setup { shards: 2, ..Setup::default() }) else { return };
    let open = |n: u64| -> Vec<Client> {
        (0..n)
            .map(|_| {
                let mut c = bench.client();
                c.expect("EHLO idle.test", "250");
                c
            })
            .collect()
    };
    // What the first connections bring into memory is not what a connection costs.
    let warm = open(100);
    let before = bench.relay.resident();
    let mut idle = open(count);
    let each = bench.relay.resident().saturating_sub(before) / count;
    println!("{count} idle connections: {each} octets of resident memory each");
    assert!(each <= 16 << 10, "{each}");
    for c in idle.iter_mut() {
        c.expect("NOOP", "250");
    }
    drop(warm);
}

/// Soft and hard bound of file descriptors, the soft one raised; the relay inherits it.
fn raise_descriptors() -> Option<(u64, u64)> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let hard = now.maximum.unwrap_or(u64::MAX);
    setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }).ok()?;
    Some((now.current.unwrap_or(u64::MAX), hard))
}

#[test]
fn a_large_message_passes_in_little_memory() {
    let Some(mut bench) = Bench::start(Setup { shards: 1, ..Setup::default() }) else { return };
    bench.wait_all_arrived(&Source::run(bench.load(200)).unwrap());
    let mut load = bench.load(1);
    load.first_id = 1000;
    load.traffic.sizes = SizeMix::one((50 << 20) - 1000);
    let before = bench.relay.resident();
    bench.relay.reset_resident_peak().unwrap();
    let sent = Source::run(load).unwrap();
    assert_eq!(sent.accepted, 1, "{:?} {:?}", sent.failures, sent.last_error);
    // The sink compares length and checksum.
    bench.wait_all_arrived(&sent);
    let more = bench.relay.resident_peak().saturating_sub(before);
    println!("a message of 50 MiB: {:.1} MB more resident memory", more as f64 / 1e6);
    assert!(more <= 40_000_000, "{more}");
}

/// A small ext4 in a file, mounted; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(mebibytes: u64) -> Option<(SmallDisk, tempfile::TempDir)> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may mount a file system");
            return None;
        }
        if !have("mkfs.ext4") {
            return None;
        }
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (image, at) = (dir.path().join("image"), dir.path().join("disk"));
        fs::create_dir(&at).unwrap();
        fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        let run = |program: &str, args: &[&std::ffi::OsStr]| {
            let output = Command::new(program).args(args).output().unwrap();
            let why = String::from_utf8_lossy(&output.stderr).trim().to_string();
            if !output.status.success() {
                eprintln!("skipped: {program}: {why}");
            }
            output.status.success()
        };
        // No reserve for root: who tests may be root, and the disk shall be full for it too.
        let made = run("mkfs.ext4", &["-q".as_ref(), "-m".as_ref(), "0".as_ref(), image.as_os_str()])
            && run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), at.as_os_str()]);
        made.then(|| (SmallDisk(at), dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_loses_nothing_and_service_resumes() {
    if common::relay_command().is_none() {
        return;
    }
    let Some((disk, _image)) = SmallDisk::mount(env_number("LOADTEST_DISK_MIB", 512)) else { return };
    // Room for the relay to start in; the rest is ballast.
    let ballast = disk.0.join("ballast");
    let Some(mut bench) = Bench::start_in(&disk.0, Setup { hop_down: true, shards: 1, ..Setup::default() }) else {
        return;
    };
    let free = rustix::fs::statvfs(&disk.0).unwrap();
    let free = free.f_bavail * free.f_frsize;
    let file = fs::File::create(&ballast).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free.saturating_sub(8 << 20)).unwrap();

    let mut load = bench.load(0);
    load.until = Until::Messages(u64::MAX);
    load.traffic.sizes = SizeMix::one(64 << 10);
    let source = Source::start(load).unwrap();
    let progress = source.progress().clone();
    wait_until("the disk is full", || progress.retried.load(Relaxed) > 50);
    assert!(bench.relay.is_running(), "{}", bench.relay.log_tail());
    let accepted = progress.accepted.load(Relaxed);
    fs::remove_file(&ballast).unwrap();
    drop(file);
    wait_until("mail is accepted again", || progress.accepted.load(Relaxed) > accepted + 200);
    source.stop();
    let sent = source.join();
    println!("a full disk: {accepted} accepted before, {} in all, refusals {:?}", sent.accepted, sent.failures);
    assert!(sent.failures.keys().any(|(_, code)| *code == 452), "{:?}", sent.failures);
    assert!(sent.failures.keys().all(|(_, code)| code / 100 == 4), "{:?}", sent.failures);
    bench.start_sink();
    bench.wait_all_arrived(&sent);
    // The bench lies on the disk.
    drop(bench);
    drop(disk);
}
