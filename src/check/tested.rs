//! Which kernels are tested (tests/kernels). On others the agent tries all the same, and says that nobody has.

/// The oldest one: major and minor number.
pub const OLDEST: (u32, u32) = (5, 10);
/// Machines, as uname names them.
pub const MACHINES: [&str; 2] = ["x86_64", "aarch64"];

/// What is untested about a kernel, by its release (`5.10.0-32-amd64`) and machine.
pub fn untested(release: &str, machine: &str) -> Option<String> {
    if !MACHINES.contains(&machine) {
        return Some(format!("netmon is not tested on {machine}: {} are", MACHINES.join(" and ")));
    }
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
    let version = (numbers.next().flatten()?, numbers.next().flatten()?);
    (version < OLDEST).then(|| {
        format!("netmon is not tested on Linux {release}: {}.{} is the oldest that is", OLDEST.0, OLDEST.1)
    })
}

/// The same of the running kernel.
pub fn untested_here() -> Option<String> {
    let uname = rustix::system::uname();
    untested(&uname.release().to_string_lossy(), &uname.machine().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_kernels_and_other_machines_are_said_to_be_untested() {
        for release in ["5.9.16", "5.4.0-200-generic", "4.19.0-27-amd64", "3.10"] {
            let told = untested(release, "x86_64").unwrap_or_default();
            assert!(told.contains(release) && told.contains("5.10 is the oldest"), "{release}: {told}");
        }
        for release in ["5.10.0-32-cloud-arm64", "5.10", "6.1.0", "10.0-rc1", "7.3.1+deb13"] {
            assert_eq!(untested(release, "aarch64"), None, "{release}");
        }
        assert!(untested("6.18.0", "riscv64").is_some_and(|told| told.contains("riscv64")));
        assert_eq!(untested("unheard of", "x86_64"), None);
    }

    #[test]
    fn the_oldest_tested_kernel_is_the_first_that_the_guests_have() {
        let guests = include_str!("../../tests/kernels");
        let (major, minor) = OLDEST;
        assert!(guests.contains(&format!("suites=([{major}.{minor}]=")), "tests/kernels has others");
    }
}
