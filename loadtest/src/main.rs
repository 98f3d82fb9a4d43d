//! The load generator's command line: arguments, then one match over the subcommands.

use std::ffi::OsString;
use std::io::Read;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use loadtest::day::{DayArgs, day};
use loadtest::dns::{DnsConfig, DnsServer};
use loadtest::relay::RelayCommand;
use loadtest::relay_main::relay_main;
use loadtest::report::{Sent, octets, thousands};
use loadtest::run::{self, RunConfig};
use loadtest::send::{SendConfig, Until};
use loadtest::simulate::{SimulateArgs, simulate};
use loadtest::sink::{Behaviour, Disconnect, Fail, Sink, SinkConfig};
use loadtest::traffic::{DomainTemplate, SizeMix, Spread, TrafficConfig};
use loadtest::units::{Delay, duration, odds, size};

/// Load generator and test bench for SMTP relays. `loadtest run` is the place to start.
#[derive(Parser)]
#[command(version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant)] // one of it, once
enum Cmd {
    /// Start DNS, sink and relay on loopback, send mail through, and account for every message
    Run(RunArgs),
    /// The source straight into the sink: what the wire alone costs
    Floor {
        #[command(flatten)]
        load: LoadArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Send numbered mail to any SMTP server
    Send(SendArgs),
    /// Receive numbered mail, count it, and misbehave on demand
    Sink(SinkArgs),
    /// Answer for a test zone: d0001.test has the MX mx.d0001.test, which is 127.1.0.1, and so on
    Dns(DnsArgs),
    /// The whole relay in a simulated world, once for each seed: faults of network, disk, DNS and peers, crashes
    Simulate(SimulateArgs),
    /// A provider's day in a simulated world: millions of messages through the relay, and a report
    Day(DayArgs),
}

#[derive(Args)]
struct LoadArgs {
    /// Connections at a time
    #[arg(long, default_value_t = 20)]
    sessions: usize,
    /// Messages to send [default: 20000, unless --seconds is given]
    #[arg(long, conflicts_with = "seconds")]
    messages: Option<u64>,
    /// Send for so long instead
    #[arg(long, value_parser = duration)]
    seconds: Option<Duration>,
    /// Octets of a message, like 4k
    #[arg(long, value_parser = size, default_value = "4k")]
    size: usize,
    /// Sizes with weights, like 4k:80,64k:15,1m:5
    #[arg(long, value_parser = SizeMix::parse, conflicts_with = "size")]
    size_mix: Option<SizeMix>,
    /// Recipients' domains, in turn
    #[arg(long, default_value_t = 100)]
    domains: u32,
    /// Recipients' domains by Zipf's law with this exponent instead of in turn
    #[arg(long)]
    zipf: Option<f64>,
    /// Recipients of each message
    #[arg(long, default_value_t = 1)]
    recipients: u32,
    /// The domains' names; # stands for a digit of the number. Without #: one domain
    #[arg(long, value_parser = DomainTemplate::parse, default_value = "d####.test")]
    template: DomainTemplate,
    /// The reverse-path; empty for the null sender
    #[arg(long, default_value = "load@d0001.test")]
    sender: String,
    /// Open loop: messages per second. Latency counts from when a message was due, sent or not
    #[arg(long)]
    rate: Option<f64>,
    /// MAIL, RCPT and DATA in one write, where the server announces PIPELINING
    #[arg(long)]
    pipelining: bool,
    /// Messages on a connection
    #[arg(long, default_value_t = 20)]
    per_connection: u64,
    /// Tries of a message refused with 4xx or left without a reply
    #[arg(long, default_value_t = 10)]
    attempts: u32,
    /// How long to go on trying to connect
    #[arg(long, value_parser = duration, default_value = "30s")]
    patience: Duration,
    /// Number of the first delivery, to tell several sources apart
    #[arg(long, default_value_t = 0)]
    first_id: u64,
    /// Picks sizes and Zipf domains
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl LoadArgs {
    fn config(self, target: SocketAddr) -> SendConfig {
        SendConfig {
            target,
            sessions: self.sessions,
            until: match self.seconds {
                Some(d) => Until::Elapsed(d),
                None => Until::Messages(self.messages.unwrap_or(20_000)),
            },
            rate: self.rate,
            pipelining: self.pipelining,
            per_connection: self.per_connection,
            attempts: self.attempts,
            patience: self.patience,
            first_id: self.first_id,
            source: None,
            traffic: TrafficConfig {
                template: self.template,
                domains: self.domains,
                spread: self.zipf.map_or(Spread::Uniform, Spread::Zipf),
                sizes: self.size_mix.unwrap_or(SizeMix::one(self.size)),
                recipients: self.recipients,
                sender: self.sender,
                seed: self.seed,
            },
        }
    }

    /// The load in words.
    fn describe(&self) -> String {
        let amount = match self.seconds {
            Some(d) => format!("{} s of messages", d.as_secs_f64()),
            None => format!("{} messages", thousands(self.messages.unwrap_or(20_000))),
        };
        let size = if self.size_mix.is_some() { "mixed sizes".into() } else { octets(self.size as u64) };
        let pace = self.rate.map_or("closed loop".into(), |r| format!("{r} a second"));
        let spread = self.zipf.map_or(String::new(), |s| format!(" (Zipf {s})"));
        format!("{amount}, {size}, {} sessions, {} domains{spread}, {pace}", self.sessions, self.domains)
    }
}

#[derive(Args)]
struct SendArgs {
    /// HOST:PORT
    target: String,
    /// Local address to connect from
    #[arg(long)]
    source: Option<std::net::IpAddr>,
    #[command(flatten)]
    load: LoadArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct BehaviourArgs {
    /// Before each reply: 10ms, 5ms..20ms, exp:10ms
    #[arg(long, value_parser = Delay::parse)]
    delay: Option<Delay>,
    /// All replies come so much later, as over a long way: unlike with --delay, what stands behind does not wait
    #[arg(long, value_parser = duration)]
    latency: Option<Duration>,
    /// PHASE:CODE:ODDS[@DOMAIN], like rcpt:4xx:0.1. Phases: connect ehlo mail rcpt data dot
    #[arg(long, value_parser = Fail::parse)]
    fail: Vec<Fail>,
    /// PHASE:ODDS: hang up without a word. Phases as above, and before-dot, after-dot
    #[arg(long, value_parser = Disconnect::parse)]
    disconnect: Vec<Disconnect>,
    /// More get 421
    #[arg(long, default_value_t = 0)]
    max_connections: usize,
    /// 450 to each recipient's first attempt
    #[arg(long)]
    greylist: bool,
    /// Do not announce PIPELINING
    #[arg(long)]
    no_pipelining: bool,
    /// Announce CHUNKING
    #[arg(long)]
    chunking: bool,
}

impl BehaviourArgs {
    fn behaviour(self) -> Behaviour {
        Behaviour {
            delay: self.delay,
            latency: self.latency,
            fail: self.fail,
            disconnect: self.disconnect,
            max_connections: self.max_connections,
            greylist: self.greylist,
            pipelining: !self.no_pipelining,
            chunking: self.chunking,
            seed: 1,
        }
    }
}

#[derive(Args)]
struct SinkArgs {
    /// ADDR:PORT, as many as you like; 0.0.0.0:2526 for all of them
    #[arg(long, required = true, num_args = 1..)]
    listen: Vec<SocketAddr>,
    #[command(flatten)]
    behaviour: BehaviourArgs,
    /// Serve the loopback interface only, whatever the address
    #[arg(long)]
    loopback_only: bool,
    /// Write the counts as JSON into this file, once a second and at the end
    #[arg(long)]
    stats: Option<PathBuf>,
    /// Write what came into this file, once a second and at the end: [delivery id, times, times left unanswered], ...
    #[arg(long)]
    arrivals: Option<PathBuf>,
    /// End when standard input ends, too (else on SIGINT or SIGTERM)
    #[arg(long)]
    until_eof: bool,
}

#[derive(Args)]
struct DnsArgs {
    /// ADDR:PORT, UDP and TCP
    #[arg(long, default_value = "127.0.0.1:5353")]
    listen: SocketAddr,
    /// The domains' names
    #[arg(long, value_parser = DomainTemplate::parse, default_value = "d####.test")]
    template: DomainTemplate,
    /// How many
    #[arg(long, default_value_t = 1000)]
    domains: u32,
    /// Time to live of all records, seconds
    #[arg(long, default_value_t = 3600)]
    ttl: u32,
    /// Numbers of domains with a null MX, like 5,7
    #[arg(long, value_delimiter = ',')]
    null_mx: Vec<u32>,
    /// Numbers of domains that have an address and no MX
    #[arg(long, value_delimiter = ',')]
    no_mx: Vec<u32>,
    /// How often SERVFAIL is the answer, 0 to 1
    #[arg(long, value_parser = odds, default_value = "0")]
    servfail: f64,
    /// How often there is no answer, 0 to 1
    #[arg(long, value_parser = odds, default_value = "0")]
    drop: f64,
    /// Answer with the TC bit over UDP
    #[arg(long)]
    truncate: bool,
    /// Before each answer: 10ms, 5ms..20ms, exp:10ms
    #[arg(long, value_parser = Delay::parse)]
    delay: Option<Delay>,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// Shards of the relay [default: one for each core]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    shards: usize,
    /// Give the relay one fixed next hop instead of DNS
    #[arg(long)]
    smart_host: bool,
    /// Start the sink so much later than the load
    #[arg(long, value_parser = duration)]
    next_hop_down: Option<Duration>,
    /// kill -9 and restart the relay this often, under load
    #[arg(long, value_parser = duration)]
    kill_every: Option<Duration>,
    #[command(flatten)]
    behaviour: BehaviourArgs,
    /// Folder, on a disk, in which a fresh one is made for spool and log [default: target/ or $TMPDIR]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Leave that folder behind
    #[arg(long)]
    keep: bool,
    /// So many connections beside the load, each of which sends one octet every --slow-interval and never hangs up
    #[arg(long, default_value_t = 0)]
    slow: usize,
    /// For --slow
    #[arg(long, value_parser = duration, default_value = "9s")]
    slow_interval: Duration,
    /// What is missing after nothing came for so long is lost
    #[arg(long, value_parser = duration, default_value = "30s")]
    stall: Duration,
    /// The relay's wait before a second delivery attempt [default: 1s where the run makes attempts fail]
    #[arg(long)]
    retry_first: Option<String>,
    /// A line of TOML for the relay's configuration
    #[arg(long)]
    relay_config: Vec<String>,
    /// A line of TOML for its [delivery], like connections_per_destination=1
    #[arg(long)]
    relay_delivery: Vec<String>,
    /// Another relay: a command for sh. {config} is the configuration file; LISTEN, DNS, DELIVERY_PORT and SPOOL are
    /// in its environment
    #[arg(long)]
    relay_cmd: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    ringpost::cli::end_with_the_reader();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|a| a == "relay") {
        // A relay that outlives the run it was started for would be in nobody's interest.
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        return relay_main(std::iter::once("ringpost".into()).chain(arguments.into_iter().skip(2)).collect());
    }
    let result = match Cli::parse().command {
        Cmd::Run(args) => run_command(args),
        Cmd::Floor { load, json } => floor_command(load, json),
        Cmd::Send(args) => send_command(args),
        Cmd::Sink(args) => sink_command(args),
        Cmd::Dns(args) => dns_command(args),
        Cmd::Day(args) => day(&args).map(verdict),
        Cmd::Simulate(args) => Ok(if simulate(&args) { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    };
    result.unwrap_or_else(|e| {
        eprintln!("loadtest: {e}");
        ExitCode::from(2)
    })
}

fn print_json(value: &impl serde::Serialize) -> Result<(), String> {
    println!("{}", serde_json::to_string(value).map_err(|e| e.to_string())?);
    Ok(())
}

fn verdict(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_command(args: RunArgs) -> Result<ExitCode, String> {
    let title = format!("{}{}", args.load.describe(), if args.smart_host { ", one next hop" } else { "" });
    let relay = match args.relay_cmd {
        Some(line) => RelayCommand::Shell(line),
        None => RelayCommand::Bundled(std::env::current_exe().map_err(|e| e.to_string())?),
    };
    let behaviour = args.behaviour.behaviour();
    let trouble = args.kill_every.is_some()
        || args.next_hop_down.is_some()
        || behaviour.greylist
        || behaviour.max_connections > 0
        || !behaviour.fail.is_empty()
        || !behaviour.disconnect.is_empty();
    let found = run::run(RunConfig {
        send: args.load.config(([127, 0, 0, 1], 0).into()),
        relay,
        shards: args.shards,
        behaviour,
        smart_host: args.smart_host,
        next_hop_down: args.next_hop_down,
        kill_every: args.kill_every,
        dir: args.dir.unwrap_or_else(run::default_dir),
        keep: args.keep,
        stall: args.stall,
        slow: (args.slow, args.slow_interval),
        retry_first: args.retry_first.or(trouble.then(|| "1s".into())),
        extra: args.relay_config.iter().map(|l| format!("{l}\n")).collect(),
        delivery: args.relay_delivery.iter().map(|l| format!("{l}\n")).collect(),
    })?;
    if args.json {
        print_json(&found)?;
    } else {
        print!("{}", found.page(&title));
    }
    Ok(verdict(found.is_good()))
}

fn floor_command(load: LoadArgs, json: bool) -> Result<ExitCode, String> {
    let title = format!("The wire alone: {}", load.describe());
    let (report, sink_cpu_us) = run::floor(load.config(([127, 0, 0, 1], 0).into()))?;
    let sent = Sent::new(&report);
    if json {
        print_json(&serde_json::json!({ "sent": sent, "sink_cpu_us_per_message": sink_cpu_us }))?;
    } else {
        print!("{}", sent.page(&title, &report.transaction, Some(sink_cpu_us)));
    }
    Ok(verdict(sent.unsent + sent.given_up == 0 && sent.accepted > 0))
}

fn send_command(args: SendArgs) -> Result<ExitCode, String> {
    let target = args
        .target
        .to_socket_addrs()
        .map_err(|e| format!("{}: {e}", args.target))?
        .next()
        .ok_or(format!("{}: no address", args.target))?;
    let title = format!("To {target}: {}", args.load.describe());
    let mut config = args.load.config(target);
    config.source = args.source.map(|ip| SocketAddr::new(ip, 0));
    let report = run::send(config)?;
    let sent = Sent::new(&report);
    if args.json {
        print_json(&sent)?;
    } else {
        print!("{}", sent.page(&title, &report.transaction, None));
    }
    Ok(verdict(sent.unsent + sent.given_up + sent.refused == 0 && sent.accepted > 0))
}

/// Waits for SIGINT or SIGTERM (or the end of standard input), calling `tick` once a second.
fn wait_for_the_end(until_eof: bool, mut tick: impl FnMut()) -> Result<(), String> {
    let (ended, end) = tokio::sync::oneshot::channel();
    if until_eof {
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            let mut input = std::io::stdin().lock();
            while input.read(&mut buffer).is_ok_and(|n| n > 0) {}
            let _ = ended.send(());
        });
    } else {
        // Never sent: keeps the receiver waiting.
        std::mem::forget(ended);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut end = end;
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = &mut end => return Ok(()),
                _ = second.tick() => tick(),
            }
        }
    })
}

fn sink_command(args: SinkArgs) -> Result<ExitCode, String> {
    let config = SinkConfig {
        listen: args.listen,
        loopback_only: args.loopback_only,
        behaviour: args.behaviour.behaviour(),
        keep: 0,
    };
    let sink = Sink::start(config).map_err(|e| e.to_string())?;
    eprintln!("sink: listening on port {}", sink.port());
    // By rename, so that a reader never sees half a file.
    let write_file = |path: &Path, text: serde_json::Result<String>| {
        let beside = path.with_extension("tmp");
        std::fs::write(&beside, text.map_err(|e| e.to_string())? + "\n")
            .and_then(|()| std::fs::rename(&beside, path))
            .map_err(|e| format!("{}: {e}", path.display()))
    };
    let write = |sink: &Sink| {
        if let Some(path) = &args.arrivals {
            let all = sink.arrivals();
            let came = (0u64..).zip(&all).filter(|(_, a)| a.count > 0);
            let rows: Vec<_> = came.map(|(id, a)| (id, a.count, a.unanswered)).collect();
            write_file(path, serde_json::to_string(&rows))?;
        }
        match &args.stats {
            Some(path) => write_file(path, serde_json::to_string(&sink.stats())),
            None => Ok(()),
        }
    };
    wait_for_the_end(args.until_eof, || {
        if let Err(e) = write(&sink) {
            eprintln!("sink: {e}");
        }
    })?;
    write(&sink)?;
    print_json(&sink.stats())?;
    Ok(ExitCode::SUCCESS)
}

fn dns_command(args: DnsArgs) -> Result<ExitCode, String> {
    let server = DnsServer::start(DnsConfig {
        listen: args.listen,
        template: args.template,
        domains: args.domains,
        ttl: args.ttl,
        null_mx: args.null_mx,
        no_mx: args.no_mx,
        txt: Vec::new(),
        servfail: args.servfail,
        drop: args.drop,
        truncate: args.truncate,
        delay: args.delay,
    })
    .map_err(|e| e.to_string())?;
    eprintln!("dns: listening on {}", server.address());
    wait_for_the_end(false, || {})?;
    println!("{} questions", server.questions());
    Ok(ExitCode::SUCCESS)
}
