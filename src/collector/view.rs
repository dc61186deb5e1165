//! The live flow table for readers on other threads: dumps read the kernel's memory directly and never hold
//! up the collector.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::ledger::{self, Context};
use super::tables::SharedTables;
use crate::clock;
use crate::flow::update::Flow;
use crate::kernel::table::Table;

/// Shared, cheap to clone.
#[derive(Clone)]
pub struct FlowView {
    pub(super) tables: SharedTables,
    pub(super) context: Arc<Mutex<Context>>,
    pub(super) resizing: Arc<AtomicBool>,
}

impl FlowView {
    /// Calls `visit` for each live flow. Blocking: about 0.1 s for a million flows, more if `visit` takes its
    /// time. While the table moves to another size (some hundred milliseconds) a flow's counts stand in two
    /// places: waits for the end of it.
    pub fn visit(&self, visit: &mut dyn FnMut(&Flow) -> ControlFlow<()>) {
        for _ in 0..200 {
            if !self.resizing.load(Ordering::Acquire) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let tables: Vec<Arc<Table>> = self.tables.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let context = self.context.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now_ns = clock::monotonic_ns();
        for table in &tables {
            for slot in 0..table.slots() {
                if table.tag(slot) == 0 {
                    continue;
                }
                let Some(snapshot) = table.read(slot).filter(|snapshot| snapshot.live()) else { continue };
                if let Some(flow) = ledger::flow(&snapshot, &context, now_ns, false)
                    && visit(&flow).is_break()
                {
                    return;
                }
            }
        }
    }
}
