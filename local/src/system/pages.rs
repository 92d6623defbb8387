//! The buyer's and the operator's page, served as a shop's own web server would: static files from `pages/`, with
//! strict headers. Two more routes stand for what a shop has: a login, which returns a token for any buyer name,
//! and the operator's figures.

mod files;
mod shop;

use crate::aws::identity::IdentityProvider;
use crate::aws::metrics::Metrics;
use crate::system::RunningRegion;
use anyhow::Result;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, LOCATION, REFERRER_POLICY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::routing::{any, get, post};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::user_token::UserToken;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The longest body that the login reads.
const MAX_BODY_BYTES: usize = 1_024;

/// A region in the pages' settings.
#[derive(Clone, Debug, Serialize)]
pub struct PageRegion {
    pub name: String,
    /// Address of its HTTP API.
    pub api: String,
    /// Address of its WebSocket API.
    pub live: String,
    /// Round trip to main, in milliseconds.
    pub round_trip_ms: f64,
}

impl PageRegion {
    /// The settings of a region; `None` if it has no live updates.
    pub fn of(running: &RunningRegion) -> Option<Self> {
        Some(Self {
            name: running.region.name.to_owned(),
            api: running.gateway.url(),
            live: running.live.as_ref()?.sockets.url(),
            round_trip_ms: running.region.round_trip_ms,
        })
    }
}

/// A random token of 144 bits.
pub fn operator_token() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 18]>())
}

/// The data that the pages show.
#[derive(Debug)]
pub struct PagesContext {
    /// The item whose page opens first.
    pub item_id: String,
    /// The regions, main first.
    pub regions: Vec<PageRegion>,
    /// Who signs the buyers' tokens.
    pub identity: IdentityProvider,
    /// The figures of the operator's page.
    pub metrics: Metrics,
    /// The token that the operator's page must send.
    pub operator_token: String,
    /// The address of the shop's web service, which has the checkout.
    pub shop: Option<String>,
}

/// An address that is reserved for the pages before they are served: gateways need the pages' origin at their start.
#[derive(Debug)]
pub struct PagesAddress {
    listener: TcpListener,
    port: u16,
}

impl PagesAddress {
    /// Takes a free port.
    pub async fn reserve() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port })
    }

    /// The pages' origin, as browsers write it.
    pub fn origin(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    /// Serves the pages until the returned value is dropped.
    pub fn open(self, context: PagesContext) -> Pages {
        let (origin, port) = (self.origin(), self.port);
        let policy = policy(&context.regions);
        let server = Arc::new(PagesServer {
            context,
            client: reqwest::Client::new(),
            policy,
            hosts: [format!("localhost:{port}"), format!("127.0.0.1:{port}")],
        });
        let router = Router::new()
            .route("/", get(|| async { redirect("/buyer/") }))
            .route("/buyer/settings.json", get(buyer_settings))
            .route("/operator/settings.json", get(operator_settings))
            .route("/operator/figures.json", get(figures))
            .route("/local/token", post(login))
            .route("/shop/", any(shop::forward))
            .route("/shop/{*path}", any(shop::forward))
            .route("/{*path}", get(file))
            .layer(from_fn_with_state(server.clone(), guard))
            .with_state(server);
        let listener = self.listener;
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Pages { origin, serving }
    }
}

/// Pages that are being served.
#[derive(Debug)]
pub struct Pages {
    origin: String,
    serving: JoinHandle<()>,
}

impl Pages {
    /// The buyer's page, in `region`.
    pub fn buyer(&self, region: &str) -> String {
        format!("{}/buyer/?region={region}", self.origin)
    }

    /// The shop's checkout of an item.
    pub fn checkout(&self, item_id: &str) -> String {
        format!("{}/shop/?item={item_id}", self.origin)
    }

    /// The operator's page.
    pub fn operator(&self) -> String {
        format!("{}/operator/", self.origin)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[derive(Debug)]
struct PagesServer {
    context: PagesContext,
    client: reqwest::Client,
    policy: HeaderValue,
    hosts: [String; 2],
}

/// A content security policy that allows the pages' own files, and calls to the regions.
fn policy(regions: &[PageRegion]) -> HeaderValue {
    let live = |region: &PageRegion| region.live.split_inclusive('/').take(3).collect::<String>();
    let mut connect: Vec<String> = vec!["'self'".into()];
    connect.extend(regions.iter().map(|region| region.api.clone()));
    connect.extend(regions.iter().map(|region| live(region).trim_end_matches('/').to_owned()));
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src {}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
        connect.join(" ")
    );
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

/// Refuses requests with another host name (DNS rebinding), and adds the same strict headers to every answer.
async fn guard(State(server): State<Arc<PagesServer>>, request: Request, next: Next) -> Response<Body> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let is_ours = server.hosts.iter().any(|ours| ours == host);
    let mut response = if is_ours {
        next.run(request).await
    } else {
        json_response(
            StatusCode::MISDIRECTED_REQUEST,
            &json!({ "message": "this server does not serve that host name" }),
        )
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, server.policy.clone());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let own = HeaderValue::from_static("same-origin");
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), own.clone());
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), own);
    response
}

async fn file(Path(path): Path<String>) -> Response<Body> {
    match files::read(&path).await {
        Some((kind, content)) => with_type(Response::new(Body::from(content)), kind),
        None => json_response(StatusCode::NOT_FOUND, &json!({ "message": "there is no such page" })),
    }
}

async fn buyer_settings(State(server): State<Arc<PagesServer>>) -> Response<Body> {
    let context = &server.context;
    let shop = context.shop.as_ref().map(|_| "/shop/");
    let settings = json!({ "item_id": context.item_id, "regions": context.regions, "shop": shop });
    json_response(StatusCode::OK, &settings)
}

async fn operator_settings(State(server): State<Arc<PagesServer>>) -> Response<Body> {
    buyer_settings(State(server)).await
}

async fn figures(State(server): State<Arc<PagesServer>>, headers: HeaderMap) -> Response<Body> {
    let shown = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let token = server.context.operator_token.as_bytes();
    if shown.is_none_or(|shown| verify_slices_are_equal(shown, token).is_err()) {
        let mut response = json_response(
            StatusCode::UNAUTHORIZED,
            &json!({ "message": "this is not the operator's token" }),
        );
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    match serde_json::to_value(server.context.metrics.results()) {
        Ok(results) => json_response(StatusCode::OK, &results),
        Err(_) => json_response(
            StatusCode::INTERNAL_SERVER_ERROR,
            &json!({ "message": "the figures could not be encoded" }),
        ),
    }
}

/// The body of a login.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    buyer: String,
}

/// Returns a token for any buyer name. The body must be JSON, which a form of a foreign page cannot send.
async fn login(State(server): State<Arc<PagesServer>>, headers: HeaderMap, body: Body) -> Response<Body> {
    let is_json = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == b"application/json");
    let body = axum::body::to_bytes(body, MAX_BODY_BYTES).await.unwrap_or_default();
    let login: Option<Login> = serde_json::from_slice(&body).ok().filter(|_| is_json);
    let buyer = login.and_then(|login| UserToken::parse(login.buyer).ok());
    let Some(buyer) = buyer else {
        let text = "send {\"buyer\": NAME} as application/json; a name is 1 to 255 visible ASCII characters";
        return json_response(StatusCode::BAD_REQUEST, &json!({ "message": text }));
    };
    match server.context.identity.token(buyer.as_str()) {
        Ok(token) => json_response(StatusCode::OK, &json!({ "token": token })),
        Err(_) => json_response(
            StatusCode::INTERNAL_SERVER_ERROR,
            &json!({ "message": "the token could not be signed" }),
        ),
    }
}

fn json_response(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    with_type(response, "application/json")
}

fn redirect(path: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::FOUND;
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(path));
    response
}

fn with_type(mut response: Response<Body>, kind: &'static str) -> Response<Body> {
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
