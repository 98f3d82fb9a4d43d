//! PURE. Where a message goes: which destination each recipient belongs to, and which shard owns it.
//!
//! **Inputs**: recipient domains as given in the envelope. **Outputs**: names of destinations, the owning shard, groups
//! of recipients that travel together. **Core**: every shard has its own copy of [`Routes`]; the same on all.
//! **Refuses** to resolve names and to judge whether a domain exists: that is the owner's part, with its DNS cache.
//!
//! **The smart host.** With one next hop for everything, one owner would mean one core. Nothing of a smart host's
//! mail is better off on a certain shard: there is no MX answer to share and no per-domain limit to keep. So every
//! shard delivers what it accepted itself (owner = home), over its own share of the connections: all cores that accept
//! also deliver, whether the mail goes to one domain or to thousands, and no message crosses cores. The hash of the
//! recipient domain instead would put a single busy domain on one core. An envelope is one group then, one transaction.
//! The limit of connections is divided to the last one ([`Routes::connections`]); where it does not go round, the shards without a
//! share hand their mail to those that have one. A configuration is not refused for it: the limit is the smart host's
//! wish, the number of shards that of the machine, and neither knows of the other.
//!
//! **Routes** of single domains ([`RouteTable`]) are the owner's matter: the destination is the domain, and the owner looks there
//! before it asks DNS.
//!
//! **Local domains** go to their LMTP server, or into their Maildirs, whatever is done with all others: `local`.

mod hash;
mod hop;
mod lanes;
mod local;
#[cfg(test)]
mod property_tests;
mod table;

pub use hash::{hash, shard_of};
pub use hop::Hop;
pub use lanes::{Heat, Lanes};
pub use local::LocalRoutes;
pub use table::{Hosts, Route, RouteTable};

use crate::limits::DOMAIN_BYTES;
use crate::local::LmtpServer;
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use std::fmt;
use std::str::FromStr;

/// How destinations are chosen; from the configuration, immutable.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Routes {
    /// By the mail exchangers that DNS names for each recipient's domain (RFC 5321 §5.1).
    #[default]
    Mx,
    /// Everything to one host.
    SmartHost(SmartHost),
    /// Some domains are this host's own.
    Local(Box<LocalRoutes>),
}

/// The next hop of all mail (`[delivery] smart_host`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmartHost {
    /// `host:port`, the name of its destination queue. A colon is in no domain, so it is no domain's queue.
    name: Box<str>,
    host_len: usize,
    port: u16,
}

/// Where the mail of one destination goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop<'a> {
    /// To the mail exchangers of this domain (lower case), or to an address literal with its brackets. Empty for the
    /// bare `Postmaster` (RFC 5321 §4.1.1.3), which has none.
    Mx(&'a str),
    /// To the addresses of this host, no MX lookup.
    Host(&'a str, u16),
    /// To a server that delivers into mailboxes.
    Lmtp(&'a LmtpServer),
    /// Into the mailboxes themselves.
    Maildir,
}

impl SmartHost {
    /// The host: a name in lower case, or an address literal with its brackets.
    pub fn host(&self) -> &str {
        &self.name[..self.host_len]
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for SmartHost {
    type Err = &'static str;

    /// Reads `host:port`; an IPv6 address stands in brackets.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or("a smart host is given as \"host:port\"")?;
        let port = port.parse().ok().filter(|p| *p != 0).ok_or("the port of a smart host is 1 to 65535")?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let inside = if bracketed { &host[1..host.len() - 1] } else { host };
        let allowed = inside.bytes().all(|b| plain(b) || (bracketed && b == b':'));
        if inside.is_empty() || host.len() > DOMAIN_BYTES || !allowed {
            return Err("the host of a smart host is a name, an IPv4 address or an IPv6 address in brackets");
        }
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        Ok(SmartHost { name: format!("{host}:{port}").into(), host_len: host.len(), port })
    }
}

impl fmt::Display for SmartHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Routes {
    /// The next hop of a destination queue, by the queue's name.
    pub fn next_hop<'a>(&'a self, destination: &'a str) -> NextHop<'a> {
        match self {
            Routes::Mx => NextHop::Mx(destination),
            Routes::SmartHost(s) => NextHop::Host(s.host(), s.port),
            Routes::Local(local) => local.next_hop(destination),
        }
    }

    /// The shard that owns a destination, of `shards` in all; `home` is the shard that has accepted the message,
    /// `connections` the limit to one destination. It has connections: see [`connections`](Self::connections).
    pub fn owner(&self, destination: &str, home: u16, shards: u16, connections: u32) -> u16 {
        match self {
            Routes::Mx => shard_of(hash(destination.as_bytes()), shards),
            Routes::SmartHost(_) => local::owner(home, shards, connections),
            Routes::Local(local) => local.owner(destination, home, shards, connections),
        }
    }

    /// How many of the `connections` to one destination are `shard`'s, of `shards` in all: to a destination of DNS,
    /// which one shard owns, all of them; to the smart host a part, and all parts together are the limit.
    pub fn connections(&self, shard: u16, shards: u16, connections: u32) -> u32 {
        match self {
            Routes::Mx => connections,
            Routes::SmartHost(_) => local::share(shard, shards, connections),
            Routes::Local(local) => local.others().connections(shard, shards, connections),
        }
    }

    /// The name of the destination queue that mail for `domain` waits in.
    fn destination<'a>(&'a self, domain: &'a Domain) -> &'a str {
        match self {
            Routes::Mx => domain.as_str(),
            Routes::SmartHost(smart_host) => &smart_host.name,
            Routes::Local(local) => local.destination(domain),
        }
    }

    /// Splits an envelope: calls `each` once for every destination, in the order of their first recipients, with the
    /// destination's name and the indices of its recipients in ascending order. `domains` are the recipients' domains
    /// as given, of which the first 65,536 count (limits.rs allows far fewer). By MX, a single recipient, the common
    /// case, touches no memory but the stack; `splitter` keeps its memory for the next envelope.
    pub fn split<'a>(
        &self,
        splitter: &mut Splitter,
        domains: impl IntoIterator<Item = &'a [u8]>,
        mut each: impl FnMut(&str, &[u16]),
    ) {
        let mut domains = domains.into_iter();
        let Some(first) = domains.next() else { return };
        if let Routes::SmartHost(smart_host) = self {
            splitter.indices.clear();
            splitter.indices.extend((0..=u16::MAX).zip(std::iter::once(first).chain(domains)).map(|(index, _)| index));
            return each(&smart_host.name, &splitter.indices);
        }
        let Some(second) = domains.next() else {
            return each(self.destination(&Domain::new(first)), &[0]);
        };
        splitter.collect(self, [first, second].into_iter().chain(domains));
        splitter.for_each_group(each);
    }
}

/// A recipient domain in the form that names its destination: lower case, without the dot of the DNS root, A-labels for
/// U-labels (RFC 5890 §2.3.2.1): both spellings are one destination. Address literals keep their brackets.
#[derive(Clone, Copy)]
pub struct Domain {
    text: [u8; DOMAIN_BYTES],
    len: u8,
}

impl Domain {
    /// Normalises `domain`. What no domain has in an envelope that passed the syntax check (octets above 127 that make no
    /// U-labels, more than [`DOMAIN_BYTES`]) becomes `?` or is cut off, which no DNS name matches.
    pub fn new(domain: &[u8]) -> Domain {
        if domain.is_ascii() { Domain::of_ascii(domain) } else { Domain::of_utf8(domain) }
    }

    /// Of an SMTPUTF8 message (RFC 6531 §3.2); the mapping is that of UTS 46, as user agents apply it.
    #[cold]
    fn of_utf8(domain: &[u8]) -> Domain {
        let labels = Uts46::new().to_ascii(domain, AsciiDenyList::STD3, Hyphens::Allow, DnsLength::VerifyAllowRootDot);
        match labels {
            Ok(labels) => Domain::of_ascii(labels.as_bytes()),
            Err(_) => Domain::of_ascii(domain),
        }
    }

    fn of_ascii(domain: &[u8]) -> Domain {
        let domain = domain.strip_suffix(b".").unwrap_or(domain);
        let len = domain.len().min(DOMAIN_BYTES);
        let mut text = [0; DOMAIN_BYTES];
        for (to, from) in text.iter_mut().zip(domain) {
            *to = if from.is_ascii() { from.to_ascii_lowercase() } else { b'?' };
        }
        Domain { text, len: u8::try_from(len).expect("limits.rs bounds a domain to 255 octets") }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.len as usize]).expect("every octet is ASCII")
    }
}

const _: () = assert!(DOMAIN_BYTES <= u8::MAX as usize, "a domain's length is a u8");

/// Memory for [`Routes::split`], reused from envelope to envelope. Lives on the shard that accepts.
#[derive(Debug, Default)]
pub struct Splitter {
    names: String,
    entries: Vec<Entry>,
    /// Where the entries of each group begin and end, with the group's first recipient.
    groups: Vec<(u16, u32, u32)>,
    indices: Vec<u16>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    start: u32,
    len: u16,
    index: u16,
}

impl Splitter {
    fn collect<'a>(&mut self, routes: &Routes, domains: impl Iterator<Item = &'a [u8]>) {
        self.names.clear();
        self.entries.clear();
        for (index, domain) in (0..=u16::MAX).zip(domains) {
            let domain = Domain::new(domain);
            let name = routes.destination(&domain);
            let hash = hash(name.as_bytes());
            // A run of equal domains, as mailing lists send them, is stored once.
            if let Some(last) = self.entries.last().copied()
                && last.hash == hash
                && self.name(last) == name
            {
                self.entries.push(Entry { index, ..last });
                continue;
            }
            let start = u32::try_from(self.names.len()).expect("65,536 names of 300 octets are below 4 GiB");
            self.names.push_str(name);
            let len = u16::try_from(name.len()).expect("a domain, or a socket's path, and a word before it");
            self.entries.push(Entry { hash, start, len, index });
        }
    }

    fn for_each_group(&mut self, mut each: impl FnMut(&str, &[u16])) {
        // Sorting keeps 1,000 different domains from costing a million comparisons.
        let names = &self.names;
        let name = |e: &Entry| &names[e.start as usize..][..e.len as usize];
        self.entries.sort_unstable_by(|a, b| {
            a.hash.cmp(&b.hash).then_with(|| name(a).cmp(name(b))).then_with(|| a.index.cmp(&b.index))
        });
        self.groups.clear();
        let mut start = 0;
        for group in self.entries.chunk_by(|a, b| a.hash == b.hash && name(a) == name(b)) {
            self.groups.push((group[0].index, start, start + group.len() as u32));
            start += group.len() as u32;
        }
        self.groups.sort_unstable();
        for (_, start, end) in &self.groups {
            let group = &self.entries[*start as usize..*end as usize];
            self.indices.clear();
            self.indices.extend(group.iter().map(|e| e.index));
            each(name(&group[0]), &self.indices);
        }
    }

    fn name(&self, entry: Entry) -> &str {
        &self.names[entry.start as usize..][..entry.len as usize]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeMap;

    /// The destinations of these recipients, and which go to each.
    pub(super) fn groups(routes: &Routes, domains: &[&str]) -> Vec<(String, Vec<u16>)> {
        let mut out = Vec::new();
        routes.split(&mut Splitter::default(), domains.iter().map(|d| d.as_bytes()), |name, indices| {
            out.push((name.to_owned(), indices.to_vec()));
        });
        out
    }

    #[test]
    fn splits_by_domain_in_the_order_of_first_recipients() {
        assert_eq!(groups(&Routes::Mx, &[]), []);
        assert_eq!(groups(&Routes::Mx, &["Example.ORG."]), [("example.org".into(), vec![0])]);
        let mixed = ["b.example", "A.example", "B.EXAMPLE.", "[192.0.2.1]", "a.example", "[IPv6:2001:DB8::1]", ""];
        let expected: [(String, Vec<u16>); 5] = [
            ("b.example".into(), vec![0, 2]),
            ("a.example".into(), vec![1, 4]),
            ("[192.0.2.1]".into(), vec![3]),
            ("[ipv6:2001:db8::1]".into(), vec![5]),
            (String::new(), vec![6]),
        ];
        assert_eq!(groups(&Routes::Mx, &mixed), expected);
    }

    #[test]
    fn splits_a_thousand_recipients_as_a_map_would() {
        let mut seed = 1u64;
        let domains: Vec<String> = (0..1000)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                format!("d{}.example", (seed >> 33) % 300)
            })
            .collect();
        let mut expected: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
        for (index, domain) in (0..).zip(&domains) {
            expected.entry(domain).or_default().push(index);
        }
        let mut expected: Vec<_> = expected.into_iter().map(|(name, v)| (name.to_owned(), v)).collect();
        expected.sort_by_key(|(_, indices)| indices[0]);
        assert_eq!(groups(&Routes::Mx, &domains.iter().map(String::as_str).collect::<Vec<_>>()), expected);
    }

    #[test]
    fn the_splitter_keeps_nothing_from_the_envelope_before() {
        let mut splitter = Splitter::default();
        for domains in [&[&b"a"[..], b"b", b"a"][..], &[b"c", b"d"], &[b"e"]] {
            let mut seen = 0;
            Routes::Mx.split(&mut splitter, domains.iter().copied(), |_, indices| seen += indices.len());
            assert_eq!(seen, domains.len());
        }
    }

    #[test]
    fn everything_goes_to_the_smart_host_from_its_home() {
        let routes = Routes::SmartHost("Relay.Example:2525".parse().unwrap());
        assert_eq!(groups(&routes, &["a.example", "b.example"]), [("relay.example:2525".into(), vec![0, 1])]);
        assert_eq!(groups(&routes, &["a.example"]), [("relay.example:2525".into(), vec![0])]);
        assert_eq!(routes.next_hop("relay.example:2525"), NextHop::Host("relay.example", 2525));
        assert_eq!(routes.owner("relay.example:2525", 5, 8, 20), 5);
        assert_eq!(Routes::Mx.next_hop("a.example"), NextHop::Mx("a.example"));
    }

    #[test]
    fn shards_divide_the_connections_to_a_smart_host_to_the_last_and_who_has_none_owns_nothing() {
        let routes = Routes::SmartHost("relay.example:25".parse().unwrap());
        for shards in 1..=40 {
            for limit in 1..=100 {
                let parts: Vec<u32> = (0..shards).map(|shard| routes.connections(shard, shards, limit)).collect();
                assert_eq!(parts.iter().sum::<u32>(), limit, "{shards} shards");
                assert!(parts.iter().max().unwrap() - parts.iter().min().unwrap() <= 1);
                let mut owned = vec![0; usize::from(shards)];
                for home in 0..shards {
                    let owner = usize::from(routes.owner("relay.example:25", home, shards, limit));
                    owned[owner] += 1;
                    assert!(parts[owner] > 0, "{home} of {shards} with {limit} connections");
                    assert!(owner == usize::from(home) || parts[usize::from(home)] == 0, "what it can it keeps");
                }
                let owners = || owned.iter().filter(|homes| **homes > 0);
                assert!(owners().max().unwrap() - owners().min().unwrap() <= 1, "{owned:?}");
                assert_eq!(owners().count(), usize::from(shards).min(limit as usize));
                let whole = |shard| Routes::Mx.connections(shard, shards, limit);
                assert!((0..shards).all(|shard| whole(shard) == limit), "one owner has them all");
            }
        }
    }

    #[test]
    fn u_labels_and_a_labels_are_one_destination() {
        // RFC 6531 §3.2, RFC 5890 §2.3.2.1.
        for spelled in [
            "gr\u{fc}n.example",
            "GR\u{dc}N.Example.",
            "xn--grn-ioa.example",
            "XN--GRN-ioa.EXAMPLE",
            "gru\u{308}n.example",
        ] {
            assert_eq!(Domain::new(spelled.as_bytes()).as_str(), "xn--grn-ioa.example", "{spelled}");
        }
        assert_eq!(
            groups(&Routes::Mx, &["gr\u{fc}n.x", "a.x", "xn--grn-ioa.x"])[0],
            ("xn--grn-ioa.x".into(), vec![0, 2])
        );
        // What makes no name, and what is no UTF-8, matches none.
        for bad in [&b"a\xff.example"[..], "a\u{fc}_b c.example".as_bytes(), "[\u{fc}]".as_bytes()] {
            assert!(Domain::new(bad).as_str().contains('?'), "{bad:?}");
        }
        let long = "\u{fc}".repeat(70) + ".example";
        assert!(Domain::new(long.as_bytes()).as_str().contains('?'), "a label of more than 63 octets");
    }

    #[test]
    fn reads_smart_hosts() {
        let v6: SmartHost = "[2001:DB8::1]:25".parse().unwrap();
        assert_eq!((v6.host(), v6.port(), v6.to_string().as_str()), ("[2001:db8::1]", 25, "[2001:db8::1]:25"));
        for bad in ["", "host", "host:", ":25", "host:0", "host:65536", "2001:db8::1:25", "a b:25", "[]:25", "[:25"] {
            assert!(bad.parse::<SmartHost>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_single_recipient_needs_no_memory() {
        let mut splitter = Splitter::default();
        Routes::Mx.split(&mut splitter, [&b"Example.ORG"[..]], |name, _| assert_eq!(name, "example.org"));
        assert_eq!((splitter.names.capacity(), splitter.entries.capacity(), splitter.indices.capacity()), (0, 0, 0));
    }

    #[test]
    fn hostile_domains_become_names_that_match_nothing() {
        assert_eq!(Domain::new(b"\xffa\x80.example").as_str(), "?a?.example");
        assert_eq!(Domain::new(&[b'a'; 1000]).as_str().len(), 255);
        assert_eq!(Domain::new(b".").as_str(), "");
    }
}
