//! The only place that names glommio and holds `unsafe`: executors, the socket ring, files, timers, wakers.

pub mod buffer;
pub mod disk;
