//! Where the types of the running kernel are found: in its own BTF, or in a file where it was built without.
//!
//! A file is enough for CO-RE, by which programs are fitted to the kernel. What the kernel itself looks up by type (its functions,
//! typed tracepoints, iterators) it looks up in its own BTF, so that is left out.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Struct;
use thiserror::Error;

/// Of the registers that a system call saves, the one that is named for the machine.
const OWN_REGISTER: Option<&str> = if cfg!(target_arch = "x86_64") {
    Some("orig_ax")
} else if cfg!(target_arch = "aarch64") {
    Some("orig_x0")
} else {
    None
};

/// Why something is left out with types from a file.
pub(super) const TAKES_OWN: &str = "it takes the kernel's own BTF (CONFIG_DEBUG_INFO_BTF)";

/// Where types are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Types {
    /// The kernel's own BTF.
    Kernel,
    /// This file, as the kernel has none.
    File(PathBuf),
}

/// There are none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoTypes {
    /// The kernel has none, and no file is named.
    #[error(
        "this kernel has no BTF (/sys/kernel/btf/vmlinux is missing), by which the programs are fitted to it: name a file with the types \
         of this very kernel (--btf FILE, NETMON_BTF), or use a kernel with CONFIG_DEBUG_INFO_BTF=y"
    )]
    Nowhere,
    /// The file that is named is of no use.
    #[error(
        "--btf {}: {why}; accepted: the BTF of this very kernel, by itself or in an ELF file (vmlinux with debug information)",
        file.display()
    )]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Types {
    /// The kernel's own if it has any: those are right in any case, and give more. Else those of the file.
    ///
    /// # Errors
    /// See [`NoTypes`].
    pub fn find(file: Option<&Path>) -> Result<Self, NoTypes> {
        if kernel_has_any() {
            return Ok(Self::Kernel);
        }
        let file = file.ok_or(NoTypes::Nowhere)?;
        match check(file) {
            Ok(()) => Ok(Self::File(file.to_owned())),
            Err(why) => Err(NoTypes::File { file: file.to_owned(), why }),
        }
    }

    /// The file that they are read from, if they are.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Kernel => None,
            Self::File(file) => Some(file),
        }
    }

    /// What that means, if they are from a file.
    pub fn note(&self) -> Option<String> {
        let file = self.file()?.display();
        Some(format!(
            "kernel without BTF: types from {file}; missing: drops, the processes of sockets that are older than the agent, conntrack's \
             word on packets that come in"
        ))
    }

    /// Whether they hold a structure.
    pub(super) fn have(&self, name: &str) -> bool {
        let types = match self {
            Self::Kernel => Btf::from_vmlinux(),
            Self::File(file) => Btf::from_path(file),
        };
        types.is_ok_and(|types| structure(&types, name).is_some())
    }
}

/// By its kind: a declaration of the same name may come first.
fn structure<'a>(types: &'a Btf<'_>, name: &str) -> Option<Struct<'a>> {
    types.type_by_kind::<Struct<'_>>().find(|known| known.name().is_some_and(|known| known == name))
}

/// Whether libbpf finds BTF of the running kernel's by itself. That does not change while it runs.
pub(super) fn kernel_has_any() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| Btf::from_vmlinux().is_ok())
}

/// As far as it can be told. Nothing in BTF says which kernel it is of.
fn check(file: &Path) -> Result<(), String> {
    let found = std::fs::metadata(file).map_err(|error| error.to_string())?;
    if !found.is_file() {
        return Err("not a regular file".into());
    }
    let types = Btf::from_path(file).map_err(|error| format!("no BTF is in it ({error})"))?;
    if structure(&types, "sk_buff").is_none() {
        return Err("its types are not those of a kernel: it knows no struct sk_buff".into());
    }
    let registers = structure(&types, "pt_regs");
    // A file that was cut down to what programs need may tell neither.
    let other_width = types.ptr_size().is_ok_and(|bytes| bytes.get() != size_of::<usize>());
    let other_registers = registers.zip(OWN_REGISTER).is_some_and(|(registers, own)| {
        !registers.iter().any(|member| member.name.is_some_and(|name| name == own))
    });
    if other_width || other_registers {
        return Err(format!("its types are those of another machine than {}", std::env::consts::ARCH));
    }
    Ok(())
}
