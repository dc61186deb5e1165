//! Another configuration for a running agent: taken over whole or not at all, and no packet lost.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use common::agent::Agent;
use common::net::Net;
use serde_json::{Value, json};

const QUICK: &str = "active_interval: 200ms, connect_timeout: 1s";

/// Replaces the file as editors do.
fn replace(agent: &Agent<'_>, config: &str) {
    let new = agent.file().with_extension("new");
    std::fs::write(&new, agent.text(config)).unwrap();
    std::fs::rename(new, agent.file()).unwrap();
}

fn status(agent: &Agent<'_>) -> Value {
    agent.cli(&["status"])["config"].clone()
}

fn get(agent: &Agent<'_>, key: &str) -> String {
    agent.cli_text(&["config", "get", key]).1.trim().to_owned()
}

/// One key of `config show`.
fn setting(agent: &Agent<'_>, key: &str) -> Value {
    let all = agent.cli(&["config", "show"]);
    all.as_array().unwrap().iter().find(|setting| setting["key"] == key).unwrap().clone()
}

fn wait_for(agent: &Agent<'_>, key: &str, value: &str) {
    agent.wait(&format!("{key} to be {value}"), 10, |agent| get(agent, key) == value);
}

fn failures(agent: &Agent<'_>) -> f64 {
    agent.metrics().sum("netmon_config_reload_failures_total", &[])
}

fn reads(net: &Net, port: u16) -> bool {
    let line = format!("curl -sf -m 2 -o /dev/null http://127.0.0.1:{port}/metrics");
    net.command("a", &line).status().unwrap().success()
}

#[test]
fn a_changed_file_is_taken_over_and_no_packet_is_lost() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", &format!("flow: {{ {QUICK} }}"));
    let began = agent.metrics().sum("netmon_config_last_reload_success_timestamp_seconds", &[]);
    let ping = net.spawn("a", "ping -q -i 0.01 -c 400 10.1.0.2");
    for timeout in ["60s", "61s", "62s", "63s"] {
        let more = format!("flow_timeout: {timeout}, max_flows: 50{}", &timeout[..2]);
        let log = if timeout == "63s" { "log: { level: debug }" } else { "" };
        let text =
            format!("flow: {{ {QUICK}, {more} }}\nexport: {{ prometheus: {{ top_pairs: 7 }} }}\n{log}");
        // Written in place, and as editors do.
        if timeout == "60s" {
            std::fs::write(agent.file(), agent.text(&text)).unwrap();
        } else {
            replace(&agent, &text);
        }
        wait_for(&agent, "flow.max_flows", &format!("50{}", &timeout[..2]));
    }
    ping.wait();
    let told = status(&agent);
    assert_eq!(
        (&told["cause"], &told["failures"], &told["error"]),
        (&json!("file"), &json!(0), &Value::Null)
    );
    let changed = told["changed"].as_array().unwrap();
    assert!(changed.contains(&json!({ "key": "flow.flow_timeout", "from": "62s", "to": "63s" })), "{told:#}");
    assert_eq!(agent.metrics().sum("netmon_flow_table_capacity", &[]), 5063.0);
    assert!(agent.log().contains("flow.flow_timeout 62s -> 63s"), "the log has the difference");
    assert!(agent.metrics().sum("netmon_config_last_reload_success_timestamp_seconds", &[]) > began);
    // Each echo and its reply, once.
    agent.wait("all packets to be told", 10, |agent| {
        let flows = agent.flows(&["--protocol", "icmp", "--ip", "10.1.0.2"]);
        let sum = |key: &str| flows.iter().map(|flow| flow[key].as_u64().unwrap()).sum::<u64>();
        (sum("packets_sent"), sum("packets_received")) == (400, 400)
    });
    agent.assert_law();
    agent.stop();
}

#[test]
fn a_bad_file_changes_nothing_and_is_told_everywhere() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", &format!("flow: {{ {QUICK}, flow_timeout: 60s }}"));
    let before = agent.metrics().sum("netmon_config_last_reload_success_timestamp_seconds", &[]);
    replace(&agent, "flow: { flow_timeout: 30s, max_flow: 5 }\nlog: { level: loud }");
    agent.wait("the refusal", 10, |agent| failures(agent) == 1.0);
    let error = status(&agent)["error"].clone();
    for part in ["flow.max_flow: unknown key; did you mean flow.max_flows?", "log.level: `loud`"] {
        assert!(error["message"].as_str().unwrap().contains(part), "{error:#}");
        assert!(agent.log().contains(part));
    }
    assert!(agent.cli_text(&["status"]).1.contains("REFUSED"));
    assert_eq!(get(&agent, "flow.flow_timeout"), "1m", "nothing of it is in force");
    assert_eq!(agent.metrics().sum("netmon_config_last_reload_success_timestamp_seconds", &[]), before);
    let (code, _, message) = agent.cli_text(&["config", "reload"]);
    assert_eq!(code, 2, "{message}");
    assert!(message.contains("did you mean flow.max_flows?"));
    assert_eq!(failures(&agent), 2.0);
    // A file that is gone is no new configuration either.
    std::fs::remove_file(agent.file()).unwrap();
    assert_eq!(agent.cli_text(&["config", "reload"]).0, 2);
    assert_eq!(get(&agent, "flow.flow_timeout"), "1m");
    // A good one is taken over as if nothing had been.
    replace(&agent, "flow: { flow_timeout: 45s }");
    wait_for(&agent, "flow.flow_timeout", "45s");
    assert_eq!(status(&agent)["error"], Value::Null);
    agent.stop();
}

/// As kubelet does it: netmon.yaml -> ..data/netmon.yaml, ..data -> ..v1, and a rename of ..data.
#[test]
fn a_config_map_that_swaps_its_symlink_is_taken_over() {
    fn put(agent: &Agent<'_>, folder: &Path, version: &str, config: &str) {
        std::fs::create_dir(folder.join(version)).unwrap();
        std::fs::write(folder.join(version).join("netmon.yaml"), agent.text(config)).unwrap();
        symlink(version, folder.join("..data_tmp")).unwrap();
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    }
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "flow: { flow_timeout: 41s }");
    let folder = agent.file().parent().unwrap().to_owned();
    put(&agent, &folder, "..v1", "flow: { flow_timeout: 42s }");
    symlink("..data/netmon.yaml", folder.join("link")).unwrap();
    std::fs::rename(folder.join("link"), agent.file()).unwrap();
    wait_for(&agent, "flow.flow_timeout", "42s");
    for seconds in [43, 44] {
        put(&agent, &folder, &format!("..v{seconds}"), &format!("flow: {{ flow_timeout: {seconds}s }}"));
        wait_for(&agent, "flow.flow_timeout", &format!("{seconds}s"));
    }
    agent.stop();
}

#[test]
fn a_hangup_reads_the_file_again() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "flow: { flow_timeout: 41s }");
    agent.signal("HUP");
    agent.wait("the signal to be obeyed", 10, |agent| status(agent)["cause"] == "signal");
    assert!(agent.log().contains("nothing has changed"));
    std::fs::write(agent.file(), agent.text("flow: { flow_timeout: 42s }")).unwrap();
    agent.signal("HUP");
    wait_for(&agent, "flow.flow_timeout", "42s");
    agent.stop();
}

#[test]
fn interfaces_come_and_go_with_the_selection() {
    let net = Net::two_hosts();
    net.veth(("a", "wa", "10.2.0.1/24"), ("b", "wb", "10.2.0.2/24"));
    let agent = Agent::start(&net, "a", "capture: { interfaces: [va] }");
    let watched = |agent: &Agent<'_>| -> Vec<String> {
        let all = agent.cli(&["status"])["interfaces"].clone();
        all.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().into()).collect()
    };
    assert_eq!(watched(&agent), ["va"]);
    replace(&agent, "capture: { interfaces: [va, wa] }");
    agent.wait("wa to be watched", 10, |agent| watched(agent) == ["va", "wa"]);
    net.exec("a", "ping -q -i 0.01 -c 50 10.2.0.2");
    replace(&agent, "capture: { interfaces: ['*'], exclude_interfaces: [wa] }");
    agent.wait("wa to be left", 10, |agent| watched(agent) == ["va"]);
    net.exec("a", "ping -q -i 0.01 -c 50 10.2.0.2");
    let flows = agent.flows(&["--protocol", "icmp", "--ip", "10.2.0.2"]);
    assert_eq!(flows.iter().map(|flow| flow["packets_sent"].as_u64().unwrap()).sum::<u64>(), 50);
    agent.assert_law();
    agent.stop();
}

#[test]
fn the_sampling_rate_changes_and_every_packet_has_its_outcome() {
    let net = Net::two_hosts();
    // Nobody answers.
    net.exec("a", "ip neigh replace 10.1.0.3 lladdr 02:00:00:00:00:03 dev va nud permanent");
    let agent = Agent::start(&net, "a", &format!("flow: {{ {QUICK} }}"));
    let send = || net.send_udp("a", "10.1.0.3", 20_000..20_400, 1);
    send();
    agent.assert_law();
    let told = agent.metrics().sum("netmon_packets_total", &["protocol=\"udp\""]);
    assert_eq!(told, 400.0);
    assert!(agent.cli_text(&["config", "set", "capture.sampling_rate=0.5"]).0 == 0);
    // What was counted before stands for itself still.
    assert_eq!(agent.metrics().sum("netmon_packets_total", &["protocol=\"udp\""]), told);
    send();
    let books = agent.books();
    let out = books["outcomes"]["sampled_out"].as_u64().unwrap();
    assert!((120..280).contains(&out), "about half of 400 is left out: {books:#}");
    assert_eq!(books["conserved"], true);
    agent.wait("all to be told", 10, |agent| {
        let books = agent.books();
        books["outcomes"]["counted"] == books["flow_packets"]
    });
    agent.wait("the rest to stand for all", 10, |agent| {
        let now = agent.metrics().sum("netmon_packets_total", &["protocol=\"udp\""]);
        (now - told - 2.0 * (400 - out) as f64).abs() < 1.0
    });
    assert_eq!(agent.cli(&["status"])["sampling_rate"], 0.5);
    agent.stop();
}

#[test]
fn shorter_timeouts_hold_for_flows_that_are_there() {
    let net = Net::two_hosts();
    let flow = "active_interval: 200ms, flow_timeout";
    let agent = Agent::start(&net, "a", &format!("flow: {{ {flow}: 40s, connect_timeout: 10m }}"));
    net.exec("a", "ping -q -c 1 10.1.0.2 && ip route add 10.9.9.9 via 10.1.0.2");
    let began = Instant::now();
    let _attempt =
        net.spawn("a", "python3 -c \"import socket; socket.create_connection(('10.9.9.9',80),30)\"");
    agent.wait("both flows", 10, |agent| {
        agent.flows(&["--ip", "10.1.0.2"]).len() == 1 && agent.flows(&["--ip", "10.9.9.9"]).len() == 1
    });
    replace(&agent, &format!("flow: {{ {flow}: 40s, connect_timeout: 500ms }}"));
    agent.wait("the attempt to have failed", 15, |agent| {
        let flows = agent.flows(&["--ip", "10.9.9.9", "--ended"]);
        flows.first().is_some_and(|flow| flow["reason"] == "timeout")
    });
    // Once around, every ten seconds: when it will be idle has been worked out.
    std::thread::sleep(Duration::from_secs(12).saturating_sub(began.elapsed()));
    assert_eq!(agent.flows(&["--ip", "10.1.0.2"]).len(), 1);
    replace(&agent, &format!("flow: {{ {flow}: 1s, connect_timeout: 500ms }}"));
    agent.wait("the idle one to leave", 12, |agent| agent.flows(&["--ip", "10.1.0.2"]).is_empty());
    agent.stop();
}

#[test]
fn metrics_move_to_another_port_or_the_whole_configuration_is_refused() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "flow: { flow_timeout: 41s }");
    let _other = net.serve("a", ("tcp", 9191), "python3 -m http.server 9191 --bind 127.0.0.1");
    let (code, _, message) = agent.cli_text(&[
        "config",
        "set",
        "export.prometheus.port=9191",
        "flow.max_flows=77",
        "flow.flow_timeout=50s",
    ]);
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("cannot serve metrics on 127.0.0.1:9191"), "{message}");
    assert_eq!(get(&agent, "flow.flow_timeout"), "41s", "all of it or nothing");
    assert_eq!(agent.metrics().sum("netmon_flow_table_capacity", &[]), 1e6, "it goes on where and as it was");

    replace(&agent, "export: { prometheus: { port: 9191 } }\nflow: { flow_timeout: 42s, max_flows: 77 }");
    agent.wait("the refusal", 10, |agent| failures(agent) == 1.0);
    assert_eq!(get(&agent, "flow.flow_timeout"), "41s");
    assert_eq!(agent.metrics().sum("netmon_flow_table_capacity", &[]), 1e6);

    replace(&agent, "export: { prometheus: { port: 9292 } }\nflow: { flow_timeout: 42s }");
    wait_for(&agent, "flow.flow_timeout", "42s");
    assert!(reads(&net, 9292) && !reads(&net, 9090));
    // The same port of another address, which the old one is part of.
    replace(&agent, "export: { prometheus: { port: 9292, address: 0.0.0.0 } }");
    wait_for(&agent, "export.prometheus.address", "0.0.0.0");
    net.exec("b", "curl -sf -m 2 -o /dev/null http://10.1.0.1:9292/metrics");
    replace(&agent, "export: { prometheus: { enabled: false } }");
    wait_for(&agent, "export.prometheus.enabled", "false");
    assert!(!reads(&net, 9292));
    replace(&agent, "");
    wait_for(&agent, "export.prometheus.enabled", "true");
    assert!(reads(&net, 9090));
    agent.stop();
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_is_taken_over() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "");
    replace(
        &agent,
        "features: { nat: { enabled: false } }\nperformance: { workers: 2 }\nflow: { flow_timeout: 42s }",
    );
    wait_for(&agent, "flow.flow_timeout", "42s");
    let told = status(&agent);
    let expected = json!([
        { "key": "performance.workers", "from": "4", "to": "2" },
        { "key": "features.nat.enabled", "from": "true", "to": "false" },
    ]);
    assert_eq!(told["after_restart"], expected);
    assert!(agent.log().contains(
        "wait for a restart of the agent: performance.workers 4 -> 2; features.nat.enabled true -> false"
    ));
    assert!(agent.cli_text(&["status"]).1.contains("after a restart: performance.workers 4 -> 2"));
    let nat = setting(&agent, "features.nat.enabled");
    assert_eq!(
        (&nat["value"], &nat["after_restart"], &nat["live"]),
        (&json!("true"), &json!("false"), &json!(false))
    );
    let (code, text, _) = agent.cli_text(&["config", "reload"]);
    assert_eq!((code, text.contains("after a restart: performance.workers 4 -> 2")), (0, true), "{text}");
    // Taken back, nothing waits any more.
    replace(&agent, "");
    agent.wait("nothing to wait for", 10, |agent| status(agent)["after_restart"] == json!([]));
    agent.stop();
}

#[test]
fn config_set_changes_the_running_agent_and_show_says_where_each_value_is_from() {
    let net = Net::two_hosts();
    let agent = Agent::start_after(
        &net,
        "a",
        "flow: { connect_timeout: 7s }",
        "export NETMON_FLOW_ACTIVE_INTERVAL=3s",
    );
    let (code, text, _) = agent.cli_text(&["config", "set", "flow.max_age=60s"]);
    assert_eq!(code, 0);
    assert!(
        text.contains("flow.flow_timeout 5m -> 1m") && text.contains("lasts until the agent restarts"),
        "{text}"
    );
    for pair in ["log.level=error", "flow.max_flows=500", "log.level=info", "flow.max_flows=1000000"] {
        assert_eq!(agent.cli_text(&["config", "set", pair]).0, 0, "{pair}");
    }
    let log = agent.log();
    assert!(log.contains("500 -> 1000000") && !log.contains("1000000 -> 500"), "{log}");
    for (key, value, origin) in [
        ("flow.flow_timeout", "1m", "set".to_owned()),
        ("flow.active_interval", "3s", "environment NETMON_FLOW_ACTIVE_INTERVAL".into()),
        ("flow.connect_timeout", "7s", format!("file {}", agent.file().display())),
        ("flow.aggregation", "false", "default".into()),
    ] {
        let shown = setting(&agent, key);
        assert_eq!((&shown["value"], &shown["origin"]), (&json!(value), &json!(origin)), "{key}");
    }
    let keys = agent.cli(&["config", "show"]).as_array().unwrap().len();
    assert_eq!(keys, netmon::config::schema::KEYS.len());
    // What was set stays above the file.
    replace(&agent, "flow: { connect_timeout: 8s, flow_timeout: 90s }");
    wait_for(&agent, "flow.connect_timeout", "8s");
    assert_eq!(get(&agent, "flow.flow_timeout"), "1m");
    for (pair, words) in [
        ("flow.flow_timeout=soon", "config set: flow.flow_timeout: `soon` is not accepted"),
        ("flow.max_flow=5", "flow.max_flow: unknown key; did you mean flow.max_flows?"),
        ("features.nat.enabled=false", "features.nat.enabled can't change while the agent runs"),
        ("flow.max_flows", "is no KEY=VALUE"),
    ] {
        let (code, _, message) = agent.cli_text(&["config", "set", "flow.connect_timeout=9s", pair]);
        assert_eq!(code, 2, "{pair}: {message}");
        assert!(message.contains(words), "{pair}: {message}");
    }
    assert_eq!(get(&agent, "flow.connect_timeout"), "8s");
    assert_eq!(failures(&agent), 0.0, "a refused set is told to whoever asked");
    assert_eq!(agent.cli_text(&["config", "get", "flow.max_flow"]).0, 2);
    agent.stop();
}

#[test]
fn config_validate_needs_no_agent() {
    let folder = tempfile::tempdir().unwrap();
    let validate = |text: &str| {
        let file = folder.path().join("any.yaml");
        std::fs::write(&file, text).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_netmon-cli"))
            .args(["--socket", "/nowhere", "config", "validate"])
            .arg(&file)
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(validate("flow: { max_flows: 5 }").0, 0);
    let (code, message) = validate("flow: { max_flows: 0 }");
    assert_eq!(code, 2);
    assert!(message.contains("any.yaml: flow.max_flows: `0` is not accepted"), "{message}");
}
