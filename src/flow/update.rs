//! What the collector tells the rest of the agent: flows as they stand and what is new since the
//! last word about each. Compact and free of strings; [`super::present`] makes records of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::app::{App, TlsVersion};
use super::key::FlowKey;
use super::measured::{Measured, NewRtts};
use super::messages::FlowDns;
use super::record::{Direction, IcmpErrors, Reason, State, Status};
use super::tunnel::Tunnel;
use super::who::Who;

/// Packets and bytes of both directions, as on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets from the opener.
    pub packets_sent: u64,
    /// Packets to the opener.
    pub packets_received: u64,
    /// Bytes from the opener.
    pub bytes_sent: u64,
    /// Bytes to the opener.
    pub bytes_received: u64,
}

impl Counters {
    /// Packets of both directions.
    pub fn packets(&self) -> u64 {
        self.packets_sent + self.packets_received
    }

    /// Bytes of both directions.
    pub fn bytes(&self) -> u64 {
        self.bytes_sent + self.bytes_received
    }

    /// No packet in either direction.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// What the ends are called on the other side of a translation (NAT); `None` where it is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Translation {
    /// The opener.
    pub src: Option<SocketAddr>,
    /// The other side.
    pub dst: Option<SocketAddr>,
}

/// Interfaces that saw a flow: at most the two owners (one a direction) and two others.
pub type SeenOn = [u32; 4];

/// One flow as it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flow {
    /// Stable id of this conversation on this host.
    pub id: u64,
    /// Ends, opener first.
    pub key: FlowKey,
    /// The same behind a translation, if there is one.
    pub nat: Option<Translation>,
    /// Where it runs.
    pub direction: Direction,
    /// Totals since it began.
    pub total: Counters,
    /// First packet, nanoseconds of `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// Last packet, nanoseconds of `CLOCK_MONOTONIC`.
    pub end_ns: u64,
    /// How far it has come.
    pub state: State,
    /// What became of it.
    pub status: Status,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// TCP flags seen from the opener and to it (RFC 9293 bit order).
    pub tcp_flags: [u8; 2],
    /// SYN to the ACK that ended the handshake, microseconds; `None` if not measured.
    pub handshake_us: Option<u32>,
    /// Who sent the first RST: `Some(true)` the opener; `None` if nobody has.
    pub reset_by_opener: Option<bool>,
    /// Round trips and the like; `None` when `features.latency_tracking` is off.
    pub measured: Option<Measured>,
    /// Application protocol; `None` without payload, or when `features.protocol_detection` is off.
    pub app: Option<App>,
    /// Version that the server has chosen, TLS only.
    pub tls_version: Option<TlsVersion>,
    /// DNS only; `None` when it is not looked at.
    pub dns: Option<FlowDns>,
    /// Type and code of the first packet, ICMP only.
    pub icmp: Option<(u8, u8)>,
    /// ICMP errors that quoted it.
    pub icmp_errors: IcmpErrors,
    /// Whether the opening packet was seen.
    pub opener_seen: bool,
    /// Interface indices, 0 = none.
    pub seen_on: SeenOn,
    /// The tunnel that it was seen in.
    pub tunnel: Option<Tunnel>,
    /// Whose sockets its ends are, opener first.
    pub who: [Who; 2],
    /// Of a record that folds several flows: how many. Its totals are those of an interval.
    pub folded: Option<Folded>,
}

impl Flow {
    /// A flow of which nothing but its ends is known yet.
    pub fn new(id: u64, key: FlowKey, direction: Direction) -> Self {
        Self {
            id,
            key,
            nat: None,
            direction,
            total: Counters::default(),
            start_ns: 0,
            end_ns: 0,
            state: State::Opening,
            status: Status::Active,
            reason: None,
            tcp_flags: [0; 2],
            handshake_us: None,
            reset_by_opener: None,
            measured: None,
            app: None,
            tls_version: None,
            dns: None,
            icmp: None,
            icmp_errors: IcmpErrors::default(),
            opener_seen: true,
            seen_on: [0; 4],
            who: [Who::Unknown; 2],
            tunnel: None,
            folded: None,
        }
    }

    /// The tag of its slot.
    pub fn tag(&self) -> u64 {
        self.id ^ self.start_ns.rotate_left(32)
    }
}

/// How many flows a folded record stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folded {
    /// Opened in the record's time.
    pub opened: u64,
    /// Ended in it.
    pub ended: u64,
    /// Of those, failed.
    pub failed: u64,
}

/// Why the collector speaks of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// First word of it.
    Opened,
    /// It goes on.
    Active,
    /// Last word: it has left the table.
    Ended,
}

/// One flow and what is new about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlowUpdate {
    /// The flow as it stands.
    pub flow: Flow,
    /// What was added since the last update of the same flow. Summed over all updates these are
    /// exact: nothing is told twice and nothing is left out.
    pub delta: Counters,
    /// The handshake's time, if it became known with this update, microseconds.
    pub handshake_us: Option<u32>,
    /// Round trips that are new with this update.
    pub rtts: NewRtts,
    /// TCP segments that were sent again since the last update, both ways.
    pub new_retransmits: u32,
    /// Why it is told.
    pub change: Change,
    /// Kernel's stamp on the event that caused it, nanoseconds of `CLOCK_MONOTONIC`; 0 when the
    /// collector looked by itself.
    pub event_ns: u64,
}

impl FlowUpdate {
    /// So many packets and bytes are new, and nothing else.
    pub fn new(flow: Flow, delta: Counters, change: Change) -> Self {
        Self {
            flow,
            delta,
            handshake_us: None,
            rtts: NewRtts::default(),
            new_retransmits: 0,
            change,
            event_ns: 0,
        }
    }
}

/// Updates as followers get them.
pub type Batch = Arc<[FlowUpdate]>;

/// Where the collector tells what is new.
pub trait Sink: Send {
    /// Takes updates whose events were read at `read_at`. Must not block.
    fn take(&mut self, updates: &[FlowUpdate], read_at: Instant);
    /// That was all for now.
    fn flush(&mut self);
    /// From now on so large a share of all flows is kept.
    fn sampling(&mut self, _rate: f64) {}
}
