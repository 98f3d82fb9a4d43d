//! PURE. Message ids: unique over every shard and every restart of one spool, ordered by time of acceptance.

use crate::time::Wall;
use std::fmt;
use std::str::FromStr;

/// The name of one accepted message. Assigned by its home shard, written in its spool record, its Received header and
/// every event about it.
///
/// Bits 63..10 are microseconds since the Unix epoch (good until the year 2540), bits 9..0 the shard that assigned it.
/// As text: 13 characters of `0-9a-v` (base 32, most significant first), so text order is time order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MessageId(pub u64);

/// Hands out ids of one shard. Lives on that shard.
#[derive(Debug)]
pub struct IdSource {
    shard: u64,
    last_micros: u64,
}

impl IdSource {
    /// `newest` is the newest id that recovery saw, so that a clock set back cannot make an id twice.
    pub fn new(shard: u16, newest: MessageId) -> Self {
        assert!(shard < 1024, "limits.rs bounds the number of shards below 1024");
        IdSource { shard: u64::from(shard), last_micros: newest.0 >> 10 }
    }

    /// The next id: the wall clock, or one microsecond after the last id if the clock has not moved past it.
    pub fn next(&mut self, wall: Wall) -> MessageId {
        self.last_micros = (wall.0 * 1000).max(self.last_micros + 1);
        MessageId(self.last_micros << 10 | self.shard)
    }
}

const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

impl MessageId {
    /// The 13 characters of the id, without allocating.
    pub fn text(self) -> [u8; 13] {
        let mut out = [0; 13];
        for (i, digit) in out.iter_mut().enumerate() {
            *digit = DIGITS[(self.0 >> (60 - 5 * i) & 31) as usize];
        }
        out
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).expect("the digits are ASCII"))
    }
}

impl FromStr for MessageId {
    type Err = &'static str;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.len() != 13 {
            return Err("a message id has 13 characters");
        }
        let mut value = 0u64;
        for (i, byte) in s.bytes().enumerate() {
            let digit =
                DIGITS.iter().position(|d| *d == byte).ok_or("a message id has only the characters 0-9 and a-v")?;
            if i == 0 && digit > 15 {
                return Err("no message id is that large");
            }
            value = value << 5 | digit as u64;
        }
        Ok(MessageId(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_keeps_order() {
        let ids = [0, 1, 31, 32, 1 << 40, u64::MAX - 1, u64::MAX].map(MessageId);
        for pair in ids.windows(2) {
            assert!(pair[0].to_string() < pair[1].to_string());
        }
        for id in ids {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert!("zzzzzzzzzzzzz".parse::<MessageId>().is_err());
        assert!("0".parse::<MessageId>().is_err());
    }

    #[test]
    fn ids_grow_even_if_the_clock_stands_or_goes_back() {
        let mut source = IdSource::new(3, MessageId(0));
        let a = source.next(Wall(1000));
        let b = source.next(Wall(1000));
        let c = source.next(Wall(10));
        assert!(a < b && b < c);
        assert_eq!(a.0 & 1023, 3);
        let mut restarted = IdSource::new(3, c);
        assert!(restarted.next(Wall(10)) > c);
    }
}
