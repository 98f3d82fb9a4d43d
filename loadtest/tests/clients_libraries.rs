//! Libraries that programs send with: Python's smtplib and aiosmtplib, nodemailer's pool. Behind the relay stands
//! Postfix, whose queue tells what came with MAIL and RCPT. Needs of the relay: `[tls]`, `[accounts]`, submission
//! listeners, and SMTPUTF8, 8BITMIME and DSN passed on to a next hop that announces them.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use common::edge::{Edge, EdgeSetup, PASSWORD, assert_received, assert_traced, message, trace_before};
use common::postfix::Postfix;
use common::programs::{Program, text};
use common::wait_until;

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(name)
}

/// Runs a script with the port, the authority's file, the password, and these.
fn run(program: &Program, name: &str, port: u16, edge: &Edge, more: &[&str]) {
    let mut command = program.command();
    command.arg(script(name)).arg(port.to_string()).arg(&edge.pki.ca).arg(PASSWORD).args(more);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{name}: {}\n{}", text(&output), edge.bench.relay.log_tail());
}

#[test]
fn smtplib_sends_8bit_utf8_and_dsn() {
    let Some(python) = Program::find("python3") else { return };
    let Some(hop) = Postfix::hop("") else { return };
    let Some(edge) = Edge::start(EdgeSetup { next_hop: Some(hop.port), ..EdgeSetup::default() }) else { return };
    let eight = [message("8bit"), "grüße\r\n".as_bytes().to_vec()].concat();
    let utf8 = String::from_utf8(message("utf8")).unwrap();
    let utf8 = utf8.replace("From: alice@", "From: älice@").replace("To: b@", "To: bøb@").replace("real", "réal");
    for (name, octets) in [("8bit", &eight[..]), ("utf8", utf8.as_bytes()), ("dsn", &message("dsn"))] {
        fs::write(edge.dir.path().join(name), octets).unwrap();
    }
    run(&python, "smtplib_session.py", edge.ports.submission, &edge, &[edge.dir.path().to_str().unwrap()]);

    let held = hop.held("<8bit@d0001.test>");
    assert_traced(&trace_before(&held.text, &eight), "ESMTPSA", "[127.0.0.1]");
    held.assert_has("sender: alice@d0001.test");

    // RFC 6531 §3.7.3: the protocol's name says that the envelope is not ASCII.
    let held = hop.held("<utf8@d0001.test>");
    assert_traced(&trace_before(&held.text, utf8.as_bytes()), "UTF8SMTPSA", "[127.0.0.1]");
    held.assert_has("sender: älice@d0001.test");
    held.assert_has("recipient: bøb@d0002.test");

    // RFC 3461 §5.2: all of it goes on to a next hop that announces DSN; Postfix keeps it without xtext. 2 is HDRS, 10 is SUCCESS and DELAY to Postfix.
    let held = hop.held("<dsn@d0001.test>");
    assert_traced(&trace_before(&held.text, &message("dsn")), "ESMTPSA", "[127.0.0.1]");
    held.assert_has("named_attribute: ret_flags=2");
    held.assert_has("named_attribute: envelope_id=env+id");
    held.assert_has("named_attribute: notify_flags=10");
    held.assert_has("named_attribute: dsn_orig_rcpt=rfc822;orig+inal@d0003.test");
}

#[test]
fn aiosmtplib_sends_in_parallel() {
    const SESSIONS: usize = 10;
    const MESSAGES: usize = 5;
    let Some(python) = Program::python_with("aiosmtplib") else { return };
    let Some(edge) = Edge::start(EdgeSetup::default()) else { return };
    let numbers = [SESSIONS.to_string(), MESSAGES.to_string()];
    let more = [numbers[0].as_str(), &numbers[1]];
    run(&python, "aiosmtplib_parallel.py", edge.ports.submissions, &edge, &more);
    for number in 0..SESSIONS {
        for i in 0..MESSAGES {
            let message = format!(
                "From: alice@d0001.test\r\nTo: b@d0002.test\r\nDate: Sat, 21 Nov 2026 10:00:00 +0000\r\n\
                Message-ID: <s{number}m{i}@d0001.test>\r\nSubject: parallel\r\n\r\n.dot {number} {i}\r\n"
            );
            let kept = edge.arrived(&format!("<s{number}m{i}@"));
            assert_received(&kept, message.as_bytes(), "ESMTPSA", "[127.0.0.1]");
        }
    }
    assert_eq!(edge.bench.sink().kept().len(), SESSIONS * MESSAGES);
}

#[test]
fn nodemailer_sends_through_a_pool() {
    const CONNECTIONS: usize = 5;
    const MESSAGES: usize = 50;
    let Some(node) = Program::node_with("nodemailer") else { return };
    let Some(hop) = Postfix::hop("") else { return };
    let Some(edge) = Edge::start(EdgeSetup { next_hop: Some(hop.port), ..EdgeSetup::default() }) else { return };
    let numbers = [CONNECTIONS.to_string(), MESSAGES.to_string()];
    run(&node, "nodemailer_pool.js", edge.ports.submissions, &edge, &[&numbers[0], &numbers[1]]);
    let mut clients = HashSet::new();
    for i in 0..MESSAGES {
        let held = hop.held(&format!("<pooled-{i}@d0001.test>"));
        held.assert_has("named_attribute: ret_flags=2");
        held.assert_has(&format!("named_attribute: envelope_id=id{i}"));
        // FAILURE and DELAY.
        held.assert_has("named_attribute: notify_flags=12");
        held.assert_has("named_attribute: dsn_orig_rcpt=rfc822;alice@d0001.test");
        let text = String::from_utf8_lossy(&held.text).into_owned();
        assert!(text.ends_with(&format!("\r\n\r\n.body {i}\r\n")), "changed:\n{text}");
        assert!(text.contains(" with ESMTPSA "), "{text}");
        clients.insert(text.lines().find(|l| l.starts_with("Message-ID:")).unwrap_or_default().to_string());
    }
    assert_eq!(clients.len(), MESSAGES);
    wait_until("each came once", || hop.held_count() == MESSAGES);
}
