//! Whatever bytes the kernel hands over, every decoder answers with a fact or nothing, and never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netmon::kernel::decode::{event, interface_sum, key, perf_sample, tunnel, words_sum};
use netmon::kernel::types::nm_cold;

fuzz_target!(|bytes: &[u8]| {
    let _ = event(bytes);
    let _ = perf_sample(bytes).map(event);
    let _ = tunnel(bytes);
    let cpus: Vec<Vec<u8>> = bytes.chunks(40).map(<[u8]>::to_vec).collect();
    let _ = words_sum::<2>(&cpus);
    let _ = interface_sum(&[bytes.to_vec()]);
    if let Some((address, rest)) = bytes.split_first_chunk::<32>()
        && let [a, b, c, d, protocol, family, opener, ..] = *rest
    {
        let mut cold = nm_cold { protocol, family, opener, ..Default::default() };
        cold.address[0].copy_from_slice(&address[..16]);
        cold.address[1].copy_from_slice(&address[16..]);
        cold.port_be = [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])];
        if let Some(key) = key(&cold) {
            assert!(matches!(family, 4 | 6));
            assert_eq!(key.protocol.0, protocol);
        }
    }
});
