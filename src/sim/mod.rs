//! The world of the simulator: next hops, clients and DNS servers that misbehave as the real ones do, a relay of the
//! production code among them, deeds drawn from a seed, and the invariants that must hold whatever is done.
//!
//! Input: seeds. Output: [`run::Outcome`]s. `rt::sim` is the backend below; `loadtest simulate` is the command in front.
//! Refuses: whatever would make a run differ from its repetition.

pub mod asks;
pub mod client;
pub mod day;
pub mod guise;
pub mod hop;
pub mod oracle;
pub mod proxy;
pub mod run;
pub mod saturated;
pub mod scenario;
pub mod shrink;
pub mod sources;
#[cfg(test)]
mod tests;
pub mod world;
pub mod zone;
