//! One inbound connection: the SMTP server machine, the TLS around it, and the bytes it has not consumed, or has said and
//! not yet sent.
//!
//! The driver's loop is [`feed`]: it hands the machine its input until it wants no more, and carries out each step. The
//! replies of one event leave in one write. Lives on the shard that accepted the connection.

mod message;
mod opening;
mod submission;

use super::Turn;
use super::event::{self, Event, Rejected, Stage};
use super::gate::{self, Gate};
use super::handshakes::{Handshakes, Party};
use crate::config::ListenerKind;
use crate::limits;
use crate::message::MessageId;
use crate::message::trace::DateCache;
use crate::rt::ConnId;
use crate::rt::tls::Tls;
use crate::smtp::sasl::Failure;
use crate::smtp::server::{self, PeerFacts, Refusal, Server, Step};
use crate::spool::{self, Log};
use crate::time::Moment;
pub(super) use message::verdict;
use std::io::IoSlice;
use std::net::IpAddr;
use std::sync::Arc;
use submission::Mending;

/// See the module.
pub(super) struct Session {
    pub(super) conn: ConnId,
    /// By which it came in.
    listener: usize,
    pub(super) server: Server,
    opening: Opening,
    tls: Option<Box<Tls>>,
    /// The handshake must have ended by then, and counts for this client.
    handshake: Option<(Moment, Party)>,
    /// Input not consumed yet: the start of a line, or commands behind a message that is being made durable.
    tail: Vec<u8>,
    /// Replies the socket has not taken.
    unsent: Vec<u8>,
    body: Vec<u8>,
    stream: Stream,
    mending: Mending,
    /// Of the message under way, if it has one already.
    id: Option<MessageId>,
    /// The client that is counted until this session ends.
    pub(super) admitted: Option<IpAddr>,
    /// Wrong passwords that the guards know of.
    guesses: u8,
    began: Moment,
    pub(super) commit: Option<Commit>,
    /// The machine wants the connection closed once all replies are out: since when.
    closing: Option<Moment>,
    /// TLS's own end of the connection is sent.
    said_goodbye: bool,
    /// The client has closed its direction.
    ended: bool,
    paused: bool,
    /// Paused because the log has much to write.
    pub(super) waits_for_log: bool,
    /// It stands in the shard's list of those.
    pub(super) listed: bool,
    /// It is counted among those about to finish a message.
    pub(super) counted: bool,
}

/// A message between its last byte and stable storage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Commit {
    /// When its data began.
    pub(super) began: Moment,
    /// When its last byte came.
    pub(super) ended: Moment,
}

/// A body too large for one record goes to the log in chunks while it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    /// It is all in `body` so far.
    No,
    /// Under this id.
    Yes(MessageId),
    /// The log refused a chunk: the rest is read and dropped.
    Failed(spool::Refusal),
}

/// What comes before the greeting.
#[derive(Debug, PartialEq, Eq)]
enum Opening {
    /// It has been said.
    Done,
    /// A PROXY header, of which this much has come; until then.
    Proxy(Vec<u8>, Moment),
    /// Silence, until then.
    Silence(Moment),
}

/// What a session needs of its shard.
pub(super) struct Context<'a> {
    pub(super) gate: &'a mut Gate,
    /// What TLS decrypts to.
    pub(super) plain: &'a mut Vec<u8>,
    /// Those under way.
    pub(super) handshakes: &'a Handshakes,
    pub(super) log: &'a mut Log,
    pub(super) dates: &'a mut DateCache,
    pub(super) params: &'a mut Vec<u8>,
    pub(super) trace: &'a mut Vec<u8>,
    pub(super) hostname: &'a str,
    /// No new mail now: 452 to MAIL.
    pub(super) busy: bool,
}

/// Whether the session lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Open,
    /// Everything is said: close and forget it.
    Over,
}

impl Session {
    /// A session for a new connection: what it says first is left in `out`.
    pub(super) fn begin(
        conn: ConnId,
        listener: usize,
        peer: PeerFacts,
        turn: &mut Turn<'_>,
        context: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Self {
        let now = turn.now.mono;
        let server = Server::new(Arc::clone(context.gate.policy(listener)), peer, now, out);
        let rules = context.gate.listener(listener);
        let opening = if rules.proxy_networks.contain(peer.address) {
            Opening::Proxy(Vec::new(), now + limits::PROXY_HEADER_TIMEOUT)
        } else {
            Opening::of(rules, peer, now)
        };
        let rules_mend = rules.kind != ListenerKind::Relay;
        let mut session = Session {
            conn,
            listener,
            server,
            opening,
            tls: None,
            handshake: None,
            tail: Vec::new(),
            unsent: Vec::new(),
            body: Vec::new(),
            stream: Stream::No,
            mending: if rules_mend { Mending::Header(Vec::new()) } else { Mending::Never },
            id: None,
            admitted: None,
            guesses: 0,
            began: Moment(0),
            commit: None,
            closing: None,
            said_goodbye: false,
            ended: false,
            paused: false,
            waits_for_log: false,
            listed: false,
            counted: false,
        };
        if session.opening == Opening::Done {
            session.begin_implicit_tls(turn, context, out);
        } else {
            out.clear();
        }
        session
    }

    /// Unconsumed input, unsent replies, collected body, in bytes; recipients of the open transaction.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn sizes(&self) -> [usize; 4] {
        [self.tail.len(), self.unsent.len(), self.body.len(), self.server.envelope().recipient_count()]
    }

    fn plain(&mut self, bytes: &[u8], turn: &mut Turn<'_>, context: &mut Context<'_>, out: &mut Vec<u8>) -> Fate {
        if self.closing.is_some() {
            // The last reply is on its way; whatever the client still says is not wanted.
            return Fate::Open;
        }
        if self.tail.is_empty() && self.may_feed() {
            let consumed = self.feed(bytes, turn, context, out);
            let rest = if planted!(PipelinedLost) && self.commit.is_some() { &[] } else { &bytes[consumed..] };
            self.tail.extend_from_slice(rest);
        } else {
            self.tail.extend_from_slice(bytes);
            self.feed_tail(turn, context, out);
        }
        self.go_on(turn, context, out)
    }

    /// Sends the replies; feeds on while the machine had stopped only for want of room that there is now.
    fn go_on(&mut self, turn: &mut Turn<'_>, context: &mut Context<'_>, out: &mut Vec<u8>) -> Fate {
        while out.len() >= limits::SESSION_OUT_BYTES && self.unsent.is_empty() && self.closing.is_none() {
            if self.flush(turn, out) == Fate::Over {
                return Fate::Over;
            }
            self.feed_tail(turn, context, out);
        }
        self.settle_input(turn, context);
        self.flush(turn, out)
    }

    /// Whether the machine may be given input: not while its last replies have nowhere to go.
    fn may_feed(&self) -> bool {
        (self.unsent.len() <= limits::SESSION_OUT_BYTES || planted!(WindowIgnored)) && self.closing.is_none()
    }

    fn close(&mut self, now: Moment) {
        self.closing.get_or_insert(now);
    }

    /// When the session must be looked at. A client that does not take its last replies has a moment for them.
    pub(super) fn deadline(&self) -> Option<Moment> {
        if planted!(SessionNeverTimesOut) {
            return None;
        }
        match (self.closing, &self.opening) {
            (Some(since), _) => Some(since + limits::SESSION_LINGER),
            (None, Opening::Proxy(_, until) | Opening::Silence(until)) => Some(*until),
            (None, Opening::Done) => {
                [self.handshake.map(|(until, _)| until), self.server.poll_timeout()].into_iter().flatten().min()
            }
        }
    }

    /// Time has passed: perhaps too much.
    pub(super) fn timeout(&mut self, turn: &mut Turn<'_>, context: &mut Context<'_>, out: &mut Vec<u8>) -> Fate {
        let now = turn.now.mono;
        match &self.opening {
            Opening::Proxy(_, until) if now >= *until => return self.hang_up(turn, out),
            Opening::Silence(until) if now >= *until => {
                let peer = self.server.peer();
                self.open(peer, turn, context, out);
                return self.flush(turn, out);
            }
            Opening::Proxy(..) | Opening::Silence(_) => return Fate::Open,
            Opening::Done => {}
        }
        if self.handshake.is_some_and(|(until, _)| now >= until) {
            return Fate::Over;
        }
        if self.server.handle_timeout(now, out) {
            turn.report.stats.rejected.add(1);
            self.tell_refused(turn, Stage::Session, b"", last_line(out));
            return self.hang_up(turn, out);
        }
        // A client that made errors may have waited for this.
        if self.closing.is_none() { self.proceed(turn, context, out) } else { Fate::Open }
    }

    /// Whether its last replies have waited long enough.
    pub(super) fn has_lingered(&self, now: Moment) -> bool {
        self.closing.is_some_and(|since| now >= since + limits::SESSION_LINGER)
    }

    /// Goes on with what was pipelined behind a message, after its verdict is in `out`.
    pub(super) fn proceed(&mut self, turn: &mut Turn<'_>, context: &mut Context<'_>, out: &mut Vec<u8>) -> Fate {
        self.tell_guesses(turn, context);
        self.feed_tail(turn, context, out);
        if self.ended && self.commit.is_none() {
            self.close(turn.now.mono);
        }
        self.go_on(turn, context, out)
    }

    /// The client has closed its direction. A message that is complete is still answered.
    pub(super) fn ended(&mut self, turn: &mut Turn<'_>) -> Fate {
        self.ended = true;
        if self.commit.is_some() {
            return Fate::Open;
        }
        self.close(turn.now.mono);
        self.flush(turn, &mut Vec::new())
    }

    /// Frees what the log holds for a message that will not be completed.
    pub(super) fn abandon(&mut self, log: &mut Log) {
        if let Stream::Yes(id) = std::mem::replace(&mut self.stream, Stream::No)
            && self.commit.is_none()
            && !planted!(StreamNotAborted)
        {
            log.stream_abort(id);
        }
    }

    /// The machine has put its last words into `out`.
    pub(super) fn hang_up(&mut self, turn: &mut Turn<'_>, out: &mut Vec<u8>) -> Fate {
        self.close(turn.now.mono);
        self.flush(turn, out)
    }

    /// The socket takes more, or there is something to say.
    pub(super) fn flush(&mut self, turn: &mut Turn<'_>, out: &mut Vec<u8>) -> Fate {
        if let Some(tls) = &mut self.tls {
            let mut encrypted = Vec::new();
            let sent = tls.send(out, &mut encrypted);
            if self.closing.is_some() && !self.said_goodbye {
                self.said_goodbye = true;
                tls.close(&mut encrypted);
            }
            if sent.is_err() {
                return Fate::Over;
            }
            *out = encrypted;
        }
        if !self.unsent.is_empty() {
            self.unsent.append(out);
            // More than the client takes: `Writable` goes on with it.
            return if self.closing.is_some() && self.unsent.len() > limits::SESSION_OUT_BYTES {
                Fate::Over
            } else {
                Fate::Open
            };
        }
        self.send(turn, out);
        out.clear();
        if self.closing.is_some() && self.unsent.is_empty() { Fate::Over } else { Fate::Open }
    }

    /// Bytes as they are to be on the wire.
    fn send(&mut self, turn: &mut Turn<'_>, bytes: &[u8]) {
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(bytes);
        } else if !bytes.is_empty() {
            let taken = turn.io.write(self.conn, &[IoSlice::new(bytes)]);
            self.unsent.extend_from_slice(&bytes[taken..]);
        }
    }

    /// The socket has room again.
    pub(super) fn writable(&mut self, turn: &mut Turn<'_>, context: &mut Context<'_>, out: &mut Vec<u8>) -> Fate {
        let mut unsent = std::mem::take(&mut self.unsent);
        let taken = turn.io.write(self.conn, &[IoSlice::new(&unsent)]);
        unsent.drain(..taken);
        self.unsent = unsent;
        if !self.unsent.is_empty() {
            return Fate::Open;
        }
        self.unsent = Vec::new();
        // Commands may wait that were not answered for want of room.
        if self.closing.is_some() { Fate::Over } else { self.proceed(turn, context, out) }
    }

    fn feed_tail(&mut self, turn: &mut Turn<'_>, context: &mut Context<'_>, out: &mut Vec<u8>) {
        // A machine that has said its last words says so without input, too.
        if !self.may_feed() || self.tail.is_empty() && !self.server.is_closed() {
            return;
        }
        let mut tail = std::mem::take(&mut self.tail);
        let consumed = self.feed(&tail, turn, context, out);
        tail.drain(..consumed);
        if !tail.is_empty() {
            self.tail = tail;
        }
    }

    /// Pauses a client that sends faster than its mail can be stored or its replies be sent, and lets it go on later.
    fn settle_input(&mut self, turn: &mut Turn<'_>, context: &Context<'_>) {
        let log_is_behind = self.stream != Stream::No && context.log.pressure() > context.log.pressure_limit();
        let wants_pause = log_is_behind
            || self.tail.len() > limits::SESSION_TAIL_BYTES
            || self.unsent.len() > limits::SESSION_OUT_BYTES;
        let wants_pause = wants_pause && !planted!(WindowIgnored);
        self.waits_for_log = log_is_behind;
        if wants_pause != self.paused {
            self.paused = wants_pause;
            if wants_pause { turn.io.pause(self.conn) } else { turn.io.resume(self.conn) }
        }
    }

    /// Whether a message of it may be complete before long: a transaction is open and its data has not ended.
    pub(super) fn is_about_to_finish(&self) -> bool {
        self.commit.is_none() && self.server.in_transaction()
    }

    /// Tells the guards of guesses that have failed since it was asked last.
    fn tell_guesses(&mut self, turn: &mut Turn<'_>, context: &Context<'_>) {
        let failed = self.server.failed_auths();
        if failed > std::mem::replace(&mut self.guesses, failed) {
            turn.report.stats.auth_failures.add(1);
            context.gate.auth_failed(self.server.asked_account(), self.server.peer().address, turn);
            // Not the account: it may be a password, in the wrong field.
            turn.report.stats.rejected.add(1);
            self.tell_refused(turn, Stage::Session, b"", Failure::Credentials.reply());
        }
    }

    /// The machine's loop. Returns how much of `input` it consumed.
    fn feed(&mut self, input: &[u8], turn: &mut Turn<'_>, context: &mut Context<'_>, out: &mut Vec<u8>) -> usize {
        self.server.set_busy(context.busy);
        self.server.set_tls_busy(self.is_tls_busy(context));
        self.server.set_wall(turn.now.wall);
        let mut at = 0;
        // A message that comes in one piece is committed from where it was received.
        let mut whole: Option<&[u8]> = None;
        loop {
            let (consumed, step) = self.server.step(&input[at..], turn.now.mono, out);
            at += consumed;
            match step {
                Step::NeedInput | Step::Blocked => break,
                Step::Close => {
                    let last = last_line(out);
                    if last.starts_with(b"4") || last.starts_with(b"5") {
                        turn.report.stats.rejected.add(1);
                        self.tell_refused(turn, Stage::Session, b"", last);
                    }
                    self.close(turn.now.mono);
                    break;
                }
                Step::Body(piece) if self.is_mended() => {
                    if self.body.is_empty() && self.stream == Stream::No {
                        self.began = turn.now.mono;
                    }
                    self.mend(piece, false, turn, context);
                }
                Step::Body(piece) => {
                    let small = piece.len() <= context.log.chunk_bytes();
                    if small && self.body.is_empty() && self.stream == Stream::No && whole.is_none() {
                        self.began = turn.now.mono;
                        whole = Some(piece);
                    } else {
                        if self.body.is_empty() && self.stream == Stream::No && whole.is_none() {
                            self.began = turn.now.mono;
                        }
                        if let Some(first) = whole.take() {
                            self.collect(first, turn, context);
                        }
                        self.collect(piece, turn, context);
                    }
                }
                Step::Ask => {
                    let question = self.server.take_question();
                    if let Some(reply) = context.gate.ask(self.conn, self.listener, &self.server, question, turn) {
                        self.answered(reply, turn, out);
                        // It may be another client now (XCLIENT).
                        self.server.set_tls_busy(self.is_tls_busy(context));
                    }
                }
                Step::StartTls => {
                    // What came behind the command was not encrypted: it is dropped (RFC 3207 §4.2). The reply goes out as it is.
                    at = if planted!(InjectedKept) { at } else { input.len() };
                    self.send(turn, out);
                    out.clear();
                    self.begin_tls(turn, context, out);
                    break;
                }
                Step::Dropped => {
                    whole = None;
                    if !planted!(ChunksNotDropped) {
                        self.abandon(context.log);
                    }
                    self.body = Vec::new();
                    self.expect_header();
                }
                Step::Message => self.complete(whole.take(), turn, context, out),
                Step::Discarded(fault) => {
                    whole = None;
                    self.abandon(context.log);
                    self.body = Vec::new();
                    self.expect_header();
                    turn.report.stats.rejected.add(1);
                    self.tell_refused(turn, Stage::Data, b"", server::fault_reply(fault));
                }
                Step::Refused(Refusal { line, reply }) => {
                    turn.report.stats.rejected.add(1);
                    // What is no RCPT is MAIL, or one of its old sisters (SEND, SOML, SAML).
                    let is_rcpt = line.first().is_some_and(|b| b.eq_ignore_ascii_case(&b'R'));
                    let stage = if is_rcpt { Stage::Rcpt } else { Stage::Mail };
                    self.tell_refused(turn, stage, line, reply);
                }
            }
        }
        if let Some(first) = whole {
            self.collect(first, turn, context);
        }
        self.tell_guesses(turn, context);
        at
    }

    /// The answer to what the session has asked. The caller goes on with its input.
    pub(super) fn answered(&mut self, reply: gate::Reply, turn: &mut Turn<'_>, out: &mut Vec<u8>) {
        let now = turn.now.mono;
        let refused = match &reply {
            gate::Reply::Text(text) if self.server.in_transaction() => Some(text.clone()),
            _ => None,
        };
        if let Some(text) = refused {
            let stage = if self.server.envelope().recipient_count() == 0 { Stage::Mail } else { Stage::Rcpt };
            turn.report.stats.rejected.add(1);
            let recipient = self.server.envelope().recipients().last().map_or(&b""[..], |r| r.address);
            self.tell_refused(turn, stage, recipient, &text);
        }
        let server = &mut self.server;
        // One that was asked to end in the middle of AUTH waits for nothing but its client.
        if !server.is_closed() {
            reply.answer(|answer| server.handle_answer(answer, now, out));
        }
    }

    fn tell_refused(&self, turn: &mut Turn<'_>, stage: Stage, line: &[u8], reply: &[u8]) {
        if turn.report.events.wants_mail_events() {
            let text = Rejected::texts(self.server.envelope().sender(), line, self.server.helo(), reply);
            turn.report.events.push(Event::Rejected(Rejected {
                at: turn.now.wall,
                peer: self.server.origin(),
                stage,
                code: event::Code::of_reply(reply),
                text,
            }));
        }
    }
}

/// The last of some replies, without its CRLF.
fn last_line(replies: &[u8]) -> &[u8] {
    let replies = replies.strip_suffix(b"\r\n").unwrap_or(replies);
    &replies[memchr::memrchr(b'\n', replies).map_or(0, |at| at + 1)..]
}

/// A session as the log names who waits for a commit.
pub(super) fn waiter(conn: ConnId) -> u64 {
    u64::from(conn.generation) << 32 | u64::from(conn.slot)
}

/// The session that waits.
pub(super) fn waiting(waiter: u64) -> ConnId {
    ConnId { slot: waiter as u32, generation: (waiter >> 32) as u32 }
}
