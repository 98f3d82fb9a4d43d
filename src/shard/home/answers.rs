//! Answers that sessions have waited for: from other shards, from DNS, from threads.

use super::Home;
use crate::quota::{ToOwner, ToPurse};
use crate::rt::WorkResult;
use crate::shard::Turn;
use crate::shard::guard::GuardMail;
use crate::shard::mailbox::{DomainVerdict, WarmUp};
use crate::time::Now;

impl Home {
    /// Work on another thread has ended: a password was checked.
    pub(in crate::shard) fn worked(&mut self, token: u64, result: WorkResult, turn: &mut Turn<'_>) {
        let Some((conn, reply)) = self.gate.worked(token, result, turn) else { return };
        let fate = self.with_session(conn, turn, |session, turn, context, out| {
            session.answered(reply, turn, out);
            session.proceed(turn, context, out)
        });
        self.end_event(conn, fate, turn);
    }

    /// Guessed passwords: another shard asks, tells or answers.
    pub(in crate::shard) fn guard(&mut self, mail: GuardMail, turn: &mut Turn<'_>) {
        self.gate.guard(mail, turn);
        self.auth_answers(turn);
    }

    /// Sending limits: a purse asks, or gives back.
    pub(in crate::shard) fn quota_owner(&mut self, mail: ToOwner, now: Now) {
        self.gate.quotas.owner_mail(mail, now.mono);
    }

    /// Sending limits: an owner has answered.
    pub(in crate::shard) fn quota_purse(&mut self, mail: ToPurse, turn: &mut Turn<'_>) {
        self.gate.quotas.purse_mail(mail, turn.now.mono);
        self.quota_answers(turn);
    }

    /// A source that is new wants to send, or did not.
    pub(in crate::shard) fn warm_up(&mut self, mail: WarmUp, turn: &mut Turn<'_>) {
        self.gate.quotas.warm_up(mail, turn);
    }

    /// Sessions whose wait for a lease is over.
    pub(super) fn quota_answers(&mut self, turn: &mut Turn<'_>) {
        while let Some((conn, reply)) = self.gate.charged(turn.now) {
            let fate = self.with_session(conn, turn, |session, turn, context, out| {
                let reply = context.gate.expanded(reply, &session.server);
                session.answered(reply, turn, out);
                session.proceed(turn, context, out)
            });
            self.end_event(conn, fate, turn);
        }
    }

    /// Answers to AUTH that have waited long enough.
    pub(super) fn auth_answers(&mut self, turn: &mut Turn<'_>) {
        while let Some((conn, question)) = self.gate.due(turn.now.mono) {
            let mut answer = None;
            if let Some(session) = self.sessions.get_mut(conn) {
                answer = self.gate.check(conn, question, session.server.tls(), turn);
            }
            let Some(reply) = answer else { continue };
            let fate = self.with_session(conn, turn, |session, turn, context, out| {
                session.answered(reply, turn, out);
                session.proceed(turn, context, out)
            });
            self.end_event(conn, fate, turn);
        }
    }

    /// DNS has told of a domain that a session asked for.
    pub(in crate::shard) fn verified(&mut self, token: u64, verdict: DomainVerdict, turn: &mut Turn<'_>) {
        let Some((conn, reply)) = self.gate.verified(token, verdict, turn.now) else { return };
        let fate = self.with_session(conn, turn, |session, turn, context, out| {
            session.answered(reply, turn, out);
            session.proceed(turn, context, out)
        });
        self.end_event(conn, fate, turn);
    }
}
