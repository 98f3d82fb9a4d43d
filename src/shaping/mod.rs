//! PURE. What a receiver takes: the limits that mail to a site keeps to.
//!
//! A *site* is what its receiver counts as one: the destinations whose mail exchangers are the same, or that rules say are
//! one provider's. Core: the same rules on every shard, immutable. It refuses to count: that is `queue`'s.

mod limits;
mod rate;

pub use limits::Limits;
pub use rate::{Pace, Rate};
