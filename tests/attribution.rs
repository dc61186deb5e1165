//! Whose sockets the ends of flows are, with real processes, cgroups and namespaces. Needs root and a cgroup2 tree.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::agent::Agent;
use common::cgroup::Cgroup;
use common::net::{Background, Net};
use serde_json::Value;

const HOST: &str = "10.77.0.1";
const FAR: &str = "10.77.0.2";
const CONFIG: &str = "flow: { active_interval: 1s }";

/// host 10.77.0.1 === veth === 10.77.0.2 far; the agent watches the host's side.
fn topology() -> Net {
    let net = Net::new(&["host", "far"]);
    net.veth(("host", "nm0", "10.77.0.1/24"), ("far", "nm1", "10.77.0.2/24"));
    net
}

fn python(script: &str) -> String {
    format!("python3 -c \"{script}\"")
}

/// A TCP server that answers each connection's bytes until it ends.
fn echo(address: &str, port: u16) -> String {
    python(&format!(
        "import socket, threading
l = socket.create_server((\\\"{address}\\\", {port}))
def serve(c):
    while (d := c.recv(4096)): c.sendall(d)
while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()"
    ))
}

/// Reads UDP and never answers.
fn sink(port: u16) -> String {
    python(&format!(
        "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((\\\"0.0.0.0\\\", {port}))
while True: s.recvfrom(999)"
    ))
}

/// The one flow with this port, once it is there.
fn flow(agent: &Agent<'_>, port: u16, filters: &[&str]) -> Value {
    let port = port.to_string();
    let filters = [&["--ended", "--port", &port], filters].concat();
    let mut found = Vec::new();
    agent.wait("the flow is told", 10, |agent| {
        found = agent.flows(&filters);
        !found.is_empty()
    });
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

#[test]
fn processes_are_named_on_both_ends_though_they_are_gone() {
    let net = topology();
    let agent = Agent::start(&net, "host", CONFIG);
    let server = net.serve("far", ("tcp", 7001), &echo(FAR, 7001));
    // One write, one read, gone.
    let line = "sh -c 'echo $$; exec bash -c \"exec 3<>/dev/tcp/10.77.0.2/7001; echo hello >&3; read -u 3\"'";
    let client: u32 = net.exec("host", line).trim().parse().unwrap();
    let told = flow(&agent, 7001, &[]);
    assert_eq!(told["src"]["process"], "bash", "{told:#}");
    assert_eq!(told["src"]["pid"], client);
    // The other side of the veth: an accepted socket has its listener's name.
    assert_eq!(
        (told["dst"]["process"].as_str(), told["dst"]["pid"].as_u64()),
        (Some("python3"), Some(server.pid().into()))
    );
    assert_eq!(agent.flows(&["--ended", "--process", "bash", "--port", "7001"]).len(), 1);
    assert_eq!(agent.flows(&["--ended", "--process", &client.to_string()]).len(), 1);
    assert_eq!(agent.flows(&["--ended", "--process", "nobody"]).len(), 0);
    agent.assert_law();
    agent.stop();
}

#[test]
fn connections_to_this_host_have_the_server_name() {
    let net = topology();
    let agent = Agent::start(&net, "host", CONFIG);
    let server = net.serve("host", ("tcp", 7002), &echo(HOST, 7002));
    net.exec("far", "bash -c 'exec 3<>/dev/tcp/10.77.0.1/7002; echo hello >&3; read -u 3'");
    let told = flow(&agent, 7002, &[]);
    assert_eq!(
        (told["dst"]["process"].as_str(), told["dst"]["pid"].as_u64()),
        (Some("python3"), Some(server.pid().into())),
        "{told:#}"
    );
    agent.stop();
}

#[test]
fn datagrams_have_names_at_both_ends_even_if_one_never_answers() {
    let net = topology();
    let agent = Agent::start(&net, "host", CONFIG);
    let answers = python(
        "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((\\\"10.77.0.2\\\", 7003))
while True: s.sendto(*s.recvfrom(999))",
    );
    let _server = net.serve("far", ("udp", 7003), &answers);
    let sink = net.serve("host", ("udp", 7004), &sink(7004));
    net.exec(
        "host",
        "bash -c 'exec 3<>/dev/udp/10.77.0.2/7003; echo hello >&3; exec timeout 5 head -c1 <&3'",
    );
    let told = flow(&agent, 7003, &[]);
    assert_eq!(
        (&told["src"]["process"], &told["dst"]["process"]),
        (&"bash".into(), &"python3".into()),
        "{told:#}"
    );
    net.exec("far", "bash -c 'exec 3<>/dev/udp/10.77.0.1/7004; echo hello >&3'");
    let told = flow(&agent, 7004, &[]);
    assert_eq!(told["packets_received"], 0);
    assert_eq!(told["dst"]["pid"], sink.pid(), "{told:#}");
    assert_eq!(told["src"]["process"], "bash", "{told:#}");
    agent.stop();
}

#[test]
fn a_wildcard_socket_of_this_host_is_not_taken_for_the_one_that_a_datagram_goes_to() {
    // left 10.78.0.2 === host === 10.77.0.2 far: the host forwards.
    let net = Net::new(&["left", "host", "far"]);
    net.veth(("left", "nm2", "10.78.0.2/24"), ("host", "nm3", "10.78.0.1/24"));
    net.veth(("host", "nm0", "10.77.0.1/24"), ("far", "nm1", "10.77.0.2/24"));
    net.exec("host", "sysctl -qw net.ipv4.ip_forward=1");
    net.exec("left", "ip route add default via 10.78.0.1");
    net.exec("far", "ip route add default via 10.77.0.1");
    let agent = Agent::start(&net, "host", CONFIG);
    let _mistaken = net.serve("host", ("udp", 7005), &sink(7005));
    net.exec("left", "bash -c 'exec 3<>/dev/udp/10.77.0.2/7005; echo hello >&3'");
    let told = flow(&agent, 7005, &[]);
    assert_eq!(
        (&told["src"]["process"], &told["dst"]["process"]),
        (&"bash".into(), &Value::Null),
        "{told:#}"
    );
    agent.stop();
}

#[test]
fn units_and_containers_are_known_after_their_cgroups_are_gone() {
    let net = topology();
    let agent = Agent::start(&net, "host", CONFIG);
    let _server = net.serve("far", ("tcp", 7006), &echo(FAR, 7006));
    let _other = net.serve("far", ("tcp", 7007), &echo(FAR, 7007));
    let unit = format!("nmtest-{}.service", std::process::id());
    let id = format!("{:064x}", u128::from(std::process::id()) << 64 | 0xabc);
    let client = |port| format!("bash -c \"exec 3<>/dev/tcp/10.77.0.2/{port}; echo hello >&3; read -u 3\"");
    {
        let service = Cgroup::new(&format!("system.slice/{unit}"));
        service.exec(&net, "host", &client(7006));
        let container = Cgroup::new(&format!("nmtest{}.slice/docker-{id}.scope", std::process::id()));
        container.exec(&net, "host", &client(7007));
    }
    let told = flow(&agent, 7006, &["--unit", &unit]);
    assert_eq!(
        (&told["src"]["unit"], &told["src"]["container"]),
        (&unit.as_str().into(), &Value::Null),
        "{told:#}"
    );
    assert_eq!(told["dst"]["unit"], Value::Null);
    let contained = flow(&agent, 7007, &["--container", &id[..50]]);
    assert_eq!(
        (&contained["src"]["unit"], &contained["src"]["container"]),
        (&Value::Null, &id.as_str().into())
    );
    agent.wait("the unit's bytes are told", 10, |agent| {
        let flow = flow(agent, 7006, &[]);
        let bytes = flow["bytes_sent"].as_f64().unwrap() + flow["bytes_received"].as_f64().unwrap();
        let series = [format!("unit=\"{unit}\""), "direction=\"internal\"".into()];
        flow["state"] == "closed"
            && agent.metrics().sum("netmon_unit_bytes_total", &[&series[0], &series[1]]) == bytes
    });
    agent.wait("the attributed share is told", 10, |agent| {
        let metrics = agent.metrics();
        let ratio = metrics.sum("netmon_attributed_flows_ratio", &[]);
        metrics.sum("netmon_flows_total", &["tcp"]) >= 2.0 && ratio > 0.0 && ratio <= 1.0
    });
    agent.stop();
}

#[test]
fn sockets_that_are_older_than_the_agent_are_named() {
    let net = topology();
    let unit = format!("nmolder-{}.service", std::process::id());
    let service = Cgroup::new(&format!("system.slice/{unit}"));
    let server = net.serve("host", ("tcp", 7008), &echo(HOST, 7008));
    let talk = python(
        "import socket, time
s = socket.create_connection((\\\"10.77.0.1\\\", 7008))
while True: s.sendall(b\\\"x\\\"); s.recv(9); time.sleep(0.1)",
    );
    let talker = Background::start(service.command(&net, "far", &talk));
    std::thread::sleep(Duration::from_millis(500));
    let agent = Agent::start(&net, "host", CONFIG);
    let mut told = flow(&agent, 7008, &[]);
    agent.wait("both ends are named", 10, |agent| {
        told = flow(agent, 7008, &[]);
        told["src"]["pid"] == talker.pid() && told["dst"]["pid"] == server.pid()
    });
    assert_eq!(told["src"]["unit"], unit.as_str(), "{told:#}");
    drop(talker);
    agent.stop();
}

#[test]
fn threads_go_by_their_process_name() {
    let net = topology();
    let agent = Agent::start(&net, "host", CONFIG);
    let _server = net.serve("far", ("tcp", 7009), &echo(FAR, 7009));
    let threaded = python(
        "import socket, threading, ctypes
def run():
    assert ctypes.CDLL(None).prctl(15, b\\\"worker\\\", 0, 0, 0) == 0
    s = socket.create_connection((\\\"10.77.0.2\\\", 7009)); s.sendall(b\\\"x\\\"); s.recv(9)
t = threading.Thread(target=run); t.start(); t.join()",
    );
    net.exec("host", &threaded);
    let told = flow(&agent, 7009, &[]);
    assert_eq!(told["src"]["process"], "python3", "{told:#}");
    agent.stop();
}

#[test]
fn sockets_without_a_name_are_known_by_their_cgroup() {
    let net = topology();
    let unit = format!("nmraw-{}.service", std::process::id());
    let service = Cgroup::new(&format!("system.slice/{unit}"));
    let agent = Agent::start(&net, "host", CONFIG);
    // A packet socket is none of inet's, so nobody names it. It sends UDP from port 9 to port 7011.
    let raw = python(
        "import socket, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM); s.bind((\\\"nm0\\\", 0x800))
p = bytes.fromhex(\\\"4500001d00000000401100000a4d00010a4d000200091b6300090000\\\") + b\\\"x\\\"
s.sendto(p, (\\\"nm0\\\", 0x800, 0, 0, bytes(6)))",
    );
    service.exec(&net, "host", &raw);
    let mut told = Value::Null;
    agent.wait("the unit is found in the tree", 10, |agent| {
        told = flow(agent, 7011, &[]);
        told["src"]["unit"] == unit.as_str()
    });
    assert_eq!(told["src"]["process"], Value::Null, "{told:#}");
    assert_eq!(agent.flows(&["--ended", "--unit", &unit]).len(), 1);
    agent.stop();
}

/// What a process holds of the kernel's BPF objects, as its descriptors tell.
fn held(pid: u32) -> String {
    let infos = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    infos.flatten().filter_map(|info| std::fs::read_to_string(info.path()).ok()).collect()
}

#[test]
fn switched_off_nothing_is_attached_and_nobody_is_named() {
    const SOCKET_STORAGE: &str = "map_type:\t24";
    const LINK: &str = "link_type:\tcgroup";
    let net = topology();
    let _server = net.serve("far", ("tcp", 7010), &echo(FAR, 7010));
    let client = "bash -c 'exec 3<>/dev/tcp/10.77.0.2/7010; echo hello >&3; read -u 3'";
    let agent = Agent::start(&net, "host", CONFIG);
    let on = held(agent.pid());
    assert!(on.contains(SOCKET_STORAGE) && on.contains(LINK), "{on}");
    agent.stop();

    let off = format!("{CONFIG}\nfeatures: {{ process_attribution: {{ enabled: false }} }}");
    let agent = Agent::start(&net, "host", &off);
    let off = held(agent.pid());
    assert!(!off.contains(SOCKET_STORAGE) && !off.contains(LINK), "{off}");
    net.exec("host", client);
    let told = flow(&agent, 7010, &[]);
    for end in ["src", "dst"] {
        for key in ["process", "pid", "unit", "container"] {
            assert_eq!(told[end][key], Value::Null);
        }
    }
    assert!(!agent.metrics().0.keys().any(|series| series.starts_with("netmon_attributed")));
    agent.stop();
}
