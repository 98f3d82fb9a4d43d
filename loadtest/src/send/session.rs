//! The sessions of a source: who sends what when, what is tried again, what becomes of each delivery. Lives on the source's thread.

use super::connection::Connection;
use super::{Delivery, Progress, SendConfig, SendReport, Until};
use crate::now_ns;
use crate::traffic::{Draft, Traffic};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::Semaphore;

/// A wait for one message's replies longer than this counts as a dead connection. Above RFC 5321 §4.5.3.2's longest.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(660);
/// Between two attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// First wait before a message is tried again; doubles each time, up to 64 times this.
const RETRY_PAUSE_NS: u64 = 20_000_000;

/// A message to send: all its recipients at first, later those that are still to be tried.
struct Job {
    first: u64,
    ids: Vec<u64>,
    tries: u32,
    /// When it was due; 0: in closed loop, when its MAIL is written.
    due_ns: u64,
    not_before_ns: u64,
}

struct Run {
    config: SendConfig,
    traffic: Traffic,
    progress: Arc<Progress>,
    report: RefCell<SendReport>,
    next: Cell<u64>,
    again: RefCell<VecDeque<Job>>,
    start_ns: u64,
    /// Messages that are due, in open loop.
    due: Option<Arc<Semaphore>>,
}

/// Sends it all.
pub(super) async fn run(config: SendConfig, traffic: Traffic, progress: Arc<Progress>) -> SendReport {
    let start_ns = now_ns();
    let due = config.rate.map(|rate| {
        let due = Arc::new(Semaphore::new(0));
        pace(rate, config.until, Arc::clone(&due), Arc::clone(&progress));
        due
    });
    let sessions = config.sessions;
    let first_id = config.first_id;
    let mut report = SendReport { first_id, ..SendReport::default() };
    if let Until::Messages(n) = config.until {
        report.deliveries.reserve(n.min(1 << 27) as usize * config.traffic.recipients as usize);
    }
    let run = Rc::new(Run {
        config,
        traffic,
        progress,
        report: RefCell::new(report),
        next: Cell::new(0),
        again: RefCell::default(),
        start_ns,
        due,
    });
    let local = tokio::task::LocalSet::new();
    let tasks: Vec<_> = (0..sessions).map(|_| local.spawn_local(Rc::clone(&run).session())).collect();
    local
        .run_until(async {
            for t in tasks {
                let _ = t.await;
            }
        })
        .await;
    let mut report = run.report.take();
    report.unsent = run.again.borrow().iter().map(|j| j.ids.len() as u64).sum();
    if let Until::Messages(n) = run.config.until {
        report.unsent += (n - run.next.get().min(n)) * u64::from(run.config.traffic.recipients);
    }
    let end = if report.span_ns.1 > 0 { report.span_ns.1 } else { now_ns() };
    report.elapsed = Duration::from_nanos(end.saturating_sub(start_ns));
    report
}

/// Releases messages when they are due. A thread of its own: tokio's timers are good to a millisecond only.
fn pace(rate: f64, until: Until, due: Arc<Semaphore>, progress: Arc<Progress>) {
    let start = std::time::Instant::now();
    let total = match until {
        Until::Messages(n) => n,
        Until::Elapsed(d) => (d.as_secs_f64() * rate) as u64,
    };
    let work = move || {
        let mut released = 0;
        while released < total && !progress.stop.load(Relaxed) {
            let now = ((start.elapsed().as_secs_f64() * rate) as u64 + 1).min(total);
            due.add_permits((now - released) as usize);
            released = now;
            let next = Duration::from_secs_f64(released as f64 / rate);
            std::thread::sleep(next.saturating_sub(start.elapsed()));
        }
        // Whoever waits learns that there is no more, after the permits still there are used up.
        while due.available_permits() > 0 && !progress.stop.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        due.close();
    };
    if let Err(e) = std::thread::Builder::new().name("pacer".into()).spawn(work) {
        eprintln!("send: no thread for the pace: {e}");
    }
}

/// How a session goes on after a message.
enum Then {
    /// With the next message, on this connection.
    Go,
    /// On a new connection, after QUIT.
    Quit,
    /// On a new connection: this one is dead.
    Dead(io::Error),
}

impl Run {
    async fn session(self: Rc<Run>) {
        let mut draft = Draft::default();
        let mut commands = Vec::new();
        let mut failing_since: Option<u64> = None;
        while let Some(job) = self.take_job().await {
            let opened =
                tokio::time::timeout(MESSAGE_DEADLINE, Connection::open(self.config.target, self.config.source));
            match opened.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(Ok(mut connection)) => {
                    failing_since = None;
                    self.report.borrow_mut().connections += 1;
                    match self.talk(&mut connection, job, &mut draft, &mut commands).await {
                        Then::Go | Then::Quit => connection.quit().await,
                        Then::Dead(e) => self.note_broken(&e),
                    }
                    continue;
                }
                Ok(Err(code)) => {
                    self.tally("connect", code, 1);
                    if code / 100 == 5 {
                        self.refuse(&job.ids, code);
                        continue;
                    }
                }
                Err(e) => self.note_broken(&e),
            }
            self.again.borrow_mut().push_front(job);
            let since = *failing_since.get_or_insert_with(now_ns);
            if now_ns() - since > self.config.patience.as_nanos() as u64 {
                return;
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    /// The next message: one to try again, or a new one once it is due. `None`: there is no more.
    async fn take_job(&self) -> Option<Job> {
        loop {
            if let Some(job) = self.take_ready() {
                return Some(job);
            }
            if self.more() {
                match &self.due {
                    Some(due) => match due.acquire().await {
                        Ok(permit) => {
                            permit.forget();
                            return self.make_job();
                        }
                        Err(_) => self.next.set(u64::MAX),
                    },
                    None => return self.make_job(),
                }
                continue;
            }
            // Only messages to be tried again are left, if any.
            let wait = self.again.borrow().iter().map(|j| j.not_before_ns).min()?;
            tokio::time::sleep(Duration::from_nanos(wait.saturating_sub(now_ns()).max(1_000_000))).await;
        }
    }

    /// As [`Run::take_job`], without waiting.
    fn take_job_now(&self) -> Option<Job> {
        self.take_ready().or_else(|| {
            if !self.more() {
                return None;
            }
            if let Some(due) = &self.due {
                due.try_acquire().ok()?.forget();
            }
            self.make_job()
        })
    }

    fn take_ready(&self) -> Option<Job> {
        let mut again = self.again.borrow_mut();
        if again.is_empty() {
            return None;
        }
        let now = now_ns();
        let at = again.iter().position(|j| j.not_before_ns <= now)?;
        again.remove(at)
    }

    fn more(&self) -> bool {
        if self.progress.stop.load(Relaxed) {
            return false;
        }
        match self.config.until {
            Until::Messages(n) => self.next.get() < n,
            Until::Elapsed(_) if self.due.is_some() => self.next.get() < u64::MAX,
            Until::Elapsed(d) => now_ns() - self.start_ns < d.as_nanos() as u64,
        }
    }

    fn make_job(&self) -> Option<Job> {
        let n = self.next.get();
        self.next.set(n + 1);
        let r = u64::from(self.config.traffic.recipients);
        let first = self.config.first_id + n * r;
        let deliveries = &mut self.report.borrow_mut().deliveries;
        deliveries.resize(((n + 1) * r) as usize, Delivery::default());
        let due_ns = self.config.rate.map_or(0, |rate| self.start_ns + (n as f64 / rate * 1e9) as u64);
        Some(Job { first, ids: (first..first + r).collect(), tries: 0, due_ns, not_before_ns: 0 })
    }

    /// Sends `job` and those after it on one connection.
    async fn talk(&self, c: &mut Connection, mut job: Job, draft: &mut Draft, commands: &mut Vec<u8>) -> Then {
        let pipelining = self.config.pipelining && c.pipelining;
        let mut sent = 1;
        let mut envelope_sent = false;
        loop {
            let last = sent >= self.config.per_connection;
            let may_follow = pipelining && !last;
            let work = self.transact(c, job, envelope_sent, may_follow, pipelining, draft, commands);
            let (then, next) = match tokio::time::timeout(MESSAGE_DEADLINE, work).await {
                Ok(x) => x,
                // The job is gone with the future: neither accepted nor tried again, and told as such.
                Err(_) => {
                    self.tally("no reply", 0, 1);
                    return Then::Dead(io::ErrorKind::TimedOut.into());
                }
            };
            match (then, next) {
                (Then::Go, Some(next)) => {
                    (job, envelope_sent) = (next, true);
                    sent += 1;
                }
                (Then::Go, None) if !last => match self.take_job().await {
                    Some(next) => {
                        (job, envelope_sent) = (next, false);
                        sent += 1;
                    }
                    None => return Then::Quit,
                },
                (then, Some(next)) => {
                    // Its envelope went out, its data did not: nothing can have become of it.
                    self.again.borrow_mut().push_front(next);
                    return match then {
                        // Its envelope stands open on the server: not a connection to be polite on.
                        Then::Quit => Then::Dead(io::Error::other("given up after a refusal")),
                        then => then,
                    };
                }
                (then, None) => return then,
            }
        }
    }

    /// One message. Returns how to go on and, if its envelope was already sent behind this message's final dot, the
    /// next one.
    #[allow(clippy::too_many_arguments)]
    async fn transact(
        &self,
        c: &mut Connection,
        mut job: Job,
        envelope_sent: bool,
        may_follow: bool,
        pipelining: bool,
        draft: &mut Draft,
        commands: &mut Vec<u8>,
    ) -> (Then, Option<Job>) {
        let mut mail_ns = now_ns();
        if job.due_ns > 0 {
            mail_ns = job.due_ns;
        }
        let envelope = self.envelope(c, &mut job, envelope_sent, pipelining, commands).await;
        match envelope {
            Ok(None) => {}
            Ok(Some(then)) => return (then, None),
            Err(e) => {
                self.again(job, None);
                return (Then::Dead(e), None);
            }
        }
        self.traffic.write(job.first, draft);
        let next = if may_follow { self.take_job_now() } else { None };
        commands.clear();
        if let Some(next) = &next {
            self.write_mail(commands);
            next.ids.iter().for_each(|id| self.write_rcpt(*id, commands));
            commands.extend_from_slice(b"DATA\r\n");
        }
        let [head, body, tail] = draft.parts();
        let written = c.write_parts(&[head, body, tail, commands]).await;
        let dot_ns = now_ns();
        // A server that refuses in the middle of the data may have said why.
        let reply = c.reply().await;
        match reply {
            Ok(code) if code / 100 == 2 && written.is_ok() => {
                let now = now_ns();
                let mut report = self.report.borrow_mut();
                let report = &mut *report;
                for id in &job.ids {
                    let d = &mut report.deliveries[(id - self.config.first_id) as usize];
                    if d.accepted_ns == 0 {
                        d.accepted_ns = now;
                        report.accepted += 1;
                    }
                }
                report.messages += 1;
                if job.tries == 0 {
                    report.transaction.record_ns(now - mail_ns.min(now));
                    report.commit.record_ns(now - dot_ns);
                }
                if report.span_ns.0 == 0 {
                    report.span_ns.0 = now;
                }
                report.span_ns.1 = now;
                self.progress.accepted.fetch_add(job.ids.len() as u64, Relaxed);
                (Then::Go, next)
            }
            Ok(code) => {
                let then = self.refused("dot", code, job, c);
                match (then, written) {
                    (Then::Go, Ok(())) => (Then::Go, next),
                    (_, Err(e)) => (Then::Dead(e), next),
                    (then, _) => (then, next),
                }
            }
            Err(e) => {
                if written.is_ok() {
                    let mut report = self.report.borrow_mut();
                    for id in &job.ids {
                        report.deliveries[(id - self.config.first_id) as usize].uncertain += 1;
                    }
                    report.uncertain += job.ids.len() as u64;
                    self.progress.uncertain.fetch_add(job.ids.len() as u64, Relaxed);
                }
                self.again(job, None);
                (Then::Dead(e), next)
            }
        }
    }

    /// MAIL, RCPT and DATA. `Ok(None)`: the server waits for the data of the recipients left in `job`. `Ok(Some)`: it
    /// is refused, and `job` is dealt with.
    async fn envelope(
        &self,
        c: &mut Connection,
        job: &mut Job,
        sent: bool,
        pipelining: bool,
        commands: &mut Vec<u8>,
    ) -> io::Result<Option<Then>> {
        commands.clear();
        if !sent {
            self.write_mail(commands);
            if pipelining {
                job.ids.iter().for_each(|id| self.write_rcpt(*id, commands));
                commands.extend_from_slice(b"DATA\r\n");
            }
            c.write(commands).await?;
        }
        let together = sent || pipelining;
        let mut refused = None;
        let code = c.reply().await?;
        if code / 100 != 2 {
            refused = Some(("mail", code));
        }
        if !together && let Some((phase, code)) = refused {
            return Ok(Some(self.refused(phase, code, self.take_all(job), c)));
        }
        let mut later = Vec::new();
        let mut kept = 0;
        for i in 0..job.ids.len() {
            let id = job.ids[i];
            if !together {
                commands.clear();
                self.write_rcpt(id, commands);
                c.write(commands).await?;
            }
            let code = c.reply().await?;
            if refused.is_some() {
                job.ids[kept] = id;
                kept += 1;
                continue;
            }
            match code / 100 {
                2 => {
                    job.ids[kept] = id;
                    kept += 1;
                }
                5 => {
                    self.tally("rcpt", code, 1);
                    self.refuse(&[id], code);
                }
                _ => {
                    self.tally("rcpt", code, 1);
                    later.push(id);
                    if code == 421 {
                        // The rest gets no reply any more.
                        later.extend_from_slice(&job.ids[i + 1..]);
                        later.extend_from_slice(&job.ids[..kept]);
                        kept = 0;
                        break;
                    }
                }
            }
        }
        job.ids.truncate(kept);
        let deferred = !later.is_empty();
        if deferred {
            let rest = Job { first: job.first, ids: later, tries: job.tries, due_ns: job.due_ns, not_before_ns: 0 };
            self.again(rest, None);
        }
        if kept == 0 {
            // Nobody is left to send to. A new connection is the simplest way out of whatever DATA was answered.
            return Ok(Some(Then::Quit));
        }
        if !together {
            c.write(b"DATA\r\n").await?;
        }
        let code = c.reply().await?;
        if let Some((phase, code)) = refused {
            return Ok(Some(match self.refused(phase, code, self.take_all(job), c) {
                Then::Go => Then::Quit,
                then => then,
            }));
        }
        if code != 354 {
            return Ok(Some(match self.refused("data", code, self.take_all(job), c) {
                Then::Go => Then::Quit,
                then => then,
            }));
        }
        Ok(None)
    }

    fn take_all(&self, job: &mut Job) -> Job {
        Job { ids: std::mem::take(&mut job.ids), ..*job }
    }

    /// The whole message was refused: for now or for good.
    fn refused(&self, phase: &'static str, code: u16, job: Job, c: &Connection) -> Then {
        self.tally(phase, code, job.ids.len() as u64);
        self.report.borrow_mut().last_error = Some(String::from_utf8_lossy(&c.last_line).into_owned());
        if code / 100 == 5 {
            self.refuse(&job.ids, code);
            return Then::Go;
        }
        if phase == "dot" {
            for id in &job.ids {
                self.report.borrow_mut().deliveries[(id - self.config.first_id) as usize].deferred += 1;
            }
        }
        self.again(job, Some(code));
        Then::Quit
    }

    /// Puts a message back, to be sent once more after a while; or gives it up.
    fn again(&self, mut job: Job, code: Option<u16>) {
        job.tries += 1;
        let n = job.ids.len() as u64;
        let mut report = self.report.borrow_mut();
        if job.tries >= self.config.attempts {
            report.given_up += n;
            return;
        }
        report.retried += n;
        self.progress.retried.fetch_add(n, Relaxed);
        // After a dead connection the connection's own pause is enough.
        let pause = if code.is_some() { RETRY_PAUSE_NS << job.tries.min(6) } else { 0 };
        job.not_before_ns = now_ns() + pause;
        self.again.borrow_mut().push_back(job);
    }

    fn refuse(&self, ids: &[u64], code: u16) {
        let mut report = self.report.borrow_mut();
        for id in ids {
            report.deliveries[(id - self.config.first_id) as usize].refused = code;
        }
        report.refused += ids.len() as u64;
        self.progress.refused.fetch_add(ids.len() as u64, Relaxed);
    }

    fn tally(&self, phase: &'static str, code: u16, n: u64) {
        *self.report.borrow_mut().failures.entry((phase, code)).or_default() += n;
    }

    fn note_broken(&self, e: &io::Error) {
        let mut report = self.report.borrow_mut();
        report.broken += 1;
        report.last_error = Some(e.to_string());
    }

    fn write_mail(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"MAIL FROM:<");
        out.extend_from_slice(self.config.traffic.sender.as_bytes());
        out.extend_from_slice(b">\r\n");
    }

    fn write_rcpt(&self, id: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"RCPT TO:<");
        self.traffic.write_recipient(id, out);
        out.extend_from_slice(b">\r\n");
    }
}
