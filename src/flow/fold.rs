//! `flow.aggregation`: conversations that differ only in the client's port are told as one, once an interval. Sums of
//! packets and bytes over folded records are those of the flows: nothing is told twice and nothing left out. Backends that
//! answer for a translated address stay apart; of a translated client its port is folded, too.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::app::App;
use super::key::{FlowKey, Protocol};
use super::record::{Direction, Status};
use super::tunnel::Tunnel;
use super::update::{Change, Counters, Flow, FlowUpdate, Folded, Translation};
use super::who::Who;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    protocol: Protocol,
    src: IpAddr,
    dst: SocketAddr,
    nat: Option<Translation>,
    direction: Direction,
    tunnel: Option<Tunnel>,
}

/// Folds updates until they are taken.
#[derive(Debug)]
pub struct Fold {
    interval_ns: u64,
    told: HashMap<Key, FlowUpdate>,
}

impl Fold {
    /// Of flows that report so often (`flow.active_interval`).
    pub fn of(interval: Duration) -> Self {
        Self { interval_ns: crate::clock::nanoseconds(interval), told: HashMap::new() }
    }

    /// Since when what is new in an update has passed, at the earliest.
    fn since_ns(&self, update: &FlowUpdate) -> u64 {
        let flow = &update.flow;
        match update.change {
            Change::Opened => flow.start_ns,
            _ => flow.start_ns.max(flow.end_ns.saturating_sub(self.interval_ns)),
        }
    }

    /// Takes one in.
    pub fn add(&mut self, update: &FlowUpdate) {
        let flow = &update.flow;
        // The echo identifier stands in both ports.
        let is_icmp = matches!(flow.key.protocol, Protocol::ICMP | Protocol::ICMPV6);
        let served = |end: SocketAddr| SocketAddr::new(end.ip(), if is_icmp { 0 } else { end.port() });
        let nat = flow.nat.map(|nat| Translation {
            src: nat.src.map(|end| SocketAddr::new(end.ip(), 0)),
            dst: nat.dst.map(served),
        });
        let key = Key {
            protocol: flow.key.protocol,
            src: flow.key.src.ip(),
            dst: served(flow.key.dst),
            nat,
            direction: flow.direction,
            tunnel: flow.tunnel,
        };
        let since_ns = self.since_ns(update);
        let entry = self.told.entry(key).or_insert_with(|| fresh(&key, update));
        let whole = &mut entry.flow;
        whole.start_ns = whole.start_ns.min(since_ns);
        let mut folded = whole.folded.unwrap_or_default();
        match update.change {
            Change::Opened => folded.opened += 1,
            Change::Active => {}
            Change::Ended => folded.ended += 1,
        }
        if flow.status == Status::Failed && update.change == Change::Ended {
            folded.failed += 1;
            whole.reason = flow.reason;
        }
        whole.status = match folded {
            Folded { ended: 0, .. } => Status::Active,
            Folded { ended, failed, .. } if ended == failed => Status::Failed,
            _ => Status::Ok,
        };
        if whole.status != Status::Failed {
            whole.reason = None;
        }
        whole.folded = Some(folded);
        whole.total.packets_sent += update.delta.packets_sent;
        whole.total.packets_received += update.delta.packets_received;
        whole.total.bytes_sent += update.delta.bytes_sent;
        whole.total.bytes_received += update.delta.bytes_received;
        whole.end_ns = whole.end_ns.max(flow.end_ns);
        whole.state = flow.state;
        whole.app = whole.app.filter(|app| *app != App::Unknown).or(flow.app);
        whole.opener_seen &= flow.opener_seen;
        whole.reset_by_opener = whole.reset_by_opener.or(flow.reset_by_opener);
        whole.handshake_us = whole.handshake_us.into_iter().chain(update.handshake_us).min();
        whole.icmp_errors = whole.icmp_errors.iter().chain(flow.icmp_errors.iter()).collect();
        // A record has one name for an end, or none.
        for (all, who) in whole.who.iter_mut().zip(flow.who) {
            *all = if *all == who { who } else { Who::Unknown };
        }
        for (all, flags) in whole.tcp_flags.iter_mut().zip(flow.tcp_flags) {
            *all |= flags;
        }
        entry.delta = whole.total;
    }

    /// Folded conversations that have something new.
    pub fn len(&self) -> usize {
        self.told.len()
    }

    /// Nothing is new.
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// All that was added since the last time.
    pub fn take(&mut self) -> impl Iterator<Item = FlowUpdate> {
        self.told.drain().map(|(_, update)| update)
    }
}

fn fresh(key: &Key, update: &FlowUpdate) -> FlowUpdate {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let flow = Flow {
        id: hasher.finish(),
        key: FlowKey { protocol: key.protocol, src: (key.src, 0).into(), dst: key.dst },
        nat: key.nat,
        total: Counters::default(),
        // What was told before is not in this record.
        start_ns: update.flow.end_ns,
        handshake_us: None,
        // Of many flows there is no one round trip.
        measured: None,
        dns: None,
        folded: Some(Folded::default()),
        ..update.flow
    };
    FlowUpdate::new(flow, Counters::default(), Change::Active)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::record::{Reason, State};
    use crate::flow::tunnel::TunnelKind;

    fn update(port: u16, change: Change, reason: Option<Reason>) -> FlowUpdate {
        let delta = Counters { packets_sent: 2, packets_received: 1, bytes_sent: 200, bytes_received: 70 };
        let status = match (change, reason) {
            (Change::Ended, Some(_)) => Status::Failed,
            (Change::Ended, None) => Status::Ok,
            _ => Status::Active,
        };
        let key = FlowKey {
            protocol: Protocol::TCP,
            src: ([10, 0, 0, 1], port).into(),
            dst: ([10, 0, 0, 2], 443).into(),
        };
        let flow = Flow {
            total: Counters { packets_sent: 1000, ..delta },
            start_ns: 1000 + u64::from(port),
            end_ns: 2000 + u64::from(port),
            state: State::Established,
            status,
            reason,
            tcp_flags: [0x12, 0x10],
            handshake_us: Some(500),
            ..Flow::new(u64::from(port), key, Direction::Egress)
        };
        FlowUpdate { handshake_us: Some(u32::from(port)), ..FlowUpdate::new(flow, delta, change) }
    }

    #[test]
    fn client_ports_are_folded_and_sums_are_exact() {
        let mut fold = Fold::of(Duration::from_nanos(500));
        for port in 1..=10 {
            fold.add(&update(port, Change::Opened, None));
            fold.add(&update(port, Change::Ended, None));
        }
        let told: Vec<FlowUpdate> = fold.take().collect();
        assert_eq!(told.len(), 1);
        let one = &told[0];
        assert_eq!(one.flow.folded, Some(Folded { opened: 10, ended: 10, failed: 0 }));
        assert_eq!((one.flow.total.packets(), one.flow.total.bytes()), (60, 5400));
        assert_eq!((one.flow.key.src.port(), one.flow.key.dst.port()), (0, 443));
        assert_eq!((one.flow.status, one.flow.handshake_us), (Status::Ok, Some(1)));
        assert_eq!((one.flow.start_ns, one.flow.end_ns), (1001, 2010), "of the first and the last of them");
        assert!(fold.is_empty());
        fold.add(&update(1, Change::Active, None));
        fold.add(&update(3, Change::Active, None));
        let later: Vec<FlowUpdate> = fold.take().collect();
        let flow = &later[0].flow;
        assert_eq!((flow.start_ns, flow.end_ns), (1501, 2003), "what passed since they were told last");
    }

    #[test]
    fn a_record_has_failed_when_all_that_ended_in_it_failed() {
        let mut fold = Fold::of(Duration::from_nanos(500));
        fold.add(&update(1, Change::Ended, Some(Reason::Refused)));
        fold.add(&update(2, Change::Active, None));
        let first: Vec<FlowUpdate> = fold.take().collect();
        assert_eq!((first[0].flow.status, first[0].flow.reason), (Status::Failed, Some(Reason::Refused)));
        fold.add(&update(3, Change::Ended, Some(Reason::Refused)));
        fold.add(&update(4, Change::Ended, None));
        let second: Vec<FlowUpdate> = fold.take().collect();
        assert_eq!((second[0].flow.status, second[0].flow.reason), (Status::Ok, None));
        assert_eq!(second[0].flow.folded, Some(Folded { opened: 0, ended: 2, failed: 1 }));
        assert_eq!(first[0].flow.id, second[0].flow.id, "the same conversation keeps its id");
    }

    #[test]
    fn backends_stay_apart_and_ports_of_a_translated_client_do_not() {
        let mut fold = Fold::of(Duration::from_nanos(500));
        for (port, backend) in [(1, 8), (2, 8), (3, 9)] {
            let mut one = update(port, Change::Opened, None);
            let src = Some(([10, 0, 0, 7], port + 100).into());
            one.flow.nat = Some(Translation { src, dst: Some(([10, 1, 0, backend], 8443).into()) });
            fold.add(&one);
        }
        let mut told: Vec<_> = fold.take().map(|one| (one.flow.nat, one.flow.folded)).collect();
        told.sort_by_key(|(nat, _)| nat.and_then(|nat| nat.dst));
        let with = |backend: u8, opened| {
            let nat = Translation {
                src: Some(([10, 0, 0, 7], 0).into()),
                dst: Some(([10, 1, 0, backend], 8443).into()),
            };
            (Some(nat), Some(Folded { opened, ..Folded::default() }))
        };
        assert_eq!(told, [with(8, 2), with(9, 1)]);
    }

    #[test]
    fn servers_protocols_directions_and_tunnels_stay_apart() {
        let mut fold = Fold::of(Duration::from_nanos(500));
        fold.add(&update(1, Change::Opened, None));
        let mut other = update(1, Change::Opened, None);
        other.flow.key.dst.set_port(80);
        fold.add(&other);
        other.flow.key.protocol = Protocol::UDP;
        fold.add(&other);
        other.flow.direction = Direction::Ingress;
        fold.add(&other);
        let end = other.flow.key.src.ip();
        other.flow.tunnel = Some(Tunnel { kind: TunnelKind::Vxlan, vni: 7, src: end, dst: end });
        fold.add(&other);
        assert_eq!(fold.len(), 5);
    }
}
