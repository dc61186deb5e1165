/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * SipHash-1-3 (Aumasson, Bernstein: "SipHash: a fast short-input PRF") over a fixed number of words.
 * Keyed and random for each run: whoever chooses addresses and ports can't choose collisions. Two live
 * flows share a 63-bit fingerprint with a chance of 2^-63 a pair: at a million live flows and a hundred
 * thousand new ones a second, once in three years.
 */
#ifndef NM_HASH_H
#define NM_HASH_H

#include "nm_types.h"

struct nm_sip {
	u64 a, b, c, d;
};

#define nm_rotl(x, n) (((x) << (n)) | ((x) >> (64 - (n))))

static __always_inline void nm_sip_round(struct nm_sip *s)
{
	s->a += s->b;
	s->b = nm_rotl(s->b, 13) ^ s->a;
	s->a = nm_rotl(s->a, 32);
	s->c += s->d;
	s->d = nm_rotl(s->d, 16) ^ s->c;
	s->a += s->d;
	s->d = nm_rotl(s->d, 21) ^ s->a;
	s->c += s->b;
	s->b = nm_rotl(s->b, 17) ^ s->c;
	s->c = nm_rotl(s->c, 32);
}

static __always_inline void nm_sip_word(struct nm_sip *s, u64 word)
{
	s->d ^= word;
	nm_sip_round(s);
	s->a ^= word;
}

static __always_inline void nm_sip_start(struct nm_sip *s, u64 key0, u64 key1)
{
	s->a = key0 ^ 0x736f6d6570736575ULL;
	s->b = key1 ^ 0x646f72616e646f6dULL;
	s->c = key0 ^ 0x6c7967656e657261ULL;
	s->d = key1 ^ 0x7465646279746573ULL;
}

static __always_inline u64 nm_sip_finish(struct nm_sip *s)
{
	s->c ^= 0xff;
	nm_sip_round(s);
	nm_sip_round(s);
	nm_sip_round(s);
	return s->a ^ s->b ^ s->c ^ s->d;
}

#endif
