//! A function that panics on request, served in the same way as order-intake.

use lambda_http::http::StatusCode;
use shared::{http, problem::Problem, telemetry::Telemetry};
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let telemetry = Telemetry::start("nowhere")?;
    http::serve(telemetry, |request| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        match request.uri().path() {
            "/panic" => panic!("as requested"),
            "/refuse" => Err(Problem::NoSuchItem),
            _ => http::json(StatusCode::OK, &"alive"),
        }
    })
    .await
}
