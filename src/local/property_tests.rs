//! Properties of tables made of any files, and of Maildir's names and octets.
#![allow(clippy::unwrap_used)]

use super::maildir::{Layout, ToStored, Unique, preface, was_delivered};
use super::tests::block;
use super::*;
use crate::limits::{LOCAL_EXPANSION_ADDRESSES, LOCAL_PROBLEMS, MAILDIR_NAME_BYTES, MAILDIR_PATH_BYTES};
use crate::properties::{cases, cuts, hostile, pieces};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Aliases between the names `a` to `f`, some of them mailboxes, some in the other domain, some far away.
fn graph() -> impl Strategy<Value = (Vec<(char, Vec<String>)>, BTreeSet<char>)> {
    let name = || prop::sample::select(vec!['a', 'b', 'c', 'd', 'e', 'f']);
    let target = prop_oneof![
        4 => name().prop_map(|n| n.to_string()),
        2 => name().prop_map(|n| format!("{n}@two.example")),
        1 => name().prop_map(|n| format!("{n}@far.example")),
    ];
    let alias = (name(), prop::collection::vec(target, 1..5));
    (prop::collection::btree_map(name(), alias, 0..6), prop::collection::btree_set(name(), 0..6))
        .prop_map(|(aliases, boxes)| (aliases.into_iter().map(|(name, (_, targets))| (name, targets)).collect(), boxes))
}

/// Addresses that can be reached: names of ours (domain, name) and far ones. A search that knows nothing of order.
fn reached(aliases: &[(char, Vec<String>)], domain: &str, name: char) -> (BTreeSet<(String, char)>, BTreeSet<String>) {
    let mut names = BTreeSet::new();
    let mut far = BTreeSet::new();
    let mut open = vec![(domain.to_owned(), name)];
    while let Some((domain, name)) = open.pop() {
        if !names.insert((domain.clone(), name)) {
            continue;
        }
        for target in aliases.iter().filter(|(own, _)| *own == name).flat_map(|(_, targets)| targets) {
            match target.split_once('@') {
                Some((_, "far.example")) => drop(far.insert(target.clone())),
                Some((local, domain)) => open.push((domain.to_owned(), local.chars().next().unwrap())),
                None => open.push((domain.clone(), target.chars().next().unwrap())),
            }
        }
    }
    (names, far)
}

/// Wire form of a text with LF line ends, by its definition.
fn wire(text: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for line in text.split_inclusive(|b| *b == b'\n') {
        if line.first() == Some(&b'.') {
            wire.push(b'.');
        }
        wire.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        if line.ends_with(b"\n") {
            wire.extend_from_slice(b"\r\n");
        }
    }
    wire
}

fn stored<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    let mut convert = ToStored::default();
    pieces.into_iter().for_each(|piece| convert.feed(piece, &mut out));
    let ended = convert.finish(&mut out);
    (out, ended)
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn property_expansion_reaches_what_can_be_reached_once((aliases, boxes) in graph()) {
        let domains = ["one.example".to_owned(), "two.example".to_owned()];
        let mailboxes: String = boxes.iter().map(|name| format!("{name}\n")).collect();
        let text: String = aliases.iter().map(|(name, targets)| format!("{name}: {}\n", targets.join(", "))).collect();
        let table = LocalTable::build(&[block(&domains, Some(&mailboxes), &text)]).unwrap().table;
        for domain in ["one.example", "two.example"] {
            for name in 'a'..='f' {
                let resolution = table.resolve(domain.as_bytes(), name.to_string().as_bytes());
                prop_assert_eq!(&resolution, &table.resolve(domain.as_bytes(), name.to_string().as_bytes()));
                let is_alias = |name: char| aliases.iter().any(|(own, _)| *own == name);
                if !is_alias(name) {
                    prop_assert_eq!(matches!(resolution, Resolution::Mailbox(_)), boxes.contains(&name));
                    continue;
                }
                let members = match resolution {
                    Resolution::Addresses(expansion) => expansion.members,
                    other => {
                        prop_assert_eq!(other, Resolution::Unknown);
                        Vec::new()
                    }
                };
                let (names, far) = reached(&aliases, domain, name);
                let mut got_far = BTreeSet::new();
                let mut got_boxes = BTreeSet::new();
                for member in members {
                    match member.to {
                        Destination::Relayed(address) => prop_assert!(got_far.insert(String::from_utf8(address).unwrap())),
                        Destination::Mailbox(mailbox) => {
                            let at = String::from_utf8(mailbox.domain).unwrap();
                            prop_assert!(got_boxes.insert((at, char::from(mailbox.name[0]))), "twice");
                        }
                    }
                }
                prop_assert_eq!(got_far, far);
                // Every mailbox that is no alias; and of those that are, some: where the way comes back to them.
                for (at, own) in &names {
                    let expected = boxes.contains(own) && !is_alias(*own);
                    prop_assert!(!expected || got_boxes.contains(&(at.clone(), *own)), "{}@{} is left out", own, at);
                }
                for (at, own) in got_boxes {
                    prop_assert!(boxes.contains(&own) && names.contains(&(at, own)));
                }
            }
        }
    }

    #[test]
    fn property_any_files_make_a_table_or_errors_with_lines(
        aliases in prop_oneof![
            hostile(300).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
            "([a-c@\"\\\\|/:, \t#+]{0,12}\n?){0,12}",
        ],
        mailboxes in prop::option::of("([a-c\"\\\\ @+#]{0,6}\n){0,6}"),
        local_part in hostile(30),
        argument in hostile(60),
    ) {
        let domains = ["here.example".to_owned()];
        match LocalTable::build(&[block(&domains, mailboxes.as_deref(), &aliases)]) {
            Err(problems) => {
                prop_assert!(!problems.is_empty() && problems.len() <= LOCAL_PROBLEMS);
                for problem in problems {
                    let text = if problem.file == "aliases" { &aliases } else { mailboxes.as_ref().unwrap() };
                    prop_assert!((1..=text.lines().count()).contains(&problem.line), "{}", problem);
                    prop_assert!(!problem.message.contains(char::is_control), "{}", problem);
                }
            }
            Ok(Loaded { table, .. }) => {
                for local_part in [&local_part[..], b"a", b"b+c", b"\"c\""] {
                    if let Resolution::Addresses(expansion) = table.resolve(b"here.example", local_part) {
                        prop_assert!((1..=LOCAL_EXPANSION_ADDRESSES).contains(&expansion.members.len()));
                    }
                }
                for argument in [&argument[..], b"a", b"a@here.example"] {
                    if let Verified::Known(text) = table.verify(argument) {
                        prop_assert!(text.len() < 500 && text.bytes().all(|b| matches!(b, b' '..=b'~')));
                    }
                    table.expand(argument);
                }
            }
        }
    }

    #[test]
    fn property_folders_stay_below_their_place(
        domain in prop_oneof![hostile(300), "[a-z./]{0,6}".prop_map(String::into_bytes)],
        mailbox in prop_oneof![hostile(300), "[a-z./]{0,6}".prop_map(String::into_bytes)],
        template in prop::sample::select(vec![
            "/m/{domain}/{mailbox}", "/m/{mailbox}/", "/m/{domain}-{mailbox}/Maildir", "/m/{mailbox}{domain}", "/m/x{mailbox}/../y",
        ]),
    ) {
        let Ok(layout) = Layout::parse(template) else {
            prop_assert!(template.contains(".."));
            return Ok(());
        };
        if let Ok(folder) = layout.folder(&domain, &mailbox) {
            let names: Vec<&str> = folder.strip_prefix("/m/").unwrap().split('/').collect();
            prop_assert_eq!(names.len(), template.trim_end_matches('/').matches('/').count() - 1);
            prop_assert!(names.iter().all(|name| !matches!(*name, "" | "." | "..") && name.len() <= MAILDIR_NAME_BYTES));
            prop_assert!(folder.len() <= MAILDIR_PATH_BYTES && !folder.contains(char::is_control));
        }
    }

    #[test]
    fn property_file_names_are_names(seconds in any::<u64>(), micros in 0..1_000_000u32, process in any::<u32>(), sequence in any::<u64>(), host in hostile(300)) {
        let host = String::from_utf8_lossy(&host).into_owned();
        let name = Unique { seconds, micros, process, sequence, host: &host }.file_name();
        prop_assert!(name.len() + ",S=".len() + 20 + ":2,DFPRST".len() <= MAILDIR_NAME_BYTES);
        prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-\\".contains(&b)), "{}", name);
        let next = Unique { seconds, micros, process, sequence: sequence.wrapping_add(1), host: &host }.file_name();
        prop_assert_ne!(name, next);
    }

    #[test]
    fn property_stored_form_is_the_text_and_splits_do_not_matter(text in hostile(200), cuts in cuts()) {
        // Text of lines that end with LF; a CR of its own may stand anywhere but before that.
        let mut text = text;
        text.push(b'\n');
        let text = text.split(|b| *b == b'\n').map(|l| [l.trim_ascii_end(), b"\n"].concat()).collect::<Vec<_>>().concat();
        let whole = [&wire(&text)[..], b".\r\n"].concat();
        prop_assert_eq!(stored([&whole[..]]), (text.clone(), true));
        prop_assert_eq!(stored(pieces(&whole, &cuts)), (text.clone(), true));
        let behind = [&whole[..], b"QUIT\r\n"].concat();
        prop_assert_eq!(stored(pieces(&behind, &cuts)), (text, true));
    }

    #[test]
    fn property_any_octets_convert_alike_in_any_pieces(text in hostile(200), cuts in cuts()) {
        let (out, ended) = stored([&text[..]]);
        prop_assert!(out.len() <= text.len());
        prop_assert_eq!(stored(pieces(&text, &cuts)), (out, ended));
    }

    #[test]
    fn property_what_was_delivered_is_seen(path in "[ -~]{0,20}", address in "[!-~]{1,20}", rest in hostile(100)) {
        let text = preface(path.as_bytes(), address.as_bytes());
        prop_assert_eq!(text.iter().filter(|b| **b == b'\n').count(), 2);
        let whole = [&wire(&text)[..], b"From: x\r\n", &rest].concat();
        prop_assert!(was_delivered(&whole, address.to_ascii_uppercase().as_bytes()));
        let other = format!("{address}x");
        prop_assert!(!was_delivered(&wire(&text), other.as_bytes()));
        was_delivered(&rest, address.as_bytes());
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    use super::maildir::NoFolder;
    let layout = Layout::parse("/var/mail/{domain}/{mailbox}/Maildir/").unwrap();
    let folder = |domain: &[u8], mailbox: &[u8]| layout.folder(domain, mailbox);
    assert_eq!(folder(b"x.example", b"two words"), Ok("/var/mail/x.example/two words/Maildir".to_owned()));
    assert_eq!(
        folder(b"x.example", "j\u{fc}rgen".as_bytes()),
        Ok("/var/mail/x.example/j\u{fc}rgen/Maildir".to_owned())
    );
    for bad in [&b".."[..], b".", b".x", b"", b"a/b", b"/", b"a\0", b"a\nb", b"a\x7f"] {
        assert_eq!(folder(b"x.example", bad), Err(NoFolder::Name), "{bad:?}");
        assert_eq!(folder(bad, b"x"), Err(NoFolder::Name), "{bad:?}");
    }
    assert_eq!(folder(b"x", b"\xff"), Err(NoFolder::Encoding));
    assert_eq!(folder(b"x", &[b'x'; 256]), Err(NoFolder::TooLong));
    let long = Layout::parse("/m/{domain}-{mailbox}").unwrap();
    assert_eq!(long.folder(&[b'd'; 200], &[b'm'; 60]), Err(NoFolder::TooLong));
    for bad in [
        "",
        "m/{mailbox}",
        "/m",
        "/m/{domain}",
        "/m/{user}/{mailbox}",
        "/m/{mailbox",
        "/../{mailbox}",
        "/m/}{mailbox}",
        "/m\0/{mailbox}",
    ] {
        assert!(Layout::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn file_names_as_the_specification_has_them() {
    let name = |host| Unique { seconds: 1_795_304_389, micros: 42, process: 7, sequence: 3, host }.file_name();
    assert_eq!(name("mx.example"), "1795304389.M42P7Q3.mx.example");
    assert_eq!(name("a/b:c,d"), "1795304389.M42P7Q3.a\\057b\\072c\\054d");
}
