//! The addresses of this host: a snapshot that is cheap to share, and the book it is made from.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use super::wire::Address;

/// All addresses of this host at one moment.
///
/// Loopback (127.0.0.0/8, ::1) is always this host. A group (multicast, broadcast) is never one host: what this
/// host sends to it goes out, what others send to it comes in, so [`contains`](Self::contains) says no and
/// [`is_group`](Self::is_group) yes. Neither is the unspecified address: a DHCP client that has no address yet
/// may be this host or any other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostAddresses {
    own: HashSet<IpAddr>,
    broadcasts: HashSet<Ipv4Addr>,
}

impl HostAddresses {
    /// From the host's own addresses and the broadcast addresses of its subnets.
    pub fn new(
        own: impl IntoIterator<Item = IpAddr>,
        broadcasts: impl IntoIterator<Item = Ipv4Addr>,
    ) -> Self {
        Self {
            own: own.into_iter().map(|address| address.to_canonical()).collect(),
            broadcasts: broadcasts.into_iter().collect(),
        }
    }

    /// Whether this address is one of this host's. IPv4 addresses mapped into IPv6 count as IPv4.
    pub fn contains(&self, address: &IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback() || self.own.contains(&address)
    }

    /// Whether packets to this address go to a group of hosts: multicast, 255.255.255.255, or the broadcast
    /// address of a subnet that this host is on.
    pub fn is_group(&self, address: &IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                address.is_multicast() || address.is_broadcast() || self.broadcasts.contains(&address)
            }
            IpAddr::V6(address) => address.is_multicast(),
        }
    }

    /// The host's own addresses, loopback only where it is configured, in no order.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.own.iter().copied()
    }
}

/// Addresses by interface. One address may be on several interfaces, and several times on one (with another
/// prefix or peer); it is gone when its last entry is.
#[derive(Debug, Default)]
pub(super) struct AddressBook {
    by_interface: HashMap<u32, HashSet<Address>>,
}

impl AddressBook {
    /// False if it was known.
    pub(super) fn insert(&mut self, address: Address) -> bool {
        self.by_interface.entry(address.index).or_default().insert(address)
    }

    /// False if it was not known.
    pub(super) fn remove(&mut self, address: &Address) -> bool {
        let Some(entries) = self.by_interface.get_mut(&address.index) else { return false };
        let removed = entries.remove(address);
        if entries.is_empty() {
            self.by_interface.remove(&address.index);
        }
        removed
    }

    /// False if the interface had none.
    pub(super) fn remove_interface(&mut self, index: u32) -> bool {
        self.by_interface.remove(&index).is_some()
    }

    /// Keeps what `keep` says; false if that was all.
    pub(super) fn retain(&mut self, keep: impl Fn(&Address) -> bool) -> bool {
        let mut changed = false;
        self.by_interface.retain(|_, entries| {
            let before = entries.len();
            entries.retain(&keep);
            changed |= entries.len() != before;
            !entries.is_empty()
        });
        changed
    }

    pub(super) fn snapshot(&self) -> HostAddresses {
        let entries = || self.by_interface.values().flatten();
        HostAddresses::new(entries().map(|entry| entry.local), entries().filter_map(|entry| entry.broadcast))
    }
}
