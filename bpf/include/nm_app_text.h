/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Protocols of lines: HTTP (RFC 9112, 9113), SSH (RFC 4253 4.2), Redis (RESP2 and RESP3), memcached (doc/protocol.txt), NATS (client
 * protocol), and AMQP and MQTT, which begin with their names.
 */
#ifndef NM_APP_TEXT_H
#define NM_APP_TEXT_H

#include "nm_look.h"

/* What a memcached command is answered with; nm_timing.app_detail while unsure. */
enum nm_memcached {
	NM_MC_GET = 1,	     /* VALUE, END */
	NM_MC_SET,	     /* STORED, NOT_STORED, EXISTS, NOT_FOUND */
	NM_MC_VERSION,	     /* VERSION */
	NM_MC_STATS,	     /* STAT */
	NM_MC_META,	     /* HD, VA, EN, NF, NS, MN */
	NM_MC_BINARY = 0x80, /* or-ed with the operation */
};

#define NM_REDIS_ARRAY 1
#define NM_REDIS_PING  2

static __always_inline bool nm_is_http2_preface(const struct nm_look *look)
{
	return nm_word(look, 0) == nm_text('P', 'R', 'I', ' ') && nm_word(look, 4) == nm_text('*', ' ', 'H', 'T') &&
	       nm_word(look, 8) == nm_text('T', 'P', '/', '2') && nm_word(look, 12) == nm_text('.', '0', '\r', '\n');
}

/* "ion/grpc", the end of application/grpc as it is, and in the Huffman code of HPACK (RFC 7541 appendix B: 88 bits, no padding). */
static __always_inline bool nm_speaks_of_grpc(void)
{
	return nm_scan(0x696f6e2f67727063, 0x620d263d4c4d6564);
}

/* HTTP/1.x, a space and a status of three digits. */
static __always_inline u32 nm_http_status(const struct nm_look *look)
{
	const u8 *b = look->bytes;

	if (nm_word(look, 0) != nm_text('H', 'T', 'T', 'P') || b[4] != '/' || b[5] != '1' || b[6] != '.' ||
	    (b[7] & ~1) != '0' || b[8] != ' ' || !nm_is_digit(b[9]) || !nm_is_digit(b[10]) || !nm_is_digit(b[11]))
		return 0;
	return (b[9] - '0') * 100 + (b[10] - '0') * 10 + (b[11] - '0');
}

static __always_inline bool nm_switches_protocols(const struct nm_look *look)
{
	return nm_http_status(look) == 101;
}

/* Where the target of a request begins: behind a method of RFC 9110 9.3 or 5789. */
static __always_inline u32 nm_http_target(const struct nm_look *look)
{
	u32 first = nm_word(look, 0), second = nm_word(look, 4);

	if (first == nm_text('G', 'E', 'T', ' ') || first == nm_text('P', 'U', 'T', ' '))
		return 4;
	if (first == nm_text('P', 'O', 'S', 'T') || first == nm_text('H', 'E', 'A', 'D'))
		return second >> 24 == ' ' ? 5 : 0;
	if (first == nm_text('P', 'A', 'T', 'C'))
		return second >> 16 == ('H' << 8 | ' ') ? 6 : 0;
	if (first == nm_text('T', 'R', 'A', 'C'))
		return second >> 16 == ('E' << 8 | ' ') ? 6 : 0;
	if (first == nm_text('D', 'E', 'L', 'E'))
		return second >> 8 == ('T' << 16 | 'E' << 8 | ' ') ? 7 : 0;
	if (first == nm_text('O', 'P', 'T', 'I'))
		return second == nm_text('O', 'N', 'S', ' ') ? 8 : 0;
	if (first == nm_text('C', 'O', 'N', 'N'))
		return second == nm_text('E', 'C', 'T', ' ') ? 8 : 0;
	return 0;
}

/* A request whose version is out of sight waits for the answer, which tells all. */
static __always_inline u32 nm_tell_http(const struct nm_look *look)
{
	u32 at = nm_http_target(look);
	u8 c;

	if (nm_http_status(look))
		return NM_APP_HTTP;
	if (!at || !look->opener)
		return NM_APP_NONE;
	c = look->bytes[at & 15];
	/* A path, a URL, *, or for CONNECT a host. */
	if (c != '/' && c != '*' && c != '[' && !nm_is_letter(c) && !nm_is_digit(c))
		return NM_APP_NONE;
	/* " HTTP/1." */
	return nm_scan(0x20485454502f312e, 0x20485454502f312e) ? NM_APP_HTTP : NM_APP_NONE;
}

/* Up to four digits and CRLF: where what follows begins; 0: that isn't there. */
static __always_inline u32 nm_redis_number(const struct nm_look *look, u32 at)
{
	u32 i;

#pragma unroll
	for (i = 0; i < 5; i++, at++) {
		u8 c = look->bytes[at & 63];

		if (c == '\r')
			return i && look->bytes[(at + 1) & 63] == '\n' ? at + 2 : 0;
		if (!nm_is_digit(c))
			return 0;
	}
	return 0;
}

/* A command is an array of bulk strings, the first of which is a word. */
NM_GLOBAL int nm_is_redis_command(u32 unused)
{
	struct nm_look *look = nm_looked_at();
	u32 at;

	if (!look || look->bytes[0] != '*')
		return 0;
	at = nm_redis_number(look, 1);
	if (!at || look->bytes[at & 63] != '$')
		return 0;
	barrier_var(at);
	at = nm_redis_number(look, at + 1);
	return at && nm_is_letter(look->bytes[at & 63]);
}

/* Types of RESP2 and RESP3, and what may follow each. */
static __always_inline bool nm_is_redis_answer(const struct nm_look *look)
{
	u8 kind = look->bytes[0], c = look->bytes[1];

	switch (kind) {
	case '+':
		return nm_is_letter(c) || nm_is_digit(c);
	case '-':
		return nm_is_letter(c) && !(c & 0x20);
	case ':':
	case '$':
	case '*':
	case ',':
		return nm_is_digit(c) || c == '-';
	case '%':
	case '~':
	case '>':
	case '=':
		return nm_is_digit(c);
	case '#':
		return c == 't' || c == 'f';
	case '_':
		return c == '\r';
	}
	return false;
}

static __always_inline bool nm_ends_line(const struct nm_look *look)
{
	u32 end = look->payload;

	return end >= 4 && end == look->length && look->bytes[(end - 2) & NM_LOOK_MASK] == '\r' &&
	       look->bytes[(end - 1) & NM_LOOK_MASK] == '\n';
}

/* Commands that no other protocol of lines is known to answer alike: beanstalkd has delete and touch. */
static __always_inline u32 nm_memcached_command(const struct nm_look *look)
{
	u32 first = nm_word(look, 0), second = nm_word(look, 4);

	if (first == nm_text('g', 'e', 't', ' ') || (first == nm_text('g', 'e', 't', 's') && second >> 24 == ' ') ||
	    first == nm_text('g', 'a', 't', ' ') || (first == nm_text('g', 'a', 't', 's') && second >> 24 == ' '))
		return nm_ends_line(look) ? NM_MC_GET : 0;
	if (first == nm_text('s', 'e', 't', ' ') || first == nm_text('a', 'd', 'd', ' ') ||
	    first == nm_text('c', 'a', 's', ' ') ||
	    (first == nm_text('r', 'e', 'p', 'l') && second == nm_text('a', 'c', 'e', ' ')) ||
	    (first == nm_text('a', 'p', 'p', 'e') && second >> 8 == ('n' << 16 | 'd' << 8 | ' ')) ||
	    (first == nm_text('p', 'r', 'e', 'p') && second == nm_text('e', 'n', 'd', ' ')))
		return NM_MC_SET;
	if (first == nm_text('v', 'e', 'r', 's') && second == nm_text('i', 'o', 'n', '\r'))
		return look->payload == 9 ? NM_MC_VERSION : 0;
	if (first == nm_text('s', 't', 'a', 't') && second >> 24 == 's')
		return nm_ends_line(look) ? NM_MC_STATS : 0;
	if (first >> 24 == 'm' && (first >> 8 & 0xff) == ' ') {
		u8 c = first >> 16;

		return c == 'g' || c == 's' || c == 'd' || c == 'a' ? NM_MC_META : 0;
	}
	return first == nm_text('m', 'n', '\r', '\n') && look->payload == 4 ? NM_MC_META : 0;
}

static __always_inline bool nm_memcached_answer(const struct nm_look *look, u32 command)
{
	u32 first = nm_word(look, 0), second = nm_word(look, 4), third = nm_word(look, 8);

	switch (command) {
	case NM_MC_GET:
		return (first == nm_text('E', 'N', 'D', '\r') && look->payload == 5) ||
		       (first == nm_text('V', 'A', 'L', 'U') && second >> 16 == ('E' << 8 | ' '));
	case NM_MC_SET:
		return (first == nm_text('S', 'T', 'O', 'R') && second == nm_text('E', 'D', '\r', '\n')) ||
		       (first == nm_text('N', 'O', 'T', '_') &&
			((second == nm_text('S', 'T', 'O', 'R') && third == nm_text('E', 'D', '\r', '\n')) ||
			 (second == nm_text('F', 'O', 'U', 'N') && third >> 8 == ('D' << 16 | '\r' << 8 | '\n')))) ||
		       (first == nm_text('E', 'X', 'I', 'S') && second == nm_text('T', 'S', '\r', '\n'));
	case NM_MC_VERSION:
		return first == nm_text('V', 'E', 'R', 'S') && second == nm_text('I', 'O', 'N', ' ');
	case NM_MC_STATS:
		return first == nm_text('S', 'T', 'A', 'T') && second >> 24 == ' ';
	case NM_MC_META:
		return first >> 8 == ('V' << 16 | 'A' << 8 | ' ') || first == nm_text('H', 'D', '\r', '\n') ||
		       first >> 8 == ('H' << 16 | 'D' << 8 | ' ') || first == nm_text('E', 'N', '\r', '\n') ||
		       first == nm_text('N', 'F', '\r', '\n') || first == nm_text('N', 'S', '\r', '\n') ||
		       first == nm_text('M', 'N', '\r', '\n');
	}
	return false;
}

/* Packet type 1, remaining length, then the protocol's name and level (MQTT 3.1.1 and 5: 3.1). */
static __always_inline bool nm_is_mqtt(const struct nm_look *look)
{
	const u8 *b = look->bytes;
	u32 at = 2, rest = b[1], level;

	if (b[0] != 0x10 || look->payload < 14)
		return false;
	if (rest & 0x80) {
		rest = (rest & 0x7f) | (u32)b[2] << 7;
		at = 3;
	}
	if (rest > 16383 || rest + at < look->payload)
		return false;
	if (b[at] != 0 || b[at + 2] != 'M' || b[at + 3] != 'Q')
		return false;
	if (b[at + 1] == 4 && b[at + 4] == 'T' && b[at + 5] == 'T') {
		level = b[at + 6];
		return (level == 4 || level == 5) && !(b[at + 7] & 1);
	}
	return b[at + 1] == 6 && b[at + 4] == 'I' && b[at + 5] == 's' && b[at + 6] == 'd' && b[at + 7] == 'p' &&
	       (b[at + 8] & 0x7f) == 3;
}

/* AMQP, then 0 0 9 1 (0-9-1), or the layer and 1 0 0 (1.0 part 2.2); older ones had 1 1 and theirs. */
static __always_inline bool nm_is_amqp(const struct nm_look *look)
{
	u32 version = nm_word(look, 4);

	return nm_word(look, 0) == nm_text('A', 'M', 'Q', 'P') &&
	       (version == 0x00000901 || version == 0x00010000 || version == 0x02010000 || version == 0x03010000 ||
		version == 0x01010800 || version == 0x01010009 || version == 0x0101000a) &&
	       look->payload >= 8;
}

static __always_inline u32 nm_tell_nats(const struct nm_look *look)
{
	u32 first = nm_word(look, 0), second = nm_word(look, 4);

	/* INFO {"server_id" is what a server begins with. */
	if (first == nm_text('I', 'N', 'F', 'O') && second >> 16 == (' ' << 8 | '{') && !look->opener)
		return (second & 0xffff) == ('"' << 8 | 's') && nm_word(look, 8) == nm_text('e', 'r', 'v', 'e') &&
				       nm_word(look, 12) == nm_text('r', '_', 'i', 'd')
			       ? NM_APP_NATS
			       : NM_APP_NATS | NM_APP_UNSURE;
	if (look->awaited == NM_APP_NATS && first == nm_text('C', 'O', 'N', 'N') &&
	    second == nm_text('E', 'C', 'T', ' ') && look->bytes[8] == '{')
		return NM_APP_NATS;
	return NM_APP_NONE;
}

static __always_inline u32 nm_tell_redis(struct nm_look *look)
{
	u32 first = nm_word(look, 0);

	if (look->awaited == NM_APP_REDIS) {
		if (look->detail == NM_REDIS_ARRAY && nm_is_redis_answer(look))
			return NM_APP_REDIS;
		if (look->detail == NM_REDIS_PING && first == nm_text('+', 'P', 'O', 'N') && look->payload == 7)
			return NM_APP_REDIS;
	}
	if (!look->opener)
		return NM_APP_NONE;
	if (nm_is_redis_command(0))
		look->detail = NM_REDIS_ARRAY;
	else if (first == nm_text('P', 'I', 'N', 'G') && look->bytes[4] == '\r' && look->payload == 6)
		look->detail = NM_REDIS_PING;
	else
		return NM_APP_NONE;
	return NM_APP_REDIS | NM_APP_UNSURE;
}

static __always_inline u32 nm_tell_memcached(struct nm_look *look)
{
	u32 command;

	if (look->awaited == NM_APP_MEMCACHED && nm_memcached_answer(look, look->detail))
		return NM_APP_MEMCACHED;
	command = look->opener ? nm_memcached_command(look) : 0;
	if (!command)
		return NM_APP_NONE;
	look->detail = command;
	return NM_APP_MEMCACHED | NM_APP_UNSURE;
}

NM_GLOBAL int nm_tell_text(u32 unused)
{
	struct nm_look *look = nm_looked_at();
	u32 first, second, found;

	if (!look)
		return NM_APP_NONE;
	first = nm_word(look, 0);
	second = nm_word(look, 4);
	if (first == nm_text('S', 'S', 'H', '-') &&
	    (second == nm_text('2', '.', '0', '-') || second >> 8 == ('1' << 16 | '.' << 8 | '9') ||
	     second >> 8 == ('1' << 16 | '.' << 8 | '5')))
		return NM_APP_SSH;
	if (nm_is_http2_preface(look))
		return NM_APP_HTTP2;
	if (nm_is_amqp(look))
		return NM_APP_AMQP;
	if (nm_is_mqtt(look))
		return NM_APP_MQTT;
	found = nm_tell_http(look);
	if (found)
		return found;
	found = nm_tell_nats(look);
	if (found)
		return found;
	found = nm_tell_redis(look);
	return found ?: nm_tell_memcached(look);
}

#endif
