//! Frames built byte by byte, so that they can lie in every field.
#![allow(dead_code)]

/// Ethernet with an ethertype and what follows.
pub fn ethernet(kind: u16, rest: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], &kind.to_be_bytes()[..], rest].concat()
}

/// A VLAN tag: to be given as `rest` of an ethertype 0x8100 or 0x88a8.
pub fn tag(id: u16, kind: u16, rest: &[u8]) -> Vec<u8> {
    [&id.to_be_bytes()[..], &kind.to_be_bytes(), rest].concat()
}

/// IPv4 from 10.0.0.1 to 10.0.0.2.
pub struct Ipv4 {
    pub version: u8,
    pub header_words: Option<u8>,
    pub total_length: Option<u16>,
    pub fragment: u16,
    pub id: u16,
    pub protocol: u8,
    pub options: Vec<u8>,
    pub source: [u8; 4],
    pub destination: [u8; 4],
}

impl Default for Ipv4 {
    fn default() -> Self {
        Self {
            version: 4,
            header_words: None,
            total_length: None,
            fragment: 0,
            id: 7,
            protocol: 17,
            options: Vec::new(),
            source: [10, 0, 0, 1],
            destination: [10, 0, 0, 2],
        }
    }
}

impl Ipv4 {
    pub fn with(&self, payload: &[u8]) -> Vec<u8> {
        let words = self.header_words.unwrap_or(5 + self.options.len() as u8 / 4);
        let total = self.total_length.unwrap_or((20 + self.options.len() + payload.len()) as u16);
        let mut bytes = vec![self.version << 4 | words, 0];
        bytes.extend(total.to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([64, self.protocol, 0, 0]);
        bytes.extend(self.source);
        bytes.extend(self.destination);
        bytes.extend(&self.options);
        bytes.extend(payload);
        bytes
    }
}

/// IPv6 from fd00::1 to fd00::2 with the first next-header value and everything after the fixed header.
pub fn ipv6(next: u8, length: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(length.unwrap_or(payload.len() as u16).to_be_bytes());
    bytes.extend([next, 64]);
    for end in [1, 2] {
        bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, end]);
    }
    bytes.extend(payload);
    bytes
}

/// An extension header of eight bytes times `1 + units`.
pub fn extension(next: u8, units: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8 * (1 + usize::from(units))];
    bytes[0] = next;
    bytes[1] = units;
    bytes.extend(rest);
    bytes
}

/// A fragment header: offset in units of eight bytes.
pub fn fragment6(next: u8, offset: u16, more: bool, id: u32, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, 0];
    bytes.extend((offset << 3 | u16::from(more)).to_be_bytes());
    bytes.extend(id.to_be_bytes());
    bytes.extend(rest);
    bytes
}

pub fn udp(source: u16, destination: u16, length: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let length = length.unwrap_or(8 + payload.len() as u16);
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

pub fn tcp(source: u16, destination: u16, flags: u8, offset_words: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = tcp_at((source, destination), (1, 1), flags, payload);
    bytes[12] = offset_words << 4;
    bytes
}

/// A segment without options; the sequence number and what is acknowledged.
pub fn tcp_at(
    (source, destination): (u16, u16),
    (seq, ack): (u32, u32),
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    bytes.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
    bytes.extend([5 << 4, flags, 4, 0, 0, 0, 0, 0]);
    bytes.extend(payload);
    bytes
}

pub fn icmp(kind: u8, code: u8, id: u16) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(id.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// Pads to the least Ethernet frame, as hardware does.
pub fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), 0);
    frame
}
