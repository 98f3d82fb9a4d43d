//! Which hosts a domain's mail goes to.

use super::*;
use crate::limits;

#[test]
fn mx_hosts_by_preference_with_all_addresses() {
    let zone = Zone::default()
        .mx("example.com", 20, "Backup.Example.NET")
        .mx("example.com", 10, "mx1.example.com")
        .a("mx1.example.com", "192.0.2.1")
        .a("mx1.example.com", "192.0.2.2")
        .aaaa("mx1.example.com", "2001:db8::1")
        .a("backup.example.net", "192.0.2.3");
    let mut world = World::new(|ask| zone.answer(ask));
    let resolution = world.resolve("Example.COM.");
    assert_eq!(
        hosts(&resolution),
        ["10 mx1.example.com 2001:db8::1 192.0.2.1 192.0.2.2", "20 backup.example.net 192.0.2.3"]
    );
    assert_eq!(world.asked.len(), 5);
}

#[test]
fn equal_preferences_come_in_random_order_and_a_host_counts_once() {
    let mut zone = Zone::default().mx("example.com", 30, "h1.example.com");
    for i in 0..4 {
        zone = zone.mx("example.com", 10, &format!("h{i}.example.com")).a(&format!("h{i}.example.com"), "192.0.2.1");
    }
    let mut orders = BTreeSet::new();
    for seed in 0..40 {
        let mut world = World::new(|ask| zone.answer(ask));
        world.resolver = Resolver::new(&DnsSettings { servers: vec![S1.parse().unwrap()], ..Default::default() }, seed);
        let hosts = hosts(&world.resolve("example.com"));
        assert_eq!(hosts.len(), 4);
        orders.insert(hosts);
    }
    assert!(orders.len() > 12, "of 24 possible, {} seen", orders.len());
}

#[test]
fn implicit_mx_only_without_any_mx() {
    let zone = Zone::default()
        .a("bare.example", "192.0.2.7")
        .aaaa("bare.example", "2001:db8::7")
        .mx("broken.example", 10, "gone.example")
        .a("broken.example", "192.0.2.8");
    let mut world = World::new(|ask| zone.answer(ask));
    assert_eq!(hosts(&world.resolve("bare.example")), ["0 bare.example 2001:db8::7 192.0.2.7"]);
    let broken = world.resolve("broken.example");
    assert_eq!((&broken.verdict, broken.status()), (&Verdict::NoMailHost, Some("5.4.4")));
}

#[test]
fn null_mx() {
    let zone = Zone::default()
        .mx("null.example", 0, ".")
        .a("null.example", "192.0.2.1")
        .mx("odd.example", 0, ".")
        .mx("odd.example", 10, "mx.odd.example")
        .a("mx.odd.example", "192.0.2.2");
    let mut world = World::new(|ask| zone.answer(ask));
    let null = world.resolve("null.example");
    assert_eq!((&null.verdict, null.status()), (&Verdict::NullMx, Some("5.1.10")));
    assert_eq!(world.asked.len(), 1, "its address is not asked for");
    assert_eq!(hosts(&world.resolve("odd.example")), ["10 mx.odd.example 192.0.2.2"]);
}

#[test]
fn no_such_domain_and_no_mail_host() {
    let zone = Zone::default().with("empty.example", 60, RData::NS(NS(name("ns.example"))));
    let mut world = World::new(|ask| zone.answer(ask));
    assert_eq!(world.resolve("gone.example").verdict, Verdict::NoSuchDomain);
    assert_eq!(world.asked.len(), 1);
    assert_eq!(world.resolve("empty.example").verdict, Verdict::NoMailHost);
}

#[test]
fn bad_names_and_literals_need_no_query() {
    let mut world = World::new(|_| panic!("no query"));
    for bad in ["", "a..b", "münchen.example", "[192.0.2.300]", "[IPv6:zz]", "[]", "a b.example"] {
        assert_eq!(world.resolve(bad).verdict, Verdict::NoSuchDomain, "{bad:?}");
    }
    assert_eq!(hosts(&world.resolve("[192.0.2.1]")), ["0 [192.0.2.1] 192.0.2.1"]);
    assert_eq!(hosts(&world.resolve("[IPv6:2001:DB8::1]")), ["0 [ipv6:2001:db8::1] 2001:db8::1"]);
    let first = world.resolve("[192.0.2.1]");
    assert!(Rc::ptr_eq(&first, &world.resolve("[192.0.2.1]")), "kept");
}

#[test]
fn aliases_at_the_domain_and_at_the_mx() {
    let zone = Zone::default()
        .cname("alias.example", "second.example")
        .cname("second.example", "real.example")
        .mx("real.example", 10, "mxalias.example")
        .cname("mxalias.example", "mx.example")
        .a("mx.example", "192.0.2.1")
        .cname("implicit.example", "host.example")
        .a("host.example", "192.0.2.2")
        .cname("dangling.example", "gone.example");
    let mut world = World::new(|ask| zone.answer(ask));
    assert_eq!(hosts(&world.resolve("alias.example")), ["10 mxalias.example 192.0.2.1"]);
    assert_eq!(hosts(&world.resolve("implicit.example")), ["0 implicit.example 192.0.2.2"]);
    assert_eq!(world.resolve("dangling.example").verdict, Verdict::NoSuchDomain);
}

/// A server that returns only the first alias of a chain.
fn one_step(zone: &Zone, ask: &Ask) -> Vec<Act> {
    let mut message = zone.message(ask);
    message.metadata.response_code = ResponseCode::NoError;
    message.authorities.clear();
    message.answers.truncate(1);
    ask.send(&message)
}

#[test]
fn an_alias_without_its_target_is_asked_on() {
    let zone = Zone::default()
        .cname("a.example", "b.example")
        .cname("b.example", "c.example")
        .mx("c.example", 10, "mx.example")
        .a("mx.example", "192.0.2.1");
    let mut world = World::new(|ask| match ask.name.as_str() {
        "mx.example" => zone.answer(ask),
        _ => one_step(&zone, ask),
    });
    assert_eq!(hosts(&world.resolve("a.example")), ["10 mx.example 192.0.2.1"]);
    assert_eq!(
        world.asked_names()[..3].iter().map(|n| n.0.as_str()).collect::<Vec<_>>(),
        ["a.example", "b.example", "c.example"]
    );
}

#[test]
fn alias_loops_end() {
    let zone = Zone::default().cname("a.example", "b.example").cname("b.example", "a.example");
    let mut world = World::new(|ask| zone.answer(ask));
    assert!(reason(&world.resolve("a.example")).contains("loop"));
    assert_eq!(world.asked.len(), 1, "seen within the message");

    let mut world = World::new(|ask| one_step(&zone, ask));
    assert!(reason(&world.resolve("a.example")).contains("loop"));
    assert_eq!(world.asked.len(), 2, "seen over messages");

    let mut endless = World::new(|ask| {
        let mut message = ask.reply();
        let target = CNAME(name(&format!("x{}", ask.name)));
        message.add_answer(Record::from_rdata(name(&ask.name), 60, RData::CNAME(target)));
        ask.send(&message)
    });
    assert!(reason(&endless.resolve("a.example")).contains("too many"));
    assert_eq!(endless.asked.len(), limits::DNS_ALIASES + 1);
}

#[test]
fn hosts_that_resolve_are_used_without_the_others() {
    let zone = Zone::default()
        .mx("example.com", 10, "servfail.example")
        .mx("example.com", 20, "gone.example")
        .mx("example.com", 30, "ok.example")
        .a("ok.example", "192.0.2.1")
        .mx("bad.example", 10, "servfail.example")
        .mx("bad.example", 20, "gone.example");
    let mut world = World::new(|ask| match ask.name.as_str() {
        "servfail.example" => ask.code(ResponseCode::ServFail),
        _ => zone.answer(ask),
    });
    let partial = world.resolve("example.com");
    assert_eq!(hosts(&partial), ["30 ok.example 192.0.2.1"]);
    assert!(partial.expires <= world.now + limits::DNS_PARTIAL_TTL, "asked again soon");
    let bad = world.resolve("bad.example");
    assert_eq!(reason(&bad), format!("A servfail.example: {S1} SERVFAIL; {S2} SERVFAIL"));
    assert_eq!(bad.status(), Some("4.4.3"));
}

#[test]
fn a_failing_aaaa_leaves_ipv4_alone() {
    let zone = Zone::default().mx("example.com", 10, "mx.example").a("mx.example", "192.0.2.1");
    for silent in [false, true] {
        let mut world = World::new(|ask| match ask.kind {
            RecordType::AAAA if silent => vec![],
            RecordType::AAAA => ask.code(ResponseCode::ServFail),
            _ => zone.answer(ask),
        });
        let start = world.now;
        assert_eq!(world.resolver.resolve("example.com", world.now), Answer::Pending);
        world.run_until(start + limits::DNS_REST_TIMEOUT + ms(10));
        assert_eq!(world.events.len(), 1, "mail does not wait for AAAA's timeouts");
        let resolution = &world.events[0].resolution;
        assert_eq!(hosts(resolution), ["10 mx.example 192.0.2.1"]);
        let kept = resolution.expires.since(start);
        assert!(kept >= limits::DNS_PARTIAL_TTL && kept < limits::DNS_PARTIAL_TTL + secs(3), "{kept:?}");
        world.run();
        assert_eq!(world.events.len(), 1, "and what comes later is no second event");
    }
}

#[test]
fn ipv4_only_asks_for_no_aaaa() {
    let zone = Zone::default().a("example.com", "192.0.2.1").aaaa("example.com", "2001:db8::1");
    let settings = DnsSettings {
        servers: vec![S1.parse().unwrap()],
        families: AddressFamilies::Ipv4Only,
        ..DnsSettings::default()
    };
    let mut world = World::with_settings(&settings, |ask| zone.answer(ask));
    assert_eq!(hosts(&world.resolve("example.com")), ["0 example.com 192.0.2.1"]);
    assert_eq!(world.asked.len(), 2);
}

#[test]
fn the_family_to_begin_with_is_a_setting() {
    let zone = Zone::default().a("example.com", "192.0.2.1").aaaa("example.com", "2001:db8::1");
    for (families, first) in [(AddressFamilies::Ipv4First, "192.0.2.1"), (AddressFamilies::Ipv6First, "2001:db8::1")] {
        let settings = DnsSettings { servers: vec![S1.parse().unwrap()], families, ..DnsSettings::default() };
        let mut world = World::with_settings(&settings, |ask| zone.answer(ask));
        let mut order = Vec::new();
        world.resolve("example.com").attempt_order(3, &mut order);
        assert_eq!((order.len(), order[0].address.to_string().as_str()), (2, first));
    }
}

#[test]
fn ipv6_only_hosts_are_reached() {
    let zone = Zone::default().mx("example.com", 10, "mx.example").aaaa("mx.example", "2001:db8::1");
    let mut world = World::new(|ask| zone.answer(ask));
    assert_eq!(hosts(&world.resolve("example.com")), ["10 mx.example 2001:db8::1"]);
}

#[test]
fn addresses_that_are_no_host_are_left_out() {
    let zone = Zone::default()
        .a("example.com", "0.0.0.0")
        .a("example.com", "224.0.0.1")
        .a("example.com", "255.255.255.255")
        .aaaa("example.com", "::")
        .aaaa("example.com", "::ffff:192.0.2.1");
    let mut world = World::new(|ask| zone.answer(ask));
    assert_eq!(world.resolve("example.com").verdict, Verdict::NoMailHost);
}

#[test]
fn many_hosts_with_many_addresses_are_bounded() {
    let mut zone = Zone::default();
    for host in 0..50 {
        let host_name = format!("mx{host}.example.com");
        zone = zone.mx("example.com", 50 - host, &host_name);
        for address in 0..200 {
            zone = zone.a(&host_name, &format!("192.0.{host}.{}", address + 1));
        }
    }
    let mut world = World::new(|ask| zone.answer(ask));
    let resolution = world.resolve("example.com");
    assert_eq!(resolution.hosts().len(), limits::DNS_MX_HOSTS);
    assert_eq!(&*resolution.hosts()[0].name, "mx49.example.com", "the best are kept");
    assert!(resolution.hosts().iter().all(|host| host.addresses.len() == limits::DNS_ADDRESSES_PER_FAMILY));
    assert_eq!(world.asked.len(), 1 + 2 * limits::DNS_MX_HOSTS);
    let mut order = Vec::new();
    resolution.attempt_order(1, &mut order);
    assert_eq!(order.len(), limits::DNS_MX_HOSTS * limits::DNS_ADDRESSES_PER_FAMILY);
}

#[test]
fn an_mx_that_is_no_host_name_is_passed_over() {
    let odd = |preference, labels: &[&[u8]]| {
        let mut name = Name::from_labels(labels.iter().copied()).unwrap();
        name.set_fqdn(true);
        RData::MX(MX::new(preference, name))
    };
    let zone = Zone::default()
        .with("example.com", 60, odd(1, &[b"a b", b"example"]))
        .with("example.com", 60, odd(2, &[b"a.b", b"example"]))
        .mx("example.com", 10, "mx.example")
        .a("mx.example", "192.0.2.1")
        .with("only.example", 60, odd(1, &[b"\xff"]));
    let mut world = World::new(|ask| zone.answer(ask));
    assert_eq!(hosts(&world.resolve("example.com")), ["10 mx.example 192.0.2.1"]);
    assert_eq!(world.resolve("only.example").verdict, Verdict::NoMailHost);
}
