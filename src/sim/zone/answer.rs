//! PURE. DNS messages of the simulated servers, the right ones and the others: over hickory-proto's encoder.

use super::records::{EVIL_HOST, EVIL_V4, EVIL_V6, Found, Kind, Truth};
use crate::rt::sim::Rng;
use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordData, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// A query, as a server sees it.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub id: u16,
    /// Lower case, no final dot.
    pub owner: String,
    /// `None`: of another type than mail needs.
    pub kind: Option<Kind>,
    question: Query,
    /// Octets that a datagram may have, if it says so.
    pub edns: Option<u16>,
    recursion_desired: bool,
}

impl Ask {
    /// `None` if it is no query.
    pub fn read(bytes: &[u8]) -> Option<Ask> {
        let message = Message::from_vec(bytes).ok()?;
        if message.metadata.message_type != MessageType::Query || message.queries.len() != 1 {
            return None;
        }
        let question = message.queries[0].clone();
        let labels: Vec<_> = question.name.iter().map(|label| String::from_utf8_lossy(label).into_owned()).collect();
        let kind = match question.query_type {
            RecordType::MX => Some(Kind::Mx),
            RecordType::A => Some(Kind::A),
            RecordType::AAAA => Some(Kind::Aaaa),
            _ => None,
        };
        Some(Ask {
            id: message.metadata.id,
            owner: labels.join(".").to_ascii_lowercase(),
            kind,
            question,
            edns: message.edns.as_ref().map(Edns::max_payload),
            recursion_desired: message.metadata.recursion_desired,
        })
    }

    /// Octets that a datagram for it may have (RFC 1035 §4.2.1, RFC 6891 §6.2.3).
    pub fn room(&self) -> usize {
        usize::from(self.edns.unwrap_or(512).max(512))
    }

    /// An answer that says nothing yet.
    pub fn reply(&self) -> Message {
        let mut message = Message::new(self.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.add_query(self.question.clone());
        if self.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_version(0).set_max_payload(4096);
            message.set_edns(edns);
        }
        message
    }

    pub fn error(&self, code: ResponseCode) -> Message {
        let mut message = self.reply();
        message.metadata.response_code = code;
        message
    }

    /// What a recursive server says of the truth.
    pub fn tell(&self, truth: &Truth, ttl: u32) -> Message {
        let mut message = self.reply();
        for (owner, target) in &truth.aliases {
            message.add_answer(record(owner, ttl, RData::CNAME(CNAME(name(target)))));
        }
        let mut add = |data| _ = message.add_answer(record(&truth.owner, ttl, data));
        match &truth.found {
            Found::Mx(list) => list.iter().for_each(|(p, host)| add(RData::MX(MX::new(*p, name(host))))),
            Found::V4(list) => list.iter().for_each(|v4| add(RData::A(A(*v4)))),
            Found::V6(list) => list.iter().for_each(|v6| add(RData::AAAA(AAAA(*v6)))),
            Found::NoData => _ = message.add_authority(soa(ttl)),
            Found::NoSuchName => {
                message.metadata.response_code = ResponseCode::NXDomain;
                message.add_authority(soa(ttl));
            }
            Found::Endless => {}
        }
        message
    }

    /// One alias, and that is all: who wants to know more asks on.
    pub fn alias(&self, owner: &str, target: &str, ttl: u32) -> Message {
        let mut message = self.reply();
        message.add_answer(record(owner, ttl, RData::CNAME(CNAME(name(target)))));
        message
    }

    /// Not here: points elsewhere, or says nothing, as a server that offers no recursion does.
    pub fn lame(&self, refers: bool) -> Message {
        let mut message = self.reply();
        message.metadata.recursion_available = false;
        if refers {
            message.add_authority(record("test", 60, RData::NS(NS(name("ns.test")))));
        }
        message
    }

    /// What an attacker would have believed.
    pub fn evil(&self) -> Message {
        let mut message = self.reply();
        let owner = self.question.name.clone();
        for data in [RData::MX(MX::new(0, name(EVIL_HOST))), RData::A(A(EVIL_V4)), RData::AAAA(AAAA(EVIL_V6))] {
            message.add_answer(Record::from_rdata(owner.clone(), 3600, data));
        }
        message
    }

    /// It did not fit. What is in it is bait: RFC 2181 §9 has it ignored.
    pub fn truncated(&self, rng: &mut Rng) -> Message {
        let mut message = if rng.one_in(2) { self.evil() } else { self.reply() };
        message.metadata.truncation = true;
        message
    }

    /// The same evil answer to another question.
    pub fn elsewhere(&self, rng: &mut Rng) -> Message {
        let mut message = self.evil();
        let question = &mut message.queries[0];
        match rng.below(3) {
            0 => question.name = name(EVIL_HOST),
            1 => question.query_type = RecordType::TXT,
            _ => message.queries.clear(),
        }
        message
    }
}

/// Upper and lower case at random, in the question and in every name of the answer.
pub(super) fn mangle_case(message: &mut Message, rng: &mut Rng) {
    let mut mangle = |name: &Name| {
        let labels: Vec<Vec<u8>> = name
            .iter()
            .map(|label| label.iter().map(|b| if rng.one_in(2) { b.to_ascii_uppercase() } else { *b }).collect())
            .collect();
        of_labels(labels.iter().map(Vec::as_slice))
    };
    for question in &mut message.queries {
        question.name = mangle(&question.name);
    }
    for record in message.answers.iter_mut().chain(&mut message.authorities) {
        record.name = mangle(&record.name);
        match &mut record.data {
            RData::MX(mx) => mx.exchange = mangle(&mx.exchange),
            RData::CNAME(target) => target.0 = mangle(&target.0),
            _ => {}
        }
    }
}

/// Something like the message that says nothing else in its place: cut, filled with noise, or with bits flipped. The id
/// stays where what follows cannot be read, or is not believed.
pub(super) fn garble(message: &Message, rng: &mut Rng) -> Vec<u8> {
    // Without what a reader may skip: whatever is wrong is wrong where it reads.
    let mut message = message.clone();
    message.edns = None;
    let bytes = encode(&message);
    let mut garbled = bytes.clone();
    match rng.below(4) {
        0 => garbled.truncate(rng.below(bytes.len() as u64) as usize),
        1 => {
            garbled = (0..rng.below(700)).map(|_| rng.next() as u8).collect();
            if garbled.len() >= 2 && rng.one_in(2) {
                garbled[..2].copy_from_slice(&bytes[..2]);
            }
        }
        2 => {
            // More records than there are octets.
            let count = 1 + rng.below(0xffff) as u16;
            let at = *rng.pick(&[6, 8]);
            let more = u16::from_be_bytes([bytes[at], bytes[at + 1]]).saturating_add(count);
            garbled[at..at + 2].copy_from_slice(&more.to_be_bytes());
        }
        _ => {
            for _ in 0..1 + rng.below(8) {
                let at = 2 + rng.below(bytes.len() as u64 - 2) as usize;
                garbled[at] ^= 1 << rng.below(8);
            }
        }
    }
    // A lie that reads well would have to be believed, from whom it comes; it is for forgers, who do not know the id.
    if garbled != bytes && reads_well(&garbled) {
        garbled[0] ^= 1 << rng.below(8);
    }
    garbled
}

/// Whether every record that an answer consists of can be read, and has what its type has.
fn reads_well(bytes: &[u8]) -> bool {
    let mut decoder = BinDecoder::new(bytes);
    let Ok(header) = Header::read(&mut decoder) else { return false };
    let (questions, records) =
        (header.counts.queries, u32::from(header.counts.answers) + u32::from(header.counts.authorities));
    (0..questions).all(|_| Query::read(&mut decoder).is_ok())
        && (0..records).all(|_| Record::read(&mut decoder).is_ok_and(|record: Record| !record.data.is_update()))
}

/// The octets of a message.
pub(super) fn encode(message: &Message) -> Vec<u8> {
    message.to_vec().expect("what the world names fits a message")
}

fn of_labels<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Name {
    let mut name = Name::from_labels(labels).expect("the world names what fits into a name");
    name.set_fqdn(true);
    name
}

fn name(text: &str) -> Name {
    of_labels(text.split('.').filter(|label| !label.is_empty()).map(str::as_bytes))
}

fn record(owner: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name(owner), ttl, data)
}

fn soa(ttl: u32) -> Record {
    record("test", ttl, RData::SOA(SOA::new(name("ns.test"), name("root.test"), 1, 2, 3, 4, ttl)))
}
