/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Round trips, first bytes, and what sequence numbers tell of loss. A sample is the time from a segment to the
 * acknowledgement of all of it: one at a time for each side, none across a segment that was sent again (Karn, RFC 6298 3), and none
 * whose timestamp echo (RFC 7323) is younger than the segment: a gap before it was filled late. SYN and SYN+ACK are never
 * acknowledged with delay, so the minimum holds no delayed acknowledgement.
 *
 * Whoever counts a direction writes its side; samples of a side are written by the other's packets. Two CPUs with packets of
 * one direction at once may spoil a sample or count a segment as out of order; counters are atomic.
 */
#ifndef NM_TIMING_H
#define NM_TIMING_H

#include "nm_packet.h"
#include "nm_table.h"

#define NM_SAMPLE_TICKS	 191 /* normal precision: a side waits 200 ms, so a flow takes ten samples a second */
#define NM_REORDER_TICKS 3   /* a gap filled sooner than this, at least, was made by reordering, later by loss */
#define NM_BURST	 3   /* acknowledgements repeated in a row: RFC 5681 3.2 */
#define NM_LANE_FULL	 0xff00
#define NM_TCP_OPTIONS	 12 /* as many as fit into 40 bytes, about */

static __always_inline u32 nm_now_us(void)
{
	return bpf_ktime_get_ns() / 1000;
}

/*
 * The network card's stamp, where its driver gives one and somebody has switched it on: packets that come in only. Its clock is not
 * ours, so a round trip takes both stamps from it or none.
 */
static __always_inline u64 nm_hardware_us(struct __sk_buff *skb)
{
	/* 5.16; the field is not in the context before. */
	if (!(nm_features & NM_FEATURE_HARDWARE) || !bpf_core_field_exists(skb->hwtstamp))
		return 0;
	return skb->hwtstamp / 1000;
}

/* Bucket of a histogram. */
static __always_inline u32 nm_lane(u32 us)
{
	u32 lane = 0, i;

#pragma unroll
	for (i = 0; i < NM_LANES - 1; i++)
		lane += us > nm_bounds_us[i];
	barrier_var(lane); /* or clang leaves out the bound that the verifier wants */
	return lane;
}

/* The timestamps option of the packet in hand: value, echo. Most often two NOPs and then it (RFC 7323 appendix A). */
static __always_inline bool nm_timestamps(struct __sk_buff *skb, const struct nm_packet *p, u32 *value, u32 *echo)
{
	u32 at = p->tcp_options, end = p->header_bytes, i;
	struct {
		u8 kind[4];
		u32 words[2];
	} option;

	for (i = 0; i < NM_TCP_OPTIONS; i++) {
		u8 head[2];

		if (at + 12 <= end && !bpf_skb_load_bytes(skb, at, &option, sizeof(option)) && option.kind[0] == 1 &&
		    option.kind[1] == 1 && option.kind[2] == 8 && option.kind[3] == 10)
			goto found;
		if (at + 10 > end || bpf_skb_load_bytes(skb, at, head, sizeof(head)) || head[0] == 0)
			return false;
		if (head[0] == 1) {
			at++;
			continue;
		}
		if (head[0] == 8 && head[1] == 10) {
			if (bpf_skb_load_bytes(skb, at + 2, option.words, sizeof(option.words)))
				return false;
			goto found;
		}
		if (head[1] < 2)
			return false;
		at += head[1];
	}
	return false;
found:
	*value = bpf_ntohl(option.words[0]);
	*echo = bpf_ntohl(option.words[1]);
	return true;
}

/* A round trip from here to `side` and back. */
static __always_inline void nm_add_sample(struct nm_wide *wide, u32 slot, u32 side, u32 us)
{
	struct nm_timing *timing = &wide->timing[slot & (NM_SLOTS - 1)];
	struct nm_detail *detail = &wide->detail[slot & (NM_SLOTS - 1)];
	u32 other, whole, lane, word;

	side &= 1;
	other = !side;
	if (!timing->rtt_samples[side] || us < timing->rtt_min_us[side])
		timing->rtt_min_us[side] = us;
	if (us > timing->rtt_max_us[side])
		timing->rtt_max_us[side] = us;
	__sync_fetch_and_add(&timing->rtt_sum_us[side], us);
	__sync_fetch_and_add(&timing->rtt_samples[side], 1);

	/* The histogram is that of the whole way: with the least that the other half takes. */
	whole = us + (timing->rtt_samples[other] ? timing->rtt_min_us[other] : 0);
	lane = nm_lane(whole);
	word = lane >> 2;
	if (word >= NM_LANES / 4)
		return;
	lane = 16 * (lane & 3);
	if ((detail->lanes[word] >> lane & 0xffff) >= NM_LANE_FULL) {
		nm_note(NM_KIND_SAMPLE_LOST);
		return;
	}
	__sync_fetch_and_add(&detail->lanes[word], 1ULL << lane);
	__sync_fetch_and_add(&detail->lanes_sum_us, whole);
}

/* What the sender's own kernel thinks, if the sender is a socket of this host. */
static __always_inline void nm_own_srtt(struct __sk_buff *skb, struct nm_wide *wide, u32 slot, u32 side)
{
	struct bpf_sock *sk = skb->sk;
	struct bpf_tcp_sock *tcp = sk ? bpf_tcp_sock(sk) : NULL;

	if (tcp && tcp->srtt_us)
		wide->detail[slot & (NM_SLOTS - 1)].srtt_us[side & 1] = tcp->srtt_us >> 3;
}

/* The packet in hand acknowledges what the other side's sample waits for. */
NM_GLOBAL int nm_sample(struct __sk_buff *skb, u32 side)
{
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_wide *wide;
	struct nm_side *you;
	u32 value, echo, us;
	u64 stamp_us;

	wide = nm_wide_in_hand(scratch);
	if (!wide)
		return 0;
	side &= 1;
	you = &wide->track[nm_slot_of(&scratch->at)].side[!side];
	you->marks &= ~NM_SIDE_PROBE;
	if (you->marks & NM_SIDE_STAMPED && nm_timestamps(skb, &scratch->packet, &value, &echo) &&
	    (s32)(echo - you->probe_value) > 0)
		return 0;
	stamp_us = nm_hardware_us(skb);
	if (you->marks & NM_SIDE_HARDWARE) {
		if (!stamp_us) {
			nm_note(NM_KIND_STAMP_MISSING);
			return 0;
		}
		nm_note(NM_KIND_STAMP_HARDWARE);
	} else {
		stamp_us = nm_now_us();
		if (nm_features & NM_FEATURE_HARDWARE)
			nm_note(NM_KIND_STAMP_SOFTWARE);
	}
	us = stamp_us - you->probe_us;
	nm_add_sample(wide, scratch->at.slot, side, us);
	nm_own_srtt(skb, wide, scratch->at.slot, side);
	return 0;
}

/* The packet in hand is the one whose acknowledgement is waited for. */
NM_GLOBAL int nm_probe(struct __sk_buff *skb, u32 side, u32 end_seq, u32 now_ticks)
{
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_wide *wide;
	struct nm_side *me;
	u32 echo, value = 0;
	u64 stamp_us;
	bool stamped;

	wide = nm_wide_in_hand(scratch);
	if (!wide)
		return 0;
	me = &wide->track[nm_slot_of(&scratch->at)].side[side & 1];
	stamped = nm_timestamps(skb, &scratch->packet, &value, &echo);
	me->probe_value = value;
	me->probe_seq = end_seq;
	stamp_us = nm_hardware_us(skb);
	me->probe_us = stamp_us ?: nm_now_us();
	me->sampled_ticks = now_ticks & 0xffff ?: 1;
	nm_own_srtt(skb, wide, scratch->at.slot, side);
	me->marks = (me->marks & ~(NM_SIDE_STAMPED | NM_SIDE_HARDWARE)) | NM_SIDE_PROBE |
		    (stamped ? NM_SIDE_STAMPED : 0) | (stamp_us ? NM_SIDE_HARDWARE : 0);
	return 0;
}

/*
 * A segment that is not the next one. Ahead: one before it is missing, lost or late. Behind: sent again, or late itself if it falls
 * into a gap that has just appeared. A keep-alive (RFC 9293 3.8.4) and a probe of a closed window send an old byte or none.
 */
NM_GLOBAL int nm_irregular(struct __sk_buff *skb, u32 side, u32 length, u32 now_ticks)
{
	struct nm_scratch *scratch = nm_in_hand();
	const struct nm_packet *p;
	struct nm_wide *wide;
	struct nm_side *me;
	u32 slot, end, soon;
	bool late;

	wide = nm_wide_in_hand(scratch);
	if (!wide)
		return 0;
	p = &scratch->packet;
	slot = nm_slot_of(&scratch->at);
	side &= 1;
	me = &wide->track[slot].side[side];
	end = p->seq + length;
	if ((s32)(p->seq - me->next_seq) > 0) {
		me->hole_seq = me->next_seq;
		me->hole_ticks = now_ticks;
		me->next_seq = end;
		return 0;
	}
	if (length == 1 && p->payload_bytes == 1 &&
	    (p->seq + 1 == me->next_seq || !wide->track[slot].side[!side].window))
		return 0;
	if (me->marks & NM_SIDE_PROBE && (s32)(me->probe_seq - p->seq) > 0)
		me->marks &= ~NM_SIDE_PROBE;
	/* Who sends again must first have heard of the gap: most of the whole way there and back must be over. */
	soon = (wide->timing[slot].rtt_min_us[0] + wide->timing[slot].rtt_min_us[1]) / 4 * 3 >> 10;
	if (soon < NM_REORDER_TICKS)
		soon = NM_REORDER_TICKS;
	late = (s32)(p->seq - me->hole_seq) >= 0 && (u16)(now_ticks - me->hole_ticks) <= soon &&
	       me->hole_seq != me->next_seq && (s32)(me->hole_seq - me->next_seq) < 0 && me->hole_ticks;
	if ((s32)(end - me->next_seq) > 0)
		me->next_seq = end;
	if (late)
		__sync_fetch_and_add(&wide->detail[slot].out_of_order[side], scratch->wire.packets);
	else
		__sync_fetch_and_add(&wide->detail[slot].retransmits[side], scratch->wire.packets);
	return 0;
}

NM_GLOBAL int nm_acknowledge(u32 side, bool repeated)
{
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_detail *detail;
	struct nm_wide *wide;
	struct nm_side *me;
	u32 slot;

	wide = nm_wide_in_hand(scratch);
	if (!wide)
		return 0;
	slot = nm_slot_of(&scratch->at);
	side &= 1;
	me = &wide->track[slot].side[side];
	detail = &wide->detail[slot];
	if (repeated) {
		if (me->repeats < 255)
			me->repeats++;
		if (me->repeats == NM_BURST && detail->repeat_bursts[side] < 0xffff)
			detail->repeat_bursts[side]++;
		return 0;
	}
	/* The window has closed. */
	if (detail->zero_windows[side] < 0xffff)
		detail->zero_windows[side]++;
	return 0;
}

/* Each TCP packet that is counted. */
static __always_inline void nm_follow(struct __sk_buff *skb, struct nm_bucket *bucket, const struct nm_scratch *scratch,
				      u32 side, u32 now_ticks)
{
	const struct nm_packet *p = &scratch->packet;
	u32 slot = nm_slot_of(&scratch->at), length, end;
	struct nm_track *track = &((struct nm_wide *)bucket)->track[slot];
	struct nm_side *me, *you;

	side &= 1;
	me = &track->side[side];
	you = &track->side[!side];
	/* What comes with a RST is not taken from its sender's state (RFC 9293 3.10.7), nor is another SYN amid a connection (RFC 5961 4). */
	if (!p->whole || p->tcp_flags & NM_TCP_RST ||
	    (p->tcp_flags & NM_TCP_SYN && me->marks & NM_SIDE_ACKED && p->seq + 1 != me->next_seq))
		return;
	length = p->payload_bytes + !!(p->tcp_flags & NM_TCP_SYN) + (p->tcp_flags & NM_TCP_FIN);
	end = p->seq + length;
	if (!(me->marks & NM_SIDE_SEEN)) {
		me->marks |= NM_SIDE_SEEN;
		me->next_seq = p->seq;
	}
	if (length) {
		if (p->seq != me->next_seq) {
			nm_irregular(skb, side, length, now_ticks);
		} else {
			me->next_seq = end;
			if (!(me->marks & NM_SIDE_PROBE) && length > (p->tcp_flags & NM_TCP_FIN) &&
			    (nm_on() & NM_FEATURE_PRECISE || !me->sampled_ticks ||
			     (u16)(now_ticks - me->sampled_ticks) >= NM_SAMPLE_TICKS))
				nm_probe(skb, side, end, now_ticks);
		}
	}
	if (!(p->tcp_flags & NM_TCP_ACK))
		return;
	if (you->marks & NM_SIDE_PROBE && (s32)(p->ack - you->probe_seq) >= 0)
		nm_sample(skb, side);
	if (!(me->marks & NM_SIDE_ACKED) || p->ack != me->acked) {
		/* An old one that came late changes nothing. */
		if (me->marks & NM_SIDE_ACKED && (s32)(p->ack - me->acked) < 0)
			return;
		me->marks |= NM_SIDE_ACKED;
		me->acked = p->ack;
		me->repeats = 0;
	} else if (!length && p->window == me->window && you->next_seq != p->ack) {
		nm_acknowledge(side, true);
	}
	if (p->window != me->window) {
		me->window = p->window;
		if (!p->window)
			nm_acknowledge(side, false);
	}
}

/* ICMP echo: one request at a time waits for its reply. */
NM_GLOBAL int nm_echo(struct __sk_buff *skb, u32 side)
{
	struct nm_scratch *scratch = nm_in_hand();
	const struct nm_packet *p;
	struct nm_wide *wide;
	struct nm_side *asks;
	u32 slot;

	wide = nm_wide_in_hand(scratch);
	if (!wide)
		return 0;
	p = &scratch->packet;
	slot = nm_slot_of(&scratch->at);
	side &= 1;
	if (p->is_request) {
		asks = &wide->track[slot].side[side];
		asks->probe_seq = p->seq;
		asks->probe_us = nm_now_us();
		asks->marks |= NM_SIDE_PROBE;
		return 0;
	}
	asks = &wide->track[slot].side[!side];
	if (asks->marks & NM_SIDE_PROBE && asks->probe_seq == p->seq) {
		asks->marks &= ~NM_SIDE_PROBE;
		nm_add_sample(wide, slot, side, nm_now_us() - asks->probe_us);
	}
	return 0;
}

#endif
