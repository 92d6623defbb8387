//! What a system is made of.

use crate::aws::dynamodb::DynamoDbOptions;
use crate::aws::environments::ClassicLimits;
use crate::aws::lambda::{INVOKE_LIMIT, MAX_INVOCATIONS};
use crate::aws::schedule::{self, Plan, Since};
use crate::aws::sockets::SocketLimits;
use crate::system::intake::Intake;
use crate::system::regions::WorldRegion;
use std::path::PathBuf;
use std::time::Duration;

/// Options of a system.
#[derive(Clone, Debug)]
pub struct Options {
    /// The regions, main first.
    pub regions: Vec<RegionOptions>,
    /// The interval of the schedules of drain, worker, shop-events and live-publish: a minute on AWS. A run is longer.
    pub run_every: Duration,
    /// What decides how late each start of a schedule is, and which are lost.
    pub schedule_seed: u64,
    /// How orders get to main.
    pub intake: Intake,
    /// What the documents leave open about the tables of the order logs.
    pub tables: DynamoDbOptions,
    /// The processes of order-intake in each region, of which each serves one order at a time.
    pub classic: Option<ClassicLimits>,
    /// Otherwise: requests that its one process serves at once.
    pub intake_concurrency: u32,
    /// The processes of checkout-drain and order-confirm on classic Lambda, if invocations are to be throttled, and killed
    /// at the function's time limit. Otherwise one process of each always runs.
    pub limits_in_main: Option<ClassicLimits>,
    /// How long a gateway waits for a function.
    pub answer_limit: Duration,
    /// The folder of the built functions; by default the folder of this program.
    pub binaries: Option<PathBuf>,
    /// Additional environment variables of the functions of main alone.
    pub of_main: Vec<(String, String)>,
    /// Limits of the WebSocket API; without them there are no live updates.
    pub live: Option<SocketLimits>,
    /// Additional environment variables of the functions of every region that buyers call.
    pub of_edges: Vec<(String, String)>,
    /// Additional environment variables of live-publish.
    pub of_publish: Vec<(String, String)>,
    /// Web origins whose pages may call the gateways.
    pub origins: Vec<String>,
    /// The address of the bus called [`EVENT_BUS`](super::EVENT_BUS), to which shop-events publishes; without it no event
    /// is written.
    pub event_bus: Option<String>,
}

/// Options of one region.
#[derive(Clone, Debug)]
pub struct RegionOptions {
    pub region: WorldRegion,
    /// Offset of the gateway's clock, in milliseconds.
    pub gateway_clock_offset_ms: i64,
    /// Words before the programs of the functions, for example `faketime`.
    pub wrapper: Vec<String>,
}

impl Options {
    /// Options for `regions`, main first, with exact clocks.
    pub fn for_regions(regions: Vec<WorldRegion>) -> Self {
        let exact = |region| RegionOptions { region, gateway_clock_offset_ms: 0, wrapper: Vec::new() };
        Self {
            regions: regions.into_iter().map(exact).collect(),
            run_every: Duration::from_secs(60),
            schedule_seed: schedule::seed(),
            intake: Intake::Direct,
            tables: DynamoDbOptions::default(),
            classic: None,
            intake_concurrency: MAX_INVOCATIONS,
            limits_in_main: None,
            answer_limit: INVOKE_LIMIT,
            binaries: None,
            of_main: Vec::new(),
            live: None,
            of_edges: Vec::new(),
            of_publish: Vec::new(),
            origins: Vec::new(),
            event_bus: None,
        }
    }

    /// The schedule of a function that runs in a loop.
    pub fn plan<'a>(&self, function: &'static str, region: &'a str) -> Plan<'a> {
        let (interval, seed) = (self.run_every, self.schedule_seed);
        Plan { function, region, interval, seed, since: Since::LongAgo }
    }
}
