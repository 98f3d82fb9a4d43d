//! Hosts that an operator has named, as far as they want to know who we are: how a session with them begins, and what becomes of
//! mail that they refuse for want of a login.
//!
//! In: what the route says ([`Hop`]), replies. Out: orders for the client machine, destinations that rest. Lives on the shard
//! that owns the connection. It refuses to return mail for a login that is missing or wrong: no sender can help it, and it
//! would be all mail of the route; it waits for the operator, who is told.

use super::replies::last_reply;
use super::{Deliverer, Turn, age};
use crate::message::Status;
use crate::queue::{DestinationId, JobKey, LastReply};
use crate::rt::ConnId;
use crate::smtp::client::{CloseReason, Outcome, RefusedAt};
use crate::smtp::reply::Reply;
use std::sync::Arc;

impl Deliverer {
    /// TCP stands: the machine is told what this host is to be to us.
    pub(super) fn connected(&mut self, conn: ConnId, turn: &mut Turn<'_>) {
        self.won(conn, turn);
        let Some(connection) = self.connections.get(conn) else { return };
        let ehlo_name = self.ehlo_name(connection.source);
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.established(ehlo_name, self.timeouts.clone(), turn.now.mono);
        let Some(mut client) = connection.client.take() else { return };
        client.wish_tls(connection.secure.wish());
        if connection.lmtp {
            client.speak_lmtp();
        }
        let hop = connection.secure.plans.hop().cloned().unwrap_or_default();
        if let Some(login) = &hop.login {
            let mut nonce = [0; 24];
            nonce.chunks_exact_mut(8).for_each(|piece| piece.copy_from_slice(&turn.io.random().to_le_bytes()));
            client.log_in(Arc::clone(login), hop.auth_without_tls, nonce);
        }
        if hop.implicit_tls {
            client.begin_with_tls();
            self.begin_tls(conn, &mut client, turn);
        }
        let failed = client.has_events();
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.client = Some(client);
        }
        if failed {
            return self.progress(conn, turn);
        }
        self.arm(conn);
    }

    /// Whether a transaction failed since a host that the operator has named wants a login, or another one. `refused`: replies to
    /// single recipients.
    pub(super) fn wants_login<'a>(
        &self,
        conn: ConnId,
        outcome: &Outcome<'a>,
        mut refused: impl Iterator<Item = u16>,
    ) -> Option<Reply<'a>> {
        self.connections.get(conn)?.secure.plans.hop()?;
        match outcome {
            Outcome::Refused { stage: RefusedAt::Mail, reply } if is_about_login(reply.code) => Some(*reply),
            Outcome::Refused { stage: RefusedAt::Recipients, reply } if refused.all(is_about_login) => Some(*reply),
            _ => None,
        }
    }

    /// All mail of a destination rests, and nobody but the operator is told.
    pub(super) fn rest_for_login(
        &mut self,
        (destination, key): (DestinationId, JobKey),
        reply: &Reply<'_>,
        host: &str,
        turn: &mut Turn<'_>,
    ) {
        self.queue.put_back(key);
        if self.queue.is_suspended(destination) {
            return;
        }
        let kept = last_reply(reply, turn.now.wall, host);
        let text = format!("{host} wants a login that it takes (auth of the route): {} {}", reply.code, reply.text);
        let random = turn.io.random();
        let reply = LastReply { status: Some(Status::new(4, 7, 0)), code: 0, ..kept };
        let until = self.queue.unreachable(destination, reply, age::steady(turn.now), random);
        self.tell_suspended(destination, &text, until, turn);
    }
}

/// RFC 4954 §6: authentication required (530), credentials invalid (535), too weak (534), encryption required (538).
fn is_about_login(code: u16) -> bool {
    matches!(code, 530 | 534 | 535 | 538)
}

/// Why a connection ended that was to begin with a login, for the operator.
pub(super) fn end_of_login(reason: &CloseReason<'_>) -> Option<String> {
    match reason {
        CloseReason::LoginRefused(reply) => {
            Some(format!("the host did not take our login (auth of the route): {} {}", reply.code, reply.text))
        }
        CloseReason::NoLogin(fault) => Some(fault.to_string()),
        _ => None,
    }
}
