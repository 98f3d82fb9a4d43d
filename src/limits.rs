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

// --- Destination queues -------------------------------------------------------------------------------------------

/// First retry of a transient failure. RFC 5321 §4.5.4.1 asks for 30 minutes in general and allows shorter at the
/// beginning; 5 minutes pass the usual greylisting.
pub const RETRY_FIRST_DEFAULT: Duration = Duration::from_secs(5 * 60);
/// Longest time between two attempts: above it back-off gains a receiver nothing and costs the sender hours.
pub const RETRY_MAX_DEFAULT: Duration = Duration::from_secs(4 * 3600);
/// RFC 5321 §4.5.4.1: the give-up time "generally needs to be at least 4-5 days".
pub const RETRY_GIVE_UP_DEFAULT: Duration = Duration::from_secs(5 * 24 * 3600);
/// How much longer than planned a retry may come, in percent: what failed together shall not come back together.
pub const RETRY_JITTER_PERCENT_DEFAULT: u32 = 20;
/// With fresh mail and retries both ready, every so many-th job taken is a retry: fresh mail goes first, but retries
/// cannot starve.
pub const QUEUE_RETRY_SHARE: u8 = 8;
/// Retry timers served by one turn of the shard, some 0.5 ms; the rest are due in the next turn.
pub const QUEUE_TIMERS_PER_TURN: usize = 4096;
/// Jobs looked at for expiry by one turn of the shard, some 0.2 ms.
pub const QUEUE_SWEEP_PER_TURN: usize = 4096;
/// An empty destination is forgotten after this (at most twice this): longer than any connection to it idles, so that
/// the pool's connections are found again.
pub const QUEUE_DESTINATION_IDLE: Duration = Duration::from_secs(600);
/// Empty destinations remembered per shard (some 250 bytes each). Destinations with mail are bounded by the mail.
pub const QUEUE_IDLE_DESTINATIONS: usize = 20_000;
/// Text of a job's last reply that is kept for its report, in bytes: a million deferred jobs may hold one each.
pub const LAST_REPLY_TEXT_BYTES: usize = 256;
/// The body of a ready job is let go after this: jobs refer into large shared receive buffers, which a few slow jobs
/// would keep alive; the spool has the bytes.
pub const QUEUE_BODY_AGE: Duration = Duration::from_secs(2);

const _: () = assert!(RECIPIENTS <= u16::MAX as usize, "a recipient's index is a u16");

// --- Headers and notifications that Ringpost writes ------------------------------------------------------------------

/// A name (HELO argument, host name) within a Received header; longer ones are cut.
pub const TRACE_NAME_BYTES: usize = DOMAIN_BYTES;
/// A Received header: two names, an address, an id, a date and the words between them, with room to spare.
pub const RECEIVED_HEADER_BYTES: usize = 2 * TRACE_NAME_BYTES + 256;
/// Original headers returned in a delivery status notification, in octets as received; the rest is left out.
pub const DSN_HEADERS_BYTES: usize = 16 << 10;
/// Text of one reply within a notification; the rest is left out.
pub const DSN_REPLY_BYTES: usize = 512;
/// Longest line Ringpost writes into a message, without CRLF (RFC 5322 §2.1.1).
pub const MESSAGE_LINE_BYTES: usize = 998;

const _: () = assert!(PATH_BYTES + 64 < MESSAGE_LINE_BYTES, "an address fits a header line");
