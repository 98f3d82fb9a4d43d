//! One shard's loop: wait, hand out what is ready, let the shard end its turn, again.
#![allow(unsafe_code)]

use super::files::Files;
use super::ring::{Completion, ReceiveBuffers, Ring};
use super::sockets::{self, Kind, Mode, Sockets, Verdict, parse_user_data, user_data};
use super::start::Options;
use super::wake::Wakers;
use crate::rt::buffer::Buffer;
use crate::rt::{ConnId, Event, FileNo, Io, Shard, Wait, Work, random_u64};
use crate::time::{Moment, Now, Wall};
use io_uring::{cqueue, opcode, types};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// A shard without a deadline still looks round this often: no wake-up is ever lost for good.
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// A listener that could not accept (no descriptors left) tries again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Everything of a shard but the shard.
pub(super) struct Driver {
    backend: Backend,
    buffers: Option<ReceiveBuffers>,
    origin: Instant,
    completions: Vec<Completion>,
    ready: Vec<(u64, u32)>,
    scratch: Vec<u8>,
    paused_listeners: Vec<usize>,
    accept_again: Moment,
}

/// The effects.
struct Backend {
    ring: Ring,
    sockets: Sockets,
    files: Files,
    wakers: Wakers,
    me: usize,
    bell_armed: bool,
    bell_count: Box<u64>,
    epoll_armed: bool,
}

impl Driver {
    pub(super) fn new(
        me: usize,
        wakers: Wakers,
        listeners: Vec<TcpListener>,
        origin: Instant,
        options: Options,
    ) -> io::Result<Self> {
        let (mut ring, buffers, mode) = Self::sockets_by(options.epoll)?;
        let mut sockets = Sockets::new(mode, listeners);
        sockets.listen(&mut ring)?;
        Ok(Driver {
            backend: Backend {
                ring,
                sockets,
                files: Files::new(wakers.clone(), me),
                wakers,
                me,
                bell_armed: false,
                bell_count: Box::new(0),
                epoll_armed: false,
            },
            buffers,
            origin,
            completions: Vec::with_capacity(1024),
            ready: Vec::new(),
            scratch: Vec::new(),
            paused_listeners: Vec::new(),
            accept_again: Moment::NEVER,
        })
    }

    /// The ring with provided buffers, or, where the kernel lacks it, a plain ring beside an epoll set.
    fn sockets_by(epoll: bool) -> io::Result<(Ring, Option<ReceiveBuffers>, Mode)> {
        if !epoll && let Ok(ring) = Ring::new(true) {
            let buffers = ReceiveBuffers::new();
            match ring.register(&buffers) {
                Ok(()) => return Ok((ring, Some(buffers), Mode::Ring)),
                Err(error) => tracing::warn!(%error, "no provided buffer rings (kernel before 6.1?): sockets by epoll"),
            }
        }
        Ok((Ring::new(false)?, None, Mode::Epoll(sockets::epoll_set()?)))
    }

    fn now(&self) -> Now {
        let mono = Moment(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { mono, wall: Wall(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)) }
    }

    /// Runs the shard until it stops.
    pub(super) fn run(mut self, mut shard: Box<dyn Shard>) -> io::Result<()> {
        let served = self.serve(&mut *shard);
        let ended = served.and(self.finish_files());
        // The kernel takes its requests back some time after the ring is closed, and may touch these until then.
        std::mem::forget(self);
        ended
    }

    fn serve(&mut self, shard: &mut dyn Shard) -> io::Result<()> {
        loop {
            let now = self.now();
            let wait = shard.turn(now, &mut self.backend);
            let timeout = match wait {
                Wait::Stop => return Ok(()),
                Wait::Poll => Duration::ZERO,
                Wait::Until(moment) => moment.min(self.accept_again).since(now.mono).min(LONGEST_WAIT),
            };
            self.wait(shard, timeout)?;
            let now = self.now();
            self.dispatch(shard, now);
        }
    }

    /// What the kernel still reads from or writes to our buffers ends before they go.
    fn finish_files(&mut self) -> io::Result<()> {
        while self.backend.files.busy() {
            self.backend.ring.enter(LONGEST_WAIT)?;
            self.backend.ring.take(&mut self.completions);
            for done in self.completions.drain(..) {
                if let (Some(kind @ (Kind::WriteFile | Kind::SyncFile | Kind::ReadFile)), _, number) =
                    parse_user_data(done.user_data)
                {
                    drop(self.backend.files.complete(kind, number, done.result));
                }
            }
        }
        Ok(())
    }

    /// The one place where a shard sleeps.
    fn wait(&mut self, shard: &dyn Shard, timeout: Duration) -> io::Result<()> {
        let backend = &mut self.backend;
        backend.arm_bell();
        backend.arm_epoll();
        if timeout.is_zero() || !backend.sockets.failures.is_empty() {
            return backend.ring.enter(Duration::ZERO);
        }
        backend.wakers.falling_asleep(backend.me);
        let timeout = if shard.has_mail() { Duration::ZERO } else { timeout };
        let entered = backend.ring.enter(timeout);
        backend.wakers.awake(backend.me);
        entered
    }

    fn dispatch(&mut self, shard: &mut dyn Shard, now: Now) {
        self.backend.ring.take(&mut self.completions);
        let mut completions = std::mem::take(&mut self.completions);
        for done in completions.drain(..) {
            self.one(shard, now, done);
        }
        self.completions = completions;
        if let Some(buffers) = &self.buffers {
            buffers.publish();
        }
        while let Some((conn, error)) = self.backend.sockets.failures.pop_front() {
            if self.backend.sockets.is_live(conn) {
                shard.handle(Event::Failed { conn, error }, now, &mut self.backend);
            }
        }
        while let Some(event) = self.backend.files.poll_ended() {
            shard.handle(event, now, &mut self.backend);
        }
        if now.mono >= self.accept_again {
            self.accept_again = Moment::NEVER;
            for index in std::mem::take(&mut self.paused_listeners) {
                self.backend.sockets.arm_accept(&mut self.backend.ring, index);
            }
        }
    }

    fn one(&mut self, shard: &mut dyn Shard, now: Now, done: Completion) {
        let (kind, _, number) = parse_user_data(done.user_data);
        let more = cqueue::more(done.flags);
        let Some(kind) = kind else { return };
        match kind {
            Kind::Accept => self.accepted(shard, now, number as usize, done.result, more),
            Kind::Receive | Kind::WritePoll | Kind::Connect => {
                let Backend { ring, sockets, .. } = &mut self.backend;
                let buffer = cqueue::buffer_select(done.flags);
                match sockets.complete(ring, kind, number, done.result, more) {
                    Verdict::Quiet => {}
                    Verdict::Connected(conn) => shard.handle(Event::Connected { conn }, now, &mut self.backend),
                    Verdict::Writable(conn) => shard.handle(Event::Writable { conn }, now, &mut self.backend),
                    Verdict::Ended(conn) => shard.handle(Event::Ended { conn }, now, &mut self.backend),
                    Verdict::Failed(conn, error) => {
                        shard.handle(Event::Failed { conn, error }, now, &mut self.backend);
                    }
                    Verdict::Bytes(conn) => {
                        let buffers = self.buffers.as_ref().expect("only ring mode receives by completion");
                        let id = buffer.expect("a receive that took bytes names its buffer");
                        let bytes = buffers.bytes(id, done.result as usize);
                        shard.handle(Event::Received { conn, bytes }, now, &mut self.backend);
                        self.backend.sockets.after_receive(&mut self.backend.ring, conn);
                    }
                }
                if let (Some(id), Some(buffers)) = (buffer, &mut self.buffers) {
                    buffers.put(id);
                }
            }
            Kind::WriteFile | Kind::SyncFile | Kind::ReadFile => {
                if let Some(event) = self.backend.files.complete(kind, number, done.result) {
                    shard.handle(event, now, &mut self.backend);
                }
            }
            Kind::Bell => self.backend.bell_armed = false,
            Kind::Cancel => {}
            Kind::Epoll => {
                self.backend.epoll_armed = false;
                self.epoll(shard, now);
            }
        }
    }

    fn accepted(&mut self, shard: &mut dyn Shard, now: Now, listener: usize, result: i32, more: bool) {
        let Backend { ring, sockets, .. } = &mut self.backend;
        if result >= 0 {
            if !more {
                sockets.arm_accept(ring, listener);
            }
            if let Some((conn, peer)) = sockets.adopt(ring, result) {
                shard.handle(Event::Accepted { conn, listener, peer }, now, &mut self.backend);
            }
        } else if !more && !sockets.listeners.is_empty() {
            // Out of descriptors or memory: waiting connections stay in the backlog for a while.
            tracing::warn!(error = %io::Error::from_raw_os_error(-result), "accept");
            self.paused_listeners.push(listener);
            self.accept_again = now.mono + ACCEPT_PAUSE;
        }
    }

    /// The epoll fall-back: takes in what is ready by hand.
    fn epoll(&mut self, shard: &mut dyn Shard, now: Now) {
        let Mode::Epoll(epoll) = &self.backend.sockets.mode else { return };
        self.ready.clear();
        sockets::epoll_ready(epoll, &mut self.ready);
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(16 * ReceiveBuffers::BYTES, 0);
        for (key, _) in std::mem::take(&mut self.ready) {
            if key & sockets::LISTENER != 0 {
                let index = (key & !sockets::LISTENER) as usize;
                while index < self.backend.sockets.listeners.len() {
                    match self.backend.sockets.accept_by_hand(index) {
                        Ok(fd) => self.accepted(shard, now, index, fd, true),
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                        Err(e) => {
                            self.backend.sockets.pause_accept(index);
                            self.accepted(shard, now, index, -e.raw_os_error().unwrap_or(libc::EIO), false);
                            break;
                        }
                    }
                }
                continue;
            }
            let conn = ConnId { slot: key as u32, generation: (key >> 32) as u32 };
            match self.backend.sockets.receive_by_hand(conn, &mut scratch) {
                Ok(0) => {
                    self.backend.sockets.after_end(&mut self.backend.ring, conn);
                    shard.handle(Event::Ended { conn }, now, &mut self.backend);
                }
                Ok(n) => shard.handle(Event::Received { conn, bytes: &scratch[..n] }, now, &mut self.backend),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => {
                    self.backend.sockets.after_end(&mut self.backend.ring, conn);
                    shard.handle(Event::Failed { conn, error }, now, &mut self.backend);
                }
            }
        }
        self.scratch = scratch;
    }
}

impl Backend {
    /// Listens for other cores: a read of this shard's eventfd.
    fn arm_bell(&mut self) {
        if std::mem::replace(&mut self.bell_armed, true) {
            return;
        }
        let fd = types::Fd(self.wakers.descriptor(self.me));
        let entry =
            opcode::Read::new(fd, (&raw mut *self.bell_count).cast(), 8).build().user_data(user_data(Kind::Bell, 0, 0));
        // SAFETY: the count is boxed and lives as long as the ring; nobody else touches it.
        unsafe { self.ring.push(entry) };
    }

    fn arm_epoll(&mut self) {
        let Mode::Epoll(epoll) = &self.sockets.mode else { return };
        if std::mem::replace(&mut self.epoll_armed, true) {
            return;
        }
        let entry = opcode::PollAdd::new(types::Fd(epoll.as_raw_fd()), libc::POLLIN as u32)
            .build()
            .user_data(user_data(Kind::Epoll, 0, 0));
        // SAFETY: a poll points at nothing.
        unsafe { self.ring.push(entry) };
    }
}

impl Io for Backend {
    fn connect(&mut self, to: SocketAddr, from: Option<IpAddr>) -> io::Result<ConnId> {
        self.sockets.connect(&mut self.ring, to, from)
    }
    fn connect_unix(&mut self, path: &Path) -> io::Result<ConnId> {
        self.sockets.connect_unix(&mut self.ring, path)
    }
    fn datagram(&mut self, to: SocketAddr) -> io::Result<ConnId> {
        self.sockets.datagram(&mut self.ring, to)
    }
    fn write(&mut self, conn: ConnId, parts: &[IoSlice<'_>]) -> usize {
        self.sockets.write(&mut self.ring, conn, parts)
    }
    fn pause(&mut self, conn: ConnId) {
        self.sockets.pause(&mut self.ring, conn);
    }
    fn resume(&mut self, conn: ConnId) {
        self.sockets.resume(&mut self.ring, conn);
    }
    fn shutdown(&mut self, conn: ConnId) {
        self.sockets.shutdown(conn);
    }
    fn close(&mut self, conn: ConnId) {
        self.sockets.close(&mut self.ring, conn);
    }
    fn stop_listening(&mut self) {
        self.sockets.stop_listening();
    }
    fn create_file(&mut self, file: FileNo, path: &Path, bytes: u64) {
        self.files.create(file, path, bytes);
    }
    fn open_file(&mut self, file: FileNo, path: &Path) -> io::Result<()> {
        self.files.open(file, path)
    }
    fn write_durable(&mut self, token: u64, file: FileNo, offset: u64, buffer: Arc<Buffer>, start: usize) {
        self.files.write_durable(&mut self.ring, token, file, offset, buffer, start);
    }
    fn read_file(&mut self, token: u64, file: FileNo, offset: u64, buffer: Buffer) {
        self.files.read(&mut self.ring, token, file, offset, buffer);
    }
    fn remove_file(&mut self, file: FileNo, path: &Path) {
        self.files.remove(file, path);
    }
    fn work(&mut self, token: u64, work: Work) {
        self.files.job(token, work);
    }
    fn wake(&mut self, shard: usize) {
        self.wakers.wake(shard);
    }
    fn random(&mut self) -> u64 {
        random_u64()
    }
}
