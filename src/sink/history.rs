//! The last flows that ended, so that a failed connection can still be looked at. Bounded: the oldest goes first.

use std::collections::VecDeque;

use crate::flow::update::{Change, Flow, FlowUpdate};

/// Flows kept by default; 200 bytes each.
pub const KEPT: usize = 10_000;

/// The ring.
#[derive(Debug)]
pub struct History {
    flows: VecDeque<Flow>,
    kept: usize,
}

impl History {
    /// Keeps so many.
    pub fn new(kept: usize) -> Self {
        Self { flows: VecDeque::new(), kept }
    }

    /// Takes the flows that ended.
    pub fn apply(&mut self, updates: &[FlowUpdate]) {
        for update in updates.iter().filter(|update| update.change == Change::Ended) {
            if self.flows.len() >= self.kept {
                self.flows.pop_front();
            }
            self.flows.push_back(update.flow);
        }
    }

    /// Newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Flow> {
        self.flows.iter().rev()
    }
}
