//! Placeholder types while the real module is being written.
#![allow(missing_docs)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkLayer { Ethernet, Raw, Unsupported(u16) }
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface { pub index: u32, pub name: String, pub kind: Option<String>, pub link_layer: LinkLayer, pub up: bool, pub loopback: bool, pub local_peer: bool }
#[derive(Clone, Debug, Default)]
pub struct HostAddresses(std::collections::HashSet<std::net::IpAddr>);
impl HostAddresses { pub fn contains(&self, ip: &std::net::IpAddr) -> bool { self.0.contains(ip) } }
