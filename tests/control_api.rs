//! The control socket and netmon-cli, against the real agent.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::agent::Agent;
use common::net::Net;
use serde_json::Value;

/// What the client prints.
fn text(agent: &Agent<'_>, arguments: &[&str]) -> String {
    let (status, text, words) = agent.cli_text(arguments);
    assert_eq!(status, 0, "{words}");
    text
}

/// One flow each of UDP (ports 1000 to 1004), an echo, and a refused TCP connection.
fn traffic(net: &Net, agent: &Agent<'_>) {
    net.exec("b", "ip route add blackhole 10.1.0.1 2>/dev/null || true");
    net.exec("a", "python3 -c \"import socket; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); [s.sendto(b'u'*(p-999)*10,('10.1.0.2',p)) for p in range(1000,1005)]\"");
    net.exec("b", "ip route del blackhole 10.1.0.1");
    net.exec("a", "ping -q -c 1 10.1.0.2; curl -s http://10.1.0.2:81/ || true");
    agent.wait("the refused flow", 5, |agent| !agent.flows(&["--reason", "refused"]).is_empty());
}

#[test]
fn every_filter_shows_its_flows_and_no_others() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "flow: { active_interval: 200ms }");
    traffic(&net, &agent);
    let count = |filters: &[&str]| agent.flows(filters).len();
    assert_eq!(count(&["--protocol", "udp"]), 5);
    assert_eq!(count(&["--protocol", "icmp"]), 1);
    assert_eq!(count(&["--port", "1003"]), 1);
    assert_eq!(count(&["--ip", "10.1.0.2", "--protocol", "udp"]), 5);
    assert_eq!(count(&["--ip", "10.1.0.3"]), 0);
    assert_eq!(count(&["--cidr", "10.1.0.0/30", "--protocol", "udp"]), 5);
    assert_eq!(count(&["--cidr", "10.2.0.0/16"]), 0);
    assert_eq!(count(&["--status", "failed"]), 1);
    assert_eq!(count(&["--reason", "refused", "--port", "81"]), 1);
    assert_eq!(count(&["--interface", "va", "--protocol", "udp"]), 5);
    assert_eq!(count(&["--interface", "vz"]), 0);
    assert_eq!(count(&["--since", "1h", "--protocol", "udp"]), 5);
    assert_eq!(count(&["--since", "2100-01-01T00:00:00Z"]), 0);
    assert_eq!(count(&["--namespace", "shop"]), 0);
    assert_eq!(count(&["--protocol", "udp", "--limit", "2"]), 2);
    let sizes: Vec<u64> = agent
        .flows(&["--protocol", "udp", "--sort", "bytes"])
        .iter()
        .map(|flow| flow["bytes_sent"].as_u64().unwrap())
        .collect();
    assert_eq!(sizes, [92, 82, 72, 62, 52]);
    agent.stop();
}

#[test]
fn answers_come_as_tables_json_and_lines() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "flow: { active_interval: 200ms }");
    traffic(&net, &agent);
    let table = text(&agent, &["flows", "list", "--status", "failed"]);
    assert!(table.contains("failed refused") && table.contains("10.1.0.2:81"), "{table}");
    let lines = text(&agent, &["flows", "dump", "--protocol", "udp", "-o", "ndjson"]);
    assert_eq!(lines.lines().count(), 5);
    assert!(lines.lines().all(|line| serde_json::from_str::<netmon::flow::record::FlowRecord>(line).is_ok()));
    let status = text(&agent, &["status"]);
    for part in ["every packet has its outcome", "va", "tcx", "ready      yes", "by ringbuf"] {
        assert!(status.contains(part), "{part} in {status}");
    }
    let stats = agent.cli(&["stats", "flows"]);
    assert_eq!(
        (&stats["by_protocol"]["udp"], &stats["by_direction"]["internal"].is_u64()),
        (&5.into(), &true)
    );
    assert_eq!(stats["top_talkers"][0]["src"], "10.1.0.1");
    assert!(text(&agent, &["stats", "flows"]).contains("TOP TALKERS"));
    agent.stop();
}

/// What a follower of the agent is told while `traffic` runs, until the agent ends.
fn followed(agent: Agent<'_>, filters: &[&str], traffic: impl FnOnce(&Agent<'_>)) -> Vec<Value> {
    // To a file: nobody reads a pipe meanwhile.
    let mut told = tempfile::tempfile().unwrap();
    let mut follower = agent
        .client()
        .args(["flows", "dump", "--follow", "--output", "ndjson"])
        .args(filters)
        .stdout(told.try_clone().unwrap())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    traffic(&agent);
    agent.stop();
    assert_eq!(follower.wait().unwrap().code(), Some(0));
    told.rewind().unwrap();
    let lines = std::io::read_to_string(told).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_following_dump_shows_what_comes_and_ends_with_the_agent() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "flow: { active_interval: 200ms }");
    let told = followed(agent, &["--protocol", "icmp"], |_| {
        net.exec("a", "ping -q -c 2 -i 0.3 10.1.0.2");
        std::thread::sleep(Duration::from_millis(500));
    });
    assert!(told.len() >= 2 && told.iter().all(|flow| flow["protocol"] == "icmp"), "{told:?}");
}

#[test]
fn what_flows_counted_last_is_told_at_the_end() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "flow: { flow_timeout: 1s, active_interval: 10m }");
    // Of some the second datagram is told by nobody yet, of some that are idle neither.
    let script = "import socket,time\nfor port in range(150):\n s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n for _ in range(2):\n  s.sendto(b'u',('10.1.0.2',6000+port)); time.sleep(0.01)";
    let told = followed(agent, &["--protocol", "udp"], |_| {
        net.exec("a", &format!("python3 -c \"{script}\""));
    });
    let last: BTreeMap<_, _> = told
        .iter()
        .map(|flow| (flow["flow_id"].as_str().unwrap(), flow["packets_sent"].as_u64().unwrap()))
        .collect();
    assert_eq!((last.len(), last.values().sum::<u64>()), (150, 300), "{last:?}");
}

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn json_that_goes_on_is_whole_when_ctrl_c_ends_it() {
    let net = Net::two_hosts();
    let off = "features: { drop_monitoring: { enabled: false } }";
    let agent = Agent::start(&net, "a", &format!("flow: {{ active_interval: 200ms }}\n{off}"));
    for command in [&["flows", "dump", "--follow"][..], &["debug", "packet-trace", "on"]] {
        let mut child =
            agent.client().args(["--output", "json"]).args(command).stdout(Stdio::piped()).spawn().unwrap();
        let (mut told, mut first) = (child.stdout.take().unwrap(), [0]);
        let pings = net.spawn("a", "ping -q -i 0.05 10.1.0.2");
        told.read_exact(&mut first).unwrap();
        drop(pings);
        interrupt(&child);
        let mut text = String::from_utf8(first.to_vec()).unwrap();
        told.read_to_string(&mut text).unwrap();
        let array: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(!array.is_empty(), "{command:?}");
        assert_eq!(child.wait().unwrap().code(), Some(0), "{command:?}");
    }
    let drops = text(&agent, &["drops", "-o", "ndjson"]);
    assert!(drops.contains("features.drop_monitoring.enabled is false"), "{drops}");
    agent.stop();
}

#[test]
fn an_agent_that_hangs_up_is_an_error_and_no_silent_success() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    for _ in 0..20 {
        let client = Command::new(env!("CARGO_BIN_EXE_netmon-cli"))
            .arg("--socket")
            .arg(&socket)
            .arg("status")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Most often before it has asked.
        drop(listener.accept().unwrap());
        let output = client.wait_with_output().unwrap();
        let words = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(words.contains("ask the agent"), "{words}");
    }
}

#[test]
fn ctrl_c_before_the_end_is_told_and_leaves_no_half_of_a_bundle() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, bundle) = (folder.path().join("s"), folder.path().join("b.tar.gz"));
    // It never answers.
    let listener = UnixListener::bind(&socket).unwrap();
    for command in [&["status"][..], &["support", "bundle", "--output", bundle.to_str().unwrap()]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_netmon-cli"))
            .arg("--socket")
            .arg(&socket)
            .args(command)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (mut asked, _) = listener.accept().unwrap();
        asked.read_exact(&mut [0; 10]).unwrap();
        assert_eq!(bundle.exists(), command.len() > 1, "it has begun");
        interrupt(&child);
        assert_eq!(child.wait().unwrap().code(), Some(130), "{command:?}");
        assert!(!bundle.exists());
    }
}

#[test]
fn a_dump_that_is_taken_too_slowly_breaks_off_and_says_so_and_the_table_grows() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "");
    net.exec("b", "ip route add blackhole 10.1.0.1");
    let send = |ports: std::ops::RangeInclusive<u16>, at_once: usize| {
        for ports in ports.collect::<Vec<_>>().chunks(at_once) {
            net.send_udp("a", "10.1.0.2", ports.iter().copied(), 1);
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    // So slowly that the table need not grow far ahead.
    send(10_000..=29_999, 500);
    let table = |agent: &Agent<'_>| agent.cli(&["status"])["kernel_stats"]["table"].clone();
    agent.wait("the first flows", 10, |agent| table(agent)["entries"].as_u64() >= Some(20_000));
    let slow = |output: &str| {
        let mut command = agent.client();
        command.args(["flows", "dump", "--output", output]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut client = command.spawn().unwrap();
        client.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        client
    };
    let clients = ["json", "ndjson"].map(slow);
    let before = table(&agent)["resizes"].as_u64();
    send(1_000..=u16::MAX, 4000);
    agent.wait("a larger table", 20, |agent| table(agent)["resizes"].as_u64() > before);
    // No client's own port is that low.
    agent.wait("a whole dump", 20, |agent| agent.try_cli(&["flows", "dump", "--port", "1234"]).is_some());
    assert_eq!(agent.flows(&["--port", "1234"]).len(), 1);
    for client in clients {
        let output = client.wait_with_output().unwrap();
        let (lines, words) = (output.stdout.len(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(1), "{lines} bytes, {words}");
        assert!(words.contains("broke off"), "{words}");
    }
    assert!(agent.stop().contains("a dump of flows breaks off"));
}

#[test]
fn client_ports_are_folded_in_what_followers_get() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "flow: { active_interval: 500ms, aggregation: true }");
    let mut counted = (0, 0);
    let told = followed(agent, &["--protocol", "tcp"], |agent| {
        for _ in 0..60 {
            // Nobody listens there.
            let _ = net.command("a", "bash -c 'exec 3<>/dev/tcp/10.1.0.2/81'").output();
        }
        agent.wait("all connections to end", 5, |agent| {
            agent.metrics().sum("netmon_flows_total", &["protocol=\"tcp\"", "reason=\"refused\""]) == 60.0
        });
        agent.assert_law();
        counted = agent.flows(&["--ended", "--protocol", "tcp"]).iter().fold((0, 0), |sum, flow| {
            let of = |key: &str| flow[key].as_u64().unwrap();
            (
                sum.0 + of("packets_sent") + of("packets_received"),
                sum.1 + of("bytes_sent") + of("bytes_received"),
            )
        });
    });
    let sum = |key: &str| told.iter().map(|flow| flow[key].as_u64().unwrap()).sum::<u64>();
    let folded = |key: &str| told.iter().map(|flow| flow["folded"][key].as_u64().unwrap()).sum::<u64>();
    assert!(told.len() < 20, "{} records for 60 connections", told.len());
    assert!(told.iter().all(|flow| flow["src"]["port"].is_null() && flow["dst"]["port"] == 81), "{told:?}");
    assert_eq!([folded("opened"), folded("ended"), folded("failed")], [60; 3]);
    assert_eq!(sum("packets_sent") + sum("packets_received"), counted.0);
    assert_eq!(sum("bytes_sent") + sum("bytes_received"), counted.1);
}

#[test]
fn what_is_not_accepted_is_named() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "");
    for (arguments, expected) in [
        (
            &["flows", "dump", "--protocol", "pigeon"][..],
            "protocol: `pigeon` is not accepted; accepted: a protocol name",
        ),
        (&["flows", "dump", "--cidr", "10.0.0.0/99"], "cidr: `10.0.0.0/99` is not accepted"),
        (&["flows", "dump", "--sort", "colour"], "accepted: bytes, packets, start or duration"),
    ] {
        let (status, _, message) = agent.cli_text(arguments);
        assert!(status == 2 && message.contains(expected), "{status}: {message}");
    }
    agent.stop();
    let output = Command::new(env!("CARGO_BIN_EXE_netmon-cli"))
        .args(["--socket", "/nowhere.sock", "status"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("no netmon agent answers on /nowhere.sock; start one")
    );
}
