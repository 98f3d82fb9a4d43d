//! `[tls_reports]`: whether, and as whom, this host reports of TLS to the domains that ask for it (RFC 8460).

use super::raw::RawTlsReports;
use super::resolve::Resolver;
use crate::limits;
use std::time::Duration;

/// `[tls_reports]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsReports {
    /// `organization-name`
    pub organization: String,
    /// `contact-info`
    pub contact: String,
    /// The sender of the reports.
    pub from: String,
    /// Reports of a day go at random moments within this time after its end.
    pub delay: Duration,
}

impl Resolver<'_> {
    pub(super) fn tls_reports(&mut self, raw: RawTlsReports) -> Option<TlsReports> {
        let RawTlsReports { organization, contact, from, delay } = raw;
        if organization.is_none() && contact.is_none() && from.is_none() && delay.is_none() {
            return None;
        }
        let mut text = |key: &str, given: Option<String>| {
            let key = format!("tls_reports.{key}");
            let Some(given) = given else {
                self.error(&key, "is missing; reports name organization, contact and from");
                return String::new();
            };
            let plain = !given.is_empty() && given.len() <= 200 && given.bytes().all(|b| matches!(b, b' '..=b'~'));
            if !plain {
                self.error(&key, "is to be 1 to 200 printable ASCII characters");
            }
            given
        };
        let (organization, contact, from) =
            (text("organization", organization), text("contact", contact), text("from", from));
        let is_address = from.rsplit_once('@').is_some_and(|(local, domain)| {
            let plain = |text: &str| {
                !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-=".contains(&b))
            };
            plain(local) && plain(domain) && domain.contains('.')
        });
        if !from.is_empty() && !is_address {
            self.error(
                "tls_reports.from",
                format!("\"{from}\" is no address; write from = \"tlsrpt@mail.example.net\""),
            );
        }
        let delay = self.span("tls_reports.delay", delay, limits::TLSRPT_DELAY, Duration::ZERO..=limits::TLSRPT_DELAY);
        Some(TlsReports { organization, contact, from, delay })
    }
}
