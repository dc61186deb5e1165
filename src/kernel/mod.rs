//! The only room with `unsafe` and libbpf: the loaded object, its tables mapped into this process, hooks,
//! events, counters. Says what the kernel says; decides nothing about flows.
//!
//! One thread, the collector, owns an [`object::Object`] and everything that changes it. Tables may be read by any
//! thread (see [`table`]).

pub mod attach;
pub mod btf;
pub mod claim;
pub mod conntrack;
pub mod counters;
pub mod decode;
pub mod drops;
pub mod events;
pub mod filters;
pub mod grace;
pub mod load;
pub mod messages;
pub mod names;
pub mod neighbours;
pub mod ntp;
pub mod object;
pub mod pairing;
pub mod sampling;
mod shared;
mod skeleton;
pub mod stats;
pub mod table;
pub mod trace;
pub mod trial;
pub mod tunnels;

/// The types shared with the programs, generated from `bpf/include/nm_types.h`.
pub mod types {
    pub use super::skeleton::types::{
        nm_cold, nm_control, nm_detail, nm_dns, nm_hot, nm_interface, nm_kind, nm_timing, nm_told,
    };
}

/// Sends libbpf's own words to the log: what it warns of when a try fails is expected, so nothing is louder
/// than debug.
pub fn log_libbpf() {
    fn print(_level: libbpf_rs::PrintLevel, text: String) {
        tracing::debug!(target: "libbpf", "{}", text.trim_end());
    }
    libbpf_rs::set_print(Some((libbpf_rs::PrintLevel::Debug, print)));
}

/// Throws libbpf's own words away, which it would write to standard error: for programs that have no log.
pub fn silence_libbpf() {
    libbpf_rs::set_print(None);
}

#[cfg(test)]
mod tests;
