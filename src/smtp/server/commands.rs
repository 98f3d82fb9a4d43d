//! PURE. The transitions of a command line: what each verb does, and where it may stand.

use super::replies::error_reply;
use super::{Refusal, Server, State};
use crate::message::params::BodyType;
use crate::smtp::command::{self, Command, CommandError, Verb};
use crate::smtp::help;
use crate::smtp::policy::{Announced, Demand};
use crate::smtp::reply::text;
use crate::time::Moment;

impl Server {
    /// One command line, without CRLF. With `more_came`, the client did not wait for the reply.
    pub(super) fn command<'a>(
        &mut self,
        line: &'a [u8],
        more_came: bool,
        now: Moment,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal<'a>> {
        let command = match command::parse(line) {
            Ok(command) => command,
            Err(error) => return self.malformed(line, error, out),
        };
        let tls = self.is_tls();
        if self.policy.tls == Demand::Required && !tls {
            // RFC 3207 §4: what may be said before.
            if !matches!(
                command,
                Command::Noop | Command::Ehlo(_) | Command::StartTls | Command::Quit | Command::OtherProtocol
            ) {
                return self.out_of_place(line, &command, text::TLS_FIRST, out);
            }
        }
        // RFC 2920 §3.1: what must be the last of a group. QUIT is too, but then nobody cares.
        let ends_group = matches!(
            command,
            Command::Ehlo(_) | Command::Helo(_) | Command::Data | Command::StartTls | Command::Auth { .. }
        );
        if more_came && self.peer.strict && ends_group {
            out.extend_from_slice(text::TOO_EARLY);
            self.close();
            return Ok(());
        }
        match command {
            Command::Mail { from, params, legacy } => return self.mail(line, from, &params, legacy, out),
            Command::Rcpt { to, params } => return self.rcpt(line, to, &params, out),
            Command::Data => match self.state {
                State::Envelope if self.envelope.options.body == BodyType::Binary => {
                    self.failed(text::BDAT_NEEDED, out);
                }
                State::Envelope if self.envelope.recipient_count() > 0 => {
                    self.begin_data(now);
                    self.state = State::Data;
                    self.succeeded(text::START_DATA, out);
                }
                State::Envelope => self.failed(text::NO_RECIPIENTS, out),
                State::Chunks => self.failed(text::BDAT_NEEDED, out),
                _ if self.mail_refused => self.useless(text::MAIL_FIRST, out),
                _ => self.failed(text::MAIL_FIRST, out),
            },
            Command::Bdat { size, last } => self.bdat(size, last, now, out),
            Command::Ehlo(name) => {
                self.policy.ehlo(
                    Announced {
                        tls: self.tls(),
                        authenticated: self.account().is_some(),
                        xclient: self.peer.xclient,
                        xforward: self.peer.xforward,
                        wall_seconds: self.wall.0 / 1000,
                    },
                    out,
                );
                self.hello(name, true, now, out);
            }
            Command::Helo(name) => {
                out.extend_from_slice(&self.policy.helo);
                self.hello(name, false, now, out);
            }
            Command::Rset => {
                out.extend_from_slice(text::OK);
                if self.in_transaction() {
                    self.end_transaction(now, out);
                }
                self.idled(out);
            }
            Command::Quit => {
                out.extend_from_slice(&self.policy.bye);
                self.close();
            }
            Command::Noop => {
                out.extend_from_slice(text::OK);
                self.mail_refused = false;
                self.idled(out);
            }
            Command::Help(topic) => {
                help::reply(topic, out);
                self.idled(out);
            }
            Command::Vrfy(argument) => self.vrfy(argument, out),
            Command::Expn(argument) => self.expn(argument, out),
            Command::StartTls => self.start_tls(out),
            Command::Auth { mechanism, initial } => self.auth(mechanism, initial, out),
            Command::Xclient(argument) => self.xclient(argument, out),
            Command::Xforward(argument) => self.xforward(argument, out),
            Command::OtherProtocol => {
                out.extend_from_slice(text::OTHER_PROTOCOL);
                self.close();
            }
        }
        Ok(())
    }

    /// A line that is no command.
    fn malformed<'a>(&mut self, line: &'a [u8], error: CommandError, out: &mut Vec<u8>) -> Result<(), Refusal<'a>> {
        let reply = error_reply(error);
        let envelope_command = matches!(
            error,
            CommandError::Path(..)
                | CommandError::UnknownParameter(_)
                | CommandError::Arguments(Verb::Mail | Verb::Rcpt)
        );
        if envelope_command {
            return self.refused(line, reply, out);
        }
        self.failed(reply, out);
        if error == CommandError::Arguments(Verb::Bdat) {
            // What follows would be read as commands, though it is a message.
            self.close();
        }
        Ok(())
    }

    /// A command that must wait for TLS or AUTH.
    fn out_of_place<'a>(
        &mut self,
        line: &'a [u8],
        command: &Command<'_>,
        reply: &'static [u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal<'a>> {
        if let Command::Bdat { size, .. } = *command {
            // Its octets come all the same.
            self.failed(reply, out);
            self.drop_chunk(size);
            return Ok(());
        }
        if matches!(command, Command::Mail { .. } | Command::Rcpt { .. }) {
            return self.refused(line, reply, out);
        }
        self.failed(reply, out);
        Ok(())
    }
}
