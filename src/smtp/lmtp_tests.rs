//! The client machine as an LMTP client (RFC 2033), against scripted servers.
#![allow(clippy::unwrap_used)]

use super::client_tests::Driver;

/// Past the greeting, with this reply to LHLO.
fn ready(lhlo: &str) -> Driver {
    let mut d = Driver::new();
    d.client.speak_lmtp();
    assert_eq!(d.hear("220 mda LMTP\r\n"), "LHLO relay.example\r\n");
    assert_eq!(d.hear(lhlo), "");
    assert_eq!(d.take(), ["ready"]);
    d
}

const FULL: &str = "250-mda\r\n250-PIPELINING\r\n250 8BITMIME\r\n";

#[test]
fn each_accepted_recipient_has_a_reply_of_its_own() {
    let mut d = ready(FULL);
    d.start(1, &["a@x", "b@x", "c@x", "d@x"]);
    assert_eq!(d.hear("250 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n250 ok\r\n354 go\r\n"), "<1>x\r\n.\r\n");
    assert_eq!(d.take(), ["1 rcpt 1 550"]);
    assert_eq!(d.hear("250 2.0.0 saved\r\n"), "");
    assert_eq!(d.take(), ["1 settled 0 250"], "it does not wait for the others");
    // In one piece, and torn in the middle of a reply.
    assert_eq!(d.hear("452 4.2.2 full\r\n25"), "");
    assert_eq!(d.take(), ["1 settled 2 452"]);
    assert_eq!(d.hear("0 2.0.0 saved\r\n"), "");
    assert_eq!(d.take(), ["1 settled 3 250", "1 accepted 250"]);
    // The next one on the same connection, without RSET.
    assert!(d.start(2, &["a@x"]).starts_with("MAIL FROM:<"));
    d.hear("250 ok\r\n250 ok\r\n354 go\r\n");
    d.hear("550 no\r\n");
    assert_eq!(d.take(), ["2 settled 0 550", "2 refused Message 550"]);
    assert!(d.client.is_idle());
}

#[test]
fn replies_told_before_the_connection_is_lost_stand() {
    let mut d = ready(FULL);
    d.start(1, &["a@x", "b@x", "c@x"]);
    d.hear("250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    d.hear("250 saved\r\n");
    d.client.handle_closed();
    d.hear("");
    assert_eq!(d.take(), ["1 settled 0 250", "1 lost true", "closed PeerClosed"]);
    // 421 ends it for the others.
    let mut d = ready(FULL);
    d.start(1, &["a@x", "b@x"]);
    d.hear("250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    d.hear("250 saved\r\n421 4.3.2 bye\r\n");
    assert_eq!(d.take(), ["1 settled 0 250", "1 refused Message 421", "closed shutdown 421"]);
}

#[test]
fn no_recipient_no_message() {
    // RFC 2033 section 4.2: 503 to DATA.
    let mut d = ready(FULL);
    d.start(1, &["a@x"]);
    assert_eq!(d.hear("250 ok\r\n550 no\r\n503 none\r\n"), "");
    assert_eq!(d.take(), ["1 rcpt 0 550", "1 refused Recipients 550"]);
    assert!(d.start(2, &["b@x"]).starts_with("RSET\r\nMAIL"));
    // A server that wants the message all the same: nobody can tell how many replies come.
    let mut d = ready(FULL);
    d.start(1, &["a@x"]);
    assert_eq!(d.hear("250 ok\r\n550 no\r\n354 go\r\n"), "");
    assert_eq!(d.take(), ["1 rcpt 0 550", "1 refused Recipients 550", "closed unexpected 354"]);
}

#[test]
fn without_pipelining_and_with_the_next_envelope_behind_the_dot() {
    let mut d = ready("250 mda\r\n");
    assert!(d.start(1, &["a@x", "b@x"]).starts_with("MAIL"));
    assert!(d.hear("250 ok\r\n").starts_with("RCPT TO:<a@x>"));
    assert!(d.hear("250 ok\r\n").starts_with("RCPT TO:<b@x>"));
    assert_eq!(d.hear("250 ok\r\n"), "DATA\r\n");
    d.hear("354 go\r\n");
    d.hear("250 ok\r\n250 ok\r\n");
    assert_eq!(d.take(), ["1 settled 0 250", "1 settled 1 250", "1 accepted 250"]);

    let mut d = ready(FULL);
    d.start(1, &["a@x", "b@x"]);
    d.hear("250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    d.start(2, &["c@x"]);
    d.hear("250 1\r\n451 2\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    d.hear("250 3\r\n");
    let all = ["1 settled 0 250", "1 settled 1 451", "1 accepted 250", "2 settled 0 250", "2 accepted 250"];
    assert_eq!(d.take(), all);
    // One reply too many.
    d.hear("250 4\r\n");
    assert_eq!(d.take(), ["closed unexpected 250"]);
}

#[test]
fn a_server_that_speaks_smtp_alone_is_none() {
    let mut d = Driver::new();
    d.client.speak_lmtp();
    assert_eq!(d.hear("220 mx ESMTP\r\n"), "LHLO relay.example\r\n");
    assert_eq!(d.hear("500 what?\r\n"), "QUIT\r\n", "no HELO");
    assert_eq!(d.take(), ["closed refused 500"]);
    assert_eq!(d.client.poll_timeout(), None);
}
