//! The HTTP API of a region: turns requests into API Gateway v2 events and answers into responses, as AWS does.

mod cors;

use crate::aws::environments::Throttled;
use crate::aws::lambda::{Invoke, Invoked, timeout_of};
use crate::system::clock::micros_now;
use anyhow::Result;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri};
use axum::serve::ListenerExt;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A header that only this gateway adds: when the request arrived, in microseconds since the
/// epoch. AWS has milliseconds, and sends them to the function alone.
pub const ARRIVED_AT: &str = "x-local-arrived-at";
/// API Gateway's limit for a request's body.
const MAX_BODY_BYTES: usize = 10 * 1024 * 1024;

/// A running gateway.
#[derive(Debug)]
pub struct HttpGateway {
    port: u16,
    entrance: Entrance,
    serving: JoinHandle<()>,
}

/// Where requests enter without a connection. An order of a crowd would need two sockets of this program.
#[derive(Clone)]
pub struct Entrance(Arc<GatewayState>);

struct GatewayState {
    region: String,
    is_main: bool,
    invoke: Invoke,
    clock_offset_ms: i64,
    answer_limit: Duration,
    origins: Vec<String>,
    requests: AtomicU64,
}

/// A route of template.yaml.
struct Route {
    key: &'static str,
    function: &'static str,
    item_id: String,
    /// Whether callers need IAM rights. Only main has such routes.
    is_guarded: bool,
}

impl HttpGateway {
    /// Opens a region's gateway on a free port. Only main takes payments. The gateway's clock is off by
    /// `clock_offset_ms`, and it waits for a function for `answer_limit`. Pages of `origins` may call it from a browser.
    pub async fn open(
        region: &str,
        is_main: bool,
        invoke: Invoke,
        clock_offset_ms: i64,
        answer_limit: Duration,
        origins: Vec<String>,
    ) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let gateway = GatewayState {
            region: region.to_owned(),
            is_main,
            invoke,
            clock_offset_ms,
            answer_limit,
            origins,
            requests: AtomicU64::new(0),
        };
        let entrance = Entrance(Arc::new(gateway));
        let router = axum::Router::new().fallback(answer).with_state(entrance.0.clone());
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { port, entrance, serving })
    }

    /// Where requests enter without a connection.
    pub fn entrance(&self) -> Entrance {
        self.entrance.clone()
    }

    /// The address for buyers.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for HttpGateway {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Entrance {
    /// Answers a request that arrived at `arrived_at`, in microseconds since the epoch.
    pub async fn send(&self, request: Request, arrived_at: u64) -> Response<Body> {
        answer_to(self.0.clone(), request, arrived_at).await
    }
}

impl Debug for Entrance {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entrance").field(&self.0.region).finish()
    }
}

async fn answer(State(gateway): State<Arc<GatewayState>>, request: Request) -> Response<Body> {
    answer_to(gateway, request, micros_now()).await
}

async fn answer_to(gateway: Arc<GatewayState>, request: Request, arrived_at: u64) -> Response<Body> {
    let (parts, body) = request.into_parts();
    if let Some(answer) = cors::preflight(&gateway.origins, &parts.method, &parts.headers) {
        return answer;
    }
    let origin = cors::allowed(&gateway.origins, &parts.headers);
    let mut response = serve(&gateway, parts, body, arrived_at).await;
    if let Some(origin) = origin {
        cors::open(&mut response, origin);
    }
    response
}

async fn serve(gateway: &GatewayState, parts: Parts, body: Body, arrived_at: u64) -> Response<Body> {
    let Some(route) =
        route(parts.method.as_str(), parts.uri.path()).filter(|route| gateway.is_main || !route.is_guarded)
    else {
        return message(StatusCode::NOT_FOUND, "Not Found");
    };
    if route.is_guarded && !is_signed(&parts.headers) {
        return message(StatusCode::FORBIDDEN, "Forbidden");
    }
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY_BYTES).await else {
        return message(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large");
    };
    let event = gateway.event(&route, parts.method.as_str(), &parts.uri, &parts.headers, &body, arrived_at);
    let limit = timeout_of(route.function).map_or(gateway.answer_limit, |own| own.min(gateway.answer_limit));
    let call = gateway.invoke.call_within(route.function, event.to_string(), limit);
    let mut response = match timeout(gateway.answer_limit, call).await {
        Ok(Ok(Invoked::Answer(answer))) => from_function(&answer)
            .unwrap_or_else(|| message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")),
        Ok(Ok(Invoked::FunctionError(_))) => {
            message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
        }
        Ok(Err(error)) if error.is::<Throttled>() => throttled(rand::random()),
        Ok(Err(_)) | Err(_) => message(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable"),
    };
    response.headers_mut().insert(ARRIVED_AT, HeaderValue::from(arrived_at));
    response
}

fn route(method: &str, path: &str) -> Option<Route> {
    let steps: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let (key, function, item_id) = match (method, steps.as_slice()) {
        (_, ["items", item_id]) => ("ANY /items/{item_id}", "order-status", item_id),
        (_, ["items", item_id, "orders"]) => ("ANY /items/{item_id}/orders", "order-intake", item_id),
        (_, ["items", item_id, "orders", "me"]) => {
            ("ANY /items/{item_id}/orders/me", "order-status", item_id)
        }
        ("POST", ["items", item_id, "payments"]) => {
            ("POST /items/{item_id}/payments", "order-confirm", item_id)
        }
        ("GET", ["items", item_id, "reservations"]) => {
            ("GET /items/{item_id}/reservations", "order-confirm", item_id)
        }
        ("GET", ["items", item_id, "sales"]) => ("GET /items/{item_id}/sales", "order-confirm", item_id),
        _ => return None,
    };
    let item_id = percent_decode_str(item_id).decode_utf8_lossy().into_owned();
    Some(Route { key, function, item_id, is_guarded: function == "order-confirm" })
}

/// Whether a request claims to be signed for IAM. The signature is not verified here.
fn is_signed(headers: &HeaderMap) -> bool {
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok());
    authorization.is_some_and(|value| value.starts_with("AWS4-HMAC-SHA256 "))
}

impl GatewayState {
    fn event(
        &self,
        route: &Route,
        method: &str,
        uri: &Uri,
        headers: &HeaderMap,
        body: &[u8],
        arrived_at: u64,
    ) -> Value {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let text = std::str::from_utf8(body);
        let headers: Map<String, Value> = headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into()))
            .collect();
        let path = percent_decode_str(uri.path()).decode_utf8_lossy();
        let epoch_ms = (arrived_at / 1000).saturating_add_signed(self.clock_offset_ms);
        let mut event = json!({
            "version": "2.0",
            "routeKey": route.key,
            "rawPath": path,
            "rawQueryString": uri.query().unwrap_or_default(),
            "headers": headers,
            "pathParameters": { "item_id": route.item_id },
            "requestContext": {
                "accountId": "123456789012",
                "apiId": "local",
                "domainName": format!("local.{}.example", self.region),
                "domainPrefix": "local",
                "http": {
                    "method": method,
                    "path": path,
                    "protocol": "HTTP/1.1",
                    "sourceIp": "127.0.0.1",
                    "userAgent": headers.get("user-agent").cloned().unwrap_or_default(),
                },
                "requestId": format!("{}-{number}", self.region),
                "routeKey": route.key,
                "stage": "$default",
                "time": "01/Jan/2026:00:00:00 +0000",
                "timeEpoch": epoch_ms,
            },
            "isBase64Encoded": text.is_err(),
        });
        if let Some(query) = uri.query() {
            let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let pairs: Map<String, Value> =
                pairs.map(|(name, value)| (decode(name), decode(value).into())).collect();
            event["queryStringParameters"] = pairs.into();
        }
        if !body.is_empty() {
            event["body"] = text.map_or_else(|_| STANDARD.encode(body), str::to_owned).into();
        }
        event
    }
}

fn from_function(answer: &Value) -> Option<Response<Body>> {
    let status = StatusCode::from_u16(answer.get("statusCode")?.as_u64()?.try_into().ok()?).ok()?;
    let text = answer.get("body").and_then(Value::as_str).unwrap_or_default();
    let body = match answer.get("isBase64Encoded").and_then(Value::as_bool) {
        Some(true) => STANDARD.decode(text).ok()?,
        _ => text.as_bytes().to_vec(),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = answer.get("headers").and_then(Value::as_object).into_iter().flatten();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        response.headers_mut().insert(name, HeaderValue::from_str(value.as_str()?).ok()?);
    }
    Some(response)
}

/// The answer to a request whose invocation Lambda has throttled. The documents of HTTP APIs do not name its status.
fn throttled(is_internal: bool) -> Response<Body> {
    match is_internal {
        true => message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"),
        false => message(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable"),
    }
}

fn message(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(json!({ "message": text }).to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::lambda::Emulator;

    #[tokio::test]
    async fn a_request_without_a_connection_is_answered_as_one_with_a_connection() {
        // It has no function.
        let invoke = Emulator::start().await.unwrap().invoke_api();
        let gateway = HttpGateway::open("eu-west-1", true, invoke, 0, Duration::from_secs(5), Vec::new());
        let gateway = gateway.await.unwrap();
        // Not found; forbidden; and a function that cannot be invoked.
        for (path, status) in [("/", 404), ("/items/a/payments", 403), ("/items/a/orders", 503)] {
            let request = Request::post(path).body(Body::empty()).unwrap();
            assert_eq!(gateway.entrance().send(request, micros_now()).await.status().as_u16(), status);
            let url = format!("{}{path}", gateway.url());
            let response = reqwest::Client::new().post(url).send().await.unwrap();
            assert_eq!(response.status().as_u16(), status);
        }
    }

    #[test]
    fn routes_are_those_of_the_template() {
        let template = include_str!("../../../template.yaml");
        for path in ["/items/a", "/items/a/orders", "/items/a/orders/me", "/items/a/payments"] {
            let route = route("POST", path).unwrap();
            let (_, template_path) = route.key.split_once(' ').unwrap();
            assert_eq!(route.is_guarded, path.ends_with("/payments"));
            let key = |method: &str| format!("RouteKey: {method} {template_path}\n");
            assert!(["ANY", "POST"].iter().any(|method| template.contains(&key(method))), "{template_path}");
            assert_eq!(route.item_id, "a");
        }
        for path in ["/", "/items", "/items/a/b", "/items/a/orders/me/x", "//items/a"] {
            assert!(route("POST", path).is_none(), "{path}");
        }
        for (method, path) in [("GET", "payments"), ("POST", "sales"), ("POST", "reservations")] {
            assert!(route(method, &format!("/items/a/{path}")).is_none(), "{method} {path}");
        }
        for path in ["sales", "reservations"] {
            let route = route("GET", &format!("/items/a/{path}")).unwrap();
            assert!(route.is_guarded && template.contains(&format!("RouteKey: {}\n", route.key)), "{path}");
        }
        assert_eq!(route("POST", "/items/%7Bx%7D%00/orders").unwrap().item_id, "{x}\0");
    }
}
