//! Which tunnel a flow was seen in: an entry for each such flow, read when it is told, removed when it leaves.

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::decode;
use super::object::Object;
use crate::flow::tunnel::Tunnel;

/// The entries; readable from any thread.
#[derive(Debug)]
pub struct Tunnels(MapHandle);

impl Tunnels {
    /// The tunnel of a flow, by its id: one system call.
    pub fn get(&self, id: u64) -> Option<Tunnel> {
        decode::tunnel(&self.0.lookup(&id.to_ne_bytes(), MapFlags::ANY).ok()??)
    }

    /// Forgets a flow.
    pub fn remove(&self, id: u64) {
        // There is none if the map was full.
        let _ = self.0.delete(&id.to_ne_bytes());
    }
}

impl Object {
    /// Where flows in tunnels are noted; `None` unless tunnels are looked into.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn tunnels(&self) -> std::io::Result<Option<Tunnels>> {
        if self.features().tunnels.is_none() {
            return Ok(None);
        }
        MapHandle::try_from(&self.skel.maps.nm_tunnels)
            .map(|map| Some(Tunnels(map)))
            .map_err(std::io::Error::other)
    }
}
