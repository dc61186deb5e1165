//! A real Prometheus that scrapes the agent of a namespace.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::net::{Background, Net};

const ADDRESS: &str = "127.0.0.1:9099";

/// Runs until it is dropped.
pub struct Prometheus<'a> {
    net: &'a Net,
    namespace: &'a str,
    folder: TempDir,
    _process: Background,
}

impl<'a> Prometheus<'a> {
    /// Scrapes each second, and evaluates a file of rules.
    pub fn start(net: &'a Net, namespace: &'a str, rules: Option<&Path>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        let mut settings = "global: { scrape_interval: 1s, evaluation_interval: 1s }\nscrape_configs:\n- job_name: netmon\n  \
                            static_configs: [{ targets: ['127.0.0.1:9090'] }]\n"
            .to_owned();
        if let Some(rules) = rules {
            writeln!(settings, "rule_files: [{}]", rules.display()).unwrap();
        }
        std::fs::write(&config, settings).unwrap();
        let line = format!(
            "prometheus --config.file={} --storage.tsdb.path={} --web.listen-address={ADDRESS} --log.level=error",
            config.display(),
            folder.path().join("data").display()
        );
        let process = net.spawn(namespace, &line);
        Self { net, namespace, folder, _process: process }
    }

    /// The finite values that a query has now; none while Prometheus starts. One that it does not understand is a failure.
    pub fn ask(&self, query: &str) -> Vec<f64> {
        let file = self.folder.path().join("query");
        std::fs::write(&file, query).unwrap();
        let answer = self.get(&format!("query --data-urlencode query@{}", file.display()));
        assert_ne!(answer["status"], "error", "{query}: {answer}");
        let value = |series: &Value| series["value"][1].as_str()?.parse().ok();
        let series = answer["data"]["result"].as_array().into_iter().flatten();
        series.filter_map(value).filter(|value: &f64| value.is_finite()).collect()
    }

    /// The type that it has learnt of a metric.
    pub fn kind_of(&self, metric: &str) -> String {
        let answer = self.get(&format!("metadata -G -d metric={metric}"));
        answer["data"][metric][0]["type"].as_str().unwrap_or_default().to_owned()
    }

    fn get(&self, what: &str) -> Value {
        let line = format!("curl -s -m 5 http://{ADDRESS}/api/v1/{what}");
        let output = self.net.command(self.namespace, &line).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }
}
