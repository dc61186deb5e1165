//! The host: kernel, BTF, rights, mounts, clock.

use std::path::Path;

use super::{Finding, tested};
use crate::enrich::tree::Tree;
use crate::kernel::btf::{NoTypes, Types};
use crate::kernel::{ntp, trial};
use crate::privilege;

/// What was found out. What could not be is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Kernel release and machine.
    pub kernel: String,
    /// What of that is untested.
    pub untested: Option<String>,
    /// Where the kernel's types are described (BTF).
    pub types: Result<Types, NoTypes>,
    /// Capabilities that this process lacks.
    pub missing: Option<String>,
    /// Whether an agent answers, which has what this process may lack.
    pub agent_answers: bool,
    /// `net.core.bpf_jit_enable`.
    pub jit: Option<u32>,
    /// `[none] integrity confidentiality`, with the mode in brackets.
    pub lockdown: String,
    /// Whether the root of the cgroup2 tree can be had.
    pub cgroup2: bool,
    /// RLIMIT_MEMLOCK, bytes; none = unlimited.
    pub memlock_bytes: Option<u64>,
    /// Whether maps count against it.
    pub memlock_counts: Option<bool>,
    /// Whether somebody keeps the clock right.
    pub synchronised: Option<bool>,
    /// Seconds since 1970 by this host's clock.
    pub unix_seconds: i64,
}

/// The beginning of 2024: no clock that is right shows less.
const EARLIEST: i64 = 1_704_067_200;

impl Host {
    /// Looks at this host; `root` is `/`, `btf` a file with its kernel's types, if any is named.
    pub fn look(root: &Path, btf: Option<&Path>) -> Self {
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
        let uname = rustix::system::uname();
        Self {
            kernel: format!("{} {}", uname.release().to_string_lossy(), uname.machine().to_string_lossy()),
            untested: tested::untested_here(),
            types: Types::find(btf),
            missing: privilege::check().err().map(|missing| missing.missing),
            agent_answers: false,
            jit: read("proc/sys/net/core/bpf_jit_enable").trim().parse().ok(),
            lockdown: read("sys/kernel/security/lockdown"),
            cgroup2: Tree::find(&root.join("proc/self/mountinfo")).is_some(),
            memlock_bytes: rustix::process::getrlimit(rustix::process::Resource::Memlock).current,
            memlock_counts: trial::counts_locked_memory(),
            synchronised: ntp::is_synchronised(),
            unix_seconds: jiff::Timestamp::now().as_second(),
        }
    }

    /// Beside an agent, if one answers.
    pub fn beside_agent(self, agent_answers: bool) -> Self {
        Self { agent_answers, ..self }
    }

    /// What decides whether the programs can be loaded.
    pub fn judge_kernel(&self) -> Vec<Finding> {
        let mut findings = vec![match &self.untested {
            None => Finding::pass("kernel", &self.kernel),
            Some(untested) => Finding::warn(
                "kernel",
                format!("{}: {untested}", self.kernel),
                "it may work even so: what follows says what this kernel takes",
            ),
        }];
        let fix = "use a kernel with CONFIG_DEBUG_INFO_BTF=y (those of all larger distributions since 2021 have it); in a container, /sys \
                   of the host must be there";
        findings.push(match &self.types {
            Ok(Types::Kernel) => Finding::pass("BTF", "the kernel describes its types"),
            Ok(types @ Types::File(_)) => Finding::warn("BTF", types.note().unwrap_or_default(), fix),
            Err(error) => Finding::fail("BTF", error.to_string(), fix),
        });
        findings.push(match &self.missing {
            None => Finding::pass("capabilities", "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"),
            Some(missing) if self.agent_answers => Finding::warn(
                "capabilities",
                format!("this command lacks {missing} and can't see all; the agent that answers needs nothing of it"),
                "run it as root (`sudo`) to see more",
            ),
            Some(missing) => Finding::fail(
                "capabilities",
                format!("this command lacks {missing}, so most of what follows can't be known"),
                "run it as root (`sudo`); the agent itself needs just these three",
            ),
        });
        findings.push(self.memlock());
        match self.jit {
            Some(0) => findings.push(Finding::warn(
                "BPF compiler",
                "programs are interpreted: each packet costs several times as much",
                "sysctl -w net.core.bpf_jit_enable=1",
            )),
            Some(_) => findings.push(Finding::pass("BPF compiler", "programs are compiled")),
            // Told to the host's own network namespace only, and to kernels that can do without.
            None => {}
        }
        if self.lockdown.contains("[confidentiality]") {
            findings.push(Finding::warn(
                "lockdown",
                "the kernel is locked down to confidentiality: programs may not read its memory",
                "boot with lockdown=integrity, or live without process names and NAT",
            ));
        }
        findings
    }

    fn memlock(&self) -> Finding {
        match (self.memlock_counts, self.memlock_bytes) {
            (Some(true), Some(limit)) => Finding::warn(
                "memlock",
                format!("this kernel counts maps as locked memory, of which {limit} bytes are allowed"),
                "LimitMEMLOCK=infinity in the systemd unit, `ulimit -l unlimited` in a shell",
            ),
            (Some(true), None) => Finding::pass("memlock", "unlimited"),
            (Some(false), _) => {
                Finding::pass("memlock", "this kernel counts maps by cgroup, not as locked memory")
            }
            (None, _) => Finding::pass(
                "memlock",
                "not known without CAP_BPF; before Linux 5.11 it has to be unlimited",
            ),
        }
    }

    /// Where the root of the cgroup2 tree is.
    pub fn judge_mounts(&self) -> Finding {
        if self.cgroup2 {
            Finding::pass("cgroup2", "the root of the tree is in reach: processes and units have names")
        } else {
            Finding::warn(
                "cgroup2",
                "the root of the cgroup2 tree is not mounted here: processes have no names",
                "mount -t cgroup2 none /sys/fs/cgroup/unified; in a container mount the host's /sys/fs/cgroup",
            )
        }
    }

    /// Whether times can be believed.
    pub fn judge_clock(&self) -> Finding {
        let fix = "run chronyd or systemd-timesyncd (`timedatectl set-ntp true`); `timedatectl` shows how it stands";
        if self.unix_seconds < EARLIEST {
            return Finding::fail(
                "clock",
                "this host's clock is years behind: times of flows are wrong",
                fix,
            );
        }
        match self.synchronised {
            Some(false) => Finding::warn(
                "clock",
                "nobody keeps this host's clock right: times of flows may not fit those of other hosts",
                fix,
            ),
            Some(true) => Finding::pass("clock", "synchronised"),
            None => Finding::pass("clock", "the kernel does not say whether it is synchronised"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Pass, Warn};
    use super::*;

    fn good() -> Host {
        Host {
            kernel: "6.18.0 x86_64".into(),
            untested: None,
            types: Ok(Types::Kernel),
            missing: None,
            agent_answers: false,
            jit: Some(1),
            lockdown: "[none] integrity confidentiality".into(),
            cgroup2: true,
            memlock_bytes: Some(8 << 20),
            memlock_counts: Some(false),
            synchronised: Some(true),
            unix_seconds: EARLIEST,
        }
    }

    fn verdict(host: &Host, check: &str) -> Option<super::super::Verdict> {
        let mut findings = host.judge_kernel();
        findings.extend([host.judge_mounts(), host.judge_clock()]);
        findings.iter().find(|finding| finding.check == check).map(|finding| finding.verdict)
    }

    #[test]
    fn a_good_host_passes() {
        let findings = good().judge_kernel();
        assert!(findings.iter().all(|finding| finding.verdict == Pass), "{findings:?}");
        assert_eq!((verdict(&good(), "cgroup2"), verdict(&good(), "clock")), (Some(Pass), Some(Pass)));
    }

    #[test]
    fn each_fault_is_found_with_its_fix() {
        let cases = [
            ("kernel", Warn, Host { untested: Some("too old".into()), ..good() }),
            ("BTF", Fail, Host { types: Err(NoTypes::Nowhere), ..good() }),
            ("BTF", Warn, Host { types: Ok(Types::File("types".into())), ..good() }),
            ("capabilities", Fail, Host { missing: Some("CAP_BPF".into()), ..good() }),
            ("capabilities", Warn, Host { missing: Some("CAP_BPF".into()), ..good() }.beside_agent(true)),
            ("memlock", Warn, Host { memlock_counts: Some(true), ..good() }),
            ("BPF compiler", Warn, Host { jit: Some(0), ..good() }),
            ("lockdown", Warn, Host { lockdown: "none integrity [confidentiality]".into(), ..good() }),
            ("cgroup2", Warn, Host { cgroup2: false, ..good() }),
            ("clock", Warn, Host { synchronised: Some(false), ..good() }),
            ("clock", Fail, Host { unix_seconds: 0, ..good() }),
        ];
        for (check, expected, host) in cases {
            assert_eq!(verdict(&host, check), Some(expected), "{check}");
        }
        let unlimited = Host { memlock_counts: Some(true), memlock_bytes: None, ..good() };
        assert_eq!(verdict(&unlimited, "memlock"), Some(Pass));
    }
}
