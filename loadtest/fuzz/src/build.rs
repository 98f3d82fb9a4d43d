//! Builds the instrumented binary. Stable Rust passes LLVM what it needs.
//!
//! Only crates that read bytes from outside are instrumented: the others would cost each run time, and the fuzzer would
//! follow what is of no interest. Cargo has no flags for single crates, so this program is its RUSTC_WRAPPER too.

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
];

/// Crates that get them.
const INSTRUMENTED: &[&str] = &["ringpost", "fuzz", "hickory_proto", "toml", "toml_parser"];

/// Set when this program is called as a wrapper.
const WRAPPER: &str = "FUZZ_RUSTC_WRAPPER";

/// Everything made by fuzzing that is not committed.
pub fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    target.unwrap_or(root).join("fuzz")
}

/// Runs rustc if Cargo calls this program for that.
pub fn wrapped() -> Option<ExitCode> {
    std::env::var_os(WRAPPER)?;
    let mut arguments = std::env::args().skip(1);
    let rustc = arguments.next()?;
    let arguments: Vec<String> = arguments.collect();
    let named = arguments.iter().position(|a| a == "--crate-name").and_then(|at| arguments.get(at + 1));
    let is_ours = named.is_some_and(|name| INSTRUMENTED.contains(&name.as_str()));
    // Build scripts and procedural macros are compiled without a triple, and linked without libFuzzer.
    let flags = if is_ours && arguments.iter().any(|a| a == "--target") { FLAGS } else { &[] };
    let status = Command::new(rustc).args(&arguments).args(flags).status().ok()?;
    Some(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The triple of this machine.
fn host() -> Result<String, Box<dyn Error>> {
    let output = Command::new("rustc").arg("-vV").output()?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|l| l.strip_prefix("host: ")).ok_or("rustc does not name its host")?;
    Ok(host.to_owned())
}

/// Builds; returns the binary. Optimised, with debug assertions and overflow checks.
pub fn build() -> Result<PathBuf, Box<dyn Error>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let (host, folder) = (host()?, folder());
    let status = Command::new(&cargo)
        .args(["build", "--quiet", "-p", "fuzz", "--features", "libfuzzer", "--bin", "libfuzzer", "--target", &host])
        .args(["--config", "profile.dev.package.\"*\".opt-level=1", "--target-dir"])
        .arg(&folder)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("RUSTC_WRAPPER", std::env::current_exe()?)
        .env(WRAPPER, "1")
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "2")
        .env("CARGO_INCREMENTAL", "0")
        .status()?;
    if !status.success() {
        return Err("the instrumented binary was not built (it needs a C++ compiler)".into());
    }
    Ok(folder.join(host).join("debug").join("libfuzzer"))
}
