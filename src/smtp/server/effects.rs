//! PURE. What the server machine asks of its driver, and what the driver answers.

use crate::message::{Member, MessageId};
use crate::smtp::data::Fault;
use crate::smtp::forwarded::Attributes;
use crate::smtp::policy::PeerFacts;
use crate::smtp::sasl;

/// What the driver does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Wait for bytes. What was not consumed is the start of a line: it is given again in front of them.
    NeedInput,
    /// The next piece of message data, in wire form: dot-stuffed, and the last piece ends with the final `.` CRLF, so
    /// that the concatenation can be sent behind a prepended header. For an empty message it is `.` CRLF.
    Body(&'a [u8]),
    /// The message whose pieces came is whole and valid. Make it durable, then call [`super::Server::handle_verdict`].
    Message,
    /// Drop the pieces of this message: it is refused. The session goes on, the client will be told at the end.
    Discarded(Fault),
    /// The client has given up the message whose pieces came: drop them.
    Dropped,
    /// MAIL or RCPT was refused, for the log.
    Refused(Refusal<'a>),
    /// Get [`super::Server::take_question`], and give the answer, now or later, to [`super::Server::handle_answer`].
    Ask,
    /// Send `out`, drop what else has come (RFC 3207 §4.2: it was not encrypted), begin TLS as the server, and then call
    /// [`super::Server::tls_established`].
    StartTls,
    /// Nothing was consumed: a verdict or an answer is due, the client must wait for its errors, or `out` holds `limits::SESSION_OUT_BYTES` that must be sent first.
    Blocked,
    /// Send `out`, then close. No further bytes are wanted.
    Close,
}

/// A MAIL or RCPT that was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// The command line, without its CRLF, as the client sent it.
    pub line: &'a [u8],
    /// The reply, with its CRLF.
    pub reply: &'static [u8],
}

/// What became of a message that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is on stable storage: from here on it is ours.
    Accepted(MessageId),
    /// Too many messages wait. 452 4.3.1.
    Busy,
    /// No room on the disk. 452 4.3.1.
    Full,
    /// It could not be stored for another reason. 451 4.3.0.
    LocalError,
}

/// What the driver is asked.
#[derive(Debug)]
pub enum Question {
    /// May the envelope's sender send? [`Answer::Yes`] or [`Answer::Reply`].
    Sender,
    /// May the envelope's last recipient be sent to? [`Answer::Yes`], [`Answer::Recipients`] or [`Answer::Reply`].
    Recipient,
    /// VRFY of this: [`Answer::Reply`].
    Verify(Vec<u8>),
    /// EXPN of this: [`Answer::Reply`].
    Expand(Vec<u8>),
    /// 24 unpredictable octets for AUTH: [`Answer::Nonce`].
    Nonce,
    /// What AUTH asks: [`Answer::Sasl`].
    Sasl(sasl::Question),
    /// A proxy says that its client is another: [`Answer::Peer`].
    Client(Attributes),
}

/// The answer to a [`Question`].
#[derive(Debug)]
pub enum Answer<'a> {
    /// Yes.
    Yes,
    /// Yes, and it stands for these, which are so few that the envelope stays within `limits::RECIPIENTS`.
    Recipients(&'a [Member<'a>]),
    /// This reply, whole, with its CRLF; for a sender or recipient a refusal.
    Reply(&'a [u8]),
    /// For AUTH.
    Nonce([u8; 24]),
    /// For AUTH.
    Sasl(sasl::Answer),
    /// What is known of the client that XCLIENT named.
    Peer(PeerFacts),
}
