//! A call's error, as the service model has it.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Map, Value, json};

/// An error answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    status: u16,
    code: &'static str,
    message: String,
    /// Further members, such as `Item`.
    members: Map<String, Value>,
}

impl Failure {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: 400, code, message: message.into(), members: Map::new() }
    }

    /// The request is not as the service wants it.
    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationException", message)
    }

    /// The service has what this stand-in lacks. A test that meets it must not pass.
    pub(super) fn unsupported(what: impl std::fmt::Display) -> Self {
        eprintln!("the stand-in of DynamoDB does not have {what}");
        Self::validation(format!("the stand-in of DynamoDB does not have {what}"))
    }

    pub(super) fn not_found(what: &str) -> Self {
        Self::new("ResourceNotFoundException", format!("Requested resource not found: {what}"))
    }

    /// A failure inside the service. A write may have been executed.
    pub(super) fn internal() -> Self {
        Self { status: 500, ..Self::new("InternalServerError", "Internal server error") }
    }

    pub(super) fn expired_iterator() -> Self {
        Self::new("ExpiredIteratorException", "The shard iterator has expired")
    }

    /// A failure of a call on a stream, drawn from those that the service model allows for it.
    pub(super) fn of_stream(operation: &str, chance: &mut SmallRng) -> Self {
        match (operation, chance.random_range(0..3)) {
            ("GetRecords", 0) => Self::expired_iterator(),
            ("GetRecords", 1) => Self::new("LimitExceededException", "The request rate is too high"),
            _ => Self::internal(),
        }
    }

    /// A call beyond the throughput. The documents name both errors, and not which of them an on-demand table gives for a
    /// partition: `is_provisioned` is drawn.
    pub(super) fn throttled(reason: &str, resource: &str, is_provisioned: bool) -> Self {
        let (code, member) = match is_provisioned {
            true => ("ProvisionedThroughputExceededException", "ThrottlingReasons"),
            false => ("ThrottlingException", "throttlingReasons"),
        };
        Self::new(code, "The request was denied because of throttling")
            .with(member, json!([{ "reason": reason, "resource": resource }]))
    }

    pub(super) fn with(mut self, name: &str, value: Value) -> Self {
        self.members.insert(name.to_owned(), value);
        self
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let space = match self.code {
            "ValidationException" | "UnknownOperationException" => "com.amazon.coral.validate",
            _ => "com.amazonaws.dynamodb.v20120810",
        };
        let mut body = self.members;
        body.insert("__type".into(), format!("{space}#{}", self.code).into());
        // Streams and tables share one protocol, in which the member is written small.
        body.insert("message".into(), self.message.into());
        respond(self.status, &Value::Object(body))
    }
}

pub(super) fn respond(status: u16, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = axum::http::HeaderValue::from_static("application/x-amz-json-1.0");
    response.headers_mut().insert("content-type", kind);
    response
}
