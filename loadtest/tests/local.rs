//! Local domains with the real binary and real files: whatever is acknowledged is in the Maildir, whenever the relay is killed;
//! who is not there is known at once, also after the files are read again.
//!
//! Longer: `LOADTEST_KILLS=100 cargo test --release -p loadtest --test local`.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::edge::message;
use common::{Bench, Setup, env_number, wait_until};
use loadtest::relay::RelayConfig;
use tempfile::TempDir;

/// A relay whose domain local.test has Maildirs, for alice and bob.
fn with_maildirs(shards: usize) -> Option<(TempDir, Bench)> {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = |name: &str| root.path().join(name);
    fs::create_dir(path("local.test")).unwrap();
    fs::write(path("mailboxes"), "alice\nbob\n").unwrap();
    fs::write(path("aliases"), "postmaster: alice\nabuse: alice\nteam: alice, bob\n").unwrap();
    let local = format!(
        "\n[[local]]\ndomains = [\"local.test\"]\ndeliver = \"maildir:{}/{{domain}}/{{mailbox}}\"\nmailboxes = {:?}\n\
         aliases = {:?}\n",
        root.path().display(),
        path("mailboxes"),
        path("aliases")
    );
    let config = Box::new(move |c: &mut RelayConfig| c.extra = local);
    let bench = Bench::start(Setup { shards, keep: 100, config, ..Setup::default() })?;
    Some((root, bench))
}

fn new(root: &Path, mailbox: &str) -> PathBuf {
    root.join("local.test").join(mailbox).join("new")
}

/// The messages of a mailbox.
fn texts(root: &Path, mailbox: &str) -> Vec<String> {
    let files = fs::read_dir(new(root, mailbox)).into_iter().flatten();
    files.map(|file| String::from_utf8(fs::read(file.unwrap().path()).unwrap()).unwrap()).collect()
}

#[test]
fn acknowledged_mail_is_in_the_maildir_after_kill_9() {
    let Some((root, mut bench)) = with_maildirs(2) else { return };
    let mut marks = Vec::new();
    for round in 0..env_number("LOADTEST_KILLS", 8) {
        let mut client = bench.client();
        client.expect("EHLO client.test", "250");
        for n in 0..20 {
            let mark = format!("r{round}n{n}e");
            let mut wire = message(&mark).replace_dots();
            if n % 10 == 9 {
                // In several pieces.
                wire.extend_from_slice(&b"0123456789012345678901234567890123456789\r\n".repeat(15_000));
            }
            client.send("a@d0001.test", &["team@local.test"], &wire);
            marks.push(mark);
        }
        std::thread::sleep(Duration::from_millis(round % 5 * 9));
        bench.relay.restart(|_| {}).unwrap();
    }
    for mailbox in ["alice", "bob"] {
        wait_until(&format!("all of {mailbox}'s mail"), || {
            let texts = texts(root.path(), mailbox);
            marks.iter().all(|mark| texts.iter().any(|text| text.contains(&format!("<{mark}@"))))
        });
        for text in texts(root.path(), mailbox) {
            assert!(text.starts_with("Return-Path: <a@d0001.test>\nDelivered-To: "), "{text}");
            assert!(text.ends_with("the end of it\n") || text.ends_with("0123456789\n"), "whole");
            assert!(text.contains("\n.a dot\n..two dots\n.\n"), "unstuffed");
        }
    }
    wait_until("the spool is empty", || bench.queued().is_empty());
}

#[test]
fn names_are_read_again_at_sighup_and_a_mistake_changes_nothing() {
    let Some((root, bench)) = with_maildirs(1) else { return };
    let replies = |to: &str| {
        let mut client = bench.client();
        client.expect("EHLO client.test", "250");
        client.expect("MAIL FROM:<a@d0001.test>", "250");
        client.command(&format!("RCPT TO:<{to}>"))
    };
    let reload = || {
        let id = bench.relay.pid().to_string();
        assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    };
    assert!(replies("carol@local.test").starts_with("550 5.1.1"));
    fs::write(root.path().join("mailboxes"), "alice\nbob\ncarol\n").unwrap();
    reload();
    wait_until("carol is known", || replies("carol@local.test").starts_with("250"));
    fs::write(root.path().join("aliases"), "team: |/bin/sh\n").unwrap();
    fs::write(root.path().join("mailboxes"), "alice\n").unwrap();
    reload();
    std::thread::sleep(Duration::from_millis(300));
    assert!(replies("carol@local.test").starts_with("250") && replies("team@local.test").starts_with("250"));
}

trait Stuffed {
    fn replace_dots(self) -> Vec<u8>;
}

impl Stuffed for Vec<u8> {
    /// As it goes over the wire: dots doubled.
    fn replace_dots(self) -> Vec<u8> {
        let lines = self.split_inclusive(|b| *b == b'\n');
        lines.flat_map(|line| [if line.starts_with(b".") { &b"."[..] } else { b"" }, line].concat()).collect()
    }
}
