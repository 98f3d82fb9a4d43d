//! Whatever a client sends, an exchange answers, ends, stays small, and grants nothing that was not proven.

#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

/// What one exchange may put out in one step, octets: the longest message that is read, and what we add to it.
const MOST: usize = AUTH_LINE_BYTES;

/// Messages near the grammars, and lines that are none.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("n,,".to_owned()),
        Just("y,,".to_owned()),
        Just("p=tls-exporter,,".to_owned()),
        Just("p=tls-unique,a=ann,".to_owned()),
        Just("n=ann,r=x".to_owned()),
        Just("c=biws,".to_owned()),
        Just("r=x".to_owned()),
        Just(",p=".to_owned()),
        Just("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned()),
        Just("\0ann\0pencil".to_owned()),
        "[ -~]{0,40}",
        "\\PC{0,20}",
        Just("n".repeat(3000)),
    ];
    let message = proptest::collection::vec(piece, 0..5).prop_map(|parts| parts.concat().into_bytes());
    prop_oneof![
        6 => message.prop_map(|message| BASE64_STANDARD.encode(message).into_bytes()),
        2 => proptest::collection::vec(any::<u8>(), 0..200).prop_map(|m| BASE64_STANDARD.encode(m).into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 0..200),
        1 => (0..20_000usize).prop_map(|length| vec![b'A'; length]),
    ]
}

/// Octets the exchange keeps, as far as a client decides about them.
fn kept(exchange: &Exchange) -> usize {
    match &exchange.state {
        State::LoginPassword(name) | State::Verdict(name) | State::ScramEnd(name) | State::Owner(Some(name)) => {
            name.len()
        }
        State::Keys(first) => format!("{first:?}").len(),
        State::ScramFinal(challenged) => format!("{challenged:?}").len(),
        _ => 0,
    }
}

proptest! {
    #[test]
    fn any_line_has_an_answer(
        mechanism in prop::sample::select(Mechanism::ALL.to_vec()),
        bound in any::<bool>(),
        initial in proptest::option::of(line()),
        lines in proptest::collection::vec(line(), 1..5),
        nonce in any::<[u8; 24]>(),
    ) {
        let facts = Facts { tls_exporter: bound.then_some([9; 32]), tls_server_end_point: None };
        let keys = ScramKeys { iterations: 4096, salt: vec![1; 16], stored_key: [2; 32], server_key: [3; 32] };
        let (mut exchange, mut step) = Exchange::begin(mechanism, initial.as_deref(), facts, nonce);
        let mut lines = lines.iter().cycle();
        for _ in 0..8 {
            prop_assert!(kept(&exchange) < 8 << 10, "{}", kept(&exchange));
            step = match step {
                Step::Challenge(text) => {
                    prop_assert!(text.len() <= MOST && BASE64_STANDARD.decode(&text).is_ok());
                    exchange.handle_response(lines.next().unwrap())
                }
                Step::Ask(Question::ScramKeys { account }) => {
                    prop_assert!(!account.is_empty() && account.len() <= crate::limits::ACCOUNT_NAME_BYTES);
                    exchange.handle_answer(Answer::ScramKeys(keys.clone()))
                }
                Step::Ask(Question::Password { .. }) => exchange.handle_answer(Answer::Password(false)),
                Step::Ask(Question::Certificate) => exchange.handle_answer(Answer::Certificate(None)),
                Step::Granted { .. } => return Err(TestCaseError::fail("nothing was proven")),
                Step::Refused(_) => {
                    prop_assert!(matches!(exchange.handle_response(b"AA=="), Step::Refused(_)));
                    return Ok(());
                }
            };
        }
        prop_assert!(false, "no end");
    }

    #[test]
    fn names_and_passwords_are_prepared_once_for_all(text in "\\PC{0,60}") {
        if let Ok(name) = prepare_name(text.as_bytes()) {
            prop_assert_eq!(prepare_name(name.as_bytes()), Ok(name));
        }
    }
}
