//! Names out of a Kubernetes cluster: pods, workloads, services, nodes.
//!
//! [`object`] is what of the API's objects is kept. The watches trim what the API server says to that and tell it as a
//! [`Change`](object::Change); the store takes changes in and answers who held an address when.

pub mod object;
