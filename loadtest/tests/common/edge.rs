//! The relay as a complete server: TLS, accounts, every kind of listener, and its messages as they come out behind it.
//!
//! In: what a test adds to the configuration. Out: an [`Edge`] on free ports, relaying to the bench's sink or to a next hop
//! of the test's choice. The configuration is the whole contract: nothing here knows how the relay does it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use loadtest::relay::{RelayConfig, free_port};
use loadtest::sink::Kept;
use tempfile::TempDir;

use super::certs::Pki;
use super::{Bench, Setup};

/// Of both accounts.
pub const PASSWORD: &str = "correct horse battery";

/// alice has SCRAM keys (RFC 5803 as PostgreSQL writes them) of [`PASSWORD`].
const ALICE: &str = r#"[[account]]
name = "alice"
secret = "SCRAM-SHA-256$4096:cmluZ3Bvc3QgdGVzdCBzbA==$D8pWvJMF8kot/DN60nCmL2v401dg5iTIY0e4Prh5SZs=:6NGIvni2P3XJtiN6KLREHxfdH00GyK2tphY95OOKNuU="
from = ["@d0001.test"]
"#;

/// bob has an argon2id hash of it. Where there is one like him, SCRAM is not offered: he could not use it.
const BOB: &str = r#"
[[account]]
name = "bob"
secret = "$argon2id$v=19$m=19456,t=2,p=1$smc0A/hvJfhVxXjhiJzKgQ$w5Cq4CLN9uiAb1NYIvekTpT/nO9uD3vrV69JICMzkOw"
from = ["@d0001.test"]
"#;

/// Port of each listener.
#[derive(Clone, Copy)]
pub struct Ports {
    /// `relay`, with STARTTLS offered, for 127.0.0.0/8.
    pub relay: u16,
    /// `submission`, with STARTTLS.
    pub submission: u16,
    /// `submissions`: TLS from the first octet.
    pub submissions: u16,
    /// `relay`, each connection with a PROXY header.
    pub proxied: u16,
    /// `relay`, with XCLIENT.
    pub xclient: u16,
}

/// A relay with all that.
pub struct Edge {
    pub bench: Bench,
    pub pki: Pki,
    pub ports: Ports,
    /// Certificates and accounts; the test's own files too.
    pub dir: TempDir,
}

/// What a test wants of it.
#[derive(Default)]
pub struct EdgeSetup {
    /// Port on 127.0.0.1 of a next hop instead of the sink.
    pub next_hop: Option<u16>,
    /// TOML for the end of the configuration.
    pub extra: String,
    /// TOML for the account alice.
    pub alice: String,
    /// There is bob too.
    pub bob: bool,
    /// Loopback is the world: it may not relay.
    pub loopback_is_foreign: bool,
}

impl Edge {
    /// `None`: there is no relay to test.
    pub fn start(setup: EdgeSetup) -> Option<Edge> {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let pki = Pki::make(dir.path());
        Edge::start_with(setup, dir, pki)
    }

    /// As [`Edge::start`], with certificates that the test has looked at.
    pub fn start_with(setup: EdgeSetup, dir: TempDir, pki: Pki) -> Option<Edge> {
        let port = || free_port().unwrap();
        let mut ports = Ports { relay: 0, submission: port(), submissions: port(), proxied: port(), xclient: port() };
        let accounts = dir.path().join("accounts.toml");
        private_file(
            &accounts,
            &(ALICE.replacen("from =", &format!("{}\nfrom =", setup.alice), 1) + if setup.bob { BOB } else { "" }),
        );
        let mut extra = format!(
            "\n[tls]\ncertificates = [{{ certificate = {:?}, key = {:?} }}]\nclient_ca = {:?}\n\n\
            [accounts]\nfile = {accounts:?}\n",
            pki.certificate, pki.key, pki.ca
        );
        for (port, kind, more) in [
            (ports.submission, "submission", ""),
            (ports.submissions, "submissions", ""),
            (ports.proxied, "relay", "proxy_networks = [\"127.0.0.0/8\"]\n"),
            (ports.xclient, "relay", "xclient_networks = [\"127.0.0.0/8\"]\n"),
        ] {
            extra += &format!("\n[[listener]]\naddress = \"127.0.0.1:{port}\"\nkind = \"{kind}\"\n{more}");
        }
        extra += &setup.extra;
        let next_hop = setup.next_hop;
        let config = Box::new(move |c: &mut RelayConfig| {
            c.smart_host = next_hop.map(|port| format!("127.0.0.1:{port}"));
            // Whom PROXY and XCLIENT speak for: 192.0.2.0/24 may relay, others may not.
            if setup.loopback_is_foreign {
                c.from_networks.clear();
            }
            c.from_networks.push("192.0.2.0/24".into());
            c.extra = extra;
        });
        let bench = Bench::start(Setup { keep: 1000, config, ..Setup::default() })?;
        ports.relay = bench.relay.address().port();
        Some(Edge { bench, pki, ports, dir })
    }

    /// The one message whose text holds `mark`.
    pub fn arrived(&self, mark: &str) -> Kept {
        let holds = |k: &Kept| memchr::memmem::find(&k.wire, mark.as_bytes()).is_some();
        self.bench.wait_kept(&format!("a message with {mark:?}"), holds)
    }
}

fn private_file(path: &Path, text: &str) {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A message, lines ending in CRLF, that no rule of submission has anything to add to; `mark` is found in it once. It
/// holds what transports get wrong: dots, folds, trailing space, `From `.
pub fn message(mark: &str) -> Vec<u8> {
    format!(
        "From: alice@d0001.test\nTo: b@d0002.test\nSubject: real peers\nDate: Sat, 21 Nov 2026 10:00:00 +0000\n\
        Message-ID: <{mark}@d0001.test>\nX-Fold: one\n  two\n\n\
        .a dot\n..two dots\n.\n\n trailing space \nFrom here\nthe end of it\n"
    )
    .replace('\n', "\r\n")
    .into_bytes()
}

/// What stands before the message: `text` must end with `message`, and before it only what those who pass mail on add
/// (RFC 5321 §4.4; RFC 9228): these headers, the newest first, unfolded.
pub fn trace_before(text: &[u8], message: &[u8]) -> Vec<String> {
    let shown = || String::from_utf8_lossy(text).into_owned();
    let before = text.strip_suffix(message).unwrap_or_else(|| panic!("changed:\n{}", shown()));
    let before = String::from_utf8(before.to_vec()).unwrap().replace("\r\n\t", " ").replace("\r\n ", " ");
    let fields: Vec<String> = before.lines().map(String::from).collect();
    let is_trace = |f: &String| ["Received: ", "Return-Path: ", "Delivered-To: "].iter().any(|n| f.starts_with(n));
    assert!(!fields.is_empty() && fields.iter().all(is_trace), "not only trace headers:\n{}", shown());
    fields
}

/// The relay's own Received header says that the message came `with` this protocol (RFC 3848, RFC 6531 §3.7.3), from the
/// client that `from` stands for.
pub fn assert_received(kept: &Kept, message: &[u8], with: &str, from: &str) {
    let trace = trace_before(&kept.text(), message);
    assert_traced(&trace, with, from);
}

/// As [`assert_received`], of the trace headers that [`trace_before`] gave.
pub fn assert_traced(trace: &[String], with: &str, from: &str) {
    let own =
        trace.iter().find(|f| f.contains("by relay.test")).unwrap_or_else(|| panic!("not by the relay: {trace:?}"));
    assert!(own.contains(&format!(" with {with} ")) && own.contains(from), "not with {with} from {from}: {own}");
}
