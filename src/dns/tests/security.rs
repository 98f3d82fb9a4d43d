//! What is secure by DNSSEC: the AD bit of servers that are trusted to validate, and answers about a name.

use super::*;
use hickory_proto::rr::rdata::tlsa::{CertUsage, Matching, Selector};
use hickory_proto::rr::rdata::{TLSA, TXT};

fn settings(validating: bool) -> DnsSettings {
    DnsSettings {
        servers: vec![S1.parse().unwrap()],
        families: AddressFamilies::Ipv4Only,
        validating,
        ..DnsSettings::default()
    }
}

/// A server that says AD of every answer but those about these names.
fn server<'a>(zone: &'a Zone, insecure: &'a [&'a str]) -> impl FnMut(&Ask) -> Vec<super::Act> + 'a {
    move |ask| {
        let mut message = zone.message(ask);
        message.metadata.authentic_data = ask.message.metadata.authentic_data && !insecure.contains(&&*ask.name);
        ask.send(&message)
    }
}

fn tlsa(octet: u8) -> RData {
    RData::TLSA(TLSA::new(CertUsage::DaneEe, Selector::Spki, Matching::Sha256, vec![octet; 32]))
}

fn zone() -> Zone {
    Zone::default()
        .mx("a.test", 10, "mx.a.test")
        .a("mx.a.test", "192.0.2.1")
        .with("_25._tcp.mx.a.test", 300, tlsa(1))
        .with("_mta-sts.a.test", 300, RData::TXT(TXT::new(vec!["v=STSv1; ".to_owned(), "id=1;".to_owned()])))
}

/// The route's and the host's security.
fn secure(world: &mut World<'_>, domain: &str) -> (bool, bool) {
    let route = world.resolve(domain);
    (route.secure, route.hosts()[0].secure)
}

#[test]
fn what_is_secure_and_what_is_asked() {
    let zone = zone();
    for (validating, insecure, expected) in [
        (true, &[][..], (true, true)),
        (true, &["a.test"], (false, true)),
        (true, &["mx.a.test"], (true, false)),
        (false, &[], (false, false)),
    ] {
        let mut world = World::with_settings(&settings(validating), server(&zone, insecure));
        assert_eq!(secure(&mut world, "a.test"), expected, "{validating} {insecure:?}");
        // RFC 6840 §5.7: it is asked for only where it is believed.
        assert!(world.asked.iter().all(|ask| ask.message.metadata.authentic_data == validating));
        // And kept with the answer.
        assert_eq!(secure(&mut world, "a.test"), expected, "from the cache");
    }
    // AD that nobody asked for is no reason to believe anything.
    let mut world = World::with_settings(&settings(false), |ask: &Ask| {
        let mut message = zone.message(ask);
        message.metadata.authentic_data = true;
        ask.send(&message)
    });
    assert_eq!(secure(&mut world, "a.test"), (false, false));
}

#[test]
fn an_alias_says_where_it_ends() {
    let zone = Zone::default()
        .mx("a.test", 10, "mx.a.test")
        .cname("mx.a.test", "way.test")
        .cname("way.test", "end.test")
        .a("end.test", "192.0.2.1");
    // In one message, and in one for each step.
    for whole in [true, false] {
        for insecure in [None, Some("mx.a.test"), Some("way.test"), Some("end.test")] {
            let mut world = World::with_settings(&settings(true), |ask: &Ask| {
                let mut message = zone.message(ask);
                if !whole && message.answers.len() > 1 {
                    message.answers.truncate(1);
                    message.authorities.clear();
                }
                let covers = |name: &str| message.answers.iter().any(|r| r.name == super::name(name));
                message.metadata.authentic_data = !insecure.is_some_and(covers);
                ask.send(&message)
            });
            let route = world.resolve("a.test");
            let host = &route.hosts()[0];
            assert_eq!((&*host.name, host.alias.as_deref()), ("mx.a.test", Some("end.test")), "{whole} {insecure:?}");
            assert_eq!(host.secure, insecure.is_none(), "{whole} {insecure:?}");
            assert!(route.secure);
        }
    }
    let mut world = World::with_settings(&settings(true), server(&zone, &[]));
    assert_eq!(world.resolver.has_secure_alias("mx.a.test", world.now), None);
    world.run();
    assert_eq!(world.resolver.poll_fact().as_deref(), Some("mx.a.test"));
    assert_eq!(world.resolver.has_secure_alias("mx.a.test", world.now), Some(Ok(true)));
    assert_eq!(world.resolver.has_secure_alias("end.test", world.now), None);
    world.run();
    assert_eq!(world.resolver.has_secure_alias("end.test", world.now), Some(Ok(false)));
}

#[test]
fn tlsa_records_are_secure_or_none_or_unknown() {
    let zone = zone();
    let name = "_25._tcp.mx.a.test";
    let found = TlsaAnswer::Secure(vec![Tlsa { usage: 3, selector: 1, matching: 1, data: [1; 32].into() }]);
    let ask = |world: &mut World<'_>, host: &str| {
        assert_eq!(world.resolver.tlsa(host, 25, world.now), None);
        world.run();
        assert_eq!(world.resolver.poll_fact().as_deref(), Some(&*format!("_25._tcp.{host}")));
        world.resolver.tlsa(host, 25, world.now).unwrap()
    };
    let mut world = World::with_settings(&settings(true), server(&zone, &[]));
    assert_eq!(ask(&mut world, "mx.a.test"), found);
    assert_eq!(ask(&mut world, "other.a.test"), TlsaAnswer::None);
    let insecure = [name];
    let mut world = World::with_settings(&settings(true), server(&zone, &insecure));
    assert_eq!(ask(&mut world, "mx.a.test"), TlsaAnswer::None, "RFC 7672 §2.1.2: insecure records are none");
    // RFC 7672 §2.1.2: SERVFAIL, as of a bogus answer, REFUSED, and silence.
    for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::FormErr] {
        let mut world = World::with_settings(&settings(true), |ask: &Ask| ask.code(code));
        assert!(matches!(ask(&mut world, "mx.a.test"), TlsaAnswer::Failed(_)), "{code}");
    }
    let mut world = World::with_settings(&settings(true), |_: &Ask| Vec::new());
    assert!(matches!(ask(&mut world, "mx.a.test"), TlsaAnswer::Failed(_)));
}

#[test]
fn texts_and_addresses_of_a_name() {
    let zone = zone();
    let mut world = World::with_settings(&settings(false), server(&zone, &[]));
    assert_eq!(world.resolver.txt("_mta-sts.a.test", world.now), None);
    assert_eq!(world.resolver.txt("_mta-sts.a.test", world.now), None, "twice asked, once sent");
    world.run();
    assert_eq!(world.asked.len(), 1);
    let text = world.resolver.txt("_mta-sts.a.test", world.now).unwrap().unwrap();
    assert_eq!(text, [b"v=STSv1; id=1;".to_vec().into_boxed_slice()], "strings are joined");
    assert_eq!(world.resolver.addresses("mx.a.test", world.now), None);
    world.run();
    assert_eq!(world.resolver.addresses("mx.a.test", world.now), Some(Ok(vec!["192.0.2.1".parse().unwrap()])));
    assert!(world.resolver.txt("no name", world.now).unwrap().is_err());
    // A bound on open questions: the next has failed at once.
    for n in 0..crate::limits::DNS_PENDING_FACTS {
        assert_eq!(world.resolver.txt(&format!("t{n}.test"), world.now), None);
    }
    assert!(world.resolver.txt("one-more.test", world.now).unwrap().is_err());
}
