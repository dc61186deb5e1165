/* SPDX-License-Identifier: GPL-2.0-only */
/* The first bytes of the payload in hand, and how the tests of nm_app_*.h read them. */
#ifndef NM_LOOK_H
#define NM_LOOK_H

#include "nm_packet.h"

#define NM_LOOK_BYTES 288 /* the longest DNS question: 2 + 12 + 255 + 4 */
#define NM_LOOK_MASK  511
#define NM_LOOK_ZEROS 64 /* up to here, what is beyond the payload's end reads as 0 */

#define NM_APP_SIDE   0x40 /* bit of nm_timing.app, if unsure: which side said it */
#define NM_APP_NUMBER 0x1f

struct nm_look {
	union {
		u8 bytes[NM_LOOK_MASK + 1];
		u32 words[(NM_LOOK_MASK + 1) / 4]; /* as on the wire */
	};
	u32 length;  /* valid bytes */
	u32 payload; /* the whole payload's length */
	u8 opener;   /* the opener sent it */
	u8 begins;   /* it is the first of this side, as far as seen ... */
	u8 alone;    /* ... and the other has sent none */
	u8 awaited;  /* the other side looks like this protocol, if this one agrees */
	u8 detail;   /* in: nm_timing.app_detail; out: the same */
	u8 pad[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct nm_look);
} nm_look SEC(".maps") __weak;

static __always_inline struct nm_look *nm_looked_at(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&nm_look, &zero);
}

NM_GLOBAL int nm_look_at(struct __sk_buff *skb, u32 offset, u32 payload)
{
	struct nm_look *look = nm_looked_at();
	u32 length = payload < NM_LOOK_BYTES ? payload : NM_LOOK_BYTES;

	if (!look || !payload)
		return false;
	__builtin_memset(look->bytes, 0, NM_LOOK_ZEROS);
	look->length = length;
	look->payload = payload;
	/* From 1 to 512 to the verifier, too. */
	barrier_var(length);
	length = ((length - 1) & NM_LOOK_MASK) + 1;
	return !bpf_skb_load_bytes(skb, offset, look->bytes, length);
}

/* Four bytes as a number, and a number of four characters. */
#define nm_word(look, at)   bpf_ntohl((look)->words[(at) / 4])
#define nm_text(a, b, c, d) ((u32)(a) << 24 | (b) << 16 | (c) << 8 | (d))
#define nm_half(bytes, at)  ((u32)(bytes)[at] << 8 | (bytes)[(at) + 1])

static __always_inline bool nm_is_digit(u8 c)
{
	return (u8)(c - '0') < 10;
}

static __always_inline bool nm_is_letter(u8 c)
{
	return (u8)((c | 0x20) - 'a') < 26;
}

static __always_inline bool nm_is_printable(u8 c)
{
	return (u8)(c - 0x20) < 0x5f;
}

/* Where one of two words of eight bytes ends; 0: it isn't there. */
NM_GLOBAL int nm_scan(u64 one, u64 other)
{
	struct nm_look *look = nm_looked_at();
	u64 window = 0;
	u32 i;

	if (!look)
		return 0;
	for (i = 0; i < NM_LOOK_BYTES; i++) {
		if (i >= look->length)
			break;
		window = window << 8 | look->bytes[i];
		if (window == one || window == other)
			return i + 1;
	}
	return 0;
}

#endif
