//! PURE. SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side: the messages read and written, the proof checked, and the
//! keys made of a password.
//!
//! In: a message as the client sent it (base64 undone), keys, the channel's binding data. Out: the next message, or why
//! not. It refuses everything but RFC 5802 §7's grammar, unknown mandatory extensions, and to say whether a wrong proof
//! was an unknown account's.

use super::Failure;
use super::prep::{Password, prepare_name};
use crate::limits::{ACCOUNT_NAME_BYTES, SCRAM_NONCE_BYTES};
use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::prelude::{BASE64_STANDARD, Engine};
use std::fmt;
use std::num::NonZeroU32;
use zeroize::{Zeroize, Zeroizing};

/// Octets of SHA-256.
pub const KEY_BYTES: usize = 32;

/// What the server keeps of a password (RFC 5802 §3): enough to check a proof, not enough to make one.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    /// The iteration count `i`.
    pub iterations: u32,
    /// The salt, undone from base64.
    pub salt: Vec<u8>,
    /// H(ClientKey).
    pub stored_key: [u8; KEY_BYTES],
    /// HMAC(SaltedPassword, "Server Key").
    pub server_key: [u8; KEY_BYTES],
}

impl Drop for ScramKeys {
    fn drop(&mut self) {
        self.stored_key.zeroize();
        self.server_key.zeroize();
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramKeys").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl ScramKeys {
    /// The keys of `password` (RFC 5802 §3). Takes as long as `iterations` says: 65,536 are some 20 ms. An iteration
    /// count of 0 counts as 1.
    pub fn derive(password: &Password, salt: &[u8], iterations: u32) -> ScramKeys {
        let mut salted = Zeroizing::new([0; KEY_BYTES]);
        let count = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, count, salt, password.as_bytes(), salted.as_mut());
        let client_key = Zeroizing::new(sign(salted.as_ref(), b"Client Key"));
        ScramKeys {
            iterations: count.get(),
            salt: salt.to_vec(),
            stored_key: hash(client_key.as_ref()),
            server_key: sign(salted.as_ref(), b"Server Key"),
        }
    }
}

/// HMAC-SHA-256.
pub(crate) fn sign(key: &[u8], data: &[u8]) -> [u8; KEY_BYTES] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    tag.as_ref().try_into().expect("HMAC-SHA-256 has 32 octets")
}

pub(super) fn hash(data: &[u8]) -> [u8; KEY_BYTES] {
    digest::digest(&digest::SHA256, data).as_ref().try_into().expect("SHA-256 has 32 octets")
}

/// What a client says of channel binding (RFC 5802 §7, gs2-cbind-flag).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// `n`: it has none.
    None,
    /// `y`: it has some, and believes that the server has none.
    NotOffered,
    /// `p=`: it uses the one of this name.
    Used(String),
}

/// The client's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFirst {
    /// What it says of channel binding.
    pub binding: Binding,
    /// As whom it wants to act, prepared; nothing: as the account itself.
    pub authzid: Option<String>,
    /// The account, prepared.
    pub account: String,
    /// `gs2-header` as it stood there, with its second comma.
    header: String,
    /// `client-first-message-bare` as it stood there.
    bare: String,
    nonce: String,
}

impl ClientFirst {
    /// Reads `client-first-message`. A name that can be no account's (SASLprep) is [`Failure::Credentials`], what is not
    /// the grammar is [`Failure::Malformed`].
    pub fn parse(message: &[u8]) -> Result<ClientFirst, Failure> {
        let text = std::str::from_utf8(message).map_err(|_| Failure::Malformed)?;
        let mut parts = text.splitn(3, ',');
        let mut part = || parts.next().ok_or(Failure::Malformed);
        let (flag, authzid, bare) = (part()?, part()?, part()?);
        let binding = match flag {
            "n" => Binding::None,
            "y" => Binding::NotOffered,
            _ => Binding::Used(value(flag, "p=")?.to_owned()),
        };
        let authzid = if authzid.is_empty() { None } else { Some(name(value(authzid, "a=")?)?) };
        // A mandatory extension (`m=`) would stand where the name does. We know none, so it is malformed (§5.1).
        let mut attributes = bare.split(',');
        let mut attribute = |key| value(attributes.next().unwrap_or_default(), key);
        let (account, nonce) = (name(attribute("n=")?)?, attribute("r=")?);
        if !nonce.bytes().all(|b| b.is_ascii_graphic()) || nonce.len() > SCRAM_NONCE_BYTES {
            return Err(Failure::Malformed);
        }
        if !attributes.all(is_extension) {
            return Err(Failure::Malformed);
        }
        let header = text[..text.len() - bare.len()].to_owned();
        // Extensions would be kept until the end: the message is as bounded as its parts.
        if bare.len() > BARE_BYTES || header.len() > BARE_BYTES {
            return Err(Failure::Malformed);
        }
        Ok(ClientFirst { binding, authzid, account, header, bare: bare.to_owned(), nonce: nonce.to_owned() })
    }
}

/// Most of what is kept of a first message, each of header and rest: a name whose every octet is escaped, and a nonce.
const BARE_BYTES: usize = 3 * ACCOUNT_NAME_BYTES + SCRAM_NONCE_BYTES + 64;

/// An exchange that waits for the client's proof.
#[derive(Debug)]
pub struct Challenged {
    first: ClientFirst,
    keys: ScramKeys,
    /// The client's nonce and ours.
    nonce: String,
    /// `server-first-message`.
    challenge: String,
}

impl Challenged {
    /// Answers `first` with `keys` and our half of the nonce: printable ASCII without comma, never used before.
    pub fn new(first: ClientFirst, keys: ScramKeys, server_nonce: &str) -> Challenged {
        let nonce = format!("{}{server_nonce}", first.nonce);
        let challenge = format!("r={nonce},s={},i={}", BASE64_STANDARD.encode(&keys.salt), keys.iterations);
        Challenged { first, keys, nonce, challenge }
    }

    /// `server-first-message`.
    pub fn challenge(&self) -> &str {
        &self.challenge
    }

    /// The account that the proof is to be of.
    pub fn account(&self) -> &str {
        &self.first.account
    }

    /// What the client said of channel binding.
    pub fn binding(&self) -> &Binding {
        &self.first.binding
    }

    /// Checks `client-final-message` over a channel with this binding data (empty: none is used) and gives
    /// `server-final-message`. The work is the same whichever of binding and proof is wrong.
    pub fn prove(&self, message: &[u8], binding: &[u8]) -> Result<String, Failure> {
        let text = std::str::from_utf8(message).map_err(|_| Failure::Malformed)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(Failure::Malformed)?;
        let mut attributes = without_proof.split(',');
        let mut attribute = |key| value(attributes.next().unwrap_or_default(), key);
        let (input, nonce) = (attribute("c=")?, attribute("r=")?);
        if !attributes.all(is_extension) {
            return Err(Failure::Malformed);
        }
        let decode = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| Failure::Malformed);
        let (input, proof) = (decode(input)?, decode(proof)?);
        let proof: [u8; KEY_BYTES] = proof.try_into().map_err(|_| Failure::Malformed)?;

        let expected = [self.first.header.as_bytes(), binding].concat();
        let bound = constant_time::verify_slices_are_equal(&input, &expected).is_ok();
        let auth_message = format!("{},{},{without_proof}", self.first.bare, self.challenge);
        let signature = sign(&self.keys.stored_key, auth_message.as_bytes());
        let mut client_key = Zeroizing::new(proof);
        client_key.iter_mut().zip(signature).for_each(|(key, s)| *key ^= s);
        let proven = constant_time::verify_slices_are_equal(&hash(client_key.as_ref()), &self.keys.stored_key).is_ok();
        if !(bound & proven & (nonce == self.nonce)) {
            return Err(Failure::Credentials);
        }
        Ok(format!("v={}", BASE64_STANDARD.encode(sign(&self.keys.server_key, auth_message.as_bytes()))))
    }
}

/// What stands behind `key`; it is not empty.
fn value<'a>(attribute: &'a str, key: &str) -> Result<&'a str, Failure> {
    attribute.strip_prefix(key).filter(|value| !value.is_empty()).ok_or(Failure::Malformed)
}

/// `attr-val` of RFC 5802 §7.
fn is_extension(attribute: &str) -> bool {
    matches!(attribute.as_bytes(), [letter, b'=', _, ..] if letter.is_ascii_alphabetic()) && !attribute.contains('\0')
}

/// A `saslname`, its `=2C` and `=3D` undone (RFC 5802 §5.1), prepared.
fn name(text: &str) -> Result<String, Failure> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('=') {
        plain.push_str(before);
        let (escaped, after) = after.split_at_checked(2).ok_or(Failure::Malformed)?;
        plain.push(match escaped {
            "2C" => ',',
            "3D" => '=',
            _ => return Err(Failure::Malformed),
        });
        rest = after;
    }
    plain.push_str(rest);
    prepare_name(plain.as_bytes()).map_err(|_| Failure::Credentials)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";

    fn keys() -> ScramKeys {
        let salt = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        ScramKeys::derive(&Password::new(b"pencil").unwrap(), &salt, 4096)
    }

    /// RFC 7677 §3.
    #[test]
    fn the_example_of_rfc_7677() {
        let challenged = Challenged::new(ClientFirst::parse(FIRST).unwrap(), keys(), NONCE);
        assert_eq!(challenged.account(), "user");
        assert_eq!(
            challenged.challenge(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let proven = challenged.prove(last.as_bytes(), b"");
        assert_eq!(proven.unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");

        for (what, message) in [
            ("the header", last.replace("c=biws", "c=eSws")),
            ("the nonce", last.replace("k0,p=", "k1,p=")),
            ("the proof", last.replace("p=dH", "p=eH")),
            ("an extension that is not signed", last.replace(",p=", ",x=1,p=")),
        ] {
            assert_eq!(challenged.prove(message.as_bytes(), b""), Err(Failure::Credentials), "{what}");
        }
        assert_eq!(challenged.prove(last.as_bytes(), b"bound"), Err(Failure::Credentials));
        for message in ["", ",", "c", "c=biws", "p=", "c=biws,r=x,p=", "c=biws,r=x,p=AA==", "c=*,r=x,p=AA==", "\u{ff}"]
        {
            assert_eq!(challenged.prove(message.as_bytes(), b""), Err(Failure::Malformed), "{message}");
        }
    }

    /// RFC 5802 §5: the server checks the nonce itself, not only the proof over it.
    #[test]
    fn a_good_proof_over_another_nonce_is_refused() {
        let challenged = Challenged::new(ClientFirst::parse(FIRST).unwrap(), keys(), NONCE);
        let mut salted = [0; KEY_BYTES];
        let count = NonZeroU32::new(4096).unwrap();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, count, &keys().salt, b"pencil", &mut salted);
        let client_key = sign(&salted, b"Client Key");
        for (nonce, good) in [(challenged.nonce.as_str(), true), ("rOprNGfwEbeRWgbNEkqO", false)] {
            let without_proof = format!("c=biws,r={nonce}");
            let auth_message = format!("{},{},{without_proof}", challenged.first.bare, challenged.challenge);
            let mut proof = sign(&hash(&client_key), auth_message.as_bytes());
            proof.iter_mut().zip(client_key).for_each(|(octet, key)| *octet ^= key);
            let message = format!("{without_proof},p={}", BASE64_STANDARD.encode(proof));
            assert_eq!(challenged.prove(message.as_bytes(), b"").is_ok(), good, "{nonce}");
        }
    }

    #[test]
    fn first_messages_are_read_as_rfc_5802_writes_them() {
        let first = ClientFirst::parse(b"p=tls-exporter,a=Ad=3Dmin,n=a=2Cb,r=x!~,e=1").unwrap();
        assert_eq!(first.binding, Binding::Used("tls-exporter".into()));
        assert_eq!((first.authzid.as_deref(), &*first.account), (Some("Ad=min"), "a,b"));
        assert_eq!((&*first.header, &*first.bare), ("p=tls-exporter,a=Ad=3Dmin,", "n=a=2Cb,r=x!~,e=1"));
        assert_eq!(ClientFirst::parse(b"y,,n=a,r=x").unwrap().binding, Binding::NotOffered);

        let long = format!("n,,n=a,r=x,e={}", "1".repeat(BARE_BYTES));
        let nonce = format!("n,,n=a,r={}", "1".repeat(SCRAM_NONCE_BYTES + 1));
        for malformed in [
            "",
            "n",
            "n,",
            "n,,",
            ",,n=a,r=x",
            "q,,n=a,r=x",
            "p,,n=a,r=x",
            "p=,,n=a,r=x",
            "n,b,n=a,r=x",
            "n,a=,n=a,r=x",
            "n,,m=1,n=a,r=x",
            "n,,n=,r=x",
            "n,,n=a",
            "n,,n=a,r=",
            "n,,n=a,r=\u{e4}",
            "n,,n=a,r=x y",
            "n,,n=a=2,r=x",
            "n,,n=a=2c,r=x",
            "n,,n=a=\u{20ac},r=x",
            "n,,n=a,r=x,",
            "n,,n=a,r=x,1=1",
            "n,,n=a,r=x,a=",
            &long,
            &nonce,
        ] {
            assert_eq!(ClientFirst::parse(malformed.as_bytes()), Err(Failure::Malformed), "{malformed}");
        }
        assert_eq!(ClientFirst::parse("n,,n=\u{7},r=x".as_bytes()), Err(Failure::Credentials));
    }

    #[test]
    fn keys_are_not_shown() {
        assert_eq!(format!("{:?}", keys()), "ScramKeys { iterations: 4096, .. }");
    }
}
