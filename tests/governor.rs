//! The agent keeps within its limits: it sheds in order, says so everywhere, loses no packet, and recovers.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::PathBuf;
use std::time::Duration;

use common::agent::Agent;
use common::net::{Background, Net};
use serde_json::{Value, json};

/// Far more than an agent without traffic uses, in a debug build, too.
const AMPLE: &str = "resources.cpu_limit=64";
/// Less than any traffic takes.
const TINY: &str = "resources.cpu_limit=0.00001";

fn pair() -> Net {
    let net = Net::two_hosts();
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

/// A datagram from each of so many sockets to each of so many ports.
fn spray(net: &Net, sockets: u32, ports: u32) {
    let end = 20_000 + ports;
    net.exec(
        "a",
        &format!(
            "python3 -c \"import socket\n\
             for i in range({sockets}):\n\
             \x20   s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
             \x20   for port in range(20000, {end}): s.sendto(b'x', ('10.1.0.3', port))\n\
             \x20   s.close()\""
        ),
    );
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
    let order = [
        "interval",
        "latency_tracking",
        "protocol_detection",
        "process_attribution",
        "security_monitoring",
        "sampling",
    ];
    assert_eq!(shed(&agent), order);
    // It grew in that order, one at a time.
    let told = steps(&agent, "more is shed");
    assert!(told[0].contains("report every 400ms instead of 200ms"), "{told:#?}");
    assert!(told[1].contains("report every 800ms instead of 200ms") && !told[1].contains("off"), "{told:#?}");
    for (step, feature) in order[1..5].iter().enumerate() {
        let (before, after) = (&told[step + 1], &told[step + 2]);
        let off = format!("features.{feature} is off");
        assert!(!before.contains(&off) && after.contains(&off) && !after.contains("kept"), "{told:#?}");
    }
    assert!(told[6].contains("0.5 of all flows are kept instead of 1; counts are scaled"), "{told:#?}");

    let metrics = agent.metrics();
    for measure in order {
        assert_eq!(
            metrics.sum("netmon_governor_shed", &[&format!("measure=\"{measure}\"")]),
            1.0,
            "{measure}"
        );
    }
    assert!(metrics.sum("netmon_governor_steps_total", &["action=\"shed\"", "resource=\"cpu\""]) >= 8.0);
    assert!(metrics.sum("netmon_sampling_rate", &[]) <= 0.25, "scaled counts are marked");
    assert!(agent.cli(&["status"])["notes"].to_string().contains("the agent does less"));
    let (_, status, _) = agent.cli_text(&["status"]);
    assert!(status.contains("SHED: interval, latency_tracking"), "{status}");
    let (_, doctor, _) = agent.cli_text(&["doctor"]);
    assert!(doctor.contains("does less") && doctor.contains("larger resources.cpu_limit"), "{doctor}");
    // What is configured is as it was.
    assert_eq!(agent.cli_text(&["config", "get", "capture.sampling_rate"]).1.trim(), "1.0");

    set(&agent, AMPLE);
    agent.wait("all to be taken up again", 120, |agent| shed(agent).is_empty());
    assert_eq!(sampling_rate(&agent), 1.0);
    let told = steps(&agent, "less is shed");
    assert_eq!(told.last().unwrap(), "nothing", "{told:#?}");
    assert!(
        told[told.len() - 3].contains("800ms") && told[told.len() - 2].contains("400ms"),
        "in reverse: {told:#?}"
    );
    let metrics = agent.metrics();
    assert_eq!(metrics.sum("netmon_governor_shed", &[]), 0.0);
    assert!(metrics.sum("netmon_governor_steps_total", &["action=\"recovered\""]) >= 8.0);

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
    spray(&net, 400, 200);
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

/// A control group with a limit of memory; of whatever version this host has. Removed when it goes out of scope.
struct MemoryGroup {
    folder: PathBuf,
    /// Makes it visible in a namespace, where /sys is another one.
    mount: String,
}

impl MemoryGroup {
    fn new(name: &str, bytes: u64) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = |kind: &str, option: &str| {
            mounts.lines().find_map(|line| {
                let (front, back) = line.split_once(" - ")?;
                let ours = back.starts_with(kind) && back.split([' ', ',']).any(|word| word == option);
                front.split(' ').nth(4).filter(|_| ours).map(PathBuf::from)
            })
        };
        let (root, file, mount) = match root("cgroup ", "memory") {
            Some(root) => (root, "memory.limit_in_bytes", "-t cgroup -o memory"),
            None => {
                let root = root("cgroup2 ", "cgroup2").expect("these tests need a memory controller");
                std::fs::write(root.join("cgroup.subtree_control"), "+memory").expect("hand memory on");
                (root, "memory.max", "-t cgroup2")
            }
        };
        let folder = root.join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(file), bytes.to_string()).unwrap();
        Self { folder, mount: format!("mount {mount} none /sys/fs/cgroup") }
    }

    /// For the agent's shell: join it.
    fn join(&self) -> String {
        let name = self.folder.file_name().unwrap().display();
        format!("{} && echo $$ > /sys/fs/cgroup/{name}/cgroup.procs", self.mount)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A process that was killed takes a moment to leave.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_control_group_that_is_too_small_for_all_flows_kills_nobody() {
    let net = pair();
    let group = MemoryGroup::new(&format!("netmon-test-{}", std::process::id()), 100 << 20);
    let agent = Agent::start_after(&net, "a", "flow: { active_interval: 200ms }", &group.join());
    let capacity = |agent: &Agent<'_>| agent.metrics().sum("netmon_flow_table_capacity", &[]);
    agent.wait("fewer flows", 10, |agent| capacity(agent) < 200_000.0);
    let now = governor(&agent);
    assert_eq!((&now["limited_by_group"], &now["memory_limit_bytes"]), (&json!(true), &json!(68 << 20)));
    assert_eq!(shed(&agent), ["flows"]);
    // Three times what there is room for.
    spray(&net, 600, 500);
    agent.assert_law();
    let books = agent.books();
    let [counted, overflow] = ["counted", "overflow"].map(|name| books["outcomes"][name].as_u64().unwrap());
    assert!(counted > 40_000 && overflow > 50_000 && counted + overflow >= 300_000, "{books:#}");
    let now = governor(&agent);
    let used = now["agent_bytes"].as_u64().unwrap() + now["maps_bytes"].as_u64().unwrap();
    assert!(used <= 68 << 20 && now["exhausted"].as_array().unwrap().is_empty(), "{now:#}");
    let log = agent.stop();
    assert!(!log.contains("cannot resize"), "the kernel refused no table:\n{log}");
    drop(group);
}
