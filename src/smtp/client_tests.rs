//! The client machine against scripted peers.
#![allow(clippy::unwrap_used)]

use super::client::{Client, ClientEvent, ClientTimeouts, CloseReason, MailParams, Outcome, Transmit};
use crate::limits;
use crate::time::Moment;
use std::time::Duration;

pub(super) const NOW: Moment = Moment(1_000_000_000);
const BODY: &[u8] = b"x\r\n.\r\n";
const FULL: &str = "250-mx\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n";

pub(super) struct Driver {
    pub(super) client: Client,
    events: Vec<String>,
    /// Bodies are given to the transport at once.
    pub(super) send_bodies: bool,
}

fn event_text(event: ClientEvent<'_>) -> String {
    match event {
        ClientEvent::Ready => "ready".into(),
        ClientEvent::StartTls => "starttls".into(),
        ClientEvent::Recipient { token, index, reply } => format!("{token} rcpt {index} {}", reply.code),
        ClientEvent::Settled { token, index, reply } => format!("{token} settled {index} {}", reply.code),
        ClientEvent::Finished { token, outcome } => match outcome {
            Outcome::Accepted(r) => format!("{token} accepted {}", r.code),
            Outcome::Refused { stage, reply } => format!("{token} refused {stage:?} {}", reply.code),
            Outcome::Lost { after_final_dot } => format!("{token} lost {after_final_dot}"),
        },
        ClientEvent::Closed(reason) => match reason {
            CloseReason::Refused(r) => format!("closed refused {}", r.code),
            CloseReason::Shutdown(r) => format!("closed shutdown {}", r.code),
            CloseReason::Unexpected(r) => format!("closed unexpected {}", r.code),
            CloseReason::TlsRefused(r) => format!("closed no tls {}", r.code),
            other => format!("closed {other:?}"),
        },
    }
}

impl Driver {
    pub(super) fn new() -> Self {
        let client = Client::new("relay.example".into(), ClientTimeouts::default(), NOW);
        Driver { client, events: Vec::new(), send_bodies: true }
    }

    /// Past the greeting, with this reply to EHLO.
    pub(super) fn ready(ehlo: &str) -> Self {
        let mut d = Driver::new();
        assert_eq!(d.hear("220 mx ESMTP\r\n"), "EHLO relay.example\r\n");
        assert_eq!(d.hear(ehlo), "");
        assert_eq!(d.take(), ["ready"]);
        d
    }

    pub(super) fn sent(&mut self) -> String {
        let mut wire = Vec::new();
        while let Some(transmit) = self.client.poll_transmit() {
            match transmit {
                Transmit::Commands(range) => wire.extend_from_slice(self.client.commands(range)),
                Transmit::Body { token } | Transmit::Chunk { token } => {
                    wire.extend_from_slice(format!("<{token}>").as_bytes());
                    if self.send_bodies {
                        wire.extend_from_slice(BODY);
                        self.client.body_sent(token, NOW);
                    }
                }
            }
        }
        self.client.transmitted();
        String::from_utf8(wire).unwrap()
    }

    pub(super) fn hear(&mut self, text: &str) -> String {
        self.client.handle_input(text.as_bytes(), NOW);
        while let Some(event) = self.client.poll_event() {
            let text = event_text(event);
            self.events.push(text);
        }
        self.sent()
    }

    pub(super) fn start(&mut self, token: u64, recipients: &[&str]) -> String {
        self.start_with(token, recipients, MailParams::default())
    }

    pub(super) fn start_with(&mut self, token: u64, recipients: &[&str], params: MailParams<'_>) -> String {
        let recipients = recipients.iter().map(|r| r.as_bytes());
        self.client.start(token, b"s@t", recipients, &params, NOW);
        self.hear("")
    }

    pub(super) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }
}

#[test]
fn pipelined_with_the_next_envelope_behind_the_final_dot() {
    let mut d = Driver::ready(FULL);
    let params = MailParams::new(900, true);
    assert_eq!(
        d.start_with(1, &["a@x", "b@x"], params),
        "MAIL FROM:<s@t> SIZE=900 BODY=8BITMIME\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n"
    );
    assert!(!d.client.can_start());
    // 354 is handled, but nothing polled yet: the driver starts the next transaction first.
    d.client.handle_input(b"250 ok\r\n250 ok\r\n550 5.1.1 no\r\n354 go\r\n", NOW);
    assert!(d.client.can_start());
    assert_eq!(d.start(2, &["c@x"]), "<1>x\r\n.\r\nMAIL FROM:<s@t>\r\nRCPT TO:<c@x>\r\nDATA\r\n");
    assert!(!d.client.can_start(), "one behind the other, not two");
    assert_eq!(d.take(), ["1 rcpt 1 550"]);
    assert_eq!(d.hear("250 2.0.0 done\r\n250 ok\r\n250 ok\r\n354 go\r\n"), "<2>x\r\n.\r\n");
    assert_eq!(d.hear("451 4.3.0 later\r\n"), "");
    assert_eq!(d.take(), ["1 accepted 250", "2 refused Message 451"]);
    d.client.quit(NOW);
    assert_eq!(d.sent(), "QUIT\r\n");
    d.hear("221 bye\r\n");
    assert_eq!(d.take(), ["closed Quit"]);
}

#[test]
fn a_streamed_body_holds_back_what_is_behind_it() {
    let mut d = Driver::ready(FULL);
    d.send_bodies = false;
    d.start(1, &["a@x"]);
    assert_eq!(d.hear("250 ok\r\n250 ok\r\n354 go\r\n"), "<1>");
    assert_eq!(d.start(2, &["b@x"]), "");
    let later = NOW + Duration::from_secs(100);
    d.client.body_progress(later);
    assert_eq!(d.client.poll_timeout(), Some(later + limits::CLIENT_DATA_BLOCK_TIMEOUT));
    d.client.body_sent(1, later);
    assert_eq!(d.client.poll_timeout(), Some(later + limits::CLIENT_DATA_TERMINATION_TIMEOUT));
    assert_eq!(d.sent(), "MAIL FROM:<s@t>\r\nRCPT TO:<b@x>\r\nDATA\r\n");
}

#[test]
fn one_command_at_a_time_without_pipelining_and_helo_fall_back() {
    let mut d = Driver::new();
    assert_eq!(d.hear("220-hi\r\n220 there\r\n"), "EHLO relay.example\r\n");
    assert_eq!(d.hear("502 what\r\n"), "HELO relay.example\r\n");
    assert_eq!(d.hear("250 hi\r\n"), "");
    assert_eq!(d.start_with(1, &["a@x", "b@x"], MailParams::new(5000, false)), "MAIL FROM:<s@t>\r\n");
    assert_eq!(d.hear("250 ok\r\n"), "RCPT TO:<a@x>\r\n");
    assert_eq!(d.hear("450 4.2.1 later\r\n"), "RCPT TO:<b@x>\r\n");
    assert_eq!(d.hear("250 ok\r\n"), "DATA\r\n");
    assert_eq!(d.hear("354 go\r\n"), "<1>x\r\n.\r\n");
    assert!(!d.client.can_start());
    assert_eq!(d.hear("250 ok\r\n"), "");
    assert_eq!(d.take(), ["ready", "1 rcpt 0 450", "1 accepted 250"]);
    // Nobody left: no DATA; the next transaction begins with RSET.
    d.start(2, &["a@x"]);
    d.hear("250 ok\r\n");
    assert_eq!(d.hear("550 no\r\n"), "");
    assert_eq!(d.take(), ["2 rcpt 0 550", "2 refused Recipients 550"]);
    assert_eq!(d.start(3, &["a@x"]), "RSET\r\n");
    assert_eq!(d.hear("250 ok\r\n"), "MAIL FROM:<s@t>\r\n");
    // MAIL refused: nothing is open, no RSET.
    assert_eq!(d.hear("550 no\r\n"), "");
    assert_eq!(d.take(), ["3 refused Mail 550"]);
    assert_eq!(d.start(4, &["a@x"]), "MAIL FROM:<s@t>\r\n");
}

#[test]
fn failed_transactions_leave_a_connection_that_works() {
    let mut d = Driver::ready(FULL);
    // MAIL refused: the replies behind it say nothing about recipients.
    d.start(1, &["a@x"]);
    d.hear("550 no\r\n503 mail first\r\n503 mail first\r\n");
    assert_eq!(d.take(), ["1 refused Mail 550"]);
    // All recipients refused, DATA too.
    assert!(d.start(2, &["a@x", "b@x"]).starts_with("MAIL"));
    d.hear("250 ok\r\n550 no\r\n450 no\r\n554 no valid recipients\r\n");
    assert_eq!(d.take(), ["2 rcpt 0 550", "2 rcpt 1 450", "2 refused Recipients 450"]);
    // All recipients refused, DATA accepted: an empty message nobody gets.
    assert_eq!(d.start(3, &["a@x"]), "RSET\r\nMAIL FROM:<s@t>\r\nRCPT TO:<a@x>\r\nDATA\r\n");
    assert_eq!(d.hear("250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n"), ".\r\n");
    assert_eq!(d.take(), ["3 rcpt 0 550", "3 refused Recipients 550"]);
    assert!(d.client.can_start());
    assert!(d.start(4, &["a@x"]).starts_with("MAIL"));
    assert_eq!(d.hear("554 nobody\r\n250 ok\r\n250 ok\r\n451 data not now\r\n"), "");
    assert_eq!(d.take(), ["4 refused Data 451"]);
    assert!(d.start(5, &["a@x"]).starts_with("RSET\r\nMAIL"));
    // MAIL refused, DATA accepted all the same.
    assert_eq!(d.hear("250 ok\r\n450 no\r\n250 ok\r\n354 go\r\n"), ".\r\n");
    d.hear("250 ok\r\n");
    assert_eq!(d.take(), ["5 refused Mail 450"]);
    assert!(d.client.is_idle());
}

#[test]
fn what_the_peer_announced_is_respected_without_asking_it() {
    let mut d = Driver::ready("250-mx\r\n250 SIZE 1000\r\n");
    assert_eq!(d.start_with(1, &["a@x"], MailParams::new(1001, false)), "");
    assert_eq!(d.start_with(2, &["a@x"], MailParams::new(1, true)), "");
    assert_eq!(d.take(), ["1 refused Local 552", "2 refused Local 554"]);
    assert!(d.client.can_start());
    d.client.start(3, b"", [&b"a@x"[..]], &MailParams::new(1000, false), NOW);
    assert_eq!(d.sent(), "MAIL FROM:<> SIZE=1000\r\n");
}

#[test]
fn greetings_and_hellos_that_refuse() {
    for (replies, event) in [
        (&["554 no\r\n"][..], "closed refused 554"),
        (&["450 no\r\n"], "closed refused 450"),
        (&["421 no\r\n"], "closed shutdown 421"),
        (&["354 what\r\n"], "closed unexpected 354"),
        (&["SSH-2.0-x\r\n"], "closed NotSmtp(NotAReply)"),
        (&["220 hi\r\n", "450 no\r\n"], "closed refused 450"),
        (&["220 hi\r\n", "550 no\r\n", "550 no\r\n"], "closed refused 550"),
    ] {
        let mut d = Driver::new();
        let last = replies.iter().map(|r| d.hear(r)).last().unwrap();
        assert_eq!(d.take(), [event]);
        assert_eq!(last == "QUIT\r\n", event.contains("refused"), "{last}");
        assert_eq!((d.client.poll_timeout(), d.client.is_closed()), (None, true));
        assert_eq!(d.hear("220 hi\r\n"), "");
        assert_eq!(d.take(), [""; 0]);
    }
}

#[test]
fn shutdown_by_421_at_any_reply() {
    for (before, outcome) in [
        ("", "1 refused Mail 421"),
        ("250 ok\r\n", "1 lost false"),
        ("250 ok\r\n250 ok\r\n", "1 refused Data 421"),
        ("250 ok\r\n250 ok\r\n354 go\r\n", "1 refused Message 421"),
    ] {
        let mut d = Driver::ready(FULL);
        d.start(1, &["a@x"]);
        d.hear(before);
        d.hear("421 4.3.2 bye\r\n");
        assert_eq!(d.take(), [outcome, "closed shutdown 421"]);
    }
    let mut d = Driver::ready(FULL);
    d.hear("421 idle too long\r\n");
    assert_eq!(d.take(), ["closed shutdown 421"]);
    // The message in front has its answer, the one pipelined behind it is lost.
    let mut d = Driver::ready(FULL);
    d.start(1, &["a@x"]);
    d.hear("250 ok\r\n250 ok\r\n354 go\r\n");
    d.start(2, &["a@x"]);
    d.hear("421 bye\r\n");
    assert_eq!(d.take(), ["1 refused Message 421", "2 lost false", "closed shutdown 421"]);
    let _planted = crate::planted::plant(crate::planted::Bug::GoesOnAfter421);
    let mut d = Driver::ready(FULL);
    d.start(1, &["a@x"]);
    d.hear("421 4.3.2 bye\r\n250 ok\r\n503 no\r\n");
    assert!(!d.take().iter().any(|event| event.starts_with("closed")), "it goes on");
}

#[test]
fn replies_that_make_no_sense_end_the_connection() {
    for (replies, events) in [
        ("354 go\r\n", &["1 lost false", "closed unexpected 354"][..]),
        ("250 ok\r\n354 go\r\n", &["1 lost false", "closed unexpected 354"]),
        ("250 ok\r\n250 ok\r\n250 ok\r\n", &["1 lost false", "closed unexpected 250"]),
        ("250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n250 more\r\n", &["1 lost false", "closed unexpected 250"]),
        ("250 ok\r\njunk\r\n", &["1 lost false", "closed NotSmtp(NotAReply)"]),
    ] {
        let mut d = Driver::ready(FULL);
        d.start(1, &["a@x"]);
        d.hear(replies);
        assert_eq!(d.take(), events, "{replies}");
    }
    let mut d = Driver::ready(FULL);
    d.start(1, &["a@x"]);
    d.hear("250 ok\r\n250 ok\r\n354 go\r\n");
    d.hear("250 ok\r\n250 more\r\n");
    assert_eq!(d.take(), ["1 accepted 250", "closed unexpected 250"]);
    // Refused in the middle of the data: the answer counts, the connection does not.
    let mut d = Driver::ready(FULL);
    d.send_bodies = false;
    d.start(1, &["a@x"]);
    d.hear("250 ok\r\n250 ok\r\n354 go\r\n");
    d.hear("552 5.3.4 too much\r\n");
    assert_eq!(d.take(), ["1 refused Message 552", "closed unexpected 552"]);
    d.client.body_sent(1, NOW);
    assert_eq!(d.sent(), "");
}

#[test]
fn timers_of_every_phase() {
    let expect = |d: &Driver, after: Duration| assert_eq!(d.client.poll_timeout(), Some(NOW + after));
    let mut d = Driver::new();
    expect(&d, limits::CLIENT_GREETING_TIMEOUT);
    d.hear("220 hi\r\n");
    expect(&d, limits::CLIENT_COMMAND_TIMEOUT);
    d.hear("250-mx\r\n250 PIPELINING\r\n");
    assert_eq!(d.client.poll_timeout(), None);
    d.start(1, &["a@x"]);
    expect(&d, limits::CLIENT_ENVELOPE_TIMEOUT);
    d.hear("250 ok\r\n250 ok\r\n");
    expect(&d, limits::CLIENT_DATA_INITIATION_TIMEOUT);
    d.send_bodies = false;
    d.hear("354 go\r\n");
    expect(&d, limits::CLIENT_DATA_BLOCK_TIMEOUT);
    d.client.body_sent(1, NOW);
    expect(&d, limits::CLIENT_DATA_TERMINATION_TIMEOUT);
    let deadline = d.client.poll_timeout().unwrap();
    d.client.handle_timeout(Moment(deadline.0 - 1));
    assert!(!d.client.is_closed());
    d.client.handle_timeout(deadline);
    d.hear("");
    assert_eq!(d.events[1..], ["1 lost true", "closed Timeout(DataTermination)"]);
}

#[test]
fn a_peer_that_hangs_up() {
    let mut d = Driver::ready(FULL);
    d.start(1, &["a@x"]);
    d.hear("250 ok\r\n250 ok\r\n354 go\r\n");
    d.start(2, &["a@x"]);
    d.client.handle_closed();
    d.client.handle_closed();
    d.hear("");
    assert_eq!(d.take(), ["1 lost true", "2 lost false", "closed PeerClosed"]);
    let mut d = Driver::ready(FULL);
    d.client.quit(NOW);
    assert!(!d.client.can_start());
    d.client.handle_closed();
    d.hear("");
    assert_eq!(d.take(), ["closed Quit"]);
}

#[test]
fn quit_waits_for_the_transactions_that_have_started() {
    let mut d = Driver::ready(FULL);
    d.start(1, &["a@x"]);
    d.client.quit(NOW);
    assert_eq!(d.hear("250 ok\r\n250 ok\r\n354 go\r\n"), "<1>x\r\n.\r\n");
    assert_eq!(d.hear("250 ok\r\n"), "QUIT\r\n");
    assert_eq!(d.client.poll_timeout(), Some(NOW + limits::CLIENT_QUIT_TIMEOUT));
}
