//! When there is too much: the table is full, the ring is full, flows are sampled, the table has to grow. The
//! conservation law holds in each.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::agent::Agent;
use common::net::Net;

/// a 10.1.0.1 ──veth── 10.1.0.2 b
fn two_hosts() -> Net {
    let net = Net::two_hosts();
    // A port that nobody listens on would answer.
    net.exec("b", "ip route add blackhole 10.1.0.1 && ip addr flush dev lo");
    net
}

/// One datagram each to `ports` ports from `sources` ports, `rounds` times over.
fn spray(net: &Net, sources: u32, ports: u32, rounds: u32) {
    spray_from(net, 0, sources, ports, rounds);
}

/// The same from the source port 20000 + `first` on.
fn spray_from(net: &Net, first: u32, sources: u32, ports: u32, rounds: u32) {
    let (first, last) = (20_000 + first, 20_000 + first + sources);
    net.exec(
        "a",
        &format!(
            "python3 -c \"
import socket
ss=[]
for i in range({first},{last}):
    s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('10.1.0.1',i)); ss.append(s)
for r in range({rounds}):
    for s in ss:
        for p in range({ports}): s.sendto(b'u',('10.1.0.2',1000+p))\""
        ),
    );
}

fn outcome(agent: &Agent<'_>, name: &str) -> u64 {
    agent.books()["outcomes"][name].as_u64().unwrap()
}

#[test]
fn a_full_table_counts_by_protocol_and_says_so() {
    let net = two_hosts();
    let before = net.counters("a", "va");
    let agent = Agent::start(&net, "a", "flow: { max_flows: 100, active_interval: 200ms }");
    spray(&net, 10, 200, 2);
    agent.assert_law();
    let sent = net.counters("a", "va").0 - before.0;
    let (counted, overflow) = (outcome(&agent, "counted"), outcome(&agent, "overflow"));
    assert_eq!(counted + overflow, sent);
    assert!(counted > 150 && overflow > 3000, "{counted} counted, {overflow} overflow");
    let metrics = agent.metrics();
    assert_eq!(metrics.sum("netmon_flow_table_overflows_total", &[]) as u64, overflow);
    assert!(agent.cli(&["status"])["notes"].to_string().contains("found no room in the flow table"));
    let log = agent.stop();
    assert!(log.contains("no room in the flow table") && log.contains("flow.max_flows"), "{log}");
}

#[test]
fn a_full_ring_loses_events_but_no_packet() {
    for transport in ["ringbuf", "perf"] {
        let net = two_hosts();
        let agent = Agent::start(
            &net,
            "a",
            &format!(
                "capture: {{ transport: {transport} }}\nflow: {{ active_interval: 200ms }}\n\
                 resources: {{ maps: {{ event_buffer_size: 100 }} }}"
            ),
        );
        // The reader does not come while it is stopped: whatever the ring can't hold is lost.
        agent.signal("STOP");
        spray(&net, 40, 500, 2);
        agent.signal("CONT");
        agent.assert_law();
        let metrics = agent.metrics();
        let lost = metrics.sum("netmon_ebpf_events_dropped_total", &["reason=\"buffer_full\""]);
        assert!(lost > 0.0, "{transport}: nothing was lost");
        assert_eq!(
            metrics.sum("netmon_flows_opened_total", &["protocol=\"udp\""]) as u64
                + outcome(&agent, "overflow") / 2,
            20_000
        );
        assert_eq!(agent.cli(&["status"])["transport"], transport);
        // With room again, news come as before: an opened flow is told long before a sweep would find it.
        let opened =
            |agent: &Agent<'_>| agent.metrics().sum("netmon_flows_opened_total", &["protocol=\"icmp\""]);
        net.exec("b", "ip route del blackhole 10.1.0.1");
        for flows in [1.0, 2.0] {
            net.exec("a", "ping -q -c 1 -W 5 10.1.0.2");
            agent.wait("the flow that is opened", 5, |agent| opened(agent) == flows);
            // Each is counted once, though perf buffers tell of what they lost with the next that they take, too.
            let now = agent.metrics().sum("netmon_ebpf_events_dropped_total", &["reason=\"buffer_full\""]);
            assert_eq!(now, lost, "{transport}");
        }
        agent.assert_law();
        agent.stop();
    }
}

#[test]
fn sampling_keeps_whole_flows() {
    let net = two_hosts();
    let agent = Agent::start(&net, "a", "capture: { sampling_rate: 0.1 }\nflow: { active_interval: 200ms }");
    spray(&net, 10, 200, 3);
    agent.assert_law();
    let (counted, left_out) = (outcome(&agent, "counted"), outcome(&agent, "sampled_out"));
    assert_eq!(counted + left_out, 6000);
    // 200 flows expected; five standard deviations are 67.
    assert_eq!(counted % 3, 0, "a kept flow is whole");
    assert!((133..=267).contains(&(counted / 3)), "{} flows kept of 2000", counted / 3);
    let flows = agent.flows(&[]);
    assert!(flows.iter().all(|flow| flow["packets_sent"] == 3 && flow["sampling_rate"] == 0.1));
    let metrics = agent.metrics();
    assert_eq!(metrics.sum("netmon_sampling_rate", &[]), 0.1);
    for (name, kept) in [("netmon_packets_total", counted), ("netmon_flows_opened_total", counted / 3)] {
        assert_eq!(metrics.sum(name, &[]).round() as u64, kept * 10, "{name} is scaled");
    }
    agent.stop();
}

#[test]
fn the_table_grows_with_the_flows_and_shrinks_again() {
    let net = two_hosts();
    let agent = Agent::start(&net, "a", "flow: { active_interval: 200ms, flow_timeout: 6s }");
    let slots = |agent: &Agent<'_>| agent.metrics().sum("netmon_flow_table_slots", &[]);
    let small = slots(&agent);
    // All the while connections from one and the same port are refused: each SYN kills the slot of the one before.
    net.exec("a", "ip addr add 10.1.0.4/24 dev va");
    let reuse = net.spawn(
        "a",
        "python3 -c \"
import socket,time
for i in range(3000):
    time.sleep(0.0005)
    s=socket.socket(); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1); s.bind(('10.1.0.4',40000))
    s.connect_ex(('10.1.0.2',81)); s.close()\"",
    );
    // How fast it grows is a matter of speed, so in bursts with a pause after each, and a few may find no room all the same.
    let known = |agent: &Agent<'_>| {
        let opened = agent.metrics().sum("netmon_flows_opened_total", &["protocol=\"udp\""]) as u64;
        opened + outcome(agent, "overflow").div_ceil(2)
    };
    for (first, sources) in [(0, 60), (60, 120), (180, 120)] {
        spray_from(&net, first, sources, 200, 2);
        let all = u64::from((first + sources) * 200);
        agent.wait("the flows of a burst to be known", 20, |agent| known(agent) >= all);
    }
    reuse.wait();
    assert!(slots(&agent) > small);
    agent.assert_law();
    let overflow = outcome(&agent, "overflow");
    let udp = agent.metrics().sum("netmon_packets_total", &["protocol=\"udp\""]) as u64;
    assert!(udp + overflow >= 120_000 && overflow < 12_000, "{udp} counted, {overflow} not\n{}", agent.log());
    agent.wait("all flows to end, and the memory to be given back", 40, |agent| {
        agent.metrics().sum("netmon_flows_active", &[]) == 0.0 && slots(agent) <= small
    });
    agent.assert_law();
    let metrics = agent.metrics();
    let ended = metrics.sum("netmon_flows_total", &["protocol=\"udp\"", "status=\"ok\""]);
    assert_eq!(ended, metrics.sum("netmon_flows_opened_total", &["protocol=\"udp\""]), "each flow ends once");
    assert!((54_000.0..=60_000.0).contains(&ended), "{ended} flows");
    // Faster than slots are freed, several connections share one: how many is a matter of speed, but two buckets hold 16.
    let refused = metrics.sum("netmon_flows_total", &["protocol=\"tcp\"", "reason=\"refused\""]);
    assert!((17.0..=3000.0).contains(&refused), "{refused} refused");
    agent.stop();
}
