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

/// The object that is opened: the whole one, or, where libbpf finds no BTF of the kernel's, the same without calls of kernel functions.
/// Their names alone make libbpf ask for that BTF, called or not.
fn fitting(whole: &'static [u8]) -> &'static [u8] {
    if super::btf::kernel_has_any() { whole } else { PLAIN }
}

static PLAIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/netmon-plain.bpf.o"));

include!(concat!(env!("OUT_DIR"), "/netmon.skel.rs"));
