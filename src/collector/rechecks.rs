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

    /// Changes the delay, of those that wait, too.
    pub fn set_delay(&mut self, delay_ticks: u32) {
        for (due, _) in &mut self.queue {
            *due = due.wrapping_sub(self.delay_ticks).wrapping_add(delay_ticks);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_delay_is_that_of_those_who_wait() {
        let mut queue = Rechecks::after(1000);
        queue.push(SlotRef::new(0, 1), 0);
        queue.push(SlotRef::new(0, 2), 50);
        queue.set_delay(100);
        queue.push(SlotRef::new(0, 3), 60);
        let due: Vec<_> =
            [99, 100, 149, 150, 160].map(|now| queue.pop_due(now).map(|slot| slot.slot())).into();
        assert_eq!(due, [None, Some(1), None, Some(2), Some(3)]);
    }
}
