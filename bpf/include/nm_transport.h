/* SPDX-License-Identifier: GPL-2.0-only */
/* Ports and flags: TCP, UDP, SCTP, ICMP; fragments find the ports of their first. Included by nm_packet.h. */
#ifndef NM_TRANSPORT_H
#define NM_TRANSPORT_H

#include <linux/tcp.h>
#include <linux/udp.h>
#include "nm_hash.h"

#define NM_TCP_FIN 0x01
#define NM_TCP_SYN 0x02
#define NM_TCP_RST 0x04
#define NM_TCP_ACK 0x10

/* <linux/icmp.h> drags in the C library. */
struct nm_icmp {
	u8 type;
	u8 code;
	u16 checksum;
	u16 echo_id;
	u16 echo_sequence;
};

#define NM_ICMP_ECHO	     8 /* RFC 792 */
#define NM_ICMP_ECHO_REPLY   0
#define NM_ICMPV6_ECHO	     128 /* RFC 4443 */
#define NM_ICMPV6_ECHO_REPLY 129

#define NM_ICMP_UNREACHABLE 3
#define NM_ICMP_TIME	    11
#define NM_ICMP_PARAMETER   12

#define NM_ICMPV6_UNREACHABLE 1
#define NM_ICMPV6_TOO_BIG     2
#define NM_ICMPV6_TIME	      3
#define NM_ICMPV6_PARAMETER   4

/* 0: not an error. Codes of type 3: RFC 792 (0-5), RFC 1122 3.2.2.1 (6-12), RFC 1812 5.2.7.1 (13-15). */
static __always_inline u8 nm_icmp_error(u8 type, u8 code)
{
	if (type == NM_ICMP_TIME)
		return NM_ERROR_TIME;
	if (type == NM_ICMP_PARAMETER)
		return NM_ERROR_PARAMETER;
	if (type != NM_ICMP_UNREACHABLE)
		return 0;
	if (code == 3)
		return NM_ERROR_PORT;
	if (code == 4)
		return NM_ERROR_TOO_BIG;
	return code == 9 || code == 10 || code >= 13 ? NM_ERROR_PROHIBITED : NM_ERROR_UNREACHABLE;
}

/* Codes of type 1: RFC 4443 3.1 (1 prohibited, 4 port, 5 policy, 6 reject route). */
static __always_inline u8 nm_icmpv6_error(u8 type, u8 code)
{
	if (type == NM_ICMPV6_TOO_BIG)
		return NM_ERROR_TOO_BIG;
	if (type == NM_ICMPV6_TIME)
		return NM_ERROR_TIME;
	if (type == NM_ICMPV6_PARAMETER)
		return NM_ERROR_PARAMETER;
	if (type != NM_ICMPV6_UNREACHABLE)
		return 0;
	if (code == 4)
		return NM_ERROR_PORT;
	return code == 1 || code == 5 || code == 6 ? NM_ERROR_PROHIBITED : NM_ERROR_UNREACHABLE;
}

/* Where the transport header is, and what of the datagram is here. */
struct nm_payload {
	u32 offset;
	u32 end;
	u32 fragment; /* offset of this fragment, 0 = the first or the only one */
	u32 more;
	u32 id;
};

/*
 * Ports of a fragment: the first leaves them in nm_fragments for the others. A word there is 32 bits of check above, the
 * ports below.
 */
NM_GLOBAL int nm_fragment_ports(u32 id, bool first)
{
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_packet *p;
	struct nm_sum sum;
	u64 hash, check, ports, *word;
	u32 index;

	if (!scratch)
		return 0;
	p = &scratch->packet;
	p->fragment = 1;
	nm_sum_start(&sum);
	nm_sum_address(&sum, 0, p->source);
	nm_sum_address(&sum, 4, p->destination);
	nm_sum_word(&sum, 8, id);
	nm_sum_word(&sum, 9, p->protocol);
	hash = nm_sum_finish(&sum);
	index = hash & 8191;
	check = hash & 0xffffffff00000000ULL;
	word = bpf_map_lookup_elem(&nm_fragments, &index);
	if (!word)
		return 0;
	if (first) {
		*word = check | (u32)p->source_port_be << 16 | p->destination_port_be;
		return 0;
	}
	ports = *word;
	if ((ports & 0xffffffff00000000ULL) == check) {
		p->source_port_be = (u32)ports >> 16;
		p->destination_port_be = (u16)ports;
	} else if (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP || p->protocol == IPPROTO_SCTP) {
		nm_note(NM_KIND_FRAGMENT_ORPHAN);
	}
	return 0;
}

static __always_inline enum nm_outcome nm_parse_ports(struct __sk_buff *skb, enum nm_way way, struct nm_packet *p,
						      u32 offset, u32 end, bool whole)
{
	if (p->protocol == IPPROTO_TCP) {
		struct tcphdr copy, *tcp = nm_header(skb, way, offset, &copy, sizeof(copy));

		if (!tcp || offset + sizeof(*tcp) > end)
			return nm_fail(p, NM_KIND_SHORT_TRANSPORT, NM_MALFORMED);
		if (tcp->doff < 5 || (whole && offset + tcp->doff * 4 > end))
			return nm_fail(p, NM_KIND_TCP_OFFSET, NM_MALFORMED);
		p->source_port_be = tcp->source;
		p->destination_port_be = tcp->dest;
		p->tcp_flags = ((u8 *)tcp)[13];
		p->header_bytes = offset + tcp->doff * 4;
		if (nm_features && whole) {
			p->whole = 1;
			p->tcp_options = offset + sizeof(*tcp);
			p->payload_bytes = end - p->header_bytes;
			p->seq = bpf_ntohl(tcp->seq);
			p->ack = bpf_ntohl(tcp->ack_seq);
			p->window = bpf_ntohs(tcp->window);
		}
	} else if (p->protocol == IPPROTO_UDP) {
		struct udphdr copy, *udp = nm_header(skb, way, offset, &copy, sizeof(copy));
		u32 length;

		if (!udp || offset + sizeof(*udp) > end)
			return nm_fail(p, NM_KIND_SHORT_TRANSPORT, NM_MALFORMED);
		length = bpf_ntohs(udp->len);
		/* 0 in a jumbogram (RFC 2675). */
		if ((length || p->family == 4) && (length < sizeof(*udp) || (whole && offset + length > end)))
			return nm_fail(p, NM_KIND_UDP_LENGTH, NM_MALFORMED);
		p->source_port_be = udp->source;
		p->destination_port_be = udp->dest;
		p->header_bytes = offset + sizeof(*udp);
		if (nm_features && whole) {
			p->whole = 1;
			p->payload_bytes = end - p->header_bytes;
		}
	} else if (way == NM_SHORT_WAY) {
		return NM_MALFORMED;
	} else if (p->protocol == IPPROTO_SCTP) {
		u16 copy[6], *sctp = nm_header(skb, way, offset, &copy, sizeof(copy));

		if (!sctp || offset + sizeof(copy) > end)
			return nm_fail(p, NM_KIND_SHORT_TRANSPORT, NM_MALFORMED);
		p->source_port_be = sctp[0];
		p->destination_port_be = sctp[1];
		p->header_bytes = offset + sizeof(copy);
	} else if (p->protocol == (p->family == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)) {
		struct nm_icmp copy, *icmp = nm_header(skb, way, offset, &copy, sizeof(copy));
		bool v4 = p->family == 4;

		if (!icmp || offset + sizeof(*icmp) > end)
			return nm_fail(p, NM_KIND_SHORT_TRANSPORT, NM_MALFORMED);
		p->icmp_type = icmp->type;
		p->icmp_code = icmp->code;
		p->is_request = icmp->type == (v4 ? NM_ICMP_ECHO : NM_ICMPV6_ECHO);
		p->is_reply = icmp->type == (v4 ? NM_ICMP_ECHO_REPLY : NM_ICMPV6_ECHO_REPLY);
		if (p->is_request || p->is_reply) {
			p->source_port_be = icmp->echo_id;
			p->destination_port_be = icmp->echo_id;
			p->seq = icmp->echo_sequence;
		}
		p->header_bytes = offset + sizeof(*icmp);
		p->icmp_error = v4 ? nm_icmp_error(icmp->type, icmp->code) : nm_icmpv6_error(icmp->type, icmp->code);
		p->quote = offset + sizeof(*icmp);
	} else {
		p->header_bytes = offset;
	}
	return NM_COUNTED;
}

static __always_inline enum nm_outcome nm_parse_transport(struct __sk_buff *skb, enum nm_way way, struct nm_packet *p,
							  const struct nm_payload *in)
{
	if (way == NM_SHORT_WAY && (in->fragment || in->more))
		return NM_MALFORMED;
	if (!in->fragment) {
		enum nm_outcome outcome = nm_parse_ports(skb, way, p, in->offset, in->end, !in->more);

		if (outcome != NM_COUNTED || !in->more)
			return outcome;
	} else {
		p->header_bytes = in->offset;
	}
	nm_fragment_ports(in->id, !in->fragment);
	return NM_COUNTED;
}

#endif
