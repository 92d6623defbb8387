//! A proxy in front of a stand-in of AWS that does not pass on the calls of one operation.

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use std::sync::{Arc, Mutex};

const DENIED: &str =
    r#"{"__type":"com.amazon.coral.service#AccessDeniedException","Message":"User is not authorized"}"#;
/// Headers that belong to one connection.
const OF_THE_CONNECTION: [axum::http::HeaderName; 4] = [HOST, CONTENT_LENGTH, CONNECTION, TRANSFER_ENCODING];

/// The operation that is not passed on.
pub(crate) type Blocked = Arc<Mutex<Option<&'static str>>>;

/// Starts a proxy in front of the stand-in at `url`; returns its address and the operation that it blocks. A service that
/// speaks JSON denies access to it, and one that speaks CBOR does not answer.
pub(crate) async fn start(url: String) -> Result<(String, Blocked)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let blocked = Blocked::default();
    let router = Router::new().fallback(pass).with_state((url, blocked.clone(), reqwest::Client::new()));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((address, blocked))
}

async fn pass(
    State((url, blocked, client)): State<(String, Blocked, reqwest::Client)>,
    method: Method,
    uri: Uri,
    mut headers: HeaderMap,
    body: Bytes,
) -> Response {
    let blocked = *blocked.lock().unwrap();
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    if let Some(operation) = blocked {
        if target.ends_with(&format!(".{operation}")) {
            return (StatusCode::BAD_REQUEST, [("content-type", "application/x-amz-json-1.0")], DENIED)
                .into_response();
        }
        if uri.path().ends_with(&format!("/operation/{operation}")) {
            return std::future::pending().await;
        }
    }
    OF_THE_CONNECTION.iter().for_each(|name| drop(headers.remove(name)));
    let call = client.request(method, format!("{url}{uri}")).headers(headers).body(body);
    let Ok(answer) = call.send().await else {
        // Ends the caller's connection without an answer, as the stand-in did.
        std::panic::resume_unwind(Box::new("the stand-in did not answer"))
    };
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    OF_THE_CONNECTION.iter().for_each(|name| drop(headers.remove(name)));
    (status, headers, answer.bytes().await.unwrap_or_default()).into_response()
}
