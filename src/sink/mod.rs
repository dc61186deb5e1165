//! Sinks: what becomes of flow updates. Each owns its own state and is fed by [`feed`]; none talks to the kernel.

pub mod feed;
pub mod history;
pub mod kubernetes_events;
pub mod prometheus;
