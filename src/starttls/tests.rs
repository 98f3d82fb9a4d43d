#![allow(clippy::unwrap_used)]

use super::sts::{Policy, PolicyError, record_id};
use super::*;
use crate::limits;
use std::time::Duration;

fn record(usage: u8, selector: u8, matching: u8, octets: usize) -> Tlsa {
    Tlsa { usage, selector, matching, data: vec![7; octets].into() }
}

fn secure() -> Dane {
    Dane::Secure(usable(&[record(3, 1, 1, 32)]))
}

const MODES: [Option<(Mode, bool)>; 7] = [
    None,
    Some((Mode::None, false)),
    Some((Mode::None, true)),
    Some((Mode::Testing, false)),
    Some((Mode::Testing, true)),
    Some((Mode::Enforce, false)),
    Some((Mode::Enforce, true)),
];

/// All there is: 4 levels, 4 kinds of TLSA, 7 of MTA-STS, and three yes or no: 896.
fn every(mut look: impl FnMut(&Facts<'_>, Result<Decision, Refused>)) -> usize {
    let danes = [Dane::Absent, Dane::Failed, Dane::Secure(Vec::new()), secure()];
    let mut count = 0;
    for (_, level) in TlsLevel::ALL {
        for dane in &danes {
            for sts in MODES {
                for bits in 0..8 {
                    let [name_is_secure, broken, not_required] = [1, 2, 4].map(|bit| bits & bit != 0);
                    let facts = Facts { level, dane, sts, name_is_secure, broken, not_required };
                    look(&facts, decide(&facts));
                    count += 1;
                }
            }
        }
    }
    count
}

#[test]
fn the_table_as_it_stands_in_the_documentation() {
    let count = every(|facts, decision| {
        let usable = matches!(facts.dane, Dane::Secure(records) if !records.is_empty());
        let unusable = matches!(facts.dane, Dane::Secure(records) if records.is_empty());
        let opportunistic = if facts.broken { Wish::Never } else { Wish::IfOffered };
        let expected = if facts.level == TlsLevel::None {
            Ok((Wish::Never, Proof::None, By::Level))
        } else if facts.not_required {
            Ok((opportunistic, Proof::None, By::Message))
        } else if *facts.dane == Dane::Failed {
            Err(Refused::TlsaUnknown)
        } else if usable {
            Ok((Wish::Require, Proof::Dane, By::Dane))
        } else if facts.sts == Some((Mode::Enforce, false)) {
            Err(Refused::StsMismatch)
        } else if facts.sts == Some((Mode::Enforce, true)) {
            Ok((Wish::Require, Proof::Pkix, By::Sts))
        } else if facts.level == TlsLevel::Verify {
            Ok((Wish::Require, Proof::Pkix, By::Level))
        } else if unusable {
            Ok((Wish::Require, Proof::None, By::Dane))
        } else if facts.level == TlsLevel::Require {
            Ok((Wish::Require, Proof::None, By::Level))
        } else if facts.broken {
            Ok((Wish::Never, Proof::None, By::Broken))
        } else {
            Ok((Wish::IfOffered, Proof::None, By::Level))
        };
        assert_eq!(decision.map(|d| (d.wish, d.proof, d.by)), expected, "{facts:?}");
    });
    assert_eq!(count, 896);
}

/// What no attacker who removes, forges or breaks something may reach: mail in the clear, or with anybody, where somebody asked
/// for more.
#[test]
fn nothing_downgrades() {
    every(|facts, decision| {
        if facts.level == TlsLevel::None || facts.not_required {
            return;
        }
        let in_the_clear = decision.is_ok_and(|d| d.wish != Wish::Require);
        let with_anybody = decision.is_ok_and(|d| d.proof == Proof::None);
        let asked = !matches!(facts.dane, Dane::Absent)
            || matches!(facts.sts, Some((Mode::Enforce, _)))
            || matches!(facts.level, TlsLevel::Require | TlsLevel::Verify);
        assert!(!(asked && in_the_clear), "{facts:?}");
        let verified = matches!(facts.dane, Dane::Failed)
            || *facts.dane == secure()
            || matches!(facts.sts, Some((Mode::Enforce, _)))
            || facts.level == TlsLevel::Verify;
        assert!(!(verified && with_anybody), "{facts:?}");
        // RFC 7672 §2.2: SERVFAIL is no answer, whatever else is known.
        assert!(*facts.dane != Dane::Failed || decision == Err(Refused::TlsaUnknown), "{facts:?}");
        // The memory of broken TLS changes nothing where TLS is required.
        let calm = decide(&Facts { broken: false, ..*facts });
        assert!(!asked || decision == calm, "{facts:?}");
    });
}

#[test]
fn requiretls_needs_a_name_that_can_be_believed_and_a_certificate() {
    every(|facts, decision| {
        let Ok(decision) = decision else { return };
        let named = matches!(facts.sts, Some((Mode::Enforce | Mode::Testing, true)));
        assert_eq!(decision.name_is_secure, facts.name_is_secure || named, "{facts:?}");
        for verified in [Verified::Pkix, Verified::Dane(3, 1, 1), Verified::No(Fault::Untrusted)] {
            let good = decision.name_is_secure && !matches!(verified, Verified::No(_));
            assert_eq!(decision.suits_requiretls(verified), good);
        }
    });
}

#[test]
fn what_a_certificate_must_pass() {
    let plain = decide(&Facts {
        level: TlsLevel::Opportunistic,
        dane: &Dane::Absent,
        sts: None,
        name_is_secure: false,
        broken: false,
        not_required: false,
    });
    let plain = plain.unwrap();
    let (pkix, dane) = (Decision { proof: Proof::Pkix, ..plain }, Decision { proof: Proof::Dane, ..plain });
    let (vouched, described, bad) = (Verified::Pkix, Verified::Dane(2, 0, 1), Verified::No(Fault::Expired));
    assert_eq!([plain.accepts(vouched), plain.accepts(described), plain.accepts(bad)], [Ok(()); 3]);
    assert_eq!([pkix.accepts(vouched), pkix.accepts(bad)], [Ok(()), Err(Fault::Expired)]);
    assert_eq!([dane.accepts(described), dane.accepts(bad)], [Ok(()), Err(Fault::Expired)]);
    assert_eq!(dane.accepts(vouched), Err(Fault::NoAssociation), "RFC 8461 §2: DANE is not overridden");
}

#[test]
fn testing_decides_nothing_and_says_what_it_would_have() {
    every(|facts, decision| {
        let Ok(decision) = decision else { return };
        let expected = facts.sts.filter(|(mode, _)| *mode == Mode::Testing).map(|(_, named)| named);
        assert_eq!(decision.tested, expected, "{facts:?}");
        if expected.is_some() {
            let without = decide(&Facts { sts: None, ..*facts }).unwrap();
            assert_eq!((decision.wish, decision.proof, decision.by), (without.wish, without.proof, without.by));
        }
    });
}

#[test]
fn records_that_can_be_used() {
    // RFC 7672 §3.1: usages 2 and 3, selectors 0 and 1, matching types 0, 1 and 2 with their lengths.
    let mut usable_ones = 0;
    for usage in 0..=5 {
        for selector in 0..=3 {
            for matching in 0..=4 {
                for octets in [0, 1, 31, 32, 33, 64, 65] {
                    let found = usable(&[record(usage, selector, matching, octets)]);
                    let fits = match matching {
                        0 => octets > 0,
                        1 => octets == 32,
                        2 => octets == 64,
                        _ => false,
                    };
                    let expected = fits && (2..=3).contains(&usage) && selector <= 1;
                    assert_eq!(found.len(), usize::from(expected), "{usage} {selector} {matching}, {octets} octets");
                    for record in &found {
                        assert_eq!(numbers(record), (usage, selector, matching));
                    }
                    usable_ones += found.len();
                }
            }
        }
    }
    assert_eq!(usable_ones, 2 * 2 * (6 + 1 + 1));
    assert_eq!(usable(&[record(0, 0, 1, 32), record(3, 1, 1, 32), record(1, 1, 1, 32)]).len(), 1);
}

// --- MTA-STS -------------------------------------------------------------------------------------------------------------

#[test]
fn the_record_of_a_domain() {
    let id = |records: &[&str]| record_id(records.iter().map(|r| r.as_bytes())).map(str::to_owned);
    assert_eq!(id(&["v=STSv1; id=20160831085700Z;"]).as_deref(), Some("20160831085700Z"));
    assert_eq!(id(&["v=STSv1;id=1"]).as_deref(), Some("1"));
    assert_eq!(id(&["v=STSv1 ; other=x ;  id = a1 "]).as_deref(), Some("a1"));
    assert_eq!(id(&["v=spf1 -all", "v=STSv1; id=1;", "text"]).as_deref(), Some("1"), "others may stand beside it");
    let long = format!("v=STSv1; id={}", "a".repeat(limits::STS_ID_BYTES));
    assert!(id(&[&long]).is_some() && id(&[&format!("{long}a")]).is_none());
    for bad in [
        &["v=STSv1; id=1;", "v=STSv1; id=2;"][..],
        &[],
        &["v=STSv1"],
        &["v=STSv1;"],
        &["v=STSv1; id="],
        &["v=STSv1; id=a-b"],
        &["v=STSv1; id=1; id=2"],
        &["v=STSv1; id"],
        &["v=STSv2; id=1"],
        &["v=STSv10; id=1"],
        &["id=1; v=STSv1"],
        &[" v=STSv1; id=1"],
        &["v=stsv1; id=1"],
    ] {
        assert_eq!(id(bad), None, "{bad:?}");
    }
}

#[test]
fn the_example_of_rfc_8461_section_3_2() {
    let text = "version: STSv1\nmode: enforce\nmx: mail.example.com\nmx: *.example.net\nmx: backupmx.example.com\nmax_age: 604800\n";
    for text in [text.to_owned(), text.replace('\n', "\r\n")] {
        let policy = Policy::parse(&text).unwrap();
        assert_eq!((policy.mode, policy.max_age), (Mode::Enforce, Duration::from_secs(604_800)));
        assert_eq!(
            policy.mx.iter().map(|mx| &**mx).collect::<Vec<_>>(),
            ["mail.example.com", "*.example.net", "backupmx.example.com"]
        );
        assert_eq!(Policy::parse(&policy.text()), Ok(policy));
    }
}

#[test]
fn what_is_no_policy() {
    let with = |lines: &str| Policy::parse(lines).map(|policy| policy.mode);
    assert_eq!(with("version: STSv1\nmode: none\nmax_age: 1\n"), Ok(Mode::None), "it needs no host");
    assert_eq!(with("mode:testing\nfuture: x\n\nmx:a.test\nmax_age:0\nversion:STSv1"), Ok(Mode::Testing));
    assert_eq!(with("version: STSv1\nmode: none\nmode: enforce\nmax_age: 1\n"), Ok(Mode::None), "the first holds");
    assert_eq!(with(""), Err(PolicyError::Version));
    assert_eq!(with("version: STSv2\nmode: none\nmax_age: 1"), Err(PolicyError::Version));
    assert_eq!(with("version: STSv1\nmode: enforced\nmx: a.test\nmax_age: 1"), Err(PolicyError::Mode));
    assert_eq!(with("version: STSv1\nmax_age: 1"), Err(PolicyError::Mode));
    assert_eq!(with("version: STSv1\nmode: none"), Err(PolicyError::MaxAge));
    for age in ["-1", "1d", "", "99999999999", "1.5"] {
        assert_eq!(with(&format!("version: STSv1\nmode: none\nmax_age: {age}")), Err(PolicyError::MaxAge), "{age}");
    }
    for mode in ["enforce", "testing"] {
        assert_eq!(with(&format!("version: STSv1\nmode: {mode}\nmax_age: 1")), Err(PolicyError::Mx));
    }
    for mx in ["", "*", "*.", "a..b", "a b", "*.*.test", "mx*.test", "a.*.test"] {
        assert_eq!(with(&format!("version: STSv1\nmode: enforce\nmx: {mx}\nmax_age: 1")), Err(PolicyError::Mx), "{mx}");
    }
    assert_eq!(with("version: STSv1\n<html>\n"), Err(PolicyError::Line(2)));
    let large = format!("version: STSv1\nmode: none\nmax_age: 1\n{}", "x: y\n".repeat(20_000));
    assert_eq!(with(&large), Err(PolicyError::TooLarge));
    let many = "mx: a.test\n".repeat(limits::STS_MX_PATTERNS + 1);
    assert_eq!(with(&format!("version: STSv1\nmode: none\nmax_age: 1\n{many}")), Err(PolicyError::Mx));
    let year = Policy::parse("version: STSv1\nmode: none\nmax_age: 9999999999").unwrap();
    assert_eq!(year.max_age, limits::STS_MAX_AGE, "RFC 8461 §3.2: at most about a year");
}

#[test]
fn a_wildcard_is_one_label() {
    let policy =
        Policy::parse("version: STSv1\nmode: enforce\nmx: mail.Example.com.\nmx: *.example.net\nmax_age: 1").unwrap();
    for (host, named) in [
        ("mail.example.com", true),
        ("mail2.example.com", false),
        ("a.mail.example.com", false),
        ("example.com", false),
        ("a.example.net", true),
        ("mx-1.example.net", true),
        ("a.b.example.net", false),
        ("example.net", false),
        ("aexample.net", false),
    ] {
        assert_eq!(policy.names(host), named, "{host}");
    }
}
