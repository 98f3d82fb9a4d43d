//! PURE. What an operator says of hosts that a route names: their TLS, and who we are there. A value, which refuses nothing; what
//! does not fit together is told by whoever reads it.

use crate::smtp::sasl::Login;
use crate::starttls::TlsLevel;
use std::sync::Arc;

/// See the module. Shared by all cores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// Instead of `[delivery] tls`.
    pub tls: Option<TlsLevel>,
    /// TLS from the first octet (RFC 8314 §3.3), not by STARTTLS.
    pub implicit_tls: bool,
    /// The file with name and password.
    pub auth: Option<Box<str>>,
    /// What stands in it, once it has been read.
    pub login: Option<Arc<Login>>,
    /// The login may go in the clear.
    pub auth_without_tls: bool,
}

/// The port of TLS from the first octet (RFC 8314 §7.3).
const SUBMISSIONS: u16 = 465;

impl Hop {
    /// The level that holds there, `otherwise` being that of all mail. Nobody is shown a password whose certificate nobody has
    /// verified, unless the operator says so.
    pub fn level(&self, otherwise: TlsLevel) -> TlsLevel {
        let level = match self.tls {
            Some(level) => level,
            None if self.auth.is_some() && !self.auth_without_tls => TlsLevel::Verify,
            None => otherwise,
        };
        match level {
            TlsLevel::None | TlsLevel::Opportunistic if self.implicit_tls => TlsLevel::Require,
            level => level,
        }
    }

    /// Whether any connection there may be under TLS though `[delivery] tls` is `none`.
    pub fn wants_tls(&self) -> bool {
        self.level(TlsLevel::None) != TlsLevel::None
    }

    /// Whether hosts at these ports are under TLS from the first octet, where nothing was said: at 465. `None`: some are.
    pub fn implied(ports: impl IntoIterator<Item = u16>) -> Option<bool> {
        let mut all = ports.into_iter().map(|port| port == SUBMISSIONS);
        let first = all.next().unwrap_or(false);
        all.all(|one| one == first).then_some(first)
    }

    /// What is wrong with it, and what to do.
    pub fn fault(&self) -> Option<&'static str> {
        match self.tls {
            _ if self.auth_without_tls && self.auth.is_none() => {
                Some("auth_without_tls is for a route with auth; take it out")
            }
            Some(TlsLevel::None) if self.implicit_tls => {
                Some("tls = \"none\", and TLS from the first octet (port 465, or implicit_tls): take one of them out")
            }
            Some(TlsLevel::None) if self.auth.is_some() && !self.auth_without_tls => Some(
                "auth without TLS shows the password to everybody on the way; if that is wanted, add auth_without_tls = true",
            ),
            _ => None,
        }
    }

    /// Behind the name of their site, so that mail which wants something else of the same hosts has connections of its own.
    pub(super) fn mark(&self) -> String {
        let mut mark = String::new();
        if let Some(tls) = self.tls {
            let name = TlsLevel::ALL.iter().find(|(_, level)| *level == tls).map_or("", |(name, _)| name);
            mark += &format!(" (tls {name})");
        }
        if self.implicit_tls {
            mark += " (implicit tls)";
        }
        if let Some(auth) = &self.auth {
            // Short, since site names have a bound.
            mark += &format!(" (auth {:08x})", super::hash(auth.as_bytes()) as u32);
        }
        if self.auth_without_tls {
            mark += " (auth without tls)";
        }
        mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_wants_a_verified_host_unless_it_is_said_otherwise() {
        let auth = Hop { auth: Some("f".into()), ..Hop::default() };
        assert_eq!(auth.level(TlsLevel::Opportunistic), TlsLevel::Verify);
        assert!(auth.wants_tls() && !Hop::default().wants_tls());
        let told = Hop { tls: Some(TlsLevel::Require), ..auth.clone() };
        assert_eq!(told.level(TlsLevel::None), TlsLevel::Require);
        let open = Hop { auth_without_tls: true, ..auth.clone() };
        assert_eq!(open.level(TlsLevel::Opportunistic), TlsLevel::Opportunistic);
        let implicit = Hop { implicit_tls: true, ..Hop::default() };
        assert_eq!(implicit.level(TlsLevel::None), TlsLevel::Require);
        assert_eq!(implicit.level(TlsLevel::Verify), TlsLevel::Verify);
        let none = Hop { tls: Some(TlsLevel::None), ..auth };
        assert!(none.fault().is_some() && open.fault().is_none() && Hop::default().fault().is_none());
        assert_eq!(
            [Hop::implied([25, 587]), Hop::implied([465]), Hop::implied([465, 25]), Hop::implied([])],
            [Some(false), Some(true), None, Some(false)]
        );
    }
}
