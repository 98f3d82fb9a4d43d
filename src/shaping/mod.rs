//! PURE. What a receiver takes: the limits that mail to a site keeps to, and what its replies mean.
//!
//! A *site* is what its receiver counts as one: the destinations whose mail exchangers are the same, or that rules say are
//! one provider's.
//!
//! **Inputs**: the texts of rule files (`docs/shaping.md`), read by somebody else; then domains with their mail exchangers,
//! names of tenants and campaigns, replies. **Outputs**: a [`Shaping`], which never changes and is shared by all cores; the
//! [`Site`] of a destination, [`Limits`], the [`ReplyRule`] for a reply. **Refuses** to count, and to act: that is `queue`'s
//! and `deliver`'s; and a file with anything wrong in it, all of it.

mod explain;
mod limits;
#[cfg(test)]
mod maintained_tests;
mod parse;
mod rate;
mod reply;
mod schedule;
mod site;
#[cfg(test)]
mod tests;
mod verdict;

pub use limits::Limits;
pub use rate::{Pace, Rate};
pub use reply::{Action, Limit, Lowering, ReplyRule, Rests};
pub use schedule::Schedule;
pub use site::Site;
pub use verdict::Fate;

use crate::limits::TENANT_WEIGHT_DEFAULT;
use foldhash::quality::FixedState;
use std::collections::HashMap;
use std::sync::Arc;

/// All rules. Immutable; shared by `Arc` between all shards, and replaced as a whole. [`Shaping::default`] has none: then
/// each set of mail exchangers is a site without limits, and replies mean what their codes say.
#[derive(Debug, Default)]
pub struct Shaping {
    providers: Vec<Provider>,
    /// Their places in `providers`.
    by_name: HashMap<Box<str>, u32, FixedState>,
    domains: site::Names,
    exchangers: site::Names,
    default: Defaults,
    /// For every site, after a provider's own.
    rules: Vec<Arc<ReplyRule>>,
    tenants: HashMap<Box<str>, Tenant, FixedState>,
    /// Some of them have schedules.
    tenants_scheduled: bool,
    campaigns: HashMap<Box<str>, Campaign, FixedState>,
    files: Vec<Box<str>>,
}

/// `[default]`
#[derive(Debug, Default)]
struct Defaults {
    limits: Limits,
    per_source: Limits,
    written: Vec<Written>,
}

/// `[[provider]]`
#[derive(Debug, Default)]
struct Provider {
    name: Box<str>,
    /// With what `[default]` says of limits that it does not name.
    limits: Limits,
    per_source: Limits,
    rules: Vec<Arc<ReplyRule>>,
    schedule: Schedule,
    tls: Option<TlsLevel>,
    ip: Option<IpFamilies>,
    sources: Vec<Box<str>>,
    written: Vec<Written>,
    /// Where it first stands.
    at: Place,
}

/// `[[tenant]]`
#[derive(Debug, Default)]
struct Tenant {
    weight: Option<u32>,
    limits: Limits,
    /// By provider.
    at: HashMap<u32, Limits, FixedState>,
    schedule: Schedule,
    written: Vec<Written>,
}

/// `[[campaign]]`
#[derive(Debug, Default)]
struct Campaign {
    limits: Limits,
    written: Vec<Written>,
}

/// A key of a file, kept to be explained. Later ones of the same key take the place of earlier ones.
#[derive(Clone, Debug)]
struct Written {
    key: Box<str>,
    value: Box<str>,
    at: Place,
}

/// Where something stands in the files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Place {
    file: u16,
    /// From 1.
    line: u32,
}

/// How much a connection's encryption matters (`tls`), where DANE and MTA-STS ask for no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsLevel {
    /// "off": STARTTLS is not used.
    Off,
    /// "opportunistic": STARTTLS where it is offered, with any certificate.
    Opportunistic,
    /// "require": nothing is sent without TLS, with any certificate.
    Require,
    /// "verify": nothing is sent without TLS, and a certificate that proves the mail exchanger's name.
    Verify,
}

/// Which addresses are connected to (`ip`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IpFamilies {
    /// "prefer-ipv4"
    PreferV4,
    /// "prefer-ipv6"
    PreferV6,
    /// "ipv4"
    V4Only,
    /// "ipv6"
    V6Only,
}

impl IpFamilies {
    /// Puts addresses in the order in which they are tried, and leaves out those that are not. `host`: whose one is, since
    /// hosts keep their order; `is_v4`: of which family.
    pub fn arrange<T, H: PartialEq>(self, order: &mut Vec<T>, host: impl Fn(&T) -> H, is_v4: impl Fn(&T) -> bool) {
        let v4_first = match self {
            IpFamilies::V4Only => return order.retain(is_v4),
            IpFamilies::V6Only => return order.retain(|address| !is_v4(address)),
            IpFamilies::PreferV4 => true,
            IpFamilies::PreferV6 => false,
        };
        for addresses in order.chunk_by_mut(|a, b| host(a) == host(b)) {
            addresses.sort_by_key(|address| is_v4(address) != v4_first);
        }
    }
}

/// The name of the block that stands for all that have none of their own.
const ANY: &str = "*";

impl Shaping {
    fn provider(&self, site: &Site) -> Option<&Provider> {
        self.provider_index(site).map(|index| &self.providers[index as usize])
    }

    fn provider_index(&self, site: &Site) -> Option<u32> {
        let named = |index: &u32| self.providers.get(*index as usize).is_some_and(|p| p.name == site.name);
        // A site that other rules have named: its provider's place may have changed, its name has not.
        site.provider
            .filter(named)
            .or_else(|| self.by_name.get(&*site.name).copied().filter(|_| site.provider.is_some()))
    }

    /// The limits of all mail to a site: its provider's, and of those that it does not name `[default]`'s.
    pub fn limits(&self, site: &Site) -> Limits {
        self.provider(site).map_or(self.default.limits, |provider| provider.limits)
    }

    /// The limits of mail to a site from one source address, beside those of the site.
    pub fn source_limits(&self, site: &Site) -> Limits {
        self.provider(site).map_or(self.default.per_source, |provider| provider.per_source)
    }

    /// The limits of a source address at each provider whose are other than `[default]`'s, by name, and then those of all other
    /// sites, which have no name here.
    pub fn source_limits_of_all(&self) -> impl Iterator<Item = (Option<&str>, Limits)> {
        let others = self.default.per_source;
        let own = self.providers.iter().filter(move |provider| provider.per_source != others);
        own.map(|provider| (Some(&*provider.name), provider.per_source)).chain([(None, others)])
    }

    fn tenant(&self, name: &str) -> Option<&Tenant> {
        self.tenants.get(name).or_else(|| self.tenants.get(ANY))
    }

    /// The limits of a tenant's mail to all sites together. The block named `*` counts for each tenant without its own.
    pub fn tenant_limits(&self, tenant: &str) -> Limits {
        self.tenant(tenant).map_or(Limits::default(), |tenant| tenant.limits)
    }

    /// The limits of a tenant's mail to one site.
    pub fn tenant_site_limits(&self, tenant: &str, site: &Site) -> Limits {
        let Some(tenant) = self.tenant(tenant).filter(|tenant| !tenant.at.is_empty()) else { return Limits::default() };
        let at = self.provider_index(site).and_then(|provider| tenant.at.get(&provider));
        at.copied().unwrap_or_default()
    }

    /// Whether any campaign has rules.
    pub fn has_campaigns(&self) -> bool {
        !self.campaigns.is_empty()
    }

    /// Whether anything is limited that each message is counted for, beside its site's connections and rates.
    pub fn limits_flows(&self) -> bool {
        let any = |limits: &Limits| *limits != Limits::default();
        let octets = |limits: &Limits| limits.bytes_in_flight.is_some();
        let lowers_octets =
            |rule: &Arc<ReplyRule>| matches!(rule.action, Action::Lower { by, .. } if by.of_octets().is_some());
        self.tenants.values().any(|tenant| any(&tenant.limits) || tenant.at.values().any(any))
            || self.campaigns.values().any(|campaign| any(&campaign.limits))
            || octets(&self.default.limits)
            || self
                .providers
                .iter()
                .any(|provider| octets(&provider.limits) || provider.rules.iter().any(lowers_octets))
            || self.rules.iter().any(lowers_octets)
    }

    /// How much of what is scarce a tenant gets, beside others': 1 to 1000.
    pub fn tenant_weight(&self, tenant: &str) -> u32 {
        self.tenant(tenant).and_then(|tenant| tenant.weight).unwrap_or(TENANT_WEIGHT_DEFAULT)
    }

    /// The limits of a campaign's mail to all sites together. The block named `*` counts for each without its own.
    pub fn campaign_limits(&self, campaign: &str) -> Limits {
        let own = self.campaigns.get(campaign).or_else(|| self.campaigns.get(ANY));
        own.map_or(Limits::default(), |campaign| campaign.limits)
    }

    /// When mail to a site is tried again, as far as rules say it of the site.
    pub fn site_schedule(&self, site: &Site) -> Schedule {
        self.provider(site).map_or(Schedule::default(), |provider| provider.schedule)
    }

    /// Whether they say it of any tenant.
    pub fn has_tenant_schedules(&self) -> bool {
        self.tenants_scheduled
    }

    /// The same of a tenant.
    pub fn tenant_schedule(&self, tenant: &str) -> Schedule {
        self.tenant(tenant).map_or(Schedule::default(), |tenant| tenant.schedule)
    }

    /// Whether any provider's mail is to be encrypted by a rule.
    pub fn wants_tls(&self) -> bool {
        self.providers.iter().any(|provider| provider.tls.is_some_and(|level| level != TlsLevel::Off))
    }

    /// How mail to a site is encrypted, if a rule says it.
    pub fn tls(&self, site: &Site) -> Option<TlsLevel> {
        self.provider(site)?.tls
    }

    /// Which addresses of a site are connected to, if a rule says it.
    pub fn ip_families(&self, site: &Site) -> Option<IpFamilies> {
        self.provider(site)?.ip
    }

    /// The first rule that matches a reply of a site: of its provider's, then of those for every site. `text` is the reply's
    /// behind the code, its lines joined by a line feed, the enhanced code in it or not. Only 4yz and 5yz match any.
    pub fn judge(
        &self,
        site: &Site,
        code: u16,
        enhanced: Option<(u8, u16, u16)>,
        text: &str,
    ) -> Option<&Arc<ReplyRule>> {
        self.rules_of(site).find(|rule| rule.pattern.matches(code, enhanced, text))
    }

    /// The rules for a site's replies, in the order in which they are tried.
    pub fn rules_of(&self, site: &Site) -> impl Iterator<Item = &Arc<ReplyRule>> {
        let own = self.provider(site).map_or(&[][..], |provider| &provider.rules);
        own.iter().chain(&self.rules)
    }

    /// `file:line`.
    pub fn place(&self, at: Place) -> String {
        let file = self.files.get(usize::from(at.file)).map_or("", |file| file);
        format!("{file}:{}", at.line)
    }

    /// Whether there is any rule.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// How many providers, reply rules, tenants and campaigns there are, in words.
    pub fn summary(&self) -> String {
        let rules = self.rules.len() + self.providers.iter().map(|provider| provider.rules.len()).sum::<usize>();
        let (providers, tenants) = (self.providers.len(), self.tenants.len());
        format!("{providers} providers, {rules} reply rules, {tenants} tenants, {} campaigns", self.campaigns.len())
    }
}
