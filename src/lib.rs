//! NetMon: watches every connection of a host through eBPF on the traffic-control hooks.
//!
//! ```text
//! kernel hook -> flow table (shared memory, cumulative counters) + event ring (rare) + outcome counters
//!   -> collector (one thread: libbpf, hooks, table) -> metrics, history, detector; followers by a bounded channel
//!   -> Prometheus, netmon-cli
//! ```
//!
//! The rooms, in the way of the data:
//! - [`kernel`]: the only room with `unsafe` and libbpf. Says what the kernel says.
//! - [`collector`]: owns the kernel side and the books of all flows.
//! - [`flow`]: what a flow is, what became of it, how it is told. Pure.
//! - [`enrich`]: who is at the ends of flows: processes, systemd units, containers; pods and services of a Kubernetes cluster.
//! - [`detect`]: signs of attack in what flows do. Pure.
//! - [`sink`]: what becomes of updates.
//! - [`api`] and [`cli`]: the control socket, its two ends.
//! - [`check`]: what is wrong on a host, and how to mend it.
//! - [`debug`]: the debug server. [`http`]: what all servers have in common.
//! - [`interfaces`]: which interfaces and addresses this host has. [`conntrack`]: what it translates (NAT). Both by [`netlink`].
//! - [`reload`]: takes a changed configuration over, whole or not at all.
//! - [`governor`]: keeps the agent within its limits by doing less.
//! - [`config`], [`telemetry`], [`privilege`], [`service`], [`clock`]: surroundings.
//! - [`agent`]: wires all of it, in order, and takes it down again.
//!
//! Rules that hold everywhere: counters are cumulative and a lost message loses nothing; every channel is bounded;
//! each mutable state has one owner; bad input is an error with a way out or a counted skip.

pub mod agent;
pub mod api;
pub mod check;
pub mod cli;
pub mod clock;
pub mod collector;
pub mod config;
pub mod conntrack;
pub mod debug;
pub mod detect;
pub mod enrich;
pub mod flow;
pub mod governor;
pub mod http;
pub mod interfaces;
pub mod kernel;
pub mod netlink;
pub mod privilege;
pub mod reload;
pub mod service;
pub mod sink;
pub mod telemetry;
