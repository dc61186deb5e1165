//! Those who read the flow tables on other threads, and the mover of the tables. During a move a flow stands in two
//! places, or in one that the reader has passed: so a move waits until nobody reads, and readers wait for its end.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::kernel::table::{Snapshot, Table};

/// A move waits for readers so long at most: a slow client must not keep a table at its size.
const PATIENCE: Duration = Duration::from_secs(5);
/// A reader waits so long for the end of a move at most.
const MOVE_ENDS: Duration = Duration::from_secs(10);

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

/// The table moves to another size, which does not wait forever: not all flows were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the flow table moves to another size: not all flows could be read; try again")]
pub struct Moved;

#[derive(Debug, Default)]
struct State {
    tables: Vec<Arc<Table>>,
    /// Readers whom no move has passed.
    reading: usize,
    /// Since when a move has waited for readers: no more of them begin.
    waits_since: Option<Instant>,
    moving: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    move_ended: Condvar,
    /// Moves begun.
    moves: AtomicU64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tables in use, for readers; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readers(Arc<Shared>);

impl Readers {
    /// Begins to read. Blocking: waits for the end of a move, some hundred milliseconds for a million flows, and for the readers
    /// that it waits for.
    pub fn read(&self) -> Reading {
        let state = self.0.state();
        let waits = |state: &mut State| state.moving || state.waits_since.is_some();
        let waited = self.0.move_ended.wait_timeout_while(state, MOVE_ENDS, waits);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        // What has not ended passes this reader, too.
        let moves = if waited.timed_out() { None } else { Some(self.0.moves.load(Ordering::Acquire)) };
        state.reading += usize::from(moves.is_some());
        Reading { readers: self.clone(), tables: state.tables.clone(), moves }
    }

    /// These are the tables in use now.
    pub(super) fn set_tables(&self, tables: Vec<Arc<Table>>) {
        self.0.state().tables = tables;
    }

    /// Whether a move begins now, or goes on: it does when nobody reads or `at_once` is asked for.
    pub(super) fn begin_move(&self, at_once: bool) -> bool {
        let mut state = self.0.state();
        if state.moving {
            return true;
        }
        let since = *state.waits_since.get_or_insert_with(Instant::now);
        if state.reading > 0 && !at_once && since.elapsed() < PATIENCE {
            return false;
        }
        (state.waits_since, state.moving, state.reading) = (None, true, 0);
        self.0.moves.fetch_add(1, Ordering::Release);
        true
    }

    /// Each flow stands in one place again, or nothing moves any more.
    pub(super) fn end_move(&self) {
        let mut state = self.0.state();
        (state.waits_since, state.moving) = (None, false);
        drop(state);
        self.0.move_ended.notify_all();
    }
}

/// All tables, held where they are.
pub struct Reading {
    readers: Readers,
    tables: Vec<Arc<Table>>,
    /// Moves that had begun when the reading did; `None` if it could not begin.
    moves: Option<u64>,
}

impl Reading {
    /// Calls `visit` for each live flow of a part, until it breaks.
    ///
    /// # Errors
    /// When a move could not wait any longer: some flows were not visited.
    pub fn visit(
        &self,
        part: Part,
        visit: &mut dyn FnMut(&Snapshot) -> ControlFlow<()>,
    ) -> Result<(), Moved> {
        for table in &self.tables {
            for slot in part.range(table.slots()) {
                let snapshot = if table.tag(slot) == 0 { None } else { table.read(slot) };
                // After the slot was read: it had not moved before.
                if self.is_passed() {
                    return Err(Moved);
                }
                if let Some(snapshot) = snapshot.filter(Snapshot::live)
                    && visit(&snapshot).is_break()
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn is_passed(&self) -> bool {
        self.moves != Some(self.readers.0.moves.load(Ordering::Acquire))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut state = self.readers.0.state();
        state.reading -= usize::from(!self.is_passed());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::thread::JoinHandle;

    use super::*;

    /// Somebody who begins to read, and has not managed to within a moment.
    fn held_up(readers: &Readers) -> JoinHandle<Reading> {
        let readers = readers.clone();
        let reader = std::thread::spawn(move || readers.read());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!reader.is_finished());
        reader
    }

    #[test]
    fn a_move_waits_for_those_who_read_and_later_ones_wait_for_the_move() {
        let readers = Readers::default();
        let reading = readers.read();
        assert!(!readers.begin_move(false));
        let later = held_up(&readers);
        drop(reading);
        assert!(readers.begin_move(false) && !later.is_finished());
        let during = held_up(&readers);
        assert!(readers.begin_move(false), "it goes on");
        readers.end_move();
        let readings = [later, during].map(|reader| reader.join().unwrap());
        assert!(!readers.begin_move(false), "for both");
        assert!(readings.iter().all(|reading| !reading.is_passed()));
        let [first, second] = readings;
        drop(first);
        assert!(!readers.begin_move(false), "for the second");
        drop(second);
        assert!(readers.begin_move(false));
    }

    #[test]
    fn whom_a_move_has_passed_holds_up_nobody() {
        let readers = Readers::default();
        let slow = readers.read();
        let began = Instant::now();
        while !readers.begin_move(false) {
            assert!(began.elapsed() < PATIENCE * 4);
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(began.elapsed() >= PATIENCE && slow.is_passed());
        readers.end_move();
        let reading = readers.read();
        drop(slow);
        assert!(!readers.begin_move(false), "for the one that reads");
        assert!(readers.begin_move(true) && reading.is_passed());
        // As when the collector ends.
        let later = held_up(&readers);
        readers.end_move();
        assert!(!later.join().unwrap().is_passed());
        drop(reading);
        assert!(readers.begin_move(false));
    }
}
