/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whether an ICMP error or a RST can be about the connection that it names: whoever forges one has to know where that is. Known
 * when sequence numbers are (NM_FEATURE_TIMING); what isn't known is no reason for doubt.
 */
#ifndef NM_BELIEVE_H
#define NM_BELIEVE_H

#include "nm_packet.h"
#include "nm_table.h"

#define NM_FIRST_FLIGHT 65536 /* bytes before the first acknowledgement, at most */

/* Whether the segment that an ICMP error quotes is on its way (RFC 5927 4.1). */
static __always_inline bool nm_in_flight(const struct nm_bucket *bucket, u32 slot, const struct nm_packet *p, u32 side)
{
	const struct nm_track *track = &((const struct nm_wide *)bucket)->track[slot & (NM_SLOTS - 1)];
	const struct nm_side *me = &track->side[side & 1], *you = &track->side[!side];

	if (!(me->marks & NM_SIDE_SEEN))
		return true;
	if ((s32)(p->seq - me->next_seq) >= 0)
		return false;
	return (s32)(p->seq - (you->marks & NM_SIDE_ACKED ? you->acked : me->next_seq - NM_FIRST_FLIGHT)) >= 0;
}

/*
 * Whether the RST in hand is where its receiver may be waiting: between what that has acknowledged and what its sender has sent. RFC 5961
 * 3.2 takes less, but how much has arrived is known to the receiver alone. An answer to a SYN acknowledges it (RFC 9293 3.10.7.3).
 */
NM_GLOBAL int nm_reset_fits(u32 side)
{
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_wide *wide = nm_wide_in_hand(scratch);
	const struct nm_side *me, *you;
	const struct nm_packet *p;
	u32 slot, from, to;

	if (!wide)
		return true;
	p = &scratch->packet;
	slot = nm_slot_of(&scratch->at);
	side &= 1;
	me = &wide->track[slot].side[side];
	you = &wide->track[slot].side[!side];
	if (!(me->marks & NM_SIDE_SEEN || you->marks & NM_SIDE_ACKED))
		return !(you->marks & NM_SIDE_SEEN) ||
		       (p->tcp_flags & NM_TCP_ACK && you->next_seq - p->ack < NM_FIRST_FLIGHT);
	from = you->marks & NM_SIDE_ACKED ? you->acked : me->next_seq - NM_FIRST_FLIGHT;
	to = me->marks & NM_SIDE_SEEN ? me->next_seq : from + NM_FIRST_FLIGHT;
	/* An acknowledgement of what did not pass here makes this nearly all numbers. */
	return p->seq - from <= to - from;
}

#endif
