//! Who is at an end of a conversation: a number that stands for it, and what gives it words.

use std::fmt::Debug;

use super::record::Endpoint;

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
    /// Tells what is known of who is at an end.
    fn tell(&self, who: Who, end: &mut Endpoint);
}
