//! The control plane: ONE ordinary thread with tokio beside the shards. Signals, the event log, metrics, admin HTTP.
//!
//! Inputs: the shards' event queues, statistics and histograms ([`ShardLink`]); signals; HTTP requests. Outputs: event
//! lines, pages, and [`Command`]s to whoever runs the shards. It polls the queues every
//! [`CONTROL_POLL_INTERVAL`]: a shard never wakes it, waits for it or knows whether it lives. A disk that hangs under the
//! event log holds up a helper thread, not signals and not HTTP; then the queues fill, and events are dropped and counted.
//!
//! It refuses to touch mail: no message passes through here.

pub mod admin;
pub mod json;
pub mod log;
pub mod metrics;
pub mod sts;
pub mod tlsrpt;

use crate::config::{Config, Events};
use crate::limits::{CONTROL_FINISH_TIMEOUT, CONTROL_POLL_INTERVAL, EVENT_WRITE_BYTES};
use crate::shard::Report;
use crate::shard::event::{self, Event, EventSource};
use crate::shard::mailbox::{OwnMail, StsNews};
use crate::shard::stats::{HistogramSource, ShardStats, stage_histograms};
use json::Encoder;
use log::EventLog;
use metrics::Metrics;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};
use sts::{Fetcher, Told};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc as mpsc_async, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// What the control plane asks of whoever runs the shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Take no new mail, finish transactions in progress, end.
    Drain,
    /// Read accounts and certificates again.
    Reload,
    /// End now; what is in progress is cut off, nothing acknowledged is lost.
    DrainNow,
    /// Tell this shard what became of its question for an MTA-STS policy.
    Sts(u16, Arc<StsNews>),
    /// Ask this shard for the record by which a domain wants reports of TLS.
    RuaRecord(u16, Box<str>),
    /// Give this shard a message of our own.
    Submit(u16, Arc<OwnMail>),
}

/// The control thread's ends of everything between it and one shard; the shard's is its [`Report`].
pub struct ShardLink {
    stats: Arc<ShardStats>,
    events: EventSource,
    histograms: HistogramSource,
}

/// Makes both sides for one shard. The order of the links given to [`start`] is the shards' numbering on /metrics.
pub fn link(config: &Config) -> (Report, ShardLink) {
    let stats = Arc::new(ShardStats::default());
    let (sink, source) = event::channel(config.log.events != Events::Off);
    let (histograms, taken) = stage_histograms();
    let shard = Report { stats: Arc::clone(&stats), events: sink, histograms };
    (shard, ShardLink { stats, events: source, histograms: taken })
}

/// The running control thread.
pub struct ControlThread {
    admin: Option<SocketAddr>,
    finish: oneshot::Sender<()>,
    ended: mpsc::Receiver<()>,
    thread: std::thread::JoinHandle<()>,
}

/// Starts the control thread. On return the event log is open, the admin address bound and the signals are taken.
///
/// # Errors
/// The event log cannot be opened, the admin address cannot be bound, or the runtime or thread cannot be made; the text
/// says which.
pub fn start(
    config: Arc<Config>,
    shards: Vec<ShardLink>,
    https: Option<Arc<rustls::ClientConfig>>,
    (command, sources): (Box<dyn Fn(Command) + Send>, admin::Page),
) -> io::Result<ControlThread> {
    let log = EventLog::open(&config.log)?;
    let listener = config.admin.map(bind_admin).transpose()?;
    let admin = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let (finish, finished) = oneshot::channel();
    let (ready, started) = mpsc::channel();
    let (end, ended) = mpsc::channel();
    let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(error))),
        };
        runtime.block_on(async {
            let fetcher = Fetcher::new(https, sts::folder(&config.spool.path));
            let reports = tlsrpt::Reports::new(&config, tlsrpt::now());
            match Control::new(log, shards, fetcher, (command, reports), (listener, sources)) {
                Ok(control) => {
                    drop(ready.send(Ok(())));
                    control.run(finished).await;
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
        // Does not wait for a write that hangs.
        runtime.shutdown_background();
        drop(end);
    })?;
    started.recv().unwrap_or_else(|_| Err(io::Error::other("the control thread ended while it started")))?;
    if let Some(address) = admin {
        tracing::info!("admin HTTP on http://{address}/");
    }
    Ok(ControlThread { admin, finish, ended, thread })
}

fn bind_admin(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|error: io::Error| {
        io::Error::new(error.kind(), format!("the admin address {address} (admin.address) cannot be bound: {error}"))
    })
}

impl ControlThread {
    /// The admin address as bound.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// After the shards have ended: writes their remaining events and ends the thread. False if it did not end in
    /// [`CONTROL_FINISH_TIMEOUT`] (its disk hangs) or had died; then it is left behind.
    pub fn finish(self) -> bool {
        let asked = self.finish.send(()).is_ok();
        // The sender is dropped at the thread's end, whatever ended it.
        match self.ended.recv_timeout(CONTROL_FINISH_TIMEOUT) {
            Err(mpsc::RecvTimeoutError::Timeout) => false,
            _ => self.thread.join().is_ok() && asked,
        }
    }
}

/// Everything that lives on the control thread.
struct Control {
    metrics: admin::Shared,
    events: Vec<EventSource>,
    encoder: Encoder,
    writer: Writer,
    fetcher: Fetcher,
    policies: mpsc_async::Receiver<Told>,
    reports: Option<tlsrpt::Reports>,
    command: Box<dyn Fn(Command) + Send>,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    drains: u32,
}

impl Control {
    fn new(
        log: EventLog,
        shards: Vec<ShardLink>,
        (fetcher, policies): (Fetcher, mpsc_async::Receiver<Told>),
        (command, reports): (Box<dyn Fn(Command) + Send>, Option<tlsrpt::Reports>),
        (listener, sources): (Option<std::net::TcpListener>, admin::Page),
    ) -> io::Result<Control> {
        let (mut events, mut measured) = (Vec::new(), Vec::new());
        for shard in shards {
            events.push(shard.events);
            measured.push((shard.stats, shard.histograms));
        }
        let metrics = Arc::new(Mutex::new(Metrics::new(measured)));
        if let Some(listener) = listener {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            drop(tokio::spawn(admin::serve(listener, Arc::clone(&metrics), sources)));
        }
        Ok(Control {
            metrics,
            events,
            encoder: Encoder::default(),
            writer: Writer::Idle(Box::new((log, Vec::new()))),
            fetcher,
            policies,
            reports,
            command,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            drains: 0,
        })
    }

    async fn run(mut self, mut finished: oneshot::Receiver<()>) {
        let mut poll = interval(CONTROL_POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut collect = interval(Duration::from_secs(1));
        collect.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reopen = false;
        loop {
            tokio::select! {
                _ = poll.tick() => self.turn(&mut reopen).await,
                Some((shard, news, failure)) = self.policies.recv() => {
                    if let (Some(reports), Some(kind)) = (&mut self.reports, failure) {
                        reports.count_unfetched(&news, kind, tlsrpt::now());
                    }
                    (self.command)(Command::Sts(shard, news));
                }
                _ = collect.tick() => {
                    self.metrics().collect();
                    self.report_tls(false);
                }
                _ = self.terminate.recv() => self.drain("SIGTERM"),
                _ = self.interrupt.recv() => self.drain("SIGINT"),
                _ = self.hangup.recv() => {
                    reopen = true;
                    (self.command)(Command::Reload);
                }
                // Also if the ControlThread was dropped: the process ends without asking.
                _ = &mut finished => break,
            }
        }
        self.last_turns(&mut reopen).await;
        self.report_tls(true);
    }

    /// Days that end, records that are wanted, counts that are written down; all of these at the end.
    fn report_tls(&mut self, at_once: bool) {
        let Some(reports) = &mut self.reports else { return };
        let now = tlsrpt::now();
        let commands = if at_once { Vec::new() } else { reports.tick(now) };
        match reports.unsaved(now, at_once) {
            // The shards have ended: nobody waits but for the thread's own end, which has a deadline.
            Some(save) if at_once => save(),
            Some(save) => drop(tokio::task::spawn_blocking(save)),
            None => {}
        }
        commands.into_iter().for_each(|command| (self.command)(command));
    }

    fn metrics(&self) -> MutexGuard<'_, Metrics> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drain(&mut self, signal: &str) {
        self.drains += 1;
        self.metrics().own().draining.store(1, Ordering::Relaxed);
        if self.drains == 1 {
            tracing::info!("{signal}: draining; a second one ends at once");
            (self.command)(Command::Drain);
        } else {
            tracing::warn!("{signal} again: ending at once");
            (self.command)(Command::DrainNow);
        }
    }

    /// Encodes what the shards have sent and hands it to the writer; if that still has the last lot, leaves it in the
    /// queues.
    async fn turn(&mut self, reopen: &mut bool) {
        // First, so that /metrics tells of drops also while the log hangs.
        let dropped = self.events.iter().map(EventSource::dropped).sum();
        self.metrics().own().events_dropped.store(dropped, Ordering::Relaxed);
        let Some((mut log, mut lines)) = self.writer.take_if_idle().await.map(|idle| *idle) else { return };
        lines.clear();
        let mut count = 0;
        // Another shard goes first each time: under the bound below none is always the last.
        let first = usize::from(!self.events.is_empty());
        self.events.rotate_left(first);
        for source in &mut self.events {
            while lines.len() < EVENT_WRITE_BYTES
                && source.take_batch(|event| {
                    match event {
                        Event::Notice(notice) => tell(notice),
                        Event::Sts(ask) => return self.fetcher.ask(ask),
                        Event::Tls(session) => {
                            return self.reports.iter_mut().for_each(|reports| reports.count(session));
                        }
                        Event::Rua(record) => {
                            let sent = self.reports.as_mut().map(|reports| reports.answered(record, tlsrpt::now()));
                            return sent.into_iter().flatten().for_each(|command| (self.command)(command));
                        }
                        _ => {}
                    }
                    self.encoder.encode(event, &mut lines);
                    count += 1;
                })
            {}
        }
        let metrics = self.metrics();
        let own = metrics.own();
        own.event_lines.fetch_add(count, Ordering::Relaxed);
        own.event_bytes.store(log.bytes, Ordering::Relaxed);
        own.event_lines_lost.store(log.lines_lost, Ordering::Relaxed);
        own.event_write_errors.store(log.errors, Ordering::Relaxed);
        drop(metrics);
        let reopen_now = std::mem::take(reopen);
        self.writer = if lines.is_empty() && !reopen_now {
            Writer::Idle(Box::new((log, lines)))
        } else {
            Writer::Busy(tokio::task::spawn_blocking(move || {
                if reopen_now {
                    log.reopen();
                }
                log.write(&lines);
                lines.shrink_to(EVENT_WRITE_BYTES);
                Box::new((log, lines))
            }))
        };
    }

    /// Until the queues are empty and the last write has ended, or time is up.
    async fn last_turns(&mut self, reopen: &mut bool) {
        let deadline = Instant::now() + CONTROL_FINISH_TIMEOUT / 2;
        while Instant::now() < deadline {
            self.turn(reopen).await;
            if matches!(self.writer, Writer::Idle(_)) && self.events.iter().all(EventSource::is_empty) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tracing::error!("event log: the last events could not be written in time");
    }
}

type Hand = Box<(EventLog, Vec<u8>)>;

/// The event log, here or with the helper thread that is writing to it.
enum Writer {
    Idle(Hand),
    Busy(JoinHandle<Hand>),
    /// The helper died: no more event log.
    Gone,
}

impl Writer {
    /// The log and its buffer, if no write is under way; leaves `Gone`, to be replaced.
    async fn take_if_idle(&mut self) -> Option<Hand> {
        match std::mem::replace(self, Writer::Gone) {
            Writer::Idle(hand) => Some(hand),
            Writer::Gone => None,
            Writer::Busy(mut task) => match timeout(Duration::ZERO, &mut task).await {
                Ok(Ok(hand)) => Some(hand),
                Ok(Err(error)) => {
                    tracing::error!("event log: its writer has died: {error}");
                    None
                }
                Err(_) => {
                    *self = Writer::Busy(task);
                    None
                }
            },
        }
    }
}

/// A shard's notice in the operator's log.
fn tell(notice: &event::Notice) {
    let words = words(notice);
    if notice.kind.is_trouble() {
        tracing::error!("{words}");
    } else {
        tracing::info!("{words}");
    }
}

/// `shard 0: suspended: why`; some have nothing to add to their name.
fn words(notice: &event::Notice) -> String {
    let details = String::from_utf8_lossy(notice.text.get(0)).replace(char::is_control, " ");
    let (shard, name) = (notice.shard, notice.kind.name());
    let colon = if details.is_empty() { "" } else { ": " };
    format!("shard {shard}: {name}{colon}{details}")
}

#[cfg(test)]
mod tests;
