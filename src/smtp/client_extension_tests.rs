//! The client machine and what peers announce: which parameters go on to whom, and what is refused in a peer's place.
#![allow(clippy::unwrap_used)]

use super::client::{By, MailParams, Rcpt, TlsFacts, TlsWish};
use super::client_tests::{Driver, NOW};
use super::extensions::Capabilities;
use crate::message::params::{BodyType, Notify, Ret};
use crate::properties::cases;
use proptest::prelude::*;

fn ehlo(keywords: &[&str]) -> String {
    let lines: String = keywords.iter().map(|k| format!("250-{k}\r\n")).collect();
    format!("250-mx\r\n{lines}250 HELP\r\n")
}

fn plain() -> MailParams<'static> {
    MailParams::new(0, false)
}

/// What is said to a peer that announces these and PIPELINING.
fn said(keywords: &[&str], params: &MailParams<'_>, rcpt: Rcpt<'_>) -> String {
    let mut d = Driver::ready(&ehlo(&[keywords, &["PIPELINING"]].concat()));
    d.client.start(1, b"s@t", [rcpt], params, NOW);
    d.sent()
}

fn to(address: &str) -> Rcpt<'_> {
    Rcpt::from(address.as_bytes())
}

#[test]
fn dsn_parameters_go_on_as_they_came_and_only_where_they_are_announced() {
    // RFC 3461 §5.2.1 and §5.2.2 (a).
    let params = MailParams { ret: Some(Ret::Headers), envid: b"QQ+2B1", ..plain() };
    let notify = Notify { success: true, delay: true, ..Notify::default() };
    let rcpt = Rcpt { notify, orcpt: b"rfc822;A+2Bb@x", ..to("b@x") };
    assert_eq!(
        said(&["DSN"], &params, rcpt),
        "MAIL FROM:<s@t> RET=HDRS ENVID=QQ+2B1\r\nRCPT TO:<b@x> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;A+2Bb@x\r\nDATA\r\n"
    );
    assert_eq!(said(&[], &params, rcpt), "MAIL FROM:<s@t>\r\nRCPT TO:<b@x>\r\nDATA\r\n");
    let never = Rcpt { notify: Notify { never: true, ..Notify::default() }, ..to("b@x") };
    let params = MailParams { ret: Some(Ret::Full), ..plain() };
    assert_eq!(said(&["DSN"], &params, never), "MAIL FROM:<s@t> RET=FULL\r\nRCPT TO:<b@x> NOTIFY=NEVER\r\nDATA\r\n");
    // Nothing is added of our own.
    assert_eq!(said(&["DSN"], &plain(), to("b@x")), "MAIL FROM:<s@t>\r\nRCPT TO:<b@x>\r\nDATA\r\n");
}

#[test]
fn an_original_recipient_in_utf_8_is_encoded_for_a_peer_without_smtputf8() {
    // RFC 6533 §3.
    let rcpt = Rcpt { orcpt: "utf-8;gr\u{fc}n@\u{20ac}.x".as_bytes(), ..to("b@x") };
    assert!(said(&["DSN"], &plain(), rcpt).contains(r" ORCPT=utf-8;gr\x{FC}n@\x{20AC}.x"));
    assert!(said(&["DSN", "SMTPUTF8"], &plain(), rcpt).contains(" ORCPT=utf-8;gr\u{fc}n@\u{20ac}.x"));
}

#[test]
fn smtputf8_is_passed_on_or_left_away_where_nothing_needs_it_or_refused() {
    // RFC 6531 §3.4, §3.5 and §3.6.
    let utf8 = MailParams { smtputf8: true, ..plain() };
    let ascii = MailParams { ascii_headers: true, ..utf8 };
    let green = "gr\u{fc}n@x";
    assert_eq!(
        said(&["SMTPUTF8"], &utf8, to(green)),
        format!("MAIL FROM:<s@t> SMTPUTF8\r\nRCPT TO:<{green}>\r\nDATA\r\n")
    );
    assert_eq!(said(&[], &ascii, to("b@x")), "MAIL FROM:<s@t>\r\nRCPT TO:<b@x>\r\nDATA\r\n");
    for pipelining in ["PIPELINING", "X"] {
        let mut d = Driver::ready(&ehlo(&[pipelining]));
        assert_eq!(d.start_with(1, &["a@x", green], ascii), "");
        assert_eq!(d.start_with(2, &["b@x"], utf8), "");
        assert_eq!(d.take(), ["1 refused Local 553", "2 refused Local 550"]);
        // Nothing of it is left behind.
        assert!(d.client.is_idle());
        assert!(d.start_with(3, &["b@x"], plain()).starts_with("MAIL FROM:<s@t>\r\n"));
    }
}

#[test]
fn requiretls_goes_only_over_verified_tls_to_a_peer_that_has_it() {
    // RFC 8689 §4.2.1.
    let params = MailParams { require_tls: true, ..plain() };
    let established = |keywords: &[&str], verified| {
        let mut d = Driver::new();
        d.client.set_tls(TlsFacts { verified });
        d.hear("220 mx\r\n");
        d.hear(&ehlo(&[keywords, &["PIPELINING"]].concat()));
        d.take();
        d
    };
    let mut d = established(&["REQUIRETLS"], true);
    assert!(d.start_with(1, &["b@x"], params).starts_with("MAIL FROM:<s@t> REQUIRETLS\r\n"));
    for (mut d, code) in [
        (established(&[], true), "5.7.30"),
        (established(&["REQUIRETLS"], false), "5.7.10"),
        (Driver::ready(&ehlo(&["REQUIRETLS"])), "5.7.10"),
    ] {
        assert_eq!(d.start_with(1, &["b@x"], params), "");
        assert_eq!(d.take(), ["1 refused Local 550"], "{code}");
    }
    // RFC 8689 §5: a notification is not lost for it.
    let mut d = Driver::ready(&ehlo(&["REQUIRETLS", "PIPELINING"]));
    d.client.start(1, b"", [to("b@x")], &params, NOW);
    assert_eq!(d.sent(), "MAIL FROM:<>\r\nRCPT TO:<b@x>\r\nDATA\r\n");
    let mut d = established(&["REQUIRETLS"], true);
    d.client.start(1, b"", [to("b@x")], &params, NOW);
    assert_eq!(d.sent(), "MAIL FROM:<> REQUIRETLS\r\nRCPT TO:<b@x>\r\nDATA\r\n");
}

#[test]
fn the_time_that_is_left_goes_on_with_the_message() {
    // RFC 2852 §4.1.4, §4.1.4.1 for R, §4.1.4.2 for N.
    let by = |seconds, return_late, trace| {
        let by = Some(By { seconds, return_late, trace });
        MailParams { by, ..plain() }
    };
    let mail = |keyword: &str, params: &MailParams<'_>| said(&[keyword], params, to("b@x"));
    assert!(mail("DELIVERBY", &by(60, true, false)).starts_with("MAIL FROM:<s@t> BY=60;R\r\n"));
    assert!(mail("DELIVERBY 60", &by(60, true, true)).starts_with("MAIL FROM:<s@t> BY=60;RT\r\n"));
    assert!(mail("DELIVERBY 60", &by(-5, false, false)).starts_with("MAIL FROM:<s@t> BY=-5;N\r\n"));
    assert!(mail("DELIVERBY", &by(i64::MIN, false, true)).starts_with("MAIL FROM:<s@t> BY=-999999999;NT\r\n"));
    // N goes without, R does not; nor does R where the time is up, or too short for the peer.
    assert!(mail("X", &by(60, false, true)).starts_with("MAIL FROM:<s@t>\r\n"));
    for (keyword, seconds) in [("X", 60), ("DELIVERBY 61", 60), ("DELIVERBY", 0), ("DELIVERBY", -1)] {
        let mut d = Driver::ready(&ehlo(&[keyword]));
        assert_eq!(d.start_with(1, &["b@x"], by(seconds, true, false)), "");
        assert_eq!(d.take(), ["1 refused Local 554"], "{keyword}");
    }
}

#[test]
fn priority_goes_on_where_it_is_announced() {
    // RFC 6710 §4.2, §4.3.
    for (priority, words) in [(9, " MT-PRIORITY=9"), (-9, " MT-PRIORITY=-9"), (0, "")] {
        let params = MailParams { priority, ..plain() };
        assert!(said(&["MT-PRIORITY MIXER"], &params, to("b@x")).starts_with(&format!("MAIL FROM:<s@t>{words}\r\n")));
        assert!(said(&[], &params, to("b@x")).starts_with("MAIL FROM:<s@t>\r\n"));
    }
}

const BINARY: MailParams<'static> = MailParams {
    size: 8,
    exact_size: false,
    body: BodyType::Binary,
    smtputf8: false,
    ascii_headers: false,
    require_tls: false,
    ret: None,
    envid: b"",
    by: None,
    priority: 0,
};

#[test]
fn a_binary_body_goes_by_bdat_once_somebody_is_to_get_it() {
    // RFC 3030 §2 and §3.
    for pipelining in [true, false] {
        let mut keywords = vec!["CHUNKING", "BINARYMIME"];
        keywords.extend(pipelining.then_some("PIPELINING"));
        let mut d = Driver::ready(&ehlo(&keywords));
        let mut spoken = d.start_with(1, &["a@x", "b@x"], BINARY);
        for reply in ["250 ok\r\n", "550 no\r\n", "250 ok\r\n"] {
            spoken += &d.hear(reply);
        }
        let envelope = "MAIL FROM:<s@t> BODY=BINARYMIME\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\n";
        assert_eq!(spoken, format!("{envelope}BDAT 8 LAST\r\n<1>x\r\n.\r\n"));
        d.hear("250 2.0.0 done\r\n");
        assert_eq!(d.take(), ["1 rcpt 0 550", "1 accepted 250"]);
        // Nobody, or no MAIL: not an octet of it goes, and the connection goes on.
        let mut spoken = d.start_with(2, &["a@x"], BINARY);
        for reply in ["250 ok\r\n", "550 no\r\n"] {
            spoken += &d.hear(reply);
        }
        assert_eq!(spoken, "MAIL FROM:<s@t> BODY=BINARYMIME\r\nRCPT TO:<a@x>\r\n");
        d.start_with(3, &["a@x"], BINARY);
        d.hear("250 ok\r\n");
        d.hear("550 no\r\n");
        if pipelining {
            d.hear("503 mail first\r\n");
        }
        assert_eq!(d.take(), ["2 rcpt 0 550", "2 refused Recipients 550", "3 refused Mail 550"]);
        assert!(d.client.is_idle());
        assert!(d.start_with(4, &["a@x"], plain()).starts_with("MAIL FROM:<s@t>\r\n"));
    }
    for keywords in [&["CHUNKING"][..], &["BINARYMIME"], &["8BITMIME"]] {
        let mut d = Driver::ready(&ehlo(keywords));
        assert_eq!(d.start_with(1, &["a@x"], BINARY), "");
        assert_eq!(d.take(), ["1 refused Local 554"]);
    }
}

#[test]
fn the_next_envelope_goes_behind_a_binary_body() {
    let mut d = Driver::ready(&ehlo(&["CHUNKING", "BINARYMIME", "PIPELINING"]));
    d.start_with(1, &["a@x"], BINARY);
    d.client.handle_input(b"250 ok\r\n250 ok\r\n", NOW);
    assert!(d.client.can_start());
    let spoken = d.start_with(2, &["b@x"], BINARY);
    // RFC 3030 §2: a BDAT that fails leaves the transaction open, or not, and RSET must clear it.
    assert_eq!(spoken, "BDAT 8 LAST\r\n<1>x\r\n.\r\nRSET\r\nMAIL FROM:<s@t> BODY=BINARYMIME\r\nRCPT TO:<b@x>\r\n");
    assert_eq!(d.hear("250 done\r\n250 ok\r\n250 ok\r\n250 ok\r\n"), "BDAT 8 LAST\r\n<2>x\r\n.\r\n");
    d.hear("451 later\r\n");
    assert_eq!(d.take(), ["1 accepted 250", "2 refused Message 451"]);
    assert!(d.start_with(3, &["a@x"], plain()).starts_with("RSET\r\nMAIL"));
    d.hear("250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    d.hear("250 done\r\n");
    assert!(d.start_with(4, &["a@x"], plain()).starts_with("MAIL"), "what was taken leaves nothing open");
}

#[test]
fn no_more_transactions_than_the_peer_takes() {
    // RFC 9422 §4.1: MAILMAX counts those that failed as well.
    let mut d = Driver::ready(&ehlo(&["PIPELINING", "SIZE 10", "LIMITS MAILMAX=2"]));
    d.start_with(1, &["a@x"], MailParams::new(11, false));
    d.start_with(2, &["a@x"], plain());
    d.hear("250 ok\r\n250 ok\r\n354 go\r\n");
    assert!(d.client.can_start() && !d.client.is_spent(), "what was never said does not count");
    d.start_with(3, &["a@x"], plain());
    d.hear("250 ok\r\n550 no\r\n503 no\r\n503 no\r\n");
    assert!(d.client.is_idle() && d.client.is_spent() && !d.client.can_start());
    d.client.quit(NOW);
    assert_eq!(d.sent(), "QUIT\r\n");
}

// --- STARTTLS (RFC 3207) --------------------------------------------------------------------------------------------

/// Up to the reply to STARTTLS.
fn asked(wish: TlsWish) -> Driver {
    let mut d = Driver::new();
    d.client.wish_tls(wish);
    d.hear("220 mx\r\n");
    assert_eq!(d.hear(&ehlo(&["STARTTLS", "PIPELINING", "SIZE 10"])), "STARTTLS\r\n");
    d
}

#[test]
fn what_was_announced_in_the_clear_is_forgotten_under_tls() {
    for wish in [TlsWish::IfOffered, TlsWish::Require] {
        let mut d = asked(wish);
        assert_eq!(d.hear("220 go\r\n"), "");
        assert_eq!(d.take(), ["starttls"]);
        assert!(!d.client.can_start() && d.client.poll_timeout().is_some());
        d.client.tls_established(TlsFacts { verified: true }, NOW);
        assert_eq!(d.client.capabilities(), Capabilities::default());
        assert_eq!(d.sent(), "EHLO relay.example\r\n");
        // Offered again, by mistake: there is one layer of it.
        d.hear(&ehlo(&["STARTTLS", "8BITMIME"]));
        assert_eq!(d.take(), ["ready"]);
        let peer = d.client.capabilities();
        assert!(peer.eight_bit_mime && !peer.pipelining && peer.size.is_none());
        assert_eq!(d.client.tls(), Some(TlsFacts { verified: true }));
    }
}

#[test]
fn bytes_in_the_clear_behind_the_220_end_the_connection() {
    // RFC 3207 §5; CVE-2011-0411 and its like.
    for (first, second) in [("220 go\r\n250 evil\r\n", ""), ("220 go\r\n2", ""), ("220 go\r\n", "250 evil\r\n")] {
        let mut d = asked(TlsWish::IfOffered);
        d.hear(first);
        d.hear(second);
        assert_eq!(d.take(), ["starttls", "closed Injected"], "{first:?}");
        d.client.tls_failed();
        assert_eq!(d.sent(), "");
    }
}

#[test]
fn no_tls_means_the_clear_or_the_end_as_it_was_wished() {
    for reply in ["454 4.7.0 not now\r\n", "502 what\r\n"] {
        let mut d = asked(TlsWish::IfOffered);
        d.hear(reply);
        assert_eq!(d.take(), ["ready"]);
        assert!(d.client.capabilities().pipelining && d.client.tls().is_none());
        let mut d = asked(TlsWish::Require);
        assert_eq!(d.hear(reply), "QUIT\r\n");
        assert_eq!(d.take(), [format!("closed no tls {}", &reply[..3])]);
    }
    for reply in [ehlo(&["PIPELINING"]), "502 what\r\n".to_owned()] {
        let mut d = Driver::new();
        d.client.wish_tls(TlsWish::Require);
        d.hear("220 mx\r\n");
        assert_eq!(d.hear(&reply), "QUIT\r\n");
        assert_eq!(d.take(), ["closed TlsNotOffered"]);
    }
    let mut d = Driver::new();
    d.client.wish_tls(TlsWish::IfOffered);
    d.hear("220 mx\r\n");
    d.hear(&ehlo(&["PIPELINING"]));
    assert_eq!(d.take(), ["ready"]);
    // A peer that has STARTTLS is not asked where it is not wished.
    Driver::ready(&ehlo(&["STARTTLS"]));
}

#[test]
fn a_handshake_that_fails_is_told_as_such() {
    let ends: [fn(&mut Driver); 3] = [
        |d| d.client.tls_failed(),
        |d| d.client.handle_closed(),
        |d| d.client.handle_timeout(d.client.poll_timeout().unwrap()),
    ];
    for (end, reason) in ends.into_iter().zip(["TlsFailed", "TlsFailed", "Timeout(Handshake)"]) {
        let mut d = asked(TlsWish::IfOffered);
        d.hear("220 go\r\n");
        end(&mut d);
        assert_eq!(d.hear(""), "", "nothing more in the clear");
        assert_eq!(d.take(), ["starttls", &format!("closed {reason}")]);
    }
}

const KEYWORDS: [&str; 11] = [
    "PIPELINING",
    "SIZE 1000",
    "8BITMIME",
    "SMTPUTF8",
    "DSN",
    "CHUNKING",
    "BINARYMIME",
    "REQUIRETLS",
    "DELIVERBY 100",
    "MT-PRIORITY",
    "STARTTLS",
];

fn any_params() -> impl Strategy<Value = MailParams<'static>> {
    let body = prop::sample::select(vec![BodyType::SevenBit, BodyType::EightBit, BodyType::Binary]);
    let by = prop::option::of((-200..200i64, any::<bool>(), any::<bool>()));
    let ret = prop::option::of(prop::sample::select(vec![Ret::Full, Ret::Headers]));
    (1..1500u64, body, any::<[bool; 4]>(), ret, by, -9..=9i8).prop_map(|(size, body, flags, ret, by, priority)| {
        MailParams {
            size,
            exact_size: false,
            body,
            smtputf8: flags[0],
            ascii_headers: flags[1],
            require_tls: flags[2],
            ret,
            envid: if flags[3] { b"E" } else { b"" },
            by: by.map(|(seconds, return_late, trace)| By { seconds, return_late, trace }),
            priority,
        }
    })
}

proptest! {
    #![proptest_config(cases(400))]

    /// Whatever a message asks for and whatever a peer announces: nothing is said that was not announced, and what must
    /// not be lost is said or the message is refused.
    #[test]
    fn property_a_parameter_is_announced_or_not_said(
        announced in prop::sample::subsequence(KEYWORDS.to_vec(), 0..KEYWORDS.len()),
        params in any_params(),
        verified in prop::option::of(any::<bool>()),
        (ascii, null, notify) in (any::<bool>(), any::<bool>(), any::<bool>()),
    ) {
        let mut d = Driver::new();
        if let Some(verified) = verified {
            d.client.set_tls(TlsFacts { verified });
        }
        d.hear("220 mx\r\n");
        d.hear(&ehlo(&announced));
        d.take();
        let has = |keyword: &str| announced.iter().any(|k| k.starts_with(keyword));
        let address = if ascii { "b@x" } else { "gr\u{fc}n@x" };
        let rcpt = Rcpt { notify: Notify { success: notify, ..Notify::default() }, ..to(address) };
        let params = MailParams { smtputf8: params.smtputf8 || !ascii, ..params };
        d.client.start(1, if null { b"" } else { b"s@t" }, [rcpt], &params, NOW);
        // Without PIPELINING the rest comes with the replies.
        let mut spoken = d.sent();
        spoken += &d.hear("250 ok\r\n");
        if !has("PIPELINING") && !spoken.is_empty() {
            spoken += &d.hear("250 ok\r\n");
        }
        for (word, keyword) in [
            (" SIZE=", "SIZE"), (" BODY=8BITMIME", "8BITMIME"), (" BODY=BINARYMIME", "BINARYMIME"), (" SMTPUTF8", "SMTPUTF8"),
            (" REQUIRETLS", "REQUIRETLS"), (" RET=", "DSN"), (" ENVID=", "DSN"), (" NOTIFY=", "DSN"), (" BY=", "DELIVERBY"),
            (" MT-PRIORITY=", "MT-PRIORITY"),
        ] {
            prop_assert!(has(keyword) || !spoken.contains(word), "{word} to a peer without {keyword}");
        }
        if spoken.is_empty() {
            return Ok(());
        }
        let says = |word: &str| spoken.contains(word);
        prop_assert!(!params.require_tls || null || (says(" REQUIRETLS") && verified == Some(true)));
        prop_assert!(!says(" REQUIRETLS") || verified == Some(true));
        prop_assert!(has("SMTPUTF8") || spoken.is_ascii());
        prop_assert!(params.by.is_none_or(|by| !by.return_late || (says(";R") && by.seconds >= 100)));
        prop_assert_eq!(params.body == BodyType::Binary, says(" BODY=BINARYMIME"));
        prop_assert_eq!(params.body == BodyType::Binary, !says("DATA\r\n"));
        prop_assert!(!has("DSN") || says(" NOTIFY=") == notify);
    }
}
