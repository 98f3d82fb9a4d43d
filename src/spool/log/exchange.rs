//! PURE. What the log and its driver say to each other: sizes, effects, completions, events, refusals.

use crate::limits;
use crate::message::MessageId;
use crate::rt::buffer::{Buffer, Slice};
use std::sync::Arc;

/// A file of the spool folder, by the number the log gave it. The driver maps it to a descriptor between `Create` or
/// `Open` and `Remove`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileNo(pub u32);

/// Sizes of the files and writes. Those of limits.rs but in tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// One segment file, bytes.
    pub segment_bytes: u32,
    /// The largest commit, bytes. A record with the largest envelope and `chunk_bytes` of body must fit in one.
    pub commit_bytes: u32,
    /// The largest body written as one record, bytes; a longer one is streamed in chunks of at most this.
    pub chunk_bytes: u32,
    /// The end of the active segment kept for outcomes while no other can be had, bytes.
    pub reserve_bytes: u32,
    /// The end of that reserve kept for commits that free a segment, bytes.
    pub last_reserve_bytes: u32,
}

impl Default for Geometry {
    fn default() -> Self {
        Geometry {
            segment_bytes: limits::SPOOL_SEGMENT_BYTES,
            commit_bytes: limits::SPOOL_COMMIT_BYTES,
            chunk_bytes: limits::SPOOL_CHUNK_BYTES,
            reserve_bytes: limits::SPOOL_RESERVE_BYTES,
            last_reserve_bytes: limits::SPOOL_LAST_RESERVE_BYTES,
        }
    }
}

/// Why a file operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FileError {
    /// No room: ENOSPC, EDQUOT, EFBIG.
    #[error("no room on the spool's file system")]
    Full,
    /// EROFS.
    #[error("the spool's file system is read-only")]
    ReadOnly,
    /// Any other, by errno.
    #[error("input/output error (errno {0})")]
    Io(i32),
}

impl FileError {
    /// The error with this `errno`.
    pub fn from_errno(errno: i32) -> FileError {
        match errno {
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => FileError::Full,
            libc::EROFS => FileError::ReadOnly,
            other => FileError::Io(other),
        }
    }

    /// The error of a file operation, by its kind: not every layer below keeps the errno. EIO if neither tells.
    pub fn from_io(error: &std::io::Error) -> FileError {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => FileError::Full,
            ErrorKind::ReadOnlyFilesystem => FileError::ReadOnly,
            _ => FileError::from_errno(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    pub(super) fn refusal(self) -> Refusal {
        match self {
            FileError::Full => Refusal::Full,
            FileError::ReadOnly | FileError::Io(_) => Refusal::Fault,
        }
    }
}

/// Why a message is not taken now. All of them are the server's state, none the client's fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// No room: 452 4.3.1.
    #[error("insufficient system storage")]
    Full,
    /// Too many commits wait already: 452 4.3.1, or the session waits for `pressure` to fall.
    #[error("storage is busy")]
    Busy,
    /// Writing failed: 451 4.3.0.
    #[error("local error in storage")]
    Fault,
    /// The record does not fit in a commit: the caller should have streamed the body.
    #[error("larger than one record")]
    TooLarge,
}

/// A file operation for the driver to carry out. Those of different kinds may run side by side; there is at most one
/// `Write` at a time.
#[derive(Debug)]
pub enum Effect {
    /// Write `buffer[start..]` at `offset`, then `fdatasync`; one `handle_written`. `start`, `offset` and the length are
    /// multiples of the block.
    Write {
        /// For `handle_written`.
        token: u64,
        /// The file.
        file: FileNo,
        /// Where in the file, bytes.
        offset: u64,
        /// What; shared with the log, which makes records of it.
        buffer: Arc<Buffer>,
        /// First byte of the buffer that is meant.
        start: usize,
    },
    /// Fill all of `buffer` (its length is set) from `offset`; one `handle_read`.
    Read {
        /// For `handle_read`.
        token: u64,
        /// The file.
        file: FileNo,
        /// Where in the file, bytes.
        offset: u64,
        /// Where to.
        buffer: Buffer,
    },
    /// Create `name` with `bytes` zeros written and synced, sync the folder, keep it open; one `handle_created`. If it
    /// fails it leaves no file behind.
    Create {
        /// The file.
        file: FileNo,
        /// Its name within the spool folder.
        name: String,
        /// Its size.
        bytes: u32,
    },
    /// Open the existing file `name` for reading and writing; one `handle_opened`.
    Open {
        /// The file.
        file: FileNo,
        /// Its name within the spool folder.
        name: String,
    },
    /// Close the file if it is open, unlink `name`, sync the folder; one `handle_removed`.
    Remove {
        /// The file; its number may be given anew after the completion.
        file: FileNo,
        /// Its name within the spool folder.
        name: String,
    },
}

/// Why a record cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// No such message or chunk (any more): it was settled.
    #[error("the message is settled")]
    Gone,
    /// The bytes on disk are not what was written.
    #[error("the record is damaged")]
    Damaged,
    /// The file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What the log tells its shard.
#[derive(Debug)]
pub enum Event {
    /// The message is on stable storage: it may be acknowledged. `record` is the whole Accepted record (see
    /// `RecordView`). It shares a commit's buffer of up to 1 MiB: drop it when the message must wait, and `read` again.
    Durable {
        /// As given to `accept`.
        waiter: u64,
        /// The message.
        id: MessageId,
        /// Its record.
        record: Slice,
    },
    /// The message is not taken, and no record of it counts.
    Refused {
        /// As given to `accept`.
        waiter: u64,
        /// The message.
        id: MessageId,
        /// Why.
        why: Refusal,
    },
    /// The answer to `read`.
    Read {
        /// As given to `read`.
        token: u64,
        /// The whole record.
        result: Result<Slice, ReadError>,
    },
    /// No new segment can be had; it is tried again every second. Mail is refused once the active segment is full.
    StorageFull {
        /// Why.
        error: FileError,
    },
    /// New segments can be had again.
    StorageRecovered,
    /// A write or sync failed: the segment takes no more records. For the log, loudly.
    SegmentFailed {
        /// Number in the file's name.
        number: u32,
        /// Why.
        error: FileError,
    },
    /// Compaction met a record that cannot be read. The message stays queued; reading it will say the same.
    Damaged {
        /// The message.
        id: MessageId,
        /// Number in the file's name.
        number: u32,
    },
}

/// What `settle` leaves of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Settled {
    /// Other recipients still wait.
    Partly,
    /// That was the last one; the message is forgotten.
    Wholly,
    /// No such message or recipient, or it has its outcome already.
    Unknown,
}
