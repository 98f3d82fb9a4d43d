//! The simulated network: connections between the shards of the relay and named hosts, as byte streams with latency, and
//! what happens to them.
//!
//! Inputs: writes, closes and settings of both ends. Outputs: arrivals on the agenda. A stream is never reordered; what
//! is on its way is lost only with its connection. Refuses: to bound what a host sends (that is what a relay must bear).

use super::rng::Rng;
use crate::rt::ConnId;
use crate::time::Moment;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A connection as its host knows it: never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u64);

/// How fast a host reads what the relay sends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading {
    /// At once.
    All,
    /// So many octets at a time, one time after the other.
    Slow {
        /// Octets.
        octets: usize,
        /// Pause before each.
        every: Duration,
    },
    /// Not at all: the window fills.
    Nothing,
}

/// The way between the relay and a host.
#[derive(Clone, Debug)]
pub struct Path {
    /// One way, microseconds: from, and so much more at most.
    pub latency_us: (u64, u64),
    /// Datagrams that do not arrive, in a thousand.
    pub loss_permille: u32,
    /// Datagrams that arrive twice, in a thousand.
    pub twice_permille: u32,
    /// Nothing arrives before this moment: what is sent before is repeated until it does.
    pub cut_until: Moment,
    /// Connection attempts meet nothing: no answer.
    pub silent: bool,
}

impl Default for Path {
    fn default() -> Self {
        Path { latency_us: (50, 100), loss_permille: 0, twice_permille: 0, cut_until: Moment(0), silent: false }
    }
}

/// The relay's end of a connection or datagram socket.
pub(super) struct Sock {
    pub link: LinkId,
    pub datagram: bool,
    pub paused: bool,
    /// What arrived and was not handed over.
    pub received: VecDeque<Vec<u8>>,
    pub ended: bool,
    /// An event that will look into `received` is under way.
    pub told: bool,
    /// A write was not taken whole.
    pub waiting: bool,
    /// Nothing more comes of it.
    pub over: bool,
}

/// One shard's sockets: slots and generations, as the real backend has them.
#[derive(Default)]
pub(super) struct Table {
    slots: Vec<(u32, Option<Sock>)>,
    free: Vec<u32>,
}

impl Table {
    pub fn insert(&mut self, sock: Sock) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u32::try_from(self.slots.len() - 1).expect("few sockets")
        });
        let entry = &mut self.slots[slot as usize];
        entry.0 += 1;
        entry.1 = Some(sock);
        ConnId { slot, generation: entry.0 }
    }

    pub fn get(&mut self, conn: ConnId) -> Option<&mut Sock> {
        let (generation, sock) = self.slots.get_mut(conn.slot as usize)?;
        if *generation == conn.generation { sock.as_mut() } else { None }
    }

    pub fn remove(&mut self, conn: ConnId) -> Option<Sock> {
        self.get(conn)?;
        self.free.push(conn.slot);
        self.slots[conn.slot as usize].1.take()
    }

    pub fn open(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn links(&self) -> impl Iterator<Item = LinkId> {
        self.slots.iter().filter_map(|(_, sock)| sock.as_ref()).map(|sock| sock.link)
    }
}

/// A connection.
pub(super) struct Link {
    pub shard: usize,
    pub conn: ConnId,
    pub host: IpAddr,
    /// The relay's idea of the other end.
    pub to: SocketAddr,
    /// The local address the relay asked for.
    pub from: Option<IpAddr>,
    /// The shard that the host wants.
    pub only: Option<usize>,
    pub datagram: bool,
    pub relay_open: bool,
    pub host_open: bool,
    /// The host is gone without a word: what is sent to it vanishes.
    pub vanished: bool,
    /// Octets the relay may have under way and unread.
    pub window: usize,
    /// Octets that it has.
    pub used: usize,
    pub reading: Reading,
    /// Arrived at the host, unread.
    pub unread: VecDeque<u8>,
    /// The relay's end was closed; told when all is read.
    pub fin: bool,
    pub last_to_relay: Moment,
    pub last_to_host: Moment,
}

/// All connections, and the ways to the hosts.
#[derive(Default)]
pub(super) struct Net {
    pub links: BTreeMap<LinkId, Link>,
    next: u64,
    pub paths: BTreeMap<IpAddr, Path>,
    pub tables: Vec<Table>,
    /// Local ports are in use: the next so many connects or datagram sockets fail.
    pub refuse_local: u32,
}

impl Net {
    /// Makes a link between `conn` of `shard` and `host`.
    pub fn link(&mut self, shard: usize, host: IpAddr, to: SocketAddr, datagram: bool, window: usize) -> LinkId {
        self.next += 1;
        let id = LinkId(self.next);
        let link = Link {
            shard,
            conn: ConnId { slot: u32::MAX, generation: 0 },
            host,
            to,
            from: None,
            only: None,
            datagram,
            relay_open: true,
            host_open: false,
            vanished: false,
            window,
            used: 0,
            reading: Reading::All,
            unread: VecDeque::new(),
            fin: false,
            last_to_relay: Moment(0),
            last_to_host: Moment(0),
        };
        self.links.insert(id, link);
        id
    }

    /// The relay's end of `link`.
    pub fn socket(&mut self, shard: usize, link: LinkId, datagram: bool) -> ConnId {
        let conn = self.tables[shard].insert(Sock {
            link,
            datagram,
            paused: false,
            received: VecDeque::new(),
            ended: false,
            told: false,
            waiting: false,
            over: false,
        });
        if let Some(link) = self.links.get_mut(&link) {
            link.conn = conn;
        }
        conn
    }

    /// When something sent now to or from `host` arrives.
    pub fn arrival(&self, host: IpAddr, now: Moment, rng: &mut Rng) -> Moment {
        let usual = Path::default();
        let path = self.paths.get(&host).unwrap_or(&usual);
        let (least, more) = path.latency_us;
        let arrival = now + Duration::from_micros(least + rng.below(more + 1));
        if arrival < path.cut_until {
            // Somewhere between two repetitions when the way is open again.
            return path.cut_until + Duration::from_millis(200 + rng.below(3000));
        }
        arrival
    }

    /// Both ends are done with it.
    pub fn forget_if_over(&mut self, id: LinkId) {
        if self.links.get(&id).is_some_and(|link| !link.relay_open && !link.host_open) {
            self.links.remove(&id);
        }
    }
}
