/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Events: rare (a flow opened, was active again, ended), never per packet, and without a wake-up each
 * (a forced wake-up costs as much as 300 packets): the reader comes by its own timer, and is woken once
 * when the ring runs half full or the table runs short of room.
 */
#ifndef NM_EVENT_H
#define NM_EVENT_H

#include "nm_maps.h"

#define NM_WAKE 0x100 /* with the kind: wake the reader */

NM_GLOBAL int nm_emit(struct __sk_buff *skb, u32 kind, u32 table, u32 slot, u64 stamp_ns)
{
	struct nm_event event = {
		.stamp_ns = stamp_ns,
		.slot = slot,
		.table = table,
		.kind = kind,
	};
	struct nm_event *room;
	u64 flags = BPF_RB_NO_WAKEUP;

	if (nm_transport == NM_PERF) {
		/* The perf buffer's watermark wakes the reader. */
		if (bpf_perf_event_output(skb, &nm_perf, BPF_F_CURRENT_CPU, &event, sizeof(event)))
			nm_note(NM_KIND_EVENT_LOST);
		return 0;
	}
	if (!nm_control.waking &&
	    (kind & NM_WAKE || bpf_ringbuf_query(&nm_ring, BPF_RB_AVAIL_DATA) >= nm_control.wake_bytes)) {
		nm_control.waking = 1;
		flags = BPF_RB_FORCE_WAKEUP;
	}
	room = bpf_ringbuf_reserve(&nm_ring, sizeof(event), 0);
	if (!room) {
		nm_note(NM_KIND_EVENT_LOST);
		return 0;
	}
	*room = event;
	bpf_ringbuf_submit(room, flags);
	return 0;
}

static __always_inline u64 nm_now_coarse_ns(void)
{
	/* 5.11; a tick behind at most and six times cheaper. */
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_ktime_get_coarse_ns))
		return bpf_ktime_get_coarse_ns();
	return bpf_ktime_get_ns();
}

#endif
