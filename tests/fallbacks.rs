//! Each way of doing without something, forced on a kernel that has it, alone and with others: the flows and their books are the
//! same, but for what is missing, and `status` says what that is. What can't be forced (a kernel that refuses) is in tests/kernels.
//!
//! A kernel without BTF is one whose BTF the agent doesn't find: an empty folder lies over it, for the agent alone. The kernel itself
//! still has it, so what it would refuse for that reason is not refused here; the programs that are loaded then name nothing that is
//! looked up there (tests/object.rs).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::agent::Agent;
use common::net::Net;
use serde_json::Value;

/// What is forced; nothing: the best that the kernel has.
#[derive(Clone, Copy, Default)]
struct Forced {
    clsact: bool,
    perf: bool,
    nat: Nat,
    no_drops: bool,
    /// Types from a file.
    no_btf: bool,
    /// Counters alone: no round trips, protocols or processes.
    bare: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Nat {
    #[default]
    Best,
    Netlink,
    Off,
}

const BEST: Forced =
    Forced { clsact: false, perf: false, nat: Nat::Best, no_drops: false, no_btf: false, bare: false };

macro_rules! matrix {
    ($($name:ident: $forced:expr;)+) => {
        $(#[test] fn $name() { all_is_told_but_for(&$forced); })+
    };
}

matrix!(
    nothing: BEST;
    tcx: Forced { clsact: true, ..BEST };
    the_ring_buffer: Forced { perf: true, ..BEST };
    programs_that_read_conntrack: Forced { nat: Nat::Netlink, ..BEST };
    conntrack: Forced { nat: Nat::Off, ..BEST };
    typed_tracepoints: Forced { no_drops: true, ..BEST };
    btf: Forced { no_btf: true, ..BEST };
    all_but_counters: Forced { bare: true, ..BEST };
    tcx_and_the_ring_buffer: Forced { clsact: true, perf: true, ..BEST };
    tcx_and_programs_that_read_conntrack: Forced { clsact: true, nat: Nat::Netlink, ..BEST };
    the_ring_buffer_and_conntrack_in_bare_programs: Forced { perf: true, nat: Nat::Off, bare: true, ..BEST };
    what_old_kernels_lack: Forced { clsact: true, perf: true, nat: Nat::Netlink, no_drops: true, ..BEST };
    what_old_kernels_lack_and_btf: Forced { clsact: true, perf: true, nat: Nat::Netlink, no_btf: true, ..BEST };
    everything: Forced { clsact: true, perf: true, nat: Nat::Off, no_drops: true, no_btf: true, bare: true };
);

impl Forced {
    fn settings(&self) -> String {
        let nat = match self.nat {
            Nat::Best => "",
            Nat::Netlink => "nat: { conntrack: netlink }",
            Nat::Off => "nat: { enabled: false }",
        };
        let on = !self.bare;
        format!(
            "capture: {{ attach: {}, transport: {} }}\nflow: {{ active_interval: 200ms }}\nfeatures:\n  \
             drop_monitoring: {{ enabled: {} }}\n  latency_tracking: {{ enabled: {on} }}\n  \
             protocol_detection: {{ enabled: {on} }}\n  process_attribution: {{ enabled: {on} }}\n  {nat}\n",
            if self.clsact { "clsact" } else { "auto" },
            if self.perf { "perf" } else { "auto" },
            !self.no_drops,
        )
    }

    /// What `status` says in plain words, beside what it always says.
    fn notes(&self) -> Vec<&'static str> {
        let all = [
            (self.clsact, "attached by clsact"),
            (self.perf, "events travel by perf buffers"),
            (self.nat == Nat::Netlink, "features.nat.conntrack is netlink"),
            (self.no_drops, "features.drop_monitoring.enabled is false"),
            (self.no_btf, "kernel without BTF: types from "),
            (self.no_btf && !self.no_drops, "drops are not told: it takes the kernel's own BTF"),
            (self.no_btf && !self.bare, "by cgroup only: it takes the kernel's own BTF"),
            (true, netmon::agent::LOOPBACK),
        ];
        all.into_iter().filter(|(said, _)| *said).map(|(_, note)| note).collect()
    }
}

/// c 10.1.0.2 ──ra── 10.1.0.1 r 10.2.0.1 ──rb── 10.2.0.2 s; the agent is on r, whose port 8080 is that of s:80, and 8081 that of a port where
/// nobody listens. s knows r alone.
fn routed() -> Net {
    let net = Net::new(&["c", "r", "s"]);
    net.veth(("c", "vc", "10.1.0.2/24"), ("r", "ra", "10.1.0.1/24"));
    net.veth(("r", "rb", "10.2.0.1/24"), ("s", "vs", "10.2.0.2/24"));
    for host in ["r", "s"] {
        net.exec(host, "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.icmp_ratelimit=0");
    }
    net.exec("c", "ip route add default via 10.1.0.1");
    net.exec(
        "r",
        "nft 'table ip n {
            chain pre { type nat hook prerouting priority dstnat
                meta l4proto {tcp, udp} th dport 8080 dnat to 10.2.0.2:80
                tcp dport 8081 dnat to 10.2.0.2:81
            }
            chain post { type nat hook postrouting priority srcnat
                oifname rb masquerade
            }
        }'",
    );
    net
}

const CONNECTIONS: usize = 20;
const REFUSED: usize = 5;
const DATAGRAM_FLOWS: usize = 10;
/// From c and r to ports of r and s where nobody listens.
const LOST: u64 = 4;

fn talk(net: &Net) {
    net.exec(
        "c",
        &format!(
            "python3 -c \"
import socket
for i in range({CONNECTIONS}):
    s=socket.create_connection(('10.1.0.1',8080),5); s.sendall(b'x'*3000); n=0
    while n<3000: n+=len(s.recv(65536))
    s.close()
for i in range({REFUSED}): assert socket.socket().connect_ex(('10.1.0.1',8081))==111
us=[socket.socket(socket.AF_INET,socket.SOCK_DGRAM) for i in range({DATAGRAM_FLOWS})]
for u in us:
    u.settimeout(5); u.connect(('10.1.0.1',8080))
    for i in range(3): u.send(b'u'*100); assert len(u.recv(2048))==100\""
        ),
    );
    net.exec("c", "ping -q -c 3 -i 0.05 -W 2 10.2.0.2");
    // Nobody listens on r: the kernel drops them there.
    net.exec(
        "c",
        &format!(
            "python3 -c \"
import socket
for i in range({LOST}): socket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto(b'l',('10.1.0.1',9))\""
        ),
    );
}

/// For whoever comes after it in the line.
const WITHOUT_BTF: &str = "mount -t tmpfs none /sys/kernel/btf";

/// This kernel's types in a file, as `bpftool btf dump file /sys/kernel/btf/vmlinux format raw` or pahole make it.
fn kernel_types() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), std::fs::read("/sys/kernel/btf/vmlinux").unwrap()).unwrap();
    file
}

fn is_echo(flow: &Value) -> bool {
    flow["icmp"]["type"] == 8
}

/// By the addresses that the client knows.
fn is_datagram(flow: &Value) -> bool {
    flow["protocol"] == "udp" && flow["dst"]["port"] == 8080
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn all_is_told_but_for(forced: &Forced) {
    let net = routed();
    let _server = net.echo("s", 80);
    let types = kernel_types();
    let before = if forced.no_btf {
        format!("{WITHOUT_BTF} && export NETMON_BTF={}", types.path().display())
    } else {
        "true".into()
    };
    let agent = Agent::start_after(&net, "r", &forced.settings(), &before);
    talk(&net);

    // A conversation is one flow, or one by each of its pairs of addresses.
    let sides = if forced.nat == Nat::Off { 2 } else { 1 };
    let mut flows = Vec::new();
    let mut those = |agent: &Agent<'_>| {
        flows = agent.flows(&["--ended"]);
        let count = |what: &dyn Fn(&Value) -> bool| flows.iter().filter(|flow| what(flow)).count();
        [
            count(&|flow| flow["protocol"] == "tcp" && flow["status"] == "ok" && flow["state"] == "closed"),
            count(&|flow| flow["protocol"] == "tcp" && flow["reason"] == "refused"),
            count(&|flow| flow["protocol"] == "tcp"),
            count(&is_echo),
            count(&is_datagram),
            count(&|flow| {
                (flow["protocol"] == "tcp" || is_datagram(flow))
                    && flow["nat"].is_null() == (forced.nat == Nat::Off)
            }),
        ]
    };
    let tcp = CONNECTIONS + REFUSED;
    let all = [
        CONNECTIONS * sides,
        REFUSED * sides,
        tcp * sides,
        sides,
        DATAGRAM_FLOWS,
        tcp * sides + DATAGRAM_FLOWS,
    ];
    // What all flows hold is what was counted. On its way out of the table a flow is nowhere for a moment.
    agent.assert_law();
    agent.wait(&format!("{all:?} flows"), 15, |agent| those(agent) == all);
    agent.assert_law();
    for flow in flows.iter().filter(|flow| is_echo(flow) || is_datagram(flow)) {
        assert_eq!((number(&flow["packets_sent"]), number(&flow["packets_received"])), (3, 3), "{flow:#}");
    }
    for flow in flows.iter().filter(|flow| flow["state"] == "closed" && flow["status"] == "ok") {
        assert_eq!(flow["tcp"]["rtt_us"].is_null(), forced.bare, "{flow:#}");
        // Three thousand bytes each way, and headers.
        assert!(number(&flow["bytes_sent"]) > 3000 && number(&flow["bytes_received"]) > 3000, "{flow:#}");
    }
    let dropped = || agent.metrics().sum("netmon_drops_total", &["interface=\"ra\"", "reason=\"no_socket\""]);
    if forced.no_drops || forced.no_btf {
        assert_eq!(dropped(), 0.0);
    } else {
        agent.wait("what r dropped", 5, |_| dropped() == LOST as f64);
    }

    let status = agent.cli(&["status"]);
    assert_eq!(status["transport"], if forced.perf { "perf" } else { "ringbuf" });
    let interfaces = status["interfaces"].as_array().unwrap();
    let method = if forced.clsact { "clsact" } else { "tcx" };
    assert_eq!(interfaces.len(), 2);
    assert!(interfaces.iter().all(|interface| interface["attach"] == method), "{interfaces:#?}");
    let notes: Vec<&str> =
        status["notes"].as_array().unwrap().iter().map(|note| note["text"].as_str().unwrap()).collect();
    let file = types.path().to_str().unwrap();
    assert_eq!(status["btf_file"].as_str(), forced.no_btf.then_some(file));
    let expected = forced.notes();
    assert_eq!(notes.len(), expected.len(), "{notes:#?}");
    for part in expected {
        assert!(notes.iter().any(|note| note.contains(part)), "no note says {part:?}: {notes:#?}");
    }
    agent.stop();
}

/// Exit status, standard output, standard error.
fn run(net: &Net, line: &str) -> (i32, String, String) {
    let output = net.command("a", line).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

const NETMON: &str = env!("CARGO_BIN_EXE_netmon");
const CLI: &str = env!("CARGO_BIN_EXE_netmon-cli");

#[test]
fn without_btf_the_way_out_is_told_and_a_file_that_does_not_fit_is_refused() {
    let net = Net::new(&["a"]);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("netmon.yaml");
    std::fs::write(&config, format!("api: {{ socket: {}/socket }}\n", folder.path().display())).unwrap();
    let start = |arguments: &str| {
        run(
            &net,
            &format!("{WITHOUT_BTF} && exec timeout 20 {NETMON} --config {} {arguments}", config.display()),
        )
    };
    let (status, _, said) = start("");
    assert!(
        status == 3 && said.contains("this kernel has no BTF") && said.contains("--btf FILE"),
        "{status}: {said}"
    );

    let types = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
    let renamed = |name: &str| {
        let text = format!("\0{name}\0");
        let at = types.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
        let mut changed = types.clone();
        changed[at + 1] = b'X';
        changed
    };
    let register = if cfg!(target_arch = "x86_64") { "orig_ax" } else { "orig_x0" };
    for (name, content, why) in [
        ("text", b"vmlinux".repeat(99), "no BTF is in it"),
        ("nothing", Vec::new(), "no BTF is in it"),
        ("half", types[..types.len() / 2].to_vec(), "no BTF is in it"),
        ("else", renamed("sk_buff"), "it knows no struct sk_buff"),
        ("other", renamed(register), "those of another machine than"),
    ] {
        let file = folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        let (status, _, said) = start(&format!("--btf {}", file.display()));
        assert!(status == 2 && said.contains(why), "{name}: {status}: {said}");
        assert!(
            said.contains(&format!("--btf {}", file.display())) && said.contains("accepted: "),
            "{name}: {said}"
        );
    }
    for (file, why) in [("/nowhere/vmlinux", "No such file"), ("/etc", "not a regular file")] {
        let (status, _, said) = start(&format!("--btf {file}"));
        assert!(status == 2 && said.contains(why), "{file}: {status}: {said}");
    }
}

#[test]
fn check_system_and_doctor_tell_whose_types_there_are_and_what_is_missing_with_a_file() {
    let net = Net::new(&["a"]);
    let types = kernel_types();
    let btf = |line: &str| {
        let (status, out, error) = run(&net, line);
        let found: Value = serde_json::from_str(&out).unwrap_or_else(|wrong| panic!("{wrong}: {out}{error}"));
        let found = found.as_array().unwrap().clone();
        let of = |check: &str| {
            let found = found.iter().find(|finding| finding["check"] == check);
            let text = |key: &str| found.map_or("", |found| found[key].as_str().unwrap()).to_owned();
            (text("verdict"), text("found"))
        };
        (status, of("BTF"), of("drops"), of("process names"), of("programs").0)
    };
    let file = types.path().display();
    let check = format!("{CLI} --output json check-system");

    let (status, (verdict, found), _, _, programs) = btf(&format!("{WITHOUT_BTF} && {check}"));
    assert_eq!((status, verdict.as_str(), programs.as_str()), (3, "fail", "fail"));
    assert!(found.contains("--btf FILE"), "{found}");

    let (status, (verdict, found), drops, names, programs) =
        btf(&format!("{WITHOUT_BTF} && {check} --btf {file}"));
    assert_eq!((status, verdict.as_str(), programs.as_str()), (0, "warn", "pass"), "{found}");
    assert!(found.contains(&format!("kernel without BTF: types from {file}; missing: drops")), "{found}");
    for (verdict, found) in [drops, names] {
        assert!(verdict == "warn" && found.contains("it takes the kernel's own BTF"), "{found}");
    }

    // Where the kernel tells of itself, nothing else is believed, or even read.
    let (status, (verdict, found), ..) = btf(&format!("{check} --btf /nowhere/vmlinux"));
    assert_eq!((status, verdict.as_str()), (0, "pass"), "{found}");

    // The agent that runs says which file it has.
    let before = format!("{WITHOUT_BTF} && export NETMON_BTF={file}");
    let agent = Agent::start_after(&net, "a", "", &before);
    let doctor = format!("{CLI} --output json --socket {} doctor", agent.socket().display());
    let (_, (verdict, found), ..) = btf(&format!("{WITHOUT_BTF} && {doctor}"));
    assert!(verdict == "warn" && found.contains(&format!("types from {file}")), "{found}");
    agent.stop();
}
