//! The Invoke API over HTTP, for SDKs.

use super::{EventRetries, Invoke, Invoked};
use crate::aws::environments::{LONGEST, Throttled};
use anyhow::Result;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use axum::routing::post;
use serde_json::json;
use std::net::{SocketAddr, TcpListener};

/// Lambda's limit for the payload of an invocation that is waited for. For one that is not it is smaller.
const MAX_PAYLOAD_BYTES: usize = 6 * 1024 * 1024;

/// The path at which `function` is invoked.
pub(super) fn path(function: &str) -> String {
    format!("/2015-03-31/functions/{function}/invocations")
}

pub(super) fn listen(address: SocketAddr) -> Result<(tokio::net::TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((tokio::net::TcpListener::from_std(listener)?, address))
}

pub(super) async fn serve(invoke: Invoke, listener: tokio::net::TcpListener) {
    let router = Router::new()
        .route(&path("{function}"), post(call))
        .layer(DefaultBodyLimit::max(MAX_PAYLOAD_BYTES))
        .with_state(invoke);
    let _ = axum::serve(listener, router).await;
}

async fn call(
    State(invoke): State<Invoke>,
    Path(function): Path<String>,
    headers: HeaderMap,
    payload: Bytes,
) -> Response<Body> {
    // The version or alias: all are one here.
    let function = function.split(':').next().unwrap_or_default().to_owned();
    let Ok(payload) = String::from_utf8(payload.into()) else {
        return refusal(
            StatusCode::BAD_REQUEST,
            "InvalidRequestContentException",
            "the payload is not UTF-8",
        );
    };
    if invoke.pool(&function).is_none() {
        let why = format!("Function not found: {function}");
        return refusal(StatusCode::NOT_FOUND, "ResourceNotFoundException", &why);
    }
    if headers.get("x-amz-invocation-type").is_some_and(|kind| kind == "Event") {
        let retries = EventRetries::of(&function);
        tokio::spawn(async move { invoke.send_event(&function, payload, LONGEST, retries).await });
        return response(StatusCode::ACCEPTED, Body::empty());
    }
    match invoke.call_within(&function, payload, LONGEST).await {
        Ok(Invoked::Answer(answer)) => response(StatusCode::OK, answer.to_string()),
        Ok(Invoked::FunctionError(error)) => {
            let mut response = response(StatusCode::OK, error.to_string());
            response.headers_mut().insert("x-amz-function-error", HeaderValue::from_static("Unhandled"));
            response
        }
        Err(error) if error.is::<Throttled>() => {
            refusal(StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException", &error.to_string())
        }
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, "ServiceException", &format!("{error:#}")),
    }
}

fn response(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

fn refusal(status: StatusCode, kind: &'static str, why: &str) -> Response<Body> {
    let mut response = response(status, json!({ "Message": why }).to_string());
    response.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static(kind));
    response
}
