//! Alerts: one for each subject and kind, however long it goes on.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::kind::{Kind, Severity};
use super::spread;
use crate::clock::WallClock;
use crate::flow::key::Protocol;
use crate::flow::record::Endpoint;
use crate::flow::update::Flow;
use crate::flow::who::Names;

/// Alerts kept. One more takes the place of one that is over, or of a less grave one; else it is counted as untracked, so that a
/// thousand sources at once neither fill the log nor hide what is graver.
const KEPT: usize = 1000;
/// After so long a silence the same thing is a new event.
const SILENCE_NS: u64 = 600_000_000_000;
/// Flows kept as examples.
const EXAMPLES: usize = 5;

/// Whom it is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Subject {
    /// By which protocol; `None`: several.
    pub protocol: Option<Protocol>,
    /// Who does it; `None`: many.
    pub src: Option<IpAddr>,
    /// To whom; `None`: many.
    pub dst: Option<IpAddr>,
    /// At which port; `None`: many.
    pub port: Option<u16>,
}

/// What was seen within the last window: the evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Found {
    /// Different ports, hosts or networks, about.
    pub distinct: u32,
    /// Attempts that led to nothing, or what else makes the sign.
    pub in_vain: u32,
    /// Attempts that led somewhere.
    pub answered: u32,
    /// Bytes that the source sent in them.
    pub bytes: u64,
    /// Mean time between them where they are regular, milliseconds; else 0.
    pub interval_ms: u64,
    /// First attempt, nanoseconds of `CLOCK_MONOTONIC`.
    pub first_ns: u64,
    /// Last attempt.
    pub last_ns: u64,
    /// Ids of flows; 0 = none.
    pub examples: [u64; EXAMPLES],
}

impl Found {
    /// Nothing yet, beginning with this flow.
    pub fn since(flow: &Flow) -> Self {
        Self { first_ns: flow.start_ns, last_ns: flow.end_ns, ..Self::default() }
    }

    /// One more attempt: a flow.
    pub fn add(&mut self, flow: &Flow) {
        self.in_vain = self.in_vain.saturating_add(1);
        self.bytes = self.bytes.saturating_add(flow.total.bytes_sent);
        self.last_ns = self.last_ns.max(flow.end_ns);
    }

    /// Keeps a flow as an example if there is room.
    pub fn keep(&mut self, flow: &Flow) {
        if !self.examples.contains(&flow.id)
            && let Some(free) = self.examples.iter_mut().find(|example| **example == 0)
        {
            *free = flow.id;
        }
    }

    /// The examples, as `flow_id` is written.
    pub fn flow_ids(&self) -> impl Iterator<Item = String> {
        self.examples.into_iter().filter(|id| *id != 0).map(|id| format!("{id:016x}"))
    }
}

/// One alert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alert {
    /// What it looks like.
    pub kind: Kind,
    /// Whom it is about.
    pub subject: Subject,
    /// What was seen in the last window.
    pub found: Found,
    /// When it began, nanoseconds of `CLOCK_MONOTONIC`.
    pub first_ns: u64,
}

impl Alert {
    /// The same for one subject and kind.
    pub fn id(&self) -> String {
        format!("{:016x}", spread::hash(&(self.kind, self.subject)))
    }

    /// After so long without a further attempt it is over.
    fn silence_ns(&self) -> u64 {
        SILENCE_NS.max(self.found.interval_ms.saturating_mul(3_000_000))
    }

    /// Who had the addresses of source and target when it went on, alone.
    pub fn ends(&self, names: Option<&dyn Names>) -> [Option<Endpoint>; 2] {
        [self.subject.src, self.subject.dst].map(|address| {
            let mut end = Endpoint::bare(address?, None);
            names?.tell_address(&mut end, (self.first_ns, self.found.last_ns));
            end.cluster_name().is_some().then_some(end)
        })
    }

    /// What goes first when there are too many: what is over, then the least grave, of these the oldest.
    fn worth(&self, now_ns: u64) -> (bool, Severity, u64) {
        let goes_on = now_ns.saturating_sub(self.found.last_ns) < self.silence_ns();
        (goes_on, self.kind.severity(), self.found.last_ns)
    }

    /// In one sentence.
    pub fn message(&self, ends: &[Option<Endpoint>; 2]) -> String {
        let name = |address: Option<IpAddr>, end: &Option<Endpoint>| match (address, end) {
            (None, _) => "many".to_owned(),
            (Some(ip), None) => ip.to_string(),
            (Some(ip), Some(end)) => format!("{ip} ({})", end.cluster_name().unwrap_or_default()),
        };
        let (src, dst) = (name(self.subject.src, &ends[0]), name(self.subject.dst, &ends[1]));
        let port = self.subject.port.unwrap_or_default();
        let protocol = self.subject.protocol.map_or_else(|| "ip".to_owned(), |protocol| protocol.to_string());
        let Found { distinct, in_vain, answered, bytes, interval_ms, .. } = self.found;
        let mean = bytes / u64::from(in_vain.max(1));
        match self.kind {
            Kind::PortScan => format!(
                "{src} tried about {distinct} {protocol} ports of {dst}: {in_vain} attempts in vain, {answered} answered"
            ),
            Kind::HostSweep => format!(
                "{src} tried {protocol} port {port} of about {distinct} hosts: {in_vain} attempts in vain, {answered} answered"
            ),
            Kind::SynFlood => format!(
                "{in_vain} connections to {dst} port {port} were begun within ten seconds and {answered} of them finished"
            ),
            Kind::StealthProbe => {
                format!("{src} sent {in_vain} probes to {dst} with flags that no connection begins with")
            }
            Kind::SpoofedBurst => format!(
                "{in_vain} {protocol} flows to {dst} within ten seconds came from about {distinct} networks and led to nothing"
            ),
            Kind::LoginBurst => format!(
                "{src} had {in_vain} short conversations of one size with {dst} port {port} within a minute"
            ),
            Kind::Beacon => format!(
                "{src} talks to {dst} {protocol} port {port} every {:.1} s, {mean} bytes each time",
                interval_ms as f64 / 1e3
            ),
            Kind::DnsTunnel => format!(
                "{src} sent {in_vain} large queries to DNS server {dst} within a minute, {mean} bytes each: data may be hidden in the names"
            ),
            Kind::NewService => {
                format!("{dst} {protocol} port {port} answered {src}: nobody had been answered there before")
            }
        }
    }
}

/// An alert as users read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertRecord {
    /// The same for one subject and kind.
    pub id: String,
    /// What it looks like.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// `low`, `medium` or `high`.
    pub severity: String,
    /// In one sentence.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// By which protocol; `null`: several.
    pub protocol: Option<Protocol>,
    /// Who does it; `null`: many.
    pub src: Option<IpAddr>,
    /// To whom; `null`: many.
    pub dst: Option<IpAddr>,
    /// At which port; `null`: many.
    pub port: Option<u16>,
    /// Pod, workload, service and node of `src`; `null` if they are not known.
    #[serde(default)]
    pub src_end: Option<Endpoint>,
    /// The same of `dst`.
    #[serde(default)]
    pub dst_end: Option<Endpoint>,
    /// When it began, UTC.
    pub first_seen: Timestamp,
    /// When it was seen last, UTC.
    pub last_seen: Timestamp,
    /// Attempts in vain within the last window, or what else makes the sign: large queries, conversations of one size.
    pub attempts: u32,
    /// Attempts that were answered.
    pub answered: u32,
    /// Different ports, hosts or networks, about.
    pub distinct: u32,
    /// Bytes that the source sent in these attempts.
    pub bytes: u64,
    /// Mean time between conversations that are regular, milliseconds.
    pub interval_ms: Option<u64>,
    /// Some of the flows, by `flow_id`.
    pub flow_ids: Vec<String>,
}

impl AlertRecord {
    /// Of an alert.
    pub fn of(alert: &Alert, clock: &WallClock, names: Option<&dyn Names>) -> Self {
        let found = &alert.found;
        let ends = alert.ends(names);
        let message = alert.message(&ends);
        let [src_end, dst_end] = ends;
        Self {
            id: alert.id(),
            kind: alert.kind,
            severity: alert.kind.severity().name().into(),
            message,
            hint: alert.kind.hint().into(),
            protocol: alert.subject.protocol,
            src: alert.subject.src,
            dst: alert.subject.dst,
            port: alert.subject.port,
            src_end,
            dst_end,
            first_seen: clock.utc(alert.first_ns),
            last_seen: clock.utc(found.last_ns),
            attempts: found.in_vain,
            answered: found.answered,
            distinct: found.distinct,
            bytes: found.bytes,
            interval_ms: (found.interval_ms > 0).then_some(found.interval_ms),
            flow_ids: found.flow_ids().collect(),
        }
    }
}

/// All that was raised.
#[derive(Debug, Default)]
pub struct Alerts {
    raised: HashMap<(Kind, Subject), Alert>,
    events: BTreeMap<Kind, u64>,
    untracked: u64,
    names: Option<Arc<dyn Names>>,
}

impl Alerts {
    /// None yet. `names`: who has an address, for the log.
    pub fn new(names: Option<Arc<dyn Names>>) -> Self {
        Self { names, ..Self::default() }
    }

    /// Raises it, or adds to the one that was raised for the same subject.
    pub fn raise(&mut self, kind: Kind, subject: Subject, found: &Found) {
        let known = self.raised.get_mut(&(kind, subject));
        if let Some(alert) =
            known.filter(|alert| found.last_ns.saturating_sub(alert.found.last_ns) < alert.silence_ns())
        {
            // A slow window may know more than a fast one.
            if found.distinct >= alert.found.distinct || found.first_ns > alert.found.first_ns {
                alert.found = *found;
            }
            return;
        }
        let alert = Alert { kind, subject, found: *found, first_ns: found.first_ns };
        if self.raised.len() >= KEPT && !self.raised.contains_key(&(kind, subject)) {
            let worth = self.raised.iter().map(|(key, one)| (one.worth(found.last_ns), *key));
            match worth.min_by_key(|(worth, _)| *worth) {
                Some((least, key)) if least < (true, kind.severity(), 0) => {
                    self.raised.remove(&key);
                }
                _ => {
                    self.untracked += 1;
                    return;
                }
            }
        }
        *self.events.entry(kind).or_default() += 1;
        log(&alert, self.names.as_deref());
        self.raised.insert((kind, subject), alert);
    }

    /// Newest first.
    pub fn newest_first(&self) -> Vec<Alert> {
        let mut alerts: Vec<Alert> = self.raised.values().copied().collect();
        alerts.sort_by_key(|alert| std::cmp::Reverse(alert.found.last_ns));
        alerts
    }

    /// Times that one was not raised for want of room.
    pub fn untracked(&self) -> u64 {
        self.untracked
    }

    /// Events since start.
    pub fn events(&self, kind: Kind) -> u64 {
        self.events.get(&kind).copied().unwrap_or(0)
    }
}

/// One line, with what it says in fields of their own; what is unknown is left out.
fn log(alert: &Alert, names: Option<&dyn Names>) {
    let Alert { kind, subject, found, .. } = alert;
    let ends = alert.ends(names);
    let name = |end: &Option<Endpoint>| end.as_ref().and_then(Endpoint::cluster_name);
    tracing::warn!(
        message_id = crate::telemetry::message::SECURITY_ALERT,
        kind = kind.name(),
        severity = kind.severity().name(),
        id = alert.id(),
        protocol = subject.protocol.map(display),
        src = subject.src.map(display),
        dst = subject.dst.map(display),
        port = subject.port,
        src_name = name(&ends[0]),
        dst_name = name(&ends[1]),
        attempts = found.in_vain,
        distinct = found.distinct,
        flow_ids = found.flow_ids().collect::<Vec<_>>().join(","),
        "{}",
        alert.message(&ends)
    );
}
