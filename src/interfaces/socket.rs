//! A netlink socket in tokio: one for notifications, one for each dump, so that a flood of the first can't make
//! the second lose anything.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::SocketFlags;
use tokio::io::unix::AsyncFd;

use crate::netlink;

// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE (linux/rtnetlink.h)
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// A socket of the network namespace in which it was opened. Closed when dropped.
#[derive(Debug)]
pub(super) struct Socket {
    fd: AsyncFd<OwnedFd>,
}

impl Socket {
    /// Subscribed to links, addresses and routes, with a receive buffer of so many bytes or as many as may be.
    pub(super) fn subscribed(buffer_bytes: usize) -> io::Result<Self> {
        let socket = Self::open(GROUPS)?;
        netlink::enlarge_buffer(&socket.fd, buffer_bytes);
        Ok(socket)
    }

    /// For requests.
    pub(super) fn plain() -> io::Result<Self> {
        Self::open(0)
    }

    fn open(groups: u32) -> io::Result<Self> {
        let fd = netlink::open(None, SocketFlags::NONBLOCK, groups)?;
        // Deprecated because of descriptors that the owner may close or exchange; an `OwnedFd` can't. The
        // successor is an unsafe function, and this room has no unsafe code.
        #[allow(deprecated)]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd })
    }

    /// Sends a request to the kernel.
    pub(super) fn send(&self, request: &[u8]) -> io::Result<()> {
        netlink::send(&self.fd, request)
    }

    /// The next datagram from the kernel, its length. Loses nothing when dropped halfway.
    ///
    /// # Errors
    /// As of [`netlink::receive`].
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.fd.readable().await?;
            if let Ok(received) = ready.try_io(|fd| netlink::receive(fd, buffer)) {
                return received;
            }
        }
    }
}
