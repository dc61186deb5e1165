//! Real traffic between network namespaces, compared exactly with the interfaces' and the senders' own counters.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::agent::Agent;
use common::net::Net;
use serde_json::Value;

/// The config of most tests: quick reports.
const QUICK: &str = "flow: { active_interval: 200ms, connect_timeout: 1s }";

/// Listens on TCP port 7000 for one connection, reads 100 000 bytes, answers 50 000, closes.
const SERVER: &str = "python3 -c \"
import socket
f=socket.AF_INET6 if FAMILY==6 else socket.AF_INET
s=socket.socket(f); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1); s.bind(('',7000)); s.listen()
c,_=s.accept(); n=0
while n<100000: n+=len(c.recv(65536))
c.sendall(b'x'*50000); c.close()\"";

const CLIENT: &str = "python3 -c \"
import socket
s=socket.create_connection(('ADDRESS',7000))
s.sendall(b'y'*100000); n=0
while True:
    d=s.recv(65536); n+=len(d)
    if not d: break
assert n==50000; s.close()\"";

fn exchange(net: &Net, from: &str, to: &str, address: &str) {
    let family = if address.contains(':') { "6" } else { "4" };
    // On a busy machine a probe for a lost tail, or an acknowledgement of what came in disorder, has more than callers reckon with.
    for host in [from, to] {
        net.exec(host, "sysctl -qw net.ipv4.tcp_sack=0 net.ipv4.tcp_early_retrans=0");
    }
    // The client must not knock before the door is open: a refused attempt would be a flow of its own.
    let server = net.serve(to, ("tcp", 7000), &SERVER.replace("FAMILY", family));
    net.exec(from, &CLIENT.replace("ADDRESS", address));
    server.wait();
}

fn one<'a>(flows: &'a [Value], what: &str) -> &'a Value {
    assert_eq!(flows.len(), 1, "{what}: {flows:#?}");
    &flows[0]
}

/// What the agent has seen on an interface equals the interface's own counters, packets and bytes.
fn assert_equals_interface(
    agent: &Agent<'_>,
    net: &Net,
    namespace: &str,
    interface: &str,
    before: (u64, u64),
) {
    agent.assert_law();
    let (packets, bytes) = net.counters(namespace, interface);
    let books = agent.books();
    assert_eq!(books["seen"].as_u64().unwrap(), packets - before.0, "packets on {interface}: {books:#}");
    assert_eq!(books["counted_bytes"].as_u64().unwrap(), bytes - before.1, "bytes on {interface}: {books:#}");
}

#[test]
fn tcp_udp_and_icmp_are_counted_to_the_byte() {
    let net = Net::two_hosts();
    // Else an ICMP error ends the flow before it is looked at.
    let sink = "python3 -c \"import socket,time; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('',9)); time.sleep(300)\"";
    let _sink = net.serve("b", ("udp", 9), sink);
    let before = net.counters("a", "va");
    let agent = Agent::start(&net, "a", QUICK);
    exchange(&net, "a", "b", "10.1.0.2");
    net.exec("a", "ping -q -c 5 -i 0.05 -s 100 10.1.0.2");
    net.exec("a", "python3 -c \"import socket; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); [s.sendto(b'z'*n,('10.1.0.2',9)) for n in (1,100,1000)]\"");
    assert_equals_interface(&agent, &net, "a", "va", before);

    let flows = agent.flows(&["--protocol", "tcp", "--ended"]);
    let tcp = one(&flows, "one TCP flow");
    assert_eq!(
        (&tcp["state"], &tcp["status"], &tcp["direction"]),
        (&"closed".into(), &"ok".into(), &"internal".into())
    );
    assert_eq!(
        (&tcp["src"]["ip"], &tcp["dst"]["ip"], &tcp["dst"]["port"]),
        (&"10.1.0.1".into(), &"10.1.0.2".into(), &7000.into())
    );
    // Every segment carries 66 bytes of headers (14 + 20 + 32 with timestamps), the SYNs 8 more.
    let wire = |packets: &Value, payload: u64| packets.as_u64().unwrap() * 66 + 8 + payload;
    assert_eq!(tcp["bytes_sent"].as_u64().unwrap(), wire(&tcp["packets_sent"], 100_000));
    assert_eq!(tcp["bytes_received"].as_u64().unwrap(), wire(&tcp["packets_received"], 50_000));
    assert!(tcp["tcp"]["handshake_us"].as_u64().unwrap() > 0);

    let echoes: Vec<Value> =
        agent.flows(&["--protocol", "icmp"]).into_iter().filter(|f| f["icmp"]["type"] == 8).collect();
    let echo = one(&echoes, "one echo flow");
    assert_eq!(
        (&echo["packets_sent"], &echo["packets_received"], &echo["bytes_sent"]),
        (&5.into(), &5.into(), &(5 * 142).into())
    );
    assert_eq!((&echo["src"]["port"], &echo["icmp"]["type"]), (&Value::Null, &8.into()));

    let flows = agent.flows(&["--protocol", "udp"]);
    let udp = one(&flows, "one UDP flow");
    assert_eq!(
        (&udp["packets_sent"], &udp["bytes_sent"], &udp["state"]),
        (&3.into(), &(1101 + 3 * 42).into(), &"opening".into())
    );
    agent.stop();
}

#[test]
fn ipv6_is_counted_to_the_byte() {
    let net = Net::new(&["a", "b"]);
    net.veth(("a", "va", "fd00::1/64"), ("b", "vb", "fd00::2/64"));
    // Router solicitations and listener reports go on for a while after an address is set.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let agent = Agent::start(&net, "a", QUICK);
    exchange(&net, "a", "b", "fd00::2");
    net.exec("a", "ping -6 -q -c 3 -i 0.05 fd00::2");
    agent.assert_law();
    let flows = agent.flows(&["--protocol", "tcp", "--ended"]);
    let tcp = one(&flows, "one TCP flow");
    let wire = |packets: &Value, payload: u64| packets.as_u64().unwrap() * 86 + 8 + payload;
    assert_eq!(tcp["family"], "ipv6");
    assert_eq!(tcp["bytes_sent"].as_u64().unwrap(), wire(&tcp["packets_sent"], 100_000));
    assert_eq!(tcp["bytes_received"].as_u64().unwrap(), wire(&tcp["packets_received"], 50_000));
    let echoes: Vec<Value> =
        agent.flows(&["--protocol", "icmpv6"]).into_iter().filter(|f| f["icmp"]["type"] == 128).collect();
    assert_eq!(one(&echoes, "one echo flow")["packets_sent"], 3);
    agent.stop();
}

#[test]
fn super_packets_count_as_their_segments() {
    let net = Net::new(&["a", "b"]).with_offload();
    net.veth(("a", "va", "10.1.0.1/24"), ("b", "vb", "10.1.0.2/24"));
    let agent = Agent::start(&net, "a", QUICK);
    let server = net.serve("b", ("tcp", 5201), "iperf3 -s -1");
    // RFC 1213: tcpOutSegs leaves retransmitted segments out.
    let sent_by_tcp = || ["OutSegs", "RetransSegs"].map(|name| net.snmp("a", "Tcp", name));
    let before = sent_by_tcp();
    let report: Value = serde_json::from_str(&net.exec("a", "iperf3 -c 10.1.0.2 -n 200M -J")).unwrap();
    let after = sent_by_tcp();
    let [segments, again] = [after[0] - before[0], after[1] - before[1]];
    server.wait();
    agent.assert_law();

    let flows = agent.flows(&["--protocol", "tcp", "--ended", "--sort", "bytes"]);
    let sent: u64 = flows.iter().map(|flow| flow["packets_sent"].as_u64().unwrap()).sum();
    assert_eq!(sent, segments + again, "as many packets as the sender's TCP has sent segments");
    // What was written last may never be sent, since the receiver closes at the end of the test.
    let received = report["end"]["sum_received"]["bytes"].as_u64().unwrap();
    let payload =
        flows[0]["bytes_sent"].as_u64().unwrap() - 66 * flows[0]["packets_sent"].as_u64().unwrap() - 8 - 37;
    assert!(payload >= received, "{payload} bytes on the wire, {received} received");

    exchange(&net, "a", "b", "10.1.0.2");
    agent.assert_law();
    let flows = agent.flows(&["--port", "7000", "--ended"]);
    let exact = one(&flows, "one TCP flow");
    let wire = |packets: &Value, payload: u64| packets.as_u64().unwrap() * 66 + 8 + payload;
    assert_eq!(exact["bytes_sent"].as_u64().unwrap(), wire(&exact["packets_sent"], 100_000));
    assert_eq!(exact["bytes_received"].as_u64().unwrap(), wire(&exact["packets_received"], 50_000));
    assert!(
        agent.books()["seen"].as_u64().unwrap() > net.counters("a", "va").0,
        "there were super-packets at all"
    );
    agent.stop();
}

#[test]
fn a_vlan_tag_in_the_metadata_was_on_the_wire() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "b", QUICK);
    // Ten tagged UDP frames from a raw socket; the receiving kernel strips the tag into the metadata.
    net.exec("a", r#"python3 -c "
import socket
s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW); s.bind(('va',0))
ip=bytes.fromhex('4500001c000100004011000001010101')[:12]+bytes([10,1,0,1,10,1,0,2])
f=b'\xff'*6+b'\x02\0\0\0\0\1'+b'\x81\0\0\7\x08\0'+ip+bytes.fromhex('03e80035000800000000000000000000000000000000')
[s.send(f) for i in range(10)]
print(len(f))""#);
    agent.wait("ten packets", 5, |agent| agent.books()["outcomes"]["counted"] == 10);
    agent.assert_law();
    let flows = agent.flows(&["--protocol", "udp", "--port", "53"]);
    let udp = one(&flows, "one UDP flow");
    assert_eq!(udp["bytes_sent"].as_u64().unwrap(), 10 * 60, "14 + 4 + 20 + 8 + 14 of padding, ten times");
    agent.stop();
}

#[test]
fn a_packet_that_crosses_three_interfaces_is_counted_once() {
    // a 10.1.0.1 ──veth── ra [bridge br0 10.1.0.254] r [rb 10.2.0.254] ──veth── 10.2.0.2 b
    let net = Net::new(&["a", "r", "b"]);
    net.veth(("a", "va", "10.1.0.1/24"), ("r", "ra", ""));
    net.veth(("r", "rb", "10.2.0.254/24"), ("b", "vb", "10.2.0.2/24"));
    net.exec("r", "ip link add br0 type bridge && ip link set ra master br0 && ip addr add 10.1.0.254/24 dev br0 && ip link set br0 up && sysctl -qw net.ipv4.ip_forward=1");
    net.exec("a", "ip route add default via 10.1.0.254");
    net.exec("b", "ip route add default via 10.2.0.254");
    net.exec("a", "ping -q -c 1 -W 2 10.2.0.2");
    let agent = Agent::start(&net, "r", QUICK);
    let before = net.counters("b", "vb");
    exchange(&net, "a", "b", "10.2.0.2");
    agent.assert_law();
    let flows = agent.flows(&["--protocol", "tcp", "--ended"]);
    let tcp = one(&flows, "one flow for three interfaces");
    let both = |name: &str| {
        ["sent", "received"].iter().map(|way| tcp[format!("{name}_{way}")].as_u64().unwrap()).sum::<u64>()
    };
    let after = net.counters("b", "vb");
    assert_eq!((both("packets"), both("bytes")), (after.0 - before.0, after.1 - before.1));
    assert!(both("bytes") > 150_000);
    let mut interfaces: Vec<&str> =
        tcp["interfaces"].as_array().unwrap().iter().map(|i| i.as_str().unwrap()).collect();
    interfaces.sort_unstable();
    assert_eq!(interfaces, ["br0", "ra", "rb"], "all that saw it are remembered");
    let counted = tcp["packets_sent"].as_u64().unwrap() + tcp["packets_received"].as_u64().unwrap();
    let duplicates = agent.books()["outcomes"]["duplicate"].as_u64().unwrap();
    assert!(duplicates >= 2 * counted, "each was seen twice more: {duplicates} for {counted}");
    agent.stop();
}

#[test]
fn failed_connections_say_why() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", QUICK);
    net.exec(
        "a",
        "python3 -c \"
import socket
try: socket.create_connection(('10.1.0.2',81),2)
except ConnectionRefusedError: pass\"",
    );
    agent.wait("a refused flow", 5, |agent| !agent.flows(&["--reason", "refused"]).is_empty());
    net.exec("b", "ip link set vb down");
    net.exec(
        "a",
        "timeout 20 python3 -c \"
import socket
s=socket.socket(); s.settimeout(0.8)
try: s.connect(('10.1.0.2',82))
except OSError: pass\" || true",
    );
    agent.wait("a timed out flow", 10, |agent| !agent.flows(&["--reason", "timeout"]).is_empty());
    agent.wait("both in the metrics", 10, |agent| {
        let metrics = agent.metrics();
        ["reason=\"refused\"", "reason=\"timeout\""]
            .iter()
            .all(|reason| metrics.sum("netmon_flows_total", &["status=\"failed\"", reason]) >= 1.0)
    });
    agent.assert_law();
    agent.stop();
}
