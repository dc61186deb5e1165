//! Bytes by address pair, for the heaviest pairs; what the cap folds away is `other`, and the sum is exact.
//!
//! Space-saving (Metwally, Agrawal, El Abbadi 2005): a newcomer takes the place of the lightest and inherits its
//! rank. What is shown is only what was counted while a pair had a place; when it loses it, that goes to `other`.

use std::collections::{BTreeSet, HashMap};
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
pub struct TopPairs {
    cap: usize,
    places: HashMap<Pair, Place>,
    by_rank: BTreeSet<(u64, Pair)>,
    other: u64,
}

impl TopPairs {
    /// With so many places.
    pub fn new(cap: usize) -> Self {
        Self { cap: cap.max(1), places: HashMap::new(), by_rank: BTreeSet::new(), other: 0 }
    }

    /// Counts bytes of a pair.
    pub fn add(&mut self, pair: Pair, bytes: u64) {
        if bytes == 0 {
            return;
        }
        if let Some(place) = self.places.get_mut(&pair) {
            self.by_rank.remove(&(place.rank, pair));
            place.rank += bytes;
            place.counted += bytes;
            self.by_rank.insert((place.rank, pair));
            return;
        }
        let mut inherited = 0;
        if self.places.len() >= self.cap
            && let Some((rank, lightest)) = self.by_rank.pop_first()
        {
            inherited = rank;
            self.other += self.places.remove(&lightest).map_or(0, |place| place.counted);
        }
        let place = Place { rank: inherited + bytes, counted: bytes };
        self.by_rank.insert((place.rank, pair));
        self.places.insert(pair, place);
    }

    /// Pairs and their bytes.
    pub fn pairs(&self) -> impl Iterator<Item = (&Pair, u64)> {
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
