//! Mail goes in and comes out: whole, traced, to the right exchanger; and only for those who may.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Bench, Setup};
use loadtest::send::Source;
use std::process::{Command, Stdio};

#[test]
fn messages_arrive_whole() {
    let Some(bench) = Bench::start(Setup { shards: 2, ..Setup::default() }) else { return };
    for pipelining in [false, true] {
        let mut load = bench.load(500);
        load.pipelining = pipelining;
        load.first_id = if pipelining { 1000 } else { 0 };
        load.traffic.recipients = 2;
        let sent = Source::run(load).unwrap();
        assert_eq!((sent.accepted, sent.refused, sent.unsent), (1000, 0, 0), "{:?}", sent.failures);
        bench.wait_all_arrived(&sent);
    }
    let stats = bench.sink().stats();
    assert_eq!((stats.unique, stats.duplicates, stats.foreign), (2000, 0, 0));
}

#[test]
fn a_received_header_is_prepended_and_nothing_else_changes() {
    let Some(bench) = Bench::start(Setup { keep: 10, ..Setup::default() }) else { return };
    // Dots, an empty line, octets above 127, a line of 998 octets, no final text line.
    let mut wire = b"Subject: x\r\nFrom: a@d0001.test\r\n\r\n..dot\r\n...\r\n\r\n\xff\xfe 8bit\r\n".to_vec();
    wire.extend(std::iter::repeat_n(b'y', 998));
    wire.extend_from_slice(b"\r\n\r\n");
    let mut c = bench.client();
    let ehlo = c.expect("EHLO client.test", "250");
    for extension in ["PIPELINING", "8BITMIME", "SIZE ", "ENHANCEDSTATUSCODES"] {
        assert!(ehlo.contains(extension), "{ehlo}");
    }
    c.send("a@d0001.test", &["somebody@d0007.test"], &wire);
    c.expect("QUIT", "221");
    let kept = bench.wait_kept("the message", |_| true);
    assert_eq!((kept.mail_from.as_str(), kept.recipients), ("a@d0001.test", vec!["somebody@d0007.test".to_string()]));
    let added = kept.wire.strip_suffix(wire.as_slice()).expect("the message is as it was sent");
    let added = String::from_utf8(added.to_vec()).unwrap();
    assert!(added.starts_with("Received: from client.test"), "{added}");
    assert!(added.contains("by relay.test") && added.contains("127.0.0.1"), "{added}");
    // One header: every further line is folded.
    let lines: Vec<&str> = added.strip_suffix("\r\n").unwrap().split("\r\n").collect();
    assert!(lines[1..].iter().all(|l| l.starts_with([' ', '\t'])), "{added}");
}

#[test]
fn strangers_may_not_relay() {
    let config = Box::new(|c: &mut loadtest::relay::RelayConfig| c.from_networks = vec!["192.0.2.0/24".into()]);
    let Some(bench) = Bench::start(Setup { config, ..Setup::default() }) else { return };
    let mut c = bench.client();
    c.expect("EHLO client.test", "250");
    let mail = c.command("MAIL FROM:<a@d0001.test>");
    let reply = if mail.starts_with("250") { c.command("RCPT TO:<b@d0002.test>") } else { mail };
    assert!(reply.starts_with("550 5.7.1"), "{reply}");
    c.expect("QUIT", "221");
    assert_eq!(bench.sink().stats().connections, 0);
}

/// As behind `| head`: nobody has done anything wrong, so nothing is said of it.
#[test]
fn programs_end_in_silence_when_their_reader_does() {
    for args in [&["simulate", "--seeds", "0..1"][..], &["relay", "shaping", "explain", "d.test", "--mx", "mx.d.test"]]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
        let mut program = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(program.stdout.take());
        let ended = program.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(128 + 13), "{args:?}");
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{args:?}");
    }
}
