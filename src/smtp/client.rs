//! PURE. The client machine: one connection to a mail exchanger, on which transactions follow one another (RFC 5321,
//! RFC 2920).
//!
//! In: the bytes the peer sent, the time, the driver's orders (`start`, `quit`). Out: what to send, in wire order, and
//! events: the outcome of each recipient and each transaction, and why the connection ended. Lives on the shard that
//! owns the connection.
//!
//! It refuses to read a clock, to hold a message body (the driver sends it, when asked), to decide what an outcome
//! means for the queue, and to believe a peer that sends what is no reply.

use super::extensions::Capabilities;
use super::reply::{EnhancedCode, Reply, ReplyError, ReplyParser};
use crate::limits;
use crate::time::Moment;
use memchr::memchr;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// How long each phase may take (RFC 5321 §4.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTimeouts {
    /// From the connection to the greeting.
    pub greeting: Duration,
    /// EHLO, HELO and RSET.
    pub command: Duration,
    /// QUIT.
    pub quit: Duration,
    /// MAIL and each RCPT.
    pub envelope: Duration,
    /// DATA to 354.
    pub data_initiation: Duration,
    /// Between two calls of [`Client::body_progress`].
    pub data_block: Duration,
    /// The final dot to its reply.
    pub data_termination: Duration,
}

impl Default for ClientTimeouts {
    fn default() -> Self {
        ClientTimeouts {
            greeting: limits::CLIENT_GREETING_TIMEOUT,
            command: limits::CLIENT_COMMAND_TIMEOUT,
            quit: limits::CLIENT_QUIT_TIMEOUT,
            envelope: limits::CLIENT_ENVELOPE_TIMEOUT,
            data_initiation: limits::CLIENT_DATA_INITIATION_TIMEOUT,
            data_block: limits::CLIENT_DATA_BLOCK_TIMEOUT,
            data_termination: limits::CLIENT_DATA_TERMINATION_TIMEOUT,
        }
    }
}

/// What is known of a message before it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailParams {
    /// Octets, for SIZE; 0 if unknown.
    pub size: u64,
    /// It was declared `BODY=8BITMIME`.
    pub eight_bit: bool,
}

/// The next thing to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// The bytes that [`Client::commands`] gives for this range.
    Commands(Range<usize>),
    /// The whole data of this message in wire form, its final `.` CRLF included. Nothing comes behind it until the
    /// driver calls [`Client::body_sent`].
    Body {
        /// As given to [`Client::start`].
        token: u64,
    },
}

/// What happened. Replies borrow from the machine: copy what is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientEvent<'a> {
    /// Greeting and EHLO or HELO are done: transactions may start.
    Ready,
    /// One recipient was refused. Those of a transaction that have no such event share its outcome.
    Recipient {
        /// As given to [`Client::start`].
        token: u64,
        /// Its place among the recipients given to [`Client::start`], from 0.
        index: u32,
        /// The reply to its RCPT.
        reply: Reply<'a>,
    },
    /// A transaction is over; each one started has exactly one such event.
    Finished {
        /// As given to [`Client::start`].
        token: u64,
        /// For every recipient that was not refused by itself.
        outcome: Outcome<'a>,
    },
    /// The connection cannot be used any more; always the last event. Flush what there is to send, and close.
    Closed(CloseReason<'a>),
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The peer has taken the message.
    Accepted(Reply<'a>),
    /// It has not, and said so. 4yz or 5yz by the reply's code.
    Refused {
        /// By which reply.
        stage: RefusedAt,
        /// That reply; for [`RefusedAt::Local`] one of our own.
        reply: Reply<'a>,
    },
    /// The connection ended before there was an answer: to be tried again.
    Lost {
        /// The whole body had been sent: the peer may have taken the message, and a second try may be a duplicate.
        after_final_dot: bool,
    },
}

/// Which reply refused a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedAt {
    /// None: the peer's announcements already forbid the message, and nothing was sent.
    Local,
    /// To MAIL.
    Mail,
    /// Every RCPT was refused; each has had its event, and the reply here is the last one.
    Recipients,
    /// To DATA.
    Data,
    /// To the final dot.
    Message,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason<'a> {
    /// The greeting, or EHLO and HELO, were answered 4yz or 5yz.
    Refused(Reply<'a>),
    /// 421: the peer shuts the connection down (RFC 5321 §3.8).
    Shutdown(Reply<'a>),
    /// The peer's bytes are no replies.
    NotSmtp(ReplyError),
    /// A reply where none was due, or of a class that the command cannot have.
    Unexpected(Reply<'a>),
    /// Nothing came in time.
    Timeout(Awaited),
    /// The peer closed or reset the connection.
    PeerClosed,
    /// QUIT was sent, and answered or not.
    Quit,
}

/// What the machine waits for, by its timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// The greeting.
    Greeting,
    /// The reply to EHLO, HELO, RSET or QUIT.
    Command,
    /// The reply to MAIL or RCPT.
    Envelope,
    /// 354.
    DataInitiation,
    /// The transport to take more of the body.
    DataBlock,
    /// The reply to the final dot.
    DataTermination,
    /// Nothing: the connection is idle or over.
    Nothing,
}

/// Where the connection is. All transitions are in this file, below "transitions".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    Ehlo,
    Helo,
    /// Idle if there is no current transaction.
    Ready,
    Quit,
    Closed,
}

/// The command of a transaction whose reply comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// RSET, sent in front of a transaction behind a failed one.
    Reset,
    Mail,
    Rcpt,
    Data,
    Final,
}

#[derive(Clone, Copy, Debug)]
struct Transaction {
    token: u64,
    stage: Stage,
    /// Replies to RCPT so far, of `recipients`.
    answered: u32,
    recipients: u32,
    accepted: u32,
    /// The peer has a transaction open: it needs RSET if it ends before the final dot.
    mail_accepted: bool,
    /// Its `Finished` event is out; the replies still due only keep the connection in step.
    finished: bool,
    /// Everything up to the final dot was given to the transport.
    body_sent: bool,
}

/// An event, with its text in `Client::texts`.
#[derive(Clone, Copy, Debug)]
enum Stored {
    Ready,
    Recipient(u64, u32, StoredReply),
    Accepted(u64, StoredReply),
    Refused(u64, RefusedAt, StoredReply),
    Lost(u64, bool),
    Closed(StoredReason),
}

#[derive(Clone, Copy, Debug)]
enum StoredReason {
    Refused(StoredReply),
    Shutdown(StoredReply),
    NotSmtp(ReplyError),
    Unexpected(StoredReply),
    Timeout(Awaited),
    PeerClosed,
    Quit,
}

#[derive(Clone, Copy, Debug)]
struct StoredReply {
    code: u16,
    enhanced: Option<EnhancedCode>,
    start: usize,
    end: usize,
}

/// A body that is to be sent behind `out[..at]`.
#[derive(Clone, Copy, Debug)]
struct PendingBody {
    token: u64,
    at: usize,
    polled: bool,
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
    timeouts: ClientTimeouts,
    phase: Phase,
    capabilities: Capabilities,
    current: Option<Transaction>,
    /// Pipelined behind the final dot of `current`.
    next: Option<Transaction>,
    needs_reset: bool,
    quit_wanted: bool,
    /// Commands that may be sent now.
    out: Vec<u8>,
    /// How much of `out` was polled.
    polled: usize,
    body: Option<PendingBody>,
    /// Without PIPELINING: the lines of `current` that wait for a reply first.
    held: Vec<u8>,
    held_at: usize,
    parser: ReplyParser,
    events: VecDeque<Stored>,
    texts: Vec<u8>,
    deadline: Moment,
}

impl Client {
    /// A connection that has just been established. `ehlo_name` is our domain name or address literal.
    pub fn new(ehlo_name: Arc<str>, timeouts: ClientTimeouts, now: Moment) -> Self {
        Client {
            ehlo_name,
            timeouts,
            phase: Phase::Greeting,
            capabilities: Capabilities::default(),
            current: None,
            next: None,
            needs_reset: false,
            quit_wanted: false,
            out: Vec::new(),
            polled: 0,
            body: None,
            held: Vec::new(),
            held_at: 0,
            parser: ReplyParser::default(),
            events: VecDeque::new(),
            texts: Vec::new(),
            deadline: now + timeouts.greeting,
        }
    }

    // --- getters --------------------------------------------------------------------------------------------------

    /// What the peer announced; nothing before Ready or behind HELO.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Whether [`start`](Self::start) may be called: the connection is idle, or its one transaction waits for nothing
    /// but the reply to its final dot and the peer announced PIPELINING (RFC 2920 §3.1).
    pub fn can_start(&self) -> bool {
        self.phase == Phase::Ready
            && !self.quit_wanted
            && match self.current {
                None => true,
                Some(t) => self.capabilities.pipelining && t.stage == Stage::Final && self.next.is_none(),
            }
    }

    /// Ready, with no transaction.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Ready && self.current.is_none()
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
        match (self.phase, self.current) {
            (Phase::Greeting, _) => Awaited::Greeting,
            (Phase::Ehlo | Phase::Helo | Phase::Quit, _) => Awaited::Command,
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

    /// Bytes of commands, bytes of a reply that is not complete, events not taken, bytes of their texts.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn sizes(&self) -> [usize; 4] {
        [self.out.len() + self.held.len(), self.parser.size(), self.events.len(), self.texts.len()]
    }

    // --- handle ---------------------------------------------------------------------------------------------------

    /// Takes all of `bytes`.
    pub fn handle_input(&mut self, mut bytes: &[u8], now: Moment) {
        let mut parser = std::mem::take(&mut self.parser);
        while self.phase != Phase::Closed {
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
            _ => self.close(StoredReason::PeerClosed),
        }
    }

    // --- commands -------------------------------------------------------------------------------------------------

    /// Begins a transaction. `sender` is empty for the null reverse-path; `recipients` are one at least, and all are
    /// addresses as the server machine accepted them. `token` names it in transmits and events.
    ///
    /// A message that the peer's announcements forbid is refused at once: larger than its SIZE (552 5.3.4, RFC 1870
    /// §5), or declared 8BITMIME to a peer without it (554 5.6.3: RFC 6152 §3 leaves conversion or this, and converting
    /// would break signatures).
    ///
    /// # Panics
    /// If [`can_start`](Self::can_start) says no, or without recipients.
    pub fn start<'r>(
        &mut self,
        token: u64,
        sender: &[u8],
        recipients: impl IntoIterator<Item = &'r [u8]>,
        params: MailParams,
        now: Moment,
    ) {
        assert!(self.can_start(), "the driver asks can_start first");
        let refusal = if !self.capabilities.allows_size(params.size) {
            Some((
                552,
                EnhancedCode(5, 3, 4),
                "5.3.4 The message is larger than the receiving server announced to take",
            ))
        } else if params.eight_bit && !self.capabilities.eight_bit_mime {
            Some((554, EnhancedCode(5, 6, 3), "5.6.3 The message has 8-bit data, the receiving server lacks 8BITMIME"))
        } else {
            None
        };
        if let Some((code, enhanced, text)) = refusal {
            let reply = self.store(Reply { code, enhanced: Some(enhanced), text });
            self.events.push_back(Stored::Refused(token, RefusedAt::Local, reply));
            return;
        }
        let pipelining = self.capabilities.pipelining;
        let lines = if pipelining { &mut self.out } else { &mut self.held };
        if self.needs_reset {
            lines.extend_from_slice(b"RSET\r\n");
        }
        lines.extend_from_slice(b"MAIL FROM:<");
        lines.extend_from_slice(sender);
        lines.push(b'>');
        if params.size > 0 && self.capabilities.size.is_some() {
            lines.extend_from_slice(b" SIZE=");
            push_number(lines, params.size);
        }
        if params.eight_bit && !planted!(EightBitUnsaid) {
            lines.extend_from_slice(b" BODY=8BITMIME");
        }
        lines.extend_from_slice(b"\r\n");
        let mut count = 0;
        for recipient in recipients {
            lines.extend_from_slice(b"RCPT TO:<");
            lines.extend_from_slice(recipient);
            lines.extend_from_slice(b">\r\n");
            count += 1;
        }
        assert!(count > 0, "a transaction has a recipient");
        lines.extend_from_slice(b"DATA\r\n");
        let transaction = Transaction {
            token,
            stage: if std::mem::take(&mut self.needs_reset) { Stage::Reset } else { Stage::Mail },
            answered: 0,
            recipients: count,
            accepted: 0,
            mail_accepted: false,
            finished: false,
            body_sent: false,
        };
        if self.current.is_some() {
            self.next = Some(transaction);
            return;
        }
        self.current = Some(transaction);
        if !pipelining {
            self.release();
        }
        self.watch(now);
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
        if self.body.is_some_and(|b| b.token == token && b.polled) {
            self.body = None;
            if let Some(t) = self.current.as_mut().filter(|t| t.token == token) {
                t.body_sent = true;
            }
            self.watch(now);
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
        if let Some(body) = &mut self.body {
            body.at -= self.polled;
        }
        self.polled = 0;
    }

    // --- poll -----------------------------------------------------------------------------------------------------

    /// The next thing to send, in wire order; `None`: nothing more for now.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let until = match &mut self.body {
            Some(body) if self.polled == body.at => {
                let token = body.token;
                return (!std::mem::replace(&mut body.polled, true)).then_some(Transmit::Body { token });
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
        let Some(event) = self.events.pop_front() else {
            self.texts.clear();
            self.texts.shrink_to(limits::REPLY_TEXT_BYTES);
            return None;
        };
        let reply = |r: StoredReply| Reply {
            code: r.code,
            enhanced: r.enhanced,
            text: std::str::from_utf8(&self.texts[r.start..r.end]).expect("the parser lets only ASCII through"),
        };
        Some(match event {
            Stored::Ready => ClientEvent::Ready,
            Stored::Recipient(token, index, r) => ClientEvent::Recipient { token, index, reply: reply(r) },
            Stored::Accepted(token, r) => ClientEvent::Finished { token, outcome: Outcome::Accepted(reply(r)) },
            Stored::Refused(token, stage, r) => {
                ClientEvent::Finished { token, outcome: Outcome::Refused { stage, reply: reply(r) } }
            }
            Stored::Lost(token, after_final_dot) => {
                ClientEvent::Finished { token, outcome: Outcome::Lost { after_final_dot } }
            }
            Stored::Closed(reason) => ClientEvent::Closed(match reason {
                StoredReason::Refused(r) => CloseReason::Refused(reply(r)),
                StoredReason::Shutdown(r) => CloseReason::Shutdown(reply(r)),
                StoredReason::NotSmtp(error) => CloseReason::NotSmtp(error),
                StoredReason::Unexpected(r) => CloseReason::Unexpected(reply(r)),
                StoredReason::Timeout(awaited) => CloseReason::Timeout(awaited),
                StoredReason::PeerClosed => CloseReason::PeerClosed,
                StoredReason::Quit => CloseReason::Quit,
            }),
        })
    }

    // --- transitions ----------------------------------------------------------------------------------------------

    fn reply(&mut self, reply: Reply<'_>, now: Moment) {
        match (self.phase, reply.code / 100) {
            (Phase::Closed, _) => return,
            (Phase::Quit, _) => self.close(StoredReason::Quit),
            (_, 4) if reply.code == 421 && !planted!(GoesOnAfter421) => self.shut_down(reply),
            (Phase::Greeting, 2) => {
                self.out.extend_from_slice(b"EHLO ");
                self.say_name();
                self.phase = Phase::Ehlo;
            }
            (Phase::Ehlo, 2) => {
                self.capabilities = Capabilities::parse(reply.text);
                self.ready();
            }
            // RFC 5321 §3.2: an old server does not know EHLO.
            (Phase::Ehlo, 5) => {
                self.out.extend_from_slice(b"HELO ");
                self.say_name();
                self.phase = Phase::Helo;
            }
            (Phase::Helo, 2) => self.ready(),
            (Phase::Greeting | Phase::Ehlo | Phase::Helo, 4 | 5) => {
                let stored = self.store(reply);
                self.close(StoredReason::Refused(stored));
                // RFC 5321 §3.1: a server that greets with 554 waits for QUIT.
                self.out.extend_from_slice(b"QUIT\r\n");
            }
            (Phase::Ready, class) => match self.current.take() {
                Some(transaction) => self.transaction_reply(transaction, class, reply),
                None => self.unexpected(reply),
            },
            _ => self.unexpected(reply),
        }
        self.watch(now);
    }

    /// A reply to the current transaction, which was taken out: it goes back in if replies to it are still due.
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
                } else if !t.finished {
                    let stored = self.store(reply);
                    self.events.push_back(Stored::Recipient(t.token, t.answered, stored));
                }
                t.answered += 1;
                if t.answered == t.recipients {
                    t.stage = Stage::Data;
                    if t.accepted == 0 {
                        self.refuse(&mut t, RefusedAt::Recipients, reply);
                        if !pipelining {
                            return self.end(t);
                        }
                    }
                }
            }
            (Stage::Data, 3) => {
                t.stage = Stage::Final;
                if t.finished {
                    // RFC 2920 §3.1: 354 although nobody is to get the message. An empty one ends it.
                    self.out.extend_from_slice(b".\r\n");
                    t.body_sent = true;
                } else {
                    self.body = Some(PendingBody { token: t.token, at: self.out.len(), polled: false });
                }
            }
            (Stage::Data, 4 | 5) => {
                self.refuse(&mut t, RefusedAt::Data, reply);
                return self.end(t);
            }
            (Stage::Final, 2) if t.body_sent => {
                if !t.finished {
                    let stored = self.store(reply);
                    self.events.push_back(Stored::Accepted(t.token, stored));
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
                self.current = Some(t);
                return self.unexpected(reply);
            }
        }
        self.current = Some(t);
        if !pipelining && t.stage != Stage::Final {
            self.release();
        }
    }

    /// No reply to `t` is due any more.
    fn end(&mut self, t: Transaction) {
        // The final dot ends a transaction in the peer too, whatever the reply (RFC 5321 §4.1.1.4).
        self.needs_reset = t.mail_accepted && t.stage != Stage::Final && !planted!(ResetForgotten);
        self.held.clear();
        self.held.shrink_to(limits::CLIENT_OUT_BYTES);
        self.held_at = 0;
        self.current = self.next.take();
        if self.current.is_none() && self.quit_wanted {
            self.send_quit();
        }
    }

    fn refuse(&mut self, t: &mut Transaction, stage: RefusedAt, reply: Reply<'_>) {
        if !t.finished {
            t.finished = true;
            let stored = self.store(reply);
            self.events.push_back(Stored::Refused(t.token, stage, stored));
        }
    }

    fn ready(&mut self) {
        self.phase = Phase::Ready;
        self.events.push_back(Stored::Ready);
        if self.quit_wanted {
            self.send_quit();
        }
    }

    /// 421 answers the command it stands behind, and everything behind that.
    fn shut_down(&mut self, reply: Reply<'_>) {
        if let Some(mut t) = self.current.take() {
            match t.stage {
                Stage::Mail => self.refuse(&mut t, RefusedAt::Mail, reply),
                Stage::Data => self.refuse(&mut t, RefusedAt::Data, reply),
                Stage::Final => self.refuse(&mut t, RefusedAt::Message, reply),
                // It says nothing about one recipient: the transaction is lost, and comes again.
                Stage::Reset | Stage::Rcpt => {}
            }
            self.current = Some(t);
        }
        let stored = self.store(reply);
        self.close(StoredReason::Shutdown(stored));
    }

    fn unexpected(&mut self, reply: Reply<'_>) {
        let stored = self.store(reply);
        self.close(StoredReason::Unexpected(stored));
    }

    fn close(&mut self, reason: StoredReason) {
        for t in [self.current.take(), self.next.take()].into_iter().flatten() {
            if !t.finished {
                self.events.push_back(Stored::Lost(t.token, t.body_sent));
            }
        }
        self.events.push_back(Stored::Closed(reason));
        self.phase = Phase::Closed;
        self.deadline = Moment::NEVER;
        // What was polled is still the driver's; the rest is never sent.
        self.out.truncate(self.polled);
        self.body = None;
    }

    fn send_quit(&mut self) {
        self.out.extend_from_slice(b"QUIT\r\n");
        self.phase = Phase::Quit;
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
            Awaited::Command => now + self.timeouts.command,
            Awaited::Envelope => now + self.timeouts.envelope,
            Awaited::DataInitiation => now + self.timeouts.data_initiation,
            Awaited::DataBlock => now + self.timeouts.data_block,
            Awaited::DataTermination => now + self.timeouts.data_termination,
            Awaited::Nothing => Moment::NEVER,
        };
    }

    fn store(&mut self, reply: Reply<'_>) -> StoredReply {
        let start = self.texts.len();
        self.texts.extend_from_slice(reply.text.as_bytes());
        StoredReply { code: reply.code, enhanced: reply.enhanced, start, end: self.texts.len() }
    }
}

fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
