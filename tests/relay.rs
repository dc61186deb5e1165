//! The wire that tests of timing and of lost packets stand on does what it says, by the word of the kernels at its ends.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use common::relay::{
    Fault, Passed, Relay, Report, Rule, Way, Which, acknowledge_at_once, tcp_data, tcp_syn, two_wires, wire,
};
use common::tcp::{Connection, Talk, TcpInfo};

const B: (&str, &str) = ("b", "10.9.0.2");

/// Question and answer, a segment each.
const CHAT: Talk = Talk { rounds: 20, request: 100, response: 1000, think: Duration::ZERO };
/// A request of 20 full segments, and a short answer.
const UPLOAD: Talk = Talk { rounds: 1, request: 20 * 1448, response: 100, think: Duration::ZERO };

fn ms(milliseconds: f64) -> Duration {
    Duration::from_secs_f64(milliseconds / 1000.0)
}

/// As asked for, with a tenth and 0.3 ms for the machine.
fn assert_round_trip(asked: Duration, ends: &[TcpInfo]) {
    let asked = u32::try_from(asked.as_micros()).unwrap();
    for end in ends {
        let told = end.min_rtt_us;
        assert!((asked..=asked + asked / 10 + 300).contains(&told), "{asked} us asked for, {ends:#?}");
        assert!(end.rtt_us >= told, "the mean is below the minimum: {ends:#?}");
    }
}

#[test]
fn round_trips_take_what_was_asked_for_at_both_ends() {
    for (rtt, rounds) in [(1.0, 100), (20.0, 20), (100.0, 5)] {
        for (ip, timestamps) in [("10.9.0.2", true), ("10.9.0.2", false), ("fd09::2", true)] {
            let net = wire();
            if !timestamps {
                net.exec("a", "sysctl -qw net.ipv4.tcp_timestamps=0");
            }
            acknowledge_at_once(&net);
            let relay = Relay::start(&net, [ms(rtt / 2.0); 2], Vec::new());
            let connection = Connection::open(&net, "a", ("b", ip));
            connection.talk(Talk { rounds, ..CHAT });
            let ends = connection.info();
            println!("{rtt} ms to {ip}: {ends:?} {:?}", relay.report());
            assert_round_trip(ms(rtt), &ends);
            assert_eq!(ends.map(|end| end.timestamps), [timestamps; 2]);
        }
    }
}

#[test]
fn each_direction_has_its_own_delay() {
    let net = wire();
    acknowledge_at_once(&net);
    let _relay = Relay::start(&net, [ms(60.0), ms(5.0)], Vec::new());
    let connection = Connection::open(&net, "a", B);
    connection.talk(Talk { rounds: 5, ..CHAT });
    assert_round_trip(ms(65.0), &connection.info());
    let Connection { mut client, mut server } = connection;
    let begun = Instant::now();
    client.write_all(b"?").unwrap();
    server.read_exact(&mut [0]).unwrap();
    assert!(begun.elapsed() >= ms(60.0), "{:?} from a to b", begun.elapsed());
}

#[test]
fn two_wires_add_up_and_the_router_is_between() {
    let net = two_wires();
    let _near = Relay::start_in(&net, "m", [ms(10.0); 2], Vec::new());
    let _far = Relay::start_in(&net, "n", [ms(30.0); 2], Vec::new());
    for (client, server, rtt) in
        [("r", ("a", "10.9.0.1"), 20.0), ("r", ("b", "10.8.0.1"), 60.0), ("a", ("b", "10.8.0.1"), 80.0)]
    {
        let connection = Connection::open(&net, client, server);
        connection.talk(Talk { rounds: 5, ..CHAT });
        assert_round_trip(ms(rtt), &connection.info());
    }
}

#[test]
fn acknowledgements_are_late_unless_they_are_asked_for_at_once() {
    let client_rtt_us = |at_once: bool| {
        let net = wire();
        if at_once {
            acknowledge_at_once(&net);
        }
        let _relay = Relay::start(&net, [ms(5.0); 2], Vec::new());
        let connection = Connection::open(&net, "a", B);
        // Shorter than the kernel's patience, so that the answer carries the acknowledgement.
        connection.talk(Talk { think: ms(25.0), ..CHAT });
        let [client, _] = connection.info();
        assert_round_trip(ms(10.0), &[client]);
        client.rtt_us
    };
    let (late, prompt) = (client_rtt_us(false), client_rtt_us(true));
    assert!(late > 20_000 && prompt < 20_000, "late {late} us, at once {prompt} us");
}

/// An upload over a wire with one fault from a to b: what the client says, the server says and the relay did.
fn upload(ip: &str, select: fn(&[u8]) -> bool, which: Which, fault: Fault) -> (TcpInfo, TcpInfo, Report) {
    let net = wire();
    // No segment is sent again on suspicion.
    net.exec("a", "sysctl -qw net.ipv4.tcp_early_retrans=0");
    // A long way, so that a moment's standstill of the machine looks like no loss.
    let relay = Relay::start(&net, [ms(50.0); 2], vec![Rule { way: Way::AToB, select, which, fault }]);
    let connection = Connection::open(&net, "a", ("b", ip));
    connection.talk(UPLOAD);
    let [client, server] = connection.info();
    let report = relay.report();
    println!("{client:?} {server:?} {report:?}");
    assert_eq!(server.total_retrans, 0);
    let received = report.b_to_a.received;
    assert_eq!(report.b_to_a, Passed { received, sent: received, ..Passed::default() });
    (client, server, report)
}

#[test]
fn a_dropped_segment_is_sent_again_once() {
    for ip in ["10.9.0.2", "fd09::2"] {
        let (client, server, report) = upload(ip, tcp_data, Which::Nth(5), Fault::Drop);
        assert_eq!(client.total_retrans, 1, "{client:?}");
        assert_eq!(client.data_segs_out, server.data_segs_in + 1, "{client:?} {server:?}");
        let received = report.a_to_b.received;
        assert_eq!(report.a_to_b, Passed { received, sent: received - 1, dropped: 1, ..Passed::default() });
    }
}

#[test]
fn a_dropped_syn_is_sent_again_once() {
    let (client, server, report) = upload(B.1, tcp_syn, Which::Nth(1), Fault::Drop);
    assert_eq!((client.total_retrans, report.a_to_b.dropped), (1, 1), "{client:?}");
    assert_eq!(client.data_segs_out, server.data_segs_in, "{client:?} {server:?}");
}

#[test]
fn doubled_segments_arrive_twice() {
    let (client, server, report) = upload(B.1, tcp_data, Which::Every(8), Fault::Double);
    assert_eq!((client.total_retrans, client.dsack_dups), (0, 2), "{client:?}");
    assert_eq!(client.data_segs_out + 2, server.data_segs_in, "{client:?} {server:?}");
    let received = report.a_to_b.received;
    assert_eq!(report.a_to_b, Passed { received, sent: received + 2, doubled: 2, ..Passed::default() });
}

#[test]
fn a_swapped_segment_arrives_behind_the_next() {
    let (client, server, report) = upload(B.1, tcp_data, Which::Nth(5), Fault::Swap);
    assert_eq!((client.total_retrans, server.rcv_ooopack), (0, 1), "{client:?} {server:?}");
    assert_eq!(client.data_segs_out, server.data_segs_in, "{client:?} {server:?}");
    let received = report.a_to_b.received;
    assert_eq!(report.a_to_b, Passed { received, sent: received, swapped: 1, ..Passed::default() });
}
