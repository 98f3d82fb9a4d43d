//! PURE. Reports of TLS (TLSRPT, RFC 8460): sessions counted for each policy domain and day, and the report that is made of them.
//!
//! In: what became of connections to mail exchangers ([`Session`]), the TXT record by which a domain asks for reports. Out: a
//! [`Day`], which is also what is kept on disk; a [`Report`], whose JSON is that of RFC 8460 §4.4; whom it goes to. Lives on the
//! control thread; only `Session` is made on shards. It refuses to grow: above a bound sessions are counted as lost, and
//! failures without details.

use super::sts::Stored;
use crate::limits::{TLSRPT_DETAILS, TLSRPT_DOMAINS, TLSRPT_POLICIES, TLSRPT_REASON_BYTES, TLSRPT_URIS};
use crate::time::Wall;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What went wrong with a session (RFC 8460 §4.3). `dane-required` is never said: there is no such setting here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names of RFC 8460")]
pub enum ResultType {
    StarttlsNotSupported,
    CertificateHostMismatch,
    CertificateExpired,
    CertificateNotTrusted,
    ValidationFailure,
    TlsaInvalid,
    DnssecInvalid,
    StsPolicyFetchError,
    StsPolicyInvalid,
    StsWebpkiInvalid,
}

/// Which policy a session had to fulfil (RFC 8460 §4.4, `policy-type`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// None was found.
    None,
    /// MTA-STS; `None` inside: it could not be had.
    Sts(Option<Arc<Stored>>),
    /// The host's TLSA records, as zone files write them; none: they could not be had.
    Tlsa(Vec<Box<str>>),
}

/// A connection, or the want of one, that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// When.
    pub at: Wall,
    /// Whose mail it was opened for, in lower case.
    pub domain: Box<str>,
    /// What it had to fulfil.
    pub policy: Applied,
    /// The mail exchanger; empty where it did not come to one.
    pub host: Box<str>,
    /// Its address.
    pub remote: Option<IpAddr>,
    /// Ours, where the configuration names it.
    pub source: Option<IpAddr>,
    /// What went wrong, if something did, and in words.
    pub failure: Option<(ResultType, Box<str>)>,
}

/// `policy` of RFC 8460 §4.4.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Policy {
    /// `sts`, `tlsa` or `no-policy-found`.
    pub policy_type: String,
    /// It.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy_string: Vec<String>,
    /// Whose.
    pub policy_domain: String,
    /// Patterns of an MTA-STS policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mx_host: Vec<String>,
}

/// `summary` of RFC 8460 §4.4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    /// Sessions that were good.
    pub total_successful_session_count: u64,
    /// And those that were not.
    pub total_failure_session_count: u64,
}

/// One of `failure-details` of RFC 8460 §4.4.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Detail {
    /// What.
    pub result_type: ResultType,
    /// Our address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sending_mta_ip: Option<IpAddr>,
    /// The mail exchanger.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub receiving_mx_hostname: String,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiving_ip: Option<IpAddr>,
    /// How often.
    pub failed_session_count: u64,
    /// In words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failure_reason_code: String,
}

/// One of `policies` of RFC 8460 §4.4.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tally {
    /// Which.
    pub policy: Policy,
    /// How many sessions.
    pub summary: Summary,
    /// Those that failed, at most [`TLSRPT_DETAILS`] kinds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failure_details: Vec<Detail>,
}

/// What is known of one policy domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// By policy: it may change, and differ between hosts.
    pub policies: Vec<Tally>,
    /// Its report is on its way, or nobody wants one.
    #[serde(default)]
    pub done: bool,
}

/// A day (UTC) of all domains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Day {
    /// `2026-11-22`
    pub day: String,
    /// At most [`TLSRPT_DOMAINS`].
    pub domains: BTreeMap<String, Domain>,
    /// Sessions above a bound.
    pub lost: u64,
}

/// The day (UTC) of that moment, as reports name it: `2026-11-22`.
pub fn day_of(at: Wall) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    let moment = jiff::Timestamp::from_millisecond(millis).unwrap_or_default();
    moment.strftime("%Y-%m-%d").to_string()
}

impl Day {
    /// An empty one.
    pub fn new(day: String) -> Day {
        Day { day, ..Day::default() }
    }

    /// Counts a session.
    pub fn count(&mut self, session: &Session) {
        if self.domains.len() >= TLSRPT_DOMAINS && !self.domains.contains_key(&*session.domain) {
            self.lost += 1;
            return;
        }
        let policy = policy_of(session);
        let tallies = &mut self.domains.entry(session.domain.to_string()).or_default().policies;
        let at = match tallies.iter().position(|tally| tally.policy == policy) {
            Some(at) => at,
            None if tallies.len() >= TLSRPT_POLICIES => {
                self.lost += 1;
                return;
            }
            None => {
                tallies.push(Tally { policy, summary: Summary::default(), failure_details: Vec::new() });
                tallies.len() - 1
            }
        };
        let tally = &mut tallies[at];
        let Some((result_type, why)) = &session.failure else {
            tally.summary.total_successful_session_count += 1;
            return;
        };
        tally.summary.total_failure_session_count += 1;
        let mut cut = why.len().min(TLSRPT_REASON_BYTES);
        while !why.is_char_boundary(cut) {
            cut -= 1;
        }
        let detail = Detail {
            result_type: *result_type,
            sending_mta_ip: session.source,
            receiving_mx_hostname: session.host.to_string(),
            receiving_ip: session.remote,
            failed_session_count: 1,
            failure_reason_code: why[..cut].replace(char::is_control, " "),
        };
        let same = |known: &&mut Detail| Detail { failed_session_count: 1, ..(*known).clone() } == detail;
        if let Some(known) = tally.failure_details.iter_mut().find(same) {
            known.failed_session_count += 1;
        } else if tally.failure_details.len() < TLSRPT_DETAILS {
            tally.failure_details.push(detail);
        }
    }

    /// What is to be told of a domain, or of what is known so far.
    pub fn report(&self, domain: &str, submitter: &Submitter<'_>) -> Option<Report> {
        let counted = self.domains.get(domain)?;
        let day = &self.day;
        Some(Report {
            organization_name: submitter.organization.to_owned(),
            date_range: DateRange {
                start_datetime: format!("{day}T00:00:00Z"),
                end_datetime: format!("{day}T23:59:59Z"),
            },
            contact_info: submitter.contact.to_owned(),
            report_id: format!("{day}.{domain}.{}", submitter.host),
            policies: counted.policies.clone(),
        })
    }
}

fn policy_of(session: &Session) -> Policy {
    let (kind, text, patterns) = match &session.policy {
        Applied::None => ("no-policy-found", Vec::new(), Vec::new()),
        Applied::Sts(None) => ("sts", Vec::new(), Vec::new()),
        Applied::Sts(Some(stored)) => (
            "sts",
            stored.policy.text().lines().map(str::to_owned).collect(),
            stored.policy.mx.iter().map(ToString::to_string).collect(),
        ),
        Applied::Tlsa(records) => ("tlsa", records.iter().map(ToString::to_string).collect(), Vec::new()),
    };
    Policy {
        policy_type: kind.to_owned(),
        policy_string: text,
        policy_domain: session.domain.to_string(),
        mx_host: patterns,
    }
}

/// Who reports.
#[derive(Clone, Copy, Debug)]
pub struct Submitter<'a> {
    /// `organization-name`
    pub organization: &'a str,
    /// `contact-info`
    pub contact: &'a str,
    /// This host.
    pub host: &'a str,
}

/// A report (RFC 8460 §4.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    organization_name: String,
    date_range: DateRange,
    contact_info: String,
    /// The same for the same day and domain, however often it is made.
    pub report_id: String,
    policies: Vec<Tally>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct DateRange {
    start_datetime: String,
    end_datetime: String,
}

/// Where a domain wants its reports (RFC 8460 §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rua {
    /// To this address.
    Mail(String),
    /// By POST to this URI.
    Https(String),
}

/// What the one record among the TXT records of `_smtp._tls.<domain>` says that begins with `v=TLSRPTv1;`; nothing where there is
/// none, or more than one (RFC 8460 §3). Of its URIs the first [`TLSRPT_URIS`] that are well-formed.
pub fn record_uris<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Vec<Rua> {
    let mut candidates = records.into_iter().filter(|text| {
        let rest = text.strip_prefix(b"v=TLSRPTv1");
        rest.is_some_and(|rest| matches!(rest.trim_ascii_start().first(), Some(b';')))
    });
    let (Some(record), None) = (candidates.next(), candidates.next()) else { return Vec::new() };
    let Ok(record) = std::str::from_utf8(record) else { return Vec::new() };
    let fields = record.split(';').skip(1).filter_map(|field| field.split_once('='));
    let uris = fields.filter(|(name, _)| name.trim() == "rua").flat_map(|(_, uris)| uris.split(','));
    uris.filter_map(|uri| read_uri(uri.trim())).take(TLSRPT_URIS).collect()
}

fn read_uri(uri: &str) -> Option<Rua> {
    let (scheme, rest) = uri.split_once(':')?;
    if scheme.eq_ignore_ascii_case("https") {
        return Some(Rua::Https(uri.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("mailto") {
        return None;
    }
    let address = unescaped(rest.split('?').next()?)?;
    let (local, domain) = address.rsplit_once('@')?;
    // What could be more than one address, or none that needs no quotes, is not one to send machine mail to.
    let plain = |text: &str, more: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(char::from(b)))
    };
    (plain(local, "!#$%&'*+-/=?^_`{|}~.") && local.len() <= 64 && plain(domain, "-.") && domain.len() <= 255)
        .then_some(Rua::Mail(address))
}

/// RFC 3986 §2.1.
fn unescaped(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::sts;
    use super::*;

    fn session(failure: Option<(ResultType, &str)>) -> Session {
        let text = "version: STSv1\nmode: testing\nmx: *.mail.company-y.example\nmax_age: 86400\n";
        let policy = sts::Policy::parse(text).unwrap();
        let stored = Stored { domain: "company-y.example".into(), id: "1".into(), fetched: Wall(0), policy };
        Session {
            at: Wall(1_459_468_800_000),
            domain: "company-y.example".into(),
            policy: Applied::Sts(Some(Arc::new(stored))),
            host: "mx1.mail.company-y.example".into(),
            remote: None,
            source: Some("2001:db8:abcd:12::1".parse().unwrap()),
            failure: failure.map(|(kind, why)| (kind, why.into())),
        }
    }

    /// Its members, order and types are those of RFC 8460 Appendix B; texts of our own stand where it has other ones.
    const APPENDIX_B: &str = r#"{
  "organization-name": "Company-X",
  "date-range": {
    "start-datetime": "2016-04-01T00:00:00Z",
    "end-datetime": "2016-04-01T23:59:59Z"
  },
  "contact-info": "sts-reporting@company-x.example",
  "report-id": "2016-04-01.company-y.example.mta.company-x.example",
  "policies": [
    {
      "policy": {
        "policy-type": "sts",
        "policy-string": [
          "version: STSv1",
          "mode: testing",
          "max_age: 86400",
          "mx: *.mail.company-y.example"
        ],
        "policy-domain": "company-y.example",
        "mx-host": [
          "*.mail.company-y.example"
        ]
      },
      "summary": {
        "total-successful-session-count": 5326,
        "total-failure-session-count": 303
      },
      "failure-details": [
        {
          "result-type": "certificate-expired",
          "sending-mta-ip": "2001:db8:abcd:12::1",
          "receiving-mx-hostname": "mx1.mail.company-y.example",
          "failed-session-count": 100
        },
        {
          "result-type": "starttls-not-supported",
          "sending-mta-ip": "2001:db8:abcd:12::1",
          "receiving-mx-hostname": "mx1.mail.company-y.example",
          "receiving-ip": "203.0.113.56",
          "failed-session-count": 200
        },
        {
          "result-type": "validation-failure",
          "sending-mta-ip": "2001:db8:abcd:12::1",
          "receiving-mx-hostname": "mx-backup.mail.company-y.example",
          "receiving-ip": "203.0.113.58",
          "failed-session-count": 3,
          "failure-reason-code": "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED"
        }
      ]
    }
  ]
}"#;

    const SUBMITTER: Submitter<'static> = Submitter {
        organization: "Company-X",
        contact: "sts-reporting@company-x.example",
        host: "mta.company-x.example",
    };

    #[test]
    fn the_report_has_the_form_of_appendix_b() {
        let mut day = Day::new(day_of(Wall(1_459_468_800_000)));
        let expired = session(Some((ResultType::CertificateExpired, "")));
        let offered = Session {
            remote: Some("203.0.113.56".parse().unwrap()),
            ..session(Some((ResultType::StarttlsNotSupported, "")))
        };
        let backup = Session {
            host: "mx-backup.mail.company-y.example".into(),
            remote: Some("203.0.113.58".parse().unwrap()),
            ..session(Some((ResultType::ValidationFailure, "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED")))
        };
        for (session, times) in [(session(None), 5326), (expired, 100), (offered, 200), (backup, 3)] {
            (0..times).for_each(|_| day.count(&session));
        }
        let report = day.report("company-y.example", &SUBMITTER).unwrap();
        assert_eq!(serde_json::to_string_pretty(&report).unwrap(), APPENDIX_B);
        // What was kept is what was counted.
        let kept = serde_json::to_string(&day).unwrap();
        assert_eq!(serde_json::from_str::<Day>(&kept).unwrap(), day);
        assert_eq!(day.report("company-x.example", &SUBMITTER), None);
    }

    #[test]
    fn policies_are_told_apart() {
        let mut day = Day::new("2026-11-22".into());
        for policy in [
            Applied::None,
            Applied::Tlsa(vec!["3 1 1 00ff".into()]),
            Applied::Tlsa(Vec::new()),
            Applied::Sts(None),
            Applied::None,
        ] {
            day.count(&Session { policy, ..session(None) });
        }
        let tallies = &day.domains["company-y.example"].policies;
        let kinds: Vec<_> =
            tallies.iter().map(|t| (&*t.policy.policy_type, t.summary.total_successful_session_count)).collect();
        assert_eq!(kinds, [("no-policy-found", 2), ("tlsa", 1), ("tlsa", 1), ("sts", 1)]);
        assert_eq!(tallies[1].policy.policy_string, ["3 1 1 00ff"]);
    }

    #[test]
    fn a_day_is_bounded_whatever_is_counted() {
        let mut day = Day::new("2026-11-22".into());
        for n in 0..TLSRPT_DOMAINS + 10 {
            day.count(&Session { domain: format!("d{n}.example").into(), ..session(None) });
        }
        assert_eq!((day.domains.len(), day.lost), (TLSRPT_DOMAINS, 10));
        for n in 0..2 * TLSRPT_DETAILS {
            let why = format!("{n} {}", "\u{fc}".repeat(TLSRPT_REASON_BYTES));
            let failed = session(Some((ResultType::ValidationFailure, &why)));
            day.count(&Session { domain: "d1.example".into(), ..failed });
        }
        let tally = &day.domains["d1.example"].policies;
        assert_eq!(tally.len(), 1);
        let failed = &tally[0];
        assert_eq!(failed.failure_details.len(), TLSRPT_DETAILS);
        assert_eq!(failed.summary.total_failure_session_count, 2 * TLSRPT_DETAILS as u64);
        assert!(failed.failure_details.iter().all(|d| d.failure_reason_code.len() <= TLSRPT_REASON_BYTES));
        for n in 0..100 {
            let policy = Applied::Tlsa(vec![format!("3 1 1 {n}").into()]);
            day.count(&Session { domain: "d2.example".into(), policy, ..session(None) });
        }
        assert_eq!(day.domains["d2.example"].policies.len(), TLSRPT_POLICIES);
    }

    #[test]
    fn reports_go_where_the_record_says() {
        // RFC 8460 §3.1.
        let uris = |records: &[&str]| record_uris(records.iter().map(|r| r.as_bytes()));
        let mail = |address: &str| Rua::Mail(address.to_owned());
        assert_eq!(uris(&["v=TLSRPTv1;rua=mailto:reports@example.com"]), [mail("reports@example.com")]);
        assert_eq!(
            uris(&["other", "v=TLSRPTv1; rua=https://reporting.example.com/v1/tlsrpt , mailto:a%2Bb@x.example?x=y ;"]),
            [Rua::Https("https://reporting.example.com/v1/tlsrpt".to_owned()), mail("a+b@x.example")]
        );
        for none in [
            &["v=TLSRPTv2; rua=mailto:a@x.example"][..],
            &["v=TLSRPTv1 rua=mailto:a@x.example"],
            &["v=TLSRPTv1; rua=mailto:a@x.example", "v=TLSRPTv1; rua=mailto:a@x.example"],
            &["v=TLSRPTv1; rua=mailto:a%0d%0aX:@x.example"],
            &["v=TLSRPTv1; rua=mailto:a<b@x.example"],
            &["v=TLSRPTv1; rua=mailto:a%zz@x.example"],
            &["v=TLSRPTv1; rua=mailto:@x.example"],
            &["v=TLSRPTv1; rua=http://x.example"],
            &["v=TLSRPTv1;"],
            &[],
        ] {
            assert_eq!(uris(none), [], "{none:?}");
        }
        let many = format!("v=TLSRPTv1; rua={}", "mailto:a@x.example,".repeat(100));
        assert_eq!(uris(&[&many]).len(), TLSRPT_URIS);
    }

    #[test]
    fn a_day_ends_at_midnight_utc() {
        assert_eq!(day_of(Wall(1_459_468_799_999)), "2016-03-31");
        assert_eq!(day_of(Wall(1_459_468_800_000)), "2016-04-01");
    }
}
