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
    /// BINARYMIME (RFC 3030).
    pub binary_mime: bool,
    /// REQUIRETLS (RFC 8689).
    pub require_tls: bool,
    /// DELIVERBY (RFC 2852): the least time, in seconds, that a message with `R` may have; 0 if none is announced.
    pub deliver_by: Option<u32>,
    /// FUTURERELEASE (RFC 4865).
    pub future_release: bool,
    /// MT-PRIORITY (RFC 6710).
    pub mt_priority: bool,
    /// LIMITS (RFC 9422).
    pub limits: Limits,
    /// AUTH (RFC 4954).
    pub auth: AuthOffers,
}

/// Of the mechanisms that a peer announces behind AUTH, those that we have as a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuthOffers {
    /// SCRAM-SHA-256 (RFC 7677).
    pub scram_sha_256: bool,
    /// PLAIN (RFC 4616).
    pub plain: bool,
    /// LOGIN (draft-murchison-sasl-login).
    pub login: bool,
}

impl AuthOffers {
    fn read(&mut self, word: &str) {
        let offer = match word {
            w if w.eq_ignore_ascii_case("SCRAM-SHA-256") => &mut self.scram_sha_256,
            w if w.eq_ignore_ascii_case("PLAIN") => &mut self.plain,
            w if w.eq_ignore_ascii_case("LOGIN") => &mut self.login,
            _ => return,
        };
        *offer = true;
    }
}

/// What a peer allows within one connection (RFC 9422 §4). `None`: not announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// MAILMAX: transactions.
    pub transactions: Option<u32>,
    /// RCPTMAX: recipients of one transaction.
    pub recipients: Option<u32>,
    /// RCPTDOMAINMAX: different domains among those.
    pub domains: Option<u32>,
}

impl Limits {
    /// Whether a transaction is limited in its recipients.
    pub fn bounds_recipients(self) -> bool {
        self.recipients.is_some() || self.domains.is_some()
    }

    /// One word of the announcement, `NAME=value`. Unknown names are skipped, and so is what is no number from 1 to
    /// 999999 (RFC 9422 §4).
    fn read(&mut self, word: &str) {
        let Some((name, value)) = word.split_once('=') else { return };
        let limit = match name {
            n if n.eq_ignore_ascii_case("MAILMAX") => &mut self.transactions,
            n if n.eq_ignore_ascii_case("RCPTMAX") => &mut self.recipients,
            n if n.eq_ignore_ascii_case("RCPTDOMAINMAX") => &mut self.domains,
            _ => return,
        };
        if value.len() <= 6 && value.bytes().all(|b| b.is_ascii_digit()) {
            *limit = value.parse().ok().filter(|n| *n > 0);
        }
    }
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
                k if k.eq_ignore_ascii_case("BINARYMIME") => &mut all.binary_mime,
                k if k.eq_ignore_ascii_case("REQUIRETLS") => &mut all.require_tls,
                k if k.eq_ignore_ascii_case("FUTURERELEASE") => &mut all.future_release,
                k if k.eq_ignore_ascii_case("MT-PRIORITY") => &mut all.mt_priority,
                k if k.eq_ignore_ascii_case("DELIVERBY") => {
                    // Further options may stand behind a comma (RFC 2852 §2).
                    let least = words.next().and_then(|options| options.split(',').next());
                    all.deliver_by = Some(least.and_then(|n| n.parse().ok()).unwrap_or(0));
                    continue;
                }
                k if k.eq_ignore_ascii_case("AUTH") => {
                    words.for_each(|word| all.auth.read(word));
                    continue;
                }
                // The form of drafts before RFC 2554, which servers still say beside the other.
                k if k.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("AUTH=")) => {
                    all.auth.read(&k[5..]);
                    words.for_each(|word| all.auth.read(word));
                    continue;
                }
                k if k.eq_ignore_ascii_case("LIMITS") => {
                    words.for_each(|word| all.limits.read(word));
                    continue;
                }
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

    #[test]
    fn reads_what_stands_behind_keywords() {
        // RFC 2852 §2.
        assert_eq!(Capabilities::parse("x\nDELIVERBY 240").deliver_by, Some(240));
        assert_eq!(Capabilities::parse("x\ndeliverby").deliver_by, Some(0));
        assert_eq!(Capabilities::parse("x\nDELIVERBY 240,X-FOO").deliver_by, Some(240), "an option of the future");
        assert_eq!(Capabilities::parse("x\nDELIVERBY ,X-FOO").deliver_by, Some(0));
        assert_eq!(Capabilities::parse("x\nDSN").deliver_by, None);
        // RFC 9422 §3.7 and §4; what is not understood limits nothing.
        let limits = |line: &str| Capabilities::parse(&format!("x\nLIMITS {line}")).limits;
        let all = Limits { transactions: Some(5), recipients: Some(20), domains: Some(1) };
        assert_eq!(limits("RCPTMAX=20 mailmax=5 X=1 RCPTDOMAINMAX=1"), all);
        assert_eq!(limits("RCPTMAX=0 MAILMAX=1000000 RCPTDOMAINMAX=+1 =5 RCPTMAX"), Limits::default());
        // RFC 4954 §3.
        let auth = |line: &str| Capabilities::parse(&format!("x\n{line}")).auth;
        let some = AuthOffers { plain: true, scram_sha_256: true, login: false };
        assert_eq!(auth("auth GSSAPI plain Scram-Sha-256 SCRAM-SHA-256-PLUS"), some);
        assert_eq!(auth("AUTH=LOGIN"), AuthOffers { login: true, ..AuthOffers::default() });
        assert_eq!((auth("AUTH"), auth("AUTHX PLAIN")), (AuthOffers::default(), AuthOffers::default()));
        let c =
            Capabilities::parse("x\nREQUIRETLS\nBINARYMIME\nFUTURERELEASE 600 2027-01-01T00:00:00Z\nMT-PRIORITY MIXER");
        assert!(c.require_tls && c.binary_mime && c.future_release && c.mt_priority && !c.limits.bounds_recipients());
    }
}
