#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::Problem;
use crate::limits::TABLE_PROBLEMS;
use crate::properties::cases;
use proptest::prelude::*;
use std::time::Duration;

/// The rules of one file.
pub(super) fn shaping(text: &str) -> Shaping {
    Shaping::parse(&[("test.toml", text)]).unwrap_or_else(|problems| panic!("{}", lines(&problems)))
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

fn errors(text: &str) -> String {
    lines(&Shaping::parse(&[("test.toml", text)]).map(|_| ()).unwrap_err())
}

fn rate(text: &str) -> Option<Rate> {
    Some(text.parse().unwrap())
}

const SAMPLE: &str = r#"
[default]
connections = 20
message_rate = "100/s"
per_source = { connections = 10 }

[[provider]]
name = "big"
mx = ["*.big.example"]
domains = ["big.test"]
source = "https://postmaster.big.example/limits"
connections = 5
connection_rate = "10/m"
recipients = 50
messages_per_connection = 20
bytes_in_flight = "10MiB"
per_source = { connection_rate = "1/s burst 5" }
retry = { first = "15m", factor = 1.5, max = "2h" }
tls = "require"
ip = "prefer-ipv4"

[[provider.reply]]
name = "too-fast"
code = "421"
enhanced = "4.7.28"
action = "suspend"
what = "source"
for = "1h"
source = "https://postmaster.big.example/421"

[[provider.reply]]
name = "busy"
code = "4xx"
text = "too many connections"
action = "lower"
limit = "connections"
factor = 0.5
for = "30m"

[[provider]]
name = "small"
mx = ["mx.small.example"]

[[reply]]
name = "listed"
code = "5xx"
text = 'listed (at|by) \S+'
action = "other_source"
rest = "1d"

[[reply]]
name = "greylisted"
code = "45x"
text = "greylist"
action = "retry"
after = "5m"

[[tenant]]
name = "acme"
weight = 300
message_rate = "1000/h"
at = { big = { message_rate = "100/h", connections = 2 } }
retry = { first = "1m", give_up = "1d" }

[[tenant]]
name = "*"
connections = 7

[[campaign]]
name = "spring"
message_rate = "10/s"
"#;

fn site(shaping: &Shaping, mx: &str) -> Site {
    shaping.site("a.example", &mut [mx].into_iter())
}

#[test]
fn limits_of_a_site_are_its_providers_and_of_the_rest_the_default() {
    let rules = shaping(SAMPLE);
    let (big, small, other) =
        (site(&rules, "mx1.big.example"), site(&rules, "mx.small.example"), site(&rules, "mx.other.example"));
    let default = Limits { connections: Some(20), message_rate: rate("100/s"), ..Limits::default() };
    let expected = Limits {
        connections: Some(5),
        connection_rate: rate("10/m"),
        message_rate: rate("100/s"),
        recipients: Some(50),
        messages_per_connection: Some(20),
        bytes_in_flight: Some(10 << 20),
    };
    assert_eq!((rules.limits(&big), rules.limits(&small), rules.limits(&other)), (expected, default, default));
    assert_eq!((&*big.name, &*small.name, &*other.name), ("big", "small", "mx.other.example"));
    let per_source = rules.source_limits(&big);
    assert_eq!((per_source.connections, per_source.connection_rate), (Some(10), rate("1/s burst 5")));
    assert_eq!(rules.source_limits(&other), Limits { connections: Some(10), ..Limits::default() });
    assert_eq!((rules.tls(&big), rules.tls(&other)), (Some(TlsLevel::Require), None));
    assert_eq!((rules.ip_families(&big), rules.ip_families(&small)), (Some(IpFamilies::PreferV4), None));
}

#[test]
fn tenants_and_campaigns_have_limits_of_their_own_and_so_has_a_tenant_at_a_site() {
    let rules = shaping(SAMPLE);
    let (big, other) = (site(&rules, "mx1.big.example"), site(&rules, "mx.other.example"));
    assert_eq!(rules.tenant_limits("acme"), Limits { message_rate: rate("1000/h"), ..Limits::default() });
    assert_eq!(rules.tenant_limits("other"), Limits { connections: Some(7), ..Limits::default() });
    assert_eq!((rules.tenant_weight("acme"), rules.tenant_weight("other")), (300, TENANT_WEIGHT_DEFAULT));
    let here = Limits { message_rate: rate("100/h"), connections: Some(2), ..Limits::default() };
    assert_eq!(rules.tenant_site_limits("acme", &big), here);
    assert_eq!(rules.tenant_site_limits("acme", &other), Limits::default());
    assert_eq!(rules.tenant_site_limits("other", &big), Limits::default());
    assert_eq!(rules.campaign_limits("spring").message_rate, rate("10/s"));
    assert_eq!(rules.campaign_limits("autumn"), Limits::default());
    let minutes = |n: u64| Some(Duration::from_secs(60 * n));
    let both = rules.site_schedule(&big).with_tenant(rules.tenant_schedule("acme"));
    assert_eq!(
        (both.first, both.factor, both.max, both.give_up),
        (minutes(15), Some(1.5), minutes(120), minutes(1440))
    );
    assert_eq!(rules.site_schedule(&other).with_tenant(rules.tenant_schedule("acme")).first, minutes(1));
    assert_eq!(rules.site_schedule(&other).with_tenant(rules.tenant_schedule("other")), Schedule::default());
}

#[test]
fn the_first_rule_that_matches_judges_a_reply_and_the_providers_come_first() {
    let rules = shaping(SAMPLE);
    let (big, other) = (site(&rules, "mx1.big.example"), site(&rules, "mx.other.example"));
    let judge = |site: &Site, code, enhanced, text: &str| {
        rules.judge(site, code, enhanced, text).map(|rule| (rule.name.to_string(), rule.action))
    };
    let hour = Duration::from_secs(3600);
    let too_fast = Some(("too-fast".to_owned(), Action::Suspend { what: Rests::Source, for_: hour }));
    assert_eq!(judge(&big, 421, Some((4, 7, 28)), "4.7.28 slow down"), too_fast);
    assert_eq!(judge(&big, 421, Some((4, 7, 2)), "slow down"), None);
    assert_eq!(judge(&other, 421, Some((4, 7, 28)), "slow down"), None);
    let by = Lowering::Times(Limit::Connections, 0.5);
    let busy = Some(("busy".to_owned(), Action::Lower { by, for_: hour / 2 }));
    assert_eq!(judge(&big, 451, None, "Too many connections, greylisted"), busy);
    let grey = Some(("greylisted".to_owned(), Action::Retry { after: Some(Duration::from_secs(300)) }));
    assert_eq!(judge(&big, 451, None, "Greylisted"), grey);
    assert_eq!(judge(&other, 451, None, "Too many connections, greylisted"), grey);
    let listed = Some(("listed".to_owned(), Action::OtherSource { rest: 24 * hour }));
    assert_eq!(judge(&other, 554, None, "Your address is\nlisted at bl.example"), listed);
    assert_eq!(judge(&other, 250, None, "greylist"), None);
    let rule = rules.judge(&big, 421, Some((4, 7, 28)), "").unwrap();
    assert_eq!(rule.source.as_deref(), Some("https://postmaster.big.example/421"));
    assert_eq!(rules.place(rule.at), "test.toml:22");
    assert!(rules.judge(&big, 451, None, "Too many connections").unwrap().source.is_none());
    assert_eq!(rules.summary(), "2 providers, 4 reply rules, 2 tenants, 1 campaigns");
}

#[test]
fn addresses_are_tried_in_the_order_that_a_rule_says_host_by_host() {
    let route = [(0, "6"), (0, "4"), (1, "4"), (1, "6"), (1, "4")];
    let arranged = |families: IpFamilies| {
        let mut order = route.to_vec();
        families.arrange(&mut order, |(host, _)| *host, |(_, family)| *family == "4");
        order
    };
    assert_eq!(arranged(IpFamilies::PreferV4), [(0, "4"), (0, "6"), (1, "4"), (1, "4"), (1, "6")]);
    assert_eq!(arranged(IpFamilies::PreferV6), [(0, "6"), (0, "4"), (1, "6"), (1, "4"), (1, "4")]);
    assert_eq!(arranged(IpFamilies::V4Only), [(0, "4"), (1, "4"), (1, "4")]);
    assert_eq!(arranged(IpFamilies::V6Only), [(0, "6"), (1, "6")]);
}

#[test]
fn without_rules_nothing_is_limited_or_judged() {
    let none = Shaping::default();
    let site = site(&none, "mx.example.net");
    assert!(
        none.is_empty() && none.limits(&site) == Limits::default() && none.source_limits(&site) == Limits::default()
    );
    assert!(none.tenant_limits("x") == Limits::default() && none.tenant_site_limits("x", &site) == Limits::default());
    assert!(none.campaign_limits("x") == Limits::default() && none.judge(&site, 421, None, "x").is_none());
}

#[test]
fn later_files_extend_earlier_ones_key_by_key() {
    let ours = r#"
        [default]
        connections = 20
        [[provider]]
        name = "big"
        mx = ["*.big.example"]
        connections = 5
        messages_per_connection = 20
        per_source = { connections = 3 }
        [[provider.reply]]
        name = "slow"
        code = "421"
        action = "suspend"
        what = "site"
        for = "1h"
        [[provider.reply]]
        name = "busy"
        code = "451"
        action = "retry"
        [[reply]]
        name = "any"
        code = "4xx"
        action = "retry"
    "#;
    let mine = r#"
        [default]
        connections = 10
        [[provider]]
        name = "big"
        domains = ["big.test"]
        connections = 50
        per_source = { recipients = 9 }
        [[provider.reply]]
        name = "special"
        code = "421"
        text = "special"
        action = "bounce"
        [[provider.reply]]
        name = "slow"
        code = "421"
        action = "retry"
        after = "1m"
        [[reply]]
        name = "any"
        action = "off"
    "#;
    let rules = Shaping::parse(&[("ours.toml", ours), ("mine.toml", mine)]).unwrap();
    let by_domain = rules.site("big.test", &mut ["elsewhere.example"].into_iter());
    let big = site(&rules, "mx.big.example");
    assert_eq!(big, by_domain);
    let limits = rules.limits(&big);
    assert_eq!((limits.connections, limits.messages_per_connection), (Some(50), Some(20)));
    let per_source = rules.source_limits(&big);
    assert_eq!((per_source.connections, per_source.recipients), (Some(3), Some(9)));
    assert_eq!(rules.limits(&site(&rules, "other.example")).connections, Some(10));
    let named = |code, text| rules.judge(&big, code, None, text).map(|rule| (&*rule.name, rules.place(rule.at)));
    assert_eq!(named(421, "special"), Some(("special", "mine.toml:9".to_owned())));
    assert_eq!(named(421, "x"), Some(("slow", "mine.toml:14".to_owned())));
    assert_eq!(named(451, "x"), Some(("busy", "ours.toml:16".to_owned())));
    assert_eq!(named(450, "x"), None);
    assert_eq!(rules.rules_of(&big).count(), 3);
    // What is off must have been on.
    let alone = Shaping::parse(&[("mine.toml", "[[reply]]\nname = \"any\"\naction = \"off\"\n")]).unwrap_err();
    assert!(lines(&alone).contains("mine.toml:2:8: reply.name: there is no rule \"any\" in an earlier file"));
}

#[test]
fn everything_wrong_is_told_with_its_line_and_what_to_do() {
    for (text, expected) in [
        ("[[provider]\n", "test.toml:1:"),
        (
            "\nproviders = 1\n",
            "test.toml:2:1: providers: is not known; allowed are default, provider, reply, tenant, campaign",
        ),
        ("[[provider]]\nmx = [\"a.example\"]\n", "test.toml:1:1: provider: has no name; add name = \"...\""),
        (
            "[[provider]]\nname = \"Big One\"\n",
            "test.toml:2:8: provider.name: \"Big One\" is no name; use small letters",
        ),
        ("[[provider]]\nname = \"a\"\n", "test.toml:1:1: provider: a has neither mx nor domains"),
        (
            "[[provider]]\nname = \"a\"\nmx = [\"a.*.example\"]",
            "test.toml:3:7: provider.mx: \"a.*.example\" is neither a name",
        ),
        ("[[provider]]\nname = \"a\"\nmx = [\"gr\u{fc}n.example\"]", "xn-- form"),
        ("[[provider]]\nname = \"a\"\nmx = \"a.example\"", "provider.mx: is text, expected a list in [ ]"),
        (
            "[[provider]]\nname = \"a\"\nmx = [\"*.x.example\"]\n[[provider]]\nname = \"b\"\nmx = [\n\"*.X.example\"]",
            "test.toml:7:1: provider.mx: \"*.x.example\" is the provider a's already (test.toml:3)",
        ),
        (
            "[[provider]]\nname = \"a\"\nmx = [\"x.example\"]\n[[provider]]\nname = \"a\"\n",
            "test.toml:5:8: provider.name: \"a\" stands in this file twice; make one block of them",
        ),
        (
            "[default]\nconnections = 0",
            "test.toml:2:15: default.connections: 0 is out of range; allowed are 1 to 10000",
        ),
        ("[default]\nconnections = \"5\"", "is text, expected a whole number"),
        ("[default]\nmessage_rate = \"5\"", "is not a rate; write how many in what time"),
        ("[default]\nmessage_rate = 5", "is a whole number, expected text in quotes"),
        ("[default]\nrecipients = 1001", "allowed are 1 to 1000"),
        ("[default]\nbytes_in_flight = \"1B\"", "1B is out of range; allowed are 1KiB to 1TiB"),
        ("[default]\nper_source = 5", "default.per_source: is to be a table"),
        ("[default.per_source]\nconections = 5", "default.per_source.conections: is not known"),
        ("[[default]]\nconnections = 5", "default: is to be a table"),
        ("[provider]\nname = \"a\"", "provider: is a table, expected a list"),
        ("[[reply]]\nname = \"a\"\ncode = \"4xx\"", "reply.action: what is to be done? Add action = \"retry\""),
        ("[[reply]]\nname = \"a\"\naction = \"bounce\"", "reply: matches every refusal; add code"),
        ("[[reply]]\nname = \"a\"\ncode = \"250\"\naction = \"bounce\"", "reply.code: \"250\" is not a reply code"),
        ("[[reply]]\nname = \"a\"\nenhanced = \"4.7\"\naction = \"bounce\"", "is not an enhanced code"),
        (
            "[[reply]]\nname = \"a\"\ntext = \"(\"\naction = \"bounce\"",
            "test.toml:3:8: reply.text: is no regular expression",
        ),
        (
            "[[reply]]\nname = \"a\"\ncode = \"421\"\naction = \"sleep\"",
            "allowed are \"retry\", \"suspend\", \"lower\"",
        ),
        ("[[reply]]\nname = \"a\"\ncode = \"421\"\naction = \"suspend\"\nfor = \"1h\"", "add what = \"site\""),
        (
            "[[reply]]\nname = \"a\"\ncode = \"421\"\naction = \"suspend\"\nwhat = \"site\"",
            "reply.for: for how long? Add for",
        ),
        ("[[reply]]\nname = \"a\"\ncode = \"421\"\naction = \"bounce\"\nfor = \"1h\"", "reply.for: is not known"),
        (
            "[[reply]]\nname = \"a\"\ncode = \"421\"\naction = \"retry\"\nafter = \"31d\"",
            "31d is out of range; allowed are 1s to 30d",
        ),
        ("[[reply]]\nname = \"a\"\ncode = \"421\"\naction = \"lower\"\nfor = \"1h\"", "reply: how? Write limit ="),
        (
            "[[reply]]\nname = \"a\"\ncode = \"421\"\naction = \"lower\"\nfor = \"1h\"\nlimit = \"connections\"\nfactor = 1.0",
            "1 is out of range; allowed are 0.01 to 0.99",
        ),
        ("[[reply]]\nname = \"a\"\ncode = \"421\"\naction = \"lower\"\nfor = \"1h\"\nto = {}", "names no limit"),
        ("[[tenant]]\nname = \"a\"\nweight = 1001", "allowed are 1 to 1000"),
        (
            "[[tenant]]\nname = \"a\"\n\nat = { big = { connections = 1 } }",
            "test.toml:4:1: tenant.at: there is no provider \"big\"",
        ),
        ("[[tenant]]\nname = \"a\"\nretry = { first = \"2h\", max = \"1h\" }", "first is longer than max"),
        ("[[tenant]]\nname = \"a\"\nretry = { jitter = 0.1 }", "tenant.retry.jitter: is not known"),
        (
            "[[tenant]]\nname = \"a\"\nconnection_rate = \"1/s\"",
            "test.toml:3:19: tenant.connection_rate: counts connections, and tenants and campaigns share them",
        ),
        (
            "[[campaign]]\nname = \"a\"\nmessages_per_connection = 5",
            "campaign.messages_per_connection: counts connections",
        ),
        ("[[campaign]]\nname = \"\"", "campaign.name: is to be 1 to 255 octets"),
        ("[[campaign]]\nname = \"a\"\nweight = 5", "campaign.weight: is not known"),
    ] {
        let told = errors(text);
        assert!(told.contains(expected), "{text}\n  gave     {told}\n  expected {expected}");
    }
    assert_eq!(errors("[default]\nconnections = 0\nrecipients = 0\n[[tenant]]\nweight = 0\n").lines().count(), 3);
    let all_wrong: String = (0..1000).map(|n| format!("key{n} = 1\n")).collect();
    assert_eq!(errors(&all_wrong).lines().count(), TABLE_PROBLEMS);
    assert!(lines(&Shaping::parse(&[("x", ""); 17]).unwrap_err()).contains("at most 16"));
}

#[test]
fn a_hundred_thousand_patterns_are_looked_up_and_not_searched() {
    let patterns: String = (0..100_000).map(|n| format!("\"*.n{n}.example\",")).collect();
    let rules = shaping(&format!("[[provider]]\nname = \"a\"\nmx = [{patterns}]\n"));
    // As many looks as labels: 20,000 names of 100 labels here, in a debug build, are two million and not two billion.
    let deep = format!("{}n99999.example", "x.".repeat(100));
    for n in 0..20_000 {
        let name = if n % 2 == 0 { &*deep } else { "mx.elsewhere.test" };
        assert_eq!(site(&rules, name).provider.is_some(), n % 2 == 0);
    }
}

proptest! {
    #![proptest_config(cases(300))]

    /// Whatever stands in a file: rules, or problems that name the file; never a panic.
    #[test]
    fn property_any_text_is_rules_or_problems(
        keep in prop::collection::vec(any::<bool>(), 80), swaps in prop::collection::vec((0..80usize, 0..80usize), 0..3),
        noise in "([a-z_]{1,9} = ([0-9]{1,3}|\"[^\"\\\\]{0,9}\"|\\[\\]|\\{\\})\n){0,2}",
    ) {
        let mut all: Vec<&str> = SAMPLE.lines().zip(keep.iter().cycle()).filter(|(_, keep)| **keep).map(|(l, _)| l).collect();
        for (a, b) in swaps {
            if a.max(b) < all.len() {
                all.swap(a, b);
            }
        }
        let text = format!("{}\n{noise}", all.join("\n"));
        match Shaping::parse(&[("a.toml", &text)]) {
            Ok(rules) => {
                let site = site(&rules, "mx1.big.example");
                let limits = rules.limits(&site);
                prop_assert!(limits.connections.is_none_or(|n| (1..=10_000).contains(&n)));
                prop_assert!(rules.rules_of(&site).count() <= 4);
                let _ = rules.judge(&site, 421, Some((4, 7, 28)), "listed at x");
            }
            Err(problems) => {
                prop_assert!(!problems.is_empty() && problems.len() <= TABLE_PROBLEMS);
                prop_assert!(problems.iter().all(|problem| problem.file == "a.toml" && !problem.message.is_empty()));
            }
        }
    }
}
