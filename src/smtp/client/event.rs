//! PURE. What the client machine says to its driver, and how it keeps it until it is asked: the texts of replies one
//! after the other in one buffer, so that an event costs no allocation of its own.

use crate::limits;
use crate::smtp::reply::{EnhancedCode, Reply, ReplyError};
use crate::smtp::sasl::LoginFault;
use std::collections::VecDeque;
use std::ops::Range;

/// The next thing to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// The bytes that `Client::commands` gives for this range.
    Commands(Range<usize>),
    /// The whole data of this message in wire form, its final `.` CRLF included. Nothing comes behind it until the
    /// driver calls `Client::body_sent`.
    Body {
        /// As given to `Client::start`.
        token: u64,
    },
    /// The octets of this message that its BDAT has announced: no dot of it doubled, no final dot. As above.
    Chunk {
        /// As given to `Client::start`.
        token: u64,
    },
}

/// What happened. Replies borrow from the machine: copy what is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientEvent<'a> {
    /// Greeting and EHLO or HELO are done: transactions may start.
    Ready,
    /// The peer has answered STARTTLS with 220: what comes next on the wire is the TLS handshake (RFC 3207 §4). Then
    /// `Client::tls_established` or `Client::tls_failed`.
    StartTls,
    /// One recipient was refused. Those of a transaction that have no such event, nor [`ClientEvent::Settled`], share its
    /// outcome.
    Recipient {
        /// As given to `Client::start`.
        token: u64,
        /// Its place among the recipients given to `Client::start`, from 0.
        index: u32,
        /// The reply to its RCPT.
        reply: Reply<'a>,
    },
    /// LMTP: the reply to the message for one recipient, whose outcome that is: 2yz, 4yz or 5yz.
    Settled {
        /// As given to `Client::start`.
        token: u64,
        /// Its place, as in [`ClientEvent::Recipient`].
        index: u32,
        /// That reply.
        reply: Reply<'a>,
    },
    /// A transaction is over; each one started has exactly one such event.
    Finished {
        /// As given to `Client::start`.
        token: u64,
        /// For every recipient that had no event of its own.
        outcome: Outcome<'a>,
    },
    /// The connection cannot be used any more; always the last event. Flush what there is to send, and close.
    Closed(CloseReason<'a>),
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The peer has taken the message.
    Accepted(Reply<'a>),
    /// It has not, and said so. 4yz or 5yz by the reply's code.
    Refused {
        /// By which reply.
        stage: RefusedAt,
        /// That reply; for [`RefusedAt::Local`] one of our own.
        reply: Reply<'a>,
    },
    /// The connection ended before there was an answer: to be tried again.
    Lost {
        /// The whole body had been sent, and not answered: the peer may have taken the message, and a second try may be a duplicate.
        after_final_dot: bool,
    },
}

/// Which reply refused a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedAt {
    /// None: the peer's announcements already forbid the message, and nothing was sent.
    Local,
    /// To MAIL.
    Mail,
    /// Every RCPT was refused; each has had its event, and the reply here is the last one.
    Recipients,
    /// To DATA.
    Data,
    /// To the final dot, or to BDAT.
    Message,
    /// By one that says nothing of the mail: the peer does not take flights. To be sent again without.
    Flight,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason<'a> {
    /// The greeting, or EHLO and HELO, were answered 4yz or 5yz.
    Refused(Reply<'a>),
    /// 421: the peer shuts the connection down (RFC 5321 §3.8).
    Shutdown(Reply<'a>),
    /// The peer's bytes are no replies.
    NotSmtp(ReplyError),
    /// A reply where none was due, or of a class that the command cannot have.
    Unexpected(Reply<'a>),
    /// TLS is required here, and the peer does not offer STARTTLS.
    TlsNotOffered,
    /// TLS is required here, and the peer answered STARTTLS so.
    TlsRefused(Reply<'a>),
    /// The handshake came to nothing.
    TlsFailed,
    /// The peer answered AUTH, or our side of it, so.
    LoginRefused(Reply<'a>),
    /// We are to log in here, and cannot or will not.
    NoLogin(LoginFault),
    /// Bytes stood in the clear behind the 220 to STARTTLS: somebody on the way wants them taken for what the peer says
    /// under TLS (RFC 3207 §5).
    Injected,
    /// Nothing came in time.
    Timeout(Awaited),
    /// The peer closed or reset the connection.
    PeerClosed,
    /// QUIT was sent, and answered or not.
    Quit,
}

/// What the machine waits for, by its timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// The greeting.
    Greeting,
    /// The reply to EHLO, HELO, STARTTLS, AUTH, RSET or QUIT.
    Command,
    /// The end of the TLS handshake.
    Handshake,
    /// The reply to MAIL or RCPT.
    Envelope,
    /// 354.
    DataInitiation,
    /// The transport to take more of the body.
    DataBlock,
    /// The reply to the final dot.
    DataTermination,
    /// Nothing: the connection is idle or over.
    Nothing,
}

/// An event, with its text in [`Events`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Stored {
    Ready,
    StartTls,
    Recipient(u64, u32, StoredReply),
    Settled(u64, u32, StoredReply),
    Accepted(u64, StoredReply),
    Refused(u64, RefusedAt, StoredReply),
    Lost(u64, bool),
    Closed(StoredReason),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum StoredReason {
    Refused(StoredReply),
    Shutdown(StoredReply),
    NotSmtp(ReplyError),
    Unexpected(StoredReply),
    TlsNotOffered,
    TlsRefused(StoredReply),
    TlsFailed,
    LoginRefused(StoredReply),
    NoLogin(LoginFault),
    Injected,
    Timeout(Awaited),
    PeerClosed,
    Quit,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct StoredReply {
    code: u16,
    enhanced: Option<EnhancedCode>,
    start: usize,
    end: usize,
}

/// Events that the driver has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Events {
    queue: VecDeque<Stored>,
    texts: Vec<u8>,
}

impl Events {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Events, and bytes of their texts.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn sizes(&self) -> [usize; 2] {
        [self.queue.len(), self.texts.len()]
    }

    /// The 421 that ends the connection, once it has come: the last of the events.
    pub(super) fn parting(&self) -> Option<Reply<'_>> {
        match self.queue.back()? {
            Stored::Closed(StoredReason::Shutdown(r)) => Some(self.reply(*r)),
            _ => None,
        }
    }

    fn reply(&self, r: StoredReply) -> Reply<'_> {
        let text = std::str::from_utf8(&self.texts[r.start..r.end]).expect("the parser lets only ASCII through");
        Reply { code: r.code, enhanced: r.enhanced, text }
    }

    pub(super) fn push(&mut self, event: Stored) {
        self.queue.push_back(event);
    }

    /// Keeps the text of a reply until its event is taken.
    pub(super) fn store(&mut self, reply: Reply<'_>) -> StoredReply {
        let start = self.texts.len();
        self.texts.extend_from_slice(reply.text.as_bytes());
        StoredReply { code: reply.code, enhanced: reply.enhanced, start, end: self.texts.len() }
    }

    pub(super) fn poll(&mut self) -> Option<ClientEvent<'_>> {
        let Some(event) = self.queue.pop_front() else {
            self.texts.clear();
            self.texts.shrink_to(limits::REPLY_TEXT_BYTES);
            return None;
        };
        let reply = |r: StoredReply| self.reply(r);
        Some(match event {
            Stored::Ready => ClientEvent::Ready,
            Stored::StartTls => ClientEvent::StartTls,
            Stored::Recipient(token, index, r) => ClientEvent::Recipient { token, index, reply: reply(r) },
            Stored::Settled(token, index, r) => ClientEvent::Settled { token, index, reply: reply(r) },
            Stored::Accepted(token, r) => ClientEvent::Finished { token, outcome: Outcome::Accepted(reply(r)) },
            Stored::Refused(token, stage, r) => {
                ClientEvent::Finished { token, outcome: Outcome::Refused { stage, reply: reply(r) } }
            }
            Stored::Lost(token, after_final_dot) => {
                ClientEvent::Finished { token, outcome: Outcome::Lost { after_final_dot } }
            }
            Stored::Closed(reason) => ClientEvent::Closed(match reason {
                StoredReason::Refused(r) => CloseReason::Refused(reply(r)),
                StoredReason::Shutdown(r) => CloseReason::Shutdown(reply(r)),
                StoredReason::NotSmtp(error) => CloseReason::NotSmtp(error),
                StoredReason::Unexpected(r) => CloseReason::Unexpected(reply(r)),
                StoredReason::TlsNotOffered => CloseReason::TlsNotOffered,
                StoredReason::TlsRefused(r) => CloseReason::TlsRefused(reply(r)),
                StoredReason::TlsFailed => CloseReason::TlsFailed,
                StoredReason::LoginRefused(r) => CloseReason::LoginRefused(reply(r)),
                StoredReason::NoLogin(fault) => CloseReason::NoLogin(fault),
                StoredReason::Injected => CloseReason::Injected,
                StoredReason::Timeout(awaited) => CloseReason::Timeout(awaited),
                StoredReason::PeerClosed => CloseReason::PeerClosed,
                StoredReason::Quit => CloseReason::Quit,
            }),
        })
    }
}
