//! Round trips, their halves, and losses of real connections over a wire with delays and faults: what the agent tells is held
//! against the word of the kernels at both ends.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::agent::Agent;
use common::relay::{Fault, Relay, Rule, Way, Which, acknowledge_at_once, tcp_data, two_wires, wire};
use common::tcp::{Connection, Talk, TcpInfo};
use serde_json::Value;

const PRECISE: &str = "flow: { active_interval: 200ms }\nfeatures: { latency_tracking: { precision: high } }";

/// The one TCP connection.
fn tcp_flow(agent: &Agent<'_>) -> Value {
    let flows = agent.flows(&["--protocol", "tcp", "--ended"]);
    assert_eq!(flows.len(), 1, "{flows:#?}");
    flows[0].clone()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// Within a tenth, and 0.1 ms for what lies between the hook and the kernel's own clock.
fn assert_near(what: &str, told: f64, kernel: f64, all: &Value) {
    assert!(
        (told - kernel).abs() <= kernel * 0.1 + 100.0,
        "{what}: {told} us told, {kernel} us by the kernel; {all:#}"
    );
}

/// What the agent at `place` (a or b) tells of a talk over a wire that takes `rtt` there and back, and what the kernel of that place says.
fn told_and_known(
    place: &str,
    rtt: Duration,
    timestamps: bool,
    talk: Talk,
    at_once: bool,
) -> (Value, TcpInfo) {
    let net = wire();
    if !timestamps {
        net.exec("a", "sysctl -qw net.ipv4.tcp_timestamps=0");
    }
    if at_once {
        acknowledge_at_once(&net);
    }
    let _relay = Relay::start(&net, [rtt / 2; 2], Vec::new());
    let agent = Agent::start(&net, place, PRECISE);
    let connection = Connection::open(&net, "a", ("b", "10.9.0.2"));
    connection.talk(talk);
    let info = connection.info()[usize::from(place == "b")];
    assert_eq!(info.timestamps, timestamps);
    agent.assert_law();
    let flow = tcp_flow(&agent);
    agent.stop();
    (flow, info)
}

#[test]
fn round_trips_are_those_of_the_kernels_at_both_ends() {
    for (rtt_ms, rounds) in [(1, 200), (20, 40), (100, 10)] {
        for place in ["a", "b"] {
            for timestamps in [true, false] {
                let talk = Talk { rounds, request: 100, response: 1000, think: Duration::ZERO };
                let (flow, info) =
                    told_and_known(place, Duration::from_millis(rtt_ms), timestamps, talk, true);
                let tcp = &flow["tcp"];
                let what = format!("{rtt_ms} ms, seen at {place}, timestamps {timestamps}");
                assert_near(&what, number(&tcp["rtt_us"]["min"]), f64::from(info.min_rtt_us), &flow);
                // The mean of all, and the kernel's of the last few.
                let mean = number(&tcp["rtt_us"]["mean"]);
                let allowed = f64::from(info.rtt_us) * 0.1 + 3.0 * f64::from(info.rttvar_us) + 100.0;
                assert!((mean - f64::from(info.rtt_us)).abs() <= allowed, "{what}: {mean} {info:?}");
                let own = if place == "a" { "src" } else { "dst" };
                assert_near(&what, number(&tcp[own]["srtt_us"]), f64::from(info.rtt_us), &flow);
                assert!(number(&tcp["rtt_us"]["samples"]) >= rounds as f64, "every segment: {flow:#}");
                // The whole delay lies on the other side of the wire.
                let far = if place == "a" { "dst" } else { "src" };
                assert_near(&what, number(&tcp[far]["rtt_us"]["min"]), f64::from(info.min_rtt_us), &flow);
            }
        }
    }
}

#[test]
fn delayed_acknowledgements_do_not_raise_the_minimum() {
    let think = Duration::from_millis(25);
    let talk = Talk { rounds: 10, request: 100, response: 100, think };
    let (flow, info) = told_and_known("b", Duration::from_millis(5), true, talk, false);
    assert_near("the minimum", number(&flow["tcp"]["rtt_us"]["min"]), f64::from(info.min_rtt_us), &flow);
}

#[test]
fn in_the_middle_each_side_has_its_half() {
    // a --20 ms-- r --60 ms-- b, there and back; the agent is in r.
    let net = two_wires();
    let _near = Relay::start_in(&net, "m", [Duration::from_millis(10); 2], Vec::new());
    let _far = Relay::start_in(&net, "n", [Duration::from_millis(30); 2], Vec::new());
    let agent = Agent::start(&net, "r", PRECISE);
    let connection = Connection::open(&net, "a", ("b", "10.8.0.1"));
    connection.talk(Talk { rounds: 5, request: 100, response: 1000, think: Duration::from_millis(5) });
    let info = connection.info()[0];
    agent.assert_law();
    let flow = tcp_flow(&agent);
    let tcp = &flow["tcp"];
    assert_near("to the client", number(&tcp["src"]["rtt_us"]["min"]), 20_000.0, &flow);
    assert_near("to the server", number(&tcp["dst"]["rtt_us"]["min"]), 60_000.0, &flow);
    assert_near("the client's part of the handshake", number(&tcp["handshake_src_us"]), 20_000.0, &flow);
    assert_near("the server's part of the handshake", number(&tcp["handshake_dst_us"]), 60_000.0, &flow);
    assert_near("the whole way", number(&tcp["rtt_us"]["min"]), f64::from(info.min_rtt_us), &flow);
    // From here to the server and back, and what it thought.
    assert_near("the first byte", number(&flow["first_byte_us"]), 65_000.0, &flow);
    let metrics = agent.metrics();
    let count = |kind: &str, le: &str| {
        metrics.sum("netmon_latency_seconds_bucket", &[&format!("kind=\"{kind}\""), &format!("le=\"{le}\"")])
    };
    // All of the whole way: 80 ms.
    assert_eq!((count("handshake", "0.05"), count("handshake", "0.1")), (0.0, 1.0));
    assert!(count("rtt", "0.1") >= 5.0 && count("rtt", "0.05") <= 1.0, "{:?}", metrics.0);
    agent.stop();
}

#[test]
fn what_is_lost_doubled_or_late_is_counted_as_the_kernels_count_it() {
    let upload = Talk { rounds: 1, request: 40 * 1448, response: 100, think: Duration::ZERO };
    for (fault, which) in [(Fault::Drop, 5), (Fault::Drop, 40), (Fault::Swap, 9)] {
        for place in ["a", "b"] {
            let net = wire();
            // Tail probes send again what was not lost: the kernel counts them as it likes.
            net.exec("a", "sysctl -qw net.ipv4.tcp_early_retrans=0 net.ipv4.tcp_recovery=0");
            let rule = Rule { way: Way::AToB, select: tcp_data, which: Which::Nth(which), fault };
            let _relay = Relay::start(&net, [Duration::from_millis(10); 2], vec![rule]);
            let agent = Agent::start(&net, place, PRECISE);
            let connection = Connection::open(&net, "a", ("b", "10.9.0.2"));
            connection.talk(upload);
            let [client, server] = connection.info();
            agent.assert_law();
            let flow = tcp_flow(&agent);
            let src = &flow["tcp"]["src"];
            let what =
                format!("{fault:?} of segment {which}, seen at {place}: {flow:#}, {client:?}, {server:?}");
            // The last segment, lost before it came to b, leaves no gap there: what is sent again looks like the first.
            let seen = if place == "b" && which == 40 { 0 } else { client.total_retrans };
            assert_eq!(number(&src["retransmits"]), f64::from(seen), "{what}");
            // Before the fault nothing is out of order.
            let late = if place == "b" { f64::from(u32::from(matches!(fault, Fault::Swap))) } else { 0.0 };
            assert_eq!(number(&src["out_of_order"]), late, "{what}");
            if matches!(fault, Fault::Drop) {
                assert_eq!(client.total_retrans, 1, "{what}");
                let told = agent.metrics().sum("netmon_tcp_retransmits_total", &[]);
                assert_eq!(told, f64::from(seen), "{what}");
            }
            agent.stop();
        }
    }
}
