//! The parts of the running agent that take a configuration over, and what each is told by it.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::sync::watch;

use super::features;
use crate::collector::{Handle, Settings};
use crate::config::{Attach, Config};
use crate::detect::{self, Detector, services};
use crate::flow::cidr::Cidr;
use crate::flow::who::Names;
use crate::interfaces::Selection;
use crate::kernel::attach::Method;
use crate::kernel::object::Options;
use crate::sink::feed::FeedSettings;
use crate::sink::prometheus::{Endpoint, FlowMetrics};
use crate::telemetry::LogHandle;

/// All of them.
pub struct Parts {
    /// The log.
    pub log: LogHandle,
    /// The collector.
    pub collector: Handle,
    /// Which interfaces are watched.
    pub selection: watch::Sender<Arc<Selection>>,
    /// What followers get.
    pub feed: watch::Sender<FeedSettings>,
    /// Metrics of flows.
    pub metrics: Arc<Mutex<FlowMetrics>>,
    /// Signs of attack.
    pub detector: Arc<Mutex<Detector>>,
    /// Where metrics are served.
    pub endpoint: Arc<Endpoint>,
    /// Kubernetes mode.
    pub kubernetes: bool,
    /// When the agent started, nanoseconds of `CLOCK_MONOTONIC`.
    pub started_ns: u64,
    /// Who is at the ends of flows, in a cluster.
    pub in_cluster: Option<Arc<dyn Names>>,
    /// What was loaded into the kernel.
    pub loaded: Options,
}

impl Parts {
    /// Keys of a configuration that ask for what is not loaded.
    pub fn not_loaded(&self, config: &Config) -> Vec<&'static str> {
        features::not_loaded(&self.loaded, config)
    }

    /// Takes over what is new in `config`: all of it, or nothing if that fails.
    ///
    /// # Errors
    /// Says which part can't, and why.
    pub async fn apply(&self, before: &Config, config: &Config) -> Result<()> {
        // First what may fail, and of that the one that can't be undone last.
        let selection = selection(config)?;
        self.endpoint.serve_at(metrics_address(config, self.kubernetes)).await?;

        if before.log.level != config.log.level
            && let Err(error) = self.log.set_level(config.log.level)
        {
            tracing::error!(%error, "the log level stays");
        }
        let selection = Arc::new(selection);
        self.selection.send_if_modified(|current| {
            let other = *current != selection;
            *current = selection;
            other
        });
        self.feed.send_replace(feed(config));
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).set_top_pairs(top_pairs(config));
        self.detector.lock().unwrap_or_else(PoisonError::into_inner).configure(detection(
            config,
            self.started_ns,
            self.in_cluster.clone(),
        ));
        let (collector, settings) = (self.collector.clone(), collector(config));
        // Waits until it is done: whoever asked for it may rely on it from then on.
        tokio::task::spawn_blocking(move || collector.configure(settings)).await.context("tell the collector")
    }
}

/// Which interfaces are watched.
///
/// # Errors
/// Names the pattern that can't match.
pub fn selection(config: &Config) -> Result<Selection> {
    Selection::new(&config.capture.interfaces, &config.capture.exclude_interfaces)
        .context("capture.interfaces")
}

/// Where metrics are served; `None` if they are not.
pub fn metrics_address(config: &Config, kubernetes: bool) -> Option<(String, u16)> {
    let prometheus = &config.export.prometheus;
    let address = match prometheus.address.as_str() {
        "" if kubernetes => "0.0.0.0",
        "" => "127.0.0.1",
        address => address,
    };
    prometheus.enabled.then(|| (address.to_owned(), prometheus.port))
}

/// What the collector is told.
pub fn collector(config: &Config) -> Settings {
    Settings {
        max_flows: config.max_flows(),
        flow_timeout: config.flow.flow_timeout,
        connect_timeout: config.flow.connect_timeout,
        active_interval: config.flow.active_interval,
        sampling_rate: config.capture.sampling_rate,
        method: match config.capture.attach {
            Attach::Auto => None,
            Attach::Tcx => Some(Method::Tcx),
            Attach::Clsact => Some(Method::Clsact),
        },
        features: features::features(config),
        drops: config.features.drop_monitoring.enabled,
    }
}

/// What followers get.
pub fn feed(config: &Config) -> FeedSettings {
    FeedSettings {
        batch_size: usize::try_from(config.performance.batch_size).unwrap_or(1000),
        fold_every: config.flow.aggregation.then_some(config.flow.active_interval),
    }
}

/// Address pairs with series of their own.
pub fn top_pairs(config: &Config) -> usize {
    usize::try_from(config.export.prometheus.top_pairs).unwrap_or(1000)
}

/// What the detector looks for in an agent that started then.
pub fn detection(config: &Config, started_ns: u64, in_cluster: Option<Arc<dyn Names>>) -> detect::Settings {
    let security = &config.features.security_monitoring;
    detect::Settings {
        port_scans: security.enabled && security.detect_port_scans,
        patterns: security.enabled && security.detect_suspicious_patterns,
        allow: security.allow.iter().filter_map(|network| Cidr::parse(network)).collect(),
        allow_workloads: security.allow.iter().filter_map(|text| detect::workload(text)).collect(),
        names: in_cluster,
        learn_until_ns: started_ns.saturating_add(crate::clock::nanoseconds(security.learning_time)),
        ephemeral: std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
            .ok()
            .and_then(|range| services::ephemeral(&range))
            .unwrap_or(services::EPHEMERAL),
    }
}
