//! Sinks: what becomes of flow updates. Each owns its own state and is fed by one task; none talks to the kernel.

pub mod history;
pub mod prometheus;
