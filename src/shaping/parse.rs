//! PURE. Rule files as texts become a [`Shaping`], or all that is wrong with them.
//!
//! In: TOML (`docs/shaping.md` has every key), the names of the files for the messages. Out: the rules, or [`Problem`]s with
//! line and column. Files are read in order: a block of a name that an earlier file has extends it, key by key; a reply rule
//! of an earlier one's name takes its place; and a later file's reply rules are tried before an earlier one's. It refuses
//! unknown keys, names and patterns that two providers claim, and a provider that nothing can match.

use super::reply::{CodePattern, EnhancedPattern, Pattern, text_pattern};
use super::site::{Owner, canonical};
use super::{
    Action, IpFamilies, Limit, Limits, Lowering, Place, Provider, Rate, ReplyRule, Rests, Schedule, Shaping, TlsLevel,
    Written,
};
use crate::config::read::{Reader, Table, count, number, size, span, text, word};
use crate::config::{Problem, Size, Span};
use crate::limits::{
    CONFIG_DURATION_MAX, LABEL_BYTES, REPLY_PATTERN_BYTES, SHAPING_FILE_BYTES, SHAPING_FILES, SHAPING_NAME_BYTES,
    SHAPING_NAMES, SHAPING_PATTERNS, SHAPING_RULES, TABLE_PROBLEMS, TENANT_WEIGHT_MAX,
};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use toml::de::DeValue;

const LIMITS: &[&str] =
    &["connections", "connection_rate", "message_rate", "recipients", "messages_per_connection", "bytes_in_flight"];
/// Of those, what says something of mail whose connections others use too.
const OF_MAIL: &[&str] = &["connections", "message_rate", "recipients", "bytes_in_flight"];
const SPANS: RangeInclusive<Duration> = Duration::from_secs(1)..=CONFIG_DURATION_MAX;

impl Shaping {
    /// Reads files, each a name for messages and a text.
    ///
    /// # Errors
    /// Everything that is wrong with any of them, at most [`TABLE_PROBLEMS`].
    pub fn parse(files: &[(&str, &str)]) -> Result<Shaping, Vec<Problem>> {
        let mut builder = Builder::default();
        if files.len() > SHAPING_FILES {
            let message = format!("{} rule files; at most {SHAPING_FILES} are allowed", files.len());
            return Err(vec![Problem { file: String::new(), place: None, key: "shaping.files".into(), message }]);
        }
        for ((name, text), number) in files.iter().zip(0..) {
            builder.shaping.files.push((*name).into());
            let mut reader = Reader::new(name, number, text);
            builder.file(&mut reader, text);
            builder.problems.append(&mut reader.problems);
        }
        builder.end()
    }
}

#[derive(Default)]
struct Builder {
    shaping: Shaping,
    /// Limits that each provider's own blocks name.
    own: Vec<(Limits, Limits)>,
    /// Tenants' limits at providers, which a later file may bring.
    at: Vec<At>,
    problems: Vec<Problem>,
}

struct At {
    tenant: Box<str>,
    provider: Box<str>,
    limits: Limits,
    place: Place,
}

impl Builder {
    fn file(&mut self, reader: &mut Reader<'_>, text: &str) {
        if text.len() as u64 > SHAPING_FILE_BYTES {
            return reader.wrong(0, "", format!("is longer than {}", Size(SHAPING_FILE_BYTES)));
        }
        let Some(parsed) = reader.parse() else { return };
        let root = Table::root(parsed.get_ref());
        reader.only(&root, &[&["default", "provider", "reply", "tenant", "campaign"]]);
        if let Some(default) = reader.table(&root, "default") {
            reader.only(&default, &[LIMITS, &["per_source"]]);
            let all = &mut self.shaping.default;
            limits(reader, &default, "", &mut all.limits, &mut all.written);
            per_source(reader, &default, &mut all.per_source, &mut all.written);
        }
        let mut names = BTreeSet::new();
        for table in reader.tables(&root, "provider") {
            if let Some(name) = named(reader, &table, provider_name, &mut names) {
                self.provider(reader, &table, name);
            }
        }
        reply_rules(reader, &root, &mut self.shaping.rules);
        names.clear();
        for table in reader.tables(&root, "tenant") {
            if let Some(name) = named(reader, &table, any_name, &mut names) {
                self.tenant(reader, &table, name);
            }
        }
        names.clear();
        for table in reader.tables(&root, "campaign") {
            only_of_mail(reader, &table, &["name"]);
            if let Some(name) = named(reader, &table, any_name, &mut names) {
                let campaign = self.shaping.campaigns.entry(name.into()).or_default();
                limits(reader, &table, "", &mut campaign.limits, &mut campaign.written);
            }
        }
        for (what, there) in [("tenant", self.shaping.tenants.len()), ("campaign", self.shaping.campaigns.len())] {
            if there > SHAPING_NAMES {
                reader.wrong(0, what, format!("there are more than {SHAPING_NAMES}"));
            }
        }
    }

    fn provider(&mut self, reader: &mut Reader<'_>, table: &Table<'_>, name: &str) {
        reader
            .only(table, &[LIMITS, &["name", "mx", "domains", "per_source", "retry", "tls", "ip", "source", "reply"]]);
        let known = self.shaping.by_name.get(name).copied();
        let index = known.unwrap_or_else(|| {
            let index = u32::try_from(self.shaping.providers.len()).unwrap_or(u32::MAX);
            self.shaping.by_name.insert(name.into(), index);
            let at = place(reader, table.at);
            self.shaping.providers.push(Provider { name: name.into(), at, ..Provider::default() });
            self.own.push(Default::default());
            index
        });
        for key in ["mx", "domains"] {
            for (pattern, offset) in reader.texts(table, key) {
                self.pattern(reader, &table.key(key), pattern, offset, index);
            }
        }
        let provider = &mut self.shaping.providers[index as usize];
        let (own, own_per_source) = &mut self.own[index as usize];
        limits(reader, table, "", own, &mut provider.written);
        per_source(reader, table, own_per_source, &mut provider.written);
        schedule(reader, table, &mut provider.schedule, &mut provider.written);
        let mut note = |reader: &Reader<'_>, key: &str| {
            let value = table.keys.get(key).and_then(|value| value.get_ref().as_str()).unwrap_or_default();
            written(&mut provider.written, key, value.to_owned(), place(reader, table.place_of(key)));
        };
        if let Some(level) = reader.value(table, "tls", word(TLS)) {
            note(reader, "tls");
            provider.tls = Some(level);
        }
        if let Some(ip) = reader.value(table, "ip", word(IP)) {
            note(reader, "ip");
            provider.ip = Some(ip);
        }
        if let Some(source) = reader.value(table, "source", sentence) {
            provider.sources.push(source.into());
        }
        reply_rules(reader, table, &mut provider.rules);
    }

    /// A name or pattern of a provider's.
    fn pattern(&mut self, reader: &mut Reader<'_>, key: &str, pattern: &str, offset: usize, provider: u32) {
        let name = canonical(pattern);
        if let Err(why) = check_pattern(&name) {
            return reader.wrong(offset, key, why);
        }
        let at = place(reader, offset);
        let names = if key.ends_with("mx") { &mut self.shaping.exchangers } else { &mut self.shaping.domains };
        if let Err(other) = names.insert(&name, Owner { provider, at }) {
            let whose = &self.shaping.providers[other.provider as usize].name;
            let place = self.shaping.place(other.at);
            reader.wrong(
                offset,
                key,
                format!("\"{name}\" is the provider {whose}'s already ({place}); take one of them out"),
            );
        }
    }

    fn tenant(&mut self, reader: &mut Reader<'_>, table: &Table<'_>, name: &str) {
        only_of_mail(reader, table, &["name", "weight", "retry", "at"]);
        let tenant = self.shaping.tenants.entry(name.into()).or_default();
        limits(reader, table, "", &mut tenant.limits, &mut tenant.written);
        schedule(reader, table, &mut tenant.schedule, &mut tenant.written);
        if let Some(weight) = reader.value(table, "weight", count(1..=TENANT_WEIGHT_MAX)) {
            tenant.weight = Some(weight);
            written(&mut tenant.written, "weight", weight.to_string(), place(reader, table.place_of("weight")));
        }
        let Some(at) = reader.table(table, "at") else { return };
        for (provider, _) in at.keys.iter() {
            let provider = provider.get_ref().as_ref();
            let Some(inner) = reader.table(&at, provider) else { continue };
            only_of_mail(reader, &inner, &[]);
            let mut here = Limits::default();
            limits(reader, &inner, &format!("at.{provider}."), &mut here, &mut tenant.written);
            let place = place(reader, inner.at);
            self.at.push(At { tenant: name.into(), provider: provider.into(), limits: here, place });
        }
    }

    /// What can be said only when all files are read.
    fn end(mut self) -> Result<Shaping, Vec<Problem>> {
        let shaping = &mut self.shaping;
        let mut wrong = |at: Place, key: &str, message: String| {
            let file = shaping.files[usize::from(at.file)].to_string();
            let place = Some((at.line as usize, 1));
            self.problems.push(Problem { file, place, key: key.into(), message });
        };
        for At { tenant, provider, limits, place } in self.at {
            match (shaping.by_name.get(&provider), shaping.tenants.get_mut(&tenant)) {
                (Some(provider), Some(tenant)) => {
                    let there = tenant.at.entry(*provider).or_default();
                    *there = or(limits, *there);
                }
                _ => wrong(place, "tenant.at", format!("there is no provider \"{provider}\" in any of the files")),
            }
        }
        let mut matched = vec![false; shaping.providers.len()];
        for owner in shaping.domains.owners().chain(shaping.exchangers.owners()) {
            matched[owner as usize] = true;
        }
        for (provider, matched) in shaping.providers.iter().zip(matched) {
            if !matched {
                let why = "has neither mx nor domains: nothing is its. To extend a provider of another file, list that file too";
                wrong(provider.at, "provider", format!("{} {why}", provider.name));
            }
        }
        let rules = shaping.rules.len() + shaping.providers.iter().map(|provider| provider.rules.len()).sum::<usize>();
        let patterns = shaping.domains.len() + shaping.exchangers.len();
        for (what, there, most) in [
            ("reply", rules, SHAPING_RULES),
            ("provider.mx", patterns, SHAPING_PATTERNS),
            ("provider", shaping.providers.len(), SHAPING_NAMES),
        ] {
            if there > most {
                wrong(Place::default(), what, format!("there are {there} in all files; at most {most} are allowed"));
            }
        }
        for (provider, (own, per_source)) in shaping.providers.iter_mut().zip(self.own) {
            provider.limits = or(own, shaping.default.limits);
            provider.per_source = or(per_source, shaping.default.per_source);
        }
        let schedules = |tenant: &super::Tenant| tenant.schedule != Schedule::default();
        shaping.tenants_scheduled = shaping.tenants.values().any(schedules);
        self.problems.truncate(TABLE_PROBLEMS);
        if self.problems.is_empty() { Ok(self.shaping) } else { Err(self.problems) }
    }
}

const TLS: &[(&str, TlsLevel)] = &[
    ("off", TlsLevel::Off),
    ("opportunistic", TlsLevel::Opportunistic),
    ("require", TlsLevel::Require),
    ("verify", TlsLevel::Verify),
];
const IP: &[(&str, IpFamilies)] = &[
    ("prefer-ipv4", IpFamilies::PreferV4),
    ("prefer-ipv6", IpFamilies::PreferV6),
    ("ipv4", IpFamilies::V4Only),
    ("ipv6", IpFamilies::V6Only),
];

// --- names ----------------------------------------------------------------------------------------------------------

/// The name of a block, which no other of the file has.
fn named<'t>(
    reader: &mut Reader<'_>,
    table: &Table<'t>,
    read: fn(&'t DeValue<'t>) -> Result<&'t str, String>,
    taken: &mut BTreeSet<String>,
) -> Option<&'t str> {
    if !table.keys.contains_key("name") {
        reader.wrong(table.at, table.path(), "has no name; add name = \"...\"");
        return None;
    }
    let name = reader.value(table, "name", read)?;
    if !taken.insert(name.to_owned()) {
        reader.wrong(
            table.place_of("name"),
            &table.key("name"),
            format!("\"{name}\" stands in this file twice; make one block of them"),
        );
        return None;
    }
    Some(name)
}

/// Names of providers: words, so that the name of a site without one (it has a dot, or a bracket) is none.
fn provider_name<'t>(value: &'t DeValue<'t>) -> Result<&'t str, String> {
    let name = any_name(value)?;
    let is_word = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
    if is_word { Ok(name) } else { Err(format!("\"{name}\" is no name; use small letters, digits, - and _")) }
}

fn any_name<'t>(value: &'t DeValue<'t>) -> Result<&'t str, String> {
    let name = text(value)?;
    if name.is_empty() || name.len() > SHAPING_NAME_BYTES || name.contains(char::is_control) {
        return Err(format!("is to be 1 to {SHAPING_NAME_BYTES} octets on one line"));
    }
    Ok(name)
}

fn sentence<'t>(value: &'t DeValue<'t>) -> Result<&'t str, String> {
    let words = text(value)?;
    if words.is_empty() || words.contains(char::is_control) {
        Err("is to be text on one line".into())
    } else {
        Ok(words)
    }
}

fn check_pattern(name: &str) -> Result<(), String> {
    let labels = name.strip_prefix("*.").unwrap_or(name);
    let is_label = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..=LABEL_BYTES).contains(&label.len()) && label.bytes().all(plain)
    };
    if labels.len() <= 253 && labels.split('.').all(is_label) {
        return Ok(());
    }
    Err(format!(
        "\"{name}\" is neither a name (\"mx.example.com\") nor all names below one (\"*.example.com\"); write an international \
         name in its xn-- form"
    ))
}

fn place(reader: &Reader<'_>, offset: usize) -> Place {
    Place { file: reader.number, line: u32::try_from(reader.line(offset)).unwrap_or(u32::MAX) }
}

// --- what several blocks have ---------------------------------------------------------------------------------------

fn written(all: &mut Vec<Written>, key: &str, value: String, at: Place) {
    all.push(Written { key: key.into(), value: value.into(), at });
}

/// Reads what `table` has of limits over what is there.
fn limits(reader: &mut Reader<'_>, table: &Table<'_>, before: &str, into: &mut Limits, all: &mut Vec<Written>) {
    let mut note = |reader: &Reader<'_>, limit: Limit, value: String| {
        let at = place(reader, table.place_of(limit.key()));
        written(all, &format!("{before}{}", limit.key()), value, at);
    };
    for (limit, field, range) in [
        (Limit::Connections, &mut into.connections, 1..=10_000),
        (Limit::Recipients, &mut into.recipients, 1..=1000),
        (Limit::MessagesPerConnection, &mut into.messages_per_connection, 1..=1_000_000),
    ] {
        if let Some(value) = reader.value(table, limit.key(), count(range)) {
            note(reader, limit, value.to_string());
            *field = Some(value);
        }
    }
    for (limit, field) in
        [(Limit::ConnectionRate, &mut into.connection_rate), (Limit::MessageRate, &mut into.message_rate)]
    {
        if let Some(value) = reader.value(table, limit.key(), |value| text(value)?.parse::<Rate>()) {
            note(reader, limit, value.to_string());
            *field = Some(value);
        }
    }
    if let Some(value) = reader.value(table, Limit::BytesInFlight.key(), size(1024..=1 << 40)) {
        note(reader, Limit::BytesInFlight, Size(value).to_string());
        into.bytes_in_flight = Some(value);
    }
}

/// Refuses what is no key of a tenant or campaign.
fn only_of_mail(reader: &mut Reader<'_>, table: &Table<'_>, others: &[&str]) {
    reader.only(table, &[LIMITS, others]);
    for key in LIMITS.iter().filter(|key| !OF_MAIL.contains(*key) && table.keys.contains_key(**key)) {
        let why = "counts connections, and tenants and campaigns share them; it is for sites and source addresses. Allowed here are";
        reader.wrong(table.place_of(key), &table.key(key), format!("{why} {}", OF_MAIL.join(", ")));
    }
}

fn per_source(reader: &mut Reader<'_>, table: &Table<'_>, into: &mut Limits, all: &mut Vec<Written>) {
    if let Some(inner) = reader.table(table, "per_source") {
        reader.only(&inner, &[LIMITS]);
        limits(reader, &inner, "per_source.", into, all);
    }
}

fn schedule(reader: &mut Reader<'_>, table: &Table<'_>, into: &mut Schedule, all: &mut Vec<Written>) {
    let Some(inner) = reader.table(table, "retry") else { return };
    reader.only(&inner, &[&["first", "factor", "max", "give_up"]]);
    for (key, field) in [("first", &mut into.first), ("max", &mut into.max), ("give_up", &mut into.give_up)] {
        if let Some(value) = reader.value(&inner, key, span(SPANS)) {
            *field = Some(value);
            written(all, &format!("retry.{key}"), Span(value).to_string(), place(reader, inner.place_of(key)));
        }
    }
    if let Some(value) = reader.value(&inner, "factor", number(1.0..=10.0)) {
        into.factor = Some(value);
        written(all, "retry.factor", value.to_string(), place(reader, inner.place_of("factor")));
    }
    for (low, high, words) in [
        (into.first, into.max, "first is longer than max"),
        (into.max, into.give_up, "max is longer than give_up"),
        (into.first, into.give_up, "first is longer than give_up"),
    ] {
        if low.zip(high).is_some_and(|(low, high)| low > high) {
            return reader.wrong(inner.at, inner.path(), format!("{words}; it must be first <= max <= give_up"));
        }
    }
}

/// Of each limit the first one's, or the other's: what is named in two places of one scope.
fn or(first: Limits, other: Limits) -> Limits {
    Limits {
        connections: first.connections.or(other.connections),
        connection_rate: first.connection_rate.or(other.connection_rate),
        message_rate: first.message_rate.or(other.message_rate),
        recipients: first.recipients.or(other.recipients),
        messages_per_connection: first.messages_per_connection.or(other.messages_per_connection),
        bytes_in_flight: first.bytes_in_flight.or(other.bytes_in_flight),
    }
}

// --- reply rules ----------------------------------------------------------------------------------------------------

/// Puts the rules of `table`'s `[[reply]]` before those of earlier files, `all`, and in place of those of the same name.
fn reply_rules(reader: &mut Reader<'_>, table: &Table<'_>, all: &mut Vec<Arc<ReplyRule>>) {
    let (mut names, mut new) = (BTreeSet::new(), Vec::new());
    for table in reader.tables(table, "reply") {
        let Some(name) = named(reader, &table, any_name, &mut names) else { continue };
        let off = reader.value(&table, "action", text) == Some("off");
        let earlier = all.len();
        all.retain(|rule| &*rule.name != name);
        if off {
            reader.only(&table, &[&["name", "action"]]);
            if all.len() == earlier {
                let why = format!("there is no rule \"{name}\" in an earlier file to be switched off");
                reader.wrong(table.place_of("name"), &table.key("name"), why);
            }
        } else if let Some(rule) = reply_rule(reader, &table, name) {
            new.push(Arc::new(rule));
        }
    }
    new.append(all);
    *all = new;
}

fn reply_rule(reader: &mut Reader<'_>, table: &Table<'_>, name: &str) -> Option<ReplyRule> {
    let before = reader.problems.len();
    if !["code", "enhanced", "text"].iter().any(|key| table.keys.contains_key(*key)) {
        reader.wrong(
            table.at,
            table.path(),
            "matches every refusal; add code, enhanced or text (code = \"4xx\" if that is meant)",
        );
    }
    let pattern = Pattern {
        code: reader.value(table, "code", |value| CodePattern::parse(text(value)?)).unwrap_or_default(),
        enhanced: reader.value(table, "enhanced", |value| EnhancedPattern::parse(text(value)?)),
        text: reader.value(table, "text", |value| {
            let pattern = text(value)?;
            if pattern.is_empty() || pattern.len() > REPLY_PATTERN_BYTES {
                return Err(format!("is to be 1 to {REPLY_PATTERN_BYTES} octets"));
            }
            text_pattern(pattern)
        }),
    };
    let action = action(reader, table);
    let source = reader.value(table, "source", sentence).map(Into::into);
    let right = reader.problems.len() == before;
    let at = place(reader, table.at);
    action.filter(|_| right).map(|action| ReplyRule { action, name: name.into(), source, at, pattern })
}

#[derive(Clone, Copy)]
enum Kind {
    Retry,
    Suspend,
    Lower,
    Bounce,
    OtherSource,
    /// It is another function's.
    Off,
}

fn action(reader: &mut Reader<'_>, table: &Table<'_>) -> Option<Action> {
    const KINDS: &[(&str, Kind)] = &[
        ("retry", Kind::Retry),
        ("suspend", Kind::Suspend),
        ("lower", Kind::Lower),
        ("bounce", Kind::Bounce),
        ("other_source", Kind::OtherSource),
        ("off", Kind::Off),
    ];
    const RESTS: &[(&str, Rests)] = &[("site", Rests::Site), ("source", Rests::Source), ("tenant", Rests::Tenant)];
    const OF_ALL: &[&str] = &["name", "code", "enhanced", "text", "source", "action"];
    if !table.keys.contains_key("action") {
        reader.wrong(
            table.at,
            &table.key("action"),
            "what is to be done? Add action = \"retry\", \"suspend\", \"lower\", \"bounce\" or \"other_source\"",
        );
        return None;
    }
    let kind = reader.value(table, "action", word(KINDS))?;
    let keys: &[&str] = match kind {
        Kind::Retry => &["after"],
        Kind::Suspend => &["what", "for"],
        Kind::Lower => &["limit", "factor", "to", "for"],
        Kind::OtherSource => &["rest"],
        Kind::Bounce | Kind::Off => &[],
    };
    reader.only(table, &[OF_ALL, keys]);
    let needed = |reader: &mut Reader<'_>, key: &str| {
        if !table.keys.contains_key(key) {
            reader.wrong(table.at, &table.key(key), format!("for how long? Add {key} = \"10m\""));
        }
        reader.value(table, key, span(SPANS))
    };
    Some(match kind {
        Kind::Retry => Action::Retry { after: reader.value(table, "after", span(SPANS)) },
        Kind::Bounce => Action::Bounce,
        Kind::Off => return None,
        Kind::OtherSource => Action::OtherSource { rest: needed(reader, "rest")? },
        Kind::Suspend => {
            if !table.keys.contains_key("what") {
                reader.wrong(table.at, &table.key("what"), "add what = \"site\", \"source\" or \"tenant\"");
            }
            let what = reader.value(table, "what", word(RESTS));
            let for_ = needed(reader, "for")?;
            Action::Suspend { what: what?, for_ }
        }
        Kind::Lower => {
            let for_ = needed(reader, "for");
            Action::Lower { by: lowering(reader, table)?, for_: for_? }
        }
    })
}

fn lowering(reader: &mut Reader<'_>, table: &Table<'_>) -> Option<Lowering> {
    let has = |key: &str| table.keys.contains_key(key);
    let by_factor = has("limit") || has("factor");
    if by_factor == has("to") || has("limit") != has("factor") {
        let why = "how? Write limit = \"connections\" and factor = 0.5, or to = { connections = 2 }";
        reader.wrong(table.at, table.path(), why);
        return None;
    }
    if by_factor {
        const WORDS: &[(&str, Limit)] = &[
            ("connections", Limit::Connections),
            ("connection_rate", Limit::ConnectionRate),
            ("message_rate", Limit::MessageRate),
            ("recipients", Limit::Recipients),
            ("messages_per_connection", Limit::MessagesPerConnection),
            ("bytes_in_flight", Limit::BytesInFlight),
        ];
        let limit = reader.value(table, "limit", word(WORDS));
        let factor = reader.value(table, "factor", number(0.01..=0.99))?;
        return Some(Lowering::Times(limit?, factor));
    }
    let inner = reader.table(table, "to")?;
    reader.only(&inner, &[LIMITS]);
    let mut to = Limits::default();
    limits(reader, &inner, "", &mut to, &mut Vec::new());
    if to == Limits::default() {
        reader.wrong(inner.at, inner.path(), format!("names no limit; name one of {}", LIMITS.join(", ")));
    }
    Some(Lowering::To(to))
}
