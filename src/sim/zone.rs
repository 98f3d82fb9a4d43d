//! A DNS server of the simulated world.
