//! What the agent's process uses, and what its control group allows. Read from procfs, whose root is passed in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What the kernel holds for us beyond the maps (page tables, buffers, the program's own pages), of a control group's limit: so much of
/// it, and so many bytes at least.
const RESERVE: f64 = 0.2;
const LEAST_RESERVE: u64 = 32 << 20;
/// No control group's limit is larger: version 1 says so for "none".
const NONE: u64 = 1 << 60;

/// CPU time of this process.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Memory of this process's own, bytes: mapped flow tables are the kernel's, and not in it. 0 when it can't be read.
pub fn memory_bytes(proc: &Path) -> u64 {
    let statm = std::fs::read_to_string(proc.join("self/statm")).unwrap_or_default();
    own_pages(&statm).unwrap_or(0) * rustix::param::page_size() as u64
}

/// What is resident and not shared.
fn own_pages(statm: &str) -> Option<u64> {
    let mut fields = statm.split_whitespace().skip(1).map(str::parse::<u64>);
    let (resident, shared) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some(resident.saturating_sub(shared))
}

/// Where this process's control group says what it may use: files, its own and those above it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group(Vec<PathBuf>);

impl Group {
    /// Of this process. Without a memory controller there are none.
    pub fn find(proc: &Path) -> Self {
        let read = |name: &str| std::fs::read_to_string(proc.join(name)).unwrap_or_default();
        let (groups, mounts) = (read("self/cgroup"), read("self/mountinfo"));
        let files = ["memory.max", "memory.limit_in_bytes"];
        let found = files.iter().filter_map(|file| {
            let (folder, mount) = folder(&groups, &mounts, *file == "memory.max")?;
            let above = folder.ancestors().take_while(|path| path.starts_with(&mount));
            Some(above.map(|path| path.join(file)).collect::<Vec<_>>())
        });
        Self(found.flatten().filter(|file| file.exists()).collect())
    }

    /// Bytes that may be used, with a reserve for what is not known; `None` without a limit.
    pub fn memory_bytes(&self) -> Option<u64> {
        let limits = self.0.iter().filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok());
        let least = limits.filter(|bytes: &u64| *bytes < NONE).min()?;
        Some(least.saturating_sub(((least as f64 * RESERVE) as u64).max(LEAST_RESERVE)))
    }
}

/// The folder of this process's group, and where its tree is mounted: of version 2, or of version 1's memory controller.
fn folder(groups: &str, mounts: &str, unified: bool) -> Option<(PathBuf, PathBuf)> {
    let path = groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let ours =
            if unified { controllers.is_empty() } else { controllers.split(',').any(|c| c == "memory") };
        ours.then_some(path)
    })?;
    let (root, mount) = mounts.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let (kind, options) = back.split_once(' ')?;
        let memory = || options.split([' ', ',']).any(|option| option == "memory");
        let ours = if unified { kind == "cgroup2" } else { kind == "cgroup" && memory() };
        let mut fields = front.split(' ').skip(3);
        let (root, mount) = (fields.next()?, fields.next()?);
        ours.then_some((root, mount))
    })?;
    // What is mounted may be a part of the tree; what lies outside of it (`/../..`) can't be read.
    let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    let plain = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let mount = PathBuf::from(mount);
    Some((if plain { mount.join(below) } else { mount.clone() }, mount))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const UNIFIED: &str = "0::/system.slice/netmon.service\n";
    const MOUNT: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_group_is_found_in_either_version() {
        let pair = |folder: &str, mount: &str| Some((PathBuf::from(folder), PathBuf::from(mount)));
        assert_eq!(
            folder(UNIFIED, MOUNT, true),
            pair("/sys/fs/cgroup/system.slice/netmon.service", "/sys/fs/cgroup")
        );
        assert_eq!(folder(UNIFIED, MOUNT, false), None);
        let first = "4:cpu,memory:/docker/x\n0::/\n";
        let mounts = "35 31 0:32 /docker/x /cg/memory rw - cgroup cgroup rw,cpu,memory\n36 31 0:33 / /cg/pids rw - cgroup cgroup rw,pids\n";
        assert_eq!(folder(first, mounts, false), pair("/cg/memory/", "/cg/memory"));
        // A namespace that begins below where we are.
        assert_eq!(folder("0::/../..\n", MOUNT, true), pair("/sys/fs/cgroup", "/sys/fs/cgroup"));
        assert_eq!(folder("nonsense", "nonsense", true), None);
    }

    #[test]
    fn the_least_limit_on_the_way_up_counts_and_has_a_reserve() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let file = root.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        put("proc/self/cgroup", "0::/a/b\n");
        put("proc/self/mountinfo", &format!("1 1 0:1 / {}/cg rw - cgroup2 none rw\n", root.path().display()));
        put("cg/a/b/memory.max", "max\n");
        put("cg/a/memory.max", "1000000000\n");
        put("memory.max", "5\n");
        let group = Group::find(&root.path().join("proc"));
        assert_eq!(group.memory_bytes(), Some(800_000_000));
        put("cg/a/b/memory.max", "500000000\n");
        assert_eq!(group.memory_bytes(), Some(400_000_000), "it may change");
        put("cg/a/b/memory.max", "max\n");
        put("cg/a/memory.max", "9223372036854771712\n");
        assert_eq!(group.memory_bytes(), None);
        assert_eq!(Group::find(Path::new("/nowhere")).memory_bytes(), None);
    }

    #[test]
    fn this_process_uses_something() {
        assert!(memory_bytes(Path::new("/proc")) > 100_000 && cpu_time() > Duration::ZERO);
        assert_eq!(memory_bytes(Path::new("/nowhere")), 0);
        assert_eq!(
            (own_pages("100 50 20 1 0 9 0"), own_pages("100"), own_pages("a b c")),
            (Some(30), None, None)
        );
    }
}
