// SPDX-License-Identifier: GPL-2.0-only
/* Somebody else's programs on the hooks that we share. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

__attribute__((section("pass"), used)) int foreign_pass(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

__attribute__((section("drop"), used)) int foreign_drop(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

char LICENSE[] __attribute__((section("license"), used)) = "GPL";
