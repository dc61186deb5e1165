//! VXLAN and Geneve devices of the kernel in namespaces, and the real agent beside them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::agent::Agent;
use common::net::{Background, Net};
use serde_json::{Value, json};

const UNDERLAY: &str =
    "capture: { interfaces: [va], decapsulate: [vxlan, geneve] }\nflow: { active_interval: 200ms }";

/// Geneve between a TAP device and a UDP socket, with an option: no kernel of ours has the device.
const GENEVE: &str = "python3 -c \"import fcntl,os,select,socket,struct
t=os.open('/dev/net/tun',os.O_RDWR); fcntl.ioctl(t,0x400454ca,struct.pack('16sH',b't0',0x1002))
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('',6081))
h=bytes([1,0,0x65,0x58,0,0,42,0,1,2,3,0])
while True:
  r=select.select([t,s],[],[])[0]
  if t in r: s.sendto(h+os.read(t,65536),('REMOTE',6081))
  if s in r: f=s.recv(65536); os.write(t,f[8+(f[0]&63)*4:])\"";

/// a 192.0.2.1 ──veth── 192.0.2.2 b, and in it a tunnel: a 10.9.0.1 ──t0── 10.9.0.2 b.
struct Tunnelled {
    _relays: Vec<Background>,
    net: Net,
}

fn tunnelled(kind: &str, offload: bool) -> Tunnelled {
    let net = Net::new(&["a", "b"]);
    let net = if offload { net.with_offload() } else { net };
    net.veth(("a", "va", "192.0.2.1/24"), ("b", "vb", "192.0.2.2/24"));
    let mut relays = Vec::new();
    for (ns, remote, address) in [("a", "192.0.2.2", "10.9.0.1/24"), ("b", "192.0.2.1", "10.9.0.2/24")] {
        if kind == "vxlan" {
            net.exec(ns, &format!("ip link add t0 type vxlan id 42 remote {remote} dstport 4789"));
        } else {
            relays.push(net.spawn(ns, &GENEVE.replace("REMOTE", remote)));
            net.exec(
                ns,
                "for i in $(seq 200); do ip link show t0 2>/dev/null && exit; sleep 0.05; done; exit 1",
            );
        }
        net.exec(ns, "ip link set t0 mtu 1446 up");
        net.address(ns, "t0", address);
    }
    Tunnelled { net, _relays: relays }
}

/// Sends so many bytes through a TCP connection to b, port 8000.
fn transfer(net: &Net, megabytes: u32) {
    let server = net.serve(
        "b",
        ("tcp", 8000),
        "python3 -c \"import socket
l=socket.create_server(('10.9.0.2',8000)); s,_=l.accept()
while s.recv(65536): pass
s.sendall(b'done')\"",
    );
    net.exec(
        "a",
        &format!(
            "python3 -c \"import socket
s=socket.create_connection(('10.9.0.2',8000))
for _ in range({megabytes}): s.sendall(b'x'*1000000)
s.shutdown(1); assert s.recv(9)==b'done'\""
        ),
    );
    server.wait();
}

fn number(flow: &Value, key: &str) -> u64 {
    flow[key].as_u64().unwrap()
}

/// The one flow that these filters show, live or ended.
fn the_flow(agent: &Agent<'_>, filters: &[&str]) -> Value {
    let flows = agent.flows(&[filters, &["--ended"]].concat());
    assert_eq!(flows.len(), 1, "{filters:?}: {flows:#?}");
    flows[0].clone()
}

#[test]
fn on_the_underlay_inner_flows_are_told_with_their_tunnel() {
    for (kind, overhead) in [("vxlan", 50), ("geneve", 54)] {
        let tunnelled = tunnelled(kind, false);
        let net = &tunnelled.net;
        let agent = Agent::start(net, "a", UNDERLAY);
        net.exec("a", "ping -q -i 0.2 -c 3 10.9.0.2");
        net.exec("b", "ping -q -c 1 10.9.0.1");
        transfer(net, 1);
        agent.assert_law();
        let ping = the_flow(
            &agent,
            &["--protocol", "icmp", "--ip", "10.9.0.1", "--sort", "packets", "--limit", "1"],
        );
        assert_eq!((number(&ping, "packets_sent"), number(&ping, "packets_received")), (3, 3), "{ping:#}");
        assert_eq!(number(&ping, "bytes_sent"), 3 * (98 + overhead), "outer headers are on the wire, too");
        assert_eq!(ping["icmp"]["rtt_us"]["samples"], 3);
        let tunnel = json!({"kind": kind, "vni": 42, "src": "192.0.2.1", "dst": "192.0.2.2"});
        assert_eq!(ping["tunnel"], tunnel);
        let back = agent
            .flows(&["--protocol", "icmp", "--ended"])
            .into_iter()
            .find(|f| f["src"]["ip"] == "10.9.0.2");
        assert_eq!(back.unwrap()["tunnel"]["src"], "192.0.2.2", "as the opener sends");
        let tcp = the_flow(&agent, &["--protocol", "tcp", "--port", "8000", "--status", "ok"]);
        assert_eq!(tcp["tunnel"], tunnel);
        assert!(number(&tcp, "bytes_sent") > 1_000_000 && tcp["tcp"]["rtt_us"]["samples"].as_u64() > Some(0));
        assert_eq!(agent.flows(&["--vni", "43", "--ended"]).len(), 0);
        assert!(agent.flows(&["--vni", "42", "--ended"]).len() >= 3);
        // ARP inside is all that is left to the outer flows.
        let outer: u64 = agent
            .flows(&["--protocol", "udp"])
            .iter()
            .map(|flow| number(flow, "packets_sent") + number(flow, "packets_received"))
            .sum();
        let not_ip = agent.metrics().sum("netmon_ebpf_packet_kinds_total", &["tunnel_not_ip"]) as u64;
        assert!(outer > 0 && outer == not_ip, "{outer} packets of outer flows, {not_ip} not IP");
        agent.stop();
    }
}

#[test]
fn packets_seen_in_the_tunnel_and_bare_are_counted_once() {
    for (kind, overhead) in [("vxlan", 50), ("geneve", 54)] {
        let tunnelled = tunnelled(kind, false);
        let net = &tunnelled.net;
        let agent = Agent::start(
            net,
            "a",
            "capture: { interfaces: [va, t0], decapsulate: [vxlan, geneve] }\nflow: { active_interval: 200ms }",
        );
        net.exec("a", "ping -q -i 0.2 -c 5 10.9.0.2");
        transfer(net, 1);
        agent.assert_law();
        let ping = the_flow(&agent, &["--protocol", "icmp"]);
        assert_eq!((number(&ping, "packets_sent"), number(&ping, "packets_received")), (5, 5), "{ping:#}");
        assert_eq!(ping["tunnel"]["vni"], 42);
        assert_eq!(ping["interfaces"].as_array().unwrap().len(), 2, "{ping:#}");
        // Out: bare first. In: in the tunnel first.
        assert_eq!(
            (number(&ping, "bytes_sent"), number(&ping, "bytes_received")),
            (5 * 98, 5 * (98 + overhead))
        );
        let outcomes = &agent.books()["outcomes"];
        assert!(outcomes["duplicate"].as_u64() >= Some(10), "{outcomes}");
        agent.stop();
    }
}

#[test]
fn tunnels_that_are_not_looked_into_are_outer_flows() {
    let tunnelled = tunnelled("vxlan", false);
    let net = &tunnelled.net;
    let agent = Agent::start(net, "a", "capture: { interfaces: [va] }\nflow: { active_interval: 200ms }");
    net.exec("a", "ping -q -c 3 -i 0.2 10.9.0.2");
    agent.assert_law();
    let flows = agent.flows(&[]);
    assert!(!flows.is_empty());
    for flow in &flows {
        assert_eq!((&flow["protocol"], &flow["dst"]["port"]), (&json!("udp"), &json!(4789)), "{flow:#}");
        assert_eq!(flow["tunnel"], Value::Null);
    }
    agent.stop();
}

#[test]
fn segments_of_a_super_packet_carry_the_headers_of_both() {
    let tunnelled = tunnelled("vxlan", true);
    let net = &tunnelled.net;
    let agent = Agent::start(net, "a", UNDERLAY);
    transfer(net, 20);
    agent.assert_law();
    let flow = the_flow(&agent, &["--protocol", "tcp", "--port", "8000", "--status", "ok"]);
    let (buffers, _) = net.counters("a", "va");
    let (packets, bytes) = (number(&flow, "packets_sent"), number(&flow, "bytes_sent"));
    assert!(buffers < packets / 2, "no super-packets: {buffers} buffers, {packets} packets");
    // Ethernet, IPv4, UDP, tunnel; Ethernet, IPv4, TCP with timestamps.
    let expected = 20_000_000 + packets * (14 + 20 + 8 + 8 + 14 + 20 + 32);
    assert!(bytes.abs_diff(expected) < 100_000, "{bytes} bytes in {packets} packets, {expected} expected");
    agent.stop();
}

#[test]
fn a_super_packet_of_whole_datagrams_stays_with_the_outer_flow() {
    let tunnelled = tunnelled("vxlan", true);
    let net = &tunnelled.net;
    let agent = Agent::start(net, "a", UNDERLAY);
    // Three datagrams of 8 + 14 + 20 + 8 bytes by UDP_SEGMENT, each with a packet inside.
    net.exec(
        "a",
        "python3 -c \"import socket
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.setsockopt(17,103,50)
ip=bytes([0x45,0,0,28,0,0,0,0,64,17,0,0,10,8,0,1,10,8,0,2])
one=bytes([8,0,0,0,0,0,7,0])+bytes(12)+bytes([8,0])+ip+bytes([0,1,0,2,0,8,0,0])
s.sendto(one*3,('192.0.2.2',4789))\"",
    );
    agent.wait("the outer flow", 5, |agent| !agent.flows(&["--port", "4789"]).is_empty());
    agent.assert_law();
    let flow = the_flow(&agent, &["--port", "4789"]);
    assert_eq!((number(&flow, "packets_sent"), number(&flow, "bytes_sent")), (3, 3 * 92), "{flow:#}");
    assert_eq!(agent.metrics().sum("netmon_ebpf_packet_kinds_total", &["tunnel_bundle"]), 3.0);
    agent.stop();
}

#[test]
fn the_tunnel_of_a_flow_is_known_after_its_end_and_takes_no_room_any_more() {
    let tunnelled = tunnelled("vxlan", false);
    let net = &tunnelled.net;
    let agent = Agent::start(
        net,
        "a",
        "capture: { interfaces: [va], decapsulate: [vxlan] }\nflow: { max_flows: 64, active_interval: 100ms, flow_timeout: 1s }",
    );
    // Nobody answers, and no packet waits for ARP.
    net.exec("a", "ip neigh replace 10.9.0.9 lladdr 02:00:00:00:00:09 dev t0");
    for round in 1..=3 {
        net.send_udp("a", "10.9.0.9", round * 1000..round * 1000 + 40, 1);
        agent.wait("the end of all flows", 20, |agent| agent.flows(&["--vni", "42"]).is_empty());
    }
    agent.wait("all flows in the history", 5, |agent| {
        let ended = agent.flows(&["--vni", "42", "--protocol", "udp", "--ended"]).len();
        ended > 64 && ended + agent.metrics().sum("netmon_flow_table_overflows_total", &[]) as usize >= 120
    });
    assert_eq!(agent.metrics().sum("netmon_ebpf_packet_kinds_total", &["tunnel_unmarked"]), 0.0);
    agent.assert_law();
    agent.stop();
}

#[test]
fn a_flow_whose_tunnel_ends_nowhere_has_failed_for_it() {
    let tunnelled = tunnelled("vxlan", false);
    let net = &tunnelled.net;
    net.exec("b", "ip link del t0");
    net.exec("a", "ip neigh replace 10.9.0.2 lladdr 02:00:00:00:00:09 dev t0");
    let agent = Agent::start(net, "a", UNDERLAY);
    // b answers the datagram: port unreachable.
    net.exec("a", "ping -q -c 1 -W 1 10.9.0.2 || true");
    agent.wait("the failed flow", 15, |agent| !agent.flows(&["--reason", "unreachable"]).is_empty());
    let flow = the_flow(&agent, &["--vni", "42"]);
    assert_eq!((&flow["reason"], &flow["icmp_errors"]), (&json!("unreachable"), &json!(["unreachable"])));
    agent.stop();
}

#[test]
fn flows_keep_their_tunnel_when_the_table_grows() {
    let tunnelled = tunnelled("vxlan", false);
    let net = &tunnelled.net;
    let agent = Agent::start(net, "a", UNDERLAY);
    // Nobody answers, and nobody asks by ARP.
    net.exec("a", "ip neigh replace 10.9.0.9 lladdr 02:00:00:00:00:09 dev t0");
    net.exec(
        "a",
        "python3 -c \"import socket
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)
for port in range(10000,50000): s.sendto(b'x',('10.9.0.9',port))\"",
    );
    agent.wait("a larger table", 20, |agent| {
        let table = &agent.cli(&["status"])["kernel_stats"]["table"];
        table["resizes"].as_u64() > Some(0) && table["entries"].as_u64() >= Some(40_000)
    });
    agent.assert_law();
    let flows = agent.flows(&["--protocol", "udp", "--cidr", "10.9.0.0/24"]);
    let without = flows.iter().filter(|flow| flow["tunnel"]["vni"] != 42).count();
    assert_eq!((flows.len(), without), (40_000, 0));
    agent.stop();
}
