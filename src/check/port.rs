//! The metrics port: whether it is free, or who has it.

use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener, ToSocketAddrs};
use std::path::Path;

use super::Finding;
use crate::config::Prometheus;

const CHECK: &str = "metrics port";
/// `TCP_LISTEN`, as /proc/net/tcp writes it.
const LISTENING: &str = "0A";

/// Judges the port that metrics are to be served on; `agent` is the running agent's process.
pub fn judge(prometheus: &Prometheus, proc: &Path, agent: Option<u32>) -> Finding {
    let (port, address) = (prometheus.port, prometheus.address.as_str());
    if !prometheus.enabled || port == 0 {
        return Finding::pass(CHECK, "not asked for");
    }
    let address = if address.is_empty() { "127.0.0.1" } else { address };
    let listeners = Listeners::find(proc, address, port);
    match TcpListener::bind((address, port)) {
        Ok(_) if agent.is_none() => Finding::pass(CHECK, format!("{address}:{port} is free")),
        Ok(_) => Finding::warn(
            CHECK,
            format!("the agent runs, but nobody listens on {address}:{port}"),
            "look into the agent's log (`journalctl -u netmon`)",
        ),
        Err(_) if agent.is_some_and(|agent| listeners.has(agent)) => {
            Finding::pass(CHECK, format!("the agent serves {port}"))
        }
        Err(error) if listeners.explain(error.kind()) => {
            taken(&format!("{address}:{port}"), &listeners, agent.is_some())
        }
        Err(error) => Finding::fail(
            CHECK,
            format!("cannot listen on {address}:{port}: {error}"),
            "set export.prometheus.address to an address of this host",
        ),
    }
}

/// Judges a port that somebody has who is not known to be the agent.
fn taken(place: &str, listeners: &Listeners, agent_answers: bool) -> Finding {
    if agent_answers && listeners.unseen() {
        let found = format!("{place} is taken, presumably by the agent that answers; root sees more");
        return Finding::pass(CHECK, found);
    }
    Finding::fail(
        CHECK,
        match listeners.holders.first() {
            Some(holder) => format!("{place} is taken by {} (pid {})", holder.name, holder.pid),
            None => format!("{place} is taken, by whom can't be seen"),
        },
        "set export.prometheus.port to another port, or stop the other (`ss -ltnp`)",
    )
}

/// Who listens where the agent would.
struct Listeners {
    /// As links to them read, like `socket:[42]`.
    sockets: Vec<String>,
    /// Those of other users can't be seen without rights.
    holders: Vec<Holder>,
}

/// A process that has one of the sockets.
struct Holder {
    pid: u32,
    name: String,
    socket: String,
}

impl Listeners {
    fn find(proc: &Path, address: &str, port: u16) -> Self {
        let read = |path: &str| std::fs::read_to_string(proc.join(path)).unwrap_or_default();
        let wanted: Vec<IpAddr> =
            (address, port).to_socket_addrs().into_iter().flatten().map(|wanted| wanted.ip()).collect();
        let mut all = listening(&read("net/tcp"), port);
        all.extend(listening(&read("net/tcp6"), port));
        let overlapping =
            all.into_iter().filter(|(address, _)| wanted.iter().any(|one| overlap(*one, *address)));
        let sockets: Vec<String> = overlapping.map(|(_, inode)| format!("socket:[{inode}]")).collect();
        let holders = if sockets.is_empty() { Vec::new() } else { holders(proc, &sockets) };
        Self { sockets, holders }
    }

    fn has(&self, pid: u32) -> bool {
        self.holders.iter().any(|holder| holder.pid == pid)
    }

    /// Whether there is one whose holder can't be seen.
    fn unseen(&self) -> bool {
        let seen = |socket: &String| self.holders.iter().any(|holder| holder.socket == *socket);
        self.sockets.is_empty() || !self.sockets.iter().all(seen)
    }

    /// Whether it is for them that the port can't be had: of a low one the kernel says first that it is not for everybody.
    fn explain(&self, error: ErrorKind) -> bool {
        error == ErrorKind::AddrInUse || error == ErrorKind::PermissionDenied && !self.sockets.is_empty()
    }
}

/// Processes that can be seen to have one of these sockets.
fn holders(proc: &Path, sockets: &[String]) -> Vec<Holder> {
    let processes = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let of_one = |pid: u32| {
        let descriptors = std::fs::read_dir(proc.join(format!("{pid}/fd"))).into_iter().flatten().flatten();
        let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let held = targets.filter_map(|target| Some(target.to_str()?.to_owned()));
        let name = || std::fs::read_to_string(proc.join(format!("{pid}/comm"))).unwrap_or_default();
        let holder = |socket| Holder { pid, name: name().trim().to_owned(), socket };
        held.filter(|socket| sockets.contains(socket)).map(holder).collect::<Vec<_>>()
    };
    pids.flat_map(of_one).collect()
}

/// Whether two sockets of one port are in each other's way.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    // `::` takes IPv4 in, too, unless its socket was told not to, which can't be seen.
    let covers = |wide: IpAddr, other: IpAddr| {
        wide.is_unspecified() && (wide.is_ipv6() || other.is_ipv4() || other.is_unspecified())
    };
    let (one, other) = (one.to_canonical(), other.to_canonical());
    one == other || covers(one, other) || covers(other, one)
}

/// Address and inode of each socket that listens on a port, from /proc/net/tcp or tcp6.
fn listening(table: &str, port: u16) -> Vec<(IpAddr, u64)> {
    let one = |line: &str| {
        let mut fields = line.split_whitespace();
        let (address, local_port) = fields.nth(1)?.rsplit_once(':')?;
        let listens = fields.nth(1)? == LISTENING && u16::from_str_radix(local_port, 16).ok()? == port;
        listens.then(|| Some((parse(address)?, fields.nth(5)?.parse().ok()?))).flatten()
    };
    table.lines().skip(1).filter_map(one).collect()
}

/// An address as /proc/net/tcp writes it: words of 32 bits in this machine's order.
fn parse(address: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    };
    match address.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, bytes) in bytes.chunks_exact_mut(4).enumerate() {
                bytes.copy_from_slice(&word(at)?);
            }
            Some(IpAddr::from(bytes))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Pass, Warn};
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_taken_port_is_told_with_its_holder_and_a_free_one_passes() {
        let mut prometheus = Config::default().export.prometheus;
        let Ok(listener) = TcpListener::bind("127.0.0.1:0") else { unreachable!("loopback is there") };
        prometheus.port = listener.local_addr().map_or(0, |address| address.port());
        let proc = Path::new("/proc");
        let taken = judge(&prometheus, proc, None);
        assert_eq!(taken.verdict, Fail, "{taken:?}");
        assert!(taken.found.contains(&format!("(pid {})", std::process::id())), "{taken:?}");
        assert_eq!(
            judge(&prometheus, proc, Some(std::process::id())).verdict,
            Pass,
            "it is the agent itself"
        );
        drop(listener);
        assert_eq!(judge(&prometheus, proc, None).verdict, Pass);
        assert_eq!(judge(&prometheus, proc, Some(1)).verdict, Warn, "the agent is said to serve it");
        prometheus.enabled = false;
        assert_eq!(judge(&prometheus, proc, Some(1)).verdict, Pass);
    }

    #[test]
    fn only_listening_sockets_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:2382 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 7 1\n\
             1: 0100007F:2382 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 42 1\n";
        assert_eq!(listening(table, 9090), [(IpAddr::from([127, 0, 0, 1]), 42)]);
        assert!(listening(table, 9091).is_empty());
        assert!(listening("sl\n0: nonsense", 9090).is_empty());
    }

    #[test]
    fn addresses_are_read_and_those_that_are_in_each_others_way_are_known() {
        let ip = |text: &str| text.parse::<IpAddr>().ok();
        assert_eq!(parse("0500000A"), ip("10.0.0.5"));
        assert_eq!(parse("00000000000000000000000001000000"), ip("::1"));
        assert_eq!(parse("0000000000000000FFFF00000100007F"), ip("::ffff:127.0.0.1"));
        assert_eq!(parse("0100"), None);
        for (one, other, expected) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "10.0.0.5", false),
            ("127.0.0.1", "0.0.0.0", true),
            ("127.0.0.1", "::", true),
            ("127.0.0.1", "::ffff:127.0.0.1", true),
            ("::1", "0.0.0.0", false),
            ("::", "0.0.0.0", true),
            ("::1", "::", true),
        ] {
            let (one, other) = (ip(one).into_iter(), ip(other).into_iter());
            for (one, other) in one.zip(other) {
                assert_eq!((overlap(one, other), overlap(other, one)), (expected, expected), "{one} {other}");
            }
        }
    }

    /// A /proc with two sockets that listen on a port: 41 on 10.0.0.5 and 42 on 127.0.0.1, each with its holder, if any.
    fn proc_with(port: u16, holders: [Option<u32>; 2]) -> std::io::Result<tempfile::TempDir> {
        let proc = tempfile::tempdir()?;
        let line = |address: &str, inode: u32| {
            format!("0: {address}:{port:04X} 00000000:0000 0A 0:0 00:0 0 0 0 {inode} 1\n")
        };
        std::fs::create_dir(proc.path().join("net"))?;
        let table = format!("sl\n{}{}", line("0500000A", 41), line("0100007F", 42));
        std::fs::write(proc.path().join("net/tcp"), table)?;
        for (pid, inode) in holders.into_iter().zip([41, 42]) {
            let Some(pid) = pid else { continue };
            let process = proc.path().join(pid.to_string());
            std::fs::create_dir_all(process.join("fd"))?;
            std::fs::write(process.join("comm"), "somebody\n")?;
            std::os::unix::fs::symlink(format!("socket:[{inode}]"), process.join("fd/3"))?;
        }
        Ok(proc)
    }

    #[test]
    fn a_holder_that_can_not_be_seen_is_presumably_the_agent_that_answers() -> std::io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let mut prometheus = Config::default().export.prometheus;
        prometheus.port = port;
        for (holders, agent, verdict, words) in [
            ([Some(7), None], Some(8), Pass, "presumably by the agent that answers"),
            ([Some(7), None], None, Fail, "by whom can't be seen"),
            ([Some(7), Some(8)], Some(8), Pass, "the agent serves"),
            ([Some(7), Some(8)], Some(7), Fail, "taken by somebody (pid 8)"),
        ] {
            let proc = proc_with(port, holders)?;
            let found = judge(&prometheus, proc.path(), agent);
            assert!(
                found.verdict == verdict && found.found.contains(words),
                "{holders:?} {agent:?}: {found:?}"
            );
        }
        Ok(())
    }
}
