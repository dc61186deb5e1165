//! Netlink, whatever the family: sockets, messages of a datagram, attributes of a message, requests.
//!
//! Never panics and never reads past what was received. An attribute that lies about its length hides itself and those behind
//! it; it does not hide the message.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, sendto,
    socket_with, sockopt,
};

/// The kernel fills at most 32 KiB a datagram, or one larger message.
pub const DATAGRAM_BYTES: usize = 64 * 1024;

// linux/netlink.h
/// Refusal or acknowledgement of a request.
pub const NLMSG_ERROR: u16 = 2;
/// End of a dump.
pub const NLMSG_DONE: u16 = 3;
/// Messages were lost.
pub const NLMSG_OVERRUN: u16 = 4;
/// What was dumped changed meanwhile.
pub const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const NLA_TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its type.
    pub kind: u16,
    /// `NLM_F_`
    pub flags: u16,
    /// Sequence number of the request that it answers.
    pub sequence: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

impl Message<'_> {
    /// Of a message that ends a request: the kernel's error number, if it refused it.
    pub fn refusal(&self) -> Option<i32> {
        // An acknowledgement or a dump that went well carries 0, an old kernel's DONE may carry nothing.
        let code = u32_at(self.body, 0).unwrap_or_default() as i32;
        (code != 0).then_some(code.saturating_neg())
    }
}

/// A socket of this network namespace that hears of these groups. No protocol number is NETLINK_ROUTE, which is 0.
///
/// # Errors
/// The kernel does not have the protocol, or netlink is forbidden by a seccomp filter or a service manager.
pub fn open(protocol: Option<Protocol>, flags: SocketFlags, groups: u32) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// Gives a socket as large a receive buffer as may be, up to so many bytes: the kernel takes that memory only while messages wait.
pub fn enlarge_buffer(socket: impl AsFd, bytes: usize) {
    if sockopt::set_socket_recv_buffer_size_force(&socket, bytes).is_err() {
        // Without CAP_NET_ADMIN net.core.rmem_max is the limit. With less room more is lost, and read anew.
        let _ = sockopt::set_socket_recv_buffer_size(&socket, bytes);
    }
}

/// Sends a request to the kernel, which takes it at once.
///
/// # Errors
/// The kernel's.
pub fn send(socket: impl AsFd, request: &[u8]) -> io::Result<()> {
    sendto(socket, request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    Ok(())
}

/// The next datagram from the kernel, its length.
///
/// # Errors
/// `ENOBUFS` if messages are lost: the receive buffer ran over, or `buffer` is too small.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match recvfrom(&socket, &mut *buffer, RecvFlags::TRUNC) {
            Ok((copied, length, sender)) => {
                // Only the kernel has port 0.
                let sender = sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok());
                if sender.is_none_or(|sender| sender.pid() != 0) {
                    continue;
                }
                return if length > copied { Err(Errno::NOBUFS.into()) } else { Ok(length) };
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The messages of one datagram. If a header lies about its length the rest can't be read: it is told as one `None`.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = Option<Message<'_>>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = u32_at(rest, 0).map_or(0, |length| length as usize);
        let Some(bytes) = (length >= HEADER).then(|| rest.get(..length)).flatten() else {
            rest = &[];
            return Some(None);
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Some(Message {
            kind: u16_at(bytes, 4).unwrap_or_default(),
            flags: u16_at(bytes, 6).unwrap_or_default(),
            sequence: u32_at(bytes, 8).unwrap_or_default(),
            body: bytes.get(HEADER..).unwrap_or_default(),
        }))
    })
}

/// A request for a dump.
pub fn dump_request(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request.extend(sequence.to_ne_bytes());
    request.extend(0u32.to_ne_bytes());
    request.extend(body);
    request
}

/// Type and value of each attribute; ends at the first that lies about its length.
pub fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> + '_ {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & NLA_TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of an attribute; the first, if there are several.
pub fn attribute(from: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(from).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// An address of four or sixteen bytes.
pub fn ip(value: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(bytes).into());
    }
    <[u8; 16]>::try_from(value).ok().map(|bytes| Ipv6Addr::from(bytes).into())
}

/// Up to the terminating zero; bytes that are no UTF-8 are replaced.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// Host order.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u16::from_ne_bytes(*chunk))
}

/// Host order.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}
