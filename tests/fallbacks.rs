//! Each way of doing without something, forced on a kernel that has it, alone and with others: the flows and their books are the
//! same, but for what is missing, and `status` says what that is. What can't be forced (a kernel that refuses) is in tests/kernels.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::agent::Agent;
use common::net::Net;
use serde_json::Value;

/// What is forced; nothing: the best that the kernel has.
#[derive(Clone, Copy, Default)]
struct Forced {
    clsact: bool,
    perf: bool,
    nat: Nat,
    no_drops: bool,
    /// Counters alone: no round trips, protocols or processes.
    bare: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Nat {
    #[default]
    Best,
    Netlink,
    Off,
}

const BEST: Forced = Forced { clsact: false, perf: false, nat: Nat::Best, no_drops: false, bare: false };

macro_rules! matrix {
    ($($name:ident: $forced:expr;)+) => {
        $(#[test] fn $name() { all_is_told_but_for(&$forced); })+
    };
}

matrix!(
    nothing: BEST;
    tcx: Forced { clsact: true, ..BEST };
    the_ring_buffer: Forced { perf: true, ..BEST };
    programs_that_read_conntrack: Forced { nat: Nat::Netlink, ..BEST };
    conntrack: Forced { nat: Nat::Off, ..BEST };
    typed_tracepoints: Forced { no_drops: true, ..BEST };
    all_but_counters: Forced { bare: true, ..BEST };
    tcx_and_the_ring_buffer: Forced { clsact: true, perf: true, ..BEST };
    tcx_and_programs_that_read_conntrack: Forced { clsact: true, nat: Nat::Netlink, ..BEST };
    the_ring_buffer_and_conntrack_in_bare_programs: Forced { perf: true, nat: Nat::Off, bare: true, ..BEST };
    what_old_kernels_lack: Forced { clsact: true, perf: true, nat: Nat::Netlink, no_drops: true, bare: false };
    everything: Forced { clsact: true, perf: true, nat: Nat::Off, no_drops: true, bare: true };
);

impl Forced {
    fn settings(&self) -> String {
        let nat = match self.nat {
            Nat::Best => "",
            Nat::Netlink => "nat: { conntrack: netlink }",
            Nat::Off => "nat: { enabled: false }",
        };
        let on = !self.bare;
        format!(
            "capture: {{ attach: {}, transport: {} }}\nflow: {{ active_interval: 200ms }}\nfeatures:\n  \
             drop_monitoring: {{ enabled: {} }}\n  latency_tracking: {{ enabled: {on} }}\n  \
             protocol_detection: {{ enabled: {on} }}\n  process_attribution: {{ enabled: {on} }}\n  {nat}\n",
            if self.clsact { "clsact" } else { "auto" },
            if self.perf { "perf" } else { "auto" },
            !self.no_drops,
        )
    }

    /// What `status` says in plain words, beside what it always says.
    fn notes(&self) -> Vec<&'static str> {
        let all = [
            (self.clsact, "attached by clsact"),
            (self.perf, "events travel by perf buffers"),
            (self.nat == Nat::Netlink, "features.nat.conntrack is netlink"),
            (self.no_drops, "features.drop_monitoring.enabled is false"),
            (true, netmon::agent::LOOPBACK),
        ];
        all.into_iter().filter(|(said, _)| *said).map(|(_, note)| note).collect()
    }
}

/// c 10.1.0.2 ──ra── 10.1.0.1 r 10.2.0.1 ──rb── 10.2.0.2 s; the agent is on r, whose port 8080 is that of s:80, and 8081 that of a port where
/// nobody listens. s knows r alone.
fn routed() -> Net {
    let net = Net::new(&["c", "r", "s"]);
    net.veth(("c", "vc", "10.1.0.2/24"), ("r", "ra", "10.1.0.1/24"));
    net.veth(("r", "rb", "10.2.0.1/24"), ("s", "vs", "10.2.0.2/24"));
    for host in ["r", "s"] {
        net.exec(host, "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.icmp_ratelimit=0");
    }
    net.exec("c", "ip route add default via 10.1.0.1");
    net.exec(
        "r",
        "nft 'table ip n {
            chain pre { type nat hook prerouting priority dstnat
                meta l4proto {tcp, udp} th dport 8080 dnat to 10.2.0.2:80
                tcp dport 8081 dnat to 10.2.0.2:81
            }
            chain post { type nat hook postrouting priority srcnat
                oifname rb masquerade
            }
        }'",
    );
    net
}

const CONNECTIONS: usize = 20;
const REFUSED: usize = 5;
const DATAGRAM_FLOWS: usize = 10;
/// From c and r to ports of r and s where nobody listens.
const LOST: u64 = 4;

fn talk(net: &Net) {
    net.exec(
        "c",
        &format!(
            "python3 -c \"
import socket
for i in range({CONNECTIONS}):
    s=socket.create_connection(('10.1.0.1',8080),5); s.sendall(b'x'*3000); n=0
    while n<3000: n+=len(s.recv(65536))
    s.close()
for i in range({REFUSED}): assert socket.socket().connect_ex(('10.1.0.1',8081))==111
us=[socket.socket(socket.AF_INET,socket.SOCK_DGRAM) for i in range({DATAGRAM_FLOWS})]
for u in us:
    u.settimeout(5); u.connect(('10.1.0.1',8080))
    for i in range(3): u.send(b'u'*100); assert len(u.recv(2048))==100\""
        ),
    );
    net.exec("c", "ping -q -c 3 -i 0.05 -W 2 10.2.0.2");
    // Nobody listens on r: the kernel drops them there.
    net.exec(
        "c",
        &format!(
            "python3 -c \"
import socket
for i in range({LOST}): socket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto(b'l',('10.1.0.1',9))\""
        ),
    );
}

fn is_echo(flow: &Value) -> bool {
    flow["icmp"]["type"] == 8
}

/// By the addresses that the client knows.
fn is_datagram(flow: &Value) -> bool {
    flow["protocol"] == "udp" && flow["dst"]["port"] == 8080
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn all_is_told_but_for(forced: &Forced) {
    let net = routed();
    let _server = net.echo("s", 80);
    let agent = Agent::start(&net, "r", &forced.settings());
    talk(&net);

    // A conversation is one flow, or one by each of its pairs of addresses.
    let sides = if forced.nat == Nat::Off { 2 } else { 1 };
    let mut flows = Vec::new();
    let mut those = |agent: &Agent<'_>| {
        flows = agent.flows(&["--ended"]);
        let count = |what: &dyn Fn(&Value) -> bool| flows.iter().filter(|flow| what(flow)).count();
        [
            count(&|flow| flow["protocol"] == "tcp" && flow["status"] == "ok" && flow["state"] == "closed"),
            count(&|flow| flow["protocol"] == "tcp" && flow["reason"] == "refused"),
            count(&|flow| flow["protocol"] == "tcp"),
            count(&is_echo),
            count(&is_datagram),
            count(&|flow| {
                (flow["protocol"] == "tcp" || is_datagram(flow))
                    && flow["nat"].is_null() == (forced.nat == Nat::Off)
            }),
        ]
    };
    let tcp = CONNECTIONS + REFUSED;
    let all = [
        CONNECTIONS * sides,
        REFUSED * sides,
        tcp * sides,
        sides,
        DATAGRAM_FLOWS,
        tcp * sides + DATAGRAM_FLOWS,
    ];
    // What all flows hold is what was counted. On its way out of the table a flow is nowhere for a moment.
    agent.assert_law();
    agent.wait(&format!("{all:?} flows"), 15, |agent| those(agent) == all);
    agent.assert_law();
    for flow in flows.iter().filter(|flow| is_echo(flow) || is_datagram(flow)) {
        assert_eq!((number(&flow["packets_sent"]), number(&flow["packets_received"])), (3, 3), "{flow:#}");
    }
    for flow in flows.iter().filter(|flow| flow["state"] == "closed" && flow["status"] == "ok") {
        assert_eq!(flow["tcp"]["rtt_us"].is_null(), forced.bare, "{flow:#}");
        // Three thousand bytes each way, and headers.
        assert!(number(&flow["bytes_sent"]) > 3000 && number(&flow["bytes_received"]) > 3000, "{flow:#}");
    }
    let dropped = || agent.metrics().sum("netmon_drops_total", &["interface=\"ra\"", "reason=\"no_socket\""]);
    if forced.no_drops {
        assert_eq!(dropped(), 0.0);
    } else {
        agent.wait("what r dropped", 5, |_| dropped() == LOST as f64);
    }

    let status = agent.cli(&["status"]);
    assert_eq!(status["transport"], if forced.perf { "perf" } else { "ringbuf" });
    let interfaces = status["interfaces"].as_array().unwrap();
    let method = if forced.clsact { "clsact" } else { "tcx" };
    assert_eq!(interfaces.len(), 2);
    assert!(interfaces.iter().all(|interface| interface["attach"] == method), "{interfaces:#?}");
    let notes: Vec<&str> =
        status["notes"].as_array().unwrap().iter().map(|note| note["text"].as_str().unwrap()).collect();
    let expected = forced.notes();
    assert_eq!(notes.len(), expected.len(), "{notes:#?}");
    for part in expected {
        assert!(notes.iter().any(|note| note.contains(part)), "no note says {part:?}: {notes:#?}");
    }
    agent.stop();
}
