//! Attempts to connect: to which of a destination's addresses, one after the other, and beside one another where one is not
//! answered (RFC 8305 §5).
//!
//! In: a route, what the network says, the time. Out: connections, or a destination that rests with its mail. Lives on the shard
//! that owns the destination. It refuses to go past a better mail exchanger because it is slow: only addresses of one preference
//! are tried beside one another, since who is slow is not out of reach (RFC 5321 §5.1).

use super::connection::Connection;
use super::proxies::{by_proxy, is_of_network};
use super::sources::From;
use super::tls::Secure;
use super::{Deliverer, Left, Plans, age};
use crate::dns::{Attempt, Resolution};
use crate::limits;
use crate::local::LmtpServer;
use crate::message::Status;
use crate::queue::{DestinationId, LastReply};
use crate::route::{NextHop, RouteTable};
use crate::rt::ConnId;
use crate::shard::Turn;
use crate::time::Moment;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::rc::Rc;
use std::sync::Arc;

/// What came of addresses that no connection was begun to.
struct Tried {
    error: String,
    /// All that went wrong is ours.
    local: bool,
    /// When the first of the sources that rest is back.
    rests: Option<Moment>,
    /// Those that wait for room of a source, the next one first.
    skipped: Vec<Attempt>,
}

impl Tried {
    fn new(error: &str) -> Tried {
        Tried { error: error.to_owned(), local: true, rests: None, skipped: Vec::new() }
    }
}

impl Deliverer {
    /// Begins a connection to the best address; false if not even that could be done.
    pub(super) fn open(
        &mut self,
        destination: DestinationId,
        route: &Rc<Resolution>,
        plans: &Rc<Plans>,
        turn: &mut Turn<'_>,
    ) -> bool {
        let mut order = std::mem::take(&mut self.order);
        route.attempt_order(turn.io.random(), &mut order);
        let families = self.site_of(destination).and_then(|site| self.tables.shaping.ip_families(site));
        if let Some(families) = families {
            families.arrange(&mut order, |attempt| attempt.host, |attempt| attempt.address.is_ipv4());
        }
        order.reverse();
        let others = order.clone();
        self.order = order;
        let began = turn.now.mono;
        self.try_addresses(destination, (route, plans), others, "no address to connect to", began, turn)
    }

    /// Connects to the last of `others`, or the one before it, and so on; if none is left the destination is out of
    /// reach, unless something else says that it is not.
    pub(super) fn try_addresses(
        &mut self,
        destination: DestinationId,
        (route, plans): (&Rc<Resolution>, &Rc<Plans>),
        mut others: Vec<Attempt>,
        why: &str,
        began: Moment,
        turn: &mut Turn<'_>,
    ) -> bool {
        let mut tried = Tried::new(why);
        if self.try_next(destination, (route, plans), &mut others, &mut tried, turn).is_some() {
            return true;
        }
        let Tried { error, local, rests, mut skipped } = tried;
        if !skipped.is_empty() {
            // These wait for room of a source: it goes on with them when there is some.
            skipped.reverse();
            let (route, plans) = (Rc::clone(route), Rc::clone(plans));
            let left = Left { route, plans, addresses: skipped, why: error, began };
            self.pools.make(destination).left = Some(Box::new(left));
            return false;
        }
        if let Some(until) = rests.filter(|_| error == why) {
            // Nothing was tried.
            self.await_source(destination, until, turn);
            return false;
        }
        let local = local && error != why;
        let waiting = self.queue.peek_len(destination);
        let pool = self.pools.make(destination);
        let waiting = waiting + pool.loaded.len() + pool.fetching;
        if !pool.connections.is_empty() {
            // The others go on. Whoever limits our connections does not want to be asked again at once.
            pool.refusals = (pool.refusals + 1).min(limits::CONNECT_PAUSE_DOUBLINGS);
            pool.no_more_until = turn.now.mono + limits::CONNECT_PAUSE * (1 << (pool.refusals - 1));
        } else if waiting > 0 && pool.last_answer < began {
            let reply = LastReply::new(turn.now.wall, "", 0, Some(Status::new(4, 4, 1)), error.as_bytes());
            if local {
                self.put_back_loaded(destination);
                self.queue.pause(destination, reply, turn.now.mono + limits::LOCAL_PAUSE, age::steady(turn.now));
                self.tell_suspended(destination, &error, turn.now.mono + limits::LOCAL_PAUSE, turn);
            } else {
                self.unreachable(destination, reply, turn);
            }
        } else {
            // It answered while this was tried: it can be reached. The next message, or the one waiting, asks anew.
            self.wake(destination);
        }
        false
    }

    /// Connects to the last of `others`, or the one before it, and so on; the connection has those that are left.
    fn try_next(
        &mut self,
        destination: DestinationId,
        (route, plans): (&Rc<Resolution>, &Rc<Plans>),
        others: &mut Vec<Attempt>,
        tried: &mut Tried,
        turn: &mut Turn<'_>,
    ) -> Option<ConnId> {
        let routes = Arc::clone(&self.routes);
        let next_hop = self.fixed_hop(destination).map(|name| routes.next_hop(name));
        let server = match next_hop {
            Some(NextHop::Lmtp(server)) => Some(server.clone()),
            _ => self.queue.name(destination).and_then(RouteTable::lmtp_server),
        };
        let port = if let Some(NextHop::Host(_, port)) = next_hop { port } else { self.config.delivery.port };
        while let Some(attempt) = others.pop() {
            let Some(host) = route.hosts().get(usize::from(attempt.host)) else { break };
            let remote = match &server {
                Some(LmtpServer::Tcp(address)) => Some(*address),
                Some(LmtpServer::Unix(_)) => None,
                None => Some(SocketAddr::new(attempt.address, host.port.unwrap_or(port))),
            };
            let decision = match plans.decide(attempt.host, self.broken.contains(&host.name, turn.now.mono)) {
                Ok(decision) => decision,
                Err(refused) => {
                    tried.local = false;
                    self.report_refused(destination, (plans, attempt.host), (&host.name, remote), refused, turn);
                    tried.error = format!("{}: {refused}", place(&host.name, remote));
                    continue;
                }
            };
            let from = match server {
                None => self.source_for(destination, attempt.address, turn),
                Some(_) => From::Any(None),
            };
            let (source, local_address) = match from {
                From::Any(address) => (None, address),
                From::Source(number) => (Some(number), self.source_address(Some(number))),
                From::Nothing => {
                    let family = if attempt.address.is_ipv4() { "IPv4" } else { "IPv6" };
                    tried.local = false;
                    tried.error = format!("{}: no source of {family} in its pool", place(&host.name, remote));
                    continue;
                }
                From::Waits => {
                    tried.skipped.push(attempt);
                    continue;
                }
                From::Rests(until) => {
                    tried.rests = Some(tried.rests.map_or(until, |other| other.min(until)));
                    continue;
                }
            };
            let way = remote.and_then(|remote| self.way(source, remote));
            let proxy = way.as_ref().map(|way| way.proxy);
            let opened = match (&server, proxy.or(remote)) {
                (Some(LmtpServer::Unix(path)), _) => turn.io.connect_unix(FilePath::new(path)),
                (_, Some(to)) => turn.io.connect(to, local_address.filter(|_| proxy.is_none())),
                (_, None) => break,
            };
            match opened {
                Ok(conn) => {
                    turn.report.stats.outbound_connections.add(1);
                    self.pools.make(destination).connections.push(conn);
                    let (host, route) = (Rc::clone(&host.name), Rc::clone(route));
                    let secure = Secure::new(decision, Rc::clone(plans));
                    let host = (host, remote, attempt, secure);
                    let bounds = self.bounds(destination);
                    let others = std::mem::take(others);
                    let mut connection = Connection::new(conn, destination, host, route, others, bounds, turn.now.mono);
                    let may_race = server.is_none() && !connection.others.is_empty();
                    connection.beside_at = may_race.then_some(turn.now.mono + limits::ATTEMPT_DELAY);
                    connection.scope = self.count_connection(destination);
                    connection.source = source;
                    if let Some(number) = source {
                        self.keep_to_source(&mut connection, number, turn.now.mono);
                    }
                    connection.lmtp = server.is_some();
                    connection.way = way;
                    self.connections.insert(conn, Box::new(connection));
                    self.arm(conn);
                    return Some(conn);
                }
                Err(e) if proxy.is_some() && is_of_network(&e) => {
                    let (site, source) = (self.source_site(destination), source.unwrap_or_default());
                    self.proxy_failed(source, None, &by_proxy(proxy, &e.to_string()), turn);
                    if self.source_rest(&site, source, turn.now.mono).is_some() {
                        others.push(attempt);
                    }
                }
                // The source is not this host's, or its ports are used up: another one may do.
                Err(e) if e.kind() == ErrorKind::AddrNotAvailable && source.is_some() => {
                    let (site, why) = (self.source_site(destination), e.to_string());
                    let until = turn.now.mono + limits::LOCAL_PAUSE;
                    self.rest_source(&site, source.unwrap_or_default(), until, &why, turn);
                    if self.source_rest(&site, source.unwrap_or_default(), turn.now.mono).is_some() {
                        others.push(attempt);
                    }
                }
                Err(e) => {
                    // Ours (no descriptors, no such source address), unless the network says at once that it is closed.
                    tried.local &= !matches!(e.kind(), ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable);
                    tried.error = format!("{}: {e}", place(&host.name, remote));
                }
            }
        }
        None
    }

    /// A connection that never came to its first message: the next address is tried.
    pub(super) fn connect_failed(&mut self, conn: ConnId, why: &str, turn: &mut Turn<'_>) {
        turn.report.stats.outbound_connection_failures.add(1);
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let (others, began) = (std::mem::take(&mut connection.others), connection.began);
        let (destination, route) = (connection.destination, Rc::clone(&connection.route));
        let plans = Rc::clone(&connection.secure.plans);
        let why = format!("{}: {why}", place(&connection.host, connection.remote));
        self.refused_connection(destination, &why, turn);
        let beside = self.beside(conn);
        self.forget(conn, turn);
        self.try_others(destination, beside, Left { route, plans, addresses: others, why, began }, turn);
    }

    /// An attempt came to nothing: what is left of its addresses is tried, by `beside` if that was begun beside it.
    pub(super) fn try_others(
        &mut self,
        destination: DestinationId,
        beside: Option<ConnId>,
        left: Left,
        turn: &mut Turn<'_>,
    ) {
        if let Some(beside) = beside
            && let Some(connection) = self.connections.get_mut(beside)
        {
            connection.others.extend(left.addresses);
            return self.try_beside(beside, turn);
        }
        // Its place may be another shard's by now, since a limit is lower or others lack it.
        let full = self.lane(destination).is_some_and(|lane| !lane.share.has_room());
        let rests = self.rests(destination, turn.now.mono);
        if !left.addresses.is_empty() && (rests || full || self.starts_are_paced(destination)) {
            // The next one counts as well, or has to wait.
            self.pools.make(destination).left = Some(Box::new(left));
            self.wake(destination);
        } else {
            let Left { route, plans, addresses, why, began } = left;
            self.try_addresses(destination, (&route, &plans), addresses, &why, began, turn);
        }
    }

    // --- beside one another ---------------------------------------------------------------------------------------------

    /// An attempt has had no answer for a while: if there is room, the next address of the same preference is tried beside it, one
    /// of the other family first.
    pub(super) fn try_beside(&mut self, conn: ConnId, turn: &mut Turn<'_>) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.beside_at = None;
        let (destination, race, tried) = (connection.destination, connection.race, connection.attempt);
        let (route, plans) = (Rc::clone(&connection.route), Rc::clone(&connection.secure.plans));
        let preference = |attempt: &Attempt| route.hosts().get(usize::from(attempt.host)).map(|host| host.preference);
        let is_equal = |attempt: &Attempt| preference(attempt) == preference(&tried);
        let from = connection.others.iter().rposition(|other| !is_equal(other)).map_or(0, |at| at + 1);
        if from < connection.others.len() && self.bears_another(conn, destination, turn.now.mono) {
            let Some(connection) = self.connections.get_mut(conn) else { return };
            let mut later = std::mem::take(&mut connection.others);
            let mut equal = later.split_off(from);
            if let Some(at) = equal.iter().rposition(|other| other.address.is_ipv4() != tried.address.is_ipv4()) {
                let other = equal.remove(at);
                equal.push(other);
            }
            let mut tried = Tried::new("");
            let begun = self.try_next(destination, (&route, &plans), &mut equal, &mut tried, turn);
            if begun.is_none() {
                // What was asked for in vain is taken back, unless it is wanted for mail.
                self.pools.make(destination).wants_none = false;
                self.wake(destination);
            }
            if let Some(connection) = self.connections.get_mut(begun.unwrap_or(conn)) {
                // Of the one that was begun: what it has is of the same preference, and comes first.
                later.extend(tried.skipped.into_iter().rev());
                later.append(&mut connection.others);
                connection.others = later;
            }
            for conn in [Some(conn), begun].into_iter().flatten() {
                if let Some(connection) = self.connections.get_mut(conn) {
                    (connection.race, connection.races) = (race, begun.is_some() || connection.races);
                }
            }
            if let Some(begun) = begun {
                turn.report.stats.outbound_connections_beside.add(1);
                self.arm(begun);
            }
        }
        self.arm(conn);
    }

    /// Whether an attempt may be begun beside those that a destination has: it is a connection like each other, and is asked for
    /// as one. Once one stands the destination can be reached, and nobody is in a hurry.
    fn bears_another(&mut self, conn: ConnId, destination: DestinationId, now: Moment) -> bool {
        if planted!(BesideUnbounded) {
            return true;
        }
        let most = self.most_connections(destination).min(self.queue.window(destination) as usize);
        let Some(pool) = self.pools.get(&destination) else { return false };
        let stands = |conn: &ConnId| self.connections.get(*conn).is_none_or(|connection| connection.client.is_some());
        let open = pool.connections.len() + pool.leaving;
        let may = open < most
            && !pool.connections.iter().any(stands)
            && self.connections.len() < self.max_connections
            && self.waiting(destination) > 0
            && !self.rests(destination, now)
            && !self.queue.is_suspended(destination)
            && !self.starts_are_paced(destination);
        if !may {
            return false;
        }
        let free = self.may_open(destination, u32::try_from(open + 1).unwrap_or(u32::MAX), now);
        if let Some(pool) = self.pools.get_mut(&destination).filter(|_| !free) {
            pool.beside = Some(conn);
        }
        free
    }

    /// Whether a destination waits for room for an attempt beside another; if it has come, that is begun.
    pub(super) fn awaits_beside(&mut self, destination: DestinationId, turn: &mut Turn<'_>) -> bool {
        let Some(conn) = self.pools.get_mut(&destination).and_then(|pool| pool.beside.take()) else { return false };
        if self.connections.get(conn).is_none_or(|connection| connection.client.is_some()) {
            return false;
        }
        self.try_beside(conn, turn);
        self.pools.get(&destination).is_some_and(|pool| pool.beside.is_some())
    }

    /// An attempt that is under way beside this one.
    pub(super) fn beside(&self, conn: ConnId) -> Option<ConnId> {
        let connection = self.connections.get(conn).filter(|connection| connection.races)?;
        let pool = self.pools.get(&connection.destination)?;
        let is_beside = |other: &&ConnId| {
            let other = self.connections.get(**other);
            other.is_some_and(|other| other.race == connection.race && other.conn != conn && other.client.is_none())
        };
        pool.connections.iter().rfind(is_beside).copied()
    }

    /// The first of those beside one another stands: the others are closed, and their addresses come next if it fails yet.
    pub(super) fn won(&mut self, conn: ConnId, turn: &mut Turn<'_>) {
        while let Some(beside) = self.beside(conn) {
            let mut left = Vec::new();
            if let Some(loser) = self.connections.get_mut(beside) {
                left = std::mem::take(&mut loser.others);
                left.push(loser.attempt);
            }
            self.forget(beside, turn);
            let Some(connection) = self.connections.get_mut(conn) else { return };
            left.append(&mut connection.others);
            connection.others = left;
        }
    }
}

/// A host for a message to the operator or the sender, who need not know the path of a socket.
fn place(host: &str, remote: Option<SocketAddr>) -> String {
    match remote {
        Some(remote) => format!("{host} [{remote}]"),
        None => format!("{host} [UNIX socket]"),
    }
}
