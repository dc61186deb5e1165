//! Packets that the kernel drops, by its own reasons, by interface and by flow: real drops, compared with the kernel's other
//! counters. The tracepoint is host wide, so what other tests drop is seen as well, but never under this namespace's interfaces.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::agent::Agent;
use common::net::{Net, run};
use serde_json::{Value, json};

const QUICK: &str = "flow: { active_interval: 200ms, connect_timeout: 1s }";

/// a 10.61.1.1, fd61::1 ──veth── 10.61.1.2, fd61::2 b. Both interfaces have the same index, each in its namespace.
fn pair(net: Net) -> Net {
    net.veth(("a", "va", "10.61.1.1/24"), ("b", "vb", "10.61.1.2/24"));
    net.address("a", "va", "fd61::1/64");
    net.address("b", "vb", "fd61::2/64");
    net
}

/// So many datagrams of one socket.
fn send_udp(net: &Net, from: &str, address: &str, port: u16, count: usize, bytes: usize) {
    net.send_udp(from, address, std::iter::repeat_n(port, count), bytes);
}

/// Packets dropped by reason and interface.
fn dropped(agent: &Agent<'_>, reason: &str, interface: &str) -> f64 {
    let parts = [format!("reason=\"{reason}\""), format!("interface=\"{interface}\"")];
    agent.metrics().sum("netmon_drops_total", &[&parts[0], &parts[1]])
}

fn wait_dropped(agent: &Agent<'_>, reason: &str, interface: &str, packets: u64) {
    let mut last = 0.0;
    for _ in 0..100 {
        last = dropped(agent, reason, interface);
        if last >= packets as f64 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(last, packets as f64, "{reason} at {interface}: {:#}", agent.cli(&["drops"]));
}

/// The drops of the flow to a port. On its way out of the table a flow is nowhere for a moment.
fn flow_drops(agent: &Agent<'_>, address: &str, port: u16) -> Value {
    let mut flows = Vec::new();
    agent.wait(&format!("the one flow to {address} {port}"), 5, |agent| {
        flows = agent.flows(&["--ended", "--ip", address, "--port", &port.to_string()]);
        flows.len() == 1
    });
    flows[0]["drops"].clone()
}

#[test]
fn drops_have_the_kernels_reason_the_interface_and_the_flow() {
    let net = pair(Net::new(&["a", "b"]));
    net.exec(
        "a",
        "nft 'add table inet t; add chain inet t in { type filter hook input priority 0; }; \
         add chain inet t out { type filter hook output priority 0; }; add rule inet t in udp dport 83 drop; \
         add rule inet t in tcp dport 84 drop; add rule inet t out udp dport 82 drop'",
    );
    let agent = Agent::start(&net, "a", QUICK);

    // Nobody listens: here, and on the other side, which is another namespace of this host.
    send_udp(&net, "b", "10.61.1.1", 61009, 4, 1);
    send_udp(&net, "b", "fd61::1", 61010, 2, 1);
    send_udp(&net, "a", "10.61.1.2", 61011, 3, 1);
    wait_dropped(&agent, "no_socket", "va", 6);
    assert!(dropped(&agent, "no_socket", "other-namespace") >= 3.0);
    assert_eq!(net.snmp("a", "Udp", "NoPorts"), 4, "the kernel's own count of IPv4");
    for (address, port, packets) in [("10.61.1.1", 61009, 4), ("fd61::1", 61010, 2), ("10.61.1.2", 61011, 3)]
    {
        let drops = flow_drops(&agent, address, port);
        assert_eq!(drops, json!({"packets": packets, "last_reason": "no_socket"}), "{address}");
    }

    // The SYN is refused.
    let refused = "python3 -c \"import socket; assert socket.socket().connect_ex(('10.61.1.1',61015))==111\"";
    net.exec("b", refused);
    assert_eq!(flow_drops(&agent, "10.61.1.1", 61015), json!({"packets": 1, "last_reason": "no_socket"}));

    // A firewall: what it drops on the way out has no device yet, and no flow.
    send_udp(&net, "a", "10.61.1.2", 82, 2, 1);
    send_udp(&net, "b", "10.61.1.1", 83, 3, 1);
    wait_dropped(&agent, "netfilter_drop", "va", 5);
    assert_eq!(flow_drops(&agent, "10.61.1.1", 83), json!({"packets": 3, "last_reason": "netfilter_drop"}));

    // Damaged on its way.
    net.exec("b", "hping3 -q -c 2 -i u1000 -S -b -s 61013 -k -p 61012 10.61.1.1 2>/dev/null; true");
    wait_dropped(&agent, "tcp_csum", "va", 2);
    assert_eq!(flow_drops(&agent, "10.61.1.1", 61012), json!({"packets": 2, "last_reason": "tcp_csum"}));

    // A program that does not read: the buffer's word for its device serves another purpose by then.
    let reader = net.serve(
        "a",
        ("udp", 61014),
        "python3 -c \"
import socket,time
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET,socket.SO_RCVBUF,4096)
s.bind(('',61014)); time.sleep(60)\"",
    );
    send_udp(&net, "b", "10.61.1.1", 61014, 100, 500);
    let full = net.snmp("a", "Udp", "RcvbufErrors");
    assert!(full > 50, "{full} datagrams found the buffer full");
    wait_dropped(&agent, "socket_rcvbuff", "va", full);
    drop(reader);

    // A connection that a rule swallows: why tells it.
    let client = net.spawn("b", "python3 -c \"import socket; socket.create_connection(('10.61.1.1',84),3)\"");
    agent.wait("the connection to have failed", 10, |agent| {
        !agent.flows(&["--port", "84", "--status", "failed"]).is_empty()
    });
    drop(client);
    let answer = agent.cli(&["why", "10.61.1.2", "10.61.1.1:84"]);
    let told = |line: &Value| {
        let line = line.as_str().unwrap();
        line.contains("kernel dropped") && line.contains("netfilter_drop: a firewall rule drops it")
    };
    assert!(answer["evidence"].as_array().unwrap().iter().any(told), "{answer:#}");

    let (_, table, _) = agent.cli_text(&["drops"]);
    let line = table.lines().find(|line| line.contains("tcp_csum") && line.contains("va")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[1..6], ["va", "2", "wrong", "TCP", "checksum:"], "{table}");
    assert_eq!(agent.cli(&["drops"])["off"], Value::Null);
    agent.assert_law();
    agent.stop();
}

#[test]
fn what_was_delivered_was_not_dropped() {
    let net = pair(Net::new(&["a", "b"]));
    let agent = Agent::start(&net, "a", QUICK);
    let sniffer = net.spawn("a", "python3 -c \"import socket,time; s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW,0x300); time.sleep(60)\"");
    agent.wait("the sniffer", 10, |_| net.exec("a", "cat /proc/net/packet").lines().count() > 1);
    let server = net.serve(
        "a",
        ("tcp", 61060),
        "python3 -c \"
import socket
s=socket.create_server(('',61060)); c,_=s.accept(); d=c.recv(9); c.sendall(d); c.close()
c,_=s.accept(); c.recv(9); c.setsockopt(socket.SOL_SOCKET,socket.SO_LINGER,b'\\1\\0\\0\\0\\0\\0\\0\\0'); c.close()\"",
    );
    net.exec(
        "b",
        "python3 -c \"
import socket
s=socket.create_connection(('10.61.1.1',61060)); s.sendall(b'question'); assert s.recv(99)==b'question'; s.close()
s=socket.create_connection(('10.61.1.1',61060)); s.sendall(b'question')
try: s.recv(99)
except ConnectionResetError: print('reset')\"",
    );
    server.wait();
    net.exec("b", "ping -6 -q -c 2 -i 0.2 fd61::1 && ip neigh flush dev vb && ping -6 -q -c 1 fd61::1");
    drop(sniffer);
    agent.assert_law();
    let flows = agent.flows(&["--ended"]);
    let told = |protocol: &str| flows.iter().any(|flow| flow["protocol"] == protocol);
    assert!(told("tcp") && told("icmpv6"), "{flows:#?}");
    for flow in &flows {
        assert_eq!(flow["drops"], Value::Null, "{flow:#}");
    }
    assert!(dropped(&agent, "queue_purge", "va") > 0.0, "{:#}", agent.cli(&["drops"]));
    agent.stop();
}

#[test]
fn a_dropped_super_packet_counts_as_the_packets_it_stands_for() {
    let net = pair(Net::new(&["a", "b"]).with_offload());
    let agent = Agent::start(&net, "a", QUICK);
    // UDP_SEGMENT: ten datagrams of 1000 bytes in one buffer.
    net.exec(
        "b",
        "python3 -c \"
import socket
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.setsockopt(socket.IPPROTO_UDP,103,1000)
s.sendto(b'u'*10000,('10.61.1.1',61020))\"",
    );
    wait_dropped(&agent, "no_socket", "va", 10);
    assert_eq!(flow_drops(&agent, "10.61.1.1", 61020), json!({"packets": 10, "last_reason": "no_socket"}));
    agent.assert_law();
    agent.stop();
}

#[test]
fn drops_at_interfaces_that_are_gone_stay_in_the_sum() {
    let net = pair(Net::new(&["a", "b"]));
    net.veth(("a", "wa", "10.61.2.1/24"), ("b", "wb", "10.61.2.2/24"));
    let agent = Agent::start(&net, "a", QUICK);
    send_udp(&net, "b", "10.61.2.1", 61030, 3, 1);
    wait_dropped(&agent, "no_socket", "wa", 3);
    net.exec("a", "ip link set va down && ip link set va name vx && ip link set vx up");
    net.exec("a", "ip link del wa");
    wait_dropped(&agent, "no_socket", "other", 3);
    send_udp(&net, "b", "10.61.1.1", 61031, 2, 1);
    wait_dropped(&agent, "no_socket", "vx", 2);
    wait_dropped(&agent, "no_socket", "other", 3);
    agent.stop();
}

/// Tracing programs that the agent holds. Other descriptors come and go meanwhile.
fn tracing_programs(agent: &Agent<'_>) -> usize {
    let infos = run(&format!("cat /proc/{}/fdinfo/* 2>/dev/null; true", agent.pid()));
    infos.lines().filter(|line| line.split_whitespace().eq(["prog_type:", "26"])).count()
}

#[test]
fn drop_monitoring_can_be_switched_off() {
    let net = pair(Net::new(&["a", "b"]));
    let alone = |drops: bool| {
        format!(
            "{QUICK}\nfeatures: {{ drop_monitoring: {{ enabled: {drops} }}, process_attribution: {{ enabled: false }} }}"
        )
    };
    let agent = Agent::start(&net, "a", &alone(true));
    assert_eq!(tracing_programs(&agent), 1);
    agent.stop();
    let agent = Agent::start(&net, "a", &alone(false));
    assert_eq!(tracing_programs(&agent), 0, "a program that is not wanted is not loaded");
    send_udp(&net, "b", "10.61.1.1", 61040, 3, 1);
    agent.assert_law();
    assert_eq!(flow_drops(&agent, "10.61.1.1", 61040), Value::Null);
    assert_eq!(agent.metrics().sum("netmon_drops_total", &[]), 0.0);
    assert_eq!(agent.cli(&["drops"])["off"], "features.drop_monitoring.enabled is false");
    agent.stop();
}

/// Stands in for kernels that lack something: this kernel's BTF with one name in it changed, for the agent alone.
#[test]
fn a_kernel_that_can_not_tell_drops_is_watched_without_them() {
    let net = pair(Net::new(&["a", "b"]));
    let alone = format!("{QUICK}\nfeatures: {{ process_attribution: {{ enabled: false }} }}");
    let folder = tempfile::tempdir().unwrap();
    let btf = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
    for (name, said) in [
        ("skb_iif", "the kernel refuses the program"),
        ("skb_drop_reason", "this kernel gives no reasons"),
        ("btf_trace_kfree_skb", "does not know the tracepoint"),
    ] {
        let text = format!("\0{name}\0");
        let at = btf.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
        let mut changed = btf.clone();
        changed[at + 1] = b'X';
        let file = folder.path().join(name);
        std::fs::write(&file, changed).unwrap();
        let mount = format!("mount --bind {} /sys/kernel/btf/vmlinux", file.display());
        let agent = Agent::start_after(&net, "a", &alone, &mount);
        assert_eq!(tracing_programs(&agent), 0);
        send_udp(&net, "b", "10.61.1.1", 61050, 3, 1);
        agent.assert_law();
        let off = agent.cli(&["drops"])["off"].clone();
        assert!(off.as_str().is_some_and(|off| off.contains(said)), "{name}: {off}");
        let status = agent.cli(&["status"]);
        let told = |note: &Value| note["text"].as_str().unwrap().contains(said);
        assert!(status["notes"].as_array().unwrap().iter().any(told), "{name}: {status:#}");
        agent.stop();
    }
}
