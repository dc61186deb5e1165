//! What flow updates add up to. Applying a batch allocates nothing but for address pairs that are new.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::names::{Names, Service, There};
use super::summary::Summary;
use super::top_pairs::TopPairs;
use crate::clock;
use crate::enrich::kubernetes::cluster::Known;
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

impl std::ops::AddAssign for Observations {
    fn add_assign(&mut self, other: Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket += more;
        }
        self.sum_seconds += other.sum_seconds;
    }
}

/// Totals of one class, for all flows: those kept by sampling, scaled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Flows opened.
    pub opened: f64,
    /// Flows opened and not ended, of those that are kept.
    pub active: u64,
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
    /// Latencies of each kind, application protocol and service of `dst`, as far as these were known.
    pub latencies: HashMap<(Latency, Option<App>, Service), Observations>,
    /// Flows that ended, by application protocol: those that carried payload.
    pub apps: HashMap<(App, Direction), f64>,
    /// TCP segments sent again.
    pub retransmits: HashMap<(Direction, Service), f64>,
    /// TCP connections that were reset after they stood.
    pub resets: HashMap<(Direction, Service), f64>,
    /// In a Kubernetes cluster: what is counted by name.
    pub names: Option<Names>,
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
            resets: HashMap::new(),
            names: None,
            weight: 1.0 / sampling_rate,
            processing: Summary::default(),
            delay: Summary::default(),
        }
    }

    /// A kept flow stands for another number of flows from now on.
    pub fn set_sampling_rate(&mut self, rate: f64) {
        self.weight = 1.0 / rate;
    }

    /// So many address pairs from now on; those that have no place any more are in the rest.
    pub fn set_top_pairs(&mut self, top_pairs: usize) {
        self.pairs.set_cap(top_pairs);
    }

    fn scaled(&self, bytes: u64) -> u64 {
        if self.weight == 1.0 { bytes } else { (bytes as f64 * self.weight).round() as u64 }
    }

    /// Counts by name, too: so many series of each metric.
    #[must_use]
    pub fn in_cluster(mut self, series: usize, per_pod: bool) -> Self {
        self.names = Some(Names::new(series, per_pod));
        self
    }

    /// Lets series go whose workloads and services are not there any more: they become `other`.
    pub fn let_go(&mut self, there: &There, now: Instant) {
        let Some(names) = &mut self.names else { return };
        let (left, other) = names.let_go(there, now);
        for service in left {
            let (gone, other) = (Some(service), Some(other.clone()));
            move_to(
                &mut self.latencies,
                |(_, _, service)| *service == gone,
                |(kind, app, _)| (kind, app, other.clone()),
            );
            for counts in [&mut self.retransmits, &mut self.resets] {
                move_to(counts, |(_, service)| *service == gone, |(direction, _)| (direction, other.clone()));
            }
        }
    }

    fn observe_latencies(&mut self, update: &FlowUpdate, service: &Service) {
        let app = update.flow.app.filter(|app| *app != App::Unknown);
        if let Some(us) = update.handshake_us {
            let known = self.latencies.entry((Latency::Handshake, app, service.clone())).or_default();
            known.observe(&self.latency_buckets, f64::from(us) / 1e6);
        }
        if update.rtts != NewRtts::default() {
            let known = self.latencies.entry((Latency::Rtt, app, service.clone())).or_default();
            // The kernel's last bucket is the twelfth, however many bounds there are.
            let beyond = self.latency_buckets.len();
            for (bucket, new) in update.rtts.buckets.iter().enumerate() {
                known.buckets[bucket.min(beyond)] += u64::from(*new);
            }
            known.sum_seconds += update.rtts.sum_us as f64 / 1e6;
        }
        if update.new_retransmits > 0 {
            *self.retransmits.entry((update.flow.direction, service.clone())).or_default() +=
                f64::from(update.new_retransmits) * self.weight;
        }
    }

    /// Counts updates whose events were read at `read_at`, with who is at their ends where that is known.
    pub fn apply(&mut self, updates: &[FlowUpdate], known: &[[Known; 2]], read_at: Instant) {
        let mut known = known.iter();
        for update in updates {
            let (flow, delta) = (&update.flow, &update.delta);
            let (sent, received) = (self.scaled(delta.bytes_sent), self.scaled(delta.bytes_received));
            let mut service = None;
            if let (Some(ends), Some(names)) = (known.next(), &mut self.names) {
                names.count(ends, flow.direction, sent + received);
                service = names.service(&ends[1]);
            }
            let class = (flow.key.protocol.label(), flow.direction);
            let totals = self.classes.entry(class).or_default();
            totals.packets += delta.packets() as f64 * self.weight;
            match update.change {
                Change::Opened => {
                    totals.opened += self.weight;
                    totals.active += 1;
                }
                Change::Active => {}
                Change::Ended => {
                    totals.active = totals.active.saturating_sub(1);
                    let reason = flow.reason.filter(|_| flow.status == Status::Failed);
                    *self.ended.entry((class, reason)).or_default() += self.weight;
                    if reason == Some(Reason::Reset) {
                        *self.resets.entry((flow.direction, service.clone())).or_default() += self.weight;
                    }
                    if let Some(app) = flow.app {
                        *self.apps.entry((app, flow.direction)).or_default() += self.weight;
                    }
                }
            }
            self.observe_latencies(update, &service);
            let (src, dst) = (flow.key.src.ip(), flow.key.dst.ip());
            self.pairs.add((src, dst), sent);
            self.pairs.add((dst, src), received);
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

/// Adds what stands under some keys to what stands under others.
fn move_to<K: Clone + Eq + std::hash::Hash, V: Default + std::ops::AddAssign>(
    counts: &mut HashMap<K, V>,
    which: impl Fn(&K) -> bool,
    to: impl Fn(K) -> K,
) {
    let moved: Vec<K> = counts.keys().filter(|key| which(key)).cloned().collect();
    for key in moved {
        if let Some(count) = counts.remove(&key) {
            *counts.entry(to(key)).or_default() += count;
        }
    }
}
