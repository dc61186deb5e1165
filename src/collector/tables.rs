//! The flow table as a whole: the current kernel table, the one being emptied, and moving between them when the
//! number of flows asks for another size.
//!
//! A resize never stops capture: publish the new table, wait a grace period (nothing is claimed in the old one any
//! more), let `nm_move` claim a new slot for each old one, wait again (nothing is counted in the old slots any
//! more), add what the old slots counted to the new ones, free the old table. Flows that find no place in a new
//! table that is full itself end and are opened anew, since it can't grow before the old one is gone.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::ledger::note;
use super::readers::Readers;
use crate::kernel::grace::Grace;
use crate::kernel::object::{NO_TABLE, Object, TABLE_ENTRIES};
use crate::kernel::table::{DEAD, Layout, MOVED, Snapshot, Table};

/// Slots of the first table: 5.2 MB, with every feature 11.8 MB.
pub const FIRST_SLOTS: u64 = 32_768;
/// Buckets of eight overflow visibly above this fill.
const GROW_ABOVE: f64 = 0.7;
/// Fill of a table that has just been made.
const NEW_FILL: f64 = 0.6;
/// In a burst a table grows by this at least, since each move costs. What is too much is given back after it.
const BURST: f64 = 2.0;
/// The kernel zeroes a new table at this rate at least, bytes a second; it must be done before the old one is full.
const ZEROED: f64 = 1e9;
/// From this fill on a table is full.
const BRIM: f64 = 0.8;
/// Fill of the largest table with `max_flows` flows: nothing overflows before.
const FULL: f64 = 0.62;
/// A table this empty for a while is moved to a smaller one: at most 300 bytes a flow, 660 with features.
const SHRINK_BELOW: f64 = 0.55;
/// That while.
const CALM: Duration = Duration::from_secs(10);
/// Making a table and moving to it takes this long, and so much more for each flow, or as long as the last time if
/// that was longer: it is sized for the flows that will be there by then.
const LEAD_SECONDS: f64 = 0.5;
const LEAD_SECONDS_A_FLOW: f64 = 1e-6;
/// Flows that found no place in the new table are tried again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// The rate of opening is measured over this many flows or this long, whichever is first.
const WINDOW_FLOWS: u64 = 1024;
const WINDOW_NS: u64 = 20_000_000;
/// Not over less: a handful of flows at once is no burst.
const LEAST_WINDOW_NS: u64 = 1_000_000;
/// Without a new flow for so long the rate sinks.
const QUIET_NS: u64 = 100_000_000;
/// Buckets moved in one go; some milliseconds.
const MOVE_BUCKETS: u32 = 8192;
/// Slots of the old table collected in one go; some milliseconds.
const COLLECT_SLOTS: u32 = 65_536;
/// Slots that were leaving on their own are gone after this.
const SOON: Duration = Duration::from_millis(5);
/// After a table could not be made.
const RETRY: Duration = Duration::from_secs(10);

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

#[derive(Debug)]
enum Resize {
    /// No resize under way.
    Settled,
    /// A thread makes the new table, which takes a tenth of a second for a million slots.
    Making(JoinHandle<std::io::Result<Table>>),
    /// The new table takes new flows; waiting until nothing is claimed in the old one, and nobody reads.
    Published(u64),
    /// `nm_move` is at work.
    Moving,
    /// Waiting until nothing is counted in the old slots.
    Merging(u64),
    /// Adding what the old slots counted to the new ones: next slot, and slots that had to stay.
    Collecting { at: u32, left: u64 },
    /// The new table is full before all flows of the old one are in it: those that are left are handed over, from this slot on.
    LettingGo(u32),
    /// Some slots had to stay, most often those that found no place in the new table: the old one stays in use.
    Again(Instant),
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
    /// Live in the old table, which can't go before they have.
    pub unplaced: Vec<SlotRef>,
}

/// Slots of the largest table for so many flows.
fn slots_for(max_flows: u64) -> u64 {
    ((max_flows as f64 / FULL).ceil() as u64).max(8)
}

/// Current and previous table.
pub struct Tables {
    entries: [Option<Arc<Table>>; TABLE_ENTRIES as usize],
    current: u32,
    previous: u32,
    resize: Resize,
    layout: Layout,
    max_slots: u64,
    resizes: u64,
    /// When the last resize was begun, and how long the longest of late has taken.
    begun: Instant,
    took: Duration,
    /// No new table before this: the last one could not be made.
    retry_at: Option<Instant>,
    /// Flows opened a second: up at once, down slowly.
    opening: f64,
    /// Flows opened in the window that is being measured, and when the first and the last of them was, nanoseconds.
    opened: (u64, u64, u64),
    /// Flows ended a second, on average; when and at which count it was looked at last.
    ending: f64,
    ended: (Instant, u64),
    /// Since when the table has been too large.
    calm_since: Option<Instant>,
    readers: Readers,
}

impl Tables {
    /// Installs the first table. `max_flows` bounds the number of flows.
    ///
    /// # Errors
    /// The kernel's.
    pub fn install(object: &mut Object, max_flows: u64) -> std::io::Result<Self> {
        let max_slots = slots_for(max_flows);
        let mut tables = Self {
            entries: [const { None }; TABLE_ENTRIES as usize],
            current: 0,
            previous: NO_TABLE,
            resize: Resize::Settled,
            layout: object.features().layout(),
            max_slots,
            resizes: 0,
            begun: Instant::now(),
            took: Duration::ZERO,
            retry_at: None,
            opening: 0.0,
            opened: (0, 0, 0),
            ending: 0.0,
            ended: (Instant::now(), 0),
            calm_since: None,
            readers: Readers::default(),
        };
        tables.publish(object, 0, Table::create(FIRST_SLOTS.min(max_slots), tables.layout)?)?;
        Ok(tables)
    }

    /// Changes the bound. A larger one is made use of at once, a smaller one when so few flows are left.
    pub fn set_max_flows(&mut self, max_flows: u64) {
        self.max_slots = slots_for(max_flows);
    }

    fn publish(&mut self, object: &mut Object, entry: u32, table: Table) -> std::io::Result<()> {
        let table = Arc::new(table);
        object.install(entry, &table)?;
        if self.entries[self.current as usize].is_some() {
            self.previous = self.current;
        }
        self.current = entry;
        object.set_control(|control| control.buckets[entry as usize] = table.buckets());
        self.entries[entry as usize] = Some(table);
        // Before it takes flows: who reads from now on must know of it.
        self.share();
        object.set_control(|control| (control.current, control.previous) = (self.current, self.previous));
        Ok(())
    }

    fn share(&self) {
        self.readers.set_tables(self.each().map(|(_, table)| Arc::clone(table)).collect());
    }

    /// For readers on other threads.
    pub fn readers(&self) -> Readers {
        self.readers.clone()
    }

    /// The table in an entry.
    pub fn get(&self, entry: u32) -> Option<&Arc<Table>> {
        self.entries.get(entry as usize)?.as_ref()
    }

    /// The flow in a slot.
    pub fn read(&self, slot: SlotRef) -> Option<Snapshot> {
        self.get(slot.entry())?.read(slot.slot())
    }

    /// The tables in use, the current one first.
    pub fn each(&self) -> impl Iterator<Item = (u32, &Arc<Table>)> {
        [self.current, self.previous].into_iter().filter_map(|entry| Some((entry, self.get(entry)?)))
    }

    /// The live slot of a tag.
    pub fn find(&self, tag: u64) -> Option<SlotRef> {
        self.each().find_map(|(entry, table)| Some(SlotRef::new(entry, table.slot_of(tag)?)))
    }

    /// The entry of the table that takes new flows.
    pub fn current(&self) -> u32 {
        self.current
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

    /// Whether the counts of a flow may stand in two slots.
    pub fn resizing(&self) -> bool {
        matches!(self.resize, Resize::Moving | Resize::Merging(_) | Resize::Collecting { .. })
    }

    /// Whether a slot may be waiting for the counts of the slot that it took over from: it may not be freed
    /// before it has them.
    pub fn awaits_merge(&self, slot: SlotRef) -> bool {
        slot.entry() == self.current && self.resizing()
    }

    /// Whether no resize is under way.
    pub fn is_settled(&self) -> bool {
        matches!(self.resize, Resize::Settled)
    }

    /// How long the collector may sleep: less while a resize waits for it.
    pub fn pause(&self, tick: Duration) -> Duration {
        match self.resize {
            Resize::Settled => tick,
            Resize::Moving | Resize::Collecting { .. } | Resize::LettingGo(_) => Duration::ZERO,
            _ => tick / 16,
        }
    }

    /// New flows after which the collector must come and look at the table's size, while there is still time to
    /// grow; all, when it can't.
    pub fn room(&self, flows: u64) -> u32 {
        if self.slots() >= self.max_slots {
            return u32::MAX;
        }
        let room = (self.slots() as f64 * GROW_ABOVE) as u64;
        u32::try_from(room.saturating_sub(flows) / 3).unwrap_or(u32::MAX)
    }

    /// Takes note that a flow was opened at this time.
    pub fn note_opened(&mut self, at_ns: u64) {
        let (count, first_ns, _) = self.opened;
        self.opened = if count == 0 { (1, at_ns, at_ns) } else { (count + 1, first_ns, at_ns) };
    }

    /// Takes note that all flows opened until now have been noted.
    fn measure_opening(&mut self, now_ns: u64) {
        let (count, first_ns, last_ns) = self.opened;
        let span = last_ns.saturating_sub(first_ns);
        if count >= WINDOW_FLOWS || span >= WINDOW_NS {
            let rate = count as f64 * 1e9 / span.max(LEAST_WINDOW_NS) as f64;
            self.opening = rate.max(self.opening * 0.8 + rate * 0.2);
            self.opened = (0, last_ns, last_ns);
        } else if now_ns.saturating_sub(last_ns) > QUIET_NS {
            self.opening *= 0.8;
            self.opened = (0, now_ns, now_ns);
        }
    }

    /// Takes note that so many flows have ended since start.
    pub fn note_ended(&mut self, total: u64) {
        let elapsed = self.ended.0.elapsed();
        if elapsed >= Duration::from_millis(500) {
            let rate = total.saturating_sub(self.ended.1) as f64 / elapsed.as_secs_f64();
            self.ending = (self.ending + rate) / 2.0;
            self.ended = (Instant::now(), total);
        }
    }

    /// Goes on with a resize, or begins one if `flows`, told of yet or not, asks for it.
    ///
    /// # Errors
    /// The kernel's; the step is tried again.
    pub fn tend(
        &mut self,
        object: &mut Object,
        grace: &Grace,
        flows: u64,
        handed: &mut Handed,
    ) -> std::io::Result<()> {
        self.measure_opening(crate::clock::monotonic_ns());
        self.resize = match std::mem::replace(&mut self.resize, Resize::Settled) {
            Resize::Settled => match self.wanted(flows) {
                Some(slots) => {
                    self.begun = Instant::now();
                    self.retry_at = Some(self.begun + RETRY);
                    let (nudge, layout) = (grace.nudge(), self.layout);
                    Resize::Making(std::thread::Builder::new().name("netmon-table".into()).spawn(
                        move || {
                            let table = Table::create(slots, layout);
                            nudge.wake();
                            table
                        },
                    )?)
                }
                None => Resize::Settled,
            },
            Resize::Making(thread) if thread.is_finished() => {
                let table = thread.join().map_err(|_| std::io::Error::other("the thread panicked"))??;
                let slots = table.slots();
                let spare = (0..TABLE_ENTRIES).find(|entry| self.get(*entry).is_none());
                self.publish(object, spare.unwrap_or(0), table)?;
                self.retry_at = None;
                self.resizes += 1;
                tracing::info!(slots, flows, "flow table moves to another size");
                Resize::Published(grace.after_now())
            }
            Resize::Published(number) if grace.passed(number) && self.may_move(flows) => {
                object.set_control(|control| control.move_cursor = 0);
                Resize::Moving
            }
            Resize::Moving => {
                if let Err(error) = object.move_buckets(MOVE_BUCKETS) {
                    self.resize = Resize::Moving;
                    return Err(error);
                }
                let end = self.get(self.previous).map_or(0, |table| table.buckets());
                if object.control().move_cursor >= end {
                    Resize::Merging(grace.after_now())
                } else {
                    Resize::Moving
                }
            }
            Resize::Merging(number) if grace.passed(number) => Resize::Collecting { at: 0, left: 0 },
            Resize::Collecting { at, left } => {
                let end = self.get(self.previous).map_or(0, |table| table.slots());
                let next = at.saturating_add(COLLECT_SLOTS).min(end);
                let left = left + self.collect(at..next, handed);
                if next < end {
                    Resize::Collecting { at: next, left }
                } else if left == 0 {
                    self.readers.end_move();
                    object.set_control(|control| control.previous = NO_TABLE);
                    Resize::Retiring(grace.after_now())
                } else if object.control().move_failed == 0 {
                    Resize::Again(Instant::now() + SOON)
                } else if self.must_grow(flows as f64) {
                    Resize::LettingGo(0)
                } else {
                    self.readers.end_move();
                    Resize::Again(Instant::now() + AGAIN)
                }
            }
            Resize::LettingGo(at) => {
                let end = self.get(self.previous).map_or(0, |table| table.slots());
                let next = at.saturating_add(COLLECT_SLOTS).min(end);
                handed.unplaced.extend(self.live(at..next));
                if next < end { Resize::LettingGo(next) } else { Resize::Again(Instant::now() + SOON) }
            }
            Resize::Again(until) if Instant::now() >= until && self.may_move(flows) => {
                object.set_control(|control| (control.move_cursor, control.move_failed) = (0, 0));
                Resize::Moving
            }
            Resize::Retiring(number) if grace.passed(number) => {
                if let Err(error) = object.uninstall(self.previous) {
                    self.resize = Resize::Retiring(number);
                    return Err(error);
                }
                let table = self.entries.get_mut(self.previous as usize).and_then(Option::take);
                self.previous = NO_TABLE;
                self.share();
                self.took = self.begun.elapsed().max(self.took / 2);
                // Unmapping a large table takes its time, too; without a thread it is done here.
                drop(std::thread::Builder::new().name("netmon-table".into()).spawn(move || drop(table)));
                Resize::Settled
            }
            waiting => waiting,
        };
        Ok(())
    }

    /// Whether a move begins now: readers are waited for while the new table has room.
    fn may_move(&self, flows: u64) -> bool {
        self.readers.begin_move(self.must_grow(flows as f64))
    }

    /// Whether so many flows ask for a larger table than the current one, and may have it.
    fn must_grow(&self, flows: f64) -> bool {
        flows / self.slots() as f64 > GROW_ABOVE && self.slots() < self.max_slots
    }

    /// Another size, if the number of flows, now and soon, asks for it.
    fn wanted(&mut self, flows: u64) -> Option<u64> {
        let slots = self.slots() as f64;
        let lead = (LEAD_SECONDS + LEAD_SECONDS_A_FLOW * flows as f64).max(self.took.as_secs_f64());
        let coming = (self.opening - self.ending).max(0.0) * lead;
        let expected = flows as f64 + coming;
        let least = FIRST_SLOTS.min(self.max_slots);
        let calm = expected / slots < SHRINK_BELOW && self.slots() > least;
        let calm_since = *self.calm_since.get_or_insert_with(Instant::now);
        if !calm {
            self.calm_since = None;
        }
        let grow = self.must_grow(expected);
        let shrink = calm && calm_since.elapsed() > CALM;
        if !grow && !shrink || self.retry_at.is_some_and(|at| Instant::now() < at) {
            return None;
        }
        self.calm_since = None;
        let burst = grow && coming > slots * 0.2;
        let wanted = (expected / NEW_FILL).max(if burst { slots * BURST } else { 0.0 }) as u64;
        // The last step is not worth two.
        let last = grow && wanted > self.max_slots - self.max_slots / 4;
        // In a burst a table of the best size may come too late: it takes half of the time that is left.
        let left = (slots * BRIM - flows as f64).max(0.0) / self.opening.max(1.0);
        let in_time = (left / 2.0 * ZEROED / self.layout.slot_bytes() as f64).max(slots * BURST);
        let most = self.max_slots.min(in_time as u64);
        // The bound was lowered below what is there: not before they fit.
        if shrink && flows as f64 > most as f64 * FULL {
            return None;
        }
        Some(if last { most } else { wanted.clamp(least, most) })
    }

    /// Those of the previous table's slots that are neither free nor dead.
    fn live(&self, slots: std::ops::Range<u32>) -> impl Iterator<Item = SlotRef> {
        let old = self.get(self.previous);
        let live = move |slot: &u32| old.is_some_and(|old| !matches!(old.tag(*slot), 0 | DEAD..));
        slots.filter(live).map(|slot| SlotRef::new(self.previous, slot))
    }

    /// Adds what moved slots of the previous table counted to their new places; returns how many slots have to
    /// stay.
    fn collect(&self, slots: std::ops::Range<u32>, handed: &mut Handed) -> u64 {
        let (Some(old), Some(new)) = (self.get(self.previous), self.get(self.current)) else {
            return 0;
        };
        let mut left = 0;
        for slot in slots {
            if old.tag(slot) == 0 {
                continue;
            }
            let Some(snapshot) = old.read_any(slot) else { continue };
            if snapshot.tag & DEAD == 0 || snapshot.cold.agent_flags & MOVED == 0 {
                left += 1;
                // A program killed it (its ports were used anew), and nobody has looked at it since.
                if snapshot.tag & DEAD != 0 && snapshot.cold.agent_flags & note::DYING == 0 {
                    handed.strays.push(SlotRef::new(self.previous, slot));
                }
                continue;
            }
            let target = u32::try_from(snapshot.cold.start_ns).unwrap_or(u32::MAX);
            new.absorb(target, &snapshot, (old, slot));
            new.add_notes(target, snapshot.cold.agent_direction, snapshot.cold.agent_flags & !note::OF_SLOT);
            old.clear(slot);
            handed.moved.push(SlotRef::new(self.current, target));
        }
        left
    }
}

impl Drop for Tables {
    /// Nobody waits for the end of a move that is not gone on with.
    fn drop(&mut self) {
        self.readers.end_move();
    }
}
