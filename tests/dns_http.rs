//! DNS and HTTP/1 between real programs: counts, times, names, and how they are shown.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::agent::Agent;
use common::net::{Background, Net};
use serde_json::{Value, json};

/// Answers by the first label, after 30 ms: `nx` does not exist, `fail` fails, `silent` is not answered. UDP and TCP.
const RESOLVER: &str = r#"
import socket, struct, threading, time
def answer(q):
    label = q[13:13 + q[12]].lower()
    if label == b'silent': return None
    rcode = {b'nx': 3, b'fail': 2}.get(label, 0)
    time.sleep(0.03)
    return q[:2] + struct.pack('>HHHHH', 0x8180 | rcode, 1, 0, 0, 0) + q[12:]
def datagram(s, q, a):
    r = answer(q)
    if r: s.sendto(r, a)
def stream(c):
    while True:
        n = c.recv(2, socket.MSG_WAITALL)
        if len(n) < 2: return
        r = answer(c.recv(struct.unpack('>H', n)[0], socket.MSG_WAITALL))
        if r: c.sendall(struct.pack('>H', len(r)) + r)
def listen(t):
    while True: threading.Thread(target=stream, args=(t.accept()[0],), daemon=True).start()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 53))
t = socket.create_server(('', 53)); threading.Thread(target=listen, args=(t,), daemon=True).start()
while True: threading.Thread(target=datagram, args=(s, *s.recvfrom(512)), daemon=True).start()
"#;

/// `python3 ask.py PROTOCOL NAME/TYPE...`: all at once from one socket; waits for as many answers as are to come.
const ASK: &str = r#"
import socket, struct, sys
udp = sys.argv[1] == 'udp'
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM); s.settimeout(10); s.connect(('10.1.0.2', 53))
due = 0
for i, what in enumerate(sys.argv[2:]):
    name, kind = what.split('/')
    q = struct.pack('>HHHHHH', 700 + i, 0x100, 1, 0, 0, 0) + b''.join(bytes([len(l)]) + l.encode() for l in name.split('.')) + b'\0' + struct.pack('>HH', int(kind), 1)
    s.sendall(q if udp else struct.pack('>H', len(q)) + q)
    if not name.startswith('silent'):
        due += 1
        if not udp: s.recv(struct.unpack('>H', s.recv(2, socket.MSG_WAITALL))[0], socket.MSG_WAITALL)
for i in range(due if udp else 0): s.recv(512)
"#;

const WEB: &str = r#"
import http.server, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        code = {'/secret/missing': 404, '/secret/broken': 500}.get(self.path, 200)
        if self.path == '/secret/slow': time.sleep(0.03)
        self.send_response(code); self.send_header('Content-Length', '3000'); self.end_headers(); self.wfile.write(b'x' * 3000)
http.server.ThreadingHTTPServer(('', 8080), Handler).serve_forever()
"#;

/// a 10.1.0.1 ──veth── 10.1.0.2 b
struct Hosts {
    net: Net,
    folder: tempfile::TempDir,
}

impl Hosts {
    fn new() -> Self {
        let net = Net::two_hosts();
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("resolver.py", RESOLVER), ("ask.py", ASK), ("web.py", WEB)] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self { net, folder }
    }

    /// Starts a server on b.
    fn serve(&self, script: &str, port: u16) -> Background {
        self.net.serve("b", ("tcp", port), &format!("python3 {}/{script}", self.folder.path().display()))
    }

    fn ask(&self, arguments: &str) {
        self.net.exec("a", &format!("python3 {}/ask.py {arguments}", self.folder.path().display()));
    }
}

#[test]
fn dns_is_counted_by_type_and_rcode_and_timed() {
    let hosts = Hosts::new();
    let _resolver = hosts.serve("resolver.py", 53);
    let agent = Agent::start(
        &hosts.net,
        "a",
        "flow: { active_interval: 200ms }\nfeatures: { protocol_detection: { dns_names: true } }",
    );
    hosts.ask("udp www.Example.org/1 www.Example.org/28");
    hosts.ask("udp nx.example.org/1");
    hosts.ask("udp silent.example.org/16");
    hosts.ask("tcp fail.example.org/15 www.example.org/1");
    agent.assert_law();
    let metrics = agent.metrics();
    let count = |name: &str, label: &str| metrics.sum(name, &[label]);
    for (kind, queries) in [("A", 3.0), ("AAAA", 1.0), ("MX", 1.0), ("TXT", 1.0), ("other", 0.0)] {
        assert_eq!(count("netmon_dns_queries_total", &format!("type=\"{kind}\"")), queries, "{kind}");
    }
    for (rcode, responses) in [("noerror", 3.0), ("nxdomain", 1.0), ("servfail", 1.0), ("refused", 0.0)] {
        let label = format!("rcode=\"{rcode}\"");
        assert_eq!(count("netmon_dns_responses_total", &label), responses, "{rcode}");
    }
    // None was answered within 30 ms, and a busy machine only takes longer.
    assert_eq!(count("netmon_dns_latency_seconds_bucket", "le=\"0.01\""), 0.0);
    assert_eq!(count("netmon_dns_latency_seconds_count", ""), 5.0);
    assert!(count("netmon_dns_latency_seconds_sum", "") >= 0.15);
    let irregular = ["repeated", "unmatched", "malformed", "unseen", "lost"];
    for kind in irregular {
        assert_eq!(count("netmon_dns_irregular_total", kind), 0.0, "{kind}");
    }

    let stats = agent.cli(&["stats", "dns"]);
    assert_eq!((&stats["unanswered"], &stats["queries"]["A"]), (&json!(1), &json!(3)), "{stats:#}");
    let (_, shown, _) = agent.cli_text(&["stats", "dns"]);
    assert!(shown.contains("6 queries, 5 responses") && shown.contains("nxdomain"), "{shown}");

    let mut flows: Vec<Value> =
        agent.flows(&["--ended", "--port", "53"]).iter().map(|flow| flow["dns"].clone()).collect();
    flows.sort_by_key(|dns| (dns["name"].to_string(), dns["queries"].as_u64()));
    let dns = |queries: Value, responses: Value, kind: &str, rcode: Value, name: &str| json!({"queries": queries, "responses": responses, "type": kind, "rcode": rcode, "name": name});
    // The last answer of the two that were under way at once is one or the other's.
    let both = flows.iter_mut().find(|dns| dns["queries"] == 2).unwrap();
    both["type"] = json!("A");
    assert_eq!(
        flows,
        [
            dns(json!(1), json!(1), "A", json!("NXDOMAIN"), "nx.example.org"),
            dns(json!(1), json!(0), "TXT", Value::Null, "silent.example.org"),
            dns(Value::Null, Value::Null, "A", json!("NOERROR"), "www.example.org"),
            dns(json!(2), json!(2), "A", json!("NOERROR"), "www.example.org"),
        ]
    );
    agent.stop();
}

#[test]
fn http_is_counted_by_server_and_class_and_timed() {
    let hosts = Hosts::new();
    let _web = hosts.serve("web.py", 8080);
    let agent = Agent::start(&hosts.net, "a", "flow: { active_interval: 200ms }");
    let paths = ["", "missing", "broken", "slow", "slow", "missing"];
    let urls: String = paths.iter().map(|path| format!(" http://10.1.0.2:8080/secret/{path}")).collect();
    // On one connection, then each on its own.
    hosts.net.exec(
        "a",
        &format!(
            "curl -s -o /dev/null --remote-name-all --output-dir {}{urls}",
            hosts.folder.path().display()
        ),
    );
    for url in urls.split_whitespace() {
        hosts.net.exec("a", &format!("curl -s -o /dev/null {url}"));
    }
    agent.assert_law();
    let metrics = agent.metrics();
    let dst = "dst=\"10.1.0.2:8080\"";
    let count = |name: &str, label: &str| metrics.sum(name, &[dst, label]);
    for (class, responses) in [("1xx", 0.0), ("2xx", 6.0), ("3xx", 0.0), ("4xx", 4.0), ("5xx", 2.0)] {
        assert_eq!(count("netmon_http_responses_total", &format!("class=\"{class}\"")), responses, "{class}");
    }
    assert_eq!(count("netmon_http_response_seconds_count", ""), 12.0);
    // The slow ones, at least, took longer.
    assert!(count("netmon_http_response_seconds_bucket", "le=\"0.01\"") <= 8.0);
    assert!(count("netmon_http_response_seconds_sum", "") >= 0.12);
    let page = metrics.0.keys().any(|series| series.contains("secret"));
    assert!(!page, "no paths");

    let stats = agent.cli(&["stats", "http"]);
    assert_eq!(stats["servers"][0]["dst"], "10.1.0.2:8080", "{stats:#}");
    assert_eq!(stats["servers"][0]["responses"]["4xx"], 4, "{stats:#}");
    let (_, shown, _) = agent.cli_text(&["stats", "http"]);
    // Beyond the servers that are kept apart nothing came.
    assert!(shown.contains("10.1.0.2:8080") && !shown.contains("other"), "{shown}");
    agent.stop();
}

#[test]
fn protocols_that_are_left_out_are_not_looked_at() {
    let hosts = Hosts::new();
    let _resolver = hosts.serve("resolver.py", 53);
    let config = "flow: { active_interval: 200ms }\nfeatures: { protocol_detection: { protocols: [ssh] } }";
    let agent = Agent::start(&hosts.net, "a", config);
    hosts.ask("udp www.example.org/1");
    agent.assert_law();
    let metrics = agent.metrics();
    assert!(
        !metrics.0.keys().any(|series| series.starts_with("netmon_dns") || series.starts_with("netmon_http"))
    );
    assert_eq!(agent.flows(&["--port", "53"])[0]["dns"], Value::Null);
    let (status, _, words) = agent.cli_text(&["stats", "dns"]);
    assert!(status != 0 && words.contains("features.protocol_detection"), "{words}");
    agent.stop();
}
