//! Lambda's Invoke, in AWS or on one machine.

use crate::command::{Call, Function};
use crate::failure::Failure;
use crate::options::Shared;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_lambda::config::retry::RetryConfig;
use aws_sdk_lambda::config::timeout::TimeoutConfig;
use aws_sdk_lambda::config::{BehaviorVersion, Credentials, Region, StalledStreamProtectionConfig};
use aws_sdk_lambda::error::SdkError;
use aws_sdk_lambda::operation::invoke::{InvokeError, InvokeOutput};
use aws_sdk_lambda::primitives::Blob;
use sdk::SdkConfig;
use serde_json::Value;
use std::time::Duration;

/// Time to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How much longer than the function's own timeout an answer is waited for.
const SLACK: Duration = Duration::from_secs(10);

/// An answer, as it came and parsed.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) raw: String,
    pub(crate) value: Value,
}

/// What invokes functions.
pub(crate) trait Invoke {
    async fn invoke(&self, call: &Call) -> Result<Answer, Failure>;
}

/// The functions of one stack in one region, or those of a system on this machine.
#[derive(Debug)]
pub(crate) struct Functions {
    client: aws_sdk_lambda::Client,
    /// The stack's name and a hyphen; nothing on this machine.
    prefix: String,
    region: String,
}

impl Functions {
    pub(crate) async fn of(shared: &Shared) -> Result<Self, Failure> {
        let (config, prefix) = match &shared.local {
            Some(url) => (on_this_machine(url), String::new()),
            None => (in_aws(shared.region.clone()).await, format!("{}-", shared.stack)),
        };
        let Some(region) = config.region().map(ToString::to_string) else {
            return Err(Failure::Usage("no region: give --region, or set AWS_REGION".into()));
        };
        // A command is never sent a second time by itself: an attempt without an answer may have been executed.
        let builder = aws_sdk_lambda::config::Builder::from(&config)
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        Ok(Self { client: aws_sdk_lambda::Client::from_conf(builder.build()), prefix, region })
    }

    /// Which function it is, and where.
    pub(crate) fn place(&self, function: &Function) -> String {
        format!("{} in {}", self.name(function), self.region)
    }

    /// The function's name in Lambda.
    fn name(&self, function: &Function) -> String {
        format!("{}{}", self.prefix, function.name())
    }
}

impl Invoke for Functions {
    async fn invoke(&self, call: &Call) -> Result<Answer, Failure> {
        let name = self.name(&call.function);
        let limits = TimeoutConfig::builder()
            .connect_timeout(CONNECT_LIMIT)
            .operation_timeout(call.function.timeout() + SLACK)
            .build();
        let request = self
            .client
            .invoke()
            .function_name(&name)
            .payload(Blob::new(call.payload.to_string()))
            .customize();
        let sent = request
            .config_override(aws_sdk_lambda::config::Builder::new().timeout_config(limits))
            .send()
            .await;
        match sent {
            Ok(output) => answer(name, output),
            Err(error) => Err(failure(name, &self.region, &error)),
        }
    }
}

/// The emulator takes any signature.
fn on_this_machine(url: &str) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("local"))
        .endpoint_url(url)
        .credentials_provider(sdk_credentials(Credentials::new("local", "local", None, None, "this machine")))
        .build()
}

fn sdk_credentials(credentials: Credentials) -> aws_sdk_lambda::config::SharedCredentialsProvider {
    aws_sdk_lambda::config::SharedCredentialsProvider::new(credentials)
}

/// The SDK's usual chain.
#[cfg(feature = "profiles")]
async fn in_aws(region: Option<String>) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let Some(region) = region {
        loader = loader.region(Region::new(region));
    }
    loader.load().await
}

/// The variables that every AWS SDK reads. `aws configure export-credentials --format env` prints those of a profile.
#[cfg(not(feature = "profiles"))]
async fn in_aws(region: Option<String>) -> SdkConfig {
    let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let region = region.or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
    let mut builder = sdk::defaults();
    builder.set_region(region.map(Region::new));
    builder.build()
}

fn answer(function: String, output: InvokeOutput) -> Result<Answer, Failure> {
    let bytes = output.payload.map(Blob::into_inner).unwrap_or_default();
    let raw = String::from_utf8_lossy(&bytes).into_owned();
    let value: Value = serde_json::from_str(&raw).map_err(|_| Failure::Unknown {
        function: function.clone(),
        why: format!("it answered what is no JSON: {raw}"),
    })?;
    if output.function_error.is_some() {
        Err(function_error(function, value))
    } else {
        Ok(Answer { raw, value })
    }
}

/// The function's own error, or that of its process: then the command may have been executed.
fn function_error(function: String, problem: Value) -> Failure {
    let kind = problem["errorType"].as_str().unwrap_or_default();
    if kind.starts_with("Sandbox.") || kind.starts_with("Runtime.") || kind.is_empty() {
        return Failure::Unknown { function, why: format!("its process ended: {problem}") };
    }
    Failure::Refused { function, problem }
}

fn failure(function: String, region: &str, error: &SdkError<InvokeError>) -> Failure {
    match error {
        SdkError::ServiceError(service) if !is_fault(service.err()) => {
            let hint = match service.err() {
                InvokeError::ResourceNotFoundException(_) => format!(
                    " There is no function of this name in {region}: commands on items go to main's region, `failover` to the \
                     standby's; --stack is the stack's name."
                ),
                _ => String::new(),
            };
            Failure::NotInvoked { function, why: format!("{}.{hint}", chain(service.err())) }
        }
        SdkError::ConstructionFailure(_) => not_sent(function, error),
        SdkError::DispatchFailure(_) if lacks_credentials(error) => not_sent(function, error),
        other => Failure::Unknown { function, why: chain(other) },
    }
}

/// Whether no request was sent, since there are no credentials to sign it with.
fn lacks_credentials(error: &SdkError<InvokeError>) -> bool {
    let first: &dyn std::error::Error = error;
    std::iter::successors(Some(first), |error| error.source()).any(|error| error.is::<CredentialsError>())
}

/// The error and all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut all: Vec<String> = causes.map(ToString::to_string).collect();
    all.dedup();
    all.join(": ")
}

/// Lambda's own fault: it does not say whether the function was invoked.
fn is_fault(error: &InvokeError) -> bool {
    matches!(error, InvokeError::ServiceException(_))
}

fn not_sent(function: String, error: &SdkError<InvokeError>) -> Failure {
    let hint = if cfg!(feature = "profiles") {
        ""
    } else {
        " (this binary reads credentials from the environment alone)"
    };
    Failure::NotInvoked { function, why: format!("{}{hint}", chain(error)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn output(payload: &str, error: Option<&str>) -> InvokeOutput {
        InvokeOutput::builder()
            .payload(Blob::new(payload))
            .set_function_error(error.map(str::to_owned))
            .build()
    }

    #[test]
    fn an_answer_keeps_its_bytes() {
        let raw = "{ \"z\": 1.50, \"a\": 2 }";
        let answer = answer("f".into(), output(raw, None)).unwrap();
        assert_eq!(answer.raw, raw);
        assert_eq!(answer.value["a"], 2);
    }

    #[test]
    fn an_error_of_the_function_is_a_refusal_and_one_of_its_process_leaves_the_command_unknown() {
        let of = |kind: &str| {
            let payload = json!({ "errorType": kind, "errorMessage": "x" }).to_string();
            answer("f".into(), output(&payload, Some("Unhandled"))).unwrap_err().exit_code()
        };
        assert_eq!(of("NoSuchItem"), 1);
        assert_eq!(of("Sandbox.Timedout"), 3);
        assert_eq!(of("Runtime.ExitError"), 3);
        assert_eq!(answer("f".into(), output("not json", None)).unwrap_err().exit_code(), 3);
    }
}
