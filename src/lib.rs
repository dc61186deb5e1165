//! NetMon (crate docs at the end of the build-up).

pub mod clock;
pub mod flow;
pub mod kernel;
pub mod collector;
pub mod interfaces;
