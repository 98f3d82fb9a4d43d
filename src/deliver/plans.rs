//! What is known about the TLS of a route's hosts before one of them is connected to: their TLSA records, and what the MTA-STS
//! policy of the domain says of them.
//!
//! In: a route, answers of DNS. Out: [`Plans`], or that some answer is still missing. Lives on the shard that owns the
//! destination. It refuses to decide what follows from it: that is `starttls`'s, at each connection.

use super::Deliverer;
use crate::dns::{MailHost, Resolution, TlsaAnswer};
use crate::limits;
use crate::queue::DestinationId;
use crate::route::NextHop;
use crate::rt::tls::client::Association;
use crate::shard::Turn;
use crate::starttls::sts::Mode;
use crate::starttls::{Dane, Decision, Facts, Refused, TlsLevel, decide, usable};
use crate::time::Moment;
use std::rc::Rc;

/// Of all hosts of a route.
#[derive(Debug)]
pub(super) struct Plans {
    level: TlsLevel,
    name_is_secure: bool,
    /// In the order of the route; none where nothing was asked.
    hosts: Vec<HostFacts>,
    /// Of the hosts that are not there.
    nothing: HostFacts,
    /// The route they are about, and until when.
    route: Option<Rc<Resolution>>,
    expires: Moment,
}

/// Of one host.
#[derive(Debug, Default)]
pub(super) struct HostFacts {
    dane: Dane,
    /// The name the records were found by, if it is not the host's own (RFC 7672 §2.2.2).
    base: Option<Rc<str>>,
    sts: Option<(Mode, bool)>,
}

impl HostFacts {
    /// The name to ask for (SNI): RFC 7672 §8.1.
    pub(super) fn server_name<'a>(&'a self, host: &'a str) -> &'a str {
        self.base.as_deref().unwrap_or(host)
    }

    pub(super) fn records(&self) -> &[Association] {
        match &self.dane {
            Dane::Secure(records) => records,
            Dane::Absent | Dane::Failed => &[],
        }
    }
}

impl Plans {
    /// Where nothing is asked.
    fn of(level: TlsLevel, name_is_secure: bool) -> Plans {
        let nothing = HostFacts::default();
        Plans { level, name_is_secure, hosts: Vec::new(), nothing, route: None, expires: Moment::NEVER }
    }

    pub(super) fn host(&self, at: u16) -> &HostFacts {
        self.hosts.get(usize::from(at)).unwrap_or(&self.nothing)
    }

    /// TLS is no question: it is not done, or the next hop is no mail exchanger.
    pub(super) fn is_unasked(&self) -> bool {
        self.level == TlsLevel::None
    }

    /// What a connection to that host must do.
    pub(super) fn decide(&self, at: u16, broken: bool) -> Result<Decision, Refused> {
        let host = self.host(at);
        let (level, name_is_secure) = (self.level, self.name_is_secure);
        decide(&Facts { level, dane: &host.dane, sts: host.sts, name_is_secure, broken, not_required: false })
    }
}

/// Plans where nothing is asked, made once.
#[derive(Debug)]
pub(super) struct Unasked {
    never: Rc<Plans>,
    plain: Rc<Plans>,
    secure: Rc<Plans>,
}

impl Unasked {
    pub(super) fn new(level: TlsLevel) -> Self {
        let plans = |level, secure| Rc::new(Plans::of(level, secure));
        Unasked { never: plans(TlsLevel::None, true), plain: plans(level, false), secure: plans(level, true) }
    }
}

impl Deliverer {
    /// What is known about the hosts of a route; `None` while something is asked, which pumps the destination.
    pub(super) fn plans(
        &mut self,
        destination: DestinationId,
        route: &Rc<Resolution>,
        turn: &mut Turn<'_>,
    ) -> Option<Rc<Plans>> {
        let name = self.queue.name(destination)?;
        let next_hop = self.routes.next_hop(name);
        if self.connector.is_none() || matches!(next_hop, NextHop::Lmtp(_) | NextHop::Maildir) {
            return Some(Rc::clone(&self.unasked.never));
        }
        let sts = self.config.delivery.mta_sts && matches!(next_hop, NextHop::Mx(_));
        if !self.config.dns.validating && !sts {
            return Some(Rc::clone(if route.secure { &self.unasked.secure } else { &self.unasked.plain }));
        }
        let port = if let NextHop::Host(_, port) = next_hop { port } else { self.config.delivery.port };
        let now = turn.now.mono;
        if let Some(plans) = self.pools.get(&destination).and_then(|pool| pool.plans.as_ref())
            && plans.expires > now
            && plans.route.as_ref().is_some_and(|known| Rc::ptr_eq(known, route))
        {
            return Some(Rc::clone(plans));
        }
        let mut hosts = Vec::with_capacity(route.hosts().len());
        let mut missing: Vec<Rc<str>> = Vec::new();
        let mut policy = None;
        if sts && let Ok(domain) = crate::dns::canonical(self.queue.name(destination)?) {
            match self.sts(domain.as_str(), turn) {
                Ok(found) => policy = found,
                Err(name) => missing.push(name),
            }
        }
        for host in route.hosts() {
            match self.dane(route.secure, host, port, now) {
                Ok((dane, base)) => {
                    let sts = policy.as_ref().map(|held| (held.policy.mode, held.policy.names(&host.name)));
                    hosts.push(HostFacts { dane, base, sts });
                }
                Err(name) => missing.push(name),
            }
        }
        let is_missing = !missing.is_empty();
        for name in missing {
            let waiting = self.asking.entry(name).or_default();
            if !waiting.contains(&destination) {
                waiting.push(destination);
            }
        }
        let pool = self.pools.entry(destination).or_default();
        if is_missing {
            pool.resolving = true;
            return None;
        }
        let expires = route.expires.min(now + limits::TLS_PLAN_TIME);
        let (level, name_is_secure) = (self.config.delivery.tls, route.secure);
        let route = Some(Rc::clone(route));
        let plans = Rc::new(Plans { hosts, route, expires, ..Plans::of(level, name_is_secure) });
        pool.plans = Some(Rc::clone(&plans));
        Some(plans)
    }

    /// The TLSA records of a host, and by which other name they were found; or the name that is being asked about.
    fn dane(
        &mut self,
        names_are_secure: bool,
        host: &MailHost,
        port: u16,
        now: Moment,
    ) -> Result<(Dane, Option<Rc<str>>), Rc<str>> {
        let absent = Ok((Dane::Absent, None));
        if !names_are_secure {
            return absent;
        }
        // RFC 7672 §2.2.2: where all of the way through an alias is secure, its end comes first.
        if let Some(end) = host.alias.as_ref().filter(|_| host.secure) {
            match self.tlsa(end, port, now)? {
                Dane::Absent => {}
                found => return Ok((found, Some(Rc::clone(end)))),
            }
        } else if host.alias.is_some() {
            match self.resolver.has_secure_alias(&host.name, now) {
                None => return Err(Rc::clone(&host.name)),
                Some(Err(_)) => return Ok((Dane::Failed, None)),
                Some(Ok(false)) => return absent,
                Some(Ok(true)) => {}
            }
        } else if !host.secure {
            // RFC 7672 §2.2.1: whoever can forge the address needs no forged records.
            return absent;
        }
        Ok((self.tlsa(&host.name, port, now)?, None))
    }

    fn tlsa(&mut self, name: &str, port: u16, now: Moment) -> Result<Dane, Rc<str>> {
        match self.resolver.tlsa(name, port, now) {
            None => Err(crate::dns::tlsa_name(name, port).into()),
            Some(TlsaAnswer::Failed(_)) => Ok(Dane::Failed),
            Some(TlsaAnswer::None) => Ok(Dane::Absent),
            Some(TlsaAnswer::Secure(records)) => Ok(Dane::Secure(usable(&records))),
        }
    }

    /// A question about a name was answered: whoever waits looks again.
    pub(super) fn answered(&mut self, name: &str, turn: &mut Turn<'_>) {
        if let Some(domain) = self.refreshed_by(name) {
            self.refresh(&domain, turn);
        }
        for destination in self.asking.remove(name).unwrap_or_default() {
            if let Some(pool) = self.pools.get_mut(&destination) {
                pool.resolving = false;
            }
            self.pump(destination, turn);
        }
    }
}
