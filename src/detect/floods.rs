//! Floods: handshakes that are begun and not finished, and packets whose sources are likely forged.

use std::net::IpAddr;
use std::time::Duration;

use super::alert::{Alerts, Found, Subject};
use super::kind::Kind;
use super::signs::in_vain;
use super::spread::Spread;
use crate::flow::key::Protocol;
use crate::flow::record::Reason;
use crate::flow::update::{Change, FlowUpdate};

/// Within this time ...
const WINDOW: Duration = Duration::from_secs(10);
/// ... so many handshakes with one port that were begun and not finished, and timed out; or so many flows to one host that came to
/// nothing ...
const FLOOD: u32 = 1000;
/// ... from so many networks: of IPv4's 220 or so /8 that have hosts a forger hits most, and a company's own clients, whoever
/// they are, sit in a few. IPv6 by its /32.
const NETWORKS: u32 = 64;
/// Who goes on to talk has sent more packets.
const FEW: u64 = 3;

/// Who begins and does not go on.
#[derive(Debug)]
pub struct Floods {
    half_open: Spread<(IpAddr, u16)>,
    forged: Spread<(IpAddr, Protocol)>,
}

impl Default for Floods {
    fn default() -> Self {
        Self { half_open: Spread::new(WINDOW), forged: Spread::new(WINDOW) }
    }
}

impl Floods {
    /// Looks at an update.
    pub fn look(&mut self, update: &FlowUpdate, alerts: &mut Alerts) {
        let flow = &update.flow;
        let (protocol, dst) = (flow.key.protocol, flow.key.dst);
        if protocol == Protocol::TCP && update.change == Change::Ended {
            let in_vain = flow.reason == Some(Reason::Timeout);
            let found = self.half_open.observe((dst.ip(), dst.port()), &flow.key.src, in_vain, flow);
            if let Some(found) = found.filter(|f| f.in_vain >= FLOOD && f.answered < f.in_vain / 10) {
                let subject = Subject {
                    protocol: Some(protocol),
                    src: None,
                    dst: Some(dst.ip()),
                    port: Some(dst.port()),
                };
                alerts.raise(Kind::SynFlood, subject, &found);
            }
        }
        if let Some(in_vain) = came_to_nothing(update) {
            let found = self.forged.observe((dst.ip(), protocol), &network(flow.key.src.ip()), in_vain, flow);
            let forged = |found: &Found| {
                found.in_vain >= FLOOD && found.distinct >= NETWORKS && found.answered < found.in_vain / 4
            };
            if let Some(found) = found.filter(forged) {
                let subject =
                    Subject { protocol: Some(protocol), src: None, dst: Some(dst.ip()), port: None };
                alerts.raise(Kind::SpoofedBurst, subject, &found);
            }
        }
    }

    /// Observations that found no place.
    pub fn untracked(&self) -> u64 {
        self.half_open.untracked() + self.forged.untracked()
    }
}

/// Whether a flow shows that nobody goes on to talk; `None` if the update does not tell. TCP tells at its end; of the others an
/// unanswered one would end minutes later, so the first look tells, some ten milliseconds after the first packet: by then a
/// server has mostly answered. What it answers to an echo request nobody may have got.
fn came_to_nothing(update: &FlowUpdate) -> Option<bool> {
    let flow = &update.flow;
    let (first, few) = (update.change == Change::Opened, flow.total.packets_sent <= FEW);
    match flow.key.protocol {
        Protocol::TCP => (update.change == Change::Ended).then(|| in_vain(flow)),
        Protocol::UDP if flow.total.packets_received > 0 => Some(false),
        Protocol::UDP => (first && few).then_some(true),
        Protocol::ICMP | Protocol::ICMPV6 if matches!(flow.icmp, Some((8 | 128, _))) => {
            if few {
                first.then_some(true)
            } else {
                Some(false)
            }
        }
        _ => None,
    }
}

/// The network of an address: /8 of IPv4, /32 of IPv6.
fn network(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => u64::from(v4.octets()[0]),
        IpAddr::V6(v6) => (v6.to_bits() >> 96) as u64 | 1 << 32,
    }
}
