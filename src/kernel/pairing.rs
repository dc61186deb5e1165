//! Making one flow of a translated conversation that the agent was told of (`nm_pair_told`).

use std::mem::offset_of;
use std::net::{IpAddr, SocketAddr};

use libbpf_rs::ProgramInput;

use super::object::{NO_TABLE, Object};
use super::skeleton::types::{bss, nm_pairing, nm_translated};

/// The addresses of a translated conversation, as its opener sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    protocol: u8,
    is_v6: bool,
    addresses: [[u8; 16]; 4],
    ports: [u16; 4],
}

impl Translated {
    /// Source and destination before translation, and after. `None` if they are not all of one family.
    pub fn new(protocol: u8, before: [SocketAddr; 2], after: [SocketAddr; 2]) -> Option<Self> {
        let ends = [before[0], before[1], after[0], after[1]];
        let is_v6 = before[0].is_ipv6();
        let bytes = |end: SocketAddr| {
            let mut bytes = [0; 16];
            match end.ip() {
                IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
                IpAddr::V6(ip) => bytes = ip.octets(),
            }
            bytes
        };
        ends.iter().all(|end| end.is_ipv6() == is_v6).then(|| Self {
            protocol,
            is_v6,
            addresses: ends.map(bytes),
            ports: ends.map(|end| end.port()),
        })
    }
}

/// What became of a pair of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pairing {
    /// Tags of the keys before and after translation.
    pub tags: [u64; 2],
    /// Whether sides change places between them.
    pub swapped: bool,
    /// Slot of the current table that leads from one to the other from now on.
    pub alias: Option<u32>,
    /// Table and slot of the second key's flow: it is dead, and what it has counted belongs to that of the first key.
    pub joined: Option<(u32, u32)>,
}

impl Object {
    /// Makes one flow of what is known of both keys. `only_tags`: changes nothing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pair(&mut self, keys: &Translated, only_tags: bool) -> std::io::Result<Pairing> {
        let at = offset_of!(bss, nm_pairing);
        let asked = nm_pairing {
            keys: nm_translated {
                address: keys.addresses,
                port_be: keys.ports.map(u16::to_be),
                protocol: keys.protocol,
                family: if keys.is_v6 { 6 } else { 4 },
                ..Default::default()
            },
            only_tags: u32::from(only_tags),
            ..Default::default()
        };
        self.bss.store(at, asked);
        let packet = [0u8; 64];
        let input = ProgramInput { data_in: Some(&packet), ..Default::default() };
        self.skel.progs.nm_pair_told.test_run(input).map_err(std::io::Error::other)?;
        let answer: nm_pairing = self.bss.load(at).unwrap_or_default();
        Ok(Pairing {
            tags: answer.tags,
            swapped: answer.swapped != 0,
            alias: answer.alias.checked_sub(1),
            joined: (answer.table != NO_TABLE).then_some((answer.table, answer.slot)),
        })
    }
}
