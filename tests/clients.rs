//! Clients that mean no good, or too well: nonsense on the control socket and the metrics port, connections that never
//! finish a request, thousands of scrapes. The agent goes on, holds no more than before, and answers others.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use common::agent::{Agent, Held};
use common::net::Net;
use common::random::Random;

/// What is asked rightly.
const ASKED: [&str; 9] = [
    "GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n",
    "GET /v1/flows?protocol=udp&limit=3&sort=bytes HTTP/1.1\r\nhost: x\r\n\r\n",
    "GET /v1/flows?cidr=10.0.0.0/8&since=1h HTTP/1.1\r\nhost: x\r\naccept: */*\r\n\r\n",
    "GET /v1/stats/flows HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/drops HTTP/1.1\r\nhost: x\r\n\r\n",
    "POST /v1/config/set?flow.max_age=300s HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
    "POST /v1/config/reload HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    "GET /readyz HTTP/1.0\r\n\r\n",
    "GET status:80 HTTP/1.1\r\nhost: x\r\n\r\n",
];

/// Something like it.
fn frame(chance: &mut Random) -> Vec<u8> {
    let mut bytes = ASKED[chance.below(ASKED.len())].as_bytes().to_vec();
    match chance.below(8) {
        0 => bytes.truncate(chance.below(bytes.len())),
        1 => bytes = (0..chance.below(300)).map(|_| chance.below(256) as u8).collect(),
        2 => {
            let at = chance.below(bytes.len());
            bytes.splice(at..at, vec![b"A%&=/\r\n \0\xff"[chance.below(10)]; 1 << chance.below(19)]);
        }
        3 => {
            let other = ASKED[chance.below(ASKED.len())].as_bytes();
            bytes.truncate(chance.below(bytes.len()));
            bytes.extend(&other[chance.below(other.len())..]);
        }
        4 => bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0".to_vec(),
        _ => {
            for _ in 0..=chance.below(6) {
                let at = chance.below(bytes.len());
                bytes[at] = chance.below(256) as u8;
            }
        }
    }
    bytes
}

/// Says it, in two parts, and hears the answer out, however it ends.
fn say(mut stream: impl Read + Write, bytes: &[u8], hang_up: impl FnOnce()) {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    if stream.write_all(first).is_ok() && stream.write_all(second).is_ok() {
        hang_up();
    }
    let mut heard = vec![0; 64 * 1024];
    while stream.read(&mut heard).is_ok_and(|length| length > 0) {}
}

fn say_to_socket(path: &Path, bytes: &[u8]) {
    let stream = UnixStream::connect(path).unwrap();
    for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
        set(&stream, Some(Duration::from_secs(2))).unwrap();
    }
    say(&stream, bytes, || stream.shutdown(Shutdown::Write).unwrap_or(()));
}

fn say_to_port(bytes: &[u8]) {
    let stream = TcpStream::connect("127.0.0.1:9090").unwrap();
    for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
        set(&stream, Some(Duration::from_secs(2))).unwrap();
    }
    say(&stream, bytes, || stream.shutdown(Shutdown::Write).unwrap_or(()));
}

/// Waits until as little is held as before, but for so much memory.
fn wait_released(agent: &Agent<'_>, before: Held, more_kib: u64, seconds: u64) {
    let mut now = agent.held();
    let deadline = Instant::now() + Duration::from_secs(seconds);
    // Threads that wait for work end after ten seconds.
    while now.files > before.files
        || now.threads > before.threads
        || now.memory_kib > before.memory_kib + more_kib
    {
        assert!(Instant::now() < deadline, "not within {seconds} s: {before:?} held before, now {now:?}");
        std::thread::sleep(Duration::from_millis(200));
        now = agent.held();
    }
    println!("held before: {before:?}, now: {now:?}");
}

#[test]
fn thousands_of_malformed_requests_change_nothing_for_others() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "flow: { active_interval: 200ms }");
    net.exec("a", "ping -q -c 3 -i 0.05 -W 5 10.1.0.2");
    let socket = agent.socket();
    let mut chance = Random(0x6e65_746d_6f6e);
    let mut round = |frames: usize| {
        for _ in 0..frames {
            say_to_socket(&socket, &frame(&mut chance));
        }
        let frames: Vec<Vec<u8>> = (0..frames).map(|_| frame(&mut chance)).collect();
        net.inside("a", || frames.iter().for_each(|frame| say_to_port(frame)));
    };
    // Megabytes that are no request, and a body that nobody asked for.
    let long = [b"GET /v1/status HTTP/1.1\r\n".to_vec(), b"x: y\r\n".repeat(1 << 20)].concat();
    let body = b"POST /v1/config/reload HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n".to_vec();
    let body = [body, vec![b'x'; 8 << 20]].concat();
    let turned_away = || agent.metrics().sum("netmon_connections_turned_away_total", &["control"]);
    let mut worst = || {
        round(300);
        for bytes in [&long, &body] {
            say_to_socket(&socket, bytes);
            net.inside("a", || say_to_port(bytes));
        }
        // Neither are clients that stop amid a request, more of them than are let in.
        let before = (agent.held().files, turned_away());
        let _halves: Vec<UnixStream> = (0..300)
            .map(|_| {
                let mut stream = UnixStream::connect(&socket).unwrap();
                // It may have been turned away already.
                let _ = stream.write_all(b"GET /v1/flows?limit=1 HTTP/1.1\r\nho");
                stream
            })
            .collect();
        assert_eq!(agent.flows(&["--protocol", "icmp"]).len(), 1);
        assert!(agent.held().files < before.0 + 150, "{before:?} {:?}", agent.held());
        assert!(turned_away() >= before.1 + 150.0);
    };
    let idle = agent.held();
    // What it takes at most.
    (0..3).for_each(|_| worst());
    wait_released(&agent, idle, 32 << 10, 40);
    let before = agent.held();
    for _ in 0..4 {
        worst();
        assert_eq!(agent.cli(&["status"])["ready"], true);
    }
    agent.assert_law();
    wait_released(&agent, before, 8 << 10, 40);
    let log = agent.stop();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    assert!(log.lines().count() < 12_000, "what clients do is their affair: {} lines", log.lines().count());
}

#[test]
fn clients_that_do_not_wait_start_no_more_work_than_is_being_done() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "log: { level: error }");
    let socket = agent.socket();
    let before = agent.held();
    let mut most = before;
    let ask = |request: usize| match request % 8 {
        7 => net.inside("a", || {
            let _ = TcpStream::connect("127.0.0.1:9090").unwrap().write_all(ASKED[6].as_bytes());
        }),
        n => {
            // It may be turned away: too many are being answered.
            let request = ASKED[[0, 3, 0, 3, 0, 3, 5][n]].as_bytes();
            let _ = UnixStream::connect(&socket).unwrap().write_all(request);
        }
    };
    for request in 0..4000 {
        ask(request);
        let now = agent.held();
        most.threads = most.threads.max(now.threads);
        most.memory_kib = most.memory_kib.max(now.memory_kib);
    }
    println!("{before:?}, at most {most:?}");
    // Four of each kind of answer, two pages.
    assert!(most.threads <= before.threads + 12, "{before:?}, at most {most:?}");
    assert!(most.memory_kib <= before.memory_kib + (16 << 10), "{before:?}, at most {most:?}");
    // While as many as are let in are being answered the newest is turned away; that ends with their work.
    agent.wait("an answer", 20, |agent| {
        agent.try_cli(&["status"]).is_some_and(|status| status["ready"] == true)
    });
    wait_released(&agent, before, 16 << 10, 40);
    agent.stop();
}

/// 300 connections that send a byte a second, and 20 that ask for the page and don't read it; says so, and tells at
/// the end of its time how many are still open.
const SLOW: &str = "python3 -c \"
import select, socket, sys, time
def connect(small):
    s = socket.socket()
    if small: s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    s.connect(('127.0.0.1', 9090)); s.setblocking(False)
    return s
slow = [connect(False) for _ in range(300)]
deaf = [connect(True) for _ in range(20)]
for s in deaf: s.send(b'GET /metrics HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n')
text = b'GET /metrics HTTP/1.1\\r\\nx: ' + b'y' * 600
for byte in range(600):
    for s in slow:
        try: s.send(text[byte:byte + 1])
        except OSError: pass
    time.sleep(1)
\"";

#[test]
fn connections_that_never_finish_are_bounded_closed_and_no_hindrance_to_scrapes() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "flow: { active_interval: 200ms }");
    net.exec("a", "ping -q -c 3 -i 0.05 -W 5 10.1.0.2");
    agent.assert_law();
    let before = agent.held();
    let slow = net.spawn("a", SLOW);
    agent.wait("connections that are turned away", 20, |agent| {
        agent.metrics().sum("netmon_connections_turned_away_total", &["metrics"]) >= 240.0
    });
    for _ in 0..10 {
        net.exec("a", "curl -sf -m 5 -o /dev/null http://127.0.0.1:9090/metrics");
        let now = agent.held();
        assert!(now.files <= before.files + 70, "{before:?} held before, now {now:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
    // While they still send: their time is over.
    wait_released(&agent, before, 8 << 10, 60);
    drop(slow);
    agent.assert_law();
    agent.stop();
}

#[test]
fn ten_thousand_scrapes_leave_the_agent_as_it_was() {
    let net = Net::two_hosts();
    let agent = Agent::start(&net, "a", "flow: { active_interval: 200ms }");
    net.exec("a", "ping -q -c 3 -i 0.05 -W 5 10.1.0.2");
    let scrape = |times: u32, header: &str| {
        net.exec(
            "a",
            &format!(
                "python3 -c \"
import http.client
c = http.client.HTTPConnection('127.0.0.1', 9090, timeout=20)
for _ in range({times}):
    c.request('GET', '/metrics', headers={header})
    r = c.getresponse()
    page = r.read()
    assert r.status == 200 and b'netmon_packets_total' in page and page.endswith(b'\\\\n'), page
\""
            ),
        );
    };
    scrape(500, "{}");
    agent.assert_law();
    let before = agent.held();
    // Kept open, and a new connection for each.
    std::thread::scope(|scope| {
        scope.spawn(|| scrape(5000, "{}"));
        scrape(5000, "{'connection': 'close'}");
    });
    agent.assert_law();
    wait_released(&agent, before, 4 << 10, 40);
    agent.stop();
}
