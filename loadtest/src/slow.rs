//! Clients that hold connections: each sends one octet now and then, and never hangs up (slow-loris).
//!
//! In: an address, how many, how often. Out: what became of them. One thread and blocking connects; the octets of a round
//! are spread over the interval.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

/// What they say, over and over: a command that is always right, so that no error and no deadline ends the session.
const WORDS: &[u8] = b"NOOP\r\n";

/// What became of them.
#[derive(Serialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlowReport {
    /// Connections that stood.
    pub opened: u64,
    /// Connections that could not be made.
    pub refused: u64,
    /// Connections that the server ended.
    pub ended: u64,
    /// Octets sent.
    pub octets: u64,
}

/// The clients; they go on until [`Slow::stop`].
pub struct Slow {
    stop: Arc<AtomicBool>,
    standing: Arc<AtomicUsize>,
    thread: JoinHandle<SlowReport>,
}

impl Slow {
    /// Opens `count` connections, then sends one octet over each of them every `interval`.
    pub fn start(address: SocketAddr, count: usize, interval: Duration) -> Slow {
        let stop = Arc::new(AtomicBool::new(false));
        let standing = Arc::new(AtomicUsize::new(0));
        let (stopped, stand) = (Arc::clone(&stop), Arc::clone(&standing));
        let thread = std::thread::spawn(move || hold(address, count, interval, &stopped, &stand));
        Slow { stop, standing, thread }
    }

    /// How many stand.
    pub fn standing(&self) -> usize {
        self.standing.load(Ordering::Relaxed)
    }

    /// Hangs all of them up.
    pub fn stop(self) -> SlowReport {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn hold(
    address: SocketAddr,
    count: usize,
    interval: Duration,
    stop: &AtomicBool,
    standing: &AtomicUsize,
) -> SlowReport {
    let mut report = SlowReport::default();
    let mut clients: Vec<(TcpStream, usize)> = Vec::with_capacity(count);
    for _ in 0..count {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(client) if client.set_nonblocking(true).is_ok() => {
                report.opened += 1;
                standing.fetch_add(1, Ordering::Relaxed);
                clients.push((client, 0));
            }
            _ => report.refused += 1,
        }
    }
    let mut next = 0;
    let began = Instant::now();
    let mut sent = 0u32;
    let mut replies = [0; 512];
    while !stop.load(Ordering::Relaxed) && !clients.is_empty() {
        let due = interval.mul_f64(f64::from(sent) / count.max(1) as f64);
        std::thread::sleep(due.saturating_sub(began.elapsed()).min(Duration::from_millis(100)));
        if began.elapsed() < due {
            continue;
        }
        next %= clients.len();
        let (client, at) = &mut clients[next];
        let alive = match client.read(&mut replies) {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        if alive && client.write(&WORDS[*at..=*at]).is_ok() {
            *at = (*at + 1) % WORDS.len();
            report.octets += 1;
            next += 1;
        } else {
            report.ended += 1;
            standing.fetch_sub(1, Ordering::Relaxed);
            clients.swap_remove(next);
        }
        sent += 1;
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn octets_come_one_by_one_and_an_end_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let slow = Slow::start(address, 2, Duration::from_millis(10));
        let (mut first, _) = listener.accept().expect("a client");
        let (second, _) = listener.accept().expect("another");
        drop(second);
        let mut words = [0; 12];
        first.read_exact(&mut words).expect("octets");
        assert_eq!(&words, b"NOOP\r\nNOOP\r\n");
        while slow.standing() > 1 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let report = slow.stop();
        assert_eq!((report.opened, report.refused, report.ended), (2, 0, 1));
        assert!(report.octets >= 12);
    }
}
