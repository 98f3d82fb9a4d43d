//! The server machine with everything switched on: what each extension's RFC asks of the server, by transcripts.
#![allow(clippy::unwrap_used)]

use super::data::Fault;
use super::policy::{Demand, Extensions};
use super::sasl::{self, Mechanism};
use super::server::{Answer, PeerFacts, Question, Server, ServerPolicy, Step, TlsFacts, Verdict};
use super::server_tests::Steps;
use crate::limits;
use crate::message::MessageId;
use crate::message::params::{BodyType, DeliverBy, Notify, Params, Ret};
use crate::time::{Moment, Wall};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

const NOW: Moment = Moment(1_000_000_000);
const WALL: Wall = Wall(1_795_000_000_000);

/// A driver that knows one account, me with the password secret, and answers everything at once.
struct Driver {
    server: Server,
    tail: Vec<u8>,
    out: Vec<u8>,
    collected: Vec<u8>,
    /// Message and parameters of each that was accepted.
    messages: Vec<(Vec<u8>, Vec<u8>)>,
    discarded: Vec<Fault>,
    dropped: usize,
    closed: bool,
    tls_begun: bool,
    /// What senders and recipients, VRFY and EXPN are answered; nothing: yes.
    verdict: Option<&'static [u8]>,
    now: Moment,
}

fn policy(change: impl FnOnce(&mut ServerPolicy)) -> Arc<ServerPolicy> {
    let mut policy = ServerPolicy::new("mx.example", 100_000, 3);
    policy.extensions = Extensions::SUBMISSION;
    policy.tls = Demand::Offered;
    policy.auth = Demand::Offered;
    policy.mechanisms = Mechanism::ALL.to_vec();
    change(&mut policy);
    Arc::new(policy)
}

fn peer() -> PeerFacts {
    PeerFacts::new(IpAddr::V4(Ipv4Addr::LOCALHOST), true)
}

impl Driver {
    fn new() -> Self {
        Self::with(policy(|_| {}), peer())
    }

    fn with(policy: Arc<ServerPolicy>, peer: PeerFacts) -> Self {
        let mut out = Vec::new();
        let mut server = Server::new(policy, peer, NOW, &mut out);
        server.set_wall(WALL);
        Driver {
            server,
            tail: Vec::new(),
            out,
            collected: Vec::new(),
            messages: Vec::new(),
            discarded: Vec::new(),
            dropped: 0,
            closed: false,
            tls_begun: false,
            verdict: None,
            now: NOW,
        }
    }

    fn answer(&mut self, question: Question) {
        let answer = match (question, self.verdict) {
            (Question::Nonce, _) => Answer::Nonce([7; 24]),
            (Question::Sasl(sasl::Question::Password { account, password }), _) => {
                let right = account == "me" && password.as_bytes() == b"secret";
                Answer::Sasl(sasl::Answer::Password(right))
            }
            (Question::Sasl(_), _) => Answer::Sasl(sasl::Answer::Unavailable),
            (Question::Client(attributes), _) => {
                let address = attributes.address.flatten().unwrap();
                Answer::Peer(PeerFacts { xclient: true, ..PeerFacts::new(address, false) })
            }
            (_, Some(reply)) => Answer::Reply(reply),
            (_, None) => Answer::Yes,
        };
        self.server.handle_answer(answer, self.now, &mut self.out);
    }

    fn start_tls(&mut self, facts: TlsFacts) {
        assert_eq!(self.codes(&["STARTTLS"]), ["220 2.0.0"]);
        assert!(self.tls_begun);
        self.server.tls_established(facts, self.now);
    }

    fn params(&self) -> Params<'_> {
        Params::parse(&self.messages.last().unwrap().1).unwrap()
    }
}

impl Steps for Driver {
    fn machine(&mut self) -> (&mut Server, &mut Vec<u8>, Moment) {
        (&mut self.server, &mut self.out, self.now)
    }

    fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    fn take(&mut self, step: Step<'_>) {
        match step {
            Step::Body(piece) => self.collected.extend_from_slice(piece),
            Step::Message => {
                let mut params = Vec::new();
                self.server.envelope().write_params(&mut params);
                self.messages.push((std::mem::take(&mut self.collected), params));
                self.server.handle_verdict(Verdict::Accepted(MessageId(7)), self.now, &mut self.out);
            }
            Step::Discarded(fault) => {
                self.collected.clear();
                self.discarded.push(fault);
            }
            Step::Dropped => {
                self.collected.clear();
                self.dropped += 1;
            }
            Step::Ask => {
                let question = self.server.take_question();
                self.answer(question);
            }
            Step::StartTls => self.tls_begun = true,
            Step::Close => self.closed = true,
            Step::Refused(_) | Step::NeedInput | Step::Blocked => {}
        }
    }
}

fn plain(account: &str, password: &str) -> String {
    use base64::prelude::{BASE64_STANDARD, Engine};
    BASE64_STANDARD.encode(format!("\0{account}\0{password}"))
}

// --- STARTTLS (RFC 3207) -----------------------------------------------------------------------------------------------

#[test]
fn starttls_forgets_the_session_and_what_was_sent_behind_it() {
    let mut d = Driver::new();
    assert!(d.say(b"EHLO a.example\r\n").contains("250-STARTTLS\r\n"));
    d.feed(b"STARTTLS\r\nMAIL FROM:<evil@x>\r\nRCPT TO:<y@z>\r\n");
    assert!(d.tls_begun && d.tail.is_empty(), "plain text behind STARTTLS is not read, RFC 3207 section 4.2");
    d.server.tls_established(TlsFacts::default(), NOW);
    assert_eq!(d.server.helo(), b"");
    assert_eq!(d.codes(&["MAIL FROM:<a@b>"]), ["503 5.5.1"], "EHLO first");
    let ehlo = d.say(b"EHLO b.example\r\n");
    assert!(!ehlo.contains("STARTTLS") && ehlo.contains("250-REQUIRETLS\r\n"), "{ehlo}");
    assert_eq!(d.codes(&["STARTTLS", "MAIL FROM:<a@b>"]), ["503 5.5.1", "250 2.1.0"]);
}

#[test]
fn starttls_where_it_may_not_be() {
    let mut d = Driver::with(policy(|p| p.tls = Demand::Off), peer());
    assert!(!d.say(b"EHLO a\r\n").contains("STARTTLS"));
    assert_eq!(d.codes(&["STARTTLS"]), ["502 5.5.1"]);
    let mut d = Driver::new();
    assert_eq!(d.codes(&["EHLO a", "MAIL FROM:<a@b>", "STARTTLS", "STARTTLS x"])[2..], ["503 5.5.1", "501 5.5.4"]);
    d.codes(&["RSET"]);
    d.server.set_tls_busy(true);
    assert_eq!(d.codes(&["STARTTLS", "NOOP"]), ["454 4.7.0", "250 2.0.0"]);
}

#[test]
fn required_tls_lets_through_what_rfc_3207_section_4_names() {
    let mut d = Driver::with(policy(|p| p.tls = Demand::Required), peer());
    let replies =
        d.codes(&["NOOP", "EHLO a", "MAIL FROM:<a@b>", "RSET", "HELP", "VRFY x", "AUTH PLAIN", "BDAT 3", "abcNOOP"]);
    let first = "530 5.7.0";
    assert_eq!(replies, ["250 2.0.0", "250", first, first, first, first, first, first, "250 2.0.0"]);
    d.start_tls(TlsFacts::default());
    assert_eq!(d.codes(&["EHLO a", "MAIL FROM:<a@b>"])[1], "250 2.1.0");
}

// --- AUTH (RFC 4954) ---------------------------------------------------------------------------------------------------

#[test]
fn auth_in_its_place() {
    let mut d = Driver::new();
    assert!(!d.say(b"EHLO a\r\n").contains("AUTH"), "not before TLS");
    let right = plain("me", "secret");
    assert_eq!(d.codes(&[&format!("AUTH PLAIN {right}")]), ["538 5.7.11"]);
    d.start_tls(TlsFacts::default());
    assert_eq!(d.codes(&[&format!("AUTH PLAIN {right}")]), ["503 5.5.1"], "EHLO first");
    let ehlo = d.say(b"EHLO a\r\n");
    assert!(
        ehlo.contains("250-AUTH SCRAM-SHA-256 PLAIN LOGIN\r\n"),
        "neither PLUS nor EXTERNAL without their facts: {ehlo}"
    );
    assert_eq!(d.codes(&["AUTH CRAM-MD5", "AUTH EXTERNAL =", "AUTH"]), ["504 5.5.4", "504 5.5.4", "501 5.5.4"]);
    assert_eq!(
        d.codes(&["MAIL FROM:<a@b>", &format!("AUTH PLAIN {right}"), "RSET"])[1],
        "503 5.5.1",
        "in a transaction"
    );
    assert_eq!(d.codes(&["AUTH PLAIN", "*"]), ["334", "501 5.7.0"]);
    assert_eq!(d.codes(&["AUTH PLAIN", "?"]), ["334", "501 5.5.2"]);
    assert_eq!(d.codes(&["AUTH PLAIN", &plain("me", "wrong")]), ["334", "535 5.7.8"]);
    assert_eq!(d.codes(&["AUTH PLAIN", &right]), ["334", "235 2.7.0"]);
    assert_eq!(d.server.account(), Some("me"));
    assert_eq!(d.codes(&[&format!("AUTH PLAIN {right}")]), ["503 5.5.1"], "once");
    assert!(!d.say(b"EHLO a\r\n").contains("AUTH"));
    assert_eq!(d.codes(&["MAIL FROM:<a@b> AUTH=<>", "RCPT TO:<c@d>", "DATA", "x\r\n."]).last().unwrap(), "250 2.0.0");
    assert_eq!(d.params().account(), b"me");
}

#[test]
fn auth_login_by_hand_and_a_long_line() {
    let mut d = Driver::with(policy(|p| p.auth_without_tls = true), peer());
    assert_eq!(d.say(b"EHLO a\r\nAUTH LOGIN\r\n").lines().last().unwrap(), "334 VXNlcm5hbWU6");
    assert_eq!(d.say(b"bWU=\r\n"), "334 UGFzc3dvcmQ6\r\n");
    assert_eq!(d.codes(&["c2VjcmV0"]), ["235 2.7.0"]);
    // RFC 4954 section 4: 12,288 octets; a command has 2,048.
    let mut d = Driver::with(policy(|p| p.auth_without_tls = true), peer());
    d.say(b"EHLO a\r\n");
    assert_eq!(d.codes(&[&format!("AUTH PLAIN {}", "A".repeat(12_000))]), ["501 5.5.2"]);
    assert_eq!(
        d.codes(&["AUTH PLAIN", &"A".repeat(12_000), &format!("NOOP {}", "A".repeat(3000)), "NOOP"])[2..],
        ["500 5.5.2", "250 2.0.0"]
    );
}

#[test]
fn wrong_guesses_end_the_session() {
    let mut d = Driver::with(policy(|p| p.auth_without_tls = true), peer());
    d.say(b"EHLO a\r\n");
    let guess = format!("AUTH PLAIN {}", plain("me", "guess"));
    assert_eq!(d.codes(&[&guess, &guess]), ["535 5.7.8", "535 5.7.8"]);
    let last = d.say(format!("{guess}\r\n").as_bytes());
    assert!(last.starts_with("535 5.7.8") && last.contains("\r\n421 4.7.0") && d.closed, "{last}");
}

#[test]
fn required_auth_comes_before_mail() {
    let mut d = Driver::with(
        policy(|p| (p.auth, p.auth_without_tls) = (Demand::Required, true)),
        PeerFacts::new(IpAddr::V4(Ipv4Addr::LOCALHOST), false),
    );
    assert_eq!(d.codes(&["EHLO a", "MAIL FROM:<a@b>"])[1], "530 5.7.0");
    assert_eq!(
        d.codes(&[&format!("AUTH PLAIN {}", plain("me", "secret")), "MAIL FROM:<a@b>", "RCPT TO:<c@d>"])[1..],
        ["250 2.1.0", "250 2.1.5"]
    );
}

// --- CHUNKING, BINARYMIME (RFC 3030) -----------------------------------------------------------------------------------

#[test]
fn chunks_become_the_wire_form_of_data() {
    for (chunks, expected) in [
        (&[&b"a\r\n"[..]][..], &b"a\r\n.\r\n"[..]),
        (&[b""], b".\r\n"),
        (&[b"a"], b"a\r\n.\r\n"),
        (&[b".\r\n"], b"..\r\n.\r\n"),
        (&[b"\r\n.\r\n"], b"\r\n..\r\n.\r\n"),
        (&[b"a\r", b"\n", b".b\r\n..c\r\n", b".", b""], b"a\r\n..b\r\n...c\r\n..\r\n.\r\n"),
        (&[b"x.y\r\n", b".QUIT\r\n"], b"x.y\r\n..QUIT\r\n.\r\n"),
    ] {
        for split in [1, 2, 3, 1000] {
            let mut d = Driver::new();
            let mut wire = b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n".to_vec();
            for (i, chunk) in chunks.iter().enumerate() {
                let last = if i + 1 == chunks.len() { " LAST" } else { "" };
                wire.extend_from_slice(format!("BDAT {}{last}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
            }
            wire.extend_from_slice(b"NOOP\r\n");
            wire.chunks(split).for_each(|piece| d.feed(piece));
            let text = String::from_utf8_lossy(&d.out).into_owned();
            assert_eq!(d.messages.last().map(|m| &m.0[..]), Some(expected), "{chunks:?} by {split}: {text}");
            assert!(text.ends_with("queued\r\n250 2.0.0 OK\r\n"), "{text}");
        }
    }
}

#[test]
fn chunks_with_what_data_would_refuse_are_refused_and_their_octets_are_no_commands() {
    for (body, fault) in [
        (&b"a\nb\r\n"[..], Fault::BareLf),
        (b"a\rb\r\n", Fault::BareCr),
        (b"a\0\r\n", Fault::Nul),
        (b"a\r", Fault::BareCr),
    ] {
        let mut d = Driver::new();
        d.say(b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n");
        let mut wire = format!("BDAT {} LAST\r\n", body.len()).into_bytes();
        wire.extend_from_slice(body);
        let reply = d.say(&[&wire[..], b"NOOP\r\n"].concat());
        assert!(reply.starts_with("554 5.6.0") && reply.ends_with("250 2.0.0 OK\r\n"), "{reply}");
        assert_eq!((d.discarded.as_slice(), d.messages.len()), (&[fault][..], 0));
    }
}

#[test]
fn chunks_out_of_order_are_dropped_whole() {
    let mut d = Driver::new();
    d.say(b"EHLO a\r\n");
    assert_eq!(d.say(b"BDAT 6\r\nQUIT\r\nNOOP\r\n").lines().count(), 2, "QUIT was data");
    assert!(!d.closed);
    d.say(b"MAIL FROM:<a@b>\r\n");
    assert_eq!(d.codes(&["BDAT 4 LAST\r\nabcdNOOP"]), ["250 2.0.0"], "no recipients: 554, then NOOP");
    assert!(d.server.in_transaction());
    d.say(b"RCPT TO:<c@d>\r\n");
    assert_eq!(
        d.codes(&["BDAT 2\r\nhiRCPT TO:<e@f>", "DATA", "MAIL FROM:<x@y>", "NOOP"]),
        ["503 5.5.1", "503 5.5.1", "503 5.5.1", "250 2.0.0"]
    );
    assert_eq!((d.codes(&["RSET"]), d.dropped), (vec!["250 2.0.0".to_owned()], 1));
    assert_eq!(d.codes(&["MAIL FROM:<a@b>"]), ["250 2.1.0"]);
    d.say(b"RCPT TO:<c@d>\r\n");
    d.say(b"BDAT 3\r\nabc");
    assert_eq!(d.codes(&["EHLO again"]), ["250"]);
    assert_eq!((d.dropped, d.server.in_transaction()), (2, false));
    let reply = d.say(b"BDAT what\r\nMAIL FROM:<smuggled@x>\r\n");
    assert!(reply.starts_with("501 5.5.4") && d.closed && reply.lines().count() == 1, "{reply}");
}

#[test]
fn too_much_in_chunks_is_told_before_it_is_read() {
    let mut d = Driver::new();
    d.say(b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 60000\r\n");
    assert_eq!(d.say(&[b'x'; 60_000]), "250 2.0.0 Octets received\r\n");
    d.say(b"BDAT 60000 LAST\r\n");
    assert_eq!(d.discarded, [Fault::TooBig]);
    assert!(d.say(&[b'y'; 60_000]).starts_with("552 5.3.4"));
    assert_eq!((d.messages.len(), d.codes(&["NOOP"])), (0, vec!["250 2.0.0".to_owned()]));
}

#[test]
fn binary_mail_is_kept_as_it_is_and_only_comes_in_chunks() {
    let body = b"a\0\r\r\n.\r\n\n\xff";
    for split in [1, 3, 1000] {
        let mut d = Driver::new();
        assert_eq!(d.codes(&["EHLO a", "MAIL FROM:<a@b> BODY=BINARYMIME", "RCPT TO:<c@d>", "DATA"])[3], "503 5.5.1");
        let wire = [format!("BDAT {} LAST\r\n", body.len()).as_bytes(), body].concat();
        wire.chunks(split).for_each(|piece| d.feed(piece));
        assert_eq!(d.messages[0].0, body);
        assert_eq!(d.params().options().body, BodyType::Binary);
    }
}

// --- parameters --------------------------------------------------------------------------------------------------------

#[test]
fn parameters_are_kept_with_the_message() {
    let mut d = Driver::new();
    d.start_tls(TlsFacts::default());
    let mail = "MAIL FROM:<a@b> SMTPUTF8 REQUIRETLS RET=FULL ENVID=x1 HOLDFOR=60 BY=120;RT MT-PRIORITY=3";
    let codes = d.codes(&[
        "EHLO a",
        mail,
        "RCPT TO:<one@d>",
        "RCPT TO:<\u{e4}@d> NOTIFY=DELAY,SUCCESS ORCPT=rfc822;x",
        "RCPT TO:<three@d> NOTIFY=NEVER",
        "DATA",
        ".",
    ]);
    assert_eq!(codes[1..], ["250 2.1.0", "250 2.1.5", "250 2.1.5", "250 2.1.5", "354", "250 2.0.0"]);
    let options = d.params().options();
    assert!(options.smtputf8 && options.require_tls && options.ret == Some(Ret::Full) && options.priority == 3);
    assert_eq!(options.hold_until, Some(Wall(WALL.0 + 60_000)));
    assert_eq!(options.deliver_by, Some(DeliverBy { until: Wall(WALL.0 + 120_000), return_late: true, trace: true }));
    assert_eq!(d.params().envid(), b"x1");
    assert_eq!(d.params().recipient(0), (Notify::default(), &b""[..]));
    assert_eq!(d.params().recipient(1), (Notify { success: true, delay: true, ..Notify::default() }, &b"rfc822;x"[..]));
    assert!(d.params().recipient(2).0.never);
}

#[test]
fn parameters_that_were_not_announced_are_refused() {
    let mut d = Driver::with(policy(|p| (p.extensions, p.auth) = (Extensions::RELAY, Demand::Off)), peer());
    d.say(b"EHLO a\r\n");
    for parameter in ["REQUIRETLS", "HOLDFOR=1", "AUTH=<>"] {
        assert_eq!(d.codes(&[&format!("MAIL FROM:<a@b> {parameter}")]), ["555 5.5.4"], "{parameter}");
    }
    let mut d = Driver::new();
    assert_eq!(d.codes(&["HELO a", "MAIL FROM:<a@b> SIZE=1"])[1], "555 5.5.4", "HELO has no parameters");
    assert_eq!(d.codes(&["MAIL FROM:<a@b>", "RCPT TO:<c@d> NOTIFY=NEVER"])[1], "555 5.5.4");
}

#[test]
fn bounds_of_parameters() {
    let mut d = Driver::new();
    d.say(b"EHLO a\r\n");
    let most = limits::HOLD_MAX.as_secs();
    assert_eq!(d.codes(&[&format!("MAIL FROM:<a@b> HOLDFOR={}", most + 1)]), ["501 5.5.4"]);
    assert_eq!(d.codes(&[&format!("MAIL FROM:<a@b> HOLDFOR={most}"), "RSET"])[0], "250 2.1.0");
    assert_eq!(d.codes(&["MAIL FROM:<a@b> HOLDUNTIL=2999-01-01T00:00:00Z"]), ["501 5.5.4"]);
    assert_eq!(d.codes(&["MAIL FROM:<a@b> HOLDUNTIL=1999-01-01T00:00:00Z", "RSET"])[0], "250 2.1.0", "the past is now");
    // RFC 4865 §5.2.2.
    for (hold, by, code) in [
        ("HOLDFOR=60", "60;R", "250 2.1.0"),
        ("HOLDFOR=61", "60;R", "501 5.5.4"),
        ("HOLDFOR=1", "-5;N", "501 5.5.4"),
        ("HOLDUNTIL=1999-01-01T00:00:00Z", "-5;N", "250 2.1.0"),
    ] {
        assert_eq!(d.codes(&[&format!("MAIL FROM:<a@b> {hold} BY={by}"), "RSET"])[0], code, "{hold} {by}");
    }
    assert_eq!(
        d.codes(&["MAIL FROM:<\u{e4}@b>", "MAIL FROM:<a@b>", "RCPT TO:<\u{e4}@b>"]),
        ["550 5.6.7", "250 2.1.0", "553 5.6.7"]
    );
    d.codes(&["RSET", "MAIL FROM:<\u{e4}@b> SMTPUTF8"]);
    assert_eq!(
        d.codes(&["RCPT TO:<x@\u{fc}.example>", "RCPT TO:<x@\u{2000}\u{3000}.example>"]),
        ["250 2.1.5", "501 5.1.3"]
    );
    // RFC 6710 section 4.1: strangers do not pass before others.
    let mut d = Driver::with(policy(|_| {}), PeerFacts::new(IpAddr::V4(Ipv4Addr::LOCALHOST), false));
    d.say(b"EHLO a\r\n");
    assert!(d.say(b"MAIL FROM:<a@b> MT-PRIORITY=1\r\n").starts_with("250 2.3.6 0 "));
    let mut d = Driver::with(policy(|p| p.max_mails = 1), peer());
    assert!(d.say(b"EHLO a\r\n").contains("250-LIMITS RCPTMAX=3 MAILMAX=1\r\n"));
    assert_eq!(d.codes(&["MAIL FROM:<a@b>", "RSET", "MAIL FROM:<a@b>"])[2], "421 4.7.0");
    assert!(d.closed);
}

// --- questions ---------------------------------------------------------------------------------------------------------

#[test]
fn senders_and_recipients_can_be_refused_by_the_driver() {
    let asking = PeerFacts { ask_sender: true, ask_recipient: true, ..peer() };
    let mut d = Driver::with(policy(|_| {}), asking);
    assert_eq!(d.codes(&["EHLO a", "MAIL FROM:<a@b>", "RCPT TO:<c@d> NOTIFY=NEVER"])[1..], ["250 2.1.0", "250 2.1.5"]);
    d.verdict = Some(b"550 5.1.1 no\r\n");
    assert_eq!(d.codes(&["RCPT TO:<e@f> NOTIFY=DELAY"]), ["550 5.1.1"]);
    d.verdict = None;
    assert_eq!(d.codes(&["RCPT TO:<Postmaster>", "DATA", "."])[1..], ["354", "250 2.0.0"]);
    assert_eq!(d.params().recipients().count(), 1, "nothing of the one that was refused");
    d.verdict = Some(b"450 4.1.8 later\r\n");
    assert_eq!(d.codes(&["MAIL FROM:<a@b>", "RCPT TO:<c@d>"]), ["450 4.1.8", "503 5.5.1"]);
    // In one piece: the machine stops at each question.
    d.verdict = None;
    let replies = d.say(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\nDATA\r\n.\r\nQUIT\r\n");
    assert_eq!(replies.lines().map(|l| &l[..3]).collect::<Vec<_>>(), ["250", "250", "250", "354", "250", "221"]);
}

#[test]
fn vrfy_and_expn_by_policy() {
    let mut d = Driver::new();
    assert_eq!(d.codes(&["VRFY x", "EXPN x"]), ["252 2.0.0", "502 5.5.1"]);
    let asked = || policy(|p| (p.vrfy, p.expn) = (true, true));
    let mut d = Driver::with(asked(), PeerFacts { trusted: true, ..peer() });
    d.verdict = Some(b"250 2.1.5 <x@y>\r\n");
    assert_eq!(d.codes(&["VRFY x SMTPUTF8", "EHLO a", "EXPN list"]), ["250 2.1.5", "250", "250 2.1.5"]);
    assert_eq!(d.codes(&["MAIL FROM:<a@b>", "VRFY x", "NOOP"])[1..], ["252 2.0.0", "250 2.0.0"]);
    let mut d = Driver::with(asked(), peer());
    assert_eq!(d.codes(&["EXPN x"]), ["550 5.7.1"]);
}

#[test]
fn legacy_verbs_and_help() {
    let mut d = Driver::new();
    assert_eq!(d.codes(&["EHLO a", "SOML FROM:<a@b>", "SEND FROM:<a@b>"])[1..], ["502 5.5.1", "502 5.5.1"]);
    let mut d = Driver::with(policy(|p| p.legacy_send = true), peer());
    assert_eq!(d.codes(&["EHLO a", "SAML FROM:<a@b>"])[1], "250 2.1.0");
    assert!(d.say(b"HELP\r\n").contains("BDAT") && d.say(b"help mail\r\n").contains("MAIL FROM:<reverse-path>"));
    assert_eq!(d.codes(&["HELP nonsense"]), ["504 5.5.4"]);
}

#[test]
fn xclient_makes_it_another_client() {
    let mut d = Driver::new();
    assert_eq!(d.codes(&["EHLO a", "XCLIENT ADDR=192.0.2.7"])[1], "550 5.7.0");
    let mut d = Driver::with(policy(|_| {}), PeerFacts { xclient: true, xforward: true, ..peer() });
    assert!(d.say(b"EHLO a\r\n").contains("250-XCLIENT NAME ADDR"));
    assert_eq!(
        d.codes(&["XCLIENT FOO=1", "MAIL FROM:<a@b>", "XCLIENT ADDR=192.0.2.7", "RSET"])[..3],
        ["501 5.5.4", "250 2.1.0", "503 5.5.1"]
    );
    assert!(d.say(b"XCLIENT ADDR=192.0.2.7 LOGIN=me\r\n").starts_with("220 mx.example"));
    assert_eq!((d.server.peer().address, d.server.account()), (IpAddr::from([192, 0, 2, 7]), Some("me")));
    assert_eq!(d.codes(&["MAIL FROM:<a@b>"]), ["503 5.5.1"], "EHLO first");
    let mut d = Driver::with(policy(|_| {}), PeerFacts { xforward: true, ..peer() });
    assert_eq!(d.codes(&["EHLO a", "XFORWARD ADDR=192.0.2.9 HELO=x"])[1], "250 2.0.0");
    assert_eq!(d.server.origin(), IpAddr::from([192, 0, 2, 9]));
}

// --- hardening ---------------------------------------------------------------------------------------------------------

#[test]
fn other_protocols_end_the_session_at_once() {
    for line in ["GET / HTTP/1.1", "Host: mx.example"] {
        let mut d = Driver::new();
        let reply = d.say(format!("{line}\r\nMAIL FROM:<a@b>\r\n").as_bytes());
        assert!(reply.contains("554 5.5.1") && d.closed && !reply.contains("503"), "{reply}");
    }
}

#[test]
fn strict_sessions_wait_for_replies() {
    let strict = || Driver::with(policy(|_| {}), PeerFacts { strict: true, ..peer() });
    for wire in [&b"EHLO a\r\nMAIL FROM:<a@b>\r\n"[..], b"HELO a\r\nNOOP\r\n"] {
        let mut d = strict();
        assert!(
            d.say(wire).ends_with(
                "554 5.5.0 Commands before their time: wait for the reply to this one (RFC 2920 section 3.1)\r\n"
            ) && d.closed
        );
    }
    let mut d = strict();
    d.say(b"EHLO a\r\n");
    d.say(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n");
    assert!(!d.closed, "a group that ends with DATA is what pipelining is for");
    assert!(d.say(b"x\r\n.\r\nNOOP\r\n").ends_with("250 2.0.0 OK\r\n"));
    assert!(d.say(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nearly\r\n").contains("554 5.5.0") && d.closed);
}

#[test]
fn what_is_pipelined_behind_a_refused_mail_is_no_error() {
    let mut d = Driver::with(policy(|p| p.error_delay = Duration::from_secs(1)), peer());
    d.server.set_busy(true);
    let wire = format!("EHLO a\r\nMAIL FROM:<a@b>\r\n{}DATA\r\nRSET\r\n", "RCPT TO:<c@d>\r\n".repeat(1000));
    let replies = d.say(wire.as_bytes());
    assert!(!d.closed && replies.ends_with("503 5.5.1 Send MAIL first\r\n250 2.0.0 OK\r\n"), "{replies}");
    assert_eq!(replies.matches("503 5.5.1").count(), 1001);
}

#[test]
fn errors_cost_time() {
    let mut d = Driver::with(policy(|p| p.error_delay = Duration::from_secs(1)), peer());
    for _ in 0..limits::SESSION_FREE_ERRORS {
        assert_eq!(d.codes(&["JUNK"]), ["500 5.5.1"]);
    }
    assert_eq!(d.codes(&["JUNK", "NOOP"]), ["500 5.5.1", ""], "the next command is read a second later");
    assert_eq!(d.server.poll_timeout(), Some(NOW + Duration::from_secs(1)));
    d.now = NOW + Duration::from_secs(1);
    let mut out = Vec::new();
    assert!(!d.server.handle_timeout(d.now, &mut out) && out.is_empty());
    assert_eq!(d.say(b""), "250 2.0.0 OK\r\n");
    assert_eq!(d.codes(&["JUNK", "NOOP"]), ["500 5.5.1", "250 2.0.0"], "what works starts the count again");
}

fn stranger() -> PeerFacts {
    PeerFacts::new(IpAddr::from([198, 51, 100, 9]), false)
}

#[test]
fn a_stranger_who_looks_for_recipients_is_slowed_down_and_sent_away() {
    let mut d = Driver::with(policy(|_| {}), PeerFacts { ask_recipient: true, ..stranger() });
    d.say(b"EHLO a\r\nMAIL FROM:<a@b>\r\n");
    d.verdict = Some(b"550 5.1.1 No such user here\r\n");
    // Neither what is right in between nor RSET makes it forgotten; 4yz is no guess.
    for _ in 0..limits::SESSION_ERRORS - 1 {
        assert_eq!(d.codes(&["RCPT TO:<x@d>", "RSET", "MAIL FROM:<a@b>"])[0], "550 5.1.1");
    }
    d.verdict = Some(b"451 4.4.3 Try again later\r\n");
    assert_eq!(d.codes(&["RCPT TO:<x@d>", "RCPT TO:<y@d>"]), ["451 4.4.3"; 2]);
    d.verdict = Some(b"550 5.1.1 No such user here\r\n");
    assert_eq!(d.codes(&["RCPT TO:<x@d>"]), ["421 4.7.0"]);
    assert!(d.closed);

    let mut d = Driver::with(policy(|p| p.error_delay = Duration::from_secs(1)), stranger());
    d.say(b"EHLO a\r\nMAIL FROM:<a@b>\r\n");
    let free = usize::from(limits::SESSION_FREE_ERRORS);
    assert_eq!(d.codes(&vec!["RCPT TO:<x@d>"; free + 1]), vec!["550 5.7.1"; free + 1]);
    assert_eq!(d.codes(&["RCPT TO:<x@d>"]), [""], "later");

    // Who is known may have a list with many that are gone.
    let mut d = Driver::with(policy(|_| {}), PeerFacts { ask_recipient: true, ..peer() });
    d.say(b"EHLO a\r\nMAIL FROM:<a@b>\r\n");
    d.verdict = Some(b"550 5.1.1 No such user here\r\n");
    assert_eq!(d.codes(&["RCPT TO:<x@d>"; 200]), ["550 5.1.1"; 200]);
}

#[test]
fn a_stranger_who_brings_no_mail_is_sent_away() {
    for idle in ["NOOP", "RSET", "HELP", "VRFY x", "EHLO a"] {
        let mut d = Driver::with(policy(|_| {}), stranger());
        let most = usize::from(limits::SESSION_JUNK) + usize::from(limits::SESSION_ERRORS);
        let codes = d.codes(&vec![idle; most]);
        assert!(d.closed && codes[most - 1] == "421 4.7.0" && !codes[..most - 1].contains(&codes[most - 1]), "{idle}");
        let mut d = Driver::new();
        d.codes(&vec![idle; 2 * most]);
        assert!(!d.closed, "{idle}");
    }
    // What is pipelined behind a refused MAIL is no error, and not for nothing for ever.
    let mut d = Driver::with(policy(|_| {}), stranger());
    d.server.set_busy(true);
    let most = usize::from(limits::SESSION_JUNK) + usize::from(limits::SESSION_ERRORS);
    let replies = d.say(format!("EHLO a\r\nMAIL FROM:<a@b>\r\n{}", "RCPT TO:<c@d>\r\n".repeat(2 * most)).as_bytes());
    assert!(d.closed && replies.ends_with("421 4.7.0 Too many errors, closing the connection\r\n"), "{replies}");
    assert!(replies.matches("503 5.5.1").count() >= usize::from(limits::SESSION_JUNK));
    // A message is what it is here for: then all is forgotten.
    let mut d = Driver::with(policy(|_| {}), PeerFacts { ask_recipient: true, ..stranger() });
    for _ in 0..5 {
        d.codes(&vec!["NOOP"; usize::from(limits::SESSION_JUNK) - 10]);
        d.say(b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n");
        d.say(b"DATA\r\nx\r\n.\r\n");
    }
    assert_eq!((d.messages.len(), d.closed), (5, false));
}

#[test]
fn who_it_was_in_the_clear_is_forgotten_in_tls() {
    // RFC 3207 §4.2: somebody on the way may have said it.
    let mut d = Driver::with(policy(|p| p.auth_without_tls = true), PeerFacts { xforward: true, ..stranger() });
    d.say(b"EHLO a\r\n");
    assert_eq!(
        d.codes(&[&format!("AUTH PLAIN {}", plain("me", "secret")), "XFORWARD ADDR=192.0.2.1"]),
        ["235 2.7.0", "250 2.0.0"]
    );
    assert_eq!(d.server.account(), Some("me"));
    d.start_tls(TlsFacts::default());
    assert_eq!((d.server.account(), d.server.origin()), (None, stranger().address));
    assert!(d.say(b"EHLO a\r\n").contains("AUTH "));
    assert_eq!(d.codes(&["MAIL FROM:<a@b>", "RCPT TO:<c@d>"]), ["250 2.1.0", "550 5.7.1"]);
}

#[test]
fn another_client_by_xclient_is_not_the_account_of_the_one_before() {
    let proxy = PeerFacts { xclient: true, ..peer() };
    for login in [format!("AUTH PLAIN {}", plain("me", "secret")), "XCLIENT ADDR=192.0.2.1 LOGIN=me".to_owned()] {
        let mut d = Driver::with(policy(|p| p.auth_without_tls = true), proxy);
        d.say(b"EHLO a\r\n");
        d.codes(&[&login]);
        assert_eq!(d.server.account(), Some("me"));
        assert_eq!(d.codes(&["XCLIENT ADDR=192.0.2.7"]), ["220"]);
        assert_eq!(d.server.account(), None);
        assert_eq!(d.codes(&["EHLO a", "MAIL FROM:<a@b>", "RCPT TO:<c@d>"])[2], "550 5.7.1");
    }
}

#[test]
fn an_auth_line_that_is_too_long_is_the_end_of_that_auth() {
    // RFC 4954 §4: 500 5.5.6.
    let mut d = Driver::with(policy(|p| p.auth_without_tls = true), peer());
    d.say(b"EHLO a\r\n");
    let long = "A".repeat(limits::AUTH_LINE_BYTES + 10);
    assert_eq!(d.codes(&["AUTH PLAIN", &long, "NOOP"]), ["334", "500 5.5.6", "250 2.0.0"]);
    assert_eq!(d.codes(&[&format!("AUTH PLAIN {long}"), "NOOP"]), ["500 5.5.6", "250 2.0.0"]);
    assert_eq!(d.codes(&[&format!("AUTH PLAIN {}", plain("me", "secret"))]), ["235 2.7.0"]);
}

#[test]
fn a_chunk_that_is_not_wanted_has_as_much_time_as_one_that_is() {
    let minute = Duration::from_secs(60);
    for (before, chunk) in [("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n", "BDAT 200000 LAST\r\n"), ("", "BDAT 200000\r\n")] {
        let mut d = Driver::new();
        d.say(format!("EHLO a\r\n{before}{chunk}").as_bytes());
        let patience = d.server.policy().data_timeout;
        // Some of it each minute: no timeout; nothing for too long: one.
        for _ in 0..10 {
            d.now = d.now + minute;
            d.feed(&[b'x'; 15_000]);
            assert!(!d.server.handle_timeout(d.now, &mut Vec::new()));
        }
        d.now = d.now + patience;
        assert!(d.server.handle_timeout(d.now, &mut Vec::new()));
        // An octet now and then is not enough for ever.
        let mut d = Driver::new();
        d.say(format!("EHLO a\r\n{before}{chunk}").as_bytes());
        let ended = (0..60).find(|_| {
            d.now = d.now + minute;
            d.feed(b"x");
            d.server.handle_timeout(d.now, &mut Vec::new())
        });
        assert!(ended.is_some());
    }
}

#[test]
fn vrfy_of_a_name_in_utf_8() {
    // RFC 6531 §3.7.4.2.
    let mut d = Driver::with(policy(|p| p.vrfy = true), peer());
    d.verdict = Some(b"252 2.1.5 Perhaps\r\n");
    assert_eq!(
        d.codes(&["EHLO a", "VRFY \u{e4}@any.test SMTPUTF8", "VRFY \u{e4}@any.test"])[1..],
        ["252 2.1.5", "500 5.5.2"]
    );
}
