//! NetMon (crate docs at the end of the build-up).

pub mod clock;
pub mod flow;
pub mod kernel;
pub mod collector;
pub mod interfaces;
pub mod config;
pub mod telemetry;
pub mod privilege;
pub mod service;
pub mod sink;
pub mod api;
pub mod cli;
pub mod agent;
