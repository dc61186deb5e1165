/* SPDX-License-Identifier: GPL-2.0-only */
/* Taking a slot for a new flow: its key, who opened it, and the event that tells of it. */
#ifndef NM_OPEN_H
#define NM_OPEN_H

#include "nm_event.h"
#include "nm_hash.h"
#include "nm_packet.h"
#include "nm_table.h"

#define NM_OWNER_SILENCE_TICKS 954 /* one second */
#define NM_FEW		       3   /* free slots of the emptier bucket of two */

/* Another CPU may have seen a packet after this one has read the clock. */
static __always_inline bool nm_is_recent(u32 seen_ticks, u32 now_ticks)
{
	return now_ticks - seen_ticks + NM_OWNER_SILENCE_TICKS <= 2 * NM_OWNER_SILENCE_TICKS;
}

/*
 * Which side opened: a SYN without ACK and an echo request tell; a SYN+ACK and a reply tell the
 * opposite; else the sender of the first packet seen, unless TCP is met halfway, when the higher
 * port is the likelier client.
 */
static __always_inline void nm_set_opener(struct nm_cold *cold, const struct nm_packet *p, u32 side)
{
	u8 syn = p->tcp_flags & (NM_TCP_SYN | NM_TCP_ACK);

	cold->opener = side;
	if (p->protocol == IPPROTO_TCP) {
		cold->opener_seen = syn == NM_TCP_SYN;
		if (syn == (NM_TCP_SYN | NM_TCP_ACK))
			cold->opener = !side;
		else if (!cold->opener_seen && bpf_ntohs(p->source_port_be) < bpf_ntohs(p->destination_port_be))
			cold->opener = !side;
	} else if (p->is_reply) {
		cold->opener = !side;
	} else {
		cold->opener_seen = 1;
	}
}

/* The key that a packet of this side has. */
static __always_inline void nm_set_key(struct nm_cold *cold, const struct nm_packet *p, u32 side)
{
	__builtin_memcpy(cold->address[0], side ? p->destination : p->source, 16);
	__builtin_memcpy(cold->address[1], side ? p->source : p->destination, 16);
	cold->port_be[0] = side ? p->destination_port_be : p->source_port_be;
	cold->port_be[1] = side ? p->source_port_be : p->destination_port_be;
	cold->protocol = p->protocol;
	cold->family = p->family;
}

/* A slot was claimed. The table must grow before it's full, however soon that is: the reader says how much room there is. */
static __always_inline void nm_tell_claim(struct __sk_buff *skb, u32 kind, const struct nm_place *at, bool wake,
					  u64 now_ns)
{
	/* Read apart: an atomic add that returns something needs 5.12. Several CPUs may wake the reader. */
	wake |= nm_control.opened >= nm_control.room;
	__sync_fetch_and_add(&nm_control.opened, 1);
	nm_emit(skb, kind | (wake ? NM_WAKE : 0), at->table, nm_slot_number(at), now_ns);
}

/* Two cache lines to fill a slot from, zeroed. */
static __always_inline void nm_clear_lines(struct nm_scratch *scratch)
{
	__builtin_memset(&scratch->cold, 0, sizeof(scratch->cold));
	__builtin_memset(&scratch->hot, 0, sizeof(scratch->hot));
}

/* A slot for the packet in hand; false: there is no room. `again`: its ports were used a moment ago. */
NM_GLOBAL int nm_open(struct __sk_buff *skb, u64 tag, u32 side, u32 now_ticks, bool again)
{
	struct nm_scratch *scratch = nm_in_hand();
	const struct nm_packet *p;
	struct nm_cold *cold;
	struct nm_place *at;
	struct nm_hot *hot;
	bool fresh;

	if (!scratch)
		return false;
	p = &scratch->packet;
	cold = &scratch->cold;
	at = &scratch->at;
	hot = &scratch->hot;
	side &= 1;
	nm_clear_lines(scratch);
	nm_set_key(cold, p, side);
	cold->icmp_type = p->icmp_type;
	cold->icmp_code = p->icmp_code;
	cold->start_ns = bpf_ktime_get_ns();
	nm_set_opener(cold, p, side);
	hot->marks = p->protocol == IPPROTO_TCP && cold->opener_seen ? NM_MARK_HANDSHAKE : 0;
	hot->report_ticks = now_ticks;
	hot->seen_ticks[0] = now_ticks;
	hot->seen_ticks[1] = now_ticks;
	if (!nm_claim(at, tag, cold, hot, &fresh))
		return false;
	if (fresh) {
		/* Ports that are used anew fill their two buckets: the reader frees them. */
		nm_tell_claim(skb, NM_EVENT_OPENED, at, again && at->free <= NM_FEW, cold->start_ns);
	}
	return true;
}

#endif
