//! What is wrong on this host, and how to mend it: `netmon-cli doctor` and `check-system`.
//!
//! Each file gathers facts of its own and judges them; judging is pure. Nothing here needs a running agent, and nothing is
//! changed: the programs are loaded for a moment, and attached to no interface.

pub mod agent;
pub mod hooks;
pub mod host;
pub mod kubernetes;
pub mod port;
pub mod programs;
pub mod tested;

use serde::{Deserialize, Serialize};

/// How good it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Works with less, or may be wrong.
    Warn,
    /// Does not work.
    Fail,
}

impl Verdict {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How good it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub fix: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn pass(check: &str, found: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Verdict::Pass, found: found.into(), fix: None }
    }

    /// Works with less, or may be wrong.
    pub fn warn(check: &str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Verdict::Warn, found: found.into(), fix: Some(fix.into()) }
    }

    /// Does not work.
    pub fn fail(check: &str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn(check, found, fix) }
    }
}

/// How many failed.
pub fn failures(findings: &[Finding]) -> usize {
    findings.iter().filter(|finding| finding.verdict == Verdict::Fail).count()
}
