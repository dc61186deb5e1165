//! What became of a conversation, from what its packets said. Pure.

use super::key::Protocol;
use super::record::{Reason, State, Status};

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
    /// The flow leaves the table: nothing more is expected.
    pub gone: bool,
}

/// State, status and reason of a conversation.
pub fn verdict(facts: &Facts) -> (State, Status, Option<Reason>) {
    if facts.protocol == Protocol::TCP { tcp(facts) } else { plain(facts) }
}

fn plain(facts: &Facts) -> (State, Status, Option<Reason>) {
    if facts.gone {
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
    if unanswered(facts) && (facts.timed_out || facts.gone) {
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

/// A TCP attempt that nobody has answered.
pub fn unanswered(facts: &Facts) -> bool {
    facts.protocol == Protocol::TCP && facts.flags[0] & (SYN | ACK | RST) == SYN && facts.packets[1] == 0
}

/// The flags as letters, in the order of the header's bits from the lowest: FIN SYN RST PSH ACK URG ECE CWR.
pub fn flag_letters(flags: u8) -> String {
    ["F", "S", "R", "P", "A", "U", "E", "C"]
        .iter()
        .enumerate()
        .filter_map(|(bit, letter)| (flags & 1 << bit != 0).then_some(*letter))
        .collect()
}
