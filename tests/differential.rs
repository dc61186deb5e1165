//! The kernel's parser against another one (etherparse) on packets that are random, mutated and cut short: the same flow and the same
//! bytes, or counted as what makes no sense. Wherever the two may differ is said here, with the reason. Needs root.
//!
//! `NETMON_PACKETS=10000000 cargo test --release --test differential` for a long run; `NETMON_SEED` for another one.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "programs/frame.rs"]
mod frame;
#[path = "programs/loaded.rs"]
mod loaded;
#[path = "common/random.rs"]
mod random;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use etherparse::err::Layer;
use etherparse::err::ipv6_exts::HeaderError;
use etherparse::err::packet::SliceError;
use etherparse::{LaxNetSlice, LaxSlicedPacket, LinkExtSlice, NetSlice, SlicedPacket, TransportSlice};
use frame::{Ipv4, ethernet, extension, fragment6, icmp, ipv6, padded, tag, tcp, udp};
use loaded::Loaded;
use netmon::flow::key::Protocol;
use netmon::kernel::decode;
use netmon::kernel::object::{Features, TestProgram};
use netmon::kernel::stats::Outcome;
use random::Random;

fn transport(random: &mut Random) -> (u8, Vec<u8>) {
    let (source, destination) = (random.next() as u16, random.one_of(&[53, 80, 443, 4789, 65_535]));
    let payload = random.bytes(40);
    let lie = random.once_in(8);
    match random.below(8) {
        0 | 1 => {
            let words = if lie { random.below(16) as u8 } else { 5 };
            (6, tcp(source, destination, random.next() as u8, words, &payload))
        }
        2 | 3 => (17, udp(source, destination, lie.then(|| random.below(70) as u16), &payload)),
        4 => (1, [icmp(random.one_of(&[0, 3, 8, 11, 13]), random.below(3) as u8, source), payload].concat()),
        5 => (58, [icmp(random.one_of(&[1, 128, 129, 135]), 0, source), payload].concat()),
        6 => (132, [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0; 8], &payload].concat()),
        _ => (random.one_of(&[2, 4, 41, 47, 50, 51, 59, 89, 103, 253]), payload),
    }
}

/// Mostly whole; what lies does so in one place.
fn made(random: &mut Random) -> Vec<u8> {
    let (protocol, payload) = transport(random);
    let lie = random.once_in(8);
    let (kind, packet) = if random.once_in(2) {
        let words = 4 * random.one_of(&[0, 0, 0, 1, 10]);
        let packet = Ipv4 {
            protocol,
            header_words: (lie && random.once_in(2)).then(|| random.below(16) as u8),
            total_length: (lie && random.once_in(2)).then(|| random.below(120) as u16),
            fragment: if random.once_in(8) { random.next() as u16 } else { 0x4000 },
            id: random.next() as u16,
            options: vec![1; words],
            source: (random.next() as u32).to_be_bytes(),
            ..Ipv4::default()
        };
        (0x0800, packet.with(&payload))
    } else {
        let (mut next, mut inside) = (protocol, payload);
        for _ in 0..random.one_of(&[0, 0, 1, 2, 9]) {
            let kind = random.one_of(&[0, 43, 60, 44, 135]);
            inside = if kind == 44 {
                fragment6(next, random.one_of(&[0, 0, 3]), random.once_in(3), random.next() as u32, &inside)
            } else {
                extension(next, random.one_of(&[0, 0, 1, 4]), &inside)
            };
            next = kind;
        }
        (0x86dd, ipv6(next, lie.then(|| random.below(160) as u16), &inside))
    };
    let (mut kind, mut packet) =
        (if random.once_in(30) { random.one_of(&[0x0806, 0x88e5, 0x1234, 0x0800]) } else { kind }, packet);
    for _ in 0..random.one_of(&[0, 0, 0, 1, 2, 3]) {
        packet = tag(random.next() as u16 & 0xfff, kind, &packet);
        kind = random.one_of(&[0x8100, 0x88a8, 0x8100, 0x9100]);
    }
    ethernet(kind, &packet)
}

/// Some made as they should be, some with bytes changed, some cut, some longer, some of noise behind a link header.
fn any(random: &mut Random) -> Vec<u8> {
    let mut frame = made(random);
    match random.below(7) {
        0..=2 => {}
        3 => {
            for _ in 0..=random.below(3) {
                let at = 12 + random.below(frame.len() - 12);
                frame[at] = random.next() as u8;
            }
        }
        4 => frame.truncate(15 + random.below(frame.len() - 14)),
        5 => frame = padded(frame),
        _ => {
            let kind = random.one_of(&[0x0800, 0x86dd, 0x8100]);
            let mut noise = random.bytes(120);
            noise.insert(0, if kind == 0x0800 { 0x45 } else { 0x60 });
            frame = ethernet(kind, &noise);
        }
    }
    frame
}

/// What has to come out.
#[derive(Debug)]
enum Expected {
    /// A flow between these ends, of this protocol.
    Flow(u8, [SocketAddr; 2]),
    /// A flow between these addresses, or none: why the rest is not compared.
    Between([IpAddr; 2], &'static str),
    /// No flow.
    Nothing,
    /// Anything that is counted once: why.
    Either(&'static str),
}

fn ports_at(payload: &[u8]) -> [u16; 2] {
    [0, 2].map(|at| u16::from_be_bytes([payload[at], payload[at + 1]]))
}

/// By etherparse, and by what is said here of differences.
fn expected(frame: &[u8]) -> Expected {
    let parsed = match SlicedPacket::from_ethernet(frame) {
        Ok(parsed) => parsed,
        // We take extension headers in any order, as routers do.
        Err(SliceError::Ipv6Exts(HeaderError::HopByHopNotAtStart)) => {
            return Expected::Either("hop-by-hop options that are not first");
        }
        Err(_) => return refused(frame),
    };
    // A third tag is not looked behind, nor is one of type 0x9100, which no standard has, nor MACsec.
    let mut kind = u16::from_be_bytes([frame[12], frame[13]]);
    for (number, tag) in parsed.link_exts.iter().enumerate() {
        let LinkExtSlice::Vlan(tag) = tag else { return Expected::Nothing };
        if number == 2 || kind == 0x9100 {
            return Expected::Nothing;
        }
        kind = tag.ether_type().0;
    }
    let (addresses, next, payload, family): ([IpAddr; 2], u8, _, u8) = match &parsed.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            // Its AH is a protocol of its own, as on every host that does not decrypt it.
            if header.protocol().0 == 51 {
                return Expected::Either("AH in IPv4");
            }
            let ends = [header.source_addr().into(), header.destination_addr().into()];
            (ends, header.protocol().0, ip.payload(), 4)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let ends = [header.source_addr().into(), header.destination_addr().into()];
            if header.payload_length() == 0 {
                return Expected::Between(
                    ends,
                    "a payload of length 0: taken for a jumbogram only where it may be one",
                );
            }
            if ip.extensions().clone().into_iter().count() > 8 {
                return Expected::Between(ends, "more than eight extension headers");
            }
            let next = ip.payload().ip_number.0;
            if next == 135 || next == 139 {
                return Expected::Between(
                    ends,
                    "mobility and HIP headers: etherparse does not look behind them",
                );
            }
            (ends, next, ip.payload(), 6)
        }
        _ => return Expected::Nothing,
    };
    if payload.fragmented {
        return Expected::Between(addresses, "fragments: etherparse does not look into them");
    }
    let bytes = payload.payload;
    let ports = match (&parsed.transport, next) {
        (Some(TransportSlice::Tcp(tcp)), _) => [tcp.source_port(), tcp.destination_port()],
        (Some(TransportSlice::Udp(udp)), _) => {
            if udp.length() == 0 && family == 4 {
                return Expected::Nothing;
            }
            [udp.source_port(), udp.destination_port()]
        }
        (_, 132) if bytes.len() >= 12 => ports_at(bytes),
        (_, 132) => return Expected::Nothing,
        // Echo requests and replies, whatever their code.
        (_, 1) if family == 4 => match bytes[0] {
            0 | 8 => [u16::from_be_bytes([bytes[4], bytes[5]]); 2],
            _ => [0; 2],
        },
        (_, 58) if family == 6 => match bytes[0] {
            128 | 129 => [u16::from_be_bytes([bytes[4], bytes[5]]); 2],
            _ => [0; 2],
        },
        _ => [0; 2],
    };
    let ends = [(addresses[0], ports[0]), (addresses[1], ports[1])];
    Expected::Flow(next, ends.map(SocketAddr::from))
}

/// What etherparse refuses and we may not.
fn refused(frame: &[u8]) -> Expected {
    let lax = LaxSlicedPacket::from_ethernet(frame);
    let Ok(lax) = lax else { return Expected::Nothing };
    let is_v4 = match &lax.net {
        Some(LaxNetSlice::Ipv4(ip)) if ip.header().protocol().0 == 51 => {
            return Expected::Either("AH in IPv4");
        }
        net => matches!(net, Some(LaxNetSlice::Ipv4(_))),
    };
    let Some((error, layer)) = &lax.stop_err else { return Expected::Nothing };
    if matches!(&lax.net, Some(LaxNetSlice::Ipv6(ip)) if ip.payload().fragmented) {
        return Expected::Either(
            "fragments: etherparse looks for further headers behind the fragment header of later ones",
        );
    }
    match layer {
        Layer::Icmpv4 if matches!(error, SliceError::Len(error) if error.required_len > 8) => {
            Expected::Either("ICMP timestamps: we ask for the eight bytes that all messages have")
        }
        Layer::Icmpv4 if !is_v4 => Expected::Either("ICMP in IPv6: not looked into"),
        Layer::Icmpv6 if is_v4 => Expected::Either("ICMPv6 in IPv4: not looked into"),
        Layer::Igmp => Expected::Either("IGMP: not looked into"),
        Layer::Arp | Layer::MacsecHeader => Expected::Either("not IP"),
        _ => Expected::Nothing,
    }
}

/// What came out of one frame.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    outcome: Outcome,
    flow: Option<(Protocol, [SocketAddr; 2], u64, u64)>,
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn two_parsers_agree_on_every_packet_or_it_is_said_why_not() {
    let loaded = Loaded::load(8, Features::default());
    let (packets, seed) = (setting("NETMON_PACKETS", 200_000), setting("NETMON_SEED", 20_261_125));
    let mut random = Random(seed);
    let outcomes = || loaded.object.interface(0).unwrap().hooks[0];
    let mut before = outcomes();
    let (mut compared, mut nothing, mut left): (u64, u64, BTreeMap<&str, u64>) = (0, 0, BTreeMap::new());
    for number in 0..packets {
        let frame = any(&mut random);
        let expected = expected(&frame);
        if let Err(error) = loaded.object.run_on_frame(TestProgram::Ingress, &frame, 1) {
            let least = if frame[12] == 8 { 14 + 20 } else { 14 + 40 };
            assert!(frame.len() < least, "{error}: {frame:02x?}");
            *left.entry("less than an IP header: the kernel does not run it").or_default() += 1;
            continue;
        }
        let now = outcomes();
        let grown: Vec<usize> =
            (0..Outcome::ALL.len()).filter(|n| now.outcomes[*n] != before.outcomes[*n]).collect();
        let told = || format!("seed {seed}, packet {number}: {frame:02x?}\nexpected {expected:?}");
        assert!(now.seen == before.seen + 1 && grown.len() == 1, "{} outcomes\n{}", grown.len(), told());
        assert_eq!(now.outcomes[grown[0]], before.outcomes[grown[0]] + 1, "{}", told());
        before = now;
        let mut flows: Vec<_> =
            (0..loaded.table.slots()).filter_map(|slot| Some((slot, loaded.table.read(slot)?))).collect();
        let flow = flows.pop().map(|(slot, flow)| {
            loaded.table.kill(slot);
            loaded.table.clear(slot);
            let (key, counters) = (decode::key(&flow.cold).unwrap(), flow.counters());
            (key.protocol, [key.src, key.dst], counters.packets(), counters.bytes())
        });
        assert!(flows.is_empty(), "several flows\n{}", told());
        let seen = Seen { outcome: Outcome::ALL[grown[0]], flow };
        // One outcome, and a flow that holds the whole packet if it is `counted`.
        assert_eq!(seen.flow.is_some(), seen.outcome == Outcome::Counted, "{seen:?}\n{}", told());
        if let Some((_, _, packets, bytes)) = seen.flow {
            assert_eq!((packets, bytes), (1, frame.len() as u64), "{}", told());
        }
        let sorted = |mut ends: [SocketAddr; 2]| {
            ends.sort();
            ends
        };
        match (&expected, &seen.flow) {
            (Expected::Flow(protocol, ends), Some(flow)) => {
                assert_eq!((Protocol(*protocol), sorted(*ends)), (flow.0, sorted(flow.1)), "{}", told());
                compared += 1;
            }
            (Expected::Nothing, None) => {
                assert!(matches!(seen.outcome, Outcome::NotIp | Outcome::Malformed), "{seen:?}\n{}", told());
                nothing += 1;
            }
            (Expected::Between(addresses, why), flow) => {
                if let Some((_, ends, ..)) = flow {
                    let mut found = ends.map(|end| end.ip());
                    let mut wanted = *addresses;
                    found.sort();
                    wanted.sort();
                    assert_eq!(found, wanted, "{}", told());
                }
                *left.entry(why).or_default() += 1;
            }
            (Expected::Either(why), _) => *left.entry(why).or_default() += 1,
            _ => panic!("{seen:?}\n{}", told()),
        }
    }
    println!(
        "{packets} packets: {compared} flows alike, {nothing} refused by both; not compared in full: {left:#?}"
    );
    assert!(compared > packets / 4 && nothing > packets / 20, "{compared} {nothing}");
    assert!(left.values().sum::<u64>() < packets / 2);
}
