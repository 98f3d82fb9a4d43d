//! PURE. The mail that carries a report of TLS (RFC 8460 §5.3): multipart/report with a text for people and the report itself, JSON
//! in gzip.
//!
//! In: addresses, names and the compressed report. Out: a message in wire form. It refuses to compress, and to make the report.

use super::trace::DateCache;
use crate::time::Wall;
use base64::prelude::{BASE64_STANDARD, Engine};
use std::fmt::Write as _;

/// What the mail says.
#[derive(Clone, Copy, Debug)]
pub struct TlsReportMail<'a> {
    /// `local-part@domain`, of whoever reports.
    pub from: &'a str,
    /// Likewise, of whoever wants it.
    pub to: &'a str,
    /// The policy domain.
    pub domain: &'a str,
    /// Of the report.
    pub report_id: &'a str,
    /// `2026-11-22`
    pub day: &'a str,
    /// The first and the last second of the day, since the Unix epoch.
    pub seconds: (u64, u64),
    /// This host, for Message-ID.
    pub host: &'a str,
    /// `organization-name`.
    pub organization: &'a str,
    /// The report, JSON in gzip.
    pub gzip: &'a [u8],
    /// Now.
    pub now: Wall,
}

/// Octets of base64 in a line (RFC 2045 §6.8: 76 at most).
const BASE64_LINE: usize = 76;

impl TlsReportMail<'_> {
    /// The message in wire form. No line of it begins with a dot.
    pub fn build(&self) -> Vec<u8> {
        let mut dates = DateCache::default();
        let date = String::from_utf8_lossy(dates.text(self.now)).into_owned();
        let submitter = self.from.rsplit_once('@').map_or(self.from, |(_, domain)| domain);
        let (domain, id, day) = (self.domain, self.report_id, self.day);
        let boundary = format!("=_tlsrpt.{day}.{:x}", self.now.0);
        // RFC 8460 §5.1.
        let file = format!("{submitter}!{domain}!{}!{}.json.gz", self.seconds.0, self.seconds.1);
        let mut out = String::new();
        // RFC 8460 §5.3; TLS-Required since a report of broken TLS must not wait for it (§3, RFC 8689 §3).
        let _ = write!(
            out,
            "Date: {date}\r\n\
             From: <{from}>\r\n\
             To: <{to}>\r\n\
             Subject: Report Domain: {domain}\r\n\tSubmitter: {submitter}\r\n\tReport-ID: <{id}>\r\n\
             Message-ID: <{id}.{now:x}@{host}>\r\n\
             TLS-Report-Domain: {domain}\r\n\
             TLS-Report-Submitter: {submitter}\r\n\
             TLS-Required: No\r\n\
             Auto-Submitted: auto-generated\r\n\
             MIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=\"tlsrpt\";\r\n\tboundary=\"{boundary}\"\r\n\
             \r\n\
             --{boundary}\r\n\
             Content-Type: text/plain; charset=us-ascii\r\n\
             Content-Transfer-Encoding: 7bit\r\n\
             \r\n\
             This is an aggregate TLS report (RFC 8460) from {organization},\r\n\
             about mail for {domain}\r\n\
             on {day} (UTC).\r\n\
             \r\n\
             --{boundary}\r\n\
             Content-Type: application/tlsrpt+gzip\r\n\
             Content-Transfer-Encoding: base64\r\n\
             Content-Disposition: attachment;\r\n\tfilename=\"{file}\"\r\n\
             \r\n",
            from = self.from,
            to = self.to,
            now = self.now.0,
            host = self.host,
            organization = self.organization,
        );
        let encoded = BASE64_STANDARD.encode(self.gzip);
        for line in encoded.as_bytes().chunks(BASE64_LINE) {
            out.extend(line.iter().copied().map(char::from));
            out.push_str("\r\n");
        }
        let _ = write!(out, "\r\n--{boundary}--\r\n.\r\n");
        out.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::message::fields;

    #[test]
    fn the_mail_is_as_rfc_8460_section_5_3_has_it() {
        let gzip: Vec<u8> = (0..=255).collect();
        let mail = TlsReportMail {
            from: "tlsrpt@mail.sender.example",
            to: "reports@example.com",
            domain: "example.com",
            report_id: "2026-11-22.example.com.mta",
            day: "2026-11-22",
            seconds: (1_795_305_600, 1_795_391_999),
            host: "mta.sender.example",
            organization: "Sender",
            gzip: &gzip,
            now: Wall(1_795_400_000_000),
        };
        let wire = mail.build();
        let text = String::from_utf8(wire.clone()).unwrap();
        for line in [
            "Subject: Report Domain: example.com\r\n\tSubmitter: mail.sender.example\r\n\tReport-ID: <2026-11-22.example.com.mta>\r\n",
            "\r\nTLS-Report-Domain: example.com\r\nTLS-Report-Submitter: mail.sender.example\r\n",
            "\r\nContent-Type: multipart/report; report-type=\"tlsrpt\";\r\n\tboundary=",
            "\r\nContent-Type: application/tlsrpt+gzip\r\nContent-Transfer-Encoding: base64\r\n",
            "filename=\"mail.sender.example!example.com!1795305600!1795391999.json.gz\"\r\n\r\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        assert!(fields::tls_required_no(&wire));
        assert!(text.ends_with("--\r\n.\r\n") && text.lines().all(|line| line.len() <= 998));
        assert!(text.strip_suffix(".\r\n").unwrap().lines().all(|line| !line.starts_with('.')));
        let body = text.split("json.gz\"\r\n\r\n").nth(1).unwrap().split("\r\n\r\n").next().unwrap();
        assert_eq!(BASE64_STANDARD.decode(body.replace("\r\n", "")).unwrap(), gzip);
    }
}
