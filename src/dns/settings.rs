//! PURE. What an operator can set about name resolution, and the counters that tell how it goes.

use crate::limits;
use std::net::SocketAddr;
use std::time::Duration;

/// Settings of a [`Resolver`](super::Resolver). What is above a bound of `limits.rs` is cut to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// Recursive servers, best first; [`limits::DNS_SERVERS`] at most. With none, every answer is temporary.
    pub servers: Vec<SocketAddr>,
    /// Time for one try at one server.
    pub timeout: Duration,
    /// Rounds over the servers, 1 to [`limits::DNS_ATTEMPTS`].
    pub attempts: u32,
    /// The servers validate DNSSEC, and the way to them can be trusted: their AD bit counts.
    pub validating: bool,
    /// Which server a question goes to first.
    pub server_order: ServerOrder,
    /// Address families mail is sent over.
    pub families: AddressFamilies,
    /// Names are hosts, not domains: their addresses are asked for, never MX. For a smart host.
    pub addresses_only: bool,
    /// Shortest and longest time that an answer is kept, whatever its TTL.
    pub ttl: (Duration, Duration),
    /// How long beyond its time a route is used where DNS fails (RFC 8767); zero: not at all.
    pub serve_stale: Duration,
    /// Names are asked for in random case, which an answer must have too (0x20): some 10 bits more for a forger to guess.
    pub random_case: bool,
    /// Domains whose resolution is kept, at least 1.
    pub cached_domains: usize,
    /// Answers to single questions that are kept, at least 1.
    pub cached_answers: usize,
}

impl Default for DnsSettings {
    fn default() -> Self {
        DnsSettings {
            servers: Vec::new(),
            timeout: limits::DNS_TIMEOUT_DEFAULT,
            attempts: limits::DNS_ATTEMPTS_DEFAULT,
            validating: false,
            server_order: ServerOrder::Listed,
            families: AddressFamilies::Ipv6First,
            addresses_only: false,
            ttl: (limits::DNS_TTL_MIN, limits::DNS_TTL_MAX),
            serve_stale: limits::DNS_STALE_MAX,
            random_case: true,
            cached_domains: limits::DNS_CACHED_DOMAINS_DEFAULT,
            cached_answers: limits::DNS_CACHED_ANSWERS_DEFAULT,
        }
    }
}

/// The server a question goes to first. Servers that just failed are passed over either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ServerOrder {
    /// The first listed that works, as resolv.conf(5) says.
    #[default]
    Listed,
    /// Any of them.
    Random,
}

/// Address families mail is sent over, and which one comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AddressFamilies {
    /// A records only; no AAAA is asked for.
    Ipv4Only,
    /// Both; an IPv4 address of each host before its IPv6 addresses.
    Ipv4First,
    /// Both; an IPv6 address of each host first (RFC 6724).
    #[default]
    Ipv6First,
}

/// Counters since the resolver was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DnsCounters {
    /// Calls of `resolve`.
    pub resolutions: u64,
    /// Of these, answered from the cache of domains.
    pub cache_hits: u64,
    /// Of these, joined to the same domain already under way.
    pub coalesced: u64,
    /// Of these, refused because too many domains were under way.
    pub refused: u64,
    /// Messages sent to servers, over UDP and TCP.
    pub queries: u64,
    /// Questions answered from the cache of answers.
    pub answer_cache_hits: u64,
    /// Tries without an answer in time.
    pub timeouts: u64,
    /// Answers that did not fit a datagram, asked again over TCP.
    pub truncated: u64,
    /// Tries that a server answered with an error or with nonsense, or that the network refused.
    pub failures: u64,
    /// Datagrams and stream messages dropped because they do not answer the query they came for.
    pub mismatched: u64,
    /// Questions that no server answered.
    pub unanswered: u64,
    /// Answers in another case than the question's (0x20), which were asked for again over TCP.
    pub case_lost: u64,
    /// Resolutions that failed, in whose place what was known before is used (RFC 8767).
    pub stale: u64,
    /// Domains that were asked for again before their time was over.
    pub prefetched: u64,
}
