#![allow(clippy::unwrap_used)]

use super::check::{answer, scram_keys, verify_password};
use super::secret::work;
use super::*;
use crate::limits::SECRET_COSTS;
use crate::smtp::sasl::{Answer, Password, Question, ScramKeys};

const KEY: [u8; KEY_BYTES] = [7; KEY_BYTES];

fn password(text: &str) -> Password {
    Password::new(text.as_bytes()).unwrap()
}

/// A secret of the password `pencil`, as cheap as they may be.
fn scram(iterations: u32) -> String {
    Secret::Scram(ScramKeys::derive(&password("pencil"), &[1; 16], iterations)).encode()
}

/// One of 1 MiB, of no password.
fn argon2id() -> String {
    let decoy = Secret::decoy(Cost::Argon2id { kib: 1024, passes: 1, lanes: 1, length: 32 }, [3; 32]);
    decoy.encode()
}

fn account(name: &str, more: &str) -> String {
    format!("[[account]]\nname = \"{name}\"\nfrom = [\"{name}@example.com\"]\n{more}\n")
}

fn with_secret(name: &str, secret: &str) -> String {
    account(name, &format!("secret = \"{secret}\""))
}

fn parse(text: &str) -> Accounts {
    Accounts::parse("accounts.toml", text, KEY).unwrap()
}

#[track_caller]
fn problem(text: &str) -> String {
    let problems = Accounts::parse("accounts.toml", text, KEY).unwrap_err();
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_sample_is_a_good_file_and_explains_every_key() {
    let sample = include_str!("../../config/accounts.toml");
    assert!(parse(sample).iter().len() == 0, "nothing in it counts as it is");
    let mut live = String::new();
    for line in sample.lines() {
        let text = line.strip_prefix('#').unwrap_or(line);
        let is_key = text.starts_with("[[") || text.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        live += if is_key { text } else { line };
        live.push('\n');
    }
    let accounts = Accounts::parse("sample", &live, KEY).unwrap();
    let name = accounts.iter().next().unwrap().name();
    assert!(verify_password(&accounts, name, &password("pencil")), "the password it names");
    assert!(accounts.iter().len() >= 2 && accounts.warnings().is_empty(), "{:?}", accounts.warnings());
    for key in ["decoy_key", "name", "secret", "from", "certificate", "disabled"]
        .into_iter()
        .chain(Rates::default().named().map(|(key, _)| key))
    {
        assert!(live.lines().any(|line| line.starts_with(&format!("{key} = "))), "{key}");
    }
}

#[test]
fn everything_wrong_is_told_with_its_place() {
    let good = with_secret("ann", &scram(4096));
    for (text, said) in [
        ("x = 1".to_owned(), "accounts.toml:1:1: unknown field `x`"),
        (good.clone() + "limit = 1", "accounts.toml:5:1: unknown field `limit`"),
        (good.clone() + "disabled = 1", "accounts.toml:5:12: invalid type"),
        (good.replace("name", "#name"), "missing field `name`"),
        (good.replace("\"ann\"", "\"\""), ":2:8: name: is empty"),
        (good.replace("\"ann\"", "\"a\\u0007\""), ":2:8: name: has a character"),
        (good.replace("from", "#from"), ":1:1: from: is missing"),
        (good.replace("[\"ann@example.com\"]", "[]"), ":3:8: from: is missing"),
        (good.replace("secret", "#secret"), ":1:1: account: has neither"),
        (with_secret("ann", "hunter2"), ":4:10: secret: is neither"),
        (good.clone() + &with_secret("kurt", &scram(4096)) + &good, ":10:8: name: \"ann\" stands there twice"),
        // One name in two writings.
        (with_secret("IX", &scram(4096)) + &with_secret("\u{2168}", &scram(4096)), "twice"),
        (account("a", "certificate = \"00\""), ":4:15: certificate: is not a SHA-256"),
        (account("a", &format!("certificate = \"{}\"", "+1".repeat(32))), "certificate: is not"),
        (good.clone() + "messages_per_day = 0", ":5:20: messages_per_day: is not a whole number from 1"),
        (good.clone() + "recipients_per_minute = 1000000001", "recipients_per_minute: is not"),
        ("decoy_key = \"AAAA\"".into(), ":1:13: decoy_key: is not 32 octets"),
        (good.replace("\"ann@example.com\"]", "\"x\"]"), ":3:9: from: \"x\" is none of"),
    ] {
        let found = problem(&text);
        assert!(found.contains(said), "{said} in:\n{found}\nof\n{text}");
        assert!(!found.contains("hunter2") && !found.contains("SCRAM-SHA-256$4096"), "{found}");
    }
    let print = format!("certificate = \"{}\"", "AB:".repeat(31) + "ab");
    let twice = account("a", &print) + &account("b", &format!("certificate = \"{}\"", "ab".repeat(32)));
    assert!(problem(&twice).contains(":8:15: certificate: belongs to \"a\" already"));
    assert!(problem(&good.replace("\"SCRAM", "SCRAM")).len() < 200, "a secret without quotes is not shown");
    // All of several problems at once, but no more than anyone reads.
    assert_eq!(problem("[[account]]\nname = \"\"\n".repeat(50).as_str()).lines().count(), 20);
}

#[test]
fn numbers_are_bounded() {
    let costs: String = (0..SECRET_COSTS as u32).map(|n| with_secret(&format!("a{n}"), &scram(4096 + n))).collect();
    assert_eq!(parse(&costs).decoys.comparisons(), SECRET_COSTS);
    assert!(problem(&(costs + &with_secret("z", &scram(5000)))).contains("different costs"));
    let senders = |n| format!("[[account]]\nname=\"a\"\nsecret=\"{}\"\nfrom=[{}]", scram(4096), "\"a@b.c\",".repeat(n));
    parse(&senders(crate::limits::ACCOUNT_SENDERS));
    assert!(problem(&senders(crate::limits::ACCOUNT_SENDERS + 1)).contains("more than 256 entries"));
    let long = " ".repeat(usize::try_from(crate::limits::ACCOUNTS_FILE_BYTES).unwrap() + 1);
    assert!(problem(&long).contains("is longer than"));
}

#[test]
fn entries_of_from_are_addresses_domains_or_signs() {
    let with = |entry: &str| {
        let text = format!("[[account]]\nname = 'a'\nsecret = '{}'\nfrom = ['{entry}']\n", scram(4096));
        Accounts::parse("x", &text, KEY)
    };
    for good in
        ["a@b.example", "@b.example", "<>", "*", "\"a b\"@b.example", "@[192.0.2.1]", "gr\u{fc}n@b\u{fc}cher.example"]
    {
        assert_eq!(with(good).unwrap().get("a").unwrap().senders().collect::<Vec<_>>(), [good]);
    }
    for bad in [
        "",
        "a",
        "@",
        "a@",
        "*@b.example",
        "a@*",
        "@.example",
        "@b..c",
        "<a@b.example>",
        "a b@c",
        "a@b.example>",
        "@a:b@c.example",
        "postmaster",
        "a@b@c.example",
        "\u{fc} x@b.example",
        "@b\u{fc}.example>",
        "**",
    ] {
        assert!(with(bad).is_err(), "{bad}");
    }
}

#[test]
fn an_account_sends_as_what_its_list_says() {
    let with = |from: &str| parse(&format!("[[account]]\nname = \"a\"\nsecret = \"{}\"\nfrom = {from}\n", scram(4096)));
    let may = |from: &str, path: &str| with(from).may_send_as("a", path.as_bytes());
    let list = "[\"Ann@Example.com\", \"@b.example\"]";
    for path in ["ann@example.com", "ANN@EXAMPLE.COM", "any.one@B.example", "\"x@y\"@b.example"] {
        assert!(may(list, path), "{path}");
    }
    for path in [
        "",
        "bob@example.com",
        "ann@example.org",
        "ann@x.example.com",
        "x@sub.b.example",
        "x@ab.example",
        "b.example",
        "@b.example@c.example",
        "x@b.example.",
        "\"ann\"@example.com",
        "annn@example.com",
        "Postmaster",
    ] {
        assert!(!may(list, path), "{path}");
    }
    assert!(may("[\"*\"]", "x@y.z") && !may("[\"*\"]", ""));
    assert!(may("[\"<>\"]", "") && !may("[\"<>\"]", "x@y.z"));
    assert!(!with("[\"*\"]").may_send_as("b", b"x@y.z"));
    let disabled = parse(&(with_secret("a", &scram(4096)) + "disabled = true\n"));
    assert!(!disabled.may_send_as("a", b"a@example.com"));
}

#[test]
fn passwords_are_checked_against_their_accounts_only() {
    let text = with_secret("ann", &scram(4096))
        + &with_secret("bob", &Secret::new(Scheme::Argon2id, &password("tea"), [2; 16]).encode())
        + &with_secret("off", &scram(4096))
        + "disabled = true\n"
        + &account("cert", &format!("certificate = \"{}\"", "ab".repeat(32)));
    let accounts = parse(&text);
    for (name, word, right) in [
        ("ann", "pencil", true),
        ("ann", "Pencil", false),
        ("Ann", "pencil", false),
        ("bob", "tea", true),
        ("bob", "pencil", false),
        ("off", "pencil", false),
        ("cert", "pencil", false),
        ("nobody", "pencil", false),
    ] {
        assert_eq!(verify_password(&accounts, name, &password(word)), right, "{name} {word}");
    }
    let question = Question::Password { account: "ann".into(), password: password("pencil") };
    assert!(matches!(answer(&accounts, &question, None), Answer::Password(true)));
    let owner = |print: Option<&Fingerprint>| answer(&accounts, &Question::Certificate, print);
    assert!(matches!(owner(Some(&[0xab; 32])), Answer::Certificate(Some(name)) if name == "cert"));
    assert!(matches!(owner(Some(&[0xac; 32])), Answer::Certificate(None)));
    assert!(matches!(owner(None), Answer::Certificate(None)));
    let disabled = parse(&(account("c", &format!("certificate = \"{}\"", "ab".repeat(32))) + "disabled = true\n"));
    assert!(matches!(answer(&disabled, &Question::Certificate, Some(&[0xab; 32])), Answer::Certificate(None)));
}

/// Work, not time: which hashes are computed, in which order, is the same for every name.
#[test]
fn the_work_of_a_check_says_nothing_about_the_account() {
    let others = with_secret("off", &scram(4096))
        + "disabled = true\n"
        + &account("cert", &format!("certificate = \"{}\"", "ab".repeat(32)));
    let argon = Cost::Argon2id { kib: 1024, passes: 1, lanes: 1, length: 32 };
    for (text, expected) in [
        (with_secret("ann", &scram(4096)) + &others, vec![Cost::Scram { iterations: 4096 }]),
        (
            with_secret("ann", &argon2id()) + &with_secret("tim", &scram(8192)) + &others,
            vec![argon, Cost::Scram { iterations: 4096 }, Cost::Scram { iterations: 8192 }],
        ),
        (String::new(), vec![Cost::Scram { iterations: crate::limits::SCRAM_ITERATIONS_DEFAULT }]),
    ] {
        let accounts = parse(&text);
        for (name, word) in
            [("ann", "pencil"), ("ann", "x"), ("tim", "pencil"), ("off", "pencil"), ("cert", "x"), ("?", "x")]
        {
            drop(work::take());
            verify_password(&accounts, name, &password(word));
            assert_eq!(work::take(), expected, "{name} {word}");
        }
    }
}

#[test]
fn scram_shows_of_unknown_accounts_what_it_shows_of_known_ones() {
    let text = with_secret("ann", &scram(8192))
        + &with_secret("tim", &scram(8192))
        + &with_secret("old", &scram(4096))
        + &with_secret("off", &scram(8192))
        + "disabled = true\n"
        + &with_secret("argon", &argon2id());
    let accounts = parse(&text);
    let keys = |name: &str| scram_keys(&accounts, name);
    let Some(Secret::Scram(real)) = accounts.get("ann").unwrap().secret() else { panic!() };
    assert_eq!(&keys("ann"), real);
    let off = keys("off");
    assert_eq!((&off.salt, off.iterations), (&real.salt, 8192), "as before it was disabled");
    assert_ne!(off.stored_key, real.stored_key);
    assert_ne!(off.server_key, real.server_key);
    for name in ["nobody", "argon"] {
        let decoy = keys(name);
        assert_eq!((decoy.iterations, decoy.salt.len()), (8192, 16), "the most usual");
        assert_eq!(decoy, keys(name), "stable");
        assert_ne!(decoy.salt, keys("another").salt);
        assert_ne!(decoy.stored_key, keys("another").stored_key);
        assert_ne!(decoy.salt, decoy.stored_key[..16], "what is shown is not what is kept");
    }
    let nobody = keys("nobody");
    assert_eq!(scram_keys(&parse(&text), "nobody"), nobody, "by a table made of the same text");
    let other = Accounts::parse("x", &text, [8; 32]).unwrap();
    assert_ne!(scram_keys(&other, "nobody").salt, nobody.salt, "the key decides");
    let keyed = format!("decoy_key = \"{}\"\n{text}", "B".repeat(42) + "A=");
    let salt = |key| scram_keys(&Accounts::parse("x", &keyed, key).unwrap(), "nobody").salt.clone();
    assert_eq!(salt([1; 32]), salt([2; 32]), "the file's key comes first");
}

#[test]
fn scram_is_announced_where_every_account_has_it() {
    let ann = with_secret("ann", &scram(4096));
    let argon = with_secret("tim", &argon2id());
    let cert = account("cert", &format!("certificate = \"{}\"", "ab".repeat(32)));
    let key = format!("decoy_key = \"{}\"\n", "B".repeat(42) + "A=");
    for (text, offered, warning) in [
        (key.clone(), false, None),
        (key.clone() + &cert, false, None),
        (key.clone() + &ann + &cert, true, None),
        (key.clone() + &argon, false, None),
        (key.clone() + &ann + &argon, false, Some("\"tim\"")),
        (key.clone() + &ann + &argon + "disabled = true\n", true, None),
        (
            key.clone() + &ann + &with_secret("u", &scram(4097)) + &with_secret("v", &scram(4097)),
            true,
            Some("\"ann\" has another iteration"),
        ),
        (ann.clone(), true, Some("no decoy_key")),
    ] {
        let accounts = parse(&text);
        assert_eq!(accounts.offers_scram(), offered, "{text}");
        match warning {
            Some(warning) => assert!(accounts.warnings().join("\n").contains(warning), "{:?}", accounts.warnings()),
            None => assert_eq!(accounts.warnings(), [""; 0]),
        }
    }
}
