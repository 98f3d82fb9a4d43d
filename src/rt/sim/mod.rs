//! The simulated backend: shards, a network of named hosts and a disk, in one thread, on virtual time, from one seed.
//!
//! [`Sim`] stands where `uring`'s driver stands: it hands a [`Shard`] its events and is its [`Io`](super::Io). Which event comes
//! when, how it is cut, which shard runs first and how long it is busy is drawn from the seed, so the same seed and the
//! same calls give the same run, and [`Trace`] proves it. Time moves only when nothing is due.
//!
//! A process can be ended between any two of its effects ([`Sim::kill_at_effect`]): what it did until then has happened,
//! what it does afterwards has not. Refuses: threads, clocks, and every source of chance but its own.

mod core;
pub mod disk;
mod host;
pub mod marks;
mod net;
pub mod rng;
mod shard_io;
pub mod tls;
pub mod trace;

pub use self::core::{Begun, Core, Counts, DiskPace};
pub use disk::{DiskFault, DiskOp, End, Scar, SimDisk};
pub use host::{Host, HostEvent, HostSide};
pub use marks::Marks;
pub use net::{LinkId, Path, Reading};
pub use rng::Rng;
pub use trace::Trace;

use self::core::{Cpu, FileOp, ToShard, What};
use super::{Shard, Wait};
use crate::time::{Moment, Now};
use shard_io::Side;
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// The number of an I/O error.
pub const EIO: i32 = libc::EIO;
/// The number of a full disk.
pub const ENOSPC: i32 = libc::ENOSPC;

/// Turns of one shard in a row, without an event in between and without rest, after which it is said to spin.
const SPIN: u32 = 50_000;

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
        let core = Core::new(seed, wall);
        Sim { shards: Vec::new(), hosts: BTreeMap::new(), core }
    }

    /// Starts the process. The one before must have ended.
    pub fn start(&mut self, shards: Vec<S>) {
        let core = &mut self.core;
        core.trace.record(core.now.mono, &"world", "start", shards.len() as u64, &[]);
        core.dead = false;
        core.kill_at = None;
        core.kill_in_write = None;
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

    /// The process ends when it has begun its `writes`-th durable write from now: that one is under way.
    pub fn kill_in_write(&mut self, writes: u64) {
        self.core.kill_in_write = Some(writes);
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
                let from = link.from;
                if !link.relay_open || core.net.paths.get(&ip).is_some_and(|path| path.silent) {
                    core.net.forget_if_over(id);
                    return;
                }
                let listens = self.hosts.get(&ip).map(|host| host.listens(port));
                match listens {
                    Some(true) if datagram => {}
                    Some(true) => {
                        core.send_to_relay(id, What::Connected(id));
                        if let Some(link) = core.net.links.get_mut(&id) {
                            link.host_open = true;
                        }
                        let from = from.unwrap_or_else(|| IpAddr::from([127, 0, 0, 1 + (shard % 200) as u8]));
                        self.tell_host(ip, HostEvent::Accepted { link: id, port, from });
                    }
                    Some(false) => core.send_to_relay(id, What::RelayFailed(id, libc::ECONNREFUSED)),
                    None => core.send_to_relay(id, What::RelayFailed(id, libc::EHOSTUNREACH)),
                }
            }
            What::Call(id, listener, peer) => {
                let Some(link) = core.net.links.get(&id) else { return };
                let (ip, open) = (link.host, link.host_open);
                let open = open && !link.vanished;
                let asked = |cpu: usize| link.only.is_none_or(|only| only == cpu);
                let listening: Vec<usize> =
                    (0..core.cpus.len()).filter(|cpu| core.cpus[*cpu].listening && asked(*cpu)).collect();
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
                core.send_to_host(id, What::ConnectedToRelay(id));
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
            What::Dial(id, to, from, done) => {
                let Some(link) = core.net.links.get(&id).filter(|link| link.relay_open && link.host_open) else {
                    return;
                };
                let (proxy, ip) = (link.host, to.ip());
                if core.net.paths.get(&ip).is_some_and(|path| path.silent) {
                    return;
                }
                match self.hosts.get(&ip).map(|host| host.listens(to.port())) {
                    Some(true) => {
                        core.count_connection(proxy, None, false);
                        core.count_connection(ip, Some(from), true);
                        core.send_to_relay(id, What::ToRelay(id, done));
                        if let Some(link) = core.net.links.get_mut(&id) {
                            (link.host, link.to, link.from) = (ip, to, Some(from));
                        }
                        self.tell_host(proxy, HostEvent::Reached { link: id });
                        self.tell_host(ip, HostEvent::Accepted { link: id, port: to.port(), from });
                    }
                    listens => self.tell_host(proxy, HostEvent::Unreached { link: id, refused: listens.is_some() }),
                }
            }
            What::ToRelay(_, bytes) if bytes.is_empty() => {}
            What::ToRelay(id, bytes) => {
                let Some((shard, conn)) = core.relay_end(id) else {
                    // Nobody there any more: a reset.
                    if core.host_end(id).is_some() {
                        core.send_to_host(id, What::HostFailed(id));
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
            What::ToHost(id, bytes) => self.send_to_host(id, bytes),
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

    fn send_to_host(&mut self, id: LinkId, bytes: Vec<u8>) {
        let core = &mut self.core;
        let Some(link) = core.net.links.get_mut(&id) else { return };
        if link.datagram {
            let (ip, port) = (link.host, link.to.port());
            match self.hosts.get(&ip).map(|host| host.listens(port)) {
                Some(true) => self.tell_host(ip, HostEvent::Datagram { link: id, port, bytes: &bytes }),
                // An ICMP message.
                _ => core.send_to_relay(id, What::RelayFailed(id, libc::ECONNREFUSED)),
            }
        } else if link.vanished {
            // Nobody takes it, nobody says so.
        } else if !link.host_open {
            core.send_to_relay(id, What::RelayFailed(id, libc::ECONNRESET));
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
        core.send_to_relay(id, What::Room(id, bytes.len()));
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
            HostEvent::Reached { link } => ("reached", link.0, &[]),
            HostEvent::Unreached { link, .. } => ("unreached", link.0, &[]),
            HostEvent::Timer { token } => ("timer", *token, &[]),
        };
        core.trace.record(core.now.mono, &ip, what, n, bytes);
        if let Some(host) = self.hosts.get_mut(&ip) {
            host.handle(event, &mut HostSide { me: ip, core });
        }
    }
}
