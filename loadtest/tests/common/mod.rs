//! What the process-level tests share: a bench of DNS, sink and relay on loopback, and a plain SMTP client.
//!
//! `LOADTEST_RELAY_CMD` names another relay than the bundled one, as `loadtest run --relay-cmd` takes it.

#![allow(clippy::unwrap_used, dead_code)]

pub mod certs;
pub mod disk;
pub mod dovecot;
pub mod edge;
pub mod exim;
pub mod postfix;
pub mod programs;
pub mod signed;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use loadtest::dns::{DnsConfig, DnsServer};
use loadtest::now_ns;
use loadtest::relay::{Relay, RelayCommand, RelayConfig, free_port};
use loadtest::run::{RunReport, account};
use loadtest::send::{SendConfig, SendReport};
use loadtest::sink::{Arrival, Behaviour, Kept, Sink};
use tempfile::TempDir;

/// A guard against hanging, not a measure: nothing here takes nearly as long.
pub const HANG: Duration = Duration::from_secs(300);

/// The program: relay, sink and DNS server in one.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_loadtest");

/// Deliveries that may be under way, or done and not yet on disk as such, when the relay is killed.
pub const IN_FLIGHT: usize = 1000;

/// The relay under test; `None`, with a line that says so, when this build holds none.
pub fn relay_command() -> Option<RelayCommand> {
    if let Ok(line) = std::env::var("LOADTEST_RELAY_CMD") {
        return Some(RelayCommand::Shell(line));
    }
    Some(RelayCommand::Bundled(PROGRAM.into()))
}

/// The relay started by another program, like `env NAME=VALUE` or `prlimit --nofile=256`, that becomes it.
fn wrapped(wrap: &str) -> Option<RelayCommand> {
    Some(RelayCommand::Shell(match relay_command()? {
        RelayCommand::Bundled(program) => format!("{wrap} {} relay run --config {{config}}", program.display()),
        RelayCommand::Shell(line) => format!("{wrap} {line}"),
    }))
}

/// How a bench differs from the usual.
pub struct Setup {
    pub behaviour: Behaviour,
    pub keep: usize,
    /// Start without a sink; [`Bench::start_sink`] brings it later.
    pub hop_down: bool,
    pub shards: usize,
    pub config: Box<dyn FnOnce(&mut RelayConfig)>,
    /// Words before the relay's command.
    pub wrap: Option<String>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            behaviour: Behaviour::default(),
            keep: 0,
            hop_down: false,
            shards: 1,
            config: Box::new(|_| {}),
            wrap: None,
        }
    }
}

/// DNS, sink and relay, each on free ports.
pub struct Bench {
    // In the order in which they are to end.
    pub relay: Relay,
    pub sink: Option<Sink>,
    pub dns: DnsServer,
    behaviour: Behaviour,
    keep: usize,
    sink_port: u16,
    pub dir: TempDir,
}

impl Bench {
    /// `None`: there is no relay to test.
    pub fn start(setup: Setup) -> Option<Bench> {
        // On a disk: under target/.
        Bench::start_in(Path::new(env!("CARGO_TARGET_TMPDIR")), setup)
    }

    pub fn start_in(parent: &Path, setup: Setup) -> Option<Bench> {
        let command = match &setup.wrap {
            Some(wrap) => wrapped(wrap)?,
            None => relay_command()?,
        };
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(parent).unwrap();
        let dns = DnsServer::start(DnsConfig::default()).unwrap();
        let sink = (!setup.hop_down).then(|| Sink::on_loopback(0, setup.behaviour.clone(), setup.keep).unwrap());
        let sink_port = sink.as_ref().map_or_else(|| free_port().unwrap(), Sink::port);
        let mut config = RelayConfig::new(dir.path().join("spool"), dns.address(), sink_port).unwrap();
        config.shards = setup.shards;
        config.retry_first = Some("1s".into());
        config.retry_max = Some("2s".into());
        (setup.config)(&mut config);
        let relay = Relay::start(command, config, dir.path()).unwrap();
        let (behaviour, keep) = (setup.behaviour, setup.keep);
        Some(Bench { relay, sink, dns, behaviour, keep, sink_port, dir })
    }

    pub fn start_sink(&mut self) {
        self.sink = Some(Sink::on_loopback(self.sink_port, self.behaviour.clone(), self.keep).unwrap());
    }

    pub fn sink(&self) -> &Sink {
        self.sink.as_ref().unwrap()
    }

    /// A load of `messages` for this relay, patient enough for restarts.
    pub fn load(&self, messages: u64) -> SendConfig {
        SendConfig { patience: HANG, attempts: u32::MAX, ..SendConfig::new(self.relay.address(), messages) }
    }

    /// Waits until all that was accepted has arrived, and checks that it is whole.
    pub fn wait_all_arrived(&self, sent: &SendReport) -> Vec<Arrival> {
        let mut missing = Vec::new();
        let end = Instant::now() + HANG;
        while Instant::now() < end {
            let arrivals = self.sink().arrivals();
            missing = sent
                .accepted_ids()
                .map(|(id, _)| id)
                .filter(|id| arrivals.get(*id as usize).is_none_or(|a| a.count == 0))
                .collect();
            if missing.is_empty() {
                assert_eq!(self.sink().stats().corrupt, 0, "damaged: {:?}", self.sink().corrupt_ids());
                return arrivals;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        missing.truncate(20);
        panic!("accepted with 250 and never arrived: {missing:?}\n{}", self.relay.log_tail());
    }

    /// The recipients that `ringpost spool list` calls queued. Another relay's spool is not looked into.
    pub fn queued(&self) -> Vec<String> {
        queued(&self.relay.config().spool)
    }

    /// The end of a test: what was accepted arrives, the queue drains, SIGTERM ends the relay in order and nothing comes
    /// twice but what the kills explain.
    pub fn settle(&mut self, sent: &SendReport, kills: &Kills) -> RunReport {
        self.wait_all_arrived(sent);
        wait_until("the queue drains", || self.queued().is_empty());
        let status = self.relay.terminate(HANG).unwrap();
        assert!(status.success(), "{status}: {}", self.relay.log_tail());
        // Nobody delivers any more: what has arrived now is all there will be.
        let arrivals = self.sink().arrivals();
        let found = account(sent, &arrivals);
        println!(
            "{} accepted, {} lost, {} replies cut off, {} duplicates: {} sent again by the source, {} by the relay; {:?}",
            found.sent.accepted,
            found.lost,
            sent.uncertain,
            found.duplicates,
            found.duplicates_from_source,
            found.duplicates_from_relay,
            sent.failures,
        );
        assert_eq!((found.lost, found.duplicates_from_sink, self.sink().stats().null_sender), (0, 0, 0));
        kills.assert_explain(sent, &arrivals);
        found
    }

    /// Waits for a kept message that `like` recognises.
    pub fn wait_kept(&self, what: &str, like: impl Fn(&Kept) -> bool) -> Kept {
        let mut found = None;
        wait_until(what, || {
            found = self.sink().kept().into_iter().find(&like);
            found.is_some()
        });
        found.unwrap()
    }

    pub fn client(&self) -> Client {
        Client::connect(self.relay.address())
    }
}

/// Polls until `done`; panics with `what` when it never is.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + HANG;
    while !done() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An SMTP client that says what it is told and returns whole replies.
pub struct Client {
    stream: TcpStream,
    input: BufReader<TcpStream>,
}

impl Client {
    /// Connects and takes the greeting.
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        let mut c = Client { input: BufReader::new(stream.try_clone().unwrap()), stream };
        let greeting = c.reply();
        assert!(greeting.starts_with("220 "), "{greeting}");
        c
    }

    /// One reply, all its lines.
    pub fn reply(&mut self) -> String {
        let mut whole = String::new();
        loop {
            let mut line = String::new();
            self.input.read_line(&mut line).unwrap();
            assert!(line.len() >= 4, "not a reply: {line:?}");
            whole.push_str(&line);
            if line.as_bytes()[3] == b' ' {
                return whole;
            }
        }
    }

    pub fn write(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).unwrap();
    }

    /// A command line and its reply.
    pub fn command(&mut self, line: &str) -> String {
        self.write(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// As [`Client::command`]; the reply must begin with `code`.
    pub fn expect(&mut self, line: &str, code: &str) -> String {
        let reply = self.command(line);
        assert!(reply.starts_with(code), "{line}: {reply}");
        reply
    }

    /// A whole message: `wire` is header and body, dot-stuffed, with the last CRLF.
    pub fn send(&mut self, from: &str, to: &[&str], wire: &[u8]) -> String {
        self.expect(&format!("MAIL FROM:<{from}>"), "250");
        for r in to {
            self.expect(&format!("RCPT TO:<{r}>"), "250");
        }
        self.expect("DATA", "354");
        self.write(wire);
        self.write(b".\r\n");
        let reply = self.reply();
        assert!(reply.starts_with("250"), "{reply}");
        reply
    }
}

/// When the relay was killed: each time from just before until the next one answered.
#[derive(Default)]
pub struct Kills {
    pub times: Vec<(u64, u64)>,
    /// Syncs failed, and nothing could be written after them that says so: what was refused then may be found whole by
    /// the next start, and come although the source sent it again.
    pub syncs_failed: bool,
}

impl Kills {
    /// Takes note of a kill and what follows it, done by `kill`.
    pub fn note<T>(&mut self, kill: impl FnOnce() -> T) -> T {
        let before = now_ns();
        let result = kill();
        self.times.push((before, now_ns()));
        result
    }

    /// The relay's own duplicates first came among the last before a kill.
    pub fn assert_explain(&self, sent: &SendReport, arrivals: &[Arrival]) {
        let mut order: Vec<u64> = arrivals.iter().map(|a| a.first_ns).filter(|t| *t > 0).collect();
        order.sort_unstable();
        let rank = |t: u64| order.partition_point(|x| *x < t);
        for id in repeated(arrivals) {
            let Some(delivery) = id.checked_sub(sent.first_id).and_then(|i| sent.deliveries.get(i as usize)) else {
                continue;
            };
            let arrival = arrivals[id as usize];
            let refused = if self.syncs_failed { u32::from(delivery.deferred) } else { 0 };
            if arrival.count - 1 <= delivery.uncertain + refused {
                continue;
            }
            let r = rank(arrival.first_ns);
            let explained =
                self.times.iter().any(|(kill, back)| r + IN_FLIGHT >= rank(*kill) && arrival.first_ns <= *back);
            assert!(explained, "u{id} came {} times, first not just before a kill", arrival.count);
        }
    }
}

/// The recipients that `spool list` calls queued, with a server running or without.
pub fn queued(spool: &Path) -> Vec<String> {
    if std::env::var_os("LOADTEST_RELAY_CMD").is_some() {
        return Vec::new();
    }
    let list = || Command::new(PROGRAM).args(["relay", "spool", "list"]).arg(spool).output().unwrap();
    let mut output = list();
    // A running server may remove a segment between the listing of the folder and its reading.
    for _ in 0..20 {
        if output.status.success() {
            break;
        }
        eprintln!("spool list: {}", String::from_utf8_lossy(&output.stderr).trim());
        output = list();
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let recipients = text.split(" → ").filter_map(|part| part.trim_start().strip_prefix('<')?.split_once("> queued"));
    recipients.map(|(address, _)| address.to_string()).collect()
}

/// A child process that does not outlive its handle.
pub struct Process(pub std::process::Child);

impl Process {
    /// This program with these arguments; its output goes to `log`.
    pub fn start(arguments: &[&str], log: &Path) -> Process {
        let log = std::fs::File::create(log).unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(arguments).stdin(std::process::Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Process(command.spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How often something is in a list of ids: the ids that came more than once.
pub fn repeated(arrivals: &[Arrival]) -> HashSet<u64> {
    (0..).zip(arrivals).filter(|(_, a)| a.count > 1).map(|(id, _)| id).collect()
}

/// A number from the environment, for the long versions of tests.
pub fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().unwrap())
}

/// Whether a program is there; prints why a test is skipped if not.
pub fn have(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap().status.success();
    if !found {
        eprintln!("skipped: there is no {program}");
    }
    found
}
