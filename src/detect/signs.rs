//! TCP flags (RFC 9293 bit order), and what packets and bytes tell of a conversation.

use std::net::IpAddr;

use crate::flow::key::{FlowKey, Protocol};
use crate::flow::record::{Reason, Status};
use crate::flow::update::Flow;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;
/// FIN, PSH and URG.
pub const XMAS: u8 = 0x29;

/// An unanswered datagram flow of more packets is a one-way stream (a log, a metric, a voice) and no attempt.
const ATTEMPT_PACKETS: u64 = 10;

/// Whether a conversation was tried and led to nothing: it failed before it stood, nobody answered, or a SYN+ACK was answered by
/// RST, as a scanner does that has seen enough.
pub fn in_vain(flow: &Flow) -> bool {
    let tcp = flow.key.protocol == Protocol::TCP;
    let failed = flow.status == Status::Failed && flow.reason != Some(Reason::Reset);
    let hung_up = tcp && flow.tcp_flags[0] & (SYN | RST | ACK) == SYN | RST && flow.tcp_flags[1] & SYN != 0;
    let unanswered = flow.total.packets_received == 0 && (tcp || flow.total.packets_sent <= ATTEMPT_PACKETS);
    failed || hung_up || unanswered
}

/// Bytes beyond the headers of so many packets, about: Ethernet, IP without options, UDP, or TCP with timestamps.
pub fn payload(key: &FlowKey, bytes: u64, packets: u64) -> u64 {
    let transport = if key.protocol == Protocol::TCP { 32 } else { 8 };
    let network = if key.src.is_ipv4() { 20 } else { 40 };
    bytes.saturating_sub(packets * (14 + network + transport))
}

/// Whether an address is one of the Internet's, and not of some network of one's own.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && b & 0xc0 == 64; // RFC 6598
            !(a == 0 || a >= 224 || shared || v4.is_private() || v4.is_loopback() || v4.is_link_local())
        }
        IpAddr::V6(v6) => v6.segments()[0] & 0xe000 == 0x2000,
    }
}
