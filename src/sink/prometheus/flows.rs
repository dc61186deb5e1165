//! What flow updates add up to. Applying a batch allocates nothing but for address pairs that are new.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::summary::Summary;
use super::top_pairs::TopPairs;
use crate::clock;
use crate::flow::app::App;
use crate::flow::measured::{LANES, NewRtts};
use crate::flow::record::{Direction, Reason, Status};
use crate::flow::update::{Change, FlowUpdate};

/// Protocol label and direction.
pub type Class = (&'static str, Direction);

/// What took its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Latency {
    /// A TCP handshake, from SYN to the opener's ACK.
    Handshake,
    /// A round trip of a TCP connection or an ICMP echo.
    Rtt,
}

impl Latency {
    /// Label value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Rtt => "rtt",
        }
    }
}

/// A histogram's counts: by bucket, what is beyond the last bound comes after it; and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observations {
    /// By bucket.
    pub buckets: [u64; LANES],
    /// Seconds.
    pub sum_seconds: f64,
}

impl Observations {
    /// One more.
    pub fn observe(&mut self, bounds: &[f64], seconds: f64) {
        let bucket = bounds.partition_point(|bound| *bound < seconds);
        self.buckets[bucket.min(LANES - 1)] += 1;
        self.sum_seconds += seconds;
    }
}

/// Totals of one class, for all flows: those kept by sampling, scaled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Flows opened.
    pub opened: f64,
    /// Flows opened and not ended.
    pub active: f64,
    /// Packets.
    pub packets: f64,
}

/// All that is counted from updates.
#[derive(Debug)]
pub struct FlowMetrics {
    /// By protocol and direction.
    pub classes: HashMap<Class, Totals>,
    /// Flows that ended, by class and outcome.
    pub ended: HashMap<(Class, Option<Reason>), f64>,
    /// Bytes by address pair.
    pub pairs: TopPairs,
    /// Upper bounds of the latency buckets, seconds.
    pub latency_buckets: Vec<f64>,
    /// Latencies of each kind and application protocol, as far as that was known.
    pub latencies: HashMap<(Latency, Option<App>), Observations>,
    /// Flows that ended, by application protocol: those that carried payload.
    pub apps: HashMap<(App, Direction), f64>,
    /// TCP segments sent again.
    pub retransmits: HashMap<Direction, f64>,
    /// Flows that one kept flow stands for.
    pub weight: f64,
    /// From reading an event to its being visible here.
    pub processing: Summary,
    /// From the kernel's stamp on an event to its being visible here.
    pub delay: Summary,
}

impl FlowMetrics {
    /// With so many address pairs, latency buckets up to these bounds in milliseconds, and this share of flows kept.
    pub fn new(top_pairs: usize, buckets_ms: &[f64], sampling_rate: f64) -> Self {
        Self {
            classes: HashMap::new(),
            ended: HashMap::new(),
            pairs: TopPairs::new(top_pairs),
            latency_buckets: buckets_ms.iter().map(|ms| ms / 1e3).collect(),
            latencies: HashMap::new(),
            apps: HashMap::new(),
            retransmits: HashMap::new(),
            weight: 1.0 / sampling_rate,
            processing: Summary::default(),
            delay: Summary::default(),
        }
    }

    fn scaled(&self, bytes: u64) -> u64 {
        if self.weight == 1.0 { bytes } else { (bytes as f64 * self.weight).round() as u64 }
    }

    fn observe_latencies(&mut self, update: &FlowUpdate) {
        let app = update.flow.app.filter(|app| *app != App::Unknown);
        if let Some(us) = update.handshake_us {
            let known = self.latencies.entry((Latency::Handshake, app)).or_default();
            known.observe(&self.latency_buckets, f64::from(us) / 1e6);
        }
        if update.rtts != NewRtts::default() {
            let known = self.latencies.entry((Latency::Rtt, app)).or_default();
            // The kernel's last bucket is the twelfth, however many bounds there are.
            let beyond = self.latency_buckets.len();
            for (bucket, new) in update.rtts.buckets.iter().enumerate() {
                known.buckets[bucket.min(beyond)] += u64::from(*new);
            }
            known.sum_seconds += update.rtts.sum_us as f64 / 1e6;
        }
        if update.new_retransmits > 0 {
            *self.retransmits.entry(update.flow.direction).or_default() +=
                f64::from(update.new_retransmits) * self.weight;
        }
    }

    /// Counts updates whose events were read at `read_at`.
    pub fn apply(&mut self, updates: &[FlowUpdate], read_at: Instant) {
        for update in updates {
            let (flow, delta) = (&update.flow, &update.delta);
            let class = (flow.key.protocol.label(), flow.direction);
            let totals = self.classes.entry(class).or_default();
            totals.packets += delta.packets() as f64 * self.weight;
            match update.change {
                Change::Opened => {
                    totals.opened += self.weight;
                    totals.active += self.weight;
                }
                Change::Active => {}
                Change::Ended => {
                    totals.active = (totals.active - self.weight).max(0.0);
                    let reason = flow.reason.filter(|_| flow.status == Status::Failed);
                    *self.ended.entry((class, reason)).or_default() += self.weight;
                    if let Some(app) = flow.app {
                        *self.apps.entry((app, flow.direction)).or_default() += self.weight;
                    }
                }
            }
            self.observe_latencies(update);
            let (src, dst) = (flow.key.src.ip(), flow.key.dst.ip());
            self.pairs.add((src, dst), self.scaled(delta.bytes_sent));
            self.pairs.add((dst, src), self.scaled(delta.bytes_received));
        }
        let (taken, now_ns) = (read_at.elapsed(), clock::monotonic_ns());
        let mut events = 0;
        for update in updates.iter().filter(|update| update.event_ns > 0) {
            events += 1;
            self.delay.observe(Duration::from_nanos(now_ns.saturating_sub(update.event_ns)), 1);
        }
        if events > 0 {
            self.processing.observe(taken, events);
        }
    }
}
