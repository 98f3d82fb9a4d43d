//! PURE. So many in a time, evenly: the generic cell rate algorithm (GCRA, ITU-T I.371 annex A, the virtual scheduling
//! form).

use crate::config::Span;
use crate::time::Moment;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// So many in a time, spread over it: 100 in an hour are one every 36 s. `burst` of them may come at once after a pause of
/// as many intervals; without one, each comes an interval behind the last.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rate {
    count: u32,
    period: Duration,
    burst: u32,
}

impl Rate {
    /// The most of `count` and `burst`.
    pub const COUNT_MAX: u32 = 10_000_000;
    /// The longest period.
    pub const PERIOD_MAX: Duration = Duration::from_secs(30 * 86_400);

    /// `None`: out of range. `count` and `burst` are 1 to [`COUNT_MAX`](Self::COUNT_MAX), `period` is a millisecond to
    /// [`PERIOD_MAX`](Self::PERIOD_MAX).
    pub fn new(count: u32, period: Duration, burst: u32) -> Option<Rate> {
        let counts = 1..=Self::COUNT_MAX;
        let periods = Duration::from_millis(1)..=Self::PERIOD_MAX;
        (counts.contains(&count) && counts.contains(&burst) && periods.contains(&period)).then_some(Rate {
            count,
            period,
            burst,
        })
    }

    /// How many.
    pub fn count(self) -> u32 {
        self.count
    }

    /// In which time.
    pub fn period(self) -> Duration {
        self.period
    }

    /// How many at once after a pause.
    pub fn burst(self) -> u32 {
        self.burst
    }

    /// From one to the next, rounded up: never one too many.
    pub fn interval(self) -> Duration {
        let nanos = self.period.as_nanos().div_ceil(u128::from(self.count));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The one of both that allows less: the longer interval, and of the same the smaller burst.
    #[must_use]
    pub fn slower(self, other: Rate) -> Rate {
        let key = |rate: Rate| (rate.interval(), std::cmp::Reverse(rate.burst));
        if key(self) >= key(other) { self } else { other }
    }
}

/// Where a [`Rate`] stands: when the next one would be due if all came evenly (the theoretical arrival time). Of each limit
/// there is one, on the shard that owns it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pace {
    due: Moment,
}

impl Pace {
    /// From when on the next one is within `rate`; in the past if it is now.
    pub fn next(self, rate: Rate) -> Moment {
        self.due - rate.interval() * (rate.burst - 1)
    }

    /// Counts one that is taken at `now`, if that is within `rate`.
    pub fn take(&mut self, rate: Rate, now: Moment) -> bool {
        let free = self.next(rate) <= now;
        if free {
            self.due = self.due.max(now) + rate.interval();
        }
        free
    }
}

/// "100/h", "5/s", "1000/10m", "20/s burst 50".
impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let refuse = || {
            format!(
                "\"{text}\" is not a rate; write how many in what time, like \"5/s\", \"100/h\", \"1000/10m\", and perhaps how \
                 many at once, like \"20/s burst 50\""
            )
        };
        let (rate, burst) = match text.split_once(" burst ") {
            Some((rate, burst)) => (rate, burst.trim().parse().map_err(|_| refuse())?),
            None => (text, 1),
        };
        let (count, period) = rate.split_once('/').ok_or_else(refuse)?;
        let count = count.trim().parse().map_err(|_| refuse())?;
        let period = period.trim();
        let with_number =
            if period.starts_with(|c: char| c.is_ascii_digit()) { period.to_owned() } else { format!("1{period}") };
        let period = Span::parse(&with_number).map_err(|_| refuse())?.0;
        Rate::new(count, period, burst)
            .ok_or_else(|| format!("\"{text}\" is out of range: 1 to {} in 1ms to 30d", Rate::COUNT_MAX))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = Span(self.period).to_string();
        let unit = span.strip_prefix('1').filter(|unit| unit.starts_with(|c: char| c.is_ascii_lowercase()));
        let unit = unit.filter(|unit| !unit.contains(|c: char| c.is_ascii_digit())).unwrap_or(&span);
        write!(f, "{}/{unit}", self.count)?;
        if self.burst > 1 { write!(f, " burst {}", self.burst) } else { Ok(()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::properties::cases;
    use proptest::prelude::*;

    #[test]
    fn a_hundred_an_hour_is_one_every_36_seconds() {
        let rate: Rate = "100/h".parse().unwrap();
        let mut pace = Pace::default();
        let second = 1_000_000_000;
        let start = Moment(7 * second);
        assert!(pace.take(rate, start) && !pace.take(rate, start));
        assert_eq!(pace.next(rate), start + Duration::from_secs(36));
        assert!(!pace.take(rate, start + Duration::from_nanos(36 * second - 1)));
        assert!(pace.take(rate, start + Duration::from_secs(36)));
        // A pause is not made up for.
        let later = start + Duration::from_secs(3600);
        assert!(pace.take(rate, later) && !pace.take(rate, later));
    }

    #[test]
    fn rates_are_read_as_they_are_written() {
        for (text, shown) in [
            ("100/h", "100/h"),
            ("5 / s", "5/s"),
            ("1000/10m", "1000/10m"),
            ("20/s burst 50", "20/s burst 50"),
            ("7/1h30m", "7/1h30m"),
            ("3/1d", "3/d"),
        ] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), shown);
        }
        for text in ["", "5", "/s", "0/s", "5/0s", "5/s burst 0", "5/31d", "-1/s", "5/s burst", "1e3/s", "20000000/s"] {
            let error = text.parse::<Rate>().unwrap_err();
            assert!(error.contains("rate") || error.contains("out of range"), "{text}: {error}");
        }
    }

    proptest! {
        #![proptest_config(cases(60))]

        /// Against the definition: in a window that spans `n` intervals there are at most `burst + n`, whoever asks when.
        #[test]
        fn property_no_window_has_more(
            count in 1..50u32, millis in 1..10_000u64, burst in 1..10u32, steps in prop::collection::vec(0..4_000_000_000u64, 1..200)
        ) {
            let rate = Rate::new(count, Duration::from_millis(millis), burst).unwrap();
            let (mut pace, mut now, mut taken) = (Pace::default(), Moment(0), Vec::new());
            for step in steps {
                now = now + Duration::from_nanos(step);
                let free = pace.next(rate) <= now;
                assert_eq!(pace.take(rate, now), free);
                if free {
                    taken.push(now);
                } else if step % 3 == 0 {
                    // Woken exactly when it is allowed.
                    now = pace.next(rate);
                    assert!(pace.take(rate, now));
                    taken.push(now);
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let intervals = to.since(*from).as_nanos() / rate.interval().as_nanos();
                    assert!((last - first + 1) as u128 <= u128::from(burst) + intervals);
                }
            }
        }
    }
}
