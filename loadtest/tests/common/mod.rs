//! What the process-level tests share: a bench of DNS, sink and relay on loopback, and a plain SMTP client.
//!
//! `LOADTEST_RELAY_CMD` names another relay than the bundled one, as `loadtest run --relay-cmd` takes it.

#![allow(clippy::unwrap_used, dead_code)]

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use loadtest::dns::{DnsConfig, DnsServer};
use loadtest::relay::{Relay, RelayCommand, RelayConfig, free_port};
use loadtest::send::{SendConfig, SendReport};
use loadtest::sink::{Arrival, Behaviour, Kept, Sink};
use tempfile::TempDir;

/// A guard against hanging, not a measure: nothing here takes nearly as long.
pub const HANG: Duration = Duration::from_secs(300);

/// The relay under test; `None`, with a line that says so, when this build holds none.
pub fn relay_command() -> Option<RelayCommand> {
    if let Ok(line) = std::env::var("LOADTEST_RELAY_CMD") {
        return Some(RelayCommand::Shell(line));
    }
    Some(RelayCommand::Bundled(env!("CARGO_BIN_EXE_loadtest").into()))
}

/// How a bench differs from the usual.
pub struct Setup {
    pub behaviour: Behaviour,
    pub keep: usize,
    /// Start without a sink; [`Bench::start_sink`] brings it later.
    pub hop_down: bool,
    pub shards: usize,
    pub config: Box<dyn FnOnce(&mut RelayConfig)>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { behaviour: Behaviour::default(), keep: 0, hop_down: false, shards: 1, config: Box::new(|_| {}) }
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
        let command = relay_command()?;
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
