//! Scans of ports, sweeps over hosts, and probes with odd flags, by TCP, UDP and SCTP.
//!
//! A UDP attempt that nobody answers is over when `flow.flow_timeout` is; one that an ICMP error answers, with `flow.connect_timeout`.

use std::net::IpAddr;
use std::time::Duration;

use super::alert::{Alerts, Subject};
use super::kind::Kind;
use super::signs::{FIN, RST, XMAS, in_vain};
use super::spread::Spread;
use crate::flow::key::Protocol;
use crate::flow::update::Flow;

/// A scan at full speed: so many distinct ports or hosts within this time ...
const FAST: Duration = Duration::from_secs(60);
const FAST_DISTINCT: u32 = 20;
/// ... and one that takes its time.
const SLOW: Duration = Duration::from_secs(1800);
const SLOW_DISTINCT: u32 = 40;
/// Probes with flags that no real connection begins with.
const STEALTH_PROBES: u32 = 3;

/// Who tries what in vain.
#[derive(Debug)]
pub struct Scans {
    /// Ports that a source tried at a host: fast and slow.
    ports: [Spread<(IpAddr, IpAddr, Protocol)>; 2],
    /// Hosts that a source tried at a port: fast and slow.
    hosts: [Spread<(IpAddr, Protocol, u16)>; 2],
    stealth: Spread<IpAddr>,
}

impl Default for Scans {
    fn default() -> Self {
        Self {
            ports: [Spread::new(FAST), Spread::new(SLOW)],
            hosts: [Spread::new(FAST), Spread::new(SLOW)],
            stealth: Spread::new(FAST),
        }
    }
}

impl Scans {
    /// Looks at a flow that has ended.
    pub fn look(&mut self, flow: &Flow, alerts: &mut Alerts) {
        let (src, dst, protocol) = (flow.key.src.ip(), flow.key.dst.ip(), flow.key.protocol);
        let port = flow.key.dst.port();
        let in_vain = in_vain(flow);
        for (number, limit) in [FAST_DISTINCT, SLOW_DISTINCT].into_iter().enumerate() {
            let ports = self.ports[number].observe((src, dst, protocol), &port, in_vain, flow);
            if let Some(found) =
                ports.filter(|found| found.distinct >= limit && found.in_vain >= found.answered)
            {
                let subject =
                    Subject { protocol: Some(protocol), src: Some(src), dst: Some(dst), port: None };
                alerts.raise(Kind::PortScan, subject, &found);
            }
            let hosts = self.hosts[number].observe((src, protocol, port), &dst, in_vain, flow);
            if let Some(found) =
                hosts.filter(|found| found.distinct >= limit && found.in_vain >= found.answered)
            {
                let subject =
                    Subject { protocol: Some(protocol), src: Some(src), dst: None, port: Some(port) };
                alerts.raise(Kind::HostSweep, subject, &found);
            }
        }
    }

    /// Looks at the flags of a TCP flow that has ended.
    pub fn look_for_stealth(&mut self, flow: &Flow, alerts: &mut Alerts) {
        let flags = flow.tcp_flags[0] & !RST;
        if matches!(flags, 0 | FIN | XMAS) && flow.total.packets_sent <= 3 {
            let (src, dst) = (flow.key.src.ip(), flow.key.dst.ip());
            let found = self.stealth.observe(src, &flow.key.dst.port(), true, flow);
            if let Some(found) = found.filter(|found| found.in_vain >= STEALTH_PROBES) {
                let subject =
                    Subject { protocol: Some(flow.key.protocol), src: Some(src), dst: Some(dst), port: None };
                alerts.raise(Kind::StealthProbe, subject, &found);
            }
        }
    }

    /// Observations that found no place.
    pub fn untracked(&self) -> u64 {
        self.ports.iter().map(Spread::untracked).sum::<u64>()
            + self.hosts.iter().map(Spread::untracked).sum::<u64>()
            + self.stealth.untracked()
    }
}
