//! PURE. What an accounts file keeps of a password: `$argon2id$…` (PHC string, RFC 9106) or `SCRAM-SHA-256$…` (RFC 5803 as
//! PostgreSQL writes it), read, written, made and compared.
//!
//! In: texts, passwords, salts. Out: a [`Secret`], its [`Cost`], whether a password fits. Any thread; comparing takes tens of
//! milliseconds on purpose. It refuses other hashes (a plain SHA-256 is guessed by the billion), costs outside of limits.rs,
//! and to show a secret but in [`Secret::encode`].

use crate::limits::{
    ARGON2_KIB_DEFAULT, ARGON2_KIB_RANGE, ARGON2_PASSES, ARGON2_PASSES_DEFAULT, SALT_BYTES, SCRAM_ITERATIONS_DEFAULT,
    SCRAM_ITERATIONS_RANGE, SCRAM_SALT_RANGE,
};
use crate::smtp::sasl::{KEY_BYTES, Password, ScramKeys};
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::constant_time;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, Engine};
use std::fmt;
use zeroize::Zeroizing;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Serves every mechanism with a password.
    Scram,
    /// The stronger one if the file is stolen; serves PLAIN and LOGIN only.
    Argon2id,
}

/// The work of one comparison. Two secrets of one cost take the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cost {
    /// RFC 9106's m (KiB), t and p, and the length of the hash in octets.
    Argon2id {
        /// m, KiB.
        kib: u32,
        /// t.
        passes: u32,
        /// p.
        lanes: u32,
        /// Octets of the hash.
        length: usize,
    },
    /// PBKDF2's iterations.
    Scram {
        /// i.
        iterations: u32,
    },
}

/// A password's trace, enough to recognise it.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// RFC 9106.
    Argon2id(Argon2id),
    /// RFC 5803.
    Scram(ScramKeys),
}

/// The parts of `$argon2id$v=19$m=…,t=…,p=…$salt$hash`.
#[derive(Clone, PartialEq, Eq)]
pub struct Argon2id {
    params: Params,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({:?})", self.cost())
    }
}

impl Secret {
    /// Reads either form. The error says what is wrong without repeating it: it may end up in a log.
    pub fn parse(text: &str) -> Result<Secret, String> {
        match text.strip_prefix("SCRAM-SHA-256$") {
            Some(rest) => parse_scram(rest).map(Secret::Scram),
            None if text.starts_with("$argon2id$") => parse_argon2id(text).map(Secret::Argon2id),
            None => Err("is neither $argon2id$... nor SCRAM-SHA-256$...; `ringpost account password` makes one".into()),
        }
    }

    /// Makes one, of the cost that limits.rs has as its default. `salt` is random and new for each.
    pub fn new(scheme: Scheme, password: &Password, salt: [u8; SALT_BYTES]) -> Secret {
        match scheme {
            Scheme::Scram => Secret::Scram(ScramKeys::derive(password, &salt, SCRAM_ITERATIONS_DEFAULT)),
            Scheme::Argon2id => {
                let params = Params::new(ARGON2_KIB_DEFAULT, ARGON2_PASSES_DEFAULT, 1, Some(KEY_BYTES))
                    .expect("the defaults are in argon2's ranges");
                let mut made = Argon2id { params, salt: salt.to_vec(), hash: Vec::new() };
                made.hash = made.hash_of(password).to_vec();
                Secret::Argon2id(made)
            }
        }
    }

    /// A secret of this cost that no password has: `key` stands where the hash of one would.
    pub(super) fn decoy(cost: Cost, key: [u8; KEY_BYTES]) -> Secret {
        match cost {
            Cost::Argon2id { kib, passes, lanes, length } => {
                let params = Params::new(kib, passes, lanes, Some(length)).expect("the cost of a secret that was read");
                let hash = key.iter().copied().cycle().take(length).collect();
                Secret::Argon2id(Argon2id { params, salt: key[..SALT_BYTES].to_vec(), hash })
            }
            Cost::Scram { iterations } => Secret::Scram(ScramKeys {
                iterations,
                salt: key[..SALT_BYTES].to_vec(),
                stored_key: key,
                server_key: key,
            }),
        }
    }

    /// The work of one [`Secret::matches`].
    pub fn cost(&self) -> Cost {
        match self {
            Secret::Argon2id(argon) => Cost::Argon2id {
                kib: argon.params.m_cost(),
                passes: argon.params.t_cost(),
                lanes: argon.params.p_cost(),
                length: argon.hash.len(),
            },
            Secret::Scram(keys) => Cost::Scram { iterations: keys.iterations },
        }
    }

    /// Which of the two it is.
    pub fn scheme(&self) -> Scheme {
        match self {
            Secret::Argon2id(_) => Scheme::Argon2id,
            Secret::Scram(_) => Scheme::Scram,
        }
    }

    /// Whether it is this password's. Takes [`Secret::cost`] whatever the outcome.
    pub fn matches(&self, password: &Password) -> bool {
        #[cfg(test)]
        work::note(self.cost());
        let equal = match self {
            Secret::Argon2id(argon) => constant_time::verify_slices_are_equal(&argon.hash_of(password), &argon.hash),
            Secret::Scram(keys) => {
                let derived = ScramKeys::derive(password, &keys.salt, keys.iterations);
                constant_time::verify_slices_are_equal(&derived.stored_key, &keys.stored_key)
            }
        };
        equal.is_ok()
    }

    /// The text for the file, and for nothing else.
    pub fn encode(&self) -> String {
        match self {
            Secret::Argon2id(Argon2id { params, salt, hash }) => format!(
                "$argon2id$v=19$m={},t={},p={}${}${}",
                params.m_cost(),
                params.t_cost(),
                params.p_cost(),
                BASE64_STANDARD_NO_PAD.encode(salt),
                BASE64_STANDARD_NO_PAD.encode(hash)
            ),
            Secret::Scram(keys) => format!(
                "SCRAM-SHA-256${}:{}${}:{}",
                keys.iterations,
                BASE64_STANDARD.encode(&keys.salt),
                BASE64_STANDARD.encode(keys.stored_key),
                BASE64_STANDARD.encode(keys.server_key)
            ),
        }
    }
}

impl Argon2id {
    fn hash_of(&self, password: &Password) -> Zeroizing<Vec<u8>> {
        let mut hash = Zeroizing::new(vec![0; self.params.output_len().unwrap_or(KEY_BYTES)]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params.clone())
            .hash_password_into(password.as_bytes(), &self.salt, &mut hash)
            .expect("salt and lengths were checked when the secret was made");
        hash
    }
}

fn parse_scram(text: &str) -> Result<ScramKeys, String> {
    const FORM: &str = "is not SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey";
    let parts = || {
        let (cost, keys) = text.split_once('$')?;
        let ((iterations, salt), (stored, server)) = (cost.split_once(':')?, keys.split_once(':')?);
        let decode = |text| BASE64_STANDARD.decode(text).ok();
        let key = |text| decode(text)?.try_into().ok();
        let digits = iterations.bytes().all(|b| b.is_ascii_digit());
        Some(ScramKeys {
            iterations: digits.then(|| iterations.parse().ok())??,
            salt: decode(salt)?,
            stored_key: key(stored)?,
            server_key: key(server)?,
        })
    };
    let keys: ScramKeys = parts().ok_or(FORM)?;
    within("its iterations are", keys.iterations, SCRAM_ITERATIONS_RANGE)?;
    within("octets of salt are", keys.salt.len(), SCRAM_SALT_RANGE)?;
    Ok(keys)
}

fn parse_argon2id(text: &str) -> Result<Argon2id, String> {
    const FORM: &str = "is not $argon2id$v=19$m=...,t=...,p=...$salt$hash";
    let phc = PasswordHash::new(text).map_err(|_| FORM)?;
    if phc.version != Some(Version::V0x13.into()) {
        return Err("is argon2id of another version than 19 (0x13)".into());
    }
    let params = Params::try_from(&phc).map_err(|_| FORM)?;
    let (Some(salt), Some(hash)) = (&phc.salt, &phc.hash) else { return Err(FORM.into()) };
    if !params.keyid().is_empty() || !params.data().is_empty() {
        return Err("has keyid or data, which are not supported".into());
    }
    within("its memory (m, KiB) is", params.m_cost(), ARGON2_KIB_RANGE)?;
    within("its passes (t) are", params.t_cost(), (1, ARGON2_PASSES))?;
    within("its lanes (p) are", params.p_cost(), (1, ARGON2_PASSES))?;
    within("octets of hash are", hash.as_bytes().len(), (16, 64))?;
    Ok(Argon2id { params, salt: salt.as_ref().to_vec(), hash: hash.as_bytes().to_vec() })
}

fn within<T: PartialOrd + fmt::Display>(what: &str, value: T, (least, most): (T, T)) -> Result<(), String> {
    if value >= least && value <= most { Ok(()) } else { Err(format!("{what} {value}, not {least} to {most}")) }
}

/// The comparisons made on this thread, by their cost: the tests count work, not time.
#[cfg(test)]
pub(super) mod work {
    use super::Cost;
    use std::cell::RefCell;

    thread_local! {
        static DONE: RefCell<Vec<Cost>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn note(cost: Cost) {
        DONE.with_borrow_mut(|done| done.push(cost));
    }

    /// What was done since the last call.
    pub(in crate::accounts) fn take() -> Vec<Cost> {
        DONE.take()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text.as_bytes()).unwrap()
    }

    /// Made by the reference implementation: `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1`, from its test suite.
    const REFERENCE: &str = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    /// RFC 7677 §3: user `user`, password `pencil`; its proof and signature check out in `smtp::sasl`.
    const RFC_7677_SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";

    #[test]
    fn the_secret_of_another_implementation_is_recognised() {
        let secret = Secret::parse(REFERENCE).unwrap();
        assert!(secret.matches(&password("password")));
        assert!(!secret.matches(&password("passworD")));
        assert_eq!(secret.cost(), Cost::Argon2id { kib: 65536, passes: 2, lanes: 1, length: 32 });
        assert_eq!(secret.encode(), REFERENCE);

        let salt = BASE64_STANDARD.decode(RFC_7677_SALT).unwrap();
        let made = Secret::Scram(ScramKeys::derive(&password("pencil"), &salt, 4096));
        let text = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        assert_eq!(made.encode(), text);
        let read = Secret::parse(text).unwrap();
        assert!(read.matches(&password("pencil")) && !read.matches(&password("Pencil")));
    }

    #[test]
    fn what_is_made_is_read_again() {
        for scheme in [Scheme::Scram, Scheme::Argon2id] {
            let made = Secret::new(scheme, &password("hunter2"), [5; SALT_BYTES]);
            let read = Secret::parse(&made.encode()).unwrap();
            assert_eq!((read.scheme(), read.cost()), (scheme, made.cost()));
            assert!(read.matches(&password("hunter2")) && !read.matches(&password("hunter3")));
            assert!(!format!("{made:?}").contains(&made.encode()[20..]));
        }
    }

    #[test]
    fn a_decoy_has_the_cost_and_no_password() {
        for secret in [REFERENCE.to_owned(), Secret::new(Scheme::Scram, &password("x"), [5; 16]).encode()] {
            let cost = Secret::parse(&secret).unwrap().cost();
            let decoy = Secret::decoy(cost, [9; KEY_BYTES]);
            assert_eq!(decoy.cost(), cost);
            assert!(!decoy.matches(&password("x")));
        }
    }

    #[test]
    fn other_forms_are_refused() {
        let key = BASE64_STANDARD.encode([1; 32]);
        let scram = |iterations: &str, salt: &str, keys: &str| format!("SCRAM-SHA-256${iterations}:{salt}${keys}");
        let keys = format!("{key}:{key}");
        assert!(Secret::parse(&scram("4096", "AAAAAAAAAAAAAAAA", &keys)).is_ok());
        for (text, said) in [
            (String::new(), "neither"),
            ("hunter2".into(), "neither"),
            ("$2b$12$abcdefghijklmnopqrstuv".into(), "neither"),
            (REFERENCE.replace("argon2id", "argon2i"), "neither"),
            (REFERENCE.replace("v=19", "v=16"), "version"),
            (REFERENCE.replace("$v=19", ""), "version"),
            (REFERENCE.replace("m=65536", "m=999999"), "memory"),
            (REFERENCE.replace("m=65536", "m=512"), "memory"),
            (REFERENCE.replace("t=2", "t=17"), "passes"),
            (REFERENCE.replace("p=1", "p=17"), "lanes"),
            (REFERENCE.replace("t=2,p=1", "t=2,p=1,data=AAAA"), "data"),
            (REFERENCE[..REFERENCE.rfind('$').unwrap()].into(), "is not $argon2id"),
            (REFERENCE.replace("c29tZXNhbHQ", "c29t"), "is not $argon2id"),
            (scram("4095", "AAAAAAAAAAAAAAAA", &keys), "iterations"),
            (scram("1000001", "AAAAAAAAAAAAAAAA", &keys), "iterations"),
            (scram("+4096", "AAAAAAAAAAAAAAAA", &keys), "is not SCRAM"),
            (scram("99999999999", "AAAAAAAAAAAAAAAA", &keys), "is not SCRAM"),
            (scram("4096", "AAAA", &keys), "salt"),
            (scram("4096", "AAA*", &keys), "is not SCRAM"),
            (scram("4096", "AAAAAAAAAAAAAAAA", &key), "is not SCRAM"),
            (scram("4096", "AAAAAAAAAAAAAAAA", &format!("{key}:AAAA")), "is not SCRAM"),
            (scram("4096", "AAAAAAAAAAAAAAAA", &format!("{keys}:")), "is not SCRAM"),
        ] {
            let error = Secret::parse(&text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
            assert!(text.len() < 20 || !error.contains(&text[20..]), "{error}");
        }
    }
}
