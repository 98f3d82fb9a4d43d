//! The only place that names glommio and holds `unsafe`: executors, the socket ring, files, timers, wakers.

#[cfg(test)]
pub mod alloc;
pub mod buffer;
pub mod simd;
