//! Conversations that the agent's host translates (nft DNAT and masquerade): one flow, told with both addresses, each packet counted
//! once.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::agent::Agent;
use common::net::Net;
use netmon::conntrack::{Conntrack, Source, Word};
use serde_json::{Value, json};

/// Quick to tell, and conntrack asked this way.
fn quick(by: &str) -> String {
    format!("flow: {{ active_interval: 200ms }}\nfeatures: {{ nat: {{ conntrack: {by} }} }}")
}

/// Each of these runs twice: with conntrack read by the programs, and followed by netlink.
macro_rules! both_ways {
    ($($name:ident),+ $(,)?) => {
        mod by_programs {
            $(#[test] fn $name() { super::$name("programs"); })+
        }
        mod by_netlink {
            $(#[test] fn $name() { super::$name("netlink"); })+
        }
    };
}

/// c 10.1.0.2 ──ra── 10.1.0.1 r 10.2.0.1 ──rb── 10.2.0.2 s; with `six`, fd01::2, fd01::1, fd02::1 and fd02::2 too. s has no way to c
/// but by the router's address.
fn routed(six: bool) -> Net {
    let net = Net::new(&["c", "r", "s"]);
    net.veth(("c", "vc", "10.1.0.2/24"), ("r", "ra", "10.1.0.1/24"));
    net.veth(("r", "rb", "10.2.0.1/24"), ("s", "vs", "10.2.0.2/24"));
    net.exec("r", "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.icmp_ratelimit=0");
    net.exec("s", "sysctl -qw net.ipv4.icmp_ratelimit=0");
    net.exec("c", "ip route add default via 10.1.0.1");
    if six {
        for (namespace, interface, address) in [
            ("c", "vc", "fd01::2/64"),
            ("r", "ra", "fd01::1/64"),
            ("r", "rb", "fd02::1/64"),
            ("s", "vs", "fd02::2/64"),
        ] {
            net.address(namespace, interface, address);
        }
        net.exec("r", "sysctl -qw net.ipv6.conf.all.forwarding=1");
        net.exec("c", "ip -6 route add default via fd01::1");
    }
    net
}

/// The router's port 8080 is that of s:80, and 8081 of a port where nobody listens.
const DNAT: &str =
    "meta nfproto ipv4 ip daddr 10.1.0.1 meta l4proto {tcp, udp} th dport 8080 dnat ip to 10.2.0.2:80
meta nfproto ipv4 ip daddr 10.1.0.1 meta l4proto {tcp, udp} th dport 8081 dnat ip to 10.2.0.2:81
meta nfproto ipv6 ip6 daddr fd01::1 meta l4proto {tcp, udp} th dport 8080 dnat ip6 to [fd02::2]:80";
/// What leaves to s carries the router's address.
const MASQUERADE: &str = "oifname rb masquerade";

/// A host that answers nothing.
const SILENT: &str =
    "nft 'table inet quiet {\nchain in {\ntype filter hook input priority 0; policy drop;\n}\n}'";

/// Without masquerade s learns the way back to c.
fn rules(net: &Net, dnat: &str, masquerade: &str) {
    let chain = |name: &str, hook: &str, rules: &str| {
        format!("chain {name} {{\ntype nat hook {hook};\n{rules}\n}}\n")
    };
    let table = [
        chain("pre", "prerouting priority dstnat", dnat),
        chain("out", "output priority -100", dnat),
        chain("post", "postrouting priority srcnat", masquerade),
    ];
    net.exec("r", &format!("nft 'table inet n {{\n{}}}'", table.concat()));
    if masquerade.is_empty() {
        net.exec("s", "ip route add 10.1.0.0/24 via 10.2.0.1");
    }
}

/// A few exchanges with an address by TCP or UDP, from a port.
fn talk(net: &Net, namespace: &str, kind: &str, from: u16, to: (&str, u16)) {
    let family = if to.0.contains(':') { "AF_INET6" } else { "AF_INET" };
    let (kind, (address, port)) = (if kind == "tcp" { "SOCK_STREAM" } else { "SOCK_DGRAM" }, to);
    net.exec(
        namespace,
        &format!(
            "python3 -c 'import socket\ns = socket.socket(socket.{family}, socket.{kind})\n\
             s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\ns.settimeout(5)\n\
             s.bind((\"\", {from}))\ns.connect((\"{address}\", {port}))\n\
             for _ in range(5):\n    s.sendall(b\"x\" * 100)\n    assert s.recv(2048)'"
        ),
    );
}

/// Flows of a protocol, ended ones included.
fn all(agent: &Agent<'_>, protocol: &str) -> Vec<Value> {
    agent.flows(&["--ended", "--protocol", protocol])
}

/// Of both directions.
fn packets(flow: &Value) -> u64 {
    flow["packets_sent"].as_u64().unwrap() + flow["packets_received"].as_u64().unwrap()
}

/// The only flow of a protocol, once its end is known with the NAT.
fn only(agent: &Agent<'_>, protocol: &str) -> Value {
    let mut found = Vec::new();
    agent.wait("one flow with its other addresses, holding all that was counted", 20, |agent| {
        let counted = agent.books()["outcomes"]["counted"].as_u64().unwrap();
        let mut flows = agent.flows(&["--ended"]);
        // More, when packets go on to come.
        let whole = flows.iter().map(packets).sum::<u64>() >= counted;
        flows.retain(|flow| flow["protocol"] == protocol);
        found = flows;
        found.len() == 1 && !found[0]["nat"].is_null() && whole
    });
    found.remove(0)
}

/// Each packet of these protocols came in by one interface, where it was counted, and left by another.
fn assert_counted_once(agent: &Agent<'_>, protocols: &[&str]) {
    agent.assert_law();
    // While the table moves to another size a flow's counts stand in two places.
    agent.wait("flows to hold what was seen twice", 10, |agent| {
        let held: u64 =
            protocols.iter().flat_map(|protocol| all(agent, protocol)).map(|flow| packets(&flow)).sum();
        let books = agent.books();
        let [duplicate, overflow] =
            ["duplicate", "overflow"].map(|name| books["outcomes"][name].as_u64().unwrap());
        // What found no room where it came in may be known for it where it left.
        (held..=held + overflow).contains(&duplicate)
    });
}

/// Source, destination, and what they are on the other side, as `ip:port`.
fn addresses(flow: &Value) -> [String; 4] {
    let end = |end: &Value| match end["ip"].as_str() {
        Some(ip) => format!("{ip}:{}", end["port"]),
        None => "-".into(),
    };
    [end(&flow["src"]), end(&flow["dst"]), end(&flow["nat"]["src"]), end(&flow["nat"]["dst"])]
}

both_ways!(
    a_port_that_is_sent_on_is_one_flow_with_both_addresses,
    a_masqueraded_client_is_one_flow_with_both_addresses,
    both_translations_at_once_are_one_flow_also_on_one_interface,
    ipv6_is_joined_as_well,
    a_single_interface_tells_what_it_sees_and_what_it_knows,
    what_this_host_sends_itself_through_a_translation_shows_where_it_was_to_go,
    a_refused_connection_is_one_failed_flow,
    used_ports_make_a_new_flow_each_time,
    an_outer_port_that_is_given_to_another_client_is_another_flow,
    a_connection_that_stood_before_the_agent_is_one_flow,
    thousands_of_short_connections_leave_nothing_behind,
    the_table_grows_under_translated_flows,
    other_addresses_stay_known_for_as_long_as_the_flow,
    sampling_goes_by_the_addresses_before_translation,
);

#[test]
fn news_of_conntrack_that_nobody_reads_in_time_are_an_error_and_a_dump_tells_them() {
    let net = routed(false);
    rules(&net, "", MASQUERADE);
    let told = net.inside("r", || {
        let mut conntrack = Conntrack::open(4096).expect("conntrack by netlink");
        net.send_udp("c", "10.2.0.2", 1..=300, 1);
        let error = loop {
            match conntrack.next(Source::Events).map(|words| words.map(Iterator::count)) {
                Ok(words) => assert!(words.is_some(), "all 300 found room in 4 KiB"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.raw_os_error(), Some(105), "ENOBUFS: {error}");
        conntrack.begin_dump().unwrap();
        let mut told = Vec::new();
        while !told.contains(&Word::Done(None)) {
            told.extend(conntrack.next(Source::Dump).unwrap().into_iter().flatten());
        }
        told.len()
    });
    assert_eq!(told, 301, "300 translations and the end");
}

fn a_port_that_is_sent_on_is_one_flow_with_both_addresses(by: &str) {
    let net = routed(false);
    rules(&net, DNAT, "");
    let _server = net.echo("s", 80);
    let agent = Agent::start(&net, "r", &quick(by));
    for protocol in ["tcp", "udp"] {
        talk(&net, "c", protocol, 4000, ("10.1.0.1", 8080));
        let flow = only(&agent, protocol);
        assert_eq!(addresses(&flow), ["10.1.0.2:4000", "10.1.0.1:8080", "-", "10.2.0.2:80"], "{flow:#}");
        assert!(flow["packets_sent"].as_u64() >= Some(5) && flow["packets_received"].as_u64() >= Some(5));
        assert_eq!(flow["interfaces"], json!(["ra", "rb"]), "{flow:#}");
    }
    assert_counted_once(&agent, &["tcp", "udp"]);
    // Found by either address.
    assert_eq!(agent.flows(&["--ended", "--ip", "10.2.0.2"]).len(), 2);
    assert_eq!(agent.flows(&["--ended", "--port", "8080"]).len(), 2);
    agent.stop();
}

fn a_masqueraded_client_is_one_flow_with_both_addresses(by: &str) {
    let net = routed(false);
    rules(&net, "", MASQUERADE);
    let _server = net.echo("s", 80);
    let agent = Agent::start(&net, "r", &quick(by));
    for protocol in ["tcp", "udp"] {
        talk(&net, "c", protocol, 4000, ("10.2.0.2", 80));
        let flow = only(&agent, protocol);
        assert_eq!(addresses(&flow), ["10.1.0.2:4000", "10.2.0.2:80", "10.2.0.1:4000", "-"], "{flow:#}");
    }
    net.exec("c", "ping -q -c 3 -i 0.2 -W 2 10.2.0.2");
    let flow = only(&agent, "icmp");
    assert_eq!(addresses(&flow), ["10.1.0.2:null", "10.2.0.2:null", "10.2.0.1:null", "-"], "{flow:#}");
    assert_eq!((&flow["packets_sent"], &flow["packets_received"]), (&json!(3), &json!(3)), "{flow:#}");
    assert_eq!(flow["icmp"]["rtt_us"]["samples"], 3, "{flow:#}");
    assert_counted_once(&agent, &["tcp", "udp", "icmp"]);
    agent.stop();
}

fn both_translations_at_once_are_one_flow_also_on_one_interface(by: &str) {
    let net = routed(false);
    rules(&net, &format!("{DNAT}\nip daddr 10.1.0.1 udp dport 8082 dnat ip to 10.1.0.2:80"), "masquerade");
    let _server = net.echo("s", 80);
    let _own = net.echo("c", 80);
    let agent = Agent::start(&net, "r", &quick(by));
    talk(&net, "c", "tcp", 4000, ("10.1.0.1", 8080));
    let flow = only(&agent, "tcp");
    assert_eq!(
        addresses(&flow),
        ["10.1.0.2:4000", "10.1.0.1:8080", "10.2.0.1:4000", "10.2.0.2:80"],
        "{flow:#}"
    );
    // Hairpin: in and out by ra, and the addresses differ in their ports only.
    talk(&net, "c", "udp", 4000, ("10.1.0.1", 8082));
    let flow = only(&agent, "udp");
    assert_eq!(
        addresses(&flow),
        ["10.1.0.2:4000", "10.1.0.1:8082", "10.1.0.1:4000", "10.1.0.2:80"],
        "{flow:#}"
    );
    assert_counted_once(&agent, &["tcp", "udp"]);
    agent.stop();
}

fn ipv6_is_joined_as_well(by: &str) {
    let net = routed(true);
    rules(&net, DNAT, MASQUERADE);
    let _server = net.echo("s", 80);
    let agent = Agent::start(&net, "r", &quick(by));
    for protocol in ["tcp", "udp"] {
        talk(&net, "c", protocol, 4000, ("fd01::1", 8080));
        let flow = only(&agent, protocol);
        assert_eq!(
            addresses(&flow),
            ["fd01::2:4000", "fd01::1:8080", "fd02::1:4000", "fd02::2:80"],
            "{flow:#}"
        );
    }
    net.exec("c", "ping -q -c 3 -i 0.2 -W 2 fd02::2");
    let echoes = |agent: &Agent<'_>| {
        all(agent, "icmpv6").into_iter().filter(|flow| !flow["icmp"]["id"].is_null()).collect::<Vec<_>>()
    };
    agent.wait("the echo flow", 5, |agent| echoes(agent).iter().any(|flow| !flow["nat"].is_null()));
    let flows = echoes(&agent);
    assert_eq!(flows.len(), 1, "{flows:#?}");
    assert_eq!(addresses(&flows[0])[2], "fd02::1:null");
    agent.assert_law();
    agent.stop();
}

fn a_single_interface_tells_what_it_sees_and_what_it_knows(by: &str) {
    for (interface, expected) in [
        ("ra", ["10.1.0.2:4000", "10.1.0.1:8080", "10.2.0.1:4000", "10.2.0.2:80"]),
        ("rb", ["10.2.0.1:4000", "10.2.0.2:80", "10.1.0.2:4000", "10.1.0.1:8080"]),
    ] {
        let net = routed(false);
        rules(&net, DNAT, MASQUERADE);
        let _server = net.echo("s", 80);
        let agent =
            Agent::start(&net, "r", &format!("{}\ncapture: {{ interfaces: [{interface}] }}", quick(by)));
        for protocol in ["tcp", "udp"] {
            talk(&net, "c", protocol, 4000, ("10.1.0.1", 8080));
            let flow = only(&agent, protocol);
            assert_eq!(addresses(&flow), expected, "{flow:#}");
        }
        agent.assert_law();
        assert_eq!(agent.books()["outcomes"]["duplicate"], 0);
        agent.stop();
    }
}

fn what_this_host_sends_itself_through_a_translation_shows_where_it_was_to_go(by: &str) {
    let net = routed(false);
    rules(&net, DNAT, "");
    let _server = net.echo("s", 80);
    let agent = Agent::start(&net, "r", &quick(by));
    talk(&net, "r", "tcp", 4000, ("10.1.0.1", 8080));
    let flow = only(&agent, "tcp");
    let [src, dst, _, before] = addresses(&flow);
    assert_eq!((dst.as_str(), before.as_str()), ("10.2.0.2:80", "10.1.0.1:8080"), "{flow:#}");
    assert!(src.ends_with(":4000"));
    agent.assert_law();
    agent.stop();
}

fn a_refused_connection_is_one_failed_flow(by: &str) {
    let net = routed(false);
    rules(&net, DNAT, MASQUERADE);
    let agent = Agent::start(&net, "r", &quick(by));
    for (protocol, reason) in [("tcp", "refused"), ("udp", "unreachable")] {
        let kind = if protocol == "tcp" { "SOCK_STREAM" } else { "SOCK_DGRAM" };
        net.exec(
            "c",
            &format!(
                "python3 -c 'import socket\ns = socket.socket(socket.AF_INET, socket.{kind})\n\
                 s.bind((\"\", 4000))\ns.settimeout(5)\ntry:\n    s.connect((\"10.1.0.1\", 8081))\n    \
                 s.send(b\"x\")\n    s.recv(1)\nexcept ConnectionRefusedError:\n    pass'"
            ),
        );
        let flow = only(&agent, protocol);
        assert_eq!((&flow["status"], &flow["reason"]), (&json!("failed"), &json!(reason)), "{flow:#}");
        assert_eq!(addresses(&flow)[3], "10.2.0.2:81");
    }
    agent.assert_law();
    agent.stop();
}

fn used_ports_make_a_new_flow_each_time(by: &str) {
    let net = routed(false);
    rules(&net, "", MASQUERADE);
    let _server = net.echo("s", 80);
    let agent = Agent::start(&net, "r", &quick(by));
    // Ports in TIME_WAIT may be used anew.
    net.exec("c", "sysctl -qw net.ipv4.tcp_tw_reuse=1");
    for _ in 0..5 {
        net.exec(
            "c",
            "python3 -c 'import socket, struct\ns = socket.socket()\ns.bind((\"\", 4000))\n\
             s.connect((\"10.2.0.2\", 80))\ns.sendall(b\"x\")\ns.recv(1)\n\
             s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(\"ii\", 1, 0))'",
        );
    }
    agent.wait("five flows to end", 10, |agent| {
        let flows = all(agent, "tcp");
        flows.len() >= 5 && flows.iter().all(|flow| flow["state"] == "closed")
    });
    let flows = all(&agent, "tcp");
    assert_eq!(flows.len(), 5, "{flows:#?}");
    for flow in &flows {
        assert_eq!(addresses(flow), ["10.1.0.2:4000", "10.2.0.2:80", "10.2.0.1:4000", "-"], "{flow:#}");
    }
    assert_counted_once(&agent, &["tcp"]);
    agent.stop();
}

fn an_outer_port_that_is_given_to_another_client_is_another_flow(by: &str) {
    let net = routed(false);
    rules(&net, "", MASQUERADE);
    net.exec(
        "r",
        "sysctl -qw net.netfilter.nf_conntrack_udp_timeout=1 net.netfilter.nf_conntrack_udp_timeout_stream=1",
    );
    net.exec("c", "ip addr add 10.1.0.3/24 dev vc");
    let mac = net.exec("c", "cat /sys/class/net/vc/address");
    net.exec("r", &format!("ip neigh replace 10.1.0.3 lladdr {} dev ra", mac.trim()));
    let _server = net.echo("s", 80);
    let agent = Agent::start(&net, "r", &quick(by));
    for from in ["10.1.0.2", "10.1.0.3", "10.1.0.2"] {
        net.exec(
            "c",
            &format!(
                "python3 -c 'import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.settimeout(5)\n\
                 s.bind((\"{from}\", 4000))\nfor _ in range(5):\n    s.sendto(b\"x\", (\"10.2.0.2\", 80))\n    s.recv(1)'"
            ),
        );
        // conntrack forgets, and the port is free.
        std::thread::sleep(std::time::Duration::from_millis(2500));
    }
    let flows = all(&agent, "udp");
    assert_eq!(flows.len(), 2, "{flows:#?}");
    for flow in &flows {
        let rounds = if flow["src"]["ip"] == "10.1.0.2" { 10 } else { 5 };
        assert_eq!(
            (&flow["packets_sent"], &flow["packets_received"]),
            (&json!(rounds), &json!(rounds)),
            "{flow:#}"
        );
        assert_eq!(addresses(flow)[2], "10.2.0.1:4000", "{flow:#}");
    }
    assert_counted_once(&agent, &["udp"]);
    agent.stop();
}

fn a_connection_that_stood_before_the_agent_is_one_flow(by: &str) {
    let net = routed(false);
    rules(&net, DNAT, MASQUERADE);
    let _server = net.echo("s", 80);
    let _client = net.spawn(
        "c",
        "python3 -c 'import socket, time\ns = socket.create_connection((\"10.1.0.1\", 8080))\nwhile True:\n    \
         s.sendall(b\"x\")\n    s.recv(1)\n    time.sleep(0.02)'",
    );
    std::thread::sleep(std::time::Duration::from_millis(500));
    let agent = Agent::start(&net, "r", &quick(by));
    let flow = only(&agent, "tcp");
    assert!(!flow["nat"]["src"].is_null() && !flow["nat"]["dst"].is_null(), "{flow:#}");
    std::thread::sleep(std::time::Duration::from_millis(500));
    only(&agent, "tcp");
    agent.assert_law();
    agent.stop();
}

fn thousands_of_short_connections_leave_nothing_behind(by: &str) {
    let net = routed(false);
    rules(&net, "", "oifname rb meta l4proto tcp masquerade to :20000-60000");
    let _server = net.echo("s", 80);
    let agent = Agent::start(&net, "r", &quick(by));
    net.exec(
        "c",
        "python3 -c 'import socket\nfor _ in range(3000):\n    s = socket.create_connection((\"10.2.0.2\", 80))\n    \
         s.sendall(b\"x\")\n    s.recv(1)\n    s.close()'",
    );
    agent.wait("all connections to end", 15, |agent| {
        agent.metrics().sum("netmon_flows_total", &["protocol=\"tcp\""]) >= 3000.0
    });
    agent.assert_law();
    let flows = all(&agent, "tcp");
    let odd = |flow: &&Value| {
        flow["packets_sent"].as_u64() < Some(4) || flow["packets_received"].as_u64() < Some(3)
    };
    assert_eq!(flows.len(), 3000, "{:#?}", flows.iter().filter(odd).collect::<Vec<_>>());
    assert!(
        flows.iter().all(|flow| flow["nat"]["src"]["ip"] == "10.2.0.1" && flow["dst"]["ip"] == "10.2.0.2")
    );
    assert_counted_once(&agent, &["tcp"]);
    agent.wait("all slots to be free", 10, |agent| {
        agent.cli(&["status"])["kernel_stats"]["table"]["aliases"] == 0
    });
    agent.stop();
}

fn the_table_grows_under_translated_flows(by: &str) {
    let net = routed(false);
    rules(&net, "", MASQUERADE);
    net.exec("s", SILENT);
    let agent = Agent::start(&net, "r", &quick(by));
    let spray = |net: &Net| {
        net.exec(
            "c",
            "python3 -c 'import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
             s.bind((\"\", 4000))\nfor port in range(5001, 25001):\n    s.sendto(b\"x\", (\"10.2.0.2\", port))\n    \
             port % 50 or time.sleep(0.002)'",
        )
    };
    spray(&net);
    spray(&net);
    agent.wait("the table to have grown", 10, |agent| {
        agent.cli(&["status"])["kernel_stats"]["table"]["resizes"].as_u64() >= Some(1)
    });
    // A busy machine loses some packets, and a full table some aliases until the next packet.
    let mut sprays = 2;
    agent.wait("all flows with their other addresses", 60, |agent| {
        spray(&net);
        sprays += 1;
        agent.assert_law();
        let flows = agent.flows(&["--protocol", "udp"]);
        assert!(flows.iter().all(|flow| flow["packets_sent"].as_u64() <= Some(sprays)), "counted twice");
        flows.len() == 20_000 && flows.iter().all(|flow| flow["nat"]["src"]["ip"] == "10.2.0.1")
    });
    assert_counted_once(&agent, &["udp"]);
    agent.stop();
}

fn other_addresses_stay_known_for_as_long_as_the_flow(by: &str) {
    let net = routed(false);
    rules(&net, DNAT, MASQUERADE);
    let _server = net.echo("s", 80);
    // The other key is never seen, so its slot is idle from the start.
    let config = quick(by).replace("200ms", "200ms, flow_timeout: 1s") + "\ncapture: { interfaces: [rb] }";
    let agent = Agent::start(&net, "r", &config);
    let client = net.spawn(
        "c",
        "python3 -c 'import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.settimeout(5)\n\
         s.connect((\"10.1.0.1\", 8080))\nfor _ in range(50):\n    s.send(b\"x\")\n    s.recv(1)\n    time.sleep(0.1)'",
    );
    only(&agent, "udp");
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert_eq!(addresses(&only(&agent, "udp"))[3], "10.1.0.1:8080");
    client.wait();
    agent.wait("flow and alias to leave", 10, |agent| {
        let table = agent.cli(&["status"])["kernel_stats"]["table"].clone();
        table["entries"] == 0 && table["aliases"] == 0
    });
    let flow = only(&agent, "udp");
    assert_eq!((&flow["packets_sent"], &flow["packets_received"]), (&json!(50), &json!(50)), "{flow:#}");
    agent.assert_law();
    agent.stop();
}

fn sampling_goes_by_the_addresses_before_translation(by: &str) {
    let net = routed(false);
    rules(&net, "", MASQUERADE);
    net.exec("s", SILENT);
    let agent = Agent::start(&net, "r", &format!("{}\ncapture: {{ sampling_rate: 0.5 }}", quick(by)));
    net.send_udp("c", "10.2.0.2", 1..=400, 1);
    agent.assert_law();
    let flows = agent.flows(&["--protocol", "udp"]);
    assert!((100..300).contains(&flows.len()), "{} flows", flows.len());
    assert!(flows.iter().all(|flow| flow["src"]["ip"] == "10.1.0.2"), "{flows:#?}");
    agent.stop();
}

#[test]
fn switched_off_both_sides_are_flows_of_their_own() {
    let net = routed(false);
    rules(&net, DNAT, MASQUERADE);
    let _server = net.echo("s", 80);
    let agent =
        Agent::start(&net, "r", "flow: { active_interval: 200ms }\nfeatures: { nat: { enabled: false } }");
    talk(&net, "c", "tcp", 4000, ("10.1.0.1", 8080));
    agent.wait("both flows", 5, |agent| all(agent, "tcp").len() == 2);
    assert!(all(&agent, "tcp").iter().all(|flow| flow["nat"].is_null()));
    agent.assert_law();
    agent.stop();
}
