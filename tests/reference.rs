//! The references are what the code says: `WRITE_REFERENCE=1 cargo test --test reference` writes them anew.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use netmon::config::schema::{ALIASES, KEYS, SHORT_NAMES};

const CONFIGURATION: &str = "src/config/README.md";
const METRICS: &str = "src/sink/prometheus/README.md";

/// Compares, or writes.
fn compare(file: &str, text: &str) {
    if std::env::var_os("WRITE_REFERENCE").is_some() {
        std::fs::write(file, text).unwrap();
    }
    let kept = std::fs::read_to_string(file).unwrap_or_default();
    assert!(kept == text, "{file} is not what the code says; WRITE_REFERENCE=1 cargo test --test reference");
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[test]
fn the_configuration_reference_is_what_the_schema_says() {
    let mut text = String::from(
        "# Configuration\n\nWritten from `schema.rs` by `tests/reference.rs`. Every key has an environment variable: `NETMON_` and the path \
         with `_` between its parts;\nthose that have a shorter one besides are marked. [configs/netmon.yaml](../../configs/netmon.yaml) is the \
         same as a file, with what each costs. Features that were off at the start are not loaded: to switch them on takes a restart.\n\n| key | default | accepted | taken over | meaning |\n| --- | --- | --- | --- | --- |\n",
    );
    for key in KEYS {
        let aliases = ALIASES.iter().filter(|(_, path)| *path == key.path).map(|(alias, _)| *alias);
        let short = SHORT_NAMES.iter().filter(|(_, path)| *path == key.path).map(|(name, _)| *name);
        let also: String = aliases.chain(short).fold(String::new(), |mut text, name| {
            let _ = write!(text, "<br>`{name}`");
            text
        });
        let (default, accepted, meaning) = (cell(key.default), cell(&key.kind.accepted()), cell(key.meaning));
        let over = if key.live { "live" } else { "at start" };
        writeln!(text, "| `{}`{also} | `{default}` | {accepted} | {over} | {meaning} |", key.path).unwrap();
    }
    compare(CONFIGURATION, &text);
}

/// A string literal at the beginning, and what comes after it.
fn literal(text: &str) -> Option<(String, &str)> {
    let mut rest = text.trim_start().strip_prefix('"')?.char_indices();
    let body = text.trim_start().strip_prefix('"')?;
    let mut value = String::new();
    while let Some((at, c)) = rest.next() {
        match c {
            '"' => return Some((value, &body[at + 1..])),
            '\\' => match rest.next()?.1 {
                '\n' => {
                    while rest.clone().next().is_some_and(|(_, c)| c.is_whitespace()) {
                        rest.next();
                    }
                }
                escaped => value.push(escaped),
            },
            c => value.push(c),
        }
    }
    None
}

/// Name, type and description of every metric that a file declares.
fn declared(source: &str) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for method in ["counter", "gauge", "summary", "family"] {
        for (at, call) in source.match_indices(&format!(".{method}(")) {
            let Some((name, rest)) = literal(&source[at + call.len()..]) else { continue };
            let Some((help, rest)) = rest.trim_start().strip_prefix(',').and_then(literal) else { continue };
            let kind = match method {
                "family" => rest
                    .split("MetricType::")
                    .nth(1)
                    .unwrap()
                    .split(|c: char| !c.is_alphabetic())
                    .next()
                    .unwrap()
                    .to_lowercase(),
                method => method.to_owned(),
            };
            found.push((name, kind, help));
        }
    }
    found
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

#[test]
fn the_metrics_reference_is_what_the_exporter_declares() {
    let mut metrics = BTreeMap::new();
    for path in sources(Path::new("src/sink/prometheus")) {
        for (name, kind, help) in declared(&std::fs::read_to_string(path).unwrap()) {
            metrics.insert(name, (kind, help));
        }
    }
    assert!(metrics.len() > 40, "{metrics:#?}");
    // Labels are written by hand; a test under traffic (dashboards) compares them with those of the running agent.
    let kept = std::fs::read_to_string(METRICS).unwrap_or_default();
    let labels: BTreeMap<&str, &str> = kept
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            Some((cells.next()?.trim_end_matches('`'), cells.nth(1)?))
        })
        .collect();
    let mut text = String::from(
        "# Metrics\n\nWritten from the exporter's code by `tests/reference.rs`. Base units; counters end in `_total`. Dashboards: \
         [deploy/grafana](../../../deploy/grafana), rules: [deploy/prometheus](../../../deploy/prometheus).\n\n\
         | metric | type | labels | meaning |\n| --- | --- | --- | --- |\n",
    );
    for (name, (kind, help)) in &metrics {
        let labels = labels.get(name.as_str()).copied().unwrap_or("?");
        writeln!(text, "| `{name}` | {kind} | {labels} | {} |", cell(help)).unwrap();
    }
    compare(METRICS, &text);
    assert!(!text.contains("| ? |"), "{METRICS}: labels are missing where a question mark stands");
}
