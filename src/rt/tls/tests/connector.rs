//! The client's end: what a server's certificate is worth, and sessions that are resumed.

use super::super::client::{Association, Authorities, Connector, Fault, Matching, Selector, Usage};
use super::*;

/// A server with this certificate, and these behind it.
fn server(shown: &Holder, others: &[&Holder]) -> Acceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(shown.pkcs8.clone()));
    let key = provider.key_provider.load_private_key(key).unwrap();
    let chain = [shown].iter().chain(others).map(|holder| holder.der()).collect();
    let key = Arc::new(CertifiedKey::new(chain, key));
    Acceptor::new(vec![Entry { names: Vec::new(), key, end_point: None, not_after: None }], None, provider).unwrap()
}

fn trusting(authority: &Holder) -> Connector {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path().join("trust.pem"), "CERTIFICATE", &authority.certificate);
    Connector::new(&Authorities::load(Some(&path)).unwrap()).unwrap()
}

/// A handshake and a word each way: the client's end.
fn meet(connector: &Connector, acceptor: &Acceptor, name: &str) -> Tls {
    let mut server = acceptor.accept().unwrap();
    let mut to_server = Vec::new();
    let mut client = connector.connect(name, &mut to_server).unwrap();
    let (mut heard, mut said) = (Vec::new(), Vec::new());
    for round in 0..6 {
        let mut to_client = Vec::new();
        server.receive(&std::mem::take(&mut to_server), &mut heard, &mut to_client).unwrap();
        if round == 3 {
            server.send(b"250 ok\r\n", &mut to_client).unwrap();
        }
        let progress = client.receive(&to_client, &mut said, &mut to_server).unwrap();
        if progress == Progress::Established {
            client.send(b"EHLO relay.test\r\n", &mut to_server).unwrap();
        }
    }
    assert_eq!((&heard[..], &said[..]), (&b"EHLO relay.test\r\n"[..], &b"250 ok\r\n"[..]));
    client
}

fn association(usage: Usage, selector: Selector, matching: Matching, holder: &Holder) -> Association {
    let certificate = holder.der();
    let parsed = webpki::EndEntityCert::try_from(&certificate);
    let part = match selector {
        Selector::Certificate => holder.certificate.clone(),
        Selector::PublicKey => parsed.unwrap().subject_public_key_info().to_vec(),
    };
    let data = match matching {
        Matching::Full => part,
        Matching::Sha256 => digest::digest(&digest::SHA256, &part).as_ref().to_vec(),
        Matching::Sha512 => digest::digest(&digest::SHA512, &part).as_ref().to_vec(),
    };
    Association { usage, selector, matching, data: data.into() }
}

const PARTS: [Selector; 2] = [Selector::Certificate, Selector::PublicKey];
const FORMS: [Matching; 3] = [Matching::Full, Matching::Sha256, Matching::Sha512];

#[test]
fn an_authority_vouches_for_a_name_and_a_time() {
    let (authority, stranger) = (Holder::new("ours", None, NOW), Holder::new("theirs", None, NOW));
    let connector = trusting(&authority);
    let good = Holder::new("mx.test", Some(&authority), NOW);
    let old = Holder::new("mx.test", Some(&authority), "2001-2002");
    let young = Holder::new("mx.test", Some(&authority), "2110-2120");
    let foreign = Holder::new("mx.test", Some(&stranger), NOW);
    let own = Holder::new("mx.test", None, NOW);
    for (holder, name, expected) in [
        (&good, "mx.test", Ok(())),
        (&good, "MX.Test", Ok(())),
        (&good, "other.test", Err(Fault::Name)),
        (&old, "mx.test", Err(Fault::Expired)),
        (&young, "mx.test", Err(Fault::Expired)),
        (&foreign, "mx.test", Err(Fault::Untrusted)),
        (&own, "mx.test", Err(Fault::Untrusted)),
    ] {
        let client = meet(&connector, &server(holder, &[]), "mx.test");
        assert_eq!(client.vouched(&[name]), expected, "{name}");
        assert_eq!(client.session().version(), "TLSv1.3");
    }
}

#[test]
fn a_record_of_the_server_holds_whatever_its_names_and_dates() {
    // RFC 7672 §3.1.1.
    let (connector, stranger) = (trusting(&Holder::new("ours", None, NOW)), Holder::new("theirs", None, NOW));
    let holders = [
        Holder::new("mx.test", Some(&stranger), NOW),
        Holder::new("other.test", None, NOW),
        Holder::new("mx.test", Some(&stranger), "2001-2002"),
        Holder::new("mx.test", Some(&stranger), "2110-2120"),
    ];
    for holder in &holders {
        let client = meet(&connector, &server(holder, &[]), "mx.test");
        for (selector, matching) in PARTS.iter().flat_map(|s| FORMS.iter().map(move |m| (*s, *m))) {
            let right = association(Usage::Server, selector, matching, holder);
            let mut wrong = right.clone();
            wrong.data[0] ^= 1;
            assert_eq!(client.associated(std::slice::from_ref(&right), &["mx.test"]), Ok(&right));
            assert_eq!(client.associated(&[wrong.clone(), right.clone()], &[]), Ok(&right), "one of them is enough");
            assert_eq!(client.associated(&[wrong], &["mx.test"]), Err(Fault::NoAssociation));
            // The server is not its own authority.
            let authority = Association { usage: Usage::Authority, ..right };
            assert!(client.associated(&[authority], &["mx.test"]).is_err());
        }
        assert_eq!(client.associated(&[], &["mx.test"]), Err(Fault::NoAssociation));
    }
}

#[test]
fn a_record_of_an_authority_holds_for_names_and_dates() {
    // RFC 7672 §3.1.2, §3.2.3.
    let connector = trusting(&Holder::new("ours", None, NOW));
    let (authority, old) = (Holder::new("theirs", None, NOW), Holder::new("theirs", None, "2001-2002"));
    let good = Holder::new("mx.test", Some(&authority), NOW);
    let expired = Holder::new("mx.test", Some(&authority), "2001-2002");
    let under_old = Holder::new("mx.test", Some(&old), NOW);
    let other = Holder::new("theirs", None, NOW);
    for (selector, matching) in PARTS.iter().flat_map(|s| FORMS.iter().map(move |m| (*s, *m))) {
        let record = association(Usage::Authority, selector, matching, &authority);
        let ask = |holder: &Holder, others: &[&Holder], record: &Association, names: &[&str]| {
            let client = meet(&connector, &server(holder, others), "mx.test");
            client.associated(std::slice::from_ref(record), names).map(|_| ())
        };
        assert_eq!(ask(&good, &[&authority], &record, &["mx.test"]), Ok(()));
        assert_eq!(ask(&good, &[&authority], &record, &["a.test", "mx.test"]), Ok(()), "any of the names");
        assert_eq!(ask(&good, &[&authority], &record, &["a.test"]), Err(Fault::Name));
        assert_eq!(ask(&expired, &[&authority], &record, &["mx.test"]), Err(Fault::Expired));
        // Not sent along: only a whole certificate in DNS makes up for it.
        let in_dns = matches!((selector, matching), (Selector::Certificate, Matching::Full));
        assert_eq!(ask(&good, &[], &record, &["mx.test"]).is_ok(), in_dns);
        // Sent along, and not the one that signed; one of the same name.
        let namesake = association(Usage::Authority, selector, matching, &other);
        assert!(ask(&good, &[&other], &namesake, &["mx.test"]).is_err());
        assert_eq!(ask(&good, &[&other], &record, &["mx.test"]).is_ok(), in_dns);
        let ended = association(Usage::Authority, selector, matching, &old);
        assert_eq!(ask(&under_old, &[&old], &ended, &["mx.test"]), Err(Fault::Expired));
    }
}

#[test]
fn what_webpki_cannot_read_encrypts_and_is_worth_nothing() {
    let authority = Holder::new("ours", None, NOW);
    let ancient = Holder::of_version(1, "mx.test", Some(&authority), NOW);
    let client = meet(&trusting(&authority), &server(&ancient, &[]), "mx.test");
    assert_eq!(client.vouched(&["mx.test"]), Err(Fault::Invalid));
    let record = association(Usage::Server, Selector::Certificate, Matching::Sha256, &ancient);
    assert_eq!(client.associated(&[record], &["mx.test"]), Err(Fault::Invalid), "its key was not proven");
}

#[test]
fn who_does_not_have_the_key_of_a_certificate_is_refused() {
    let authority = Holder::new("ours", None, NOW);
    let (shown, thief) = (Holder::new("mx.test", Some(&authority), NOW), Holder::new("thief", None, NOW));
    let liar = Holder { certificate: shown.certificate.clone(), ..thief };
    let (connector, acceptor) = (trusting(&authority), server(&liar, &[]));
    let (mut to_server, mut to_client, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    let mut client = connector.connect("mx.test", &mut to_server).unwrap();
    acceptor.accept().unwrap().receive(&to_server, &mut plain, &mut to_client).unwrap();
    let met = client.receive(&to_client, &mut plain, &mut to_server);
    assert!(met.as_ref().is_err_and(|why| why.contains("ignature")), "{met:?}");
}

#[test]
fn a_session_is_resumed_with_the_same_host_and_judged_anew() {
    let authority = Holder::new("ours", None, NOW);
    let holder = Holder::new("mx.test", Some(&authority), NOW);
    let (connector, acceptor) = (trusting(&authority), server(&holder, &[]));
    let record = association(Usage::Server, Selector::PublicKey, Matching::Sha256, &holder);
    let mut wrong = record.clone();
    wrong.data[0] ^= 1;
    let mut resumed = Vec::new();
    for name in ["mx.test", "mx.test", "mx.test", "alias.test"] {
        let client = meet(&connector, &acceptor, name);
        resumed.push(client.session().resumed);
        assert_eq!(client.vouched(&["mx.test"]), Ok(()), "{name}");
        assert_eq!(client.vouched(&["x.test"]), Err(Fault::Name), "{name}");
        assert_eq!(client.associated(std::slice::from_ref(&record), &[]), Ok(&record));
        assert_eq!(client.associated(std::slice::from_ref(&wrong), &[]), Err(Fault::NoAssociation));
    }
    assert_eq!(resumed, [false, true, true, false]);
}

#[test]
fn names_that_are_none_and_addresses() {
    let connector = trusting(&Holder::new("ours", None, NOW));
    for good in ["mx.test", "mx_1.test", "[192.0.2.1]", "192.0.2.1", "[ipv6:2001:db8::1]"] {
        assert!(connector.connect(good, &mut Vec::new()).is_ok(), "{good}");
    }
    for bad in ["", "a b", "[192.0.2]"] {
        assert!(connector.connect(bad, &mut Vec::new()).is_err(), "{bad}");
    }
}
