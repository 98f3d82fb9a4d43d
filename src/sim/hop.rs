//! A next hop of the simulated world: an SMTP server of its own making (nothing of `smtp` is in it, so that it can judge
//! what it is told), with a mood, and a memory of every message and refusal.
//!
//! Inputs: what the relay sends, moods set by the world. Outputs: replies, and records for the oracle. It refuses to be
//! kind: whatever RFC 5321 lets a server do, and some of what it does not, is in [`Act`].

mod call;
pub mod guard;
mod mood;
mod tls;

use call::{Call, Out};
pub use mood::{Act, Announced, At, Mood};
pub use tls::StartTls;

use crate::limits;
use crate::rt::sim::marks::name;
use crate::rt::sim::{Host, HostEvent, HostSide, LinkId, Reading};
use crate::time::{Moment, Wall};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// One message as the hop took it.
#[derive(Clone, Debug)]
pub struct Received {
    /// When its end came.
    pub at: Moment,
    /// The same on the wall.
    pub wall: Wall,
    /// The connection.
    pub link: LinkId,
    /// When that was made.
    pub opened: Moment,
    /// The relay's address on it.
    pub from: IpAddr,
    /// Reverse-path.
    pub sender: String,
    /// Forward-paths that were taken.
    pub recipients: Vec<String>,
    /// MAIL and each RCPT, as they came.
    pub said: Vec<String>,
    /// When MAIL came.
    pub mail_at: Moment,
    /// Which MAIL of the connection it was, from 1.
    pub number: u32,
    /// What was announced to it.
    pub announced: Announced,
    /// In wire form, with the final dot; or as it came by BDAT.
    pub data: Vec<u8>,
    /// It came by BDAT.
    pub chunked: bool,
    /// It came in TLS.
    pub secure: bool,
    /// What stands behind `X-Test:`.
    pub mark: Option<u32>,
    /// Octets written on the connection, the 250 included: the relay knows once it was handed so many. `None`: the hop
    /// never said it.
    pub told: Option<u64>,
    /// And when; before it was said, when its end came.
    pub told_at: Moment,
}

impl Received {
    /// Whether it is a delivery status notification.
    pub fn is_dsn(&self) -> bool {
        memchr::memmem::find(&self.data, b"multipart/report").is_some()
    }
}

/// A refusal.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// When.
    pub at: Moment,
    /// Whom it concerns; `None`: everybody on the connection.
    pub recipient: Option<String>,
    /// 5yz.
    pub permanent: bool,
    /// 4yz, other than 421, which is about the connection.
    pub transient: bool,
    /// The connection.
    pub link: LinkId,
    /// At which command.
    pub stage: At,
    /// The reply.
    pub text: Box<str>,
    /// In TLS.
    pub secure: bool,
    /// Octets written on it, the refusal included: the relay knows once it was handed so many.
    pub told: u64,
}

/// See the module. One for each address.
#[derive(Default)]
pub struct Hop {
    /// How it behaves now.
    pub mood: Mood,
    /// It announces CHUNKING, and takes no BDAT behind an envelope whose replies were not waited for.
    pub grounded: bool,
    /// It speaks LMTP (RFC 2033), at port 24.
    pub lmtp: bool,
    /// What it announces in every mood, beside what that says: each with what stands behind it.
    pub extensions: Vec<String>,
    /// What becomes of STARTTLS, if it announces that.
    pub tls: Option<StartTls>,
    /// Everything it took.
    pub received: Vec<Received>,
    /// Everything it refused for good, and what it put off.
    pub refusals: Vec<Refusal>,
    /// What its site counts and refuses.
    pub guard: Option<guard::Shared>,
    /// Connections that stand, and the most that did.
    pub open: usize,
    /// The most that did.
    pub peak: usize,
    /// Connections that came.
    pub connects: u64,
    /// Connections that were ready for mail, carried none and were ended by the relay, within the last minute.
    in_vain: VecDeque<Moment>,
    /// The most of them in any minute.
    pub most_in_vain: usize,
    /// The most transactions that one connection carried.
    pub most_mails: u32,
    /// What the relay did against RFC 5321.
    pub complaints: Vec<String>,
    calls: BTreeMap<LinkId, Call>,
    first_seen: BTreeMap<String, Moment>,
}

/// A number of a name, for choices that must be the same each time.
pub fn name_number(name: &str) -> u64 {
    name.bytes().fold(17, |sum, byte| crate::rt::sim::rng::mix(sum ^ u64::from(byte)))
}

impl Host for Hop {
    fn listens(&self, port: u16) -> bool {
        port == if self.lmtp { 24 } else { 25 } && !self.mood.refuses
    }

    fn handle(&mut self, event: HostEvent<'_>, side: &mut HostSide<'_>) {
        match event {
            HostEvent::Accepted { link, from, .. } => self.accepted(link, from, side),
            HostEvent::Received { link, bytes } => {
                let Some(mut call) = self.calls.remove(&link) else { return };
                call.pieces += 1;
                let open = if call.broken || !call.take(bytes) {
                    self.end(link, &mut call, side)
                } else {
                    self.flush(link, &mut call, side) && self.work(link, &mut call, side)
                };
                self.keep(link, call, open, side.now().mono);
            }
            HostEvent::Ended { link } => {
                side.close(link);
                self.gone(link, side.now().mono);
            }
            HostEvent::Failed { link } => self.gone(link, side.now().mono),
            HostEvent::Timer { token } => {
                let link = LinkId(token);
                let Some(mut call) = self.calls.remove(&link) else { return };
                call.armed = false;
                let open = self.send_next(link, &mut call, side);
                self.keep(link, call, open, side.now().mono);
            }
            _ => {}
        }
    }
}

impl Hop {
    fn keep(&mut self, link: LinkId, call: Call, open: bool, now: Moment) {
        let counted = call.counted;
        if open {
            self.calls.insert(link, call);
            return;
        }
        if let Some(guard) = &self.guard {
            guard.borrow_mut().gone(link, now);
        }
        if counted {
            self.open -= 1;
        }
    }

    /// The relay ended it.
    fn gone(&mut self, link: LinkId, now: Moment) {
        if let Some(call) = self.calls.remove(&link) {
            if call.ready && call.mails == 0 {
                self.in_vain.retain(|at| now.since(*at) < Duration::from_secs(60));
                self.in_vain.push_back(now);
                self.most_in_vain = self.most_in_vain.max(self.in_vain.len());
            }
            self.keep(link, call, false, now);
        }
    }

    fn accepted(&mut self, link: LinkId, from: IpAddr, side: &mut HostSide<'_>) {
        self.connects += 1;
        let mut call = Call::new(side.now().mono, from);
        let guard = self.guard.as_ref();
        let guarded = guard
            .is_some_and(|g| !g.borrow_mut().connect((link, from), side.now().mono, |link| side.relay_is_open(link)));
        let open = if guarded {
            side.mark("next hop: 421, more connections than its site takes");
            self.say(link, &mut call, b"421 4.7.0 too many connections\r\n".to_vec(), side);
            self.end(link, &mut call, side)
        } else if self.mood.max_open.is_some_and(|max| self.open >= max) {
            self.say(link, &mut call, b"421 4.7.0 too many connections\r\n".to_vec(), side);
            self.end(link, &mut call, side)
        } else {
            self.open += 1;
            self.peak = self.peak.max(self.open);
            call.counted = true;
            if self.mood.reading != Reading::All {
                side.read(link, self.mood.reading);
            }
            self.act(At::Greeting, link, &mut call, "220 hop ESMTP\r\n", side).1
        };
        self.keep(link, call, open, side.now().mono);
    }

    /// Works off what came; whether the connection stands.
    fn work(&mut self, link: LinkId, call: &mut Call, side: &mut HostSide<'_>) -> bool {
        while !call.mute {
            if let Some((octets, is_wanted)) = call.chunk {
                if is_wanted && self.mood.cuts.front().is_some_and(|cut| call.input.len().min(octets) >= *cut) {
                    self.mood.cuts.pop_front();
                    return self.end(link, call, side);
                }
                if call.input.len() < octets {
                    return true;
                }
                call.chunk = None;
                let data: Vec<u8> = call.input.drain(..octets).collect();
                let open = if is_wanted {
                    self.complete(link, call, (data, true), side)
                } else {
                    self.dropped(link, call, side)
                };
                if !open {
                    return false;
                }
            } else if call.in_data {
                if self.mood.cuts.front().is_some_and(|cut| call.input.len() >= *cut) {
                    self.mood.cuts.pop_front();
                    return self.end(link, call, side);
                }
                let end = if call.input.starts_with(b".\r\n") {
                    Some(3)
                } else {
                    let from = call.scanned.saturating_sub(4);
                    memchr::memmem::find(&call.input[from..], b"\r\n.\r\n").map(|at| from + at + 5)
                };
                let Some(end) = end else {
                    call.scanned = call.input.len();
                    return true;
                };
                call.scanned = 0;
                call.in_data = false;
                let data: Vec<u8> = call.input.drain(..end).collect();
                if !self.complete(link, call, (data, false), side) {
                    return false;
                }
            } else {
                let Some(end) = memchr::memmem::find(&call.input, b"\r\n") else { return true };
                let line = String::from_utf8_lossy(&call.input[..end]).into_owned();
                call.input.drain(..end + 2);
                if !self.command(link, call, &line, side) {
                    return false;
                }
            }
        }
        true
    }

    /// A message is here: its data, and whether it came by BDAT.
    fn complete(
        &mut self,
        link: LinkId,
        call: &mut Call,
        (data, chunked): (Vec<u8>, bool),
        side: &mut HostSide<'_>,
    ) -> bool {
        // RFC 3030 §2: whether a BDAT that failed leaves a transaction open, nobody knows.
        call.in_mail = chunked && side.rng().one_in(2);
        self.check_declared(call, &data, chunked);
        if call.ended_at.is_some() {
            // Who has said 421 reads on for politeness.
            return true;
        }
        let (now, mark) = (side.now(), mark_of(&data));
        let recipients = std::mem::take(&mut call.recipients);
        let received = Received {
            at: now.mono,
            wall: now.wall,
            link,
            opened: call.opened,
            from: call.from,
            sender: std::mem::take(&mut call.sender),
            recipients: Vec::new(),
            said: std::mem::take(&mut call.said),
            mail_at: call.mail_at,
            number: call.mails,
            announced: call.announced.clone(),
            data,
            chunked,
            secure: call.is_secure(),
            mark,
            told: None,
            told_at: now.mono,
        };
        if !self.lmtp {
            return self.answer(link, call, Received { recipients, ..received }, side);
        }
        // RFC 2033 §4.2: a reply for each.
        for to in recipients {
            let one = Received { recipients: vec![to], ..received.clone() };
            if !self.answer(link, call, one, side) {
                return false;
            }
            if call.mute {
                break;
            }
        }
        true
    }

    /// Takes a message or refuses it.
    fn answer(&mut self, link: LinkId, call: &mut Call, received: Received, side: &mut HostSide<'_>) -> bool {
        let act = self.choose(At::Final, side);
        // One who says nothing more may have taken the message all the same.
        let takes = match &act {
            Some(Act::Say(text) | Act::SayAndClose(text)) => text.starts_with('2'),
            Some(Act::Garbage) => false,
            _ => true,
        };
        let index = self.received.len();
        if takes {
            call.in_mail = false;
            self.received.push(received);
            if let None | Some(Act::Say(_)) = &act {
                let text = match act {
                    Some(Act::Say(text)) => text,
                    _ => "250 2.0.0 taken\r\n".to_owned(),
                };
                call.out.push_back(Out::Taken(index, text.into_bytes()));
                return self.flush(link, call, side);
            }
        } else if let Some(Act::Say(text) | Act::SayAndClose(text)) = &act {
            for to in received.recipients {
                self.refuse(link, call, (At::Final, Some(to)), text, side);
            }
        }
        self.perform(act, link, call, "250 2.0.0 taken\r\n", side).1
    }

    fn command(&mut self, link: LinkId, call: &mut Call, line: &str, side: &mut HostSide<'_>) -> bool {
        let upper = line.get(..10).unwrap_or(line).to_ascii_uppercase();
        let hello = if self.lmtp { "LHLO" } else { "EHLO" };
        if upper.starts_with(hello) && self.mood.old {
            self.say(link, call, b"502 5.5.1 what?\r\n".to_vec(), side)
        } else if upper.starts_with(hello) {
            let mut text = "250-hop\r\n".to_owned();
            if let Some(size) = self.mood.size {
                text += &format!("250-SIZE {size}\r\n");
            }
            if self.mood.eight_bit {
                text += "250-8BITMIME\r\n";
            }
            if self.mood.pipelining {
                text += "250-PIPELINING\r\n";
            }
            for line in self.extensions.iter().chain(&self.mood.extensions) {
                text += &format!("250-{line}\r\n");
            }
            if self.tls.is_some() && call.tls.is_none() {
                text += "250-STARTTLS\r\n";
            }
            let announced = Announced(text.lines().skip(1).map(|line| line[4..].to_owned()).collect());
            text += "250 ENHANCEDSTATUSCODES\r\n";
            let (positive, open) = self.act(At::Ehlo, link, call, &text, side);
            call.announced = if positive { announced } else { Announced::default() };
            call.ready = positive;
            open
        } else if upper.starts_with("STARTTLS") {
            self.start_tls(link, call, side)
        } else if upper.starts_with("HELO") && !self.lmtp {
            self.say(link, call, b"250 hop\r\n".to_vec(), side)
        } else if upper.starts_with("MAIL FROM:") {
            if call.in_mail {
                self.complaints.push(format!("a transaction is open, and not ended by RSET: {line}"));
                return self.say(link, call, b"503 5.5.1 nested MAIL\r\n".to_vec(), side);
            }
            // One may be on its way, behind a final dot; or those of a flight.
            let flight = if call.announced.announces("CHUNKING") { limits::FLIGHT_TRANSACTIONS as u32 } else { 0 };
            if call.ended_at.is_some_and(|mails| call.mails > mails + flight) {
                self.complaints.push(format!("421 was said long ago: {line}"));
            }
            self.check_parameters(call, line);
            call.mail_at = side.now().mono;
            call.mail_piece = call.pieces;
            call.said = vec![line.to_owned()];
            if call.announced.limit("MAILMAX").is_some_and(|most| call.mails as usize >= most) {
                self.complaints.push(format!("more than MAILMAX: {line}"));
            }
            let parameters = line.rsplit('>').next().unwrap_or_default();
            call.eight_bit = parameters.contains("BODY=8BITMIME");
            call.size = parameters.split_once("SIZE=").and_then(|(_, n)| n.split(' ').next()?.parse().ok());
            call.mails += 1;
            self.most_mails = self.most_mails.max(call.mails);
            call.sender = address(line);
            call.recipients.clear();
            if self.guard.as_ref().is_some_and(|guard| !guard.borrow_mut().begin(call.from, side.now().mono)) {
                side.mark("next hop: 450, more messages than its site takes");
                let text = "450 4.7.1 too many messages\r\n";
                self.refuse(link, call, (At::Mail, None), text, side);
                return self.say(link, call, text.as_bytes().to_vec(), side);
            }
            let set = |at: At| self.mood.acts.iter().any(|(of, _, _)| *of == at);
            let at = if call.mails > 1 && set(At::MailAgain) && !set(At::Mail) { At::MailAgain } else { At::Mail };
            let (positive, open) = self.act(at, link, call, "250 2.1.0 ok\r\n", side);
            call.in_mail = positive;
            open
        } else if upper.starts_with("RCPT TO:") {
            self.check_parameters(call, line);
            call.said.push(line.to_owned());
            if call.announced.limit("RCPTMAX").is_some_and(|most| call.said.len() > most + 1) {
                self.complaints.push(format!("more than RCPTMAX: {line}"));
            }
            self.rcpt(link, call, address(line), side)
        } else if let Some(octets) = line.strip_prefix("BDAT ").and_then(|rest| rest.strip_suffix(" LAST")) {
            self.bdat(call, line, octets, side);
            true
        } else if upper.starts_with("DATA") {
            if call.recipients.is_empty() {
                return self.say(link, call, b"503 5.5.1 no recipients\r\n".to_vec(), side);
            }
            let act = self.choose(At::Data, side);
            if let Some(Act::Say(text) | Act::SayAndClose(text)) = &act {
                for to in call.recipients.clone() {
                    self.refuse(link, call, (At::Data, Some(to)), text, side);
                }
            }
            let in_data = act.is_none();
            let (_, open) = self.perform(act, link, call, "354 go on\r\n", side);
            call.in_data = in_data;
            open
        } else if upper.starts_with("RSET") {
            call.in_mail = false;
            call.recipients.clear();
            self.say(link, call, b"250 2.0.0 ok\r\n".to_vec(), side)
        } else if upper.starts_with("QUIT") {
            // Not a refusal, whatever it says: no mail is under way.
            match self.choose(At::Quit, side) {
                Some(act) => self.perform(Some(act), link, call, "", side).1,
                None => {
                    self.say(link, call, b"221 2.0.0 bye\r\n".to_vec(), side);
                    self.end(link, call, side)
                }
            }
        } else {
            self.say(link, call, b"500 5.5.2 what?\r\n".to_vec(), side)
        }
    }

    /// The octets come whatever it says (RFC 3030 §2).
    fn bdat(&mut self, call: &mut Call, line: &str, octets: &str, side: &mut HostSide<'_>) {
        let nobody = call.recipients.is_empty();
        let (chunking, pipelining) = (call.announced.announces("CHUNKING"), call.announced.announces("PIPELINING"));
        if !chunking || nobody && !pipelining {
            self.complaints.push(format!("nobody is to get this, or no CHUNKING: {line}"));
        }
        // Mail, envelope and text in one piece: a flight, which not everybody bears.
        let grounded = self.grounded && call.mail_piece == call.pieces;
        let what = match (nobody, grounded) {
            (true, _) => "BDAT to nobody",
            (_, true) => "BDAT in a flight, and bears none",
            _ if pipelining => "BDAT",
            _ => "BDAT without pipelining",
        };
        side.mark(format!("next hop: {what}"));
        call.chunk = octets.parse().ok().map(|octets| (octets, !nobody && !grounded));
    }

    /// The octets of a BDAT that is not taken have come.
    fn dropped(&mut self, link: LinkId, call: &mut Call, side: &mut HostSide<'_>) -> bool {
        let for_nobody = call.in_mail && call.recipients.is_empty();
        if for_nobody && side.rng().one_in(3) {
            call.in_mail = false;
            return self.say(link, call, b"250 2.0.0 taken, for nobody\r\n".to_vec(), side);
        }
        call.in_mail &= side.rng().one_in(2);
        call.recipients.clear();
        self.say(link, call, b"503 5.5.1 out of sequence\r\n".to_vec(), side)
    }

    fn rcpt(&mut self, link: LinkId, call: &mut Call, to: String, side: &mut HostSide<'_>) -> bool {
        if !call.in_mail {
            return self.say(link, call, b"503 5.5.1 no MAIL\r\n".to_vec(), side);
        }
        let now = side.now().mono;
        let unknown = name_number(&to) % 1000 < u64::from(self.mood.unknown_permille);
        let first = *self.first_seen.entry(to.clone()).or_insert(now);
        if unknown || self.mood.greylist.is_some_and(|time| now < first + time) {
            let reply = if unknown { "550 5.1.1 no such user\r\n" } else { "451 4.7.1 greylisted\r\n" };
            self.refuse(link, call, (At::Rcpt, Some(to)), reply, side);
            return self.say(link, call, reply.as_bytes().to_vec(), side);
        }
        let next = self.mood.rcpt.get_mut(&to).and_then(VecDeque::pop_front);
        let act = next.map(Act::Say).or_else(|| self.choose(At::Rcpt, side));
        if let Some(Act::Say(text) | Act::SayAndClose(text)) = &act {
            self.refuse(link, call, (At::Rcpt, Some(to.clone())), text, side);
        }
        let (positive, open) = self.perform(act, link, call, "250 2.1.5 ok\r\n", side);
        if positive {
            call.recipients.push(to);
        }
        open
    }

    fn refuse(
        &mut self,
        link: LinkId,
        call: &mut Call,
        (stage, recipient): (At, Option<String>),
        text: &str,
        side: &mut HostSide<'_>,
    ) {
        // Behind 421 a client need not listen.
        let heard = call.ended_at.is_none() && !call.garbled;
        if text.starts_with("421") {
            call.ended_at.get_or_insert(call.mails - u32::from(call.in_mail));
        }
        if text.starts_with(['4', '5']) {
            self.refusals.push(Refusal {
                at: side.now().mono,
                recipient,
                permanent: text.starts_with('5'),
                transient: text.starts_with('4') && !text.starts_with("421"),
                link,
                stage,
                text: text.into(),
                secure: call.is_secure(),
                told: if heard { call.behind(text.len()) } else { u64::MAX },
            });
        }
    }

    fn choose(&self, at: At, side: &mut HostSide<'_>) -> Option<Act> {
        let mut acts = self.mood.acts.iter().filter(|(of, _, _)| *of == at);
        let (_, _, act) = acts.find(|(_, permille, _)| side.rng().permille(*permille))?;
        let what = match act {
            Act::Say(text) | Act::SayAndClose(text) => format!("{} {}", name(act), text.get(..3).unwrap_or(text)),
            other => name(other),
        };
        side.mark(format!("next hop at {at:?}: {what}"));
        Some(act.clone())
    }

    /// Answers by its mood, or with `usual`: whether positively, and whether the connection stands.
    fn act(&mut self, at: At, link: LinkId, call: &mut Call, usual: &str, side: &mut HostSide<'_>) -> (bool, bool) {
        let act = self.choose(at, side);
        if let Some(Act::Say(text) | Act::SayAndClose(text)) = &act {
            self.refuse(link, call, (at, None), text, side);
        }
        self.perform(act, link, call, usual, side)
    }

    fn perform(
        &mut self,
        act: Option<Act>,
        link: LinkId,
        call: &mut Call,
        usual: &str,
        side: &mut HostSide<'_>,
    ) -> (bool, bool) {
        match act {
            None => (true, self.say(link, call, usual.as_bytes().to_vec(), side)),
            Some(Act::Say(text)) => {
                let positive = text.starts_with(['2', '3']);
                (positive, self.say(link, call, text.into_bytes(), side))
            }
            Some(Act::SayAndClose(text)) => {
                self.say(link, call, text.into_bytes(), side);
                (false, self.end(link, call, side))
            }
            Some(Act::Close) => (false, self.end(link, call, side)),
            Some(Act::Reset) => {
                side.reset(link);
                (false, false)
            }
            Some(Act::Vanish) => {
                side.vanish(link);
                (false, false)
            }
            Some(Act::Silence) => {
                call.mute = true;
                (false, true)
            }
            Some(Act::Garbage) => {
                call.garbled = true;
                let length = side.rng().within(1..3000);
                // No digit: by chance it would be a reply.
                let bytes = (0..length).map(|_| side.rng().next().to_le_bytes()[0]).map(|b| match b {
                    b'0'..=b'9' => b'\n',
                    other => other,
                });
                let bytes = bytes.collect();
                (false, self.say(link, call, bytes, side))
            }
        }
    }

    fn say(&mut self, link: LinkId, call: &mut Call, bytes: Vec<u8>, side: &mut HostSide<'_>) -> bool {
        if self.mood.dribbles && bytes.len() < 200 && call.tls.is_none() {
            call.out.extend(bytes.chunks(1).map(|piece| Out::Bytes(piece.to_vec())));
        } else {
            call.out.push_back(Out::Bytes(bytes));
        }
        self.flush(link, call, side)
    }

    /// Our end closes the connection, behind what is to be said.
    fn end(&mut self, link: LinkId, call: &mut Call, side: &mut HostSide<'_>) -> bool {
        call.out.push_back(Out::Close);
        call.mute = true;
        self.flush(link, call, side)
    }

    fn flush(&mut self, link: LinkId, call: &mut Call, side: &mut HostSide<'_>) -> bool {
        if call.armed {
            return true;
        }
        if !self.mood.delay.is_zero() {
            call.armed = true;
            side.timer(self.mood.delay, link.0);
            return true;
        }
        while !call.out.is_empty() {
            if !self.send_one(link, call, side) {
                return false;
            }
        }
        true
    }

    fn send_next(&mut self, link: LinkId, call: &mut Call, side: &mut HostSide<'_>) -> bool {
        self.send_one(link, call, side) && (call.out.is_empty() || self.flush(link, call, side))
    }

    fn send_one(&mut self, link: LinkId, call: &mut Call, side: &mut HostSide<'_>) -> bool {
        let (bytes, index) = match call.out.pop_front() {
            Some(Out::Bytes(bytes)) => (call.seal(bytes), None),
            Some(Out::Raw(bytes)) => (bytes, None),
            Some(Out::Taken(index, bytes)) => (call.seal(bytes), Some(index)),
            Some(Out::Close) => {
                side.close(link);
                return false;
            }
            None => return true,
        };
        side.write(link, &bytes);
        call.written += bytes.len() as u64;
        if let Some(index) = index.filter(|_| !call.garbled && call.ended_at.is_none()) {
            let received = &mut self.received[index];
            (received.told, received.told_at) = (Some(call.written), side.now().mono);
        }
        true
    }
}

/// What stands behind `X-Test:` in the header of `data`.
pub fn mark_of(data: &[u8]) -> Option<u32> {
    let head = &data[..data.len().min(4096)];
    let head = &head[..memchr::memmem::find(head, b"\r\n\r\n").unwrap_or(head.len())];
    let at = memchr::memmem::find(head, b"X-Test: ")? + 8;
    let digits = head[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&head[at..at + digits]).ok()?.parse().ok()
}

fn address(line: &str) -> String {
    let start = line.find('<').map_or(0, |at| at + 1);
    line[start..].split('>').next().unwrap_or_default().to_owned()
}
