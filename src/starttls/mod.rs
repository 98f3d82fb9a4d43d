//! PURE. What TLS a connection to a mail exchanger must have, and who says so.
//!
//! In: the configured level, what DNSSEC says of the way to the host, its TLSA records (RFC 7672), the MTA-STS policy of the
//! recipient's domain (RFC 8461), what a message asks for itself (RFC 8689), and whether TLS with the host was found broken.
//! Out: a [`Decision`], or why the host must not be connected to. What a handshake came to is judged by [`Decision::accepts`].
//! Lives on the shard that owns the destination. It refuses to look anything up, and to verify a certificate: rt does.
//!
//! [`decide`] is this table; the first line that fits holds, from the top:
//!
//! | level | TLSA of the host | MTA-STS | | |
//! |---|---|---|---|---|
//! | none | | | TLS is not begun | as the operator wants it |
//! | | the question failed | | not this host | RFC 7672 §2.1.2, §2.2: SERVFAIL and bogus answers are what a downgrade looks like |
//! | | usable | | TLS, verified by them | RFC 7672 §2.2; DANE wins where both are there, RFC 8461 §2 |
//! | | | enforce, host not named | not this host | RFC 8461 §5.1 |
//! | | | enforce, host named | TLS, verified by an authority | RFC 8461 §4.1 |
//! | verify | | | TLS, verified by an authority | |
//! | | secure, none usable | | TLS, not verified | RFC 7672 §2.2 |
//! | require | | | TLS, not verified | |
//! | opportunistic | | | TLS if offered, not verified | RFC 7435; in the clear for a time where it was found broken |
//!
//! TLSA records are asked for only where the answers that lead to the host (MX, then its addresses) are secure by DNSSEC
//! (RFC 7672 §2.1.3, §2.2.1); otherwise whoever forges the way forges the records. An MTA-STS policy in mode `testing`
//! decides nothing: what it would have decided is in [`Decision::tested`], for the report. A message with `TLS-Required: No`
//! has the line of its level taken as `opportunistic`, without TLSA and MTA-STS (RFC 8689 §4.1), unless that is `none`; since
//! connections are of a site, not of a message, it has connections of its own. One with REQUIRETLS needs a connection
//! that was verified, to a host whose name can be believed: [`Decision::name_is_secure`].

pub mod report;
pub mod sts;
#[cfg(test)]
mod tests;

use crate::dns::Tlsa;
use crate::rt::tls::client::{Association, Fault, Matching, Selector, Usage};
use std::fmt;
use sts::Mode;

/// What the operator asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsLevel {
    /// No TLS.
    None,
    /// TLS where it is offered, with whomever.
    #[default]
    Opportunistic,
    /// TLS or nothing, with whomever.
    Require,
    /// TLS or nothing, with a host whose certificate has its name and is vouched for.
    Verify,
}

impl TlsLevel {
    /// All, with their names in the configuration.
    pub const ALL: [(&str, TlsLevel); 4] = [
        ("none", TlsLevel::None),
        ("opportunistic", TlsLevel::Opportunistic),
        ("require", TlsLevel::Require),
        ("verify", TlsLevel::Verify),
    ];
}

/// The TLSA records of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Dane {
    /// There is nothing to go by: the way to the host is not secure, or there are no secure records.
    #[default]
    Absent,
    /// The question had no answer that can be believed: SERVFAIL, bogus, no answer.
    Failed,
    /// Secure records, those that can be used; none may be left.
    Secure(Vec<Association>),
}

/// Of the records that DNS gave, those that can be used (RFC 7672 §3.1.3): PKIX-TA(0), PKIX-EE(1), unknown numbers and
/// digests of another length cannot.
pub fn usable(records: &[Tlsa]) -> Vec<Association> {
    records
        .iter()
        .filter_map(|record| {
            let matching = match (record.matching, record.data.len()) {
                (0, 1..) => Matching::Full,
                (1, 32) => Matching::Sha256,
                (2, 64) => Matching::Sha512,
                _ => return None,
            };
            Some(Association {
                usage: match record.usage {
                    2 => Usage::Authority,
                    3 => Usage::Server,
                    _ => return None,
                },
                selector: match record.selector {
                    0 => Selector::Certificate,
                    1 => Selector::PublicKey,
                    _ => return None,
                },
                matching,
                data: record.data.clone(),
            })
        })
        .collect()
}

/// What is known before a connection is made. See the module.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// As configured for the destination.
    pub level: TlsLevel,
    /// The host's TLSA records.
    pub dane: &'a Dane,
    /// The mode of the policy of the recipient's domain, and whether it names the host; `None` without policy.
    pub sts: Option<(Mode, bool)>,
    /// The host's name comes from a secure answer, or from the operator.
    pub name_is_secure: bool,
    /// TLS with this host came to nothing a short time ago.
    pub broken: bool,
    /// The message says `TLS-Required: No`.
    pub not_required: bool,
}

/// How STARTTLS is gone about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Not at all.
    Never,
    /// Where it is offered.
    IfOffered,
    /// Or no mail.
    Require,
}

/// What the server's certificate must pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing.
    None,
    /// An authority of ours vouches for the host's name (RFC 5280).
    Pkix,
    /// One of the host's TLSA records describes it (RFC 7672).
    Dane,
}

/// Who decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The configured level.
    Level,
    /// Earlier trouble with the host's TLS.
    Broken,
    /// The host's TLSA records.
    Dane,
    /// The MTA-STS policy of the recipient's domain.
    Sts,
    /// The message, by `TLS-Required: No`.
    Message,
}

impl By {
    /// The name in the event log.
    pub fn name(self) -> &'static str {
        match self {
            By::Level => "configuration",
            By::Broken => "broken-tls",
            By::Dane => "dane",
            By::Sts => "mta-sts",
            By::Message => "tls-required-no",
        }
    }
}

/// What the connection must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// STARTTLS.
    pub wish: Wish,
    /// The certificate.
    pub proof: Proof,
    /// Why.
    pub by: By,
    /// A policy in mode `testing` would have asked for TLS verified by an authority; and whether it names the host.
    pub tested: Option<bool>,
    /// The host's name can be believed, so that a certificate for it says something (RFC 8689 §4.2.1).
    pub name_is_secure: bool,
}

/// Why a host must not be connected to: it counts as out of reach, the next one is tried, and the mail waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its TLSA records cannot be had.
    TlsaUnknown,
    /// The MTA-STS policy does not name it.
    StsMismatch,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::TlsaUnknown => "the question for its TLSA records had no secure answer (RFC 7672)",
            Refused::StsMismatch => "the MTA-STS policy of the domain does not name it (RFC 8461)",
        })
    }
}

/// What a connection must do. See the module for the table.
///
/// # Errors
/// There must be none to this host.
pub fn decide(facts: &Facts<'_>) -> Result<Decision, Refused> {
    let name_is_secure = facts.name_is_secure || matches!(facts.sts, Some((Mode::Enforce | Mode::Testing, true)));
    let tested = facts.sts.filter(|(mode, _)| *mode == Mode::Testing).map(|(_, named)| named);
    let decision = |wish, proof, by| Ok(Decision { wish, proof, by, tested, name_is_secure });
    if facts.level == TlsLevel::None {
        return decision(Wish::Never, Proof::None, By::Level);
    }
    if facts.not_required {
        let wish = if facts.broken { Wish::Never } else { Wish::IfOffered };
        return decision(wish, Proof::None, By::Message);
    }
    match facts.dane {
        Dane::Failed => return Err(Refused::TlsaUnknown),
        Dane::Secure(records) if !records.is_empty() => return decision(Wish::Require, Proof::Dane, By::Dane),
        Dane::Secure(_) | Dane::Absent => {}
    }
    match facts.sts {
        Some((Mode::Enforce, false)) => return Err(Refused::StsMismatch),
        Some((Mode::Enforce, true)) => return decision(Wish::Require, Proof::Pkix, By::Sts),
        Some((Mode::Testing | Mode::None, _)) | None => {}
    }
    match (facts.level, facts.dane) {
        (TlsLevel::Verify, _) => decision(Wish::Require, Proof::Pkix, By::Level),
        (_, Dane::Secure(_)) => decision(Wish::Require, Proof::None, By::Dane),
        (TlsLevel::Require, _) => decision(Wish::Require, Proof::None, By::Level),
        (_, _) if facts.broken => decision(Wish::Never, Proof::None, By::Broken),
        (_, _) => decision(Wish::IfOffered, Proof::None, By::Level),
    }
}

/// What a certificate passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// An authority of ours vouches for the host's name.
    Pkix,
    /// By a TLSA record of this usage, selector and matching type.
    Dane(u8, u8, u8),
    /// It did not pass, which did not matter.
    No(Fault),
}

/// The record's numbers (RFC 7218).
pub fn numbers(record: &Association) -> (u8, u8, u8) {
    let usage = match record.usage {
        Usage::Authority => 2,
        Usage::Server => 3,
    };
    let selector = match record.selector {
        Selector::Certificate => 0,
        Selector::PublicKey => 1,
    };
    let matching = match record.matching {
        Matching::Full => 0,
        Matching::Sha256 => 1,
        Matching::Sha512 => 2,
    };
    (usage, selector, matching)
}

impl Decision {
    /// Whether mail may go over TLS with a certificate that came to this.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn accepts(&self, verified: Verified) -> Result<(), Fault> {
        match (self.proof, verified) {
            (Proof::None, _) | (Proof::Pkix, Verified::Pkix) | (Proof::Dane, Verified::Dane(..)) => Ok(()),
            (Proof::Pkix | Proof::Dane, Verified::No(fault)) => Err(fault),
            (Proof::Dane, Verified::Pkix) => Err(Fault::NoAssociation),
            (Proof::Pkix, Verified::Dane(..)) => Err(Fault::Untrusted),
        }
    }

    /// Whether a message with REQUIRETLS may go over TLS with such a certificate (RFC 8689 §4.2.1).
    pub fn suits_requiretls(&self, verified: Verified) -> bool {
        self.name_is_secure && !matches!(verified, Verified::No(_))
    }
}
