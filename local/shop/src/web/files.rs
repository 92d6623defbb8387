//! The files of the checkout page, which are part of the program.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Response, StatusCode};

/// What the page shares with the buyer's page is the same file.
const FILES: [(&str, &str, &str); 8] = [
    ("index.html", "text/html; charset=utf-8", include_str!("../../../../pages/shop/index.html")),
    ("page.js", "text/javascript; charset=utf-8", include_str!("../../../../pages/shop/page.js")),
    ("view.js", "text/javascript; charset=utf-8", include_str!("../../../../pages/shop/view.js")),
    ("session.js", "text/javascript; charset=utf-8", include_str!("../../../../pages/buyer/session.js")),
    ("words.js", "text/javascript; charset=utf-8", include_str!("../../../../pages/buyer/words.js")),
    ("look.css", "text/css; charset=utf-8", include_str!("../../../../pages/look.css")),
    ("style.css", "text/css; charset=utf-8", include_str!("../../../../pages/buyer/style.css")),
    ("icon.svg", "image/svg+xml", include_str!("../../../../pages/buyer/icon.svg")),
];

pub(super) fn read(name: &str) -> Response<Body> {
    let Some((_, kind, content)) = FILES.iter().find(|(file, ..)| *file == name) else {
        let mut response = Response::new(Body::from("there is no such page"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    };
    let mut response = Response::new(Body::from(*content));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
