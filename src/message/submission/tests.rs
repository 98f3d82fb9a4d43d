#![allow(clippy::unwrap_used)]

use super::*;
use crate::message::trace::DateCache;
use crate::time::Wall;

const DATE: &str = "Date: Sat, 21 Nov 2026 23:39:49 +0000\r\n";
const ID: &str = "Message-ID: <00000000c1p00@mx.example>\r\n";

pub(super) fn may(address: &[u8]) -> bool {
    address.eq_ignore_ascii_case(b"alice@example.com") || address.ends_with(b"@alice.example")
}

pub(super) fn facts<'a>(
    date: &'a [u8; DATE_BYTES],
    account: Option<(&'a str, SenderPolicy)>,
    reverse_path: &'a str,
) -> Submission<'a> {
    Submission {
        date,
        host: "mx.example",
        id: MessageId(12345 << 10),
        utf8: false,
        reverse_path: reverse_path.as_bytes(),
        account: account.map(|(name, policy)| Account { name, may_send_as: &may, policy }),
    }
}

fn run(wire: &str, account: Option<(&str, SenderPolicy)>, reverse_path: &str) -> Result<String, Refusal> {
    let date = *DateCache::default().text(Wall(1_795_304_389_000));
    let mut out = b"before".to_vec();
    let result = clean_up(wire.as_bytes(), &facts(&date, account, reverse_path), &mut out);
    let text = String::from_utf8(out).unwrap();
    match result {
        Ok(()) => Ok(text.strip_prefix("before").unwrap().to_owned()),
        Err(refusal) => {
            assert_eq!(text, "before", "a refusal leaves the output as it was");
            Err(refusal)
        }
    }
}

fn anyone(wire: &str) -> Result<String, Refusal> {
    run(wire, None, "x@y")
}

#[test]
fn adds_what_is_missing_behind_the_other_fields() {
    assert_eq!(
        anyone("From: a@b\r\nSubject: x\r\n\r\nBody\r\n.\r\n"),
        Ok(format!("From: a@b\r\nSubject: x\r\n{DATE}{ID}\r\nBody\r\n.\r\n"))
    );
    assert_eq!(anyone("From: a@b\r\n.\r\n"), Ok(format!("From: a@b\r\n{DATE}{ID}.\r\n")), "no body");
    assert_eq!(anyone("From: a@b\r\n"), Ok(format!("From: a@b\r\n{DATE}{ID}")));
    let complete = "date : whatever\r\nFROM:\r\n <a@b>\r\nMessage-id: odd\r\nX: \u{1}\r\n \t\r\n\r\n";
    assert_eq!(anyone(complete), Ok(complete.to_owned()), "nothing to mend, octet for octet");
    assert_eq!(
        anyone("Date: \t\r\nMessage-ID:\r\n \r\nFrom: a@b\r\n\r\n"),
        Ok(format!("From: a@b\r\n{DATE}{ID}\r\n")),
        "blank is missing"
    );
}

#[test]
fn takes_out_what_the_recipients_must_not_see() {
    let tail = "From: a@b\r\nDate: x\r\nMessage-ID: <x>\r\n";
    for gone in [
        "Bcc: c@d\r\n",
        "bCC: c@d,\r\n e@f,\r\n\tg@h\r\n",
        "BCC \t: c@d\r\n",
        "Bcc:\r\n",
        ".Bcc: c@d\r\n",
        "Bcc: c@d,\r\n. e@f\r\n",
        "Bcc: c@d\r\nBcc: e@f\r\n",
        "Resent-Bcc: c@d\r\n",
        "return-path: <c@d>\r\n",
    ] {
        assert_eq!(anyone(&format!("{gone}{tail}\r\n")), Ok(format!("{tail}\r\n")), "{gone:?}");
        assert_eq!(anyone(&format!("{tail}{gone}\r\n")), Ok(format!("{tail}\r\n")), "{gone:?}");
    }
    for kept in ["X-Bcc: c@d\r\n", "Bcc-X: c@d\r\n", "..Bcc: c@d\r\n", "To: c@d\r\n Bcc: e@f\r\n"] {
        assert_eq!(anyone(&format!("{kept}{tail}\r\n")), Ok(format!("{kept}{tail}\r\n")), "{kept:?}");
    }
}

#[test]
fn refuses_bad_headers_with_the_reason() {
    let long = format!("From: a@b\r\nX: {}\r\n\r\n", "x".repeat(996));
    let folded = format!("From: a@b\r\nX: {}\r\n {}\r\n\r\n", "x".repeat(995), "x".repeat(997));
    let stuffed = format!("From: a@b\r\n..X: {}\r\n\r\n", "x".repeat(994));
    let huge = format!("From: a@b\r\n{}\r\n", "X: y\r\n".repeat(11_000));
    for (wire, refusal) in [
        ("\r\nBody\r\n", Refusal::NoHeader),
        (".\r\n", Refusal::NoHeader),
        ("", Refusal::NoHeader),
        ("Hello,\r\n\r\n", Refusal::NotAField(1)),
        ("From alice Sat Nov 21\r\nFrom: a@b\r\n\r\n", Refusal::NotAField(1)),
        ("From: a@b\r\nX: y\r\n z\r\nHow are you?\r\n\r\n", Refusal::NotAField(4)),
        (" From: a@b\r\n\r\n", Refusal::Continuation),
        (": x\r\nFrom: a@b\r\n\r\n", Refusal::EmptyName(1)),
        ("From: a@b\r\nX\u{7}: y\r\n\r\n", Refusal::ControlInName(2)),
        ("From: a@b\r\nX: \0\r\n\r\n", Refusal::Nul(2)),
        ("From: a@b\r\nX: a\nBcc: b\r\n\r\n", Refusal::LineEnd(2)),
        ("From: a@b\r\nX: a\rBcc: b\r\n\r\n", Refusal::LineEnd(2)),
        ("From: a@b\r\nX: a", Refusal::LineEnd(2)),
        (&long, Refusal::LineTooLong(2)),
        (&huge, Refusal::TooLarge),
        ("From: a@b\r\nSubject: f\u{fc}r\r\n\r\n", Refusal::EightBit(2)),
        ("Subject: x\r\n\r\n", Refusal::NoFrom),
        ("From:\r\n\r\n", Refusal::NoAddress),
        ("From: Scanner <>\r\n\r\n", Refusal::NoAddress),
        ("From: \"a@b\r\n\r\n", Refusal::Unreadable),
    ] {
        assert_eq!(anyone(wire), Err(refusal), "{wire:?}");
    }
    anyone(&folded).unwrap();
    anyone(&stuffed).unwrap();
    anyone("From: Nobody:;\r\n\r\n").unwrap();
    for name in ONCE {
        let wire =
            format!("From: a@b\r\nMessage-ID: <x>\r\nDate: x\r\n{name}: a@b\r\n{} : a@b\r\n\r\n", name.to_lowercase());
        assert_eq!(anyone(&wire), Err(Refusal::Again(name)));
    }
    for name in ["Received", "Comments", "Keywords", "Resent-To", "DKIM-Signature"] {
        anyone(&format!("From: a@b\r\n{name}: x\r\n{name}: x\r\n\r\n")).unwrap();
    }
}

#[test]
fn a_header_that_was_cut_at_the_bound_is_not_taken_for_a_whole_one() {
    // Cut behind a line: what comes next could be a Bcc.
    let from = "From: a@b\r\n";
    let rest = limits::SUBMISSION_HEADER_BYTES - from.len();
    let fill: String = "X: yyy\r\n".repeat(rest / 8 - 1);
    let last = format!("X: {}\r\n", "y".repeat(rest - fill.len() - 5));
    let cut = format!("{from}{fill}{last}");
    assert_eq!(cut.len(), limits::SUBMISSION_HEADER_BYTES);
    assert_eq!(anyone(&cut), Err(Refusal::TooLarge));
    anyone(&format!("{cut}\r\n")).unwrap();
    assert_eq!(anyone(&format!("{cut}X: y\r\n\r\n")), Err(Refusal::TooLarge));
}

#[test]
fn smtputf8_allows_utf8_and_nothing_else() {
    let date = *DateCache::default().text(Wall(0));
    let facts = Submission { utf8: true, ..facts(&date, None, "") };
    clean_up("From: <j\u{fc}rgen@b\u{fc}cher.example>\r\n\r\n".as_bytes(), &facts, &mut Vec::new()).unwrap();
    let latin1 = clean_up(b"From: a@b\r\nX: f\xfcr\r\n\r\n", &facts, &mut Vec::new());
    assert_eq!(latin1, Err(Refusal::NotUtf8(2)));
    let name = clean_up("From: a@b\r\n\u{fc}: x\r\n\r\n".as_bytes(), &facts, &mut Vec::new());
    assert_eq!(name, Err(Refusal::NotAField(2)), "names stay US-ASCII (RFC 6532 section 3)");
}

const ADD: SenderPolicy = SenderPolicy::AddSender;
const REQUIRE: SenderPolicy = SenderPolicy::Require;

fn head(fields: &str) -> String {
    format!("{fields}Date: x\r\nMessage-ID: <x>\r\n")
}

#[test]
fn what_names_the_account_is_left_alone() {
    for fields in [
        "From: alice@example.com\r\n",
        "From: \"The Boss, <boss@x>\" <ALICE@example.com> (boss@x)\r\n",
        "From: \"alice\"@example.com, any@alice.example\r\n",
        "From: boss@x\r\nSender: alice@example.com\r\n",
        "Sender: Alice\r\n <alice@example.com>\r\nFrom: boss@x\r\n",
        "Resent-From: alice@example.com\r\nFrom: boss@x\r\nSender: list@x\r\n",
        "From: team: boss@x;\r\nSender: login@example.com\r\n",
        "From: alice@example.com\r\nSender: any@alice.example\r\n",
        "From: alice@example.com\r\nSender: \t\r\n",
        "Resent-From: alice@example.com\r\nFrom: alice@example.com\r\nSender: list@x\r\n",
    ] {
        let wire = format!("{}\r\n", head(fields));
        for policy in [ADD, REQUIRE] {
            let result = run(&wire, Some(("login@example.com", policy)), "alice@example.com");
            assert_eq!(result.as_ref(), Ok(&wire), "{fields:?} {policy:?}");
        }
    }
}

#[test]
fn what_does_not_gets_a_sender_or_is_refused() {
    for (fields, kept, other) in [
        ("From: boss@x\r\n", "From: boss@x\r\n", "boss@x"),
        ("From: alice@example.com, boss@x\r\n", "From: alice@example.com, boss@x\r\n", "boss@x"),
        ("From: boss@x <alice@example.com>\r\n", "From: boss@x <alice@example.com>\r\n", "boss@x"),
        ("Sender: boss@x\r\nFrom: boss@x\r\n", "From: boss@x\r\n", "boss@x"),
        ("sender : boss@x,\r\n alice@example.com\r\nFrom: boss@x\r\n", "From: boss@x\r\n", "boss@x"),
        ("From: boss@x\r\nSender: \"\r\n", "From: boss@x\r\n", "boss@x"),
        ("From: Nobody:;\r\n", "From: Nobody:;\r\n", "a group"),
        // Sender is who is responsible, whatever From says (RFC 5322 section 3.6.2).
        ("From: alice@example.com\r\nSender: boss@x\r\n", "From: alice@example.com\r\n", "boss@x"),
        ("Sender: any@alice.example, boss@x\r\nFrom: alice@example.com\r\n", "From: alice@example.com\r\n", "boss@x"),
        ("Sender: team: boss@x;\r\nFrom: alice@example.com\r\n", "From: alice@example.com\r\n", "boss@x"),
        ("From: alice@example.com\r\nSender: boss@x (\r\n", "From: alice@example.com\r\n", "boss@x ("),
        (
            "Resent-From: boss@x\r\nSender: boss@x\r\nFrom: alice@example.com\r\n",
            "Resent-From: boss@x\r\nFrom: alice@example.com\r\n",
            "boss@x",
        ),
    ] {
        let wire = format!("{}\r\n", head(fields));
        let refusal = |account: &str, address: &str| {
            Err(Refusal::NotYours { account: account.to_owned(), address: address.to_owned() })
        };
        let with = |address: &str| Ok(format!("{}Sender: {address}\r\n\r\n", head(kept)));
        // The account's name where it is an address, else the reverse-path, if it may use that.
        assert_eq!(
            run(&wire, Some(("login@example.com", ADD)), "alice@example.com"),
            with("login@example.com"),
            "{fields:?}"
        );
        assert_eq!(run(&wire, Some(("login@example.com", ADD)), ""), with("login@example.com"));
        assert_eq!(run(&wire, Some(("alice", ADD)), "alice@example.com"), with("alice@example.com"));
        assert_eq!(run(&wire, Some(("alice", ADD)), ""), refusal("alice", other));
        assert_eq!(run(&wire, Some(("alice\r\nX: y@z", ADD)), ""), refusal("alice??X: y@z", other));
        assert_eq!(run(&wire, Some(("login@example.com", ADD)), "boss@x"), refusal("login@example.com", "boss@x"));
        assert_eq!(
            run(&wire, Some(("login@example.com", REQUIRE)), "alice@example.com"),
            refusal("login@example.com", other)
        );
    }
}

#[test]
fn mail_that_is_not_mended_must_name_the_account_too() {
    let date = *DateCache::default().text(Wall(0));
    let check = |fields: &str, path: &str| {
        // No policy puts anything in here.
        let facts = facts(&date, Some(("alice", ADD)), path);
        check_sender(format!("{fields}\r\nFrom: boss@x\r\n.\r\n").as_bytes(), &facts)
    };
    for fields in [
        "",
        "Subject: it names nobody\r\n",
        "From: alice@example.com\r\n",
        "From alice Sat Nov 21\r\nFrom: alice@example.com\r\nSubject: gr\u{fc}n\r\nfolded:\r\n From: boss@x\r\n",
        "From: alice@example.com\r\nSender: any@alice.example\r\nFrom: any@alice.example\r\n",
        "From: boss@x\r\nSender: alice@example.com\r\n",
        "From: boss@x\r\nSender: boss@x\r\nResent-From: alice@example.com\r\n",
    ] {
        assert_eq!(check(fields, "alice@example.com"), Ok(()), "{fields:?}");
    }
    for fields in [
        "From: boss@x\r\n",
        "from : boss@x\r\n",
        ".From: boss@x\r\n",
        "From: alice@example.com\r\nno field\r\nFrom: boss@x\r\n",
        "From: alice@example.com, boss@x\r\n",
        "From: alice@example.com\r\nSender: boss@x\r\n",
        "Sender: boss@x\r\n",
        "From: alice@example.com\r\nSender: alice@example.com\r\nSender: boss@x\r\n",
        "From: boss@x\r\nSender: boss@x\r\nSender: alice@example.com\r\n",
    ] {
        let refusal = Refusal::NotYours { account: "alice".to_owned(), address: "boss@x".to_owned() };
        assert_eq!(check(fields, "alice@example.com"), Err(refusal), "{fields:?}");
    }
    assert_eq!(check("From: \"alice@example.com\r\n", ""), Err(Refusal::Unreadable));
    assert_eq!(check("From: alice\r\n", ""), Err(Refusal::NoAddress));
    assert_eq!(check("X: y\nFrom: boss@x\r\n", ""), Err(Refusal::LineEnd(1)), "of a binary body");
    let fill = "X: y\r\n".repeat(limits::SUBMISSION_HEADER_BYTES / 6 + 1);
    assert_eq!(check(&fill, ""), Err(Refusal::TooLarge));
    check_sender(format!("{fill}From: boss@x\r\n\r\n").as_bytes(), &facts(&date, None, "")).unwrap();
}

#[test]
fn replies_fit_their_line() {
    let long = quote(&[0xff; 400]);
    let mut all = vec![
        Refusal::NoHeader,
        Refusal::TooLarge,
        Refusal::Continuation,
        Refusal::NoFrom,
        Refusal::NoAddress,
        Refusal::Unreadable,
        Refusal::NotYours { account: long.clone(), address: long },
    ];
    all.extend(ONCE.map(Refusal::Again));
    let numbered: [fn(usize) -> Refusal; 8] = [
        Refusal::NotAField,
        Refusal::EmptyName,
        Refusal::ControlInName,
        Refusal::Nul,
        Refusal::LineEnd,
        Refusal::LineTooLong,
        Refusal::EightBit,
        Refusal::NotUtf8,
    ];
    all.extend(numbered.map(|make| make(limits::SUBMISSION_HEADER_BYTES)));
    for refusal in all {
        let reply = refusal.reply();
        let text = reply.strip_suffix("\r\n").unwrap();
        assert!(reply.len() <= 512 && text.bytes().all(|b| matches!(b, b' '..=b'~')), "{reply}");
        let (code, text) = text.split_once(' ').unwrap();
        assert!(matches!(code, "550" | "552"), "{reply}");
        let status = crate::message::Status::parse(text.as_bytes()).unwrap();
        assert_eq!(status.class(), 5, "{reply}");
    }
}
