//! Configuration of AWS SDK clients: credentials, time limits, retries.
//!
//! Not in `shared`, since `order-intake` links no AWS SDK.

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use std::time::Duration;

/// The time limits of a client's calls.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// To connect.
    pub connect: Duration,
    /// One attempt.
    pub attempt: Duration,
    /// The whole call, with all attempts and the pauses between them.
    pub call: Duration,
}

impl TimeLimits {
    /// As the SDK takes them.
    pub fn timeouts(self) -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(self.connect)
            .operation_attempt_timeout(self.attempt)
            .operation_timeout(self.call)
            .build()
    }
}

/// The SDK's defaults, with the credentials of the environment.
pub fn defaults() -> ConfigLoader {
    aws_config::defaults(BehaviorVersion::latest())
}

/// Attempts of one call of a recovery function. Between two attempts the client waits, with jitter, up to 1, 2 and
/// 4 seconds.
const MAX_ATTEMPTS: u32 = 4;
const LIMITS: TimeLimits = TimeLimits {
    connect: Duration::from_secs(3),
    attempt: Duration::from_secs(10),
    call: Duration::from_secs(25),
};

/// The configuration of a recovery function's clients in `region`. Nothing is connected yet.
pub async fn config(region: &str) -> SdkConfig {
    defaults()
        .region(Region::new(region.to_owned()))
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(MAX_ATTEMPTS)
                .with_initial_backoff(Duration::from_secs(1))
                .with_max_backoff(Duration::from_secs(5)),
        )
        .timeout_config(LIMITS.timeouts())
        .load()
        .await
}
