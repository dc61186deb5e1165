//! Rtnetlink on the wire: the three requests that are sent, and of what comes back only the messages and
//! attributes that matter here.
//!
//! An attribute that is unknown, too short or lies about its length hides itself and, if it lies, those behind it; it does
//! not hide the message.

use std::net::{IpAddr, Ipv4Addr};

use crate::netlink::{
    self, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN, attributes, dump_request, messages, text,
    u16_at, u32_at,
};

// linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTA_OIF: u16 = 4;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTM_F_CLONED: u32 = 0x200;
const RTN_UNICAST: u8 = 1;
const RT_TABLE_MAIN: u32 = 254;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

// linux/if_link.h, linux/if_addr.h, linux/if.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_WIRELESS: u16 = 11;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_INFO_KIND: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A link as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// `IFLA_INFO_KIND`.
    pub kind: Option<String>,
    /// `ARPHRD_*`.
    pub hardware_type: u16,
    /// Link-layer address.
    pub hardware_address: Vec<u8>,
    /// `IFF_UP`.
    pub up: bool,
    /// `IFF_LOOPBACK`.
    pub loopback: bool,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Interface index.
    pub index: u32,
    /// Length of the subnet's prefix, bits.
    pub prefix_len: u8,
    /// This host's own address.
    pub local: IpAddr,
    /// The other end's address on point-to-point links, else the same again.
    pub peer: IpAddr,
    /// Broadcast address of the subnet.
    pub broadcast: Option<Ipv4Addr>,
}

/// What was received, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A link is new, or something about it is.
    Link(Link),
    /// A link is gone, or gone to another namespace.
    LinkGone {
        /// Interface index.
        index: u32,
    },
    /// An address is there.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A default route of the main table is there, leaving by these interfaces.
    DefaultRoute(Vec<u32>),
    /// A default route of the main table is gone.
    DefaultRouteGone,
    /// End of a dump, or the kernel's refusal with its error number.
    Done(Option<i32>),
    /// The kernel says that messages were lost.
    Overrun,
    /// Nothing that matters here.
    Other,
    /// Of a kind that matters, but what it is about can't be made out.
    Undecodable,
}

/// A message and what its header says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Sequence number of the request that it answers.
    pub sequence: u32,
    /// What was dumped changed meanwhile: the dump may be inconsistent.
    pub interrupted: bool,
    /// The message.
    pub message: Message,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dump {
    /// IPv4 routes.
    RoutesV4,
    /// IPv6 routes.
    RoutesV6,
    /// Addresses of both families.
    Addresses,
    /// Links.
    Links,
}

impl Dump {
    /// The request for it.
    pub fn request(self, sequence: u32) -> Vec<u8> {
        let (kind, body_len, family) = match self {
            Self::RoutesV4 => (RTM_GETROUTE, 12, AF_INET),
            Self::RoutesV6 => (RTM_GETROUTE, 12, AF_INET6),
            Self::Addresses => (RTM_GETADDR, 8, AF_UNSPEC),
            Self::Links => (RTM_GETLINK, 16, AF_UNSPEC),
        };
        let mut body = vec![0; body_len];
        body[0] = family;
        if self == Self::Links {
            // The statistics are two thirds of a link's message.
            body.extend(8u16.to_ne_bytes());
            body.extend(IFLA_EXT_MASK.to_ne_bytes());
            body.extend(RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        }
        dump_request(kind, sequence, &body)
    }
}

/// The messages of one datagram. If a header lies about its length the rest can't be read: it is told as one
/// [`Message::Overrun`], because what was in it is lost.
pub fn frames(datagram: &[u8]) -> impl Iterator<Item = Frame> + '_ {
    messages(datagram).map(|raw| match raw {
        Some(raw) => Frame {
            sequence: raw.sequence,
            interrupted: raw.flags & NLM_F_DUMP_INTR != 0,
            message: message(&raw),
        },
        None => Frame { sequence: 0, interrupted: false, message: Message::Overrun },
    })
}

fn message(raw: &netlink::Message<'_>) -> Message {
    let (kind, body) = (raw.kind, raw.body);
    let decoded = match kind {
        NLMSG_ERROR | NLMSG_DONE => Some(Message::Done(raw.refusal())),
        NLMSG_OVERRUN => Some(Message::Overrun),
        RTM_NEWLINK | RTM_DELLINK => link(kind, body),
        RTM_NEWADDR => address(body).map(Message::Address),
        RTM_DELADDR => address(body).map(Message::AddressGone),
        RTM_NEWROUTE | RTM_DELROUTE => route(kind, body),
        _ => Some(Message::Other),
    };
    decoded.unwrap_or(Message::Undecodable)
}

/// `struct ifinfomsg` and attributes.
fn link(kind: u16, body: &[u8]) -> Option<Message> {
    // A bridge tells of its ports in messages of AF_BRIDGE: a DELLINK there means that the port left the bridge,
    // not that it is gone.
    if *body.first()? != AF_UNSPEC {
        return Some(Message::Other);
    }
    let index = u32_at(body, 4).filter(|index| *index != 0)?;
    if kind == RTM_DELLINK {
        return Some(Message::LinkGone { index });
    }
    let flags = u32_at(body, 8)?;
    let mut link = Link {
        index,
        name: String::new(),
        kind: None,
        hardware_type: u16_at(body, 2)?,
        hardware_address: Vec::new(),
        up: flags & IFF_UP != 0,
        loopback: flags & IFF_LOOPBACK != 0,
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_ADDRESS => link.hardware_address = value.to_vec(),
            // Wireless extensions' events name the link but leave out the rest.
            IFLA_WIRELESS => return Some(Message::Other),
            IFLA_LINKINFO => {
                link.kind = attributes(value)
                    .find(|(kind, value)| *kind == IFLA_INFO_KIND && !value.is_empty())
                    .map(|(_, value)| text(value));
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(Message::Link(link))
}

/// `struct ifaddrmsg` and attributes.
fn address(body: &[u8]) -> Option<Address> {
    let (family, prefix_len, index) = (*body.first()?, *body.get(1)?, u32_at(body, 4)?);
    let ip = |value: &[u8]| {
        netlink::ip(value).filter(|ip| family == if ip.is_ipv4() { AF_INET } else { AF_INET6 })
    };
    let (mut local, mut peer, mut broadcast) = (None, None, None);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            IFA_LOCAL => local = ip(value),
            IFA_ADDRESS => peer = ip(value),
            IFA_BROADCAST => {
                if let Some(IpAddr::V4(address)) = ip(value) {
                    broadcast = Some(address);
                }
            }
            _ => {}
        }
    }
    // IPv6 leaves IFA_LOCAL out unless there is a peer.
    let local = local.or(peer)?;
    Some(Address { index, prefix_len, local, peer: peer.unwrap_or(local), broadcast })
}

/// `struct rtmsg` and attributes.
fn route(kind: u16, body: &[u8]) -> Option<Message> {
    let (family, dst_len, table, route_type) = (*body.first()?, *body.get(1)?, *body.get(4)?, *body.get(7)?);
    let cloned = u32_at(body, 8)? & RTM_F_CLONED != 0;
    if !matches!(family, AF_INET | AF_INET6) || dst_len != 0 || route_type != RTN_UNICAST || cloned {
        return Some(Message::Other);
    }
    let mut table = u32::from(table);
    let mut interfaces = Vec::new();
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            RTA_TABLE => table = u32_at(value, 0).unwrap_or(table),
            RTA_OIF => interfaces.extend(u32_at(value, 0)),
            RTA_MULTIPATH => interfaces.extend(next_hops(value)),
            _ => {}
        }
    }
    Some(match kind {
        _ if table != RT_TABLE_MAIN => Message::Other,
        RTM_NEWROUTE => Message::DefaultRoute(interfaces),
        _ => Message::DefaultRouteGone,
    })
}

/// Interfaces of a list of `struct rtnexthop`.
fn next_hops(mut rest: &[u8]) -> impl Iterator<Item = u32> + '_ {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let hop = (length >= 8).then(|| rest.get(..length)).flatten()?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        u32_at(hop, 4)
    })
}
