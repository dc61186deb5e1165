/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Multilinear hashing (Lemire, Kaser: "Strongly universal string hashing is fast", 2014): the upper half of a sum of products
 * of 32-bit words with 64-bit keys, twice. The keys are random for each run: whoever chooses addresses and ports can't choose
 * collisions, and two flows share a 63-bit tag with a chance of 2^-63, whatever they are. At a million live flows and a
 * hundred thousand new ones a second that is once in three years. SipHash-1-3 is as good and took 20 ns more of a packet:
 * BPF has no rotation.
 */
#ifndef NM_HASH_H
#define NM_HASH_H

#include "nm_maps.h"

struct nm_sum {
	u64 a, b;
};

static __always_inline void nm_sum_start(struct nm_sum *sum)
{
	sum->a = nm_hash_keys[0];
	sum->b = nm_hash_keys[1];
}

/* `place`: of the word in the key, below NM_HASH_WORDS, each once. */
static __always_inline void nm_sum_word(struct nm_sum *sum, u32 place, u32 word)
{
	sum->a += nm_hash_keys[2 + place * 2] * word;
	sum->b += nm_hash_keys[3 + place * 2] * word;
}

/* Four words. A word that is 0 adds nothing: an IPv4 address is an IPv6 address with three of them. */
static __always_inline void nm_sum_address(struct nm_sum *sum, u32 place, const u64 *address)
{
	nm_sum_word(sum, place, address[0]);
	nm_sum_word(sum, place + 1, address[0] >> 32);
	nm_sum_word(sum, place + 2, address[1]);
	nm_sum_word(sum, place + 3, address[1] >> 32);
}

/* Sums of neighbours are neighbours; the finish of MurmurHash3 (Appleby), a bijection, scatters them over the buckets. */
static __always_inline u64 nm_sum_finish(const struct nm_sum *sum)
{
	u64 hash = (sum->a & 0xffffffff00000000ULL) | sum->b >> 32;

	hash ^= hash >> 33;
	hash *= 0xff51afd7ed558ccdULL;
	hash ^= hash >> 33;
	hash *= 0xc4ceb9fe1a85ec53ULL;
	return hash ^ hash >> 33;
}

/* Side of the sender in the canonical key: the lower end is side 0. */
static __always_inline u32 nm_sender_side(const struct nm_packet *p)
{
	if (p->source[0] != p->destination[0])
		return p->source[0] > p->destination[0];
	if (p->source[1] != p->destination[1])
		return p->source[1] > p->destination[1];
	return p->source_port_be > p->destination_port_be;
}

static __always_inline u64 nm_hash(const struct nm_packet *p, u32 side)
{
	const u64 *low = side ? p->destination : p->source, *high = side ? p->source : p->destination;
	u32 low_port = side ? p->destination_port_be : p->source_port_be;
	u32 high_port = side ? p->source_port_be : p->destination_port_be;
	struct nm_sum sum;

	nm_sum_start(&sum);
	if (p->family == 4) {
		nm_sum_word(&sum, 0, low[0]);
		nm_sum_word(&sum, 4, high[0]);
	} else {
		nm_sum_address(&sum, 0, low);
		nm_sum_address(&sum, 4, high);
	}
	nm_sum_word(&sum, 8, low_port << 16 | high_port);
	nm_sum_word(&sum, 9, (u32)p->protocol << 8 | p->family);
	return nm_sum_finish(&sum);
}

/* 0 is no flow's tag: it stands for a free slot. */
static __always_inline u64 nm_tag(u64 hash)
{
	return hash & ~NM_DEAD ?: 1;
}

/* No flow is left out by sampling. */
static __always_inline bool nm_keeps_all(void)
{
	return nm_control.sample_below == 0xffffffff;
}

/* Whether sampling keeps the flow. */
static __always_inline bool nm_is_kept(u64 hash)
{
	return nm_keeps_all() || (u32)(hash * 0x9e3779b97f4a7c15ULL >> 32) < nm_control.sample_below;
}

#endif
