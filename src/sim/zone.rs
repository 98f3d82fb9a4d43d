//! PURE. A DNS server of the simulated world: recursive, truthful, and in any of the moods that DNS servers have.
//!
//! Inputs: queries on port 53, over UDP and TCP (two octets of length, RFC 1035 §4.2.2, several on one connection, cut
//! anywhere), moods, and [`Records`], which all servers of a world share. Outputs: answers, late, forged or broken ones
//! too; counts of what was asked and done; by way of the records, what a relay may believe. Every choice is drawn from
//! the simulation's generator. Refuses to lie credibly: what is false comes with a wrong id, to another question, in a
//! truncated answer, or cannot be read, so a relay that follows it has a defect.

mod answer;
mod records;
#[cfg(test)]
mod tests;

pub use records::{EVIL_HOST, EVIL_V4, EVIL_V6, Kind, Records, is_evil};

use crate::rt::sim::marks::name;
use crate::rt::sim::{Host, HostEvent, HostSide, LinkId, Reading};
use answer::{Ask, encode, garble, mangle_case};
use hickory_proto::op::{Message, ResponseCode};
use records::{canonical, next_in_loop};
use std::collections::BTreeMap;
use std::time::Duration;

/// Where DNS servers listen, UDP and TCP.
pub const PORT: u16 = 53;
/// MX records of a server in that mood: more than a datagram holds and than a relay takes.
const MANY_MX: u16 = 100;
/// The same with addresses: more than a relay takes, in one datagram.
const MANY_ADDRESSES: u16 = 40;
/// Octets of the smallest record with a compressed name: name, type, class, TTL, length, four of data.
const RECORD: usize = 16;

/// How a server is with a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mood {
    /// Answers, over TCP what does not fit a datagram.
    #[default]
    Well,
    /// SERVFAIL.
    ServFail,
    /// REFUSED, or a lame server's referral or empty answer.
    Refused,
    /// Nothing; TCP connections stand and stay silent.
    Silent,
    /// Answers after a time between a half and one and a half of this.
    Slow(Duration),
    /// TC by UDP, whatever the size; TCP works.
    Truncated,
    /// TC by UDP, and TCP connections are reset or closed.
    TruncatedNoTcp,
    /// Forged answers, with ids that an attacker guessed wrongly, come before the right one.
    WrongId,
    /// Evil answers to other questions, sometimes the right one behind them.
    OtherQuestion,
    /// Messages cut, flipped or of noise, sometimes the right one behind them.
    Garbage,
    /// FORMERR or NOTIMP to EDNS; answers without it.
    NoEdns,
    /// Never answers AAAA.
    MissingAaaa,
    /// Half of the questions for addresses get SERVFAIL or silence.
    HalfAnswer,
    /// A hundred MX, the domain's own best; addresses repeated again and again.
    ManyRecords,
    /// TTL 0, or one with its highest bit set, which is 0 too (RFC 2181 §8).
    ZeroTtl,
    /// Names in any case, the question's too.
    CaseMangled,
    /// Every name is an alias that leads back, or on and on.
    LoopingAlias,
    /// TC by UDP; TCP is closed or reset before, within or right after the answer.
    TcpCloses,
    /// TC by UDP; TCP gets part of the answer, and no more.
    TcpStalls,
}

impl Mood {
    /// Each once.
    pub const ALL: [Mood; 19] = [
        Mood::Well,
        Mood::ServFail,
        Mood::Refused,
        Mood::Silent,
        Mood::Slow(Duration::from_millis(700)),
        Mood::Truncated,
        Mood::TruncatedNoTcp,
        Mood::WrongId,
        Mood::OtherQuestion,
        Mood::Garbage,
        Mood::NoEdns,
        Mood::MissingAaaa,
        Mood::HalfAnswer,
        Mood::ManyRecords,
        Mood::ZeroTtl,
        Mood::CaseMangled,
        Mood::LoopingAlias,
        Mood::TcpCloses,
        Mood::TcpStalls,
    ];
}

/// What a server did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Queries by UDP.
    pub udp: u64,
    /// Queries by TCP.
    pub tcp: u64,
    /// TCP connections taken.
    pub connections: u64,
    /// True answers, to their end.
    pub truths: u64,
    /// Datagrams with TC.
    pub truncated: u64,
    /// Evil answers with a wrong id or to another question.
    pub forged: u64,
    /// Messages of garbage.
    pub garbage: u64,
    /// What came and was no query: a defect of the relay.
    pub unreadable: u64,
}

/// One server. See the module.
pub struct Zone {
    /// What it knows, shared.
    pub records: Records,
    /// What it did.
    pub tally: Tally,
    mood: Mood,
    moods: BTreeMap<String, Mood>,
    asked: BTreeMap<(String, Kind), u64>,
    /// What came of each TCP connection and is no whole query yet.
    streams: BTreeMap<LinkId, Vec<u8>>,
    /// What is to be sent later, by timer.
    later: BTreeMap<u64, (Way, Vec<u8>)>,
    timers: u64,
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Udp(LinkId),
    Tcp(LinkId),
}

impl Zone {
    /// A well server.
    pub fn new(records: Records) -> Self {
        Zone {
            records,
            tally: Tally::default(),
            mood: Mood::Well,
            moods: BTreeMap::new(),
            asked: BTreeMap::new(),
            streams: BTreeMap::new(),
            later: BTreeMap::new(),
            timers: 0,
        }
    }

    /// The mood of the whole server. Only a well one has moods by domain.
    pub fn set_mood(&mut self, mood: Mood) {
        self.mood = mood;
    }

    /// The mood with a domain and all names below it, of which the longest counts.
    pub fn set_domain_mood(&mut self, domain: &str, mood: Mood) {
        self.moods.insert(canonical(domain), mood);
    }

    /// Well, with everything.
    pub fn calm(&mut self) {
        self.mood = Mood::Well;
        self.moods.clear();
    }

    /// The mood with a name.
    pub fn mood(&self, name: &str) -> Mood {
        if self.mood != Mood::Well {
            return self.mood;
        }
        let mut rest = Some(name);
        while let Some(name) = rest {
            if let Some(mood) = self.moods.get(name) {
                return *mood;
            }
            rest = name.split_once('.').map(|(_, parent)| parent);
        }
        Mood::Well
    }

    /// How often it was asked this, by UDP and TCP together.
    pub fn asked(&self, name: &str, kind: Kind) -> u64 {
        self.asked.get(&(canonical(name), kind)).copied().unwrap_or(0)
    }

    /// TCP connections that stand.
    pub fn open(&self) -> usize {
        self.streams.len()
    }

    // --- transports -------------------------------------------------------------------------------------------------

    fn query(&mut self, way: Way, bytes: &[u8], side: &mut HostSide<'_>) {
        let Some(ask) = Ask::read(bytes) else {
            self.tally.unreadable += 1;
            return;
        };
        match way {
            Way::Udp(_) => self.tally.udp += 1,
            Way::Tcp(_) => self.tally.tcp += 1,
        }
        if let Some(kind) = ask.kind {
            *self.asked.entry((ask.owner.clone(), kind)).or_default() += 1;
        }
        side.mark(format!("DNS asked while {}", name(&self.mood(&ask.owner))));
        match way {
            Way::Udp(link) => self.answer_udp(link, &ask, side),
            Way::Tcp(link) => self.answer_tcp(link, &ask, side),
        }
    }

    fn stream(&mut self, link: LinkId, bytes: &[u8], side: &mut HostSide<'_>) {
        let Some(stream) = self.streams.get_mut(&link) else { return };
        stream.extend_from_slice(bytes);
        // An answer may have ended the connection.
        while let Some(stream) = self.streams.get_mut(&link)
            && let Some((length, rest)) = stream.split_first_chunk::<2>()
            && let length = usize::from(u16::from_be_bytes(*length))
            && rest.len() >= length
        {
            let query = rest[..length].to_vec();
            stream.drain(..2 + length);
            self.query(Way::Tcp(link), &query, side);
        }
    }

    fn send(&mut self, way: Way, bytes: &[u8], side: &mut HostSide<'_>) {
        match way {
            Way::Udp(link) => side.datagram(link, bytes),
            Way::Tcp(link) => write(link, &framed(bytes), side),
        }
    }

    fn send_after(&mut self, delay: Duration, way: Way, bytes: Vec<u8>, side: &mut HostSide<'_>) {
        self.timers += 1;
        self.later.insert(self.timers, (way, bytes));
        side.timer(delay, self.timers);
    }

    fn close(&mut self, link: LinkId, reset: bool, side: &mut HostSide<'_>) {
        if self.streams.remove(&link).is_some() {
            if reset { side.reset(link) } else { side.close(link) }
        }
    }

    // --- answers ----------------------------------------------------------------------------------------------------

    fn answer_udp(&mut self, link: LinkId, ask: &Ask, side: &mut HostSide<'_>) {
        let way = Way::Udp(link);
        match self.mood(&ask.owner) {
            Mood::Truncated | Mood::TruncatedNoTcp | Mood::TcpCloses | Mood::TcpStalls => {
                self.tally.truncated += 1;
                let message = encode(&ask.truncated(side.rng()));
                self.send(way, &message, side);
            }
            Mood::WrongId => {
                // Up to some more than a resolver bears before it takes to TCP.
                for _ in 0..1 + side.rng().below(12) {
                    let mut forged = encode(&ask.evil());
                    let guess = ask.id ^ (1 + side.rng().below(0xffff) as u16);
                    forged[..2].copy_from_slice(&guess.to_be_bytes());
                    self.tally.forged += 1;
                    self.send(way, &forged, side);
                }
                self.truth_after(way, ask, 20, side);
            }
            Mood::OtherQuestion => {
                for _ in 0..1 + side.rng().below(3) {
                    self.elsewhere(way, ask, side);
                }
                if side.rng().one_in(2) {
                    self.truth_after(way, ask, 20, side);
                }
            }
            Mood::Garbage => {
                for _ in 0..1 + side.rng().below(3) {
                    self.garbage(way, ask, side);
                }
                if side.rng().one_in(2) {
                    self.truth_after(way, ask, 20, side);
                }
            }
            mood => self.answer(mood, way, ask, side),
        }
    }

    fn answer_tcp(&mut self, link: LinkId, ask: &Ask, side: &mut HostSide<'_>) {
        let way = Way::Tcp(link);
        match self.mood(&ask.owner) {
            Mood::TruncatedNoTcp => self.close(link, side.rng().one_in(2), side),
            Mood::TcpCloses => {
                let whole = framed(&encode(&self.truth(Mood::Well, ask, side)));
                let sent = *side.rng().pick(&[0, 1, 2, whole.len() / 2, whole.len() - 1, whole.len()]);
                side.write(link, &whole[..sent]);
                self.close(link, side.rng().one_in(2), side);
            }
            Mood::TcpStalls => {
                let whole = framed(&encode(&self.truth(Mood::Well, ask, side)));
                let sent = side.rng().below(whole.len() as u64) as usize;
                side.write(link, &whole[..sent]);
                if side.rng().one_in(2) {
                    side.read(link, Reading::Nothing);
                }
            }
            Mood::OtherQuestion if side.rng().one_in(2) => self.elsewhere(way, ask, side),
            Mood::Garbage if side.rng().one_in(2) => {
                self.garbage(way, ask, side);
                if side.rng().one_in(2) {
                    self.close(link, side.rng().one_in(2), side);
                }
            }
            // Who only guesses cannot write into a stream; and what was truncated comes whole here.
            Mood::WrongId | Mood::OtherQuestion | Mood::Garbage | Mood::Truncated => {
                self.answer(Mood::Well, way, ask, side);
            }
            mood => self.answer(mood, way, ask, side),
        }
    }

    /// The moods that both transports share.
    fn answer(&mut self, mood: Mood, way: Way, ask: &Ask, side: &mut HostSide<'_>) {
        let rng = side.rng();
        let message = match mood {
            Mood::Silent => return,
            Mood::MissingAaaa if ask.kind == Some(Kind::Aaaa) => return,
            Mood::HalfAnswer if ask.kind != Some(Kind::Mx) && rng.one_in(2) => {
                if rng.one_in(2) {
                    return;
                }
                ask.error(ResponseCode::ServFail)
            }
            Mood::ServFail => ask.error(ResponseCode::ServFail),
            Mood::Refused => match rng.below(3) {
                0 => ask.error(ResponseCode::Refused),
                n => ask.lame(n == 1),
            },
            Mood::NoEdns if ask.edns.is_some() => {
                let code = if rng.one_in(4) { ResponseCode::NotImp } else { ResponseCode::FormErr };
                let mut message = ask.error(code);
                message.edns = None;
                if rng.one_in(2) {
                    message.queries.clear();
                }
                message
            }
            Mood::LoopingAlias => self.looping(ask, side),
            mood => self.truth(mood, ask, side),
        };
        let udp = matches!(way, Way::Udp(_));
        // The encoder is slow with many names; most of what will not fit is known without it.
        let bytes = (!udp || message.answers.len() * RECORD <= ask.room()).then(|| encode(&message));
        let bytes = match bytes.filter(|bytes| !udp || bytes.len() <= ask.room()) {
            Some(bytes) => bytes,
            None => {
                self.tally.truncated += 1;
                encode(&ask.truncated(side.rng()))
            }
        };
        match mood {
            Mood::Slow(time) => {
                let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 2);
                let delay = Duration::from_micros(micros / 2 + side.rng().below(micros + 1));
                self.send_after(delay, way, bytes, side);
            }
            _ => self.send(way, &bytes, side),
        }
    }

    fn truth_after(&mut self, way: Way, ask: &Ask, most_ms: u64, side: &mut HostSide<'_>) {
        let bytes = encode(&self.truth(Mood::Well, ask, side));
        let delay = Duration::from_millis(1 + side.rng().below(most_ms));
        self.send_after(delay, way, bytes, side);
    }

    /// The true answer, in the way that a mood has of telling it.
    fn truth(&mut self, mood: Mood, ask: &Ask, side: &mut HostSide<'_>) -> Message {
        self.tally.truths += 1;
        let rng = side.rng();
        let ttl = match mood {
            Mood::ZeroTtl => *rng.pick(&[0, 1 << 31, u32::MAX]),
            _ => self.records.seconds(),
        };
        let Some(kind) = ask.kind else { return ask.lame(false) };
        let truth = self.records.look_up(&ask.owner, kind);
        if let Some((owner, target)) = truth.aliases.first()
            && rng.one_in(4)
        {
            self.records.tell_alias(owner, target);
            return ask.alias(owner, target, ttl);
        }
        let many = match (mood, kind) {
            (Mood::ManyRecords, Kind::Mx) => Some(MANY_MX),
            (Mood::ManyRecords, _) => Some(MANY_ADDRESSES),
            _ => None,
        };
        let truth = self.records.tell(&ask.owner, kind, many);
        let mut message = ask.tell(&truth, ttl);
        rng.shuffle(&mut message.answers);
        if mood == Mood::CaseMangled {
            mangle_case(&mut message, rng);
        }
        message
    }

    fn looping(&mut self, ask: &Ask, side: &mut HostSide<'_>) -> Message {
        let next = next_in_loop(&ask.owner);
        let target = match (side.rng().below(3), &next, ask.owner.split_once('.')) {
            (0, ..) => ask.owner.clone(),
            (1, Some(_), Some((_, base))) => base.to_owned(),
            (_, Some(next), _) => next.clone(),
            (_, None, _) => format!("loop1.{}", ask.owner),
        };
        ask.alias(&ask.owner, &target, self.records.seconds())
    }

    fn elsewhere(&mut self, way: Way, ask: &Ask, side: &mut HostSide<'_>) {
        self.tally.forged += 1;
        let bytes = encode(&ask.elsewhere(side.rng()));
        self.send(way, &bytes, side);
    }

    fn garbage(&mut self, way: Way, ask: &Ask, side: &mut HostSide<'_>) {
        self.tally.garbage += 1;
        let Some(kind) = ask.kind else { return };
        let message = ask.tell(&self.records.look_up(&ask.owner, kind), self.records.seconds());
        let bytes = garble(&message, side.rng());
        self.send(way, &bytes, side);
    }
}

impl Host for Zone {
    fn listens(&self, port: u16) -> bool {
        port == PORT
    }

    fn handle(&mut self, event: HostEvent<'_>, side: &mut HostSide<'_>) {
        match event {
            HostEvent::Accepted { link, .. } => {
                self.tally.connections += 1;
                self.streams.insert(link, Vec::new());
                if matches!(self.mood, Mood::TruncatedNoTcp | Mood::TcpCloses) && side.rng().one_in(4) {
                    self.close(link, side.rng().one_in(2), side);
                }
            }
            HostEvent::Received { link, bytes } => self.stream(link, bytes, side),
            HostEvent::Datagram { link, bytes, .. } => self.query(Way::Udp(link), bytes, side),
            HostEvent::Ended { link } => self.close(link, false, side),
            HostEvent::Failed { link } => _ = self.streams.remove(&link),
            HostEvent::Timer { token } => {
                if let Some((way, bytes)) = self.later.remove(&token) {
                    self.send(way, &bytes, side);
                }
            }
            _ => {}
        }
    }
}

/// Behind its two octets of length.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a message of DNS has 65,535 octets at most");
    [&length.to_be_bytes()[..], bytes].concat()
}

/// Whole, or in two pieces.
fn write(link: LinkId, bytes: &[u8], side: &mut HostSide<'_>) {
    let cut = if side.rng().one_in(2) { side.rng().below(bytes.len() as u64) as usize } else { 0 };
    side.write(link, &bytes[..cut]);
    side.write(link, &bytes[cut..]);
}
