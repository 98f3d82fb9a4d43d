//! Configuration: TOML text becomes a [`Config`], resolved, validated and immutable.
//!
//! Inputs: a file or the embedded default, and what the machine says about itself ([`Machine`]). Outputs: a `Config`,
//! plain data that every shard and the control thread share by `Arc`, and warnings; or all the problems found, each with
//! file, line and key. It refuses unknown keys, values out of their range, and an open relay. Lives on the thread that
//! starts the process; nothing reads a file or the environment later.

mod edge;
pub mod proxy;
mod raw;
pub(crate) mod read;
mod reports;
mod resolve;
mod smart;
mod source;
pub mod sources;
mod value;

pub use edge::{Clients, Demand, Listener, ListenerKind, Local, Networks, Tls};
pub use reports::TlsReports;
pub use smart::SmartTerms;
pub use source::{Problem, place};
pub use sources::Sources;
pub use value::{Size, Span};

use crate::starttls::TlsLevel;
use ipnet::IpNet;
use std::fmt;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The configuration used without `--config`: the documented sample, in which every key has its default.
pub const EMBEDDED: &str = include_str!("../../config/ringpost.toml");

/// Everything Ringpost was told, checked. Immutable; shared by `Arc` between all threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Our name in the greeting, in Received headers and in notifications: a domain name.
    pub hostname: String,
    /// How many, 1 to [`crate::limits::SHARDS`]; already one per usable core if the file says 0.
    pub shards: usize,
    /// After SIGTERM, the longest time until the process ends.
    pub drain_timeout: Duration,
    /// Where mail is kept.
    pub spool: Spool,
    /// At least one, all addresses distinct.
    pub listeners: Vec<Listener>,
    /// What strangers may do.
    pub clients: Clients,
    /// Certificates.
    pub tls: Tls,
    /// The file of accounts (absolute).
    pub accounts: Option<PathBuf>,
    /// This host's own domains.
    pub local: Vec<Local>,
    /// The files of rules for what receivers take (absolute), in order.
    pub shaping: Vec<PathBuf>,
    /// The header field that names a message's campaign.
    pub campaign_header: String,
    /// Who may relay.
    pub relay: Relay,
    /// The server side of SMTP.
    pub smtp: Smtp,
    /// Name resolution.
    pub dns: Dns,
    /// The client side.
    pub delivery: Delivery,
    /// The addresses that mail is sent from.
    pub sources: Sources,
    /// Reports of TLS to those who ask for them, if there are any.
    pub tls_reports: Option<TlsReports>,
    /// The admin HTTP address, if there is one.
    pub admin: Option<SocketAddr>,
    /// Events and the operator's log.
    pub log: Log,
}

/// `[spool]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spool {
    /// Absolute directory.
    pub path: PathBuf,
}

/// `[relay]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Clients of these may relay; others get 550 5.7.1.
    pub from_networks: Vec<IpNet>,
}

impl Relay {
    /// Whether a client at `peer` may relay. An IPv4 client of an IPv6 socket (`::ffff:192.0.2.1`) counts as IPv4.
    pub fn allows(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.from_networks.iter().any(|network| network.contains(&peer))
    }
}

/// `[smtp]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smtp {
    /// Largest message, octets as received; announced by SIZE.
    pub max_message_bytes: u64,
    /// Most recipients of one transaction.
    pub max_recipients: usize,
    /// Most inbound sessions of one shard.
    pub max_sessions_per_shard: usize,
    /// Time a client may take for its next command.
    pub command_timeout: Duration,
    /// Time a client may take between two pieces of message data.
    pub data_timeout: Duration,
    /// After the first few errors, each makes a client wait so much longer for its next command to be read.
    pub error_delay: Duration,
    /// VRFY answers for local recipients; otherwise 252.
    pub vrfy: bool,
    /// EXPN answers trusted clients; otherwise 502.
    pub expn: bool,
    /// Submissions whose From is not the account's get a Sender (RFC 6409 §8.1); otherwise they are refused.
    pub add_sender: bool,
    /// SEND, SOML and SAML count as MAIL; otherwise 502.
    pub legacy_send: bool,
}

/// `[dns]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// In order of preference; at least one.
    pub servers: Vec<SocketAddr>,
    /// They validate DNSSEC, and are asked over a network that can be trusted.
    pub validating: bool,
    /// Time to wait for one answer.
    pub timeout: Duration,
    /// Rounds over all servers.
    pub attempts: u32,
    /// Shortest and longest time that an answer is kept.
    pub ttl: (Duration, Duration),
    /// How long beyond that a route is used where DNS fails.
    pub serve_stale: Duration,
    /// Names are asked for in random case.
    pub random_case: bool,
}

/// `[delivery]`
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// TCP port of mail exchangers; 25 but in tests.
    pub port: u16,
    /// Where all mail goes, instead of the mail exchangers.
    pub smart_host: Option<SmartHost>,
    /// What holds there.
    pub smart_terms: SmartTerms,
    /// The file of routes of single domains (absolute).
    pub routes: Option<PathBuf>,
    /// Where mail goes whose own hosts have been out of reach for [`fallback_after`](Self::fallback_after).
    pub fallback_relay: Option<SmartHost>,
    /// See there.
    pub fallback_after: Duration,
    /// Our name in EHLO.
    pub ehlo_name: String,
    /// Local addresses to connect from: at most one of each family is used for a connection. Empty: the kernel chooses.
    pub source_addresses: Vec<IpAddr>,
    /// Whether to connect to IPv6 addresses.
    pub ipv6: bool,
    /// The TLS that hosts must have, where nothing else asks for more.
    pub tls: TlsLevel,
    /// Whether MTA-STS policies of domains are asked for and kept.
    pub mta_sts: bool,
    /// Most connections to one destination, over all shards.
    pub connections_per_destination: u32,
    /// Notifications of failure that one sender gets in an hour, from each shard; 0: any number.
    pub bounces_per_hour: u32,
    /// And beside those of a hundred recipients that it sends to so many.
    pub bounces_percent: u32,
    /// Messages a second for a domain from other shards, above which all deliver it.
    pub lane_rate: u32,
    /// Most messages in flight at a time on one connection, where the next hop announces PIPELINING and CHUNKING.
    pub messages_in_flight: u32,
    /// Most messages over one connection.
    pub messages_per_connection: u32,
    /// An idle connection is closed after this.
    pub idle_timeout: Duration,
    /// TCP connect, per address.
    pub connect_timeout: Duration,
    /// When to try again.
    pub retry: Retry,
}

/// `[delivery] smart_host`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmartHost {
    /// Name (its A and AAAA are looked up, not its MX) or address.
    pub host: Host,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for SmartHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
        }
    }
}

/// A name or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A domain name, lower case.
    Name(String),
    /// An IP address.
    Address(IpAddr),
}

/// `[delivery] retry`: attempt n+1 comes `first * factor^n`, at most `max`, after attempt n, give or take `jitter` of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// After the first failure.
    pub first: Duration,
    /// 1.0 to 10.0.
    pub factor: f64,
    /// Longest interval, not below `first`.
    pub max: Duration,
    /// Age at which the message is bounced, not below `max`.
    pub give_up: Duration,
    /// 0.0 to 0.5: the part of an interval that is random.
    pub jitter: f64,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Of the operator's log on stderr.
    pub level: Level,
    /// Where events go.
    pub events: Events,
    /// An event log file rotates before it grows above this.
    pub rotate_bytes: u64,
    /// Rotated files kept.
    pub keep: u32,
}

/// `[log] level`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Only what stops service.
    Error,
    /// And what needs a look.
    Warn,
    /// And start, stop, listeners.
    Info,
    /// And what a developer asks for.
    Debug,
}

/// `[log] events`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Events {
    /// Not at all.
    Off,
    /// JSON lines on standard output.
    Stdout,
    /// JSON lines in this file (absolute), rotated.
    File(PathBuf),
}

/// What the machine says, as far as defaults depend on it.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// The kernel's host name.
    pub hostname: Option<String>,
    /// Cores this process may use.
    pub cores: usize,
    /// Relative paths begin here.
    pub directory: PathBuf,
    /// The text of /etc/resolv.conf.
    pub resolv_conf: String,
    /// Network interfaces and their indices: what a zone in resolv.conf (`fe80::1%eth0`) means.
    pub interfaces: Vec<(String, u32)>,
}

impl Machine {
    /// This one.
    pub fn this() -> Machine {
        Machine {
            hostname: std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            resolv_conf: std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
            interfaces: interfaces(),
        }
    }
}

/// None if /sys is not there: then servers with a zone are not used, and a warning says so.
fn interfaces() -> Vec<(String, u32)> {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let index = |folder: &Path| std::fs::read_to_string(folder.join("ifindex")).ok()?.trim().parse().ok();
    entries.filter_map(|e| Some((e.file_name().into_string().ok()?, index(&e.path())?))).collect()
}

/// A valid configuration and what is suspicious about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// For the operator's eyes; none of them stops the start.
    pub warnings: Vec<Problem>,
    /// The file's name, or `built-in configuration`.
    pub origin: String,
}

/// Everything wrong with a configuration; never empty.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// Reads `file`, or takes the embedded default.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn load(file: Option<&Path>, machine: &Machine) -> Result<Loaded, Problems> {
    match file {
        None => parse("built-in configuration", EMBEDDED, machine),
        Some(path) => {
            let name = path.display().to_string();
            let text = read(path).map_err(|message| {
                Problems(vec![Problem { file: name.clone(), place: None, key: String::new(), message }])
            })?;
            parse(&name, &text, machine)
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    let limit = crate::limits::CONFIG_FILE_BYTES;
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut text))
        .map_err(|error| format!("cannot read it: {error}"))?;
    if text.len() as u64 > limit {
        return Err(format!("larger than {}: not a configuration", Size(limit)));
    }
    String::from_utf8(text).map_err(|error| {
        let (line, _) = source::place(&String::from_utf8_lossy(error.as_bytes()), error.utf8_error().valid_up_to());
        format!("line {line} is not UTF-8; TOML has to be")
    })
}

/// Parses and resolves `text`; `origin` is how problems call it.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn parse(origin: &str, text: &str, machine: &Machine) -> Result<Loaded, Problems> {
    let index = source::Index::new(text);
    let raw: raw::Raw = toml::from_str(text).map_err(|error| {
        let span = error.span();
        Problems(vec![Problem {
            file: origin.to_owned(),
            place: span.as_ref().map(|span| source::place(text, span.start)),
            key: span.and_then(|span| index.key_at(&span)).unwrap_or_default().to_owned(),
            message: in_words(error.message()),
        }])
    })?;
    let mut resolver = resolve::Resolver::new(origin, text, &index, machine);
    let config = resolver.resolve(raw);
    if resolver.errors.is_empty() {
        Ok(Loaded { config, warnings: resolver.warnings, origin: origin.to_owned() })
    } else {
        Err(Problems(resolver.errors))
    }
}

/// serde names Rust's types where an operator looks for words.
fn in_words(message: &str) -> String {
    let message = message.replace('\n', "; ");
    if message == "recursion limit" {
        return "tables or lists are nested too deeply".to_owned();
    }
    for (rust, words) in [
        ("expected i64", "expected a whole number"),
        ("expected f64", "expected a number"),
        ("expected a sequence", "expected a list in [ ]"),
    ] {
        if let Some(start) = message.strip_suffix(rust) {
            return format!("{start}{words}");
        }
    }
    message
}

#[cfg(test)]
mod tests;
