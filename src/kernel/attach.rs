//! Attaching to the hooks of an interface, and removing what a killed run left behind.
//!
//! TCX (6.6) at the head of the hook where the kernel has it, else a clsact filter under a priority and
//! handle of our own. The choice is made by trying. A TCX link goes with the process; a clsact filter stays
//! when the process is killed, and is found again by priority, handle and program name. No foreign filter
//! or qdisc is touched.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;

use libbpf_rs::{AsRawLibbpf, Link, TC_EGRESS, TC_INGRESS, TcHook, TcHookBuilder};

use super::filters::{self, Filter};
use super::neighbours::is_called;
use super::object::Object;
use super::stats::Hook;

/// Priority of our clsact filters. Known neighbours: Cilium, netobserv and AWS's agent take 1, Calico and
/// others what the kernel assigns (49152 downwards).
pub const CLSACT_PRIORITY: u32 = 2;
/// Handle of our clsact filters: "NM".
pub const CLSACT_HANDLE: u32 = 0x4e4d;

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
    Tcx { _links: [Link; 2] },
    /// Those hooks that are attached.
    Clsact { index: i32, hooks: Vec<TcHook>, made_qdisc: bool },
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
                // SAFETY: an initialised hook description, read during the call.
                unsafe { libbpf_sys::bpf_tc_hook_destroy(&mut clsact(*index)) };
            }
        }
    }
}

/// Attaches both hooks of an interface. `wanted` forces a method; `None` tries TCX, then clsact, which is another agent's if
/// `taken_by` names one.
///
/// # Errors
/// Says what was tried and what the kernel answered.
pub fn attach(
    object: &Object,
    index: u32,
    wanted: Option<Method>,
    taken_by: Option<u32>,
) -> std::io::Result<Attachment> {
    let index = i32::try_from(index).map_err(std::io::Error::other)?;
    let clsact = || match taken_by {
        None => attach_clsact(object, index),
        Some(pid) => Err(std::io::Error::other(format!(
            "another netmon (process {pid}) has its clsact filters in this network namespace; one at a time can: stop it"
        ))),
    };
    match wanted {
        Some(Method::Tcx) => attach_tcx(object, index),
        Some(Method::Clsact) => clsact(),
        None => attach_tcx(object, index).or_else(|tcx| {
            clsact()
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
            flags: libbpf_sys::BPF_F_BEFORE,
            ..Default::default()
        };
        // SAFETY: the program is loaded and outlives the call; the options are initialised; the link is a fresh one that nobody
        // else owns.
        let link = unsafe {
            NonNull::new(libbpf_sys::bpf_program__attach_tcx(program.as_ptr(), index, &options))
                .map(|link| Link::from_ptr(link))
        };
        link.ok_or_else(std::io::Error::last_os_error)
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
    // From here on it is undone where it fails.
    let mut hold = Attachment(Hold::Clsact { index, hooks: Vec::new(), made_qdisc: make_clsact(index)? });
    let programs = [object.skel.progs.nm_ingress.as_fd(), object.skel.progs.nm_egress.as_fd()];
    for (hook, program) in Hook::ALL.into_iter().zip(programs) {
        let attached = clsact_hook(program, index, hook).attach().map_err(|error| {
            std::io::Error::other(format!(
                "{error} (is a foreign filter at priority {CLSACT_PRIORITY} handle {CLSACT_HANDLE:#x}?)"
            ))
        })?;
        if let Hold::Clsact { hooks, .. } = &mut hold.0 {
            hooks.push(attached);
        }
    }
    Ok(hold)
}

/// Both clsact hooks of an interface.
fn clsact(index: i32) -> libbpf_sys::bpf_tc_hook {
    libbpf_sys::bpf_tc_hook {
        sz: size_of::<libbpf_sys::bpf_tc_hook>() as libbpf_sys::size_t,
        ifindex: index,
        attach_point: TC_INGRESS | TC_EGRESS,
        ..Default::default()
    }
}

/// Makes the clsact qdisc; false if there was one.
fn make_clsact(index: i32) -> std::io::Result<bool> {
    // SAFETY: an initialised hook description, read during the call.
    match unsafe { libbpf_sys::bpf_tc_hook_create(&mut clsact(index)) } {
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
    let mut removed = 0;
    for hook in Hook::ALL {
        // By the filter's name: a program's own is told to CAP_SYS_ADMIN alone.
        let ours = |filter: &Filter| {
            u32::from(filter.priority) == CLSACT_PRIORITY
                && filter.handle == CLSACT_HANDLE
                && filter.name.as_deref().is_some_and(|found| is_called(found, hook.program()))
        };
        let found = filters::list(index, hook).is_ok_and(|filters| filters.iter().any(ours));
        let Ok(index) = i32::try_from(index) else { continue };
        let detached = || clsact_hook(object.skel.progs.nm_ingress.as_fd(), index, hook).detach();
        if found && detached().is_ok() {
            removed += 1;
        }
    }
    removed
}

/// Whether any filter is left on the clsact hooks of an interface; true when in doubt.
fn has_filters(index: i32) -> bool {
    let any = |hook| filters::list(index.unsigned_abs(), hook).map_or(true, |filters| !filters.is_empty());
    Hook::ALL.into_iter().any(any)
}
