//! Per-interface packet counters, overflow and loss counters: reading and folding.

use std::collections::BTreeMap;

use libbpf_rs::{MapCore, MapFlags};

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

impl Object {
    /// Begins counting for an interface. `link_bytes` is the length of its link header (14 or 0). The entry 0
    /// stands for interfaces that have none.
    ///
    /// # Errors
    /// When the map is full (16 384 interfaces).
    pub fn add_interface(&self, index: u32, link_bytes: u32) -> std::io::Result<()> {
        let mut value = vec![0u8; size_of::<nm_interface>()];
        let at = std::mem::offset_of!(nm_interface, link_bytes);
        value[at..at + 4].copy_from_slice(&link_bytes.to_ne_bytes());
        let cpus = libbpf_rs::num_possible_cpus().map_err(std::io::Error::other)?;
        self.skel
            .maps
            .nm_interfaces
            .update_percpu(&index.to_ne_bytes(), &vec![value; cpus], MapFlags::ANY)
            .map_err(std::io::Error::other)
    }

    /// What an interface has counted; `None` if it has no entry.
    pub fn interface(&self, index: u32) -> Option<nm_interface> {
        let per_cpu = self.skel.maps.nm_interfaces.lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY).ok()??;
        decode::interface_sum(&per_cpu)
    }

    /// Ends counting for an interface.
    pub fn remove_interface(&self, index: u32) {
        // Gone already is as good.
        let _ = self.skel.maps.nm_interfaces.delete(&index.to_ne_bytes());
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
