//! The spool: what makes a 250 true. One append-only log per shard, in segments of one folder.
//!
//! `format` (PURE) has the bytes, `log` (PURE) decides what is written where and when, both without a file or a clock. The
//! promise, the format and the rules of recovery stand in docs/durability.md.

pub mod format;
pub mod log;
mod merge;
#[cfg(any(test, feature = "sim"))]
pub mod named;
pub mod offline;
pub mod recover;
mod scan;

pub use format::{Body, NewMessage, Outcome, RecipientView, RecordView, chunk_data};
pub use log::{Effect, Event, FileError, FileNo, Geometry, Log, ReadError, Recovered, Refusal, Settled};
pub use merge::Damage;
pub use offline::{list, verify};
pub use recover::{Options, Recovery, RecoveryError, recover};

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod interrupted_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
pub(crate) mod sim;
#[cfg(test)]
mod tests;
