//! NetMon: watches every connection of a host through eBPF on the traffic-control hooks.
//!
//! ```text
//!  packets, sockets, drops
//!     |  programs in the kernel (bpf/)
//!     v
//!  flow table (shared memory, cumulative) + event ring (rare) + counters + packet lines (on request)
//!     |
//!     v
//!  collector: one thread; libbpf, hooks, the books <---- interfaces, conntrack (netlink)
//!     |  updates
//!     v
//!  sink::feed <---- enrich: who is at the ends <---- cgroups of this host, Kubernetes API server
//!     |
//!     +--> sink::prometheus -----------------------> metrics port
//!     +--> detect -----+--> sink::kubernetes_events
//!     |                +------------+
//!     +--> sink::history -----------+--> api: control socket --> cli
//!     +--> followers (bounded) -----+
//!
//!  config: file, environment, flags, `config set` --> reload --> each part, all of it or nothing
//!  governor: looks once a second what is used ------> reload, to do less
//! ```
//!
//! The rooms, in the way of the data:
//! - [`kernel`]: the only room with `unsafe` and libbpf. Says what the kernel says.
//! - [`interfaces`]: which interfaces and addresses this host has. [`conntrack`]: what it translates (NAT). Both by [`netlink`].
//! - [`collector`]: owns the kernel side and the books of all flows; hands out traces of packets.
//! - [`flow`]: what a flow is, what became of it, how it is told. Pure.
//! - [`enrich`]: who is at the ends of flows: processes, systemd units, containers; pods and services of a Kubernetes cluster.
//! - [`detect`]: signs of attack in what flows do. Pure.
//! - [`sink`]: what becomes of updates.
//! - [`api`] and [`cli`]: the control socket, its two ends.
//! - [`check`]: what is wrong on a host, and how to mend it: asked by [`cli`], with or without an agent.
//! - [`debug`]: the debug server. [`http`]: what the servers of metrics, control and debugging have in common.
//! - [`config`]: what may be set. [`reload`]: takes a change over, whole or not at all.
//! - [`governor`]: keeps the agent within its limits by doing less.
//! - [`telemetry`] (the log), [`privilege`], [`service`] (systemd), [`clock`]: surroundings.
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
