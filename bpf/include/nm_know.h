/* SPDX-License-Identifier: GPL-2.0-only */
/* What features ask of the packets that are counted: which of nm_timing.h, nm_app.h and nm_message.h has to look at each. */
#ifndef NM_KNOW_H
#define NM_KNOW_H

#include "nm_app.h"
#include "nm_message.h"
#include "nm_who.h"

#define NM_FIRST_DATAGRAMS 4 /* of each side, that are looked into */

/*
 * From now on each payload of the flow is looked at, if its protocol is one of those. Multicast DNS and LLMNR answer from elsewhere, if
 * at all (RFC 6762 5.1, RFC 4795 2.3).
 */
static __always_inline void nm_expect_messages(struct nm_wide *wide, u32 slot, const struct nm_packet *p)
{
	u8 app = wide->timing[slot].app;
	u16 to_be = p->destination_port_be, from_be = p->source_port_be;
	bool by_name = to_be == bpf_htons(5353) || to_be == bpf_htons(5355) || from_be == bpf_htons(5353) ||
		       from_be == bpf_htons(5355);

	if (app == NM_APP_DNS ? nm_on() & NM_FEATURE_DNS && !by_name : app == NM_APP_HTTP && nm_on() & NM_FEATURE_HTTP)
		wide->narrow.hot[slot].marks |= NM_MARK_MESSAGES;
}

/* The first payloads of a flow: how long the opener waited for an answer, and what they speak. */
NM_GLOBAL int nm_first_payload(struct __sk_buff *skb, u32 side)
{
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_timing *timing;
	struct nm_wide *wide;
	u32 slot, now_us, on = nm_on();
	bool timed;
	u8 opener, known;

	wide = nm_wide_in_hand(scratch);
	if (!wide)
		return 0;
	slot = nm_slot_of(&scratch->at);
	side &= 1;
	timing = &wide->timing[slot];
	opener = wide->narrow.cold[slot].opener & 1;
	if (on & NM_FEATURE_TIMING && !timing->first_byte_us) {
		now_us = nm_now_us();
		if (side == opener) {
			if (!timing->request_us)
				timing->request_us = now_us ?: 1;
		} else if (timing->request_us) {
			timing->first_byte_us = now_us - timing->request_us ?: 1;
			/* Else nm_message() decides whether this is what the request waits for. */
			if (!(wide->narrow.hot[slot].marks & NM_MARK_MESSAGES))
				timing->request_us = 0;
		}
	}
	timed = side == opener || !(on & NM_FEATURE_TIMING) || timing->first_byte_us;
	if (on & NM_FEATURE_PROTOCOL) {
		known = timing->app;
		timed &= !!nm_recognise(skb, side);
		/* Not again: it may have gone over to another protocol. */
		if (on & NM_FEATURE_MESSAGES && timing->app != known)
			nm_expect_messages(wide, slot, &scratch->packet);
	}
	/* Datagrams are counted (NM_FIRST_DATAGRAMS). */
	if (timed && scratch->packet.protocol == IPPROTO_TCP)
		wide->track[slot].side[side].marks |= NM_SIDE_KNOWN;
	return 0;
}

/* Whether a segment begins before the end of what was seen: it was sent again, or probes. */
static __always_inline bool nm_is_old(const struct nm_side *me, const struct nm_packet *p)
{
	return me->marks & NM_SIDE_SEEN && (s32)(p->seq - me->next_seq) < 0;
}

/* Notes the end of a segment where nm_follow() does not. */
static __always_inline void nm_advance(struct nm_side *me, const struct nm_packet *p)
{
	me->marks |= NM_SIDE_SEEN;
	me->next_seq = p->seq + p->payload_bytes;
}

/*
 * A packet passes while nm_follow() is off: what was known of its sender's segments does not hold any more when it is on again, and what
 * waits for an answer may have had it by then. Where messages are looked at, they see to order and request themselves.
 */
static __always_inline void nm_lose_track(struct nm_wide *wide, u32 slot, u32 side, bool asks)
{
	struct nm_side *me = &wide->track[slot].side[side], *you = &wide->track[slot].side[!side];
	u8 lost = asks ? NM_SIDE_FOLLOWED & ~NM_SIDE_SEEN : NM_SIDE_FOLLOWED;

	if (you->marks & NM_SIDE_PROBE)
		you->marks &= ~NM_SIDE_PROBE;
	if (me->marks & lost) {
		me->marks &= ~lost;
		me->hole_ticks = 0;
		if (!asks)
			wide->timing[slot].request_us = 0;
	}
}

/*
 * What features know of each packet that is counted. `before`: packets of this side until then. Messages of one that is not
 * (nm_passes) are those of the flow that counts it, but for DNS: the query waits here.
 */
static __always_inline void nm_know(struct __sk_buff *skb, struct nm_bucket *bucket, const struct nm_scratch *scratch,
				    u32 side, u64 before, u32 now_ticks, bool counts)
{
	const struct nm_packet *p = &scratch->packet;
	u32 slot = nm_slot_of(&scratch->at);
	struct nm_wide *wide = (struct nm_wide *)bucket;
	struct nm_track *track = &wide->track[slot];
	bool tcp = p->protocol == IPPROTO_TCP, old = false;
	u32 on = nm_on(), owner;
	bool ask_receiver;

	side &= 1;
	owner = bucket->hot[slot].owner[side];
	/* Where the first datagram goes; a lookup costs as much as all else that is done for a new flow. */
	ask_receiver = !before && p->protocol == IPPROTO_UDP && (!(owner & 1) || owner >> 1 == NM_LOOPBACK);
	/* A pointer to `who` would stay on the stack, of which there is nothing left (bpf/README.md). */
	if (on & NM_FEATURE_WHO && before < NM_WHO_PACKETS &&
	    (!wide->timing[slot].who[side] || (ask_receiver && !wide->timing[slot].who[!side])))
		nm_ask_who(skb, side, ask_receiver);
	if (on & NM_FEATURE_MESSAGES && tcp)
		old = nm_is_old(&track->side[side], p);
	if (on & NM_FEATURE_TIMING) {
		if (tcp)
			nm_follow(skb, bucket, scratch, side, now_ticks);
		else if (p->is_request || p->is_reply)
			nm_echo(skb, side);
	} else if (nm_features & NM_FEATURE_TIMING) {
		if (tcp)
			nm_lose_track(wide, slot, side,
				      on & NM_FEATURE_MESSAGES && bucket->hot[slot].marks & NM_MARK_MESSAGES);
		else if (before < NM_FIRST_DATAGRAMS && wide->timing[slot].request_us)
			wide->timing[slot].request_us = 0;
	}
	if (on & (NM_FEATURE_TIMING | NM_FEATURE_PROTOCOL) && p->payload_bytes &&
	    (tcp ? !(track->side[side].marks & NM_SIDE_KNOWN) : before < NM_FIRST_DATAGRAMS))
		nm_first_payload(skb, side);
	if (!(nm_features & NM_FEATURE_MESSAGES) || !(bucket->hot[slot].marks & NM_MARK_MESSAGES) || !p->payload_bytes)
		return;
	if (!(on & NM_FEATURE_MESSAGES)) {
		/* The answer may pass unseen. */
		wide->timing[slot].request_us = 0;
	} else if (!old && !(p->tcp_flags & NM_TCP_RST) && (counts || !tcp)) {
		if (tcp && !(on & NM_FEATURE_TIMING))
			nm_advance(&track->side[side], p);
		nm_message(skb, wide->timing[slot].app, side);
	}
}

#endif
