//! PURE. Every bound in one place: unit in the name, the reason beside it, assertions that relate them. At a bound a
//! peer gets a 4yz or 5yz reply or an attempt is deferred; memory never grows with what a peer sends.

use std::time::Duration;

// --- SMTP, server side --------------------------------------------------------------------------------------------

/// A command line with its CRLF. RFC 5321 §4.5.3.1.4 asks for 512 octets at least; extensions add: SIZE 26, BODY 17,
/// and room for those of later issues (RFC 4954 asks for 12,288 for AUTH only).
pub const COMMAND_LINE_BYTES: usize = 2048;
/// RFC 5321 §4.5.3.1.1.
pub const LOCAL_PART_BYTES: usize = 64;
/// RFC 5321 §4.5.3.1.2, RFC 1035 §2.3.4.
pub const DOMAIN_BYTES: usize = 255;
/// RFC 5321 §4.5.3.1.3, with the angle brackets.
pub const PATH_BYTES: usize = 256;
/// Recipients of one transaction. RFC 5321 §4.5.3.1.8 asks for 100 at least; the next gets 452 4.5.3.
pub const RECIPIENTS: usize = 1000;
/// Default of the largest message, octets as received (dot-stuffed).
pub const MESSAGE_BYTES_DEFAULT: u64 = 50 << 20;
/// Received headers before a message counts as looping. RFC 5321 §6.3 asks for a threshold of 100 at least.
pub const RECEIVED_HEADERS: u32 = 100;
/// Time a client may take for its next command. RFC 5321 §4.5.3.2.7: 5 minutes at least.
pub const SERVER_COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
/// Time between two pieces of message data. RFC 5321 §4.5.3.2.5 (server: as the client's 3 minutes, and more).
pub const SERVER_DATA_TIMEOUT: Duration = Duration::from_secs(300);
/// Unconsumed input kept for a session: commands pipelined while its message is being made durable.
pub const SESSION_TAIL_BYTES: usize = 32 << 10;
/// Replies not yet taken by the client's TCP window; above it the session reads no more.
pub const SESSION_OUT_BYTES: usize = 64 << 10;

// --- SMTP, client side --------------------------------------------------------------------------------------------

/// RFC 5321 §4.5.3.2.1.
pub const CLIENT_GREETING_TIMEOUT: Duration = Duration::from_secs(300);
/// Replies to EHLO, HELO, RSET, QUIT (no RFC figure; as §4.5.3.2.2).
pub const CLIENT_COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
/// RFC 5321 §4.5.3.2.2 and §4.5.3.2.3.
pub const CLIENT_ENVELOPE_TIMEOUT: Duration = Duration::from_secs(300);
/// RFC 5321 §4.5.3.2.4.
pub const CLIENT_DATA_INITIATION_TIMEOUT: Duration = Duration::from_secs(120);
/// RFC 5321 §4.5.3.2.5: between two blocks of data.
pub const CLIENT_DATA_BLOCK_TIMEOUT: Duration = Duration::from_secs(180);
/// RFC 5321 §4.5.3.2.6: the reply to the final dot.
pub const CLIENT_DATA_TERMINATION_TIMEOUT: Duration = Duration::from_secs(600);
/// One line of a reply. RFC 5321 §4.5.3.1.5: 512 at least.
pub const REPLY_LINE_BYTES: usize = 2048;
/// All lines of one reply; what is above is read and dropped.
pub const REPLY_TEXT_BYTES: usize = 4096;
/// Lines of one reply; a peer that sends more is hung up on.
pub const REPLY_LINES: usize = 256;

// --- Shards -------------------------------------------------------------------------------------------------------

/// Shards of one process (10 bits of a message id).
pub const SHARDS: usize = 1023;
/// TCP connect, per address.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

const _: () = assert!(PATH_BYTES > LOCAL_PART_BYTES, "a path holds a local part");
const _: () = assert!(SESSION_TAIL_BYTES >= 4 * COMMAND_LINE_BYTES, "a pipelined group fits the tail");
const _: () = assert!(SHARDS < 1024, "a message id has 10 bits for its shard");

// --- DNS, per shard -----------------------------------------------------------------------------------------------

/// Recursive servers a resolver talks to (resolv.conf(5) itself stops at 3); further ones are ignored.
pub const DNS_SERVERS: usize = 8;
/// Rounds over the servers for one question; what is configured above it is cut (resolv.conf(5) caps at 5).
pub const DNS_ATTEMPTS: u32 = 5;
/// Default time for one try at one server (as resolv.conf(5)).
pub const DNS_TRY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// All tries of one question together, TCP and aliases included; then it failed. Before its first try it waits as long
/// at most for a free exchange. A domain asks at most two questions one after the other.
pub const DNS_QUESTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Once one address of a domain is known, how long the answers still missing are waited for: a broken AAAA or a dead
/// backup MX must not hold up mail.
pub const DNS_REST_TIMEOUT: Duration = Duration::from_secs(2);
/// Exchanges under way, each with a socket of its own; further questions wait for a free one.
pub const DNS_EXCHANGES: usize = 512;
/// Domains being resolved (about 1 KiB each); the next one is answered "temporary" at once.
pub const DNS_PENDING_DOMAINS: usize = 16 << 10;
/// Size announced by EDNS: fits every path without fragments (DNS flag day 2020).
pub const DNS_UDP_PAYLOAD_BYTES: u16 = 1232;
/// Datagrams on one exchange that do not answer its query, before it goes on over TCP: somebody guesses ids.
pub const DNS_MISMATCHES: u32 = 8;
/// Aliases (CNAME) followed for one question (BIND and Unbound stop between 8 and 17).
pub const DNS_ALIASES: usize = 12;
/// MX hosts of one domain that are used, best preference first; what is above is dropped.
pub const DNS_MX_HOSTS: usize = 16;
/// Addresses of one MX host and one family that are used.
pub const DNS_ADDRESSES_PER_FAMILY: usize = 16;
/// Longest a record is kept, whatever its TTL.
pub const DNS_TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Shortest a record is kept: a TTL of 0 must not cost a query per message.
pub const DNS_TTL_MIN: Duration = Duration::from_secs(5);
/// Longest that "no such name" or "no such record" is kept (RFC 2308 §5 suggests 1 to 3 hours).
pub const DNS_NEGATIVE_TTL_MAX: Duration = Duration::from_secs(3600);
/// How long a failure is kept (RFC 2308 §7: 5 minutes at most).
pub const DNS_FAILURE_TTL: Duration = Duration::from_secs(10);
/// How long a resolution with hosts is kept that some answers are missing from: long enough that a name server that
/// never answers AAAA costs next to nothing, short enough that a host missing by accident is soon used.
pub const DNS_PARTIAL_TTL: Duration = Duration::from_secs(60);
/// First time a server that did not answer is passed over; doubles with each failure in a row.
pub const DNS_AVOID_MIN: Duration = Duration::from_secs(2);
/// Longest time a server is passed over.
pub const DNS_AVOID_MAX: Duration = Duration::from_secs(60);
/// How long a server that rejected EDNS is asked without it.
pub const DNS_PLAIN_TIME: Duration = Duration::from_secs(3600);
/// Default number of domains a shard keeps resolutions of (about 400 bytes each).
pub const DNS_CACHED_DOMAINS_DEFAULT: usize = 16 << 10;
/// Default number of answers to single questions a shard keeps (about 200 bytes each).
pub const DNS_CACHED_ANSWERS_DEFAULT: usize = 32 << 10;

const _: () = assert!(DNS_SERVERS <= 32, "a round keeps the servers it tried in 32 bits");
const _: () = assert!(DNS_EXCHANGES <= 1 << 16 && DNS_PENDING_DOMAINS <= 1 << 16, "slots in the low 16 bits of ids");
const _: () = assert!(DNS_FAILURE_TTL.as_secs() <= 300, "RFC 2308 §7");
