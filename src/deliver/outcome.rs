//! What a transaction came to, for each of its recipients: delivered, failed for good, or to be tried again; told to the
//! home shard, to the queue and to the log.

use super::connection::Transaction;
use super::{Deliverer, age, login, params, tls};
use crate::limits;
use crate::message::Status;
use crate::queue::{Deferral, DestinationId, Job, JobKey, LastReply, RecipientSet, Resized};
use crate::route::RouteTable;
use crate::rt::ConnId;
use crate::rt::buffer::Slice;
use crate::shard::event::{self, Code, Event, Notice, NoticeKind, TlsNote};
use crate::shard::mailbox::{FinalOutcome, Late, Mail, Settled, Untold};
use crate::shard::stats::LatencyStage;
use crate::shard::{Turn, micros};
use crate::smtp::client::{CloseReason, Outcome, RefusedAt};
use crate::smtp::extensions::Capabilities;
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::spool::RecordView;
use crate::starttls::By;
use crate::time::{Moment, Wall};
use std::net::SocketAddr;

/// Why a connection ended, in the words of a deferral.
pub(super) struct End {
    /// In whole sentences for the operator and the sender.
    pub(super) text: String,
    /// Not by our own QUIT.
    pub(super) is_failure: bool,
    /// TLS came to nothing.
    pub(super) is_tls: bool,
    /// The host would not have us.
    pub(super) is_login: bool,
}

/// `why`: what went wrong with TLS, if that is known better than by the reason.
pub(super) fn end_of_connection(reason: &CloseReason<'_>, why: Option<String>) -> End {
    let text = match reason {
        CloseReason::Refused(reply) => format!("the host refused the session: {} {}", reply.code, reply.text),
        CloseReason::Shutdown(reply) => format!("the host ended the session: {} {}", reply.code, reply.text),
        CloseReason::Unexpected(reply) => format!("the host sent a reply out of place: {} {}", reply.code, reply.text),
        CloseReason::NotSmtp(error) => format!("the host does not speak SMTP: {error:?}"),
        CloseReason::Timeout(awaited) => format!("the host did not answer in time (waiting for {awaited:?})"),
        CloseReason::TlsNotOffered => "the host does not offer STARTTLS".to_owned(),
        CloseReason::TlsRefused(reply) => format!("the host refused STARTTLS: {} {}", reply.code, reply.text),
        CloseReason::TlsFailed => "the TLS handshake failed".to_owned(),
        CloseReason::LoginRefused(_) | CloseReason::NoLogin(_) => login::end_of_login(reason).unwrap_or_default(),
        CloseReason::Injected => "bytes in the clear stood behind the reply to STARTTLS".to_owned(),
        CloseReason::PeerClosed => "the host closed the connection".to_owned(),
        CloseReason::Quit => "the session was ended".to_owned(),
    };
    let text = why.filter(|_| matches!(reason, CloseReason::TlsFailed)).unwrap_or(text);
    let is_login = matches!(reason, CloseReason::LoginRefused(_) | CloseReason::NoLogin(_));
    End { text, is_failure: !matches!(reason, CloseReason::Quit), is_tls: tls::is_about_tls(reason), is_login }
}

/// The reply to a RCPT. 552 without a status of its own means too many recipients, which is for now (RFC 5321
/// §4.5.3.1.10); with one it means what the status says, mostly a full mailbox.
pub(super) fn rcpt_reply(reply: &Reply<'_>, at: Wall, host: &str) -> LastReply {
    let mut reply = last_reply(reply, at, host);
    if reply.code == 552 && reply.status.is_none_or(|s| s == Status::new(5, 5, 3)) {
        (reply.code, reply.status) = (452, Some(Status::new(4, 5, 3)));
    }
    reply
}

/// A reply as it is kept.
pub(super) fn last_reply(reply: &Reply<'_>, at: Wall, host: &str) -> LastReply {
    let status = reply.enhanced.and_then(|e| matches!(e.0, 2 | 4 | 5).then(|| Status::new(e.0, e.1, e.2)));
    LastReply::new(at, host, reply.code, status, reply.text.as_bytes())
}

/// Why we did not send it to a host, which said nothing of that but what it lacks: no reply, and not from there (RFC 3464
/// §2.3.5, §2.3.6).
fn not_sent(reply: &Reply<'_>, at: Wall, host: &str, tls: Option<TlsNote>) -> LastReply {
    let mut status = reply.enhanced.map(|e| Status::new(e.0, e.1, e.2));
    // It was not asked for TLS, since that did not work a while ago: the next try may find it working (RFC 8689 §4.2.1 lets a
    // message fail that no host can take, and nobody has said that yet).
    let rests = tls.is_some_and(|tls| tls.decision.by == By::Broken);
    if rests && status == Some(Status::new(5, 7, 10)) {
        status = Some(Status::new(4, 7, 10));
    }
    // Our own words begin with the status.
    let why = reply.text.split_once(' ').filter(|_| status.is_some()).map_or(reply.text, |(_, why)| why);
    LastReply::new(at, "", 0, status, format!("It was not sent to {host}: {why}").as_bytes())
}

/// A reply as it was kept, to be told again.
pub(super) fn as_reply(last: &LastReply) -> Reply<'_> {
    let enhanced = last.status.map(|s| EnhancedCode(s.class(), s.subject(), s.detail()));
    Reply { code: last.code, enhanced, text: std::str::from_utf8(&last.text).unwrap_or_default() }
}

/// How long the stages of an attempt took, µs.
#[derive(Clone, Copy, Default)]
pub(super) struct Stages {
    pub(super) queue: u64,
    pub(super) connect: u64,
    pub(super) deliver: u64,
}

/// What is known of an attempt, or of the want of one.
#[derive(Clone, Copy, Default)]
pub(super) struct Attempt<'a> {
    /// The host, if it came to one over a network.
    pub(super) remote: Option<SocketAddr>,
    pub(super) stages: Stages,
    /// The whole message was sent, and no reply came.
    pub(super) reply_lost: bool,
    /// The message, if it is in memory here.
    pub(super) record: Option<&'a [u8]>,
    /// The connection's TLS.
    pub(super) tls: Option<TlsNote>,
}

impl Deliverer {
    /// A transaction is over.
    pub(super) fn finished(&mut self, conn: ConnId, token: u64, outcome: &Outcome<'_>, turn: &mut Turn<'_>) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let reused = connection.done > 0;
        let Some(mut transaction) = connection.take_transaction(token) else { return };
        self.scopes.give_back(transaction.counts.take());
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let destination = connection.destination;
        let (host, remote, peer) = (std::rc::Rc::clone(&connection.host), connection.remote, connection.peer);
        let tls = connection.secure.note();
        let connect = if reused { 0 } else { connection.connect_us };
        let key = transaction.job;
        let now = turn.now;
        if let Some(reply) = self.wants_login(conn, outcome, transaction.refused.iter().map(|(_, reply)| reply.code)) {
            return self.rest_for_login((destination, key), &reply, &host, turn);
        }
        if transaction.flown {
            turn.report.stats.flown.add(1);
            turn.report.stats.flights_failed.add(self.flights.landed(&host, outcome, now.mono).into());
        }
        let heard = transaction.answered
            || matches!(outcome, Outcome::Accepted(_))
            || matches!(outcome, Outcome::Refused { stage, .. } if *stage != RefusedAt::Local);
        if heard && let Some(pool) = self.pools.get_mut(&destination) {
            pool.last_answer = now.mono;
            let is_full = pool.connections.len() >= self.queue.window(destination) as usize;
            if is_full
                && matches!(outcome, Outcome::Accepted(_))
                && let Some(resized) = self.queue.took(destination)
            {
                // More may be opened now.
                self.wake(destination);
                self.tell_resized(destination, resized, "it took what it was given", turn);
            }
            if !reused && let Some(pool) = self.pools.get_mut(&destination) {
                // Somebody is there: only now, because a host may greet well and take nothing.
                pool.refusals = 0;
                self.queue.reachable(destination);
            }
        }
        let Some(job) = self.queue.job(key) else { return };
        let stages = Stages {
            queue: micros(transaction.began, job.enqueued),
            connect,
            deliver: micros(now.mono, transaction.began),
        };
        let Transaction { refused, taken, record, answered, .. } = transaction;
        let reply_lost = matches!(outcome, Outcome::Lost { after_final_dot: true });
        let attempt = Attempt { remote, stages, reply_lost: false, record: Some(&record), tls };
        // Who shares the outcome of the transaction: all but those refused, or taken, by themselves.
        let all = job.recipients.as_slice();
        let rest: RecipientSet = if refused.is_empty() && taken.is_empty() {
            job.recipients.clone()
        } else {
            let settled = refused.iter().chain(&taken);
            let is_settled = |at: usize| settled.clone().any(|(place, _)| *place as usize == at);
            let rest: Vec<u16> = (0..all.len()).filter(|at| !is_settled(*at)).map(|at| all[at]).collect();
            RecipientSet::from_slice(&rest)
        };
        for (place, reply) in taken {
            let index = self.queue.job(key).and_then(|job| job.recipients.as_slice().get(place as usize).copied());
            if let Some(index) = index {
                let one = RecipientSet::One(index);
                self.delivered(key, &one, &as_reply(&reply), &host, &peer, attempt, turn);
            }
        }
        let mut again: Vec<u16> = Vec::new();
        let mut reason: Option<Box<LastReply>> = None;
        for (place, reply) in refused {
            let Some(&index) = self.queue.job(key).and_then(|job| job.recipients.as_slice().get(place as usize)) else {
                continue;
            };
            if is_permanent(&reply) {
                let index = if planted!(PlaceIsIndex) { place as u16 } else { index };
                self.fail(key, RecipientSet::One(index), reply, attempt, turn);
            } else {
                again.push(index);
                reason = Some(reply);
            }
        }
        if !rest.as_slice().is_empty() {
            match outcome {
                Outcome::Accepted(reply) => self.delivered(key, &rest, reply, &host, &peer, attempt, turn),
                // Not this message but the connection has had enough: that is no attempt either.
                Outcome::Refused { stage: RefusedAt::Mail, reply }
                    if reply.code == 421 && reused && !answered && again.is_empty() =>
                {
                    self.queue.put_back(key);
                    self.wake(destination);
                    return;
                }
                // The host takes no flights: at once again, without.
                Outcome::Refused { stage: RefusedAt::Flight, .. } if !answered && again.is_empty() => {
                    self.queue.put_back(key);
                    self.wake(destination);
                    return;
                }
                Outcome::Refused { stage: RefusedAt::Flight, reply } => {
                    again.extend_from_slice(rest.as_slice());
                    reason = Some(Box::new(last_reply(reply, now.wall, &host)));
                }
                Outcome::Refused { stage, reply } => {
                    let reply = Box::new(match stage {
                        RefusedAt::Local => not_sent(reply, now.wall, &host, tls),
                        _ => last_reply(reply, now.wall, &host),
                    });
                    if is_permanent(&reply) {
                        self.fail(key, rest, reply, attempt, turn);
                    } else {
                        again.extend_from_slice(rest.as_slice());
                        reason = Some(reply);
                    }
                }
                // A connection that had worked before was closed under us: that is no attempt.
                Outcome::Lost { after_final_dot: false } if reused && !answered && again.is_empty() => {
                    self.queue.put_back(key);
                    self.wake(destination);
                    return;
                }
                Outcome::Lost { after_final_dot: true } if planted!(LostReplyIsSuccess) => {
                    let reply = Reply { code: 250, enhanced: None, text: "" };
                    self.delivered(key, &rest, &reply, &host, &peer, attempt, turn);
                }
                Outcome::Lost { after_final_dot } => {
                    if *after_final_dot {
                        turn.report.stats.reply_lost.add(rest.as_slice().len() as u64);
                    }
                    let text: &[u8] = if *after_final_dot {
                        b"the connection was lost while waiting for the reply to the message; it may arrive twice"
                    } else {
                        b"the connection was lost"
                    };
                    again.extend_from_slice(rest.as_slice());
                    reason = Some(Box::new(LastReply::new(now.wall, &host, 0, Some(Status::new(4, 4, 2)), text)));
                }
            }
        }
        if again.is_empty() {
            self.queue.finished(key);
            return;
        }
        again.sort_unstable();
        let reply = *reason.expect("whoever is to be tried again has a reason");
        let attempt = Attempt { reply_lost, ..attempt };
        self.defer(key, RecipientSet::from_slice(&again), reply, attempt, turn);
    }

    #[allow(clippy::too_many_arguments, reason = "the facts of one delivery")]
    pub(super) fn delivered(
        &mut self,
        key: JobKey,
        recipients: &RecipientSet,
        reply: &Reply<'_>,
        host: &str,
        peer: &Capabilities,
        attempt: Attempt<'_>,
        turn: &mut Turn<'_>,
    ) {
        let Attempt { remote, stages, record, tls, .. } = attempt;
        let Some(job) = self.queue.job(key) else { return };
        let count = recipients.as_slice().len() as u64;
        turn.report.stats.delivered.add(count);
        turn.report.histograms.record(LatencyStage::Queue, stages.queue);
        turn.report.histograms.record(LatencyStage::Delivery, stages.deliver);
        turn.report.histograms.record(LatencyStage::Total, total_us(job, turn));
        let view = record.and_then(RecordView::parse);
        let domain = self.queue.domain_of(key).and_then(|d| self.queue.domain_name(d));
        let site = self.queue.destination_of(key).and_then(|d| self.queue.name(d));
        let is_local = domain.is_some_and(|name| self.routes.is_local(name))
            || site.is_some_and(|name| RouteTable::lmtp_server(name).is_some());
        let reported = match &view {
            Some(view) if is_local => params::stored(view, recipients.as_slice(), peer),
            Some(view) => params::reported(view, recipients.as_slice(), peer),
            None => Vec::new(),
        };
        let mut settle = |recipients: RecipientSet, outcome| {
            if !recipients.as_slice().is_empty() {
                turn.post.send(usize::from(job.home), Mail::Settled(Settled { id: job.id, recipients, outcome }));
            }
        };
        if reported.is_empty() {
            settle(recipients.clone(), FinalOutcome::Delivered);
        } else {
            let rest: Vec<u16> = recipients.as_slice().iter().copied().filter(|i| !reported.contains(i)).collect();
            settle(RecipientSet::from_slice(&rest), FinalOutcome::Delivered);
            let reply = Box::new(last_reply(reply, turn.now.wall, host));
            let outcome = if is_local { FinalOutcome::Stored { reply } } else { FinalOutcome::Relayed { reply } };
            settle(RecipientSet::from_slice(&reported), outcome);
        }
        if turn.report.events.wants_mail_events() {
            let code = Code { basic: reply.code, enhanced: reply.enhanced.map(|e| (e.0, e.1, e.2)) };
            let text = reply.text.as_bytes();
            let facts = Facts { host, remote, code, text, stages, tls, next: None, reply_lost: false };
            self.tell(key, recipients, record, &facts, Event::Delivered, turn);
        }
    }

    /// These recipients will never get it.
    pub(super) fn fail(
        &mut self,
        key: JobKey,
        recipients: RecipientSet,
        reply: Box<LastReply>,
        attempt: Attempt<'_>,
        turn: &mut Turn<'_>,
    ) {
        turn.report.stats.bounced.add(recipients.as_slice().len() as u64);
        self.end(key, recipients, false, reply, attempt, turn);
    }

    /// These recipients did not get it in time. It was the last of the job.
    fn give_up(
        &mut self,
        key: JobKey,
        recipients: RecipientSet,
        reply: Box<LastReply>,
        attempt: Attempt<'_>,
        turn: &mut Turn<'_>,
    ) {
        turn.report.stats.expired.add(recipients.as_slice().len() as u64);
        self.end(key, recipients, true, reply, attempt, turn);
        self.queue.finished(key);
    }

    /// Has the event told, here or where the addresses are, and the sender.
    fn end(
        &mut self,
        key: JobKey,
        recipients: RecipientSet,
        expired: bool,
        reply: Box<LastReply>,
        attempt: Attempt<'_>,
        turn: &mut Turn<'_>,
    ) {
        let untold = if attempt.record.is_some() {
            let facts = Facts::of(&reply, attempt, None);
            let kind = if expired { Event::Expired } else { Event::Bounced };
            self.tell(key, &recipients, attempt.record, &facts, kind, turn);
            None
        } else {
            self.untold(key, turn)
        };
        let Some(job) = self.queue.job(key) else { return };
        let outcome = FinalOutcome::Failed { expired, reply, untold };
        turn.post.send(usize::from(job.home), Mail::Settled(Settled { id: job.id, recipients, outcome }));
    }

    /// What the home is to tell of a job that ends without its record here.
    fn untold(&self, key: JobKey, turn: &Turn<'_>) -> Option<Box<Untold>> {
        let job = self.queue.job(key).filter(|_| turn.report.events.wants_mail_events())?;
        let site = self.queue.destination_of(key).and_then(|d| self.queue.name(d)).unwrap_or_default();
        let (attempts, total_us) = (u32::from(job.attempts) + 1, total_us(job, turn));
        Some(Box::new(Untold { at: turn.now.wall, attempts, total_us, site: site.into() }))
    }

    /// A held job that was not attempted is tried again later.
    pub(super) fn defer_job(&mut self, key: JobKey, reply: LastReply, turn: &mut Turn<'_>) {
        let Some(recipients) = self.queue.job(key).map(|job| job.recipients.clone()) else { return };
        self.defer(key, recipients, reply, Attempt::default(), turn);
    }

    /// These recipients are tried again later, unless the message is too old.
    pub(super) fn defer(
        &mut self,
        key: JobKey,
        recipients: RecipientSet,
        reply: LastReply,
        attempt: Attempt<'_>,
        turn: &mut Turn<'_>,
    ) {
        let (now, random) = (turn.now, turn.io.random());
        match self.queue.deferred(key, recipients.clone(), reply.clone(), age::steady(now), random) {
            Deferral::Until(moment) => {
                turn.report.stats.deferred.add(recipients.as_slice().len() as u64);
                let facts = Facts::of(&reply, attempt, Some(wall(now, moment)));
                self.tell(key, &recipients, attempt.record, &facts, Event::Deferred, turn);
            }
            Deferral::Expired => self.give_up(key, recipients, Box::new(reply), attempt, turn),
        }
    }

    /// A job that grew too old at a destination that cannot be reached.
    pub(super) fn expire(&mut self, key: JobKey, turn: &mut Turn<'_>) {
        let Some(job) = self.queue.job(key) else { return };
        let (recipients, record) = (job.recipients.clone(), job.body.clone());
        let trouble = self.queue.destination_of(key).and_then(|d| self.queue.trouble(d));
        let reply = job.last.as_deref().or(trouble).cloned().unwrap_or_else(|| {
            LastReply::new(turn.now.wall, "", 0, Some(Status::new(4, 4, 7)), b"it could not be delivered in time")
        });
        let attempt = Attempt { record: record.as_deref(), ..Attempt::default() };
        self.give_up(key, recipients, Box::new(reply), attempt, turn);
    }

    /// A job whose sender wants to know that it is late.
    pub(super) fn late(&mut self, key: JobKey, turn: &mut Turn<'_>) {
        let why = self.why_aside(key, turn.now.mono).unwrap_or_else(|| "it waits for its turn".to_owned());
        let Some(job) = self.queue.job(key) else { return };
        let trouble = self.queue.destination_of(key).and_then(|d| self.queue.trouble(d));
        let reply = job
            .last
            .as_deref()
            .or(trouble)
            .cloned()
            .unwrap_or_else(|| LastReply::new(turn.now.wall, "", 0, Some(Status::new(4, 4, 7)), why.as_bytes()));
        let end = job.accepted.0.saturating_add(millis(self.queue.policy().give_up));
        let retry_until = Wall(turn.now.wall.0.saturating_add(end.saturating_sub(age::steady(turn.now).wall.0)));
        let (id, recipients, reply) = (job.id, job.recipients.clone(), Box::new(reply));
        turn.post.send(usize::from(job.home), Mail::Late(Late { id, recipients, reply, retry_until }));
    }

    /// The destination will never take mail: all of it that is ready fails.
    pub(super) fn fail_all(&mut self, destination: DestinationId, reply: &LastReply, turn: &mut Turn<'_>) {
        for _ in 0..limits::FAILURES_PER_TURN {
            let loaded = self.pop_loaded(destination);
            let Some(key) = loaded.or_else(|| self.queue.take(destination)) else { return };
            if self.queue.is_misplaced(key) {
                self.queue.put_back(key);
                continue;
            }
            let Some(job) = self.queue.job_mut(key) else { continue };
            let (recipients, record) = (job.recipients.clone(), job.body.take());
            let attempt = Attempt { record: record.as_deref(), ..Attempt::default() };
            self.fail(key, recipients, Box::new(reply.clone()), attempt, turn);
            self.queue.finished(key);
        }
        self.wake(destination);
    }

    /// The machine has closed the connection; its transactions are finished.
    pub(super) fn closed(&mut self, conn: ConnId, end: End, turn: &mut Turn<'_>) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        // A last QUIT may still be unsent; it is a courtesy.
        let _ = connection.flush(turn);
        let answered = self.pools.get(&connection.destination).is_some_and(|p| p.last_answer >= connection.began);
        let again = end.is_tls && self.tls_came_to_nothing(conn, turn);
        // A login is not tried again and again beside a connection that works.
        if end.is_failure && (again || !answered || end.is_login) {
            // Nobody took or refused a message since it was opened: as good as no connection.
            self.connect_failed(conn, &end.text, turn);
        } else {
            self.forget(conn, turn);
        }
    }

    /// A connection that must not be used any more, because of us.
    pub(super) fn broken(&mut self, conn: ConnId, why: &str, turn: &mut Turn<'_>) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        for mut transaction in std::mem::take(&mut connection.transactions) {
            self.scopes.give_back(transaction.counts.take());
            let reply = LastReply::new(turn.now.wall, "", 0, Some(Status::new(4, 3, 0)), why.as_bytes());
            self.defer_job(transaction.job, reply, turn);
        }
        self.forget(conn, turn);
    }

    // --- events ---------------------------------------------------------------------------------------------------

    /// One event for each recipient.
    fn tell(
        &self,
        key: JobKey,
        recipients: &RecipientSet,
        record: Option<&[u8]>,
        facts: &Facts<'_>,
        kind: impl Fn(event::Outcome) -> Event,
        turn: &mut Turn<'_>,
    ) {
        if !turn.report.events.wants_mail_events() {
            return;
        }
        let Some(job) = self.queue.job(key) else { return };
        let view = record.and_then(RecordView::parse);
        let site = self.queue.destination_of(key).and_then(|d| self.queue.name(d)).unwrap_or_default();
        let total_us = total_us(job, turn);
        let mut tell_one = |sender: &[u8], recipient: &[u8]| {
            turn.report.events.push(kind(event::Outcome {
                at: turn.now.wall,
                id: job.id,
                size_bytes: u64::from(job.size),
                remote: facts.remote,
                tls: facts.tls,
                code: facts.code,
                attempts: u32::from(job.attempts) + u32::from(facts.next.is_none()),
                next_attempt: facts.next,
                reply_lost: facts.reply_lost,
                queue_us: facts.stages.queue,
                connect_us: facts.stages.connect,
                deliver_us: facts.stages.deliver,
                total_us,
                text: event::Outcome::texts(sender, recipient, site.as_bytes(), facts.host.as_bytes(), facts.text),
            }));
        };
        let indices = recipients.as_slice();
        match &view {
            Some(view) => {
                let sender = params::sender(view, indices);
                for recipient in view.recipients().filter(|r| indices.binary_search(&r.index).is_ok()) {
                    tell_one(sender, recipient.address);
                }
            }
            // The record is not in memory: the id leads to the event of its acceptance.
            None => indices.iter().for_each(|_| tell_one(b"", b"")),
        }
    }

    /// A destination bears more connections than was thought, or fewer.
    pub(super) fn tell_resized(&self, destination: DestinationId, resized: Resized, why: &str, turn: &mut Turn<'_>) {
        let site = self.queue.name(destination).unwrap_or_default();
        let text = format!("{site}: {} connections at most, {} before: {why}", resized.to, resized.from);
        turn.report.events.push(Notice::event(turn.now.wall, self.me, NoticeKind::Resized, text.as_bytes()));
    }

    /// A whole destination is left alone for a while.
    pub(super) fn tell_suspended(&self, destination: DestinationId, why: &str, until: Moment, turn: &mut Turn<'_>) {
        let site = self.queue.name(destination).unwrap_or_default();
        let seconds = until.since(turn.now.mono).as_secs();
        let text = format!("{site}: next attempt in {seconds} s: {why}");
        turn.report.events.push(Notice::event(turn.now.wall, self.me, NoticeKind::Suspended, text.as_bytes()));
    }
}

struct Facts<'a> {
    host: &'a str,
    remote: Option<SocketAddr>,
    code: Code,
    text: &'a [u8],
    stages: Stages,
    tls: Option<TlsNote>,
    next: Option<Wall>,
    reply_lost: bool,
}

impl<'a> Facts<'a> {
    fn of(reply: &'a LastReply, attempt: Attempt<'_>, next: Option<Wall>) -> Self {
        let Attempt { remote, stages, reply_lost, tls, .. } = attempt;
        Facts { host: &reply.host, remote, code: Code::of(reply), text: &reply.text, stages, tls, next, reply_lost }
    }
}

/// Since the job's acceptance, µs.
fn total_us(job: &Job<Slice>, turn: &Turn<'_>) -> u64 {
    u64::try_from(age::steady(turn.now).wall.since(job.accepted).as_micros()).unwrap_or(u64::MAX)
}

/// 5yz, or a local reason of class 5.
pub(super) fn is_permanent(reply: &LastReply) -> bool {
    match reply.code {
        _ if planted!(PermanentIsTransient) => false,
        0 => reply.status.is_some_and(|s| s.class() == 5),
        code => (500..600).contains(&code) || planted!(TransientIsPermanent),
    }
}

/// The civil time of a later moment.
fn wall(now: crate::time::Now, moment: Moment) -> Wall {
    let ahead = millis(moment.since(now.mono));
    Wall(now.wall.0.saturating_add(ahead.min(limits::RETRY_GIVE_UP_DEFAULT.as_millis() as u64 * 100)))
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
