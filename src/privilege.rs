//! Rights: what the agent needs, what to do when it is missing, and giving up the rest once it is set up.
//!
//! Linux keeps capabilities by thread: each thread gives up its own ([`drop_rest`]), and those that it starts inherit that.

use std::path::Path;

use caps::{CapSet, Capability, CapsHashSet};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Capabilities that are missing, and how to grant them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "missing {missing}. Run it as root (`sudo netmon`), or grant just these: \
     `setcap cap_bpf,cap_net_admin,cap_perfmon+ep <path of netmon>`, in a systemd unit \
     `AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON`, in a container \
     `docker run --cap-add BPF --cap-add NET_ADMIN --cap-add PERFMON` or \
     `securityContext: {{ capabilities: {{ add: [BPF, NET_ADMIN, PERFMON] }} }}`"
)]
pub struct MissingPrivilege {
    /// Names, separated by commas.
    pub missing: String,
}

/// What the programs need: to load them (BPF, PERFMON) and to attach them (NET_ADMIN).
const NEEDED: [Capability; 3] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];

/// What stays, and why. PERFMON goes: no program is loaded later.
const KEPT: [(Capability, &str); 2] = [
    (
        Capability::CAP_BPF,
        "to read the programs' maps, and to make another flow table when the number of flows asks for it",
    ),
    (Capability::CAP_NET_ADMIN, "to attach to interfaces that come, and to detach"),
];

/// A capability that the agent holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Name.
    pub capability: String,
    /// What it is for.
    pub why: String,
}

/// What the agent may do, all of its threads taken together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privileges {
    /// User id.
    pub uid: u32,
    /// Capabilities.
    pub held: Vec<Held>,
    /// No program that it might run can have more.
    pub no_new_privileges: bool,
}

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

/// Gives up all that is not needed once the programs are loaded, for the calling thread and those that it will start.
/// That it can't is told, and no reason not to go on.
pub fn drop_rest() {
    if let Err(error) = try_drop_rest() {
        tracing::warn!(%error, "privileges that are not needed can't be given up");
    }
}

fn try_drop_rest() -> Result<(), caps::errors::CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = to_keep(&permitted).into_iter().map(|(capability, _)| capability).collect();
    // Takes CAP_SETPCAP, so it comes first. Without it there is nothing to be had from the bounding set: no_new_privs.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::runtime::thread_all_supported().difference(&kept) {
            if caps::has_cap(None, CapSet::Bounding, *capability)? {
                caps::drop(None, CapSet::Bounding, *capability)?;
            }
        }
    }
    // Before 4.3 there is no ambient set.
    let _ = caps::clear(None, CapSet::Ambient);
    caps::set(None, CapSet::Effective, &kept)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    rustix::thread::set_no_new_privs(true)
        .map_err(|error| caps::errors::CapsError::from(format!("set no_new_privs: {error}")))
}

/// What of this stays. CAP_SYS_ADMIN includes BPF, as it did before 5.8.
fn to_keep(permitted: &CapsHashSet) -> Vec<(Capability, &'static str)> {
    let stays = |(capability, why): (Capability, &'static str)| {
        let instead = (Capability::CAP_SYS_ADMIN, "in place of CAP_BPF, which was not granted");
        if permitted.contains(&capability) {
            Some((capability, why))
        } else {
            (capability == Capability::CAP_BPF && permitted.contains(&instead.0)).then_some(instead)
        }
    };
    KEPT.into_iter().filter_map(stays).collect()
}

/// What this process holds, by its threads in procfs.
pub fn held(proc: &Path) -> Privileges {
    let mut union = 0;
    let mut no_new_privileges = true;
    let tasks = std::fs::read_dir(proc.join("self/task")).into_iter().flatten().flatten();
    for status in tasks.filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok()) {
        union |= field(&status, "CapPrm:").and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0);
        no_new_privileges &= field(&status, "NoNewPrivs:") == Some("1");
    }
    let mut all: Vec<Capability> = caps::all().into_iter().filter(|one| one.bitmask() & union != 0).collect();
    all.sort_by_key(Capability::index);
    let why = |capability: &Capability| {
        let all: CapsHashSet = all.iter().copied().collect();
        let reason = to_keep(&all).into_iter().find(|(kept, _)| kept == capability);
        reason.map_or("not needed: it could not be given up", |(_, why)| why)
    };
    Privileges {
        uid: rustix::process::geteuid().as_raw(),
        held: all.iter().map(|one| Held { capability: one.to_string(), why: why(one).into() }).collect(),
        no_new_privileges,
    }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
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
    #![allow(clippy::unwrap_used)]
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
    fn only_what_is_needed_later_stays() {
        let names = |set: &[Capability]| -> Vec<String> {
            to_keep(&held(set)).iter().map(|(capability, _)| capability.to_string()).collect()
        };
        let all: Vec<Capability> = caps::all().into_iter().collect();
        assert_eq!(names(&all), ["CAP_BPF", "CAP_NET_ADMIN"]);
        assert_eq!(
            names(&[Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN]),
            ["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]
        );
        assert_eq!(names(&[]), [""; 0]);
    }

    #[test]
    fn sys_admin_stands_for_bpf_and_perfmon_but_not_for_net_admin() {
        let admin = judge(&held(&[Capability::CAP_SYS_ADMIN])).map_err(|error| error.missing);
        assert_eq!(admin, Err("CAP_NET_ADMIN".into()));
        assert_eq!(judge(&held(&[Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN])), Ok(()));
    }
}
