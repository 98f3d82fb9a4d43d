//! The source: sends numbered mail to one SMTP server and keeps account of every delivery id: accepted (and when),
//! refused, given up, or uncertain because the connection died between the final dot and its reply.
//!
//! In: [`SendConfig`]. Out: [`Progress`] while it runs, [`SendReport`] at its end. It lives on one thread of its own
//! with a single-threaded tokio runtime, a task per session. It refuses to guess: what has no reply is not accepted.
//!
//! Latency is measured twice: the *transaction*, from MAIL to the reply to the final dot, and the *commit*, from the
//! final dot to its reply. In open loop (a fixed rate) message i is due at start + i/rate, and both the transaction's
//! time and the waiting for a free session count from then, so a server that stalls is charged for every message that
//! should have been sent meanwhile (no coordinated omission). Only messages accepted at the first try are counted in.

mod connection;
mod session;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use crate::cpu::ThreadClock;
use crate::latency::Latency;
use crate::traffic::{Traffic, TrafficConfig};

/// What ends a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Until {
    /// So many messages.
    Messages(u64),
    /// So much time; then what is in progress is finished.
    Elapsed(Duration),
}

/// What the source does.
#[derive(Clone, Debug)]
pub struct SendConfig {
    /// The server.
    pub target: SocketAddr,
    /// Connections at a time.
    pub sessions: usize,
    /// How much.
    pub until: Until,
    /// Messages per second in open loop; `None`: closed loop, each session sends its next message when the last is done.
    pub rate: Option<f64>,
    /// MAIL, RCPT, DATA in one write, and the next message's behind the final dot, where the server announces it.
    pub pipelining: bool,
    /// Messages on a connection before QUIT.
    pub per_connection: u64,
    /// Tries of a message that is refused with 4xx or whose connection dies.
    pub attempts: u32,
    /// How long a session goes on trying to connect.
    pub patience: Duration,
    /// Delivery id of the first recipient of the first message.
    pub first_id: u64,
    /// Local address of the connections.
    pub source: Option<SocketAddr>,
    /// The mail.
    pub traffic: TrafficConfig,
}

impl SendConfig {
    /// 20 sessions, 20 messages on each connection, closed loop, no pipelining.
    pub fn new(target: SocketAddr, messages: u64) -> SendConfig {
        SendConfig {
            target,
            sessions: 20,
            until: Until::Messages(messages),
            rate: None,
            pipelining: false,
            per_connection: 20,
            attempts: 10,
            patience: Duration::from_secs(30),
            first_id: 0,
            source: None,
            traffic: TrafficConfig::default(),
        }
    }
}

/// Counts while it runs, in deliveries (recipients).
#[derive(Default, Debug)]
#[allow(missing_docs)]
pub struct Progress {
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
    pub retried: AtomicU64,
    /// Replies that never came: the connection died after the final dot.
    pub uncertain: AtomicU64,
    stop: AtomicBool,
}

/// One delivery id's history.
#[derive(Clone, Copy, Default, Debug)]
pub struct Delivery {
    /// When its 250 was read; 0: never.
    pub accepted_ns: u64,
    /// How often its message was sent whole and the reply never came: it may have been accepted each time.
    pub uncertain: u32,
    /// Refused for good with this code; 0: not.
    pub refused: u16,
    /// How often it was refused for now after its final dot.
    pub deferred: u16,
}

/// How the run went.
#[derive(Clone, Default)]
pub struct SendReport {
    /// By delivery id, from `first_id` on.
    pub deliveries: Vec<Delivery>,
    /// Id of the first of them.
    pub first_id: u64,
    /// Deliveries accepted with 250.
    pub accepted: u64,
    /// Messages (transactions) that were accepted.
    pub messages: u64,
    /// Deliveries refused with 5xx.
    pub refused: u64,
    /// Deliveries given up after the last try.
    pub given_up: u64,
    /// Deliveries never sent because no connection could be made.
    pub unsent: u64,
    /// Refusals by phase and code, each try counted.
    pub failures: BTreeMap<(&'static str, u16), u64>,
    /// Deliveries sent again after 4xx or a dead connection.
    pub retried: u64,
    /// Deliveries whose reply never came, each time counted.
    pub uncertain: u64,
    /// Connections made.
    pub connections: u64,
    /// Connections that failed or died.
    pub broken: u64,
    /// What the last of them said.
    pub last_error: Option<String>,
    /// From the first attempt to connect to the last reply.
    pub elapsed: Duration,
    /// CPU time of the source's thread.
    pub cpu: Duration,
    /// From MAIL (open loop: from when it was due) to the reply to the final dot.
    pub transaction: Latency,
    /// From the final dot to its reply.
    pub commit: Latency,
    /// When the first and the last 250 came, on the clock of [`crate::now_ns`].
    pub span_ns: (u64, u64),
}

impl SendReport {
    /// Messages accepted per second, from the first attempt to connect to the last reply.
    pub fn messages_per_second(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// The ids that were accepted.
    pub fn accepted_ids(&self) -> impl Iterator<Item = (u64, &Delivery)> {
        (self.first_id..).zip(&self.deliveries).filter(|(_, d)| d.accepted_ns > 0)
    }
}

/// The failures as a report shows them.
#[derive(Serialize, Clone, Debug)]
#[allow(missing_docs)]
pub struct Failure {
    pub phase: &'static str,
    pub code: u16,
    pub count: u64,
}

/// A running source.
pub struct Source {
    progress: Arc<Progress>,
    thread: JoinHandle<SendReport>,
    clock: ThreadClock,
}

impl Source {
    /// Starts to send. Errors: a configuration that makes no sense; no thread.
    pub fn start(config: SendConfig) -> Result<Source, String> {
        let traffic = Traffic::new(config.traffic.clone())?;
        if config.sessions == 0 || config.per_connection == 0 || config.attempts == 0 {
            return Err("sessions, messages per connection and attempts are at least 1".into());
        }
        if config.rate.is_some_and(|r| !(r > 0.0 && r.is_finite())) {
            return Err("the rate is above zero".into());
        }
        let progress = Arc::new(Progress::default());
        let for_thread = Arc::clone(&progress);
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("source".into())
            .spawn(move || {
                let clock = ThreadClock::current();
                let _ = ready.send(clock.clone());
                let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(r) => r,
                    Err(e) => return SendReport { last_error: Some(e.to_string()), ..SendReport::default() },
                };
                let before = clock.read();
                let mut report = runtime.block_on(session::run(config, traffic, for_thread));
                report.cpu = clock.read() - before;
                report
            })
            .map_err(|e| e.to_string())?;
        let clock = started.recv().map_err(|e| e.to_string())?;
        Ok(Source { progress, thread, clock })
    }

    /// Sends all, and waits for the end.
    pub fn run(config: SendConfig) -> Result<SendReport, String> {
        Ok(Source::start(config)?.join())
    }

    /// Counts so far.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Takes no new message; what is in progress is finished.
    pub fn stop(&self) {
        self.progress.stop.store(true, Relaxed);
    }

    /// Whether all is sent.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// CPU time of its thread, while it runs.
    pub fn cpu(&self) -> Duration {
        self.clock.read()
    }

    /// Waits for the end.
    pub fn join(self) -> SendReport {
        self.thread.join().unwrap_or_else(|_| SendReport {
            last_error: Some("the source's thread panicked".into()),
            ..SendReport::default()
        })
    }
}
