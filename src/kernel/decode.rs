//! Kernel bytes to facts. Pure: no libbpf, no clock. Whatever the bytes say, the answer is a fact or nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::skeleton::types::{
    nm_app, nm_cold, nm_drop_key, nm_event, nm_event_kind, nm_flow_drops, nm_icmp_error, nm_interface,
    nm_timing, nm_tunnel,
};
use super::table::Snapshot;
use crate::flow::app::{App, TlsVersion};
use crate::flow::direction::{Place, Places};
use crate::flow::key::{FlowKey, Protocol};
use crate::flow::measured::{Measured, Rtt, Side};
use crate::flow::messages::{FlowDns, QueryType, Rcode};
use crate::flow::record::{IcmpError, IcmpErrors};
use crate::flow::tunnel::{Tunnel, TunnelKind};
use crate::flow::who::Who;

/// `NM_MARK_HANDSHAKE` of `nm_hot::marks`.
pub(super) const MARK_HANDSHAKE: u8 = 0x01;
/// `NM_MARK_RESET` and `NM_MARK_RESET_BY` of the same.
const MARK_RESET: u8 = 0x02;
const MARK_RESET_BY: u8 = 0x04;
/// `NM_MARK_MESSAGES` of the same.
const MARK_MESSAGES: u8 = 0x08;
/// `NM_MARK_TUNNEL` of the same.
const MARK_TUNNEL: u8 = 0x10;
/// Those that packets set, and never take away. `MARK_RESET_BY` says whose `MARK_RESET` is.
pub(super) const MARKS_SET: u8 = MARK_RESET | MARK_RESET_BY | MARK_TUNNEL;

/// Why the programs speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A slot was taken.
    Opened,
    /// First packet after the reporting interval.
    Active,
    /// TCP closed.
    Ended,
    /// A packet found no room.
    Overflow,
    /// An ICMP error of a new kind quoted the flow.
    Error,
    /// A slot was taken that stands for a flow's other addresses.
    Alias,
}

/// One event: it names a slot, whose words are read from the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub stamp_ns: u64,
    /// Slot in its table.
    pub slot: u32,
    /// Entry of the outer map.
    pub table: u8,
    /// Why.
    pub kind: EventKind,
}

pub(super) fn bytes<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Reads one record of the event ring; `None` if it is short or of an unknown kind.
pub fn event(record: &[u8]) -> Option<Event> {
    use std::mem::offset_of;
    let kind = u32::from(*record.get(offset_of!(nm_event, kind))?);
    Some(Event {
        stamp_ns: u64::from_ne_bytes(bytes(record, offset_of!(nm_event, stamp_ns))?),
        slot: u32::from_ne_bytes(bytes(record, offset_of!(nm_event, slot))?),
        table: *record.get(offset_of!(nm_event, table))?,
        kind: match nm_event_kind(kind) {
            nm_event_kind::NM_EVENT_OPENED => EventKind::Opened,
            nm_event_kind::NM_EVENT_ACTIVE => EventKind::Active,
            nm_event_kind::NM_EVENT_ENDED => EventKind::Ended,
            nm_event_kind::NM_EVENT_OVERFLOW => EventKind::Overflow,
            nm_event_kind::NM_EVENT_ERROR => EventKind::Error,
            nm_event_kind::NM_EVENT_ALIAS => EventKind::Alias,
            _ => return None,
        },
    })
}

/// The payload of a perf sample record: header (8 bytes), length (4), payload.
pub fn perf_sample(record: &[u8]) -> Option<&[u8]> {
    let length = u32::from_ne_bytes(bytes(record, 8)?) as usize;
    record.get(12..12usize.checked_add(length)?)
}

/// The errors of `nm_hot::icmp_errors`.
pub fn icmp_errors(bits: u8) -> IcmpErrors {
    const BITS: [(nm_icmp_error, IcmpError); 6] = [
        (nm_icmp_error::NM_ERROR_UNREACHABLE, IcmpError::Unreachable),
        (nm_icmp_error::NM_ERROR_PORT, IcmpError::PortUnreachable),
        (nm_icmp_error::NM_ERROR_PROHIBITED, IcmpError::Prohibited),
        (nm_icmp_error::NM_ERROR_TOO_BIG, IcmpError::TooBig),
        (nm_icmp_error::NM_ERROR_TIME, IcmpError::TimeExceeded),
        (nm_icmp_error::NM_ERROR_PARAMETER, IcmpError::ParameterProblem),
    ];
    BITS.iter().filter(|(bit, _)| u32::from(bits) & bit.0 != 0).map(|(_, error)| *error).collect()
}

pub(super) fn address(raw: &[u8; 16], family: u8) -> Option<IpAddr> {
    match family {
        4 => Some(IpAddr::V4(Ipv4Addr::new(raw[0], raw[1], raw[2], raw[3]))),
        6 => Some(IpAddr::V6(Ipv6Addr::from(*raw))),
        _ => None,
    }
}

/// The ends of a key by side; `None` if the words make no sense.
pub fn sides(cold: &nm_cold) -> Option<[SocketAddr; 2]> {
    let end = |side: usize| {
        Some(SocketAddr::new(address(&cold.address[side], cold.family)?, u16::from_be(cold.port_be[side])))
    };
    Some([end(0)?, end(1)?])
}

/// The ends of a conversation, opener first; `None` if the words make no sense.
pub fn key(cold: &nm_cold) -> Option<FlowKey> {
    let opener = usize::from(cold.opener & 1);
    let sides = sides(cold)?;
    Some(FlowKey { protocol: Protocol(cold.protocol), src: sides[opener], dst: sides[1 - opener] })
}

/// Who sent the first RST: `Some(true)` the opener.
pub fn reset_by_opener(snapshot: &Snapshot) -> Option<bool> {
    let side = u8::from(snapshot.hot.marks & MARK_RESET_BY != 0);
    (snapshot.hot.marks & MARK_RESET != 0).then_some(side == snapshot.cold.opener & 1)
}

/// Bit of a kind of tunnel (`NM_TUNNEL_`).
pub fn tunnel_bit(kind: TunnelKind) -> u8 {
    match kind {
        TunnelKind::Vxlan => 0x01,
        TunnelKind::Geneve => 0x02,
    }
}

/// Whether the flow was seen in a tunnel.
pub fn in_tunnel(snapshot: &Snapshot) -> bool {
    snapshot.hot.marks & MARK_TUNNEL != 0
}

/// Reads an entry of `nm_tunnels`; `None` if its words make no sense.
pub fn tunnel(value: &[u8]) -> Option<Tunnel> {
    use std::mem::offset_of;
    let family = *value.get(offset_of!(nm_tunnel, family))?;
    let kind = *value.get(offset_of!(nm_tunnel, kind))?;
    let end = |side: usize| address(&bytes(value, offset_of!(nm_tunnel, address) + 16 * side)?, family);
    Some(Tunnel {
        kind: TunnelKind::ALL.into_iter().find(|known| tunnel_bit(*known) == kind)?,
        vni: u32::from_ne_bytes(bytes(value, offset_of!(nm_tunnel, vni))?),
        src: end(0)?,
        dst: end(1)?,
    })
}

/// What was measured of the flow in a slot.
pub fn measured(snapshot: &Snapshot) -> Measured {
    let opener = usize::from(snapshot.cold.opener & 1);
    let (timing, detail) = (&snapshot.timing, &snapshot.detail);
    let side = |side: usize| Side {
        rtt: Rtt {
            samples: timing.rtt_samples[side],
            min_us: timing.rtt_min_us[side],
            max_us: timing.rtt_max_us[side],
            sum_us: timing.rtt_sum_us[side],
        },
        retransmits: detail.retransmits[side],
        out_of_order: detail.out_of_order[side],
        zero_windows: detail.zero_windows[side],
        repeated_acks: detail.repeat_bursts[side],
        srtt_us: detail.srtt_us[side],
    };
    let known = |us: u32| (us > 0).then_some(us);
    Measured {
        sides: [side(opener), side(1 - opener)],
        answer_us: known(timing.answer_us),
        first_byte_us: known(timing.first_byte_us),
    }
}

/// The number of an application protocol in the programs (`enum nm_app`).
pub fn app_number(app: App) -> u32 {
    let number = match app {
        App::Http => nm_app::NM_APP_HTTP,
        App::Http2 => nm_app::NM_APP_HTTP2,
        App::Grpc => nm_app::NM_APP_GRPC,
        App::Tls => nm_app::NM_APP_TLS,
        App::Dns => nm_app::NM_APP_DNS,
        App::Mysql => nm_app::NM_APP_MYSQL,
        App::Postgresql => nm_app::NM_APP_POSTGRESQL,
        App::Redis => nm_app::NM_APP_REDIS,
        App::Kafka => nm_app::NM_APP_KAFKA,
        App::Mongodb => nm_app::NM_APP_MONGODB,
        App::Amqp => nm_app::NM_APP_AMQP,
        App::Mqtt => nm_app::NM_APP_MQTT,
        App::Ssh => nm_app::NM_APP_SSH,
        App::Quic => nm_app::NM_APP_QUIC,
        App::Memcached => nm_app::NM_APP_MEMCACHED,
        App::Nats => nm_app::NM_APP_NATS,
        App::Unknown => nm_app::NM_APP_NONE,
    };
    number.0
}

/// The application protocol of a flow; `None` if no payload was looked at.
pub fn app(timing: &nm_timing) -> Option<App> {
    let known = App::KNOWN.iter().copied().find(|app| app_number(*app) == u32::from(timing.app));
    known.or((timing.app_tries != [0, 0]).then_some(App::Unknown))
}

/// The version that a TLS server has chosen.
pub fn tls_version(timing: &nm_timing) -> Option<TlsVersion> {
    (app(timing) == Some(App::Tls)).then(|| TlsVersion::of_minor(timing.app_detail.checked_sub(1)?)).flatten()
}

/// `NM_WHO_CGROUP` and `NM_WHO_FOUND` of `nm_timing::who`.
const WHO_CGROUP: u32 = 1 << 31;
const WHO_FOUND: u32 = 1 << 30;

/// Whose sockets the ends of the flow in a slot are, opener first. `is_local` tells whether an address is one of this host's.
pub fn who(snapshot: &Snapshot, is_local: impl Fn(&IpAddr) -> bool) -> [Who; 2] {
    let cold = &snapshot.cold;
    let opener = usize::from(cold.opener & 1);
    [opener, 1 - opener].map(|side| match snapshot.timing.who[side] {
        0 => Who::Unknown,
        cgroup if cgroup & WHO_CGROUP != 0 => Who::Cgroup(cgroup & !(WHO_CGROUP | WHO_FOUND)),
        found if found & WHO_FOUND != 0 => match address(&cold.address[side], cold.family) {
            Some(ip) if is_local(&ip) => Who::Socket(found & !WHO_FOUND),
            _ => Who::Unknown,
        },
        socket => Who::Socket(socket),
    })
}

/// DNS of the flow in a slot; `None` if it is no DNS, or is not looked at.
pub fn dns(snapshot: &Snapshot) -> Option<FlowDns> {
    let is_dns = u32::from(snapshot.timing.app) == nm_app::NM_APP_DNS.0;
    let counted = |count: u32| (snapshot.cold.protocol == Protocol::UDP.0).then_some(count);
    (is_dns && snapshot.hot.marks & MARK_MESSAGES != 0).then(|| FlowDns {
        queries: counted(snapshot.dns.queries),
        responses: counted(snapshot.dns.responses),
        kind: QueryType::of(snapshot.timing.app_detail & 0xf),
        rcode: Rcode::of(snapshot.timing.app_detail >> 4),
    })
}

/// Where a flow was seen.
pub fn places(snapshot: &Snapshot) -> Places {
    let opener = usize::from(snapshot.cold.opener & 1);
    Places {
        sent: Place(snapshot.hot.owner[opener]),
        received: Place(snapshot.hot.owner[1 - opener]),
        others: snapshot.cold.others.map(Place),
    }
}

/// Sum of an interface's per-CPU words; `None` if they are not of the expected size.
pub fn interface_sum(per_cpu: &[Vec<u8>]) -> Option<nm_interface> {
    let mut sum = nm_interface::default();
    for cpu in per_cpu {
        sum.link_bytes = u32::from_ne_bytes(bytes(cpu, 0)?);
        sum.ifindex = u32::from_ne_bytes(bytes(cpu, 4)?);
        let mut words = (1..).map(|index| Some(u64::from_ne_bytes(bytes(cpu, index * 8)?)));
        for counts in &mut sum.hooks {
            let fields = [&mut counts.seen, &mut counts.counted_bytes];
            for field in fields.into_iter().chain(&mut counts.outcomes) {
                *field = field.wrapping_add(words.next()??);
            }
        }
    }
    Some(sum)
}

/// Reason and interface index of a key of `nm_drops`.
pub fn drop_key(key: &[u8]) -> Option<(u32, u32)> {
    use std::mem::offset_of;
    let word = |at| Some(u32::from_ne_bytes(bytes(key, at)?));
    Some((word(offset_of!(nm_drop_key, reason))?, word(offset_of!(nm_drop_key, ifindex))?))
}

/// Packets and last reason of a value of `nm_flow_drops`.
pub fn flow_drops(value: &[u8]) -> Option<(u64, u32)> {
    use std::mem::offset_of;
    Some((
        u64::from_ne_bytes(bytes(value, offset_of!(nm_flow_drops, packets))?),
        u32::from_ne_bytes(bytes(value, offset_of!(nm_flow_drops, last_reason))?),
    ))
}

/// Sum over CPUs of `N` consecutive words.
pub fn words_sum<const N: usize>(per_cpu: &[Vec<u8>]) -> Option<[u64; N]> {
    let mut sum = [0u64; N];
    for cpu in per_cpu {
        for (index, total) in sum.iter_mut().enumerate() {
            *total = total.wrapping_add(u64::from_ne_bytes(bytes(cpu, index * 8)?));
        }
    }
    Some(sum)
}
