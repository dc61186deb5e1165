//! Features go off and on while packets pass: none is lost, what is off tells nothing, and what is on again tells the truth.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::agent::Agent;
use common::net::{Background, Net};
use serde_json::{Value, json};

const CONFIG: &str = "flow: { active_interval: 200ms }";

/// An HTTP server in b, and a client in a that asks it again and again on one connection (kept) and on new ones.
fn traffic(net: &Net) -> [Background; 3] {
    let server =
        net.serve("b", ("tcp", 8000), "python3 -m http.server 8000 --bind 10.1.0.2 --protocol HTTP/1.1");
    let kept = "import http.client, time\n\
                c = http.client.HTTPConnection('10.1.0.2', 8000)\n\
                while True: c.request('GET', '/'); c.getresponse().read(); time.sleep(0.01)";
    let new = "import http.client, time\n\
               while True:\n\
               \x20   c = http.client.HTTPConnection('10.1.0.2', 8000)\n\
               \x20   c.request('GET', '/'); c.getresponse().read(); c.close(); time.sleep(0.02)";
    let run = |code: &str| net.spawn("a", &format!("python3 -c \"{code}\""));
    [server, run(kept), run(new)]
}

fn set(agent: &Agent<'_>, pairs: &[&str]) {
    let (code, _, message) = agent.cli_text(&[&["config", "set"], pairs].concat());
    assert_eq!(code, 0, "{message}");
}

fn switch(agent: &Agent<'_>, feature: &str, on: bool) {
    set(agent, &[&format!("features.{feature}.enabled={on}")]);
}

/// Flows to the server that begin from now on, and have ended: some of them.
fn new_flows(agent: &Agent<'_>) -> Vec<Value> {
    let flows = |agent: &Agent<'_>| agent.flows(&["--ended", "--port", "8000"]);
    let start = |flow: &Value| flow["start_time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    // The clocks of packet and wall are compared with some microseconds' error.
    std::thread::sleep(std::time::Duration::from_millis(5));
    let last = jiff::Timestamp::now();
    let mut new = Vec::new();
    agent.wait("new connections to end", 20, |agent| {
        let ended = |flow: &Value| start(flow) > last && flow["status"] != "active";
        new = flows(agent).into_iter().filter(ended).collect();
        new.len() >= 5
    });
    new
}

/// Waits until traffic no longer adds to a count: what was under way has been told.
fn assert_at_rest(agent: &Agent<'_>, what: &str, count: impl Fn(&Agent<'_>) -> f64) {
    agent.wait(what, 20, |agent| {
        let told = count(agent);
        new_flows(agent);
        count(agent) == told
    });
}

/// Each packet of the interface was seen and has its outcome; flows and metrics hold what was counted.
fn assert_nothing_lost(net: &Net, agent: &Agent<'_>, before: (u64, u64)) {
    agent.assert_law();
    let books = agent.books();
    let on_interface = net.counters("a", "va").0 - before.0;
    assert_eq!(books["seen"].as_u64().unwrap(), on_interface, "each packet was seen: {books:#}");
    assert_eq!(books["outcomes"]["counted"], books["seen"], "and is in a flow: {books:#}");
}

#[test]
fn protocol_detection_goes_off_and_on_under_traffic() {
    let net = Net::two_hosts();
    let before = net.counters("a", "va");
    let agent = Agent::start(&net, "a", CONFIG);
    let running = traffic(&net);
    let responses = |agent: &Agent<'_>| agent.metrics().sum("netmon_http_responses_total", &[]);
    for _ in 0..3 {
        assert!(new_flows(&agent).iter().all(|flow| flow["app_protocol"] == "http"));
        let told = responses(&agent);
        agent.wait("responses to be counted", 10, |agent| responses(agent) > told);

        switch(&agent, "protocol_detection", false);
        let off = new_flows(&agent);
        assert!(off.iter().all(|flow| flow["app_protocol"] == Value::Null), "{off:#?}");
        assert_at_rest(&agent, "no message to be looked at", responses);
        switch(&agent, "protocol_detection", true);
    }
    // The connection that was there all the time goes on to be counted.
    let told = responses(&agent);
    agent.wait("responses to be counted", 10, |agent| responses(agent) > told);
    // One of all protocols.
    set(&agent, &["features.protocol_detection.protocols=ssh,dns"]);
    assert!(new_flows(&agent).iter().all(|flow| flow["app_protocol"] == Value::Null));
    set(&agent, &["features.protocol_detection.protocols=http"]);
    assert!(new_flows(&agent).iter().all(|flow| flow["app_protocol"] == "http"));
    drop(running);
    assert_nothing_lost(&net, &agent, before);
    let log = agent.stop();
    assert!(!log.contains("wait for a restart"), "{log}");
}

#[test]
fn latency_tracking_goes_off_and_on_under_traffic() {
    let net = Net::two_hosts();
    let before = net.counters("a", "va");
    let agent = Agent::start(&net, "a", CONFIG);
    let running = traffic(&net);
    let samples = |agent: &Agent<'_>| agent.metrics().sum("netmon_latency_seconds_count", &["kind=\"rtt\""]);
    for _ in 0..3 {
        let told = samples(&agent);
        agent.wait("round trips to be taken", 10, |agent| samples(agent) > told + 10.0);
        switch(&agent, "latency_tracking", false);
        let off = new_flows(&agent);
        assert!(
            off.iter().all(|flow| flow["tcp"]["rtt_us"]["samples"].as_u64().unwrap_or(0) == 0),
            "{off:#?}"
        );
        assert_at_rest(&agent, "no round trip to be taken", samples);
        switch(&agent, "latency_tracking", true);
    }
    let told = samples(&agent);
    agent.wait("round trips to be taken", 10, |agent| samples(agent) > told + 10.0);
    drop(running);
    assert_nothing_lost(&net, &agent, before);
    // Segments that passed unseen are none that were sent again; `timing.rs` holds what becomes of those that waited for an answer.
    let flows = [agent.flows(&["--port", "8000"]), agent.flows(&["--ended", "--port", "8000"])].concat();
    let again: u64 = flows.iter().filter_map(|flow| flow["tcp"]["retransmits"].as_u64()).sum();
    let truth = net.snmp("a", "Tcp", "RetransSegs") + net.snmp("b", "Tcp", "RetransSegs");
    assert!(again <= truth, "{again} told, {truth} sent again");
    agent.stop();
}

#[test]
fn names_and_drops_go_off_and_on() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", CONFIG);
    let running = traffic(&net);
    let named = |flow: &Value| flow["src"]["process"] != Value::Null;
    assert!(new_flows(&agent).iter().all(named));
    switch(&agent, "process_attribution", false);
    assert!(!new_flows(&agent).iter().any(named));
    switch(&agent, "process_attribution", true);
    assert!(new_flows(&agent).iter().all(named));
    drop(running);

    let dropped = |agent: &Agent<'_>| -> u64 {
        let drops = agent.cli(&["drops"])["counts"].clone();
        let ours = |drop: &&Value| drop["interface"] == "va" && drop["reason"] == "no_socket";
        drops.as_array().unwrap().iter().filter(ours).map(|drop| drop["packets"].as_u64().unwrap()).sum()
    };
    let send = || net.send_udp("b", "10.1.0.1", [4444; 20], 1);
    send();
    agent.wait("drops to be told", 10, |agent| dropped(agent) == 20);
    switch(&agent, "drop_monitoring", false);
    send();
    assert_eq!(agent.cli(&["drops"])["off"], "features.drop_monitoring.enabled is false");
    switch(&agent, "drop_monitoring", true);
    assert_eq!((dropped(&agent), &agent.cli(&["drops"])["off"]), (20, &Value::Null));
    send();
    agent.wait("drops to be told", 10, |agent| dropped(agent) == 40);
    agent.stop();
}

#[test]
fn what_was_off_at_the_start_waits_for_a_restart_and_is_named() {
    let net = Net::two_hosts();
    let config = format!("{CONFIG}\nfeatures: {{ latency_tracking: {{ enabled: false }} }}");
    let agent = Agent::start(&net, "a", &config);
    let (code, _, message) = agent.cli_text(&["config", "set", "features.latency_tracking.enabled=true"]);
    assert!(
        code != 0 && message.contains("features.latency_tracking.enabled can't change while the agent runs"),
        "{message}"
    );
    std::fs::write(
        agent.file(),
        agent.text(&format!("{CONFIG}\nfeatures: {{ protocol_detection: {{ enabled: false }} }}")),
    )
    .unwrap();
    let key = "features.latency_tracking.enabled";
    agent.wait("the file to be taken over", 10, |agent| {
        let config = agent.cli(&["status"])["config"].clone();
        config["after_restart"] == json!([{ "key": key, "from": "false", "to": "true" }])
    });
    assert!(agent.log().contains(&format!("wait for a restart of the agent: {key} false -> true")));
    let changed = json!({ "key": "features.protocol_detection.enabled", "from": "true", "to": "false" });
    assert!(
        agent.cli(&["status"])["config"]["changed"].as_array().unwrap().contains(&changed),
        "the rest is in force"
    );
    agent.stop();
}
