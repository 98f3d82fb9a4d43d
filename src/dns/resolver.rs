//! PURE. A domain's mail route from the answers to its questions: MX, then the addresses of each host. One per shard.

use super::cache::Cache;
use super::facts::Facts;
use super::lookup::{Lookups, Waiter};
use super::name;
use super::outcome::{Found, Outcome, Question};
use super::resolution::{MailHost, Resolution, Verdict};
use super::settings::{AddressFamilies, DnsCounters, DnsSettings};
use super::transmit::{ExchangeId, Transmit};
use super::wire::{Exchange as MxTarget, Kind, Records};
use crate::limits;
use crate::time::Moment;
use foldhash::quality::FixedState;
use slab::Slab;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

/// Resolves domains to mail hosts; lives on one shard, touches nothing outside itself.
///
/// Four kinds of method:
/// - getters: [`counters`](Self::counters), [`pending`](Self::pending), …
/// - inputs: [`handle_datagram`](Self::handle_datagram), [`handle_stream`](Self::handle_stream),
///   [`handle_failed`](Self::handle_failed), [`handle_timeout`](Self::handle_timeout);
/// - one command: [`resolve`](Self::resolve);
/// - polls, after any input or command until empty: [`poll_transmit`](Self::poll_transmit),
///   [`poll_event`](Self::poll_event), then [`poll_timeout`](Self::poll_timeout).
///
/// A domain that was `Pending` is named by exactly one event, within four times [`limits::DNS_QUESTION_TIMEOUT`] (two questions
/// one after the other, each waiting for an exchange and then having one); without a crowd, within twice.
pub struct Resolver {
    pub(super) lookups: Lookups,
    families: AddressFamilies,
    addresses_only: bool,
    cache: Cache<Rc<str>, Rc<Resolution>>,
    /// What every text gets that is no domain; made once.
    bad_name: Rc<Resolution>,
    jobs: Slab<Job>,
    jobs_begun: u64,
    by_domain: HashMap<Rc<str>, usize, FixedState>,
    least_ttl: Duration,
    serve_stale: Duration,
    /// When a job stops waiting for its last answers.
    timers: BTreeSet<(Moment, u64)>,
    events: VecDeque<Resolved>,
    pub(super) facts: Facts,
}

/// What [`Resolver::resolve`] says at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Known now; no event follows.
    Ready(Rc<Resolution>),
    /// An event follows, one for all who asked meanwhile.
    Pending,
}

/// A domain that was pending is resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// In canonical form: see [`canonical`](super::canonical).
    pub domain: Rc<str>,
    /// Its route.
    pub resolution: Rc<Resolution>,
}

/// A domain being resolved.
struct Job {
    /// The slot in the low 16 bits, a number never used again above.
    id: u64,
    domain: Rc<str>,
    /// Nobody waits: it is asked for again before its time is over.
    ahead: bool,
    /// Whether the hosts come from MX records; otherwise the domain itself is the host.
    explicit: bool,
    hosts: Vec<Host>,
    /// Questions not yet answered.
    outstanding: usize,
    /// Until when its MX answer holds.
    expires: Moment,
    /// Which hosts it has is secure.
    secure: bool,
    /// When it stops waiting for the answers still missing; set once an address is known.
    rest_at: Option<Moment>,
}

struct Host {
    preference: u16,
    name: Rc<str>,
    v4: Option<Rc<Outcome>>,
    v6: Option<Rc<Outcome>>,
}

// --- Getters --------------------------------------------------------------------------------------------------------

impl Resolver {
    /// A resolver without knowledge. `seed` decides everything that is random here, query ids too: in production it
    /// comes from the operating system's generator, or answers can be forged.
    pub fn new(settings: &DnsSettings, seed: u64) -> Self {
        let mut lookups = Lookups::new(settings, seed);
        Resolver {
            families: settings.families,
            addresses_only: settings.addresses_only,
            cache: Cache::new(settings.cached_domains, lookups.random()),
            bad_name: Rc::new(Resolution {
                expires: Moment::NEVER,
                verdict: Verdict::NoSuchDomain,
                exchangers: Vec::new(),
                secure: false,
            }),
            jobs: Slab::new(),
            jobs_begun: 0,
            least_ttl: settings.ttl.0,
            serve_stale: settings.serve_stale,
            by_domain: HashMap::with_hasher(FixedState::with_seed(lookups.random())),
            timers: BTreeSet::new(),
            events: VecDeque::new(),
            facts: Facts::default(),
            lookups,
        }
    }

    /// Counters since the resolver was made.
    pub fn counters(&self) -> &DnsCounters {
        self.lookups.counters()
    }

    /// Domains being resolved.
    pub fn pending(&self) -> usize {
        self.jobs.len()
    }

    /// Exchanges, and so sockets of the driver, in use.
    pub fn exchanges(&self) -> usize {
        self.lookups.exchanges()
    }

    /// Resolutions kept, expired ones not yet replaced too.
    pub fn cached_domains(&self) -> usize {
        self.cache.len()
    }

    /// The bounds of both caches, and see `Lookups::sizes`.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn sizes(&self) -> (usize, usize, [usize; 5]) {
        let (answers, sizes) = self.lookups.sizes();
        (self.cache.bound(), answers, sizes)
    }

    /// Answers to single questions kept, expired ones not yet replaced too.
    pub fn cached_answers(&self) -> usize {
        self.lookups.cached_answers()
    }
}

// --- Command and polls ----------------------------------------------------------------------------------------------

impl Resolver {
    /// Asks for the mail route of `domain`, a domain in any case or an address literal with its brackets. A known
    /// route costs no allocation. A text that is no domain is [`Verdict::NoSuchDomain`] without a query.
    pub fn resolve(&mut self, domain: &str, now: Moment) -> Answer {
        self.lookups.counters_mut().resolutions += 1;
        // Keys are canonical, so a text that is found is: most come in lower case. With a final dot they are hosts'.
        if let Some(resolution) = self.cached(domain, now).filter(|_| !domain.ends_with('.')) {
            return Answer::Ready(resolution);
        }
        let Ok(canonical) = name::canonical(domain) else { return Answer::Ready(Rc::clone(&self.bad_name)) };
        let domain = canonical.as_str();
        if let Some(resolution) = self.cached(domain, now) {
            return Answer::Ready(resolution);
        }
        if domain.starts_with('[') {
            return Answer::Ready(self.literal(domain, now));
        }
        self.start(domain, now)
    }

    /// Asks for the addresses of `host`, a name or an address literal with its brackets, and not for its MX. It is named by
    /// its event with a dot behind it: what is known of a domain of that name is another thing.
    pub fn resolve_host(&mut self, host: &str, now: Moment) -> Answer {
        self.lookups.counters_mut().resolutions += 1;
        let Ok(canonical) = name::canonical(host) else { return Answer::Ready(Rc::clone(&self.bad_name)) };
        if canonical.as_str().starts_with('[') {
            return Answer::Ready(self.literal(canonical.as_str(), now));
        }
        let key = format!("{}.", canonical.as_str());
        if let Some(resolution) = self.cached(&key, now) {
            return Answer::Ready(resolution);
        }
        self.start(&key, now)
    }

    fn start(&mut self, domain: &str, now: Moment) -> Answer {
        if let Some(&key) = self.by_domain.get(domain) {
            self.jobs[key].ahead = false;
            self.lookups.counters_mut().coalesced += 1;
            return Answer::Pending;
        }
        if self.jobs.len() >= limits::DNS_PENDING_DOMAINS {
            self.lookups.counters_mut().refused += 1;
            let reason = "too many domains are being resolved".to_owned();
            // Not cached: it says nothing about the domain.
            let expires = now + limits::DNS_FAILURE_TTL;
            return Answer::Ready(Rc::new(Resolution {
                expires,
                verdict: Verdict::Temporary { reason },
                secure: false,
                exchangers: Vec::new(),
            }));
        }
        let events = self.events.len();
        self.begin(domain.into(), false, now);
        self.settle(now);
        // Nothing but this domain can have ended in this call, and only by what the cache of answers holds.
        match self.events.len() > events {
            true => Answer::Ready(self.events.pop_back().expect("one more than before").resolution),
            false => Answer::Pending,
        }
    }

    /// What to send or close next.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.lookups.poll_transmit()
    }

    /// The next domain that was pending and is resolved.
    pub fn poll_event(&mut self) -> Option<Resolved> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Moment> {
        let rest = self.timers.first().map(|(moment, _)| *moment);
        [self.lookups.poll_timeout(), rest].into_iter().flatten().min()
    }

    fn cached(&mut self, domain: &str, now: Moment) -> Option<Rc<Resolution>> {
        let resolution = Rc::clone(self.cache.get(domain, now)?);
        self.lookups.counters_mut().cache_hits += 1;
        // Mail does not wait for DNS where it goes all the time.
        let has_room = self.jobs.len() < limits::DNS_PENDING_DOMAINS / 2;
        if has_room
            && self.cache.is_fading(domain, now)
            && !domain.starts_with('[')
            && !self.by_domain.contains_key(domain)
        {
            self.lookups.counters_mut().prefetched += 1;
            self.begin(domain.into(), true, now);
            self.settle(now);
        }
        Some(resolution)
    }

    fn literal(&mut self, text: &str, now: Moment) -> Rc<Resolution> {
        let Some(address) = parse_literal(text) else { return Rc::clone(&self.bad_name) };
        let name: Rc<str> = text.into();
        let host = MailHost {
            preference: 0,
            name: Rc::clone(&name),
            addresses: vec![address],
            port: None,
            secure: false,
            alias: None,
        };
        let expires = now + limits::DNS_TTL_MAX;
        let resolution = Rc::new(Resolution {
            expires,
            exchangers: vec![Rc::clone(&host.name)],
            verdict: Verdict::Hosts(vec![host]),
            secure: false,
        });
        self.cache.insert(name, Rc::clone(&resolution), expires, now);
        resolution
    }
}

// --- Inputs ---------------------------------------------------------------------------------------------------------

impl Resolver {
    /// A datagram came on a UDP exchange. Ended exchanges are ignored, here and below.
    pub fn handle_datagram(&mut self, exchange: ExchangeId, bytes: &[u8], now: Moment) {
        self.lookups.handle_datagram(exchange, bytes, now);
        self.settle(now);
    }

    /// Bytes came on a TCP exchange, cut anyhow.
    pub fn handle_stream(&mut self, exchange: ExchangeId, bytes: &[u8], now: Moment) {
        self.lookups.handle_stream(exchange, bytes, now);
        self.settle(now);
    }

    /// The exchange's socket could not be opened, was refused (ICMP), reset, or closed by the server.
    pub fn handle_failed(&mut self, exchange: ExchangeId, now: Moment) {
        self.lookups.handle_failed(exchange, now);
        self.settle(now);
    }

    /// Time has passed, to [`poll_timeout`](Self::poll_timeout) or beyond.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.lookups.handle_timeout(now);
        self.settle(now);
        while let Some(&(moment, id)) = self.timers.first()
            && moment <= now
        {
            self.timers.pop_first();
            let key = self.job(id).expect("a job takes its timer along when it ends");
            self.jobs[key].rest_at = None;
            self.conclude(key, now);
        }
    }
}

// --- Transitions ----------------------------------------------------------------------------------------------------

impl Resolver {
    fn begin(&mut self, domain: Rc<str>, ahead: bool, now: Moment) {
        // With a dot behind it, it is a host: see `resolve_host`.
        let addresses_only = self.addresses_only || domain.ends_with('.');
        self.jobs_begun += 1;
        let entry = self.jobs.vacant_entry();
        let (key, id) = (entry.key(), self.jobs_begun << 16 | entry.key() as u64);
        entry.insert(Job {
            id,
            domain: Rc::clone(&domain),
            ahead,
            explicit: true,
            hosts: Vec::new(),
            outstanding: usize::from(!addresses_only),
            expires: Moment::NEVER,
            // The name comes from the operator.
            secure: self.addresses_only,
            rest_at: None,
        });
        self.by_domain.insert(Rc::clone(&domain), key);
        if addresses_only {
            let job = &mut self.jobs[key];
            job.explicit = false;
            let name = domain.strip_suffix('.').map_or(Rc::clone(&domain), Into::into);
            job.hosts.push(Host { preference: 0, name, v4: None, v6: None });
            return self.ask_addresses(key, now);
        }
        let question = Question { name: domain, kind: Kind::Mx };
        if let Some(outcome) = self.lookups.ask(question, Waiter { job: id, host: None }, ahead, now) {
            self.mx_answered(key, &outcome, now);
        }
    }

    fn job(&self, id: u64) -> Option<usize> {
        let key = (id & 0xffff) as usize;
        (self.jobs.get(key)?.id == id).then_some(key)
    }

    /// Hands ended lookups to the jobs that wait for them.
    pub(super) fn settle(&mut self, now: Moment) {
        while let Some(finished) = self.lookups.poll_finished() {
            self.facts.note(&finished);
            for waiter in finished.waiters {
                // A job may have ended without its last answers.
                let Some(key) = self.job(waiter.job) else { continue };
                match waiter.host {
                    None => self.mx_answered(key, &finished.outcome, now),
                    Some(host) => {
                        self.jobs[key].take(host, finished.kind, Rc::clone(&finished.outcome));
                        self.proceed(key, now);
                    }
                }
            }
        }
    }

    fn mx_answered(&mut self, key: usize, outcome: &Outcome, now: Moment) {
        let job = &mut self.jobs[key];
        job.outstanding -= 1;
        job.expires = outcome.expires;
        job.secure = outcome.secure;
        let host = |preference, name: &Rc<str>| Host { preference, name: Rc::clone(name), v4: None, v6: None };
        let verdict = match &outcome.found {
            Found::Records(Records::Mx(list)) if list.iter().any(|(_, target)| *target == MxTarget::Null) => {
                Verdict::NullMx
            }
            Found::Records(Records::Mx(list)) => {
                let hosts = list.iter().filter_map(|(preference, target)| match target {
                    MxTarget::Host(name) => Some(host(*preference, name)),
                    MxTarget::Null | MxTarget::Unusable => None,
                });
                job.hosts.extend(hosts);
                return self.ask_addresses(key, now);
            }
            // RFC 5321 §5.1: the implicit MX, only if there is no MX record at all.
            Found::NoData => {
                job.explicit = false;
                job.hosts.push(host(0, &job.domain));
                return self.ask_addresses(key, now);
            }
            Found::NoSuchName => Verdict::NoSuchDomain,
            Found::Failed(reason) => Verdict::Temporary { reason: reason.clone() },
            Found::Records(_) => unreachable!("a question for MX finds MX"),
        };
        self.end(key, verdict, outcome.expires, now);
    }

    fn ask_addresses(&mut self, key: usize, now: Moment) {
        let kinds: &[Kind] =
            if self.families == AddressFamilies::Ipv4Only { &[Kind::A] } else { &[Kind::A, Kind::Aaaa] };
        let job = &mut self.jobs[key];
        for host in 0..u16::try_from(job.hosts.len()).expect("limits.rs bounds the hosts of a domain") {
            for &kind in kinds {
                let question = Question { name: Rc::clone(&job.hosts[usize::from(host)].name), kind };
                job.outstanding += 1;
                let waiter = Waiter { job: job.id, host: Some(host) };
                if let Some(outcome) = self.lookups.ask(question, waiter, job.ahead, now) {
                    job.take(host, kind, outcome);
                }
            }
        }
        self.proceed(key, now);
    }

    /// Ends a job that has all its answers; one that has enough to send mail waits for the rest a little only.
    fn proceed(&mut self, key: usize, now: Moment) {
        let job = &mut self.jobs[key];
        if job.outstanding == 0 {
            self.conclude(key, now);
        } else if job.rest_at.is_none() && job.hosts.iter().any(|host| host.addresses().next().is_some()) {
            let rest_at = now + limits::DNS_REST_TIMEOUT;
            job.rest_at = Some(rest_at);
            self.timers.insert((rest_at, job.id));
        }
    }

    /// Makes the verdict from the answers that are there.
    fn conclude(&mut self, key: usize, now: Moment) {
        let job = &self.jobs[key];
        let mut expires = job.expires;
        let mut reason = None;
        let mut all_unknown = true;
        for outcome in job.hosts.iter().flat_map(Host::outcomes) {
            match &outcome.found {
                Found::Failed(text) => reason = reason.or(Some(text)),
                _ => expires = expires.min(outcome.expires),
            }
            all_unknown &= outcome.found == Found::NoSuchName;
        }
        let hosts: Vec<MailHost> = job.hosts.iter().filter_map(|host| host.mail_host(self.families)).collect();
        let verdict = match (hosts.is_empty(), reason) {
            (false, None) if job.outstanding == 0 => Verdict::Hosts(hosts),
            // Mail goes to what is known; what is missing is asked for again before long.
            (false, _) => {
                expires = expires.min(now + limits::DNS_PARTIAL_TTL);
                Verdict::Hosts(hosts)
            }
            (true, Some(text)) => {
                expires = now + limits::DNS_FAILURE_TTL;
                Verdict::Temporary { reason: text.clone() }
            }
            (true, None) if !job.explicit && all_unknown => Verdict::NoSuchDomain,
            (true, None) => Verdict::NoMailHost,
        };
        self.end(key, verdict, expires, now);
    }

    fn end(&mut self, key: usize, verdict: Verdict, expires: Moment, now: Moment) {
        let job = self.jobs.remove(key);
        if let Some(rest_at) = job.rest_at {
            self.timers.remove(&(rest_at, job.id));
        }
        self.by_domain.remove(&job.domain);
        // Answers that came early may have run out while the last one was waited for.
        let expires = expires.max(now + self.least_ttl);
        let known = matches!(verdict, Verdict::Temporary { .. }).then(|| self.known_before(&job.domain, now)).flatten();
        let resolution = match known {
            Some(resolution) => resolution,
            None => {
                let exchangers = job.hosts.iter().map(|host| Rc::clone(&host.name)).collect();
                let resolution = Rc::new(Resolution { expires, verdict, exchangers, secure: job.secure });
                self.cache.insert(Rc::clone(&job.domain), Rc::clone(&resolution), expires, now);
                resolution
            }
        };
        if !job.ahead {
            self.events.push_back(Resolved { domain: job.domain, resolution });
        }
    }

    /// DNS fails: the route that was known, if it had hosts and that is not long ago (RFC 8767).
    fn known_before(&mut self, domain: &str, now: Moment) -> Option<Rc<Resolution>> {
        let resolution = self.cache.stale(domain, self.serve_stale, now)?;
        if resolution.hosts().is_empty() {
            return None;
        }
        if resolution.is_fresh(now) {
            return Some(Rc::clone(resolution));
        }
        let expires = now + limits::DNS_STALE_TTL;
        let resolution = Rc::new(Resolution { expires, ..Resolution::clone(resolution) });
        self.cache.keep_stale(domain, Rc::clone(&resolution), expires);
        self.lookups.counters_mut().stale += 1;
        Some(resolution)
    }
}

impl Job {
    fn take(&mut self, host: u16, kind: Kind, outcome: Rc<Outcome>) {
        self.outstanding -= 1;
        let host = &mut self.hosts[usize::from(host)];
        match kind {
            Kind::A => host.v4 = Some(outcome),
            Kind::Aaaa => host.v6 = Some(outcome),
            _ => unreachable!("a host is asked for its addresses only"),
        }
    }
}

impl Host {
    fn outcomes(&self) -> impl Iterator<Item = &Rc<Outcome>> {
        [&self.v4, &self.v6].into_iter().flatten()
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.outcomes()
            .flat_map(|outcome| match &outcome.found {
                Found::Records(Records::Addresses(list)) => list.as_slice(),
                _ => &[],
            })
            .copied()
    }

    fn mail_host(&self, families: AddressFamilies) -> Option<MailHost> {
        let mut addresses: Vec<IpAddr> = self.addresses().collect();
        // IPv4 stands first so far; the sort is stable.
        if families == AddressFamilies::Ipv6First {
            addresses.sort_by_key(IpAddr::is_ipv4);
        }
        let has_address = !addresses.is_empty();
        // Failures bring no address and say nothing.
        let secure = self.outcomes().filter(|o| !matches!(o.found, Found::Failed(_))).all(|o| o.secure);
        let alias = self.outcomes().find_map(|o| o.alias.clone());
        let (preference, name) = (self.preference, Rc::clone(&self.name));
        has_address.then_some(MailHost { preference, name, addresses, port: None, secure, alias })
    }
}

/// `[192.0.2.1]` or `[ipv6:2001:db8::1]` (RFC 5321 §4.1.3), in lower case.
fn parse_literal(text: &str) -> Option<IpAddr> {
    let inside = text.strip_prefix('[')?.strip_suffix(']')?;
    match inside.strip_prefix("ipv6:") {
        Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => inside.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}
