//! The seeds made by hand: inputs whose names say what they are, written by code so that they follow when a target reads
//! its input in another way.

use fuzz::targets::server::STATES;
use std::error::Error;
use std::fs;

/// Name and bytes.
type Seed = (String, Vec<u8>);

/// The seeds of a target.
type Seeds = fn() -> Vec<Seed>;

/// Choices, cuts, payload.
fn with(choices: &[u8], cuts: &[u8], payload: &[u8]) -> Vec<u8> {
    let count = u8::try_from(cuts.len()).unwrap_or(0);
    [choices, &[count], cuts, payload].concat()
}

fn seed(name: &str, bytes: Vec<u8>) -> Seed {
    (name.to_owned(), bytes)
}

fn server() -> Vec<Seed> {
    const RCPT: &str = "MAIL FROM:<a@b.example> SIZE=20 BODY=8BITMIME\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<e@f>\r\n";
    let session = format!("EHLO [127.0.0.1]\r\n{RCPT}DATA\r\nSubject: x\r\n\r\n..dot\r\n.\r\nQUIT\r\n");
    let errors =
        "EHLO\r\nMAIL\r\nMAIL FROM:<a>\r\nRCPT TO:<>\r\nMAIL FROM:<a@b> X=1\r\nDATA x\r\nBDAT 1\r\n\r\nVRFY\r\n";
    let mut all: Vec<Seed> = vec![
        seed("session-whole", with(&[0, 0, 0], &[], session.as_bytes())),
        seed("session-in-pieces", with(&[0, 0, 0], &[0, 6, 2, 40], session.as_bytes())),
        seed(
            "two-messages-pipelined",
            with(&[1, 0, 0], &[200], format!("{RCPT}DATA\r\n.\r\n{RCPT}DATA\r\nx\r\n.\r\n").as_bytes()),
        ),
        seed("every-error", with(&[1, 0, 0], &[], errors.as_bytes())),
        seed("too-many-errors", with(&[10, 0, 0], &[], b"X\r\nX\r\nNOOP\r\n")),
        seed("not-allowed-to-relay", with(&[1, 1, 0], &[], RCPT.as_bytes())),
        seed("too-many-recipients", with(&[4, 0, 0], &[], "RCPT TO:<g@h>\r\n".repeat(4).as_bytes())),
        seed("long-line", with(&[1, 0, 0], &[255], &[&[b'x'; 3000][..], b"\r\nNOOP\r\n"].concat())),
        seed("long-line-ends-at-a-cut-in-crlf", with(&[9, 0, 0], &[1], b"x\r\nNOOP\r\n")),
        seed("replies-above-the-bound", with(&[1, 0, 0], &[], "NOOP\r\n".repeat(1300).as_bytes())),
        seed("commands-behind-a-verdict-due", with(&[8, 0, 0], &[3], format!("{RCPT}DATA\r\n").as_bytes())),
        seed("busy-verdict", with(&[5, 2, 0], &[], b"x\r\n.\r\nNOOP\r\n")),
        seed("timeout-in-data", with(&[5, 0x30, 5], &[], b"x\r\ny\r\nz\r\n")),
        seed("shutdown-in-data", with(&[5, 0x10, 3], &[], b"x\r\n.\r\nMAIL FROM:<>\r\n")),
        seed("busy-before-mail", with(&[1, 0x20, 0], &[], RCPT.as_bytes())),
        seed("smuggling-bare-lf", with(&[5, 0, 0], &[4], b"x\n.\nMAIL FROM:<a@b>\r\n.\r\n")),
        seed("smuggling-bare-cr", with(&[5, 0, 0], &[4], b"x\r\n.\rMAIL FROM:<a@b>\r\n.\r\n")),
        seed("nul-in-data", with(&[5, 0, 0], &[], b"x\0\r\n.\r\n")),
        seed("mail-loop", with(&[11, 0, 0], &[2], b"Received: a\r\nRECEIVED: b\r\n\r\n.\r\n")),
        seed("one-octet-too-many", with(&[12, 0, 0], &[], b"yyyyy\r\n.\r\n")),
        // Regression: the fault told depended on the split.
        seed("regression-too-big-and-then-bare-lf", with(&[12, 0, 0], &[3], b"yyyyyyyy\n\r\n.\r\n")),
    ];
    for (number, state) in STATES.iter().enumerate() {
        let number = u8::try_from(number).unwrap_or(0);
        let payload = b"\r\n.\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n.\r\nQUIT\r\n";
        all.push(seed(&format!("state-{state}"), with(&[number, 0, 0], &[5, 1], payload)));
    }
    all
}

fn client() -> Vec<Seed> {
    let plain = "220 hi\r\n250 ok\r\n250 s\r\n250 r\r\n354 go\r\n250 taken\r\n221 bye\r\n";
    let ehlo = "220 hi\r\n250-x\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n";
    let seeds: &[(&str, &[u8], &str)] = &[
        ("plain-session", &[0, 0, 0], plain),
        ("helo", &[0, 0, 0], "220 hi\r\n500 no\r\n250 ok\r\n250 s\r\n250 r\r\n354 go\r\n250 taken\r\n"),
        ("refused-greeting", &[0, 0, 0], "554 no\r\n221 bye\r\n"),
        ("shut-down-at-greeting", &[0, 0, 0], "421 later\r\n"),
        ("no-smtp", &[0, 0, 0], "SSH-2.0\r\n"),
        ("code-changes", &[0, 0, 0], "220-a\r\n221 b\r\n"),
        (
            "some-recipients-refused",
            &[0, 0, 3],
            &format!("{ehlo}250 s\r\n550 5.1.1 no\r\n250 r\r\n450 4.2.1 later\r\n250 r\r\n354 go\r\n250 taken\r\n"),
        ),
        (
            "all-recipients-refused-and-354",
            &[1, 0, 1, 0],
            &format!("{ehlo}250 s\r\n550 no\r\n550 no\r\n354 go\r\n554 none\r\n250 s\r\n250 r\r\n354 go\r\n250 t\r\n"),
        ),
        (
            "mail-refused-pipelined",
            &[1, 0, 0, 0],
            &format!("{ehlo}450 4.7.1 wait\r\n503 x\r\n503 x\r\n250 rset\r\n250 s\r\n250 r\r\n354 go\r\n250 t\r\n"),
        ),
        (
            "mail-refused-without-pipelining",
            &[1, 0, 0, 0],
            "220 x\r\n250 x\r\n550 no\r\n250 s\r\n250 r\r\n354 g\r\n250 t\r\n",
        ),
        ("data-refused", &[0, 0, 0], &format!("{ehlo}250 s\r\n250 r\r\n451 no\r\n")),
        (
            "message-refused",
            &[1, 0, 0, 0],
            &format!("{ehlo}250 s\r\n250 r\r\n354 go\r\n554 5.7.1 spam\r\n250 s\r\n250 r\r\n354 go\r\n250 t\r\n"),
        ),
        ("refused-in-the-middle-of-its-body", &[0, 2, 0], &format!("{ehlo}250 s\r\n250 r\r\n354 go\r\n552 big\r\n")),
        ("accepted-before-its-body-was-sent", &[0, 2, 0], &format!("{ehlo}250 s\r\n250 r\r\n354 go\r\n250 t\r\n")),
        ("lost-after-the-final-dot", &[0, 4, 0], &format!("{ehlo}250 s\r\n250 r\r\n354 go\r\n")),
        ("silent-after-the-final-dot", &[0, 0, 0], &format!("{ehlo}250 s\r\n250 r\r\n354 go\r\n")),
        (
            "too-large-and-8-bit-refused-locally",
            &[2, 0, 0x20, 8, 0],
            "220 x\r\n250-x\r\n250-SIZE 1000\r\n250 x\r\n250 s\r\n250 r\r\n354 g\r\n250 t\r\n",
        ),
        ("shut-down-between-recipients", &[0, 0, 2], &format!("{ehlo}250 s\r\n250 r\r\n421 bye\r\n")),
        ("three-pipelined", &[2, 0, 0, 0, 0], &format!("{ehlo}{}", "250 s\r\n250 r\r\n354 g\r\n250 t\r\n".repeat(3))),
        ("unasked-reply-when-idle", &[0, 1, 0], "220 x\r\n250 x\r\n250 x\r\n"),
        ("quit-before-ready", &[0, 1, 0], "220 x\r\n250 x\r\n221 x\r\n"),
        ("long-multi-line-reply", &[0, 0, 0], &format!("220 x\r\n{}250 x\r\n", "250-keyword\r\n".repeat(200))),
        ("text-not-printable", &[0, 0, 0], "220 \u{e4}\t\x01\r\n250 x\n"),
    ];
    seeds.iter().map(|(name, choices, text)| seed(name, with(choices, &[1, 4], text.as_bytes()))).collect()
}

fn lines() -> Vec<Seed> {
    let lines: &[(&str, &str)] = &[
        ("mail-with-parameters", "MAIL FROM:<a.b+c@x-1.example> SIZE=12345 BODY=8BITMIME"),
        ("mail-null-sender", "mail from:<> size=99999999999999999999"),
        ("mail-unknown-parameter", "MAIL FROM:<a@b> X-Y=z"),
        ("rcpt-source-route", "RCPT TO:<@a.example,@b.example:u@c.example>"),
        ("rcpt-quoted", "RCPT TO:<\"a b@c>\\\"\\\\ \"@x.example>"),
        ("rcpt-empty-quotes", "RCPT TO:<\"\"@x.example>"),
        ("rcpt-ipv4-literal", "RCPT TO:<a@[192.000.02.1]>"),
        ("rcpt-ipv6-literal", "RCPT TO:<a@[IPv6:2001:db8::1]>"),
        ("rcpt-ipv6-v4-literal", "RCPT TO:<a@[IPv6:::ffff:192.0.2.1]>"),
        ("rcpt-ipv6-full-literal", "RCPT TO:<a@[IPv6:1:2:3:4:5:6:7:8]>"),
        ("rcpt-general-literal", "RCPT TO:<a@[x-net:anything!]>"),
        ("rcpt-postmaster", "rCpT tO:<PostMaster>"),
        ("rcpt-parameter", "RCPT TO:<a@b> NOTIFY=NEVER"),
        ("ehlo-literal", "EHLO [IPv6:fe80::1]"),
        ("helo-underscore", "HELO my_host.example"),
        ("vrfy", "VRFY someone"),
        ("noop-with-text", "NOOP x y z"),
        ("verb-alone", "DATA \t"),
        ("space-behind-the-colon", "MAIL FROM: <a@b>"),
        ("path-alone", "a@b.example"),
        ("line-with-its-end", "NOOP\r\nNOOP\r\n"),
        ("control-character", "MAIL FROM:<a\x01@b>"),
    ];
    let mut all: Vec<Seed> = lines.iter().map(|(name, line)| seed(name, line.as_bytes().to_vec())).collect();
    all.push(seed("local-part-of-64", format!("RCPT TO:<{}@x>", "l".repeat(64)).into()));
    all.push(seed("local-part-of-65", format!("RCPT TO:<{}@x>", "l".repeat(65)).into()));
    let domain = ["d".repeat(63), "d".repeat(63), "d".repeat(63), "d".repeat(60)].join(".");
    all.push(seed("path-of-256", format!("RCPT TO:<u@{domain}>").into()));
    all.push(seed("path-of-257", format!("RCPT TO:<uu@{domain}>").into()));
    all.push(seed("label-of-64", format!("u@{}", "d".repeat(64)).into()));
    all.push(seed("line-of-2048", [&[b'x'; 2046][..], b"\r\n"].concat()));
    all
}

fn data() -> Vec<Seed> {
    let texts: &[(&str, &str)] = &[
        ("empty-message", ".\r\n"),
        ("headers-and-body", "Subject: x\r\nReceived: y\r\n\r\nReceived: no header\r\n.\r\nQUIT\r\n"),
        ("stuffed-dots", "..\r\n...\r\n.x\r\n.\r\n"),
        ("bare-lf-ends", "x\n.\n.\r\n"),
        ("bare-cr-ends", "x\r.\r.\r\n"),
        ("cr-cr-lf", "x\r\r\n.\r\r\n.\r\n"),
        ("dot-cr-x", "x\r\n.\rx\r\n.\r\n"),
        ("lf-dot-crlf", "x\n.\r\n.\r\n"),
        ("nul", "x\0y\r\n.\r\n"),
        ("no-end", "x\r\n."),
        ("half-a-header-name", "Receiv: x\r\nReceived\r\nRECEIVED: \r\n.\r\n"),
    ];
    let mut all: Vec<Seed> =
        texts.iter().map(|(name, text)| seed(name, with(&[1, 0, 0], &[2, 0, 5], text.as_bytes()))).collect();
    all.push(seed("loop", with(&[16, 0, 255], &[7], "Received: x\r\nreceived: y\r\nReceived: z\r\n.\r\n".as_bytes())));
    all.push(seed("size-at-the-limit", with(&[0, 4, 0], &[], b"ab\r\n.\r\n")));
    all.push(seed("size-above-the-limit", with(&[0, 4, 0], &[1], b"abc\r\n.\r\n")));
    all.push(seed("regression-too-big-and-then-bare-lf", with(&[0, 4, 0], &[], b"abcdefgh\n.\r\n")));
    all.push(seed(
        "long-clean-lines",
        with(&[255, 255, 0], &[150], format!("{}\r\n", "z".repeat(200)).repeat(9).as_bytes()),
    ));
    all
}

/// Steps of a spool program.
mod step {
    pub const ACCEPT: [u8; 4] = [0, 0, 1, 40];
    pub const LARGE: [u8; 4] = [0, 0, 0, 255];
    pub const STREAM: [u8; 4] = [3, 0, 2, 200];
    pub const SETTLE: [u8; 4] = [4, 0, 0, 0];
    pub const QUIESCE: [u8; 2] = [8, 0];
    pub const ADVANCE: [u8; 2] = [7, 60];
    pub const CRASH: [u8; 3] = [10, 0x55, 1];
    pub const RESTART: [u8; 3] = [10, 0xff, 0];
}

fn spool() -> Vec<Seed> {
    use step::*;
    let lived: Vec<u8> = [&[1][..], &ACCEPT, &QUIESCE, &STREAM, &QUIESCE, &SETTLE, &ACCEPT, &QUIESCE].concat();
    let then = |steps: &[&[u8]]| [&lived[..], &steps.concat()].concat();
    let many = [LARGE.repeat(2).as_slice(), &QUIESCE, &SETTLE].concat().repeat(9);
    let mut all = vec![
        seed("empty", vec![0]),
        seed("accept-stream-settle", lived.clone()),
        seed("crash-in-a-commit", then(&[&ACCEPT, &STREAM, &CRASH, &ACCEPT, &CRASH])),
        seed("fewer-and-more-shards", then(&[&[10, 0xff, 3], &ACCEPT, &[10, 0xff, 0], &QUIESCE, &[10, 0xff, 2]])),
        seed("segments-filled-and-freed", [&[0][..], &many].concat()),
        seed("segments-filled-then-crash", [&[2][..], &many, &CRASH, &ACCEPT, &QUIESCE, &CRASH].concat()),
        seed("settle-after-restart", then(&[&RESTART, &SETTLE, &[4, 0, 0, 1], &ADVANCE, &QUIESCE, &RESTART])),
        seed("bit-rot-in-a-header", then(&[&[12, 255, 0, 0, 17, 1]])),
        seed("bit-rot-in-a-commit", then(&[&[12, 255, 0, 0x10, 50, 1], &ACCEPT, &QUIESCE, &CRASH])),
        seed("bit-rot-in-a-body", then(&[&[12, 255, 0, 0x11, 0xf0, 1], &RESTART])),
        seed("sector-lost", then(&[&[13, 255, 0, 0, 16, 0, 0, 1]])),
        seed("header-block-lost", then(&[&[13, 255, 0, 0, 0, 0, 0, 1], &ACCEPT, &QUIESCE])),
        seed("sector-from-elsewhere", then(&[&[14, 255, 0, 0, 8, 1, 8, 1]])),
        seed("truncated", then(&[&[15, 255, 0, 0x18, 0, 0], &ACCEPT, &QUIESCE])),
        seed("grown", then(&[&[15, 255, 0, 0x18, 0, 1], &ACCEPT, &QUIESCE])),
        seed("file-gone", then(&[&[16, 255, 0, 0, 0, 0]])),
        seed("file-renamed", then(&[&[16, 255, 0, 0, 0, 9, 0]])),
        seed("file-renamed-to-the-last-number", then(&[&[16, 255, 0, 0, 0, 9, 3], &ACCEPT, &QUIESCE])),
        seed("file-copied", then(&[&[16, 255, 0, 0, 0, 10, 0], &ACCEPT, &QUIESCE])),
        seed("files-exchanged", then(&[&[16, 255, 0, 0, 0, 3, 0, 1]])),
        seed("junk-file", then(&[&[17, 255, 0, 0, 0, 4, 1, 2, 3, 4, 9], &ACCEPT])),
        seed("forged-header", then(&[&[18, 255, 0, 0, 0, 0, 1, 9, 9, 3, 8, 2, 7, 7]])),
        seed(
            "junk-file-again-under-its-number",
            then(&[
                &[17, 255, 0, 0, 0, 4, 1, 2, 3, 4, 200],
                &RESTART,
                &ACCEPT,
                &[17, 255, 0, 0, 0, 4, 5, 6, 7, 8, 200],
                &RESTART,
            ]),
        ),
    ];
    for (field, name) in ["kind", "flags", "length", "commit-number", "message-id"].iter().enumerate() {
        let field = u8::try_from(field).unwrap_or(0);
        all.push(seed(&format!("forged-{name}"), then(&[&[19, 255, 0, 0, 1, field, 8]])));
    }
    for at in [0u8, 8, 16, 20, 24, 32, 36, 40, 42] {
        for record in 0..3 {
            let forged = [19, 255, 0, 0, record, 5 + at, 8, if at < 16 { 3 } else { 2 }];
            all.push(seed(&format!("forged-payload-{at}-of-record-{record}"), then(&[&forged, &ACCEPT, &QUIESCE])));
        }
    }
    all
}

fn dns() -> Vec<Seed> {
    // Families, one domain (example.org), no cuts.
    const START: [u8; 4] = [2, 0, 0, 0];
    const MX: [u8; 12] = [0, 0, 0, 0, 2, 0x40, 10, 1, 0x40, 20, 2, 0];
    const A: [u8; 10] = [0, 0, 0, 0, 1, 0x44, 192, 0, 2, 1];
    let one = |name: &str, parts: &[&[u8]]| seed(name, [&START[..], &parts.concat()].concat());
    let mut all = vec![
        one("mx-and-addresses", &[&MX[..11], &A, &A, &A, &A]),
        one("implicit-mx", &[&[0, 0, 0, 0, 1, 0x5a, 0, 0, 1, 0], &A, &[0, 0, 0, 0, 1, 0x47, 0x20, 1, 0xd, 0xb8]]),
        one("null-mx", &[&[0, 0, 0, 0, 1, 0x40, 0, 6]]),
        one("no-such-domain", &[&[0, 0, 0, 0xa0, 1, 0x5a, 0, 0, 1, 0]]),
        one("alias-chain", &[&[0, 0, 0, 0, 3, 0x4c, 2, 0x4c, 3, 0x40, 10, 1], &A, &A]),
        one("alias-loop", &[&[0, 0, 0, 0, 2, 0x4c, 2, 0x4c, 0]]),
        one("alias-without-end", &[&[0, 0, 0, 0, 1, 0x4c, 2].repeat(40)]),
        one("truncated-then-tcp", &[&[0, 0, 5, 0, 0], &MX[..11], &[0, 0, 5, 0, 0], &A]),
        one("wrong-id-then-right", &[&[100, 0, 4, 0, 1, 0x40, 10, 1, 0, 1], &MX[1..11], &A, &A]),
        one("only-wrong-ids", &[&[0, 0, 4, 0, 1, 0x40, 10, 1, 0, 1].repeat(30)]),
        one("server-failure", &[&[0, 0, 0, 0xd0, 0].repeat(12)]),
        one("no-edns", &[&[0, 0, 0, 0xe0, 0], &MX[..11], &A]),
        one("referral", &[&[0, 0, 3, 0, 1, 0x59, 1, 0, 0, 0, 0]]),
        one("refused-by-the-network", &[&[0, 0, 8].repeat(12)]),
        one("silence", &[&[200]]),
        one("late-answers", &[&[0, 3, 0, 0, 1, 0x40, 10, 1].repeat(20)]),
        one("junk", &[&[0, 0, 7, 5, 1, 2, 3, 4, 5].repeat(5)]),
        one("claims-many-records", &[&[0, 0, 6, 0x81, 0x80, 255, 255, 0, 12, 0xc0, 12, 0, 15, 0, 1, 0, 0, 0, 1, 0, 0]]),
        one("pointer-loop", &[&[0, 0, 6, 0x81, 0x80, 1, 0, 0, 4, 0xc0, 29, 0xc0, 29]]),
        one("damaged-answer", &[&[0, 0, 3, 1, 2, 0x40, 10, 1, 0x44, 192, 0, 2, 1, 2, 0, 30, 255, 0, 40, 1]]),
        one(
            "addresses-that-are-none",
            &[&MX[..11], &[0, 0, 0, 0, 3, 0x44, 0, 0, 0, 0, 0x44, 255, 255, 255, 255, 0x48, 1, 2, 3, 4]],
        ),
        one("host-made-of-octets", &[&[0, 0, 0, 0, 1, 0x40, 1, 250]]),
    ];
    all.push(seed("three-domains-at-once", [&[6, 2, 0, 2, 5, 1, 3][..], &MX[..11], &A, &MX[..11], &A, &A].concat()));
    all.push(seed("address-literal", vec![2, 0, 9, 0]));
    all.push(seed("smart-host", [&[8, 0, 2, 0][..], &A, &A].concat()));
    all
}

fn config() -> Vec<Seed> {
    let sample = ringpost::config::EMBEDDED;
    let switched: String = sample
        .lines()
        .filter(|l| !l.starts_with("# "))
        .map(|l| format!("{}\n", l.strip_prefix('#').unwrap_or(l)))
        .collect();
    let texts: &[(&str, &str)] = &[
        ("empty", ""),
        ("every-key", &switched),
        ("unknown-key", "hostnam = \"x\"\n[spool]\npth = 1\n"),
        ("wrong-types", "shards = \"x\"\nhostname = 5\n[smtp]\nmax_recipients = 1.5\n"),
        ("out-of-range", "shards = 99999\n[smtp]\nmax_message_bytes = \"1 KiB\"\ncommand_timeout = \"0s\"\n"),
        ("open-relay", "[relay]\nfrom_networks = [\"0.0.0.0/0\", \"::/0\"]\n"),
        (
            "listeners",
            "[[listener]]\naddress = \"[::1]:25\"\nkind = \"relay\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n",
        ),
        ("not-toml", "a = = 1\n"),
        ("deep", &format!("a = {}", "[".repeat(500))),
        ("dotted-deep", &format!("{}x = 1", "a.".repeat(300))),
        ("twice", "shards = 1\nshards = 2\n"),
        ("smart-host", "[delivery]\nsmart_host = \"[2001:db8::1]:587\"\nsource_addresses = [\"192.0.2.1\", \"x\"]\n"),
        ("retry", "[delivery.retry]\nfirst = \"2h\"\nmax = \"1h\"\nfactor = nan\njitter = -0.0\n"),
        ("carriage-returns", "shards = 1\r\nhostname = \"\u{e4}\"\r\n"),
    ];
    let mut all: Vec<Seed> = texts.iter().map(|(name, text)| seed(name, [b"\0", text.as_bytes()].concat())).collect();
    let resolv =
        "# x\nnameserver 192.0.2.53 # ours\n\tnameserver\t2001:db8::53\r\nnameserver fe80::1%eth0\nnameserver x\n";
    all.push(seed("resolv-conf", [b"\x01", resolv.as_bytes()].concat()));
    all
}

fn notification() -> Vec<Seed> {
    // One recipient: shape, code, reply, address, remote; date and sender; headers.
    let of = |shape: u8, code: u8, reply: &str, headers: &str| -> Vec<u8> {
        let mut bytes = vec![0, shape | 4, code];
        bytes.push(u8::try_from(reply.len()).unwrap_or(255));
        bytes.extend_from_slice(reply.as_bytes());
        if shape & 3 == 3 {
            bytes.push(code);
        }
        for text in ["rcpt@example.org", "mx.example.org"] {
            bytes.push(u8::try_from(text.len()).unwrap_or(255));
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&[1, 0]);
        bytes.extend_from_slice(headers.as_bytes());
        bytes
    };
    let headers = "Received: from a\r\n\tby b; today\r\nSubject: hello\r\nFrom: x@y\r\n\r\nbody\r\n";
    vec![
        seed("refused", of(0, 4, "5.1.1 No such user", headers)),
        seed("expired", of(1, 3, "4.2.1 later", headers)),
        seed("delayed", of(2, 0, "connection refused", headers)),
        seed("local-reason", of(3, 2, "", headers)),
        seed("expired-without-words", of(0x11, 0, "", headers)),
        seed("words-in-many-lines", of(0, 4, "5.7.1 one\ntwo\r\n.\r\n--=_0000000000007.ringpost--", headers)),
        seed("words-not-printable", of(0, 4, "5.1.1 \u{e4}\x1b[31m\0", headers)),
        seed("headers-with-boundary", of(0, 4, "no", "--=_0000000000007.ringpost: x\r\nSubject: --\r\n\r\n")),
        seed("headers-with-dots", of(0, 4, "no", "..x: y\r\n.Subject: z\r\n \r\n\r\n")),
        seed("headers-of-8-bit", of(0, 4, "no", "Subject: \u{e4}=.\u{f6}\r\nX: trailing \r\n\r\n")),
        seed("header-line-of-2000", of(0, 4, "no", &format!("Subject: {}\r\n\r\n", "x".repeat(2000)))),
        seed("headers-above-the-bound", of(0, 4, "no", &"X-Header: \u{e4} something\r\n".repeat(700))),
        seed("headers-cut-in-a-line", of(0, 4, "no", "Subject: x\r\nFrom: hal")),
        seed("no-headers", of(0, 4, "no", "")),
        seed("one-long-word", of(0, 4, &"w".repeat(250), "")),
    ]
}

fn written() -> Vec<Seed> {
    let event = |which: u8, text: &[u8]| -> Vec<u8> {
        let mut bytes = vec![1, 0, 0, 1, 0, 0, 0, 0, 7, 2, 38, 1, 0, 5, which, 0, 192, 0, 2, 1];
        for part in [&b"a@b.example"[..], b"c@d", b"site.example", b"mx"] {
            bytes.push(u8::try_from(part.len()).unwrap_or(255));
            bytes.extend_from_slice(part);
        }
        bytes.extend_from_slice(text);
        bytes
    };
    let mut all: Vec<Seed> =
        (0..7).map(|which| seed(&format!("event-{which}"), event(which, b"550 5.1.1 \"no\" \\ user\r\n"))).collect();
    all.extend([
        seed("event-with-broken-utf-8", event(2, b"\xf0\x9f\x98 \xed\xa0\x80 \xc0\x80 \xff\x1b[31m")),
        seed("event-with-separators", event(2, "\u{2028}\u{85}\u{202e}\u{feff}".as_bytes())),
        seed("event-text-cut-in-a-character", event(2, "\u{1f600}".repeat(200).as_bytes())),
        seed("received-plain", [&[0, 1, 0, 192, 0, 2, 1, 0, 0, 1, 0, 0][..], b"client.example"].concat()),
        seed("received-without-helo", vec![0, 0, 1, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 1, 0, 0, 0, 0]),
        seed("received-long-names", [&[0, 1, 0, 192, 0, 2, 1, 2, 0, 1, 0, 0][..], &[b'x'; 300]].concat()),
        seed("received-hostile-helo", [&[0, 1, 0, 1, 2, 3, 4, 0, 0, 1, 0, 0][..], b"a) (b;\r\nX: y\xff"].concat()),
    ]);
    all
}

/// Writes all of them.
pub fn write() -> Result<(), Box<dyn Error>> {
    let seeds: [(&str, Seeds); 9] = [
        ("server", server),
        ("client", client),
        ("address", lines),
        ("data", data),
        ("spool", spool),
        ("dns", dns),
        ("config", config),
        ("notification", notification),
        ("written", written),
    ];
    for (name, seeds) in seeds {
        let folder = fuzz::corpus(fuzz::target(name).ok_or("no such target")?);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds() {
            fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}
