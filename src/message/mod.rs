//! PURE. What a message is between the two protocol machines: its id, its envelope, the headers Ringpost adds, and the
//! notifications it writes about it.

pub mod address_list;
pub mod dsn;
pub mod envelope;
pub mod fields;
pub mod id;
pub mod params;
#[cfg(test)]
mod property_tests;
pub mod status;
pub mod submission;
pub mod tls_report;
pub mod trace;

pub use envelope::{Envelope, Member, Recipient};
pub use id::MessageId;
pub use status::Status;
