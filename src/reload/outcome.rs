//! How taking over a configuration went, as `status`, `config` and metrics tell it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What set it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// The agent's start.
    Start,
    /// The file has changed.
    File,
    /// SIGHUP.
    Signal,
    /// `netmon-cli config reload`.
    Cli,
    /// `netmon-cli config set`.
    Set,
    /// `netmon-cli debug trace`.
    Trace,
}

impl Cause {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::File => "the file has changed",
            Self::Signal => "SIGHUP",
            Self::Cli => "netmon-cli config reload",
            Self::Set => "netmon-cli config set",
            Self::Trace => "netmon-cli debug trace",
        }
    }
}

/// A key whose value changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Path.
    pub key: String,
    /// Before.
    pub from: String,
    /// After.
    pub to: String,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |text: &str| if text.is_empty() { "(empty)".to_owned() } else { text.to_owned() };
        write!(f, "{} {} -> {}", self.key, word(&self.from), word(&self.to))
    }
}

/// What was taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// In force from now on.
    pub changed: Vec<Changed>,
    /// Known, and in force after a restart.
    pub after_restart: Vec<Changed>,
}

/// A configuration that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When.
    pub at: Timestamp,
    /// What set it off.
    pub cause: Cause,
    /// Why.
    pub message: String,
}

/// The configuration in `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// File.
    pub file: Option<String>,
    /// When it was taken over last.
    pub since: Option<Timestamp>,
    /// By what.
    pub cause: Option<Cause>,
    /// Configurations refused since start.
    pub failures: u64,
    /// What changed when it was taken over last.
    pub changed: Vec<Changed>,
    /// What waits for a restart.
    pub after_restart: Vec<Changed>,
    /// Why the last one was refused; `null` if it was not.
    pub error: Option<Failure>,
}

/// One key of `config show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Path.
    pub key: String,
    /// In force.
    pub value: String,
    /// `default`, `file ...`, `environment ...`, `flag` or `set`.
    pub origin: String,
    /// Whether a change is taken over without a restart.
    pub live: bool,
    /// What it will be after a restart, if that is another.
    pub after_restart: Option<String>,
}

/// For the metrics.
#[derive(Debug, Default)]
pub struct Counters {
    success_ms: AtomicU64,
    failures: AtomicU64,
}

impl Counters {
    pub(super) fn succeeded(&self, at: Timestamp) {
        self.success_ms.store(u64::try_from(at.as_millisecond()).unwrap_or(0), Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// When a configuration was taken over last, seconds since 1970.
    pub fn success_seconds(&self) -> f64 {
        self.success_ms.load(Ordering::Relaxed) as f64 / 1e3
    }

    /// Configurations refused.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}
