//! PURE. Which rules give a destination its limits, in words for an operator.

use super::site::{canonical, exchangers};
use super::{Limits, Place, Provider, ReplyRule, Shaping, Site, Written};
use std::fmt::Write as _;

impl Shaping {
    /// What holds for mail to `domain`, whose mail exchangers are `mx`, and why: its site, each limit with the file and line
    /// it comes from and what it takes the place of, and the reply rules in the order in which they are tried.
    pub fn explain(&self, domain: &str, mx: &[&str]) -> String {
        let site = self.site(domain, &mut mx.iter().copied());
        let provider = self.provider(&site);
        let mut text = String::new();
        line(&mut text, "domain", &canonical(domain));
        let hosts = exchangers(&mut mx.iter().copied());
        line(&mut text, "mx", if hosts.is_empty() { "none given" } else { "" });
        for host in &hosts {
            line(&mut text, "", &format!("{host}{}", self.whose(host)));
        }
        line(&mut text, "site", &site.name);
        line(&mut text, "because", &self.because(domain, &site, provider));
        for source in provider.iter().flat_map(|provider| &provider.sources) {
            line(&mut text, "source", source);
        }
        let own = provider.map_or(&[][..], |provider| &provider.written);
        let all: Vec<&Written> = self.default.written.iter().chain(own).collect();
        let (per_source, rest): (Vec<&Written>, Vec<&Written>) =
            all.into_iter().partition(|written| written.key.starts_with(PER_SOURCE));
        self.section(&mut text, "the site as a whole", &rest);
        self.section(&mut text, "each source address at the site", &per_source);
        self.tenants_at(&mut text, &site);
        self.everywhere(&mut text);
        text.push_str("\nreplies, the first rule that matches:\n");
        for (number, rule) in (1..).zip(self.rules_of(&site)) {
            writeln!(text, "  {number}. {}", self.rule(rule)).expect("a String takes everything");
        }
        if self.rules_of(&site).next().is_none() {
            text.push_str("  no rule: a reply means what its code says\n");
        }
        text
    }

    /// A rule with its place and source.
    pub fn rule(&self, rule: &ReplyRule) -> String {
        let source = rule.source.as_deref().map_or(String::new(), |source| format!("\n     {source}"));
        format!("{rule}\n     {}{source}", self.place(rule.at))
    }

    /// Which provider's a mail exchanger is.
    fn whose(&self, host: &str) -> String {
        let Some((owner, below)) = self.exchangers.find(host) else { return "   (no provider's)".to_owned() };
        let pattern = below.map_or(host.to_owned(), |len| format!("*.{}", &host[host.len() - len..]));
        let name = &self.providers[owner.provider as usize].name;
        format!("   (mx \"{pattern}\" of {name}, {})", self.place(owner.at))
    }

    fn because(&self, domain: &str, site: &Site, provider: Option<&Provider>) -> String {
        let domain = canonical(domain);
        match (provider, self.domains.find(&domain)) {
            (Some(provider), Some((owner, below))) => {
                let pattern = below.map_or(domain.to_string(), |len| format!("*.{}", &domain[domain.len() - len..]));
                format!("domains \"{pattern}\" of the provider {}, {}", provider.name, self.place(owner.at))
            }
            (Some(provider), None) => {
                format!("all of its mail exchangers are {}'s, {}", provider.name, self.place(provider.at))
            }
            (None, _) if *site.name == *domain => "no mail exchangers: it is a site by itself".to_owned(),
            (None, _) => {
                "no provider has all of its mail exchangers: domains with the same ones are one site".to_owned()
            }
        }
    }

    /// The keys of a scope: each with its last value, and what that takes the place of.
    fn section(&self, text: &mut String, title: &str, all: &[&Written]) {
        writeln!(text, "\n{title}:").expect("a String takes everything");
        let mut keys: Vec<&str> = Vec::new();
        for written in all {
            if !keys.contains(&&*written.key) {
                keys.push(&written.key);
            }
        }
        for key in &keys {
            let mut values = all.iter().rev().filter(|written| *written.key == **key);
            let Some(now) = values.next() else { continue };
            let name = key.strip_prefix(PER_SOURCE).unwrap_or(key);
            let before: Vec<_> = values.map(|other| format!("{} ({})", other.value, self.place(other.at))).collect();
            let before = if before.is_empty() { String::new() } else { format!(", in place of {}", before.join(", ")) };
            writeln!(text, "  {name:<24} {:<14} {}{before}", now.value, self.place(now.at)).expect("as above");
        }
        if keys.is_empty() {
            text.push_str("  no limits but those of [delivery]\n");
        }
    }

    /// Tenants with limits of their own here.
    fn tenants_at(&self, text: &mut String, site: &Site) {
        let Some(provider) = self.provider_index(site) else { return };
        let mut names: Vec<_> = self.tenants.iter().filter(|(_, tenant)| tenant.at.contains_key(&provider)).collect();
        names.sort_unstable_by_key(|(name, _)| *name);
        if !names.is_empty() {
            text.push_str("\ntenants at the site:\n");
        }
        let most = names.len().min(TENANTS_SHOWN);
        for (name, tenant) in &names[..most] {
            writeln!(text, "  {name:<24} {}", tenant.at[&provider]).expect("a String takes everything");
        }
        if names.len() > most {
            writeln!(text, "  and {} more", names.len() - most).expect("as above");
        }
    }

    /// Tenants and campaigns with limits to all sites together.
    fn everywhere(&self, text: &mut String) {
        let tenants = self.tenants.iter().map(|(name, tenant)| ("tenant", &**name, tenant.limits));
        let campaigns = self.campaigns.iter().map(|(name, campaign)| ("campaign", &**name, campaign.limits));
        let limited = |(_, _, limits): &(&str, &str, Limits)| *limits != Limits::default();
        let mut all: Vec<_> = tenants.chain(campaigns).filter(limited).collect();
        all.sort_unstable_by_key(|(what, name, _)| (std::cmp::Reverse(*what), *name));
        if !all.is_empty() {
            text.push_str("\ntenants and campaigns, at all sites together:\n");
        }
        let most = all.len().min(TENANTS_SHOWN);
        for (what, name, limits) in &all[..most] {
            writeln!(text, "  {:<24} {limits}", format!("{what} {name}")).expect("a String takes everything");
        }
        if all.len() > most {
            writeln!(text, "  and {} more", all.len() - most).expect("as above");
        }
    }
}

/// Before the keys of `per_source`.
const PER_SOURCE: &str = "per_source.";
/// An explanation is for eyes.
const TENANTS_SHOWN: usize = 20;

fn line(text: &mut String, name: &str, value: &str) {
    writeln!(text, "{}", format!("{name:<9} {value}").trim_end()).expect("a String takes everything");
}

impl Place {
    /// The line, from 1.
    pub fn line(self) -> u32 {
        self.line
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const OURS: &str = "[default]\nconnections = 20\nper_source = { connections = 9 }\n\n[[provider]]\nname = \"big\"\n\
                        mx = [\"*.big.example\"]\nsource = \"https://big.example/\"\nconnections = 5\nretry = { first = \"1h\" }\n\
                        [[provider.reply]]\nname = \"slow\"\ncode = \"421\"\naction = \"suspend\"\nwhat = \"site\"\nfor = \"1h\"\n\
                        source = \"https://big.example/421\"\n";
    const MINE: &str = "[[provider]]\nname = \"big\"\ndomains = [\"*.big.test\"]\nconnections = 50\n\
                        [[tenant]]\nname = \"acme\"\nconnections = 3\nat = { big = { message_rate = \"10/s\" } }\n\
                        [[campaign]]\nname = \"spring\"\nmessage_rate = \"5/s\"\n";

    #[test]
    fn everything_is_told_with_its_place() {
        let rules = Shaping::parse(&[("ours.toml", OURS), ("mine.toml", MINE)]).unwrap();
        let told = rules.explain("A.example.", &["MX.big.example."]);
        let expected = "\
domain    a.example
mx
          mx.big.example   (mx \"*.big.example\" of big, ours.toml:7)
site      big
because   all of its mail exchangers are big's, ours.toml:5
source    https://big.example/

the site as a whole:
  connections              50             mine.toml:4, in place of 5 (ours.toml:9), 20 (ours.toml:2)
  retry.first              1h             ours.toml:10

each source address at the site:
  connections              9              ours.toml:3

tenants at the site:
  acme                     message_rate 10/s

tenants and campaigns, at all sites together:
  tenant acme              connections 3
  campaign spring          message_rate 5/s

replies, the first rule that matches:
  1. slow: 421 -> suspend the site for 1h
     ours.toml:11
     https://big.example/421
";
        assert_eq!(told, expected, "{told}");
        assert!(
            rules
                .explain("x.big.test", &[])
                .contains("because   domains \"*.big.test\" of the provider big, mine.toml:3")
        );
        let other = rules.explain("other.example", &["mx.big.example", "mx.other.example"]);
        assert!(other.contains("site      mx.big.example mx.other.example\nbecause   no provider has all"), "{other}");
        assert!(
            other.contains("mx.other.example   (no provider's)") && other.contains("no rule: a reply means"),
            "{other}"
        );
        let none = Shaping::default().explain("a.example", &[]);
        assert!(none.contains("a site by itself") && none.contains("no limits but those of [delivery]"), "{none}");
    }
}
