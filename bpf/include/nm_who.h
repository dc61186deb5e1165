/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whose socket a packet is. Sockets carry the number of their name (nm_sockets, written by sock.bpf.c when they appear); a
 * packet on its way out has its socket with it, through a veth up to the host's side, until a stack takes it in. A socket
 * without a name is known by its cgroup.
 */
#ifndef NM_WHO_H
#define NM_WHO_H

#include "nm_packet.h"
#include "nm_table.h"

#define NM_WHO_PACKETS 4 /* of each side, that are asked */
#define NM_LOOPBACK    1 /* ifindex of lo, in every namespace */
#define NM_SOCK_RAW    3
#define NM_AF_PACKET   17
#define NM_ROOT_CGROUP 1 /* its number, in every hierarchy (5.5) */

/* Goes with the socket; sockets that a listener accepts begin with a copy (5.4). */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, u32);
} nm_sockets SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u32);
	__type(value, struct nm_name);
} nm_names SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2048);
	__type(key, u64); /* number of the cgroup */
	__type(value, struct nm_path);
} nm_cgroups SEC(".maps") __weak;

const volatile struct nm_path nm_no_path __weak; /* what an entry of nm_cgroups begins as */

/* Whether the socket sends such packets itself. Outer packets of a tunnel come with the socket of the inner ones. */
static __always_inline bool nm_is_sender(const struct bpf_sock *sk, const struct nm_packet *p)
{
	if (sk->type == NM_SOCK_RAW || sk->family == NM_AF_PACKET)
		return true;
	if (sk->protocol != p->protocol)
		return false;
	return !p->source_port_be || p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6 ||
	       sk->src_port == bpf_ntohs(p->source_port_be);
}

static __always_inline u32 nm_sender(struct __sk_buff *skb, const struct nm_packet *p)
{
	struct bpf_sock *sk = skb->sk, *full;
	u64 cgroup;
	u32 *who, number;

	if (!sk)
		return 0;
	full = bpf_sk_fullsock(sk);
	if (!full) {
		/* A SYN+ACK comes with a request, which leads to its listener. */
		full = bpf_get_listener_sock(sk);
		if (!full)
			return 0;
	}
	if (!nm_is_sender(full, p))
		return 0;
	who = bpf_sk_storage_get(&nm_sockets, full, NULL, 0);
	number = who ? *who : 0;
	/* Asked for, it stays among the names; pushed out by others that came after it, the cgroup is what is known. */
	if (number && bpf_map_lookup_elem(&nm_names, &number))
		return number;
	cgroup = bpf_skb_cgroup_id(skb);
	return cgroup > NM_ROOT_CGROUP ? (cgroup & ~NM_WHO_FLAGS) | NM_WHO_CGROUP : 0;
}

/* The socket of this namespace that a datagram goes to, as far as the ports tell: whether the address is one of this host's the
 * agent must say. It may never send anything. */
static __always_inline u32 nm_receiver(struct __sk_buff *skb, const struct nm_packet *p)
{
	struct bpf_sock_tuple tuple = {};
	u32 found = 0, *who;
	struct bpf_sock *sk;

	if (p->family == 4) {
		tuple.ipv4.saddr = p->source[0];
		tuple.ipv4.daddr = p->destination[0];
		tuple.ipv4.sport = p->source_port_be;
		tuple.ipv4.dport = p->destination_port_be;
		sk = bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, p->source, 16);
		__builtin_memcpy(tuple.ipv6.daddr, p->destination, 16);
		tuple.ipv6.sport = p->source_port_be;
		tuple.ipv6.dport = p->destination_port_be;
		sk = bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return 0;
	who = bpf_sk_storage_get(&nm_sockets, sk, NULL, 0);
	if (who)
		found = *who | NM_WHO_FOUND;
	bpf_sk_release(sk);
	return found;
}

/* The packet in hand, one of its side's first. `ask_receiver`: whose socket it goes to, too. */
NM_GLOBAL int nm_ask_who(struct __sk_buff *skb, u32 side, bool ask_receiver)
{
	struct nm_scratch *scratch = nm_in_hand();
	const struct nm_packet *p;
	struct nm_wide *wide;
	u32 *who, found;

	wide = nm_wide_in_hand(scratch);
	if (!wide)
		return 0;
	p = &scratch->packet;
	who = wide->timing[nm_slot_of(&scratch->at)].who;
	side &= 1;
	if (!who[side]) {
		found = nm_sender(skb, p);
		if (found)
			who[side] = found;
	}
	if (ask_receiver && !who[!side] && p->whole) {
		found = nm_receiver(skb, p);
		if (found)
			who[!side] = found;
	}
	return 0;
}

#endif
