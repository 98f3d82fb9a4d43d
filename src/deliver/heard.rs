//! What was heard on a connection: the client machine's events, and which rule judges a reply.
//!
//! Replies are matched with the rules of the site they come from when they come, as they came; only refusals are, so mail that
//! is taken costs nothing. What a host says of its own accord, at its greeting or with 421, is about the connection.

use super::connection::Refused;
use super::outcome::Attempt;
use super::replies::{End, end_of_connection, last_reply, rcpt_reply};
use super::{Deliverer, age};
use crate::queue::{DestinationId, Resized};
use crate::rt::ConnId;
use crate::shaping::{Action, ReplyRule};
use crate::shard::event::{Notice, NoticeKind};
use crate::shard::stats::LatencyStage;
use crate::shard::{Turn, micros};
use crate::smtp::client::{ClientEvent, CloseReason};
use crate::smtp::reply::Reply;
use std::sync::Arc;

impl Deliverer {
    /// The rule that matches a reply of a destination's. Fixed next hops are nobody's site: theirs mean what their codes say.
    pub(super) fn judge(&self, destination: DestinationId, reply: &Reply<'_>) -> Option<Arc<ReplyRule>> {
        if !(400..600).contains(&reply.code) || self.tables.shaping.is_empty() {
            return None;
        }
        let site = self.site_of(destination)?;
        let enhanced = reply.enhanced.map(|e| (e.0, e.1, e.2));
        self.tables.shaping.judge(site, reply.code, enhanced, reply.text).map(Arc::clone)
    }

    /// Takes in what the client machine has to say; how the connection ended, if it did.
    pub(super) fn client_events(&mut self, conn: ConnId, turn: &mut Turn<'_>) -> Option<End> {
        let mut end = None;
        while let Some(connection) = self.connections.get_mut(conn)
            && connection.client.as_ref().is_some_and(|client| client.has_events())
        {
            // The machine is out of the table while its event borrows it.
            let destination = connection.destination;
            let mut client = connection.client.take()?;
            let parting = client.parting().and_then(|reply| {
                let rule = self.judge(destination, &reply)?;
                let host = self.connections.get(conn).map(|c| std::rc::Rc::clone(&c.host))?;
                Some(Refused { place: 0, reply: Box::new(last_reply(&reply, turn.now.wall, &host)), rule: Some(rule) })
            });
            let mut acts = None;
            match client.poll_event() {
                None => {}
                Some(ClientEvent::Ready) => {
                    let Some(connection) = self.connections.get_mut(conn) else { continue };
                    connection.ready = true;
                    connection.secure.ready();
                    connection.peer = client.capabilities();
                    connection.connect_us = micros(turn.now.mono, connection.began);
                    connection.others = Vec::new();
                    turn.report.histograms.record(LatencyStage::Connect, connection.connect_us);
                    self.report_ready(conn, turn);
                }
                Some(ClientEvent::StartTls) => self.begin_tls(conn, &mut client, turn),
                Some(ClientEvent::Closed(reason)) => {
                    self.report_closed(conn, &reason, turn);
                    let judged = match &reason {
                        CloseReason::Refused(reply) | CloseReason::Shutdown(reply) | CloseReason::TlsRefused(reply) => {
                            self.judge(destination, reply).map(|rule| (rule, *reply))
                        }
                        _ => None,
                    };
                    let Some(connection) = self.connections.get_mut(conn) else { continue };
                    let (host, why) = (&connection.host, connection.secure.why.take());
                    let judged = judged.map(|(rule, reply)| {
                        let reply = Box::new(last_reply(&reply, turn.now.wall, host));
                        Refused { place: 0, reply, rule: Some(rule) }
                    });
                    end = Some(End { judged, ..end_of_connection(&reason, why) });
                }
                Some(ClientEvent::Recipient { token, index, reply }) => {
                    let rule = self.judge(destination, &reply);
                    let Some(connection) = self.connections.get_mut(conn) else { continue };
                    let reply = Box::new(rcpt_reply(&reply, turn.now.wall, &connection.host));
                    if let Some(transaction) = connection.transaction(token) {
                        transaction.answered = true;
                        acts = rule.is_some().then_some(token);
                        transaction.refused.push(Refused { place: index, reply, rule });
                    }
                }
                Some(ClientEvent::Settled { token, index, reply }) => {
                    let rule = self.judge(destination, &reply);
                    let Some(connection) = self.connections.get_mut(conn) else { continue };
                    let last = Box::new(last_reply(&reply, turn.now.wall, &connection.host));
                    if let Some(transaction) = connection.transaction(token) {
                        transaction.answered = true;
                        if reply.is_positive() {
                            transaction.taken.push((index, last));
                        } else {
                            acts = rule.is_some().then_some(token);
                            transaction.refused.push(Refused { place: index, reply: last, rule });
                        }
                    }
                }
                Some(ClientEvent::Finished { token, outcome }) => {
                    self.finished(conn, (token, parting), &outcome, turn);
                }
            }
            self.connections.get_mut(conn)?.client = Some(client);
            if let Some(token) = acts {
                self.act_on_last(conn, token, turn);
            }
        }
        end
    }

    /// Acts on the last refusal of a recipient: at once, as the reply to the whole may be long in coming.
    fn act_on_last(&mut self, conn: ConnId, token: u64, turn: &mut Turn<'_>) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let (destination, source) = (connection.destination, connection.source);
        let Some(transaction) = connection.transaction(token) else { return };
        let job = transaction.job;
        let Some(refused) = transaction.refused.pop() else { return };
        self.act(destination, (Some(job), source), &refused, turn);
        if let Some(transaction) = self.connections.get_mut(conn).and_then(|c| c.transaction(token)) {
            transaction.refused.push(refused);
        }
    }

    /// A host would not have a connection, or ended it, and a rule is for what it said. True: nothing is left to be done about the
    /// connection.
    pub(super) fn judged(&mut self, conn: ConnId, end: &End, turn: &mut Turn<'_>) -> bool {
        let Some(refused @ Refused { reply, rule: Some(rule), .. }) = &end.judged else { return false };
        let Some(connection) = self.connections.get(conn) else { return false };
        let (destination, ready) = (connection.destination, connection.ready);
        let source = connection.source;
        self.act(destination, (None, source), refused, turn);
        if ready {
            // What was under way has heard it by itself.
            return false;
        }
        let now = turn.now.mono;
        match rule.action {
            Action::Retry { after: Some(after) } => {
                turn.report.stats.outbound_connection_failures.add(1);
                self.refused_connection(destination, &end.text, turn);
                self.forget(conn, turn);
                let pool = self.pools.make(destination);
                if pool.connections.is_empty() {
                    self.put_back_loaded(destination);
                    self.queue.pause(destination, (**reply).clone(), now + after, age::steady(turn.now));
                    self.tell_suspended(destination, &format!("rule {}: {}", rule.name, end.text), now + after, turn);
                } else {
                    // The others go on.
                    pool.no_more_until = pool.no_more_until.max(now + after);
                }
                true
            }
            Action::Bounce => {
                turn.report.stats.outbound_connection_failures.add(1);
                self.forget(conn, turn);
                let attempt = Attempt { rule: Some(&rule.name), ..Attempt::default() };
                self.fail_all(destination, reply, attempt, turn);
                true
            }
            _ => false,
        }
    }

    /// Fewer connections to a destination are worth while.
    pub(super) fn refused_connection(&mut self, destination: DestinationId, why: &str, turn: &mut Turn<'_>) {
        if let Some(resized) = self.queue.refused(destination) {
            self.tell_resized(destination, resized, why, turn);
        }
    }

    /// A destination bears more connections than was thought, or fewer.
    pub(super) fn tell_resized(&self, destination: DestinationId, resized: Resized, why: &str, turn: &mut Turn<'_>) {
        let site = self.queue.name(destination).unwrap_or_default();
        let text = format!("{site}: {} connections at most, {} before: {why}", resized.to, resized.from);
        turn.report.events.push(Notice::event(turn.now.wall, self.me, NoticeKind::Resized, text.as_bytes()));
    }
}
