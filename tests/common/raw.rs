//! The two calls that no safe interface offers: a packet socket's address and a TCP socket's `tcp_info`. The only
//! `unsafe` code among the tests.
#![allow(unsafe_code)]

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};

/// `struct sockaddr_ll` (linux/if_packet.h), as far as `bind` reads it.
#[repr(C)]
pub struct LinkAddress {
    family: u16,
    protocol_be: u16,
    interface: i32,
    unread: [u8; 12],
}

impl LinkAddress {
    /// All frames of an interface.
    pub fn all_of(interface: u32) -> Self {
        let (af_packet, eth_p_all) = (17, 3_u16);
        Self {
            family: af_packet,
            protocol_be: eth_p_all.to_be(),
            interface: interface.try_into().unwrap(),
            unread: [0; 12],
        }
    }
}

// SAFETY: the pointer is to this whole value, laid out as C has it, which lives for the call; the length is its size.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        f(std::ptr::from_ref(self).cast(), size_of::<Self>() as SocketAddrLen)
    }
}

unsafe extern "C" {
    fn getsockopt(fd: i32, level: i32, name: i32, value: *mut u8, length: *mut u32) -> i32;
}

/// The bytes of `struct tcp_info` that the running kernel fills, 256 of them at most.
pub fn tcp_info(socket: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let (ipproto_tcp, tcp_info) = (6, 11);
    let mut bytes = vec![0; 256];
    let mut length = 256;
    // SAFETY: both pointers are to live values of this frame, and `length` is what `bytes` has room for.
    let status =
        unsafe { getsockopt(socket.as_raw_fd(), ipproto_tcp, tcp_info, bytes.as_mut_ptr(), &mut length) };
    if status != 0 {
        return Err(Error::last_os_error());
    }
    bytes.truncate(length as usize);
    Ok(bytes)
}
