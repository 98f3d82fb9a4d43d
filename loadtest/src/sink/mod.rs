//! The sink: an SMTP server on as many addresses as it is told, that takes mail apart only as far as it needs to know
//! each message by its number, and misbehaves on demand.
//!
//! In: connections. Out: [`Stats`], the table of arrivals by delivery id, and (when asked) whole messages. It lives on
//! one thread of its own with a single-threaded tokio runtime, a task per connection, one receive buffer for all of
//! them. It refuses to store mail and to be an open door: told so, it serves the loopback interface only.

pub mod behaviour;
mod data;
mod session;

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::cpu::ThreadClock;
use crate::latency::{Latency, Summary};
use crate::now_ns;
use crate::traffic::Tag;
pub use behaviour::{Behaviour, Disconnect, Fail, Phase};
use session::{Session, Shared, Step, delivery_id};

/// Largest receive: several messages of the usual size at once.
const RECEIVE_OCTETS: usize = 256 << 10;
/// Replies collected before they are sent although more input is at hand.
const REPLY_OCTETS: usize = 16 << 10;
/// Delivery ids above this are counted as foreign: the table of arrivals is bounded by it (16 octets each).
const MAX_ID: u64 = 1 << 27;
/// Queue of connections not yet accepted.
const BACKLOG: i32 = 4096;

/// What a sink is.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    /// Where it listens. Port 0: any free one, the same for all of them.
    pub listen: Vec<SocketAddr>,
    /// Serve the loopback interface only, although the address is the wildcard.
    pub loopback_only: bool,
    /// How it treats its clients.
    pub behaviour: Behaviour,
    /// Messages to keep whole, for tests.
    pub keep: usize,
}

/// Octets kept of one message at most.
const KEEP_OCTETS: usize = 64 << 20;

/// One message kept whole.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Reverse-path without angle brackets.
    pub mail_from: String,
    /// Forward-paths without angle brackets.
    pub recipients: Vec<String>,
    /// Header and body in wire form (dot-stuffed), without the final dot.
    pub wire: Vec<u8>,
    /// The peer that sent it.
    pub peer: SocketAddr,
    /// What that called itself.
    pub helo: String,
}

impl Kept {
    /// Header and body without dot-stuffing.
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(self.wire.len());
        for line in self.wire.split_inclusive(|b| *b == b'\n') {
            text.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
        text
    }
}

/// One delivery id's arrivals.
#[derive(Clone, Copy, Default, Debug)]
pub struct Arrival {
    /// When it first came, on the clock of [`crate::now_ns`]; 0: never.
    pub first_ns: u64,
    /// How often it came.
    pub count: u32,
    /// How often the sink hung up instead of saying 250 to it.
    pub unanswered: u32,
}

#[derive(Default)]
struct Table {
    arrivals: Vec<Arrival>,
    kept: Vec<Kept>,
    since_sent: Latency,
    corrupt_ids: Vec<u64>,
}

#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    open: AtomicU64,
    max_open: AtomicU64,
    refused_connections: AtomicU64,
    messages: AtomicU64,
    refused_messages: AtomicU64,
    unique: AtomicU64,
    duplicates: AtomicU64,
    unanswered: AtomicU64,
    corrupt: AtomicU64,
    foreign: AtomicU64,
    null_sender: AtomicU64,
    octets: AtomicU64,
    first_ns: AtomicU64,
    last_ns: AtomicU64,
}

/// Counts since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    /// Connections accepted.
    pub connections: u64,
    /// Open now.
    pub open: u64,
    /// Most that were open at once.
    pub max_open: u64,
    /// Turned away with 421 for being too many.
    pub refused_connections: u64,
    /// Messages taken with 250.
    pub messages: u64,
    /// Messages refused at the final dot.
    pub refused_messages: u64,
    /// Different delivery ids that came.
    pub unique: u64,
    /// Deliveries beyond the first of their id.
    pub duplicates: u64,
    /// Deliveries taken, but the sink hung up instead of saying so (as ordered): the sender must send them again.
    pub unanswered: u64,
    /// Load-test messages whose body's checksum or length is wrong, or that came to a recipient not theirs.
    pub corrupt: u64,
    /// Recipients that are not `u<number>`.
    pub foreign: u64,
    /// Messages with the null sender: bounces.
    pub null_sender: u64,
    /// Octets received.
    pub octets: u64,
    /// Between the first and the last new id.
    pub seconds: f64,
    /// New ids per second in that time.
    pub unique_per_second: f64,
    /// From the source's time stamp in the header to the arrival: needs one clock on both machines.
    pub since_sent: Summary,
}

struct Inner {
    counters: Counters,
    table: Mutex<Table>,
    keep: usize,
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running sink; stops when dropped.
pub struct Sink {
    inner: Arc<Inner>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    port: u16,
    clock: ThreadClock,
}

impl Sink {
    /// Binds the addresses and starts to serve. Errors: an address cannot be bound.
    pub fn start(config: SinkConfig) -> io::Result<Sink> {
        let mut sockets = Vec::new();
        let mut port = 0;
        for mut address in config.listen.iter().copied() {
            if address.port() == 0 && port != 0 {
                address.set_port(port);
            }
            let socket = listener(address, config.loopback_only)?;
            port = socket.local_addr()?.port();
            sockets.push(socket);
        }
        let inner = Arc::new(Inner { counters: Counters::default(), table: Mutex::default(), keep: config.keep });
        let (stop, stopped) = watch::channel(false);
        let (ready, started) = std::sync::mpsc::channel();
        let for_thread = Arc::clone(&inner);
        let thread = std::thread::Builder::new().name("sink".into()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(r) => r,
                Err(e) => return ready.send(Err(e)).unwrap_or(()),
            };
            ready.send(Ok(ThreadClock::current())).unwrap_or(());
            runtime.block_on(serve(sockets, config, for_thread, stopped));
        })?;
        let clock = started.recv().map_err(|_| io::Error::other("the sink's thread ended"))??;
        Ok(Sink { inner, stop, thread: Some(thread), port, clock })
    }

    /// A good receiver on any free port of every loopback address: what most tests want.
    pub fn on_loopback(port: u16, behaviour: Behaviour, keep: usize) -> io::Result<Sink> {
        Sink::start(SinkConfig { listen: vec![([0, 0, 0, 0], port).into()], loopback_only: true, behaviour, keep })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// CPU time of its thread.
    pub fn cpu(&self) -> Duration {
        self.clock.read()
    }

    /// Different delivery ids that came so far: cheap enough to poll.
    pub fn unique(&self) -> u64 {
        self.inner.counters.unique.load(Relaxed)
    }

    /// Messages taken so far, of whatever kind.
    pub fn messages(&self) -> u64 {
        self.inner.counters.messages.load(Relaxed)
    }

    /// All counts.
    pub fn stats(&self) -> Stats {
        let c = &self.inner.counters;
        let get = |a: &AtomicU64| a.load(Relaxed);
        let seconds = get(&c.last_ns).saturating_sub(get(&c.first_ns)) as f64 / 1e9;
        Stats {
            connections: get(&c.connections),
            open: get(&c.open),
            max_open: get(&c.max_open),
            refused_connections: get(&c.refused_connections),
            messages: get(&c.messages),
            refused_messages: get(&c.refused_messages),
            unique: get(&c.unique),
            duplicates: get(&c.duplicates),
            unanswered: get(&c.unanswered),
            corrupt: get(&c.corrupt),
            foreign: get(&c.foreign),
            null_sender: get(&c.null_sender),
            octets: get(&c.octets),
            seconds,
            unique_per_second: if seconds > 0.0 { get(&c.unique) as f64 / seconds } else { 0.0 },
            since_sent: self.inner.table().since_sent.summary(),
        }
    }

    /// The arrivals, by delivery id.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.inner.table().arrivals.clone()
    }

    /// Some of the ids whose message came damaged.
    pub fn corrupt_ids(&self) -> Vec<u64> {
        self.inner.table().corrupt_ids.clone()
    }

    /// The messages kept whole, in order of arrival.
    pub fn kept(&self) -> Vec<Kept> {
        self.inner.table().kept.clone()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listener(address: SocketAddr, loopback_only: bool) -> io::Result<std::net::TcpListener> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}"));
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if loopback_only {
        // The wildcard serves all of 127/8 with one socket; bound to `lo`, nobody else can reach it.
        socket.bind_device(Some(b"lo")).map_err(named)?;
    }
    socket.bind(&address.into()).map_err(named)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

async fn serve(
    sockets: Vec<std::net::TcpListener>,
    config: SinkConfig,
    inner: Arc<Inner>,
    mut stopped: watch::Receiver<bool>,
) {
    let shared = Rc::new(RefCell::new(Shared {
        rng: SmallRng::seed_from_u64(config.behaviour.seed),
        behaviour: config.behaviour,
        greylisted: HashSet::new(),
        keep_octets: if config.keep > 0 { KEEP_OCTETS } else { 0 },
    }));
    // One receive buffer for all connections: it is used between two awaits only.
    let scratch = Rc::new(RefCell::new(vec![0u8; RECEIVE_OCTETS]));
    let local = tokio::task::LocalSet::new();
    for socket in sockets {
        let (shared, scratch, inner) = (Rc::clone(&shared), Rc::clone(&scratch), Arc::clone(&inner));
        local.spawn_local(async move {
            let listener = match TcpListener::from_std(socket) {
                Ok(l) => l,
                Err(e) => return eprintln!("sink: {e}"),
            };
            loop {
                let (stream, peer) = match listener.accept().await {
                    Ok(s) => s,
                    Err(e) => {
                        // Out of descriptors, mostly: some will come back.
                        eprintln!("sink: accept: {e}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let connection = Connection {
                    stream: Rc::new(stream),
                    late: None,
                    peer,
                    session: Session::default(),
                    out: Vec::new(),
                    rest: Vec::new(),
                    shared: Rc::clone(&shared),
                    scratch: Rc::clone(&scratch),
                    inner: Arc::clone(&inner),
                };
                tokio::task::spawn_local(connection.run());
            }
        });
    }
    // Leaving drops the local set and with it every connection.
    let _ = local.run_until(stopped.wait_for(|s| *s)).await;
}

/// What is written after the latency, with its moment, and who writes it.
struct Late {
    pieces: mpsc::UnboundedSender<(Instant, Vec<u8>)>,
    writer: tokio::task::JoinHandle<()>,
}

struct Connection {
    stream: Rc<TcpStream>,
    late: Option<Late>,
    peer: SocketAddr,
    session: Session,
    out: Vec<u8>,
    /// Input that is not yet taken because a delayed reply comes first.
    rest: Vec<u8>,
    shared: Rc<RefCell<Shared>>,
    scratch: Rc<RefCell<Vec<u8>>>,
    inner: Arc<Inner>,
}

/// What ended a run over the input at hand.
enum Stop {
    /// It is all taken.
    Input,
    /// A reply waits for its delay.
    Delay(Duration),
    Quit,
    HangUp,
}

impl Connection {
    async fn run(mut self) {
        let c = &self.inner.counters;
        c.connections.fetch_add(1, Relaxed);
        let open = c.open.fetch_add(1, Relaxed) + 1;
        c.max_open.fetch_max(open, Relaxed);
        let _ = self.stream.set_nodelay(true);
        // An error is the peer's hanging up: nothing to tell, it is not the sink that is under test.
        let _ = self.talk(open as usize).await;
        if let Some(Late { pieces, writer }) = self.late.take() {
            drop(pieces);
            let _ = writer.await;
        }
        self.inner.counters.open.fetch_sub(1, Relaxed);
    }

    async fn talk(&mut self, open: usize) -> io::Result<()> {
        let step = self.session.handle_connect(open, &mut self.shared.borrow_mut(), &mut self.out);
        let delay = self.delay();
        if let Some(d) = delay {
            tokio::time::sleep(d).await;
        }
        match step {
            Step::HangUp => return Ok(()),
            Step::Quit => {
                self.inner.counters.refused_connections.fetch_add(1, Relaxed);
                return self.flush().await;
            }
            _ => self.flush().await?,
        }
        loop {
            let stop = if self.rest.is_empty() {
                self.stream.readable().await?;
                let scratch = Rc::clone(&self.scratch);
                let mut buffer = scratch.borrow_mut();
                let n = match self.stream.try_read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(n) => n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(e) => return Err(e),
                };
                self.inner.counters.octets.fetch_add(n as u64, Relaxed);
                let (stop, taken) = self.take(&buffer[..n]);
                self.rest.extend_from_slice(&buffer[taken..n]);
                stop
            } else {
                let mut rest = std::mem::take(&mut self.rest);
                let (stop, taken) = self.take(&rest);
                rest.drain(..taken);
                self.rest = rest;
                stop
            };
            match stop {
                Stop::Input => self.flush().await?,
                Stop::Delay(d) => {
                    if !d.is_zero() {
                        tokio::time::sleep(d).await;
                    }
                    self.flush().await?;
                }
                Stop::Quit => {
                    self.flush().await?;
                    return Ok(());
                }
                // Without a word to this command; what was said before it is said.
                Stop::HangUp => return self.flush().await,
            }
        }
    }

    fn delay(&self) -> Option<Duration> {
        let shared = &mut *self.shared.borrow_mut();
        shared.behaviour.delay.map(|d| d.draw(&mut shared.rng))
    }

    /// Runs the session over `input`; returns why it stopped and how much of the input was taken.
    fn take(&mut self, input: &[u8]) -> (Stop, usize) {
        let mut at = 0;
        loop {
            let step = self.session.handle_input(&input[at..], &mut self.shared.borrow_mut(), &mut self.out);
            match step {
                Step::More => return (Stop::Input, input.len()),
                Step::Quit => return (Stop::Quit, input.len()),
                Step::HangUp => return (Stop::HangUp, input.len()),
                Step::Replied(n) => at += n,
                Step::Message(n) => {
                    at += n;
                    if self.note_arrival() {
                        return (Stop::HangUp, input.len());
                    }
                }
            }
            if let Some(d) = self.delay() {
                return (Stop::Delay(d), at);
            }
            if self.out.len() > REPLY_OCTETS {
                return (Stop::Delay(Duration::ZERO), at);
            }
        }
    }

    /// Enters the message into the books; true: hang up instead of answering.
    fn note_arrival(&mut self) -> bool {
        let now = now_ns();
        let c = &self.inner.counters;
        if !self.session.arrived().accepted {
            c.refused_messages.fetch_add(1, Relaxed);
            return self.session.handle_arrival_noted(&mut self.shared.borrow_mut());
        }
        let mut table = self.inner.table();
        let table = &mut *table;
        c.messages.fetch_add(1, Relaxed);
        let message = self.session.arrived();
        if message.mail_from.is_empty() {
            c.null_sender.fetch_add(1, Relaxed);
        }
        let tag = Tag::find(message.data.header());
        let whole = tag.is_some_and(|t| message.data.body() == (t.len, t.crc));
        if let Some(t) = tag {
            let unix = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos() as u64);
            table.since_sent.record_ns(unix.saturating_sub(t.sent_unix_ns));
        }
        let mut ids = Vec::new();
        for path in message.recipients {
            let Some(id) = delivery_id(path).filter(|id| *id < MAX_ID) else {
                c.foreign.fetch_add(1, Relaxed);
                continue;
            };
            // A bounce is no load-test message, even to an address that looks like one.
            if !message.mail_from.is_empty() && (!whole || !tag.is_some_and(|t| t.covers(id))) {
                c.corrupt.fetch_add(1, Relaxed);
                if table.corrupt_ids.len() < 100 {
                    table.corrupt_ids.push(id);
                }
            }
            ids.push(id);
        }
        if table.kept.len() < self.inner.keep
            && let Some(wire) = message.data.take_kept()
        {
            let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
            table.kept.push(Kept {
                mail_from: text(message.mail_from),
                recipients: message.recipients.iter().map(|r| text(r)).collect(),
                wire,
                peer: self.peer,
                helo: text(message.helo),
            });
        }
        let hang_up = self.session.handle_arrival_noted(&mut self.shared.borrow_mut());
        for id in ids {
            if table.arrivals.len() <= id as usize {
                table.arrivals.resize((id as usize + 1).next_power_of_two(), Arrival::default());
            }
            let arrival = &mut table.arrivals[id as usize];
            arrival.count += 1;
            if hang_up {
                arrival.unanswered += 1;
                c.unanswered.fetch_add(1, Relaxed);
            }
            if arrival.first_ns == 0 {
                arrival.first_ns = now;
                c.unique.fetch_add(1, Relaxed);
                c.last_ns.store(now, Relaxed);
                let _ = c.first_ns.compare_exchange(0, now, Relaxed, Relaxed);
            } else {
                c.duplicates.fetch_add(1, Relaxed);
            }
        }
        hang_up
    }

    async fn flush(&mut self) -> io::Result<()> {
        let latency = self.shared.borrow().behaviour.latency;
        if let Some(latency) = latency.filter(|_| !self.out.is_empty()) {
            let late = self.late.get_or_insert_with(|| {
                let (pieces, receiver) = mpsc::unbounded_channel();
                Late { pieces, writer: tokio::task::spawn_local(write_late(Rc::clone(&self.stream), receiver)) }
            });
            // A writer that has ended had an error: so will the next read.
            let _ = late.pieces.send((Instant::now() + latency, std::mem::take(&mut self.out)));
            return Ok(());
        }
        write(&self.stream, &self.out).await?;
        self.out.clear();
        Ok(())
    }
}

/// One write, mostly.
async fn write(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        match stream.try_write(&bytes[at..]) {
            Ok(n) => at += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes each piece when its time has come, as a long way to the client would: what comes in meanwhile is not held up.
async fn write_late(stream: Rc<TcpStream>, mut pieces: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>) {
    while let Some((due, bytes)) = pieces.recv().await {
        tokio::time::sleep_until(due).await;
        if write(&stream, &bytes).await.is_err() {
            return;
        }
    }
}
