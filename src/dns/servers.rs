//! PURE. The recursive servers of a resolver: which one to ask next, which ones to pass over, who knows EDNS.

use super::settings::{DnsSettings, ServerOrder};
use crate::limits;
use crate::time::Moment;
use std::net::SocketAddr;

/// At most [`limits::DNS_SERVERS`], named by index from 0.
pub(super) struct Servers {
    list: Vec<Server>,
    order: ServerOrder,
}

struct Server {
    address: SocketAddr,
    failures_in_a_row: u32,
    avoid_until: Moment,
    answered_at: Moment,
    /// Asked without EDNS until then.
    plain_until: Moment,
    /// Asked in lower case until then.
    lower_until: Moment,
}

impl Servers {
    pub(super) fn new(settings: &DnsSettings) -> Self {
        let mut list: Vec<Server> = Vec::new();
        for &address in &settings.servers {
            if list.len() < limits::DNS_SERVERS && !list.iter().any(|server| server.address == address) {
                let zero = Moment(0);
                list.push(Server {
                    address,
                    failures_in_a_row: 0,
                    avoid_until: zero,
                    answered_at: zero,
                    plain_until: zero,
                    lower_until: zero,
                });
            }
        }
        Servers { list, order: settings.server_order }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// A bit for each server, by index.
    pub(super) fn all(&self) -> u32 {
        ((1u64 << self.list.len()) - 1) as u32
    }

    pub(super) fn address(&self, index: usize) -> SocketAddr {
        self.list[index].address
    }

    /// Whether to ask without EDNS.
    pub(super) fn is_plain(&self, index: usize, now: Moment) -> bool {
        now < self.list[index].plain_until
    }

    /// Whether it gives questions back in the case they were asked in, as far as is known.
    pub(super) fn keeps_case(&self, index: usize, now: Moment) -> bool {
        now >= self.list[index].lower_until
    }

    /// A server not among `tried`: one that works if there is one, else the one whose time of being passed over ends
    /// first, so that with every server failing they are still asked.
    pub(super) fn choose(&self, tried: u32, now: Moment, random: u64) -> Option<usize> {
        let count = self.list.len();
        let first = match self.order {
            ServerOrder::Listed => 0,
            ServerOrder::Random => ((u128::from(random) * count as u128) >> 64) as usize,
        };
        (0..count).map(|i| (first + i) % count).filter(|i| tried & (1 << i) == 0).min_by_key(|i| {
            let until = self.list[*i].avoid_until;
            if until <= now { Moment(0) } else { until }
        })
    }

    /// It answered a question.
    pub(super) fn answered(&mut self, index: usize, now: Moment) {
        let server = &mut self.list[index];
        (server.failures_in_a_row, server.avoid_until, server.answered_at) = (0, Moment(0), now);
    }

    /// It failed a question sent at `sent`, in a way that speaks against it.
    pub(super) fn failed(&mut self, index: usize, sent: Moment, now: Moment) {
        let server = &mut self.list[index];
        // Had it answered others meanwhile, the fault is the question's: a dead zone behind a server that lives. And
        // many questions lost in one outage are one failure.
        if server.answered_at >= sent || server.avoid_until > now {
            return;
        }
        let avoid = limits::DNS_AVOID_MIN * 2u32.pow(server.failures_in_a_row.min(10));
        server.failures_in_a_row = server.failures_in_a_row.saturating_add(1);
        server.avoid_until = now + avoid.min(limits::DNS_AVOID_MAX);
    }

    /// It does not give a question back in the case it was asked in.
    pub(super) fn lost_case(&mut self, index: usize, now: Moment) {
        self.list[index].lower_until = now + limits::DNS_LOWER_CASE_TIME;
    }

    /// It does not know EDNS (RFC 6891 §7).
    pub(super) fn rejected_edns(&mut self, index: usize, now: Moment) {
        self.list[index].plain_until = now + limits::DNS_PLAIN_TIME;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    fn servers(order: ServerOrder) -> Servers {
        let addresses = ["192.0.2.1:53", "192.0.2.2:53", "192.0.2.1:53", "192.0.2.3:53"];
        Servers::new(&DnsSettings {
            servers: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            server_order: order,
            ..DnsSettings::default()
        })
    }

    fn at(seconds: u64) -> Moment {
        Moment(0) + Duration::from_secs(seconds)
    }

    #[test]
    fn each_once_and_in_order() {
        let servers = servers(ServerOrder::Listed);
        assert_eq!(servers.all(), 0b111, "the one listed twice counts once");
        assert_eq!(servers.choose(0, at(1), u64::MAX), Some(0));
        assert_eq!(servers.choose(0b001, at(1), 0), Some(1));
        assert_eq!(servers.choose(0b111, at(1), 0), None);
    }

    #[test]
    fn failures_move_a_server_back_for_a_while() {
        let mut servers = servers(ServerOrder::Listed);
        servers.failed(0, at(10), at(15));
        assert_eq!(servers.choose(0, at(16), 0), Some(1));
        assert_eq!(servers.choose(0, at(17), 0), Some(0), "2 s the first time");
        servers.failed(0, at(17), at(20));
        servers.failed(0, at(17), at(20));
        assert_eq!(servers.choose(0, at(23), 0), Some(1));
        assert_eq!(servers.choose(0, at(24), 0), Some(0), "4 s then: lost together is one failure");
        servers.failed(0, at(24), at(30));
        servers.failed(1, at(24), at(31));
        servers.failed(2, at(24), at(31));
        assert_eq!(servers.choose(0, at(32), 0), Some(1), "all fail: the one soonest back");
        servers.answered(0, at(32));
        assert_eq!(servers.choose(0, at(32), 0), Some(0));
    }

    #[test]
    fn a_dead_zone_is_not_the_server_s_fault() {
        let mut servers = servers(ServerOrder::Listed);
        servers.answered(0, at(12));
        servers.failed(0, at(10), at(15));
        assert_eq!(servers.choose(0, at(15), 0), Some(0));
        servers.failed(0, at(13), at(18));
        assert_eq!(servers.choose(0, at(18), 0), Some(1));
    }

    #[test]
    fn random_order_begins_anywhere() {
        let servers = servers(ServerOrder::Random);
        let firsts = [0, u64::MAX / 2, u64::MAX].map(|random| servers.choose(0, at(1), random));
        assert_eq!(firsts, [Some(0), Some(1), Some(2)]);
    }
}
