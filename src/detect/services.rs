//! Ports of this host that begin to answer.
//!
//! Known by protocol and port, whatever the address: containers get a new one with each start. A port is learned for good when it
//! is first seen to answer, and told if that is after the learning time, so each is told once and a restart of the agent tells
//! nothing that is in use. Ports out of which this host picks those of its own connections are not judged: passive FTP, RPC
//! and the like listen there for a moment.

use super::alert::{Alerts, Found, Subject};
use super::kind::Kind;
use super::signs::SYN;
use crate::flow::key::Protocol;
use crate::flow::record::Direction;
use crate::flow::update::FlowUpdate;

/// What `/proc/sys/net/ipv4/ip_local_port_range` holds by default.
pub const EPHEMERAL: (u16, u16) = (32_768, 60_999);

/// Reads `/proc/sys/net/ipv4/ip_local_port_range`.
pub fn ephemeral(text: &str) -> Option<(u16, u16)> {
    let mut words = text.split_ascii_whitespace().map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

/// A bit for each port.
type Ports = [u64; 1024];

/// Ports that have answered.
#[derive(Debug)]
pub struct Services {
    learn_until_ns: u64,
    ephemeral: (u16, u16),
    /// TCP, UDP.
    known: Box<[Ports; 2]>,
}

impl Services {
    /// Learns until then, nanoseconds of `CLOCK_MONOTONIC`, and passes over a range of ports.
    pub fn new(learn_until_ns: u64, ephemeral: (u16, u16)) -> Self {
        Self { learn_until_ns, ephemeral, known: Box::new([[0; 1024]; 2]) }
    }

    /// Learns until then.
    pub fn learn_until(&mut self, ns: u64) {
        self.learn_until_ns = ns;
    }

    /// Looks at an update; of those who are `allowed` it only learns.
    pub fn look(&mut self, update: &FlowUpdate, allowed: bool, alerts: &mut Alerts) {
        let flow = &update.flow;
        if !matches!(flow.direction, Direction::Ingress | Direction::Internal) || !flow.opener_seen {
            return;
        }
        let (number, answered) = match flow.key.protocol {
            Protocol::TCP => (0, flow.tcp_flags[1] & SYN != 0),
            Protocol::UDP => (1, flow.total.packets_received > 0),
            _ => return,
        };
        let port = flow.key.dst.port();
        let word = &mut self.known[number][usize::from(port / 64)];
        let bit = 1 << (port % 64);
        if !answered || *word & bit != 0 || (self.ephemeral.0..=self.ephemeral.1).contains(&port) {
            return;
        }
        *word |= bit;
        if allowed || flow.end_ns < self.learn_until_ns {
            return;
        }
        let mut found = Found::since(flow);
        found.answered = 1;
        found.keep(flow);
        let subject = Subject {
            protocol: Some(flow.key.protocol),
            src: Some(flow.key.src.ip()),
            dst: Some(flow.key.dst.ip()),
            port: Some(port),
        };
        alerts.raise(Kind::NewService, subject, &found);
    }
}
