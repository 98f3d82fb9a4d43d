//! PURE. What the driver sets of a connection: how long it waits, and whether there is to be TLS. Refuses nothing: plain
//! values.

use crate::limits;
use std::time::Duration;

/// How long each phase may take (RFC 5321 §4.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTimeouts {
    /// From the connection to the greeting.
    pub greeting: Duration,
    /// EHLO, HELO, STARTTLS and its handshake, and RSET.
    pub command: Duration,
    /// QUIT.
    pub quit: Duration,
    /// MAIL and each RCPT.
    pub envelope: Duration,
    /// DATA to 354.
    pub data_initiation: Duration,
    /// Between two calls of `Client::body_progress`.
    pub data_block: Duration,
    /// The final dot to its reply.
    pub data_termination: Duration,
}

impl Default for ClientTimeouts {
    fn default() -> Self {
        ClientTimeouts {
            greeting: limits::CLIENT_GREETING_TIMEOUT,
            command: limits::CLIENT_COMMAND_TIMEOUT,
            quit: limits::CLIENT_QUIT_TIMEOUT,
            envelope: limits::CLIENT_ENVELOPE_TIMEOUT,
            data_initiation: limits::CLIENT_DATA_INITIATION_TIMEOUT,
            data_block: limits::CLIENT_DATA_BLOCK_TIMEOUT,
            data_termination: limits::CLIENT_DATA_TERMINATION_TIMEOUT,
        }
    }
}

/// Whether a connection is to go on under TLS (RFC 3207).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsWish {
    /// STARTTLS is not said.
    #[default]
    Never,
    /// Where it is offered; where the peer then answers it 4yz or 5yz, mail goes in the clear.
    IfOffered,
    /// Or the connection ends.
    Require,
}

/// What is known of the TLS layer of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// The peer's certificate was verified, for the name that the mail is sent to (RFC 8689 §4.2.1).
    pub verified: bool,
}
