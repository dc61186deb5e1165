//! The programs, attached nowhere, and a table: what frames do to it.
#![allow(dead_code)]

use netmon::kernel::object::{Features, Object, Options, TestProgram, Transport};
use netmon::kernel::table::{Snapshot, Table};

/// What frames are run through comes in by, or leaves by, an interface that the agent has not named.
pub struct Loaded {
    pub object: Object,
    pub table: Table,
}

impl Loaded {
    /// With room for 1024 flows.
    pub fn with(features: Features) -> Self {
        Self::load(1024, features)
    }

    pub fn load(slots: u64, features: Features) -> Self {
        Self::load_by(None, slots, features)
    }

    pub fn load_by(transport: Option<Transport>, slots: u64, features: Features) -> Self {
        let layout = features.layout();
        let options =
            Options { transport, event_buffer_events: 4096, features, bench: false, drops: false, btf: None };
        let object = Object::load(&options).expect("these tests need root and a kernel with BTF");
        let table = Table::create(slots, layout).unwrap();
        object.install(0, &table).unwrap();
        object.set_control(|control| control.buckets[0] = table.buckets());
        object.add_interface(0, 14).unwrap();
        Self { object, table }
    }

    pub fn run(&self, program: TestProgram, frame: &[u8]) {
        let (verdict, _) = self.object.run_on_frame(program, frame, 1).unwrap();
        assert_eq!(verdict, -1, "the verdict is never changed");
    }

    /// The first slot that is taken.
    pub fn slot(&self) -> u32 {
        (0..self.table.slots()).find(|slot| self.table.tag(*slot) != 0).expect("a flow")
    }

    /// All flows.
    pub fn snapshots(&self) -> impl Iterator<Item = Snapshot> {
        (0..self.table.slots()).filter_map(|slot| self.table.read(slot))
    }

    /// Every packet has its outcome, and flows hold what was counted.
    pub fn assert_conserved(&self) {
        let counters = self.object.interface(0).unwrap();
        let (mut packets, mut bytes) = (0, 0);
        for hook in counters.hooks {
            assert_eq!(hook.seen, hook.outcomes.iter().sum::<u64>(), "seen = sum of outcomes");
            packets += hook.outcomes[0];
            bytes += hook.counted_bytes;
        }
        let held = self.snapshots().fold((0, 0), |(packets, bytes), flow| {
            let counters = flow.counters();
            (packets + counters.packets(), bytes + counters.bytes())
        });
        assert_eq!(held, (packets, bytes), "flows hold what was counted");
    }
}
