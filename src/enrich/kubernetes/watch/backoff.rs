//! When to try again: soon at first, then ever more seldom, never all agents of a cluster at once.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// What a server may ask for by `Retry-After` at most; a longer wait is its word no more, but ours.
const ASKED_MAX: Duration = Duration::from_secs(120);

/// Counts attempts in vain.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failed: u32,
}

impl Backoff {
    /// The first wait is `first` at most, none is longer than `most` unless the server asks for it.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failed: 0 }
    }

    /// It has worked.
    pub fn reset(&mut self) {
        self.failed = 0;
    }

    /// How long to wait now; `asked`: what the server has asked for.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let bound = self.first.saturating_mul(1 << self.failed.min(16)).min(self.most);
        self.failed = self.failed.saturating_add(1);
        let asked = asked.unwrap_or_default().min(ASKED_MAX);
        // Those who are told the same come back spread over a while, too.
        asked + bound.mul_f64(share())
    }
}

/// A random number from 0 up to 1.
pub(super) fn share() -> f64 {
    // Each state has keys of its own: the standard library's randomness without a crate for it.
    let bits = RandomState::new().build_hasher().finish() >> 11;
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(250);
    const MOST: Duration = Duration::from_secs(30);

    #[test]
    fn waits_grow_to_their_bound_and_begin_anew_after_success() {
        let longest = |tries: u32| {
            (0..200)
                .map(|_| {
                    let mut backoff = Backoff::new(FIRST, MOST);
                    (0..tries).map(|_| backoff.next(None)).last().unwrap_or_default()
                })
                .max()
                .unwrap_or_default()
        };
        assert!(longest(1) <= FIRST);
        assert!(longest(4) <= FIRST * 8 && longest(4) > FIRST * 2);
        assert!(longest(50) <= MOST && longest(50) > MOST / 2);
        let mut backoff = Backoff::new(FIRST, MOST);
        let _ = (0..20).map(|_| backoff.next(None)).count();
        backoff.reset();
        assert!(backoff.next(None) <= FIRST);
    }

    #[test]
    fn waits_are_spread() {
        let mut waits: Vec<Duration> = (0..50).map(|_| Backoff::new(FIRST, MOST).next(None)).collect();
        waits.sort();
        waits.dedup();
        assert!(waits.len() > 40, "{waits:?}");
    }

    #[test]
    fn what_the_server_asks_for_is_kept_within_reason() {
        let asked = Backoff::new(FIRST, MOST).next(Some(Duration::from_secs(7)));
        assert!((Duration::from_secs(7)..=Duration::from_secs(7) + FIRST).contains(&asked));
        assert!(Backoff::new(FIRST, MOST).next(Some(Duration::MAX)) <= ASKED_MAX + FIRST);
    }
}
