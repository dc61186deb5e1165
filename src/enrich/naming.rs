//! Starting to name the sockets of this host.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use super::host::Host;
use super::tree::Tree;
use crate::kernel::load::Part;
use crate::kernel::names::Named;
use crate::kernel::object::Object;

/// Names the sockets of this host, as far as that is possible, for as long as what is returned second is kept.
///
/// # Errors
/// When a thread can't be started.
pub fn name_sockets(object: &mut Object) -> std::io::Result<(Option<Arc<Host>>, Option<Named>)> {
    let Some(reader) = object.name_reader() else { return Ok((None, None)) };
    let tree = Tree::find(Path::new("/proc/self/mountinfo"));
    let named = match &tree {
        _ if object.without(Part::Names).is_some() => None,
        None => {
            let why = "the root of the cgroup2 tree is not mounted here (in a container: mount the host's /sys/fs/cgroup)";
            object.leave_out(Part::Names, why.into());
            None
        }
        Some(tree) => match object.name_sockets(tree.folder().as_fd()) {
            Ok(named) => Some(named),
            Err(error) => {
                object.leave_out(Part::Names, format!("cgroup/sock_create can't be attached ({error})"));
                None
            }
        },
    };
    Ok((Some(Arc::new(Host::start(Box::new(reader), tree)?)), named))
}
