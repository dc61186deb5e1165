//! Where a conversation runs, seen from this host. Pure.
//!
//! An end is local if its address is one of this host's, or if its packets came in from an interface whose other
//! side is on this host (a veth or tap to a container or guest), or if packets to it left by one.

use super::record::Direction;
use crate::interfaces::HostAddresses;
use crate::kernel::decode::Places;

use super::key::FlowKey;

/// Decides the direction. `local_peer` tells whether an interface index leads to something on this host.
pub fn direction(
    key: &FlowKey,
    places: &Places,
    addresses: &HostAddresses,
    local_peer: impl Fn(u32) -> bool,
) -> Direction {
    let enters_from = |place: crate::kernel::decode::Place| !place.egress() && local_peer(place.interface());
    let leaves_to = |place: crate::kernel::decode::Place| place.egress() && local_peer(place.interface());

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
