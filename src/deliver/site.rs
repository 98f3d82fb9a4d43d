//! Which site a domain's mail goes to: its mail exchangers, as DNS says, and what becomes of mail where it says that there
//! are none.
//!
//! The binding of a domain holds as long as what DNS said. When that is over it is asked again: mail goes on over the
//! connections that stand until there is an answer, and follows it to another site if that is what it says.

use super::connection::Connection;
use super::outcome::Attempt;
use super::sources::without_pool;
use super::{Deliverer, Plans};
use crate::dns::{Answer, MailHost, Resolution, Verdict};
use crate::local::LmtpServer;
use crate::message::Status;
use crate::queue::{DestinationId, DomainId, JobKey, LastReply};
use crate::route::NextHop;
use crate::shaping::Shaping;
use crate::shard::Turn;
use crate::starttls::TlsLevel;
use crate::time::Moment;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

/// What is known of where a domain's mail goes.
pub(super) enum Route {
    /// There, with what is known of the hosts' TLS.
    To(Rc<Resolution>, Rc<Plans>),
    /// DNS was asked.
    Asked,
    /// It is dealt with otherwise.
    Nowhere,
}

impl Deliverer {
    /// The name of a fixed next hop; `None`: a site's destination.
    pub(super) fn fixed_hop(&self, destination: DestinationId) -> Option<&str> {
        self.queue.own_domain(destination).and_then(|domain| self.queue.domain_name(domain)).map(|name| &**name)
    }

    pub(super) fn is_maildir(&self, destination: DestinationId) -> bool {
        self.fixed_hop(destination).is_some_and(|name| self.routes.next_hop(name) == NextHop::Maildir)
    }

    /// Whether the hosts of a destination are known, or are found out now.
    pub(super) fn is_located(&mut self, destination: DestinationId, turn: &mut Turn<'_>) -> bool {
        let Some(domain) = self.queue.own_domain(destination) else { return true };
        let is_fixed =
            self.queue.domain_name(domain).is_some_and(|n| !matches!(self.routes.next_hop(n), NextHop::Mx(_)));
        if is_fixed {
            return true;
        }
        if self.queue.peek_len(destination) == 0 {
            return true;
        }
        if self.queue.is_suspended(destination) {
            return false;
        }
        matches!(self.locate(domain, turn), Route::To(..)) && self.queue.destination(domain) == Some(destination)
    }

    /// Whether a job that was taken at a destination belongs there; what DNS said of its domain is looked after.
    pub(super) fn stays(&mut self, key: JobKey, destination: DestinationId, turn: &mut Turn<'_>) -> bool {
        let Some(domain) = self.queue.domain_of(key) else { return true };
        let over = self.queue.bound_until(domain) <= turn.now.mono && self.queue.own_domain(destination).is_none();
        if over || self.is_lost(domain, turn.now.mono) {
            self.locate(domain, turn);
        }
        !self.queue.is_misplaced(key)
    }

    /// Where the mail goes that is next at a destination; `None` while that is unknown, or if it has been dealt with
    /// otherwise.
    pub(super) fn route(
        &mut self,
        destination: DestinationId,
        turn: &mut Turn<'_>,
    ) -> Option<(Rc<Resolution>, Rc<Plans>)> {
        let pool = self.pools.get(&destination);
        let loaded = pool.and_then(|pool| pool.loaded.front()).and_then(|(key, _)| self.queue.domain_of(*key));
        let next = || self.queue.next_domain(destination).or_else(|| pool?.fetched_for);
        let domain = loaded.or_else(next)?;
        match self.locate(domain, turn) {
            Route::To(route, plans) if self.queue.destination(domain) == Some(destination) => Some((route, plans)),
            _ => {
                self.send_home(destination);
                None
            }
        }
    }

    /// A domain has come to another destination. If it was the last of the one before, that one's connections end; and since
    /// some of its hosts may be hosts of the new one too, which count connections and not destinations, the new one opens
    /// none while those stand. Nor do those where other mail of the same name waits.
    fn moved(&mut self, domain: DomainId, before: DestinationId, after: DestinationId, turn: &mut Turn<'_>) {
        if !self.queue.is_abandoned(before) {
            return;
        }
        let Some(pool) = self.pools.get(&before) else { return };
        let stands = !pool.connections.is_empty() || pool.leaving > 0;
        let last: Vec<_> = stands.then_some(before).into_iter().chain(pool.predecessors.iter().copied()).collect();
        for conn in pool.connections.clone() {
            let Some(connection) = self.connections.get_mut(conn) else { continue };
            connection.retires = true;
            let (begun, idles) = (connection.begun, connection.is_idle());
            if begun == 0 {
                self.forget(conn, turn);
            } else if idles {
                self.quit(conn, turn);
            }
        }
        let siblings = self.siblings(domain).into_iter().filter_map(|sibling| self.queue.destination(sibling));
        let heirs: Vec<_> = std::iter::once(after).chain(siblings).collect();
        for last in last {
            for &heir in heirs.iter().filter(|heir| **heir != last) {
                let predecessors = &mut self.pools.make(heir).predecessors;
                if !predecessors.contains(&last) {
                    predecessors.push(last);
                }
                if let Some(pool) = self.pools.get_mut(&last)
                    && !pool.heirs.contains(&heir)
                {
                    pool.heirs.push(heir);
                }
            }
        }
    }

    /// The other domains that mail of a domain's name waits for: that of other pools of sources, and such as asks for no TLS.
    fn siblings(&self, domain: DomainId) -> Vec<DomainId> {
        let Some(name) = self.queue.domain_name(domain) else { return Vec::new() };
        let plain = without_pool(name.strip_suffix(Plans::NOT_REQUIRED).unwrap_or(name));
        let names = (0..self.config.sources.pools.len().max(1)).flat_map(|pool| {
            let name = self.with_pool(plain.into(), u16::try_from(pool).unwrap_or_default());
            [name.clone() + Plans::NOT_REQUIRED, name]
        });
        names.filter_map(|name| self.queue.domain(&name)).filter(|sibling| *sibling != domain).collect()
    }

    /// Whether connections of destinations before still stand to hosts of this one.
    pub(super) fn is_preceded(&mut self, destination: DestinationId, route: &Resolution) -> bool {
        let Some(pool) = self.pools.get(&destination).filter(|pool| !pool.predecessors.is_empty()) else {
            return false;
        };
        let same = |conn| {
            // One that is in use again, for another domain, is none that ends.
            let ends = |c: &&Connection| (c.retires || c.leaves) && pool.predecessors.contains(&c.destination);
            let is_there = |to: SocketAddr| route.hosts().iter().any(|host| host.addresses.contains(&to.ip()));
            let connection = self.connections.get(conn).map(|c| &**c).filter(ends);
            connection.is_some_and(|c| route.exchangers.contains(&c.host) || c.remote.is_some_and(is_there))
        };
        let preceded = self.connections.ids().any(same);
        if !preceded && let Some(pool) = self.pools.get_mut(&destination) {
            pool.predecessors = Vec::new();
        }
        preceded
    }

    /// Predecessors whose connections have all ended are none any more.
    pub(super) fn forget_predecessors(&mut self, destination: DestinationId) {
        if self.pools.get(&destination).is_none_or(|pool| pool.predecessors.is_empty()) {
            return;
        }
        let mut predecessors = std::mem::take(&mut self.pools.make(destination).predecessors);
        predecessors.retain(|before| self.pools.contains_key(before));
        self.pools.make(destination).predecessors = predecessors;
    }

    /// What is loaded at a destination and belongs elsewhere by now goes there.
    fn send_home(&mut self, destination: DestinationId) {
        let Some(pool) = self.pools.get_mut(&destination) else { return };
        let before = pool.loaded.len();
        for _ in 0..before {
            let Some((key, bytes)) = pool.loaded.pop_front() else { break };
            if self.queue.is_misplaced(key) {
                self.ahead.loaded -= bytes;
                self.queue.put_back(key);
            } else {
                pool.loaded.push_back((key, bytes));
            }
        }
        if pool.loaded.len() < before {
            self.wake(destination);
        }
    }

    /// DNS has answered what these domains wait for. All of them are told before any mail goes on: they may have connections to
    /// the same hosts.
    pub(super) fn answered(&mut self, domains: &[DomainId], resolution: &Rc<Resolution>, turn: &mut Turn<'_>) {
        for domain in domains {
            self.asked.remove(domain);
        }
        for &domain in domains {
            self.answered = Some((domain, Rc::clone(resolution)));
            self.locate(domain, turn);
        }
        for &domain in domains {
            self.answered = Some((domain, Rc::clone(resolution)));
            if let Some(destination) = self.queue.destination(domain) {
                self.pump(destination, turn);
            }
        }
        self.answered = None;
    }

    /// DNS has said something new of a domain: other mail of its name, which has connections to the same hosts, does not learn
    /// of it later.
    fn tell_siblings(&mut self, domain: DomainId, route: &Rc<Resolution>, turn: &mut Turn<'_>) {
        for sibling in self.siblings(domain).into_iter().filter(|_| !planted!(SiblingsNotTold)) {
            if self.queue.bound_until(sibling) == self.queue.bound_until(domain) {
                continue;
            }
            let told = self.answered.replace((sibling, Rc::clone(route)));
            self.locate(sibling, turn);
            self.answered = told;
            if let Some(destination) = self.queue.destination(sibling) {
                self.wake(destination);
            }
        }
    }

    /// Where the mail of a domain goes, as far as that is known.
    fn locate(&mut self, domain: DomainId, turn: &mut Turn<'_>) -> Route {
        if self.asked.contains_key(&domain) {
            return Route::Asked;
        }
        let Some(name) = self.queue.domain_name(domain).map(Rc::clone) else { return Route::Nowhere };
        let (name, not_required) = match name.strip_suffix(Plans::NOT_REQUIRED) {
            Some(plain) => (plain.into(), true),
            None => (name, false),
        };
        let (name, pool): (Rc<str>, u16) = match self.pool_in(&name) {
            (plain, pool) if pool > 0 => (plain.into(), pool),
            _ => (name, 0),
        };
        let routes = Arc::clone(&self.routes);
        let next_hop = routes.next_hop(&name);
        if matches!(next_hop, NextHop::Mx(_))
            && let Some(way) = self.routed(domain, &name, turn)
        {
            return way;
        }
        let host = match next_hop {
            NextHop::Mx(domain) => domain,
            NextHop::Host(host, _) => match host.trim_matches(['[', ']']).parse::<IpAddr>() {
                Ok(address) => {
                    return Route::To(Rc::new(fixed(host, address)), self.named(self.tables.routes.smart_hop()));
                }
                Err(_) => host,
            },
            NextHop::Lmtp(LmtpServer::Tcp(address)) => {
                return self.fixed(&address.ip().to_string(), address.ip());
            }
            // The address is that of nothing: the socket has a path.
            NextHop::Lmtp(LmtpServer::Unix(_)) => {
                return self.fixed("localhost", IpAddr::V4(Ipv4Addr::LOCALHOST));
            }
            NextHop::Maildir => return Route::Nowhere,
        };
        let answer = match &self.answered {
            Some((asked, resolution)) if *asked == domain => Answer::Ready(Rc::clone(resolution)),
            _ => self.resolver.resolve(host, turn.now.mono),
        };
        match answer {
            Answer::Pending => {
                let canonical: Rc<str> = match crate::dns::canonical(host) {
                    Ok(name) => name.as_str().into(),
                    Err(_) => host.into(),
                };
                self.resolving.entry(canonical).or_default().push(domain);
                self.asked.insert(domain, ());
                Route::Asked
            }
            Answer::Ready(route) if matches!(route.verdict, Verdict::Hosts(_)) => {
                let site = matches!(next_hop, NextHop::Mx(_)).then(|| {
                    let mut exchangers = route.exchangers.iter().map(|name| &**name);
                    self.tables.shaping.site(&name, &mut exchangers)
                });
                let level = self.site_level(site.as_ref());
                let plans = if not_required && level != TlsLevel::None {
                    Ok(self.not_required(route.secure))
                } else {
                    self.plans(&name, (&next_hop, level), &route, turn)
                };
                let plans = match plans {
                    Ok(plans) => plans,
                    Err(missing) => {
                        missing.into_iter().for_each(|name| self.asking.entry(name).or_default().push(domain));
                        self.asked.insert(domain, ());
                        return Route::Asked;
                    }
                };
                if let Some(site) = site {
                    let (before, known) = (self.queue.destination(domain), self.queue.bound_until(domain));
                    // One receiver, but not all of its hosts take mail for all its domains, nor is the same asked of them.
                    let mut destination = site.name.to_string();
                    if site.provider.is_some() {
                        let mut exchangers = route.exchangers.iter().map(|name| &**name);
                        destination.push(' ');
                        destination += &Shaping::default().site(&name, &mut exchangers).name;
                    }
                    destination += &plans.mark(route.hosts());
                    let destination = self.with_pool(destination, pool);
                    let after = self.queue.bind(domain, &destination, route.expires);
                    if let Some(after) = after {
                        self.join(after, site, pool);
                    }
                    if let (Some(before), Some(after), true) = (before, after, before != after) {
                        // What was loaded there goes along.
                        self.wake(before);
                        self.moved(domain, before, after, turn);
                    }
                    if self.queue.bound_until(domain) != known {
                        self.tell_siblings(domain, &route, turn);
                    }
                }
                Route::To(route, plans)
            }
            Answer::Ready(route) => {
                self.has_no_hosts(domain, &route.verdict, turn);
                Route::Nowhere
            }
        }
    }

    /// An answer about a name that is no route has come: what waits for it is looked at again.
    pub(super) fn fact_answered(&mut self, name: &str, turn: &mut Turn<'_>) {
        if let Some(domain) = self.refreshed_by(name) {
            self.refresh(&domain, turn);
        }
        self.rua_answered(name, turn);
        for domain in self.asking.remove(name).unwrap_or_default() {
            self.asked.remove(&domain);
            self.locate(domain, turn);
            if let Some(destination) = self.queue.destination(domain) {
                self.pump(destination, turn);
            }
        }
    }

    /// The route to a mailbox server given as an address.
    fn fixed(&self, name: &str, address: IpAddr) -> Route {
        Route::To(Rc::new(fixed(name, address)), self.unasked(false, true))
    }

    /// DNS names no host for a domain, now or at all.
    pub(super) fn has_no_hosts(&mut self, domain: DomainId, verdict: &Verdict, turn: &mut Turn<'_>) {
        let failure = |status, text: &str| LastReply::new(turn.now.wall, "", 0, Some(status), text.as_bytes());
        let (reply, for_good) = match verdict {
            Verdict::Hosts(_) => return,
            Verdict::Temporary { reason } => (failure(Status::new(4, 4, 3), reason), false),
            Verdict::NullMx => {
                (failure(Status::new(5, 1, 10), "the domain of this address accepts no mail (null MX, RFC 7505)"), true)
            }
            Verdict::NoSuchDomain => (failure(Status::new(5, 1, 2), "the domain of this address does not exist"), true),
            Verdict::NoMailHost => {
                (failure(Status::new(5, 4, 4), "the domain of this address has no mail server"), true)
            }
        };
        let before = self.queue.destination(domain);
        let connected = before.and_then(|d| self.pools.get(&d)).is_some_and(|pool| !pool.connections.is_empty());
        if connected && !for_good {
            // Connections that stand do without DNS.
            return;
        }
        let Some(own) = self.queue.isolate(domain) else { return };
        if let Some(before) = before.filter(|before| *before != own) {
            // What was loaded there goes along.
            self.wake(before);
            self.moved(domain, before, own, turn);
        }
        if for_good {
            self.fail_all(own, &reply, Attempt::default(), turn);
        } else {
            self.unreachable(own, reply, turn);
        }
    }
}

/// The route to a host given as an address.
pub(super) fn fixed(name: &str, address: IpAddr) -> Resolution {
    let name: Rc<str> = name.into();
    let exchangers = vec![Rc::clone(&name)];
    let host = MailHost { preference: 0, name, addresses: vec![address], port: None, secure: false, alias: None };
    Resolution { expires: Moment::NEVER, exchangers, verdict: Verdict::Hosts(vec![host]), secure: true }
}
