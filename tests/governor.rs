//! The agent keeps within its limits: it sheds in order, says so everywhere, loses no packet, and recovers.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::agent::Agent;
use common::net::{Background, Net};
use serde_json::Value;

/// Far more than an agent without traffic uses, in a debug build, too.
const AMPLE: &str = "resources.cpu_limit=64";
/// Less than any traffic takes.
const TINY: &str = "resources.cpu_limit=0.00001";

fn pair() -> Net {
    let net = Net::new(&["a", "b"]);
    net.veth(("a", "va", "10.1.0.1/24"), ("b", "vb", "10.1.0.2/24"));
    // Nobody answers there.
    net.exec("a", "ip neigh replace 10.1.0.3 lladdr 02:00:00:00:00:03 dev va nud permanent");
    net
}

/// Datagrams from ever new ports, some thousand a second, until it is dropped.
fn traffic(net: &Net) -> Background {
    let code = "import socket, time\n\
                while True:\n\
                \x20   s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                \x20   for port in range(20000, 20020): s.sendto(b'x', ('10.1.0.3', port))\n\
                \x20   s.close()\n\
                \x20   time.sleep(0.005)";
    let line = format!("exec python3 -c \"{code}\"");
    Background::start(net.command("a", &line))
}

fn governor(agent: &Agent<'_>) -> Value {
    agent.cli(&["status"])["governor"].clone()
}

fn shed(agent: &Agent<'_>) -> Vec<String> {
    let shed = governor(agent)["shed"].clone();
    shed.as_array().unwrap().iter().map(|one| one["measure"].as_str().unwrap().into()).collect()
}

fn set(agent: &Agent<'_>, pair: &str) {
    let (code, _, message) = agent.cli_text(&["config", "set", pair]);
    assert_eq!(code, 0, "{message}");
}

fn sampling_rate(agent: &Agent<'_>) -> f64 {
    agent.cli(&["status"])["sampling_rate"].as_f64().unwrap()
}

/// Steps in the log, oldest first: what was shed after each.
fn steps(agent: &Agent<'_>, of: &str) -> Vec<String> {
    let log = agent.log();
    let lines = log.lines().filter(|line| line.contains(of));
    lines
        .map(|line| {
            line.split("shed is now: ").nth(1).unwrap().split(" message_id").next().unwrap().to_owned()
        })
        .collect()
}

#[test]
fn too_little_cpu_sheds_in_order_and_a_higher_limit_takes_all_up_again() {
    let net = pair();
    let before = net.counters("a", "va");
    let agent = Agent::start(&net, "a", "flow: { active_interval: 200ms }");
    let sending = traffic(&net);
    agent.wait("what is used to be told", 10, |agent| {
        let now = governor(agent);
        now["agent_cores"].as_f64().unwrap() > 0.0 && now["programs_cores"].as_f64().unwrap() > 0.0
    });
    assert_eq!((shed(&agent).len(), sampling_rate(&agent)), (0, 1.0), "two cores are enough");

    set(&agent, TINY);
    agent.wait("flows to be sampled", 60, |agent| sampling_rate(agent) <= 0.25);
    let order = ["interval", "security_monitoring", "sampling"];
    assert_eq!(shed(&agent), order);
    // It grew in that order, one at a time.
    let told = steps(&agent, "more is shed");
    assert!(told[0].contains("report every 400ms instead of 200ms"), "{told:#?}");
    assert!(told[1].contains("report every 800ms instead of 200ms") && !told[1].contains("off"), "{told:#?}");
    assert!(told[2].contains("security_monitoring is off") && !told[2].contains("kept"), "{told:#?}");
    assert!(told[3].contains("0.5 of all flows are kept instead of 1; counts are scaled"), "{told:#?}");

    let metrics = agent.metrics();
    for measure in order {
        assert_eq!(
            metrics.sum("netmon_governor_shed", &[&format!("measure=\"{measure}\"")]),
            1.0,
            "{measure}"
        );
    }
    assert!(metrics.sum("netmon_governor_steps_total", &["action=\"shed\"", "resource=\"cpu\""]) >= 5.0);
    assert!(metrics.sum("netmon_sampling_rate", &[]) <= 0.25, "scaled counts are marked");
    assert!(agent.cli(&["status"])["notes"].to_string().contains("the agent does less"));
    let (_, status, _) = agent.cli_text(&["status"]);
    assert!(status.contains("SHED: interval, security_monitoring, sampling"), "{status}");
    let (_, doctor, _) = agent.cli_text(&["doctor"]);
    assert!(doctor.contains("does less") && doctor.contains("larger resources.cpu_limit"), "{doctor}");
    // What is configured is as it was.
    assert_eq!(agent.cli_text(&["config", "get", "capture.sampling_rate"]).1.trim(), "1.0");

    set(&agent, AMPLE);
    agent.wait("all to be taken up again", 90, |agent| shed(agent).is_empty());
    assert_eq!(sampling_rate(&agent), 1.0);
    let told = steps(&agent, "less is shed");
    assert_eq!(told.last().unwrap(), "nothing", "{told:#?}");
    assert!(
        told[told.len() - 3].contains("800ms") && told[told.len() - 2].contains("400ms"),
        "in reverse: {told:#?}"
    );
    let metrics = agent.metrics();
    assert_eq!(metrics.sum("netmon_governor_shed", &[]), 0.0);
    assert!(metrics.sum("netmon_governor_steps_total", &["action=\"recovered\""]) >= 5.0);

    drop(sending);
    let mut last = Value::Null;
    agent.wait("the books to come to rest", 10, |agent| {
        let books = agent.books();
        let rest = books == last && books["outcomes"]["counted"] == books["flow_packets"];
        last = books;
        rest
    });
    let books = agent.books();
    assert_eq!(books["conserved"], true, "{books:#}");
    assert_eq!(books["counted_bytes"], books["flow_bytes"]);
    let seen = books["seen"].as_u64().unwrap();
    assert_eq!(seen, net.counters("a", "va").0 - before.0, "each packet was seen: {books:#}");
    let out = books["outcomes"]["sampled_out"].as_u64().unwrap();
    assert!(out > 0, "{books:#}");
    // Scaled, what was kept stands for what was left out: not exactly.
    let all = agent.metrics().sum("netmon_packets_total", &["protocol=\"udp\""]);
    assert!((all / seen as f64 - 1.0).abs() < 0.3, "{all} of {seen} packets, {out} left out");
    agent.stop();
}

#[test]
fn too_little_memory_keeps_fewer_flows_and_says_so() {
    let net = pair();
    let agent = Agent::start(&net, "a", "flow: { active_interval: 200ms }\nresources: { memory_limit: 1Gi }");
    agent.wait("a reading", 10, |agent| governor(agent)["maps_bytes"].as_u64().unwrap() > 0);
    let capacity = |agent: &Agent<'_>| agent.metrics().sum("netmon_flow_table_capacity", &[]);
    assert_eq!((shed(&agent).len(), capacity(&agent)), (0, 1_000_000.0));

    set(&agent, "resources.memory_limit=1Mi");
    agent.wait("fewer flows", 10, |agent| capacity(agent) == 1000.0);
    agent.wait("that it is told not to be enough", 15, |agent| governor(agent)["exhausted"][0] == "memory");
    assert_eq!(shed(&agent), ["flows"]);
    let metrics = agent.metrics();
    assert_eq!(metrics.sum("netmon_governor_shed", &["measure=\"flows\""]), 1.0);
    assert_eq!(metrics.sum("netmon_governor_exhausted", &["resource=\"memory\""]), 1.0);
    assert!(agent.cli(&["status"])["notes"].to_string().contains("1000 flows at most instead of 1000000"));
    assert!(agent.log().contains("there is nothing left to shed"));
    let (code, doctor, _) = agent.cli_text(&["doctor"]);
    assert!(code == 1 && doctor.contains("memory_limit is not held"), "{doctor}");

    // It can hold what there was room for, and counts the rest by protocol.
    net.exec(
        "a",
        "python3 -c \"import socket\n\
         for i in range(400):\n\
         \x20   s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         \x20   for port in range(20000, 20200): s.sendto(b'x', ('10.1.0.3', port))\n\
         \x20   s.close()\"",
    );
    agent.assert_law();
    let books = agent.books();
    let [counted, overflow] = ["counted", "overflow"].map(|name| books["outcomes"][name].as_u64().unwrap());
    assert_eq!(counted + overflow, books["seen"].as_u64().unwrap() - duplicates(&books));
    assert!(overflow > 30_000, "the first table stays: {books:#}");

    set(&agent, "resources.memory_limit=1Gi");
    agent.wait("all flows to be allowed", 10, |agent| capacity(agent) == 1_000_000.0);
    assert!(shed(&agent).is_empty() && governor(&agent)["exhausted"].as_array().unwrap().is_empty());
    agent.stop();
}

fn duplicates(books: &Value) -> u64 {
    ["duplicate", "not_ip", "malformed", "sampled_out"]
        .iter()
        .map(|name| books["outcomes"][name].as_u64().unwrap())
        .sum()
}
