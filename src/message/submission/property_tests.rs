//! Properties of the clean-up, on headers made of what tries to get around it.
#![allow(clippy::unwrap_used)]

use super::tests::{facts, may};
use super::*;
use crate::message::trace::DateCache;
use crate::properties::{cases, hostile};
use crate::time::Wall;
use proptest::prelude::*;

const NAMES: &[&str] = &[
    "From",
    "Date",
    "Message-ID",
    "Sender",
    "Bcc",
    "Resent-Bcc",
    "Return-Path",
    "To",
    "Cc",
    "Subject",
    "Received",
    "X-Y",
    "Resent-From",
    "Reply-To",
];

/// A field of such a name, in odd case, stuffed or not, with white space and folds, and any value.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(NAMES).prop_flat_map(
        |name| prop_oneof![3 => Just(name.to_owned()), 1 => Just(name.to_uppercase()), 1 => Just(format!(".{name}"))],
    );
    let value = prop_oneof![
        4 => prop::sample::select(vec![
            " alice@example.com", " boss@x", " A <any@alice.example>, boss@x", "", " g:;", "\r\n boss@x", ". x", " \"",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => "[ -~]{0,30}".prop_map(String::into_bytes),
    ];
    (
        name,
        prop::sample::select(vec!["", " ", "\t"]),
        value,
        prop::sample::select(vec!["", "\r\n z", "\r\n\t", "\r\n. "]),
    )
        .prop_map(|(name, blank, value, fold)| {
            [name.as_bytes(), blank.as_bytes(), b":", &value, fold.as_bytes(), b"\r\n"].concat()
        })
}

fn header() -> impl Strategy<Value = Vec<u8>> {
    let from = Just(b"From: alice@example.com\r\n".to_vec());
    let fields = (prop::option::weighted(0.7, from), prop::collection::vec(field(), 0..8))
        .prop_map(|(from, fields)| [from.unwrap_or_default(), fields.concat()].concat());
    let header = prop_oneof![
        8 => fields,
        1 => hostile(200),
        1 => (prop::collection::vec(field(), 0..3), hostile(60)).prop_map(|(f, h)| [f.concat(), h].concat()),
    ];
    (header, prop::sample::select(vec![&b"\r\n"[..], b"\r\nBcc: in the body\r\n.\r\n", b".\r\n", b""]))
        .prop_map(|(header, end)| [&header[..], end].concat())
}

fn account() -> impl Strategy<Value = Option<(&'static str, SenderPolicy)>> {
    let policy = prop::sample::select(vec![SenderPolicy::AddSender, SenderPolicy::Require]);
    prop::option::of((
        prop::sample::select(vec!["alice@example.com", "login@example.com", "alice", "", "\"x y\"@z"]),
        policy,
    ))
}

/// Names in lower case, and raw octets, of every field.
fn all(section: &[u8]) -> Vec<(String, Vec<u8>)> {
    fields::fields(section)
        .map(|f| (String::from_utf8(f.name().unwrap().to_ascii_lowercase()).unwrap(), f.raw.to_vec()))
        .collect()
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn property_the_output_has_the_same_fields_but_for_the_rules(
        wire in header(), account in account(), path in prop::sample::select(vec!["", "alice@example.com", "boss@x"]), utf8 in any::<bool>(),
    ) {
        let date = *DateCache::default().text(Wall(1_795_304_389_000));
        let facts = Submission { utf8, ..facts(&date, account, path) };
        let mut out = Vec::new();
        if let Err(refusal) = clean_up(&wire, &facts, &mut out) {
            prop_assert!(out.is_empty());
            prop_assert!(refusal.reply().len() <= 512);
            return Ok(());
        }
        // Nothing to do the second time.
        let mut again = Vec::new();
        prop_assert_eq!(clean_up(&out, &facts, &mut again), Ok(()));
        prop_assert_eq!(&again, &out);

        let (before, rest) = wire.split_at(fields::section_len(&wire));
        let (after, rest_after) = out.split_at(fields::section_len(&out));
        prop_assert_eq!(rest, rest_after);
        let (before, after) = (all(before), all(after));
        let count = |fields: &[(String, Vec<u8>)], name: &str| fields.iter().filter(|(own, _)| own == name).count();
        for gone in ["bcc", "resent-bcc", "return-path"] {
            prop_assert_eq!(count(&after, gone), 0);
        }
        for one in ["date", "message-id", "from"] {
            prop_assert_eq!(count(&after, one), 1, "{}", one);
        }
        // What was kept stands in the same order; what is new stands behind it.
        let kept: Vec<_> = after.iter().filter(|field| before.contains(field)).cloned().collect();
        prop_assert_eq!(&after[..kept.len()], &kept[..]);
        let added: Vec<&str> = after[kept.len()..].iter().map(|(name, _)| name.as_str()).collect();
        prop_assert!(added.iter().all(|name| ["date", "message-id", "sender"].contains(name)), "{:?}", added);
        // What went is one of those that go, or has another in its place.
        for (name, raw) in before.iter().filter(|field| !after.contains(field)) {
            let blank = ["date", "message-id"].contains(&name.as_str());
            let replaced = (name == "sender" || blank) && added.contains(&name.as_str());
            prop_assert!(replaced || ["bcc", "resent-bcc", "return-path"].contains(&name.as_str()), "{:?}", raw);
        }
        for (_, raw) in &after[kept.len()..] {
            prop_assert!(raw.ends_with(b"\r\n") && raw.len() <= limits::MESSAGE_LINE_BYTES && raw.is_ascii());
            prop_assert_eq!(raw.iter().filter(|b| **b == b'\n').count(), 1);
        }
        // The one promise about identity: somebody whom the account may name is named.
        if let Some((name, _)) = account {
            let named = |fields: &[&str]| {
                after.iter().filter(|(own, _)| fields.contains(&own.as_str())).any(|(_, raw)| {
                    let value = fields::fields(raw).next().unwrap().value();
                    let list = address_list::parse(&value).unwrap_or_default().mailboxes;
                    !list.is_empty() && list.iter().all(|a| may(a) || a == name.as_bytes())
                })
            };
            let from_is_own = all(out.split_at(fields::section_len(&out)).0).iter().filter(|(own, _)| own == "from").all(|(_, raw)| {
                let list = address_list::parse(&fields::fields(raw).next().unwrap().value()).unwrap();
                !list.mailboxes.is_empty() && list.mailboxes.iter().all(|a| may(a))
            });
            prop_assert!(from_is_own || named(&["sender", "resent-sender", "resent-from"]));
            // Nor is another named as who is responsible.
            let blank = |raw: &[u8]| fields::fields(raw).next().is_some_and(|f| f.value().trim_ascii().is_empty());
            let has_sender = after.iter().any(|(own, raw)| own == "sender" && !blank(raw));
            prop_assert!(!has_sender || named(&["sender"]) || named(&["resent-sender"]) || named(&["resent-from"]));
        }
    }

    #[test]
    fn property_no_bytes_make_it_panic(wire in prop_oneof![hostile(300), prop::collection::vec(any::<u8>(), 0..200)], utf8 in any::<bool>()) {
        let date = *DateCache::default().text(Wall(0));
        let facts = Submission { utf8, ..facts(&date, Some(("a@b", SenderPolicy::AddSender)), "") };
        let mut out = Vec::new();
        if clean_up(&wire, &facts, &mut out).is_ok() {
            prop_assert!(out.len() <= wire.len() + 256);
        }
    }
}
