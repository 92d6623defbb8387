//! Events of gateways whose format the functions do not read.
//!
//! A REST API, an HTTP API with payload format 1.0 and a load balancer send events that fail to parse. Lambda would then
//! report an error of the function, and the gateway would answer with a 502 that says nothing. They get
//! `501 unsupported-event` instead, in the form that all three pass on to their client.

use crate::problem::Problem;
use futures::future::{Either, MapOk, Ready, TryFutureExt, ready};
use lambda_http::lambda_runtime::LambdaEvent;
use lambda_http::request::LambdaRequest;
use lambda_http::tower::Service;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::task::{Context, Poll};

/// An event of a gateway.
#[derive(Debug)]
pub(super) enum GatewayEvent {
    /// The HTTP API, payload format 2.0.
    Request(Box<LambdaRequest>),
    /// Another kind of gateway.
    Other,
}

impl<'de> Deserialize<'de> for GatewayEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        match serde_json::from_str(text.get()) {
            Ok(request) => Ok(Self::Request(Box::new(request))),
            Err(_) if is_of_other_gateway(text.get()) => Ok(Self::Other),
            Err(error) => Err(D::Error::custom(error)),
        }
    }
}

fn is_of_other_gateway(text: &str) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct OtherEvent {
        /// Null is absent.
        http_method: Option<String>,
        request_context: Option<serde_json::Map<String, Value>>,
    }
    serde_json::from_str::<OtherEvent>(text)
        .is_ok_and(|event| event.http_method.is_some() && event.request_context.is_some())
}

/// The answer to a gateway's event.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum GatewayAnswer<R> {
    Refused(Value),
    Own(R),
}

/// A service that refuses the events of other gateways itself and passes on every request.
#[derive(Clone, Debug)]
pub(super) struct OnlyHttpApi<S>(pub(super) S);

impl<S> Service<LambdaEvent<GatewayEvent>> for OnlyHttpApi<S>
where
    S: Service<LambdaEvent<LambdaRequest>>,
{
    type Response = GatewayAnswer<S::Response>;
    type Error = S::Error;
    type Future = Either<
        Ready<Result<Self::Response, Self::Error>>,
        MapOk<S::Future, fn(S::Response) -> GatewayAnswer<S::Response>>,
    >;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, event: LambdaEvent<GatewayEvent>) -> Self::Future {
        let LambdaEvent { payload, context } = event;
        match payload {
            GatewayEvent::Request(request) => Either::Right(
                self.0.call(LambdaEvent { payload: *request, context }).map_ok(GatewayAnswer::Own),
            ),
            GatewayEvent::Other => {
                tracing::error!(
                    "refused an event of a REST API, of payload format 1.0 or of a load balancer: connect the function to an HTTP API with payload format 2.0"
                );
                Either::Left(ready(Ok(GatewayAnswer::Refused(problem_event(&Problem::UnsupportedEvent)))))
            }
        }
    }
}

/// A problem as the answer to a gateway's event, for a function that builds its answers itself.
pub fn problem_event(problem: &Problem) -> Value {
    let mut headers = json!({ "content-type": "application/problem+json", "cache-control": "no-store" });
    if let Some(seconds) = problem.retry_after_seconds() {
        headers["retry-after"] = json!(seconds.to_string());
    }
    if let Problem::MethodNotAllowed { allow } = problem {
        headers["allow"] = json!(allow);
    }
    json!({
        "statusCode": problem.status().as_u16(), "headers": headers, "body": problem.document().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keep_warm::{Invocation, KeepWarm};
    use lambda_http::lambda_runtime::{self, Context as LambdaContext};
    use lambda_http::service_fn;

    fn sample(name: &str) -> String {
        std::fs::read_to_string(format!("{}/../events/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    #[tokio::test]
    async fn a_rest_api_gets_an_answer_that_says_what_is_wrong() {
        let mut service = KeepWarm(OnlyHttpApi(service_fn(async |event: LambdaEvent<LambdaRequest>| {
            Ok::<_, lambda_runtime::Error>(matches!(event.payload, LambdaRequest::ApiGatewayV2(_)))
        })));
        let mut answer = async |text: &str| {
            let payload: Invocation<GatewayEvent> = serde_json::from_str(text).unwrap();
            let event = LambdaEvent { payload, context: LambdaContext::default() };
            serde_json::to_value(service.call(event).await.unwrap()).unwrap()
        };
        assert_eq!(answer(&sample("order-intake.post.json")).await, json!(true));
        let balancer = r#"{"httpMethod":"POST","requestContext":{"elb":{"targetGroupArn":"arn"}},"body":""}"#;
        for other in [sample("order-confirm.rest-api.json").as_str(), balancer] {
            let refused = answer(other).await;
            assert_eq!(refused["statusCode"], 501, "{refused}");
            assert_eq!(refused["headers"]["content-type"], "application/problem+json");
            let body = refused["body"].as_str().unwrap();
            assert!(body.contains("urn:fairdrop:problem:unsupported-event"), "{body}");
        }
    }

    #[test]
    fn what_is_of_no_gateway_is_an_error() {
        for text in ["{}", "null", r#"{"Records":[]}"#, r#"{"httpMethod":null,"requestContext":{}}"#] {
            assert!(serde_json::from_str::<GatewayEvent>(text).is_err(), "{text}");
        }
    }
}
