//! The keep-warm event, which every function answers without a call to a store.
//!
//! Lambda makes a VPC function that is not invoked for about two weeks `Inactive`: the next invocation fails, and the
//! function is `Pending` for up to minutes. A schedule sends this event to functions that would otherwise be idle, and
//! a failover sends it to wake the new main's functions. IAM decides who may send it: API Gateway wraps what a client
//! sends, so no request of a client has this form.

use futures::future::{Either, MapOk, Ready, TryFutureExt, ready};
use lambda_http::tower::Service;
use lambda_runtime::LambdaEvent;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::task::{Context, Poll};

/// The event's whole text, as the template's schedules send it.
pub const KEEP_WARM_EVENT: &str = r#"{"keep_warm":true}"#;
/// A longer event is not compared. An order's event has some thousand bytes.
const MAX_BYTES: usize = 64;

/// The keep-warm event, or an event of the function's own type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation<E> {
    KeepWarm,
    Own(E),
}

impl<'de, E: DeserializeOwned> Deserialize<'de> for Invocation<E> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Without a `Value` in between: every order passes through here.
        let text = Box::<RawValue>::deserialize(deserializer)?;
        if is_keep_warm(text.get()) {
            return Ok(Self::KeepWarm);
        }
        serde_json::from_str(text.get()).map(Self::Own).map_err(D::Error::custom)
    }
}

fn is_keep_warm(text: &str) -> bool {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct KeepWarmEvent {
        keep_warm: bool,
    }
    text.len() <= MAX_BYTES && serde_json::from_str(text).is_ok_and(|KeepWarmEvent { keep_warm }| keep_warm)
}

/// The answer to the keep-warm event, or to an event of the function's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Answer<R> {
    KeptWarm { kept_warm: bool },
    Own(R),
}

/// A service that answers the keep-warm event itself and passes on every other event.
#[derive(Clone, Debug)]
pub struct KeepWarm<S>(pub S);

impl<S, E> Service<LambdaEvent<Invocation<E>>> for KeepWarm<S>
where
    S: Service<LambdaEvent<E>>,
{
    type Response = Answer<S::Response>;
    type Error = S::Error;
    type Future = Either<
        Ready<Result<Self::Response, Self::Error>>,
        MapOk<S::Future, fn(S::Response) -> Answer<S::Response>>,
    >;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, event: LambdaEvent<Invocation<E>>) -> Self::Future {
        let LambdaEvent { payload, context } = event;
        match payload {
            Invocation::KeepWarm => Either::Left(ready(Ok(Answer::KeptWarm { kept_warm: true }))),
            Invocation::Own(payload) => {
                Either::Right(self.0.call(LambdaEvent { payload, context }).map_ok(Answer::Own))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lambda_runtime::{Context as LambdaContext, service_fn};
    use serde_json::{Value, json};

    #[tokio::test]
    async fn only_the_keep_warm_event_is_answered_without_the_handler() {
        let mut service = KeepWarm(service_fn(async |event: LambdaEvent<Value>| {
            Ok::<_, lambda_runtime::Error>(json!({ "handled": event.payload }))
        }));
        let mut answer = async |text: &str| {
            let payload: Invocation<Value> = serde_json::from_str(text).unwrap();
            let event = LambdaEvent { payload, context: LambdaContext::default() };
            serde_json::to_value(service.call(event).await.unwrap()).unwrap()
        };
        for text in [KEEP_WARM_EVENT, " { \"keep_warm\" : true }\n"] {
            assert_eq!(answer(text).await, json!({ "kept_warm": true }), "{text}");
        }
        for text in [
            r#"{"keep_warm":false}"#,
            r#"{"keep_warm":true,"command":"list"}"#,
            r#"{"body":"{\"keep_warm\":true}"}"#,
            r#""{\"keep_warm\":true}""#,
            "null",
            "[]",
        ] {
            let payload: Value = serde_json::from_str(text).unwrap();
            assert_eq!(answer(text).await, json!({ "handled": payload }), "{text}");
        }
    }

    #[test]
    fn the_error_of_an_event_of_another_type_is_kept() {
        let wrong = serde_json::from_str::<Invocation<crate::schedule::ScheduledEvent>>("{}");
        assert!(wrong.unwrap_err().to_string().contains("detail-type"));
    }
}
