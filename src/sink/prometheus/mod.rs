//! The Prometheus exporter: counts flow updates, reads the kernel side's counters when scraped, renders text.
//!
//! [`flows`] is fed by one task, batch by batch, in a cluster by [`names`] too; [`render`] joins it with what the kernel side and the process
//! say on one [`page`]; [`http`] serves it together with health and readiness.

mod endpoint;
pub mod flows;
mod governor;
pub mod http;
mod kernel;
mod messages;
pub mod names;
mod page;
pub mod process;
pub mod readiness;
pub mod render;
pub mod summary;
pub mod top_pairs;
mod units;
mod watches;

pub use endpoint::Endpoint;
pub use flows::FlowMetrics;
pub use readiness::{Latch, Readiness};
pub use render::Exporter;
