//! PURE. Which destinations are one site: by a provider's names, or by their mail exchangers being the same.
//!
//! In: a domain, and the names of its mail exchangers as DNS gives them. Out: a [`Site`]. Core: any; a value, which may
//! cross cores. It refuses to look at preferences and addresses: who answers for the same names is one receiver.

use super::{Place, Shaping};
use crate::limits::SITE_NAME_BYTES;
use aws_lc_rs::digest;
use foldhash::quality::FixedState;
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// What a receiver counts as one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Site {
    /// The provider's name; else the names of the mail exchangers in lower case, sorted, with a space between; of a long
    /// set the first name, how many more there are and a hash of all. At most [`SITE_NAME_BYTES`] octets. A provider's
    /// name has no dot, all others do or have a bracket: the two cannot be mistaken for each other.
    pub name: Box<str>,
    /// The provider's place in the [`Shaping`] that said so. Another `Shaping` takes it for what its name says.
    pub provider: Option<u32>,
}

/// Names and patterns, and what each stands for.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The keys are the operator's: a stranger cannot choose what collides.
    exact: HashMap<Box<str>, Owner, FixedState>,
    /// What stands behind `*.`.
    below: HashMap<Box<str>, Owner, FixedState>,
}

/// Who has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub provider: u32,
    pub at: Place,
}

impl Names {
    /// Gives `pattern`, a canonical name or one behind `*.`, to `owner`; or says whose it is already.
    pub fn insert(&mut self, pattern: &str, owner: Owner) -> Result<(), Owner> {
        let (names, name) = match pattern.strip_prefix("*.") {
            Some(name) => (&mut self.below, name),
            None => (&mut self.exact, pattern),
        };
        match names.entry(name.into()) {
            Entry::Vacant(entry) => drop(entry.insert(owner)),
            // Said twice by the same provider: by the file that extends it, too.
            Entry::Occupied(entry) if entry.get().provider == owner.provider => {}
            Entry::Occupied(entry) => return Err(*entry.get()),
        }
        Ok(())
    }

    /// The most specific pattern that matches a canonical name: the name itself, else the longest behind `*.`. A look
    /// for each label, however many patterns there are. With the length of what stands behind `*.`.
    pub fn find(&self, name: &str) -> Option<(Owner, Option<usize>)> {
        if let Some(owner) = self.exact.get(name) {
            return Some((*owner, None));
        }
        if self.below.is_empty() {
            return None;
        }
        let mut parents = name.bytes().enumerate().filter(|(_, byte)| *byte == b'.').map(|(dot, _)| &name[dot + 1..]);
        parents.find_map(|parent| self.below.get(parent).map(|owner| (*owner, Some(parent.len()))))
    }

    pub fn len(&self) -> usize {
        self.exact.len() + self.below.len()
    }

    /// Whose each pattern is.
    pub fn owners(&self) -> impl Iterator<Item = u32> {
        self.exact.values().chain(self.below.values()).map(|owner| owner.provider)
    }
}

/// A name in the one spelling under which names are compared: lower case, without the dot of the root.
pub(super) fn canonical(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}

/// Mail exchangers in their canonical spelling, sorted, each once.
pub(super) fn exchangers<'a>(mx: &mut dyn Iterator<Item = &'a str>) -> Vec<Cow<'a, str>> {
    let mut hosts: Vec<_> = mx.map(canonical).filter(|host| !host.is_empty()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}

impl Shaping {
    /// The site of `domain`, whose mail exchangers are `mx` (RFC 5321 §5.1: the domain itself where DNS names none; empty:
    /// it is a site by itself, as address literals are).
    ///
    /// A provider that has the domain's name is it. Else the provider that has every one of the mail exchangers, each by
    /// the most specific pattern that matches it: a domain with one exchanger elsewhere, say a backup, is no provider's.
    /// Else domains with the same set of exchangers are one site, whatever their preferences.
    pub fn site<'a>(&self, domain: &'a str, mx: &mut dyn Iterator<Item = &'a str>) -> Site {
        let domain = canonical(domain);
        let hosts = exchangers(mx);
        let by_domain = self.domains.find(&domain).map(|(owner, _)| owner.provider);
        let provider = by_domain.or_else(|| self.provider_of(&hosts));
        let name = match provider {
            Some(provider) => self.providers[provider as usize].name.clone(),
            None if hosts.is_empty() => bounded(&[domain]),
            None => bounded(&hosts),
        };
        Site { name, provider }
    }

    /// The one provider of all these hosts.
    fn provider_of(&self, hosts: &[Cow<'_, str>]) -> Option<u32> {
        let of = |host: &Cow<'_, str>| self.exchangers.find(host).map(|(owner, _)| owner.provider);
        let first = of(hosts.first()?)?;
        hosts[1..].iter().all(|host| of(host) == Some(first)).then_some(first)
    }
}

/// The name of the site with these hosts, which are sorted.
fn bounded(hosts: &[Cow<'_, str>]) -> Box<str> {
    let all = hosts.join(" ");
    if all.len() <= SITE_NAME_BYTES {
        let dotless = !all.contains(['.', ' ', '[']);
        return if dotless { format!("{all}.").into() } else { all.into() };
    }
    // SHA-256, so that nobody can make two sets one site. 32 digits of it, and a first name of 150 octets at most.
    let hash = digest::digest(&digest::SHA256, all.as_bytes());
    let hash: String = hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let first: String = hosts[0].chars().take(150).map(|c| if c.is_ascii() { c } else { '?' }).collect();
    format!("{first} +{} {hash}", hosts.len() - 1).into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::shaping;
    use super::*;

    fn site(shaping: &Shaping, domain: &str, mx: &[&str]) -> (String, bool) {
        let site = shaping.site(domain, &mut mx.iter().copied());
        assert!(site.name.len() <= SITE_NAME_BYTES);
        (site.name.to_string(), site.provider.is_some())
    }

    #[test]
    fn the_same_mail_exchangers_are_one_site_in_any_order_and_spelling() {
        let none = Shaping::default();
        let one = site(&none, "a.example", &["MX2.example.net.", "mx1.example.net"]);
        assert_eq!(one, ("mx1.example.net mx2.example.net".to_owned(), false));
        assert_eq!(site(&none, "b.example", &["mx1.Example.NET", "mx2.example.net", "mx1.example.net."]), one);
        assert_ne!(site(&none, "c.example", &["mx1.example.net"]), one);
        // Without exchangers a destination is its own site.
        assert_eq!(site(&none, "[192.0.2.1]", &[]).0, "[192.0.2.1]");
        assert_eq!(site(&none, "D.example.", &[]).0, "d.example");
        // What has no dot gets the root's: it is nobody's provider.
        assert_eq!(site(&none, "e.example", &["localhost"]).0, "localhost.");
    }

    #[test]
    fn a_long_set_is_named_by_its_hash() {
        let hosts: Vec<String> = (0..16).map(|n| format!("mx{n:02}.{}.example", "long".repeat(10))).collect();
        let of = |hosts: &[String]| {
            let mut names = hosts.iter().map(String::as_str);
            Shaping::default().site("a.example", &mut names).name.to_string()
        };
        let name = of(&hosts);
        assert!(name.starts_with("mx00.") && name.contains(" +15 ") && name.len() <= SITE_NAME_BYTES, "{name}");
        assert_eq!(of(&hosts.iter().rev().cloned().collect::<Vec<_>>()), name);
        let mut other = hosts.clone();
        other[15] = "mx99.example".to_owned();
        assert_ne!(of(&other), name);
        let endless = vec!["x".repeat(255), "y".repeat(255)];
        assert!(of(&endless).len() <= SITE_NAME_BYTES);
    }

    #[test]
    fn every_mail_exchanger_must_be_the_providers() {
        let shaping = shaping(
            "[[provider]]\nname = \"big\"\nmx = [\"*.big.example\", \"mx.elsewhere.example\"]\ndomains = [\"big.test\"]\n\
             [[provider]]\nname = \"part\"\nmx = [\"*.part.big.example\"]\ndomains = [\"*.part.test\"]\n",
        );
        let big = ("big".to_owned(), true);
        assert_eq!(site(&shaping, "a.example", &["mx1.big.example", "A.B.C.big.example."]), big);
        assert_eq!(site(&shaping, "a.example", &["mx.elsewhere.example"]), big);
        assert!(!site(&shaping, "a.example", &["mx1.big.example", "backup.a.example"]).1);
        // "*." wants a label; a name that only ends so is another.
        assert!(!site(&shaping, "a.example", &["big.example"]).1);
        assert!(!site(&shaping, "a.example", &["mx.verybig.example"]).1);
        assert!(!site(&shaping, "a.example", &["x.mx.elsewhere.example"]).1);
        // The longest pattern has a host, whatever shorter ones match too.
        assert_eq!(site(&shaping, "a.example", &["mx.part.big.example"]).0, "part");
        assert!(!site(&shaping, "a.example", &["mx.part.big.example", "mx.big.example"]).1);
        // A domain's own name says more than its exchangers.
        assert_eq!(site(&shaping, "BIG.test.", &["mx.part.big.example"]), big);
        assert_eq!(site(&shaping, "x.y.part.test", &[]).0, "part");
        assert!(!site(&shaping, "part.test", &["mx.a.example"]).1);
    }

    #[test]
    fn a_site_of_other_rules_is_taken_by_its_name() {
        let old = shaping(
            "[[provider]]\nname = \"a\"\nmx = [\"a.example\"]\n[[provider]]\nname = \"b\"\nmx = [\"b.example\"]\nconnections = 2\n",
        );
        let new = shaping("[[provider]]\nname = \"b\"\nmx = [\"b.example\"]\nconnections = 3\n");
        let site = old.site("x.example", &mut ["b.example"].into_iter());
        assert_eq!((site.provider, old.limits(&site).connections), (Some(1), Some(2)));
        assert_eq!(new.limits(&site).connections, Some(3));
        let gone = old.site("x.example", &mut ["a.example"].into_iter());
        assert_eq!(new.limits(&gone), Default::default());
    }
}
