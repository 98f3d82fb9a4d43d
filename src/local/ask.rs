//! PURE. What VRFY and EXPN may say of local names (RFC 5321 §3.5). Whether they may say anything is the session's policy.
//!
//! In: the argument of the command. Out: texts for a reply, printable US-ASCII, each shorter than a line of it, their number
//! bounded. Refuses to guess: a name that two domains have is ambiguous, and where every local part is taken none is
//! confirmed.

use super::table::{Destination, Found, LocalTable, Resolution};
use super::unquoted;
use crate::limits::{DOMAIN_BYTES, LOCAL_EXPN_ADDRESSES, LOCAL_PART_BYTES};
use crate::message::address_list;
use crate::smtp::address;

/// The answer to VRFY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// It takes mail: `<local-part@domain>`, for 250.
    Known(String),
    /// Several domains have the name: 553 (RFC 5321 §3.5.1).
    Ambiguous,
    /// There is none: 550 5.1.1.
    Unknown,
    /// It is not here, or every local part is taken here: 252 (RFC 5321 §3.5.3).
    CannotTell,
}

/// The answer to EXPN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expanded {
    /// An alias or a list: `<local-part@domain>` each, for the lines of 250; [`LOCAL_EXPN_ADDRESSES`] at most.
    List {
        /// The first of them.
        addresses: Vec<String>,
        /// How many more there are.
        more: usize,
    },
    /// A mailbox: 550, "That is a user name, not a mailing list" (RFC 5321 §3.5.1).
    Mailbox,
    /// Several domains have the name: 553.
    Ambiguous,
    /// There is none: 550 5.1.1.
    Unknown,
    /// It is not here: 550, the command tells of lists of this host.
    NotLocal,
}

impl LocalTable {
    /// VRFY: `argument` is a local part, or an address with or without angle brackets.
    pub fn verify(&self, argument: &[u8]) -> Verified {
        let (domain, local) = match self.locate(argument) {
            Located::At(domain, local) => (domain, local),
            Located::Several => return Verified::Ambiguous,
            Located::Nowhere => return Verified::Unknown,
            Located::Elsewhere => return Verified::CannotTell,
        };
        let Some(site) = self.site(&domain) else { return Verified::CannotTell };
        let taken_anyway = site.mailboxes.is_none() && matches!(site.find(&domain, &local), Found::Mailbox(_));
        match self.resolve_unquoted(&domain, &local) {
            Resolution::Mailbox(_) if taken_anyway => Verified::CannotTell,
            Resolution::Mailbox(mailbox) => Verified::Known(display(&mailbox.address)),
            Resolution::Addresses(_) => Verified::Known(display(&address_list::join(&local, &domain))),
            Resolution::Unknown | Resolution::NotLocal => Verified::Unknown,
        }
    }

    /// EXPN, with the same argument.
    pub fn expand(&self, argument: &[u8]) -> Expanded {
        let (domain, local) = match self.locate(argument) {
            Located::At(domain, local) => (domain, local),
            Located::Several => return Expanded::Ambiguous,
            Located::Nowhere => return Expanded::Unknown,
            Located::Elsewhere => return Expanded::NotLocal,
        };
        match self.resolve_unquoted(&domain, &local) {
            Resolution::Mailbox(_) => Expanded::Mailbox,
            Resolution::Unknown | Resolution::NotLocal => Expanded::Unknown,
            Resolution::Addresses(expansion) => {
                let shown = expansion.members.iter().take(LOCAL_EXPN_ADDRESSES);
                let addresses = shown.map(|member| display(Destination::address(&member.to))).collect();
                let more = expansion.members.len().saturating_sub(LOCAL_EXPN_ADDRESSES);
                Expanded::List { addresses, more }
            }
        }
    }

    /// Finds the domain of a name that comes without one, if one domain alone has it.
    fn locate(&self, argument: &[u8]) -> Located {
        let argument = argument.trim_ascii();
        let inside = argument.strip_prefix(b"<").and_then(|a| a.strip_suffix(b">")).unwrap_or(argument);
        if let Ok((path, b"")) = address::path(&[b"<", inside, b">"].concat())
            && !path.domain().is_empty()
        {
            let domain = path.domain().to_ascii_lowercase();
            return match unquoted(&path.address[..path.domain_at - 1]) {
                Some(local) if self.site(&domain).is_some() => Located::At(domain, local),
                _ => Located::Elsewhere,
            };
        }
        let Some(local) = unquoted(inside) else { return Located::Nowhere };
        if local.is_empty() || local.len() > LOCAL_PART_BYTES {
            return Located::Nowhere;
        }
        let has = |domain: &&[u8]| self.resolve_unquoted(domain, &local) != Resolution::Unknown;
        let mut found = self.domains.keys().map(|domain| &**domain).filter(has);
        match (found.next(), found.next()) {
            (Some(domain), None) => Located::At(domain.to_vec(), local),
            (Some(_), Some(_)) => Located::Several,
            (None, _) => Located::Nowhere,
        }
    }
}

/// Where the name of an argument is.
enum Located {
    /// In this domain of ours, without its quotes.
    At(Vec<u8>, Vec<u8>),
    Several,
    Nowhere,
    Elsewhere,
}

/// `<address>` for a reply.
fn display(address: &[u8]) -> String {
    const MOST: usize = LOCAL_PART_BYTES * 2 + 3 + DOMAIN_BYTES;
    let cut = &address[..address.len().min(MOST)];
    let plain = cut.iter().map(|b| if matches!(b, b' '..=b'~') { char::from(*b) } else { '?' });
    let mut text = String::with_capacity(MOST + 2);
    text.push('<');
    text.extend(plain);
    text.push('>');
    text
}
