//! `debug packet-trace` and `debug trace`, against the real agent: every packet is told once and truly, what is not shown is
//! counted, and it is over when whoever asked has gone.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::Read;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::agent::Agent;
use common::net::{Net, run};
use serde_json::{Value, json};

const CONFIG: &str = "flow: { active_interval: 200ms }";
/// What nobody may ever read in a trace.
const SECRET: &str = "PAYLOAD-SECRET-PAYLOAD";

/// a 10.1.0.1 ──veth── 10.1.0.2 b
fn two_hosts() -> Net {
    let net = Net::two_hosts();
    net.exec("b", "sysctl -qw net.ipv4.icmp_ratelimit=0");
    net
}

/// A trace that runs.
struct Traced(Child);

impl Traced {
    /// Begins; returns when the programs tell packets.
    fn on(agent: &Agent<'_>, arguments: &[&str]) -> Self {
        let child = agent
            .client()
            .args(["--output", "ndjson", "debug", "packet-trace", "on"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let traced = Self(child);
        agent.wait("the trace to be on", 10, is_tracing);
        traced
    }

    fn signal(&self, signal: &str) {
        run(&format!("kill -{signal} {}", self.0.id()));
    }

    /// What it told until it ended by itself.
    fn lines(mut self) -> Vec<Value> {
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let status = self.0.wait().unwrap();
        let mut words = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut words).unwrap();
        assert!(status.success(), "{status}: {words}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Ended from outside: the packets, and the last word.
    fn off(self, agent: &Agent<'_>) -> (Vec<Value>, Value) {
        assert_eq!(agent.cli(&["debug", "packet-trace", "off"]), json!({"ended": true}));
        let mut lines = self.lines();
        let end = lines.pop().unwrap()["end"].take();
        assert_eq!(end["why"], "off", "{end}");
        lines.retain(|line| line["hook"].is_string());
        assert_eq!(end["shown"], lines.len(), "{end}");
        (lines, end)
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_tracing(agent: &Agent<'_>) -> bool {
    agent.cli(&["status"])["kernel_stats"]["tracing"] == true
}

/// Sends frames from b to a as they stand, each padded to 60 bytes.
fn send_raw(net: &Net, frames: &[&str]) {
    let mac = |namespace: &str, interface: &str| {
        net.exec(namespace, &format!("cat /sys/class/net/{interface}/address")).trim().replace(':', "")
    };
    let (to, from) = (mac("a", "va"), mac("b", "vb"));
    for frame in frames {
        net.exec(
            "b",
            &format!(
                "python3 -c \"import socket; s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW); s.bind(('vb',0)); \
                 s.send(bytes.fromhex('{to}{from}{frame}').ljust(60,b'\\0'))\""
            ),
        );
    }
}

/// One conversation each: TCP that closes, TCP that is refused, UDP to nobody, an echo; and four frames that are no packets.
fn exchange(net: &Net) {
    net.exec(
        "b",
        &format!(
            "timeout 20 python3 -c \"
import socket
s=socket.create_server(('10.1.0.2',7000)); open('/proc/self/comm','w').write('listens')
c,_=s.accept(); c.recv(100); c.sendall(b'{SECRET}'); c.recv(1); c.close()
\" >/dev/null 2>&1 & for i in $(seq 100); do ss -ltn | grep -q :7000 && break; sleep 0.05; done"
        ),
    );
    net.exec(
        "a",
        &format!(
            "python3 -c \"
import socket
c=socket.create_connection(('10.1.0.2',7000),10); c.sendall(b'{SECRET}'); c.recv(100); c.close()
u=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); u.bind(('10.1.0.1',5353)); u.sendto(b'{SECRET}',('10.1.0.2',9000))
try: socket.create_connection(('10.1.0.2',81),10)
except ConnectionRefusedError: pass
\" && ping -q -c 1 -W 5 10.1.0.2"
        ),
    );
    // Header length 3; total length beyond the frame; TCP data offset 2; an ARP request for nobody.
    send_raw(
        net,
        &[
            "0800 4300 0014 0000 0000 4011 0000 0a010002 0a010001",
            "0800 4500 05dc 0000 0000 4011 0000 0a010002 0a010001 1388 1389 0008 0000",
            "0800 4500 0028 0000 0000 4006 0000 0a010002 0a010001 1388 1389 00000001 00000000 2002 ffff 0000 0000",
            "0806 0001 0800 06 04 0001 020000000001 0a010002 000000000000 0a0100fe",
        ],
    );
}

/// Packets and bytes by the interface's own counters, and by the agent's, with outcomes.
fn counters(net: &Net, agent: &Agent<'_>) -> (Vec<u64>, Value) {
    let read = |name: &str| {
        net.exec("a", &format!("cat /sys/class/net/va/statistics/{name}")).trim().parse::<u64>().unwrap()
    };
    let link = ["rx_packets", "tx_packets", "rx_bytes", "tx_bytes"].map(read).to_vec();
    (link, agent.books()["outcomes"].clone())
}

fn sum<'a>(lines: impl Iterator<Item = &'a Value>, key: &str) -> u64 {
    lines.map(|line| line[key].as_u64().unwrap()).sum()
}

#[test]
fn every_packet_is_told_once_with_what_it_is_and_what_became_of_it() {
    let net = two_hosts();
    let agent = Agent::start(&net, "a", CONFIG);
    let (link_before, outcomes_before) = counters(&net, &agent);
    let traced = Traced::on(&agent, &["--rate", "1000"]);
    exchange(&net);
    agent.wait("the refused flow", 5, |agent| !agent.flows(&["--ended", "--reason", "refused"]).is_empty());
    let flows = agent.flows(&["--ended"]);
    let (link_after, outcomes_after) = counters(&net, &agent);
    let (lines, end) = traced.off(&agent);
    assert_eq!(end["not_shown"], json!({"rate": 0, "lost": 0}));

    // Once each: neither more nor less than the interface and the law say.
    let hook = |name: &str| lines.iter().filter(|line| line["hook"] == name).collect::<Vec<_>>();
    let (ingress, egress) = (hook("ingress"), hook("egress"));
    let told = [
        sum(ingress.iter().copied(), "packets"),
        sum(egress.iter().copied(), "packets"),
        sum(ingress.iter().copied(), "bytes"),
        sum(egress.iter().copied(), "bytes"),
    ];
    let passed: Vec<u64> =
        link_after.iter().zip(&link_before).map(|(after, before)| after - before).collect();
    assert_eq!(told.to_vec(), passed, "{lines:#?}");
    for (name, after) in outcomes_after.as_object().unwrap() {
        let of: Vec<_> = lines.iter().filter(|line| line["outcome"] == *name).collect();
        let before = outcomes_before[name].as_u64().unwrap_or(0);
        assert_eq!(of.len() as u64, after.as_u64().unwrap() - before, "{name}: {of:#?}");
    }

    // What they are, in their order.
    let of = |keep: &dyn Fn(&Value) -> bool| lines.iter().filter(|line| keep(line)).collect::<Vec<_>>();
    let on_port = |port: u64| of(&|line| line["src"]["port"] == port || line["dst"]["port"] == port);
    let tcp = on_port(7000);
    let flags = |lines: &[&Value]| -> Vec<String> {
        lines.iter().take(3).map(|line| line["tcp_flags"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(flags(&tcp), ["S", "SA", "A"]);
    let flow = |port: u64| flows.iter().find(|flow| flow["dst"]["port"] == port).unwrap();
    assert!(tcp.iter().all(|line| line["flow_id"] == flow(7000)["flow_id"]), "{tcp:#?}");
    assert_eq!(tcp[0]["hook"], "egress");
    assert_eq!(tcp[0]["src"], json!({"ip": "10.1.0.1", "port": flow(7000)["src"]["port"]}));
    assert_eq!(tcp[0]["dst"], json!({"ip": "10.1.0.2", "port": 7000}));
    assert_eq!((&tcp[1]["hook"], &tcp[1]["src"]), (&json!("ingress"), &tcp[0]["dst"]));
    let holds =
        flow(7000)["packets_sent"].as_u64().unwrap() + flow(7000)["packets_received"].as_u64().unwrap();
    assert_eq!(tcp.len() as u64, holds);
    assert_eq!(flags(&on_port(81)), ["S", "RA"]);
    assert!(on_port(81).iter().all(|line| line["flow_id"] == flow(81)["flow_id"]));

    let udp = on_port(9000);
    assert_eq!(udp.len(), 1);
    assert_eq!(udp[0]["flow_id"], flow(9000)["flow_id"]);
    assert_eq!((&udp[0]["protocol"], &udp[0]["src"]["port"]), (&json!("udp"), &json!(5353)));
    assert_eq!(udp[0]["bytes"], 14 + 20 + 8 + SECRET.len());
    assert!(udp[0]["tcp_flags"].is_null() && udp[0]["icmp"].is_null());

    let icmp = of(&|line| line["protocol"] == "icmp");
    let kinds: Vec<_> = icmp.iter().map(|line| (&line["icmp"]["type"], &line["icmp"]["code"])).collect();
    assert_eq!(kinds, [(&json!(3), &json!(3)), (&json!(8), &json!(0)), (&json!(0), &json!(0))], "{icmp:#?}");
    assert_eq!(icmp[0]["icmp"]["id"], Value::Null);
    assert!(icmp[1]["icmp"]["id"].is_u64() && icmp[1]["icmp"]["id"] == icmp[2]["icmp"]["id"]);
    assert!(icmp.iter().all(|line| line["src"]["port"].is_null() && line["flow_id"].is_string()));

    let wrong: Vec<_> = of(&|line| line["outcome"] != "counted")
        .into_iter()
        .map(|line| (line["outcome"].as_str().unwrap(), line["reason"].as_str().unwrap(), &line["flow_id"]))
        .collect();
    let none = &Value::Null;
    assert_eq!(
        wrong,
        [
            ("malformed", "ip_header_length", none),
            ("malformed", "ip_total_length", none),
            ("malformed", "tcp_data_offset", none),
            ("not_ip", "arp", none),
        ]
    );

    // Nothing of what packets carry, in whatever form: these keys are all there are.
    const KEYS: [&str; 13] = [
        "bytes",
        "dst",
        "flow_id",
        "hook",
        "icmp",
        "interface",
        "outcome",
        "packets",
        "protocol",
        "reason",
        "src",
        "tcp_flags",
        "time",
    ];
    for line in &lines {
        let mut keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, KEYS);
        assert_eq!(line["interface"], "va");
    }
    assert!(!format!("{lines:?}").contains("SECRET"));
    let time = |line: &&Value| line["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(tcp[..3].is_sorted_by_key(time), "{tcp:#?}");
    assert!(!is_tracing(&agent));
    agent.assert_law();
}

/// What a filter shows of an exchange.
fn shown(net: &Net, agent: &Agent<'_>, filter: &[&str]) -> Vec<Value> {
    let traced = Traced::on(agent, &[filter, &["--rate", "1000"]].concat());
    exchange(net);
    traced.off(agent).0
}

#[test]
fn filters_show_what_matches_and_nothing_else() {
    let net = two_hosts();
    net.veth(("a", "vc", "10.2.0.1/24"), ("b", "vd", "10.2.0.2/24"));
    let agent = Agent::start(&net, "a", CONFIG);
    let udp = shown(&net, &agent, &["--protocol", "udp"]);
    assert_eq!(udp.iter().filter(|line| line["outcome"] == "counted").count(), 1, "{udp:#?}");
    assert!(udp.iter().all(|line| line["protocol"] == "udp"), "{udp:#?}");
    let port = shown(&net, &agent, &["--port", "81", "--ip", "10.1.0.2"]);
    assert_eq!(port.len(), 2, "{port:#?}");
    let wrong = shown(&net, &agent, &["--outcome", "malformed,not_ip"]);
    assert_eq!(wrong.len(), 4, "{wrong:#?}");
    let outside = shown(&net, &agent, &["--cidr", "10.2.0.0/16"]);
    assert_eq!(outside, Vec::<Value>::new());
    let within = shown(&net, &agent, &["--cidr", "10.1.0.2/31", "--interface", "va", "--protocol", "icmp"]);
    assert_eq!(within.len(), 3, "{within:#?}");
    let elsewhere = shown(&net, &agent, &["--interface", "vc"]);
    assert_eq!(elsewhere, Vec::<Value>::new());

    for (arguments, word) in [
        (&["--protocol", "pigeon"][..], "protocol: `pigeon` is not accepted"),
        (&["--interface", "nobody"], "interface: `nobody` is not accepted"),
        (&["--rate", "100000"], "from 1 to 1000"),
        (&["--for", "1h"], "from 1s to 10m"),
    ] {
        let (status, _, words) = agent.cli_text(&[&["debug", "packet-trace", "on"], arguments].concat());
        assert_eq!((status, words.contains(word)), (2, true), "{words}");
    }
    assert!(!is_tracing(&agent));
    agent.assert_law();
}

/// Sends so many datagrams to a port where somebody listens, so many a second at most.
fn datagrams(net: &Net, count: u32, pause: &str) {
    net.exec(
        "a",
        &format!(
            "python3 -c \"
import socket,time
u=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)
for i in range({count}):
    u.sendto(b'u',('10.1.0.2',9000)); {pause}
\""
        ),
    );
}

/// Shown, and not shown because of the rate and of a slow reader.
fn sums(lines: &[Value]) -> [u64; 3] {
    let shown = lines.iter().filter(|line| line["hook"].is_string()).count() as u64;
    let left = |why: &str| lines.iter().filter_map(|line| line["not_shown"][why].as_u64()).sum();
    [shown, left("rate"), left("lost")]
}

#[test]
fn what_is_not_shown_is_counted_and_told() {
    let net = two_hosts();
    let agent = Agent::start(&net, "a", CONFIG);
    let only = ["--protocol", "udp", "--for", "4s"];
    let traced = Traced::on(&agent, &[&only[..], &["--rate", "5"]].concat());
    let began = Instant::now();
    datagrams(&net, 300, "");
    let lines = traced.lines();
    let seconds = began.elapsed().as_secs() + 1;
    let end = lines.last().unwrap()["end"].clone();
    let [shown, rate, lost] = sums(&lines);
    assert_eq!((shown + rate, lost), (300, 0), "{end}");
    assert!(shown >= 5 && shown <= 5 + 5 * seconds, "{shown} in {seconds} s");
    assert_eq!(end, json!({"why": "time", "shown": shown, "not_shown": {"rate": rate, "lost": 0}}));
    assert!(!is_tracing(&agent));
    agent.assert_law();
}

#[test]
fn a_client_that_does_not_read_loses_lines_which_are_counted() {
    let net = two_hosts();
    let agent = Agent::start(&net, "a", CONFIG);
    let traced = Traced::on(&agent, &["--protocol", "udp", "--for", "60s", "--rate", "1000"]);
    traced.signal("STOP");
    // Until what lies between it and the programs is full: more than 4000 lines.
    datagrams(&net, 12_000, "time.sleep(0.0008)");
    // It goes on reading before the trace is over, and is told everything.
    traced.signal("CONT");
    let mut child = traced;
    let stdout = child.0.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        std::io::BufReader::new(stdout).read_to_string(&mut text).unwrap();
        text
    });
    std::thread::sleep(Duration::from_secs(2));
    agent.cli(&["debug", "packet-trace", "off"]);
    let text = reader.join().unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [shown, rate, lost] = sums(&lines);
    assert_eq!(shown + rate + lost, 12_000, "{:?}", lines.last());
    assert!(lost > 0, "{:?}", lines.last());
    agent.assert_law();
}

#[test]
fn it_is_over_when_its_client_has_gone() {
    let net = two_hosts();
    let agent = Agent::start(&net, "a", CONFIG);
    for signal in ["KILL", "INT", "TERM"] {
        let traced = Traced::on(&agent, &["--for", "10m"]);
        datagrams(&net, 5, "");
        traced.signal(signal);
        agent.wait(&format!("the trace to be off after SIG{signal}"), 5, |agent| !is_tracing(agent));
    }
    // A socket that is closed without a word, and one that says nothing more but stays.
    let raw = |code: &str| {
        run(&format!(
            "timeout 20 python3 -c \"
import socket
s=socket.socket(socket.AF_UNIX); s.connect('{}')
s.sendall(b'GET /v1/packets?for=1s HTTP/1.1\\r\\nhost: n\\r\\n\\r\\n'); s.recv(100)
{code}\"",
            agent.socket().display()
        ))
    };
    raw("s.close()");
    agent.wait("the trace to be off after a close", 5, |agent| !is_tracing(agent));
    raw("import time; time.sleep(3)");
    agent.wait("the trace to be off after its time", 5, |agent| !is_tracing(agent));
    let off = agent.log().matches("packet-trace is off").count();
    assert_eq!((agent.log().matches("packet-trace is on").count(), off), (5, 5), "{}", agent.log());
    agent.assert_law();
}

#[test]
fn there_is_one_trace_and_off_ends_it_for_all() {
    let net = two_hosts();
    let agent = Agent::start(&net, "a", CONFIG);
    assert_eq!(agent.cli(&["debug", "packet-trace", "off"]), json!({"ended": false}));
    let traced = Traced::on(&agent, &[]);
    let (status, _, words) = agent.cli_text(&["debug", "packet-trace", "on"]);
    assert_eq!((status, words.contains("another packet-trace is running")), (1, true), "{words}");
    let notes = agent.cli(&["status"])["notes"].to_string();
    assert!(notes.contains("packet-trace is on"), "{notes}");
    datagrams(&net, 3, "");
    let (lines, _) = traced.off(&agent);
    assert!(lines.iter().filter(|line| line["protocol"] == "udp").count() == 3, "{lines:#?}");
    // At once there may be the next; people read it like this.
    let socket = agent.socket();
    let text = std::thread::scope(|scope| {
        let people =
            scope.spawn(|| agent.cli_text(&["debug", "packet-trace", "on", "--for", "2s", "--port", "9000"]));
        let deadline = Instant::now() + Duration::from_secs(10);
        while agent.log().matches("packet-trace is on").count() < 2 {
            assert!(Instant::now() < deadline, "no second trace at {}", socket.display());
            std::thread::sleep(Duration::from_millis(20));
        }
        datagrams(&net, 1, "");
        people.join().unwrap().1
    });
    let words: Vec<&str> = text.lines().next().unwrap().split_whitespace().skip(1).collect();
    let expected =
        ["va", "egress", "udp", words[3], ">", "10.1.0.2:9000", "43", "B", "flow", words[9], "counted"];
    assert_eq!(words, expected, "{text}");
    assert!(text.ends_with("the time is over: 1 packets shown, 0 more not shown\n"), "{text}");
}

/// It and where it is from.
fn log_level(agent: &Agent<'_>) -> (String, String) {
    let settings = agent.cli(&["config", "show"]);
    let settings = settings.as_array().unwrap();
    let level = settings.iter().find(|setting| setting["key"] == "log.level").unwrap();
    (level["value"].as_str().unwrap().to_owned(), level["origin"].as_str().unwrap().to_owned())
}

#[test]
fn debug_trace_raises_the_log_level_and_brings_back_what_it_was() {
    let net = two_hosts();
    let agent = Agent::start(&net, "a", "log: { level: warn }");
    let level = || log_level(&agent);
    let before = level();
    assert_eq!(before.0, "warn");
    let say = |words: &[&str]| agent.cli_text(words).1;
    assert!(say(&["debug", "trace", "off"]).contains("nothing has changed"));
    let on = say(&["debug", "trace", "on"]);
    assert!(on.starts_with("log.level warn -> trace\n") && on.contains("debug trace off"), "{on}");
    assert_eq!(level().0, "trace");
    agent.wait("what only trace tells", 10, |agent| agent.log().contains("TRACE"));
    assert!(say(&["debug", "trace", "on"]).contains("already"));
    // It stays over a reload, and is brought back with where it came from.
    say(&["config", "reload"]);
    assert_eq!(level().0, "trace");
    assert_eq!(say(&["debug", "trace", "off"]), "log.level trace -> warn\n");
    assert_eq!(level(), before);
    say(&["config", "reload"]);
    assert_eq!(level(), before);
    // What was set before is set again; what was set meanwhile stays.
    say(&["config", "set", "log.level=error"]);
    say(&["debug", "trace", "on"]);
    assert_eq!(say(&["debug", "trace", "off"]), "log.level trace -> error\n");
    say(&["config", "reload"]);
    assert_eq!(level().0, "error");
    say(&["debug", "trace", "on"]);
    say(&["config", "set", "log.level=info"]);
    assert!(say(&["debug", "trace", "off"]).contains("nothing has changed"));
    assert_eq!(level().0, "info");
}

#[test]
fn debug_trace_off_brings_back_what_the_file_says_by_then() {
    let net = two_hosts();
    let agent = Agent::start(&net, "a", "log: { level: warn }");
    let say = |words: &[&str]| agent.cli_text(words).1;
    let write = |level: &str| {
        std::fs::write(agent.file(), agent.text(&format!("log: {{ level: {level} }}"))).unwrap();
    };
    let before = log_level(&agent);
    say(&["debug", "trace", "on"]);
    write("error");
    say(&["config", "reload"]);
    assert_eq!(log_level(&agent).0, "trace");
    assert_eq!(say(&["debug", "trace", "off"]), "log.level trace -> error\n");
    let after = log_level(&agent);
    assert_eq!((after.0.as_str(), &after.1), ("error", &before.1));
    say(&["config", "reload"]);
    assert_eq!(log_level(&agent), after);
    // While the file is broken, what was before.
    say(&["debug", "trace", "on"]);
    write("loud");
    assert_eq!(say(&["debug", "trace", "off"]), "log.level trace -> error\n");
    assert_eq!(log_level(&agent), after);
    // What was set is above the file.
    say(&["config", "set", "log.level=warn"]);
    say(&["debug", "trace", "on"]);
    write("info");
    say(&["config", "reload"]);
    assert_eq!(say(&["debug", "trace", "off"]), "log.level trace -> warn\n");
}
