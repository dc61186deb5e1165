//! Loading the programs without attaching them to an interface: what this kernel takes, and what it says meanwhile.

use std::sync::{Mutex, PoisonError};

use libbpf_rs::{PrintLevel, ProgramType, set_print};

use super::load::{LeftOut, LoadError};
use super::object::{Object, Options, Transport};

/// Of libbpf's words and the verifier's, the last so many bytes are kept.
const WORDS_BYTES: usize = 4 << 20;

/// libbpf has one listener for the whole process, a plain function.
static WORDS: Mutex<String> = Mutex::new(String::new());

/// What the kernel took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// How events travel.
    pub transport: Transport,
    /// What was asked for and is not there.
    pub left_out: Vec<LeftOut>,
    /// Instructions that the verifier went through on ingress and egress (5.16).
    pub instructions: Option<[u64; 2]>,
}

/// A try.
#[derive(Debug)]
pub struct Trial {
    /// What was taken, or why nothing was.
    pub outcome: Result<Taken, LoadError>,
    /// libbpf's words, and the verifier's where it refused something.
    pub words: String,
}

/// Loads, looks, and lets go. One at a time a process.
pub fn load(options: &Options) -> Trial {
    WORDS.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let before = set_print(Some((PrintLevel::Debug, listen)));
    let outcome = Object::load(options).map(|object| Taken {
        transport: object.transport(),
        left_out: object.left_out(),
        instructions: object.verified_instructions(),
    });
    set_print(before);
    let words = std::mem::take(&mut *WORDS.lock().unwrap_or_else(PoisonError::into_inner));
    Trial { outcome, words }
}

fn listen(_level: PrintLevel, text: String) {
    let mut words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
    words.push_str(&text);
    if words.len() > WORDS_BYTES {
        let mut cut = words.len() - WORDS_BYTES / 2;
        while !words.is_char_boundary(cut) {
            cut += 1;
        }
        words.replace_range(..cut, "[...]\n");
    }
}

/// Whether kernel memory of maps counts against RLIMIT_MEMLOCK, as it did before 5.11; none when it may not be asked (CAP_BPF).
pub fn counts_locked_memory() -> Option<bool> {
    // This helper came with the change.
    let helper = libbpf_sys::BPF_FUNC_ktime_get_coarse_ns;
    ProgramType::SchedCls.is_helper_supported(helper).ok().map(|supported| !supported)
}
