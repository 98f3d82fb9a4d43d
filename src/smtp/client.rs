//! PURE. The client machine: one connection to a mail exchanger, on which transactions follow one another (RFC 5321,
//! RFC 2920); or to an LMTP server, which answers for each recipient by itself (RFC 2033).
//!
//! In: the bytes the peer sent, the time, the driver's orders (`start`, `quit`). Out: what to send, in wire order, and
//! events: the outcome of each recipient and each transaction, and why the connection ended. Lives on the shard that
//! owns the connection.
//!
//! It refuses to read a clock, to hold a message body (the driver sends it, when asked), to decide what an outcome
//! means for the queue, and to believe a peer that sends what is no reply.

mod auth;
mod envelope;
mod event;
mod flight;
mod lmtp;
mod settings;
mod tls;

pub use envelope::{By, MailParams, Rcpt};
pub use event::{Awaited, ClientEvent, CloseReason, Outcome, RefusedAt, Transmit};
pub use settings::{ClientTimeouts, TlsFacts, TlsWish};

use super::extensions::Capabilities;
use super::reply::{Reply, ReplyParser};
use crate::limits;
use crate::time::Moment;
use auth::Auth;
use event::{Events, Stored, StoredReason};
use flight::{Carriage, PendingBody, Stage, Transaction, UnderWay};
use lmtp::Lmtp;
use memchr::memchr;
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::Arc;

/// Where the connection is. All transitions are in this file, below "transitions".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    Ehlo,
    Helo,
    /// STARTTLS was said.
    StartTls,
    /// It was answered with 220: the driver and the peer make TLS.
    Handshake,
    /// AUTH was said, or a line that answers a challenge.
    Auth,
    /// Idle if no transaction is under way.
    Ready,
    Quit,
    Closed,
}

/// One connection. Four kinds of method: getters; `handle_*` takes bytes, a timeout, the peer's close; `start`, `quit`,
/// `body_progress`, `body_sent` and `transmitted` are commands; `poll_*` gives what to send, the timer, the events.
///
/// The driver's turn, whenever something happened:
///
/// ```text
/// client.handle_input(&bytes, now);                    // or handle_timeout, handle_closed
/// while let Some(event) = client.poll_event() { ... }  // on Ready and Finished: if can_start(), start(...)
/// while let Some(t) = client.poll_transmit() {
///     match t { Commands(range) => iov.push(range), Body { token } => { iov.push(body); client.body_sent(token, now) } }
/// }
/// writev(iov)                                          // commands, body, the next envelope: one system call
/// client.transmitted();                                // what the transport did not take, the driver copied
/// arm a timer for poll_timeout()
/// ```
///
/// A body that is streamed is sent piece by piece with `body_progress`, and `body_sent` is called with its last piece.
///
/// Lives on the shard that owns the connection.
#[derive(Debug)]
pub struct Client {
    ehlo_name: Arc<str>,
    /// One for all connections: it stays in the cache.
    timeouts: Arc<ClientTimeouts>,
    phase: Phase,
    tls_wish: TlsWish,
    tls: Option<TlsFacts>,
    /// The handshake comes before the greeting.
    implicit_tls: bool,
    /// Who we are here, until the peer believes it.
    auth: Option<Box<Auth>>,
    /// The peer speaks LMTP.
    lmtp: Option<Lmtp>,
    capabilities: Capabilities,
    /// Transactions so far, for the peer's limit.
    mails: u32,
    under_way: UnderWay,
    needs_reset: bool,
    quit_wanted: bool,
    /// Commands that may be sent now.
    out: Vec<u8>,
    /// How much of `out` was polled.
    polled: usize,
    /// In the order of the wire.
    bodies: SmallVec<[PendingBody; 1]>,
    /// Without PIPELINING: the lines of the transaction that wait for a reply first.
    held: Vec<u8>,
    held_at: usize,
    parser: ReplyParser,
    events: Events,
    deadline: Moment,
}

impl Client {
    /// A connection that has just been established. `ehlo_name` is our domain name or address literal.
    pub fn new(ehlo_name: Arc<str>, timeouts: impl Into<Arc<ClientTimeouts>>, now: Moment) -> Self {
        let timeouts = timeouts.into();
        Client {
            ehlo_name,
            deadline: now + timeouts.greeting,
            timeouts,
            phase: Phase::Greeting,
            tls_wish: TlsWish::Never,
            tls: None,
            implicit_tls: false,
            auth: None,
            lmtp: None,
            capabilities: Capabilities::default(),
            mails: 0,
            under_way: UnderWay::default(),
            needs_reset: false,
            quit_wanted: false,
            out: Vec::new(),
            polled: 0,
            bodies: SmallVec::new(),
            held: Vec::new(),
            held_at: 0,
            parser: ReplyParser::default(),
            events: Events::default(),
        }
    }

    // --- getters --------------------------------------------------------------------------------------------------

    /// What the peer announced; nothing before Ready or behind HELO.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// The TLS layer, if there is one.
    pub fn tls(&self) -> Option<TlsFacts> {
        self.tls
    }

    /// Whether the peer takes no further transaction on this connection: its MAILMAX is reached (RFC 9422 §4.1).
    pub fn is_spent(&self) -> bool {
        self.capabilities.limits.transactions.is_some_and(|most| self.mails >= most)
    }

    /// Whether [`start`](Self::start) may be called: the connection is idle; or the peer announced PIPELINING, and the last
    /// transaction waits for nothing but the reply to its final dot (RFC 2920 §3.1) or is in a flight that has room.
    pub fn can_start(&self) -> bool {
        self.phase == Phase::Ready
            && !self.quit_wanted
            && !self.is_spent()
            && (self.under_way.is_empty() || self.capabilities.pipelining && self.under_way.has_room())
    }

    /// Ready, with no transaction.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Ready && self.under_way.is_empty()
    }

    /// Nothing works any more.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// The bytes of [`Transmit::Commands`]; valid until [`transmitted`](Self::transmitted).
    pub fn commands(&self, range: Range<usize>) -> &[u8] {
        &self.out[range]
    }

    /// What the timer watches.
    pub fn awaited(&self) -> Awaited {
        match (self.phase, self.under_way.first()) {
            (Phase::Greeting, _) => Awaited::Greeting,
            (Phase::Ehlo | Phase::Helo | Phase::StartTls | Phase::Auth | Phase::Quit, _) => Awaited::Command,
            (Phase::Handshake, _) => Awaited::Handshake,
            (Phase::Closed, _) | (Phase::Ready, None) => Awaited::Nothing,
            (Phase::Ready, Some(t)) => match t.stage {
                Stage::Reset => Awaited::Command,
                Stage::Mail | Stage::Rcpt => Awaited::Envelope,
                Stage::Data => Awaited::DataInitiation,
                Stage::Final if t.body_sent => Awaited::DataTermination,
                Stage::Final => Awaited::DataBlock,
            },
        }
    }

    /// Whether [`poll_event`](Self::poll_event) has something: also right after [`start`](Self::start), which may refuse a
    /// message by itself.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The 421 by which the peer has ended the connection, while its event waits: what was under way is lost for its sake.
    pub fn parting(&self) -> Option<Reply<'_>> {
        self.events.parting()
    }

    /// Bytes of commands, bytes of a reply that is not complete, events not taken, bytes of their texts.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn sizes(&self) -> [usize; 4] {
        let [events, texts] = self.events.sizes();
        [self.out.len() + self.held.len(), self.parser.size(), events, texts]
    }

    // --- handle ---------------------------------------------------------------------------------------------------

    /// Takes all of `bytes`.
    pub fn handle_input(&mut self, mut bytes: &[u8], now: Moment) {
        let mut parser = std::mem::take(&mut self.parser);
        while self.phase != Phase::Closed {
            if self.phase == Phase::Handshake {
                if !bytes.is_empty() {
                    self.close(StoredReason::Injected);
                }
                break;
            }
            match parser.feed(&mut bytes) {
                Ok(true) => self.reply(parser.reply(), now),
                Ok(false) => break,
                Err(error) => self.close(StoredReason::NotSmtp(error)),
            }
        }
        self.parser = parser;
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come. Earlier: nothing.
    pub fn handle_timeout(&mut self, now: Moment) {
        if now >= self.deadline && self.phase != Phase::Closed {
            let awaited = self.awaited();
            self.close(if self.phase == Phase::Quit { StoredReason::Quit } else { StoredReason::Timeout(awaited) });
        }
    }

    /// The peer closed or reset the connection, or sending failed.
    pub fn handle_closed(&mut self) {
        match self.phase {
            Phase::Closed => {}
            Phase::Quit => self.close(StoredReason::Quit),
            Phase::Handshake => self.close(StoredReason::TlsFailed),
            _ => self.close(StoredReason::PeerClosed),
        }
    }

    /// Whether RSET goes in front of the next transaction.
    pub fn needs_reset(&self) -> bool {
        self.needs_reset
    }

    // --- commands -------------------------------------------------------------------------------------------------

    /// Begins a transaction. `sender` is empty for the null reverse-path; `recipients` are one at least, no more than the
    /// peer's limits allow, and all are addresses as the server machine accepted them. `token` names it in transmits and
    /// events. Whether its body goes without waiting for replies: in a flight.
    ///
    /// A message that the peer's announcements forbid is refused at once, by [`RefusedAt::Local`]: see [`MailParams`].
    ///
    /// # Panics
    /// If [`can_start`](Self::can_start) says no, or without recipients.
    pub fn start<'r, R: Into<Rcpt<'r>>>(
        &mut self,
        token: u64,
        sender: &[u8],
        recipients: impl IntoIterator<Item = R>,
        params: &MailParams<'_>,
        now: Moment,
    ) -> bool {
        assert!(self.can_start(), "the driver asks can_start first");
        if let Some(reply) = envelope::refusal(sender, params, &self.capabilities, self.tls) {
            return self.refuse_locally(token, reply);
        }
        let carriage = self.carriage(params);
        let begins_with_reset = self.needs_reset || self.under_way.is_behind_bdat() && !planted!(FlightNotReset);
        let peer = &self.capabilities;
        let pipelining = peer.pipelining;
        let lines = if pipelining { &mut self.out } else { &mut self.held };
        let beginning = lines.len();
        if begins_with_reset {
            lines.extend_from_slice(b"RSET\r\n");
        }
        envelope::write_mail(lines, sender, params, peer, self.tls);
        let mut count = 0;
        for recipient in recipients {
            envelope::write_rcpt(lines, &recipient.into(), peer);
            count += 1;
        }
        assert!(count > 0, "a transaction has a recipient");
        if params.smtputf8 && !peer.smtputf8 {
            let ascii = lines[beginning..].is_ascii();
            if !(ascii && params.ascii_headers) {
                lines.truncate(beginning);
                return self.refuse_locally(token, envelope::utf8_refusal(ascii));
            }
        }
        let mut octets = 0;
        match carriage {
            Carriage::Data => lines.extend_from_slice(b"DATA\r\n"),
            Carriage::Held(_) => {}
            Carriage::Flown => {
                envelope::write_bdat(lines, params.size);
                octets = (lines.len() - beginning) as u64 + params.size;
                self.bodies.push(PendingBody { token, at: self.out.len(), bare: true, polled: false });
            }
        }
        self.mails = self.mails.saturating_add(1);
        self.needs_reset = false;
        let is_first = self.under_way.is_empty();
        self.under_way.push(Transaction::new(token, count, carriage, begins_with_reset), octets);
        if is_first {
            if !pipelining {
                self.release();
            }
            self.watch(now);
        }
        carriage == Carriage::Flown
    }

    fn refuse_locally(&mut self, token: u64, reply: Reply<'_>) -> bool {
        let reply = self.events.store(reply);
        self.events.push(Stored::Refused(token, RefusedAt::Local, reply));
        false
    }

    /// The transport took another piece of the body: its timer starts again.
    pub fn body_progress(&mut self, now: Moment) {
        if self.awaited() == Awaited::DataBlock {
            self.watch(now);
        }
    }

    /// All of the body of `token`, its final dot included, was given to the transport (or stands in the same write,
    /// in front of what is polled next).
    pub fn body_sent(&mut self, token: u64, now: Moment) {
        if self.bodies.first().is_some_and(|b| b.token == token && b.polled) {
            self.bodies.remove(0);
            if let Some(t) = self.under_way.find(token) {
                t.body_sent = true;
            }
            if self.under_way.first().is_some_and(|t| t.token == token) {
                self.watch(now);
            }
        }
    }

    /// Ends the connection with QUIT, once the transactions that have started are over.
    pub fn quit(&mut self, now: Moment) {
        self.quit_wanted = true;
        if self.is_idle() {
            self.send_quit();
            self.watch(now);
        }
    }

    /// Everything polled so far was sent, or copied to be sent: its ranges are no longer valid.
    pub fn transmitted(&mut self) {
        if self.polled == self.out.len() {
            self.out.clear();
            self.out.shrink_to(limits::CLIENT_OUT_BYTES);
        } else {
            self.out.drain(..self.polled);
        }
        for body in &mut self.bodies {
            body.at -= self.polled;
        }
        self.polled = 0;
    }

    // --- poll -----------------------------------------------------------------------------------------------------

    /// The next thing to send, in wire order; `None`: nothing more for now.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let until = match self.bodies.first_mut() {
            Some(body) if self.polled == body.at => {
                let PendingBody { token, bare, .. } = *body;
                let transmit = if bare { Transmit::Chunk { token } } else { Transmit::Body { token } };
                return (!std::mem::replace(&mut body.polled, true)).then_some(transmit);
            }
            Some(body) => body.at,
            None => self.out.len(),
        };
        let range = self.polled..until;
        self.polled = until;
        (!range.is_empty()).then_some(Transmit::Commands(range))
    }

    /// When to call [`handle_timeout`](Self::handle_timeout); `None` while the peer owes nothing. How long a connection
    /// may stay idle is the pool's affair.
    pub fn poll_timeout(&self) -> Option<Moment> {
        (self.deadline != Moment::NEVER).then_some(self.deadline)
    }

    /// The next event, in the order things happened.
    pub fn poll_event(&mut self) -> Option<ClientEvent<'_>> {
        self.events.poll()
    }

    // --- transitions ----------------------------------------------------------------------------------------------

    fn reply(&mut self, reply: Reply<'_>, now: Moment) {
        match (self.phase, reply.code / 100) {
            (Phase::Closed, _) => return,
            (Phase::Quit, _) => self.close(StoredReason::Quit),
            (_, 4) if reply.code == 421 && !planted!(GoesOnAfter421) => self.shut_down(reply),
            (Phase::Greeting, 2) => self.say_ehlo(),
            (Phase::Ehlo, 2) => {
                self.capabilities = Capabilities::parse(reply.text);
                match self.tls_wish {
                    TlsWish::IfOffered | TlsWish::Require if self.tls.is_none() && self.capabilities.starttls => {
                        self.out.extend_from_slice(b"STARTTLS\r\n");
                        self.phase = Phase::StartTls;
                    }
                    TlsWish::Require if self.tls.is_none() => self.give_up(StoredReason::TlsNotOffered),
                    _ => self.ready(),
                }
            }
            // What HELO makes has no STARTTLS.
            (Phase::Ehlo, 5) if self.tls_wish == TlsWish::Require && self.tls.is_none() => {
                self.give_up(StoredReason::TlsNotOffered);
            }
            (Phase::StartTls, 2) => {
                self.phase = Phase::Handshake;
                self.events.push(Stored::StartTls);
            }
            (Phase::StartTls, 4 | 5) if self.tls_wish == TlsWish::Require => {
                let stored = self.events.store(reply);
                self.give_up(StoredReason::TlsRefused(stored));
            }
            // RFC 3207 §4.1: the client decides whether to go on.
            (Phase::StartTls, 4 | 5) => self.ready(),
            // RFC 5321 §3.2: an old server does not know EHLO. RFC 2033 has nothing but LHLO.
            (Phase::Ehlo, 5) if self.lmtp.is_none() => {
                self.out.extend_from_slice(b"HELO ");
                self.say_name();
                self.phase = Phase::Helo;
            }
            (Phase::Helo, 2) => self.ready(),
            (Phase::Auth, 2..=5) => self.auth_reply(reply),
            (Phase::Greeting | Phase::Ehlo | Phase::Helo, 4 | 5) => {
                // RFC 5321 §3.1: a server that greets with 554 waits for QUIT.
                let stored = self.events.store(reply);
                self.give_up(StoredReason::Refused(stored));
            }
            (Phase::Ready, class) => match self.under_way.take_first() {
                Some(transaction) => self.transaction_reply(transaction, class, reply),
                None => self.unexpected(reply),
            },
            _ => self.unexpected(reply),
        }
        self.watch(now);
    }

    /// A reply to the first transaction, which was taken out: it goes back in if replies to it are still due.
    fn transaction_reply(&mut self, mut t: Transaction, class: u16, reply: Reply<'_>) {
        let refused = matches!(class, 4 | 5);
        let pipelining = self.capabilities.pipelining;
        match (t.stage, class) {
            (Stage::Reset, 2) => t.stage = Stage::Mail,
            (Stage::Mail, 2) => {
                t.mail_accepted = true;
                t.stage = Stage::Rcpt;
            }
            (Stage::Mail, 4 | 5) => {
                self.refuse(&mut t, RefusedAt::Mail, reply);
                t.stage = Stage::Rcpt;
                if !pipelining {
                    return self.end(t);
                }
            }
            (Stage::Rcpt, 2 | 4 | 5) => {
                if !refused {
                    t.accepted += 1;
                    if let Some(lmtp) = &mut self.lmtp {
                        lmtp.accepted(t.answered);
                    }
                } else if !t.finished {
                    let stored = self.events.store(reply);
                    self.events.push(Stored::Recipient(t.token, t.answered, stored));
                }
                t.answered += 1;
                if t.answered == t.recipients {
                    t.stage = match t.carriage {
                        Carriage::Held(octets) => return self.send_held(t, octets, reply),
                        Carriage::Flown => Stage::Final,
                        Carriage::Data => Stage::Data,
                    };
                    if t.accepted == 0 {
                        self.refuse(&mut t, RefusedAt::Recipients, reply);
                        if !pipelining {
                            return self.end(t);
                        }
                    }
                }
            }
            // Who answers the final dot if there is no recipient? RFC 2033 §4.2 has 503 here.
            (Stage::Data, 3) if t.finished && self.lmtp.is_some() => {
                self.under_way.put_back(t);
                return self.unexpected(reply);
            }
            (Stage::Data, 3) => {
                t.stage = Stage::Final;
                if t.finished {
                    // RFC 2920 §3.1: 354 although nobody is to get the message. An empty one ends it.
                    self.out.extend_from_slice(b".\r\n");
                    t.body_sent = true;
                } else {
                    self.send_body(&t, false);
                }
            }
            (Stage::Data, 4 | 5) => {
                self.refuse(&mut t, RefusedAt::Data, reply);
                return self.end(t);
            }
            (Stage::Final, 2 | 4 | 5) if t.body_sent && self.lmtp.is_some() => return self.recipient_settled(t, reply),
            (Stage::Final, 2) if t.body_sent => {
                if !t.finished {
                    let stored = self.events.store(reply);
                    self.events.push(Stored::Accepted(t.token, stored));
                }
                return self.end(t);
            }
            (Stage::Final, 4 | 5) => {
                self.refuse(&mut t, RefusedAt::Message, reply);
                if t.body_sent {
                    return self.end(t);
                }
                // Refused in the middle of its data: what is still on its way would be read as commands.
                return self.unexpected(reply);
            }
            _ => {
                self.under_way.put_back(t);
                return self.unexpected(reply);
            }
        }
        self.under_way.put_back(t);
        if !pipelining && t.stage != Stage::Final {
            self.release();
        }
    }

    /// All recipients of a message whose BDAT is held back are answered: it goes if somebody is to get it (RFC 3030 §2).
    fn send_held(&mut self, mut t: Transaction, octets: u64, reply: Reply<'_>) {
        if t.accepted == 0 {
            self.refuse(&mut t, RefusedAt::Recipients, reply);
        }
        if t.finished {
            t.mail_accepted |= t.accepted > 0;
            return self.end(t);
        }
        envelope::write_bdat(&mut self.out, octets);
        self.send_body(&t, true);
        t.stage = Stage::Final;
        self.under_way.put_back(t);
    }

    fn send_body(&mut self, t: &Transaction, bare: bool) {
        self.bodies.push(PendingBody { token: t.token, at: self.out.len(), bare, polled: false });
    }

    /// No reply to `t` is due any more.
    fn end(&mut self, t: Transaction) {
        self.under_way.ended(&t);
        // The final dot ends a transaction in the peer too, whatever the reply (RFC 5321 §4.1.1.4); a BDAT that failed leaves
        // it open, or not (RFC 3030 §2). What is under way behind it has seen to that.
        let is_open = t.mail_accepted && (t.stage != Stage::Final || t.goes_by_bdat() && t.finished);
        self.needs_reset = is_open && self.under_way.is_empty() && !planted!(ResetForgotten);
        self.held.clear();
        self.held.shrink_to(limits::CLIENT_OUT_BYTES);
        self.held_at = 0;
        if let Some(lmtp) = &mut self.lmtp {
            lmtp.clear();
        }
        if self.under_way.is_empty() && self.quit_wanted {
            self.send_quit();
        }
    }

    fn refuse(&mut self, t: &mut Transaction, stage: RefusedAt, reply: Reply<'_>) {
        if !t.finished {
            t.finished = true;
            let stage = t.refused_at(stage, &reply);
            if stage == RefusedAt::Flight {
                self.fly(1);
            }
            let stored = self.events.store(reply);
            self.events.push(Stored::Refused(t.token, stage, stored));
        }
    }

    fn ready(&mut self) {
        if self.auth.is_some() {
            return self.begin_auth();
        }
        self.phase = Phase::Ready;
        self.events.push(Stored::Ready);
        if self.quit_wanted {
            self.send_quit();
        }
    }

    /// 421 answers the command it stands behind, and everything behind that.
    fn shut_down(&mut self, reply: Reply<'_>) {
        if let Some(mut t) = self.under_way.take_first() {
            match t.stage {
                Stage::Mail => self.refuse(&mut t, RefusedAt::Mail, reply),
                Stage::Data => self.refuse(&mut t, RefusedAt::Data, reply),
                Stage::Final => self.refuse(&mut t, RefusedAt::Message, reply),
                // It says nothing about one recipient: the transaction is lost, and comes again.
                Stage::Reset | Stage::Rcpt => {}
            }
            self.under_way.put_back(t);
        }
        // What stands behind it was not read, be it sent.
        self.under_way.unread();
        let stored = self.events.store(reply);
        self.close(StoredReason::Shutdown(stored));
    }

    fn unexpected(&mut self, reply: Reply<'_>) {
        let stored = self.events.store(reply);
        self.close(StoredReason::Unexpected(stored));
    }

    /// Ends a connection that was never ready.
    fn give_up(&mut self, reason: StoredReason) {
        self.close(reason);
        self.out.extend_from_slice(b"QUIT\r\n");
    }

    fn close(&mut self, reason: StoredReason) {
        for t in self.under_way.drain() {
            if !t.finished {
                self.events.push(Stored::Lost(t.token, t.body_sent));
            }
        }
        self.events.push(Stored::Closed(reason));
        self.phase = Phase::Closed;
        self.deadline = Moment::NEVER;
        // What was polled is still the driver's; the rest is never sent.
        self.out.truncate(self.polled);
        self.bodies.clear();
    }

    fn send_quit(&mut self) {
        self.out.extend_from_slice(b"QUIT\r\n");
        self.phase = Phase::Quit;
    }

    fn say_ehlo(&mut self) {
        self.out.extend_from_slice(if self.lmtp.is_some() { b"LHLO " } else { b"EHLO " });
        self.say_name();
        self.phase = Phase::Ehlo;
    }

    fn say_name(&mut self) {
        self.out.extend_from_slice(self.ehlo_name.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// Sends one of the held lines.
    fn release(&mut self) {
        let rest = &self.held[self.held_at..];
        let line = memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        self.out.extend_from_slice(&rest[..line]);
        self.held_at += line;
    }

    fn watch(&mut self, now: Moment) {
        self.deadline = match self.awaited() {
            Awaited::Greeting => now + self.timeouts.greeting,
            Awaited::Command if self.phase == Phase::Quit => now + self.timeouts.quit,
            Awaited::Command | Awaited::Handshake => now + self.timeouts.command,
            Awaited::Envelope => now + self.timeouts.envelope,
            Awaited::DataInitiation => now + self.timeouts.data_initiation,
            Awaited::DataBlock => now + self.timeouts.data_block,
            Awaited::DataTermination => now + self.timeouts.data_termination,
            Awaited::Nothing => Moment::NEVER,
        };
    }
}
