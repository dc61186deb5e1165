//! The soak: traffic of all sorts, reloads good and bad, interfaces that come and go, for ten minutes. At its end every packet has one
//! outcome, and the agent holds what it held at the begin.
//!
//! `NETMON_SOAK` says how long, seconds; with `NETMON_SOAK_OUT=FOLDER` what the agent held over time is written there: `soak.csv` and
//! `soak.svg`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::agent::{Agent, Held};
use common::net::{Net, run};

/// Kept small, so that whatever else runs has room.
const ROUND: Duration = Duration::from_secs(5);
/// Flows that fill what is bounded: the history of ended flows, tables.
const WARM_FLOWS: u32 = 12_000;

/// A moment.
struct Sample {
    seconds: f64,
    held: Held,
    maps_kib: u64,
    flows: u64,
}

/// What a line of the picture shows.
type Line = (&'static str, fn(&Sample) -> f64);

/// a 10.99.0.1 ──nml── 10.99.0.2 b: as netmon-load has them.
fn two_hosts() -> Net {
    let net = Net::new(&["a", "b"]);
    net.veth(("a", "nml0", "10.99.0.1/24"), ("b", "nml1", "10.99.0.2/24"));
    net.exec("b", "ip route add blackhole 10.99.1.0/24");
    net.exec("a", "ip route add 10.99.1.0/24 via 10.99.0.2");
    net
}

/// Runs netmon-load with each of these, one after the other: they use the same ports.
fn load(net: &Net, scenarios: &[&str]) -> Child {
    let program = env!("CARGO_BIN_EXE_netmon-load");
    let one = |scenario: &&str| {
        format!("{program} --namespaces {},{} {scenario} >/dev/null", net.name("a"), net.name("b"))
    };
    let all: Vec<String> = scenarios.iter().map(one).collect();
    Command::new("sh").args(["-c", &all.join(" && ")]).stdin(Stdio::null()).spawn().unwrap()
}

fn wait(mut load: Child) {
    assert!(load.wait().unwrap().success(), "a load has failed");
}

/// The configuration of a round: each differs from the one before in what can change live.
fn config(round: u32) -> String {
    let even = round.is_multiple_of(2);
    format!(
        "flow: {{ flow_timeout: 3s, connect_timeout: 2s, active_interval: {} }}\n\
         capture: {{ exclude_interfaces: [{}] }}\n\
         export: {{ prometheus: {{ top_pairs: {} }} }}\n\
         log: {{ level: {} }}\n",
        if even { "200ms" } else { "500ms" },
        if even { "" } else { "x1" },
        if even { 1000 } else { 500 },
        if even { "info" } else { "warn" },
    )
}

/// Takes the round's configuration over, by each of the three ways in turn; every fifth is refused.
fn reload(agent: &Agent<'_>, round: u32) {
    let failures = |agent: &Agent<'_>| agent.metrics().sum("netmon_config_reload_failures_total", &[]);
    let refused = failures(agent);
    let bad = round % 5 == 4;
    let text = if bad { "flow: { max_flows: many }".into() } else { agent.text(&config(round)) };
    let new = agent.file().with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, agent.file()).unwrap();
    match round % 3 {
        0 => agent.signal("HUP"),
        1 => {
            let (status, _, said) = agent.cli_text(&["config", "reload"]);
            assert_eq!(status != 0, bad, "round {round}: {said}");
        }
        _ => {}
    }
    let interval = if round.is_multiple_of(2) { "200ms" } else { "500ms" };
    agent.wait("the configuration of the round", 10, |agent| {
        if bad {
            return failures(agent) > refused;
        }
        let told = agent.cli_text(&["config", "get", "flow.active_interval"]).1;
        told.contains(interval)
    });
}

/// Interfaces come, carry a packet each way, are renamed, and go.
fn churn(net: &Net, agent: &Agent<'_>, round: u32) {
    let (a, b) = (net.name("a"), net.name("b"));
    for n in 0..4 {
        run(&format!(
            "ip -n {a} link add x{n} type veth peer name y{n} netns {b} && ip -n {b} link set y{n} up && ip -n {a} link set x{n} up"
        ));
    }
    run(&format!("ip -n {a} addr add 10.98.0.1/24 dev x0 && ip -n {b} addr add 10.98.0.2/24 dev y0"));
    agent.wait("what comes is watched", 10, |agent| {
        agent.metrics().sum("netmon_interfaces_attached", &[]) >= 4.0
    });
    net.exec("a", "ping -q -c 1 -W 5 10.98.0.2");
    run(&format!("ip -n {a} link set x3 name z{}", round % 10));
    run(&format!(
        "ip -n {a} link del x0 && ip -n {b} link del y1 && ip -n {a} link del x2 && ip -n {b} link del y3"
    ));
}

fn round(net: &Net, agent: &Agent<'_>, number: u32) {
    let end = Instant::now() + ROUND;
    let tcp = load(
        net,
        &[
            "--seconds 1.5 connections --rate 60",
            "--seconds 1 failing --rate 20",
            "--seconds 1 failing --kind timeout --rate 5",
        ],
    );
    let udp = load(net, &["--seconds 3 spray --flows 200 --packets 600 --rate 200"]);
    let pings = net.spawn("a", "ping -q -c 12 -i 0.2 10.99.0.2");
    churn(net, agent, number);
    reload(agent, number);
    [tcp, udp].into_iter().for_each(wait);
    pings.wait();
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
}

/// What it holds once all flows have ended, and threads that waited for more work.
fn at_rest(agent: &Agent<'_>) -> Held {
    agent.wait("the end of all flows", 60, |agent| agent.metrics().sum("netmon_flows_active", &[]) == 0.0);
    std::thread::sleep(Duration::from_secs(12));
    agent.assert_law();
    agent.held()
}

fn sample(agent: &Agent<'_>, begun: Instant) -> Sample {
    let metrics = agent.metrics();
    Sample {
        seconds: begun.elapsed().as_secs_f64(),
        held: agent.held(),
        maps_kib: metrics.sum("netmon_memory_usage_bytes", &["kind=\"maps\""]) as u64 / 1024,
        flows: metrics.sum("netmon_flows_active", &[]) as u64,
    }
}

#[test]
fn after_ten_minutes_the_agent_holds_what_it_held_and_every_packet_has_its_outcome() {
    let seconds =
        std::env::var("NETMON_SOAK").map_or(600, |text| text.parse().expect("NETMON_SOAK: seconds"));
    let net = two_hosts();
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(seconds);
    let agent = Agent::start(&net, "a", &config(0));
    let warm = format!("--seconds 20 spray --flows {WARM_FLOWS} --packets {} --rate 4000", 2 * WARM_FLOWS);
    wait(load(&net, &[&warm]));
    let mut samples = Vec::new();
    for number in 1..=4 {
        round(&net, &agent, number);
        samples.push(sample(&agent, begun));
    }
    let before = at_rest(&agent);
    let mut rounds = 4;
    while Instant::now() + ROUND < deadline {
        rounds += 1;
        round(&net, &agent, rounds);
        samples.push(sample(&agent, begun));
    }
    let after = at_rest(&agent);
    println!("{rounds} rounds in {:?}; held before: {before:?}, after: {after:?}", begun.elapsed());
    if let Some(folder) = std::env::var_os("NETMON_SOAK_OUT") {
        write(Path::new(&folder), &samples);
    }
    let metrics = agent.metrics();
    assert_eq!(metrics.sum("netmon_flow_table_overflows_total", &[]), 0.0);
    // A bad file is refused to whoever asked for it, and once more when it is seen to have changed.
    let refused = metrics.sum("netmon_config_reload_failures_total", &[]);
    assert!(refused >= f64::from((rounds + 1) / 5), "{refused} of {rounds} reloads were refused");
    for (series, least) in [
        (&["protocol=\"tcp\"", "status=\"ok\""][..], 40),
        (&["protocol=\"tcp\"", "reason=\"refused\""], 10),
        (&["protocol=\"tcp\"", "reason=\"timeout\""], 3),
        (&["protocol=\"udp\"", "status=\"ok\""], 50),
        (&["protocol=\"icmp\"", "status=\"ok\""], 1),
    ] {
        let flows = metrics.sum("netmon_flows_total", series);
        assert!(flows >= f64::from(rounds * least), "{series:?}: {flows} flows in {rounds} rounds");
    }
    assert!(after.files <= before.files, "files: {before:?}, then {after:?}");
    assert!(after.threads <= before.threads + 1, "threads: {before:?}, then {after:?}");
    // Names of processes are kept, some twenty new ones a round and 200 bytes each, up to 32 768 (src/enrich/host.rs).
    let names = u64::from(rounds * 4).min(6400);
    let most = before.memory_kib + before.memory_kib / 10 + 2048 + names;
    assert!(after.memory_kib <= most, "memory: {before:?}, then {after:?}");
    agent.stop();
}

/// The samples as a table and as a picture.
fn write(folder: &Path, samples: &[Sample]) {
    let mut table = String::from("seconds,memory_kib,files,threads,maps_kib,flows\n");
    for Sample { seconds, held, maps_kib, flows } in samples {
        writeln!(
            table,
            "{seconds:.1},{},{},{},{maps_kib},{flows}",
            held.memory_kib, held.files, held.threads
        )
        .unwrap();
    }
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("soak.csv"), table).unwrap();
    let mut picture = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"520\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"720\" height=\"520\" fill=\"white\"/>\n",
    );
    let lines: [Line; 4] = [
        ("memory of the agent, MiB", |sample| sample.held.memory_kib as f64 / 1024.0),
        ("kernel memory of all maps, MiB", |sample| sample.maps_kib as f64 / 1024.0),
        ("open files", |sample| sample.held.files as f64),
        ("threads", |sample| sample.held.threads as f64),
    ];
    let end = samples.last().map_or(1.0, |sample| sample.seconds);
    for (at, (title, value)) in (0..).map(|n| f64::from(n) * 125.0).zip(lines) {
        let most = samples.iter().map(value).fold(1.0, f64::max);
        let points: String = samples.iter().fold(String::new(), |mut points, sample| {
            let (x, y) = (60.0 + 640.0 * sample.seconds / end, at + 110.0 - 80.0 * value(sample) / most);
            let _ = write!(points, "{x:.1},{y:.1} ");
            points
        });
        writeln!(
            picture,
            "<text x=\"60\" y=\"{:.0}\">{title}</text><text x=\"52\" y=\"{:.0}\" text-anchor=\"end\">{most:.0}</text>\
             <text x=\"52\" y=\"{:.0}\" text-anchor=\"end\">0</text>\
             <path d=\"M60 {:.0}V{:.0}H700\" fill=\"none\" stroke=\"#999\"/>\
             <polyline points=\"{points}\" fill=\"none\" stroke=\"#2563eb\" stroke-width=\"1.5\"/>",
            at + 22.0, at + 34.0, at + 110.0, at + 30.0, at + 110.0,
        )
        .unwrap();
    }
    writeln!(
        picture,
        "<text x=\"700\" y=\"512\" text-anchor=\"end\">{:.0} minutes</text>\n</svg>",
        end / 60.0
    )
    .unwrap();
    std::fs::write(folder.join("soak.svg"), picture).unwrap();
}
