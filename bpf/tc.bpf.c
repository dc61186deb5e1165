// SPDX-License-Identifier: GPL-2.0-only
/*
 * TC ingress and egress of every watched interface: each packet is counted once, with its outcome.
 * Reads nm_interfaces (link header length), writes the flow table, the per-CPU counters and, rarely, an
 * event. TCX from 6.6, clsact below; the verdict is always "go on as if we weren't here".
 * Floor: 5.10.
 */
#include "nm_maps.h"
#include "nm_flow.h"

static __always_inline int nm_see(struct __sk_buff *skb, u32 hook)
{
	u32 ifindex = skb->ifindex, zero = 0;
	struct nm_interface *interface = bpf_map_lookup_elem(&nm_interfaces, &ifindex);
	struct nm_scratch *scratch = bpf_map_lookup_elem(&nm_scratch, &zero);
	enum nm_outcome outcome;

	if (!interface)
		interface = bpf_map_lookup_elem(&nm_interfaces, &zero);
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

SEC("tcx/ingress")
int nm_ingress(struct __sk_buff *skb)
{
	return nm_see(skb, NM_INGRESS);
}

SEC("tcx/egress")
int nm_egress(struct __sk_buff *skb)
{
	return nm_see(skb, NM_EGRESS);
}

/* What an empty program costs: the yardstick of benches/packet. Never attached. */
SEC("tc")
int nm_empty(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "GPL";
