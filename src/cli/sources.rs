//! `ringpost sources`: the source addresses, how far their warm-ups are, and which of them rest where.
//!
//! Inputs: arguments, the configuration, the files that a relay keeps in its spool's folder. Outputs: text or JSON on stdout. It
//! changes nothing, so it may be asked beside a running relay.

use crate::config::{self, Machine};
use crate::server::sources;
use clap::Args;
use std::error::Error;
use std::path::PathBuf;

/// What is asked of them.
#[derive(Args, Debug)]
pub(super) struct SourcesArgs {
    /// The relay's configuration.
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// As JSON, for programs; the page /sources of the admin address has the same.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &SourcesArgs) -> Result<(), Box<dyn Error>> {
    let config = config::load(Some(&args.config), &Machine::this())?.config;
    if args.json {
        print!("{}", sources::json(&config)?);
        return Ok(());
    }
    if config.sources.list.is_empty() {
        println!(
            "there is no [[source]]: mail goes from the addresses that the kernel, or delivery.source_addresses, choose"
        );
    }
    print!("{}", sources::status(&config).map_err(|error| format!("{}: {error}", config.spool.path.display()))?);
    Ok(())
}
