//! PURE. When mail is tried again, as far as rules say: some of the keys of `[delivery.retry]`.

use crate::config::Retry;
use std::time::Duration;

/// What a rule says of retries; what it does not say is as `[delivery.retry]` has it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Schedule {
    /// After the first failure.
    pub first: Option<Duration>,
    /// Each interval is the one before times this. 1.0 to 10.0.
    pub factor: Option<f64>,
    /// The longest interval.
    pub max: Option<Duration>,
    /// Age at which mail is given up.
    pub give_up: Option<Duration>,
}

impl Schedule {
    /// Of each key this one's, or `other`'s.
    #[must_use]
    pub fn or(self, other: Schedule) -> Schedule {
        Schedule {
            first: self.first.or(other.first),
            factor: self.factor.or(other.factor),
            max: self.max.or(other.max),
            give_up: self.give_up.or(other.give_up),
        }
    }

    /// What holds where `usual` holds otherwise. Keys of different places may contradict each other: then no interval is
    /// longer than `give_up`, and `max` is at least `first`.
    #[must_use]
    pub fn over(self, usual: Retry) -> Retry {
        let give_up = self.give_up.unwrap_or(usual.give_up);
        let first = self.first.unwrap_or(usual.first).min(give_up);
        Retry {
            first,
            factor: self.factor.unwrap_or(usual.factor),
            max: self.max.unwrap_or(usual.max).max(first).min(give_up),
            give_up,
            jitter: usual.jitter,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_rule_does_not_say_is_as_usual_and_never_in_contradiction() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let usual = Retry { first: minutes(5), factor: 2.0, max: minutes(240), give_up: minutes(7200), jitter: 0.2 };
        assert_eq!(Schedule::default().over(usual), usual);
        let short = Schedule { give_up: Some(minutes(60)), ..Schedule::default() };
        assert_eq!(short.over(usual), Retry { max: minutes(60), give_up: minutes(60), ..usual });
        let slow = Schedule { first: Some(minutes(300)), ..Schedule::default() };
        assert_eq!(slow.over(usual), Retry { first: minutes(300), max: minutes(300), ..usual });
        let both = slow.or(short).over(usual);
        assert_eq!((both.first, both.max, both.give_up), (minutes(60), minutes(60), minutes(60)));
    }
}
