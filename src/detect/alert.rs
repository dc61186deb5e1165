//! Alerts: one for each subject and kind, however long it goes on.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::spread::{self, Found};
use crate::clock::WallClock;

/// Alerts kept; the oldest goes first.
const KEPT: usize = 1000;
/// After so long a silence the same thing is a new event.
const SILENCE_NS: u64 = 600_000_000_000;

/// What it looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One source tries many ports of one host.
    PortScan,
    /// One source tries one port of many hosts.
    HostSweep,
    /// Many connections to one port are begun and not finished.
    SynFlood,
    /// TCP packets whose flags no connection begins with: none, FIN alone, FIN+PSH+URG.
    StealthProbe,
    /// Many short conversations with a login service.
    LoginBurst,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::PortScan, Self::HostSweep, Self::SynFlood, Self::StealthProbe, Self::LoginBurst];

    /// The name used in labels and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::PortScan => "port_scan",
            Self::HostSweep => "host_sweep",
            Self::SynFlood => "syn_flood",
            Self::StealthProbe => "stealth_probe",
            Self::LoginBurst => "login_burst",
        }
    }

    /// `low`, `medium` or `high`.
    pub fn severity(self) -> &'static str {
        match self {
            Self::SynFlood => "high",
            Self::PortScan | Self::HostSweep | Self::StealthProbe => "medium",
            Self::LoginBurst => "low",
        }
    }
}

/// Whom it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Who does it; `None`: many.
    pub src: Option<IpAddr>,
    /// To whom; `None`: many.
    pub dst: Option<IpAddr>,
    /// At which port; `None`: many.
    pub port: Option<u16>,
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
    /// In one sentence.
    pub fn message(&self) -> String {
        let name = |end: Option<IpAddr>| end.map_or_else(|| "many".to_owned(), |ip| ip.to_string());
        let (src, dst) = (name(self.subject.src), name(self.subject.dst));
        let port = self.subject.port.unwrap_or_default();
        let Found { distinct, in_vain, answered, .. } = self.found;
        match self.kind {
            Kind::PortScan => {
                format!(
                    "{src} tried about {distinct} ports of {dst}: {in_vain} attempts in vain, {answered} answered"
                )
            }
            Kind::HostSweep => {
                format!(
                    "{src} tried port {port} of about {distinct} hosts: {in_vain} attempts in vain, {answered} answered"
                )
            }
            Kind::SynFlood => {
                format!(
                    "{in_vain} connections to {dst} port {port} were begun within ten seconds and {answered} of them finished"
                )
            }
            Kind::StealthProbe => {
                format!("{src} sent {in_vain} probes to {dst} with flags that no connection begins with")
            }
            Kind::LoginBurst => {
                format!("{src} had {in_vain} short conversations with {dst} port {port} within a minute")
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
    /// Who does it; `null`: many.
    pub src: Option<IpAddr>,
    /// To whom; `null`: many.
    pub dst: Option<IpAddr>,
    /// At which port; `null`: many.
    pub port: Option<u16>,
    /// When it began, UTC.
    pub first_seen: Timestamp,
    /// When it was seen last, UTC.
    pub last_seen: Timestamp,
    /// Attempts in vain within the last window.
    pub attempts: u32,
    /// Attempts that were answered.
    pub answered: u32,
    /// Different ports, hosts or clients, about.
    pub distinct: u32,
    /// Some of the flows, by `flow_id`.
    pub flow_ids: Vec<String>,
}

impl AlertRecord {
    /// Of an alert.
    pub fn of(alert: &Alert, clock: &WallClock) -> Self {
        Self {
            id: format!("{:016x}", spread::hash(&(alert.kind, alert.subject))),
            kind: alert.kind,
            severity: alert.kind.severity().into(),
            message: alert.message(),
            src: alert.subject.src,
            dst: alert.subject.dst,
            port: alert.subject.port,
            first_seen: clock.utc(alert.first_ns),
            last_seen: clock.utc(alert.found.last_ns),
            attempts: alert.found.in_vain,
            answered: alert.found.answered,
            distinct: alert.found.distinct,
            flow_ids: alert
                .found
                .examples
                .iter()
                .filter(|id| **id != 0)
                .map(|id| format!("{id:016x}"))
                .collect(),
        }
    }
}

/// All that was raised.
#[derive(Debug, Default)]
pub struct Alerts {
    raised: HashMap<(Kind, Subject), Alert>,
    events: BTreeMap<Kind, u64>,
}

impl Alerts {
    /// Raises it, or adds to the one that was raised for the same subject.
    pub fn raise(&mut self, kind: Kind, subject: Subject, found: &Found) {
        let known = self.raised.get_mut(&(kind, subject));
        if let Some(alert) =
            known.filter(|alert| found.last_ns.saturating_sub(alert.found.last_ns) < SILENCE_NS)
        {
            // A slow window may know more than a fast one.
            if found.distinct >= alert.found.distinct || found.first_ns > alert.found.first_ns {
                alert.found = *found;
            }
            return;
        }
        if self.raised.len() >= KEPT
            && let Some(oldest) =
                self.raised.iter().min_by_key(|(_, alert)| alert.found.last_ns).map(|(key, _)| *key)
        {
            self.raised.remove(&oldest);
        }
        let alert = Alert { kind, subject, found: *found, first_ns: found.first_ns };
        *self.events.entry(kind).or_default() += 1;
        tracing::warn!(kind = kind.name(), severity = kind.severity(), "{}", alert.message());
        self.raised.insert((kind, subject), alert);
    }

    /// Newest first.
    pub fn newest_first(&self) -> Vec<Alert> {
        let mut alerts: Vec<Alert> = self.raised.values().copied().collect();
        alerts.sort_by_key(|alert| std::cmp::Reverse(alert.found.last_ns));
        alerts
    }

    /// Events since start.
    pub fn events(&self, kind: Kind) -> u64 {
        self.events.get(&kind).copied().unwrap_or(0)
    }
}
