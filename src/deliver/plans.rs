//! What is known about the TLS of a route's hosts before one of them is connected to: their TLSA records, and what the MTA-STS
//! policy of the domain says of them.
//!
//! In: a route, answers of DNS. Out: [`Plans`], or that some answer is still missing. Lives on the shard that owns the
//! destination. It refuses to decide what follows from it: that is `starttls`'s, at each connection.

use super::Deliverer;
use crate::dns::{MailHost, Resolution, TlsaAnswer};
use crate::queue::Terms;
use crate::route::{Hop, NextHop};
use crate::rt::tls::client::Association;
use crate::shaping::{self, Site};
use crate::shard::Turn;
use crate::starttls::report::Applied;
use crate::starttls::sts::{Mode, Stored};
use crate::starttls::{Dane, Decision, Facts, Refused, TlsLevel, decide, numbers, usable};
use crate::time::Moment;
use std::rc::Rc;
use std::sync::Arc;

/// Of all hosts of a route.
#[derive(Debug)]
pub(super) struct Plans {
    level: TlsLevel,
    name_is_secure: bool,
    /// What the operator says of the hosts, who has named them.
    hop: Option<Arc<Hop>>,
    /// Mail that asks for no TLS (RFC 8689 §3).
    not_required: bool,
    /// The MTA-STS policy of the domain.
    policy: Option<Arc<Stored>>,
    /// In the order of the route; none where nothing was asked.
    hosts: Vec<HostFacts>,
    /// Of the hosts that are not there.
    nothing: HostFacts,
}

/// Of one host.
#[derive(Debug, Default, PartialEq, Eq)]
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
        Plans { level, name_is_secure, hop: None, not_required: false, policy: None, hosts: Vec::new(), nothing }
    }

    /// What the operator says of the hosts; `None` where DNS has named them.
    pub(super) fn hop(&self) -> Option<&Arc<Hop>> {
        self.hop.as_ref()
    }

    /// Behind the name of the site of mail that asks for no TLS.
    pub(super) const NOT_REQUIRED: &str = " (tls not required)";

    pub(super) fn host(&self, at: u16) -> &HostFacts {
        self.hosts.get(usize::from(at)).unwrap_or(&self.nothing)
    }

    /// TLS is no question: it is not done, or the next hop is no mail exchanger.
    pub(super) fn is_unasked(&self) -> bool {
        self.level == TlsLevel::None
    }

    /// Whether connections there are a matter of reports (RFC 8460): DNS has named the hosts, and TLS is asked for.
    pub(super) fn is_reported(&self) -> bool {
        self.hop.is_none() && !self.not_required && !self.is_unasked()
    }

    /// Which policy that host has to fulfil, for the report.
    pub(super) fn applied(&self, at: u16) -> Applied {
        let hex = |data: &[u8]| data.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        match &self.host(at).dane {
            Dane::Failed => Applied::Tlsa(Vec::new()),
            Dane::Secure(records) if !records.is_empty() => {
                let record = |record: &Association| {
                    let (usage, selector, matching) = numbers(record);
                    format!("{usage} {selector} {matching} {}", hex(&record.data)).into()
                };
                Applied::Tlsa(records.iter().map(record).collect())
            }
            Dane::Secure(_) | Dane::Absent => match &self.policy {
                Some(stored) if stored.policy.mode != Mode::None => Applied::Sts(Some(Arc::clone(stored))),
                _ => Applied::None,
            },
        }
    }

    /// What tells sites with the same hosts apart, for domains whose mail must not share a connection: whether the hosts' names
    /// are secure, and what the domain's policy says of them. Their TLSA records are the same for all domains.
    pub(super) fn mark(&self, hosts: &[MailHost]) -> String {
        let mut mark = String::new();
        if self.name_is_secure && !self.is_unasked() {
            mark += " (dnssec)";
        }
        if self.not_required {
            mark += Plans::NOT_REQUIRED;
        }
        let mode = self.hosts.iter().find_map(|host| host.sts).map(|(mode, _)| mode);
        if let Some(mode) = mode.filter(|mode| *mode != Mode::None) {
            let named = hosts.iter().zip(&self.hosts).filter(|(_, facts)| facts.sts.is_some_and(|(_, named)| named));
            let mut named: Vec<&str> = named.map(|(host, _)| &*host.name).collect();
            named.sort_unstable();
            // Short, since site names have a bound: which of them are named is in its hash.
            mark +=
                &format!(" (mta-sts {} {:08x})", mode.name(), crate::route::hash(named.join(" ").as_bytes()) as u32);
        }
        mark
    }

    /// What a connection to that host must do.
    pub(super) fn decide(&self, at: u16, broken: bool) -> Result<Decision, Refused> {
        let host = self.host(at);
        let Plans { level, name_is_secure, not_required, .. } = *self;
        // TLS from the first octet has no other way.
        let broken = broken && !self.hop.as_ref().is_some_and(|hop| hop.implicit_tls);
        decide(&Facts { level, dane: &host.dane, sts: host.sts, name_is_secure, broken, not_required })
    }
}

/// Plans where nothing is asked, made once.
#[derive(Debug)]
pub(super) struct Unasked {
    never: Rc<Plans>,
    plain: Rc<Plans>,
    secure: Rc<Plans>,
    /// Of mail that asks for no TLS; by whether the names are secure.
    not_required: [Rc<Plans>; 2],
}

impl Unasked {
    pub(super) fn new(level: TlsLevel) -> Self {
        let plans = |level, secure| Rc::new(Plans::of(level, secure));
        let not_required = |secure| Rc::new(Plans { not_required: true, ..Plans::of(level, secure) });
        Unasked {
            never: plans(TlsLevel::None, true),
            plain: plans(level, false),
            secure: plans(level, true),
            not_required: [not_required(false), not_required(true)],
        }
    }
}

impl Deliverer {
    /// Where nothing is asked.
    pub(super) fn unasked(&self, tls: bool, name_is_secure: bool) -> Rc<Plans> {
        Rc::clone(match (tls && self.connector.is_some(), name_is_secure) {
            (false, _) => &self.unasked.never,
            (true, false) => &self.unasked.plain,
            (true, true) => &self.unasked.secure,
        })
    }

    /// The same, where a level of its own may be asked for.
    fn unasked_at(&self, level: TlsLevel, name_is_secure: bool) -> Rc<Plans> {
        if level == self.config.delivery.tls || self.connector.is_none() {
            return self.unasked(true, name_is_secure);
        }
        Rc::new(Plans::of(level, name_is_secure || level == TlsLevel::None))
    }

    /// The TLS that the hosts of a site must have at the least: as its provider's rule says, else as configured.
    pub(super) fn site_level(&self, site: Option<&Site>) -> TlsLevel {
        match site.and_then(|site| self.tables.shaping.tls(site)) {
            None => self.config.delivery.tls,
            Some(shaping::TlsLevel::Off) => TlsLevel::None,
            Some(shaping::TlsLevel::Opportunistic) => TlsLevel::Opportunistic,
            Some(shaping::TlsLevel::Require) => TlsLevel::Require,
            Some(shaping::TlsLevel::Verify) => TlsLevel::Verify,
        }
    }

    /// At hosts that the operator has named.
    pub(super) fn named(&self, hop: &Arc<Hop>) -> Rc<Plans> {
        let level = match self.connector {
            Some(_) => hop.level(self.config.delivery.tls),
            None => TlsLevel::None,
        };
        Rc::new(Plans { hop: Some(Arc::clone(hop)), ..Plans::of(level, true) })
    }

    /// Of mail that asks for no TLS: nothing is asked about its hosts (RFC 8689 §4.1).
    pub(super) fn not_required(&self, name_is_secure: bool) -> Rc<Plans> {
        Rc::clone(&self.unasked.not_required[usize::from(name_is_secure)])
    }

    /// The name of the domain that mail waits for: a connection is of a site and not of a message, so mail that asks for no TLS
    /// has a domain of its own beside that of the other (RFC 8689 §4.1).
    /// The same holds of the pool of sources that it goes from.
    pub(super) fn domain_for(&self, domain: Box<str>, terms: Option<&Terms>, pool: u16) -> Box<str> {
        let asks = terms.is_some_and(|terms| terms.tls_optional) && self.connector.is_some();
        if !asks && pool == 0 || !matches!(self.routes.next_hop(&domain), NextHop::Mx(_)) {
            return domain;
        }
        let mut name = self.with_pool(domain.into(), pool);
        if asks {
            name += Plans::NOT_REQUIRED;
        }
        name.into()
    }

    /// What is known about the hosts of a domain's route; or the names that are being asked about.
    pub(super) fn plans(
        &mut self,
        domain: &str,
        (next_hop, level): (&NextHop<'_>, TlsLevel),
        route: &Rc<Resolution>,
        turn: &mut Turn<'_>,
    ) -> Result<Rc<Plans>, Vec<Rc<str>>> {
        let named = matches!(next_hop, NextHop::Host(..)).then(|| self.named(self.tables.routes.smart_hop()));
        let sts = self.config.delivery.mta_sts && matches!(next_hop, NextHop::Mx(_));
        let level = named.as_ref().map_or(level, |plans| plans.level);
        if self.connector.is_none() || level == TlsLevel::None || (!self.config.dns.validating && !sts) {
            return Ok(named.unwrap_or_else(|| self.unasked_at(level, route.secure)));
        }
        let mut missing = Vec::new();
        let mut policy = None;
        if sts && let Ok(domain) = crate::dns::canonical(domain) {
            match self.sts(domain.as_str(), turn) {
                Ok(found) => policy = found,
                Err(name) => missing.push(name),
            }
        }
        let port = if let NextHop::Host(_, port) = next_hop { *port } else { self.config.delivery.port };
        let mut hosts = Vec::with_capacity(route.hosts().len());
        for host in route.hosts() {
            match self.dane(route.secure, host, port, turn.now.mono) {
                Ok((dane, base)) => {
                    let sts = policy.as_ref().map(|held| (held.policy.mode, held.policy.names(&host.name)));
                    hosts.push(HostFacts { dane, base, sts });
                }
                Err(name) => missing.push(name),
            }
        }
        if !missing.is_empty() {
            return Err(missing);
        }
        if hosts.iter().all(|host| *host == HostFacts::default()) {
            return Ok(named.unwrap_or_else(|| self.unasked_at(level, route.secure)));
        }
        let hop = named.and_then(|plans| plans.hop.clone());
        Ok(Rc::new(Plans { hosts, hop, policy, ..Plans::of(level, route.secure) }))
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
}
