//! Rights: what the agent needs, and what to do when it is missing.

use caps::{CapSet, Capability, CapsHashSet};
use thiserror::Error;

/// Capabilities that are missing, and how to grant them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "missing {missing}. Run it as root (`sudo netmon`), or grant just these: \
     `setcap cap_bpf,cap_net_admin,cap_perfmon+ep <path of netmon>`, or in a systemd unit \
     `AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON`"
)]
pub struct MissingPrivilege {
    /// Names, separated by commas.
    pub missing: String,
}

/// What the programs need: to load them (BPF, PERFMON) and to attach them (NET_ADMIN).
const NEEDED: [Capability; 3] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];

/// Whether this process may load and attach programs. To be asked before there are other threads: capabilities are taken up for
/// this one and those that it starts.
///
/// # Errors
/// Names what is missing.
pub fn check() -> Result<(), MissingPrivilege> {
    take_up();
    // If the set can't be read the kernel will say so at load.
    caps::read(None, CapSet::Effective).map_or(Ok(()), |held| judge(&held))
}

/// Makes effective what is permitted. The container image's binary has its capabilities as permitted alone: with an effective
/// bit in the file, the kernel would refuse to start it (EPERM) where one of them may not be had.
fn take_up() {
    if let Ok(permitted) = caps::read(None, CapSet::Permitted) {
        // If it can't be done, the check that follows says what is missing.
        let _ = caps::set(None, CapSet::Effective, &permitted);
    }
}

fn judge(held: &CapsHashSet) -> Result<(), MissingPrivilege> {
    // CAP_SYS_ADMIN includes BPF and PERFMON, as it did before 5.8.
    let admin = held.contains(&Capability::CAP_SYS_ADMIN);
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|needed| !(held.contains(needed) || admin && **needed != Capability::CAP_NET_ADMIN))
        .map(ToString::to_string)
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(MissingPrivilege { missing: missing.join(", ") }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_permitted_is_taken_up() {
        // On a thread of its own: it may lose what this one has.
        let effective = std::thread::spawn(|| {
            let permitted = caps::read(None, CapSet::Permitted).unwrap();
            caps::clear(None, CapSet::Effective).unwrap();
            take_up();
            (permitted, caps::read(None, CapSet::Effective).unwrap())
        });
        let (permitted, effective) = effective.join().unwrap();
        assert_eq!(effective, permitted);
    }

    fn held(list: &[Capability]) -> CapsHashSet {
        list.iter().copied().collect()
    }

    #[test]
    fn exactly_what_is_missing_is_named() {
        assert_eq!(judge(&held(&NEEDED)), Ok(()));
        let some = judge(&held(&[Capability::CAP_BPF])).map_err(|error| error.missing);
        assert_eq!(some, Err("CAP_NET_ADMIN, CAP_PERFMON".into()));
        let none = judge(&held(&[])).map_err(|error| error.missing);
        assert_eq!(none, Err("CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON".into()));
    }

    #[test]
    fn sys_admin_stands_for_bpf_and_perfmon_but_not_for_net_admin() {
        let admin = judge(&held(&[Capability::CAP_SYS_ADMIN])).map_err(|error| error.missing);
        assert_eq!(admin, Err("CAP_NET_ADMIN".into()));
        assert_eq!(judge(&held(&[Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN])), Ok(()));
    }
}
