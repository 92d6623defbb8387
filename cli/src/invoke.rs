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

/// The statuses with which AWS refuses an identity or a name. Other refusals, such as a throttle, may pass.
const LASTING: [u16; 3] = [401, 403, 404];

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
    /// The account whose functions they must be. Lambda refuses another one.
    account: Option<String>,
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
        let account = shared.account.clone().filter(|_| shared.local.is_none());
        let client = aws_sdk_lambda::Client::from_conf(builder.build());
        Ok(Self { client, prefix, region, account })
    }

    /// Which function it is, and where.
    pub(crate) fn place(&self, function: &Function) -> String {
        let account = match &self.account {
            Some(account) => format!(", account {account}"),
            None if self.prefix.is_empty() => String::new(),
            None => match std::env::var("AWS_PROFILE") {
                Ok(profile) => format!(", profile {profile} (--account was not given)"),
                Err(_) => ", in the account of your credentials (--account was not given)".into(),
            },
        };
        format!("{} in {}{account}", self.name(function), self.region)
    }

    /// The function's name in Lambda.
    fn name(&self, function: &Function) -> String {
        format!("{}{}", self.prefix, function.name())
    }

    /// What Invoke gets: the name, or the partial ARN in the account. Lambda looks for a name in the caller's account.
    fn address(&self, name: &str) -> String {
        match &self.account {
            Some(account) => format!("{account}:function:{name}"),
            None => name.to_owned(),
        }
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
            .function_name(self.address(&name))
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
        Err(Failure::of_function(function, value))
    } else {
        Ok(Answer { raw, value })
    }
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
            let status = service.raw().status().as_u16();
            let why = format!("{}.{hint}", chain(service.err()));
            Failure::NotInvoked { function, why, is_lasting: LASTING.contains(&status) }
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
    Failure::NotInvoked { function, why: format!("{}{hint}", chain(error)), is_lasting: true }
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
    #[tokio::test]
    async fn an_account_is_part_of_the_function_s_address_and_of_the_question() {
        let functions = |account: Option<&str>| Functions {
            client: aws_sdk_lambda::Client::new(&on_this_machine("http://127.0.0.1:1")),
            prefix: "fairdrop-".into(),
            region: "us-east-1".into(),
            account: account.map(str::to_owned),
        };
        let (with, without) = (functions(Some("123456789012")), functions(None));
        assert_eq!(with.address("fairdrop-drop-admin"), "123456789012:function:fairdrop-drop-admin");
        let place = with.place(&Function::DropAdmin);
        assert_eq!(place, "fairdrop-drop-admin in us-east-1, account 123456789012");
        assert_eq!(without.address("fairdrop-drop-admin"), "fairdrop-drop-admin");
        assert!(without.place(&Function::DropAdmin).contains("--account was not given"));
    }
}
