//! `netmon-cli doctor`, `check-system`, `support bundle`, completions and man pages.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::agent::Agent;
use common::foreign::add_filter;
use common::net::Net;
use serde_json::Value;

const CLI: &str = env!("CARGO_BIN_EXE_netmon-cli");

/// netmon-cli in the namespace, and what it found.
fn examine(net: &Net, prefix: &str, arguments: &str) -> (Output, Vec<Value>) {
    let output = net.command("a", &format!("{prefix} {CLI} --output json {arguments}")).output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output, found.as_array().unwrap().clone())
}

fn doctor(agent: &Agent<'_>, net: &Net) -> (Output, Vec<Value>) {
    examine(net, "", &format!("--socket {} doctor", agent.socket().display()))
}

/// Verdicts and findings of a check.
fn of(found: &[Value], check: &str) -> Vec<(String, String)> {
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let these = found.iter().filter(|finding| finding["check"] == check);
    these.map(|finding| (text(finding, "verdict"), text(finding, "found"))).collect()
}

fn failed(found: &[Value]) -> Vec<&Value> {
    found.iter().filter(|finding| finding["verdict"] == "fail").collect()
}

#[test]
fn a_healthy_agent_passes_and_who_else_is_there_is_named() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "");
    add_filter(&net, ("a", "va"), "ingress", 7, "pass");
    net.exec("a", "ping -q -c 2 -i 0.05 10.1.0.2");
    let (output, found) = doctor(&agent, &net);
    assert!(output.status.success() && failed(&found).is_empty(), "{found:#?}");
    for check in [
        "kernel",
        "BTF",
        "capabilities",
        "clock",
        "configuration",
        "agent",
        "interfaces",
        "books",
        "flow table",
        "losses",
    ] {
        assert_eq!(of(&found, check).len(), 1, "{check}: {found:#?}");
    }
    let hooks = of(&found, "hooks");
    assert!(
        hooks[0].0 == "pass" && hooks[0].1.contains("behind it: nm") && hooks[0].1.contains("priority 7"),
        "{hooks:?}"
    );
    let (verdict, port) = &of(&found, "metrics port")[0];
    assert!(verdict == "pass" && port.contains("the agent serves 9090"), "{port}");

    // What it goes by is asked of itself: no file says this.
    agent.cli(&["config", "set", "export.prometheus.port=9191"]);
    let (verdict, port) = &of(&doctor(&agent, &net).1, "metrics port")[0];
    assert!(verdict == "pass" && port.contains("the agent serves 9191"), "{port}");

    // From elsewhere the same numbers are other interfaces.
    let line = format!("{CLI} --output json --socket {} doctor", agent.socket().display());
    let output = net.command("b", &line).output().unwrap();
    let found: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let hooks = of(&found, "hooks");
    assert!(hooks.len() == 1 && hooks[0].1.contains("in another network namespace"), "{hooks:?}");
    agent.stop();
}

#[test]
fn packets_that_somebody_ahead_swallows_are_missed_and_the_culprit_is_named() {
    let net = Net::two_hosts();
    add_filter(&net, ("a", "va"), "ingress", 1, "drop");
    let agent = Agent::start(&net, "a", "capture: { attach: clsact }");
    let _flood = net.spawn("b", "ping -q -i 0.002 10.1.0.1");
    let (_, found) = doctor(&agent, &net);
    let hooks = of(&found, "hooks");
    assert!(
        hooks[0].0 == "warn" && hooks[0].1.contains("netmon saw 0 of them; ahead of netmon: nm"),
        "{hooks:?}"
    );
    agent.stop();
}

#[test]
fn a_hook_that_was_cleared_behind_our_back_fails() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "capture: { attach: clsact }");
    assert!(failed(&doctor(&agent, &net).1).is_empty());
    net.exec("a", "tc qdisc del dev va clsact");
    let (output, found) = doctor(&agent, &net);
    assert_eq!(output.status.code(), Some(1));
    let hooks = of(&found, "hooks");
    assert!(hooks.len() == 2 && hooks[0].1.contains("somebody has removed it"), "{hooks:?}");
    agent.stop();
}

#[test]
fn with_no_agent_it_tells_what_would_be_in_the_way() {
    let net = Net::two_hosts();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    let file = folder.path().join("netmon.yaml");
    let run =
        || examine(&net, "", &format!("--socket {} doctor --config {}", socket.display(), file.display()));
    std::fs::write(&file, "capture: { attach: clsact }\n").unwrap();
    add_filter(&net, ("a", "va"), "egress", 1, "pass");
    let (output, found) = run();
    assert!(output.status.success() && failed(&found).is_empty(), "{found:#?}");
    assert_eq!(of(&found, "agent")[0].0, "warn");
    assert_eq!(of(&found, "programs")[0].0, "pass", "the programs were tried");
    assert!(of(&found, "hooks")[0].1.contains("ahead of netmon: nm"), "{found:#?}");

    std::fs::write(&file, "flow: { max_flow: 5 }\n").unwrap();
    let _holder =
        net.spawn("a", "python3 -m http.server 9090 --bind 127.0.0.1 --directory /usr/share/common-licenses");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while of(&run().1, "metrics port")[0].0 == "pass" && std::time::Instant::now() < deadline {}
    let (output, found) = run();
    assert_eq!(output.status.code(), Some(1));
    let (verdict, port) = &of(&found, "metrics port")[0];
    assert!(verdict == "fail" && port.contains("is taken by python3 (pid "), "{port}");
    let (verdict, configuration) = &of(&found, "configuration")[0];
    assert!(verdict == "fail" && configuration.contains("did you mean flow.max_flows?"), "{configuration}");
    assert!(found.iter().all(|finding| finding["verdict"] == "pass" || finding["fix"].is_string()));
}

#[test]
fn an_agent_that_does_not_answer_fails_and_holds_nobody_up() {
    let net = Net::new(&["a"]);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("netmon.sock");
    // As of one that is stopped: the kernel lets clients in.
    let _listener = UnixListener::bind(&socket).unwrap();
    // They wait at the same time.
    let others = ["status", "why 10.0.0.1 10.0.0.2", "flows dump --follow"].map(|command| {
        let mut client = Command::new(CLI);
        client.arg("--socket").arg(&socket).args(command.split(' ')).stdout(Stdio::null());
        (command, client.stderr(Stdio::piped()).spawn().unwrap())
    });
    let late = "took the connection and does not answer within 30 s";
    let (output, found) = examine(&net, "", &format!("--socket {} doctor", socket.display()));
    assert_eq!(output.status.code(), Some(1), "{found:#?}");
    let (verdict, said) = &of(&found, "agent")[0];
    assert!(verdict == "fail" && said.contains(late), "{verdict}: {said}");
    for (command, client) in others {
        let output = client.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && words.contains(late), "{command}: {words}");
    }
}

#[test]
fn check_system_tells_what_works_and_exits_with_3_without_rights() {
    let net = Net::new(&["a"]);
    let (output, found) = examine(&net, "", "check-system");
    assert!(output.status.success(), "{found:#?}");
    for check in
        ["kernel", "BTF", "programs", "attaching", "events", "drops", "process names", "NAT", "cgroup2"]
    {
        assert_eq!(of(&found, check).len(), 1, "{check}: {found:#?}");
    }
    let perf = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&perf, "capture: { transport: perf }\n").unwrap();
    let (_, found) = examine(&net, "", &format!("check-system --config {}", perf.path().display()));
    assert!(of(&found, "events")[0].1.contains("perf buffers"), "{found:#?}");

    let nobody = "setpriv --reuid 65534 --clear-groups --inh-caps=-all --bounding-set=-all";
    let (output, found) = examine(&net, nobody, "check-system");
    assert_eq!(output.status.code(), Some(3), "{found:#?}");
    assert!(of(&found, "capabilities")[0].1.contains("CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"));
    assert_eq!(of(&found, "programs")[0].0, "fail");
}

/// Files of an archive, in order.
fn unpack(archive: &Path) -> (Vec<String>, HashMap<String, String>) {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(archive).unwrap()));
    let (mut names, mut files) = (Vec::new(), HashMap::new());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        names.push(name.clone());
        files.insert(name, text);
    }
    (names, files)
}

#[test]
fn a_support_bundle_holds_what_its_list_says_and_no_addresses_if_so_asked() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "log: { level: debug }");
    net.exec("a", "ping -q -c 1 10.1.0.2");
    let folder = tempfile::tempdir().unwrap();
    let bundle = |name: &str, flags: &str| {
        let path = folder.path().join(name);
        let line = format!("{CLI} --socket {} {flags} --output {}", agent.socket().display(), path.display());
        (net.command("a", &line).output().unwrap(), path)
    };
    let (output, path) = bundle("whole.tar.gz", "support bundle");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (names, files) = unpack(&path);
    assert_eq!(names[0], "CONTENTS.txt");
    let list = &files["CONTENTS.txt"];
    assert!(!list.contains("missing:"), "{list}");
    assert!(names[1..].iter().all(|name| list.contains(name)), "{list}");
    for (name, part) in [
        ("versions.txt", "netmon-cli"),
        ("config.json", "\"level\": \"debug\""),
        ("status.json", "\"conserved\": true"),
        ("metrics.txt", "netmon_build_info"),
        ("log.txt", "attached"),
        ("verifier.log", "libbpf:"),
        ("attached.json", "nm_ingress"),
        ("doctor.json", "\"check\": \"BTF\""),
        ("check-system.json", "\"check\": \"attaching\""),
        ("process.txt", "Max locked memory"),
    ] {
        assert!(files[name].contains(part), "{name}: {}", files[name]);
    }
    agent.wait("the ping on the page of metrics", 10, |agent| {
        agent.metrics().0.keys().any(|series| series.contains("10.1.0.2"))
    });
    let (output, path) = bundle("redacted.tar.gz", "support-bundle --redact-addresses");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (_, files) = unpack(&path);
    for (name, text) in &files {
        assert!(!text.contains("10.1.0."), "{name} has an address");
    }
    assert!(files["metrics.txt"].contains("src_ip=\"ipv4-"), "{}", files["metrics.txt"]);

    let (output, _) = bundle("whole.tar.gz", "support bundle");
    assert_eq!(output.status.code(), Some(1), "nothing is written over");
    let (output, _) = bundle("", "--output json support bundle #");
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    agent.stop();
}

#[test]
fn completions_and_man_pages_tell_of_every_command() {
    let run = |arguments: &[&str]| {
        let output = Command::new(CLI).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).contains("check-system"), "{shell}");
        let agent = run(&["completions", shell, "--program", "netmon"]);
        assert!(agent.contains("debug-server") && !agent.contains("check-system"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("new");
    run(&["man", folder.to_str().unwrap()]);
    for (page, part) in [
        ("netmon.1", "check\\-config"),
        ("netmon-cli.1", "check\\-system"),
        ("netmon-cli-flows-dump.1", "\\-\\-namespace"),
        ("netmon-cli-support-bundle.1", "\\-\\-redact\\-addresses"),
    ] {
        let text = std::fs::read_to_string(folder.join(page)).unwrap_or_else(|_| panic!("no {page}"));
        assert!(text.contains(part), "{page}: {text}");
    }
}
