#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr};

use super::alert::{Kind, Subject};
use super::{Detector, Settings};
use crate::flow::key::{FlowKey, Protocol};
use crate::flow::measured::NewRtts;
use crate::flow::record::{Direction, IcmpErrors, Reason, State, Status};
use crate::flow::update::{Change, Counters, Flow, FlowUpdate};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const FIN: u8 = 0x01;

fn detector() -> Detector {
    Detector::new(Settings { port_scans: true, patterns: true, allow: Vec::new() })
}

/// A TCP connection that ended, `at` seconds after the beginning.
fn ended(src: SocketAddr, dst: SocketAddr, flags: [u8; 2], reason: Option<Reason>, at: f64) -> FlowUpdate {
    let at_ns = (at * 1e9) as u64 + 1_000_000_000;
    let total = Counters {
        packets_sent: 2,
        packets_received: u64::from(flags[1] != 0),
        bytes_sent: 148,
        bytes_received: 60,
    };
    let flow = Flow {
        id: at_ns ^ u64::from(dst.port()),
        key: FlowKey { protocol: Protocol::TCP, src, dst },
        direction: Direction::Ingress,
        total,
        start_ns: at_ns,
        end_ns: at_ns,
        state: State::Closed,
        status: if reason.is_some() { Status::Failed } else { Status::Ok },
        reason,
        tcp_flags: flags,
        handshake_us: None,
        icmp: None,
        reset_by_opener: None,
        measured: None,
        icmp_errors: IcmpErrors::default(),
        opener_seen: true,
        seen_on: [1, 0, 0, 0],
        folded: None,
    };
    FlowUpdate {
        flow,
        delta: total,
        handshake_us: None,
        rtts: NewRtts::default(),
        new_retransmits: 0,
        change: Change::Ended,
        event_ns: 0,
    }
}

fn refused(src: SocketAddr, dst: SocketAddr, at: f64) -> FlowUpdate {
    ended(src, dst, [SYN, RST | ACK], Some(Reason::Refused), at)
}

fn well(src: SocketAddr, dst: SocketAddr, at: f64) -> FlowUpdate {
    ended(src, dst, [SYN | ACK | FIN, SYN | ACK | FIN], None, at)
}

fn end(last: u32, port: u16) -> SocketAddr {
    SocketAddr::from((IpAddr::from((0x0a00_0000 + last).to_be_bytes()), port))
}

/// Kinds of the alerts that these updates raise.
fn raised(updates: impl IntoIterator<Item = FlowUpdate>) -> Vec<(Kind, Subject)> {
    let mut detector = detector();
    for update in updates {
        detector.observe(&[update]);
    }
    detector.alerts.newest_first().iter().map(|alert| (alert.kind, alert.subject)).collect()
}

#[test]
fn a_port_scan_is_one_alert_and_names_its_ends() {
    let scan = |ports: u16| {
        (1..=ports).map(|port| refused(end(1, 40_000 + port), end(2, port), f64::from(port) / 100.0))
    };
    assert_eq!(raised(scan(15)), []);
    let subject = Subject { src: Some(end(1, 0).ip()), dst: Some(end(2, 0).ip()), port: None };
    assert_eq!(raised(scan(1000)), [(Kind::PortScan, subject)]);
    let mut detector = detector();
    detector.observe(&scan(100).collect::<Vec<_>>());
    let alert = detector.alerts.newest_first()[0];
    assert!((80..=120).contains(&alert.found.distinct) && alert.found.in_vain == 100, "{alert:?}");
    assert!(alert.found.examples.iter().all(|id| *id != 0));
    assert!(alert.message().contains("ports of 10.0.0.2"), "{}", alert.message());
    assert_eq!(detector.alerts.events(Kind::PortScan), 1);
}

#[test]
fn a_half_open_scan_is_seen_by_the_rst_after_the_answer() {
    let updates = (1..=30).map(|port| ended(end(1, 50_000), end(2, port), [SYN | RST, SYN | ACK], None, 0.1));
    assert_eq!(raised(updates).len(), 1);
}

#[test]
fn a_scan_that_takes_its_time_is_seen() {
    let updates = (1..=60u16).map(|port| refused(end(1, 50_000), end(2, port), f64::from(port) * 25.0));
    assert_eq!(raised(updates).len(), 1);
}

#[test]
fn a_sweep_over_hosts_names_the_port() {
    let updates =
        (10..50).map(|host| ended(end(1, 50_000), end(host, 22), [SYN, 0], Some(Reason::Timeout), 1.0));
    let subject = Subject { src: Some(end(1, 0).ip()), dst: None, port: Some(22) };
    assert_eq!(raised(updates), [(Kind::HostSweep, subject)]);
}

#[test]
fn probes_with_odd_flags_are_seen() {
    for flags in [0, FIN, 0x29] {
        let updates = (1..=5)
            .map(|port| ended(end(1, 50_000), end(2, port), [flags, RST | ACK], Some(Reason::Reset), 1.0));
        assert_eq!(raised(updates)[0].0, Kind::StealthProbe, "{flags:#x}");
    }
}

#[test]
fn connections_that_are_begun_and_not_finished_are_a_flood() {
    let begun = |n: u32| {
        ended(end(n + 100, 1000), end(2, 80), [SYN, SYN | ACK], Some(Reason::Timeout), f64::from(n) / 1000.0)
    };
    let subject = Subject { src: None, dst: Some(end(2, 0).ip()), port: Some(80) };
    assert_eq!(raised((0..2000).map(begun)), [(Kind::SynFlood, subject)]);
    // A busy server, some of whose clients get lost on the way.
    let busy = (0..5000).map(|n| match n % 4 {
        0 => begun(n),
        _ => well(end(n + 100, 1000), end(2, 80), f64::from(n) / 1000.0),
    });
    assert_eq!(raised(busy), []);
}

#[test]
fn many_short_logins_are_a_burst() {
    let login = |n: u16| well(end(1, 40_000 + n), end(2, 22), f64::from(n));
    assert_eq!(raised((0..20).map(login)), []);
    assert_eq!(raised((0..40).map(login))[0].0, Kind::LoginBurst);
}

#[test]
fn who_works_is_not_accused() {
    let server = (0..5000).map(|n| well(end(n, 40_000), end(2, 443), f64::from(n) / 100.0));
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
    let mut detector = Detector::new(Settings { port_scans: true, patterns: true, allow });
    for port in 1..100 {
        detector.observe(&[refused(end(1, 40_000), end(2, port), 1.0)]);
    }
    assert_eq!(detector.alerts.newest_first(), []);
}

#[test]
fn memory_is_bounded_whatever_is_sent() {
    let mut detector = detector();
    for n in 0..100_000 {
        detector.observe(&[refused(end(n, 40_000), end(n + 1, 80), 1.0 + f64::from(n) / 1e6)]);
    }
    assert!(detector.untracked() > 100_000, "{}", detector.untracked());
    // Once the window is over there is room again.
    detector.observe(&[refused(end(1, 40_000), end(2, 80), 4000.0)]);
    let before = detector.untracked();
    detector.observe(&[refused(end(5, 40_000), end(2, 80), 4000.0)]);
    assert_eq!(detector.untracked(), before);
}
