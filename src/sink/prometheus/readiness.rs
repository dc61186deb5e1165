//! Ready means that every part has let go of its latch.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

struct Entry {
    waiting_for: String,
    released: Arc<AtomicBool>,
}

/// All latches.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<Vec<Entry>>>);

/// Held until its part is ready.
pub struct Latch(Arc<AtomicBool>);

impl Readiness {
    /// A new latch; `waiting_for` is what is missing until it's released, in plain words.
    pub fn latch(&self, waiting_for: impl Into<String>) -> Latch {
        let released = Arc::new(AtomicBool::new(false));
        let entry = Entry { waiting_for: waiting_for.into(), released: Arc::clone(&released) };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
        Latch(released)
    }

    /// What is still missing; empty when ready.
    pub fn waiting_for(&self) -> Vec<String> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = entries.iter().filter(|entry| !entry.released.load(Ordering::Acquire));
        held.map(|entry| entry.waiting_for.clone()).collect()
    }
}

impl Latch {
    /// This part is ready.
    pub fn release(&self) {
        self.0.store(true, Ordering::Release);
    }
}
