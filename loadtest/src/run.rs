//! Whole runs: `floor`, the source straight into the sink, and `run`, DNS and relay and sink driven by the source and
//! every message accounted for by its number.
//!
//! A delivery is *lost* when the relay said 250 to it and it never came; one that came without 250 (the reply was cut
//! off) is neither lost nor wrong. A *duplicate* is explained when the source had to send it again because a reply was
//! cut off, when the sink hung up on it after the final dot, or when the relay was killed while it was being delivered
//! (its outcome was not yet on disk): at most what was in flight then.

use std::fmt::Write;
use std::fs;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::dns::{DnsConfig, DnsServer};
use crate::latency::{Latency, Summary};
use crate::relay::{Relay, RelayCommand, RelayConfig, free_port};
use crate::report::{Sent, octets, per_message, table, thousands};
use crate::send::{SendConfig, SendReport, Source, Until};
use crate::sink::{Arrival, Behaviour, Sink};
use crate::slow::{Slow, SlowReport};

/// How often the bars move.
const TICK: Duration = Duration::from_millis(50);
/// After the last message came: for duplicates to show, and for the relay to write its books up.
const SETTLE: Duration = Duration::from_millis(700);
/// Inbound sessions the relay is allowed beside those of the load, which are allowed twice: old ones go while new ones come.
const SESSIONS_BESIDE: usize = 64;
/// How long slow connections may take to be made.
const SLOW_DEADLINE: Duration = Duration::from_secs(60);
/// How long the relay may take to end after SIGTERM.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// What `run` does.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// The load; its target is set by the run.
    pub send: SendConfig,
    /// The relay.
    pub relay: RelayCommand,
    /// Shards; 0: one for each core.
    pub shards: usize,
    /// How the sink treats the relay.
    pub behaviour: Behaviour,
    /// Give the relay a fixed next hop instead of DNS.
    pub smart_host: bool,
    /// The sink starts this much later than the load.
    pub next_hop_down: Option<Duration>,
    /// kill -9 and restart this often, under load.
    pub kill_every: Option<Duration>,
    /// Folder for the spool and the log; a fresh one is made inside it.
    pub dir: PathBuf,
    /// Leave the folder behind.
    pub keep: bool,
    /// Connections beside the load that hold on, and how often each sends an octet.
    pub slow: (usize, Duration),
    /// How long nothing may arrive before what is missing counts as lost.
    pub stall: Duration,
    /// Wait before a message's second delivery attempt; none: the relay's default.
    pub retry_first: Option<String>,
    /// TOML appended to the relay's configuration.
    pub extra: String,
    /// Lines for its `[delivery]`.
    pub delivery: String,
}

/// What `run` found.
#[derive(Serialize, Clone, Debug, Default)]
pub struct RunReport {
    /// Octets of a message, roughly, if all are alike.
    pub sessions: usize,
    /// Shards of the relay.
    pub shards: usize,
    /// The source's account.
    pub sent: Sent,
    /// Different deliveries that arrived.
    pub delivered: u64,
    /// Of them, how many the relay had not (or not visibly) accepted.
    pub delivered_unacknowledged: u64,
    /// Accepted and never arrived.
    pub lost: u64,
    /// Some of them.
    pub lost_ids: Vec<u64>,
    /// What became of the connections that were held.
    pub slow: Option<SlowReport>,
    /// Arrivals beyond each delivery's first.
    pub duplicates: u64,
    /// Of them, those the source sent again since a reply was cut off.
    pub duplicates_from_source: u64,
    /// Of them, those the sink hung up on.
    pub duplicates_from_sink: u64,
    /// The rest: the relay delivered them again. Without a kill there is no excuse for one.
    pub duplicates_from_relay: u64,
    /// Messages with a wrong checksum or for somebody else.
    pub damaged: u64,
    /// Messages that came with the null sender: bounces.
    pub bounces: u64,
    /// From the first connection to the last new arrival.
    pub seconds: f64,
    /// Deliveries per second in that time.
    pub delivered_per_second: f64,
    /// From the 250 to the arrival.
    pub end_to_end: Summary,
    /// The relay's CPU time, user and kernel, from before the load until all is delivered and settled.
    pub relay_cpu_us_per_message: f64,
    /// The most resident memory it had.
    pub relay_peak_octets: u64,
    /// The sink's CPU time.
    pub sink_cpu_us_per_message: f64,
    /// Questions the DNS server got.
    pub dns_questions: u64,
    /// How often it was killed.
    pub kills: u64,
    /// How it ended after SIGTERM.
    pub relay_exit: String,
    /// Kind of file system under the spool was one in memory: durability cost nothing.
    pub spool_in_memory: bool,
    /// Latency in drawings.
    #[serde(skip)]
    pub drawing: String,
}

impl RunReport {
    /// Whether nothing was lost, damaged, or delivered twice without an excuse, and all was sent.
    pub fn is_good(&self) -> bool {
        self.lost == 0
            && self.damaged == 0
            && (self.duplicates_from_relay == 0 || self.kills > 0)
            && self.sent.unsent == 0
            && self.sent.given_up == 0
            && self.sent.accepted > 0
            && self.relay_exit == "exit status: 0"
    }

    /// The page for people.
    pub fn page(&self, title: &str) -> String {
        let mut t = format!("{title}\n\n");
        let mut line = |name: &str, n: u64, note: String| {
            let _ = writeln!(t, "  {name:<12}{:>12}  {note}", thousands(n));
        };
        let per_second = |x: f64| format!("{:>8}/s", thousands(x.round() as u64));
        line("accepted", self.sent.accepted, per_second(self.sent.accepted as f64 / self.sent.seconds.max(1e-9)));
        line("delivered", self.delivered, per_second(self.delivered_per_second));
        let lost = match self.lost_ids.as_slice() {
            [] => "accepted with 250 and never arrived".into(),
            ids => format!("accepted with 250 and never arrived: {}", list(ids)),
        };
        line("lost", self.lost, lost);
        let why = if self.duplicates == 0 {
            String::new()
        } else {
            format!(
                "{} sent again by the source (reply cut off), {} refused an answer by the sink, {} by the relay{}",
                self.duplicates_from_source,
                self.duplicates_from_sink,
                self.duplicates_from_relay,
                if self.kills > 0 { " (in flight when it was killed)" } else { "" }
            )
        };
        line("duplicates", self.duplicates, why);
        line("damaged", self.damaged, "checksum wrong, or somebody else's mail".into());
        if self.bounces > 0 {
            line("bounces", self.bounces, String::new());
        }
        if let Some(slow) = self.slow {
            let what = format!("held beside the load, {} refused, {} ended by the relay", slow.refused, slow.ended);
            line("slow connections", slow.opened, what);
        }
        if self.kills > 0 {
            line("kill -9", self.kills, format!("{} deliveries were left without a reply", self.sent.uncertain));
        }
        let _ = write!(
            t,
            "\n{}\n{}",
            table(&[
                ("accept (MAIL to 250)", &self.sent.transaction),
                ("commit (final dot to 250)", &self.sent.commit),
                ("end to end (250 to arrival)", &self.end_to_end),
            ]),
            self.drawing
        );
        let _ = writeln!(
            t,
            "\n  relay        {:>6.1} µs CPU a message, {} resident at most, {} shard{}",
            self.relay_cpu_us_per_message,
            octets(self.relay_peak_octets),
            self.shards,
            if self.shards == 1 { "" } else { "s" }
        );
        let _ = writeln!(
            t,
            "  load test    {:>6.1} µs CPU a message on the same cores (source {:.1}, sink {:.1}); {} DNS questions",
            self.sent.source_cpu_us_per_message + self.sink_cpu_us_per_message,
            self.sent.source_cpu_us_per_message,
            self.sink_cpu_us_per_message,
            thousands(self.dns_questions)
        );
        if self.relay_exit != "exit status: 0" {
            let _ = writeln!(t, "  The relay did not end well: {}", self.relay_exit);
        }
        let troubles = self.sent.troubles();
        if !troubles.is_empty() {
            let _ = write!(t, "\n{troubles}");
        }
        let verdict = if self.is_good() {
            "Every message that was accepted has arrived, once and whole."
        } else if self.lost > 0 {
            "MAIL WAS LOST."
        } else {
            "Something is not as it should be: see above."
        };
        let verdict = if self.is_good() && self.duplicates > 0 {
            "Every message that was accepted has arrived whole; the duplicates are explained above."
        } else {
            verdict
        };
        let _ = writeln!(t, "\n{verdict}");
        t
    }
}

fn list(ids: &[u64]) -> String {
    ids.iter().map(|i| format!("u{i}")).collect::<Vec<_>>().join(" ")
}

/// Two bars on a terminal, nothing elsewhere.
pub struct Bars {
    all: MultiProgress,
    accepted: ProgressBar,
    delivered: Option<ProgressBar>,
}

impl Bars {
    /// For so many deliveries; 0: how many is not known.
    pub fn new(total: u64, with_delivered: bool) -> Bars {
        let all = MultiProgress::new();
        if !io::stderr().is_terminal() {
            all.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        }
        let add = |name: &'static str| {
            let bar = if total > 0 { ProgressBar::new(total) } else { ProgressBar::no_length() };
            let form = if total > 0 {
                "{prefix:>10} {bar:40} {human_pos:>9} / {human_len} {per_sec:>12}"
            } else {
                "{prefix:>10} {spinner} {human_pos:>9} {per_sec:>12}"
            };
            bar.set_style(ProgressStyle::with_template(form).expect("the template is a constant"));
            bar.set_prefix(name);
            all.add(bar)
        };
        let accepted = add("accepted");
        let delivered = with_delivered.then(|| add("delivered"));
        Bars { all, accepted, delivered }
    }

    /// Moves them.
    pub fn set(&self, accepted: u64, delivered: u64) {
        self.accepted.set_position(accepted);
        if let Some(bar) = &self.delivered {
            bar.set_position(delivered);
        }
    }

    /// Takes them off the screen.
    pub fn clear(&self) {
        let _ = self.all.clear();
    }
}

/// Deliveries a configuration will make; 0 if that is not known before.
pub fn deliveries(send: &SendConfig) -> u64 {
    match (send.until, send.rate) {
        (Until::Messages(n), _) => n * u64::from(send.traffic.recipients),
        (Until::Elapsed(d), Some(rate)) => (d.as_secs_f64() * rate) as u64 * u64::from(send.traffic.recipients),
        (Until::Elapsed(_), None) => 0,
    }
}

/// Sends, moving a bar. The `send` command.
pub fn send(config: SendConfig) -> Result<SendReport, String> {
    let bars = Bars::new(deliveries(&config), false);
    let source = Source::start(config)?;
    while !source.is_finished() {
        std::thread::sleep(TICK);
        bars.set(source.progress().accepted.load(std::sync::atomic::Ordering::Relaxed), 0);
    }
    bars.clear();
    Ok(source.join())
}

/// The source straight into the sink. Returns its report and the sink's CPU time per message, µs.
pub fn floor(mut config: SendConfig) -> Result<(SendReport, f64), String> {
    let sink = Sink::on_loopback(0, Behaviour::default(), 0).map_err(|e| e.to_string())?;
    config.target = ([127, 0, 0, 1], sink.port()).into();
    let before = sink.cpu();
    let report = send(config)?;
    let stats = sink.stats();
    let accepted: u64 = report.accepted;
    if stats.unique < accepted || stats.corrupt > 0 {
        return Err(format!("{} accepted, {} arrived, {} damaged", accepted, stats.unique, stats.corrupt));
    }
    let cpu = per_message((sink.cpu() - before).as_secs_f64(), report.messages);
    Ok((report, cpu))
}

/// Whether a folder's file system lives in memory, where syncing costs nothing.
pub fn in_memory(path: &Path) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    const RAMFS_MAGIC: u64 = 0x8584_58f6;
    rustix::fs::statfs(path).is_ok_and(|s| [TMPFS_MAGIC, RAMFS_MAGIC].contains(&(s.f_type as u64)))
}

/// A folder for runs on a disk: `target/` beside Cargo.toml or above this executable, else $TMPDIR.
pub fn default_dir() -> PathBuf {
    let target = Path::new("target");
    if target.is_dir() && Path::new("Cargo.toml").is_file() {
        return target.canonicalize().unwrap_or(target.to_path_buf());
    }
    std::env::temp_dir()
}

/// The whole run. Errors: something could not be started; what was found wrong is in the report.
pub fn run(config: RunConfig) -> Result<RunReport, String> {
    let text = |e: io::Error| e.to_string();
    fs::create_dir_all(&config.dir).map_err(text)?;
    let mut dir = tempfile::Builder::new().prefix("loadtest-").tempdir_in(&config.dir).map_err(text)?;
    dir.disable_cleanup(config.keep);
    let dns = DnsServer::start(DnsConfig {
        template: config.send.traffic.template.clone(),
        domains: config.send.traffic.domains.min(crate::dns::MAX_DOMAINS),
        ..DnsConfig::default()
    })
    .map_err(text)?;
    let mut sink = match config.next_hop_down {
        None => Some(Sink::on_loopback(0, config.behaviour.clone(), 0).map_err(text)?),
        Some(_) => None,
    };
    let sink_port = match &sink {
        Some(s) => s.port(),
        None => free_port().map_err(text)?,
    };
    let shards = match config.shards {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let mut relay_config = RelayConfig::new(dir.path().join("spool"), dns.address(), sink_port).map_err(text)?;
    relay_config.shards = shards;
    relay_config.retry_first = config.retry_first.clone();
    if !config.extra.contains("[smtp]") {
        relay_config.max_sessions = Some(SESSIONS_BESIDE + 2 * config.send.sessions + config.slow.0);
    }
    relay_config.extra = config.extra.clone();
    relay_config.delivery = config.delivery.clone();
    relay_config.smart_host = config.smart_host.then(|| format!("127.1.0.1:{sink_port}"));
    let mut relay = Relay::start(config.relay.clone(), relay_config, dir.path()).map_err(text)?;
    eprintln!(
        "spool, configuration and log: {}{}",
        dir.path().display(),
        if config.keep { "" } else { " (removed after)" }
    );
    let spool_in_memory = in_memory(dir.path());
    if spool_in_memory {
        eprintln!(
            "WARNING: that is a file system in memory: being durable costs nothing there. Choose a disk with --dir."
        );
    }

    let slow = hold_connections(&config, relay.address());
    let relay_cpu = relay.cpu();
    let mut send = config.send.clone();
    send.target = relay.address();
    let bars = Bars::new(deliveries(&send), true);
    let started_ns = crate::now_ns();
    let start = Instant::now();
    let source = Source::start(send)?;
    let mut kills = 0;
    let mut last_kill = Instant::now();
    let mut seen = (0, 0, Instant::now());
    // Set once the source is done: how many deliveries must arrive.
    let mut report = None;
    let mut source = Some(source);
    loop {
        std::thread::sleep(TICK);
        if sink.is_none() && config.next_hop_down.is_some_and(|d| start.elapsed() >= d) {
            sink = Some(Sink::on_loopback(sink_port, config.behaviour.clone(), 0).map_err(text)?);
        }
        let accepted = match (&source, &report) {
            (Some(s), _) => s.progress().accepted.load(std::sync::atomic::Ordering::Relaxed),
            (None, Some(r)) => SendReport::clone(r).accepted,
            (None, None) => 0,
        };
        let unique = sink.as_ref().map_or(0, Sink::unique);
        bars.set(accepted, unique);
        if (accepted, unique) != (seen.0, seen.1) {
            seen = (accepted, unique, Instant::now());
        }
        if source.as_ref().is_some_and(Source::is_finished) {
            report = source.take().map(Source::join);
        }
        if !relay.is_running() {
            return Err(format!("the relay ended:\n{}", relay.log_tail()));
        }
        if let Some(every) = config.kill_every
            && source.is_some()
            && last_kill.elapsed() >= every
        {
            relay.restart(|_| {}).map_err(text)?;
            kills += 1;
            last_kill = Instant::now();
        }
        if report.as_ref().is_some_and(|r| unique >= r.accepted) && all_arrived(report.as_ref(), sink.as_ref()) {
            break;
        }
        if report.is_some() && sink.is_some() && seen.2.elapsed() > config.stall {
            break;
        }
    }
    std::thread::sleep(SETTLE);
    bars.clear();
    let sent = report.unwrap_or_default();
    let relay_cpu = relay.cpu() - relay_cpu;
    let peak = relay.resident_peak();
    let exit = match relay.terminate(STOP_DEADLINE) {
        Ok(status) => status.to_string(),
        Err(e) => e.to_string(),
    };
    let sink = sink.ok_or("the sink was never started: the load ended before")?;
    let mut found = account(&sent, &sink.arrivals());
    found.slow = slow.map(Slow::stop);
    let stats = sink.stats();
    found.sessions = config.send.sessions;
    found.shards = shards;
    found.damaged = stats.corrupt;
    found.bounces = stats.null_sender;
    found.seconds -= started_ns as f64 / 1e9;
    found.delivered_per_second = found.delivered as f64 / found.seconds.max(1e-9);
    found.relay_cpu_us_per_message = per_message(relay_cpu.as_secs_f64(), sent.messages);
    found.relay_peak_octets = peak;
    found.sink_cpu_us_per_message = per_message(sink.cpu().as_secs_f64(), sent.messages);
    found.dns_questions = dns.questions();
    found.kills = kills;
    found.relay_exit = exit;
    found.spool_in_memory = spool_in_memory;
    if !found.is_good() && !config.keep {
        dir.disable_cleanup(true);
        eprintln!("left as it is: {}", dir.path().display());
    }
    Ok(found)
}

/// Clients that hold connections, all of them standing before the load begins.
fn hold_connections(config: &RunConfig, address: SocketAddr) -> Option<Slow> {
    let (count, interval) = config.slow;
    if count == 0 {
        return None;
    }
    let slow = Slow::start(address, count, interval);
    let began = Instant::now();
    while slow.standing() < count && began.elapsed() < SLOW_DEADLINE {
        std::thread::sleep(TICK);
    }
    eprintln!("{} slow connections stand, each sends an octet every {:?}", slow.standing(), interval);
    Some(slow)
}

fn all_arrived(report: Option<&SendReport>, sink: Option<&Sink>) -> bool {
    let (Some(report), Some(sink)) = (report, sink) else { return false };
    let arrivals = sink.arrivals();
    report.accepted_ids().all(|(id, _)| arrivals.get(id as usize).is_some_and(|a| a.count > 0))
}

/// Joins what was accepted with what arrived. `seconds` is the clock's reading at the last new arrival.
pub fn account(sent: &SendReport, arrivals: &[Arrival]) -> RunReport {
    let mut found = RunReport { sent: Sent::new(sent), ..RunReport::default() };
    let mut end_to_end = Latency::default();
    let mut last_ns = 0;
    for (id, delivery) in (sent.first_id..).zip(&sent.deliveries) {
        let arrival = arrivals.get(id as usize).copied().unwrap_or_default();
        if arrival.count == 0 {
            if delivery.accepted_ns > 0 {
                found.lost += 1;
                if found.lost_ids.len() < 10 {
                    found.lost_ids.push(id);
                }
            }
            continue;
        }
        found.delivered += 1;
        last_ns = last_ns.max(arrival.first_ns);
        if delivery.accepted_ns == 0 {
            found.delivered_unacknowledged += 1;
        } else if delivery.uncertain == 0 {
            end_to_end.record_ns(arrival.first_ns.saturating_sub(delivery.accepted_ns));
        }
        let extra = u64::from(arrival.count - 1);
        let source = extra.min(u64::from(delivery.uncertain));
        let sink = (extra - source).min(u64::from(arrival.unanswered));
        found.duplicates += extra;
        found.duplicates_from_source += source;
        found.duplicates_from_sink += sink;
        found.duplicates_from_relay += extra - source - sink;
    }
    found.seconds = last_ns as f64 / 1e9;
    found.end_to_end = end_to_end.summary();
    found.drawing = format!("  accept\n{}  end to end\n{}", sent.transaction.drawing(40), end_to_end.drawing(40));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::send::Delivery;

    #[test]
    fn accounts_for_every_delivery() {
        let d = |accepted_ns, uncertain| Delivery { accepted_ns, uncertain, refused: 0, deferred: 0 };
        let a = |first_ns, count, unanswered| Arrival { first_ns, count, unanswered };
        let sent = SendReport {
            first_id: 2,
            deliveries: vec![d(5, 0), d(5, 0), d(5, 1), d(0, 1), d(0, 0), d(5, 1)],
            accepted: 4,
            ..SendReport::default()
        };
        // 2 arrives, 3 is lost, 4 twice (sent again), 5 came though its reply did not, 6 was never sent, 7 four times.
        let arrivals = [
            a(0, 0, 0),
            a(0, 0, 0),
            a(9_000, 1, 0),
            a(0, 0, 0),
            a(9_000, 2, 0),
            a(9_000, 1, 0),
            a(0, 0, 0),
            a(8_000, 4, 1),
        ];
        let r = account(&sent, &arrivals);
        assert_eq!((r.delivered, r.lost, r.lost_ids, r.delivered_unacknowledged), (4, 1, vec![3], 1));
        let by = (r.duplicates_from_source, r.duplicates_from_sink, r.duplicates_from_relay);
        assert_eq!((r.duplicates, by), (4, (2, 1, 1)));
    }
}
