//! The live flow table for readers on other threads: dumps read the kernel's memory directly and never hold
//! up the collector.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use super::ledger::{self, Context};
use super::readers::{Moved, Part, Readers, Reading};
use crate::clock;
use crate::flow::update::Flow;

/// Shared, cheap to clone.
#[derive(Clone)]
pub struct FlowView {
    pub(super) readers: Readers,
    pub(super) context: Arc<Mutex<Context>>,
}

impl FlowView {
    /// All flows, as long as this is kept. Blocking: while the table moves to another size (some hundred milliseconds)
    /// waits for the end of it.
    pub fn read(&self) -> Flows {
        let reading = self.readers.read();
        let context = self.context.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Flows { reading, context, now_ns: clock::monotonic_ns() }
    }
}

/// The flows of the table.
pub struct Flows {
    reading: Reading,
    context: Context,
    now_ns: u64,
}

impl Flows {
    /// Calls `visit` for each live flow of a part, until it breaks. Blocking: about 0.1 s for a million flows, more if `visit`
    /// takes its time.
    ///
    /// # Errors
    /// When it took so long that the table had to move: some flows were not visited.
    pub fn visit(&self, part: Part, visit: &mut dyn FnMut(&Flow) -> ControlFlow<()>) -> Result<(), Moved> {
        self.reading.visit(part, &mut |snapshot| {
            if self.context.told_only && snapshot.cold.agent_flags & ledger::note::KNOWN == 0 {
                return ControlFlow::Continue(());
            }
            match ledger::flow(snapshot, &self.context, self.now_ns, false) {
                Some(flow) => visit(&flow),
                None => ControlFlow::Continue(()),
            }
        })
    }
}
