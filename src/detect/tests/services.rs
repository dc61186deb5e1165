use super::super::services::{EPHEMERAL, ephemeral};
use super::*;

fn learning(seconds: f64) -> Settings {
    Settings { learn_until_ns: ns(seconds), ephemeral: EPHEMERAL, ..settings() }
}

#[test]
fn a_port_that_begins_to_answer_is_told_once() {
    let visits = |at: f64| [well(end(1, 40_000), end(2, 22), 1.0), well(end(1, 40_000), end(2, 8080), at)];
    assert_eq!(raised_with(learning(600.0), visits(500.0)), []);
    let subject = Subject {
        protocol: Some(Protocol::TCP),
        src: Some(end(1, 0).ip()),
        dst: Some(end(2, 0).ip()),
        port: Some(8080),
    };
    assert_eq!(raised_with(learning(600.0), visits(700.0)), [(Kind::NewService, subject)]);
    let mut detector = Detector::new(learning(600.0));
    for n in 0..1000u16 {
        detector.observe(&[well(end(u32::from(n), 40_000), end(2, 8080), 700.0 + f64::from(n) * 60.0)], &[]);
    }
    assert_eq!(detector.alerts.events(Kind::NewService), 1);
    let message = detector.alerts.newest_first()[0].message(&[None, None]);
    assert!(message.starts_with("10.0.0.2 tcp port 8080 answered 10.0.0.0"), "{message}");
}

#[test]
fn udp_counts_when_it_answers_and_apart_from_tcp() {
    let tcp = well(end(1, 40_000), end(2, 53), 1.0);
    let datagram = update(Protocol::UDP, end(1, 40_000), end(2, 53), Change::Opened, 700.0);
    assert_eq!(raised_with(learning(600.0), [tcp, unanswered(datagram)]), []);
    assert_eq!(raised_with(learning(600.0), [tcp, datagram])[0].1.protocol, Some(Protocol::UDP));
}

#[test]
fn what_is_no_service_of_this_host_is_not_told() {
    let at = 700.0;
    let refused = refused(end(1, 40_000), end(2, 8080), at);
    let passive = well(end(1, 40_000), end(2, 40_001), at);
    let mut elsewhere = well(end(1, 40_000), end(2, 8080), at);
    elsewhere.flow.direction = Direction::Egress;
    let mut through = elsewhere;
    through.flow.direction = Direction::Forwarded;
    let mut halfway = well(end(1, 40_000), end(2, 8080), at);
    halfway.flow.opener_seen = false;
    assert_eq!(raised_with(learning(600.0), [refused, passive, elsewhere, through, halfway]), []);
    let container = well(end(1, 40_000), end(9, 8080), at);
    assert_eq!(
        raised_with(learning(600.0), [well(end(1, 40_000), end(2, 8080), 1.0), container]),
        [],
        "the next container of the same service"
    );
}

#[test]
fn of_who_is_allowed_is_learned_and_not_told() {
    let allow = vec![crate::flow::cidr::Cidr::parse("10.0.0.1/32").unwrap()];
    let visits = [well(end(1, 40_000), end(2, 8080), 700.0), well(end(3, 40_000), end(2, 8080), 800.0)];
    assert_eq!(raised_with(Settings { allow, ..learning(600.0) }, visits), []);
}

#[test]
fn what_answered_while_nobody_looked_is_not_new_afterwards() {
    let mut detector = Detector::new(Settings { port_scans: false, patterns: false, ..learning(600.0) });
    detector.observe(&[well(end(1, 40_000), end(2, 8080), 700.0)], &[]);
    detector.configure(learning(600.0));
    detector.observe(
        &[well(end(1, 40_001), end(2, 8080), 800.0), well(end(1, 40_002), end(2, 9090), 800.0)],
        &[],
    );
    let told: Vec<_> = detector.alerts.newest_first().iter().map(|alert| alert.subject.port).collect();
    assert_eq!(told, [Some(9090)]);
}

#[test]
fn the_range_of_ports_is_read_as_the_kernel_writes_it() {
    assert_eq!(ephemeral("32768\t60999\n"), Some((32_768, 60_999)));
    for wrong in ["", "1", "a b", "1 70000", "-1 5"] {
        assert_eq!(ephemeral(wrong), None, "{wrong}");
    }
}
