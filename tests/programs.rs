//! Every way through the kernel's parser, by BPF_PROG_TEST_RUN on crafted frames: which flow they make, or why
//! they make none. Needs root.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "programs/frame.rs"]
mod frame;
#[path = "programs/loaded.rs"]
mod loaded;

use std::time::{Duration, Instant};

use frame::{Ipv4, ethernet, extension, fragment6, icmp, ipv6, padded, tag, tcp, udp};
use loaded::Loaded as Bench;
use netmon::flow::app::App;
use netmon::kernel::decode;
use netmon::kernel::object::{Features, MessageFeatures, TestProgram, Transport};
use netmon::kernel::stats::Outcome;
use netmon::kernel::table::Snapshot;
use netmon::kernel::types::nm_kind;

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const FIN: u8 = 1;

impl Bench {
    fn new() -> Self {
        Self::with_slots(1024)
    }

    fn with_slots(slots: u64) -> Self {
        Self::load(slots, Features::default())
    }

    /// With everything that the programs can look at.
    fn knowing() -> Self {
        Self::with(Features {
            timing: true,
            bounds_us: vec![100, 1000, 10_000],
            precise: true,
            protocols: App::KNOWN.to_vec(),
            who: true,
            messages: MessageFeatures { dns: true, dns_names: true, tls_names: true, http_servers: Some(10) },
            ..Features::default()
        })
    }

    fn see(&self, frame: &[u8]) {
        self.run(TestProgram::Ingress, frame);
    }

    fn outcome(&self, outcome: Outcome) -> u64 {
        let at = Outcome::ALL.iter().position(|o| *o == outcome).unwrap();
        self.object.interface(0).unwrap().hooks[0].outcomes[at]
    }

    fn flows(&self) -> Vec<Snapshot> {
        self.snapshots().collect()
    }
}

/// Shows one frame to fresh programs and returns the flow that it made: "protocol src dst packets bytes". What the programs
/// look at beyond counters makes no difference.
fn flow_of(frame: &[u8]) -> String {
    let [narrow, wide] = [Bench::new(), Bench::knowing()].map(|bench| {
        bench.see(frame);
        bench.assert_conserved();
        match &bench.flows()[..] {
            [flow] => {
                let key = decode::key(&flow.cold).unwrap();
                let counters = flow.counters();
                format!(
                    "{} {} {} {} {}",
                    key.protocol, key.src, key.dst, counters.packets_sent, counters.bytes_sent
                )
            }
            flows => format!("{} flows", flows.len()),
        }
    });
    assert_eq!(narrow, wide);
    narrow
}

/// Shows one frame that must make no flow, and checks why.
fn assert_none(what: &str, frame: &[u8], outcome: Outcome, kind: nm_kind) {
    let bench = Bench::new();
    bench.see(frame);
    bench.assert_conserved();
    assert_eq!(bench.flows().len(), 0, "{what}");
    assert_eq!(bench.outcome(outcome), 1, "{what}: {:?}", bench.object.interface(0));
    assert_eq!(bench.object.kind(kind), 1, "{what}");
}

#[test]
fn packets_that_make_sense_make_their_flow() {
    let v4 = |protocol: u8, payload: &[u8]| {
        ethernet(0x0800, &Ipv4 { protocol, ..Default::default() }.with(payload))
    };
    let plain = v4(17, &udp(1000, 53, None, b"hello"));
    let options = Ipv4 { options: vec![1; 40], ..Default::default() };
    let udp53 = udp(1000, 53, None, &[]);
    let routing = extension(60, 1, &extension(17, 0, &udp53));
    let ah = [&[17u8, 4][..], &[0; 22], &udp53].concat();
    let cases = [
        ("udp", plain.clone(), "udp 10.0.0.1:1000 10.0.0.2:53 1 47"),
        ("padding counts, it was on the wire", padded(plain), "udp 10.0.0.1:1000 10.0.0.2:53 1 60"),
        ("tcp", v4(6, &tcp(2000, 443, SYN, 5, &[])), "tcp 10.0.0.1:2000 10.0.0.2:443 1 54"),
        (
            "sctp",
            v4(132, &[0x0f, 0xa0, 0x0b, 0x80, 0, 0, 0, 0, 0, 0, 0, 0]),
            "sctp 10.0.0.1:4000 10.0.0.2:2944 1 46",
        ),
        ("icmp echo", v4(1, &icmp(8, 0, 77)), "icmp 10.0.0.1:77 10.0.0.2:77 1 42"),
        ("icmp error", v4(1, &icmp(3, 1, 77)), "icmp 10.0.0.1:0 10.0.0.2:0 1 42"),
        ("gre", v4(47, &[0; 4]), "gre 10.0.0.1:0 10.0.0.2:0 1 38"),
        ("esp", v4(50, &[9; 16]), "esp 10.0.0.1:0 10.0.0.2:0 1 50"),
        ("an unknown protocol", v4(253, &[]), "proto-253 10.0.0.1:0 10.0.0.2:0 1 34"),
        (
            "ipv4 with 40 bytes of options",
            ethernet(0x0800, &options.with(&udp(5, 6, None, &[]))),
            "udp 10.0.0.1:5 10.0.0.2:6 1 82",
        ),
        (
            "one tag",
            ethernet(0x8100, &tag(7, 0x0800, &Ipv4::default().with(&udp(5, 6, None, &[])))),
            "udp 10.0.0.1:5 10.0.0.2:6 1 46",
        ),
        (
            "two tags",
            ethernet(0x88a8, &tag(7, 0x8100, &tag(8, 0x0800, &Ipv4::default().with(&udp(5, 6, None, &[]))))),
            "udp 10.0.0.1:5 10.0.0.2:6 1 50",
        ),
        ("ipv6", ethernet(0x86dd, &ipv6(17, None, &udp53)), "udp [fd00::1]:1000 [fd00::2]:53 1 62"),
        (
            "icmpv6 echo",
            ethernet(0x86dd, &ipv6(58, None, &icmp(128, 0, 9))),
            "icmpv6 [fd00::1]:9 [fd00::2]:9 1 62",
        ),
        (
            "hop-by-hop, routing, destination options",
            ethernet(0x86dd, &ipv6(0, None, &extension(43, 0, &routing))),
            "udp [fd00::1]:1000 [fd00::2]:53 1 94",
        ),
        (
            "authentication header",
            ethernet(0x86dd, &ipv6(51, None, &ah)),
            "udp [fd00::1]:1000 [fd00::2]:53 1 86",
        ),
        (
            "atomic fragment",
            ethernet(0x86dd, &ipv6(44, None, &fragment6(17, 0, false, 1, &udp53))),
            "udp [fd00::1]:1000 [fd00::2]:53 1 70",
        ),
        ("no next header", ethernet(0x86dd, &ipv6(59, None, &[])), "proto-59 [fd00::1]:0 [fd00::2]:0 1 54"),
    ];
    for (name, frame, expected) in cases {
        assert_eq!(flow_of(&frame), expected, "{name}");
    }
}

#[test]
fn what_is_not_ip_is_counted_by_kind() {
    let three_tags = ethernet(0x88a8, &tag(1, 0x8100, &tag(2, 0x8100, &tag(3, 0x0800, &[0; 40]))));
    assert_none("arp", &padded(ethernet(0x0806, &[0; 28])), Outcome::NotIp, nm_kind::NM_KIND_ARP);
    assert_none(
        "mpls",
        &padded(ethernet(0x8847, &[0; 40])),
        Outcome::NotIp,
        nm_kind::NM_KIND_OTHER_ETHERTYPE,
    );
    assert_none("three tags", &three_tags, Outcome::NotIp, nm_kind::NM_KIND_VLAN_DEPTH);
}

#[test]
fn what_is_cut_short_or_lies_is_malformed_by_kind() {
    let v4 = |ip: &Ipv4, payload: &[u8]| ethernet(0x0800, &ip.with(payload));
    let whole = Ipv4::default();
    let tcp4 = Ipv4 { protocol: 6, ..Default::default() };
    let long_v6 = ethernet(0x86dd, &ipv6(17, Some(400), &udp(1, 2, None, &[])));
    let runaway = extension(17, 200, &[]);
    let runaway = ethernet(0x86dd, &ipv6(0, Some(24), &runaway[..24]));
    let mut chain = udp(1, 2, None, &[]);
    for _ in 0..9 {
        chain = extension(if chain.len() == 8 { 17 } else { 60 }, 0, &chain);
    }
    let cases = [
        ("tag cut", ethernet(0x8100, &[0, 7]), nm_kind::NM_KIND_SHORT_LINK),
        // Behind a tag, since BPF_PROG_TEST_RUN itself refuses an untagged frame that ends in its IP header.
        ("ipv4 cut", ethernet(0x8100, &tag(1, 0x0800, &whole.with(&[])[..19])), nm_kind::NM_KIND_SHORT_IP),
        (
            "ipv6 cut",
            ethernet(0x8100, &tag(1, 0x86dd, &ipv6(17, None, &[])[..39])),
            nm_kind::NM_KIND_SHORT_IP,
        ),
        (
            "version 6 in an ipv4 frame",
            v4(&Ipv4 { version: 6, ..Default::default() }, &[0; 8]),
            nm_kind::NM_KIND_IP_VERSION,
        ),
        (
            "ihl 4",
            v4(&Ipv4 { header_words: Some(4), ..Default::default() }, &[0; 8]),
            nm_kind::NM_KIND_IP_HEADER_LENGTH,
        ),
        (
            "ihl 15 in 28 bytes",
            v4(&Ipv4 { header_words: Some(15), ..Default::default() }, &[0; 8]),
            nm_kind::NM_KIND_IP_HEADER_LENGTH,
        ),
        (
            "total length beyond",
            v4(&Ipv4 { total_length: Some(2000), ..Default::default() }, &[0; 8]),
            nm_kind::NM_KIND_IP_TOTAL_LENGTH,
        ),
        (
            "total length 10",
            v4(&Ipv4 { total_length: Some(10), ..Default::default() }, &[0; 8]),
            nm_kind::NM_KIND_IP_TOTAL_LENGTH,
        ),
        (
            "total length 0",
            v4(&Ipv4 { total_length: Some(0), ..Default::default() }, &[0; 8]),
            nm_kind::NM_KIND_IP_TOTAL_LENGTH,
        ),
        ("ipv6 length beyond", long_v6, nm_kind::NM_KIND_IP_TOTAL_LENGTH),
        ("extension beyond", runaway, nm_kind::NM_KIND_EXTENSION),
        ("nine extensions", ethernet(0x86dd, &ipv6(60, None, &chain)), nm_kind::NM_KIND_EXTENSION),
        ("udp cut", v4(&whole, &udp(1, 2, None, &[])[..7]), nm_kind::NM_KIND_SHORT_TRANSPORT),
        ("tcp cut", v4(&tcp4, &tcp(1, 2, SYN, 5, &[])[..19]), nm_kind::NM_KIND_SHORT_TRANSPORT),
        (
            "icmp cut",
            v4(&Ipv4 { protocol: 1, ..Default::default() }, &[8, 0, 0, 0]),
            nm_kind::NM_KIND_SHORT_TRANSPORT,
        ),
        (
            "the payload is only padding",
            padded(v4(&Ipv4 { total_length: Some(24), protocol: 6, ..Default::default() }, &[0; 4])),
            nm_kind::NM_KIND_SHORT_TRANSPORT,
        ),
        ("tcp offset 4", v4(&tcp4, &tcp(1, 2, SYN, 4, &[])), nm_kind::NM_KIND_TCP_OFFSET),
        ("tcp offset beyond", v4(&tcp4, &tcp(1, 2, SYN, 15, &[])), nm_kind::NM_KIND_TCP_OFFSET),
        ("udp length 4", v4(&whole, &udp(1, 2, Some(4), &[])), nm_kind::NM_KIND_UDP_LENGTH),
        ("udp length beyond", v4(&whole, &udp(1, 2, Some(900), &[])), nm_kind::NM_KIND_UDP_LENGTH),
        ("udp length 0 over ipv4", v4(&whole, &udp(1, 2, Some(0), &[])), nm_kind::NM_KIND_UDP_LENGTH),
    ];
    for (name, frame, kind) in cases {
        assert_none(name, &frame, Outcome::Malformed, kind);
    }
}

#[test]
fn a_packet_cut_at_any_byte_is_counted_once_and_never_guessed_at() {
    let whole = ethernet(
        0x88a8,
        &tag(1, 0x8100, &tag(2, 0x86dd, &ipv6(0, None, &extension(6, 1, &tcp(1, 2, SYN, 6, &[0; 12]))))),
    );
    let bench = Bench::new();
    // BPF_PROG_TEST_RUN takes no frame shorter than a link header.
    for length in 14..whole.len() {
        bench.see(&whole[..length]);
    }
    bench.assert_conserved();
    assert_eq!(bench.flows().len(), 0);
    assert_eq!(bench.outcome(Outcome::Malformed), (whole.len() - 14) as u64);
}

#[test]
fn both_directions_are_one_flow_and_the_opener_comes_first() {
    let bench = Bench::new();
    let there = Ipv4 { protocol: 6, ..Default::default() };
    let back = Ipv4 { protocol: 6, source: [10, 0, 0, 2], destination: [10, 0, 0, 1], ..Default::default() };
    // The higher address opens, so that the canonical order is not the opener's.
    bench.see(&ethernet(0x0800, &back.with(&tcp(50_000, 80, SYN, 5, &[]))));
    bench.see(&ethernet(0x0800, &there.with(&tcp(80, 50_000, SYN | ACK, 5, &[]))));
    bench.see(&ethernet(0x0800, &back.with(&tcp(50_000, 80, ACK, 5, &[1; 10]))));
    bench.assert_conserved();
    let flows = bench.flows();
    assert_eq!(flows.len(), 1);
    let (key, counters) = (decode::key(&flows[0].cold).unwrap(), flows[0].counters());
    assert_eq!((key.src.to_string(), key.dst.to_string()), ("10.0.0.2:50000".into(), "10.0.0.1:80".into()));
    assert_eq!((counters.packets_sent, counters.packets_received), (2, 1));
    assert_eq!((counters.bytes_sent, counters.bytes_received), (54 + 64, 54));
}

#[test]
fn tcp_met_at_the_answer_or_halfway_finds_its_opener() {
    let opener = |frame: &[u8]| flow_of(frame).split(' ').nth(1).unwrap().to_owned();
    let ip = Ipv4 { protocol: 6, ..Default::default() };
    assert_eq!(opener(&ethernet(0x0800, &ip.with(&tcp(80, 50_000, SYN | ACK, 5, &[])))), "10.0.0.2:50000");
    assert_eq!(opener(&ethernet(0x0800, &ip.with(&tcp(80, 50_000, ACK, 5, &[])))), "10.0.0.2:50000");
    assert_eq!(opener(&ethernet(0x0800, &ip.with(&tcp(50_000, 80, ACK, 5, &[])))), "10.0.0.1:50000");
}

#[test]
fn later_fragments_join_the_flow_of_their_first() {
    let bench = Bench::new();
    let first = Ipv4 { fragment: 0x2000, id: 99, ..Default::default() };
    let later = Ipv4 { fragment: 185, id: 99, ..Default::default() };
    let orphan = Ipv4 { fragment: 185, id: 100, ..Default::default() };
    bench.see(&ethernet(0x0800, &first.with(&udp(1, 2, Some(3000), &[0; 100]))));
    bench.see(&ethernet(0x0800, &later.with(&[0xff; 50])));
    bench
        .see(&ethernet(0x86dd, &ipv6(44, None, &fragment6(17, 0, true, 5, &udp(3, 4, Some(3000), &[0; 8])))));
    bench.see(&ethernet(0x86dd, &ipv6(44, None, &fragment6(17, 2, false, 5, &[0xff; 40]))));
    assert_eq!(bench.flows().len(), 2, "a flow each for the IPv4 and the IPv6 datagram");
    assert!(bench.flows().iter().all(|flow| flow.counters().packets_sent == 2));
    bench.see(&ethernet(0x0800, &orphan.with(&[0xff; 50])));
    assert_eq!(bench.object.kind(nm_kind::NM_KIND_FRAGMENT_ORPHAN), 1);
    assert_eq!(bench.flows().len(), 3, "an orphan counts in a flow without ports");
    bench.assert_conserved();
}

#[test]
fn a_new_syn_on_a_closed_connection_is_a_new_flow() {
    let bench = Bench::new();
    let ip = Ipv4 { protocol: 6, ..Default::default() };
    let back = Ipv4 { protocol: 6, source: [10, 0, 0, 2], destination: [10, 0, 0, 1], ..Default::default() };
    for _ in 0..2 {
        bench.see(&ethernet(0x0800, &ip.with(&tcp(50_000, 80, SYN, 5, &[]))));
        bench.see(&ethernet(0x0800, &back.with(&tcp(80, 50_000, RST | ACK, 5, &[]))));
    }
    bench.assert_conserved();
    let flows = bench.flows();
    assert_eq!(flows.len(), 2);
    assert_eq!(flows.iter().filter(|flow| flow.live()).count(), 1, "the first one is leaving");
    assert!(flows.iter().all(|flow| flow.counters().packets() == 2 && flow.hot.closed_ns > 0));
}

#[test]
fn a_new_syn_is_a_new_flow_where_only_the_end_of_the_last_one_was_seen() {
    let bench = Bench::new();
    let ip = Ipv4 { protocol: 6, ..Default::default() };
    let back = Ipv4 { protocol: 6, source: [10, 0, 0, 2], destination: [10, 0, 0, 1], ..Default::default() };
    bench.see(&ethernet(0x0800, &back.with(&tcp(80, 50_000, RST | ACK, 5, &[]))));
    bench.see(&ethernet(0x0800, &ip.with(&tcp(50_000, 80, SYN, 5, &[]))));
    bench.assert_conserved();
    let live: Vec<_> = bench.flows().into_iter().filter(Snapshot::live).collect();
    assert_eq!(live.len(), 1);
    assert!(live[0].hot.closed_ns == 0 && live[0].cold.opener_seen == 1, "it has not ended");
}

#[test]
fn what_packets_say_of_a_slot_while_its_flow_moves_is_said_of_the_flow() {
    let ip = Ipv4 { protocol: 6, ..Default::default() };
    let back = Ipv4 { protocol: 6, source: [10, 0, 0, 2], destination: [10, 0, 0, 1], ..Default::default() };
    let open = [ip.with(&tcp(5, 6, SYN, 5, &[])), back.with(&tcp(6, 5, SYN | ACK, 5, &[]))];
    let [old, new] = [Bench::new(), Bench::new()];
    for bytes in &open {
        old.see(&ethernet(0x0800, bytes));
        new.see(&ethernet(0x0800, bytes));
    }
    old.see(&ethernet(0x0800, &ip.with(&tcp(5, 6, ACK, 5, &[]))));
    old.see(&ethernet(0x0800, &back.with(&tcp(6, 5, RST, 5, &[]))));
    let was = old.table.read(old.slot()).unwrap();
    new.table.absorb(new.slot(), &was, (&old.table, old.slot()));
    // The handshake has ended: this ACK is none of it.
    std::thread::sleep(Duration::from_millis(20));
    new.see(&ethernet(0x0800, &ip.with(&tcp(5, 6, ACK, 5, &[]))));
    let is = new.table.read(new.slot()).unwrap();
    assert_eq!((is.hot.closed_ns, is.hot.tcp_flags), (was.hot.closed_ns, was.hot.tcp_flags));
    assert_eq!(is.cold.handshake_us, was.cold.handshake_us);
    assert_eq!(decode::reset_by_opener(&is), Some(false));
}

#[test]
fn tcp_closes_by_fin_both_ways_or_by_rst() {
    let ip = Ipv4 { protocol: 6, ..Default::default() };
    let back = Ipv4 { protocol: 6, source: [10, 0, 0, 2], destination: [10, 0, 0, 1], ..Default::default() };
    let closed = |script: &[(bool, u8)]| {
        let bench = Bench::new();
        for (forth, flags) in script {
            let bytes = if *forth {
                ip.with(&tcp(5, 6, *flags, 5, &[]))
            } else {
                back.with(&tcp(6, 5, *flags, 5, &[]))
            };
            bench.see(&ethernet(0x0800, &bytes));
        }
        bench.flows()[0].hot.closed_ns > 0
    };
    let open = [(true, SYN), (false, SYN | ACK), (true, ACK)];
    assert!(!closed(&open));
    assert!(!closed(&[&open[..], &[(true, FIN | ACK), (false, ACK)]].concat()), "half closed is open");
    assert!(closed(&[&open[..], &[(true, FIN | ACK), (false, FIN | ACK)]].concat()));
    assert!(closed(&[&open[..], &[(false, RST)]].concat()));
}

#[test]
fn a_direction_belongs_to_whoever_saw_it_first_until_it_falls_silent() {
    let bench = Bench::new();
    let frame = ethernet(0x0800, &Ipv4::default().with(&udp(1, 2, None, &[])));
    let see = |program| bench.object.run_on_frame(program, &frame, 1).unwrap();
    let counted = || {
        let counters = bench.object.interface(0).unwrap();
        assert!(counters.hooks.iter().all(|hook| hook.seen == hook.outcomes.iter().sum::<u64>()));
        counters.hooks.map(|hook| (hook.outcomes[0], hook.outcomes[1]))
    };
    for _ in 0..3 {
        see(TestProgram::Ingress);
        see(TestProgram::Egress);
    }
    assert_eq!(counted(), [(3, 0), (0, 3)], "counted where it was seen first, a duplicate elsewhere");
    std::thread::sleep(Duration::from_millis(1200));
    see(TestProgram::Egress);
    see(TestProgram::Ingress);
    assert_eq!(counted(), [(3, 1), (1, 3)], "after a second of silence the other takes over");
    let flows = bench.flows();
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0].counters().packets_sent, 4);
}

#[test]
fn a_packet_that_another_cpu_saw_a_tick_later_is_no_silence() {
    let bench = Bench::new();
    let back = Ipv4 { source: [10, 0, 0, 2], destination: [10, 0, 0, 1], ..Default::default() };
    let frames = [Ipv4::default().with(&udp(1, 2, None, &[])), back.with(&udp(2, 1, None, &[]))]
        .map(|bytes| ethernet(0x0800, &bytes));
    let see = |program| frames.iter().for_each(|frame| bench.run(program, frame));
    see(TestProgram::Ingress);
    let slot = bench.slot();
    // Of side 0, whichever that is.
    bench.table.touch(slot, bench.table.last_tick(slot) + 500);
    see(TestProgram::Egress);
    let hooks = bench.object.interface(0).unwrap().hooks;
    assert_eq!(hooks.map(|hook| (hook.outcomes[0], hook.outcomes[1])), [(2, 0), (0, 2)]);
}

#[test]
fn without_room_packets_count_as_overflow_by_protocol() {
    let bench = Bench::with_slots(8);
    for port in 0..100 {
        bench.see(&ethernet(0x0800, &Ipv4::default().with(&udp(1000 + port, 53, None, &[]))));
    }
    bench.assert_conserved();
    assert_eq!(bench.flows().len(), 8);
    assert_eq!(bench.outcome(Outcome::Overflow), 92);
    let overflow = bench.object.overflow();
    assert_eq!(overflow.get(&(17, false)), Some(&(92, 92 * 42)), "{overflow:?}");
}

#[test]
fn sampling_keeps_whole_flows_and_counts_what_it_leaves_out() {
    let bench = Bench::with_slots(16_384);
    bench.object.set_control(|control| control.sample_below = u32::MAX / 10);
    let (flows, packets_each) = (5000u16, 3);
    for _ in 0..packets_each {
        for port in 0..flows {
            bench.see(&ethernet(0x0800, &Ipv4::default().with(&udp(10_000 + port, 53, None, &[]))));
        }
    }
    bench.assert_conserved();
    let kept = bench.flows();
    assert!(kept.iter().all(|flow| flow.counters().packets_sent == packets_each), "a kept flow is whole");
    // 500 expected; five standard deviations are 106.
    assert!((394..=606).contains(&kept.len()), "{} of {flows} kept", kept.len());
    let left_out = u64::from(flows) * packets_each - kept.len() as u64 * packets_each;
    assert_eq!(bench.outcome(Outcome::SampledOut), left_out);
}

/// The SYN of 10.0.0.1 to 10.0.0.2, and an error from 10.0.0.9 that quotes `quoted` to `to`.
fn after_error(quoted: &[u8], to: [u8; 4], cut: usize) -> u8 {
    let bench = Bench::new();
    let syn = Ipv4 { protocol: 6, ..Ipv4::default() }.with(&tcp(40_000, 80, 2, 5, &[]));
    bench.see(&padded(ethernet(0x0800, &syn)));
    let error = [icmp(3, 1, 0), quoted.to_vec()].concat();
    let outer = Ipv4 { protocol: 1, source: [10, 0, 0, 9], destination: to, ..Ipv4::default() };
    bench.see(&ethernet(0x0800, &outer.with(&error[..error.len() - cut])));
    bench.assert_conserved();
    let flows = bench.flows();
    flows.iter().find(|flow| flow.cold.protocol == 6).unwrap().hot.icmp_errors
}

#[test]
fn an_icmp_error_is_believed_only_by_whom_it_concerns() {
    let ip =
        |ports: (u16, u16)| Ipv4 { protocol: 6, ..Ipv4::default() }.with(&tcp(ports.0, ports.1, 2, 5, &[]));
    let [sender, other] = [[10, 0, 0, 1], [10, 0, 0, 7]];
    assert_eq!(after_error(&ip((40_000, 80)), sender, 0), 1, "RFC 792: host unreachable");
    assert_eq!(after_error(&ip((40_000, 80)), sender, 12), 1, "eight bytes of the transport header suffice");
    assert_eq!(after_error(&ip((40_000, 80)), other, 0), 0, "it goes to somebody else");
    assert_eq!(after_error(&ip((40_001, 80)), sender, 0), 0, "it quotes another flow");
    for cut in 13..40 {
        assert_eq!(after_error(&ip((40_000, 80)), sender, cut), 0, "cut short by {cut} bytes");
    }
    let later = Ipv4 { protocol: 6, fragment: 5, ..Ipv4::default() }.with(&tcp(40_000, 80, 2, 5, &[]));
    assert_eq!(after_error(&later, sender, 0), 0, "a later fragment has no ports");
}

#[test]
fn interfaces_beyond_those_that_there_is_room_for_are_refused_and_the_others_are_counted() {
    let bench = Bench::new();
    // A busy machine may take its time to find memory: that is not what is asked here.
    let add = |index| {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match bench.object.add_interface(index, 14) {
                Err(error) if error.to_string().contains("allocate memory") && Instant::now() < end => {}
                done => return done,
            }
        }
    };
    // 256 near ones, and those of the hash, of which one stands for all that have no entry.
    let room = 256 + 16_384 - 1;
    for index in 1..=room {
        add(index).unwrap_or_else(|error| panic!("{index}: {error}"));
    }
    assert!(add(room + 1).unwrap_err().to_string().contains("Argument list too long"), "E2BIG: full");
    assert!(bench.object.interface(room + 1).is_none());
    bench.object.remove_interface(room);
    add(room + 1).unwrap();
    bench.see(&ethernet(0x0800, &Ipv4::default().with(&udp(1, 2, None, &[]))));
    let seen =
        |index| -> u64 { bench.object.interface(index).unwrap().hooks.iter().map(|hook| hook.seen).sum() };
    // Frames of such runs come in by the loopback device.
    assert_eq!([seen(0), seen(1)], [0, 1]);
}

#[test]
fn the_perf_buffer_transport_loads_and_counts() {
    let bench = Bench::load_by(Some(Transport::Perf), 64, Features::default());
    bench.see(&ethernet(0x0800, &Ipv4::default().with(&udp(1, 2, None, &[]))));
    assert_eq!(bench.flows().len(), 1);
    bench.assert_conserved();
}
