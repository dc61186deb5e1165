/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From a parsed packet to its flow: which flow, who opened it, on whose account the packet goes, and when the agent
 * is told.
 */
#ifndef NM_FLOW_H
#define NM_FLOW_H

#include "nm_believe.h"
#include "nm_know.h"
#include "nm_nat.h"
#include "nm_tunnel.h"

/* Remembers a further interface of a flow. Two CPUs may overwrite each other's: one is then left out. */
static __always_inline void nm_remember(struct nm_cold *cold, u32 owner)
{
	u32 i;

#pragma unroll
	for (i = 0; i < 2; i++) {
		if (cold->others[i] == owner)
			return;
		if (!cold->others[i]) {
			cold->others[i] = owner;
			return;
		}
	}
}

/* Packets on the wire for this buffer, and their bytes: segments of a GSO or GRO super-packet each carry
 * the headers. gso_segs is 0 when a guest or tap made the buffer; the size then tells. A tag that was
 * stripped into the metadata was on the wire. */
static __always_inline void nm_measure(struct __sk_buff *skb, u32 header_bytes, struct nm_volume *wire)
{
	u64 segments = 1;
	u32 size = skb->gso_size, tag = skb->vlan_present ? 4 : 0, length = skb->len;

	if (size) {
		segments = skb->gso_segs;
		if (!segments && length > header_bytes)
			segments = (length - header_bytes + size - 1) / size;
		if (!segments)
			segments = 1;
	}
	wire->packets = segments;
	wire->bytes = length + tag + (segments - 1) * (header_bytes + tag);
}

/* The other side's SYN+ACK, and the opener's first ACK after it, which ends the handshake. */
static __always_inline void nm_shake_hands(struct nm_bucket *bucket, u32 slot, const struct nm_packet *p, u32 side)
{
	struct nm_hot *hot = &bucket->hot[slot];
	struct nm_cold *cold = &bucket->cold[slot];
	bool answer = side != cold->opener;
	u64 us;

	if (answer ? !(nm_on() & NM_FEATURE_TIMING) || !(p->tcp_flags & NM_TCP_SYN)
		   : !(hot->tcp_flags[!side] & NM_TCP_SYN))
		return;
	us = cold->start_ns;
	us = (bpf_ktime_get_ns() - us) / 1000;
	us = us > 0xffffffff ? 0xffffffff : us ?: 1;
	if (!answer) {
		hot->marks &= ~NM_MARK_HANDSHAKE;
		/* Else its start may have moved with it. */
		if (!(cold->agent_flags & NM_FLAG_MOVED))
			cold->handshake_us = us;
	} else if (nm_on() & NM_FEATURE_TIMING && !((struct nm_wide *)bucket)->timing[slot].answer_us) {
		((struct nm_wide *)bucket)->timing[slot].answer_us = us;
	}
}

static __always_inline enum nm_outcome nm_count(struct __sk_buff *skb, struct nm_bucket *bucket,
						const struct nm_scratch *scratch, u32 side, u32 owner, u32 now_ticks)
{
	const struct nm_packet *p = &scratch->packet;
	u32 slot = nm_slot_of(&scratch->at), holder;
	u64 before;
	struct nm_hot *hot = &bucket->hot[slot];
	struct nm_cold *cold = &bucket->cold[slot];
	bool counts = true;
	u8 flags, said;

	side &= 1;
	if (nm_decapsulate && p->tunnel && !(hot->marks & NM_MARK_TUNNEL))
		nm_mark_tunnel(side);
	holder = hot->owner[side];
	if (holder != owner) {
		if (holder && nm_is_recent(hot->seen_ticks[side], now_ticks)) {
			nm_remember(cold, owner);
			return NM_DUPLICATE;
		}
		if (nm_passes(skb, p, owner & 1) && nm_keeps_all()) {
			/* Counted by its other key, which nobody has joined with this one yet. What it says is noted here. */
			nm_remember(cold, owner);
			counts = false;
		} else {
			if (holder)
				nm_remember(cold, holder);
			hot->owner[side] = owner;
		}
	}
	before = hot->packets[side];
	if (counts) {
		__sync_fetch_and_add(&hot->packets[side], scratch->wire.packets);
		__sync_fetch_and_add(&hot->bytes[side], scratch->wire.bytes);
	}
	if (hot->seen_ticks[side] != now_ticks)
		hot->seen_ticks[side] = now_ticks;
	if (nm_features)
		nm_know(skb, bucket, scratch, side, before, now_ticks, counts);

	if (p->protocol == IPPROTO_TCP) {
		said = p->tcp_flags;
		if (said & NM_TCP_RST && nm_on() & NM_FEATURE_TIMING && !nm_reset_fits(side)) {
			nm_note(NM_KIND_RESET_REFUSED);
			said = 0;
		}
		flags = hot->tcp_flags[side];
		if (said & ~flags)
			hot->tcp_flags[side] = flags | said;
		if (hot->marks & NM_MARK_HANDSHAKE && said & NM_TCP_ACK)
			nm_shake_hands(bucket, slot, p, side);
		if (said & NM_TCP_RST && !(hot->marks & NM_MARK_RESET))
			hot->marks |= NM_MARK_RESET | (side ? NM_MARK_RESET_BY : 0);
		if (said & (NM_TCP_FIN | NM_TCP_RST) && !hot->closed_ns &&
		    (said & NM_TCP_RST || hot->tcp_flags[!side] & NM_TCP_FIN)) {
			hot->closed_ns = bpf_ktime_get_ns();
			hot->report_ticks = now_ticks;
			nm_emit(skb, NM_EVENT_ENDED, scratch->at.table, nm_slot_number(&scratch->at), hot->closed_ns);
			return counts ? NM_COUNTED : NM_DUPLICATE;
		}
	}
	if (now_ticks - hot->report_ticks >= nm_control.interval_ticks) {
		hot->report_ticks = now_ticks;
		nm_emit(skb, NM_EVENT_ACTIVE, scratch->at.table, nm_slot_number(&scratch->at), bpf_ktime_get_ns());
	}
	return counts ? NM_COUNTED : NM_DUPLICATE;
}

static __always_inline void nm_count_overflow(struct __sk_buff *skb, const struct nm_scratch *scratch, u32 hook,
					      u32 now_ticks)
{
	u32 key = (u32)scratch->packet.protocol << 1 | hook, zero = 0, *last;
	struct nm_volume *volume = bpf_map_lookup_elem(&nm_overflow, &key);

	if (volume) {
		volume->packets += scratch->wire.packets;
		volume->bytes += scratch->wire.bytes;
	}
	last = bpf_map_lookup_elem(&nm_overflow_at, &zero);
	if (last && (!*last || now_ticks - *last > NM_OWNER_SILENCE_TICKS)) {
		*last = now_ticks ?: 1;
		nm_emit(skb, NM_EVENT_OVERFLOW | NM_WAKE, 0, key, bpf_ktime_get_ns());
	}
}

/*
 * A place for a packet that none of the table's slots is for: the rare path. `again`: the slot in hand is that of a closed
 * connection on the same ports. NM_NO_PLACE: there is no room, and the packet is counted as that.
 */
NM_GLOBAL int nm_place_new(struct __sk_buff *skb, u64 tag, u32 side_and_hook, u32 now_ticks, bool again)
{
	struct nm_scratch *scratch = nm_in_hand();
	u32 side = side_and_hook & 1, hook = side_and_hook >> 1 & 1, placed;
	int answer = NM_UNKNOWN;
	struct nm_place old = {}; /* an older verifier thinks that it may be read unset */

	if (!scratch)
		return NM_NO_PLACE;
	if (!again && nm_passes(skb, &scratch->packet, hook))
		return nm_keeps_all() ? NM_PASSED : NM_LEFT_OUT;
	if (again) {
		/* The old slot leaves, a new one is taken. */
		old = scratch->at;
		nm_dismiss(skb, &old, tag);
	}
	if (nm_nat)
		answer = nm_ask(skb, tag, hook);
	if (answer == NM_UNWANTED)
		return NM_LEFT_OUT;
	if (answer == NM_TRANSLATED) {
		placed = nm_pair_up(skb, scratch, tag, side, false);
		if (placed)
			return placed;
	}
	if (nm_open(skb, tag, side, now_ticks, again)) {
		if (answer == NM_TRANSLATED)
			nm_claim_alias(skb, scratch->other.tag, tag, scratch->other.side, false);
		return NM_PLACED | side;
	}
	if (again) {
		struct nm_bucket *bucket = nm_bucket_at(old.table, old.bucket);

		/* All slots of the pair hold the connection's former selves: it goes on in the last of them. */
		if (bucket) {
			bucket->tags[nm_slot_of(&old)] = tag;
			scratch->at = old;
			return NM_PLACED | side;
		}
	}
	nm_count_overflow(skb, scratch, hook, now_ticks);
	return NM_NO_PLACE;
}

/* The parsed packet in hand to its flow. */
static __always_inline int nm_account(struct __sk_buff *skb, u32 hook)
{
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_bucket *bucket;
	const struct nm_packet *p;
	u32 side, owner = skb->ifindex << 1 | hook, placed;
	u32 now_ticks = nm_now_coarse_ns() >> NM_TICK_SHIFT;
	bool again = false;
	u64 hash, tag;

	if (!scratch)
		return NM_OVERFLOW;
	p = &scratch->packet;
	side = nm_sender_side(p);
	hash = nm_hash(p, side);
	tag = nm_tag(hash);
	if (!nm_is_kept(hash))
		return NM_SAMPLED_OUT;
	bucket = nm_find(&scratch->at, tag);
	if (bucket) {
		struct nm_hot *hot = nm_hot_at(bucket, &scratch->at);
		u32 holder = hot->owner[side & 1];

		/* In an alias `closed_ns` is no time (nm_join). Without a holder only the other side's end was seen. */
		if ((p->tcp_flags & (NM_TCP_SYN | NM_TCP_ACK)) == NM_TCP_SYN && !(hot->marks & NM_MARK_ALIAS))
			again = hot->closed_ns && (holder ? holder == owner : !nm_passes(skb, p, hook));
		if (nm_nat && !holder && !again) {
			placed = nm_join(skb, tag, side | hook << 1, now_ticks);
			side = placed & 1;
			bucket = placed ? nm_bucket_at(scratch->at.table, scratch->at.bucket) : NULL;
		}
	}
	if (!bucket || again) {
		side = nm_sender_side(p);
		placed = nm_place_new(skb, tag, side | hook << 1, now_ticks, again);
		/* An alias was put there at this very moment. */
		if (nm_nat && placed & NM_PLACED && nm_is_alias(&scratch->at))
			placed = nm_join(skb, tag, side | hook << 1, now_ticks);
		if (!(placed & NM_PLACED))
			return placed == NM_LEFT_OUT ? NM_SAMPLED_OUT
			       : placed == NM_PASSED ? NM_DUPLICATE
						     : NM_OVERFLOW;
		side = placed & 1;
		bucket = nm_bucket_at(scratch->at.table, scratch->at.bucket);
		if (!bucket)
			return NM_OVERFLOW;
	}
	return nm_count(skb, bucket, scratch, side, owner, now_ticks);
}

#endif
