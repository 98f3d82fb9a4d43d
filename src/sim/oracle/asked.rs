//! Rules about what letters ask for, and about limits of accounts: REQUIRETLS, DELIVERBY and holds are honoured, parameters
//! go on to who announces them, senders hear what they asked to hear, and no account sends more than it may.

use super::{Account, Oracle, domain_of, is_known};
use crate::sim::client::Sent;
use crate::sim::guise::{LIMITS, Login};
use crate::sim::hop::Received;
use crate::sim::scenario::Way;
use crate::sim::world::World;
use crate::time::{Moment, Now};
use std::net::IpAddr;
use std::time::Duration;

/// From the relay's decision to send MAIL until a next hop has it that nothing is the matter with: behind a body that is on
/// its way, and the reply to that, with the longest latency that a scenario has.
const ON_THE_WAY: Duration = Duration::from_secs(10);
/// The longest attempt: a peer has 10 minutes to answer the final dot, and less for all that comes before.
const ATTEMPT: Duration = Duration::from_secs(20 * 60);
const MINUTE: Duration = Duration::from_secs(60);
/// What an account has used comes back so much later than a minute at the most, after a crash (`quota::mod`).
const LATE: Duration = Duration::from_secs(60);

impl Oracle<'_> {
    /// Whether a time on the wall that was noted at the letter's MAIL may mean another moment at `at`: it is looked up when
    /// the letter is accepted, and after each restart.
    fn clock_moved(&self, sent: &Sent, at: Moment) -> bool {
        let accepted = sent.verdict.as_ref().map_or(at, |(_, accepted, _)| *accepted);
        self.wall_jumps.iter().any(|jump| *jump >= sent.begun && *jump <= accepted)
            || !self.wall_jumps.is_empty() && self.ends.iter().any(|end| *end >= sent.begun && *end <= at)
    }

    fn stood_still(&self, from: Moment, until: Moment) -> bool {
        self.stalls.iter().any(|(begin, end)| *begin <= until && *end >= from)
    }

    fn announces(&self, ip: IpAddr, keyword: &str) -> bool {
        self.scenario.announced_by(ip).iter().any(|line| line.split(' ').next() == Some(keyword))
    }

    /// When a letter is late that has a time to be delivered by: at the earliest, and at the latest. The relay notes it by its wall
    /// clock, which leaves out what is less than a millisecond.
    fn deadline(sent: &Sent, time: Duration) -> (Moment, Moment) {
        let granted = sent.granted.0.or(sent.verdict.as_ref().map(|(_, at, _)| *at)).unwrap_or(sent.begun);
        (sent.begun + time.saturating_sub(Duration::from_millis(1)), granted + time)
    }

    /// Whether it may be returned because of what it asks for.
    pub(super) fn asked_too_much(&self, sent: &Sent, to: &str, at: Now) -> Option<&'static str> {
        let (asks, hosts) = (sent.door.asks, self.scenario.exchangers(&domain_of(to)));
        let lacks = |keyword: &str| hosts.iter().any(|ip| !self.announces(*ip, keyword));
        if asks.require_tls && !sent.letter.sender.is_empty() {
            return Some("TLS, which no next hop may have that can be believed");
        }
        if asks.binary && (lacks("BINARYMIME") || lacks("CHUNKING")) {
            return Some("binary");
        }
        // Whether its header is in ASCII nobody looks up in a body that is in chunks.
        if asks.utf8 && lacks("SMTPUTF8") && sent.letter.body.len() > self.scenario.geometry.chunk_bytes as usize / 2 {
            return Some("may have UTF-8 in its header");
        }
        let by = asks.by.filter(|by| by.return_late)?;
        let wants_time = || hosts.iter().any(|ip| self.scenario.announced_by(*ip).iter().any(|l| l == "DELIVERBY 120"));
        if lacks("DELIVERBY") || wants_time() {
            return Some("to be delivered by a time, which a next hop does not promise");
        }
        let late = at.mono + Duration::from_secs(1) >= Self::deadline(sent, by.time).0;
        (late || self.clock_moved(sent, at.mono)).then_some("late")
    }

    /// A copy that went on as it was asked for, when it was asked for, saying all that the next hop takes.
    pub(super) fn check_asked(&mut self, sent: &Sent, ip: IpAddr, copy: &Received) {
        let (mark, asks) = (sent.letter.mark, sent.door.asks);
        // RFC 8689 §5: the null sender's mail is a notification, which goes as well as it can.
        let told = copy.said.first().is_some_and(|mail| mail.split(' ').any(|word| word == "REQUIRETLS"));
        if asks.require_tls && !sent.letter.sender.is_empty() && !(copy.secure && told) {
            self.violate("requiretls", format!("#{mark} required TLS and went to {ip} in the clear, or untold"));
        }
        let Some(mail) = copy.said.first() else { return };
        let announced = |keyword: &str| copy.announced.announces(keyword);
        let says = |line: &str, word: &str| line.split(' ').any(|said| said == word);
        let trusted = sent.door.near || sent.door.account.is_some();
        for word in asks.mail_onward(trusted, announced) {
            if !says(mail, &word) {
                self.violate("parameters", format!("#{mark}: {ip} announces what takes {word}, and was told {mail}"));
            }
        }
        let rcpt = asks.rcpt();
        for line in copy.said.iter().skip(1).filter(|_| announced("DSN")) {
            if !rcpt.split_whitespace().all(|word| says(line, word)) {
                self.violate("parameters", format!("#{mark}: {ip} takes{rcpt}, and was told {line}"));
            }
        }
        if self.clock_moved(sent, copy.mail_at) {
            return;
        }
        if let Some(hold) = asks.hold
            && copy.mail_at + Duration::from_millis(10) < sent.begun + hold
        {
            let early = (sent.begun + hold).since(copy.mail_at);
            self.violate("hold", format!("#{mark} to be held for {hold:?} went to {ip} {early:?} early"));
        }
        let Some(by) = asks.by else { return };
        let (first, last) = Self::deadline(sent, by.time);
        // What the next hop does not read at once, or what waits in a relay that stands still, was decided before.
        if self.troubled.contains(&ip) || self.stood_still(sent.begun, copy.mail_at) {
            return;
        }
        if by.return_late && copy.mail_at > last + ON_THE_WAY {
            let late = copy.mail_at.since(last);
            self.violate("deliver by", format!("#{mark} went to {ip} {late:?} after the time it was of use until"));
        }
        let word = mail.split(' ').find_map(|word| word.strip_prefix("BY="));
        if let (true, Some(word)) = (announced("DELIVERBY"), word) {
            let seconds = |at: Moment| (at.0 as i64 - copy.mail_at.0 as i64) / 1_000_000_000;
            let range = seconds(first) - 1..=seconds(last) + ON_THE_WAY.as_secs() as i64;
            let (number, mode) = word.split_at(word.find(';').unwrap_or(word.len()));
            if !number.parse().is_ok_and(|number: i64| range.contains(&number)) || mode != by.mode() {
                self.violate("deliver by", format!("#{mark}: {ip} was told {mail}, which is not within {range:?}"));
            }
        } else if announced("DELIVERBY") {
            self.violate("deliver by", format!("#{mark}: {ip} was not told of it: {mail}"));
        }
    }

    /// What the sender was told of a recipient is what it asked to be told of.
    pub(super) fn check_told(&mut self, world: &World, account: &Account<'_>, sent: &Sent, key: &(u32, String)) {
        let (mark, to) = (key.0, &key.1);
        let asks = sent.door.asks;
        let Some(id) = sent.accepted() else { return };
        let copies = account.copies.get(key).map_or(&[][..], Vec::as_slice);
        let failures = account.notes(id, to);
        let tidings = account.tidings.get(&(id.to_owned(), to.clone())).map_or(&[][..], Vec::as_slice);
        if !failures.is_empty() && !asks.is_told_of("FAILURE") {
            self.violate("notify", format!("#{mark} to {to}: of a failure the sender did not want to hear"));
        }
        let body = &sent.letter.body;
        let shows = |note: &&Received| body.len() > 20 && memchr::memmem::find(&note.data, body).is_some();
        if asks.require_tls && failures.iter().any(shows) {
            self.violate("requiretls", format!("#{mark} to {to}: its text was returned in the clear"));
        }
        let deadline = asks.by.map(|by| (by, Self::deadline(sent, by.time)));
        // RFC 3461 §5.2.3: what is in the mailbox is delivered, not relayed; and it is on time.
        let local = self.scenario.is_local(&domain_of(to));
        let passed_on = if local { "delivered" } else { "relayed" };
        let passing = |copy: &Received| {
            let announces = |keyword| copy.announced.announces(keyword);
            if local {
                asks.is_told_of("SUCCESS") && !announces("DSN")
            } else {
                asks.is_told_of_relaying(announces("DSN"), announces("DELIVERBY"))
            }
        };
        let discarded =
            self.scenario.way(&domain_of(to)) == Some(Way::Discard) && asks.is_told_of_relaying(false, false);
        for (word, note) in tidings {
            let reason = match (word.as_str(), deadline) {
                // What is discarded is told as what was passed on: nobody will tell more.
                (word, _) if word == passed_on => discarded || copies.iter().any(|(_, copy)| passing(copy)),
                ("delayed", Some((by, (first, _)))) => {
                    let late = note.at >= first || self.clock_moved(sent, note.at);
                    !by.return_late && late && (asks.notify.is_none() || asks.is_told_of("DELAY"))
                }
                _ => false,
            };
            if !reason {
                let (at, due) = (note.at, deadline.map(|(_, (first, _))| first));
                let text =
                    format!("#{mark} to {to} was reported as {word} at {at:?}, due at {due:?}, asking for {asks:?}");
                self.violate("notify", text);
            }
        }
        for word in [passed_on, "delayed"] {
            let times = tidings.iter().filter(|(said, note)| said == word && is_known(world, note)).count();
            if times > 1 + 2 * self.ends.len() {
                self.violate("notify", format!("#{mark} to {to} was reported {times} times as {word}"));
            }
        }
        // What is to be told is told, if nothing came between: a process that ends may do so between delivery and report.
        let quiet = self.ends.is_empty() && self.disk_troubles.is_empty() && self.stalls.is_empty() && !self.headless;
        let sender = sent.letter.sender.to_ascii_lowercase();
        if !quiet || sender.is_empty() || self.out_of_reach(world.sim.now(), account, sent, &sender).is_some() {
            return;
        }
        let told = |word: &str| tidings.iter().any(|(said, _)| said == word);
        let first_known = copies.iter().find(|(_, copy)| is_known(world, copy));
        if first_known.is_some_and(|(_, copy)| passing(copy)) && !told(passed_on) {
            self.violate("notify", format!("#{mark} to {to} went on, which the sender was to be told: {asks:?}"));
        }
        let Some((by, (_, last))) = deadline else { return };
        let (went, failed) = (copies.first().map(|(_, copy)| copy.mail_at), failures.first().map(|note| note.at));
        let late = went.into_iter().chain(failed).min().is_some_and(|at| at > last + ATTEMPT);
        if late && by.return_late {
            self.violate(
                "deliver by",
                format!("#{mark} to {to} was of no use after {last:?}, and kept: {went:?}, {failed:?}"),
            );
        }
        if late && !by.return_late && asks.notify.is_none() && !told("delayed") {
            self.violate("deliver by", format!("#{mark} to {to} is late, which the sender was to be told"));
        }
    }

    /// In no minute an account is granted more than it may have, and nothing is refused to it before.
    pub(super) fn check_quotas(&mut self, world: &World) {
        // Without a disk that keeps what it confirmed, or with a clock that was set before it was noted, a restart knows less.
        let forgets = self.scenario.has_scars || !self.wall_jumps.is_empty() || !self.disk_troubles.is_empty();
        if !self.scenario.limited || forgets && !self.ends.is_empty() {
            return;
        }
        let all: Vec<&Sent> = world.clients().flat_map(|client| &client.sent).collect();
        for (login, limit) in LIMITS {
            let of: Vec<&Sent> = all.iter().copied().filter(|sent| sent.door.account == Some(login)).collect();
            let messages = of.iter().filter_map(|sent| Some((sent.begun, sent.granted.0?)));
            let recipients = of.iter().flat_map(|sent| sent.granted.1.iter().map(|at| (sent.begun, *at)));
            self.check_granted(login, "messages", limit.messages, messages.collect());
            self.check_granted(login, "recipients", limit.recipients, recipients.collect());
            for sent in &of {
                for (path, reply, at) in sent.denied.iter().filter(|(_, reply, _)| reply.starts_with("452 4.7.1")) {
                    // Whatever was asked for within the minute may have been counted, also what was not granted then.
                    let recent = |other: &&&Sent| other.begun <= *at && at.since(other.begun) <= MINUTE + LATE;
                    let asked = of.iter().filter(recent);
                    let (asked, most) = if path.is_empty() {
                        (asked.count(), limit.messages)
                    } else {
                        (asked.map(|other| other.letter.recipients.len()).sum(), limit.recipients)
                    };
                    let ended = self.ends.iter().any(|end| *end <= *at && at.since(*end) <= MINUTE + LATE);
                    if asked <= most && !ended {
                        let mark = sent.letter.mark;
                        self.violate(
                            "quota",
                            format!("#{mark} {path} of {login:?}: {asked} of {most} asked for, {reply}"),
                        );
                    }
                }
            }
        }
    }

    /// Of `units`, each taken between two moments, more than `most` were certainly taken within a minute.
    fn check_granted(&mut self, login: Login, what: &str, most: usize, mut units: Vec<(Moment, Moment)>) {
        units.sort_unstable();
        for (at, (from, _)) in units.iter().enumerate() {
            let within = units[at..].iter().filter(|(_, until)| *until < *from + MINUTE).count();
            if within > most {
                self.violate(
                    "quota",
                    format!("{login:?} was granted {within} {what} of {most} in a minute, from {from:?}"),
                );
                return;
            }
        }
    }
}
