//! PURE. The transitions of STARTTLS, AUTH, XCLIENT and XFORWARD, by which a session learns who its client is, and of VRFY and
//! EXPN, by which a client asks who is here.

use super::{Asked, Question, Server, State};
use crate::limits;
use crate::smtp::command;
use crate::smtp::forwarded;
use crate::smtp::policy::Demand;
use crate::smtp::reply::text;
use crate::smtp::sasl::{self, Mechanism};
use crate::time::Moment;

impl Server {
    pub(super) fn vrfy(&mut self, argument: &[u8], out: &mut Vec<u8>) {
        if !self.policy.vrfy {
            out.extend_from_slice(text::CANNOT_VERIFY);
            return self.idled(out);
        }
        self.look_up(argument, Question::Verify, out);
    }

    pub(super) fn expn(&mut self, argument: &[u8], out: &mut Vec<u8>) {
        if !self.policy.expn {
            return self.failed(text::NOT_IMPLEMENTED, out);
        }
        if !self.peer.trusted && self.account().is_none() {
            return self.failed(text::NOT_FOR_YOU, out);
        }
        self.look_up(argument, Question::Expand, out);
    }

    fn look_up(&mut self, argument: &[u8], question: impl FnOnce(Vec<u8>) -> Question, out: &mut Vec<u8>) {
        if self.state != State::Idle && self.state != State::Fresh {
            // Allowed at any time (RFC 5321 §4.1.4), but no client does it, and the answer would have to come in between.
            out.extend_from_slice(text::CANNOT_VERIFY);
            return self.idled(out);
        }
        let argument = command::strip_utf8(argument).unwrap_or(argument);
        self.idled(out);
        if self.state == State::Closed {
            return;
        }
        let fresh = self.state == State::Fresh;
        self.ask(Asked::Text, question(argument.to_vec()));
        self.more().was_fresh = fresh;
    }

    pub(super) fn start_tls(&mut self, out: &mut Vec<u8>) {
        if self.is_tls() {
            self.failed(text::TLS_ALREADY, out);
        } else if self.policy.tls == Demand::Off {
            self.failed(text::NO_TLS, out);
        } else if self.in_transaction() {
            self.failed(text::NOT_IN_TRANSACTION, out);
        } else if self.tls_busy {
            out.extend_from_slice(text::TLS_BUSY);
        } else {
            out.extend_from_slice(text::START_TLS);
            self.state = State::StartTls;
        }
    }

    /// RFC 4954 §4.
    pub(super) fn auth(&mut self, name: &[u8], initial: Option<&[u8]>, out: &mut Vec<u8>) {
        let tls = self.is_tls();
        if self.policy.auth == Demand::Off {
            return self.failed(text::NO_AUTH, out);
        }
        if self.state == State::Fresh || !self.esmtp {
            return self.failed(text::EHLO_FIRST, out);
        }
        if self.account().is_some() || self.in_transaction() {
            return self.failed(text::AUTH_ALREADY, out);
        }
        if !tls && !self.policy.auth_without_tls {
            return self.failed(text::AUTH_NEEDS_TLS, out);
        }
        let offered = Mechanism::parse(name)
            .filter(|mechanism| self.policy.mechanisms(self.tls()).any(|offered| offered == *mechanism));
        let Some(mechanism) = offered else { return self.failed(text::NO_MECHANISM, out) };
        self.more().auth = Some((mechanism, initial.map(<[u8]>::to_vec)));
        self.ask(Asked::Auth, Question::Nonce);
    }

    /// A line of the client within AUTH.
    pub(super) fn auth_line(&mut self, line: &[u8], now: Moment, out: &mut Vec<u8>) {
        let exchange = self.more().exchange.as_mut().expect("the state says so");
        let step = exchange.handle_response(line);
        self.auth_step(step, now, out);
    }

    pub(super) fn auth_step(&mut self, step: sasl::Step, now: Moment, out: &mut Vec<u8>) {
        match step {
            sasl::Step::Challenge(text) => {
                out.extend_from_slice(b"334 ");
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(b"\r\n");
                self.state = State::Auth;
                self.deadline = now + self.policy.command_timeout;
            }
            sasl::Step::Ask(question) => {
                self.more().asked_account = question.account().map(str::to_owned);
                self.ask(Asked::Auth, Question::Sasl(question));
            }
            sasl::Step::Granted { account } => {
                let more = self.more();
                more.exchange = None;
                more.account = Some(account);
                self.state = State::Idle;
                self.succeeded(text::AUTH_OK, out);
            }
            sasl::Step::Refused(failure) => {
                let more = self.more();
                more.exchange = None;
                more.failed_auths += u8::from(failure.is_a_wrong_guess());
                let too_often = more.failed_auths >= limits::SESSION_FAILED_AUTHS;
                self.state = State::Idle;
                self.failed(failure.reply(), out);
                if too_often && self.state != State::Closed {
                    out.extend_from_slice(text::AUTH_TOO_OFTEN);
                    self.close();
                }
            }
        }
    }

    pub(super) fn xclient(&mut self, argument: &[u8], out: &mut Vec<u8>) {
        if !self.peer.xclient {
            return self.failed(text::NOT_TRUSTED, out);
        }
        if self.in_transaction() {
            return self.failed(text::NOT_IN_TRANSACTION, out);
        }
        match forwarded::parse(argument, forwarded::XCLIENT) {
            Some(attributes) => {
                let more = self.more();
                if let Some(login) = &attributes.login {
                    more.account = login.as_ref().and_then(|name| sasl::prepare_name(name).ok());
                } else if attributes.address.is_some() {
                    // Another client: what the one before it has proven does not hold for it.
                    more.account = None;
                }
                if attributes.address.is_some() {
                    more.forwarded = None;
                }
                self.ask(Asked::Client, Question::Client(attributes));
            }
            None => self.failed(text::BAD_ATTRIBUTES, out),
        }
    }

    pub(super) fn xforward(&mut self, argument: &[u8], out: &mut Vec<u8>) {
        if !self.peer.xforward {
            return self.failed(text::NOT_TRUSTED, out);
        }
        if self.in_transaction() {
            return self.failed(text::NOT_IN_TRANSACTION, out);
        }
        match forwarded::parse(argument, forwarded::XFORWARD) {
            Some(attributes) => {
                if let Some(address) = attributes.address {
                    self.more().forwarded = address;
                }
                self.succeeded(text::OK, out);
            }
            None => self.failed(text::BAD_ATTRIBUTES, out),
        }
    }
}
