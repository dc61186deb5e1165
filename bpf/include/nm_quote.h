/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What an ICMP error says of the flow whose packet it quotes. Believed only if it comes to the sender of the quoted packet, the flow
 * is there, and the quoted segment is one that is on its way. Rare, and out of line.
 */
#ifndef NM_QUOTE_H
#define NM_QUOTE_H

#include "nm_flow.h"

/* Ports, or the identifier of an echo request, from the first eight bytes of the quoted transport header. */
static __always_inline bool nm_quoted_ports(struct __sk_buff *skb, struct nm_packet *p, u32 offset)
{
	struct nm_icmp head;

	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP && p->protocol != IPPROTO_SCTP &&
	    p->protocol != IPPROTO_ICMP && p->protocol != IPPROTO_ICMPV6)
		return true;
	if (bpf_skb_load_bytes(skb, offset, &head, sizeof(head)))
		return false;
	if (p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6) {
		if (head.type != (p->protocol == IPPROTO_ICMP ? NM_ICMP_ECHO : NM_ICMPV6_ECHO))
			return false;
		p->source_port_be = head.echo_id;
		p->destination_port_be = head.echo_id;
	} else {
		/* Ports come first, as type, code and checksum do; the sequence number of TCP comes next. */
		p->source_port_be = *(u16 *)&head.type;
		p->destination_port_be = head.checksum;
		p->seq = (u32)bpf_ntohs(head.echo_id) << 16 | bpf_ntohs(head.echo_sequence);
	}
	return true;
}

/* The quoted packet takes the place of the one in hand. A later fragment has no ports, and extension headers none either. */
static __always_inline bool nm_parse_quoted(struct __sk_buff *skb, struct nm_packet *p, u32 offset, u8 family)
{
	__builtin_memset(p, 0, sizeof(*p));
	p->family = family;
	if (family == 4) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5 ||
		    ip.frag_off & bpf_htons(0x1fff))
			return false;
		p->protocol = ip.protocol;
		*(u32 *)&p->source[0] = ip.saddr;
		*(u32 *)&p->destination[0] = ip.daddr;
		offset += ip.ihl * 4;
	} else {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 6)
			return false;
		p->protocol = ip.nexthdr;
		__builtin_memcpy(p->source, &ip.saddr, 16);
		__builtin_memcpy(p->destination, &ip.daddr, 16);
		offset += sizeof(ip);
	}
	p->header_bytes = offset;
	return nm_quoted_ports(skb, p, offset);
}

/* The packet inside of the quoted one takes its place, if that went into a tunnel and the quote reaches so far. Tags are none
 * that it knows. */
static __always_inline bool nm_quoted_inside(struct __sk_buff *skb, struct nm_packet *p)
{
	u32 tunnel = nm_tunnel_of(p), at = p->header_bytes;
	u16 type_be = bpf_htons(ETH_P_TEB);
	struct nm_carrier carrier;

	if (!tunnel || bpf_skb_load_bytes(skb, at, &carrier, sizeof(carrier)))
		return false;
	at += sizeof(carrier);
	if (tunnel == NM_TUNNEL_GENEVE) {
		at += (carrier.first & NM_GENEVE_OPTIONS) * 4;
		type_be = carrier.type_be;
	}
	if (type_be == bpf_htons(ETH_P_TEB)) {
		if (bpf_skb_load_bytes(skb, at + offsetof(struct ethhdr, h_proto), &type_be, sizeof(type_be)))
			return false;
		at += sizeof(struct ethhdr);
	}
	if (type_be != bpf_htons(ETH_P_IP) && type_be != bpf_htons(ETH_P_IPV6))
		return false;
	return nm_parse_quoted(skb, p, at, type_be == bpf_htons(ETH_P_IP) ? 4 : 6);
}

/* The flow inside of the tunnel that the error speaks of. */
static __always_inline struct nm_bucket *nm_find_inside(struct __sk_buff *skb, struct nm_scratch *scratch)
{
	struct nm_packet *p = &scratch->packet;
	struct nm_bucket *bucket;

	if (!nm_quoted_inside(skb, p))
		return NULL;
	bucket = nm_find(&scratch->at, nm_tag(nm_hash(p, nm_sender_side(p))));
	return bucket && nm_hot_at(bucket, &scratch->at)->marks & NM_MARK_TUNNEL ? bucket : NULL;
}

/* The ICMP error in hand, already counted, to the flow that it quotes. */
NM_GLOBAL int nm_quote(struct __sk_buff *skb)
{
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_bucket *bucket = NULL;
	struct nm_packet *p;
	struct nm_hot *hot;
	u64 to[2], tag;
	u32 side;
	u8 protocol;
	u8 error;

	if (!scratch)
		return 0;
	p = &scratch->packet;
	error = p->icmp_error;
	to[0] = p->destination[0];
	to[1] = p->destination[1];
	if (!nm_parse_quoted(skb, p, p->quote, p->family) || p->source[0] != to[0] || p->source[1] != to[1])
		return 0;
	side = nm_sender_side(p);
	tag = nm_tag(nm_hash(p, side));
	protocol = p->protocol;
	if (nm_decapsulate)
		bucket = nm_find_inside(skb, scratch);
	if (bucket) {
		side = nm_sender_side(p);
		protocol = p->protocol; /* that of the packet inside, which is in hand now */
		if (error == NM_ERROR_PORT)
			error = NM_ERROR_UNREACHABLE; /* The port is the tunnel's. */
	} else {
		bucket = nm_flow_of(&scratch->at, nm_find(&scratch->at, tag), &side);
	}
	if (!bucket)
		return 0;
	if (nm_features & NM_FEATURE_TIMING && protocol == IPPROTO_TCP &&
	    !nm_in_flight(bucket, scratch->at.slot, p, side)) {
		nm_note(NM_KIND_QUOTE_REFUSED);
		return 0;
	}
	hot = nm_hot_at(bucket, &scratch->at);
	if (hot->icmp_errors & error)
		return 0;
	hot->icmp_errors |= error;
	nm_emit(skb, NM_EVENT_ERROR, scratch->at.table, nm_slot_number(&scratch->at), bpf_ktime_get_ns());
	return 0;
}

#endif
