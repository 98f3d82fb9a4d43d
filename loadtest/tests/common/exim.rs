//! A private Exim as a next hop: configuration, spool and log are its own, and it listens on one free port of loopback.
//!
//! In: lines for the main section. Out: an [`Exim`] that takes mail from loopback for any domain and keeps all of it in one
//! file. It delivers nothing further.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use loadtest::relay::free_port;

use super::programs::{Daemon, Program};
use super::wait_until;

/// A running one.
pub struct Exim {
    pub daemon: Daemon,
    pub port: u16,
}

/// Each message as mbox: a From line, then the header with Return-path and Envelope-to.
const REST: &str = "acl_smtp_data = accept
chunking_advertise_hosts = *
pipelining_connect_advertise_hosts =
smtputf8_advertise_hosts = *
dsn_advertise_hosts = *
tls_advertise_hosts =
begin acl
check_rcpt:
  deny local_parts = nobody
       message = 5.1.1 no such user
  accept
begin routers
all:
  driver = accept
  transport = file
begin transports
file:
  driver = appendfile
  file = /srv/kept/all
  create_directory
  user = Debian-exim
  envelope_to_add
  return_path_add
";

impl Exim {
    /// `settings` for the main section. `None`: it is not there, or we are not root.
    pub fn hop(settings: &str) -> Option<Exim> {
        let exim = Program::find_for_root("exim4")?;
        let port = free_port().unwrap();
        let configuration = format!(
            "primary_hostname = exim.test
spool_directory = /srv/spool
log_file_path = /srv/%slog
pid_file_path = /srv/pid
exim_user = Debian-exim
exim_group = Debian-exim
never_users =
keep_environment =
add_environment = PATH=/usr/bin
smtp_accept_queue_per_connection = 0
log_selector = +pipelining +smtp_protocol_error +smtp_syntax_error
acl_smtp_rcpt = check_rcpt
{settings}
{REST}"
        );
        let start = format!(
            "cd /srv; mkdir spool kept; chmod 777 . spool kept; \
             exec exim4 -C /srv/exim.conf -bdf -oX 127.0.0.1.{port} -odi"
        );
        let daemon = Daemon::start(&exim, &[("exim.conf", &configuration)], &start, &[port]);
        fs::set_permissions(daemon.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        Some(Exim { daemon, port })
    }

    /// Everything it has taken, with CRLF; waits until `marks` are all in it.
    pub fn kept(&self, marks: &[String]) -> String {
        let mut all = String::new();
        wait_until("Exim has taken all of it", || {
            let read = fs::read(self.daemon.dir.path().join("kept/all")).unwrap_or_default();
            all = String::from_utf8_lossy(&read).replace('\n', "\r\n");
            marks.iter().all(|mark| all.contains(mark))
        });
        all
    }

    /// Its main log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.daemon.dir.path().join("mainlog")).unwrap_or_default()
    }
}
