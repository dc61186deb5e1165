//! Signs of attack, seen in what flows do: [`Detector`] watches flow updates and raises [`Alert`]s.
//!
//! Looks at how conversations end and never into them. Memory is bounded whatever an attacker sends: a fixed number of places in
//! [`spread`], a fixed number of alerts. What found no place is counted. Pure: time is that of the flows.

pub mod alert;
pub mod spread;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

use alert::{Alerts, Kind, Subject};
use spread::Spread;

use crate::flow::cidr::Cidr;
use crate::flow::key::Protocol;
use crate::flow::record::{Reason, Status};
use crate::flow::update::{Change, Flow, FlowUpdate};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// FIN, PSH and URG.
const XMAS: u8 = 0x29;

/// A scan at full speed: so many distinct ports or hosts within this time ...
const FAST: Duration = Duration::from_secs(60);
const FAST_DISTINCT: u32 = 20;
/// ... and one that takes its time.
const SLOW: Duration = Duration::from_secs(1800);
const SLOW_DISTINCT: u32 = 40;
/// Probes with flags that no real connection begins with.
const STEALTH_PROBES: u32 = 3;
/// A flood: so many handshakes with one port that were begun and not finished, and timed out within this time.
const FLOOD: Duration = Duration::from_secs(10);
const FLOOD_OPEN: u32 = 1000;
/// Logins: so many short conversations with a login service within a minute.
const LOGINS: u32 = 30;
const LOGIN_BYTES: u64 = 20_000;
const LOGIN_TIME: Duration = Duration::from_secs(10);
/// FTP, SSH, Telnet, SMB, MS SQL, MySQL, RDP, PostgreSQL, VNC.
const LOGIN_PORTS: [u16; 9] = [21, 22, 23, 445, 1433, 3306, 3389, 5432, 5900];

/// What to look for.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Scans of ports and hosts.
    pub port_scans: bool,
    /// Floods, stealth probes, bursts of logins.
    pub patterns: bool,
    /// Sources that may.
    pub allow: Vec<Cidr>,
}

/// Watches flow updates.
#[derive(Debug)]
pub struct Detector {
    settings: Settings,
    /// Ports that a source tried in vain at a host: fast and slow.
    ports: [Spread<(IpAddr, IpAddr)>; 2],
    /// Hosts that a source tried in vain at a port: fast and slow.
    hosts: [Spread<(IpAddr, u8, u16)>; 2],
    stealth: Spread<IpAddr>,
    half_open: Spread<(IpAddr, u16)>,
    logins: Spread<(IpAddr, IpAddr, u16)>,
    /// All that was raised.
    pub alerts: Alerts,
}

impl Detector {
    /// Nothing seen yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            ports: [Spread::new(FAST), Spread::new(SLOW)],
            hosts: [Spread::new(FAST), Spread::new(SLOW)],
            stealth: Spread::new(FAST),
            half_open: Spread::new(FLOOD),
            logins: Spread::new(FAST),
            alerts: Alerts::default(),
        }
    }

    /// Looks at updates.
    pub fn observe(&mut self, updates: &[FlowUpdate]) {
        if !self.settings.port_scans && !self.settings.patterns {
            return;
        }
        for update in updates {
            let source = update.flow.key.src.ip();
            if !self.settings.allow.iter().any(|network| network.contains(source)) {
                self.look(&update.flow, update.change);
            }
        }
    }

    /// Observations that found no place.
    pub fn untracked(&self) -> u64 {
        self.ports.iter().map(Spread::untracked).sum::<u64>()
            + self.hosts.iter().map(Spread::untracked).sum::<u64>()
            + self.stealth.untracked()
            + self.half_open.untracked()
            + self.logins.untracked()
    }

    fn look(&mut self, flow: &Flow, change: Change) {
        let has_ports = matches!(flow.key.protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP);
        if change != Change::Ended || !has_ports {
            return;
        }
        if self.settings.port_scans {
            self.look_for_scan(flow);
        }
        if self.settings.patterns && flow.key.protocol == Protocol::TCP {
            self.look_for_flood(flow);
            self.look_for_stealth(flow);
            self.look_for_logins(flow);
        }
    }

    fn look_for_scan(&mut self, flow: &Flow) {
        let (src, dst) = (flow.key.src.ip(), flow.key.dst.ip());
        let port = flow.key.dst.port();
        let in_vain = in_vain(flow);
        for (number, limit) in [FAST_DISTINCT, SLOW_DISTINCT].into_iter().enumerate() {
            let ports = self.ports[number].observe((src, dst), u64::from(port), in_vain, flow);
            if let Some(found) =
                ports.filter(|found| found.distinct >= limit && found.in_vain >= found.answered)
            {
                self.alerts.raise(
                    Kind::PortScan,
                    Subject { src: Some(src), dst: Some(dst), port: None },
                    &found,
                );
            }
            let key = (src, flow.key.protocol.0, port);
            let hosts = self.hosts[number].observe(key, spread::hash(&dst), in_vain, flow);
            if let Some(found) =
                hosts.filter(|found| found.distinct >= limit && found.in_vain >= found.answered)
            {
                self.alerts.raise(
                    Kind::HostSweep,
                    Subject { src: Some(src), dst: None, port: Some(port) },
                    &found,
                );
            }
        }
    }

    fn look_for_stealth(&mut self, flow: &Flow) {
        let flags = flow.tcp_flags[0] & !RST;
        if matches!(flags, 0 | FIN | XMAS) && flow.total.packets_sent <= 3 {
            let src = flow.key.src.ip();
            let found = self.stealth.observe(src, u64::from(flow.key.dst.port()), true, flow);
            if let Some(found) = found.filter(|found| found.in_vain >= STEALTH_PROBES) {
                let subject = Subject { src: Some(src), dst: Some(flow.key.dst.ip()), port: None };
                self.alerts.raise(Kind::StealthProbe, subject, &found);
            }
        }
    }

    fn look_for_flood(&mut self, flow: &Flow) {
        let in_vain = flow.reason == Some(Reason::Timeout);
        let subject = (flow.key.dst.ip(), flow.key.dst.port());
        let found = self.half_open.observe(subject, spread::hash(&flow.key.src), in_vain, flow);
        if let Some(found) = found.filter(|f| f.in_vain >= FLOOD_OPEN && f.answered < f.in_vain / 10) {
            let subject = Subject { src: None, dst: Some(subject.0), port: Some(subject.1) };
            self.alerts.raise(Kind::SynFlood, subject, &found);
        }
    }

    fn look_for_logins(&mut self, flow: &Flow) {
        let (src, dst) = (flow.key.src.ip(), flow.key.dst);
        let short = flow.end_ns.saturating_sub(flow.start_ns) < LOGIN_TIME.as_nanos() as u64
            && flow.total.bytes() < LOGIN_BYTES;
        let stood = flow.tcp_flags[0] & flow.tcp_flags[1] & ACK != 0;
        if !LOGIN_PORTS.contains(&dst.port()) || !short || !stood {
            return;
        }
        let found =
            self.logins.observe((src, dst.ip(), dst.port()), u64::from(flow.key.src.port()), true, flow);
        if let Some(found) = found.filter(|found| found.in_vain >= LOGINS) {
            let subject = Subject { src: Some(src), dst: Some(dst.ip()), port: Some(dst.port()) };
            self.alerts.raise(Kind::LoginBurst, subject, &found);
        }
    }
}

/// Whether a conversation was tried and led to nothing: it failed before it stood, nobody answered, or a SYN+ACK was answered by
/// RST, as a scanner does that has seen enough.
fn in_vain(flow: &Flow) -> bool {
    let failed = flow.status == Status::Failed && flow.reason != Some(Reason::Reset);
    let hung_up = flow.key.protocol == Protocol::TCP
        && flow.tcp_flags[0] & (SYN | RST | ACK) == SYN | RST
        && flow.tcp_flags[1] & SYN != 0;
    failed || hung_up || flow.total.packets_received == 0
}
