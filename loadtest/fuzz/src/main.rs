//! Runs the fuzz targets: builds the instrumented binary, gives each target its time, says what was tried and found.
//!
//! In: what to run and how long. Out: a table on standard output; for a finding the input, where it is kept and what it
//! broke, and exit status 1. Needs stable Rust, a C and a C++ compiler. One process runs at a time. It refuses to change
//! the committed corpora, unless told to by `minimise`; what a run discovers is kept in target/fuzz/corpus.

mod build;
mod run;
mod seeds;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Fuzzing of Ringpost.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fuzz with coverage.
    Run {
        /// Seconds for each target; the build comes on top.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Seconds for all targets together: they take turns of `--seconds` until it is over.
        #[arg(long)]
        total: Option<u64>,
        /// Only these.
        #[arg(long)]
        target: Vec<String>,
    },
    /// Run one input, without instrumentation.
    Reproduce {
        /// The target.
        target: String,
        /// A file.
        input: PathBuf,
    },
    /// Write the seeds by hand, and what of the discovered inputs adds coverage to them, into the committed corpora.
    Minimise {
        /// At most so many discovered inputs for each target.
        #[arg(long, default_value_t = 30)]
        keep: usize,
    },
    /// Write the seeds made by hand into the committed corpora.
    Seeds,
}

fn main() -> ExitCode {
    if let Some(status) = build::wrapped() {
        return status;
    }
    let result = match Cli::parse().command {
        Command::Run { seconds, total, target } => run::run(seconds, total, &target),
        Command::Reproduce { target, input } => run::reproduce(&target, &input),
        Command::Minimise { keep } => run::minimise(keep),
        Command::Seeds => seeds::write().map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
