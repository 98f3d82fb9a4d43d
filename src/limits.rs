//! PURE. Every bound in one place: unit in the name, the reason beside it, assertions that relate them. At a bound a
//! peer gets a 4yz or 5yz reply or an attempt is deferred; memory never grows with what a peer sends.

mod policy;

pub use policy::*;

use std::time::Duration;

// --- Addresses and envelopes ---------------------------------------------------------------------------------------

/// RFC 5321 §4.5.3.1.1.
pub const LOCAL_PART_BYTES: usize = 64;
/// RFC 5321 §4.5.3.1.2, RFC 1035 §2.3.4.
pub const DOMAIN_BYTES: usize = 255;
/// One label of a domain. RFC 1035 §2.3.4.
pub const LABEL_BYTES: usize = 63;
/// RFC 5321 §4.5.3.1.3, with the angle brackets.
pub const PATH_BYTES: usize = 256;
/// Recipients of one transaction. RFC 5321 §4.5.3.1.8 asks for 100 at least; the next gets 452 4.5.3.
pub const RECIPIENTS: usize = 1000;
/// Recipients of one transaction with a next hop: RFC 5321 §4.5.3.1.8 obliges every server to take 100.
pub const TRANSACTION_RECIPIENTS: usize = 100;

const _: () = assert!(PATH_BYTES > LOCAL_PART_BYTES, "a path holds a local part");
const _: () = assert!(RECIPIENTS <= u16::MAX as usize, "a recipient's index is a u16");

// --- SMTP, server side ---------------------------------------------------------------------------------------------

/// A command line with its CRLF. RFC 5321 §4.5.3.1.4 asks for 512 octets at least; extensions add: SIZE 26, BODY 17,
/// and room for those of later issues (RFC 4954 asks for 12,288 for AUTH only).
pub const COMMAND_LINE_BYTES: usize = 2048;
/// Default of the largest message, octets as received (dot-stuffed).
pub const MESSAGE_BYTES_DEFAULT: u64 = 50 << 20;
/// Received headers before a message counts as looping. RFC 5321 §6.3 asks for a threshold of 100 at least.
pub const RECEIVED_HEADERS: u32 = 100;
/// Time a client may take for its next command. RFC 5321 §4.5.3.2.7: 5 minutes at least.
pub const SERVER_COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
/// Time between two pieces of message data. RFC 5321 §4.5.3.2.5 (server: as the client's 3 minutes, and more).
pub const SERVER_DATA_TIMEOUT: Duration = Duration::from_secs(300);
/// Time a client may take for its message data as a whole before its rate counts.
pub const SERVER_DATA_GRACE: Duration = Duration::from_secs(600);
/// Least average rate of message data after the grace, octets per second: a 50 MiB message may take 29 hours, an
/// attacker who sends an octet every few minutes has ten.
pub const SERVER_DATA_BYTES_PER_SECOND: u64 = 512;
/// Commands that are no SMTP (unknown, malformed, out of order) before the client is hung up on with 421: it speaks another
/// protocol or guesses, and each costs a reply. In a row, one command that works starts the count again; of a stranger (neither
/// of a network that may relay nor with an account) all since its last message, and refused recipients too: who has none of
/// the right ones looks for some.
pub const SESSION_ERRORS: u8 = 50;
/// Commands of a stranger that bring no mail forward (EHLO, RSET, NOOP, HELP, VRFY, EXPN, what stands behind a refused MAIL),
/// since its last message, before each counts as an error.
pub const SESSION_JUNK: u8 = 100;
/// Envelope memory a session keeps between transactions; what an unusually large one took goes back.
pub const SESSION_ENVELOPE_BYTES: usize = 2048;

/// Passwords whose hash is being made at a time, per shard: each takes a thread for tens of milliseconds, and some 19 MiB.
pub const AUTH_CHECKS: usize = 2;
/// Passwords that wait for that; the next is answered 454 4.7.0.
pub const AUTH_CHECKS_WAITING: usize = 256;
/// Failed AUTHs of an account, or of a client's network, that cost nothing: a person mistypes.
pub const GUARD_FREE_FAILURES: u32 = 3;
/// How long the next answer to AUTH waits after that; twice as long for each further failure.
pub const GUARD_WAIT_FIRST: Duration = Duration::from_secs(1);
/// The longest such wait: 8,640 guesses a day and account. The rightful owner waits as long, no longer.
pub const GUARD_WAIT_MAX: Duration = Duration::from_secs(10);
/// Failures are forgotten so long after the last one.
pub const GUARD_MEMORY: Duration = Duration::from_secs(15 * 60);
/// Accounts and networks with failures that one shard remembers (about 100 bytes each); beyond it the oldest is forgotten.
pub const GUARD_KEYS: usize = 16 << 10;
/// Client networks whose connections and messages one shard counts (about 150 bytes each); beyond it the longest quiet one is
/// forgotten.
pub const CLIENT_NETWORKS: usize = 64 << 10;
/// Highest rate and count that `[clients]` takes; more is no limit.
pub const CLIENT_RATE_MAX: u32 = 10_000_000;
/// AUTHs of one shard that wait for their answer's time, each with a password of a few hundred octets; the next gets 454.
pub const AUTHS_WAITING: usize = 4096;
/// Of them, those of one client network.
pub const AUTHS_OF_NETWORK: usize = 512;
/// TLS handshakes under way in one shard; STARTTLS is answered 454 above it, a connection to an implicit port is closed.
pub const TLS_HANDSHAKES: usize = 256;
/// Of them, those of one client network that is none of the relay's own: one silent stranger leaves room for others. A
/// handshake takes two round trips, so even far clients behind one address make some fifty in a second.
pub const TLS_HANDSHAKES_OF_NETWORK: usize = TLS_HANDSHAKES / 16;
/// Time a client may take for its handshake.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time a proxy may take for its PROXY header: it comes with the first packet.
pub const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A PROXY header: version 2 has 16 octets and up to 64 KiB of options, of which senders use some hundred.
pub const PROXY_HEADER_BYTES: usize = 4096;
/// Replies that a TLS connection holds before its handshake has ended: a greeting.
pub const TLS_BUFFER_BYTES: usize = 64 << 10;
/// Errors in a row that cost a client nothing; each further one makes it wait longer.
pub const SESSION_FREE_ERRORS: u8 = 3;
/// The longest such wait.
pub const ERROR_DELAY_MAX: Duration = Duration::from_secs(10);
/// Wrong guesses of one session before it is hung up on with 421.
pub const SESSION_FAILED_AUTHS: u8 = 3;
/// The longest that a message can be held (FUTURERELEASE, RFC 4865).
pub const HOLD_MAX: Duration = Duration::from_secs(7 * 86_400);
/// `ORCPT=` of one recipient, in xtext. RFC 3461 §4.2 asks for 500 octets at most.
pub const ORCPT_BYTES: usize = 500;
/// `ENVID=`, in xtext. RFC 3461 §4.4: 100 octets at most.
pub const ENVID_BYTES: usize = 100;

const _: () = assert!(COMMAND_LINE_BYTES > PATH_BYTES + 64, "a path fits a command line");

// --- SMTP, client side ---------------------------------------------------------------------------------------------

/// RFC 5321 §4.5.3.2.1.
pub const CLIENT_GREETING_TIMEOUT: Duration = Duration::from_secs(300);
/// Replies to EHLO, HELO, RSET (no RFC figure; as §4.5.3.2.2).
pub const CLIENT_COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
/// The reply to QUIT: a courtesy (RFC 5321 §4.1.1.10), while the connection counts for the receiver's limit.
pub const CLIENT_QUIT_TIMEOUT: Duration = Duration::from_secs(10);
/// RFC 5321 §4.5.3.2.2 and §4.5.3.2.3.
pub const CLIENT_ENVELOPE_TIMEOUT: Duration = Duration::from_secs(300);
/// RFC 5321 §4.5.3.2.4.
pub const CLIENT_DATA_INITIATION_TIMEOUT: Duration = Duration::from_secs(120);
/// RFC 5321 §4.5.3.2.5: between two blocks of data.
pub const CLIENT_DATA_BLOCK_TIMEOUT: Duration = Duration::from_secs(180);
/// RFC 5321 §4.5.3.2.6: the reply to the final dot.
pub const CLIENT_DATA_TERMINATION_TIMEOUT: Duration = Duration::from_secs(600);
/// Transactions in one flight at most (MAIL, RCPT, BDAT LAST behind one another): at a round trip of 100 ms, 160 messages a
/// second on one connection; what a lost connection leaves in doubt is as many.
pub const FLIGHT_TRANSACTIONS: usize = 16;
/// Transactions in the first flight of a connection: nobody knows yet whether more of them would only wait at the peer.
pub const FLIGHT_BEGINS: usize = 2;
/// How much longer a message of a flight may take than the quickest of its connection for another to fly with it; what takes longer
/// than that has waited at the peer, and fewer fly. Nothing is won by mail that waits there rather than here: the
/// connection takes nobody else, cannot end, and leaves more in doubt if it breaks.
pub const FLIGHT_WAIT: Duration = Duration::from_millis(100);
/// Octets of a flight, commands and bodies, above which it takes no further transaction: what refused recipients may waste, and
/// about what a TCP connection has under way on a fast way across an ocean.
pub const FLIGHT_OCTETS: u64 = 256 << 10;
/// The largest message that goes in a flight; a larger one waits for the replies to its envelope, and a round trip is little of
/// what it takes.
pub const FLIGHT_BODY_BYTES: u64 = 64 << 10;
/// Memory that the messages of one connection may keep alive before a flight takes no further one: each may be a small part of a
/// buffer of a commit.
pub const FLIGHT_PINNED_BYTES: usize = 4 << 20;
/// A connection that idled for so long may have been closed by the peer, which nobody has told yet: its first message does not fly,
/// since its fate would be in doubt.
pub const FLIGHT_REST: Duration = Duration::from_secs(1);
/// No flights to a host for so long after one failed, or was wasted too often: longer than the first retry.
pub const FLIGHT_PAUSE: Duration = Duration::from_secs(3600);
/// What a wasted message of a flight counts against its host, and above which sum flights pause; a message that came through
/// takes one off. So one message of nine may be wasted for ever.
pub const FLIGHT_WASTE: u32 = 8;
/// See [`FLIGHT_WASTE`].
pub const FLIGHT_WASTE_MOST: u32 = 64;
/// Hosts with failed or wasted flights that one shard remembers; beyond it the first is forgotten.
pub const FLIGHT_HOSTS: usize = 4096;
/// Command bytes a client connection keeps between transactions.
pub const CLIENT_OUT_BYTES: usize = 4096;
/// One line of a reply. RFC 5321 §4.5.3.1.5: 512 at least.
pub const REPLY_LINE_BYTES: usize = 2048;
/// All lines of one reply; what is above is read and dropped.
pub const REPLY_TEXT_BYTES: usize = 4096;
/// Lines of one reply; a peer that sends more is hung up on.
pub const REPLY_LINES: usize = 256;

const _: () = assert!(FLIGHT_OCTETS >= FLIGHT_BODY_BYTES, "any message that may fly can be the first of a flight");
const _: () =
    assert!(FLIGHT_PAUSE.as_secs() > RETRY_FIRST_DEFAULT.as_secs(), "what failed in a flight is retried without");
const _: () = assert!(REPLY_TEXT_BYTES >= REPLY_LINE_BYTES, "the longest line of a reply can be kept whole");

// --- Headers and notifications that Ringpost writes ----------------------------------------------------------------

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

// --- Shards, and what goes between them ----------------------------------------------------------------------------

/// Shards of one process (10 bits of a message id).
pub const SHARDS: usize = 1023;
/// Batches that wait in one mailbox. A batch is what one turn of one shard produced.
pub const MAILBOX_BATCHES: usize = 4096;
/// Items in an outbox above which the shard takes no new mail: its receiver has not looked for thousands of turns.
pub const OUTBOX_ITEMS: usize = 20_000;
/// Emptied batches a shard keeps to send in again. A turn sends one to each other shard at most, seldom to many.
pub const POST_SPARE_BATCHES: usize = 8;
/// The largest of them, in items; what an unusual turn took goes back.
pub const POST_SPARE_ITEMS: usize = 1024;
/// A full mailbox of another shard is tried again after this, if nothing else wakes the shard before.
pub const RETRY_POST: Duration = Duration::from_millis(1);
/// Batches of mail taken in one turn; sockets are served between.
pub const MAIL_ROUNDS_PER_TURN: usize = 64;
/// Recovered messages handed to their owners in one turn: some 0.2 ms.
pub const RECOVERED_PER_TURN: usize = 512;
/// Deadlines of connections are looked at this often; they are seconds and minutes.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(200);
/// Gauges and histograms go to the control plane this often.
pub const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// Descriptors for what is no mail connection: listeners, segments, rings, DNS, the log, admin HTTP.
pub const DESCRIPTORS_RESERVED: usize = 128;
/// Connections of each direction that a shard has however few descriptors there are: with none it would do nothing.
pub const CONNECTIONS_LEAST: usize = 16;
/// Time a drain may take after SIGTERM before what is left is cut off. All queued mail stays in the spool.
pub const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Time beyond the drain deadline in which known outcomes are still written.
pub const DRAIN_GRACE: Duration = Duration::from_secs(2);

const _: () = assert!(SHARDS < 1024, "a message id has 10 bits for its shard");

// --- Sessions and accepted mail, per shard -------------------------------------------------------------------------

/// Inbound sessions of one shard; the next gets 421 4.3.2. Each costs a descriptor and at most 16 KiB when idle.
pub const SESSIONS_PER_SHARD_DEFAULT: u32 = 20_000;
/// Unconsumed input kept for a session: commands pipelined while its message is being made durable.
pub const SESSION_TAIL_BYTES: usize = 32 << 10;
/// Replies not yet taken by the client's TCP window; above it the session reads no more.
pub const SESSION_OUT_BYTES: usize = 64 << 10;
/// Time a client has to take the last replies of a session that is over.
pub const SESSION_LINGER: Duration = Duration::from_secs(30);
/// While the log has more than this to write, sessions that stream a large body are not read.
pub const STREAM_PRESSURE_BYTES: usize = 4 << 20;
/// How long a message may wait for others to share its sync (docs/performance.md has the measurement). Less than one
/// sync takes on most disks.
pub const COMMIT_DELAY: Duration = Duration::from_micros(500);
/// It waits only while at least so many other sessions have a transaction open: a lone client waits for nothing.
pub const COMMIT_SIBLINGS: usize = 4;
/// Messages of one shard that are not settled. At it MAIL is answered 452: some 300 bytes of memory each.
pub const LIVE_MESSAGES_PER_SHARD: usize = 4_000_000;
/// Records read at once to tell their senders of a failure.
pub const BOUNCES_READING: usize = 16;
/// A notification that the log did not take is tried again after this.
pub const BOUNCE_RETRY: Duration = Duration::from_secs(5);

const _: () = assert!(SESSION_TAIL_BYTES >= 4 * COMMAND_LINE_BYTES, "a pipelined group fits the tail");

// --- Spool ---------------------------------------------------------------------------------------------------------

/// One segment file of a log. Large enough that creating one is rare, small enough that freeing one gives space back soon.
pub const SPOOL_SEGMENT_BYTES: u32 = 32 << 20;
/// One commit: one write and one sync. Above 1 MiB a device gains nothing more and every waiting session waits longer.
pub const SPOOL_COMMIT_BYTES: u32 = 1 << 20;
/// Commits that wait behind the one in flight; above it `accept` refuses Busy (452). Bounds the memory of a slow disk.
pub const SPOOL_COMMITS_QUEUED: usize = 8;
/// Idle commit buffers kept by a shard: the one in flight, the one that fills, and some that sessions still send from.
pub const SPOOL_BUFFERS_KEPT: usize = 12;
/// Commit buffers that deliveries keep whole, per shard; of later commits they keep a copy no larger than what was written:
/// where mail waits, a few records a commit would keep a MiB each.
pub const SPOOL_BUFFERS_SHARED: usize = 64;
/// Memory of records that wait for their delivery from where they were committed, per shard. What comes beyond is read
/// from the spool when it is its turn.
pub const SPOOL_SHARED_BYTES: usize = 192 << 20;
const _: () = assert!(
    SPOOL_SHARED_BYTES >= 2 * SPOOL_BUFFERS_SHARED * (SPOOL_COMMIT_BYTES as usize + 4096),
    "what is kept whole leaves room for copies"
);
/// The largest body written as one record. A longer one goes to the log in chunks of this size while it comes; until then
/// it is collected.
pub const SPOOL_CHUNK_BYTES: u32 = 256 << 10;
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
/// Memory of the reads under way of one shard's log, for owners and for notifications; further ones wait, in order. Enough
/// to keep any disk busy: a thousand small records.
pub const SPOOL_READING_BYTES: usize = 16 << 20;
/// The memory that reading the largest record takes: a commit, and a block more at either end.
pub const SPOOL_READ_BYTES: usize = SPOOL_COMMIT_BYTES as usize + 8192;
/// Threads that scan segments at start-up; each holds one segment in memory.
pub const SPOOL_SCAN_THREADS: usize = 4;

const _: () =
    assert!(SPOOL_SEGMENT_BYTES <= 32 << 20, "a checksum seed has 22 bits for the offset in units of 8 bytes");
const _: () = assert!(SPOOL_SEGMENT_BYTES >= 8 * SPOOL_COMMIT_BYTES, "little of a segment is lost at its end");
const _: () = assert!(
    RECIPIENTS * (PATH_BYTES + 5 + ORCPT_BYTES + 6) + RECEIVED_HEADER_BYTES + SPOOL_CHUNK_BYTES as usize + 8192
        <= SPOOL_COMMIT_BYTES as usize,
    "the largest record fits in one commit"
);
const _: () = assert!(SPOOL_READING_BYTES >= SPOOL_READ_BYTES, "each read has room once those before it have ended");
const _: () = assert!(SPOOL_RESERVE_BYTES > 4 * SPOOL_LAST_RESERVE_BYTES, "outcomes have most of the reserve");

// --- Destination queues --------------------------------------------------------------------------------------------

/// With fresh mail and retries both ready, every so many-th job taken is a retry: fresh mail goes first, but retries
/// cannot starve.
pub const QUEUE_RETRY_SHARE: u8 = 8;
/// Retry timers served by one turn of the shard, some 0.5 ms; the rest are due in the next turn.
pub const QUEUE_TIMERS_PER_TURN: usize = 4096;
/// Jobs looked at for expiry by one turn of the shard, some 0.2 ms.
pub const QUEUE_SWEEP_PER_TURN: usize = 4096;
/// Permits of a rate that were leased to a shard and are not used are void after this: what a shard that stands still costs
/// the others, and how fast rates go to where the work is. A message within several rates asks for one behind the other: mail between
/// shards must not take longer than an eighth of this, for as long as that matters.
pub const LEASE_TERM: Duration = Duration::from_millis(100);
/// A connection for a message that waits for its rate is opened so long before: it takes a few round trips.
pub const LEASE_LEAD: Duration = Duration::from_secs(1);
/// A turn in which no message could be begun, because of its rate or because nobody answers, ends after this.
pub const LEASE_TURN_MAX: Duration = Duration::from_secs(10);
/// A domain gets lanes on all shards when so many messages of others are sent to it in a second: a twentieth of what a core
/// delivers.
pub const LANE_RATE_DEFAULT: u32 = 640;
/// Messages are counted for so long, to see whether a domain needs lanes: as fast as leases move.
pub const LANE_WINDOW: Duration = Duration::from_millis(100);
/// A lane ends after this, and the domain's mail goes to its owner again, who sees whether it is still so much.
pub const LANE_TIME: Duration = Duration::from_secs(10);
/// Counters of domains by their hash. Where two share one, the colder of them gets lanes as well, which does no harm.
pub const LANE_COUNTERS: usize = 1024;
/// Domains with lanes that a shard remembers: what more of them send goes to their owners. With so many no core is spared.
pub const LANE_DOMAINS: usize = 256;
/// Tenants with mail at a lane that are told by name: so many share a limit exactly over all lanes, the others by lanes.
pub const LEASE_TENANTS: usize = 64;
/// A unit of octets in flight that is leased: so exactly `bytes_in_flight` is kept to, from below.
pub const LEASE_OCTETS: u64 = 1024;
/// Flows that may open connections ahead of the room they wait for, of one scope, and wait with one.
pub const SCOPE_LEAD: u32 = 1000;
/// Flows of one destination whose scopes are remembered, and flows that were let go in a scope and keep a place in front: beyond, they
/// are found anew, or wait for a turn as all others.
pub const SCOPE_FLOWS: usize = 4096;
/// Room for a message in what is counted is kept for it so long while it has a connection opened or waits for other limits: as
/// long as most hosts take to greet. Then it is for others.
pub const SCOPE_KEPT: Duration = Duration::from_secs(3);
/// Flows set aside by one look at a destination; then others have their turn.
pub const SCOPE_TRIES: usize = 256;
/// Flows that a scope with room looks at, to find one with a connection behind others that have none yet.
pub const SCOPE_LOOKED_AT: usize = 64;
/// Mail has waited so long for a limit of its own when that is told, and a scope is told of at most so often.
pub const SCOPE_PATIENCE: Duration = Duration::from_secs(10);
/// See [`SCOPE_PATIENCE`].
pub const SCOPE_TOLD: Duration = Duration::from_secs(600);
/// A scope that nobody needs is remembered for so long, and who needs it does not look for it by its name.
pub const SCOPE_IDLE: Duration = Duration::from_secs(10);
/// Where fewer connections are allowed than shards want, they go round, each for so long.
pub const LEASE_TURN: Duration = Duration::from_millis(100);
/// Letters of those who have had nothing go from a lane without a connection to one that has some, one of a site in this time: each is
/// handed over once more than other mail.
pub const LEASE_HOST_PAUSE: Duration = Duration::from_millis(5);
/// Where each has some, but not as much as its tenants weigh, what does not divide goes round after so many turns: each move
/// closes a connection and opens another.
pub const LEASE_LONG_TURN: u32 = 2;
/// Connections to a destination of which nothing is known: as many as Postfix begins with.
pub const WINDOW_INITIAL: u16 = 5;
/// In the sharing of a destination between tenants a message counts one more for each so many octets: sending it takes about
/// as long as the round trips of a small one.
pub const QUEUE_COST_BYTES: u32 = 64 << 10;
/// And at most so many more: one large message does not end a tenant's turn for long.
pub const QUEUE_COST_MAX: u64 = 63;
/// Flows without mail that a destination remembers beside those with some, so that nobody gains by sending one at a time.
pub const QUEUE_IDLE_FLOWS: usize = 64;
/// An empty destination is forgotten after this (at most twice this): longer than any connection to it idles, so that
/// the pool's connections are found again.
pub const QUEUE_DESTINATION_IDLE: Duration = Duration::from_secs(600);
/// Empty destinations remembered per shard (some 250 bytes each). Destinations with mail are bounded by the mail.
pub const QUEUE_IDLE_DESTINATIONS: usize = 20_000;
/// A connection that has carried nothing where messages have a rate idles for so long at least: it was opened for one that was
/// about to be allowed, and a connection has a rate too.
pub const PACED_IDLE: Duration = Duration::from_secs(1);
/// Text of a job's last reply that is kept for its report, in bytes: a million deferred jobs may hold one each.
pub const LAST_REPLY_TEXT_BYTES: usize = 256;
/// Tenants that rest at one site at a time, each told to all shards; if there are more the site rests. A receiver that blocks a
/// thousand tenants one by one means all.
pub const RESTING_TENANTS: usize = 1024;
/// Different lowerings of one site's limits at a time: as many as the rules of one provider have, and more.
pub const LOWERINGS_PER_SITE: usize = 64;
/// What a reply has brought about is not made longer by less than this: a hundred replies to what was under way say the same,
/// and each change is told to all shards.
pub const MEASURE_STEP: Duration = Duration::from_secs(1);
/// The body of a ready job is let go after this: jobs refer into large shared receive buffers, which a few slow jobs
/// would keep alive; the spool has the bytes.
pub const QUEUE_BODY_AGE: Duration = Duration::from_secs(2);

// --- Deliveries ----------------------------------------------------------------------------------------------------

/// Default of a TCP connect, per address.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// An attempt to connect that has had no answer for so long gets another one beside it (RFC 8305 §5, Connection Attempt Delay).
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Idle outbound connections close after this. Receivers commonly hang up after 5 s to 5 min; domains that get a message every few
/// seconds, which are most of those that a provider writes to, are not to be connected to anew for each.
pub const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Connections to one destination, over all shards.
pub const CONNECTIONS_PER_DESTINATION_DEFAULT: u32 = 20;
/// Messages over one connection before it is closed: receivers dislike endless ones, and load balancers need turns.
pub const MESSAGES_PER_CONNECTION_DEFAULT: u32 = 100;
/// Of so many messages that a connection may carry and more, the last is kept for a letter of a tenant that has had nothing: while a
/// flight lands there is no other way for it where there is one connection.
pub const LAST_KEPT_FROM: u32 = 32;
/// A destination gets another connection when more than this many messages wait for each it has.
pub const BACKLOG_PER_CONNECTION: usize = 4;
/// Another connection to a destination that has just refused one, while others stand, is tried after this; doubled with
/// each refusal in a row.
pub const CONNECT_PAUSE: Duration = Duration::from_secs(5);
/// Refusals in a row after which that pause grows no more: it is 80 s then.
pub const CONNECT_PAUSE_DOUBLINGS: u32 = 5;
/// A destination that could not be tried for want of something of ours (descriptors, a source address) is tried again
/// after this.
pub const LOCAL_PAUSE: Duration = Duration::from_secs(10);
/// Idle connections whose next message is being read that a search for one to close passes over before it gives up.
pub const SPARE_LOOKED_AT: usize = 16;
/// Records asked for ahead of their turn, per destination: a spool read takes about as long as a few transactions.
pub const FETCH_AHEAD: usize = 16;
/// What a rate lets begin in this time is asked for ahead of its turn, one at least: a spool read takes less unless the disk is
/// in trouble, and each that is read ahead is one more that a message of another tenant waits for.
pub const FETCH_AHEAD_TIME: Duration = Duration::from_millis(20);
/// Memory of all records of one shard that were asked for or have come ahead of their turn; above it each destination with
/// a free connection asks for one at a time. What was asked for counts as the largest record.
pub const FETCH_AHEAD_BYTES: usize = 64 << 20;
/// Messages to a destination that will never take mail that are failed in one turn.
pub const FAILURES_PER_TURN: usize = 1000;
/// First retry after a transient failure.
pub const RETRY_FIRST_DEFAULT: Duration = Duration::from_secs(5 * 60);
/// Each interval is the one before times this.
pub const RETRY_FACTOR_DEFAULT: f64 = 2.0;
/// Longest interval between two attempts.
pub const RETRY_MAX_DEFAULT: Duration = Duration::from_secs(4 * 3600);
/// Part of the interval, up or down, that is random, so that what failed together does not come back together.
pub const RETRY_JITTER_DEFAULT: f64 = 0.2;
/// Age at which a message is bounced. RFC 5321 §4.5.4.1: at least 4 to 5 days.
pub const RETRY_GIVE_UP_DEFAULT: Duration = Duration::from_secs(5 * 86_400);

const _: () = assert!(RETRY_FIRST_DEFAULT.as_secs() <= RETRY_MAX_DEFAULT.as_secs());
const _: () = assert!(RETRY_MAX_DEFAULT.as_secs() <= RETRY_GIVE_UP_DEFAULT.as_secs());

// --- TLS of deliveries, per shard -----------------------------------------------------------------------------------

/// Sessions that a shard may resume, over all hosts: each takes some KiB (a ticket and the server's certificates). What a busy relay
/// meets again within hours.
pub const TLS_CLIENT_SESSIONS: usize = 1024;
/// What is sealed at a time of a body that goes over TLS, octets: the only copy of it that a slow receiver keeps here.
pub const TLS_SEAL_BYTES: usize = 64 << 10;
/// What such a piece grows by: a header and a tag for each record of 16 KiB, and an alert.
pub const TLS_SEAL_OVERHEAD_BYTES: usize = 1024;
/// Hosts whose TLS was found broken that a shard remembers; beyond, the one remembered longest is forgotten, and tried with TLS again.
pub const TLS_BROKEN_HOSTS: usize = 4096;
/// How long mail goes in the clear to a host whose TLS was found broken, where nothing requires TLS: long enough for the mail that
/// waits, short enough that a repaired host is soon found out.
pub const TLS_BROKEN_TIME: Duration = Duration::from_secs(3600);
/// TLSA records of a host that are looked at: an authority's and a server's key, each by two digests, before and after a
/// change, are 8.
pub const TLSA_RECORDS: usize = 32;
/// The id of an MTA-STS policy, octets. RFC 8461 §3.1.
pub const STS_ID_BYTES: usize = 32;
/// An MTA-STS policy, octets: RFC 8461 §3.3 suggests a limit such as 64 KiB.
pub const STS_POLICY_BYTES: usize = 64 << 10;
/// Patterns of hosts in one, each up to 255 octets.
pub const STS_MX_PATTERNS: usize = 100;
/// Domains whose policy a shard knows, some hundred octets each. A domain beyond has none: what holds is not forgotten for it.
pub const STS_DOMAINS: usize = 32 << 10;
/// How long mail waits for a policy to be fetched: as long as the fetch may take, and a little.
pub const STS_WAIT: Duration = Duration::from_secs(45);
/// How long one may take to be fetched: RFC 8461 §3.3 suggests one minute or less.
pub const STS_FETCH_TIMEOUT: Duration = Duration::from_secs(40);
/// Fetches under way, each a connection; more wait their turn.
pub const STS_FETCHES: usize = 32;
/// Fetches that wait; the next has failed.
pub const STS_FETCHES_WAITING: usize = 4096;
/// How long a policy that could not be fetched is not tried again: RFC 8461 §3.3 suggests five minutes.
pub const STS_RETRY: Duration = Duration::from_secs(300);
/// The age at which a policy is fetched again though its id is the same: RFC 8461 §10.2 would have it often; a day is what senders do.
pub const STS_REFRESH_AGE: Duration = Duration::from_secs(86_400);
/// How often a shard looks for policies of that age, and how many it refreshes then.
pub const STS_REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// See [`STS_REFRESH_INTERVAL`]: a full table in a day is 23 a minute.
pub const STS_REFRESHED_AT_ONCE: usize = 64;
/// How far in the future a kept policy may have been fetched before it is not believed: a clock that was wrong.
pub const STS_CLOCK_ERROR: Duration = Duration::from_secs(86_400);
/// The longest that one holds: about a year. RFC 8461 §3.2.
pub const STS_MAX_AGE: Duration = Duration::from_secs(31_557_600);

const _: () =
    assert!(STS_FETCH_TIMEOUT.as_secs() < STS_WAIT.as_secs(), "the control plane says no before nobody listens");

// --- DNS, per shard ------------------------------------------------------------------------------------------------

/// Recursive servers a resolver talks to (resolv.conf(5) itself stops at 3); further ones are ignored.
pub const DNS_SERVERS: usize = 8;
/// Most rounds over the servers for one question (resolv.conf(5) caps at 5 too).
pub const DNS_ATTEMPTS: u32 = 5;
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
/// Questions about a name, beside those of domains under way: the TLSA records of hosts, the policy of a domain. Several for
/// each connection that is about to be opened; the next one counts as failed.
pub const DNS_PENDING_FACTS: usize = 16 << 10;
/// TXT records of a name that are looked at: policies stand at names of their own, where one is right and two are wrong.
pub const DNS_TXT_RECORDS: usize = 16;
/// Longest a record is kept, whatever its TTL.
pub const DNS_TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Shortest a record is kept: a TTL of 0 must not cost a query per message.
pub const DNS_TTL_MIN: Duration = Duration::from_secs(5);
/// Range of both as an operator may set them.
pub const DNS_TTL_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(7 * 86_400));
/// How long beyond its time a route with hosts is used where DNS fails (RFC 8767 §5 has 1 to 3 days): mail to a host that answered
/// a day ago is better tried than kept.
pub const DNS_STALE_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long such a route is used before DNS is asked again (RFC 8767 §4).
pub const DNS_STALE_TTL: Duration = Duration::from_secs(30);
/// A route that was used so often is asked for again shortly before its time is over, while mail goes on by what is known...
pub const DNS_PREFETCH_USES: u32 = 3;
/// ...in the last of so many parts of its time (as Unbound does).
pub const DNS_PREFETCH_PART: u32 = 10;
/// How long a server that does not give a question back in the case it was asked is asked in lower case.
pub const DNS_LOWER_CASE_TIME: Duration = Duration::from_secs(3600);
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
/// Time to wait for one DNS answer before the next server is asked.
pub const DNS_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);
/// Rounds over all servers before a lookup counts as failed (the delivery is deferred).
pub const DNS_ATTEMPTS_DEFAULT: u32 = 3;

const _: () = assert!(DNS_SERVERS <= 32, "a round keeps the servers it tried in 32 bits");
const _: () = assert!(DNS_EXCHANGES <= 1 << 16 && DNS_PENDING_DOMAINS <= 1 << 16, "slots in the low 16 bits of ids");
const _: () = assert!(DNS_FAILURE_TTL.as_secs() <= 300, "RFC 2308 §7");
const _: () = assert!(DNS_ATTEMPTS_DEFAULT <= DNS_ATTEMPTS);

// --- Configuration: ranges; config/ringpost.toml documents each key, and a test compares the defaults --------------

/// Smallest and largest of the configured message size, octets: RFC 5321 §4.5.3.1.7 asks for 64 KiB at least; a body's
/// length is kept in 32 bits here and there.
pub const MESSAGE_BYTES_RANGE: (u64, u64) = (64 << 10, 1 << 30);
/// Longest time any key takes: no relation between keys can overflow, and a typo ("5000d") is caught.
pub const CONFIG_DURATION_MAX: Duration = Duration::from_secs(30 * 86_400);
/// A configuration file above this is a mistake (a log, a device), not a configuration.
pub const CONFIG_FILE_BYTES: u64 = 1 << 20;
/// Listeners of one process: each is a socket on every shard.
pub const LISTENERS: usize = 64;
/// Certificates of one process: each client's name is searched for among theirs.
pub const CERTIFICATES: usize = 1024;
/// Longest time that a greeting is held back: RFC 5321 §4.5.3.2.1 has clients wait 5 minutes, impatient ones 30 s.
pub const GREETING_DELAY_MAX: Duration = Duration::from_secs(30);
/// Networks of `from_networks`: they are searched in order, once a session.
pub const RELAY_NETWORKS: usize = 1024;

const _: () = assert!(MESSAGE_BYTES_DEFAULT >= MESSAGE_BYTES_RANGE.0 && MESSAGE_BYTES_DEFAULT <= MESSAGE_BYTES_RANGE.1);

// --- Events, statistics, control plane -----------------------------------------------------------------------------

/// Events of one batch on their way to the control thread: large enough to pay for the queue's atomics.
pub const EVENT_BATCH: usize = 64;
/// Batches waiting for the control thread, per shard; 512 of 64 events are 32,768, more than a second of one core's
/// events. Beyond it events are dropped and counted.
pub const EVENT_BATCHES_PER_SHARD: usize = 512;
/// Octets kept of one text field of an event (a reply may have 4 KiB); an address fits whole.
pub const EVENT_TEXT_BYTES: usize = 512;
/// Size at which the event log rotates by default.
pub const EVENT_LOG_ROTATE_BYTES_DEFAULT: u64 = 100 << 20;
/// Smallest size at which it can rotate: a batch of lines must fit.
pub const EVENT_LOG_ROTATE_BYTES_LEAST: u64 = 1 << 20;
/// Rotated event logs kept by default, beside the one being written.
pub const EVENT_LOG_KEEP_DEFAULT: u32 = 10;
/// Encoded events in the control thread's hands before it leaves the rest in the queues.
pub const EVENT_WRITE_BYTES: usize = 4 << 20;
/// How often the control thread looks into the event queues. Shards never wake it.
pub const CONTROL_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long the end of the process waits for the last events to reach the log.
pub const CONTROL_FINISH_TIMEOUT: Duration = Duration::from_secs(3);
/// Latency quantiles on /metrics cover this long, in slots of `STAGE_WINDOW_SLOT`.
pub const STAGE_WINDOW_SLOTS: usize = 6;
/// One slot of the sliding window of latencies.
pub const STAGE_WINDOW_SLOT: Duration = Duration::from_secs(10);
/// Connections to the admin address at a time; the next waits in the kernel's backlog.
pub const ADMIN_CONNECTIONS: usize = 32;
/// An admin connection is closed after this, whatever it does.
pub const ADMIN_CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

const _: () = assert!(EVENT_TEXT_BYTES > PATH_BYTES, "an address fits an event whole");
const _: () = assert!(EVENT_TEXT_BYTES <= u16::MAX as usize / 8, "offsets of an event's texts fit 16 bits");
