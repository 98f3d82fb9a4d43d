//! Reports of TLS (TLSRPT, RFC 8460): sessions counted by day and domain, kept on disk, and reported when the day (UTC) is over.
//!
//! In: what shards tell of connections, what became of fetches of MTA-STS policies, the time, answers about domains' records. Out:
//! a file for each day under `tls-reports` in the spool's folder, written whole or not at all; questions for a shard's resolver;
//! and mail, which a shard accepts as its own. Lives on the control thread. It refuses to hold mail up: what shards cannot tell is
//! dropped. A report goes at a moment that depends on domain and day, within `tls_reports.delay` of the day's end; it may go
//! twice after a crash.

use super::{Command, sts};
use crate::config::{Config, TlsReports};
use crate::limits::{
    TLSRPT_ANSWER_TIME, TLSRPT_DAYS, TLSRPT_DOMAINS, TLSRPT_LATE, TLSRPT_QUESTIONS, TLSRPT_RETRY, TLSRPT_SAVE_INTERVAL,
};
use crate::message::tls_report::TlsReportMail;
use crate::shard::event::RuaRecord;
use crate::shard::mailbox::{OwnMail, StsNews};
use crate::starttls::report::{Applied, Day, ResultType, Rua, Session, Submitter, day_of, record_uris};
use crate::time::Wall;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where days are kept, in the spool's folder.
pub fn folder(spool: &Path) -> PathBuf {
    spool.join("tls-reports")
}

/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;

/// The days that are kept, by name; files that are none are left alone.
///
/// # Errors
/// The folder cannot be read; a day that cannot is told and left out.
pub fn load(folder: &Path) -> io::Result<BTreeMap<String, Day>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut days = BTreeMap::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(day) = name.strip_suffix(".json").filter(|day| start_of(day).is_some()) else { continue };
        let read = fs::read(&path).and_then(|text| Ok(serde_json::from_slice::<Day>(&text)?));
        match read {
            Ok(kept) if kept.day == day => drop(days.insert(day.to_owned(), kept)),
            Ok(kept) => tracing::error!("{}: it is of {}; not used", path.display(), kept.day),
            Err(error) => tracing::error!("{}: {error}; not used", path.display()),
        }
    }
    Ok(days)
}

/// Writes a day beside the old one, and then in its place.
fn keep(folder: &Path, day: &Day) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let (new, path) = (folder.join(format!(".{}", day.day)), folder.join(format!("{}.json", day.day)));
    let mut file = fs::File::create(&new)?;
    file.write_all(&serde_json::to_vec(day)?)?;
    file.sync_data()?;
    fs::rename(&new, &path)?;
    fs::File::open(folder)?.sync_all()
}

/// Midnight of a day by name.
fn start_of(day: &str) -> Option<Wall> {
    let date: jiff::civil::Date = day.parse().ok()?;
    let start = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond();
    (day.len() == 10).then_some(Wall(u64::try_from(start).ok()?))
}

/// See the module.
pub struct Reports {
    settings: TlsReports,
    host: String,
    folder: PathBuf,
    shards: u16,
    days: BTreeMap<String, Day>,
    /// Days that have changed since they were written.
    changed: Vec<String>,
    saved: Wall,
    /// Domains of days that are over, by day and name, with when to ask for their record.
    due: BTreeMap<(String, String), Wall>,
    /// Records that were asked for, and until when to wait.
    asked: HashMap<String, Wall>,
    /// Our address towards one of theirs.
    sources: HashMap<IpAddr, Option<IpAddr>>,
}

impl Reports {
    /// With what was kept; `None` where nothing is to be reported.
    pub fn new(config: &Config, now: Wall) -> Option<Reports> {
        let settings = config.tls_reports.clone()?;
        let folder = folder(&config.spool.path);
        let days = load(&folder).unwrap_or_else(|error| {
            tracing::error!("{}: {error}; reports of TLS begin anew", folder.display());
            BTreeMap::new()
        });
        let mut reports = Reports {
            settings,
            host: config.hostname.clone(),
            folder,
            shards: u16::try_from(config.shards).unwrap_or(1).max(1),
            days,
            changed: Vec::new(),
            saved: now,
            due: BTreeMap::new(),
            asked: HashMap::new(),
            sources: HashMap::new(),
        };
        let today = day_of(now);
        let past: Vec<String> = reports.days.keys().filter(|day| **day < today).cloned().collect();
        past.iter().for_each(|day| reports.end(day));
        Some(reports)
    }

    /// Counts a session.
    pub fn count(&mut self, session: &Session) {
        let name = day_of(session.at);
        if session.source.is_some() || session.failure.is_none() {
            self.day(name).count(session);
        } else {
            let source = session.remote.and_then(|remote| self.source(remote));
            self.day(name).count(&Session { source, ..session.clone() });
        }
    }

    /// Counts an MTA-STS policy that could not be had.
    pub fn count_unfetched(&mut self, news: &StsNews, kind: ResultType, now: Wall) {
        let why = news.fetched.as_ref().err().map_or("", |why| why.as_str());
        let session = Session {
            at: now,
            domain: news.domain.clone(),
            policy: Applied::Sts(None),
            host: "".into(),
            remote: None,
            source: None,
            failure: Some((kind, why.into())),
        };
        self.day(day_of(now)).count(&session);
    }

    /// The day of that name, which has changed.
    fn day(&mut self, name: String) -> &mut Day {
        if !self.changed.contains(&name) {
            self.changed.push(name.clone());
        }
        self.days.entry(name.clone()).or_insert_with(|| Day::new(name))
    }

    /// The address that the kernel would connect from; nothing is sent.
    fn source(&mut self, remote: IpAddr) -> Option<IpAddr> {
        if self.sources.len() >= TLSRPT_DOMAINS {
            self.sources.clear();
        }
        *self.sources.entry(remote).or_insert_with(|| {
            let any: SocketAddr = if remote.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
            let socket = UdpSocket::bind(any).ok()?;
            socket.connect((remote, 25)).ok()?;
            socket.local_addr().ok().map(|local| local.ip())
        })
    }

    /// A day is over.
    fn end(&mut self, name: &str) {
        let (Some(day), Some(start)) = (self.days.get(name), start_of(name)) else { return };
        let delay = u64::try_from(self.settings.delay.as_millis()).unwrap_or(u64::MAX);
        for domain in day.domains.iter().filter(|(_, counted)| !counted.done).map(|(domain, _)| domain) {
            // RFC 8460 §4.1 asks for a random time, so that not all reporters come at once.
            let mut hasher = DefaultHasher::new();
            (name, domain, &self.host).hash(&mut hasher);
            let at = Wall(start.0 + DAY_MS + hasher.finish() % delay.max(1));
            self.due.insert((name.to_owned(), domain.clone()), at);
        }
    }

    /// What time it is: days end, questions are asked. Each second.
    pub fn tick(&mut self, now: Wall) -> Vec<Command> {
        let today = day_of(now);
        let over: Vec<String> = self.days.keys().filter(|day| **day < today).cloned().collect();
        for name in over {
            let is_known = self.due.keys().any(|(day, _)| *day == name);
            let is_open = self.days[&name].domains.values().any(|counted| !counted.done);
            if is_open && !is_known {
                self.end(&name);
            }
        }
        self.asked.retain(|_, until| *until > now);
        self.drop_late(now);
        let mut questions = Vec::new();
        for ((_, domain), at) in &mut self.due {
            if self.asked.len() >= TLSRPT_QUESTIONS {
                break;
            }
            if *at > now || self.asked.contains_key(domain) {
                continue;
            }
            *at = later(now, TLSRPT_RETRY);
            self.asked.insert(domain.clone(), later(now, TLSRPT_ANSWER_TIME));
            let mut hasher = DefaultHasher::new();
            domain.hash(&mut hasher);
            let shard = u16::try_from(hasher.finish() % u64::from(self.shards)).unwrap_or_default();
            questions.push(Command::RuaRecord(shard, domain.as_str().into()));
        }
        questions
    }

    /// Reports that nobody could be found for in time are dropped, and days that nobody asks for any more.
    fn drop_late(&mut self, now: Wall) {
        let is_late = |day: &str| {
            start_of(day).is_none_or(|start| now.since(start) > Duration::from_millis(DAY_MS) + TLSRPT_LATE)
        };
        let late: Vec<_> = self.due.keys().filter(|(day, _)| is_late(day)).cloned().collect();
        for (day, domain) in late {
            self.done(&day, &domain);
        }
        while self.days.len() > TLSRPT_DAYS {
            let Some((day, _)) = self.days.pop_first() else { return };
            self.due.retain(|(of, _), _| *of != day);
            self.changed.retain(|of| *of != day);
            drop(fs::remove_file(self.folder.join(format!("{day}.json"))));
        }
    }

    fn done(&mut self, day: &str, domain: &str) {
        self.due.remove(&(day.to_owned(), domain.to_owned()));
        if let Some(counted) = self.day(day.to_owned()).domains.get_mut(domain) {
            counted.done = true;
        }
    }

    /// A domain's record: its reports go where that says, or nowhere.
    pub fn answered(&mut self, record: &RuaRecord, now: Wall) -> Vec<Command> {
        if self.asked.remove(&*record.domain).is_none() {
            return Vec::new();
        }
        // DNS failed: asked again later.
        let Some(texts) = &record.texts else { return Vec::new() };
        let wanted = record_uris(texts.iter().map(|text| &**text));
        let days: Vec<String> =
            self.due.keys().filter(|(_, domain)| **domain == *record.domain).map(|(day, _)| day.clone()).collect();
        let mut mails = Vec::new();
        for day in days {
            for to in &wanted {
                match to {
                    Rua::Mail(to) => mails.extend(self.mail(&day, &record.domain, to, now)),
                    Rua::Https(uri) => {
                        tracing::info!("TLS report of {} for {day}: {uri} is not posted to", record.domain);
                    }
                }
            }
            self.done(&day, &record.domain);
        }
        mails
    }

    fn mail(&self, day: &str, domain: &str, to: &str, now: Wall) -> Option<Command> {
        let TlsReports { organization, contact, from, .. } = &self.settings;
        let submitter = Submitter { organization, contact, host: &self.host };
        let report = self.days.get(day)?.report(domain, &submitter)?;
        let json = serde_json::to_vec(&report).ok()?;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&json).ok()?;
        let gzip = gzip.finish().ok()?;
        let first = start_of(day)?.0 / 1000;
        let mail = TlsReportMail {
            from,
            to,
            domain,
            report_id: &report.report_id,
            day,
            seconds: (first, first + DAY_MS / 1000 - 1),
            host: &self.host,
            organization,
            gzip: &gzip,
            now,
        };
        tracing::info!("TLS report of {domain} for {day}: to {to}");
        let mail = OwnMail { sender: from.clone(), recipient: to.to_owned(), wire: mail.build() };
        Some(Command::Submit(0, Arc::new(mail)))
    }

    /// What is to be written now, if it is time.
    pub fn unsaved(&mut self, now: Wall, at_once: bool) -> Option<impl FnOnce() + Send + 'static> {
        if self.changed.is_empty() || !(at_once || now.since(self.saved) >= TLSRPT_SAVE_INTERVAL) {
            return None;
        }
        self.saved = now;
        let days: Vec<Day> =
            std::mem::take(&mut self.changed).iter().filter_map(|name| self.days.get(name).cloned()).collect();
        let folder = self.folder.clone();
        Some(move || {
            for day in days {
                if let Err(error) = keep(&folder, &day) {
                    tracing::error!("{}: {error}; TLS sessions of {} are not kept", folder.display(), day.day);
                }
            }
        })
    }
}

fn later(now: Wall, by: Duration) -> Wall {
    Wall(now.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
}

/// Now, for this thread.
pub(super) fn now() -> Wall {
    sts::wall()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn config(folder: &Path) -> Config {
        let machine = crate::config::Machine { directory: folder.to_owned(), cores: 1, ..Default::default() };
        let text = "hostname = \"mta.sender.example\"\n[dns]\nservers = [\"192.0.2.53:53\"]\n[tls_reports]\n\
                    organization = \"Sender\"\ncontact = \"a@sender.example\"\nfrom = \"tlsrpt@sender.example\"\ndelay = \"1h\"\n";
        crate::config::parse("test", text, &machine).unwrap().config
    }

    fn session(at: Wall, domain: &str, failure: bool) -> Session {
        Session {
            at,
            domain: domain.into(),
            policy: Applied::None,
            host: "mx.test".into(),
            remote: Some([127, 0, 0, 1].into()),
            source: None,
            failure: failure.then(|| (ResultType::StarttlsNotSupported, "".into())),
        }
    }

    const NOON: Wall = Wall(20_000 * DAY_MS + DAY_MS / 2);

    fn record(domain: &str, text: Option<&str>) -> RuaRecord {
        RuaRecord { domain: domain.into(), texts: text.map(|text| vec![text.as_bytes().into()]) }
    }

    #[test]
    fn a_day_is_reported_once_when_it_is_over_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let mut reports = Reports::new(&config, NOON).unwrap();
        for failure in [true, false, true] {
            reports.count(&session(NOON, "a.example", failure));
        }
        reports.count(&session(NOON, "b.example", false));
        assert!(reports.tick(NOON).is_empty(), "the day is not over");
        assert!(reports.unsaved(NOON, false).is_none());
        reports.unsaved(NOON, true).unwrap()();
        // The next life begins the day after.
        let morning = Wall(20_001 * DAY_MS + 2 * 3_600_000);
        let mut reports = Reports::new(&config, morning).unwrap();
        let asked = reports.tick(morning);
        let names: Vec<_> = asked
            .iter()
            .map(|command| match command {
                Command::RuaRecord(0, domain) => domain.to_string(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["a.example", "b.example"]);
        assert!(reports.tick(morning).is_empty(), "once");
        let sent = reports.answered(&record("a.example", Some("v=TLSRPTv1; rua=mailto:r@a.example")), morning);
        let [Command::Submit(0, mail)] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!((&*mail.sender, &*mail.recipient), ("tlsrpt@sender.example", "r@a.example"));
        assert!(reports.answered(&record("a.example", Some("v=TLSRPTv1; rua=mailto:r@a.example")), morning).is_empty());
        // DNS fails: asked again.
        assert!(reports.answered(&record("b.example", None), morning).is_empty());
        let soon = later(morning, TLSRPT_RETRY);
        assert_eq!(reports.tick(soon).len(), 1);
        assert!(reports.answered(&record("b.example", Some("nothing")), soon).is_empty());
        assert!(reports.tick(later(soon, TLSRPT_RETRY)).is_empty());
        reports.unsaved(soon, true).unwrap()();
        let mut reports = Reports::new(&config, soon).unwrap();
        assert!(reports.tick(later(soon, TLSRPT_RETRY)).is_empty());
        let day = &reports.days["2024-10-04"];
        assert!(day.domains.values().all(|domain| domain.done));
        let tally = &day.domains["a.example"].policies[0];
        assert_eq!((tally.summary.total_failure_session_count, tally.failure_details.len()), (2, 1));
        assert_eq!(tally.failure_details[0].sending_mta_ip, Some([127, 0, 0, 1].into()));
    }

    #[test]
    fn reports_are_spread_and_questions_bounded_and_what_is_late_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let mut reports = Reports::new(&config, NOON).unwrap();
        for n in 0..500 {
            reports.count(&session(NOON, &format!("d{n}.example"), false));
        }
        let midnight = Wall(20_001 * DAY_MS);
        assert!(reports.tick(midnight).len() < 10, "not all at once");
        let hour = later(midnight, Duration::from_secs(3600));
        assert!(reports.tick(hour).len() <= TLSRPT_QUESTIONS);
        assert_eq!(reports.due.len(), 500);
        reports.tick(later(midnight, TLSRPT_LATE + Duration::from_secs(1)));
        assert!(reports.due.is_empty() && reports.days["2024-10-04"].domains.values().all(|domain| domain.done));
        for day in 0..2 * TLSRPT_DAYS as u64 {
            reports.count(&session(Wall(NOON.0 + day * DAY_MS), "a.example", false));
        }
        reports.tick(later(NOON, Duration::from_millis(100 * DAY_MS)));
        assert_eq!(reports.days.len(), TLSRPT_DAYS);
    }

    #[test]
    fn what_is_no_day_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["x.json", "2026-13-01.json", ".2026-11-22", "2026-11-22.json", "2026-11-23.json"] {
            fs::write(folder.path().join(name), "{\"day\": \"2026-11-22\", \"domains\": {}, \"lost\": 0}").unwrap();
        }
        assert_eq!(load(folder.path()).unwrap().keys().collect::<Vec<_>>(), ["2026-11-22"]);
        assert!(load(&folder.path().join("none")).unwrap().is_empty());
    }
}
