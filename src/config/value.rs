//! Values that TOML has no type for: durations ("5m") and sizes ("50MiB"). Parsing tells what is allowed.

use serde::de::{self, Deserializer, Visitor};
use std::fmt;
use std::time::Duration;

/// A duration as it is written: a whole number and one of `ms s m h d`, or several such, larger unit first ("1h30m").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl Span {
    /// # Errors
    /// Says what is allowed.
    pub fn parse(text: &str) -> Result<Span, String> {
        let refuse = || {
            format!(
                "\"{text}\" is not a duration; write a number and a unit, like \"30s\", \"5m\", \"4h\", \"5d\" (units: ms s m h d)"
            )
        };
        let (mut rest, mut total, mut last_unit) = (text, 0u64, u64::MAX);
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = rest[..digits].parse().map_err(|_| refuse())?;
            rest = &rest[digits..];
            let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
            let unit = UNITS.iter().find(|(name, _)| *name == &rest[..letters]).ok_or_else(refuse)?.1;
            if unit >= last_unit {
                return Err(refuse());
            }
            rest = &rest[letters..];
            last_unit = unit;
            total = number.checked_mul(unit).and_then(|ms| total.checked_add(ms)).ok_or_else(refuse)?;
        }
        if text.is_empty() { Err(refuse()) } else { Ok(Span(Duration::from_millis(total))) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if left == 0 {
            return f.write_str("0s");
        }
        for (name, millis) in UNITS.iter().rev() {
            if left >= *millis {
                write!(f, "{}{name}", left / millis)?;
                left %= millis;
            }
        }
        Ok(())
    }
}

impl<'de> de::Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration in quotes with its unit, like \"30s\", \"5m\", \"4h\" or \"5d\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                Span::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(V)
    }
}

/// A number of octets as it is written: 1048576, "1MiB", "512KiB", "20GiB".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

const SIZES: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl Size {
    /// # Errors
    /// Says what is allowed.
    pub fn parse(text: &str) -> Result<Size, String> {
        let refuse = || {
            format!(
                "\"{text}\" is not a size; write a whole number of octets, or one with a unit in quotes, like \"50MiB\" \
                 (units: KiB MiB GiB TiB)"
            )
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text[..digits].parse().map_err(|_| refuse())?;
        let unit = text[digits..].trim_start_matches(' ');
        let shift =
            if unit.is_empty() { 0 } else { SIZES.iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?.1 };
        number.checked_mul(1 << shift).map(Size).ok_or_else(refuse)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |shift: &u32| self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift);
        match SIZES.iter().find(|(_, shift)| fits(shift)) {
            Some((name, shift)) => write!(f, "{}{name}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl<'de> de::Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size: a whole number of octets, or one with a unit in quotes, like \"50MiB\"")
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Size, E> {
                u64::try_from(number).map(Size).map_err(|_| E::custom("a size cannot be negative"))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Size, E> {
                Ok(Size(number))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                Size::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(V)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::properties::cases;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(cases(400))]

        #[test]
        fn property_what_is_printed_reads_the_same(number in any::<u64>(), shift in 0..64u32) {
            let number = number >> shift;
            let span = Span(Duration::from_millis(number));
            prop_assert_eq!(Span::parse(&span.to_string()), Ok(span));
            let size = Size(number);
            prop_assert_eq!(Size::parse(&size.to_string()), Ok(size));
            let round = Size(number & !0 << shift);
            prop_assert_eq!(Size::parse(&round.to_string()), Ok(round));
        }

        #[test]
        fn property_any_text_is_refused_or_means_what_it_prints(
            text in "([0-9]{1,21}(ms|s|m|h|d|KiB|MiB|GiB|TiB|B| B|)?){0,4}|[ -~]{0,8}|\\PC{0,8}",
        ) {
            if let Ok(span) = Span::parse(&text) {
                prop_assert_eq!(Span::parse(&span.to_string()), Ok(span));
            }
            if let Ok(size) = Size::parse(&text) {
                prop_assert_eq!(Size::parse(&size.to_string()), Ok(size));
            }
        }
    }

    #[test]
    fn durations_round_trip() {
        for text in ["250ms", "30s", "5m", "4h", "5d", "1h30m", "1d1ms", "0s"] {
            assert_eq!(Span::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Span::parse("90m").unwrap().to_string(), "1h30m");
        for bad in [
            "",
            "5",
            "m",
            "5 m",
            "5M",
            "5x",
            "-5m",
            "1m1h",
            "1m1m",
            "99999999999999999999s",
            "9999999999999999999d",
            "5m ",
        ] {
            assert!(Span::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_round_trip() {
        for text in ["1KiB", "50MiB", "20GiB", "1TiB", "1025B", "0B"] {
            assert_eq!(Size::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Size::parse("100").unwrap(), Size(100));
        for bad in ["", "MiB", "50MB", "50mib", "1.5MiB", "-1", "99999999999TiB"] {
            assert!(Size::parse(bad).is_err(), "{bad}");
        }
    }
}
