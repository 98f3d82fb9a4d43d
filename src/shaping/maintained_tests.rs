//! The maintained rule file, config/shaping.toml: it is read, each rule says where it comes from, and replies that are
//! quoted in public documents get the rule that is meant for them.
#![allow(clippy::unwrap_used)]
use super::*;
use std::collections::BTreeSet;

const TEXT: &str = include_str!("../../config/shaping.toml");

fn maintained() -> Shaping {
    Shaping::parse(&[("config/shaping.toml", TEXT)]).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// Destinations, one of their mail exchangers, and whose they are.
const SITES: &[(&str, &str, &str)] = &[
    ("gmail.com", "alt1.gmail-smtp-in.l.google.com", "google"),
    ("workspace.example", "smtp.google.com", "google"),
    ("workspace.example", "aspmx2.googlemail.com", "google"),
    ("hotmail.com", "hotmail-com.olc.protection.outlook.com", "microsoft-consumer"),
    ("company.example", "company-example.mail.protection.outlook.com", "microsoft-365"),
    ("company.example", "company-example.o-v1.mx.microsoft", "microsoft-365"),
    ("yahoo.de", "mx-eu.mail.am0.yahoodns.net", "yahoo"),
    ("aol.com", "mx-aol.mail.gm0.yahoodns.net", "yahoo"),
    ("icloud.com", "mx01.mail.icloud.com", "apple"),
    ("gmx.de", "mx00.emig.gmx.net", "united-internet"),
    ("web.de", "mx-ha02.web.de", "united-internet"),
    ("comcast.net", "mx1.comcast.net", "comcast"),
    ("orange.fr", "smtp-in.orange.fr", "orange"),
    ("free.fr", "mx1.free.fr", "free"),
    ("t-online.de", "mx02.t-online.de", "t-online"),
    ("mail.ru", "mxs.mail.ru", "mail-ru"),
    ("yandex.ru", "mx.yandex.ru", "yandex"),
    ("qq.com", "mx3.qq.com", "qq"),
    ("company.example", "mxa-0000.gslb.pphosted.com", "proofpoint"),
    ("company.example", "eu-smtp-inbound-1.mimecast.com", "mimecast"),
    ("company.example", "mx1.emailsrvr.com", "rackspace"),
    ("company.example", "mailstore1.secureserver.net", "godaddy"),
];

/// Replies as public documents quote them, whose they are, and the rule that acts on them; none: the code says it all.
const REPLIES: &[(&str, u16, &str, &str)] = &[
    (
        "google",
        421,
        "4.7.28 [203.0.113.42] Our system has detected an unusual rate of\n4.7.28 unsolicited mail originating from your IP address. To protect our\n4.7.28 users from spam, mail sent from your IP address has been temporarily\n4.7.28 rate limited. - gsmtp",
        "google-rate-of-address",
    ),
    (
        "google",
        421,
        "4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your DKIM domain.",
        "google-rate-of-domain",
    ),
    ("google", 450, "4.2.1 The user you are trying to contact is receiving email too quickly.", "google-mailbox-rate"),
    ("google", 550, "5.1.1 The email account that you tried to reach does not exist.", ""),
    ("google", 552, "5.2.2 The email account that you tried to reach is over quota.", ""),
    (
        "microsoft-consumer",
        451,
        "4.7.650 The mail server [52.198.124.32] has been temporarily rate limited due to IP reputation.",
        "microsoft-ip-reputation",
    ),
    (
        "microsoft-consumer",
        421,
        "RP-001 (SNT0-MC2-F19) Unfortunately, some messages from 50.57.111.177 weren't sent. Please try again.",
        "microsoft-rp",
    ),
    (
        "microsoft-consumer",
        550,
        "5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3150).",
        "microsoft-block-list",
    ),
    (
        "microsoft-consumer",
        550,
        "5.7.1 Unfortunately, messages from [204.11.58.44] weren't sent. Please contact your Internet service provider since part of their network is on our block list (AS3150).",
        "microsoft-block-list",
    ),
    ("microsoft-consumer", 550, "5.5.0 Requested action not taken: mailbox unavailable (S2017062302).", ""),
    (
        "microsoft-365",
        451,
        "4.7.500 Server busy. Please try again later from [192.0.2.1]. (AS843)",
        "microsoft-365-busy",
    ),
    (
        "microsoft-365",
        421,
        "4.3.2 The maximum number of concurrent connections per resource forest has exceeded a limit, closing transmission channel.",
        "microsoft-365-connections",
    ),
    (
        "microsoft-365",
        550,
        "5.7.606 Access denied, banned sending IP [185.234.72.45]. To request removal from this list please visit https://sender.office.com/",
        "microsoft-365-banned",
    ),
    (
        "yahoo",
        421,
        "4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints - 4.16.55.1; see https://postmaster.yahooinc.com/error-codes",
        "yahoo-deferred",
    ),
    (
        "yahoo",
        421,
        "4.7.0 [TS01] Messages from 50.57.111.177 temporarily deferred due to user complaints - 4.16.55.1",
        "yahoo-deferred",
    ),
    (
        "yahoo",
        421,
        "4.7.1 [TS03] All messages from 37.59.121.209 will be permanently deferred; Retrying will NOT succeed.",
        "yahoo-permanently-deferred",
    ),
    ("yahoo", 451, "Resources temporarily not available - Please try again later", "yahoo-resources"),
    (
        "apple",
        421,
        "4.7.1 Messages to example@icloud.com deferred due to excessive volume. Try again later",
        "apple-mailbox-volume",
    ),
    ("apple", 451, "4.7.1 Service unavailable - try again later", "apple-unavailable"),
    ("apple", 421, "4.7.0 me.com Error: too many errors", "apple-too-many-errors"),
    ("apple", 550, "5.7.1 [CS01] Message rejected due to local policy.", ""),
    ("united-internet", 421, "Rate limit reached. Please try again later", "united-internet-rate"),
    ("united-internet", 450, "Reject due to policy violations.", "united-internet-policy"),
    (
        "united-internet",
        554,
        "gmx.net (mxgmx104) Nemesis ESMTP Service not available\nNo SMTP service\nIP address is block listed.\nFor explanation visit https://postmaster.gmx.net/en/case?c=r0201",
        "united-internet-block-list",
    ),
    (
        "comcast",
        421,
        "resimta-po-18v.sys.comcast.net 192.185.15.239 Throttled - try again later. Please see http://postmaster.comcast.net/smtp-error-codes.php#RL000002",
        "comcast-throttled",
    ),
    ("comcast", 421, "Too many sessions opened", "comcast-sessions"),
    ("orange", 421, "Too many connections, slow down. OFR004_104 [104]", "orange-connections"),
    (
        "orange",
        421,
        "Service refuse. Veuillez essayer plus tard. Service refused, please try later. OFR_999 [999]",
        "orange-refused-for-hours",
    ),
    (
        "orange",
        421,
        "Service refuse. Veuillez essayer plus tard. Service refused, please try later. OFR004_105 [105]",
        "orange-refused",
    ),
    ("orange", 550, "5.2.0 Mail rejete. Mail rejected. ofr_506 [506]", ""),
    ("free", 421, "Too many spams from your IP (192.0.2.1), please visit http://postmaster.free.fr/", "free-spam"),
    ("free", 550, "spam detected", ""),
    (
        "t-online",
        554,
        "IP=192.0.2.1 - None/bad reputation. Ask your postmaster for help or to contact <postmaster@rx.t-online.de> for reset. (NOWL)",
        "t-online-unknown-address",
    ),
    (
        "t-online",
        554,
        "IP=192.0.2.1 - A problem occurred. (Ask your postmaster for help or to contact tosa@rx.t-online.de to clarify.) (BL)",
        "t-online-unknown-address",
    ),
    ("yandex", 554, "5.7.1 Blocked by spam statistics - see http://feedback.yandex.ru/", "yandex-statistics"),
    ("yandex", 554, "5.7.1 Message rejected under suspicion of SPAM", ""),
    ("qq", 550, "Ip frequency limited. http://service.mail.qq.com/cgi-bin/help?id=20022", "qq-address-frequency"),
    ("qq", 550, "Connection frequency limited", "qq-address-frequency"),
    ("qq", 550, "Sender frequency limited.", "qq-sender-frequency"),
    ("qq", 550, "Mailbox unavailable or access denied", "qq-mailbox-rate"),
    ("qq", 550, "Mailbox not found.", ""),
    ("proofpoint", 452, "Too many recipients received this hour", "proofpoint-recipients-an-hour"),
    (
        "mimecast",
        451,
        "Internal resource is temporarily unavailable - https://community.mimecast.com/docs/DOC-1369#451",
        "mimecast-greylisted",
    ),
    ("mimecast", 421, "Unable to process connection at this time", "mimecast-loaded"),
    ("rackspace", 421, "Too many concurrent connections from this client (G2)", "rackspace-connections"),
    ("rackspace", 451, "4.7.1 Received too many messages from a new or untrusted IP (G28)", "rackspace-untrusted"),
    (
        "godaddy",
        421,
        "Connection refused, too many sessions from 192.0.2.1. Please lower the number of concurrent sessions. IB007",
        "godaddy-sessions",
    ),
    ("mail-ru", 450, "4.2.0 Recipient address rejected: Greylisted", "greylisted"),
    ("mx.example.net", 450, "4.2.0 Recipient address rejected: Greylisted", "greylisted"),
    ("mx.example.net", 421, "4.7.0 Error: too many connections from 192.0.2.1", "too-many-connections"),
    (
        "mx.example.net",
        421,
        "Too many concurrent SMTP connections from this IP address; please try again later.",
        "too-many-connections",
    ),
    ("mx.example.net", 450, "too frequent connects from 198.37.147.135, please try again later.", "connection-rate"),
    ("mx.example.net", 452, "4.3.2 Connection rate limit exceeded.", "connection-rate"),
    ("mx.example.net", 451, "4.3.0 Temporary lookup failure", ""),
    ("mx.example.net", 550, "5.1.1 <a@b.example>: Recipient address rejected: User unknown", ""),
];

#[test]
fn every_provider_and_rule_of_ours_says_where_it_comes_from() {
    let rules = maintained();
    for provider in &rules.providers {
        assert!(!provider.sources.is_empty(), "{} has no source", provider.name);
        assert!(provider.limits != Limits::default(), "{} has no limits", provider.name);
    }
    let all: Vec<_> = rules.providers.iter().flat_map(|provider| &provider.rules).chain(&rules.rules).collect();
    assert!(all.len() >= 40, "{}", all.len());
    let mut names = BTreeSet::new();
    for rule in all {
        assert!(names.insert(&rule.name), "{} twice", rule.name);
        let source = rule.source.as_deref().unwrap_or_default();
        assert!(source.starts_with("https://") || source.starts_with("http://"), "{}: {source:?}", rule.name);
    }
}

#[test]
fn known_destinations_are_their_providers() {
    let rules = maintained();
    for (domain, mx, provider) in SITES {
        let site = rules.site(domain, &mut [*mx].into_iter());
        assert_eq!(&*site.name, *provider, "{domain}");
        // By its exchangers too.
        assert_eq!(&*rules.site("other.example", &mut [*mx].into_iter()).name, *provider, "{mx}");
    }
    let named: BTreeSet<_> = SITES.iter().map(|(_, _, provider)| *provider).collect();
    assert_eq!(named.len(), rules.providers.len(), "each provider has a destination here");
}

#[test]
fn replies_of_public_documents_get_the_rule_that_is_meant_for_them() {
    let rules = maintained();
    let mut used = BTreeSet::new();
    for (name, code, text, expected) in REPLIES {
        let provider = rules.by_name.get(*name).copied();
        let site = Site { name: (*name).into(), provider };
        let status = crate::message::Status::parse(text.as_bytes());
        let enhanced = status.map(|status| (status.class(), status.subject(), status.detail()));
        let rule = rules.judge(&site, *code, enhanced, text).map_or("", |rule| &rule.name);
        assert_eq!(rule, *expected, "{name}: {code} {text}");
        used.insert(rule);
    }
    assert!(used.len() > 35, "most rules have an example: {}", used.len());
}

/// The samples of docs/shaping.md, but for the first, which is of ringpost.toml: a file of its own, and one behind ours.
#[test]
fn the_documents_samples_are_rules() {
    let text = include_str!("../../docs/shaping.md");
    let blocks: Vec<&str> = text.split("```toml\n").skip(2).map(|rest| rest.split("```").next().unwrap()).collect();
    let [whole, behind] = blocks[..] else { panic!("{} samples", blocks.len()) };
    let whole = Shaping::parse(&[("docs/shaping.md", whole)]).unwrap();
    assert_eq!(whole.summary(), "1 providers, 0 reply rules, 1 tenants, 1 campaigns");
    let both = Shaping::parse(&[("config/shaping.toml", TEXT), ("docs/shaping.md", behind)]).unwrap();
    let google = both.site("gmail.com", &mut std::iter::empty());
    let rule = both.judge(&google, 450, Some((4, 2, 1)), "").unwrap();
    assert_eq!(both.place(rule.at), "docs/shaping.md:4");
    assert!(both.rules_of(&google).all(|rule| &*rule.name != "google-closing"));
}
