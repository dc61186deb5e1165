//! What is tested where: [`choice`] patterns and selection, [`decode`] messages true and false, [`following`] the
//! state machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod choice;
mod decode;
mod following;

use super::*;

fn interface(name: &str) -> Interface {
    Interface {
        index: 7,
        name: name.into(),
        kind: None,
        link_layer: LinkLayer::Ethernet,
        up: true,
        loopback: name == "lo",
        local_peer: false,
    }
}

fn selection(include: &[&str], exclude: &[&str]) -> Selection {
    let owned = |patterns: &[&str]| patterns.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    Selection::new(&owned(include), &owned(exclude)).unwrap()
}
