//! What a host said, as it is kept and told: the reply to a recipient, to a message, and why a connection ended.

use super::connection::Refused;
use super::{login, tls};
use crate::message::Status;
use crate::queue::LastReply;
use crate::shard::event::TlsNote;
use crate::smtp::client::CloseReason;
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::starttls::By;
use crate::time::Wall;

/// Why a connection ended, in the words of a deferral.
pub(super) struct End {
    /// In whole sentences for the operator and the sender.
    pub(super) text: String,
    /// Not by our own QUIT.
    pub(super) is_failure: bool,
    /// TLS came to nothing.
    pub(super) is_tls: bool,
    /// The host would not have us.
    pub(super) is_login: bool,
    /// What it said, if a rule is for that.
    pub(super) judged: Option<Refused>,
}

/// `why`: what went wrong with TLS, if that is known better than by the reason.
pub(super) fn end_of_connection(reason: &CloseReason<'_>, why: Option<String>) -> End {
    let text = match reason {
        CloseReason::Refused(reply) => format!("the host refused the session: {} {}", reply.code, reply.text),
        CloseReason::Shutdown(reply) => format!("the host ended the session: {} {}", reply.code, reply.text),
        CloseReason::Unexpected(reply) => format!("the host sent a reply out of place: {} {}", reply.code, reply.text),
        CloseReason::NotSmtp(error) => format!("the host does not speak SMTP: {error:?}"),
        CloseReason::Timeout(awaited) => format!("the host did not answer in time (waiting for {awaited:?})"),
        CloseReason::TlsNotOffered => "the host does not offer STARTTLS".to_owned(),
        CloseReason::TlsRefused(reply) => format!("the host refused STARTTLS: {} {}", reply.code, reply.text),
        CloseReason::TlsFailed => "the TLS handshake failed".to_owned(),
        CloseReason::LoginRefused(_) | CloseReason::NoLogin(_) => login::end_of_login(reason).unwrap_or_default(),
        CloseReason::Injected => "bytes in the clear stood behind the reply to STARTTLS".to_owned(),
        CloseReason::PeerClosed => "the host closed the connection".to_owned(),
        CloseReason::Quit => "the session was ended".to_owned(),
    };
    let text = why.filter(|_| matches!(reason, CloseReason::TlsFailed)).unwrap_or(text);
    let is_login = matches!(reason, CloseReason::LoginRefused(_) | CloseReason::NoLogin(_));
    End {
        text,
        is_failure: !matches!(reason, CloseReason::Quit),
        is_tls: tls::is_about_tls(reason),
        is_login,
        judged: None,
    }
}

/// The reply to a RCPT. 552 without a status of its own means too many recipients, which is for now (RFC 5321
/// §4.5.3.1.10); with one it means what the status says, mostly a full mailbox.
pub(super) fn rcpt_reply(reply: &Reply<'_>, at: Wall, host: &str) -> LastReply {
    let mut reply = last_reply(reply, at, host);
    if reply.code == 552 && reply.status.is_none_or(|s| s == Status::new(5, 5, 3)) {
        (reply.code, reply.status) = (452, Some(Status::new(4, 5, 3)));
    }
    reply
}

/// A reply as it is kept.
pub(super) fn last_reply(reply: &Reply<'_>, at: Wall, host: &str) -> LastReply {
    let status = reply.enhanced.and_then(|e| matches!(e.0, 2 | 4 | 5).then(|| Status::new(e.0, e.1, e.2)));
    LastReply::new(at, host, reply.code, status, reply.text.as_bytes())
}

/// Why we did not send it to a host, which said nothing of that but what it lacks: no reply, and not from there (RFC 3464
/// §2.3.5, §2.3.6).
pub(super) fn not_sent(reply: &Reply<'_>, at: Wall, host: &str, tls: Option<TlsNote>) -> LastReply {
    let mut status = reply.enhanced.map(|e| Status::new(e.0, e.1, e.2));
    // It was not asked for TLS, since that did not work a while ago: the next try may find it working (RFC 8689 §4.2.1 lets a
    // message fail that no host can take, and nobody has said that yet).
    let rests = tls.is_some_and(|tls| tls.decision.by == By::Broken);
    if rests && status == Some(Status::new(5, 7, 10)) {
        status = Some(Status::new(4, 7, 10));
    }
    // Our own words begin with the status.
    let why = reply.text.split_once(' ').filter(|_| status.is_some()).map_or(reply.text, |(_, why)| why);
    LastReply::new(at, "", 0, status, format!("It was not sent to {host}: {why}").as_bytes())
}

/// A reply as it was kept, to be told again.
pub(super) fn as_reply(last: &LastReply) -> Reply<'_> {
    let enhanced = last.status.map(|s| EnhancedCode(s.class(), s.subject(), s.detail()));
    Reply { code: last.code, enhanced, text: std::str::from_utf8(&last.text).unwrap_or_default() }
}

/// 5yz, or a local reason of class 5.
pub(super) fn is_permanent(reply: &LastReply) -> bool {
    match reply.code {
        _ if planted!(PermanentIsTransient) => false,
        0 => reply.status.is_some_and(|s| s.class() == 5),
        code => (500..600).contains(&code) || planted!(TransientIsPermanent),
    }
}
