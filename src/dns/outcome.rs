//! PURE. A question and what became of it.

use super::wire::{Kind, Records};
use crate::time::Moment;
use hickory_proto::op::ResponseCode;
use std::fmt;
use std::rc::Rc;

/// A name and what is asked about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) name: Rc<str>,
    pub(super) kind: Kind,
}

/// What became of a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) since: Moment,
    pub(super) expires: Moment,
    pub(super) found: Found,
    /// A server that is trusted to validate DNSSEC has validated all of it.
    pub(super) secure: bool,
    /// What the name is an alias of, in the end, where records were found.
    pub(super) alias: Option<Rc<str>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Ordered by preference, equals in random order, cut to what `limits.rs` allows.
    Records(Records),
    NoData,
    NoSuchName,
    /// For the operator.
    Failed(String),
}

/// How a server failed a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Timeout,
    Network,
    Code(ResponseCode),
    Malformed,
    Referral,
    Mismatched,
}

impl Failure {
    /// Another server is better for every question, not only for this one.
    pub(super) fn blames_server(self) -> bool {
        !matches!(self, Failure::Code(ResponseCode::ServFail) | Failure::Malformed)
    }

    /// Asking again at once could end differently.
    pub(super) fn may_pass(self) -> bool {
        matches!(self, Failure::Timeout | Failure::Network | Failure::Mismatched)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Timeout => f.write_str("no answer in time"),
            Failure::Network => f.write_str("not reachable, or closed the connection"),
            Failure::Code(ResponseCode::ServFail) => f.write_str("SERVFAIL"),
            Failure::Code(ResponseCode::Refused) => f.write_str("REFUSED"),
            Failure::Code(ResponseCode::FormErr) => f.write_str("FORMERR"),
            Failure::Code(ResponseCode::NotImp) => f.write_str("NOTIMP"),
            Failure::Code(code) => write!(f, "response code {}", u16::from(*code)),
            Failure::Malformed => f.write_str("unreadable answer"),
            Failure::Referral => f.write_str("lame: a referral instead of an answer (offers no recursion?)"),
            Failure::Mismatched => f.write_str("answered another question"),
        }
    }
}
