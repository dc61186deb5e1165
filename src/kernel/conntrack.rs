//! What the running kernel tells of its conntrack, so that programs read and ask only what is there.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::NonNull;

use super::btf;

const STRUCT: u32 = libbpf_sys::BTF_KIND_STRUCT;
const FUNCTION: u32 = libbpf_sys::BTF_KIND_FUNC;

/// What was there when it was looked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Conntrack {
    /// Conntrack itself, built in or loaded as a module.
    pub(super) runs: bool,
    /// The layout of its entries.
    pub(super) layout: bool,
    /// The functions by which a traffic-control program looks an entry up (5.18).
    pub(super) lookup: bool,
}

impl Conntrack {
    /// Looks into the BTF of the module (5.11), or of the kernel that has it built in; or into the file that stands in for the latter,
    /// where the kernel has no names for its functions either.
    pub(super) fn probe(types: &btf::Types) -> Self {
        let runs = runs();
        if types.file().is_some() {
            return Self { runs, layout: types.have("nf_conn"), lookup: false };
        }
        let Some(kernel) = Types::of_kernel() else { return Self { runs, ..Self::default() } };
        let module = Types::of_module(c"nf_conntrack", &kernel);
        let has = |name, kind| module.as_ref().unwrap_or(&kernel).has(name, kind);
        Self {
            runs,
            layout: has(c"nf_conn", STRUCT),
            lookup: has(c"bpf_skb_ct_lookup", FUNCTION) && has(c"bpf_ct_release", FUNCTION),
        }
    }
}

/// Built in or loaded as a module, now.
pub fn runs() -> bool {
    std::fs::exists("/sys/module/nf_conntrack").unwrap_or(false)
}

/// Types of the kernel or, on top of those, of a module: libbpf-rs reads the kernel's alone.
struct Types<'kernel>(NonNull<libbpf_sys::btf>, PhantomData<&'kernel ()>);

impl Types<'_> {
    fn of_kernel() -> Option<Self> {
        // SAFETY: takes nothing; returns null, or what is freed by drop.
        NonNull::new(unsafe { libbpf_sys::btf__load_vmlinux_btf() }).map(|types| Self(types, PhantomData))
    }

    fn of_module<'kernel>(name: &CStr, kernel: &'kernel Types<'_>) -> Option<Types<'kernel>> {
        // SAFETY: both are valid for the call; what is returned refers to the kernel's and can't outlive them.
        let types = unsafe { libbpf_sys::btf__load_module_btf(name.as_ptr(), kernel.0.as_ptr()) };
        NonNull::new(types).map(|types| Types(types, PhantomData))
    }

    fn has(&self, name: &CStr, kind: u32) -> bool {
        // SAFETY: valid until dropped, and only read.
        unsafe { libbpf_sys::btf__find_by_name_kind(self.0.as_ptr(), name.as_ptr(), kind) > 0 }
    }
}

impl Drop for Types<'_> {
    fn drop(&mut self) {
        // SAFETY: owned, freed once, and nothing that refers to it is left.
        unsafe { libbpf_sys::btf__free(self.0.as_ptr()) }
    }
}
