//! Packets in VXLAN and Geneve, by BPF_PROG_TEST_RUN on crafted frames: whose flow they are, looked into or not. Needs root.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "programs/frame.rs"]
mod frame;
#[path = "programs/loaded.rs"]
mod loaded;

use std::sync::Arc;

use frame::{Ipv4, ethernet, extension, fragment6, icmp, ipv6, padded, tag, tcp, udp};
use loaded::Loaded;
use netmon::collector::ledger::{self, Context};
use netmon::flow::app::App;
use netmon::flow::record::IcmpError;
use netmon::flow::tunnel::TunnelKind;
use netmon::flow::update::Flow;
use netmon::kernel::object::{Features, LookInto, TestProgram};
use netmon::kernel::types::nm_kind;

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Programs that look into these tunnels, and a table.
struct Bench {
    loaded: Loaded,
    context: Context,
}

impl Bench {
    fn new(kinds: &[TunnelKind]) -> Self {
        Self::with(kinds, 1024, false)
    }

    fn with(kinds: &[TunnelKind], flows: u32, knowing: bool) -> Self {
        let tunnels = (!kinds.is_empty()).then(|| LookInto { kinds: kinds.into(), flows });
        let features = Features {
            timing: knowing,
            bounds_us: vec![1000],
            precise: knowing,
            protocols: if knowing { App::KNOWN.to_vec() } else { Vec::new() },
            who: knowing,
            tunnels,
            ..Features::default()
        };
        let loaded = Loaded::load(1024, features);
        let context =
            Context { tunnels: loaded.object.tunnels().unwrap().map(Arc::new), ..Context::default() };
        Self { loaded, context }
    }

    fn see(&self, frame: &[u8]) {
        self.see_at(TestProgram::Ingress, frame);
    }

    fn see_at(&self, program: TestProgram, frame: &[u8]) {
        self.loaded.run(program, frame);
    }

    fn flows(&self) -> Vec<Flow> {
        let flow = |snapshot| ledger::flow(&snapshot, &self.context, 0, false);
        self.loaded.snapshots().filter_map(flow).collect()
    }

    fn the_flow(&self) -> Flow {
        match &self.flows()[..] {
            [flow] => *flow,
            flows => panic!("{} flows", flows.len()),
        }
    }
}

/// "protocol src dst packets bytes", and the tunnel.
fn told(flow: &Flow) -> String {
    let tunnel = flow.tunnel.map_or("bare".into(), |tunnel| {
        format!("{} {} {} {}", tunnel.kind.name(), tunnel.vni, tunnel.src, tunnel.dst)
    });
    let (key, total) = (flow.key, flow.total);
    format!("{} {} {} {} {}, {tunnel}", key.protocol, key.src, key.dst, total.packets_sent, total.bytes_sent)
}

fn outer4(port: u16, payload: &[u8]) -> Vec<u8> {
    let ip = Ipv4 { source: [192, 0, 2, 1], destination: [192, 0, 2, 2], ..Ipv4::default() };
    ethernet(0x0800, &ip.with(&udp(50_000, port, None, payload)))
}

fn outer6(port: u16, payload: &[u8]) -> Vec<u8> {
    ethernet(0x86dd, &ipv6(17, None, &udp(50_000, port, None, payload)))
}

fn vxlan(vni: u32, inner: &[u8]) -> Vec<u8> {
    [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes(), inner].concat()
}

/// Options in words of four bytes, all critical or not.
fn geneve(vni: u32, protocol: u16, options: u8, inner: &[u8]) -> Vec<u8> {
    let head = [options, 0];
    let options = vec![0xaa; usize::from(options) * 4];
    [&head[..], &protocol.to_be_bytes(), &(vni << 8).to_be_bytes(), &options, inner].concat()
}

fn inner4() -> Vec<u8> {
    ethernet(0x0800, &Ipv4::default().with(&udp(1000, 53, None, b"hello")))
}

const BOTH: &[TunnelKind] = &TunnelKind::ALL;

#[test]
fn the_packet_inside_is_counted_for_its_own_flow_and_for_no_other() {
    let v6 = ethernet(0x86dd, &ipv6(17, None, &udp(1000, 53, None, &[])));
    let tcp4 = Ipv4 { protocol: 6, ..Ipv4::default() };
    let syn = ethernet(0x0800, &tcp4.with(&tcp(2000, 443, SYN, 5, &[])));
    let tags =
        ethernet(0x88a8, &tag(7, 0x8100, &tag(8, 0x0800, &Ipv4::default().with(&udp(1000, 53, None, &[])))));
    let ping =
        ethernet(0x86dd, &ipv6(0, None, &extension(44, 0, &fragment6(58, 0, false, 1, &icmp(128, 0, 9)))));
    let bare4 = Ipv4::default().with(&udp(1000, 53, None, &[]));
    let bare6 = ipv6(17, None, &udp(1000, 53, None, &[]));
    let udp4 = "udp 10.0.0.1:1000 10.0.0.2:53 1";
    let udp6 = "udp [fd00::1]:1000 [fd00::2]:53 1";
    let (v4, v6o) = ("192.0.2.1 192.0.2.2", "fd00::1 fd00::2");
    let cases = [
        ("4 in 4", outer4(4789, &vxlan(42, &inner4())), format!("{udp4} 97, vxlan 42 {v4}")),
        ("Linux's port", outer4(8472, &vxlan(1, &inner4())), format!("{udp4} 97, vxlan 1 {v4}")),
        ("6 in 4", outer4(4789, &vxlan(0xff_ffff, &v6)), format!("{udp6} 112, vxlan 16777215 {v4}")),
        ("4 in 6", outer6(4789, &vxlan(0, &inner4())), format!("{udp4} 117, vxlan 0 {v6o}")),
        ("6 in 6", outer6(4789, &vxlan(42, &v6)), format!("{udp6} 132, vxlan 42 {v6o}")),
        (
            "tcp",
            outer4(4789, &vxlan(42, &syn)),
            format!("tcp 10.0.0.1:2000 10.0.0.2:443 1 104, vxlan 42 {v4}"),
        ),
        ("tags", outer4(4789, &vxlan(42, &tags)), format!("{udp4} 100, vxlan 42 {v4}")),
        (
            "echo, extensions",
            outer4(4789, &vxlan(42, &ping)),
            format!("icmpv6 [fd00::1]:9 [fd00::2]:9 1 128, vxlan 42 {v4}"),
        ),
        ("padding", outer4(4789, &vxlan(42, &padded(inner4()))), format!("{udp4} 110, vxlan 42 {v4}")),
        ("geneve", outer4(6081, &geneve(42, 0x6558, 0, &inner4())), format!("{udp4} 97, geneve 42 {v4}")),
        (
            "geneve with options",
            outer6(6081, &geneve(42, 0x6558, 63, &inner4())),
            format!("{udp4} 369, geneve 42 {v6o}"),
        ),
        ("geneve, ip", outer4(6081, &geneve(42, 0x0800, 1, &bare4)), format!("{udp4} 82, geneve 42 {v4}")),
        (
            "geneve, ipv6",
            outer6(6081, &geneve(42, 0x86dd, 0, &bare6)),
            format!("{udp6} 118, geneve 42 {v6o}"),
        ),
        (
            "behind a tag",
            ethernet(0x8100, &tag(7, 0x0800, &outer4(4789, &vxlan(42, &inner4()))[14..])),
            format!("{udp4} 101, vxlan 42 {v4}"),
        ),
    ];
    for (name, frame, expected) in cases {
        for knowing in [false, true] {
            let on = Bench::with(BOTH, 1024, knowing);
            on.see(&frame);
            on.loaded.assert_conserved();
            assert_eq!(told(&on.the_flow()), expected, "{name}");
        }
        let off = Bench::new(&[]);
        off.see(&frame);
        off.loaded.assert_conserved();
        let outer = off.the_flow();
        assert_eq!(
            (outer.key.src.port(), outer.total.bytes(), outer.tunnel),
            (50_000, frame.len() as u64, None),
            "{name}, off"
        );
    }
}

#[test]
fn what_makes_no_sense_inside_stays_with_the_outer_flow_and_says_why() {
    let arp = ethernet(0x0806, &[0; 28]);
    let three_tags = ethernet(0x88a8, &tag(1, 0x8100, &tag(2, 0x8100, &tag(3, 0x0800, &[0; 40]))));
    let lying =
        ethernet(0x0800, &Ipv4 { total_length: Some(60), ..Ipv4::default() }.with(&udp(1, 2, None, &[])));
    // The outer frame is padded: there are bytes enough, but they are not the tunnel's.
    let beyond = [outer4(4789, &vxlan(1, &lying)), vec![0; 64]].concat();
    let in_turn = ethernet(0x0800, &Ipv4::default().with(&udp(1, 6081, None, &[0; 8])));
    let mut control = geneve(1, 0x6558, 0, &inner4());
    control[1] = 0x80;
    let mut version = geneve(1, 0x6558, 0, &inner4());
    version[0] = 0x40;
    let [mut no_vni, mut gpe] = [vxlan(1, &inner4()), vxlan(1, &inner4())];
    no_vni[0] = 0;
    gpe[0] = 0x0c;
    let first = Ipv4 { fragment: 0x2000, id: 99, ..Ipv4::default() };
    let first = first.with(&udp(50_000, 4789, Some(3000), &vxlan(1, &inner4())));
    let cases = [
        ("arp", outer4(4789, &vxlan(1, &arp)), nm_kind::NM_KIND_TUNNEL_NOT_IP),
        ("mpls", outer4(6081, &geneve(1, 0x8847, 0, &inner4())), nm_kind::NM_KIND_TUNNEL_NOT_IP),
        ("three tags", outer4(4789, &vxlan(1, &three_tags)), nm_kind::NM_KIND_TUNNEL_NOT_IP),
        ("length beyond the tunnel's", beyond, nm_kind::NM_KIND_TUNNEL_MALFORMED),
        ("nested", outer4(4789, &vxlan(1, &in_turn)), nm_kind::NM_KIND_TUNNEL_NESTED),
        ("control", outer4(6081, &control), nm_kind::NM_KIND_TUNNEL_HEADER),
        ("version", outer4(6081, &version), nm_kind::NM_KIND_TUNNEL_HEADER),
        ("options beyond", outer4(6081, &[63, 0, 0x65, 0x58, 0, 0, 1, 0]), nm_kind::NM_KIND_TUNNEL_HEADER),
        ("no vni", outer4(4789, &no_vni), nm_kind::NM_KIND_TUNNEL_HEADER),
        ("generic protocol extension", outer4(4789, &gpe), nm_kind::NM_KIND_TUNNEL_HEADER),
        ("fragment", ethernet(0x0800, &first), nm_kind::NM_KIND_TUNNEL_FRAGMENT),
    ];
    for (name, frame, kind) in cases {
        let bench = Bench::new(BOTH);
        bench.see(&frame);
        bench.loaded.assert_conserved();
        let flow = bench.the_flow();
        assert_eq!((flow.key.src.port(), flow.tunnel), (50_000, None), "{name}");
        assert_eq!(flow.total.bytes(), frame.len() as u64, "{name}");
        assert_eq!(bench.loaded.object.kind(kind), 1, "{name}");
    }
}

#[test]
fn fragments_of_the_tunnels_datagrams_are_one_outer_flow() {
    let bench = Bench::new(BOTH);
    let first = Ipv4 { fragment: 0x2000, id: 99, ..Ipv4::default() };
    let later = Ipv4 { fragment: 185, id: 99, ..Ipv4::default() };
    bench.see(&ethernet(0x0800, &first.with(&udp(50_000, 4789, Some(3000), &vxlan(1, &inner4())))));
    bench.see(&ethernet(0x0800, &later.with(&inner4())));
    bench.loaded.assert_conserved();
    assert_eq!((bench.the_flow().total.packets(), bench.the_flow().key.dst.port()), (2, 4789));
    assert_eq!(bench.loaded.object.kind(nm_kind::NM_KIND_TUNNEL_FRAGMENT), 2);
}

#[test]
fn fragments_inside_find_the_ports_of_their_first() {
    let bench = Bench::new(BOTH);
    let first = Ipv4 { fragment: 0x2000, id: 5, ..Ipv4::default() };
    let later = Ipv4 { fragment: 185, id: 5, ..Ipv4::default() };
    bench.see(&outer4(4789, &vxlan(1, &ethernet(0x0800, &first.with(&udp(1, 2, Some(3000), &[0; 64]))))));
    bench.see(&outer4(4789, &vxlan(1, &ethernet(0x0800, &later.with(&[0xff; 50])))));
    bench.loaded.assert_conserved();
    assert_eq!((bench.the_flow().key.src.port(), bench.the_flow().total.packets()), (1, 2));
}

#[test]
fn a_tunnel_that_is_not_asked_for_or_only_answered_from_its_port_is_not_looked_into() {
    let vxlan_only = Bench::new(&[TunnelKind::Vxlan]);
    vxlan_only.see(&outer4(6081, &geneve(1, 0x6558, 0, &inner4())));
    assert_eq!(vxlan_only.the_flow().key.dst.port(), 6081);
    let geneve_only = Bench::new(&[TunnelKind::Geneve]);
    geneve_only.see(&outer4(4789, &vxlan(1, &inner4())));
    assert_eq!(geneve_only.the_flow().key.dst.port(), 4789);
    let both = Bench::new(BOTH);
    let ip = Ipv4::default();
    both.see(&ethernet(0x0800, &ip.with(&udp(4789, 50_000, None, &vxlan(1, &inner4())))));
    both.see(&ethernet(0x0800, &ip.with(&udp(50_000, 4790, None, &vxlan(1, &inner4())))));
    assert!(both.flows().iter().all(|flow| flow.tunnel.is_none()) && both.flows().len() == 2);
}

#[test]
fn a_tunnel_cut_at_any_byte_stays_with_the_outer_flow() {
    let tcp4 = Ipv4 { protocol: 6, ..Ipv4::default() };
    let inner = ethernet(0x88a8, &tag(1, 0x8100, &tag(2, 0x0800, &tcp4.with(&tcp(1, 2, SYN, 6, &[0; 12])))));
    let inner6 = ethernet(0x86dd, &ipv6(0, None, &extension(17, 1, &udp(1, 2, None, &[0; 9]))));
    for (port, whole) in [
        (4789, vxlan(1, &inner)),
        (6081, geneve(1, 0x6558, 3, &inner)),
        (6081, geneve(1, 0x86dd, 0, &inner6[14..])),
    ] {
        let bench = Bench::new(BOTH);
        for length in 0..whole.len() {
            // Padded or not: what is behind the datagram is not part of it.
            bench.see(&outer4(port, &whole[..length]));
            bench.see(&[outer4(port, &whole[..length]), whole[length..].to_vec()].concat());
        }
        bench.loaded.assert_conserved();
        assert_eq!(bench.the_flow().total.packets(), 2 * whole.len() as u64);
        let kinds = [nm_kind::NM_KIND_TUNNEL_HEADER, nm_kind::NM_KIND_TUNNEL_MALFORMED];
        assert_eq!(
            kinds.map(|kind| bench.loaded.object.kind(kind)).iter().sum::<u64>(),
            2 * whole.len() as u64,
            "port {port}"
        );
        bench.see(&outer4(port, &whole));
        assert_eq!(bench.flows().len(), 2, "whole at last");
    }
}

#[test]
fn outer_addresses_are_told_as_the_opener_sends() {
    let bench = Bench::new(BOTH);
    let back = Ipv4 { protocol: 6, ..Ipv4::default() };
    // Met at the answer: the opener is 10.0.0.2, behind 192.0.2.2.
    let answer = ethernet(0x0800, &back.with(&tcp(80, 50_000, SYN | ACK, 5, &[])));
    bench.see(&outer4(4789, &vxlan(42, &answer)));
    let flow = bench.the_flow();
    assert_eq!(flow.key.src.to_string(), "10.0.0.2:50000");
    let tunnel = flow.tunnel.unwrap();
    assert_eq!((tunnel.src.to_string(), tunnel.dst.to_string()), ("192.0.2.2".into(), "192.0.2.1".into()));
}

#[test]
fn a_packet_seen_bare_and_in_a_tunnel_is_counted_once_and_names_the_tunnel() {
    for bare_first in [true, false] {
        let bench = Bench::new(BOTH);
        let frames = [inner4(), outer4(4789, &vxlan(42, &inner4()))];
        let [first, second] = if bare_first { [0, 1] } else { [1, 0] };
        bench.see_at(TestProgram::Ingress, &frames[first]);
        bench.see_at(TestProgram::Egress, &frames[second]);
        bench.loaded.assert_conserved();
        let flow = bench.the_flow();
        assert_eq!((flow.total.packets(), flow.total.bytes()), (1, frames[first].len() as u64));
        assert_eq!(flow.tunnel.map(|tunnel| tunnel.vni), Some(42), "bare first: {bare_first}");
    }
}

#[test]
fn flows_that_find_no_room_for_their_tunnel_are_counted_and_go_without() {
    let bench = Bench::with(BOTH, 1, false);
    for port in [1, 2, 2, 2] {
        let inner = ethernet(0x0800, &Ipv4::default().with(&udp(port, 53, None, &[])));
        bench.see(&outer4(4789, &vxlan(42, &inner)));
    }
    bench.loaded.assert_conserved();
    assert_eq!(bench.flows().iter().filter(|flow| flow.tunnel.is_some()).count(), 1);
    assert_eq!(bench.loaded.object.kind(nm_kind::NM_KIND_TUNNEL_UNMARKED), 1, "once a flow");
}

#[test]
fn a_connection_on_the_same_ports_has_a_tunnel_of_its_own() {
    let bench = Bench::new(BOTH);
    let tcp4 = Ipv4 { protocol: 6, ..Ipv4::default() };
    let frame = |vni, flags| {
        outer4(4789, &vxlan(vni, &ethernet(0x0800, &tcp4.with(&tcp(50_000, 80, flags, 5, &[])))))
    };
    bench.see(&frame(1, SYN));
    bench.see(&frame(1, RST));
    bench.see(&frame(2, SYN));
    bench.loaded.assert_conserved();
    let mut vnis: Vec<u32> = bench.flows().iter().map(|flow| flow.tunnel.unwrap().vni).collect();
    vnis.sort_unstable();
    assert_eq!(vnis, [1, 2]);
}

#[test]
fn icmp_errors_name_the_inner_flow_and_the_outer_one() {
    let bench = Bench::new(BOTH);
    let inner =
        |destination: u16| ethernet(0x0800, &Ipv4::default().with(&udp(1000, destination, None, b"hello")));
    let to =
        |source: [u8; 4], destination: [u8; 4]| Ipv4 { protocol: 1, source, destination, ..Ipv4::default() };
    let errors = |port: u16| -> Vec<IcmpError> {
        let flow = bench.flows().into_iter().find(|flow| flow.key.dst.port() == port).unwrap();
        flow.icmp_errors.iter().collect()
    };
    // In the tunnel, about what is in it.
    bench.see(&outer4(4789, &vxlan(42, &inner(53))));
    let error = [icmp(3, 3, 0), inner(53)[14..].to_vec()].concat();
    let error = ethernet(0x0800, &to([10, 0, 0, 2], [10, 0, 0, 1]).with(&error));
    bench.see(&outer4(4789, &vxlan(42, &error)));
    assert_eq!(errors(53), [IcmpError::PortUnreachable]);
    // About the datagram that carried it: of a router, and of a host that knows no such tunnel.
    let carriers = [
        (54, outer4(4789, &vxlan(42, &inner(54)))),
        (55, outer4(6081, &geneve(42, 0x6558, 2, &inner(55)))),
        (56, outer4(6081, &geneve(42, 0x0800, 0, &inner(56)[14..]))),
    ];
    for (port, carrier) in carriers {
        bench.see(&carrier);
        for code in [4, 3] {
            let error = [icmp(3, code, 0), carrier[14..].to_vec()].concat();
            bench.see(&ethernet(0x0800, &to([192, 0, 2, 9], [192, 0, 2, 1]).with(&error)));
        }
        assert_eq!(errors(port), [IcmpError::Unreachable, IcmpError::TooBig], "port {port}");
        // Not to the sender of the datagram: not believed. Cut before the flow inside: it names none.
        let error = [icmp(11, 0, 0), carrier[14..].to_vec()].concat();
        bench.see(&ethernet(0x0800, &to([192, 0, 2, 9], [192, 0, 2, 7]).with(&error)));
        bench.see(&ethernet(0x0800, &to([192, 0, 2, 9], [192, 0, 2, 1]).with(&error[..8 + 28])));
        assert_eq!(errors(port).len(), 2, "port {port}");
    }
    // ARP is all that the outer flow has of its own.
    let arp = outer4(4789, &vxlan(42, &ethernet(0x0806, &[0; 28])));
    bench.see(&arp);
    let error = [icmp(3, 3, 0), arp[14..].to_vec()].concat();
    bench.see(&ethernet(0x0800, &to([192, 0, 2, 9], [192, 0, 2, 1]).with(&error)));
    assert_eq!(errors(4789), [IcmpError::PortUnreachable]);
    bench.loaded.assert_conserved();
}
