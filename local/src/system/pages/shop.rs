//! Passes `/shop/` on to the shop's web service, as a shop's web server or CDN does. So both pages have one origin, and
//! the buyer's token stays in the tab's `sessionStorage`.

use super::{PagesServer, json_response};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{Response, StatusCode};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const MAX_BODY_BYTES: usize = 16 * 1_024;
/// Longer than the shop lets a buyer wait.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

pub(super) async fn forward(State(server): State<Arc<PagesServer>>, request: Request) -> Response<Body> {
    let Some(shop) = &server.context.shop else {
        return json_response(StatusCode::NOT_FOUND, &json!({ "message": "there is no shop here" }));
    };
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY_BYTES).await else {
        return json_response(StatusCode::PAYLOAD_TOO_LARGE, &json!({ "message": "the body is too long" }));
    };
    let path = parts.uri.path_and_query().map_or("/shop/", |path| path.as_str());
    let mut forwarded = server.client.request(parts.method, format!("{shop}{path}")).timeout(ANSWER_LIMIT);
    // The keys of the bus and of the card provider are not passed on.
    for name in [AUTHORIZATION, CONTENT_TYPE] {
        if let Some(value) = parts.headers.get(&name) {
            forwarded = forwarded.header(name, value);
        }
    }
    let answer = async {
        let answer = forwarded.body(body).send().await?;
        let (status, kind) = (answer.status(), answer.headers().get(CONTENT_TYPE).cloned());
        Ok::<_, reqwest::Error>((status, kind, answer.bytes().await?))
    };
    match answer.await {
        Ok((status, kind, body)) => {
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = status;
            response.headers_mut().extend(kind.map(|kind| (CONTENT_TYPE, kind)));
            response
        }
        Err(_) => json_response(StatusCode::BAD_GATEWAY, &json!({ "message": "the shop does not answer" })),
    }
}
