//! Whatever netlink datagrams say, they become messages and the state of interfaces stays sound, without a panic.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use netmon::interfaces::state::{Part, State};
use netmon::interfaces::{Selection, wire};

fuzz_target!(|bytes: &[u8]| {
    let Ok(selection) = Selection::new(&[], &[]) else { return };
    let mut state = State::new(Arc::new(selection));
    state.begin(Part::Links);
    let (dumped, told) = bytes.split_at(bytes.len() / 2);
    for frame in wire::frames(dumped) {
        let _ = state.apply_dumped(frame.message);
    }
    let _ = state.finish(true);
    for frame in wire::frames(told) {
        let _ = state.apply(frame.message);
    }
    let _ = state.take_addresses();
});
