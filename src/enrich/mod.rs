//! Who is at the ends of flows: process, systemd unit, container, pod, service.
//!
//! The kernel side gives each socket the number of a name (process, cgroup) when it appears, and a flow carries the numbers of its
//! ends. This room owns what the numbers mean: [`host`] learns a number when a flow is first told with it, by two map lookups
//! at most, so that the words are there when the process and its cgroup are gone. [`place`] reads a cgroup's path (pure);
//! [`tree`] knows the cgroup2 tree as it stands, for sockets that are older than the agent. [`kubernetes`] knows who had an address
//! when; [`Directory`] asks both.
//!
//! Nothing here looks at a process while packets flow, and nothing waits on the collector's thread.

mod directory;
pub mod host;
pub mod kubernetes;
mod naming;
pub mod place;
mod recent;
pub mod tree;

pub use directory::Directory;
pub use host::Host;
pub use naming::name_sockets;
