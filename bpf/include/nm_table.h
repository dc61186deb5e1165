/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The flow table: find a slot by its tag, claim one. A flow goes to its first bucket while that is half free, else to the emptier
 * of two (two-choice hashing: 7 flows in a million find no room at 0.7 full). Nine in ten are then found in the first.
 * bpf/README.md tells why this structure, and how slots are freed without losing a packet.
 */
#ifndef NM_TABLE_H
#define NM_TABLE_H

#include "nm_maps.h"

#define NM_ROOMY (NM_SLOTS / 2) /* so many free slots need no look at the other bucket */

static __always_inline struct nm_bucket *nm_bucket_at(u32 table, u32 index)
{
	void *inner = bpf_map_lookup_elem(&nm_tables, &table);

	return inner ? bpf_map_lookup_elem(inner, &index) : NULL;
}

/* NULL without features: buckets are narrow then, and an older verifier looks at every global function, called or not. */
static __always_inline struct nm_wide *nm_wide_at(const struct nm_place *at)
{
	return !nm_features ? NULL : (struct nm_wide *)nm_bucket_at(at->table, at->bucket);
}

/* The bucket of the packet in hand. */
static __always_inline struct nm_wide *nm_wide_in_hand(const struct nm_scratch *scratch)
{
	return scratch ? nm_wide_at(&scratch->at) : NULL;
}

/* The slot within its bucket, with the bound that the verifier wants. */
static __always_inline u32 nm_slot_of(const struct nm_place *at)
{
	return at->slot & (NM_SLOTS - 1);
}

static __always_inline struct nm_hot *nm_hot_at(struct nm_bucket *bucket, const struct nm_place *at)
{
	return &bucket->hot[nm_slot_of(at)];
}

/* The two buckets of a tag: the low and the next 31 bits, scaled to the table. */
static __always_inline u32 nm_first_bucket(u64 tag, u32 buckets)
{
	return (tag & 0xffffffff) * buckets >> 32;
}

static __always_inline u32 nm_second_bucket(u64 tag, u32 buckets)
{
	return (tag >> 32 & 0x7fffffff) * buckets >> 31;
}

/* The place's slot is written to memory, not held in a register: eight slots are then one path to the verifier. */
static __always_inline struct nm_bucket *nm_find_in(struct nm_place *at, u64 tag)
{
	struct nm_bucket *bucket = nm_bucket_at(at->table, at->bucket);
	u32 i;

	if (!bucket)
		return NULL;
#pragma unroll
	for (i = 0; i < NM_SLOTS; i++) {
		if (bucket->tags[i] == tag) {
			at->slot = i;
			return bucket;
		}
	}
	return NULL;
}

static __always_inline struct nm_bucket *nm_find_table(struct nm_place *at, u64 tag, u32 table)
{
	u32 buckets = nm_control.buckets[table & (NM_TABLES - 1)];
	struct nm_bucket *found;

	at->table = table;
	at->bucket = nm_first_bucket(tag, buckets);
	found = nm_find_in(at, tag);
	if (found)
		return found;
	at->bucket = nm_second_bucket(tag, buckets);
	return nm_find_in(at, tag);
}

/* The bucket that holds the tag, or NULL. */
static __always_inline struct nm_bucket *nm_find(struct nm_place *at, u64 tag)
{
	struct nm_bucket *found = nm_find_table(at, tag, nm_control.current);

	if (found || nm_control.previous == NM_NO_TABLE)
		return found;
	return nm_find_table(at, tag, nm_control.previous);
}

/* As events and the agent name it. */
static __always_inline u32 nm_slot_number(const struct nm_place *at)
{
	return at->bucket * NM_SLOTS + at->slot;
}

static __always_inline u32 nm_count_free(const struct nm_bucket *bucket)
{
	u32 taken = 0, i;

	/* Arithmetic instead of a test: sixteen tests would be 65 536 paths to the verifier. */
#pragma unroll
	for (i = 0; i < NM_SLOTS; i++) {
		u64 word = bucket->tags[i] | -bucket->tags[i];

		barrier_var(word);
		taken += word >> 63;
	}
	return NM_SLOTS - taken;
}

/*
 * Claims a slot of the current table and fills it from `cold` and `hot`. True also when another CPU has
 * claimed one for the same flow meanwhile (*fresh is then false). Two CPUs that choose different
 * buckets for one flow at the same moment leave two slots: both live, both counted, told
 * as two flows; a lookup finds the first.
 */
static __always_inline bool nm_claim(struct nm_place *at, u64 tag, const struct nm_cold *cold, const struct nm_hot *hot,
				     bool *fresh)
{
	u32 table = nm_control.current, buckets = nm_control.buckets[table & (NM_TABLES - 1)];
	u32 index = nm_first_bucket(tag, buckets), lock_index, i, slot = NM_SLOTS;
	struct nm_bucket *bucket = nm_bucket_at(table, index);
	struct nm_lock *lock;

	if (!bucket)
		return false;
	at->free = nm_count_free(bucket);
	if (at->free < NM_ROOMY) {
		u32 second = nm_second_bucket(tag, buckets), free;
		struct nm_bucket *other = nm_bucket_at(table, second);

		if (!other)
			return false;
		free = nm_count_free(other);
		if (free > at->free) {
			bucket = other;
			index = second;
			at->free = free;
		}
	}
	lock_index = index & 1023;
	lock = bpf_map_lookup_elem(&nm_locks, &lock_index);
	if (!lock)
		return false;

	*fresh = false;
	bpf_spin_lock(&lock->lock);
#pragma unroll
	for (i = 0; i < NM_SLOTS; i++) {
		u64 t = bucket->tags[i];

		if (t == tag) {
			slot = i;
			goto found;
		}
		if (!t && slot == NM_SLOTS)
			slot = i;
	}
	if (slot < NM_SLOTS) {
		bucket->cold[slot] = *cold;
		bucket->hot[slot] = *hot;
		bucket->tags[slot] = tag;
		*fresh = true;
	}
found:
	bpf_spin_unlock(&lock->lock);
	at->bucket = index;
	at->slot = slot;
	at->table = table;
	return slot < NM_SLOTS;
}

#endif
