//! PURE. How many notifications of failure a sender gets: a list of dead addresses must not make a flood of them.
//!
//! In: whose mail failed, and when; how much that sender sends. Out: whether the sender is to be told by mail; what the operator
//! is to be told. Who sends much has many failures that are nobody's fault: of what one sends a part may fail and be told, and so
//! many an hour beside. Each shard counts for itself what it accepted. It refuses to hide a failure: each is an event, and counts,
//! whether a notification goes or not.

use crate::limits::{BOUNCE_HOURS_EARNED, BOUNCE_SENDERS, BOUNCE_SUMMARY};
use crate::shaping::{Pace, Rate};
use crate::time::Moment;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// See the module. Lives on its shard.
pub(super) struct Budget {
    /// `None`: there is no bound.
    rate: Option<Rate>,
    /// Of a hundred recipients of a sender so many may fail and be told beside.
    percent: u32,
    senders: HashMap<Box<str>, Sender, foldhash::quality::FixedState>,
    /// When it is told how many were withheld, earliest first.
    summaries: VecDeque<(Moment, Box<str>)>,
    news: VecDeque<String>,
}

#[derive(Default)]
struct Sender {
    pace: Pace,
    /// Hundredths of notifications, for what it sent since its first failure.
    earned: u64,
    /// Notifications withheld since that was told last.
    withheld: u64,
}

/// Those that there is no more room for are counted as one.
const OTHERS: &str = "others";

impl Budget {
    /// So many in an hour, and at once, and of a hundred recipients so many; 0 in an hour: any number.
    pub fn new(an_hour: u32, percent: u32) -> Self {
        let rate = Rate::new(an_hour, Duration::from_secs(3600), an_hour);
        Budget { rate, percent, senders: HashMap::default(), summaries: VecDeque::new(), news: VecDeque::new() }
    }

    /// Whether what is sent need not be told: no sender has had a failure.
    pub fn is_empty(&self) -> bool {
        self.senders.is_empty()
    }

    /// A sender sends to so many recipients.
    pub fn sent(&mut self, sender: &str, recipients: usize) {
        let Some(rate) = self.rate else { return };
        let name = if self.senders.contains_key(sender) { sender } else { OTHERS };
        if let Some(known) = self.senders.get_mut(name) {
            // Whoever was good for long may not have all of that back at once.
            let most = 100 * u64::from(rate.count()) * BOUNCE_HOURS_EARNED;
            known.earned = (known.earned + recipients as u64 * u64::from(self.percent)).min(most);
        }
    }

    /// Senders that are counted.
    #[cfg(any(test, feature = "sim"))]
    pub fn len(&self) -> usize {
        self.senders.len()
    }

    /// Whether a notification of failure may go to this sender, who is named as the operator knows him.
    pub fn take(&mut self, sender: &str, now: Moment) -> bool {
        let Some(rate) = self.rate else { return true };
        if self.senders.len() >= BOUNCE_SENDERS && !self.senders.contains_key(sender) {
            // Whoever has all of it back need not be known.
            self.senders.retain(|_, known| known.withheld > 0 || known.pace.next(rate) + rate.period() > now);
        }
        let percent = self.percent;
        let is_room = self.senders.len() < BOUNCE_SENDERS || self.senders.contains_key(sender);
        let name = if is_room { sender } else { OTHERS };
        let known = self.senders.entry(name.into()).or_default();
        if let Some(left) = known.earned.checked_sub(100) {
            known.earned = left;
            return true;
        }
        if known.pace.take(rate, now) {
            return true;
        }
        known.withheld += 1;
        if known.withheld == 1 {
            let text = format!(
                "{name}: more than {} failures in an hour, and {percent} % of its recipients: further notifications are withheld, the failures are in the event log",
                rate.count()
            );
            self.news.push_back(text);
            self.summaries.push_back((now + BOUNCE_SUMMARY, name.into()));
        }
        false
    }

    /// When there is something to be told.
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.summaries.front().map(|(at, _)| *at)
    }

    /// What the operator is to be told.
    pub fn poll_news(&mut self, now: Moment) -> Option<String> {
        while let Some((_, name)) = self.summaries.pop_front_if(|(at, _)| *at <= now) {
            if let Some(known) = self.senders.get_mut(&name) {
                let count = std::mem::take(&mut known.withheld);
                let minutes = BOUNCE_SUMMARY.as_secs() / 60;
                self.news.push_back(format!("{name}: {count} notifications were withheld in {minutes} minutes"));
            }
        }
        self.news.pop_front()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const START: Moment = Moment(1 << 50);

    #[test]
    fn a_bad_list_makes_no_flood_and_keeps_nobody_elses_notifications() {
        let mut budget = Budget::new(100, 5);
        let told = (0..5000).filter(|_| budget.take("tenant acme", START)).count();
        assert_eq!(told, 100);
        assert!(budget.take("example.org", START), "each has its own");
        assert!(budget.poll_news(START).unwrap().starts_with("tenant acme: more than 100 failures"));
        assert_eq!(budget.poll_news(START), None, "it is told once");
        assert_eq!(budget.poll_timeout(), Some(START + BOUNCE_SUMMARY));
        let later = START + BOUNCE_SUMMARY;
        assert_eq!(budget.poll_news(later).unwrap(), "tenant acme: 4900 notifications were withheld in 10 minutes");
        assert_eq!((budget.poll_news(later), budget.poll_timeout()), (None, None));
        // It comes back evenly: one in 36 s.
        let back = (0..5000).filter(|_| budget.take("tenant acme", later)).count();
        assert_eq!(back, 600 / 36);
    }

    #[test]
    fn who_sends_much_is_told_of_all_failures_that_are_few_of_that() {
        // A million recipients in an hour, of which one in fifty fails, and of another sender's one in two.
        let mut budget = Budget::new(1000, 5);
        let (mut told, mut told_of_the_bad) = (0, 0);
        for n in 0..1_000_000_u64 {
            let now = START + Duration::from_micros(3600 * n);
            budget.sent("tenant good", 1);
            budget.sent("tenant bad", 1);
            told += usize::from(n % 50 == 0 && budget.take("tenant good", now));
            told_of_the_bad += usize::from(n % 2 == 0 && budget.take("tenant bad", now));
        }
        assert_eq!(told, 20_000);
        assert!((50_000..=52_001).contains(&told_of_the_bad), "{told_of_the_bad}");
        // All that was good until now does not make a flood of what fails at once.
        (0..1_000_000).for_each(|_| budget.sent("tenant good", 1));
        let now = START + Duration::from_secs(2 * 3600);
        let told = (0..100_000).filter(|_| budget.take("tenant good", now)).count();
        assert_eq!(told as u64, 1000 * (BOUNCE_HOURS_EARNED + 1));
    }

    #[test]
    fn without_a_bound_all_go_and_memory_has_one() {
        let mut budget = Budget::new(0, 5);
        assert!((0..10_000).all(|_| budget.take("a.example", START)) && budget.is_empty());
        let mut budget = Budget::new(1, 5);
        for n in 0..BOUNCE_SENDERS + 100 {
            budget.take(&format!("d{n}.example"), START);
        }
        assert!(budget.len() <= BOUNCE_SENDERS + 1);
        budget.take("late.example", START + Duration::from_secs(2 * 3600));
        assert!(budget.len() <= 2, "{}", budget.len());
    }
}
