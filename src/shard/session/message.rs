//! A message as it comes in: its text is kept or goes to the log in chunks, its header section is looked at, and at its end it is given
//! to the log.

use super::{Commit, Context, Session, Stream, waiter};
use crate::limits;
use crate::message::trace::Received;
use crate::message::{MessageId, fields};
use crate::shard::Turn;
use crate::shard::event::Stage;
use crate::shard::gate::Sought;
use crate::smtp::server::Verdict;
use crate::spool::{self, Body, NewMessage};

impl Session {
    /// Keeps a piece of a body that comes in several.
    pub(super) fn collect(&mut self, piece: &[u8], turn: &Turn<'_>, context: &mut Context<'_>) {
        if let Stream::Failed(_) = self.stream {
            return;
        }
        self.body.extend_from_slice(piece);
        let chunk = context.log.chunk_bytes();
        while self.body.len() > chunk {
            let id = match self.stream {
                Stream::Yes(id) => id,
                _ => self.id.take().unwrap_or_else(|| context.log.next_id(turn.now.wall)),
            };
            if self.stream == Stream::No {
                let body = std::mem::take(&mut self.body);
                self.look_at_header(&body, context.gate.sought());
                self.body = body;
            }
            self.stream = Stream::Yes(id);
            if let Err(refusal) = context.log.stream_chunk(id, &self.body[..chunk]) {
                context.log.stream_abort(id);
                self.stream = Stream::Failed(refusal);
                self.body = Vec::new();
                return;
            }
            self.body.drain(..if planted!(TailLost) { self.body.len() } else { chunk });
        }
    }

    /// TLS-Required: No (RFC 8689 §3, §4.1) stands in the header section, which `data` begins with, and so do campaign
    /// and pool.
    fn look_at_header(&mut self, data: &[u8], sought: Sought<'_>) {
        if let Some((name, sources)) = sought.pool
            && let Some(pool) = fields::first_value(data, name, limits::SHAPING_NAME_BYTES)
            && sources.number_of(&pool).is_some()
        {
            self.server.envelope_mut().set_pool(&pool);
        }
        let campaign = sought.campaign.and_then(|name| fields::first_value(data, name, limits::SHAPING_NAME_BYTES));
        if let Some(campaign) = campaign {
            self.server.envelope_mut().set_campaign(&campaign);
        }
        if self.server.may_have_tls_required() && fields::tls_required_no(data) {
            self.server.envelope_mut().options.tls_optional = true;
        }
    }

    /// All of the message is here: gives it to the log. The verdict comes with its commit, or at once if it is no.
    pub(super) fn complete(
        &mut self,
        whole: Option<&[u8]>,
        turn: &mut Turn<'_>,
        context: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) {
        let now = turn.now;
        if self.is_mended() {
            self.mend(b"", true, turn, context);
        }
        if let Some(reply) = self.header_refusal() {
            self.abandon(context.log);
            self.body = Vec::new();
            self.expect_header();
            turn.report.stats.rejected.add(1);
            self.tell_refused(turn, Stage::Data, b"", &reply);
            return self.server.handle_refusal(&reply, now.mono, out);
        }
        let stream = std::mem::replace(&mut self.stream, Stream::No);
        let outcome = match stream {
            Stream::Failed(refusal) => Err(refusal),
            Stream::No => {
                let id = self.id.take().unwrap_or_else(|| context.log.next_id(now.wall));
                let sought = context.gate.sought();
                if sought.is_any() || self.server.may_have_tls_required() {
                    let body = std::mem::take(&mut self.body);
                    self.look_at_header(whole.unwrap_or(&body), sought);
                    self.body = body;
                }
                self.accept(id, Body::Whole(whole.unwrap_or(&self.body)), turn, context)
            }
            Stream::Yes(id) => context
                .log
                .stream_chunk(id, &self.body)
                .and_then(|()| self.accept(id, Body::Streamed, turn, context))
                .inspect_err(|_| context.log.stream_abort(id)),
        };
        if self.body.capacity() > limits::SESSION_TAIL_BYTES {
            // A large message does not leave its room to an idle session.
            self.body = Vec::new();
        } else {
            self.body.clear();
        }
        self.expect_header();
        match outcome {
            Ok(()) => self.commit = Some(Commit { began: self.began, ended: now.mono }),
            Err(refusal) => {
                turn.report.stats.rejected.add(1);
                self.server.handle_verdict(verdict(refusal), now.mono, out);
            }
        }
    }

    fn protocol(&self) -> &'static str {
        let server = &self.server;
        let utf8 = server.envelope().options.smtputf8;
        protocol_word(
            server.is_esmtp(),
            utf8,
            server.tls().is_some() && !planted!(TlsUntold),
            server.account().is_some(),
        )
    }

    fn accept(
        &self,
        id: MessageId,
        body: Body<'_>,
        turn: &Turn<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), spool::Refusal> {
        let peer = self.server.peer().address;
        context.trace.clear();
        let received = Received {
            helo: self.server.helo(),
            peer,
            host: context.hostname,
            protocol: self.protocol(),
            id,
            priority: self.server.envelope().options.priority,
            date: context.dates.text(turn.now.wall),
        };
        received.write(context.trace);
        context.params.clear();
        self.server.envelope().write_params(context.params);
        let message = NewMessage {
            id,
            envelope: self.server.envelope(),
            accepted: turn.now.wall,
            peer,
            params: context.params,
            trace: context.trace,
            body,
        };
        context.log.accept(&message, waiter(self.conn))
    }
}

/// RFC 3848 and RFC 6531 §4.3: the word behind "with" in Received.
fn protocol_word(esmtp: bool, utf8: bool, tls: bool, authenticated: bool) -> &'static str {
    match (esmtp, utf8, tls, authenticated) {
        (false, ..) => "SMTP",
        (_, false, false, false) => "ESMTP",
        (_, false, true, false) => "ESMTPS",
        (_, false, false, true) => "ESMTPA",
        (_, false, true, true) => "ESMTPSA",
        (_, true, false, false) => "UTF8SMTP",
        (_, true, true, false) => "UTF8SMTPS",
        (_, true, false, true) => "UTF8SMTPA",
        (_, true, true, true) => "UTF8SMTPSA",
    }
}

/// The reply to a message that the log does not take.
pub(in crate::shard) fn verdict(refusal: spool::Refusal) -> Verdict {
    match refusal {
        spool::Refusal::Full => Verdict::Full,
        spool::Refusal::Busy => Verdict::Busy,
        spool::Refusal::Fault | spool::Refusal::TooLarge => Verdict::LocalError,
    }
}
