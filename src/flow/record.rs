//! The flow record that users read: one JSON object per conversation. Keys are never dropped;
//! what is unknown is `null`.

use std::borrow::Cow;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::key::Protocol;
use super::tunnel::Tunnel;
use super::update::Folded;

/// Where a conversation runs, seen from this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The opener is local.
    Egress,
    /// The other side is local.
    Ingress,
    /// Both are.
    Internal,
    /// Neither is.
    Forwarded,
}

/// How far a conversation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// One side has spoken and no answer was seen.
    Opening,
    /// Both sides have spoken (TCP: the handshake is through).
    Established,
    /// One side has said its last word (TCP FIN).
    Closing,
    /// Nothing more is to come.
    Closed,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Still going on.
    Active,
    /// Ended as it should.
    Ok,
    /// Failed, for the reason beside it.
    Failed,
}

/// Why a conversation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// RST in answer to a SYN.
    Refused,
    /// RST after the connection stood.
    Reset,
    /// No answer within `flow.connect_timeout`.
    Timeout,
    /// An ICMP error said that the way or the port is not there.
    Unreachable,
    /// An ICMP error said that it is forbidden.
    Prohibited,
}

/// What an ICMP or ICMPv6 error said of a packet of the flow (RFC 792, 1812 section 5.2.7.1, 4443 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IcmpError {
    /// There is no way to the network, the host or the protocol.
    Unreachable,
    /// Nobody listens on the port.
    PortUnreachable,
    /// A filter or policy forbids it.
    Prohibited,
    /// Fragmentation needed, or packet too big.
    TooBig,
    /// The hop limit or the time to put fragments together was exceeded.
    TimeExceeded,
    /// Some header field was not taken.
    ParameterProblem,
}

/// A set of [`IcmpError`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IcmpErrors(u8);

impl IcmpErrors {
    /// Whether it is in the set.
    pub fn contains(self, error: IcmpError) -> bool {
        self.0 & 1 << error as u8 != 0
    }

    /// All in the set.
    pub fn iter(self) -> impl Iterator<Item = IcmpError> {
        IcmpError::ALL.iter().copied().filter(move |error| self.contains(*error))
    }
}

impl FromIterator<IcmpError> for IcmpErrors {
    fn from_iter<T: IntoIterator<Item = IcmpError>>(errors: T) -> Self {
        Self(errors.into_iter().fold(0, |set, error| set | 1 << error as u8))
    }
}

macro_rules! lowercase_names {
    ($($ty:ty { $($variant:ident => $name:literal),+ $(,)? })+) => {$(
        impl $ty {
            /// Every value, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// The name used in records, labels and filters.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    )+};
}
lowercase_names! {
    Direction { Egress => "egress", Ingress => "ingress", Internal => "internal", Forwarded => "forwarded" }
    State { Opening => "opening", Established => "established", Closing => "closing", Closed => "closed" }
    Status { Active => "active", Ok => "ok", Failed => "failed" }
    IcmpError {
        Unreachable => "unreachable",
        PortUnreachable => "port_unreachable",
        Prohibited => "prohibited",
        TooBig => "too_big",
        TimeExceeded => "time_exceeded",
        ParameterProblem => "parameter_problem",
    }
    Reason { Refused => "refused", Reset => "reset", Timeout => "timeout", Unreachable => "unreachable", Prohibited => "prohibited" }
}

/// One end of a conversation and what is known of who is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Address.
    pub ip: IpAddr,
    /// Port; `null` for protocols without ports.
    pub port: Option<u16>,
    /// Kubernetes namespace, of the pod or the service.
    pub namespace: Option<String>,
    /// Pod name: of `dst` the pod that answered, also where a service was asked.
    pub pod: Option<String>,
    /// Owner of the pod (Deployment, StatefulSet ...); a pod of nobody is its own.
    pub workload: Option<String>,
    /// Kind of that owner.
    pub workload_kind: Option<String>,
    /// Kubernetes service: of `dst` the one that was asked, else the one that the pod serves on this port; of `src` one that the
    /// pod belongs to.
    pub service: Option<String>,
    /// Kubernetes node.
    pub node: Option<String>,
    /// The zone that the node is in.
    #[serde(default)]
    pub zone: Option<String>,
    /// systemd unit.
    pub unit: Option<String>,
    /// Container name or id.
    pub container: Option<String>,
    /// Process name.
    pub process: Option<String>,
    /// Its id, in the host's first PID namespace.
    #[serde(default)]
    pub pid: Option<u32>,
}

impl Endpoint {
    /// An end of which only the address is known.
    pub fn bare(ip: IpAddr, port: Option<u16>) -> Self {
        Self {
            ip,
            port,
            namespace: None,
            pod: None,
            workload: None,
            workload_kind: None,
            service: None,
            node: None,
            zone: None,
            unit: None,
            container: None,
            process: None,
            pid: None,
        }
    }
}

impl Endpoint {
    /// The Kubernetes name that says most: the pod's, else the service's, else the node's.
    pub fn cluster_name(&self) -> Option<String> {
        let namespace = self.namespace.as_deref().unwrap_or("");
        let of = |name: &String| format!("{namespace}/{name}");
        self.pod.as_ref().or(self.service.as_ref()).map(of).or_else(|| self.node.clone())
    }
}

/// Round-trip times in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RttSummary {
    /// Smallest sample.
    pub min: u64,
    /// Mean of the samples.
    pub mean: u64,
    /// Largest sample.
    pub max: u64,
    /// Number of samples.
    pub samples: u64,
}

/// One end of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// The side that opened it.
    Src,
    /// The other.
    Dst,
}

/// How a TCP connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// FIN both ways.
    Closed,
    /// The SYN was answered by RST.
    Refused,
    /// RST after it stood.
    Reset,
    /// RST by the opener before it stood, or by one side after it or the other had said FIN.
    Aborted,
    /// Nobody answered the SYN.
    Unanswered,
    /// The opener did not answer the SYN+ACK.
    HalfOpen,
}

/// What one side of a TCP connection has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpSide {
    /// Segments sent again.
    pub retransmits: u64,
    /// Segments seen out of order.
    pub out_of_order: u64,
    /// Times that it announced a window of 0: it did not read what it was sent.
    pub zero_window: u64,
    /// Bursts of three or more repeated acknowledgements: something on the way to it was lost or late.
    pub repeated_acks: u64,
    /// From here to this side and back, microseconds.
    pub rtt_us: Option<RttSummary>,
    /// The smoothed round trip of the whole way as this side's kernel has it, microseconds; `null` if it is no socket of this
    /// host.
    pub srtt_us: Option<u64>,
}

/// What only TCP can tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpDetail {
    /// Union of the flags seen in either direction, as letters of `FSRPAUEC`.
    pub flags: String,
    /// Segments sent again; `null` until measured.
    pub retransmits: Option<u64>,
    /// Segments seen out of order; `null` until measured.
    pub out_of_order: Option<u64>,
    /// Times a zero window was announced; `null` until measured.
    pub zero_window: Option<u64>,
    /// SYN to the ACK that ended the handshake, microseconds.
    pub handshake_us: Option<u64>,
    /// The part of it that `dst` took: SYN to SYN+ACK.
    pub handshake_dst_us: Option<u64>,
    /// The part of it that `src` took: SYN+ACK to ACK.
    pub handshake_src_us: Option<u64>,
    /// Round trips of the whole way: the halves to either side, added.
    pub rtt_us: Option<RttSummary>,
    /// How it ended; `null` while it goes on.
    pub ending: Option<Ending>,
    /// Who sent the first RST.
    pub reset_by: Option<End>,
    /// What the opener has shown; `null` when `features.latency_tracking` is off.
    pub src: Option<TcpSide>,
    /// What the other side has shown.
    pub dst: Option<TcpSide>,
}

/// What only ICMP and ICMPv6 can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IcmpDetail {
    /// Message type of the first packet.
    #[serde(rename = "type")]
    pub kind: u8,
    /// Message code of the first packet.
    pub code: u8,
    /// Echo identifier, `null` for messages without one.
    pub id: Option<u16>,
    /// Echo requests without a reply, those of the last moment included; `null` for other messages.
    pub lost: Option<u64>,
    /// Request to reply.
    pub rtt_us: Option<RttSummary>,
}

/// One end on the other side of a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatEnd {
    /// Address.
    pub ip: IpAddr,
    /// Port; `null` for protocols without ports.
    pub port: Option<u16>,
}

/// What the ends are called on the other side of a translation (NAT); `null` where it is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nat {
    /// `src` there.
    pub src: Option<NatEnd>,
    /// `dst` there.
    pub dst: Option<NatEnd>,
}

/// Packets of a flow that this host's kernel dropped and gave a reason for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowDrops {
    /// Packets, as on the wire.
    pub packets: u64,
    /// Why the last of them was dropped: the kernel's own name of the reason.
    pub last_reason: String,
}

/// What only TLS can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsDetail {
    /// Version that the server has chosen, like `1.3`.
    pub version: Option<String>,
    /// Server name that the client asked for; `null` unless `features.protocol_detection.tls_names` is on, if the first segment of its
    /// hello doesn't hold it, or if it has more than 128 bytes.
    pub sni: Option<String>,
    /// Application protocol that the client offers first, like `h2`; `null` as above, and if it has more than 16 bytes.
    pub alpn: Option<String>,
}

/// What only DNS can tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsDetail {
    /// Queries, those sent again not counted twice; `null` over TCP.
    pub queries: Option<u32>,
    /// Responses to them; `null` over TCP.
    pub responses: Option<u32>,
    /// Type of the last query, like `AAAA`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// How the last response turned out, like `NXDOMAIN`.
    pub rcode: Option<String>,
    /// The last name that was asked for; `null` unless `features.protocol_detection.dns_names` is on.
    pub name: Option<String>,
}

/// One conversation, both directions. `src` opened it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// 16 hexadecimal digits; the same for one conversation as long as it lasts.
    pub flow_id: String,
    /// IP protocol.
    pub protocol: Protocol,
    /// `ipv4` or `ipv6`.
    pub family: Cow<'static, str>,
    /// Where it runs, seen from this host.
    pub direction: Direction,
    /// Time of the first packet, UTC.
    pub start_time: Timestamp,
    /// Time of the last packet, UTC: exact when TCP closed, within a kernel tick otherwise.
    pub end_time: Timestamp,
    /// `end_time - start_time`, microseconds.
    pub duration_us: u64,
    /// The side that opened it.
    pub src: Endpoint,
    /// The other side.
    pub dst: Endpoint,
    /// The same ends on the other side of a translation that this host makes; `null` if it makes none.
    pub nat: Option<Nat>,
    /// Bytes from `src` to `dst`, as on the wire, Ethernet header included.
    pub bytes_sent: u64,
    /// Bytes from `dst` to `src`.
    pub bytes_received: u64,
    /// Packets from `src` to `dst`, as on the wire.
    pub packets_sent: u64,
    /// Packets from `dst` to `src`.
    pub packets_received: u64,
    /// How far it has come.
    pub state: State,
    /// What became of it.
    pub status: Status,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// Whether the opening packet was seen. If not, `src` is the better guess by port numbers.
    pub opener_seen: bool,
    /// TCP only.
    pub tcp: Option<TcpDetail>,
    /// ICMP and ICMPv6 only.
    pub icmp: Option<IcmpDetail>,
    /// ICMP errors that quoted packets of this flow. A flow that nobody answered has failed by them; one that was answered
    /// has not.
    pub icmp_errors: Vec<IcmpError>,
    /// First payload of `src` to the first one after it of `dst`, microseconds.
    pub first_byte_us: Option<u64>,
    /// Packets of it that the kernel dropped; `null` if none is known.
    pub drops: Option<FlowDrops>,
    /// Application protocol, told by content.
    pub app_protocol: Option<String>,
    /// A guess by the port of `dst` when content told nothing.
    pub app_guess: Option<String>,
    /// TLS only.
    pub tls: Option<TlsDetail>,
    /// DNS only.
    pub dns: Option<DnsDetail>,
    /// Interfaces that saw it, the one that counts it first.
    pub interfaces: Vec<String>,
    /// The tunnel that it was first seen in, with `capture.decapsulate`; a flow that goes bare is `null`.
    pub tunnel: Option<Tunnel>,
    /// Share of flows kept when it was seen: stands for `1 / sampling_rate` flows.
    pub sampling_rate: f64,
    /// With `flow.aggregation`: how many flows this record folds. Its packets and bytes are then those from
    /// `start_time` to `end_time`, and `src.port` is `null`.
    pub folded: Option<Folded>,
}
