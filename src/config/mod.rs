//! Configuration: file < environment < command line, checked as a whole, all mistakes told at once.
//!
//! [`schema`] is the one table of keys; everything else (defaults, types, environment names, messages) is read
//! from it. Nothing here reads the environment or exits: inputs come in as values, errors go out as values.

pub mod cli;
mod error;
mod load;
mod public;
pub mod schema;
pub mod show;
#[cfg(test)]
mod tests;
mod values;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::flow::app::App;
use crate::flow::tunnel::TunnelKind;

pub use error::{ConfigError, ConfigErrors};
pub use load::{Inputs, Loaded, Origin};
pub use public::public;

/// A choice written as a lower-case word.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }
    };
}

choice!(
    /// Where packet stamps come from.
    TimestampSource {
        /// The best there is.
        Auto,
        /// The kernel's clock.
        Software,
        /// The network card's clock, where the driver gives it.
        Hardware,
    }
);
choice!(
    /// How programs are attached.
    Attach {
        /// TCX, else clsact.
        Auto,
        /// TCX only.
        Tcx,
        /// clsact only.
        Clsact,
    }
);
choice!(
    /// How events reach the agent.
    TransportChoice {
        /// Ring buffer, else perf buffers.
        Auto,
        /// Ring buffer only.
        Ringbuf,
        /// Perf buffers only.
        Perf,
    }
);
choice!(
    /// On, off, or as the surroundings suggest.
    Switch {
        /// As the surroundings suggest.
        Auto,
        /// On.
        True,
        /// Off.
        False,
    }
);
choice!(
    /// Whose pods are watched.
    WatchScope {
        /// All of the cluster.
        Cluster,
        /// Those of the own node.
        Node,
    }
);
choice!(
    /// How much is logged.
    LogLevel {
        /// Data was lost or someone must act.
        Error,
        /// Something was wrong and has been mended.
        Warn,
        /// What an operator wants to know.
        Info,
        /// What a developer wants to know.
        Debug,
        /// Everything.
        Trace,
    }
);
choice!(
    /// How conntrack is asked what is translated.
    Conntrack {
        /// By the programs if they may, else by netlink.
        Auto,
        /// By the programs.
        Programs,
        /// By netlink.
        Netlink,
    }
);
choice!(
    /// How log lines look.
    LogFormat {
        /// Journal when started by systemd, else text.
        Auto,
        /// Lines for people.
        Text,
        /// One JSON object a line.
        Json,
        /// Journal fields.
        Journal,
    }
);
choice!(
    /// How closely latency is measured.
    Precision {
        /// At most ten samples a second and flow.
        Normal,
        /// Every segment.
        High,
    }
);

impl LogLevel {
    /// The word that filters understand.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// A section: fields named as the keys. Their documentation is the schema's.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $ty:ty = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $(#[doc = $text] $(#[$attribute])* pub $field: $ty),+ }
    };
}

section!(
    /// `capture`
    Capture {
        interfaces: Vec<String> = "Names or globs; empty = every interface that matters.",
        exclude_interfaces: Vec<String> = "Names or globs.",
        sampling_rate: f64 = "Share of flows kept.",
        timestamp_source: TimestampSource = "Clock of packet stamps.",
        attach: Attach = "Attach method.",
        transport: TransportChoice = "Event transport.",
        decapsulate: Vec<TunnelKind> = "Tunnels that are looked into.",
    }
);
section!(
    /// `flow`
    FlowSettings {
        max_flows: u64 = "Flows that find room in any case.",
        #[serde(with = "values::millis")]
        flow_timeout: Duration = "Idle flows leave after this.",
        #[serde(with = "values::millis")]
        connect_timeout: Duration = "An unanswered attempt has failed after this.",
        #[serde(with = "values::millis")]
        active_interval: Duration = "Long flows report this often.",
        aggregation: bool = "Fold client ports in exported records.",
    }
);
section!(
    /// `export.prometheus`
    Prometheus {
        enabled: bool = "Serve metrics.",
        address: String = "Address; empty = by mode.",
        port: u16 = "Port.",
        top_pairs: u64 = "Address pairs with a series of their own.",
        top_destinations: u64 = "HTTP servers with series of their own.",
        top_workloads: u64 = "Series by workload or service, in each metric of those.",
        per_pod: bool = "Count bytes by pod.",
    }
);
section!(
    /// `export`
    Export { prometheus: Prometheus = "Prometheus." }
);
section!(
    /// `performance`
    Performance {
        workers: u64 = "Threads for everything but collecting.",
        buffer_size: u64 = "Flow updates that may wait for the exporters.",
        batch_size: u64 = "Flow updates in a batch.",
    }
);
section!(
    /// `features.protocol_detection`
    ProtocolDetection {
        enabled: bool = "On or off.",
        protocols: Vec<String> = "What to look for.",
        dns_names: bool = "Keep the last name that a flow has asked for.",
        tls_names: bool = "Keep the server's name and the protocol that a TLS client asks for.",
    }
);

impl ProtocolDetection {
    /// What is looked for; nothing when it is off.
    pub fn apps(&self) -> Vec<App> {
        let asked = |app: &&App| self.enabled && self.protocols.iter().any(|name| name == app.name());
        App::KNOWN.iter().filter(asked).copied().collect()
    }
}

section!(
    /// `features.latency_tracking`
    LatencyTracking {
        enabled: bool = "On or off.",
        precision: Precision = "How closely.",
        histogram_buckets: Vec<f64> = "Upper bounds, milliseconds.",
    }
);
section!(
    /// `features.security_monitoring`
    SecurityMonitoring {
        enabled: bool = "On or off.",
        detect_port_scans: bool = "Port scans.",
        detect_suspicious_patterns: bool = "Other patterns.",
        #[serde(with = "values::millis")]
        learning_time: Duration = "Services that answer within it are not new.",
        allow: Vec<String> = "Networks whose hosts, and workloads that may do all that.",
    }
);
section!(
    /// `features.drop_monitoring`
    DropMonitoring { enabled: bool = "On or off." }
);
section!(
    /// `features.process_attribution`
    ProcessAttribution { enabled: bool = "On or off." }
);
section!(
    /// `features.nat`
    NatFeature {
        enabled: bool = "On or off.",
        conntrack: Conntrack = "How conntrack is asked.",
    }
);
section!(
    /// `features`
    Features {
        protocol_detection: ProtocolDetection = "Application protocols.",
        latency_tracking: LatencyTracking = "Latency.",
        security_monitoring: SecurityMonitoring = "Signs of attack.",
        drop_monitoring: DropMonitoring = "Packets that the kernel drops.",
        process_attribution: ProcessAttribution = "Units, containers, processes.",
        nat: NatFeature = "Translated conversations.",
    }
);
section!(
    /// `kubernetes`
    Kubernetes {
        enabled: Switch = "On, off or auto.",
        node_name: String = "Own node; empty = asked from the surroundings.",
        scope: WatchScope = "Whose pods are watched.",
        #[serde(with = "values::millis")]
        resync: Duration = "Full comparison with the API server.",
        events: bool = "Tell alerts and failures to attach as Kubernetes Events.",
    }
);
section!(
    /// `resources.maps`
    Maps {
        flow_map_size: u64 = "Flows that the kernel's table may hold.",
        event_buffer_size: u64 = "Events that may wait for the collector.",
    }
);
section!(
    /// `resources`
    Resources {
        memory_limit: u64 = "Bytes.",
        cpu_limit: f64 = "Cores.",
        maps: Maps = "Kernel maps.",
    }
);
section!(
    /// `api`
    Api {
        socket: String = "Control socket.",
        group: String = "Group that may use it; empty = the agent's.",
    }
);
section!(
    /// `debug`
    Debug { server: String = "Address of the debug server; empty = off." }
);
section!(
    /// `log`
    Log { level: LogLevel = "How much.", format: LogFormat = "How." }
);
section!(
    /// The whole configuration.
    Config {
        capture: Capture = "What is watched, and how.",
        flow: FlowSettings = "Flows.",
        export: Export = "Exporters.",
        performance: Performance = "Threads and queues.",
        features: Features = "Optional features.",
        kubernetes: Kubernetes = "Kubernetes.",
        resources: Resources = "Limits.",
        api: Api = "Control API.",
        debug: Debug = "Debugging.",
        log: Log = "Log.",
    }
);

impl Config {
    /// Flows at most: the smaller of the two bounds.
    pub fn max_flows(&self) -> u64 {
        self.flow.max_flows.min(self.resources.maps.flow_map_size)
    }
}
