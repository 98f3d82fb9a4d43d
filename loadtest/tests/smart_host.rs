//! A smart host that wants a login, and a relay that has one: the relay itself is both. TLS by STARTTLS and from the first
//! octet, each mechanism that there is; and what becomes of mail when the login is wrong.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::certs::Pki;
use common::edge::{Edge, EdgeSetup, PASSWORD};
use common::{Client, wait_until};
use loadtest::relay::{Relay, RelayConfig, signal};
use rustix::process::Signal;

/// The relay that is to log in, with its spool in a folder of its own.
struct Sender {
    relay: Relay,
    login: PathBuf,
    dir: PathBuf,
}

impl Sender {
    fn start(edge: &Edge, name: &str, port: u16, login: Option<&str>, lines: &str) -> Sender {
        let dir = edge.dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        let file = dir.join("login");
        let mut config = RelayConfig::new(dir.join("spool"), edge.bench.relay.config().dns, 25).unwrap();
        config.shards = 1;
        config.hostname = "sender.test".into();
        config.retry_first = Some("1s".into());
        config.retry_max = Some("1s".into());
        config.smart_host = Some(format!("127.0.0.1:{port}"));
        config.delivery = lines.to_owned();
        if let Some(login) = login {
            write(&file, login);
            config.delivery += &format!("smart_host_auth = {:?}\n", file.display().to_string());
        }
        config.extra = format!("\n[tls]\ntrust = {:?}\n", edge.pki.ca.display().to_string());
        let relay = Relay::start(common::relay_command().unwrap(), config, &dir).unwrap();
        Sender { relay, login: file, dir }
    }

    fn send(&self, mark: &str) {
        let mut client = Client::connect(self.relay.address());
        client.expect("EHLO client.test", "250");
        let text = format!(
            "From: alice@d0001.test\r\nTo: b@d0002.test\r\nDate: Sat, 21 Nov 2026 10:00:00 +0000\r\n\
             Message-ID: <{mark}@d0001.test>\r\nSubject: {mark}\r\n\r\nHello\r\n"
        );
        client.send("alice@d0001.test", &["b@d0002.test"], text.as_bytes());
    }

    fn events(&self) -> String {
        fs::read_to_string(&self.relay.config().events).unwrap_or_default()
    }

    /// The mail waits, the operator reads why, and nobody is sent a bounce.
    fn assert_waits(&self, why: &str) {
        wait_until("the operator is told", || self.events().contains(why));
        let events = self.events();
        let told = events.lines().find(|line| line.contains(why)).unwrap();
        assert!(told.contains("suspended"), "{told}");
        assert!(!events.contains("\"bounced\"") && !events.contains("\"delivered\""), "{events}");
    }
}

fn write(file: &Path, login: &str) {
    fs::write(file, login).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

fn edge(bob: bool) -> Option<Edge> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let pki = Pki::make_for(dir.path(), &["relay.test", "127.0.0.1"]);
    Edge::start_with(EdgeSetup { bob, ..EdgeSetup::default() }, dir, pki)
}

#[test]
fn the_login_is_shown_under_verified_tls_and_mail_goes() {
    // With bob there is no SCRAM, and PLAIN is left.
    for (bob, account) in [(false, "alice"), (true, "bob")] {
        let Some(edge) = edge(bob) else { return };
        let login = format!("{account}:{PASSWORD}\n");
        for (name, port, lines) in [
            ("starttls", edge.ports.submission, ""),
            ("implicit", edge.ports.submissions, "smart_host_implicit_tls = true\n"),
        ] {
            let sender = Sender::start(&edge, name, port, Some(&login), lines);
            let mark = format!("{account}-{name}");
            sender.send(&mark);
            let kept = edge.arrived(&mark);
            let text = String::from_utf8(kept.text()).unwrap();
            assert!(text.contains(" with ESMTPSA "), "{text}");
            wait_until("the delivery is told", || sender.events().contains("\"delivered\""));
            let events = sender.events();
            assert!(events.contains("\"verified\":\"pkix\"") && events.contains("\"proof\":\"pkix\""), "{events}");
        }
    }
}

#[test]
fn a_wrong_password_keeps_mail_until_it_is_right_and_returns_none() {
    let Some(edge) = edge(false) else { return };
    let sender = Sender::start(&edge, "wrong", edge.ports.submission, Some("alice:wrong"), "");
    sender.send("patience-1");
    sender.send("patience-2");
    sender.assert_waits("did not take our login (auth of the route): 535 5.7.8");
    // The operator mends it: without a restart.
    write(&sender.login, &format!("alice:{PASSWORD}\n"));
    signal(sender.relay.pid(), Signal::HUP).unwrap();
    edge.arrived("patience-1");
    edge.arrived("patience-2");
    assert!(!sender.events().contains("\"bounced\""), "{}", sender.events());
}

#[test]
fn a_login_that_is_wanted_and_missing_keeps_mail_as_well() {
    let Some(edge) = edge(false) else { return };
    let sender = Sender::start(&edge, "none", edge.ports.submission, None, "smart_host_tls = \"require\"\n");
    sender.send("nobody");
    sender.assert_waits("wants a login that it takes (auth of the route): 530 5.7.0");
}

#[test]
fn no_login_is_shown_to_a_host_that_nobody_vouches_for_or_in_the_clear() {
    let Some(edge) = Edge::start(EdgeSetup::default()) else { return };
    // Its certificate is not for the address.
    let login = format!("alice:{PASSWORD}\n");
    let sender = Sender::start(&edge, "name", edge.ports.submission, Some(&login), "");
    sender.send("stranger");
    sender.assert_waits("its certificate is for other names");
    let open = "smart_host_tls = \"opportunistic\"\n";
    let plain = edge.bench.sink().port();
    let sender = Sender::start(&edge, "clear", plain, Some(&login), open);
    sender.send("clear");
    sender.assert_waits("there is no TLS, and without it nobody logs in");
    // A file that everybody can read is none.
    fs::set_permissions(&sender.login, fs::Permissions::from_mode(0o644)).unwrap();
    let Sender { mut relay, dir, .. } = sender;
    assert!(relay.restart(|_| {}).is_err());
    let log = fs::read_to_string(dir.join("relay.log")).unwrap();
    assert!(log.contains("everybody may read it"), "{log}");
}
