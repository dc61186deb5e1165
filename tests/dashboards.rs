//! Every query of every panel and rule that we ship, asked of a real Prometheus that scrapes the real agent under traffic.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::process::Command;

use common::agent::Agent;
use common::net::{Background, Net};
use common::prometheus::Prometheus;
use serde_json::Value;

const DASHBOARDS: [&str; 4] = ["overview", "workloads", "failures", "agent"];
const RULES: &str = "deploy/prometheus/rules.yaml";
/// What only a cluster has.
const ELSEWHERE: [&str; 2] = ["netmon_workload_bytes_total", "netmon_zone_bytes_total"];

fn dashboard(name: &str) -> Value {
    let text = std::fs::read_to_string(format!("deploy/grafana/{name}.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name].as_array().unwrap()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value:#}"))
}

/// With Grafana's variables filled in.
fn filled(expression: &str) -> String {
    let mut expression = expression.replace("$__rate_interval", "30s");
    for variable in ["$instance", "$namespace", "$workload", "$unit"] {
        expression = expression.replace(variable, ".*");
    }
    assert!(!expression.contains('$'), "a variable that nobody fills in: {expression}");
    expression
}

/// All that is asked, each with where it stands.
fn queries() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        for panel in list(&dashboard, "panels") {
            for target in list(panel, "targets") {
                all.push((format!("{name}: {}", text(panel, "title")), filled(text(target, "expr"))));
            }
        }
        for variable in list(&dashboard["templating"], "list").iter().filter(|v| v["type"] == "query") {
            let values = text(&variable["query"], "query");
            let inside = values.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
            let (metric, label) = inside.rsplit_once(", ").unwrap();
            all.push((format!("{name}: {values}"), filled(&format!("count by ({label}) ({metric})"))));
        }
    }
    let rules = std::fs::read_to_string(RULES).unwrap();
    for line in rules.lines() {
        if let Some(expression) = line.trim().strip_prefix("expr: ") {
            // Of an alert, what it compares: it has data when all is well, too.
            let compared = [" > ", " == "].iter().find_map(|with| expression.rsplit_once(with));
            let asked = compared
                .filter(|(_, bound)| bound.parse::<f64>().is_ok())
                .map_or(expression, |(asked, _)| asked);
            all.push((format!("{RULES}: {expression}"), asked.to_owned()));
        }
    }
    all
}

fn python(net: &Net, namespace: &str, script: &str) -> Background {
    net.spawn(namespace, &format!("python3 {}/tests/dashboards/{script}", env!("CARGO_MANIFEST_DIR")))
}

#[test]
fn each_query_of_dashboards_and_rules_returns_data() {
    // a 10.1.0.1 ──veth── 10.1.0.2 b
    let net = Net::two_hosts();
    net.exec("b", "nft 'add table ip f; add chain ip f i { type filter hook input priority 0; }; add rule ip f i tcp dport 83 drop'");
    let agent = Agent::start(
        &net,
        "a",
        "flow: { active_interval: 200ms, flow_timeout: 2s, connect_timeout: 1s }\nexport: { prometheus: { top_destinations: 5 } }",
    );
    let _servers = python(&net, "b", "servers.py");
    let unit = common::cgroup::Cgroup::new(&format!("netmon.slice/shop-{}.service", std::process::id()));
    let line = format!("python3 {}/tests/dashboards/traffic.py", env!("CARGO_MANIFEST_DIR"));
    let _traffic = Background::start(unit.command(&net, "a", &line));

    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join(RULES);
    let prometheus = Prometheus::start(&net, "a", Some(&rules));
    let mut left = queries();
    assert!(left.len() > 60, "{} queries", left.len());
    left.retain(|(_, query)| !ELSEWHERE.iter().any(|metric| query.contains(metric)));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while !left.is_empty() {
        assert!(std::time::Instant::now() < deadline, "no data: {left:#?}\n{:#?}", agent.metrics().0);
        left.retain(|(_, query)| prometheus.ask(query).is_empty());
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    assert_labels_are_told(&net);
    agent.stop();
}

/// What the page of metrics holds is what its reference tells: names and labels.
fn assert_labels_are_told(net: &Net) {
    let reference = std::fs::read_to_string("src/sink/prometheus/README.md").unwrap();
    let page = net.exec("a", "curl -sf -m 10 http://127.0.0.1:9090/metrics");
    let (mut name, mut told) = ("", "");
    for line in page.lines() {
        if let Some(metric) = line.strip_prefix("# TYPE ").and_then(|line| line.split(' ').next()) {
            name = metric;
            told = reference
                .lines()
                .find(|line| line.starts_with(&format!("| `{name}` |")))
                .unwrap_or_else(|| panic!("{name} is not told"));
        } else if let Some((_, labels)) = line.split_once('{') {
            // Values hold no `="`.
            for label in labels.split("=\"").map(|part| part.rsplit(['{', ',', '"']).next().unwrap()) {
                let known = label.is_empty()
                    || label.starts_with('}')
                    || ["le", "quantile"].contains(&label)
                    || told.contains(&format!("`{label}`"));
                assert!(known, "{name}: the label {label} is not told: {told}");
            }
        }
    }
}

#[test]
fn dashboards_are_what_their_generator_writes_and_equal_in_manner() {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new("deploy/grafana/generate").arg(folder.path()).status().unwrap();
    assert!(status.success());
    for name in DASHBOARDS {
        let file = format!("{name}.json");
        let made = std::fs::read_to_string(folder.path().join(&file)).unwrap();
        let kept = std::fs::read_to_string(Path::new("deploy/grafana").join(&file)).unwrap();
        assert!(made == kept, "{file} is not what deploy/grafana/generate writes: run it");
        let dashboard = dashboard(name);
        assert_eq!(text(&dashboard, "uid"), format!("netmon-{name}"));
        for panel in list(&dashboard, "panels") {
            assert!(text(panel, "description").ends_with('.'), "{panel:#}");
            assert!(!text(&panel["fieldConfig"]["defaults"], "unit").is_empty());
            assert_eq!(text(&panel["datasource"], "uid"), "${datasource}");
        }
    }
}

#[test]
fn alerts_fire_when_they_should_and_only_then() {
    let output = Command::new("promtool")
        .args(["test", "rules", "deploy/prometheus/rules_test.yaml"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    // Each alert has its test.
    let tests = std::fs::read_to_string("deploy/prometheus/rules_test.yaml").unwrap();
    for line in std::fs::read_to_string(RULES).unwrap().lines() {
        if let Some(alert) = line.trim().strip_prefix("- alert: ") {
            assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} is not made to fire");
        }
    }
}
