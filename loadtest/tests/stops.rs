//! SIGSTOP in the middle of traffic, of the relay, of the next hop, of the DNS server; then SIGCONT. Each is a process.
//! Nothing is lost and nothing comes twice: no timeout of either side is as short as the stop.
//!
//! A minute each: `LOADTEST_STOP_SECONDS=60 cargo test --release -p loadtest --test stops -- --nocapture`.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use common::{HANG, Process, env_number, queued, relay_command, wait_until};
use loadtest::relay::{Relay, RelayConfig, free_port, signal};
use loadtest::run::account;
use loadtest::send::{SendConfig, SendReport, Source, Until};
use loadtest::sink::Arrival;
use rustix::process::Signal;

/// Mail a second: what waits after a minute is gone a moment later.
const RATE: f64 = 250.0;
/// The relay's bound of connections to one destination: its default.
const CONNECTIONS: u64 = 20;

struct Bench {
    relay: Relay,
    hop: Process,
    dns: Process,
    arrivals: PathBuf,
    stats: PathBuf,
    dir: tempfile::TempDir,
}

impl Bench {
    fn start(smart_host: bool) -> Option<Bench> {
        let command = relay_command()?;
        let dir = tempfile::Builder::new().prefix("stops-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let file = |name: &str| dir.path().join(name);
        let (port, dns_port) = (free_port().unwrap(), free_port().unwrap());
        let dns_address = format!("127.0.0.1:{dns_port}");
        // Forgotten after the shortest time the relay keeps anything: it must go on asking.
        let dns = Process::start(&["dns", "--listen", &dns_address, "--ttl", "1"], &file("dns.log"));
        let (arrivals, stats) = (file("arrivals"), file("stats"));
        let listen = format!("0.0.0.0:{port}");
        let tables = ["--arrivals", arrivals.to_str()?, "--stats", stats.to_str()?];
        let arguments = [&["sink", "--listen", &listen, "--loopback-only"][..], &tables].concat();
        let hop = Process::start(&arguments, &file("hop.log"));
        wait_until("the next hop listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let mut config = RelayConfig::new(file("spool"), dns_address.parse().unwrap(), port).unwrap();
        config.smart_host = smart_host.then(|| format!("127.0.0.1:{port}"));
        config.shards = 2;
        (config.retry_first, config.retry_max) = (Some("1s".into()), Some("2s".into()));
        let relay = Relay::start(command, config, dir.path()).unwrap();
        Some(Bench { relay, hop, dns, arrivals, stats, dir })
    }

    fn source(&self) -> Source {
        let mut load = SendConfig::new(self.relay.address(), 0);
        (load.until, load.rate) = (Until::Messages(u64::MAX), Some(RATE));
        (load.patience, load.attempts) = (HANG, u32::MAX);
        Source::start(load).unwrap()
    }

    /// The table that the next hop writes once a second.
    fn arrivals(&self) -> Vec<Arrival> {
        let text = fs::read_to_string(&self.arrivals).unwrap_or("[]".into());
        let rows: Vec<(usize, u32, u32)> = serde_json::from_str(&text).unwrap();
        let mut table = vec![Arrival::default(); rows.last().map_or(0, |r| r.0 + 1)];
        for (id, count, unanswered) in rows {
            // Another process's clock means nothing here.
            table[id] = Arrival { first_ns: 1, count, unanswered };
        }
        table
    }

    fn stat(&self, name: &str) -> u64 {
        let stats: serde_json::Value = serde_json::from_str(&fs::read_to_string(&self.stats).unwrap()).unwrap();
        stats[name].as_u64().unwrap()
    }

    /// All that was accepted arrives, once; the queue drains; all three end when they are told to.
    fn finish(mut self, sent: &SendReport, one_destination: bool) {
        assert_eq!((sent.given_up, sent.refused), (0, 0), "{:?} {:?}", sent.failures, sent.last_error);
        wait_until("all that was accepted has arrived", || {
            let table = self.arrivals();
            sent.accepted_ids().all(|(id, _)| table.get(id as usize).is_some_and(|a| a.count > 0))
        });
        wait_until("the queue drains", || queued(&self.relay.config().spool).is_empty());
        let status = self.relay.terminate(HANG).unwrap();
        assert!(status.success(), "{status}: {}", self.relay.log_tail());
        signal(self.hop.0.id(), Signal::TERM).unwrap();
        assert!(self.hop.0.wait().unwrap().success());
        let found = account(sent, &self.arrivals());
        println!(
            "  {} accepted, {} delivered, {} lost, {} duplicates, {} replies cut off; at most {} connections to the next hop",
            found.sent.accepted,
            found.delivered,
            found.lost,
            found.duplicates,
            sent.uncertain,
            self.stat("max_open")
        );
        assert_eq!((found.lost, found.duplicates, self.stat("corrupt"), self.stat("null_sender")), (0, 0, 0, 0));
        if one_destination {
            assert!(self.stat("max_open") <= CONNECTIONS, "{}", self.stat("max_open"));
        }
        drop(self.dir);
    }
}

/// The letter of its state in /proc: T is stopped.
fn state(pid: u32) -> char {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

/// Stops one of the three under load. `takes_mail`: the relay goes on accepting meanwhile.
fn stop(what: &str, pid: impl Fn(&Bench) -> u32, smart_host: bool, takes_mail: bool) {
    let seconds = env_number("LOADTEST_STOP_SECONDS", 5);
    let Some(bench) = Bench::start(smart_host) else { return };
    let source = bench.source();
    let accepted = || source.progress().accepted.load(Relaxed);
    wait_until("mail flows", || accepted() > 300 && bench.arrivals().len() > 100);
    let (pid, relay) = (pid(&bench), bench.relay.pid());
    signal(pid, Signal::STOP).unwrap();
    wait_until("it is stopped", || state(pid) == 'T');
    let (before, cpu) = (accepted(), bench.relay.cpu());
    std::thread::sleep(Duration::from_secs(seconds));
    let (meanwhile, cpu) = (accepted() - before, bench.relay.cpu() - cpu);
    assert_eq!(state(pid), 'T');
    signal(pid, Signal::CONT).unwrap();
    println!(
        "{what} stopped for {seconds} s: {meanwhile} accepted meanwhile, the relay used {:.2} s of CPU",
        cpu.as_secs_f64()
    );
    if takes_mail {
        assert!(meanwhile > 0, "no mail was taken while {what} was stopped");
    } else {
        // What was acknowledged and not yet read.
        assert!(meanwhile <= 200, "{meanwhile}");
    }
    let (now, arrived) = (accepted(), bench.arrivals().len() as u64);
    wait_until("mail flows again", || accepted() > now + 300 && bench.arrivals().len() as u64 > arrived + 300);
    source.stop();
    let sent = source.join();
    assert_eq!(bench.relay.pid(), relay);
    bench.finish(&sent, smart_host);
}

#[test]
fn the_relay_is_stopped() {
    stop("the relay", |b| b.relay.pid(), true, false);
}

#[test]
fn the_next_hop_is_stopped() {
    stop("the next hop", |b| b.hop.0.id(), true, true);
}

#[test]
fn the_dns_server_is_stopped() {
    stop("the DNS server", |b| b.dns.0.id(), false, true);
}
