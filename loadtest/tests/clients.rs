//! swaks against every listener: STARTTLS, implicit TLS, each mechanism of AUTH it has, PROXY, XCLIENT; and what it is
//! refused. Needs of the relay: `[tls]`, `[accounts]`, `[[listener]]` with its kinds, `proxy_networks`, `xclient_networks`.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::edge::{Edge, EdgeSetup, PASSWORD, assert_received, message};
use common::programs::{Program, text};

/// swaks' exit codes (its manual, EXIT CODES).
const REFUSED_MAIL_OR_RCPT: [i32; 2] = [23, 24];
/// Also where AUTH, or the mechanism, is not offered.
const REFUSED_AUTH: i32 = 28;
const NO_TLS: i32 = 29;

/// swaks and a relay for it.
struct Swaks {
    swaks: Program,
    edge: Edge,
}

/// A run of swaks that has ended.
struct Ran {
    said: String,
    code: Option<i32>,
}

impl Swaks {
    fn start() -> Option<Swaks> {
        Self::with(EdgeSetup::default())
    }

    fn with(setup: EdgeSetup) -> Option<Swaks> {
        let swaks = Program::find("swaks")?;
        if !text(&swaks.run(["--support"])).contains("TLS supported") {
            eprintln!("skipped: swaks has no TLS (Debian: libnet-ssleay-perl)");
            return None;
        }
        Some(Swaks { swaks, edge: Edge::start(setup)? })
    }

    /// Sends the message with this mark to the port.
    fn send(&self, port: u16, mark: &str, options: &[&str]) -> Ran {
        let file = self.edge.dir.path().join(mark);
        // As swaks wants it: it ends lines in CRLF, and the last one too.
        let lines = String::from_utf8(message(mark)).unwrap().replace("\r\n", "\n");
        fs::write(&file, lines.trim_end()).unwrap();
        let mut command = self.swaks.command();
        command.args(["--server", &format!("127.0.0.1:{port}"), "--ehlo", "client.test"]);
        command
            .args(["--from", "alice@d0001.test", "--to", "b@d0002.test"])
            .arg("--data")
            .arg(format!("@{}", file.display()))
            .args(options);
        let output = command.output().unwrap();
        Ran { said: text(&output), code: output.status.code() }
    }

    /// As [`Swaks::send`]; the message arrives unchanged, with this protocol and client in the relay's header.
    fn arrives(&self, port: u16, mark: &str, options: &[&str], with: &str, from: &str) -> Ran {
        let ran = self.send(port, mark, options);
        assert_eq!(ran.code, Some(0), "{}", ran.said);
        assert_received(&self.edge.arrived(mark), &message(mark), with, from);
        ran
    }

    /// As [`Swaks::send`]; it is refused: swaks ends with one of `codes`, and the relay has said `reply`.
    fn refused(&self, port: u16, mark: &str, options: &[&str], codes: &[i32], reply: &str) {
        let ran = self.send(port, mark, options);
        assert!(ran.code.is_some_and(|c| codes.contains(&c)), "ended with {:?}:\n{}", ran.code, ran.said);
        assert!(ran.said.contains(reply), "not refused with {reply}:\n{}", ran.said);
    }

    /// The options for TLS with the relay's certificate checked, and these.
    fn tls<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["--tls-verify", "--tls-ca-path", self.edge.pki.ca.to_str().unwrap()], more].concat()
    }
}

/// The options for AUTH with alice's password.
fn auth(mechanism: &str) -> [&str; 7] {
    ["--auth", mechanism, "--auth-user", "alice", "--auth-password", PASSWORD, "--auth-hide-password"]
}

#[test]
fn in_the_clear() {
    let Some(s) = Swaks::start() else { return };
    s.arrives(s.edge.ports.relay, "clear", &[], "ESMTP", "[127.0.0.1]");
    s.arrives(s.edge.ports.relay, "helo", &["--protocol", "SMTP"], "SMTP", "[127.0.0.1]");
}

#[test]
fn starttls() {
    let Some(s) = Swaks::start() else { return };
    for version in ["tlsv1_2", "tlsv1_3"] {
        let options = s.tls(&["--tls", "--tls-protocol", version]);
        let ran = s.arrives(s.edge.ports.relay, version, &options, "ESMTPS", "[127.0.0.1]");
        // RFC 3207 §4.2: what the server said before counts no more, and STARTTLS is not offered again.
        let (before, after) = ran.said.split_once("TLS started with cipher").unwrap();
        assert!(before.contains("250-STARTTLS") || before.contains("250 STARTTLS"), "{before}");
        assert!(!after.contains("STARTTLS"), "{after}");
    }
    s.refused(
        s.edge.ports.relay,
        "old",
        &s.tls(&["--tls", "--tls-protocol", "tlsv1_1"]),
        &[NO_TLS],
        "TLS startup failed",
    );
}

#[test]
fn implicit_tls_and_every_mechanism() {
    let Some(s) = Swaks::with(EdgeSetup { bob: true, ..EdgeSetup::default() }) else { return };
    let port = s.edge.ports.submissions;
    for mechanism in ["PLAIN", "LOGIN"] {
        let options = s.tls(&[&["--tls-on-connect"], &auth(mechanism)[..]].concat());
        s.arrives(port, &format!("implicit-{mechanism}"), &options, "ESMTPSA", "[127.0.0.1]");
    }
    // bob's secret is an argon2id hash.
    let mut options = s.tls(&[&["--tls-on-connect"], &auth("PLAIN")[..]].concat());
    *options.iter_mut().find(|o| **o == "alice").unwrap() = "bob";
    let ran = s.arrives(port, "implicit-bob", &options, "ESMTPSA", "[127.0.0.1]");
    assert!(!ran.said.contains("SCRAM"), "bob could not use it:\n{}", ran.said);
    // What is broken is not offered: swaks ends with its code for that.
    for mechanism in ["CRAM-MD5", "CRAM-SHA1", "DIGEST-MD5"] {
        let ran = s.send(port, mechanism, &s.tls(&[&["--tls-on-connect"], &auth(mechanism)[..]].concat()));
        assert_eq!(ran.code, Some(REFUSED_AUTH), "{mechanism}:\n{}", ran.said);
        assert!(!ran.said.contains(&format!("AUTH {mechanism}")), "{}", ran.said);
    }
}

#[test]
fn submission_with_starttls() {
    let Some(s) = Swaks::start() else { return };
    let port = s.edge.ports.submission;
    let tls = s.tls(&["--tls"]);
    for mechanism in ["PLAIN", "LOGIN"] {
        let options = [&tls[..], &auth(mechanism)].concat();
        let ran = s.arrives(port, &format!("submission-{mechanism}"), &options, "ESMTPSA", "[127.0.0.1]");
        // RFC 4954 §4: nothing that gives the password away is offered before TLS.
        let (before, after) = ran.said.split_once("TLS started with cipher").unwrap();
        assert!(!before.contains("AUTH"), "{before}");
        let offered = after.lines().find(|l| l.contains("-AUTH ") || l.contains(" AUTH ")).unwrap_or("none");
        for wanted in ["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"] {
            assert!(offered.split_whitespace().any(|w| w == wanted), "no {wanted}: {offered}");
        }
    }
    // RFC 6409 §4.3, RFC 8314: a submission without an account, and one without TLS.
    s.refused(port, "nobody", &tls, &REFUSED_MAIL_OR_RCPT, "530 5.7.0");
    s.refused(port, "no-tls", &[], &REFUSED_MAIL_OR_RCPT, "530 5.7.0");
}

#[test]
fn wrong_passwords_and_no_tls() {
    let Some(s) = Swaks::start() else { return };
    let port = s.edge.ports.submission;
    for (user, password) in [("alice", "wrong"), ("bob", "wrong"), ("nobody", PASSWORD)] {
        for mechanism in ["PLAIN", "LOGIN"] {
            let tls = s.tls(&["--tls", "--auth", mechanism, "--auth-user", user, "--auth-password", password]);
            s.refused(port, &format!("wrong-{user}"), &tls, &[REFUSED_AUTH], "535 5.7.8");
        }
    }
    // AUTH is not there without TLS: swaks does not even ask.
    let ran = s.send(port, "auth-in-the-clear", &auth("PLAIN"));
    assert_eq!(ran.code, Some(REFUSED_AUTH), "{}", ran.said);
    // And who asks all the same is refused (RFC 4954 §6: 538 or 530), without his password being looked at.
    let mut client = common::Client::connect(([127, 0, 0, 1], port).into());
    client.expect("EHLO client.test", "250");
    let reply = client.command("AUTH PLAIN AGFsaWNlAGNvcnJlY3QgaG9yc2UgYmF0dGVyeQ==");
    assert!(["530 5.7.0", "538 5.7.11", "502 ", "503 "].iter().any(|r| reply.starts_with(r)), "{reply}");
}

#[test]
fn senders_of_others_are_refused() {
    let Some(s) = Swaks::start() else { return };
    let options = s.tls(&[&["--tls-on-connect", "--from", "mallory@d0003.test"], &auth("PLAIN")[..]].concat());
    s.refused(s.edge.ports.submissions, "mallory", &options, &REFUSED_MAIL_OR_RCPT, " 5.7.1");
}

#[test]
fn proxied() {
    let Some(s) = Swaks::start() else { return };
    let port = s.edge.ports.proxied;
    let header = |version: &'static str, family: &'static str, source: &'static str, destination: &'static str| {
        let words = ["--proxy-version", version, "--proxy-family", family, "--proxy-source", source];
        [&words[..], &["--proxy-source-port", "4711", "--proxy-dest", destination, "--proxy-dest-port", "25"]].concat()
    };
    // The relay judges the client that is named, not the proxy: it relays for 192.0.2.0/24 and for loopback.
    for (version, family) in [("1", "TCP4"), ("2", "AF_INET")] {
        let known = header(version, family, "192.0.2.7", "203.0.113.1");
        s.arrives(port, &format!("proxied-{version}"), &known, "ESMTP", "[192.0.2.7]");
        let tls = s.tls(&[&["--tls"], &known[..]].concat());
        s.arrives(port, &format!("proxied-{version}-tls"), &tls, "ESMTPS", "[192.0.2.7]");
        let stranger = header(version, family, "198.51.100.9", "203.0.113.1");
        s.refused(port, &format!("stranger-{version}"), &stranger, &REFUSED_MAIL_OR_RCPT, " 5.7.1");
        let six = header(version, if version == "1" { "TCP6" } else { "AF_INET6" }, "2001:db8::7", "2001:db8::1");
        s.refused(port, &format!("six-{version}"), &six, &REFUSED_MAIL_OR_RCPT, " 5.7.1");
    }
    // Without the header nothing is said to it: no greeting, no mail.
    let ran = s.send(port, "no-header", &["--timeout", "5"]);
    assert!(ran.code != Some(0) && !ran.said.contains("<-  220 "), "{}", ran.said);
    // And a header where none is due is no way in: it is a command, and an unknown one.
    let known = header("1", "TCP4", "192.0.2.7", "203.0.113.1");
    let ran = s.send(s.edge.ports.relay, "not-trusted", &known);
    assert_ne!(ran.code, Some(0), "{}", ran.said);
}

#[test]
fn xclient() {
    let Some(s) = Swaks::start() else { return };
    let port = s.edge.ports.xclient;
    let known = ["--xclient-addr", "192.0.2.8", "--xclient-name", "named.test", "--xclient-helo", "said.test"];
    s.arrives(port, "xclient", &known, "ESMTP", "[192.0.2.8]");
    // TLS first, then XCLIENT, as swaks does it unless told otherwise.
    s.arrives(port, "xclient-tls", &s.tls(&[&["--tls"], &known[..]].concat()), "ESMTPS", "[192.0.2.8]");
    let stranger = ["--xclient-addr", "198.51.100.9"];
    s.refused(port, "xclient-stranger", &stranger, &REFUSED_MAIL_OR_RCPT, " 5.7.1");
    // Where it is not trusted it is not offered, and not taken.
    let ran = s.send(s.edge.ports.relay, "xclient-not-trusted", &[&["--xclient-no-verify"], &known[..]].concat());
    assert!(ran.code != Some(0) && !ran.said.contains("-XCLIENT"), "{}", ran.said);
}
