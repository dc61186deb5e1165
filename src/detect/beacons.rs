//! Beacons: small conversations with one port of a host on the Internet, as regular as a clock.
//!
//! A health check is as regular as a beacon and nothing in its packets tells them apart, so only what leaves one's own networks is
//! judged: checks and monitoring between private addresses, and those that come in from elsewhere, never are. DNS and NTP are
//! regular by nature.

use std::net::IpAddr;

use super::alert::{Alerts, Found, Subject};
use super::kind::Kind;
use super::places::Places;
use super::signs::is_public;
use crate::flow::record::Direction;
use crate::flow::update::Flow;

/// Intervals that are looked at: the last ones.
const INTERVALS: usize = 8;
/// Mean interval at least, milliseconds. There is no upper bound but room: see `may_go`.
const SHORTEST_MS: f64 = 5_000.0;
/// Conversations that begin this close together are one beat.
const SAME_BEAT_NS: u64 = 1_000_000_000;
/// Standard deviation of the intervals as a share of their mean: a beat that is shifted by up to a third of it at random is in.
const REGULAR: f64 = 0.1;
/// The same for the bytes of a conversation; and their mean at most.
const ALIKE: f64 = 0.2;
const MOST_BYTES: f64 = 20_000.0;
/// DNS, NTP.
const REGULAR_PORTS: [u16; 2] = [53, 123];
/// When there is no room, who has been silent this long or for three intervals goes.
const SILENT_NS: u64 = 600_000_000_000;

#[derive(Debug)]
struct Rhythm {
    beats: u32,
    last_start_ns: u64,
    intervals_ms: [u32; INTERVALS],
    bytes: [u32; INTERVALS],
    examples: Found,
}

/// Who talks when to whom.
#[derive(Debug, Default)]
pub struct Beacons {
    places: Places<(IpAddr, IpAddr, u16), Rhythm>,
}

impl Beacons {
    /// Looks at a TCP or UDP flow that has ended.
    pub fn look(&mut self, flow: &Flow, alerts: &mut Alerts) {
        let (src, dst, port) = (flow.key.src.ip(), flow.key.dst.ip(), flow.key.dst.port());
        let leaves = match flow.direction {
            Direction::Egress => true,
            Direction::Forwarded => !is_public(src),
            Direction::Ingress | Direction::Internal => false,
        };
        if !leaves || !is_public(dst) || REGULAR_PORTS.contains(&port) {
            return;
        }
        let fresh = || Rhythm {
            beats: 0,
            last_start_ns: flow.start_ns,
            intervals_ms: [0; INTERVALS],
            bytes: [0; INTERVALS],
            examples: Found::since(flow),
        };
        let may_go = |rhythm: &Rhythm| rhythm.may_go(flow.end_ns);
        let Some(rhythm) = self.places.of((src, dst, port), flow.end_ns, may_go, fresh) else { return };
        if let Some(found) = rhythm.beat(flow) {
            let subject = Subject {
                protocol: Some(flow.key.protocol),
                src: Some(src),
                dst: Some(dst),
                port: Some(port),
            };
            alerts.raise(Kind::Beacon, subject, &found);
        }
    }

    /// Observations that found no place.
    pub fn untracked(&self) -> u64 {
        self.places.untracked()
    }
}

impl Rhythm {
    /// Takes a conversation; what was found if the last ones are regular.
    fn beat(&mut self, flow: &Flow) -> Option<Found> {
        let at = self.beats as usize % INTERVALS;
        let bytes = u32::try_from(flow.total.bytes()).unwrap_or(u32::MAX);
        if self.beats > 0 {
            let interval_ns = flow.start_ns.saturating_sub(self.last_start_ns);
            if interval_ns < SAME_BEAT_NS {
                return None;
            }
            self.intervals_ms[at] = u32::try_from(interval_ns / 1_000_000).unwrap_or(u32::MAX);
        }
        self.bytes[at] = bytes;
        self.last_start_ns = flow.start_ns;
        self.beats = self.beats.saturating_add(1);
        self.examples.keep(flow);
        // The first beat ends no interval.
        if self.beats as usize <= INTERVALS {
            return None;
        }
        let (interval_ms, varies) = spread(&self.intervals_ms);
        let (mean_bytes, differ) = spread(&self.bytes);
        let regular = interval_ms >= SHORTEST_MS && varies <= REGULAR;
        if !regular || mean_bytes > MOST_BYTES || differ > ALIKE {
            return None;
        }
        let mut found = self.examples;
        found.in_vain = INTERVALS as u32;
        found.bytes = self.bytes.iter().copied().map(u64::from).sum();
        found.interval_ms = interval_ms as u64;
        found.first_ns = flow.start_ns.saturating_sub((interval_ms * 1e6) as u64 * INTERVALS as u64);
        found.last_ns = flow.end_ns;
        Some(found)
    }

    fn may_go(&self, now_ns: u64) -> bool {
        let last = (self.beats as usize + INTERVALS - 1) % INTERVALS;
        let interval_ns = u64::from(self.intervals_ms[last]) * 1_000_000;
        now_ns.saturating_sub(self.last_start_ns) > SILENT_NS.max(3 * interval_ns)
    }
}

/// Mean, and the standard deviation as a share of it.
fn spread(values: &[u32; INTERVALS]) -> (f64, f64) {
    let count = INTERVALS as f64;
    let mean = values.iter().copied().map(f64::from).sum::<f64>() / count;
    let variance = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt() / mean.max(1.0))
}
