//! NetMon (crate docs at the end of the build-up).

pub mod flow;
pub mod kernel;
