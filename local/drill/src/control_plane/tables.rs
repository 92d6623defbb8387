//! DynamoDB: calls are passed on to a stand-in. Those on the global table are calls of one region, whatever the caller's
//! region.

use super::Call;
use super::api_error::{ApiError, respond};
use axum::body::Body;
use axum::http::Response;
use local::aws::emulators::authorization;

/// The client of the stand-in that keeps the tables.
#[derive(Debug)]
pub(super) struct Tables {
    url: String,
    home: String,
    /// The name of the table that every region reads and writes.
    global: String,
    client: reqwest::Client,
}

impl Tables {
    pub(super) fn new(url: &str, home: &str, global: &str) -> Self {
        let [url, home, global] = [url, home, global].map(str::to_owned);
        Self { url, home, global, client: reqwest::Client::new() }
    }

    /// Whether the call is on the global table, which is available as long as one region is.
    pub(super) fn is_global(&self, call: &Call) -> bool {
        let request: serde_json::Value = serde_json::from_slice(&call.body).unwrap_or_default();
        request["TableName"] == self.global.as_str()
    }

    pub(super) async fn pass_on(&self, call: &Call) -> Response<Body> {
        let region = if self.is_global(call) { &self.home } else { &call.region };
        let headers = ["x-amz-target", "content-type"];
        let request = self.client.post(&self.url).header("authorization", authorization(region, "dynamodb"));
        let request = headers.iter().fold(request, |request, name| match call.parts.headers.get(*name) {
            Some(value) => request.header(*name, value.as_bytes()),
            None => request,
        });
        let answered = async {
            let response = request.body(call.body.to_vec()).send().await?;
            let status = response.status().as_u16();
            reqwest::Result::Ok((status, response.text().await?))
        };
        match answered.await {
            Ok((status, body)) => respond(status, "application/x-amz-json-1.0", body),
            Err(error) => ApiError::new(500, "InternalServerError", error.to_string()).into_json(),
        }
    }
}
