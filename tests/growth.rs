//! The flow table when flows come faster than it grows. Needs root.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "programs/frame.rs"]
mod frame;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use frame::{Ipv4, ethernet, udp};
use netmon::collector::Part;
use netmon::collector::readers::{Moved, Reading};
use netmon::collector::tables::{FIRST_SLOTS, Handed, SlotRef, Tables};
use netmon::kernel::events::Nudge;
use netmon::kernel::grace::Grace;
use netmon::kernel::object::{Features, Object, Options, TestProgram};
use netmon::kernel::stats::Outcome;

/// Tables, and the slots that wait for a grace period to be freed: the collector's part in a few lines.
struct Growing {
    object: Object,
    grace: Grace,
    tables: Tables,
    dying: Vec<(u64, SlotRef)>,
    let_go: usize,
}

impl Growing {
    fn new() -> Self {
        let options = Options {
            transport: None,
            event_buffer_events: 4096,
            features: Features::default(),
            bench: true,
            drops: false,
            btf: None,
        };
        let mut object = Object::load(&options).expect("this test needs root and a kernel with BTF");
        object.add_interface(1, 14).unwrap();
        let grace = Grace::start(&object, Nudge::new().unwrap()).unwrap();
        let tables = Tables::install(&mut object, 1_000_000).unwrap();
        Self { object, grace, tables, dying: Vec::new(), let_go: 0 }
    }

    /// With so many flows that a larger table is there, while somebody reads the first; and how many.
    fn while_somebody_reads() -> (Self, Reading, u64) {
        let mut growing = Self::new();
        let reading = growing.tables.readers().read();
        let flows = growing.open(24_000);
        growing.tend(flows, "a larger table", |tables| tables.slots() > FIRST_SLOTS);
        (growing, reading, flows)
    }

    /// So many flows that there were not; returns how many found room, all told.
    fn open(&self, flows: u32) -> u64 {
        let frame = ethernet(0x0800, &Ipv4::default().with(&udp(4000, 53, None, b"x")));
        self.object.run_on_frame(TestProgram::BenchFlows, &frame, flows).unwrap();
        let at = Outcome::ALL.iter().position(|outcome| *outcome == Outcome::Counted).unwrap();
        self.object.interface(1).unwrap().hooks[0].outcomes[at]
    }

    /// Until the tables are as is asked for.
    fn tend(&mut self, flows: u64, what: &str, done: impl Fn(&Tables) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done(&self.tables) {
            assert!(Instant::now() < deadline, "{what}: {} slots", self.tables.slots());
            let mut handed = Handed::default();
            self.tables.tend(&mut self.object, &self.grace, flows, &mut handed).unwrap();
            self.let_go += handed.unplaced.len();
            for slot in handed.unplaced {
                self.tables.get(slot.entry()).unwrap().kill(slot.slot());
                self.dying.push((self.grace.after_now(), slot));
            }
            let (grace, tables) = (&self.grace, &self.tables);
            self.dying.retain(|(number, slot)| {
                let dead = grace.passed(*number);
                if dead {
                    tables.get(slot.entry()).unwrap().clear(slot.slot());
                }
                !dead
            });
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_table_that_is_full_before_the_move_to_it_is_over_grows_all_the_same() {
    let mut growing = Growing::new();
    // It grows above seven tenths of its slots.
    let flows = growing.open(24_000);
    growing.tend(flows, "a larger table", |tables| tables.slots() > FIRST_SLOTS);
    let second = growing.tables.slots();
    // Now others take the room that was made for those flows.
    let counted = growing.open(2 * second as u32);
    assert!(counted <= flows + second, "{counted} flows in {second} slots and {flows} before");
    growing.tend(counted, "a third table", |tables| tables.slots() > second);
    assert!(growing.let_go > 0, "flows that found no place");
    growing.tend(counted, "the end of its move", Tables::is_settled);
    let before = growing.open(0);
    assert_eq!(growing.open(1000) - before, 1000, "there is room again");
}

/// All flows, in two parts as two threads would.
fn count(reading: &Reading) -> Result<u64, Moved> {
    let mut flows = 0;
    for number in 0..2 {
        reading.visit(Part { number, of: 2 }, &mut |_| {
            flows += 1;
            ControlFlow::Continue(())
        })?;
    }
    Ok(flows)
}

#[test]
fn a_table_does_not_move_while_somebody_reads_and_nobody_reads_while_it_moves() {
    let (mut growing, reading, flows) = Growing::while_somebody_reads();
    let while_waiting = Instant::now() + Duration::from_millis(300);
    growing.tend(flows, "some time", |_| Instant::now() > while_waiting);
    assert!(!growing.tables.is_settled() && !growing.tables.resizing(), "it waits");
    assert_eq!(count(&reading), Ok(flows));
    drop(reading);
    growing.tend(flows, "the beginning of the move", Tables::resizing);
    let readers = growing.tables.readers();
    let later = std::thread::spawn(move || count(&readers.read()));
    std::thread::sleep(Duration::from_millis(100));
    assert!(!later.is_finished(), "those who come later wait for the move");
    growing.tend(flows, "the end of the move", Tables::is_settled);
    assert_eq!(later.join().unwrap(), Ok(flows));
    assert_eq!(count(&growing.tables.readers().read()), Ok(flows));
}

#[test]
fn a_table_waits_for_readers_no_longer_than_it_has_room_and_tells_them() {
    let (mut growing, reading, _) = Growing::while_somebody_reads();
    let began = Instant::now();
    let counted = growing.open(growing.tables.slots() as u32);
    growing.tend(counted, "a move at once", Tables::resizing);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(count(&reading), Err(Moved));
}
