//! Proof, by counting, that neither machine allocates for a command, a reply or a piece of data.
#![allow(clippy::unwrap_used)]

use super::client::{Client, ClientEvent, ClientTimeouts, MailParams, Outcome, Transmit};
use super::command;
use super::server::{PeerFacts, Server, ServerPolicy, Step, Verdict};
use crate::message::MessageId;
use crate::rt::alloc::allocations;
use crate::time::Moment;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

const NOW: Moment = Moment(0);
const PEER: PeerFacts = PeerFacts::new(IpAddr::V4(Ipv4Addr::LOCALHOST), true);

fn counted(work: impl FnOnce()) -> u64 {
    let before = allocations();
    work();
    allocations() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(counted(|| drop(black_box(Box::new(1)))), 1);
    assert_eq!(counted(|| drop(black_box(vec![0u8; 10]))), 1);
}

#[test]
fn parsing_allocates_nothing() {
    let lines: [&[u8]; 8] = [
        b"EHLO client.example",
        b"MAIL FROM:<sender@client.example> SIZE=4096 BODY=8BITMIME",
        b"RCPT TO:<@route.example:user@[IPv6:2001:db8::1]>",
        b"RCPT TO:<\"quoted string\"@example.org>",
        b"DATA",
        b"MAIL FROM:<broken",
        b"bogus",
        b"\xff\x00",
    ];
    assert_eq!(
        counted(|| {
            for line in lines {
                let _ = black_box(command::parse(line));
            }
        }),
        0
    );
}

fn run(server: &mut Server, input: &[u8], out: &mut Vec<u8>, sink: &mut Vec<u8>) {
    let mut at = 0;
    loop {
        let (n, step) = server.step(&input[at..], NOW, out);
        at += n;
        match step {
            Step::Body(piece) => sink.extend_from_slice(piece),
            Step::Message => server.handle_verdict(Verdict::Accepted(MessageId(1)), NOW, out),
            Step::Discarded(_) | Step::Refused(_) => {}
            Step::Ask | Step::StartTls | Step::Dropped => unreachable!("nothing of that is used here"),
            Step::NeedInput | Step::Blocked | Step::Close => return,
        }
    }
}

#[test]
fn the_server_allocates_nothing_before_a_transaction_and_nothing_from_the_second_on() {
    let policy = Arc::new(ServerPolicy::new("mx.example", 1 << 20, 100));
    let (mut out, mut sink) = (Vec::with_capacity(1 << 16), Vec::with_capacity(1 << 16));
    let body = b"Received: x\r\nSubject: y\r\n\r\nbody\r\n..\r\n.\r\n".to_vec();
    let mut server = None;
    let idle = counted(|| {
        let mut s = Server::new(Arc::clone(&policy), PEER, NOW, &mut out);
        run(&mut s, b"EHLO client.example\r\nNOOP\r\nbogus\r\nRSET\r\n", &mut out, &mut sink);
        server = Some(s);
    });
    assert_eq!(idle, 0);
    let mut server = server.unwrap();
    let mut transaction = |server: &mut Server| {
        out.clear();
        sink.clear();
        run(server, b"MAIL FROM:<a@b.example> SIZE=4096\r\n", &mut out, &mut sink);
        run(server, b"RCPT TO:<c@d.example>\r\nRCPT TO:<e@f.example>\r\nRCPT TO:<broken>\r\n", &mut out, &mut sink);
        run(server, b"DATA\r\n", &mut out, &mut sink);
        run(server, &body, &mut out, &mut sink);
        run(server, b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nbare\n\r\n.\r\n", &mut out, &mut sink);
        assert!(out.windows(9).any(|w| w == b"250 2.0.0") && out.windows(9).any(|w| w == b"554 5.6.0"));
        assert!(sink.starts_with(&body));
    };
    assert!(counted(|| transaction(&mut server)) > 0, "the envelope's buffers");
    assert_eq!(counted(|| (0..100).for_each(|_| transaction(&mut server))), 0);
}

#[test]
fn the_client_allocates_nothing_from_the_second_transaction_on() {
    let mut client = Client::new("relay.example".into(), ClientTimeouts::default(), NOW);
    client.handle_input(b"220 hi\r\n", NOW);
    client.handle_input(b"250-mx\r\n250-SIZE\r\n250 PIPELINING\r\n", NOW);
    while client.poll_event().is_some() {}
    while client.poll_transmit().is_some() {}
    client.transmitted();
    let recipients: [&[u8]; 2] = [b"a@b.example", b"c@d.example"];
    let transaction = |client: &mut Client, token| {
        client.start(token, b"s@t.example", recipients, &MailParams::new(4096, false), NOW);
        while client.poll_transmit().is_some() {}
        client.transmitted();
        client.handle_input(b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n550 5.1.1 no\r\n354 go\r\n", NOW);
        let mut bodies = 0;
        while let Some(t) = client.poll_transmit() {
            bodies += u32::from(t == Transmit::Body { token });
            client.body_sent(token, NOW);
        }
        client.transmitted();
        client.handle_input(b"250 2.0.0 que", NOW);
        client.handle_input(b"ued\r\n", NOW);
        let mut accepted = 0;
        while let Some(event) = client.poll_event() {
            accepted += u32::from(matches!(event, ClientEvent::Finished { outcome: Outcome::Accepted(_), .. }));
        }
        assert_eq!((bodies, accepted), (1, 1));
    };
    transaction(&mut client, 1);
    assert_eq!(counted(|| (2..100).for_each(|token| transaction(&mut client, token))), 0);
}
