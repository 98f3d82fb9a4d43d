//! Real DNS with DNSSEC on loopback: nsd serves dane.test, signed with ldns-signzone, and plain.test, which is not signed;
//! unbound validates, with dane.test's key as its only trust anchor.
//!
//! In: records of both zones. Out: a [`Dns`] with the address to ask, and a way to run other programs as if it were this
//! machine's resolver. `BROKEN` in the signed zone's records becomes something else after the signing, so that its signature is
//! bogus.

use std::net::SocketAddr;
use std::process::Output;

use loadtest::relay::free_port;

use super::programs::{Daemon, Program};

/// 32 octets, whose signature does not hold.
pub const BROKEN: &str = "00000000000000000000000000000000000000000000000000000000000000aa";

pub struct Dns {
    /// Also at port 53 of an address of its own: the C library knows no other port.
    pub address: SocketAddr,
    daemon: Daemon,
}

const START: &str = "cd /srv
key=$(ldns-keygen -r /dev/urandom -a ECDSAP256SHA256 -k dane.test)
ldns-signzone -f dane.signed dane.zone \"$key\"
sed -i 's/00000000000000000000000000000000000000000000000000000000000000aa/11111111111111111111111111111111111111111111111111111111111111aa/I' dane.signed
cp \"$key.key\" anchor.key
chmod -R a+rX .
nsd -c /srv/nsd.conf
exec unbound -d -c /srv/unbound.conf";

impl Dns {
    /// `None`: a program is missing, or we are not root.
    pub fn start(signed: &str, plain: &str) -> Option<Dns> {
        let unbound = Program::find_for_root("unbound")?;
        for needed in ["nsd", "ldns-signzone"] {
            Program::find(needed)?;
        }
        let (port, inner) = (free_port().unwrap(), free_port().unwrap());
        let [high, low] = port.to_be_bytes();
        let resolver = format!("127.9.{high}.{low}");
        let zone = |name: &str, records: &str| {
            format!(
                "$ORIGIN {name}.\n$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 300\n@ NS ns\nns A 127.0.0.1\n{records}"
            )
        };
        let nsd = format!(
            "server:\n ip-address: 127.0.0.1@{inner}\n username: \"\"\n chroot: \"\"\n zonesdir: \"/srv\"\n \
             pidfile: \"/srv/nsd.pid\"\n database: \"\"\n xfrdfile: \"/srv/xfrd\"\n zonelistfile: \"/srv/list\"\n \
             logfile: \"/srv/nsd.log\"\n server-count: 1\nremote-control:\n control-enable: no\n\
             zone:\n name: dane.test\n zonefile: dane.signed\nzone:\n name: plain.test\n zonefile: plain.zone\n"
        );
        let unbound_conf = format!(
            "server:\n interface: 127.0.0.1@{port}\n interface: {resolver}@53\n do-ip6: no\n username: \"\"\n chroot: \"\"\n \
             directory: \"/srv\"\n pidfile: \"\"\n use-syslog: no\n logfile: \"\"\n verbosity: 1\n \
             do-not-query-localhost: no\n local-zone: \"test.\" nodefault\n trust-anchor-file: \"/srv/anchor.key\"\n \
             module-config: \"validator iterator\"\n num-threads: 1\n\
             remote-control:\n control-enable: no\n\
             stub-zone:\n name: \"dane.test\"\n stub-addr: 127.0.0.1@{inner}\n stub-prime: no\n\
             stub-zone:\n name: \"plain.test\"\n stub-addr: 127.0.0.1@{inner}\n stub-prime: no\n"
        );
        let daemon = Daemon::start(
            &unbound,
            &[
                ("dane.zone", &zone("dane.test", signed)),
                ("plain.zone", &zone("plain.test", plain)),
                ("nsd.conf", &nsd),
                ("unbound.conf", &unbound_conf),
                ("resolv.conf", &format!("nameserver {resolver}\noptions trust-ad edns0\n")),
                // posttls-finger reads one.
                (
                    "postfix/main.cf",
                    "compatibility_level = 3.6\ndnssec_probe =\nsmtp_dns_support_level = dnssec\ninet_protocols = ipv4\n",
                ),
            ],
            START,
            &[port],
        );
        Some(Dns { address: ([127, 0, 0, 1], port).into(), daemon })
    }

    /// Runs a program whose resolver this is; `None` if it is missing. Its /srv is the resolver's folder.
    pub fn ask(&self, program: &str, arguments: &[&str], files: &[(&str, &str)]) -> Option<Output> {
        Program::find(program)?;
        for (name, text) in files {
            std::fs::write(self.daemon.dir.path().join(name), text).unwrap();
        }
        let mut command = Program::find("sh")?.command_in(self.daemon.dir.path());
        command.env("MAIL_CONFIG", "/srv/postfix");
        let script = "mount --bind /srv/resolv.conf /etc/resolv.conf; exec \"$@\"";
        Some(command.args(["-ec", script, "sh", program]).args(arguments).output().unwrap())
    }

    /// What the servers said.
    pub fn log(&self) -> String {
        self.daemon.log()
    }
}
