#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::{self, Machine};
use crate::shard::event::{Notice, NoticeKind};
use crate::shard::stats::LatencyStage;
use crate::time::Wall;
use std::io::{Read, Write};
use std::path::Path;

fn configuration(directory: &Path, admin: bool) -> Arc<Config> {
    let machine = Machine { cores: 1, directory: directory.to_owned(), ..Machine::default() };
    let mut config = config::parse("test", "[log]\nevents = \"events\"", &machine).unwrap().config;
    // Any free port; a configuration file may not say so.
    config.admin = admin.then(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    Arc::new(config)
}

fn delivered(n: usize) -> Event {
    let recipient = format!("user{n}@site.example");
    Event::Delivered(json::tests::outcome([b"a@b.example", recipient.as_bytes(), b"site.example", b"mx", b"ok"]))
}

fn http(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text)
}

fn no_page() -> admin::Page {
    Box::new(|| Ok("{}".to_owned()))
}

#[test]
fn all_events_are_in_the_log_when_the_control_thread_has_finished() {
    let directory = tempfile::tempdir().unwrap();
    let config = configuration(directory.path(), false);
    let (mut sides, links): (Vec<_>, Vec<_>) = (0..2).map(|_| link(&config)).unzip();
    let control = start(config, links, None, (Box::new(|_| ()), no_page())).unwrap();
    for n in 0..20_000 {
        sides[n % 2].events.push(delivered(n));
        if n % 5 == 0 {
            sides[n % 2].events.flush();
        }
    }
    drop(sides);
    assert!(control.finish());
    let text = std::fs::read_to_string(directory.path().join("events")).unwrap();
    let mut seen = vec![false; 20_000];
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let recipient = value["recipient"].as_str().unwrap();
        let n: usize = recipient.trim_start_matches("user").split('@').next().unwrap().parse().unwrap();
        assert!(!std::mem::replace(&mut seen[n], true), "{n} twice");
    }
    assert!(seen.iter().all(|seen| *seen));
}

#[test]
fn the_pages_answer_over_loopback() {
    let directory = tempfile::tempdir().unwrap();
    let config = configuration(directory.path(), true);
    let (mut side, taken) = link(&config);
    let control = start(config, vec![taken], None, (Box::new(|_| ()), no_page())).unwrap();
    side.stats.accepted_messages.add(12);
    side.histograms.record(LatencyStage::Commit, 150);
    side.histograms.publish();
    let address = control.admin_address().unwrap();
    let (status, text) = http(address, "/metrics");
    assert_eq!(status, 200);
    assert!(text.contains("content-type: application/openmetrics-text"), "{text}");
    assert!(text.contains("ringpost_accepted_messages_total{shard=\"0\"} 12\n"), "{text}");
    assert!(
        text.contains("ringpost_stage_latency_recent_seconds{stage=\"commit\",quantile=\"0.99\"} 0.00015"),
        "{text}"
    );
    let (status, text) = http(address, "/healthz");
    assert!(status == 200 && text.ends_with("ok\n"), "{text}");
    let (status, text) = http(address, "/");
    assert!(status == 200 && text.contains("/metrics"));
    assert_eq!(http(address, "/nothing").0, 404);
    assert!(control.finish());
}

#[test]
fn an_admin_address_in_use_or_a_log_that_cannot_be_opened_stops_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = Config::clone(&configuration(directory.path(), false));
    config.admin = Some(taken.local_addr().unwrap());
    let error =
        start(Arc::new(config.clone()), Vec::new(), None, (Box::new(|_| ()), no_page())).err().unwrap().to_string();
    assert!(error.contains("admin.address"), "{error}");
    config.admin = None;
    config.log.events = Events::File(directory.path().join("no/such"));
    let error = start(Arc::new(config), Vec::new(), None, (Box::new(|_| ()), no_page())).err().unwrap().to_string();
    assert!(error.contains("no/such"), "{error}");
}

/// A reader that never reads: the helper thread hangs in its write, as it does on a disk that hangs.
#[test]
fn a_hanging_event_log_stops_neither_the_shards_nor_the_pages_nor_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let config = configuration(directory.path(), true);
    let Events::File(path) = &config.log.events else { panic!() };
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    let _never_read = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let (mut side, taken) = link(&config);
    let control = start(Arc::clone(&config), vec![taken], None, (Box::new(|_| ()), no_page())).unwrap();
    let bound = crate::limits::EVENT_BATCH * crate::limits::EVENT_BATCHES_PER_SHARD;
    // More than the pipe, the write in progress and the queue can hold.
    let mut pushed = 0;
    while side.events.dropped() == 0 {
        side.events.push(delivered(pushed));
        pushed += 1;
        assert!(pushed < 4 * bound, "nothing was dropped");
    }
    assert_eq!(http(control.admin_address().unwrap(), "/healthz").0, 200);
    drop(side);
    assert!(control.finish(), "the thread ends though its helper hangs");
}

#[test]
fn notices_are_told_even_with_the_event_log_off() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::clone(&configuration(directory.path(), false));
    config.log.events = Events::Off;
    let (mut side, mut taken) = link(&config);
    side.events.push(delivered(1));
    side.events.push(Notice::event(Wall(1), 0, NoticeKind::StorageFull, b"x"));
    side.events.flush();
    let mut notices = 0;
    taken.events.take_batch(|event| notices += u32::from(matches!(event, Event::Notice(_))));
    assert_eq!(notices, 1);
}

/// Signals reach a whole process, so this test runs itself again as a process of its own and signals that.
#[test]
fn the_first_signal_drains_the_second_ends_and_sighup_reopens_the_log() {
    const NAME: &str = "control::tests::the_first_signal_drains_the_second_ends_and_sighup_reopens_the_log";
    const DIRECTORY: &str = "RINGPOST_TEST_SIGNALS_DIRECTORY";
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return signalled(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--test-threads=1"])
        .env(DIRECTORY, directory.path())
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
}

fn signalled(directory: &Path) {
    let send = |signal: &str| {
        let me = std::process::id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &me]).status().unwrap().success());
    };
    let config = configuration(directory, true);
    let (mut side, taken) = link(&config);
    let (commands, received) = mpsc::channel();
    let control =
        start(config, vec![taken], None, (Box::new(move |command| commands.send(command).unwrap()), no_page()))
            .unwrap();
    let address = control.admin_address().unwrap();
    assert_eq!(http(address, "/healthz").0, 200);

    std::fs::rename(directory.join("events"), directory.join("moved")).unwrap();
    send("-HUP");
    while !directory.join("events").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }

    let next = || received.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(next(), Command::Reload);
    send("-TERM");
    assert_eq!(next(), Command::Drain);
    let (status, text) = http(address, "/healthz");
    assert!(status == 503 && text.ends_with("draining\n"), "{text}");
    send("-INT");
    assert_eq!(next(), Command::DrainNow);

    side.events.push(delivered(1));
    drop(side);
    assert!(control.finish());
    assert_eq!(std::fs::read_to_string(directory.join("events")).unwrap().lines().count(), 1);
    assert_eq!(std::fs::read(directory.join("moved")).unwrap(), b"");
}

#[test]
fn a_notice_without_details_ends_with_its_name() {
    let words = |kind, details: &[u8]| match Notice::event(Wall(0), 3, kind, details) {
        Event::Notice(notice) => words(&notice),
        _ => unreachable!(),
    };
    assert_eq!(words(NoticeKind::Stopped, b""), "shard 3: stopped");
    assert_eq!(words(NoticeKind::StorageFull, b"no\nroom"), "shard 3: storage_full: no room");
}
