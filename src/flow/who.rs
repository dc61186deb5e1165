//! Who is at an end of a conversation: a number that stands for it, and what gives it words.

use std::fmt::Debug;

use super::record::Endpoint;
use super::update::Flow;

/// The socket at an end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Who {
    /// Not known: it is elsewhere, or not a socket.
    #[default]
    Unknown,
    /// One of the process with this number.
    Socket(u32),
    /// One of some process in the cgroup with this number (its low 30 bits).
    Cgroup(u32),
}

/// Gives words to numbers.
pub trait Names: Debug + Send + Sync {
    /// Tells what is known of who is at the ends of a flow, opener first.
    fn tell(&self, flow: &Flow, ends: [&mut Endpoint; 2]);
    /// Tells who alone had the address of an end at some time between two moments, nanoseconds of `CLOCK_MONOTONIC`.
    fn tell_address(&self, end: &mut Endpoint, span: (u64, u64));
}
