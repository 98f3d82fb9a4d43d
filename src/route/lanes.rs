//! PURE. Domains too hot for one core: who finds out, and who keeps their mail.
//!
//! A domain's mail goes to its owner, for the sake of one MX cache and few connections. Where one domain is most of the mail
//! that would be one core's work. So the owner counts what it sends of the mail of others ([`Heat`]), and tells them when that is
//! much; they keep that domain's mail for a while ([`Lanes`]) and are lanes of its site, each with a part of its limits (`lease`).
//! What only waits there, because its receiver takes no more, is no work, and is better off in one queue, whose turns are exact.

use super::hash;
use crate::limits;
use crate::time::Moment;
use std::collections::HashMap;

/// What is sent of the mail of other shards, by domain. Lives on the shard that owns the domains.
#[derive(Debug)]
pub struct Heat {
    /// In a window.
    most: u32,
    counters: Box<[u32; limits::LANE_COUNTERS]>,
    window_ends: Moment,
}

impl Heat {
    /// A domain is hot above `rate` messages in a second.
    pub fn new(rate: u32) -> Self {
        let windows = (1000 / limits::LANE_WINDOW.as_millis()) as u32;
        Heat { most: rate.div_ceil(windows), counters: Box::new([0; limits::LANE_COUNTERS]), window_ends: Moment(0) }
    }

    /// Counts a message that is sent to `domain`. True: it is to have lanes, from now on for [`limits::LANE_TIME`]. That is said once a
    /// window.
    pub fn count(&mut self, domain: &str, now: Moment) -> bool {
        if now >= self.window_ends {
            self.counters.fill(0);
            self.window_ends = now + limits::LANE_WINDOW;
        }
        let place = hash(domain.as_bytes()) as usize % limits::LANE_COUNTERS;
        let counter = &mut self.counters[place];
        *counter = counter.saturating_add(1);
        *counter == self.most
    }
}

/// Domains whose mail stays on the shard that accepts it. Lives on that shard.
#[derive(Debug, Default)]
pub struct Lanes {
    until: HashMap<Box<str>, Moment, foldhash::quality::FixedState>,
}

impl Lanes {
    /// The owner of `domain` has said so.
    pub fn add(&mut self, domain: &str, now: Moment) {
        if self.until.len() >= limits::LANE_DOMAINS {
            self.until.retain(|_, until| *until > now);
        }
        if self.until.len() < limits::LANE_DOMAINS {
            self.until.insert(domain.into(), now + limits::LANE_TIME);
        }
    }

    /// Whether the mail for a destination stays here.
    pub fn keeps(&mut self, destination: &str, now: Moment) -> bool {
        // No lane is the common case.
        if self.until.is_empty() {
            return false;
        }
        match self.until.get(destination) {
            Some(until) if *until > now => true,
            Some(_) => {
                self.until.remove(destination);
                false
            }
            None => false,
        }
    }

    /// How many are remembered.
    #[cfg(any(test, feature = "sim"))]
    pub fn remembered(&self) -> usize {
        self.until.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment(millis * 1_000_000)
    }

    #[test]
    fn a_domain_is_hot_when_much_comes_within_the_window() {
        let mut heat = Heat::new(640);
        let most = 64;
        let told = |heat: &mut Heat, domain: &str, count: u64, from: u64, every: u64| {
            (0..count).filter(|n| heat.count(domain, at(from + n * every))).count()
        };
        assert_eq!(told(&mut heat, "hot.example", most - 1, 1000, 0), 0);
        assert_eq!(told(&mut heat, "hot.example", 1, 1099, 0), 1, "the last of the window");
        assert_eq!(told(&mut heat, "hot.example", 10 * most, 1099, 0), 0, "once is enough");
        // As many in a longer time are nothing.
        assert_eq!(told(&mut heat, "cold.example", 100 * most, 2000, 2), 0);
        assert_eq!(told(&mut heat, "hot.example", 10 * most, 500_000, 1), 6, "once in each window");
    }

    #[test]
    fn lanes_end_and_are_bounded() {
        let mut lanes = Lanes::default();
        lanes.add("hot.example", at(1000));
        let end = at(1000) + limits::LANE_TIME;
        assert!(lanes.keeps("hot.example", Moment(end.0 - 1)) && !lanes.keeps("cold.example", at(1000)));
        assert!(!lanes.keeps("hot.example", end));
        assert_eq!(lanes.remembered(), 0);
        for n in 0..2 * limits::LANE_DOMAINS {
            lanes.add(&format!("d{n}.example"), at(2000));
        }
        assert_eq!(lanes.remembered(), limits::LANE_DOMAINS);
        lanes.add("later.example", at(2000) + limits::LANE_TIME);
        assert_eq!(lanes.remembered(), 1, "what is over makes room");
    }
}
