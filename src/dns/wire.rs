//! PURE. One DNS message: the query that is sent, and what an answer to it says. Over hickory-proto's codec.
//!
//! Only the answer and authority sections are read; nothing in the additional section is needed, so nothing in it can
//! be wrong.

use super::facts::Tlsa;
use super::name;
use crate::limits;
use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordData, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

/// What is asked about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Mx,
    A,
    Aaaa,
    /// Whether the name itself is an alias.
    Cname,
    Tlsa,
    Txt,
}

impl Kind {
    fn record_type(self) -> RecordType {
        match self {
            Kind::Mx => RecordType::MX,
            Kind::A => RecordType::A,
            Kind::Aaaa => RecordType::AAAA,
            Kind::Cname => RecordType::CNAME,
            Kind::Tlsa => RecordType::TLSA,
            Kind::Txt => RecordType::TXT,
        }
    }

    /// As zone files write it.
    pub(super) fn text(self) -> &'static str {
        match self {
            Kind::Mx => "MX",
            Kind::A => "A",
            Kind::Aaaa => "AAAA",
            Kind::Cname => "CNAME",
            Kind::Tlsa => "TLSA",
            Kind::Txt => "TXT",
        }
    }
}

/// The data of an answer, in its order, not yet cut to any number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Records {
    /// Preference and exchange.
    Mx(Vec<(u16, Exchange)>),
    Addresses(Vec<IpAddr>),
    /// There is one; where it leads was not asked.
    Alias,
    Tlsa(Vec<Tlsa>),
    /// The strings of each record joined.
    Txt(Vec<Box<[u8]>>),
}

/// The target of an MX record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    Host(Rc<str>),
    /// The root (RFC 7505).
    Null,
    /// Not a host name.
    Unusable,
}

/// What a message says as an answer to a query.
#[derive(Debug)]
pub(super) enum Reading {
    /// It answers something else: wrong id, question or opcode, no response, or no DNS message at all.
    Mismatched,
    /// It answers the query in another case (0x20): of a server that does not keep it, or forged.
    CaseLost,
    /// It answers the query and cannot be read to its end.
    Malformed,
    /// TC is set.
    Truncated,
    /// Neither NOERROR nor NXDOMAIN.
    Error(ResponseCode),
    /// Records of the wanted type, of `alias` if the name is one; `ttl` the smallest on the way, in seconds.
    Records { records: Records, ttl: u32, alias: Option<Name> },
    /// The name is an alias and the message does not say what its target has.
    Alias { target: Name, ttl: u32 },
    /// The name exists and has no such records; `ttl` by its SOA (RFC 2308 §5), if there was one.
    NoData { ttl: Option<u32> },
    /// NXDOMAIN.
    NoSuchName { ttl: Option<u32> },
    /// Aliases that lead back to themselves, or too many.
    AliasLoop,
    /// Points to other servers instead of answering: the server offers no recursion, or not to us.
    Referral,
}

/// A query for `name`, with EDNS unless `plain`. With `validated` a server that validates is to say whether it could (RFC 6840
/// §5.7: the AD bit asks for the AD bit, without the signatures that DO would bring).
pub(super) fn query(id: u16, name: &Name, kind: Kind, plain: bool, validated: bool) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.authentic_data = validated;
    message.add_query(Query::query(name.clone(), kind.record_type()));
    if !plain {
        let mut edns = Edns::new();
        edns.set_version(0).set_max_payload(limits::DNS_UDP_PAYLOAD_BYTES);
        message.set_edns(edns);
    }
    message.to_vec().expect("one question of a checked name fits a message")
}

/// Whether the server says that it has validated all of the answer (AD, RFC 4035 §3.2.3).
pub(super) fn is_validated(bytes: &[u8]) -> bool {
    bytes.get(3).is_some_and(|flags| flags & 0x20 != 0)
}

/// Reads `bytes` as the answer to the query for `name` with `id`; `exact`: the question must come back in the same case.
pub(super) fn read(bytes: &[u8], id: u16, name: &Name, kind: Kind, exact: bool) -> Reading {
    let mut decoder = BinDecoder::new(bytes);
    let Ok(header) = Header::read(&mut decoder) else { return Reading::Mismatched };
    let is_ours = header.id == id || planted!(DnsIdUnchecked);
    if !is_ours || header.message_type != MessageType::Response || header.op_code != OpCode::Query {
        return Reading::Mismatched;
    }
    let code = header.response_code;
    // A server that does not know EDNS may send back the bare header (RFC 6891 §7).
    if header.counts.queries == 0 && matches!(code, ResponseCode::FormErr | ResponseCode::NotImp) {
        return Reading::Error(code);
    }
    if header.counts.queries != 1 {
        return Reading::Mismatched;
    }
    let Ok(question) = Query::read(&mut decoder) else { return Reading::Mismatched };
    // Names compare without case.
    if question.query_type != kind.record_type() || question.query_class != DNSClass::IN || question.name != *name {
        return Reading::Mismatched;
    }
    if exact && !question.name.eq_case(name) {
        return Reading::CaseLost;
    }
    if header.truncation && !planted!(TruncatedTaken) {
        return Reading::Truncated;
    }
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return Reading::Error(code);
    }
    let Some(answers) = records(&mut decoder, header.counts.answers) else { return Reading::Malformed };
    let Some(authorities) = records(&mut decoder, header.counts.authorities) else { return Reading::Malformed };
    match interpret(&answers, &authorities, name, kind, code == ResponseCode::NXDomain) {
        // Empty, and from one that neither knows nor asks: it must not make mail bounce.
        Reading::NoData { ttl: None } if !header.authoritative && !header.recursion_available => Reading::Referral,
        reading => reading,
    }
}

fn records(decoder: &mut BinDecoder<'_>, count: u16) -> Option<Vec<Record>> {
    // Not with the capacity that the header claims: 12 octets could claim 65,535 records.
    let mut records = Vec::new();
    for _ in 0..count {
        let record = Record::read(decoder).ok()?;
        // The codec lets a record of any type have no data, as in a dynamic update. In an answer it must not pass for
        // "there is none": that is a reason to bounce mail.
        if record.data.is_update() {
            return None;
        }
        records.push(record);
    }
    Some(records)
}

fn interpret(answers: &[Record], authorities: &[Record], name: &Name, kind: Kind, no_such_name: bool) -> Reading {
    let mut owner = name;
    let mut ttl = u32::MAX;
    let mut aliases = 0;
    loop {
        if let Some((records, found_ttl)) = collect(answers, owner, kind) {
            let alias = (aliases > 0).then(|| owner.clone());
            return Reading::Records { records, ttl: ttl.min(found_ttl), alias };
        }
        let alias = of_owner(answers, owner).find_map(|record| match &record.data {
            RData::CNAME(target) => Some((&target.0, seconds(record))),
            _ => None,
        });
        let Some((target, alias_ttl)) = alias else { break };
        aliases += 1;
        // Bounded by count alone: a loop within one message is one that does not end.
        if aliases > limits::DNS_ALIASES {
            return Reading::AliasLoop;
        }
        (owner, ttl) = (target, ttl.min(alias_ttl));
    }
    // RFC 2308 §5: the smaller of the SOA's own TTL and its MINIMUM.
    let soa = authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(seconds(record).min(soa.minimum)),
        _ => None,
    });
    if no_such_name {
        return Reading::NoSuchName { ttl: soa.map(|soa| soa.min(ttl)) };
    }
    if soa.is_some() {
        return Reading::NoData { ttl: soa.map(|soa| soa.min(ttl)) };
    }
    if aliases > 0 {
        return Reading::Alias { target: owner.clone(), ttl };
    }
    // RFC 2308 §2.2: NS without SOA is a referral, neither is "no data" of a server that keeps no SOA.
    if authorities.iter().any(|record| matches!(record.data, RData::NS(_))) {
        return Reading::Referral;
    }
    Reading::NoData { ttl: None }
}

fn of_owner<'a>(answers: &'a [Record], owner: &'a Name) -> impl Iterator<Item = &'a Record> {
    answers.iter().filter(move |record| record.dns_class == DNSClass::IN && record.name == *owner)
}

/// RFC 2181 §8: a TTL with its highest bit set is 0.
fn seconds(record: &Record) -> u32 {
    if record.ttl > i32::MAX as u32 { 0 } else { record.ttl }
}

fn collect(answers: &[Record], owner: &Name, kind: Kind) -> Option<(Records, u32)> {
    let mut ttl = None;
    let mut mx = Vec::new();
    let mut addresses = Vec::new();
    let mut tlsa = Vec::new();
    let mut txt = Vec::new();
    for record in of_owner(answers, owner) {
        match (&record.data, kind) {
            (RData::MX(data), Kind::Mx) => mx.push((data.preference, exchange(&data.exchange))),
            (RData::A(data), Kind::A) => addresses.push(IpAddr::V4(data.0)),
            (RData::AAAA(data), Kind::Aaaa) => addresses.push(IpAddr::V6(data.0)),
            (RData::CNAME(_), Kind::Cname) => {}
            (RData::TLSA(data), Kind::Tlsa) => tlsa.push(Tlsa {
                usage: data.cert_usage.into(),
                selector: data.selector.into(),
                matching: data.matching.into(),
                data: data.cert_data.as_slice().into(),
            }),
            (RData::TXT(data), Kind::Txt) => txt.push(data.txt_data.concat().into()),
            _ => continue,
        }
        ttl = Some(ttl.map_or(seconds(record), |ttl: u32| ttl.min(seconds(record))));
    }
    let records = match kind {
        Kind::Mx => Records::Mx(mx),
        Kind::A | Kind::Aaaa => {
            addresses.retain(usable);
            Records::Addresses(addresses)
        }
        Kind::Cname => Records::Alias,
        Kind::Tlsa => Records::Tlsa(tlsa),
        Kind::Txt => Records::Txt(txt),
    };
    ttl.map(|ttl| (records, ttl))
}

fn exchange(name: &Name) -> Exchange {
    if name.is_root() {
        return Exchange::Null;
    }
    name::from_wire(name).map_or(Exchange::Unusable, |name| Exchange::Host(name.as_str().into()))
}

/// Addresses that are no host: 0.0.0.0 and :: reach this machine, groups nobody in particular, mapped ones are IPv4 in
/// disguise.
fn usable(address: &IpAddr) -> bool {
    !address.is_unspecified()
        && !address.is_multicast()
        && *address != IpAddr::V4(Ipv4Addr::BROADCAST)
        && !matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}
