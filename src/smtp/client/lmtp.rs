//! PURE. What LMTP has beyond SMTP (RFC 2033): after the final dot one reply for each recipient that RCPT was accepted for, in
//! their order. Refuses nothing: what is no such reply the machine has refused already.

use super::event::Stored;
use super::{Client, Transaction};
use crate::smtp::client::RefusedAt;
use crate::smtp::reply::Reply;
use std::collections::VecDeque;

/// Of the current transaction. At most `limits::TRANSACTION_RECIPIENTS`.
#[derive(Debug, Default)]
pub(super) struct Lmtp {
    /// Recipients whose reply to the message is due: their places among those given to `Client::start`.
    due: VecDeque<u32>,
    /// One of them has the message.
    delivered: bool,
}

impl Lmtp {
    /// RCPT was accepted.
    pub(super) fn accepted(&mut self, place: u32) {
        self.due.push_back(place);
    }

    /// The transaction is over.
    pub(super) fn clear(&mut self) {
        self.due.clear();
        self.delivered = false;
    }
}

impl Client {
    /// The peer is an LMTP server. To be called before the greeting comes.
    pub fn speak_lmtp(&mut self) {
        self.lmtp = Some(Lmtp::default());
    }

    /// The reply to the message for the next of its recipients (RFC 2033 §4.2); the last of them ends the transaction.
    pub(super) fn recipient_settled(&mut self, mut t: Transaction, reply: Reply<'_>) {
        let Some(lmtp) = &mut self.lmtp else { return };
        let Some(place) = lmtp.due.pop_front() else {
            self.under_way.put_back(t);
            return self.unexpected(reply);
        };
        let (is_last, positive) = (lmtp.due.is_empty(), reply.code / 100 == 2);
        lmtp.delivered |= positive;
        let delivered = lmtp.delivered;
        let stored = self.events.store(reply);
        self.events.push(Stored::Settled(t.token, place, stored));
        if !is_last {
            self.under_way.put_back(t);
            return;
        }
        if !std::mem::replace(&mut t.finished, true) {
            // Everybody has had an event of their own.
            let event = if delivered {
                let reply = Reply { code: 250, enhanced: None, text: "each recipient has a reply of its own" };
                Stored::Accepted(t.token, self.events.store(reply))
            } else {
                Stored::Refused(t.token, RefusedAt::Message, self.events.store(reply))
            };
            self.events.push(event);
        }
        self.end(t);
    }
}
