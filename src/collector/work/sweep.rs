//! Looking through the whole table: for idle flows, and for what lost events would have told.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Work;
use crate::clock;
use crate::collector::ledger::note;
use crate::collector::tables::SlotRef;
use crate::kernel::object::TABLE_ENTRIES;
use crate::kernel::table::{DEAD, MOVED, SLOTS, Table};
use crate::kernel::types::nm_kind;

/// Slots swept before events have their turn again.
const SWEEP: u64 = 65_536;

/// When the buckets of a table can have an idle flow at the earliest, in ticks: until then they need not be read. A flow that
/// comes later is idle later, but for one that moves there.
#[derive(Default)]
pub(super) struct Swept {
    table: Weak<Table>,
    due: Vec<u32>,
}

impl Swept {
    fn of(&mut self, table: &Arc<Table>, now: u32) -> &mut [u32] {
        // A weak reference holds the address, so no other table can have it.
        if !std::ptr::eq(self.table.as_ptr(), Arc::as_ptr(table)) {
            *self = Self { table: Arc::downgrade(table), due: vec![now; table.buckets() as usize] };
        }
        &mut self.due
    }

    /// A flow has moved to this slot.
    pub(super) fn look_into(&mut self, slot: u32, now: u32) {
        if let Some(due) = self.due.get_mut((slot / SLOTS) as usize) {
            *due = now;
        }
    }
}

impl Work {
    /// Walks the whole table in a quarter of the flow timeout (a minute at most) to find idle flows, reading one
    /// cache line a flow; and at once, looking at each, when events were lost.
    pub(super) fn sweep(&mut self, now_ns: u64) {
        let lost = self.object.kind(nm_kind::NM_KIND_EVENT_LOST) + self.invalid;
        let slots = self.slots();
        if lost > self.lost_seen {
            self.on_lost(lost - self.lost_seen);
            self.lost_seen = lost;
            self.sweep_left = slots;
        }
        let mut budget = if self.sweep_left > 0 {
            self.sweep_left.min(SWEEP)
        } else {
            let period =
                (self.settings.flow_timeout / 4).clamp(Duration::from_secs(1), Duration::from_secs(60));
            let since = now_ns.saturating_sub(std::mem::replace(&mut self.swept_ns, now_ns));
            (slots as f64 * (since as f64 / period.as_nanos() as f64).min(1.0)).ceil() as u64
        };
        let thorough = self.sweep_left > 0;
        self.sweep_left -= budget.min(self.sweep_left);
        let now = clock::tick_of(now_ns);
        while budget > 0 {
            let table =
                self.tables.get(self.sweep_entry).filter(|table| self.sweep_at < table.buckets()).cloned();
            let Some(table) = table else {
                // The current table has buckets, so this ends.
                self.sweep_entry = (self.sweep_entry + 1) % TABLE_ENTRIES;
                self.sweep_at = 0;
                continue;
            };
            budget = budget.saturating_sub(u64::from(SLOTS));
            let (entry, bucket) = (self.sweep_entry, self.sweep_at);
            self.sweep_at += 1;
            let due = self.swept[entry as usize].of(&table, now)[bucket as usize];
            if thorough || now.wrapping_sub(due) <= u32::MAX / 2 {
                let due = self.sweep_bucket(&table, entry, bucket, thorough, now_ns);
                self.swept[entry as usize].of(&table, now)[bucket as usize] = due;
            }
        }
    }

    /// Looks at the flows of a bucket that are idle, or at all; when one of the others can be idle at the earliest.
    fn sweep_bucket(&mut self, table: &Table, entry: u32, bucket: u32, thorough: bool, now_ns: u64) -> u32 {
        let timeout = clock::ticks(self.settings.flow_timeout);
        let now = clock::tick_of(now_ns);
        let mut soonest = timeout;
        for slot in bucket * SLOTS..(bucket + 1) * SLOTS {
            let tag = table.tag(slot);
            if tag == 0 {
                continue;
            }
            let last = table.last_tick(slot);
            if thorough || tag & DEAD != 0 || self.idle(last, now_ns) {
                self.sweep_slot(SlotRef::new(entry, slot), now_ns);
            }
            soonest = soonest.min(timeout.saturating_sub(clock::ticks_since(last, now)));
        }
        now.wrapping_add(soonest)
    }

    /// Slots of all tables.
    pub(super) fn slots(&self) -> u64 {
        self.tables.each().map(|(_, table)| u64::from(table.slots())).sum()
    }

    fn idle(&self, last_tick: u32, now_ns: u64) -> bool {
        clock::ticks_since(last_tick, clock::tick_of(now_ns)) > clock::ticks(self.settings.flow_timeout)
    }

    fn sweep_slot(&mut self, slot: SlotRef, now_ns: u64) {
        if let Some(table) = self.tables.get(slot.entry())
            && table.alias(slot.slot()).is_some()
        {
            table.touch(slot.slot(), clock::tick_of(now_ns));
            return self.adopt(slot);
        }
        let Some(snapshot) = self.tables.read(slot) else {
            return;
        };
        if snapshot.cold.agent_flags & (MOVED | note::DYING) != 0 {
            return;
        }
        if !snapshot.live() || self.idle(snapshot.last_tick(), now_ns) {
            self.bury(slot);
            return;
        }
        self.look(slot, now_ns, 0);
        if snapshot.hot.closed_ns > 0 {
            self.queue_closed(slot, clock::tick_of(now_ns));
        }
    }
}
