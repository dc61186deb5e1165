//! Names out of a Kubernetes cluster: pods, workloads, services, nodes.
//!
//! [`object`] is what of the API's objects is kept. The watches ([`watch`], over [`access`]) [`trim`] what the API server says to
//! that and tell it as a [`Change`](object::Change); the [`cluster`] takes changes in and answers who held an address when.
//! [`progress`] is what the watches say of themselves, [`Link`] all of that for the agent.

pub mod access;
pub mod cluster;
pub mod link;
pub mod nodes;
pub mod object;
pub mod owners;
pub mod pods;
pub mod progress;
mod services;
#[cfg(test)]
mod tests;
mod timed;
pub mod trim;
pub mod watch;

use std::net::{IpAddr, Ipv6Addr};

pub use cluster::Cluster;
pub use link::Link;

/// Addresses of both families in one form.
fn key(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}
