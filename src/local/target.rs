//! PURE. Where the mail of a local domain is delivered to: the key `deliver` of a `[[local]]` block.
//!
//! In: its text. Out: an LMTP server or the place of Maildirs. Refuses names of hosts, which would need DNS on the way to
//! a mailbox of our own.

use super::maildir::Layout;
use std::net::SocketAddr;

/// Where mail is delivered to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `lmtp:…` (RFC 2033).
    Lmtp(LmtpServer),
    /// `maildir:…`.
    Maildir(Layout),
}

/// Where an LMTP server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LmtpServer {
    /// `lmtp:127.0.0.1:24` or `lmtp:[::1]:24`.
    Tcp(SocketAddr),
    /// `lmtp:/run/dovecot/lmtp`: a UNIX socket.
    Unix(String),
}

/// The most octets a UNIX socket's path can have on Linux (`sun_path`, unix(7)), with its NUL.
const SOCKET_PATH_BYTES: usize = 108;

impl Target {
    /// Reads the value of `deliver`; the error says what is allowed.
    pub fn parse(text: &str) -> Result<Target, String> {
        match text.split_once(':') {
            Some(("lmtp", path)) if path.starts_with('/') => {
                if path.len() >= SOCKET_PATH_BYTES || path.contains('\0') {
                    return Err(format!("the path of a socket has {} octets at most", SOCKET_PATH_BYTES - 1));
                }
                Ok(Target::Lmtp(LmtpServer::Unix(path.to_owned())))
            }
            Some(("lmtp", address)) => match address.parse::<SocketAddr>() {
                // RFC 2033 §5.
                Ok(address) if address.port() == 25 => {
                    Err("port 25 is that of SMTP, and LMTP must not be spoken there; 24 is usual".to_owned())
                }
                Ok(address) if address.port() != 0 => Ok(Target::Lmtp(LmtpServer::Tcp(address))),
                _ => Err("an LMTP server is ADDRESS:PORT with a numeric address (\"lmtp:127.0.0.1:24\", \
                          \"lmtp:[::1]:24\") or the path of a socket (\"lmtp:/run/dovecot/lmtp\")"
                    .to_owned()),
            },
            Some(("maildir", template)) => Layout::parse(template).map(Target::Maildir),
            _ => {
                Err("deliver is \"lmtp:ADDRESS:PORT\", \"lmtp:/PATH\" or \"maildir:/PATH/{domain}/{mailbox}\""
                    .to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_the_three_forms_and_nothing_else() {
        let tcp = |text: &str| Ok(Target::Lmtp(LmtpServer::Tcp(text.parse().unwrap())));
        assert_eq!(Target::parse("lmtp:127.0.0.1:24"), tcp("127.0.0.1:24"));
        assert_eq!(Target::parse("lmtp:[::1]:24"), tcp("[::1]:24"));
        assert_eq!(Target::parse("lmtp:/run/x"), Ok(Target::Lmtp(LmtpServer::Unix("/run/x".to_owned()))));
        assert!(matches!(Target::parse("maildir:/var/mail/{domain}/{mailbox}"), Ok(Target::Maildir(_))));
        let long = format!("lmtp:/{}", "x".repeat(107));
        for bad in [
            "",
            "lmtp",
            "lmtp:",
            "lmtp:localhost:24",
            "lmtp:127.0.0.1",
            "lmtp:127.0.0.1:0",
            "lmtp:127.0.0.1:25",
            "lmtp:[::1]:25",
            "mbox:/x",
            "maildir:x",
            &long,
        ] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }
}
