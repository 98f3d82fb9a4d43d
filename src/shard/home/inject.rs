//! Tests only: mail that is in the log without having come over a session.

use super::Home;
use crate::message::Envelope;
use crate::shard::notify;
use crate::spool::{Body, NewMessage};
use crate::time::Now;

impl Home {
    /// Accepts `body` (in wire form, or as it is for a binary one) with all that `envelope` says.
    pub(in crate::shard) fn inject(&mut self, envelope: &Envelope, body: &[u8], now: Now) {
        let mut params = Vec::new();
        envelope.write_params(&mut params);
        let message = NewMessage {
            id: self.log.next_id(now.wall),
            envelope,
            accepted: now.wall,
            peer: std::net::Ipv4Addr::LOCALHOST.into(),
            params: &params,
            trace: b"",
            body: Body::Whole(body),
        };
        self.log.accept(&message, notify::NOBODY).expect("there is room");
    }
}
