//! The client of the crate `rsasl`, by other hands, against [`Exchange`]: every mechanism, with and without channel
//! binding, right and wrong.

#![allow(clippy::unwrap_used)]

use super::*;
use rsasl::callback::{Context, Request, SessionCallback, SessionData};
use rsasl::config::SASLConfig;
use rsasl::mechanisms::scram::SCRAM_SHA256_PLUS;
use rsasl::mechanisms::scram::properties::ScramCachedPassword;
use rsasl::mechname::Mechname;
use rsasl::prelude::{
    ChannelBindingCallback, Mechanism as ClientMechanism, Registry, SASLClient, SessionError, State as ClientState,
};
use rsasl::property::{AuthId, AuthzId, OverrideCBType, Password as ClientPassword};

const NAME: &str = "a,n=n";
const PASSWORD: &str = "p\u{e4}ss, word";

/// What the client knows, and does.
#[derive(Clone)]
struct Client {
    name: &'static str,
    password: &'static str,
    authzid: Option<&'static str>,
    /// The kind of channel binding it uses, and its data.
    binding: Option<(&'static str, Vec<u8>)>,
}

impl SessionCallback for Client {
    fn callback(&self, _: &SessionData, _: &Context<'_>, request: &mut Request<'_>) -> Result<(), SessionError> {
        if request.is::<ScramCachedPassword<'_>>() {
            return Ok(());
        }
        request.satisfy::<AuthId>(self.name)?.satisfy::<ClientPassword>(self.password.as_bytes())?;
        if let Some(authzid) = self.authzid {
            request.satisfy::<AuthzId>(authzid)?;
        }
        if let Some((kind, _)) = &self.binding {
            request.satisfy::<OverrideCBType>(kind)?;
        }
        Ok(())
    }

    fn enable_channel_binding(&self) -> bool {
        self.binding.is_some()
    }
}

impl ChannelBindingCallback for Client {
    fn get_cb_data(&self, kind: &str) -> Option<&[u8]> {
        self.binding.as_ref().filter(|(name, _)| *name == kind).map(|(_, data)| data.as_slice())
    }
}

fn client() -> Client {
    Client { name: NAME, password: PASSWORD, authzid: None, binding: None }
}

fn facts() -> Facts {
    Facts { tls_exporter: Some([9; 32]), tls_server_end_point: Some([8; 48].as_slice().into()) }
}

/// Runs the exchange; the account or the failure, and whether the client believes that it has ended well.
fn run(client: &Client, mechanism: Mechanism, facts: Facts, initial: bool) -> (Result<String, Failure>, bool) {
    // Its defaults lack the mechanism with channel binding.
    static BINDING: [ClientMechanism; 1] = [SCRAM_SHA256_PLUS];
    let plus = mechanism == Mechanism::ScramSha256Plus;
    let registry = if plus { Registry::with_mechanisms(&BINDING) } else { Registry::default() };
    let config = SASLConfig::builder().with_registry(registry).with_callback(client.clone()).unwrap();
    let name = Mechname::parse(mechanism.name().as_bytes()).unwrap();
    let mut session = SASLClient::with_cb(config, client.clone()).start_suggested(&[name]).unwrap();
    let mut ended = false;
    let mut send = |challenge: Option<&[u8]>| {
        let mut out = Vec::new();
        let state = session.step(challenge, &mut out);
        ended = matches!(state, Ok(ClientState::Finished(_)));
        // A client that does not like what it hears cancels.
        if state.is_ok() { BASE64_STANDARD.encode(out).into_bytes() } else { b"*".to_vec() }
    };
    let first = initial.then(|| send(None));
    let (mut exchange, mut step) = Exchange::begin(mechanism, first.as_deref(), facts, [7; 24]);
    let mut rounds = 0;
    let outcome = loop {
        rounds += 1;
        assert!(rounds < 10);
        step = match step {
            Step::Challenge(text) => {
                let text = BASE64_STANDARD.decode(text).unwrap();
                let starts = !initial && rounds == 1 && mechanism != Mechanism::Login;
                exchange.handle_response(&send(if starts { None } else { Some(text.as_slice()) }))
            }
            Step::Ask(question) => {
                let known = question.account().is_none_or(|account| account == NAME);
                let secret = Password::new(PASSWORD.as_bytes()).unwrap();
                let answer = match question {
                    Question::Password { password, .. } => {
                        Answer::Password(known && password.as_bytes() == secret.as_bytes())
                    }
                    Question::ScramKeys { .. } => {
                        let mut keys = ScramKeys::derive(&secret, &[3; 16], 4096);
                        keys.stored_key[0] ^= u8::from(!known);
                        Answer::ScramKeys(keys)
                    }
                    Question::Certificate => Answer::Certificate(Some(NAME.into())),
                };
                exchange.handle_answer(answer)
            }
            Step::Granted { account } => break Ok(account),
            Step::Refused(failure) => break Err(failure),
        };
    };
    (outcome, ended)
}

const PASSWORDS: [Mechanism; 3] = [Mechanism::Plain, Mechanism::Login, Mechanism::ScramSha256];

#[test]
fn the_right_password_is_granted_and_a_wrong_one_refused() {
    for mechanism in PASSWORDS {
        for initial in [false, true] {
            if initial && mechanism == Mechanism::Login {
                continue;
            }
            let outcome = |client: &Client| run(client, mechanism, Facts::default(), initial);
            assert_eq!(outcome(&client()), (Ok(NAME.into()), true), "{mechanism:?} {initial}");
            let wrong = outcome(&Client { password: "x", ..client() });
            assert_eq!(wrong.0, Err(Failure::Credentials), "{mechanism:?}");
            let unknown = outcome(&Client { name: "nobody", ..client() });
            assert_eq!(unknown.0, Err(Failure::Credentials), "{mechanism:?}");
        }
    }
}

#[test]
fn a_client_without_channel_binding_comes_in_beside_plus() {
    assert_eq!(run(&client(), Mechanism::ScramSha256, facts(), true), (Ok(NAME.into()), true));
}

#[test]
fn a_bound_channel_is_proven_and_a_foreign_one_refused() {
    for (kind, data) in [("tls-exporter", vec![9; 32]), ("tls-server-end-point", vec![8; 48])] {
        for initial in [false, true] {
            let bound = Client { binding: Some((kind, data.clone())), ..client() };
            let outcome = run(&bound, Mechanism::ScramSha256Plus, facts(), initial);
            assert_eq!(outcome, (Ok(NAME.into()), true), "{kind}");
            let between = Client { binding: Some((kind, vec![1; data.len()])), ..client() };
            let outcome = run(&between, Mechanism::ScramSha256Plus, facts(), initial);
            assert_eq!(outcome, (Err(Failure::Credentials), false), "{kind}");
        }
    }
    let unique = Client { binding: Some(("tls-unique", vec![9; 32])), ..client() };
    assert_eq!(run(&unique, Mechanism::ScramSha256Plus, facts(), true).0, Err(Failure::Credentials));
}

/// Somebody in between took SCRAM-SHA-256-PLUS out of our reply to EHLO: the client says `y`, and we know better.
#[test]
fn a_downgrade_is_noticed() {
    let misled = Client { binding: Some(("tls-exporter", vec![9; 32])), ..client() };
    assert_eq!(run(&misled, Mechanism::ScramSha256, facts(), true).0, Err(Failure::Downgrade));
    assert_eq!(run(&misled, Mechanism::ScramSha256, Facts::default(), true).0, Ok(NAME.into()));
}

#[test]
fn nobody_acts_as_anyone_else() {
    for mechanism in [Mechanism::Plain, Mechanism::ScramSha256, Mechanism::External] {
        let outcome = |authzid| run(&Client { authzid, ..client() }, mechanism, Facts::default(), true).0;
        assert_eq!(outcome(Some(NAME)), Ok(NAME.into()), "{mechanism:?}");
        assert_eq!(outcome(Some("root")), Err(Failure::Credentials), "{mechanism:?}");
    }
}

/// A server that does not have the keys cannot make the client believe it: what the client checks is our signature.
#[test]
fn the_client_checks_us_too() {
    let mut keys = ScramKeys::derive(&Password::new(b"pencil").unwrap(), &[3; 16], 4096);
    keys.server_key[0] ^= 1;
    let config = SASLConfig::with_credentials(None, "user".into(), "pencil".into()).unwrap();
    let name = Mechname::parse(b"SCRAM-SHA-256").unwrap();
    let mut session = SASLClient::new(config).start_suggested(&[name]).unwrap();
    let mut out = Vec::new();
    session.step(None, &mut out).unwrap();
    let first = BASE64_STANDARD.encode(&out).into_bytes();
    let (mut exchange, _) = Exchange::begin(Mechanism::ScramSha256, Some(&first), Facts::default(), [7; 24]);
    let mut step = exchange.handle_answer(Answer::ScramKeys(keys));
    for good in [true, false] {
        let Step::Challenge(text) = step else { panic!("{step:?}") };
        out.clear();
        assert_eq!(session.step(Some(&BASE64_STANDARD.decode(text).unwrap()), &mut out).is_ok(), good);
        step = exchange.handle_response(BASE64_STANDARD.encode(&out).as_bytes());
    }
}
