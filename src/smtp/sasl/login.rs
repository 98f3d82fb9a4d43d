//! PURE. SASL (RFC 4422) as a client of SMTP (RFC 4954): one login at a next hop that asks for it.
//!
//! In: a name and a password ([`Login`]), what the server offers, 24 octets nobody can predict, the server's challenges. Out:
//! the lines to send; in the end whether the server, too, has proven what it had to. SCRAM-SHA-256 (RFC 5802, RFC 7677) is used
//! where it is offered, since it does not show the password; then PLAIN (RFC 4616), then LOGIN
//! (draft-murchison-sasl-login). An exchange lives in its connection. It refuses SCRAM with fewer iterations than RFC 7677 §4
//! asks for, or more than [`SCRAM_LOGIN_ITERATIONS`], and a server that does not prove that it knows the password.

use super::prep::{Password, PrepError, prepare_name};
use super::scram::{KEY_BYTES, hash, sign};
use crate::limits::{AUTH_COMMAND_BYTES, AUTH_LINE_BYTES, SCRAM_ITERATIONS_RANGE, SCRAM_LOGIN_ITERATIONS};
use crate::smtp::extensions::AuthOffers;
use aws_lc_rs::{constant_time, pbkdf2};
use base64::prelude::{BASE64_STANDARD, Engine};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use zeroize::Zeroizing;

/// Who we are at a next hop. Shared by all cores.
pub struct Login {
    name: String,
    password: Password,
    /// The last salt and count that a server asked for, with what SCRAM makes of them: servers keep theirs, and making it takes
    /// milliseconds.
    derived: OnceLock<Derived>,
}

struct Derived {
    salt: Vec<u8>,
    iterations: u32,
    salted: Zeroizing<[u8; KEY_BYTES]>,
}

impl PartialEq for Login {
    fn eq(&self, other: &Login) -> bool {
        (&self.name, self.password.as_bytes()) == (&other.name, other.password.as_bytes())
    }
}

impl Eq for Login {}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a text is no login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// There is no colon, or more than one line.
    #[error("is to be one line: name:password")]
    Form,
    /// The part before the first colon.
    #[error("the name {0}")]
    Name(PrepError),
    /// The part behind it.
    #[error("the password {0}")]
    Password(PrepError),
}

impl Login {
    /// Reads `name:password`, one line; the password may hold colons, and both are prepared (RFC 4013).
    ///
    /// # Errors
    /// What is wrong with it, without showing any of it.
    pub fn parse(text: &str) -> Result<Login, LoginError> {
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let (name, password) = line.split_once(':').filter(|_| !line.contains(['\n', '\r'])).ok_or(LoginError::Form)?;
        Ok(Login {
            name: prepare_name(name.as_bytes()).map_err(LoginError::Name)?,
            password: Password::new(password.as_bytes()).map_err(LoginError::Password)?,
            derived: OnceLock::new(),
        })
    }

    /// The account's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// RFC 5802 §3, SaltedPassword.
    fn salted(&self, salt: &[u8], iterations: u32) -> Zeroizing<[u8; KEY_BYTES]> {
        let kept = self.derived.get().filter(|d| (&*d.salt, d.iterations) == (salt, iterations));
        if let Some(kept) = kept {
            return kept.salted.clone();
        }
        let mut salted = Zeroizing::new([0; KEY_BYTES]);
        let count = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, count, salt, self.password.as_bytes(), salted.as_mut());
        // Another core may have been faster, or the server has many salts: then nothing is kept.
        drop(self.derived.set(Derived { salt: salt.to_vec(), iterations, salted: salted.clone() }));
        salted
    }
}

/// Why a login came to nothing by our own decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginFault {
    /// It offers no AUTH, or no mechanism of ours.
    #[error("the host offers no way to log in that is known here (SCRAM-SHA-256, PLAIN or LOGIN)")]
    NotOffered,
    /// A password would go in the clear.
    #[error("there is no TLS, and without it nobody logs in (auth_without_tls = true allows it)")]
    NoTls,
    /// A challenge that is not the mechanism's.
    #[error("the host's side of the login is malformed")]
    Malformed,
    /// SCRAM with a count that is too low to protect the password, or too high to compute here.
    #[error("the host asks for a number of SCRAM iterations that is not allowed (4096 to 200000)")]
    Iterations,
    /// RFC 5802 §5.1, `v`.
    #[error("the host did not prove that it knows the password: it may be another one's")]
    Unproven,
}

enum State {
    /// What is said after an empty challenge, and what then.
    Held(Zeroizing<String>, Box<State>),
    /// LOGIN: name, then password.
    LoginName,
    LoginPassword,
    /// SCRAM, `client-first-message-bare` was sent, with this nonce.
    ScramFirst {
        bare: String,
        nonce: String,
    },
    /// SCRAM, the proof was sent; this is to come back.
    ScramFinal([u8; KEY_BYTES]),
    /// Nothing more to say: 235 is due.
    Done,
}

/// One AUTH command and what follows, to its 235 or failure.
pub struct LoggingIn {
    login: Arc<Login>,
    mechanism: &'static str,
    state: State,
}

impl fmt::Debug for LoggingIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoggingIn").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

impl LoggingIn {
    /// Begins: the AUTH command, without its CRLF. `nonce` is random and new for each exchange.
    ///
    /// # Errors
    /// [`LoginFault::NotOffered`].
    pub fn begin(
        login: Arc<Login>,
        offered: AuthOffers,
        nonce: [u8; 24],
    ) -> Result<(LoggingIn, Zeroizing<String>), LoginFault> {
        LoggingIn::with_nonce(login, offered, BASE64_STANDARD.encode(nonce))
    }

    fn with_nonce(
        login: Arc<Login>,
        offered: AuthOffers,
        nonce: String,
    ) -> Result<(LoggingIn, Zeroizing<String>), LoginFault> {
        let (mechanism, response, state) = if offered.scram_sha_256 {
            let name = login.name.replace('=', "=3D").replace(',', "=2C");
            let bare = format!("n={name},r={nonce}");
            // RFC 5802 §6: `n`, we have no channel binding.
            let first = encoded(format!("n,,{bare}").as_bytes());
            ("SCRAM-SHA-256", first, State::ScramFirst { bare, nonce })
        } else if offered.plain {
            let mut message =
                Zeroizing::new(Vec::with_capacity(login.name.len() + login.password.as_bytes().len() + 2));
            message.push(0);
            message.extend_from_slice(login.name.as_bytes());
            message.push(0);
            message.extend_from_slice(login.password.as_bytes());
            ("PLAIN", encoded(&message), State::Done)
        } else if offered.login {
            // The server begins.
            return Ok((
                LoggingIn { login, mechanism: "LOGIN", state: State::LoginName },
                "AUTH LOGIN".to_owned().into(),
            ));
        } else {
            return Err(LoginFault::NotOffered);
        };
        let mut command = Zeroizing::new(String::with_capacity(6 + mechanism.len() + response.len()));
        command.push_str("AUTH ");
        command.push_str(mechanism);
        // RFC 4954 §4: a command line keeps to its length; the response comes when it is asked for then.
        if command.len() + 1 + response.len() + 2 > AUTH_COMMAND_BYTES {
            let state = State::Held(response, Box::new(state));
            return Ok((LoggingIn { login, mechanism, state }, command));
        }
        command.push(' ');
        command.push_str(&response);
        Ok((LoggingIn { login, mechanism, state }, command))
    }

    /// The mechanism's name.
    pub fn mechanism(&self) -> &'static str {
        self.mechanism
    }

    /// The text of a 334: the line to send, without its CRLF.
    ///
    /// # Errors
    /// The login is to be given up; the connection with it.
    pub fn handle_challenge(&mut self, text: &str) -> Result<Zeroizing<String>, LoginFault> {
        if text.len() > AUTH_LINE_BYTES {
            return Err(LoginFault::Malformed);
        }
        let decoded = || {
            let bytes = BASE64_STANDARD.decode(text.trim_ascii()).map_err(|_| LoginFault::Malformed)?;
            String::from_utf8(bytes).map_err(|_| LoginFault::Malformed)
        };
        match std::mem::replace(&mut self.state, State::Done) {
            State::Held(response, next) => {
                self.state = *next;
                Ok(response)
            }
            // What it says there is prose, and differs from server to server.
            State::LoginName => {
                self.state = State::LoginPassword;
                Ok(encoded(self.login.name.as_bytes()))
            }
            State::LoginPassword => Ok(encoded(self.login.password.as_bytes())),
            State::ScramFirst { bare, nonce } => self.prove(&bare, &nonce, &decoded()?),
            State::ScramFinal(expected) => {
                let message = decoded()?;
                let signature = message.split(',').next().and_then(|part| part.strip_prefix("v="));
                let signature = signature.and_then(|text| BASE64_STANDARD.decode(text).ok()).unwrap_or_default();
                constant_time::verify_slices_are_equal(&signature, &expected).map_err(|_| LoginFault::Unproven)?;
                Ok(Zeroizing::new(String::new()))
            }
            State::Done => Err(LoginFault::Malformed),
        }
    }

    /// 235 has come.
    ///
    /// # Errors
    /// It came before the server proved itself.
    pub fn granted(&self) -> Result<(), LoginFault> {
        match &self.state {
            State::Done => Ok(()),
            State::ScramFirst { .. } | State::ScramFinal(_) => Err(LoginFault::Unproven),
            State::Held(..) | State::LoginName | State::LoginPassword => Err(LoginFault::Malformed),
        }
    }

    /// RFC 5802 §3 and §5: `client-final-message` in answer to `server-first-message`.
    fn prove(&mut self, bare: &str, nonce: &str, challenge: &str) -> Result<Zeroizing<String>, LoginFault> {
        let mut parts = challenge.split(',');
        let mut part = |key: &str| parts.next().and_then(|part| part.strip_prefix(key)).ok_or(LoginFault::Malformed);
        let (both, salt, iterations) = (part("r=")?, part("s=")?, part("i=")?);
        let salt = BASE64_STANDARD.decode(salt).map_err(|_| LoginFault::Malformed)?;
        let iterations: u32 = iterations.parse().map_err(|_| LoginFault::Malformed)?;
        // The server's part of the nonce must be there, or an old exchange could be played again.
        if salt.is_empty() || both.strip_prefix(nonce).is_none_or(str::is_empty) {
            return Err(LoginFault::Malformed);
        }
        if !(SCRAM_ITERATIONS_RANGE.0..=SCRAM_LOGIN_ITERATIONS).contains(&iterations) {
            return Err(LoginFault::Iterations);
        }
        let salted = self.login.salted(&salt, iterations);
        let client_key = Zeroizing::new(sign(salted.as_ref(), b"Client Key"));
        // `biws` is "n,," in base64.
        let without_proof = format!("c=biws,r={both}");
        let auth_message = format!("{bare},{challenge},{without_proof}");
        let mut proof = sign(&hash(client_key.as_ref()), auth_message.as_bytes());
        proof.iter_mut().zip(client_key.as_ref()).for_each(|(octet, key)| *octet ^= key);
        let server_key = Zeroizing::new(sign(salted.as_ref(), b"Server Key"));
        self.state = State::ScramFinal(sign(server_key.as_ref(), auth_message.as_bytes()));
        Ok(encoded(format!("{without_proof},p={}", BASE64_STANDARD.encode(proof)).as_bytes()))
    }
}

fn encoded(message: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(BASE64_STANDARD.encode(message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::{Answer, Exchange, Facts, Failure, Mechanism, Question, ScramKeys, Step};
    use super::*;

    const ALL: AuthOffers = AuthOffers { scram_sha_256: true, plain: true, login: true };

    fn login(text: &str) -> Arc<Login> {
        Arc::new(Login::parse(text).unwrap())
    }

    fn challenge(text: &str) -> String {
        BASE64_STANDARD.encode(text)
    }

    /// RFC 7677 §3.
    #[test]
    fn the_example_of_rfc_7677() {
        let offered = AuthOffers { plain: false, login: false, ..ALL };
        let (mut exchange, command) =
            LoggingIn::with_nonce(login("user:pencil\n"), offered, "rOprNGfwEbeRWgbNEkqO".into()).unwrap();
        let response = command.strip_prefix("AUTH SCRAM-SHA-256 ").unwrap();
        assert_eq!(BASE64_STANDARD.decode(response).unwrap(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        assert_eq!(exchange.granted(), Err(LoginFault::Unproven));
        let server = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let proof = exchange.handle_challenge(&challenge(server)).unwrap();
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(BASE64_STANDARD.decode(&*proof).unwrap(), expected.as_bytes());
        assert_eq!(exchange.granted(), Err(LoginFault::Unproven));
        let last = exchange.handle_challenge(&challenge("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert_eq!((last.unwrap().as_str(), exchange.granted()), ("", Ok(())));
    }

    #[test]
    fn a_server_that_cheats_is_found_out() {
        let offered = AuthOffers { plain: false, login: false, ..ALL };
        let begin = || LoggingIn::with_nonce(login("user:pencil"), offered, "abc".into()).unwrap().0;
        for (server, fault) in [
            ("r=abcdef,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4095", LoginFault::Iterations),
            ("r=abcdef,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=200001", LoginFault::Iterations),
            ("r=abc,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", LoginFault::Malformed),
            ("r=abdef,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", LoginFault::Malformed),
            ("r=abcdef,s=,i=4096", LoginFault::Malformed),
            ("m=x,r=abcdef,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", LoginFault::Malformed),
            ("", LoginFault::Malformed),
        ] {
            assert_eq!(begin().handle_challenge(&challenge(server)).unwrap_err(), fault, "{server}");
        }
        assert_eq!(begin().handle_challenge("%").unwrap_err(), LoginFault::Malformed);
        for signature in ["v=AAAA", "", "e=other-error"] {
            let mut exchange = begin();
            exchange.handle_challenge(&challenge("r=abcdef,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")).unwrap();
            assert_eq!(exchange.handle_challenge(&challenge(signature)).unwrap_err(), LoginFault::Unproven);
        }
    }

    /// Against this server's own side, which the client of `rsasl` is tested with.
    #[test]
    fn every_mechanism_is_understood_by_the_server_of_this_house() {
        for (mechanism, offered) in [
            (Mechanism::ScramSha256, ALL),
            (Mechanism::Plain, AuthOffers { scram_sha_256: false, ..ALL }),
            (Mechanism::Login, AuthOffers { login: true, ..AuthOffers::default() }),
        ] {
            for (text, right) in [("a,n=n:p\u{e4}ss, :word\r\n", true), ("a,n=n:wrong", false)] {
                let (mut client, command) = LoggingIn::begin(login(text), offered, [7; 24]).unwrap();
                let rest = command.strip_prefix("AUTH ").unwrap();
                let (name, response) = rest.split_once(' ').map_or((rest, None), |(n, r)| (n, Some(r.as_bytes())));
                assert_eq!((name, client.mechanism()), (mechanism.name(), mechanism.name()));
                let (mut server, mut step) = Exchange::begin(mechanism, response, Facts::default(), [9; 24]);
                let outcome = loop {
                    step = match step {
                        Step::Challenge(text) => match client.handle_challenge(&text) {
                            Ok(line) => server.handle_response(line.as_bytes()),
                            Err(fault) => panic!("{fault}"),
                        },
                        Step::Ask(Question::Password { account, password }) => {
                            assert_eq!(account, "a,n=n");
                            server.handle_answer(Answer::Password(password.as_bytes() == "p\u{e4}ss, :word".as_bytes()))
                        }
                        Step::Ask(Question::ScramKeys { .. }) => {
                            let password = Password::new("p\u{e4}ss, :word".as_bytes()).unwrap();
                            server.handle_answer(Answer::ScramKeys(ScramKeys::derive(&password, b"saltsalt", 4096)))
                        }
                        Step::Ask(other) => panic!("{other:?}"),
                        Step::Granted { account } => break Ok(account),
                        Step::Refused(failure) => break Err(failure),
                    };
                };
                let expected = if right { Ok("a,n=n".to_owned()) } else { Err(Failure::Credentials) };
                assert_eq!(outcome, expected, "{mechanism:?}");
                assert_eq!(client.granted().is_ok(), right || mechanism != Mechanism::ScramSha256, "{mechanism:?}");
            }
        }
    }

    #[test]
    fn a_long_password_waits_for_its_challenge() {
        // RFC 4954 §4.
        let long = format!("user:{}", "x".repeat(1000));
        let offered = AuthOffers { scram_sha_256: false, ..ALL };
        let (mut exchange, command) = LoggingIn::begin(login(&long), offered, [7; 24]).unwrap();
        assert_eq!(&**command, "AUTH PLAIN");
        assert!(exchange.granted().is_err());
        assert!(exchange.handle_challenge("").unwrap().len() > 1000 && exchange.granted().is_ok());
        assert_eq!(exchange.handle_challenge("").unwrap_err(), LoginFault::Malformed);
    }

    #[test]
    fn a_login_is_one_line_and_is_not_shown() {
        assert_eq!(format!("{:?}", login("user:secret")), "Login { name: \"user\", .. }");
        assert!(login("user:a") == login("user:a\n") && login("user:a") != login("user:b"));
        for (text, error) in [
            ("user", LoginError::Form),
            ("user:a\nuser:b\n", LoginError::Form),
            (":a", LoginError::Name(PrepError::Empty)),
            ("user:", LoginError::Password(PrepError::Empty)),
        ] {
            assert_eq!(Login::parse(text).unwrap_err(), error, "{text}");
        }
        let none = LoggingIn::begin(login("user:a"), AuthOffers::default(), [0; 24]);
        assert_eq!(none.unwrap_err(), LoginFault::NotOffered);
    }
}
