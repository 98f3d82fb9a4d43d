//! PURE. The server machine: one client's SMTP session (RFC 5321 and the extensions that [`super::policy`] lists), from the
//! greeting to the closing.
//!
//! In: the bytes the client sent, the time, the driver's verdict about each message, its answers to questions. Out: replies,
//! appended to the driver's buffer, and what the driver must do next, as a [`Step`]. Lives on the shard that owns the
//! connection.
//!
//! It refuses to read a clock, to resolve, route or store anything, to encrypt, to look into a table, to allocate for a
//! command of plain mail, and to let through a message that two implementations could cut into commands and data
//! differently (SMTP smuggling): see [`super::data`].

mod chunks;
mod commands;
mod data;
mod effects;
mod envelope;
mod identity;
mod patience;
mod replies;

pub use effects::{Answer, Question, Refusal, Step, Verdict};

use super::command::{self, Line};
use super::data::{DataScanner, Fault};
pub use super::policy::{PeerFacts, ServerPolicy, TlsFacts};
use super::reply::text;
use super::sasl::{self, Exchange, Failure, Mechanism};
use crate::limits;
use crate::message::Envelope;
use crate::time::{Moment, Wall};
pub(crate) use replies::fault_reply;
use std::net::IpAddr;
use std::sync::Arc;

/// What an answer is due to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Sender,
    Recipient,
    Text,
    Auth,
    Client,
}

/// Where the session is. All transitions are in this file and those of its folder: `step`, `data`, `handle_*` and the
/// driver's commands here, command lines in `commands`, MAIL and RCPT in `envelope`, BDAT in `chunks`, STARTTLS, AUTH and the like in `identity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before EHLO or HELO.
    Fresh,
    /// No transaction is open.
    Idle,
    /// Behind MAIL; recipients may have come.
    Envelope,
    /// Behind 354.
    Data,
    /// As Data, but the message is refused already.
    Refusing(Fault),
    /// Refused, and its data has ended; the client has not been told so yet.
    Refused(Fault),
    /// Data has ended and all of it was handed out; the driver has not been told so yet.
    Ended,
    /// The driver owes a verdict.
    Verdict,
    /// Octets of a chunk come (RFC 3030 §2).
    Chunk { left: u64, last: bool },
    /// As Chunk, but the message is refused already.
    RefusingChunk { left: u64, fault: Fault },
    /// The last chunk is whole: what the wire form has at its end is due.
    ChunksEnd,
    /// Between two chunks.
    Chunks,
    /// Octets of a chunk that nobody wanted; then where the session was.
    Dropping { left: u64, in_envelope: bool },
    /// The driver owes the answer to a question.
    Asked(Asked),
    /// The driver has not fetched the question yet.
    Asking(Asked),
    /// The client's next line is for the AUTH exchange.
    Auth,
    /// 220 to STARTTLS is said; nothing is read before TLS is there.
    StartTls,
    /// Nothing is read any more.
    Closed,
}

/// What few sessions have.
#[derive(Debug, Default)]
struct More {
    question: Option<Question>,
    exchange: Option<Exchange>,
    /// The AUTH command, until the nonce has come.
    auth: Option<(Mechanism, Option<Vec<u8>>)>,
    account: Option<String>,
    failed_auths: u8,
    asked_account: Option<String>,
    tls: Option<TlsFacts>,
    forwarded: Option<IpAddr>,
    /// The reply of a MAIL whose sender the driver is asked about.
    mail_reply: Option<&'static [u8]>,
    /// The question came before EHLO.
    was_fresh: bool,
}

const HELO_BYTES: usize = limits::DOMAIN_BYTES;

/// One session. Four kinds of method: getters; `handle_*` takes a verdict or a timeout, and [`step`](Self::step), the
/// hottest of that kind, takes bytes; `shutdown` and `set_busy` are commands; `poll_timeout` says when to come back.
///
/// The driver's loop, each time bytes came:
///
/// ```text
/// loop {
///     let (n, step) = server.step(&input[at..], now, &mut out);
///     at += n;
///     match step {
///         Body(piece) => append it to the message, Message => start the commit, Discarded(_) => drop the message,
///         Refused(r) => log it, NeedInput | Blocked => break, Close => close after flushing,
///     }
/// }
/// send `out` once; keep `input[at..]`; arm a timer for `poll_timeout()`
/// ```
///
/// Lives on the shard that owns the connection; below 640 bytes, with no memory of its own on the heap before the first
/// transaction.
#[derive(Debug)]
pub struct Server {
    policy: Arc<ServerPolicy>,
    peer: PeerFacts,
    state: State,
    esmtp: bool,
    /// The driver asked for the end of the session, once the transaction is over.
    stopping: bool,
    busy: bool,
    tls_busy: bool,
    /// In a line that is too long: the rest of it is dropped.
    swallowing: bool,
    /// MAIL was refused: what a client has pipelined behind it is no misbehaviour.
    mail_refused: bool,
    errors: u8,
    /// Commands of a stranger that brought no mail forward, since its last message.
    junk: u8,
    /// Transactions begun.
    mails: u32,
    /// Before this, no command of a client that makes errors is read.
    patience: Moment,
    /// Of the last call that told.
    now: Moment,
    wall: Wall,
    helo_len: u8,
    helo: [u8; HELO_BYTES],
    deadline: Moment,
    data_began: Moment,
    data: DataScanner,
    envelope: Envelope,
    more: Option<Box<More>>,
}

const _: () = assert!(size_of::<Server>() <= 640, "5,000 idle sessions are to be cheap");
const _: () = assert!(HELO_BYTES <= u8::MAX as usize, "helo_len holds it");

impl Server {
    /// Begins a session: the greeting goes to `out`.
    pub fn new(policy: Arc<ServerPolicy>, peer: PeerFacts, now: Moment, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&policy.greeting);
        Server {
            peer,
            state: State::Fresh,
            esmtp: false,
            stopping: false,
            busy: false,
            tls_busy: false,
            swallowing: false,
            mail_refused: false,
            errors: 0,
            junk: 0,
            mails: 0,
            patience: Moment(0),
            now,
            wall: Wall(0),
            helo_len: 0,
            helo: [0; HELO_BYTES],
            deadline: now + policy.command_timeout,
            data_began: now,
            data: DataScanner::new(0),
            envelope: Envelope::default(),
            more: None,
            policy,
        }
    }

    // --- getters --------------------------------------------------------------------------------------------------

    /// The envelope of the open transaction; empty outside one.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The argument of EHLO or HELO, as given; empty before it.
    pub fn helo(&self) -> &[u8] {
        &self.helo[..usize::from(self.helo_len)]
    }

    /// The client said EHLO, not HELO.
    pub fn is_esmtp(&self) -> bool {
        self.esmtp
    }

    /// What the driver said about the client.
    pub fn peer(&self) -> PeerFacts {
        self.peer
    }

    /// The client's address, or the one that XFORWARD named in its place: for the log.
    pub fn origin(&self) -> IpAddr {
        self.more.as_ref().and_then(|more| more.forwarded).unwrap_or(self.peer.address)
    }

    /// The account that AUTH has proven, or that XCLIENT named.
    pub fn account(&self) -> Option<&str> {
        self.more.as_ref()?.account.as_deref()
    }

    /// Wrong guesses so far.
    pub fn failed_auths(&self) -> u8 {
        self.more.as_ref().map_or(0, |more| more.failed_auths)
    }

    /// The account that the last AUTH was for, whatever came of it.
    pub fn asked_account(&self) -> Option<&str> {
        self.more.as_ref()?.asked_account.as_deref()
    }

    /// What is known of the TLS connection, if there is one.
    pub fn tls(&self) -> Option<&TlsFacts> {
        self.more.as_ref()?.tls.as_ref()
    }

    /// The policy of its listener.
    pub fn policy(&self) -> &ServerPolicy {
        &self.policy
    }

    /// MAIL was accepted, and neither a reply to the data nor RSET, EHLO or HELO has ended the transaction yet.
    pub fn in_transaction(&self) -> bool {
        match self.state {
            State::Fresh | State::Idle | State::Closed | State::Auth | State::StartTls => false,
            State::Asked(asked) | State::Asking(asked) => matches!(asked, Asked::Sender | Asked::Recipient),
            State::Dropping { in_envelope, .. } => in_envelope,
            _ => true,
        }
    }

    /// See [`DataScanner::may_have_tls_required`].
    pub fn may_have_tls_required(&self) -> bool {
        self.data.may_have_tls_required()
    }

    /// Its last words are said: only [`Step::Close`] follows.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Octets of message data seen in this transaction, or the last one, in wire form.
    pub fn body_bytes(&self) -> u64 {
        self.data.bytes()
    }

    // --- handle ---------------------------------------------------------------------------------------------------

    /// Takes bytes from the front of `input`, appends replies to `out`. Returns how many bytes are done with, and what
    /// comes next. Any split of the same bytes gives the same replies and the same message data.
    pub fn step<'a>(&mut self, input: &'a [u8], now: Moment, out: &mut Vec<u8>) -> (usize, Step<'a>) {
        let mut at = 0;
        self.now = now;
        if now >= self.patience {
            self.patience = Moment(0);
        }
        loop {
            match self.state {
                State::Closed => return (input.len(), Step::Close),
                State::Verdict | State::Asked(_) | State::StartTls => return (at, Step::Blocked),
                State::Asking(asked) => {
                    self.state = State::Asked(asked);
                    self.deadline = Moment::NEVER;
                    return (at, Step::Ask);
                }
                State::Ended => {
                    self.state = State::Verdict;
                    self.deadline = Moment::NEVER;
                    return (at, Step::Message);
                }
                State::Refused(fault) => {
                    out.extend_from_slice(fault_reply(fault));
                    self.end_transaction(now, out);
                }
                State::Data | State::Refusing(_) => {
                    if at == input.len() {
                        return (at, Step::NeedInput);
                    }
                    let (taken, step) = self.data(&input[at..], now);
                    at += taken;
                    if let Some(step) = step {
                        return (at, step);
                    }
                }
                State::Chunk { left, last } => {
                    let (taken, step) = self.chunk(&input[at..], left, last, now, out);
                    at += taken;
                    if let Some(step) = step {
                        return (at, step);
                    }
                }
                State::ChunksEnd => return (at, self.chunks_end()),
                State::RefusingChunk { left, fault } => {
                    let taken = self.skip(&input[at..], left, now);
                    at += taken;
                    if (taken as u64) < left {
                        self.state = State::RefusingChunk { left: left - taken as u64, fault };
                        return (at, Step::NeedInput);
                    }
                    self.state = State::Refused(fault);
                }
                State::Dropping { left, in_envelope } => {
                    let taken = self.skip(&input[at..], left, now);
                    at += taken;
                    if (taken as u64) < left {
                        self.state = State::Dropping { left: left - taken as u64, in_envelope };
                        return (at, Step::NeedInput);
                    }
                    self.state = if in_envelope { State::Envelope } else { State::Idle };
                }
                State::Fresh | State::Idle | State::Envelope | State::Chunks | State::Auth => {
                    let rest = &input[at..];
                    if rest.is_empty() {
                        return (at, Step::NeedInput);
                    }
                    if out.len() >= limits::SESSION_OUT_BYTES || now < self.patience {
                        return (at, Step::Blocked);
                    }
                    let line = match self.find_line(rest) {
                        _ if self.swallowing => {
                            at += self.swallow(rest);
                            if self.swallowing {
                                return (at, Step::NeedInput);
                            }
                            continue;
                        }
                        Line::Whole(line) => line,
                        Line::Partial => return (at, Step::NeedInput),
                        Line::TooLong => {
                            self.swallowing = true;
                            self.deadline = now + self.policy.command_timeout;
                            if self.state == State::Auth {
                                self.auth_step(sasl::Step::Refused(Failure::TooLong), now, out);
                            } else if is_auth(rest) {
                                self.failed(Failure::TooLong.reply(), out);
                            } else {
                                self.failed(text::LINE_TOO_LONG, out);
                            }
                            continue;
                        }
                    };
                    at += line.len() + 2;
                    self.deadline = now + self.policy.command_timeout;
                    if self.state == State::Auth {
                        self.auth_line(line, now, out);
                        continue;
                    }
                    let had_chunks = self.state == State::Chunks;
                    match self.command(line, at < input.len(), now, out) {
                        Ok(()) => {}
                        Err(refusal) => return (at, Step::Refused(refusal)),
                    }
                    if let State::RefusingChunk { fault, .. } = self.state {
                        return (at, Step::Discarded(fault));
                    }
                    if had_chunks && !matches!(self.state, State::Chunks | State::Chunk { .. }) {
                        return (at, Step::Dropped);
                    }
                    if self.state == State::StartTls {
                        return (at, Step::StartTls);
                    }
                }
            }
        }
    }

    /// Ends the transaction with the reply to its final dot.
    ///
    /// # Panics
    /// If no verdict is due: the driver answers each [`Step::Message`] once.
    pub fn handle_verdict(&mut self, verdict: Verdict, now: Moment, out: &mut Vec<u8>) {
        assert!(self.state == State::Verdict, "a verdict follows a message");
        match verdict {
            Verdict::Accepted(id) => {
                out.extend_from_slice(b"250 2.0.0 ");
                out.extend_from_slice(&id.text());
                out.extend_from_slice(b" queued\r\n");
                (self.errors, self.junk) = (0, 0);
            }
            Verdict::Busy => out.extend_from_slice(text::BUSY),
            Verdict::Full => out.extend_from_slice(text::FULL),
            Verdict::LocalError => out.extend_from_slice(text::LOCAL_ERROR),
        }
        self.end_transaction(now, out);
    }

    /// Ends the transaction with this reply (with its CRLF) in place of a verdict: the driver has refused the message.
    ///
    /// # Panics
    /// If no verdict is due.
    pub fn handle_refusal(&mut self, reply: &[u8], now: Moment, out: &mut Vec<u8>) {
        assert!(self.state == State::Verdict, "a refusal follows a message");
        out.extend_from_slice(reply);
        self.end_transaction(now, out);
    }

    /// The question behind [`Step::Ask`].
    ///
    /// # Panics
    /// If there is none.
    pub fn take_question(&mut self) -> Question {
        self.more().question.take().expect("a question follows Step::Ask, once")
    }

    /// The answer to the question that was taken. Call [`step`](Self::step) again afterwards.
    ///
    /// # Panics
    /// If none is due, or if it is no answer to that question.
    pub fn handle_answer(&mut self, answer: Answer<'_>, now: Moment, out: &mut Vec<u8>) {
        let State::Asked(asked) = self.state else { panic!("an answer follows a question") };
        self.deadline = now + self.policy.command_timeout;
        match (asked, answer) {
            (Asked::Sender, Answer::Yes) => {
                self.state = State::Envelope;
                let reply = self.more().mail_reply.take().unwrap_or(text::SENDER_OK);
                out.extend_from_slice(reply);
            }
            (Asked::Sender, Answer::Reply(reply)) => {
                out.extend_from_slice(reply);
                self.end_transaction(now, out);
                self.mail_refused = true;
            }
            (Asked::Recipient, Answer::Yes) => {
                self.state = State::Envelope;
                out.extend_from_slice(text::RECIPIENT_OK);
            }
            (Asked::Recipient, Answer::Recipients(members)) => {
                self.state = State::Envelope;
                self.envelope.expand_last_recipient(members);
                out.extend_from_slice(text::RECIPIENT_OK);
            }
            (Asked::Recipient, Answer::Reply(reply)) => {
                self.state = State::Envelope;
                self.envelope.remove_last_recipient();
                if reply.starts_with(b"5") && self.is_stranger() {
                    self.failed(reply, out);
                } else {
                    out.extend_from_slice(reply);
                }
            }
            (Asked::Text, Answer::Reply(reply)) => {
                self.state = if self.more().was_fresh { State::Fresh } else { State::Idle };
                out.extend_from_slice(reply);
            }
            (Asked::Auth, Answer::Nonce(nonce)) => {
                let binding = self.tls().map(|tls| tls.binding.clone()).unwrap_or_default();
                let (mechanism, initial) = self.more().auth.take().expect("AUTH came before its nonce");
                let (exchange, step) = Exchange::begin(mechanism, initial.as_deref(), binding, nonce);
                self.more().exchange = Some(exchange);
                self.auth_step(step, now, out);
            }
            (Asked::Auth, Answer::Sasl(answer)) => {
                let exchange = self.more().exchange.as_mut().expect("it has asked");
                let step = exchange.handle_answer(answer);
                self.auth_step(step, now, out);
            }
            (Asked::Client, Answer::Peer(peer)) => {
                self.peer = peer;
                out.extend_from_slice(&self.policy.greeting);
                self.reset_session(now, out);
            }
            (asked, answer) => panic!("no answer to {asked:?}: {answer:?}"),
        }
        if self.stopping && self.state == State::Idle {
            out.extend_from_slice(&self.policy.shutting_down);
            self.close();
        }
    }

    /// TLS is there. The session begins again (RFC 3207 §4.2): the client says EHLO, and whatever it said before is
    /// forgotten. Also for a session that began with TLS, before its first byte.
    pub fn tls_established(&mut self, facts: TlsFacts, now: Moment) {
        let mut out = Vec::new();
        self.reset_session(now, &mut out);
        // Who it was said in the clear, where anybody on the way may have said it.
        let more = self.more();
        (more.account, more.forwarded) = (None, None);
        more.tls = Some(facts);
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come. After a timeout: 421 and the end, and `true`. After the
    /// wait for errors, or earlier: nothing, and `false`; call [`step`](Self::step) with what is left.
    pub fn handle_timeout(&mut self, now: Moment, out: &mut Vec<u8>) -> bool {
        if now >= self.patience {
            self.patience = Moment(0);
        }
        if now < self.deadline || self.state == State::Closed {
            return false;
        }
        out.extend_from_slice(&self.policy.timed_out);
        self.close();
        true
    }

    // --- commands -------------------------------------------------------------------------------------------------

    /// Asks for the end of the session: at once if no transaction is open, otherwise behind its end. 421 4.3.2.
    pub fn shutdown(&mut self, out: &mut Vec<u8>) {
        self.stopping = true;
        if !self.in_transaction() && self.state != State::Closed {
            out.extend_from_slice(&self.policy.shutting_down);
            self.close();
        }
    }

    /// While `busy`, MAIL is answered 452 4.3.1. Open transactions are not touched.
    pub fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }

    /// While so, STARTTLS is answered 454 4.7.0.
    pub fn set_tls_busy(&mut self, busy: bool) {
        self.tls_busy = busy;
    }

    /// The wall clock, for parameters that name a time.
    pub fn set_wall(&mut self, wall: Wall) {
        self.wall = wall;
    }

    /// What the driver has found in the header section: the message's own options.
    pub fn envelope_mut(&mut self) -> &mut Envelope {
        &mut self.envelope
    }

    // --- poll -----------------------------------------------------------------------------------------------------

    /// When to call [`handle_timeout`](Self::handle_timeout), `None` while the client owes nothing.
    pub fn poll_timeout(&self) -> Option<Moment> {
        let next = if self.patience == Moment(0) { self.deadline } else { self.deadline.min(self.patience) };
        (next != Moment::NEVER).then_some(next)
    }

    // --- transitions ----------------------------------------------------------------------------------------------

    /// EHLO and HELO end a transaction like RSET (RFC 5321 §4.1.4); the reply stands in `out`.
    fn hello(&mut self, name: &[u8], esmtp: bool, now: Moment, out: &mut Vec<u8>) {
        self.esmtp = esmtp;
        self.helo[..name.len()].copy_from_slice(name);
        self.helo_len = u8::try_from(name.len()).expect("a host name has at most 255 octets");
        self.end_transaction(now, out);
        self.idled(out);
    }

    /// As a connection that has just begun.
    fn reset_session(&mut self, now: Moment, out: &mut Vec<u8>) {
        self.esmtp = false;
        self.helo_len = 0;
        self.errors = 0;
        self.swallowing = false;
        self.end_transaction(now, out);
        if self.state != State::Closed {
            self.state = State::Fresh;
        }
    }

    fn ask(&mut self, asked: Asked, question: Question) {
        self.more().question = Some(question);
        self.state = State::Asking(asked);
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    fn is_tls(&self) -> bool {
        self.tls().is_some()
    }

    /// The line at the front. Those of AUTH may be longer (RFC 4954 §4).
    fn find_line<'a>(&self, input: &'a [u8]) -> Line<'a> {
        match command::find_line(input, limits::COMMAND_LINE_BYTES) {
            Line::TooLong if self.state == State::Auth || is_auth(input) && !self.swallowing => {
                command::find_line(input, limits::AUTH_LINE_BYTES)
            }
            line => line,
        }
    }

    /// The transaction is over and answered.
    fn end_transaction(&mut self, now: Moment, out: &mut Vec<u8>) {
        self.state = State::Idle;
        self.forgive();
        self.deadline = now + self.policy.command_timeout;
        self.envelope.clear();
        if self.envelope.capacity() > 2 * limits::SESSION_ENVELOPE_BYTES {
            self.envelope.shrink(limits::SESSION_ENVELOPE_BYTES);
        }
        if self.stopping {
            out.extend_from_slice(&self.policy.shutting_down);
            self.close();
        }
    }

    /// Drops what belongs to a line that is too long; returns how much.
    fn swallow(&mut self, input: &[u8]) -> usize {
        match command::find_crlf(input) {
            Some(at) => {
                self.swallowing = false;
                at + 2
            }
            // A CR at the end may be half of the CRLF: it stays.
            None => input.len() - usize::from(input.last() == Some(&b'\r')),
        }
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.deadline = Moment::NEVER;
    }
}

/// Whether a line begins as AUTH does.
fn is_auth(line: &[u8]) -> bool {
    line.get(..5).is_some_and(|word| word.eq_ignore_ascii_case(b"AUTH "))
}
