//! PURE. What the resolver wants done with sockets: the values its driver carries out.

use std::net::SocketAddr;

/// Names one exchange, and so one socket of the driver; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeId(pub u64);

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// Open a new UDP socket with a random port, connect it to `server`, send `payload`.
    Udp {
        /// The new exchange.
        exchange: ExchangeId,
        /// Where to connect to.
        server: SocketAddr,
        /// The datagram.
        payload: Vec<u8>,
    },
    /// Connect to `server` by TCP and send `payload`.
    Tcp {
        /// The new exchange.
        exchange: ExchangeId,
        /// Where to connect to.
        server: SocketAddr,
        /// The message behind its two octets of length (RFC 1035 §4.2.2).
        payload: Vec<u8>,
    },
    /// Close the socket. Comes exactly once for each exchange, whatever became of it.
    Close {
        /// The exchange that ended.
        exchange: ExchangeId,
    },
}
