//! The relay under test as a process: written a configuration, started, waited for, measured, killed.
//!
//! In: [`RelayConfig`] and a folder. Out: a handle that ends the process when dropped. Nothing of the relay's insides is
//! known here but the configuration's keys.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::cpu;

/// How the relay is started.
#[derive(Clone, Debug)]
pub enum RelayCommand {
    /// `EXE relay run --config FILE`: this program's hidden subcommand.
    Bundled(PathBuf),
    /// Any relay, by `sh`. `{config}` stands for the configuration file; the environment holds LISTEN (address:port
    /// to listen on), DNS (the server to ask), DELIVERY_PORT (what to connect to at an exchanger) and SPOOL (a folder).
    Shell(String),
}

/// What is written into the relay's configuration file.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Its name in greeting and Received.
    pub hostname: String,
    /// Shards; 0: as many as the relay thinks right.
    pub shards: usize,
    /// Folder of the spool.
    pub spool: PathBuf,
    /// The relay listener.
    pub listen: SocketAddr,
    /// Who may relay.
    pub from_networks: Vec<String>,
    /// Inbound sessions of a shard: the fewer, the more descriptors there are for deliveries.
    pub max_sessions: Option<usize>,
    /// The only DNS server.
    pub dns: SocketAddr,
    /// Port of every mail exchanger.
    pub delivery_port: u16,
    /// Next hop of everything, `host:port`.
    pub smart_host: Option<String>,
    /// More lines of `[delivery]`.
    pub delivery: String,
    /// Wait before a message's second attempt, as the configuration writes durations (`1s`).
    pub retry_first: Option<String>,
    /// Longest wait between two attempts.
    pub retry_max: Option<String>,
    /// Age at which a message is given up and bounced.
    pub give_up: Option<String>,
    /// File of the event log.
    pub events: PathBuf,
    /// More lines of `[dns]`.
    pub dns_lines: String,
    /// TOML appended as it is.
    pub extra: String,
}

impl RelayConfig {
    /// For loopback: any free port, relaying for 127/8.
    pub fn new(spool: PathBuf, dns: SocketAddr, delivery_port: u16) -> io::Result<RelayConfig> {
        Ok(RelayConfig {
            events: spool.with_file_name("events.jsonl"),
            hostname: "relay.test".into(),
            shards: 0,
            spool,
            listen: ([127, 0, 0, 1], free_port()?).into(),
            from_networks: vec!["127.0.0.0/8".into()],
            max_sessions: None,
            dns,
            delivery_port,
            smart_host: None,
            delivery: String::new(),
            retry_first: None,
            retry_max: None,
            give_up: None,
            dns_lines: String::new(),
            extra: String::new(),
        })
    }

    /// The configuration file's text.
    pub fn to_toml(&self) -> String {
        let mut t = String::new();
        // Writing to a String cannot fail. `{:?}` of such strings is TOML's basic string.
        let _ = writeln!(t, "hostname = {:?}", self.hostname);
        if self.shards > 0 {
            let _ = writeln!(t, "shards = {}", self.shards);
        }
        let _ = writeln!(t, "\n[spool]\npath = {:?}", self.spool.display().to_string());
        let _ = writeln!(t, "\n[[listener]]\naddress = \"{}\"\nkind = \"relay\"", self.listen);
        let _ = writeln!(t, "\n[relay]\nfrom_networks = {:?}", self.from_networks);
        if let Some(sessions) = self.max_sessions {
            let _ = writeln!(t, "\n[smtp]\nmax_sessions_per_shard = {sessions}");
        }
        let _ = write!(t, "\n[dns]\nservers = [\"{}\"]\n{}", self.dns, self.dns_lines);
        let _ = writeln!(t, "\n[delivery]\nport = {}", self.delivery_port);
        if let Some(host) = &self.smart_host {
            let _ = writeln!(t, "smart_host = {host:?}");
        }
        t.push_str(&self.delivery);
        let retry = [("first", &self.retry_first), ("max", &self.retry_max), ("give_up", &self.give_up)];
        if retry.iter().any(|(_, v)| v.is_some()) {
            let _ = writeln!(t, "\n[delivery.retry]");
            for (key, value) in retry {
                if let Some(value) = value {
                    let _ = writeln!(t, "{key} = {value:?}");
                }
            }
        }
        let _ = writeln!(t, "\n[log]\nevents = {:?}", self.events.display().to_string());
        t.push_str(&self.extra);
        t
    }
}

/// A TCP port of 127.0.0.1 that is free now.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// How long a relay may take to answer after its start: recovery of a full spool included.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// A relay process; killed when dropped.
pub struct Relay {
    command: RelayCommand,
    config: RelayConfig,
    dir: PathBuf,
    child: Child,
    /// CPU time and peak memory of the processes before this one.
    past_cpu: Duration,
    past_peak: u64,
}

impl Relay {
    /// Writes `relay.toml` into `dir`, starts the relay (its output goes to `relay.log` there) and waits until it
    /// greets. Errors: it ended, or did not answer in time; the text holds the end of its log.
    pub fn start(command: RelayCommand, config: RelayConfig, dir: &Path) -> io::Result<Relay> {
        fs::create_dir_all(&config.spool)?;
        let child = spawn(&command, &config, dir)?;
        let (dir, past_cpu) = (dir.to_path_buf(), Duration::ZERO);
        let mut relay = Relay { command, config, dir, child, past_cpu, past_peak: 0 };
        relay.wait_ready()?;
        Ok(relay)
    }

    /// Starts it again after its end, perhaps with a changed configuration, on the same spool.
    pub fn restart(&mut self, change: impl FnOnce(&mut RelayConfig)) -> io::Result<()> {
        self.begin_restart(change)?;
        self.wait_ready()
    }

    /// As [`Relay::restart`], without waiting until it answers.
    pub fn begin_restart(&mut self, change: impl FnOnce(&mut RelayConfig)) -> io::Result<()> {
        self.kill9()?;
        change(&mut self.config);
        self.child = spawn(&self.command, &self.config, &self.dir)?;
        Ok(())
    }

    /// Waits until it greets. Errors: it ended, or did not answer in time; the text holds the end of its log.
    pub fn wait_ready(&mut self) -> io::Result<()> {
        let end = Instant::now() + START_DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("the relay ended with {status}:\n{}", self.log_tail())));
            }
            if greets(self.config.listen) {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(io::Error::other(format!("the relay does not answer:\n{}", self.log_tail())));
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Where it takes mail.
    pub fn address(&self) -> SocketAddr {
        self.config.listen
    }

    /// Its configuration.
    pub fn config(&self) -> &RelayConfig {
        &self.config
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// kill -9, and waits until it is gone.
    pub fn kill9(&mut self) -> io::Result<()> {
        if self.child.try_wait()?.is_none() {
            (self.past_cpu, self.past_peak) = (self.cpu(), self.resident_peak());
            for pid in cpu::family(self.pid()).into_iter().rev() {
                let _ = signal(pid, Signal::KILL);
            }
            self.child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM, without waiting.
    pub fn begin_terminate(&mut self) -> io::Result<()> {
        (self.past_cpu, self.past_peak) = (self.cpu(), self.resident_peak());
        signal(self.pid(), Signal::TERM)
    }

    /// Waits for its end; an error when it has not ended by the deadline.
    pub fn wait(&mut self, deadline: Duration) -> io::Result<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the relay does not end"));
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self, deadline: Duration) -> io::Result<ExitStatus> {
        self.begin_terminate()?;
        self.wait(deadline)
    }

    /// CPU time of all its processes, those before a restart included; to 10 ms.
    pub fn cpu(&self) -> Duration {
        self.past_cpu + cpu::family(self.pid()).into_iter().map(cpu::of_process).sum::<Duration>()
    }

    /// Resident memory now, octets.
    pub fn resident(&self) -> u64 {
        cpu::family(self.pid()).into_iter().filter_map(cpu::resident).sum()
    }

    /// The most it ever had, octets, restarts included.
    pub fn resident_peak(&self) -> u64 {
        let now: u64 = cpu::family(self.pid()).into_iter().filter_map(cpu::resident_peak).sum();
        self.past_peak.max(now)
    }

    /// Forgets the peak: the next [`Relay::resident_peak`] counts from now.
    pub fn reset_resident_peak(&mut self) -> io::Result<()> {
        self.past_peak = 0;
        // proc(5): 5 resets the peak resident set size.
        fs::write(format!("/proc/{}/clear_refs", self.pid()), "5")
    }

    /// Bounds the size of files it writes (RLIMIT_FSIZE), or lifts the bound.
    pub fn limit_file_size(&self, octets: Option<u64>) -> io::Result<()> {
        let pid = pid_of(self.pid())?;
        prlimit(Some(pid), Resource::Fsize, Rlimit { current: octets, maximum: None })?;
        Ok(())
    }

    /// Bounds its private writable memory (RLIMIT_DATA), or lifts the bound: beyond it the kernel gives no more.
    pub fn limit_memory(&self, octets: Option<u64>) -> io::Result<()> {
        prlimit(Some(pid_of(self.pid())?), Resource::Data, Rlimit { current: octets, maximum: None })?;
        Ok(())
    }

    /// The file its output goes to.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("relay.log")
    }

    /// The end of its output.
    pub fn log_tail(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(3000)..]).into_owned()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.kill9();
    }
}

fn pid_of(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Sends a signal to one process.
pub fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    Ok(kill_process(pid_of(pid)?, signal)?)
}

fn spawn(command: &RelayCommand, config: &RelayConfig, dir: &Path) -> io::Result<Child> {
    let file = dir.join("relay.toml");
    fs::write(&file, config.to_toml())?;
    let log = File::options().create(true).append(true).open(dir.join("relay.log"))?;
    let mut c = match command {
        RelayCommand::Bundled(exe) => {
            let mut c = Command::new(exe);
            c.args(["relay", "run", "--config"]).arg(&file);
            c
        }
        RelayCommand::Shell(line) => {
            let mut c = Command::new("sh");
            c.arg("-c").arg(format!("exec {}", line.replace("{config}", &file.display().to_string())));
            c
        }
    };
    c.env("LISTEN", config.listen.to_string())
        .env("DNS", config.dns.to_string())
        .env("DELIVERY_PORT", config.delivery_port.to_string())
        .env("SPOOL", &config.spool)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    c.spawn().map_err(|e| io::Error::new(e.kind(), format!("cannot start the relay: {e}")))
}

fn greets(address: SocketAddr) -> bool {
    let Ok(mut s) = TcpStream::connect_timeout(&address, Duration::from_secs(2)) else { return false };
    let mut code = [0; 4];
    s.set_read_timeout(Some(Duration::from_secs(5))).is_ok() && s.read_exact(&mut code).is_ok() && &code == b"220 "
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn configuration_text() {
        let mut c = RelayConfig::new("/x y/spool".into(), ([127, 0, 0, 1], 53).into(), 2526).unwrap();
        c.listen = ([127, 0, 0, 1], 2525).into();
        c.shards = 2;
        c.max_sessions = Some(64);
        c.retry_first = Some("1s".into());
        let want = "hostname = \"relay.test\"\nshards = 2\n\n[spool]\npath = \"/x y/spool\"\n\n[[listener]]\n\
            address = \"127.0.0.1:2525\"\nkind = \"relay\"\n\n[relay]\nfrom_networks = [\"127.0.0.0/8\"]\n\n[smtp]\nmax_sessions_per_shard = 64\n\n[dns]\n\
            servers = [\"127.0.0.1:53\"]\n\n[delivery]\nport = 2526\n\n[delivery.retry]\nfirst = \"1s\"\n\n[log]\nevents = \"/x y/events.jsonl\"\n";
        assert_eq!(c.to_toml(), want);
    }

    #[test]
    fn a_relay_that_ends_at_once_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let config = RelayConfig::new(dir.path().join("spool"), ([127, 0, 0, 1], 53).into(), 2526).unwrap();
        let error = Relay::start(RelayCommand::Shell("echo no $LISTEN here".into()), config, dir.path()).err().unwrap();
        assert!(error.to_string().contains("no 127.0.0.1:"), "{error}");
    }
}
