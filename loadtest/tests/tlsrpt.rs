//! Reports of TLS (RFC 8460): sessions with hosts whose TLS is good, or broken in one way or another, are counted, kept over a
//! restart and mailed when the day is over; python3 takes the mail apart.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::certs::Pki;
use common::edge::{Edge, EdgeSetup};
use common::programs::run_with_input;
use common::{Client, PROGRAM, have, wait_until};
use loadtest::dns::{DnsConfig, DnsServer};
use loadtest::relay::{Relay, RelayConfig, free_port};
use serde_json::{Value, json};

/// Greets, and has no STARTTLS; whoever wants TLS leaves.
fn host_without_tls(address: (&'static str, u16)) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"220 old.test\r\n");
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            for line in lines.map_while(Result::ok) {
                let reply: &[u8] = if line.starts_with("QUIT") { b"221 bye\r\n" } else { b"250 old.test\r\n" };
                let _ = stream.write_all(reply);
            }
        }
    });
}

/// What `ringpost tlsrpt show` says of a domain.
fn shown(dir: &Path, domain: &str) -> Option<Value> {
    let output = Command::new(PROGRAM)
        .args(["relay", "tlsrpt", "show", "--config"])
        .arg(dir.join("relay.toml"))
        .arg(domain)
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).ok()
}

/// The one policy of a report, with what differs from run to run taken out.
fn policy(report: &Value) -> Value {
    let policies = report["policies"].as_array().unwrap();
    assert_eq!(policies.len(), 1, "{report}");
    policies[0].clone()
}

/// The day before, and its first second: by coreutils, since this workspace has no other use for dates.
fn day_before(day: &str) -> (String, u64) {
    let output = Command::new("date").args(["-u", "-d", &format!("{day} yesterday"), "+%F %s"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (day, seconds) = said.trim().split_once(' ').unwrap();
    (day.to_owned(), seconds.parse().unwrap())
}

const PARSE: &str = "
import sys, email, gzip, json
mail = email.message_from_bytes(sys.stdin.buffer.read())
parts = list(mail.walk())
report = [p for p in parts if p.get_content_type() == 'application/tlsrpt+gzip'][0]
print(json.dumps({'types': [p.get_content_type() for p in parts], 'domain': mail['TLS-Report-Domain'],
    'submitter': mail['TLS-Report-Submitter'], 'report-type': mail.get_param('report-type'), 'to': mail['To'],
    'subject': mail['Subject'], 'file': report.get_filename(), 'report': json.loads(gzip.decompress(report.get_payload(decode=True)))}))
";

#[test]
fn sessions_are_counted_kept_and_reported() {
    if !have("python3") {
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let pki = Pki::make_for(dir.path(), &["mx.d0001.test"]);
    let port = free_port().unwrap();
    // One host is two domains' exchanger, at two addresses; its certificate is for one of them.
    let listener = |address: &str| format!("\n[[listener]]\naddress = \"{address}:{port}\"\nkind = \"relay\"\n");
    let extra = listener("127.1.0.1") + &listener("127.1.0.2");
    let Some(edge) = Edge::start_with(EdgeSetup { extra, ..EdgeSetup::default() }, dir, pki) else { return };
    host_without_tls(("127.1.0.3", port));
    let record =
        |domain: &str| (format!("_smtp._tls.{domain}"), "v=TLSRPTv1; rua=mailto:reports@d0001.test".to_owned());
    let txt = vec![record("d0002.test"), record("d0003.test")];
    let dns = DnsServer::start(DnsConfig { txt, ..DnsConfig::default() }).unwrap();

    let home = edge.dir.path().join("reporter");
    fs::create_dir(&home).unwrap();
    let mut config = RelayConfig::new(home.join("spool"), dns.address(), port).unwrap();
    config.shards = 2;
    config.hostname = "reporter.test".into();
    config.retry_first = Some("2h".into());
    config.delivery = "tls = \"verify\"\nsource_addresses = [\"127.0.0.1\"]\n".into();
    let reports = "[tls_reports]\norganization = \"The Reporters\"\ncontact = \"tls@reporter.test\"\nfrom = \"tlsrpt@reporter.test\"\n";
    config.extra = format!("\n[tls]\ntrust = {:?}\n\n{reports}delay = \"0s\"\n", edge.pki.ca.display().to_string());
    let mut relay = Relay::start(common::relay_command().unwrap(), config, &home).unwrap();
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", "250");
    for domain in ["d0001.test", "d0002.test", "d0003.test"] {
        client.send(
            "a@client.test",
            &[&format!("x@{domain}")],
            format!("Subject: {domain}\r\n\r\nHello\r\n").as_bytes(),
        );
    }
    let log = relay.config().events.clone();
    wait_until("one went, two wait", || {
        let events = fs::read_to_string(&log).unwrap_or_default();
        events.contains("\"delivered\"") && events.matches("suspended").count() >= 2
    });
    relay.terminate(common::HANG).unwrap();

    // What is known so far, from the file.
    let details = |kind: &str, n: u32, why: &str| {
        json!([{ "result-type": kind, "sending-mta-ip": "127.0.0.1", "receiving-mx-hostname": format!("mx.d000{n}.test"),
                 "receiving-ip": format!("127.1.0.{n}"), "failed-session-count": 1, "failure-reason-code": why }])
    };
    let expected = |n: u32, good: u32, details: Value| {
        let mut policy = json!({
            "policy": { "policy-type": "no-policy-found", "policy-domain": format!("d000{n}.test") },
            "summary": { "total-successful-session-count": good, "total-failure-session-count": 1 - good },
        });
        if good == 0 {
            policy["failure-details"] = details;
        }
        policy
    };
    let name = details("certificate-host-mismatch", 2, "its certificate is for other names");
    let bare = details("starttls-not-supported", 3, "STARTTLS is not offered");
    let expected = [expected(1, 1, Value::Null), expected(2, 0, name), expected(3, 0, bare)];
    for (n, expected) in (1..).zip(&expected) {
        let report = shown(&home, &format!("D000{n}.test.")).unwrap();
        assert_eq!(policy(&report), *expected, "{report}");
        assert_eq!(report["organization-name"], "The Reporters");
    }
    assert_eq!(shown(&home, "d0004.test"), None);

    // A day passes.
    let folder = home.join("spool/tls-reports");
    let today = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let name = today.file_stem().unwrap().to_str().unwrap().to_owned();
    let (yesterday, start) = day_before(&name);
    let text = fs::read_to_string(&today).unwrap().replace(&name, &yesterday);
    fs::write(folder.join(format!("{yesterday}.json")), text).unwrap();
    fs::remove_file(&today).unwrap();
    relay.restart(|_| {}).unwrap();
    let mut reported = Vec::new();
    for n in [2, 3] {
        let kept = edge.arrived(&format!("TLS-Report-Domain: d000{n}.test\r\n"));
        let mut python = Command::new("python3");
        python.args(["-c", PARSE]);
        let output = run_with_input(python, &kept.text());
        assert!(output.status.success(), "{output:?}\n{}", String::from_utf8_lossy(&kept.text()));
        let mail: Value = serde_json::from_slice(&output.stdout).unwrap();
        let types = ["multipart/report", "text/plain", "application/tlsrpt+gzip"];
        assert_eq!(mail["types"], json!(types));
        assert_eq!((&mail["report-type"], &mail["submitter"]), (&json!("tlsrpt"), &json!("reporter.test")));
        assert_eq!(mail["to"], "<reports@d0001.test>");
        let report = &mail["report"];
        assert_eq!(policy(report), expected[n - 1], "{report}");
        assert_eq!(report["contact-info"], "tls@reporter.test");
        assert_eq!(report["date-range"]["start-datetime"], format!("{yesterday}T00:00:00Z"));
        assert_eq!(report["date-range"]["end-datetime"], format!("{yesterday}T23:59:59Z"));
        assert_eq!(mail["file"], format!("reporter.test!d000{n}.test!{start}!{}.json.gz", start + 86_399));
        reported.push(report["report-id"].clone());
    }
    assert_ne!(reported[0], reported[1]);
    // Once: what was sent is remembered, and the domain without a record is not asked again.
    relay.terminate(common::HANG).unwrap();
    let kept: Value = serde_json::from_slice(&fs::read(folder.join(format!("{yesterday}.json"))).unwrap()).unwrap();
    for n in 1..=3 {
        assert_eq!(kept["domains"][format!("d000{n}.test")]["done"], true, "{kept}");
    }
    relay.restart(|_| {}).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let sink = edge.bench.sink();
    let mails = sink.kept().iter().filter(|kept| kept.text().windows(18).any(|w| w == b"TLS-Report-Domain:")).count();
    assert_eq!(mails, 2);
}
