/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Packets in VXLAN (RFC 7348) and Geneve (RFC 8926), when asked for: the packet inside takes the place of the one that carries
 * it, which is then counted for the inner flow alone. What makes no sense inside stays with the outer flow, and its kind is noted.
 * One level is looked into. Rare next to the rest of the parser, and out of line.
 */
#ifndef NM_TUNNEL_H
#define NM_TUNNEL_H

#include "nm_packet.h"
#include "nm_table.h"

#define NM_PORT_VXLAN	    4789
#define NM_PORT_VXLAN_LINUX 8472 /* Linux's own until IANA gave one, and still flannel's */
#define NM_PORT_GENEVE	    6081

#define NM_VXLAN_VNI	  0x08 /* the VNI is valid; always set */
#define NM_VXLAN_PROTOCOL 0x04 /* generic protocol extension: not Ethernet inside, or not only */
#define NM_GENEVE_VERSION 0xc0
#define NM_GENEVE_CONTROL 0x80
#define NM_GENEVE_OPTIONS 0x3f /* words of four bytes */

/* UDP, and the header of the tunnel behind it: both kinds have eight bytes, the VNI above the last of them. */
struct nm_carrier {
	u16 source_be;
	u16 destination_be;
	u16 length_be;
	u16 checksum;
	u8 first;
	u8 second;
	u16 type_be; /* Geneve */
	u32 vni_be;
};

/* The tunnel that the destination port tells, if it is to be looked into. */
static __always_inline u32 nm_tunnel_of(const struct nm_packet *p)
{
	u16 port_be = p->destination_port_be;

	if (p->protocol != IPPROTO_UDP)
		return 0;
	if (port_be == bpf_htons(NM_PORT_VXLAN) || port_be == bpf_htons(NM_PORT_VXLAN_LINUX))
		return nm_decapsulate & NM_TUNNEL_VXLAN;
	return port_be == bpf_htons(NM_PORT_GENEVE) ? nm_decapsulate & NM_TUNNEL_GENEVE : 0;
}

/* Puts the packet inside of the one in hand in its place; the kind of what hinders it otherwise. */
static __always_inline u32 nm_take_inner(struct __sk_buff *skb, struct nm_scratch *scratch, u32 tunnel)
{
	struct nm_packet *p = &scratch->packet;
	u32 udp = p->header_bytes - sizeof(struct udphdr), at, end, outcome;
	struct nm_carrier carrier;
	u16 type_be = bpf_htons(ETH_P_TEB);

	if (p->fragment)
		return NM_KIND_TUNNEL_FRAGMENT;
	if (bpf_skb_load_bytes(skb, udp, &carrier, sizeof(carrier)))
		return NM_KIND_TUNNEL_HEADER;
	at = udp + sizeof(carrier);
	/* A length of 0, in a jumbogram or a super-packet above 64 KiB, says nothing. */
	end = carrier.length_be ? udp + bpf_ntohs(carrier.length_be) : skb->len;
	if (tunnel == NM_TUNNEL_VXLAN) {
		if ((carrier.first & (NM_VXLAN_VNI | NM_VXLAN_PROTOCOL)) != NM_VXLAN_VNI)
			return NM_KIND_TUNNEL_HEADER;
	} else {
		type_be = carrier.type_be;
		at += (carrier.first & NM_GENEVE_OPTIONS) * 4;
		if (carrier.first & NM_GENEVE_VERSION || carrier.second & NM_GENEVE_CONTROL)
			return NM_KIND_TUNNEL_HEADER;
	}
	if (at > end)
		return NM_KIND_TUNNEL_HEADER;
	scratch->vni = bpf_ntohl(carrier.vni_be) >> 8;
	scratch->outer = *p;
	outcome = nm_parse_long(skb, type_be == bpf_htons(ETH_P_TEB) ? sizeof(struct ethhdr) : 0, type_be, at, end);
	if (outcome == NM_NOT_IP)
		return NM_KIND_TUNNEL_NOT_IP;
	if (outcome != NM_COUNTED)
		return p->kind == NM_KIND_TUNNEL_BUNDLE ? NM_KIND_TUNNEL_BUNDLE : NM_KIND_TUNNEL_MALFORMED;
	if (nm_tunnel_of(p))
		return NM_KIND_TUNNEL_NESTED;
	p->tunnel = tunnel;
	return NM_KIND_NONE;
}

/* The packet in hand goes to a tunnel's port. The kind of what hinders a look inside. */
NM_GLOBAL int nm_look_inside(struct __sk_buff *skb, u32 tunnel)
{
	struct nm_scratch *scratch = nm_in_hand();
	u32 kind;

	if (!scratch)
		return NM_KIND_NONE;
	kind = nm_take_inner(skb, scratch, tunnel);
	if (kind != NM_KIND_NONE && kind != NM_KIND_TUNNEL_FRAGMENT && kind != NM_KIND_TUNNEL_HEADER)
		scratch->packet = scratch->outer;
	return kind;
}

/* As the agent names a flow, for as long as it lasts. */
static __always_inline u64 nm_flow_id(u64 tag, u64 start_ns)
{
	return (tag & ~NM_DEAD) ^ (start_ns << 32 | start_ns >> 32);
}

/* The flow of the packet in hand is seen in a tunnel for the first time. */
NM_GLOBAL int nm_mark_tunnel(u32 side)
{
	struct nm_scratch *scratch = nm_in_hand();
	const struct nm_packet *outer;
	struct nm_tunnel tunnel = {};
	struct nm_bucket *bucket;
	u32 slot, sent;
	u64 id;

	if (!scratch)
		return 0;
	bucket = nm_bucket_at(scratch->at.table, scratch->at.bucket);
	if (!bucket)
		return 0;
	slot = nm_slot_of(&scratch->at);
	id = nm_flow_id(bucket->tags[slot], bucket->cold[slot].start_ns);
	/* The next packet finds the flow where it has moved to, and its start is there. */
	if (bucket->cold[slot].agent_flags & NM_FLAG_MOVED)
		return 0;
	outer = &scratch->outer;
	sent = side == bucket->cold[slot].opener;
	__builtin_memcpy(tunnel.address[0], sent ? outer->source : outer->destination, 16);
	__builtin_memcpy(tunnel.address[1], sent ? outer->destination : outer->source, 16);
	tunnel.vni = scratch->vni;
	tunnel.kind = scratch->packet.tunnel;
	tunnel.family = outer->family;
	/* Tried once, or a full map would cost each packet. */
	bucket->hot[slot].marks |= NM_MARK_TUNNEL;
	if (bpf_map_update_elem(&nm_tunnels, &id, &tunnel, BPF_ANY))
		nm_note(NM_KIND_TUNNEL_UNMARKED);
	return 0;
}

#endif
