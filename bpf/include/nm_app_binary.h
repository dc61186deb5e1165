/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Protocols of numbers: DNS (RFC 1035, 6762, 4795), QUIC (RFC 9000, 9369), PostgreSQL (protocol 3, message formats), MySQL (client/server
 * protocol, connection phase), MongoDB (wire protocol), Kafka (protocol guide), memcached's binary protocol.
 */
#ifndef NM_APP_BINARY_H
#define NM_APP_BINARY_H

#include "nm_app_text.h"

#define NM_DNS_LABELS 40 /* a reverse name in IPv6 has 34 */

/* Counts of a DNS header that can be: queries with their extras, answers, updates; and of mDNS, whose id is 0. */
static __always_inline bool nm_dns_counts(u32 id, u32 flags, u32 questions, u32 answers, u32 authority, u32 additional)
{
	u32 opcode = flags >> 11 & 15, code = flags & 15;
	bool answer = flags & 0x8000;

	if (flags & 0x40 || (opcode != 0 && opcode != 4 && opcode != 5) || (answer ? code > 11 : code))
		return false;
	if (!id && !opcode && !(flags & 0x7aff))
		return answer ? questions <= 1 && answers >= 1 && answers < 256 && authority < 256 && additional < 256
			      : questions >= 1 && questions < 64 && answers < 256 && authority < 64 && additional <= 2;
	if (questions != 1)
		return false;
	if (opcode == 5)
		return answers < 256 && authority < 256 && additional < 256;
	return answer || (answers <= 1 && authority <= 1 && additional <= 2);
}

/*
 * A DNS message at this offset (0; in a stream 2): header, then a whole name, a type and a class. mDNS and LLMNR are written alike and count
 * as DNS; the NetBIOS name service too, but its one label has 32 letters from A to P and its types are 32 and 33.
 */
NM_GLOBAL int nm_is_dns(u32 start)
{
	struct nm_look *look = nm_looked_at();
	u32 at, label, i, type, class, labels = 0;
	const u8 *b;

	if (!look)
		return false;
	start &= 2;
	b = look->bytes + start;
	if (look->length < start + 17)
		return false;
	if (!nm_dns_counts(nm_half(b, 0), nm_half(b, 2), nm_half(b, 4), nm_half(b, 6), nm_half(b, 8), nm_half(b, 10)))
		return false;
	at = start + 12;
	for (i = 0; i < NM_DNS_LABELS; i++) {
		if (at + 5 > look->length)
			return false;
		label = look->bytes[at & NM_LOOK_MASK];
		at += label + 1;
		if (!label)
			goto end;
		if (label > 63)
			return false;
		labels++;
	}
	return false;
end:
	if (at + 4 > look->length)
		return false;
	type = (u32)look->bytes[at & NM_LOOK_MASK] << 8 | look->bytes[(at + 1) & NM_LOOK_MASK];
	/* The top bit asks for a unicast answer, or flushes the cache (RFC 6762 5.4, 10.2). */
	class = ((u32)look->bytes[(at + 2) & NM_LOOK_MASK] << 8 | look->bytes[(at + 3) & NM_LOOK_MASK]) & 0x7fff;
	if (!type || type == 32 || (type == 33 && labels == 1 && b[12] == 32))
		return false;
	if (type > 270 && type != 32768 && type != 32769 && type < 65280)
		return false;
	return class == 1 || class == 3 || class == 4 || class == 254 || class == 255;
}

/* Long header, fixed bit, a version that is in use, connection ids of at most 20 bytes; the opener's is an Initial of 1200 bytes. */
static __always_inline bool nm_is_quic(const struct nm_look *look)
{
	const u8 *b = look->bytes;
	u32 version = nm_half(b, 1) << 16 | nm_half(b, 3), type = b[0] >> 4 & 3, to = b[5];

	if (b[0] >> 6 != 3 || look->length < 21 || to > 20)
		return false;
	if (version == 0x6b3343cf)
		type = (type - 1) & 3; /* version 2 counts from 1 */
	else if (version != 1 && (version < 0xff00001b || version > 0xff000022))
		return false;
	if (b[(6 + to) & NM_LOOK_MASK] > 20)
		return false;
	return !look->opener || (!type && to >= 8 && look->payload >= 1200);
}

/* Length and version 3.0 to 3.2, or a request for encryption or cancellation. */
static __always_inline bool nm_is_postgresql(const struct nm_look *look)
{
	u32 length = nm_word(look, 0), code = nm_word(look, 4);

	if (length != look->payload)
		return false;
	if (code >> 16 == 1234)
		return (length == 8 && ((code & 0xffff) == 5679 || (code & 0xffff) == 5680)) ||
		       ((code & 0xffff) == 5678 && length >= 16);
	return code >= 0x30000 && code <= 0x30002 && length >= 9 && nm_is_letter(look->bytes[8]);
}

/*
 * The server's greeting: packet 0, protocol 10, a version like 8.0.36, thread and salt, a 0. Or packet 0 with an error that has no
 * SQL state yet: too many connections, host not allowed.
 */
NM_GLOBAL int nm_is_mysql_greeting(u32 unused)
{
	struct nm_look *look = nm_looked_at();
	const u8 *b;
	u32 i;

	if (!look)
		return false;
	b = look->bytes;
	if ((b[0] | (u32)b[1] << 8 | (u32)b[2] << 16) + 4 != look->payload || b[3])
		return false;
	if (b[4] == 0xff) {
		u32 error = b[5] | b[6] << 8;

		return error >= 1000 && error < 5000 && nm_is_printable(b[7]) && nm_is_printable(b[8]) &&
		       nm_is_printable(b[9]) && nm_is_printable(b[10]);
	}
	if (b[4] != 10 || !nm_is_digit(b[5]) || (b[6] != '.' && b[7] != '.'))
		return false;
	for (i = 8; i < 80; i++) {
		if (!b[i])
			return i + 14 <= look->length && !b[i + 13];
		if (!nm_is_printable(b[i]))
			return false;
	}
	return false;
}

/* The whole first message, in answer to none: a command, or the query that older drivers begin with. */
static __always_inline bool nm_is_mongodb(const struct nm_look *look)
{
	u32 length = __builtin_bswap32(nm_word(look, 0)), operation = __builtin_bswap32(nm_word(look, 12));
	u32 flags = __builtin_bswap32(nm_word(look, 16));

	if (length < 26 || length > 48000000 || (length != look->payload && look->payload < 1000) ||
	    length < look->payload || nm_word(look, 8))
		return false;
	if (operation == 2013)
		return !(flags & ~0x10003U) && !look->bytes[20];
	if (operation == 2012)
		return flags == 2013 || flags == 2004;
	return operation == 2004 && !(flags & ~0xfeU) && nm_is_printable(look->bytes[20]);
}

static __always_inline u8 nm_kafka_check(u32 correlation)
{
	correlation ^= correlation >> 16;
	return correlation ^ correlation >> 8;
}

/* A request: its whole length, operation, version, correlation, and who asks. */
static __always_inline bool nm_is_kafka_request(const struct nm_look *look)
{
	u32 operation = nm_half(look->bytes, 4), version = nm_half(look->bytes, 6);
	u32 name = nm_half(look->bytes, 12), i;

	if (nm_word(look, 0) + 4 != look->payload || look->payload < 14 || operation > 92 || version > 20)
		return false;
	/* Nobody's name is only taken with what a client begins with: SASL, versions, metadata. */
	if (name == 0xffff)
		return operation == 17 || operation == 18 || operation == 3;
	if (!name || name > 200 || 14 + name > look->payload)
		return false;
#pragma unroll
	for (i = 0; i < 6; i++)
		if (i < name && !nm_is_printable(look->bytes[14 + i]))
			return false;
	return true;
}

static __always_inline bool nm_is_kafka_answer(const struct nm_look *look)
{
	u32 length = nm_word(look, 0) + 4;

	return look->payload >= 10 &&
	       (length == look->payload || (look->payload >= 1000 && length > look->payload && length < 1 << 26)) &&
	       nm_kafka_check(nm_word(look, 4)) == look->detail;
}

/* Magic, operation, key, extras, type 0, and a body that holds both. The answer has the same operation. */
static __always_inline bool nm_is_memcached_frame(const struct nm_look *look, u8 magic)
{
	u32 key = nm_half(look->bytes, 2), extras = look->bytes[4], body = nm_word(look, 8);

	return look->bytes[0] == magic && look->bytes[1] < 0x26 && !look->bytes[5] && look->payload >= 24 &&
	       extras <= 20 && body >= key + extras && body < 1 << 27 && body + 24 >= look->payload &&
	       nm_half(look->bytes, 6) < 0x90;
}

static __always_inline u32 nm_tell_memcached_frame(struct nm_look *look)
{
	if (look->awaited == NM_APP_MEMCACHED && look->detail == (NM_MC_BINARY | look->bytes[1]) &&
	    nm_is_memcached_frame(look, 0x81))
		return NM_APP_MEMCACHED;
	if (!look->opener || !nm_is_memcached_frame(look, 0x80))
		return NM_APP_NONE;
	look->detail = NM_MC_BINARY | look->bytes[1];
	return NM_APP_MEMCACHED | NM_APP_UNSURE;
}

NM_GLOBAL int nm_tell_binary(u32 unused)
{
	struct nm_look *look = nm_looked_at();
	u32 length;

	if (!look)
		return NM_APP_NONE;
	if (look->opener) {
		if (nm_is_postgresql(look))
			return NM_APP_POSTGRESQL;
		if (nm_is_mongodb(look))
			return NM_APP_MONGODB;
		if (nm_is_kafka_request(look)) {
			look->detail = nm_kafka_check(nm_word(look, 8));
			return NM_APP_KAFKA | NM_APP_UNSURE;
		}
	} else {
		if (look->begins && look->alone && nm_is_mysql_greeting(0))
			return NM_APP_MYSQL;
		if (look->awaited == NM_APP_KAFKA && nm_is_kafka_answer(look))
			return NM_APP_KAFKA;
	}
	/* An answer may be longer than its first segment. */
	length = nm_half(look->bytes, 0);
	if (length >= 17 && (!look->opener || length + 2 <= look->payload) && nm_is_dns(2))
		return NM_APP_DNS;
	return nm_tell_memcached_frame(look);
}

#endif
