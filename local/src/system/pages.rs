//! The buyer's and the operator's page, served as a shop's own web server would: static files from `pages/`, and
//! strict headers. What a shop has and this machine has not is here as well: a login, which gives a
//! buyer's token to whoever names a buyer, and the operator's figures.

mod files;

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
use axum::routing::{get, post};
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

/// A region, as pages know it.
#[derive(Clone, Debug, Serialize)]
pub struct PageRegion {
    /// Its name.
    pub name: String,
    /// Where its HTTP API is.
    pub api: String,
    /// Where its sockets are.
    pub live: String,
    /// Round trip to main, in milliseconds.
    pub round_trip_ms: f64,
}

impl PageRegion {
    /// What pages are told of a region; `None` where it has no sockets.
    pub fn of(running: &RunningRegion) -> Option<Self> {
        Some(Self {
            name: running.region.name.to_owned(),
            api: running.gateway.url(),
            live: running.live.as_ref()?.sockets.url(),
            round_trip_ms: running.region.round_trip_ms,
        })
    }
}

/// A token that nobody can guess.
pub fn operator_token() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 18]>())
}

/// What the pages are about.
#[derive(Debug)]
pub struct PagesContext {
    /// The item whose page opens first.
    pub item_id: String,
    /// Main first.
    pub regions: Vec<PageRegion>,
    /// Who signs the buyers' tokens.
    pub identity: IdentityProvider,
    /// What the operator's page shows.
    pub metrics: Metrics,
    /// Who knows it is the operator.
    pub operator_token: String,
}

/// An address for the pages, before there is anything to show: gateways must know the pages' origin when they start.
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

    /// Serves the pages until what is returned is dropped.
    pub fn open(self, context: PagesContext) -> Pages {
        let (origin, port) = (self.origin(), self.port);
        let policy = policy(&context.regions);
        let server = Arc::new(PagesServer {
            context,
            policy,
            hosts: [format!("localhost:{port}"), format!("127.0.0.1:{port}")],
        });
        let router = Router::new()
            .route("/", get(|| async { redirect("/buyer/") }))
            .route("/buyer/settings.json", get(buyer_settings))
            .route("/operator/settings.json", get(operator_settings))
            .route("/operator/figures.json", get(figures))
            .route("/local/token", post(login))
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

/// The pages, while they are served.
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
    policy: HeaderValue,
    hosts: [String; 2],
}

/// Nothing but the pages' own files, and calls of the regions.
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

/// Who came by another name is sent away (a foreign page that has its own name point here), and every answer has
/// the same strict headers.
async fn guard(State(server): State<Arc<PagesServer>>, request: Request, next: Next) -> Response<Body> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let is_ours = server.hosts.iter().any(|ours| ours == host);
    let mut response = if is_ours {
        next.run(request).await
    } else {
        json_response(StatusCode::MISDIRECTED_REQUEST, &json!({ "message": "no such host" }))
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
        None => json_response(StatusCode::NOT_FOUND, &json!({ "message": "no such page" })),
    }
}

async fn buyer_settings(State(server): State<Arc<PagesServer>>) -> Response<Body> {
    let context = &server.context;
    json_response(StatusCode::OK, &json!({ "item_id": context.item_id, "regions": context.regions }))
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
            &json!({ "message": "the figures cannot be written" }),
        ),
    }
}

/// Whom the login is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    buyer: String,
}

/// A token for whoever a buyer says they are. Only JSON: a form of a foreign page cannot send it.
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
        Err(_) => {
            json_response(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "message": "no token can be signed" }))
        }
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
