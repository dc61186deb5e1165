// SPDX-License-Identifier: GPL-2.0-only
/*
 * Moves one bucket of the table that is being emptied (nm_control.previous) into the current one. Not
 * attached anywhere: the agent runs it through BPF_PROG_TEST_RUN with `repeat`, once a bucket, after a
 * grace period has made sure that nothing is claimed in the old table any more. The old slot keeps its
 * counters and is marked dead; the agent adds them to the new slot after the next grace period, so packets
 * that are on their way into either are all kept. Floor: 5.10.
 */
#include "nm_maps.h"
#include "nm_flow.h"

/* Not nm_scratch: before 6.11 a packet may interrupt a test run. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct nm_place);
} nm_move_to SEC(".maps");

/*
 * State goes along now; what is measured and counted follows with the counters. A packet that has found the new slot meanwhile has
 * begun afresh there, and keeps that.
 */
static __always_inline void nm_move_known(const struct nm_wide *from, u32 i, struct nm_wide *to, u32 slot)
{
	u32 side;

	if (!to)
		return;
	slot &= NM_SLOTS - 1;
#pragma unroll
	for (side = 0; side < 2; side++) {
		/* Of UDP it holds counts: the agent adds them. */
		if (from->narrow.cold[i].protocol != IPPROTO_UDP && !to->track[slot].side[side].marks)
			to->track[slot].side[side] = from->track[i].side[side];
		to->timing[slot].app_tries[side] = from->timing[i].app_tries[side];
		to->timing[slot].who[side] = from->timing[i].who[side];
		to->detail[slot].srtt_us[side] = from->detail[i].srtt_us[side];
	}
	to->timing[slot].answer_us = from->timing[i].answer_us;
	to->timing[slot].first_byte_us = from->timing[i].first_byte_us;
	to->timing[slot].request_us = from->timing[i].request_us;
	to->timing[slot].app = from->timing[i].app;
	to->timing[slot].app_detail = from->timing[i].app_detail;
}

SEC("tc")
int nm_move(struct __sk_buff *skb)
{
	u32 cursor = nm_control.move_cursor, from = nm_control.previous, zero = 0, i;
	struct nm_place *to = bpf_map_lookup_elem(&nm_move_to, &zero);
	struct nm_bucket *old;

	nm_control.move_cursor = cursor + 1;
	old = nm_bucket_at(from, cursor);
	if (!old || !to)
		return 0;
	for (i = 0; i < NM_SLOTS; i++) {
		u64 tag = old->tags[i];
		struct nm_cold cold;
		struct nm_hot hot = {};
		bool fresh;

		if (!tag || tag & NM_DEAD)
			continue;
		cold = old->cold[i];
		cold.agent_flags &= ~NM_FLAGS_OF_SLOT;
		hot.seen_ticks[0] = old->hot[i].seen_ticks[0];
		hot.seen_ticks[1] = old->hot[i].seen_ticks[1];
		hot.owner[0] = old->hot[i].owner[0];
		hot.owner[1] = old->hot[i].owner[1];
		hot.report_ticks = old->hot[i].report_ticks;
		hot.tcp_flags[0] = old->hot[i].tcp_flags[0];
		hot.tcp_flags[1] = old->hot[i].tcp_flags[1];
		hot.marks = old->hot[i].marks;
		hot.icmp_errors = old->hot[i].icmp_errors;
		hot.closed_ns = old->hot[i].closed_ns;
		if (!nm_claim(to, tag, &cold, &hot, &fresh)) {
			nm_control.move_failed += 1;
			continue;
		}
		if (nm_features)
			nm_move_known((struct nm_wide *)old, i, nm_wide_at(to), to->slot);
		old->cold[i].agent_flags |= NM_FLAG_MOVED;
		old->cold[i].start_ns = nm_slot_number(to);
		old->tags[i] = tag | NM_DEAD;
	}
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
