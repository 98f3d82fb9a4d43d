//! The client machine where it is to log in (RFC 4954), and under TLS from the beginning (RFC 8314).
#![allow(clippy::unwrap_used)]

use super::client::TlsFacts;
use super::client_tests::{Driver, NOW};
use super::sasl::Login;
use std::sync::Arc;

const PLAIN: &str = "AUTH PLAIN AHVzZXIAc2VjcmV0\r\n";

fn driver(tls: bool, without_tls: bool) -> Driver {
    let mut d = Driver::new();
    if tls {
        d.client.set_tls(TlsFacts { verified: true });
    }
    d.client.log_in(Arc::new(Login::parse("user:secret").unwrap()), without_tls, [7; 24]);
    assert_eq!(d.hear("220 mx\r\n"), "EHLO relay.example\r\n");
    d
}

#[test]
fn no_mail_goes_before_the_login_is_taken() {
    // RFC 4954 §4; the enhanced code is RFC 4954 §6's.
    let mut d = driver(true, false);
    assert_eq!(d.hear("250-mx\r\n250-PIPELINING\r\n250 AUTH LOGIN PLAIN\r\n"), PLAIN);
    assert!(!d.client.can_start() && d.client.poll_timeout().is_some());
    assert_eq!(d.hear("235 2.7.0 welcome\r\n"), "");
    assert_eq!(d.take(), ["ready"]);
    assert!(d.start(1, &["a@x"]).starts_with("MAIL FROM:<s@t>\r\nRCPT TO:<a@x>\r\n"));
    // LOGIN, where there is nothing else.
    let mut d = driver(true, false);
    assert_eq!(d.hear("250-mx\r\n250 AUTH=LOGIN\r\n"), "AUTH LOGIN\r\n");
    assert_eq!(d.hear("334 VXNlcm5hbWU6\r\n"), "dXNlcg==\r\n");
    assert_eq!(d.hear("334 UGFzc3dvcmQ6\r\n"), "c2VjcmV0\r\n");
    d.hear("235 welcome\r\n");
    assert_eq!(d.take(), ["ready"]);
}

#[test]
fn a_login_that_fails_ends_the_connection_before_any_mail() {
    for (reply, says) in [
        ("535 5.7.8 no such user\r\n", "LoginRefused(Reply { code: 535"),
        ("530 5.7.0 no\r\n", "LoginRefused(Reply { code: 530"),
        ("454 4.7.0 later\r\n", "LoginRefused(Reply { code: 454"),
        ("504 5.5.4 unknown\r\n", "LoginRefused(Reply { code: 504"),
    ] {
        let mut d = driver(true, false);
        d.hear("250-mx\r\n250 AUTH PLAIN\r\n");
        assert_eq!(d.hear(reply), "QUIT\r\n");
        let events = d.take();
        assert!(events.len() == 1 && events[0].contains(says), "{events:?}");
    }
    let mut d = driver(true, false);
    d.hear("250-mx\r\n250 AUTH PLAIN\r\n");
    assert_eq!(d.hear("421 bye\r\n"), "");
    assert_eq!(d.take(), ["closed shutdown 421"]);
}

#[test]
fn a_password_is_shown_to_nobody_in_the_clear_and_no_login_is_left_out() {
    let ehlo = "250-mx\r\n250 AUTH PLAIN\r\n";
    let mut d = driver(false, false);
    assert_eq!(d.hear(ehlo), "QUIT\r\n");
    assert_eq!(d.take(), ["closed NoLogin(NoTls)"]);
    let mut d = driver(false, true);
    assert_eq!(d.hear(ehlo), PLAIN);
    // The peer offers none, or is of the time of HELO.
    for said in ["250-mx\r\n250 AUTH GSSAPI\r\n", "250 mx\r\n"] {
        let mut d = driver(true, false);
        assert_eq!(d.hear(said), "QUIT\r\n");
        assert_eq!(d.take(), ["closed NoLogin(NotOffered)"]);
    }
    let mut d = driver(true, false);
    assert_eq!(d.hear("502 what\r\n"), "HELO relay.example\r\n");
    assert_eq!(d.hear("250 mx\r\n"), "QUIT\r\n");
    assert_eq!(d.take(), ["closed NoLogin(NotOffered)"]);
}

#[test]
fn a_server_that_does_not_prove_itself_gets_no_mail() {
    // RFC 5802 §5: 235 in the place of its proof.
    let mut d = driver(true, false);
    let sent = d.hear("250-mx\r\n250 AUTH SCRAM-SHA-256 PLAIN\r\n");
    assert!(sent.starts_with("AUTH SCRAM-SHA-256 "), "{sent}");
    assert_eq!(d.hear("235 2.7.0 come in\r\n"), "");
    assert_eq!(d.take(), ["closed NoLogin(Unproven)"]);
}

#[test]
fn tls_from_the_beginning_has_its_handshake_before_the_greeting() {
    // RFC 8314 §3.3.
    let mut d = Driver::new();
    d.client.begin_with_tls();
    assert!(d.client.poll_timeout().is_some() && d.sent().is_empty());
    d.client.tls_established(TlsFacts { verified: true }, NOW);
    assert_eq!(d.sent(), "");
    assert_eq!(d.hear("220 mx\r\n"), "EHLO relay.example\r\n");
    d.hear("250-mx\r\n250 STARTTLS\r\n");
    assert_eq!(d.take(), ["ready"]);
    assert_eq!(d.client.tls(), Some(TlsFacts { verified: true }));
    // A server that speaks in the clear there.
    let mut d = Driver::new();
    d.client.begin_with_tls();
    assert_eq!(d.hear("220 mx\r\n"), "");
    assert_eq!(d.take(), ["closed Injected"]);
}
