//! Tunnels: what the packets of a flow came in.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Kind of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelKind {
    /// RFC 7348.
    Vxlan,
    /// RFC 8926.
    Geneve,
}

impl TunnelKind {
    /// All that can be looked into.
    pub const ALL: [Self; 2] = [Self::Vxlan, Self::Geneve];

    /// Name in configuration and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
        }
    }
}

/// The tunnel that a flow was first seen in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tunnel {
    /// Its kind.
    pub kind: TunnelKind,
    /// Virtual network identifier, 24 bits.
    pub vni: u32,
    /// Outer address that the opener's packets come from.
    pub src: IpAddr,
    /// Outer address that they go to.
    pub dst: IpAddr,
}
