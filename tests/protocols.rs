//! Application protocols by their bytes, by BPF_PROG_TEST_RUN: what is recognised, and what is not. Needs root.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "protocols/foreign.rs"]
mod foreign;
#[path = "programs/frame.rs"]
mod frame;
#[path = "programs/loaded.rs"]
mod loaded;
#[path = "common/random.rs"]
#[allow(dead_code)]
mod random;
#[path = "protocols/streams.rs"]
mod streams;

use std::collections::HashMap;
use std::net::IpAddr;

use frame::{Ipv4, ethernet, tcp, udp};
use loaded::Loaded;
use netmon::flow::app::App;
use netmon::kernel::decode;
use netmon::kernel::object::{Features, TestProgram};
use random::Random;
use streams::{CLIENT, SERVER, Stream};

const SYN: u8 = 2;
const ACK: u8 = 16;

/// Conversations of many clients with one server, each from an address of its own.
struct Wire {
    loaded: Loaded,
    clients: u32,
}

/// A client's number.
type Client = u32;

impl Wire {
    fn new(protocols: &[App], timing: bool) -> Self {
        let features =
            Features { timing, bounds_us: vec![1000], protocols: protocols.to_vec(), ..Features::default() };
        Self { loaded: Loaded::load(1 << 16, features), clients: 0 }
    }

    fn send(&self, client: Client, udp_port: Option<u16>, from: usize, flags: u8, payload: &[u8]) {
        let [_, high, mid, low] = client.to_be_bytes();
        let ends = [[10, high, mid, low], [192, 168, 0, 1]];
        let ports = [40_000, udp_port.unwrap_or(40_001)];
        let (me, you) = (from, 1 - from);
        let (protocol, bytes) = match udp_port {
            Some(_) => (17, udp(ports[me], ports[you], None, payload)),
            None => (6, tcp(ports[me], ports[you], flags, 5, payload)),
        };
        let ip = Ipv4 { protocol, source: ends[me], destination: ends[you], ..Ipv4::default() };
        let frame = ethernet(0x0800, &ip.with(&bytes));
        self.loaded.run(TestProgram::Ingress, &frame);
    }

    /// A conversation of a new client.
    fn talk<'a>(&mut self, udp: bool, turns: impl IntoIterator<Item = (usize, &'a [u8])>) -> Client {
        self.clients += 1;
        let client = self.clients;
        let port = udp.then_some(40_001);
        if !udp {
            self.send(client, port, CLIENT, SYN, &[]);
        }
        for (from, payload) in turns {
            self.send(client, port, from, ACK, payload);
        }
        client
    }

    fn say(&mut self, stream: &Stream) -> Client {
        self.talk(stream.udp, stream.turns.iter().map(|(from, bytes)| (*from, &bytes[..])))
    }

    /// What each conversation was taken for, and the version of TLS.
    fn told(&self) -> HashMap<Client, (Option<App>, Option<&'static str>)> {
        let mut told = HashMap::new();
        for slot in self.loaded.snapshots() {
            let key = decode::key(&slot.cold).unwrap();
            let client = [key.src, key.dst].iter().find_map(|end| match end.ip() {
                IpAddr::V4(ip) if ip.octets()[0] == 10 => Some(u32::from(ip) & 0x00ff_ffff),
                _ => None,
            });
            let version = decode::tls_version(&slot.timing).map(|version| version.name());
            told.insert(client.unwrap(), (decode::app(&slot.timing), version));
        }
        assert_eq!(told.len(), self.clients as usize, "every conversation is a flow");
        told
    }
}

#[test]
fn every_protocol_is_recognised_by_its_bytes() {
    let mut wire = Wire::new(App::KNOWN, true);
    let said: Vec<_> = streams::known().into_iter().map(|stream| (wire.say(&stream), stream)).collect();
    let told = wire.told();
    let wrong: Vec<_> = said
        .iter()
        .filter(|(client, stream)| told[client] != (Some(stream.app), stream.tls_version))
        .map(|(client, stream)| format!("{} ({:?}): {:?}", stream.name, stream.app, told[client]))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for app in App::KNOWN {
        assert!(said.iter().any(|(_, stream)| stream.app == *app), "no stream of {app:?}");
    }
}

/// A message that ends or is cut anywhere is recognised or unknown, and never something else.
#[test]
fn what_is_cut_short_is_never_taken_for_something_else() {
    let mut wire = Wire::new(App::KNOWN, true);
    let mut said = Vec::new();
    for stream in streams::known() {
        for (turn, (from, bytes)) in stream.turns.iter().enumerate() {
            for cut in 1..bytes.len().min(330) {
                let before = stream.turns[..turn].iter().map(|(from, bytes)| (*from, &bytes[..]));
                let after = stream.turns[turn + 1..].iter().map(|(from, bytes)| (*from, &bytes[..]));
                let (first, second) = bytes.split_at(cut);
                let parts = [(*from, first), (*from, second)];
                let whole = before.clone().chain(parts).chain(after.clone());
                said.push((wire.talk(stream.udp, whole), stream.clone(), turn, cut));
                let short = before.chain([parts[0]]).chain(after);
                said.push((wire.talk(stream.udp, short), stream.clone(), turn, cut));
            }
        }
    }
    let told = wire.told();
    let related = |one: App, other: App| {
        // What a longer look would have told more exactly.
        one == other || matches!((one, other), (App::Http2, App::Grpc) | (App::Http, App::Http2))
    };
    let wrong: Vec<_> = said
        .iter()
        .filter(|(client, stream, ..)| {
            let (app, version) = told[client];
            !app.is_some_and(|app| app == App::Unknown || related(app, stream.app))
                || version.is_some_and(|version| Some(version) != stream.tls_version)
        })
        .map(|(client, stream, turn, cut)| {
            format!("{} ({:?}), turn {turn} cut at {cut}: {:?}", stream.name, stream.app, told[client])
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {}: {:#?}", wrong.len(), said.len(), &wrong[..wrong.len().min(20)]);
}

#[test]
fn what_is_not_known_stays_unknown() {
    let mut wire = Wire::new(App::KNOWN, true);
    let said: Vec<_> = foreign::streams().into_iter().map(|stream| (wire.say(&stream), stream)).collect();
    let told = wire.told();
    let wrong: Vec<_> = said
        .iter()
        .filter(|(client, _)| told[client].0 != Some(App::Unknown))
        .map(|(client, stream)| format!("{}: {:?}", stream.name, told[client]))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Random bytes, and random bytes behind the first bytes of each protocol.
#[test]
fn noise_is_not_recognised() {
    let mut wire = Wire::new(App::KNOWN, false);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let known = streams::known();
    let mut cut_streams = 0;
    for number in 0..20_000 {
        let length = random.below(400) + 1;
        let mut bytes = [(); 2].map(|()| (0..length).map(|_| random.next() as u8).collect::<Vec<_>>());
        if number % 2 == 1 {
            // Two bytes of a message are right, the rest is not.
            let stream = &known[random.below(known.len())];
            for (from, message) in &stream.turns {
                let right = message.len().min(2).min(length);
                bytes[*from][..right].copy_from_slice(&message[..right]);
            }
            cut_streams += 1;
        }
        wire.talk(number % 4 > 1, [(CLIENT, &bytes[0][..]), (SERVER, &bytes[1][..])]);
    }
    let told = wire.told();
    let wrong: Vec<_> = told.values().filter(|(app, _)| *app != Some(App::Unknown)).collect();
    assert!(wrong.is_empty(), "{} of 20000 ({cut_streams} with two right bytes): {wrong:?}", wrong.len());
}

#[test]
fn what_is_not_asked_for_is_not_told() {
    let mut wire = Wire::new(&[App::Http2, App::Dns], true);
    let said: Vec<_> = streams::known().into_iter().map(|stream| (wire.say(&stream), stream)).collect();
    let told = wire.told();
    for (client, stream) in &said {
        let expected = match stream.app {
            App::Http2 | App::Dns => stream.app,
            // gRPC is HTTP/2.
            App::Grpc => App::Http2,
            _ => App::Unknown,
        };
        // Nobody looks for HTTP, so nobody sees what it turns into.
        let expected = if stream.name == "h2c" { App::Unknown } else { expected };
        assert_eq!(told[client].0, Some(expected), "{}", stream.name);
    }
}

#[test]
fn without_the_feature_nothing_is_looked_at() {
    let mut wire = Wire::new(&[], true);
    let client = wire.talk(false, [(CLIENT, &b"GET / HTTP/1.1\r\n\r\n"[..])]);
    assert_eq!(wire.told()[&client], (None, None));
}

/// Kernels refuse a program at a million; long before that it loads slowly.
#[test]
fn the_verifier_is_done_with_it_soon() {
    for timing in [false, true] {
        let wire = Wire::new(App::KNOWN, timing);
        let Some(instructions) = wire.loaded.object.verified_instructions() else { return };
        eprintln!("{instructions:?} instructions, timing: {timing}");
        assert!(instructions.iter().all(|count| *count < 60_000), "{instructions:?}");
    }
}
