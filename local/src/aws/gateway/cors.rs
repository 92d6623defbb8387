//! CORS as API Gateway does it for an HTTP API: it answers preflights itself, and adds its headers to the
//! answers of functions. Without origins, CORS is off.

use axum::body::Body;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

/// As in template.yaml.
const METHODS: &str = "GET,POST,DELETE";
const HEADERS: &str = "authorization,content-type";
const EXPOSED: &str = "retry-after";
const MAX_AGE_SECONDS: &str = "600";

/// The answer to a preflight; `None` if the request is not one.
pub(super) fn preflight(origins: &[String], method: &Method, headers: &HeaderMap) -> Option<Response<Body>> {
    let is_preflight = method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if origins.is_empty() || !is_preflight {
        return None;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Some(origin) = allowed(origins, headers) {
        let answer = response.headers_mut();
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        insert(answer, ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        insert(answer, ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        insert(answer, ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS);
    }
    Some(response)
}

/// The request's origin, if its pages may read the answer.
pub(super) fn allowed(origins: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    headers
        .get(ORIGIN)
        .filter(|origin| origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()))
        .cloned()
}

/// Lets a page of `origin` read `response`.
pub(super) fn open(response: &mut Response<Body>, origin: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    insert(headers, ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(VARY, HeaderValue::from_static("origin"));
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: &str = "https://shop.example";

    fn request(origin: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, origin.parse().unwrap());
        headers.insert(ACCESS_CONTROL_REQUEST_METHOD, "POST".parse().unwrap());
        headers
    }

    #[test]
    fn only_configured_origins_are_allowed() {
        let origins = [SHOP.to_owned()];
        let answer = |origin| preflight(&origins, &Method::OPTIONS, &request(origin)).unwrap();
        assert_eq!(answer(SHOP).headers()[ACCESS_CONTROL_ALLOW_ORIGIN], SHOP);
        for other in ["https://shop.example.evil", "http://shop.example", "https://shop.exampl", "null", "*"]
        {
            assert!(answer(other).headers().is_empty(), "{other}");
        }
        assert!(preflight(&origins, &Method::POST, &request(SHOP)).is_none());
        assert!(preflight(&[], &Method::OPTIONS, &request(SHOP)).is_none());
    }

    #[test]
    fn the_constants_are_those_of_the_template() {
        let template = include_str!("../../../../template.yaml");
        for (name, value) in
            [("AllowMethods", METHODS), ("AllowHeaders", HEADERS), ("ExposeHeaders", EXPOSED)]
        {
            let line = format!("{name}: [{}]\n", value.replace(',', ", "));
            assert!(template.contains(&line), "{line}");
        }
        assert!(template.contains(&format!("MaxAge: {MAX_AGE_SECONDS}\n")));
    }
}
