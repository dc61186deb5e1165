/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The contract between the kernel programs and the agent: every type here that a map or the
 * event ring carries becomes a Rust type of the skeleton, generated from the object's BTF. There
 * is no second definition anywhere.
 *
 * Units are in the names. Multi-byte fields are host order unless the name ends in _be. Unknown is 0.
 * A tick is 2^20 ns of CLOCK_MONOTONIC (about 1.05 ms); ticks are u32 and compared by difference.
 */
#ifndef NM_TYPES_H
#define NM_TYPES_H

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;

#define NM_SLOTS      8		   /* slots in a bucket */
#define NM_TABLES     4		   /* outer entries: two in use at a time, one spare, one for grace periods */
#define NM_NO_TABLE   0xffffffff   /* nm_control.previous when there is none */
#define NM_DEAD	      (1ULL << 63) /* tag bit: no packet may find this slot any more */
#define NM_TICK_SHIFT 20
#define NM_NEAR	      256 /* interfaces that are found without hashing */

#define NM_TIMED_EVERY 256 /* runs of the programs on a CPU, of which one is timed */

enum nm_hook { NM_INGRESS, NM_EGRESS, NM_HOOKS };

/* What became of a packet: exactly one for each packet seen. */
enum nm_outcome {
	NM_COUNTED,
	NM_DUPLICATE,
	NM_SAMPLED_OUT,
	NM_NOT_IP,
	NM_MALFORMED,
	NM_OVERFLOW,
	NM_OUTCOMES,
};

/* Why a packet was not IP, or malformed, or not quite knowable; index of nm_kinds. */
enum nm_kind {
	NM_KIND_NONE,
	NM_KIND_ARP,		  /* not IP: ARP */
	NM_KIND_VLAN_DEPTH,	  /* not IP: more than two tags */
	NM_KIND_OTHER_ETHERTYPE,  /* not IP: anything else */
	NM_KIND_SHORT_LINK,	  /* malformed: ends within the link header or a tag */
	NM_KIND_SHORT_IP,	  /* malformed: ends within the IP header */
	NM_KIND_IP_VERSION,	  /* malformed: version is not what the link layer said */
	NM_KIND_IP_HEADER_LENGTH, /* malformed: IHL below 5 or beyond the packet */
	NM_KIND_IP_TOTAL_LENGTH,  /* malformed: total length below the header or beyond the packet */
	NM_KIND_EXTENSION,	  /* malformed: IPv6 extension headers overrun or are too many */
	NM_KIND_SHORT_TRANSPORT,  /* malformed: ends within the TCP, UDP, ICMP or SCTP header */
	NM_KIND_TCP_OFFSET,	  /* malformed: data offset below 5 or beyond the packet */
	NM_KIND_UDP_LENGTH,	  /* malformed: length below 8 or beyond the packet */
	NM_KIND_FRAGMENT_ORPHAN,  /* counted: later fragment whose first was not seen, in a flow without ports */
	NM_KIND_EVENT_LOST,	  /* event: the buffer was full */
	NM_KIND_QUOTE_REFUSED,	  /* counted: ICMP error that quotes a segment which is not on its way */
	NM_KIND_RESET_REFUSED,	  /* counted: RST that its receiver can't be waiting for */
	NM_KIND_STAMP_HARDWARE,	  /* round trip: by the network card's stamps */
	NM_KIND_STAMP_SOFTWARE,	  /* round trip: by the kernel's clock although hardware stamps were asked for */
	NM_KIND_STAMP_MISSING,	  /* round trip not taken: only one of its packets had a hardware stamp */
	NM_KIND_SAMPLE_LOST,	  /* round trip: its bucket holds 65 280 that the agent has not taken out yet */
	NM_KIND_DROP_UNNAMED,	  /* dropped: no room for its reason and interface */
	NM_KIND_DROP_UNJOINED,	  /* dropped, counted by reason: no room to note it with its flow */
	NM_KIND_TUNNEL_FRAGMENT,  /* counted for the tunnel itself: a fragment of its datagram */
	NM_KIND_TUNNEL_HEADER, /* the same: its header is cut short, of another version, or that of a control packet */
	NM_KIND_TUNNEL_NOT_IP, /* the same: what is inside is not IP */
	NM_KIND_TUNNEL_MALFORMED, /* the same: what is inside is cut short or contradicts itself */
	NM_KIND_TUNNEL_BUNDLE,	  /* the same: a super-packet of datagrams that hold a packet each */
	NM_KIND_TUNNEL_NESTED,	  /* the same: a tunnel in the tunnel */
	NM_KIND_TUNNEL_UNMARKED,  /* flow: no room to note the tunnel that it was seen in */
	NM_KIND_NAME_LOST,	  /* socket: no room or memory for its name */
	NM_KIND_ASKED_LOST,	  /* name that a flow asked for: the same */
	NM_KIND_RUN_NS, /* no packets but nanoseconds: what the programs took, from one run in NM_TIMED_EVERY */
	NM_KINDS,
};

/* Ask the compiler for both names in the BTF. */
enum nm_transport { NM_RINGBUF, NM_PERF };

/* How translations (NAT) are known: not at all, read of conntrack by the programs, told by the agent. */
enum nm_nat_by { NM_NAT_OFF, NM_NAT_READ, NM_NAT_TOLD };

enum nm_event_kind {
	NM_EVENT_OPENED = 1, /* a slot was taken */
	NM_EVENT_ACTIVE,     /* first packet after the reporting interval */
	NM_EVENT_ENDED,	     /* TCP closed: FIN both ways, or RST */
	NM_EVENT_OVERFLOW,   /* a packet found no room (at most one a second and CPU) */
	NM_EVENT_ERROR,	     /* an ICMP error of a new kind quoted the flow */
	NM_EVENT_ALIAS,	     /* a slot was taken that stands for a flow's other addresses */
};

/* ICMP errors by what they mean for the flow that they quote (RFC 792, 1812 5.2.7.1, 4443 3). */
enum nm_icmp_error {
	NM_ERROR_UNREACHABLE = 0x01, /* no way to the network, the host or the protocol */
	NM_ERROR_PORT = 0x02,	     /* nobody listens on the port */
	NM_ERROR_PROHIBITED = 0x04,  /* a filter or policy forbids it */
	NM_ERROR_TOO_BIG = 0x08,     /* fragmentation needed, packet too big */
	NM_ERROR_TIME = 0x10,	     /* hop limit or reassembly time exceeded */
	NM_ERROR_PARAMETER = 0x20,   /* a header field that the sender of the error does not take */
};

/* One event. It names a slot; what it says is read from the table, so it's never stale. */
struct nm_event {
	u64 stamp_ns; /* CLOCK_MONOTONIC */
	u32 slot;     /* bucket * NM_SLOTS + index; overflow: IP protocol << 8 | hook */
	u8 table;     /* index in nm_tables */
	u8 kind;      /* enum nm_event_kind */
	u8 pad[2];
};
_Static_assert(sizeof(struct nm_event) == 16, "event size");

/* What every packet of a flow writes: one cache line. Index 0 and 1 are the sides of the key. */
struct nm_hot {
	u64 packets[2]; /* sent by side 0, by side 1; atomic adds */
	u64 bytes[2];	/* as on the wire, link header included */
	u32 seen_ticks[2];
	u32 owner[2];	  /* who counts this direction: ifindex << 1 | hook; 0 = nobody yet */
	u32 report_ticks; /* last event about this flow */
	u8 tcp_flags[2];  /* union of the flags sent by each side (RFC 9293 bits) */
	u8 marks;	  /* NM_MARK_ */
	u8 icmp_errors;	  /* enum nm_icmp_error, or-ed: what errors that quote this flow have said */
	u64 closed_ns;	  /* when TCP closed; 0 = it has not; in an alias: tag of the flow that it stands for */
};
_Static_assert(sizeof(struct nm_hot) == 64, "one cache line");

#define NM_MARK_HANDSHAKE 0x01 /* a TCP handshake that was seen from its SYN is not through yet */
#define NM_MARK_RESET	  0x02 /* the first RST has been seen ... */
#define NM_MARK_RESET_BY  0x04 /* ... and came from this side of the key */
#define NM_MARK_MESSAGES  0x08 /* each payload is looked at: requests and responses are told apart in it */
#define NM_MARK_TUNNEL	  0x10 /* seen in a tunnel, which nm_tunnels names */

/*
 * An alias: the slot of a translated conversation's other addresses. It counts nothing and nobody owns it; its key is the
 * other one, and closed_ns is the tag of the flow.
 */
#define NM_MARK_ALIAS	0x40
#define NM_MARK_SWAPPED 0x80 /* side 0 of the alias is side 1 of the flow */

/* What is written when a slot is taken, and rarely after: one cache line. */
struct nm_cold {
	u8 address[2][16]; /* network order; IPv4 in the first four bytes, the rest 0 */
	u16 port_be[2];	   /* 0 where the protocol has none; ICMP echo: the identifier in both */
	u8 protocol;
	u8 family; /* 4 or 6 */
	u8 opener; /* side that opened the conversation, as far as known */
	u8 opener_seen;
	u64 start_ns;	  /* first packet; in a slot that was moved: the slot it moved to */
	u32 others[2];	  /* further owners-to-be: ifindex << 1 | hook; a lost race leaves one out */
	u32 handshake_us; /* SYN to the ACK that ended the handshake; 0 = not measured */
	u8 icmp_type;	  /* of the first packet */
	u8 icmp_code;
	u8 agent_direction; /* the agent's own note, never touched by the programs */
	u8 agent_flags;	    /* NM_FLAG_MOVED is set by nm_move, the rest is the agent's */
};
_Static_assert(sizeof(struct nm_cold) == 64, "one cache line");

#define NM_FLAG_MOVED	 0x80 /* the flow lives on in another slot */
#define NM_FLAG_LEAVING	 0x40 /* the agent has queued the slot for leaving */
#define NM_FLAG_DYING	 0x20 /* the agent waits for a grace period to free the slot */
/* These tell of the slot; the other bits tell of the flow, and move with it. */
#define NM_FLAGS_OF_SLOT (NM_FLAG_MOVED | NM_FLAG_LEAVING | NM_FLAG_DYING)

/* What the agent has already told of this flow; only the agent writes it. */
struct nm_told {
	u64 bytes[2];
	u32 packets[2]; /* low half: differences are taken modulo 2^32 */
};
_Static_assert(sizeof(struct nm_told) == 24, "told size");

/*
 * What is known of a flow beyond its counters, when a feature asks for it (NM_FEATURE_): three more cache lines a slot,
 * behind the eight flows. A table has them or not from its making on.
 */

/* What every TCP packet of a side changes. Times are the low bits of ticks or of microseconds. */
struct nm_side {
	u32 next_seq;	   /* end of the highest segment seen */
	u32 acked;	   /* highest acknowledgement sent */
	u32 probe_seq;	   /* the sample that waits: acknowledged up to here ... */
	u32 probe_value;   /* ... echoing this timestamp or an older one ... */
	u32 probe_us;	   /* ... since then */
	u32 hole_seq;	   /* where the last gap begins */
	u16 hole_ticks;	   /* when it appeared */
	u16 sampled_ticks; /* when the last probe was set */
	u16 window;	   /* announced last, unscaled */
	u8 repeats;	   /* acknowledgements repeated in a row */
	u8 marks;	   /* NM_SIDE_ */
};

#define NM_SIDE_SEEN	 0x01 /* next_seq is known */
#define NM_SIDE_ACKED	 0x02 /* acked and window are known */
#define NM_SIDE_PROBE	 0x04 /* a sample waits */
#define NM_SIDE_STAMPED	 0x08 /* the segment of that sample has a timestamp */
#define NM_SIDE_HARDWARE 0x20 /* probe_us is the network card's time */
#define NM_SIDE_KNOWN	 0x10 /* its first payloads have told what they can */
/* What holds as long as each segment is seen. */
#define NM_SIDE_FOLLOWED (NM_SIDE_SEEN | NM_SIDE_ACKED | NM_SIDE_PROBE | NM_SIDE_STAMPED | NM_SIDE_HARDWARE)

struct nm_track {
	struct nm_side side[2];
};
_Static_assert(sizeof(struct nm_track) == 64, "one cache line");

/*
 * What a sample or the first packets write: of these lines a flow's first datagram touches this one alone. Round trips: from here to
 * that side and back.
 */
struct nm_timing {
	u64 rtt_sum_us[2]; /* atomic adds */
	u32 rtt_samples[2];
	u32 rtt_min_us[2]; /* valid if there are samples */
	u32 rtt_max_us[2];
	u32 answer_us;	   /* SYN to SYN+ACK; 0 = not measured */
	u32 first_byte_us; /* first payload of the opener to the first of the other side; 0 = not measured */
	u32 request_us;	   /* when the request that waits passed, low bits of CLOCK_MONOTONIC; 0 = none waits */
	u8 app;		   /* enum nm_app | NM_APP_UNSURE */
	u8 app_tries[2];   /* payloads of each side that were looked at */
	u8 app_detail;	   /* by protocol: TLS minor version + 1; DNS: the last (rcode + 1) << 4 | enum nm_dns_type */
	u32 who[2];	   /* key of nm_names, or number of a cgroup, with NM_WHO_ flags; 0 = unknown */
};
_Static_assert(sizeof(struct nm_timing) == 64, "one cache line");

/* Application protocols, told by content. */
enum nm_app {
	NM_APP_NONE, /* nothing recognised (yet) */
	NM_APP_HTTP, /* HTTP/1 */
	NM_APP_HTTP2,
	NM_APP_GRPC, /* HTTP/2 whose first request or response is of type application/grpc */
	NM_APP_TLS,
	NM_APP_DNS,
	NM_APP_MYSQL,
	NM_APP_POSTGRESQL,
	NM_APP_REDIS,
	NM_APP_KAFKA,
	NM_APP_MONGODB,
	NM_APP_AMQP,
	NM_APP_MQTT,
	NM_APP_SSH,
	NM_APP_QUIC,
	NM_APP_MEMCACHED,
	NM_APP_NATS,
	NM_APPS,
};

#define NM_APP_UNSURE 0x80 /* bit of nm_timing.app: one side looks like it, the other has to agree; told to nobody */

#define NM_LANES 12 /* buckets of the histograms of round trips and of response times */

/* What is rarely written. */
struct nm_detail {
	u64 lanes[NM_LANES / 4]; /* samples by bucket, four of 16 bits a word; atomic adds, taken out by the agent */
	u64 lanes_sum_us;	 /* their sum; the same */
	u32 retransmits[2];	 /* segments; atomic adds */
	u32 out_of_order[2];
	u16 zero_windows[2];
	u16 repeat_bursts[2]; /* three or more acknowledgements repeated in a row */
	u32 srtt_us[2];	      /* what the side's own kernel thinks; 0 = not a local socket */
};
_Static_assert(sizeof(struct nm_detail) == 64, "one cache line");

#define NM_WHO_CGROUP (1U << 31) /* the low bits of a cgroup's number: the socket's name is not known */
#define NM_WHO_FOUND  (1U << 30) /* the socket was found by its ports: valid if the address is one of this host's */
#define NM_WHO_FLAGS  (NM_WHO_CGROUP | NM_WHO_FOUND)

#define NM_FEATURE_TIMING    0x01  /* latency_tracking: sequences, round trips, first bytes */
#define NM_FEATURE_PRECISE   0x02  /* latency_tracking.precision: every segment */
#define NM_FEATURE_PROTOCOL  0x04  /* protocol_detection */
#define NM_FEATURE_WHO	     0x08  /* process_attribution */
#define NM_FEATURE_HARDWARE  0x10  /* capture.timestamp_source: hardware */
#define NM_FEATURE_DROPS     0x20  /* drop_monitoring; in nm_control alone */
#define NM_FEATURE_DNS	     0x100 /* protocol_detection of dns: queries and responses */
#define NM_FEATURE_DNS_NAMES 0x200 /* protocol_detection.dns_names: the last name that was asked for */
#define NM_FEATURE_HTTP	     0x400 /* protocol_detection of http: responses and their time */
#define NM_FEATURE_TLS_NAMES 0x800 /* protocol_detection.tls_names: what the client asks for */
#define NM_FEATURE_MESSAGES  (NM_FEATURE_DNS | NM_FEATURE_HTTP)

/*
 * Eight flows. tags[] alone decides whether a slot is taken: 0 = free, a 63-bit fingerprint of the
 * key = live, fingerprint | NM_DEAD = leaving. Only a program turns 0 into a tag (under the bucket's
 * lock); only the agent turns a dead tag into 0 (after a grace period).
 */
struct nm_bucket {
	u64 tags[NM_SLOTS];
	struct nm_hot hot[NM_SLOTS];
	struct nm_cold cold[NM_SLOTS];
	struct nm_told told[NM_SLOTS];
};
_Static_assert(sizeof(struct nm_bucket) == 160 * NM_SLOTS, "160 bytes a slot");

/* The same with what features know. */
struct nm_wide {
	struct nm_bucket narrow;
	struct nm_track track[NM_SLOTS];
	struct nm_timing timing[NM_SLOTS];
	struct nm_detail detail[NM_SLOTS];
	u32 told_retransmits[NM_SLOTS]; /* of both sides, as nm_told */
	u32 pad[8];			/* the next bucket begins with a cache line, too */
};
_Static_assert(sizeof(struct nm_wide) == 360 * NM_SLOTS, "360 bytes a slot");
_Static_assert(sizeof(struct nm_bucket) % 64 == 0 && sizeof(struct nm_wide) % 64 == 0, "whole cache lines");

/* Packets as on the wire, per CPU, written without atomics; what a counted packet writes comes first. */
struct nm_hook_counts {
	u64 seen;
	u64 counted_bytes;
	u64 outcomes[NM_OUTCOMES];
};

struct nm_interface {
	u32 link_bytes; /* length of the link header: 14 Ethernet, 0 none; set by the agent */
	u32 ifindex;	/* whose entry this is; set by the agent */
	struct nm_hook_counts hooks[NM_HOOKS];
};
_Static_assert(sizeof(struct nm_interface) == 136, "no padding");

struct nm_volume {
	u64 packets;
	u64 bytes;
};

/* Switches and words between agent and programs, in .bss; all single stores. */
struct nm_control {
	u32 current;  /* table that takes new flows */
	u32 previous; /* table being emptied, or NM_NO_TABLE */
	u32 buckets[NM_TABLES];
	u32 sample_below; /* a flow is kept when the low half of its mixed hash is below; ~0 keeps all */
	u32 interval_ticks;
	u32 move_cursor; /* next bucket of `previous` that nm_move looks at */
	u32 move_failed; /* flows that found no room in `current` */
	u32 wake_bytes;	 /* wake the reader when so much waits in the ring; 0 = at the first event: it sleeps long */
	u32 bench_flows; /* benches only: so many source addresses, 0 = a new one each time */
	u32 ask_in;  /* whether conntrack is asked for packets that come in: as long as there may be translated flows */
	u32 tracing; /* each packet is shown to nm_trace, which tells of those that it is asked for */
	u32 features; /* NM_FEATURE_ that are on now, of those that are loaded */
	u32 apps;     /* 1 << enum nm_app of what may be told */
	/* second cache line: written by programs */
	u32 opened; /* slots claimed since the reader came, about; set to 0 by it */
	u32 room;   /* wake the reader when more than so many were claimed; set by it */
	u32 waking; /* set when the reader was woken, cleared by it */
	u32 bench_next;
	u32 pad1[12];
};
_Static_assert(sizeof(struct nm_control) == 128, "two cache lines");

#include "nm_parts.h"

#endif
