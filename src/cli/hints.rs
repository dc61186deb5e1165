//! What the kernel's reasons for dropping packets mean, in plain words. The names are the running kernel's; a reason that is
//! not here is told without a hint.

/// What a reason means and where to look; empty for one that no hint is known for.
pub fn drop_reason(name: &str) -> &'static str {
    HINTS.iter().find(|(reason, _)| *reason == name).map_or("", |(_, hint)| hint)
}

const HINTS: &[(&str, &str)] = &[
    (
        "bpf_cgroup_egress",
        "a BPF program of the sender's cgroup forbids it (systemd's IPAddressDeny, a container's policy)",
    ),
    ("cpu_backlog", "a CPU got packets faster than it could handle them: see net.core.netdev_max_backlog"),
    ("dev_hdr", "the device's own header could not be made or read"),
    ("dev_ready", "the interface was down or not ready"),
    ("dup_frag", "a fragment came twice or overlaps another"),
    ("frag_reasm_timeout", "fragments of a packet did not all come in time"),
    ("full_ring", "the queue of a virtual device was full: its reader (a guest, a VPN) is too slow"),
    ("icmp_csum", "wrong ICMP checksum: damaged on its way, or by a faulty card or driver"),
    ("ip_csum", "wrong IP checksum: damaged on its way, or by a faulty card or driver"),
    (
        "ip_inaddrerrors",
        "no way for this destination address, or it may not be forwarded: see net.ipv4.ip_forward",
    ),
    ("ip_inhdr", "the IP header is malformed, or its hop limit is used up"),
    ("ip_innoroutes", "there is no route to the destination"),
    ("ip_invalid_dest", "the destination address makes no sense for this packet"),
    ("ip_invalid_source", "the source address makes no sense, such as a multicast address"),
    (
        "ip_local_source",
        "the source address is one of this host's own: a spoofed packet, or an address in use twice",
    ),
    ("ip_localnet", "an address of 127.0.0.0/8 came in from outside"),
    ("ip_noproto", "nobody on this host speaks its IP protocol"),
    ("ip_outnoroutes", "there is no route to the destination"),
    (
        "ip_rpfilter",
        "the source is not reached by the interface it came in by: asymmetric routes or a spoofed source (net.ipv4.conf.*.rp_filter)",
    ),
    ("ip_tunnel_ecn", "the congestion marks of tunnel and packet contradict each other"),
    ("ipv6disabled", "IPv6 is off on the interface"),
    ("mac_invalid_source", "the Ethernet source address makes no sense"),
    (
        "neigh_createfail",
        "no neighbour entry could be made: the table may be full (net.ipv4.neigh.default.gc_thresh3)",
    ),
    ("neigh_dead", "the neighbour entry was just being removed"),
    (
        "neigh_failed",
        "the next hop does not answer ARP or neighbour discovery: it is down, or on another network",
    ),
    ("neigh_queuefull", "too many packets waited for an answer to ARP or neighbour discovery"),
    ("netfilter_drop", "a firewall rule drops it (nftables, iptables): `nft list ruleset` shows them"),
    (
        "no_socket",
        "nobody listens on the port, or the connection is unknown here; answers to a root's ping count as well",
    ),
    ("no_tx_target", "a tunnel or bridge knows no way for it"),
    ("nomem", "the kernel had no memory for it"),
    (
        "not_specified",
        "the kernel gives no reason at this place; a driver, a tunnel, a bridge, or IPv6 neighbour discovery that has been dealt with",
    ),
    (
        "otherhost",
        "it was for another host, by its Ethernet address: seen because the interface is promiscuous, or flooded by a switch",
    ),
    ("packet_sock_error", "a sniffer (tcpdump) reads too slowly: copies are lost, the packets are not"),
    ("pkt_too_big", "larger than the MTU of the next link, and may not be fragmented"),
    ("pkt_too_small", "shorter than its headers say"),
    ("proto_mem", "the protocol's memory was used up: see net.ipv4.tcp_mem and udp_mem"),
    ("qdisc_congested", "the sending queue drops early to signal congestion: the link is busy"),
    ("qdisc_drop", "the sending queue was full or its shaper drops it: `tc -s qdisc` shows which"),
    ("qdisc_overlimit", "the sending queue was full: the link is slower than the sender"),
    (
        "queue_purge",
        "it was left in a queue that was taken down: mostly the FIN of a closed TCP connection, harmless",
    ),
    ("security_hook", "a security module (SELinux, AppArmor) forbids it"),
    ("skb_csum", "wrong checksum found when it was to be sent"),
    ("socket_backlog", "the program was busy with the connection and its backlog was full"),
    ("socket_close", "it was still waiting in a socket that was closed"),
    ("socket_filter", "a filter on the socket (SO_ATTACH_FILTER, BPF) does not want it"),
    (
        "socket_rcvbuff",
        "the socket's receive buffer was full: the program reads too slowly (net.core.rmem_max)",
    ),
    ("tap_filter", "the filter of a tap device does not want it"),
    ("tc_egress", "a tc program or filter on the sending side drops it"),
    ("tc_ingress", "a tc program or filter on the receiving side drops it"),
    ("tcp_abort_on_data", "data came for a connection that the program had closed: answered with RST"),
    ("tcp_ack_unsent_data", "it acknowledges what was never sent"),
    ("tcp_close", "it came for a connection that is closed"),
    ("tcp_csum", "wrong TCP checksum: damaged on its way, or by a faulty card or driver"),
    ("tcp_fastopen", "refused by a TCP Fast Open request that is not through yet"),
    ("tcp_flags", "its TCP flags do not fit the state of the connection"),
    ("tcp_invalid_ack_sequence", "it acknowledges what does not fit the connection"),
    ("tcp_invalid_end_sequence", "it ends outside of the receive window"),
    (
        "tcp_invalid_sequence",
        "it lies outside of the receive window: late, or of another connection on the same ports",
    ),
    ("tcp_invalid_syn", "a SYN within an established connection"),
    (
        "tcp_listen_overflow",
        "the server does not accept connections fast enough: its backlog is full (net.core.somaxconn)",
    ),
    ("tcp_md5notfound", "the TCP MD5 signature that is agreed on is missing (BGP)"),
    ("tcp_minttl", "its hop limit is below what the socket asks for"),
    ("tcp_ofo_drop", "data that came out of order and was there already: sent twice, harmless"),
    ("tcp_ofo_queue_prune", "data that came out of order was thrown away for want of memory"),
    ("tcp_ofomerge", "data that came out of order and was there already: sent twice, harmless"),
    ("tcp_old_ack", "an acknowledgement that was overtaken by a newer one: harmless"),
    ("tcp_old_data", "data that was there already: sent twice, harmless"),
    ("tcp_old_sequence", "it lies before the receive window: sent twice, harmless"),
    ("tcp_overwindow", "it lies beyond the receive window"),
    ("tcp_reset", "an RST that does not fit the connection: not heeded"),
    (
        "tcp_rfc7323_paws",
        "its TCP timestamp is too old (PAWS): a late duplicate, or clients behind one NAT address",
    ),
    ("tcp_too_old_ack", "an acknowledgement that is much too old"),
    ("tcp_zerowindow", "data came although the receive window was closed"),
    ("udp_csum", "wrong UDP checksum: damaged on its way, or by a faulty card or driver"),
    ("unhandled_proto", "nobody on this host takes its Ethernet protocol"),
    ("unicast_in_l2_multicast", "a unicast packet in a multicast or broadcast frame"),
    ("vxlan_vni_not_found", "no VXLAN interface has its VNI"),
    ("xdp", "an XDP program drops it"),
    ("xfrm_policy", "an IPsec policy forbids it"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_in_order_and_once_each() {
        assert!(HINTS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(drop_reason("no_socket").starts_with("nobody listens"));
        assert_eq!(drop_reason("a_reason_of_tomorrow"), "");
    }
}
