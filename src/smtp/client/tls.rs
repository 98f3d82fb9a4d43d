//! PURE. The commands by which the driver tells the client machine of TLS (RFC 3207, RFC 8314). Refuses to encrypt anything:
//! that is the driver's.

use super::event::StoredReason;
use super::settings::{TlsFacts, TlsWish};
use super::{Client, Phase};
use crate::smtp::extensions::Capabilities;
use crate::time::Moment;

impl Client {
    /// Whether this connection is to go on under TLS. To be called before the greeting comes.
    pub fn wish_tls(&mut self, wish: TlsWish) {
        self.tls_wish = wish;
    }

    /// The connection is under TLS from its beginning (RFC 8314 §3). To be called before the greeting comes.
    pub fn set_tls(&mut self, facts: TlsFacts) {
        self.tls = Some(facts);
    }

    /// The connection begins with a handshake, before the greeting (RFC 8314 §3). To be called before anything comes; then as
    /// after [`super::ClientEvent::StartTls`].
    pub fn begin_with_tls(&mut self) {
        (self.implicit_tls, self.phase) = (true, Phase::Handshake);
    }

    /// The handshake after [`super::ClientEvent::StartTls`] is done: what the peer announced before is forgotten, and asked for
    /// again (RFC 3207 §4.2).
    ///
    /// # Panics
    /// If no handshake was due.
    pub fn tls_established(&mut self, facts: TlsFacts, now: Moment) {
        assert!(self.phase == Phase::Handshake, "the machine asks for a handshake first");
        self.tls = Some(facts);
        self.capabilities = Capabilities::default();
        if std::mem::take(&mut self.implicit_tls) {
            self.phase = Phase::Greeting;
        } else {
            self.say_ehlo();
        }
        self.watch(now);
    }

    /// The handshake came to nothing: the connection cannot be used, not even in the clear.
    pub fn tls_failed(&mut self) {
        if self.phase == Phase::Handshake {
            self.close(StoredReason::TlsFailed);
        }
    }
}
