//! Per-interface packet counters, overflow and loss counters: reading and folding.

use std::collections::BTreeMap;
use std::time::Duration;

use libbpf_rs::{ErrorKind, MapCore, MapFlags};

use super::decode;
use super::object::Object;
use super::skeleton::types::{nm_interface, nm_kind};

/// Kinds of packets and losses that the programs note, with label names.
pub const NOT_IP_KINDS: [(nm_kind, &str); 3] = [
    (nm_kind::NM_KIND_ARP, "arp"),
    (nm_kind::NM_KIND_VLAN_DEPTH, "vlan_depth"),
    (nm_kind::NM_KIND_OTHER_ETHERTYPE, "other_ethertype"),
];
/// Malformed kinds.
pub const MALFORMED_KINDS: [(nm_kind, &str); 9] = [
    (nm_kind::NM_KIND_SHORT_LINK, "short_link_header"),
    (nm_kind::NM_KIND_SHORT_IP, "short_ip_header"),
    (nm_kind::NM_KIND_IP_VERSION, "ip_version"),
    (nm_kind::NM_KIND_IP_HEADER_LENGTH, "ip_header_length"),
    (nm_kind::NM_KIND_IP_TOTAL_LENGTH, "ip_total_length"),
    (nm_kind::NM_KIND_EXTENSION, "ipv6_extension"),
    (nm_kind::NM_KIND_SHORT_TRANSPORT, "short_transport_header"),
    (nm_kind::NM_KIND_TCP_OFFSET, "tcp_data_offset"),
    (nm_kind::NM_KIND_UDP_LENGTH, "udp_length"),
];

/// Why packets to a tunnel's port were counted for the tunnel itself, and flows that go without the name of theirs.
pub const TUNNEL_KINDS: [(nm_kind, &str); 7] = [
    (nm_kind::NM_KIND_TUNNEL_FRAGMENT, "tunnel_fragment"),
    (nm_kind::NM_KIND_TUNNEL_HEADER, "tunnel_header"),
    (nm_kind::NM_KIND_TUNNEL_NOT_IP, "tunnel_not_ip"),
    (nm_kind::NM_KIND_TUNNEL_MALFORMED, "tunnel_malformed"),
    (nm_kind::NM_KIND_TUNNEL_BUNDLE, "tunnel_bundle"),
    (nm_kind::NM_KIND_TUNNEL_NESTED, "tunnel_nested"),
    (nm_kind::NM_KIND_TUNNEL_UNMARKED, "tunnel_unmarked"),
];

/// Interfaces that are found without hashing (`NM_NEAR`).
const NEAR: u32 = 256;
/// How often, and how long each time, the kernel is waited for when it has no memory at hand.
const STORE_FILLS: u32 = 20;
const STORE_FILLED_IN: Duration = Duration::from_millis(5);

impl Object {
    /// Begins counting for an interface. `link_bytes` is the length of its link header (14 or 0). The entry 0
    /// stands for interfaces that have none.
    ///
    /// # Errors
    /// When the map is full (16 384 interfaces).
    pub fn add_interface(&self, index: u32, link_bytes: u32) -> std::io::Result<()> {
        if index != 0 && self.near(index).is_some_and(|holder| holder.ifindex == 0) {
            return self.write(&self.skel.maps.nm_near, index % NEAR, index, link_bytes);
        }
        self.write(&self.skel.maps.nm_interfaces, index, index, link_bytes)
    }

    fn write(&self, map: &impl MapCore, key: u32, index: u32, link_bytes: u32) -> std::io::Result<()> {
        use std::mem::offset_of;
        let mut value = vec![0u8; size_of::<nm_interface>()];
        for (at, word) in
            [(offset_of!(nm_interface, link_bytes), link_bytes), (offset_of!(nm_interface, ifindex), index)]
        {
            value[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        let cpus = libbpf_rs::num_possible_cpus().map_err(std::io::Error::other)?;
        let values = vec![value; cpus];
        let update = || map.update_percpu(&key.to_ne_bytes(), &values, MapFlags::ANY);
        let mut updated = update();
        // The kernel gives such maps memory from a small store that it fills up a moment later: many interfaces at once empty it.
        for _ in 0..STORE_FILLS {
            if !updated.as_ref().is_err_and(|error| error.kind() == ErrorKind::OutOfMemory) {
                break;
            }
            std::thread::sleep(STORE_FILLED_IN);
            updated = update();
        }
        updated.map_err(std::io::Error::other)
    }

    fn near(&self, index: u32) -> Option<nm_interface> {
        let key = (index % NEAR).to_ne_bytes();
        decode::interface_sum(&self.skel.maps.nm_near.lookup_percpu(&key, MapFlags::ANY).ok()??)
    }

    /// What an interface has counted; `None` if it has no entry.
    pub fn interface(&self, index: u32) -> Option<nm_interface> {
        if let Some(near) = self.near(index).filter(|near| index != 0 && near.ifindex == index) {
            return Some(near);
        }
        let per_cpu =
            self.skel.maps.nm_interfaces.lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY).ok()??;
        decode::interface_sum(&per_cpu)
    }

    /// Ends counting for an interface.
    pub fn remove_interface(&self, index: u32) {
        if self.near(index).is_some_and(|near| near.ifindex == index) {
            // An array entry can't refuse a write of its own size.
            let _ = self.write(&self.skel.maps.nm_near, index % NEAR, 0, 0);
        } else {
            // Gone already is as good.
            let _ = self.skel.maps.nm_interfaces.delete(&index.to_ne_bytes());
        }
    }

    /// Count of a kind since load.
    pub fn kind(&self, kind: nm_kind) -> u64 {
        let per_cpu = self.skel.maps.nm_kinds.lookup_percpu(&kind.0.to_ne_bytes(), MapFlags::ANY);
        let sum = per_cpu.ok().flatten().and_then(|per_cpu| decode::words_sum::<1>(&per_cpu));
        sum.map_or(0, |[count]| count)
    }

    /// Packets and bytes that found no room, by IP protocol and hook (false = ingress), where there are any.
    pub fn overflow(&self) -> BTreeMap<(u8, bool), (u64, u64)> {
        (0..512u32)
            .filter_map(|key| {
                let per_cpu = self.skel.maps.nm_overflow.lookup_percpu(&key.to_ne_bytes(), MapFlags::ANY);
                let [packets, bytes] = decode::words_sum(&per_cpu.ok()??)?;
                (packets > 0).then_some((((key >> 1) as u8, key & 1 == 1), (packets, bytes)))
            })
            .collect()
    }
}
