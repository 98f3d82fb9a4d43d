//! PURE. Answers to what an AUTH exchange asks: whether a password is right, which keys SCRAM takes, whose a certificate is.
//!
//! In: the table, a [`Question`]. Out: an [`Answer`]. Passwords are for a thread that may take its time; the others take
//! microseconds. It refuses to tell by its answer, or by the work it does, whether an account exists, is disabled or has no
//! secret:
//!
//! - A password is compared with one secret of every kind and cost in the file, [`crate::limits::SECRET_COSTS`] at most: the
//!   account's own, and decoys for the rest. So the work of a check depends on the file alone. Files have one cost, but while
//!   an operator moves from one to another.
//! - SCRAM's salt and iteration count of an unknown account are an HMAC of its name and the file's most usual count. They
//!   stay the same as long as the key of the decoys does, which `ringpost account` keeps in the file: the salts of a key
//!   drawn at start-up would change with the process, and those that do not change would be the accounts there are.

use super::{Accounts, Cost, Fingerprint, Secret};
use crate::limits::{SALT_BYTES, SCRAM_ITERATIONS_DEFAULT};
use crate::smtp::sasl::{Answer, KEY_BYTES, Password, Question, ScramKeys, sign};
use std::fmt;
use zeroize::Zeroizing;

/// What is compared and handed out for accounts that are none.
pub(super) struct Decoys {
    key: Zeroizing<[u8; KEY_BYTES]>,
    /// One secret of every cost in the file, in order of cost.
    secrets: Vec<Secret>,
    /// The file's most usual iteration count of SCRAM, and length of salt.
    scram: (u32, usize),
}

impl Default for Decoys {
    fn default() -> Self {
        Decoys::new([0; KEY_BYTES], &[])
    }
}

impl fmt::Debug for Decoys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoys").field("secrets", &self.secrets).field("scram", &self.scram).finish_non_exhaustive()
    }
}

impl Decoys {
    /// Decoys beside these secrets. `key` is secret.
    pub(super) fn new(key: [u8; KEY_BYTES], secrets: &[&Secret]) -> Decoys {
        let mut costs: Vec<Cost> = secrets.iter().map(|secret| secret.cost()).collect();
        if costs.is_empty() {
            // A file without passwords answers as one of new accounts would.
            costs.push(Cost::Scram { iterations: SCRAM_ITERATIONS_DEFAULT });
        }
        costs.sort_unstable();
        costs.dedup();
        let hidden = sign(&key, b"password");
        Decoys {
            key: Zeroizing::new(key),
            secrets: costs.into_iter().map(|cost| Secret::decoy(cost, hidden)).collect(),
            scram: most_usual(secrets.iter().filter_map(|secret| shape(secret))),
        }
    }

    /// How many comparisons one check of a password makes.
    pub(super) fn comparisons(&self) -> usize {
        self.secrets.len()
    }

    /// Whether SCRAM shows the same of an unknown account as of one with this secret.
    pub(super) fn look_like(&self, secret: &Secret) -> bool {
        shape(secret).is_none_or(|shape| shape == self.scram)
    }

    /// Keys that nobody has the password of, always the same for a name.
    fn scram_keys(&self, account: &str) -> ScramKeys {
        let derive = |what: u8| sign(self.key.as_ref(), &[&[what], account.as_bytes()].concat());
        let (iterations, salt) = self.scram;
        ScramKeys {
            iterations,
            salt: derive(b's')[..salt].to_vec(),
            stored_key: derive(b'k'),
            server_key: derive(b'v'),
        }
    }
}

/// What SCRAM shows of a secret before the proof: iterations and length of the salt.
fn shape(secret: &Secret) -> Option<(u32, usize)> {
    match secret {
        Secret::Scram(keys) => Some((keys.iterations, keys.salt.len())),
        Secret::Argon2id(_) => None,
    }
}

fn most_usual(shapes: impl Iterator<Item = (u32, usize)>) -> (u32, usize) {
    let mut shapes: Vec<_> = shapes.collect();
    shapes.sort_unstable();
    let runs = shapes.chunk_by(|a, b| a == b).max_by_key(|run| run.len());
    runs.map_or((SCRAM_ITERATIONS_DEFAULT, SALT_BYTES), |run| run[0])
}

/// Answers any question. `certificate` is that of the client's certificate in the TLS handshake, whose chain has been
/// verified; nothing if it showed none.
pub fn answer(accounts: &Accounts, question: &Question, certificate: Option<&Fingerprint>) -> Answer {
    match question {
        Question::Password { account, password } => Answer::Password(verify_password(accounts, account, password)),
        Question::ScramKeys { account } => Answer::ScramKeys(scram_keys(accounts, account)),
        Question::Certificate => Answer::Certificate(certificate_owner(accounts, certificate).map(str::to_owned)),
    }
}

/// Whether this is the password of an account that may be used. The work is the same for every account, known or not.
pub fn verify_password(accounts: &Accounts, account: &str, password: &Password) -> bool {
    let own = accounts.get(account).filter(|account| !account.disabled).and_then(|account| account.secret());
    let mut matched = false;
    for decoy in &accounts.decoys.secrets {
        // A disabled account's is compared with a decoy of the same cost.
        let (secret, genuine) = match own {
            Some(own) if own.cost() == decoy.cost() => (own, true),
            _ => (decoy, false),
        };
        matched |= secret.matches(password) & genuine;
    }
    matched
}

/// The keys SCRAM takes for this account; for one that does not exist, is disabled or has no such keys, a decoy's.
pub fn scram_keys(accounts: &Accounts, account: &str) -> ScramKeys {
    let mut decoy = accounts.decoys.scram_keys(account);
    let found = accounts.get(account);
    match found.and_then(|account| account.secret()) {
        Some(Secret::Scram(keys)) if found.is_some_and(|account| !account.disabled) => keys.clone(),
        // What was seen of it while it could be used stays the same; no proof fits.
        Some(Secret::Scram(keys)) => {
            decoy.iterations = keys.iterations;
            decoy.salt.clone_from(&keys.salt);
            decoy
        }
        _ => decoy,
    }
}

/// The account that may come by this certificate.
pub fn certificate_owner<'a>(accounts: &'a Accounts, certificate: Option<&Fingerprint>) -> Option<&'a str> {
    let account = &accounts.list[*accounts.by_certificate.get(certificate?)?];
    (!account.disabled).then_some(&account.name)
}
