//! Namespaces and veth pairs of one test.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Runs a command and returns what it printed; panics with its words if it fails.
pub fn run(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).stdin(Stdio::null()).output().expect("start sh");
    check(line, &output)
}

fn check(line: &str, output: &Output) -> String {
    assert!(
        output.status.success(),
        "`{line}` failed ({}): {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Sends back what it gets, by TCP and UDP.
const ECHO: &str = "\
import socket, threading
def datagrams(s):
    while True: s.sendto(*s.recvfrom(65536))
def stream(c):
    while data := c.recv(65536): c.sendall(data)
    c.close()
u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
u.bind((\"::\", PORT))
threading.Thread(target=datagrams, args=(u,), daemon=True).start()
s = socket.create_server((\"::\", PORT), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True)
while True: threading.Thread(target=stream, args=(s.accept()[0],), daemon=True).start()";

/// Waits until a condition holds; panics with `what` after `seconds`.
pub fn until(what: &str, seconds: u64, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !condition() {
        assert!(Instant::now() < deadline, "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The namespaces of a test, by short names.
pub struct Net {
    prefix: String,
    names: Vec<String>,
    /// Whether packets leave as they are sent, so that interface counters count packets on the wire.
    offload: bool,
}

impl Net {
    pub fn new(names: &[&str]) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut net =
            Self { prefix: format!("nm{}-{number}", std::process::id()), names: Vec::new(), offload: false };
        for name in names {
            net.add(name);
        }
        net
    }

    /// a 10.1.0.1 va ──veth── vb 10.1.0.2 b
    pub fn two_hosts() -> Self {
        let net = Self::new(&["a", "b"]);
        net.veth(("a", "va", "10.1.0.1/24"), ("b", "vb", "10.1.0.2/24"));
        net
    }

    /// Leaves segmentation to the interfaces (GSO and GRO super-packets).
    pub fn with_offload(mut self) -> Self {
        self.offload = true;
        self
    }

    fn add(&mut self, name: &str) {
        let full = format!("{}-{name}", self.prefix);
        self.names.push(full.clone());
        run(&format!(
            "ip netns add {full} && ip -n {full} link set lo up && \
             ip netns exec {full} sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"
        ));
    }

    /// Full name of a namespace.
    pub fn name(&self, short: &str) -> String {
        format!("{}-{short}", self.prefix)
    }

    /// A command line inside of a namespace; what it printed.
    pub fn exec(&self, name: &str, line: &str) -> String {
        let output = self.command(name, line).output().expect("start ip");
        check(line, &output)
    }

    pub fn command(&self, name: &str, line: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(name), "sh", "-c", line]).stdin(Stdio::null());
        command
    }

    /// Starts a command line that goes on in the background; ended by [`Background`]'s drop.
    pub fn spawn(&self, name: &str, line: &str) -> Background {
        // exec, so that the process that is killed is the one that was started.
        Background::start(self.command(name, &format!("exec {line}")))
    }

    /// Waits until somebody listens on a port of `tcp` or `udp`.
    pub fn wait_bound(&self, name: &str, protocol: &str, port: u16) {
        let (end, state) = (format!(":{port:04X}"), if protocol == "tcp" { "0A" } else { "07" });
        // proc_pid_net(5): number, local address, remote address, state.
        let listens = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.len() > 3 && words[1].ends_with(&end) && words[3] == state
        };
        let bound = |file: &str| {
            let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
            text.is_ok_and(|text| text.lines().any(listens))
        };
        let files = [protocol.to_owned(), format!("{protocol}6")];
        self.inside(name, || {
            until(&format!("{protocol} port {port} of {name}"), 30, || files.iter().any(|file| bound(file)));
        });
    }

    /// Starts a server, and waits until it listens.
    pub fn serve(&self, name: &str, (protocol, port): (&str, u16), line: &str) -> Background {
        let server = self.spawn(name, line);
        self.wait_bound(name, protocol, port);
        server
    }

    /// A server that sends back what it gets, by TCP and UDP, on all addresses.
    pub fn echo(&self, name: &str, port: u16) -> Background {
        let script = ECHO.replace("PORT", &port.to_string());
        self.serve(name, ("tcp", port), &format!("python3 -c '{script}'"))
    }

    /// Datagrams of one socket, one to each of these ports. What a firewall forbids is no failure.
    pub fn send_udp(&self, name: &str, to: &str, ports: impl IntoIterator<Item = u16> + Send, bytes: usize) {
        let to: IpAddr = to.parse().expect("an address");
        self.inside(name, || {
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
            let socket = UdpSocket::bind((any, 0)).expect("bind a socket");
            for port in ports {
                let sent = socket.send_to(&vec![b'u'; bytes], (to, port));
                assert!(
                    sent.as_ref().is_ok_and(|sent| *sent == bytes)
                        || sent.as_ref().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied),
                    "{to} {port}: {sent:?}"
                );
            }
        });
    }

    /// Runs code on a thread inside of a namespace; sockets made there stay there.
    pub fn inside<T: Send>(&self, name: &str, code: impl FnOnce() -> T + Send) -> T {
        let file = std::fs::File::open(format!("/run/netns/{}", self.name(name))).expect("open a namespace");
        let code = || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("enter a namespace");
            code()
        };
        std::thread::scope(|scope| scope.spawn(code).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// A veth pair: `if1` in `ns1`, `if2` in `ns2`, up, with these addresses (with prefix), knowing each other so that
    /// nobody has to ask.
    pub fn veth(&self, (ns1, if1, ip1): (&str, &str, &str), (ns2, if2, ip2): (&str, &str, &str)) {
        let (n1, n2) = (self.name(ns1), self.name(ns2));
        run(&format!("ip -n {n1} link add {if1} type veth peer name {if2} netns {n2}"));
        for (name, interface) in [(&n1, if1), (&n2, if2)] {
            if !self.offload {
                run(&format!(
                    "ip netns exec {name} ethtool -K {interface} tso off gso off gro off tx off >/dev/null"
                ));
            }
        }
        self.address(ns1, if1, ip1);
        self.address(ns2, if2, ip2);
        run(&format!("ip -n {n1} link set {if1} up && ip -n {n2} link set {if2} up"));
        self.acquaint((ns1, if1, ip1), (ns2, if2, ip2));
        self.acquaint((ns2, if2, ip2), (ns1, if1, ip1));
    }

    pub fn address(&self, ns: &str, interface: &str, address: &str) {
        if address.is_empty() {
            return;
        }
        let name = self.name(ns);
        if address.contains(':') {
            run(&format!("ip netns exec {name} sysctl -qw net.ipv6.conf.{interface}.disable_ipv6=0"));
            run(&format!("ip -n {name} addr add {address} dev {interface} nodad"));
        } else {
            run(&format!("ip -n {name} addr add {address} dev {interface}"));
        }
    }

    /// A permanent neighbour entry: no ARP or neighbour discovery.
    pub fn acquaint(
        &self,
        (ns, interface, _): (&str, &str, &str),
        (peer, peer_interface, ip): (&str, &str, &str),
    ) {
        if let Some((ip, _)) = ip.split_once('/') {
            let mac = self.exec(peer, &format!("cat /sys/class/net/{peer_interface}/address"));
            run(&format!("ip -n {} neigh replace {ip} lladdr {} dev {interface}", self.name(ns), mac.trim()));
        }
    }

    /// An interface's own counters: packets and bytes, received and sent together.
    pub fn counters(&self, ns: &str, interface: &str) -> (u64, u64) {
        let read = |name: &str| -> u64 {
            let path = format!("/sys/class/net/{interface}/statistics/{name}");
            self.exec(ns, &format!("cat {path}")).trim().parse().expect("a number")
        };
        (read("rx_packets") + read("tx_packets"), read("rx_bytes") + read("tx_bytes"))
    }

    /// A counter of /proc/net/snmp.
    pub fn snmp(&self, ns: &str, group: &str, name: &str) -> u64 {
        let text = self.exec(ns, "cat /proc/net/snmp");
        let lines: Vec<Vec<&str>> = text
            .lines()
            .filter(|l| l.starts_with(&format!("{group}:")))
            .map(|l| l.split(' ').collect())
            .collect();
        let pairs: HashMap<&str, &str> = lines[0].iter().copied().zip(lines[1].iter().copied()).collect();
        pairs[name].parse().expect("a number")
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in &self.names {
            // Those that are already gone are no concern.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// A process of the test; ended when it goes out of scope.
pub struct Background(Child);

impl Background {
    /// Starts a command.
    pub fn start(mut command: Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start a command"))
    }

    /// Process id: `ip` and `sh` become the command.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn wait(mut self) {
        self.0.wait().expect("wait for a child");
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
