//! The DNS server: authoritative for a zone made by rule, over UDP and TCP, and as bad as it is told to be.
//!
//! For each domain number i of the template (`d0001.test` ...): MX 10 `mx.<domain>`, and that name has the address
//! 127.1.(i >> 8).(i & 255). Other names get NXDOMAIN, other types no data, both with an SOA (RFC 2308). It lives on
//! one thread of its own. It refuses recursion.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, MX, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

use crate::cpu::ThreadClock;
use crate::traffic::DomainTemplate;
use crate::units::Delay;

/// Domains a zone may have: what 127.1.0.0/16 addresses.
pub const MAX_DOMAINS: u32 = 65_535;

/// What the server says.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Where it listens, UDP and TCP. Port 0: any free one.
    pub listen: SocketAddr,
    /// The zone's domains.
    pub template: DomainTemplate,
    /// How many of them.
    pub domains: u32,
    /// Of all records, seconds.
    pub ttl: u32,
    /// Numbers of domains with a null MX (RFC 7505).
    pub null_mx: Vec<u32>,
    /// Numbers of domains without MX, with an address (implicit MX, RFC 5321 §5.1).
    pub no_mx: Vec<u32>,
    /// Names with a TXT record, and its text.
    pub txt: Vec<(String, String)>,
    /// How often SERVFAIL is the answer, 0 to 1.
    pub servfail: f64,
    /// How often a question gets no answer at all, 0 to 1.
    pub drop: f64,
    /// Answer over UDP with the TC bit and nothing else.
    pub truncate: bool,
    /// Before each answer.
    pub delay: Option<Delay>,
}

impl Default for DnsConfig {
    fn default() -> DnsConfig {
        DnsConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            template: DomainTemplate::default(),
            domains: 1000,
            ttl: 3600,
            null_mx: Vec::new(),
            no_mx: Vec::new(),
            txt: Vec::new(),
            servfail: 0.0,
            drop: 0.0,
            truncate: false,
            delay: None,
        }
    }
}

/// The address of the mail exchanger of domain `i`.
pub fn exchanger_address(i: u32) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, (i >> 8) as u8, i as u8)
}

/// A running server; stops when dropped.
pub struct DnsServer {
    address: SocketAddr,
    questions: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    clock: ThreadClock,
}

impl DnsServer {
    /// Starts to answer. Errors: the address cannot be bound; too many domains.
    pub fn start(config: DnsConfig) -> io::Result<DnsServer> {
        if config.domains > MAX_DOMAINS {
            return Err(io::Error::other(format!("a zone has at most {MAX_DOMAINS} domains")));
        }
        let (udp, tcp) = bind(config.listen)?;
        let address = udp.local_addr()?;
        let zone = Zone::new(&config).map_err(io::Error::other)?;
        let questions = Arc::new(AtomicU64::new(0));
        let for_thread = Arc::clone(&questions);
        let (stop, stopped) = watch::channel(false);
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("dns".into()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(r) => r,
                Err(e) => return ready.send(Err(e)).unwrap_or(()),
            };
            ready.send(Ok(ThreadClock::current())).unwrap_or(());
            if let Err(e) = runtime.block_on(serve(udp, tcp, config, zone, for_thread, stopped)) {
                eprintln!("dns: {e}");
            }
        })?;
        let clock = started.recv().map_err(|_| io::Error::other("the server's thread ended"))??;
        Ok(DnsServer { address, questions, stop, thread: Some(thread), clock })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Questions so far.
    pub fn questions(&self) -> u64 {
        self.questions.load(Relaxed)
    }

    /// CPU time of its thread.
    pub fn cpu(&self) -> Duration {
        self.clock.read()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Both transports on one port: with port 0, the one UDP was given may be taken for TCP, so try some.
fn bind(address: SocketAddr) -> io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let mut last = io::Error::other("no port");
    for _ in 0..20 {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}"));
        let udp = std::net::UdpSocket::bind(address).map_err(named)?;
        match std::net::TcpListener::bind(udp.local_addr()?) {
            Ok(tcp) => {
                udp.set_nonblocking(true)?;
                tcp.set_nonblocking(true)?;
                return Ok((udp, tcp));
            }
            Err(e) if address.port() == 0 => last = e,
            Err(e) => return Err(named(e)),
        }
    }
    Err(last)
}

enum Entry {
    Domain(u32),
    Exchanger(u32),
    Text(String),
}

struct Zone {
    names: HashMap<String, Entry>,
    config: DnsConfig,
    rng: SmallRng,
}

impl Zone {
    fn new(config: &DnsConfig) -> Result<Zone, String> {
        let mut names = HashMap::new();
        let numbers = if config.template.is_numbered() { config.domains } else { 1 };
        for i in 1..=numbers {
            let domain = config.template.name(i);
            Name::from_ascii(&domain).map_err(|e| format!("{domain}: {e}"))?;
            names.insert(format!("mx.{domain}."), Entry::Exchanger(i));
            names.insert(domain + ".", Entry::Domain(i));
        }
        for (name, text) in &config.txt {
            names.insert(format!("{name}."), Entry::Text(text.clone()));
        }
        Ok(Zone { names, config: config.clone(), rng: SmallRng::seed_from_u64(1) })
    }

    /// The answer, or `None` if there shall be none (or the question is none).
    fn answer(&mut self, question: &[u8], over_udp: bool) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).ok()?;
        if question.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut answer = Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.authoritative = true;
        answer.queries = question.queries.clone();
        if question.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(1232);
            answer.edns = Some(edns);
        }
        let config = &self.config;
        if self.rng.random::<f64>() < config.drop {
            return None;
        }
        if question.metadata.op_code != OpCode::Query || question.queries.len() != 1 {
            answer.metadata.response_code = ResponseCode::NotImp;
        } else if self.rng.random::<f64>() < config.servfail {
            answer.metadata.response_code = ResponseCode::ServFail;
        } else if over_udp && config.truncate {
            answer.metadata.truncation = true;
        } else {
            self.fill(&mut answer);
        }
        answer.to_vec().ok()
    }

    fn fill(&self, answer: &mut Message) {
        let config = &self.config;
        let query = &answer.queries[0];
        let (name, kind) = (query.name().clone(), query.query_type());
        let mut text = name.to_ascii().to_ascii_lowercase();
        if !text.ends_with('.') {
            text.push('.');
        }
        let rdata = match self.names.get(&text) {
            None => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                None
            }
            Some(Entry::Exchanger(i)) => (kind == RecordType::A).then(|| RData::A(A(exchanger_address(*i)))),
            Some(Entry::Domain(i)) if config.no_mx.contains(i) => {
                (kind == RecordType::A).then(|| RData::A(A(exchanger_address(*i))))
            }
            Some(Entry::Domain(i)) if kind == RecordType::MX => {
                Some(RData::MX(if config.null_mx.contains(i) {
                    MX::new(0, Name::root())
                } else {
                    // The name was checked when the zone was made.
                    MX::new(10, name.prepend_label("mx").unwrap_or_else(|_| Name::root()))
                }))
            }
            Some(Entry::Domain(_)) => None,
            Some(Entry::Text(text)) => (kind == RecordType::TXT).then(|| RData::TXT(TXT::new(vec![text.clone()]))),
        };
        match rdata {
            Some(rdata) => {
                answer.add_answer(Record::from_rdata(name, config.ttl, rdata));
            }
            None => {
                let host = || Name::from_ascii("ns.load.test.").expect("a constant that is a name");
                let soa = SOA::new(host(), host(), 1, 3600, 600, 86_400, config.ttl.min(60));
                let apex = name.trim_to(1);
                answer.add_authority(Record::from_rdata(apex, config.ttl, RData::SOA(soa)));
            }
        }
    }
}

async fn serve(
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
    config: DnsConfig,
    zone: Zone,
    questions: Arc<AtomicU64>,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let udp = Rc::new(UdpSocket::from_std(udp)?);
    let tcp = TcpListener::from_std(tcp)?;
    let zone = Rc::new(RefCell::new(zone));
    let delay = config.delay;
    let wait = {
        let zone = Rc::clone(&zone);
        move || delay.map(|d| d.draw(&mut zone.borrow_mut().rng))
    };
    let local = tokio::task::LocalSet::new();
    {
        let (zone, questions, wait) = (Rc::clone(&zone), Arc::clone(&questions), wait.clone());
        local.spawn_local(async move {
            let mut buffer = vec![0u8; 4096];
            loop {
                let Ok((n, peer)) = udp.recv_from(&mut buffer).await else { continue };
                questions.fetch_add(1, Relaxed);
                let Some(answer) = zone.borrow_mut().answer(&buffer[..n], true) else { continue };
                match wait() {
                    None => drop(udp.send_to(&answer, peer).await),
                    Some(d) => {
                        let udp = Rc::clone(&udp);
                        tokio::task::spawn_local(async move {
                            tokio::time::sleep(d).await;
                            let _ = udp.send_to(&answer, peer).await;
                        });
                    }
                }
            }
        });
    }
    local.spawn_local(async move {
        loop {
            let Ok((mut stream, _)) = tcp.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (zone, questions, wait) = (Rc::clone(&zone), Arc::clone(&questions), wait.clone());
            tokio::task::spawn_local(async move {
                // RFC 7766: each message behind its length in two octets; the client closes.
                while let Ok(n) = stream.read_u16().await {
                    let mut question = vec![0; usize::from(n)];
                    if stream.read_exact(&mut question).await.is_err() {
                        return;
                    }
                    questions.fetch_add(1, Relaxed);
                    let answer = zone.borrow_mut().answer(&question, false);
                    if let Some(d) = wait() {
                        tokio::time::sleep(d).await;
                    }
                    let Some(answer) = answer else { return };
                    let length = u16::try_from(answer.len()).unwrap_or(0).to_be_bytes();
                    if stream.write_all(&[&length, answer.as_slice()].concat()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let _ = local.run_until(stopped.wait_for(|s| *s)).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hickory_proto::op::Query;

    fn ask(zone: &mut Zone, name: &str, kind: RecordType, udp: bool) -> Message {
        let mut q = Message::query();
        q.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        Message::from_vec(&zone.answer(&q.to_vec().unwrap(), udp).unwrap()).unwrap()
    }

    #[test]
    fn answers() {
        let config = DnsConfig { null_mx: vec![2], no_mx: vec![3], domains: 300, ..Default::default() };
        let mut zone = Zone::new(&config).unwrap();
        let a = ask(&mut zone, "D0001.TEST.", RecordType::MX, true);
        assert_eq!(a.answers[0].data.to_string(), "10 mx.D0001.TEST.");
        let a = ask(&mut zone, "mx.d0258.test.", RecordType::A, true);
        assert_eq!(a.answers[0].data.to_string(), "127.1.1.2");
        let a = ask(&mut zone, "d0002.test.", RecordType::MX, true);
        assert_eq!(a.answers[0].data.to_string(), "0 .");
        let a = ask(&mut zone, "d0003.test.", RecordType::MX, true);
        assert!(a.answers.is_empty() && a.metadata.response_code == ResponseCode::NoError && a.authorities.len() == 1);
        assert_eq!(ask(&mut zone, "d0003.test.", RecordType::A, true).answers[0].data.to_string(), "127.1.0.3");
        let a = ask(&mut zone, "nobody.test.", RecordType::MX, true);
        assert!(a.metadata.response_code == ResponseCode::NXDomain && a.authorities.len() == 1);
        assert!(ask(&mut zone, "mx.d0001.test.", RecordType::AAAA, true).answers.is_empty());
        assert!(zone.answer(b"rubbish", true).is_none());
    }

    #[test]
    fn misbehaves_as_told() {
        let mut zone = Zone::new(&DnsConfig { truncate: true, ..Default::default() }).unwrap();
        let a = ask(&mut zone, "d0001.test.", RecordType::MX, true);
        assert!(a.metadata.truncation && a.answers.is_empty());
        assert_eq!(ask(&mut zone, "d0001.test.", RecordType::MX, false).answers.len(), 1);
        let mut zone = Zone::new(&DnsConfig { servfail: 1.0, ..Default::default() }).unwrap();
        assert_eq!(ask(&mut zone, "d0001.test.", RecordType::MX, true).metadata.response_code, ResponseCode::ServFail);
    }
}
