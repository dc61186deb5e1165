#![allow(clippy::unwrap_used)]

use super::direction::{Place, Places};
use super::key::{FlowKey, Protocol};
use super::record::{Direction, IcmpError, IcmpErrors, Reason, State, Status};
use super::verdict::{Facts, flag_letters, verdict};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

fn tcp(opener: u8, other: u8, packets: [u64; 2], closed: bool) -> Facts {
    Facts {
        protocol: Protocol::TCP,
        flags: [opener, other],
        packets,
        closed,
        timed_out: false,
        icmp_errors: IcmpErrors::default(),
        gone: false,
    }
}

#[test]
fn tcp_verdicts_follow_what_was_said() {
    let cases = [
        ("syn alone", tcp(SYN, 0, [1, 0], false), (State::Opening, Status::Active, None)),
        ("syn, syn+ack", tcp(SYN, SYN | ACK, [1, 1], false), (State::Opening, Status::Active, None)),
        ("handshake", tcp(SYN | ACK, SYN | ACK, [2, 1], false), (State::Established, Status::Active, None)),
        (
            "half closed",
            tcp(SYN | ACK | FIN, SYN | ACK, [3, 2], false),
            (State::Closing, Status::Active, None),
        ),
        ("closed", tcp(SYN | ACK | FIN, SYN | ACK | FIN, [5, 4], true), (State::Closed, Status::Ok, None)),
        (
            "refused",
            tcp(SYN, RST | ACK, [1, 1], true),
            (State::Closed, Status::Failed, Some(Reason::Refused)),
        ),
        (
            "reset by the other",
            tcp(SYN | ACK | PSH, SYN | ACK | RST, [3, 3], true),
            (State::Closed, Status::Failed, Some(Reason::Reset)),
        ),
        (
            "reset by the opener",
            tcp(SYN | ACK | RST, SYN | ACK, [3, 3], true),
            (State::Closed, Status::Failed, Some(Reason::Reset)),
        ),
        (
            "fin both ways, then rst",
            tcp(SYN | ACK | FIN | RST, SYN | ACK | FIN, [6, 5], true),
            (State::Closed, Status::Ok, None),
        ),
        ("met halfway", tcp(ACK | PSH, ACK, [1, 1], false), (State::Established, Status::Active, None)),
        (
            "met halfway, reset",
            tcp(ACK, ACK | RST, [1, 1], true),
            (State::Closed, Status::Failed, Some(Reason::Reset)),
        ),
    ];
    for (name, facts, expected) in cases {
        assert_eq!(verdict(&facts), expected, "{name}");
    }
}

#[test]
fn an_attempt_without_answer_fails_by_timeout_and_not_before() {
    let mut facts = tcp(SYN, 0, [4, 0], false);
    assert_eq!(verdict(&facts).1, Status::Active);
    facts.timed_out = true;
    assert_eq!(verdict(&facts), (State::Opening, Status::Failed, Some(Reason::Timeout)));
    facts.flags[1] = SYN | ACK;
    facts.packets[1] = 1;
    assert_eq!(verdict(&facts).2, Some(Reason::Timeout), "half-open: the answer was not answered");
    facts.flags[0] = SYN | ACK;
    assert_eq!(verdict(&facts).1, Status::Active, "a late answer makes it alive again");
}

#[test]
fn an_idle_connection_that_leaves_is_ok() {
    let facts = Facts { gone: true, ..tcp(SYN | ACK, SYN | ACK, [9, 9], false) };
    assert_eq!(verdict(&facts), (State::Established, Status::Ok, None));
    let udp = Facts { protocol: Protocol::UDP, gone: true, ..tcp(0, 0, [1, 0], false) };
    assert_eq!(verdict(&udp), (State::Closed, Status::Ok, None));
}

#[test]
fn icmp_errors_say_why_what_nobody_answered_has_failed() {
    use IcmpError::{ParameterProblem, PortUnreachable, Prohibited, TimeExceeded, TooBig, Unreachable};
    let cases: [(&[IcmpError], Option<Reason>); 7] = [
        (&[Unreachable], Some(Reason::Unreachable)),
        (&[PortUnreachable], Some(Reason::Unreachable)),
        (&[TimeExceeded], Some(Reason::Unreachable)),
        (&[ParameterProblem], Some(Reason::Unreachable)),
        (&[Prohibited], Some(Reason::Prohibited)),
        (&[Unreachable, Prohibited], Some(Reason::Prohibited)),
        (&[TooBig], None),
    ];
    for (errors, reason) in cases {
        let icmp_errors: IcmpErrors = errors.iter().copied().collect();
        assert_eq!(icmp_errors.iter().collect::<Vec<_>>(), errors);
        for protocol in [Protocol::TCP, Protocol::UDP, Protocol::ICMP] {
            let mut facts = Facts { protocol, icmp_errors, ..tcp(SYN, 0, [3, 0], false) };
            assert_eq!(verdict(&facts).2, reason, "{protocol} {errors:?}");
            // The server answered, and then the client was gone: that's no failure.
            facts = Facts { protocol, icmp_errors, ..tcp(SYN | ACK, SYN | ACK, [3, 1], false) };
            assert_eq!(verdict(&facts).2, None, "{protocol} {errors:?}, answered");
        }
    }
}

#[test]
fn flags_are_letters_from_the_lowest_bit() {
    assert_eq!(flag_letters(0), "");
    assert_eq!(flag_letters(SYN | ACK), "SA");
    assert_eq!(flag_letters(0xff), "FSRPAUEC");
}

#[test]
fn protocols_are_written_and_read_alike() {
    for number in 0..=255u8 {
        let protocol = Protocol(number);
        assert_eq!(Protocol::parse(&protocol.to_string()), Some(protocol));
    }
    assert_eq!(Protocol::parse("TCP"), Some(Protocol::TCP));
    assert_eq!(Protocol::parse("300"), None);
}

fn place(interface: u32, egress: bool) -> Place {
    Place(interface << 1 | u32::from(egress))
}

fn direction_of(places: Places) -> Direction {
    let key = FlowKey {
        protocol: Protocol::TCP,
        src: "10.1.0.2:40000".parse().unwrap(),
        dst: "10.2.0.2:80".parse().unwrap(),
    };
    // Interfaces 10 and 20 lead to containers, 2 is the uplink.
    super::direction::direction(&key, &places, &crate::interfaces::HostAddresses::default(), |index| {
        index >= 10
    })
}

#[test]
fn direction_follows_the_way_of_the_packets() {
    let nowhere = Place(0);
    let way = |sent, received, other| Places { sent, received, others: [other, nowhere] };
    let cases = [
        ("container to the world", way(place(10, false), place(2, false), place(2, true)), Direction::Egress),
        ("world to a container", way(place(2, false), place(10, false), place(10, true)), Direction::Ingress),
        (
            "container to container",
            way(place(10, false), place(20, false), place(20, true)),
            Direction::Internal,
        ),
        (
            "one way, container to container",
            way(place(10, false), nowhere, place(20, true)),
            Direction::Internal,
        ),
        (
            "answers leave to the container",
            way(place(10, false), place(2, false), place(10, true)),
            Direction::Egress,
        ),
        ("through", way(place(2, false), place(3, false), place(3, true)), Direction::Forwarded),
    ];
    for (name, places, expected) in cases {
        assert_eq!(direction_of(places), expected, "{name}");
    }
}

#[test]
fn interfaces_are_listed_once() {
    let places =
        Places { sent: Place(5 << 1), received: Place(7 << 1), others: [Place(5 << 1 | 1), Place(9 << 1)] };
    assert_eq!(places.interfaces(), [5, 7, 9, 0]);
}
