//! PURE. Accounts: who may send with a password or certificate, as which addresses, how much.
//!
//! In: the text of an accounts file (`docs/accounts.md`), made into an immutable table that all shards and the threads that
//! check passwords share by `Arc`; a new text makes a new table. Out: the account of a name, what it may send as, its limits;
//! in [`check`], verdicts on passwords and keys for SCRAM. It refuses a file with anything wrong in it, all of it, and to
//! hold more than limits.rs allows. `file` alone touches the disk, and only for the command line and start-up.

pub mod check;
pub mod edit;
pub mod file;
mod parse;
mod secret;

pub use secret::{Cost, Scheme, Secret};

use crate::smtp::sasl::KEY_BYTES;
use foldhash::quality::FixedState;
use std::collections::HashMap;

/// The SHA-256 of a certificate's DER form.
pub type Fingerprint = [u8; KEY_BYTES];

/// All accounts of a file.
#[derive(Debug, Default)]
pub struct Accounts {
    list: Vec<Account>,
    /// Their places in `list`. The keys are the operator's: a peer cannot choose what collides.
    by_name: HashMap<Box<str>, usize, FixedState>,
    by_certificate: HashMap<Fingerprint, usize, FixedState>,
    decoys: check::Decoys,
    warnings: Vec<String>,
}

/// One account. Its file's [`Accounts`] owns it.
#[derive(Debug)]
pub struct Account {
    name: Box<str>,
    secret: Option<Secret>,
    senders: Vec<Sender>,
    certificate: Option<Fingerprint>,
    rates: Rates,
    disabled: bool,
}

/// How much an account may send; nothing: as much as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Messages in a minute.
    pub messages_per_minute: Option<u32>,
    /// Messages in a day.
    pub messages_per_day: Option<u32>,
    /// Recipients in a minute.
    pub recipients_per_minute: Option<u32>,
    /// Recipients in a day.
    pub recipients_per_day: Option<u32>,
}

impl Rates {
    /// Each with its key in the file.
    pub fn named(&self) -> [(&'static str, Option<u32>); 4] {
        [
            ("messages_per_minute", self.messages_per_minute),
            ("messages_per_day", self.messages_per_day),
            ("recipients_per_minute", self.recipients_per_minute),
            ("recipients_per_day", self.recipients_per_day),
        ]
    }
}

/// One entry of an account's `from`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sender {
    /// `*`: every address, but not the null sender.
    Any,
    /// `<>`: the null sender.
    Null,
    /// `user@example.com`.
    Address(Box<str>),
    /// `@example.com`: every local part of it, but none of its subdomains. Without the `@`.
    Domain(Box<str>),
}

impl Accounts {
    /// The account of a prepared name ([`crate::smtp::sasl::prepare_name`]), disabled ones too.
    pub fn get(&self, name: &str) -> Option<&Account> {
        self.by_name.get(name).map(|at| &self.list[*at])
    }

    /// All of them, in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Account> {
        self.list.iter()
    }

    /// Whether to announce the SCRAM mechanisms: every account that has a secret can use them. A client takes the
    /// strongest mechanism it finds, and most try no other when it fails, so one account with argon2id makes it no offer.
    pub fn offers_scram(&self) -> bool {
        let mut secrets = self.list.iter().filter(|account| !account.disabled).filter_map(|account| account.secret());
        secrets.clone().next().is_some() && secrets.all(|secret| secret.scheme() == Scheme::Scram)
    }

    /// What is good but suspicious, a line each, for the operator's log.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether this account may use the reverse-path, given without its angle brackets; empty is the null sender. A name
    /// that is no account's, or a disabled one's, may use none.
    pub fn may_send_as(&self, account: &str, reverse_path: &[u8]) -> bool {
        self.get(account).is_some_and(|account| account.may_send_as(reverse_path))
    }
}

impl Account {
    /// Its name, prepared.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is kept of its password; nothing if it comes by certificate only.
    pub fn secret(&self) -> Option<&Secret> {
        self.secret.as_ref()
    }

    /// The certificate it may come by.
    pub fn certificate(&self) -> Option<&Fingerprint> {
        self.certificate.as_ref()
    }

    /// How much it may send.
    pub fn rates(&self) -> Rates {
        self.rates
    }

    /// It may not log in and not send.
    pub fn is_disabled(&self) -> bool {
        self.disabled
    }

    /// Its `from`, as a file has it.
    pub fn senders(&self) -> impl Iterator<Item = String> {
        self.senders.iter().map(|sender| match sender {
            Sender::Any => "*".to_owned(),
            Sender::Null => "<>".to_owned(),
            Sender::Address(address) => address.to_string(),
            Sender::Domain(domain) => format!("@{domain}"),
        })
    }

    /// See [`Accounts::may_send_as`].
    ///
    /// ASCII letters are compared without case, in local parts too. RFC 5321 §2.4 leaves a local part's case to its own
    /// host; here operators list their own users' addresses, no host tells `Ann` from `ann`, and clients send what their
    /// users typed. What is not ASCII, and quoting, is compared as it stands: an address in another writing is refused.
    pub fn may_send_as(&self, reverse_path: &[u8]) -> bool {
        let domain = reverse_path.iter().rposition(|b| *b == b'@').map(|at| &reverse_path[at + 1..]);
        !self.disabled
            && self.senders.iter().any(|sender| match sender {
                Sender::Any => !reverse_path.is_empty(),
                Sender::Null => reverse_path.is_empty(),
                Sender::Address(address) => reverse_path.eq_ignore_ascii_case(address.as_bytes()),
                Sender::Domain(allowed) => domain.is_some_and(|domain| domain.eq_ignore_ascii_case(allowed.as_bytes())),
            })
    }
}

#[cfg(test)]
mod tests;
