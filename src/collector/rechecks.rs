//! Slots to look at again after a while. Every kind of look has one fixed delay, so a queue a kind is enough: no
//! timer wheel, eight bytes an entry.

use std::collections::VecDeque;

use super::tables::SlotRef;

/// Slots in the order in which they are due.
#[derive(Debug, Default)]
pub struct Rechecks {
    queue: VecDeque<(u32, SlotRef)>,
    delay_ticks: u32,
}

impl Rechecks {
    /// A queue with one delay, in kernel ticks.
    pub fn after(delay_ticks: u32) -> Self {
        Self { queue: VecDeque::new(), delay_ticks }
    }

    /// Changes the delay of what comes next.
    pub fn set_delay(&mut self, delay_ticks: u32) {
        self.delay_ticks = delay_ticks;
    }

    /// Look at this slot again when the delay has passed.
    pub fn push(&mut self, slot: SlotRef, now_ticks: u32) {
        self.queue.push_back((now_ticks.wrapping_add(self.delay_ticks), slot));
    }

    /// Whether there is one that is due.
    pub fn is_due(&self, now_ticks: u32) -> bool {
        self.queue.front().is_some_and(|(due, _)| now_ticks.wrapping_sub(*due) <= u32::MAX / 2)
    }

    /// Ticks until the next one is due.
    pub fn due_in(&self, now_ticks: u32) -> Option<u32> {
        self.queue
            .front()
            .map(|(due, _)| if self.is_due(now_ticks) { 0 } else { due.wrapping_sub(now_ticks) })
    }

    /// The next slot that is due.
    pub fn pop_due(&mut self, now_ticks: u32) -> Option<SlotRef> {
        let (due, slot) = *self.queue.front()?;
        if now_ticks.wrapping_sub(due) > u32::MAX / 2 {
            return None;
        }
        self.queue.pop_front();
        // A burst is over: give its memory back.
        if self.queue.len() < self.queue.capacity() / 4 && self.queue.capacity() > 4096 {
            self.queue.shrink_to(self.queue.len() * 2);
        }
        Some(slot)
    }
}
