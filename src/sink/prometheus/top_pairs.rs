//! Bytes by address pair, or by another label, for the heaviest; what the cap folds away is `other`, and the sum is exact.
//!
//! Space-saving (Metwally, Agrawal, El Abbadi 2005): a newcomer takes the place of the lightest and inherits its
//! rank. What is shown is only what was counted while a pair had a place; when it loses it, that goes to `other`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

/// Sender and receiver.
pub type Pair = (IpAddr, IpAddr);

#[derive(Clone, Copy, Debug)]
struct Place {
    /// Upper bound of all that the pair has sent.
    rank: u64,
    /// What was counted since it has its place, bytes.
    counted: u64,
}

/// The sketch.
#[derive(Debug)]
pub struct TopPairs<K = Pair> {
    cap: usize,
    places: HashMap<K, Place>,
    /// Each pair once, with a rank that it had some time ago: ranks only grow, so whoever is on top and has its rank
    /// still is the lightest.
    lightest: BinaryHeap<Reverse<(u64, K)>>,
    other: u64,
}

impl<K: Clone + Eq + Hash + Ord> TopPairs<K> {
    /// With so many places.
    pub fn new(cap: usize) -> Self {
        Self { cap: cap.max(1), places: HashMap::new(), lightest: BinaryHeap::new(), other: 0 }
    }

    /// How many places.
    pub fn cap(&self) -> usize {
        self.cap
    }

    /// Changes it; the lightest give way.
    pub fn set_cap(&mut self, cap: usize) {
        self.cap = cap.max(1);
        while self.places.len() > self.cap {
            self.give_up_lightest();
        }
    }

    /// Counts bytes of a pair.
    pub fn add(&mut self, pair: K, bytes: u64) {
        if bytes == 0 {
            return;
        }
        if let Some(place) = self.places.get_mut(&pair) {
            place.rank += bytes;
            place.counted += bytes;
            return;
        }
        let inherited = if self.places.len() < self.cap { 0 } else { self.give_up_lightest() };
        let place = Place { rank: inherited + bytes, counted: bytes };
        self.lightest.push(Reverse((place.rank, pair.clone())));
        self.places.insert(pair, place);
    }

    /// Takes the lightest pair's place away; its rank.
    fn give_up_lightest(&mut self) -> u64 {
        while let Some(mut top) = self.lightest.peek_mut() {
            let Reverse((rank, pair)) = &mut *top;
            let now = self.places.get(pair).map_or(*rank, |place| place.rank);
            if now > *rank {
                *rank = now;
                continue;
            }
            let Reverse((rank, pair)) = std::collections::binary_heap::PeekMut::pop(top);
            self.other += self.places.remove(&pair).map_or(0, |place| place.counted);
            return rank;
        }
        0
    }

    /// Takes the places of these away.
    pub fn let_go(&mut self, mut leaves: impl FnMut(&K) -> bool) {
        let before = self.places.len();
        let other = &mut self.other;
        self.places.retain(|pair, place| {
            let leaves = leaves(pair);
            *other += if leaves { place.counted } else { 0 };
            !leaves
        });
        if self.places.len() < before {
            let ranks = self.places.iter().map(|(pair, place)| Reverse((place.rank, pair.clone())));
            self.lightest = ranks.collect();
        }
    }

    /// Pairs and their bytes.
    pub fn pairs(&self) -> impl Iterator<Item = (&K, u64)> {
        self.places.iter().map(|(pair, place)| (pair, place.counted))
    }

    /// Bytes of all pairs without a place.
    pub fn other(&self) -> u64 {
        self.other
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(n: u8) -> Pair {
        (IpAddr::from([10, 0, 0, n]), IpAddr::from([10, 0, 1, n]))
    }

    proptest! {
        #[test]
        fn the_lightest_gives_way(adds in proptest::collection::vec((0u8..30, 1u64..1000), 0..500)) {
            let mut top = TopPairs::new(8);
            for (n, bytes) in adds {
                let ranks: HashMap<Pair, u64> = top.places.iter().map(|(pair, place)| (*pair, place.rank)).collect();
                top.add(pair(n), bytes);
                if let Some((_, lost)) = ranks.iter().find(|(pair, _)| !top.places.contains_key(pair)) {
                    prop_assert_eq!(Some(lost), ranks.values().min());
                }
            }
        }

        #[test]
        fn the_sum_is_exact_and_the_cap_holds(adds in proptest::collection::vec((any::<u8>(), 0u64..1_000_000), 0..500), cap in 1usize..20) {
            let mut top = TopPairs::new(cap);
            for (n, bytes) in &adds {
                top.add(pair(*n), *bytes);
            }
            let shown: u64 = top.pairs().map(|(_, bytes)| bytes).sum();
            prop_assert_eq!(shown + top.other(), adds.iter().map(|(_, bytes)| bytes).sum::<u64>());
            prop_assert!(top.pairs().count() <= cap);
        }
    }

    #[test]
    fn a_smaller_cap_keeps_the_heaviest_and_the_sum() {
        let mut top = TopPairs::new(8);
        (1..=8).for_each(|n| top.add(pair(n), 100 * u64::from(n)));
        top.set_cap(2);
        let shown: HashMap<Pair, u64> = top.pairs().map(|(pair, bytes)| (*pair, bytes)).collect();
        assert_eq!(shown, HashMap::from([(pair(7), 700), (pair(8), 800)]));
        assert_eq!(top.other(), 2100);
        top.set_cap(3);
        top.add(pair(1), 5);
        assert_eq!(top.pairs().count(), 3);
    }

    #[test]
    fn heavy_pairs_keep_their_places() {
        let mut top = TopPairs::new(4);
        for round in 0..1000u64 {
            top.add(pair(1), 10_000);
            top.add(pair(2), 5_000);
            top.add(pair(3 + (round % 200) as u8), 10);
        }
        let shown: HashMap<Pair, u64> = top.pairs().map(|(pair, bytes)| (*pair, bytes)).collect();
        assert_eq!(shown.get(&pair(1)), Some(&10_000_000));
        assert_eq!(shown.get(&pair(2)), Some(&5_000_000));
    }
}
