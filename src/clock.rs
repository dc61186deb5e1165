//! The two clocks: `CLOCK_MONOTONIC`, in which the kernel stamps packets, and UTC, in which users read.

use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// Length of the kernel's coarse tick unit, nanoseconds (`NM_TICK_SHIFT`).
pub const TICK_SHIFT: u32 = 20;

/// The wall clock has been set, or has drifted that far.
const MOVED_NS: i128 = 100_000_000;

/// Now on `CLOCK_MONOTONIC`, nanoseconds.
pub fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// Turns the kernel's stamps into UTC. Taken anew now and then, so that a stepped wall clock is followed.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    /// UTC minus `CLOCK_MONOTONIC`, nanoseconds.
    offset_ns: i128,
}

impl WallClock {
    /// The offset between the clocks as it is now.
    pub fn now() -> Self {
        let monotonic = i128::from(monotonic_ns());
        Self { offset_ns: Timestamp::now().as_nanosecond() - monotonic }
    }

    /// UTC is ahead of `CLOCK_MONOTONIC` by so many nanoseconds.
    pub fn ahead_by(offset_ns: i128) -> Self {
        Self { offset_ns }
    }

    /// This one, unless the clock has moved against `now` by a tenth of a second: two readings differ by what passes between them, and
    /// equal times should stay equal.
    pub fn unless_moved(self, now: Self) -> Self {
        if (now.offset_ns - self.offset_ns).abs() > MOVED_NS { now } else { self }
    }

    /// The stamp on `CLOCK_MONOTONIC` of a time, nanoseconds; 0 when it was before this machine's start.
    pub fn monotonic_ns(&self, time: Timestamp) -> u64 {
        u64::try_from((time.as_nanosecond() - self.offset_ns).max(0)).unwrap_or(u64::MAX)
    }

    /// UTC of a stamp on `CLOCK_MONOTONIC`, to the microsecond.
    pub fn utc(&self, monotonic_ns: u64) -> Timestamp {
        let microseconds = (i128::from(monotonic_ns) + self.offset_ns).div_euclid(1000);
        i64::try_from(microseconds)
            .ok()
            .and_then(|us| Timestamp::from_microsecond(us).ok())
            .unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// A duration in nanoseconds; 584 years at most.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A duration in the kernel's tick unit, at least one.
pub fn ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos() >> TICK_SHIFT).unwrap_or(u32::MAX / 2).max(1)
}

/// The duration of so many ticks.
pub fn of_ticks(ticks: u32) -> Duration {
    Duration::from_nanos(u64::from(ticks) << TICK_SHIFT)
}

/// Ticks from one to a later; 0 if it is not later, since a packet may have come just now.
pub fn ticks_since(earlier: u32, later: u32) -> u32 {
    let passed = later.wrapping_sub(earlier);
    if passed > u32::MAX / 2 { 0 } else { passed }
}

/// The tick of a moment on `CLOCK_MONOTONIC`; wraps every 52 days, so compare by difference.
pub fn tick_of(monotonic_ns: u64) -> u32 {
    (monotonic_ns >> TICK_SHIFT) as u32
}

/// The latest moment not after `now_ns` that has this tick, nanoseconds.
pub fn ns_of_tick(tick: u32, now_ns: u64) -> u64 {
    let age = tick_of(now_ns).wrapping_sub(tick);
    // A coarse clock may run a tick ahead of `now` as it was read here.
    let age = if age > u32::MAX / 2 { 0 } else { age };
    ((now_ns >> TICK_SHIFT).saturating_sub(u64::from(age))) << TICK_SHIFT
}
