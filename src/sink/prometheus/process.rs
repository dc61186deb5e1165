//! What the agent itself uses: memory, CPU, threads. Read from procfs, whose root is passed in.

use std::path::{Path, PathBuf};
use std::time::Instant;

/// Reads the agent's own use.
#[derive(Debug)]
pub struct Process {
    root: PathBuf,
    last: Option<(Instant, f64)>,
}

/// One reading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Memory of the process's own, bytes (RssAnon: mapped kernel tables are counted with the maps).
    pub memory_bytes: u64,
    /// CPU since the last reading, percent of a core.
    pub cpu_percent: f64,
    /// Threads.
    pub threads: u64,
}

/// Ticks a second of `/proc/self/stat` (`USER_HZ`, fixed by the kernel's ABI).
const TICKS: f64 = 100.0;

impl Process {
    /// `root` is `/proc`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), last: None }
    }

    /// Reads now. What can't be read is 0.
    pub fn read(&mut self) -> Usage {
        let status = read(&self.root.join("self/status"));
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()
        };
        let seconds = cpu_seconds(&read(&self.root.join("self/stat"))).unwrap_or(0.0);
        let now = Instant::now();
        let cpu_percent = self.last.map_or(0.0, |(then, before)| {
            100.0 * (seconds - before) / now.duration_since(then).as_secs_f64().max(1e-3)
        });
        self.last = Some((now, seconds));
        Usage {
            memory_bytes: field("RssAnon").unwrap_or(0) * 1024,
            cpu_percent,
            threads: field("Threads").unwrap_or(0),
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// User and system time of `/proc/PID/stat`, seconds.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The command name stands in parentheses and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_does_not_confuse() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("nonsense"), None);
    }

    #[test]
    fn this_process_uses_something() {
        let usage = Process::new("/proc").read();
        assert!(usage.memory_bytes > 0 && usage.threads > 0);
        assert_eq!(Process::new("/nowhere").read(), Usage::default());
    }
}
