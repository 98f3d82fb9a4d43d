#![allow(clippy::unwrap_used)]

use super::*;
use Mechanism::{External, Login, Plain, ScramSha256, ScramSha256Plus};

const NONCE: [u8; 24] = [7; 24];

fn encode(text: impl AsRef<[u8]>) -> Vec<u8> {
    BASE64_STANDARD.encode(text).into_bytes()
}

fn begin(mechanism: Mechanism, initial: Option<&[u8]>) -> (Exchange, Step) {
    Exchange::begin(mechanism, initial.map(encode).as_deref(), Facts::default(), NONCE)
}

/// The step in words, for comparison.
fn words(step: Step) -> String {
    match step {
        Step::Challenge(text) => format!("334 {}", String::from_utf8(BASE64_STANDARD.decode(text).unwrap()).unwrap()),
        Step::Ask(Question::Password { account, password }) => {
            format!("password {account} {}", String::from_utf8_lossy(password.as_bytes()))
        }
        Step::Ask(Question::ScramKeys { account }) => format!("keys {account}"),
        Step::Ask(Question::Certificate) => "certificate".into(),
        Step::Granted { account } => format!("granted {account}"),
        Step::Refused(failure) => format!("{failure:?}"),
    }
}

#[test]
fn names_are_read_in_any_case() {
    for mechanism in Mechanism::ALL {
        assert_eq!(Mechanism::parse(mechanism.name().as_bytes()), Some(mechanism));
    }
    assert_eq!(Mechanism::parse(b"scram-sha-256-Plus"), Some(ScramSha256Plus));
    for none in ["", "PLAIN ", "SCRAM-SHA-1", "SCRAM-SHA-25", "CRAM-MD5", "GSSAPI"] {
        assert_eq!(Mechanism::parse(none.as_bytes()), None);
    }
}

/// RFC 4616 §4: tim without, Ursel with an authorization identity, which must be the account's own here.
#[test]
fn the_examples_of_rfc_4616() {
    let (mut exchange, step) = begin(Plain, Some(b"\0tim\0tanstaaftanstaaf"));
    assert_eq!(words(step), "password tim tanstaaftanstaaf");
    assert_eq!(words(exchange.handle_answer(Answer::Password(true))), "granted tim");

    let (mut exchange, step) = begin(Plain, None);
    assert_eq!(words(step), "334 ");
    assert_eq!(words(exchange.handle_response(&encode("Ursel\0Kurt\0xipj3plmq"))), "Credentials");

    let (mut exchange, step) = begin(Plain, Some(b"Kurt\0Kurt\0xipj3plmq"));
    assert_eq!(words(step), "password Kurt xipj3plmq");
    assert_eq!(words(exchange.handle_answer(Answer::Password(false))), "Credentials");
}

#[test]
fn what_plain_refuses() {
    for (message, failure) in [
        (&b""[..], "Malformed"),
        (b"tim\0secret", "Malformed"),
        (b"\0tim\0secret\0", "Malformed"),
        (b"\0tim\0", "Credentials"),
        (b"\0\0secret", "Credentials"),
        (b"\0\xff\0secret", "Credentials"),
        (b"\0tim\0\xff", "Credentials"),
        (b"\xff\0tim\0secret", "Credentials"),
        (b"\0tim\0\xc2\xad", "Credentials"),
    ] {
        let (mut exchange, step) = begin(Plain, Some(message));
        assert_eq!(words(step), failure, "{message:?}");
        assert_eq!(words(exchange.handle_response(&encode("\0tim\0secret"))), "Malformed", "it has ended");
    }
    let long = [b"\0tim\0".as_slice(), &[b'x'; crate::limits::PASSWORD_BYTES + 1]].concat();
    assert_eq!(words(begin(Plain, Some(&long)).1), "Credentials");
}

#[test]
fn names_and_passwords_are_prepared() {
    let (_, step) = begin(Plain, Some("\u{2168}\0I\u{ad}X\0p\u{aa}ss".as_bytes()));
    assert_eq!(words(step), "password IX pass");
}

#[test]
fn login_asks_twice() {
    for initial in [false, true] {
        let (mut exchange, mut step) = begin(Login, initial.then_some(b"tim"));
        if !initial {
            assert_eq!(words(step), "334 Username:");
            step = exchange.handle_response(&encode("tim"));
        }
        assert_eq!(words(step), "334 Password:");
        assert_eq!(words(exchange.handle_response(&encode("secret"))), "password tim secret");
        assert_eq!(words(exchange.handle_answer(Answer::Password(true))), "granted tim");
    }
}

#[test]
fn external_takes_the_account_of_the_certificate() {
    let owner = || Answer::Certificate(Some("tim".into()));
    for (authzid, answer, outcome) in [
        (&b""[..], owner(), "granted tim"),
        (b"tim", owner(), "granted tim"),
        (b"kurt", owner(), "Credentials"),
        (b"", Answer::Certificate(None), "Credentials"),
        (b"tim", Answer::Certificate(None), "Credentials"),
    ] {
        let (mut exchange, step) = begin(External, None);
        assert_eq!(words(step), "334 ");
        assert_eq!(words(exchange.handle_response(&encode(authzid))), "certificate");
        assert_eq!(words(exchange.handle_answer(answer)), outcome, "{authzid:?}");
    }
    let (mut exchange, step) = Exchange::begin(External, Some(b"="), Facts::default(), NONCE);
    assert_eq!(words(step), "certificate");
    assert_eq!(words(exchange.handle_answer(owner())), "granted tim");
}

/// RFC 4954 §4.
#[test]
fn lines_are_checked_before_the_mechanism_sees_them() {
    for mechanism in Mechanism::ALL {
        for (line, failure) in [
            (b"*".to_vec(), "Cancelled"),
            (b"**".to_vec(), "Encoding"),
            (b"AGE".to_vec(), "Encoding"),
            (b"AGE AGE=".to_vec(), "Encoding"),
            (b"AGF=".to_vec(), "Encoding"),
            (vec![b'A'; AUTH_LINE_BYTES - 1], "TooLong"),
        ] {
            let (mut exchange, _) = begin(mechanism, None);
            assert_eq!(words(exchange.handle_response(&line)), failure, "{mechanism:?} {}", line.escape_ascii());
        }
    }
    // In the command "*" is no cancelling, and the longest line is read.
    assert_eq!(words(Exchange::begin(Plain, Some(b"*"), Facts::default(), NONCE).1), "Encoding");
    let longest = vec![b'A'; (AUTH_LINE_BYTES - 2) / 4 * 4];
    assert_eq!(words(Exchange::begin(Plain, Some(&longest), Facts::default(), NONCE).1), "Malformed");
}

#[test]
fn an_answer_that_was_not_asked_for_grants_nothing() {
    let answers = || {
        let keys = ScramKeys { iterations: 4096, salt: vec![1; 16], stored_key: [2; 32], server_key: [3; 32] };
        [Answer::Password(true), Answer::Certificate(Some("tim".into())), Answer::ScramKeys(keys), Answer::Unavailable]
    };
    for (mechanism, message, right) in
        [(Plain, &b"\0tim\0secret"[..], 0), (External, b"", 1), (ScramSha256, b"n,,n=tim,r=x", 2)]
    {
        for (n, answer) in answers().into_iter().enumerate().filter(|(n, _)| *n != right) {
            let (mut exchange, _) = begin(mechanism, None);
            let asked = exchange.handle_response(&encode(message));
            assert!(matches!(asked, Step::Ask(_)), "{mechanism:?}: {asked:?}");
            assert_eq!(words(exchange.handle_answer(answer)), "Unavailable", "{mechanism:?} {n}");
        }
        for answer in answers() {
            let (mut exchange, _) = begin(mechanism, None);
            assert_eq!(words(exchange.handle_answer(answer)), "Unavailable");
        }
        let (mut exchange, _) = begin(mechanism, None);
        drop(exchange.handle_response(&encode(message)));
        assert_eq!(words(exchange.handle_response(b"")), "Malformed", "a line while the driver owes an answer");
    }
}

/// RFC 5802 §6: what the client says of channel binding must fit the mechanism and what we announce.
#[test]
fn channel_binding_is_not_negotiated_away() {
    let bare = Facts::default();
    let exporter = Facts { tls_exporter: Some([9; 32]), ..Facts::default() };
    let both = Facts { tls_server_end_point: Some([8; 32].as_slice().into()), ..exporter.clone() };
    assert!(!bare.offers_plus() && exporter.offers_plus() && both.offers_plus());
    for (facts, mechanism, flag, outcome) in [
        (&bare, ScramSha256, "n", "keys tim"),
        (&bare, ScramSha256, "y", "keys tim"),
        (&bare, ScramSha256, "p=tls-exporter", "Malformed"),
        (&bare, ScramSha256Plus, "p=tls-exporter", "Credentials"),
        (&both, ScramSha256, "n", "keys tim"),
        (&both, ScramSha256, "y", "Downgrade"),
        (&both, ScramSha256, "p=tls-exporter", "Malformed"),
        (&both, ScramSha256Plus, "n", "Malformed"),
        (&both, ScramSha256Plus, "y", "Downgrade"),
        (&both, ScramSha256Plus, "p=tls-exporter", "keys tim"),
        (&both, ScramSha256Plus, "p=tls-server-end-point", "keys tim"),
        (&both, ScramSha256Plus, "p=tls-unique", "Credentials"),
        (&exporter, ScramSha256Plus, "p=tls-server-end-point", "Credentials"),
    ] {
        let first = encode(format!("{flag},,n=tim,r=x"));
        let (_, step) = Exchange::begin(mechanism, Some(&first), facts.clone(), NONCE);
        assert_eq!(words(step), outcome, "{facts:?} {mechanism:?} {flag}");
    }
    let (_, step) = begin(ScramSha256, Some(b"n,a=kurt,n=tim,r=x"));
    assert_eq!(words(step), "Credentials");
}

#[test]
fn replies_are_those_of_rfc_4954() {
    for (failure, code) in [
        (Failure::Credentials, "535 5.7.8 "),
        (Failure::Downgrade, "535 5.7.8 "),
        (Failure::Cancelled, "501 5.7.0 "),
        (Failure::Encoding, "501 5.5.2 "),
        (Failure::Malformed, "501 5.5.2 "),
        (Failure::TooLong, "500 5.5.6 "),
        (Failure::Unavailable, "454 4.7.0 "),
    ] {
        let reply = std::str::from_utf8(failure.reply()).unwrap();
        assert!(reply.starts_with(code) && reply.ends_with("\r\n"), "{reply}");
    }
    assert_eq!(Failure::Credentials.reply(), Failure::Downgrade.reply());
}

#[test]
fn nothing_secret_is_shown() {
    let facts = Facts { tls_exporter: Some([211; 32]), ..Facts::default() };
    let (mut exchange, _) = Exchange::begin(Plain, None, facts, NONCE);
    let step = exchange.handle_response(&encode("\0tim\0hunter2"));
    let shown = format!("{exchange:?} {step:?}");
    assert!(shown.contains("tim") && !shown.contains("hunter2") && !shown.contains("211"), "{shown}");
}
