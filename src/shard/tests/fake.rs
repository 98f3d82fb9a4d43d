//! Tests only: a world for [`ShardCore`] in memory, on virtual time. Its machine is an [`Io`]: inbound clients that follow
//! a script, next hops that answer as told (`hop`), a DNS server (`zone`), a disk that fails when told and keeps what
//! was made durable. The shards are the production code; several run in the test's thread, one after the other.
//!
//! A run is a function of the seed and the script. [`World::step`] is the loop of rt's driver: turn, wait, dispatch.
#![allow(clippy::unwrap_used)]

mod hop;
mod zone;

pub use hop::{Act, At, Door, Hop, Received};
pub use zone::{Entry, Zone};

use crate::config::{self, Config};
use crate::dns::{AddressFamilies, DnsSettings};
use crate::route::Routes;
use crate::rt::buffer::{BLOCK, Buffer};
use crate::rt::disk::{Disk, Lock};
use crate::rt::{ConnId, Event, FileNo, Io, Shard, Wait};
use crate::shard::event::{self, EventSource};
use crate::shard::mailbox::{Control, Mail, Mailboxes};
use crate::shard::stats::{HistogramSource, ShardStats, stage_histograms};
use crate::shard::{Ending, Parts, Report, ShardCore};
use crate::spool;
use crate::spool::sim::{FOLDER, MemDisk, Rng};
use crate::time::{Moment, Now, Wall};
use hop::Call;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const WALL: u64 = 1_795_000_000_000;
/// What rt's receive buffers hold.
const PIECE: usize = 8192;

/// How much a socket takes.
#[derive(Clone, Copy, Debug)]
enum Flow {
    All,
    PerWrite(usize),
    /// The peer does not read: so much is left of its window.
    Room(usize),
}

#[derive(Clone, Copy, Debug)]
enum Peer {
    Client(usize),
    Hop(usize),
    Dns,
    Nobody,
}

/// One socket of a shard.
struct Sock {
    peer: Peer,
    flow: Flow,
    awaiting_room: bool,
    paused: bool,
    /// Came while it was paused.
    inbox: VecDeque<Happening>,
}

/// One shard's sockets.
#[derive(Default)]
struct Table {
    slots: Vec<(u32, Option<Sock>)>,
    free: Vec<u32>,
}

impl Table {
    fn insert(&mut self, sock: Sock) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u32::try_from(self.slots.len() - 1).unwrap()
        });
        let entry = &mut self.slots[slot as usize];
        entry.0 += 1;
        entry.1 = Some(sock);
        ConnId { slot, generation: entry.0 }
    }

    fn get(&mut self, conn: ConnId) -> Option<&mut Sock> {
        let (generation, sock) = self.slots.get_mut(conn.slot as usize)?;
        if *generation == conn.generation { sock.as_mut() } else { None }
    }

    fn remove(&mut self, conn: ConnId) -> Option<Sock> {
        self.get(conn)?;
        self.free.push(conn.slot);
        self.slots[conn.slot as usize].1.take()
    }
}

/// What a shard is told of a connection.
pub(super) enum Happening {
    Accepted(SocketAddr),
    Connected,
    Bytes(Vec<u8>),
    Writable,
    Ended,
    Failed(i32),
}

enum FileOp {
    Create { file: FileNo, path: PathBuf, bytes: u64 },
    Write { token: u64, file: FileNo, offset: u64, buffer: Arc<Buffer>, start: usize },
    Read { token: u64, file: FileNo, offset: u64, buffer: Buffer },
    Remove { file: FileNo, path: PathBuf },
}

/// The kinds of file operation, for faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create,
    Write,
    Read,
    Remove,
}

enum What {
    ToShard(usize, ConnId, Happening),
    /// Lets a resumed connection go on.
    Resumed(usize, ConnId),
    ToPeer(Peer, Vec<u8>),
    /// The shard closed its end.
    Gone(Peer),
    Opened(usize),
    File(usize, FileOp),
}

struct Step {
    /// So many replies in all must have come.
    after: usize,
    /// And the last of them is 354; else the rest of the script is dropped.
    needs_354: bool,
    bytes: Vec<u8>,
}

/// An inbound client.
pub struct Client {
    pub shard: usize,
    pub conn: ConnId,
    /// The last lines of its replies.
    pub replies: Vec<String>,
    line: Vec<u8>,
    /// Octets of replies that came.
    pub octets: usize,
    /// When the relay ended the connection.
    pub closed: Option<Moment>,
    script: VecDeque<Step>,
    /// Octets at a time.
    piece: usize,
    /// Which reply is that to the message.
    verdict: Option<usize>,
}

impl Client {
    /// Whether its message was acknowledged.
    pub fn is_accepted(&self) -> bool {
        self.queued_as().is_some()
    }

    /// The id under which its message was acknowledged.
    pub fn queued_as(&self) -> Option<String> {
        let id = self.replies.get(self.verdict?)?.strip_prefix("250 2.0.0 ")?.strip_suffix(" queued")?;
        Some(id.to_owned())
    }
}

/// A message to submit.
#[derive(Clone, Debug)]
pub struct Letter {
    pub sender: String,
    pub recipients: Vec<String>,
    pub mark: u32,
    /// What stands behind the empty line, in wire form, CRLF at its end, without the final dot.
    pub text: Vec<u8>,
}

impl Letter {
    pub fn new(mark: u32, recipients: &[&str]) -> Letter {
        Letter {
            sender: "joe@sender.test".to_owned(),
            recipients: recipients.iter().map(|r| (*r).to_owned()).collect(),
            mark,
            text: format!("This is number {mark}.\r\n").into_bytes(),
        }
    }

    /// The data as the client sends it, with the final dot.
    pub fn wire(&self) -> Vec<u8> {
        let mut wire = format!("X-Test: {}\r\n\r\n", self.mark).into_bytes();
        wire.extend_from_slice(&self.text);
        wire.extend_from_slice(b".\r\n");
        wire
    }
}

type Fault = Box<dyn FnMut(Op, &[u8]) -> Option<i32>>;

/// Everything but the shards.
pub struct Machine {
    pub now: Now,
    pub rng: Rng,
    pub latency: Duration,
    pub disk_latency: Duration,
    pub hops: BTreeMap<IpAddr, Hop>,
    pub zone: Zone,
    pub clients: Vec<Client>,
    pub disk: MemDisk,
    /// Asked at each file operation, with what it writes: an errno, or none.
    pub fault: Option<Fault>,
    pub datagrams: u64,
    agenda: BTreeMap<(Moment, u64), What>,
    count: u64,
    tables: Vec<Table>,
    files: Vec<HashMap<FileNo, PathBuf>>,
    calls: Vec<Call>,
    woken: Vec<bool>,
    listening: Vec<bool>,
}

impl Machine {
    fn after(&mut self, delay: Duration, what: What) {
        self.count += 1;
        self.agenda.insert((self.now.mono + delay, self.count), what);
    }

    fn tell_later(&mut self, shard: usize, conn: ConnId, happening: Happening, delay: Duration) {
        self.after(delay, What::ToShard(shard, conn, happening));
    }

    /// Sockets that `shard` has open.
    pub fn open_sockets(&self, shard: usize) -> usize {
        self.tables[shard].slots.iter().filter(|(_, sock)| sock.is_some()).count()
    }

    /// Octets a client has sent that its shard has not taken in yet.
    pub fn unread(&mut self, client: usize) -> usize {
        let (shard, conn) = (self.clients[client].shard, self.clients[client].conn);
        let Some(sock) = self.tables[shard].get(conn) else { return 0 };
        sock.inbox.iter().map(|h| if let Happening::Bytes(b) = h { b.len() } else { 0 }).sum()
    }

    /// A hop, made if it is not there.
    pub fn hop(&mut self, address: &str) -> &mut Hop {
        self.hops.entry(address.parse().unwrap()).or_default()
    }

    /// Everything the hops took.
    pub fn received(&self) -> impl Iterator<Item = &Received> {
        self.hops.values().flat_map(|hop| &hop.received)
    }

    /// What a recipient got, notifications included.
    pub fn got(&self, recipient: &str) -> Vec<&Received> {
        self.received().filter(|r| r.recipients.iter().any(|to| to == recipient)).collect()
    }

    pub fn connects(&self) -> usize {
        self.hops.values().map(|hop| hop.connects.len()).sum()
    }

    fn peer_input(&mut self, peer: Peer, bytes: &[u8]) {
        match peer {
            Peer::Hop(index) => self.with_call(index, |call, m| call.input(m, bytes)),
            Peer::Client(index) => self.client_input(index, bytes),
            Peer::Dns | Peer::Nobody => {}
        }
    }

    fn with_call(&mut self, index: usize, act: impl FnOnce(&mut Call, &mut Machine)) {
        let nobody = Call::new(self.calls[index].hop, 0, ConnId { slot: 0, generation: 0 });
        let mut call = std::mem::replace(&mut self.calls[index], nobody);
        if call.live {
            act(&mut call, self);
        }
        self.calls[index] = call;
    }

    fn client_input(&mut self, index: usize, bytes: &[u8]) {
        let client = &mut self.clients[index];
        client.octets += bytes.len();
        for &byte in bytes {
            client.line.push(byte);
            if client.line.ends_with(b"\r\n") {
                let line = String::from_utf8(std::mem::take(&mut client.line)).unwrap();
                if line.as_bytes().get(3) == Some(&b' ') {
                    client.replies.push(line.trim_end().to_owned());
                }
            }
        }
        let Some(step) = client.script.front() else { return };
        if client.replies.len() < step.after {
            return;
        }
        if step.needs_354 && !client.replies.last().unwrap().starts_with("354") {
            client.script.clear();
            return;
        }
        let step = client.script.pop_front().unwrap();
        let (shard, conn, piece) = (client.shard, client.conn, client.piece);
        self.post(shard, conn, &step.bytes, piece);
    }

    fn post(&mut self, shard: usize, conn: ConnId, bytes: &[u8], piece: usize) {
        for piece in bytes.chunks(piece) {
            self.tell_later(shard, conn, Happening::Bytes(piece.to_vec()), self.latency);
        }
    }

    /// Carries out a file operation; the answer to the shard.
    fn file(&mut self, shard: usize, op: FileOp) -> Event<'static> {
        let (kind, bytes) = match &op {
            FileOp::Create { .. } => (Op::Create, &[][..]),
            FileOp::Write { buffer, start, .. } => (Op::Write, &buffer[*start..]),
            FileOp::Read { .. } => (Op::Read, &[][..]),
            FileOp::Remove { .. } => (Op::Remove, &[][..]),
        };
        let fault = self.fault.as_mut().and_then(|f| f(kind, bytes)).map(io::Error::from_raw_os_error);
        let ok = fault.map_or(Ok(()), Err);
        match op {
            FileOp::Create { file, path, bytes } => {
                let result = ok.and_then(|()| self.disk.create(&path, bytes));
                self.files[shard].insert(file, path);
                Event::FileReady { file, result }
            }
            FileOp::Write { token, file, offset, buffer, start } => {
                if ok.is_ok() {
                    self.disk.write(&self.files[shard][&file], offset, &buffer[start..]);
                }
                Event::Written { token, result: ok }
            }
            FileOp::Read { token, file, offset, mut buffer } => {
                let files = self.disk.files.lock().unwrap();
                let (at, len) = (offset as usize, buffer.len());
                buffer.as_mut().copy_from_slice(&files[&self.files[shard][&file]][at..at + len]);
                Event::Read { token, result: ok.map(|()| buffer) }
            }
            FileOp::Remove { file, path } => {
                let result = ok.and_then(|()| self.disk.remove(&path));
                self.files[shard].remove(&file);
                Event::FileRemoved { file, result }
            }
        }
    }
}

/// The machine as one shard sees it.
struct Side<'a> {
    me: usize,
    m: &'a mut Machine,
}

impl Io for Side<'_> {
    fn connect(&mut self, to: SocketAddr, _: Option<IpAddr>) -> io::Result<ConnId> {
        let me = self.me;
        let sock =
            Sock { peer: Peer::Nobody, flow: Flow::All, awaiting_room: false, paused: false, inbox: VecDeque::new() };
        let conn = self.m.tables[me].insert(sock);
        let (now, latency, calls) = (self.m.now.mono, self.m.latency, self.m.calls.len());
        let Some(hop) = self.m.hops.get_mut(&to.ip()) else {
            self.m.tell_later(me, conn, Happening::Failed(libc::EHOSTUNREACH), latency);
            return Ok(conn);
        };
        hop.connects.push(now);
        match hop.door {
            Door::Silent => {}
            Door::Refused => self.m.tell_later(me, conn, Happening::Failed(libc::ECONNREFUSED), latency),
            Door::Open => {
                let flow = hop.per_write.map_or(Flow::All, Flow::PerWrite);
                let sock = self.m.tables[me].get(conn).unwrap();
                (sock.peer, sock.flow) = (Peer::Hop(calls), flow);
                self.m.calls.push(Call::new(to.ip(), me, conn));
                self.m.tell_later(me, conn, Happening::Connected, latency);
                self.m.after(latency, What::Opened(calls));
            }
        }
        Ok(conn)
    }

    fn datagram(&mut self, _: SocketAddr) -> io::Result<ConnId> {
        self.m.datagrams += 1;
        Ok(self.m.tables[self.me].insert(Sock {
            peer: Peer::Dns,
            flow: Flow::All,
            awaiting_room: false,
            paused: false,
            inbox: VecDeque::new(),
        }))
    }

    fn write(&mut self, conn: ConnId, parts: &[IoSlice<'_>]) -> usize {
        let (all, latency) = (parts.iter().map(|p| p.len()).sum(), self.m.latency);
        let Some(sock) = self.m.tables[self.me].get(conn) else { return all };
        let taken = match &mut sock.flow {
            _ if sock.awaiting_room => 0,
            Flow::All => all,
            Flow::PerWrite(most) => all.min(*most),
            Flow::Room(room) => {
                let taken = all.min(*room);
                *room -= taken;
                taken
            }
        };
        let mut bytes = Vec::with_capacity(taken);
        for part in parts {
            bytes.extend_from_slice(&part[..part.len().min(taken - bytes.len())]);
        }
        let peer = sock.peer;
        if taken < all && !std::mem::replace(&mut sock.awaiting_room, true) && !matches!(sock.flow, Flow::Room(_)) {
            self.m.tell_later(self.me, conn, Happening::Writable, latency);
        }
        if let Peer::Dns = peer {
            if let Some(answer) = self.m.zone.answer(&bytes) {
                self.m.tell_later(self.me, conn, Happening::Bytes(answer), latency);
            }
        } else if !bytes.is_empty() {
            self.m.after(latency, What::ToPeer(peer, bytes));
        }
        taken
    }

    fn pause(&mut self, conn: ConnId) {
        if let Some(sock) = self.m.tables[self.me].get(conn) {
            sock.paused = true;
        }
    }

    fn resume(&mut self, conn: ConnId) {
        if let Some(sock) = self.m.tables[self.me].get(conn) {
            sock.paused = false;
            self.m.after(Duration::ZERO, What::Resumed(self.me, conn));
        }
    }

    fn shutdown(&mut self, _: ConnId) {}

    fn close(&mut self, conn: ConnId) {
        if let Some(sock) = self.m.tables[self.me].remove(conn) {
            self.m.after(self.m.latency, What::Gone(sock.peer));
        }
    }

    fn stop_listening(&mut self) {
        self.m.listening[self.me] = false;
    }

    fn create_file(&mut self, file: FileNo, path: &Path, bytes: u64) {
        self.m.after(self.m.disk_latency, What::File(self.me, FileOp::Create { file, path: path.to_owned(), bytes }));
    }

    fn open_file(&mut self, file: FileNo, path: &Path) -> io::Result<()> {
        self.m.files[self.me].insert(file, path.to_owned());
        Ok(())
    }

    fn write_durable(&mut self, token: u64, file: FileNo, offset: u64, buffer: Arc<Buffer>, start: usize) {
        let op = FileOp::Write { token, file, offset, buffer, start };
        self.m.after(self.m.disk_latency, What::File(self.me, op));
    }

    fn read_file(&mut self, token: u64, file: FileNo, offset: u64, buffer: Buffer) {
        self.m.after(self.m.disk_latency, What::File(self.me, FileOp::Read { token, file, offset, buffer }));
    }

    fn remove_file(&mut self, file: FileNo, path: &Path) {
        self.m.after(self.m.disk_latency, What::File(self.me, FileOp::Remove { file, path: path.to_owned() }));
    }

    fn wake(&mut self, shard: usize) {
        self.m.woken[shard] = true;
    }

    fn random(&mut self) -> u64 {
        self.m.rng.next()
    }
}

/// The disk as recovery sees it here: without the zeros at a file's end, which are slow to look through unoptimised.
struct Short<'a>(&'a MemDisk);

impl Disk for Short<'_> {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.0.create_folder(path)
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.0.list(folder)
    }
    fn read(&self, path: &Path, into: &mut Vec<u8>) -> io::Result<()> {
        let files = self.0.files.lock().unwrap();
        let file = files.get(path).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        let zeros = [0; BLOCK];
        let used = file.chunks(BLOCK).rposition(|block| *block != zeros[..block.len()]).map_or(0, |at| at + 1);
        into.clear();
        into.extend_from_slice(&file[..file.len().min((used + 4) * BLOCK)]);
        Ok(())
    }
    fn write_sync(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_sync(path, offset, bytes)
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        self.0.sync(path)
    }
    fn create(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.0.create(path, bytes)
    }
    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.copy(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn lock(&self, path: &Path, create: bool) -> io::Result<Option<Lock>> {
        self.0.lock(path, create)
    }
}

/// The shards and their machine.
pub struct World {
    pub machine: Machine,
    /// `None`: it has stopped.
    pub shards: Vec<Option<ShardCore>>,
    pub config: Arc<Config>,
    pub stats: Vec<Arc<ShardStats>>,
    pub max_connections: usize,
    mailboxes: Mailboxes,
    /// Prints every event of the shards, to find out why a test fails.
    pub trace: bool,
    /// The other ends of the reports.
    links: Vec<(EventSource, HistogramSource)>,
    waits: Vec<Wait>,
    ready: Vec<bool>,
}

/// The configuration of the tests: the default, with intervals that suit virtual time.
pub fn config() -> Config {
    let machine = config::Machine {
        hostname: Some("relay.test".to_owned()),
        cores: 1,
        directory: PathBuf::from("/"),
        resolv_conf: "nameserver 192.0.2.53\n".to_owned(),
        interfaces: Vec::new(),
    };
    let mut config = config::parse("tests", config::EMBEDDED, &machine).unwrap().config;
    config.spool.path = PathBuf::from(FOLDER);
    config.delivery.port = 25;
    config.delivery.smart_host = None;
    config.delivery.ipv6 = false;
    config
}

impl World {
    /// One shard, the default configuration.
    pub fn new(seed: u64) -> World {
        World::with(seed, 1, config(), 1000)
    }

    pub fn with(seed: u64, shards: u16, config: Config, max_connections: usize) -> World {
        let machine = Machine {
            now: Now { mono: Moment(1_000_000_000), wall: Wall(WALL) },
            rng: Rng(seed),
            latency: Duration::from_micros(100),
            disk_latency: Duration::from_micros(300),
            hops: BTreeMap::new(),
            zone: Zone::default(),
            clients: Vec::new(),
            disk: MemDisk::default(),
            fault: None,
            datagrams: 0,
            agenda: BTreeMap::new(),
            count: 0,
            tables: Vec::new(),
            files: Vec::new(),
            calls: Vec::new(),
            woken: Vec::new(),
            listening: Vec::new(),
        };
        let mut world = World {
            machine,
            shards: Vec::new(),
            config: Arc::new(config),
            stats: Vec::new(),
            max_connections,
            mailboxes: Mailboxes::new(1),
            trace: false,
            links: Vec::new(),
            waits: Vec::new(),
            ready: Vec::new(),
        };
        world.start(shards);
        // The senders of these tests are at home here.
        world.machine.zone.host("sender.test", "10.9.9.9");
        world.machine.hop("10.9.9.9");
        world
    }

    /// Recovers the spool and starts the shards.
    fn start(&mut self, shards: u16) {
        let count = usize::from(shards);
        let m = &mut self.machine;
        let geometry = spool::Geometry::default();
        let options = spool::Options { shards, wall: m.now.wall, seed: m.rng.next(), geometry };
        let recovery = spool::recover(&Short(&m.disk), Path::new(FOLDER), options).unwrap();
        assert!(recovery.damage.is_empty(), "{:?}", recovery.damage);
        self.mailboxes = Mailboxes::new(count);
        let ending = Ending::new(count);
        let dns = DnsSettings {
            servers: self.config.dns.servers.clone(),
            timeout: self.config.dns.timeout,
            attempts: self.config.dns.attempts,
            families: AddressFamilies::Ipv4Only,
            ..DnsSettings::default()
        };
        (self.stats, self.links, self.shards) = (Vec::new(), Vec::new(), Vec::new());
        for (me, recovered) in (0..shards).zip(recovery.shards) {
            let (events, source) = event::channel(true);
            let (histograms, taken) = stage_histograms();
            let stats = Arc::new(ShardStats::default());
            let report = Report { stats: Arc::clone(&stats), events, histograms };
            self.stats.push(stats);
            self.links.push((source, taken));
            self.shards.push(Some(ShardCore::new(Parts {
                me,
                shards,
                config: Arc::clone(&self.config),
                routes: Arc::new(Routes::Mx),
                dns: dns.clone(),
                recovered,
                mailboxes: self.mailboxes.clone(),
                report,
                ending: Arc::clone(&ending),
                max_connections: self.max_connections,
                seed: m.rng.next(),
            })));
        }
        m.tables = (0..count).map(|_| Table::default()).collect();
        m.files = (0..count).map(|_| HashMap::new()).collect();
        m.woken = vec![false; count];
        m.listening = vec![true; count];
        self.waits = vec![Wait::Poll; count];
        self.ready = vec![true; count];
    }

    /// The process is killed, with what it has under way, and starts again. Writes in flight may have been done.
    pub fn crash(&mut self, shards: u16) {
        let m = &mut self.machine;
        for (_, what) in std::mem::take(&mut m.agenda) {
            match what {
                What::File(shard, op @ FileOp::Write { .. }) if m.rng.one_in(2) => drop(m.file(shard, op)),
                // What was sent is sent.
                What::ToPeer(peer @ Peer::Hop(_), bytes) => m.peer_input(peer, &bytes),
                _ => {}
            }
        }
        m.agenda.clear();
        for index in 0..m.calls.len() {
            m.with_call(index, |call, m| call.gone(m));
        }
        let now = m.now.mono;
        for client in &mut m.clients {
            client.closed.get_or_insert(now);
            client.script.clear();
        }
        self.start(shards);
    }

    // --- time -----------------------------------------------------------------------------------------------------

    /// One turn of every shard that has something to do, then on to the next moment, and what happens then.
    pub fn step(&mut self, latest: Moment) {
        let m = &mut self.machine;
        for me in 0..self.shards.len() {
            let Some(shard) = &mut self.shards[me] else { continue };
            if !std::mem::take(&mut self.ready[me]) {
                continue;
            }
            self.waits[me] = shard.turn(m.now, &mut Side { me, m });
            shard.deliverer.assert_within_limits();
            let trace = self.trace;
            while self.links[me].0.take_batch(|event| {
                if trace {
                    eprintln!("{:>12} shard {me}: {event:?}", m.now.mono.0 / 1000);
                }
            }) {}
            if self.waits[me] == Wait::Stop {
                self.shards[me] = None;
                m.listening[me] = false;
                let table = std::mem::take(&mut m.tables[me]);
                for sock in table.slots.into_iter().filter_map(|(_, sock)| sock) {
                    m.after(m.latency, What::Gone(sock.peer));
                }
            }
        }
        let mut next = m.agenda.keys().next().map_or(latest, |key| key.0.min(latest));
        for (me, shard) in self.shards.iter().enumerate() {
            let Some(shard) = shard else { continue };
            next = match self.waits[me] {
                Wait::Poll => m.now.mono + Duration::from_micros(10),
                _ if m.woken[me] || shard.has_mail() => m.now.mono + Duration::from_micros(10),
                Wait::Until(moment) => moment,
                Wait::Stop => latest,
            }
            .min(next);
        }
        m.now.mono = m.now.mono.max(next);
        m.now.wall = Wall(WALL + m.now.mono.0 / 1_000_000);
        while let Some(entry) = self.machine.agenda.first_entry() {
            if entry.key().0 > self.machine.now.mono {
                break;
            }
            let what = entry.remove();
            self.happen(what);
        }
        for (me, shard) in self.shards.iter().enumerate() {
            let Some(shard) = shard else { continue };
            let due = match self.waits[me] {
                Wait::Until(moment) => moment <= self.machine.now.mono,
                _ => true,
            };
            self.ready[me] |= due || shard.has_mail() || std::mem::take(&mut self.machine.woken[me]);
        }
    }

    fn happen(&mut self, what: What) {
        let m = &mut self.machine;
        match what {
            What::ToShard(shard, conn, happening) => {
                let Some(sock) = m.tables[shard].get(conn) else { return };
                match happening {
                    Happening::Bytes(_) | Happening::Ended => {
                        sock.inbox.push_back(happening);
                        self.inbox(shard, conn);
                    }
                    Happening::Writable => {
                        sock.awaiting_room = false;
                        self.tell(shard, Event::Writable { conn });
                    }
                    Happening::Connected => self.tell(shard, Event::Connected { conn }),
                    Happening::Accepted(peer) => self.tell(shard, Event::Accepted { conn, listener: 0, peer }),
                    Happening::Failed(errno) => {
                        self.tell(shard, Event::Failed { conn, error: io::Error::from_raw_os_error(errno) });
                    }
                }
            }
            What::Resumed(shard, conn) => self.inbox(shard, conn),
            What::ToPeer(peer, bytes) => m.peer_input(peer, &bytes),
            What::Gone(Peer::Hop(index)) => m.with_call(index, |call, m| call.gone(m)),
            What::Gone(Peer::Client(index)) => {
                let now = m.now.mono;
                m.clients[index].closed.get_or_insert(now);
            }
            What::Gone(_) => {}
            What::Opened(index) => m.with_call(index, |call, m| call.opened(m)),
            What::File(shard, op) => {
                let event = m.file(shard, op);
                self.tell(shard, event);
            }
        }
    }

    fn inbox(&mut self, shard: usize, conn: ConnId) {
        while let Some(sock) = self.machine.tables[shard].get(conn) {
            if sock.paused {
                return;
            }
            match sock.inbox.pop_front() {
                Some(Happening::Bytes(bytes)) => self.tell(shard, Event::Received { conn, bytes: &bytes }),
                Some(_) => self.tell(shard, Event::Ended { conn }),
                None => return,
            }
        }
    }

    fn tell(&mut self, me: usize, event: Event<'_>) {
        self.ready[me] = true;
        let m = &mut self.machine;
        if let Some(shard) = &mut self.shards[me] {
            shard.handle(event, m.now, &mut Side { me, m });
        }
    }

    /// Runs until `condition` holds; false if it does not within `limit` of virtual time.
    pub fn run_until(&mut self, limit: Duration, mut condition: impl FnMut(&World) -> bool) -> bool {
        let end = self.machine.now.mono + limit;
        let (mut steps, mut since) = (0u32, self.machine.now.mono);
        while !condition(self) {
            if self.machine.now.mono >= end {
                return false;
            }
            self.step(end);
            // More than this in a second of virtual time is a loop without an end.
            steps += 1;
            if self.machine.now.mono.since(since) > Duration::from_secs(1) {
                (steps, since) = (0, self.machine.now.mono);
            }
            assert!(steps < 200_000, "the shards spin");
        }
        true
    }

    /// Runs for so long.
    pub fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    pub fn now(&self) -> Moment {
        self.machine.now.mono
    }

    // --- what tests do --------------------------------------------------------------------------------------------

    pub fn hop(&mut self, address: &str) -> &mut Hop {
        self.machine.hop(address)
    }

    /// The domain's mail goes to the hop at `address`.
    pub fn domain(&mut self, domain: &str, address: &str) {
        self.machine.zone.host(domain, address);
        self.machine.hop(address);
    }

    /// Opens an inbound connection.
    pub fn connect(&mut self, shard: usize) -> usize {
        let m = &mut self.machine;
        let client = m.clients.len();
        let flow = Flow::All;
        let sock =
            Sock { peer: Peer::Client(client), flow, awaiting_room: false, paused: false, inbox: VecDeque::new() };
        let conn =
            if m.listening[shard] { m.tables[shard].insert(sock) } else { ConnId { slot: u32::MAX, generation: 0 } };
        let closed = (!m.listening[shard]).then_some(m.now.mono);
        m.clients.push(Client {
            shard,
            conn,
            replies: Vec::new(),
            line: Vec::new(),
            octets: 0,
            closed,
            script: VecDeque::new(),
            piece: PIECE,
            verdict: None,
        });
        m.tell_later(shard, conn, Happening::Accepted("127.0.0.1:4000".parse().unwrap()), m.latency);
        client
    }

    /// An inbound client that takes `window` octets of replies and reads no more.
    pub fn connect_deaf(&mut self, shard: usize, window: usize) -> usize {
        let client = self.connect(shard);
        let conn = self.machine.clients[client].conn;
        self.machine.tables[shard].get(conn).unwrap().flow = Flow::Room(window);
        client
    }

    /// A client sends bytes, whatever it was told.
    pub fn send(&mut self, client: usize, bytes: &[u8]) {
        let c = &self.machine.clients[client];
        let (shard, conn, piece) = (c.shard, c.conn, c.piece);
        self.machine.post(shard, conn, bytes, piece);
    }

    /// A client closes its direction.
    pub fn finish(&mut self, client: usize) {
        let (shard, conn) = (self.machine.clients[client].shard, self.machine.clients[client].conn);
        self.machine.tell_later(shard, conn, Happening::Ended, self.machine.latency);
    }

    /// A client that submits one message and leaves.
    pub fn submit(&mut self, shard: usize, letter: &Letter) -> usize {
        self.submit_in(shard, letter, PIECE)
    }

    /// As `submit`, with the data in pieces.
    pub fn submit_in(&mut self, shard: usize, letter: &Letter, piece: usize) -> usize {
        let client = self.connect(shard);
        let eight_bit = if letter.text.is_ascii() { "" } else { " BODY=8BITMIME" };
        let mut envelope = format!("MAIL FROM:<{}>{eight_bit}\r\n", letter.sender);
        for to in &letter.recipients {
            envelope += &format!("RCPT TO:<{to}>\r\n");
        }
        envelope += "DATA\r\n";
        let data = 2 + letter.recipients.len() + 2;
        let c = &mut self.machine.clients[client];
        c.piece = piece;
        c.verdict = Some(data);
        c.script.extend([
            Step { after: 1, needs_354: false, bytes: b"EHLO client.test\r\n".to_vec() },
            Step { after: 2, needs_354: false, bytes: envelope.into_bytes() },
            Step { after: data, needs_354: true, bytes: letter.wire() },
            Step { after: data + 1, needs_354: false, bytes: b"QUIT\r\n".to_vec() },
        ]);
        client
    }

    /// Submits and waits for the acknowledgement.
    pub fn accept(&mut self, shard: usize, letter: &Letter) {
        let client = self.submit(shard, letter);
        assert!(
            self.run_until(Duration::from_secs(5), |w| w.machine.clients[client].is_accepted()),
            "{:?}",
            self.machine.clients[client].replies
        );
    }

    /// The control plane speaks to every shard.
    pub fn control(&mut self, control: Control) {
        for shard in 0..self.shards.len() {
            assert!(self.mailboxes.push(shard, vec![Mail::Control(control)]).is_ok());
            self.machine.woken[shard] = true;
        }
    }

    pub fn stopped(&self) -> bool {
        self.shards.iter().all(Option::is_none)
    }

    /// Messages that are not settled wholly, by the shards' own numbers: of half a second ago at most.
    pub fn queued(&self) -> u64 {
        self.stats.iter().map(|s| s.spool_messages.get()).sum()
    }

    /// Messages that a restart would find: what is durable.
    pub fn durable(&mut self) -> usize {
        let m = &mut self.machine;
        let copy = MemDisk::default();
        copy.files.lock().unwrap().clone_from(&m.disk.files.lock().unwrap());
        let shards = u16::try_from(self.shards.len()).unwrap();
        let options = spool::Options { shards, wall: m.now.wall, seed: 1, geometry: spool::Geometry::default() };
        spool::recover(&Short(&copy), Path::new(FOLDER), options).unwrap().live_messages()
    }
}
