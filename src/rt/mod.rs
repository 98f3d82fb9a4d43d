//! The runtime under a shard: sockets, files, timers and wake-ups, as events in and effects out.
//!
//! The only place that names glommio and holds `unsafe`. A [`Shard`] is a function of (events, now) to effects: rt waits,
//! hands it each event, and at the end of the turn asks how long it may wait next. A shard never blocks, never reads a
//! clock and never touches a descriptor, so a second, simulated backend can stand behind [`Shard`] and [`Io`] in place of
//! `uring`.
//!
//! Shape: completion. The bytes of a connection arrive in a buffer that belongs to the shard's rt and is taken back when
//! [`Shard::handle`] returns; what a machine did not consume the connection itself keeps. Bytes to send are given to
//! [`Io::write`], which takes what the socket takes; the rest stays with the caller until [`Event::Writable`].

#[cfg(test)]
pub mod alloc;
pub mod buffer;
pub mod disk;
pub mod maildir;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod simd;
pub mod tls;
pub mod uring;

use crate::time::{Moment, Now};
use buffer::Buffer;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// A socket of this shard: accepted, connected or datagram. Never reused while a stale copy could be mistaken for it
/// (a slot number and its generation).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ConnId {
    /// Index for the shard's own table of connections: dense, reused.
    pub slot: u32,
    /// Grows with each reuse of the slot.
    pub generation: u32,
}

/// A file of this shard, by the number its spool chose for it.
pub type FileNo = u32;

/// What happened. Borrowed parts are valid until `handle` returns.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant's text tells of its fields")]
pub enum Event<'a> {
    /// A client connected to listener number `listener`.
    Accepted { conn: ConnId, listener: usize, peer: SocketAddr },
    /// [`Io::connect`] succeeded.
    Connected { conn: ConnId },
    /// Bytes of a stream, or one datagram.
    Received { conn: ConnId, bytes: &'a [u8] },
    /// A write that took less than everything may be continued.
    Writable { conn: ConnId },
    /// The peer closed its direction; what it sent before has been delivered. Only `close` is left to do.
    Ended { conn: ConnId },
    /// The connection broke, or could not be made. Only `close` is left to do.
    Failed { conn: ConnId, error: io::Error },
    /// [`Io::create_file`] is done; the file is open.
    FileReady { file: FileNo, result: io::Result<()> },
    /// [`Io::remove_file`] is done.
    FileRemoved { file: FileNo, result: io::Result<()> },
    /// [`Io::write_durable`] is done: on stable storage if `Ok`.
    Written { token: u64, result: io::Result<()> },
    /// [`Io::read_file`] is done; the buffer holds what was asked for.
    Read { token: u64, result: io::Result<Buffer> },
    /// [`Io::work`] is done.
    Worked { token: u64, result: WorkResult },
}

/// Work that takes longer than a shard may stand still: a password's hash, a file that is not the log's.
pub type Work = Box<dyn FnOnce() -> WorkResult + Send>;
/// What it found.
pub type WorkResult = Box<dyn std::any::Any + Send>;

/// How long a shard may sleep after a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Until this moment, or the next event.
    Until(Moment),
    /// It has work left: take in what is ready, do not sleep.
    Poll,
    /// It is done; its executor ends.
    Stop,
}

/// One core's work, driven by rt. Lives on one thread, is never sent.
pub trait Shard {
    /// Takes one event.
    fn handle(&mut self, event: Event<'_>, now: Now, io: &mut dyn Io);
    /// Called once after the events of a turn: mailbox, commits, timers, flushes.
    fn turn(&mut self, now: Now, io: &mut dyn Io) -> Wait;
    /// Whether another core left something in the mailbox: asked just before sleeping.
    fn has_mail(&self) -> bool;
}

/// The effects of a shard.
pub trait Io {
    /// Begins a TCP connection, from the local address `from` if given. `Connected` or `Failed` follows; the caller
    /// owns the deadline and ends a hopeless attempt with `close`. An error here is local: no descriptor, bad source.
    fn connect(&mut self, to: SocketAddr, from: Option<IpAddr>) -> io::Result<ConnId>;
    /// As [`connect`](Io::connect), to the UNIX socket of that path (unix(7)). `Failed` where nobody listens there.
    fn connect_unix(&mut self, path: &Path) -> io::Result<ConnId>;
    /// Opens a datagram socket with an unpredictable local port, connected to `to`.
    fn datagram(&mut self, to: SocketAddr) -> io::Result<ConnId>;
    /// Sends the parts in order; returns how many bytes were taken. If not all, `Writable` follows. A connection that
    /// broke takes everything; `Failed` or `Ended` follows.
    fn write(&mut self, conn: ConnId, parts: &[IoSlice<'_>]) -> usize;
    /// No more `Received` (but what is already on its way) until `resume`: the peer's window fills.
    fn pause(&mut self, conn: ConnId);
    /// Ends a `pause`.
    fn resume(&mut self, conn: ConnId);
    /// Ends our direction after what was written.
    fn shutdown(&mut self, conn: ConnId);
    /// Forgets the connection: no event of it follows.
    fn close(&mut self, conn: ConnId);
    /// Accepts no more connections, for good.
    fn stop_listening(&mut self);
    /// Makes a file of `bytes` zero bytes on stable storage, directory entry included. `FileReady` follows.
    fn create_file(&mut self, file: FileNo, path: &Path, bytes: u64);
    /// Opens a file for reading and writing. Returns at once.
    fn open_file(&mut self, file: FileNo, path: &Path) -> io::Result<()>;
    /// Writes `buffer[start..]` at `offset`, then fdatasync. All of them block-aligned. `Written` follows.
    fn write_durable(&mut self, token: u64, file: FileNo, offset: u64, buffer: Arc<Buffer>, start: usize);
    /// Fills `buffer` (its length) from `offset`, block-aligned. `Read` follows.
    fn read_file(&mut self, token: u64, file: FileNo, offset: u64, buffer: Buffer);
    /// Forgets the file once nothing is under way on it, unlinks it and syncs its folder. `FileRemoved` follows.
    fn remove_file(&mut self, file: FileNo, path: &Path);
    /// Does `work` on another thread. `Worked` follows. The caller bounds how much is under way.
    fn work(&mut self, token: u64, work: Work);
    /// Tells another shard that its mailbox has something. Cheap if that shard is awake.
    fn wake(&mut self, shard: usize);
    /// 64 unpredictable bits.
    fn random(&mut self) -> u64;
}

/// 64 unpredictable bits from the kernel.
#[allow(unsafe_code)]
pub fn random_u64() -> u64 {
    let mut bits = [0u8; 8];
    // SAFETY: eight writable bytes; up to 256 bytes are always filled at once.
    unsafe { libc::getrandom(bits.as_mut_ptr().cast(), 8, 0) };
    u64::from_ne_bytes(bits)
}

/// How many descriptors the process may have; the soft limit is raised to the hard one first.
#[allow(unsafe_code)]
pub fn descriptor_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a writable rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } < 0 {
        return 1024;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: a readable rlimit.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
        limit = raised;
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}
