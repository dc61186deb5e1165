/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Packets told one by one, for `debug packet-trace`. Off, it costs a packet one test of a word in a line that it has in hand; on,
 * the filter, the rate and the end in time are kept here, so that whoever asked may be slow or gone. Floor: 5.10.
 */
#ifndef NM_TRACE_H
#define NM_TRACE_H

#include "nm_flow.h"

static __always_inline bool nm_is_within(const u64 address[2], const struct nm_trace_rule *rule)
{
	const u64 *network = (const u64 *)rule->network, *mask = (const u64 *)rule->mask;

	return !(((address[0] ^ network[0]) & mask[0]) | ((address[1] ^ network[1]) & mask[1]));
}

/* Whether it is one of those that were asked for. */
static __always_inline bool nm_is_traced(const struct nm_trace_rule *rule, const struct nm_packet *p, u32 ifindex,
					 u32 outcome)
{
	if (!(rule->outcomes >> outcome & 1) || (rule->ifindex && rule->ifindex != ifindex))
		return false;
	/* Without a family the parser did not come as far as to the protocol. */
	if (rule->by_protocol && (!p->family || rule->protocol != p->protocol))
		return false;
	if (rule->family &&
	    (rule->family != p->family || !(nm_is_within(p->source, rule) || nm_is_within(p->destination, rule))))
		return false;
	if (!rule->by_port)
		return true;
	return (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP || p->protocol == IPPROTO_SCTP) &&
	       (p->source_port_be == rule->port_be || p->destination_port_be == rule->port_be);
}

/* Whether there is time for one more line; what there is none for is counted. */
static __always_inline bool nm_may_tell(struct nm_trace_rate *rate, const struct nm_trace_rule *rule, u64 now_ns)
{
	u64 line_ns = rule->line_ns, earliest_ns = now_ns - rule->burst_ns;
	bool may;

	bpf_spin_lock(&rate->lock);
	if (rate->count.next_ns < earliest_ns)
		rate->count.next_ns = earliest_ns;
	may = rate->count.next_ns <= now_ns;
	if (may)
		rate->count.next_ns += line_ns;
	else
		rate->count.left_out += 1;
	bpf_spin_unlock(&rate->lock);
	return may;
}

/* The id of the flow that holds the packet, as told of it elsewhere; 0 if it has gone meanwhile. */
static __always_inline u64 nm_traced_flow(const struct nm_packet *p)
{
	struct nm_place at = {};
	u32 side = nm_sender_side(p), slot;
	struct nm_bucket *bucket = nm_flow_of(&at, nm_find(&at, nm_tag(nm_hash(p, side))), &side);

	if (!bucket)
		return 0;
	slot = nm_slot_of(&at);
	/* Of a slot that has moved the start is another word. */
	if (bucket->cold[slot].agent_flags & NM_FLAG_MOVED)
		return 0;
	return nm_flow_id(bucket->tags[slot], bucket->cold[slot].start_ns);
}

/* The packet in hand, with its outcome. */
NM_GLOBAL int nm_trace(struct __sk_buff *skb, u32 hook, u32 outcome)
{
	u32 zero = 0;
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_trace_rule *rule = bpf_map_lookup_elem(&nm_trace_rule, &zero);
	struct nm_trace_rate *rate = bpf_map_lookup_elem(&nm_trace_rate, &zero);
	struct nm_trace_line line = {};
	const struct nm_packet *p;

	if (!scratch || !rule || !rate)
		return 0;
	p = &scratch->packet;
	line.stamp_ns = bpf_ktime_get_ns();
	if (line.stamp_ns >= rule->until_ns || !nm_is_traced(rule, p, skb->ifindex, outcome & 31) ||
	    !nm_may_tell(rate, rule, line.stamp_ns))
		return 0;
	line.number = rule->number;
	line.ifindex = skb->ifindex;
	line.bytes = scratch->wire.bytes;
	line.packets = scratch->wire.packets;
	line.family = p->family;
	line.protocol = p->protocol;
	__builtin_memcpy(line.source, p->source, 16);
	__builtin_memcpy(line.destination, p->destination, 16);
	line.source_port_be = p->source_port_be;
	line.destination_port_be = p->destination_port_be;
	line.tcp_flags = p->tcp_flags;
	line.icmp_type = p->icmp_type;
	line.icmp_code = p->icmp_code;
	line.hook = hook;
	line.outcome = outcome;
	line.kind = p->kind;
	if (outcome == NM_COUNTED || outcome == NM_DUPLICATE)
		line.flow = nm_traced_flow(p);
	if (bpf_map_push_elem(&nm_trace_lines, &line, BPF_ANY))
		__sync_fetch_and_add(&rate->count.lost, 1);
	return 0;
}

#endif
