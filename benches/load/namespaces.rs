//! Two namespaces and the veth pair between them.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{CLIENT, NOWHERE, SERVER};

/// Names of the two namespaces; removed when dropped if they were made here.
#[derive(Debug)]
pub struct Pair {
    /// The sender's.
    pub client: String,
    /// The other one.
    pub server: String,
    made: bool,
}

fn run(line: &str) -> Result<()> {
    let output = Command::new("sh").args(["-c", line]).output().context("cannot start sh")?;
    if !output.status.success() {
        bail!("`{line}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

impl Pair {
    /// Those that exist.
    pub fn existing(client: &str, server: &str) -> Self {
        Self { client: client.into(), server: server.into(), made: false }
    }

    /// Makes both, connected, with room for many connections.
    pub fn make(offload: bool) -> Result<Self> {
        let number = std::process::id();
        let pair = Self { client: format!("nml{number}-c"), server: format!("nml{number}-s"), made: true };
        let Self { client, server, .. } = &pair;
        for name in [client, server] {
            run(&format!(
                "ip netns add {name} && ip -n {name} link set lo up && ip netns exec {name} sysctl -qw \
                 net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 \
                 net.ipv4.ip_local_port_range='1024 65535' net.ipv4.tcp_tw_reuse=1 net.core.somaxconn=65535 \
                 net.ipv4.tcp_max_syn_backlog=65535 net.ipv4.tcp_syncookies=0"
            ))
            .context("cannot make network namespaces (root and iproute2 are needed)")?;
        }
        run(&format!("ip -n {client} link add nml0 type veth peer name nml1 netns {server}"))?;
        if !offload {
            for (name, interface) in [(client, "nml0"), (server, "nml1")] {
                run(&format!("ip netns exec {name} ethtool -K {interface} tso off gso off gro off tx off"))
                    .context("cannot switch offloads off (install ethtool, or use --offload)")?;
            }
        }
        run(&format!(
            "ip -n {client} addr add {CLIENT}/24 dev nml0 && ip -n {server} addr add {SERVER}/24 dev nml1 && \
             ip -n {client} link set nml0 up && ip -n {server} link set nml1 up && \
             ip -n {client} route add {NOWHERE}/32 via {SERVER}"
        ))?;
        // Nobody has to ask for an address.
        for (from, interface, to, other, ip) in
            [(client, "nml0", server, "nml1", SERVER), (server, "nml1", client, "nml0", CLIENT)]
        {
            run(&format!(
                "ip -n {from} neigh replace {ip} dev {interface} lladdr \
                 $(ip netns exec {to} cat /sys/class/net/{other}/address)"
            ))?;
        }
        Ok(pair)
    }

    /// Prints the names and waits for the end of standard input.
    pub fn hold(&self, interfaces: u32) -> Result<()> {
        if interfaces > 0 {
            let lines: String = (0..interfaces)
                .map(|n| format!("link add nmx{n} up type veth peer name nmy{n} netns {}\n", self.server))
                .collect();
            let file = tempfile(&lines)?;
            let done = run(&format!("ip -n {} -batch {}", self.client, file.display()));
            // It is in the way of nobody.
            let _ = std::fs::remove_file(&file);
            done?;
        }
        println!("{},{}", self.client, self.server);
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        Ok(())
    }
}

fn tempfile(text: &str) -> Result<std::path::PathBuf> {
    let path = std::env::temp_dir().join(format!("netmon-load-{}.batch", std::process::id()));
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

impl Drop for Pair {
    fn drop(&mut self) {
        if self.made {
            for name in [&self.client, &self.server] {
                // Where it could not be made there is nothing to remove.
                let _ = run(&format!("ip netns del {name}"));
            }
        }
    }
}

/// Moves the calling thread into a namespace.
pub fn enter(name: &str) -> Result<()> {
    let path = format!("/run/netns/{name}");
    let file = File::open(&path).with_context(|| format!("there is no namespace {path}"))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter {path}"))
}
