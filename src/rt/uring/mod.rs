//! The production backend: one glommio executor per shard, and inside it the shard's own socket ring.
//!
//! Theory of operation. All that is hot goes through ONE ring of the shard's own (`ring::Ring`): multishot accept and
//! receive into provided buffers, connects, the write and the linked fdatasync of a commit, reads of the spool, the
//! eventfd by which other cores wake this one, and the next deadline as the timeout of the wait itself. What is not hot
//! (making and removing segments) runs as glommio tasks on the same executor. The shard always waits in its own ring; while such
//! a task is alive it wakes every millisecond and lets the reactor run (docs/decisions/0002-where-a-shard-waits.md has
//! the measurements, and what went wrong when it waited through the reactor).
//!
//! On kernels that lack DEFER_TASKRUN or provided buffer rings (before 6.1), or with RINGPOST_SOCKETS=epoll, sockets are
//! driven by an epoll set that the ring polls; everything else is the same.

mod driver;
mod files;
mod ring;
mod sockets;
mod start;
mod wake;

pub use start::{Build, Options, ShardThreads, StartError, start};
pub use wake::Wakers;

#[cfg(test)]
mod tests;
