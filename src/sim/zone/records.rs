//! PURE. What DNS truly says of the names of a world, and what of that was ever said: one book for all its servers.
//!
//! Inputs: records as the world sets and changes them, questions. Outputs: true answers, and from the account of those
//! given what a relay may have learnt: to which addresses a domain's mail may go, and why it may be refused. Refuses to
//! forget: what was true once may stand in a cache.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

/// The mail exchanger that forged answers name.
pub const EVIL_HOST: &str = "mx.evil.test";
/// Where forged answers lead, by IPv4. What connects to it believed one.
pub const EVIL_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
/// The same by IPv6.
pub const EVIL_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0x66);

/// Whether only a forged or truncated answer leads to `address`.
pub fn is_evil(address: IpAddr) -> bool {
    address == IpAddr::V4(EVIL_V4) || address == IpAddr::V6(EVIL_V6)
}

/// First label of the exchangers that a server in the mood for many invents.
const MANY: &str = "many";
/// Aliases followed for one answer: more than a resolver follows.
const CHAIN: usize = 16;

/// What is asked about a name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Its mail exchangers.
    Mx,
    /// Its IPv4 addresses.
    A,
    /// Its IPv6 addresses.
    Aaaa,
}

/// What a name has. One that is not in the book does not exist.
#[derive(Clone, Default, Debug)]
struct Entry {
    alias: Option<String>,
    mx: Vec<(u16, String)>,
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

/// The end of a chain of aliases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// Preference and exchanger; an empty one is the root (RFC 7505).
    Mx(Vec<(u16, String)>),
    V4(Vec<Ipv4Addr>),
    V6(Vec<Ipv6Addr>),
    NoData,
    NoSuchName,
    /// More aliases than one answer holds.
    Endless,
}

/// The truth about one question.
#[derive(Clone, Debug)]
pub(super) struct Truth {
    /// Aliases on the way: owner and target.
    pub aliases: Vec<(String, String)>,
    /// The last name of the chain.
    pub owner: String,
    pub found: Found,
}

/// See the module. Clones are the same book.
#[derive(Clone)]
pub struct Records(Rc<RefCell<Book>>);

struct Book {
    names: BTreeMap<String, Entry>,
    ttl: u32,
    told: Told,
}

/// Everything that a true answer ever said.
#[derive(Default)]
struct Told {
    aliases: BTreeMap<String, BTreeSet<String>>,
    exchangers: BTreeMap<String, BTreeSet<String>>,
    addresses: BTreeMap<String, BTreeSet<IpAddr>>,
    /// A null MX and no other.
    null: BTreeSet<String>,
    no_data: BTreeSet<(String, Kind)>,
    no_name: BTreeSet<String>,
}

impl Default for Records {
    fn default() -> Self {
        Self::new()
    }
}

impl Records {
    /// A book that knows [`EVIL_HOST`] only.
    pub fn new() -> Self {
        let book = Book { names: BTreeMap::new(), ttl: 300, told: Told::default() };
        let records = Records(Rc::new(RefCell::new(book)));
        records.host(EVIL_HOST, &[EVIL_V4], &[EVIL_V6]);
        records
    }

    fn set(&self, name: &str, change: impl FnOnce(&mut Entry)) {
        change(self.0.borrow_mut().names.entry(canonical(name)).or_default());
    }

    /// The domain's mail exchangers with their preferences, instead of what it had. None: its own addresses, if it has
    /// any, are its implicit MX (RFC 5321 §5.1).
    pub fn domain(&self, name: &str, exchangers: &[(u16, &str)]) {
        self.set(name, |entry| {
            (entry.alias, entry.mx) = (None, exchangers.iter().map(|(p, host)| (*p, canonical(host))).collect());
        });
    }

    /// The domain takes no mail (RFC 7505).
    pub fn null_mx(&self, name: &str) {
        self.domain(name, &[(0, "")]);
    }

    /// The host's addresses, instead of those it had; the name exists without any, too.
    pub fn host(&self, name: &str, v4: &[Ipv4Addr], v6: &[Ipv6Addr]) {
        self.set(name, |entry| (entry.alias, entry.v4, entry.v6) = (None, v4.to_vec(), v6.to_vec()));
    }

    /// `name` is an alias of `target` (CNAME), and nothing else.
    pub fn alias(&self, name: &str, target: &str) {
        self.set(name, |entry| *entry = Entry { alias: Some(canonical(target)), ..Entry::default() });
    }

    /// There is no such name any more.
    pub fn remove(&self, name: &str) {
        self.0.borrow_mut().names.remove(&canonical(name));
    }

    /// Seconds that every record lives, "there is none" too.
    pub fn ttl(&self, seconds: u32) {
        self.0.borrow_mut().ttl = seconds;
    }

    pub(super) fn seconds(&self) -> u32 {
        self.0.borrow().ttl
    }

    /// Every address that true answers ever gave for the mail of `domain`: its exchangers' ones, its own only if it
    /// was once said to have no MX.
    pub fn legitimate(&self, domain: &str) -> BTreeSet<IpAddr> {
        let told = &self.0.borrow().told;
        let mut found = BTreeSet::new();
        for host in told.hosts(&canonical(domain)) {
            found.extend(told.addresses_of(&host));
        }
        found
    }

    /// Every address that true answers ever gave for the name itself: for a smart host.
    pub fn addresses(&self, host: &str) -> BTreeSet<IpAddr> {
        self.0.borrow().told.addresses_of(&canonical(host))
    }

    /// The enhanced status codes with which mail for `domain` may be refused for good, because true answers once gave
    /// the reason: 5.1.2 (no such domain), 5.1.10 (null MX), 5.4.4 (no host with an address).
    pub fn refusals(&self, domain: &str) -> BTreeSet<&'static str> {
        let told = &self.0.borrow().told;
        let domain = canonical(domain);
        let names = told.reach(&domain);
        let mut found = BTreeSet::new();
        if names.iter().any(|name| told.no_name.contains(name)) {
            found.insert("5.1.2");
        }
        if names.iter().any(|name| told.null.contains(name)) {
            found.insert("5.1.10");
        }
        let lacks = |name: &String| told.no_name.contains(name) || told.no_data.contains(&(name.clone(), Kind::A));
        let unusable = |host: &String| host.is_empty() || crate::dns::canonical(host).is_err();
        if told.hosts(&domain).iter().any(|host| unusable(host) || told.reach(host).iter().any(lacks)) {
            found.insert("5.4.4");
        }
        found
    }

    /// The truth, without a note that it was told.
    pub(super) fn look_up(&self, name: &str, kind: Kind) -> Truth {
        self.0.borrow().look_up(name, kind)
    }

    /// The truth, to be told. `many`: with exchangers of one's own behind those of the domain, up to so many, and
    /// addresses repeated.
    pub(super) fn tell(&self, name: &str, kind: Kind, many: Option<u16>) -> Truth {
        let book = &mut *self.0.borrow_mut();
        let mut truth = book.look_up(name, kind);
        if let Some(many) = many {
            truth.multiply(usize::from(many));
        }
        book.told.note(&truth, kind);
        truth
    }

    /// The first alias of `truth` alone is told.
    pub(super) fn tell_alias(&self, owner: &str, target: &str) {
        self.0.borrow_mut().told.note_alias(owner, target);
    }
}

impl Book {
    fn entry(&self, name: &str) -> Option<Entry> {
        if let Some(entry) = self.names.get(name) {
            return Some(entry.clone());
        }
        let (label, domain) = name.split_once('.')?;
        if let Some(target) = next_in_loop(name) {
            return Some(Entry { alias: Some(target), ..Entry::default() });
        }
        // An exchanger invented for a domain has the addresses of its first real one.
        let number = label.strip_prefix(MANY)?;
        number.parse::<u16>().ok()?;
        let (_, host) = self.names.get(domain)?.mx.first()?;
        self.names.get(host).cloned()
    }

    fn look_up(&self, name: &str, kind: Kind) -> Truth {
        let mut truth = Truth { aliases: Vec::new(), owner: canonical(name), found: Found::Endless };
        while truth.aliases.len() <= CHAIN {
            let Some(entry) = self.entry(&truth.owner) else {
                truth.found = Found::NoSuchName;
                break;
            };
            if let Some(target) = entry.alias {
                truth.aliases.push((std::mem::replace(&mut truth.owner, target.clone()), target));
                continue;
            }
            truth.found = match kind {
                Kind::Mx if !entry.mx.is_empty() => Found::Mx(entry.mx),
                Kind::A if !entry.v4.is_empty() => Found::V4(entry.v4),
                Kind::Aaaa if !entry.v6.is_empty() => Found::V6(entry.v6),
                _ => Found::NoData,
            };
            break;
        }
        truth
    }
}

impl Truth {
    fn multiply(&mut self, many: usize) {
        match &mut self.found {
            Found::Mx(list) if list.iter().all(|(_, host)| !host.is_empty()) => {
                let last = list.iter().map(|(preference, _)| *preference).max().unwrap_or(0);
                for number in list.len()..many {
                    list.push((last, format!("{MANY}{number}.{}", self.owner)));
                }
            }
            Found::V4(list) => *list = list.iter().copied().cycle().take(many).collect(),
            Found::V6(list) => *list = list.iter().copied().cycle().take(many).collect(),
            _ => {}
        }
    }
}

impl Told {
    fn note_alias(&mut self, owner: &str, target: &str) {
        self.aliases.entry(owner.to_owned()).or_default().insert(target.to_owned());
    }

    fn note(&mut self, truth: &Truth, kind: Kind) {
        for (owner, target) in &truth.aliases {
            self.note_alias(owner, target);
        }
        let owner = truth.owner.clone();
        match &truth.found {
            Found::Mx(list) if list.iter().all(|(_, host)| host.is_empty()) => _ = self.null.insert(owner),
            Found::Mx(list) => {
                self.exchangers.entry(owner).or_default().extend(list.iter().map(|(_, host)| host.clone()));
            }
            Found::V4(list) => self.addresses.entry(owner).or_default().extend(list.iter().map(|v4| IpAddr::V4(*v4))),
            Found::V6(list) => self.addresses.entry(owner).or_default().extend(list.iter().map(|v6| IpAddr::V6(*v6))),
            Found::NoData => _ = self.no_data.insert((owner, kind)),
            Found::NoSuchName => _ = self.no_name.insert(owner),
            Found::Endless => {}
        }
    }

    /// The name and all that it was ever said to be an alias of.
    fn reach(&self, name: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::from([name.to_owned()]);
        let mut open = vec![name.to_owned()];
        while let Some(name) = open.pop() {
            for target in self.aliases.get(&name).into_iter().flatten() {
                if found.insert(target.clone()) {
                    open.push(target.clone());
                }
            }
        }
        found
    }

    /// The hosts that take the mail of `domain`.
    fn hosts(&self, domain: &str) -> BTreeSet<String> {
        let names = self.reach(domain);
        let mut hosts: BTreeSet<String> =
            names.iter().filter_map(|name| self.exchangers.get(name)).flatten().cloned().collect();
        if names.iter().any(|name| self.no_data.contains(&(name.clone(), Kind::Mx))) {
            hosts.insert(domain.to_owned());
        }
        hosts
    }

    fn addresses_of(&self, host: &str) -> BTreeSet<IpAddr> {
        self.reach(host).iter().filter_map(|name| self.addresses.get(name)).flatten().copied().collect()
    }
}

/// Where an alias goes that a server invented which is in the mood for loops: from `loop1.NAME` to `loop2.NAME`. The
/// others know these names too, or an alias that is a lie would end with a true "no such name".
pub(super) fn next_in_loop(name: &str) -> Option<String> {
    let (label, base) = name.split_once('.')?;
    let number: u64 = label.strip_prefix("loop")?.parse().ok()?;
    Some(format!("loop{}.{base}", number.saturating_add(1)))
}

/// Lower case, no final dot. Any other octets stay: a world may name an exchanger that is no host name.
pub(super) fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
