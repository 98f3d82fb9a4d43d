//! The targets, one file each: what it reads, what it checks.

pub mod address;
pub mod client;
pub mod config;
pub mod data;
pub mod dns;
pub mod notification;
pub mod server;
pub mod spool;
pub mod written;
