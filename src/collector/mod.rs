//! The collector: one named thread that owns the kernel side and the books of all flows.
//!
//! It sleeps until its timer, drains the event ring, looks at the slots that events and queues name, tells
//! what is new to its sink a few dozen events at a time, and tends hooks, table size and dead slots. When it
//! falls behind the ring fills, losses are counted, and the flows' counters, which live in the table, are told
//! later. Cost grows with events, not with idle flows.

mod drops;
pub mod handle;
pub mod hooks;
pub mod ledger;
pub mod pairs;
pub mod readers;
pub mod rechecks;
pub mod tables;
pub mod trace;
pub mod view;
mod work;

pub use handle::{Collector, Handle, Settings};
pub use readers::{Moved, Part};
pub use view::{FlowView, Flows};
