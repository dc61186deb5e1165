//! Beside others on the same hooks: nothing foreign is touched, our own leftovers are found.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::agent::Agent;
use common::net::Net;

const CLSACT: &str = "capture: { attach: clsact }";

/// a 10.1.0.1 ──veth── 10.1.0.2 b
fn two_hosts() -> Net {
    let net = Net::new(&["a", "b"]);
    net.veth(("a", "va", "10.1.0.1/24"), ("b", "vb", "10.1.0.2/24"));
    net
}

fn filters(net: &Net) -> String {
    net.exec("a", "tc filter show dev va ingress; tc filter show dev va egress")
}

fn ours(net: &Net) -> (usize, usize) {
    let filters = filters(net);
    (filters.matches("nm_ingress").count(), filters.matches("nm_egress").count())
}

fn ping(net: &Net) {
    net.exec("a", "ping -q -c 2 -i 0.05 -W 2 10.1.0.2");
}

#[test]
fn a_killed_run_is_cleared_up_and_a_foreign_filter_stays() {
    let net = two_hosts();
    // A foreign filter that counts echo requests on their way out, and lets them pass.
    net.exec("a", "tc qdisc add dev va clsact && tc filter add dev va egress prio 7 protocol ip u32 match ip protocol 1 0xff action ok");
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
    let net = two_hosts();
    let agent = Agent::start(&net, "a", CLSACT);
    agent.stop();
    assert!(!net.exec("a", "tc qdisc show dev va").contains("clsact"), "ours alone: gone");
    let agent = Agent::start(&net, "a", CLSACT);
    net.exec("a", "tc filter add dev va ingress prio 9 protocol ip u32 match u32 0 0 action ok");
    agent.stop();
    assert!(filters(&net).contains("pref 9"), "somebody has moved in: it stays");
}

#[test]
fn a_foreign_drop_behind_us_hides_nothing_and_still_drops() {
    for attach in ["tcx", "clsact"] {
        let net = two_hosts();
        net.exec(
            "a",
            "tc qdisc add dev va clsact && tc filter add dev va egress prio 7 matchall action drop",
        );
        let agent = Agent::start(&net, "a", &format!("capture: {{ attach: {attach} }}"));
        net.exec("a", "ping -q -c 3 -i 0.05 -W 0.2 10.1.0.2 || true");
        assert_eq!(net.counters("b", "vb").0, 0, "{attach}: the foreign drop works");
        agent.assert_law();
        let flows = agent.flows(&["--protocol", "icmp"]);
        assert_eq!(flows[0]["packets_sent"], 3, "{attach}: and is seen through");
        agent.stop();
    }
}

#[test]
fn two_agents_do_not_share_a_socket() {
    let net = two_hosts();
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

#[test]
fn without_rights_it_says_which_and_exits_with_3() {
    let net = Net::new(&["a"]);
    let output = net
        .command(
            "a",
            &format!(
                "setpriv --reuid 65534 --clear-groups --inh-caps=-all --bounding-set=-all {}",
                env!("CARGO_BIN_EXE_netmon")
            ),
        )
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{message}");
    assert!(
        message.contains("CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON") && message.contains("sudo netmon"),
        "{message}"
    );
}
