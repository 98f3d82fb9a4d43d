//! The simulated backend: shards, a network of named hosts and a disk, in one thread, on virtual time, from one seed.
//!
//! [`Sim`] stands where `uring`'s driver stands: it hands a [`Shard`] its events and is its [`Io`]. Which event comes
//! when, how it is cut, which shard runs first and how long it is busy is drawn from the seed, so the same seed and the
//! same calls give the same run, and [`Trace`] proves it. Time moves only when nothing is due.
//!
//! A process can be ended between any two of its effects ([`Sim::kill_at_effect`]): what it did until then has happened,
//! what it does afterwards has not. Refuses: threads, clocks, and every source of chance but its own.

pub mod disk;
mod net;
pub mod rng;
pub mod trace;

pub use disk::{DiskFault, DiskOp, End, Scar, SimDisk};
pub use net::{LinkId, Path, Reading};
pub use rng::Rng;
pub use trace::Trace;

use super::buffer::Buffer;
use super::{ConnId, Event, FileNo, Io, Shard, Wait};
use crate::time::{Moment, Now, Wall};
use net::{Link, Net, Sock};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The number of an I/O error.
pub const EIO: i32 = libc::EIO;
/// The number of a full disk.
pub const ENOSPC: i32 = libc::ENOSPC;

/// What a receive buffer of the real backend holds, octets.
const PIECE: usize = 8192;
/// Turns of one shard in a row, without an event in between and without rest, after which it is said to spin.
const SPIN: u32 = 50_000;

/// A machine that is not the relay: a client, a next hop, a DNS server.
pub trait Host {
    /// Whether a connection or datagram to `port` is taken; else it is refused.
    fn listens(&self, port: u16) -> bool;
    /// Takes one event.
    fn handle(&mut self, event: HostEvent<'_>, side: &mut HostSide<'_>);
}

/// What a host is told.
#[derive(Debug)]
#[allow(missing_docs, reason = "each variant's text tells of its fields")]
pub enum HostEvent<'a> {
    /// The relay connected to `port`, from `from`.
    Accepted { link: LinkId, port: u16, from: IpAddr },
    /// The host's own connection to the relay stands.
    Connected { link: LinkId },
    /// Octets of a stream.
    Received { link: LinkId, bytes: &'a [u8] },
    /// A datagram for `port`; `link` is where an answer goes.
    Datagram { link: LinkId, port: u16, bytes: &'a [u8] },
    /// The relay closed; all it sent has been read. What the host still sends is answered by a reset.
    Ended { link: LinkId },
    /// The connection broke, or could not be made: over.
    Failed { link: LinkId },
    /// The time asked for by [`HostSide::timer`] has come.
    Timer { token: u64 },
}

/// A shard's event, while it waits for the shard.
enum ToShard {
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

enum FileOp {
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
enum What {
    /// A connection attempt or a first datagram reaches its host.
    Knock(LinkId),
    /// The host's attempt reaches the relay.
    Call(LinkId, usize, SocketAddr),
    ConnectedToRelay(LinkId),
    Connected(LinkId),
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

struct Entry {
    at: Moment,
    /// In the order of planning, at the same moment.
    number: u64,
    what: What,
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
struct Cpu {
    inbox: VecDeque<ToShard>,
    wait: Wait,
    woken: bool,
    /// Busy until then.
    free_at: Moment,
    listening: bool,
    /// Turns without an event and without rest.
    restless: u32,
    files: BTreeMap<FileNo, PathBuf>,
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
struct Caps {
    of: BTreeMap<IpAddr, usize>,
    /// Open, and the most allowed.
    groups: Vec<(usize, usize)>,
    over: Vec<(Moment, IpAddr, usize, usize)>,
}

/// Everything but the shards and the hosts.
pub struct Core {
    now: Now,
    wall_origin: u64,
    /// What the wall clock was set to, against the time that passed: milliseconds.
    wall_offset: i64,
    rng: Rng,
    agenda: BinaryHeap<Reverse<Entry>>,
    planned: u64,
    net: Net,
    /// The disk.
    pub disk: SimDisk,
    /// Its pace.
    pub pace: DiskPace,
    /// What happened.
    pub trace: Trace,
    /// How much happened.
    pub counts: Counts,
    cpus: Vec<Cpu>,
    /// Octets of each connection that the relay has taken in.
    handed: BTreeMap<LinkId, u64>,
    caps: Caps,
    kill_at: Option<u64>,
    dead: bool,
    spins: Option<usize>,
    /// The window of new connections, octets: from, and so much more at most.
    pub window: (usize, usize),
    /// A turn keeps its shard busy for so long, microseconds: from, and so much more at most.
    pub turn_us: (u64, u64),
}

/// See the module. `S` are the shards, `H` the hosts.
pub struct Sim<S, H> {
    /// The shards of the process that runs; `None` for one that stopped.
    pub shards: Vec<Option<S>>,
    /// The other machines, by address.
    pub hosts: BTreeMap<IpAddr, H>,
    /// Network, disk, clock.
    pub core: Core,
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Something happened.
    Went,
    /// Nothing is due before the moment given; the clock stands there.
    Waited,
    /// The process was ended by [`Sim::kill_at_effect`]: call [`Sim::end_process`].
    Killed,
}

impl<S: Shard, H: Host> Sim<S, H> {
    /// A world without shards and hosts at `wall` (milliseconds since the Unix epoch).
    pub fn new(seed: u64, wall: u64) -> Self {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::new(rng.next());
        let core = Core {
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
            cpus: Vec::new(),
            handed: BTreeMap::new(),
            caps: Caps::default(),
            kill_at: None,
            dead: false,
            spins: None,
            window: (4096, 60_000),
            turn_us: (1, 20),
        };
        Sim { shards: Vec::new(), hosts: BTreeMap::new(), core }
    }

    /// Starts the process. The one before must have ended.
    pub fn start(&mut self, shards: Vec<S>) {
        let core = &mut self.core;
        core.trace.record(core.now.mono, &"world", "start", shards.len() as u64, &[]);
        core.dead = false;
        core.kill_at = None;
        core.net.tables = shards.iter().map(|_| net::Table::default()).collect();
        core.cpus = shards
            .iter()
            .map(|_| Cpu {
                inbox: VecDeque::new(),
                wait: Wait::Poll,
                woken: true,
                free_at: core.now.mono,
                listening: true,
                restless: 0,
                files: BTreeMap::new(),
            })
            .collect();
        self.shards = shards.into_iter().map(Some).collect();
    }

    /// Ends the process where it stands. Its sockets, and what it had under way on the disk, go as `end` says.
    pub fn end_process(&mut self, end: End) {
        self.shards.clear();
        self.core.end_process(end);
    }

    /// The process ends at its `effects`-th effect from now: that one does not happen, nor any after it.
    pub fn kill_at_effect(&mut self, effects: u64) {
        self.core.kill_at = Some(self.core.counts.effects + effects);
    }

    /// Whether every shard has stopped by itself.
    pub fn stopped(&self) -> bool {
        self.shards.iter().all(Option::is_none)
    }

    /// Now.
    pub fn now(&self) -> Now {
        self.core.now
    }

    /// A shard ran without rest for so long that it will not find any.
    pub fn spins(&self) -> Option<usize> {
        self.core.spins
    }

    /// Lets a host begin something.
    pub fn with_host<R>(&mut self, host: IpAddr, act: impl FnOnce(&mut H, &mut HostSide<'_>) -> R) -> Option<R> {
        let found = self.hosts.get_mut(&host)?;
        Some(act(found, &mut HostSide { me: host, core: &mut self.core }))
    }

    /// Wakes a shard from outside, as the control plane does.
    pub fn wake(&mut self, shard: usize) {
        if let Some(cpu) = self.core.cpus.get_mut(shard) {
            cpu.woken = true;
        }
    }

    /// One thing happens, unless nothing does before `latest`.
    pub fn step(&mut self, latest: Moment) -> Step {
        let mut next = latest;
        let mut ready: Option<usize> = None;
        for (index, shard) in self.shards.iter().enumerate() {
            let Some(shard) = shard else { continue };
            let cpu = &self.core.cpus[index];
            let wanted = match cpu.wait {
                _ if cpu.woken || !cpu.inbox.is_empty() || shard.has_mail() => cpu.free_at,
                Wait::Poll => cpu.free_at,
                Wait::Until(moment) => moment.max(cpu.free_at),
                Wait::Stop => continue,
            };
            if wanted < next {
                (next, ready) = (wanted, Some(index));
            }
        }
        if let Some(Reverse(entry)) = self.core.agenda.peek()
            && entry.at <= next
        {
            let Some(Reverse(entry)) = self.core.agenda.pop() else { unreachable!("just seen") };
            self.core.advance(entry.at);
            self.happen(entry.what);
            return Step::Went;
        }
        self.core.advance(next);
        let Some(index) = ready else { return Step::Waited };
        self.run_shard(index);
        if self.core.dead { Step::Killed } else { Step::Went }
    }

    fn run_shard(&mut self, me: usize) {
        let core = &mut self.core;
        let Some(shard) = &mut self.shards[me] else { return };
        core.cpus[me].woken = false;
        let waiting = core.cpus[me].inbox.len();
        // As the kernel has it: all that is ready, or what was ready a moment ago.
        let batch =
            if waiting > 1 && core.rng.one_in(4) { core.rng.below(waiting as u64) as usize + 1 } else { waiting };
        for _ in 0..batch {
            let Some(event) = core.cpus[me].inbox.pop_front() else { break };
            core.deliver(me, event, shard);
            if core.dead {
                return;
            }
        }
        core.counts.turns += 1;
        let now = core.now;
        let wait = shard.turn(now, &mut Side { me, core });
        if core.dead {
            return;
        }
        let (least, more) = core.turn_us;
        let cost = Duration::from_micros(least + core.rng.below(more + 1));
        let cpu = &mut core.cpus[me];
        cpu.wait = wait;
        cpu.free_at = now.mono + cost;
        let restless = match wait {
            Wait::Poll => true,
            Wait::Until(moment) => moment <= cpu.free_at,
            Wait::Stop => false,
        };
        cpu.restless = if restless && batch == 0 { cpu.restless + 1 } else { 0 };
        if cpu.restless > SPIN {
            core.spins = Some(me);
        }
        if wait == Wait::Stop {
            core.trace.record(now.mono, &me, "stop", core.net.tables[me].open() as u64, &[]);
            self.shards[me] = None;
            core.stop_cpu(me, End::Killed);
        }
    }

    fn happen(&mut self, what: What) {
        let core = &mut self.core;
        let now = core.now.mono;
        match what {
            What::Knock(id) => {
                let Some(link) = core.net.links.get(&id) else { return };
                let (ip, port, shard, datagram) = (link.host, link.to.port(), link.shard, link.datagram);
                if !link.relay_open || core.net.paths.get(&ip).is_some_and(|path| path.silent) {
                    core.net.forget_if_over(id);
                    return;
                }
                let listens = self.hosts.get(&ip).map(|host| host.listens(port));
                match listens {
                    Some(true) if datagram => {}
                    Some(true) => {
                        core.to_relay(id, What::Connected(id));
                        if let Some(link) = core.net.links.get_mut(&id) {
                            link.host_open = true;
                        }
                        let from = IpAddr::from([127, 0, 0, 1 + (shard % 200) as u8]);
                        self.tell_host(ip, HostEvent::Accepted { link: id, port, from });
                    }
                    Some(false) => core.to_relay(id, What::RelayFailed(id, libc::ECONNREFUSED)),
                    None => core.to_relay(id, What::RelayFailed(id, libc::EHOSTUNREACH)),
                }
            }
            What::Call(id, listener, peer) => {
                let Some(link) = core.net.links.get(&id) else { return };
                let (ip, open) = (link.host, link.host_open);
                let open = open && !link.vanished;
                let listening: Vec<usize> = (0..core.cpus.len()).filter(|cpu| core.cpus[*cpu].listening).collect();
                if listening.is_empty() || !open {
                    core.net.links.remove(&id);
                    if open {
                        self.tell_host(ip, HostEvent::Failed { link: id });
                    }
                    return;
                }
                let shard = *core.rng.pick(&listening);
                let conn = core.net.socket(shard, id, false);
                if let Some(link) = core.net.links.get_mut(&id) {
                    (link.shard, link.relay_open) = (shard, true);
                }
                core.to_host(id, What::ConnectedToRelay(id));
                core.cpus[shard].inbox.push_back(ToShard::Accepted { conn, listener, peer });
            }
            What::ConnectedToRelay(id) => {
                if let Some(ip) = core.host_end(id) {
                    self.tell_host(ip, HostEvent::Connected { link: id });
                }
            }
            What::Connected(id) => {
                if let Some((shard, conn)) = core.relay_end(id) {
                    core.cpus[shard].inbox.push_back(ToShard::Connected(conn));
                }
            }
            What::ToRelay(id, bytes) => {
                let Some((shard, conn)) = core.relay_end(id) else {
                    // Nobody there any more: a reset.
                    if core.host_end(id).is_some() {
                        core.to_host(id, What::HostFailed(id));
                    }
                    return;
                };
                let Some(sock) = core.net.tables[shard].get(conn) else { return };
                sock.received.push_back(bytes);
                core.look(shard, conn);
            }
            What::RelayEnd(id) => {
                let Some((shard, conn)) = core.relay_end(id) else { return };
                let Some(sock) = core.net.tables[shard].get(conn) else { return };
                sock.ended = true;
                core.look(shard, conn);
            }
            What::RelayFailed(id, errno) => {
                let Some((shard, conn)) = core.relay_end(id) else { return };
                let Some(sock) = core.net.tables[shard].get(conn) else { return };
                if !sock.over {
                    sock.over = true;
                    sock.received.clear();
                    core.cpus[shard].inbox.push_back(ToShard::Failed(conn, errno));
                }
            }
            What::ToHost(id, bytes) => self.to_host(id, bytes),
            What::HostEnd(id) => {
                let Some(link) = core.net.links.get_mut(&id) else { return };
                link.fin = true;
                if link.unread.is_empty()
                    && let Some(ip) = core.host_end(id)
                {
                    self.tell_host(ip, HostEvent::Ended { link: id });
                }
                self.core.net.forget_if_over(id);
            }
            What::HostFailed(id) => {
                if let Some(ip) = core.host_end(id) {
                    if let Some(link) = core.net.links.get_mut(&id) {
                        link.host_open = false;
                    }
                    self.tell_host(ip, HostEvent::Failed { link: id });
                }
                self.core.net.forget_if_over(id);
            }
            What::HostReads(id) => {
                let Some(link) = core.net.links.get_mut(&id) else { return };
                let octets = match link.reading {
                    Reading::All => link.unread.len(),
                    Reading::Slow { octets, .. } => octets.min(link.unread.len()),
                    Reading::Nothing => 0,
                };
                let bytes: Vec<u8> = link.unread.drain(..octets).collect();
                self.host_takes(id, &bytes);
                let core = &mut self.core;
                let Some(link) = core.net.links.get(&id) else { return };
                if let Reading::Slow { every, .. } = link.reading
                    && (!link.unread.is_empty() || !link.fin)
                {
                    core.plan(now + every, What::HostReads(id));
                } else if link.fin
                    && link.unread.is_empty()
                    && let Some(ip) = core.host_end(id)
                {
                    self.tell_host(ip, HostEvent::Ended { link: id });
                }
            }
            What::Room(id, octets) => {
                let Some(link) = core.net.links.get_mut(&id) else { return };
                link.used = link.used.saturating_sub(octets);
                let enough = link.used <= link.window / 2;
                let Some((shard, conn)) = core.relay_end(id) else { return };
                let Some(sock) = core.net.tables[shard].get(conn) else { return };
                if enough && std::mem::take(&mut sock.waiting) {
                    core.cpus[shard].inbox.push_back(ToShard::Writable(conn));
                }
            }
            What::Timer(ip, token) => self.tell_host(ip, HostEvent::Timer { token }),
            What::File(shard, op) => {
                let done = core.file(op);
                if shard < core.cpus.len() {
                    core.cpus[shard].inbox.push_back(ToShard::File(FileOp::Done(done)));
                }
            }
            What::Look(shard, conn) => core.look(shard, conn),
        }
    }

    fn to_host(&mut self, id: LinkId, bytes: Vec<u8>) {
        let core = &mut self.core;
        let Some(link) = core.net.links.get_mut(&id) else { return };
        if link.datagram {
            let (ip, port) = (link.host, link.to.port());
            match self.hosts.get(&ip).map(|host| host.listens(port)) {
                Some(true) => self.tell_host(ip, HostEvent::Datagram { link: id, port, bytes: &bytes }),
                // An ICMP message.
                _ => core.to_relay(id, What::RelayFailed(id, libc::ECONNREFUSED)),
            }
        } else if link.vanished {
            // Nobody takes it, nobody says so.
        } else if !link.host_open {
            core.to_relay(id, What::RelayFailed(id, libc::ECONNRESET));
        } else if link.reading == Reading::All && link.unread.is_empty() {
            self.host_takes(id, &bytes);
        } else {
            link.unread.extend(bytes);
        }
    }

    /// The host reads, which makes room in the relay's window.
    fn host_takes(&mut self, id: LinkId, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let core = &mut self.core;
        core.to_relay(id, What::Room(id, bytes.len()));
        if let Some(ip) = core.host_end(id) {
            self.tell_host(ip, HostEvent::Received { link: id, bytes });
        }
    }

    fn tell_host(&mut self, ip: IpAddr, event: HostEvent<'_>) {
        let core = &mut self.core;
        let (what, n, bytes): (_, _, &[u8]) = match &event {
            HostEvent::Accepted { link, .. } => ("accepts", link.0, &[]),
            HostEvent::Connected { link } => ("connected", link.0, &[]),
            HostEvent::Received { link, bytes } => ("receives", link.0, bytes),
            HostEvent::Datagram { link, bytes, .. } => ("datagram", link.0, bytes),
            HostEvent::Ended { link } => ("ended", link.0, &[]),
            HostEvent::Failed { link } => ("failed", link.0, &[]),
            HostEvent::Timer { token } => ("timer", *token, &[]),
        };
        core.trace.record(core.now.mono, &ip, what, n, bytes);
        if let Some(host) = self.hosts.get_mut(&ip) {
            host.handle(event, &mut HostSide { me: ip, core });
        }
    }
}

impl Core {
    /// Sockets that `shard` has open.
    pub fn open_sockets(&self, shard: usize) -> usize {
        self.net.tables.get(shard).map_or(0, net::Table::open)
    }

    /// Octets that hosts sent on `link` and a shard has taken in.
    pub fn handed(&self, link: LinkId) -> u64 {
        self.handed.get(&link).copied().unwrap_or(0)
    }

    /// From now on the relay may have `most` connections at once to all of `hosts` together, standing or attempted.
    pub fn cap(&mut self, hosts: impl IntoIterator<Item = IpAddr>, most: usize) {
        let group = self.caps.groups.len();
        self.caps.groups.push((0, most));
        self.caps.of.extend(hosts.into_iter().map(|host| (host, group)));
    }

    /// Moments at which the relay had more connections than [`Core::cap`] allows: host, connections, bound.
    pub fn over_cap(&self) -> &[(Moment, IpAddr, usize, usize)] {
        &self.caps.over
    }

    fn count_connection(&mut self, host: IpAddr, begins: bool) {
        let Some(&group) = self.caps.of.get(&host) else { return };
        let (open, most) = &mut self.caps.groups[group];
        if !begins {
            *open -= 1;
            return;
        }
        *open += 1;
        if open > most {
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
            self.to_relay(id, What::RelayFailed(id, libc::ECONNRESET));
            self.to_host(id, What::HostFailed(id));
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

    fn advance(&mut self, to: Moment) {
        self.now.mono = self.now.mono.max(to);
        self.now.wall = Wall((self.wall_origin + self.now.mono.0 / 1_000_000).saturating_add_signed(self.wall_offset));
    }

    fn plan(&mut self, at: Moment, what: What) {
        self.planned += 1;
        self.agenda.push(Reverse(Entry { at: at.max(self.now.mono), number: self.planned, what }));
    }

    /// Plans what reaches the relay's end of a link, behind all that is under way to it.
    fn to_relay(&mut self, id: LinkId, what: What) {
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
    fn to_host(&mut self, id: LinkId, what: What) {
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
    fn relay_end(&self, id: LinkId) -> Option<(usize, ConnId)> {
        self.net.links.get(&id).filter(|link| link.relay_open).map(|link| (link.shard, link.conn))
    }

    /// The host of a link whose end there is open.
    fn host_end(&self, id: LinkId) -> Option<IpAddr> {
        self.net.links.get(&id).filter(|link| link.host_open && !link.vanished).map(|link| link.host)
    }

    /// Lets a shard look at a socket that has something.
    fn look(&mut self, shard: usize, conn: ConnId) {
        let Some(sock) = self.net.tables.get_mut(shard).and_then(|table| table.get(conn)) else { return };
        if !sock.over && !sock.told && (!sock.paused || self.rng.one_in(4)) {
            sock.told = true;
            self.cpus[shard].inbox.push_back(ToShard::Readable(conn));
        }
    }

    /// Hands an event to its shard.
    fn deliver(&mut self, me: usize, event: ToShard, shard: &mut impl Shard) {
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
                *self.handed.entry(sock.link).or_default() += bytes.len() as u64;
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

    fn is_live(&mut self, shard: usize, conn: ConnId) -> bool {
        self.net.tables[shard].get(conn).is_some_and(|sock| !sock.over)
    }

    fn file(&mut self, op: FileOp) -> Event<'static> {
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

    fn end_process(&mut self, end: End) {
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
    fn stop_cpu(&mut self, me: usize, end: End) {
        let table = std::mem::take(&mut self.net.tables[me]);
        let links: Vec<LinkId> = table.links().collect();
        for id in links {
            let Some(link) = self.net.links.get_mut(&id) else { continue };
            link.relay_open = false;
            let (host, made) = (link.host, link.to.port() != 0 && !link.datagram);
            if made {
                self.count_connection(host, false);
            }
            match end {
                End::Killed if self.rng.one_in(4) => self.to_host(id, What::HostFailed(id)),
                End::Killed => self.to_host(id, What::HostEnd(id)),
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
    let cut = if piece.len() > 1 && rng.one_in(8) { rng.within(1..piece.len() as u64) as usize } else { PIECE };
    if piece.len() > cut {
        sock.received.push_front(piece.split_off(cut));
    }
    Some(piece)
}

/// The world as one shard sees it.
struct Side<'a> {
    me: usize,
    core: &'a mut Core,
}

impl Side<'_> {
    /// Counts an effect; false if the process did not live to have it.
    fn lives(&mut self, what: &'static str, n: u64, bytes: &[u8]) -> bool {
        let core = &mut *self.core;
        if core.dead {
            return false;
        }
        core.counts.effects += 1;
        if core.kill_at.is_some_and(|at| core.counts.effects >= at) {
            core.dead = true;
            core.trace.record(core.now.mono, &self.me, "killed", core.counts.effects, &[]);
            return false;
        }
        core.trace.record(core.now.mono, &self.me, what, n, bytes);
        true
    }

    fn disk(&mut self, op: FileOp) {
        let core = &mut *self.core;
        let (least, more) = core.pace.latency_us;
        let at = core.now.mono + Duration::from_micros(least + core.rng.below(more + 1));
        core.plan(at.max(core.pace.stalled_until), What::File(self.me, op));
    }

    fn path(&self, file: FileNo) -> PathBuf {
        self.core.cpus[self.me].files.get(&file).cloned().unwrap_or_default()
    }

    fn open(&mut self, to: SocketAddr, datagram: bool) -> io::Result<ConnId> {
        let core = &mut *self.core;
        if core.net.refuse_local > 0 && !core.dead {
            core.net.refuse_local -= 1;
            return Err(io::Error::from_raw_os_error(if datagram { libc::EMFILE } else { libc::EADDRNOTAVAIL }));
        }
        let (least, more) = core.window;
        let window = least + core.rng.below(more as u64 + 1) as usize;
        let id = core.net.link(self.me, to.ip(), to, datagram, window);
        let conn = core.net.socket(self.me, id, datagram);
        if !datagram {
            core.count_connection(to.ip(), true);
        }
        if !datagram && !core.dead {
            core.to_host(id, What::Knock(id));
        }
        Ok(conn)
    }
}

impl Io for Side<'_> {
    fn connect(&mut self, to: SocketAddr, _: Option<IpAddr>) -> io::Result<ConnId> {
        self.lives("connect", u64::from(to.port()), to.ip().to_string().as_bytes());
        self.open(to, false)
    }

    fn datagram(&mut self, to: SocketAddr) -> io::Result<ConnId> {
        self.lives("datagram", u64::from(to.port()), to.ip().to_string().as_bytes());
        self.open(to, true)
    }

    fn write(&mut self, conn: ConnId, parts: &[IoSlice<'_>]) -> usize {
        let all = parts.iter().map(|part| part.len()).sum();
        let me = self.me;
        let Some(sock) = self.core.net.tables[me].get(conn) else { return all };
        if sock.over {
            return all;
        }
        let id = sock.link;
        let Some(link) = self.core.net.links.get_mut(&id) else { return all };
        let taken = if link.datagram { all } else { all.min(link.window.saturating_sub(link.used)) };
        let mut bytes = Vec::with_capacity(taken);
        for part in parts {
            bytes.extend_from_slice(&part[..part.len().min(taken - bytes.len())]);
        }
        let datagram = link.datagram;
        if !self.lives("write", u64::from(conn.slot), &bytes) {
            return all;
        }
        let core = &mut *self.core;
        if taken < all
            && let Some(sock) = core.net.tables[me].get(conn)
        {
            sock.waiting = true;
        }
        if bytes.is_empty() {
            return taken;
        }
        if datagram {
            core.send_datagram(id, |id, bytes| What::ToHost(id, bytes), true, bytes);
        } else {
            if let Some(link) = core.net.links.get_mut(&id) {
                link.used += taken;
            }
            core.to_host(id, What::ToHost(id, bytes));
        }
        taken
    }

    fn pause(&mut self, conn: ConnId) {
        if let Some(sock) = self.core.net.tables[self.me].get(conn) {
            sock.paused = true;
        }
    }

    fn resume(&mut self, conn: ConnId) {
        let (me, core) = (self.me, &mut *self.core);
        if let Some(sock) = core.net.tables[me].get(conn) {
            sock.paused = false;
            core.plan(core.now.mono, What::Look(me, conn));
        }
    }

    fn shutdown(&mut self, conn: ConnId) {
        if !self.lives("shutdown", u64::from(conn.slot), &[]) {
            return;
        }
        let core = &mut *self.core;
        if let Some(id) = core.net.tables[self.me].get(conn).map(|sock| sock.link) {
            core.to_host(id, What::HostEnd(id));
        }
    }

    fn close(&mut self, conn: ConnId) {
        if !self.lives("close", u64::from(conn.slot), &[]) {
            return;
        }
        let core = &mut *self.core;
        let Some(sock) = core.net.tables[self.me].remove(conn) else { return };
        let id = sock.link;
        let Some(link) = core.net.links.get_mut(&id) else { return };
        link.relay_open = false;
        let (host, made) = (link.host, link.to.port() != 0 && !link.datagram);
        let forgotten = link.datagram || link.vanished;
        if made {
            core.count_connection(host, false);
        }
        if forgotten {
            core.net.links.remove(&id);
        } else if !sock.received.is_empty() {
            core.to_host(id, What::HostFailed(id));
        } else {
            core.to_host(id, What::HostEnd(id));
        }
    }

    fn stop_listening(&mut self) {
        if self.lives("stop listening", 0, &[]) {
            self.core.cpus[self.me].listening = false;
        }
    }

    fn create_file(&mut self, file: FileNo, path: &FilePath, bytes: u64) {
        self.core.cpus[self.me].files.insert(file, path.to_owned());
        if self.lives("create", u64::from(file), &[]) {
            self.disk(FileOp::Create { file, path: path.to_owned(), bytes });
        }
    }

    fn open_file(&mut self, file: FileNo, path: &FilePath) -> io::Result<()> {
        self.core.cpus[self.me].files.insert(file, path.to_owned());
        Ok(())
    }

    fn write_durable(&mut self, token: u64, file: FileNo, offset: u64, buffer: Arc<Buffer>, start: usize) {
        if self.lives("write durable", offset, &buffer[start..]) {
            let path = self.path(file);
            self.disk(FileOp::Write { token, path, offset, buffer, start });
        }
    }

    fn read_file(&mut self, token: u64, file: FileNo, offset: u64, buffer: Buffer) {
        if self.lives("read", offset, &[]) {
            let path = self.path(file);
            self.disk(FileOp::Read { token, path, offset, buffer });
        }
    }

    fn remove_file(&mut self, file: FileNo, path: &FilePath) {
        if self.lives("remove", u64::from(file), &[]) {
            self.disk(FileOp::Remove { file, path: path.to_owned() });
        }
    }

    fn wake(&mut self, shard: usize) {
        if let Some(cpu) = self.core.cpus.get_mut(shard) {
            cpu.woken = true;
        }
    }

    fn random(&mut self) -> u64 {
        self.core.rng.next()
    }
}

impl Core {
    fn send_datagram(&mut self, id: LinkId, what: impl Fn(LinkId, Vec<u8>) -> What, outward: bool, bytes: Vec<u8>) {
        let Some(host) = self.net.links.get(&id).map(|link| link.host) else { return };
        let path = self.net.paths.get(&host).cloned().unwrap_or_default();
        if path.silent || path.cut_until > self.now.mono || self.rng.permille(path.loss_permille) {
            return;
        }
        let times = if self.rng.permille(path.twice_permille) { 2 } else { 1 };
        for _ in 0..times {
            let what = what(id, bytes.clone());
            if outward { self.to_host(id, what) } else { self.to_relay(id, what) }
        }
    }
}

/// What a host can do.
pub struct HostSide<'a> {
    me: IpAddr,
    core: &'a mut Core,
}

impl HostSide<'_> {
    /// Both clocks; the wall clock is the relay's.
    pub fn now(&self) -> Now {
        self.core.now
    }

    /// Choices.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.core.rng
    }

    /// The host's own address.
    pub fn address(&self) -> IpAddr {
        self.me
    }

    /// Begins a connection to the relay's listener number `listener`; `Connected` or `Failed` follows.
    pub fn connect(&mut self, listener: usize) -> LinkId {
        let core = &mut *self.core;
        let port = 1024 + core.rng.below(60_000) as u16;
        let (least, more) = core.window;
        let window = least + core.rng.below(more as u64 + 1) as usize;
        let id = core.net.link(0, self.me, SocketAddr::new(self.me, 0), false, window);
        if let Some(link) = core.net.links.get_mut(&id) {
            (link.relay_open, link.host_open) = (false, true);
        }
        let at = core.net.arrival(self.me, core.now.mono, &mut core.rng);
        core.plan(at, What::Call(id, listener, SocketAddr::new(self.me, port)));
        id
    }

    /// Sends octets. Whatever the relay does with them, the host does not wait.
    pub fn write(&mut self, link: LinkId, bytes: &[u8]) {
        if self.core.host_end(link).is_some() && !bytes.is_empty() {
            self.core.to_relay(link, What::ToRelay(link, bytes.to_vec()));
        }
    }

    /// Answers a datagram. `forged` ones claim to come from the host that was asked, as an attacker's do.
    pub fn datagram(&mut self, link: LinkId, bytes: &[u8]) {
        self.core.send_datagram(link, |id, bytes| What::ToRelay(id, bytes), false, bytes.to_vec());
    }

    /// Closes: what was sent arrives, then the end.
    pub fn close(&mut self, link: LinkId) {
        if self.core.host_end(link).is_some() {
            self.core.to_relay(link, What::RelayEnd(link));
            self.gone(link);
        }
    }

    /// Resets the connection: what is under way to the relay may be lost.
    pub fn reset(&mut self, link: LinkId) {
        if self.core.host_end(link).is_some() {
            self.core.to_relay(link, What::RelayFailed(link, libc::ECONNRESET));
            self.gone(link);
        }
    }

    fn gone(&mut self, link: LinkId) {
        if let Some(link) = self.core.net.links.get_mut(&link) {
            link.host_open = false;
        }
        self.core.net.forget_if_over(link);
    }

    /// The host forgets the connection without a word: the relay's end stands half-open.
    pub fn vanish(&mut self, link: LinkId) {
        if let Some(link) = self.core.net.links.get_mut(&link) {
            (link.host_open, link.vanished) = (false, true);
        }
        self.core.net.forget_if_over(link);
    }

    /// From now on the host reads like this.
    pub fn read(&mut self, link: LinkId, reading: Reading) {
        let core = &mut *self.core;
        if let Some(l) = core.net.links.get_mut(&link) {
            l.reading = reading;
            core.plan(core.now.mono, What::HostReads(link));
        }
    }

    /// `Timer` with `token` comes after `delay`.
    pub fn timer(&mut self, delay: Duration, token: u64) {
        let core = &mut *self.core;
        core.plan(core.now.mono + delay, What::Timer(self.me, token));
    }

    /// A remark in the trace.
    pub fn remark(&mut self, text: &str) {
        self.core.trace.remark(self.core.now.mono, text);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({} {})", self.host, self.to)
    }
}
