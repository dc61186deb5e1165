//! The metrics port: whether it is free, or who has it.

use std::net::TcpListener;
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
    let holder = holder(proc, port);
    match (TcpListener::bind((address, port)), holder) {
        (Ok(_), _) if agent.is_none() => Finding::pass(CHECK, format!("{address}:{port} is free")),
        (Ok(_), _) => Finding::warn(
            CHECK,
            format!("the agent runs, but nobody listens on {address}:{port}"),
            "look into the agent's log (`journalctl -u netmon`)",
        ),
        (Err(_), Some((pid, _))) if Some(pid) == agent => {
            Finding::pass(CHECK, format!("the agent serves {port}"))
        }
        (Err(error), holder) if error.kind() == std::io::ErrorKind::AddrInUse => Finding::fail(
            CHECK,
            match holder {
                Some((pid, name)) => format!("{address}:{port} is taken by {name} (pid {pid})"),
                None => format!("{address}:{port} is taken, by whom can't be seen"),
            },
            "set export.prometheus.port to another port, or stop the other (`ss -ltnp`)",
        ),
        (Err(error), _) => Finding::fail(
            CHECK,
            format!("cannot listen on {address}:{port}: {error}"),
            "set export.prometheus.address to an address of this host",
        ),
    }
}

/// Process that listens on a TCP port: its id and name.
fn holder(proc: &Path, port: u16) -> Option<(u32, String)> {
    let read = |path: &str| std::fs::read_to_string(proc.join(path)).unwrap_or_default();
    let inode = [read("net/tcp"), read("net/tcp6")].iter().find_map(|table| listening_inode(table, port))?;
    let wanted = format!("socket:[{inode}]");
    let holds = |pid: &u32| {
        let descriptors = std::fs::read_dir(proc.join(format!("{pid}/fd"))).into_iter().flatten().flatten();
        descriptors.into_iter().any(|entry| {
            std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str())
        })
    };
    let processes = std::fs::read_dir(proc).ok()?.flatten();
    let pid = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(holds)?;
    Some((pid, read(&format!("{pid}/comm")).trim().to_owned()))
}

/// Inode of the socket that listens on a port, from /proc/net/tcp.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let (_, local_port) = fields.nth(1)?.rsplit_once(':')?;
        let listens = fields.nth(1)? == LISTENING && u16::from_str_radix(local_port, 16).ok()? == port;
        listens.then(|| fields.nth(5)?.parse().ok()).flatten()
    })
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
        assert_eq!(listening_inode(table, 9090), Some(42));
        assert_eq!(listening_inode(table, 9091), None);
        assert_eq!(listening_inode("sl\n0: nonsense", 9090), None);
    }
}
