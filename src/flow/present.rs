//! From the compact [`Flow`] to the [`FlowRecord`] that users read.

use std::collections::HashMap;
use std::sync::Arc;

use super::key::Protocol;
use super::record::{Endpoint, FlowRecord, IcmpDetail, TcpDetail};
use super::update::Flow;
use super::verdict::flag_letters;
use crate::clock::WallClock;

/// What turns numbers into words.
#[derive(Clone, Debug)]
pub struct Presenter {
    /// UTC of kernel stamps.
    pub clock: WallClock,
    /// Interface names by index; those that are gone stay known for a while.
    pub interfaces: Arc<HashMap<u32, String>>,
    /// Share of flows kept.
    pub sampling_rate: f64,
}

impl Presenter {
    /// The record of a flow.
    pub fn record(&self, flow: &Flow) -> FlowRecord {
        let protocol = flow.key.protocol;
        let has_ports = matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP);
        let end = |address: std::net::SocketAddr, has_port: bool| {
            Endpoint::bare(address.ip(), has_port.then_some(address.port()))
        };
        FlowRecord {
            flow_id: format!("{:016x}", flow.id),
            protocol,
            family: if flow.key.is_ipv4() { "ipv4" } else { "ipv6" }.into(),
            direction: flow.direction,
            start_time: self.clock.utc(flow.start_ns),
            end_time: self.clock.utc(flow.end_ns),
            duration_us: flow.end_ns.saturating_sub(flow.start_ns) / 1000,
            src: end(flow.key.src, has_ports && flow.folded.is_none()),
            dst: end(flow.key.dst, has_ports),
            bytes_sent: flow.total.bytes_sent,
            bytes_received: flow.total.bytes_received,
            packets_sent: flow.total.packets_sent,
            packets_received: flow.total.packets_received,
            state: flow.state,
            status: flow.status,
            reason: flow.reason,
            opener_seen: flow.opener_seen,
            tcp: (protocol == Protocol::TCP).then(|| TcpDetail {
                flags: flag_letters(flow.tcp_flags[0] | flow.tcp_flags[1]),
                retransmits: None,
                out_of_order: None,
                zero_window: None,
                handshake_us: flow.handshake_us.map(u64::from),
                rtt_us: None,
            }),
            icmp: flow.icmp.map(|(kind, code)| IcmpDetail {
                kind,
                code,
                id: (flow.key.src.port() != 0).then(|| flow.key.src.port()),
            }),
            icmp_errors: flow.icmp_errors.iter().collect(),
            app_protocol: None,
            interfaces: flow
                .seen_on
                .iter()
                .filter(|index| **index != 0)
                .map(|index| self.interfaces.get(index).cloned().unwrap_or_else(|| format!("if{index}")))
                .collect(),
            sampling_rate: self.sampling_rate,
            folded: flow.folded,
        }
    }
}
