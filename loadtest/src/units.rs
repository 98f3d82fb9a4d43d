//! Sizes, durations and odds as written on the command line.

use std::time::Duration;

use rand::Rng;

/// `4096`, `4k`, `50m`, `1g`: octets, powers of 1024.
pub fn size(text: &str) -> Result<usize, String> {
    let t = text.trim().to_ascii_lowercase();
    let t = t.strip_suffix("ib").or_else(|| t.strip_suffix('b')).unwrap_or(&t);
    let (digits, shift) = match t.char_indices().last() {
        Some((i, 'k')) => (&t[..i], 10),
        Some((i, 'm')) => (&t[..i], 20),
        Some((i, 'g')) => (&t[..i], 30),
        _ => (t, 0),
    };
    let n: usize = digits.parse().map_err(|_| format!("`{text}` is not a size: try 4096, 64k or 1m"))?;
    n.checked_mul(1 << shift).filter(|n| *n <= 1 << 31).ok_or(format!("`{text}` is too large (at most 2g)"))
}

/// `250us`, `10ms`, `2s`, `1m`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let t = text.trim();
    let (digits, unit) = t.split_at(t.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(t.len()));
    let scale = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{text}`: unknown unit `{unit}`")),
    };
    let n: f64 = digits.parse().map_err(|_| format!("`{text}` is not a duration: try 10ms or 2s"))?;
    Duration::try_from_secs_f64(n * scale).map_err(|e| format!("`{text}`: {e}"))
}

/// A probability, 0 to 1.
pub fn odds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(p) if (0.0..=1.0).contains(&p) => Ok(p),
        _ => Err(format!("`{text}` is not a probability between 0 and 1")),
    }
}

/// A delay drawn anew each time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Delay {
    /// Always the same.
    Fixed(Duration),
    /// Each value between the two as likely as any other.
    Uniform(Duration, Duration),
    /// Exponential with this mean: mostly short, now and then long.
    Exponential(Duration),
}

impl Delay {
    /// `10ms`, `5ms..20ms` or `exp:10ms`.
    pub fn parse(text: &str) -> Result<Delay, String> {
        if let Some(mean) = text.strip_prefix("exp:") {
            return Ok(Delay::Exponential(duration(mean)?));
        }
        match text.split_once("..") {
            Some((low, high)) => {
                let (low, high) = (duration(low)?, duration(high)?);
                if low > high {
                    return Err(format!("`{text}`: the first is longer than the second"));
                }
                Ok(Delay::Uniform(low, high))
            }
            None => Ok(Delay::Fixed(duration(text)?)),
        }
    }

    /// One value.
    pub fn draw(&self, rng: &mut impl Rng) -> Duration {
        match *self {
            Delay::Fixed(d) => d,
            Delay::Uniform(low, high) => low + (high - low).mul_f64(rng.random::<f64>()),
            Delay::Exponential(mean) => mean.mul_f64(-(1.0 - rng.random::<f64>()).ln()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_and_durations() {
        assert_eq!(size("4k").unwrap(), 4096);
        assert_eq!(size("50MiB").unwrap(), 50 << 20);
        assert_eq!(size("17").unwrap(), 17);
        assert!(size("4x").is_err() && size("").is_err() && size("99g").is_err());
        assert_eq!(duration("10ms").unwrap(), Duration::from_millis(10));
        assert_eq!(duration("1.5").unwrap(), Duration::from_millis(1500));
        assert!(duration("3 parsecs").is_err());
        assert_eq!(
            Delay::parse("5ms..20ms").unwrap(),
            Delay::Uniform(Duration::from_millis(5), Duration::from_millis(20))
        );
        assert!(Delay::parse("20ms..5ms").is_err());
        assert!(odds("1.1").is_err());
    }
}
