/* SPDX-License-Identifier: GPL-2.0-only */
/* A packet from the hook to its outcome. */
#ifndef NM_SEE_H
#define NM_SEE_H

#include "nm_flow.h"

static __always_inline struct nm_interface *nm_interface_of(u32 ifindex)
{
	u32 near = ifindex % NM_NEAR, unnamed = 0;
	struct nm_interface *interface = bpf_map_lookup_elem(&nm_near, &near);

	if (interface && interface->ifindex == ifindex)
		return interface;
	interface = bpf_map_lookup_elem(&nm_interfaces, &ifindex);
	return interface ?: bpf_map_lookup_elem(&nm_interfaces, &unnamed);
}

static __always_inline int nm_see(struct __sk_buff *skb, u32 hook)
{
	u32 zero = 0;
	struct nm_interface *interface = nm_interface_of(skb->ifindex);
	struct nm_scratch *scratch = bpf_map_lookup_elem(&nm_scratch, &zero);
	enum nm_outcome outcome;

	if (!interface || !scratch)
		return TC_ACT_UNSPEC;
	/*
	 * Programs of a CPU run one after the other: plain adds are exact. A packet is seen before anything
	 * is known of it, and has its outcome last: a way out without one would show as a difference.
	 */
	interface->seen[hook] += 1;
	__builtin_memset(scratch, 0, sizeof(*scratch));
	outcome = nm_parse(skb, &scratch->packet, interface->link_bytes);
	nm_measure(skb, scratch->packet.header_bytes, &scratch->wire);
	interface->seen[hook] += scratch->wire.packets - 1;
	if (outcome == NM_COUNTED)
		outcome = nm_account(skb, scratch, hook);
	else
		nm_note(scratch->packet.kind);
	if (outcome < NM_OUTCOMES)
		interface->outcomes[hook][outcome] += scratch->wire.packets;
	if (outcome == NM_COUNTED)
		interface->counted_bytes[hook] += scratch->wire.bytes;
	return TC_ACT_UNSPEC;
}

#endif
