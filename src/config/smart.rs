//! What `[delivery]` says of its smart host beside where it is: the keys that begin with `smart_host_`.

use super::raw::RawDelivery;
use super::resolve::Resolver;
use crate::starttls::TlsLevel;
use std::path::PathBuf;

/// `[delivery] smart_host_…`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SmartTerms {
    /// Instead of `tls`.
    pub tls: Option<TlsLevel>,
    /// TLS from the first octet; where nothing is said: at port 465.
    pub implicit_tls: Option<bool>,
    /// A file with name and password (absolute).
    pub auth: Option<PathBuf>,
    /// They may go in the clear.
    pub auth_without_tls: bool,
}

impl Resolver<'_> {
    pub(super) fn smart_terms(&mut self, raw: &RawDelivery) -> SmartTerms {
        let given = [
            ("tls", raw.smart_host_tls.is_some()),
            ("implicit_tls", raw.smart_host_implicit_tls.is_some()),
            ("auth", raw.smart_host_auth.is_some()),
            ("auth_without_tls", raw.smart_host_auth_without_tls.is_some()),
        ];
        if raw.smart_host.is_none() {
            for (key, _) in given.iter().filter(|(_, given)| *given) {
                let key = format!("delivery.smart_host_{key}");
                self.error(&key, "there is no smart_host; hosts of routes have keys of their own in the routes file");
            }
        }
        let level = raw.smart_host_tls.as_deref();
        SmartTerms {
            tls: level.map(|given| self.tls_level("delivery.smart_host_tls", Some(given))),
            implicit_tls: raw.smart_host_implicit_tls,
            auth: raw.smart_host_auth.as_ref().map(|path| self.path("delivery.smart_host_auth", path)),
            auth_without_tls: raw.smart_host_auth_without_tls.unwrap_or(false),
        }
    }
}
