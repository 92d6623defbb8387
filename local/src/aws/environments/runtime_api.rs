//! The Runtime API, from which the processes fetch their invocations. The address of each process has its number.

use super::{Pool, Work};
use crate::aws::lambda::Invoked;
use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderValue, Response, StatusCode};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use serde_json::Value;
use std::net::TcpListener;
use std::sync::Arc;

/// Lambda's limit for an answer is 6 MB.
const MAX_ANSWER_BYTES: usize = 6 * 1024 * 1024;

pub(super) fn listen() -> Result<(tokio::net::TcpListener, String)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    let address = format!("http://{}", listener.local_addr()?);
    Ok((tokio::net::TcpListener::from_std(listener)?, address))
}

pub(super) async fn serve(pool: Arc<Pool>, listener: tokio::net::TcpListener) {
    let invocation = "/{number}/2018-06-01/runtime/invocation";
    let router = Router::new()
        .route(&format!("{invocation}/next"), get(next))
        .route(&format!("{invocation}/{{id}}/response"), post(response))
        .route(&format!("{invocation}/{{id}}/error"), post(error))
        // A process that could not start ends; the check removes it.
        .route("/{number}/2018-06-01/runtime/init/error", post(|| async { StatusCode::ACCEPTED }))
        .layer(DefaultBodyLimit::max(MAX_ANSWER_BYTES))
        .with_state(pool);
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let _ = axum::serve(listener, router).await;
}

async fn next(State(pool): State<Arc<Pool>>, Path(number): Path<u64>) -> Response<Body> {
    let work = match pool.is_free(number) {
        Some(received) => received.lock().await.recv().await,
        None => None,
    };
    work.and_then(|work| invocation(pool.function, work)).unwrap_or_else(|| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::GONE;
        response
    })
}

fn invocation(function: &str, work: Work) -> Option<Response<Body>> {
    let mut response = Response::new(Body::from(work.payload));
    let arn = format!("arn:aws:lambda:local:123456789012:function:{function}");
    for (name, value) in [
        ("lambda-runtime-aws-request-id", work.id),
        ("lambda-runtime-deadline-ms", work.deadline_ms.to_string()),
        ("lambda-runtime-invoked-function-arn", arn),
        ("content-type", "application/json".to_owned()),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_str(&value).ok()?);
    }
    Some(response)
}

async fn response(
    State(pool): State<Arc<Pool>>,
    Path((number, id)): Path<(u64, String)>,
    body: axum::body::Bytes,
) -> StatusCode {
    let answer = serde_json::from_slice(&body).unwrap_or(Value::Null);
    pool.answered(number, &id, Invoked::Answer(answer));
    StatusCode::ACCEPTED
}

async fn error(
    State(pool): State<Arc<Pool>>,
    Path((number, id)): Path<(u64, String)>,
    body: axum::body::Bytes,
) -> StatusCode {
    let error = serde_json::from_slice(&body).unwrap_or(Value::Null);
    pool.answered(number, &id, Invoked::FunctionError(error));
    StatusCode::ACCEPTED
}
