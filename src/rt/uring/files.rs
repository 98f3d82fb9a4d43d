//! The files of a shard: opened with O_DIRECT where the file system has it, written and read on the shard's ring, made and
//! removed by short-lived threads beside it.
#![allow(unsafe_code)]

use super::ring::Ring;
use super::sockets::{Kind, user_data};
use super::wake::Wakers;
use crate::rt::buffer::{BLOCK, Buffer};
use crate::rt::{self, Event, FileNo};
use io_uring::{opcode, squeue, types};
use slab::Slab;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

/// Zeros are written in pieces of this size while a segment is made.
const ZERO_BYTES: usize = 1 << 20;

pub(super) struct Files {
    open: HashMap<FileNo, OpenFile>,
    operations: Slab<Operation>,
    /// From the threads that do slow work.
    tell: mpsc::Sender<Ended>,
    ended: mpsc::Receiver<Ended>,
    wakers: Wakers,
    me: usize,
    warned_buffered: bool,
}

struct OpenFile {
    file: File,
    in_kernel: u32,
    closing: bool,
}

struct Operation {
    token: u64,
    file: FileNo,
    payload: Payload,
    /// Bytes that a write is to take.
    bytes: u32,
    /// Set if the write of a write and sync pair failed: its error is the answer.
    failed: Option<io::Error>,
}

enum Payload {
    /// Held until the kernel has read it.
    Write(Arc<Buffer>),
    Read(Buffer),
}

/// A piece of slow work that has ended.
enum Ended {
    File { file: FileNo, work: Work, path: PathBuf, result: io::Result<()> },
    Job { token: u64, result: rt::WorkResult },
}

#[derive(Clone, Copy)]
enum Work {
    Create,
    Remove,
}

impl Files {
    pub(super) fn new(wakers: Wakers, me: usize) -> Self {
        let (tell, ended) = mpsc::channel();
        Files { open: HashMap::new(), operations: Slab::new(), tell, ended, wakers, me, warned_buffered: false }
    }

    /// Starts to make a segment.
    pub(super) fn create(&mut self, file: FileNo, path: &Path, bytes: u64) {
        self.aside(file, Work::Create, path, move |path| {
            let made = make_zeroed(path, bytes);
            if made.is_err() {
                // Half a segment is of no use, and its room may be what is missing. If this fails the file is found, and
                // reused, at the next start.
                drop(std::fs::remove_file(path));
            }
            made
        });
    }

    /// Starts to remove a segment.
    pub(super) fn remove(&mut self, file: FileNo, path: &Path) {
        if let Some(open) = self.open.get_mut(&file) {
            open.closing = true;
            open.in_kernel += 1;
            self.ended(file);
        }
        self.aside(file, Work::Remove, path, |path| std::fs::remove_file(path).and_then(|()| sync_folder(path)));
    }

    /// Does slow work on a thread of its own, once in thousands of messages; the shard is woken at its end.
    fn aside(
        &mut self,
        file: FileNo,
        work: Work,
        path: &Path,
        act: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
    ) {
        let (tell, wakers, me, path) = (self.tell.clone(), self.wakers.clone(), self.me, path.to_owned());
        let (failed, failed_path) = (work, path.clone());
        let thread = std::thread::Builder::new().name(format!("files-{me}")).spawn(move || {
            let result = act(&path);
            // Nobody listens any more if the shard has ended.
            drop(tell.send(Ended::File { file, work, path, result }));
            wakers.ring(me);
        });
        if let Err(error) = thread {
            drop(self.tell.send(Ended::File { file, work: failed, path: failed_path, result: Err(error) }));
        }
    }

    /// Does a job of the shard's on a thread of its own. Without a thread it is done here: late, but not lost.
    pub(super) fn job(&self, token: u64, job: rt::Work) {
        let (tell, wakers, me) = (self.tell.clone(), self.wakers.clone(), self.me);
        let job = Arc::new(Mutex::new(Some(job)));
        let theirs = Arc::clone(&job);
        let run = move |job: &Mutex<Option<rt::Work>>| {
            let Some(job) = job.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
            // Nobody listens any more if the shard has ended.
            drop(tell.send(Ended::Job { token, result: job() }));
            wakers.ring(me);
        };
        let here = run.clone();
        if std::thread::Builder::new().name(format!("work-{me}")).spawn(move || run(&theirs)).is_err() {
            here(&job);
        }
    }

    /// What slow work has ended since the last call.
    pub(super) fn poll_ended(&mut self) -> Option<Event<'static>> {
        Some(match self.ended.try_recv().ok()? {
            Ended::File { file, work: Work::Create, path, result } => {
                Event::FileReady { file, result: result.and_then(|()| self.open(file, &path)) }
            }
            Ended::File { file, work: Work::Remove, result, .. } => Event::FileRemoved { file, result },
            Ended::Job { token, result } => Event::Worked { token, result },
        })
    }

    pub(super) fn open(&mut self, file: FileNo, path: &Path) -> io::Result<()> {
        let mut options = File::options();
        options.read(true).write(true);
        let opened = match options.clone().custom_flags(libc::O_DIRECT).open(path) {
            // tmpfs before 6.6, some overlay and network file systems.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                if !std::mem::replace(&mut self.warned_buffered, true) {
                    tracing::warn!(path = %path.display(), "no O_DIRECT on this file system: buffered writes with fdatasync");
                }
                options.open(path)?
            }
            other => other?,
        };
        self.open.insert(file, OpenFile { file: opened, in_kernel: 0, closing: false });
        Ok(())
    }

    /// Queues a write and its sync, linked.
    pub(super) fn write_durable(
        &mut self,
        ring: &mut Ring,
        token: u64,
        file: FileNo,
        offset: u64,
        buffer: Arc<Buffer>,
        start: usize,
    ) {
        let bytes = &buffer[start..];
        assert!(
            start.is_multiple_of(BLOCK) && bytes.len().is_multiple_of(BLOCK) && offset.is_multiple_of(BLOCK as u64),
            "O_DIRECT writes whole blocks"
        );
        let (address, len) = (bytes.as_ptr(), u32::try_from(bytes.len()).expect("commits are below 4 GiB"));
        let open = self.open.get_mut(&file).expect("the spool writes to files that are ready");
        open.in_kernel += 1;
        let fd = types::Fd(open.file.as_raw_fd());
        let operation = Operation { token, file, payload: Payload::Write(buffer), bytes: len, failed: None };
        let number = self.operations.insert(operation) as u32;
        let write = opcode::Write::new(fd, address, len)
            .offset(offset)
            .build()
            // Anything less than all breaks the link, and is told before the cancelled sync. Not SKIP_SUCCESS: when a
            // request with it fails, the kernel keeps quiet about those linked to it.
            .flags(squeue::Flags::IO_LINK)
            .user_data(user_data(Kind::WriteFile, 0, number));
        let sync = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build().user_data(user_data(
            Kind::SyncFile,
            0,
            number,
        ));
        // SAFETY: the operation holds the buffer, and the table the file, until the sync's completion, which follows the
        // write's. Nobody writes to a buffer that is shared.
        unsafe { ring.push_linked(write, sync) };
    }

    pub(super) fn read(&mut self, ring: &mut Ring, token: u64, file: FileNo, offset: u64, buffer: Buffer) {
        assert!(
            buffer.len().is_multiple_of(BLOCK) && offset.is_multiple_of(BLOCK as u64),
            "O_DIRECT reads whole blocks"
        );
        let open = self.open.get_mut(&file).expect("the spool reads files that are ready");
        open.in_kernel += 1;
        let fd = types::Fd(open.file.as_raw_fd());
        let (address, len) = (buffer.as_ptr(), buffer.len() as u32);
        let operation = Operation { token, file, payload: Payload::Read(buffer), bytes: len, failed: None };
        let number = self.operations.insert(operation) as u32;
        let entry =
            opcode::Read::new(fd, address, len).offset(offset).build().user_data(user_data(Kind::ReadFile, 0, number));
        // SAFETY: the operation owns the buffer, and the table the file, until the completion.
        unsafe { ring.push(entry) };
    }

    /// Takes in a completion; the event for the shard, if this was the last of its operation.
    pub(super) fn complete(&mut self, kind: Kind, number: u32, result: i32) -> Option<Event<'static>> {
        let key = number as usize;
        let error = |code: i32| io::Error::from_raw_os_error(-code);
        if kind == Kind::WriteFile {
            // The sync follows, cancelled if this went wrong, and answers with it.
            let operation = &mut self.operations[key];
            operation.failed = match u32::try_from(result) {
                Err(_) => Some(error(result)),
                Ok(n) if n == operation.bytes => None,
                Ok(_) => Some(io::Error::new(io::ErrorKind::WriteZero, "the file took less than a commit")),
            };
            return None;
        }
        let Operation { token, file, payload, failed, .. } = self.operations.remove(key);
        self.ended(file);
        match payload {
            Payload::Write(buffer) => {
                // The log keeps its own reference for readers; the kernel's ends here.
                drop(buffer);
                let result = failed.map_or(if result < 0 { Err(error(result)) } else { Ok(()) }, Err);
                Some(Event::Written { token, result })
            }
            Payload::Read(buffer) => {
                let result = match result {
                    n if n < 0 => Err(error(n)),
                    n if n as usize == buffer.len() => Ok(buffer),
                    _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends before the record")),
                };
                Some(Event::Read { token, result })
            }
        }
    }

    fn ended(&mut self, file: FileNo) {
        if let Some(open) = self.open.get_mut(&file) {
            open.in_kernel -= 1;
            if open.closing && open.in_kernel == 0 {
                self.open.remove(&file);
            }
        }
    }

    /// Operations the kernel still works on.
    pub(super) fn busy(&self) -> bool {
        !self.operations.is_empty()
    }
}

/// Makes a file of zeros that is on stable storage: written, not only reserved, so that later commits change neither size
/// nor extents and their fdatasync is a flush of data alone.
fn make_zeroed(path: &Path, bytes: u64) -> io::Result<()> {
    let mut options = File::options();
    options.create_new(true).write(true);
    let file = match options.clone().custom_flags(libc::O_DIRECT).open(path) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => options.create_new(false).open(path)?,
        other => other?,
    };
    // All of the room at once, so that a full disk is known before anything is written.
    // SAFETY: plain system call on a descriptor that lives through it.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, i64::try_from(bytes).unwrap_or(i64::MAX)) } < 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
            return Err(error);
        }
    }
    let mut zeros = Buffer::new(ZERO_BYTES);
    zeros.set_len(ZERO_BYTES);
    let mut at = 0;
    while at < bytes {
        let piece = ZERO_BYTES.min(usize::try_from(bytes - at).unwrap_or(ZERO_BYTES));
        file.write_all_at(&zeros[..piece], at)?;
        at += piece as u64;
    }
    file.sync_all()?;
    sync_folder(path)
}

/// Makes the folder's entry for `path`, or its absence, survive a power cut.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
