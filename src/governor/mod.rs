//! The overhead governor: keeps what the agent uses within `resources.cpu_limit` and `resources.memory_limit`, by doing less rather
//! than by being killed, and says what it leaves undone.
//!
//! Once a second it reads ([`reading`]), decides ([`state`]) and hands what is shed to the one who applies configurations
//! ([`Reloader::govern`]), so that it takes the same ways as a change by hand. `README.md` has the order.

pub mod reading;
pub mod state;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::collector::Handle;
use crate::collector::handle::Usage;
use crate::config::Config;
use crate::kernel::stats::RunTime;
use crate::reload::Reloader;
use crate::telemetry::message;
use reading::Group;
use state::{Feature, LADDER, Limits, Measure, Reading, Resource, Shed, State, Step};

/// Between two readings.
const PERIOD: Duration = Duration::from_secs(1);
/// A smaller share of flows is not asked for: estimates would be worth little.
const LEAST_SHARE: f64 = 0.001;

/// Something that is left undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shedding {
    /// `interval`, `sampling`, `flows`, or a feature's name.
    pub measure: String,
    /// In words.
    pub what: String,
}

/// How the governor fares.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GovernorStatus {
    /// `resources.cpu_limit`, cores.
    pub cpu_limit_cores: f64,
    /// What the agent's own threads used in the last second, cores.
    pub agent_cores: f64,
    /// What its programs in the kernel used, cores: the packets' share.
    pub programs_cores: f64,
    /// Whether the kernel counts that (`sysctl kernel.bpf_stats_enabled`); else one packet in 256 is timed.
    pub programs_counted: bool,
    /// The smaller of `resources.memory_limit` and four fifths of the control group's limit, bytes.
    pub memory_limit_bytes: u64,
    /// Whether the control group's is the smaller one.
    pub limited_by_group: bool,
    /// Memory of the process, bytes.
    pub agent_bytes: u64,
    /// Memory of all maps, bytes.
    pub maps_bytes: u64,
    /// What is shed now, in the order in which it was.
    pub shed: Vec<Shedding>,
    /// Limits that are not held although there is nothing left to shed: `cpu`, `memory`.
    pub exhausted: Vec<String>,
    /// Times that more was shed, and less: for want of CPU, of memory.
    pub times_shed: [u64; 2],
    /// The other way.
    pub times_recovered: [u64; 2],
}

impl GovernorStatus {
    /// For people: what is shed, and what can't be held.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.shed.is_empty() {
            let shed: Vec<&str> = self.shed.iter().map(|shedding| shedding.what.as_str()).collect();
            notes.push(format!(
                "to stay within resources.cpu_limit and memory_limit the agent does less: {}",
                shed.join("; ")
            ));
        }
        notes.extend(self.exhausted.iter().map(|limit| {
            format!("resources.{limit}_limit is not held, and there is nothing left to shed: raise it")
        }));
        notes
    }
}

impl Resource {
    /// As in `resources.cpu_limit`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }

    /// All.
    pub const ALL: [Self; 2] = [Self::Cpu, Self::Memory];
}

impl Feature {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency_tracking",
            Self::Protocols => "protocol_detection",
            Self::Attribution => "process_attribution",
            Self::Security => "security_monitoring",
        }
    }

    fn switch(self, config: &mut Config) -> &mut bool {
        let features = &mut config.features;
        match self {
            Self::Latency => &mut features.latency_tracking.enabled,
            Self::Protocols => &mut features.protocol_detection.enabled,
            Self::Attribution => &mut features.process_attribution.enabled,
            Self::Security => &mut features.security_monitoring.enabled,
        }
    }

    fn is_on(self, config: &Config) -> bool {
        *self.switch(&mut config.clone())
    }
}

impl Measure {
    /// Its name in metrics and `status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interval(_) => "interval",
            Self::Feature(feature) => feature.name(),
            Self::Sampling(_) => "sampling",
        }
    }

    /// Whether it changes anything in an agent that is configured so.
    fn is_useful(self, config: &Config) -> bool {
        match self {
            Self::Interval(_) => true,
            Self::Feature(feature) => feature.is_on(config),
            Self::Sampling(divisor) => config.capture.sampling_rate / f64::from(divisor) >= LEAST_SHARE,
        }
    }
}

impl Shed {
    /// What is in force with this shed.
    pub fn apply(&self, config: &Config) -> Config {
        let mut config = config.clone();
        config.flow.active_interval = config.flow.active_interval.saturating_mul(self.interval());
        config.capture.sampling_rate /= f64::from(self.sampling());
        config.flow.max_flows =
            self.flows.map_or(config.flow.max_flows, |flows| config.flow.max_flows.min(flows));
        for feature in self.features() {
            *feature.switch(&mut config) = false;
        }
        config
    }

    /// What it leaves undone of a configuration.
    pub fn told(&self, config: &Config) -> Vec<Shedding> {
        let governed = self.apply(config);
        let mut told = Vec::new();
        let mut tell = |measure: &str, what: String| told.push(Shedding { measure: measure.into(), what });
        if self.interval() > 1 {
            let [was, is] = [&config, &&governed].map(|config| config.flow.active_interval);
            tell("interval", format!("long flows report every {is:?} instead of {was:?}"));
        }
        for feature in self.features().filter(|feature| feature.is_on(config)) {
            tell(feature.name(), format!("features.{} is off", feature.name()));
        }
        if self.sampling() > 1 {
            let [was, is] = [&config, &&governed].map(|config| config.capture.sampling_rate);
            tell("sampling", format!("{is} of all flows are kept instead of {was}; counts are scaled"));
        }
        if self.flows.is_some() {
            let [was, is] = [&config, &&governed].map(|config| config.max_flows());
            tell(
                "flows",
                format!("{is} flows at most instead of {was}; packets of others are counted by protocol"),
            );
        }
        told
    }
}

/// Names of all that may be shed, in its order.
pub fn measures() -> Vec<&'static str> {
    let mut names: Vec<&str> = LADDER.iter().map(|measure| measure.name()).collect();
    names.dedup();
    names.push("flows");
    names
}

/// What was used until a moment.
struct Mark {
    at: Instant,
    cpu: Duration,
    programs: RunTime,
}

impl Mark {
    fn now(usage: &Usage) -> Self {
        Self { at: Instant::now(), cpu: reading::cpu_time(), programs: usage.run_time }
    }
}

/// Reads, decides and applies.
pub struct Governor {
    reloader: Arc<Reloader>,
    collector: Handle,
    group: Group,
    state: State,
    status: GovernorStatus,
    told: watch::Sender<GovernorStatus>,
}

impl Governor {
    /// Tells how it fares to `told`.
    pub fn new(reloader: Arc<Reloader>, collector: Handle, told: watch::Sender<GovernorStatus>) -> Self {
        let group = Group::find(Path::new("/proc"));
        let (state, status) = Default::default();
        Self { reloader, collector, group, state, status, told }
    }

    /// Governs for as long as it is let.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut mark: Option<Mark> = None;
        loop {
            ticks.tick().await;
            // `None` while the collector does not answer: the watchdog sees to that.
            let Some(usage) = self.collector.usage().await else { continue };
            let now = Mark::now(&usage);
            let changed = match &mark {
                Some(before) => self.govern(&usage, before, &now).await,
                None => false,
            };
            // What a change costs (all flows are told when sampling changes) is not held against what comes after it.
            mark = match changed {
                true => self.collector.usage().await.map(|usage| Mark::now(&usage)),
                false => Some(now),
            };
        }
    }

    /// True if something was shed or taken up again.
    async fn govern(&mut self, usage: &Usage, before: &Mark, now: &Mark) -> bool {
        let config = self.reloader.configured();
        let seconds = now.at.duration_since(before.at).as_secs_f64().max(1e-3);
        let group_bytes = self.group.memory_bytes();
        let status = &mut self.status;
        status.cpu_limit_cores = config.resources.cpu_limit;
        status.agent_cores = now.cpu.saturating_sub(before.cpu).as_secs_f64() / seconds;
        status.programs_cores = now.programs.since(&before.programs) as f64 / 1e9 / seconds;
        status.programs_counted = now.programs.counted_ns > before.programs.counted_ns;
        status.memory_limit_bytes = group_bytes.unwrap_or(u64::MAX).min(config.resources.memory_limit);
        status.limited_by_group = status.memory_limit_bytes < config.resources.memory_limit;
        status.agent_bytes = reading::memory_bytes(Path::new("/proc"));
        status.maps_bytes = usage.tables_bytes + usage.maps_bytes;
        let used = Reading {
            cpu_cores: status.agent_cores + status.programs_cores,
            memory_bytes: status.agent_bytes + status.maps_bytes,
            tables_bytes: usage.tables_bytes,
            slot_bytes: usage.slot_bytes,
        };
        let limits = Limits {
            cpu_cores: status.cpu_limit_cores,
            memory_bytes: status.memory_limit_bytes,
            flows: config.max_flows(),
        };
        let steps = self.state.judge(&used, &limits, |measure| measure.is_useful(&config));
        let shed = self.state.shed();
        let changed = steps.iter().any(|step| !matches!(step, Step::Exhausted(_)));
        if changed && let Err(error) = self.reloader.govern(shed).await {
            tracing::error!(%error, "what the governor asks for can't be done");
        }
        self.status.shed = shed.told(&config);
        let exhausted = Resource::ALL.iter().zip(self.state.exhausted());
        self.status.exhausted =
            exhausted.filter(|(_, so)| *so).map(|(resource, _)| resource.name().into()).collect();
        for step in steps {
            self.tell(step, &used, &limits);
        }
        self.told.send_replace(self.status.clone());
        changed
    }

    fn tell(&mut self, step: Step, used: &Reading, limits: &Limits) {
        let shed: Vec<&str> = self.status.shed.iter().map(|shedding| shedding.what.as_str()).collect();
        let shed = if shed.is_empty() { "nothing".into() } else { shed.join("; ") };
        let amounts = |resource| match resource {
            Resource::Cpu => format!("{:.3} of {} cores", used.cpu_cores, limits.cpu_cores),
            Resource::Memory => format!("{} of {} bytes", used.memory_bytes, limits.memory_bytes),
        };
        match step {
            Step::Shed(resource) => {
                self.status.times_shed[resource as usize] += 1;
                tracing::warn!(
                    message_id = message::SHED,
                    resource = resource.name(),
                    used = amounts(resource),
                    "more is shed to stay within the limits; shed is now: {shed}"
                );
            }
            Step::Recovered(resource) => {
                self.status.times_recovered[resource as usize] += 1;
                tracing::info!(
                    message_id = message::RECOVERED,
                    resource = resource.name(),
                    used = amounts(resource),
                    "less is shed; shed is now: {shed}"
                );
            }
            Step::Exhausted(resource) => tracing::error!(
                message_id = message::EXHAUSTED,
                resource = resource.name(),
                used = amounts(resource),
                "resources.{}_limit is not held, and there is nothing left to shed: raise it",
                resource.name()
            ),
        }
    }
}
