//! A scripted DNS server: every domain of the zone has one MX, `mx.` before its name, with one address.

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, MX, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// What DNS says of a domain. One that is not in the zone does not exist.
#[derive(Clone, Copy, Debug)]
pub enum Entry {
    Host(Ipv4Addr),
    ServFail,
    Silent,
}

/// See the module.
#[derive(Default)]
pub struct Zone {
    pub domains: BTreeMap<String, Entry>,
    pub asked: u64,
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

impl Zone {
    pub fn host(&mut self, domain: &str, address: &str) {
        let IpAddr::V4(address) = address.parse().unwrap() else { panic!("IPv4 only") };
        self.domains.insert(domain.to_owned(), Entry::Host(address));
    }

    /// The answer to a query; `None`: silence.
    pub fn answer(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        self.asked += 1;
        let query = Message::from_vec(query).unwrap();
        let question = query.queries[0].clone();
        let owner = question.name.to_ascii().trim_end_matches('.').to_owned();
        let mut message = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_available = true;
        message.add_query(question.clone());
        let (domain, is_host) = match owner.strip_prefix("mx.") {
            Some(domain) => (domain, true),
            None => (owner.as_str(), false),
        };
        match self.domains.get(domain) {
            None => message.metadata.response_code = ResponseCode::NXDomain,
            Some(Entry::ServFail) => message.metadata.response_code = ResponseCode::ServFail,
            Some(Entry::Silent) => return None,
            Some(Entry::Host(address)) => {
                let data = match (question.query_type, is_host) {
                    (RecordType::MX, false) => Some(RData::MX(MX::new(10, name(&format!("mx.{domain}"))))),
                    (RecordType::A, true) => Some(RData::A(A(*address))),
                    _ => None,
                };
                if let Some(data) = data {
                    message.add_answer(Record::from_rdata(question.name.clone(), 300, data));
                }
            }
        }
        if message.answers.is_empty() {
            let soa = SOA::new(name("ns.test"), name("root.test"), 1, 2, 3, 4, 30);
            message.add_authority(Record::from_rdata(name("test"), 60, RData::SOA(soa)));
        }
        Some(message.to_vec().unwrap())
    }
}
