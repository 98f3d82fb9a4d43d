//! PURE. When mail is tried again, as far as rules say: some of the keys of `[delivery.retry]`.

use std::time::Duration;

/// What a rule says of retries; what it does not say is as `[delivery.retry]` has it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Schedule {
    /// After the first failure.
    pub first: Option<Duration>,
    /// Each interval is the one before times this. 1.0 to 10.0.
    pub factor: Option<f64>,
    /// The longest interval.
    pub max: Option<Duration>,
    /// Age at which mail is given up.
    pub give_up: Option<Duration>,
}

impl Schedule {
    /// Of each key this one's, or `other`'s.
    #[must_use]
    pub fn or(self, other: Schedule) -> Schedule {
        Schedule {
            first: self.first.or(other.first),
            factor: self.factor.or(other.factor),
            max: self.max.or(other.max),
            give_up: self.give_up.or(other.give_up),
        }
    }

    /// What holds for a tenant's mail where this is the provider's. How often is the receiver's matter, and its provider's rule
    /// comes before the tenant's; how long it is worth while is the sender's, and there the tenant's comes first.
    #[must_use]
    pub fn with_tenant(self, tenant: Schedule) -> Schedule {
        Schedule { give_up: tenant.give_up.or(self.give_up), ..self.or(tenant) }
    }
}
