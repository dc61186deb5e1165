//! NetMon (crate docs at the end of the build-up).

pub mod agent;
pub mod api;
pub mod cli;
pub mod clock;
pub mod collector;
pub mod config;
pub mod flow;
pub mod interfaces;
pub mod kernel;
pub mod privilege;
pub mod service;
pub mod sink;
pub mod telemetry;
