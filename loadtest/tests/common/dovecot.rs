//! A private Dovecot: LMTP in, IMAP and POP3 out, for two users of local.test.
//!
//! In: nothing. Out: a [`Dovecot`] on free ports of loopback and a UNIX socket, whose mailboxes the test reads as a mail
//! program would.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use loadtest::relay::free_port;

use super::programs::{Daemon, Program, text};
use super::wait_until;

/// Both users' password.
const PASSWORD: &str = "secret";

/// `{imap}`, `{pop3}` and `{lmtp}` are ports.
const CONFIGURATION: &str = "base_dir = /srv/run
state_dir = /srv/state
log_path = /srv/log
protocols = imap pop3 lmtp
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
mail_location = maildir:/srv/mail/%u
first_valid_uid = 1
first_valid_gid = 1
passdb {
  driver = passwd-file
  args = username_format=%u /srv/users
}
userdb {
  driver = passwd-file
  args = username_format=%u /srv/users
  override_fields = uid=nobody gid=nogroup home=/srv/mail/%u
}
service imap-login {
  inet_listener imap {
    port = {imap}
  }
  inet_listener imaps {
    port = 0
  }
}
service pop3-login {
  inet_listener pop3 {
    port = {pop3}
  }
  inet_listener pop3s {
    port = 0
  }
}
service lmtp {
  unix_listener lmtp {
    mode = 0666
  }
  inet_listener lmtp {
    address = 127.0.0.1
    port = {lmtp}
  }
}
";

/// A running one.
pub struct Dovecot {
    daemon: Daemon,
    python: Program,
    imap: u16,
    pop3: u16,
    /// Port of LMTP.
    pub lmtp: u16,
}

impl Dovecot {
    /// `None`: it is not there, or we are not root.
    pub fn start() -> Option<Dovecot> {
        let program = Program::find_for_root("dovecot")?;
        let python = Program::find("python3")?;
        let [imap, pop3, lmtp] = [(); 3].map(|()| free_port().unwrap());
        let configuration = [("{imap}", imap), ("{pop3}", pop3), ("{lmtp}", lmtp)]
            .iter()
            .fold(CONFIGURATION.to_string(), |text, (name, port)| text.replace(name, &port.to_string()));
        let users = ["alice", "bob"].map(|u| format!("{u}@local.test:{{PLAIN}}{PASSWORD}::::::\n")).concat();
        let start = "mkdir -m 777 /srv/mail; exec \"${DOVECOT:-dovecot}\" -F -c /srv/dovecot.conf";
        let files = [("dovecot.conf", configuration.as_str()), ("users", &users)];
        let daemon = Daemon::start(&program, &files, start, &[imap, pop3, lmtp]);
        // Its folder of sockets is for its own users; the relay is not one of them everywhere.
        let socket = daemon.dir.path().join("run/lmtp");
        wait_until("Dovecot's socket", || socket.exists());
        fs::set_permissions(daemon.dir.path().join("run"), fs::Permissions::from_mode(0o755)).unwrap();
        Some(Dovecot { daemon, python, imap, pop3, lmtp })
    }

    /// The UNIX socket of LMTP.
    pub fn socket(&self) -> PathBuf {
        self.daemon.dir.path().join("run/lmtp")
    }

    /// Waits until a user (`alice`) has as many messages, and reads them over IMAP and over POP3: both must say the same.
    pub fn mailbox(&self, user: &str, messages: usize) -> Vec<Vec<u8>> {
        let folder = self.daemon.dir.path().join(format!("mail/{user}@local.test"));
        let count = |sub: &str| fs::read_dir(folder.join(sub)).map_or(0, Iterator::count);
        wait_until(&format!("{user} has {messages} messages"), || count("new") + count("cur") >= messages);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/mailbox.py");
        let ports = [self.imap, self.pop3].map(|p| p.to_string());
        let mut command = self.python.command();
        let output = command.arg(script).args(ports).arg(format!("{user}@local.test")).arg(PASSWORD).output().unwrap();
        assert!(output.status.success(), "{}\n{}", text(&output), self.daemon.log());
        let read: Vec<Vec<u8>> = serde_json::from_slice::<Vec<String>>(&output.stdout)
            .unwrap()
            .into_iter()
            // Octets as the code points of the same number.
            .map(|message| message.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect())
            .collect();
        assert_eq!(read.len(), messages, "{}", self.daemon.log());
        read
    }
}
