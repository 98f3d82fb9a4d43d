//! The shard's own io_uring and its provided receive buffers: the thin layer over the `io-uring` crate.
#![allow(unsafe_code)]

use crate::rt::buffer::Buffer;
use io_uring::types::{BufRingEntry, SubmitArgs, Timespec};
use io_uring::{IoUring, squeue};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Submission entries: more than one turn usually queues; when full, it is submitted early.
const SUBMISSIONS: u32 = 256;
/// Completion entries: all that can be ready at once for some thousand busy sockets. The kernel keeps overflow besides.
const COMPLETIONS: u32 = 4096;

/// One ring, used by one thread.
pub(super) struct Ring {
    uring: IoUring,
}

/// A completion, copied out of the ring so that its handling may queue new entries.
#[derive(Clone, Copy)]
pub(super) struct Completion {
    pub(super) user_data: u64,
    pub(super) result: i32,
    pub(super) flags: u32,
}

impl Ring {
    /// `deferred`: with SINGLE_ISSUER and DEFER_TASKRUN (kernel 6.1), completions are made only while this thread waits.
    pub(super) fn new(deferred: bool) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_cqsize(COMPLETIONS).setup_clamp().setup_submit_all();
        if deferred {
            builder.setup_single_issuer().setup_defer_taskrun();
        } else {
            builder.setup_coop_taskrun();
        }
        let uring = match builder.build(SUBMISSIONS) {
            // Before 5.19 without cooperative task running.
            Err(e) if !deferred && e.raw_os_error() == Some(libc::EINVAL) => {
                IoUring::builder().dontfork().setup_cqsize(COMPLETIONS).setup_clamp().build(SUBMISSIONS)?
            }
            other => other?,
        };
        Ok(Ring { uring })
    }

    /// Queues an entry.
    ///
    /// # Safety
    /// What the entry points at must stay valid and untouched until its completion.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: handed on from the caller.
        while unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.submit_now();
        }
    }

    /// Queues two entries that the kernel runs one after the other.
    ///
    /// # Safety
    /// As for `push`; `first` must have a link flag.
    pub(super) unsafe fn push_linked(&mut self, first: squeue::Entry, second: squeue::Entry) {
        // SAFETY: handed on from the caller. push_multiple keeps a link within one submission.
        while unsafe { self.uring.submission().push_multiple(&[first.clone(), second.clone()]) }.is_err() {
            self.submit_now();
        }
    }

    fn submit_now(&mut self) {
        // EBUSY and EAGAIN mean that completions must be taken first: the entry stays queued and goes with the next wait,
        // but here the queue is full, so the kernel is asked again until it takes some.
        if let Err(e) = self.uring.submit() {
            assert!(
                matches!(e.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN | libc::EINTR)),
                "io_uring_enter on a ring in use: {e}"
            );
        }
    }

    /// Submits what is queued; waits for a completion up to `timeout` (`ZERO`: only takes in what is ready).
    pub(super) fn enter(&mut self, timeout: Duration) -> io::Result<()> {
        let result = if timeout.is_zero() {
            // With DEFER_TASKRUN completions appear only on an enter with GETEVENTS, which want=0 with args asks for.
            let zero = Timespec::new();
            let args = SubmitArgs::new().timespec(&zero);
            self.uring.submitter().submit_with_args(1, &args)
        } else {
            let timespec = Timespec::new().sec(timeout.as_secs()).nsec(timeout.subsec_nanos());
            let args = SubmitArgs::new().timespec(&timespec);
            self.uring.submitter().submit_with_args(1, &args)
        };
        match result {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// Takes all completions that lie ready.
    pub(super) fn take(&mut self, into: &mut Vec<Completion>) {
        let completions = self.uring.completion();
        into.extend(completions.map(|c| Completion { user_data: c.user_data(), result: c.result(), flags: c.flags() }));
    }

    /// Hands `buffers` to the kernel as the buffer group it receives into.
    pub(super) fn register(&self, buffers: &ReceiveBuffers) -> io::Result<()> {
        // SAFETY: the entries are page-aligned and live as long as the ring: the driver drops the ring first.
        unsafe {
            self.uring.submitter().register_buf_ring_with_flags(
                buffers.entries.as_ptr() as u64,
                ReceiveBuffers::COUNT,
                ReceiveBuffers::GROUP,
                0,
            )
        }
    }
}

/// The buffers into which the kernel receives: a ring of addresses shared with it, and the memory they point at.
pub(super) struct ReceiveBuffers {
    entries: Buffer,
    memory: Buffer,
    tail: u16,
}

impl ReceiveBuffers {
    pub(super) const GROUP: u16 = 0;
    /// One turn of a few hundred ready sockets takes one each; when they run out, receives are re-armed a turn later.
    const COUNT: u16 = 256;
    /// A 4 KiB message with its commands in one piece; larger ones in a few.
    pub(super) const BYTES: usize = 8 << 10;

    pub(super) fn new() -> Self {
        let mut entries = Buffer::new(usize::from(Self::COUNT) * size_of::<BufRingEntry>());
        entries.set_len(entries.capacity());
        let mut memory = Buffer::new(usize::from(Self::COUNT) * Self::BYTES);
        memory.set_len(memory.capacity());
        let mut new = ReceiveBuffers { entries, memory, tail: 0 };
        for id in 0..Self::COUNT {
            new.put(id);
        }
        new.publish();
        new
    }

    /// The bytes received into buffer `id`.
    pub(super) fn bytes(&self, id: u16, len: usize) -> &[u8] {
        let at = usize::from(id) * Self::BYTES;
        &self.memory[at..at + len]
    }

    /// Gives buffer `id` back; the kernel sees it after `publish`.
    pub(super) fn put(&mut self, id: u16) {
        let index = usize::from(self.tail & (Self::COUNT - 1));
        let address = self.memory.as_ptr() as u64 + u64::from(id) * Self::BYTES as u64;
        // SAFETY: `entries` has COUNT entries of this type, page-aligned and zeroed; `index` is below COUNT. The kernel
        // reads an entry only after the tail has moved past it.
        let entry = unsafe { &mut *self.entries.as_ptr().cast::<BufRingEntry>().add(index) };
        entry.set_addr(address);
        entry.set_len(Self::BYTES as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel all buffers given back so far.
    pub(super) fn publish(&self) {
        // SAFETY: the base of the entries; the tail field is two aligned bytes that only this side writes.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr().cast()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
