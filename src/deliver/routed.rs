//! Mail of domains that have a route: to hosts of its own, to an LMTP server, nowhere, or nowhere for now; and the relay
//! that takes mail whose own hosts stay out of reach.
//!
//! A route is looked up where DNS would be asked, by the owner of the domain. So mail that waits follows a table that was
//! read again. Discarded and refused mail never leaves its own destination; held mail rests there, as that of a host that
//! cannot be reached, and grows old.

use super::outcome::Attempt;
use super::site::Route as Way;
use super::sources::without_pool;
use super::{Deliverer, age};
use crate::dns::{Answer, MailHost, Resolution, Verdict};
use crate::limits;
use crate::local::LmtpServer;
use crate::message::Status;
use crate::queue::{DomainId, LastReply};
use crate::route::{Hosts, Route, RouteTable};
use crate::shaping::Site;
use crate::shard::Turn;
use crate::smtp::extensions::Capabilities;
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::time::Moment;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

impl Deliverer {
    /// Where the mail of a domain goes that does not go where DNS says. `None`: it does.
    pub(super) fn routed(&mut self, domain: DomainId, name: &str, turn: &mut Turn<'_>) -> Option<Way> {
        if self.fallback.is_none() && self.tables.routes.is_empty() {
            return None;
        }
        let route = self.tables.routes.find(name).filter(|route| **route != Route::Mx).cloned();
        let by_hosts = matches!(route, None | Some(Route::Hosts(_)));
        if by_hosts && let Some(way) = self.falls_back(domain, turn) {
            return Some(way);
        }
        Some(match route? {
            Route::Mx => return None,
            Route::Hosts(hosts) => self.way_to_hosts(domain, &hosts, None, turn),
            Route::Lmtp(server) => {
                let (name, address) = match &server {
                    LmtpServer::Tcp(address) => (address.ip().to_string(), address.ip()),
                    // The address is that of nothing: the socket has a path.
                    LmtpServer::Unix(_) => ("localhost".to_owned(), IpAddr::from([127, 0, 0, 1])),
                };
                self.bind(domain, &RouteTable::lmtp_site(&server), Moment::NEVER);
                Way::To(Rc::new(super::site::fixed(&name, address)), self.unasked(false, true))
            }
            Route::Discard => {
                self.discard(domain, turn);
                Way::Nowhere
            }
            Route::Reject(why) => {
                let reply = LastReply::new(turn.now.wall, "", 0, Some(Status::new(5, 7, 1)), why.as_bytes());
                if let Some(own) = self.own(domain) {
                    self.fail_all(own, &reply, Attempt::default(), turn);
                }
                Way::Nowhere
            }
            Route::Hold => {
                let Some(own) = self.own(domain) else { return Some(Way::Nowhere) };
                let status = Some(Status::new(4, 7, 1));
                let reply = LastReply::new(turn.now.wall, "", 0, status, b"held by a route");
                // Looked at as seldom as what is out of reach, so that it expires in time; a reload looks at once.
                let until = turn.now.mono + self.queue.policy().max;
                self.queue.pause(own, reply, until, age::steady(turn.now));
                self.tell_suspended(own, "held by a route", until, turn);
                Way::Nowhere
            }
        })
    }

    /// Another table of routes was read: where mail goes is asked anew, and what rests, held or out of reach, is tried.
    pub(super) fn routes_changed(&mut self) {
        self.queue.unbind_all();
        self.queue.probe_all();
    }

    /// A domain's destination, shared with no other.
    fn own(&mut self, domain: DomainId) -> Option<crate::queue::DestinationId> {
        let before = self.queue.destination(domain);
        let own = self.queue.isolate(domain);
        if let (Some(before), true) = (before, before != own) {
            self.wake(before);
        }
        own
    }

    /// All mail of a domain that is ready is over, as if it had been delivered.
    fn discard(&mut self, domain: DomainId, turn: &mut Turn<'_>) {
        let Some(own) = self.own(domain) else { return };
        let enhanced = Some(EnhancedCode(2, 0, 0));
        let reply = Reply { code: 250, enhanced, text: "2.0.0 discarded, as a route says" };
        for _ in 0..limits::FAILURES_PER_TURN {
            let loaded = self.pop_loaded(own);
            let Some(key) = loaded.or_else(|| self.queue.take(own)) else { return };
            let Some(job) = self.queue.job_mut(key) else { continue };
            let (recipients, record) = (job.recipients.clone(), job.body.take());
            // Without a record its report of success (RFC 3461) is not made: nobody has it.
            let attempt = Attempt { record: record.as_deref(), ..Attempt::default() };
            self.delivered(key, &recipients, &reply, "discard", &Capabilities::default(), attempt, turn);
            self.queue.finished(key);
        }
        self.wake(own);
    }

    /// To hosts that a route names.
    fn way_to_hosts(&mut self, domain: DomainId, hosts: &Hosts, until: Option<Moment>, turn: &mut Turn<'_>) -> Way {
        let (mut all, mut expires, mut reason) = (Vec::new(), Moment::NEVER, String::new());
        for (host, weight) in hosts.hosts() {
            let answer = match host.host().trim_matches(['[', ']']).parse::<IpAddr>() {
                Ok(address) => Answer::Ready(Rc::new(super::site::fixed(host.host(), address))),
                Err(_) => self.resolver.resolve_host(host.host(), turn.now.mono),
            };
            let Answer::Ready(resolution) = answer else {
                // One after the other: those that are known by then are in the resolver's cache.
                let asked: Rc<str> = format!("{}.", host.host()).into();
                self.resolving.entry(asked).or_default().push(domain);
                self.asked.insert(domain, ());
                return Way::Asked;
            };
            expires = expires.min(resolution.expires);
            for found in resolution.hosts() {
                let found = MailHost { port: Some(host.port()), ..found.clone() };
                // Among equals each entry is as likely to be the first.
                all.extend(std::iter::repeat_n(found, *weight as usize));
            }
            if resolution.hosts().is_empty() {
                let why = match &resolution.verdict {
                    Verdict::Temporary { reason } => reason,
                    _ => "it has no address",
                };
                reason = format!("{host} of the route: {why}");
            }
        }
        if all.is_empty() {
            self.has_no_hosts(domain, &Verdict::Temporary { reason }, turn);
            return Way::Nowhere;
        }
        self.bind(domain, hosts.site(), until.unwrap_or(expires));
        let route = Resolution { expires, exchangers: Vec::new(), verdict: Verdict::Hosts(all), secure: false };
        Way::To(Rc::new(route), self.named(hosts.hop()))
    }

    /// A domain's mail waits at this site from now on.
    fn bind(&mut self, domain: DomainId, site: &str, until: Moment) {
        let before = self.queue.destination(domain);
        let pool = self.queue.domain_name(domain).map_or(0, |name| self.pool_in(name).1);
        // An LMTP server is found by its destination's name.
        let pool = if RouteTable::lmtp_server(site).is_some() { 0 } else { pool };
        let after = self.queue.bind(domain, &self.with_pool(site.to_owned(), pool), until);
        if let Some(after) = after {
            // What rules say of sites without a provider.
            self.join(after, Site { name: site.into(), provider: None }, pool);
        }
        if let (Some(before), true) = (before, before != after) {
            // What was loaded there goes along.
            self.wake(before);
        }
    }

    /// To the fallback relay, if the domain's own hosts have been out of reach for long enough, or it is there already and its
    /// time there is not over. After that its own hosts have a new chance.
    fn falls_back(&mut self, domain: DomainId, turn: &mut Turn<'_>) -> Option<Way> {
        let relay = Arc::clone(self.fallback.as_ref()?);
        let now = turn.now.mono;
        let destination = self.queue.destination(domain)?;
        let there = self.queue.name(destination).map(without_pool) == Some(relay.site());
        let until = if there {
            let until = self.queue.bound_until(domain);
            if until <= now {
                // Those that were forgotten meanwhile go when there are many.
                if self.returning.len() > 2 * self.queue.counts().destinations + 64 {
                    let queue = &self.queue;
                    self.returning.retain(|domain, ()| queue.domain_name(*domain).is_some());
                }
                self.returning.insert(domain, ());
                return None;
            }
            until
        } else if self.returning.remove(&domain).is_some() {
            self.queue.reachable(destination);
            return None;
        } else if self.is_lost(domain, now) {
            now + self.config.delivery.fallback_after
        } else {
            return None;
        };
        Some(self.way_to_hosts(domain, &relay, Some(until), turn))
    }

    /// Whether the hosts of a domain have been out of reach for as long as a fallback relay waits.
    pub(super) fn is_lost(&self, domain: DomainId, now: Moment) -> bool {
        let Some(relay) = &self.fallback else { return false };
        let Some(destination) = self.queue.destination(domain) else { return false };
        let since = self.queue.unreachable_since(destination);
        since.is_some_and(|since| now.since(since) >= self.config.delivery.fallback_after)
            && self.queue.name(destination).map(without_pool) != Some(relay.site())
    }
}
