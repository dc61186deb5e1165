//! From counts to the text format. Every metric has its description and unit where it is declared here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType, Quantile,
    Summary as ProtoSummary,
};
use prometheus::{Encoder, TextEncoder};
use tokio::sync::watch;

use super::flows::{FlowMetrics, Observations};
use super::governor;
use super::messages::Scaled;
use super::names::{Service, There};
use super::process::Process;
use super::summary::Summary;
use super::units::Units;
use super::watches;
use crate::detect::Detector;
use crate::detect::kind::Kind;
use crate::enrich::Directory;
use crate::enrich::kubernetes::Link;
use crate::flow::record::Direction;
use crate::governor::GovernorStatus;
use crate::http::Server;
use crate::kernel::stats::{DropCount, KernelStats, Outcome, RunTime};
use crate::reload::outcome::Counters;

/// Reads the kernel side's counters.
pub type ReadKernel = Arc<dyn Fn() -> Option<KernelStats> + Send + Sync>;

/// Joins all counts when scraped.
pub struct Exporter {
    flows: Arc<Mutex<FlowMetrics>>,
    detector: Arc<Mutex<Detector>>,
    names: Directory,
    units: Mutex<Units>,
    messages: Mutex<Scaled>,
    kernel: ReadKernel,
    process: Mutex<Process>,
    last_ebpf: Mutex<Option<(std::time::Instant, RunTime)>>,
    reloads: Arc<Counters>,
    kubernetes: Option<Arc<Link>>,
    governor: Option<watch::Receiver<GovernorStatus>>,
}

pub(super) struct Page(Vec<MetricFamily>);

fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    let make = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*value).into());
        pair
    };
    pairs.iter().map(make).collect()
}

impl Page {
    pub(super) fn family(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.into());
        family.set_help(help.into());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, metrics: Vec<Metric>) {
        self.family(name, help, MetricType::COUNTER, metrics);
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, metrics: Vec<Metric>) {
        self.family(name, help, MetricType::GAUGE, metrics);
    }

    fn summary(&mut self, name: &str, help: &str, summary: &Summary) {
        let mut proto = ProtoSummary::default();
        proto.set_sample_count(summary.count());
        proto.set_sample_sum(summary.sum_seconds());
        let quantile = |share: f64| {
            let mut quantile = Quantile::default();
            quantile.set_quantile(share);
            quantile.set_value(summary.quantile(share));
            quantile
        };
        proto.set_quantile([0.5, 0.9, 0.99, 0.999].map(quantile).to_vec());
        let mut metric = Metric::default();
        metric.set_summary(proto);
        self.family(name, help, MetricType::SUMMARY, vec![metric]);
    }
}

pub(super) fn count(pairs: &[(&str, &str)], value: u64) -> Metric {
    sum(pairs, value as f64)
}

pub(super) fn sum(pairs: &[(&str, &str)], value: f64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = Metric::default();
    metric.set_label(labels(pairs));
    metric.set_counter(counter);
    metric
}

pub(super) fn level(pairs: &[(&str, &str)], value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::default();
    metric.set_label(labels(pairs));
    metric.set_gauge(gauge);
    metric
}

/// A histogram with these upper bounds; observations beyond the last come after it.
pub(super) fn histogram(pairs: &[(&str, &str)], bounds: &[f64], observed: &Observations) -> Metric {
    let mut histogram = Histogram::default();
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(bounds.len());
    for (bound, count) in bounds.iter().zip(observed.buckets) {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    histogram.set_bucket(buckets);
    // The encoder adds the bucket of all, `+Inf`.
    histogram.set_sample_count(observed.buckets.iter().sum());
    histogram.set_sample_sum(observed.sum_seconds);
    let mut metric = Metric::default();
    metric.set_label(labels(pairs));
    metric.set_histogram(histogram);
    metric
}

/// Labels of a service. Names of services are unique in a namespace only.
fn of_service(service: &Service) -> [(&'static str, &str); 2] {
    let (namespace, name) =
        service.as_ref().map_or(("", ""), |service| (&*service.namespace, &*service.name));
    [("dst_namespace", namespace), ("dst_service", name)]
}

impl Exporter {
    /// Joins what `flows` counts with what `kernel` reads. `proc` is the root of procfs.
    pub fn new(
        flows: Arc<Mutex<FlowMetrics>>,
        detector: Arc<Mutex<Detector>>,
        names: Directory,
        kernel: ReadKernel,
        proc: &str,
    ) -> Self {
        Self {
            flows,
            detector,
            names,
            units: Mutex::default(),
            messages: Mutex::default(),
            kernel,
            process: Mutex::new(Process::new(proc)),
            last_ebpf: Mutex::new(None),
            reloads: Arc::default(),
            kubernetes: None,
            governor: None,
        }
    }

    /// Tells how the link to a cluster fares, too.
    pub fn with_kubernetes(self, kubernetes: Option<Arc<Link>>) -> Self {
        Self { kubernetes, ..self }
    }

    /// Tells what the agent sheds, too.
    pub fn with_governor(self, governor: watch::Receiver<GovernorStatus>) -> Self {
        Self { governor: Some(governor), ..self }
    }

    /// How taking over configurations goes: counted by whoever does it.
    pub fn reloads(&self) -> Arc<Counters> {
        Arc::clone(&self.reloads)
    }

    /// The page. Blocking: asks the collector.
    ///
    /// # Errors
    /// When the text can't be encoded.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut page = Page(Vec::new());
        self.let_go();
        self.flow_families(&mut page);
        if let Some(stats) = (self.kernel)() {
            self.kernel_families(&mut page, &stats);
            let weight = self.flows.lock().unwrap_or_else(PoisonError::into_inner).weight;
            let mut scaled = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
            scaled.families(&mut page, &stats.messages, weight);
        }
        if let Some(host) = &self.names.host {
            let (cap, weight) = {
                let flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
                (flows.pairs.cap(), flows.weight)
            };
            let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
            units.families(&mut page, host, cap, weight);
        }
        if let Some(link) = &self.kubernetes {
            watches::families(&mut page, link);
        }
        if let Some(governor) = &self.governor {
            governor::families(&mut page, &governor.borrow());
        }
        self.security_families(&mut page);
        self.own_families(&mut page);
        let mut text = Vec::with_capacity(64 * 1024);
        TextEncoder::new().encode(&page.0, &mut text)?;
        Ok(text)
    }

    /// Series of who has left the cluster go, once a minute.
    fn let_go(&self) {
        let Some(cluster) = &self.names.cluster else { return };
        let flows = || self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        let now = std::time::Instant::now();
        let due = flows().names.as_ref().and_then(|names| names.is_due(now));
        if let Some(pods) = due {
            // Asked for before the lock is taken, which the collector waits for.
            let there = There::ask(cluster, pods);
            flows().let_go(&there, now);
        }
    }

    fn flow_families(&self, page: &mut Page) {
        let flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        let mut opened = Vec::new();
        let mut active = Vec::new();
        let mut packets = Vec::new();
        for ((protocol, direction), totals) in &flows.classes {
            let pairs = [("protocol", *protocol), ("direction", direction.name())];
            opened.push(sum(&pairs, totals.opened));
            active.push(level(&pairs, totals.active as f64 * flows.weight));
            packets.push(sum(&pairs, totals.packets));
        }
        let mut ended = Vec::new();
        for (((protocol, direction), reason), total) in &flows.ended {
            let (status, name) = reason.map_or(("ok", ""), |reason| ("failed", reason.name()));
            let pairs = [
                ("protocol", *protocol),
                ("direction", direction.name()),
                ("status", status),
                ("reason", name),
            ];
            ended.push(sum(&pairs, *total));
        }
        let mut bytes: Vec<Metric> = flows
            .pairs
            .pairs()
            .map(|((src, dst), bytes)| {
                count(&[("src_ip", &src.to_string()), ("dst_ip", &dst.to_string())], bytes)
            })
            .collect();
        bytes.push(count(&[("src_ip", "other"), ("dst_ip", "other")], flows.pairs.other()));

        let latencies = flows.latencies.iter().map(|((kind, app, service), observed)| {
            let app = app.map_or("", crate::flow::app::App::name);
            let [namespace, service] = of_service(service);
            let pairs = [("kind", kind.name()), namespace, service, ("app_protocol", app)];
            histogram(&pairs, &flows.latency_buckets, observed)
        });
        let apps = flows.apps.iter().map(|((app, direction), total)| {
            sum(&[("app_protocol", app.name()), ("direction", direction.name())], *total)
        });
        let by_service = |counts: &HashMap<(Direction, Service), f64>| {
            let each = counts.iter().map(|((direction, service), total)| {
                let [namespace, service] = of_service(service);
                sum(&[("direction", direction.name()), namespace, service], *total)
            });
            each.collect::<Vec<_>>()
        };

        page.gauge(
            "netmon_sampling_rate",
            "Share of flows kept; below 1 the counts of flows, their packets and bytes are scaled estimates.",
            vec![level(&[], 1.0 / flows.weight)],
        );
        page.gauge("netmon_flows_active", "Flows in the table.", active);
        page.counter("netmon_flows_opened_total", "Flows opened.", opened);
        page.counter("netmon_flows_total", "Flows ended, by status and reason of failure.", ended);
        page.counter(
            "netmon_app_flows_total",
            "Flows ended that carried payload, by application protocol as content told it.",
            apps.collect(),
        );
        page.counter(
            "netmon_tcp_retransmits_total",
            "TCP segments sent again, as seen here.",
            by_service(&flows.retransmits),
        );
        page.counter(
            "netmon_tcp_resets_total",
            "TCP connections that were reset after they stood.",
            by_service(&flows.resets),
        );
        page.counter("netmon_packets_total", "Packets as on the wire, each once.", packets);
        page.counter(
            "netmon_bytes_total",
            "Bytes as on the wire from src_ip to dst_ip, Ethernet header included; pairs beyond the cap are other.",
            bytes,
        );
        if let Some(names) = &flows.names {
            names.families(page);
        }
        page.family(
            "netmon_latency_seconds",
            "TCP handshakes from SYN to the opener's ACK, and round trips of TCP segments and ICMP echoes, seconds.",
            MetricType::HISTOGRAM,
            latencies.collect(),
        );
        page.summary(
            "netmon_processing_duration_seconds",
            "One event, from its reading out of the buffer to its being visible, seconds.",
            &flows.processing,
        );
        page.summary(
            "netmon_event_delay_seconds",
            "From the kernel's stamp on an event to its being visible, seconds.",
            &flows.delay,
        );
    }

    fn kernel_families(&self, page: &mut Page, stats: &KernelStats) {
        let mut packets = Vec::new();
        let mut seen = Vec::new();
        for hook in &stats.hooks {
            let (interface, name) = (hook.interface.as_str(), hook.hook.name());
            seen.push(count(&[("interface", interface), ("hook", name)], hook.seen));
            for (outcome, total) in Outcome::ALL.iter().zip(hook.outcomes) {
                let pairs = [("interface", interface), ("hook", name), ("outcome", outcome.name())];
                packets.push(count(&pairs, total));
            }
        }
        page.counter(
            "netmon_ebpf_packets_total",
            "Packets by what became of them: each has one outcome.",
            packets,
        );
        page.counter("netmon_ebpf_seen_packets_total", "Packets seen: the sum over their outcomes.", seen);
        let kinds =
            stats.kinds.iter().map(|k| count(&[("outcome", k.outcome.name()), ("kind", &k.kind)], k.packets));
        page.counter(
            "netmon_ebpf_packet_kinds_total",
            "Buffers that were not IP or malformed, or counted for the tunnel that carries them, by kind.",
            kinds.collect(),
        );
        page.counter(
            "netmon_ebpf_events_processed_total",
            "Events read from the kernel.",
            vec![count(&[], stats.events_processed)],
        );
        let lost = &stats.events_lost;
        page.counter(
            "netmon_ebpf_events_dropped_total",
            "Events that did not arrive; the flows' counts are not touched, their next report carries them.",
            vec![
                count(&[("reason", "buffer_full")], lost.buffer_full),
                count(&[("reason", "invalid")], lost.invalid),
            ],
        );
        let drops = &stats.drops;
        let dropped = |drop: &DropCount| {
            count(&[("reason", &drop.reason), ("interface", &drop.interface)], drop.packets)
        };
        page.counter(
            "netmon_drops_total",
            "Packets that the kernel of this host dropped, by its own reasons.",
            drops.counts.iter().map(dropped).collect(),
        );
        page.counter(
            "netmon_drops_missed_total",
            "Drops that are not told in full: nested in another one (not counted), or without room to note their flow.",
            vec![count(&[("kind", "nested")], drops.nested), count(&[("kind", "flow")], drops.unjoined)],
        );
        let table = &stats.table;
        page.gauge(
            "netmon_flow_table_entries",
            "Flows in the table.",
            vec![level(&[], table.entries as f64)],
        );
        page.gauge(
            "netmon_flow_table_capacity",
            "Flows that the table may hold.",
            vec![level(&[], table.capacity as f64)],
        );
        page.gauge("netmon_flow_table_slots", "Slots allocated.", vec![level(&[], table.slots as f64)]);
        page.counter(
            "netmon_flow_table_overflows_total",
            "Packets that found no room in the table and are counted by protocol only.",
            vec![count(&[], table.overflow_packets)],
        );
        page.counter(
            "netmon_flow_table_resizes_total",
            "Moves of the table to another size.",
            vec![count(&[], table.resizes)],
        );
        page.counter(
            "netmon_fragments_unmatched_total",
            "Later fragments whose first was not seen: counted in a flow without ports.",
            vec![count(&[], stats.fragments_unmatched)],
        );
        page.counter(
            "netmon_icmp_errors_refused_total",
            "ICMP errors that quote a segment which is not on its way, forged or very late: no flow fails by them.",
            vec![count(&[], stats.icmp_errors_refused)],
        );
        page.counter(
            "netmon_latency_samples_left_out_total",
            "Round trips that are not in netmon_latency_seconds: more in one bucket than it holds between two reports.",
            vec![count(&[], stats.rtt_samples_left_out)],
        );
        page.counter(
            "netmon_names_lost_total",
            "Sockets that have no name for want of room or memory.",
            vec![count(&[], stats.names_lost)],
        );
        page.counter(
            "netmon_asked_names_lost_total",
            "Names that flows have asked for (DNS, TLS) and that found no room.",
            vec![count(&[], stats.asked_names_lost)],
        );
        page.counter(
            "netmon_conntrack_overruns_total",
            "Times that conntrack's news were lost and all translations read anew (features.nat.conntrack: netlink).",
            vec![count(&[], stats.conntrack_overruns)],
        );
        page.gauge(
            "netmon_interfaces_attached",
            "Interfaces whose packets are seen.",
            vec![level(&[], (stats.hooks.len() / 2).saturating_sub(1) as f64)],
        );
        let usage = self.process.lock().unwrap_or_else(PoisonError::into_inner).read();
        page.gauge(
            "netmon_memory_usage_bytes",
            "Memory, bytes.",
            vec![
                level(&[("kind", "agent")], usage.memory_bytes as f64),
                level(&[("kind", "maps")], table.map_bytes as f64),
            ],
        );
        let now = std::time::Instant::now();
        let last =
            self.last_ebpf.lock().unwrap_or_else(PoisonError::into_inner).replace((now, stats.run_time));
        let ebpf_percent = last.map_or(0.0, |(then, before)| {
            stats.run_time.since(&before) as f64 / 1e7 / now.duration_since(then).as_secs_f64().max(1e-3)
        });
        page.gauge(
            "netmon_cpu_usage_percentage",
            "CPU since the last scrape, 100 = one core; ebpf by one packet in 256, or as the kernel counts while kernel.bpf_stats_enabled is on.",
            vec![
                level(&[("kind", "agent")], usage.cpu_percent),
                level(&[("kind", "ebpf")], ebpf_percent),
            ],
        );
        page.gauge("netmon_tasks_count", "Threads of the agent.", vec![level(&[], usage.threads as f64)]);
    }

    fn security_families(&self, page: &mut Page) {
        let detector = self.detector.lock().unwrap_or_else(PoisonError::into_inner);
        let event = |kind: &Kind| {
            count(&[("type", kind.name()), ("severity", kind.severity())], detector.alerts.events(*kind))
        };
        page.counter(
            "netmon_security_events_total",
            "Signs of attack; one event for each source, target and type, however long it goes on.",
            Kind::ALL.iter().map(event).collect(),
        );
        page.counter(
            "netmon_security_untracked_total",
            "Observations that found no place in the bounded memory of the detector.",
            vec![count(&[], detector.untracked())],
        );
    }

    fn own_families(&self, page: &mut Page) {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        page.gauge("netmon_build_info", "1, with the version.", vec![level(&version, 1.0)]);
        page.gauge(
            "netmon_config_last_reload_success_timestamp_seconds",
            "When the configuration was last taken over, seconds since 1970.",
            vec![level(&[], self.reloads.success_seconds())],
        );
        page.counter(
            "netmon_config_reload_failures_total",
            "Configurations that were refused.",
            vec![count(&[], self.reloads.failures())],
        );
        page.counter(
            "netmon_log_lines_lost_total",
            "Lines of the log that standard error did not take.",
            vec![count(&[], crate::telemetry::lines_lost())],
        );
        let turned_away = |server: &Server| count(&[("server", server.name())], server.turned_away());
        page.counter(
            "netmon_connections_turned_away_total",
            "Connections of clients that were closed for want of room.",
            Server::ALL.iter().map(turned_away).collect(),
        );
    }
}
