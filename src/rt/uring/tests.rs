//! An echo shard that also commits what it echoes: sockets both ways of driving them, files, wake-ups, deadlines.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::rt::buffer::Buffer;
use crate::rt::{ConnId, Event, Io, Shard, Wait};
use crate::time::{Moment, Now};
use crossbeam::queue::ArrayQueue;
use std::collections::VecDeque;
use std::io::{IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

struct Echo {
    path: PathBuf,
    ready: bool,
    commit: Option<ConnId>,
    waiting: VecDeque<ConnId>,
    unsent: Vec<(ConnId, Vec<u8>)>,
    conns: Vec<ConnId>,
    mail: Arc<ArrayQueue<&'static str>>,
    created: bool,
    deadline: Option<Moment>,
}

impl Echo {
    fn send(&mut self, io: &mut dyn Io, conn: ConnId, bytes: &[u8]) {
        if let Some((_, rest)) = self.unsent.iter_mut().find(|(c, _)| *c == conn) {
            rest.extend_from_slice(bytes);
            return;
        }
        let taken = io.write(conn, &[IoSlice::new(bytes)]);
        if taken < bytes.len() {
            self.unsent.push((conn, bytes[taken..].to_vec()));
        }
    }
}

impl Shard for Echo {
    fn handle(&mut self, event: Event<'_>, now: Now, io: &mut dyn Io) {
        match event {
            Event::Accepted { conn, .. } => {
                self.conns.push(conn);
                if self.deadline.is_none() {
                    self.deadline = Some(now.mono + Duration::from_millis(20));
                }
                self.send(io, conn, b"hello\n");
            }
            Event::Received { conn, bytes } if bytes.ends_with(b"commit\n") => self.waiting.push_back(conn),
            Event::Received { conn, bytes } => self.send(io, conn, bytes),
            Event::Writable { conn } => {
                let at = self.unsent.iter().position(|(c, _)| *c == conn).unwrap();
                let (conn, rest) = self.unsent.remove(at);
                self.send(io, conn, &rest);
            }
            Event::Ended { conn } | Event::Failed { conn, .. } => io.close(conn),
            Event::FileReady { result, .. } => {
                result.unwrap();
                self.ready = true;
            }
            Event::Written { token, result } => {
                result.unwrap();
                assert_eq!(token, 7);
                let mut buffer = Buffer::new(4096);
                buffer.set_len(4096);
                io.read_file(8, 1, 8192, buffer);
            }
            Event::Read { token, result } => {
                assert_eq!((token, &result.unwrap()[..9]), (8, &b"committed"[..]));
                let conn = self.commit.take().unwrap();
                self.send(io, conn, b"durable\n");
            }
            Event::Connected { .. } | Event::FileRemoved { .. } | Event::Worked { .. } => unreachable!(),
        }
    }

    fn turn(&mut self, now: Now, io: &mut dyn Io) -> Wait {
        if !std::mem::replace(&mut self.created, true) {
            io.create_file(1, &self.path, 64 << 10);
        }
        if self.deadline.is_some_and(|d| now.mono >= d) {
            self.deadline = Some(Moment::NEVER);
            for conn in self.conns.clone() {
                self.send(io, conn, b"tick\n");
            }
        }
        while let Some(mail) = self.mail.pop() {
            if mail == "stop" {
                io.stop_listening();
                return Wait::Stop;
            }
            for conn in self.conns.clone() {
                self.send(io, conn, mail.as_bytes());
            }
        }
        if self.ready
            && self.commit.is_none()
            && let Some(conn) = self.waiting.pop_front()
        {
            self.commit = Some(conn);
            let mut buffer = Buffer::new(4096);
            buffer.extend(b"committed");
            buffer.pad_to_block();
            io.write_durable(7, 1, 8192, Arc::new(buffer), 0);
        }
        Wait::Until(self.deadline.unwrap_or(Moment::NEVER))
    }

    fn has_mail(&self) -> bool {
        !self.mail.is_empty()
    }
}

fn expect(stream: &mut TcpStream, text: &[u8]) {
    let mut got = vec![0; text.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(text));
}

fn echo(options: Options) {
    let folder = tempfile::tempdir().unwrap();
    let address: SocketAddr = {
        let probe = TcpListener::bind("127.0.0.1:0").unwrap();
        probe.local_addr().unwrap()
    };
    let wakers = Wakers::new(1).unwrap();
    let mail = Arc::new(ArrayQueue::new(8));
    let (path, shard_mail) = (folder.path().join("seg"), mail.clone());
    let build: Build = Box::new(move || {
        Box::new(Echo {
            path,
            ready: false,
            commit: None,
            waiting: VecDeque::new(),
            unsent: Vec::new(),
            conns: Vec::new(),
            mail: shard_mail,
            created: false,
            deadline: None,
        })
    });
    let threads = start(&[address], &wakers, options, vec![build]).unwrap();
    let mut a = TcpStream::connect(address).unwrap();
    a.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    expect(&mut a, b"hello\ntick\n");
    a.write_all(b"ping").unwrap();
    expect(&mut a, b"ping");
    a.write_all(b"commit\n").unwrap();
    expect(&mut a, b"durable\n");

    // More than any socket buffer: the echo must wait for room, and everything comes back in order.
    let big: Vec<u8> = (0..20_000_000u32).map(|i| (i / 7 % 251) as u8).collect();
    let mut writer = a.try_clone().unwrap();
    let sent = big.clone();
    let sender = std::thread::spawn(move || {
        for piece in sent.chunks(100_000) {
            writer.write_all(piece).unwrap();
        }
    });
    let mut back = vec![0; big.len()];
    a.read_exact(&mut back).unwrap();
    sender.join().unwrap();
    assert!(back == big);

    // Another thread wakes the sleeping shard.
    std::thread::sleep(Duration::from_millis(30));
    mail.push("mail\n").unwrap();
    wakers.wake(0);
    expect(&mut a, b"mail\n");

    // Peers that go away in every manner leave no trace.
    for i in 0..300 {
        let stream = TcpStream::connect(address).unwrap();
        if i % 2 == 0 {
            stream.shutdown(Shutdown::Write).unwrap();
        }
    }
    let mut b = TcpStream::connect(address).unwrap();
    expect(&mut b, b"hello\n");
    mail.push("stop").unwrap();
    wakers.wake(0);
    threads.join().unwrap();
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn echo_by_ring() {
    echo(Options::default());
}

#[test]
fn echo_by_epoll() {
    echo(Options { epoll: true });
}
