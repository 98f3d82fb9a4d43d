//! PURE. What DNS says about a domain's mail, and the order in which its addresses are tried (RFC 5321 §5.1).

use crate::time::Moment;
use std::net::IpAddr;
use std::rc::Rc;

/// The route of one domain. A shard holds it by `Rc` and asks again from [`expires`](Resolution::expires) on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// The shortest life of the records it was made from, within the bounds of `limits.rs`.
    pub expires: Moment,
    /// What DNS said.
    pub verdict: Verdict,
    /// The names of the hosts are secure by DNSSEC, or the operator's.
    pub secure: bool,
    /// The hosts that MX names, or the domain itself, whether their addresses are known or not: who shares them shares a
    /// receiver.
    pub exchangers: Vec<Rc<str>>,
}

/// What DNS says about a domain's mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Mail goes to these hosts, lowest preference first; each has an address at least.
    Hosts(Vec<MailHost>),
    /// The domain takes no mail (RFC 7505): 556 5.1.10.
    NullMx,
    /// There is no such domain, or the text is none: 5.1.2.
    NoSuchDomain,
    /// The domain exists and names no usable host: neither MX nor address, or MX hosts without addresses: 5.4.4.
    NoMailHost,
    /// Nobody could say: 4.4.3, to be asked again after [`Resolution::expires`].
    Temporary {
        /// For the operator: the question, each server and how it failed.
        reason: String,
    },
}

/// A host that takes a domain's mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailHost {
    /// Of its MX record; 0 for the implicit MX and address literals.
    pub preference: u16,
    /// As MX names it (lower case, no final dot), or the domain itself, or the address literal.
    pub name: Rc<str>,
    /// The addresses, those of the family to begin with first; [`Resolution::attempt_order`] mixes them.
    pub addresses: Vec<IpAddr>,
    /// A port of its own, which no record of DNS names.
    pub port: Option<u16>,
    /// The answers with them are secure by DNSSEC.
    pub secure: bool,
    /// What the name is an alias of, in the end.
    pub alias: Option<Rc<str>>,
}

/// One address to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Index into [`Verdict::Hosts`].
    pub host: u16,
    /// One of its addresses.
    pub address: IpAddr,
}

impl Resolution {
    /// Whether it still holds.
    pub fn is_fresh(&self, now: Moment) -> bool {
        now < self.expires
    }

    /// The hosts, none unless mail can be sent.
    pub fn hosts(&self) -> &[MailHost] {
        match &self.verdict {
            Verdict::Hosts(hosts) => hosts,
            _ => &[],
        }
    }

    /// The enhanced status code (RFC 3463, RFC 7505) of a verdict without hosts.
    pub fn status(&self) -> Option<&'static str> {
        match self.verdict {
            Verdict::Hosts(_) => None,
            Verdict::NullMx => Some("5.1.10"),
            Verdict::NoSuchDomain => Some("5.1.2"),
            Verdict::NoMailHost => Some("5.4.4"),
            Verdict::Temporary { .. } => Some("4.4.3"),
        }
    }

    /// Writes every address in the order of trying into `order` (emptied first, its memory reused): by preference, in
    /// random order among equals (RFC 5321 §5.1); within a host beginning at a random address, the families taking
    /// turns, so that a broken one costs one attempt (RFC 8305 §4). A `random` is good for one call; equal values give
    /// equal orders.
    pub fn attempt_order(&self, random: u64, order: &mut Vec<Attempt>) {
        order.clear();
        let hosts = self.hosts();
        let mut random = SplitMix(random);
        let mut permutation = [0u16; crate::limits::DNS_MX_HOSTS];
        let count = hosts.len().min(permutation.len());
        for (at, slot) in permutation[..count].iter_mut().enumerate() {
            *slot = u16::try_from(at).expect("limits.rs bounds the hosts of a domain");
        }
        for equals in permutation[..count]
            .chunk_by_mut(|a, b| preference(hosts, *a) == preference(hosts, *b) || planted!(PreferenceIgnored))
        {
            for i in (1..equals.len()).rev() {
                equals.swap(i, random.below(i + 1));
            }
        }
        for &host in &permutation[..count] {
            let addresses = &hosts[usize::from(host)].addresses;
            let ipv6_first = addresses.first().is_some_and(IpAddr::is_ipv6);
            let mut first = Turn::new(addresses, ipv6_first, &mut random);
            let mut second = Turn::new(addresses, !ipv6_first, &mut random);
            loop {
                let pair = [first.next(), second.next()];
                order.extend(pair.into_iter().flatten().map(|address| Attempt { host, address }));
                if pair == [None, None] {
                    break;
                }
            }
        }
    }
}

fn preference(hosts: &[MailHost], index: u16) -> u16 {
    hosts[usize::from(index)].preference
}

/// The addresses of one family, from a random one on, around.
struct Turn<'a> {
    addresses: &'a [IpAddr],
    ipv6: bool,
    at: usize,
    left: usize,
}

impl<'a> Turn<'a> {
    fn new(addresses: &'a [IpAddr], ipv6: bool, random: &mut SplitMix) -> Self {
        let left = addresses.iter().filter(|a| a.is_ipv6() == ipv6).count();
        let skip = if left > 1 { random.below(left) } else { 0 };
        let at = addresses.iter().enumerate().filter(|(_, a)| a.is_ipv6() == ipv6).nth(skip).map_or(0, |(at, _)| at);
        Turn { addresses, ipv6, at, left }
    }
}

impl Iterator for Turn<'_> {
    type Item = IpAddr;
    fn next(&mut self) -> Option<IpAddr> {
        self.left = self.left.checked_sub(1)?;
        while self.addresses[self.at].is_ipv6() != self.ipv6 {
            self.at = (self.at + 1) % self.addresses.len();
        }
        let address = self.addresses[self.at];
        self.at = (self.at + 1) % self.addresses.len();
        Some(address)
    }
}

/// Spreads load only; nothing secret depends on it.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeSet;

    fn host(preference: u16, name: &str, addresses: &[&str]) -> MailHost {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        MailHost { preference, name: name.into(), addresses, port: None, secure: false, alias: None }
    }

    fn order(resolution: &Resolution, random: u64) -> Vec<(u16, String)> {
        let mut order = vec![Attempt { host: 9, address: "192.0.2.99".parse().unwrap() }];
        resolution.attempt_order(random, &mut order);
        order.iter().map(|a| (a.host, a.address.to_string())).collect()
    }

    #[test]
    fn by_preference_and_random_among_equals() {
        let resolution = Resolution {
            expires: Moment(0),
            exchangers: Vec::new(),
            verdict: Verdict::Hosts(vec![
                host(5, "a", &["192.0.2.1"]),
                host(10, "b", &["192.0.2.2"]),
                host(10, "c", &["192.0.2.3"]),
                host(10, "d", &["192.0.2.4"]),
                host(20, "e", &["192.0.2.5"]),
            ]),
            secure: false,
        };
        let mut seen = BTreeSet::new();
        for random in 0..200 {
            let hosts: Vec<u16> = order(&resolution, random).into_iter().map(|a| a.0).collect();
            assert_eq!((hosts[0], hosts[4], hosts.len()), (0, 4, 5));
            let mut sorted = hosts.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4]);
            seen.insert(hosts);
        }
        assert_eq!(seen.len(), 6, "every order of the three equals");
    }

    #[test]
    fn every_address_once_and_families_take_turns() {
        let resolution = Resolution {
            expires: Moment(0),
            exchangers: Vec::new(),
            verdict: Verdict::Hosts(vec![host(
                0,
                "a",
                &["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2", "192.0.2.3"],
            )]),
            secure: false,
        };
        let mut firsts = BTreeSet::new();
        for random in 0..100 {
            let got = order(&resolution, random);
            let kinds: Vec<bool> = got.iter().map(|a| a.1.contains(':')).collect();
            assert_eq!(kinds, [true, false, true, false, false]);
            assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), 5);
            firsts.insert((got[0].clone(), got[1].clone()));
        }
        assert_eq!(firsts.len(), 6, "each of 2 by each of 3 comes first at times");
    }

    #[test]
    fn nothing_to_try_without_hosts() {
        let resolution =
            Resolution { expires: Moment(0), verdict: Verdict::NullMx, exchangers: Vec::new(), secure: false };
        assert!(order(&resolution, 1).is_empty());
        assert_eq!(resolution.status(), Some("5.1.10"));
    }
}
