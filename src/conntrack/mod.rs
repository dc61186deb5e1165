//! What this network namespace translates (NAT), as conntrack tells it by netlink: for kernels that let no traffic-control
//! program read conntrack. Needs CAP_NET_ADMIN. Nothing here waits.

mod wire;

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::SocketFlags;
use rustix::net::netlink::NETFILTER;

use crate::netlink::{self, DATAGRAM_BYTES};
pub use wire::Word;

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
    /// Subscribes, with a receive buffer of so many bytes or as many as may be.
    ///
    /// # Errors
    /// The kernel has no conntrack by netlink, or it is forbidden.
    pub fn open(buffer_bytes: usize) -> io::Result<Self> {
        let events = socket(GROUPS)?;
        netlink::enlarge_buffer(&events, buffer_bytes);
        Ok(Self { events, dump: None, buffer: vec![0; DATAGRAM_BYTES] })
    }

    /// Asks for all entries; what is left of an earlier dump is dropped.
    ///
    /// # Errors
    /// The kernel's.
    pub fn begin_dump(&mut self) -> io::Result<()> {
        let dump = socket(0)?;
        netlink::send(&dump, &wire::dump(1))?;
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
    /// As of [`netlink::receive`].
    pub fn next(&mut self, from: Source) -> io::Result<Option<impl Iterator<Item = Word>>> {
        let socket = match (from, &self.dump) {
            (Source::Events, _) => &self.events,
            (Source::Dump, Some(dump)) => dump,
            (Source::Dump, None) => return Ok(None),
        };
        match netlink::receive(socket, &mut self.buffer) {
            Ok(length) => Ok(Some(wire::words(self.buffer.get(..length).unwrap_or_default()))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The dump is over.
    pub fn end_dump(&mut self) {
        self.dump = None;
    }
}

fn socket(groups: u32) -> io::Result<OwnedFd> {
    netlink::open(Some(NETFILTER), SocketFlags::NONBLOCK, groups)
}
