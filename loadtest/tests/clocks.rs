//! The wall clock jumps, back and forth by hours, days and years, under load and across a restart: no mail is lost, none
//! expires by it, no id is given twice, nothing hangs. The relay's clock is libfaketime's; the monotonic one is left alone,
//! as a step of the real clock leaves it.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use common::{Bench, HANG, Kills, Setup, env_number, wait_until};
use loadtest::relay::RelayConfig;
use loadtest::send::{Source, Until};
use loadtest::sink::{Behaviour, Fail};

/// A clock for one process, by libfaketime and a file.
struct Clock {
    file: PathBuf,
    library: PathBuf,
    _dir: tempfile::TempDir,
}

impl Clock {
    /// `None`, with a line that says so: there is no libfaketime. `LIBFAKETIME` names it where it is not in its usual place.
    fn new() -> Option<Clock> {
        let usual = || {
            let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|e| e.path());
            folders.chain(["/usr/lib".into()]).map(|f| f.join("faketime/libfaketimeMT.so.1")).find(|f| f.exists())
        };
        let Some(library) = std::env::var_os("LIBFAKETIME").map(PathBuf::from).or_else(usual) else {
            eprintln!("skipped: there is no libfaketime (Debian: libfaketime)");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock { file: dir.path().join("clock"), library, _dir: dir };
        clock.set("+0");
        Some(clock)
    }

    /// Off by so much from now on: `+6d`, `-3h`, `-10y`.
    fn set(&self, offset: &str) {
        let beside = self.file.with_extension("new");
        fs::write(&beside, offset).unwrap();
        fs::rename(beside, &self.file).unwrap();
    }

    /// Goes before the relay's command.
    fn wrap(&self) -> Option<String> {
        Some(format!(
            "env LD_PRELOAD={} FAKETIME_TIMESTAMP_FILE={} FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1",
            self.library.display(),
            self.file.display()
        ))
    }
}

/// The ids of all messages accepted, by the event log; each once. Times are those of the relay's clock.
fn accepted_events(log: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(log).unwrap();
    let lines = text.lines().filter(|l| l.contains("\"event\":\"accepted\""));
    let events: Vec<serde_json::Value> = lines.map(|l| serde_json::from_str(l).unwrap()).collect();
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_string();
    events.iter().map(|e| (text(&e["id"]), text(&e["time"]))).collect()
}

fn assert_ids_unique(log: &Path, at_least: u64) {
    let events = accepted_events(log);
    let ids: HashSet<&String> = events.iter().map(|(id, _)| id).collect();
    assert!(events.len() as u64 >= at_least, "{} of {at_least} are in the log", events.len());
    assert_eq!(ids.len(), events.len(), "an id was given twice");
}

/// What seems overdue when it comes is tried for the longest interval between two attempts: let that be more than nothing,
/// as it is by default.
fn patient() -> Box<dyn FnOnce(&mut RelayConfig)> {
    Box::new(|c| c.retry_max = Some("1h".into()))
}

#[test]
fn the_clock_jumps_under_load() {
    let Some(clock) = Clock::new() else { return };
    // Much of the mail fails at first, so that some waits for its retry at every jump.
    let behaviour = Behaviour { fail: vec![Fail::parse("rcpt:4xx:0.2").unwrap()], ..Behaviour::default() };
    let setup = Setup { behaviour, shards: 2, wrap: clock.wrap(), config: patient(), ..Setup::default() };
    let Some(mut bench) = Bench::start(setup) else { return };
    let each = env_number("LOADTEST_PER_JUMP", 200);
    let mut load = bench.load(0);
    (load.until, load.rate) = (Until::Messages(u64::MAX), Some(250.0));
    let source = Source::start(load).unwrap();
    let progress = source.progress().clone();
    for offset in ["+0", "-3h", "+2h", "+6d", "-3d", "-10y", "+12d", "+10y", "+0"] {
        clock.set(offset);
        let (accepted, arrived) = (progress.accepted.load(Relaxed), bench.sink().unique());
        wait_until("mail is accepted and arrives between two jumps", || {
            progress.accepted.load(Relaxed) >= accepted + each && bench.sink().unique() >= arrived + each / 2
        });
    }
    source.stop();
    let sent = source.join();
    let found = bench.settle(&sent, &Kills::default());
    assert_eq!((found.duplicates, sent.refused, sent.given_up), (0, 0, 0));
    let log = bench.relay.config().events.clone();
    assert_ids_unique(&log, sent.messages);
    let years: HashSet<String> = accepted_events(&log).iter().map(|(_, time)| time[..4].to_string()).collect();
    assert!(years.len() >= 3, "the clock did not jump: {years:?}");
}

/// Six days forward, with a message in the queue that is minutes old: it is not older for it, and is tried on.
#[test]
fn queued_mail_does_not_age_by_a_jump() {
    let Some(clock) = Clock::new() else { return };
    let Some(mut bench) = Bench::start(Setup { hop_down: true, wrap: clock.wrap(), ..Setup::default() }) else {
        return;
    };
    let sent = Source::run(bench.load(200)).unwrap();
    assert_eq!(sent.accepted, 200);
    let log = bench.relay.config().events.clone();
    let tried = || fs::read_to_string(&log).unwrap().lines().filter(|l| l.contains("\"suspended\"")).count();
    wait_until("the next hop was tried", || tried() > 100);
    clock.set("+6d");
    let before = tried();
    wait_until("the next hop was tried after the jump", || tried() > before + 400);
    assert_eq!(bench.queued().len(), 200);
    bench.start_sink();
    assert_eq!(bench.settle(&sent, &Kills::default()).duplicates, 0);
}

/// A machine whose clock is wrong when it starts and is set right later, as those without a battery do, and restarts of the
/// relay before and after.
#[test]
fn the_clock_is_ten_years_back_at_a_start() {
    let Some(clock) = Clock::new() else { return };
    clock.set("-10y");
    let setup = Setup { hop_down: true, wrap: clock.wrap(), config: patient(), ..Setup::default() };
    let Some(mut bench) = Bench::start(setup) else { return };
    let mut first = bench.load(100);
    first.first_id = 0;
    let mut all = vec![Source::run(first).unwrap()];
    for (round, offset) in ["+0", "-10y", "-3d", "+0"].into_iter().enumerate() {
        // In order, so that the event log has all.
        assert!(bench.relay.terminate(HANG).unwrap().success());
        clock.set(offset);
        bench.relay.restart(|_| {}).unwrap();
        let mut load = bench.load(100);
        load.first_id = (round as u64 + 1) * 100;
        all.push(Source::run(load).unwrap());
    }
    assert_eq!(bench.queued().len(), 500);
    bench.start_sink();
    // At a start every destination is tried at once.
    assert!(bench.relay.terminate(HANG).unwrap().success());
    bench.relay.restart(|_| {}).unwrap();
    for sent in &all {
        assert_eq!(sent.accepted, 100);
        bench.wait_all_arrived(sent);
    }
    // No delivery was under way when it was killed.
    assert_eq!(bench.settle(&all[4], &Kills::default()).duplicates, 0);
    assert_eq!(bench.sink().stats().duplicates, 0);
    assert_ids_unique(&bench.relay.config().events.clone(), 500);
}
