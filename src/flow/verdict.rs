//! What became of a conversation, from what its packets said. Pure.

use super::key::Protocol;
use super::record::{Ending, IcmpError, IcmpErrors, Reason, State, Status};
use super::update::Flow;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What is known of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// IP protocol.
    pub protocol: Protocol,
    /// TCP flags seen from the opener and to it.
    pub flags: [u8; 2],
    /// Packets from the opener and to it.
    pub packets: [u64; 2],
    /// TCP has closed: RST, or FIN both ways.
    pub closed: bool,
    /// The attempt went unanswered for longer than `flow.connect_timeout`.
    pub timed_out: bool,
    /// ICMP errors that quoted it.
    pub icmp_errors: IcmpErrors,
    /// The flow leaves the table: nothing more is expected.
    pub gone: bool,
}

/// State, status and reason of a conversation.
pub fn verdict(facts: &Facts) -> (State, Status, Option<Reason>) {
    if facts.protocol == Protocol::TCP { tcp(facts) } else { plain(facts) }
}

/// Why it has failed, if ICMP errors say so and nobody has answered: an answer proves them wrong, or late.
pub fn forbidden(facts: &Facts) -> Option<Reason> {
    let has = |errors: &[IcmpError]| errors.iter().any(|error| facts.icmp_errors.contains(*error));
    if facts.packets[1] > 0 {
        None
    } else if has(&[IcmpError::Prohibited]) {
        Some(Reason::Prohibited)
    } else if has(&[
        IcmpError::Unreachable,
        IcmpError::PortUnreachable,
        IcmpError::TimeExceeded,
        IcmpError::ParameterProblem,
    ]) {
        Some(Reason::Unreachable)
    } else {
        None
    }
}

fn plain(facts: &Facts) -> (State, Status, Option<Reason>) {
    if let Some(reason) = forbidden(facts) {
        (if facts.gone { State::Closed } else { State::Opening }, Status::Failed, Some(reason))
    } else if facts.gone {
        (State::Closed, Status::Ok, None)
    } else if facts.packets.contains(&0) {
        (State::Opening, Status::Active, None)
    } else {
        (State::Established, Status::Active, None)
    }
}

fn tcp(facts: &Facts) -> (State, Status, Option<Reason>) {
    let [opener, other] = facts.flags;
    let opened_here = opener & SYN != 0;
    let answered = if opened_here { other & SYN != 0 } else { opener & other & ACK != 0 };
    if facts.closed {
        let reason = if opener & other & FIN != 0 {
            None
        } else if opened_here && !answered && other & RST != 0 {
            Some(Reason::Refused)
        } else if (opener | other) & RST != 0 {
            Some(Reason::Reset)
        } else {
            None
        };
        let status = if reason.is_some() { Status::Failed } else { Status::Ok };
        return (State::Closed, status, reason);
    }
    if let Some(reason) = forbidden(facts) {
        return (State::Opening, Status::Failed, Some(reason));
    }
    if unfinished(facts) && (facts.timed_out || facts.gone) {
        return (State::Opening, Status::Failed, Some(Reason::Timeout));
    }
    let state = if (opener | other) & FIN != 0 {
        State::Closing
    } else if answered && opener & ACK != 0 {
        State::Established
    } else {
        State::Opening
    };
    let status = if facts.gone { Status::Ok } else { Status::Active };
    (state, status, None)
}

/// A TCP handshake that was begun and not finished, yet: nobody has answered, or the opener has not answered the answer (half-open).
pub fn unfinished(facts: &Facts) -> bool {
    let [opener, other] = facts.flags;
    facts.protocol == Protocol::TCP
        && opener & (SYN | ACK | RST | FIN) == SYN
        && (facts.packets[1] == 0 || other & (SYN | ACK | RST) == SYN | ACK)
}

/// How a TCP connection came to its end; `None` while it goes on, and for what left without a word.
pub fn ending(flow: &Flow) -> Option<Ending> {
    let [opener, other] = flow.tcp_flags;
    let answered = if opener & SYN != 0 { other & SYN != 0 } else { true };
    // A scanner's opener answers SYN+ACK by RST: no ACK of its own.
    let stood = answered && opener & ACK != 0;
    match flow.reason {
        Some(Reason::Timeout) if answered => Some(Ending::HalfOpen),
        Some(Reason::Timeout) => Some(Ending::Unanswered),
        Some(Reason::Refused) => Some(Ending::Refused),
        Some(Reason::Reset) if !stood || (opener | other) & FIN != 0 => Some(Ending::Aborted),
        Some(Reason::Reset) => Some(Ending::Reset),
        Some(Reason::Unreachable | Reason::Prohibited) => None,
        None if flow.state == State::Closed => Some(Ending::Closed),
        None => None,
    }
}

/// The flags as letters, in the order of the header's bits from the lowest: FIN SYN RST PSH ACK URG ECE CWR.
pub fn flag_letters(flags: u8) -> String {
    ["F", "S", "R", "P", "A", "U", "E", "C"]
        .iter()
        .enumerate()
        .filter_map(|(bit, letter)| (flags & 1 << bit != 0).then_some(*letter))
        .collect()
}
