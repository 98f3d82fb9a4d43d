//! TLS policy against real servers: DANE by a zone that is signed here (nsd serves, unbound validates), with Postfix as the next
//! hops; posttls-finger and ldns-dane are asked what they think of each of them. MTA-STS with a policy host of the test's own.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use common::postfix::Postfix;
use common::programs::text;
use common::signed::{BROKEN, Dns};
use common::{Client, wait_until};
use loadtest::relay::{Relay, RelayConfig, free_port};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

const DAY: Duration = Duration::from_secs(86_400);

/// A certificate, its key and what TLSA records say of it.
struct Made {
    /// With those behind it.
    pem: String,
    key: String,
    /// SHA-256 of the public key, and of the whole, in hexadecimal.
    spki: String,
    whole: String,
}

fn params(name: &str, from_days: i64, to_days: i64) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    let at = |days: i64| {
        let distance = DAY * u32::try_from(days.unsigned_abs()).unwrap();
        if days < 0 { SystemTime::now() - distance } else { SystemTime::now() + distance }
    };
    (params.not_before, params.not_after) = (at(from_days).into(), at(to_days).into());
    params
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    whole: String,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = params(name, -10, 90);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (pem, whole) = (certificate.pem(), sha256(certificate.der()));
        Authority { issuer: Issuer::new(params, key), pem, whole }
    }

    fn sign(&self, params: CertificateParams) -> Made {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (spki, whole) = (sha256(&key.subject_public_key_info()), sha256(certificate.der()));
        Made { pem: certificate.pem() + &self.pem, key: key.serialize_pem(), spki, whole }
    }
}

fn own(params: CertificateParams) -> Made {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let (spki, whole) = (sha256(&key.subject_public_key_info()), sha256(certificate.der()));
    Made { pem: certificate.pem(), key: key.serialize_pem(), spki, whole }
}

/// By coreutils: this workspace has no other use for it.
fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let said = child.wait_with_output().unwrap().stdout;
    String::from_utf8(said).unwrap().split(' ').next().unwrap().to_owned()
}

/// What is to become of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// It goes in TLS verified by a TLSA record with these numbers.
    Dane(&'static str),
    /// It goes in TLS, whoever it is with; TLSA records ask for it.
    Encrypted,
    /// It goes in TLS, whoever it is with, as nobody asks for more.
    Opportunistic,
    /// It waits, for this reason.
    Waits(&'static str),
}

struct Case {
    name: &'static str,
    /// The zone its domain is in.
    zone: &'static str,
    /// Without: the server has no TLS.
    made: Option<Made>,
    tlsa: String,
    /// Its exchanger is this instead of `mx-<name>.<zone>`.
    mx: Option<&'static str>,
    expect: Expect,
}

/// One for each line of RFC 7672 that is about what a client does.
fn cases() -> Vec<Case> {
    let authority = Authority::new("the zone's own authority");
    let good = |name: &str| params(&format!("mx-{name}.dane.test"), -10, 90);
    let zeros = "0".repeat(62) + "01";
    let case = |name, made: Made, tlsa: String, expect| Case {
        name,
        zone: "dane.test",
        made: Some(made),
        tlsa,
        mx: None,
        expect,
    };
    let ee = own(params("another.test", -10, 90));
    let old = own(params("another.test", -90, -10));
    let (ta, ta_name) = (authority.sign(good("ta")), authority.sign(params("another.test", -10, 90)));
    let ta_old = authority.sign(params("mx-ta-expired.dane.test", -90, -10));
    let whole = own(good("whole"));
    let (wrong, unusable, bogus, none, alias) =
        (own(good("wrong")), own(good("unusable")), own(good("bogus")), own(good("none")), own(good("alias")));
    let (mixed, plain) = (own(good("mixed")), own(params("mx-plain.plain.test", -10, 90)));
    let elsewhere = own(good("elsewhere"));
    let record = |numbers: &str, data: &str| format!("{numbers} {data}");
    let untrusted = Expect::Waits("no TLSA record of it fits its certificate");
    let tlsa_of = |made: &Made| record("3 1 1", &made.spki);
    let (ee_tlsa, old_tlsa, whole_tlsa) = (tlsa_of(&ee), tlsa_of(&old), record("3 0 1", &whole.whole));
    let (bare_tlsa, alias_tlsa, mixed_tlsa) =
        (record("3 1 1", &zeros), tlsa_of(&alias), format!("{}\n{}", record("3 1 1", &zeros), tlsa_of(&mixed)));
    let ta_tlsa = record("2 0 1", &authority.whole);
    let unusable_tlsa = record("1 1 1", &unusable.spki);
    let mut cases = vec![
        case("ee", ee, ee_tlsa, Expect::Dane("3 1 1")),
        case("whole", whole, whole_tlsa, Expect::Dane("3 0 1")),
        case("expired", old, old_tlsa, Expect::Dane("3 1 1")),
        case("mixed", mixed, mixed_tlsa, Expect::Dane("3 1 1")),
        case("ta", ta, ta_tlsa.clone(), Expect::Dane("2 0 1")),
        case("ta-name", ta_name, ta_tlsa.clone(), Expect::Waits("its certificate is for other names")),
        case("ta-expired", ta_old, ta_tlsa, Expect::Waits("its certificate has expired")),
        case("wrong", wrong, record("3 1 1", &zeros), untrusted),
        case("unusable", unusable, unusable_tlsa, Expect::Encrypted),
        case("bogus", bogus, record("3 1 1", BROKEN), Expect::Waits("TLSA records had no secure answer")),
        case("none", none, String::new(), Expect::Opportunistic),
        case("alias", alias, alias_tlsa, Expect::Dane("3 1 1")),
        // The zone is not signed: what stands there counts for nothing.
        Case { zone: "plain.test", ..case("plain", plain, record("3 1 1", &zeros), Expect::Opportunistic) },
        // MX is secure, the host's address is not.
        Case { mx: Some("mx-plain.plain.test."), ..case("elsewhere", elsewhere, String::new(), Expect::Opportunistic) },
    ];
    cases.push(Case {
        made: None,
        ..case("stripped", own(good("stripped")), bare_tlsa, Expect::Waits("does not offer STARTTLS"))
    });
    cases
}

/// Zone files, and where each host listens.
fn zones(cases: &[Case], port: u16) -> (String, String) {
    let (mut signed, mut plain) = (String::new(), String::new());
    for (n, case) in cases.iter().enumerate() {
        let zone = if case.zone == "plain.test" { &mut plain } else { &mut signed };
        let name = case.name;
        let mx = case.mx.map_or(format!("mx-{name}"), str::to_owned);
        *zone += &format!("{name} MX 10 {mx}\n");
        if case.mx.is_some() {
            continue;
        }
        // A CNAME'd exchanger (RFC 7672 §2.2.2): the records are at its end.
        let host = if name == "alias" { "end-of-alias".to_owned() } else { format!("mx-{name}") };
        if name == "alias" {
            *zone += &format!("mx-{name} CNAME {host}\n");
        }
        *zone += &format!("{host} A 127.0.25.{}\n", n + 1);
        for record in case.tlsa.lines() {
            *zone += &format!("_{port}._tcp.{host} TLSA {record}\n");
        }
    }
    (signed, plain)
}

fn events(path: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// What became of the letter to a domain, once something has. A site is called by its exchangers.
fn verdict(all: &[Value], domain: &str) -> Option<Result<Value, String>> {
    let to = format!("x@{domain}");
    let delivered = all.iter().find(|e| e["event"] == "delivered" && e["recipient"] == *to);
    if let Some(event) = delivered {
        return Some(Ok(event["tls"].clone()));
    }
    let site = format!("mx-{domain}");
    let is_of = |details: &str| details.split([' ', ':']).next() == Some(&site) && details.contains(": next attempt");
    let notice = all.iter().find(|e| e["details"].as_str().is_some_and(is_of));
    notice.map(|e| Err(e["details"].as_str().unwrap().to_owned()))
}

/// What another program says where it means the same as we do, and what it does not say then.
struct Means {
    says: Vec<String>,
    never: Vec<&'static str>,
}

impl Means {
    fn new(says: &[&str], never: &[&'static str]) -> Means {
        Means { says: says.iter().map(|words| (*words).to_owned()).collect(), never: never.to_vec() }
    }

    /// Where it differs.
    fn differs(&self, said: &str) -> Option<String> {
        let missing = self.says.iter().find(|words| !said.contains(*words));
        let wrong = self.never.iter().find(|words| said.contains(**words));
        missing.map(|words| format!("does not say {words:?}")).or(wrong.map(|words| format!("says {words:?}")))
    }
}

/// Of posttls-finger: "server certificate verification failed" is what it says where the certificate has to be good, and without
/// "server" where it does not matter.
fn postfix_means(expect: Expect) -> Means {
    const VERIFIED: &str = "Verified TLS connection established";
    const UNTRUSTED: &str = "Untrusted TLS connection established";
    const FAILED: &str = "server certificate verification failed";
    match expect {
        Expect::Dane(numbers) => {
            Means::new(&["Matched DANE", &format!(": {numbers} "), VERIFIED], &[FAILED, UNTRUSTED])
        }
        Expect::Encrypted => Means::new(&["unsupported TLSA certificate usage", UNTRUSTED], &[FAILED, VERIFIED]),
        Expect::Opportunistic => Means::new(&[UNTRUSTED], &[FAILED, VERIFIED, "TLSA"]),
        Expect::Waits("its certificate is for other names") => {
            Means::new(&[FAILED, "num=62:hostname mismatch"], &[VERIFIED])
        }
        Expect::Waits("its certificate has expired") => Means::new(&[FAILED, "certificate has expired"], &[VERIFIED]),
        Expect::Waits("no TLSA record of it fits its certificate") => {
            Means::new(&[FAILED, "num=65:no matching DANE TLSA records"], &[VERIFIED])
        }
        Expect::Waits("TLSA records had no secure answer") => Means::new(
            &["Failed to establish session", "TLSA lookup error"],
            &["TLS connection established", "certificate verification failed"],
        ),
        // It has no words for that: it looks at what EHLO announces, and leaves.
        Expect::Waits("does not offer STARTTLS") => {
            Means::new(&["> EHLO ", "> QUIT"], &["STARTTLS", "TLS connection established"])
        }
        Expect::Waits(other) => panic!("what does posttls-finger say of \"{other}\"?"),
    }
}

/// Of ldns-dane. It knows PKIX-EE(1), which is none of SMTP's (RFC 7672 §3.1.3), and so cannot say that there is nothing usable:
/// it holds the certificate against our authorities instead, which is what those records ask for.
fn ldns_means(expect: Expect, without_records: bool) -> Means {
    const GOOD: &str = "dane-validated successfully";
    let because = |why: &str| Means::new(&[&format!("did not dane-validate, because: {why}")], &[GOOD]);
    match expect {
        Expect::Dane(_) => Means::new(&[GOOD], &["did not dane-validate", "without DANE"]),
        Expect::Encrypted => because("self-signed certificate"),
        Expect::Opportunistic if without_records => {
            Means::new(&["Warning! No TLSA records for", "PKIX validation without DANE will be performed"], &[GOOD])
        }
        Expect::Opportunistic => {
            Means::new(&["were found, but were insecure", "No usable TLSA records were found"], &[GOOD])
        }
        Expect::Waits("its certificate is for other names") => because("hostname mismatch"),
        Expect::Waits("its certificate has expired") => because("certificate has expired"),
        Expect::Waits("no TLSA record of it fits its certificate") => because("no matching DANE TLSA records"),
        Expect::Waits("TLSA records had no secure answer") => {
            Means::new(&["The queried resource records were bogus"], &[GOOD, "without DANE"])
        }
        Expect::Waits(other) => panic!("what does ldns-dane say of \"{other}\"?"),
    }
}

#[test]
fn dane_as_postfix_and_ldns_see_it() {
    let cases = cases();
    let port = free_port().unwrap();
    let (signed, plain) = zones(&cases, port);
    let Some(dns) = Dns::start(&signed, &plain) else { return };
    let (mut services, mut files) = (String::new(), Vec::new());
    for (n, case) in cases.iter().enumerate().filter(|(_, case)| case.mx.is_none()) {
        services += &format!("127.0.25.{}:{port} inet n - n - - smtpd\n", n + 1);
        if let Some(made) = &case.made {
            services +=
                &format!("  -o smtpd_tls_security_level=may\n  -o smtpd_tls_chain_files=/srv/{}.pem\n", case.name);
            files.push((format!("{}.pem", case.name), format!("{}{}", made.key, made.pem)));
        }
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let Some(_hops) = Postfix::hops(&services, &files) else { return };

    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut config = RelayConfig::new(dir.path().join("spool"), dns.address, port).unwrap();
    config.shards = 1;
    config.retry_first = Some("1h".into());
    config.dns_lines = "validating = true\n".into();
    let Some(command) = common::relay_command() else { return };
    let relay = Relay::start(command, config, dir.path()).unwrap();
    let mut client = Client::connect(relay.address());
    client.expect("EHLO client.test", "250");
    for case in &cases {
        let to = format!("x@{}.{}", case.name, case.zone);
        client.send("a@client.test", &[&to], b"Subject: x\r\n\r\nHello\r\n");
    }
    let domain = |case: &Case| format!("{}.{}", case.name, case.zone);
    let log = relay.config().events.clone();
    wait_until("each letter went or waits", || {
        let all = events(&log);
        cases.iter().all(|case| verdict(&all, &domain(case)).is_some())
    });
    let all = events(&log);
    let mut problems = Vec::new();
    for case in &cases {
        let got = verdict(&all, &domain(case)).unwrap();
        let right = match (case.expect, &got) {
            (Expect::Dane(tlsa), Ok(tls)) => tls["verified"] == "dane" && tls["tlsa"] == tlsa && tls["by"] == "dane",
            (Expect::Encrypted, Ok(tls)) => {
                tls["verified"] == "no"
                    && tls["policy"] == "require"
                    && tls["by"] == "dane"
                    && tls["version"] == "TLSv1.3"
            }
            (Expect::Opportunistic, Ok(tls)) => {
                tls["policy"] == "opportunistic" && tls["by"] == "configuration" && tls["version"] == "TLSv1.3"
            }
            (Expect::Waits(why), Err(said)) => said.contains(why),
            _ => false,
        };
        if !right {
            problems.push(format!("{}: expected {:?}, ringpost: {got:?}", case.name, case.expect));
        }
        println!("{}: {:?}\n  ringpost: {got:?}", case.name, case.expect);
        // What Postfix makes of the same.
        let place = format!("{}:{port}", domain(case));
        // It never tells of a server without TLS, but by the dialogue, which -c keeps from us.
        let quiet: &[&str] = if case.made.is_none() { &[] } else { &["-c"] };
        let asked = [quiet, &["-l", "dane", "-t", "10", &place]].concat();
        if let Some(output) = dns.ask("posttls-finger", &asked, &[]) {
            let said = text(&output);
            println!("  posttls-finger: {}", said.trim().replace('\n', "\n    "));
            problems.extend(
                postfix_means(case.expect)
                    .differs(&said)
                    .map(|why| format!("{}: expected {:?}, posttls-finger {why}:\n{said}", case.name, case.expect)),
            );
        }
        // And ldns, which takes the server's certificates from a file: it knows no STARTTLS, and so nothing of a server without.
        let Some(made) = case.made.as_ref() else { continue };
        let (name, made) = match (case.mx, case.name) {
            (Some(mx), _) => {
                let of_host = |other: &&Case| format!("mx-{}.{}.", other.name, other.zone) == mx;
                let host = cases.iter().find(of_host).and_then(|other| other.made.as_ref());
                (mx.trim_end_matches('.').to_owned(), host.unwrap())
            }
            (None, "alias") => (format!("end-of-alias.{}", case.zone), made),
            (None, name) => (format!("mx-{name}.{}", case.zone), made),
        };
        // Of DANE-EE(3) it looks at the name too, unless told not to.
        let names: &[&str] = if case.tlsa.starts_with('2') { &[] } else { &["-n"] };
        let port = port.to_string();
        let asked = ["-4", "-k", "/srv/anchor.key", "-T", "-c", "/srv/shown.pem", "verify", &name, &port];
        if let Some(output) = dns.ask("ldns-dane", &[names, &asked].concat(), &[("shown.pem", &made.pem)]) {
            let said = text(&output);
            println!("  ldns-dane: {} {}", output.status, said.trim());
            let means = ldns_means(case.expect, case.tlsa.is_empty() && case.mx.is_none());
            let good = matches!(case.expect, Expect::Dane(_));
            let why = means
                .differs(&said)
                .or_else(|| (output.status.success() != good).then(|| format!("ended with {}", output.status)));
            problems
                .extend(why.map(|why| format!("{}: expected {:?}, ldns-dane {why}:\n{said}", case.name, case.expect)));
        }
    }
    assert!(problems.is_empty(), "{}\n{}", problems.join("\n"), dns.log());
}

// --- MTA-STS ----------------------------------------------------------------------------------------------------------------

/// Where the policy host listens: the port is fixed, so the address must be nobody else's.
const POLICY_HOST: &str = "127.0.25.250";

/// HTTPS with a certificate for each name, and one answer for each; ends with the test's process, or when told.
struct PolicyHost {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    asked: Arc<AtomicUsize>,
}

impl PolicyHost {
    /// `sites`: name, certificates and key, what is answered.
    fn start(sites: Vec<(String, Made, String)>) -> PolicyHost {
        let listener = TcpListener::bind((POLICY_HOST, 443)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut certificates = rustls::server::ResolvesServerCertUsingSni::new();
        let mut answers = HashMap::new();
        for (name, made, answer) in sites {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(made.pem.as_bytes()).map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
            let certified = rustls::sign::CertifiedKey::from_der(chain, key, &provider).unwrap();
            // One whose certificate is for another name cannot be chosen by name: it is shown for its address's only site.
            certificates.add(&name, certified).unwrap();
            answers.insert(name, answer);
        }
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(certificates));
        let (config, answers) = (Arc::new(config), Arc::new(answers));
        let (ends, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stop, count) = (Arc::clone(&ends), Arc::clone(&asked));
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                count.fetch_add(1, Ordering::Relaxed);
                let (config, answers) = (Arc::clone(&config), Arc::clone(&answers));
                std::thread::spawn(move || serve(stream, config, &answers));
            }
        });
        PolicyHost { ends, thread: Some(thread), asked }
    }
}

impl Drop for PolicyHost {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(stream: TcpStream, config: Arc<rustls::ServerConfig>, answers: &HashMap<String, String>) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let connection = rustls::ServerConnection::new(config).unwrap();
    let mut tls = rustls::StreamOwned::new(connection, stream);
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        match tls.read(&mut piece) {
            Ok(1..) if request.len() < 10_000 => {}
            _ => return,
        }
        let end = piece.iter().position(|b| *b == 0).unwrap_or(piece.len());
        request.extend_from_slice(&piece[..end]);
        piece.fill(0);
    }
    let name = tls.conn.server_name().unwrap_or_default().to_owned();
    let request = String::from_utf8_lossy(&request).into_owned();
    assert!(request.starts_with("GET /.well-known/mta-sts.txt HTTP/1.1\r\n"), "{request}");
    assert!(request.to_lowercase().contains(&format!("\r\nhost: {name}\r\n")), "{request}");
    let _ = tls.write_all(answers[&name].as_bytes());
    tls.conn.send_close_notify();
    let _ = tls.flush();
}

fn http(status: &str, kind: &str, more: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn policy(mode: &str, mx: &str) -> String {
    http(
        "200 OK",
        "text/plain; charset=utf-8",
        "",
        &format!("version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 86400\n"),
    )
}

struct Site {
    name: &'static str,
    zone: &'static str,
    /// The exchanger's certificate; none: no TLS.
    mx: Option<Made>,
    /// What the policy host answers, with which certificate.
    answer: String,
    host: Made,
    tlsa: Option<String>,
    expect: Sts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sts {
    /// It goes in TLS as the policy wants it.
    Enforced,
    /// It goes as without a policy.
    AsWithout,
    /// It waits.
    Waits(&'static str),
    /// It goes by DANE.
    Dane,
}

fn sites(authority: &Authority, stranger: &Authority) -> Vec<Site> {
    let good = |name: &str| authority.sign(params(name, -10, 90));
    let site = |name: &'static str, answer: String, expect| {
        let (mx, host) = (format!("mx-{name}.plain.test"), format!("mta-sts.{name}.plain.test"));
        Site { name, zone: "plain.test", mx: Some(good(&mx)), answer, host: good(&host), tlsa: None, expect }
    };
    let foreign = |name: &str| Some(stranger.sign(params(&format!("mx-{name}.plain.test"), -10, 90)));
    let redirect = http("301 Moved Permanently", "text/plain", "Location: https://mta-sts.good.plain.test/\r\n", "");
    let dane = own(params("another.test", -10, 90));
    let tlsa = Some(format!("3 1 1 {}", dane.spki));
    let wins = site("wins", policy("enforce", "other.test"), Sts::Dane);
    vec![
        site("good", policy("enforce", "mx-good.plain.test"), Sts::Enforced),
        site("wildcard", policy("enforce", "*.plain.test"), Sts::Enforced),
        Site {
            mx: foreign("foreign"),
            ..site("foreign", policy("enforce", "mx-foreign.plain.test"), Sts::Waits("no trusted authority"))
        },
        Site {
            mx: Some(good("other.plain.test")),
            ..site("name", policy("enforce", "mx-name.plain.test"), Sts::Waits("its certificate is for other names"))
        },
        Site {
            mx: Some(authority.sign(params("mx-old.plain.test", -90, -10))),
            ..site("old", policy("enforce", "mx-old.plain.test"), Sts::Waits("its certificate has expired"))
        },
        Site {
            mx: None,
            ..site("bare", policy("enforce", "mx-bare.plain.test"), Sts::Waits("does not offer STARTTLS"))
        },
        site("mismatch", policy("enforce", "mx.plain.test"), Sts::Waits("does not name it")),
        Site { mx: foreign("testing"), ..site("testing", policy("testing", "mx-testing.plain.test"), Sts::AsWithout) },
        site("testing-mismatch", policy("testing", "other.test"), Sts::AsWithout),
        site("none", policy("none", "other.test"), Sts::AsWithout),
        // Policies that must not be believed: each would keep the mail back.
        Site {
            host: stranger.sign(params("mta-sts.forged.plain.test", -10, 90)),
            ..site("forged", policy("enforce", "other.test"), Sts::AsWithout)
        },
        Site {
            host: authority.sign(params("mta-sts.outdated.plain.test", -90, -10)),
            ..site("outdated", policy("enforce", "other.test"), Sts::AsWithout)
        },
        site("redirected", redirect, Sts::AsWithout),
        site("html", policy("enforce", "other.test").replace("text/plain", "text/html"), Sts::AsWithout),
        site("missing", policy("enforce", "other.test").replace("200 OK", "404 Not Found"), Sts::AsWithout),
        site("broken", policy("enforced", "other.test"), Sts::AsWithout),
        Site { zone: "dane.test", mx: Some(dane), host: good("mta-sts.wins.dane.test"), tlsa, ..wins },
    ]
}

#[test]
fn mta_sts_with_a_policy_host() {
    let (authority, stranger) = (Authority::new("trusted"), Authority::new("a stranger"));
    let sites = sites(&authority, &stranger);
    let port = free_port().unwrap();
    let (mut signed, mut plain, mut services, mut files) = (String::new(), String::new(), String::new(), Vec::new());
    for (n, site) in sites.iter().enumerate() {
        let (zone, name) = (if site.zone == "plain.test" { &mut plain } else { &mut signed }, site.name);
        *zone += &format!("{name} MX 10 mx-{name}\nmx-{name} A 127.0.26.{}\nmta-sts.{name} A {POLICY_HOST}\n", n + 1);
        *zone += &format!("_mta-sts.{name} TXT \"v=STSv1; id=1;\"\n");
        if let Some(tlsa) = &site.tlsa {
            *zone += &format!("_{port}._tcp.mx-{name} TLSA {tlsa}\n");
        }
        services += &format!("127.0.26.{}:{port} inet n - n - - smtpd\n", n + 1);
        if let Some(made) = &site.mx {
            services += &format!("  -o smtpd_tls_security_level=may\n  -o smtpd_tls_chain_files=/srv/{name}.pem\n");
            files.push((format!("{name}.pem"), format!("{}{}", made.key, made.pem)));
        }
    }
    let Some(dns) = Dns::start(&signed, &plain) else { return };
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let Some(_hops) = Postfix::hops(&services, &files) else { return };
    let Some(command) = common::relay_command() else { return };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let trust = dir.path().join("trust.pem");
    fs::write(&trust, &authority.pem).unwrap();
    let expected: Vec<(String, Sts)> = sites.iter().map(|s| (format!("{}.{}", s.name, s.zone), s.expect)).collect();
    let hosted = sites
        .into_iter()
        .map(|site| (format!("mta-sts.{}.{}", site.name, site.zone), site.host, site.answer))
        .collect();
    let host = PolicyHost::start(hosted);

    let mut config = RelayConfig::new(dir.path().join("spool"), dns.address, port).unwrap();
    config.shards = 2;
    config.retry_first = Some("1h".into());
    config.dns_lines = "validating = true\n".into();
    config.extra = format!("\n[tls]\ntrust = {:?}\n", trust.display().to_string());
    let mut relay = Relay::start(command, config, dir.path()).unwrap();
    let send = |relay: &Relay| {
        let mut client = Client::connect(relay.address());
        client.expect("EHLO client.test", "250");
        for (domain, _) in &expected {
            client.send("a@client.test", &[&format!("x@{domain}")], b"Subject: x\r\n\r\nHello\r\n");
        }
    };
    let check = |relay: &Relay, round: &str| {
        let log = relay.config().events.clone();
        wait_until("each letter went or waits", || {
            let all = events(&log);
            expected.iter().all(|(domain, _)| verdict(&all, domain).is_some())
        });
        let all = events(&log);
        for (domain, expect) in &expected {
            let got = verdict(&all, domain).unwrap();
            println!("{round}, {domain}: {expect:?}, ringpost: {got:?}");
            let right = match (expect, &got) {
                (Sts::Enforced, Ok(tls)) => {
                    tls["by"] == "mta-sts" && tls["verified"] == "pkix" && tls["policy"] == "require"
                }
                (Sts::AsWithout, Ok(tls)) => tls["by"] == "configuration" && tls["policy"] == "opportunistic",
                (Sts::Waits(why), Err(said)) => said.contains(why),
                (Sts::Dane, Ok(tls)) => tls["by"] == "dane" && tls["verified"] == "dane",
                _ => false,
            };
            assert!(right, "{round}, {domain}: expected {expect:?}, ringpost: {got:?}\n{}", relay.log_tail());
        }
    };
    send(&relay);
    check(&relay, "fetched");
    let kept: Vec<_> =
        fs::read_dir(dir.path().join("spool/mta-sts")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(kept.len(), 11, "{kept:?}: those that could be fetched");
    let asked = host.asked.load(Ordering::Relaxed);
    assert!(asked >= expected.len(), "{asked}");

    // What was fetched holds without the policy host (RFC 8461 §3.3), after a restart too.
    drop(host);
    relay.terminate(common::HANG).unwrap();
    fs::remove_file(&relay.config().events).unwrap();
    relay.restart(|_| {}).unwrap();
    send(&relay);
    check(&relay, "kept");
}
