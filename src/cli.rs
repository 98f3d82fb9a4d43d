//! The command line: arguments to one match over the subcommands.
//!
//! Inputs: the arguments. Outputs: an exit code (0 good, 1 failed, 2 wrong usage), text on stdout for what was asked, on
//! stderr for what went wrong. Lives on the thread that starts the process.

mod account;
mod shaping;
mod sources;
mod tlsrpt;

use crate::config::{self, Config, Events, Level, Loaded, Machine, Size, Span};
use crate::rt::disk::StdDisk;
use crate::spool;
use crate::time::Wall;
use clap::{Args, Parser, Subcommand};
use std::error::Error;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

/// An outbound SMTP relay: takes mail, makes it durable, delivers it by MX, on every core.
#[derive(Parser, Debug)]
#[command(version, propagate_version = false, disable_help_subcommand = true)]
#[command(after_help = "\
Examples:
  ringpost run
      Try it: listens on 127.0.0.1:2525, relays for this machine only,
      keeps mail in ./ringpost-spool.
  ringpost check --config /etc/ringpost/ringpost.toml
      Is this configuration right, and what does it mean?
  ringpost run --config /etc/ringpost/ringpost.toml
      Serve.
  ringpost account add ann@example.com --config /etc/ringpost/ringpost.toml
      Let somebody send with a password.

A configuration in which every key is explained: config/ringpost.toml")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the relay until SIGTERM or SIGINT.
    #[command(after_help = "\
Signals:
  SIGTERM, SIGINT   drain: no new mail, transactions in progress finish,
                    exit 0; a second one: end at once
  SIGHUP            read accounts, certificates, local files and rules
                    anew (what is wrong in them is logged, and the old ones
                    stay); open the event log anew, after it was moved away

Examples:
  ringpost run
  ringpost run --config /etc/ringpost/ringpost.toml")]
    Run(RunArgs),
    /// Check a configuration and the files it names: print what it means, exit 0; or what is wrong with it, exit 1.
    #[command(after_help = "\
Example:
  ringpost check --config /etc/ringpost/ringpost.toml && systemctl restart ringpost")]
    Check(CheckArgs),
    /// Add, remove and list accounts, who may send with a password or a certificate.
    #[command(subcommand)]
    Account(account::AccountCommand),
    /// Explain the rules for what receivers take: limits and replies.
    #[command(subcommand)]
    Shaping(shaping::ShapingCommand),
    /// Show the source addresses: pools, warm-ups with what was sent to each site, and where they rest until when and why.
    #[command(after_help = "\
A source that is new sends each site no more messages in a day than its
warm-up allows (docs/sources.md). Day 1 is the day that `started` names; days
begin at midnight UTC. One that a site does not want rests for that site.

What was sent, and what rests, stands in the spool's folder, where a running
relay writes it: this reads it there, beside the relay or after its end.

Examples:
  ringpost sources -c /etc/ringpost/ringpost.toml
      Is the new address on its way, and is any of them blocked?
  ringpost sources --json -c /etc/ringpost/ringpost.toml |
      jq '.sources[] | select(.rests != []) | {address, rests}'
      Those that rest.")]
    Sources(sources::SourcesArgs),
    /// Show what will be reported of TLS (RFC 8460).
    #[command(subcommand)]
    Tlsrpt(tlsrpt::TlsrptCommand),
    /// Read a spool without a server, and without changing it.
    #[command(subcommand)]
    Spool(SpoolCommand),
}

#[derive(Subcommand, Debug)]
enum SpoolCommand {
    /// Check every record of a spool: exit 0 if all is intact, 1 if something is damaged.
    #[command(after_help = "\
Example:
  ringpost spool verify /var/spool/ringpost")]
    Verify(SpoolArgs),
    /// List the messages that wait, with their age, sender, and each recipient's state.
    #[command(after_help = "\
Example:
  ringpost spool list /var/spool/ringpost")]
    List(SpoolArgs),
}

#[derive(Args, Debug)]
struct SpoolArgs {
    /// The spool's folder: `[spool] path`.
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

#[derive(Args, Debug)]
struct RunArgs {
    /// The configuration; without it: 127.0.0.1:2525, relaying for loopback, spool in ./ringpost-spool.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct CheckArgs {
    /// The configuration to check.
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
}

/// The status of a program that SIGPIPE ends, as shells count it.
const BROKEN_PIPE: i32 = 128 + 13;

/// From now on the process ends in silence when nobody reads its output any more (`ringpost … | head`): the standard library
/// ignores SIGPIPE and panics instead.
pub fn end_with_the_reader() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to stdout: Broken pipe") {
            std::process::exit(BROKEN_PIPE);
        }
        before(panic);
    }));
}

/// Does what this process' arguments say.
pub fn main() -> ExitCode {
    end_with_the_reader();
    main_from(std::env::args_os())
}

/// Does what `args` say; the first is the program's name.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let outcome = match Cli::parse_from(args).command {
        Command::Run(args) => run(&args).map(|()| 0),
        Command::Check(args) => check(&args).map(|()| 0),
        Command::Account(command) => account::run(&command).map(|()| 0),
        Command::Shaping(command) => shaping::run(&command).map(|()| 0),
        Command::Sources(args) => sources::run(&args).map(|()| 0),
        Command::Tlsrpt(command) => tlsrpt::run(&command).map(|()| 0),
        Command::Spool(SpoolCommand::Verify(args)) => verify(&args),
        Command::Spool(SpoolCommand::List(args)) => list(&args),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("ringpost: {error}");
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<(), Box<dyn Error>>;

fn run(args: &RunArgs) -> Outcome {
    let loaded = config::load(args.config.as_deref(), &Machine::this())?;
    operator_log(loaded.config.log.level);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let Loaded { config, origin, .. } = loaded;
    tracing::info!("ringpost {}, {origin}: {}", env!("CARGO_PKG_VERSION"), one_line(&config));
    crate::server::run(config)?;
    Ok(())
}

fn check(args: &CheckArgs) -> Outcome {
    let loaded = config::load(Some(&args.config), &Machine::this())?;
    let of_files = crate::server::check(&loaded.config)?;
    print!("{}", summary(&loaded.config));
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).chain(of_files).collect();
    for warning in &warnings {
        println!("warning: {warning}");
    }
    println!("{}: good{}", loaded.origin, if warnings.is_empty() { "" } else { ", with warnings" });
    Ok(())
}

fn verify(args: &SpoolArgs) -> Result<u8, Box<dyn Error>> {
    let report = spool::verify(&StdDisk, &args.path)?;
    println!("{report}");
    Ok(report.exit_status())
}

fn list(args: &SpoolArgs) -> Result<u8, Box<dyn Error>> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let listing = spool::list(&StdDisk, &args.path, Wall(u64::try_from(since.as_millis())?))?;
    println!("{listing}");
    Ok(0)
}

/// The operator's log: lines on stderr, which systemd takes into the journal. Events about mail go elsewhere.
///
/// A line that cannot be written (stderr is a file on a full disk, or a pipe that nobody reads any more) is dropped. To
/// complain of it on stderr, as the subscriber does unless told not to, fails as well, and that is a panic: mail would
/// stand still for want of a log.
fn operator_log(level: Level) {
    let level = match level {
        Level::Error => tracing::Level::ERROR,
        Level::Warn => tracing::Level::WARN,
        Level::Info => tracing::Level::INFO,
        Level::Debug => tracing::Level::DEBUG,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .log_internal_errors(false);
    // Fails only if something set one before, which then stays.
    drop(subscriber.try_init());
}

fn one_line(config: &Config) -> String {
    let listeners: Vec<_> = config.listeners.iter().map(|listener| listener.address.to_string()).collect();
    format!(
        "{} on {}, {} shard{}, spool {}",
        config.hostname,
        listeners.join(" "),
        config.shards,
        if config.shards == 1 { "" } else { "s" },
        config.spool.path.display()
    )
}

/// The resolved configuration, a line for each thing an operator looks for.
fn summary(config: &Config) -> String {
    let list = |items: Vec<String>, none: &str| if items.is_empty() { none.to_owned() } else { items.join(" ") };
    let delivery = &config.delivery;
    let retry = &delivery.retry;
    let routes = delivery.routes.as_ref().map_or(String::new(), |path| format!(", but for {}", path.display()));
    let fallback = delivery.fallback_relay.as_ref().map_or("none".to_owned(), |relay| {
        format!("{relay}, for what is out of reach for {}", Span(delivery.fallback_after))
    });
    let rules: Vec<String> = config.shaping.iter().map(|path| path.display().to_string()).collect();
    let lines = [
        ("hostname", config.hostname.clone()),
        ("shards", config.shards.to_string()),
        ("drain timeout", Span(config.drain_timeout).to_string()),
        ("spool", config.spool.path.display().to_string()),
        ("listeners", list(config.listeners.iter().map(|l| l.address.to_string()).collect(), "none")),
        ("relays for", list(config.relay.from_networks.iter().map(ToString::to_string).collect(), "nobody")),
        (
            "messages",
            format!("up to {}, {} recipients", Size(config.smtp.max_message_bytes), config.smtp.max_recipients),
        ),
        (
            "sessions",
            format!(
                "{} a shard, {} for a command, {} for data",
                config.smtp.max_sessions_per_shard,
                Span(config.smtp.command_timeout),
                Span(config.smtp.data_timeout)
            ),
        ),
        (
            "dns",
            format!(
                "{}, {} each, {} rounds",
                list(config.dns.servers.iter().map(ToString::to_string).collect(), "none"),
                Span(config.dns.timeout),
                config.dns.attempts
            ),
        ),
        (
            "delivers to",
            match &delivery.smart_host {
                Some(host) => format!("smart host {host}"),
                None => format!("mail exchangers, port {}", delivery.port),
            } + &routes,
        ),
        ("fallback relay", fallback),
        ("rules", list(rules, "none")),
        (
            "as",
            format!(
                "{} from {}, IPv6 {}",
                delivery.ehlo_name,
                list(delivery.source_addresses.iter().map(ToString::to_string).collect(), "any address"),
                if delivery.ipv6 { "on" } else { "off" }
            ),
        ),
        (
            "connections",
            format!(
                "{} a destination, {} messages each, {} of them in flight, {} to connect, idle for {}",
                delivery.connections_per_destination,
                delivery.messages_per_connection,
                delivery.messages_in_flight,
                Span(delivery.connect_timeout),
                Span(delivery.idle_timeout)
            ),
        ),
        (
            "retries",
            format!(
                "after {}, then times {} up to {}, \u{b1}{:.0} %, given up after {}",
                Span(retry.first),
                retry.factor,
                Span(retry.max),
                retry.jitter * 100.0,
                Span(retry.give_up)
            ),
        ),
        ("admin", config.admin.map_or("none".to_owned(), |address| format!("http://{address}/"))),
        (
            "events",
            match &config.log.events {
                Events::Off => "off".to_owned(),
                Events::Stdout => "standard output".to_owned(),
                Events::File(path) => format!(
                    "{}, rotated at {}, {} kept",
                    path.display(),
                    Size(config.log.rotate_bytes),
                    config.log.keep
                ),
            },
        ),
    ];
    let mut text = String::new();
    for (name, value) in lines {
        writeln!(text, "{name:<14} {value}").expect("a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn check_reads_every_file_that_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let write = |name: &str, text: &str| {
            std::fs::write(path(name), text).expect("a file");
            std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(0o600)).expect("its mode");
        };
        let local = format!(
            "[[local]]\ndomains = [\"here.test\"]\ndeliver = \"lmtp:127.0.0.1:24\"\nmailboxes = {:?}\naliases = {:?}\n",
            path("mailboxes"),
            path("aliases")
        );
        let more = format!(
            "[accounts]\nfile = {:?}\n[tls]\nclient_ca = {:?}\ncertificates = [{{ certificate = {:?}, key = {:?} }}, \
             {{ certificate = {:?}, key = {:?} }}]\n",
            path("accounts"),
            path("ca"),
            path("cert1"),
            path("key1"),
            path("cert2"),
            path("key2")
        );
        let shaping = format!("[shaping]\nfiles = [{:?}, {:?}]\n", path("rules1"), path("rules2"));
        let exit = |config: &str| {
            write("config", &format!("hostname = \"relay.test\"\n[dns]\nservers = [\"127.0.0.1\"]\n{config}"));
            main_from(["ringpost", "check", "--config", &path("config")].map(OsString::from))
        };
        let check = || check(&CheckArgs { config: folder.path().join("config") }).map_err(|error| error.to_string());
        write("mailboxes", "alice\n");
        write("aliases", "postmaster: alice\nabuse: alice\n");
        write("rules1", "[[provider]]\nname = \"big\"\nmx = [\"*.big.test\"]\n");
        write("rules2", "[[provider]]\nname = \"big\"\nconnections = 5\n");
        assert_eq!(exit(&format!("{local}{shaping}")), ExitCode::SUCCESS);

        // Everything at once, though one of the files cannot be read.
        write("aliases", "postmaster: alice\nteam: |/bin/sh\nabuse: alice, |/bin/false\n");
        std::fs::remove_file(path("mailboxes")).expect("it is there");
        write("accounts", "\n[[account]]\nname = 5\n");
        write("cert1", "no certificate");
        std::fs::remove_file(path("rules1")).expect("it is there");
        write("rules2", "[[provider]]\nname = \"big\"\nconnections = 0\n");
        assert_eq!(exit(&format!("{more}{local}{shaping}")), ExitCode::FAILURE);
        let told = check().expect_err("much is wrong");
        for (file, line) in [
            ("accounts", ":3:"),
            ("cert1", ": "),
            ("cert2", ": "),
            ("ca", ": "),
            ("mailboxes", ": "),
            ("aliases", ":2: "),
            ("aliases", ":3: "),
            ("rules1", ": "),
            ("rules2", ":3:15: "),
        ] {
            let place = format!("{}{line}", path(file));
            assert!(told.lines().any(|line| line.contains(&place)), "{place} in\n{told}");
        }
    }

    #[test]
    fn the_summary_tells_what_the_defaults_mean() {
        let loaded = config::load(None, &Machine { cores: 2, ..Machine::default() }).expect("the embedded default");
        let text = summary(&loaded.config);
        for part in ["127.0.0.1:2525", "127.0.0.0/8 ::1/128", "up to 50MiB", "after 5m", "given up after 5d", "port 25"]
        {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
