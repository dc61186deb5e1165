use super::*;

fn far(n: u8) -> SocketAddr {
    ([203, 0, 113, n], 443).into()
}

/// One small conversation of this host with somebody far away.
fn call(dst: SocketAddr, bytes: u64, at: f64) -> FlowUpdate {
    let mut update = sized(well(end(1, 40_000), dst, at), (8, bytes), (7, 2 * bytes));
    update.flow.direction = Direction::Egress;
    update
}

/// A random share in -0.5..0.5.
fn random(n: u32) -> f64 {
    f64::from(n.wrapping_add(7).wrapping_mul(0x9e37_79b1).rotate_left(13).wrapping_mul(0x85eb_ca6b))
        / f64::from(u32::MAX)
        - 0.5
}

#[test]
fn small_conversations_as_regular_as_a_clock_are_a_beacon() {
    let subject = Subject {
        protocol: Some(Protocol::TCP),
        src: Some(end(1, 0).ip()),
        dst: Some(far(9).ip()),
        port: Some(443),
    };
    for interval in [6.0, 60.0, 3600.0, 14_400.0] {
        let beats = |count: u32| (0..count).map(|n| call(far(9), 600, f64::from(n) * interval));
        assert_eq!(raised(beats(8)), [], "{interval}");
        assert_eq!(raised(beats(9)), [(Kind::Beacon, subject)], "{interval}");
        let mut detector = detector();
        detector.observe(&beats(40).collect::<Vec<_>>(), &[]);
        let alert = detector.alerts.newest_first()[0];
        assert_eq!(
            detector.alerts.events(Kind::Beacon),
            1,
            "{interval}: it is one event as long as it goes on"
        );
        assert_eq!(alert.found.interval_ms, interval as u64 * 1000);
        assert!(
            alert.message(&[None, None]).contains(&format!("every {interval:.1} s, 1800 bytes")),
            "{}",
            alert.message(&[None, None])
        );
        assert_eq!(alert.first_ns, ns(0.0));
    }
    let jitter =
        (0..40).map(|n| call(far(9), 600 + u64::from(n % 3) * 30, (f64::from(n) + random(n) / 5.0) * 60.0));
    assert_eq!(raised(jitter), [(Kind::Beacon, subject)], "it hides its clock a little");
    let pairs = (0..40).map(|n| call(far(9), 600, f64::from(n / 2) * 60.0 + f64::from(n % 2) / 10.0));
    assert_eq!(raised(pairs), [(Kind::Beacon, subject)], "two connections each time");
    let dead = (0..40).map(|n| {
        let mut update = ended(end(1, 40_000), far(9), [SYN, 0], Some(Reason::Timeout), f64::from(n) * 60.0);
        update.flow.direction = Direction::Egress;
        update
    });
    assert_eq!(raised(dead), [(Kind::Beacon, subject)], "its master is gone");
    let guest = (0..40).map(|n| {
        let mut update = call(far(9), 600, f64::from(n) * 60.0);
        update.flow.direction = Direction::Forwarded;
        update
    });
    assert_eq!(raised(guest), [(Kind::Beacon, subject)], "a host behind this router");
}

#[test]
fn checks_and_monitoring_are_none() {
    let every_minute = |n: u32| f64::from(n) * 60.0;
    let check = (0..100).map(|n| {
        let mut update = call(end(7, 8080), 600, every_minute(n));
        update.flow.direction = Direction::Egress;
        update
    });
    assert_eq!(raised(check), [], "a health check in one's own network");
    let outside = (0..100).map(|n| {
        let mut update = sized(well(far(9), far(1), every_minute(n)), (8, 600), (7, 600));
        update.flow.direction = Direction::Ingress;
        update
    });
    assert_eq!(raised(outside), [], "monitoring from outside");
    let clock = (0..100).map(|n| {
        let mut update = update(
            Protocol::UDP,
            end(1, 40_000),
            ([203, 0, 113, 9], 123).into(),
            Change::Ended,
            every_minute(n),
        );
        update.flow.direction = Direction::Egress;
        update
    });
    assert_eq!(raised(clock), [], "NTP");
    let allow = vec![crate::flow::cidr::Cidr::parse("203.0.113.0/24").unwrap()];
    let beats = (0..100).map(|n| call(far(9), 600, every_minute(n)));
    assert_eq!(raised_with(Settings { allow, ..settings() }, beats), [], "a destination that is allowed");
}

#[test]
fn people_and_busy_clients_are_none() {
    let mut at = 0.0;
    let person = (0..300).map(|n| {
        at += 60.0 * (1.0 + random(n));
        call(far(9), 600, at)
    });
    assert_eq!(raised(person), [], "irregular");
    let quick = (0..300).map(|n| call(far(9), 600, f64::from(n) * 2.0));
    assert_eq!(raised(quick), [], "a client that polls all the time");
    let large = (0..100).map(|n| call(far(9), 500_000, f64::from(n) * 60.0));
    assert_eq!(raised(large), [], "a backup");
    let varied = (0..100u32).map(|n| call(far(9), 600 + u64::from(n % 5) * 900, f64::from(n) * 60.0));
    assert_eq!(raised(varied), [], "what is said differs");
}

#[test]
fn a_beacon_is_found_among_very_many_destinations() {
    let mut detector = detector();
    for n in 0..60_000u32 {
        let at = f64::from(n) / 30.0;
        if n % 1800 == 0 {
            detector.observe(&[call(far(9), 600, at)], &[]);
        }
        let site = ([11, (n >> 16) as u8, (n >> 8) as u8, n as u8], 443);
        detector.observe(&[call(site.into(), 600, at)], &[]);
    }
    assert_eq!(detector.alerts.events(Kind::Beacon), 1);
    assert!(detector.untracked() > 0);
}
