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

/// A share of all flows: part `number` (from 0) of `of`, for readers that work side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which.
    pub number: u32,
    /// Of how many.
    pub of: u32,
}

impl Part {
    /// Everything.
    pub const WHOLE: Self = Self { number: 0, of: 1 };

    /// The part's share of `0..end`.
    pub fn range(self, end: u32) -> std::ops::Range<u32> {
        let at = |number: u32| (u64::from(end) * u64::from(number) / u64::from(self.of.max(1))) as u32;
        at(self.number)..at(self.number + 1)
    }
}

/// Shared, cheap to clone.
#[derive(Clone)]
pub struct FlowView {
    pub(super) tables: SharedTables,
    pub(super) context: Arc<Mutex<Context>>,
    pub(super) resizing: Arc<AtomicBool>,
}

impl FlowView {
    /// Calls `visit` for each live flow of a part. Blocking: about 0.1 s for a million flows, more if `visit` takes its
    /// time. While the table moves to another size (some hundred milliseconds) a flow's counts stand in two
    /// places: waits for the end of it.
    pub fn visit(&self, part: Part, visit: &mut dyn FnMut(&Flow) -> ControlFlow<()>) {
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
            for slot in part.range(table.slots()) {
                if table.tag(slot) == 0 {
                    continue;
                }
                let Some(snapshot) = table.read(slot).filter(|snapshot| snapshot.live()) else { continue };
                if context.told_only && snapshot.cold.agent_flags & ledger::note::KNOWN == 0 {
                    continue;
                }
                if let Some(flow) = ledger::flow(&snapshot, &context, now_ns, false)
                    && visit(&flow).is_break()
                {
                    return;
                }
            }
        }
    }
}
