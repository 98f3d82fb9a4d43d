//! Ringpost's load generator.
fn main() {}
