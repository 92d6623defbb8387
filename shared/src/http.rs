//! Requests from API Gateway, and the answers.

mod gateway_event;

pub use gateway_event::problem_event;

use crate::item::ItemId;
use crate::keep_warm::KeepWarm;
use crate::problem::Problem;
use crate::telemetry::Telemetry;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gateway_event::OnlyHttpApi;
use lambda_http::http::{HeaderValue, StatusCode, header};
use lambda_http::lambda_runtime::{self, LambdaEvent};
use lambda_http::request::{LambdaRequest, RequestContext};
use lambda_http::tower::ServiceExt;
use lambda_http::{Adapter, Body, Error, Request, RequestExt, Response, service_fn};
use serde::Serialize;
use std::future::Future;

/// Serves requests with `handler` until the process ends: one at a time on classic Lambda, or
/// `AWS_LAMBDA_MAX_CONCURRENCY` at once if that is set.
pub async fn serve<H, Fut>(telemetry: Telemetry, handler: H) -> Result<(), Error>
where
    H: Fn(Request) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<Response<Body>, Problem>> + Send + 'static,
{
    let service = service_fn(move |request: Request| {
        let answer = handler(request);
        let telemetry = telemetry.clone();
        async move {
            let response = answer.await.unwrap_or_else(Response::from);
            telemetry.invocation_done();
            Ok::<_, Error>(response)
        }
    });
    lambda_runtime::run_concurrent(KeepWarm(OnlyHttpApi(Adapter::from(service).map_request(repair_body))))
        .await
}

/// Passes on unchanged a body that is marked as base64 and is not: lambda_http would panic when it decodes the body,
/// while the handler refuses a text that is not JSON.
fn repair_body(mut event: LambdaEvent<LambdaRequest>) -> LambdaEvent<LambdaRequest> {
    if let LambdaRequest::ApiGatewayV2(request) = &mut event.payload
        && request.is_base64_encoded
        && request.body.as_ref().is_some_and(|body| STANDARD.decode(body).is_err())
    {
        request.is_base64_encoded = false;
    }
    event
}

/// When the gateway accepted the request: `requestContext.timeEpoch`, on AWS in milliseconds since the Unix epoch.
/// 0 if it is missing.
pub fn gateway_epoch_ms(request: &Request) -> i64 {
    match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => context.time_epoch,
        _ => 0,
    }
}

/// The item in the path.
pub fn item_id(request: &Request) -> Result<ItemId, Problem> {
    let parameters = request.path_parameters_ref().ok_or(Problem::BadItemId)?;
    parameters.first("item_id").and_then(|text| text.parse().ok()).ok_or(Problem::BadItemId)
}

/// The bearer token (RFC 6750 §2.1).
pub fn bearer_token(request: &Request) -> Result<&str, Problem> {
    let value = request.headers().get(header::AUTHORIZATION).ok_or(Problem::NoToken)?;
    let (scheme, token) =
        value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Problem::NoToken)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(Problem::NoToken) }
}

/// The answer to `OPTIONS`: the methods of the path. API Gateway adds the CORS headers.
pub fn options(allow: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

/// A JSON answer that no cache may store.
pub fn json(status: StatusCode, body: &impl Serialize) -> Result<Response<Body>, Problem> {
    let text = serde_json::to_string(body).map_err(|error| {
        tracing::error!(%error, "could not write an answer as JSON; the request gets the problem `internal`");
        Problem::Internal
    })?;
    let mut response = Response::new(Body::Text(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
