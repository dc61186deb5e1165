//! Network namespaces, the real agent in one of them, and traffic between them. Needs root; everything made here is
//! taken down again, and nothing outside of the test's own namespaces is touched.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod agent;
pub mod apiserver;
pub mod cgroup;
pub mod foreign;
pub mod net;
pub mod prometheus;
pub mod random;
pub mod raw;
pub mod relay;
pub mod tcp;
