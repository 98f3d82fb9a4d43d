//! A private Postfix: queue, configuration and users are its own, and it listens on one free port of loopback.
//!
//! In: lines for main.cf. Out: a [`Postfix`] whose smtpd takes mail from loopback for any domain, and either keeps it
//! for the test to look at ([`Postfix::held`]) or sends it on to a relay.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use loadtest::relay::free_port;

use super::programs::{Daemon, Program};
use super::wait_until;

/// What both have. compatibility_level: no defaults of older releases.
const MAIN_CF: &str = "compatibility_level = 3.6
queue_directory = /srv/queue
data_directory = /srv/data
mail_owner = postfix
setgid_group = postdrop
maillog_file = /srv/log
maillog_file_prefixes = /srv
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = postfix.test
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
smtputf8_autodetect_classes = all
disable_dns_lookups = yes
smtpd_relay_restrictions = permit_mynetworks, reject
# One lost connection is no reason to wait.
minimal_backoff_time = 1s
maximal_backoff_time = 2s
queue_run_delay = 1s
";

const SERVICES: &str = "pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 1 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
";

/// What `postfix start` does, without the files of a system's installation.
const START: &str = "cd /srv; mkdir queue data; chown postfix data; cd queue
mkdir active bounce corrupt defer deferred flush hold incoming private public maildrop pid saved trace
chown postfix active bounce corrupt defer deferred flush hold incoming private public saved trace maildrop
chgrp postdrop public maildrop; chmod 710 public; chmod 730 maildrop
exec \"${MASTER:-/usr/lib/postfix/sbin/master}\" -d -c /srv/conf";

/// A running one.
pub struct Postfix {
    pub daemon: Daemon,
    /// Its smtpd's.
    pub port: u16,
    postcat: Program,
}

/// A message in its hold queue, as its postcat tells it.
pub struct Held {
    /// Sender, recipients, what came with MAIL and RCPT; `name: value` lines.
    pub envelope: String,
    /// With CRLF.
    pub text: Vec<u8>,
}

impl Postfix {
    /// A next hop that keeps what it gets; `settings` for main.cf, a later line counts. `None`: it is not there, or we are not root.
    pub fn hop(settings: &str) -> Option<Postfix> {
        Postfix::start(&format!("smtpd_recipient_restrictions = static:hold\n{settings}"), &[])
    }

    /// A client that relays to this port of 127.0.0.1. `settings` for main.cf; `files` for /srv.
    pub fn client(relay: u16, settings: &str, files: &[(&str, &str)]) -> Option<Postfix> {
        Postfix::start(&format!("relayhost = [127.0.0.1]:{relay}\n{settings}"), files)
    }

    /// Next hops at addresses of their own: further lines of master.cf, each service with its own settings, and files for /srv.
    pub fn hops(services: &str, files: &[(&str, &str)]) -> Option<Postfix> {
        Postfix::start_with("smtpd_recipient_restrictions = static:hold\nsmtpd_tls_loglevel = 1\n", services, files)
    }

    fn start(settings: &str, files: &[(&str, &str)]) -> Option<Postfix> {
        Postfix::start_with(settings, "", files)
    }

    fn start_with(settings: &str, services: &str, files: &[(&str, &str)]) -> Option<Postfix> {
        let postfix = Program::find_for_root("postfix")?;
        let postcat = Program::find("postcat")?;
        let port = free_port().unwrap();
        let main = format!("{MAIN_CF}{settings}");
        let master = format!("127.0.0.1:{port} inet n - n - - smtpd\n{services}{SERVICES}");
        let files = [&[("conf/main.cf", main.as_str()), ("conf/master.cf", &master)], files].concat();
        let daemon = Daemon::start(&postfix, &files, START, &[port]);
        Some(Postfix { daemon, port, postcat })
    }

    /// Waits for a held message with `mark` in it. A bounce repeats the header of what it returns: a mark from there fits both.
    pub fn held(&self, mark: &str) -> Held {
        self.held_with(mark.as_bytes())
    }

    /// Waits for a held message to `recipient`.
    pub fn held_to(&self, recipient: &str) -> Held {
        // A record of the queue file: its type, how long it is, what it says.
        let length = u8::try_from(recipient.len()).unwrap();
        self.held_with(&[&[b'R', length], recipient.as_bytes()].concat())
    }

    fn held_with(&self, mark: &[u8]) -> Held {
        let mut found = None;
        wait_until(&format!("Postfix holds a message with {:?}", mark.escape_ascii().to_string()), || {
            found = self.complete().into_iter().find(|name| {
                let path = self.daemon.dir.path().join("queue/hold").join(name);
                memchr::memmem::find(&fs::read(path).unwrap_or_default(), mark).is_some()
            });
            found.is_some()
        });
        let path = format!("/srv/queue/hold/{}", found.unwrap());
        let cat = |what: &str| {
            let mut command = self.postcat.command_in(self.daemon.dir.path());
            let output = command.args(["-c", "/srv/conf", what, &path]).output().unwrap();
            assert!(output.status.success(), "{}", super::programs::text(&output));
            output.stdout
        };
        let envelope = String::from_utf8_lossy(&cat("-e")).into_owned();
        let mut text = Vec::new();
        for line in cat("-hb").split_inclusive(|b| *b == b'\n') {
            text.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
            text.extend_from_slice(b"\r\n");
        }
        Held { envelope, text }
    }

    /// How many messages it holds.
    pub fn held_count(&self) -> usize {
        self.complete().len()
    }

    /// Sessions that ended, and had BDAT in them.
    pub fn sessions_with_bdat(&self) -> usize {
        let ended = |log: &str| log.lines().filter(|l| l.contains("disconnect from") && l.contains(" bdat=")).count();
        let mut count = 0;
        wait_until("a session has ended", || {
            count = ended(&self.daemon.log());
            count > 0
        });
        count
    }

    /// The hold queue's files that are whole: those that Postfix has made executable.
    fn complete(&self) -> Vec<String> {
        let entries = fs::read_dir(self.daemon.dir.path().join("queue/hold")).unwrap().flatten();
        let whole = entries.filter(|e| e.metadata().is_ok_and(|m| m.permissions().mode() & 0o100 != 0));
        whole.map(|e| e.file_name().into_string().unwrap()).collect()
    }
}

impl Held {
    /// A line of the envelope, as `sender: a@example.com` or `named_attribute: envelope_id=id`.
    pub fn assert_has(&self, line: &str) {
        assert!(self.envelope.lines().any(|l| l.trim() == line), "no {line:?}:\n{}", self.envelope);
    }
}
