//! What a transaction came to, for each of its recipients: delivered, failed for good, or to be tried again; told to the
//! home shard, to the queue and to the log.

use super::connection::{Refused, Transaction};
use super::replies::{End, as_reply, is_permanent, last_reply, not_sent};
use super::{Deliverer, age, params};
use crate::limits;
use crate::message::Status;
use crate::queue::{Deferral, DestinationId, Job, JobKey, LastReply, RecipientSet};
use crate::route::RouteTable;
use crate::rt::ConnId;
use crate::rt::buffer::Slice;
use crate::shaping::{Action, Fate, ReplyRule};
use crate::shard::event::{self, Code, Event, TlsNote};
use crate::shard::mailbox::{FinalOutcome, Late, Mail, Settled, Untold};
use crate::shard::stats::LatencyStage;
use crate::shard::{Turn, micros};
use crate::smtp::client::{Outcome, RefusedAt};
use crate::smtp::extensions::Capabilities;
use crate::smtp::reply::Reply;
use crate::spool::RecordView;
use crate::time::{Moment, Wall};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

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
    /// The number of the source it was from.
    pub(super) source: Option<u16>,
    /// The name of the rule that decided.
    pub(super) rule: Option<&'a str>,
}

/// Recipients of a job that are tried again, for one reason.
struct Again {
    recipients: Vec<u16>,
    reply: Box<LastReply>,
    rule: Option<Arc<ReplyRule>>,
    after: Option<Duration>,
}

/// A recipient that a rule has tried from another source is tried at once: if all of them rest, it waits for the first.
fn from_another(refused: &Refused, source: Option<u16>) -> Option<Duration> {
    let other = |rule: &Arc<ReplyRule>| matches!(rule.action, Action::OtherSource { .. });
    (source.is_some() && refused.rule.as_ref().is_some_and(other)).then_some(Duration::ZERO)
}

/// Adds recipients to those that are tried again for the same reason.
fn put_off(again: &mut Vec<Again>, recipients: &[u16], refused: Refused, after: Option<Duration>) {
    let Refused { reply, rule, .. } = refused;
    let same = |group: &&mut Again| match (&group.rule, &rule) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    match again.iter_mut().find(same) {
        Some(group) => {
            group.recipients.extend_from_slice(recipients);
            group.reply = reply;
        }
        None => again.push(Again { recipients: recipients.to_vec(), reply, rule, after }),
    }
}

impl Deliverer {
    /// A transaction is over. `parting`: the 421 that it was lost for, if a rule is for that.
    pub(super) fn finished(
        &mut self,
        conn: ConnId,
        (token, parting): (u64, Option<Refused>),
        outcome: &Outcome<'_>,
        turn: &mut Turn<'_>,
    ) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let reused = connection.done > 0;
        let Some(mut transaction) = connection.take_transaction(token) else { return };
        // What is refused may be answered sooner than what is taken: that says nothing of how long a message takes.
        if matches!(outcome, Outcome::Accepted(_)) {
            connection.landed(&transaction, turn.now.mono);
        }
        let source = connection.source_scope.clone().filter(|_| transaction.source_octets > 0);
        self.give_back(source.as_ref(), &mut transaction);
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let destination = connection.destination;
        let (host, remote, peer) = (std::rc::Rc::clone(&connection.host), connection.remote, connection.peer);
        let (tls, source) = (connection.secure.note(), connection.source);
        let connect = if reused { 0 } else { connection.connect_us };
        let key = transaction.job;
        let now = turn.now;
        if let Some(reply) = self.wants_login(conn, outcome, transaction.refused.iter().map(|r| r.reply.code)) {
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
        let attempt = Attempt { remote, stages, reply_lost: false, record: Some(&record), tls, source, rule: None };
        // Who shares the outcome of the transaction: all but those refused, or taken, by themselves.
        let all = job.recipients.as_slice();
        let rest: RecipientSet = if refused.is_empty() && taken.is_empty() {
            job.recipients.clone()
        } else {
            let settled = refused.iter().map(|r| r.place).chain(taken.iter().map(|(place, _)| *place));
            let is_settled = |at: usize| settled.clone().any(|place| place as usize == at);
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
        let mut again: Vec<Again> = Vec::new();
        for refused in refused {
            let place = refused.place;
            let Some(&index) = self.queue.job(key).and_then(|job| job.recipients.as_slice().get(place as usize)) else {
                continue;
            };
            let index = if planted!(PlaceIsIndex) { place as u16 } else { index };
            self.meet_fate((key, RecipientSet::One(index)), refused, &mut again, attempt, turn);
        }
        if !rest.as_slice().is_empty() {
            match outcome {
                Outcome::Accepted(reply) => self.delivered(key, &rest, reply, &host, &peer, attempt, turn),
                // Not this message but the connection has had enough: that is no attempt either.
                Outcome::Refused { stage: RefusedAt::Mail, reply }
                    if reply.code == 421 && reused && !answered && again.is_empty() && parting.is_none() =>
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
                    let reply = Box::new(last_reply(reply, now.wall, &host));
                    put_off(&mut again, rest.as_slice(), Refused { place: 0, reply, rule: None }, None);
                }
                Outcome::Refused { stage, reply } => {
                    let refused = match stage {
                        RefusedAt::Local => {
                            let reply = Box::new(not_sent(reply, now.wall, &host, tls));
                            Refused { place: 0, reply, rule: None }
                        }
                        _ => {
                            let rule = self.judge(destination, reply);
                            Refused { place: 0, reply: Box::new(last_reply(reply, now.wall, &host)), rule }
                        }
                    };
                    self.act(destination, (Some(key), source), &refused, turn);
                    self.meet_fate((key, rest), refused, &mut again, attempt, turn);
                }
                // It was lost since the host ended the connection, with words that a rule is for.
                Outcome::Lost { after_final_dot: false } if let Some(refused) = parting => {
                    self.act(destination, (Some(key), source), &refused, turn);
                    self.meet_fate((key, rest), refused, &mut again, attempt, turn);
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
                    let reply = Box::new(LastReply::new(now.wall, &host, 0, Some(Status::new(4, 4, 2)), text));
                    put_off(&mut again, rest.as_slice(), Refused { place: 0, reply, rule: None }, None);
                }
            }
        }
        let attempt = Attempt { reply_lost, ..attempt };
        let mut again = again.into_iter();
        let Some(first) = again.next() else {
            self.queue.finished(key);
            return;
        };
        for group in again {
            let other = self.queue.split_off(key);
            self.put_off(other, group, attempt, turn);
        }
        self.put_off(key, first, attempt, turn);
    }

    fn put_off(&mut self, key: JobKey, mut group: Again, attempt: Attempt<'_>, turn: &mut Turn<'_>) {
        group.recipients.sort_unstable();
        let attempt = Attempt { rule: group.rule.as_ref().map(|rule| &*rule.name), ..attempt };
        let recipients = RecipientSet::from_slice(&group.recipients);
        self.defer_for(key, recipients, *group.reply, group.after, attempt, turn);
    }

    /// These recipients were refused: they have failed, or are tried again with the others of the same reason.
    fn meet_fate(
        &mut self,
        (key, recipients): (JobKey, RecipientSet),
        refused: Refused,
        again: &mut Vec<Again>,
        attempt: Attempt<'_>,
        turn: &mut Turn<'_>,
    ) {
        match Fate::of(refused.rule.as_deref(), is_permanent(&refused.reply)) {
            Fate::Failed => self.fail_by(key, recipients, refused, attempt, turn),
            Fate::Again(after) => {
                let after = from_another(&refused, attempt.source).or(after);
                put_off(again, recipients.as_slice(), refused, after);
            }
        }
    }

    /// These recipients have failed, by a rule or the reply's code.
    fn fail_by(
        &mut self,
        key: JobKey,
        recipients: RecipientSet,
        refused: Refused,
        attempt: Attempt<'_>,
        turn: &mut Turn<'_>,
    ) {
        let attempt = Attempt { rule: refused.rule.as_ref().map(|rule| &*rule.name), ..attempt };
        self.fail(key, recipients, refused.reply, attempt, turn);
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
        let Attempt { remote, stages, record, tls, source, .. } = attempt;
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
            let facts =
                Facts { host, remote, code, text, stages, tls, source, next: None, reply_lost: false, rule: "" };
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
            self.untold(key, attempt.rule, turn)
        };
        let Some(job) = self.queue.job(key) else { return };
        let outcome = FinalOutcome::Failed { expired, reply, untold };
        turn.post.send(usize::from(job.home), Mail::Settled(Settled { id: job.id, recipients, outcome }));
    }

    /// What the home is to tell of a job that ends without its record here.
    fn untold(&self, key: JobKey, rule: Option<&str>, turn: &Turn<'_>) -> Option<Box<Untold>> {
        let job = self.queue.job(key).filter(|_| turn.report.events.wants_mail_events())?;
        let site = self.queue.destination_of(key).and_then(|d| self.queue.name(d)).unwrap_or_default();
        let (attempts, total_us) = (u32::from(job.attempts) + 1, total_us(job, turn));
        let rule = rule.unwrap_or_default().into();
        Some(Box::new(Untold { at: turn.now.wall, attempts, total_us, site: site.into(), rule }))
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
        self.defer_for(key, recipients, reply, None, attempt, turn);
    }

    /// The same, not before so long, if a rule says it.
    fn defer_for(
        &mut self,
        key: JobKey,
        recipients: RecipientSet,
        reply: LastReply,
        after: Option<Duration>,
        attempt: Attempt<'_>,
        turn: &mut Turn<'_>,
    ) {
        let (now, random) = (turn.now, turn.io.random());
        match self.queue.deferred_for(key, recipients.clone(), reply.clone(), after, age::steady(now), random) {
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
        let now = turn.now.mono;
        let why = self.why_resting(key, now).or_else(|| self.why_aside(key, now));
        let why = why.unwrap_or_else(|| "it waits for its turn".to_owned());
        let Some(job) = self.queue.job(key) else { return };
        let trouble = self.queue.destination_of(key).and_then(|d| self.queue.trouble(d));
        let reply = job
            .last
            .as_deref()
            .or(trouble)
            .cloned()
            .unwrap_or_else(|| LastReply::new(turn.now.wall, "", 0, Some(Status::new(4, 4, 7)), why.as_bytes()));
        let end = job.accepted.0.saturating_add(millis(self.queue.policy_of(key).give_up));
        let retry_until = Wall(turn.now.wall.0.saturating_add(end.saturating_sub(age::steady(turn.now).wall.0)));
        let (id, recipients, reply) = (job.id, job.recipients.clone(), Box::new(reply));
        turn.post.send(usize::from(job.home), Mail::Late(Late { id, recipients, reply, retry_until }));
    }

    /// The destination will never take mail: all of it that is ready fails.
    pub(super) fn fail_all(
        &mut self,
        destination: DestinationId,
        reply: &LastReply,
        attempt: Attempt<'_>,
        turn: &mut Turn<'_>,
    ) {
        for _ in 0..limits::FAILURES_PER_TURN {
            let loaded = self.pop_loaded(destination);
            let Some(key) = loaded.or_else(|| self.queue.take(destination)) else { return };
            if self.queue.is_misplaced(key) {
                self.queue.put_back(key);
                continue;
            }
            let Some(job) = self.queue.job_mut(key) else { continue };
            let (recipients, record) = (job.recipients.clone(), job.body.take());
            let attempt = Attempt { record: record.as_deref(), ..attempt };
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
        if self.judged(conn, &end, turn) {
            return;
        }
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
        let source = connection.source_scope.clone();
        for mut transaction in std::mem::take(&mut connection.transactions) {
            self.give_back(source.as_ref(), &mut transaction);
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
        let source = self.source_address(facts.source).map(|ip| ip.to_string()).unwrap_or_default();
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
                text: event::Outcome::texts(
                    sender,
                    recipient,
                    [site, facts.host, facts.rule, &source].map(str::as_bytes),
                    facts.text,
                ),
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
}

struct Facts<'a> {
    host: &'a str,
    remote: Option<SocketAddr>,
    code: Code,
    text: &'a [u8],
    stages: Stages,
    tls: Option<TlsNote>,
    source: Option<u16>,
    next: Option<Wall>,
    reply_lost: bool,
    rule: &'a str,
}

impl<'a> Facts<'a> {
    fn of(reply: &'a LastReply, attempt: Attempt<'a>, next: Option<Wall>) -> Self {
        let Attempt { remote, stages, reply_lost, tls, source, rule, .. } = attempt;
        let (rule, code) = (rule.unwrap_or_default(), Code::of(reply));
        Facts { host: &reply.host, remote, code, text: &reply.text, stages, tls, source, next, reply_lost, rule }
    }
}

/// Since the job's acceptance, µs.
fn total_us(job: &Job<Slice>, turn: &Turn<'_>) -> u64 {
    u64::try_from(age::steady(turn.now).wall.since(job.accepted).as_micros()).unwrap_or(u64::MAX)
}

/// The civil time of a later moment.
fn wall(now: crate::time::Now, moment: Moment) -> Wall {
    let ahead = millis(moment.since(now.mono));
    Wall(now.wall.0.saturating_add(ahead.min(limits::RETRY_GIVE_UP_DEFAULT.as_millis() as u64 * 100)))
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
