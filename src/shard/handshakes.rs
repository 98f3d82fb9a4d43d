//! PURE. TLS handshakes of clients under way: how many a shard has, and of which networks.
//!
//! Inputs: handshakes that begin and end. Outputs: whether one more may begin. Lives on its shard, within `home`. Without a
//! share for each network one silent stranger would hold the places of everybody. It refuses to remember networks that have
//! none under way.

use super::gate::network_key;
use crate::limits;
use std::collections::HashMap;
use std::net::IpAddr;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    all: usize,
    /// Of strangers, by [`network_key`].
    of_network: HashMap<u64, usize, foldhash::quality::FixedState>,
}

/// Whose handshake it is: a network that has a share, or one of those that the relay trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Party(Option<u64>);

impl Party {
    pub(super) fn of(client: IpAddr, trusted: bool) -> Party {
        Party((!trusted).then(|| network_key(client)))
    }
}

impl Handshakes {
    /// Whether this client must wait.
    pub(super) fn is_busy(&self, client: IpAddr, trusted: bool) -> bool {
        // With so few there is no need to look whose they are.
        let few = self.all < limits::TLS_HANDSHAKES_OF_NETWORK;
        let of_network = |key| self.of_network.get(&key).copied().unwrap_or(0);
        self.all >= limits::TLS_HANDSHAKES
            || !few
                && Party::of(client, trusted).0.is_some_and(|key| of_network(key) >= limits::TLS_HANDSHAKES_OF_NETWORK)
    }

    pub(super) fn began(&mut self, party: Party) {
        self.all += 1;
        if let Party(Some(key)) = party {
            *self.of_network.entry(key).or_default() += 1;
        }
    }

    pub(super) fn ended(&mut self, party: Party) {
        self.all -= 1;
        if let Party(Some(key)) = party
            && let Some(count) = self.of_network.get_mut(&key)
        {
            *count -= 1;
            if *count == 0 {
                self.of_network.remove(&key);
            }
        }
    }

    /// All of them; networks that have some; the most that one of these has.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn sizes(&self) -> [usize; 3] {
        [self.all, self.of_network.len(), self.of_network.values().copied().max().unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_network_has_its_share_and_a_trusted_one_all_there_are() {
        let mut handshakes = Handshakes::default();
        let (one, same, other) = (ip("2001:db8::1"), ip("2001:db8::ffff:2"), ip("2001:db8:0:1::1"));
        for _ in 0..limits::TLS_HANDSHAKES_OF_NETWORK {
            assert!(!handshakes.is_busy(same, false));
            handshakes.began(Party::of(one, false));
        }
        assert!(handshakes.is_busy(one, false) && handshakes.is_busy(same, false), "a /64 is one client");
        assert!(!handshakes.is_busy(other, false) && !handshakes.is_busy(one, true));
        while handshakes.sizes()[0] < limits::TLS_HANDSHAKES {
            assert!(!handshakes.is_busy(other, true));
            handshakes.began(Party::of(other, true));
        }
        assert!(handshakes.is_busy(other, true) && handshakes.is_busy(ip("192.0.2.1"), false));
        assert_eq!(handshakes.sizes(), [limits::TLS_HANDSHAKES, 1, limits::TLS_HANDSHAKES_OF_NETWORK]);
        handshakes.ended(Party::of(same, false));
        assert!(!handshakes.is_busy(one, false));
        (1..limits::TLS_HANDSHAKES_OF_NETWORK).for_each(|_| handshakes.ended(Party::of(one, false)));
        assert_eq!(handshakes.sizes()[1..], [0, 0], "and nothing is remembered");
    }

    #[test]
    fn a_mapped_address_is_the_one_it_maps() {
        assert_eq!(Party::of(ip("::ffff:192.0.2.1"), false), Party::of(ip("192.0.2.1"), false));
        assert_ne!(Party::of(ip("192.0.2.1"), false), Party::of(ip("192.0.2.2"), false));
    }
}
