//! What a message of 4 KiB costs in time, end to end: the whole relay runs in this process, one shard, over loopback, with
//! its spool on the disk that `target/` is on.
//!
//! `latency`: one session, one message at a time, from MAIL until both the client has its 250 and the message is at the
//! sink. `throughput`: 1,000 messages over 20 sessions, until the last is at the sink; element = message. Both have the
//! disk's sync in them, and client, sink and relay share the machine: compare runs on one machine, not machines. The
//! `loadtest` crate puts them into processes of their own and accounts for every message.

#![allow(missing_docs)]

use criterion::{Criterion, Throughput};
use ringpost::config::{self, Machine};
use ringpost::server;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

const MESSAGES: usize = 1000;
const SESSIONS: usize = 20;
const MESSAGE_BYTES: usize = 4096;
/// Nothing here takes so long: a message that is lost ends the run instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("target/ can be written");
    let (arrived, arrivals) = channel();
    let relay = start_relay(folder.path(), start_sink(arrived));
    let mut criterion = Criterion::default().configure_from_args();
    latency(&mut criterion, relay, &arrivals);
    throughput(&mut criterion, relay, &arrivals);
    criterion.final_summary();
    // The relay has no way to be stopped but a signal, which would end criterion too. Its queue is empty; its thread ends
    // with the process.
}

fn latency(criterion: &mut Criterion, relay: SocketAddr, arrivals: &Receiver<()>) {
    let mut session = Session::open(relay).expect("the relay takes a session");
    let message = message();
    let mut group = criterion.benchmark_group("end_to_end");
    group.bench_function("latency", |b| {
        b.iter(|| {
            session.send(&message).expect("the relay takes the message");
            wait_for(arrivals, 1);
        });
    });
    group.finish();
}

fn throughput(criterion: &mut Criterion, relay: SocketAddr, arrivals: &Receiver<()>) {
    let mut sessions: Vec<_> =
        (0..SESSIONS).map(|_| Session::open(relay).expect("the relay takes a session")).collect();
    let message = message();
    let mut group = criterion.benchmark_group("end_to_end");
    group.sample_size(10).throughput(Throughput::Elements(MESSAGES as u64));
    group.bench_function("throughput", |b| {
        b.iter(|| {
            thread::scope(|scope| {
                for session in &mut sessions {
                    scope.spawn(|| {
                        for _ in 0..MESSAGES / SESSIONS {
                            session.send(&message).expect("the relay takes the message");
                        }
                    });
                }
            });
            wait_for(arrivals, MESSAGES);
        });
    });
    group.finish();
}

fn wait_for(arrivals: &Receiver<()>, messages: usize) {
    for _ in 0..messages {
        arrivals.recv_timeout(PATIENCE).expect("what the relay took arrives at the sink");
    }
}

// --- the relay ----------------------------------------------------------------------------------------------------------

/// Starts the relay on a thread; everything goes to `sink`, so no DNS is asked.
fn start_relay(folder: &Path, sink: SocketAddr) -> SocketAddr {
    // A port that was free a moment ago: the configuration knows no "any port".
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    let address = free.expect("loopback has a free port");
    let text = format!(
        "hostname = \"relay.example.net\"\nshards = 1\n\
         [spool]\npath = '{}'\n\
         [[listener]]\naddress = \"{address}\"\n\
         [delivery]\nsmart_host = \"{sink}\"\n\
         [log]\nevents = \"off\"\n",
        folder.join("spool").display()
    );
    let loaded = config::parse("end_to_end", &text, &Machine::default()).expect("the configuration above is valid");
    thread::spawn(move || {
        // It ends before the measurement does only if it fails, or at Ctrl-C, which is its signal to drain.
        if let Err(error) = server::run(loaded.config) {
            eprintln!("the relay: {error}");
        }
        std::process::exit(1);
    });
    address
}

// --- the client ---------------------------------------------------------------------------------------------------------

/// One SMTP session with the relay, blocking.
struct Session {
    replies: BufReader<TcpStream>,
    line: String,
}

impl Session {
    /// Waits for the relay to listen, and says EHLO.
    fn open(relay: SocketAddr) -> io::Result<Session> {
        let began = Instant::now();
        let stream = loop {
            match TcpStream::connect(relay) {
                Ok(stream) => break stream,
                Err(error) if began.elapsed() > PATIENCE => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut session = Session { replies: BufReader::new(stream), line: String::new() };
        session.expect("220")?;
        session.write(b"EHLO client.example.net\r\n")?;
        session.expect("250")?;
        Ok(session)
    }

    /// One transaction, its commands in one piece (RFC 2920). Returns when the relay has answered for the message.
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.write(b"MAIL FROM:<sender@example.net>\r\nRCPT TO:<recipient@example.org>\r\nDATA\r\n")?;
        for code in ["250", "250", "354"] {
            self.expect(code)?;
        }
        self.write(message)?;
        self.expect("250")
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.replies.get_mut().write_all(bytes)
    }

    /// Reads one reply, which may have several lines.
    fn expect(&mut self, code: &str) -> io::Result<()> {
        loop {
            self.line.clear();
            self.replies.read_line(&mut self.line)?;
            if !self.line.starts_with(code) {
                return Err(io::Error::other(format!("{:?} instead of {code}", self.line)));
            }
            if self.line.as_bytes().get(3) == Some(&b' ') {
                return Ok(());
            }
        }
    }
}

/// A message of `MESSAGE_BYTES` octets, with the dot that ends it.
fn message() -> Vec<u8> {
    const LINE: &[u8] = b"A line of text as long as lines of mail commonly are: seventy-three octets.\r\n";
    let mut message =
        b"From: <sender@example.net>\r\nTo: <recipient@example.org>\r\nSubject: end to end\r\n\r\n".to_vec();
    while message.len() + LINE.len() + 2 <= MESSAGE_BYTES {
        message.extend_from_slice(LINE);
    }
    message.resize(MESSAGE_BYTES - 2, b'x');
    message.extend_from_slice(b"\r\n.\r\n");
    message
}

// --- the sink -----------------------------------------------------------------------------------------------------------

/// Starts the next hop: a thread for each connection, every message counted by a `()` in `arrived`.
fn start_sink(arrived: Sender<()>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let arrived = arrived.clone();
            // A connection that breaks is the relay's to repeat.
            thread::spawn(move || serve(stream, &arrived).ok());
        }
    });
    address
}

fn serve(stream: TcpStream, arrived: &Sender<()>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut replies = BufWriter::new(stream.try_clone()?);
    let mut input = BufReader::with_capacity(64 << 10, stream);
    let mut line = Vec::new();
    let mut in_data = false;
    replies.write_all(b"220 sink.example.org\r\n")?;
    loop {
        // Replies to pipelined commands go together (RFC 2920 §3.2).
        if input.buffer().is_empty() {
            replies.flush()?;
        }
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let reply: &[u8] = if in_data {
            if line != b".\r\n" {
                continue;
            }
            in_data = false;
            // Nobody listens once the measurement is over.
            let _ = arrived.send(());
            b"250 2.0.0 taken\r\n"
        } else {
            match line.first_chunk::<4>() {
                Some(b"EHLO") => b"250-sink.example.org\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES\r\n",
                Some(b"DATA") => {
                    in_data = true;
                    b"354 go on\r\n"
                }
                Some(b"QUIT") => b"221 2.0.0 bye\r\n",
                Some(_) => b"250 2.0.0 ok\r\n",
                None => b"500 5.5.2 what\r\n",
            }
        };
        replies.write_all(reply)?;
    }
}
