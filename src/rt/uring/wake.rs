//! How one core wakes another: an eventfd per shard, written only if that shard sleeps.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// The bell of every shard. Cloned to each shard and to the control plane; any thread may ring.
#[derive(Clone, Debug)]
pub struct Wakers(Arc<[Bell]>);

#[derive(Debug)]
struct Bell {
    /// True while the shard sleeps, or is about to and has yet to look at its mailbox again.
    asleep: AtomicBool,
    eventfd: OwnedFd,
}

impl Wakers {
    /// A bell for each of `shards` shards.
    pub fn new(shards: usize) -> io::Result<Self> {
        (0..shards)
            .map(|_| Ok(Bell { asleep: AtomicBool::new(false), eventfd: eventfd()? }))
            .collect::<io::Result<_>>()
            .map(Wakers)
    }

    /// Tells `shard` that its mailbox has something; call after the push. One atomic load if it is awake.
    pub fn wake(&self, shard: usize) {
        // Pairs with the fence in `falling_asleep`: either we see `asleep`, or the sleeper sees our push.
        fence(Ordering::SeqCst);
        let bell = &self.0[shard];
        if bell.asleep.load(Ordering::Relaxed) && bell.asleep.swap(false, Ordering::Relaxed) {
            ring(bell.eventfd.as_raw_fd());
        }
    }

    /// Announces sleep; the mailbox must be looked at once more after this.
    /// Wakes `shard` whether it sleeps or not.
    pub(super) fn ring(&self, shard: usize) {
        ring(self.0[shard].eventfd.as_raw_fd());
    }

    pub(super) fn falling_asleep(&self, shard: usize) {
        self.0[shard].asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(super) fn awake(&self, shard: usize) {
        self.0[shard].asleep.store(false, Ordering::Relaxed);
    }

    pub(super) fn descriptor(&self, shard: usize) -> RawFd {
        self.0[shard].eventfd.as_raw_fd()
    }
}

/// An eventfd, in blocking mode: the ring, which reads it, waits only on those.
fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: plain system call without pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds one to an eventfd.
fn ring(fd: RawFd) {
    let one = 1u64;
    // SAFETY: eight readable bytes. It can only fail if the counter is full, and then the reader is awake anyway.
    unsafe { libc::write(fd, (&raw const one).cast(), 8) };
}
