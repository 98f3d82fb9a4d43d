//! PURE. The transitions of MAIL and RCPT: what a transaction's envelope may be.

use super::{Asked, Question, Refusal, Server, State};
use crate::limits;
use crate::message::params::DeliverBy;
use crate::smtp::address::Path;
use crate::smtp::parameters::{By, Hold, MailParams, RcptParams};
use crate::smtp::policy::Demand;
use crate::smtp::reply::text;
use crate::time::Wall;

impl Server {
    pub(super) fn mail<'a>(
        &mut self,
        line: &'a [u8],
        from: Path<'_>,
        params: &MailParams<'_>,
        legacy: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal<'a>> {
        let reply = match self.check_mail(from, params, legacy) {
            Ok(reply) => reply,
            Err(reply) if reply == text::TOO_MANY_MAILS => {
                let refusal = self.refused(line, reply, out);
                self.close();
                return refusal;
            }
            Err(reply) => {
                self.mail_refused = true;
                return self.refused(line, reply, out);
            }
        };
        self.mail_refused = false;
        self.envelope.set_sender(from.address);
        self.envelope.declared_size = params.size;
        let options = &mut self.envelope.options;
        options.body = params.body;
        if !params.used.is_empty() {
            options.smtputf8 = params.smtputf8;
            options.require_tls = params.require_tls;
            options.ret = params.ret;
            options.priority = if reply == text::PRIORITY_LOWERED { 0 } else { params.priority.unwrap_or(0) };
            options.hold_until = params.hold.map(|hold| hold_until(hold, self.wall));
            options.deliver_by = params.by.map(|by| deliver_by(by, self.wall));
            if !params.envid.is_empty() {
                self.envelope.set_envid(params.envid);
            }
        }
        if let Some(account) = self.more.as_ref().and_then(|more| more.account.as_deref()) {
            self.envelope.set_account(account.as_bytes());
        }
        self.mails = self.mails.saturating_add(1);
        if self.peer.ask_sender {
            self.more().mail_reply = Some(reply);
            self.ask(Asked::Sender, Question::Sender);
            self.forgive();
            return Ok(());
        }
        self.state = State::Envelope;
        self.succeeded(reply, out);
        Ok(())
    }

    /// The reply to a MAIL that nothing here speaks against.
    fn check_mail(
        &self,
        from: Path<'_>,
        params: &MailParams<'_>,
        legacy: bool,
    ) -> Result<&'static [u8], &'static [u8]> {
        if legacy && !self.policy.legacy_send {
            return Err(text::NOT_IMPLEMENTED);
        }
        match self.state {
            State::Fresh => return Err(text::HELLO_FIRST),
            State::Envelope => return Err(text::NESTED_MAIL),
            State::Chunks => return Err(text::IN_CHUNKS),
            _ => {}
        }
        let authenticated = self.account().is_some();
        if self.policy.auth == Demand::Required && !authenticated && !planted!(AuthNotRequired) {
            return Err(text::AUTH_FIRST);
        }
        if !params.used.is_empty()
            && (!self.esmtp || !self.policy.usable(self.is_tls(), authenticated).has(params.used))
        {
            return Err(text::UNKNOWN_PARAMETER);
        }
        if from.international && !params.smtputf8 {
            return Err(text::SENDER_NEEDS_UTF8);
        }
        if params.size > self.policy.max_message_bytes {
            return Err(text::TOO_BIG);
        }
        if let Some(hold) = params.hold {
            let until = hold_until(hold, self.wall);
            if until.since(self.wall) > limits::HOLD_MAX {
                return Err(text::HOLD_TOO_LONG);
            }
            // What is to be held until now or earlier is not held, however late it is.
            if params.by.is_some_and(|by| until > deliver_by(by, self.wall).until.max(self.wall)) {
                return Err(text::HOLD_TOO_LATE);
            }
        }
        if self.policy.max_mails > 0 && self.mails >= self.policy.max_mails {
            return Err(text::TOO_MANY_MAILS);
        }
        if self.busy {
            return Err(text::BUSY);
        }
        // RFC 6710 §4.1: who is not known does not pass before others.
        let trusted = self.peer.may_relay || authenticated;
        let raised = params.priority.is_some_and(|priority| priority > 0);
        Ok(if raised && !trusted { text::PRIORITY_LOWERED } else { text::SENDER_OK })
    }

    pub(super) fn rcpt<'a>(
        &mut self,
        line: &'a [u8],
        to: Path<'_>,
        params: &RcptParams<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal<'a>> {
        if let Err(reply) = self.check_rcpt(to, params) {
            return self.refused(line, reply, out);
        }
        self.envelope.add_recipient(to.address, to.domain_at);
        if !params.used.is_empty() {
            self.envelope.set_recipient_options(params.notify, params.orcpt);
        }
        if self.peer.ask_recipient {
            self.ask(Asked::Recipient, Question::Recipient);
            self.forgive();
            return Ok(());
        }
        self.succeeded(text::RECIPIENT_OK, out);
        Ok(())
    }

    fn check_rcpt(&self, to: Path<'_>, params: &RcptParams<'_>) -> Result<(), &'static [u8]> {
        match self.state {
            State::Envelope => {}
            State::Chunks => return Err(text::IN_CHUNKS),
            _ => return Err(text::MAIL_FIRST),
        }
        if !params.used.is_empty() && (!self.esmtp || !self.policy.extensions.has(params.used)) {
            return Err(text::UNKNOWN_PARAMETER);
        }
        if to.international {
            if !self.envelope.options.smtputf8 {
                return Err(text::RECIPIENT_NEEDS_UTF8);
            }
            // RFC 6531 §3.2: a domain that has no A-labels can be looked up nowhere.
            if idna::domain_to_ascii_cow(to.domain(), idna::AsciiDenyList::STD3).is_err() {
                return Err(text::BAD_RECIPIENT);
            }
        }
        if !self.peer.ask_recipient {
            if !self.peer.may_relay && self.account().is_none() {
                return Err(text::NO_RELAY);
            }
            // RFC 5321 §4.5.1 asks a server that delivers mail to take it for Postmaster. Without local domains there are
            // no mailboxes, and a name without a domain can be routed nowhere.
            if to.domain_at == to.address.len() {
                return Err(text::NO_POSTMASTER);
            }
        }
        if self.envelope.recipient_count() >= self.policy.max_recipients + usize::from(planted!(OneRecipientTooMany)) {
            return Err(text::TOO_MANY_RECIPIENTS);
        }
        Ok(())
    }
}

fn hold_until(hold: Hold, now: Wall) -> Wall {
    match hold {
        Hold::For(seconds) => Wall(now.0.saturating_add(u64::from(seconds) * 1000)),
        Hold::Until(until) => until,
    }
}

fn deliver_by(by: By, now: Wall) -> DeliverBy {
    let until = Wall(now.0.saturating_add_signed(i64::from(by.seconds) * 1000));
    DeliverBy { until, return_late: by.return_late, trace: by.trace }
}
