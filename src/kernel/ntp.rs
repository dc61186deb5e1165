//! Whether somebody keeps this host's clock right.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

/// Whether the kernel takes its clock for synchronised (NTP, PTP, a hypervisor's clock); none when it does not say.
pub fn is_synchronised() -> Option<bool> {
    // SAFETY: all-zero is a valid `timex`: integers only.
    let mut asked: libc::timex = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: `modes` is 0: nothing is changed; the kernel writes into `asked`, which outlives the call.
    match unsafe { libc::adjtimex(&mut asked) } {
        -1 => None,
        state => Some(state != libc::TIME_ERROR && asked.status & libc::STA_UNSYNC == 0),
    }
}
