//! A tenant that sends its letters at the hours it has, over some sessions that it keeps, and again what was not
//! acknowledged.
//!
//! Inputs: what the relay says, a tick a second. Outputs: letters, and acknowledgements for the [`Book`]. It refuses to give
//! up.

use super::book::Book;
use super::letter;
use super::town::{TENANTS, Tenant, Town};
use crate::message::MessageId;
use crate::rt::sim::{Host, HostEvent, HostSide, LinkId};
use base64::prelude::{BASE64_STANDARD, Engine};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Letters in one flight.
const FLIGHT: usize = 10;
/// The token of the tick; others are of sessions.
const TICK: u64 = 0;
const SECOND: Duration = Duration::from_secs(1);

/// See the module.
pub struct Sender {
    tenant: u8,
    town: Rc<Town>,
    book: Book,
    /// Of an hour's weight: letters a second.
    scale: f64,
    owed: f64,
    waiting: VecDeque<u32>,
    sessions: BTreeMap<LinkId, Session>,
    /// It has ticked for so long.
    ticks: u64,
    /// It writes nothing new any more.
    over: bool,
}

#[derive(Default)]
struct Session {
    input: Vec<u8>,
    phase: Phase,
    /// Letters whose replies have not all come, in order.
    flight: VecDeque<u32>,
    /// Replies to the first of them so far.
    replies: u8,
    refused: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Greeting,
    Hello,
    Auth,
    Ready,
    /// It comes to nothing: to be tried again a second later.
    Over,
}

impl Sender {
    /// Tenant number `tenant`; begins with [`Sender::start`].
    pub fn new(tenant: u8, town: Rc<Town>, book: Book) -> Sender {
        let Tenant { curve, percent, .. } = TENANTS[usize::from(tenant)];
        // The sum over the day's minutes, as weights of seconds.
        let sum: f64 = (0..1440).map(|minute| curve(f64::from(minute) / 60.0)).sum::<f64>() / 1440.0;
        let seconds = town.plan.length().as_secs_f64();
        let scale = town.plan.own_messages() as f64 * percent / 100.0 / (sum * seconds);
        Sender {
            tenant,
            town,
            book,
            scale,
            owed: 0.0,
            waiting: VecDeque::new(),
            sessions: BTreeMap::new(),
            ticks: 0,
            over: false,
        }
    }

    /// The first tick.
    pub fn start(&mut self, side: &mut HostSide<'_>) {
        side.timer(SECOND, TICK);
    }

    /// It writes no new letters from now on.
    pub fn stop(&mut self) {
        self.over = true;
    }

    /// Letters written and not acknowledged.
    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.sessions.values().map(|session| session.flight.len()).sum::<usize>()
    }

    fn tick(&mut self, side: &mut HostSide<'_>) {
        side.timer(SECOND, TICK);
        self.ticks += 1;
        let hour = self.ticks as f64 / self.town.plan.hour(1.0).as_secs_f64();
        if !self.over && hour < 24.0 {
            let expected = (TENANTS[usize::from(self.tenant)].curve)(hour) * self.scale;
            // Now more, now less.
            self.owed += expected * (0.5 + side.rng().below(1001) as f64 / 1000.0);
        }
        while self.owed >= 1.0 {
            self.owed -= 1.0;
            let domain = self.town.any_domain(side.rng());
            let site = self.town.domains[domain as usize].site;
            self.waiting.push_back(self.book.write(|book| book.begin(self.tenant, domain, site)));
        }
        self.sessions.retain(|_, session| session.phase != Phase::Over);
        let links: Vec<LinkId> = self.sessions.keys().copied().collect();
        for link in links {
            self.send(link, side);
        }
        let wanted = self.waiting.len().div_ceil(FLIGHT).min(TENANTS[usize::from(self.tenant)].sessions);
        for _ in self.sessions.len()..wanted {
            let link = side.connect(0);
            self.sessions.insert(link, Session::default());
        }
    }

    fn send(&mut self, link: LinkId, side: &mut HostSide<'_>) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        if session.phase != Phase::Ready || !session.flight.is_empty() || self.waiting.is_empty() {
            return;
        }
        let by_data = TENANTS[usize::from(self.tenant)].by_data;
        let mut out = Vec::new();
        for _ in 0..if by_data { 1 } else { FLIGHT } {
            let Some(mark) = self.waiting.pop_front() else { break };
            let domain = self.book.write(|book| {
                let letter = &mut book.letters[mark as usize];
                letter.tries = letter.tries.saturating_add(1);
                letter.domain
            });
            letter::write(mark, self.tenant, domain, &self.town, &mut out);
            session.flight.push_back(mark);
        }
        (session.replies, session.refused) = (0, false);
        side.write(link, &out);
    }

    fn reply(&mut self, link: LinkId, line: &[u8], side: &mut HostSide<'_>) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        let positive = matches!(line.first(), Some(b'2' | b'3'));
        let name = TENANTS[usize::from(self.tenant)].name;
        match session.phase {
            _ if line.starts_with(b"421") => self.lost(link, side),
            Phase::Greeting => {
                session.phase = Phase::Hello;
                side.write(link, format!("EHLO {name}.test\r\n").as_bytes());
            }
            Phase::Hello => {
                session.phase = Phase::Auth;
                let proof = BASE64_STANDARD.encode(format!("\0{name}\0pencil"));
                side.write(link, format!("AUTH PLAIN {proof}\r\n").as_bytes());
            }
            Phase::Auth if positive => {
                session.phase = Phase::Ready;
                self.send(link, side);
            }
            Phase::Auth => self.lost(link, side),
            Phase::Ready => self.progress(link, line, positive, side),
            Phase::Over => {}
        }
    }

    /// A reply to the first letter of the flight: to MAIL, RCPT, DATA if that was said, and to the text.
    fn progress(&mut self, link: LinkId, line: &[u8], positive: bool, side: &mut HostSide<'_>) {
        let tenant = &TENANTS[usize::from(self.tenant)];
        let Some(session) = self.sessions.get_mut(&link) else { return };
        let Some(&mark) = session.flight.front() else { return };
        session.replies += 1;
        session.refused |= !positive;
        let last = if tenant.by_data { 4 } else { 3 };
        if tenant.by_data && session.replies == 3 {
            if positive {
                let domain = self.book.read(|book| book.letters[mark as usize].domain);
                let to = &self.town.domains[domain as usize].name;
                let mut text = letter::text(mark, tenant.name, letter::user(mark, domain), to);
                text.extend_from_slice(b".\r\n");
                side.write(link, &text);
                return;
            }
            session.replies = last;
        }
        if session.replies < last {
            return;
        }
        session.flight.pop_front();
        session.replies = 0;
        if std::mem::take(&mut session.refused) {
            self.waiting.push_back(mark);
            self.book.write(|book| book.put_off += 1);
        } else {
            let id = line.strip_prefix(b"250 2.0.0 ").and_then(|rest| rest.strip_suffix(b" queued"));
            let id = id.and_then(|id| std::str::from_utf8(id).ok()?.parse::<MessageId>().ok());
            let now = side.now().mono;
            self.book.write(|book| match id {
                Some(id) => book.acknowledge(mark, id, now),
                None => book.violate(format!("not a reply to a letter: {}", line.escape_ascii())),
            });
        }
        self.send(link, side);
    }

    /// Nothing more comes of a session; a new one may be made with the next tick.
    fn lost(&mut self, link: LinkId, side: &mut HostSide<'_>) {
        side.close(link);
        if let Some(session) = self.sessions.get_mut(&link) {
            self.waiting.extend(session.flight.drain(..));
            session.phase = Phase::Over;
        }
    }
}

impl Host for Sender {
    fn listens(&self, _: u16) -> bool {
        false
    }

    fn handle(&mut self, event: HostEvent<'_>, side: &mut HostSide<'_>) {
        match event {
            HostEvent::Timer { .. } => self.tick(side),
            HostEvent::Received { link, bytes } => {
                let Some(session) = self.sessions.get_mut(&link) else { return };
                let mut input = std::mem::take(&mut session.input);
                input.extend_from_slice(bytes);
                let mut from = 0;
                while let Some(at) = memchr::memmem::find(&input[from..], b"\r\n") {
                    let line = &input[from..from + at];
                    // The last of a reply's lines.
                    if line.get(3) != Some(&b'-') {
                        self.reply(link, line, side);
                    }
                    from += at + 2;
                }
                input.drain(..from);
                if let Some(session) = self.sessions.get_mut(&link) {
                    session.input = input;
                }
            }
            HostEvent::Ended { link } | HostEvent::Failed { link } => self.lost(link, side),
            _ => {}
        }
    }
}
