//! Messages built byte by byte as the kernel lays them out, then truncated and made to lie.

use std::net::IpAddr;

use proptest::prelude::*;

use crate::interfaces::wire::{Address, Dump, Link, Message, frames};

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn datagram(kind: u16, flags: u16, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let mut bytes = Vec::new();
    bytes.extend(((16 + body.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(9u32.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(body);
    bytes
}

fn link_header(family: u8, hardware_type: u16, index: u32, flags: u32) -> Vec<u8> {
    let mut bytes = vec![family, 0];
    bytes.extend(hardware_type.to_ne_bytes());
    bytes.extend(index.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes
}

fn veth() -> Vec<u8> {
    // Nested attributes carry NLA_F_NESTED (0x8000).
    let info = [attribute(1, b"veth\0"), attribute(2 | 0x8000, &[])].concat();
    datagram(
        16,
        0,
        &[
            &link_header(0, 1, 5, 0x1043),
            &attribute(3, b"veth0\0"),
            &attribute(1, &[2, 0, 0, 0, 0, 5]),
            &attribute(999, b"from a newer kernel"),
            &attribute(18 | 0x8000, &info),
        ],
    )
}

fn only(bytes: &[u8]) -> Message {
    let mut all: Vec<_> = frames(bytes).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0).message
}

fn route_header(family: u8, dst_len: u8, table: u8, kind: u8, flags: u32) -> Vec<u8> {
    let mut bytes = vec![family, dst_len, 0, 0, table, 3, 0, kind];
    bytes.extend(flags.to_ne_bytes());
    bytes
}

#[test]
fn a_veth_is_read() {
    let expected = Link {
        index: 5,
        name: "veth0".into(),
        kind: Some("veth".into()),
        hardware_type: 1,
        hardware_address: vec![2, 0, 0, 0, 0, 5],
        up: true,
        loopback: false,
    };
    assert_eq!(only(&veth()), Message::Link(expected));
    let gone = datagram(17, 0, &[&link_header(0, 1, 5, 0), &attribute(3, b"veth0\0")]);
    assert_eq!(only(&gone), Message::LinkGone { index: 5 });
}

#[test]
fn a_port_that_leaves_its_bridge_is_not_gone() {
    assert_eq!(only(&datagram(17, 0, &[&link_header(7, 1, 5, 0x1043)])), Message::Other);
    assert_eq!(
        only(&datagram(16, 0, &[&link_header(7, 1, 5, 0x1043), &attribute(3, b"veth0\0")])),
        Message::Other
    );
}

#[test]
fn wireless_events_do_not_rewrite_a_link() {
    let event =
        datagram(16, 0, &[&link_header(0, 1, 5, 0x1043), &attribute(3, b"wlan0\0"), &attribute(11, &[0; 8])]);
    assert_eq!(only(&event), Message::Other);
}

#[test]
fn what_a_message_is_about_must_be_there() {
    assert_eq!(only(&datagram(16, 0, &[&link_header(0, 1, 5, 0x1043)])), Message::Undecodable);
    assert_eq!(only(&datagram(17, 0, &[&link_header(0, 1, 0, 0)])), Message::Undecodable);
    assert_eq!(only(&datagram(16, 0, &[])), Message::Undecodable);
    assert_eq!(only(&datagram(20, 0, &[&[2, 24, 0, 0, 5, 0, 0, 0]])), Message::Undecodable);
}

#[test]
fn an_attribute_that_lies_hides_only_what_is_behind_it() {
    let mut lie = attribute(18, b"xxxx");
    lie[0] = 0xff;
    let bytes = datagram(16, 0, &[&link_header(0, 1, 5, 0x1043), &attribute(3, b"eth0\0"), &lie]);
    let Message::Link(link) = only(&bytes) else { panic!("not a link") };
    assert_eq!((link.name.as_str(), link.kind), ("eth0", None));
}

#[test]
fn addresses_name_this_hosts_side() {
    let local: IpAddr = "10.0.0.1".parse().unwrap();
    let peer: IpAddr = "10.0.0.2".parse().unwrap();
    let header = [2, 24, 0, 0, 5, 0, 0, 0];
    let point_to_point =
        datagram(20, 0, &[&header, &attribute(1, &[10, 0, 0, 2]), &attribute(2, &[10, 0, 0, 1])]);
    assert_eq!(
        only(&point_to_point),
        Message::Address(Address { index: 5, prefix_len: 24, local, peer, broadcast: None })
    );
    let subnet = datagram(
        21,
        0,
        &[
            &header,
            &attribute(1, &[10, 0, 0, 1]),
            &attribute(2, &[10, 0, 0, 1]),
            &attribute(4, &[10, 0, 0, 255]),
        ],
    );
    let broadcast = Some([10, 0, 0, 255].into());
    assert_eq!(
        only(&subnet),
        Message::AddressGone(Address { index: 5, prefix_len: 24, local, peer: local, broadcast })
    );
    let six: std::net::Ipv6Addr = "fe80::1".parse().unwrap();
    let six_only = datagram(20, 0, &[&[10, 64, 0, 0, 5, 0, 0, 0], &attribute(1, &six.octets())]);
    let Message::Address(address) = only(&six_only) else { panic!("not an address") };
    assert_eq!(address.local, IpAddr::from(six));
}

#[test]
fn default_routes_of_the_main_table_are_read() {
    let oif = attribute(4, &5u32.to_ne_bytes());
    let default = |header: &[u8]| only(&datagram(24, 0, &[header, &oif]));
    assert_eq!(default(&route_header(2, 0, 254, 1, 0)), Message::DefaultRoute(vec![5]));
    assert_eq!(default(&route_header(10, 0, 254, 1, 0)), Message::DefaultRoute(vec![5]));
    // To a subnet; of another table; a blackhole; a cached route; of another family.
    for header in [
        route_header(2, 24, 254, 1, 0),
        route_header(2, 0, 255, 1, 0),
        route_header(2, 0, 254, 6, 0),
        route_header(2, 0, 254, 1, 0x200),
        route_header(28, 0, 254, 1, 0),
    ] {
        assert_eq!(default(&header), Message::Other, "{header:?}");
    }
    let table = attribute(15, &1000u32.to_ne_bytes());
    assert_eq!(only(&datagram(24, 0, &[&route_header(2, 0, 252, 1, 0), &table, &oif])), Message::Other);
    assert_eq!(only(&datagram(25, 0, &[&route_header(2, 0, 254, 1, 0), &oif])), Message::DefaultRouteGone);

    let hop = |index: u32| [&16u16.to_ne_bytes()[..], &[0, 0], &index.to_ne_bytes(), &[0; 8]].concat();
    let hops = attribute(9, &[hop(5), hop(6)].concat());
    let multipath = datagram(24, 0, &[&route_header(2, 0, 254, 1, 0), &hops]);
    assert_eq!(only(&multipath), Message::DefaultRoute(vec![5, 6]));
}

#[test]
fn ends_of_dumps_are_told_from_refusals() {
    assert_eq!(only(&datagram(3, 0, &[&0i32.to_ne_bytes()])), Message::Done(None));
    assert_eq!(only(&datagram(3, 0, &[])), Message::Done(None));
    assert_eq!(only(&datagram(2, 0, &[&(-95i32).to_ne_bytes(), &[0; 16]])), Message::Done(Some(95)));
    assert_eq!(only(&datagram(3, 0, &[&i32::MIN.to_ne_bytes()])), Message::Done(Some(i32::MAX)));
}

#[test]
fn headers_are_read_and_datagrams_hold_several_messages() {
    let bytes = [datagram(16, 0x12, &[&veth()[16..]]), datagram(3, 2, &[&[0; 4]])].concat();
    let all: Vec<_> = frames(&bytes).collect();
    assert_eq!(all.len(), 2);
    assert!(all[0].interrupted && !all[1].interrupted);
    assert_eq!((all[0].sequence, &all[1].message), (9, &Message::Done(None)));
}

#[test]
fn a_header_that_lies_is_a_loss() {
    for length in [0u32, 15, 17_000, u32::MAX] {
        let mut bytes = [veth(), veth()].concat();
        let second = bytes.len() / 2;
        bytes[second..second + 4].copy_from_slice(&length.to_ne_bytes());
        let all: Vec<_> = frames(&bytes).map(|frame| frame.message).collect();
        assert!(matches!(all[..], [Message::Link(_), Message::Overrun]), "{length}: {all:?}");
    }
}

#[test]
fn requests_are_well_formed() {
    for (dump, kind) in
        [(Dump::RoutesV4, 26u16), (Dump::RoutesV6, 26), (Dump::Addresses, 22), (Dump::Links, 18)]
    {
        let request = dump.request(3);
        assert_eq!(request[..4], (request.len() as u32).to_ne_bytes());
        assert_eq!(request[4..6], kind.to_ne_bytes());
        assert_eq!(request[6..8], 0x301u16.to_ne_bytes());
        assert_eq!(request[8..12], 3u32.to_ne_bytes());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = frames(&bytes).count();
    }

    #[test]
    fn a_message_of_any_kind_and_body_is_survived(
        kind in 0u16..40,
        body in proptest::collection::vec(any::<u8>(), 0..256),
    ) {
        prop_assert_eq!(frames(&datagram(kind, 0, &[&body])).count(), 1);
    }

    #[test]
    fn a_true_message_cut_or_altered_is_survived(cut in 0usize..200, at in 0usize..200, byte in any::<u8>()) {
        let mut bytes = veth();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(cut.max(1));
        prop_assert!(frames(&bytes).count() >= 1);
    }
}
