#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;

use super::decode::{Event, EventKind, event, interface_sum, key, perf_sample, tunnel, words_sum};
use super::types::nm_cold;

fn record(stamp_ns: u64, slot: u32, table: u8, kind: u8) -> Vec<u8> {
    let mut bytes = stamp_ns.to_ne_bytes().to_vec();
    bytes.extend(slot.to_ne_bytes());
    bytes.extend([table, kind, 0, 0]);
    bytes
}

#[test]
fn an_event_is_read_as_it_was_written() {
    assert_eq!(
        event(&record(7, 9, 1, 3)),
        Some(Event { stamp_ns: 7, slot: 9, table: 1, kind: EventKind::Ended })
    );
}

#[test]
fn events_that_are_short_or_unknown_are_none() {
    let whole = record(1, 2, 0, 1);
    for length in 0..14 {
        assert_eq!(event(&whole[..length]), None, "{length} bytes");
    }
    assert_eq!(event(&record(1, 2, 0, 0)), None);
    assert_eq!(event(&record(1, 2, 0, 99)), None);
}

#[test]
fn perf_records_that_lie_about_their_length_are_none() {
    let mut sample = vec![0u8; 8];
    sample.extend(4u32.to_ne_bytes());
    sample.extend([1, 2, 3, 4]);
    assert_eq!(perf_sample(&sample), Some(&[1u8, 2, 3, 4][..]));
    sample[8..12].copy_from_slice(&u32::MAX.to_ne_bytes());
    assert_eq!(perf_sample(&sample), None);
}

#[test]
fn a_key_has_the_opener_first() {
    let mut cold = nm_cold { family: 4, protocol: 6, opener: 1, ..Default::default() };
    cold.address[0][..4].copy_from_slice(&[10, 0, 0, 1]);
    cold.address[1][..4].copy_from_slice(&[10, 0, 0, 2]);
    cold.port_be = [80u16.to_be(), 40_000u16.to_be()];
    let flow = key(&cold).unwrap();
    assert_eq!((flow.src.to_string(), flow.dst.to_string()), ("10.0.0.2:40000".into(), "10.0.0.1:80".into()));
    cold.family = 5;
    assert_eq!(key(&cold), None);
}

#[test]
fn reasons_of_drops_bear_the_names_of_the_kernels_own_btf() {
    let reasons = super::drops::probe().expect("Linux 5.17 with BTF").reasons;
    let value = |wanted: &str| (0..200).find(|reason| reasons.name(*reason) == wanted);
    // Numbers change from kernel to kernel; these have been there since 5.17.
    for name in ["not_specified", "no_socket", "tcp_csum", "netfilter_drop"] {
        assert!(value(name).is_some(), "{name}");
    }
    assert_eq!(reasons.name(0xfffe), "subsystem-0-reason-65534");
    assert_eq!(reasons.name(0xfffe_0003), "subsystem-65534-reason-3");
}

#[test]
fn reasons_of_subsystems_are_told_by_subsystem_and_number() {
    let member = |name: &str, value| (name.to_owned(), value);
    let reasons = super::drops::Reasons::of(
        [member("SKB_CONSUMED", 1), member("SKB_DROP_REASON_NO_SOCKET", 3)],
        [member("SKB_DROP_REASON_SUBSYS_CORE", 0), member("SKB_DROP_REASON_SUBSYS_OPENVSWITCH", 2)],
    );
    let names = [1, 3, 4, 0x2_0003, 0x3_0001].map(|reason| reasons.name(reason));
    assert_eq!(
        names,
        ["consumed", "no_socket", "subsystem-0-reason-4", "openvswitch-3", "subsystem-3-reason-1"]
    );
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = event(&bytes);
        let _ = perf_sample(&bytes);
        let _ = tunnel(&bytes);
        let _ = words_sum::<2>(std::slice::from_ref(&bytes));
        let _ = interface_sum(&[bytes]);
    }

    #[test]
    fn sums_over_cpus_are_exact(values in proptest::collection::vec(any::<u32>(), 1..64)) {
        let per_cpu: Vec<Vec<u8>> = values.iter().map(|v| u64::from(*v).to_ne_bytes().to_vec()).collect();
        prop_assert_eq!(words_sum::<1>(&per_cpu), Some([values.iter().map(|v| u64::from(*v)).sum()]));
    }
}
