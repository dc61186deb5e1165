use super::*;

fn kinds(updates: impl IntoIterator<Item = FlowUpdate>) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = raised(updates).into_iter().map(|(kind, _)| kind).collect();
    kinds.sort();
    kinds
}

#[test]
fn connections_that_are_begun_and_not_finished_are_a_flood() {
    let begun = |n: u32| {
        ended(end(n + 100, 1000), end(2, 80), [SYN, SYN | ACK], Some(Reason::Timeout), f64::from(n) / 1000.0)
    };
    let subject =
        Subject { protocol: Some(Protocol::TCP), src: None, dst: Some(end(2, 0).ip()), port: Some(80) };
    assert_eq!(raised((0..2000).map(begun)), [(Kind::SynFlood, subject)]);
    // A busy server, some of whose clients get lost on the way.
    let busy = (0..5000).map(|n| match n % 4 {
        0 => begun(n),
        _ => well(end(n + 100, 1000), end(2, 80), f64::from(n) / 1000.0),
    });
    assert_eq!(raised(busy), []);
}

#[test]
fn packets_from_everywhere_of_which_nothing_comes_are_one_alert() {
    let at = |n: u32| f64::from(n) / 1000.0;
    let syn = (0..2000).map(|n| ended(anywhere(n), end(2, 80), [SYN, 0], Some(Reason::Timeout), at(n)));
    assert_eq!(kinds(syn), [Kind::SynFlood, Kind::SpoofedBurst]);
    let udp = (0..2000)
        .map(|n| unanswered(update(Protocol::UDP, anywhere(n), end(2, n as u16), Change::Opened, at(n))));
    let subject = Subject { protocol: Some(Protocol::UDP), src: None, dst: Some(end(2, 0).ip()), port: None };
    assert_eq!(raised(udp), [(Kind::SpoofedBurst, subject)]);
    // The host answers, and nobody is there to hear it.
    let ping = (0..2000).map(|n| {
        let mut update = update(Protocol::ICMP, anywhere(n), end(2, 0), Change::Opened, at(n));
        update.flow.icmp = Some((8, 0));
        update
    });
    assert_eq!(kinds(ping), [Kind::SpoofedBurst]);
    let v6 = (0..2000u128).map(|n| {
        let mut update = unanswered(update(Protocol::UDP, anywhere(0), end(2, 9), Change::Opened, 1.0));
        update.flow.key.src = (IpAddr::from((n | 0x2000_0000 << 96 | n << 96).to_be_bytes()), 1000).into();
        update
    });
    assert_eq!(kinds(v6), [Kind::SpoofedBurst]);
}

#[test]
fn many_clients_are_no_burst() {
    let udp = |src: SocketAddr, n: u32, change: Change| {
        update(Protocol::UDP, src, end(2, 53), change, f64::from(n) / 1000.0)
    };
    let dns = (0..5000).map(|n| udp(anywhere(n), n, Change::Opened));
    assert_eq!(raised(dns), [], "a name server that everybody asks once");
    // Half of them are answered only after the first look.
    let slow = (0..5000).flat_map(|n| {
        let first = udp(anywhere(n), n, Change::Opened);
        if n % 2 == 0 { vec![unanswered(first), udp(anywhere(n), n, Change::Active)] } else { vec![first] }
    });
    assert_eq!(raised(slow), [], "one that takes its time");
    let log = (0..5000).map(|n| unanswered(udp(end(n, 514), n, Change::Opened)));
    assert_eq!(raised(log), [], "a collector of logs that never answers");
    let few = (0..900).map(|n| unanswered(udp(anywhere(n), n, Change::Opened)));
    assert_eq!(raised(few), [], "some background noise");
    let slowly = (0..5000).map(|n| unanswered(udp(anywhere(n), n * 20, Change::Opened)));
    assert_eq!(raised(slowly), [], "more of it, over a long time");
    let lost = (0..20_000).map(|n| match n % 10 {
        0 => ended(anywhere(n), end(2, 443), [SYN, SYN | ACK], Some(Reason::Timeout), f64::from(n) / 1000.0),
        _ => well(anywhere(n), end(2, 443), f64::from(n) / 1000.0),
    });
    assert_eq!(raised(lost), [], "a web server for the world, some of whose clients get lost");
    let ping = (0..5000).map(|n| {
        let mut update =
            update(Protocol::ICMP, end(n % 300, 0), end(2, 0), Change::Opened, f64::from(n) / 1000.0);
        update.flow.icmp = Some((8, 0));
        update
    });
    assert_eq!(raised(ping), [], "a gateway that all of a company ping");
}
