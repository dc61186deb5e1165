//! How many different things somebody has tried within a window.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::alert::Found;
use super::places::Places;
use crate::flow::update::Flow;

/// Bits of a bitmap; linear counting (Whang et al. 1990) tells up to some hundred distinct values within a few per cent.
const BITS: u32 = 256;

#[derive(Clone, Copy, Debug)]
struct Place {
    since_ns: u64,
    bits: [u64; BITS as usize / 64],
    found: Found,
}

/// The sketch.
#[derive(Debug)]
pub struct Spread<K> {
    window_ns: u64,
    places: Places<K, Place>,
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
        let window_ns = crate::clock::nanoseconds(window);
        Self { window_ns, places: Places::default() }
    }

    /// Notes that `who` tried `what`; the window so far when it was in vain. What led somewhere is noted only of those who have
    /// tried something in vain.
    pub fn observe(&mut self, who: K, what: &impl Hash, in_vain: bool, flow: &Flow) -> Option<Found> {
        let now_ns = flow.end_ns;
        if !in_vain {
            if let Some(place) = self.places.known(&who) {
                place.found.answered = place.found.answered.saturating_add(1);
            }
            return None;
        }
        let window_ns = self.window_ns;
        let over = |place: &Place| now_ns.saturating_sub(place.since_ns) > window_ns;
        let fresh = || Place { since_ns: now_ns, bits: [0; BITS as usize / 64], found: Found::since(flow) };
        let place = self.places.of(who, now_ns, over, fresh)?;
        if over(place) {
            *place = fresh();
        }
        let bit = (hash(what) % u64::from(BITS)) as usize;
        let is_new = place.bits[bit / 64] & 1 << (bit % 64) == 0;
        place.bits[bit / 64] |= 1 << (bit % 64);
        let found = &mut place.found;
        found.add(flow);
        if is_new {
            found.keep(flow);
            let zeros = place.bits.iter().map(|word| word.count_zeros()).sum::<u32>().max(1);
            found.distinct = (f64::from(BITS) * (f64::from(BITS) / f64::from(zeros)).ln()).round() as u32;
        }
        Some(*found)
    }

    /// Observations that found no place.
    pub fn untracked(&self) -> u64 {
        self.places.untracked()
    }
}
