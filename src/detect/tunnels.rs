//! Data hidden in DNS: names are as long as they may be, so queries are large, many and go on.
//!
//! Counted from what is new about flows, whether each query has a port of its own or all share one. Sustained means that
//! `flow.active_interval` must be well below a minute.

use std::net::IpAddr;

use super::alert::{Alerts, Found, Subject};
use super::kind::Kind;
use super::places::Places;
use super::signs::payload;
use crate::flow::key::Protocol;
use crate::flow::update::FlowUpdate;

const DNS: u16 = 53;
const WINDOW_NS: u64 = 60_000_000_000;
/// A large query, bytes of the message: a name of 74 bytes (a whole IPv6 address backwards) with EDNS and a cookie has 113, tunnels
/// fill up to 284.
const LARGE: u64 = 150;
/// So many of them within the window ...
const QUERIES: u32 = 200;
/// ... for so long ...
const SUSTAINED_NS: u64 = 15_000_000_000;
/// ... and at least one of so many queries of that source to that server.
const SHARE: u64 = 4;

#[derive(Debug)]
struct Place {
    since_ns: u64,
    queries: u64,
    found: Found,
}

/// Who asks whom.
#[derive(Debug, Default)]
pub struct Tunnels {
    places: Places<(IpAddr, IpAddr), Place>,
}

impl Tunnels {
    /// Looks at an update.
    pub fn look(&mut self, update: &FlowUpdate, alerts: &mut Alerts) {
        let (flow, delta) = (&update.flow, &update.delta);
        let key = &flow.key;
        if key.dst.port() != DNS
            || !matches!(key.protocol, Protocol::UDP | Protocol::TCP)
            || delta.packets_sent == 0
        {
            return;
        }
        let who = (key.src.ip(), key.dst.ip());
        let now_ns = flow.end_ns;
        let over = |place: &Place| now_ns.saturating_sub(place.since_ns) > WINDOW_NS;
        let large = payload(key, delta.bytes_sent, delta.packets_sent) >= LARGE * delta.packets_sent;
        if !large {
            // Small queries matter only beside large ones.
            if let Some(place) = self.places.known(&who).filter(|place| !over(place)) {
                place.queries += delta.packets_sent;
            }
            return;
        }
        let first = Found { first_ns: now_ns, last_ns: now_ns, ..Found::default() };
        let fresh = || Place { since_ns: now_ns, queries: 0, found: first };
        let Some(place) = self.places.of(who, now_ns, over, fresh) else { return };
        if over(place) {
            *place = fresh();
        }
        let count = |packets: u64| u32::try_from(packets).unwrap_or(u32::MAX);
        let found = &mut place.found;
        place.queries += delta.packets_sent;
        found.in_vain = found.in_vain.saturating_add(count(delta.packets_sent));
        found.answered = found.answered.saturating_add(count(delta.packets_received));
        found.bytes += delta.bytes_sent;
        found.last_ns = found.last_ns.max(now_ns);
        found.keep(flow);
        if found.in_vain >= QUERIES
            && u64::from(found.in_vain) * SHARE >= place.queries
            && found.last_ns.saturating_sub(found.first_ns) >= SUSTAINED_NS
        {
            let subject = Subject { protocol: None, src: Some(who.0), dst: Some(who.1), port: Some(DNS) };
            alerts.raise(Kind::DnsTunnel, subject, &place.found);
        }
    }

    /// Observations that found no place.
    pub fn untracked(&self) -> u64 {
        self.places.untracked()
    }
}
