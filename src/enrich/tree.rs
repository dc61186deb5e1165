//! The cgroup2 tree: where it is mounted, and the paths of its cgroups by number.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Number of the root cgroup, in every hierarchy.
const ROOT: u64 = 1;
/// Cgroups that are read at most.
const CGROUPS: usize = 65_536;

/// The root of the host's cgroup2 tree.
#[derive(Debug)]
pub struct Tree {
    folder: OwnedFd,
}

impl Tree {
    /// Finds it among this process's mounts (`mountinfo`), or mounts it for this process alone. `None` if neither is allowed, or
    /// only a part of the tree is to be had (in a container with a cgroup namespace of its own).
    pub fn find(mountinfo: &Path) -> Option<Self> {
        let mounts = fs::read_to_string(mountinfo).unwrap_or_default();
        let mounted = cgroup2_mounts(&mounts).filter_map(|mount| File::open(mount).ok()).map(OwnedFd::from);
        let folder = mounted
            .chain(std::iter::once_with(mount).flatten())
            .find(|folder| rustix::fs::fstat(folder).is_ok_and(|status| status.st_ino == ROOT))?;
        Some(Self { folder })
    }

    /// Its root, opened.
    pub fn folder(&self) -> &OwnedFd {
        &self.folder
    }

    /// Paths of all cgroups by number, from the root.
    pub fn walk(&self) -> HashMap<u64, String> {
        let root = format!("/proc/self/fd/{}", self.folder.as_raw_fd());
        let mut found = HashMap::new();
        let mut folders = vec![String::new()];
        while let Some(path) = folders.pop() {
            let Ok(entries) = fs::read_dir(format!("{root}{path}")) else { continue };
            for entry in entries.flatten() {
                if found.len() >= CGROUPS || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let Ok(metadata) = entry.metadata() else { continue };
                let path = format!("{path}/{}", entry.file_name().to_string_lossy());
                found.insert(metadata.ino(), path.clone());
                folders.push(path);
            }
        }
        found
    }
}

/// A mount that is nowhere in the file system and goes with its descriptor (5.2, CAP_SYS_ADMIN).
fn mount() -> Option<OwnedFd> {
    let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
    fsconfig_create(&context).ok()?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).ok()
}

/// Mount points of cgroup2, from /proc/PID/mountinfo (`man 5 proc`).
fn cgroup2_mounts(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        back.starts_with("cgroup2 ").then(|| front.split(' ').nth(4))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_on_unified_and_hybrid_hosts() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(cgroup2_mounts(unified).collect::<Vec<_>>(), ["/sys/fs/cgroup"]);
        let hybrid = "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n\
             33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        assert_eq!(cgroup2_mounts(hybrid).collect::<Vec<_>>(), ["/sys/fs/cgroup/unified"]);
        assert_eq!(cgroup2_mounts("nonsense\n - cgroup2 \n1 2 3 - cgroup2 x y").count(), 0);
    }
}
