//! What a submission listener does to a message before it is stored (RFC 6409 §8): its header section is held until it is
//! whole, mended or refused, and goes on as if it had come so. On a relay listener, where mail stays as it is, that of an
//! account is only looked at: its From or Sender must be the account's, as everywhere.

use super::{Context, Session};
use crate::config::ListenerKind;
use crate::limits;
use crate::message::MessageId;
use crate::message::fields;
use crate::message::submission::{Account, SenderPolicy, Submission, check_sender, clean_up};
use crate::shard::Turn;

/// How far that is.
#[derive(Debug, Default)]
pub(super) enum Mending {
    /// This listener takes mail as it is, and nobody has said who sends it.
    #[default]
    Never,
    /// The header section as far as it has come.
    Header(Vec<u8>),
    /// It has gone on; the rest is passed as it comes.
    Passed,
    /// The message is refused with this reply; the rest of it is dropped.
    Refused(Vec<u8>),
}

impl Session {
    /// A transaction begins.
    pub(super) fn expect_header(&mut self) {
        if !matches!(self.mending, Mending::Never) {
            self.mending = Mending::Header(Vec::new());
            self.id = None;
        }
    }

    /// Whether the pieces of this message pass through [`mend`](Self::mend).
    pub(super) fn is_mended(&mut self) -> bool {
        // AUTH may come any time before a message, but not within one.
        if matches!(self.mending, Mending::Never) && self.server.account().is_some() {
            self.mending = Mending::Header(Vec::new());
        }
        !matches!(self.mending, Mending::Never)
    }

    /// Takes a piece of a message; `last` says that no more comes.
    pub(super) fn mend(&mut self, piece: &[u8], last: bool, turn: &mut Turn<'_>, context: &mut Context<'_>) {
        match &mut self.mending {
            Mending::Never | Mending::Passed => self.collect(piece, turn, context),
            Mending::Refused(_) => {}
            Mending::Header(header) => {
                header.extend_from_slice(piece);
                let whole = fields::section_len(header) < header.len();
                if !whole && !last && header.len() < limits::SUBMISSION_HEADER_BYTES {
                    return;
                }
                let header = std::mem::take(header);
                self.mend_header(&header, turn, context);
            }
        }
    }

    fn mend_header(&mut self, header: &[u8], turn: &mut Turn<'_>, context: &mut Context<'_>) {
        let id: MessageId = context.log.next_id(turn.now.wall);
        let mut mended = Vec::with_capacity(header.len() + 256);
        let accounts = context.gate.accounts();
        let may_send_as =
            |address: &[u8]| self.server.account().is_some_and(|name| accounts.may_send_as(name, address));
        let policy = if context.gate.adds_sender() { SenderPolicy::AddSender } else { SenderPolicy::Require };
        let account = self.server.account().map(|name| Account { name, may_send_as: &may_send_as, policy });
        let facts = Submission {
            date: context.dates.text(turn.now.wall),
            host: context.hostname,
            id,
            utf8: self.server.envelope().options.smtputf8,
            reverse_path: self.server.envelope().sender(),
            account,
        };
        let outcome = if context.gate.listener(self.listener).kind == ListenerKind::Relay {
            check_sender(header, &facts).map(|()| mended.extend_from_slice(header))
        } else {
            clean_up(header, &facts, &mut mended)
        };
        match outcome {
            Ok(()) => {
                self.id = Some(id);
                self.mending = Mending::Passed;
                self.collect(&mended, turn, context);
            }
            Err(refusal) => self.mending = Mending::Refused(refusal.reply().into_bytes()),
        }
    }

    /// The reply to a message that is refused for its header.
    pub(super) fn header_refusal(&mut self) -> Option<Vec<u8>> {
        match &mut self.mending {
            Mending::Refused(reply) => Some(std::mem::take(reply)),
            _ => None,
        }
    }
}
