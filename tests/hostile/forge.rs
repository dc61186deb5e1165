//! Packets that nobody honest would send, right in all that a stack looks at before it looks at their lie; the socket that they leave
//! by; and another that tells where a real connection is.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, PacketBuilder,
    PacketBuilderStep, SlicedPacket, TcpHeader, TransportSlice,
};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::common::net::Net;
use crate::common::relay::packet_socket;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// h, which sends whatever it likes to its router r.
pub struct Forger {
    socket: OwnedFd,
    link: [u8; 12],
}

impl Forger {
    pub fn new(net: &Net) -> Self {
        let mac = |ns: &str, interface: &str| -> Vec<u8> {
            let text = net.exec(ns, &format!("cat /sys/class/net/{interface}/address"));
            text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
        };
        let link = [mac("r", "rh"), mac("h", "vh")].concat().try_into().unwrap();
        Self { socket: net.inside("h", || packet_socket("vh")), link }
    }

    /// An IP packet, as it is.
    pub fn send(&self, packet: &[u8]) {
        let kind = if packet[0] >> 4 == 4 { 0x0800_u16 } else { 0x86dd };
        let frame = [&self.link[..], &kind.to_be_bytes(), packet].concat();
        assert_eq!(send(&self.socket, &frame, SendFlags::empty()), Ok(frame.len()));
    }
}

fn ip(from: IpAddr, to: IpAddr) -> PacketBuilderStep<IpHeaders> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        ends => panic!("{ends:?}"),
    }
}

/// A segment of a connection that is somebody else's.
pub fn tcp((from, to): (SocketAddr, SocketAddr), flags: u8, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(from.port(), to.port(), seq, 1024);
    header.acknowledgment_number = ack;
    [header.fin, header.syn, header.rst, header.ack] = [FIN, SYN, RST, ACK].map(|flag| flags & flag != 0);
    let mut packet = Vec::new();
    ip(from.ip(), to.ip()).tcp_header(header).write(&mut packet, payload).unwrap();
    packet
}

pub fn udp((from, to): (SocketAddr, SocketAddr), payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    ip(from.ip(), to.ip()).udp(from.port(), to.port()).write(&mut packet, payload).unwrap();
    packet
}

/// A router's word on a packet to whoever has sent it: type, code, and what stands before the quote (an MTU, say).
pub fn icmp_error(router: IpAddr, (kind, code): (u8, u8), word: u32, quoted: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let word = word.to_be_bytes();
    if quoted[0] >> 4 == 4 {
        let to = <[u8; 4]>::try_from(&quoted[12..16]).unwrap();
        ip(router, to.into()).icmpv4_raw(kind, code, word).write(&mut packet, quoted).unwrap();
    } else {
        let to = <[u8; 16]>::try_from(&quoted[8..24]).unwrap();
        ip(router, to.into()).icmpv6_raw(kind, code, word).write(&mut packet, quoted).unwrap();
    }
    packet
}

/// What a whole packet carries, as [`fragment`] takes it.
pub fn payload(packet: &[u8]) -> &[u8] {
    &packet[if packet[0] >> 4 == 4 { 20 } else { 40 }..]
}

/// A fragment of a datagram: its offset in units of eight bytes, and whether more are to follow.
pub fn fragment(
    (from, to): (IpAddr, IpAddr),
    protocol: u8,
    id: u32,
    (offset, more): (u16, bool),
    payload: &[u8],
) -> Vec<u8> {
    let (protocol, offset) = (IpNumber(protocol), IpFragOffset::try_new(offset).unwrap());
    let length = payload.len() as u16;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = Ipv4Header::new(length, 64, protocol, from.octets(), to.octets()).unwrap();
            (header.identification, header.dont_fragment) = (id as u16, false);
            (header.fragment_offset, header.more_fragments) = (offset, more);
            header.header_checksum = header.calc_header_checksum();
            [&header.to_bytes(), payload].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = Ipv6Header {
                payload_length: 8 + length,
                next_header: IpNumber::IPV6_FRAGMENTATION_HEADER,
                hop_limit: 64,
                source: from.octets(),
                destination: to.octets(),
                ..Default::default()
            };
            let part = Ipv6FragmentHeader::new(protocol, offset, more, id);
            [&header.to_bytes()[..], &part.to_bytes(), payload].concat()
        }
        ends => panic!("{ends:?}"),
    }
}

/// Hears what passes an interface: where connections are, which a forger can only guess.
pub struct Tap(OwnedFd);

impl Tap {
    pub fn new(net: &Net, namespace: &str, interface: &str) -> Self {
        Self(net.inside(namespace, || packet_socket(interface)))
    }

    /// Ports of the next segment, and the number behind its end.
    fn next(&self) -> Option<([u16; 2], u32)> {
        let mut frame = vec![0; 1 << 16];
        loop {
            let length = match recv(&self.0, frame.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => return None,
                Err(error) => panic!("{error}"),
            };
            let Ok(packet) = SlicedPacket::from_ethernet(&frame[..length]) else { continue };
            if let Some(TransportSlice::Tcp(tcp)) = packet.transport {
                let length = tcp.payload().len() as u32 + u32::from(tcp.syn()) + u32::from(tcp.fin());
                let ports = [tcp.source_port(), tcp.destination_port()];
                return Some((ports, tcp.sequence_number().wrapping_add(length)));
            }
        }
    }

    /// The numbers that the ends at these ports go on with.
    pub fn numbers(&self, ports: [u16; 2]) -> [u32; 2] {
        let mut numbers = [None; 2];
        while let Some((found, end)) = self.next() {
            if let Some(side) = ports.iter().position(|port| *port == found[0]) {
                numbers[side] = Some(end);
            }
        }
        numbers.map(|number| number.expect("a segment of either side"))
    }

    /// Whence the next segment to this port is, and its sender's next number; waits for it.
    pub fn wait(&self, to: u16) -> (u16, u32) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.next() {
                Some(([from, port], end)) if port == to => return (from, end),
                Some(_) => {}
                None => std::thread::sleep(Duration::from_millis(2)),
            }
            assert!(Instant::now() < deadline, "nothing is sent to port {to}");
        }
    }
}
