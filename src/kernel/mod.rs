//! The only room with `unsafe` and libbpf.

pub mod stats;
