//! TLS with next hops: where it is offered, where it does not work, where it is required.

use super::parameters::{envelope, inject, plain};
use super::*;
use crate::config::{Config, Host, SmartHost};
use crate::rt::tls::client::Authorities;
use crate::shard::Tables;
use crate::sim::hop::StartTls;
use crate::starttls::TlsLevel;

fn world(seed: u64, tls: Option<StartTls>, config: Config) -> World {
    let tables = Tables { authorities: Some(Authorities::simulated()), ..Tables::default() };
    let mut world = World::guarded(seed, 1, config, 1000, tables);
    world.domain("a.test", "10.0.0.1");
    world.hop("10.0.0.1").tls = tls;
    world
}

fn with(level: TlsLevel) -> Config {
    let mut config = config();
    config.delivery.tls = level;
    config
}

/// Of what arrived: whether in TLS.
fn secure(world: &World) -> Vec<(u32, bool)> {
    world.got("x@a.test").iter().filter_map(|copy| Some((copy.mark?, copy.secure))).collect()
}

#[test]
fn mail_goes_in_tls_where_it_is_offered_and_arrives_whole() {
    for (tls, level, expected) in [
        (Some(StartTls::Works), TlsLevel::Opportunistic, true),
        (Some(StartTls::Works), TlsLevel::Require, true),
        (Some(StartTls::Works), TlsLevel::Verify, true),
        (Some(StartTls::Works), TlsLevel::None, false),
        (None, TlsLevel::Opportunistic, false),
    ] {
        let mut world = world(1, tls, with(level));
        let mut large = Letter::new(2, &["x@a.test"]);
        large.body = b"0123456789012345678901234567890123456789012345678901234567890\r\n".repeat(10_000);
        world.accept(0, &Letter::new(1, &["x@a.test"]));
        world.accept(0, &large);
        assert!(world.run_until(minutes(2), |w| secure(w).len() == 2), "{tls:?} {level:?}");
        assert_eq!(secure(&world), [(1, expected), (2, expected)], "{tls:?} {level:?}");
        let got = world.got("x@a.test")[1].data.clone();
        assert!(memchr::memmem::find(&got, &large.body).is_some(), "{tls:?} {level:?}");
        assert_eq!(world.hop("10.0.0.1").complaints, [""; 0]);
        assert_at_rest(&mut world);
    }
}

#[test]
fn a_host_that_reads_slowly_gets_all_of_it_in_tls() {
    let mut world = world(2, Some(StartTls::Works), config());
    world.hop("10.0.0.1").mood.reading = crate::rt::sim::Reading::Slow { octets: 4096, every: millis(5) };
    let mut large = Letter::new(1, &["x@a.test"]);
    large.body = b"abcdefghijklmnopqrstuvwxyz\r\n".repeat(20_000);
    world.accept(0, &large);
    world.accept(0, &Letter::new(2, &["x@a.test"]));
    assert!(world.run_until(minutes(20), |w| secure(w).len() == 2), "{:?}", secure(&world));
    assert!(world.got("x@a.test").iter().all(|copy| copy.secure));
    let got = world.got("x@a.test").into_iter().find(|copy| copy.mark == Some(1)).unwrap().data.clone();
    assert!(memchr::memmem::find(&got, &large.body).is_some());
    assert_at_rest(&mut world);
}

#[test]
fn where_tls_does_not_work_mail_goes_in_the_clear_for_a_time() {
    for tls in [StartTls::Refused, StartTls::Broken, StartTls::Silent, StartTls::Injected] {
        let mut world = world(3, Some(tls), config());
        world.accept(0, &Letter::new(1, &["x@a.test"]));
        assert!(world.run_until(minutes(10), |w| secure(w) == [(1, false)]), "{tls:?}: {:?}", secure(&world));
        let connects = world.connects("10.0.0.1").len();
        assert_eq!(connects, if tls == StartTls::Refused { 1 } else { 2 }, "{tls:?}");
        // It is remembered: no second try of TLS.
        world.run(secs(30));
        world.accept(0, &Letter::new(2, &["x@a.test"]));
        assert!(world.run_until(secs(5), |w| secure(w).len() == 2), "{tls:?}");
        assert_eq!(world.connects("10.0.0.1").len(), connects + 1, "{tls:?}");
        // And forgotten.
        world.hop("10.0.0.1").tls = Some(StartTls::Works);
        world.run(minutes(61));
        world.accept(0, &Letter::new(3, &["x@a.test"]));
        assert!(world.run_until(secs(30), |w| secure(w) == [(1, false), (2, false), (3, true)]), "{tls:?}");
        assert_eq!(world.hop("10.0.0.1").complaints, [""; 0]);
    }
}

#[test]
fn where_tls_is_required_mail_waits_for_it() {
    for level in [TlsLevel::Require, TlsLevel::Verify] {
        for tls in
            [None, Some(StartTls::Refused), Some(StartTls::Broken), Some(StartTls::Silent), Some(StartTls::Injected)]
        {
            let mut world = world(4, tls, with(level));
            world.accept(0, &Letter::new(1, &["x@a.test"]));
            world.run(minutes(30));
            assert_eq!(secure(&world), [], "{level:?} {tls:?}");
            world.hop("10.0.0.1").tls = Some(StartTls::Works);
            assert!(world.run_until(minutes(240), |w| secure(w) == [(1, true)]), "{level:?} {tls:?}");
            assert_eq!(world.hop("10.0.0.1").complaints, [""; 0]);
            assert_at_rest(&mut world);
        }
    }
}

#[test]
fn requiretls_is_passed_on_where_the_name_can_be_believed_and_the_certificate_is_good() {
    let smart = || {
        let mut config = config();
        config.delivery.smart_host = Some(SmartHost { host: Host::Name("mx.a.test".to_owned()), port: 25 });
        config
    };
    // RFC 8689 §4.2.1: by a smart host; by MX without DNSSEC; where the host lacks it; where it has no TLS.
    for (tls, announced, config, status) in [
        (Some(StartTls::Works), true, smart(), None),
        (Some(StartTls::Works), true, config(), Some("5.7.10")),
        (Some(StartTls::Works), false, smart(), Some("5.7.30")),
        (None, true, smart(), Some("5.7.10")),
        (Some(StartTls::Refused), true, smart(), Some("5.7.10")),
    ] {
        let what = format!("{tls:?} {announced} {status:?}");
        let mut world = world(5, tls, config);
        if announced {
            world.hop("10.0.0.1").extensions = vec!["REQUIRETLS".to_owned()];
        }
        let mut envelope = envelope(&plain());
        envelope.options.require_tls = true;
        inject(&mut world, 1, &envelope);
        match status {
            None => {
                assert!(world.run_until(minutes(1), |w| secure(w) == [(1, true)]), "{what}");
                let mail = world.got("x@a.test")[0].said[0].clone();
                assert!(mail.contains(" REQUIRETLS"), "{what}: {mail}");
            }
            Some(status) => {
                assert!(world.run_until(minutes(2), |w| dsns(w).len() == 1), "{what}");
                assert!(dsns(&world)[0].text().contains(&format!("Status: {status}\r\n")), "{what}");
                assert_eq!(secure(&world), [], "{what}");
            }
        }
        assert_eq!(world.hop("10.0.0.1").complaints, [""; 0], "{what}");
    }
}

#[test]
fn requiretls_waits_while_tls_rests_after_a_handshake_that_came_to_nothing() {
    let mut config = config();
    config.delivery.smart_host = Some(SmartHost { host: Host::Name("mx.a.test".to_owned()), port: 25 });
    let mut world = world(6, Some(StartTls::Broken), config);
    world.hop("10.0.0.1").extensions = vec!["REQUIRETLS".to_owned()];
    let mut envelope = envelope(&plain());
    envelope.options.require_tls = true;
    inject(&mut world, 1, &envelope);
    world.accept(0, &Letter::new(2, &["x@a.test"]));
    world.run(minutes(30));
    assert_eq!((secure(&world), dsns(&world).len()), (vec![(2, false)], 0));
    world.hop("10.0.0.1").tls = Some(StartTls::Works);
    assert!(world.run_until(minutes(240), |w| secure(w).contains(&(1, true))), "{:?}", secure(&world));
    assert_eq!(world.hop("10.0.0.1").complaints, [""; 0]);
    assert_at_rest(&mut world);
}

#[test]
fn mail_that_asks_for_no_tls_goes_where_the_policy_keeps_the_other_back() {
    // RFC 8689 §3 and §4.1; REQUIRETLS goes before it (§4.1).
    for (tls, expected) in [(None, false), (Some(StartTls::Works), true), (Some(StartTls::Broken), false)] {
        let mut world = world(7, tls, with(TlsLevel::Require));
        let mut asks = envelope(&plain());
        asks.options.tls_optional = true;
        let mut both = asks.clone();
        both.options.require_tls = true;
        inject(&mut world, 1, &asks);
        inject(&mut world, 3, &both);
        world.accept(0, &Letter::new(2, &["x@a.test"]));
        let first = |w: &World| secure(w).contains(&(1, expected));
        assert!(world.run_until(minutes(10), first), "{tls:?}: {:?}", secure(&world));
        world.run(minutes(10));
        let got = secure(&world);
        assert_eq!(got.iter().any(|(mark, _)| *mark == 2), tls == Some(StartTls::Works), "{tls:?}: {got:?}");
        assert!(got.iter().all(|(mark, _)| *mark != 3), "{tls:?}: {got:?}");
        assert_eq!(world.hop("10.0.0.1").complaints, [""; 0], "{tls:?}");
    }
}
