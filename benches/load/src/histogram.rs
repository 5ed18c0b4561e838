//! Latencies in a log-linear histogram: fixed memory, at most 0.8 % off, one increment to record.

/// Sub-buckets of one power of two.
const LINEAR: usize = 1 << LINEAR_BITS;
const LINEAR_BITS: u32 = 7;
/// Values from 2^37 ns (137 s) on share the last bucket; `max` stays exact.
const POWERS: usize = 37 - LINEAR_BITS as usize + 1;

pub struct Histogram {
    counts: Box<[u64]>,
    count: u64,
    maximum: u64,
}

impl Histogram {
    pub fn new() -> Self {
        Self { counts: vec![0; LINEAR * POWERS].into_boxed_slice(), count: 0, maximum: 0 }
    }

    pub fn record(&mut self, nanoseconds: u64) {
        self.counts[bucket(nanoseconds).min(LINEAR * POWERS - 1)] += 1;
        self.count += 1;
        self.maximum = self.maximum.max(nanoseconds);
    }

    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.count += other.count;
        self.maximum = self.maximum.max(other.maximum);
    }

    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.count = 0;
        self.maximum = 0;
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// The largest value, in nanoseconds.
    pub fn maximum(&self) -> u64 {
        self.maximum
    }

    /// The value below which `share` of all values lie, in nanoseconds; NaN when there are none.
    pub fn quantile(&self, share: f64) -> f64 {
        if self.count == 0 {
            return f64::NAN;
        }
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return middle(index).min(self.maximum as f64);
            }
        }
        self.maximum as f64
    }
}

fn bucket(value: u64) -> usize {
    if value < LINEAR as u64 {
        return value as usize;
    }
    let shift = 63 - value.leading_zeros() - LINEAR_BITS;
    ((shift as usize + 1) << LINEAR_BITS) + ((value >> shift) as usize - LINEAR)
}

fn middle(index: usize) -> f64 {
    if index < LINEAR {
        return index as f64;
    }
    let shift = (index >> LINEAR_BITS) - 1;
    let low = ((LINEAR + (index & (LINEAR - 1))) as u64) << shift;
    low as f64 + (1u64 << shift) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_found_again_within_one_percent() {
        for value in (0..5000).chain((5000..100_000_000_000).step_by(99_999_999)) {
            let found = middle(bucket(value));
            assert!((found - value as f64).abs() <= value as f64 * 0.008, "{value} became {found}");
        }
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        let mut last = 0;
        for value in 0..1_000_000 {
            let index = bucket(value);
            assert!(index == last || index == last + 1, "{value} jumped from {last} to {index}");
            last = index;
        }
    }

    #[test]
    fn quantiles_of_a_uniform_range_are_its_ranks() {
        let mut histogram = Histogram::new();
        (1..=10_000).for_each(|value| histogram.record(value));
        assert!((histogram.quantile(0.5) - 5000.0).abs() < 50.0);
        assert!((histogram.quantile(0.99) - 9900.0).abs() < 99.0);
        assert_eq!(histogram.quantile(1.0), 10_000.0);
        assert!(Histogram::new().quantile(0.5).is_nan());
    }

    #[test]
    fn a_value_beyond_the_range_is_counted() {
        let mut histogram = Histogram::new();
        histogram.record(u64::MAX);
        assert_eq!((histogram.count(), histogram.maximum()), (1, u64::MAX));
    }
}
