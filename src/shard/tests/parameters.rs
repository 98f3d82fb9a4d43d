//! What MAIL and RCPT asked for beside the addresses, from the log to the next hop and back to the sender.

use super::*;
use crate::message::Envelope;
use crate::message::params::{BodyType, DeliverBy, Notify, Ret};
use crate::time::Wall;

const NEVER: Notify = Notify { never: true, success: false, failure: false, delay: false };
const SUCCESS: Notify = Notify { never: false, success: true, failure: false, delay: false };
const DELAY: Notify = Notify { never: false, success: false, failure: false, delay: true };

/// A world with a next hop for a.test that announces these.
fn world(seed: u64, announces: &[&str]) -> World {
    let mut world = World::new(seed);
    world.domain("a.test", "10.0.0.1");
    world.hop("10.0.0.1").mood.extensions = announces.iter().map(|s| (*s).to_owned()).collect();
    world
}

pub(super) fn envelope(recipients: &[(&str, Notify, &str)]) -> Envelope {
    let mut envelope = Envelope::default();
    envelope.set_sender(b"joe@sender.test");
    for (address, notify, orcpt) in recipients {
        envelope.add_recipient(address.as_bytes(), address.find('@').unwrap() + 1);
        if !notify.is_default() || !orcpt.is_empty() {
            envelope.set_recipient_options(*notify, orcpt.as_bytes());
        }
    }
    envelope
}

pub(super) fn inject(world: &mut World, mark: u32, envelope: &Envelope) {
    let letter = Letter::new(mark, &[]);
    world.inject(0, envelope, &letter.wire());
}

fn in_time(world: &World, ahead: Duration) -> Wall {
    Wall(world.sim.now().wall.0 + ahead.as_millis() as u64)
}

pub(super) fn plain() -> [(&'static str, Notify, &'static str); 1] {
    [("x@a.test", Notify::default(), "")]
}

fn complaints(world: &mut World) -> Vec<String> {
    world.hop("10.0.0.1").complaints.clone()
}

#[test]
fn held_mail_goes_at_its_time_and_is_as_young_then_as_if_it_had_come_then() {
    // RFC 4865 §4.2.
    for crash in [false, true] {
        let mut config = config();
        config.delivery.retry.max = minutes(10);
        config.delivery.retry.give_up = minutes(60);
        let mut world = World::with(1, 1, config, 1000);
        world.domain("a.test", "10.0.0.1");
        let mut envelope = envelope(&plain());
        envelope.options.hold_until = Some(in_time(&world, minutes(90)));
        inject(&mut world, 1, &envelope);
        world.run(minutes(30));
        if crash {
            world.crash(1);
        }
        world.run(minutes(59));
        assert_eq!((world.queued(), world.connects("10.0.0.1").len()), (1, 0), "not before");
        world.hop("10.0.0.1").reply(At::Mail, "451 4.3.0 later");
        world.run(minutes(40));
        assert_eq!(dsns(&world).len(), 0, "given up by its age in the queue");
        world.hop("10.0.0.1").mend();
        assert!(world.run_until(minutes(15), |w| marks(w, "x@a.test") == [1]));
        assert_at_rest(&mut world);
    }
}

#[test]
fn mail_to_be_returned_when_late_is_given_up_at_its_time_wherever_it_waits() {
    // RFC 2852 §4.1.3: in a retry, with a destination that cannot be reached, behind a restart.
    for (refuses, crash) in [(false, false), (true, false), (true, true)] {
        let mut world = world(2, &["DELIVERBY"]);
        if refuses {
            world.door("10.0.0.1", Door::Refused);
        } else {
            world.hop("10.0.0.1").reply(At::Mail, "451 4.3.0 later");
        }
        let mut envelope = envelope(&plain());
        let until = in_time(&world, minutes(12));
        envelope.options.deliver_by = Some(DeliverBy { until, return_late: true, trace: false });
        inject(&mut world, 1, &envelope);
        world.run(minutes(5));
        if crash {
            world.crash(1);
        }
        world.run(minutes(7) - secs(5));
        assert_eq!(dsns(&world).len(), 0);
        assert!(world.run_until(secs(15), |w| dsns(w).len() == 1), "{refuses} {crash}");
        world.hop("10.0.0.1").mend();
        world.door("10.0.0.1", Door::Open);
        world.run(minutes(30));
        assert_eq!(marks(&world, "x@a.test"), [0; 0], "it does not go out afterwards");
        let text = dsns(&world)[0].text();
        assert!(text.contains("Action: failed\r\nStatus: 5.4.7\r\n") && text.contains("Deliver-By-Date: "), "{text}");
        assert_at_rest(&mut world);
    }
}

#[test]
fn the_time_left_is_told_to_the_next_hop() {
    let mut world = world(3, &["DELIVERBY", "MT-PRIORITY"]);
    let mut envelope = envelope(&plain());
    let until = in_time(&world, minutes(10));
    envelope.options.deliver_by = Some(DeliverBy { until, return_late: true, trace: false });
    envelope.options.priority = -3;
    world.hop("10.0.0.1").reply(At::Mail, "451 4.3.0 later");
    inject(&mut world, 1, &envelope);
    world.run(minutes(1));
    world.hop("10.0.0.1").mood.acts.clear();
    assert!(world.run_until(minutes(8), |w| marks(w, "x@a.test") == [1]));
    let mail = world.got("x@a.test")[0].said[0].clone();
    let by = mail.split_once(" BY=").unwrap().1.split_once(";R MT-PRIORITY=-3").unwrap().0;
    assert!((100..=300).contains(&by.parse::<u32>().unwrap()), "{mail}");
    assert_eq!(complaints(&mut world), [""; 0]);
    assert_at_rest(&mut world);
}

#[test]
fn a_sender_is_told_once_of_mail_that_is_late() {
    // RFC 2852 §4.1.3 (N), RFC 3461 §5.2.5 (DELAY).
    for by in [true, false] {
        let mut world = world(4, &["DELIVERBY", "DSN"]);
        world.hop("10.0.0.1").reply(At::Mail, "451 4.3.0 later");
        let notify = if by { Notify::default() } else { DELAY };
        let mut envelope = envelope(&[("x@a.test", notify, ""), ("n@a.test", NEVER, "")]);
        let wait = if by { minutes(30) } else { minutes(240) };
        if by {
            let until = in_time(&world, wait);
            envelope.options.deliver_by = Some(DeliverBy { until, return_late: false, trace: false });
        }
        inject(&mut world, 1, &envelope);
        world.run(wait - secs(5));
        assert_eq!(dsns(&world).len(), 0);
        assert!(world.run_until(secs(15), |w| dsns(w).len() == 1), "{by}");
        let dsn = dsns(&world)[0].clone();
        assert_eq!(reported(&dsn), ["x@a.test"], "not who wants to hear of nothing");
        let text = dsn.text();
        let status = if by { "4.4.7" } else { "4.3.0" };
        assert!(
            text.contains(&format!("Action: delayed\r\nStatus: {status}\r\n")) && text.contains("Will-Retry-Until: "),
            "{text}"
        );
        world.run(minutes(60));
        world.hop("10.0.0.1").mood.acts.clear();
        assert!(world.run_until(minutes(250), |w| marks(w, "x@a.test") == [1]));
        assert_eq!(dsns(&world).len(), 1, "once, and it went on");
        assert_at_rest(&mut world);
    }
}

#[test]
fn notify_decides_who_hears_of_a_failure() {
    // RFC 3461 §5.2.6.
    let mut world = world(5, &["DSN"]);
    world.hop("10.0.0.1").reply(At::Rcpt, "550 5.1.1 no such user");
    let failure = Notify { failure: true, ..Notify::default() };
    let all = [("n@a.test", NEVER, ""), ("s@a.test", SUCCESS, ""), ("f@a.test", failure, ""), ("d@a.test", DELAY, "")];
    inject(&mut world, 1, &envelope(&all));
    inject(&mut world, 2, &envelope(&all[..1]));
    world.run(minutes(1));
    let told: Vec<_> = dsns(&world).iter().flat_map(reported).collect();
    assert_eq!(told, ["f@a.test"]);
    assert_at_rest(&mut world);
}

#[test]
fn success_is_told_by_the_next_hop_or_else_by_us() {
    // RFC 3461 §5.2.1 and §5.2.2 (b); §6.3 (a) and (d).
    for announced in [&["DSN"][..], &[]] {
        let mut world = world(6, announced);
        let recipients = [
            ("x@a.test", SUCCESS, "rfc822;X+2Borig@b.test"),
            ("y@a.test", Notify::default(), ""),
            ("z@a.test", NEVER, ""),
        ];
        let mut envelope = envelope(&recipients);
        envelope.set_envid(b"my+20letter");
        envelope.options.ret = Some(Ret::Full);
        inject(&mut world, 1, &envelope);
        world.run(minutes(1));
        assert_eq!(marks(&world, "x@a.test"), [1]);
        let said = world.got("x@a.test")[0].said.join("\n");
        if announced.is_empty() {
            let dsn = dsns(&world)[0].clone();
            assert_eq!((dsns(&world).len(), reported(&dsn)), (1, vec!["x@a.test".to_owned()]));
            let text = dsn.text();
            for line in [
                "Action: relayed",
                "Status: 2.1.9",
                "Original-Envelope-Id: my letter",
                "Original-Recipient: rfc822; X+orig@b.test",
                "Remote-MTA: dns; mx.a.test",
                "Content-Type: text/rfc822-headers",
            ] {
                assert!(text.contains(&format!("\r\n{line}\r\n")), "{line} in\n{text}");
            }
        } else {
            assert_eq!(dsns(&world).len(), 0);
            for words in ["RET=FULL ENVID=my+20letter", "<x@a.test> NOTIFY=SUCCESS ORCPT=rfc822;X+2Borig@b.test"] {
                assert!(said.contains(words), "{said}");
            }
        }
        assert_eq!(complaints(&mut world), [""; 0]);
        assert_at_rest(&mut world);
    }
}

#[test]
fn late_mail_that_goes_where_time_is_not_kept_is_reported() {
    // RFC 2852 §4.1.4.2, and §4.1.4 for a trace.
    for (announced, trace, told) in [(&[][..], false, 1), (&["DELIVERBY"], false, 0), (&["DELIVERBY"], true, 1)] {
        let mut world = world(7, announced);
        let mut envelope = envelope(&[("x@a.test", Notify::default(), ""), ("n@a.test", NEVER, "")]);
        let until = in_time(&world, minutes(30));
        envelope.options.deliver_by = Some(DeliverBy { until, return_late: false, trace });
        inject(&mut world, 1, &envelope);
        world.run(minutes(40));
        let reports: Vec<_> = dsns(&world).iter().flat_map(reported).collect();
        assert_eq!(reports, vec!["x@a.test"; told], "{announced:?} {trace}");
        assert_at_rest(&mut world);
    }
}

#[test]
fn the_whole_message_is_returned_where_that_was_asked_for() {
    // RFC 3461 §6.2.
    for (ret, eight_bit) in
        [(Some(Ret::Full), false), (Some(Ret::Full), true), (Some(Ret::Headers), false), (None, false)]
    {
        let mut world = world(8, &[]);
        world.hop("10.0.0.1").reply(At::Rcpt, "550 5.1.1 no such user");
        let mut envelope = envelope(&plain());
        envelope.options.ret = ret;
        let mut letter = Letter::new(1, &[]);
        if eight_bit {
            envelope.options.body = BodyType::EightBit;
            letter.body = "gr\u{fc}n\r\n..\r\n".into();
        }
        world.inject(0, &envelope, &letter.wire());
        assert!(world.run_until(minutes(1), |w| dsns(w).len() == 1));
        let text = dsns(&world)[0].text();
        let whole = ret == Some(Ret::Full);
        assert_eq!(text.contains(&*String::from_utf8_lossy(&letter.body)), whole, "{text}");
        assert_eq!(text.contains("Content-Type: message/rfc822\r\n"), whole);
        assert_at_rest(&mut world);
        assert_eq!(world.hop("10.9.9.9").complaints, [""; 0]);
    }
}

#[test]
fn what_requires_tls_never_goes_in_the_clear_and_its_sender_gets_the_headers() {
    // RFC 8689 §4.2.1 and §5: RET=FULL is disregarded.
    let mut world = world(9, &["REQUIRETLS"]);
    let mut envelope = envelope(&plain());
    envelope.options.require_tls = true;
    envelope.options.ret = Some(Ret::Full);
    inject(&mut world, 1, &envelope);
    assert!(world.run_until(minutes(1), |w| dsns(w).len() == 1));
    let text = dsns(&world)[0].text();
    assert!(
        text.contains("Status: 5.7.10\r\n") && text.contains("X-Test: 1") && !text.contains("This is number"),
        "{text}"
    );
    assert_eq!(marks(&world, "x@a.test"), [0; 0]);
    assert_eq!(complaints(&mut world), [""; 0]);
    assert_at_rest(&mut world);
}

#[test]
fn a_utf_8_address_does_not_keep_mail_from_the_others() {
    // RFC 6531 §3.5; RFC 6533 §3 for the report in ASCII.
    let green = "gr\u{fc}n@a.test";
    for announced in [&["SMTPUTF8", "DSN"][..], &[]] {
        let mut world = world(10, announced);
        let mut envelope = envelope(&[
            ("x@a.test", Notify::default(), ""),
            (green, Notify::default(), ""),
            ("y@a.test", Notify::default(), ""),
        ]);
        envelope.options.smtputf8 = true;
        inject(&mut world, 1, &envelope);
        world.run(minutes(1));
        assert_eq!((marks(&world, "x@a.test"), marks(&world, "y@a.test")), (vec![1], vec![1]));
        if announced.is_empty() {
            let text = dsns(&world)[0].text();
            assert!(text.contains("Final-Recipient: utf-8; gr\\x{FC}n@a.test\r\n"), "{text}");
            assert!(text.contains("Status: 5.6.7\r\n") && text.is_ascii());
        } else {
            assert_eq!((marks(&world, green), dsns(&world).len()), (vec![1], 0));
        }
        assert_eq!(complaints(&mut world), [""; 0]);
        assert_at_rest(&mut world);
    }
}

#[test]
fn a_sender_in_utf_8_is_told_in_utf_8() {
    // RFC 6533 §4.
    let mut world = world(11, &["SMTPUTF8"]);
    world.hop("10.9.9.9").mood.extensions = vec!["SMTPUTF8".to_owned()];
    world.hop("10.0.0.1").reply(At::Rcpt, "550 5.1.1 no such user");
    let mut envelope = Envelope::default();
    let (sender, to) = ("j\u{f6}@sender.test", "gr\u{fc}n@a.test");
    envelope.set_sender(sender.as_bytes());
    envelope.add_recipient(to.as_bytes(), to.find('@').unwrap() + 1);
    envelope.options.smtputf8 = true;
    let wire = "Subject: gr\u{fc}n\r\nX-Test: 1\r\n\r\nbody\r\n.\r\n";
    world.inject(0, &envelope, wire.as_bytes());
    assert!(world.run_until(minutes(1), |w| dsns(w).len() == 1));
    let dsn = dsns(&world)[0].clone();
    let text = dsn.text();
    assert!(dsn.said[0].contains(" SMTPUTF8") && dsn.said[1].contains(sender));
    for line in [
        "To: <j\u{f6}@sender.test>",
        "Content-Type: message/global-delivery-status",
        "Final-Recipient: utf-8; gr\u{fc}n@a.test",
        "Content-Type: message/global-headers",
        "Subject: gr\u{fc}n",
    ] {
        assert!(text.contains(&format!("\r\n{line}\r\n")), "{line} in\n{text}");
    }
    assert_at_rest(&mut world);
}

#[test]
fn a_u_label_is_found_by_its_a_label() {
    let mut world = World::new(12);
    world.domain("xn--grn-ioa.test", "10.0.0.1");
    world.hop("10.0.0.1").mood.extensions = vec!["SMTPUTF8".to_owned()];
    let to = ["x@gr\u{fc}n.test", "y@XN--grn-ioa.test"];
    let mut envelope = envelope(&to.map(|to| (to, Notify::default(), "")));
    envelope.options.smtputf8 = true;
    inject(&mut world, 1, &envelope);
    assert!(world.run_until(minutes(1), |w| to.iter().all(|to| marks(w, to) == [1])));
    assert_eq!(world.received().count(), 1, "one destination, one transaction");
    assert_at_rest(&mut world);
}

#[test]
fn a_next_hop_gets_no_more_at_a_time_than_it_takes() {
    // RFC 9422 §4.2.
    let mut world = world(13, &["LIMITS RCPTMAX=2 MAILMAX=2"]);
    let to: Vec<String> = (0..9).map(|n| format!("r{n}@a.test")).collect();
    let recipients: Vec<_> = to.iter().map(|to| (&**to, Notify::default(), "")).collect();
    inject(&mut world, 1, &envelope(&recipients));
    inject(&mut world, 2, &envelope(&recipients[..1]));
    assert!(world.run_until(minutes(5), |w| to.iter().all(|to| marks(w, to).contains(&1))));
    assert!(world.run_until(minutes(5), |w| marks(w, "r0@a.test") == [1, 2]));
    assert_eq!(complaints(&mut world), [""; 0]);
    assert!(world.hop("10.0.0.1").most_mails <= 2);
    assert_at_rest(&mut world);
}

#[test]
fn a_binary_body_arrives_as_it_is_or_not_at_all() {
    // RFC 3030 §3.
    for announced in [&["CHUNKING", "BINARYMIME"][..], &["CHUNKING"]] {
        let mut world = world(14, announced);
        let mut envelope = envelope(&plain());
        envelope.options.body = BodyType::Binary;
        let body = b"X-Test: 1\r\n\r\n\0\xff\n.\r\n.\r\n\r.";
        world.inject(0, &envelope, body);
        world.run(minutes(1));
        if announced.len() == 2 {
            assert_eq!(world.got("x@a.test")[0].data, body);
        } else {
            assert!(dsns(&world)[0].text().contains("Status: 5.6.3\r\n"));
            assert_eq!(world.got("x@a.test").len(), 0);
        }
        assert_eq!(complaints(&mut world), [""; 0]);
        assert_at_rest(&mut world);
    }
}

#[test]
fn what_was_never_sent_is_not_said_to_have_been_refused_by_the_next_hop() {
    // RFC 3464 §2.3.5, §2.3.6.
    type Ask = fn(&mut Envelope, Wall);
    let asks: [(Ask, &str); 3] = [
        (|e, _| e.options.require_tls = true, "5.7.10 It was not sent to mx.a.test: Encryption needed: no TLS with"),
        (
            |e, at| e.options.deliver_by = Some(DeliverBy { until: at, return_late: true, trace: false }),
            "5.3.3 It was not sent to mx.a.test: The message is to be returned if",
        ),
        (
            |e, _| e.options.body = BodyType::Binary,
            "5.6.3 It was not sent to mx.a.test: The message has binary data, the",
        ),
    ];
    for (ask, words) in asks {
        let mut world = world(15, &[]);
        let mut envelope = envelope(&plain());
        ask(&mut envelope, in_time(&world, minutes(60)));
        inject(&mut world, 1, &envelope);
        assert!(world.run_until(minutes(1), |w| dsns(w).len() == 1));
        let text = dsns(&world)[0].text();
        let status = words.split(' ').next().unwrap();
        let joined = text.replace("\r\n      ", " ").replace("\r\n\t", " ");
        assert!(joined.contains(&format!("Reason: {words}")), "{text}");
        assert!(text.contains(&format!("Action: failed\r\nStatus: {status}\r\n")), "{text}");
        assert!(joined.contains(&format!("Diagnostic-Code: X-Ringpost; {words}")), "{text}");
        assert!(!text.contains(" said: ") && !text.contains("Remote-MTA") && !text.contains("smtp;"), "{text}");
        assert_at_rest(&mut world);
    }
}
