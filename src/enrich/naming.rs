//! Starting to name the sockets of this host, and saying what can't be known.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use super::host::Host;
use super::tree::Tree;
use crate::kernel::names::Named;
use crate::kernel::object::Object;

/// What keeps sockets named, and what is missing of it.
#[derive(Debug, Default)]
pub struct Naming {
    _held: Option<Named>,
    /// What is not known, why, and what to do: for `status`.
    pub notes: Vec<String>,
}

/// Names the sockets of this host, as far as that is possible.
///
/// # Errors
/// When a thread can't be started.
pub fn name_sockets(object: &Object) -> std::io::Result<(Option<Arc<Host>>, Naming)> {
    let Some(reader) = object.name_reader() else { return Ok((None, Naming::default())) };
    let mut naming = Naming::default();
    let tree = Tree::find(Path::new("/proc/self/mountinfo"));
    match tree.as_ref().map(|tree| object.name_sockets(tree.folder().as_fd())) {
        None => naming.notes.push(
            "processes are not known, only cgroups: the root of the cgroup2 tree is not mounted here (in a container: \
             mount the host's /sys/fs/cgroup)"
                .into(),
        ),
        Some(Err(error)) => naming.notes.push(format!(
            "processes are not known, only cgroups: cgroup/sock_create can't be attached ({error}); Linux 5.10 or later?"
        )),
        Some(Ok(named)) => {
            if let Err(error) = &named.older {
                naming.notes.push(format!(
                    "sockets that are older than the agent are known by cgroup only: no iterator over them ({error}); \
                     Linux 5.11 or later?"
                ));
            }
            naming._held = Some(named);
        }
    }
    Ok((Some(Arc::new(Host::start(Box::new(reader), tree)?)), naming))
}
