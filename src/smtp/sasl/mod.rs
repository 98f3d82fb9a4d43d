//! PURE. SASL (RFC 4422) as SMTP carries it (RFC 4954): one AUTH exchange as a machine, the server's side; `login` has the client's.
//!
//! In: the mechanism and initial response of the AUTH command, the client's lines (without CRLF), what TLS says of the
//! channel, 24 octets nobody can predict, and the driver's answers. Out: a [`Step`] each time: a challenge to send, a
//! question for the driver, the account that was proven, or the reply of a failure. An exchange lives in its session, keeps
//! a few KiB at most, and overwrites passwords and keys when it goes. It refuses to look into the table of accounts and to
//! hash a password: a shard must not stand still for that, so it asks, and the answer may come turns later.
//!
//! Mechanisms: PLAIN (RFC 4616), LOGIN (draft-murchison-sasl-login), SCRAM-SHA-256 and -PLUS (RFC 5802, RFC 7677) with
//! tls-exporter (RFC 9266) and tls-server-end-point (RFC 5929), EXTERNAL (RFC 4422 appendix A).
//!
//! Why not the crate `rsasl` (2.3.1): its server calls back for keys and verdicts inside of `step`, so argon2id would run
//! on the shard; it answers an unknown account with a new salt each time and `e=unknown-user`, a wrong proof with
//! `Ok(Finished)`; it takes its nonce from the thread's generator, which a simulation cannot seed; it neither undoes
//! `=2C` in a name nor overwrites a password; and a final message that is shorter than it expects (`&next[0..2]` in
//! `ClientFinal::parse`) panics, which here ends the process. Its client is what the tests talk to.

mod login;
mod prep;
mod scram;

pub use login::{LoggingIn, Login, LoginError, LoginFault};
pub use prep::{Password, PrepError, prepare_name};
pub(crate) use scram::sign;
pub use scram::{KEY_BYTES, ScramKeys};

use crate::limits::AUTH_LINE_BYTES;
use base64::prelude::{BASE64_STANDARD, Engine};
use scram::{Binding, Challenged, ClientFirst};
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mechanism {
    /// RFC 5802 with channel binding: also proves that nobody sits in between.
    ScramSha256Plus,
    /// RFC 7677: the password does not cross the wire.
    ScramSha256,
    /// RFC 4616.
    Plain,
    /// draft-murchison-sasl-login: PLAIN in two answers, for clients that know nothing else. The server begins, so RFC 4954 §4
    /// would refuse an initial response; many clients send the name as one all the same, and it is taken.
    Login,
    /// RFC 4422 appendix A: by the client's certificate.
    External,
}

impl Mechanism {
    /// All of them, the strongest first: the order to announce them in.
    pub const ALL: [Mechanism; 5] =
        [Self::ScramSha256Plus, Self::ScramSha256, Self::Plain, Self::Login, Self::External];

    /// The mechanism of this name, in any case (RFC 4954 §4: as every SMTP keyword). `None` gets 504 5.5.4.
    pub fn parse(name: &[u8]) -> Option<Mechanism> {
        Self::ALL.into_iter().find(|mechanism| name.eq_ignore_ascii_case(mechanism.name().as_bytes()))
    }

    /// Its registered name, as EHLO announces it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::External => "EXTERNAL",
        }
    }

    /// Whether whoever reads the channel learns the password: only under TLS, unless configured (RFC 4954 §4).
    pub fn shows_password(self) -> bool {
        matches!(self, Self::Plain | Self::Login)
    }
}

/// What TLS says of the channel; all absent without TLS.
#[derive(Clone, Default)]
pub struct Facts {
    /// RFC 9266 §2: keying material exported with label `EXPORTER-Channel-Binding` and an empty context, TLS 1.3 only.
    pub tls_exporter: Option<[u8; 32]>,
    /// RFC 5929 §4: the hash of our certificate, by its signature's hash function (SHA-256 where that is MD5 or SHA-1).
    pub tls_server_end_point: Option<Arc<[u8]>>,
}

impl Facts {
    /// Whether SCRAM-SHA-256-PLUS can be used here. It must be announced exactly then: a client that says `y` ("you did
    /// not announce it") is taken for the victim of someone who took it out of our reply.
    pub fn offers_plus(&self) -> bool {
        self.tls_exporter.is_some() || self.tls_server_end_point.is_some()
    }

    fn binding(&self, name: &str) -> Option<&[u8]> {
        match name {
            "tls-exporter" => self.tls_exporter.as_ref().map(<[u8; 32]>::as_slice),
            "tls-server-end-point" => self.tls_server_end_point.as_deref(),
            _ => None,
        }
    }
}

impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bindings = (self.tls_exporter.is_some(), self.tls_server_end_point.is_some());
        write!(f, "Facts {{ tls_exporter: {}, tls_server_end_point: {} }}", bindings.0, bindings.1)
    }
}

/// What the driver does next.
#[derive(Debug)]
pub enum Step {
    /// Send `334 `, this (base64, perhaps empty), CRLF; give the client's next line to [`Exchange::handle_response`].
    Challenge(String),
    /// Find the answer, now or later, and give it to [`Exchange::handle_answer`]; until then no line.
    Ask(Question),
    /// 235 2.7.0: the client is this account. The exchange has ended.
    Granted {
        /// The account's name, prepared, as the table has it.
        account: String,
    },
    /// Send [`Failure::reply`]. The exchange has ended.
    Refused(Failure),
}

/// What only the driver can find out.
#[derive(Debug)]
pub enum Question {
    /// Is this the account's password? Slow on purpose: not on a shard's thread.
    Password {
        /// The account's name, prepared.
        account: String,
        /// What the client sent.
        password: Password,
    },
    /// The account's SCRAM keys, or a decoy's.
    ScramKeys {
        /// The account's name, prepared.
        account: String,
    },
    /// Whose certificate did the client show in the TLS handshake?
    Certificate,
}

impl Question {
    /// Whether the answer takes tens of milliseconds of a core.
    pub fn is_slow(&self) -> bool {
        matches!(self, Question::Password { .. })
    }

    /// The account whose failures this counts for; nothing for a certificate's.
    pub fn account(&self) -> Option<&str> {
        match self {
            Question::Password { account, .. } | Question::ScramKeys { account } => Some(account),
            Question::Certificate => None,
        }
    }
}

/// The driver's answer to a [`Question`].
#[derive(Debug)]
pub enum Answer {
    /// To [`Question::Password`]: whether it is right, and may be used.
    Password(bool),
    /// To [`Question::ScramKeys`].
    ScramKeys(ScramKeys),
    /// To [`Question::Certificate`]: the account it belongs to.
    Certificate(Option<String>),
    /// To any: it could not be found out now (too many checks wait, for example).
    Unavailable,
}

/// Why an exchange ended without an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Wrong name, password, proof, certificate or channel; an account that may not be used; an identity that it may not
    /// act as. One reply for all.
    Credentials,
    /// The client had channel binding and believed that we have none, but we do: somebody may have changed our reply to
    /// EHLO (RFC 5802 §6). The same reply as [`Failure::Credentials`]; the log should tell.
    Downgrade,
    /// The client sent `*`.
    Cancelled,
    /// Not base64.
    Encoding,
    /// Not what the mechanism's grammar allows.
    Malformed,
    /// A line above [`AUTH_LINE_BYTES`].
    TooLong,
    /// [`Answer::Unavailable`], or an answer to another question.
    Unavailable,
}

impl Failure {
    /// The reply with its CRLF: codes as RFC 4954 §4 and §6 say.
    pub fn reply(self) -> &'static [u8] {
        match self {
            Self::Credentials | Self::Downgrade => b"535 5.7.8 Authentication credentials invalid\r\n",
            Self::Cancelled => b"501 5.7.0 Authentication cancelled\r\n",
            Self::Encoding => b"501 5.5.2 Cannot decode this: it must be base64\r\n",
            Self::Malformed => b"501 5.5.2 Not a message of this mechanism\r\n",
            Self::TooLong => b"500 5.5.6 Authentication exchange line is too long\r\n",
            Self::Unavailable => b"454 4.7.0 Temporary authentication failure, try again later\r\n",
        }
    }

    /// Whether this is a guess gone wrong, which counts towards delays and bans.
    pub fn is_a_wrong_guess(self) -> bool {
        matches!(self, Self::Credentials | Self::Downgrade)
    }
}

/// What the exchange waits for.
#[derive(Debug)]
enum State {
    /// PLAIN's one message.
    Plain,
    /// LOGIN: the name.
    LoginName,
    /// LOGIN: the password of this account.
    LoginPassword(String),
    /// The driver's word on the password of this account.
    Verdict(String),
    /// SCRAM: `client-first-message`.
    ScramFirst,
    /// The driver: keys for this first message.
    Keys(ClientFirst),
    /// SCRAM: `client-final-message`.
    ScramFinal(Challenged),
    /// SCRAM: the empty line that takes note of our `server-final-message`, then this account is in.
    ScramEnd(String),
    /// EXTERNAL: the authorization identity.
    External,
    /// The driver: whose certificate it is, for this authorization identity.
    Owner(Option<String>),
    /// Nothing any more.
    Ended,
}

/// One AUTH command and what follows, to its 235 or failure.
#[derive(Debug)]
pub struct Exchange {
    mechanism: Mechanism,
    facts: Facts,
    nonce: [u8; 24],
    state: State,
}

impl Exchange {
    /// Begins. `initial_response` is the AUTH command's second argument as it stands there: base64, or `=` for an empty
    /// one (RFC 4954 §4). `nonce` is random and new for each exchange.
    ///
    /// The caller has checked that the mechanism is announced here, and answers 504 5.5.4 or 538 5.7.11 otherwise.
    pub fn begin(
        mechanism: Mechanism,
        initial_response: Option<&[u8]>,
        facts: Facts,
        nonce: [u8; 24],
    ) -> (Exchange, Step) {
        let state = match mechanism {
            Mechanism::Plain => State::Plain,
            Mechanism::Login => State::LoginName,
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => State::ScramFirst,
            Mechanism::External => State::External,
        };
        let mut exchange = Exchange { mechanism, facts, nonce, state };
        let step = match initial_response {
            Some(b"=") => exchange.handle_message(b""),
            Some(response) => exchange.handle_encoded(response),
            None if mechanism == Mechanism::Login => challenge("Username:"),
            None => challenge(""),
        };
        (exchange, step)
    }

    /// The mechanism of this exchange.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// The client's answer to a [`Step::Challenge`], without its CRLF.
    pub fn handle_response(&mut self, line: &[u8]) -> Step {
        // RFC 4954 §4: a line with a single "*".
        if line == b"*" { self.end(Failure::Cancelled) } else { self.handle_encoded(line) }
    }

    fn handle_encoded(&mut self, line: &[u8]) -> Step {
        if line.len() + 2 > AUTH_LINE_BYTES {
            return self.end(Failure::TooLong);
        }
        // Room for all of it at once: memory that had to grow would leave a piece of a password behind.
        let mut message = Zeroizing::new(vec![0; base64::decoded_len_estimate(line.len())]);
        match BASE64_STANDARD.decode_slice(line, &mut message) {
            Ok(length) => self.handle_message(&message[..length]),
            Err(_) => self.end(Failure::Encoding),
        }
    }

    fn handle_message(&mut self, message: &[u8]) -> Step {
        let step = match std::mem::replace(&mut self.state, State::Ended) {
            State::Plain => self.plain(message),
            State::LoginName => self.login_name(message),
            State::LoginPassword(account) => self.ask_password(account, message),
            State::ScramFirst => self.scram_first(message),
            State::ScramFinal(challenged) => self.scram_final(&challenged, message),
            State::ScramEnd(account) if message.is_empty() => Ok(Step::Granted { account }),
            State::External => self.external(message),
            State::ScramEnd(_) | State::Verdict(_) | State::Keys(_) | State::Owner(_) | State::Ended => {
                Err(Failure::Malformed)
            }
        };
        step.unwrap_or_else(|failure| self.end(failure))
    }

    /// The driver's answer to a [`Step::Ask`].
    pub fn handle_answer(&mut self, answer: Answer) -> Step {
        match (std::mem::replace(&mut self.state, State::Ended), answer) {
            (State::Verdict(account), Answer::Password(true)) => Step::Granted { account },
            (State::Verdict(_), Answer::Password(false)) => self.end(Failure::Credentials),
            (State::Keys(first), Answer::ScramKeys(keys)) => {
                let challenged = Challenged::new(first, keys, &BASE64_STANDARD.encode(self.nonce));
                let step = challenge(challenged.challenge());
                self.state = State::ScramFinal(challenged);
                step
            }
            (State::Owner(authzid), Answer::Certificate(Some(account))) if may_act_as(&account, authzid.as_deref()) => {
                Step::Granted { account }
            }
            (State::Owner(_), Answer::Certificate(_)) => self.end(Failure::Credentials),
            _ => self.end(Failure::Unavailable),
        }
    }

    /// RFC 4616 §2: `[authzid] NUL authcid NUL passwd`.
    fn plain(&mut self, message: &[u8]) -> Result<Step, Failure> {
        let mut parts = message.split(|byte| *byte == 0);
        let (Some(authzid), Some(account), Some(password), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Failure::Malformed);
        };
        let account = prepare_name(account).map_err(|_| Failure::Credentials)?;
        if !may_act_as(&account, identity(authzid)?.as_deref()) {
            return Err(Failure::Credentials);
        }
        self.ask_password(account, password)
    }

    fn login_name(&mut self, message: &[u8]) -> Result<Step, Failure> {
        let account = prepare_name(message).map_err(|_| Failure::Credentials)?;
        self.state = State::LoginPassword(account);
        Ok(challenge("Password:"))
    }

    fn ask_password(&mut self, account: String, password: &[u8]) -> Result<Step, Failure> {
        // RFC 4616 §2: what cannot be prepared, or is empty then, fails.
        let password = Password::new(password).map_err(|_| Failure::Credentials)?;
        self.state = State::Verdict(account.clone());
        Ok(Step::Ask(Question::Password { account, password }))
    }

    fn scram_first(&mut self, message: &[u8]) -> Result<Step, Failure> {
        let first = ClientFirst::parse(message)?;
        let plus = self.mechanism == Mechanism::ScramSha256Plus;
        // RFC 5802 §6, RFC 7677 §4.
        match &first.binding {
            Binding::NotOffered if self.facts.offers_plus() => return Err(Failure::Downgrade),
            Binding::Used(name) if plus => drop(self.facts.binding(name).ok_or(Failure::Credentials)?),
            Binding::None | Binding::NotOffered if !plus => {}
            _ => return Err(Failure::Malformed),
        }
        if !may_act_as(&first.account, first.authzid.as_deref()) {
            return Err(Failure::Credentials);
        }
        let account = first.account.clone();
        self.state = State::Keys(first);
        Ok(Step::Ask(Question::ScramKeys { account }))
    }

    fn scram_final(&mut self, challenged: &Challenged, message: &[u8]) -> Result<Step, Failure> {
        let binding = match challenged.binding() {
            Binding::Used(name) => self.facts.binding(name).ok_or(Failure::Credentials)?,
            Binding::None | Binding::NotOffered => b"",
        };
        let proven = challenged.prove(message, binding)?;
        // 235 carries no data (RFC 4954 §4), so the server's last message is one more challenge (RFC 4422 §3.6), which
        // the client answers with an empty line once it has checked it.
        self.state = State::ScramEnd(challenged.account().to_owned());
        Ok(challenge(&proven))
    }

    fn external(&mut self, message: &[u8]) -> Result<Step, Failure> {
        self.state = State::Owner(identity(message)?);
        Ok(Step::Ask(Question::Certificate))
    }

    fn end(&mut self, failure: Failure) -> Step {
        self.state = State::Ended;
        Step::Refused(failure)
    }
}

fn challenge(text: &str) -> Step {
    Step::Challenge(BASE64_STANDARD.encode(text))
}

/// An authorization identity, prepared; nothing if it is empty, which means the account's own.
fn identity(text: &[u8]) -> Result<Option<String>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    prepare_name(text).map(Some).map_err(|_| Failure::Credentials)
}

/// Nobody acts as anyone else here: what an account may send as is a list of addresses, not of accounts.
fn may_act_as(account: &str, authzid: Option<&str>) -> bool {
    authzid.is_none_or(|authzid| authzid == account)
}

#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;
