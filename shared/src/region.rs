//! The region in which a stamp was taken, encoded in the stamp itself.
//!
//! An audit must show the region of each order. A second key would cost every order another call on main during the
//! rush. So the last six bits of a stamp contain the region's number. This makes a stamp coarser by at most 64 µs, a
//! sixteenth of the difference between synchronised clocks, and shifts it by at most as much. The numbers rotate by
//! one every 64 µs, so that no region is ahead of another if stamps are close.

use crate::stamp::Stamp;

/// The regions by number. A number is never assigned to another region, so that old stamps keep their meaning.
/// Number 0 is any region that is not in the list.
const REGIONS: [&str; 39] = [
    "",
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
    "af-south-1",
    "ap-east-1",
    "ap-east-2",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-south-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ap-southeast-4",
    "ap-southeast-5",
    "ap-southeast-6",
    "ap-southeast-7",
    "ca-central-1",
    "ca-west-1",
    "eu-central-1",
    "eu-central-2",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "il-central-1",
    "me-central-1",
    "me-south-1",
    "mx-central-1",
    "sa-east-1",
    "us-gov-east-1",
    "us-gov-west-1",
    "cn-north-1",
    "cn-northwest-1",
];

const BITS: u32 = 6;
const MASK: u64 = (1 << BITS) - 1;

/// A region's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionNumber(u64);

impl RegionNumber {
    /// The number of the region called `name`.
    pub fn named(name: &str) -> Self {
        let number = REGIONS.iter().position(|known| *known == name).unwrap_or(0);
        Self(number as u64)
    }

    /// `stamp` with this region's number: at most 63 µs off.
    pub fn encode_in(self, stamp: Stamp) -> Stamp {
        let tick = stamp.as_micros() >> BITS;
        let encoded = (tick << BITS) | ((self.0 + tick) & MASK);
        // Only the last bits change, and the limit is a power of two.
        Stamp::from_micros(encoded).unwrap_or(stamp)
    }

    /// The name of the region whose number `stamp` contains; empty for number 0.
    pub fn of(stamp: Stamp) -> &'static str {
        let tick = stamp.as_micros() >> BITS;
        let number = stamp.as_micros().wrapping_sub(tick) & MASK;
        usize::try_from(number).ok().and_then(|number| REGIONS.get(number)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_region_is_read_back_from_every_stamp() {
        for (number, name) in REGIONS.iter().enumerate() {
            for micros in (1_795_000_000_000_000..1_795_000_000_020_000).step_by(7) {
                let stamp = Stamp::from_micros(micros).unwrap();
                let encoded = RegionNumber::named(name).encode_in(stamp);
                assert_eq!(RegionNumber::of(encoded), *name, "{number} {micros}");
                assert!(encoded.micros_since(stamp).abs() < 64);
            }
        }
        assert_eq!(RegionNumber::named("moon-1"), RegionNumber::default());
    }

    #[test]
    fn no_region_is_ahead_of_another() {
        let (one, other) = (RegionNumber::named("us-east-1"), RegionNumber::named("cn-northwest-1"));
        let ahead = (0..64_u64)
            .filter(|tick| {
                let stamp = Stamp::from_micros(1_795_000_000_000_000 + (tick << BITS)).unwrap();
                one.encode_in(stamp) < other.encode_in(stamp)
            })
            .count();
        // 37 numbers apart: ahead in 27 of 64 ticks, behind in 37, and the other way
        // round by the same few microseconds; over a window of 64 ticks the sum is zero.
        let sum: i64 = (0..64_u64)
            .map(|tick| {
                let stamp = Stamp::from_micros(1_795_000_000_000_000 + (tick << BITS)).unwrap();
                one.encode_in(stamp).micros_since(other.encode_in(stamp))
            })
            .sum();
        assert_eq!((ahead, sum), (27, 0));
    }

    #[test]
    fn a_number_is_assigned_once() {
        let mut names = REGIONS.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), REGIONS.len());
        assert!(REGIONS.len() <= MASK as usize);
    }
}
