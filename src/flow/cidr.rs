//! Networks.

use std::net::IpAddr;

/// A network, `10.0.0.0/8` or `fd00::/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

impl Cidr {
    /// Reads `address/bits`; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
        (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(Self { address, bits })
    }

    /// The network of one address.
    pub fn of(address: IpAddr) -> Self {
        Self { address, bits: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// An address of it.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The bits that count, from the highest on; IPv4 has the upper 32.
    pub fn mask(&self) -> u128 {
        if self.bits == 0 { 0 } else { u128::MAX << (128 - u32::from(self.bits)) }
    }

    /// Whether an address lies in it.
    pub fn contains(&self, other: IpAddr) -> bool {
        let number = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, true),
            IpAddr::V6(v6) => (u128::from(v6), false),
        };
        let ((own, own_v4), (ip, v4)) = (number(self.address), number(other));
        let mask = self.mask();
        own_v4 == v4 && own & mask == ip & mask
    }
}
