//! PURE. The accounts file as text becomes [`Accounts`], or all that is wrong with it.
//!
//! In: TOML (`config/accounts.toml` documents every key), the name of the file for the messages, a key for the decoys if the
//! file has none. Out: the table, or [`Problem`]s with line and column. It refuses unknown keys, an account without `from`,
//! one that nobody could use, and two accounts of one name or certificate; it never repeats a secret.

use super::check::Decoys;
use super::{Account, Accounts, Fingerprint, Rates, Scheme, Secret, Sender};
use crate::config::{Problem, place};
use crate::limits::{ACCOUNT_RATE, ACCOUNT_SENDERS, ACCOUNTS, ACCOUNTS_FILE_BYTES, PATH_BYTES, SECRET_COSTS};
use crate::smtp::address;
use crate::smtp::sasl::{KEY_BYTES, prepare_name};
use base64::prelude::{BASE64_STANDARD, Engine};
use serde::Deserialize;
use std::collections::hash_map::Entry;
use toml::Spanned;

/// A file that is all wrong is told so by its first mistakes.
const MOST_PROBLEMS: usize = 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    decoy_key: Option<Spanned<String>>,
    #[serde(default)]
    account: Vec<Spanned<RawAccount>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAccount {
    name: Spanned<String>,
    secret: Option<Spanned<String>>,
    from: Option<Spanned<Vec<Spanned<String>>>>,
    certificate: Option<Spanned<String>>,
    messages_per_minute: Option<Spanned<i64>>,
    messages_per_day: Option<Spanned<i64>>,
    recipients_per_minute: Option<Spanned<i64>>,
    recipients_per_day: Option<Spanned<i64>>,
    #[serde(default)]
    disabled: bool,
}

/// The file's text, and what is wrong with it so far.
struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn wrong(&mut self, at: usize, key: &str, message: impl Into<String>) {
        if self.problems.len() < MOST_PROBLEMS {
            let place = Some(place(self.text, at));
            self.problems.push(Problem { file: self.file.into(), place, key: key.into(), message: message.into() });
        }
    }

    /// The value that `read` makes of a key's text.
    fn value<T>(
        &mut self,
        key: &str,
        given: Option<&Spanned<String>>,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let given = given?;
        read(given.get_ref()).map_err(|message| self.wrong(given.span().start, key, message)).ok()
    }

    fn rate(&mut self, key: &str, given: Option<&Spanned<i64>>) -> Option<u32> {
        let given = given?;
        let rate = u32::try_from(*given.get_ref()).ok().filter(|rate| (1..=ACCOUNT_RATE).contains(rate));
        if rate.is_none() {
            self.wrong(given.span().start, key, format!("is not a whole number from 1 to {ACCOUNT_RATE}"));
        }
        rate
    }

    fn account(&mut self, raw: &Spanned<RawAccount>) -> Account {
        let start = raw.span().start;
        let raw = raw.get_ref();
        let name = self.value("name", Some(&raw.name), |text| prepare_name(text.as_bytes()).map_err(|e| e.to_string()));
        if raw.secret.is_none() && raw.certificate.is_none() {
            self.wrong(start, "account", "has neither secret nor certificate: nobody could use it");
        }
        let empty = raw.from.as_ref().is_none_or(|from| from.get_ref().is_empty());
        if empty {
            let at = raw.from.as_ref().map_or(start, |from| from.span().start);
            self.wrong(
                at,
                "from",
                "is missing: list what it may send as (\"user@example.com\", \"@example.com\"; \"*\" for everything)",
            );
        }
        let given = raw.from.iter().flat_map(|from| from.get_ref());
        if given.clone().count() > ACCOUNT_SENDERS {
            self.wrong(start, "from", format!("has more than {ACCOUNT_SENDERS} entries"));
        }
        Account {
            name: name.unwrap_or_default().into(),
            secret: self.value("secret", raw.secret.as_ref(), Secret::parse),
            senders: given.filter_map(|text| self.value("from", Some(text), sender)).collect(),
            certificate: self.value("certificate", raw.certificate.as_ref(), fingerprint),
            rates: Rates {
                messages_per_minute: self.rate("messages_per_minute", raw.messages_per_minute.as_ref()),
                messages_per_day: self.rate("messages_per_day", raw.messages_per_day.as_ref()),
                recipients_per_minute: self.rate("recipients_per_minute", raw.recipients_per_minute.as_ref()),
                recipients_per_day: self.rate("recipients_per_day", raw.recipients_per_day.as_ref()),
            },
            disabled: raw.disabled,
        }
    }
}

impl Accounts {
    /// Reads a file's text. `decoy_key` is secret and random; it counts only if the file has no `decoy_key`.
    pub fn parse(file: &str, text: &str, decoy_key: [u8; KEY_BYTES]) -> Result<Accounts, Vec<Problem>> {
        let mut reader = Reader { file, text, problems: Vec::new() };
        if text.len() as u64 > ACCOUNTS_FILE_BYTES {
            reader.wrong(0, "", format!("is longer than {ACCOUNTS_FILE_BYTES} octets"));
            return Err(reader.problems);
        }
        let raw: Raw = match toml::from_str(text) {
            Ok(raw) => raw,
            Err(error) => {
                // Not the error as a whole: it shows the line, and that may be a secret's.
                reader.wrong(error.span().map_or(0, |span| span.start), "", error.message());
                return Err(reader.problems);
            }
        };
        let key = reader.value("decoy_key", raw.decoy_key.as_ref(), |text| {
            let key = BASE64_STANDARD.decode(text).ok().and_then(|key| key.try_into().ok());
            key.ok_or_else(|| format!("is not {KEY_BYTES} octets in base64"))
        });
        let mut accounts = Accounts::default();
        for raw in &raw.account {
            let account = reader.account(raw);
            accounts.insert(account, raw, &mut reader);
        }
        let secrets: Vec<&Secret> = accounts.list.iter().filter_map(|account| account.secret.as_ref()).collect();
        accounts.decoys = Decoys::new(key.unwrap_or(decoy_key), &secrets);
        if accounts.decoys.comparisons() > SECRET_COSTS {
            let message = format!(
                "the secrets have more than {SECRET_COSTS} different costs, and each login does the work of all: set some of the passwords anew"
            );
            reader.wrong(0, "account", message);
        }
        if !reader.problems.is_empty() {
            return Err(reader.problems);
        }
        accounts.warnings = accounts.suspicions(file, key.is_some());
        Ok(accounts)
    }

    fn insert(&mut self, account: Account, raw: &Spanned<RawAccount>, reader: &mut Reader<'_>) {
        let at = self.list.len();
        if at >= ACCOUNTS {
            return reader.wrong(raw.span().start, "account", format!("there are more than {ACCOUNTS}"));
        }
        let raw = raw.get_ref();
        // One whose name was refused already has an empty one.
        if !account.name.is_empty() {
            match self.by_name.entry(account.name.clone()) {
                Entry::Vacant(entry) => drop(entry.insert(at)),
                Entry::Occupied(_) => {
                    reader.wrong(raw.name.span().start, "name", format!("{:?} stands there twice", account.name));
                }
            }
        }
        if let (Some(print), Some(given)) = (account.certificate, &raw.certificate) {
            match self.by_certificate.entry(print) {
                Entry::Vacant(entry) => drop(entry.insert(at)),
                Entry::Occupied(entry) => {
                    let other = &self.list[*entry.get()].name;
                    reader.wrong(given.span().start, "certificate", format!("belongs to {other:?} already"));
                }
            }
        }
        self.list.push(account);
    }

    fn suspicions(&self, file: &str, has_key: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        let with = |wanted: &dyn Fn(&Secret) -> bool| {
            let found = self.list.iter().filter(|account| !account.disabled && account.secret().is_some_and(wanted));
            (found.clone().count(), found.map(|account| &account.name).next())
        };
        let (scram, _) = with(&|secret| secret.scheme() == Scheme::Scram);
        if let (argon, Some(first)) = with(&|secret| secret.scheme() == Scheme::Argon2id)
            && scram > 0
        {
            warnings.push(format!("{file}: SCRAM is announced to nobody, although {scram} of its accounts could use it: {argon} with argon2id (the first is {first:?}) could not, and their clients would try it in vain"));
        }
        if let (_, Some(first)) = with(&|secret| !self.decoys.look_like(secret)) {
            warnings.push(format!("{file}: {first:?} has another iteration count or length of salt than most: SCRAM tells it from an account that does not exist"));
        }
        if !has_key && !self.list.is_empty() {
            warnings.push(format!("{file}: no decoy_key: what SCRAM answers for unknown accounts changes at each start, so accounts can be told from them; `ringpost account` puts one in when it changes the file"));
        }
        warnings
    }
}

/// An entry of `from`.
fn sender(text: &str) -> Result<Sender, String> {
    let sender = match text {
        "*" => Some(Sender::Any),
        "<>" => Some(Sender::Null),
        _ => match text.rsplit_once('@') {
            Some(("", domain)) if is_domain(domain) => Some(Sender::Domain(domain.into())),
            Some((local, domain)) if is_domain(domain) && is_address(text, local) => Some(Sender::Address(text.into())),
            _ => None,
        },
    };
    sender.ok_or_else(|| format!("{text:?} is none of \"user@example.com\", \"@example.com\", \"<>\" (the null sender), \"*\" (every address)"))
}

/// RFC 5321's grammar; with characters outside of ASCII (RFC 6531) as much of it as can be said without their grammar.
fn is_domain(text: &str) -> bool {
    if text.is_ascii() { address::is_host_name(text.as_bytes()) } else { is_word(text) }
}

fn is_address(text: &str, local: &str) -> bool {
    if text.is_ascii() {
        let path = format!("<{text}>");
        // `*` alone is a local part, but nobody's; who writes it means `@domain`.
        local != "*" && matches!(address::path(path.as_bytes()), Ok((path, [])) if path.address == text.as_bytes())
    } else {
        !local.is_empty() && is_word(local)
    }
}

fn is_word(text: &str) -> bool {
    let is_other = |c: char| c.is_control() || c.is_whitespace() || "<>@,;:()[]\\\"".contains(c);
    text.len() <= PATH_BYTES && !text.is_empty() && !text.contains(is_other)
}

/// A SHA-256 in hexadecimal, colons between octets allowed, as OpenSSL prints it.
pub(super) fn fingerprint(text: &str) -> Result<Fingerprint, String> {
    let octet = |pair: &[u8]| {
        let digits = std::str::from_utf8(pair).ok().filter(|_| pair.iter().all(u8::is_ascii_hexdigit))?;
        u8::from_str_radix(digits, 16).ok()
    };
    let octets: Option<Vec<u8>> = match text.contains(':') {
        true => text.split(':').map(|pair| octet(pair.as_bytes()).filter(|_| pair.len() == 2)).collect(),
        false => text.as_bytes().chunks(2).map(|pair| octet(pair).filter(|_| pair.len() == 2)).collect(),
    };
    octets
        .and_then(|octets| octets.try_into().ok())
        .ok_or_else(|| "is not a SHA-256 fingerprint of 64 hexadecimal digits; openssl x509 -noout -fingerprint -sha256 -in FILE prints it".into())
}
