//! Scanners: testssl.sh finds no weakness of grade MEDIUM or worse in TLS, nmap no open relay. Needs of the relay:
//! `[tls]`, `[accounts]`, `[[listener]]`.

#![allow(clippy::unwrap_used)]

mod common;

use common::edge::{Edge, EdgeSetup};
use common::programs::{Program, text};

/// What is scanned: protocols, kinds of ciphers, forward secrecy, the server's preference and defaults, vulnerabilities.
/// Not: each cipher there ever was, and how some hundred browsers would fare, which takes minutes and finds nothing more.
const CHECKS: [&str; 6] = ["-p", "-s", "-f", "-P", "-S", "-U"];

/// Findings of a scan as (what, grade, text).
fn scan(testssl: &Program, edge: &Edge, port: u16, options: &[&str]) -> Vec<(String, String, String)> {
    let report = edge.dir.path().join(format!("testssl-{port}.json"));
    let mut command = testssl.command();
    command.args(["--quiet", "--warnings", "batch", "--color", "0", "--ip", "127.0.0.1"]);
    command.arg("--add-ca").arg(&edge.pki.ca).arg("--jsonfile").arg(&report).args(CHECKS).args(options);
    let output = command.arg(format!("localhost:{port}")).output().unwrap();
    let said = text(&output);
    let json = std::fs::read(&report).unwrap_or_else(|e| panic!("{e}: {said}"));
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&json).unwrap_or_else(|e| panic!("{e}: {said}"));
    let field = |f: &serde_json::Value, name: &str| f[name].as_str().unwrap_or_default().to_string();
    findings.iter().map(|f| (field(f, "id"), field(f, "severity"), field(f, "finding"))).collect()
}

/// The scan has come to its end, has seen TLS 1.2 and 1.3, and complains of nothing.
fn assert_strong(findings: &[(String, String, String)]) {
    let finding = |id: &str| findings.iter().find(|f| f.0 == id).map(|f| f.2.as_str());
    for (id, wanted) in
        [("TLS1", "not offered"), ("TLS1_1", "not offered"), ("TLS1_2", "offered"), ("TLS1_3", "offered")]
    {
        assert!(finding(id).is_some_and(|f| f.starts_with(wanted)), "{id}: {:?} in {findings:#?}", finding(id));
    }
    // The last of the vulnerabilities that it looks for.
    assert!(finding("RC4").is_some(), "the scan has no end: {findings:#?}");
    let bad = ["MEDIUM", "HIGH", "CRITICAL", "FATAL"];
    let bad: Vec<_> = findings.iter().filter(|f| bad.contains(&f.1.as_str())).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn testssl_finds_no_weakness_behind_starttls() {
    let Some(testssl) = Program::find("testssl") else { return };
    let Some(edge) = Edge::start(EdgeSetup::default()) else { return };
    assert_strong(&scan(&testssl, &edge, edge.ports.relay, &["-t", "smtp"]));
}

#[test]
fn testssl_finds_no_weakness_in_implicit_tls() {
    let Some(testssl) = Program::find("testssl") else { return };
    let Some(edge) = Edge::start(EdgeSetup::default()) else { return };
    assert_strong(&scan(&testssl, &edge, edge.ports.submissions, &[]));
}

/// What nmap's script says of the port.
fn open_relay(nmap: &Program, port: u16) -> String {
    // The plus: although the port is not 25.
    let arguments = ["-n", "-Pn", "-sT", "--script", "+smtp-open-relay", "-p", &port.to_string(), "127.0.0.1"];
    text(&nmap.run(arguments))
}

#[test]
fn nmap_finds_no_open_relay() {
    let Some(nmap) = Program::find("nmap") else { return };
    let foreign = EdgeSetup { loopback_is_foreign: true, ..EdgeSetup::default() };
    let Some(edge) = Edge::start(foreign) else { return };
    for port in [edge.ports.relay, edge.ports.submission] {
        let said = open_relay(&nmap, port);
        let closed = ["Server doesn't seem to be an open relay, all tests failed", "Server isn't an open relay"];
        assert!(closed.iter().any(|c| said.contains(c)), "{said}");
    }
    // The same script finds one where there is one: a relay that trusts the scanner's network.
    let Some(edge) = Edge::start(EdgeSetup::default()) else { return };
    let said = open_relay(&nmap, edge.ports.relay);
    assert!(said.contains("Server is an open relay"), "{said}");
}
