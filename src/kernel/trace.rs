//! Packets told one by one (`bpf/include/nm_trace.h`): asking for them, and reading what was told. Any thread may; a system call a line,
//! none of which waits.

use std::mem::offset_of;
use std::net::{IpAddr, SocketAddr};

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::counters::{MALFORMED_KINDS, NOT_IP_KINDS};
use super::decode::{address, bytes};
use super::object::Object;
use super::skeleton::types::{nm_trace_count, nm_trace_line, nm_trace_rule};
use super::stats::{Hook, Outcome};
use crate::flow::cidr::Cidr;
use crate::flow::key::Protocol;

/// The one entry of the maps.
const ONLY: [u8; 4] = [0; 4];

/// Which packets are told. What is `None` or empty leaves nothing out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// IP protocol.
    pub protocol: Option<Protocol>,
    /// Either end's network.
    pub network: Option<Cidr>,
    /// Either end's port, of TCP, UDP and SCTP.
    pub port: Option<u16>,
    /// Index of the interface.
    pub interface: Option<u32>,
    /// Outcomes.
    pub outcomes: Vec<Outcome>,
    /// Lines a second, at least 1; as many at once after a second of silence.
    pub lines_per_second: u32,
}

/// A packet's headers, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub stamp_ns: u64,
    /// The id of its flow; `None` if it has none.
    pub flow: Option<u64>,
    /// Index of the interface.
    pub interface: u32,
    /// Where.
    pub hook: Hook,
    /// Source and destination, as far as they are known; ports are 0 where there are none. ICMP echo: the identifier.
    pub ends: Option<[SocketAddr; 2]>,
    /// IP protocol, if it is known.
    pub protocol: Option<Protocol>,
    /// TCP flags.
    pub tcp_flags: u8,
    /// ICMP type and code.
    pub icmp: [u8; 2],
    /// On the wire.
    pub bytes: u32,
    /// Packets that it stands for (GSO, GRO).
    pub packets: u32,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it is not IP or malformed.
    pub reason: Option<&'static str>,
}

/// What was asked for and not told, since a trace began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotTold {
    /// Packets beyond the rate.
    pub rate: u64,
    /// Packets for whose lines there was no room.
    pub lost: u64,
}

/// The maps of the trace.
#[derive(Debug)]
pub struct TraceMaps {
    rule: MapHandle,
    rate: MapHandle,
    lines: MapHandle,
}

impl Object {
    /// What asks for packets and reads them.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn trace(&self) -> std::io::Result<TraceMaps> {
        let maps = &self.skel.maps;
        let handle = |map| MapHandle::try_from(map).map_err(std::io::Error::other);
        Ok(TraceMaps {
            rule: handle(&maps.nm_trace_rule)?,
            rate: handle(&maps.nm_trace_rate)?,
            lines: handle(&maps.nm_trace_lines)?,
        })
    }
}

impl TraceMaps {
    /// Has packets told by a rule until a time on `CLOCK_MONOTONIC`, once tracing is switched on. Lines carry the number.
    ///
    /// # Errors
    /// The kernel's.
    pub fn begin(&self, rule: &Rule, until_ns: u64, number: u32) -> std::io::Result<()> {
        while self.pop().is_some() {}
        let nothing = vec![0; self.rate.value_size() as usize];
        self.rate.update(&ONLY, &nothing, MapFlags::ANY).map_err(std::io::Error::other)?;
        self.rule.update(&ONLY, &rule.encode(until_ns, number), MapFlags::ANY).map_err(std::io::Error::other)
    }

    fn pop(&self) -> Option<Vec<u8>> {
        self.lines.lookup_and_delete(&[]).ok().flatten()
    }

    /// The next line of the trace of this number; `None` when none waits.
    pub fn next(&self, number: u32) -> Option<Line> {
        loop {
            let record = self.pop()?;
            if let Some((of, line)) = decode(&record)
                && of == number
            {
                return Some(line);
            }
        }
    }

    /// What was not told since the trace began.
    pub fn not_told(&self) -> NotTold {
        let value = self.rate.lookup(&ONLY, MapFlags::ANY).ok().flatten().unwrap_or_default();
        // Behind the lock.
        let base = value.len().saturating_sub(size_of::<nm_trace_count>());
        let word = |at: usize| bytes(&value, base + at).map_or(0, u64::from_ne_bytes);
        NotTold {
            rate: word(offset_of!(nm_trace_count, left_out)),
            lost: word(offset_of!(nm_trace_count, lost)),
        }
    }
}

impl Rule {
    fn encode(&self, until_ns: u64, number: u32) -> Vec<u8> {
        let mut value = vec![0; size_of::<nm_trace_rule>()];
        let mut put = |at: usize, field: &[u8]| value[at..at + field.len()].copy_from_slice(field);
        let line_ns = 1_000_000_000 / u64::from(self.lines_per_second.max(1));
        put(offset_of!(nm_trace_rule, until_ns), &until_ns.to_ne_bytes());
        put(offset_of!(nm_trace_rule, line_ns), &line_ns.to_ne_bytes());
        put(offset_of!(nm_trace_rule, burst_ns), &(1_000_000_000 - line_ns).to_ne_bytes());
        put(offset_of!(nm_trace_rule, number), &number.to_ne_bytes());
        put(offset_of!(nm_trace_rule, ifindex), &self.interface.unwrap_or(0).to_ne_bytes());
        let bit = |(number, outcome): (usize, &Outcome)| {
            u32::from(self.outcomes.is_empty() || self.outcomes.contains(outcome)) << number
        };
        let outcomes = Outcome::ALL.iter().enumerate().map(bit).sum::<u32>();
        put(offset_of!(nm_trace_rule, outcomes), &outcomes.to_ne_bytes());
        if let Some(protocol) = self.protocol {
            put(offset_of!(nm_trace_rule, protocol), &[protocol.0]);
            put(offset_of!(nm_trace_rule, by_protocol), &[1]);
        }
        if let Some(port) = self.port {
            put(offset_of!(nm_trace_rule, port_be), &port.to_be_bytes());
            put(offset_of!(nm_trace_rule, by_port), &[1]);
        }
        if let Some(network) = &self.network {
            let mask = network.mask().to_be_bytes();
            let (family, address) = match network.address() {
                IpAddr::V4(v4) => (4, (u128::from(u32::from(v4)) << 96).to_be_bytes()),
                IpAddr::V6(v6) => (6, v6.octets()),
            };
            put(offset_of!(nm_trace_rule, family), &[family]);
            put(offset_of!(nm_trace_rule, network), &address);
            put(offset_of!(nm_trace_rule, mask), &mask);
        }
        value
    }
}

/// A line and the number of its trace; `None` if it makes no sense.
fn decode(record: &[u8]) -> Option<(u32, Line)> {
    let byte = |at: usize| record.get(at).copied();
    let word = |at: usize| bytes(record, at).map(u32::from_ne_bytes);
    let family = byte(offset_of!(nm_trace_line, family))?;
    let end = |at: usize, port: usize| {
        Some(SocketAddr::new(address(&bytes(record, at)?, family)?, u16::from_be_bytes(bytes(record, port)?)))
    };
    let source = end(offset_of!(nm_trace_line, source), offset_of!(nm_trace_line, source_port_be));
    let destination =
        end(offset_of!(nm_trace_line, destination), offset_of!(nm_trace_line, destination_port_be));
    let flow = u64::from_ne_bytes(bytes(record, offset_of!(nm_trace_line, flow))?);
    let kind = u32::from(byte(offset_of!(nm_trace_line, kind))?);
    let outcome = *Outcome::ALL.get(usize::from(byte(offset_of!(nm_trace_line, outcome))?))?;
    let line = Line {
        stamp_ns: u64::from_ne_bytes(bytes(record, offset_of!(nm_trace_line, stamp_ns))?),
        flow: (flow != 0).then_some(flow),
        interface: word(offset_of!(nm_trace_line, ifindex))?,
        hook: *Hook::ALL.get(usize::from(byte(offset_of!(nm_trace_line, hook))?))?,
        ends: source.zip(destination).map(<[SocketAddr; 2]>::from),
        protocol: (family != 0).then_some(Protocol(byte(offset_of!(nm_trace_line, protocol))?)),
        tcp_flags: byte(offset_of!(nm_trace_line, tcp_flags))?,
        icmp: [byte(offset_of!(nm_trace_line, icmp_type))?, byte(offset_of!(nm_trace_line, icmp_code))?],
        bytes: word(offset_of!(nm_trace_line, bytes))?,
        packets: word(offset_of!(nm_trace_line, packets))?,
        outcome,
        reason: NOT_IP_KINDS
            .iter()
            .chain(&MALFORMED_KINDS)
            .find(|(known, _)| known.0 == kind)
            .map(|(_, name)| *name),
    };
    Some((word(offset_of!(nm_trace_line, number))?, line))
}
