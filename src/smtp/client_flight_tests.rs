//! Flights: MAIL, RCPT and BDAT of several messages behind one another, against scripted peers (RFC 2920, RFC 3030).
#![allow(clippy::unwrap_used)]

use super::client::MailParams;
use super::client_tests::{Driver, NOW};
use crate::limits;

const CHUNKING: &str = "250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 HELP\r\n";
const OK: &str = "250 ok\r\n";

fn exact(size: u64) -> MailParams<'static> {
    MailParams { exact_size: true, ..MailParams::new(size, false) }
}

/// A connection that may have so many messages in flight.
fn ready(most: usize) -> Driver {
    let mut d = Driver::ready(CHUNKING);
    d.client.fly(most);
    d
}

fn start(d: &mut Driver, token: u64) -> String {
    d.start_with(token, &["a@x"], exact(6))
}

/// Replies to MAIL, one RCPT and BDAT.
fn replies(d: &mut Driver, all: &[&str]) {
    all.iter().for_each(|reply| assert_eq!(d.hear(reply), ""));
}

#[test]
fn the_octets_of_a_message_go_behind_its_envelope() {
    let mut d = ready(16);
    assert_eq!(start(&mut d, 1), "MAIL FROM:<s@t>\r\nRCPT TO:<a@x>\r\nBDAT 6 LAST\r\n<1>x\r\n.\r\n");
    replies(&mut d, &[OK, OK, "250 2.0.0 done\r\n"]);
    assert_eq!(d.take(), ["1 accepted 250"]);
    assert!(d.client.is_idle());
    // Nothing failed, nothing stands open: no RSET.
    assert!(start(&mut d, 2).starts_with("MAIL"));
}

#[test]
fn several_messages_are_in_flight_and_their_replies_come_in_order() {
    let mut d = ready(3);
    assert!(start(&mut d, 1).starts_with("MAIL"));
    for token in [2, 3] {
        // What became of the BDAT in front nobody knows yet (RFC 3030 section 2).
        let reset = "RSET\r\nMAIL FROM:<s@t>\r\nRCPT TO:<a@x>\r\nBDAT 6 LAST\r\n";
        assert!(d.client.can_start());
        assert_eq!(start(&mut d, token), format!("{reset}<{token}>x\r\n.\r\n"));
    }
    assert!(!d.client.can_start(), "three at a time");
    d.hear("250 ok\r\n250 ok\r\n250 done\r\n250 reset\r\n250 ok\r\n");
    assert_eq!(d.take(), ["1 accepted 250"]);
    assert!(d.client.can_start());
    d.hear("250 ok\r\n452 4.3.1 full\r\n250 reset\r\n250 ok\r\n250 ok\r\n250 done\r\n");
    assert_eq!(d.take(), ["2 refused Message 452", "3 accepted 250"]);
    assert!(d.client.is_idle());
}

#[test]
fn a_flight_ends_above_its_octets_and_a_large_message_goes_by_data_behind_it() {
    let mut d = ready(16);
    let large = exact(limits::FLIGHT_BODY_BYTES);
    let most = limits::FLIGHT_OCTETS / limits::FLIGHT_BODY_BYTES;
    for token in 0..most {
        assert!(d.client.can_start(), "{token}");
        d.start_with(token, &["a@x"], large);
    }
    assert!(!d.client.can_start());
    replies(&mut d, &[OK, OK, OK]);
    assert!(d.client.can_start());
    let spoken = d.start_with(99, &["a@x"], exact(limits::FLIGHT_BODY_BYTES + 1));
    assert_eq!(spoken, "RSET\r\nMAIL FROM:<s@t>\r\nRCPT TO:<a@x>\r\nDATA\r\n");
    assert!(!d.client.can_start(), "DATA is the last of its group (RFC 2920 section 3.1)");
    for _ in 1..most {
        replies(&mut d, &[OK, OK, OK, OK]);
    }
    replies(&mut d, &[OK, OK, OK]);
    assert_eq!(d.hear("354 go\r\n"), "<99>x\r\n.\r\n");
    assert!(d.client.can_start(), "behind its final dot");
    d.hear(OK);
    assert_eq!(d.take().len(), most as usize + 1);
}

#[test]
fn what_nobody_is_to_get_is_wasted_and_nothing_else() {
    for last in ["503 5.5.1 no recipients\r\n", "250 2.0.0 for nobody\r\n", "554 no valid recipients\r\n"] {
        let mut d = ready(16);
        (1..=3).for_each(|token| assert!(start(&mut d, token).contains("BDAT")));
        replies(&mut d, &[OK, "550 5.1.1 no\r\n", last]);
        replies(&mut d, &[OK, "451 4.3.0 not now\r\n", "503 mail first\r\n", "503 mail first\r\n"]);
        replies(&mut d, &[OK, OK, OK, "250 done\r\n"]);
        let expected = ["1 rcpt 0 550", "1 refused Recipients 550", "2 refused Mail 451", "3 accepted 250"];
        assert_eq!(d.take(), expected, "{last}");
        assert!(d.client.is_idle());
    }
    // The last of a flight may be the one that failed.
    let mut d = ready(16);
    start(&mut d, 1);
    replies(&mut d, &[OK, "550 5.1.1 no\r\n", "503 no recipients\r\n"]);
    assert!(start(&mut d, 2).starts_with("RSET\r\nMAIL"));
}

#[test]
fn a_peer_that_bears_no_flight_is_not_believed_about_the_mail() {
    for (rest, code) in [
        (&[OK, OK, "503 5.5.1 out of sequence\r\n"][..], 503),
        (&[OK, OK, "554 5.5.0 synchronization\r\n"], 554),
        (&["503 nested\r\n", "503 what\r\n", "503 what\r\n"], 503),
    ] {
        let mut d = ready(16);
        start(&mut d, 1);
        start(&mut d, 2);
        replies(&mut d, rest);
        assert_eq!(d.take(), [format!("1 refused Flight {code}")]);
        // No more of them on this connection.
        assert_eq!(start(&mut d, 3), "RSET\r\nMAIL FROM:<s@t>\r\nRCPT TO:<a@x>\r\nDATA\r\n");
        assert!(!d.client.can_start());
        replies(&mut d, &[OK, OK, OK, "250 done\r\n", OK, OK, OK]);
        assert_eq!(d.hear("354 go\r\n"), "<3>x\r\n.\r\n");
        d.hear(OK);
        assert_eq!(start(&mut d, 4), "MAIL FROM:<s@t>\r\nRCPT TO:<a@x>\r\nDATA\r\n");
    }
    // Without a flight it is about the mail.
    let mut d = ready(1);
    start(&mut d, 1);
    replies(&mut d, &["503 5.5.1 no\r\n", "503 no\r\n", "503 no\r\n"]);
    assert_eq!(d.take(), ["1 refused Mail 503"]);
    // And so is any other refusal.
    let mut d = ready(16);
    start(&mut d, 1);
    replies(&mut d, &[OK, OK, "554 5.7.1 spam\r\n"]);
    assert_eq!(d.take(), ["1 refused Message 554"]);
}

#[test]
fn each_message_of_a_flight_that_is_lost_has_its_own_outcome() {
    // Sent to its end, or not.
    let mut d = ready(16);
    (1..=3).for_each(|token| drop(start(&mut d, token)));
    replies(&mut d, &[OK, OK, "250 done\r\n", OK, OK]);
    d.send_bodies = false;
    start(&mut d, 4);
    start(&mut d, 5);
    d.client.handle_closed();
    d.hear("");
    let expected =
        ["1 accepted 250", "2 lost true", "3 lost true", "4 lost false", "5 lost false", "closed PeerClosed"];
    assert_eq!(d.take(), expected);
    // RFC 5321 section 3.8: who says 421 reads nothing behind it.
    let mut d = ready(16);
    (1..=3).for_each(|token| drop(start(&mut d, token)));
    replies(&mut d, &[OK, OK, "250 done\r\n", OK, "421 4.3.2 bye\r\n"]);
    assert_eq!(d.take(), ["1 accepted 250", "2 refused Mail 421", "3 lost false", "closed shutdown 421"]);
}

#[test]
fn a_reply_in_front_of_the_octets_ends_the_connection() {
    let mut d = ready(16);
    d.send_bodies = false;
    start(&mut d, 1);
    replies(&mut d, &[OK, OK]);
    d.hear("250 taken already\r\n");
    assert_eq!(d.take(), ["1 lost false", "closed unexpected 250"]);
}

#[test]
fn without_all_that_it_takes_nothing_flies() {
    let data = "MAIL FROM:<s@t>\r\nRCPT TO:<a@x>\r\nDATA\r\n";
    let mut d = ready(1);
    assert_eq!(start(&mut d, 1), data, "not wished");
    let mut d = ready(16);
    assert_eq!(d.start_with(1, &["a@x"], MailParams::new(0, false)), data, "the octets are not known");
    let mut d = Driver::ready("250-mx\r\n250 PIPELINING\r\n");
    d.client.fly(16);
    assert_eq!(start(&mut d, 1), data, "no CHUNKING");
    let mut d = Driver::ready("250-mx\r\n250 CHUNKING\r\n");
    d.client.fly(16);
    assert_eq!(start(&mut d, 1), "MAIL FROM:<s@t>\r\n", "no PIPELINING");
    let mut d = Driver::new();
    d.client.speak_lmtp();
    d.client.fly(16);
    d.hear("220 mx\r\n");
    d.hear(CHUNKING);
    assert_eq!(start(&mut d, 1), data, "LMTP answers for each recipient");
}

#[test]
fn the_timer_is_that_of_the_reply_that_comes_next() {
    let expect = |d: &Driver, after| assert_eq!(d.client.poll_timeout(), Some(NOW + after));
    let mut d = ready(16);
    start(&mut d, 1);
    start(&mut d, 2);
    expect(&d, limits::CLIENT_ENVELOPE_TIMEOUT);
    replies(&mut d, &[OK, OK]);
    expect(&d, limits::CLIENT_DATA_TERMINATION_TIMEOUT);
    replies(&mut d, &[OK]);
    expect(&d, limits::CLIENT_COMMAND_TIMEOUT);
    replies(&mut d, &[OK, OK, OK, OK]);
    assert_eq!(d.client.poll_timeout(), None);
    d.send_bodies = false;
    start(&mut d, 3);
    replies(&mut d, &[OK, OK]);
    expect(&d, limits::CLIENT_DATA_BLOCK_TIMEOUT);
}
