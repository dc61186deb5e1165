/* SPDX-License-Identifier: GPL-2.0-only */
/* The rest of the contract of nm_types.h, by which it is included: what the maps of single features hold. */
#ifndef NM_PARTS_H
#define NM_PARTS_H

/* A process with sockets, as it was when it made one. */
struct nm_name {
	u64 cgroup; /* number in the cgroup2 tree */
	u32 tgid;   /* in the first PID namespace */
	u32 pad;
	char comm[16]; /* of the thread group's leader */
};
_Static_assert(sizeof(struct nm_name) == 32, "no padding");

#define NM_LEVELS      8
#define NM_LEVEL_BYTES 128

/* Where a cgroup is: its name, its parent's, and so on, each filled up with 0. What is beyond the levels or the bytes is left out. */
struct nm_path {
	u32 levels;	 /* how many names are valid, at least 1; 0 = they are being written */
	u32 level_bytes; /* of each */
	char names[NM_LEVELS * NM_LEVEL_BYTES];
};
_Static_assert(sizeof(struct nm_path) == 8 + NM_LEVELS * NM_LEVEL_BYTES, "no padding");

/* Tunnels that are looked into (nm_decapsulate), or-ed; one of them: what a packet or flow was seen in. */
#define NM_TUNNEL_VXLAN	 0x01 /* RFC 7348 */
#define NM_TUNNEL_GENEVE 0x02 /* RFC 8926 */

/* The tunnel that a flow was first seen in. */
struct nm_tunnel {
	u8 address[2][16]; /* of the outer packet: whence, whither, as the opener's packets go; as in nm_cold */
	u32 vni;
	u8 kind;   /* NM_TUNNEL_ */
	u8 family; /* of the addresses, 4 or 6 */
	u8 pad[2];
};
_Static_assert(sizeof(struct nm_tunnel) == 40, "no padding");

/* In the place of nm_track, whose side[].marks it leaves alone: DNS over UDP. */
struct nm_dns {
	u32 queries; /* atomic adds */
	u32 responses;
};
_Static_assert(sizeof(struct nm_dns) <= __builtin_offsetof(struct nm_side, marks), "marks stay");

/* What was asked for, by class (IANA "Domain Name System Parameters"). */
enum nm_dns_type {
	NM_DNS_NOTHING,
	NM_DNS_A,
	NM_DNS_AAAA,
	NM_DNS_PTR,
	NM_DNS_SRV,
	NM_DNS_MX,
	NM_DNS_TXT,
	NM_DNS_HTTPS,
	NM_DNS_NS,
	NM_DNS_CNAME,
	NM_DNS_SOA,
	NM_DNS_ANY,
	NM_DNS_OTHER,
	NM_DNS_TYPES,
};

#define NM_DNS_RCODES	  7   /* 0 to 5 as on the wire (RFC 1035 4.1.1), the rest in the last */
#define NM_DNS_NAME_BYTES 128 /* of a name that are kept */

/* All of DNS, per CPU, written without atomics. */
struct nm_dns_totals {
	u64 queries[NM_DNS_TYPES];
	u64 responses[NM_DNS_RCODES]; /* to a query that was waiting */
	u64 lanes[NM_LANES];	      /* their times by bucket */
	u64 sum_us;
	u64 repeated;  /* queries sent again before they were answered */
	u64 unmatched; /* responses that no query was waiting for */
	u64 malformed; /* cut short or contradictory */
	u64 unseen;    /* TCP segments whose further messages were not looked at */
	u64 lost;      /* queries that found no place to wait in */
};

/* A query that waits for its response. */
struct nm_dns_wait {
	u64 sent_ns;
	u16 type;
	u16 name_bytes;
	u8 class; /* enum nm_dns_type */
	u8 pad[3];
};
_Static_assert(sizeof(struct nm_dns_wait) == 16, "no padding");

/* A name as on the wire, zeros behind it. */
struct nm_dns_name {
	u8 wire[NM_DNS_NAME_BYTES];
};

#define NM_SNI_BYTES  128 /* powers of two; what is longer is not kept */
#define NM_ALPN_BYTES 16

/* What the hello of a TLS client asks for, as on the wire, zeros behind it. */
struct nm_tls_name {
	u8 sni_bytes; /* 0 = unknown */
	u8 alpn_bytes;
	u8 pad[2];
	u8 sni[NM_SNI_BYTES];
	u8 alpn[NM_ALPN_BYTES]; /* the first that is offered */
};
_Static_assert(sizeof(struct nm_tls_name) == 148, "no padding");

/* Whom requests go to; all zeros: every server that found no place of its own. */
struct nm_http_server {
	u8 address[16]; /* as in nm_cold */
	u16 port_be;
	u8 family;
	u8 pad;
};
_Static_assert(sizeof(struct nm_http_server) == 20, "no padding");

#define NM_HTTP_CLASSES 5 /* 1xx to 5xx */

/* HTTP/1 responses of a server; atomic adds. */
struct nm_http_counts {
	u64 responses[NM_HTTP_CLASSES];
	u64 lanes[NM_LANES]; /* request to response, by bucket */
	u64 sum_us;
};

/* A conversation that is translated: its addresses as its opener sends, before translation and after. */
struct nm_translated {
	u8 address[4][16]; /* source and destination before, source and destination after; as in nm_cold */
	u16 port_be[4];	   /* the same; ICMP echo: the identifier in both */
	u8 protocol;
	u8 family; /* 4 or 6 */
	u8 pad[2];
};
_Static_assert(sizeof(struct nm_translated) == 76, "no padding");

/* What the agent asks nm_pair_told for, and what that answers; in .bss. */
struct nm_pairing {
	struct nm_translated keys;
	u32 only_tags; /* asked: touch nothing */
	u64 tags[2];   /* of both keys */
	u32 swapped;   /* whether sides change places between them */
	u32 alias;     /* slot of the current table that leads from one to the other now, and 1; 0 = none is new */
	u32 table; /* where the flow of the second key was, that is to be one with the first's; NM_NO_TABLE = there was none */
	u32 slot;
};
_Static_assert(sizeof(struct nm_pairing) == 112, "no padding");

#define NM_ELSEWHERE 0xffffffff /* nm_drop_key.ifindex: an interface of another network namespace */

/* Packets that the kernel dropped are counted by these. */
struct nm_drop_key {
	u32 reason;  /* the running kernel's enum skb_drop_reason; a subsystem's number in the upper 16 bits */
	u32 ifindex; /* in the agent's network namespace; 0 = none is known */
};
_Static_assert(sizeof(struct nm_drop_key) == 8, "no padding");

/* Drops of one flow. */
struct nm_flow_drops {
	u64 packets; /* atomic adds */
	u32 last_reason;
	u32 pad;
};
_Static_assert(sizeof(struct nm_flow_drops) == 16, "no padding");

/* Which packets `debug packet-trace` tells of, and how many. */
struct nm_trace_rule {
	u64 until_ns;	/* CLOCK_MONOTONIC: over by itself then */
	u64 line_ns;	/* a line each so many ns ... */
	u64 burst_ns;	/* ... and after a silence at once what this time would have allowed */
	u8 network[16]; /* of either end; as in nm_cold, what the mask leaves out is 0 */
	u8 mask[16];
	u32 ifindex;  /* 0 = any */
	u32 outcomes; /* 1 << enum nm_outcome, or-ed */
	u32 number;   /* of this trace */
	u16 port_be;  /* of either end, TCP, UDP and SCTP only */
	u8 family;    /* of the network; 0 = any address */
	u8 protocol;
	u8 by_protocol; /* whether the protocol counts */
	u8 by_port;
	u8 pad[6];
};
_Static_assert(sizeof(struct nm_trace_rule) == 80, "no padding");

/* A packet that a trace tells of: its headers, never what they carry. */
struct nm_trace_line {
	u64 stamp_ns; /* CLOCK_MONOTONIC */
	u64 flow;     /* its id; 0 = it has none, or none any more */
	u8 source[16];
	u8 destination[16];
	u32 number; /* of the trace */
	u32 ifindex;
	u32 bytes; /* as on the wire, of all packets that this buffer stands for */
	u32 packets;
	u16 source_port_be; /* 0 where the protocol has none; ICMP echo: the identifier in both */
	u16 destination_port_be;
	u8 family; /* 0 = it is not known whose packet it is */
	u8 protocol;
	u8 tcp_flags;
	u8 icmp_type;
	u8 icmp_code;
	u8 hook;
	u8 outcome; /* enum nm_outcome */
	u8 kind;    /* enum nm_kind: why */
	u8 pad[4];
};
_Static_assert(sizeof(struct nm_trace_line) == 80, "no padding");

/* How far a trace has come. */
struct nm_trace_count {
	u64 next_ns;  /* the next line's turn, if lines came evenly */
	u64 left_out; /* packets that were asked for and not told: too many at once */
	u64 lost;     /* lines for which there was no room; atomic adds */
};

#endif
