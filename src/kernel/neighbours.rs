//! What sits on the hooks of an interface, in the order in which a packet meets it: XDP, TCX, clsact filters.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;

use libbpf_rs::Program;
use serde::{Deserialize, Serialize};

use super::filters;
use super::stats::Hook;

/// Programs on one TCX hook at most (`BPF_MPROG_MAX`).
const TCX_PROGRAMS: usize = 64;

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// In the driver, before the kernel makes a buffer.
    Xdp,
    /// TCX link.
    Tcx,
    /// clsact filter.
    Clsact,
}

/// One of those on a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Where.
    pub layer: Layer,
    /// Which hook.
    pub hook: Hook,
    /// Of a filter: lower ones run first.
    pub priority: Option<u16>,
    /// Of a filter.
    pub handle: Option<u32>,
    /// BPF program; none for other filters.
    pub program: Option<u32>,
    /// Name of the program, or kind of the filter; none when it may not be asked for (CAP_SYS_ADMIN).
    pub name: Option<String>,
}

impl Neighbour {
    /// Whether it is a program of ours.
    pub fn is_ours(&self) -> bool {
        self.layer != Layer::Xdp
            && self.program.is_some()
            && self.name.as_deref().is_some_and(|name| is_called(name, self.hook.program()))
    }
}

/// Whether this is a program's name, or what libbpf calls its filter: `name:[id]`.
pub(super) fn is_called(name: &str, program: &str) -> bool {
    name.strip_prefix(program).is_some_and(|rest| rest.is_empty() || rest.starts_with(":["))
}

/// All of an interface.
///
/// # Errors
/// The kernel's; asking needs CAP_NET_ADMIN.
pub fn list(index: u32) -> std::io::Result<Vec<Neighbour>> {
    let bare = |layer, hook, program| Neighbour {
        layer,
        hook,
        priority: None,
        handle: None,
        program: Some(program),
        name: program_name(program),
    };
    let mut all: Vec<Neighbour> =
        xdp(index).into_iter().map(|program| bare(Layer::Xdp, Hook::Ingress, program)).collect();
    for hook in Hook::ALL {
        let programs = tcx(index, hook)?.unwrap_or_default();
        all.extend(programs.into_iter().map(|program| bare(Layer::Tcx, hook, program)));
        let filters = filters::list(index, hook)?.into_iter().filter(|filter| filter.handle != 0);
        all.extend(filters.map(|filter| Neighbour {
            layer: Layer::Clsact,
            hook,
            priority: Some(filter.priority),
            handle: Some(filter.handle),
            program: filter.program,
            name: filter.name.or(Some(filter.kind)),
        }));
    }
    Ok(all)
}

/// Whether this kernel has TCX; none when it may not be asked (CAP_NET_ADMIN).
pub fn has_tcx() -> Option<bool> {
    // Loopback is the first interface of every namespace.
    tcx(1, Hook::Ingress).ok().map(|programs| programs.is_some())
}

/// Programs on a TCX hook, in order; none on a kernel without.
fn tcx(index: u32, hook: Hook) -> std::io::Result<Option<Vec<u32>>> {
    let index = i32::try_from(index).map_err(std::io::Error::other)?;
    let kind = match hook {
        Hook::Ingress => libbpf_sys::BPF_TCX_INGRESS,
        Hook::Egress => libbpf_sys::BPF_TCX_EGRESS,
    };
    let mut programs = [0u32; TCX_PROGRAMS];
    let mut options = libbpf_sys::bpf_prog_query_opts {
        sz: size_of::<libbpf_sys::bpf_prog_query_opts>() as libbpf_sys::size_t,
        prog_ids: programs.as_mut_ptr(),
        ..Default::default()
    };
    options.__bindgen_anon_1.count = TCX_PROGRAMS as u32;
    // SAFETY: the options are initialised; the kernel writes at most `count` ids into `programs`, which outlives the call.
    let error = unsafe { libbpf_sys::bpf_prog_query_opts(index, kind, &mut options) };
    match -error {
        0 => Ok(Some(programs.into_iter().take_while(|program| *program != 0).collect())),
        // A kernel without TCX.
        libc::EINVAL => Ok(None),
        // 6.6: nobody is on the hook.
        libc::ENOENT => Ok(Some(Vec::new())),
        error => Err(std::io::Error::from_raw_os_error(error)),
    }
}

/// XDP programs: one, or one each of several modes.
fn xdp(index: u32) -> Vec<u32> {
    let mut options = libbpf_sys::bpf_xdp_query_opts {
        sz: size_of::<libbpf_sys::bpf_xdp_query_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    // SAFETY: the options are initialised and outlive the call.
    let error =
        i32::try_from(index).map_or(-1, |index| unsafe { libbpf_sys::bpf_xdp_query(index, 0, &mut options) });
    if error != 0 {
        return Vec::new();
    }
    let mut programs = vec![options.prog_id, options.hw_prog_id, options.drv_prog_id, options.skb_prog_id];
    programs.retain(|program| *program != 0);
    programs.sort_unstable();
    programs.dedup();
    programs
}

/// Name of a program; none when it is gone or may not be asked for (CAP_SYS_ADMIN).
fn program_name(id: u32) -> Option<String> {
    let fd = Program::fd_from_id(id).ok()?;
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = size_of::<libbpf_sys::bpf_prog_info>() as u32;
    // SAFETY: `info` is initialised, and the kernel writes at most `length` bytes into it.
    let error = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(fd.as_raw_fd(), &mut info, &mut length) };
    if error != 0 {
        return None;
    }
    let name: Vec<u8> = info.name.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8(name).ok()
}
