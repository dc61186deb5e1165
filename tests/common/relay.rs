//! A long wire with faults to order, for kernels without netem: every frame is held for a given time, and chosen ones
//! are dropped, doubled or swapped with the next. Frames pass unchanged, so that both ends and whatever watches their
//! interfaces see ordinary Ethernet.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with, sockopt,
};

use super::net::{Net, run};
use super::raw::LinkAddress;

/// Frames that are held at once, at most.
const HELD: usize = 100_000;
/// How often the thread looks whether it shall end.
const TURN: Duration = Duration::from_millis(50);

/// a 10.9.0.1, fd09::1 va ──veth── wa [relay in m] wb ──veth── vb 10.9.0.2, fd09::2 b. Both ends believe that they are on
/// one link; without a [`Relay`] nothing passes.
pub fn wire() -> Net {
    let net = Net::new(&["a", "m", "b"]);
    span(&net, "m", [("a", "va", "10.9.0.1/24"), ("b", "vb", "10.9.0.2/24")]);
    net.address("a", "va", "fd09::1/64");
    net.address("b", "vb", "fd09::2/64");
    net.acquaint(("a", "va", ""), ("b", "vb", "fd09::2/64"));
    net.acquaint(("b", "vb", ""), ("a", "va", "fd09::1/64"));
    net
}

/// a 10.9.0.1 va ──[m]── ra 10.9.0.254 r 10.8.0.254 rb ──[n]── vb 10.8.0.1 b: what passes the router r has a way to go on
/// either side. Each wire wants a relay ([`Relay::start_in`]); of the second, "a" is r.
pub fn two_wires() -> Net {
    let net = Net::new(&["a", "m", "r", "n", "b"]);
    span(&net, "m", [("a", "va", "10.9.0.1/24"), ("r", "ra", "10.9.0.254/24")]);
    span(&net, "n", [("r", "rb", "10.8.0.254/24"), ("b", "vb", "10.8.0.1/24")]);
    net.exec("r", "sysctl -qw net.ipv4.ip_forward=1");
    net.exec("a", "ip route add default via 10.9.0.254");
    net.exec("b", "ip route add default via 10.8.0.254");
    net
}

/// A wire through `middle`, where its ends are wa and wb.
fn span(net: &Net, middle: &str, [left, right]: [(&str, &str, &str); 2]) {
    net.veth(left, (middle, "wa", ""));
    net.veth(right, (middle, "wb", ""));
    net.acquaint(left, right);
    net.acquaint(right, left);
}

/// Both ends acknowledge each segment at once from now on; a kernel left to itself waits for an answer to go with, 40 ms
/// or more.
pub fn acknowledge_at_once(net: &Net) {
    for (end, interface, ip) in [("a", "va", "10.9.0.1"), ("b", "vb", "10.9.0.2")] {
        net.exec(
            end,
            &format!(
                "ip route replace 10.9.0.0/24 dev {interface} proto kernel scope link src {ip} quickack 1 && \
                 ip -6 route replace fd09::/64 dev {interface} proto kernel metric 256 quickack 1"
            ),
        );
    }
}

/// A direction of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    AToB,
    BToA,
}

/// Which of the frames that a rule selects, counted from 1; a segment that is sent again counts again.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    Nth(u64),
    Every(u64),
}

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Drop,
    Double,
    /// Sent right behind the next selected frame; until that comes it is held.
    Swap,
}

/// What shall go wrong. Of the rules that choose a frame the first is applied.
pub struct Rule {
    pub way: Way,
    /// [`tcp_data`], [`tcp_syn`] or another test of a frame.
    pub select: fn(&[u8]) -> bool,
    pub which: Which,
    pub fault: Fault,
}

/// What passed in a direction, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    pub received: u64,
    pub sent: u64,
    pub dropped: u64,
    pub doubled: u64,
    pub swapped: u64,
}

impl Passed {
    fn whole(&self) -> bool {
        self.received + self.doubled == self.sent + self.dropped
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub a_to_b: Passed,
    pub b_to_a: Passed,
    /// The longest that a frame left after its time.
    pub late: Duration,
}

impl Report {
    fn of(&mut self, way: Way) -> &mut Passed {
        match way {
            Way::AToB => &mut self.a_to_b,
            Way::BToA => &mut self.b_to_a,
        }
    }
}

/// The relay of a wire; ends when it goes out of scope, and what it holds is lost then.
pub struct Relay {
    end: Arc<AtomicBool>,
    report: Arc<Mutex<Report>>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// `delay` is what a frame takes from a to b and from b to a.
    pub fn start(net: &Net, delay: [Duration; 2], rules: Vec<Rule>) -> Self {
        Self::start_in(net, "m", delay, rules)
    }

    pub fn start_in(net: &Net, middle: &str, delay: [Duration; 2], rules: Vec<Rule>) -> Self {
        let sockets = net.inside(middle, || ["wa", "wb"].map(packet_socket));
        let (end, report) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Report::default())));
        let worker = Worker {
            sockets,
            delay,
            rules: rules.into_iter().map(|rule| Counted { rule, seen: 0, parked: None }).collect(),
            held: BinaryHeap::new(),
            number: 0,
            end: end.clone(),
            report: report.clone(),
        };
        let (ready, wait) = mpsc::channel();
        let thread = std::thread::Builder::new().name("relay".into()).spawn(|| worker.run(ready)).unwrap();
        wait.recv().expect("the relay can't start");
        Self { end, report, thread: Some(thread) }
    }

    /// What passed, once nothing is under way.
    pub fn report(&self) -> Report {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            assert!(self.thread.as_ref().is_some_and(|thread| !thread.is_finished()), "the relay has ended");
            let report = *self.report.lock().unwrap();
            if [report.a_to_b, report.b_to_a].iter().all(Passed::whole) {
                return report;
            }
            assert!(Instant::now() < deadline, "frames are still under way: {report:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let outcome = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(outcome, Some(Ok(()))), "the relay failed");
    }
}

/// Hears and sends whole frames on an interface of the thread's namespace.
pub fn packet_socket(interface: &str) -> OwnedFd {
    // Protocol 0: it hears nothing until it is bound to its interface. Closed in whatever the test starts.
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .expect("this test needs root: a packet socket can't be opened");
    let index = rustix::net::netdevice::name_to_index(&socket, interface).unwrap();
    rustix::net::bind(&socket, &LinkAddress::all_of(index)).unwrap();
    sockopt::set_socket_recv_buffer_size_force(&socket, 16 << 20).unwrap();
    socket
}

struct Counted {
    rule: Rule,
    seen: u64,
    parked: Option<Vec<u8>>,
}

/// When it leaves, the order among those that leave together, and what.
type Held = Reverse<(Instant, u64, Way, Vec<u8>)>;

struct Worker {
    sockets: [OwnedFd; 2],
    delay: [Duration; 2],
    rules: Vec<Counted>,
    held: BinaryHeap<Held>,
    number: u64,
    end: Arc<AtomicBool>,
    report: Arc<Mutex<Report>>,
}

impl Worker {
    fn run(mut self, ready: mpsc::Sender<()>) {
        // A busy machine must not stretch the wire: before all others, and woken to the microsecond.
        run(&format!("chrt --fifo --pid 10 {}", rustix::thread::gettid().as_raw_nonzero()));
        rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)).unwrap();
        ready.send(()).unwrap();
        let mut frame = vec![0; 1 << 16];
        while !self.end.load(Ordering::Relaxed) {
            self.sleep();
            for way in [Way::AToB, Way::BToA] {
                loop {
                    match recv(&self.sockets[way as usize], frame.as_mut_slice(), RecvFlags::DONTWAIT) {
                        Ok((length, _)) => self.take(way, &frame[..length]),
                        Err(Errno::AGAIN) => break,
                        Err(error) => panic!("receive {way:?}: {error}"),
                    }
                }
            }
            self.release();
        }
    }

    /// Until a frame comes or one has to leave.
    fn sleep(&self) {
        let until = self
            .held
            .peek()
            .map_or(TURN, |Reverse((due, ..))| due.saturating_duration_since(Instant::now()).min(TURN));
        let timeout = Timespec::try_from(until).unwrap();
        let mut fds = [0, 1].map(|n| PollFd::new(&self.sockets[n], PollFlags::IN));
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }

    fn take(&mut self, way: Way, frame: &[u8]) {
        let due = Instant::now() + self.delay[way as usize];
        let report = self.report.clone();
        let mut report = report.lock().unwrap();
        let passed = report.of(way);
        passed.received += 1;
        let (mut fault, mut behind) = (None, Vec::new());
        for counted in &mut self.rules {
            let rule = &counted.rule;
            if rule.way != way || !(rule.select)(frame) {
                continue;
            }
            counted.seen += 1;
            behind.extend(counted.parked.take());
            let chosen = match rule.which {
                Which::Nth(n) => counted.seen == n,
                Which::Every(n) => counted.seen % n == 0,
            };
            if chosen && fault.is_none() {
                fault = Some(rule.fault);
                if matches!(rule.fault, Fault::Swap) {
                    counted.parked = Some(frame.to_vec());
                }
            }
        }
        match fault {
            None => self.hold(due, way, frame),
            Some(Fault::Drop) => passed.dropped += 1,
            Some(Fault::Swap) => passed.swapped += 1,
            Some(Fault::Double) => {
                passed.doubled += 1;
                self.hold(due, way, frame);
                self.hold(due, way, frame);
            }
        }
        for frame in behind {
            self.hold(due, way, &frame);
        }
    }

    fn hold(&mut self, due: Instant, way: Way, frame: &[u8]) {
        assert!(self.held.len() < HELD, "more than {HELD} frames are under way");
        self.number += 1;
        self.held.push(Reverse((due, self.number, way, frame.to_vec())));
    }

    fn release(&mut self) {
        while let Some(Reverse((due, ..))) = self.held.peek() {
            let late = match Instant::now().checked_duration_since(*due) {
                Some(late) => late,
                None => return,
            };
            let Some(Reverse((_, _, way, frame))) = self.held.pop() else { return };
            let other = &self.sockets[1 - way as usize];
            send(other, &frame, SendFlags::empty()).unwrap_or_else(|error| panic!("send {way:?}: {error}"));
            let mut report = self.report.lock().unwrap();
            report.of(way).sent += 1;
            report.late = report.late.max(late);
        }
    }
}

/// Whether a frame is a TCP segment with payload.
pub fn tcp_data(frame: &[u8]) -> bool {
    tcp(frame).is_some_and(|(_, payload)| payload > 0)
}

/// Whether a frame is a TCP segment that opens a connection, in either direction.
pub fn tcp_syn(frame: &[u8]) -> bool {
    tcp(frame).is_some_and(|(flags, _)| flags & 2 != 0)
}

/// Flags and bytes of payload.
fn tcp(frame: &[u8]) -> Option<(u8, usize)> {
    let packet = frame.get(14..)?;
    let be16 = |at: usize| Some(usize::from(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?])));
    let (protocol, header, length) = match frame.get(12..14)? {
        [0x08, 0x00] => (*packet.get(9)?, usize::from(packet.first()? & 15) * 4, be16(2)?),
        [0x86, 0xdd] => (*packet.get(6)?, 40, 40 + be16(4)?),
        _ => return None,
    };
    if protocol != 6 {
        return None;
    }
    let tcp_header = usize::from(packet.get(header + 12)? >> 4) * 4;
    Some((*packet.get(header + 13)?, length.checked_sub(header + tcp_header)?))
}
