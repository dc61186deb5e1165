/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a TLS client asks for, if tls_names is on: the server's name (RFC 6066 3) and the protocol that it offers first (RFC 7301 3.1).
 *
 * Extensions may come in any order, and key shares before them can be longer than a packet: what lies beyond the segment in which the
 * hello begins is not seen. Unknown beats wrong: lengths must fit each other, and a hello that is whole must come out even.
 */
#ifndef NM_TLS_NAMES_H
#define NM_TLS_NAMES_H

#include "nm_app_tls.h"

#define NM_TLS_ASKED 24 /* extensions of a client's hello that are looked at; one that has more tells nothing */

/* The names are gathered in nm_scratch.message, which only DNS uses: the stack is short. */
_Static_assert(sizeof(struct nm_tls_name) <= NM_MESSAGE_BYTES, "room for it");
_Static_assert(!(__builtin_offsetof(struct nm_scratch, message) % _Alignof(struct nm_tls_name)), "aligned");

/* The extension at this offset of the payload, not beyond `end`: where the next begins; 0 if it can't be read. */
NM_GLOBAL int nm_tls_asked(struct __sk_buff *skb, u32 at, u32 end)
{
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_tls_name *name;
	u32 type, bytes, length, base;
	u8 head[5];

	if (!(nm_features & NM_FEATURE_TLS_NAMES) || !scratch)
		return 0;
	name = (struct nm_tls_name *)scratch->message;
	base = scratch->packet.header_bytes;
	at &= 0xffff;
	end &= 0xffff;
	if (at + 4 > end || bpf_skb_load_bytes(skb, base + at, head, 4))
		return 0;
	at += 4;
	type = nm_half(head, 0);
	bytes = nm_half(head, 2);
	if (bytes > end - at)
		return 0;
	if (type == 0 && bytes > 5) {
		/* A list of one: there is but one kind of name. */
		if (bpf_skb_load_bytes(skb, base + at, head, 5))
			return 0;
		length = nm_half(head, 3);
		if (nm_half(head, 0) + 2 == bytes && !head[2] && length + 5 == bytes && length <= NM_SNI_BYTES &&
		    nm_load_some(skb, base + at + 5, name->sni, length, NM_SNI_BYTES))
			name->sni_bytes = length;
	} else if (type == 16 && bytes > 3) {
		if (bpf_skb_load_bytes(skb, base + at, head, 3))
			return 0;
		length = head[2];
		if (nm_half(head, 0) + 2 != bytes || !length || length + 3 > bytes || length > NM_ALPN_BYTES)
			return at + bytes;
		/* Nor may the next, if there is one, be longer than what is left. */
		if (length + 3 < bytes && (bpf_skb_load_bytes(skb, base + at + 3 + length, head, 1) || !head[0] ||
					   length + 4 + head[0] > bytes))
			return at + bytes;
		if (nm_load_some(skb, base + at + 3, name->alpn, length, NM_ALPN_BYTES))
			name->alpn_bytes = length;
	}
	return at + bytes;
}

/* Keeps the names in the payload in hand, the first of the opener of the flow with this tag. */
NM_GLOBAL int nm_tls_keep_names(struct __sk_buff *skb, u64 tag)
{
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_look *look = nm_looked_at();
	u32 at, i, base, hello_end, end;
	struct nm_tls_name *name;
	u8 half[2];

	if (!(nm_features & NM_FEATURE_TLS_NAMES) || !scratch || !look)
		return 0;
	/* One that goes over several records has their heads in between. */
	hello_end = 9 + nm_half(look->bytes, 7);
	if (!nm_is_tls(look) || look->bytes[5] != 1 || nm_half(look->bytes, 3) + 5 != hello_end || look->bytes[43] > 32)
		return 0;
	base = scratch->packet.header_bytes;
	end = hello_end < look->payload ? hello_end : look->payload;
	/* Session; ciphers; compression; then the length of the extensions, which are the last. */
	at = 44 + look->bytes[43];
	if (at + 2 > end || bpf_skb_load_bytes(skb, base + at, half, 2))
		return 0;
	at += 2 + nm_half(half, 0);
	if (at + 1 > end || bpf_skb_load_bytes(skb, base + at, half, 1))
		return 0;
	at += 1 + half[0];
	if (at + 2 > end || bpf_skb_load_bytes(skb, base + at, half, 2))
		return 0;
	at += 2;
	if (at + nm_half(half, 0) != hello_end)
		return 0;
	name = (struct nm_tls_name *)scratch->message;
	__builtin_memset(name, 0, sizeof(*name));
#pragma clang loop unroll(disable)
	for (i = 0; i < NM_TLS_ASKED && at && at < end; i++)
		at = nm_tls_asked(skb, at, end);
	if (end == hello_end && at != end)
		return 0;
	if ((name->sni_bytes || name->alpn_bytes) && bpf_map_update_elem(&nm_tls_names, &tag, name, BPF_ANY))
		nm_note(NM_KIND_ASKED_LOST);
	return 0;
}

#endif
