//! Signs of attack, seen in what flows do: [`Detector`] watches flow updates and raises [`Alert`](alert::Alert)s.
//!
//! Looks at how conversations end, how large and how regular they are, and never into them. Memory is bounded whatever an attacker
//! sends: a fixed number of [`places`] in each room below, a fixed number of alerts. What found no place is counted. Pure: time is
//! that of the flows.

pub mod alert;
mod beacons;
mod floods;
pub mod kind;
mod logins;
mod places;
mod scans;
pub mod services;
mod signs;
mod spread;
#[cfg(test)]
mod tests;
mod tunnels;

use std::net::IpAddr;
use std::sync::Arc;

use alert::Alerts;
use beacons::Beacons;
use floods::Floods;
use logins::Logins;
use scans::Scans;
use services::Services;
use tunnels::Tunnels;

use crate::enrich::kubernetes::cluster::Known;
use crate::flow::cidr::Cidr;
use crate::flow::key::Protocol;
use crate::flow::update::{Change, FlowUpdate};
use crate::flow::who::Names;

/// What to look for.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Scans of ports and hosts.
    pub port_scans: bool,
    /// Everything else.
    pub patterns: bool,
    /// Who may.
    pub allow: Vec<Cidr>,
    /// Kubernetes workloads that may: namespace and name.
    pub allow_workloads: Vec<(String, String)>,
    /// Who has an address, for logs.
    pub names: Option<Arc<dyn Names>>,
    /// Until then services that answer are learned and not told, nanoseconds of `CLOCK_MONOTONIC`.
    pub learn_until_ns: u64,
    /// First and last port of the range out of which this host picks ports for its own connections.
    pub ephemeral: (u16, u16),
}

impl Settings {
    /// Whether this end of a conversation is one that may do what it does.
    fn allows(&self, end: IpAddr, known: Option<&Known>) -> bool {
        self.allow.iter().any(|network| network.contains(end))
            || !self.allow_workloads.is_empty()
                && known.and_then(|known| known.pod.as_ref()).is_some_and(|pod| {
                    let workload = pod.workload();
                    let is = |(namespace, name): &(String, String)| {
                        *namespace == *workload.namespace && *name == *workload.name
                    };
                    self.allow_workloads.iter().any(is)
                })
    }
}

/// Reads `namespace/workload`; `None` if it is none, as a network that is written wrongly.
pub fn workload(text: &str) -> Option<(String, String)> {
    let (namespace, name) = text.split_once('/')?;
    let is_word = |text: &str, others: &str| {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || others.contains(c);
        !text.is_empty() && text.chars().all(fits)
    };
    (is_word(namespace, "-") && is_word(name, "-.")).then(|| (namespace.into(), name.into()))
}

/// Watches flow updates.
#[derive(Debug)]
pub struct Detector {
    settings: Settings,
    scans: Scans,
    floods: Floods,
    logins: Logins,
    beacons: Beacons,
    tunnels: Tunnels,
    services: Services,
    /// All that was raised.
    pub alerts: Alerts,
}

impl Detector {
    /// Nothing seen yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            scans: Scans::default(),
            floods: Floods::default(),
            logins: Logins::default(),
            beacons: Beacons::default(),
            tunnels: Tunnels::default(),
            services: Services::new(settings.learn_until_ns, settings.ephemeral),
            alerts: Alerts::new(settings.names.clone()),
            settings,
        }
    }

    /// Looks for something else from now on; what was seen is kept.
    pub fn configure(&mut self, settings: Settings) {
        self.services.learn_until(settings.learn_until_ns);
        self.settings = settings;
    }

    /// Looks at updates, with who is at their ends where that is known.
    pub fn observe(&mut self, updates: &[FlowUpdate], known: &[[Known; 2]]) {
        let mut known = known.iter();
        for update in updates {
            self.look(update, known.next());
        }
    }

    /// Observations that found no place.
    pub fn untracked(&self) -> u64 {
        self.scans.untracked()
            + self.floods.untracked()
            + self.logins.untracked()
            + self.beacons.untracked()
            + self.tunnels.untracked()
            + self.alerts.untracked()
    }

    fn look(&mut self, update: &FlowUpdate, known: Option<&[Known; 2]>) {
        let Self { settings, alerts, .. } = self;
        let flow = &update.flow;
        let ended = update.change == Change::Ended;
        let protocol = flow.key.protocol;
        let off = !settings.port_scans && !settings.patterns;
        let allowed = off || settings.allows(flow.key.src.ip(), known.map(|ends| &ends[0]));
        // Learned in any case: what answered while nobody looked is not new afterwards.
        self.services.look(update, allowed || !settings.patterns, alerts);
        if allowed {
            return;
        }
        let has_ports = matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP);
        if settings.port_scans && ended && has_ports {
            self.scans.look(flow, alerts);
        }
        if !settings.patterns {
            return;
        }
        self.floods.look(update, alerts);
        if ended && protocol == Protocol::TCP {
            self.scans.look_for_stealth(flow, alerts);
            self.logins.look(flow, alerts);
        }
        // The suspect is the source, but where it leads tells who runs it.
        if !settings.allows(flow.key.dst.ip(), known.map(|ends| &ends[1])) {
            self.tunnels.look(update, alerts);
            if ended && has_ports {
                self.beacons.look(flow, alerts);
            }
        }
    }
}
