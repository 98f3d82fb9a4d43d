//! The files of a shard: opened with O_DIRECT where the file system has it, written and read on the shard's ring, made by
//! glommio tasks beside it.
#![allow(unsafe_code)]

use super::ring::Ring;
use super::sockets::{Kind, user_data};
use crate::rt::buffer::{BLOCK, Buffer};
use crate::rt::{Event, FileNo};
use glommio::io::{DmaFile, OpenOptions};
use io_uring::{opcode, squeue, types};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// Zeros are written in pieces of this size while a segment is made.
const ZERO_BYTES: usize = 1 << 20;

pub(super) struct Files {
    open: HashMap<FileNo, OpenFile>,
    operations: Slab<Operation>,
    cold: Rc<Cold>,
    queue: glommio::TaskQueueHandle,
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
    /// Set if the write of a write and sync pair failed: its error is the answer.
    failed: Option<io::Error>,
}

enum Payload {
    /// Held until the kernel has read it.
    Write(Arc<Buffer>),
    Read(Buffer),
}

/// What the glommio tasks of this shard tell its driver.
#[derive(Default)]
pub(super) struct Cold {
    running: Cell<usize>,
    done: RefCell<VecDeque<Ended>>,
}

/// A task that has ended.
struct Ended {
    file: FileNo,
    work: Work,
    path: PathBuf,
    result: io::Result<()>,
}

enum Work {
    Create,
    Remove,
}

impl Files {
    pub(super) fn new(queue: glommio::TaskQueueHandle) -> Self {
        Files { open: HashMap::new(), operations: Slab::new(), cold: Rc::default(), queue, warned_buffered: false }
    }

    /// Whether a glommio task is alive, so that the shard must let the reactor run now and then.
    pub(super) fn cold_tasks(&self) -> bool {
        self.cold.running.get() > 0
    }

    /// Starts the task that makes a segment.
    pub(super) fn create(&mut self, file: FileNo, path: &Path, bytes: u64) {
        let path = path.to_owned();
        let making = path.clone();
        self.spawn(file, Work::Create, path, async move {
            let result = make_zeroed(&making, bytes).await;
            if result.is_err() {
                // Half a segment is of no use, and its room may be what is missing. If this fails the file is found, and
                // reused, at the next start.
                drop(std::fs::remove_file(&making));
            }
            result
        });
    }

    /// Starts the task that removes a segment.
    pub(super) fn remove(&mut self, file: FileNo, path: &Path) {
        if let Some(open) = self.open.get_mut(&file) {
            open.closing = true;
            open.in_kernel += 1;
            self.ended(file);
        }
        let path = path.to_owned();
        let removing = path.clone();
        self.spawn(file, Work::Remove, path, async move {
            // The extents of a file are given back within unlink: milliseconds, so not on the shard's own thread.
            let remove = move || std::fs::remove_file(&removing).and_then(|()| sync_folder(&removing));
            glommio::executor().spawn_blocking(remove).await
        });
    }

    fn spawn(&mut self, file: FileNo, work: Work, path: PathBuf, task: impl Future<Output = io::Result<()>> + 'static) {
        let cold = Rc::clone(&self.cold);
        cold.running.set(cold.running.get() + 1);
        let task = async move {
            let result = task.await;
            cold.done.borrow_mut().push_back(Ended { file, work, path, result });
            cold.running.set(cold.running.get() - 1);
        };
        match glommio::spawn_local_into(task, self.queue) {
            Ok(task) => drop(task.detach()),
            Err(e) => unreachable!("the shard's queue lives as long as its executor: {e}"),
        }
    }

    /// What glommio tasks have ended since the last call.
    pub(super) fn poll_cold(&mut self) -> Option<Event<'static>> {
        let Ended { file, work, path, result } = self.cold.done.borrow_mut().pop_front()?;
        Some(match work {
            Work::Create => Event::FileReady { file, result: result.and_then(|()| self.open(file, &path)) },
            Work::Remove => Event::FileRemoved { file, result },
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
        let operation = Operation { token, file, payload: Payload::Write(buffer), failed: None };
        let number = self.operations.insert(operation) as u32;
        let write = opcode::Write::new(fd, address, len)
            .offset(offset)
            .build()
            // Quiet if all was written; anything less breaks the link, and is told before the cancelled sync.
            .flags(squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS)
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
        let operation = Operation { token, file, payload: Payload::Read(buffer), failed: None };
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
            // Told only if it went wrong; the cancelled sync follows and answers with this.
            let short = io::Error::new(io::ErrorKind::WriteZero, "the file took less than a commit");
            self.operations[key].failed = Some(if result < 0 { error(result) } else { short });
            return None;
        }
        let Operation { token, file, payload, failed } = self.operations.remove(key);
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
async fn make_zeroed(path: &Path, bytes: u64) -> io::Result<()> {
    // glommio's own fallback to buffered writes where O_DIRECT is missing is part of DmaFile.
    let file: DmaFile =
        OpenOptions::new().create_new(true).read(true).write(true).dma_open(path).await.map_err(io::Error::from)?;
    let made = async {
        file.pre_allocate(bytes, false).await?;
        let mut at = 0;
        while at < bytes {
            let mut zeros = file.alloc_dma_buffer(ZERO_BYTES.min((bytes - at) as usize));
            zeros.as_bytes_mut().fill(0);
            let len = zeros.len() as u64;
            let written = file.write_at(zeros, at).await? as u64;
            if written != len {
                return Err(
                    io::Error::new(io::ErrorKind::WriteZero, "the file system took less than was written").into()
                );
            }
            at += len;
        }
        file.fdatasync().await
    }
    .await;
    file.close().await.map_err(io::Error::from)?;
    made.map_err(io::Error::from)?;
    let path = path.to_owned();
    glommio::executor().spawn_blocking(move || sync_folder(&path)).await
}

/// Makes the folder's entry for `path`, or its absence, survive a power cut.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
