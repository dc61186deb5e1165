//! The recorded story of a cluster with real traffic: flows of pods' addresses bear the names of those who held them then.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::agent::Agent;
use common::apiserver::{ApiServer, story};
use common::net::Net;
use serde_json::Value;

/// cart on node-a (10.9.1.10) ──va── node-a ──vb── node-b with web-1 (10.9.0.11) and whoever has 10.9.0.20.
///
/// The agent watches va on node-a, where the service web (10.96.195.113) is translated to web-1, as kube-proxy does it.
fn cluster() -> Net {
    let net = Net::new(&["cart", "node", "away"]);
    net.veth(("cart", "vc", "10.9.1.10/32"), ("node", "va", "169.254.1.1/32"));
    net.veth(("node", "vb", "192.168.50.1/24"), ("away", "vw", "192.168.50.2/24"));
    net.exec("cart", "ip route add 169.254.1.1 dev vc && ip route add default via 169.254.1.1");
    net.exec("node", "sysctl -qw net.ipv4.ip_forward=1 && ip route add 10.9.1.10 dev va");
    net.exec("node", "ip route add 10.9.0.0/24 via 192.168.50.2");
    net.exec("away", "ip route add 10.9.1.0/24 via 192.168.50.1");
    net.exec("away", "ip addr add 10.9.0.11/32 dev lo && ip addr add 10.9.0.20/32 dev lo");
    net.exec(
        "node",
        "nft 'table ip k {\nchain pre {\ntype nat hook prerouting priority dstnat;\n\
         ip daddr 10.96.195.113 tcp dport 80 dnat to 10.9.0.11:80\n}\n}'",
    );
    net
}

/// A connection from this port of cart that says something and is answered.
fn ask(net: &Net, from: u16, to: &str, port: u16) {
    let code = format!(
        "import socket; s = socket.create_connection((\"{to}\", {port}), 5, (\"10.9.1.10\", {from})); \
         s.sendall(b\"x\"); assert s.recv(1) == b\"x\""
    );
    net.exec("cart", &format!("python3 -c '{code}'"));
}

/// An event of the record, as if it happened now.
fn today((kind, event): (String, Value)) -> (String, Value) {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut text = event.to_string();
    for second in ["35:56", "36:01", "36:02", "36:03"] {
        text = text.replace(&format!("2026-11-23T08:{second}Z"), &now);
    }
    (kind, serde_json::from_str(&text).unwrap())
}

fn from_port(agent: &Agent<'_>, port: u16) -> Option<Value> {
    agent.flows(&["--ended"]).into_iter().find(|flow| flow["src"]["port"] == port)
}

#[test]
fn flows_bear_the_names_of_who_held_the_addresses_then() {
    let net = cluster();
    let _servers = [80, 6379].map(|port| net.echo("away", port));
    let server = net.inside("node", ApiServer::start);
    let agent = Agent::launch_kubernetes(
        &net,
        "node",
        &server.kubeconfig(),
        "kubernetes: { node_name: node-a, events: false }\ncapture: { interfaces: [va] }\nflow: { active_interval: 200ms }",
    )
    .ready();

    // Up to the moment before redis-0 goes.
    let mut events = story().into_iter().peekable();
    while events.peek().is_some_and(|(_, event)| event["type"] != "DELETED") {
        server.play_one(today(events.next().unwrap()));
    }
    let objects = |agent: &Agent<'_>| agent.metrics().sum("netmon_kubernetes_objects", &["pods\""]);
    agent.wait("the pods are known", 20, |agent| objects(agent) == 7.0);
    ask(&net, 50_001, "10.9.0.20", 6379);
    ask(&net, 50_002, "10.96.195.113", 80);
    let named = |agent: &Agent<'_>, port, end: &str, key: &str, value: &str| {
        from_port(agent, port).is_some_and(|flow| flow[end][key] == value)
    };
    agent.wait("redis-0 is named", 20, |agent| named(agent, 50_001, "dst", "pod", "redis-0"));
    let asked = from_port(&agent, 50_001).unwrap();
    assert_eq!(asked["src"]["workload_kind"], "Deployment");
    assert_eq!(asked["src"]["workload"], "cart");
    assert_eq!(asked["src"]["node"], "node-a");
    assert_eq!(asked["dst"]["service"], "redis");
    assert_eq!(asked["dst"]["node"], "node-b");
    agent.wait("service and pod are named", 20, |agent| named(agent, 50_002, "dst", "pod", "web-1"));
    let asked = from_port(&agent, 50_002).unwrap();
    assert_eq!(asked["dst"]["ip"], "10.96.195.113");
    assert_eq!(asked["dst"]["service"], "web");
    assert_eq!(asked["dst"]["namespace"], asked["src"]["namespace"]);

    // redis-0 goes, a job has its address and ends, newpod gets it; not within the second of what was said before: times of the API
    // come in such steps.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    events.for_each(|event| server.play_one(today(event)));
    agent.wait("newpod is known", 20, |agent| objects(agent) == 8.0);
    // It serves nothing, once the watch of slices has told that redis-0 is gone.
    let mut port = 50_010;
    agent.wait("newpod is named, and no service", 20, |agent| {
        port += 1;
        ask(&net, port, "10.9.0.20", 6379);
        let settled = |flow: Value| flow["dst"]["pod"] == "newpod" && flow["dst"]["service"] == Value::Null;
        (50_011..=port).any(|port| from_port(agent, port).is_some_and(settled))
    });
    assert!(named(&agent, 50_001, "dst", "pod", "redis-0"), "{:#}", from_port(&agent, 50_001).unwrap());

    // Names stay while the server is away, and filters take them.
    server.stop();
    ask(&net, 50_004, "10.9.0.20", 6379);
    agent.wait("names stay", 20, |agent| named(agent, 50_004, "dst", "pod", "newpod"));
    assert_eq!(agent.flows(&["--ended", "--pod", "shop/redis-0"]).len(), 1);
    assert_eq!(agent.flows(&["--ended", "--service", "web"]).len(), 1);
    assert_eq!(agent.flows(&["--ended", "--workload", "cart"]).len(), 3 + usize::from(port - 50_010));
    agent.assert_law();
    agent.stop();
}
