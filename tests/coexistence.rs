//! Beside others on the same hooks: nothing foreign is touched, our own leftovers are found.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::agent::Agent;
use common::net::Net;

const CLSACT: &str = "capture: { attach: clsact }";

fn filters(net: &Net) -> String {
    net.exec("a", "tc filter show dev va ingress; tc filter show dev va egress")
}

/// Our filters on ingress and on egress.
fn ours(net: &Net) -> (usize, usize) {
    let count = |name: &str| {
        filters(net).lines().filter(|line| line.contains("handle 0x4e4d") && line.contains(name)).count()
    };
    (count("nm_ingress"), count("nm_egress"))
}

/// Puts a foreign program, `pass` or `drop`, on a hook.
fn add_foreign(net: &Net, hook: &str, priority: u32, section: &str) {
    common::foreign::add_filter(net, ("a", "va"), hook, priority, section);
}

fn ping(net: &Net) {
    net.exec("a", "ping -q -c 2 -i 0.05 -W 2 10.1.0.2");
}

#[test]
fn a_killed_run_is_cleared_up_and_a_foreign_filter_stays() {
    let net = Net::two_hosts();
    add_foreign(&net, "egress", 7, "pass");
    let foreign = |net: &Net| filters(net).contains("pref 7");
    let agent = Agent::start(&net, "a", CLSACT);
    assert_eq!(ours(&net), (1, 1));
    ping(&net);
    agent.assert_law();
    agent.kill();
    assert_eq!(ours(&net), (1, 1), "clsact filters outlive a killed process");
    assert!(foreign(&net));

    // Started again, by the other method: the leftovers would count into maps that nobody reads.
    let agent = Agent::start(&net, "a", "capture: { attach: auto }");
    assert_eq!(ours(&net), (0, 0), "the leftovers are gone: {}", filters(&net));
    assert!(foreign(&net) && agent.log().contains("killed run had left"), "{}", agent.log());
    agent.kill();

    let agent = Agent::start(&net, "a", CLSACT);
    agent.kill();
    let agent = Agent::start(&net, "a", CLSACT);
    assert_eq!(ours(&net), (1, 1), "one filter a hook: {}", filters(&net));
    ping(&net);
    agent.assert_law();
    assert_eq!(agent.books()["outcomes"]["counted"], 4);
    agent.stop();
    assert_eq!(ours(&net), (0, 0));
    assert!(foreign(&net), "the foreign filter and its qdisc are still there");
}

#[test]
fn a_qdisc_that_we_made_goes_with_us_and_one_with_guests_stays() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", CLSACT);
    agent.stop();
    assert!(!net.exec("a", "tc qdisc show dev va").contains("clsact"), "ours alone: gone");
    let agent = Agent::start(&net, "a", CLSACT);
    add_foreign(&net, "ingress", 9, "pass");
    agent.stop();
    assert!(filters(&net).contains("pref 9"), "somebody has moved in: it stays");
}

#[test]
fn a_foreign_drop_behind_us_hides_nothing_and_still_drops() {
    for attach in ["tcx", "clsact"] {
        let net = Net::two_hosts();
        add_foreign(&net, "egress", 7, "drop");
        let agent = Agent::start(&net, "a", &format!("capture: {{ attach: {attach} }}"));
        // The sender is told of the drop (ENOBUFS).
        net.exec("a", "for i in 1 2 3; do python3 -c \"import socket; socket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto(b'u',('10.1.0.2',9))\" 2>/dev/null || true; done");
        assert_eq!(net.counters("b", "vb").0, 0, "{attach}: the foreign drop works");
        agent.assert_law();
        let flows = agent.flows(&["--protocol", "udp"]);
        assert_eq!(flows.len(), 3, "{attach}: and is seen through");
        agent.stop();
    }
}

#[test]
fn two_agents_do_not_share_a_socket() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "");
    let second = net
        .command(
            "a",
            &format!("NETMON_API_SOCKET={} {}", agent.socket().display(), env!("CARGO_BIN_EXE_netmon")),
        )
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another netmon answers on"));
    agent.stop();
}
