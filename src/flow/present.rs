//! From the compact [`Flow`] to the [`FlowRecord`] that users read.

use std::collections::HashMap;
use std::sync::Arc;

use super::app::App;
use super::key::Protocol;
use super::measured::{Measured, Side};
use super::record::{
    DnsDetail, End, Endpoint, FlowDrops, FlowRecord, IcmpDetail, Nat, NatEnd, TcpDetail, TcpSide, TlsDetail,
};
use super::update::Flow;
use super::verdict::{ending, flag_letters};
use super::who::Names;
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
    /// Packets that the kernel dropped, by flow.
    pub drops: Arc<HashMap<u64, FlowDrops>>,
    /// Who is at the ends; `None` when nothing tells.
    pub names: Option<Arc<dyn Names>>,
    /// Names that were asked for, where they are kept.
    pub asked: Option<Arc<dyn AskedNames>>,
}

/// Names that flows have asked for.
pub trait AskedNames: std::fmt::Debug + Send + Sync {
    /// The last one of the flow with this tag.
    fn dns(&self, tag: u64) -> Option<String>;
    /// Those of the TLS client that opened the flow with this tag.
    fn tls(&self, tag: u64) -> AskedTls;
}

/// What a TLS client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AskedTls {
    /// The server's name, in lower case.
    pub sni: Option<String>,
    /// The application protocol that it offers first.
    pub alpn: Option<String>,
}

impl Presenter {
    /// The record of a flow.
    pub fn record(&self, flow: &Flow) -> FlowRecord {
        let protocol = flow.key.protocol;
        let has_ports = matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP);
        let app = flow.app.filter(|app| *app != App::Unknown);
        let end = |address: std::net::SocketAddr, has_port: bool| {
            Endpoint::bare(address.ip(), has_port.then_some(address.port()))
        };
        let mut src = end(flow.key.src, has_ports && flow.folded.is_none());
        let mut dst = end(flow.key.dst, has_ports);
        if let Some(names) = &self.names {
            names.tell(flow, [&mut src, &mut dst]);
        }
        FlowRecord {
            flow_id: format!("{:016x}", flow.id),
            protocol,
            family: if flow.key.is_ipv4() { "ipv4" } else { "ipv6" }.into(),
            direction: flow.direction,
            start_time: self.clock.utc(flow.start_ns),
            end_time: self.clock.utc(flow.end_ns),
            duration_us: flow.end_ns.saturating_sub(flow.start_ns) / 1000,
            src,
            dst,
            nat: flow.nat.map(|nat| {
                let end = |end: std::net::SocketAddr| NatEnd {
                    ip: end.ip(),
                    port: has_ports.then_some(end.port()),
                };
                Nat { src: nat.src.map(end), dst: nat.dst.map(end) }
            }),
            bytes_sent: flow.total.bytes_sent,
            bytes_received: flow.total.bytes_received,
            packets_sent: flow.total.packets_sent,
            packets_received: flow.total.packets_received,
            state: flow.state,
            status: flow.status,
            reason: flow.reason,
            opener_seen: flow.opener_seen,
            tcp: (protocol == Protocol::TCP).then(|| tcp(flow)),
            icmp: flow.icmp.map(|(kind, code)| icmp(flow, kind, code)),
            icmp_errors: flow.icmp_errors.iter().collect(),
            first_byte_us: flow.measured.and_then(|measured| measured.first_byte_us).map(u64::from),
            drops: self.drops.get(&flow.id).cloned(),
            app_protocol: app.map(|app| app.name().into()),
            app_guess: if app.is_some() { None } else { App::by_port(protocol, flow.key.dst.port()) }
                .map(|app| app.name().into()),
            tls: (flow.app == Some(App::Tls)).then(|| {
                let asked = self.asked.as_ref().map(|asked| asked.tls(flow.tag())).unwrap_or_default();
                TlsDetail {
                    version: flow.tls_version.map(|version| version.name().into()),
                    sni: asked.sni,
                    alpn: asked.alpn,
                }
            }),
            dns: flow.dns.map(|dns| DnsDetail {
                queries: dns.queries,
                responses: dns.responses,
                kind: dns.kind.map(|kind| kind.name().into()),
                rcode: dns.rcode.map(|rcode| rcode.name().into()),
                name: self.asked.as_ref().and_then(|asked| asked.dns(flow.tag())),
            }),
            interfaces: flow
                .seen_on
                .iter()
                .filter(|index| **index != 0)
                .map(|index| self.interfaces.get(index).cloned().unwrap_or_else(|| format!("if{index}")))
                .collect(),
            tunnel: flow.tunnel,
            sampling_rate: self.sampling_rate,
            folded: flow.folded,
        }
    }
}

fn tcp(flow: &Flow) -> TcpDetail {
    let side = |number: usize| flow.measured.map(|measured| tcp_side(&measured.sides[number]));
    let both = |count: fn(&TcpSide) -> u64| Some(count(&side(0)?) + count(&side(1)?));
    let answer_us = flow.measured.and_then(|measured| measured.answer_us);
    TcpDetail {
        flags: flag_letters(flow.tcp_flags[0] | flow.tcp_flags[1]),
        retransmits: both(|side| side.retransmits),
        out_of_order: both(|side| side.out_of_order),
        zero_window: both(|side| side.zero_window),
        handshake_us: flow.handshake_us.map(u64::from),
        handshake_dst_us: answer_us.map(u64::from),
        handshake_src_us: flow
            .handshake_us
            .zip(answer_us)
            .map(|(all, dst)| u64::from(all.saturating_sub(dst))),
        rtt_us: flow.measured.as_ref().and_then(Measured::rtt),
        ending: ending(flow),
        reset_by: flow.reset_by_opener.map(|opener| if opener { End::Src } else { End::Dst }),
        src: side(0),
        dst: side(1),
    }
}

fn tcp_side(side: &Side) -> TcpSide {
    TcpSide {
        retransmits: u64::from(side.retransmits),
        out_of_order: u64::from(side.out_of_order),
        zero_window: u64::from(side.zero_windows),
        repeated_acks: u64::from(side.repeated_acks),
        rtt_us: side.rtt.summary(),
        srtt_us: (side.srtt_us > 0).then_some(u64::from(side.srtt_us)),
    }
}

fn icmp(flow: &Flow, kind: u8, code: u8) -> IcmpDetail {
    let id = Some(flow.key.src.port()).filter(|id| *id != 0);
    IcmpDetail {
        kind,
        code,
        id,
        // Who pings itself sends both ways' packets.
        lost: id
            .filter(|_| flow.key.src != flow.key.dst)
            .map(|_| flow.total.packets_sent.saturating_sub(flow.total.packets_received)),
        rtt_us: flow.measured.and_then(|measured| measured.sides[1].rtt.summary()),
    }
}
