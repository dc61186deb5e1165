//! What this network namespace translates (NAT), as conntrack tells it by netlink: for kernels that let no traffic-control
//! program read conntrack. Needs CAP_NET_ADMIN. Nothing here waits.

mod wire;

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

pub use wire::Word;

/// The kernel fills at most 32 KiB a datagram.
const DATAGRAM_BYTES: usize = 64 * 1024;
/// Bits of NFNLGRP_CONNTRACK_NEW and NFNLGRP_CONNTRACK_DESTROY (linux/netfilter/nfnetlink_compat.h).
const GROUPS: u32 = 0x1 | 0x4;

/// Follows conntrack: events by one socket, dumps by another.
#[derive(Debug)]
pub struct Conntrack {
    events: OwnedFd,
    dump: Option<OwnedFd>,
    buffer: Vec<u8>,
}

/// Where words come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// News.
    Events,
    /// The dump that was begun last.
    Dump,
}

impl Conntrack {
    /// Subscribes. As large a receive buffer as may be, up to `buffer_bytes`: the kernel takes that memory only while messages
    /// wait.
    ///
    /// # Errors
    /// The kernel has no conntrack by netlink, or it is forbidden.
    pub fn open(buffer_bytes: usize) -> io::Result<Self> {
        let events = socket(GROUPS)?;
        if sockopt::set_socket_recv_buffer_size_force(&events, buffer_bytes).is_err() {
            // A smaller buffer means more dumps.
            let _ = sockopt::set_socket_recv_buffer_size(&events, buffer_bytes);
        }
        Ok(Self { events, dump: None, buffer: vec![0; DATAGRAM_BYTES] })
    }

    /// Asks for all entries; what is left of an earlier dump is dropped.
    ///
    /// # Errors
    /// The kernel's.
    pub fn begin_dump(&mut self) -> io::Result<()> {
        let dump = socket(0)?;
        rustix::net::sendto(&dump, &wire::dump(1), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        self.dump = Some(dump);
        Ok(())
    }

    /// Whether a dump is under way.
    pub fn is_dumping(&self) -> bool {
        self.dump.is_some()
    }

    /// What the next datagram says; `None` when none is waiting.
    ///
    /// # Errors
    /// `ENOBUFS` if messages were lost because nobody read them in time.
    pub fn next(&mut self, from: Source) -> io::Result<Option<impl Iterator<Item = Word>>> {
        let socket = match (from, &self.dump) {
            (Source::Events, _) => &self.events,
            (Source::Dump, Some(dump)) => dump,
            (Source::Dump, None) => return Ok(None),
        };
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        loop {
            match rustix::net::recvfrom(socket, self.buffer.as_mut_slice(), flags) {
                Ok((copied, length, sender)) => {
                    // Only the kernel has port 0.
                    let sender = sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok());
                    if sender.is_none_or(|sender| sender.pid() != 0) {
                        continue;
                    }
                    if length > copied {
                        return Err(rustix::io::Errno::NOBUFS.into());
                    }
                    let datagram = self.buffer.get(..length).unwrap_or_default();
                    return Ok(Some(wire::words(datagram)));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The dump is over.
    pub fn end_dump(&mut self) {
        self.dump = None;
    }
}

fn socket(groups: u32) -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let fd = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(NETFILTER))?;
    rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
    Ok(fd)
}
