//! Signs of attack, with the tools that attackers use, between network namespaces.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::agent::Agent;
use common::net::Net;
use serde_json::Value;

const QUICK: &str = "flow: { active_interval: 200ms, connect_timeout: 1s }";

/// a 10.1.0.1 ──veth── 10.1.0.2 and .10 to .60 b
fn two_hosts() -> Net {
    let net = Net::new(&["a", "b"]);
    net.veth(("a", "va", "10.1.0.1/24"), ("b", "vb", "10.1.0.2/24"));
    let mac = net.exec("b", "cat /sys/class/net/vb/address");
    let mac = mac.trim();
    net.exec(
        "b",
        "for n in $(seq 10 60); do ip addr add 10.1.0.$n/24 dev vb; done; sysctl -qw net.ipv4.icmp_ratelimit=0",
    );
    net.exec("a", &format!("for n in $(seq 10 60); do ip neigh replace 10.1.0.$n lladdr {mac} dev va; done"));
    net
}

/// Types of the alerts that `attack`, run on a, raises at b.
fn alerts_at_b(attack: &str, expected: &str) -> Vec<Value> {
    let net = two_hosts();
    let agent = Agent::start(&net, "b", QUICK);
    let _server = net.spawn("b", "python3 -m http.server 80 --bind 0.0.0.0");
    std::thread::sleep(std::time::Duration::from_millis(500));
    net.exec("a", attack);
    let mut found = Vec::new();
    agent.wait(&format!("{expected} after {attack}"), 15, |agent| {
        found = agent.cli(&["alerts"]).as_array().unwrap().clone();
        expected.is_empty() || found.iter().any(|alert| alert["type"] == expected)
    });
    if expected.is_empty() {
        // What takes its time to end is looked at, too.
        std::thread::sleep(std::time::Duration::from_secs(4));
        found = agent.cli(&["alerts"]).as_array().unwrap().clone();
    }
    for alert in &found {
        let metrics = agent.metrics();
        let kind = format!("type=\"{}\"", alert["type"].as_str().unwrap());
        assert!(metrics.sum("netmon_security_events_total", &[&kind]) >= 1.0);
    }
    agent.assert_law();
    let log = agent.stop();
    assert!(found.iter().all(|alert| log.contains(alert["type"].as_str().unwrap())), "{log}");
    found
}

#[test]
fn scans_and_probes_are_told_with_their_evidence() {
    for (scan, kind) in [
        ("nmap -n -Pn -sS -p 1-200 10.1.0.2", "port_scan"),
        ("nmap -n -Pn -sT -p 1-200 10.1.0.2", "port_scan"),
        ("nmap -n -Pn -sU --max-retries 0 -p 1-100 10.1.0.2", "port_scan"),
        ("nmap -n -Pn -sS -p 22 10.1.0.10-60", "host_sweep"),
        ("nmap -n -Pn -sN -p 1-10 10.1.0.2", "stealth_probe"),
        ("nmap -n -Pn -sX -p 1-10 10.1.0.2", "stealth_probe"),
        ("nmap -n -Pn -sF -p 1-10 10.1.0.2", "stealth_probe"),
    ] {
        let alerts = alerts_at_b(scan, kind);
        let alert = alerts.iter().find(|alert| alert["type"] == kind).unwrap();
        assert_eq!(alert["src"], "10.1.0.1", "{scan}: {alert:#}");
        assert!(
            alert["attempts"].as_u64().unwrap() >= 3 && !alert["flow_ids"].as_array().unwrap().is_empty()
        );
    }
}

#[test]
fn a_flood_of_syns_is_told() {
    let flood = "hping3 -q -c 3000 -i u500 -S -p 80 --rand-source 10.1.0.2 >/dev/null 2>&1; true";
    let alerts = alerts_at_b(flood, "syn_flood");
    assert!(alerts.iter().any(|alert| alert["dst"] == "10.1.0.2" && alert["port"] == 80), "{alerts:#?}");
}

#[test]
fn ordinary_clients_raise_none() {
    let clients = "python3 -c \"
import urllib.request,socket
for i in range(400): urllib.request.urlopen('http://10.1.0.2/').read()
for i in range(100): urllib.request.urlopen('http://10.1.0.%d/' % (10+i%50)).read()
for i in range(200): s=socket.socket(); s.connect_ex(('10.1.0.2',81)); s.close()\"";
    assert_eq!(alerts_at_b(clients, ""), Vec::<Value>::new());
}
