/* SPDX-License-Identifier: GPL-2.0-only */
/* Packets that pass through this host: counted where they come in. For translations that the agent is told of (nm_nat.h). */
#ifndef NM_PASSING_H
#define NM_PASSING_H

#include "nm_maps.h"

/* UDP ports of what this host wraps without clearing where the inner packet came in: IPsec (RFC 3948), L2TP (RFC 2661). */
#define NM_PORT_IPSEC 4500
#define NM_PORT_L2TP  1701

/*
 * Whether the packet on its way out has come in by a watched interface: it was counted there, or left out by sampling, by
 * whatever key it had, and must not be counted again by one that the agent has not been told of yet.
 */
static __always_inline bool nm_passes(struct __sk_buff *skb, const struct nm_packet *p, u32 hook)
{
	u32 from = skb->ingress_ifindex;

	if (nm_nat != NM_NAT_TOLD || hook != NM_EGRESS || !from)
		return false;
	if (p->protocol == IPPROTO_UDP) {
		if (p->destination_port_be == bpf_htons(NM_PORT_IPSEC) ||
		    p->destination_port_be == bpf_htons(NM_PORT_L2TP))
			return false;
	} else if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_SCTP && p->protocol != IPPROTO_ICMP &&
		   p->protocol != IPPROTO_ICMPV6) {
		return false;
	}
	return nm_interface_of(from);
}

#endif
