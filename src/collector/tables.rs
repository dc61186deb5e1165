//! The flow table as a whole: the current kernel table, the one being emptied, and moving between them when the
//! number of flows asks for another size.
//!
//! A resize never stops capture: publish the new table, wait a grace period (nothing is claimed in the old one any
//! more), let `nm_move` claim a new slot for each old one, wait again (nothing is counted in the old slots any
//! more), add what the old slots counted to the new ones, free the old table.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ledger::note;
use crate::kernel::grace::Grace;
use crate::kernel::object::{NO_TABLE, Object, TABLE_ENTRIES};
use crate::kernel::table::{DEAD, MOVED, Table};

/// Slots of the first table: 5.2 MB, room for a burst until a larger one is there.
const FIRST_SLOTS: u64 = 32_768;
/// Two-choice buckets of eight overflow visibly above this fill.
const GROW_ABOVE: f64 = 0.75;
/// Fill of the largest table with `max_flows` flows: nothing overflows before.
const FULL: f64 = 0.68;
/// A table this empty for a while is moved to a smaller one.
const SHRINK_BELOW: f64 = 0.4;
/// That while.
const CALM: Duration = Duration::from_secs(5);
/// Growing by less keeps memory in proportion to flows: at most 300 bytes each.
const GROW_STEADILY: f64 = 1.4;
/// A burst does not wait for the next step. What is too much is given back after it.
const GROW_FAST: f64 = 8.0;
/// Buckets moved in one go; some milliseconds.
const MOVE_BUCKETS: u32 = 8192;
/// A resize takes this long, about: the table is sized for the flows that will be there by then.
const LEAD_SECONDS: f64 = 0.5;

/// A slot: entry of the outer map (two bits) and slot in that table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotRef(u32);

impl SlotRef {
    /// Packs both.
    pub fn new(entry: u32, slot: u32) -> Self {
        Self(entry << 30 | slot & 0x3fff_ffff)
    }

    /// Entry of the outer map.
    pub fn entry(self) -> u32 {
        self.0 >> 30
    }

    /// Slot in its table.
    pub fn slot(self) -> u32 {
        self.0 & 0x3fff_ffff
    }
}

/// Tables that dumps may read, kept alive by whoever reads.
pub type SharedTables = Arc<Mutex<Vec<Arc<Table>>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resize {
    /// No resize under way.
    Settled,
    /// The new table takes new flows; waiting until nothing is claimed in the old one.
    Published(u64),
    /// `nm_move` is at work.
    Moving,
    /// Waiting until nothing is counted in the old slots.
    Merging(u64),
    /// The old table is out of use; waiting until nobody looks into it.
    Retiring(u64),
}

/// Slots that a resize hands back to the collector.
#[derive(Debug, Default)]
pub struct Handed {
    /// Took over from another slot: to be looked at anew.
    pub moved: Vec<SlotRef>,
    /// Dead in the old table, and not yet on their way out.
    pub strays: Vec<SlotRef>,
}

/// Current and previous table.
pub struct Tables {
    entries: [Option<Arc<Table>>; TABLE_ENTRIES as usize],
    current: u32,
    previous: u32,
    resize: Resize,
    max_slots: u64,
    resizes: u64,
    /// When the flows were counted last, and how many there were.
    last: Option<(Instant, u64)>,
    /// New flows a second, smoothed; 0 when they get fewer.
    rate: f64,
    /// Since when the table has been too large.
    calm_since: Option<Instant>,
    shared: SharedTables,
}

impl Tables {
    /// Installs the first table. `max_flows` bounds the number of flows.
    ///
    /// # Errors
    /// The kernel's.
    pub fn install(object: &mut Object, max_flows: u64) -> std::io::Result<Self> {
        let max_slots = ((max_flows as f64 / FULL).ceil() as u64).max(8);
        let mut tables = Self {
            entries: [const { None }; TABLE_ENTRIES as usize],
            current: 0,
            previous: NO_TABLE,
            resize: Resize::Settled,
            max_slots,
            resizes: 0,
            last: None,
            rate: 0.0,
            calm_since: None,
            shared: SharedTables::default(),
        };
        tables.publish(object, 0, FIRST_SLOTS.min(max_slots))?;
        Ok(tables)
    }

    fn publish(&mut self, object: &mut Object, entry: u32, slots: u64) -> std::io::Result<()> {
        let table = Arc::new(Table::create(slots)?);
        object.install(entry, &table)?;
        let mut control = object.control();
        control.set_buckets(entry, table.buckets());
        if self.entries[self.current as usize].is_some() {
            control.set_previous(self.current);
            self.previous = self.current;
        }
        control.set_current(entry);
        self.current = entry;
        self.entries[entry as usize] = Some(table);
        self.share();
        Ok(())
    }

    fn share(&self) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        *shared = self.each().map(|(_, table)| Arc::clone(table)).collect();
    }

    /// For readers on other threads.
    pub fn shared(&self) -> SharedTables {
        Arc::clone(&self.shared)
    }

    /// The table in an entry.
    pub fn get(&self, entry: u32) -> Option<&Arc<Table>> {
        self.entries.get(entry as usize)?.as_ref()
    }

    /// The tables in use, the current one first.
    pub fn each(&self) -> impl Iterator<Item = (u32, &Arc<Table>)> {
        [self.current, self.previous].into_iter().filter_map(|entry| Some((entry, self.get(entry)?)))
    }

    /// Slots of the current table.
    pub fn slots(&self) -> u64 {
        self.get(self.current).map_or(0, |table| u64::from(table.slots()))
    }

    /// Resizes since start.
    pub fn resizes(&self) -> u64 {
        self.resizes
    }

    /// Kernel memory of the tables in use, bytes.
    pub fn bytes(&self) -> u64 {
        use std::os::fd::AsRawFd;
        self.each().map(|(_, table)| crate::kernel::object::accounted_bytes(table.fd().as_raw_fd())).sum()
    }

    /// Whether the table is being moved.
    pub fn resizing(&self) -> bool {
        self.resize != Resize::Settled
    }

    /// Whether a slot may be waiting for the counts of the slot that it took over from: it may not be freed
    /// before it has them.
    pub fn awaits_merge(&self, slot: SlotRef) -> bool {
        slot.entry() == self.current && matches!(self.resize, Resize::Moving | Resize::Merging(_))
    }

    /// How long the collector may sleep: less while a resize waits for it.
    pub fn pause(&self, tick: Duration) -> Duration {
        match self.resize {
            Resize::Settled => tick,
            Resize::Moving => Duration::ZERO,
            Resize::Published(_) | Resize::Merging(_) | Resize::Retiring(_) => tick / 16,
        }
    }

    /// New flows that the table takes before it should grow, halved so that there is time to; all, when it can't.
    pub fn room(&self, flows: u64) -> u32 {
        if self.slots() >= self.max_slots {
            return u32::MAX;
        }
        let room = (self.slots() as f64 * GROW_ABOVE) as u64;
        u32::try_from(room.saturating_sub(flows) / 2).unwrap_or(u32::MAX)
    }

    fn expected(&mut self, flows: u64) -> u64 {
        let now = Instant::now();
        if let Some((then, before)) = self.last {
            let elapsed = now.duration_since(then).as_secs_f64();
            if elapsed < 0.01 {
                return flows + (self.rate * LEAD_SECONDS) as u64;
            }
            let rate = flows.saturating_sub(before) as f64 / elapsed;
            // Up at once, down slowly.
            self.rate = rate.max(self.rate * 0.8);
        }
        self.last = Some((now, flows));
        flows + (self.rate * LEAD_SECONDS) as u64
    }

    /// Goes on with a resize, or begins one if `flows` asks for it.
    ///
    /// # Errors
    /// The kernel's; the table then stays as it is.
    pub fn tend(
        &mut self,
        object: &mut Object,
        grace: &Grace,
        flows: u64,
        handed: &mut Handed,
    ) -> std::io::Result<()> {
        match self.resize {
            Resize::Settled => {
                let expected = self.expected(flows);
                if let Some(slots) = self.wanted(flows, expected) {
                    let spare = (0..TABLE_ENTRIES).find(|entry| self.get(*entry).is_none());
                    self.publish(object, spare.unwrap_or(0), slots)?;
                    self.resize = Resize::Published(grace.after_now());
                    self.resizes += 1;
                    tracing::info!(slots, flows, "flow table moves to another size");
                }
            }
            Resize::Published(number) if grace.passed(number) => {
                object.control().set_move_cursor(0);
                self.resize = Resize::Moving;
            }
            Resize::Moving => {
                object.move_buckets(MOVE_BUCKETS)?;
                let end = self.get(self.previous).map_or(0, |table| table.buckets());
                if object.control().move_cursor() >= end {
                    self.resize = Resize::Merging(grace.after_now());
                }
            }
            Resize::Merging(number) if grace.passed(number) => {
                let left = self.merge(handed);
                if left == 0 {
                    object.control().set_previous(NO_TABLE);
                    self.resize = Resize::Retiring(grace.after_now());
                } else {
                    // Slots that the new table had no room for, or that are leaving on their own: once more.
                    object.control().set_move_cursor(0);
                    self.resize = Resize::Moving;
                }
            }
            Resize::Retiring(number) if grace.passed(number) => {
                object.uninstall(self.previous)?;
                if let Some(entry) = self.entries.get_mut(self.previous as usize) {
                    *entry = None;
                }
                self.previous = NO_TABLE;
                self.share();
                self.resize = Resize::Settled;
            }
            Resize::Published(_) | Resize::Merging(_) | Resize::Retiring(_) => {}
        }
        Ok(())
    }

    /// Another size, if the number of flows, now and expected, asks for it.
    fn wanted(&mut self, flows: u64, expected: u64) -> Option<u64> {
        let slots = self.slots() as f64;
        let fill = expected as f64 / slots;
        let calm = fill < SHRINK_BELOW && self.slots() > FIRST_SLOTS.min(self.max_slots);
        let calm_since = *self.calm_since.get_or_insert_with(Instant::now);
        if !calm {
            self.calm_since = None;
        }
        if fill > GROW_ABOVE && self.slots() < self.max_slots {
            let burst = (flows as f64) < slots * GROW_ABOVE * 0.8;
            let factor = if burst { GROW_FAST } else { GROW_STEADILY };
            let wanted = (slots * factor).max(expected as f64 / 0.55) as u64;
            Some(wanted.min(self.max_slots))
        } else if calm && calm_since.elapsed() > CALM {
            self.calm_since = None;
            Some(((flows as f64 / 0.6) as u64).max(FIRST_SLOTS).min(self.max_slots))
        } else {
            None
        }
    }

    /// Adds what moved slots of the previous table counted to their new places; returns how many slots are
    /// left in the previous table.
    fn merge(&mut self, handed: &mut Handed) -> u64 {
        let (Some(old), Some(new)) = (self.get(self.previous).cloned(), self.get(self.current).cloned())
        else {
            return 0;
        };
        let mut left = 0;
        for slot in 0..old.slots() {
            if old.tag(slot) == 0 {
                continue;
            }
            let Some(snapshot) = old.read(slot) else { continue };
            if snapshot.tag & DEAD == 0 || snapshot.cold.agent_flags & MOVED == 0 {
                left += 1;
                // A program killed it (its ports were used anew), and nobody has looked at it since.
                if snapshot.tag & DEAD != 0 && snapshot.cold.agent_flags & note::DYING == 0 {
                    handed.strays.push(SlotRef::new(self.previous, slot));
                }
                continue;
            }
            let target = u32::try_from(snapshot.cold.start_ns).unwrap_or(u32::MAX);
            new.absorb(target, &snapshot.hot, old.told(slot));
            new.add_notes(target, snapshot.cold.agent_direction, snapshot.cold.agent_flags & !note::OF_SLOT);
            old.clear(slot);
            handed.moved.push(SlotRef::new(self.current, target));
        }
        left
    }
}
