/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From bytes to a packet's identity. Nothing is guessed: what is cut short or contradicts itself is
 * malformed, with its kind. Sources: RFC 791, 8200 (IPv4, IPv6), 9293 (TCP), 768 (UDP), 792, 4443
 * (ICMP), 9260 (SCTP), IEEE 802.1Q.
 */
#ifndef NM_PACKET_H
#define NM_PACKET_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include "nm_maps.h"

struct nm_vlan {
	u16 tci_be;
	u16 type_be;
};

struct nm_fragment {
	u8 next;
	u8 reserved;
	u16 offset_be;
	u32 id;
};

/*
 * The parser is compiled twice. The short way takes a packet whose headers lie in the linear part of the buffer: Ethernet or no
 * link header, no tag in the bytes, IPv4 or IPv6 without extensions, whole, TCP or UDP. It's inlined, and small enough to
 * be there when the next packet comes. Whatever it can't take, or thinks wrong, goes the long way, which decides.
 */
enum nm_way { NM_SHORT_WAY, NM_LONG_WAY };

/*
 * A header at an offset: in place the short way, copied the long way. Offsets beyond 512 bytes are no headers (60 IPv4 +
 * eight extension headers and two tags fit).
 */
static __always_inline void *nm_header(struct __sk_buff *skb, enum nm_way way, u32 offset, void *copy, u32 size)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;

	if (offset > 512)
		return NULL;
	if (way == NM_SHORT_WAY)
		return data + offset + size <= end ? data + offset : NULL;
	if (bpf_skb_load_bytes(skb, offset, copy, size))
		return NULL;
	barrier_var(copy); /* or clang computes addresses of fields with |, which the verifier refuses */
	return copy;
}

/* Reads `length` bytes, 1 to `most`, a power of two: to an older verifier, too. */
static __always_inline bool nm_load_some(struct __sk_buff *skb, u32 offset, void *to, u32 length, u32 most)
{
	barrier_var(length);
	return !bpf_skb_load_bytes(skb, offset, to, ((length - 1) & (most - 1)) + 1);
}

#define nm_fail(packet, why, outcome)   \
	({                              \
		(packet)->kind = (why); \
		(outcome);              \
	})

#include "nm_transport.h"

static __always_inline enum nm_outcome nm_parse_ipv4(struct __sk_buff *skb, enum nm_way way, struct nm_packet *p,
						     u32 offset, struct nm_payload *in)
{
	struct iphdr copy, *ip = nm_header(skb, way, offset, &copy, sizeof(copy));
	u32 header, total, fragment;

	if (!ip)
		return nm_fail(p, NM_KIND_SHORT_IP, NM_MALFORMED);
	if (ip->version != 4)
		return nm_fail(p, NM_KIND_IP_VERSION, NM_MALFORMED);
	header = ip->ihl * 4;
	if (header < sizeof(*ip) || offset + header > skb->len)
		return nm_fail(p, NM_KIND_IP_HEADER_LENGTH, NM_MALFORMED);
	total = bpf_ntohs(ip->tot_len);
	/* A super-packet above 64 KiB (BIG TCP, 5.19) has total length 0. */
	if (!total && skb->gso_size)
		total = skb->len - offset;
	if (total < header || offset + total > skb->len)
		return nm_fail(p, NM_KIND_IP_TOTAL_LENGTH, NM_MALFORMED);
	p->family = 4;
	p->protocol = ip->protocol;
	*(u32 *)&p->source[0] = ip->saddr;
	*(u32 *)&p->destination[0] = ip->daddr;
	fragment = bpf_ntohs(ip->frag_off);
	in->offset = offset + header;
	in->end = offset + total;
	in->fragment = fragment & 0x1fff;
	in->more = fragment & 0x2000;
	in->id = ip->id;
	return NM_COUNTED;
}

static __always_inline enum nm_outcome nm_parse_ipv6(struct __sk_buff *skb, enum nm_way way, struct nm_packet *p,
						     u32 offset, struct nm_payload *in)
{
	struct ipv6hdr copy, *ip = nm_header(skb, way, offset, &copy, sizeof(copy));
	u32 end, fragment = 0, more = 0, id = 0, i;
	u8 next;

	if (!ip)
		return nm_fail(p, NM_KIND_SHORT_IP, NM_MALFORMED);
	if (ip->version != 6)
		return nm_fail(p, NM_KIND_IP_VERSION, NM_MALFORMED);
	end = bpf_ntohs(ip->payload_len);
	/* 0 in a jumbogram (RFC 2675) and in a super-packet above 64 KiB. */
	if (!end && skb->len > offset + sizeof(*ip) && (skb->gso_size || ip->nexthdr == IPPROTO_HOPOPTS))
		end = skb->len - offset - sizeof(*ip);
	end += offset + sizeof(*ip);
	if (end > skb->len)
		return nm_fail(p, NM_KIND_IP_TOTAL_LENGTH, NM_MALFORMED);
	p->family = 6;
	__builtin_memcpy(p->source, &ip->saddr, 16);
	__builtin_memcpy(p->destination, &ip->daddr, 16);
	next = ip->nexthdr;
	offset += sizeof(*ip);
	if (way == NM_SHORT_WAY)
		goto transport;

	/* Eight extension headers; RFC 8200 4.1 names six, each but one at most once. */
	for (i = 0; i < 9; i++) {
		struct nm_fragment ext_copy, *ext;

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT && next != IPPROTO_AH && next != IPPROTO_MH && next != 139)
			break;
		ext = nm_header(skb, way, offset, &ext_copy, sizeof(ext_copy));
		if (i == 8 || !ext || offset + sizeof(*ext) > end)
			return nm_fail(p, NM_KIND_EXTENSION, NM_MALFORMED);
		if (next == IPPROTO_FRAGMENT) {
			fragment = bpf_ntohs(ext->offset_be) >> 3;
			more = bpf_ntohs(ext->offset_be) & 1;
			id = ext->id;
			offset += sizeof(*ext);
			next = ext->next;
			if (fragment)
				break;
			continue;
		}
		/* AH counts words of four bytes less two and has three at least (RFC 4302), the others words of eight less one. */
		if (next == IPPROTO_AH && !ext->reserved)
			return nm_fail(p, NM_KIND_EXTENSION, NM_MALFORMED);
		offset += next == IPPROTO_AH ? (ext->reserved + 2) * 4 : (ext->reserved + 1) * 8;
		next = ext->next;
		if (offset > end)
			return nm_fail(p, NM_KIND_EXTENSION, NM_MALFORMED);
	}
transport:
	p->protocol = next;
	in->offset = offset;
	in->end = end;
	in->fragment = fragment;
	in->more = more;
	in->id = id;
	return NM_COUNTED;
}

/* Of a packet that lies in another one: where it begins, and where at the latest it ends. Of the packet itself: 0. */
struct nm_inside {
	u32 at;
	u32 end;
};

/* `type_be` says what comes first when there is no link header. */
static __always_inline enum nm_outcome nm_parse_by(struct __sk_buff *skb, enum nm_way way, struct nm_packet *p,
						   u32 link_bytes, u16 type_be, const struct nm_inside *inside)
{
	u32 offset = inside->at + link_bytes, i;
	struct nm_payload in;
	enum nm_outcome outcome;

	if (link_bytes) {
		struct ethhdr copy, *eth = nm_header(skb, way, inside->at, &copy, sizeof(copy));

		if (!eth)
			return nm_fail(p, NM_KIND_SHORT_LINK, NM_MALFORMED);
		type_be = eth->h_proto;
		/* The outer tag may be in the metadata (hardware or kernel has stripped it): with it,
		 * one tag in the bytes is the second. */
		for (i = !inside->at && skb->vlan_present ? 1 : 0; way == NM_LONG_WAY && i < 3; i++) {
			struct nm_vlan vlan_copy, *vlan;

			if (type_be != bpf_htons(ETH_P_8021Q) && type_be != bpf_htons(ETH_P_8021AD))
				break;
			if (i == 2)
				return nm_fail(p, NM_KIND_VLAN_DEPTH, NM_NOT_IP);
			vlan = nm_header(skb, way, offset, &vlan_copy, sizeof(vlan_copy));
			if (!vlan)
				return nm_fail(p, NM_KIND_SHORT_LINK, NM_MALFORMED);
			type_be = vlan->type_be;
			offset += sizeof(*vlan);
		}
	}
	if (type_be == bpf_htons(ETH_P_IP))
		outcome = nm_parse_ipv4(skb, way, p, offset, &in);
	else if (type_be == bpf_htons(ETH_P_IPV6))
		outcome = nm_parse_ipv6(skb, way, p, offset, &in);
	else
		return nm_fail(p, type_be == bpf_htons(ETH_P_ARP) ? NM_KIND_ARP : NM_KIND_OTHER_ETHERTYPE, NM_NOT_IP);
	if (outcome != NM_COUNTED)
		return outcome;
	if (inside->at && in.end > inside->end)
		return nm_fail(p, NM_KIND_IP_TOTAL_LENGTH, NM_MALFORMED);
	/* The stack makes one large packet inside of a super-packet; a super-packet of whole datagrams holds many. */
	if (inside->at && skb->gso_size && in.end != inside->end)
		return nm_fail(p, NM_KIND_TUNNEL_BUNDLE, NM_MALFORMED);
	return nm_parse_transport(skb, way, p, &in);
}

/* `at`, `end`: as in nm_inside. */
NM_GLOBAL int nm_parse_long(struct __sk_buff *skb, u32 link_bytes, u16 type_be, u32 at, u32 end)
{
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_inside inside = {.at = at, .end = end};

	if (!scratch)
		return NM_MALFORMED;
	__builtin_memset(&scratch->packet, 0, sizeof(scratch->packet));
	return nm_parse_by(skb, NM_LONG_WAY, &scratch->packet, link_bytes, type_be, &inside);
}

/* Fills the packet in hand; NM_COUNTED means that it has a flow. */
static __always_inline u32 nm_parse(struct __sk_buff *skb, struct nm_packet *p, u32 link_bytes)
{
	struct nm_inside inside = {};

	__builtin_memset(p, 0, sizeof(*p));
	if (nm_parse_by(skb, NM_SHORT_WAY, p, link_bytes, skb->protocol, &inside) == NM_COUNTED)
		return NM_COUNTED;
	return nm_parse_long(skb, link_bytes, skb->protocol, 0, 0);
}

#endif
