//! Attaching to the hooks of an interface, and removing what a killed run left behind.
//!
//! TCX (6.6) at the head of the hook where the kernel has it, else a clsact filter under a priority and
//! handle of our own. The choice is made by trying. A TCX link goes with the process; a clsact filter stays
//! when the process is killed, and is found again by priority, handle and program name. No foreign filter
//! or qdisc is touched.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use libbpf_rs::{AsRawLibbpf, Link, TC_EGRESS, TC_INGRESS, TcHook, TcHookBuilder};

use super::object::Object;
use super::stats::Hook;

/// Priority of our clsact filters. Known neighbours: Cilium, netobserv and AWS's agent take 1, Calico and
/// others what the kernel assigns (49152 downwards).
pub const CLSACT_PRIORITY: u32 = 2;
/// Handle of our clsact filters: "NM".
pub const CLSACT_HANDLE: u32 = 0x4e4d;

const BPF_F_BEFORE: u32 = 1 << 3;

/// How an interface is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// TCX link (6.6).
    Tcx,
    /// clsact filter.
    Clsact,
}

impl Method {
    /// Name in `status` and configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

enum Hold {
    /// Both links; dropping detaches.
    Tcx {
        _links: [Link; 2],
    },
    Clsact {
        index: i32,
        hooks: [TcHook; 2],
        made_qdisc: bool,
    },
}

/// Both hooks of one interface, held. Dropping detaches them.
pub struct Attachment(Hold);

impl Attachment {
    /// How.
    pub fn method(&self) -> Method {
        match self.0 {
            Hold::Tcx { .. } => Method::Tcx,
            Hold::Clsact { .. } => Method::Clsact,
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Hold::Clsact { index, hooks, made_qdisc } = &mut self.0 {
            for hook in hooks.iter_mut() {
                // The interface may be gone, and the filter with it.
                let _ = hook.detach();
            }
            if *made_qdisc && !has_filters(*index) {
                let _ = hooks[0].attach_point(TC_INGRESS | TC_EGRESS).destroy();
            }
        }
    }
}

/// Attaches both hooks of an interface. `wanted` forces a method; `None` tries TCX, then clsact.
///
/// # Errors
/// Says what was tried and what the kernel answered.
pub fn attach(object: &Object, index: u32, wanted: Option<Method>) -> std::io::Result<Attachment> {
    let index = i32::try_from(index).map_err(std::io::Error::other)?;
    match wanted {
        Some(Method::Tcx) => attach_tcx(object, index),
        Some(Method::Clsact) => attach_clsact(object, index),
        None => attach_tcx(object, index).or_else(|tcx| {
            attach_clsact(object, index)
                .map_err(|clsact| std::io::Error::new(clsact.kind(), format!("tcx: {tcx}; clsact: {clsact}")))
        }),
    }
}

fn attach_tcx(object: &Object, index: i32) -> std::io::Result<Attachment> {
    let one = |hook: Hook| -> std::io::Result<Link> {
        let program = match hook {
            Hook::Ingress => object.skel.progs.nm_ingress.as_libbpf_object(),
            Hook::Egress => object.skel.progs.nm_egress.as_libbpf_object(),
        };
        let options = libbpf_sys::bpf_tcx_opts {
            sz: size_of::<libbpf_sys::bpf_tcx_opts>() as libbpf_sys::size_t,
            flags: BPF_F_BEFORE,
            ..Default::default()
        };
        // SAFETY: the program is loaded and outlives the call; the options are initialised.
        let link = unsafe { libbpf_sys::bpf_program__attach_tcx(program.as_ptr(), index, &options) };
        let link = NonNull::new(link).ok_or_else(std::io::Error::last_os_error)?;
        // SAFETY: a fresh link that nobody else owns.
        Ok(unsafe { Link::from_ptr(link) })
    };
    Ok(Attachment(Hold::Tcx { _links: [one(Hook::Ingress)?, one(Hook::Egress)?] }))
}

fn clsact_hook(program: BorrowedFd<'_>, index: i32, hook: Hook) -> TcHook {
    TcHookBuilder::new(program).ifindex(index).handle(CLSACT_HANDLE).priority(CLSACT_PRIORITY).hook(
        match hook {
            Hook::Ingress => TC_INGRESS,
            Hook::Egress => TC_EGRESS,
        },
    )
}

fn attach_clsact(object: &Object, index: i32) -> std::io::Result<Attachment> {
    let made_qdisc = make_clsact(index)?;
    let mut hooks = [
        clsact_hook(object.skel.progs.nm_ingress.as_fd(), index, Hook::Ingress),
        clsact_hook(object.skel.progs.nm_egress.as_fd(), index, Hook::Egress),
    ];
    let taken = |error: libbpf_rs::Error| {
        std::io::Error::other(format!(
            "{error} (is a foreign filter at priority {CLSACT_PRIORITY} handle {CLSACT_HANDLE:#x}?)"
        ))
    };
    hooks[0].attach().map_err(taken)?;
    let attached = Attachment(Hold::Clsact { index, hooks, made_qdisc });
    let mut egress = hooks[1];
    egress.attach().map_err(taken)?;
    Ok(attached)
}

/// Makes the clsact qdisc; false if there was one.
fn make_clsact(index: i32) -> std::io::Result<bool> {
    let mut hook = libbpf_sys::bpf_tc_hook {
        sz: size_of::<libbpf_sys::bpf_tc_hook>() as libbpf_sys::size_t,
        ifindex: index,
        attach_point: TC_INGRESS | TC_EGRESS,
        ..Default::default()
    };
    // SAFETY: an initialised hook description, read during the call.
    match unsafe { libbpf_sys::bpf_tc_hook_create(&mut hook) } {
        0 => Ok(true),
        error => match std::io::Error::from_raw_os_error(-error) {
            error if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            error => Err(error),
        },
    }
}

/// Removes clsact filters that a killed run of ours left on an interface: ours are those at our priority
/// and handle whose program bears our name. Returns how many.
pub fn remove_leftovers(object: &Object, index: u32) -> u32 {
    let Ok(index) = i32::try_from(index) else { return 0 };
    let mut removed = 0;
    for (hook, name) in [(Hook::Ingress, "nm_ingress"), (Hook::Egress, "nm_egress")] {
        let mut filter = clsact_hook(object.skel.progs.nm_ingress.as_fd(), index, hook);
        let ours = filter.query().ok().and_then(program_name).is_some_and(|found| found == name);
        if ours && filter.detach().is_ok() {
            removed += 1;
        }
    }
    removed
}

fn program_name(id: u32) -> Option<String> {
    // SAFETY: plain system call; a negative answer is an error.
    let fd = unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) };
    if fd < 0 {
        return None;
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = size_of::<libbpf_sys::bpf_prog_info>() as u32;
    // SAFETY: the kernel writes at most `length` bytes into `info`.
    let error = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(fd.as_raw_fd(), &mut info, &mut length) };
    if error != 0 {
        return None;
    }
    let name: Vec<u8> = info.name.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8(name).ok()
}

/// Whether any filter is left on the clsact hooks of an interface; true when in doubt.
fn has_filters(index: i32) -> bool {
    [TC_INGRESS, TC_EGRESS].into_iter().any(|point| filters::any(index, point).unwrap_or(true))
}

mod filters {
    //! One question over netlink: is there a filter on this hook?

    use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::tc::{TcHandle, TcMessage};
    use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

    pub(super) fn any(index: i32, point: libbpf_rs::TcAttachPoint) -> std::io::Result<bool> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let mut message = TcMessage::default();
        message.header.index = index;
        let minor = if point == libbpf_rs::TC_INGRESS { 0xfff2 } else { 0xfff3 };
        message.header.parent = TcHandle { major: 0xffff, minor };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut packet =
            NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::GetTrafficFilter(message)));
        packet.finalize();
        let mut buffer = vec![0; packet.buffer_len()];
        packet.serialize(&mut buffer);
        socket.send(&buffer, 0)?;
        let answer = socket.recv_from_full()?.0;
        // A dump without an entry is a single NLMSG_DONE or NLMSG_ERROR.
        let kind = answer.get(4..6).map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]));
        Ok(kind != 2 && kind != 3)
    }
}
