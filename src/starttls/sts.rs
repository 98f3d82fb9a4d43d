//! PURE. MTA-STS (RFC 8461): the TXT record that says a domain has a policy, the policy, and whom it names.
//!
//! In: texts of DNS and of the policy host. Out: an id, a [`Policy`], a yes or no. It refuses what RFC 8461 does: a record
//! beside another one, a policy without a mode, and one in mode `enforce` or `testing` that names nobody.

use crate::limits;
use crate::time::Wall;
use std::time::Duration;

/// What a sender does about hosts that fail the policy (RFC 8461 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// It does not deliver to them.
    Enforce,
    /// It delivers, and reports.
    Testing,
    /// As if there were no policy.
    None,
}

impl Mode {
    /// As policies write it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Testing => "testing",
            Mode::None => "none",
        }
    }
}

/// A policy (RFC 8461 §3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What to do.
    pub mode: Mode,
    /// Patterns of hosts, in lower case: names, or `*.` in front of one.
    pub mx: Vec<Box<str>>,
    /// How long it holds from when it was fetched; at most [`limits::STS_MAX_AGE`].
    pub max_age: Duration,
}

/// A policy that was fetched, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// In canonical form.
    pub domain: Box<str>,
    /// That of the TXT record at the time.
    pub id: Box<str>,
    /// When.
    pub fetched: Wall,
    /// It.
    pub policy: Policy,
}

impl Stored {
    /// Whether it still holds (RFC 8461 §3.2); not one of a future that a clock had.
    pub fn holds(&self, now: Wall) -> bool {
        self.fetched <= Wall(now.0.saturating_add(limits::STS_CLOCK_ERROR.as_millis() as u64))
            && now.since(self.fetched) < self.policy.max_age
    }

    /// Whether to fetch it again though it holds, so that nobody who keeps the TXT record from us outlasts it: each day, and
    /// in time.
    pub fn is_to_be_refreshed(&self, now: Wall) -> bool {
        now.since(self.fetched) >= (self.policy.max_age / 2).min(limits::STS_REFRESH_AGE)
    }

    /// As it is kept: `fetched` and `id`, and the policy.
    pub fn text(&self) -> String {
        format!("fetched: {}\nid: {}\n{}", self.fetched.0, self.id, self.policy.text())
    }

    /// Reads what [`Stored::text`] wrote; `None` if it is anything else.
    pub fn parse(domain: &str, text: &str) -> Option<Stored> {
        let (fetched, rest) = text.strip_prefix("fetched: ")?.split_once('\n')?;
        let (id, policy) = rest.strip_prefix("id: ")?.split_once('\n')?;
        let fetched = Wall(fetched.parse().ok()?);
        Some(Stored { domain: domain.into(), id: id.into(), fetched, policy: Policy::parse(policy).ok()? })
    }
}

/// Why a text is no policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Larger than [`limits::STS_POLICY_BYTES`].
    #[error("the policy is too large")]
    TooLarge,
    /// A line that is none of a policy.
    #[error("line {0} of the policy is not \"key: value\"")]
    Line(usize),
    /// `version` is not first, or not `STSv1`.
    #[error("the policy is not of version STSv1")]
    Version,
    /// `mode` is missing or unknown.
    #[error("the policy has no mode that is known")]
    Mode,
    /// `max_age` is missing, or no number.
    #[error("the policy has no max_age")]
    MaxAge,
    /// No `mx`, in mode enforce or testing; or too many.
    #[error("the policy names no host, or too many")]
    Mx,
}

/// The id of the one record among the TXT records of `_mta-sts.<domain>` that begins with `v=STSv1;` (RFC 8461 §3.1). `None`
/// where there is none, more than one, or none that is well-formed.
pub fn record_id<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Option<&'a str> {
    let mut candidates = records.into_iter().filter(|text| {
        let rest = text.strip_prefix(b"v=STSv1");
        rest.is_some_and(|rest| matches!(rest.trim_ascii_start().first(), Some(b';')))
    });
    let (record, None) = (candidates.next()?, candidates.next()) else { return None };
    let fields = std::str::from_utf8(record).ok()?.split(';').map(str::trim);
    let mut id = None;
    for field in fields.skip(1).filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once('=')?;
        if name.trim_end() == "id" && id.replace(value.trim_start()).is_some() {
            return None;
        }
    }
    id.filter(|id| matches!(id.len(), 1..=limits::STS_ID_BYTES) && id.bytes().all(|b| b.is_ascii_alphanumeric()))
}

impl Policy {
    /// Reads the body of a response of the policy host (RFC 8461 §3.2). Lines end with CRLF or LF; unknown keys are skipped; of
    /// keys given twice, other than `mx`, the first holds.
    ///
    /// # Errors
    /// It is no policy.
    pub fn parse(text: &str) -> Result<Policy, PolicyError> {
        if text.len() > limits::STS_POLICY_BYTES {
            return Err(PolicyError::TooLarge);
        }
        let (mut version, mut mode, mut max_age, mut mx) = (None, None, None, Vec::new());
        for (at, line) in text.lines().enumerate() {
            let line = line.trim_matches([' ', '\t']);
            if line.is_empty() {
                continue;
            }
            let (key, value) = line.split_once(':').ok_or(PolicyError::Line(at + 1))?;
            let value = value.trim_matches([' ', '\t']);
            match key.trim_end_matches([' ', '\t']) {
                "version" => version = version.or(Some(value)),
                "mode" => mode = mode.or(Some(value)),
                "max_age" => max_age = max_age.or(Some(value)),
                "mx" if mx.len() < limits::STS_MX_PATTERNS => mx.push(pattern(value).ok_or(PolicyError::Mx)?),
                "mx" => return Err(PolicyError::Mx),
                _ => {}
            }
        }
        if version != Some("STSv1") {
            return Err(PolicyError::Version);
        }
        let mode = match mode {
            Some("enforce") => Mode::Enforce,
            Some("testing") => Mode::Testing,
            Some("none") => Mode::None,
            _ => return Err(PolicyError::Mode),
        };
        let digits = max_age.filter(|age| matches!(age.len(), 1..=10) && age.bytes().all(|b| b.is_ascii_digit()));
        let seconds: u64 = digits.and_then(|age| age.parse().ok()).ok_or(PolicyError::MaxAge)?;
        if mx.is_empty() && mode != Mode::None {
            return Err(PolicyError::Mx);
        }
        Ok(Policy { mode, mx, max_age: Duration::from_secs(seconds).min(limits::STS_MAX_AGE) })
    }

    /// As [`Policy::parse`] reads it.
    pub fn text(&self) -> String {
        let mx: String = self.mx.iter().map(|pattern| format!("mx: {pattern}\n")).collect();
        format!("version: STSv1\nmode: {}\nmax_age: {}\n{mx}", self.mode.name(), self.max_age.as_secs())
    }

    /// Whether it names this host, in lower case (RFC 8461 §4.1): `*.` stands for exactly one label.
    pub fn names(&self, host: &str) -> bool {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.mx.iter().any(|pattern| match pattern.strip_prefix("*.") {
            Some(suffix) => parent == Some(suffix),
            None => **pattern == *host,
        })
    }
}

/// A pattern in lower case, without final dot, if it is one.
fn pattern(text: &str) -> Option<Box<str>> {
    let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let name = text.strip_prefix("*.").unwrap_or(&text);
    let label = |label: &str| {
        matches!(label.len(), 1..=limits::LABEL_BYTES)
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    (name.len() <= limits::DOMAIN_BYTES && name.split('.').all(label)).then(|| text.into())
}
