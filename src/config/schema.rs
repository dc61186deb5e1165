//! The table of keys: path, type, default, meaning and cost of every setting.

use crate::flow::app::App;
use crate::flow::tunnel::TunnelKind;

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number within bounds.
    Integer(u64, u64),
    /// A number above the first and up to the second.
    Share(f64, f64),
    /// A number with its unit, like `300s`; at least so many milliseconds.
    Duration(u64),
    /// A number of bytes, like `512Mi`.
    Size,
    /// A number of cores, like `2` or `"0.5"`.
    Cores,
    /// Any text.
    Text,
    /// `host:port`, or empty.
    Address,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of names or globs.
    Globs,
    /// A list of networks and Kubernetes workloads.
    Networks,
    /// A list of these words.
    Words(&'static [&'static str]),
    /// Ascending upper bounds in milliseconds, at most eleven.
    Buckets,
}

impl Kind {
    /// What is accepted, in words.
    pub fn accepted(&self) -> String {
        match self {
            Self::Bool => "true or false".into(),
            Self::Integer(low, high) => format!("a whole number from {low} to {high}"),
            Self::Share(low, high) => format!("a number above {low} and up to {high}"),
            Self::Duration(least) => {
                format!("a duration with its unit, like 300s, 5m or 1h30m, of at least {least}ms")
            }
            Self::Size => "a size, like 512Mi, 1Gi or 1G".into(),
            Self::Cores => "a number of cores above 0, like 2 or 0.5".into(),
            Self::Text => "text".into(),
            Self::Address => "host:port, like 127.0.0.1:6060, or empty".into(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Globs => "a list of interface names or globs, like [\"eth0\", \"veth*\"]".into(),
            Self::Networks => {
                "a list of networks and of namespace/workload, like [\"10.0.0.0/8\", \"monitoring/blackbox\"]"
                    .into()
            }
            Self::Words(words) => format!("a list out of {}", words.join(", ")),
            Self::Buckets => "a list of one to eleven ascending numbers from 0.001 to 4000000".into(),
        }
    }
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Path, parts joined by dots.
    pub path: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Default, as one would write it in the file.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// Whether a running agent takes a new value over; what it does not take over waits for a restart.
    pub live: bool,
}

const fn key(path: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Key {
    Key { path, kind, default, meaning, live: false }
}

/// One that a running agent takes over.
const fn live(path: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Key {
    Key { path, kind, default, meaning, live: true }
}

/// Tunnels that can be looked into.
pub const TUNNELS: &[&str] = &[TunnelKind::Vxlan.name(), TunnelKind::Geneve.name()];

/// Every key, in the order of the documentation.
pub const KEYS: &[Key] = &[
    live("capture.interfaces", Kind::Globs, "[]", "interfaces to watch; [] = every one that matters"),
    live("capture.exclude_interfaces", Kind::Globs, "[]", "interfaces to leave out"),
    live(
        "capture.sampling_rate",
        Kind::Share(0.0, 1.0),
        "1.0",
        "share of flows kept, decided by the flow's hash",
    ),
    key(
        "capture.timestamp_source",
        Kind::Choice(&["auto", "software", "hardware"]),
        "auto",
        "clock of packet stamps",
    ),
    key("capture.attach", Kind::Choice(&["auto", "tcx", "clsact"]), "auto", "how programs are attached"),
    key(
        "capture.transport",
        Kind::Choice(&["auto", "ringbuf", "perf"]),
        "auto",
        "how events reach the agent",
    ),
    key("capture.decapsulate", Kind::Words(TUNNELS), "[]", "tunnels whose inner packets are counted"),
    live(
        "flow.max_flows",
        Kind::Integer(1, 16_000_000),
        "1000000",
        "flows that find room in any case; up to 1.6 times as many may",
    ),
    live("flow.flow_timeout", Kind::Duration(1000), "300s", "idle flows leave after this (also max_age)"),
    live("flow.connect_timeout", Kind::Duration(100), "10s", "an unanswered attempt has failed after this"),
    live("flow.active_interval", Kind::Duration(100), "5s", "long flows report this often"),
    live("flow.aggregation", Kind::Bool, "false", "fold client ports together in exported records"),
    live("export.prometheus.enabled", Kind::Bool, "true", "serve metrics"),
    live("export.prometheus.address", Kind::Text, "\"\"", "address to listen on; empty = by mode"),
    live("export.prometheus.port", Kind::Integer(0, 65_535), "9090", "port to listen on; 0 = any"),
    live(
        "export.prometheus.top_pairs",
        Kind::Integer(1, 100_000),
        "1000",
        "address pairs with a series of their own",
    ),
    key(
        "export.prometheus.top_destinations",
        Kind::Integer(1, 100_000),
        "200",
        "HTTP servers with series of their own",
    ),
    key(
        "export.prometheus.top_workloads",
        Kind::Integer(1, 100_000),
        "1000",
        "series by workload or service in each metric of those; the rest is other",
    ),
    key("export.prometheus.per_pod", Kind::Bool, "false", "count bytes by pod, too"),
    key("performance.workers", Kind::Integer(1, 64), "4", "threads for everything but collecting"),
    key(
        "performance.buffer_size",
        Kind::Integer(100, 10_000_000),
        "10000",
        "flow updates that may wait for exporters",
    ),
    live("performance.batch_size", Kind::Integer(1, 100_000), "1000", "flow updates in a batch"),
    live("features.protocol_detection.enabled", Kind::Bool, "true", "recognise application protocols"),
    live(
        "features.protocol_detection.protocols",
        Kind::Words(App::NAMES),
        "[http, http2, grpc, tls, dns, mysql, postgresql, redis, kafka, mongodb, amqp, mqtt, ssh, quic, memcached, nats]",
        "protocols to recognise",
    ),
    live("features.protocol_detection.dns_names", Kind::Bool, "false", "keep names that DNS queries ask for"),
    live("features.protocol_detection.tls_names", Kind::Bool, "false", "keep names that TLS clients ask for"),
    live("features.latency_tracking.enabled", Kind::Bool, "true", "measure latency"),
    live("features.latency_tracking.precision", Kind::Choice(&["normal", "high"]), "normal", "how closely"),
    key(
        "features.latency_tracking.histogram_buckets",
        Kind::Buckets,
        "[0.1, 0.5, 1, 5, 10, 50, 100, 500, 1000]",
        "upper bounds, milliseconds",
    ),
    live("features.security_monitoring.enabled", Kind::Bool, "true", "look for signs of attack"),
    live("features.security_monitoring.detect_port_scans", Kind::Bool, "true", "port scans"),
    live(
        "features.security_monitoring.detect_suspicious_patterns",
        Kind::Bool,
        "true",
        "floods, stealth probes, bursts of logins, beacons, DNS tunnels, new services",
    ),
    live(
        "features.security_monitoring.learning_time",
        Kind::Duration(1000),
        "10m",
        "after the start, services that answer are not new",
    ),
    live(
        "features.security_monitoring.allow",
        Kind::Networks,
        "[]",
        "networks whose hosts, and workloads that may do all that",
    ),
    live("features.drop_monitoring.enabled", Kind::Bool, "true", "count what the kernel drops, and why"),
    live("features.process_attribution.enabled", Kind::Bool, "true", "name units, containers and processes"),
    key("features.nat.enabled", Kind::Bool, "true", "join both addresses of translated conversations (NAT)"),
    key(
        "features.nat.conntrack",
        Kind::Choice(&["auto", "programs", "netlink"]),
        "auto",
        "how conntrack is asked: by the programs, or by netlink, some milliseconds late",
    ),
    key("kubernetes.enabled", Kind::Choice(&["auto", "true", "false"]), "auto", "name pods and services"),
    key("kubernetes.node_name", Kind::Text, "\"\"", "own node; empty = ask the surroundings"),
    key(
        "kubernetes.scope",
        Kind::Choice(&["cluster", "node"]),
        "cluster",
        "whose pods are watched: all, or those of the own node",
    ),
    key("kubernetes.resync", Kind::Duration(1000), "10m", "full comparison with the API server"),
    key("kubernetes.events", Kind::Bool, "true", "tell alerts and failures to attach as Kubernetes Events"),
    live(
        "resources.memory_limit",
        Kind::Size,
        "1Gi",
        "memory of agent and kernel maps; beyond it fewer flows are kept",
    ),
    live("resources.cpu_limit", Kind::Cores, "\"2\"", "cores, of agent and programs; beyond it less is done"),
    live(
        "resources.maps.flow_map_size",
        Kind::Integer(1, 16_000_000),
        "1000000",
        "flows that the kernel may hold",
    ),
    key("resources.maps.event_buffer_size", Kind::Integer(100, 50_000_000), "100000", "events that may wait"),
    key("api.socket", Kind::Text, "/run/netmon/netmon.sock", "control socket"),
    key("api.group", Kind::Text, "\"\"", "group that may use the control socket; empty = that of the agent"),
    key("debug.server", Kind::Address, "\"\"", "debug server; off when empty"),
    live(
        "log.level",
        Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        "info",
        "how much is logged",
    ),
    key("log.format", Kind::Choice(&["auto", "text", "json", "journal"]), "auto", "how log lines look"),
];

/// Other paths for a key.
pub const ALIASES: &[(&str, &str)] = &[("flow.max_age", "flow.flow_timeout")];

/// Short environment names, beside `NETMON_` and the path with `_` between its parts.
pub const SHORT_NAMES: &[(&str, &str)] = &[
    ("NETMON_LOG_LEVEL", "log.level"),
    ("NETMON_SAMPLING_RATE", "capture.sampling_rate"),
    ("NETMON_FLOW_AGGREGATION", "flow.aggregation"),
    ("NETMON_BATCH_SIZE", "performance.batch_size"),
    ("NETMON_LATENCY_PRECISION", "features.latency_tracking.precision"),
    ("NETMON_TIMESTAMP_SOURCE", "capture.timestamp_source"),
    ("NETMON_NODE_NAME", "kubernetes.node_name"),
];

/// The key of a path or of an alias.
pub fn find(path: &str) -> Option<&'static Key> {
    let path = ALIASES.iter().find(|(alias, _)| *alias == path).map_or(path, |(_, path)| path);
    KEYS.iter().find(|key| key.path == path)
}

/// The key of an environment name. A feature's own name switches it as a whole.
pub fn find_environment(name: &str) -> Option<&'static Key> {
    if let Some((_, path)) = SHORT_NAMES.iter().find(|(short, _)| *short == name) {
        return find(path);
    }
    let wanted = name.strip_prefix("NETMON_")?.to_ascii_lowercase();
    let flat = |path: &str| path.replace('.', "_");
    KEYS.iter()
        .find(|key| {
            flat(key.path) == wanted || key.path.strip_suffix(".enabled").is_some_and(|p| flat(p) == wanted)
        })
        .or_else(|| {
            ALIASES.iter().find(|(alias, _)| flat(alias) == wanted).and_then(|(alias, _)| find(alias))
        })
}

/// The known path that is most like a mistaken one.
pub fn nearest(path: &str) -> Option<&'static str> {
    let distance = |key: &Key| (strsim::levenshtein(path, key.path), key.path);
    KEYS.iter().map(distance).min().filter(|(d, _)| *d <= 3).map(|(_, path)| path)
}
