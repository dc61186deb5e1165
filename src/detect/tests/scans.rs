use super::*;

#[test]
fn a_port_scan_is_one_alert_and_names_its_ends() {
    let scan = |ports: u16| {
        (1..=ports).map(|port| refused(end(1, 40_000 + port), end(2, port), f64::from(port) / 100.0))
    };
    assert_eq!(raised(scan(15)), []);
    let subject = Subject {
        protocol: Some(Protocol::TCP),
        src: Some(end(1, 0).ip()),
        dst: Some(end(2, 0).ip()),
        port: None,
    };
    assert_eq!(raised(scan(1000)), [(Kind::PortScan, subject)]);
    let mut detector = detector();
    detector.observe(&scan(100).collect::<Vec<_>>(), &[]);
    let alert = detector.alerts.newest_first()[0];
    assert!((80..=120).contains(&alert.found.distinct) && alert.found.in_vain == 100, "{alert:?}");
    assert!(alert.found.examples.iter().all(|id| *id != 0));
    assert!(
        alert.message(&[None, None]).contains("tcp ports of 10.0.0.2"),
        "{}",
        alert.message(&[None, None])
    );
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
    let subject =
        Subject { protocol: Some(Protocol::TCP), src: Some(end(1, 0).ip()), dst: None, port: Some(22) };
    assert_eq!(raised(updates), [(Kind::HostSweep, subject)]);
}

#[test]
fn sweeps_and_scans_by_udp_are_named_so_and_streams_are_none() {
    let datagram = |host: u32, port: u16| {
        unanswered(update(Protocol::UDP, end(1, 50_000), end(host, port), Change::Ended, 1.0))
    };
    let sweep = raised((10..50).map(|host| datagram(host, 161)));
    assert_eq!((sweep[0].0, sweep[0].1.protocol), (Kind::HostSweep, Some(Protocol::UDP)));
    let scan = raised((1..50).map(|port| datagram(2, port)));
    assert_eq!((scan[0].0, scan[0].1.protocol), (Kind::PortScan, Some(Protocol::UDP)));
    let streams = (1..50).map(|port| sized(datagram(2, port), (500, 600_000), (0, 0)));
    assert_eq!(raised(streams), []);
}

#[test]
fn probes_with_odd_flags_are_seen() {
    for flags in [0, FIN, 0x29] {
        let updates = (1..=5)
            .map(|port| ended(end(1, 50_000), end(2, port), [flags, RST | ACK], Some(Reason::Reset), 1.0));
        assert_eq!(raised(updates)[0].0, Kind::StealthProbe, "{flags:#x}");
    }
}
