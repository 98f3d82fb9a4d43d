//! The table of a shard's sockets and the system calls on them, by ring or by epoll.
//!
//! The sockets stay in blocking mode: on a non-blocking one io_uring answers EAGAIN instead of waiting. What is done by
//! system call asks for MSG_DONTWAIT each time.
#![allow(unsafe_code)]

use super::ring::{ReceiveBuffers, Ring};
use crate::rt::ConnId;
use io_uring::{opcode, squeue, types};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;

/// What a ring entry was for, in the top byte of its user data; below it 24 bits of generation and 32 of number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    Accept = 1,
    Receive,
    WritePoll,
    Connect,
    Cancel,
    WriteFile,
    SyncFile,
    ReadFile,
    Bell,
    Epoll,
}

pub(super) fn user_data(kind: Kind, generation: u32, number: u32) -> u64 {
    (kind as u64) << 56 | u64::from(generation & 0xff_ffff) << 32 | u64::from(number)
}

pub(super) fn parse_user_data(data: u64) -> (Option<Kind>, u32, u32) {
    let kind = match (data >> 56) as u8 {
        1 => Some(Kind::Accept),
        2 => Some(Kind::Receive),
        3 => Some(Kind::WritePoll),
        4 => Some(Kind::Connect),
        5 => Some(Kind::Cancel),
        6 => Some(Kind::WriteFile),
        7 => Some(Kind::SyncFile),
        8 => Some(Kind::ReadFile),
        9 => Some(Kind::Bell),
        10 => Some(Kind::Epoll),
        _ => None,
    };
    (kind, (data >> 32) as u32 & 0xff_ffff, data as u32)
}

/// One socket.
pub(super) struct Slot {
    fd: Option<OwnedFd>,
    generation: u32,
    /// Ring entries that still refer to the descriptor; it is closed, and the slot reused, at zero.
    in_kernel: u8,
    receiving: bool,
    connecting: bool,
    paused: bool,
    closing: bool,
    awaiting_room: bool,
    /// Shutting it down completes no receive: closing cancels it.
    datagram: bool,
    /// Where a connect under way goes; the kernel reads it until the entry is submitted.
    target: Option<Box<SockAddr>>,
}

/// What the driver does with a completion of a socket.
pub(super) enum Verdict {
    /// Nothing to tell the shard.
    Quiet,
    Connected(ConnId),
    Writable(ConnId),
    Ended(ConnId),
    Failed(ConnId, io::Error),
    /// The shard gets the bytes; afterwards `after_receive`.
    Bytes(ConnId),
}

/// How readiness reaches us.
pub(super) enum Mode {
    /// Multishot receive into provided buffers.
    Ring,
    /// An epoll set that the ring polls.
    Epoll(OwnedFd),
}

/// The socket is of this address; the port is chosen when it connects, by where it connects to. Else each address could have no
/// more connections at a time than it has ephemeral ports, over all receivers.
fn bind_address(socket: &Socket, address: IpAddr) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: an open socket, and a readable integer of the length that is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done < 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "a source address uses up ports");
    }
    socket.bind(&SocketAddr::new(address, 0).into())
}

pub(super) struct Sockets {
    pub(super) slots: Vec<Slot>,
    free: Vec<u32>,
    pub(super) listeners: Vec<TcpListener>,
    pub(super) mode: Mode,
    /// Failures found by a system call, told to the shard at the next turn: never from within its own effect.
    pub(super) failures: VecDeque<(ConnId, io::Error)>,
    /// Sockets that hold a descriptor.
    pub(super) live: usize,
}

impl Sockets {
    pub(super) fn new(mode: Mode, listeners: Vec<TcpListener>) -> Self {
        Sockets { slots: Vec::new(), free: Vec::new(), listeners, mode, failures: VecDeque::new(), live: 0 }
    }

    fn insert(&mut self, fd: OwnedFd, connecting: bool) -> ConnId {
        self.live += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                fd: None,
                generation: 0,
                in_kernel: 0,
                receiving: false,
                connecting: false,
                paused: false,
                closing: false,
                awaiting_room: false,
                datagram: false,
                target: None,
            });
            u32::try_from(self.slots.len() - 1).expect("descriptors are fewer")
        });
        let entry = &mut self.slots[slot as usize];
        entry.fd = Some(fd);
        entry.generation = entry.generation.wrapping_add(1) & 0xff_ffff;
        entry.connecting = connecting;
        (entry.receiving, entry.paused, entry.closing, entry.awaiting_room) = (false, false, false, false);
        entry.datagram = false;
        ConnId { slot, generation: entry.generation }
    }

    /// The live, not closing slot of `conn`.
    fn get(&mut self, conn: ConnId) -> Option<&mut Slot> {
        self.slots
            .get_mut(conn.slot as usize)
            .filter(|s| s.generation == conn.generation && s.fd.is_some() && !s.closing)
    }

    fn descriptor(&mut self, conn: ConnId) -> Option<RawFd> {
        self.get(conn).and_then(|s| s.fd.as_ref()).map(AsRawFd::as_raw_fd)
    }

    /// Begins to accept on every listener.
    pub(super) fn listen(&mut self, ring: &mut Ring) -> io::Result<()> {
        for index in 0..self.listeners.len() {
            if let Mode::Epoll(_) = &self.mode {
                self.listeners[index].set_nonblocking(true)?;
            }
            self.arm_accept(ring, index);
        }
        Ok(())
    }

    /// Stops asking about a listener for a while: there are no descriptors to accept with.
    pub(super) fn pause_accept(&self, index: usize) {
        if let (Mode::Epoll(epoll), Some(listener)) = (&self.mode, self.listeners.get(index)) {
            epoll_remove(epoll, listener.as_raw_fd());
        }
    }

    pub(super) fn arm_accept(&mut self, ring: &mut Ring, index: usize) {
        let Some(listener) = self.listeners.get(index) else { return };
        if let Mode::Epoll(epoll) = &self.mode {
            if let Err(error) = epoll_add(epoll, listener.as_raw_fd(), LISTENER | index as u64, libc::EPOLLIN as u32) {
                tracing::error!(%error, "a listener is lost to epoll");
            }
            return;
        }
        let entry = opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd()))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(user_data(Kind::Accept, 0, index as u32));
        // SAFETY: a multishot accept without address points at nothing.
        unsafe { ring.push(entry) };
    }

    /// Takes over an accepted descriptor. `None` if the peer is gone already.
    pub(super) fn adopt(&mut self, ring: &mut Ring, fd: RawFd) -> Option<(ConnId, SocketAddr)> {
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        let socket = unsafe { Socket::from_raw_fd(fd) };
        let peer = socket.peer_addr().ok()?.as_socket()?;
        let conn = self.insert(socket.into(), false);
        self.arm_receive(ring, conn);
        Some((conn, peer))
    }

    pub(super) fn connect(&mut self, ring: &mut Ring, to: SocketAddr, from: Option<IpAddr>) -> io::Result<ConnId> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if let Some(from) = from {
            bind_address(&socket, from)?;
        }
        Ok(self.begin_connect(ring, socket, to.into()))
    }

    pub(super) fn connect_unix(&mut self, ring: &mut Ring, path: &Path) -> io::Result<ConnId> {
        let target = SockAddr::unix(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
        Ok(self.begin_connect(ring, socket, target))
    }

    fn begin_connect(&mut self, ring: &mut Ring, socket: Socket, to: SockAddr) -> ConnId {
        let fd = socket.as_raw_fd();
        let conn = self.insert(socket.into(), true);
        let slot = &mut self.slots[conn.slot as usize];
        let target = slot.target.insert(Box::new(to));
        slot.in_kernel += 1;
        let entry = opcode::Connect::new(types::Fd(fd), target.as_ptr().cast(), target.len())
            .build()
            .user_data(user_data(Kind::Connect, conn.generation, conn.slot));
        // SAFETY: the address is boxed in the slot, which is not reused before this entry's completion.
        unsafe { ring.push(entry) };
        conn
    }

    pub(super) fn datagram(&mut self, ring: &mut Ring, to: SocketAddr) -> io::Result<ConnId> {
        // The kernel picks an ephemeral port at random for a connected socket that was not bound.
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
        socket.connect(&to.into())?;
        let conn = self.insert(socket.into(), false);
        self.slots[conn.slot as usize].datagram = true;
        self.arm_receive(ring, conn);
        Ok(conn)
    }

    fn arm_receive(&mut self, ring: &mut Ring, conn: ConnId) {
        let slot = &mut self.slots[conn.slot as usize];
        let Some(fd) = slot.fd.as_ref().map(AsRawFd::as_raw_fd) else { return };
        if slot.receiving || slot.closing || slot.paused {
            return;
        }
        slot.receiving = true;
        match &self.mode {
            Mode::Ring => {
                slot.in_kernel += 1;
                let entry = opcode::RecvMulti::new(types::Fd(fd), ReceiveBuffers::GROUP).build().user_data(user_data(
                    Kind::Receive,
                    conn.generation,
                    conn.slot,
                ));
                // SAFETY: it receives into the registered buffers only.
                unsafe { ring.push(entry) };
            }
            Mode::Epoll(epoll) => {
                let interest = (libc::EPOLLIN | libc::EPOLLRDHUP) as u32;
                if let Err(error) = epoll_add(epoll, fd, key(conn), interest) {
                    self.failures.push_back((conn, error));
                }
            }
        }
    }

    pub(super) fn write(&mut self, ring: &mut Ring, conn: ConnId, parts: &[IoSlice<'_>]) -> usize {
        let all = parts.iter().map(|p| p.len()).sum();
        let Some(fd) = self.descriptor(conn) else { return all };
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        let sent = loop {
            let n = match parts {
                // Most replies and groups of commands. The kernel copies no header and no list of pieces for it.
                // SAFETY: the part lives through the call, which only reads it.
                [part] => unsafe { libc::send(fd, part.as_ptr().cast(), part.len(), flags) },
                _ => {
                    // SAFETY: msghdr is plain data; all-zero is its empty value.
                    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
                    message.msg_iov = parts.as_ptr().cast_mut().cast();
                    message.msg_iovlen = parts.len() as _;
                    // SAFETY: IoSlice is layout-compatible with iovec; the parts live through the call, which only reads them.
                    unsafe { libc::sendmsg(fd, &raw const message, flags) }
                }
            };
            if n >= 0 {
                break n as usize;
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => break 0,
                _ => {
                    self.failures.push_back((conn, error));
                    return all;
                }
            }
        };
        if sent < all {
            self.await_room(ring, conn, fd);
        }
        sent
    }

    fn await_room(&mut self, ring: &mut Ring, conn: ConnId, fd: RawFd) {
        let slot = &mut self.slots[conn.slot as usize];
        if std::mem::replace(&mut slot.awaiting_room, true) {
            return;
        }
        slot.in_kernel += 1;
        let entry = opcode::PollAdd::new(types::Fd(fd), libc::POLLOUT as u32).build().user_data(user_data(
            Kind::WritePoll,
            conn.generation,
            conn.slot,
        ));
        // SAFETY: a poll points at nothing.
        unsafe { ring.push(entry) };
    }

    pub(super) fn pause(&mut self, ring: &mut Ring, conn: ConnId) {
        let Some(slot) = self.get(conn) else { return };
        if std::mem::replace(&mut slot.paused, true) || !slot.receiving {
            return;
        }
        self.stop_receiving(ring, conn);
    }

    pub(super) fn resume(&mut self, ring: &mut Ring, conn: ConnId) {
        let Some(slot) = self.get(conn) else { return };
        if std::mem::replace(&mut slot.paused, false) {
            // If the cancelled receive has not completed yet, its completion re-arms.
            self.arm_receive(ring, conn);
        }
    }

    fn stop_receiving(&mut self, ring: &mut Ring, conn: ConnId) {
        let slot = &mut self.slots[conn.slot as usize];
        match &self.mode {
            Mode::Ring => {
                let target = user_data(Kind::Receive, conn.generation, conn.slot);
                let entry = opcode::AsyncCancel::new(target).build().user_data(user_data(Kind::Cancel, 0, 0));
                // SAFETY: a cancel points at nothing.
                unsafe { ring.push(entry.flags(squeue::Flags::SKIP_SUCCESS)) };
            }
            Mode::Epoll(epoll) => {
                slot.receiving = false;
                if let Some(fd) = &slot.fd {
                    epoll_remove(epoll, fd.as_raw_fd());
                }
            }
        }
    }

    pub(super) fn shutdown(&mut self, conn: ConnId) {
        if let Some(fd) = self.descriptor(conn) {
            // SAFETY: plain system call on a descriptor that the slot owns. ENOTCONN needs no answer.
            unsafe { libc::shutdown(fd, libc::SHUT_WR) };
        }
    }

    pub(super) fn close(&mut self, ring: &mut Ring, conn: ConnId) {
        let Some(slot) = self.get(conn) else { return };
        slot.closing = true;
        if slot.connecting {
            let target = user_data(Kind::Connect, conn.generation, conn.slot);
            let entry = opcode::AsyncCancel::new(target).build().user_data(user_data(Kind::Cancel, 0, 0));
            // SAFETY: a cancel points at nothing.
            unsafe { ring.push(entry.flags(squeue::Flags::SKIP_SUCCESS)) };
        } else if slot.in_kernel > 0 {
            // The ring's requests hold the socket open: ending both directions completes them, sends FIN, and costs less
            // than a cancel.
            let fd = slot.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            // SAFETY: plain system call on a descriptor that the slot owns.
            let done = unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
            // A datagram socket, or a connection that is gone already, does not complete by that.
            if (done != 0 || slot.datagram) && slot.receiving && matches!(self.mode, Mode::Ring) {
                self.stop_receiving(ring, conn);
            }
        }
        self.release(conn.slot);
    }

    /// Closes the descriptor of a closing slot once the kernel has given back every entry on it.
    fn release(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        if slot.closing && slot.in_kernel == 0 && slot.fd.take().is_some() {
            slot.closing = false;
            slot.target = None;
            self.live -= 1;
            self.free.push(number);
        }
    }

    /// Takes in a completion of a socket. `more`: the multishot goes on.
    pub(super) fn complete(&mut self, ring: &mut Ring, kind: Kind, number: u32, result: i32, more: bool) -> Verdict {
        let slot = &mut self.slots[number as usize];
        let conn = ConnId { slot: number, generation: slot.generation };
        if !more {
            slot.in_kernel -= 1;
        }
        if slot.closing {
            if kind == Kind::Receive && !more {
                slot.receiving = false;
            }
            self.release(number);
            return Verdict::Quiet;
        }
        let error = || io::Error::from_raw_os_error(-result);
        match kind {
            Kind::Connect => {
                (slot.connecting, slot.target) = (false, None);
                if result < 0 {
                    return Verdict::Failed(conn, error());
                }
                self.arm_receive(ring, conn);
                Verdict::Connected(conn)
            }
            Kind::WritePoll => {
                slot.awaiting_room = false;
                Verdict::Writable(conn)
            }
            _ => {
                if !more {
                    slot.receiving = false;
                }
                match result {
                    0 => Verdict::Ended(conn),
                    1.. => Verdict::Bytes(conn),
                    // No buffer was free, or the multishot gave way to others: receive again.
                    e if e == -libc::ENOBUFS || e == -libc::EAGAIN || e == -libc::EINTR => {
                        self.arm_receive(ring, conn);
                        Verdict::Quiet
                    }
                    e if e == -libc::ECANCELED => {
                        // Cancelled by a pause that may be over by now.
                        self.arm_receive(ring, conn);
                        Verdict::Quiet
                    }
                    _ => Verdict::Failed(conn, error()),
                }
            }
        }
    }

    /// After the shard took bytes: receives on, if the multishot ended and the shard did not pause or close.
    pub(super) fn after_receive(&mut self, ring: &mut Ring, conn: ConnId) {
        if self.get(conn).is_some_and(|s| !s.receiving && !s.paused) {
            self.arm_receive(ring, conn);
        }
    }

    /// Whether events for `conn` may still be told: it was not closed earlier in this turn.
    pub(super) fn is_live(&mut self, conn: ConnId) -> bool {
        self.get(conn).is_some()
    }

    /// Stops accepting for good. Connections the kernel has made but nobody accepted are reset.
    pub(super) fn stop_listening(&mut self) {
        for listener in &self.listeners {
            if let Mode::Epoll(epoll) = &self.mode {
                epoll_remove(epoll, listener.as_raw_fd());
            }
            // SAFETY: plain system call. It completes the multishot accept, which holds the socket open otherwise.
            unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
        }
        self.listeners.clear();
    }

    /// After `Ended`: an epoll set would report the end again and again until `close`.
    pub(super) fn after_end(&mut self, ring: &mut Ring, conn: ConnId) {
        if matches!(self.mode, Mode::Epoll(_)) && self.get(conn).is_some_and(|s| s.receiving) {
            self.stop_receiving(ring, conn);
        }
    }

    pub(super) fn receive_by_hand(&mut self, conn: ConnId, into: &mut [u8]) -> io::Result<usize> {
        let Some(fd) = self.descriptor(conn) else { return Err(io::ErrorKind::WouldBlock.into()) };
        // SAFETY: `into` is writable for its length.
        let n = unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
    }

    pub(super) fn accept_by_hand(&mut self, index: usize) -> io::Result<RawFd> {
        let (socket, _) = self.listeners[index].accept()?;
        Ok(socket.into_raw_fd())
    }
}

// --- epoll ----------------------------------------------------------------------------------------------------------

/// Marks a listener's key in the epoll set; the rest is its number.
pub(super) const LISTENER: u64 = 1 << 63;

fn key(conn: ConnId) -> u64 {
    u64::from(conn.generation) << 32 | u64::from(conn.slot)
}

pub(super) fn epoll_set() -> io::Result<OwnedFd> {
    // SAFETY: plain system call.
    let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn epoll_add(epoll: &OwnedFd, fd: RawFd, key: u64, events: u32) -> io::Result<()> {
    let mut event = libc::epoll_event { events, u64: key };
    // SAFETY: the event is read during the call only.
    let done = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn epoll_remove(epoll: &OwnedFd, fd: RawFd) {
    // SAFETY: no event is read for EPOLL_CTL_DEL.
    unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
}

/// What is ready now: (key, event bits).
pub(super) fn epoll_ready(epoll: &OwnedFd, into: &mut Vec<(u64, u32)>) {
    // SAFETY: epoll_event is plain data.
    let mut events: [libc::epoll_event; 256] = unsafe { std::mem::zeroed() };
    // SAFETY: room for 256 events; it does not wait.
    let n = unsafe { libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, 0) };
    into.extend(events[..n.max(0) as usize].iter().map(|e| (e.u64, e.events)));
}
