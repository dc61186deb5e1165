/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which application protocol a flow speaks, told by the first payloads of each side: by content, never by port. Some protocols are
 * told by one side alone (NM_APP_*), others by both: what the first says is then unsure (NM_APP_UNSURE) until the other's next
 * payload agrees, and forgotten if it doesn't. Unknown beats wrong: each test below fixes 40 bits or more. Payloads aren't put together: a
 * message that is cut within its first bytes may stay unknown.
 *
 * No payload leaves the kernel, but names if they are asked for (nm_tls_names.h): it is copied into a per-CPU map, looked at, and
 * written over by the next.
 */
#ifndef NM_APP_H
#define NM_APP_H

#include "nm_app_binary.h"
#include "nm_app_text.h"
#include "nm_app_tls.h"
#include "nm_table.h"
#include "nm_tls_names.h"

#define NM_TRIES       4 /* payloads of each side that are looked at ... */
#define NM_TRIES_HTTP2 8 /* ... and here: the first headers come after settings, their acknowledgement and windows */

NM_GLOBAL int nm_tell_datagram(u32 unused)
{
	struct nm_look *look = nm_looked_at();

	if (!look)
		return NM_APP_NONE;
	if (nm_is_quic(look))
		return NM_APP_QUIC;
	return nm_is_dns(0) ? NM_APP_DNS : NM_APP_NONE;
}

/* Inlined: the longest way down from a hook has no room for one frame more (512 bytes, see bpf/README.md). */
static __always_inline int nm_tell_stream(struct nm_look *look)
{
	int found;

	/* What turns to TLS later (STARTTLS) stays what it was. */
	if (nm_is_tls(look) && look->begins)
		return NM_APP_TLS;
	found = nm_tell_text(0);
	return found ?: nm_tell_binary(0);
}

/* What this payload adds to what is known; the protocol as it is then known. */
static __always_inline u32 nm_learn(struct __sk_buff *skb, struct nm_look *look, u32 known, bool tcp)
{
	u32 found;

	switch (known) {
	case NM_APP_HTTP:
		/* Of 101 Switching Protocols may come HTTP/2 (RFC 7540 3.2). */
		if (nm_is_http2_preface(look))
			return NM_APP_HTTP2;
		return known;
	case NM_APP_HTTP2:
		return nm_speaks_of_grpc() ? NM_APP_GRPC : known;
	case NM_APP_TLS:
		if (!look->opener && !look->detail)
			look->detail = nm_tls_version(skb);
		return known;
	}
	found = tcp ? nm_tell_stream(look) : nm_tell_datagram(0);
	if (found == NM_APP_HTTP2 && nm_speaks_of_grpc())
		found = NM_APP_GRPC;
	if (found == NM_APP_TLS && !look->opener)
		look->detail = nm_tls_version(skb);
	return found;
}

/* What is not asked for is not told. */
static __always_inline u32 nm_asked_for(u32 app)
{
	if (app == NM_APP_GRPC && !(nm_control.apps & 1U << NM_APP_GRPC))
		app = NM_APP_HTTP2;
	return nm_control.apps & 1U << (app & 31) ? app : NM_APP_NONE;
}

/*
 * Looks at a payload of this side; true when further ones of it can tell nothing more. An answer 101 brings the opener's next payload
 * here again.
 */
NM_GLOBAL int nm_recognise(struct __sk_buff *skb, u32 side)
{
	struct nm_scratch *scratch = nm_in_hand();
	struct nm_look *look = nm_looked_at();
	struct nm_timing *timing;
	u32 slot, known, found, tries, most;
	struct nm_wide *wide;
	u8 by;

	if (!scratch || !look)
		return true;
	wide = nm_wide_at(&scratch->at);
	if (!wide)
		return true;
	slot = nm_slot_of(&scratch->at);
	side &= 1;
	timing = &wide->timing[slot];
	known = timing->app;
	tries = timing->app_tries[side];
	most = known == NM_APP_HTTP2 ? NM_TRIES_HTTP2 : NM_TRIES;
	if (tries >= most)
		return true;
	timing->app_tries[side] = tries + 1;
	if (!nm_look_at(skb, scratch->packet.header_bytes, scratch->packet.payload_bytes))
		return false;
	by = side ? NM_APP_SIDE : 0;
	look->opener = side == (wide->narrow.cold[slot].opener & 1);
	look->begins = !tries;
	look->alone = !timing->app_tries[!side];
	look->awaited = known & NM_APP_UNSURE && (known & NM_APP_SIDE) != by ? known & NM_APP_NUMBER : 0;
	look->detail = timing->app_detail;
	found = nm_learn(skb, look, known & NM_APP_UNSURE ? NM_APP_NONE : known,
			 scratch->packet.protocol == IPPROTO_TCP);
	if (found & NM_APP_UNSURE) {
		timing->app = nm_control.apps & 1U << (found & NM_APP_NUMBER) ? found | by : NM_APP_NONE;
		timing->app_detail = look->detail;
		return false;
	}
	if (!found) {
		/* The other side did not agree. */
		if (look->awaited) {
			timing->app = NM_APP_NONE;
			timing->app_detail = 0;
		}
		return false;
	}
	found = nm_asked_for(found);
	if (!found) {
		timing->app = NM_APP_NONE;
		timing->app_detail = 0;
		timing->app_tries[0] = NM_TRIES_HTTP2;
		timing->app_tries[1] = NM_TRIES_HTTP2;
		return true;
	}
	if (nm_on() & NM_FEATURE_TLS_NAMES && found == NM_APP_TLS && look->opener && look->begins)
		nm_tls_keep_names(skb, wide->narrow.tags[slot] & ~NM_DEAD);
	/* What is known already keeps what its messages have told. */
	if (found == NM_APP_TLS || timing->app != found)
		timing->app_detail = found == NM_APP_TLS ? look->detail : 0;
	timing->app = found;
	if (found == NM_APP_HTTP && !look->opener && nm_switches_protocols(look)) {
		wide->track[slot].side[!side].marks &= ~NM_SIDE_KNOWN;
		timing->app_tries[!side] = NM_TRIES - 1;
	}
	return found != NM_APP_HTTP2;
}

#endif
