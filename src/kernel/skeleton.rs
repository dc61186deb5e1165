//! Generated from the linked BPF object: programs, maps and the shared types of `bpf/include/nm_types.h`.
#![allow(
    missing_docs,
    unsafe_code,
    unused_qualifications,
    rust_2018_idioms,
    non_camel_case_types,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::undocumented_unsafe_blocks,
    dead_code
)]

include!(concat!(env!("OUT_DIR"), "/netmon.skel.rs"));
