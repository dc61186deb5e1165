// SPDX-License-Identifier: GPL-2.0-only
/*
 * Makes one flow of a translated conversation that conntrack has told the agent of, where programs may not read conntrack
 * (NM_NAT_TOLD). Not attached anywhere: the agent writes both keys into nm_pairing and runs it through BPF_PROG_TEST_RUN, so
 * that slots are claimed under the same lock as by packets. Of two flows that of the first key goes on. The other's slot dies,
 * and what it has counted the agent adds to the first after a grace period; it has counted other packets (nm_passes).
 * Floor: 5.10.
 */
#include "nm_maps.h"
#include "nm_flow.h"

struct nm_pairing nm_pairing;

/* Not nm_scratch: before 6.11 a packet may interrupt a test run. */
struct nm_pair_work {
	struct nm_packet keys[2];
	struct nm_place at[2];
	struct nm_place alias;
	struct nm_cold cold;
	struct nm_hot hot;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct nm_pair_work);
} nm_pair_work SEC(".maps");

static __always_inline void nm_take_key(struct nm_packet *p, u32 which)
{
	const struct nm_translated *keys = &nm_pairing.keys;

	__builtin_memcpy(p->source, keys->address[which * 2], 16);
	__builtin_memcpy(p->destination, keys->address[which * 2 + 1], 16);
	p->source_port_be = keys->port_be[which * 2];
	p->destination_port_be = keys->port_be[which * 2 + 1];
	p->protocol = keys->protocol;
	p->family = keys->family;
}

/* What is in the slot of a key: nothing, an alias or a flow. */
enum nm_found { NM_NOTHING, NM_ALIAS, NM_FLOW };

static __always_inline enum nm_found nm_look_for(struct nm_place *at, u64 tag, u64 *leads_to)
{
	struct nm_bucket *bucket = nm_find(at, tag);
	struct nm_hot *hot;

	if (!bucket)
		return NM_NOTHING;
	hot = nm_hot_at(bucket, at);
	*leads_to = hot->closed_ns;
	return hot->marks & NM_MARK_ALIAS ? NM_ALIAS : NM_FLOW;
}

SEC("tc")
int nm_pair_told(struct __sk_buff *skb)
{
	u32 zero = 0, sides[2], side;
	struct nm_pairing *pairing = &nm_pairing;
	u64 hash, tags[2], leads_to[2] = {};
	enum nm_found found[2];
	bool first, fresh;
	u64 tag, flow;
	struct nm_pair_work *work = bpf_map_lookup_elem(&nm_pair_work, &zero);

	if (!work)
		return 0;
	nm_take_key(&work->keys[0], 0);
	nm_take_key(&work->keys[1], 1);
	sides[0] = nm_sender_side(&work->keys[0]);
	sides[1] = nm_sender_side(&work->keys[1]);
	hash = nm_hash(&work->keys[0], sides[0]);
	tags[0] = nm_tag(hash);
	tags[1] = nm_tag(nm_hash(&work->keys[1], sides[1]));
	pairing->tags[0] = tags[0];
	pairing->tags[1] = tags[1];
	pairing->swapped = sides[0] ^ sides[1];
	pairing->alias = 0;
	pairing->table = NM_NO_TABLE;
	if (pairing->only_tags || tags[0] == tags[1] || !nm_is_kept(hash))
		return 0;

	found[0] = nm_look_for(&work->at[0], tags[0], &leads_to[0]);
	found[1] = nm_look_for(&work->at[1], tags[1], &leads_to[1]);
	if ((found[0] == NM_ALIAS && found[1] == NM_FLOW && leads_to[0] == tags[1]) ||
	    (found[1] == NM_ALIAS && found[0] == NM_FLOW && leads_to[1] == tags[0]))
		return 0;
	if (found[0] == NM_ALIAS)
		nm_dismiss(skb, &work->at[0], tags[0]);
	if (found[1] == NM_ALIAS)
		nm_dismiss(skb, &work->at[1], tags[1]);
	first = found[0] == NM_FLOW;
	if (first && found[1] == NM_FLOW) {
		/* Of sampled flows both may have counted the same: they stay two. */
		if (nm_keeps_all())
			pairing->table = work->at[1].table;
		pairing->slot = nm_slot_number(&work->at[1]);
		nm_dismiss(skb, &work->at[1], tags[1]);
	}
	if (!first && found[1] != NM_FLOW)
		return 0;
	/* The alias is for the key that has no flow. */
	flow = first ? tags[0] : tags[1];
	tag = first ? tags[1] : tags[0];
	side = first ? sides[1] : sides[0];
	__builtin_memset(&work->cold, 0, sizeof(work->cold));
	__builtin_memset(&work->hot, 0, sizeof(work->hot));
	nm_set_key(&work->cold, first ? &work->keys[1] : &work->keys[0], side);
	nm_mark_alias(&work->hot, flow, pairing->swapped);
	if (nm_claim(&work->alias, tag, &work->cold, &work->hot, &fresh) && fresh) {
		pairing->alias = nm_slot_number(&work->alias) + 1;
		nm_tell_claim(skb, NM_EVENT_ALIAS, &work->alias, false, bpf_ktime_get_ns());
	}
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
