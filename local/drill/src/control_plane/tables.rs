//! DynamoDB: calls are passed on to an emulator, as calls of one region whatever the caller's region.

use super::Call;
use super::api_error::{ApiError, respond};
use axum::body::Body;
use axum::http::Response;
use local::aws::emulators::authorization;

/// The client of the emulator that keeps the tables.
#[derive(Debug)]
pub(super) struct Tables {
    url: String,
    home: String,
    client: reqwest::Client,
}

impl Tables {
    pub(super) fn new(url: &str, home: &str) -> Self {
        Self { url: url.to_owned(), home: home.to_owned(), client: reqwest::Client::new() }
    }

    pub(super) async fn pass_on(&self, call: &Call) -> Response<Body> {
        let headers = ["x-amz-target", "content-type"];
        let request =
            self.client.post(&self.url).header("authorization", authorization(&self.home, "dynamodb"));
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
