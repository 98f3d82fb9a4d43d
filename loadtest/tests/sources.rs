//! Source addresses of the real process: what a receiver sees of them, pools, rests, a warm-up over a restart, limits; and proxies that
//! connect for a source: a SOCKS5 server and a reader of the PROXY protocol, both written here, on loopback.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write, copy};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Bench, PROGRAM, Setup, wait_until};
use loadtest::relay::{RelayConfig, free_port};
use loadtest::sink::{Behaviour, Kept, Sink, SinkConfig};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

fn ip(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

fn start(extra: &str) -> Option<Bench> {
    start_with(move |_| {}, extra)
}

fn start_with(change: impl FnOnce(&mut RelayConfig) + 'static, extra: &str) -> Option<Bench> {
    let extra = extra.to_owned();
    let config = Box::new(move |config: &mut RelayConfig| {
        config.extra.push_str(&extra);
        change(config);
    });
    Bench::start(Setup { keep: 1000, config, ..Setup::default() })
}

/// Hands a message to the relay.
fn send(bench: &Bench, mark: &str, from: &str, header: &str, to: &str) {
    let mut client = bench.client();
    client.expect("EHLO client.test", "250");
    let text = format!("From: {from}\r\nTo: {to}\r\nSubject: <{mark}>\r\n{header}\r\nHello\r\n");
    client.send(from, &[to], text.as_bytes());
}

fn arrived(bench: &Bench, mark: &str) -> Kept {
    let mark = format!("<{mark}>");
    bench.wait_kept(&mark, |kept| memchr::memmem::find(&kept.wire, mark.as_bytes()).is_some())
}

fn events(bench: &Bench) -> String {
    fs::read_to_string(&bench.relay.config().events).unwrap_or_default()
}

/// What `ringpost sources` says of a source.
fn shown(bench: &Bench, source: u8) -> Value {
    let output = Command::new(PROGRAM)
        .args(["relay", "sources", "--json", "--config"])
        .arg(bench.dir.path().join("relay.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut all: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(all["problems"], Value::Array(Vec::new()));
    let list = all["sources"].as_array_mut().unwrap();
    list.iter().find(|found| found["address"] == ip(source).to_string()).unwrap().clone()
}

#[test]
fn a_receiver_sees_the_address_and_the_name_of_each_pools_source() {
    let extra = "
[[source]]
address = \"127.0.0.2\"
ehlo_name = \"out2.test\"
[[source]]
address = \"127.0.0.3\"
ehlo_name = \"out3.test\"
pools = [\"bulk\"]
[[pool]]
name = \"bulk\"
sender_domains = [\"d0009.test\"]
[pools]
header = \"X-Pool\"
";
    let Some(bench) = start(extra) else { return };
    for (mark, sender, header, source) in [
        ("plain", "a@d0001.test", "", 2),
        ("header", "a@d0001.test", "X-Pool: bulk\r\n", 3),
        ("sender", "a@d0009.test", "", 3),
        ("both", "a@d0009.test", "X-Pool: default\r\n", 2),
    ] {
        send(&bench, mark, sender, header, "b@d0002.test");
        let kept = arrived(&bench, mark);
        assert_eq!((kept.peer.ip(), kept.helo), (ip(source), format!("out{source}.test")), "{mark}");
    }
    wait_until("the events are written", || events(&bench).matches("\"delivered\"").count() == 4);
    assert_eq!(events(&bench).matches("\"source\":\"127.0.0.3\"").count(), 2, "{}", events(&bench));
}

#[test]
fn a_source_of_ipv6_is_seen() {
    let listen = vec![SocketAddr::from((Ipv6Addr::LOCALHOST, 0))];
    let sink = SinkConfig { listen, loopback_only: true, behaviour: Behaviour::default(), keep: 10 };
    let Ok(sink) = Sink::start(sink) else {
        eprintln!("skipped: there is no ::1");
        return;
    };
    let port = sink.port();
    let extra = "\n[[source]]\naddress = \"::1\"\nehlo_name = \"six.test\"\n";
    let Some(bench) = start_with(move |config| config.smart_host = Some(format!("[::1]:{port}")), extra) else {
        return;
    };
    send(&bench, "six", "a@d0001.test", "", "b@d0002.test");
    wait_until("it comes", || sink.kept().len() == 1);
    let kept = sink.kept().remove(0);
    assert_eq!((kept.peer.ip(), &*kept.helo), (Ipv6Addr::LOCALHOST.into(), "six.test"));
}

/// A receiver of its own, at the exchanger of domain 1: it refuses senders from one address. What it took, and from where.
struct Receiver {
    taken: Arc<Mutex<Vec<(IpAddr, String)>>>,
}

impl Receiver {
    fn start(port: u16, refused: IpAddr) -> Receiver {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let listener = TcpListener::bind((loadtest::dns::exchanger_address(1), port)).unwrap();
        let into = Arc::clone(&taken);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let into = Arc::clone(&into);
                std::thread::spawn(move || Receiver::serve(stream, refused, &into));
            }
        });
        Receiver { taken }
    }

    fn serve(mut stream: TcpStream, refused: IpAddr, taken: &Mutex<Vec<(IpAddr, String)>>) -> Option<()> {
        let peer = stream.peer_addr().ok()?.ip();
        stream.write_all(b"220 receiver.test\r\n").ok()?;
        let (mut in_data, mut subject) = (false, String::new());
        for line in BufReader::new(stream.try_clone().ok()?).lines() {
            let line = line.ok()?;
            let reply = match line.get(..4).unwrap_or_default() {
                _ if in_data && line == "." => {
                    in_data = false;
                    taken.lock().unwrap().push((peer, subject.clone()));
                    "250 2.0.0 taken"
                }
                _ if in_data => {
                    subject = line.strip_prefix("Subject: ").map_or(subject, str::to_owned);
                    continue;
                }
                "MAIL" if peer == refused => "550 5.7.1 this address is on our list",
                "DATA" => {
                    in_data = true;
                    "354 go on"
                }
                "QUIT" => "221 2.0.0 bye",
                _ => "250 2.0.0 ok",
            };
            stream.write_all(format!("{reply}\r\n").as_bytes()).ok()?;
        }
        Some(())
    }

    fn taken(&self) -> Vec<(IpAddr, String)> {
        self.taken.lock().unwrap().clone()
    }
}

#[test]
fn a_source_that_a_reply_rule_has_rest_leaves_its_mail_to_the_other() {
    for action in ["action = \"other_source\"\nrest = \"1h\"", "action = \"suspend\"\nwhat = \"source\"\nfor = \"1h\""]
    {
        let rules = tempfile::NamedTempFile::new().unwrap();
        let rule = format!("[[reply]]\nname = \"listed\"\ncode = \"550\"\ntext = \"on our list\"\n{action}\n");
        fs::write(&rules, rule).unwrap();
        let extra = format!(
            "\n[shaping]\nfiles = [{:?}]\n[[source]]\naddress = \"127.0.0.2\"\nweight = 1000\n\
             [[source]]\naddress = \"127.0.0.3\"\nweight = 1\n",
            rules.path().display().to_string()
        );
        let port = free_port().unwrap();
        let receiver = Receiver::start(port, ip(2));
        let Some(mut bench) = start_with(move |config| config.delivery_port = port, &extra) else { return };
        for n in 0..5 {
            send(&bench, &format!("n{n}"), "a@d0007.test", "", "b@d0001.test");
        }
        wait_until("all have come", || receiver.taken().len() == 5);
        let why = |bench: &Bench| shown(bench, 2)["rests"][0]["why"].as_str().map(str::to_owned);
        wait_until("the rest is kept", || why(&bench).is_some_and(|why| why.starts_with("rule listed: ")));
        bench.relay.kill9().unwrap();
        bench.relay.restart(|_| {}).unwrap();
        assert!(why(&bench).is_some() && shown(&bench, 3)["rests"][0].is_null());
        for n in 5..8 {
            send(&bench, &format!("n{n}"), "a@d0007.test", "", "b@d0001.test");
        }
        wait_until("the others have come", || receiver.taken().len() >= 8);
        assert!(receiver.taken().iter().all(|(from, _)| *from == ip(3)), "{:?}", receiver.taken());
        let events = events(&bench);
        assert_eq!(events.matches("source_rests").count(), 1, "{events}");
        assert!(events.contains("127.0.0.2 rests for") && !events.contains("\"bounced\""), "{events}");
    }
}

#[test]
fn a_warm_up_holds_over_a_restart() {
    let day = Command::new("date").args(["-u", "+%F"]).output().unwrap().stdout;
    let day = String::from_utf8(day).unwrap().trim().to_owned();
    let extra = format!(
        "\n[[source]]\naddress = \"127.0.0.2\"\nweight = 1000\nwarmup = {{ started = \"{day}\", schedule = [3, 3] }}\n\
         [[source]]\naddress = \"127.0.0.3\"\nweight = 1\n"
    );
    // Each message needs a connection of its own: what the new source may begin is asked for when one is opened.
    let idle = |config: &mut RelayConfig| config.delivery.push_str("idle_timeout = \"1s\"\n");
    let Some(mut bench) = start_with(idle, &extra) else { return };
    let from_new = |bench: &Bench| bench.sink().kept().iter().filter(|kept| kept.peer.ip() == ip(2)).count();
    for n in 0..6 {
        send(&bench, &format!("n{n}"), "a@d0001.test", "", "b@d0002.test");
        arrived(&bench, &format!("n{n}"));
        std::thread::sleep(Duration::from_millis(1500));
    }
    assert_eq!(from_new(&bench), 3);
    bench.relay.terminate(common::HANG).unwrap();
    bench.relay.restart(|_| {}).unwrap();
    for n in 6..10 {
        send(&bench, &format!("n{n}"), "a@d0001.test", "", "b@d0002.test");
        arrived(&bench, &format!("n{n}"));
        std::thread::sleep(Duration::from_millis(1500));
    }
    assert_eq!(from_new(&bench), 3, "a restart is no new day");
    let warmup = &shown(&bench, 2)["warmup"];
    assert_eq!((&warmup["day"], &warmup["allowed"], &warmup["sites"][0]["sent"]), (&1.into(), &3.into(), &3.into()));
    assert!(warmup["sites"][0]["full_until"].is_string() && shown(&bench, 3)["warmup"].is_null(), "{warmup}");
}

// --- proxies ----------------------------------------------------------------------------------------------------------

/// A proxy on a port of loopback: by SOCKS5 (RFC 1928, RFC 1929 with ann and secret; BIND in front of CONNECT names an address), or
/// by the PROXY protocol. It connects from the address that it was asked for, or from its own.
struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// It ends each connection at once.
    broken: Arc<AtomicBool>,
}

/// Where a proxy is to connect to, and from.
type Asked = (SocketAddr, Option<IpAddr>);

const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 99));

impl Proxy {
    fn start(socks: bool) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let broken = Arc::new(AtomicBool::new(false));
        let (into, ends) = (Arc::clone(&asked), Arc::clone(&broken));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let into = Arc::clone(&into);
                if ends.load(SeqCst) {
                    continue;
                }
                std::thread::spawn(move || {
                    let wanted = if socks { Proxy::socks(&mut stream) } else { Proxy::header(&mut stream) };
                    let (to, from) = wanted?;
                    into.lock().unwrap().push((to, from));
                    let made = connect(to, from.unwrap_or(OWN));
                    if socks {
                        let code = u8::from(made.is_none()) * 5;
                        stream.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).ok()?;
                    }
                    join(stream, made?);
                    Some(())
                });
            }
        });
        Proxy { address, asked, broken }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn socks(stream: &mut TcpStream) -> Option<Asked> {
        let [5, count] = read(stream)? else { return None };
        let mut methods = vec![0; usize::from(count)];
        stream.read_exact(&mut methods).ok()?;
        if !methods.contains(&2) {
            stream.write_all(&[5, 255]).ok()?;
            return None;
        }
        stream.write_all(&[5, 2]).ok()?;
        let login: [u8; 12] = read(stream)?;
        let fits = login == *b"\x01\x03ann\x06secret";
        stream.write_all(&[1, u8::from(!fits)]).ok()?;
        if !fits {
            return None;
        }
        let mut from = None;
        loop {
            let [5, command, 0, kind] = read(stream)? else { return None };
            let host = if kind == 1 { read::<4>(stream)?.into() } else { IpAddr::from(read::<16>(stream)?) };
            let port = u16::from_be_bytes(read(stream)?);
            if command == 1 {
                return Some((SocketAddr::new(host, port), from));
            }
            from = Some(host);
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).ok()?;
        }
    }

    fn header(stream: &mut TcpStream) -> Option<Asked> {
        let start: [u8; 16] = read(stream)?;
        assert_eq!(start, *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
        let (from, to): ([u8; 4], [u8; 4]) = (read(stream)?, read(stream)?);
        let ([_, _], port) = (read(stream)?, u16::from_be_bytes(read(stream)?));
        Some((SocketAddr::new(to.into(), port), Some(from.into())))
    }
}

fn read<const N: usize>(stream: &mut TcpStream) -> Option<[u8; N]> {
    let mut octets = [0; N];
    stream.read_exact(&mut octets).ok()?;
    Some(octets)
}

fn connect(to: SocketAddr, from: IpAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).ok()?;
    socket.bind(&SocketAddr::new(from, 0).into()).ok()?;
    socket.connect(&to.into()).ok()?;
    Some(socket.into())
}

/// Carries both directions, each to its end.
fn join(one: TcpStream, other: TcpStream) {
    let carry = |mut from: TcpStream, mut to: TcpStream| {
        let _ = copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    let (back, forth) = (one.try_clone().unwrap(), other.try_clone().unwrap());
    std::thread::spawn(move || carry(forth, back));
    carry(one, other);
}

/// A login file, and the keys of a SOCKS5 source.
fn socks_keys(proxy: &Proxy, login: &str, dir: &std::path::Path) -> String {
    let file = dir.join("proxy.login");
    fs::write(&file, login).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    format!("proxy = \"socks5://{}\"\nproxy_auth = {:?}\n", proxy.address, file.display().to_string())
}

#[test]
fn mail_goes_through_a_socks5_server_and_through_a_reader_of_proxy_headers() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (case, socks, more, peer) in
        [("connect", true, "", OWN), ("bind", true, "proxy_bind = true\n", ip(7)), ("header", false, "", ip(7))]
    {
        let proxy = Proxy::start(socks);
        let keys = match socks {
            true => socks_keys(&proxy, "ann:secret\n", dir.path()),
            false => format!("proxy = \"haproxy://{}\"\n", proxy.address),
        };
        let extra = format!("\n[[source]]\naddress = \"127.0.0.7\"\nehlo_name = \"seven.test\"\n{keys}{more}");
        let Some(bench) = start(&extra) else { return };
        // Also one that does not fit into what is read at a time.
        let large = format!("X-Long: {}\r\n", "a long line\r\n ".repeat(30_000));
        for (mark, header) in [("small", ""), ("large", &*large)] {
            send(&bench, mark, "a@d0001.test", header, "b@d0002.test");
            let kept = arrived(&bench, mark);
            assert_eq!((kept.peer.ip(), &*kept.helo), (peer, "seven.test"), "{case}");
        }
        let to = SocketAddr::new(loadtest::dns::exchanger_address(2).into(), bench.sink().port());
        let from = if case == "connect" { None } else { Some(ip(7)) };
        assert!(proxy.asked().iter().all(|asked| *asked == (to, from)), "{case}: {:?}", proxy.asked());
        wait_until("the events are written", || events(&bench).matches("\"delivered\"").count() == 2);
        assert!(events(&bench).contains("\"source\":\"127.0.0.7\""), "{}", events(&bench));
    }
}

#[test]
fn a_proxy_that_fails_leaves_mail_to_another_source_or_keeps_it() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let proxy = Proxy::start(true);
    // The login is wrong, until a reload.
    let keys = socks_keys(&proxy, "ann:wrong1\n", dir.path());
    let extra = format!("\n[[source]]\naddress = \"127.0.0.7\"\nweight = 1000\n{keys}");
    let with_other = format!("{extra}\n[[source]]\naddress = \"127.0.0.3\"\nweight = 1\n");
    let Some(bench) = start(&with_other) else { return };
    send(&bench, "other", "a@d0001.test", "", "b@d0002.test");
    assert_eq!(arrived(&bench, "other").peer.ip(), ip(3));
    wait_until("it is told", || events(&bench).contains("the proxy refused the login"));
    drop(bench);
    let Some(bench) = start(&extra) else { return };
    send(&bench, "kept", "a@d0001.test", "", "b@d0002.test");
    wait_until("it is told", || events(&bench).contains("source_rests"));
    fs::write(dir.path().join("proxy.login"), "ann:secret\n").unwrap();
    loadtest::relay::signal(bench.relay.pid(), rustix::process::Signal::HUP).unwrap();
    assert_eq!(arrived(&bench, "kept").peer.ip(), OWN);
    assert!(!events(&bench).contains("\"deferred\""), "{}", events(&bench));
    // It ends all connections, and then works again.
    proxy.broken.store(true, SeqCst);
    send(&bench, "later", "a@d0001.test", "", "b@d0003.test");
    wait_until("it is told", || events(&bench).contains("the proxy ended the connection"));
    proxy.broken.store(false, SeqCst);
    assert_eq!(arrived(&bench, "later").peer.ip(), OWN);
}

// --- limits -----------------------------------------------------------------------------------------------------------

/// A receiver of several domains that counts by the address that it is called from: connections at a time, and when messages begin.
#[derive(Default)]
struct Counts {
    open: HashMap<IpAddr, usize>,
    most: HashMap<IpAddr, usize>,
    begun: HashMap<IpAddr, Vec<Instant>>,
    taken: usize,
}

/// Starts it at the exchangers of these domains.
fn start_counting(port: u16, domains: std::ops::Range<u32>) -> Arc<Mutex<Counts>> {
    let counts = Arc::new(Mutex::new(Counts::default()));
    for domain in domains {
        let listener = TcpListener::bind((loadtest::dns::exchanger_address(domain), port)).unwrap();
        let counts = Arc::clone(&counts);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counts = Arc::clone(&counts);
                std::thread::spawn(move || {
                    let peer = stream.peer_addr().unwrap().ip();
                    // One whose end has come, and was not read yet, does not stand any more.
                    let end = Instant::now() + Duration::from_millis(50);
                    while counts.lock().unwrap().open.get(&peer).is_some_and(|open| *open > 0) && Instant::now() < end {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    {
                        let Counts { open, most, .. } = &mut *counts.lock().unwrap();
                        let open = open.entry(peer).or_default();
                        *open += 1;
                        let most = most.entry(peer).or_default();
                        *most = (*most).max(*open);
                    }
                    let _ = count(stream, peer, &counts);
                    *counts.lock().unwrap().open.get_mut(&peer).unwrap() -= 1;
                });
            }
        });
    }
    counts
}

fn count(mut stream: TcpStream, peer: IpAddr, counts: &Mutex<Counts>) -> Option<()> {
    stream.write_all(b"220 receiver.test\r\n").ok()?;
    let mut in_data = false;
    for line in BufReader::new(stream.try_clone().ok()?).lines() {
        let line = line.ok()?;
        let reply = match line.get(..4).unwrap_or_default() {
            _ if in_data && line == "." => {
                in_data = false;
                std::thread::sleep(Duration::from_millis(10));
                counts.lock().unwrap().taken += 1;
                "250 2.0.0 taken"
            }
            _ if in_data => continue,
            "MAIL" => {
                counts.lock().unwrap().begun.entry(peer).or_default().push(Instant::now());
                "250 2.0.0 ok"
            }
            "DATA" => {
                in_data = true;
                "354 go on"
            }
            // Who hears this closes.
            "QUIT" => return stream.write_all(b"221 2.0.0 bye\r\n").ok(),
            _ => "250 2.0.0 ok",
        };
        stream.write_all(format!("{reply}\r\n").as_bytes()).ok()?;
    }
    Some(())
}

#[test]
fn a_receiver_that_counts_by_address_sees_what_each_source_may() {
    const COUNT: usize = 100;
    const INTERVAL: Duration = Duration::from_millis(50);
    let rules = tempfile::NamedTempFile::new().unwrap();
    let domains: Vec<String> = (1..5).map(|n| format!("\"d{n:04}.test\"")).collect();
    let text = format!(
        "[[provider]]\nname = \"big\"\ndomains = [{}]\nper_source = {{ connections = 1, message_rate = \"20/s\" }}\n",
        domains.join(", ")
    );
    fs::write(&rules, text).unwrap();
    let extra = format!(
        "\n[shaping]\nfiles = [{:?}]\n[[source]]\naddress = \"127.0.0.2\"\n[[source]]\naddress = \"127.0.0.3\"\n",
        rules.path().display().to_string()
    );
    let port = free_port().unwrap();
    let counts = start_counting(port, 1..5);
    let config = Box::new(move |config: &mut RelayConfig| {
        config.extra.push_str(&extra);
        config.delivery_port = port;
        // A connection gives its source up because others wait for it, not by and by.
        config.delivery.push_str("idle_timeout = \"5m\"\n");
    });
    let Some(bench) = Bench::start(Setup { shards: 2, config, ..Setup::default() }) else { return };
    for n in 0..COUNT {
        send(&bench, &format!("n{n}"), "a@d0007.test", "", &format!("b@d{:04}.test", 1 + n % 4));
    }
    // Far more than any machine needs, and less than a connection idles.
    let patience = Instant::now() + Duration::from_secs(150);
    while counts.lock().unwrap().taken < COUNT {
        std::thread::sleep(Duration::from_millis(20));
        let Counts { open, taken, .. } = &*counts.lock().unwrap();
        assert!(Instant::now() < patience, "{taken} of {COUNT} have come, connections stand: {open:?}");
    }
    let Counts { most, begun, taken, .. } = &*counts.lock().unwrap();
    assert_eq!(*taken, COUNT);
    let from_each: Vec<_> = begun.values().map(Vec::len).collect();
    assert!(from_each.iter().all(|count| *count >= COUNT / 4), "one waits for the other: {from_each:?}");
    assert_eq!(*most, HashMap::from([(ip(2), 1), (ip(3), 1)]), "both are used, over one connection each");
    for (source, times) in begun {
        for (n, first) in times.iter().enumerate() {
            for (m, later) in times.iter().enumerate().skip(n + 1) {
                // A machine that is busy reads late what came in time.
                let least = INTERVAL * u32::try_from(m - n).unwrap();
                assert!(*later - *first + Duration::from_millis(200) >= least, "{source}: {n} to {m}");
            }
        }
    }
    assert!(!events(&bench).contains("\"deferred\""), "{}", events(&bench));
    let output = Command::new(PROGRAM)
        .args(["relay", "sources", "--config"])
        .arg(bench.dir.path().join("relay.toml"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("big                  connections 1, message_rate 20/s"), "{told}");
}
