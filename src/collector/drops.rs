//! Drops by the names of interfaces, also after those are gone.

use std::collections::{BTreeMap, HashMap};

use rustix::net::netdevice::index_to_name;
use rustix::net::{AddressFamily, SocketType, socket};

use crate::kernel::drops::ELSEWHERE;
use crate::kernel::object::Object;
use crate::kernel::stats::{DropCount, DropStats};

/// What the kernel's table no longer holds.
#[derive(Debug, Default)]
pub struct Drops {
    /// Packets by reason, of interfaces that are gone.
    gone: BTreeMap<String, u64>,
}

/// What an index stands for; `None` when the interface is gone.
fn name(
    names: &mut HashMap<u32, Option<String>>,
    socket: &impl std::os::fd::AsFd,
    index: u32,
) -> Option<String> {
    match index {
        0 => Some("none".into()),
        ELSEWHERE => Some("other-namespace".into()),
        _ => names.entry(index).or_insert_with(|| index_to_name(socket, index).ok()).clone(),
    }
}

impl Drops {
    /// All drops so far. Entries of interfaces that are gone make room for others.
    pub fn read(&mut self, object: &Object) -> DropStats {
        let mut sums: BTreeMap<(String, String), u64> = BTreeMap::new();
        // Any socket will do to ask for names.
        if let Ok(socket) = socket(AddressFamily::UNIX, SocketType::DGRAM, None) {
            let mut names = HashMap::new();
            for dropped in object.drops() {
                match name(&mut names, &socket, dropped.interface) {
                    Some(interface) => {
                        *sums.entry((dropped.reason, interface)).or_default() += dropped.packets
                    }
                    None => {
                        let last = object.forget_drops(&dropped);
                        *self.gone.entry(dropped.reason).or_default() += last;
                    }
                }
            }
        }
        for (reason, packets) in &self.gone {
            *sums.entry((reason.clone(), "other".into())).or_default() += packets;
        }
        let unnamed = object.drops_unnamed();
        if unnamed > 0 {
            *sums.entry(("other".into(), "other".into())).or_default() += unnamed;
        }
        let count = |((reason, interface), packets)| DropCount { reason, interface, packets };
        DropStats {
            off: object.drops_off().map(Into::into),
            counts: sums.into_iter().map(count).collect(),
            nested: object.drops_nested(),
            unjoined: object.drops_unjoined(),
        }
    }
}
