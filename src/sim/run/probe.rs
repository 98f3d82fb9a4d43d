//! The last question to a relay that has been through everything: does it still deliver, at once, and to where DNS leads
//! now? What it lost or kept for ever on the way (a slot, a wake-up, an answer) is seen here at the latest.
//!
//! Input: a run at rest. Output: violations. It refuses to begin while mail is queued.

use super::Run;
use crate::sim::client::{Letter, Style};
use crate::sim::hop::Hop;
use crate::sim::scenario::{client_address, v6};
use crate::sim::world::Machine;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// The marks of its letters: above those of all others.
const MARKS: u32 = 1_000_000;
/// A well relay in a well world needs less.
const TIME: Duration = Duration::from_secs(30);

/// Where the mail of the destination `n` goes after the change.
fn moved(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, n as u8, 1)
}

impl Run<'_> {
    /// Every other destination moves to another host, and those that were not there begin to be.
    pub(super) fn change_records(&mut self) {
        for (n, destination) in self.scenario.destinations.iter().enumerate() {
            if !self.moves(n) {
                continue;
            }
            let (name, ip) = (&destination.name, moved(n));
            if destination.implicit {
                self.records.host(name, &[ip], &[v6(ip)]);
            } else {
                let exchanger = format!("moved.{name}");
                self.records.host(&exchanger, &[ip], &[v6(ip)]);
                self.records.domain(name, &[(10, exchanger.as_str())]);
            }
            for ip in [IpAddr::from(ip), IpAddr::from(v6(ip))] {
                self.world.sim.hosts.insert(ip, Machine::Hop(Box::<Hop>::default()));
            }
        }
    }

    fn moves(&self, n: usize) -> bool {
        let destination = &self.scenario.destinations[n];
        !self.scenario.smart_host
            && !self.scenario.is_local(&destination.name)
            && self.scenario.way(&destination.name).is_none()
            && (n.is_multiple_of(2) || destination.exchangers.is_empty())
    }

    /// The hosts that may get the probe of the destination `n`.
    fn targets(&self, n: usize) -> Vec<IpAddr> {
        if self.moves(n) { vec![moved(n).into(), v6(moved(n)).into()] } else { self.still(n) }
    }

    fn still(&self, n: usize) -> Vec<IpAddr> {
        self.scenario.exchangers(&self.scenario.destinations[n].name)
    }

    /// A letter to each destination. The records were changed half an hour ago, and live for five minutes.
    pub(super) fn probe(&mut self) {
        let count = self.scenario.destinations.len();
        let wanted: Vec<usize> = (0..count).filter(|n| !self.targets(*n).is_empty()).collect();
        // In one session: there may be a limit of few.
        let letters = wanted.iter().map(|n| Letter {
            mark: MARKS + *n as u32,
            sender: "s0@sender.test".to_owned(),
            recipients: vec![format!("probe@{}", self.scenario.destinations[*n].name)],
            header: "X-Campaign: s0\r\n".to_owned(),
            body: b"still there?\r\n".to_vec(),
        });
        let letters = letters.collect();
        self.world.sim.with_host(client_address(0, self.scenario.clients), |host, side| {
            if let Machine::Client(client) = host {
                client.begin(letters, Style::default(), side);
            }
        });
        self.pass(TIME);
        for &n in &wanted {
            let mark = MARKS + n as u32;
            let came = |ip: IpAddr, hop: &Hop| hop.received.iter().any(|r| r.mark == Some(mark)).then_some(ip);
            let hosts: Vec<IpAddr> = self.world.hops().filter_map(|(ip, hop)| came(ip, hop)).collect();
            let targets = self.targets(n);
            if hosts.is_empty() || !hosts.iter().all(|ip| targets.contains(ip)) {
                let name = &self.scenario.destinations[n].name;
                self.oracle
                    .violate("probe", format!("mail to {name} went to {hosts:?} in {TIME:?}, not to {targets:?}"));
            }
        }
        // QUIT is answered in no time here.
        self.pass(self.scenario.idle + Duration::from_secs(2));
        for shard in 0..self.world.stats.len() {
            let open = self.world.sim.core.open_sockets(shard);
            if open > 0 {
                self.oracle
                    .violate("idle", format!("shard {shard} has {open} sockets open, {:?} idle", self.scenario.idle));
            }
        }
    }
}
