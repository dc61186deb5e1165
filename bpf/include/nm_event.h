/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Events: rare (a flow opened, was active again, ended), never per packet, and without a wake-up each
 * (a forced wake-up costs as much as 300 packets): the reader comes by its own timer, and is woken once
 * when the ring runs half full or the table runs short of room.
 */
#ifndef NM_EVENT_H
#define NM_EVENT_H

#include "nm_maps.h"

#define NM_WAKE true

static __always_inline void nm_emit(struct __sk_buff *skb, u8 kind, u32 table, u32 slot, u64 stamp_ns, bool wake)
{
	struct nm_event event = {
		.stamp_ns = stamp_ns,
		.slot = slot,
		.table = table,
		.kind = kind,
	};
	u64 flags = BPF_RB_NO_WAKEUP;
	long err;

	if (nm_transport == NM_PERF) {
		/* The perf buffer's watermark wakes the reader. */
		err = bpf_perf_event_output(skb, &nm_perf, BPF_F_CURRENT_CPU, &event, sizeof(event));
	} else {
		if (!nm_control.waking &&
		    (wake || bpf_ringbuf_query(&nm_ring, BPF_RB_AVAIL_DATA) > nm_control.wake_bytes)) {
			nm_control.waking = 1;
			flags = BPF_RB_FORCE_WAKEUP;
		}
		err = bpf_ringbuf_output(&nm_ring, &event, sizeof(event), flags);
	}
	if (err)
		nm_note(NM_KIND_EVENT_LOST);
}

static __always_inline u64 nm_now_coarse_ns(void)
{
	/* 5.11; a tick behind at most and six times cheaper. */
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_ktime_get_coarse_ns))
		return bpf_ktime_get_coarse_ns();
	return bpf_ktime_get_ns();
}

#endif
