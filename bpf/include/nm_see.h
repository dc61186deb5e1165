/* SPDX-License-Identifier: GPL-2.0-only */
/* A packet from the hook to its outcome. */
#ifndef NM_SEE_H
#define NM_SEE_H

#include "nm_quote.h"
#include "nm_trace.h"

/*
 * What the programs take, of one run in many: the kernel's own statistics (BPF_ENABLE_STATS) read two clocks at each run, 30 ns
 * of 150, and need CAP_SYS_ADMIN. 0 = this run is not timed.
 */
static __always_inline u64 nm_timed_since(struct nm_scratch *scratch)
{
	return scratch->runs++ % NM_TIMED_EVERY ? 0 : bpf_ktime_get_ns();
}

static __always_inline int nm_see(struct __sk_buff *skb, u32 hook)
{
	struct nm_interface *interface = nm_interface_of(skb->ifindex);
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_hook_counts *counts;
	u32 outcome, unnamed = 0, hindered = NM_KIND_NONE;
	u64 since;

	interface = interface ?: bpf_map_lookup_elem(&nm_interfaces, &unnamed);
	if (!interface || !scratch)
		return TC_ACT_UNSPEC;
	since = nm_timed_since(scratch);
	counts = &interface->hooks[hook];
	/*
	 * Programs of a CPU run one after the other: plain adds are exact. A packet is seen before anything
	 * is known of it, and has its outcome last: a way out without one would show as a difference.
	 */
	counts->seen += 1;
	outcome = nm_parse(skb, &scratch->packet, interface->link_bytes);
	if (nm_decapsulate && outcome == NM_COUNTED) {
		u32 tunnel = nm_tunnel_of(&scratch->packet);

		if (tunnel)
			hindered = nm_look_inside(skb, tunnel);
	}
	nm_measure(skb, scratch->packet.header_bytes, &scratch->wire);
	counts->seen += scratch->wire.packets - 1;
	if (hindered != NM_KIND_NONE)
		nm_note_more(hindered, scratch->wire.packets);
	if (outcome == NM_COUNTED)
		outcome = nm_account(skb, hook);
	else
		nm_note_more(scratch->packet.kind, scratch->wire.packets);
	if (outcome < NM_OUTCOMES)
		counts->outcomes[outcome] += scratch->wire.packets;
	if (outcome == NM_COUNTED)
		counts->counted_bytes += scratch->wire.bytes;
	/* Before the packet in hand is the one that an error quotes. */
	if (nm_control.tracing)
		nm_trace(skb, hook, outcome);
	/* The other key of what an error quotes may not be known: then it tells on its way out. */
	if (scratch->packet.icmp_error && (outcome == NM_COUNTED || (nm_nat == NM_NAT_TOLD && outcome == NM_DUPLICATE)))
		nm_quote(skb);
	if (since)
		nm_note_more(NM_KIND_RUN_NS, (bpf_ktime_get_ns() - since) * NM_TIMED_EVERY);
	return TC_ACT_UNSPEC;
}

#endif
