//! PURE. Bounds of what operators and senders ask for: accounts, sending limits, local mail, parameters, routes, rules. Each with
//! its unit and its reason, as in `limits.rs`, which has them all under one name.

use super::*;

// --- Accounts and AUTH ----------------------------------------------------------------------------------------------

/// One line of an AUTH exchange with its CRLF. RFC 4954 §4 calls 12,288 sufficient; a longer one gets 500 5.5.6. The AUTH
/// command itself is a command line, as long as any other (RFC 4954 §4).
pub const AUTH_LINE_BYTES: usize = 12_288;
/// An account's name, octets of UTF-8: an address fits.
pub const ACCOUNT_NAME_BYTES: usize = 255;
/// A password, octets of UTF-8: each octet is hashed, so nobody shall send 9 KiB of them.
pub const PASSWORD_BYTES: usize = 1024;
/// The nonce of a SCRAM client: it is kept until the exchange ends. Clients send 16 to 64 octets.
pub const SCRAM_NONCE_BYTES: usize = 512;
/// Iterations of a SCRAM secret. RFC 7677 §4 asks for 4096 at least; a million take a worker half a second.
pub const SCRAM_ITERATIONS_RANGE: (u32, u32) = (4096, 1_000_000);
/// Iterations of a secret that is made here: many, but Cyrus SASL's clients refuse more than 65,536.
pub const SCRAM_ITERATIONS_DEFAULT: u32 = 65_536;
/// The AUTH command to a next hop, with its CRLF: what every server takes (RFC 5321 §4.5.3.1.4). A first response that would make
/// it longer waits for a challenge.
pub const AUTH_COMMAND_BYTES: usize = 512;
/// Iterations that a server may ask of us where we log in: computed on a shard's own thread, and 200,000 take it some 60 ms,
/// once for each salt. Servers ask for 4096 to 65,536.
pub const SCRAM_LOGIN_ITERATIONS: u32 = 200_000;
/// A file with a name and a password to log in with: both at their longest.
pub const LOGIN_FILE_BYTES: u64 = 2048;
/// Salt of a SCRAM secret: what others write has 12 or 16; a decoy's comes out of one HMAC-SHA-256, which gives 32.
pub const SCRAM_SALT_RANGE: (usize, usize) = (8, 32);
/// Salt of a secret that is made here. RFC 9106 §4 asks for 16.
pub const SALT_BYTES: usize = 16;
/// Memory of one argon2id secret, KiB, smallest and largest: RFC 9106 has 2 GiB and 64 MiB as its recommendations, but
/// each check under way takes it.
pub const ARGON2_KIB_RANGE: (u32, u32) = (1024, 256 << 10);
/// Memory of a secret that is made here, KiB: OWASP's first choice, with the passes below.
pub const ARGON2_KIB_DEFAULT: u32 = 19 << 10;
/// Most passes over the memory, and most lanes: a check ends within a second or so.
pub const ARGON2_PASSES: u32 = 16;
/// Passes of a secret that is made here.
pub const ARGON2_PASSES_DEFAULT: u32 = 2;
/// Kinds and costs of secrets in one accounts file. Each check of a password does the work of every one of them, so that
/// its time says nothing about the account.
pub const SECRET_COSTS: usize = 4;
/// Accounts of one file; they are in memory.
pub const ACCOUNTS: usize = 65_536;
/// The accounts file: 512 octets an account.
pub const ACCOUNTS_FILE_BYTES: u64 = 32 << 20;
/// Entries of one account's `from`: they are searched in order at each MAIL.
pub const ACCOUNT_SENDERS: usize = 256;
/// Largest sending limit: a billion is none, and sums fit 64 bits.
pub const ACCOUNT_RATE: u32 = 1_000_000_000;

const _: () = assert!(ACCOUNT_NAME_BYTES + PASSWORD_BYTES < AUTH_LINE_BYTES / 4 * 3, "a password fits its line");
const _: () = assert!(ACCOUNT_NAME_BYTES >= PATH_BYTES - 2, "a name can be an address");

// --- Submission clean-up, local mail -------------------------------------------------------------------------------

/// The header section of a submitted message, in octets as received; it is held in memory until it has been looked at.
/// Programs write a few KiB; lists of a thousand recipients, and signatures, some tens.
pub const SUBMISSION_HEADER_BYTES: usize = 64 << 10;
/// Text of a peer (an address, an account) within a reply; the rest is left out, so that the reply fits RFC 5321
/// §4.5.3.1.5's 512 octets.
pub const REPLY_QUOTE_BYTES: usize = 96;

const _: () = assert!(3 * REPLY_QUOTE_BYTES < 512 - 160, "a reply with two quotes fits its line");
/// Addresses one local alias or list may lead to, and aliases on the way: they share one spool record, as the recipients of
/// one transaction do. A longer list is checked and refused when the file is read.
pub const LOCAL_EXPANSION_ADDRESSES: usize = RECIPIENTS;
/// Aliases that lead to aliases, in a row (sendmail stops at 10; the walk is recursive).
pub const LOCAL_ALIAS_DEPTH: usize = 32;
/// Problems told of one set of files: one misplaced file must not fill the log.
pub const LOCAL_PROBLEMS: usize = 50;
/// Addresses shown by one EXPN; each is a line of a reply that is held in memory.
pub const LOCAL_EXPN_ADDRESSES: usize = 100;
/// A path of Maildirs (`PATH_MAX` of Linux, with its NUL), and room for `/new/` and a file's name.
pub const MAILDIR_PATH_BYTES: usize = 4096 - 6 - MAILDIR_NAME_BYTES;
/// One name in a folder (`NAME_MAX` of Linux's file systems).
pub const MAILDIR_NAME_BYTES: usize = 255;

// --- Parameters of MAIL and RCPT, on the way out -------------------------------------------------------------------

/// While a destination has ready mail with a priority, every so many-th job taken is the oldest of all: RFC 6710 §5.1 lets
/// urgent mail go first, but nobody's mail may wait for ever behind it.
pub const QUEUE_RANK_SHARE: u8 = 8;
/// A sender who asked for it (RFC 3461 §4.1, DELAY) is told of mail that is not delivered after this.
pub const DELAY_NOTICE: Duration = Duration::from_secs(4 * 3600);
/// Notifications of failure that one sender (an account, else a domain) gets in an hour from one shard, if the configuration says
/// nothing else: nobody reads a thousand.
pub const BOUNCES_PER_HOUR_DEFAULT: u32 = 1000;
/// Of a hundred recipients of a sender so many failures are told beside those, if the configuration says nothing else: a large
/// sender with clean lists has one or two.
pub const BOUNCES_PERCENT_DEFAULT: u32 = 5;
/// What a sender has earned so is no more than it would be told of in so many hours: after days a provider that is gone fails all
/// of its mail.
pub const BOUNCE_HOURS_EARNED: u64 = 10;
/// Senders whose notifications are counted, some 100 octets each; all others together are one.
pub const BOUNCE_SENDERS: usize = 10_000;
/// How many notifications were withheld is told after this.
pub const BOUNCE_SUMMARY: Duration = Duration::from_secs(600);
/// The largest message that is returned whole (RFC 3461 §6.2 allows a limit): one record of the spool, read at once.
pub const DSN_FULL_BYTES: usize = SPOOL_CHUNK_BYTES as usize;

// --- Limits over time (quota) --------------------------------------------------------------------------------------

/// A key's name with its kind: an account's, or a domain.
pub const QUOTA_KEY_BYTES: usize = 320;
/// Limits of one key: a minute, a day, and two more.
pub const QUOTA_LIMITS: usize = 4;
/// The longest window: a month.
pub const QUOTA_WINDOW_MAX: Duration = Duration::from_secs(31 * 86_400);
/// Keys that one owner has with units that count: two for each account, should all be one shard's. New ones get 451 above.
pub const QUOTA_KEYS: usize = 2 * ACCOUNTS;
/// The grid that a busy key's moments are rounded up to, per window: a unit comes back at most 1/96 of it late.
pub const QUOTA_SLOTS: usize = 96;
/// Moments kept per key and window, 16 octets each, before they are rounded to the grid; below it none is.
pub const QUOTA_MARKS: usize = 128;
/// Most of what is free that one lease takes is one part in so many, so that no shard holds all while others ask.
pub const QUOTA_LEASE_SHARE: u64 = 4;
/// A lease can be used for so long. Long against mail between shards; what a stalled shard holds is back after it.
pub const QUOTA_LEASE_TIME: Duration = Duration::from_secs(10);
/// A lease that nobody takes from for so long is given back; who asks again within it, is given more at a time.
pub const QUOTA_IDLE: Duration = Duration::from_secs(1);
/// A snapshot that takes longer to write has failed: leases in it are not handed out any more.
pub const QUOTA_WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Most units asked for beyond what is needed.
pub const QUOTA_AHEAD: u32 = 1 << 20;
/// Commands of one shard that wait for a lease, some 100 octets each: more than it has sessions by default. Then 451.
pub const QUOTA_WAITING: usize = 65_536;
/// Keys that one sweep of an owner looks at, to forget those with nothing that counts: some 20 µs.
pub const QUOTA_SWEEP_KEYS: usize = 256;
/// Difference between the clocks' advance above which the wall clock was set, and a snapshot says so; after a restart each
/// unit counts so much longer, for a step below it.
pub const QUOTA_CLOCK_STEP: Duration = Duration::from_secs(2);
/// The largest snapshot that is read. One account's keys take some hundred octets, 16 KiB at the very most.
pub const QUOTA_SNAPSHOT_BYTES: u32 = 1 << 31;

const _: () = assert!(ACCOUNT_NAME_BYTES + 32 <= QUOTA_KEY_BYTES && DOMAIN_BYTES + 32 <= QUOTA_KEY_BYTES);
const _: () = assert!(QUOTA_MARKS >= QUOTA_SLOTS + 8, "what is rounded up fits, and some more");
const _: () = assert!(QUOTA_MARKS < 256, "their number is an octet of the snapshot");
const _: () =
    assert!(QUOTA_LEASE_TIME.as_millis() > 4 * QUOTA_IDLE.as_millis(), "idle leases are given back, not lost");
const _: () = assert!(
    QUOTA_KEYS * (QUOTA_KEY_BYTES + 16 + QUOTA_LIMITS * (8 + QUOTA_MARKS * 16)) <= QUOTA_SNAPSHOT_BYTES as usize,
    "every snapshot can be read again"
);

// --- Delivery into local domains ------------------------------------------------------------------------------------

/// Local domains of one process: each with Maildirs is a destination of its own.
pub const LOCAL_DOMAINS: usize = 10_000;
/// A file of mailboxes or aliases: some 500,000 names. It is read into memory at the start and at SIGHUP.
pub const LOCAL_FILE_BYTES: u64 = 16 << 20;
/// Messages that one shard writes into Maildirs at a time: each takes a thread that waits for the disk, and memory for one
/// piece of a message. Four keep a disk busy that answers a sync at a time.
pub const MAILDIR_WRITERS: usize = 4;

const _: () =
    assert!(PATH_BYTES + 5 <= ORCPT_BYTES + 6, "a list's reverse-path takes the place of a recipient's options");

// --- Routes ---------------------------------------------------------------------------------------------------------

/// A file of routes. It is read into memory at the start and at SIGHUP.
pub const ROUTES_FILE_BYTES: u64 = 16 << 20;
/// Domains and patterns of all routes, some 100 octets each.
pub const ROUTE_DOMAINS: usize = 500_000;
/// The text of a refusal: with its code it fits a line (RFC 5321 §4.5.3.1.5).
pub const ROUTE_REPLY_BYTES: usize = 400;
/// How long the hosts of a domain must have been out of reach, by default, before the fallback relay gets its mail: longer
/// than a restart, or greylisting.
pub const FALLBACK_AFTER_DEFAULT: Duration = Duration::from_secs(3600);

const _: () = assert!(ROUTE_REPLY_BYTES + "550 5.7.1 \r\n".len() <= 512);

// --- Rules: what receivers take -------------------------------------------------------------------------------------

/// Rule files of one process: ours, and the operator's own beside it.
pub const SHAPING_FILES: usize = 16;
/// A rule file. It is read into memory at the start and at SIGHUP.
pub const SHAPING_FILE_BYTES: u64 = 4 << 20;
/// Problems told of one set of rule files, or of routes: one misplaced file must not fill the log.
pub const TABLE_PROBLEMS: usize = 50;
/// Providers, tenants and campaigns, of each kind; they are in memory.
pub const SHAPING_NAMES: usize = 100_000;
/// Names and patterns of all providers, some 100 octets each.
pub const SHAPING_PATTERNS: usize = 200_000;
/// Reply rules of all providers: each may take the memory of a regular expression. A provider's own, and those for every
/// site, are tried in order at each refusal.
pub const SHAPING_RULES: usize = 5000;
/// A name of a provider, tenant, campaign or rule: an account's fits.
pub const SHAPING_NAME_BYTES: usize = ACCOUNT_NAME_BYTES;
/// The name of a header field that an operator chooses: RFC 5322 §2.1.1's 78 characters a line, with room for a value.
pub const HEADER_NAME_BYTES: usize = 64;
/// The name of a site: of a few mail exchangers their names, of more a hash. It is kept with each destination.
pub const SITE_NAME_BYTES: usize = 255;
/// A pattern for the text of replies, as it is written.
pub const REPLY_PATTERN_BYTES: usize = 1024;
/// The same, compiled. Some words in any case take 5 to 20 KiB.
pub const REPLY_REGEX_BYTES: usize = 128 << 10;
/// What a thread keeps to match it faster; beyond it a slower way is taken.
pub const REPLY_REGEX_CACHE_BYTES: usize = 128 << 10;
/// The largest weight of a tenant; the smallest is 1.
pub const TENANT_WEIGHT_MAX: u32 = 1000;
/// The weight of a tenant without one: both more and less can be given to others.
pub const TENANT_WEIGHT_DEFAULT: u32 = 100;

const _: () = assert!(SITE_NAME_BYTES >= 150 + 32 + 8, "a long set's name fits");
const _: () = assert!(SHAPING_FILES <= u16::MAX as usize, "a file's number is a u16");
const _: () = assert!(SHAPING_NAME_BYTES <= SITE_NAME_BYTES, "a provider's name is a site's");

// --- Sources ------------------------------------------------------------------------------------------------------------

/// Source addresses, and pools of them: a large sender has some hundreds, and each is looked at when a connection is opened.
pub const SOURCES: usize = 1000;

/// Sources that rest for a site, remembered by a shard. Beyond it the one that would end first is forgotten: it is tried, and rests again.
pub const SOURCE_RESTS: usize = 100_000;

/// A name or a password for a SOCKS5 proxy, octets: its length is one octet (RFC 1929 §2).
pub const SOCKS_TEXT_BYTES: usize = 255;

/// All that a proxy is told before it connects: of SOCKS5, the greeting, a login, BIND and CONNECT.
pub const PROXY_OPENING_BYTES: usize = 4 + 3 + 2 * SOCKS_TEXT_BYTES + 2 * 22;

/// What is kept of a SOCKS5 proxy's longest reply while the rest of it is awaited: one with a name of 255 octets (RFC 1928 §6).
pub const SOCKS_REPLY_BYTES: usize = 4 + 1 + 255 + 2;

/// What rests is written so often at the most: what is lost by a crash is of the last second, and a receiver that still means it says it
/// again.
pub const RESTS_INTERVAL: Duration = Duration::from_secs(1);

/// After a write of them has failed it is tried again so much later: no mail waits for it.
pub const RESTS_RETRY: Duration = Duration::from_secs(10);

/// What rests is written again when the wall clock was set by more than this.
pub const RESTS_CLOCK_STEP: Duration = Duration::from_secs(1);

/// The file of them, of one shard: some 5000. Those that end first are left out.
pub const RESTS_FILE_BYTES: usize = 1 << 20;

/// Of the words that say why something rests so many octets are kept: the rule, the host and most replies.
pub const RESTS_WHY_BYTES: usize = 400;

/// Days of a warm-up: two to six weeks are usual.
pub const WARMUP_DAYS: usize = 400;

/// Messages that a warm-up allows are taken ahead of their connection for so long; then they are given back.
pub const WARMUP_AHEAD: Duration = Duration::from_secs(60);

/// In any time of this length a source sends no more than its warm-up allows for the day: a day, and what is taken ahead may be used
/// so much later than it counts.
pub const WARMUP_WINDOW: Duration = Duration::from_secs(86_400 + 60);

/// Warm-up numbers cannot be kept (the disk): asked again after this.
pub const WARMUP_RETRY: Duration = Duration::from_secs(10);

/// The longest time that a source rests for a site: what a rule may say (`CONFIG_DURATION_MAX`).
pub const SOURCE_REST_MAX: Duration = Duration::from_secs(30 * 86_400);

// --- Reports of TLS (RFC 8460) ----------------------------------------------------------------------------------------

/// Policy domains of one day: some 2 KiB each with failures, so that the day's file stays below 20 MiB or so.
pub const TLSRPT_DOMAINS: usize = 10_000;
/// Policies of one domain in one day: hosts have different TLSA records, and policies change.
pub const TLSRPT_POLICIES: usize = 16;
/// Kinds of failure (what, host, address, words) told of one policy; the others are in its sum.
pub const TLSRPT_DETAILS: usize = 64;
/// The words of a failure.
pub const TLSRPT_REASON_BYTES: usize = 200;
/// Addresses that one domain may want its reports at.
pub const TLSRPT_URIS: usize = 4;
/// Longest time over which a day's reports are spread (RFC 8460 §4.1: four hours).
pub const TLSRPT_DELAY: Duration = Duration::from_secs(4 * 3600);
/// A day's counts are written to disk so often while they change: what a crash may take from a report.
pub const TLSRPT_SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// Days that are kept, for who asks, and to report of.
pub const TLSRPT_DAYS: usize = 8;
/// A domain's record is asked for again so long after it could not be had, until [`TLSRPT_LATE`].
pub const TLSRPT_RETRY: Duration = Duration::from_secs(3600);
/// A report that could not be placed by then is dropped.
pub const TLSRPT_LATE: Duration = Duration::from_secs(36 * 3600);
/// Records asked for at a time, and the time a shard has to answer.
pub const TLSRPT_QUESTIONS: usize = 32;
/// See [`TLSRPT_QUESTIONS`].
pub const TLSRPT_ANSWER_TIME: Duration = Duration::from_secs(60);
