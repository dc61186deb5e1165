//! Why conversations fail, told by real ICMP and ICMPv6 errors of routers and hosts.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::agent::Agent;
use common::net::Net;
use serde_json::{Value, json};

const QUICK: &str = "flow: { active_interval: 200ms, connect_timeout: 1s }";

/// a 10.1.0.1, fd01::1 ──veth── r ──veth── 10.2.0.2, fd02::2 b. The router has no way to 10.3.0.1 and fd03::1, forbids 10.3.0.2
/// and fd03::2, and swallows 10.3.0.3. Its link to b takes 1400 bytes.
fn routed() -> Net {
    let net = Net::new(&["a", "r", "b"]);
    for (left, right) in [("10.1.0.1/24", "10.1.0.254/24"), ("fd01::1/64", "fd01::254/64")] {
        link(&net, ("a", "va", left), ("r", "ra", right));
    }
    for (left, right) in [("10.2.0.254/24", "10.2.0.2/24"), ("fd02::254/64", "fd02::2/64")] {
        link(&net, ("r", "rb", left), ("b", "vb", right));
    }
    net.exec(
        "r",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0 \
         net.ipv6.icmp.ratelimit=0 && ip route add unreachable 10.3.0.1 && ip route add prohibit 10.3.0.2 && \
         ip route add blackhole 10.3.0.3 && ip -6 route add unreachable fd03::1 && ip -6 route add prohibit fd03::2 && \
         ip link set rb mtu 1400",
    );
    for (end, four, six) in [("a", "10.1.0.254", "fd01::254"), ("b", "10.2.0.254", "fd02::254")] {
        net.exec(end, &format!("ip route add default via {four} && ip -6 route add default via {six}"));
    }
    net.exec("b", "sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0");
    net
}

/// The pair of interfaces, or a further address of it.
fn link(net: &Net, left: (&str, &str, &str), right: (&str, &str, &str)) {
    if left.2.contains(':') {
        for (namespace, interface, address) in [left, right] {
            net.address(namespace, interface, address);
        }
    } else {
        net.veth(left, right);
    }
}

/// Ends when the connection does, or when the test has seen enough.
fn connect(net: &Net, address: &str) -> common::net::Background {
    net.spawn("a", &format!("python3 -c \"import socket; socket.create_connection(('{address}',80),3)\""))
}

/// The flow of a protocol to an address, live or ended, once it has failed.
fn failed(agent: &Agent<'_>, protocol: &str, address: &str) -> Value {
    let mut found = Value::Null;
    agent.wait(&format!("{protocol} to {address} to have failed"), 8, |agent| {
        let filters = ["--ended", "--protocol", protocol, "--ip", address, "--status", "failed"];
        let flows = agent.flows(&filters);
        found = flows.first().cloned().unwrap_or_default();
        !flows.is_empty()
    });
    found
}

#[test]
fn icmp_errors_name_the_flow_that_they_quote() {
    let net = routed();
    let agent = Agent::start(&net, "a", QUICK);
    let cases = [
        ("10.3.0.1", "unreachable", json!(["unreachable"])),
        ("10.3.0.2", "prohibited", json!(["prohibited"])),
        ("fd03::1", "unreachable", json!(["unreachable"])),
        ("fd03::2", "prohibited", json!(["prohibited"])),
    ];
    for (address, reason, errors) in &cases {
        let client = connect(&net, address);
        net.send_udp("a", address, [9], 1);
        for protocol in ["tcp", "udp"] {
            let flow = failed(&agent, protocol, address);
            assert_eq!((&flow["reason"], &flow["icmp_errors"]), (&json!(reason), errors), "{flow:#}");
        }
        drop(client);
    }
    for address in ["10.2.0.2", "fd02::2"] {
        net.send_udp("a", address, [9], 1);
        let flow = failed(&agent, "udp", address);
        assert_eq!(
            (&flow["reason"], &flow["icmp_errors"]),
            (&json!("unreachable"), &json!(["port_unreachable"])),
            "{flow:#}"
        );
    }
    let client = connect(&net, "10.3.0.3");
    let flow = failed(&agent, "tcp", "10.3.0.3");
    assert_eq!((&flow["reason"], &flow["icmp_errors"]), (&json!("timeout"), &json!([])), "{flow:#}");
    drop(client);
    for (arguments, expected) in [
        (["10.1.0.1", "10.3.0.2:80"], "A filter forbids 10.1.0.1 to reach 10.3.0.2, TCP port 80"),
        (["10.2.0.2:9", "10.1.0.1"], "Nothing listens on UDP port 9 of 10.2.0.2"),
        (["10.1.0.1", "10.3.0.3"], "10.3.0.3 did not answer on TCP port 80"),
    ] {
        let answer = agent.cli(&["why", arguments[0], arguments[1]]);
        let sentence = answer["sentence"].as_str().unwrap();
        assert!(
            sentence.starts_with(expected) && !answer["evidence"].as_array().unwrap().is_empty(),
            "{answer:#}"
        );
    }
    agent.wait("what failed to be counted", 10, |agent| {
        let count = |reason: &str| {
            agent.metrics().sum("netmon_flows_total", &["status=\"failed\"", &format!("reason=\"{reason}\"")])
        };
        // Two protocols each, in IPv4 and IPv6; and the closed ports.
        (count("prohibited"), count("unreachable"), count("timeout")) == (4.0, 6.0, 1.0)
    });
    agent.assert_law();
    agent.stop();
}

#[test]
fn errors_about_what_was_answered_are_no_failures() {
    let net = routed();
    let agent = Agent::start(&net, "a", QUICK);
    // Answered once before the path shows itself to be narrower, and with a hop limit that does not suffice later.
    net.exec("a", "ping -q -c 1 -e 7 10.2.0.2; ping -q -c 1 -e 7 -M do -s 1450 10.2.0.2; ping -q -c 1 -e 8 -t 1 10.2.0.2; true");
    // The client is gone when the answer comes: its kernel says so.
    let server = net.serve(
        "b",
        ("udp", 9),
        "python3 -c \"
import socket,time
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('',9)); d,a=s.recvfrom(9); time.sleep(0.3); s.sendto(b'late',a)\"",
    );
    net.send_udp("a", "10.2.0.2", [9], 1);
    server.wait();
    agent.assert_law();
    let flow = |what: &str, found: &dyn Fn(&Value) -> bool| -> Value {
        let flows = agent.flows(&["--ended", "--ip", "10.2.0.2"]);
        flows.iter().find(|flow| found(flow)).unwrap_or_else(|| panic!("{what}: {flows:#?}")).clone()
    };
    let echo = flow("the answered echo", &|flow| flow["icmp"]["id"] == 7);
    assert_eq!((&echo["icmp_errors"], &echo["reason"]), (&json!(["too_big"]), &Value::Null), "{echo:#}");
    let hops = flow("the echo that died on its way", &|flow| flow["icmp"]["id"] == 8);
    assert_eq!(
        (&hops["icmp_errors"], &hops["reason"]),
        (&json!(["time_exceeded"]), &json!("unreachable")),
        "{hops:#}"
    );
    let late = flow("the late answer", &|flow| flow["protocol"] == "udp");
    assert_eq!(
        (&late["icmp_errors"], &late["reason"], &late["packets_received"]),
        (&json!(["port_unreachable"]), &Value::Null, &json!(1)),
        "{late:#}"
    );
    agent.stop();
}
