//! How many different things somebody has tried within a window, for many somebodies, in bounded memory.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::flow::update::Flow;

/// Places of one sketch.
const PLACES: usize = 8192;
/// Flows kept as examples.
pub const EXAMPLES: usize = 5;
/// Bits of a bitmap; linear counting (Whang et al. 1990) tells up to some hundred distinct values within a few per cent.
const BITS: u32 = 256;

#[derive(Clone, Copy, Debug)]
struct Place {
    since_ns: u64,
    bits: [u64; BITS as usize / 64],
    found: Found,
}

/// What was tried within the window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Found {
    /// Different values, about.
    pub distinct: u32,
    /// Attempts that led to nothing.
    pub in_vain: u32,
    /// Attempts that led somewhere.
    pub answered: u32,
    /// First attempt, nanoseconds of `CLOCK_MONOTONIC`.
    pub first_ns: u64,
    /// Last attempt.
    pub last_ns: u64,
    /// Ids of flows; 0 = none.
    pub examples: [u64; EXAMPLES],
}

/// The sketch.
#[derive(Debug)]
pub struct Spread<K> {
    window_ns: u64,
    places: HashMap<K, Place>,
    untracked: u64,
    /// When places were cleared last: a full sketch is not searched for each observation.
    cleared_ns: u64,
}

/// A value's hash, the same in every run.
pub fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl<K: Hash + Eq> Spread<K> {
    /// Counts within windows of this length.
    pub fn new(window: Duration) -> Self {
        let window_ns = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        Self { window_ns, places: HashMap::new(), untracked: 0, cleared_ns: 0 }
    }

    /// Notes that `who` tried `what`; the window so far when it was in vain. What led somewhere is noted only of those who have
    /// tried something in vain.
    pub fn observe(&mut self, who: K, what: u64, in_vain: bool, flow: &Flow) -> Option<Found> {
        let now_ns = flow.end_ns;
        if !in_vain {
            if !self.places.is_empty()
                && let Some(place) = self.places.get_mut(&who)
            {
                place.found.answered = place.found.answered.saturating_add(1);
            }
            return None;
        }
        if self.places.len() >= PLACES && !self.places.contains_key(&who) && !self.make_room(now_ns) {
            self.untracked += 1;
            return None;
        }
        let fresh = Place {
            since_ns: now_ns,
            bits: [0; BITS as usize / 64],
            found: Found { first_ns: flow.start_ns, ..Found::default() },
        };
        let place = self.places.entry(who).or_insert(fresh);
        if now_ns.saturating_sub(place.since_ns) > self.window_ns {
            *place = fresh;
        }
        let bit = (hash(&what) % u64::from(BITS)) as usize;
        let is_new = place.bits[bit / 64] & 1 << (bit % 64) == 0;
        place.bits[bit / 64] |= 1 << (bit % 64);
        let found = &mut place.found;
        if is_new && let Some(free) = found.examples.iter_mut().find(|example| **example == 0) {
            *free = flow.id;
        }
        found.in_vain = found.in_vain.saturating_add(1);
        found.last_ns = found.last_ns.max(now_ns);
        let zeros = place.bits.iter().map(|word| word.count_zeros()).sum::<u32>().max(1);
        found.distinct = (f64::from(BITS) * (f64::from(BITS) / f64::from(zeros)).ln()).round() as u32;
        Some(*found)
    }

    /// Gives up places whose window is over, once a second at most.
    fn make_room(&mut self, now_ns: u64) -> bool {
        if now_ns.saturating_sub(self.cleared_ns) < 1_000_000_000 {
            return false;
        }
        self.cleared_ns = now_ns;
        let window_ns = self.window_ns;
        self.places.retain(|_, place| now_ns.saturating_sub(place.since_ns) <= window_ns);
        self.places.len() < PLACES
    }

    /// Observations that found no place.
    pub fn untracked(&self) -> u64 {
        self.untracked
    }
}
