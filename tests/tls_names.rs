//! What TLS clients ask for: by BPF_PROG_TEST_RUN on crafted hellos that may lie, and of a real client. Needs root.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "programs/frame.rs"]
mod frame;
#[path = "programs/loaded.rs"]
mod loaded;

use common::agent::Agent;
use common::net::Net;
use frame::{Ipv4, ethernet, tcp_at};
use loaded::Loaded;
use netmon::flow::app::App;
use netmon::flow::present::{AskedNames, AskedTls};
use netmon::kernel::decode;
use netmon::kernel::messages::KeptNames;
use netmon::kernel::object::{Features, MessageFeatures, TestProgram};
use netmon::kernel::table::DEAD;

/// What an observer between two hosts sees.
struct Wire {
    loaded: Loaded,
    next_port: std::cell::Cell<u16>,
}

impl Wire {
    fn new(tls_names: bool) -> Self {
        let messages = MessageFeatures { tls_names, ..MessageFeatures::default() };
        let features = Features { protocols: App::KNOWN.to_vec(), messages, ..Features::default() };
        let loaded = Loaded::load(16_384, features);
        Self { loaded, next_port: std::cell::Cell::new(10_000) }
    }

    fn segment(&self, port: u16, is_client: bool, flags: u8, seq: u32, payload: &[u8]) {
        let ends = [([10, 0, 0, 1], port), ([10, 0, 0, 2], 7000)];
        let (me, you) = if is_client { (ends[0], ends[1]) } else { (ends[1], ends[0]) };
        let ip = Ipv4 { protocol: 6, source: me.0, destination: you.0, ..Ipv4::default() };
        let mut frame = ethernet(0x0800, &ip.with(&tcp_at((me.1, you.1), (seq, 1), flags, payload)));
        // What pads a frame is no part of it.
        frame.extend([0; 200]);
        self.loaded.run(TestProgram::Ingress, &frame);
    }

    /// A connection of its own whose client sends these segments; what is known of it.
    fn asked(&self, segments: &[&[u8]]) -> (Option<App>, AskedTls) {
        let port = self.next_port.get();
        self.next_port.set(port + 1);
        self.segment(port, true, 2, 999, b"");
        self.segment(port, false, 0x12, 0, b"");
        let mut seq = 1000;
        for payload in segments {
            self.segment(port, true, 0x18, seq, payload);
            seq += payload.len() as u32;
        }
        let slot = (0..self.loaded.table.slots())
            .find(|slot| {
                self.loaded.table.tag(*slot) != 0
                    && self.loaded.table.read(*slot).unwrap().cold.port_be.contains(&port.to_be())
            })
            .expect("the flow");
        let app = decode::app(&self.loaded.table.read(slot).unwrap().timing);
        let names: Option<KeptNames> = self.loaded.object.asked_names().unwrap();
        (app, names.map(|names| names.tls(self.loaded.table.tag(slot) & !DEAD)).unwrap_or_default())
    }

    fn told(&self, hello: &[u8]) -> (Option<String>, Option<String>) {
        let (_, AskedTls { sni, alpn }) = self.asked(&[hello]);
        (sni, alpn)
    }
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &counted(body)].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    extension(0, &counted(&[&[0][..], &counted(name)].concat()))
}

fn alpn(names: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = names.iter().flat_map(|name| [&[name.len() as u8][..], name].concat()).collect();
    extension(16, &counted(&list))
}

/// As with X25519MLKEM768: the name may come to lie behind it.
fn key_share() -> Vec<u8> {
    let noise: Vec<u8> = (0..1216u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
    extension(51, &counted(&[&[0x11, 0xec][..], &counted(&noise)].concat()))
}

fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([0x5a; 32]);
    body.push(32);
    body.extend([0xa5; 32]);
    body.extend(counted(&[0x13, 1, 0xc0, 0x2f]));
    body.extend([1, 0]);
    body.extend(counted(&extensions.concat()));
    let handshake = [&[1, 0][..], &counted(&body)].concat();
    [&[22, 3, 1][..], &counted(&handshake)].concat()
}

fn versions() -> Vec<u8> {
    extension(43, &[2, 3, 4])
}

const NAME: &[u8] = b"Shop.a_b-1.Example";

fn right() -> (Option<String>, Option<String>) {
    (Some("shop.a_b-1.example".into()), Some("h2".into()))
}

#[test]
fn names_are_found_wherever_they_are_in_the_hello() {
    let wire = Wire::new(true);
    let both = alpn(&[b"h2", b"http/1.1"]);
    for extensions in [
        vec![sni(NAME), both.clone()],
        vec![sni(NAME), versions(), both.clone(), key_share()],
        vec![versions(), key_share(), both.clone(), sni(NAME)],
        [vec![extension(23, b""); 21], vec![key_share(), both.clone(), sni(NAME)]].concat(),
    ] {
        assert_eq!(wire.told(&hello(&extensions)), right());
    }
    let longest = [b'x'; 128];
    let name = Some("x".repeat(128));
    assert_eq!(wire.told(&hello(&[sni(&longest), alpn(&[b"sixteen-letters!"])])).0, name);
    assert_eq!(wire.told(&hello(&[alpn(&[b"sixteen-letters!"])])), (None, Some("sixteen-letters!".into())));
    assert_eq!(wire.told(&hello(&[sni(b"a")])), (Some("a".into()), None));
    // None, too long, too many extensions.
    for extensions in [
        vec![],
        vec![versions(), key_share()],
        vec![sni(&[b'x'; 129]), alpn(&[b"seventeen-letters"])],
        vec![sni(b""), alpn(&[b""]), alpn(&[])],
        [vec![extension(23, b""); 24], vec![sni(NAME)]].concat(),
        vec![sni(b"a/b"), alpn(&[b"\x0a\x0a"])],
    ] {
        let (app, asked) = wire.asked(&[&hello(&extensions)]);
        assert_eq!((app, asked), (Some(App::Tls), AskedTls::default()));
    }
    // What was there before is not taken for this one's.
    assert_eq!(wire.told(&hello(&[alpn(&[b"h2"])])), (None, Some("h2".into())));
}

#[test]
fn a_hello_that_is_cut_tells_whole_names_or_none() {
    let wire = Wire::new(true);
    let extensions = [sni(NAME), alpn(&[b"h2", b"http/1.1"]), key_share(), versions()];
    let whole = hello(&extensions);
    let end_of_sni = whole.len() - extensions[1..].concat().len();
    let end_of_alpn = end_of_sni + extensions[1].len();
    for length in (1..end_of_alpn + 10).chain([1000, whole.len() - 1]) {
        let (sni, alpn) = right();
        let expected = (sni.filter(|_| length >= end_of_sni), alpn.filter(|_| length >= end_of_alpn));
        assert_eq!(wire.told(&whole[..length]), expected, "{length} bytes");
    }
    // The rest comes in a second segment, and with it the name: not seen, and nothing else is taken for it.
    let whole = hello(&[key_share(), sni(NAME)]);
    for length in [20, 60, 500, whole.len() - 10] {
        let (app, asked) = wire.asked(&[&whole[..length], &whole[length..]]);
        assert_eq!((app, asked), (Some(App::Tls), AskedTls::default()), "{length} bytes");
    }
}

#[test]
fn a_hello_that_lies_tells_no_wrong_name() {
    let wire = Wire::new(true);
    for extensions in [
        vec![sni(NAME), alpn(&[b"h2", b"http/1.1"]), versions()],
        vec![versions(), alpn(&[b"h2", b"http/1.1"]), sni(NAME)],
    ] {
        let whole = hello(&extensions);
        let at = |bytes: &[u8]| whole.windows(bytes.len()).position(|window| window == bytes).unwrap();
        let names = [at(NAME)..at(NAME) + NAME.len(), at(b"h2")..at(b"h2") + 2];
        for position in (0..whole.len()).filter(|position| !names.iter().any(|name| name.contains(position)))
        {
            for change in [1, 2, 0x7f, 0x80, 0xff] {
                let mut lie = whole.clone();
                lie[position] = lie[position].wrapping_add(change);
                let (sni, alpn) = wire.told(&lie);
                let (right_sni, right_alpn) = right();
                assert!(sni.is_none() || sni == right_sni, "{sni:?} with byte {position} + {change}");
                assert!(alpn.is_none() || alpn == right_alpn, "{alpn:?} with byte {position} + {change}");
            }
        }
    }
}

#[test]
fn names_are_not_kept_when_it_is_off() {
    let wire = Wire::new(false);
    let (app, asked) = wire.asked(&[&hello(&[sni(NAME), alpn(&[b"h2"])])]);
    assert_eq!((app, asked), (Some(App::Tls), AskedTls::default()));
    assert!(wire.loaded.object.asked_names().unwrap().is_none());
}

#[test]
fn a_real_client_is_seen_to_ask_for_its_server() {
    let net = Net::new(&["c", "s"]);
    net.veth(("c", "vc", "10.7.0.1/24"), ("s", "vs", "10.7.0.2/24"));
    let folder = tempfile::Builder::new().prefix("netmon-tls").tempdir().unwrap();
    let at = folder.path().display();
    common::net::run(&format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=a.test -keyout {at}/key.pem -out {at}/cert.pem 2>&1"
    ));
    let _server = net.serve(
        "s",
        ("tcp", 7003),
        &format!("openssl s_server -accept 7003 -cert {at}/cert.pem -key {at}/key.pem -alpn h2 -quiet"),
    );
    let client = "timeout 20 openssl s_client -connect 10.7.0.2:7003 -servername Shop.Example -alpn h2,http/1.1 </dev/null >/dev/null 2>&1";
    for (tls_names, name, protocol) in [(true, Some("shop.example"), Some("h2")), (false, None, None)] {
        let agent = Agent::start(
            &net,
            "c",
            &format!(
                "flow: {{ active_interval: 200ms }}\nfeatures: {{ protocol_detection: {{ tls_names: {tls_names} }} }}"
            ),
        );
        net.exec("c", client);
        agent.wait("the flow to end", 20, |agent| {
            agent.flows(&["--ended", "--port", "7003", "--app", "tls"]).len() == 1
        });
        let flow = &agent.flows(&["--ended", "--port", "7003"])[0];
        assert_eq!(flow["tls"], serde_json::json!({"version": "1.3", "sni": name, "alpn": protocol}));
        agent.assert_law();
        agent.stop();
    }
}
