//! `ringpost shaping`: which rules give a destination its limits, and which would act on a reply.
//!
//! Inputs: arguments, the configuration and the rule files it names, DNS for the mail exchangers where they are not given.
//! Outputs: text on stdout. It reads what a start would read, and changes nothing, so it may be asked beside a running relay
//! (which goes on with the rules of its last SIGHUP).

use crate::config::{self, Config, Machine};
use crate::dns::{Answer, DnsSettings, ExchangeId, Resolution, Resolver, Transmit, Verdict};
use crate::limits;
use crate::route::Domain;
use crate::rt::random_u64;
use crate::shaping::Shaping;
use crate::smtp::reply::EnhancedCode;
use crate::time::Moment;
use clap::{Args, Subcommand};
use std::collections::HashMap;
use std::error::Error;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

#[derive(Subcommand, Debug)]
pub(super) enum ShapingCommand {
    /// Show a destination's site, its limits with the file and line of each, and its reply rules.
    #[command(after_help = "\
Examples:
  ringpost shaping explain gmail.com -c /etc/ringpost/ringpost.toml
      Asks DNS for the mail exchangers, then says what holds for them.
  ringpost shaping explain example.com --mx mx1.example.net --mx mx2.example.net \\
      -c /etc/ringpost/ringpost.toml
      With these mail exchangers, without DNS.
  ringpost shaping explain gmail.com --rules config/shaping.toml
      By one rule file, without a configuration.")]
    Explain(ExplainArgs),
    /// Show which rule would act on a reply of a destination, and what it would do.
    #[command(after_help = "\
Examples:
  ringpost shaping judge gmail.com '421 4.7.28 unusual rate of unsolicited mail' \\
      -c /etc/ringpost/ringpost.toml
  ringpost shaping judge example.com '554 5.7.1 blocked' --mx mx.example.net \\
      --rules config/shaping.toml

Exit status: 0, whether a rule acts or none; 1 if the rules cannot be read.")]
    Judge(JudgeArgs),
}

#[derive(Args, Debug)]
struct RulesArgs {
    /// The relay's configuration: `[shaping] files` in it are the rules. Without it and --rules: no rules.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A rule file itself, in place of those of the configuration; may be given several times, later ones count before.
    #[arg(long, value_name = "FILE")]
    rules: Vec<PathBuf>,
    /// A mail exchanger of the domain; may be given several times. Without it DNS is asked.
    #[arg(long, value_name = "HOST")]
    mx: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// A recipient domain.
    domain: String,
    #[command(flatten)]
    rules: RulesArgs,
}

#[derive(Args, Debug)]
pub(super) struct JudgeArgs {
    /// A recipient domain.
    domain: String,
    /// The reply as the receiver sent it: "421 4.7.0 try again later". Of several lines, with line feeds between.
    reply: String,
    #[command(flatten)]
    rules: RulesArgs,
}

pub(super) fn run(command: &ShapingCommand) -> Result<(), Box<dyn Error>> {
    match command {
        ShapingCommand::Explain(args) => {
            let (shaping, domain, mx) = args.rules.read(&args.domain)?;
            let mx: Vec<&str> = mx.iter().map(String::as_str).collect();
            print!("{}", shaping.explain(&domain, &mx));
        }
        ShapingCommand::Judge(args) => {
            let (code, enhanced, text) = reply(&args.reply)?;
            let (shaping, domain, mx) = args.rules.read(&args.domain)?;
            let site = shaping.site(&domain, &mut mx.iter().map(String::as_str));
            println!("site: {}", site.name);
            let enhanced = enhanced.map(|EnhancedCode(class, subject, detail)| (class, subject, detail));
            match shaping.judge(&site, code, enhanced, &text) {
                Some(rule) => println!("{}", shaping.rule(rule)),
                None => println!("no rule: the reply means what its code says"),
            }
        }
    }
    Ok(())
}

/// The parts of a reply: its code, the enhanced code at the beginning of its text, and the lines of the text.
fn reply(given: &str) -> Result<(u16, Option<EnhancedCode>, String), String> {
    let refuse = || format!("{given:?} is not a refusal; write it as it came, like '421 4.7.0 try again later'");
    let code = given.get(..3).and_then(|code| code.parse().ok()).filter(|code| (400..600).contains(code));
    let code: u16 = code.ok_or_else(refuse)?;
    let mut lines = Vec::new();
    for line in given.split('\n').map(str::trim_end) {
        let text = line.strip_prefix(&given[..3]).and_then(|rest| rest.strip_prefix([' ', '-'])).unwrap_or(line);
        lines.push(if text == &given[..3] { "" } else { text });
    }
    let text = lines.join("\n");
    let enhanced = EnhancedCode::parse(&text).filter(|enhanced| u16::from(enhanced.0) == code / 100);
    Ok((code, enhanced, text))
}

impl RulesArgs {
    /// The rules, the domain as the relay spells it, and its mail exchangers.
    fn read(&self, domain: &str) -> Result<(Shaping, String, Vec<String>), Box<dyn Error>> {
        let mut config = config::load(self.config.as_deref(), &Machine::this())?.config;
        if !self.rules.is_empty() {
            config.shaping.clone_from(&self.rules);
        }
        let shaping = crate::server::shaping(&config)?;
        let domain = Domain::new(domain.as_bytes()).as_str().to_owned();
        let mx = if self.mx.is_empty() { exchangers(&domain, &config)? } else { self.mx.clone() };
        Ok((shaping, domain, mx))
    }
}

/// The names of a domain's mail exchangers, as a shard would find them; none if mail for it cannot be sent.
fn exchangers(domain: &str, config: &Config) -> Result<Vec<String>, Box<dyn Error>> {
    let resolution = resolve(domain, config)?;
    match &resolution.verdict {
        Verdict::Hosts(hosts) => Ok(hosts.iter().map(|host| host.name.to_string()).collect()),
        Verdict::Temporary { reason } => {
            Err(format!("cannot ask DNS for {domain}: {reason}; give its mail exchangers with --mx").into())
        }
        verdict => {
            let why = match verdict {
                Verdict::NullMx => "it takes no mail (null MX)",
                Verdict::NoSuchDomain => "there is no such domain",
                _ => "it has no usable mail exchanger",
            };
            eprintln!("{domain}: {why}");
            Ok(Vec::new())
        }
    }
}

/// A shard's resolver, driven by sockets that one thread looks at in turn: good for one question at a shell.
fn resolve(domain: &str, config: &Config) -> io::Result<Rc<Resolution>> {
    enum Socket {
        Datagram(UdpSocket),
        Stream(TcpStream),
    }
    let began = Instant::now();
    let now = || Moment(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    // MX also where a smart host takes the mail: rules are about where it ends.
    let settings = DnsSettings { addresses_only: false, ..crate::server::dns_settings(config) };
    let mut resolver = Resolver::new(&settings, random_u64());
    let mut sockets: HashMap<ExchangeId, Socket> = HashMap::new();
    if let Answer::Ready(resolution) = resolver.resolve(domain, now()) {
        return Ok(resolution);
    }
    let mut bytes = vec![0; usize::from(u16::MAX)];
    loop {
        while let Some(transmit) = resolver.poll_transmit() {
            let (exchange, opened) = match transmit {
                Transmit::Udp { exchange, server, payload } => {
                    (exchange, datagram(server, &payload).map(Socket::Datagram))
                }
                Transmit::Tcp { exchange, server, payload } => {
                    (exchange, stream(server, &payload, config.dns.timeout).map(Socket::Stream))
                }
                Transmit::Close { exchange } => {
                    sockets.remove(&exchange);
                    continue;
                }
            };
            match opened {
                Ok(socket) => drop(sockets.insert(exchange, socket)),
                Err(_) => resolver.handle_failed(exchange, now()),
            }
        }
        if let Some(resolved) = resolver.poll_event() {
            return Ok(resolved.resolution);
        }
        let mut heard = false;
        for (exchange, socket) in &mut sockets {
            let (received, is_stream) = match socket {
                Socket::Datagram(socket) => (socket.recv(&mut bytes), false),
                Socket::Stream(socket) => (socket.read(&mut bytes), true),
            };
            match received {
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Ok(0) | Err(_) => resolver.handle_failed(*exchange, now()),
                Ok(length) if is_stream => resolver.handle_stream(*exchange, &bytes[..length], now()),
                Ok(length) => resolver.handle_datagram(*exchange, &bytes[..length], now()),
            }
            heard = true;
        }
        if !heard {
            std::thread::sleep(Duration::from_millis(2));
            if resolver.poll_timeout().is_some_and(|due| due <= now()) {
                resolver.handle_timeout(now());
            }
        }
    }
}

fn datagram(server: SocketAddr, payload: &[u8]) -> io::Result<UdpSocket> {
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.send(payload)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn stream(server: SocketAddr, payload: &[u8], timeout: Duration) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&server, timeout.min(limits::CONNECT_TIMEOUT_DEFAULT))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(payload)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_read_as_it_came() {
        let one = reply("421 4.7.0 try again later").unwrap();
        assert_eq!(one, (421, Some(EnhancedCode(4, 7, 0)), "4.7.0 try again later".to_owned()));
        let many = reply("550-5.7.1 no\r\n550 5.7.1 really").unwrap();
        assert_eq!(many, (550, Some(EnhancedCode(5, 7, 1)), "5.7.1 no\n5.7.1 really".to_owned()));
        assert_eq!(reply("554 blocked").unwrap(), (554, None, "blocked".to_owned()));
        assert_eq!(reply("421").unwrap(), (421, None, String::new()));
        assert_eq!(reply("421 5.7.1 x").unwrap().1, None, "its class is not the code's");
        for bad in ["", "25", "250 ok", "4.7.0 x", "\u{e9}\u{e9}x"] {
            assert!(reply(bad).unwrap_err().contains("is not a refusal"), "{bad}");
        }
    }

    /// A server that answers one question of each kind, over UDP.
    #[test]
    fn dns_is_asked_for_what_is_not_given() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let text =
            format!("hostname = \"a.example\"\n[dns]\nservers = [\"{address}\"]\ntimeout = \"100ms\"\nattempts = 1\n");
        let config = config::parse("test", &text, &Machine::default()).unwrap().config;
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 1500];
            let (length, client) = server.recv_from(&mut bytes).unwrap();
            // NXDOMAIN: the question, with the bits of an answer (RFC 1035 §4.1.1).
            bytes[2] |= 0x80;
            bytes[3] = 0x83;
            server.send_to(&bytes[..length], client).unwrap();
        });
        assert_eq!(exchangers("nobody.example", &config).unwrap(), Vec::<String>::new());
        thread.join().unwrap();
        let nobody = exchangers("nobody.example", &config).unwrap_err().to_string();
        assert!(nobody.contains("cannot ask DNS") && nobody.contains("--mx"), "{nobody}");
    }
}
