/* SPDX-License-Identifier: GPL-2.0-only */
/* TLS (RFC 8446, 5246): a stream that begins with a hello; the version from the server's. */
#ifndef NM_APP_TLS_H
#define NM_APP_TLS_H

#include "nm_look.h"

#define NM_TLS_EXTENSIONS 12 /* of a server's hello that are looked at */

/* A handshake record that begins with a hello: the client's is 1, the server's 2. */
static __always_inline bool nm_is_tls(const struct nm_look *look)
{
	const u8 *b = look->bytes;
	u32 record = nm_half(b, 3), hello;

	if (b[0] != 22 || b[1] != 3 || b[2] > 4 || look->payload < 11 || b[6] || b[9] != 3 || b[10] > 3)
		return false;
	hello = nm_half(b, 7);
	if (record < 4 || record > 16384 + 256 || hello < 38)
		return false;
	/* The record may hold further messages of the server, the client's hello alone. */
	return look->opener ? b[5] == 1 && (hello + 4 == record || hello > 16000) : b[5] == 2 && hello + 4 <= record;
}

#define NM_TLS_FOUND 0x10000 /* or-ed with minor version + 1 */

/* The extension at this offset of the payload: where the next begins, or NM_TLS_FOUND; 0 if it can't be read. */
NM_GLOBAL int nm_tls_extension(struct __sk_buff *skb, u32 at)
{
	struct nm_scratch *scratch = nm_in_hand();
	u8 head[4];

	if (!scratch)
		return 0;
	at &= 0xffff;
	if (bpf_skb_load_bytes(skb, scratch->packet.header_bytes + at, head, sizeof(head)))
		return 0;
	at += sizeof(head);
	if (nm_half(head, 0) != 43)
		return (at + nm_half(head, 2)) & 0xffff;
	if (bpf_skb_load_bytes(skb, scratch->packet.header_bytes + at, head, 2) || head[0] != 3)
		return 0;
	return NM_TLS_FOUND | (head[1] + 1);
}

/*
 * Minor version + 1 that the server has chosen: what the extension supported_versions says, else the legacy field. 0: unknown,
 * its hello doesn't end within this payload.
 */
NM_GLOBAL int nm_tls_version(struct __sk_buff *skb)
{
	struct nm_look *look = nm_looked_at();
	u32 at, end, i, session;

	if (!look || !nm_is_tls(look) || look->bytes[5] != 2)
		return 0;
	end = 9 + nm_half(look->bytes, 7);
	session = look->bytes[43];
	if (session > 32 || end > look->payload)
		return 0;
	/* Session, cipher, compression; then the length of the extensions, if there are any. */
	at = 44 + session + 3;
	if (at != end)
		at += 2;
	for (i = 0; i < NM_TLS_EXTENSIONS && at < end; i++) {
		at = nm_tls_extension(skb, at);
		if (at & NM_TLS_FOUND)
			return at & 0xff;
		if (!at)
			return 0;
	}
	return at == end ? look->bytes[10] + 1 : 0;
}

#endif
