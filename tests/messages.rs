//! DNS and HTTP/1 messages, by BPF_PROG_TEST_RUN on crafted packets that may lie. Needs root.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "programs/frame.rs"]
mod frame;
#[path = "programs/loaded.rs"]
mod loaded;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use frame::{Ipv4, ethernet, tcp_at, udp};
use loaded::Loaded as Wire;
use netmon::flow::app::App;
use netmon::flow::messages::{FlowDns, QueryType, Rcode};
use netmon::flow::present::AskedNames;
use netmon::kernel::decode;
use netmon::kernel::messages::{DnsTotals, HttpTotals, Servers};
use netmon::kernel::object::{Features, MessageFeatures, NO_TABLE, TestProgram};
use netmon::kernel::table::{DEAD, Table};

const A: u16 = 1;
const MX: u16 = 15;
const AAAA: u16 = 28;

fn looking() -> Features {
    let messages = MessageFeatures { dns: true, dns_names: true, tls_names: false, http_servers: Some(2) };
    let bounds_us = vec![10_000, 10_000_000];
    Features { protocols: App::KNOWN.to_vec(), messages, bounds_us, ..Features::default() }
}

/// What an observer between two hosts sees.
impl Wire {
    fn new() -> Self {
        Self::with(looking())
    }

    fn see(&self, protocol: u8, source: [u8; 4], destination: [u8; 4], transport: &[u8]) {
        let ip = Ipv4 { protocol, source, destination, ..Ipv4::default() };
        let frame = ethernet(0x0800, &ip.with(transport));
        self.run(TestProgram::Ingress, &frame);
    }

    /// A datagram of the client, from this port to port 53.
    fn ask(&self, port: u16, message: &[u8]) {
        self.see(17, [10, 0, 0, 1], [10, 0, 0, 2], &udp(port, 53, None, message));
    }

    /// A datagram of the server to this port.
    fn answer(&self, port: u16, message: &[u8]) {
        self.see(17, [10, 0, 0, 2], [10, 0, 0, 1], &udp(53, port, None, message));
    }

    fn dns(&self) -> DnsTotals {
        let counts = self.object.interface(0).unwrap().hooks[0];
        assert_eq!(counts.seen, counts.outcomes.iter().sum::<u64>(), "every packet has its outcome");
        self.object.dns_totals().unwrap()
    }

    fn http(&self) -> HttpTotals {
        Servers::default().read(&self.object, Instant::now()).unwrap()
    }

    /// DNS of the only flow.
    fn flow_dns(&self) -> Option<FlowDns> {
        let mut flows = self.snapshots();
        let flow = flows.next().expect("a flow");
        assert!(flows.next().is_none(), "one flow");
        decode::dns(&flow)
    }
}

/// A name as on the wire.
fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn message(id: u16, flags: u16, text: &str, kind: u16) -> Vec<u8> {
    let mut bytes = [id.to_be_bytes(), flags.to_be_bytes(), [0, 1], [0, 0], [0, 0], [0, 0]].concat();
    bytes.extend(name(text));
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

fn query(id: u16, kind: u16) -> Vec<u8> {
    message(id, 0x0100, "www.Example.org", kind)
}

fn response(id: u16, rcode: u16) -> Vec<u8> {
    message(id, 0x8180 | rcode, "www.Example.org", A)
}

/// Those that are not 0.
fn some(counts: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    counts.iter().filter(|(_, count)| **count > 0).map(|(name, count)| (name.as_str(), *count)).collect()
}

fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

#[test]
fn queries_of_one_flow_match_by_id_in_any_order() {
    let wire = Wire::new();
    wire.ask(4000, &query(1, A));
    pause(15);
    wire.ask(4000, &query(2, AAAA));
    wire.answer(4000, &response(2, 3));
    let dns = wire.dns();
    assert_eq!((dns.latency.counts[0], dns.unanswered), (1, 1), "the second waited shortly: {dns:?}");
    wire.answer(4000, &response(1, 0));
    let dns = wire.dns();
    assert_eq!(some(&dns.queries), [("A", 1), ("AAAA", 1)]);
    assert_eq!(some(&dns.responses), [("noerror", 1), ("nxdomain", 1)]);
    assert_eq!((dns.latency.counts, dns.unanswered), (vec![1, 1, 0], 0));
    assert!(dns.latency.sum_us >= 15_000, "{} us", dns.latency.sum_us);
    let flow = FlowDns {
        queries: Some(2),
        responses: Some(2),
        kind: Some(QueryType::A),
        rcode: Some(Rcode::NoError),
    };
    assert_eq!(wire.flow_dns(), Some(flow));
}

#[test]
fn a_query_sent_again_keeps_its_first_time_and_another_one_does_not() {
    let wire = Wire::new();
    wire.ask(4000, &query(7, A));
    pause(15);
    wire.ask(4000, &query(7, A));
    wire.answer(4000, &response(7, 0));
    let dns = wire.dns();
    assert_eq!((some(&dns.queries), dns.repeated), (vec![("A", 1)], 1));
    assert_eq!(dns.latency.counts, [0, 1, 0], "from the first");
    // The id again while it waits, for something else: the old one is never answered.
    wire.ask(4000, &query(7, A));
    pause(15);
    wire.ask(4000, &query(7, MX));
    wire.answer(4000, &response(7, 0));
    let dns = wire.dns();
    assert_eq!((some(&dns.queries), dns.repeated), (vec![("A", 2), ("MX", 1)], 1));
    assert_eq!((dns.latency.counts, dns.unanswered), (vec![1, 1, 0], 1), "from the last");
    // And after the answer.
    wire.ask(4000, &query(7, A));
    wire.answer(4000, &response(7, 0));
    assert_eq!(wire.dns().latency.counts, [2, 1, 0]);
}

#[test]
fn a_response_counts_once_and_only_for_its_own_flow_side_and_id() {
    let wire = Wire::new();
    wire.ask(4000, &query(1, A));
    wire.answer(4001, &response(1, 0));
    wire.answer(4000, &response(2, 0));
    wire.ask(4000, &response(1, 0));
    let dns = wire.dns();
    assert_eq!((dns.responses.values().sum::<u64>(), dns.unmatched), (0, 3));
    wire.answer(4000, &response(1, 0));
    wire.answer(4000, &response(1, 0));
    let dns = wire.dns();
    assert_eq!((some(&dns.responses), dns.unmatched), (vec![("noerror", 1)], 4));
}

#[test]
fn types_and_rcodes_have_their_names() {
    let wire = Wire::new();
    let types = [
        (1, "A"),
        (28, "AAAA"),
        (12, "PTR"),
        (33, "SRV"),
        (15, "MX"),
        (16, "TXT"),
        (65, "HTTPS"),
        (2, "NS"),
        (5, "CNAME"),
        (6, "SOA"),
        (255, "ANY"),
        (48, "other"),
    ];
    for (number, (kind, name)) in types.into_iter().enumerate() {
        wire.ask(4000, &query(number as u16, kind));
        assert_eq!(wire.flow_dns().unwrap().kind.unwrap().name(), name);
        assert_eq!(wire.dns().queries[name], 1);
    }
    let rcodes = ["noerror", "formerr", "servfail", "nxdomain", "notimp", "refused", "other", "other"];
    for (number, name) in rcodes.into_iter().enumerate() {
        // Some servers leave the question out when they refuse.
        let mut bytes = response(number as u16, number as u16);
        bytes.truncate(12);
        bytes[5] = 0;
        wire.answer(4000, &bytes);
        assert_eq!(wire.flow_dns().unwrap().rcode.unwrap().name().to_lowercase(), name);
    }
    let dns = wire.dns();
    assert_eq!((dns.responses["other"], dns.responses["servfail"], dns.unanswered), (2, 1, 4));
}

#[test]
fn what_is_cut_short_or_lies_is_no_query() {
    let wire = Wire::new();
    // So that the flow is known.
    wire.ask(4000, &query(1, A));
    let whole = query(2, A);
    for length in 1..whole.len() {
        wire.ask(4000, &whole[..length]);
        assert_eq!(wire.dns().malformed, length as u64, "{length} bytes");
    }
    let cut = whole.len() as u64 - 1;
    let changed = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        bytes
    };
    let long = |labels: usize, length: usize| {
        let label = "x".repeat(length);
        message(3, 0, &vec![label.as_str(); labels].join("."), A)
    };
    let lies = [
        changed(2, 6 << 3),          // an operation that does not exist
        changed(4, 1),               // 257 questions
        changed(5, 2),               // two
        changed(5, 0),               // none
        changed(12, 0xc0),           // a pointer
        changed(12, 64),             // a label of 64 bytes
        changed(12, 63),             // beyond the end
        changed(whole.len() - 1, 7), // a class that does not exist
        long(5, 63),                 // 321 bytes of name
        long(1, 64),                 // one label of 64
        vec![0xff; 512],
    ];
    for (number, lie) in lies.iter().enumerate() {
        wire.ask(4000, lie);
        assert_eq!(wire.dns().malformed, cut + number as u64 + 1, "lie {number}");
    }
    let dns = wire.dns();
    assert_eq!((dns.queries.values().sum::<u64>(), dns.unmatched), (1, 0));
    // The longest and the shortest name there are.
    let mut longest = message(9, 0, &vec!["x".repeat(63); 3].join("."), A);
    longest.splice(12 + 192..12 + 193, name(&"y".repeat(61)));
    assert_eq!(longest.len(), 12 + 255 + 4);
    wire.ask(4000, &longest);
    wire.ask(4000, &message(10, 0, &["z"; 127].join("."), A));
    wire.ask(4000, &message(11, 0, "", A));
    let dns = wire.dns();
    assert_eq!((dns.queries["A"], dns.malformed), (4, cut + lies.len() as u64));
}

/// A TCP connection to a server.
struct Connection<'a> {
    wire: &'a Wire,
    server: ([u8; 4], u16),
    next: std::cell::Cell<[u32; 2]>,
}

impl<'a> Connection<'a> {
    fn new(wire: &'a Wire, address: [u8; 4], port: u16) -> Self {
        let connection = Self { wire, server: (address, port), next: std::cell::Cell::new([1000, 9000]) };
        connection.segment(0, 2, b"");
        connection.segment(1, 0x12, b"");
        connection.segment(0, 0x10, b"");
        connection
    }

    /// The next segment; `from` 0 is the client.
    fn segment(&self, from: usize, flags: u8, payload: &[u8]) {
        let mut next = self.next.get();
        self.segment_at(from, flags, next[from], payload);
        next[from] = next[from].wrapping_add(payload.len() as u32 + u32::from(flags & 2 != 0));
        self.next.set(next);
    }

    fn segment_at(&self, from: usize, flags: u8, seq: u32, payload: &[u8]) {
        let ends = [([10, 0, 0, 1], 40_000), self.server];
        let (me, you) = (ends[from], ends[1 - from]);
        let numbers = (seq, self.next.get()[1 - from]);
        self.wire.see(6, me.0, you.0, &tcp_at((me.1, you.1), numbers, flags, payload));
    }

    fn client(&self, payload: &[u8]) {
        self.segment(0, 0x18, payload);
    }

    fn server(&self, payload: &[u8]) {
        self.segment(1, 0x18, payload);
    }

    /// The last `payload` again.
    fn again(&self, from: usize, payload: &[u8]) {
        self.segment_at(from, 0x18, self.next.get()[from].wrapping_sub(payload.len() as u32), payload);
    }
}

fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    messages.iter().flat_map(|m| [&(m.len() as u16).to_be_bytes()[..], m].concat()).collect()
}

#[test]
fn dns_over_tcp_is_seen_where_segments_begin() {
    // Sequence numbers are followed with and without latency_tracking.
    for timing in [false, true] {
        let wire = Wire::with(Features { timing, ..looking() });
        let tcp = Connection::new(&wire, [10, 0, 0, 2], 53);
        let first = framed(&[query(1, A)]);
        tcp.client(&first);
        tcp.again(0, &first);
        tcp.client(&framed(&[query(2, AAAA), query(3, MX)]));
        let both = framed(&[response(2, 0), response(1, 2)]);
        tcp.server(&both);
        tcp.again(1, &both);
        let dns = wire.dns();
        assert_eq!(some(&dns.queries), [("A", 1), ("AAAA", 1), ("MX", 1)]);
        assert_eq!(some(&dns.responses), [("noerror", 1), ("servfail", 1)]);
        assert_eq!((dns.repeated, dns.unmatched, dns.unseen), (0, 0, 0), "{dns:?}");
        let flow = FlowDns {
            queries: None,
            responses: None,
            kind: Some(QueryType::A),
            rcode: Some(Rcode::ServFail),
        };
        assert_eq!(wire.flow_dns(), Some(flow));
        // Four of five; one that goes on in the next segment, and the next segment.
        tcp.client(&framed(&[query(4, A), query(5, A), query(6, A), query(7, A), query(8, A)]));
        assert_eq!((wire.dns().queries["A"], wire.dns().unseen), (5, 1));
        let long = [framed(&[query(9, MX)]), vec![0; 100]].concat();
        tcp.client(&[&1000u16.to_be_bytes()[..], &long[2..]].concat());
        tcp.client(&[b'x'; 500]);
        let dns = wire.dns();
        assert_eq!((dns.queries["MX"], dns.unseen, dns.malformed), (2, 2, 0));
        for lie in [&[0][..], &[0, 0], &[0, 11, 0, 0], &[0, 40, 0, 1], &[0xff; 300]] {
            tcp.client(lie);
        }
        let dns = wire.dns();
        assert_eq!((dns.queries.values().sum::<u64>(), dns.unseen), (8, 7));
    }
}

#[test]
fn names_are_kept_only_when_asked_for() {
    let wire = Wire::new();
    let names = wire.object.asked_names().unwrap().unwrap();
    wire.ask(4000, &query(1, A));
    let tag = (0..wire.table.slots()).map(|slot| wire.table.tag(slot)).find(|tag| *tag != 0).unwrap() & !DEAD;
    assert_eq!(names.dns(tag).as_deref(), Some("www.example.org"));
    wire.ask(4000, &message(2, 0, &["A".repeat(60), "b".repeat(60), "c".repeat(60)].join("."), A));
    let expected = format!("{}.{}....", "a".repeat(60), "b".repeat(60));
    assert_eq!(names.dns(tag), Some(expected), "as much as there is room for");
    wire.ask(4000, &message(3, 0, "x", A));
    assert_eq!(names.dns(tag).as_deref(), Some("x"), "the last, and nothing of those before");
    assert_eq!(names.dns(tag ^ 1), None);

    let mut features = looking();
    features.messages.dns_names = false;
    let silent = Wire::with(features);
    silent.ask(4000, &query(1, A));
    assert_eq!(silent.dns().queries["A"], 1);
    assert!(silent.object.asked_names().unwrap().is_none());
}

#[test]
fn counts_of_a_flow_move_with_it() {
    let wire = Wire::new();
    wire.ask(4000, &query(1, A));
    wire.ask(4000, &query(2, AAAA));
    wire.answer(4000, &response(1, 0));
    let other = Table::create(4096, wire.object.features().layout()).unwrap();
    wire.object.install(1, &other).unwrap();
    wire.object.set_control(|control| {
        control.buckets[1] = other.buckets();
        (control.current, control.previous, control.move_cursor) = (1, 0, 0);
    });
    wire.object.move_buckets(wire.table.buckets()).unwrap();
    wire.object.set_control(|control| control.previous = NO_TABLE);
    // It waits under the flow's tag, wherever the flow is.
    wire.answer(4000, &response(2, 3));
    let from = wire.slot();
    let old = wire.table.read(from).unwrap();
    let to = old.cold.start_ns as u32;
    other.absorb(to, &old, (&wire.table, from));
    let expected = FlowDns {
        queries: Some(2),
        responses: Some(2),
        kind: Some(QueryType::Aaaa),
        rcode: Some(Rcode::NxDomain),
    };
    assert_eq!(decode::dns(&other.read(to).unwrap()), Some(expected));
    assert_eq!(wire.dns().unmatched, 0);
}

const GET: &[u8] = b"GET /secret HTTP/1.1\r\nHost: a\r\n\r\n";

fn status(code: &str) -> Vec<u8> {
    format!("HTTP/1.1 {code}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

#[test]
fn http_responses_are_counted_by_class_and_timed_by_server() {
    for timing in [false, true] {
        let wire = Wire::with(Features { timing, ..looking() });
        let tcp = Connection::new(&wire, [10, 0, 0, 2], 8080);
        for (method, code) in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"]
            .into_iter()
            .zip(["200 OK", "204 x", "301 x", "404 x", "500 x", "503 x", "201 x", "599 x"])
        {
            tcp.client(format!("{method} /secret HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
            tcp.server(&status(code));
            tcp.server(b"the body goes on and on");
        }
        let slow = Connection::new(&wire, [10, 0, 0, 3], 80);
        slow.client(GET);
        pause(15);
        slow.server(&status("200 OK"));
        let http = wire.http();
        let names: Vec<&str> = http.servers.iter().map(|server| server.dst.as_str()).collect();
        assert_eq!(names, ["10.0.0.2:8080", "10.0.0.3:80", "other"]);
        assert_eq!(some(&http.servers[0].responses), [("2xx", 3), ("3xx", 1), ("4xx", 1), ("5xx", 3)]);
        assert_eq!(http.servers[0].latency.counts, [8, 0, 0], "{http:?}");
        assert_eq!(
            (some(&http.servers[1].responses), &http.servers[1].latency.counts[..]),
            (vec![("2xx", 1)], &[0, 1, 0][..])
        );
        assert!(http.servers[1].latency.sum_us >= 15_000);
        assert!(some(&http.servers[2].responses).is_empty());
    }
}

/// Responses by class and times by bucket of the only server.
fn only(wire: &Wire) -> (Vec<u64>, Vec<u64>) {
    let http = wire.http();
    (http.servers[0].responses.values().copied().collect(), http.servers[0].latency.counts.clone())
}

#[test]
fn the_answer_is_what_follows_100_continue() {
    let wire = Wire::with(Features { timing: true, ..looking() });
    let tcp = Connection::new(&wire, [10, 0, 0, 2], 80);
    tcp.client(b"POST /secret HTTP/1.1\r\nExpect: 100-continue\r\n\r\n");
    tcp.server(b"HTTP/1.1 100 Continue\r\n\r\n");
    tcp.client(b"the body");
    pause(15);
    tcp.server(&status("201 Created"));
    assert_eq!(only(&wire), (vec![1, 1, 0, 0, 0], vec![0, 1, 0]));
}

#[test]
fn segments_sent_again_change_nothing() {
    for timing in [false, true] {
        let wire = Wire::with(Features { timing, ..looking() });
        let tcp = Connection::new(&wire, [10, 0, 0, 2], 80);
        tcp.client(GET);
        pause(15);
        tcp.again(0, GET);
        let ok = status("200 OK");
        tcp.server(&ok);
        tcp.again(1, &ok);
        // Too late: it has been answered, and what follows must not be timed from here.
        tcp.again(0, GET);
        assert_eq!(only(&wire), (vec![0, 1, 0, 0, 0], vec![0, 1, 0]));
        pause(15);
        tcp.client(GET);
        tcp.server(&ok);
        assert_eq!(only(&wire), (vec![0, 2, 0, 0, 0], vec![1, 1, 0]));
    }
}

#[test]
fn of_requests_sent_ahead_the_oldest_is_timed_and_all_answers_count() {
    let wire = Wire::new();
    let tcp = Connection::new(&wire, [10, 0, 0, 2], 80);
    tcp.client(GET);
    pause(15);
    tcp.client(GET);
    tcp.server(&status("200 OK"));
    tcp.server(&status("404 Not Found"));
    assert_eq!(only(&wire), (vec![0, 1, 0, 1, 0], vec![0, 1, 0]));
    // An answer whose beginning is not seen is no answer to the next request.
    tcp.client(GET);
    tcp.server(b"in the middle of an answer");
    pause(15);
    tcp.client(GET);
    tcp.server(&status("200 OK"));
    assert_eq!(only(&wire), (vec![0, 2, 0, 1, 0], vec![1, 1, 0]));
}

#[test]
fn what_is_no_response_is_not_counted() {
    let wire = Wire::new();
    let tcp = Connection::new(&wire, [10, 0, 0, 2], 80);
    tcp.client(GET);
    tcp.server(&status("200 OK"));
    for lie in [
        "HTTP/1.1 099 x",
        "HTTP/1.1 600 x",
        "HTTP/1.1 20x OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.x 200 OK",
        "HTTP/2.0 200 OK",
        "http/1.1 200 OK",
        "HTTP/1.1 20",
        "x",
        "GET / HTTP/1.1\r\n\r\n",
    ] {
        tcp.server(lie.as_bytes());
    }
    tcp.client(b"HTTP/1.1 200 OK\r\n\r\n");
    tcp.segment(1, 0x14, &status("500 x"));
    assert_eq!(only(&wire), (vec![0, 1, 0, 0, 0], vec![1, 0, 0]));
}

#[test]
fn another_protocol_behind_http_is_left_alone() {
    for (request, code, goes_on) in [
        (&b"GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"[..], "101 Switching Protocols", false),
        (b"CONNECT db:5432 HTTP/1.1\r\n\r\n", "200 OK", false),
        (b"CONNECT db:5432 HTTP/1.1\r\n\r\n", "403 Forbidden", true),
    ] {
        let wire = Wire::new();
        let tcp = Connection::new(&wire, [10, 0, 0, 2], 80);
        tcp.client(request);
        tcp.server(&status(code));
        tcp.client(GET);
        tcp.server(&status("500 x"));
        let http = wire.http();
        assert_eq!(http.servers[0].responses["5xx"], u64::from(goes_on), "after {code}");
    }
}

#[test]
fn servers_without_a_place_are_other_and_nothing_is_lost() {
    let wire = Wire::new();
    for server in 1..=6 {
        let tcp = Connection::new(&wire, [10, 0, 1, server], 80);
        for _ in 0..server {
            tcp.client(GET);
            tcp.server(&status("200 OK"));
        }
    }
    let http = wire.http();
    let counts: Vec<u64> = http.servers.iter().map(|server| server.responses["2xx"]).collect();
    assert_eq!(counts, [1, 2, 3 + 4 + 5 + 6]);
    assert_eq!(http.servers[2].latency.count(), 18);
}

#[test]
fn nothing_is_looked_at_when_it_is_off() {
    let off = MessageFeatures::default();
    let wire = Wire::with(Features { protocols: App::KNOWN.to_vec(), messages: off, ..Features::default() });
    wire.ask(4000, &query(1, A));
    assert_eq!((wire.object.dns_totals(), wire.flow_dns()), (None, None));
    assert_eq!(Servers::default().read(&wire.object, Instant::now()), None);
    // Not without protocol_detection either.
    let wire = Wire::with(Features { protocols: Vec::new(), ..looking() });
    wire.ask(4000, &query(1, A));
    assert_eq!((wire.dns().queries["A"], wire.flow_dns()), (0, None));
}
