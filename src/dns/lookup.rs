//! PURE. One question answered by some server: the machine under [`Resolver`](super::Resolver), one per shard.
//!
//! A question (name and type) is asked at one server at a time. Each try is an exchange: one query, one socket, one
//! deadline. An exchange that fails moves the question to the next server; an answer that is cut moves it to TCP at
//! the same server; an alias without its target's records makes it ask on for the target. Equal questions share one
//! lookup, and answers, failures too, are cached.
//!
//! Methods, as on every machine: getters (`counters`, …), `handle_*`, one command (`ask`), `poll_*`.
//!
//! Against forged answers (RFC 5452): ids come out of ChaCha, keyed by the caller's seed, so those seen tell nothing
//! about the next; names are asked for in random case, and the question must come back in it (0x20; a server that loses it is
//! found out over TCP, and asked in lower case for an hour); each exchange has a socket and so a port of its own; equal questions
//! are never under way twice; a socket that gets foreign datagrams is given up for TCP.

use super::cache::{Cache, nearly_over};
use super::name;
use super::outcome::{Failure, Found, Outcome, Question};
use super::servers::Servers;
use super::settings::{DnsCounters, DnsSettings};
use super::transmit::{ExchangeId, Transmit};
use super::wire::{self, Exchange as MxTarget, Kind, Reading, Records};
use crate::limits;
use crate::time::Moment;
use chacha20::ChaCha12Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use foldhash::quality::FixedState;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use slab::Slab;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt::Write;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// Who waits for a question: a job of the resolver, and which of its hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) job: u64,
    pub(super) host: Option<u16>,
}

/// A question that ended.
pub(super) struct Finished {
    pub(super) name: Rc<str>,
    pub(super) kind: Kind,
    pub(super) outcome: Rc<Outcome>,
    pub(super) waiters: Vec<Waiter>,
}

pub(super) struct Lookups {
    servers: Servers,
    try_timeout: Duration,
    attempts: u32,
    validating: bool,
    ttl: (Duration, Duration),
    random_case: bool,
    cache: Cache<Question, Rc<Outcome>>,
    lookups: Slab<Lookup>,
    by_question: HashMap<Question, usize, FixedState>,
    exchanges: Slab<Exchange>,
    exchanges_begun: u64,
    lookups_begun: u64,
    /// Lookups for which no exchange was free: key and serial number, the latter to recognise those that ended.
    queue: VecDeque<(usize, u64)>,
    timers: BTreeSet<(Moment, Timer)>,
    transmits: VecDeque<Transmit>,
    finished: VecDeque<Finished>,
    random: ChaCha12Rng,
    counters: DnsCounters,
}

/// At equal moments exchanges come first, so that a lookup's end names what its last server did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Exchange(usize),
    Lookup(usize),
}

struct Lookup {
    question: Question,
    serial: u64,
    /// Of the waiting for an exchange, then of all tries.
    deadline: Moment,
    begun: bool,
    /// The name now asked for: the question's, or what it is an alias of.
    name: Name,
    /// Names that turned out to be aliases.
    aliases: Vec<Name>,
    /// Smallest TTL on the way, in seconds.
    ttl: u32,
    /// Every answer so far was validated.
    secure: bool,
    round: u32,
    /// Servers tried in this round, and those that gave an answer that asking again will not change; bit by index.
    tried: u32,
    settled: u32,
    failures: Vec<(usize, Failure)>,
    exchange: Option<usize>,
    waiters: Vec<Waiter>,
}

struct Exchange {
    id: ExchangeId,
    lookup: usize,
    server: usize,
    transport: Transport,
    query_id: u16,
    /// The name in the case it was asked in, if that is to come back.
    cased: Option<Name>,
    /// Over UDP the case was lost: if TCP does not work, it is the server that loses it.
    case_lost: bool,
    plain: bool,
    sent: Moment,
    deadline: Moment,
    mismatches: u32,
}

enum Transport {
    Udp,
    /// What came of the stream.
    Tcp(Vec<u8>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Try {
    Udp,
    Tcp,
}

// --- Getters --------------------------------------------------------------------------------------------------------

impl Lookups {
    pub(super) fn new(settings: &DnsSettings, seed: u64) -> Self {
        let mut random = ChaCha12Rng::seed_from_u64(seed);
        Lookups {
            servers: Servers::new(settings),
            try_timeout: settings.timeout.clamp(Duration::from_millis(1), limits::DNS_QUESTION_TIMEOUT),
            attempts: settings.attempts.clamp(1, limits::DNS_ATTEMPTS),
            validating: settings.validating,
            ttl: settings.ttl,
            random_case: settings.random_case,
            cache: Cache::new(settings.cached_answers, random.next_u64()),
            lookups: Slab::new(),
            by_question: HashMap::with_hasher(FixedState::with_seed(random.next_u64())),
            exchanges: Slab::new(),
            exchanges_begun: 0,
            lookups_begun: 0,
            queue: VecDeque::new(),
            timers: BTreeSet::new(),
            transmits: VecDeque::new(),
            finished: VecDeque::new(),
            random,
            counters: DnsCounters::default(),
        }
    }

    pub(super) fn counters(&self) -> &DnsCounters {
        &self.counters
    }

    pub(super) fn counters_mut(&mut self) -> &mut DnsCounters {
        &mut self.counters
    }

    /// 64 bits nobody outside can guess.
    pub(super) fn random(&mut self) -> u64 {
        self.random.next_u64()
    }

    pub(super) fn cached_answers(&self) -> usize {
        self.cache.len()
    }

    pub(super) fn exchanges(&self) -> usize {
        self.exchanges.len()
    }

    /// The bound of the cache; lookups, entries of their queue, bytes of the largest stream, timers, transmits not taken.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn sizes(&self) -> (usize, [usize; 5]) {
        let received = |exchange: &Exchange| match &exchange.transport {
            Transport::Udp => 0,
            Transport::Tcp(received) => received.len(),
        };
        let most = self.exchanges.iter().map(|(_, exchange)| received(exchange)).max().unwrap_or(0);
        let sizes = [self.lookups.len(), self.queue.len(), most, self.timers.len(), self.transmits.len()];
        (self.cache.bound(), sizes)
    }
}

// --- Commands and polls ---------------------------------------------------------------------------------------------

impl Lookups {
    /// The cached outcome, or none yet: then `waiter` is named by a later [`Finished`]. To `renew` it, what is nearly over is
    /// asked for again.
    pub(super) fn ask(&mut self, question: Question, waiter: Waiter, renew: bool, now: Moment) -> Option<Rc<Outcome>> {
        if let Some(outcome) = self.cache.get(&question, now)
            && !(renew && nearly_over(outcome.since, outcome.expires, now))
        {
            self.counters.answer_cache_hits += 1;
            return Some(Rc::clone(outcome));
        }
        if let Some(&key) = self.by_question.get(&question) {
            self.lookups[key].waiters.push(waiter);
            return None;
        }
        let deadline = now + limits::DNS_QUESTION_TIMEOUT;
        self.lookups_begun += 1;
        let key = self.lookups.insert(Lookup {
            name: name::to_wire(&question.name),
            question: question.clone(),
            serial: self.lookups_begun,
            deadline,
            begun: false,
            aliases: Vec::new(),
            ttl: u32::MAX,
            secure: true,
            round: 0,
            tried: 0,
            settled: 0,
            failures: Vec::new(),
            exchange: None,
            waiters: vec![waiter],
        });
        self.by_question.insert(question, key);
        self.timers.insert((deadline, Timer::Lookup(key)));
        self.advance(key, now);
        None
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.timers.first().map(|(moment, _)| *moment)
    }

    pub(super) fn poll_finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }
}

// --- Inputs ---------------------------------------------------------------------------------------------------------

impl Lookups {
    pub(super) fn handle_datagram(&mut self, id: ExchangeId, bytes: &[u8], now: Moment) {
        let Some(at) = self.exchange(id) else { return };
        if !matches!(self.exchanges[at].transport, Transport::Udp) {
            return;
        }
        match self.read(at, bytes) {
            Reading::Mismatched => {
                self.counters.mismatched += 1;
                let exchange = &mut self.exchanges[at];
                exchange.mismatches += 1;
                if exchange.mismatches >= limits::DNS_MISMATCHES {
                    self.retry(at, Try::Tcp, now);
                }
            }
            Reading::Truncated => {
                self.counters.truncated += 1;
                self.retry(at, Try::Tcp, now);
            }
            // The server's or somebody else's: by TCP it is seen.
            Reading::CaseLost => {
                self.counters.case_lost += 1;
                self.exchanges[at].case_lost = true;
                self.retry(at, Try::Tcp, now);
            }
            reading => self.conclude(at, Try::Udp, reading, wire::is_validated(bytes), now),
        }
        self.fill_exchanges(now);
    }

    pub(super) fn handle_stream(&mut self, id: ExchangeId, bytes: &[u8], now: Moment) {
        let Some(at) = self.exchange(id) else { return };
        let Transport::Tcp(received) = &mut self.exchanges[at].transport else { return };
        // Bounded by what the length can say; only the first message counts.
        let room = (2 + usize::from(u16::MAX)).saturating_sub(received.len());
        received.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let Some((length, rest)) = received.split_first_chunk::<2>() else { return };
        let length = usize::from(u16::from_be_bytes(*length));
        if rest.len() < length {
            return;
        }
        let received = std::mem::take(received);
        let message = &received[2..2 + length];
        let mut reading = self.read(at, message);
        if matches!(reading, Reading::CaseLost) {
            // Nobody forges a stream so easily: it is the server.
            self.servers.lost_case(self.exchanges[at].server, now);
            self.exchanges[at].cased = None;
            reading = self.read(at, message);
        }
        match reading {
            // Nobody but the server writes into a stream.
            Reading::Mismatched => {
                self.counters.mismatched += 1;
                self.fail(at, Failure::Mismatched, now);
            }
            Reading::Truncated | Reading::CaseLost => self.fail(at, Failure::Malformed, now),
            reading => self.conclude(at, Try::Tcp, reading, wire::is_validated(&received[2..]), now),
        }
        self.fill_exchanges(now);
    }

    pub(super) fn handle_failed(&mut self, id: ExchangeId, now: Moment) {
        let Some(at) = self.exchange(id) else { return };
        self.fail(at, Failure::Network, now);
        self.fill_exchanges(now);
    }

    pub(super) fn handle_timeout(&mut self, now: Moment) {
        while let Some(&(moment, timer)) = self.timers.first()
            && moment <= now
        {
            match timer {
                Timer::Exchange(at) => {
                    self.counters.timeouts += 1;
                    self.fail(at, Failure::Timeout, now);
                }
                Timer::Lookup(key) => {
                    // The try under way was cut short; it says so in the reason.
                    if let Some(at) = self.lookups[key].exchange {
                        let server = self.exchanges[at].server;
                        self.lookups[key].note(server, Failure::Timeout);
                        self.close(at);
                    }
                    self.give_up(key, now);
                }
            }
        }
        self.fill_exchanges(now);
    }

    fn exchange(&self, id: ExchangeId) -> Option<usize> {
        let at = (id.0 & 0xffff) as usize;
        (self.exchanges.get(at)?.id == id).then_some(at)
    }

    fn read(&self, at: usize, bytes: &[u8]) -> Reading {
        let exchange = &self.exchanges[at];
        let lookup = &self.lookups[exchange.lookup];
        let name = exchange.cased.as_ref().unwrap_or(&lookup.name);
        wire::read(bytes, exchange.query_id, name, lookup.question.kind, exchange.cased.is_some())
    }
}

// --- Transitions ----------------------------------------------------------------------------------------------------

impl Lookups {
    /// What an answer to the query makes of its lookup.
    fn conclude(&mut self, at: usize, transport: Try, reading: Reading, validated: bool, now: Moment) {
        let (key, server) = (self.exchanges[at].lookup, self.exchanges[at].server);
        let secure = self.validating && validated;
        let mut owner = None;
        let (found, ttl) = match reading {
            Reading::Mismatched | Reading::Truncated | Reading::CaseLost => {
                unreachable!("the transports deal with these")
            }
            Reading::Malformed => return self.fail(at, Failure::Malformed, now),
            Reading::Referral => return self.fail(at, Failure::Referral, now),
            // RFC 6891 §6.2.2 and §7: the server may not know EDNS.
            Reading::Error(ResponseCode::FormErr | ResponseCode::NotImp) if !self.exchanges[at].plain => {
                self.servers.rejected_edns(server, now);
                return self.retry(at, transport, now);
            }
            Reading::Error(code) => return self.fail(at, Failure::Code(code), now),
            Reading::Alias { target, ttl } => {
                self.answered(at, now);
                self.lookups[key].secure &= secure;
                return self.follow(key, target, ttl, now);
            }
            Reading::AliasLoop => {
                self.answered(at, now);
                return self.alias_loop(key, now);
            }
            Reading::Records { records, ttl, alias } => {
                owner = alias;
                (Found::Records(self.cut(records)), self.positive(ttl))
            }
            Reading::NoData { ttl } => (Found::NoData, self.negative(ttl)),
            Reading::NoSuchName { ttl } => (Found::NoSuchName, self.negative(ttl)),
        };
        self.answered(at, now);
        let lookup = &mut self.lookups[key];
        lookup.secure &= secure;
        if let Some(owner) = owner {
            let from = std::mem::replace(&mut lookup.name, owner);
            lookup.aliases.push(from);
        }
        let ttl_of_way = lookup.ttl;
        let way = self.positive(ttl_of_way);
        self.finish(key, found, now + ttl.min(way), now);
    }

    /// Ends an exchange whose server answered.
    fn answered(&mut self, at: usize, now: Moment) {
        self.servers.answered(self.exchanges[at].server, now);
        self.close(at);
    }

    /// The name asked for is an alias and the answer stopped there: asks on for its target.
    fn follow(&mut self, key: usize, target: Name, ttl: u32, now: Moment) {
        let lookup = &mut self.lookups[key];
        let from = std::mem::replace(&mut lookup.name, target);
        lookup.aliases.push(from);
        if lookup.aliases.len() > limits::DNS_ALIASES || lookup.aliases.contains(&lookup.name) {
            return self.alias_loop(key, now);
        }
        lookup.ttl = lookup.ttl.min(ttl);
        (lookup.round, lookup.tried, lookup.settled) = (0, 0, 0);
        lookup.failures.clear();
        self.advance(key, now);
    }

    /// Temporary: who made the loop will hear of it and may mend it before the mail expires.
    fn alias_loop(&mut self, key: usize, now: Moment) {
        let Question { name, kind } = &self.lookups[key].question;
        let reason = format!("{} {name}: its aliases (CNAME) form a loop or are too many", kind.text());
        self.counters.failures += 1;
        self.finish(key, Found::Failed(reason), now + limits::DNS_FAILURE_TTL, now);
    }

    /// Orders and cuts what an answer holds to what `limits.rs` allows.
    fn cut(&mut self, mut records: Records) -> Records {
        match &mut records {
            Records::Mx(list) => {
                // A host listed twice counts once, by its best preference.
                list.sort_by_key(|(preference, _)| *preference);
                let mut seen = BTreeSet::new();
                list.retain(|(_, target)| match target {
                    MxTarget::Host(name) => seen.insert(Rc::clone(name)),
                    MxTarget::Null | MxTarget::Unusable => true,
                });
                // RFC 7505 §3: a null MX stands alone; beside others it means nothing.
                if list.iter().any(|(_, target)| *target != MxTarget::Null) {
                    list.retain(|(_, target)| *target != MxTarget::Null);
                }
                for i in (1..list.len()).rev() {
                    list.swap(i, below(&mut self.random, i + 1));
                }
                list.sort_by_key(|(preference, target)| (*preference, *target == MxTarget::Unusable));
                list.truncate(limits::DNS_MX_HOSTS);
            }
            Records::Addresses(list) => {
                let mut seen = BTreeSet::<IpAddr>::new();
                list.retain(|address| seen.len() < limits::DNS_ADDRESSES_PER_FAMILY && seen.insert(*address));
            }
            Records::Tlsa(list) => list.truncate(limits::TLSA_RECORDS),
            Records::Txt(list) => list.truncate(limits::DNS_TXT_RECORDS),
            Records::Alias => {}
        }
        records
    }

    /// Ends an exchange that got no answer and moves its lookup on.
    fn fail(&mut self, at: usize, failure: Failure, now: Moment) {
        if failure != Failure::Timeout {
            self.counters.failures += 1;
        }
        let (key, index) = (self.exchanges[at].lookup, self.exchanges[at].server);
        if self.exchanges[at].case_lost {
            self.servers.lost_case(index, now);
        }
        if failure.blames_server() {
            self.servers.failed(index, self.exchanges[at].sent, now);
        }
        let lookup = &mut self.lookups[key];
        lookup.note(index, failure);
        if !failure.may_pass() {
            lookup.settled |= 1 << index;
        }
        self.close(at);
        self.advance(key, now);
    }

    /// Asks the same server again: over TCP, or without EDNS. Takes the place of the exchange, so never waits.
    fn retry(&mut self, at: usize, transport: Try, now: Moment) {
        let Exchange { lookup: key, server, case_lost, .. } = self.exchanges[at];
        self.close(at);
        self.send(key, server, transport, now);
        if let Some(at) = self.lookups[key].exchange {
            self.exchanges[at].case_lost = case_lost;
        }
    }

    /// Begins the next try of a lookup, now or once an exchange is free; gives up if no server is left.
    fn advance(&mut self, key: usize, now: Moment) {
        let Some(server) = self.choose(key, now) else { return self.give_up(key, now) };
        if self.exchanges.len() < limits::DNS_EXCHANGES {
            self.lookups[key].tried |= 1 << server;
            self.send(key, server, Try::Udp, now);
        } else {
            self.queue.push_back((key, self.lookups[key].serial));
        }
    }

    /// Gives free exchanges to the lookups that wait for one.
    fn fill_exchanges(&mut self, now: Moment) {
        while self.exchanges.len() < limits::DNS_EXCHANGES
            && let Some((key, serial)) = self.queue.pop_front()
        {
            if self.lookups.get(key).is_some_and(|lookup| lookup.serial == serial && lookup.exchange.is_none()) {
                self.advance(key, now);
            }
        }
    }

    /// The server for the next try: one not yet tried in this round, if possible one that works.
    fn choose(&mut self, key: usize, now: Moment) -> Option<usize> {
        let lookup = &mut self.lookups[key];
        let all = self.servers.all();
        if (lookup.tried | lookup.settled) & all == all {
            lookup.round += 1;
            lookup.tried = lookup.settled;
        }
        if lookup.round >= self.attempts {
            return None;
        }
        self.servers.choose(lookup.tried, now, self.random.next_u64())
    }

    fn send(&mut self, key: usize, server: usize, transport: Try, now: Moment) {
        let lookup = &mut self.lookups[key];
        if !lookup.begun {
            lookup.begun = true;
            self.timers.remove(&(lookup.deadline, Timer::Lookup(key)));
            lookup.deadline = now + limits::DNS_QUESTION_TIMEOUT;
            self.timers.insert((lookup.deadline, Timer::Lookup(key)));
        }
        let (address, plain) = (self.servers.address(server), self.servers.is_plain(server, now));
        let query_id = (self.random.next_u32() & 0xffff) as u16;
        let cases = self.random_case && self.servers.keeps_case(server, now);
        let cased = cases.then(|| name::in_random_case(&lookup.name, || self.random.next_u64()));
        let query =
            wire::query(query_id, cased.as_ref().unwrap_or(&lookup.name), lookup.question.kind, plain, self.validating);
        let deadline = now + self.try_timeout;
        self.exchanges_begun += 1;
        let entry = self.exchanges.vacant_entry();
        // The slot in the low 16 bits, a number never used again above.
        let id = ExchangeId(self.exchanges_begun << 16 | entry.key() as u64);
        lookup.exchange = Some(entry.key());
        self.timers.insert((deadline, Timer::Exchange(entry.key())));
        entry.insert(Exchange {
            id,
            lookup: key,
            server,
            transport: if transport == Try::Tcp { Transport::Tcp(Vec::new()) } else { Transport::Udp },
            query_id,
            cased,
            case_lost: false,
            plain,
            sent: now,
            deadline,
            mismatches: 0,
        });
        self.counters.queries += 1;
        self.transmits.push_back(match transport {
            Try::Udp => Transmit::Udp { exchange: id, server: address, payload: query },
            Try::Tcp => {
                let length = u16::try_from(query.len()).expect("a query is a few hundred octets");
                let payload = [&length.to_be_bytes()[..], &query].concat();
                Transmit::Tcp { exchange: id, server: address, payload }
            }
        });
    }

    fn close(&mut self, at: usize) {
        let exchange = self.exchanges.remove(at);
        self.timers.remove(&(exchange.deadline, Timer::Exchange(at)));
        self.lookups[exchange.lookup].exchange = None;
        self.transmits.push_back(Transmit::Close { exchange: exchange.id });
    }

    fn give_up(&mut self, key: usize, now: Moment) {
        self.counters.unanswered += 1;
        let lookup = &self.lookups[key];
        let mut reason = format!("{} {}: ", lookup.question.kind.text(), lookup.question.name);
        if let Some(last) = lookup.aliases.last() {
            // The alias that led here, for who looks for the broken zone.
            let _ = write!(reason, "alias of {} (by {last}): ", lookup.name);
        }
        match (&lookup.failures[..], self.servers.is_empty()) {
            (_, true) => reason.push_str("no DNS servers are configured"),
            ([], false) => reason.push_str("too many other questions were waiting"),
            (failures, false) => {
                for (i, (server, failure)) in failures.iter().enumerate() {
                    let separator = if i == 0 { "" } else { "; " };
                    let _ = write!(reason, "{separator}{} {failure}", self.servers.address(*server));
                }
            }
        }
        let found = if planted!(FailureIsNoData) { Found::NoData } else { Found::Failed(reason) };
        self.finish(key, found, now + limits::DNS_FAILURE_TTL, now);
    }

    /// Ends a lookup that has no exchange under way.
    fn finish(&mut self, key: usize, found: Found, expires: Moment, now: Moment) {
        let lookup = self.lookups.remove(key);
        self.timers.remove(&(lookup.deadline, Timer::Lookup(key)));
        self.by_question.remove(&lookup.question);
        let is_alias = matches!(found, Found::Records(_)) && !lookup.aliases.is_empty();
        let alias = is_alias.then(|| name::from_wire(&lookup.name).ok()).flatten();
        // Nothing can be believed of a question that failed.
        let secure = lookup.secure && !matches!(found, Found::Failed(_));
        let outcome =
            Rc::new(Outcome { since: now, expires, found, secure, alias: alias.map(|name| name.as_str().into()) });
        let (name, kind) = (Rc::clone(&lookup.question.name), lookup.question.kind);
        self.cache.insert(lookup.question, Rc::clone(&outcome), expires, now);
        self.finished.push_back(Finished { name, kind, outcome, waiters: lookup.waiters });
    }
}

impl Lookups {
    fn positive(&self, ttl: u32) -> Duration {
        Duration::from_secs(u64::from(ttl)).clamp(self.ttl.0, self.ttl.1)
    }

    /// Without a SOA RFC 2308 §5 asks not to cache; the floor keeps that from costing a query per message.
    fn negative(&self, ttl: Option<u32>) -> Duration {
        if planted!(NegativeKept) {
            return limits::DNS_TTL_MAX;
        }
        let (least, most) =
            (self.ttl.0.min(limits::DNS_NEGATIVE_TTL_MAX), self.ttl.1.min(limits::DNS_NEGATIVE_TTL_MAX));
        Duration::from_secs(u64::from(ttl.unwrap_or(0))).clamp(least, most)
    }
}

impl Lookup {
    /// Keeps how each server failed last.
    fn note(&mut self, server: usize, failure: Failure) {
        self.failures.retain(|(other, _)| *other != server);
        self.failures.push((server, failure));
    }
}

fn below(random: &mut ChaCha12Rng, bound: usize) -> usize {
    ((u128::from(random.next_u64()) * bound as u128) >> 64) as usize
}
