//! What was measured of a flow beyond its counters: round trips, waiting times, and signs of loss. `[0]` is the opener's
//! side, `[1]` the other.

use super::record::RttSummary;

/// Buckets of the histogram of round trips (`NM_LANES`).
pub const LANES: usize = 12;

/// Round trips between here and one side, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rtt {
    /// Number of samples.
    pub samples: u32,
    /// Smallest.
    pub min_us: u32,
    /// Largest.
    pub max_us: u32,
    /// Their sum.
    pub sum_us: u64,
}

impl Rtt {
    /// As users read it; `None` without samples.
    pub fn summary(&self) -> Option<RttSummary> {
        (self.samples > 0).then(|| RttSummary {
            min: u64::from(self.min_us),
            mean: self.sum_us / u64::from(self.samples),
            max: u64::from(self.max_us),
            samples: u64::from(self.samples),
        })
    }
}

/// What one side of a TCP connection has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// From here to this side and back.
    pub rtt: Rtt,
    /// Segments that it sent again.
    pub retransmits: u32,
    /// Segments of it that came out of order.
    pub out_of_order: u32,
    /// Times that it announced a window of 0.
    pub zero_windows: u16,
    /// Times that it repeated an acknowledgement three times or more.
    pub repeated_acks: u16,
    /// What its own kernel thinks of the whole way, microseconds; 0 = not a socket of this host.
    pub srtt_us: u32,
}

/// All that was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// By side.
    pub sides: [Side; 2],
    /// SYN to SYN+ACK, microseconds.
    pub answer_us: Option<u32>,
    /// First payload of the opener to the first one after it of the other side, microseconds.
    pub first_byte_us: Option<u32>,
}

impl Measured {
    /// The whole way: both halves added. One alone stands for both when the other was never measured.
    pub fn rtt(&self) -> Option<RttSummary> {
        match self.sides.map(|side| side.rtt.summary()) {
            [Some(src), Some(dst)] => Some(RttSummary {
                min: src.min + dst.min,
                mean: src.mean + dst.mean,
                max: src.max.max(dst.max).max(src.mean + dst.mean),
                samples: src.samples + dst.samples,
            }),
            [one, other] => one.or(other),
        }
    }
}

/// Round trips that are new since the last word about a flow: how many by bucket, and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewRtts {
    /// Samples by bucket of `features.latency_tracking.histogram_buckets`; what is beyond the last bound comes last.
    pub buckets: [u16; LANES],
    /// Their sum, microseconds.
    pub sum_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_way_is_both_halves() {
        let half = |samples, min_us, max_us, sum_us| Side {
            rtt: Rtt { samples, min_us, max_us, sum_us },
            ..Side::default()
        };
        let measured =
            Measured { sides: [half(2, 10, 30, 40), half(3, 100, 400, 600)], ..Measured::default() };
        assert_eq!(measured.rtt(), Some(RttSummary { min: 110, mean: 220, max: 400, samples: 5 }));
        let one = Measured { sides: [Side::default(), half(1, 100, 100, 100)], ..Measured::default() };
        assert_eq!(one.rtt(), Some(RttSummary { min: 100, mean: 100, max: 100, samples: 1 }));
        assert_eq!(Measured::default().rtt(), None);
    }
}
