//! What a table and its partitions take in a second.
//!
//! A partition takes 1,000 write units and 3,000 read units a second. A table on demand begins with four of them, as its
//! 4,000 writes and 12,000 reads say, and has more with warm throughput. DynamoDB splits partitions that stay hot, and keeps
//! up to 300 s of unused capacity; no document promises either within the seconds of an opening, so that this stand-in
//! has neither.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

pub(super) const PARTITION_WRITES: u32 = 1_000;
const PARTITION_READS: u32 = 3_000;
/// What a new table on demand takes at once.
pub(super) const INITIAL_WRITES: u32 = 4_000;
pub(super) const INITIAL_READS: u32 = 12_000;
const WRITE_UNIT_BYTES: usize = 1_024;
const READ_UNIT_BYTES: usize = 4_096;

/// Units that flow in at a rate; a second's worth can be kept.
#[derive(Debug)]
struct Bucket {
    rate: f64,
    units: f64,
    at: Instant,
}

impl Bucket {
    fn new(rate: u32, now: Instant) -> Self {
        Self { rate: rate.into(), units: rate.into(), at: now }
    }

    /// Takes `units`, unless nothing is left. A call that is larger than what is left is still executed, and the next
    /// calls wait for it.
    fn take(&mut self, units: f64, now: Instant) -> bool {
        let flown = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        (self.units, self.at) = ((self.units + flown).min(self.rate), now);
        let has_room = self.units >= units.min(1.0);
        if has_room {
            self.units -= units;
        }
        has_room
    }
}

/// The partitions of a table.
#[derive(Debug)]
pub(super) struct Throughput {
    /// Writes and reads of each.
    partitions: Vec<(Bucket, Bucket)>,
    seed: u64,
}

/// A kind of units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Units {
    Write,
    Read,
}

impl Units {
    /// The reason that a throttled call is given.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Write => "TableWriteKeyRangeThroughputExceeded",
            Self::Read => "TableReadKeyRangeThroughputExceeded",
        }
    }
}

impl Throughput {
    /// For a table that is warm for `writes` a second.
    pub(super) fn new(writes: u32, seed: u64, now: Instant) -> Self {
        let count = writes.max(INITIAL_WRITES).div_ceil(PARTITION_WRITES);
        let partition = |_| (Bucket::new(PARTITION_WRITES, now), Bucket::new(PARTITION_READS, now));
        Self { partitions: (0..count).map(partition).collect(), seed }
    }

    pub(super) fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// The partition in which a key lies.
    pub(super) fn partition_of(&self, key: &str) -> usize {
        let mut hasher = DefaultHasher::new();
        (self.seed, key).hash(&mut hasher);
        hasher.finish() as usize % self.partitions.len().max(1)
    }

    /// Takes units of a partition; `false` if the call is throttled.
    pub(super) fn take(&mut self, partition: usize, kind: Units, units: f64, now: Instant) -> bool {
        match (self.partitions.get_mut(partition), kind) {
            (Some((writes, _)), Units::Write) => writes.take(units, now),
            (Some((_, reads)), Units::Read) => reads.take(units, now),
            (None, _) => false,
        }
    }
}

/// The units of a write of an item of this size.
pub(super) fn write_units(bytes: usize) -> f64 {
    bytes.div_ceil(WRITE_UNIT_BYTES).max(1) as f64
}

/// The units of a read of this size.
pub(super) fn read_units(bytes: usize, is_consistent: bool) -> f64 {
    let units = bytes.div_ceil(READ_UNIT_BYTES).max(1) as f64;
    if is_consistent { units } else { units / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_partition_takes_a_thousand_writes_a_second() {
        let now = Instant::now();
        let mut throughput = Throughput::new(0, 7, now);
        assert_eq!(throughput.partitions(), 4);
        assert_eq!(Throughput::new(20_500, 7, now).partitions(), 21);
        let mut taken = |after: u64, kind, units| {
            let at = now + Duration::from_millis(after);
            (0..10_000).filter(|_| throughput.take(1, kind, units, at)).count()
        };
        assert_eq!(taken(0, Units::Write, 1.0), 1_000);
        assert_eq!(taken(500, Units::Write, 1.0), 500);
        assert_eq!(taken(1_000, Units::Write, 2.0), 250);
        assert_eq!(taken(60_000, Units::Write, 1.0), 1_000, "nothing is saved for later");
        assert_eq!(taken(60_000, Units::Read, 0.5), 6_000);
        assert!(throughput.take(2, Units::Write, 1.0, now), "each partition has its own");
    }

    #[test]
    fn units_are_rounded_up() {
        assert_eq!([write_units(0), write_units(1_024), write_units(1_025)], [1.0, 1.0, 2.0]);
        assert_eq!([read_units(0, true), read_units(4_097, true), read_units(4_097, false)], [1.0, 2.0, 1.0]);
    }
}
