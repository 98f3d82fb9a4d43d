//! Real programs that the tests run at both ends of the relay: where they are, and how each is started so that it touches
//! nothing of this machine but loopback and a folder of its own.
//!
//! In: a program's name. Out: a [`Program`], or `None` with one line that says which package holds it. `PEER_<NAME>` (as
//! `PEER_SWAKS`) names a program; else it is looked for under `PEERS_ROOT`, or `ci-peers/root` in the target folder, where
//! `.ci/run` unpacks the packages, and then in this machine's own folders. For root each runs with mounts of its own: the
//! unpacked packages lie over /usr and /etc, so that it finds its files where it was built to have them, and its own
//! folder is /srv. It installs nothing and starts no service.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use super::wait_until;

/// Programs and the Debian package of each.
const PACKAGES: &[(&str, &str)] = &[
    ("dovecot", "dovecot-lmtpd dovecot-imapd dovecot-pop3d"),
    ("exim4", "exim4-daemon-light"),
    ("gsasl", "gsasl"),
    ("ldns-dane", "ldnsutils"),
    ("ldns-signzone", "ldnsutils"),
    ("msmtp", "msmtp"),
    ("nmap", "nmap"),
    ("node", "nodejs"),
    ("nsd", "nsd"),
    ("postfix", "postfix"),
    ("posttls-finger", "postfix"),
    ("python3", "python3"),
    ("swaks", "swaks libnet-ssleay-perl"),
    ("testssl", "testssl.sh"),
    ("unbound", "unbound"),
];

/// Where a program hangs, so that its test fails instead: a scan is the longest, half a minute of two idle cores. Seconds.
const HANG: &str = "600";

/// Where Debian puts what other programs start: no user's PATH.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Puts `$1` over this machine's files, if it is not empty, and binds `$2` to /srv, if it is not; then becomes the rest.
const ENTER: &str = "root=$1 own=$2; shift 2
if [ -n \"$root\" ]; then
  mount -t overlay overlay -o lowerdir=\"$root/usr:/usr\" /usr
  mount -t overlay overlay -o lowerdir=\"$root/etc:/etc\" /etc
fi
[ -z \"$own\" ] || mount --bind \"$own\" /srv
exec \"$@\"";

/// A program that is there.
#[derive(Clone)]
pub struct Program {
    name: String,
    /// Not through the packages of [`unpacked`].
    own: Option<PathBuf>,
}

impl Program {
    /// `None`, with a line that says so, where it is missing.
    pub fn find(name: &str) -> Option<Program> {
        let variable = format!("PEER_{}", name.to_uppercase());
        if let Some(path) = std::env::var_os(&variable) {
            return Some(Program { name: name.into(), own: Some(path.into()) });
        }
        let folders = ["usr/bin", "usr/sbin", "bin", "sbin"];
        let unpacked = unpacked().is_some_and(|root| folders.iter().any(|f| root.join(f).join(name).exists()));
        if unpacked || folders.iter().any(|f| Path::new("/").join(f).join(name).exists()) {
            return Some(Program { name: name.into(), own: None });
        }
        let package = PACKAGES.iter().find(|(program, _)| *program == name).map_or(name, |(_, package)| package);
        eprintln!("skipped: there is no {name} (Debian: {package}; {variable} names it where it is elsewhere)");
        None
    }

    /// As [`Program::find`], for what only root can start: it wants users of its own, and mounts.
    pub fn find_for_root(name: &str) -> Option<Program> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can start a private {name}");
            return None;
        }
        Program::find(name)
    }

    /// Python with a module that is not part of it.
    pub fn python_with(module: &str) -> Option<Program> {
        let python = Program::find("python3")?;
        let found = python.run(["-c", &format!("import {module}")]).status.success();
        if !found {
            eprintln!("skipped: python3 has no {module} (Debian: python3-{module})");
        }
        found.then_some(python)
    }

    /// Node.js with a module; where Debian has it.
    pub fn node_with(module: &str) -> Option<Program> {
        let node = Program::find("node")?;
        let found = node.run(["-e", &format!("require('{module}')")]).status.success();
        if !found {
            eprintln!("skipped: node has no {module} (Debian: node-{module})");
        }
        found.then_some(node)
    }

    /// To be given arguments and started; it ends after [`HANG`].
    pub fn command(&self) -> Command {
        let mut command = self.entered(None, &["--mount"], &["timeout", "-k", "5", HANG]);
        command.stdin(Stdio::null());
        command
    }

    /// As [`Program::command`], with `own` as /srv.
    pub fn command_in(&self, own: &Path) -> Command {
        let mut command = self.entered(Some(own), &["--mount"], &["timeout", "-k", "5", HANG]);
        command.stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    fn entered(&self, own: Option<&Path>, unshare: &[&str], before: &[&str]) -> Command {
        let program = self.own.as_deref().map_or_else(|| OsStr::new(&self.name), Path::as_os_str);
        let mut command;
        if rustix::process::geteuid().is_root() {
            command = Command::new("unshare");
            command.args(unshare).args(["sh", "-ec", ENTER, "sh"]);
            command.arg(unpacked().unwrap_or_default()).arg(own.unwrap_or(Path::new("")));
            command.args(before);
        } else {
            command = Command::new(before.first().copied().unwrap_or("env"));
            command.args(before.get(1..).unwrap_or_default());
        }
        command.arg(program).env("PATH", PATH).env("LC_ALL", "C.UTF-8").env("NODE_PATH", "/usr/share/nodejs");
        command
    }
}

/// The packages that `.ci/run` has unpacked.
fn unpacked() -> Option<PathBuf> {
    let root = std::env::var_os("PEERS_ROOT")
        .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("ci-peers").join("root"), PathBuf::from);
    // Only root can lay them over its own files.
    (rustix::process::geteuid().is_root() && root.join("usr").is_dir()).then_some(root)
}

/// The end of a run as text: what it said, for assertions.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs with this as standard input.
pub fn run_with_input(mut command: Command, input: &[u8]) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    // It may say no before it has read all of it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// A server with all its processes and a folder of its own, which is /srv to it; ends when dropped.
pub struct Daemon {
    child: Child,
    pub dir: TempDir,
}

impl Daemon {
    /// `files` are written into its folder first, as (path, text); `start` is a shell script that makes what it needs and
    /// then becomes `program`, in the foreground. Waits until all `ports` of 127.0.0.1 accept.
    pub fn start(program: &Program, files: &[(&str, &str)], start: &str, ports: &[u16]) -> Daemon {
        let prefix = format!("{}-", program.name);
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // Its processes are several users.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let shell = Program { name: "sh".into(), own: None };
        let log = fs::File::create(dir.path().join("output")).unwrap();
        // A process space of its own, with which all that it started ends. Its first process is a shell that stays as it
        // is: one that changes its user, as Postfix does, would no longer be told of its parent's end.
        let child = shell
            .entered(Some(dir.path()), &["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"], &[])
            .args(["-c", "sh -ec \"$1\" & wait $!", "sh", start])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut daemon = Daemon { child, dir };
        for port in ports {
            wait_until(&format!("{} listens", program.name), || {
                assert!(daemon.child.try_wait().unwrap().is_none(), "{} ends:\n{}", program.name, daemon.log());
                TcpStream::connect(("127.0.0.1", *port)).is_ok()
            });
        }
        daemon
    }

    /// What it has logged, to its output or to `log`.
    pub fn log(&self) -> String {
        let read = |name: &str| fs::read(self.dir.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&[read("output"), read("log")].concat()).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
