//! What one core owns, and the only messages that cross cores.

pub mod event;
pub mod stats;
