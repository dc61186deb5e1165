//! The network interfaces and addresses of this host, discovered and followed by rtnetlink.
//!
//! [`Follower`] is the task: it subscribes, dumps, and from then on tells by [`Event`]s which of the interfaces
//! that the [`Selection`] wants are there. What it knows lives in [`state`], which is pure; [`wire`] reads and
//! writes the few messages and attributes that matter; the socket is the only part that does I/O.
//!
//! Owns no attachment and no flow: whoever receives the events attaches, detaches and judges directions.
//!
//! Why the messages are decoded here and not by the `rtnetlink` crate: its connection hands notifications on
//! through an unbounded channel, and drops a whole message when one attribute in it does not parse. An interface
//! must not stay unwatched because a newer kernel says more about it.

mod addresses;
mod follow;
mod glob;
mod selection;
mod socket;
pub mod state;
#[cfg(test)]
mod tests;
pub mod wire;

use std::sync::Arc;

pub use addresses::HostAddresses;
pub use follow::{FollowCounters, Follower};
pub use glob::PatternError;
pub use selection::Selection;

/// What a packet on an interface begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkLayer {
    /// An Ethernet header (loopback has one too).
    Ethernet,
    /// The IP header: tunnels, PPP, WireGuard, TUN devices.
    Raw,
    /// Something else, by its ARPHRD number: such an interface can't be watched.
    Unsupported(u16),
}

impl LinkLayer {
    /// From the kernel's hardware type (`ARPHRD_*`, `if_arp.h`).
    pub fn from_hardware_type(hardware_type: u16) -> Self {
        match hardware_type {
            // ETHER, LOOPBACK
            1 | 772 => Self::Ethernet,
            // SLIP, CSLIP, PPP, RAWIP, TUNNEL, TUNNEL6, SIT, IPGRE, IP6GRE, NONE
            256 | 257 | 512 | 519 | 768 | 769 | 776 | 778 | 823 | 0xfffe => Self::Raw,
            other => Self::Unsupported(other),
        }
    }
}

/// One network interface as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Kernel's index. Used again for another interface once this one is gone.
    pub index: u32,
    /// Name, at most 15 bytes.
    pub name: String,
    /// `veth`, `bridge`, `bond`, `tun`, `wireguard`, `netkit` ...; none for physical devices and loopback.
    pub kind: Option<String>,
    /// What its packets begin with.
    pub link_layer: LinkLayer,
    /// Set up by the administrator (`IFF_UP`); says nothing about the carrier.
    pub up: bool,
    /// Loopback.
    pub loopback: bool,
    /// What comes in from it was sent by something on this host: a container behind a veth or netkit, a guest
    /// behind a TAP device. Not so if a default route of the main table leaves by it: then it is this host's own
    /// uplink (the agent runs inside of a container or guest). A TUN device (IP without Ethernet) is a tunnel to
    /// elsewhere and no local peer.
    pub local_peer: bool,
}

/// What the [`Follower`] tells. `Appeared`, `Changed` and `Gone` are with respect to the [`Selection`]: an
/// interface that goes down, is renamed out of the selection or moves to another namespace is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// To be watched from now on.
    Appeared(Interface),
    /// Still watched; its name or another property is new.
    Changed(Interface),
    /// No longer watched.
    Gone {
        /// Index under which it had appeared.
        index: u32,
        /// Name by which it was last told.
        name: String,
    },
    /// All addresses of this host, now.
    Addresses(Arc<HostAddresses>),
    /// Everything that was there when the dump began has been told. Comes after the first dump, and again after
    /// each one that a loss of messages made necessary.
    Synced,
}
