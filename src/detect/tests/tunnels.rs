use super::*;

/// One query, DNS message of so many bytes, over a flow of its own.
fn query(n: u32, message: u64, at: f64) -> FlowUpdate {
    let update = update(Protocol::UDP, end(1, 1024 + n as u16), end(2, 53), Change::Opened, at);
    sized(update, (1, message + 42), (1, message + 100))
}

/// What was added to one long flow.
fn more(queries: u64, message: u64, at: f64) -> FlowUpdate {
    let update = update(Protocol::UDP, end(1, 5353), end(2, 53), Change::Active, at);
    sized(update, (queries, queries * (message + 42)), (queries, queries * (message + 100)))
}

#[test]
fn many_large_queries_for_long_are_a_tunnel() {
    let subject =
        Subject { protocol: None, src: Some(end(1, 0).ip()), dst: Some(end(2, 0).ip()), port: Some(53) };
    let tunnel = (0..1000).map(|n| query(n, 200, f64::from(n) / 20.0));
    assert_eq!(raised(tunnel), [(Kind::DnsTunnel, subject)], "a port for each query");
    let tunnel = (0..10).map(|n| more(100, 200, f64::from(n) * 5.0));
    assert_eq!(raised(tunnel), [(Kind::DnsTunnel, subject)], "all in one flow");
    let tcp = (0..10).map(|n| {
        let mut update = more(100, 250, f64::from(n) * 5.0);
        update.flow.key.protocol = Protocol::TCP;
        update
    });
    assert_eq!(raised(tcp), [(Kind::DnsTunnel, subject)], "by TCP");
    let hidden = (0..6000).map(|n| query(n, if n % 3 == 0 { 240 } else { 45 }, f64::from(n) / 100.0));
    assert_eq!(raised(hidden), [(Kind::DnsTunnel, subject)], "between ordinary queries");
    let mut detector = detector();
    detector.observe(&(0..1000).map(|n| query(n, 200, f64::from(n) / 20.0)).collect::<Vec<_>>(), &[]);
    let message = detector.alerts.newest_first()[0].message(&[None, None]);
    assert!(message.contains("large queries") && message.contains("242 bytes each"), "{message}");
}

#[test]
fn busy_resolvers_are_none() {
    let resolver = (0..60_000).map(|n| query(n, 40 + u64::from(n % 50), f64::from(n) / 1000.0));
    assert_eq!(raised(resolver), [], "thousands of ordinary queries");
    let backwards = (0..60_000).map(|n| query(n, 113, f64::from(n) / 1000.0));
    assert_eq!(raised(backwards), [], "a mail server that looks up IPv6 addresses backwards");
    let hashes = (0..60_000).map(|n| query(n, if n % 10 == 0 { 180 } else { 50 }, f64::from(n) / 1000.0));
    assert_eq!(raised(hashes), [], "some of them long");
    let updates = (0..500).map(|n| query(n, 250, f64::from(n) / 100.0));
    assert_eq!(raised(updates), [], "a moment's dynamic updates");
    let few = (0..500).map(|n| query(n, 250, f64::from(n)));
    assert_eq!(raised(few), [], "a few of them all the time");
    let transfer = (0..20).map(|n| sized(more(1, 0, f64::from(n)), (900, 900 * 50), (900, 900 * 1500)));
    assert_eq!(raised(transfer), [], "a zone transfer");
    let other = (0..1000).map(|n| {
        let mut update = query(n, 400, f64::from(n) / 20.0);
        update.flow.key.dst.set_port(443);
        update
    });
    assert_eq!(raised(other), [], "not DNS");
}
