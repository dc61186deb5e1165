// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel's tracepoint kfree_skb: every buffer that is thrown away, with the kernel's own reason. Counts packets by reason
 * and interface in nm_drops, and with their flow in nm_flow_drops. Runs for all network namespaces of the host, in any
 * context, also in the middle of a TC program: it keeps to its own stack and never writes to the flow table.
 * Floor: 5.17, which gives reasons; the agent looks into the kernel's BTF before it loads this.
 */
#include "nm_flow.h"

/* What is read of the kernel's own types; offsets are those of the running kernel. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct net_device;

typedef struct {
	struct net *net;
} possible_net_t;

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
	struct net_device *loopback_dev;
};

struct net_device {
	int ifindex;
	possible_net_t nd_net;
};

struct sock_common {
	possible_net_t skc_net;
};

struct sock {
	struct sock_common __sk_common;
};

struct dst_entry {
	struct net_device *dev;
};

struct skb_shared_info {
	unsigned short gso_segs;
	struct sk_buff *frag_list;
};

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	unsigned long _skb_refdst;
	int skb_iif;
	__be16 protocol;
	__u16 network_header;
	unsigned int end;
	unsigned char *head;
};
#pragma clang attribute pop

/* The names alone count: values are the running kernel's. */
enum skb_drop_reason {
	SKB_NOT_DROPPED_YET,
	SKB_CONSUMED,
	SKB_DROP_REASON_NOT_SPECIFIED,
	SKB_DROP_REASON_NO_SOCKET,
	SKB_DROP_REASON_QUEUE_PURGE,
	SKB_DROP_REASON_PACKET_SOCK_ERROR,
};

#define nm_is(reason, name)                                        \
	(bpf_core_enum_value_exists(enum skb_drop_reason, name) && \
	 (reason) == bpf_core_enum_value(enum skb_drop_reason, name))

struct {
	__uint(type, BPF_MAP_TYPE_HASH); /* preallocated: packets are dropped where memory can't be asked for */
	__uint(max_entries, 4096);
	__type(key, struct nm_drop_key);
	__type(value, u64); /* packets; atomic adds */
} nm_drops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, u64); /* nm_flow_id() */
	__type(value, struct nm_flow_drops);
} nm_flow_drops SEC(".maps");

const volatile u32 nm_netns;	  /* inode of the agent's network namespace */
const volatile u32 nm_drop_to_sk; /* 1 = the tracepoint's fourth argument is the receiving socket (6.11) */

/*
 * The namespace, if this is one. skb->dev shares its place with other words while a buffer waits in a socket's queue or in a
 * tree, so nothing is believed but a namespace whose loopback is its own.
 */
static __always_inline struct net *nm_namespace(struct net *net)
{
	struct net_device *loopback = net ? BPF_CORE_READ(net, loopback_dev) : NULL;

	return loopback && BPF_CORE_READ(loopback, nd_net.net) == net ? net : NULL;
}

static __always_inline struct net *nm_namespace_of(struct net_device *dev)
{
	return dev ? nm_namespace(BPF_CORE_READ(dev, nd_net.net)) : NULL;
}

/* The interface where it ended: that of the device at hand, else the one it came in by, else the one that it was routed to. */
static __always_inline u32 nm_drop_interface(struct sk_buff *skb, struct sock *to)
{
	struct net_device *dev = skb->dev;
	struct net *net = nm_namespace_of(dev);
	u32 ifindex = skb->skb_iif;

	if (!net && ifindex) {
		struct sock *sk = to ?: skb->sk;

		dev = NULL;
		net = sk ? nm_namespace(BPF_CORE_READ(sk, __sk_common.skc_net.net)) : NULL;
	} else if (!net) {
		struct dst_entry *dst = (void *)(skb->_skb_refdst & ~1UL);

		dev = dst ? BPF_CORE_READ(dst, dev) : NULL;
		net = nm_namespace_of(dev);
	}
	if (!net)
		return 0;
	if (BPF_CORE_READ(net, ns.inum) != nm_netns)
		return NM_ELSEWHERE;
	return dev ? BPF_CORE_READ(dev, ifindex) : ifindex;
}

static __always_inline void nm_note_drop(u32 kind, u64 packets)
{
	u64 *count = bpf_map_lookup_elem(&nm_kinds, &kind);

	if (count)
		__sync_fetch_and_add(count, packets);
}

static __always_inline void nm_count_drop(const struct nm_drop_key *key, u64 packets)
{
	u64 *count = bpf_map_lookup_elem(&nm_drops, key), none = 0;

	if (!count) {
		/* Another CPU may be first. */
		bpf_map_update_elem(&nm_drops, key, &none, BPF_NOEXIST);
		count = bpf_map_lookup_elem(&nm_drops, key);
	}
	if (count)
		__sync_fetch_and_add(count, packets);
	else
		nm_note_drop(NM_KIND_DROP_UNNAMED, packets);
}

static __always_inline bool nm_is_echo(u8 protocol, u8 type)
{
	if (protocol == IPPROTO_ICMP)
		return type == NM_ICMP_ECHO || type == NM_ICMP_ECHO_REPLY;
	return protocol == IPPROTO_ICMPV6 && (type == NM_ICMPV6_ECHO || type == NM_ICMPV6_ECHO_REPLY);
}

/*
 * Whose packet it is, from its headers as they are now; false if they do not tell. What is read is checked by the look-up: words
 * that are no header find no flow. Not joined: IPv6 extension headers, later fragments, and what was translated (NAT) on its
 * way from the hook to here.
 */
static __always_inline bool nm_identify(struct sk_buff *skb, u16 protocol_be, struct nm_packet *p)
{
	unsigned char *at = skb->head + skb->network_header;
	struct nm_icmp start;

	if (protocol_be == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (bpf_probe_read_kernel(&ip, sizeof(ip), at) || ip.version != 4 || ip.frag_off & bpf_htons(0x1fff))
			return false;
		p->family = 4;
		p->protocol = ip.protocol;
		*(u32 *)&p->source[0] = ip.saddr;
		*(u32 *)&p->destination[0] = ip.daddr;
		at += ip.ihl * 4;
	} else if (protocol_be == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (bpf_probe_read_kernel(&ip, sizeof(ip), at) || ip.version != 6)
			return false;
		p->family = 6;
		p->protocol = ip.nexthdr;
		__builtin_memcpy(p->source, &ip.saddr, 16);
		__builtin_memcpy(p->destination, &ip.daddr, 16);
		at += sizeof(ip);
	} else {
		return false;
	}
	if (bpf_probe_read_kernel(&start, sizeof(start), at))
		return false;
	if (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP || p->protocol == IPPROTO_SCTP) {
		/* Ports come first, as type, code and checksum do. */
		p->source_port_be = *(u16 *)&start.type;
		p->destination_port_be = start.checksum;
	} else if (nm_is_echo(p->protocol, start.type)) {
		p->source_port_be = start.echo_id;
		p->destination_port_be = start.echo_id;
	}
	return true;
}

/*
 * Whether the flow lacks anything for it. Without a reason the kernel also frees what it has made use of (IPv6 neighbour
 * discovery); the FIN that nobody need read any more is purged when its socket goes; sniffers' sockets hold copies; and the answer
 * to a ping by a raw socket, which gets a copy, finds no other socket.
 */
static __always_inline bool nm_is_loss(u32 reason, u8 protocol)
{
	if (nm_is(reason, SKB_DROP_REASON_NO_SOCKET))
		return protocol != IPPROTO_ICMP && protocol != IPPROTO_ICMPV6;
	return !nm_is(reason, SKB_DROP_REASON_NOT_SPECIFIED) && !nm_is(reason, SKB_DROP_REASON_QUEUE_PURGE) &&
	       !nm_is(reason, SKB_DROP_REASON_PACKET_SOCK_ERROR);
}

static __always_inline void nm_count_flow_drop(const struct nm_packet *p, u32 reason, u64 packets)
{
	u32 side = nm_sender_side(p);
	u64 id;
	struct nm_flow_drops *drops, first = {.last_reason = reason};
	struct nm_place at = {};
	struct nm_bucket *bucket = nm_flow_of(&at, nm_find(&at, nm_tag(nm_hash(p, side))), &side);

	if (!bucket)
		return;
	id = nm_flow_id(bucket->tags[nm_slot_of(&at)], bucket->cold[nm_slot_of(&at)].start_ns);
	drops = bpf_map_lookup_elem(&nm_flow_drops, &id);
	if (!drops) {
		/* The flow that had its last drop long ago gives way. */
		bpf_map_update_elem(&nm_flow_drops, &id, &first, BPF_NOEXIST);
		drops = bpf_map_lookup_elem(&nm_flow_drops, &id);
	}
	if (!drops) {
		nm_note_drop(NM_KIND_DROP_UNJOINED, packets);
		return;
	}
	drops->last_reason = reason;
	__sync_fetch_and_add(&drops->packets, packets);
}

/* Arguments: the buffer, where it was dropped, the reason, and from 6.11 the receiving socket. */
SEC("tp_btf/kfree_skb")
int nm_drop(u64 *arguments)
{
	struct sk_buff *skb = (void *)arguments[0];
	struct nm_drop_key key = {.reason = arguments[2]};
	u16 protocol_be = skb->protocol;
	struct nm_packet packet = {};
	struct skb_shared_info *shared;
	struct sock *to = NULL;
	u64 packets;

	/* Unix and netlink sockets throw buffers away as well: those are no packets. */
	if (!protocol_be || !(nm_control.features & NM_FEATURE_DROPS))
		return 0;
	if (nm_is(key.reason, SKB_NOT_DROPPED_YET) || nm_is(key.reason, SKB_CONSUMED))
		return 0;
	if (nm_drop_to_sk)
		to = (void *)arguments[3];
	key.ifindex = nm_drop_interface(skb, to);
	shared = (void *)(skb->head + skb->end);
	/* Packets that are strung together are dropped, and told, one by one. */
	packets = BPF_CORE_READ(shared, frag_list) ? 1 : BPF_CORE_READ(shared, gso_segs) ?: 1;
	nm_count_drop(&key, packets);
	if (nm_identify(skb, protocol_be, &packet) && nm_is_loss(key.reason, packet.protocol))
		nm_count_flow_drop(&packet, key.reason, packets);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
