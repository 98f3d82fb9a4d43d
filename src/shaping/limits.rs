//! PURE. The limits of one scope: a site, a source address at a site, a tenant, a campaign. Several scopes hold for a
//! message at once; each of them must have room.

use super::Rate;

/// What mail may take of a scope. `None`: this scope does not limit that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Connections at a time. 1 to 10,000.
    pub connections: Option<u32>,
    /// Connections begun in a time.
    pub connection_rate: Option<Rate>,
    /// Messages (transactions begun) in a time.
    pub message_rate: Option<Rate>,
    /// Recipients of one transaction. 1 to 1,000.
    pub recipients: Option<u32>,
    /// Messages over one connection before it is closed. 1 to 1,000,000.
    pub messages_per_connection: Option<u32>,
    /// Octets of messages that are under way at a time: begun, and not answered.
    pub bytes_in_flight: Option<u64>,
}

impl Limits {
    /// Whether a message counts when it is begun, and not only its connection.
    pub fn count_messages(&self) -> bool {
        self.message_rate.is_some() || self.bytes_in_flight.is_some()
    }

    /// What both allow: of each limit the one that allows less.
    #[must_use]
    pub fn and(self, other: Limits) -> Limits {
        fn less<T>(a: Option<T>, b: Option<T>, less: impl FnOnce(T, T) -> T) -> Option<T> {
            match (a, b) {
                (Some(a), Some(b)) => Some(less(a, b)),
                (a, b) => a.or(b),
            }
        }
        Limits {
            connections: less(self.connections, other.connections, u32::min),
            connection_rate: less(self.connection_rate, other.connection_rate, Rate::slower),
            message_rate: less(self.message_rate, other.message_rate, Rate::slower),
            recipients: less(self.recipients, other.recipients, u32::min),
            messages_per_connection: less(self.messages_per_connection, other.messages_per_connection, u32::min),
            bytes_in_flight: less(self.bytes_in_flight, other.bytes_in_flight, u64::min),
        }
    }
}
