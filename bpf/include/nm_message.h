/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Messages in flows whose protocol is known. DNS (RFC 1035, over TCP RFC 7766): what was asked for, how it was answered and after how
 * long; a response belongs to the query of the same flow and id that the other side sent. HTTP/1 (RFC 9112): the class of
 * each response, and the time from the request to it. Both are added up here, and nothing of a payload leaves the kernel but the
 * last name that was asked for, if dns_names is on.
 *
 * A message is seen where a segment begins, as its sender most often sends it. What was sent again is not looked at again.
 */
#ifndef NM_MESSAGE_H
#define NM_MESSAGE_H

#include "nm_timing.h"

#define NM_DNS_HEADER	   12
#define NM_DNS_NAME_LABELS 128 /* of a name: 255 bytes at most (RFC 1035 2.3.4) */
#define NM_DNS_PIPELINED   4   /* messages of a segment that are looked at */
#define NM_DNS_PATIENCE_NS \
	30000000000ULL	  /* sent again after so long, it is another query with an id that was used before */
#define NM_HTTP_HEAD   12 /* "HTTP/1.1 200" */
#define NM_HTTP_TUNNEL 1  /* nm_timing.app_detail: CONNECT waits for its answer */

static __always_inline u32 nm_us_since(u64 then_ns)
{
	u64 us = (bpf_ktime_get_ns() - then_ns) / 1000;

	return us > 0xffffffff ? 0xffffffff : us;
}

/* Counts of a flow over UDP; see nm_types.h. */
static __always_inline struct nm_dns *nm_dns_of(struct nm_wide *wide, u32 slot)
{
	return (struct nm_dns *)&wide->track[slot & (NM_SLOTS - 1)];
}

static __always_inline u8 nm_dns_class(u32 type)
{
	switch (type) {
	case 1:
		return NM_DNS_A;
	case 2:
		return NM_DNS_NS;
	case 5:
		return NM_DNS_CNAME;
	case 6:
		return NM_DNS_SOA;
	case 12:
		return NM_DNS_PTR;
	case 15:
		return NM_DNS_MX;
	case 16:
		return NM_DNS_TXT;
	case 28:
		return NM_DNS_AAAA;
	case 33:
		return NM_DNS_SRV;
	case 65:
		return NM_DNS_HTTPS;
	case 255:
		return NM_DNS_ANY;
	}
	return NM_DNS_OTHER;
}

/*
 * The first question of the message in hand, of which so many bytes are there: type << 16 | bytes of its name. 0: there is none, it is
 * cut short, or it is none that anybody asks.
 */
NM_GLOBAL u32 nm_dns_question(u32 bytes)
{
	struct nm_scratch *scratch = nm_in_hand();
	u32 at = NM_DNS_HEADER, i;
	const u8 *message;

	if (!(nm_features & NM_FEATURE_DNS) || !scratch)
		return 0;
	message = scratch->message;
#pragma clang loop unroll(disable)
	for (i = 0; i < NM_DNS_NAME_LABELS; i++) {
		u32 length, class;

		if (at >= NM_MESSAGE_BYTES - 4 || at + 5 > bytes)
			return 0;
		length = message[at];
		at++;
		if (!length) {
			class = (u32)message[at + 2] << 8 | message[at + 3];
			/* IN, CH, HS; NONE and ANY in updates (RFC 2136 2.4). */
			if (class != 1 && class != 3 && class != 4 && class != 254 && class != 255)
				return 0;
			return ((u32)message[at] << 8 | message[at + 1]) << 16 | (at - NM_DNS_HEADER);
		}
		/* Nothing is before it that a pointer could point to. */
		if (length > 63)
			return 0;
		at += length;
	}
	return 0;
}

/* By way of nm_scratch: the stack is short. */
static __always_inline void nm_dns_keep_name(struct __sk_buff *skb, u64 tag, u32 offset, u32 name_bytes)
{
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_dns_name *name;

	if (!scratch)
		return;
	name = &scratch->name;
	__builtin_memset(name, 0, sizeof(*name));
	if (name_bytes > NM_DNS_NAME_BYTES)
		name_bytes = NM_DNS_NAME_BYTES;
	if (name_bytes && nm_load_some(skb, offset, name->wire, name_bytes, NM_DNS_NAME_BYTES) &&
	    bpf_map_update_elem(&nm_dns_names, &tag, name, BPF_ANY))
		nm_note(NM_KIND_ASKED_LOST);
}

/* The message in hand asks. */
static __always_inline bool nm_dns_query(struct __sk_buff *skb, struct nm_wide *wide, u32 slot, u64 key, u32 offset,
					 u32 bytes, struct nm_dns_totals *counts)
{
	u32 question = nm_dns_question(bytes);
	struct nm_dns_wait asked = {}, *waits;

	if (!question)
		return false;
	asked.sent_ns = bpf_ktime_get_ns();
	asked.type = question >> 16;
	asked.name_bytes = question;
	asked.class = nm_dns_class(asked.type);
	waits = bpf_map_lookup_elem(&nm_dns_waits, &key);
	if (waits && waits->type == asked.type && waits->name_bytes == asked.name_bytes &&
	    asked.sent_ns - waits->sent_ns < NM_DNS_PATIENCE_NS) {
		counts->repeated++;
		return true;
	}
	counts->queries[asked.class < NM_DNS_TYPES ? asked.class : NM_DNS_OTHER]++;
	if (bpf_map_update_elem(&nm_dns_waits, &key, &asked, BPF_ANY))
		counts->lost++;
	wide->timing[slot].app_detail = (wide->timing[slot].app_detail & 0xf0) | asked.class;
	if (wide->narrow.cold[slot].protocol == IPPROTO_UDP)
		__sync_fetch_and_add(&nm_dns_of(wide, slot)->queries, 1);
	if (nm_on() & NM_FEATURE_DNS_NAMES)
		nm_dns_keep_name(skb, wide->narrow.tags[slot] & ~NM_DEAD, offset + NM_DNS_HEADER, asked.name_bytes);
	return true;
}

/* The message in hand answers. */
static __always_inline void nm_dns_response(struct nm_wide *wide, u32 slot, u64 key, u32 rcode,
					    struct nm_dns_totals *counts)
{
	struct nm_dns_wait *waits = bpf_map_lookup_elem(&nm_dns_waits, &key);
	u32 us, lane, class;
	u64 sent_ns;

	if (!waits) {
		counts->unmatched++;
		return;
	}
	sent_ns = waits->sent_ns;
	class = waits->class;
	/* Another CPU may have answered it at this moment. */
	if (bpf_map_delete_elem(&nm_dns_waits, &key)) {
		counts->unmatched++;
		return;
	}
	us = nm_us_since(sent_ns);
	lane = nm_lane(us);
	if (rcode >= NM_DNS_RCODES)
		rcode = NM_DNS_RCODES - 1;
	if (lane >= NM_LANES)
		return;
	counts->responses[rcode]++;
	counts->lanes[lane]++;
	counts->sum_us += us;
	wide->timing[slot].app_detail = (rcode + 1) << 4 | (class & 0xf);
	if (wide->narrow.cold[slot].protocol == IPPROTO_UDP)
		__sync_fetch_and_add(&nm_dns_of(wide, slot)->responses, 1);
}

/* A message at this offset of the packet, of which so many bytes are there. False: there is none. */
NM_GLOBAL int nm_dns_message(struct __sk_buff *skb, u32 side, u32 offset, u32 bytes)
{
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_dns_totals *counts;
	struct nm_wide *wide;
	u32 slot, zero = 0, id;
	u64 key;
	u8 flags;

	if (!(nm_features & NM_FEATURE_DNS) || !scratch)
		return false;
	wide = nm_wide_at(&scratch->at);
	counts = bpf_map_lookup_elem(&nm_dns_totals, &zero);
	if (!wide || !counts)
		return false;
	slot = nm_slot_of(&scratch->at);
	side &= 1;
	if (bytes > NM_MESSAGE_BYTES)
		bytes = NM_MESSAGE_BYTES;
	barrier_var(bytes); /* or clang compares a copy, and to an older verifier there is no least length */
	if (bytes < NM_DNS_HEADER || bpf_skb_load_bytes(skb, offset, scratch->message, bytes))
		return false;
	flags = scratch->message[2];
	/* Operations above UPDATE (5) are not of this kind (RFC 8490 5.4); one question (RFC 9619), in responses at most. */
	if ((flags >> 3 & 0xf) > 5 || scratch->message[4] || scratch->message[5] > 1 ||
	    (!(flags & 0x80) && !scratch->message[5]))
		return false;
	id = (u32)scratch->message[0] << 8 | scratch->message[1];
	if (flags & 0x80)
		side = !side;
	key = (wide->narrow.tags[slot] & ~NM_DEAD) ^ (u64)(id << 1 | side) * 0x9e3779b97f4a7c15ULL;
	if (flags & 0x80) {
		nm_dns_response(wide, slot, key, scratch->message[3] & 0xf, counts);
		return true;
	}
	return nm_dns_query(skb, wide, slot, key, offset, bytes, counts);
}

/* A payload of a DNS flow. Over TCP each message follows two bytes that hold its length. */
NM_GLOBAL int nm_dns_payload(struct __sk_buff *skb, u32 side)
{
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_dns_totals *counts;
	u32 at, left, length, zero = 0, i;
	u16 length_be;

	if (!(nm_features & NM_FEATURE_DNS) || !scratch)
		return 0;
	counts = bpf_map_lookup_elem(&nm_dns_totals, &zero);
	if (!counts)
		return 0;
	at = scratch->packet.header_bytes;
	left = scratch->packet.payload_bytes;
	if (scratch->packet.protocol != IPPROTO_TCP) {
		if (!nm_dns_message(skb, side, at, left))
			counts->malformed++;
		return 0;
	}
#pragma clang loop unroll(disable)
	for (i = 0; i < NM_DNS_PIPELINED && left; i++) {
		if (left < sizeof(length_be) || bpf_skb_load_bytes(skb, at, &length_be, sizeof(length_be)))
			break;
		at += sizeof(length_be);
		left -= sizeof(length_be);
		length = bpf_ntohs(length_be);
		if (length < NM_DNS_HEADER || !nm_dns_message(skb, side, at, length < left ? length : left))
			break;
		if (length >= left)
			return 0;
		at += length;
		left -= length;
	}
	counts->unseen++;
	return 0;
}

/* The start of a payload; `word` as a big-endian number. */
struct nm_http_head {
	u64 word;
	u8 rest[NM_HTTP_HEAD - 8];
};

static __always_inline u64 nm_http_text(const char *text, u32 length)
{
	u64 word = 0;
	u32 i;

#pragma unroll
	for (i = 0; i < 8; i++)
		word = word << 8 | (i < length ? (u8)text[i] : 0);
	return word;
}

#define NM_BEGINS(word, text) (!(((word) ^ nm_http_text(text, sizeof(text) - 1)) >> (64 - 8 * (sizeof(text) - 1))))

static __always_inline bool nm_is_method(u64 word)
{
	return NM_BEGINS(word, "GET ") || NM_BEGINS(word, "POST ") || NM_BEGINS(word, "HEAD ") ||
	       NM_BEGINS(word, "PUT ") || NM_BEGINS(word, "DELETE ") || NM_BEGINS(word, "OPTIONS ") ||
	       NM_BEGINS(word, "PATCH ") || NM_BEGINS(word, "CONNECT ") || NM_BEGINS(word, "TRACE ");
}

/* The status code that a response begins with; 0 = it is none. */
static __always_inline u32 nm_http_code(const struct nm_http_head *head)
{
	u32 hundreds = head->rest[1] - '0', tens = head->rest[2] - '0', ones = head->rest[3] - '0';
	u32 minor = (head->word & 0xff) - '0';

	if (!NM_BEGINS(head->word, "HTTP/1.") || minor > 9 || head->rest[0] != ' ' || hundreds < 1 ||
	    hundreds > NM_HTTP_CLASSES || tens > 9 || ones > 9)
		return 0;
	return hundreds * 100 + tens * 10 + ones;
}

const volatile struct nm_http_counts nm_no_http __weak; /* what an entry of nm_http begins as */

/* The counts of a server; of all others if there is no room for it. */
static __always_inline struct nm_http_counts *nm_http_of(const struct nm_cold *cold, u32 side)
{
	struct nm_http_counts *counts;
	struct nm_http_server server = {};

	__builtin_memcpy(server.address, cold->address[side & 1], sizeof(server.address));
	server.port_be = cold->port_be[side & 1];
	server.family = cold->family;
	counts = bpf_map_lookup_elem(&nm_http, &server);
	if (counts)
		return counts;
	bpf_map_update_elem(&nm_http, &server, (const void *)&nm_no_http, BPF_NOEXIST);
	counts = bpf_map_lookup_elem(&nm_http, &server);
	if (counts)
		return counts;
	__builtin_memset(&server, 0, sizeof(server));
	return bpf_map_lookup_elem(&nm_http, &server);
}

/*
 * A payload of an HTTP/1 flow. One request waits at a time: the oldest that was not answered. Of requests that are sent ahead of their
 * answers the first is timed; all are counted whose answers begin a segment.
 */
NM_GLOBAL int nm_http_payload(struct __sk_buff *skb, u32 side)
{
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_http_counts *counts;
	struct nm_timing *timing;
	struct nm_wide *wide;
	struct nm_http_head head = {};
	u32 slot, status, lane, us;

	if (!(nm_features & NM_FEATURE_HTTP) || !scratch)
		return 0;
	wide = nm_wide_at(&scratch->at);
	if (!wide || scratch->packet.payload_bytes < NM_HTTP_HEAD ||
	    bpf_skb_load_bytes(skb, scratch->packet.header_bytes, &head, NM_HTTP_HEAD))
		return 0;
	head.word = bpf_be64_to_cpu(head.word);
	slot = nm_slot_of(&scratch->at);
	side &= 1;
	timing = &wide->timing[slot];
	if (side == (wide->narrow.cold[slot].opener & 1)) {
		if (nm_is_method(head.word)) {
			if (!timing->request_us)
				timing->request_us = nm_now_us() ?: 1;
			timing->app_detail = NM_BEGINS(head.word, "CONNECT ") ? NM_HTTP_TUNNEL : 0;
		}
		return 0;
	}
	status = nm_http_code(&head);
	if (!status) {
		/* The middle of an answer: if the beginning was missed, nothing waits for it. */
		timing->request_us = 0;
		return 0;
	}
	counts = nm_http_of(&wide->narrow.cold[slot], side);
	lane = status / 100 - 1;
	barrier_var(lane);
	if (!counts || lane >= NM_HTTP_CLASSES)
		return 0;
	__sync_fetch_and_add(&counts->responses[lane], 1);
	/* 100 (Continue) and its kin announce the answer. */
	if (status < 200 && status != 101)
		return 0;
	if (timing->request_us) {
		us = nm_now_us() - timing->request_us;
		timing->request_us = 0;
		lane = nm_lane(us);
		if (lane < NM_LANES) {
			__sync_fetch_and_add(&counts->lanes[lane], 1);
			__sync_fetch_and_add(&counts->sum_us, us);
		}
	}
	/* Another protocol follows. */
	if (status == 101 || (timing->app_detail == NM_HTTP_TUNNEL && status < 300))
		wide->narrow.hot[slot].marks &= ~NM_MARK_MESSAGES;
	return 0;
}

/* Each payload of a flow that has NM_MARK_MESSAGES. */
static __always_inline void nm_message(struct __sk_buff *skb, u8 app, u32 side)
{
	if (app == NM_APP_DNS && nm_on() & NM_FEATURE_DNS)
		nm_dns_payload(skb, side);
	else if (app == NM_APP_HTTP && nm_on() & NM_FEATURE_HTTP)
		nm_http_payload(skb, side);
}

#endif
