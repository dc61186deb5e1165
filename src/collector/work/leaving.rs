//! Slots that leave: closed, timed out or killed by a program, they die, and a grace period later they are free.

use std::time::Duration;

use super::Work;
use crate::clock;
use crate::collector::ledger::{attempt_open, note};
use crate::collector::tables::SlotRef;
use crate::kernel::table::{DEAD, MOVED, Snapshot};

/// A closed flow leaves after this time, so that late segments still join it ...
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// ... and later if they came this lately.
const LATE: Duration = Duration::from_millis(500);

impl Work {
    /// Adds a note to a slot; false when it has it, or when its flow has moved on.
    pub(super) fn annotate(&self, slot: SlotRef, notes: u8) -> bool {
        let Some(table) = self.tables.get(slot.entry()) else { return false };
        let Some(snapshot) = table.read_any(slot.slot()) else { return false };
        let flags = snapshot.cold.agent_flags;
        if flags & MOVED != 0 || flags & notes == notes {
            return false;
        }
        table.set_notes(slot.slot(), snapshot.cold.agent_direction, flags | notes);
        true
    }

    /// A closed flow leaves: after a while, or at once when its ports are used anew, so that nothing late can
    /// join it.
    pub(super) fn queue_closed(&mut self, slot: SlotRef, now_ticks: u32) {
        if self.tables.get(slot.entry()).is_some_and(|table| table.tag(slot.slot()) & DEAD != 0) {
            self.bury_dead(slot);
        } else if self.annotate(slot, note::LEAVING) {
            self.closed.push(slot, now_ticks);
        }
    }

    pub(super) fn bury(&mut self, slot: SlotRef) {
        // Freed before its older self is merged into it, it would take those counts along.
        if self.tables.awaits_merge(slot) {
            self.postponed.push(slot);
            return;
        }
        if let Some(table) = self.tables.get(slot.entry()) {
            table.kill(slot.slot());
        }
        self.bury_dead(slot);
    }

    /// Takes up a slot that a program has killed. The program may yet take it back (`nm_account`), so it is looked
    /// at again before it is freed.
    pub(super) fn bury_dead(&mut self, slot: SlotRef) {
        if self.tables.awaits_merge(slot) {
            self.postponed.push(slot);
        } else if self.annotate(slot, note::DYING) {
            self.dying.push(slot);
        }
    }

    pub(super) fn on_closed_due(&mut self, slot: SlotRef, now: u32) {
        let snapshot = self.tables.read(slot);
        let Some(snapshot) = snapshot.filter(|snapshot| snapshot.hot.closed_ns > 0) else { return };
        if snapshot.cold.agent_flags & MOVED != 0 {
            return;
        }
        if snapshot.live() && clock::ticks_since(snapshot.last_tick(), now) < clock::ticks(LATE) {
            self.closed.push(slot, now);
        } else {
            self.bury(slot);
        }
    }

    pub(super) fn on_attempt_due(&mut self, slot: SlotRef, now_ns: u64) {
        let snapshot = self.tables.read(slot);
        let Some(snapshot) = snapshot.filter(|snapshot| snapshot.live() && attempt_open(snapshot)) else {
            return;
        };
        let now = clock::tick_of(now_ns);
        self.annotate(slot, note::TIMED_OUT);
        if is_over(&snapshot, now, clock::ticks(self.settings.connect_timeout)) {
            self.bury(slot);
        } else {
            self.attempts.push(slot, now);
        }
    }

    /// Frees what has been dead for a grace period, and tells the last of it.
    pub(super) fn harvest(&mut self, now_ns: u64) {
        if self.dead.as_ref().is_some_and(|(number, _)| self.grace.passed(*number))
            && let Some((_, mut dead)) = self.dead.take()
        {
            // Their counts belong to flows that may be among the others.
            dead.sort_by_key(|slot| !self.joins.contains_key(slot));
            for slot in dead {
                let Some(table) = self.tables.get(slot.entry()).cloned() else { continue };
                let Some(snapshot) = table.read_any(slot.slot()) else { continue };
                let flags = snapshot.cold.agent_flags;
                if flags & (MOVED | note::DYING) != note::DYING {
                    continue;
                }
                if snapshot.live() {
                    // Its connection goes on in it after all.
                    table.set_notes(slot.slot(), snapshot.cold.agent_direction, flags & !note::OF_SLOT);
                    self.queue_closed(slot, clock::tick_of(now_ns));
                } else if snapshot.stands_for().is_some() {
                    self.ledger.forget(&table, slot.slot(), &snapshot);
                } else if flags & note::JOINED == 0 || !self.join(slot, &table, &snapshot) {
                    table.set_notes(slot.slot(), snapshot.cold.agent_direction, flags & !note::JOINED);
                    self.ledger.harvest(&table, slot.slot(), now_ns, &mut self.out);
                    self.part(snapshot.tag & !DEAD);
                }
            }
        }
        if self.dead.is_none() && !self.dying.is_empty() {
            self.dead = Some((self.grace.after_now(), std::mem::take(&mut self.dying)));
        }
    }
}

/// A SYN is sent again after 1, 2, 4 ... seconds (RFC 6298), so an attempt is over when it has been silent for the timeout beyond the
/// time that it has lasted; it has failed once the timeout is over.
fn is_over(attempt: &Snapshot, now: u32, timeout_ticks: u32) -> bool {
    let last = attempt.last_tick();
    let lasted = clock::ticks_since(clock::tick_of(attempt.cold.start_ns), last);
    clock::ticks_since(last, now) >= timeout_ticks.saturating_add(lasted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_over_after_a_silence_longer_than_itself_and_not_while_it_goes_on() {
        let mut attempt = Snapshot::default();
        attempt.cold.start_ns = 1000 << clock::TICK_SHIFT;
        attempt.hot.seen_ticks = [1300, 1000];
        let over = |now| is_over(&attempt, now, 500);
        assert!(!over(2099) && over(2100));
        // A packet has come since the clock was read.
        assert!(!over(1299) && !over(0));
    }
}
