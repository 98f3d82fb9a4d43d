//! Command lines: verbs, paths, parameters.
//!
//! Input: one line. Checked: what is accepted and printed again reads the same; upper and lower case make no difference
//! but to what is kept (RFC 5321 §2.4); a path agrees with a second, plain reading of the grammar of §4.1.2; lengths
//! are those of §4.5.3.1; nothing unprintable passes.

use crate::Target;
use ringpost::limits;
use ringpost::message::params::BodyType;
use ringpost::smtp::address::{self, Path, PathError};
use ringpost::smtp::command::{self, Command, CommandError, Line};
use ringpost::smtp::parameters::MailParams;

/// The target.
pub const TARGET: Target = Target {
    name: "address",
    run,
    max_bytes: 2100,
    words: &[
        b"MAIL FROM:<",
        b"RCPT TO:<",
        b"EHLO ",
        b"HELO ",
        b"@",
        b">",
        b"\"",
        b"\\",
        b"[IPv6:",
        b"[IPv6:1:2:3:4:5:6:7:8]",
        b"::",
        b"[192.0.2.1]",
        b"]",
        b"<@a,@b:",
        b" SIZE=",
        b" BODY=8BITMIME",
        b" BODY=7BIT",
        b" SMTPUTF8",
        b" RET=HDRS",
        b" NOTIFY=SUCCESS,DELAY",
        b" BY=1;N",
        b" MT-PRIORITY=-1",
        b"BDAT 1 LAST",
        b"STARTTLS",
        b"postmaster",
        b"xn--",
        b"\r\n",
    ],
    test_runs: 20_000,
};

/// What was read, without the case of what is kept.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    /// With the parameters.
    Path(Vec<u8>, usize, String),
    Name(bool, Vec<u8>),
    Other(String),
    Wrong(CommandError),
}

impl Read {
    fn path(path: Path<'_>, params: String) -> Read {
        Read::Path(path.address.to_ascii_lowercase(), path.domain_at, params)
    }
}

/// Slices print as lists of numbers: those of letters are made equal first.
fn folded(what: &impl std::fmt::Debug) -> String {
    let mut numbers = String::new();
    for word in format!("{what:?}").split_inclusive([' ', ',', '[', ']', '(', ')']) {
        let digits = word.trim_end_matches(|c: char| !c.is_ascii_digit());
        match digits.parse::<u8>() {
            Ok(upper @ b'A'..=b'Z') => numbers += &word.replace(digits, &upper.to_ascii_lowercase().to_string()),
            _ => numbers += word,
        }
    }
    numbers
}

/// Whether upper and lower case say different things in it: xtext (RFC 3461 §4) and base64.
fn has_case(line: &[u8]) -> bool {
    let lower = line.to_ascii_lowercase();
    [&b"envid="[..], b"orcpt=", b" auth=", b"holduntil=", b"auth "]
        .iter()
        .any(|word| lower.windows(word.len()).any(|w| w == *word))
}

fn read(line: &[u8]) -> Read {
    match command::parse(line) {
        Ok(Command::Mail { from, params, .. }) => Read::path(from, folded(&params)),
        Ok(Command::Rcpt { to, params }) => Read::path(to, folded(&params)),
        Ok(Command::Ehlo(name)) => Read::Name(true, name.to_ascii_lowercase()),
        Ok(Command::Helo(name)) => Read::Name(false, name.to_ascii_lowercase()),
        Ok(other) => Read::Other(folded(&other)),
        Err(error) => Read::Wrong(error),
    }
}

fn check_address(address: &[u8], domain_at: usize) {
    assert!(domain_at <= address.len() && address.len() + 2 <= limits::PATH_BYTES);
    let utf8 = || std::str::from_utf8(address).is_ok_and(|text| !text.contains(char::is_control));
    assert!(address.iter().all(|b| matches!(b, b' '..=b'~')) || utf8(), "unprintable in an address");
    let domain = &address[domain_at..];
    assert!(domain.len() <= limits::DOMAIN_BYTES);
    if !domain.is_empty() {
        assert!(domain_at >= 2 && address[domain_at - 1] == b'@' && domain_at - 1 <= limits::LOCAL_PART_BYTES);
        // What is between brackets may hold both.
        assert!(domain[0] == b'[' || !domain.contains(&b'@') && !domain.contains(&b'>'));
    }
    let mut text = b"<".to_vec();
    text.extend_from_slice(address);
    text.push(b'>');
    let (path, rest) = address::path(&text).expect("what was accepted is accepted again");
    assert_eq!((path.address, path.domain_at, rest), (address, domain_at, &b""[..]), "printed and read again");
}

fn check_line(line: &[u8]) {
    let result = command::parse(line);
    match result {
        Ok(Command::Mail { from, params, .. }) => {
            check_address(from.address, from.domain_at);
            let mut printed = b"MAIL FROM:<".to_vec();
            printed.extend_from_slice(from.address);
            printed.push(b'>');
            if params.size > 0 {
                printed.extend_from_slice(format!(" SIZE={}", params.size).as_bytes());
            }
            if params.body == BodyType::EightBit {
                printed.extend_from_slice(b" BODY=8BITMIME");
            }
            let Ok(Command::Mail { from: again, params: same, .. }) = command::parse(&printed) else {
                panic!("printed, not read again: {}", printed.escape_ascii());
            };
            let eight_bit = |p: &MailParams<'_>| p.body == BodyType::EightBit;
            assert_eq!((again, same.size, eight_bit(&same)), (from, params.size, eight_bit(&params)));
        }
        Ok(Command::Rcpt { to, .. }) => {
            assert!(!to.address.is_empty());
            check_address(to.address, to.domain_at);
        }
        Ok(Command::Ehlo(name) | Command::Helo(name)) => {
            assert!((1..=limits::DOMAIN_BYTES).contains(&name.len()) && address::is_host_name(name));
            assert!(name.iter().all(|b| matches!(b, b'!'..=b'~')));
        }
        Ok(_) => assert!(line.iter().all(|b| matches!(b, b' '..=b'~' | b'\t')), "unprintable in a command"),
        Err(_) => {}
    }
    let as_it_is = read(line);
    if !has_case(line) {
        assert_eq!(as_it_is, read(&line.to_ascii_lowercase()), "lower case");
        assert_eq!(as_it_is, read(&line.to_ascii_uppercase()), "upper case");
    }
    let mut spaced = line.to_vec();
    spaced.extend_from_slice(b" \t");
    // White space at the end is tolerated. Only an unprintable line may be told apart sooner or later.
    assert_eq!(as_it_is, read(&spaced), "white space at the end");
}

/// The grammar of RFC 5321 §4.1.2 and §4.1.3 as it is written there, by taking apart. What comes behind the path, or
/// nothing if it is none. Lengths are not looked at.
fn plain_path(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text.strip_prefix(b"<")?;
    if let Some(rest) = rest.strip_prefix(b">") {
        return Some(rest);
    }
    let routed = rest.first() == Some(&b'@');
    while let Some(hop) = rest.strip_prefix(b"@") {
        let behind = plain_domain(hop)?;
        rest = match behind.split_first()? {
            (b':', behind) => {
                rest = behind;
                break;
            }
            (b',', behind) if behind.starts_with(b"@") => behind,
            _ => return None,
        };
    }
    let local = rest;
    rest = if rest.first() == Some(&b'"') { plain_quoted(&rest[1..])? } else { plain_atoms(rest)? };
    let local = &local[..local.len() - rest.len()];
    if let Some(behind) = rest.strip_prefix(b">") {
        return (!routed && local.eq_ignore_ascii_case(b"postmaster")).then_some(behind);
    }
    rest = rest.strip_prefix(b"@")?;
    rest = if rest.first() == Some(&b'[') { plain_literal(&rest[1..])? } else { plain_domain(rest)? };
    rest.strip_prefix(b">")
}

fn plain_atoms(text: &[u8]) -> Option<&[u8]> {
    let atext = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(b);
    let end = text.iter().position(|b| !atext(b) && *b != b'.').unwrap_or(text.len());
    text[..end].split(|b| *b == b'.').all(|atom| !atom.is_empty()).then_some(&text[end..])
}

fn plain_quoted(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        text = match text {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', b' '..=b'~', rest @ ..] => rest,
            [b'\\', ..] => return None,
            [b' '..=b'~', rest @ ..] => rest,
            _ => return None,
        };
    }
}

fn plain_domain(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|b| !b.is_ascii_alphanumeric() && !b"-.".contains(b)).unwrap_or(text.len());
    let label = |l: &[u8]| !l.is_empty() && l.first() != Some(&b'-') && l.last() != Some(&b'-');
    text[..end].split(|b| *b == b'.').all(label).then_some(&text[end..])
}

fn plain_literal(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|b| *b == b']')?;
    let inside = std::str::from_utf8(&text[..end]).ok()?;
    let ok = match inside.split_once(':') {
        None => plain_v4(inside),
        Some((tag, rest)) if tag.eq_ignore_ascii_case("IPv6") => plain_v6(rest),
        Some((tag, rest)) => {
            tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && tag.bytes().last().is_some_and(|b| b != b'-')
                && !rest.is_empty()
                && rest.bytes().all(|b| matches!(b, 33..=90 | 94..=126))
        }
    };
    ok.then_some(&text[end + 1..])
}

fn plain_v4(text: &str) -> bool {
    let numbers: Vec<&str> = text.split('.').collect();
    let snum = |n: &&str| {
        (1..=3).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit()) && n.parse::<u16>().is_ok_and(|n| n < 256)
    };
    numbers.len() == 4 && numbers.iter().all(snum)
}

/// IPv6-full, -comp, v4-full and v4-comp: 8 groups, or 6 at most around `::`, an IPv4 address counting for two.
fn plain_v6(text: &str) -> bool {
    let (text, v4_groups) = match text.rfind(':') {
        Some(colon) if text[colon..].contains('.') => {
            // No leading zeros here: the standard library, which the product uses, takes none.
            if text[colon + 1..].parse::<std::net::Ipv4Addr>().is_err() {
                return false;
            }
            // The colon stays only if it is part of `::`.
            (if text[..colon].ends_with(':') { &text[..=colon] } else { &text[..colon] }, 2)
        }
        _ => (text, 0),
    };
    let groups = |part: &str| -> Option<usize> {
        let list: Vec<&str> = if part.is_empty() { Vec::new() } else { part.split(':').collect() };
        list.iter()
            .all(|g| (1..=4).contains(&g.len()) && g.bytes().all(|b| b.is_ascii_hexdigit()))
            .then_some(list.len())
    };
    match text.split_once("::") {
        None => groups(text) == Some(8 - v4_groups),
        Some((left, right)) => match (groups(left), groups(right)) {
            (Some(left), Some(right)) => left + right + v4_groups <= 6,
            _ => false,
        },
    }
}

fn check_path(text: &[u8]) {
    if !text.is_ascii() {
        // The plain reading is of RFC 5321 alone.
        if let Ok((path, _)) = address::path(text) {
            check_address(path.address, path.domain_at);
        }
        return;
    }
    match (address::path(text), plain_path(text)) {
        (Ok((_, rest)), plain) => assert_eq!(Some(rest), plain, "accepted beyond the grammar"),
        // What is too long may be told before what is wrong behind it.
        (Err(PathError::TooLong), _) => assert!(text.len() > limits::LABEL_BYTES),
        (Err(_), Some(_)) => {
            // A literal longer than any path counts as wrong, not as long.
            assert!(text.len() > limits::PATH_BYTES, "refused within the grammar: {}", text.escape_ascii());
        }
        (Err(_), None) => {}
    }
}

fn check_find_line(input: &[u8]) {
    let crlf = input.windows(2).position(|w| w == b"\r\n");
    assert_eq!(command::find_crlf(input), crlf);
    let most = limits::COMMAND_LINE_BYTES;
    match command::find_line(input, most) {
        Line::Whole(line) => assert!(crlf == Some(line.len()) && line.len() + 2 <= most),
        Line::Partial => assert!(crlf.is_none() && input.len() < most),
        Line::TooLong => assert!(input.len() >= most && crlf.is_none_or(|at| at + 2 > most)),
    }
}

/// Runs the target.
pub fn run(data: &[u8]) {
    check_find_line(data);
    check_line(data);
    if let Some(at) = data.iter().position(|b| *b == b'<') {
        check_path(&data[at..]);
    }
    let mut path = b"<".to_vec();
    path.extend_from_slice(data);
    path.push(b'>');
    check_path(&path);
    let host = address::is_host_name(data);
    assert_eq!(host, address::is_host_name(&data.to_ascii_uppercase()));
}
