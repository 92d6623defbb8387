//! The regions of the buyers, and their distance from main.

/// A region of the simulated world.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WorldRegion {
    /// The name that AWS uses.
    pub name: &'static str,
    /// Round trip to main, in milliseconds.
    pub round_trip_ms: f64,
}

/// The source of the figures in [`WORLD`].
pub const SOURCE: &str = "averages between AWS regions as published in \"AWS Regions\", \
    acomputerscientistlearnsaws.blogspot.com, 2017; main to itself: 1 ms assumed";

/// Main first, then four regions by their distance from main, then three more.
pub const WORLD: [WorldRegion; 8] = [
    WorldRegion { name: "us-east-1", round_trip_ms: 1.0 },
    WorldRegion { name: "eu-west-1", round_trip_ms: 80.5 },
    WorldRegion { name: "sa-east-1", round_trip_ms: 119.5 },
    WorldRegion { name: "ap-northeast-1", round_trip_ms: 145.3 },
    WorldRegion { name: "ap-southeast-2", round_trip_ms: 230.0 },
    WorldRegion { name: "us-west-2", round_trip_ms: 87.0 },
    WorldRegion { name: "eu-central-1", round_trip_ms: 88.7 },
    WorldRegion { name: "ap-southeast-1", round_trip_ms: 216.7 },
];

/// The first `count` regions of the world, main first.
pub fn first(count: usize) -> Vec<WorldRegion> {
    WORLD.iter().copied().take(count).collect()
}
