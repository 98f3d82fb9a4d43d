//! A host that takes the day's mail: a lean SMTP server, with what its site allows and how it is at this hour.
//!
//! Inputs: what the relay sends, a [`Manner`] that all hosts of a site share. Outputs: replies, deliveries for the [`Book`].
//! It enforces what its site allows: 421 to one connection too many, 450 to one message too many. Refuses to keep a letter:
//! it looks whether it is whole, and forgets it.

use super::book::{Book, MIDNIGHT};
use super::letter;
use super::town::{Allowed, GREYLISTING, TENANTS, Town};
use crate::rt::sim::rng::mix;
use crate::rt::sim::{Host, HostEvent, HostSide, LinkId};
use crate::time::Moment;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// A letter that is greylisted is taken so much later.
const GREY: Duration = Duration::from_secs(280);
/// Two messages that the relay begins in their distance may arrive nearer to each other, by what their ways differ.
const JITTER: Duration = Duration::from_millis(20);

/// How a site is, and what it counts. All its hosts share it.
#[derive(Default)]
pub struct Manner {
    /// Its number.
    pub site: u16,
    /// What it allows.
    pub allowed: Allowed,
    /// It takes BDAT.
    pub chunking: bool,
    /// 421 is the greeting.
    pub closed: bool,
    /// Each reply comes so late.
    pub delay: Duration,
    /// Connections that stand.
    pub open: u32,
    /// The most connections that stood.
    pub peak: u32,
    /// Connections that came.
    pub connects: u64,
    /// Connections refused because there were too many.
    pub refused_connections: u64,
    /// Messages refused because there were too many.
    pub refused_messages: u64,
    /// Connections that stood, times nanoseconds, until `since`.
    pub busy: u128,
    since: Moment,
    /// When the next message would come if all came evenly.
    due: Moment,
    first_seen: BTreeMap<u64, Moment>,
}

impl Manner {
    /// Of a site that nobody has mailed yet.
    pub fn new(site: u16, allowed: Allowed, chunking: bool) -> Manner {
        Manner { site, allowed, chunking, since: MIDNIGHT, ..Manner::default() }
    }

    /// Whether a message is within the rate (GCRA), but for what its way may have taken less than others'.
    fn admit(&mut self, now: Moment) -> bool {
        let Some(rate) = self.allowed.rate else { return true };
        let free = self.due - rate.interval() * (rate.burst() - 1) <= now + JITTER;
        if free {
            self.due = self.due.max(now) + rate.interval();
        }
        free
    }

    fn count(&mut self, by: i32, now: Moment) {
        self.busy += u128::from(self.open) * u128::from(now.0 - self.since.0);
        self.since = now;
        self.open = self.open.saturating_add_signed(by);
        self.peak = self.peak.max(self.open);
    }
}

/// See the module.
pub struct Receiver {
    manner: Rc<RefCell<Manner>>,
    book: Book,
    town: Rc<Town>,
    /// It is the senders' own: what comes here are notifications.
    home: bool,
    calls: BTreeMap<LinkId, Call>,
}

#[derive(Default)]
struct Call {
    input: Vec<u8>,
    /// It was not refused at once.
    counted: bool,
    mark: Option<u32>,
    /// The recipient was taken.
    taken: bool,
    in_data: bool,
    chunk: Option<usize>,
    later: VecDeque<Vec<u8>>,
    /// The connection is to be closed behind what is said.
    ending: bool,
}

impl Receiver {
    /// A host of a site.
    pub fn new(manner: Rc<RefCell<Manner>>, book: Book, town: Rc<Town>, home: bool) -> Receiver {
        Receiver { manner, book, town, home, calls: BTreeMap::new() }
    }

    fn gone(&mut self, link: LinkId, now: Moment) {
        if self.calls.remove(&link).is_some_and(|call| call.counted) {
            self.manner.borrow_mut().count(-1, now);
        }
    }

    fn greet(&mut self, link: LinkId, side: &mut HostSide<'_>) {
        let manner = &mut *self.manner.borrow_mut();
        manner.connects += 1;
        let mut call = Call::default();
        let full = manner.allowed.connections.is_some_and(|most| manner.open >= most);
        let reply: &[u8] = match (manner.closed, full) {
            (true, _) => b"421 4.3.2 not now\r\n",
            (false, true) => {
                manner.refused_connections += 1;
                b"421 4.7.0 too many connections\r\n"
            }
            (false, false) => {
                call.counted = true;
                manner.count(1, side.now().mono);
                b"220 ESMTP\r\n"
            }
        };
        call.ending = !call.counted;
        say(link, &mut call, reply.to_vec(), manner.delay, side);
        if !call.counted && manner.delay.is_zero() {
            side.close(link);
        } else {
            self.calls.insert(link, call);
        }
    }

    fn work(&mut self, link: LinkId, bytes: &[u8], side: &mut HostSide<'_>) {
        let Some(mut call) = self.calls.remove(&link) else { return };
        let mut input = std::mem::take(&mut call.input);
        input.extend_from_slice(bytes);
        let (mut from, mut out) = (0, Vec::new());
        while !call.ending {
            let rest = &input[from..];
            if call.in_data {
                let end = if rest.starts_with(b".\r\n") {
                    Some(3)
                } else {
                    memchr::memmem::find(rest, b"\r\n.\r\n").map(|at| at + 5)
                };
                let Some(end) = end else { break };
                call.in_data = false;
                self.complete(&mut call, &rest[..end], true, side, &mut out);
                from += end;
            } else if let Some(octets) = call.chunk {
                if rest.len() < octets {
                    break;
                }
                call.chunk = None;
                self.complete(&mut call, &rest[..octets], false, side, &mut out);
                from += octets;
            } else {
                let Some(end) = memchr::memmem::find(rest, b"\r\n") else { break };
                self.command(&mut call, &rest[..end], side, &mut out);
                from += end + 2;
            }
        }
        input.drain(..from);
        call.input = input;
        let delay = self.manner.borrow().delay;
        if !out.is_empty() {
            say(link, &mut call, out, delay, side);
        }
        if call.ending && call.later.is_empty() {
            side.close(link);
            self.calls.insert(link, call);
            self.gone(link, side.now().mono);
        } else {
            self.calls.insert(link, call);
        }
    }

    fn command(&mut self, call: &mut Call, line: &[u8], side: &mut HostSide<'_>, out: &mut Vec<u8>) {
        let verb = line.get(..4).unwrap_or(line);
        let reply: &[u8] = match verb {
            b"EHLO" if self.manner.borrow().chunking => {
                b"250-host\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 8BITMIME\r\n"
            }
            b"EHLO" => b"250-host\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
            b"MAIL" => {
                (call.mark, call.taken) = (letter::mark_in(line), false);
                let manner = &mut *self.manner.borrow_mut();
                if manner.admit(side.now().mono) {
                    b"250 2.1.0 ok\r\n"
                } else {
                    call.mark = None;
                    manner.refused_messages += 1;
                    b"450 4.7.1 too many messages, slow down\r\n"
                }
            }
            b"RCPT" => self.recipient(call, line, side),
            b"DATA" if call.taken => {
                call.in_data = true;
                b"354 go on\r\n"
            }
            b"BDAT" => {
                let words = line[5..].split(|byte| *byte == b' ').next().unwrap_or_default();
                call.chunk = std::str::from_utf8(words).ok().and_then(|octets| octets.parse().ok());
                b""
            }
            b"DATA" => b"503 5.5.1 no recipients\r\n",
            b"RSET" => {
                (call.mark, call.taken) = (None, false);
                b"250 2.0.0 ok\r\n"
            }
            b"QUIT" => {
                call.ending = true;
                b"221 2.0.0 bye\r\n"
            }
            _ => b"500 5.5.2 what?\r\n",
        };
        out.extend_from_slice(reply);
    }

    fn recipient(&mut self, call: &mut Call, line: &[u8], side: &mut HostSide<'_>) -> &'static [u8] {
        if self.home {
            call.mark = letter::mark_in(line);
            call.taken = true;
            return b"250 2.1.5 ok\r\n";
        }
        let Some(mark) = call.mark else { return b"503 5.5.1 no MAIL\r\n" };
        let Some((domain, tenant)) =
            self.book.read(|book| book.letters.get(mark as usize).map(|l| (l.domain, l.tenant)))
        else {
            self.book.write(|book| book.violate(format!("a letter that nobody wrote: {mark}")));
            return b"550 5.1.1 what is that?\r\n";
        };
        let manner = &mut *self.manner.borrow_mut();
        let expected = format!("RCPT TO:<u{}@{}>", letter::user(mark, domain), self.town.domains[domain as usize].name);
        if !line.starts_with(expected.as_bytes()) || self.town.domains[domain as usize].site != manner.site {
            let line = String::from_utf8_lossy(line).into_owned();
            self.book.write(|book| book.violate(format!("letter {mark} came to site {} as {line}", manner.site)));
        }
        let user = mix(u64::from(domain) << 32 | letter::user(mark, domain));
        let now = side.now().mono;
        match user % 2000 {
            0..20 => return b"550 5.1.1 no such user\r\n",
            20..24 => return b"552 5.2.2 mailbox full\r\n",
            // Full until its owner looks: at noon, or in the evening.
            24..27 if now < MIDNIGHT + self.town.plan.hour(if user & 1 << 40 == 0 { 12.0 } else { 18.0 }) => {
                return b"452 4.2.2 mailbox full\r\n";
            }
            _ => {}
        }
        if manner.site == GREYLISTING {
            let who = mix(user ^ ((TENANTS.len() as u64 * u64::from(tenant)) << 7));
            if now < *manner.first_seen.entry(who).or_insert(now) + GREY {
                return b"451 4.7.1 greylisted\r\n";
            }
        }
        call.taken = true;
        b"250 2.1.5 ok\r\n"
    }

    fn complete(&mut self, call: &mut Call, text: &[u8], dot: bool, side: &mut HostSide<'_>, out: &mut Vec<u8>) {
        let Some(mark) = call.mark.filter(|_| std::mem::take(&mut call.taken)) else {
            out.extend_from_slice(b"503 5.5.1 out of sequence\r\n");
            return;
        };
        let now = side.now().mono;
        if self.home {
            self.book.write(|book| book.give_back(mark, now));
        } else if letter::is_whole(mark, text, dot) {
            self.book.write(|book| book.deliver(mark, now));
        } else {
            self.book.write(|book| book.violate(format!("letter {mark} came with another text")));
        }
        out.extend_from_slice(b"250 2.0.0 taken\r\n");
    }
}

fn say(link: LinkId, call: &mut Call, bytes: Vec<u8>, delay: Duration, side: &mut HostSide<'_>) {
    if delay.is_zero() && call.later.is_empty() {
        side.write(link, &bytes);
    } else {
        call.later.push_back(bytes);
        side.timer(delay, link.0);
    }
}

impl Host for Receiver {
    fn listens(&self, port: u16) -> bool {
        port == 25
    }

    fn handle(&mut self, event: HostEvent<'_>, side: &mut HostSide<'_>) {
        match event {
            HostEvent::Accepted { link, .. } => self.greet(link, side),
            HostEvent::Received { link, bytes } => self.work(link, bytes, side),
            HostEvent::Timer { token } => {
                let link = LinkId(token);
                let Some(call) = self.calls.get_mut(&link) else { return };
                if let Some(bytes) = call.later.pop_front() {
                    side.write(link, &bytes);
                }
                if call.ending && call.later.is_empty() {
                    side.close(link);
                    self.gone(link, side.now().mono);
                }
            }
            HostEvent::Ended { link } => {
                side.close(link);
                self.gone(link, side.now().mono);
            }
            HostEvent::Failed { link } => self.gone(link, side.now().mono),
            _ => {}
        }
    }
}
