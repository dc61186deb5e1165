#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;

use super::schema::{self, KEYS};
use super::{Config, Inputs, Origin};

fn with_environment(pairs: &[(&str, &str)]) -> Result<super::Loaded, super::ConfigErrors> {
    let environment = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    Config::load(&Inputs { environment, ..Default::default() })
}

#[test]
fn every_key_has_an_environment_name() {
    for key in KEYS {
        let name = format!("NETMON_{}", key.path.replace('.', "_").to_ascii_uppercase());
        assert_eq!(schema::find_environment(&name).map(|found| found.path), Some(key.path), "{name}");
    }
    for (name, path) in schema::SHORT_NAMES {
        assert_eq!(schema::find_environment(name).map(|key| key.path), Some(*path));
    }
    let feature = schema::find_environment("NETMON_FEATURES_LATENCY_TRACKING").unwrap();
    assert_eq!(feature.path, "features.latency_tracking.enabled");
}

#[test]
fn later_layers_win_and_origins_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("netmon.yaml");
    std::fs::write(&file, "flow: { max_flows: 10, max_age: 60s }\ncapture: { sampling_rate: 0.5 }\n")
        .unwrap();
    let loaded = Config::load(&Inputs {
        file: Some(file.clone()),
        environment: vec![
            ("NETMON_FLOW_MAX_FLOWS".into(), "20".into()),
            ("NETMON_SAMPLING_RATE".into(), "0.25".into()),
            ("PATH".into(), "/bin".into()),
        ],
        flags: vec![("capture.sampling_rate".into(), "0.125".into())],
    })
    .unwrap();
    assert_eq!(loaded.config.flow.flow_timeout, Duration::from_secs(60));
    assert_eq!(loaded.config.flow.max_flows, 20);
    assert!((loaded.config.capture.sampling_rate - 0.125).abs() < 1e-9);
    assert_eq!(loaded.origins["flow.flow_timeout"], Origin::File(file));
    assert_eq!(loaded.origins["flow.max_flows"], Origin::Environment("NETMON_FLOW_MAX_FLOWS".into()));
    assert_eq!(loaded.origins["capture.sampling_rate"], Origin::Flag);
    assert_eq!(loaded.origins["log.level"], Origin::Default);
}

#[test]
fn lists_in_the_environment_are_separated_by_commas() {
    let loaded = with_environment(&[
        ("NETMON_CAPTURE_INTERFACES", "eth0, veth*"),
        ("NETMON_FEATURES_LATENCY_TRACKING_HISTOGRAM_BUCKETS", "1,2.5,10"),
    ])
    .unwrap();
    assert_eq!(loaded.config.capture.interfaces, ["eth0", "veth*"]);
    assert_eq!(loaded.config.features.latency_tracking.histogram_buckets, [1.0, 2.5, 10.0]);
}

#[test]
fn durations_and_sizes_are_read_in_human_form() {
    let read = |value: &str| {
        with_environment(&[("NETMON_FLOW_FLOW_TIMEOUT", value)])
            .ok()
            .map(|loaded| loaded.config.flow.flow_timeout)
    };
    assert_eq!(read("1h30m"), Some(Duration::from_secs(5400)));
    assert_eq!(read("1500ms"), Some(Duration::from_millis(1500)));
    assert_eq!(read("1.5s"), Some(Duration::from_millis(1500)));
    for wrong in ["300", "", "5 parsecs", "-5s", "1e9d", "10ms", "s"] {
        assert_eq!(read(wrong), None, "{wrong:?}");
    }
    let size = |value: &str| {
        with_environment(&[("NETMON_RESOURCES_MEMORY_LIMIT", value)])
            .ok()
            .map(|loaded| loaded.config.resources.memory_limit)
    };
    assert_eq!(size("512Mi"), Some(512 << 20));
    assert_eq!(size("1G"), Some(1_000_000_000));
    assert_eq!(size("0"), None);
    assert_eq!(size("lots"), None);
}

proptest! {
    #[test]
    fn no_input_makes_loading_panic(text in ".{0,200}", name in "NETMON_[A-Z_]{0,30}", value in ".{0,40}") {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("any.yaml");
        std::fs::write(&file, text).unwrap();
        let _ = Config::load(&Inputs { file: Some(file), environment: vec![(name, value)], flags: Vec::new() });
    }
}
