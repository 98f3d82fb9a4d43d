//! The addresses that mail is sent from: which of a pool's a connection is made from, and which rest at a site.
//!
//! A message's pool is part of the name of the domain that it waits for, so that a destination is of one pool and its
//! connections are of that pool's sources. A source that a site blocks rests there on all shards: its connections end behind what
//! they carry, and the mail goes from the others of its pool. If all rest, the mail waits until the first of them is back.
//! Lives on its shard. It refuses to judge a reply: that is for rules.

mod held;
mod warm;

use super::connection::Connection;
use super::proxies::Down;
use super::{Deliverer, age};
use crate::config::Sources as Config;
use crate::dns::Resolution;
use crate::lease::{self, Scope};
use crate::limits;
use crate::message::Status;
use crate::queue::{DestinationId, LastReply};
use crate::route::{NextHop, RouteTable};
use crate::rt::ConnId;
use crate::shard::Turn;
use crate::shard::event::{Notice, NoticeKind};
use crate::shard::mailbox::{Mail, SourceRest};
use crate::time::Moment;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::IpAddr;
use std::sync::Arc;

/// Before the name of a pool, behind that of a domain or destination.
const POOL: &str = " (pool ";

/// The sources' state here. Lives on its shard.
#[derive(Default)]
pub(super) struct Sources {
    /// Those that rest at a site.
    rests: BTreeMap<(Scope, u16), Rest>,
    /// One rests that did not, or for longer, and that is to be kept.
    taken: bool,
    /// Ends of rests, earliest first.
    ends: BinaryHeap<Reverse<(Moment, Scope, u16)>>,
    /// The sources' names in EHLO.
    ehlo_names: Vec<Option<Arc<str>>>,
    /// What they have of their limits at sites.
    pub(super) shares: held::Shares,
    /// Those whose proxies do not work.
    pub(super) down: Down,
}

/// A source rests at a site.
struct Rest {
    until: Moment,
    /// Why; `None`: it has sent what its warm-up allows, which is kept elsewhere.
    why: Option<Arc<str>>,
}

/// What a connection is made from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum From {
    /// What the kernel chooses, or `delivery.source_addresses` say.
    Any(Option<IpAddr>),
    /// The source of that number.
    Source(u16),
    /// The pool has no source of that family.
    Nothing,
    /// All of them rest until then.
    Rests(Moment),
    /// None has room just now; the destination is woken when one may have.
    Waits,
}

impl Sources {
    pub(super) fn new(config: &Config) -> Sources {
        let ehlo_names = config.list.iter().map(|source| source.ehlo_name.as_deref().map(Into::into)).collect();
        Sources { ehlo_names, ..Sources::default() }
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        let end = self.ends.peek().map(|Reverse((at, ..))| *at);
        end.into_iter().chain(self.shares.poll_timeout()).chain(self.down.poll_timeout()).min()
    }

    fn rests_until(&self, site: &Scope, source: u16, now: Moment) -> Option<Moment> {
        let rest = self.rests.get(&(site.clone(), source)).map(|rest| rest.until);
        let rest = rest.filter(|until| *until > now && !planted!(RestForgotten));
        rest.max(self.down.rest(source, site, now).map(|(until, _)| *until))
    }

    /// A source rests until then.
    fn take(&mut self, site: &Scope, source: u16, until: Moment, why: Option<&Arc<str>>) {
        self.rests.insert((site.clone(), source), Rest { until, why: why.cloned() });
        self.ends.push(Reverse((until, site.clone(), source)));
        while self.rests.len() > limits::SOURCE_RESTS {
            let Some(Reverse((_, site, source))) = self.ends.pop() else { break };
            self.rests.remove(&(site, source));
        }
    }

    /// Whether a source rests that did not at the last call, or for longer; but for warm-ups.
    pub(super) fn have_taken(&mut self) -> bool {
        std::mem::take(&mut self.taken)
    }

    /// Those that rest, where, until when and why; but for warm-ups.
    pub(super) fn resting(&self) -> impl Iterator<Item = (&Scope, u16, Moment, &Arc<str>)> {
        self.rests.iter().filter_map(|((site, source), rest)| Some((site, *source, rest.until, rest.why.as_ref()?)))
    }

    /// A source rested before the start, and does so still.
    pub(super) fn restore(&mut self, site: &Scope, source: u16, until: Moment, why: &Arc<str>) {
        self.take(site, source, until, Some(why));
    }

    /// Rests, their ends, and shares.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn sizes(&self) -> [usize; 3] {
        [self.rests.len(), self.ends.len(), self.shares.len()]
    }
}

/// A destination's or domain's name without that of the pool.
pub(super) fn without_pool(name: &str) -> &str {
    name.split_once(POOL).map_or(name, |(name, _)| name)
}

impl Deliverer {
    /// A domain's or destination's name for the mail of a pool; that of the default one has no mark.
    pub(super) fn with_pool(&self, mut name: String, pool: u16) -> String {
        if pool > 0
            && let Some(pool) = self.config.sources.pools.get(usize::from(pool))
        {
            name += POOL;
            name += &pool.name;
            name.push(')');
        }
        name
    }

    /// A domain's name, and the pool of the mail that waits for it.
    pub(super) fn pool_in<'a>(&self, name: &'a str) -> (&'a str, u16) {
        let Some((domain, pool)) = name.split_once(POOL).filter(|_| self.config.sources.are_chosen()) else {
            return (name, 0);
        };
        let pool = pool.strip_suffix(')').unwrap_or(pool);
        (domain, self.config.sources.number_of(pool.as_bytes()).unwrap_or(0))
    }

    /// What a connection of a destination to this address is made from.
    pub(super) fn source_for(&mut self, destination: DestinationId, to: IpAddr, turn: &mut Turn<'_>) -> From {
        let config = Arc::clone(&self.config);
        let sources = &config.sources;
        if sources.list.is_empty() {
            let addresses = &self.config.delivery.source_addresses;
            return From::Any(addresses.iter().find(|source| source.is_ipv4() == to.is_ipv4()).copied());
        }
        let site = self.source_site(destination);
        let pool = self.pools.get(&destination).map_or(0, |pool| pool.from);
        let all: Vec<u16> = (0..).take(sources.list.len()).collect();
        let pool = if planted!(PoolIgnored) { &all } else { &sources.pools[usize::from(pool)].sources };
        let (mut fit, mut weights, mut rests) = (Vec::new(), 0, None::<Moment>);
        let mut waits = false;
        for &number in pool {
            let source = &sources.list[usize::from(number)];
            if source.address.is_ipv4() != to.is_ipv4() {
                continue;
            }
            match self.sources.rests_until(&site, number, turn.now.mono) {
                Some(until) => {
                    rests = Some(rests.map_or(until, |other| other.min(until)));
                    self.wants_no_source(destination, |other, _| other == number);
                }
                None if self.awaits_permit_of(destination, number, turn.now.mono) => {
                    waits = true;
                    self.wants_no_source(destination, |other, _| other == number);
                }
                None if !self.source_has_room(destination, number, turn) => waits = true,
                None => {
                    weights += u64::from(source.weight);
                    fit.push((number, weights));
                }
            }
        }
        match (&fit[..], rests) {
            ([], _) if waits => From::Waits,
            ([], None) => From::Nothing,
            ([], Some(until)) => From::Rests(until),
            ([(only, _)], _) => From::Source(*only),
            _ => {
                let drawn = turn.io.random() % weights;
                From::Source(fit.iter().find(|(_, up_to)| drawn < *up_to).map_or(fit[0].0, |(number, _)| *number))
            }
        }
    }

    /// Whether a connection of a destination can be made from a source of its pool now: to one of the hosts, or of the
    /// addresses that are left of them.
    pub(super) fn source_is_ready(
        &mut self,
        destination: DestinationId,
        route: &Resolution,
        turn: &mut Turn<'_>,
    ) -> From {
        let left = self.pools.get(&destination).and_then(|pool| pool.left.as_deref());
        let left = left.map(|left| left.addresses.iter().map(|attempt| attempt.address).collect::<Vec<_>>());
        let all = || route.hosts().iter().flat_map(|host| host.addresses.iter().copied());
        let of_family = |is_v4: bool| match &left {
            Some(left) => left.iter().copied().find(|address| address.is_ipv4() == is_v4),
            None => all().find(|address| address.is_ipv4() == is_v4),
        };
        let addresses = [true, false].map(of_family);
        let mut best = From::Nothing;
        for (is_v4, address) in [true, false].into_iter().zip(addresses) {
            let Some(address) = address else {
                // What was wanted for others is not any more.
                self.wants_no_source(destination, |_, source| source.is_ipv4() == is_v4);
                continue;
            };
            best = match (best, self.source_for(destination, address, turn)) {
                (_, From::Source(number)) => return From::Source(number),
                (From::Waits, _) | (_, From::Waits) => From::Waits,
                (From::Rests(a), From::Rests(b)) => From::Rests(a.min(b)),
                (From::Nothing, other) | (other, _) => other,
            };
        }
        best
    }

    /// The name under which sources rest for a destination: its site's, which all its destinations share.
    pub(super) fn source_site(&self, destination: DestinationId) -> Scope {
        let of_site = self.pools.get(&destination).and_then(|pool| pool.scope.clone());
        of_site.unwrap_or_else(|| without_pool(self.queue.name(destination).unwrap_or_default()).into())
    }

    /// Our name in EHLO from a source.
    pub(super) fn ehlo_name(&self, source: Option<u16>) -> Arc<str> {
        let own = source.and_then(|number| self.sources.ehlo_names.get(usize::from(number))).cloned().flatten();
        own.unwrap_or_else(|| Arc::clone(&self.ehlo_name))
    }

    /// Until when a source rests for a site.
    pub(super) fn source_rest(&self, site: &Scope, source: u16, now: Moment) -> Option<Moment> {
        self.sources.rests_until(site, source, now)
    }

    /// The address of a source.
    pub(super) fn source_address(&self, source: Option<u16>) -> Option<IpAddr> {
        Some(self.config.sources.list.get(usize::from(source?))?.address)
    }

    /// A source sends nothing to a site until then, on all shards. What it carries now it carries to its end.
    pub(super) fn rest_source(&mut self, site: &Scope, source: u16, until: Moment, why: &str, turn: &mut Turn<'_>) {
        let until = until.min(turn.now.mono + limits::SOURCE_REST_MAX);
        if self.sources.rests_until(site, source, turn.now.mono).is_some_and(|known| known >= until) {
            return;
        }
        let Some(address) = self.source_address(Some(source)) else { return };
        let seconds = until.since(turn.now.mono).as_secs();
        let text = format!("{address} rests for {site} for {seconds} s: {why}");
        turn.report.events.push(Notice::event(turn.now.wall, self.me, NoticeKind::SourceRests, text.as_bytes()));
        let why: Arc<str> = why.into();
        for shard in (0..self.shards).filter(|shard| *shard != self.me) {
            let rest = Box::new(SourceRest { site: site.clone(), source, until, why: Arc::clone(&why) });
            turn.post.send(usize::from(shard), Mail::SourceRest(rest));
        }
        self.source_rests(site, (source, until), Some(&why), turn);
    }

    /// A source rests for a site: so it was found here, or on another shard.
    pub(crate) fn source_rests(
        &mut self,
        site: &Scope,
        (source, until): (u16, Moment),
        why: Option<&Arc<str>>,
        turn: &mut Turn<'_>,
    ) {
        let now = turn.now.mono;
        if self.sources.rests_until(site, source, now).is_some_and(|known| known >= until) {
            return;
        }
        // All shards hear of it; the one with the site's ledger keeps it, and counts it.
        if why.is_some() && lease::owner(site, self.shards) == self.me {
            self.sources.taken = true;
            turn.report.stats.source_rests.add(1);
        }
        self.sources.take(site, source, until, why);
        if planted!(RestForgotten) {
            return;
        }
        let of_it = |conn: &ConnId| self.connections.get(*conn).is_some_and(|c| c.source == Some(source));
        for conn in self.connections.ids().filter(of_it).collect::<Vec<_>>() {
            let Some(destination) = self.connections.get(conn).map(|c| c.destination) else { continue };
            if self.source_site(destination) == *site {
                self.retire_connection(conn, turn);
            }
        }
    }

    /// A connection takes no further message: it is closed, or ends behind what it carries.
    fn retire_connection(&mut self, conn: ConnId, turn: &mut Turn<'_>) {
        let Some(connection) = self.connections.get_mut(conn).filter(|c| !c.leaves) else { return };
        connection.retires = true;
        if connection.begun == 0 {
            self.forget(conn, turn);
        } else if connection.is_idle() {
            self.quit(conn, turn);
        }
    }

    /// All sources of a destination's pool rest: its mail waits until the first of them is back.
    pub(super) fn await_source(&mut self, destination: DestinationId, until: Moment, turn: &mut Turn<'_>) {
        if self.pools.get(&destination).is_some_and(|pool| !pool.connections.is_empty()) {
            return self.sources.down.await_end(destination);
        }
        let why = &*self.why_sources_rest(destination, turn.now.mono);
        let reply = LastReply::new(turn.now.wall, "", 0, Some(Status::new(4, 7, 0)), why.as_bytes());
        self.put_back_loaded(destination);
        self.queue.pause(destination, reply, until, age::steady(turn.now));
        self.tell_suspended(destination, why, until, turn);
    }

    /// Whether a source has room for another connection of a destination; else it is asked for, or the mail waits.
    pub(super) fn awaits_no_source(
        &mut self,
        destination: DestinationId,
        route: &Resolution,
        turn: &mut Turn<'_>,
    ) -> bool {
        let is_lmtp =
            self.fixed_hop(destination).is_some_and(|name| matches!(self.routes.next_hop(name), NextHop::Lmtp(_)));
        if is_lmtp || self.queue.name(destination).and_then(RouteTable::lmtp_server).is_some() {
            return true;
        }
        if let Some(pool) = self.pools.get_mut(&destination) {
            pool.wants_none = false;
        }
        match self.source_is_ready(destination, route, turn) {
            From::Waits => {
                self.waits_for_source(destination, turn.now.mono);
                false
            }
            From::Rests(until) => {
                self.has_enough(destination);
                self.await_source(destination, until, turn);
                false
            }
            // Without one of the family the attempt says so.
            From::Any(_) | From::Source(_) | From::Nothing => true,
        }
    }

    /// A connection is from that source, and keeps to what its limits at the site say.
    pub(super) fn keep_to_source(&mut self, connection: &mut Connection, source: u16, now: Moment) {
        connection.source_scope = self.count_source(connection.destination, source, now);
        let limits = self.source_limits(connection.source_scope.as_ref());
        connection.bounds = connection.bounds.within(&limits);
    }

    /// Rests that are over: mail that goes from others may go from these again.
    pub(super) fn sources_turn(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        while let Some(Reverse((at, ..))) = self.sources.ends.peek()
            && *at <= now
        {
            let Some(Reverse((at, site, source))) = self.sources.ends.pop() else { break };
            // A longer one may have come.
            let key = (site, source);
            if self.sources.rests.get(&key).is_some_and(|rest| rest.until == at) {
                self.sources.rests.remove(&key);
                self.wake_members(&key.0);
            }
        }
        self.proxies_turn(now);
        self.source_shares_turn(turn);
    }
}
