//! PURE. How much strangers may do: connections at a time, connections and messages a minute, for each client network and for
//! all together.
//!
//! Inputs: clients that come, send and leave, the moment. Outputs: yes, or when to come back. One lives on every shard and
//! counts what comes there, against its share of the configured limit: the kernel spreads the connections of a network
//! over all shards alike. It refuses to count the relay's own networks, and to remember more than [`limits::CLIENT_NETWORKS`].

use crate::config::Clients;
use crate::limits;
use crate::time::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// See the module. Lives on its shard.
#[derive(Debug)]
pub(super) struct Rates {
    limits: Clients,
    shards: u32,
    networks: BTreeMap<IpAddr, Network>,
    /// By the last sign of life, so that the longest quiet one is forgotten.
    order: BTreeSet<(Moment, IpAddr)>,
    all: [Pace; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Network {
    open: u32,
    connections: Pace,
    messages: Pace,
    seen: Moment,
}

/// A generic cell rate: the moment by which all that was admitted would be through at an even pace.
#[derive(Clone, Copy, Debug, Default)]
struct Pace(Moment);

impl Pace {
    /// Takes one of `per_minute`, a minute's worth at once at most; or says how long to wait. 0: no limit.
    fn take(&mut self, per_minute: u32, now: Moment) -> Result<(), Duration> {
        if per_minute == 0 {
            return Ok(());
        }
        let each = MINUTE / per_minute;
        let at = self.0.max(now) + each;
        let ahead = at.since(now);
        if ahead > MINUTE {
            return Err(ahead - MINUTE);
        }
        self.0 = at;
        Ok(())
    }
}

/// Why a client must come back later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Later {
    /// So many connections of its network are open.
    TooManyOpen,
    /// After this time.
    In(Duration),
}

impl Rates {
    pub(super) fn new(limits: &Clients, shards: u16) -> Self {
        Rates {
            limits: limits.clone(),
            shards: shards.max(1).into(),
            networks: BTreeMap::new(),
            order: BTreeSet::new(),
            all: [Pace::default(); 2],
        }
    }

    /// Whether anything is limited at all.
    pub(super) fn is_on(&self) -> bool {
        self.limits
            != Clients {
                ipv4_prefix: self.limits.ipv4_prefix,
                ipv6_prefix: self.limits.ipv6_prefix,
                ..Clients::default()
            }
    }

    /// Whether messages are.
    pub(super) fn counts_messages(&self) -> bool {
        self.limits.messages_per_minute > 0 || self.limits.all_messages_per_minute > 0
    }

    /// A shard's part of a limit; one at least.
    fn share(&self, limit: u32) -> u32 {
        limit.div_ceil(self.shards)
    }

    /// A client connects. If it may, it is counted until [`left`](Self::left).
    pub(super) fn connect(&mut self, peer: IpAddr, now: Moment) -> Result<(), Later> {
        let (open, each, all) = (
            self.share(self.limits.connections),
            self.share(self.limits.connections_per_minute),
            self.share(self.limits.all_connections_per_minute),
        );
        let network = self.network(peer, now);
        if open > 0 && network.open >= open {
            return Err(Later::TooManyOpen);
        }
        network.connections.take(each, now).map_err(Later::In)?;
        network.open += 1;
        if let Err(wait) = self.all[0].take(all, now) {
            self.left(peer);
            return Err(Later::In(wait));
        }
        Ok(())
    }

    /// A client that was counted is gone.
    pub(super) fn left(&mut self, peer: IpAddr) {
        if let Some(network) = self.networks.get_mut(&self.key(peer)) {
            network.open = network.open.saturating_sub(1);
        }
    }

    /// A client begins a message.
    pub(super) fn message(&mut self, peer: IpAddr, now: Moment) -> Result<(), Duration> {
        let (each, all) =
            (self.share(self.limits.messages_per_minute), self.share(self.limits.all_messages_per_minute));
        self.network(peer, now).messages.take(each, now)?;
        self.all[1].take(all, now)
    }

    fn key(&self, peer: IpAddr) -> IpAddr {
        match peer.to_canonical() {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.limits.ipv4_prefix)).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.limits.ipv6_prefix)).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
        }
    }

    /// The network of a client, made if it is not there.
    fn network(&mut self, peer: IpAddr, now: Moment) -> &mut Network {
        let key = self.key(peer);
        match self.networks.get(&key) {
            Some(network) => {
                self.order.remove(&(network.seen, key));
            }
            None if self.networks.len() >= limits::CLIENT_NETWORKS => {
                // One with open connections keeps its place only in their sessions: its count begins again.
                if let Some((_, quiet)) = self.order.pop_first() {
                    self.networks.remove(&quiet);
                }
            }
            None => {}
        }
        self.order.insert((now, key));
        let network = self.networks.entry(key).or_default();
        network.seen = now;
        network
    }

    /// Networks remembered.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn len(&self) -> usize {
        self.networks.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rates(change: impl FnOnce(&mut Clients), shards: u16) -> Rates {
        let mut clients = Clients { ipv4_prefix: 24, ipv6_prefix: 64, ..Clients::default() };
        change(&mut clients);
        Rates::new(&clients, shards)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_has_so_many_connections_at_a_time() {
        let mut rates = rates(|c| c.connections = 2, 1);
        let now = Moment(1);
        assert!(rates.is_on() && !rates.counts_messages());
        assert_eq!(rates.connect(ip("192.0.2.1"), now), Ok(()));
        assert_eq!(rates.connect(ip("192.0.2.200"), now), Ok(()));
        assert_eq!(rates.connect(ip("::ffff:192.0.2.7"), now), Err(Later::TooManyOpen));
        assert_eq!(rates.connect(ip("192.0.3.1"), now), Ok(()), "another network");
        rates.left(ip("192.0.2.1"));
        assert_eq!(rates.connect(ip("192.0.2.9"), now), Ok(()));
    }

    #[test]
    fn in_no_minute_of_a_steady_stream_is_the_rate_passed_twice() {
        let mut rates = rates(|c| c.messages_per_minute = 60, 1);
        let mut now = Moment(1);
        let mut taken = 0;
        let end = now + 10 * MINUTE;
        while now < end {
            match rates.message(ip("2001:db8::1"), now) {
                Ok(()) => taken += 1,
                Err(wait) => {
                    assert!(!wait.is_zero());
                    now = now + wait;
                }
            }
        }
        // A minute's worth at once, then one a second.
        assert!((650..=661).contains(&taken), "{taken}");
    }

    #[test]
    fn shards_share_a_limit_and_all_networks_one_together() {
        let mut rates = rates(|c| (c.connections_per_minute, c.all_connections_per_minute) = (8, 12), 4);
        let now = Moment(1);
        assert_eq!((0..9).filter(|_| rates.connect(ip("192.0.2.1"), now).is_ok()).count(), 2);
        let others = (0..9).filter(|n| rates.connect(ip(&format!("198.51.{n}.1")), now).is_ok()).count();
        assert_eq!(others, 1, "three in all");
    }

    #[test]
    fn memory_is_bounded() {
        let mut rates = rates(|c| c.connections = 1, 1);
        for n in 0..limits::CLIENT_NETWORKS as u32 + 100 {
            let peer = Ipv4Addr::from_bits(n << 8).into();
            assert!(rates.connect(peer, Moment(u64::from(n) + 1)).is_ok());
        }
        assert_eq!((rates.len(), rates.order.len()), (limits::CLIENT_NETWORKS, limits::CLIENT_NETWORKS));
    }
}
