//! Conntrack's netlink messages: of what comes only the addresses of entries that are translated.

use crate::flow::key::Protocol;
use crate::kernel::pairing::Translated;
use crate::netlink::{
    Message, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN, attribute, dump_request, ip, messages, u16_at,
};

// linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h: subsystem << 8 | message
const CT_NEW: u16 = 1 << 8;
const CT_GET: u16 = 1 << 8 | 1;
const CT_DELETE: u16 = 1 << 8 | 2;
/// `struct nfgenmsg`
const GENERIC: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
/// Addresses of an IPv4 and of an IPv6 tuple: source and destination.
const CTA_IP: [[u16; 2]; 2] = [[1, 2], [3, 4]];

/// `IPS_SRC_NAT | IPS_DST_NAT` (linux/netfilter/nf_conntrack_common.h)
const IPS_NAT: u32 = 1 << 4 | 1 << 5;

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// A translated conversation is there.
    New(Translated),
    /// One is gone.
    Gone(Translated),
    /// End of a dump, or the kernel's refusal with its error number.
    Done(Option<i32>),
    /// Messages were lost.
    Lost,
}

/// The request for all entries.
pub fn dump(sequence: u32) -> Vec<u8> {
    dump_request(CT_GET, sequence, &[0; GENERIC])
}

/// What a datagram says of translated conversations.
pub fn words(datagram: &[u8]) -> impl Iterator<Item = Word> {
    messages(datagram).filter_map(|message| message.map_or(Some(Word::Lost), |message| word(&message)))
}

fn word(message: &Message<'_>) -> Option<Word> {
    match message.kind {
        CT_NEW => translated(message.body.get(GENERIC..)?).map(Word::New),
        CT_DELETE => translated(message.body.get(GENERIC..)?).map(Word::Gone),
        NLMSG_DONE | NLMSG_ERROR => Some(Word::Done(message.refusal())),
        NLMSG_OVERRUN => Some(Word::Lost),
        _ => None,
    }
}

/// The keys of an entry, if it is translated: before translation as it was opened; after it the answer's, turned round.
fn translated(entry: &[u8]) -> Option<Translated> {
    let status = u32::from_be_bytes(attribute(entry, CTA_STATUS)?.try_into().ok()?);
    if status & IPS_NAT == 0 {
        return None;
    }
    let opened = Tuple::of(attribute(entry, CTA_TUPLE_ORIG)?)?;
    let answered = Tuple::of(attribute(entry, CTA_TUPLE_REPLY)?)?;
    let [sent, got] = [opened.ends, answered.ends];
    Translated::new(opened.protocol, [sent[0], sent[1]], [got[1], got[0]])
}

struct Tuple {
    protocol: u8,
    /// Source and destination.
    ends: [std::net::SocketAddr; 2],
}

impl Tuple {
    fn of(tuple: &[u8]) -> Option<Self> {
        let addresses = attribute(tuple, CTA_TUPLE_IP)?;
        let proto = attribute(tuple, CTA_TUPLE_PROTO)?;
        let address = |end: usize| CTA_IP.iter().find_map(|kinds| ip(attribute(addresses, kinds[end])?));
        let byte = |kind| attribute(proto, kind)?.first().copied();
        // Network order on the wire, and so in a socket address after this.
        let port = |kind| attribute(proto, kind).and_then(|value| u16_at(value, 0)).map(u16::from_be);
        let protocol = byte(CTA_PROTO_NUM)?;
        let echo = match (byte(CTA_PROTO_ICMP_TYPE), byte(CTA_PROTO_ICMPV6_TYPE)) {
            (Some(0 | 8), _) => port(CTA_PROTO_ICMP_ID),
            (_, Some(128 | 129)) => port(CTA_PROTO_ICMPV6_ID),
            _ => None,
        };
        // As the programs make keys: of echoes the identifier stands in both ports, what is unknown has none.
        let has_ports = matches!(Protocol(protocol), Protocol::TCP | Protocol::UDP | Protocol::SCTP);
        let ports = if has_ports {
            [port(CTA_PROTO_SRC_PORT)?, port(CTA_PROTO_DST_PORT)?]
        } else {
            [echo.unwrap_or(0); 2]
        };
        Some(Self { protocol, ends: [(address(0)?, ports[0]).into(), (address(1)?, ports[1]).into()] })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple(kind: u16, [src, dst]: [[u8; 4]; 2], proto: &[Vec<u8>]) -> Vec<u8> {
        let addresses = nla(CTA_TUPLE_IP | 0x8000, &[nla(1, &src), nla(2, &dst)].concat());
        nla(kind | 0x8000, &[addresses, nla(CTA_TUPLE_PROTO | 0x8000, &proto.concat())].concat())
    }

    fn message(kind: u16, status: u32, tuples: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![2, 0, 0, 0];
        body.extend(tuples.concat());
        body.extend(nla(CTA_STATUS, &status.to_be_bytes()));
        let mut bytes = dump_request(kind, 0, &body);
        bytes[6..8].fill(0);
        bytes
    }

    const C: [u8; 4] = [10, 1, 0, 2];
    const R: [u8; 4] = [10, 2, 0, 1];
    const S: [u8; 4] = [10, 2, 0, 2];

    fn udp(from: u16, to: u16) -> Vec<Vec<u8>> {
        vec![nla(1, &[17]), nla(2, &from.to_be_bytes()), nla(3, &to.to_be_bytes())]
    }

    #[test]
    fn a_translated_entry_has_two_keys_as_its_opener_sends() {
        let tuples = [tuple(1, [C, S], &udp(4000, 80)), tuple(2, [S, R], &udp(80, 5000))];
        let ends = |text: [&str; 2]| text.map(|end| end.parse().unwrap());
        let both = Translated::new(
            17,
            ends(["10.1.0.2:4000", "10.2.0.2:80"]),
            ends(["10.2.0.1:5000", "10.2.0.2:80"]),
        )
        .unwrap();
        let told = |kind, status| words(&message(kind, status, &tuples)).collect::<Vec<_>>();
        assert_eq!(told(CT_NEW, 0x1a), [Word::New(both)]);
        assert_eq!(told(CT_DELETE, 0x2a), [Word::Gone(both)]);
        assert_eq!(told(CT_NEW, 0x18e), [], "not translated");
    }

    #[test]
    fn an_echo_has_its_identifier_in_both_ports() {
        let echo = |kind: u8, id: u16| {
            vec![nla(1, &[1]), nla(CTA_PROTO_ICMP_ID, &id.to_be_bytes()), nla(CTA_PROTO_ICMP_TYPE, &[kind])]
        };
        let tuples = [tuple(1, [C, S], &echo(8, 7)), tuple(2, [S, R], &echo(0, 9))];
        let ends = |text: [&str; 2]| text.map(|end| end.parse().unwrap());
        let both = Translated::new(1, ends(["10.1.0.2:7", "10.2.0.2:7"]), ends(["10.2.0.1:9", "10.2.0.2:9"]));
        assert_eq!(words(&message(CT_NEW, 0x10, &tuples)).next(), both.map(Word::New));
    }

    #[test]
    fn ends_and_losses_are_told() {
        let done = |kind, code: i32| words(&dump_request(kind, 1, &code.to_ne_bytes())).next();
        assert_eq!(done(NLMSG_DONE, 0), Some(Word::Done(None)));
        assert_eq!(done(NLMSG_ERROR, -22), Some(Word::Done(Some(22))));
        assert_eq!(words(&[9, 0, 0, 0]).collect::<Vec<_>>(), [Word::Lost]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256), cut in 0usize..200) {
            let _ = words(&bytes).count();
            let tuples = [tuple(1, [C, S], &udp(4000, 80)), tuple(2, [S, R], &udp(80, 5000))];
            let mut whole = message(CT_NEW, 0x10, &tuples);
            for (at, byte) in bytes.iter().enumerate().filter(|(at, _)| at % 7 == 0) {
                if let Some(place) = whole.get_mut(16 + at) {
                    *place = *byte;
                }
            }
            whole.truncate(cut.min(whole.len()));
            let _ = words(&whole).count();
        }
    }
}
