//! What the kernel side uses, read once a second: cheaply.

use std::time::{Duration, Instant};

use super::Work;
use crate::collector::handle::Usage;

/// The kernel is asked for two dozen maps so often: it takes half a millisecond, and they grow slowly.
const MAPS_EVERY: Duration = Duration::from_secs(30);

impl Work {
    pub(super) fn usage(&mut self) -> Usage {
        let known = self.maps_bytes.filter(|(at, _)| at.elapsed() < MAPS_EVERY);
        let (_, maps_bytes) =
            *self.maps_bytes.insert(known.unwrap_or_else(|| (Instant::now(), self.object.map_bytes())));
        let slot_bytes = self.object.features().layout().slot_bytes() as u64;
        Usage {
            run_time: self.object.run_time(),
            tables_bytes: self.slots() * slot_bytes,
            maps_bytes,
            slot_bytes,
        }
    }
}
