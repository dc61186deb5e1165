//! Signs of attack, with the tools that attackers use, between network namespaces; and ordinary traffic, which shows none.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::agent::Agent;
use common::net::Net;
use serde_json::Value;

const QUICK: &str = "flow: { active_interval: 200ms, connect_timeout: 1s }\nlog: { format: json }";

/// a 10.1.0.1, .3 and 203.0.113.1 ──veth── 10.1.0.2, .10 to .60 and 203.0.113.2 b
fn two_hosts() -> Net {
    let net = Net::two_hosts();
    let mac = net.exec("b", "cat /sys/class/net/vb/address");
    let mac = mac.trim();
    net.address("a", "va", "10.1.0.3/24");
    net.address("a", "va", "203.0.113.1/24");
    net.address("b", "vb", "203.0.113.2/24");
    net.exec(
        "b",
        "for n in $(seq 10 60); do ip addr add 10.1.0.$n/24 dev vb; done; sysctl -qw net.ipv4.icmp_ratelimit=0",
    );
    net.exec("a", &format!("for n in $(seq 10 60); do ip neigh replace 10.1.0.$n lladdr {mac} dev va; done"));
    net
}

/// A Python program as a shell command.
fn python(program: &str) -> String {
    format!("python3 -c \"{program}\"")
}

/// Answers on TCP port 80 of b, and on these.
const SERVER: &str = "
import socketserver,sys,http.server,threading
class Banner(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b'SSH-2.0-Test' + b' ' * 30)
        if self.request.recv(4096): self.request.sendall(b'no' * 100)
class Echo(socketserver.BaseRequestHandler):
    def handle(self): self.request[1].sendto(self.request[0] + b'answer', self.client_address)
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *a): pass
class Tcp(socketserver.ThreadingTCPServer): allow_reuse_address = True; request_queue_size = 512
class Web(http.server.ThreadingHTTPServer): request_queue_size = 512
servers = [Web(('', 80), Quiet), Web(('', 443), Quiet), Tcp(('', 22), Banner), Tcp(('', 3306), Banner), socketserver.ThreadingUDPServer(('', 53), Echo)]
for s in servers[1:]: threading.Thread(target=s.serve_forever).start()
servers[0].serve_forever()
";

fn alerts(agent: &Agent<'_>) -> Vec<Value> {
    agent.cli(&["alerts"]).as_array().unwrap().clone()
}

/// What was raised is in the metrics and, field by field, in the log.
fn assert_told(agent: Agent<'_>, found: &[Value]) {
    for alert in found {
        let metrics = agent.metrics();
        let kind = format!("type=\"{}\"", alert["type"].as_str().unwrap());
        assert!(metrics.sum("netmon_security_events_total", &[&kind]) >= 1.0);
        assert!(alert["hint"].as_str().unwrap().len() > 20);
    }
    agent.assert_law();
    let log = agent.stop();
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for alert in found {
        let line = lines.iter().map(|line| &line["fields"]).find(|fields| fields["id"] == alert["id"]);
        let fields = line.unwrap_or_else(|| panic!("{alert:#} is not in the log: {log}"));
        assert_eq!(fields["kind"], alert["type"]);
        for name in ["severity", "src", "dst", "port", "protocol"] {
            assert_eq!(fields[name], alert[name], "{name}: {fields:#}");
        }
        assert!(fields["attempts"].is_u64() && fields["distinct"].is_u64() && fields["message"].is_string());
        let ids = fields["flow_ids"].as_str().unwrap();
        assert!(ids.split(',').all(|id| id.len() == 16), "{fields:#}");
    }
}

/// Alerts that an attack, run on a, raises at b.
fn alerts_at_b(attack: &str, expected: &str) -> Vec<Value> {
    let net = two_hosts();
    let agent = Agent::start(&net, "b", QUICK);
    let _server = net.spawn("b", &python(SERVER));
    wait_for_server(&net, "a", "10.1.0.2");
    net.exec("a", attack);
    let mut found = Vec::new();
    agent.wait(&format!("{expected} after {attack}"), 15, |agent| {
        found = alerts(agent);
        found.iter().any(|alert| alert["type"] == expected)
    });
    assert_told(agent, &found);
    found
}

fn wait_for_server(net: &Net, from: &str, at: &str) {
    net.exec(
        from,
        &format!(
            "for n in $(seq 100); do curl -s -o /dev/null http://{at}/ && exit 0; sleep 0.1; done; exit 1"
        ),
    );
}

#[test]
fn scans_and_probes_are_told_with_their_evidence() {
    for (scan, kind, protocol) in [
        ("nmap -n -Pn -sS -p 1-200 10.1.0.2", "port_scan", "tcp"),
        ("nmap -n -Pn -sT -p 1-200 10.1.0.2", "port_scan", "tcp"),
        ("nmap -n -Pn -sU --max-retries 0 -p 1-100 10.1.0.2", "port_scan", "udp"),
        ("nmap -n -Pn -sS -p 25 10.1.0.10-60", "host_sweep", "tcp"),
        ("nmap -n -Pn -sU --max-retries 0 -p 161 10.1.0.10-60", "host_sweep", "udp"),
        ("nmap -n -Pn -sN -p 1-10 10.1.0.2", "stealth_probe", "tcp"),
        ("nmap -n -Pn -sX -p 1-10 10.1.0.2", "stealth_probe", "tcp"),
        ("nmap -n -Pn -sF -p 1-10 10.1.0.2", "stealth_probe", "tcp"),
    ] {
        let alerts = alerts_at_b(scan, kind);
        let alert = alerts.iter().find(|alert| alert["type"] == kind).unwrap();
        assert_eq!((&alert["src"], &alert["protocol"]), (&"10.1.0.1".into(), &protocol.into()), "{alert:#}");
        assert!(
            alert["attempts"].as_u64().unwrap() >= 3 && !alert["flow_ids"].as_array().unwrap().is_empty()
        );
    }
}

#[test]
fn floods_from_forged_sources_are_told_once_a_destination() {
    for (packet, protocol) in [("-S -p 80", "tcp"), ("-2 -p 9999", "udp"), ("-1", "icmp")] {
        let flood =
            format!("hping3 -q -c 3000 -i u500 {packet} --rand-source 10.1.0.2 >/dev/null 2>&1; true");
        let found = alerts_at_b(&flood, "spoofed_burst");
        let bursts: Vec<_> = found.iter().filter(|alert| alert["type"] == "spoofed_burst").collect();
        assert_eq!(bursts.len(), 1, "{found:#?}");
        assert_eq!((&bursts[0]["dst"], &bursts[0]["protocol"]), (&"10.1.0.2".into(), &protocol.into()));
        let syn = found.iter().find(|alert| alert["type"] == "syn_flood");
        assert_eq!(syn.is_some(), protocol == "tcp", "{found:#?}");
        assert!(syn.is_none_or(|alert| alert["port"] == 80), "{found:#?}");
    }
}

#[test]
fn guessing_of_passwords_is_told() {
    let guess = python(
        "
import socket
for n in range(100):
    s = socket.create_connection(('10.1.0.2', 22)); s.recv(100); s.sendall(b'x' * (500 + n % 9)); s.recv(1000); s.close()",
    );
    let found = alerts_at_b(&guess, "login_burst");
    assert_eq!((&found[0]["src"], &found[0]["port"]), (&"10.1.0.1".into(), &22.into()), "{found:#?}");
}

#[test]
fn a_dns_tunnel_is_told_whether_it_uses_one_port_or_many() {
    let tunnel = python(
        "
import socket,time
def bound(ip): s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((ip, 0)); s.settimeout(5); return s
one = bound('10.1.0.1')
for n in range(500):
    many = bound('10.1.0.3')
    for s in (one, many): s.sendto(b'q' * 200, ('10.1.0.2', 53)); s.recv(2000)
    many.close(); time.sleep(0.04)",
    );
    let mut found = alerts_at_b(&tunnel, "dns_tunnel");
    found.sort_by_key(|alert| alert["src"].to_string());
    let sources: Vec<_> = found.iter().map(|alert| (&alert["type"], &alert["src"])).collect();
    let kind = Value::from("dns_tunnel");
    assert_eq!(sources, [(&kind, &"10.1.0.1".into()), (&kind, &"10.1.0.3".into())], "{found:#?}");
}

#[test]
fn a_beacon_is_told_and_a_check_in_the_own_network_as_regular_is_not() {
    let net = two_hosts();
    // Else b would be a container of a.
    net.exec("a", "ip route add default via 10.1.0.2");
    let agent = Agent::start(&net, "a", QUICK);
    let _server = net.spawn("b", &python(SERVER));
    wait_for_server(&net, "a", "10.1.0.2");
    let _beacon = net.spawn(
        "a",
        "sh -c 'while sleep 6; do for ip in 203.0.113.2 10.1.0.2; do curl -s -o /dev/null http://$ip/; done; done'",
    );
    agent.wait("a beacon", 120, |agent| !alerts(agent).is_empty());
    let found = alerts(&agent);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((&found[0]["type"], &found[0]["dst"]), (&"beacon".into(), &"203.0.113.2".into()));
    let interval = found[0]["interval_ms"].as_u64().unwrap();
    assert!((5500..8000).contains(&interval), "{interval}");
    assert_told(agent, &found);
}

#[test]
fn a_port_that_begins_to_answer_is_told_and_one_that_has_answered_is_not() {
    let net = two_hosts();
    let config = format!("{QUICK}\nfeatures: {{ security_monitoring: {{ learning_time: 15s }} }}");
    let agent = Agent::start(&net, "b", &config);
    let _server = net.spawn("b", &python(SERVER));
    wait_for_server(&net, "a", "10.1.0.2");
    std::thread::sleep(Duration::from_secs(16));
    net.exec("a", "curl -s -o /dev/null http://10.1.0.2/; curl -s -o /dev/null http://10.1.0.2:443/");
    agent.wait("a new service", 10, |agent| !alerts(agent).is_empty());
    let found = alerts(&agent);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((&found[0]["type"], &found[0]["port"]), (&"new_service".into(), &443.into()));
    assert_told(agent, &found);
}

/// Runs ordinary traffic on a, once b is prepared, and looks at what b raises.
fn assert_none_at_b(prepare: &str, traffic: &str) {
    let net = two_hosts();
    net.exec("b", prepare);
    let agent = Agent::start(&net, "b", QUICK);
    let _server = net.spawn("b", &python(SERVER));
    wait_for_server(&net, "a", "10.1.0.2");
    net.exec("a", traffic);
    assert_none(agent);
}

fn assert_none(agent: Agent<'_>) {
    // What takes its time to end is looked at, too.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(alerts(&agent), Vec::<Value>::new());
    assert!(agent.metrics().sum("netmon_flows_opened_total", &[]) > 300.0, "there was traffic");
    agent.assert_law();
    agent.stop();
}

#[test]
fn a_busy_web_server_raises_none() {
    // 80 clients, some of which hang up in the middle.
    assert_none_at_b(
        "true",
        &python(
            "
import socket,subprocess,os
from concurrent.futures import ThreadPoolExecutor
for n in range(100, 180): subprocess.run(['ip', 'addr', 'add', f'10.1.0.{n}/24', 'dev', 'va'], check=True)
def visit(n):
    s = socket.create_connection(('10.1.0.2', 80), 20, (f'10.1.0.{100 + n % 80}', 0))
    s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
    if n % 9:
        while s.recv(65536): pass
    s.close()
list(ThreadPoolExecutor(20).map(visit, range(2000)))",
        ),
    );
}

#[test]
fn a_health_checker_raises_none() {
    // Of what answers, what is down, and login services that it hangs up on; many times a second.
    assert_none_at_b("true", &python(
        "
import socket,time
for n in range(150):
    for port in (80, 22, 3306, 81): s = socket.socket(); s.connect_ex(('10.1.0.2', port)); s.close()
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.sendto(b'q' * 30, ('10.1.0.2', 53)); s.recv(500); s.close()
    time.sleep(0.02)",
    ));
}

#[test]
fn a_crawler_raises_none() {
    // Looks up names and fetches from 50 hosts, of which 22 refuse one of two ports.
    let refuse = "nft add table ip t '{ chain c { type filter hook input priority filter; \
         ip daddr 10.1.0.10-10.1.0.31 tcp dport 443 reject with tcp reset; }; }'";
    let crawl = python(
        "
import socket
for n in range(400):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.sendto(b'q' * (30 + n % 40), ('10.1.0.2', 53)); s.recv(500); s.close()
    for port in (80, 443):
        s = socket.socket(); s.settimeout(5)
        if not s.connect_ex((f'10.1.0.{10 + n * 27 % 50}', port)):
            s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
            while s.recv(65536): pass
        s.close()",
    );
    assert_none_at_b(refuse, &crawl);
}

/// a 10.1.0.1 ──veth── 10.1.0.2 r 10.2.0.1 ──veth── 10.2.0.2 c
#[test]
fn a_port_forwarding_nat_raises_none() {
    let net = Net::new(&["a", "r", "c"]);
    net.veth(("a", "va", "10.1.0.1/24"), ("r", "vr", "10.1.0.2/24"));
    net.veth(("r", "wr", "10.2.0.1/24"), ("c", "vc", "10.2.0.2/24"));
    net.exec(
        "r",
        "sysctl -qw net.ipv4.ip_forward=1 && nft -f - <<END
table ip nat {
    chain before { type nat hook prerouting priority dstnat; iifname vr tcp dport 2000-2199 dnat to 10.2.0.2:80; iifname vr udp dport 2000-2199 dnat to 10.2.0.2:53; }
    chain after { type nat hook postrouting priority srcnat; oifname wr masquerade; }
}
END",
    );
    let agent = Agent::start(&net, "r", QUICK);
    let _server = net.spawn("c", &python(SERVER));
    wait_for_server(&net, "a", "10.1.0.2:2000");
    net.exec(
        "a",
        &python(
            "
import socket
for n in range(600):
    port = 2000 + n % 200
    s = socket.create_connection(('10.1.0.2', port)); s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
    while s.recv(65536): pass
    s.close()
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.sendto(b'q' * 30, ('10.1.0.2', port)); s.recv(500); s.close()",
        ),
    );
    assert_none(agent);
}
