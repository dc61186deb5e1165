//! Settings that change while the thread runs.

use std::time::{Duration, Instant};

use super::{Settings, Work};
use crate::clock;

/// The hash below which flows of a share of all are kept.
pub(super) fn threshold(sampling_rate: f64) -> u32 {
    if sampling_rate >= 1.0 {
        u32::MAX
    } else {
        // `u32::MAX` means all, so the largest share below one is one less.
        ((sampling_rate * f64::from(u32::MAX)) as u32).min(u32::MAX - 1)
    }
}

impl Work {
    /// Goes on with these. How interfaces are attached is for those that come.
    pub(super) fn configure(&mut self, new: Settings) {
        let old = std::mem::replace(&mut self.settings, new);
        let new = self.settings.clone();
        if old.sampling_rate != new.sampling_rate {
            // What was counted until now is told while a kept flow stands for as many as it did then.
            self.tell_all();
            self.object.set_control(|control| control.sample_below = threshold(new.sampling_rate));
            self.sink.sampling(new.sampling_rate);
        }
        if old.active_interval != new.active_interval {
            let ticks = clock::ticks(new.active_interval);
            self.object.set_control(|control| control.interval_ticks = ticks);
            self.active.set_delay(ticks);
        }
        if old.connect_timeout != new.connect_timeout {
            self.attempts.set_delay(clock::ticks(new.connect_timeout));
        }
        if old.flow_timeout != new.flow_timeout {
            // When buckets can have idle flows was told by the old one.
            self.swept = Default::default();
        }
        if (&old.features, old.drops) != (&new.features, new.drops) {
            self.object.switch(&new.features, new.drops);
        }
        if old.max_flows != new.max_flows {
            self.tables.set_max_flows(new.max_flows);
        }
    }

    /// Tells what is new of every flow.
    fn tell_all(&mut self) {
        self.sweep_left = self.slots();
        // While events are lost the sweep begins anew each time.
        let deadline = Instant::now() + Duration::from_secs(2);
        while self.sweep_left > 0 && Instant::now() < deadline {
            self.drain();
            self.tend();
        }
    }
}
