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

// --- Spool --------------------------------------------------------------------------------------------------------

/// One segment file of a log. Large enough that creating one is rare, small enough that freeing one gives space back soon.
pub const SPOOL_SEGMENT_BYTES: u32 = 32 << 20;
/// One commit: one write and one sync. Above 1 MiB a device gains nothing more and every waiting session waits longer.
pub const SPOOL_COMMIT_BYTES: u32 = 1 << 20;
/// Commits that wait behind the one in flight; above it `accept` refuses Busy (452). Bounds the memory of a slow disk.
pub const SPOOL_COMMITS_QUEUED: usize = 8;
/// Idle commit buffers kept by a shard: the one in flight, the one that fills, and some that sessions still send from.
pub const SPOOL_BUFFERS_KEPT: usize = 12;
/// Trace header of a message, octets: one Received field with its folding.
pub const SPOOL_TRACE_BYTES: usize = 4096;
/// The largest body written as one record; larger ones are streamed in chunks of at most this size.
pub const SPOOL_CHUNK_BYTES: usize = 256 << 10;
/// How long an outcome may wait for a commit to travel with, before it is written by itself.
pub const SPOOL_SETTLE_DELAY: Duration = Duration::from_millis(50);
/// The same while no new segment can be had: the reserve must last.
pub const SPOOL_SETTLE_DELAY_FULL: Duration = Duration::from_secs(1);
/// Time between two attempts to create a segment on a full disk.
pub const SPOOL_RETRY: Duration = Duration::from_secs(1);
/// The longest pause after repeated write failures (it doubles from `SPOOL_RETRY`).
pub const SPOOL_RETRY_MAX: Duration = Duration::from_secs(64);
/// End of the active segment kept for outcomes when no further segment can be had: 256 commits of one block.
pub const SPOOL_RESERVE_BYTES: u32 = 1 << 20;
/// The last part of that reserve, kept for the commits that free a segment.
pub const SPOOL_LAST_RESERVE_BYTES: u32 = 32 << 10;
/// Segments kept for reuse; more are removed. Four absorb a burst without creating files on the way.
pub const SPOOL_FREE_SEGMENTS: usize = 4;
/// Segments' worth of dead bytes below which compaction is not worth its writes.
pub const SPOOL_COMPACT_SEGMENTS: u64 = 4;
/// Records that compaction reads ahead.
pub const SPOOL_COMPACT_READS: usize = 4;
/// Threads that scan segments at start-up; each holds one segment in memory.
pub const SPOOL_SCAN_THREADS: usize = 4;

const _: () =
    assert!(SPOOL_SEGMENT_BYTES <= 32 << 20, "a checksum seed has 22 bits for the offset in units of 8 bytes");
const _: () = assert!(SPOOL_SEGMENT_BYTES >= 8 * SPOOL_COMMIT_BYTES, "little of a segment is lost at its end");
const _: () = assert!(
    RECIPIENTS * (PATH_BYTES + 8) + SPOOL_TRACE_BYTES + SPOOL_CHUNK_BYTES + 8192 <= SPOOL_COMMIT_BYTES as usize,
    "the largest record fits in one commit"
);
const _: () = assert!(SPOOL_RESERVE_BYTES > 4 * SPOOL_LAST_RESERVE_BYTES, "outcomes have most of the reserve");
