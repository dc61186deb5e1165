// SPDX-License-Identifier: GPL-2.0-only
/*
 * TC ingress and egress of every watched interface: each packet is counted once, with its outcome.
 * Reads nm_interfaces (link header length), writes the flow table, the per-CPU counters and, rarely, an
 * event. TCX from 6.6, clsact below; the verdict is always "go on as if we weren't here".
 * Floor: 5.10.
 */
#include "nm_see.h"

SEC("tcx/ingress")
int nm_ingress(struct __sk_buff *skb)
{
	return nm_see(skb, NM_INGRESS);
}

SEC("tcx/egress")
int nm_egress(struct __sk_buff *skb)
{
	return nm_see(skb, NM_EGRESS);
}

char LICENSE[] SEC("license") = "GPL";
