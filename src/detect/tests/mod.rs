//! The detector in simulated time: each kind, and who must not be taken for it.
#![allow(clippy::unwrap_used)]

mod beacons;
mod floods;
mod logins;
mod scans;
mod services;
mod tunnels;

use std::net::{IpAddr, SocketAddr};

use super::alert::Subject;
use super::kind::Kind;
use super::signs::{ACK, FIN, RST, SYN};
use super::{Detector, Settings};
use crate::flow::key::{FlowKey, Protocol};
use crate::flow::record::{Direction, Reason, State, Status};
use crate::flow::update::{Change, Counters, Flow, FlowUpdate};

fn settings() -> Settings {
    Settings { port_scans: true, patterns: true, learn_until_ns: u64::MAX, ..Settings::default() }
}

fn detector() -> Detector {
    Detector::new(settings())
}

/// What the detector counts in: `at` seconds after the beginning.
fn ns(at: f64) -> u64 {
    (at * 1e9) as u64 + 1_000_000_000
}

/// Two packets one way and one back, all empty.
fn update(protocol: Protocol, src: SocketAddr, dst: SocketAddr, change: Change, at: f64) -> FlowUpdate {
    let total = Counters { packets_sent: 2, packets_received: 1, bytes_sent: 148, bytes_received: 60 };
    let id = ns(at) ^ u64::from(dst.port());
    let flow = Flow {
        total,
        start_ns: ns(at),
        end_ns: ns(at),
        state: State::Closed,
        status: Status::Ok,
        ..Flow::new(id, FlowKey { protocol, src, dst }, Direction::Ingress)
    };
    FlowUpdate::new(flow, total, change)
}

/// The same with these counts.
fn sized(update: FlowUpdate, sent: (u64, u64), received: (u64, u64)) -> FlowUpdate {
    let total = Counters {
        packets_sent: sent.0,
        bytes_sent: sent.1,
        packets_received: received.0,
        bytes_received: received.1,
    };
    FlowUpdate { flow: Flow { total, ..update.flow }, delta: total, ..update }
}

/// A TCP connection that ended.
fn ended(src: SocketAddr, dst: SocketAddr, flags: [u8; 2], reason: Option<Reason>, at: f64) -> FlowUpdate {
    let mut update = update(Protocol::TCP, src, dst, Change::Ended, at);
    update.flow.tcp_flags = flags;
    update.flow.reason = reason;
    update.flow.status = if reason.is_some() { Status::Failed } else { Status::Ok };
    update.flow.total.packets_received = u64::from(flags[1] != 0);
    update
}

fn refused(src: SocketAddr, dst: SocketAddr, at: f64) -> FlowUpdate {
    ended(src, dst, [SYN, RST | ACK], Some(Reason::Refused), at)
}

fn well(src: SocketAddr, dst: SocketAddr, at: f64) -> FlowUpdate {
    ended(src, dst, [SYN | ACK | FIN, SYN | ACK | FIN], None, at)
}

/// A datagram that nobody answered, so far.
fn unanswered(update: FlowUpdate) -> FlowUpdate {
    sized(update, (1, 60), (0, 0))
}

fn end(last: u32, port: u16) -> SocketAddr {
    SocketAddr::from((IpAddr::from((0x0a00_0000 + last).to_be_bytes()), port))
}

/// An address anywhere on the Internet, different for each number, as a random number generator picks them.
fn anywhere(n: u32) -> SocketAddr {
    SocketAddr::from((IpAddr::from(n.wrapping_mul(0x9e37_79b1).to_be_bytes()), 1024 + n as u16 % 60_000))
}

/// Kinds and subjects of the alerts that these updates raise.
fn raised(updates: impl IntoIterator<Item = FlowUpdate>) -> Vec<(Kind, Subject)> {
    raised_with(settings(), updates)
}

fn raised_with(settings: Settings, updates: impl IntoIterator<Item = FlowUpdate>) -> Vec<(Kind, Subject)> {
    let mut detector = Detector::new(settings);
    for update in updates {
        detector.observe(&[update], &[]);
    }
    assert_eq!(detector.untracked(), 0);
    detector.alerts.newest_first().iter().map(|alert| (alert.kind, alert.subject)).collect()
}

#[test]
fn who_works_is_not_accused() {
    let server = (0..5000).map(|n| well(anywhere(n), end(2, 443), f64::from(n) / 100.0));
    assert_eq!(raised(server), [], "a busy web server");
    let checker = (0..1000u16).map(|n| refused(end(1, 40_000 + n), end(2, 8080), f64::from(n)));
    assert_eq!(raised(checker), [], "a health check of what is down");
    let crawler = (0..3000).map(|n| match n % 10 {
        0 => refused(end(1, 40_000), end(n + 100, 443), f64::from(n) / 100.0),
        _ => well(end(1, 40_000), end(n + 100, 443), f64::from(n) / 100.0),
    });
    assert_eq!(raised(crawler), [], "a crawler that meets some dead hosts");
    let nat = (0..3000u32)
        .map(|n| well(end(1, 30_000 + n as u16), end(n % 500, 1 + n as u16), f64::from(n) / 100.0));
    assert_eq!(raised(nat), [], "a router that translates for many");
}

#[test]
fn allowed_sources_may_scan() {
    let allow = vec![crate::flow::cidr::Cidr::parse("10.0.0.0/24").unwrap()];
    let scan = (1..100).map(|port| refused(end(1, 40_000), end(2, port), 1.0));
    assert_eq!(raised_with(Settings { allow, ..settings() }, scan), []);
}

#[test]
fn allowed_workloads_may_scan_and_alerts_say_who_they_are() {
    use crate::clock::WallClock;
    use crate::detect::alert::AlertRecord;
    use crate::enrich::kubernetes::object::{Change as Told, Name, Object, Owner, Pod, Watched};
    use crate::enrich::kubernetes::{Cluster, cluster};
    let node = None;
    let cluster = Cluster::new(cluster::Settings { node, whole: true, clock: || WallClock::ahead_by(0) });
    let scanner = Pod {
        name: Name { namespace: "shop".into(), name: "probe-x".into() },
        uid: 1,
        node: None,
        addresses: vec![end(1, 0).ip()],
        host_network: false,
        owner: Some(Owner { kind: "DaemonSet".into(), name: "probe".into() }),
        template_hash: None,
        started: None,
        ended: None,
        containers: Vec::new(),
    };
    cluster.take(Told::Applied(Object::Pod(scanner)), 0);
    let directory = crate::enrich::Directory { host: None, cluster: Some(std::sync::Arc::new(cluster)) };
    let scan: Vec<FlowUpdate> = (1..100).map(|port| refused(end(1, 40_000), end(2, port), 1.0)).collect();
    let known = directory.known(&scan);
    let alerts_with = |allowed: &[&str]| {
        let allow_workloads = allowed.iter().filter_map(|text| super::workload(text)).collect();
        let mut detector = Detector::new(Settings { allow_workloads, ..settings() });
        detector.observe(&scan, &known);
        detector.alerts.newest_first()
    };
    assert_eq!(alerts_with(&["shop/probe"]), []);
    let raised = alerts_with(&["test/probe", "shop/probe-x"]);
    assert_eq!(raised.len(), 1);
    let record = AlertRecord::of(&raised[0], &WallClock::ahead_by(0), Some(&directory));
    assert!(record.message.starts_with("10.0.0.1 (shop/probe-x) tried about"), "{}", record.message);
    assert_eq!(record.src_end.unwrap().workload.as_deref(), Some("probe"));
    assert_eq!(record.dst_end, None);
    for text in ["10.0.0.0/33", "fd00::/200", "shop", "shop/", "/cart", "shop/Cart", "shop/a/b"] {
        assert_eq!(super::workload(text), None, "{text}");
    }
}

#[test]
fn each_part_can_be_switched_off() {
    let scan = || (1..100).map(|port| refused(end(1, 40_000), end(2, port), 1.0));
    assert_eq!(raised_with(Settings { port_scans: false, ..settings() }, scan()), []);
    assert_eq!(raised_with(Settings { patterns: false, ..settings() }, scan()).len(), 1);
    let probes =
        || (1..9).map(|port| ended(end(1, 50_000), end(2, port), [0, RST | ACK], Some(Reason::Reset), 1.0));
    assert_eq!(raised_with(Settings { patterns: false, ..settings() }, probes()), []);
}

#[test]
fn memory_is_bounded_whatever_is_sent() {
    let mut detector = detector();
    for n in 0..100_000 {
        detector.observe(&[refused(end(n, 40_000), end(n + 1, 80), 1.0 + f64::from(n) / 1e6)], &[]);
    }
    assert!(detector.untracked() > 100_000, "{}", detector.untracked());
    // Once the window is over there is room again.
    detector.observe(&[refused(end(1, 40_000), end(2, 80), 4000.0)], &[]);
    let before = detector.untracked();
    detector.observe(&[refused(end(5, 40_000), end(2, 80), 4000.0)], &[]);
    assert_eq!(detector.untracked(), before);
}

#[test]
fn what_goes_on_is_one_event_and_what_comes_back_later_another() {
    let mut detector = detector();
    let mut scan = |at: f64| {
        let ports = (1..=30).map(|port| refused(end(1, 40_000), end(2, port), at));
        detector.observe(&ports.collect::<Vec<_>>(), &[]);
        (detector.alerts.newest_first().len(), detector.alerts.events(Kind::PortScan))
    };
    assert_eq!(scan(0.0), (1, 1));
    assert_eq!(scan(300.0), (1, 1));
    assert_eq!(scan(3000.0), (1, 2));
}

#[test]
fn a_thousand_and_more_at_once_are_told_once_each_and_hide_nothing_graver() {
    let mut detector = detector();
    let probes = |n: u32, at: f64| ended(end(n + 100, 4000), end(2, 80), [FIN, 0], None, at);
    for round in 0..5u32 {
        for n in 0..1500 {
            detector.observe(&[probes(n, f64::from(round) + f64::from(n) / 1e4)], &[]);
        }
    }
    let told = detector.alerts.events(Kind::StealthProbe);
    assert!((900..=1000).contains(&told), "{told}: one for each that found a place");
    assert!(detector.untracked() > 0);
    let half_open =
        |n: u32| ended(end(n + 9000, 1000), end(3, 80), [SYN, SYN | ACK], Some(Reason::Timeout), 6.0);
    detector.observe(&(0..3000).map(half_open).collect::<Vec<_>>(), &[]);
    assert_eq!(detector.alerts.events(Kind::SynFlood), 1);
    detector.observe(&(0..9).map(|n| probes(5000, 4000.0 + f64::from(n))).collect::<Vec<_>>(), &[]);
    assert!(detector.alerts.events(Kind::StealthProbe) > told, "those before are over");
}

#[test]
fn every_kind_says_what_to_do() {
    let names: std::collections::HashSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
    for kind in Kind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        assert!(kind.hint().len() > 20);
    }
}
