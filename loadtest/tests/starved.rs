//! The relay is given too little: descriptors, memory. It serves what fits and refuses the rest for now, or ends; it does
//! not spin; what it acknowledged is delivered.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use common::{Bench, HANG, Kills, Setup, env_number, have, wait_until};
use loadtest::send::{SendReport, Source};
use loadtest::traffic::SizeMix;

/// Open descriptors of a process.
fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Connects and reads what there is within a while: the greeting's code, or `None` if the connection waits unaccepted
/// or was closed.
fn knock(address: SocketAddr) -> (Option<TcpStream>, Option<u16>) {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(5)) else { return (None, None) };
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut code = [0; 4];
    match stream.read_exact(&mut code) {
        Ok(()) => (Some(stream), std::str::from_utf8(&code[..3]).unwrap().parse().ok()),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => (Some(stream), None),
        Err(_) => (None, None),
    }
}

#[test]
fn few_descriptors() {
    if !have("prlimit") {
        return;
    }
    const LIMIT: usize = 256;
    let wrap = Some(format!("prlimit --nofile={LIMIT}"));
    let Some(mut bench) = Bench::start(Setup { shards: 2, wrap, hop_down: true, ..Setup::default() }) else { return };
    // Mail that waits, so that there is something to deliver in the middle of it all.
    let mut all = vec![Source::run(bench.load(300)).unwrap()];
    let (mut held, mut greeted, mut refused, mut waiting) = (Vec::new(), 0, 0, 0);
    for _ in 0..400 {
        let (stream, code) = knock(bench.relay.address());
        match code {
            Some(220) => greeted += 1,
            Some(code) => {
                assert_eq!(code, 421);
                refused += 1;
            }
            None => waiting += 1,
        }
        held.extend(stream.filter(|_| code != Some(421)));
        if waiting >= 10 {
            // The backlog holds thousands of them: enough was seen.
            break;
        }
    }
    println!(
        "{LIMIT} descriptors: {greeted} greeted, {refused} refused with 421, {waiting} left in the backlog; {} open",
        descriptors(bench.relay.pid())
    );
    assert!(greeted >= 20 && refused + waiting > 0, "no descriptor was short");
    assert!(bench.relay.is_running());

    // It sleeps, and does not try over and over what cannot succeed.
    let (before, began) = (bench.relay.cpu(), Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let (used, passed) = (bench.relay.cpu() - before, began.elapsed());
    println!("{:.2} s of CPU in {:.1} s of exhaustion", used.as_secs_f64(), passed.as_secs_f64());
    assert!(used < passed / 2, "{used:?} in {passed:?}");

    // Delivery does not wait for the clients to go: their connections take a share, not all.
    bench.start_sink();
    bench.wait_all_arrived(&all[0]);
    // Who is in is served.
    let mut source = held.iter().map(|s| s.try_clone().unwrap());
    let mut first = source.next().unwrap();
    first.set_read_timeout(Some(HANG)).unwrap();
    first.write_all(b"NOOP\r\n").unwrap();
    let (mut reply, mut octets) = (Vec::new(), [0; 256]);
    while !reply.windows(4).any(|w| w == b"250 ") {
        let n = first.read(&mut octets).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&reply));
        reply.extend_from_slice(&octets[..n]);
    }

    // The clients go: it is as before, and segments are opened as ever (40 MB are more than one).
    drop((held, first));
    let mut load = bench.load(150);
    load.first_id = 1000;
    load.traffic.sizes = SizeMix::one(280 << 10);
    all.push(Source::run(load).unwrap());
    for sent in &all {
        assert_eq!((sent.refused, sent.given_up, sent.unsent), (0, 0, 0), "{:?} {:?}", sent.failures, sent.last_error);
        bench.wait_all_arrived(sent);
    }
    assert_eq!(bench.settle(&all[1], &Kills::default()).duplicates, 0);
    assert_eq!(bench.sink().stats().duplicates, 0);
}

/// Its memory is bounded from outside, tighter and tighter, while idle sessions, large messages and a long queue ask for
/// more. It refuses, or the allocation ends it, as the kernel's killer of memory hogs would: both are crashes that lose
/// nothing.
#[test]
fn little_memory() {
    // mimalloc takes address space in large pieces; small ones make the bound one of what is in use.
    let wrap = Some("env MIMALLOC_ARENA_RESERVE=4MiB MIMALLOC_ARENA_EAGER_COMMIT=0".into());
    let setup = Setup { shards: 2, hop_down: true, wrap, ..Setup::default() };
    let Some(mut bench) = Bench::start(setup) else { return };
    let mut all: Vec<SendReport> = Vec::new();
    let mut kills = Kills::default();
    let (mut died, mut refused) = (0, 0);
    for round in 0..env_number("LOADTEST_MEMORY_ROUNDS", 3) {
        let idle: Vec<_> = (0..200).map(|_| knock(bench.relay.address())).collect();
        let status = fs::read_to_string(format!("/proc/{}/status", bench.relay.pid())).unwrap();
        let data = status.lines().find_map(|l| l.strip_prefix("VmData:")).unwrap();
        let data: u64 = data.trim().trim_end_matches("kB").trim().parse().unwrap();
        // Room for some of it.
        let bound = (data << 10) + ((48 - 16 * round.min(2)) << 20);
        bench.relay.limit_memory(Some(bound)).unwrap();
        let mut load = bench.load(400);
        load.first_id = round * 1000;
        load.traffic.sizes = SizeMix::parse("4k:80,300k:15,4m:5").unwrap();
        load.sessions = 60;
        load.attempts = 20;
        load.patience = Duration::from_secs(1);
        let source = Source::start(load).unwrap();
        wait_until("all is sent, or the relay has ended", || source.is_finished() || !bench.relay.is_running());
        let ended = !bench.relay.is_running();
        let sent = source.join();
        refused += sent.failures.iter().filter(|((_, code), _)| code / 100 == 4).map(|(_, n)| n).sum::<u64>();
        assert!(sent.failures.keys().all(|(_, code)| code / 100 == 4), "{:?}", sent.failures);
        died += u64::from(ended);
        println!(
            "{} MB of private memory at most: {} accepted, {:?}, {}",
            bound / 1_000_000,
            sent.accepted,
            sent.failures,
            if ended { "then it was ended" } else { "and it lived" }
        );
        all.push(sent);
        drop(idle);
        kills.note(|| bench.relay.restart(|_| {})).unwrap();
    }
    assert!(died + refused > 0, "the bound was never felt");
    assert!(all.iter().any(|sent| sent.accepted > 0), "the bound was all that was felt");
    bench.start_sink();
    for sent in &all {
        bench.wait_all_arrived(sent);
    }
    bench.settle(all.last().unwrap(), &kills);
}
