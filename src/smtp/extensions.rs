//! PURE. What a peer announces in its reply to EHLO (RFC 5321 §4.1.1.1), and what this server announces.
//!
//! In: the text of a reply, a line per keyword. Out: [`Capabilities`]. It refuses nothing: unknown keywords are skipped.

/// Extensions of a peer that the client machine uses or may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// ENHANCEDSTATUSCODES (RFC 2034).
    pub enhanced_status_codes: bool,
    /// SIZE (RFC 1870), octets: `Some(0)` when it announces no fixed limit.
    pub size: Option<u64>,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
}

impl Capabilities {
    /// Reads the lines behind the first of an EHLO reply (the first is the greeting), keywords in any case.
    pub fn parse(text: &str) -> Self {
        let mut all = Capabilities::default();
        for line in text.split('\n').skip(1) {
            let mut words = line.split_ascii_whitespace();
            let Some(keyword) = words.next() else { continue };
            let flag = match keyword {
                k if k.eq_ignore_ascii_case("PIPELINING") => &mut all.pipelining,
                k if k.eq_ignore_ascii_case("8BITMIME") => &mut all.eight_bit_mime,
                k if k.eq_ignore_ascii_case("ENHANCEDSTATUSCODES") => &mut all.enhanced_status_codes,
                k if k.eq_ignore_ascii_case("STARTTLS") => &mut all.starttls,
                k if k.eq_ignore_ascii_case("DSN") => &mut all.dsn,
                k if k.eq_ignore_ascii_case("SMTPUTF8") => &mut all.smtputf8,
                k if k.eq_ignore_ascii_case("CHUNKING") => &mut all.chunking,
                k if k.eq_ignore_ascii_case("SIZE") => {
                    // A figure that is missing or no number says nothing about a limit (RFC 1870 §3).
                    all.size = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0));
                    continue;
                }
                _ => continue,
            };
            *flag = true;
        }
        all
    }

    /// Whether a message of `size` octets passes the announced limit.
    pub fn allows_size(&self, size: u64) -> bool {
        self.size.is_none_or(|limit| limit == 0 || size <= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_keywords() {
        let c = Capabilities::parse("PIPELINING greets you\nsize 1000\npipelining\n8BITMIME\nX-FOO bar\n\nDSN");
        let expected = Capabilities {
            pipelining: true,
            eight_bit_mime: true,
            size: Some(1000),
            dsn: true,
            ..Capabilities::default()
        };
        assert_eq!(c, expected);
        assert!(c.allows_size(1000) && !c.allows_size(1001));
        assert_eq!(Capabilities::parse("PIPELINING"), Capabilities::default());
        assert_eq!(Capabilities::parse("x\nSIZE\nSTARTTLS").size, Some(0));
        assert!(Capabilities::parse("x\nSIZE junk").allows_size(u64::MAX));
    }
}
