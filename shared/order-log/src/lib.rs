//! The order log: one DynamoDB table in each region, the durable record of every order that the region accepts.
//!
//! `order-intake` [appends](OrderLog::append) a record before it answers the buyer. The table's stream carries the record
//! to `order-place`, which places the order in main's queue with the stamp of the record. Main decides; `order-place`
//! writes a [refusal](OrderLog::refuse) back.
//!
//! | attribute | value |
//! |---|---|
//! | `item_bucket` | partition key: `{item_id}#{bucket}`. The bucket is the first byte of SHA-256(`user_token`) in two hex digits, so that one item is spread over 256 keys |
//! | `buyer_stamp` | sort key: `{user_token}#{placed_at}`, with 16 digits. A repeated write with one stamp is one record |
//! | `kind` | `order` or `leave` |
//! | `expires_at` | seconds since the Unix epoch, for the table's time to live |
//! | `outcome`, `reason`, `decided_at` | absent, or `refused`, why, and when |

mod attempts;
mod erase;
mod error;
mod logs;
mod read;
mod record;
mod undecided;
mod write;

pub use attempts::CallLimits;
pub use error::OrderLogError;
pub use logs::RegionLog;
pub use read::Bucket;
pub use record::{LogRecord, Malformed, RETENTION, RecordKind, Refusal, RefusalReason};
pub use undecided::{Accepted, may_be_accepted};

use attempts::OF_WRITES;
use aws_sdk_dynamodb::Client;
use sdk::{Region, RetryConfig, SdkConfigBuilder, TimeLimits};
use shared::config::{self, ConfigError, Source};
use shared::queue::MAX_WINDOW;
use shared::stamp::Stamp;
use std::time::Duration;

/// In addition to the longest window of an order: a record travels, is read, and is repeated.
const DECISION_MARGIN: Duration = Duration::from_secs(5);

/// Until when an order stamped `placed_at` is decided, if main can be reached. After that, the truth is in main's queue or
/// in the record.
pub fn decided_by(placed_at: Stamp) -> Stamp {
    placed_at.saturating_add(MAX_WINDOW + DECISION_MARGIN)
}

/// How much the clocks of two machines of a region may differ: the stamps of an order and of its withdrawal come from
/// different ones. An order that is newer than a withdrawal by no more than this counts as withdrawn.
pub const WITHDRAWAL_SKEW: Duration = Duration::from_millis(100);

/// The table is in the same region.
const HERE: TimeLimits = TimeLimits {
    connect: Duration::from_millis(300),
    attempt: Duration::from_secs(2),
    call: Duration::from_secs(2),
};
/// The table may be on another continent, and an answer may have 1 MB.
const DISTANT: TimeLimits = TimeLimits {
    connect: Duration::from_secs(3),
    attempt: Duration::from_secs(10),
    call: Duration::from_secs(10),
};

/// A region's order log.
#[derive(Clone, Debug)]
pub struct OrderLog {
    client: Client,
    table: String,
    limits: CallLimits,
}

impl OrderLog {
    /// The table named by `FAIRDROP_ORDER_LOG_TABLE`, in the process's region; `None` if the variable is not set.
    /// Nothing is connected yet.
    pub fn from_config(source: Source) -> Result<Option<Self>, ConfigError> {
        let Some(table) = config::optional(source, "FAIRDROP_ORDER_LOG_TABLE") else { return Ok(None) };
        Ok(Some(Self::new(sdk::defaults(), &config::region(source)?, &table)))
    }

    /// The table `name` in `region`, with the credentials of `aws`.
    pub fn new(aws: SdkConfigBuilder, region: &str, name: &str) -> Self {
        Self::with_time_limits(aws, region, name, HERE)
    }

    fn with_time_limits(aws: SdkConfigBuilder, region: &str, name: &str, limits: TimeLimits) -> Self {
        // The SDK repeats nothing: its error would not say whether an earlier attempt was perhaps executed.
        let config = aws
            .region(Region::new(region.to_owned()))
            .timeout_config(limits.timeouts())
            .retry_config(RetryConfig::disabled())
            .build();
        Self { client: Client::new(&config), table: name.to_owned(), limits: OF_WRITES }
    }

    /// The same table, with other limits of a write.
    pub fn with_limits(self, limits: CallLimits) -> Self {
        Self { limits, ..self }
    }
}
