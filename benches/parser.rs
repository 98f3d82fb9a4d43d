//! Command parsing and dot scanning, against the crate `smtp-proto` in the same run and on the same bytes.
//!
//! `command`: from a line with its CRLF to a parsed command.
//!
//! `receive`: from the bytes behind 354 to a message that may be relayed, in a buffer that is used again. A relay has to
//! refuse bare CR, bare LF and NUL (SMTP smuggling). Our scanner does so in its one pass; smtp-proto's receiver leaves it
//! to its caller, so its side of the comparison is the receiver and the plain way to check (`smtp-proto+checks`). The row
//! `smtp-proto` is its receiver alone, which does less work. `scan` is the same without collecting the message.
//!
//! `session` is the whole server machine, for which smtp-proto has no counterpart.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::message::MessageId;
use ringpost::smtp::command::{self, Line};
use ringpost::smtp::data::DataScanner;
use ringpost::smtp::server::{PeerFacts, Server, ServerPolicy, Step, Verdict};
use ringpost::time::Moment;
use smtp_proto::Request;
use smtp_proto::request::receiver::{DataReceiver, DummyDataReceiver, RequestReceiver};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

const LINES: [(&str, &[u8]); 5] = [
    ("ehlo", b"EHLO client-17.mail.example.org\r\n"),
    ("mail", b"MAIL FROM:<some.sender@client-17.example.org> SIZE=4096 BODY=8BITMIME\r\n"),
    ("mail-plain", b"MAIL FROM:<some.sender@client-17.example.org>\r\n"),
    ("rcpt", b"RCPT TO:<firstname.lastname@department.example.com>\r\n"),
    ("data", b"DATA\r\n"),
];

fn commands(c: &mut Criterion) {
    let mut group = c.benchmark_group("command");
    for (name, line) in LINES {
        group.bench_function(format!("{name}/ringpost"), |b| {
            b.iter(|| {
                let Line::Whole(line) = command::find_line(black_box(line), ringpost::limits::COMMAND_LINE_BYTES)
                else {
                    panic!("a whole line")
                };
                black_box(command::parse(line)).is_ok()
            });
        });
        group.bench_function(format!("{name}/smtp-proto"), |b| {
            b.iter(|| black_box(Request::parse(&mut black_box(line).iter())).is_ok());
        });
    }
    let pipelined = LINES.map(|(_, line)| line).concat();
    group.bench_function("pipelined/ringpost", |b| {
        b.iter(|| {
            let (mut rest, mut good) = (black_box(pipelined.as_slice()), 0);
            while let Line::Whole(line) = command::find_line(rest, ringpost::limits::COMMAND_LINE_BYTES) {
                good += u32::from(black_box(command::parse(line)).is_ok());
                rest = &rest[line.len() + 2..];
            }
            assert_eq!(good, 5);
        });
    });
    group.bench_function("pipelined/smtp-proto", |b| {
        let mut receiver = RequestReceiver::default();
        b.iter(|| {
            let (mut bytes, mut good) = (black_box(pipelined.as_slice()).iter(), 0);
            while !bytes.as_slice().is_empty() {
                good += u32::from(black_box(receiver.ingest(&mut bytes)).is_ok());
            }
            assert_eq!(good, 5);
        });
    });
    group.finish();
}

/// A message of about `size` octets: headers, then lines of 78 characters.
fn message(size: usize) -> Vec<u8> {
    let mut body = b"Received: from app-1.example.org ([192.0.2.1]) by out.example.org with ESMTP;\r\n\
        \tSat, 1 Nov 2025 10:00:00 +0000\r\nFrom: Some Sender <some.sender@example.org>\r\n\
        To: firstname.lastname@example.com\r\nSubject: an ordinary message\r\n\
        Message-ID: <0123456789abcdef@example.org>\r\n\r\n"
        .to_vec();
    while body.len() + 83 <= size {
        let first = body.len();
        body.extend((first..first + 78).map(|i| b'a' + (i % 26) as u8));
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b".\r\n");
    body
}

/// The plain way to refuse bare CR, bare LF and NUL.
fn only_crlf(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some(distance) = memchr::memchr3(b'\r', b'\n', 0, &bytes[at..]) {
        at += distance;
        if !bytes[at..].starts_with(b"\r\n") {
            return false;
        }
        at += 2;
    }
    true
}

fn data(c: &mut Criterion) {
    let mut group = c.benchmark_group("data");
    for (name, size) in [("4KiB", 4 << 10), ("64KiB", 64 << 10)] {
        let body = message(size);
        group.throughput(Throughput::Bytes(body.len() as u64));
        let mut buffer = Vec::with_capacity(body.len());
        group.bench_function(format!("receive/{name}/ringpost"), |b| {
            b.iter(|| {
                buffer.clear();
                let bytes = black_box(body.as_slice());
                let mut scanner = DataScanner::new(1 << 30);
                let scanned = scanner.scan(bytes);
                buffer.extend_from_slice(&bytes[..scanned.consumed]);
                assert!(scanned.ended && scanner.fault().is_none());
                black_box(buffer.as_slice());
            });
        });
        group.bench_function(format!("receive/{name}/smtp-proto"), |b| {
            b.iter(|| {
                buffer.clear();
                assert!(DataReceiver::new().ingest(&mut black_box(body.as_slice()).iter(), &mut buffer));
                black_box(buffer.as_slice());
            });
        });
        group.bench_function(format!("receive/{name}/smtp-proto+checks"), |b| {
            b.iter(|| {
                buffer.clear();
                assert!(DataReceiver::new().ingest(&mut black_box(body.as_slice()).iter(), &mut buffer));
                assert!(only_crlf(black_box(buffer.as_slice())));
            });
        });
        group.bench_function(format!("scan/{name}/ringpost"), |b| {
            b.iter(|| {
                let mut scanner = DataScanner::new(1 << 30);
                assert!(scanner.scan(black_box(body.as_slice())).ended && scanner.fault().is_none());
            });
        });
        group.bench_function(format!("scan/{name}/smtp-proto"), |b| {
            b.iter(|| {
                let mut receiver = DummyDataReceiver::new_data(&DataReceiver::new());
                assert!(receiver.ingest(&mut black_box(body.as_slice()).iter()));
            });
        });
    }
    group.finish();
}

fn session(c: &mut Criterion) {
    let policy = Arc::new(ServerPolicy::new("mx.example", 1 << 20, 100));
    let facts = PeerFacts::new(IpAddr::V4(Ipv4Addr::LOCALHOST), true);
    let now = Moment(0);
    let body = message(4 << 10);
    let mut out = Vec::with_capacity(1024);
    let mut server = Server::new(policy, facts, now, &mut out);
    server.step(LINES[0].1, now, &mut out);
    c.bench_function("session/transaction-4KiB", |b| {
        b.iter(|| {
            for input in [LINES[1].1, LINES[3].1, LINES[4].1, body.as_slice()] {
                out.clear();
                let mut at = 0;
                loop {
                    let (n, step) = server.step(black_box(&input[at..]), now, &mut out);
                    at += n;
                    match step {
                        Step::Message => server.handle_verdict(Verdict::Accepted(MessageId(1)), now, &mut out),
                        Step::NeedInput => break,
                        other => {
                            black_box(other);
                        }
                    }
                }
                black_box(out.as_slice());
            }
        });
    });
}

criterion_group!(benches, commands, data, session);
criterion_main!(benches);
