//! PURE. What a session's errors cost it: delays, and at last its end.
//!
//! In: replies that are no. Out: those replies, in time, and 421 when it is enough. It refuses to punish who is known for
//! what goes wrong now and then: the count of a network that may relay, or of an account, starts again when something works.

use super::{Refusal, Server, State};
use crate::limits;
use crate::smtp::reply::text;

impl Server {
    pub(super) fn refused<'a>(
        &mut self,
        line: &'a [u8],
        reply: &'static [u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal<'a>> {
        // A refused recipient is no misbehaviour, but of a stranger, who may be looking for those that are not refused; a
        // command out of order or malformed is.
        let behind = reply == text::MAIL_FIRST && self.mail_refused;
        if behind {
            self.useless(reply, out);
        } else if reply[1] == b'0' || reply[0] == b'5' && self.state == State::Envelope && self.is_stranger() {
            self.failed(reply, out)
        } else {
            out.extend_from_slice(reply)
        }
        Err(Refusal { line, reply })
    }

    /// A command behind a refused MAIL: no misbehaviour of one who pipelines, and nothing that a stranger may do for ever.
    pub(super) fn useless(&mut self, reply: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(reply);
        if self.is_stranger() {
            self.idled(out);
        }
    }

    /// Nobody knows who it is.
    pub(super) fn is_stranger(&self) -> bool {
        !self.peer.trusted && !self.peer.may_relay && self.account().is_none()
    }

    /// Something went well: the count of errors starts again, but for a stranger, who has done nothing for it.
    pub(super) fn forgive(&mut self) {
        if !self.is_stranger() {
            self.errors = 0;
        }
    }

    /// A command that brings no mail forward is answered.
    pub(super) fn idled(&mut self, out: &mut Vec<u8>) {
        self.forgive();
        if self.is_stranger() {
            self.junk = self.junk.saturating_add(1);
            if self.junk > limits::SESSION_JUNK {
                self.count_error(out);
            }
        }
    }

    /// A command that is no SMTP here; too many of them end the session.
    pub(super) fn failed(&mut self, reply: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(reply);
        self.count_error(out);
    }

    fn count_error(&mut self, out: &mut Vec<u8>) {
        if self.state == State::Closed {
            return;
        }
        self.errors += 1;
        // Who guesses has time; a person at a keyboard does not notice (each error is answered at once, the next command
        // is read later).
        let counted = u32::from(self.errors.saturating_sub(limits::SESSION_FREE_ERRORS));
        let wait = (self.policy.error_delay * counted).min(limits::ERROR_DELAY_MAX);
        if !wait.is_zero() {
            self.patience = self.now + wait;
        }
        if self.errors == limits::SESSION_ERRORS {
            out.extend_from_slice(text::TOO_MANY_ERRORS);
            self.close();
        }
    }

    pub(super) fn succeeded(&mut self, reply: &[u8], out: &mut Vec<u8>) {
        self.forgive();
        self.mail_refused = false;
        out.extend_from_slice(reply);
    }
}
