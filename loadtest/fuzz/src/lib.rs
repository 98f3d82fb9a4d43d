//! Fuzz targets: every place where bytes from outside enter Ringpost, each as a function that takes any bytes and
//! panics if what must hold does not.
//!
//! In: bytes, which each target reads as its module says (choices first, payload last). Out: nothing, or a panic. The
//! same functions serve `cargo test` (corpora and random variations of them, no instrumentation) and `fuzz run`
//! (libFuzzer with coverage). They refuse to touch a file, a socket, a clock or a random source: one input, one
//! course of events. docs/testing.md says how to run them.

pub mod input;
pub mod memory_disk;
pub mod mutate;
pub mod targets;

use std::path::PathBuf;

/// One target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its corpus folder.
    pub name: &'static str,
    /// Takes any bytes; panics at a finding.
    pub run: fn(&[u8]),
    /// Longest input worth trying, bytes.
    pub max_bytes: usize,
    /// Words that make its input interesting, for mutations.
    pub words: &'static [&'static [u8]],
    /// How many random variations `cargo test` tries: some seconds for all targets together.
    pub test_runs: usize,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    targets::server::TARGET,
    targets::client::TARGET,
    targets::address::TARGET,
    targets::data::TARGET,
    targets::spool::TARGET,
    targets::dns::TARGET,
    targets::config::TARGET,
    targets::notification::TARGET,
    targets::written::TARGET,
];

/// The target called `name`.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}

/// The committed corpus of `target`.
pub fn corpus(target: &Target) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "corpus", target.name].iter().collect()
}
