//! The state machine: notifications, dumps, and both at once.

use std::net::IpAddr;
use std::sync::Arc;

use super::*;
use crate::interfaces::state::{Part, State};
use crate::interfaces::wire::{Address, Link, Message};

fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.into(),
        kind: Some("veth".into()),
        hardware_type: 1,
        hardware_address: vec![2, 0, 0, 0, 0, index as u8],
        up: true,
        loopback: false,
    }
}

fn up(index: u32, name: &str) -> Message {
    Message::Link(link(index, name))
}

fn down(index: u32, name: &str) -> Message {
    Message::Link(Link { up: false, ..link(index, name) })
}

fn gone(index: u32, name: &str) -> Event {
    Event::Gone { index, name: name.into() }
}

fn address(index: u32, text: &str) -> Address {
    let local: IpAddr = text.parse().unwrap();
    Address { index, prefix_len: 24, local, peer: local, broadcast: None }
}

fn state() -> State {
    State::new(Arc::new(Selection::default()))
}

/// Names of those that appeared or changed; `-name` for those that are gone.
fn brief(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .map(|event| match event {
            Event::Appeared(interface) => format!("+{}", interface.name),
            Event::Changed(interface) => format!("~{}", interface.name),
            Event::Gone { name, .. } => format!("-{name}"),
            Event::Addresses(_) | Event::Synced => panic!("not from the state"),
        })
        .collect()
}

fn uplinks(state: &mut State, indices: &[u32]) -> Vec<Event> {
    state.begin(Part::Routes);
    state.apply_dumped(Message::DefaultRoute(indices.to_vec()));
    state.finish(true)
}

#[test]
fn a_life_of_an_interface() {
    let mut state = state();
    assert_eq!(brief(&state.apply(down(5, "veth0"))), [""; 0]);
    assert_eq!(brief(&state.apply(up(5, "veth0"))), ["+veth0"]);
    assert_eq!(brief(&state.apply(up(5, "veth0"))), [""; 0]);
    assert_eq!(brief(&state.apply(up(5, "renamed"))), ["~renamed"]);
    assert_eq!(brief(&state.apply(down(5, "renamed"))), ["-renamed"]);
    assert_eq!(brief(&state.apply(up(5, "renamed"))), ["+renamed"]);
    assert_eq!(state.apply(Message::LinkGone { index: 5 }), [gone(5, "renamed")]);
    assert!(state.apply(Message::LinkGone { index: 5 }).is_empty());
    assert_eq!(state.known(), 0);
    // The index again, for another interface.
    assert_eq!(brief(&state.apply(up(5, "veth9"))), ["+veth9"]);
}

#[test]
fn one_that_goes_down_under_a_new_name_is_gone_by_the_name_it_was_told() {
    let mut state = state();
    state.apply(up(5, "old"));
    assert_eq!(state.apply(down(5, "new")), [gone(5, "old")]);
}

#[test]
fn renames_lead_into_and_out_of_the_selection() {
    let mut state = State::new(Arc::new(selection(&["veth*"], &[])));
    assert_eq!(brief(&state.apply(up(5, "tmp0"))), [""; 0]);
    assert_eq!(brief(&state.apply(up(5, "veth0"))), ["+veth0"]);
    assert_eq!(brief(&state.apply(up(5, "tmp0"))), ["-veth0"]);
    state.apply(up(5, "veth0"));
    assert_eq!(brief(&state.select(Arc::new(selection(&["eth*"], &[])))), ["-veth0"]);
    assert_eq!(brief(&state.select(Arc::new(Selection::default()))), ["+veth0"]);
}

#[test]
fn containers_and_guests_are_local_peers_but_tunnels_are_not() {
    for (kind, hardware_type, expected) in [
        (Some("veth"), 1, true),
        (Some("netkit"), 1, true),
        (Some("netkit"), 0xfffe, true),
        (Some("tun"), 1, true),
        (Some("tun"), 0xfffe, false),
        (Some("wireguard"), 0xfffe, false),
        (Some("bridge"), 1, false),
        (None, 1, false),
    ] {
        let message = Link { kind: kind.map(Into::into), hardware_type, ..link(5, "x") };
        match &state().apply(Message::Link(message))[..] {
            [Event::Appeared(interface)] => {
                assert_eq!(interface.local_peer, expected, "{kind:?} {hardware_type}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_uplink_is_no_local_peer() {
    let mut state = state();
    assert!(uplinks(&mut state, &[5]).is_empty());
    let events = state.apply(up(5, "eth0"));
    assert!(matches!(&events[..], [Event::Appeared(interface)] if !interface.local_peer), "{events:?}");
    assert!(!state.routes_stale());
    state.apply(Message::DefaultRouteGone);
    assert!(state.routes_stale());
    let events = uplinks(&mut state, &[]);
    assert!(matches!(&events[..], [Event::Changed(interface)] if interface.local_peer), "{events:?}");
    assert!(!state.routes_stale());
}

#[test]
fn routes_that_go_in_silence_are_asked_for() {
    let mut state = state();
    uplinks(&mut state, &[5]);
    for other in [up(6, "veth6"), down(6, "veth6"), Message::LinkGone { index: 6 }] {
        state.apply(other);
        assert!(!state.routes_stale());
    }
    for message in
        [down(5, "eth0"), Message::AddressGone(address(5, "10.0.0.1")), Message::DefaultRoute(vec![5])]
    {
        state.apply(message.clone());
        assert!(state.routes_stale(), "{message:?}");
        uplinks(&mut state, &[5]);
    }
    state.apply(Message::LinkGone { index: 5 });
    assert!(state.routes_stale());
    // A change during the dump makes for another one.
    state.begin(Part::Routes);
    state.apply(Message::DefaultRouteGone);
    state.finish(true);
    assert!(state.routes_stale());
}

#[test]
fn a_dump_replaces_what_was_missed() {
    let mut state = state();
    for (index, name) in [(5, "stays"), (6, "goes"), (7, "old")] {
        state.apply(up(index, name));
    }
    state.begin(Part::Links);
    let mut events = state.apply_dumped(up(5, "stays"));
    events.extend(state.apply_dumped(up(7, "new")));
    events.extend(state.apply_dumped(up(8, "comes")));
    events.extend(state.finish(true));
    assert_eq!(brief(&events), ["~new", "+comes", "-goes"]);
    assert_eq!(state.known(), 3);
}

#[test]
fn what_an_incomplete_dump_leaves_out_is_not_gone() {
    let mut state = state();
    state.apply(up(5, "veth5"));
    state.apply(Message::Address(address(5, "10.0.0.1")));
    uplinks(&mut state, &[5]);
    for part in [Part::Links, Part::Addresses, Part::Routes] {
        state.begin(part);
        assert!(state.finish(false).is_empty());
    }
    assert!(state.take_addresses().contains(&"10.0.0.1".parse().unwrap()));
    for (part, expected) in [(Part::Routes, "~veth5"), (Part::Links, "-veth5")] {
        state.begin(part);
        assert_eq!(brief(&state.finish(true)), [expected]);
    }
}

#[test]
fn an_index_used_again_while_messages_were_lost_is_another_interface() {
    let mut state = state();
    state.apply(up(5, "veth0"));
    state.begin(Part::Links);
    let reborn = Link { hardware_address: vec![2, 0, 0, 0, 0, 99], ..link(5, "veth0") };
    assert_eq!(brief(&state.apply_dumped(Message::Link(reborn))), ["-veth0", "+veth0"]);
    let other_kind = Link { kind: Some("bridge".into()), ..link(5, "veth0") };
    assert_eq!(brief(&state.apply_dumped(Message::Link(other_kind))), ["-veth0", "+veth0"]);
}

#[test]
fn a_notification_stands_against_the_dump_beside_it() {
    let mut state = state();
    state.apply(up(5, "veth5"));
    state.begin(Part::Links);
    // Gone after the kernel wrote the dump's entry, but read before it.
    assert_eq!(brief(&state.apply(Message::LinkGone { index: 5 })), ["-veth5"]);
    assert!(state.apply_dumped(up(5, "veth5")).is_empty());
    // Down, the dump says up.
    assert!(state.apply(down(6, "veth6")).is_empty());
    assert!(state.apply_dumped(up(6, "veth6")).is_empty());
    // New, and not in the dump.
    assert_eq!(brief(&state.apply(up(7, "veth7"))), ["+veth7"]);
    assert!(state.finish(true).is_empty());
    assert_eq!(state.known(), 2);
}

#[test]
fn addresses_are_counted_not_just_set() {
    let mut state = state();
    assert!(state.addresses_changed(), "the first ones have to be told, even if there are none");
    let ours: IpAddr = "10.0.0.1".parse().unwrap();
    let wide = Address { prefix_len: 16, ..address(5, "10.0.0.1") };
    for entry in [address(5, "10.0.0.1"), wide, address(6, "10.0.0.1")] {
        state.apply(Message::Address(entry));
    }
    assert!(state.take_addresses().contains(&ours));
    assert!(!state.addresses_changed());
    state.apply(Message::Address(wide));
    assert!(!state.addresses_changed(), "nothing new");
    state.apply(Message::AddressGone(address(5, "10.0.0.1")));
    state.apply(Message::LinkGone { index: 6 });
    state.apply(up(6, "veth6"));
    state.apply(Message::LinkGone { index: 6 });
    assert!(state.take_addresses().contains(&ours), "one of three is left");
    state.apply(Message::AddressGone(wide));
    assert!(state.addresses_changed());
    assert!(!state.take_addresses().contains(&ours));
}

#[test]
fn a_dump_of_addresses_replaces_what_was_missed() {
    let mut state = state();
    for entry in [address(5, "10.0.0.1"), address(5, "10.0.0.2")] {
        state.apply(Message::Address(entry));
    }
    state.begin(Part::Addresses);
    state.apply(Message::Address(address(5, "10.0.0.4")));
    state.apply(Message::AddressGone(address(5, "10.0.0.5")));
    for text in ["10.0.0.2", "10.0.0.3", "10.0.0.5"] {
        state.apply_dumped(Message::Address(address(5, text)));
    }
    state.finish(true);
    let mut all: Vec<_> = state.take_addresses().iter().map(|address| address.to_string()).collect();
    all.sort();
    assert_eq!(all, ["10.0.0.2", "10.0.0.3", "10.0.0.4"]);
}

#[test]
fn loopback_is_this_host_and_groups_are_nobody() {
    let ours: IpAddr = "10.0.0.1".parse().unwrap();
    let addresses = HostAddresses::new([ours], ["10.0.0.255".parse().unwrap()]);
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    for text in ["10.0.0.1", "::ffff:10.0.0.1", "127.0.0.1", "127.9.9.9", "::1"] {
        assert!(addresses.contains(&ip(text)), "{text}");
        assert!(!addresses.is_group(&ip(text)), "{text}");
    }
    for text in ["224.0.0.251", "255.255.255.255", "10.0.0.255", "ff02::1"] {
        assert!(addresses.is_group(&ip(text)), "{text}");
        assert!(!addresses.contains(&ip(text)), "{text}");
    }
    for text in ["0.0.0.0", "::", "10.0.0.2", "fe80::1"] {
        assert!(!addresses.contains(&ip(text)) && !addresses.is_group(&ip(text)), "{text}");
    }
}

#[test]
fn messages_of_no_concern_change_nothing() {
    let mut state = state();
    for message in [Message::Other, Message::Undecodable, Message::Done(None), Message::Overrun] {
        assert!(state.apply(message.clone()).is_empty());
        assert!(state.apply_dumped(message).is_empty());
    }
    assert!(state.finish(true).is_empty());
}
