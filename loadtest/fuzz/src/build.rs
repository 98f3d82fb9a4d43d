//! Builds the instrumented binary. Stable Rust passes LLVM what it needs.
//!
//! Only Ringpost and the targets are instrumented, and optimised: Cargo calls this program instead of rustc for the crates
//! of the workspace (RUSTC_WORKSPACE_WRAPPER). What they depend on is what `cargo test` has built already.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What cargo-fuzz passes too, without a sanitizer: those need nightly Rust.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Copt-level=2",
];

/// What a target spends its time in beside those crates, and nothing else depends on.
const OPTIMISED: &[&str] = &["crc32fast", "hickory-proto", "toml", "toml_parser"];

/// Set when this program is called as a wrapper.
const WRAPPER: &str = "FUZZ_RUSTC_WRAPPER";

/// The target folder of Cargo.
fn target() -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = crates.ancestors().nth(2).unwrap_or(crates).join("target");
    std::env::var_os("CARGO_TARGET_DIR").map_or(root, PathBuf::from)
}

/// Everything made by fuzzing that is not committed.
pub fn folder() -> PathBuf {
    target().join("fuzz")
}

/// Runs rustc if Cargo calls this program for that.
pub fn wrapped() -> Option<ExitCode> {
    std::env::var_os(WRAPPER)?;
    let mut arguments = std::env::args_os().skip(1);
    let mut rustc = Command::new(arguments.next()?);
    let status = rustc.args(arguments).args(FLAGS).status().ok()?;
    Some(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds; returns the binary. Debug assertions and overflow checks are on.
pub fn build() -> Result<PathBuf, Box<dyn Error>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(&cargo);
    command.args(["build", "--quiet", "-p", "fuzz", "--features", "libfuzzer", "--bin", "libfuzzer"]);
    for package in OPTIMISED {
        command.args(["--config", &format!("profile.dev.package.{package}.opt-level=2")]);
    }
    let status = command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("RUSTC_WORKSPACE_WRAPPER", std::env::current_exe()?)
        .env(WRAPPER, "1")
        .env("CARGO_INCREMENTAL", "0")
        .status()?;
    if !status.success() {
        return Err("the instrumented binary was not built (it needs a C++ compiler)".into());
    }
    Ok(target().join("debug").join("libfuzzer"))
}
