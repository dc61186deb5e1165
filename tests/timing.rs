//! Sequence numbers, round trips and waiting times, by BPF_PROG_TEST_RUN on crafted segments. Needs root.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "programs/frame.rs"]
#[allow(dead_code)]
mod frame;

use frame::{Ipv4, ethernet};
use netmon::flow::measured::Measured;
use netmon::kernel::decode;
use netmon::kernel::object::{Features, Object, Options, TestProgram};
use netmon::kernel::table::Table;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A TCP conversation as one observer sees it: 10.0.0.1:40000 opens, 10.0.0.2:80 answers.
struct Wire {
    object: Object,
    table: Table,
}

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

impl Wire {
    fn new(precise: bool) -> Self {
        let features = Features { timing: Some(vec![1000]), precise, protocol: true, who: true };
        let layout = features.layout();
        let options = Options { transport: None, event_buffer_events: 4096, features, bench: false };
        let mut object = Object::load(&options).expect("these tests need root and a kernel with BTF");
        let table = Table::create(1024, layout).unwrap();
        object.install(0, &table).unwrap();
        object.control().set_buckets(0, table.buckets());
        object.add_interface(0, 14).unwrap();
        Self { object, table }
    }

    fn see(&self, segment: Segment) {
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
        let ip = Ipv4 { protocol: 6, source: ends[me], destination: ends[you], ..Ipv4::default() };
        let frame = ethernet(0x0800, &ip.with(&bytes));
        self.object.run_on_frame(TestProgram::Ingress, &frame, 1).unwrap();
    }

    fn shake_hands(&self, seq: u32, other: u32) {
        self.see(Segment { flags: SYN, ..segment(0, seq, 0, 0) });
        self.see(Segment { flags: SYN | ACK, ..segment(1, other, seq.wrapping_add(1), 0) });
        self.see(segment(0, seq.wrapping_add(1), other.wrapping_add(1), 0));
    }

    fn measured(&self) -> Measured {
        let slot = (0..self.table.slots()).find_map(|slot| self.table.read(slot)).expect("a flow");
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
