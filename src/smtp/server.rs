//! PURE. The server machine: one client's SMTP session (RFC 5321, with PIPELINING, SIZE, 8BITMIME and
//! ENHANCEDSTATUSCODES), from the greeting to the closing.
//!
//! In: the bytes the client sent, the time, the driver's verdict about each message. Out: replies, appended to the
//! driver's buffer, and what the driver must do next, as a [`Step`]. Lives on the shard that owns the connection.
//!
//! It refuses to read a clock, to resolve, route or store anything, to allocate for a command, and to let through a
//! message that two implementations could cut into commands and data differently (SMTP smuggling): see [`super::data`].

use super::address::PathError;
use super::command::{self, Command, CommandError, Line, MailParams, Verb};
use super::data::{DataScanner, Fault};
use super::reply::text;
use crate::limits;
use crate::message::params::BodyType;
use crate::message::{Envelope, MessageId};
use crate::time::Moment;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What all sessions of a listener have in common. Immutable, shared by all shards.
#[derive(Debug)]
pub struct ServerPolicy {
    /// The name this server greets with.
    pub hostname: String,
    /// The largest message, octets as received without the final dot's line.
    pub max_message_bytes: u64,
    /// Recipients of one transaction, at most.
    pub max_recipients: usize,
    /// Time for the next command.
    pub command_timeout: Duration,
    /// Time for the next piece of message data.
    pub data_timeout: Duration,
    // Replies that name the host or a figure, made once.
    greeting: Vec<u8>,
    ehlo: Vec<u8>,
    helo: Vec<u8>,
    bye: Vec<u8>,
    timed_out: Vec<u8>,
    shutting_down: Vec<u8>,
}

impl ServerPolicy {
    /// A policy with the timeouts of limits.rs. `hostname` is a domain name, which the configuration has checked.
    pub fn new(hostname: &str, max_message_bytes: u64, max_recipients: usize) -> Self {
        let line = |text: String| (text + "\r\n").into_bytes();
        ServerPolicy {
            hostname: hostname.to_string(),
            max_message_bytes,
            max_recipients,
            command_timeout: limits::SERVER_COMMAND_TIMEOUT,
            data_timeout: limits::SERVER_DATA_TIMEOUT,
            greeting: line(format!("220 {hostname} ESMTP Ringpost")),
            ehlo: line(format!(
                "250-{hostname}\r\n250-PIPELINING\r\n250-SIZE {max_message_bytes}\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES"
            )),
            helo: line(format!("250 {hostname}")),
            bye: line(format!("221 2.0.0 {hostname} closing connection")),
            timed_out: line(format!("421 4.4.2 {hostname} timed out waiting for you, closing connection")),
            shutting_down: line(format!("421 4.3.2 {hostname} is shutting down, try again soon")),
        }
    }
}

/// What the driver knows about the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerFacts {
    /// Its address, for the Received header.
    pub address: IpAddr,
    /// It may send mail to any domain.
    pub may_relay: bool,
}

/// What the driver does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Wait for bytes. What was not consumed is the start of a line: it is given again in front of them.
    NeedInput,
    /// The next piece of message data, in wire form: dot-stuffed, and the last piece ends with the final `.` CRLF, so
    /// that the concatenation can be sent behind a prepended header. For an empty message it is `.` CRLF.
    Body(&'a [u8]),
    /// The message whose pieces came is whole and valid. Make it durable, then call [`Server::handle_verdict`].
    Message,
    /// Drop the pieces of this message: it is refused. The session goes on, the client will be told at the end.
    Discarded(Fault),
    /// MAIL or RCPT was refused, for the log.
    Refused(Refusal<'a>),
    /// Nothing was consumed: a verdict is due, or `out` holds `limits::SESSION_OUT_BYTES` that must be sent first.
    Blocked,
    /// Send `out`, then close. No further bytes are wanted.
    Close,
}

/// A MAIL or RCPT that was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// The command line, without its CRLF, as the client sent it.
    pub line: &'a [u8],
    /// The reply, with its CRLF.
    pub reply: &'static [u8],
}

/// What became of a message that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is on stable storage: from here on it is ours.
    Accepted(MessageId),
    /// Too many messages wait. 452 4.3.1.
    Busy,
    /// No room on the disk. 452 4.3.1.
    Full,
    /// It could not be stored for another reason. 451 4.3.0.
    LocalError,
}

/// Where the session is. All transitions are in this file: `command`, `data`, `handle_*` and the commands.
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
    /// Nothing is read any more.
    Closed,
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
/// Lives on the shard that owns the connection; below 512 bytes, with no memory of its own on the heap before the first
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
    /// In a line that is too long: the rest of it is dropped.
    swallowing: bool,
    errors: u8,
    helo_len: u8,
    helo: [u8; HELO_BYTES],
    deadline: Moment,
    data_began: Moment,
    data: DataScanner,
    envelope: Envelope,
}

const _: () = assert!(size_of::<Server>() <= 512, "5,000 idle sessions are to be cheap");
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
            swallowing: false,
            errors: 0,
            helo_len: 0,
            helo: [0; HELO_BYTES],
            deadline: now + policy.command_timeout,
            data_began: now,
            data: DataScanner::new(0),
            envelope: Envelope::default(),
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

    /// MAIL was accepted, and neither a reply to the data nor RSET, EHLO or HELO has ended the transaction yet.
    pub fn in_transaction(&self) -> bool {
        !matches!(self.state, State::Fresh | State::Idle | State::Closed)
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
        loop {
            match self.state {
                State::Closed => return (input.len(), Step::Close),
                State::Verdict => return (at, Step::Blocked),
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
                State::Fresh | State::Idle | State::Envelope => {
                    let rest = &input[at..];
                    if rest.is_empty() {
                        return (at, Step::NeedInput);
                    }
                    if out.len() >= limits::SESSION_OUT_BYTES {
                        return (at, Step::Blocked);
                    }
                    let line = match command::find_line(rest) {
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
                            self.failed(text::LINE_TOO_LONG, out);
                            continue;
                        }
                    };
                    at += line.len() + 2;
                    self.deadline = now + self.policy.command_timeout;
                    if let Err(refusal) = self.command(line, now, out) {
                        return (at, Step::Refused(refusal));
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
            }
            Verdict::Busy => out.extend_from_slice(text::BUSY),
            Verdict::Full => out.extend_from_slice(text::FULL),
            Verdict::LocalError => out.extend_from_slice(text::LOCAL_ERROR),
        }
        self.end_transaction(now, out);
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come: 421 and the end, and `true`. Earlier: nothing.
    pub fn handle_timeout(&mut self, now: Moment, out: &mut Vec<u8>) -> bool {
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

    // --- poll -----------------------------------------------------------------------------------------------------

    /// When to call [`handle_timeout`](Self::handle_timeout), `None` while the client owes nothing.
    pub fn poll_timeout(&self) -> Option<Moment> {
        (self.deadline != Moment::NEVER).then_some(self.deadline)
    }

    // --- transitions ----------------------------------------------------------------------------------------------

    /// One command line, without CRLF.
    fn command<'a>(&mut self, line: &'a [u8], now: Moment, out: &mut Vec<u8>) -> Result<(), Refusal<'a>> {
        let reply = match command::parse(line) {
            Ok(Command::Mail { from, params }) => match self.mail(from.address, params) {
                Ok(()) => text::SENDER_OK,
                Err(reply) => return self.refused(line, reply, out),
            },
            Ok(Command::Rcpt { to }) => match self.rcpt(to.address, to.domain_at) {
                Ok(()) => text::RECIPIENT_OK,
                Err(reply) => return self.refused(line, reply, out),
            },
            Ok(Command::Data) => match self.state {
                State::Envelope if self.envelope.recipient_count() > 0 => {
                    self.state = State::Data;
                    self.data = DataScanner::new(self.policy.max_message_bytes);
                    self.data_began = now;
                    self.deadline = now + self.policy.data_timeout;
                    text::START_DATA
                }
                State::Envelope => {
                    self.failed(text::NO_RECIPIENTS, out);
                    return Ok(());
                }
                _ => {
                    self.failed(text::MAIL_FIRST, out);
                    return Ok(());
                }
            },
            Ok(Command::Ehlo(name)) => {
                out.extend_from_slice(&self.policy.ehlo);
                self.hello(name, true, now, out);
                return Ok(());
            }
            Ok(Command::Helo(name)) => {
                out.extend_from_slice(&self.policy.helo);
                self.hello(name, false, now, out);
                return Ok(());
            }
            Ok(Command::Rset) => {
                out.extend_from_slice(text::OK);
                if self.state == State::Envelope {
                    self.end_transaction(now, out);
                }
                return Ok(());
            }
            Ok(Command::Quit) => {
                out.extend_from_slice(&self.policy.bye);
                self.close();
                return Ok(());
            }
            Ok(Command::Noop) => text::OK,
            Ok(Command::Vrfy) => text::CANNOT_VERIFY,
            Ok(Command::Help) => text::HELP,
            Ok(Command::Expn) => text::NOT_IMPLEMENTED,
            Err(error) => {
                let reply = error_reply(error);
                let envelope_command = matches!(
                    error,
                    CommandError::Path(..)
                        | CommandError::UnknownParameter(_)
                        | CommandError::Arguments(Verb::Mail | Verb::Rcpt)
                );
                if envelope_command {
                    return self.refused(line, reply, out);
                }
                self.failed(reply, out);
                return Ok(());
            }
        };
        self.errors = 0;
        out.extend_from_slice(reply);
        Ok(())
    }

    fn mail(&mut self, sender: &[u8], params: MailParams) -> Result<(), &'static [u8]> {
        match self.state {
            State::Fresh => return Err(text::HELLO_FIRST),
            State::Envelope => return Err(text::NESTED_MAIL),
            _ => {}
        }
        if params.any && !self.esmtp {
            return Err(text::UNKNOWN_PARAMETER);
        }
        if params.size > self.policy.max_message_bytes {
            return Err(text::TOO_BIG);
        }
        if self.busy {
            return Err(text::BUSY);
        }
        self.envelope.set_sender(sender);
        self.envelope.options.body = if params.eight_bit { BodyType::EightBit } else { BodyType::SevenBit };
        self.envelope.declared_size = params.size;
        self.state = State::Envelope;
        Ok(())
    }

    fn rcpt(&mut self, address: &[u8], domain_at: usize) -> Result<(), &'static [u8]> {
        if self.state != State::Envelope {
            return Err(text::MAIL_FIRST);
        }
        if !self.peer.may_relay {
            return Err(text::NO_RELAY);
        }
        // RFC 5321 §4.5.1 asks a server that delivers mail to take it for Postmaster. This one has no mailboxes, and a
        // name without a domain can be routed nowhere.
        if domain_at == address.len() {
            return Err(text::NO_POSTMASTER);
        }
        if self.envelope.recipient_count() >= self.policy.max_recipients + usize::from(planted!(OneRecipientTooMany)) {
            return Err(text::TOO_MANY_RECIPIENTS);
        }
        self.envelope.add_recipient(address, domain_at);
        Ok(())
    }

    /// EHLO and HELO end a transaction like RSET (RFC 5321 §4.1.4); the reply stands in `out`.
    fn hello(&mut self, name: &[u8], esmtp: bool, now: Moment, out: &mut Vec<u8>) {
        self.errors = 0;
        self.esmtp = esmtp;
        self.helo[..name.len()].copy_from_slice(name);
        self.helo_len = u8::try_from(name.len()).expect("a host name has at most 255 octets");
        self.end_transaction(now, out);
    }

    /// Message data: hands on what is valid, drops what is refused, until the end.
    fn data<'a>(&mut self, input: &'a [u8], now: Moment) -> (usize, Option<Step<'a>>) {
        let scanned = self.data.scan(input);
        let slowest = Duration::from_secs(self.data.bytes() / limits::SERVER_DATA_BYTES_PER_SECOND);
        self.deadline = (now + self.policy.data_timeout).min(self.data_began + limits::SERVER_DATA_GRACE + slowest);
        let step = match (self.state, self.data.fault()) {
            (State::Data, None) => Some(Step::Body(&input[..scanned.consumed])),
            (State::Data, Some(fault)) => {
                self.state = State::Refusing(fault);
                Some(Step::Discarded(fault))
            }
            _ => None,
        };
        if scanned.ended {
            self.state = match self.state {
                State::Refusing(fault) => State::Refused(fault),
                _ => State::Ended,
            };
        }
        (scanned.consumed, step)
    }

    /// The transaction is over and answered.
    fn end_transaction(&mut self, now: Moment, out: &mut Vec<u8>) {
        self.state = State::Idle;
        self.errors = 0;
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

    fn refused<'a>(&mut self, line: &'a [u8], reply: &'static [u8], out: &mut Vec<u8>) -> Result<(), Refusal<'a>> {
        // A refused recipient is no misbehaviour, a command out of order or malformed is.
        if reply[1] == b'0' {
            self.failed(reply, out)
        } else {
            out.extend_from_slice(reply)
        }
        Err(Refusal { line, reply })
    }

    /// A command that is no SMTP here; too many of them end the session.
    fn failed(&mut self, reply: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(reply);
        self.errors += 1;
        if self.errors == limits::SESSION_ERRORS {
            out.extend_from_slice(text::TOO_MANY_ERRORS);
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

fn error_reply(error: CommandError) -> &'static [u8] {
    use {PathError as P, Verb as V};
    match error {
        CommandError::NotPrintable => text::BAD_LINE,
        CommandError::Unknown => text::UNKNOWN,
        CommandError::Arguments(V::Hello) => text::BAD_HOST,
        CommandError::Arguments(V::Mail) => text::BAD_MAIL,
        CommandError::Arguments(V::Rcpt) => text::BAD_RCPT,
        CommandError::Arguments(V::Other) => text::BAD_ARGUMENTS,
        CommandError::Path(V::Rcpt, P::Syntax) => text::BAD_RECIPIENT,
        CommandError::Path(V::Rcpt, P::NoDomain) => text::RECIPIENT_WITHOUT_DOMAIN,
        CommandError::Path(V::Rcpt, P::TooLong) => text::RECIPIENT_TOO_LONG,
        CommandError::Path(_, P::Syntax) => text::BAD_SENDER,
        CommandError::Path(_, P::NoDomain) => text::SENDER_WITHOUT_DOMAIN,
        CommandError::Path(_, P::TooLong) => text::SENDER_TOO_LONG,
        CommandError::UnknownParameter(_) => text::UNKNOWN_PARAMETER,
    }
}

fn fault_reply(fault: Fault) -> &'static [u8] {
    match fault {
        Fault::BareLf => text::BARE_LF,
        Fault::BareCr => text::BARE_CR,
        Fault::Nul => text::NUL,
        Fault::TooBig => text::TOO_BIG,
        Fault::Loop => text::LOOP,
    }
}
