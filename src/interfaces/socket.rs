//! A netlink socket in tokio: one for notifications, one for each dump, so that a flood of the first can't make
//! the second lose anything.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use tokio::io::unix::AsyncFd;

/// The kernel fills at most 32 KiB a datagram, or one larger message.
pub(super) const DATAGRAM_BYTES: usize = 64 * 1024;

// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE (linux/rtnetlink.h)
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// A socket of the network namespace in which it was opened. Closed when dropped.
#[derive(Debug)]
pub(super) struct Socket {
    fd: AsyncFd<OwnedFd>,
}

impl Socket {
    /// Subscribed to links, addresses and routes. The receive buffer is as large as the kernel lets it be, up to
    /// `buffer_bytes`; the kernel takes that memory only while messages wait.
    pub(super) fn subscribed(buffer_bytes: usize) -> io::Result<Self> {
        let socket = Self::open(GROUPS)?;
        if sockopt::set_socket_recv_buffer_size_force(&socket.fd, buffer_bytes).is_err() {
            // Without CAP_NET_ADMIN net.core.rmem_max is the limit. A smaller buffer means more resyncs.
            let _ = sockopt::set_socket_recv_buffer_size(&socket.fd, buffer_bytes);
        }
        Ok(socket)
    }

    /// For requests.
    pub(super) fn plain() -> io::Result<Self> {
        Self::open(0)
    }

    fn open(groups: u32) -> io::Result<Self> {
        // No protocol number is NETLINK_ROUTE, which is 0.
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        // Deprecated because of descriptors that the owner may close or exchange; an `OwnedFd` can't. The
        // successor is an unsafe function, and this room has no unsafe code.
        #[allow(deprecated)]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd })
    }

    /// Sends a request to the kernel, which takes it at once.
    pub(super) fn send(&self, request: &[u8]) -> io::Result<()> {
        rustix::net::sendto(&self.fd, request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    /// The next datagram from the kernel, its length. Loses nothing when dropped halfway.
    ///
    /// # Errors
    /// `ENOBUFS` if the receive buffer ran over; `InvalidData` if a datagram was larger than the buffer. Messages
    /// are lost in both cases.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.fd.readable().await?;
            let received = ready.try_io(|fd| {
                rustix::net::recvfrom(fd, &mut *buffer, RecvFlags::TRUNC).map_err(io::Error::from)
            });
            let (copied, length, from) = match received {
                Ok(Ok(received)) => received,
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => continue,
            };
            // Only the kernel has port 0.
            let kernel = from
                .and_then(|from| SocketAddrNetlink::try_from(from).ok())
                .is_some_and(|from| from.pid() == 0);
            if !kernel {
                continue;
            }
            if length > copied {
                let message = format!("a netlink datagram of {length} bytes did not fit into {copied}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            return Ok(length);
        }
    }
}
