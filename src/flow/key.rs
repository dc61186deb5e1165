//! Who talks to whom: the canonical key of a conversation and the names of IP protocols.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// An IP protocol number (IANA "Assigned Internet Protocol Numbers").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: Self = Self(1);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
    /// SCTP (RFC 9260).
    pub const SCTP: Self = Self(132);

    const NAMES: [(u8, &'static str); 15] = [
        (1, "icmp"),
        (2, "igmp"),
        (4, "ipip"),
        (6, "tcp"),
        (17, "udp"),
        (33, "dccp"),
        (41, "ipv6"),
        (47, "gre"),
        (50, "esp"),
        (51, "ah"),
        (58, "icmpv6"),
        (89, "ospf"),
        (103, "pim"),
        (112, "vrrp"),
        (132, "sctp"),
    ];

    /// The name used in labels, filters and records; a protocol without one is `other` here and
    /// `proto-N` in a record.
    pub fn label(self) -> &'static str {
        Self::NAMES.iter().find(|(number, _)| *number == self.0).map_or("other", |(_, name)| name)
    }

    /// Reads what [`fmt::Display`] wrote, or a bare number.
    pub fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        Self::NAMES
            .iter()
            .find(|(_, name)| *name == lower)
            .map(|(number, _)| Self(*number))
            .or_else(|| lower.strip_prefix("proto-").unwrap_or(&lower).parse().ok().map(Self))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.label() {
            "other" => write!(f, "proto-{}", self.0),
            name => f.write_str(name),
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.label() {
            "other" => serializer.collect_str(self),
            name => serializer.serialize_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("unknown protocol {text:?}")))
    }
}

/// The two ends of a conversation, opener first. Ports are 0 where the protocol has none; for
/// ICMP echo both ports hold the identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// IP protocol.
    pub protocol: Protocol,
    /// The side that opened the conversation.
    pub src: SocketAddr,
    /// The other side.
    pub dst: SocketAddr,
}

impl FlowKey {
    /// Whether both ends carry this address family (`true` = IPv4).
    pub fn is_ipv4(&self) -> bool {
        matches!(self.src.ip(), IpAddr::V4(_))
    }
}
