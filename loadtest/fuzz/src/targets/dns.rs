//! The resolver against servers that answer anything.
//!
//! Input: settings, domains, then for each query what its server does: answers made of records that fit or not, damaged
//! answers, foreign ids, any bytes behind a right header, truncation, silence, failure. Time is virtual. Checked: each
//! domain is resolved exactly once, in the time that is promised, with a bounded number of queries and exchanges, each
//! closed once; routes are within their bounds; where no answer carried its query's id, nothing was believed; and how a
//! TCP stream is cut makes no difference.

use crate::Target;
use crate::input::{Cuts, Input};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record};
use ringpost::dns::{
    AddressFamilies, Answer, Attempt, DnsSettings, ExchangeId, Resolution, Resolver, ServerOrder, Transmit, Verdict,
};
use ringpost::limits;
use ringpost::time::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

/// The target.
pub const TARGET: Target = Target { name: "dns", run, max_bytes: 4096, words: &[], test_runs: 1500 };

/// Domains that are asked for, and names in answers.
const NAMES: &[&str] = &[
    "example.org",
    "mx.example.org",
    "a.example",
    "b.example",
    "c.example",
    "EXAMPLE.org",
    ".",
    "a-name-as-long-as-they-come.a-name-as-long-as-they-come.a-name-as-long-as-they-come.example",
    "under_score.example",
    "[192.0.2.1]",
];

/// Above what one domain may cost: MX, then two families of each host, each over its aliases, at every server, three
/// rounds, over UDP with EDNS and without, and TCP.
const QUERIES: u64 = (1 + 2 * limits::DNS_MX_HOSTS as u64) * (limits::DNS_ALIASES as u64 + 2) * 2 * 3 * 3;

/// What comes on an exchange: bytes, or its failure.
type Coming = (ExchangeId, Option<Vec<u8>>);

#[derive(Debug, PartialEq, Eq)]
struct Transcript {
    events: Vec<(Rc<str>, Rc<Resolution>)>,
    queries: u64,
    ended: Moment,
}

struct World<'a> {
    resolver: Resolver,
    now: Moment,
    input: Input<'a>,
    cuts: &'a Cuts,
    open: BTreeMap<ExchangeId, bool>,
    ever: BTreeSet<ExchangeId>,
    /// What is on its way: when, in which order.
    coming: BTreeMap<(Moment, u64), Coming>,
    sent: u64,
    queries: u64,
    /// Some answer carried its query's id.
    believable: bool,
    events: Vec<(Rc<str>, Rc<Resolution>)>,
}

impl World<'_> {
    fn drain(&mut self) {
        while let Some(transmit) = self.resolver.poll_transmit() {
            let (exchange, payload, tcp) = match transmit {
                Transmit::Close { exchange } => {
                    assert!(self.open.remove(&exchange).is_some(), "closed once, and only what was open");
                    continue;
                }
                Transmit::Udp { exchange, payload, .. } => (exchange, payload, false),
                Transmit::Tcp { exchange, payload, .. } => {
                    assert_eq!(usize::from(u16::from_be_bytes([payload[0], payload[1]])) + 2, payload.len());
                    (exchange, payload[2..].to_vec(), true)
                }
            };
            assert!(self.ever.insert(exchange), "an exchange is named once");
            self.open.insert(exchange, tcp);
            self.queries += 1;
            assert!(payload.len() <= 512);
            self.answer(exchange, &payload, tcp);
        }
        assert_eq!(self.open.len(), self.resolver.exchanges());
        assert!(self.open.len() <= limits::DNS_EXCHANGES);
        while let Some(event) = self.resolver.poll_event() {
            check(&event.resolution, self.now);
            self.events.push((event.domain, event.resolution));
        }
    }

    /// What the server does with a query.
    fn answer(&mut self, exchange: ExchangeId, query: &[u8], tcp: bool) {
        let acts = match self.input.u8() {
            byte @ 0..200 => 1 + usize::from(byte) / 100,
            byte => usize::from(byte % 4),
        };
        if self.input.is_empty() {
            return;
        }
        for _ in 0..acts {
            let delay = Duration::from_millis([1, 1, 10, 4000][self.input.below(4)]);
            let kind = self.input.below(9);
            let bytes = if kind == 8 { None } else { Some(self.message(kind, query)) };
            let bytes = bytes.map(|mut bytes| {
                self.believable |= bytes.get(..2) == query.get(..2);
                if tcp {
                    bytes.truncate(usize::from(u16::MAX));
                    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
                    bytes.splice(..0, length.to_be_bytes());
                }
                bytes
            });
            self.sent += 1;
            self.coming.insert((self.now + delay, self.sent), (exchange, bytes));
        }
    }

    fn message(&mut self, kind: usize, query: &[u8]) -> Vec<u8> {
        match kind {
            // As a server answers.
            0..=2 => self.records(query, true),
            // The same with some bytes changed, but not the id.
            3 => {
                let mut bytes = self.records(query, false);
                for _ in 0..=self.input.below(4) {
                    let at = 2 + usize::from(self.input.u16()) % (bytes.len() - 2);
                    bytes[at] = self.input.u8();
                }
                bytes
            }
            // Another's id.
            4 => {
                let mut bytes = self.records(query, true);
                bytes[usize::from(self.input.u8() & 1)] ^= self.input.u8().max(1);
                bytes
            }
            // Truncated.
            5 => {
                let mut bytes = self.records(query, true);
                bytes[2] |= 2;
                bytes
            }
            // Anything behind a right header and question.
            6 => {
                let mut bytes = query[..2].to_vec();
                bytes.extend_from_slice(self.input.bytes(2));
                bytes.resize(4, 0);
                bytes[2] |= 0x80;
                bytes.extend_from_slice(&[0, 1]);
                for _ in 0..3 {
                    bytes.extend_from_slice(&[0, self.input.u8()]);
                }
                bytes.extend_from_slice(&query[12..]);
                // Without its EDNS.
                if query[11] == 1 {
                    bytes.truncate(bytes.len() - 11);
                }
                bytes.extend_from_slice(self.input.text());
                bytes
            }
            _ => self.input.text().to_vec(),
        }
    }

    fn records(&mut self, query: &[u8], plausible: bool) -> Vec<u8> {
        let asked = Message::from_vec(query).expect("the resolver sends messages");
        assert!(asked.metadata.recursion_desired && asked.queries.len() == 1);
        let mut message = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(asked.queries[0].clone());
        let flags = self.input.u8();
        message.metadata.recursion_available = plausible || flags & 1 == 1;
        message.metadata.authoritative = flags & 2 == 2;
        message.metadata.response_code = match flags >> 4 {
            0..=9 => ResponseCode::NoError,
            10..=12 => ResponseCode::NXDomain,
            13 => ResponseCode::ServFail,
            14 => ResponseCode::FormErr,
            _ => ResponseCode::Refused,
        };
        let mut owner = asked.queries[0].name().clone();
        let count = self.input.below(24);
        for _ in 0..count {
            let shape = self.input.u8();
            if shape & 0x80 != 0 {
                owner = name(self.input.u8());
            }
            let ttl = [0, 1, 300, u32::MAX][usize::from(shape >> 5 & 3)];
            let data = match shape & 15 {
                0..=3 => RData::MX(MX::new(u16::from(self.input.u8()), name(self.input.u8()))),
                4..=6 => RData::A(A(Ipv4Addr::from(self.input.u32()))),
                7 => RData::AAAA(AAAA(Ipv6Addr::from(u128::from(self.input.u32()) << 96 | 1))),
                8 => RData::AAAA(AAAA(Ipv4Addr::from(self.input.u32()).to_ipv6_mapped())),
                9 => RData::NS(NS(name(self.input.u8()))),
                10 => {
                    let minimum = self.input.u32();
                    RData::SOA(SOA::new(name(0), name(1), 1, 2, 3, 4, minimum))
                }
                11 => RData::TXT(TXT::new(vec!["v=spf1 -all".to_owned()])),
                _ => {
                    let target = name(self.input.u8());
                    let record = Record::from_rdata(owner.clone(), ttl, RData::CNAME(CNAME(target.clone())));
                    message.add_answer(record);
                    owner = target;
                    continue;
                }
            };
            let record = Record::from_rdata(owner.clone(), ttl, data);
            if shape & 16 == 0 {
                message.add_answer(record);
            } else {
                message.add_authority(record);
            }
        }
        message.to_vec().expect("a message that can be written")
    }

    /// Until nothing is left to happen.
    fn run(&mut self) {
        let mut rounds = 0;
        loop {
            rounds += 1;
            assert!(rounds < 100_000, "it does not end");
            self.drain();
            let input = self.coming.keys().next().map(|key| key.0);
            let Some(next) = [input, self.resolver.poll_timeout()].into_iter().flatten().min() else { break };
            self.now = self.now.max(next);
            if input != Some(next) {
                self.resolver.handle_timeout(self.now);
                assert!(self.resolver.poll_timeout().is_none_or(|due| due > self.now), "a timeout handled is gone");
                continue;
            }
            let Some((_, (exchange, bytes))) = self.coming.pop_first() else { continue };
            // Also for exchanges that were closed: what is late must be harmless.
            match bytes {
                None => self.resolver.handle_failed(exchange, self.now),
                Some(bytes) if self.open.get(&exchange) == Some(&true) => {
                    for piece in self.cuts.pieces(&bytes) {
                        self.resolver.handle_stream(exchange, piece, self.now);
                    }
                }
                Some(bytes) => self.resolver.handle_datagram(exchange, &bytes, self.now),
            }
        }
        assert!(self.open.is_empty(), "every exchange was closed");
        assert_eq!((self.resolver.pending(), self.resolver.exchanges()), (0, 0));
    }
}

fn name(which: u8) -> Name {
    // Made of octets, not of text: what a server may send and a host may not be called.
    if which >= 240 {
        return Name::from_labels([&[b'a', which, b'.'][..], b"example"]).unwrap_or_default();
    }
    let mut name = Name::from_ascii(NAMES[usize::from(which) % NAMES.len()]).unwrap_or_default();
    name.set_fqdn(true);
    name
}

fn check(resolution: &Resolution, now: Moment) {
    assert!(resolution.expires > now && resolution.expires <= now + limits::DNS_TTL_MAX);
    let hosts = resolution.hosts();
    assert_eq!(matches!(resolution.verdict, Verdict::Hosts(_)), !hosts.is_empty());
    assert!(hosts.len() <= limits::DNS_MX_HOSTS);
    assert!(hosts.windows(2).all(|w| w[0].preference <= w[1].preference), "in order of preference");
    for host in hosts {
        assert!(!host.name.is_empty() && host.name.len() <= 255);
        let plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        assert!(host.name.bytes().all(plain) || host.name.starts_with('['), "{}", host.name);
        assert!((1..=2 * limits::DNS_ADDRESSES_PER_FAMILY).contains(&host.addresses.len()));
        for address in &host.addresses {
            let odd = address.is_unspecified()
                || address.is_multicast()
                || *address == IpAddr::V4(Ipv4Addr::BROADCAST)
                || address.to_canonical() != *address;
            assert!(!odd, "{address} is no host");
        }
    }
    if let Verdict::Temporary { reason } = &resolution.verdict {
        assert!(reason.len() < 4096 && reason.chars().all(|c| !c.is_control()), "{reason:?}");
    }
    for random in [0, 1, u64::MAX] {
        let mut order: Vec<Attempt> = Vec::new();
        resolution.attempt_order(random, &mut order);
        assert_eq!(order.len(), hosts.iter().map(|h| h.addresses.len()).sum::<usize>(), "each address once");
    }
}

fn transcript(data: &[u8], cuts: &Cuts) -> Transcript {
    let mut input = Input::new(data);
    let choices = input.u8();
    let settings = DnsSettings {
        servers: ["192.0.2.53:53", "192.0.2.54:53"].iter().filter_map(|s| s.parse().ok()).collect(),
        families: [AddressFamilies::Ipv4Only, AddressFamilies::Ipv4First, AddressFamilies::Ipv6First]
            [usize::from(choices & 3) % 3],
        server_order: if choices & 4 == 0 { ServerOrder::Listed } else { ServerOrder::Random },
        addresses_only: choices & 8 == 8,
        cached_domains: 1 + usize::from(choices >> 4 & 3),
        cached_answers: 1 + usize::from(choices >> 6),
        ..DnsSettings::default()
    };
    let domains: Vec<_> = (0..1 + input.below(3)).map(|_| NAMES[input.below(NAMES.len())]).collect();
    _ = input.cuts();
    let now = Moment(1_000_000_000_000);
    let mut world = World {
        resolver: Resolver::new(&settings, 7),
        now,
        input,
        cuts,
        open: BTreeMap::new(),
        ever: BTreeSet::new(),
        coming: BTreeMap::new(),
        sent: 0,
        queries: 0,
        believable: false,
        events: Vec::new(),
    };
    // Each twice: together, and again when the answers are known.
    let mut total = 0;
    for _ in 0..2 {
        let began = world.now;
        let mut pending = BTreeSet::new();
        for domain in &domains {
            match world.resolver.resolve(domain, world.now) {
                Answer::Ready(resolution) => {
                    let literal = domain.starts_with('[') || *domain == ".";
                    assert!(literal || world.believable || !matches!(resolution.verdict, Verdict::Hosts(_)));
                    total += 1;
                }
                Answer::Pending => _ = pending.insert(domain.to_ascii_lowercase()),
            }
        }
        let before = world.events.len();
        world.run();
        let resolved: Vec<_> = world.events[before..].iter().map(|(domain, _)| domain.to_string()).collect();
        let distinct: BTreeSet<_> = resolved.iter().cloned().collect();
        assert_eq!((resolved.len(), &distinct), (pending.len(), &pending), "each that was pending, once");
        total += resolved.len();
        // What is still on its way may come later than the last resolution.
        assert!(world.now.since(began) <= 4 * limits::DNS_QUESTION_TIMEOUT + Duration::from_secs(5));
        if !world.believable {
            let temporary = |(_, r): &(Rc<str>, Rc<Resolution>)| matches!(r.verdict, Verdict::Temporary { .. });
            assert!(world.events.iter().all(temporary), "believed without an answer to its query");
        }
        world.now = world.now + Duration::from_secs(1);
    }
    assert!(total > 0 && world.queries <= QUERIES * 6, "{} queries", world.queries);
    assert!(world.resolver.cached_domains() <= settings.cached_domains);
    assert!(world.resolver.cached_answers() <= settings.cached_answers);
    Transcript { events: world.events, queries: world.queries, ended: world.now }
}

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    _ = input.u8();
    for _ in 0..1 + input.below(3) {
        _ = input.u8();
    }
    let cuts = input.cuts();
    let whole = transcript(data, &Cuts::none());
    assert_eq!(whole, transcript(data, &cuts), "streams whole, and as cut");
}
