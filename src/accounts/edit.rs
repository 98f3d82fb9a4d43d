//! PURE. Changes to an accounts file as text: an account added or removed, a secret replaced. Comments, order and layout of
//! the rest stay as they are.
//!
//! In: the file's text, the change. Out: the new text. It refuses to add a name that is there, to change one that is not, and
//! to read what is no TOML. Whether the result makes sense is [`super::Accounts::parse`]'s to say, before it is written.

use super::{Rates, Secret};
use crate::limits::ACCOUNT_NAME_BYTES;
use crate::smtp::sasl::{KEY_BYTES, prepare_name};
use base64::prelude::{BASE64_STANDARD, Engine};
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, value};

/// What an empty file begins with.
const HEAD: &str = "\
# Accounts of Ringpost: docs/accounts.md. `ringpost account` changes this file; changes by hand are kept.
# A running relay reads it on SIGHUP. It holds secrets: nobody but the relay's user should read it.
";

/// An account to be added.
#[derive(Debug)]
pub struct NewAccount {
    /// Its name, prepared.
    pub name: String,
    /// Its secret, if it has one.
    pub secret: Option<Secret>,
    /// Its `from`.
    pub from: Vec<String>,
    /// The SHA-256 fingerprint of its certificate, hexadecimal.
    pub certificate: Option<String>,
    /// Its limits.
    pub rates: Rates,
}

/// Why a file was not changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The account is there.
    #[error("{0:?} is there already; `ringpost account password` gives it another password")]
    Exists(String),
    /// The account is not there.
    #[error("there is no account {0:?}")]
    Absent(String),
    /// The text is no accounts file.
    #[error("it is no accounts file")]
    Form,
}

/// Puts an account at the end, and `decoy_key` at the beginning if the file has none.
pub fn add(text: &str, account: &NewAccount, decoy_key: [u8; KEY_BYTES]) -> Result<String, EditError> {
    let mut file = read(text)?;
    if find(&file, &account.name)?.is_some() {
        return Err(EditError::Exists(account.name.clone()));
    }
    let mut table = Table::new();
    table.insert("name", value(&account.name));
    if let Some(secret) = &account.secret {
        table.insert("secret", value(secret.encode()));
    }
    table.insert("from", value(account.from.iter().map(String::as_str).collect::<Array>()));
    if let Some(certificate) = &account.certificate {
        table.insert("certificate", value(certificate));
    }
    for (key, rate) in account.rates.named() {
        if let Some(rate) = rate {
            table.insert(key, value(i64::from(rate)));
        }
    }
    table.decor_mut().set_prefix("\n");
    let list = file.entry("account").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    list.as_array_of_tables_mut().ok_or(EditError::Form)?.push(table);
    Ok(write(&mut file, text.is_empty(), decoy_key))
}

/// Takes an account out, with the comments that stand right above it.
pub fn remove(text: &str, name: &str) -> Result<String, EditError> {
    let mut file = read(text)?;
    let at = find(&file, name)?.ok_or_else(|| EditError::Absent(name.to_owned()))?;
    let list = file["account"].as_array_of_tables_mut().ok_or(EditError::Form)?;
    list.remove(at);
    Ok(file.to_string())
}

/// Replaces an account's secret, or gives it its first; and `decoy_key` as [`add`] does.
pub fn set_secret(text: &str, name: &str, secret: &Secret, decoy_key: [u8; KEY_BYTES]) -> Result<String, EditError> {
    let mut file = read(text)?;
    let at = find(&file, name)?.ok_or_else(|| EditError::Absent(name.to_owned()))?;
    let table = file["account"].as_array_of_tables_mut().and_then(|list| list.get_mut(at)).ok_or(EditError::Form)?;
    // Only the value changes: what stands around it (a comment behind it) stays.
    match table.get_mut("secret").and_then(Item::as_value_mut) {
        Some(old) => {
            let decor = old.decor().clone();
            *old = secret.encode().into();
            *old.decor_mut() = decor;
        }
        None => drop(table.insert("secret", value(secret.encode()))),
    }
    Ok(write(&mut file, false, decoy_key))
}

fn read(text: &str) -> Result<DocumentMut, EditError> {
    // An old text's head stands as the decoration of what follows it.
    text.parse().map_err(|_| EditError::Form)
}

fn write(file: &mut DocumentMut, is_new: bool, decoy_key: [u8; KEY_BYTES]) -> String {
    let mut head = if is_new { HEAD.to_owned() } else { String::new() };
    if !file.contains_key("decoy_key") {
        let key = BASE64_STANDARD.encode(decoy_key);
        head += &format!(
            "# What unknown accounts look like is made of this: secret, any value, keep it.\ndecoy_key = \"{key}\"\n"
        );
        if !is_new {
            head.push('\n');
        }
    }
    head + &file.to_string()
}

/// The place of the account of this prepared name.
fn find(file: &DocumentMut, name: &str) -> Result<Option<usize>, EditError> {
    debug_assert!(name.len() <= ACCOUNT_NAME_BYTES);
    let Some(list) = file.get("account") else { return Ok(None) };
    let list = list.as_array_of_tables().ok_or(EditError::Form)?;
    let is_it = |table: &Table| {
        let text = table.get("name").and_then(Item::as_str);
        text.and_then(|text| prepare_name(text.as_bytes()).ok()).is_some_and(|other| other == name)
    };
    Ok(list.iter().position(is_it))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::Accounts;
    use super::*;
    use crate::smtp::sasl::{Password, ScramKeys};

    const KEY: [u8; KEY_BYTES] = [4; KEY_BYTES];

    fn secret(password: &str) -> Secret {
        Secret::Scram(ScramKeys::derive(&Password::new(password.as_bytes()).unwrap(), &[1; 16], 4096))
    }

    fn account(name: &str) -> NewAccount {
        NewAccount {
            name: name.into(),
            secret: Some(secret("pencil")),
            from: vec!["a@example.com".into(), "@b.example".into()],
            certificate: Some("ab".repeat(32)),
            rates: Rates { messages_per_day: Some(500), ..Rates::default() },
        }
    }

    #[test]
    fn an_empty_file_gets_head_key_and_account() {
        let text = add("", &account("ann"), KEY).unwrap();
        let accounts = Accounts::parse("x", &text, [0; 32]).unwrap();
        let ann = accounts.get("ann").unwrap();
        assert_eq!(ann.senders().collect::<Vec<_>>(), ["a@example.com", "@b.example"]);
        assert_eq!((ann.certificate(), ann.rates().messages_per_day), (Some(&[0xab; 32]), Some(500)));
        assert_eq!(ann.secret(), Some(&secret("pencil")));
        assert!(text.starts_with("# Accounts") && text.contains("\ndecoy_key = ") && accounts.warnings().is_empty());
        assert_eq!(add(&text, &account("ann"), KEY), Err(EditError::Exists("ann".into())));
    }

    const BY_HAND: &str = "\
# ours
[[account]]   # the boss
name    = \"bo\\u00ADss\"
from    = [ \"*\",   # everything
]
secret = 'SCRAM' # from the old server

# leaves in May
[[account]]
name = \"kurt\"
from = [\"kurt@example.com\"]
certificate = \"00\"

# the end
";

    #[test]
    fn comments_and_layout_stay() {
        let changed = set_secret(BY_HAND, "boss", &secret("x"), KEY).unwrap();
        let new = format!("secret = \"{}\" # from the old server", secret("x").encode());
        assert!(changed.ends_with(&BY_HAND.replace("secret = 'SCRAM' # from the old server", &new)), "{changed}");
        assert!(changed.starts_with("# What unknown"));

        let added = set_secret(BY_HAND, "kurt", &secret("x"), KEY).unwrap();
        let line = format!("certificate = \"00\"\nsecret = \"{}\"\n", secret("x").encode());
        assert!(added.ends_with(&BY_HAND.replace("certificate = \"00\"\n", &line)), "{added}");

        let more = add(BY_HAND, &account("ann"), KEY).unwrap();
        assert!(more.contains(BY_HAND.trim_end_matches("\n# the end\n")) && more.contains("# the end"), "{more}");
        assert_eq!(add(&more, &account("tim"), KEY).unwrap().matches("decoy_key").count(), 1);

        let less = remove(BY_HAND, "kurt").unwrap();
        assert_eq!(less, BY_HAND[..BY_HAND.find("\n# leaves").unwrap()].to_owned() + "\n# the end\n");
        assert_eq!(remove(&add("", &account("ann"), KEY).unwrap(), "ann").unwrap().matches("account]]").count(), 0);
    }

    #[test]
    fn what_is_not_there_is_not_changed() {
        assert_eq!(remove(BY_HAND, "ann"), Err(EditError::Absent("ann".into())));
        assert_eq!(set_secret("", "ann", &secret("x"), KEY), Err(EditError::Absent("ann".into())));
        for form in ["x = ", "account = 1", "[account]\nname = \"ann\""] {
            assert_eq!(add(form, &account("ann"), KEY), Err(EditError::Form), "{form}");
        }
    }
}
