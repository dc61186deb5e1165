//! Where a conversation runs, seen from this host. Pure.
//!
//! An end is local if its address is one of this host's, or if its packets came in from an interface whose other
//! side is on this host (a veth or tap to a container or guest), or if packets to it left by one.

use super::key::FlowKey;
use super::record::Direction;
use crate::interfaces::HostAddresses;

/// A place where packets are seen: an interface and one of its hooks, packed as `ifindex << 1 | hook`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place(pub u32);

impl Place {
    /// Interface index; 0 = nowhere.
    pub fn interface(self) -> u32 {
        self.0 >> 1
    }

    /// Whether it is the egress hook.
    pub fn egress(self) -> bool {
        self.0 & 1 == 1
    }
}

/// Where a flow was seen: by the opener's packets, by the answers, and further places of either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Who counts the opener's packets.
    pub sent: Place,
    /// Who counts the answers.
    pub received: Place,
    /// Others, of either direction; `Place(0)` where there is none.
    pub others: [Place; 2],
}

impl Places {
    /// Interface indices in order, without repetition, 0 for none.
    pub fn interfaces(&self) -> [u32; 4] {
        let mut seen = [0; 4];
        let mut count = 0;
        for place in [self.sent, self.received, self.others[0], self.others[1]] {
            let index = place.interface();
            if index != 0 && !seen.contains(&index) {
                seen[count] = index;
                count += 1;
            }
        }
        seen
    }
}

/// Decides the direction. `local_peer` tells whether an interface index leads to something on this host.
pub fn direction(
    key: &FlowKey,
    places: &Places,
    addresses: &HostAddresses,
    local_peer: impl Fn(u32) -> bool,
) -> Direction {
    let enters_from = |place: Place| !place.egress() && local_peer(place.interface());
    let leaves_to = |place: Place| place.egress() && local_peer(place.interface());

    let src_home = enters_from(places.sent).then(|| places.sent.interface());
    let dst_home = enters_from(places.received).then(|| places.received.interface());
    let src_local = addresses.contains(&key.src.ip()) || src_home.is_some() || leaves_to(places.received);
    let dst_local = addresses.contains(&key.dst.ip())
        // What is sent to a group by someone else has come to this host.
        || (addresses.is_group(&key.dst.ip()) && !src_local)
        || dst_home.is_some()
        || leaves_to(places.sent)
        // Further places hold both ways' packets: one that leaves by another peer than the opener's own is on
        // its way to the other side.
        || places.others.iter().any(|place| leaves_to(*place) && Some(place.interface()) != src_home);
    match (src_local, dst_local) {
        (true, true) => Direction::Internal,
        (true, false) => Direction::Egress,
        (false, true) => Direction::Ingress,
        (false, false) => Direction::Forwarded,
    }
}
