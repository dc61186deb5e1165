//! Names of sockets: attaching the program that takes them down, naming the sockets that are older, and reading what was
//! taken down. See `bpf/sock.bpf.c`.

use std::io::Read;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use libbpf_rs::{Iter, IterOpts, Link, MapCore, MapFlags, MapHandle};

use super::decode::bytes;
use super::load::Part;
use super::object::Object;
use super::skeleton::types::{nm_name, nm_path};

/// A process, as it was when it made a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Process id, in the host's first PID namespace.
    pub pid: u32,
    /// Its cgroup's number.
    pub cgroup: u64,
    /// Its main thread's name.
    pub comm: String,
}

/// Reads the names that the programs have taken down. Any thread may; two system calls at most, none of which waits.
#[derive(Debug)]
pub struct NameReader {
    names: MapHandle,
    cgroups: MapHandle,
}

/// Keeps the sockets named; dropping it stops that.
#[derive(Debug)]
pub struct Named {
    _link: Link,
}

impl Object {
    /// What reads the names; `None` when the object was loaded without naming.
    pub fn name_reader(&self) -> Option<NameReader> {
        if !self.features().who {
            return None;
        }
        let maps = &self.skel.maps;
        Some(NameReader {
            names: MapHandle::try_from(&maps.nm_names).ok()?,
            cgroups: MapHandle::try_from(&maps.nm_cgroups).ok()?,
        })
    }

    /// Names sockets from now on, of all processes in the tree below `root` (the root of the cgroup2 tree, opened), and, if
    /// it can be, those that are there already.
    ///
    /// # Errors
    /// When new sockets can't be named.
    pub fn name_sockets(&mut self, root: BorrowedFd<'_>) -> std::io::Result<Named> {
        let link =
            self.skel.progs.nm_sock_create.attach_cgroup(root.as_raw_fd()).map_err(std::io::Error::other)?;
        if self.without(Part::OlderSockets).is_none()
            && let Err(error) = self.name_older_sockets()
        {
            self.leave_out(Part::OlderSockets, format!("no iterator over them ({error})"));
        }
        Ok(Named { _link: link })
    }

    fn name_older_sockets(&self) -> std::io::Result<()> {
        let link = self
            .skel
            .progs
            .nm_sock_older
            .attach_iter_with_opts(IterOpts::None)
            .map_err(std::io::Error::other)?;
        // It prints nothing: reading to the end runs it over all files.
        Iter::new(&link).map_err(std::io::Error::other)?.read_to_end(&mut Vec::new()).map(drop)
    }
}

/// Up to the terminating zero.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// A name from its bytes; `None` if they are too short.
pub fn name(from: &[u8]) -> Option<Name> {
    Some(Name {
        pid: u32::from_ne_bytes(bytes(from, offset_of!(nm_name, tgid))?),
        cgroup: u64::from_ne_bytes(bytes(from, offset_of!(nm_name, cgroup))?),
        comm: text(&bytes::<16>(from, offset_of!(nm_name, comm))?),
    })
}

/// A cgroup's path from its bytes, from the root; `None` while it is being written, and where a name in it is cut: of what is gone that is
/// unknown, the rest is found in the tree. What is above its levels is left out.
pub fn path(from: &[u8]) -> Option<String> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes(from, at)?) as usize);
    let (levels, one) = (word(offset_of!(nm_path, levels))?, word(offset_of!(nm_path, level_bytes))?);
    let names: Vec<String> =
        from.get(offset_of!(nm_path, names)..)?.chunks(one.max(1)).take(levels).map(text).collect();
    let whole = levels > 0 && names.iter().all(|name| name.len() + 1 < one);
    whole.then(|| names.iter().rev().fold(String::new(), |path, name| path + "/" + name))
}

impl NameReader {
    /// The name of this number; `None` if it is not known any more.
    pub fn name(&self, number: u32) -> Option<Name> {
        name(&self.names.lookup(&number.to_ne_bytes(), MapFlags::ANY).ok()??)
    }

    /// Where a cgroup is, or was when a process in it made its first socket.
    pub fn path(&self, cgroup: u64) -> Option<String> {
        path(&self.cgroups.lookup(&cgroup.to_ne_bytes(), MapFlags::ANY).ok()??)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_begins_at_the_root_and_a_name_that_is_cut_makes_none() {
        let bytes = |names: [&str; 2]| {
            let mut bytes = [2_u32.to_ne_bytes(), 16_u32.to_ne_bytes()].concat();
            for (number, name) in names.into_iter().enumerate() {
                bytes.extend(name.as_bytes());
                bytes.resize(8 + (number + 1) * 16, 0);
            }
            bytes
        };
        assert_eq!(
            path(&bytes(["nginx.service", "system.slice"])).as_deref(),
            Some("/system.slice/nginx.service")
        );
        assert_eq!(path(&bytes(["fifteen-and-cut", "system.slice"])), None);
    }
}
