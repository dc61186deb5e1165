//! What is known of many somebodies, in bounded memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

/// Places at most.
const PLACES: usize = 8192;
/// A full house is searched for those that may go this often, not for each newcomer: nanoseconds.
const CLEAR_EVERY_NS: u64 = 1_000_000_000;

/// A place for each somebody, as long as there is room.
#[derive(Debug)]
pub struct Places<K, V> {
    held: HashMap<K, V>,
    untracked: u64,
    cleared_ns: u64,
}

impl<K, V> Default for Places<K, V> {
    fn default() -> Self {
        Self { held: HashMap::new(), untracked: 0, cleared_ns: 0 }
    }
}

impl<K: Hash + Eq, V> Places<K, V> {
    /// The place of `who`, if there is one.
    pub fn known(&mut self, who: &K) -> Option<&mut V> {
        if self.held.is_empty() { None } else { self.held.get_mut(who) }
    }

    /// The place of `who`, a `fresh` one if need be; `None` when all are taken and none `may_go`.
    pub fn of(
        &mut self,
        who: K,
        now_ns: u64,
        may_go: impl Fn(&V) -> bool,
        fresh: impl FnOnce() -> V,
    ) -> Option<&mut V> {
        if self.held.len() >= PLACES && !self.held.contains_key(&who) {
            if now_ns.saturating_sub(self.cleared_ns) >= CLEAR_EVERY_NS {
                self.cleared_ns = now_ns;
                self.held.retain(|_, place| !may_go(place));
            }
            if self.held.len() >= PLACES {
                self.untracked += 1;
                return None;
            }
        }
        match self.held.entry(who) {
            Entry::Occupied(place) => Some(place.into_mut()),
            Entry::Vacant(place) => Some(place.insert(fresh())),
        }
    }

    /// Observations that found no place.
    pub fn untracked(&self) -> u64 {
        self.untracked
    }
}
