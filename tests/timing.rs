//! Sequence numbers, round trips and waiting times, by BPF_PROG_TEST_RUN on crafted segments. Needs root.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "programs/frame.rs"]
mod frame;
#[path = "programs/loaded.rs"]
mod loaded;

use frame::{Ipv4, ethernet, icmp};
use loaded::Loaded as Wire;
use netmon::collector::ledger::{self, Context};
use netmon::flow::app::App;
use netmon::flow::measured::Measured;
use netmon::flow::record::{Ending, IcmpError, Reason, State};
use netmon::flow::update::Flow;
use netmon::flow::verdict::ending;
use netmon::kernel::decode;
use netmon::kernel::object::{Features, TestProgram};
use netmon::kernel::types::nm_kind;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// One segment; `from` 0 is the opener.
#[derive(Clone, Copy)]
struct Segment {
    from: usize,
    seq: u32,
    ack: u32,
    flags: u8,
    length: usize,
    window: u16,
    stamps: Option<(u32, u32)>,
}

fn segment(from: usize, seq: u32, ack: u32, length: usize) -> Segment {
    Segment { from, seq, ack, flags: ACK, length, window: 1024, stamps: None }
}

/// A TCP conversation as one observer sees it: 10.0.0.1:40000 opens, 10.0.0.2:80 answers.
impl Wire {
    fn new(precise: bool) -> Self {
        Self::with(Features {
            timing: true,
            bounds_us: vec![1000],
            precise,
            protocols: App::KNOWN.to_vec(),
            who: true,
            ..Features::default()
        })
    }

    fn see(&self, segment: Segment) {
        let frame = ethernet(0x0800, &Self::packet(segment));
        self.run(TestProgram::Ingress, &frame);
    }

    fn packet(segment: Segment) -> Vec<u8> {
        let ends = [[10, 0, 0, 1], [10, 0, 0, 2]];
        let ports = [40_000u16, 80];
        let (me, you) = (segment.from, 1 - segment.from);
        let mut bytes = [ports[me].to_be_bytes(), ports[you].to_be_bytes()].concat();
        bytes.extend(segment.seq.to_be_bytes());
        bytes.extend(segment.ack.to_be_bytes());
        let words: u8 = if segment.stamps.is_some() { 8 } else { 5 };
        bytes.extend([words << 4, segment.flags]);
        bytes.extend(segment.window.to_be_bytes());
        bytes.extend([0; 4]);
        if let Some((value, echo)) = segment.stamps {
            bytes.extend([1, 1, 8, 10]);
            bytes.extend(value.to_be_bytes());
            bytes.extend(echo.to_be_bytes());
        }
        bytes.extend(vec![b'x'; segment.length]);
        Ipv4 { protocol: 6, source: ends[me], destination: ends[you], ..Ipv4::default() }.with(&bytes)
    }

    /// A router's ICMP error about a segment of the opener.
    fn see_error_about(&self, segment: Segment) {
        let error = [icmp(3, 1, 0), Self::packet(segment)].concat();
        let ip = Ipv4 { protocol: 1, source: [10, 0, 0, 9], destination: [10, 0, 0, 1], ..Ipv4::default() };
        self.run(TestProgram::Ingress, &ethernet(0x0800, &ip.with(&error)));
    }

    fn flow(&self) -> Flow {
        let context = Context { timing: true, ..Context::default() };
        let slot = self.snapshots().find(|slot| slot.cold.protocol == 6).expect("a flow");
        ledger::flow(&slot, &context, netmon::clock::monotonic_ns(), false).unwrap()
    }

    fn shake_hands(&self, seq: u32, other: u32) {
        self.see(Segment { flags: SYN, ..segment(0, seq, 0, 0) });
        self.see(Segment { flags: SYN | ACK, ..segment(1, other, seq.wrapping_add(1), 0) });
        self.see(segment(0, seq.wrapping_add(1), other.wrapping_add(1), 0));
    }

    fn measured(&self) -> Measured {
        let slot = self.snapshots().next().expect("a flow");
        decode::measured(&slot)
    }

    /// Retransmits and segments out of order of each side.
    fn losses(&self) -> [(u32, u32); 2] {
        self.measured().sides.map(|side| (side.retransmits, side.out_of_order))
    }
}

#[test]
fn a_handshake_is_timed_on_both_sides_and_gives_the_first_round_trips() {
    let wire = Wire::new(false);
    wire.see(Segment { flags: SYN, ..segment(0, 100, 0, 0) });
    std::thread::sleep(std::time::Duration::from_millis(20));
    wire.see(Segment { flags: SYN | ACK, ..segment(1, 900, 101, 0) });
    std::thread::sleep(std::time::Duration::from_millis(5));
    wire.see(segment(0, 101, 901, 0));
    let measured = wire.measured();
    let [client, server] = measured.sides.map(|side| side.rtt);
    assert_eq!((client.samples, server.samples), (1, 1));
    assert!(
        server.min_us >= 20_000 && client.min_us >= 5000 && client.min_us < server.min_us,
        "{measured:?}"
    );
    // Both clocks were read for the same packet.
    assert!(measured.answer_us.unwrap().abs_diff(server.min_us) < 2000, "{measured:?}");
    assert_eq!(wire.losses(), [(0, 0), (0, 0)]);
}

#[test]
fn what_is_sent_again_is_told_from_what_comes_late() {
    // The last sequence numbers before they wrap around, and some in the middle.
    for start in [1000, u32::MAX - 150] {
        let at = |offset: u32| start.wrapping_add(1 + offset);
        let wire = Wire::new(true);
        wire.shake_hands(start, 5000);
        for offset in [0, 100, 200] {
            wire.see(segment(0, at(offset), 5001, 100));
        }
        assert_eq!(wire.losses(), [(0, 0), (0, 0)], "in order, from {start}");
        wire.see(segment(0, at(100), 5001, 100));
        assert_eq!(wire.losses(), [(1, 0), (0, 0)], "seen before, from {start}");
        wire.see(segment(0, at(400), 5001, 100));
        wire.see(segment(0, at(300), 5001, 100));
        assert_eq!(wire.losses(), [(1, 1), (0, 0)], "the gap fills at once, from {start}");
        wire.see(segment(0, at(600), 5001, 100));
        std::thread::sleep(std::time::Duration::from_millis(20));
        wire.see(segment(0, at(500), 5001, 100));
        assert_eq!(wire.losses(), [(2, 1), (0, 0)], "the gap fills late, from {start}");
        // A keep-alive sends the last byte again, or none of it; neither is a retransmit.
        wire.see(segment(0, at(699), 5001, 1));
        wire.see(segment(0, at(699), 5001, 0));
        assert_eq!(wire.losses(), [(2, 1), (0, 0)], "keep-alives, from {start}");
        wire.see(Segment { flags: FIN | ACK, ..segment(0, at(700), 5001, 0) });
        wire.see(Segment { flags: FIN | ACK, ..segment(0, at(700), 5001, 0) });
        assert_eq!(wire.losses(), [(3, 1), (0, 0)], "the FIN, from {start}");
        wire.see(Segment { flags: RST, ..segment(1, 77, 0, 30) });
        assert_eq!(wire.losses(), [(3, 1), (0, 0)], "a RST says nothing of sequences, from {start}");
    }
}

#[test]
fn a_syn_that_is_sent_again_counts_and_gives_no_round_trip() {
    let wire = Wire::new(false);
    wire.see(Segment { flags: SYN, ..segment(0, 100, 0, 0) });
    wire.see(Segment { flags: SYN, ..segment(0, 100, 0, 0) });
    wire.see(Segment { flags: SYN | ACK, ..segment(1, 900, 101, 0) });
    assert_eq!(wire.losses(), [(1, 0), (0, 0)]);
    assert_eq!(wire.measured().sides[1].rtt.samples, 0, "it may answer either");
}

#[test]
fn a_timestamp_that_is_younger_than_the_segment_is_no_round_trip() {
    let samples = |echo: u32| {
        let wire = Wire::new(true);
        wire.see(Segment { stamps: Some((500, 7)), ..segment(0, 100, 900, 50) });
        wire.see(Segment { stamps: Some((8, echo)), ..segment(1, 900, 150, 0) });
        wire.measured().sides[1].rtt.samples
    };
    assert_eq!((samples(500), samples(499), samples(501)), (1, 1, 0));
    // Before the wrap-around of timestamps 2^32 - 1 is older than 3.
    let wire = Wire::new(true);
    wire.see(Segment { stamps: Some((3, 7)), ..segment(0, 100, 900, 50) });
    wire.see(Segment { stamps: Some((8, u32::MAX)), ..segment(1, 900, 150, 0) });
    assert_eq!(wire.measured().sides[1].rtt.samples, 1);
}

#[test]
fn only_an_acknowledgement_of_the_whole_segment_is_a_round_trip() {
    let wire = Wire::new(true);
    wire.see(segment(0, 100, 900, 50));
    wire.see(segment(1, 900, 149, 0));
    assert_eq!(wire.measured().sides[1].rtt.samples, 0);
    wire.see(segment(1, 900, 150, 0));
    assert_eq!(wire.measured().sides[1].rtt.samples, 1);
    wire.see(segment(1, 900, 150, 0));
    assert_eq!(wire.measured().sides[1].rtt.samples, 1, "told once");
}

#[test]
fn normal_precision_takes_few_samples_and_high_all() {
    for (precise, expected) in [(false, 1), (true, 50)] {
        let wire = Wire::new(precise);
        for number in 0..50 {
            wire.see(segment(0, 100 + number * 10, 900, 10));
            wire.see(segment(1, 900, 110 + number * 10, 0));
        }
        let samples = wire.measured().sides[1].rtt.samples;
        // A slow machine may come to a second sample after 200 ms.
        assert!(samples >= expected && samples <= expected + 2, "precise: {precise}, {samples} samples");
    }
}

#[test]
fn closed_windows_and_repeated_acknowledgements_are_counted_by_side() {
    let wire = Wire::new(false);
    wire.shake_hands(100, 900);
    wire.see(segment(0, 101, 901, 100));
    wire.see(segment(0, 201, 901, 100));
    for _ in 0..6 {
        wire.see(segment(1, 901, 101, 0));
    }
    let [client, server] = wire.measured().sides;
    assert_eq!((client.repeated_acks, server.repeated_acks), (0, 1), "one burst, however long");
    for window in [500, 0, 0, 300, 0] {
        wire.see(Segment { window, ..segment(1, 901, 301, 0) });
    }
    let [client, server] = wire.measured().sides;
    assert_eq!((client.zero_windows, server.zero_windows), (0, 2));
    // All is acknowledged: what is repeated now announces nothing lost.
    for _ in 0..6 {
        wire.see(Segment { window: 1024, ..segment(1, 901, 301, 0) });
    }
    assert_eq!(wire.measured().sides[1].repeated_acks, 1);
}

#[test]
fn the_first_byte_is_what_the_opener_waited_for() {
    let wire = Wire::new(false);
    wire.shake_hands(100, 900);
    // A server that greets first has not been asked.
    wire.see(segment(1, 901, 101, 20));
    assert_eq!(wire.measured().first_byte_us, None);
    wire.see(segment(0, 101, 921, 10));
    std::thread::sleep(std::time::Duration::from_millis(10));
    wire.see(segment(1, 921, 111, 500));
    let first = wire.measured().first_byte_us.unwrap();
    assert!(first >= 10_000, "{first} us");
    wire.see(segment(1, 1421, 111, 500));
    assert_eq!(wire.measured().first_byte_us, Some(first), "the first stays");
}

#[test]
fn an_icmp_error_is_believed_only_about_a_segment_on_its_way() {
    let told = |about: Segment| {
        let wire = Wire::new(false);
        wire.shake_hands(100, 900);
        wire.see(segment(0, 101, 901, 100));
        wire.see(segment(1, 901, 151, 0));
        wire.see_error_about(about);
        (
            wire.flow().icmp_errors.contains(IcmpError::Unreachable),
            wire.object.kind(nm_kind::NM_KIND_QUOTE_REFUSED),
        )
    };
    assert_eq!(told(segment(0, 151, 901, 50)), (true, 0), "in flight");
    assert_eq!(told(segment(0, 101, 901, 50)), (false, 1), "acknowledged already");
    assert_eq!(told(segment(0, 201, 901, 50)), (false, 1), "never sent");
    assert_eq!(told(segment(0, 0x8000_0000, 901, 50)), (false, 1), "far off");
    let wire = Wire::new(false);
    wire.see(Segment { flags: SYN, ..segment(0, 100, 0, 0) });
    wire.see_error_about(Segment { flags: SYN, ..segment(0, 100, 0, 0) });
    assert!(wire.flow().icmp_errors.contains(IcmpError::Unreachable), "the SYN");
}

#[test]
fn a_reset_is_believed_only_where_its_receiver_may_be_waiting() {
    let told = |wire: &Wire, reset: Segment| {
        wire.see(reset);
        (wire.flow().reason.is_some(), wire.object.kind(nm_kind::NM_KIND_RESET_REFUSED))
    };
    let (believed, refused) = ((true, 0), (false, 1));
    // The server has sent 901 to 1000, the client has acknowledged half of it.
    let amid = || {
        let wire = Wire::new(false);
        wire.shake_hands(100, 900);
        wire.see(segment(0, 101, 901, 50));
        wire.see(segment(1, 901, 151, 100));
        wire.see(segment(0, 151, 951, 0));
        wire
    };
    for (seq, expected) in [
        (951, believed),
        (980, believed),
        (1001, believed),
        (950, refused),
        (1002, refused),
        (0x8000_0000, refused),
        (0, refused),
    ] {
        for flags in [RST, RST | ACK] {
            let reset = Segment { flags, ..segment(1, seq, 77, 0) };
            assert_eq!(told(&amid(), reset), expected, "{seq}, flags {flags}");
        }
    }
    // Another SYN moves nothing, whatever it says.
    for flags in [SYN, SYN | ACK] {
        let wire = amid();
        wire.see(Segment { flags, ..segment(1, 5000, 9000, 0) });
        wire.see(Segment { flags, ..segment(0, 5000, 9000, 0) });
        assert_eq!(told(&wire, Segment { flags: RST, ..segment(1, 3000, 0, 0) }), refused);
        assert_eq!(wire.losses(), [(0, 0), (0, 0)]);
    }
    // What is refused leaves no trace: the connection ends as its ends have it.
    let wire = amid();
    assert_eq!(told(&wire, Segment { flags: RST, ..segment(1, 77, 0, 0) }), refused);
    wire.see(Segment { flags: FIN | ACK, ..segment(1, 1001, 151, 0) });
    wire.see(Segment { flags: FIN | ACK, ..segment(0, 151, 1002, 0) });
    let flow = wire.flow();
    assert_eq!(
        (ending(&flow), flow.reset_by_opener, flow.tcp_flags[1] & RST),
        (Some(Ending::Closed), None, 0)
    );

    // The answer to a SYN has no number of its own, and acknowledges it.
    let syn = 1_000_000;
    for (flags, ack, expected) in [
        (RST | ACK, syn + 1, believed),
        (RST | ACK, syn + 2, refused),
        (RST | ACK, 1, refused),
        (RST, syn + 1, refused),
    ] {
        let wire = Wire::new(false);
        wire.see(Segment { flags: SYN, ..segment(0, syn, 0, 0) });
        assert_eq!(told(&wire, Segment { flags, ..segment(1, 0, ack, 0) }), expected, "{ack}, flags {flags}");
    }
    // What has not been seen is no reason for doubt.
    let mut wire = Wire::new(false);
    assert_eq!(told(&wire, Segment { flags: RST, ..segment(1, 77, 0, 0) }), believed, "met at its end");
    wire = amid();
    let off = Features { timing: false, ..wire.object.features().clone() };
    wire.object.switch(&off, false);
    assert_eq!(told(&wire, Segment { flags: RST, ..segment(1, 77, 0, 0) }), believed, "switched off");
}

#[test]
fn unusual_openings_and_ends_are_told_right() {
    // Both send their SYN before they have seen the other's (RFC 9293 3.5, figure 7).
    let wire = Wire::new(false);
    wire.see(Segment { flags: SYN, ..segment(0, 100, 0, 0) });
    wire.see(Segment { flags: SYN, ..segment(1, 900, 0, 0) });
    assert_eq!(wire.flow().state, State::Opening, "two SYNs are no connection yet");
    wire.see(Segment { flags: SYN | ACK, ..segment(0, 100, 901, 0) });
    wire.see(Segment { flags: SYN | ACK, ..segment(1, 900, 101, 0) });
    assert_eq!((wire.flow().state, wire.flow().key.src.port()), (State::Established, 40_000));

    // One side has said its last word and goes on to listen.
    wire.see(Segment { flags: FIN | ACK, ..segment(0, 101, 901, 0) });
    wire.see(segment(1, 901, 102, 500));
    assert_eq!((wire.flow().state, ending(&wire.flow())), (State::Closing, None));
    wire.see(Segment { flags: FIN | ACK, ..segment(1, 1401, 102, 0) });
    assert_eq!((wire.flow().state, ending(&wire.flow())), (State::Closed, Some(Ending::Closed)));
    assert_eq!(wire.flow().reset_by_opener, None);

    // Data with the SYN (RFC 7413) is the request.
    let wire = Wire::new(false);
    wire.see(Segment { flags: SYN, ..segment(0, 100, 0, 20) });
    wire.see(Segment { flags: SYN | ACK, ..segment(1, 900, 121, 0) });
    wire.see(segment(1, 901, 121, 300));
    assert!(wire.measured().first_byte_us.is_some());
    assert_eq!(wire.losses(), [(0, 0), (0, 0)]);

    // A RST may carry the reason as text (RFC 1122 4.2.2.12).
    let wire = Wire::new(false);
    wire.shake_hands(100, 900);
    wire.see(Segment { flags: RST | ACK, ..segment(1, 901, 101, 12) });
    let flow = wire.flow();
    assert_eq!((flow.reason, flow.reset_by_opener), (Some(Reason::Reset), Some(false)));
    assert_eq!((ending(&flow), wire.losses()), (Some(Ending::Reset), [(0, 0), (0, 0)]));

    // A client that is gone answers what still comes by RST.
    let wire = Wire::new(false);
    wire.shake_hands(100, 900);
    wire.see(Segment { flags: FIN | ACK, ..segment(0, 101, 901, 0) });
    wire.see(segment(1, 901, 102, 500));
    wire.see(Segment { flags: RST, ..segment(0, 102, 0, 0) });
    let flow = wire.flow();
    assert_eq!((ending(&flow), flow.reset_by_opener), (Some(Ending::Aborted), Some(true)));

    // A scanner has seen enough.
    let wire = Wire::new(false);
    wire.see(Segment { flags: SYN, ..segment(0, 100, 0, 0) });
    wire.see(Segment { flags: SYN | ACK, ..segment(1, 900, 101, 0) });
    wire.see(Segment { flags: RST, ..segment(0, 101, 0, 0) });
    assert_eq!(ending(&wire.flow()), Some(Ending::Aborted));

    // Nobody listens.
    let wire = Wire::new(false);
    wire.see(Segment { flags: SYN, ..segment(0, 100, 0, 0) });
    wire.see(Segment { flags: RST | ACK, ..segment(1, 0, 101, 0) });
    let flow = wire.flow();
    assert_eq!((ending(&flow), flow.reset_by_opener), (Some(Ending::Refused), Some(false)));
}

#[test]
fn a_hardware_stamp_is_compared_with_its_like_only() {
    let features = Features {
        timing: true,
        bounds_us: vec![1000],
        precise: true,
        hardware: true,
        ..Features::default()
    };
    let samples = |sent: u64, acknowledged: u64| {
        let wire = Wire::with(features.clone());
        for (segment, stamp_us) in [(segment(0, 100, 900, 50), sent), (segment(1, 900, 150, 0), acknowledged)]
        {
            let frame = ethernet(0x0800, &Wire::packet(segment));
            wire.object.run_on_stamped_frame(TestProgram::Ingress, &frame, stamp_us * 1000).unwrap();
        }
        let rtt = wire.measured().sides[1].rtt;
        let kinds = [
            nm_kind::NM_KIND_STAMP_HARDWARE,
            nm_kind::NM_KIND_STAMP_SOFTWARE,
            nm_kind::NM_KIND_STAMP_MISSING,
        ];
        (rtt.samples, rtt.min_us, kinds.map(|kind| wire.object.kind(kind)))
    };
    assert_eq!(samples(5_000_000_000, 5_000_000_777), (1, 777, [1, 0, 0]), "the card's clock, not ours");
    let (count, us, kinds) = samples(0, 0);
    assert_eq!((count, kinds), (1, [0, 1, 0]), "no stamps: the kernel's clock");
    assert!(us < 1_000_000);
    assert_eq!(samples(5_000_000_000, 0), (0, 0, [0, 0, 1]), "they can't be compared");
    assert_eq!(samples(0, 5_000_000_000).0, 1, "what began by the kernel's clock ends by it");
}

#[test]
fn what_passes_while_it_is_off_is_no_round_trip_and_nothing_sent_again() {
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
    let mut wire = Wire::new(true);
    let on = wire.object.features().clone();
    let off = Features { timing: false, protocols: Vec::new(), ..on.clone() };
    wire.shake_hands(1000, 5000);
    let before = wire.measured().sides.map(|side| side.rtt.samples);
    wire.see(segment(0, 1001, 5001, 100));
    wire.object.switch(&off, false);
    // What was waited for, and more: half of all sequence numbers.
    wire.see(segment(1, 5001, 1101, 200));
    wire.see(segment(0, 1101, 5201, 100));
    assert_eq!(wire.measured().sides.map(|side| side.rtt.samples), before, "nothing is measured");
    std::thread::sleep(PAUSE);
    wire.object.switch(&on, false);
    let far = 1201 + (1 << 31);
    wire.see(segment(0, far, 5201, 100));
    wire.see(segment(1, 5201, far + 100, 200));
    wire.see(segment(0, far + 100, 5401, 100));
    let measured = wire.measured();
    assert_eq!(wire.losses(), [(0, 0), (0, 0)], "{measured:?}");
    let pause_us = PAUSE.as_micros() as u32;
    for (side, before) in measured.sides.iter().zip(before) {
        assert!(side.rtt.samples > before && side.rtt.max_us < pause_us, "{measured:?}");
    }
    assert!(measured.first_byte_us.unwrap() < pause_us, "{measured:?}");
    wire.assert_conserved();
}
