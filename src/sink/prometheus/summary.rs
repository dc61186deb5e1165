//! Quantiles of the last minutes: two histograms with buckets of 3 % width that take turns.

use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(60);
/// Buckets a doubling: 2^(1/24) is 2.9 %.
const STEPS: f64 = 24.0;
/// From a nanosecond to twelve days.
const BUCKETS: usize = 24 * 50;

/// A summary of durations.
#[derive(Debug)]
pub struct Summary {
    young: Vec<u32>,
    old: Vec<u32>,
    turned: Instant,
    count: u64,
    sum_ns: u64,
}

impl Default for Summary {
    fn default() -> Self {
        Self { young: vec![0; BUCKETS], old: vec![0; BUCKETS], turned: Instant::now(), count: 0, sum_ns: 0 }
    }
}

impl Summary {
    /// Takes `times` observations of the same duration.
    pub fn observe(&mut self, duration: Duration, times: u32) {
        if times == 0 {
            return;
        }
        if self.turned.elapsed() > WINDOW {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.fill(0);
            self.turned = Instant::now();
        }
        let ns = crate::clock::nanoseconds(duration);
        let bucket = ((ns.max(1) as f64).log2() * STEPS) as usize;
        if let Some(bucket) = self.young.get_mut(bucket.min(BUCKETS - 1)) {
            *bucket = bucket.saturating_add(times);
        }
        self.count += u64::from(times);
        self.sum_ns = self.sum_ns.saturating_add(ns.saturating_mul(u64::from(times)));
    }

    /// The duration that a share of the window's observations don't exceed, seconds; NaN when there is none.
    pub fn quantile(&self, share: f64) -> f64 {
        let total: u64 = self.young.iter().chain(&self.old).map(|n| u64::from(*n)).sum();
        let wanted = ((total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, (young, old)) in self.young.iter().zip(&self.old).enumerate() {
            seen += u64::from(*young) + u64::from(*old);
            if seen >= wanted {
                return ((bucket + 1) as f64 / STEPS).exp2() / 1e9;
            }
        }
        f64::NAN
    }

    /// Observations since start.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum, seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_three_percent() {
        let mut summary = Summary::default();
        for us in 1..=1000u64 {
            summary.observe(Duration::from_micros(us), 1);
        }
        for (share, expected) in [(0.5, 500e-6), (0.9, 900e-6), (0.99, 990e-6)] {
            let found = summary.quantile(share);
            assert!((found / expected - 1.0).abs() < 0.04, "{share}: {found}");
        }
        assert_eq!(summary.count(), 1000);
        assert!((summary.sum_seconds() - 0.5005).abs() < 1e-9);
        assert!(Summary::default().quantile(0.5).is_nan());
    }
}
