//! order-confirm, by direct invocation.

use crate::Notice;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::error::DisplayErrorContext;
use aws_sdk_lambda::primitives::Blob;
use sdk::{Credentials, RetryConfig, SdkConfigBuilder, TimeLimits};
use serde_json::Value;
use std::time::Duration;

/// Above the 20 s of order-confirm. Stripe repeats what takes longer.
const LIMITS: TimeLimits = TimeLimits {
    connect: Duration::from_secs(2),
    attempt: Duration::from_secs(22),
    call: Duration::from_secs(22),
};

/// What fairdrop has made of a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The state of the reservation.
    Accepted(Value),
    /// A decision against the payment: its problem document.
    Refused(Value),
    /// Nothing is decided, for this reason: the notice has to be sent again.
    Undecided(String),
}

/// The function, in fairdrop's main region.
#[derive(Debug)]
pub struct OrderConfirm {
    client: Client,
    function: String,
}

impl OrderConfirm {
    /// `function` is its name, or its ARN in another account. Credentials are those of the environment.
    pub fn in_region(region: &str, function: &str) -> Self {
        Self::with(sdk::config(region).into_builder(), function)
    }

    /// At an endpoint on this machine.
    pub fn at(endpoint: &str, function: &str) -> Self {
        let credentials = Credentials::new("test", "test", None, None, "this machine");
        let builder = sdk::config("us-east-1").into_builder().endpoint_url(endpoint);
        Self::with(builder.credentials_provider(SharedCredentialsProvider::new(credentials)), function)
    }

    fn with(builder: SdkConfigBuilder, function: &str) -> Self {
        // Stripe repeats the event.
        let config = builder.timeout_config(LIMITS.timeouts()).retry_config(RetryConfig::disabled()).build();
        Self { client: Client::new(&config), function: function.to_owned() }
    }

    /// Sends a notice, and waits for the decision.
    pub async fn send(&self, notice: &Notice) -> Decision {
        let payload = match serde_json::to_vec(notice) {
            Ok(payload) => Blob::new(payload),
            Err(error) => return Decision::Undecided(error.to_string()),
        };
        match self.client.invoke().function_name(&self.function).payload(payload).send().await {
            Err(error) => Decision::Undecided(DisplayErrorContext(error).to_string()),
            Ok(answer) => {
                let payload = answer.payload().map(Blob::as_ref).unwrap_or_default();
                decision(answer.function_error().is_some(), payload)
            }
        }
    }
}

/// order-confirm fails an invocation in which it has decided nothing. Its answers are a state, or the problem document
/// of a decision against the payment.
fn decision(has_failed: bool, payload: &[u8]) -> Decision {
    let text = || String::from_utf8_lossy(payload).chars().take(1_000).collect();
    match serde_json::from_slice::<Value>(payload) {
        Ok(answer) if !has_failed && answer["status"].is_string() => Decision::Accepted(answer),
        Ok(answer) if !has_failed && answer["type"].is_string() => Decision::Refused(answer),
        _ => Decision::Undecided(text()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_an_answer_of_order_confirm_is_a_decision() {
        let state = json!({ "status": "sold" });
        let problem = json!({ "type": "urn:fairdrop:problem:already-paid", "status": 409 });
        let judge = |has_failed, answer: &Value| decision(has_failed, answer.to_string().as_bytes());
        assert_eq!(judge(false, &state), Decision::Accepted(state.clone()));
        assert_eq!(judge(false, &problem), Decision::Refused(problem.clone()));
        for undecided in [
            judge(true, &json!({ "errorMessage": "{\"type\":\"urn:fairdrop:problem:ledger-unavailable\"}" })),
            judge(true, &state),
            judge(false, &json!(null)),
            decision(false, b""),
        ] {
            assert!(matches!(undecided, Decision::Undecided(_)), "{undecided:?}");
        }
    }
}
