//! What is sent: which recipient, which domain, which size, which octets. All of it is a function of the delivery id,
//! so a message tried again is the same message, and two runs with one seed send the same mail.
//!
//! A message with R recipients owns the delivery ids `first .. first + R`; its recipients are `u<id>@<domain>`. Its
//! header `X-Loadtest: id=<first> n=<R> crc=<CRC-32> len=<octets> at=<Unix ns>` lets the far end check that the body
//! is whole (checksum over the body as it is on the wire: dot-stuffed, CRLF, without the final dot) and that it came
//! with a recipient that it was sent to.

use std::io::Write;
use std::sync::Arc;
use std::time::SystemTime;

use crc32fast::Hasher;
use rand::SeedableRng;
use rand::distr::Distribution;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand_distr::Zipf;

/// A domain name with a number in it: each run of `#` stands for the number, zero-padded to the run's length. Without
/// `#` there is one domain.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainTemplate {
    before: String,
    width: usize,
    after: String,
}

impl DomainTemplate {
    /// `d####.test` is d0001.test, d0002.test and so on.
    pub fn parse(text: &str) -> Result<DomainTemplate, String> {
        let start = text.find('#').unwrap_or(text.len());
        let width = text[start..].bytes().take_while(|b| *b == b'#').count();
        let after = &text[start + width..];
        let ok = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        if after.contains('#') || text.is_empty() || !ok(&text[..start]) || !ok(after) {
            return Err(format!("`{text}` is not a domain template: try d####.test"));
        }
        Ok(DomainTemplate { before: text[..start].to_ascii_lowercase(), width, after: after.to_ascii_lowercase() })
    }

    /// Whether there is a number in it.
    pub fn is_numbered(&self) -> bool {
        self.width > 0
    }

    /// Writes the domain's name.
    pub fn write(&self, number: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(self.before.as_bytes());
        if self.width > 0 {
            write_padded(u64::from(number), self.width, out);
        }
        out.extend_from_slice(self.after.as_bytes());
    }

    /// The domain's name.
    pub fn name(&self, number: u32) -> String {
        let mut out = Vec::new();
        self.write(number, &mut out);
        String::from_utf8(out).expect("a template is ASCII")
    }
}

impl Default for DomainTemplate {
    fn default() -> DomainTemplate {
        DomainTemplate { before: "d".into(), width: 4, after: ".test".into() }
    }
}

/// Decimal digits without the formatting machinery: this runs a few times a message.
fn write_padded(mut n: u64, width: usize, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while n > 0 || at == digits.len() {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
    }
    out.extend_from_slice(&digits[at.min(digits.len() - width.min(20))..]);
}

/// How recipients spread over the domains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spread {
    /// In turn.
    Uniform,
    /// Zipf with this exponent: domain 1 gets most.
    Zipf(f64),
}

/// Sizes with weights.
#[derive(Clone, Debug, PartialEq)]
pub struct SizeMix(Vec<(usize, f64)>);

impl SizeMix {
    /// One size for all.
    pub fn one(size: usize) -> SizeMix {
        SizeMix(vec![(size, 1.0)])
    }

    /// `4k:80,64k:15,1m:5`.
    pub fn parse(text: &str) -> Result<SizeMix, String> {
        let mut mix = Vec::new();
        for part in text.split(',') {
            let (size, weight) = part.split_once(':').unwrap_or((part, "1"));
            let weight: f64 = weight.parse().map_err(|_| format!("`{part}`: the weight is not a number"))?;
            if !(weight > 0.0 && weight.is_finite()) {
                return Err(format!("`{part}`: a weight is above zero"));
            }
            mix.push((crate::units::size(size)?, weight));
        }
        Ok(SizeMix(mix))
    }
}

/// What to send.
#[derive(Clone, Debug)]
pub struct TrafficConfig {
    /// Recipients' domains.
    pub template: DomainTemplate,
    /// How many of them: numbers 1 to this.
    pub domains: u32,
    /// How recipients spread over them.
    pub spread: Spread,
    /// Octets of a message, header included, roughly.
    pub sizes: SizeMix,
    /// Recipients of a message, each with an id (and mostly a domain) of its own. At least 1.
    pub recipients: u32,
    /// The reverse-path, without angle brackets; empty is the null sender.
    pub sender: String,
    /// Picks domains (Zipf) and sizes.
    pub seed: u64,
}

impl Default for TrafficConfig {
    fn default() -> TrafficConfig {
        TrafficConfig {
            template: DomainTemplate::default(),
            domains: 100,
            spread: Spread::Uniform,
            sizes: SizeMix::one(4096),
            recipients: 1,
            sender: "load@d0001.test".into(),
            seed: 1,
        }
    }
}

/// A body of one size, shared by all messages of that size: its octets but for the last line, and their checksum.
#[derive(Debug)]
pub struct Body {
    size: usize,
    /// Wire form: dot-stuffed, CRLF.
    pub octets: Vec<u8>,
    checksum: Hasher,
}

/// The header block and last line of a message, in buffers that are used again. On the wire: `head`, the body's
/// `octets`, `tail`; `tail` ends with the final dot.
#[derive(Default, Debug)]
#[allow(missing_docs)]
pub struct Draft {
    pub head: Vec<u8>,
    pub tail: Vec<u8>,
    pub body: Option<Arc<Body>>,
}

impl Draft {
    /// The three parts in the order of the wire.
    pub fn parts(&self) -> [&[u8]; 3] {
        [&self.head, self.body.as_ref().map_or(&[], |b| &b.octets), &self.tail]
    }
}

/// Room for header and last line inside a message's size.
const ENVELOPE_OCTETS: usize = 330;

/// Makes the mail of a run.
#[derive(Debug)]
pub struct Traffic {
    config: TrafficConfig,
    zipf: Option<Zipf<f64>>,
    bodies: Vec<(Arc<Body>, f64)>,
    /// Part of each Message-ID, so that two runs do not share any.
    run: u64,
    fixed: Vec<u8>,
}

impl Traffic {
    /// Prepares the bodies. Errors: a Zipf exponent or a number of domains or recipients that makes no sense.
    pub fn new(config: TrafficConfig) -> Result<Traffic, String> {
        if config.domains == 0 || config.recipients == 0 {
            return Err("there must be a domain and a recipient at least".into());
        }
        let zipf = match config.spread {
            Spread::Uniform => None,
            Spread::Zipf(s) => Some(Zipf::new(f64::from(config.domains), s).map_err(|e| format!("--zipf: {e}"))?),
        };
        let bodies = config.sizes.0.iter().map(|(size, weight)| (Arc::new(body(*size)), *weight)).collect();
        let run = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos() as u64);
        let fixed = format!(
            "From: Load Test <{}>\r\nDate: {}\r\nSubject: load test\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=us-ascii\r\n",
            config.sender,
            rfc5322_date(run / 1_000_000_000)
        );
        Ok(Traffic { config, zipf, bodies, run, fixed: fixed.into_bytes() })
    }

    /// What it was made of.
    pub fn config(&self) -> &TrafficConfig {
        &self.config
    }

    /// The number of the domain of a delivery.
    pub fn domain_of(&self, id: u64) -> u32 {
        match &self.zipf {
            None => (id % u64::from(self.config.domains)) as u32 + 1,
            Some(zipf) => {
                let mut rng = SmallRng::seed_from_u64(self.config.seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                (zipf.sample(&mut rng) as u32).clamp(1, self.config.domains)
            }
        }
    }

    /// Writes `u<id>@domain`.
    pub fn write_recipient(&self, id: u64, out: &mut Vec<u8>) {
        out.push(b'u');
        write_padded(id, 1, out);
        out.push(b'@');
        self.config.template.write(self.domain_of(id), out);
    }

    fn body_of(&self, first: u64) -> &Arc<Body> {
        if let [(only, _)] = self.bodies.as_slice() {
            return only;
        }
        let mut rng = SmallRng::seed_from_u64(self.config.seed ^ first.wrapping_mul(0xd134_2543_de82_ef95));
        &self.bodies.choose_weighted(&mut rng, |b| b.1).expect("a mix has weights above zero").0
    }

    /// Writes the message whose first delivery is `first` into `draft`.
    pub fn write(&self, first: u64, draft: &mut Draft) {
        let body = self.body_of(first);
        let (head, tail) = (&mut draft.head, &mut draft.tail);
        tail.clear();
        // The last line differs in each message: a body that arrives in another message's place is found out.
        tail.extend_from_slice(b"the end of u");
        write_padded(first, 1, tail);
        tail.extend_from_slice(b"\r\n");
        let mut checksum = body.checksum.clone();
        checksum.update(tail);
        head.clear();
        head.extend_from_slice(&self.fixed);
        head.extend_from_slice(b"To: ");
        self.write_recipient(first, head);
        head.extend_from_slice(b"\r\nMessage-ID: <");
        write_padded(first, 1, head);
        head.push(b'.');
        write_padded(self.run, 1, head);
        head.extend_from_slice(b"@load.test>\r\n");
        let tag = Tag {
            first,
            count: self.config.recipients,
            crc: checksum.finalize(),
            len: (body.octets.len() + tail.len()) as u64,
            sent_unix_ns: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos() as u64),
        };
        tag.write(head);
        head.extend_from_slice(b"\r\n");
        tail.extend_from_slice(b".\r\n");
        draft.body = Some(Arc::clone(body));
    }
}

/// A body of about `size` octets less the envelope's: text lines of 76 octets, every 16th dot-stuffed.
fn body(size: usize) -> Body {
    let want = size.saturating_sub(ENVELOPE_OCTETS).max(2);
    let mut octets = Vec::with_capacity(want);
    let mut rng = SmallRng::seed_from_u64(size as u64);
    let alphabet = b"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 +/=.,;";
    let mut line = 0u32;
    while want - octets.len() >= 2 {
        let text = (want - octets.len() - 2).min(74);
        // A dot at the start of a line is doubled on the wire (RFC 5321 §4.5.2).
        let dots = if line % 16 == 7 && text >= 3 { 2 } else { 0 };
        octets.extend_from_slice(&b".."[..dots]);
        octets.extend((dots..text).map(|i| match i {
            0 => b'x',
            _ => *alphabet.choose(&mut rng).expect("not empty"),
        }));
        octets.extend_from_slice(b"\r\n");
        line += 1;
    }
    let mut checksum = Hasher::new();
    checksum.update(&octets);
    Body { size, octets, checksum }
}

impl Body {
    /// The size it was asked to be, octets.
    pub fn size(&self) -> usize {
        self.size
    }
}

/// The header that lets the far end check a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tag {
    /// First delivery id of the message.
    pub first: u64,
    /// How many follow from it.
    pub count: u32,
    /// CRC-32 of the body on the wire.
    pub crc: u32,
    /// Octets of the body on the wire.
    pub len: u64,
    /// When the source made it, by civil time.
    pub sent_unix_ns: u64,
}

const TAG: &[u8] = b"X-Loadtest: ";

impl Tag {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(TAG);
        out.extend_from_slice(b"id=");
        write_padded(self.first, 1, out);
        out.extend_from_slice(b" n=");
        write_padded(u64::from(self.count), 1, out);
        out.extend_from_slice(b" crc=");
        write_padded(u64::from(self.crc), 1, out);
        out.extend_from_slice(b" len=");
        write_padded(self.len, 1, out);
        out.extend_from_slice(b" at=");
        write_padded(self.sent_unix_ns, 1, out);
        out.extend_from_slice(b"\r\n");
    }

    /// Finds the header in a header block (CRLF lines, with or without the blank one).
    pub fn find(header: &[u8]) -> Option<Tag> {
        let at = memchr::memmem::find_iter(header, TAG)
            .find(|at| *at == 0 || (*at >= 2 && &header[at - 2..*at] == b"\r\n"))?;
        let line = &header[at + TAG.len()..];
        let line = &line[..memchr::memchr(b'\r', line)?];
        let mut tag = Tag::default();
        let mut seen = 0;
        for field in line.split(|b| *b == b' ') {
            let eq = memchr::memchr(b'=', field)?;
            let n = number(&field[eq + 1..])?;
            match &field[..eq] {
                b"id" => tag.first = n,
                b"n" => tag.count = u32::try_from(n).ok()?,
                b"crc" => tag.crc = u32::try_from(n).ok()?,
                b"len" => tag.len = n,
                b"at" => tag.sent_unix_ns = n,
                _ => return None,
            }
            seen += 1;
        }
        (seen == 5).then_some(tag)
    }

    /// Whether this message was sent to that delivery's recipient.
    pub fn covers(&self, id: u64) -> bool {
        id >= self.first && id - self.first < u64::from(self.count)
    }
}

/// The number that all of `digits` is.
pub fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    digits.iter().try_fold(0u64, |n, b| match b {
        b'0'..=b'9' => n.checked_mul(10)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}

/// Civil date of a Unix time as RFC 5322 §3.3 writes it, in UTC.
pub fn rfc5322_date(unix_seconds: u64) -> String {
    let (days, time) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Days to civil date, proleptic Gregorian, years starting in March (Hinnant's algorithm), for dates after 1970.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days % 7) as usize];
    let mut out = Vec::new();
    // Writing to a Vec cannot fail.
    let _ = write!(
        out,
        "{weekday}, {day} {} {year} {:02}:{:02}:{:02} +0000",
        names[month as usize - 1],
        time / 3600,
        time / 60 % 60,
        time % 60
    );
    String::from_utf8(out).expect("ASCII")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn domains_by_template() {
        let t = DomainTemplate::parse("D####.Test").unwrap();
        assert_eq!((t.name(7), t.name(12345)), ("d0007.test".into(), "d12345.test".into()));
        assert_eq!(DomainTemplate::parse("example.org").unwrap().name(7), "example.org");
        assert!(DomainTemplate::parse("d#.#.test").is_err() && DomainTemplate::parse("d #").is_err());
    }

    #[test]
    fn a_message_has_its_size_and_checks_out() {
        for size in [1, 400, 4096, 65536] {
            let t =
                Traffic::new(TrafficConfig { sizes: SizeMix::one(size), recipients: 3, ..Default::default() }).unwrap();
            let mut d = Draft::default();
            t.write(123_456, &mut d);
            t.write(30, &mut d);
            let whole = d.parts().concat();
            if size >= 400 {
                assert!(whole.len().abs_diff(size) < 120, "{} for {size}", whole.len());
            }
            let split = memchr::memmem::find(&whole, b"\r\n\r\n").unwrap() + 4;
            let body = &whole[split..whole.len() - 3];
            let tag = Tag::find(&whole[..split]).unwrap();
            assert_eq!((tag.first, tag.count, tag.len), (30, 3, body.len() as u64));
            assert_eq!(tag.crc, crc32fast::hash(body));
            assert!(tag.covers(32) && !tag.covers(33) && !tag.covers(29));
            assert!(whole.ends_with(b"\r\n.\r\n"));
            // Every line ends in CRLF, none is over RFC 5321's 1000 octets, none but the last is a single dot.
            for line in body.split_inclusive(|b| *b == b'\n') {
                assert!(line.ends_with(b"\r\n") && line.len() < 1000 && line != b".\r\n");
                assert!(line[0] != b'.' || line[1] == b'.');
            }
        }
    }

    #[test]
    fn sizes_and_domains_follow_the_id_alone() {
        let config = TrafficConfig {
            sizes: SizeMix::parse("1k:80,8k:20").unwrap(),
            spread: Spread::Zipf(1.1),
            domains: 50,
            ..Default::default()
        };
        let (a, b) = (Traffic::new(config.clone()).unwrap(), Traffic::new(config).unwrap());
        let mut small = 0;
        let mut first = 0;
        for id in 0..2000 {
            assert_eq!(a.domain_of(id), b.domain_of(id));
            assert_eq!(a.body_of(id).size(), b.body_of(id).size());
            small += u32::from(a.body_of(id).size() == 1024);
            first += u32::from(a.domain_of(id) == 1);
        }
        assert!((1500..1700).contains(&small), "{small}");
        assert!(first > 300, "{first}");
    }

    #[test]
    fn dates() {
        assert_eq!(rfc5322_date(0), "Thu, 1 Jan 1970 00:00:00 +0000");
        assert_eq!(rfc5322_date(951_827_696), "Tue, 29 Feb 2000 12:34:56 +0000");
    }
}
