//! What becomes of mail that the next hop does not take: tried again, bounced, expired; and what SIGTERM leaves behind.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Bench, HANG, Setup, wait_until};
use loadtest::send::Source;
use loadtest::sink::{Behaviour, Disconnect, Fail, Kept};

const MESSAGE: &[u8] = b"Subject: the original subject\r\nFrom: a@d0001.test\r\n\r\nthe body\r\n";

fn failing(rules: &[&str]) -> Behaviour {
    Behaviour { fail: rules.iter().map(|r| Fail::parse(r).unwrap()).collect(), ..Behaviour::default() }
}

/// Checks the form of a delivery status notification (RFC 3464) about `recipient`.
fn assert_bounce(bounce: &Kept, recipient: &str, status: &str) {
    let text = String::from_utf8(bounce.text()).unwrap();
    assert_eq!((bounce.mail_from.as_str(), bounce.recipients.as_slice()), ("", &["a@d0001.test".to_string()][..]));
    let lower = text.to_ascii_lowercase();
    for part in ["multipart/report", "report-type=delivery-status", "message/delivery-status", "action: failed"] {
        assert!(lower.contains(part), "no {part} in:\n{text}");
    }
    assert!(
        lower.contains(&format!("final-recipient: rfc822;{recipient}"))
            || lower.contains(&format!("final-recipient: rfc822; {recipient}")),
        "{text}"
    );
    assert!(lower.contains(&format!("status: {status}")), "{text}");
    assert!(text.contains("the original subject"), "{text}");
}

#[test]
fn transient_failures_are_tried_again() {
    for behaviour in [
        failing(&["rcpt:4xx:0.3", "dot:4xx:0.1", "mail:421:0.05", "connect:421:0.1"]),
        Behaviour { greylist: true, pipelining: false, ..Behaviour::default() },
    ] {
        let Some(bench) = Bench::start(Setup { behaviour, ..Setup::default() }) else { return };
        let sent = Source::run(bench.load(300)).unwrap();
        assert_eq!(sent.accepted, 300, "{:?}", sent.failures);
        bench.wait_all_arrived(&sent);
        let stats = bench.sink().stats();
        assert_eq!((stats.duplicates, stats.null_sender), (0, 0));
    }
}

#[test]
fn hang_ups_are_tried_again() {
    let rules = ["connect:0.1", "mail:0.05", "before-dot:0.05", "after-dot:0.05"];
    let disconnect = rules.iter().map(|r| Disconnect::parse(r).unwrap()).collect();
    let Some(bench) =
        Bench::start(Setup { behaviour: Behaviour { disconnect, ..Behaviour::default() }, ..Setup::default() })
    else {
        return;
    };
    let sent = Source::run(bench.load(300)).unwrap();
    let arrivals = bench.wait_all_arrived(&sent);
    // Twice only what the sink took and did not answer.
    for (id, a) in arrivals.iter().enumerate() {
        assert!(a.count <= 1 + a.unanswered, "u{id}: {a:?}");
    }
    assert_eq!(bench.sink().stats().null_sender, 0);
}

#[test]
fn permanent_failures_bounce_once() {
    let Some(bench) =
        Bench::start(Setup { behaviour: failing(&["rcpt:550:1@d0002.test"]), keep: 10, ..Setup::default() })
    else {
        return;
    };
    let mut c = bench.client();
    c.expect("EHLO client.test", "250");
    // From the null sender first: were it bounced, the bounce would have nowhere to go. Then one of two recipients.
    c.send("", &["nobody@d0002.test"], MESSAGE);
    c.send("a@d0001.test", &["nobody@d0002.test", "somebody@d0003.test"], MESSAGE);
    let bounce = bench.wait_kept("the bounce", |k| k.mail_from.is_empty());
    assert_bounce(&bounce, "nobody@d0002.test", "5.");
    bench.wait_kept("the other recipient's copy", |k| k.recipients == ["somebody@d0003.test"]);
    std::thread::sleep(Duration::from_secs(2));
    let kept = bench.sink().kept();
    assert_eq!(kept.iter().filter(|k| k.mail_from.is_empty()).count(), 1, "{kept:?}");
    assert_eq!(kept.len(), 2, "{kept:?}");
}

#[test]
fn a_domain_without_mail_bounces() {
    let Some(bench) = Bench::start(Setup { keep: 10, ..Setup::default() }) else { return };
    let mut c = bench.client();
    c.expect("EHLO client.test", "250");
    c.send("a@d0001.test", &["nobody@no-such-domain.test"], MESSAGE);
    let bounce = bench.wait_kept("the bounce", |k| k.mail_from.is_empty());
    assert_bounce(&bounce, "nobody@no-such-domain.test", "5.1.");
}

#[test]
fn what_cannot_be_delivered_in_time_bounces() {
    let config = Box::new(|c: &mut loadtest::relay::RelayConfig| {
        c.retry_max = Some("1s".into());
        c.give_up = Some("3s".into());
    });
    let behaviour = failing(&["rcpt:451:1@d0002.test"]);
    let Some(bench) = Bench::start(Setup { behaviour, keep: 10, config, ..Setup::default() }) else { return };
    let mut c = bench.client();
    c.expect("EHLO client.test", "250");
    c.send("a@d0001.test", &["late@d0002.test"], MESSAGE);
    let bounce = bench.wait_kept("the bounce", |k| k.mail_from.is_empty());
    // RFC 3463: 4.4.7 is delivery time expired; the status is that of the last attempt or the expiry.
    let text = String::from_utf8_lossy(&bounce.text()).to_ascii_lowercase();
    let status = if text.contains("status: 5.") { "5." } else { "4." };
    assert_bounce(&bounce, "late@d0002.test", status);
}

/// When MAIL came, and when the end of a message was answered so.
type Heard = Arc<Mutex<Vec<(Instant, String)>>>;

/// A receiver that answers the first message with 421 and takes all others.
fn slow_down_once(listener: &TcpListener, heard: &Heard) {
    for stream in listener.incoming().map_while(Result::ok) {
        let heard = Arc::clone(heard);
        std::thread::spawn(move || {
            let (mut out, mut data) = (&stream, false);
            let mut say = |text: &str| out.write_all(text.as_bytes()).is_ok();
            if !say("220 receiver\r\n") {
                return;
            }
            for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                let note = |what: &str| heard.lock().unwrap().push((Instant::now(), what.to_owned()));
                let went = match line.get(..4).unwrap_or(&line) {
                    "." if data => {
                        data = false;
                        let first = heard.lock().unwrap().iter().all(|(_, what)| what == "MAIL");
                        let reply = if first { "421 4.7.0 slow down, come back in a while" } else { "250 2.0.0 ok" };
                        note(reply);
                        say(&format!("{reply}\r\n")) && !first
                    }
                    _ if data => true,
                    "MAIL" => {
                        note("MAIL");
                        say("250 2.1.0 ok\r\n")
                    }
                    "DATA" => {
                        data = true;
                        say("354 go on\r\n")
                    }
                    "QUIT" => false,
                    _ => say("250 ok\r\n"),
                };
                if !went {
                    return;
                }
            }
        });
    }
}

#[test]
fn a_site_rests_for_as_long_as_a_rule_says() {
    const REST: Duration = Duration::from_secs(4);
    let rules = tempfile::NamedTempFile::new().unwrap();
    let rule = "[[reply]]\nname = \"slow-down\"\ncode = \"421\"\ntext = \"slow down\"\naction = \"suspend\"\nwhat = \"site\"\n";
    std::fs::write(&rules, format!("{rule}for = \"4s\"\n")).unwrap();
    let line = format!("\n[shaping]\nfiles = [{:?}]\n", rules.path().display().to_string());
    let heard = Heard::default();
    let config = {
        let heard = Arc::clone(&heard);
        Box::new(move |config: &mut loadtest::relay::RelayConfig| {
            config.extra.push_str(&line);
            let listener = TcpListener::bind(("0.0.0.0", config.delivery_port)).unwrap();
            std::thread::spawn(move || slow_down_once(&listener, &heard));
        })
    };
    let Some(bench) = Bench::start(Setup { hop_down: true, shards: 2, config, ..Setup::default() }) else { return };
    let heard = || heard.lock().unwrap().clone();
    let submit = |to: &str| {
        let mut c = bench.client();
        c.expect("EHLO client.test", "250");
        c.send("a@d0001.test", &[to], MESSAGE);
    };
    submit("first@d0002.test");
    let said = |what: &str| heard().iter().filter(|(_, heard)| heard.starts_with(what)).count();
    wait_until("the receiver has had enough", || said("421") == 1);
    (0..6).for_each(|n| submit(&format!("u{n}@d0002.test")));
    wait_until("all of it has come", || said("250") == 7);
    let all = heard();
    let (enough, _) = all.iter().find(|(_, what)| what.starts_with("421")).unwrap();
    let next = all.iter().find(|(at, what)| what == "MAIL" && at > enough).map(|(at, _)| at.duration_since(*enough));
    assert!(next.is_some_and(|rest| rest >= REST), "{next:?}");
    let events = std::fs::read_to_string(&bench.relay.config().events).unwrap();
    wait_until("it is told that this is over", || {
        std::fs::read_to_string(&bench.relay.config().events).unwrap().contains("\"rule_over\"")
    });
    assert!(events.contains("\"rule\":\"slow-down\"") && events.contains("\"rule_suspended\""), "{events}");
}

#[test]
fn sigterm_lets_transactions_finish() {
    let Some(mut bench) = Bench::start(Setup { keep: 10, ..Setup::default() }) else { return };
    let mut c = bench.client();
    c.expect("EHLO client.test", "250");
    c.expect("MAIL FROM:<a@d0001.test>", "250");
    c.expect("RCPT TO:<b@d0002.test>", "250");
    c.expect("DATA", "354");
    c.write(&MESSAGE[..20]);
    bench.relay.begin_terminate().unwrap();
    let address = bench.relay.address();
    wait_until("new connections are turned away", || match TcpStream::connect(address) {
        Err(_) => true,
        Ok(s) => {
            use std::io::Read;
            let mut code = [0; 3];
            // Left unanswered in the closing listener counts as turned away, too.
            s.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            !matches!((&s).read_exact(&mut code), Ok(()) if &code == b"220")
        }
    });
    c.write(&MESSAGE[20..]);
    c.write(b".\r\n");
    let reply = c.reply();
    assert!(reply.starts_with("250"), "{reply}");
    let status = bench.relay.wait(HANG).unwrap();
    assert!(status.success(), "{status}: {}", bench.relay.log_tail());
    // Delivered before the end or after the next start.
    if bench.sink().messages() == 0 {
        bench.relay.restart(|_| {}).unwrap();
    }
    let kept = bench.wait_kept("the message", |_| true);
    assert!(kept.wire.ends_with(MESSAGE));
}
