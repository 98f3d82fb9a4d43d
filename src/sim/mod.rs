//! The world of the simulator: next hops, clients and DNS servers that misbehave as the real ones do, generated from a
//! seed, and the invariants that must hold whatever they do.

pub mod zone;
