//! The configuration as users write it: shipped files, mistakes and their words, and the binary's exit status.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::Command;

use netmon::config::schema::KEYS;
use netmon::config::{Config, Inputs, Origin};

fn load(file: &Path) -> Result<netmon::config::Loaded, netmon::config::ConfigErrors> {
    Config::load(&Inputs { file: Some(file.into()), ..Default::default() })
}

#[test]
fn every_shipped_file_is_valid() {
    let files: Vec<_> = std::fs::read_dir("configs").unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 4);
    for file in files {
        load(&file).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn the_reference_file_holds_every_key_with_its_default() {
    let loaded = load(Path::new("configs/netmon.yaml")).unwrap();
    assert_eq!(loaded.config, Config::default());
    for key in KEYS {
        assert!(
            matches!(loaded.origins[key.path], Origin::File(_)),
            "{} is not in configs/netmon.yaml",
            key.path
        );
    }
}

/// Runs `netmon --check-config` on a file with this text; exit status and message, the file's path cut out.
fn check(text: &str, environment: &[(&str, &str)]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("netmon.yaml");
    std::fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_netmon"))
        .args(["--check-config", "--config"])
        .arg(&file)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr).replace(&*file.to_string_lossy(), "FILE");
    (output.status.code().unwrap(), message.trim().to_owned())
}

#[test]
fn each_mistake_is_named_with_file_key_value_and_what_is_accepted() {
    let cases: &[(&str, &str)] = &[
        ("flow: { max_flow: 5 }", "FILE: flow.max_flow: unknown key; did you mean flow.max_flows?"),
        ("colour: blue", "FILE: colour: unknown key"),
        (
            "flow: { max_flows: many }",
            "FILE: flow.max_flows: `many` is not accepted; accepted: a whole number from 1 to 16000000",
        ),
        (
            "flow: { max_flows: 0 }",
            "FILE: flow.max_flows: `0` is not accepted; accepted: a whole number from 1 to 16000000",
        ),
        (
            "capture: { sampling_rate: 1.5 }",
            "FILE: capture.sampling_rate: `1.5` is not accepted; accepted: a number above 0 and up to 1",
        ),
        (
            "flow: { flow_timeout: 300 }",
            "FILE: flow.flow_timeout: `300` is not accepted; accepted: a duration with its unit, like 300s, 5m or 1h30m, of at least 1000ms",
        ),
        (
            "capture: { attach: xdp }",
            "FILE: capture.attach: `xdp` is not accepted; accepted: one of auto, tcx, clsact",
        ),
        (
            "capture: { interfaces: [\"eth[\"] }",
            "FILE: capture.interfaces: `[\"eth[\"]` is not accepted; accepted: a list of interface names or globs, like [\"eth0\", \"veth*\"]",
        ),
        (
            "resources: { memory_limit: lots }",
            "FILE: resources.memory_limit: `lots` is not accepted; accepted: a size, like 512Mi, 1Gi or 1G",
        ),
        (
            "features: { latency_tracking: { histogram_buckets: [5, 1] } }",
            "FILE: features.latency_tracking.histogram_buckets: `[5,1]` is not accepted; accepted: a list of one to eleven ascending numbers from 0.001 to 4000000",
        ),
        ("flow: 7", "FILE: flow: `7` is not accepted; accepted: a section with keys of its own"),
        ("flow: { max_age: 5s, flow_timeout: 6s }", "are the same setting; give one of them"),
        (
            "debug: { server: here }",
            "FILE: debug.server: `here` is not accepted; accepted: host:port, like 127.0.0.1:6060, or empty",
        ),
    ];
    for (text, expected) in cases {
        let (status, message) = check(text, &[]);
        assert_eq!(status, 2, "{text}: {message}");
        assert!(message.contains(expected), "{text}\nexpected: {expected}\n     got: {message}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let (status, message) = check(
        "flow: { max_flows: -1, connect_timeout: soon }\nlog: { level: loud }",
        &[("NETMON_BATCH_SIZE", "none")],
    );
    assert_eq!(status, 2);
    for part in [
        "4 mistakes",
        "flow.max_flows: `-1`",
        "flow.connect_timeout: `soon`",
        "log.level: `loud`",
        "NETMON_BATCH_SIZE: performance.batch_size: `none`",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
}

#[test]
fn two_variables_of_one_setting_must_agree_and_a_level_is_above_debug() {
    let both = |timeout| [("NETMON_FLOW_MAX_AGE", "60s"), ("NETMON_FLOW_FLOW_TIMEOUT", timeout)];
    assert_eq!(check("", &both("60s")).0, 0);
    let (status, message) = check("", &both("70s"));
    assert_eq!(status, 2);
    assert!(message.contains("are the same setting; give one of them"), "{message}");
    let named = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    for variables in [["NETMON_DEBUG", "NETMON_LOG_LEVEL"], ["NETMON_LOG_LEVEL", "NETMON_DEBUG"]] {
        let values = variables.map(|name| named(name, if name == "NETMON_DEBUG" { "true" } else { "warn" }));
        let inputs = Inputs { environment: values.to_vec(), ..Inputs::default() };
        assert_eq!(Config::load(&inputs).unwrap().values["log.level"], "warn", "{variables:?}");
    }
}

#[test]
fn yaml_that_is_none_says_where() {
    let (status, message) = check("flow:\n  max_flows: [1\nlog: {", &[]);
    assert_eq!(status, 2);
    assert!(message.contains("FILE: is not valid YAML:") && message.contains("line"), "{message}");
}

#[test]
fn a_variable_that_names_no_setting_is_a_mistake() {
    let (status, message) = check("", &[("NETMON_FLOW_MAX_FLOWZ", "5")]);
    assert_eq!(status, 2);
    assert!(message.contains("NETMON_FLOW_MAX_FLOWZ: flow_max_flowz: unknown key"), "{message}");
}

#[test]
fn a_valid_configuration_is_said_to_be_so_and_a_missing_file_is_not() {
    assert_eq!(check("flow: { max_flows: 5 }", &[]).0, 0);
    assert_eq!(check("# nothing\n", &[]).0, 0);
    let output = Command::new(env!("CARGO_BIN_EXE_netmon"))
        .args(["--check-config", "--config", "/nowhere.yaml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere.yaml: cannot be read"));
    // Of the environment only what begins with NETMON_ matters, and none of it need be text.
    let odd = || std::ffi::OsString::from_vec(vec![b'x', 0xff]);
    let with = |name: &str, value| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netmon"));
        command.arg("--check-config").env(name, value).output().unwrap()
    };
    assert_eq!(with("LS_COLORS", odd()).status.code(), Some(0));
    let output = with("NETMON_LOG_LEVEL", odd());
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("NETMON_LOG_LEVEL: log.level: `x"));
    let output = Command::new(env!("CARGO_BIN_EXE_netmon")).args(["--no-such-flag"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_reference_file_marks_exactly_what_needs_a_restart() {
    let text = std::fs::read_to_string("configs/netmon.yaml").unwrap();
    let (mut path, mut seen) = (Vec::new(), 0);
    for line in text.lines() {
        let name = line.trim_start().split(':').next().unwrap_or_default();
        if name.is_empty() || name.starts_with('#') {
            continue;
        }
        path.truncate((line.len() - line.trim_start().len()) / 2);
        path.push(name);
        if let Some(key) = KEYS.iter().find(|key| key.path == path.join(".")) {
            assert_eq!(line.ends_with("  # restart"), !key.live, "{line}");
            seen += 1;
        }
    }
    assert_eq!(seen, KEYS.len());
}
