/* SPDX-License-Identifier: GPL-2.0-only */
/* All maps. bpf/README.md has the table: key, value, writer, reader, size, what happens when full. */
#ifndef NM_MAPS_H
#define NM_MAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "nm_types.h"

/* Floor 5.10: BPF_F_INNER_MAP lets tables of different sizes share one outer map (4a8f87e60f6d). */
struct nm_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(u32));
	/* struct nm_wide when a feature asks for it: the agent makes the tables. A nested __type stays a forward declaration. */
	__uint(value_size, sizeof(struct nm_bucket));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, NM_TABLES);
	__type(key, u32);
	__array(values, struct nm_table);
} nm_tables SEC(".maps") __weak;

struct nm_lock {
	struct bpf_spin_lock lock;
};

/* Taken only to claim a slot. Kernels before 5.12 have no compare-and-swap for programs; a lock
 * costs about 15 ns of an insert and works on all of them. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, u32);
	__type(value, struct nm_lock);
} nm_locks SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, u32); /* ifindex; 0 stands for one that the agent has not named */
	__type(value, struct nm_interface);
} nm_interfaces SEC(".maps") __weak;

/* The same for most interfaces, at ifindex % NM_NEAR: an array lookup instead of a hash (20 ns a packet). */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NM_NEAR);
	__type(key, u32);
	__type(value, struct nm_interface);
} nm_near SEC(".maps") __weak;

/* The counters of a watched interface; NULL of another. */
static __always_inline struct nm_interface *nm_interface_of(u32 ifindex)
{
	u32 near = ifindex % NM_NEAR;
	struct nm_interface *interface = bpf_map_lookup_elem(&nm_near, &near);

	return interface && interface->ifindex == ifindex ? interface : bpf_map_lookup_elem(&nm_interfaces, &ifindex);
}

/* One word a datagram: check << 32 | ports. A later datagram may take the place. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8192);
	__type(key, u32);
	__type(value, u64);
} nm_fragments SEC(".maps") __weak;

/*
 * Flows that were seen in a tunnel. The key is the flow's id (nm_flow_id), so that a flow on the same ports has an entry
 * of its own. The agent sizes it, and removes what leaves.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, u64);
	__type(value, struct nm_tunnel);
} nm_tunnels SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 256 * NM_HOOKS);
	__type(key, u32); /* IP protocol << 1 | hook */
	__type(value, struct nm_volume);
} nm_overflow SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NM_KINDS);
	__type(key, u32);
	__type(value, u64);
} nm_kinds SEC(".maps") __weak;

/* Seconds of the last overflow event, per CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} nm_overflow_at SEC(".maps") __weak;

/* Those below have one entry when their feature is off. Full: the query that was not used longest gives way. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64); /* flow, asking side and id of the query, mixed */
	__type(value, struct nm_dns_wait);
} nm_dns_waits SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct nm_dns_totals);
} nm_dns_totals SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64); /* the flow's tag */
	__type(value, struct nm_dns_name);
} nm_dns_names SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64); /* the flow's tag */
	__type(value, struct nm_tls_name);
} nm_tls_names SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct nm_http_server);
	__type(value, struct nm_http_counts);
} nm_http SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} nm_ring SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(u32));
} nm_perf SEC(".maps") __weak;

/* Preallocated, 80 KiB: what a trace tells waits here for its reader. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1024);
	__uint(key_size, 0);
	__uint(value_size, sizeof(struct nm_trace_line));
} nm_trace_lines SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct nm_trace_rule);
} nm_trace_rule SEC(".maps") __weak;

struct nm_trace_rate {
	struct bpf_spin_lock lock; /* of all but the lines that were lost */
	u32 pad;
	struct nm_trace_count count;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct nm_trace_rate);
} nm_trace_rate SEC(".maps") __weak;

/* What parsing found out. Word-sized reads and writes only. */
struct nm_packet {
	u64 source[2]; /* network order, raw; IPv4 in the first word's first four bytes */
	u64 destination[2];
	u16 source_port_be;
	u16 destination_port_be;
	u8 protocol;
	u8 family;
	u8 tcp_flags;
	u8 icmp_type;
	u8 icmp_code;
	u8 is_request; /* ICMP echo request */
	u8 is_reply;   /* ICMP echo reply */
	u8 kind;       /* why not IP or malformed */
	u32 header_bytes; /* link to transport header: what each segment of a super-packet carries; the payload begins there */
	u16 quote;	  /* ICMP error: offset of the packet that it quotes */
	u8 icmp_error; /* enum nm_icmp_error */
	u8 whole;      /* TCP and UDP: no fragment, and what follows is filled in */
	u32 payload_bytes;
	u32 seq; /* TCP; ICMP echo: the sequence number, network order */
	u32 ack;
	u16 window;	 /* unscaled */
	u16 tcp_options; /* their offset */
	u8 fragment;	 /* it is one */
	u8 tunnel;	 /* NM_TUNNEL_ that it came out of; 0 = none */
	u8 pad[2];
};

/* A slot of the flow table. */
struct nm_place {
	u32 table; /* index in nm_tables */
	u32 bucket;
	u32 slot;
	u32 free; /* slots that were free in the bucket when one was claimed */
};

#define NM_MESSAGE_BYTES 272 /* a DNS header and a question: 12 + 255 + 4, and one that is not used */
/* The other addresses of the conversation in hand, on the far side of a translation. */
struct nm_other {
	struct nm_packet key;	     /* as the opener sends there */
	struct nm_packet translated; /* while both are compared */
	u64 tag;
	u32 side;    /* the opener's, in that key */
	u32 swapped; /* whether sides change places between the two keys */
};

/*
 * The packet in hand, per CPU. In a map rather than on the stack: global functions find it there (5.10 passes them no
 * pointers), and the verifier forgets which way the parser took.
 */
struct nm_scratch {
	struct nm_packet packet;
	struct nm_volume wire; /* what this buffer is on the wire */
	struct nm_place at;
	u32 runs; /* of the programs on this CPU: which of them are timed */
	u32 vni;
	struct bpf_sock_tuple asked; /* whom nm_ask asks for */
	struct nm_other other;	     /* what it has found */
	struct nm_cold cold;	     /* of the slot that is being filled: the stack is short */
	struct nm_hot hot;
	struct nm_packet outer; /* what the packet came in, if it came out of a tunnel */
	u8 message[NM_MESSAGE_BYTES];
	struct nm_dns_name name;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct nm_scratch);
} nm_scratch SEC(".maps") __weak;

static __always_inline struct nm_scratch *nm_in_hand(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&nm_scratch, &zero);
}

/*
 * A function that the verifier takes once and for all, whoever calls it (5.6): programs load ten times faster and fit the
 * instruction cache. Weak, so that objects that share a header link.
 */
#define NM_GLOBAL __weak __attribute__((noinline))

/* Set before load. */
#define NM_HASH_WORDS 10
const volatile u64 nm_hash_keys[2 + 2 * NM_HASH_WORDS] __weak; /* random, this run's */
const volatile u32 nm_transport __weak;			       /* enum nm_transport */
const volatile u32 nm_features __weak;			       /* NM_FEATURE_, or-ed */
const volatile u32 nm_nat __weak;			       /* enum nm_nat_by */
const volatile u32 nm_ask_conntrack __weak;		       /* whether the kernel has bpf_skb_ct_lookup */
const volatile u32 nm_decapsulate __weak;		       /* NM_TUNNEL_, or-ed */
const volatile u32 nm_bounds_us[NM_LANES - 1] __weak;	       /* upper bounds of the lanes; what is unused is ~0 */

struct nm_control nm_control __weak;

/* Features that are on. What was off at the start is not in the loaded program; the rest is switched while it runs. */
static __always_inline u32 nm_on(void)
{
	return nm_features & nm_control.features;
}

/* Types that no map definition names, so that the object's BTF and the skeleton have them. */
struct nm_anchors {
	struct nm_wide wide;
	struct nm_event event;
	enum nm_outcome outcome;
	enum nm_kind kind;
	enum nm_event_kind event_kind;
	enum nm_icmp_error icmp_error;
	enum nm_transport transport;
	enum nm_nat_by nat_by;
	enum nm_app app;
	struct nm_name name;
	struct nm_path path;
	enum nm_dns_type dns_type;
	struct nm_dns dns;
	struct nm_trace_rule trace_rule;
	struct nm_trace_line trace_line;
	struct nm_trace_count trace_count;
};
const volatile struct nm_anchors nm_anchors __weak;

static __always_inline void nm_note_more(u32 kind, u64 more)
{
	u64 *n = bpf_map_lookup_elem(&nm_kinds, &kind);

	if (n)
		*n += more;
}

static __always_inline void nm_note(u32 kind)
{
	nm_note_more(kind, 1);
}

#endif
