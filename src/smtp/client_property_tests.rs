//! Properties of the client machine against peers that reply anything at all.
#![allow(clippy::unwrap_used)]

use super::client::{
    Awaited, Client, ClientEvent, ClientTimeouts, CloseReason, MailParams, Outcome, RefusedAt, Transmit,
};
use crate::properties::{cases, cuts, hostile, pieces};
use crate::time::Moment;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const NOW: Moment = Moment(1_000_000_000);

/// What is known of one transaction from the outside.
#[derive(Default)]
struct Seen {
    recipients: u32,
    refused: BTreeSet<u32>,
    body_asked: bool,
    body_sent: bool,
    finished: bool,
    flown: bool,
}

/// A driver that starts transactions whenever it may, and believes nothing.
struct Driver {
    client: Client,
    /// Recipients of those to come.
    pending: Vec<u32>,
    seen: BTreeMap<u64, Seen>,
    closed: bool,
    /// Bodies are given to the transport at once; otherwise they stay under way.
    sends_bodies: bool,
    wire: Vec<u8>,
    text: Vec<String>,
}

impl Driver {
    fn new(pending: Vec<u32>, sends_bodies: bool, flight: usize) -> Self {
        let mut client = Client::new("relay.example".into(), ClientTimeouts::default(), NOW);
        client.fly(flight);
        let (seen, wire, text) = (BTreeMap::new(), Vec::new(), Vec::new());
        Driver { client, pending, seen, closed: false, sends_bodies, wire, text }
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.client.handle_input(bytes, NOW);
        self.turn();
    }

    fn turn(&mut self) {
        self.events();
        while self.client.can_start() && !self.closed {
            let Some(recipients) = self.pending.pop() else { break };
            let token = self.seen.len() as u64;
            self.seen.insert(token, Seen { recipients, ..Seen::default() });
            let all = vec![&b"a@b.example"[..]; recipients as usize];
            // Each third would be forbidden to a peer without 8BITMIME.
            let params = MailParams { exact_size: token % 4 != 3, ..MailParams::new(10, token % 3 == 2) };
            let flown = self.client.start(token, b"s@t.example", all, &params, NOW);
            self.seen.get_mut(&token).unwrap().flown = flown;
            self.events();
        }
        while let Some(transmit) = self.client.poll_transmit() {
            match transmit {
                Transmit::Commands(range) => self.wire.extend_from_slice(self.client.commands(range)),
                Transmit::Body { token } | Transmit::Chunk { token } => {
                    let seen = self.seen.get_mut(&token).unwrap();
                    assert!(!seen.body_asked && !seen.finished, "once, and only while it is open");
                    assert!((seen.refused.len() as u32) < seen.recipients, "somebody is to get it");
                    seen.body_asked = true;
                    self.wire.extend_from_slice(format!("<{token}>").as_bytes());
                    if self.sends_bodies {
                        seen.body_sent = true;
                        self.client.body_sent(token, NOW);
                    }
                }
            }
        }
        self.client.transmitted();
        let awaits = self.client.awaited() != Awaited::Nothing;
        assert_eq!(self.client.poll_timeout().is_some(), awaits, "a timer runs while the peer owes something");
        assert_eq!(self.closed, self.client.is_closed());
    }

    fn events(&mut self) {
        while let Some(event) = self.client.poll_event() {
            self.text.push(format!("{event:?}"));
            assert!(!self.closed, "Closed is the last event");
            match event {
                ClientEvent::Ready | ClientEvent::StartTls => {}
                ClientEvent::Settled { .. } => panic!("this is no LMTP"),
                ClientEvent::Recipient { token, index, reply } => {
                    let seen = self.seen.get_mut(&token).unwrap();
                    assert!(!seen.finished && index < seen.recipients, "{event:?}");
                    assert!(seen.refused.insert(index), "one verdict each");
                    assert!(reply.is_transient() || reply.is_permanent(), "{event:?}");
                }
                ClientEvent::Finished { token, outcome } => {
                    let seen = self.seen.get_mut(&token).unwrap();
                    assert!(!std::mem::replace(&mut seen.finished, true), "one outcome each");
                    let all_refused = seen.refused.len() as u32 == seen.recipients;
                    match outcome {
                        Outcome::Accepted(reply) => {
                            assert!(reply.is_positive() && seen.body_sent && !all_refused, "{event:?}");
                        }
                        Outcome::Refused { stage, reply } => {
                            assert!(reply.is_transient() || reply.is_permanent(), "{event:?}");
                            match stage {
                                // Perhaps in one piece with 354.
                                RefusedAt::Message => {}
                                RefusedAt::Flight => assert!(seen.flown, "{event:?}"),
                                _ => assert!(seen.flown || !seen.body_asked, "{event:?}"),
                            }
                            assert_eq!(stage == RefusedAt::Recipients, all_refused, "{event:?}");
                        }
                        Outcome::Lost { after_final_dot } => {
                            // Behind 421 nothing was read.
                            assert!(seen.body_sent || !after_final_dot);
                            assert!(after_final_dot || !seen.body_sent || seen.flown);
                            assert!(self.client.is_closed() && (seen.flown || !all_refused));
                        }
                    }
                }
                ClientEvent::Closed(reason) => {
                    self.closed = true;
                    match reason {
                        CloseReason::Refused(reply) => assert!(reply.is_transient() || reply.is_permanent()),
                        CloseReason::Shutdown(reply) => assert_eq!(reply.code, 421),
                        _ => {}
                    }
                }
            }
        }
    }

    /// The peer hangs up: nothing stays without its outcome.
    fn end(mut self) -> Self {
        self.client.handle_closed();
        self.turn();
        assert!(self.closed && self.client.poll_timeout().is_none());
        assert!(self.seen.values().all(|seen| seen.finished));
        self
    }
}

/// A reply, of the class that could be meant more often than not.
fn reply() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        12 => Just("250 2.0.0 ok\r\n".to_owned()),
        3 => Just("354 go\r\n".to_owned()),
        2 => Just("550 5.1.1 no\r\n".to_owned()),
        2 => Just("450-4.2.1 later\r\n450 4.2.1 perhaps\r\n".to_owned()),
        1 => (200..600u16, "[ -~]{0,20}").prop_map(|(code, text)| format!("{code} {text}\r\n")),
        1 => prop::sample::select(vec!["421 bye\r\n", "220 hi\r\n", "221 bye\r\n"]).prop_map(str::to_owned),
    ]
    .prop_map(String::into_bytes)
}

fn script() -> impl Strategy<Value = Vec<u8>> {
    let ehlo =
        prop::sample::subsequence(vec!["PIPELINING", "CHUNKING", "SIZE 5", "SIZE 1000", "8BITMIME", "X-OTHER"], 0..6)
            .prop_map(|words| words.iter().map(|w| format!("250-{w}\r\n")).collect::<String>());
    let hello = prop_oneof![
        12 => ehlo.prop_map(|lines| format!("220 hi\r\n250-mx\r\n{lines}250 HELP\r\n").into_bytes()),
        1 => Just(b"220 hi\r\n502 what\r\n250 hi\r\n".to_vec()),
        1 => Just(Vec::new()),
    ];
    let other = prop_oneof![15 => reply(), 1 => hostile(20)];
    (hello, prop::collection::vec(other, 0..40)).prop_map(|(hello, rest)| [hello, rest.concat()].concat())
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn property_outcomes_say_what_the_peer_said(
        script in script(),
        cuts in cuts(),
        pending in prop::collection::vec(1..5u32, 1..6),
        sends_bodies in prop::bool::weighted(0.8),
        quits in prop::option::of(0..60usize),
        flight in prop::sample::select(vec![1, 2, 16]),
    ) {
        let mut driver = Driver::new(pending, sends_bodies, flight);
        for (at, piece) in pieces(&script, &cuts).into_iter().enumerate() {
            driver.hear(piece);
            if quits == Some(at) {
                driver.client.quit(NOW);
                driver.turn();
            }
        }
        driver.end();
    }

    /// With one transaction the driver's turns change nothing: the same bytes make the same conversation.
    #[test]
    fn property_the_same_replies_make_the_same_conversation_in_any_split(
        script in script(),
        cuts in cuts(),
        recipients in 1..5u32,
        flight in prop::sample::select(vec![1, 16]),
    ) {
        // By replies, as a peer sends them that waits: a whole script at once would answer what was not asked yet.
        let lines: Vec<&[u8]> = script.split_inclusive(|b| *b == b'\n').collect();
        let (mut by_line, mut cut) = (Driver::new(vec![recipients], true, flight), Driver::new(vec![recipients], true, flight));
        for line in lines {
            by_line.hear(line);
            pieces(line, &cuts).into_iter().for_each(|piece| cut.hear(piece));
        }
        let (by_line, cut) = (by_line.end(), cut.end());
        assert_eq!((by_line.text, by_line.wire), (cut.text, cut.wire));
    }
}
