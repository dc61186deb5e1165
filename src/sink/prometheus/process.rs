//! What the agent itself uses: memory, CPU, threads. Read from procfs, whose root is passed in.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::governor::reading::{cpu_time, memory_bytes};

/// Reads the agent's own use.
#[derive(Debug)]
pub struct Process {
    root: PathBuf,
    last: Option<(Instant, Duration)>,
}

/// One reading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Memory of the process's own, bytes: mapped kernel tables are counted with the maps.
    pub memory_bytes: u64,
    /// CPU since the last reading, percent of a core.
    pub cpu_percent: f64,
    /// Threads.
    pub threads: u64,
}

impl Process {
    /// `root` is `/proc`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), last: None }
    }

    /// Reads now. What can't be read is 0.
    pub fn read(&mut self) -> Usage {
        let status = std::fs::read_to_string(self.root.join("self/status")).unwrap_or_default();
        let threads = status.lines().find_map(|line| line.strip_prefix("Threads:")?.trim().parse().ok());
        let (now, used) = (Instant::now(), cpu_time());
        let cpu_percent = self.last.replace((now, used)).map_or(0.0, |(then, before)| {
            100.0 * used.saturating_sub(before).as_secs_f64()
                / now.duration_since(then).as_secs_f64().max(1e-3)
        });
        Usage { memory_bytes: memory_bytes(&self.root), cpu_percent, threads: threads.unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let mut process = Process::new("/proc");
        assert_eq!(process.read().cpu_percent, 0.0, "since when?");
        let usage = process.read();
        assert!(usage.memory_bytes > 0 && usage.threads > 0 && usage.cpu_percent > 0.0, "{usage:?}");
        assert_eq!(Process::new("/nowhere").read(), Usage::default());
    }
}
