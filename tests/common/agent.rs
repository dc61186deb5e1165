//! The real agent in a namespace.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::net::Net;

pub struct Agent<'a> {
    net: &'a Net,
    namespace: String,
    folder: Arc<tempfile::TempDir>,
    port: u16,
    child: Child,
}

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Memory of its own, KiB.
    pub memory_kib: u64,
    pub files: usize,
    pub threads: usize,
}

impl Held {
    pub fn of(pid: u32) -> Self {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let status = std::fs::read_to_string(folder.join("status")).unwrap();
        let number = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_end_matches("kB").trim().parse().unwrap()
        };
        Self {
            memory_kib: number("RssAnon:"),
            files: std::fs::read_dir(folder.join("fd")).unwrap().count(),
            threads: number("Threads:") as usize,
        }
    }
}

/// Metrics by name with labels as they are printed.
pub struct Metrics(pub HashMap<String, f64>);

impl Metrics {
    /// Sum over the series of a metric whose labels hold all these parts.
    pub fn sum(&self, name: &str, parts: &[&str]) -> f64 {
        self.0
            .iter()
            .filter(|(series, _)| {
                series.split('{').next() == Some(name) && parts.iter().all(|part| series.contains(part))
            })
            .map(|(_, value)| value)
            .sum()
    }
}

impl<'a> Agent<'a> {
    /// Starts it with a configuration (YAML; socket and log are added) and waits until it is ready.
    pub fn start(net: &'a Net, namespace: &str, config: &str) -> Self {
        Self::start_after(net, namespace, config, "true")
    }

    /// Starts it in Kubernetes mode and does not wait for it.
    pub fn launch_kubernetes(
        net: &'a Net,
        namespace: &str,
        kubeconfig: &std::path::Path,
        config: &str,
    ) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let before = format!("export KUBECONFIG={}", kubeconfig.display());
        let child = Self::launch(net, namespace, &folder, config, &before, "--mode kubernetes");
        Self { net, namespace: namespace.into(), folder, port: 9090, child }
    }

    /// The same, after a command line that sees the agent's own mounts.
    pub fn start_after(net: &'a Net, namespace: &str, config: &str, before: &str) -> Self {
        Self::launch_in(net, namespace, &Arc::new(tempfile::tempdir().unwrap()), config, before).ready()
    }

    /// Starts it in a folder of an earlier one, say, and does not wait for it.
    pub fn launch_in(
        net: &'a Net,
        namespace: &str,
        folder: &Arc<tempfile::TempDir>,
        config: &str,
        before: &str,
    ) -> Self {
        let child = Self::launch(net, namespace, folder, config, before, "");
        Self { net, namespace: namespace.into(), folder: Arc::clone(folder), port: 9090, child }
    }

    /// Its metrics are on another port, as its configuration says.
    pub fn at_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Waits until it is ready.
    pub fn ready(mut self) -> Self {
        let deadline = Instant::now() + Duration::from_secs(60);
        let line = format!("curl -sf -m 2 http://127.0.0.1:{}/readyz", self.port);
        while !self.net.command(&self.namespace, &line).output().unwrap().status.success() {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the agent is not ready: {ended:?}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        self
    }

    fn launch(
        net: &Net,
        namespace: &str,
        folder: &tempfile::TempDir,
        config: &str,
        before: &str,
        arguments: &str,
    ) -> Child {
        let file = folder.path().join("netmon.yaml");
        std::fs::write(&file, Self::whole(folder, config)).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        Command::new("ip")
            // Of the soak, and no settings.
            .env_remove("NETMON_SOAK")
            .env_remove("NETMON_SOAK_OUT")
            .args(["netns", "exec", &net.name(namespace), "sh", "-c"])
            .arg(format!(
                "{before} && exec {} --config {} {arguments}",
                env!("CARGO_BIN_EXE_netmon"),
                file.display()
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// A configuration and what every agent here needs beside it.
    fn whole(folder: &tempfile::TempDir, config: &str) -> String {
        format!("{config}\napi: {{ socket: {} }}\n", folder.path().join("netmon.sock").display())
    }

    /// A configuration as it stands in the agent's file.
    pub fn text(&self, config: &str) -> String {
        Self::whole(&self.folder, config)
    }

    /// The agent's configuration file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("netmon.yaml")
    }

    /// Process id: `ip netns exec` and the shell become the agent.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it holds now.
    pub fn held(&self) -> Held {
        Held::of(self.pid())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("netmon.sock")
    }

    /// netmon-cli, to be given its arguments.
    pub fn client(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netmon-cli"));
        command.arg("--socket").arg(self.socket());
        command
    }

    /// netmon-cli as people see it: exit status, standard output and standard error.
    pub fn cli_text(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.client().args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    /// With JSON output.
    pub fn cli(&self, arguments: &[&str]) -> Value {
        let (status, text, words) = self.cli_text(&[&["--output", "json"], arguments].concat());
        assert_eq!(status, 0, "{arguments:?}: {words}");
        serde_json::from_str(&text).unwrap()
    }

    /// The same; `None` when it fails, as it does until the agent listens.
    pub fn try_cli(&self, arguments: &[&str]) -> Option<Value> {
        let (status, text, _) = self.cli_text(&[&["--output", "json"], arguments].concat());
        (status == 0).then(|| serde_json::from_str(&text).unwrap())
    }

    pub fn flows(&self, filters: &[&str]) -> Vec<Value> {
        let arguments = [&["flows", "dump"], filters].concat();
        self.cli(&arguments).as_array().unwrap().clone()
    }

    pub fn metrics(&self) -> Metrics {
        let line = format!("curl -sf -m 10 http://127.0.0.1:{}/metrics", self.port);
        let text = self.net.exec(&self.namespace, &line);
        let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        Metrics(series.collect())
    }

    /// The books, once nothing is under way.
    pub fn books(&self) -> Value {
        self.cli(&["status"])["accounting"].clone()
    }

    /// Waits until a condition holds; panics with `what` and the log after `seconds`.
    pub fn wait(&self, what: &str, seconds: u64, mut condition: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while !condition(self) {
            assert!(
                Instant::now() < deadline,
                "not within {seconds} s: {what}\n{}\n{:#}",
                self.log(),
                self.cli(&["status"])
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The conservation law, of packets and bytes, between the kernel's counters, the flows and the metrics.
    pub fn assert_law(&self) {
        let mut last = Value::Null;
        for _ in 0..100 {
            let books = self.books();
            assert_eq!(books["conserved"], true, "every packet has one outcome: {books:#}");
            let flows_hold = books["outcomes"]["counted"] == books["flow_packets"]
                && books["counted_bytes"] == books["flow_bytes"];
            let metrics = self.metrics();
            // Scaled when flows are sampled.
            let rate = metrics.sum("netmon_sampling_rate", &[]);
            let kept = |name: &str| (metrics.sum(name, &[]) * rate).round() as u64;
            let told = books["flow_packets"] == kept("netmon_packets_total")
                && books["flow_bytes"] == kept("netmon_bytes_total");
            // Packets may be on their way for a moment, and the last of a flow is told an interval later.
            if flows_hold && told {
                return;
            }
            last = books;
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("what was counted is not what flows hold or metrics tell: {last:#}\n{}", self.log());
    }

    /// SIGTERM; must end well within ten seconds, and no thread of it may have panicked until then.
    pub fn stop(mut self) -> String {
        self.signal("TERM");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let log = self.log();
                assert!(
                    status.success() && !log.contains("panicked at"),
                    "the agent ended with {status}\n{log}"
                );
                return log;
            }
            assert!(Instant::now() < deadline, "the agent does not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: &str) {
        super::net::run(&format!("kill -{signal} {}", self.pid()));
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("agent's log:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
