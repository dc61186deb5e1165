//! Whether somebody keeps this host's clock right.
#![allow(unsafe_code)]

/// Whether the kernel takes its clock for synchronised (NTP, PTP, a hypervisor's clock); none when it does not say.
pub fn is_synchronised() -> Option<bool> {
    // SAFETY: all-zero is a valid `timex`, integers only, and its `modes` of 0 change nothing; the kernel writes into it during the call.
    let (state, status) = unsafe {
        let mut asked: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&mut asked), asked.status)
    };
    (state != -1).then_some(state != libc::TIME_ERROR && status & libc::STA_UNSYNC == 0)
}
