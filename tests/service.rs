//! What systemd is told: ready, status lines, reloads, and that the collector goes on.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use common::agent::Agent;
use common::net::{Net, until};

/// Stands in for systemd.
struct Manager(UnixDatagram);

impl Manager {
    /// All messages until one says this; panics after 20 seconds.
    fn until(&self, wanted: &str) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut all = Vec::new();
        while !all.iter().any(|message: &String| message.lines().any(|line| line.starts_with(wanted))) {
            assert!(Instant::now() < deadline, "{wanted} is not told: {all:?}");
            all.extend(self.next());
        }
        all
    }

    fn next(&self) -> Option<String> {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// What comes within this time.
    fn during(&self, time: Duration) -> Vec<String> {
        let end = Instant::now() + time;
        std::iter::from_fn(|| (Instant::now() < end).then(|| self.next())).flatten().collect()
    }
}

/// The id of a thread of a process by its name, which the kernel cuts to 15 bytes.
fn thread(pid: u32, name: &str) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let found = tasks
        .map(|task| task.unwrap().path())
        .find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name));
    found.unwrap_or_else(|| panic!("no thread {name}")).file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn systemd_hears_of_readiness_reloads_and_a_collector_that_is_stuck() {
    let net = Net::two_hosts();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = Manager(UnixDatagram::bind(&path).unwrap());
    manager.0.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let before = format!("export NOTIFY_SOCKET={} WATCHDOG_USEC=8000000", path.display());
    let agent = Agent::start_after(&net, "a", "", &before);
    manager.until("READY=1");
    let status = manager.until("STATUS=").concat();
    manager.until("WATCHDOG=1");
    assert!(status.contains("STATUS=watching") || status.contains("flows on 1 interfaces"), "{status}");

    agent.signal("HUP");
    let told = manager.until("RELOADING=1").concat();
    assert!(told.contains("MONOTONIC_USEC="), "{told}");
    manager.until("READY=1");

    // The collector alone is stopped, as if it were stuck.
    let collector = thread(agent.pid(), "netmon-collecto");
    let freezer = net.spawn(
        "a",
        &format!(
            "python3 -c \"import ctypes, time; c = ctypes.CDLL(None); c.ptrace(0x4206, {collector}, 0, 0); \
             c.ptrace(0x4207, {collector}, 0, 0); time.sleep(60)\""
        ),
    );
    let stat = format!("/proc/{}/task/{collector}/stat", agent.pid());
    until("the collector to be stopped", 20, || std::fs::read_to_string(&stat).unwrap().contains(") t "));
    let fed =
        manager.during(Duration::from_secs(7)).iter().filter(|told| told.contains("WATCHDOG=1")).count();
    assert!(fed <= 1, "only for what it had done before: {fed}");
    let log = "the collector makes no progress";
    until(log, 20, || agent.log().contains(log));
    drop(freezer);
    manager.until("WATCHDOG=1");

    let log = agent.stop();
    assert!(log.contains("stopping"));
    manager.until("STOPPING=1");
}
