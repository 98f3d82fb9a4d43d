//! PURE. Mail routing by DNS: which hosts and addresses a recipient's domain names for its mail (RFC 5321 §5.1).
//!
//! A small stub resolver over hickory-proto's codec. It asks recursive servers, over UDP and, when an answer does not
//! fit, over TCP; it caches, and it lives on one shard: each shard has a [`Resolver`] of its own, nothing is shared.
//!
//! In come domains ([`Resolver::resolve`]), what servers sent, and the time; out go datagrams to send
//! ([`Resolver::poll_transmit`]) and resolutions ([`Resolver::poll_event`]).
//!
//! Three layers, each knowing only the one below: [`resolver`] makes a domain's route from the answers to several
//! questions, `lookup` gets one question answered by some server, `wire` reads and writes one message. The driver's
//! loop, after every input, command or timeout:
//!
//! ```text
//! while let Some(transmit) = resolver.poll_transmit() { open and send, or close }
//! while let Some(resolved) = resolver.poll_event()    { wake what waits for resolved.domain }
//! sleep until resolver.poll_timeout(), a datagram, stream bytes, or a socket's error
//! ```
//!
//! It refuses to: follow referrals (a server must offer recursion), look at answers it did not ask for, translate
//! U-labels (RFC 5891: the caller does), search domains or `/etc/hosts`, validate DNSSEC (the recursive server does, and its AD
//! bit is believed where the operator says so: [`DnsSettings::validating`]).

#[cfg(any(test, feature = "sim"))]
mod audit;
mod cache;
mod facts;
mod lookup;
mod name;
mod outcome;
pub mod resolution;
pub mod resolv_conf;
pub mod resolver;
mod servers;
mod settings;
mod transmit;
mod wire;

#[cfg(test)]
mod tests;

pub(crate) use facts::tlsa_name;
pub use facts::{Facts, Tlsa, TlsaAnswer};
pub use name::{BadName, CanonicalName, canonical};
pub use resolution::{Attempt, MailHost, Resolution, Verdict};
pub use resolv_conf::ResolvConf;
pub use resolver::{Answer, Resolved, Resolver};
pub use settings::{AddressFamilies, DnsCounters, DnsSettings, ServerOrder};
pub use transmit::{ExchangeId, Transmit};
