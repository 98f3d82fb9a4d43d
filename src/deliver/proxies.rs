//! Connections through a source's proxy: what is said to it before the host is heard, and what becomes of a source whose proxy
//! fails.
//!
//! In: events of a connection whose TCP goes to a proxy, the time. Out: octets to it, a connection as if it had been made to the
//! host itself, sources that rest. Lives on the shard that owns the connection. A proxy's faults are ours and no host's: nothing
//! is concluded from them about the destination; the source rests, and its mail goes from another one or waits.

use super::connection::Connection;
use super::{Deliverer, Left};
use crate::config::proxy::ProxySpeaks;
use crate::lease::Scope;
use crate::limits;
use crate::queue::DestinationId;
use crate::rt::{ConnId, Event as RtEvent, Io};
use crate::shard::Turn;
use crate::shard::event::{Notice, NoticeKind};
use crate::smtp::proxy;
use crate::smtp::socks::{Socks, SocksError};
use crate::time::Moment;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, ErrorKind, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

/// A connection's way through a proxy, until the host is at its end.
pub(super) struct Way {
    pub(super) proxy: SocketAddr,
    /// `None`: the PROXY protocol, which has no answer.
    socks: Option<Socks>,
    /// What the proxy is told, and how much of it the socket took.
    out: Vec<u8>,
    at: usize,
    /// TCP to the proxy stands.
    stands: bool,
}

/// Whose fault it is that there is no way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blame {
    /// The host's, as if we had connected ourselves.
    Host,
    /// The proxy's, for this host at least.
    Here,
    /// The proxy's, whoever is to be reached.
    Proxy,
}

impl Way {
    /// Whether the socket took all.
    fn push(&mut self, conn: ConnId, io: &mut dyn Io) -> bool {
        if self.at < self.out.len() {
            self.at += io.write(conn, &[IoSlice::new(&self.out[self.at..])]);
        }
        self.at == self.out.len()
    }

    /// Takes what the proxy sent. `Some`: the host is at the end of the way, and has sent this.
    fn received(&mut self, conn: ConnId, bytes: &[u8], io: &mut dyn Io) -> Result<Option<Vec<u8>>, SocksError> {
        let opened = match &mut self.socks {
            Some(socks) => socks.handle(bytes, &mut self.out)?,
            None => Some(bytes.to_vec()),
        };
        let pushed = self.push(conn, io);
        match opened {
            // It answers what it has not read.
            Some(rest) if !pushed && (self.socks.is_some() || !rest.is_empty()) => Err(SocksError::Hasty),
            opened => Ok(opened.filter(|_| pushed)),
        }
    }

    /// Whom to blame if nothing more comes.
    fn blame(&self) -> Blame {
        if self.socks.as_ref().is_some_and(Socks::awaits_host) && self.at == self.out.len() {
            Blame::Here
        } else {
            Blame::Proxy
        }
    }

    /// Octets of both directions.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn size(&self) -> usize {
        self.out.len() + self.socks.as_ref().map_or(0, Socks::size)
    }
}

/// Sources that rest since their proxies failed, at one site or at all. Each shard finds out for itself.
#[derive(Default)]
pub(super) struct Down {
    until: BTreeMap<(u16, Option<Scope>), (Moment, Arc<str>)>,
    /// In the order of their ends: all rest equally long.
    ends: VecDeque<(Moment, (u16, Option<Scope>))>,
    /// Destinations that could use them, and do not rest as a whole.
    waiting: BTreeSet<DestinationId>,
}

impl Down {
    /// Until when a source rests for a site, and why.
    pub(super) fn rest(&self, source: u16, site: &Scope, now: Moment) -> Option<&(Moment, Arc<str>)> {
        if self.until.is_empty() {
            return None;
        }
        let everywhere = self.until.get(&(source, None));
        let rest = everywhere.or_else(|| self.until.get(&(source, Some(site.clone()))));
        rest.filter(|(until, _)| *until > now)
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.ends.front().map(|(at, _)| *at)
    }

    /// A destination is to be woken when a rest ends.
    pub(super) fn await_end(&mut self, destination: DestinationId) {
        if !self.ends.is_empty() {
            self.waiting.insert(destination);
        }
    }

    #[cfg(any(test, feature = "sim"))]
    pub(super) fn sizes(&self) -> [usize; 2] {
        [self.until.len().max(self.ends.len()), self.waiting.len()]
    }
}

impl Deliverer {
    /// A source's proxy, where it listens, and what it is to be told for a connection to `to`.
    pub(super) fn way(&self, source: Option<u16>, to: SocketAddr) -> Option<Box<Way>> {
        let number = usize::from(source?);
        let source = self.config.sources.list.get(number)?;
        let proxy = source.proxy.as_ref()?;
        let mut out = Vec::new();
        let socks = match &proxy.speaks {
            ProxySpeaks::Socks5 { bind, .. } => {
                let login = self.tables.proxy_logins.get(number).cloned().flatten();
                Some(Socks::new(to, bind.then_some(source.address), login, &mut out))
            }
            ProxySpeaks::Haproxy => {
                // A source connects to hosts of its family only.
                out = proxy::header(source.address, to)?;
                None
            }
        };
        Some(Box::new(Way { proxy: proxy.address, socks, out, at: 0, stands: false }))
    }

    /// Something of a connection whose way is not open yet.
    pub(super) fn on_its_way(&mut self, conn: ConnId, event: RtEvent<'_>, turn: &mut Turn<'_>) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let Some(way) = &mut connection.way else { return };
        let opened = match event {
            RtEvent::Connected { .. } => {
                way.stands = true;
                way.received(conn, &[], turn.io)
            }
            RtEvent::Received { bytes, .. } => way.received(conn, bytes, turn.io),
            RtEvent::Writable { .. } => way.received(conn, &[], turn.io),
            RtEvent::Failed { error, .. } if !way.stands => {
                return self.way_failed(conn, Blame::Proxy, &format!("cannot connect: {error}"), turn);
            }
            RtEvent::Failed { .. } | RtEvent::Ended { .. } => {
                let blame = way.blame();
                return self.way_failed(conn, blame, "the proxy ended the connection", turn);
            }
            _ => return,
        };
        match opened {
            Ok(None) => {}
            Ok(Some(rest)) => {
                connection.way = None;
                self.connected(conn, turn);
                if !rest.is_empty() {
                    self.handle(conn, RtEvent::Received { conn, bytes: &rest }, turn);
                }
            }
            Err(error) => {
                let blame = match error {
                    error if error.is_the_hosts() => Blame::Host,
                    SocksError::Failed(_) => Blame::Here,
                    _ => Blame::Proxy,
                };
                self.way_failed(conn, blame, &error.to_string(), turn);
            }
        }
    }

    /// There was no answer in time.
    pub(super) fn way_timed_out(&mut self, conn: ConnId, turn: &mut Turn<'_>) {
        let Some(way) = self.connections.get(conn).and_then(|connection| connection.way.as_ref()) else { return };
        // What the proxy still tries is the host.
        let blame = if way.blame() == Blame::Here { Blame::Host } else { Blame::Proxy };
        self.way_failed(conn, blame, "no answer to the connection attempt in time", turn);
    }

    fn way_failed(&mut self, conn: ConnId, blame: Blame, why: &str, turn: &mut Turn<'_>) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let (Some(way), Some(source)) = (&connection.way, connection.source) else { return };
        let why = by_proxy(Some(way.proxy), why);
        let is_the_hosts = match blame {
            Blame::Host => !planted!(HostBlamesProxy),
            Blame::Here | Blame::Proxy => planted!(ProxyBlamesHost),
        };
        if is_the_hosts {
            return self.connect_failed(conn, &why, turn);
        }
        turn.report.stats.outbound_connection_failures.add(1);
        let mut others = std::mem::take(&mut connection.others);
        // Nothing is known about this address.
        others.push(connection.attempt);
        let Connection { destination, began, .. } = **connection;
        let (route, plans) = (Rc::clone(&connection.route), Rc::clone(&connection.secure.plans));
        let site = (blame == Blame::Here).then(|| self.source_site(destination));
        self.proxy_failed(source, site, &why, turn);
        let beside = self.beside(conn);
        self.forget(conn, turn);
        self.try_others(destination, beside, Left { route, plans, addresses: others, why, began }, turn);
    }

    /// A source rests, as its proxy does not work: for a site, or for all.
    pub(super) fn proxy_failed(&mut self, source: u16, site: Option<Scope>, why: &str, turn: &mut Turn<'_>) {
        let (now, until) = (turn.now.mono, turn.now.mono + limits::LOCAL_PAUSE);
        let Some(address) = self.source_address(Some(source)) else { return };
        let at = site.clone().unwrap_or_else(|| "all sites".into());
        let down = &mut self.sources.down;
        if down.rest(source, &at, now).is_some() || down.until.len() >= limits::SOURCE_RESTS {
            return;
        }
        down.until.insert((source, site.clone()), (until, why.into()));
        down.ends.push_back((until, (source, site)));
        turn.report.stats.source_rests.add(1);
        let seconds = limits::LOCAL_PAUSE.as_secs();
        let text = format!("{address} rests for {at} for {seconds} s: {why}");
        turn.report.events.push(Notice::event(turn.now.wall, self.me, NoticeKind::SourceRests, text.as_bytes()));
    }

    /// Why mail of a destination waits for one of its sources: a proxy's fault, if there is one.
    pub(super) fn why_sources_rest(&self, destination: DestinationId, now: Moment) -> String {
        let site = self.source_site(destination);
        let pool = self.pools.get(&destination).map_or(0, |pool| pool.from);
        let pool = self.config.sources.pools.get(usize::from(pool)).map_or(&[][..], |pool| &pool.sources);
        let down = pool.iter().find_map(|source| Some((source, self.sources.down.rest(*source, &site, now)?)));
        let every = "every source address of its pool rests for this site";
        match down {
            Some((source, (_, why))) => {
                let address: Option<IpAddr> = self.source_address(Some(*source));
                format!("{every}; of {}, {why}", address.map(|ip| ip.to_string()).unwrap_or_default())
            }
            None => format!("{every}, which does not want their mail for now"),
        }
    }

    /// Rests that are over.
    pub(super) fn proxies_turn(&mut self, now: Moment) {
        let mut over = false;
        while let Some((_, key)) = self.sources.down.ends.pop_front_if(|(at, _)| *at <= now) {
            self.sources.down.until.remove(&key);
            over = true;
        }
        if over {
            for destination in std::mem::take(&mut self.sources.down.waiting) {
                if self.pools.get(&destination).is_some() {
                    self.wake(destination);
                }
            }
        }
    }
}

/// What a proxy has to do with it, for the operator and the sender.
pub(super) fn by_proxy(proxy: Option<SocketAddr>, why: &str) -> String {
    proxy.map_or_else(String::new, |proxy| format!("by the proxy {proxy}: ")) + why
}

/// Whether what was to be connected to cannot be, from here; and not that something is missing here.
pub(super) fn is_of_network(error: &io::Error) -> bool {
    use ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), AddrNotAvailable | ConnectionRefused | HostUnreachable | NetworkUnreachable)
}
