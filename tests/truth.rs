//! What the load generator says that it sent, flow by flow, is what the agent tells of each flow.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::process::Command;

use common::agent::Agent;
use common::net::Net;
use serde_json::Value;

/// As `netmon-load` wants them: c 10.99.0.1 ──veth── 10.99.0.2 s, and 10.99.1.1 behind it leads to nowhere.
fn client_and_server() -> Net {
    let net = Net::new(&["c", "s"]);
    net.veth(("c", "vc", "10.99.0.1/24"), ("s", "vs", "10.99.0.2/24"));
    net.exec("c", "ip route add 10.99.1.1/32 via 10.99.0.2");
    net
}

fn load(net: &Net, arguments: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_netmon-load"))
        .args(["--per-flow", "--seconds", "20", "--namespaces"])
        .arg(format!("{},{}", net.name("c"), net.name("s")))
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Ports of a flow → what `what` makes of it.
fn by_ports<T>(
    flows: &[Value],
    ports: fn(&Value) -> [&Value; 2],
    what: fn(&Value) -> T,
) -> BTreeMap<[u64; 2], T> {
    flows.iter().map(|flow| (ports(flow).map(|port| port.as_u64().unwrap()), what(flow))).collect()
}

fn sent_ports(flow: &Value) -> [&Value; 2] {
    [&flow["src_port"], &flow["dst_port"]]
}

fn told_ports(flow: &Value) -> [&Value; 2] {
    [&flow["src"]["port"], &flow["dst"]["port"]]
}

#[test]
fn every_udp_flow_has_the_packets_and_bytes_that_were_sent() {
    let net = client_and_server();
    let agent = Agent::start(&net, "c", "flow: { active_interval: 200ms }");
    let truth = load(&net, "spray --flows 5000 --packets 20000 --rate 20000");
    agent.assert_law();
    // Ethernet, IPv4 and UDP headers go with each datagram.
    let sent = by_ports(truth["flows"].as_array().unwrap(), sent_ports, |flow| {
        let packets = flow["packets"].as_u64().unwrap();
        (packets, flow["sent"].as_u64().unwrap() + packets * (14 + 20 + 8))
    });
    let told = by_ports(&agent.flows(&["--protocol", "udp"]), told_ports, |flow| {
        (flow["packets_sent"].as_u64().unwrap(), flow["bytes_sent"].as_u64().unwrap())
    });
    assert!(sent.len() > 4500, "{} flows were sent", sent.len());
    assert!(told == sent, "{} flows sent, {} told, or their counts differ", sent.len(), told.len());
    agent.stop();
}

#[test]
fn every_connection_is_told_with_its_end() {
    let net = client_and_server();
    let agent = Agent::start(&net, "c", "flow: { active_interval: 200ms }");
    let stood = load(&net, "connections --rate 1000 --count 2000");
    let refused = load(&net, "failing --rate 1000 --count 500");
    let count = (stood["flow_count"].as_u64().unwrap() + refused["flow_count"].as_u64().unwrap()) as usize;
    assert_eq!(count, 2500);
    agent.wait("all flows to end", 10, |agent| {
        agent.metrics().sum("netmon_flows_total", &["protocol=\"tcp\""]) >= 2500.0
    });
    let flows = [&stood, &refused].map(|truth| truth["flows"].as_array().unwrap().clone()).concat();
    let sent = by_ports(&flows, sent_ports, |flow| flow["ok"] == true);
    let told = by_ports(&agent.flows(&["--ended"]), told_ports, |flow| {
        assert!(flow["status"] == "ok" || flow["reason"] == "refused", "{flow}");
        flow["status"] == "ok"
    });
    assert!(told == sent, "{} flows sent, {} told, or their ends differ", sent.len(), told.len());
    agent.assert_law();
    agent.stop();
}
