// SPDX-License-Identifier: GPL-2.0-only
/*
 * Yardsticks of benches/packet, run through BPF_PROG_TEST_RUN only; the agent does not load them. Each run writes
 * another source address into the frame (Ethernet, IPv4), so that one test frame stands for many flows.
 */
#include "nm_see.h"

static __always_inline void nm_next_source(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	u32 flows = nm_control.bench_flows, n;
	struct iphdr *ip = data + sizeof(struct ethhdr);

	if ((void *)(ip + 1) > end)
		return;
	/* In random order among so many, or a new one each time. */
	n = flows ? bpf_get_prandom_u32() % flows : nm_control.bench_next++;
	ip->saddr = bpf_htonl(0x0b000000 + n);
}

SEC("tc")
int nm_bench_empty(struct __sk_buff *skb)
{
	nm_next_source(skb);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int nm_bench_flows(struct __sk_buff *skb)
{
	nm_next_source(skb);
	barrier_var(skb); /* or clang keeps addresses of fields, which the verifier refuses */
	return nm_see(skb, NM_INGRESS);
}

/* The price of being called at all. */
SEC("tc")
int nm_empty(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "GPL";
