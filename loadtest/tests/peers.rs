//! Real programs at both ends: swaks and Python's smtplib send, Postfix's smtp-sink receives, octet for octet.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Bench, Setup, have, wait_until};
use loadtest::relay::free_port;

/// Postfix's smtp-sink, writing what it gets into files; ends when dropped.
struct SmtpSink {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl SmtpSink {
    /// `SMTP_SINK` names it where it is not in its usual place.
    fn start() -> Option<SmtpSink> {
        let program = std::env::var("SMTP_SINK").unwrap_or("/usr/sbin/smtp-sink".into());
        if !Path::new(&program).exists() {
            eprintln!("skipped: there is no {program} (Debian: postfix)");
            return None;
        }
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let port = free_port().unwrap();
        let mut command = Command::new(program);
        if rustix::process::geteuid().is_root() {
            // It insists on being somebody else, who must be able to write.
            command.args(["-u", "nobody"]);
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        }
        let mut child = command
            .args(["-d", "mail-", &format!("127.0.0.1:{port}"), "100"])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("smtp-sink listens", || {
            assert!(child.try_wait().unwrap().is_none(), "smtp-sink does not start");
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Some(SmtpSink { child, port, dir })
    }

    /// The first message's dump, once it is whole: it ends with `ending`.
    fn dump(&self, ending: &str) -> String {
        let mut found = String::new();
        wait_until("smtp-sink has the message", || {
            let files: Vec<PathBuf> = fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
            found =
                files.first().map_or(String::new(), |f| String::from_utf8_lossy(&fs::read(f).unwrap()).into_owned());
            found.trim_end().ends_with(ending)
        });
        found
    }
}

impl Drop for SmtpSink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As it is handed to the sending program: lines end in LF, no dot is doubled. The last line is the mark of its end.
const MESSAGE: &str = "From: a@d0001.test\nTo: b@d0002.test\nSubject: real peers\nX-Fold: one\n  two\n\n\
    .a dot\n..two dots\n.\n\n trailing space \nFrom here\nthe end of it\n";

/// Starts both, lets `send` send [`MESSAGE`] to the port, and compares.
fn passes_unchanged(send: impl FnOnce(u16, &Path)) {
    let Some(sink) = SmtpSink::start() else { return };
    let port = sink.port;
    let config = Box::new(move |c: &mut loadtest::relay::RelayConfig| c.smart_host = Some(format!("127.0.0.1:{port}")));
    let Some(bench) = Bench::start(Setup { config, ..Setup::default() }) else { return };
    let file = bench.dir.path().join("message");
    fs::write(&file, MESSAGE).unwrap();
    send(bench.relay.address().port(), &file);
    let dump = sink.dump("the end of it");
    // swaks adds an empty line to the end. smtp-sink writes LF, undoes the dots, and puts lines of its own before the message.
    let dump = dump.replace("\r\n", "\n");
    let before = dump.trim_end().strip_suffix(MESSAGE.trim_end()).unwrap_or_else(|| panic!("changed:\n{dump}"));
    assert!(before.contains("Received: from ") && before.contains("by relay.test"), "{before}");
}

#[test]
fn from_swaks_to_smtp_sink() {
    if !have("swaks") {
        return;
    }
    passes_unchanged(|port, file| {
        let output = Command::new("swaks")
            .args(["--server", &format!("127.0.0.1:{port}"), "--from", "a@d0001.test", "--to", "b@d0002.test"])
            .args(["--data", &format!("@{}", file.display())])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    });
}

#[test]
fn from_python_to_smtp_sink() {
    if !have("python3") {
        return;
    }
    passes_unchanged(|port, file| {
        // smtplib sends octets as they are, so the line ends must be right (bare LF is refused, and rightly).
        let script = "import smtplib,sys\nwith smtplib.SMTP('127.0.0.1',int(sys.argv[1])) as s:\n \
            s.sendmail('a@d0001.test',['b@d0002.test'],open(sys.argv[2],'rb').read().replace(b'\\n',b'\\r\\n'))\n";
        let status = Command::new("python3").args(["-c", script, &port.to_string()]).arg(file).status().unwrap();
        assert!(status.success());
    });
}
