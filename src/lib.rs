//! Ringpost, an outbound SMTP relay: one shard per core, nothing shared on the hot path.
//!
//! The way of a message, one direction:
//!
//! ```text
//!    accepting shard (home)                                    |   owning shard of the destination
//!  listener -> session -> SMTP server machine -> spool commit -+-> destination queue -> scheduler
//!               250 only after the commit       |      -> MX resolution -> pool -> SMTP client machine
//!  spool record: settled  <------- Settled ----------------+-------- outcome per recipient
//!                        events (typed facts) -> control plane thread -> log files, metrics
//! ```
//!
//! Layer rules, enforced by the test in `tidy.rs`: `limits time smtp message local route queue shaping lease starttls` (and `dns` but for
//! its driver) name no socket, file, thread, clock, glommio or tokio; only `rt` names glommio and holds `unsafe`; only `control`
//! names tokio.

#![warn(missing_docs)]

#[macro_use]
mod planted;

pub mod accounts;
pub mod cli;
pub mod config;
pub mod control;
pub mod deliver;
pub mod dns;
pub mod lease;
pub mod limits;
pub mod local;
pub mod message;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod protocol_tests;
pub mod queue;
pub mod quota;
pub mod route;
pub mod rt;
pub mod server;
pub mod shaping;
pub mod shard;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod smtp;
pub mod spool;
pub mod starttls;
#[cfg(test)]
mod tidy;
pub mod time;

/// mimalloc: blocks of message size freed on another core than allocated them are its strong case.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The tests count allocations, to prove where there are none.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: rt::alloc::Counting = rt::alloc::Counting;
