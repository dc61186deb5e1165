//! The agent's state and the flow statistics, as the API tells them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::enrich::kubernetes::progress::KubernetesStatus;
use crate::flow::update::Flow;
use crate::governor::GovernorStatus;
use crate::kernel::stats::{KernelStats, Outcome};
use crate::privilege::Privileges;
use crate::reload::outcome::ConfigStatus;

/// How one interface is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Name.
    pub name: String,
    /// Kernel's index.
    pub index: u32,
    /// `tcx`, `clsact` or `failed`.
    pub attach: String,
    /// Why it failed.
    pub error: Option<String>,
}

/// The books: where every packet went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounting {
    /// Packets seen on all hooks.
    pub seen: u64,
    /// By outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Every hook's packets have exactly one outcome each.
    pub conserved: bool,
    /// Packets that flows hold, live and ended: equal to those counted when nothing is under way.
    pub flow_packets: u64,
    /// Bytes counted on all hooks.
    pub counted_bytes: u64,
    /// Bytes that flows hold.
    pub flow_bytes: u64,
}

impl Accounting {
    /// From the hooks' counters and the sums over flows (packets, bytes).
    pub fn of(stats: &KernelStats, flows: (u64, u64)) -> Self {
        let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
        for hook in &stats.hooks {
            for (outcome, count) in Outcome::ALL.iter().zip(hook.outcomes) {
                *outcomes.entry(outcome.name().into()).or_default() += count;
            }
        }
        Self {
            seen: stats.hooks.iter().map(|hook| hook.seen).sum(),
            outcomes,
            conserved: stats.hooks.iter().all(crate::kernel::stats::HookCounters::conserved),
            flow_packets: flows.0,
            counted_bytes: stats.hooks.iter().map(|hook| hook.counted_bytes).sum(),
            flow_bytes: flows.1,
        }
    }
}

/// Something that a user should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What it is about.
    pub about: About,
    /// In plain words.
    pub text: String,
}

/// What a note is about: a check of `netmon-cli doctor` that judges the same, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// Interfaces that are not watched.
    Interfaces,
    /// Events that were lost.
    Losses,
    /// Flows without room.
    FlowTable,
    /// What is shed to stay within limits.
    Limits,
    /// The link to a cluster.
    Cluster,
    /// A kernel that is not tested.
    Kernel,
    /// What is so by intention.
    Intention,
    /// Something that no check judges.
    Other,
}

/// The agent's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// `systemd` or `kubernetes`.
    pub mode: String,
    /// When it started.
    pub started: Timestamp,
    /// For how long it has run, seconds.
    pub uptime_seconds: u64,
    /// Kernel release and machine.
    pub kernel: String,
    /// Configuration file.
    pub config_file: Option<String>,
    /// File that the kernel's types are read from; `null` where the kernel has BTF.
    #[serde(default)]
    pub btf_file: Option<String>,
    /// How taking the configuration over went.
    pub config: ConfigStatus,
    /// Whether every part is ready.
    pub ready: bool,
    /// What is missing.
    pub waiting_for: Vec<String>,
    /// What the agent may do, and why.
    pub privileges: Privileges,
    /// `ringbuf` or `perf`.
    pub transport: String,
    /// Share of flows kept.
    pub sampling_rate: f64,
    /// Interfaces.
    pub interfaces: Vec<InterfaceStatus>,
    /// The link to a cluster; `null` outside of Kubernetes.
    pub kubernetes: Option<KubernetesStatus>,
    /// What the agent uses, and what it sheds.
    pub governor: GovernorStatus,
    /// The books.
    pub accounting: Accounting,
    /// Everything that the kernel side counts.
    pub kernel_stats: KernelStats,
    /// What could not be seen, and which fallbacks are in use.
    pub notes: Vec<Note>,
}

/// One of the heaviest conversations by address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Talker {
    /// Opener.
    pub src: String,
    /// Other side.
    pub dst: String,
    /// Bytes of both directions.
    pub bytes: u64,
    /// Flows.
    pub flows: u64,
}

/// Flows counted in several ways.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowStats {
    /// Live flows.
    pub total: u64,
    /// By protocol.
    pub by_protocol: BTreeMap<String, u64>,
    /// By state.
    pub by_state: BTreeMap<String, u64>,
    /// By direction.
    pub by_direction: BTreeMap<String, u64>,
    /// By status.
    pub by_status: BTreeMap<String, u64>,
    /// By application protocol: flows that have carried payload.
    pub by_app: BTreeMap<String, u64>,
    /// Heaviest address pairs.
    pub top_talkers: Vec<Talker>,
    /// Kernel memory of all maps, bytes.
    pub map_bytes: u64,
    /// The same by live flow; `null` without flows.
    pub bytes_per_flow: Option<f64>,
}

/// Adds flows up.
#[derive(Default)]
pub struct FlowTally {
    stats: FlowStats,
    pairs: std::collections::HashMap<(std::net::IpAddr, std::net::IpAddr), (u64, u64)>,
}

/// Address pairs that a tally keeps at most.
const TALLIED_PAIRS: usize = 1_000_000;

impl FlowTally {
    /// Counts a flow.
    pub fn add(&mut self, flow: &Flow) {
        self.stats.total += 1;
        let count = |map: &mut BTreeMap<String, u64>, name: &str| match map.get_mut(name) {
            Some(count) => *count += 1,
            None => drop(map.insert(name.to_owned(), 1)),
        };
        count(&mut self.stats.by_protocol, flow.key.protocol.label());
        count(&mut self.stats.by_state, flow.state.name());
        count(&mut self.stats.by_direction, flow.direction.name());
        count(&mut self.stats.by_status, flow.status.name());
        if let Some(app) = flow.app {
            count(&mut self.stats.by_app, app.name());
        }
        let pair = (flow.key.src.ip(), flow.key.dst.ip());
        if self.pairs.len() < TALLIED_PAIRS || self.pairs.contains_key(&pair) {
            let entry = self.pairs.entry(pair).or_default();
            entry.0 += flow.total.bytes();
            entry.1 += 1;
        }
    }

    /// The sum, with the memory of the maps.
    pub fn finish(mut self, map_bytes: u64) -> FlowStats {
        let mut pairs: Vec<_> = self.pairs.into_iter().collect();
        pairs.sort_by_key(|(pair, (bytes, _))| (std::cmp::Reverse(*bytes), *pair));
        self.stats.top_talkers = pairs
            .into_iter()
            .take(10)
            .map(|((src, dst), (bytes, flows))| Talker {
                src: src.to_string(),
                dst: dst.to_string(),
                bytes,
                flows,
            })
            .collect();
        self.stats.map_bytes = map_bytes;
        self.stats.bytes_per_flow =
            (self.stats.total > 0).then(|| map_bytes as f64 / self.stats.total as f64);
        self.stats
    }
}
