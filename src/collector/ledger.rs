//! The books: what each flow has counted, what of it has been told, and what became of it.
//!
//! A slot's counters only grow; the difference to what was told goes out with the next word about the flow, so
//! nothing is told twice and nothing is lost, however many events were. When a flow ends its slot is killed (no
//! packet finds it any more), a grace period later its counters are final, are told, and the slot is free.

use std::sync::Arc;

use super::pairs::{Pair, Pairs};
use crate::clock;
use crate::flow::app::App;
use crate::flow::direction::direction;
use crate::flow::key::Protocol;
use crate::flow::measured::NewRtts;
use crate::flow::record::Direction;
use crate::flow::update::{Change, Counters, Flow, FlowUpdate};
use crate::flow::verdict::{Facts, forbidden, unfinished, verdict};
use crate::interfaces::HostAddresses;
use crate::kernel::decode;
use crate::kernel::table::{DEAD, MOVED, Snapshot, Table};
use crate::kernel::tunnels::Tunnels;
use crate::kernel::types::nm_told;

/// Notes that the agent keeps in a slot.
pub mod note {
    /// The flow has been told as opened.
    pub const KNOWN: u8 = 1;
    /// Its attempt has timed out.
    pub const TIMED_OUT: u8 = 2;
    /// Its handshake's time has been told.
    pub const HANDSHAKE: u8 = 4;
    /// Its counts go to the flow of the conversation's other key; nobody is told of this one.
    pub const JOINED: u8 = 8;
    /// The slot is in the list of dead ones (`NM_FLAG_DYING`).
    pub const DYING: u8 = 0x20;
    /// The slot is queued for leaving (`NM_FLAG_LEAVING`).
    pub const LEAVING: u8 = 0x40;
    /// The flow lives on in another slot (`NM_FLAG_MOVED`).
    pub const MOVED: u8 = crate::kernel::table::MOVED;
    /// What tells of the slot and not of the flow: it does not move with it (`NM_FLAGS_OF_SLOT`).
    pub const OF_SLOT: u8 = DYING | LEAVING | MOVED;
}

/// What tells where a flow runs.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Addresses of this host.
    pub addresses: Arc<HostAddresses>,
    /// Interfaces whose other side is on this host.
    pub local_peers: Arc<std::collections::HashSet<u32>>,
    /// Whether round trips and the like are measured.
    pub timing: bool,
    /// Flows that are translated.
    pub pairs: Pairs,
    /// A flow is not there before it has been told of: it may be part of another that conntrack is about to speak of.
    pub told_only: bool,
    /// Where flows in tunnels are noted, if tunnels are looked into.
    pub tunnels: Option<Arc<Tunnels>>,
}

impl Context {
    /// Where a flow runs, as far as its slot tells now.
    pub fn direction(&self, snapshot: &Snapshot) -> Direction {
        decode::key(&snapshot.cold).map_or(Direction::Forwarded, |key| {
            direction(&key, &decode::places(snapshot), &self.addresses, |index| {
                self.local_peers.contains(&index)
            })
        })
    }
}

/// Totals of flows that have left the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Departed {
    /// Flows.
    pub flows: u64,
    /// Packets that they counted.
    pub packets: u64,
    /// Bytes that they counted.
    pub bytes: u64,
}

/// The books.
#[derive(Debug)]
pub struct Ledger {
    /// Where things are.
    pub context: Context,
    /// Flows told as opened and not yet as ended.
    pub live: u64,
    /// Flows that have left.
    pub departed: Departed,
    /// Slots that stand for other addresses of flows, and how many did so once.
    pub aliases: u64,
    /// See `aliases`.
    pub departed_aliases: u64,
}

fn direction_code(direction: Direction) -> u8 {
    match direction {
        Direction::Egress => 1,
        Direction::Ingress => 2,
        Direction::Internal => 3,
        Direction::Forwarded => 4,
    }
}

fn noted_direction(code: u8) -> Option<Direction> {
    Direction::ALL.iter().copied().find(|direction| direction_code(*direction) == code)
}

/// What a flow is called for as long as it lasts (`nm_flow_id`).
fn id(snapshot: &Snapshot) -> u64 {
    (snapshot.tag & !DEAD) ^ snapshot.cold.start_ns.rotate_left(32)
}

/// The flow in a slot as it stands; `None` if its words make no sense.
pub fn flow(snapshot: &Snapshot, context: &Context, now_ns: u64, gone: bool) -> Option<Flow> {
    let cold = &snapshot.cold;
    let key = decode::key(cold)?;
    let places = decode::places(snapshot);
    let total = snapshot.counters();
    let opener = usize::from(cold.opener & 1);
    let flags = [snapshot.hot.tcp_flags[opener], snapshot.hot.tcp_flags[1 - opener]];
    let (state, status, reason) = verdict(&facts(snapshot, gone)?);
    let last_ns = clock::ns_of_tick(snapshot.last_tick(), now_ns).max(cold.start_ns);
    let tag = snapshot.tag & !DEAD;
    Some(Flow {
        id: id(snapshot),
        key,
        nat: context.pairs.translation(tag, &key, opener),
        direction: noted_direction(cold.agent_direction).unwrap_or_else(|| context.direction(snapshot)),
        total,
        start_ns: cold.start_ns,
        end_ns: if snapshot.hot.closed_ns > 0 { snapshot.hot.closed_ns } else { last_ns },
        state,
        status,
        reason,
        tcp_flags: flags,
        handshake_us: (cold.handshake_us > 0).then_some(cold.handshake_us),
        reset_by_opener: decode::reset_by_opener(snapshot),
        measured: context.timing.then(|| decode::measured(snapshot)),
        app: decode::app(&snapshot.timing),
        tls_version: decode::tls_version(&snapshot.timing),
        dns: decode::dns(snapshot),
        icmp_errors: decode::icmp_errors(snapshot.hot.icmp_errors),
        icmp: matches!(key.protocol, Protocol::ICMP | Protocol::ICMPV6)
            .then_some((cold.icmp_type, cold.icmp_code)),
        opener_seen: cold.opener_seen != 0,
        seen_on: places.interfaces(),
        tunnel: context
            .tunnels
            .as_ref()
            .filter(|_| decode::in_tunnel(snapshot))
            .and_then(|tunnels| tunnels.get(id(snapshot))),
        who: decode::who(snapshot, |ip| context.addresses.contains(ip) || context.addresses.is_group(ip)),
        folded: None,
    })
}

fn facts(snapshot: &Snapshot, gone: bool) -> Option<Facts> {
    let key = decode::key(&snapshot.cold)?;
    let opener = usize::from(snapshot.cold.opener & 1);
    let total = snapshot.counters();
    Some(Facts {
        protocol: key.protocol,
        flags: [snapshot.hot.tcp_flags[opener], snapshot.hot.tcp_flags[1 - opener]],
        packets: [total.packets_sent, total.packets_received],
        closed: snapshot.hot.closed_ns > 0,
        icmp_errors: decode::icmp_errors(snapshot.hot.icmp_errors),
        timed_out: snapshot.cold.agent_flags & note::TIMED_OUT != 0,
        gone,
    })
}

/// Whether a slot holds an attempt that has led to nothing yet: a handshake that is not finished, or what ICMP errors speak of.
pub fn attempt_open(snapshot: &Snapshot) -> bool {
    snapshot.hot.closed_ns == 0
        && facts(snapshot, false).is_some_and(|facts| unfinished(&facts) || forbidden(&facts).is_some())
}

fn delta(snapshot: &Snapshot, told: nm_told) -> (Counters, nm_told) {
    let opener = usize::from(snapshot.cold.opener & 1);
    let packets =
        |side: usize| u64::from((snapshot.hot.packets[side] as u32).wrapping_sub(told.packets[side]));
    let bytes = |side: usize| snapshot.hot.bytes[side].saturating_sub(told.bytes[side]);
    let difference = Counters {
        packets_sent: packets(opener),
        packets_received: packets(1 - opener),
        bytes_sent: bytes(opener),
        bytes_received: bytes(1 - opener),
    };
    let now = nm_told {
        bytes: snapshot.hot.bytes,
        packets: [snapshot.hot.packets[0] as u32, snapshot.hot.packets[1] as u32],
    };
    (difference, now)
}

/// The handshake's time has not been told yet.
fn handshake_waits(snapshot: &Snapshot) -> bool {
    snapshot.cold.handshake_us > 0 && snapshot.cold.agent_flags & note::HANDSHAKE == 0
}

/// The handshake's time if it has not been told yet; notes that it is told now. With the first word of a flow only if what it
/// speaks is known already: metrics tell handshakes by protocol, which shows after them.
fn handshake_news(snapshot: &mut Snapshot, first: bool) -> Option<u32> {
    let known = decode::app(&snapshot.timing).is_some_and(|app| app != App::Unknown);
    let news = handshake_waits(snapshot) && (known || !first);
    snapshot.cold.agent_flags |= if news { note::HANDSHAKE } else { 0 };
    news.then_some(snapshot.cold.handshake_us)
}

/// Round trips and retransmits that have not been told yet, and are told now.
fn measured_news(table: &Table, slot: u32, snapshot: &Snapshot) -> (NewRtts, u32) {
    let rtts = if snapshot.has_rtts() { table.take_rtts(slot) } else { NewRtts::default() };
    let retransmits = snapshot.detail.retransmits[0].wrapping_add(snapshot.detail.retransmits[1]);
    (rtts, if retransmits > 0 { table.tell_retransmits(slot, retransmits) } else { 0 })
}

impl Ledger {
    /// Empty books.
    pub fn new(context: Context) -> Self {
        Self { context, live: 0, departed: Departed::default(), aliases: 0, departed_aliases: 0 }
    }

    /// Looks at a live slot: what is new about it, if anything. `told_apart`: something is new besides counts.
    pub fn look(
        &mut self,
        table: &Table,
        slot: u32,
        now_ns: u64,
        event_ns: u64,
        told_apart: bool,
    ) -> Option<FlowUpdate> {
        let mut snapshot = table.read(slot)?;
        if snapshot.cold.agent_flags & (MOVED | note::JOINED) != 0 {
            // The slot that took over tells it.
            return None;
        }
        let known = snapshot.cold.agent_flags & note::KNOWN != 0;
        let (delta, told) = delta(&snapshot, table.told(slot));
        if known && delta.is_zero() && !told_apart && !handshake_waits(&snapshot) {
            return None;
        }
        let handshake_us = handshake_news(&mut snapshot, !known);
        let (rtts, new_retransmits) = measured_news(table, slot, &snapshot);
        if !known {
            self.live += 1;
            snapshot.cold.agent_direction = direction_code(self.context.direction(&snapshot));
            snapshot.cold.agent_flags |= note::KNOWN;
        }
        table.set_notes(slot, snapshot.cold.agent_direction, snapshot.cold.agent_flags);
        let flow = flow(&snapshot, &self.context, now_ns, false)?;
        table.set_told(slot, told);
        let change = if known { Change::Active } else { Change::Opened };
        Some(FlowUpdate { flow, delta, handshake_us, rtts, new_retransmits, change, event_ns })
    }

    /// Slots that are taken.
    pub fn taken(&self) -> u64 {
        self.live + self.aliases
    }

    /// Slots that were given back.
    pub fn given_back(&self) -> u64 {
        self.departed.flows + self.departed_aliases
    }

    /// Takes note of an alias; the tag of another one that its flow had until now.
    pub fn adopt(&mut self, table: &Table, slot: u32, alias: &Snapshot) -> Option<u64> {
        let (flow, mut ends) = (alias.stands_for()?, decode::sides(&alias.cold)?);
        if alias.cold.agent_flags & note::KNOWN == 0 {
            self.aliases += 1;
            table.set_notes(slot, 0, alias.cold.agent_flags | note::KNOWN);
        }
        if alias.swapped() {
            ends.reverse();
        }
        let tag = alias.tag & !DEAD;
        let before = self.context.pairs.insert(flow, Pair { alias: tag, ends })?;
        (before.alias != tag).then_some(before.alias)
    }

    /// Takes a dead alias whose grace period has passed: the slot is free.
    pub fn forget(&mut self, table: &Table, slot: u32, alias: &Snapshot) {
        if alias.cold.agent_flags & note::KNOWN != 0 {
            self.aliases = self.aliases.saturating_sub(1);
            self.departed_aliases += 1;
        }
        table.clear(slot);
    }

    /// Takes a dead slot whose grace period has passed: its last word, and the slot is free. A flow that was
    /// never told is told as opened first.
    pub fn harvest(&mut self, table: &Table, slot: u32, now_ns: u64, out: &mut Vec<FlowUpdate>) {
        let Some(snapshot) = table.read(slot) else { return };
        if snapshot.cold.agent_flags & note::KNOWN == 0 {
            out.extend(self.look(table, slot, now_ns, 0, false));
        }
        let (delta, _) = delta(&snapshot, table.told(slot));
        let total = snapshot.counters();
        self.live = self.live.saturating_sub(1);
        self.departed.flows += 1;
        self.departed.packets += total.packets();
        self.departed.bytes += total.bytes();
        let mut noted = table.read(slot).unwrap_or(snapshot);
        let handshake_us = handshake_news(&mut noted, false);
        let (rtts, new_retransmits) = measured_news(table, slot, &noted);
        if let Some(flow) = flow(&noted, &self.context, now_ns, true) {
            let change = Change::Ended;
            out.push(FlowUpdate { flow, delta, handshake_us, rtts, new_retransmits, change, event_ns: 0 });
        }
        if let Some(tunnels) = self.context.tunnels.as_ref().filter(|_| decode::in_tunnel(&noted)) {
            tunnels.remove(id(&noted));
        }
        table.clear(slot);
    }
}
