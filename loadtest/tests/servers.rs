//! Real servers behind the relay: Postfix as the next hop, Dovecot for local domains, whose mail is read back over IMAP
//! and POP3. Needs of the relay: `[[local]]` with `deliver = "lmtp:…"` over TCP and a UNIX socket, `aliases`,
//! `mailboxes`, `subaddress`; DSN and SMTPUTF8 passed on to a next hop.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::dovecot::Dovecot;
use common::edge::{assert_traced, message, trace_before};
use common::exim::Exim;
use common::postfix::Postfix;
use common::{Bench, Setup};
use loadtest::relay::RelayConfig;

/// As it goes over the wire: dots doubled.
fn stuffed(message: &[u8]) -> Vec<u8> {
    let lines = message.split_inclusive(|b| *b == b'\n');
    lines.flat_map(|line| [if line.starts_with(b".") { &b"."[..] } else { b"" }, line].concat()).collect()
}

/// A relay to that port.
fn relay_to(port: u16) -> Option<Bench> {
    let config = Box::new(move |c: &mut RelayConfig| c.smart_host = Some(format!("127.0.0.1:{port}")));
    Bench::start(Setup { config, ..Setup::default() })
}

#[test]
fn postfix_as_the_next_hop() {
    let Some(hop) = Postfix::hop("") else { return };
    let Some(bench) = relay_to(hop.port) else { return };
    let mut client = bench.client();
    client.expect("EHLO client.test", "250");
    let eight = [message("eight"), "grüße\r\n".as_bytes().to_vec()].concat();
    client.expect("MAIL FROM:<a@d0001.test> BODY=8BITMIME", "250");
    client.expect("RCPT TO:<b@d0002.test>", "250");
    client.expect("RCPT TO:<c@d0002.test>", "250");
    client.expect("DATA", "354");
    client.write(&stuffed(&eight));
    client.expect(".", "250");
    let held = hop.held("<eight@d0001.test>");
    assert_traced(&trace_before(&held.text, &eight), "ESMTP", "[127.0.0.1]");
    held.assert_has("sender: a@d0001.test");
    held.assert_has("recipient: b@d0002.test");
    held.assert_has("recipient: c@d0002.test");

    // A connection that has served is used again, also for a large message.
    let mut long = message("long");
    for i in 0..20_000 {
        long.extend_from_slice(format!(".line {i} of a long body, with a dot before it and behind it.\r\n").as_bytes());
    }
    client.send("a@d0001.test", &["b@d0002.test"], &stuffed(&long));
    assert_traced(&trace_before(&hop.held("<long@d0001.test>").text, &long), "ESMTP", "[127.0.0.1]");
}

/// RFC 3461 §5.2.1 and RFC 6531 §3.2: parameters go on to a next hop that announces the extension.
#[test]
fn parameters_go_on_to_postfix() {
    let Some(hop) = Postfix::hop("") else { return };
    let Some(bench) = relay_to(hop.port) else { return };
    let mut client = bench.client();
    client.expect("EHLO client.test", "250");
    client.expect("MAIL FROM:<ä@d0001.test> SMTPUTF8 RET=HDRS ENVID=env+2Bid", "250");
    client.expect("RCPT TO:<b@d0002.test> NOTIFY=NEVER", "250");
    client.expect("RCPT TO:<bø@d0002.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;o@d0003.test", "250");
    client.expect("DATA", "354");
    client.write(&stuffed(&message("parameters")));
    client.expect(".", "250");
    let held = hop.held("<parameters@d0001.test>");
    assert_traced(&trace_before(&held.text, &message("parameters")), "UTF8SMTP", "[127.0.0.1]");
    held.assert_has("sender: ä@d0001.test");
    for line in
        ["ret_flags=2", "envelope_id=env+id", "notify_flags=1", "notify_flags=6", "dsn_orig_rcpt=rfc822;o@d0003.test"]
    {
        held.assert_has(&format!("named_attribute: {line}"));
    }
    held.assert_has("recipient: b@d0002.test");
    held.assert_has("recipient: bø@d0002.test");
}

#[test]
fn what_postfix_refuses_is_returned() {
    let refuses = "smtpd_recipient_restrictions = \
        check_recipient_access inline:{ { nobody@d0002.test = 550 5.1.1 no such user } }, static:hold\n\
        message_size_limit = 100000\n";
    let Some(hop) = Postfix::hop(refuses) else { return };
    let Some(bench) = relay_to(hop.port) else { return };
    let mut client = bench.client();
    client.expect("EHLO client.test", "250");
    client.send("a@d0001.test", &["b@d0002.test", "nobody@d0002.test"], &stuffed(&message("one-of-two")));
    let held = hop.held_to("b@d0002.test");
    assert!(!held.envelope.contains("nobody"), "{}", held.envelope);
    // It takes the bounce as well: everything goes to it.
    let bounce = hop.held("Final-Recipient: rfc822; nobody@d0002.test");
    bounce.assert_has("recipient: a@d0001.test");
    let text = String::from_utf8_lossy(&bounce.text).into_owned();
    assert!(text.contains("Status: 5.1.1") && !text.contains("Final-Recipient: rfc822; b@"), "{text}");
    // RFC 1870 §6: larger than the next hop takes, so it is not even tried.
    let large = [message("large"), b"0123456789\r\n".repeat(20_000)].concat();
    client.send("a@d0001.test", &["large@d0002.test"], &stuffed(&large));
    let bounce = hop.held("Final-Recipient: rfc822; large@d0002.test");
    let text = String::from_utf8_lossy(&bounce.text).into_owned();
    assert!(text.contains("Status: 5.3.4") || text.contains("Status: 5.2.3"), "{text}");
}

/// Many small messages to one domain at once, over one connection: `BDAT` flies. Returns their marks.
fn burst(bench: &Bench, name: &str, count: usize) -> Vec<String> {
    let mut client = bench.client();
    client.expect("EHLO client.test", "250");
    let mark = |i: usize| format!("{name}-{i}-");
    for i in 0..count {
        client.send("a@d0001.test", &["b@d0002.test"], &stuffed(&message(&mark(i))));
    }
    (0..count).map(|i| format!("<{}@d0001.test>", mark(i))).collect()
}

/// A relay with one connection to that port.
fn relay_by_one_connection(port: u16) -> Option<Bench> {
    let config = Box::new(move |c: &mut RelayConfig| {
        c.smart_host = Some(format!("127.0.0.1:{port}"));
        c.delivery = "connections_per_destination = 1\n".to_owned();
    });
    Bench::start(Setup { config, ..Setup::default() })
}

/// RFC 3030, RFC 2920: as Postfix has them.
#[test]
fn flights_to_postfix() {
    let refuses = "smtpd_recipient_restrictions = \
        check_recipient_access inline:{ { nobody@d0002.test = 550 5.1.1 no such user } }, static:hold\n";
    let Some(hop) = Postfix::hop(refuses) else { return };
    let Some(bench) = relay_by_one_connection(hop.port) else { return };
    let marks = burst(&bench, "flight", 40);
    for (i, mark) in marks.iter().enumerate() {
        let held = hop.held(mark);
        let sent = message(&format!("flight-{i}-"));
        assert_traced(&trace_before(&held.text, &sent), "ESMTP", "[127.0.0.1]");
    }
    assert_eq!(hop.held_count(), marks.len(), "each once");
    // One whose recipient is refused, among others: its octets are wasted, the others arrive.
    let mut client = bench.client();
    client.expect("EHLO client.test", "250");
    for (to, mark) in [("b", "before"), ("nobody", "refused"), ("b", "behind")] {
        client.send("a@d0001.test", &[&format!("{to}@d0002.test")], &stuffed(&message(mark)));
    }
    hop.held("<before@d0001.test>");
    hop.held("<behind@d0001.test>");
    hop.held("Final-Recipient: rfc822; nobody@d0002.test");
    let log = hop.daemon.log();
    assert!(!log.contains("improper command pipelining") && !log.contains("nested MAIL"), "{log}");
    // It counts commands of a session when that ends.
    assert!(hop.sessions_with_bdat() > 0, "{log}");
}

/// The same with Exim.
#[test]
fn flights_to_exim() {
    let Some(hop) = Exim::hop("") else { return };
    let Some(bench) = relay_by_one_connection(hop.port) else { return };
    let marks = burst(&bench, "flight", 40);
    let kept = hop.kept(&marks);
    for mark in &marks {
        assert_eq!(kept.matches(&format!("Message-ID: {mark}")).count(), 1, "{mark} came once:\n{}", hop.log());
    }
    let text = "\r\n\r\n.a dot\r\n..two dots\r\n.\r\n\r\n trailing space \r\n";
    assert_eq!(kept.matches(text).count(), marks.len(), "dots as they were:\n{kept}");
    let mut client = bench.client();
    client.expect("EHLO client.test", "250");
    for (to, mark) in [("b", "before"), ("nobody", "refused"), ("b", "behind")] {
        client.send("a@d0001.test", &[&format!("{to}@d0002.test")], &stuffed(&message(mark)));
    }
    let tail = ["<before@d0001.test>", "<behind@d0001.test>", "Final-Recipient: rfc822; nobody@d0002.test"];
    hop.kept(&tail.map(str::to_owned));
    let log = hop.log();
    assert!(!log.contains("synchronization") && !log.contains("too many nonmail"), "{log}");
    // "K": it came by CHUNKING.
    let by_bdat = log.lines().filter(|l| l.contains(" <= a@d0001.test ") && l.contains(" K ")).count();
    assert!(by_bdat >= marks.len(), "{log}");
}

/// RFC 6531, RFC 3461 and small limits (RFC 1870), with Exim as the next hop.
#[test]
fn exim_as_the_next_hop() {
    let Some(hop) = Exim::hop("message_size_limit = 100000\nrecipients_max = 3\n") else { return };
    let Some(bench) = relay_to(hop.port) else { return };
    let mut client = bench.client();
    client.expect("EHLO client.test", "250");
    client.expect("MAIL FROM:<ä@d0001.test> SMTPUTF8 RET=HDRS ENVID=env+2Bid", "250");
    client.expect("RCPT TO:<bø@d0002.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;o@d0003.test", "250");
    client.expect("DATA", "354");
    client.write(&stuffed(&message("parameters")));
    client.expect(".", "250");
    let kept = hop.kept(&["<parameters@d0001.test>".to_owned()]);
    assert!(kept.contains("Return-path: <ä@d0001.test>") && kept.contains("Envelope-to: bø@d0002.test"), "{kept}");
    // More recipients than it takes at once: the rest in other transactions.
    let many: Vec<String> = (0..8).map(|i| format!("r{i}@d0002.test")).collect();
    let to: Vec<&str> = many.iter().map(String::as_str).collect();
    client.send("a@d0001.test", &to, &stuffed(&message("many")));
    hop.kept(&many);
    // Larger than it announces: returned without a try.
    let large = [message("large"), b"0123456789\r\n".repeat(20_000)].concat();
    client.send("a@d0001.test", &["large@d0002.test"], &stuffed(&large));
    let kept = hop.kept(&["Final-Recipient: rfc822; large@d0002.test".to_owned()]);
    assert!(kept.contains("Status: 5.3.4"), "{kept}");
}

/// Dovecot, and a relay whose domain local.test it has. `deliver` is given Dovecot, `more` goes to `[[local]]`.
fn with_dovecot(deliver: impl FnOnce(&Dovecot) -> String, more: &str) -> Option<(Dovecot, Bench)> {
    let dovecot = Dovecot::start()?;
    let local = format!("\n[[local]]\ndomains = [\"local.test\"]\ndeliver = {:?}\n{more}", deliver(&dovecot));
    let config = Box::new(move |c: &mut RelayConfig| c.extra = local);
    let bench = Bench::start(Setup { keep: 100, config, ..Setup::default() })?;
    Some((dovecot, bench))
}

/// A message arrives in alice's mailbox unchanged; of two recipients the unknown one is returned to the sender.
fn delivers_to(dovecot: &Dovecot, bench: &Bench) {
    let mut client = bench.client();
    client.expect("EHLO client.test", "250");
    let eight = [message("eight"), "grüße\r\n".as_bytes().to_vec()].concat();
    client.expect("MAIL FROM:<a@d0001.test> BODY=8BITMIME", "250");
    client.expect("RCPT TO:<alice@local.test>", "250");
    client.expect("DATA", "354");
    client.write(&stuffed(&eight));
    client.expect(".", "250");
    let read = dovecot.mailbox("alice", 1);
    assert_traced(&trace_before(&read[0], &eight), "ESMTP", "[127.0.0.1]");

    // RFC 2033 §4.2: one reply for each recipient.
    client.send("a@d0001.test", &["bob@local.test", "nobody@local.test"], &stuffed(&message("one-of-two")));
    assert_traced(&trace_before(&dovecot.mailbox("bob", 1)[0], &message("one-of-two")), "ESMTP", "[127.0.0.1]");
    let bounce = bench.wait_kept("the bounce", |k| k.mail_from.is_empty());
    let text = String::from_utf8_lossy(&bounce.text()).into_owned();
    assert_eq!(bounce.recipients, ["a@d0001.test"]);
    assert!(text.contains("Final-Recipient: rfc822; nobody@local.test") && text.contains("Status: 5.1.1"), "{text}");
    assert!(!text.contains("bob@local.test"), "{text}");
    // Nothing local goes by way of MX.
    assert_eq!(bench.sink().kept().len(), 1);
}

#[test]
fn dovecot_over_tcp() {
    let Some((dovecot, bench)) = with_dovecot(|d| format!("lmtp:127.0.0.1:{}", d.lmtp), "") else { return };
    delivers_to(&dovecot, &bench);
}

#[test]
fn dovecot_over_a_unix_socket() {
    let Some((dovecot, bench)) = with_dovecot(|d| format!("lmtp:{}", d.socket().display()), "") else { return };
    delivers_to(&dovecot, &bench);
}

#[test]
fn aliases_and_details_reach_dovecot() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("mailboxes"), "alice\nbob\n").unwrap();
    fs::write(path("aliases"), "team: alice, bob, remote@d0002.test\n").unwrap();
    let more = format!("mailboxes = {:?}\naliases = {:?}\nsubaddress = \"+\"\n", path("mailboxes"), path("aliases"));
    let Some((dovecot, bench)) = with_dovecot(|d| format!("lmtp:127.0.0.1:{}", d.lmtp), &more) else { return };
    let mut client = bench.client();
    client.expect("EHLO client.test", "250");
    client.send("a@d0001.test", &["team@local.test"], &stuffed(&message("team")));
    for user in ["alice", "bob"] {
        assert_traced(&trace_before(&dovecot.mailbox(user, 1)[0], &message("team")), "ESMTP", "[127.0.0.1]");
    }
    let remote = bench.wait_kept("the alias's remote target", |k| k.recipients == ["remote@d0002.test"]);
    assert_traced(&trace_before(&remote.text(), &message("team")), "ESMTP", "[127.0.0.1]");
    client.send("a@d0001.test", &["alice+lists@local.test"], &stuffed(&message("detail")));
    let read = dovecot.mailbox("alice", 2);
    assert!(read.iter().any(|m| m.ends_with(&message("detail"))));
    // Who is not there is known at once.
    client.expect("MAIL FROM:<a@d0001.test>", "250");
    client.expect("RCPT TO:<nobody@local.test>", "550 5.1.1");
}
