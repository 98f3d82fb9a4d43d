//! Mail that this host writes by itself, beside notifications: reports of TLS.
//!
//! Inputs: a message of the control plane. Outputs: one more message in the log, on its way as any. Lives on the home shard that
//! the control plane chose. It refuses to keep a message that the log has no room for: it is told, and gone.

use super::Home;
use crate::message::Envelope;
use crate::shard::mailbox::OwnMail;
use crate::shard::notify;
use crate::spool::{Body, NewMessage};
use crate::time::Now;

impl Home {
    /// Takes it as if a client had sent it.
    pub(in crate::shard) fn submit(&mut self, mail: &OwnMail, now: Now) {
        let mut envelope = Envelope::default();
        envelope.set_sender(mail.sender.as_bytes());
        // RFC 8460 §3: a report of broken TLS does not wait for it.
        envelope.options.tls_optional = true;
        let at = mail.recipient.rfind('@').map_or(mail.recipient.len(), |at| at + 1);
        envelope.add_recipient(mail.recipient.as_bytes(), at);
        let mut params = Vec::new();
        envelope.write_params(&mut params);
        let message = NewMessage {
            id: self.log.next_id(now.wall),
            envelope: &envelope,
            accepted: now.wall,
            peer: std::net::Ipv4Addr::LOCALHOST.into(),
            params: &params,
            trace: b"",
            body: Body::Whole(&mail.wire),
        };
        if let Err(refusal) = self.log.accept(&message, notify::NOBODY) {
            tracing::error!(shard = self.me, to = mail.recipient, %refusal, "a report of TLS cannot be kept");
        }
    }
}
