//! Cgroups of a test.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::net::Net;

/// A folder of the cgroup2 tree, made here, with what is missing above it; removed when it goes out of scope.
pub struct Cgroup {
    made: Vec<PathBuf>,
}

impl Cgroup {
    pub fn new(path: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts
            .lines()
            .find_map(|line| {
                let (front, back) = line.split_once(" - ")?;
                back.starts_with("cgroup2 ").then(|| front.split(' ').nth(4))?
            })
            .expect("these tests need a cgroup2 mount");
        let mut made = Vec::new();
        let mut folder = PathBuf::from(mount);
        for part in path.split('/') {
            folder.push(part);
            if std::fs::create_dir(&folder).is_ok() {
                made.push(folder.clone());
            }
        }
        Self { made }
    }

    /// A command line inside of a namespace, in this cgroup.
    pub fn command(&self, net: &Net, ns: &str, line: &str) -> Command {
        let join = format!("echo $$ > {}/cgroup.procs", self.made.last().unwrap().display());
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{join} && exec ip netns exec {} {line}", net.name(ns))]);
        command.stdin(Stdio::null());
        command
    }

    pub fn exec(&self, net: &Net, ns: &str, line: &str) {
        let output = self.command(net, ns, line).output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in self.made.iter().rev() {
            // A folder above may be in use by another test; a process that was killed takes a moment to leave.
            for _ in 0..100 {
                if std::fs::remove_dir(folder).is_ok() || std::fs::read_dir(folder).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
