/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Network address translation: a conversation that is seen by two keys is one flow. Its second key has a slot too, an alias,
 * which leads to the first. bpf/README.md tells how.
 *
 * Who knows is conntrack. On its way out a packet carries its own entry (skb->_nfct), whatever its protocol and zone; on its way in
 * the kernel is asked by kfunc (5.18; TCP and UDP only). Both are read once a flow and direction, never once a packet. Where programs
 * may not read it (NM_NAT_TOLD) the agent hears of it by netlink, some time after the first packets, and runs nm_pair_told.
 */
#ifndef NM_NAT_H
#define NM_NAT_H

#include <linux/netfilter/nf_conntrack_common.h>
#include "nm_open.h"
#include "nm_passing.h"

#define NM_NFCT_POINTER ~7UL /* the rest of skb->_nfct says how packet and entry belong together */

/* What is read of the kernel's own types, by name: libbpf finds the fields in the running kernel and in its module nf_conntrack. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct sk_buff___nm {
	unsigned long _nfct;
};

union nf_inet_addr___nm {
	u32 all[4];
};

union nf_conntrack_man_proto___nm {
	u16 all;
};

struct nf_conntrack_man___nm {
	union nf_inet_addr___nm u3;
	union nf_conntrack_man_proto___nm u;
};

struct nf_conntrack_tuple___nm {
	struct nf_conntrack_man___nm src;
	struct {
		union nf_inet_addr___nm u3;
		union {
			u16 all;
		} u;
	} dst;
};

struct nf_conntrack_tuple_hash___nm {
	struct nf_conntrack_tuple___nm tuple;
};

struct nf_conn {
	struct nf_conntrack_tuple_hash___nm tuplehash[2]; /* as opened, as answered */
	unsigned long status;
};

#pragma clang attribute pop

/* The first twelve bytes, which every kernel with the kfunc takes. */
struct bpf_ct_opts___nm {
	s32 netns_id;
	s32 error;
	u8 l4proto;
	u8 dir;
	u8 reserved[2];
};

#ifndef NM_WITHOUT_BTF
/* Called with nm_ask_conntrack only: until 6.4 a program can't ask for a module's function (bpf_ksym_exists), but call it. */
extern struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *skb, struct bpf_sock_tuple *tuple, u32 tuple__sz,
					 struct bpf_ct_opts___nm *opts, u32 opts__sz) __ksym __weak;
extern void bpf_ct_release(struct nf_conn *entry) __ksym __weak;
#else
/* For kernels without BTF, where libbpf would ask for it as soon as a function of the kernel's is named. */
static __always_inline struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *skb, struct bpf_sock_tuple *tuple,
							 u32 tuple__sz, struct bpf_ct_opts___nm *opts, u32 opts__sz)
{
	return NULL;
}

static __always_inline void bpf_ct_release(struct nf_conn *entry)
{
}
#endif

/* What conntrack says. */
enum nm_answer {
	NM_UNKNOWN,    /* nothing */
	NM_PLAIN,      /* no address is translated */
	NM_TRANSLATED, /* the other key is in hand */
	NM_UNWANTED,   /* the same, and sampling leaves the conversation out */
};

static __always_inline struct nf_conn *nm_own_entry(struct __sk_buff *skb)
{
	/* What a TC program is called with is the buffer itself; this address is only ever read from through the helper. */
	const struct sk_buff___nm *buffer = (const void *)skb;
	unsigned long word = 0;

	if (bpf_core_field_exists(buffer->_nfct))
		bpf_core_read(&word, sizeof(word), &buffer->_nfct);
	return (struct nf_conn *)(word & NM_NFCT_POINTER);
}

static __always_inline struct nf_conn *nm_look_up(struct __sk_buff *skb, struct nm_scratch *scratch)
{
	const struct nm_packet *p = &scratch->packet;
	struct bpf_ct_opts___nm opts = {.netns_id = BPF_F_CURRENT_NETNS, .l4proto = p->protocol};
	struct bpf_sock_tuple *tuple = &scratch->asked;

	if (p->family == 4) {
		tuple->ipv4.saddr = p->source[0];
		tuple->ipv4.daddr = p->destination[0];
		tuple->ipv4.sport = p->source_port_be;
		tuple->ipv4.dport = p->destination_port_be;
		return bpf_skb_ct_lookup(skb, tuple, sizeof(tuple->ipv4), &opts, sizeof(opts));
	}
	__builtin_memcpy(tuple->ipv6.saddr, p->source, 16);
	__builtin_memcpy(tuple->ipv6.daddr, p->destination, 16);
	tuple->ipv6.sport = p->source_port_be;
	tuple->ipv6.dport = p->destination_port_be;
	return bpf_skb_ct_lookup(skb, tuple, sizeof(tuple->ipv6), &opts, sizeof(opts));
}

/* Both keys of a translated conversation, as its opener sends: before translation and after. */
static __always_inline enum nm_answer nm_read_entry(const struct nf_conn *entry, const struct nm_packet *p,
						    struct nm_packet *before, struct nm_packet *after)
{
	unsigned long status = 0;
	u16 ports[4] = {};

	bpf_core_read(&status, sizeof(status), &entry->status);
	if (!(status & IPS_NAT_MASK))
		return NM_PLAIN;
	bpf_core_read(before->source, 16, &entry->tuplehash[0].tuple.src.u3);
	bpf_core_read(before->destination, 16, &entry->tuplehash[0].tuple.dst.u3);
	bpf_core_read(after->source, 16, &entry->tuplehash[1].tuple.dst.u3);
	bpf_core_read(after->destination, 16, &entry->tuplehash[1].tuple.src.u3);
	bpf_core_read(&ports[0], 2, &entry->tuplehash[0].tuple.src.u.all);
	bpf_core_read(&ports[1], 2, &entry->tuplehash[0].tuple.dst.u.all);
	bpf_core_read(&ports[2], 2, &entry->tuplehash[1].tuple.dst.u.all);
	bpf_core_read(&ports[3], 2, &entry->tuplehash[1].tuple.src.u.all);
	if (p->is_request || p->is_reply) {
		/* The identifier stands in the source of either tuple. */
		ports[1] = ports[0];
		ports[2] = ports[3];
	} else if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP && p->protocol != IPPROTO_SCTP) {
		__builtin_memset(ports, 0, sizeof(ports));
	}
	before->source_port_be = ports[0];
	before->destination_port_be = ports[1];
	after->source_port_be = ports[2];
	after->destination_port_be = ports[3];
	before->protocol = after->protocol = p->protocol;
	before->family = after->family = p->family;
	return NM_TRANSLATED;
}

/* What conntrack knows of the packet in hand, whose tag this is: enum nm_answer. */
NM_GLOBAL int nm_ask(struct __sk_buff *skb, u64 tag, u32 hook)
{
	struct nm_scratch *scratch = nm_in_hand();
	u32 answer = NM_UNKNOWN, side_before, side_after;
	struct nm_packet *before, *after;
	struct nf_conn *entry = NULL;
	u64 hash_before, tag_after;
	struct nm_packet *p;

	if (!scratch || nm_nat != NM_NAT_READ || !bpf_core_type_exists(struct nf_conn))
		return NM_UNKNOWN;
	p = &scratch->packet;
	/* The entry is that of the outer packet. */
	if (p->tunnel)
		return NM_UNKNOWN;
	before = &scratch->other.key;
	after = &scratch->other.translated;
	if (hook == NM_EGRESS)
		entry = nm_own_entry(skb);
	if (entry) {
		answer = nm_read_entry(entry, p, before, after);
	} else if (nm_ask_conntrack && (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP) &&
		   nm_control.ask_in && (p->tcp_flags & (NM_TCP_SYN | NM_TCP_ACK)) != NM_TCP_SYN) {
		/* Whoever begins is not known yet. The other way in the entry is missed only by what was met halfway. */
		entry = nm_look_up(skb, scratch);
		if (!entry)
			return NM_UNKNOWN;
		answer = nm_read_entry(entry, p, before, after);
		bpf_ct_release(entry);
	}
	if (answer != NM_TRANSLATED)
		return answer;
	side_before = nm_sender_side(before);
	side_after = nm_sender_side(after);
	hash_before = nm_hash(before, side_before);
	tag_after = nm_tag(nm_hash(after, side_after));
	scratch->other.swapped = side_before ^ side_after;
	if (tag == nm_tag(hash_before)) {
		scratch->other.tag = tag_after;
		scratch->other.side = side_after;
		*before = *after;
	} else if (tag == tag_after) {
		scratch->other.tag = nm_tag(hash_before);
		scratch->other.side = side_before;
		if (!nm_is_kept(hash_before))
			return NM_UNWANTED;
	} else {
		/* An ICMP error goes with the entry of the packet that it quotes. */
		return NM_UNKNOWN;
	}
	return scratch->other.tag == tag ? NM_PLAIN : NM_TRANSLATED;
}

static __always_inline void nm_mark_alias(struct nm_hot *hot, u64 flow, bool swapped)
{
	hot->marks = NM_MARK_ALIAS | (swapped ? NM_MARK_SWAPPED : 0);
	hot->closed_ns = flow;
	hot->seen_ticks[0] = nm_now_coarse_ns() >> NM_TICK_SHIFT;
	hot->seen_ticks[1] = hot->seen_ticks[0];
}

/*
 * An alias for the key of the packet in hand (`own`) or the other one; `side`: of whoever sends by that key. Without room for it each
 * of its packets comes the long way.
 */
NM_GLOBAL int nm_claim_alias(struct __sk_buff *skb, u64 tag, u64 flow, u32 side, bool own)
{
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_place at = {};
	struct nm_cold *cold;
	struct nm_hot *hot;
	bool fresh;

	if (!scratch)
		return 0;
	cold = &scratch->cold;
	hot = &scratch->hot;
	nm_clear_lines(scratch);
	if (own)
		nm_set_key(cold, &scratch->packet, side & 1);
	else
		nm_set_key(cold, &scratch->other.key, side & 1);
	nm_mark_alias(hot, flow, scratch->other.swapped);
	if (nm_claim(&at, tag, cold, hot, &fresh) && fresh)
		nm_tell_claim(skb, NM_EVENT_ALIAS, &at, false, bpf_ktime_get_ns());
	return 0;
}

/* A slot that packets must not find any more leaves. */
static __always_inline void nm_dismiss(struct __sk_buff *skb, const struct nm_place *at, u64 tag)
{
	struct nm_bucket *bucket = nm_bucket_at(at->table, at->bucket);

	if (!bucket)
		return;
	bucket->tags[nm_slot_of(at)] = tag | NM_DEAD;
	nm_emit(skb, NM_EVENT_ENDED, at->table, nm_slot_number(at), bpf_ktime_get_ns());
}

static __always_inline bool nm_is_alias(const struct nm_place *at)
{
	struct nm_bucket *bucket = nm_bucket_at(at->table, at->bucket);

	return bucket && nm_hot_at(bucket, at)->marks & NM_MARK_ALIAS;
}

/* Where a packet goes. With NM_PLACED: the place is in hand, and the lowest bit is the packet's side there. */
#define NM_NO_PLACE 0
#define NM_PLACED   2
#define NM_LEFT_OUT 4 /* by sampling */
#define NM_PASSED   8 /* nowhere: it was counted where it came in */

/*
 * The packet in hand belongs to a conversation whose other key nm_ask has found. If that has a flow, the packet is one of its, and
 * its own key is to be an alias (nm_pair_up). Else NM_NO_PLACE: its own key is the flow's, and the other one to be the alias.
 * `here`: it has a slot already.
 */
NM_GLOBAL int nm_pair(struct __sk_buff *skb, u64 tag, u32 side, bool here)
{
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_place there = {};
	struct nm_bucket *bucket;
	u64 other;

	if (!scratch)
		return NM_NO_PLACE;
	other = scratch->other.tag;
	bucket = nm_find(&there, other);
	if (!bucket)
		return NM_NO_PLACE;
	if (nm_hot_at(bucket, &there)->marks & NM_MARK_ALIAS) {
		if (nm_hot_at(bucket, &there)->closed_ns != tag)
			nm_dismiss(skb, &there, other);
		return NM_NO_PLACE;
	}
	/* Both were opened before either knew of the other: what this one has counted is told as it is. */
	if (here)
		nm_dismiss(skb, &scratch->at, tag);
	scratch->at = there;
	return NM_PLACED | ((side ^ scratch->other.swapped) & 1);
}

/* nm_pair, and the alias. It is not made there: frames add up. */
static __always_inline int nm_pair_up(struct __sk_buff *skb, const struct nm_scratch *scratch, u64 tag, u32 side,
				      bool here)
{
	int placed = nm_pair(skb, tag, side, here);

	if (placed)
		nm_claim_alias(skb, tag, scratch->other.tag, side, true);
	return placed;
}

/*
 * The slot in hand is an alias, or has seen nothing of this direction until now. NM_NO_PLACE: it was an alias and leads nowhere; the
 * packet is as new as one that has found nothing.
 */
NM_GLOBAL int nm_join(struct __sk_buff *skb, u64 tag, u32 side_and_hook, u32 now_ticks)
{
	struct nm_scratch *scratch = nm_in_hand();
	u32 side = side_and_hook & 1, hook = side_and_hook >> 1 & 1, there, holder, owner = skb->ifindex << 1 | hook;
	bool opens, recent, strays, ends = false;
	struct nm_bucket *bucket;
	struct nm_place alias;
	struct nm_hot *hot;
	u64 flow;
	int answer;

	if (!scratch)
		return NM_NO_PLACE;
	alias = scratch->at;
	bucket = nm_bucket_at(alias.table, alias.bucket);
	if (!bucket)
		return NM_NO_PLACE;
	hot = nm_hot_at(bucket, &alias);
	if (!(hot->marks & NM_MARK_ALIAS)) {
		/* Only now may its entry be there: the opener's packet came in before it was made. */
		if (hook == NM_EGRESS && nm_ask(skb, tag, hook) == NM_TRANSLATED) {
			answer = nm_pair_up(skb, scratch, tag, side, true);
			if (answer)
				return answer;
			nm_claim_alias(skb, scratch->other.tag, tag, scratch->other.side, false);
		}
		return NM_PLACED | side;
	}
	if (hot->seen_ticks[0] != now_ticks)
		hot->seen_ticks[0] = now_ticks;
	flow = hot->closed_ns;
	there = side ^ !!(hot->marks & NM_MARK_SWAPPED);
	barrier_var(there); /* or clang leaves out the bound; to an older verifier ^ has none */
	bucket = nm_find(&scratch->at, flow);
	hot = bucket ? nm_hot_at(bucket, &scratch->at) : NULL;
	if (hot && !(hot->marks & NM_MARK_ALIAS)) {
		opens = (scratch->packet.tcp_flags & (NM_TCP_SYN | NM_TCP_ACK)) == NM_TCP_SYN;
		holder = hot->owner[there & 1];
		recent = holder && nm_is_recent(hot->seen_ticks[there & 1], now_ticks);
		if (!opens && (holder == owner || recent))
			return NM_PLACED | there;
		/* Before it's counted here: the other side's ports may have been given to somebody else meanwhile. */
		answer = nm_ask(skb, tag, hook);
		ends = opens && hot->closed_ns && (holder ? holder == owner : !nm_passes(skb, &scratch->packet, hook));
		/* What has come in was counted a moment ago, and not in this flow. */
		strays = !recent && nm_passes(skb, &scratch->packet, hook);
		if (!ends && !strays &&
		    (answer == NM_UNKNOWN || (answer >= NM_TRANSLATED && scratch->other.tag == flow)))
			return NM_PLACED | there;
	}
	nm_dismiss(skb, &alias, tag);
	if (ends)
		nm_dismiss(skb, &scratch->at, flow);
	return NM_NO_PLACE;
}

/* The flow of a slot: itself, or what its alias leads to, where `side` may be the other. */
static __always_inline struct nm_bucket *nm_flow_of(struct nm_place *at, struct nm_bucket *bucket, u32 *side)
{
	struct nm_hot *hot;

	if (!bucket || !nm_nat)
		return bucket;
	hot = nm_hot_at(bucket, at);
	if (!(hot->marks & NM_MARK_ALIAS))
		return bucket;
	*side ^= !!(hot->marks & NM_MARK_SWAPPED);
	return nm_find(at, hot->closed_ns);
}

#endif
