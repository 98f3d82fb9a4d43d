//! Everything of a simulated world but its shards and hosts: the clock, the agenda of what happens when, the cores that
//! shards run on, and what becomes of all that when a process ends.
//!
//! Inputs: plans, settings, the end of a process. Outputs: events for shards. Refuses to know who the shards and hosts are.

use super::disk::{End, SimDisk};
use super::marks::Marks;
use super::net::{LinkId, Net, Path, Reading, Sock, Table};
use super::rng::Rng;
use super::shard_io::Side;
use super::trace::Trace;
use crate::rt::buffer::Buffer;
use crate::rt::{ConnId, Event, FileNo, Shard, Wait};
use crate::time::{Moment, Now, Wall};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What a receive buffer of the real backend holds, octets.
const PIECE: usize = 8192;

/// A shard's event, while it waits for the shard.
pub(super) enum ToShard {
    Accepted {
        conn: ConnId,
        listener: usize,
        peer: SocketAddr,
    },
    Connected(ConnId),
    /// There is something in `received`, or the end of it.
    Readable(ConnId),
    Writable(ConnId),
    Failed(ConnId, i32),
    File(FileOp),
}

pub(super) enum FileOp {
    Create {
        file: FileNo,
        path: PathBuf,
        bytes: u64,
    },
    Write {
        token: u64,
        path: PathBuf,
        offset: u64,
        buffer: Arc<Buffer>,
        start: usize,
    },
    Read {
        token: u64,
        path: PathBuf,
        offset: u64,
        buffer: Buffer,
    },
    Remove {
        file: FileNo,
        path: PathBuf,
    },
    /// Done: the event that tells so.
    Done(Event<'static>),
}

/// What happens at some moment.
pub(super) enum What {
    /// A connection attempt or a first datagram reaches its host.
    Knock(LinkId),
    /// The host's attempt reaches the relay.
    Call(LinkId, usize, SocketAddr),
    ConnectedToRelay(LinkId),
    Connected(LinkId),
    /// A proxy's attempt for the relay reaches its host.
    Dial(LinkId, SocketAddr, IpAddr, Vec<u8>),
    ToRelay(LinkId, Vec<u8>),
    RelayEnd(LinkId),
    RelayFailed(LinkId, i32),
    ToHost(LinkId, Vec<u8>),
    HostEnd(LinkId),
    HostFailed(LinkId),
    HostReads(LinkId),
    Room(LinkId, usize),
    Timer(IpAddr, u64),
    File(usize, FileOp),
    /// The shard looks again: a socket was resumed.
    Look(usize, ConnId),
}

pub(super) struct Entry {
    pub(super) at: Moment,
    /// In the order of planning, at the same moment.
    pub(super) number: u64,
    pub(super) what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// One core.
pub(super) struct Cpu {
    pub(super) inbox: VecDeque<ToShard>,
    pub(super) wait: Wait,
    pub(super) woken: bool,
    /// Busy until then.
    pub(super) free_at: Moment,
    pub(super) listening: bool,
    /// Turns without an event and without rest.
    pub(super) restless: u32,
    pub(super) files: BTreeMap<FileNo, PathBuf>,
}

/// How the disk of the machine behaves in time.
#[derive(Clone, Copy, Debug)]
pub struct DiskPace {
    /// One operation, microseconds: from, and so much more at most.
    pub latency_us: (u64, u64),
    /// Nothing ends before this moment.
    pub stalled_until: Moment,
}

/// Counters of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Turns of shards.
    pub turns: u64,
    /// Events handed to shards.
    pub events: u64,
    /// Effects shards had.
    pub effects: u64,
}

/// Bounds of connections, counted as the relay opens and closes.
#[derive(Default)]
pub(super) struct Caps {
    pub(super) of: BTreeMap<IpAddr, usize>,
    /// Open, and the most allowed.
    pub(super) groups: Vec<(usize, usize)>,
    pub(super) over: Vec<(Moment, IpAddr, usize, usize)>,
    /// Those of one source address to one group that are open; the most allowed, and what was more than that.
    pub(super) of_sources: BTreeMap<(usize, IpAddr), usize>,
    pub(super) most_of_a_source: Option<usize>,
    pub(super) over_of_sources: Vec<(Moment, IpAddr, IpAddr, usize)>,
    /// When connections were begun, and what begins a message was written, and to whom of which group.
    pub(super) begun: Vec<Begun>,
}

/// Something that a receiver counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Begun {
    /// When.
    pub at: Moment,
    /// Of the calls of [`Core::cap`], the one whose hosts it was to.
    pub group: usize,
    /// A message; else a connection.
    pub message: bool,
    /// On which connection, of a message.
    pub link: Option<LinkId>,
    /// A message behind other octets of one write.
    pub behind: bool,
    /// Connections that the group has then, of a connection.
    pub open: usize,
    /// The local address of its connection, if one was asked for.
    pub from: Option<IpAddr>,
    /// Of a message from `<s0@…>` and so on, the character behind the s.
    pub sender: Option<u8>,
}

/// Everything but the shards and the hosts.
pub struct Core {
    pub(super) now: Now,
    pub(super) wall_origin: u64,
    /// What the wall clock was set to, against the time that passed: milliseconds.
    pub(super) wall_offset: i64,
    pub(super) rng: Rng,
    pub(super) agenda: BinaryHeap<Reverse<Entry>>,
    pub(super) planned: u64,
    pub(super) net: Net,
    /// The disk.
    pub disk: SimDisk,
    /// Its pace.
    pub pace: DiskPace,
    /// What happened.
    pub trace: Trace,
    /// How much happened.
    pub counts: Counts,
    /// What the world did.
    pub marks: Marks,
    pub(super) cpus: Vec<Cpu>,
    /// What is of use to those who judge single connections and messages is kept: it grows with each.
    pub remembers: bool,
    /// Octets of each connection that the relay has taken in.
    pub(super) handed: BTreeMap<LinkId, Vec<(u64, Moment)>>,
    pub(super) disk_faults: Vec<Moment>,
    pub(super) caps: Caps,
    pub(super) kill_at: Option<u64>,
    /// Durable writes until the process ends with one under way.
    pub(super) kill_in_write: Option<u64>,
    pub(super) dead: bool,
    pub(super) spins: Option<usize>,
    /// Whose port stands behind the path of a UNIX socket.
    pub unix: BTreeMap<PathBuf, SocketAddr>,
    /// The window of new connections, octets: from, and so much more at most.
    pub window: (usize, usize),
    /// A turn keeps its shard busy for so long, microseconds: from, and so much more at most.
    pub turn_us: (u64, u64),
}

impl Core {
    pub(super) fn new(seed: u64, wall: u64) -> Self {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::new(rng.next());
        Core {
            now: Now { mono: Moment(1_000_000_000), wall: Wall(wall) },
            wall_origin: wall - 1000,
            wall_offset: 0,
            rng,
            agenda: BinaryHeap::new(),
            planned: 0,
            net: Net::default(),
            disk,
            pace: DiskPace { latency_us: (100, 400), stalled_until: Moment(0) },
            trace: Trace::new(),
            counts: Counts::default(),
            marks: Marks::default(),
            cpus: Vec::new(),
            remembers: true,
            handed: BTreeMap::new(),
            disk_faults: Vec::new(),
            caps: Caps::default(),
            kill_at: None,
            kill_in_write: None,
            dead: false,
            spins: None,
            unix: BTreeMap::new(),
            window: (4096, 60_000),
            turn_us: (1, 20),
        }
    }

    /// Sockets that `shard` has open.
    pub fn open_sockets(&self, shard: usize) -> usize {
        self.net.tables.get(shard).map_or(0, Table::open)
    }

    /// Octets that hosts sent on `link` and a shard has taken in.
    pub fn handed(&self, link: LinkId) -> u64 {
        self.handed.get(&link).and_then(|handed| handed.last()).map_or(0, |(octets, _)| *octets)
    }

    /// When it had been handed so many.
    pub fn read_at(&self, link: LinkId, octets: u64) -> Option<Moment> {
        self.handed.get(&link)?.iter().find(|(handed, _)| *handed >= octets).map(|(_, at)| *at)
    }

    /// When an operation of the disk went wrong for a shard, seen by it or not.
    pub fn disk_faults(&self) -> &[Moment] {
        &self.disk_faults
    }

    /// From now on the relay may have `most` connections at once to all of `hosts` together, standing or attempted.
    pub fn cap(&mut self, hosts: impl IntoIterator<Item = IpAddr>, most: usize) {
        let group = self.caps.groups.len();
        self.caps.groups.push((0, most));
        self.caps.of.extend(hosts.into_iter().map(|host| (host, group)));
    }

    /// Of the calls of [`Core::cap`], the one that named a host.
    pub fn group_of(&self, host: IpAddr) -> Option<usize> {
        self.caps.of.get(&host).copied()
    }

    /// Moments at which the relay had more connections than [`Core::cap`] allows: host, connections, bound.
    pub fn over_cap(&self) -> &[(Moment, IpAddr, usize, usize)] {
        &self.caps.over
    }

    /// From now on the relay may have `most` connections from one local address to all hosts of one [`Core::cap`].
    pub fn cap_sources(&mut self, most: usize) {
        self.caps.most_of_a_source = Some(most);
    }

    /// Moments at which it had more: local address, host, connections.
    pub fn over_of_sources(&self) -> &[(Moment, IpAddr, IpAddr, usize)] {
        &self.caps.over_of_sources
    }

    /// Connections and messages to hosts of [`Core::cap`], as the relay began them.
    pub fn begun(&self) -> &[Begun] {
        &self.caps.begun
    }

    /// The relay writes to `host`.
    pub(super) fn count_message(
        &mut self,
        (link, host, from): (LinkId, IpAddr, Option<IpAddr>),
        part: &[u8],
        behind: bool,
    ) {
        if !self.remembers {
            return;
        }
        let part = part.strip_prefix(b"RSET\r\n").unwrap_or(part);
        let begins = part.starts_with(b"MAIL FROM:");
        let sender = match part.strip_prefix(b"MAIL FROM:<s") {
            Some([number, b'@', ..]) => Some(*number),
            _ => None,
        };
        let (link, open) = (Some(link), 0);
        if let Some(&group) = self.caps.of.get(&host).filter(|_| begins && !self.dead) {
            self.caps.begun.push(Begun { at: self.now.mono, group, message: true, link, behind, open, from, sender });
        }
    }

    pub(super) fn count_connection(&mut self, host: IpAddr, from: Option<IpAddr>, begins: bool) {
        let Some(&group) = self.caps.of.get(&host) else { return };
        // What a turn does after its process is gone did not happen; what it closed stands a moment longer.
        let dead = self.dead;
        if let Some(from) = from {
            let open = self.caps.of_sources.entry((group, from)).or_default();
            *open = if begins { *open + 1 } else { *open - 1 };
            if begins && !dead && self.caps.most_of_a_source.is_some_and(|most| *open > most) {
                self.caps.over_of_sources.push((self.now.mono, from, host, *open));
            }
        }
        let (open, most) = &mut self.caps.groups[group];
        if !begins {
            *open -= 1;
            return;
        }
        *open += 1;
        if !dead && self.remembers {
            let open = *open;
            let (at, link) = (self.now.mono, None);
            self.caps.begun.push(Begun { at, group, message: false, link, behind: false, open, from, sender: None });
        }
        if open > most && !dead {
            let over = (self.now.mono, host, *open, *most);
            self.caps.over.push(over);
        }
    }

    /// The way to `host`, to be changed.
    pub fn path(&mut self, host: IpAddr) -> &mut Path {
        self.net.paths.entry(host).or_default()
    }

    /// All ways are as they were.
    pub fn heal_network(&mut self) {
        self.net.paths.clear();
        self.net.refuse_local = 0;
        for id in self.net.links.keys().copied().collect::<Vec<_>>() {
            if let Some(link) = self.net.links.get_mut(&id)
                && link.to.port() != 0
            {
                link.reading = Reading::All;
                self.plan(self.now.mono, What::HostReads(id));
            }
        }
        self.pace.stalled_until = Moment(0);
    }

    /// The next so many sockets of the relay cannot be had: out of descriptors or ports.
    pub fn refuse_local(&mut self, sockets: u32) {
        self.net.refuse_local = sockets;
    }

    /// Every connection between the relay and `host` is reset.
    pub fn reset_all(&mut self, host: IpAddr) {
        let all: Vec<LinkId> =
            self.net.links.iter().filter(|(_, l)| l.host == host && !l.datagram).map(|(id, _)| *id).collect();
        for id in all {
            self.send_to_relay(id, What::RelayFailed(id, libc::ECONNRESET));
            self.send_to_host(id, What::HostFailed(id));
        }
    }

    /// A shard gets nothing done until `until`: another process has its core.
    pub fn stall(&mut self, shard: usize, until: Moment) {
        if let Some(cpu) = self.cpus.get_mut(shard) {
            cpu.free_at = cpu.free_at.max(until);
        }
    }

    /// Sets the wall clock, so many milliseconds forth or back.
    pub fn set_wall(&mut self, by: i64) {
        self.wall_offset += by;
        self.advance(self.now.mono);
    }

    pub(super) fn advance(&mut self, to: Moment) {
        self.now.mono = self.now.mono.max(to);
        self.now.wall = Wall((self.wall_origin + self.now.mono.0 / 1_000_000).saturating_add_signed(self.wall_offset));
    }

    pub(super) fn plan(&mut self, at: Moment, what: What) {
        self.planned += 1;
        self.agenda.push(Reverse(Entry { at: at.max(self.now.mono), number: self.planned, what }));
    }

    /// Plans what reaches the relay's end of a link, behind all that is under way to it.
    pub(super) fn send_to_relay(&mut self, id: LinkId, what: What) {
        let Some(link) = self.net.links.get(&id) else { return };
        let (host, last) = (link.host, link.last_to_relay);
        let mut at = self.net.arrival(host, self.now.mono, &mut self.rng);
        if !link.datagram {
            at = at.max(last);
        }
        if let Some(link) = self.net.links.get_mut(&id) {
            link.last_to_relay = at;
        }
        self.plan(at, what);
    }

    /// The same for the host's end.
    pub(super) fn send_to_host(&mut self, id: LinkId, what: What) {
        let Some(link) = self.net.links.get(&id) else { return };
        let (host, last) = (link.host, link.last_to_host);
        let mut at = self.net.arrival(host, self.now.mono, &mut self.rng);
        if !link.datagram {
            at = at.max(last);
        }
        if let Some(link) = self.net.links.get_mut(&id) {
            link.last_to_host = at;
        }
        self.plan(at, what);
    }

    /// The relay's end of a link, if it is open.
    pub(super) fn relay_end(&self, id: LinkId) -> Option<(usize, ConnId)> {
        self.net.links.get(&id).filter(|link| link.relay_open).map(|link| (link.shard, link.conn))
    }

    /// The host of a link whose end there is open.
    pub(super) fn host_end(&self, id: LinkId) -> Option<IpAddr> {
        self.net.links.get(&id).filter(|link| link.host_open && !link.vanished).map(|link| link.host)
    }

    /// Lets a shard look at a socket that has something.
    pub(super) fn look(&mut self, shard: usize, conn: ConnId) {
        let Some(sock) = self.net.tables.get_mut(shard).and_then(|table| table.get(conn)) else { return };
        if !sock.over && !sock.told && (!sock.paused || self.rng.one_in(4)) {
            sock.told = true;
            self.cpus[shard].inbox.push_back(ToShard::Readable(conn));
        }
    }

    /// Hands an event to its shard.
    pub(super) fn deliver(&mut self, me: usize, event: ToShard, shard: &mut impl Shard) {
        let now = self.now;
        self.counts.events += 1;
        match event {
            ToShard::Readable(conn) => {
                let Some(sock) = self.net.tables[me].get(conn) else { return };
                sock.told = false;
                if sock.over {
                    return;
                }
                let Some(bytes) = take(sock, &mut self.rng) else {
                    if sock.ended {
                        sock.over = true;
                        self.trace.record(now.mono, &me, "ended", u64::from(conn.slot), &[]);
                        shard.handle(Event::Ended { conn }, now, &mut Side { me, core: self });
                    }
                    return;
                };
                let more = !sock.received.is_empty() || sock.ended;
                if self.remembers {
                    let handed = self.handed.entry(sock.link).or_default();
                    let before = handed.last().map_or(0, |(octets, _)| *octets);
                    handed.push((before + bytes.len() as u64, now.mono));
                }
                self.trace.record(now.mono, &me, "received", u64::from(conn.slot), &bytes);
                shard.handle(Event::Received { conn, bytes: &bytes }, now, &mut Side { me, core: self });
                if more {
                    // Not by chance: a pause that came in between holds.
                    let Some(sock) = self.net.tables.get_mut(me).and_then(|table| table.get(conn)) else { return };
                    if !sock.paused && !sock.told {
                        sock.told = true;
                        self.cpus[me].inbox.push_back(ToShard::Readable(conn));
                    }
                }
            }
            ToShard::Accepted { conn, listener, peer } => {
                self.trace.record(now.mono, &me, "accepted", u64::from(conn.slot), &[]);
                shard.handle(Event::Accepted { conn, listener, peer }, now, &mut Side { me, core: self });
            }
            ToShard::Connected(conn) => {
                if self.is_live(me, conn) {
                    self.trace.record(now.mono, &me, "connected", u64::from(conn.slot), &[]);
                    shard.handle(Event::Connected { conn }, now, &mut Side { me, core: self });
                }
            }
            ToShard::Writable(conn) => {
                if self.is_live(me, conn) {
                    self.trace.record(now.mono, &me, "writable", u64::from(conn.slot), &[]);
                    shard.handle(Event::Writable { conn }, now, &mut Side { me, core: self });
                }
            }
            ToShard::Failed(conn, errno) => {
                if self.net.tables[me].get(conn).is_some() {
                    self.trace.record(now.mono, &me, "failed", u64::from(conn.slot), &[]);
                    let error = io::Error::from_raw_os_error(errno);
                    shard.handle(Event::Failed { conn, error }, now, &mut Side { me, core: self });
                }
            }
            ToShard::File(FileOp::Done(event)) => {
                let (what, n) = match &event {
                    Event::FileReady { file, result } => ("made", u64::from(*file) << 1 | u64::from(result.is_ok())),
                    Event::FileRemoved { file, result } => ("gone", u64::from(*file) << 1 | u64::from(result.is_ok())),
                    Event::Written { token, result } => ("written", token << 1 | u64::from(result.is_ok())),
                    Event::Read { token, result } => ("read", token << 1 | u64::from(result.is_ok())),
                    _ => ("file", 0),
                };
                self.trace.record(now.mono, &me, what, n, &[]);
                shard.handle(event, now, &mut Side { me, core: self });
            }
            ToShard::File(_) => {}
        }
    }

    pub(super) fn is_live(&mut self, shard: usize, conn: ConnId) -> bool {
        self.net.tables[shard].get(conn).is_some_and(|sock| !sock.over)
    }

    pub(super) fn file(&mut self, op: FileOp) -> Event<'static> {
        let before = self.disk.injected();
        let event = self.file_event(op);
        let failed = match &event {
            Event::FileReady { result, .. } | Event::FileRemoved { result, .. } | Event::Written { result, .. } => {
                result.is_err()
            }
            Event::Read { result, .. } => result.is_err(),
            _ => false,
        };
        if failed || self.disk.injected() > before {
            self.disk_faults.push(self.now.mono);
        }
        event
    }

    fn file_event(&mut self, op: FileOp) -> Event<'static> {
        match op {
            FileOp::Create { file, path, bytes } => {
                Event::FileReady { file, result: self.disk.end_create(&path, bytes) }
            }
            FileOp::Write { token, path, offset, buffer, start, .. } => {
                Event::Written { token, result: self.disk.end_write(&path, offset, &buffer[start..]) }
            }
            FileOp::Read { token, path, offset, mut buffer } => {
                let result = self.disk.end_read(&path, offset, buffer.as_mut());
                Event::Read { token, result: result.map(|()| buffer) }
            }
            FileOp::Remove { file, path } => Event::FileRemoved { file, result: self.disk.end_remove(&path) },
            FileOp::Done(event) => event,
        }
    }

    pub(super) fn end_process(&mut self, end: End) {
        self.trace.record(self.now.mono, &"world", "end", u64::from(end == End::PowerLost), &[]);
        let entries = std::mem::take(&mut self.agenda).into_sorted_vec();
        let mut cut: BTreeMap<LinkId, bool> = BTreeMap::new();
        for Reverse(entry) in entries.into_iter().rev() {
            match &entry.what {
                What::File(_, op) => match op {
                    FileOp::Write { path, offset, buffer, start, .. } => {
                        self.disk.cut_write(path, *offset, &buffer[*start..], end);
                    }
                    FileOp::Create { path, bytes, .. } => self.disk.cut_create(path, *bytes),
                    FileOp::Remove { path, .. } => self.disk.cut_remove(path),
                    FileOp::Read { .. } | FileOp::Done(_) => {}
                },
                What::ToHost(id, _) if end == End::PowerLost => {
                    // What the dead kernel had not sent yet is a tail of the stream.
                    let gone = cut.get(id).copied().unwrap_or_else(|| self.rng.one_in(2));
                    cut.insert(*id, gone);
                    if !gone {
                        self.agenda.push(Reverse(entry));
                    }
                }
                What::Connected(_) | What::ToRelay(..) | What::RelayEnd(_) | What::RelayFailed(..) => {}
                What::Look(..) => {}
                _ => self.agenda.push(Reverse(entry)),
            }
        }
        for cpu in 0..self.cpus.len() {
            self.stop_cpu(cpu, end);
        }
        self.disk.end(end);
    }

    /// The kernel closes what a core had open.
    pub(super) fn stop_cpu(&mut self, me: usize, end: End) {
        let table = std::mem::take(&mut self.net.tables[me]);
        let links: Vec<LinkId> = table.links().collect();
        for id in links {
            let Some(link) = self.net.links.get_mut(&id) else { continue };
            link.relay_open = false;
            let from = link.from;
            let (host, made) = (link.host, link.to.port() != 0 && !link.datagram);
            if made {
                self.count_connection(host, from, false);
            }
            match end {
                End::Killed if self.rng.one_in(4) => self.send_to_host(id, What::HostFailed(id)),
                End::Killed => self.send_to_host(id, What::HostEnd(id)),
                End::PowerLost => {
                    // Until the host loses patience, or meets the machine when it is up again.
                    let at = self.now.mono + Duration::from_millis(self.rng.within(1000..200_000));
                    self.plan(at, What::HostFailed(id));
                }
            }
        }
        let cpu = &mut self.cpus[me];
        cpu.listening = false;
        cpu.inbox.clear();
        cpu.files.clear();
        cpu.wait = Wait::Stop;
    }
}

impl Core {
    pub(super) fn send_datagram(
        &mut self,
        id: LinkId,
        what: impl Fn(LinkId, Vec<u8>) -> What,
        outward: bool,
        bytes: Vec<u8>,
    ) {
        let Some(host) = self.net.links.get(&id).map(|link| link.host) else { return };
        let path = self.net.paths.get(&host).cloned().unwrap_or_default();
        if path.silent || path.cut_until > self.now.mono || self.rng.permille(path.loss_permille) {
            return;
        }
        let times = if self.rng.permille(path.twice_permille) { 2 } else { 1 };
        for _ in 0..times {
            let what = what(id, bytes.clone());
            if outward { self.send_to_host(id, what) } else { self.send_to_relay(id, what) }
        }
    }
}

/// Takes the next piece out of a socket: as it came, merged or cut, as networks do.
fn take(sock: &mut Sock, rng: &mut Rng) -> Option<Vec<u8>> {
    let mut piece = sock.received.pop_front()?;
    if sock.datagram {
        return Some(piece);
    }
    while piece.len() < PIECE && !sock.received.is_empty() && rng.one_in(2) {
        if let Some(next) = sock.received.pop_front() {
            piece.extend_from_slice(&next);
        }
    }
    let cut =
        if piece.len() > 1 && rng.one_in(8) { rng.within(1..piece.len() as u64) as usize } else { PIECE }.min(PIECE);
    if piece.len() > cut {
        sock.received.push_front(piece.split_off(cut));
    }
    Some(piece)
}
