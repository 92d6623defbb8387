//! Stands for the web server of an identity provider: its discovery document and its key set, and the faults that such
//! a server can have.

use anyhow::Result;
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How the server answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Publishes {
    /// This key set.
    Keys(Value),
    /// This text as the key set.
    Text(String),
    /// This status for every document.
    Status(u16),
    /// A redirect to this URL for the key set.
    Redirect(String),
    /// A discovery document of another issuer.
    OtherIssuer,
    /// This address of the key set.
    KeysAt(String),
    /// Nothing: the answer never ends.
    Hangs,
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Issuer {
    port: u16,
    state: Arc<State>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    publishes: Mutex<Publishes>,
    requests: AtomicU64,
}

impl Issuer {
    /// Starts a server that publishes `keys`.
    pub async fn start(keys: Value) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let publishes = Mutex::new(Publishes::Keys(keys));
        let state = Arc::new(State { publishes, requests: AtomicU64::new(0) });
        let answering = state.clone();
        let app = Router::new().fallback(move |request: Request| {
            let state = answering.clone();
            async move { answer(&state, &url(port), request.uri().path()).await }
        });
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { port, state, server })
    }

    /// The issuer, as tokens and the discovery document name it.
    pub fn url(&self) -> String {
        url(self.port)
    }

    /// Answers like this from now on.
    pub fn publish(&self, publishes: Publishes) {
        *self.state.publishes.lock().unwrap_or_else(PoisonError::into_inner) = publishes;
    }

    /// The number of requests so far.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

async fn answer(state: &State, issuer: &str, path: &str) -> Response {
    state.requests.fetch_add(1, Ordering::Relaxed);
    let publishes = state.publishes.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match (&publishes, path) {
        (Publishes::Status(status), _) => {
            StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR).into_response()
        }
        (Publishes::Hangs, _) => std::future::pending().await,
        (_, "/.well-known/openid-configuration") => {
            let issuer = if publishes == Publishes::OtherIssuer { "https://other.example" } else { issuer };
            let keys_at = match &publishes {
                Publishes::KeysAt(url) => url.clone(),
                _ => format!("{issuer}/keys"),
            };
            json!({ "issuer": issuer, "jwks_uri": keys_at, "response_types_supported": ["code"] })
                .to_string()
                .into_response()
        }
        (Publishes::Keys(keys), "/keys") => keys.to_string().into_response(),
        (Publishes::Text(text), "/keys") => text.clone().into_response(),
        (Publishes::Redirect(to), "/keys") => {
            let mut moved = StatusCode::FOUND.into_response();
            if let Ok(to) = HeaderValue::from_str(to) {
                moved.headers_mut().insert(header::LOCATION, to);
            }
            moved
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}
