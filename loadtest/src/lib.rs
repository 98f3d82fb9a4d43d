//! Load generator and test bench for SMTP relays: a source, a sink, a DNS server, and runs that join them.
//!
//! ```text
//!  send::Source --SMTP--> relay under test --SMTP--> sink::Sink
//!        |                      |  DNS                    |
//!        |                dns::DnsServer                  |
//!        +---- accepted, by id ----> run <---- arrived, by id
//! ```
//!
//! Every recipient address is `u<id>@domain`, and every message names its ids and carries a checksum of its body, so
//! loss, duplicates and damage are exact counts and not estimates. Source, sink and DNS are each one ordinary thread
//! with a single-threaded tokio runtime: what they cost is measured per thread and reported, since it competes with
//! the relay for the same cores.
//!
//! Nothing here knows Ringpost's insides: the relay is a process that is given a configuration file and signals. Only
//! [`relay_main`] calls into it, to run it as a child of this program without a second binary.

#![warn(missing_docs)]

pub mod cpu;
pub mod day;
pub mod dns;
pub mod latency;
pub mod relay;
pub mod relay_main;
pub mod report;
pub mod run;
pub mod send;
pub mod simulate;
pub mod sink;
pub mod slow;
pub mod traffic;
pub mod units;

use std::sync::OnceLock;
use std::time::Instant;

/// Nanoseconds since the first call in this process: the clock that source and sink share.
pub fn now_ns() -> u64 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    // +1: zero means "never" in the tables.
    u64::try_from(EPOCH.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
}
