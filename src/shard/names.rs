//! PURE. Local names as the accepting half asks for them: of recipients, of VRFY and EXPN, of senders who get a notification.
//!
//! In: the table, addresses. Out: what they stand for, replies. Refuses what would not fit an envelope.

use crate::limits;
use crate::local::{self, Destination, Expanded, LocalTable, Resolution, Verified};
use crate::message::Member;
use crate::route::Domain;
use crate::smtp::reply::text;

/// What an address is here.
#[derive(Debug)]
pub(super) enum Named {
    /// Nothing of ours: to be relayed, or not.
    Elsewhere,
    /// Of a domain of ours that has no such name.
    Nobody,
    /// A mailbox.
    Mailbox,
    /// These, one at least.
    Members(Vec<local::Member>),
}

/// What `address`, whose domain is `domain` (empty for the bare `Postmaster`), is here.
pub(super) fn named(table: &LocalTable, address: &[u8], domain: &[u8]) -> Named {
    if table.is_empty() {
        return Named::Elsewhere;
    }
    let local_part = &address[..address.len() - (domain.len() + 1).min(address.len())];
    let bare = domain.is_empty();
    let resolution = table.resolve(Domain::new(domain).as_str().as_bytes(), if bare { address } else { local_part });
    match resolution {
        Resolution::NotLocal => Named::Elsewhere,
        Resolution::Unknown => Named::Nobody,
        // It needs a domain to be found again when it is delivered.
        Resolution::Mailbox(mailbox) if bare => {
            Named::Members(vec![local::Member { to: Destination::Mailbox(mailbox), reverse_path: None }])
        }
        Resolution::Mailbox(_) => Named::Mailbox,
        Resolution::Addresses(expansion) => Named::Members(expansion.members),
    }
}

/// As an envelope takes it.
pub(super) fn member(member: &local::Member) -> Member<'_> {
    let address = member.to.address();
    let domain_at = memchr::memrchr(b'@', address).map_or(address.len(), |at| at + 1);
    Member { address, domain_at, reverse_path: member.reverse_path.as_deref() }
}

/// Whether its addresses are paths (RFC 5321 §4.5.3.1.3): quoting may have made them longer.
pub(super) fn fits(member: &local::Member) -> bool {
    let most = limits::PATH_BYTES - 2;
    member.to.address().len() <= most && member.reverse_path.as_ref().is_none_or(|path| path.len() <= most)
}

/// The reply to VRFY.
pub(super) fn verify(table: &LocalTable, name: &[u8]) -> Vec<u8> {
    if table.is_empty() {
        return text::CANNOT_VERIFY.to_vec();
    }
    match table.verify(name) {
        Verified::Known(address) => format!("250 2.1.5 {address}\r\n").into_bytes(),
        Verified::Ambiguous => text::AMBIGUOUS.to_vec(),
        Verified::Unknown => text::NO_SUCH_USER.to_vec(),
        Verified::CannotTell => text::CANNOT_VERIFY.to_vec(),
    }
}

/// The reply to EXPN.
pub(super) fn expand(table: &LocalTable, name: &[u8]) -> Vec<u8> {
    match table.expand(name) {
        Expanded::List { addresses, more } => {
            let rest = (more > 0).then(|| format!("and {more} more"));
            let lines: Vec<String> = addresses.into_iter().chain(rest).collect();
            let last = lines.len().saturating_sub(1);
            let line =
                |(at, line): (usize, &String)| format!("250{}2.1.5 {line}\r\n", if at < last { '-' } else { ' ' });
            lines.iter().enumerate().map(line).collect::<String>().into_bytes()
        }
        Expanded::Mailbox => text::NO_LIST.to_vec(),
        Expanded::Ambiguous => text::AMBIGUOUS.to_vec(),
        Expanded::Unknown => text::NO_SUCH_USER.to_vec(),
        Expanded::NotLocal => text::LIST_ELSEWHERE.to_vec(),
    }
}
