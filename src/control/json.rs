//! Events as JSON lines, hand-written into a reused buffer: the control thread shares a core with a shard, so a line
//! costs well under a microsecond and no allocation.
//!
//! Every line is valid JSON in UTF-8 and safe to show on a terminal, whatever bytes a peer sent: what is not UTF-8 becomes
//! U+FFFD, control characters are escaped.

use crate::shard::event::{Accepted, Code, Event, Notice, Outcome, Rejected, TlsNote};
use crate::starttls::{Proof, Verified, Wish};
use crate::time::Wall;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

/// Writes lines. Lives on the control thread; remembers the text of the last second.
#[derive(Default)]
pub struct Encoder {
    second: Option<u64>,
    /// `2026-11-21T23:39:52`.
    text: String,
}

impl Encoder {
    /// Appends one line with its line feed.
    pub fn encode(&mut self, event: &Event, out: &mut Vec<u8>) {
        match event {
            Event::Accepted(accepted) => self.accepted(accepted, out),
            Event::Rejected(rejected) => self.rejected(rejected, out),
            Event::Delivered(outcome) => self.outcome("delivered", outcome, out),
            Event::Deferred(outcome) => self.outcome("deferred", outcome, out),
            Event::Bounced(outcome) => self.outcome("bounced", outcome, out),
            Event::Expired(outcome) => self.outcome("expired", outcome, out),
            // No fact.
            Event::Sts(_) | Event::Tls(_) | Event::Rua(_) => return,
            Event::Notice(notice) => self.notice(notice, out),
        }
        out.extend_from_slice(b"}\n");
    }

    fn accepted(&mut self, accepted: &Accepted, out: &mut Vec<u8>) {
        self.head("accepted", accepted.at, out);
        id(accepted.id, out);
        key("peer", out);
        ip(accepted.peer, out);
        field("helo", accepted.text.get(1), out);
        field("sender", accepted.text.get(0), out);
        number("recipients", u64::from(accepted.recipients), out);
        number("size_bytes", accepted.size_bytes, out);
        number("receive_us", accepted.receive_us, out);
        number("commit_us", accepted.commit_us, out);
    }

    fn rejected(&mut self, rejected: &Rejected, out: &mut Vec<u8>) {
        self.head("rejected", rejected.at, out);
        key("peer", out);
        ip(rejected.peer, out);
        field("helo", rejected.text.get(2), out);
        field("stage", rejected.stage.name().as_bytes(), out);
        field("sender", rejected.text.get(0), out);
        field("recipient", rejected.text.get(1), out);
        reply(rejected.code, rejected.text.get(3), out);
    }

    fn outcome(&mut self, name: &str, outcome: &Outcome, out: &mut Vec<u8>) {
        self.head(name, outcome.at, out);
        id(outcome.id, out);
        field("sender", outcome.text.get(0), out);
        field("recipient", outcome.text.get(1), out);
        field("site", outcome.text.get(2), out);
        field("mx", outcome.text.get(3), out);
        key("remote", out);
        match outcome.remote {
            Some(address) => socket(address, out),
            None => out.extend_from_slice(b"null"),
        }
        if !outcome.text.get(6).is_empty() {
            field("source", outcome.text.get(6), out);
        }
        if let Some(note) = &outcome.tls {
            tls(note, out);
        }
        reply(outcome.code, outcome.text.get(4), out);
        if !outcome.text.get(5).is_empty() {
            field("rule", outcome.text.get(5), out);
        }
        number("attempts", u64::from(outcome.attempts), out);
        if let Some(next) = outcome.next_attempt {
            key("next_attempt", out);
            self.time(next, out);
        }
        if outcome.reply_lost {
            key("reply_lost", out);
            out.extend_from_slice(b"true");
        }
        number("size_bytes", outcome.size_bytes, out);
        number("queue_us", outcome.queue_us, out);
        number("connect_us", outcome.connect_us, out);
        number("deliver_us", outcome.deliver_us, out);
        number("total_us", outcome.total_us, out);
    }

    fn notice(&mut self, notice: &Notice, out: &mut Vec<u8>) {
        self.head("notice", notice.at, out);
        number("shard", u64::from(notice.shard), out);
        field("notice", notice.kind.name().as_bytes(), out);
        field("details", notice.text.get(0), out);
    }

    fn head(&mut self, name: &str, at: Wall, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":");
        self.time(at, out);
        field("event", name.as_bytes(), out);
    }

    /// RFC 3339 in UTC with milliseconds.
    fn time(&mut self, at: Wall, out: &mut Vec<u8>) {
        let (second, millis) = (at.0 / 1000, at.0 % 1000);
        if self.second != Some(second) {
            let stamp = i64::try_from(second).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
            let text = stamp.unwrap_or(jiff::Timestamp::MAX).to_string();
            self.text.clear();
            self.text.push_str(text.trim_end_matches('Z').split('.').next().unwrap_or_default());
            self.second = Some(second);
        }
        out.push(b'"');
        out.extend_from_slice(self.text.as_bytes());
        let digit = |n: u64| b'0' + u8::try_from(n % 10).expect("one digit");
        out.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis), b'Z', b'"']);
    }
}

fn key(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn number(name: &str, value: u64, out: &mut Vec<u8>) {
    key(name, out);
    digits(value, out);
}

fn digits(mut value: u64, out: &mut Vec<u8>) {
    let mut text = [0; 20];
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + u8::try_from(value % 10).expect("one digit");
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[at..]);
}

fn id(id: crate::message::MessageId, out: &mut Vec<u8>) {
    key("id", out);
    out.push(b'"');
    out.extend_from_slice(&id.text());
    out.push(b'"');
}

fn ip(address: IpAddr, out: &mut Vec<u8>) {
    out.push(b'"');
    bare_ip(address, out);
    out.push(b'"');
}

fn bare_ip(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => {
            for (i, octet) in v4.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                digits(u64::from(octet), out);
            }
        }
        IpAddr::V6(v6) => write!(out, "{v6}").expect("a Vec takes everything"),
    }
}

fn socket(address: SocketAddr, out: &mut Vec<u8>) {
    out.push(b'"');
    if address.is_ipv6() {
        out.push(b'[');
    }
    bare_ip(address.ip(), out);
    if address.is_ipv6() {
        out.push(b']');
    }
    out.push(b':');
    digits(u64::from(address.port()), out);
    out.push(b'"');
}

/// `"tls":{"policy":"require","proof":"dane","by":"dane","version":…}`
fn tls(note: &TlsNote, out: &mut Vec<u8>) {
    let decision = &note.decision;
    key("tls", out);
    out.push(b'{');
    let policy = match decision.wish {
        Wish::Never => "none",
        Wish::IfOffered => "opportunistic",
        Wish::Require => "require",
    };
    out.extend_from_slice(b"\"policy\":");
    string(policy.as_bytes(), out);
    let proof = match decision.proof {
        Proof::None => "none",
        Proof::Pkix => "pkix",
        Proof::Dane => "dane",
    };
    field("proof", proof.as_bytes(), out);
    field("by", decision.by.name().as_bytes(), out);
    if let Some(session) = &note.session {
        field("version", session.version().as_bytes(), out);
        field("cipher", session.cipher().as_bytes(), out);
        key("resumed", out);
        out.extend_from_slice(if session.resumed { b"true" } else { b"false" });
    }
    match note.verified {
        Some(Verified::Pkix) => field("verified", b"pkix", out),
        Some(Verified::Dane(usage, selector, matching)) => {
            field("verified", b"dane", out);
            field("tlsa", format!("{usage} {selector} {matching}").as_bytes(), out);
        }
        Some(Verified::No(fault)) => {
            field("verified", b"no", out);
            field("why", fault.to_string().as_bytes(), out);
        }
        None => {}
    }
    if let Some(named) = decision.tested {
        let passes = named && note.verified == Some(Verified::Pkix);
        field("sts_testing", if passes { b"pass" } else { b"fail" }, out);
    }
    if let Some(reason) = note.unencrypted {
        field("unencrypted", reason.name().as_bytes(), out);
    }
    out.push(b'}');
}

fn reply(code: Code, text: &[u8], out: &mut Vec<u8>) {
    if code.basic != 0 {
        number("code", u64::from(code.basic), out);
    }
    if let Some((class, subject, detail)) = code.enhanced {
        key("enhanced", out);
        out.push(b'"');
        digits(u64::from(class), out);
        out.push(b'.');
        digits(u64::from(subject), out);
        out.push(b'.');
        digits(u64::from(detail), out);
        out.push(b'"');
    }
    field("reply", text, out);
}

fn field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    key(name, out);
    string(value, out);
}

/// Bytes that stand in a JSON string as they are, and need no thought.
fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\'
}

fn string(value: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    // All of it, without a branch for each octet: it nearly always is.
    if value.iter().fold(true, |plain, byte| plain & is_plain(*byte)) {
        out.extend_from_slice(value);
    } else {
        for chunk in value.utf8_chunks() {
            chunk.valid().chars().for_each(|c| escaped(c, out));
            if !chunk.invalid().is_empty() {
                out.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
    }
    out.push(b'"');
}

fn escaped(c: char, out: &mut Vec<u8>) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        // C0, DEL and C1 (a terminal obeys them), and the line separators that some readers of lines split at.
        c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
            write!(out, "\\u{:04x}", u32::from(c)).expect("a Vec takes everything");
        }
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;
    use crate::message::MessageId;
    use crate::shard::event::{NoticeKind, Stage};
    use serde_json::{Value, json};

    pub(in crate::control) fn outcome(text: [&[u8]; 5]) -> Outcome {
        let [sender, recipient, site, mx, reply] = text;
        Outcome {
            at: Wall(1_795_304_392_123),
            id: MessageId(77 << 10),
            size_bytes: 4096,
            remote: Some("[2001:db8::1]:25".parse().unwrap()),
            tls: None,
            code: Code { basic: 250, enhanced: Some((2, 0, 0)) },
            attempts: 1,
            next_attempt: None,
            reply_lost: false,
            queue_us: 5,
            connect_us: 0,
            deliver_us: 1234,
            total_us: u64::MAX,
            text: Outcome::texts(sender, recipient, [site, mx, b"", b""], reply),
        }
    }

    fn line(event: &Event) -> Value {
        let mut out = Vec::new();
        Encoder::default().encode(event, &mut out);
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(out.last(), Some(&b'\n'));
        serde_json::from_slice(&out).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out)))
    }

    #[test]
    fn a_delivery_has_all_its_fields() {
        let event = Event::Delivered(outcome([b"a@b.example", b"c@d.example", b"d.example", b"mx.d.example", b"ok"]));
        assert_eq!(
            line(&event),
            json!({
                "time": "2026-11-21T23:39:52.123Z", "event": "delivered", "id": MessageId(77 << 10).to_string(),
                "sender": "a@b.example", "recipient": "c@d.example", "site": "d.example", "mx": "mx.d.example",
                "remote": "[2001:db8::1]:25", "code": 250, "enhanced": "2.0.0", "reply": "ok", "attempts": 1,
                "size_bytes": 4096, "queue_us": 5, "connect_us": 0, "deliver_us": 1234, "total_us": u64::MAX,
            })
        );
        let mut failed = outcome([b"", b"c@d.example", b"d.example", b"", b"connect timed out"]);
        (failed.remote, failed.code) = (None, Code::default());
        failed.next_attempt = Some(Wall(1_795_304_692_007));
        assert_eq!(line(&Event::Deferred(failed.clone()))["reply_lost"], Value::Null);
        failed.reply_lost = true;
        assert_eq!(line(&Event::Deferred(failed.clone()))["reply_lost"], true);
        let value = line(&Event::Deferred(failed));
        assert_eq!((&value["event"], &value["remote"]), (&json!("deferred"), &Value::Null));
        assert_eq!(value["next_attempt"], "2026-11-21T23:44:52.007Z");
        assert!(value.get("code").is_none() && value.get("enhanced").is_none());
    }

    #[test]
    fn the_other_events_have_theirs() {
        let accepted = Event::Accepted(Accepted {
            at: Wall(0),
            id: MessageId(1),
            peer: IpAddr::from([192, 0, 2, 1]),
            size_bytes: 10,
            recipients: 2,
            receive_us: 3,
            commit_us: 4,
            text: Accepted::texts(b"", b"client.example"),
        });
        assert_eq!(
            line(&accepted),
            json!({
                "time": "1970-01-01T00:00:00.000Z", "event": "accepted", "id": "0000000000001", "peer": "192.0.2.1",
                "helo": "client.example", "sender": "", "recipients": 2, "size_bytes": 10, "receive_us": 3, "commit_us": 4,
            })
        );
        let rejected = Event::Rejected(Rejected {
            at: Wall(u64::MAX),
            peer: "::1".parse().unwrap(),
            stage: Stage::Rcpt,
            code: Code { basic: 550, enhanced: Some((5, 7, 1)) },
            text: Rejected::texts(b"a@b.example", b"c@d.example", b"helo", b"no relaying"),
        });
        let value = line(&rejected);
        assert_eq!(
            (&value["stage"], &value["reply"], &value["peer"]),
            (&json!("rcpt"), &json!("no relaying"), &json!("::1"))
        );
        let value = line(&Notice::event(Wall(5), 3, NoticeKind::StorageFull, b"no room"));
        assert_eq!(
            (&value["shard"], &value["notice"], &value["details"]),
            (&json!(3), &json!("storage_full"), &json!("no room"))
        );
    }

    #[test]
    fn nasty_bytes_stay_valid_json_on_one_line() {
        let all: Vec<u8> = (0..=255).collect();
        for reply in [
            &all[..],
            b"\"}\n{\"event\":\"delivered\"",
            b"\\",
            b"\xff\xfe\xfd",
            b"\xed\xa0\x80\xf8\x88",
            b"\x1b[2J\x9b\x7f\0",
            "\u{2028}\u{9b}\u{202e}grüße \u{1f4ee}".as_bytes(),
            "cut in the middle: \u{1f4ee}".as_bytes().split_last().unwrap().1,
        ] {
            let value = line(&Event::Bounced(outcome([reply, reply, reply, reply, reply])));
            let expected = String::from_utf8_lossy(reply);
            assert_eq!(value["reply"], *expected);
            assert_eq!(value["sender"], *expected);
            let mut out = Vec::new();
            string(reply, &mut out);
            assert!(out.iter().all(|byte| *byte >= 0x20 && *byte != 0x7f), "nothing a terminal obeys");
        }
    }

    #[test]
    fn random_bytes_stay_valid_json() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..40)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            let value = line(&Event::Expired(outcome([&bytes, b"", b"", b"", b""])));
            assert_eq!(value["sender"], *String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn operations_md_explains_every_field() {
        const MANUAL: &str = include_str!("../../docs/operations.md");
        let mut deferred = outcome([b"", b"", b"", b"", b""]);
        deferred.next_attempt = Some(Wall(0));
        let rejected = Rejected {
            at: Wall(0),
            peer: IpAddr::from([192, 0, 2, 1]),
            stage: Stage::Connect,
            code: Code { basic: 421, enhanced: Some((4, 3, 2)) },
            text: Rejected::texts(b"", b"", b"", b""),
        };
        let accepted = Accepted {
            at: Wall(0),
            id: MessageId(1),
            peer: IpAddr::from([192, 0, 2, 1]),
            size_bytes: 0,
            recipients: 1,
            receive_us: 0,
            commit_us: 0,
            text: Accepted::texts(b"", b""),
        };
        for event in [
            Event::Deferred(deferred),
            Event::Rejected(rejected),
            Event::Accepted(accepted),
            Notice::event(Wall(0), 0, NoticeKind::Stopped, b""),
        ] {
            for (key, _) in line(&event).as_object().unwrap() {
                assert!(MANUAL.contains(&format!("`{key}`")), "docs/operations.md does not explain {key}");
            }
        }
        for kind in NoticeKind::ALL {
            assert!(MANUAL.contains(&format!("`{}`", kind.name())), "docs/operations.md does not explain {kind:?}");
        }
    }
}
