//! A real Prometheus scrapes the agent and answers the queries that users' dashboards hang on.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::agent::Agent;
use common::net::Net;
use common::prometheus::Prometheus;

const SERVER: &str = "python3 -m http.server 8000 --bind 10.1.0.2 --directory /usr/share/common-licenses";

const QUERIES: &[&str] = &[
    "topk(10, sum by (src_ip, dst_ip) (rate(netmon_bytes_total[5m])))",
    "sum(rate(netmon_flows_total{status=\"failed\"}[5m])) / sum(rate(netmon_flows_total[5m]))",
    "histogram_quantile(0.95, sum by (dst_service, le) (rate(netmon_latency_seconds_bucket[5m])))",
];

#[test]
fn prometheus_scrapes_the_agent_and_answers_the_queries() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "flow: { active_interval: 200ms }");
    let _server = net.serve("b", ("tcp", 8000), SERVER);
    let _traffic = net.spawn("a", "sh -c 'while sleep 0.2; do curl -so /dev/null http://10.1.0.2:8000/GPL-3; curl -so /dev/null http://10.1.0.2:81/; done'");

    let prometheus = Prometheus::start(&net, "a", None);
    for query in QUERIES {
        agent.wait(query, 60, |_| prometheus.ask(query).first().is_some_and(|value| *value > 0.0));
    }
    // Prometheus itself has understood every line, and every metric has its type.
    assert_eq!(prometheus.ask("up{job=\"netmon\"}"), [1.0]);
    for (name, kind) in [
        ("netmon_bytes_total", "counter"),
        ("netmon_flows_active", "gauge"),
        ("netmon_latency_seconds", "histogram"),
        ("netmon_processing_duration_seconds", "summary"),
        ("netmon_event_delay_seconds", "summary"),
    ] {
        assert_eq!(prometheus.kind_of(name), kind, "{name}");
    }
    let failed = prometheus.ask(QUERIES[1])[0];
    assert!((0.3..0.7).contains(&failed), "every second connection is refused: {failed}");
    agent.stop();
}

/// What a connection speaks shows after its handshake, here long after its first word; each handshake is told once.
#[test]
fn handshakes_are_told_with_the_protocol_of_their_connection() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "flow: { active_interval: 300ms }");
    let _server = net.serve("b", ("tcp", 8000), SERVER);
    let talk = |wait: f32, request: &str| {
        let line = format!(
            "import socket, time\ns = socket.create_connection((\"10.1.0.2\", 8000))\ntime.sleep({wait})\n\
             s.sendall(b\"{request}\")\ns.settimeout(5)\ntime.sleep(0.1)\ns.close()"
        );
        net.exec("a", &format!("python3 -c '{line}'"));
    };
    for _ in 0..3 {
        talk(0.2, "GET /GPL-3 HTTP/1.1\\r\\nHost: b\\r\\n\\r\\n");
    }
    // One that says nothing is told all the same, while it stands.
    let _silent = net.spawn(
        "a",
        "python3 -c 'import socket, time\ns = socket.create_connection((\"10.1.0.2\", 8000))\ntime.sleep(60)'",
    );
    let told = |agent: &Agent<'_>, app: &str| {
        let labels = ["kind=\"handshake\"", &format!("app_protocol=\"{app}\"")];
        agent.metrics().sum("netmon_latency_seconds_count", &labels)
    };
    agent.wait("four handshakes", 10, |agent| told(agent, "http") + told(agent, "") >= 4.0);
    assert_eq!((told(&agent, "http"), told(&agent, "")), (3.0, 1.0));
    agent.stop();
}
