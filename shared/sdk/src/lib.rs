//! Configuration of AWS SDK clients: credentials, endpoints, time limits, retries.
//!
//! Lambda gives a function its credentials in the environment, so that this crate does without `aws-config`, whose
//! other sources of credentials need another SDK. Not in `shared`, since most functions for buyers link no AWS SDK.

mod database_token;
mod environment;

pub use aws_credential_types::Credentials;
pub use aws_smithy_runtime_api::client::behavior_version::BehaviorVersion;
pub use aws_smithy_types::retry::RetryConfig;
pub use aws_smithy_types::timeout::TimeoutConfig;
pub use aws_types::SdkConfig;
pub use aws_types::region::Region;
pub use aws_types::sdk_config::Builder as SdkConfigBuilder;
pub use database_token::{DatabaseTokenError, DatabaseUser};
pub use environment::{MissingCredentials, credentials};

use aws_credential_types::provider::SharedCredentialsProvider;
use environment::{EnvironmentCredentials, EnvironmentEndpoints};
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

/// The SDK's defaults, with the region, credentials and endpoints of the environment.
pub fn defaults() -> SdkConfigBuilder {
    let mut builder = SdkConfig::builder();
    builder.set_region(environment::variable("AWS_REGION").map(Region::new));
    builder
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(SharedCredentialsProvider::new(EnvironmentCredentials))
        .service_config(EnvironmentEndpoints)
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
pub fn config(region: &str) -> SdkConfig {
    defaults()
        .region(Region::new(region.to_owned()))
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(MAX_ATTEMPTS)
                .with_initial_backoff(Duration::from_secs(1))
                .with_max_backoff(Duration::from_secs(5)),
        )
        .timeout_config(LIMITS.timeouts())
        .build()
}
