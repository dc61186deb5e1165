//! What goes wrong around the agent: full disks, a clock that is set, kills at every stage of its start, a second agent.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::agent::Agent;
use common::net::{Net, run, until};
use jiff::Timestamp;
use netmon::kernel::neighbours;

fn ping(net: &Net, count: u32) {
    net.exec("a", &format!("ping -q -c {count} -i 0.05 -W 5 10.1.0.2"));
}

/// Packets that an agent has counted.
fn counted(agent: &Agent<'_>) -> u64 {
    agent.books()["outcomes"]["counted"].as_u64().unwrap()
}

/// Fills the disk that a folder is on.
fn fill(folder: &Path) -> PathBuf {
    let file = folder.join("fill");
    // It fails when the disk is full.
    let _ = Command::new("dd")
        .args(["if=/dev/zero", "bs=1k", "status=none"])
        .arg(format!("of={}", file.display()))
        .output();
    file
}

#[test]
fn lines_that_a_full_disk_does_not_take_are_counted_and_told_of_when_it_takes_lines_again() {
    for format in ["text", "json"] {
        let net = Net::two_hosts();
        let config = format!("log: {{ format: {format} }}\nflow: {{ active_interval: 200ms }}");
        // Its own mount: gone with it.
        let agent = Agent::start_after(
            &net,
            "a",
            &config,
            "mount -t tmpfs -o size=256k none /mnt && exec 2>/mnt/log",
        );
        let disk = PathBuf::from(format!("/proc/{}/root/mnt", agent.pid()));
        let lost = || agent.metrics().sum("netmon_log_lines_lost_total", &[]);
        assert_eq!(lost(), 0.0);
        let filler = fill(&disk);
        let length = || std::fs::metadata(disk.join("log")).unwrap().len();
        // The rest of the last page may take some.
        agent.wait("lines that are lost", 20, |agent| {
            agent.signal("HUP");
            ping(&net, 2);
            lost() > 3.0
        });
        let full = length();
        agent.assert_law();
        assert!(
            agent.cli(&["status"])["notes"].to_string().contains("lines of the log could not be written")
        );
        std::fs::remove_file(filler).unwrap();
        agent.wait("lines that are written again", 10, |agent| {
            agent.signal("HUP");
            length() > full
        });
        agent.wait("word of the lines that are missing", 5, |_| {
            std::fs::read_to_string(disk.join("log")).unwrap().contains("lines of the log are missing here")
        });
        let before = lost();
        ping(&net, 2);
        agent.signal("HUP");
        agent.assert_law();
        assert_eq!(lost(), before, "{format}: no more are lost");
        agent.stop();
    }
}

#[test]
fn a_disk_that_takes_no_socket_is_told_of_and_one_that_takes_no_words_changes_no_exit_status() {
    let net = Net::new(&["a"]);
    let netmon = env!("CARGO_BIN_EXE_netmon");
    for (inodes, what) in [(1, "cannot make /mnt/run"), (2, "cannot listen on /mnt/run/s.sock")] {
        let line = format!(
            "mount -t tmpfs -o nr_inodes={inodes} none /mnt && NETMON_API_SOCKET=/mnt/run/s.sock exec {netmon}"
        );
        let output = net.command("a", &line).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(what) && said.contains("No space left on device"), "{said}");
    }
    for (line, status) in [
        (format!("{netmon} --check-config >/dev/full"), 1),
        (format!("NETMON_FLOW_MAX_FLOWS=none {netmon} 2>/dev/full"), 2),
        (
            format!(
                "setpriv --reuid 65534 --clear-groups --inh-caps=-all --bounding-set=-all {netmon} 2>/dev/full"
            ),
            3,
        ),
    ] {
        assert_eq!(net.command("a", &line).output().unwrap().status.code(), Some(status), "{line}");
    }
}

#[test]
fn a_bundle_or_a_dump_that_finds_no_room_says_so_and_leaves_no_half_of_it() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "");
    let cli = format!("{} --socket {}", env!("CARGO_BIN_EXE_netmon-cli"), agent.socket().display());
    // Room for the beginning of a bundle.
    let line = format!(
        "mount -t tmpfs -o size=8k none /mnt && {cli} support bundle --output /mnt/b.tar.gz; echo status $?; ls /mnt"
    );
    let output = net.command("a", &line).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "status 1\n", "{said}");
    assert!(
        said.contains("cannot write /mnt/b.tar.gz") && said.contains("No space left on device"),
        "{said}"
    );
    ping(&net, 1);
    for command in ["status", "flows dump", "-o json flows dump"] {
        let output = net.command("a", &format!("{cli} {command} >/dev/full")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        assert!(said.contains("No space left on device"), "{command}: {said}");
    }
    agent.stop();
}

#[test]
fn a_wall_clock_that_is_set_is_followed_and_no_flow_ends_or_lasts_longer_for_it() {
    let net = Net::two_hosts();
    let folder = tempfile::tempdir().unwrap();
    let (shim, step) = (folder.path().join("realtime.so"), folder.path().join("step"));
    run(&format!("cc -shared -fPIC -o {} tests/faults/realtime.c", shim.display()));
    std::fs::write(&step, "0").unwrap();
    let agent = Agent::start_after(
        &net,
        "a",
        "flow: { flow_timeout: 60s, active_interval: 200ms }",
        &format!("export LD_PRELOAD={} STEP_FILE={}", shim.display(), step.display()),
    );
    let begun = Instant::now();
    let _pings = net.spawn("a", "ping -q -i 0.1 10.1.0.2");
    let flow = |agent: &Agent<'_>| {
        let flows = agent.flows(&["--protocol", "icmp"]);
        assert_eq!(flows.len(), 1, "it goes on: {flows:#?}");
        flows[0].clone()
    };
    agent.wait("the flow", 5, |agent| !agent.flows(&["--protocol", "icmp"]).is_empty());
    for seconds in [86_400, -86_400, 0] {
        std::fs::write(&step, seconds.to_string()).unwrap();
        agent.wait("some packets more", 10, |agent| {
            let before = flow(agent)["packets_sent"].as_u64();
            std::thread::sleep(Duration::from_millis(400));
            flow(agent)["packets_sent"].as_u64() > before
        });
        let (flow, now) = (flow(&agent), Timestamp::now());
        let time = |key: &str| flow[key].as_str().unwrap().parse::<Timestamp>().unwrap();
        let ago = |key: &str| now.as_second() + seconds - time(key).as_second();
        let passed = begun.elapsed().as_secs() as i64;
        assert!((-1..=passed + 1).contains(&ago("start_time")), "{seconds}: {flow:#}");
        assert!((-1..=passed + 1).contains(&ago("end_time")), "{seconds}: {flow:#}");
        let lasted = flow["duration_us"].as_i64().unwrap();
        assert!(lasted <= begun.elapsed().as_micros() as i64, "{seconds}: {flow:#}");
        let between = time("end_time").as_microsecond() - time("start_time").as_microsecond();
        assert!(between.abs_diff(lasted) <= 1, "{seconds}: one clock for both ends: {flow:#}");
        let uptime = agent.cli(&["status"])["uptime_seconds"].as_i64().unwrap();
        assert!((0..=passed + 2).contains(&uptime), "{seconds}: up for {uptime} s after {passed} s");
        assert_eq!(agent.metrics().sum("netmon_flows_total", &[]), 0.0, "{seconds}: no flow has ended");
        // Questions are asked in the time that users read.
        assert_eq!(agent.flows(&["--protocol", "icmp", "--since", "1h"]).len(), 1, "{seconds}");
    }
    agent.assert_law();
    agent.stop();
}

/// Programs of ours on the hooks of interfaces of `a`.
fn on_hooks(net: &Net, interfaces: &[String]) -> usize {
    let indices = |name: &String| -> u32 {
        net.exec("a", &format!("cat /sys/class/net/{name}/ifindex")).trim().parse().unwrap()
    };
    let indices: Vec<u32> = interfaces.iter().map(indices).collect();
    count_on(net, &indices)
}

fn count_on(net: &Net, indices: &[u32]) -> usize {
    net.inside("a", || {
        let ours = |index: &u32| neighbours::list(*index).unwrap().iter().filter(|one| one.is_ours()).count();
        indices.iter().map(ours).sum()
    })
}

#[test]
fn killed_at_any_stage_of_its_start_it_leaves_nothing_that_hinders_the_next() {
    for attach in ["tcx", "clsact"] {
        let net = Net::two_hosts();
        // Enough interfaces for a kill amid their attaching.
        for n in 0..10 {
            net.veth(("a", &format!("d{n}"), ""), ("b", &format!("e{n}"), ""));
        }
        let names: Vec<String> = (0..10).map(|n| format!("d{n}")).chain(["va".into()]).collect();
        let indices: Vec<u32> = names
            .iter()
            .map(|name| net.exec("a", &format!("cat /sys/class/net/{name}/ifindex")).trim().parse().unwrap())
            .collect();
        let config = format!("capture: {{ attach: {attach} }}\nflow: {{ active_interval: 200ms }}");
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let socket = folder.path().join("netmon.sock");
        let launch = || Agent::launch_in(&net, "a", &folder, &config, "true");
        // How long a start takes here, now.
        let begun = Instant::now();
        launch().ready().stop();
        let whole = begun.elapsed();
        let mut stages = [0; 4];
        let mut kill = |agent: Agent<'_>| {
            agent.signal("STOP");
            let hooked = count_on(&net, &indices);
            let all = 2 * indices.len();
            stages[match (socket.exists(), hooked) {
                (false, _) => 0,
                (true, 0) => 1,
                (true, some) if some < all => 2,
                _ => 3,
            }] += 1;
            agent.kill();
            let left = if attach == "tcx" { 0 } else { hooked };
            until("links that go with the process", 10, || count_on(&net, &indices) == left);
            let agent = launch().ready();
            assert_eq!(count_on(&net, &indices), all, "one program a hook, none of the killed one's");
            ping(&net, 3);
            agent.assert_law();
            assert_eq!(counted(&agent), 6);
            agent.stop();
            until("hooks as they were", 10, || count_on(&net, &indices) == 0);
            assert!(!socket.exists());
        };
        kill(launch());
        let agent = launch();
        until("the socket", 10, || socket.exists());
        kill(agent);
        let agent = launch();
        until("a first program on a hook", 10, || count_on(&net, &indices) > 0);
        kill(agent);
        kill(launch().ready());
        for step in 1..5 {
            let agent = launch();
            std::thread::sleep(whole * step / 5);
            kill(agent);
        }
        println!(
            "{attach}: a start takes {whole:?}; killed without socket, with it, half attached, attached: {stages:?}"
        );
        assert!(stages[0] > 0 && stages[3] > 0 && stages[1] + stages[2] > 0, "{attach}: {stages:?}");
        let pinned = run("find /sys/fs/bpf -iname '*netmon*' -o -name 'nm_*' 2>/dev/null || true");
        assert_eq!(pinned, "", "nothing of ours is pinned");
    }
}

#[test]
fn two_agents_by_tcx_count_each_for_itself_and_the_death_of_one_does_not_touch_the_other() {
    let net = Net::two_hosts();
    let first = Agent::start(&net, "a", "flow: { active_interval: 200ms }");
    // Sharing a port is refused, with the way out.
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let line =
        format!("NETMON_API_SOCKET={} {}", folder.path().join("s").display(), env!("CARGO_BIN_EXE_netmon"));
    let refused = net.command("a", &line).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("127.0.0.1:9090") && said.contains("export.prometheus.port"), "{said}");
    until("the hooks of the first alone", 5, || on_hooks(&net, &["va".into()]) == 2);

    let config = "export: { prometheus: { port: 9191 } }\nflow: { active_interval: 200ms }";
    let second = Agent::launch_in(&net, "a", &folder, config, "true").at_port(9191).ready();
    assert_eq!(on_hooks(&net, &["va".into()]), 4);
    ping(&net, 5);
    for agent in [&first, &second] {
        agent.assert_law();
        assert_eq!(counted(agent), 10);
    }
    second.kill();
    until("the hooks of the first alone", 5, || on_hooks(&net, &["va".into()]) == 2);
    ping(&net, 5);
    first.assert_law();
    assert_eq!(counted(&first), 20);
    first.stop();
}

#[test]
fn a_second_agent_by_clsact_is_told_whose_the_filters_are_and_takes_over_when_that_one_is_gone() {
    let net = Net::two_hosts();
    let first = Agent::start(&net, "a", "capture: { attach: clsact }\nflow: { active_interval: 200ms }");
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let config = "capture: { attach: clsact }\nexport: { prometheus: { port: 9191 } }\nflow: { active_interval: 200ms }";
    let second = Agent::launch_in(&net, "a", &folder, config, "true").at_port(9191).ready();
    let whose = format!("another netmon (process {}) has its clsact filters", first.pid());
    assert!(second.cli(&["status"])["interfaces"][0]["error"].as_str().unwrap().contains(&whose));
    assert!(second.log().contains(&whose), "{}", second.log());
    // One that uses TCX leaves those filters alone as well.
    let third = Arc::new(tempfile::tempdir().unwrap());
    let config =
        "capture: { attach: tcx }\nexport: { prometheus: { port: 9292 } }\nflow: { active_interval: 200ms }";
    let third = Agent::launch_in(&net, "a", &third, config, "true").at_port(9292).ready();
    ping(&net, 5);
    assert_eq!((counted(&first), counted(&second), counted(&third)), (10, 0, 10));
    third.stop();
    ping(&net, 5);
    first.assert_law();
    assert_eq!(counted(&first), 20);
    first.kill();
    second.wait("its turn", 30, |second| second.cli(&["status"])["interfaces"][0]["error"].is_null());
    ping(&net, 5);
    second.assert_law();
    assert_eq!(counted(&second), 10);
    second.stop();
}
