/* SPDX-License-Identifier: GPL-2.0-only */
/* Ports and flags: TCP, UDP, SCTP, ICMP; fragments find the ports of their first. Included by nm_packet.h. */
#ifndef NM_TRANSPORT_H
#define NM_TRANSPORT_H

#include <linux/tcp.h>
#include <linux/udp.h>
#include "nm_hash.h"

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

/* Word of a datagram in nm_fragments: 32 bits of check above, the ports below. */
static __always_inline u64 *nm_fragment_word(struct nm_packet *p, u32 id, u64 *check)
{
	struct nm_sip s;
	u64 hash;
	u32 index;

	nm_sip_start(&s, nm_hash_key[0], nm_hash_key[1]);
	nm_sip_word(&s, p->source[0]);
	nm_sip_word(&s, p->source[1]);
	nm_sip_word(&s, p->destination[0]);
	nm_sip_word(&s, p->destination[1]);
	nm_sip_word(&s, (u64)id << 8 | p->protocol);
	hash = nm_sip_finish(&s);
	index = hash & 8191;
	*check = hash & 0xffffffff00000000ULL;
	return bpf_map_lookup_elem(&nm_fragments, &index);
}

static __always_inline enum nm_outcome nm_parse_ports(struct __sk_buff *skb, struct nm_packet *p, u32 offset, u32 end,
						      bool whole)
{
	if (p->protocol == IPPROTO_TCP) {
		struct tcphdr copy, *tcp = nm_header(skb, offset, &copy, sizeof(copy));

		if (!tcp || offset + sizeof(*tcp) > end)
			return nm_fail(p, NM_KIND_SHORT_TRANSPORT, NM_MALFORMED);
		if (tcp->doff < 5 || (whole && offset + tcp->doff * 4 > end))
			return nm_fail(p, NM_KIND_TCP_OFFSET, NM_MALFORMED);
		p->source_port_be = tcp->source;
		p->destination_port_be = tcp->dest;
		p->tcp_flags = ((u8 *)tcp)[13];
		p->header_bytes = offset + tcp->doff * 4;
	} else if (p->protocol == IPPROTO_UDP) {
		struct udphdr copy, *udp = nm_header(skb, offset, &copy, sizeof(copy));
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
	} else if (p->protocol == IPPROTO_SCTP) {
		u16 copy[6], *sctp = nm_header(skb, offset, &copy, sizeof(copy));

		if (!sctp || offset + sizeof(copy) > end)
			return nm_fail(p, NM_KIND_SHORT_TRANSPORT, NM_MALFORMED);
		p->source_port_be = sctp[0];
		p->destination_port_be = sctp[1];
		p->header_bytes = offset + sizeof(copy);
	} else if (p->protocol == (p->family == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)) {
		struct nm_icmp copy, *icmp = nm_header(skb, offset, &copy, sizeof(copy));
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
		}
		p->header_bytes = offset + sizeof(*icmp);
	} else {
		p->header_bytes = offset;
	}
	return NM_COUNTED;
}

static __always_inline enum nm_outcome nm_parse_transport(struct __sk_buff *skb, struct nm_packet *p, u32 offset,
							  u32 end, u32 fragment, u32 more, u32 id)
{
	enum nm_outcome outcome;
	u64 check, *word;

	if (!fragment && !more)
		return nm_parse_ports(skb, p, offset, end, true);

	if (!fragment) {
		outcome = nm_parse_ports(skb, p, offset, end, false);
		if (outcome != NM_COUNTED)
			return outcome;
		word = nm_fragment_word(p, id, &check);
		if (word)
			*word = check | (u32)p->source_port_be << 16 | p->destination_port_be;
		return NM_COUNTED;
	}

	p->header_bytes = offset;
	word = nm_fragment_word(p, id, &check);
	if (word && (*word & 0xffffffff00000000ULL) == check) {
		u64 ports = *word;

		p->source_port_be = (u32)ports >> 16;
		p->destination_port_be = (u16)ports;
	} else if (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP || p->protocol == IPPROTO_SCTP) {
		nm_note(NM_KIND_FRAGMENT_ORPHAN);
	}
	return NM_COUNTED;
}

#endif
