//! `ringpost tlsrpt`: what is known of TLS sessions with other domains' mail exchangers, as it will be reported (RFC 8460).
//!
//! Inputs: arguments, the configuration, the files that a relay keeps in its spool's folder. Outputs: JSON on stdout. It changes
//! nothing, so it may be asked beside a running relay, whose files are up to a minute old.

use crate::config::{self, Machine};
use crate::control::tlsrpt;
use crate::starttls::report::Submitter;
use clap::{Args, Subcommand};
use std::error::Error;
use std::path::PathBuf;

#[derive(Subcommand, Debug)]
pub(super) enum TlsrptCommand {
    /// Show the reports of a day, so far, one JSON text for each domain.
    #[command(after_help = "\
Examples:
  ringpost tlsrpt show -c /etc/ringpost/ringpost.toml
      The latest day, all domains.
  ringpost tlsrpt show --day 2026-11-21 example.com -c /etc/ringpost/ringpost.toml")]
    Show(ShowArgs),
}

#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    /// The relay's configuration.
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// The day (UTC), like 2026-11-22; without it the latest.
    #[arg(long, value_name = "DAY")]
    day: Option<String>,
    /// One domain; without it all.
    #[arg(value_name = "DOMAIN")]
    domain: Option<String>,
}

pub(super) fn run(command: &TlsrptCommand) -> Result<(), Box<dyn Error>> {
    let TlsrptCommand::Show(args) = command;
    let loaded = config::load(Some(&args.config), &Machine::this())?;
    let config = loaded.config;
    let folder = tlsrpt::folder(&config.spool.path);
    let mut days = tlsrpt::load(&folder)?;
    let day = match &args.day {
        Some(day) => days.remove(day).ok_or_else(|| format!("nothing is kept of {day} in {}", folder.display()))?,
        None => match days.pop_last() {
            Some((_, day)) => day,
            None => return Err(format!("no day is kept in {}; is there [tls_reports]?", folder.display()).into()),
        },
    };
    let (organization, contact) = match &config.tls_reports {
        Some(settings) => (settings.organization.as_str(), settings.contact.as_str()),
        None => ("", ""),
    };
    let submitter = Submitter { organization, contact, host: &config.hostname };
    let wanted = args.domain.as_ref().map(|domain| domain.trim_end_matches('.').to_ascii_lowercase());
    let mut found = false;
    for domain in day.domains.keys().filter(|domain| wanted.as_ref().is_none_or(|wanted| wanted == *domain)) {
        if let Some(report) = day.report(domain, &submitter) {
            println!("{}", serde_json::to_string_pretty(&report)?);
            found = true;
        }
    }
    if day.lost > 0 {
        eprintln!("{} sessions of that day are above a bound, and in no report", day.lost);
    }
    match wanted {
        Some(domain) if !found => Err(format!("nothing is known of {domain} on {}", day.day).into()),
        _ => Ok(()),
    }
}
