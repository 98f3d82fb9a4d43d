//! The resolver against scripted servers on virtual time. Each test says what servers answer, as a function of what
//! they are asked; the harness is the driver and checks the contract of exchanges and events as it goes.
#![allow(clippy::unwrap_used)]

mod caching;
mod hostile;
mod keeping;
mod properties;
mod routing;
mod security;
mod transport;

use super::*;
use crate::time::Moment;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

pub const S1: &str = "192.0.2.53:53";
pub const S2: &str = "192.0.2.54:53";

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

/// A query as a server sees it.
#[derive(Clone, Debug)]
pub struct Ask {
    pub server: SocketAddr,
    pub tcp: bool,
    pub message: Message,
    pub name: String,
    pub kind: RecordType,
}

impl Ask {
    pub fn edns(&self) -> bool {
        self.message.edns.is_some()
    }

    pub fn reply(&self) -> Message {
        let mut message = Message::new(self.message.metadata.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.recursion_available = true;
        message.add_query(self.message.queries[0].clone());
        message
    }

    pub fn code(&self, code: ResponseCode) -> Vec<Act> {
        let mut message = self.reply();
        message.metadata.response_code = code;
        self.send(&message)
    }

    pub fn send(&self, message: &Message) -> Vec<Act> {
        self.send_raw(message.to_vec().unwrap())
    }

    pub fn send_raw(&self, bytes: Vec<u8>) -> Vec<Act> {
        if self.tcp {
            let mut stream = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
            stream.extend(bytes);
            vec![(ms(1), Input::Stream(stream))]
        } else {
            vec![(ms(1), Input::Datagram(bytes))]
        }
    }
}

pub type Act = (Duration, Input);

#[derive(Clone, Debug)]
pub enum Input {
    Datagram(Vec<u8>),
    Stream(Vec<u8>),
    Failed,
}

/// Records by owner; answers as a recursive server does, with the whole chain of aliases and a SOA for what is missing.
#[derive(Clone, Default)]
pub struct Zone(pub BTreeMap<String, Vec<(u32, RData)>>);

impl Zone {
    pub fn with(mut self, owner: &str, ttl: u32, data: RData) -> Self {
        self.0.entry(owner.to_owned()).or_default().push((ttl, data));
        self
    }
    pub fn mx(self, owner: &str, preference: u16, host: &str) -> Self {
        self.with(owner, 300, RData::MX(MX::new(preference, name(host))))
    }
    pub fn a(self, owner: &str, address: &str) -> Self {
        self.with(owner, 300, RData::A(A(address.parse().unwrap())))
    }
    pub fn aaaa(self, owner: &str, address: &str) -> Self {
        self.with(owner, 300, RData::AAAA(AAAA(address.parse().unwrap())))
    }
    pub fn cname(self, owner: &str, target: &str) -> Self {
        self.with(owner, 300, RData::CNAME(CNAME(name(target))))
    }

    pub fn answer(&self, ask: &Ask) -> Vec<Act> {
        ask.send(&self.message(ask))
    }

    pub fn message(&self, ask: &Ask) -> Message {
        let mut message = ask.reply();
        let mut owner = ask.name.clone();
        for _ in 0..20 {
            let Some(records) = self.0.get(&owner) else {
                message.metadata.response_code = ResponseCode::NXDomain;
                break;
            };
            let mut next = None;
            for (ttl, data) in records {
                if data.record_type() == ask.kind || data.record_type() == RecordType::CNAME {
                    message.add_answer(Record::from_rdata(name(&owner), *ttl, data.clone()));
                }
                if let RData::CNAME(target) = data {
                    next = Some(target.0.to_ascii().trim_end_matches('.').to_owned());
                }
            }
            let Some(next) = next else { break };
            owner = next;
        }
        if !message.answers.iter().any(|record| record.record_type() == ask.kind) {
            message.add_authority(soa(60, 30));
        }
        message
    }
}

pub fn soa(ttl: u32, minimum: u32) -> Record {
    let soa = SOA::new(name("ns.example"), name("root.example"), 1, 2, 3, 4, minimum);
    Record::from_rdata(name("example"), ttl, RData::SOA(soa))
}

pub fn ns() -> Record {
    Record::from_rdata(name("example"), 60, RData::NS(NS(name("ns.example"))))
}

/// What the servers do when asked.
type Servers<'a> = Box<dyn FnMut(&Ask) -> Vec<Act> + 'a>;

/// The driver, the network and the servers.
pub struct World<'a> {
    pub resolver: Resolver,
    pub now: Moment,
    pub asked: Vec<Ask>,
    pub events: Vec<Resolved>,
    pub payloads: Vec<Vec<u8>>,
    servers: Servers<'a>,
    inputs: BTreeMap<(Moment, u64), (ExchangeId, Input)>,
    sent: u64,
    open: BTreeSet<ExchangeId>,
    ever: BTreeSet<ExchangeId>,
}

impl<'a> World<'a> {
    pub fn new(servers: impl FnMut(&Ask) -> Vec<Act> + 'a) -> Self {
        let settings =
            DnsSettings { servers: vec![S1.parse().unwrap(), S2.parse().unwrap()], ..DnsSettings::default() };
        Self::with_settings(&settings, servers)
    }

    pub fn with_settings(settings: &DnsSettings, servers: impl FnMut(&Ask) -> Vec<Act> + 'a) -> Self {
        World {
            resolver: Resolver::new(settings, 7),
            now: Moment(1_000_000_000_000),
            asked: Vec::new(),
            events: Vec::new(),
            payloads: Vec::new(),
            servers: Box::new(servers),
            inputs: BTreeMap::new(),
            sent: 0,
            open: BTreeSet::new(),
            ever: BTreeSet::new(),
        }
    }

    /// Does what the resolver wants done now.
    pub fn drain(&mut self) {
        while let Some(transmit) = self.resolver.poll_transmit() {
            let (exchange, server, payload, tcp) = match transmit {
                Transmit::Close { exchange } => {
                    assert!(self.open.remove(&exchange), "closed once, and only what was open");
                    continue;
                }
                Transmit::Udp { exchange, server, payload } => (exchange, server, payload, false),
                Transmit::Tcp { exchange, server, payload } => {
                    let length = u16::from_be_bytes([payload[0], payload[1]]);
                    assert_eq!(usize::from(length) + 2, payload.len());
                    (exchange, server, payload[2..].to_vec(), true)
                }
            };
            assert!(self.ever.insert(exchange), "an exchange is named once");
            self.open.insert(exchange);
            let message = Message::from_vec(&payload).unwrap();
            assert!(message.metadata.recursion_desired);
            assert_eq!(message.queries.len(), 1);
            let question = &message.queries[0];
            let text = question.name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
            let ask = Ask { server, tcp, name: text, kind: question.query_type, message };
            self.payloads.push(payload);
            for (delay, input) in (self.servers)(&ask) {
                self.sent += 1;
                self.inputs.insert((self.now + delay, self.sent), (exchange, input));
            }
            self.asked.push(ask);
        }
        assert_eq!(self.open.len(), self.resolver.exchanges());
        while let Some(event) = self.resolver.poll_event() {
            self.events.push(event);
        }
    }

    /// Runs until nothing is left to happen before `end`, then stands at `end`.
    pub fn run_until(&mut self, end: Moment) {
        loop {
            self.drain();
            let input = self.inputs.keys().next().map(|key| key.0);
            let Some(next) = [input, self.resolver.poll_timeout()].into_iter().flatten().min() else { break };
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if input == Some(next) {
                let (exchange, input) = self.inputs.pop_first().unwrap().1;
                match input {
                    // Also for exchanges that were closed: what is late must be harmless.
                    Input::Datagram(bytes) => self.resolver.handle_datagram(exchange, &bytes, self.now),
                    Input::Stream(bytes) => self.resolver.handle_stream(exchange, &bytes, self.now),
                    Input::Failed => self.resolver.handle_failed(exchange, self.now),
                }
            } else {
                self.resolver.handle_timeout(self.now);
                assert!(self.resolver.poll_timeout().is_none_or(|due| due > self.now), "a timeout handled is gone");
            }
        }
        self.now = self.now.max(end);
    }

    /// Runs until everything has ended; the clock stops at the last thing that happened.
    pub fn run(&mut self) {
        loop {
            self.drain();
            let next = [self.inputs.keys().next().map(|key| key.0), self.resolver.poll_timeout()];
            let Some(next) = next.into_iter().flatten().min() else { break };
            self.run_until(next);
        }
        assert!(self.open.is_empty(), "every exchange was closed");
        assert_eq!((self.resolver.pending(), self.resolver.exchanges()), (0, 0));
    }

    /// Resolves one domain to its end. An event comes exactly if the answer was pending.
    pub fn resolve(&mut self, domain: &str) -> Rc<Resolution> {
        let before = self.events.len();
        match self.resolver.resolve(domain, self.now) {
            Answer::Ready(resolution) => {
                self.drain();
                assert_eq!(self.events.len(), before, "no event for what was ready");
                resolution
            }
            Answer::Pending => {
                self.run();
                assert_eq!(self.events.len(), before + 1, "one event for what was pending");
                let event = self.events.last().unwrap();
                assert_eq!(&*event.domain, canonical(domain).unwrap().as_str());
                Rc::clone(&event.resolution)
            }
        }
    }

    pub fn asked_names(&self) -> Vec<(String, RecordType)> {
        self.asked.iter().map(|ask| (ask.name.clone(), ask.kind)).collect()
    }
}

/// Hosts as `preference name addresses…`.
pub fn hosts(resolution: &Resolution) -> Vec<String> {
    let host = |host: &MailHost| {
        let addresses: Vec<String> = host.addresses.iter().map(ToString::to_string).collect();
        format!("{} {} {}", host.preference, host.name, addresses.join(" "))
    };
    resolution.hosts().iter().map(host).collect()
}

pub fn reason(resolution: &Resolution) -> &str {
    match &resolution.verdict {
        Verdict::Temporary { reason } => reason,
        other => panic!("not temporary: {other:?}"),
    }
}
