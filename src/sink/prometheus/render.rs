//! All counts, joined when they are scraped. Every metric has its description and unit where it is declared.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::proto::{Metric, MetricType};
use tokio::sync::watch;

use super::flows::FlowMetrics;
use super::messages::Scaled;
use super::names::{Service, There};
use super::page::{Page, count, histogram, level, sum};
use super::process::Process;
use super::units::Units;
use super::{governor, kernel, watches};
use crate::detect::Detector;
use crate::detect::kind::Kind;
use crate::enrich::Directory;
use crate::enrich::kubernetes::Link;
use crate::flow::record::Direction;
use crate::governor::GovernorStatus;
use crate::http::Server;
use crate::kernel::stats::{KernelStats, RunTime};
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
        let mut page = Page::default();
        self.let_go();
        self.flow_families(&mut page);
        if let Some(stats) = (self.kernel)() {
            kernel::families(&mut page, &stats);
            self.usage_families(&mut page, &stats);
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
        page.text()
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

    fn usage_families(&self, page: &mut Page, stats: &KernelStats) {
        let usage = self.process.lock().unwrap_or_else(PoisonError::into_inner).read();
        page.gauge(
            "netmon_memory_usage_bytes",
            "Memory, bytes.",
            vec![
                level(&[("kind", "agent")], usage.memory_bytes as f64),
                level(&[("kind", "maps")], stats.table.map_bytes as f64),
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
            count(
                &[("type", kind.name()), ("severity", kind.severity().name())],
                detector.alerts.events(*kind),
            )
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
