//! What the agent holds once it runs, and what it says when it may not.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::process::Command;

use common::agent::Agent;
use common::net::Net;

/// CAP_BPF and CAP_NET_ADMIN.
const KEPT: u64 = 1 << 39 | 1 << 12;

/// A field of each thread of a process, as a number.
fn of_threads(pid: u32, name: &str, radix: u32) -> Vec<u64> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let read = |task: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.unwrap().path().join("status")).ok()?;
        let value = text.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned();
        Some(u64::from_str_radix(&value, radix).unwrap())
    };
    tasks.filter_map(read).collect()
}

#[test]
fn every_thread_gives_up_what_is_not_needed_and_new_interfaces_are_attached_all_the_same() {
    let net = Net::two_hosts();
    for capture in ["", "capture: { attach: clsact, transport: perf }"] {
        let agent = Agent::start(&net, "a", capture);
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            let masks = of_threads(agent.pid(), set, 16);
            assert!(masks.len() > 3 && masks.iter().all(|mask| *mask == KEPT), "{set} {masks:x?}");
        }
        for set in ["CapInh:", "CapAmb:"] {
            assert!(of_threads(agent.pid(), set, 16).iter().all(|mask| *mask == 0), "{set}");
        }
        assert!(of_threads(agent.pid(), "NoNewPrivs:", 10).iter().all(|set| *set == 1));
        let privileges = agent.cli(&["status"])["privileges"].clone();
        let held: Vec<&str> = privileges["held"]
            .as_array()
            .unwrap()
            .iter()
            .map(|h| h["capability"].as_str().unwrap())
            .collect();
        assert_eq!(held, ["CAP_NET_ADMIN", "CAP_BPF"], "{privileges:#}");

        net.veth(("a", "wa", "10.2.0.1/24"), ("b", "wb", "10.2.0.2/24"));
        agent.wait("the new interface", 10, |agent| {
            let interfaces = agent.cli(&["status"])["interfaces"].clone();
            let new = interfaces.as_array().unwrap().iter().find(|one| one["name"] == "wa").cloned();
            new.is_some_and(|new| new["attach"] != "failed")
        });
        net.exec("a", "ping -q -c 3 -i 0.05 10.2.0.2");
        agent.assert_law();
        net.exec("a", "ip link del wa");
        agent.stop();
    }
}

/// `netmon` without arguments, as nobody, with these capabilities; exit status and message.
fn start_with(capabilities: &str) -> (i32, String) {
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"])
        .args([
            "--inh-caps",
            &format!("-all{capabilities}"),
            "--ambient-caps",
            &format!("-all{capabilities}"),
        ])
        .arg(env!("CARGO_BIN_EXE_netmon"))
        .env("NETMON_API_SOCKET", "/nowhere/netmon.sock")
        .output()
        .unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn without_rights_it_says_which_are_missing_and_how_to_grant_them() {
    let (code, message) = start_with("");
    assert_eq!(code, 3, "{message}");
    for part in [
        "missing CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON",
        "sudo netmon",
        "setcap ",
        "AmbientCapabilities=",
        "docker run --cap-add BPF",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
    let (code, message) = start_with(",+bpf,+net_admin");
    assert_eq!(code, 3, "{message}");
    assert!(message.contains("missing CAP_PERFMON. "), "{message}");
}

#[test]
fn the_control_socket_is_for_the_group_that_is_named() {
    use std::os::unix::fs::MetadataExt;
    let net = Net::two_hosts();
    // The socket's own line follows in the same section.
    let agent = Agent::start_after(&net, "a", "", "export NETMON_API_GROUP=daemon");
    let socket = std::fs::metadata(agent.socket()).unwrap();
    assert_eq!((socket.mode() & 0o777, socket.gid()), (0o660, 1));
    agent.stop();
}
