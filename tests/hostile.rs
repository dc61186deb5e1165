//! A peer that means harm, beside others who talk: it forges ICMP errors and segments of their connections, sends fragments that
//! contradict each other, floods from sources that are not its own, connects as fast as it can. What the agent tells of the others stays
//! true, the books are right, it holds no more than before, and its alerts are few.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "hostile/forge.rs"]
mod forge;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::agent::Agent;
use common::net::Net;
use common::random::Random;
use common::tcp::{Connection, Talk};
use forge::{ACK, FIN, Forger, RST, SYN, Tap, fragment, icmp_error, payload, tcp, udp};
use serde_json::{Value, json};

const QUICK: &str = "flow: { active_interval: 200ms, connect_timeout: 1s }\nlog: { format: json }";

const TALK: Talk = Talk { rounds: 20, request: 100, response: 3000, think: Duration::ZERO };

/// Addresses of b, and one that the router swallows.
const TARGETS: [(&str, &str); 2] = [("10.2.0.2", "10.4.0.4"), ("fd02::2", "fd04::4")];

/// One test at a time: what a flood leaves no room for in the queues of this machine's CPUs, others would miss.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// a 10.1.0.1 ──veth── r ──veth── 10.2.0.2 b; and h 10.3.0.3 ──veth── r, whom it lets send from any address.
fn crossing() -> Net {
    let net = Net::new(&["a", "r", "b", "h"]);
    for (end, n) in [("a", 1), ("b", 2), ("h", 3)] {
        let (here, there) = (format!("10.{n}.0.{n}/24"), format!("10.{n}.0.254/24"));
        net.veth((end, &format!("v{end}"), &here), ("r", &format!("r{end}"), &there));
        net.exec(end, &format!("ip route add default via 10.{n}.0.254"));
    }
    net.exec(
        "r",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.icmp_ratelimit=0 net.ipv4.conf.all.rp_filter=0 \
         net.ipv4.conf.rh.rp_filter=0 && ip route add blackhole default",
    );
    net
}

/// The same with fd01::1, fd02::2 and fd03::3.
fn crossing_by_both_families() -> Net {
    let net = crossing();
    for (end, n) in [("a", 1), ("b", 2), ("h", 3)] {
        net.address(end, &format!("v{end}"), &format!("fd0{n}::{n}/64"));
        net.address("r", &format!("r{end}"), &format!("fd0{n}::254/64"));
        net.exec(end, &format!("ip -6 route add default via fd0{n}::254"));
    }
    net.exec(
        "r",
        "sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.icmp.ratelimit=0 && ip -6 route add blackhole default",
    );
    // A router solicits no neighbours before its own addresses are known to be nobody else's.
    for address in ["fd01::1", "fd03::3"] {
        net.exec("b", &format!("ping -6 -q -i 0.2 -c 1 -w 10 {address}"));
    }
    net
}

/// The one flow of a TCP port, live or ended, once it has been told.
fn flow_of(agent: &Agent<'_>, port: u16) -> Value {
    let flows = agent.flows(&["--ended", "--protocol", "tcp", "--port", &port.to_string()]);
    assert!(flows.len() < 2, "{flows:#?}");
    flows.first().cloned().unwrap_or_default()
}

/// Waits until it has come to this end.
fn wait_for_end(agent: &Agent<'_>, port: u16, ending: &str) -> Value {
    agent.wait(&format!("the end of {port}: {ending}"), 10, |agent| {
        flow_of(agent, port)["tcp"]["ending"] == ending
    });
    flow_of(agent, port)
}

fn ends(connection: &Connection) -> (SocketAddr, SocketAddr) {
    (connection.client.local_addr().unwrap(), connection.client.peer_addr().unwrap())
}

fn alerts(agent: &Agent<'_>) -> Vec<Value> {
    agent.cli(&["alerts"]).as_array().unwrap().clone()
}

/// ICMP errors of each kind: unreachable net, host, port, narrower path, prohibited, hop limit, parameter.
fn errors(target: &str) -> (IpAddr, &'static [(u8, u8)], (u8, u8)) {
    if target.contains(':') {
        ("2001:db8::9".parse().unwrap(), &[(1, 0), (1, 1), (1, 3), (1, 4), (2, 0), (3, 0), (4, 0)], (1, 1))
    } else {
        (
            "198.51.100.9".parse().unwrap(),
            &[(3, 0), (3, 1), (3, 3), (3, 4), (3, 13), (11, 0), (12, 0)],
            (3, 13),
        )
    }
}

#[test]
fn icmp_errors_that_miss_the_numbers_of_a_connection_are_refused_and_true_ones_believed() {
    let _turn = turn();
    let net = crossing_by_both_families();
    // An attempt must be there until all that is forged of it has come.
    let patient = QUICK.replace("connect_timeout: 1s", "connect_timeout: 3s");
    let (agent, forger) = (Agent::start(&net, "a", &patient), Forger::new(&net));
    let refused = |agent: &Agent<'_>| agent.metrics().sum("netmon_icmp_errors_refused_total", &[]);
    for (target, swallowed) in TARGETS {
        let (router, errors, prohibited) = errors(target);
        let forge = |(from, to), seqs: &[u32]| {
            // A true one that comes late has been refused, too.
            let (before, forged) = (refused(&agent), (seqs.len() * errors.len()) as f64);
            for (seq, error) in seqs.iter().flat_map(|seq| errors.iter().map(move |error| (seq, error))) {
                forger.send(&icmp_error(router, *error, 1280, &tcp((from, to), ACK, *seq, 1, b"forged")));
            }
            agent.wait("forged errors to be refused", 5, |agent| refused(agent) == before + forged);
        };

        // Of a connection that stands, and has nothing on its way: what is acknowledged, and what is still to be sent.
        let tap = Tap::new(&net, "a", "va");
        let mut connection = Connection::open(&net, "a", ("b", target));
        connection.talk(TALK);
        connection.info();
        let [port, _] = connection.ports();
        let [next, _] = tap.numbers(connection.ports());
        forge(
            ends(&connection),
            &[0, 1, 60_000, 1 << 20, 1 << 31, u32::MAX, 7 << 29].map(|off| next.wrapping_add(off)),
        );
        connection.talk(TALK);
        let flow = flow_of(&agent, port);
        assert_eq!((&flow["state"], &flow["status"]), (&json!("established"), &json!("active")), "{flow:#}");
        assert_eq!(flow["icmp_errors"], json!([]), "{flow:#}");

        // The router itself forbids it for a moment.
        let family = if target.contains(':') { "-6" } else { "-4" };
        net.exec("r", &format!("ip {family} route add prohibit {target}"));
        connection.client.write_all(b"late").unwrap();
        agent.wait("what the router says", 10, |agent| {
            flow_of(agent, port)["icmp_errors"] == json!(["prohibited"])
        });
        net.exec("r", &format!("ip {family} route del prohibit {target}"));
        connection.server.read_exact(&mut [0; 4]).unwrap();
        drop(connection);
        let flow = wait_for_end(&agent, port, "closed");
        assert_eq!((&flow["status"], &flow["reason"]), (&json!("ok"), &Value::Null), "{flow:#}");

        // Of an attempt that nobody answers.
        for (off, reason) in [(None, "timeout"), (Some(0), "prohibited")] {
            let line =
                format!("python3 -c \"import socket; socket.create_connection(('{swallowed}',80),4)\"");
            let client = net.spawn("a", &line);
            let (port, next) = tap.wait(80);
            let quoted = (
                SocketAddr::new(flow["src"]["ip"].as_str().unwrap().parse().unwrap(), port),
                SocketAddr::new(swallowed.parse().unwrap(), 80),
            );
            if off.is_none() {
                forge(quoted, &[0, 1, 1 << 31, 7 << 29].map(|off| next.wrapping_add(off)));
            } else {
                let syn = tcp(quoted, SYN, next.wrapping_sub(1), 0, b"");
                forger.send(&icmp_error(router, prohibited, 0, &syn));
            }
            agent.wait("the attempt to have failed", 10, |agent| flow_of(agent, port)["status"] == "failed");
            assert_eq!(flow_of(&agent, port)["reason"], reason);
            drop(client);
        }
    }
    assert_eq!(alerts(&agent), Vec::<Value>::new());
    agent.assert_law();
    agent.stop();
}

/// What a packet is to count as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum As {
    /// Of the flow from this port.
    Port(u16),
    /// Of the flow without ports of this protocol.
    Bare(u8),
    Malformed,
}

#[test]
fn fragments_that_contradict_each_other_are_counted_once_each_and_name_no_port_that_is_not_theirs() {
    let _turn = turn();
    const AT: u16 = 7000;
    let net = crossing_by_both_families();
    let (agent, forger) = (Agent::start(&net, "b", QUICK), Forger::new(&net));
    let (mut malformed, mut unmatched) = (0, 0);
    for (h, b) in [("10.3.0.3", "10.2.0.2"), ("fd03::3", "fd02::2")] {
        let (h, b): (IpAddr, IpAddr) = (h.parse().unwrap(), b.parse().unwrap());
        let server = net.inside("b", || UdpSocket::bind((b, AT)).unwrap());
        server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        // 8 bytes of header and 40 more, of which pieces are taken.
        let whole = |port: u16| udp(((h, port).into(), (b, AT).into()), &[port as u8; 40]);
        let piece = |port: u16, id: u32, part: std::ops::Range<usize>| {
            let (at, more) = ((part.start / 8) as u16, part.end < 48);
            fragment((h, b), 17, id, (at, more), &payload(&whole(port))[part])
        };
        let other = |id, at, bytes: &[u8]| fragment((h, b), 17, id, at, bytes);
        let syn = tcp(((h, 9).into(), (b, 80).into()), SYN, 1, 0, &[0; 20]);
        let segment =
            |at, part: std::ops::Range<usize>| fragment((h, b), 6, 9, (at, true), &payload(&syn)[part]);
        let mut sent = vec![
            // In order.
            (As::Port(101), piece(101, 1, 0..16)),
            (As::Port(101), piece(101, 1, 16..32)),
            (As::Port(101), piece(101, 1, 32..48)),
            // The last one first.
            (As::Bare(17), piece(102, 2, 32..48)),
            (As::Port(102), piece(102, 2, 0..16)),
            (As::Port(102), piece(102, 2, 16..32)),
            // Each twice.
            (As::Port(103), piece(103, 3, 0..24)),
            (As::Port(103), piece(103, 3, 0..24)),
            (As::Port(103), piece(103, 3, 24..48)),
            (As::Port(103), piece(103, 3, 24..48)),
            // What overlaps says that it is from another port (RFC 1858 4, RFC 5722).
            (As::Port(104), piece(104, 4, 0..16)),
            (As::Port(104), other(4, (1, true), &payload(&whole(999))[..16])),
            (As::Port(104), piece(104, 4, 16..32)),
            (As::Port(104), piece(104, 4, 32..48)),
            // Two say that they are first: what follows is the newer one's, as of an identification that is used anew.
            (As::Port(105), piece(105, 5, 0..16)),
            (As::Port(106), piece(106, 5, 0..16)),
            (As::Port(106), piece(105, 5, 16..32)),
            // No more than the header in the first; none of it; half of it (RFC 1858 3).
            (As::Port(107), piece(107, 6, 0..8)),
            (As::Port(107), piece(107, 6, 8..48)),
            (As::Malformed, other(7, (0, true), &[])),
            (As::Bare(17), piece(108, 7, 8..48)),
            (As::Malformed, segment(0, 0..8)),
            (As::Bare(6), segment(1, 8..40)),
            // Ends beyond 64 KiB.
            (As::Bare(17), other(8, (8190, false), &[8; 40])),
            // Alone.
            (As::Port(109), piece(109, 10, 0..48)),
        ];
        if h.is_ipv6() {
            // Nothing but destination options in the first (RFC 7112).
            let options = [17, 0, 1, 4, 0, 0, 0, 0];
            sent.push((As::Malformed, fragment((h, b), 60, 11, (0, true), &options)));
            sent.push((As::Bare(60), fragment((h, b), 60, 11, (1, false), payload(&whole(110)))));
        }
        let mut expected: BTreeMap<As, (u64, u64)> = BTreeMap::new();
        for (what, packet) in &sent {
            forger.send(packet);
            let count = expected.entry(*what).or_default();
            *count = (count.0 + 1, count.1 + 14 + packet.len() as u64);
        }
        malformed += expected.remove(&As::Malformed).unwrap().0;
        unmatched += expected[&As::Bare(17)].0 + expected[&As::Bare(6)].0;
        // The stack behind takes what is whole, and nothing that overlaps.
        let mut heard = Vec::new();
        while let Ok((48.., from) | (40, from)) = server.recv_from(&mut [0; 100]) {
            heard.push(from.port());
        }
        for port in [101, 102, 107, 109] {
            assert!(heard.contains(&port), "{h}, {port}: {heard:?}");
        }
        assert!(!heard.contains(&104) && !heard.contains(&999), "{heard:?}");
        let counted = |agent: &Agent<'_>| -> BTreeMap<As, (u64, u64)> {
            let flows = agent.flows(&["--ended", "--ip", &h.to_string()]);
            let from_h =
                flows.iter().filter(|flow| flow["src"]["ip"] == json!(h) && flow["dst"]["ip"] == json!(b));
            from_h
                .filter(|flow| !flow["protocol"].as_str().unwrap().starts_with("icmp"))
                .map(|flow| {
                    let number = |name: &str| flow[name].as_u64().unwrap();
                    let what = match (flow["protocol"].as_str().unwrap(), flow["src"]["port"].as_u64()) {
                        (_, Some(port)) if port > 0 => As::Port(port as u16),
                        ("udp", _) => As::Bare(17),
                        ("tcp", _) => As::Bare(6),
                        _ => As::Bare(60),
                    };
                    (what, (number("packets_sent"), number("bytes_sent")))
                })
                .collect()
        };
        agent.wait("all fragments", 5, |agent| {
            counted(agent).values().map(|count| count.0).sum::<u64>()
                == expected.values().map(|count| count.0).sum::<u64>()
        });
        assert_eq!(counted(&agent), expected);
    }
    let metrics = agent.metrics();
    let sum = |name: &str, parts: &[&str]| metrics.sum(name, parts) as u64;
    assert_eq!(sum("netmon_ebpf_packets_total", &["outcome=\"malformed\""]), malformed);
    assert_eq!(sum("netmon_ebpf_packet_kinds_total", &["kind=\"short_transport_header\""]), malformed);
    assert_eq!(sum("netmon_fragments_unmatched_total", &[]), unmatched);
    agent.assert_law();
    agent.stop();
}

#[test]
fn a_flood_from_forged_sources_leaves_room_books_and_a_real_connection_as_they_are() {
    let _turn = turn();
    const ROOM: u64 = 500;
    let net = crossing();
    // What b answers goes nowhere, and it keeps nothing of those that ask.
    net.exec("b", "sysctl -qw net.ipv4.tcp_syncookies=2");
    let _listener = net.inside("b", || TcpListener::bind("10.2.0.2:80").unwrap());
    let before = net.counters("b", "vb");
    let agent = Agent::start(&net, "b", &QUICK.replace("{ active", &format!("{{ max_flows: {ROOM}, active")));
    let before_real = net.counters("a", "va");
    let connection = Connection::open(&net, "a", ("b", "10.2.0.2"));
    connection.talk(TALK);
    let ([port, _], idle) = (connection.ports(), agent.held());
    let (forger, over) = (Forger::new(&net), AtomicBool::new(false));
    let (mut chance, mut most) = (Random(0x5eed), 0);
    let entries = |agent: &Agent<'_>| agent.metrics().sum("netmon_flow_table_entries", &[]) as u64;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let began = Instant::now();
            while !over.load(Ordering::Relaxed) && began.elapsed() < Duration::from_secs(60) {
                connection.talk(Talk { rounds: 5, ..TALK });
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        // More at once than there is room for, however slow this machine is.
        for _ in 0..5 {
            for _ in 0..1500 {
                // Hosts of the Internet.
                let [a, rest @ ..] = (chance.next() as u32).to_be_bytes();
                let ip = [11 + a % 100, rest[0], rest[1], rest[2]];
                let from = SocketAddr::from((ip, 1024 + chance.next() as u16 % 30_000));
                forger.send(&tcp((from, "10.2.0.2:80".parse().unwrap()), SYN, chance.next() as u32, 0, b""));
            }
            most = most.max(entries(&agent));
            agent.wait("the forged ones to time out", 10, |agent| entries(agent) < ROOM / 2);
        }
        over.store(true, Ordering::Relaxed);
    });
    connection.info();
    // A table has slots for more, so that so many find one.
    let slots = agent.metrics().sum("netmon_flow_table_slots", &[]) as u64;
    assert!((ROOM / 2..=slots).contains(&most) && slots < 2 * ROOM, "{most} flows, {slots} slots");
    let held = agent.held();
    assert!(held.memory_kib < idle.memory_kib + (16 << 10), "{idle:?} held before, now {held:?}");
    assert!(
        held.files < idle.files + 10 && held.threads < idle.threads + 10,
        "{idle:?} held before, now {held:?}"
    );
    drop(connection);
    let flow = wait_for_end(&agent, port, "closed");
    assert_eq!((&flow["status"], &flow["tcp"]["reset_by"]), (&json!("ok"), &Value::Null), "{flow:#}");
    agent.assert_law();
    let flow = flow_of(&agent, port);
    let real = net.counters("a", "va");
    let number = |name: &str| flow[name].as_u64().unwrap();
    assert_eq!(
        (
            number("packets_sent") + number("packets_received"),
            number("bytes_sent") + number("bytes_received")
        ),
        (real.0 - before_real.0, real.1 - before_real.1),
        "{flow:#}"
    );
    let books = agent.books();
    assert_eq!(books["seen"], net.counters("b", "vb").0 - before.0, "{books:#}");
    let overflow = books["outcomes"]["overflow"].as_u64().unwrap();
    assert!(overflow > 2000, "{books:#}");
    assert_eq!(agent.metrics().sum("netmon_flow_table_overflows_total", &[]) as u64, overflow);
    let alerts = alerts(&agent);
    let kinds = |kind: &str| alerts.iter().filter(|alert| alert["type"] == kind).count();
    assert!(kinds("spoofed_burst") == 1 && kinds("syn_flood") <= 1, "{alerts:#?}");
    assert_eq!(kinds("spoofed_burst") + kinds("syn_flood"), alerts.len(), "{alerts:#?}");
    let bursts = agent.metrics().sum("netmon_security_events_total", &["spoofed_burst"]);
    assert_eq!(bursts, 1.0, "told once");
    // There is room again.
    agent
        .wait("the forged ones to leave", 10, |agent| agent.metrics().sum("netmon_flows_active", &[]) < 10.0);
    let connection = Connection::open(&net, "a", ("b", "10.2.0.2"));
    let [port, _] = connection.ports();
    drop(connection);
    wait_for_end(&agent, port, "closed");
    agent.stop();
}

#[test]
fn connections_as_fast_as_a_peer_opens_them_are_each_told_with_their_end() {
    let _turn = turn();
    const EACH: u32 = 300;
    let net = crossing();
    // A SYN that finds the listener's queue full is sent again after a second: no attempt has failed by then.
    let agent = Agent::start(&net, "b", "flow: { active_interval: 200ms }");
    let listener = net.inside("b", || TcpListener::bind("10.2.0.2:80").unwrap());
    let idle = agent.held();
    let count = |agent: &Agent<'_>, name: &str, label: &str| {
        agent.metrics().sum(name, &["protocol=\"tcp\"", label]) as u32
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Hears each out. One that is reset before there is room for it in the queue is never accepted.
            while let Ok((mut stream, _)) = listener.accept() {
                while stream.read(&mut [0; 100]).is_ok_and(|length| length > 0) {}
            }
        });
        let peers = [(); 3].map(|()| {
            scope.spawn(|| {
                net.inside("h", || {
                    for number in 0..2 * EACH {
                        let stream = TcpStream::connect("10.2.0.2:80").unwrap();
                        // Without time to linger a socket says RST instead of FIN.
                        let hangs_up = (number % 2 == 0).then_some(Duration::ZERO);
                        rustix::net::sockopt::set_socket_linger(&stream, hangs_up).unwrap();
                    }
                });
            })
        });
        for peer in peers {
            peer.join().unwrap();
        }
        agent.wait("all to be told of, and to end", 15, |agent| {
            count(agent, "netmon_flows_opened_total", "") >= 6 * EACH
                && count(agent, "netmon_flows_active", "") == 0
        });
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
    });
    let ended =
        ["status=\"ok\"", "reason=\"reset\"", ""].map(|label| count(&agent, "netmon_flows_total", label));
    assert_eq!(ended, [3 * EACH, 3 * EACH, 6 * EACH]);
    assert_eq!(agent.metrics().sum("netmon_tcp_resets_refused_total", &[]), 0.0);
    let held = agent.held();
    assert!(held.memory_kib < idle.memory_kib + (16 << 10), "{idle:?} held before, now {held:?}");
    assert_eq!(alerts(&agent), Vec::<Value>::new());
    agent.assert_law();
    agent.stop();
}

#[test]
fn segments_that_miss_the_numbers_of_a_connection_do_not_end_it() {
    let _turn = turn();
    let net = crossing_by_both_families();
    let (agent, forger) = (Agent::start(&net, "b", QUICK), Forger::new(&net));
    let mut resets = 0.0;
    let refused = |agent: &Agent<'_>| agent.metrics().sum("netmon_tcp_resets_refused_total", &[]);
    for (target, _) in TARGETS {
        let tap = Tap::new(&net, "b", "vb");
        let mut connection = Connection::open(&net, "a", ("b", target));
        connection.talk(TALK);
        connection.info();
        let ([port, _], ends) = (connection.ports(), ends(&connection));
        let [next, acked] = tap.numbers(connection.ports());
        // Within the receiver's window and beyond, behind, and all over the place.
        let mut chance = Random(0x5eed);
        let offs = [1, 1000, 60_000, 1 << 20, 1 << 31, u32::MAX, 7 << 29].into_iter();
        for off in offs.chain((0..100).map(|_| chance.next() as u32 | 1)) {
            let seq = next.wrapping_add(off);
            for flags in [SYN, SYN | ACK, RST, RST | ACK] {
                forger.send(&tcp(ends, flags, seq, acked, b""));
                resets += f64::from(flags & RST) / f64::from(RST);
            }
        }
        agent.wait("forged resets to be refused", 5, |agent| refused(agent) == resets);
        connection.talk(TALK);
        let flow = flow_of(&agent, port);
        assert_eq!((&flow["state"], &flow["status"]), (&json!("established"), &json!("active")), "{flow:#}");
        assert_eq!(
            (&flow["tcp"]["reset_by"], &flow["tcp"]["ending"]),
            (&Value::Null, &Value::Null),
            "{flow:#}"
        );
        // A FIN far off is no end either, whatever state is told until the ends have said theirs.
        forger.send(&tcp(ends, FIN | ACK, next.wrapping_add(1 << 31), acked, b""));
        connection.talk(TALK);
        drop(connection);
        let flow = wait_for_end(&agent, port, "closed");
        assert_eq!((&flow["status"], &flow["tcp"]["reset_by"]), (&json!("ok"), &Value::Null), "{flow:#}");

        // The number that the receiver waits for ends it, for its kernel and for us.
        connection = Connection::open(&net, "a", ("b", target));
        connection.talk(TALK);
        connection.info();
        let [port, _] = connection.ports();
        let [next, _] = tap.numbers(connection.ports());
        forger.send(&tcp(self::ends(&connection), RST, next, 0, b""));
        assert!(connection.server.read(&mut [0; 1]).is_err(), "b's kernel takes it");
        let flow = wait_for_end(&agent, port, "reset");
        assert_eq!((&flow["reason"], &flow["tcp"]["reset_by"]), (&json!("reset"), &json!("src")), "{flow:#}");
    }
    assert_eq!(refused(&agent), resets);
    agent.assert_law();
    agent.stop();
}
