//! `netmon-load`: traffic of known size for measuring and testing network monitors.
//!
//! Makes two network namespaces with a veth pair between them (or uses two that exist), sends what it is told to,
//! bounded by count and time, and writes what it sent as JSON, flow by flow on demand. Needs root.
//!
//! ```text
//! client 10.99.0.1 ── nml0 ══ nml1 ── 10.99.0.2 server, ports 8000 and up
//!                                     10.99.1.0/24 leads to the server, which drops it without a word
//! ```

mod namespaces;
mod tcp;
mod truth;
mod udp;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use namespaces::Pair;

/// The sender.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The other side.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// Packets to here reach the server's interface and are dropped there.
pub const NOWHERE: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 1);
/// First port of the server.
pub const PORT: u16 = 8000;
/// A port of the server that nobody listens on.
pub const CLOSED_PORT: u16 = 7999;

/// Sends traffic of known size through a veth pair.
#[derive(Debug, Parser)]
#[command(name = "netmon-load", version)]
struct Arguments {
    /// Two existing namespaces, set up by `netmon-load hold`; without it a pair is made and removed again
    #[arg(long, global = true, value_name = "CLIENT,SERVER", value_parser = pair)]
    namespaces: Option<(String, String)>,
    /// Leave segmentation to the interfaces: packets as large as 64 KiB pass them
    #[arg(long, global = true)]
    offload: bool,
    /// Ends after this many seconds in any case
    #[arg(long, global = true, default_value_t = 10.0, value_name = "S")]
    seconds: f64,
    /// Writes what was sent to this file instead of standard output
    #[arg(long, global = true, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// Adds every flow to it
    #[arg(long, global = true)]
    per_flow: bool,
    #[command(subcommand)]
    scenario: Scenario,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (client, server) = text.split_once(',').ok_or("two names with a comma between them")?;
    Ok((client.into(), server.into()))
}

/// Why connections fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Failure {
    /// Nobody listens: RST in answer to the SYN.
    Refused,
    /// No answer; given up after 200 ms.
    Timeout,
}

#[derive(Clone, Debug, Subcommand)]
enum Scenario {
    /// Makes the namespaces, prints their names, and keeps them until standard input ends
    Hold {
        /// Further veth pairs, for agents that watch many interfaces
        #[arg(long, default_value_t = 0)]
        interfaces: u32,
    },
    /// Short TCP connections: connect, request, answer, close
    Connections {
        /// Connections a second; 0 = as many as it can
        #[arg(long, default_value_t = 0)]
        rate: u64,
        /// At most so many in all; 0 = no bound but time
        #[arg(long, default_value_t = 0)]
        count: u64,
        /// At once
        #[arg(long, default_value_t = 64)]
        concurrency: usize,
        /// Bytes of request and answer
        #[arg(long, default_value_t = 128)]
        bytes: usize,
    },
    /// Opens connections and keeps them until the time is over
    Concurrent {
        /// So many
        #[arg(long, default_value_t = 10_000)]
        count: u64,
    },
    /// Bulk TCP
    Stream {
        /// Connections
        #[arg(long, default_value_t = 1)]
        streams: u64,
    },
    /// UDP datagrams over many flows, in an order that is no order
    Spray {
        /// Flows (5-tuples)
        #[arg(long, default_value_t = 10_000)]
        flows: u64,
        /// Datagrams in all; 0 = until the time is over
        #[arg(long, default_value_t = 0)]
        packets: u64,
        /// Datagrams a second; 0 = as many as it can
        #[arg(long, default_value_t = 0)]
        rate: u64,
        /// Payload of each
        #[arg(long, default_value_t = 32)]
        bytes: usize,
    },
    /// TCP connections that fail
    Failing {
        /// How
        #[arg(long, value_enum, default_value_t = Failure::Refused)]
        kind: Failure,
        /// Attempts a second; 0 = as many as it can
        #[arg(long, default_value_t = 1000)]
        rate: u64,
        /// Attempts at most; 0 = no bound but time
        #[arg(long, default_value_t = 0)]
        count: u64,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let files = rustix::process::Rlimit { current: most, maximum: most };
    // Without it fewer connections fit; what does not fit says so.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, files);
    let namespaces = match &arguments.namespaces {
        Some((client, server)) => Pair::existing(client, server),
        None => Pair::make(arguments.offload)?,
    };
    let time = Duration::from_secs_f64(arguments.seconds.clamp(0.0, 86_400.0));
    let per_flow = arguments.per_flow;
    let connections = |plan: tcp::Plan| tcp::run(&namespaces, time, per_flow, &plan);
    let plain = tcp::Plan::default();
    let truth = match arguments.scenario {
        Scenario::Hold { interfaces } => return namespaces.hold(interfaces),
        Scenario::Connections { rate, count, concurrency, bytes } => {
            connections(tcp::Plan { rate, count, concurrency, bytes, ..plain })?
        }
        Scenario::Concurrent { count } => {
            let concurrency = usize::try_from(count)?;
            connections(tcp::Plan { count, concurrency, keep: true, ..plain })?
        }
        Scenario::Stream { streams } => {
            let concurrency = usize::try_from(streams)?;
            connections(tcp::Plan { count: streams, concurrency, stream: true, ..plain })?
        }
        Scenario::Failing { kind, rate, count } => {
            connections(tcp::Plan { rate, count, concurrency: 4096, failure: Some(kind), ..plain })?
        }
        Scenario::Spray { flows, packets, rate, bytes } => {
            udp::run(&namespaces, time, per_flow, &udp::Plan { flows, packets, rate, bytes })?
        }
    };
    truth.write(arguments.truth.as_deref())
}
