//! PURE. SMTP (RFC 5321) as two protocol machines: [`server::Server`] takes mail in, [`client::Client`] sends it on.
//!
//! In: bytes a peer sent, the time, verdicts and orders of the driver. Out: bytes to send, what the driver must do next.
//! A machine lives on the shard that owns its connection. It refuses to read a clock, to touch a socket, to decide
//! about routing or storage, and to keep more memory than `limits.rs` allows, whatever a peer sends.
//!
//! Message data stays in wire form (dot-stuffed, CRLF, with its final `.` CRLF) from one machine to the other, so that
//! the bytes received are the bytes sent.

pub mod address;
pub mod client;
pub mod command;
pub mod data;
pub mod dots;
pub mod extensions;
pub mod forwarded;
mod help;
pub mod parameters;
pub mod policy;
pub mod proxy;
pub mod reply;
pub mod sasl;
pub mod server;
pub mod socks;

#[cfg(test)]
mod client_auth_tests;
#[cfg(test)]
mod client_extension_tests;
#[cfg(test)]
mod client_flight_tests;
#[cfg(test)]
mod client_property_tests;
#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod end_of_data_tests;
#[cfg(test)]
mod extension_tests;
#[cfg(test)]
mod lmtp_tests;
#[cfg(test)]
mod pair_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod zero_copy_tests;
