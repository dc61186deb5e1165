//! The names that users' dashboards, alerts, scripts and units hang on: programs, configuration, records, metrics, pages. More may be
//! added; what stands here stays.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::process::{Command, Output};

use common::agent::Agent;
use common::net::{Background, Net, until};
use netmon::config::{Config, Inputs, Origin};
use serde_json::Value;

const DEFAULTS: &str = r#"
capture:
  interfaces: []
  exclude_interfaces: []
  sampling_rate: 1.0
  timestamp_source: auto
  attach: auto
  transport: auto
flow:
  max_flows: 1000000
  flow_timeout: 300s
  connect_timeout: 10s
  active_interval: 5s
  aggregation: false
export:
  prometheus: { enabled: true, address: "", port: 9090, top_pairs: 1000 }
performance: { workers: 4, buffer_size: 10000, batch_size: 1000 }
features:
  protocol_detection: { enabled: true, protocols: [http, http2, grpc, tls, dns, mysql, postgresql, redis, kafka, ssh, quic] }
  latency_tracking: { enabled: true, precision: normal, histogram_buckets: [0.1, 0.5, 1, 5, 10, 50, 100, 500, 1000] }
  security_monitoring: { enabled: true, detect_port_scans: true, detect_suspicious_patterns: true }
  process_attribution: { enabled: true }
kubernetes: { enabled: auto, node_name: "", resync: 10m }
resources:
  memory_limit: 1Gi
  cpu_limit: "2"
  maps: { flow_map_size: 1000000, event_buffer_size: 100000 }
debug: { server: "" }
log: { level: info, format: auto }
"#;

const SHORT_NAMES: [(&str, &str, &str); 7] = [
    ("NETMON_DEBUG", "true", "log.level"),
    ("NETMON_LOG_LEVEL", "warn", "log.level"),
    ("NETMON_SAMPLING_RATE", "0.5", "capture.sampling_rate"),
    ("NETMON_FLOW_AGGREGATION", "true", "flow.aggregation"),
    ("NETMON_BATCH_SIZE", "10", "performance.batch_size"),
    ("NETMON_LATENCY_PRECISION", "high", "features.latency_tracking.precision"),
    ("NETMON_TIMESTAMP_SOURCE", "software", "capture.timestamp_source"),
];

/// Keys of a record, of its ends, of what TCP has more.
const RECORD: &str = "flow_id protocol family direction start_time end_time duration_us src dst bytes_sent bytes_received \
                      packets_sent packets_received state status reason tcp icmp app_protocol interfaces sampling_rate";
const END: &str = "ip port namespace pod workload workload_kind service node unit container process";
const TCP: &str = "flags retransmits out_of_order zero_window handshake_us rtt_us";

/// Name, type, labels.
const METRICS: &str = "
netmon_flows_active gauge protocol direction
netmon_flows_total counter protocol direction status reason
netmon_flows_opened_total counter protocol direction
netmon_bytes_total counter src_ip dst_ip
netmon_packets_total counter protocol direction
netmon_workload_bytes_total counter src_namespace src_workload dst_namespace dst_workload dst_service direction
netmon_latency_seconds histogram kind dst_service app_protocol
netmon_tcp_retransmits_total counter direction dst_service
netmon_tcp_resets_total counter direction dst_service
netmon_app_flows_total counter app_protocol direction
netmon_dns_latency_seconds histogram
netmon_dns_responses_total counter rcode
netmon_security_events_total counter type severity
netmon_unit_bytes_total counter unit direction
netmon_ebpf_events_processed_total counter
netmon_ebpf_events_dropped_total counter reason
netmon_ebpf_packets_total counter interface hook outcome
netmon_flow_table_entries gauge
netmon_flow_table_capacity gauge
netmon_flow_table_overflows_total counter
netmon_processing_duration_seconds summary quantile
netmon_event_delay_seconds summary quantile
netmon_memory_usage_bytes gauge kind
netmon_cpu_usage_percentage gauge kind
netmon_tasks_count gauge
netmon_build_info gauge
netmon_config_last_reload_success_timestamp_seconds gauge
netmon_config_reload_failures_total counter
netmon_interfaces_attached gauge";

/// Commands, each with what it takes.
const COMMANDS: &str = "
status
flows dump --protocol --ip --cidr --port --pod --namespace --workload --service --unit --status --reason --app --interface --since --limit --sort --follow
flows list --follow
stats flows
config get
config set
config show
config validate
config reload
debug trace on
debug trace off
debug packet-trace on --protocol --ip --cidr --port --interface --outcome --rate --for
debug packet-trace off
doctor
check-system
support bundle --output
support-bundle --output
completions
man";

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

fn help(program: &str, arguments: &[&str]) -> String {
    let output = run(program, &[arguments, &["--help"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn has_keys(value: &Value, keys: &str) {
    for key in keys.split_whitespace() {
        assert!(value.get(key).is_some(), "no {key} in {value:#}");
    }
}

#[test]
fn programs_take_the_arguments_that_they_promise() {
    let (agent, cli) = (env!("CARGO_BIN_EXE_netmon"), env!("CARGO_BIN_EXE_netmon-cli"));
    let text = help(agent, &[]);
    for flag in [
        "--config <FILE>",
        "--interface <IF>",
        "--mode <MODE>",
        "--btf <FILE>",
        "--debug",
        "--log-level <LEVEL>",
        "--debug-server <ADDR>",
        "--check-config",
        "--version",
    ] {
        assert!(text.contains(flag), "no {flag} in {text}");
    }
    for line in COMMANDS.lines().skip(1) {
        let (flags, words): (Vec<&str>, Vec<&str>) = line.split(' ').partition(|word| word.starts_with('-'));
        let text = help(cli, &words);
        let output = if words.concat().contains("bundle") { None } else { Some("--output <FORMAT>") };
        for flag in flags.into_iter().chain(["--socket"]).chain(output) {
            assert!(text.contains(flag), "no {flag} in {text}");
        }
    }
    for program in [agent, cli] {
        let version = run(program, &["--version"]);
        assert_eq!(version.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
        assert_eq!(run(program, &["--no-such-flag"]).status.code(), Some(2), "bad usage");
    }
    assert_eq!(run(cli, &["--socket", "/nonexistent", "status"]).status.code(), Some(1), "the job failed");
}

#[test]
fn the_configuration_has_the_keys_and_defaults_that_are_promised() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("netmon.yaml");
    std::fs::write(&file, DEFAULTS).unwrap();
    let loaded = Config::load(&Inputs { file: Some(file), ..Inputs::default() }).unwrap();
    let (mut promised, default) = (loaded.config, Config::default());
    // More protocols have been added since.
    let protocols = &default.features.protocol_detection.protocols;
    promised.features.protocol_detection.protocols.retain(|protocol| !protocols.contains(protocol));
    assert_eq!(promised.features.protocol_detection.protocols, [""; 0]);
    promised.features.protocol_detection.protocols.clone_from(protocols);
    assert_eq!(promised, default);
    for (name, value, key) in SHORT_NAMES {
        let environment = vec![(name.to_owned(), value.to_owned())];
        let loaded = Config::load(&Inputs { environment, ..Inputs::default() }).unwrap();
        assert_ne!(loaded.config, Config::default(), "{name}");
        assert_eq!(loaded.origins[key], Origin::Environment(name.into()), "{name}");
    }
}

#[test]
fn records_metrics_and_pages_have_the_names_that_are_promised() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "flow: { active_interval: 200ms }");
    let line = "python3 -m http.server 8000 --bind 10.1.0.2 --directory /usr/share/common-licenses";
    let _server = net.serve("b", ("tcp", 8000), line);
    net.exec("a", "curl -sf -o /dev/null http://10.1.0.2:8000/GPL-3; ping -q -c 1 10.1.0.2");
    agent.wait("both flows", 10, |agent| agent.flows(&["--port", "8000"]).len() == 1);
    let flows = agent.flows(&[]);
    for flow in &flows {
        has_keys(flow, RECORD);
        has_keys(&flow["src"], END);
        has_keys(&flow["dst"], END);
    }
    let tcp = flows.iter().find(|flow| flow["protocol"] == "tcp").unwrap();
    has_keys(&tcp["tcp"], TCP);
    has_keys(&tcp["tcp"]["rtt_us"], "min mean max samples");
    assert!(flows.iter().any(|flow| flow["protocol"] == "icmp" && !flow["icmp"].is_null()));

    let reference = std::fs::read_to_string("src/sink/prometheus/README.md").unwrap();
    for line in METRICS.lines().skip(1) {
        let mut words = line.split(' ');
        let (name, kind) = (words.next().unwrap(), words.next().unwrap());
        let told = reference.lines().find(|line| line.starts_with(&format!("| `{name}` | {kind} |")));
        let told = told.unwrap_or_else(|| panic!("no {kind} {name}"));
        for label in words {
            assert!(told.contains(&format!("`{label}`")), "no label {label}: {told}");
        }
    }
    let get = |page: &str| {
        net.exec("a", &format!("curl -s -m 10 -w ' %{{http_code}}' http://127.0.0.1:9090{page}"))
    };
    for page in ["/metrics", "/healthz", "/readyz"] {
        assert!(get(page).ends_with(" 200"), "{page}: {}", get(page));
    }
    agent.stop();
}

#[test]
fn every_test_that_the_table_of_proofs_names_is_there() {
    let table = std::fs::read_to_string("tests/README.md").unwrap();
    let mut named = 0;
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let proofs = row.rsplit('|').nth(1).unwrap().split('`').skip(1).collect::<Vec<_>>();
        for pair in proofs.chunks(2).filter(|pair| pair[0].ends_with(".rs")) {
            let text = std::fs::read_to_string(format!("tests/{}", pair[0])).unwrap();
            let words = pair[1].split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            for test in words.filter(|word| word.contains('_')) {
                assert!(text.contains(&format!("fn {test}()")), "{}: no test {test}", pair[0]);
                named += 1;
            }
        }
    }
    assert!(named > 40, "{named}");
}

/// In a namespace with a /run/netmon of its own.
fn alone(net: &Net, namespace: &str, arguments: &str) -> Background {
    let agent = env!("CARGO_BIN_EXE_netmon");
    net.spawn(
        namespace,
        &format!("sh -c 'mkdir -p /run/netmon && mount -t tmpfs none /run/netmon && exec {agent} {arguments} 2>/dev/null'"),
    )
}

#[test]
fn with_no_arguments_and_no_file_it_watches_what_matters_and_serves_this_host() {
    let net = Net::two_hosts();
    let _host = alone(&net, "a", "");
    let _node = alone(&net, "b", "--mode kubernetes");
    let watched = |count: u32| {
        let page = net.command("a", "curl -s -m 5 http://127.0.0.1:9090/metrics").output().unwrap().stdout;
        String::from_utf8_lossy(&page).contains(&format!("\nnetmon_interfaces_attached {count}\n"))
    };
    until("its one interface; loopback is left out", 20, || watched(1));
    net.exec("a", "ip link add extra type veth peer name far; ip link set extra up; ip link set far up");
    until("two more", 20, || watched(3));
    net.exec("a", "ip link del extra");
    until("two less", 20, || watched(1));
    let listening = |namespace: &str| net.exec(namespace, "ss -Hltn sport = :9090");
    assert!(listening("a").contains(" 127.0.0.1:9090 "), "{}", listening("a"));
    until("a node's pages", 20, || listening("b").contains(" 0.0.0.0:9090 "));
}
