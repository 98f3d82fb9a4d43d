//! Programs that send mail for a living: msmtp and gsasl with SCRAM and client certificates, Exim with CHUNKING, Postfix
//! with TLS, SMTPUTF8 and DSN. Needs of the relay: `[tls]` with `client_ca`, `[accounts]`, submission listeners, CHUNKING,
//! SMTPUTF8 and DSN in both directions.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::edge::{Edge, EdgeSetup, PASSWORD, assert_received, assert_traced, message, trace_before};
use common::postfix::Postfix;
use common::programs::{Program, run_with_input, text};
use common::{Client, certs::Pki};

/// A message of msmtp and its arrival; msmtp says what it heard and said.
fn msmtp_arrives(msmtp: &Program, edge: &Edge, mark: &str, port: u16, options: &[&str]) -> String {
    let mut command = msmtp.command();
    command.args(["--debug", "--host=localhost", "--tls=on", "--from=alice@d0001.test", "--domain=client.test"]);
    command.arg(format!("--port={port}")).arg(format!("--tls-trust-file={}", edge.pki.ca.display()));
    command.args(options).args(["--", "b@d0002.test"]);
    let output = run_with_input(command, &unix(&message(mark)));
    assert!(output.status.success(), "{}", text(&output));
    assert_received(&edge.arrived(mark), &message(mark), "ESMTPSA", "[127.0.0.1]");
    text(&output)
}

/// With lines that end in LF, as a Unix program takes them.
fn unix(message: &[u8]) -> Vec<u8> {
    message.iter().copied().filter(|b| *b != b'\r').collect()
}

#[test]
fn msmtp_with_each_mechanism() {
    let Some(msmtp) = Program::find("msmtp") else { return };
    let Some(edge) = Edge::start(EdgeSetup::default()) else { return };
    let password = format!("--passwordeval=echo {PASSWORD}");
    for (listener, port, starttls) in
        [("submission", edge.ports.submission, "on"), ("submissions", edge.ports.submissions, "off")]
    {
        for mechanism in ["plain", "login", "scram-sha-256"] {
            let (starttls, auth) = (format!("--tls-starttls={starttls}"), format!("--auth={mechanism}"));
            let options = [starttls.as_str(), &auth, "--user=alice", &password];
            let said = msmtp_arrives(&msmtp, &edge, &format!("msmtp-{listener}-{mechanism}"), port, &options);
            assert!(said.contains(&format!("--> AUTH {}", mechanism.to_uppercase())), "{said}");
        }
    }
}

/// RFC 4422 appendix A: the account is the one with the certificate's fingerprint.
#[test]
fn msmtp_with_a_client_certificate() {
    let Some(msmtp) = Program::find("msmtp") else { return };
    let Some(python) = Program::find("python3") else { return };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let pki = Pki::make(dir.path());
    let script = "import hashlib,ssl,sys\n\
        print(hashlib.sha256(ssl.PEM_cert_to_DER_cert(open(sys.argv[1]).read())).hexdigest(),end='')";
    let fingerprint = python.run(["-c".as_ref(), script.as_ref(), pki.client_certificate.as_os_str()]);
    assert!(fingerprint.status.success(), "{}", text(&fingerprint));
    let alice = format!("certificate = {:?}", text(&fingerprint));
    let Some(edge) = Edge::start_with(EdgeSetup { alice, ..EdgeSetup::default() }, dir, pki) else { return };
    let certificate = format!("--tls-cert-file={}", edge.pki.client_certificate.display());
    let key = format!("--tls-key-file={}", edge.pki.client_key.display());
    // Without a user msmtp 1.8 takes the challenge for the end.
    let options = ["--tls-starttls=on", "--auth=external", "--user=alice", &certificate, &key];
    msmtp_arrives(&msmtp, &edge, "msmtp-external", edge.ports.submission, &options);
    // Without a certificate EXTERNAL is not offered.
    let mut client = Client::connect(([127, 0, 0, 1], edge.ports.submission).into());
    assert!(!client.expect("EHLO client.test", "250").contains("EXTERNAL"));
}

#[test]
fn gsasl_with_scram_bound_to_the_channel() {
    let Some(gsasl) = Program::find("gsasl") else { return };
    let Some(edge) = Edge::start(EdgeSetup::default()) else { return };
    let run = |mechanism: &str, binding: &[&str], password: &str| {
        let mut command = gsasl.command();
        command.args(["--smtp", "--starttls", "--verbose", "--authentication-id=alice"]).args(binding);
        command.arg(format!("--connect=localhost:{}", edge.ports.submission));
        command.arg(format!("--x509-ca-file={}", edge.pki.ca.display()));
        command.arg(format!("--mechanism={mechanism}")).arg(format!("--password={password}"));
        let output = command.output().unwrap();
        (output.status.success(), text(&output))
    };
    // Without PLUS gsasl 2.2 wants to be told that it is not to bind: it would refuse before it says a word. With PLUS it
    // begins, base64, with `n,,` or `p=tls-exporter,` (RFC 9266).
    for (mechanism, binding, begins) in
        [("SCRAM-SHA-256", &["--no-cb"][..], "\nbiws"), ("SCRAM-SHA-256-PLUS", &[], "\ncD10bHMtZXhwb3J0ZXIs")]
    {
        let (success, said) = run(mechanism, binding, PASSWORD);
        assert!(success && said.contains(begins) && said.contains("\n235 2.7.0"), "{mechanism}:\n{said}");
        let (success, said) = run(mechanism, binding, "wrong");
        assert!(!success && said.contains("\n535 5.7.8"), "{mechanism}:\n{said}");
    }
}

/// What Exim needs to take a message on standard input and send it to the relay at once. It finds its files in /srv.
fn exim_configuration(port: u16) -> String {
    format!(
        "primary_hostname = client.test
spool_directory = /srv/spool
log_file_path = /srv/%slog
exim_user = Debian-exim
exim_group = Debian-exim
never_users =
keep_environment =
add_environment = PATH=/usr/bin
tls_advertise_hosts =
acl_smtp_rcpt = accept
acl_smtp_data = accept
received_header_text = Received: by client.test with exim id $message_exim_id
begin routers
relay:
  driver = manualroute
  transport = relay
  route_list = * localhost::{port}
  self = send
begin transports
relay:
  driver = smtp
  hosts_require_tls = *
  hosts_require_auth = *
  hosts_try_chunking = *
  tls_verify_certificates = /srv/ca.pem
  tls_verify_hosts = *
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  client_send = ^alice^{PASSWORD}
"
    )
}

#[test]
fn exim_sends_in_chunks() {
    let Some(exim) = Program::find_for_root("exim4") else { return };
    let Some(edge) = Edge::start(EdgeSetup::default()) else { return };
    let own = tempfile::Builder::new().prefix("exim-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    open_to_all(own.path());
    fs::write(own.path().join("exim.conf"), exim_configuration(edge.ports.submission)).unwrap();
    fs::copy(&edge.pki.ca, own.path().join("ca.pem")).unwrap();
    // Dots at all places, octets above 127; and more than one chunk: Exim's are of 8 KiB.
    let eight = [message("exim-8bit"), "grüße\r\n".as_bytes().to_vec()].concat();
    let mut long = message("exim-long");
    for i in 0..20_000 {
        long.extend_from_slice(format!(".line {i} of a long body, with a dot before it and behind it.\r\n").as_bytes());
    }
    for message in [eight, long] {
        let mut session = b"EHLO own.test\r\nMAIL FROM:<alice@d0001.test> BODY=8BITMIME\r\nRCPT TO:<b@d0002.test>\r\n\
            DATA\r\n"
            .to_vec();
        for line in message.split_inclusive(|b| *b == b'\n') {
            session.extend_from_slice(if line.starts_with(b".") { b"." } else { b"" });
            session.extend_from_slice(line);
        }
        session.extend_from_slice(b".\r\nQUIT\r\n");
        let mut command = exim.command_in(own.path());
        command.args(["-C", "/srv/exim.conf", "-odi", "-bs"]);
        let output = run_with_input(command, &session);
        let log = fs::read_to_string(own.path().join("mainlog")).unwrap_or_default();
        // "K": it was sent with CHUNKING; "CV=yes": the certificate was good.
        let delivered = log.lines().rfind(|l| l.contains("=> b@d0002.test")).unwrap_or_default();
        assert!(
            delivered.contains(" CV=yes ") && delivered.contains(" A=plain ") && delivered.contains(" K "),
            "{}\n{log}",
            text(&output)
        );
        let mark = if message.len() > 100_000 { "exim-long" } else { "exim-8bit" };
        assert_received(&edge.arrived(&format!("<{mark}@")), &message, "ESMTPSA", "[127.0.0.1]");
    }
}

/// Its program is several users, none of whom is ours.
fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
}

#[test]
fn postfix_as_a_client() {
    let Some(hop) = Postfix::hop("") else { return };
    let Some(edge) = Edge::start(EdgeSetup { next_hop: Some(hop.port), ..EdgeSetup::default() }) else { return };
    let ca = fs::read_to_string(&edge.pki.ca).unwrap();
    let settings = "smtp_tls_security_level = secure\nsmtp_tls_CAfile = /srv/ca.pem\nsmtp_tls_loglevel = 1\n\
        smtp_tls_secure_cert_match = relay.test\n";
    let Some(postfix) = Postfix::client(edge.ports.relay, settings, &[("ca.pem", &ca)]) else { return };
    let mut client = Client::connect(([127, 0, 0, 1], postfix.port).into());
    client.expect("EHLO own.test", "250");

    let plain = message("postfix-plain");
    send(
        &mut client,
        "a@d0001.test> RET=FULL ENVID=e1",
        "b@d0002.test> NOTIFY=FAILURE ORCPT=rfc822;o@d0003.test",
        &plain,
    );
    let held = hop.held("<postfix-plain@d0001.test>");
    assert_traced(&trace_before(&held.text, &plain), "ESMTPS", "[127.0.0.1]");
    held.assert_has("named_attribute: envelope_id=e1");
    held.assert_has("named_attribute: ret_flags=1");
    held.assert_has("named_attribute: notify_flags=4");
    held.assert_has("named_attribute: dsn_orig_rcpt=rfc822;o@d0003.test");

    let utf8 = String::from_utf8(message("postfix-utf8")).unwrap().replace("To: b@", "To: bøb@").into_bytes();
    send(&mut client, "a@d0001.test> SMTPUTF8 BODY=8BITMIME", "bøb@d0002.test>", &utf8);
    let held = hop.held("<postfix-utf8@d0001.test>");
    assert_traced(&trace_before(&held.text, &utf8), "UTF8SMTPS", "[127.0.0.1]");
    held.assert_has("recipient: bøb@d0002.test");

    // Many at once: Postfix keeps the connection for more than one of them, and opens several.
    for i in 0..40 {
        send(&mut client, "a@d0001.test>", "b@d0002.test>", &message(&format!("postfix-many-{i}-")));
    }
    for i in 0..40 {
        let message = message(&format!("postfix-many-{i}-"));
        assert_traced(&trace_before(&hop.held(&format!("-many-{i}-@")).text, &message), "ESMTPS", "[127.0.0.1]");
    }
    assert!(postfix.daemon.log().contains("Verified TLS connection"), "{}", postfix.daemon.log());
}

/// To a Postfix; `from` and `to` without the first bracket, with what follows the path.
fn send(client: &mut Client, from: &str, to: &str, message: &[u8]) {
    client.expect(&format!("MAIL FROM:<{from}"), "250");
    client.expect(&format!("RCPT TO:<{to}"), "250");
    client.expect("DATA", "354");
    for line in message.split_inclusive(|b| *b == b'\n') {
        client.write(if line.starts_with(b".") { b"." } else { b"" });
        client.write(line);
    }
    client.expect(".", "250");
}
