//! The error of a refused call, in AWS's formats.

use super::xml::{element, text};
use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl ApiError {
    pub(super) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// The error for what this control plane does not implement.
    pub(super) fn unknown(what: &str) -> Self {
        Self::new(
            400,
            "InvalidAction",
            format!("the control plane on this machine does not implement {what}"),
        )
    }

    /// For services that speak the query protocol.
    pub(super) fn as_xml(&self) -> Response<Body> {
        let kind = if self.status < 500 { "Sender" } else { "Receiver" };
        let error = [text("Type", kind), text("Code", self.code), text("Message", &self.message)].concat();
        let body = element("ErrorResponse", &[element("Error", &error), text("RequestId", "local")].concat());
        respond(self.status, "text/xml", body)
    }

    /// For services that speak JSON.
    pub(super) fn into_json(self) -> Response<Body> {
        let body = json!({ "Type": "User", "message": self.message, "Message": self.message });
        let mut response = respond(self.status, "application/json", body.to_string());
        response.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static(self.code));
        response
    }
}

/// A response in JSON.
pub(super) fn json_answer(status: u16, body: &Value) -> Response<Body> {
    respond(status, "application/json", body.to_string())
}

pub(super) fn respond(status: u16, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert("content-type", HeaderValue::from_static(content_type));
    response.headers_mut().insert("x-amzn-requestid", HeaderValue::from_static("local"));
    response
}
